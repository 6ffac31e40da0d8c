"""What the planner says of this machine after a calibration, beside what training then takes.

    python bench/predict_here.py                       # writes bench/results/predict_here.json

Three steps are predicted and measured: pre-training of the quickstart's model (its own recipe and data, compiled,
bfloat16 where the processor has it) on one process, and a small model on two processes, once with its state sharded
(``dp_shard=2``) and once with its matrices cut (``tp=2``). For each, ``athanor calibrate --for RECIPE`` measures the
machine with as many processes; then ``athanor pretrain`` runs with that cluster: its prediction is the event that the
stage writes before its first step, and the measurement is the median ``step_s`` of its metrics (the first steps, which
compile and warm up, left out). So what is compared is what a user sees.

``--quick`` calibrates quickly and trains a few steps, to see that everything works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from athanor.report.read import read_run
from bench.common import environment, show

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "predict_here.json"
QUICKSTART = ROOT / "athanor" / "quickstart" / "recipe.yaml"
#: Predicted over measured may be off by this much.
TARGET = 0.10
WARM_UP = 4

#: The shape of ``bench/parallel_cpu.py``, on the same data as the quickstart's first stage.
SMALL: dict[str, Any] = {
    "name": "small",
    "model": {
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 512,
        "norm_placement": "pre",
        "init": "scaled-residual",
    },
    "tokenizer": {"vocab_size": 2048, "train_bytes": 2000000},
    "data": {"sources": {"code": {"kind": "stdlib", "options": {"part": "code"}}}},
    "train": {"seq_len": 512, "global_batch_tokens": 4096, "precision": "fp32", "tensorboard": False},
}


@dataclass(frozen=True, slots=True)
class Case:
    """One prediction: a recipe with its changes, and on how many processes."""

    name: str
    recipe: str  #: ``quickstart`` or ``small``
    processes: int
    changes: tuple[str, ...]


CASES = (
    Case("quickstart pre-training, 1 process", "quickstart", 1, ()),
    Case("small, dp_shard=2", "small", 2, ("parallel.dp_shard=2",)),
    Case("small, tp=2", "small", 2, ("parallel.tp=2",)),
)


def recipes(folder: Path, steps: int) -> dict[str, Path]:
    """The two recipes as files; the quickstart's with its first stage alone, ``steps`` long."""
    quickstart = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    first = quickstart["train"]["stages"][0]
    quickstart["train"]["stages"] = [{**first, "steps": steps}]
    small = {**SMALL, "train": {**SMALL["train"], "steps": steps}}
    found = {}
    for name, tree in (("quickstart", quickstart), ("small", small)):
        found[name] = folder / f"{name}.yaml"
        found[name].write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return found


def athanor(words: Sequence[str], processes: int, cluster: Path | None = None) -> None:
    """Run a command of Athanor, on several processes where asked; RuntimeError with its output where it fails."""
    launch = ["launch", "--nproc", str(processes), "--"] if processes > 1 else []
    env = dict(os.environ)
    if cluster is not None:
        env["ATHANOR_CLUSTER"] = str(cluster)
    command = [sys.executable, "-m", "athanor", *launch, *words]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stderr[-2000:]}")


def predict_and_measure(case: Case, recipe: Path, folder: Path, quick: bool) -> dict[str, Any]:
    """Calibrate, train, and read both figures from the run's files."""
    cluster = folder / f"{case.recipe}-{case.processes}.yaml"
    if not cluster.exists():
        fast = ["--quick"] if quick else []
        athanor(["calibrate", *fast, "--for", str(recipe), "--out", str(cluster)], case.processes)
    run = folder / case.name.replace(" ", "-").replace(",", "")
    data = folder / f"{case.recipe}-data"
    if not data.exists():
        athanor(["data", "build", str(recipe), "--out", str(data)], 1)
    athanor(["pretrain", str(recipe), *case.changes, "--data", str(data), "--out", str(run)], case.processes, cluster)
    return row(case, run)


def row(case: Case, run: Path) -> dict[str, Any]:
    """Figures of one run. RuntimeError where it made no prediction."""
    files = read_run(run)
    said = [event for event in files.events if event.get("kind") == "prediction"]
    if not said:
        why = [event.get("why") for event in files.events if event.get("kind") == "no_prediction"]
        raise RuntimeError(f"{case.name}: the run made no prediction ({why})")
    lines = files.stages[0].lines[WARM_UP:]
    steps_s = [float(line["step_s"]) for line in lines]
    measured, predicted = statistics.median(steps_s), float(said[-1]["step_s"])
    quarters = statistics.quantiles(steps_s, n=4)
    parts = {key: said[-1][key] for key in ("pipeline_s", "data_parallel_s", "optimizer_s")}
    return {
        "case": case.name,
        "predicted_s": predicted,
        "measured_s": measured,
        "error": predicted / measured - 1,
        "spread": (quarters[2] - quarters[0]) / measured,
        "data_s": statistics.median(float(line["data_s"]) for line in lines),
        "interpolated": said[-1]["interpolated_shapes"],
        "met": abs(predicted / measured - 1) <= TARGET,
        **parts,
        "steps_s": steps_s,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="quick calibration, few steps; no bar is judged")
    parser.add_argument("--steps", type=int, help="training steps of each run (default 40)")
    parser.add_argument("--only", nargs="+", type=int, choices=range(len(CASES)), help="cases by number")
    parser.add_argument("--keep", type=Path, help="folder for recipes, clusters and runs, kept")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    steps = args.steps or (12 if args.quick else 40)
    chosen = CASES if args.only is None else [CASES[i] for i in args.only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        paths = recipes(folder, steps)
        rows = []
        for case in chosen:
            print(f"{case.name}: calibrate, predict, measure", file=sys.stderr, flush=True)
            rows.append(predict_and_measure(case, paths[case.recipe], folder, args.quick))
        columns = ("case", "predicted_s", "measured_s", "error", "spread", "data_s", "interpolated", "met")
        title = f"Predicted and measured seconds of a step on this machine ({steps} steps; bar: {TARGET:.0%})"
        show(title, columns, [[f"{r[c]:+.1%}" if c == "error" else r[c] for c in columns] for r in rows])
        clusters = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*-[12].yaml"))}
    out = args.out or (None if args.quick or args.only else RESULT)
    result = {"environment": environment(1), "quick": args.quick, "rows": rows, "clusters": clusters}
    if out is None:
        print(json.dumps([{k: v for k, v in r.items() if k != "steps_s"} for r in rows], indent=1))
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

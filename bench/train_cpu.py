"""Training throughput on a CPU, side by side: Athanor, transformers, LitGPT and a textbook decoder in one run.

    python bench/train_cpu.py --threads 1 2 --out bench/results/train_cpu.json

Four tables for each thread count (a worker process of its own): tokens/s on full rows, useful tokens/s on documents of
mixed length, held-out loss at equal wall time on standard-library text, and the loader's share. Steps of all contenders
are interleaved, round after round, so that a change of the machine's speed meets all; medians and spread are shown.
``--quick`` runs a toy shape in seconds, to see that everything works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from athanor.train.flops import measured_gemm_flops
from athanor.train.precision import compute_dtype
from bench.bars import judge
from bench.common import Shape, Spread, environment, gemm_rate, show, write_result
from bench.contenders import OURS, PEERS
from bench.hosted import Hosted
from bench.workloads import (
    Text,
    Work,
    full_rows,
    loader_works,
    mixed_lengths,
    packed_works,
    padded_works,
    stdlib_text,
    stream_works,
)

FULL = Shape("30m", vocab=8192, width=512, layers=8, heads=8, kv_heads=8, ffn=1408, context=512, rows=8)
TOY = Shape("toy", vocab=512, width=64, layers=2, heads=4, kv_heads=4, ffn=128, context=64, rows=2)
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEARNING_RATE = 1e-3
#: (seconds, useful tokens) of every timed step, by contender
Timings = list[list[tuple[float, int]]]
#: (contender, precision) → the modes it runs in: compiled or not
Modes = Callable[[str, torch.dtype], tuple[bool, ...]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker is asked for; travels as JSON."""

    threads: int
    quick: bool = False
    rounds: int = 5
    compile: bool = True
    contenders: tuple[str, ...] = (*OURS, *PEERS)
    tables: tuple[str, ...] = ("throughput", "mixed", "loss", "loader")
    loss_s: float = 75.0
    documents: int = 400

    @property
    def shape(self) -> Shape:
        """The shape everyone builds."""
        return TOY if self.quick else FULL


def progress(line: str) -> None:
    """One line for whoever waits, on stderr."""
    print(line, file=sys.stderr, flush=True)


def interleave(runs: Sequence[tuple[Hosted, Sequence[Work]]], rounds: int, warmup: int) -> Timings:
    """One step of each in turn, round after round; between rounds the machine's matrix rate in each precision."""
    for at, (contender, works) in enumerate(runs, 1):
        progress(f"warm-up {at}/{len(runs)}: {' '.join(_who(contender).values())}")
        contender.load(works)
        for i in range(warmup):
            contender.step(i, LEARNING_RATE)
    out: Timings = [[] for _ in runs]
    for i in range(rounds):
        progress(f"round {i + 1}/{rounds}")
        for (contender, works), seen in zip(runs, out, strict=True):
            contender.load(works)  # some run twice, on differently batched documents
            seen.append((contender.step(i, LEARNING_RATE), works[i % len(works)].useful))
    return out


def hosted(options: Options, dtype: torch.dtype, modes: Modes, stack: ExitStack, missing: set[str]) -> list[Hosted]:
    """The contenders that can be built in a precision, each in the modes asked for; what is not installed is noted."""
    out = []
    for compiled in (False, True):
        for name in options.contenders:
            if compiled not in modes(name, dtype):
                continue
            try:
                host = Hosted(name, options.shape, dtype, compiled, options.threads)
                out.append(stack.enter_context(host))
            except ImportError as error:
                missing.add(f"{name}: {error}")
    return out


def all_modes(options: Options) -> Modes:
    """Eager, and compiled where asked for."""
    return lambda name, dtype: (False, True) if options.compile else (False,)


def faster_mode(options: Options, fastest: dict[tuple[str, str], bool]) -> Modes:
    """The mode that was faster on full rows; all where that was not measured."""
    every = all_modes(options)

    def modes(name: str, dtype: torch.dtype) -> tuple[bool, ...]:
        known = fastest.get((name, _precision(dtype)))
        return every(name, dtype) if known is None else (known,)

    return modes


def throughput(options: Options) -> dict[str, Any]:
    """Tokens/s and MFU on full rows: every contender, one precision and mode after the other (memory for all of them at
    once would be 25 GB), steps of a group in turn.

    The matrix rate is taken in every round: on shared machines it changes by a factor within minutes, and MFU is the
    median over rounds of the rate that the model reached by the rate that the machine gave at that time.
    """
    missing: set[str] = set()
    works = [full_rows(options.shape, seed, CPU) for seed in range(2)]
    rows: list[dict[str, Any]] = []
    rates: dict[str, dict[str, list[float]]] = {}
    for precision, dtype in DTYPES.items():
        rates[precision] = {"model_shapes": [], "square_2048": []}
        for compiled in all_modes(options)("", dtype):
            with ExitStack() as stack:
                mode = (compiled,)
                contenders = hosted(options, dtype, lambda name, dtype, mode=mode: mode, stack, missing)  # type: ignore[misc]
                rows += _group(options, contenders, works, rates[precision], dtype)
    return {"rows": rows, "gemm_flops_per_s": rates, "missing": sorted(missing)}


def _group(
    options: Options,
    contenders: Sequence[Hosted],
    works: Sequence[Work],
    rates: dict[str, list[float]],
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """Rounds of one group, and in each the matrix rates; adds these to ``rates``."""
    gemm: list[float] = []
    seen: Timings = [[] for _ in contenders]
    for i in range(options.rounds):
        warmup = (1 if options.quick else 2) if i == 0 else 0
        for steps, new in zip(seen, interleave([(c, works) for c in contenders], 1, warmup), strict=True):
            steps += new
        gemm.append(gemm_rate(options.shape, dtype, CPU))
        rates["square_2048"].append(measured_gemm_flops(CPU, dtype, 256 if options.quick else 2048))
    rates["model_shapes"] += gemm
    return [_throughput_row(options.shape, c, s, gemm) for c, s in zip(contenders, seen, strict=True)]


def _throughput_row(
    shape: Shape, contender: Hosted, steps: Sequence[tuple[float, int]], gemm: Sequence[float]
) -> dict[str, Any]:
    speeds = [useful / s for s, useful in steps]
    spread = Spread.of(speeds)
    reached = Spread.of([speed / rate for speed, rate in zip(speeds, gemm, strict=True)]).median
    return {
        **_who(contender),
        "tokens_per_s": spread.median,
        "spread": spread.spread,
        "mfu_cpu": reached * shape.flops_per_token("causal"),
        "mfu_cpu_full": reached * shape.flops_per_token("full"),
        "step_s": [s for s, _ in steps],
    }


def mixed(options: Options, fastest: dict[tuple[str, str], bool]) -> dict[str, Any]:
    """Useful tokens/s on documents of mixed length: ours packed and isolated; peers padded, or packed with a mask.

    Each contender runs in its faster mode on full rows (``fastest``), or in both where that was not measured.
    """
    shape = options.shape
    lens = mixed_lengths(shape, options.documents, seed=0)
    ours = {"packed, isolated": packed_works(shape, lens, 0, CPU, masked=False)}
    batchings = {
        "padding": padded_works(shape, lens, 0, CPU),
        "concatenated + mask": packed_works(shape, lens, 0, CPU, masked=True),
    }
    packed = ours["packed, isolated"]
    missing: set[str] = set()
    rows = []
    for dtype in DTYPES.values():
        with ExitStack() as stack:
            contenders = hosted(options, dtype, faster_mode(options, fastest), stack, missing)
            runs = [(c, w, works) for c in contenders for w, works in (ours if c.ours else batchings).items()]
            rounds = min(options.rounds, len(packed))
            seen = interleave([(c, works) for c, _, works in runs], rounds, warmup=1 if options.quick else 3)
            for (contender, way, _), steps in zip(runs, seen, strict=True):
                total = sum(u for _, u in steps) / sum(s for s, _ in steps)
                spread = Spread.of([u / s for s, u in steps]).spread
                rows.append({**_who(contender), "batching": way, "useful_tokens_per_s": total, "spread": spread})
    used = sum(work.useful for work in packed) / (len(packed) * shape.tokens)
    return {
        "rows": rows,
        "packing_efficiency": used,
        "mean_length": float(lens.mean()),
        "missing": sorted(missing),
    }


def loss_at_equal_time(options: Options, fastest: dict[tuple[str, str], bool], text: Text) -> dict[str, Any]:
    """Held-out loss after ``loss_s`` seconds of training each, cosine over the time, the same peak learning rate.

    Every contender trains in Athanor's default precision on this machine (a comparison of equals) and in its faster
    mode (``fastest``: compiled or not). They take turns of one step, so that a change of the machine's speed meets all;
    each has its own clock. Time for evaluation and compilation is not counted, the time to make a batch is.
    """
    dtype = compute_dtype("auto", CPU)
    missing: set[str] = set()
    with ExitStack() as stack:
        contenders = hosted(options, dtype, faster_mode(options, fastest), stack, missing)
        racers = [_Racer(c, text, options) for c in contenders]
        progress(f"loss: {len(racers)} contenders in turn, {options.loss_s:g} s each")
        while running := [racer for racer in racers if racer.used_s < options.loss_s]:
            for racer in running:
                racer.step(options.loss_s)
        rows = [racer.row() for racer in racers]
    settings = {"held_out_documents": text.n_held_out, "learning_rate": LEARNING_RATE}
    return {"rows": rows, **settings, "missing": sorted(missing)}


class _Racer:
    """One contender of the loss table with its own clock and data."""

    def __init__(self, contender: Hosted, text: Text, options: Options) -> None:
        self.contender, self.text = contender, text
        shape = options.shape
        self.works = loader_works(text, shape.rows) if contender.ours else stream_works(text, shape, seed=0)
        progress(f"warm-up: {' '.join(_who(contender).values())}")
        for _ in range(1 if options.quick else 2):
            contender.load([next(self.works)])
            contender.step(0, LEARNING_RATE)
        contender.reset()
        self.before = contender.held_out_loss(text.held_out)
        self.steps, self.useful, self.used_s = 0, 0, 0.0

    def step(self, seconds: float) -> None:
        """One step; the learning rate follows the share of the time: 5 % warm-up, cosine to a tenth."""
        share = self.used_s / seconds
        cosine = 0.55 + 0.45 * math.cos(math.pi * share)
        lr = LEARNING_RATE * min(1.0, (share + 0.005) / 0.05) * cosine
        start = time.perf_counter()
        work = next(self.works)
        self.used_s += time.perf_counter() - start
        self.contender.load([work])
        self.used_s += self.contender.step(0, lr)
        self.steps, self.useful = self.steps + 1, self.useful + work.useful

    def row(self) -> dict[str, Any]:
        after = self.contender.held_out_loss(self.text.held_out)
        counts = {"steps": self.steps, "tokens": self.useful, "train_s": self.used_s}
        return {**_who(self.contender), **counts, "before": self.before, "after": after}


def loader_share(options: Options, text: Text, step_s: float | None) -> dict[str, Any]:
    """The time to make a step's batch against the time of a step, and the share of positions used."""
    shape = options.shape
    text.loader.rows(0, shape.rows)
    count = 50
    start = time.perf_counter()
    for i in range(1, count + 1):
        text.loader.rows(i * shape.rows, shape.rows)
    batch_s = (time.perf_counter() - start) / count
    share = batch_s / step_s if step_s else None
    return {"batch_s": batch_s, "step_s": step_s, "share": share, "packing_efficiency": text.loader.efficiency()}


def _precision(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)


def _who(contender: Hosted) -> dict[str, Any]:
    mode = "compiled" if contender.compiled else "eager"
    return {"contender": contender.name, "precision": _precision(contender.dtype), "mode": mode}


def run_worker(options: Options) -> dict[str, Any]:
    """All tables for one thread count, in this process."""
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"environment": environment(options.threads)}
    best: dict[tuple[str, str], dict[str, Any]] = {}
    if "throughput" in options.tables:
        result["throughput"] = throughput(options)
        for row in sorted(result["throughput"]["rows"], key=lambda r: r["tokens_per_s"]):
            best[row["contender"], row["precision"]] = row
    fastest = {key: row["mode"] == "compiled" for key, row in best.items()}
    if "mixed" in options.tables:
        result["mixed"] = mixed(options, fastest)
    default = _precision(compute_dtype("auto", CPU))
    with tempfile.TemporaryDirectory() as folder:
        if {"loss", "loader"} & set(options.tables):
            size, rows = (200_000, 8) if options.quick else (3_000_000, 48)
            text = stdlib_text(options.shape, Path(folder) / "shards", size, rows)
        if "loss" in options.tables:
            result["loss"] = loss_at_equal_time(options, fastest, text)
        if "loader" in options.tables:
            ours = best.get(("athanor", default))
            step_s = options.shape.tokens / ours["tokens_per_s"] if ours else None
            result["loader"] = loader_share(options, text, step_s)
    result["default_precision"] = default
    result["toy"] = options.quick
    result["bars"] = [] if options.quick else judge(result)
    return result


def print_worker(result: dict[str, Any]) -> None:
    """The tables of one thread count."""
    threads = result["environment"]["threads"]
    keys: tuple[str, ...]
    if part := result.get("throughput"):
        columns = ("contender", "precision", "mode", "tokens/s", "spread", "MFU_cpu causal", "MFU_cpu full")
        keys = ("contender", "precision", "mode", "tokens_per_s", "spread", "mfu_cpu", "mfu_cpu_full")
        show(f"Full rows, {threads} thread(s)", columns, [[row[k] for k in keys] for row in part["rows"]])
        for precision, rate in part["gemm_flops_per_s"].items():
            shapes, square = (", ".join(f"{x / 1e9:.0f}" for x in rate[k]) for k in ("model_shapes", "square_2048"))
            print(f"GEMM {precision}, GFLOP/s round by round: {shapes} at the model's shapes; {square} at 2048³")
    if part := result.get("mixed"):
        headings = ("contender", "precision", "mode", "batching", "useful tokens/s", "spread")
        keys = ("contender", "precision", "mode", "batching", "useful_tokens_per_s", "spread")
        title = f"Documents of mixed length (mean {part['mean_length']:.0f}), {threads} thread(s)"
        show(title, headings, [[row[k] for k in keys] for row in part["rows"]])
    if part := result.get("loss"):
        keys = ("contender", "precision", "mode", "steps", "tokens", "train_s", "before", "after")
        title = f"Held-out loss at equal wall time, {threads} thread(s)"
        show(title, keys, [[row[k] for k in keys] for row in part["rows"]])
    if part := result.get("loader"):
        show("Loader", list(part), [list(part.values())])
    parts = [result.get(name, {}) for name in ("throughput", "mixed", "loss")]
    for line in sorted({line for part in parts for line in part.get("missing", [])}):
        print(f"not measured, its library is not installed: {line}")
    if result["toy"]:
        print("A toy shape: the figures only show that everything runs, no bar is judged.")
        return
    bars = [[b["bar"], b["ours"], b["peer"], b["value"], b["target"], b["met"]] for b in result["bars"]]
    show(f"Bars, {threads} thread(s)", ("bar", "ours", "against", "value", "target", "met"), bars)


def _spawn(options: Options) -> dict[str, Any]:
    """A worker process with its own thread count (set before torch starts, as OpenMP wants it)."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        asked = json.dumps(_as_json(options))
        command = [sys.executable, "-m", "bench.train_cpu", "--worker", asked, "--out", str(out)]
        env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, check=True, env=env, cwd=Path(__file__).resolve().parents[1])
        result: dict[str, Any] = json.loads(out.read_text("utf-8"))
        return result


def _as_json(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in Options.__dataclass_fields__}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="toy shape, eager only, seconds")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender")
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    parser.add_argument("--contenders", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    tables = ["throughput", "mixed", "loss", "loader"]
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--loss-s", type=float, default=75.0, help="training seconds each in the loss table")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        given: dict[str, Any] = json.loads(args.worker)
        asked: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        options = Options(**asked)
        args.out.write_text(json.dumps(run_worker(options)), "utf-8")
        return 0
    results = []
    for threads in args.threads:
        options = Options(
            threads,
            quick=args.quick,
            rounds=1 if args.quick else args.rounds,
            compile=not (args.no_compile or args.quick),
            contenders=tuple(args.contenders),
            tables=tuple(args.tables),
            loss_s=0.5 if args.quick else args.loss_s,
            documents=60 if args.quick else 400,
        )
        results.append(_spawn(options))
        print_worker(results[-1])
        write_result({"runs": results}, args.out, options.shape)  # after each, so that a stop loses nothing
    return 0


if __name__ == "__main__":
    sys.exit(main())

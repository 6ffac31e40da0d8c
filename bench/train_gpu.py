"""Training throughput on an accelerator: Athanor against the textbook decoder and transformers, all compiled, bfloat16.

    python bench/train_gpu.py --out bench/results/train_gpu.json

Shapes of about 0.3 B and 1 B parameters, context 4,096, rows full of packed documents. Athanor runs with attention
inside documents (the pre-norm Llama structure and its depth-scaled sandwich); the peers run the usual way, which lets
attention cross documents, so they have the easier call to make. Their MFU counts the pairs that they attend to.
Without an accelerator the same code runs on the CPU at a toy shape.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from athanor.train import flops
from bench.common import Shape, Spread, environment, gemm_rate, show, sync, timed, write_result
from bench.contenders import OURS, PEERS, build
from bench.workloads import Work, mixed_lengths, packed_works

SHAPES = {
    "0.3b": Shape("0.3b", vocab=32768, width=1024, layers=20, heads=16, kv_heads=8, ffn=2816, context=4096, rows=8),
    "1b": Shape("1b", vocab=32768, width=2048, layers=18, heads=16, kv_heads=8, ffn=5632, context=4096, rows=4),
}
TOY = Shape("toy", vocab=512, width=64, layers=2, heads=4, kv_heads=2, ffn=128, context=64, rows=2)
LEARNING_RATE = 1e-4


def device_here() -> torch.device:
    """The accelerator, else the CPU."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def works_for(shape: Shape, steps: int, device: torch.device) -> list[Work]:
    """Packed documents of log-normal lengths, enough for ``steps``."""
    lens = mixed_lengths(shape, max(16, 6 * steps * shape.rows), seed=0)
    works = packed_works(shape, lens, 0, device, masked=False)
    return works[:steps]


def pairs_of(work: Work, crossing: bool, shape: Shape) -> int:
    """Attended pairs of a step: inside documents, or over the whole row where a contender lets documents mix."""
    lens = [shape.context] * shape.rows if crossing else [n for row in work.batch.doc_lens for n in row]
    return flops.attended_pairs(lens, "causal")


def peak_memory(device: torch.device) -> int | None:
    """Most bytes allocated on the device since the last reset; None on a CPU."""
    return None if device.type == "cpu" else int(torch.accelerator.max_memory_allocated(device))


def measure(name: str, shape: Shape, device: torch.device, rounds: int, compiled: bool) -> dict[str, Any]:
    """Median tokens/s, MFU in both conventions and peak memory of one contender; an out-of-memory is a result."""
    dtype = torch.bfloat16
    works = works_for(shape, 4, device)
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
    contender = build(name, shape, dtype, compiled, device)
    for i in range(3):
        contender.step(works[i % len(works)], LEARNING_RATE)
    sync(device)
    seconds = [timed(lambda i=i: contender.step(works[i % len(works)], LEARNING_RATE), device) for i in range(rounds)]  # type: ignore[misc]
    spread = Spread.of([shape.tokens / s for s in seconds])
    peak, source = flops.peak_flops(device, dtype)
    config = shape.config(dssn=name.endswith("dssn"))
    pairs = float(np.mean([pairs_of(work, not contender.ours, shape) for work in works]))
    per_step = flops.train_flops(config, shape.tokens, round(pairs))
    full = flops.flops_per_token(config, shape.context, "full") * shape.tokens
    steps_per_s = spread.median / shape.tokens
    return {
        "contender": name,
        "mode": "compiled" if compiled else "eager",
        "tokens_per_s": spread.median,
        "spread": spread.spread,
        "mfu_attended": steps_per_s * per_step / peak,
        "mfu_full": steps_per_s * full / peak,
        "peak_bytes": peak_memory(device),
        "peak_source": source,
    }


def run(shapes: Sequence[Shape], contenders: Sequence[str], rounds: int, compiled: bool) -> dict[str, Any]:
    """Every contender on every shape, one after another: each alone on the device, so that peak memory is its own."""
    device = device_here()
    result: dict[str, Any] = {"environment": environment(torch.get_num_threads()), "device": str(device), "shapes": {}}
    for shape in shapes:
        rows: list[dict[str, Any]] = []
        for name in contenders:
            print(f"{shape.name}: {name}", file=sys.stderr, flush=True)
            try:
                rows.append(measure(name, shape, device, rounds, compiled))
            except ImportError as error:
                rows.append({"contender": name, "failed": f"not installed: {error}"})
            except torch.OutOfMemoryError:
                rows.append({"contender": name, "failed": "out of memory"})
            gc.collect()
            torch.compiler.reset()
            if device.type != "cpu":
                torch.accelerator.empty_cache()
        rate = gemm_rate(shape, torch.bfloat16, device)
        result["shapes"][shape.name] = {"rows": rows, "gemm_flops_per_s": rate, "bars": bars(rows)}
    return result


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against each peer, and the MFU aim of 0.55 (convention: attended pairs)."""
    done = {row["contender"]: row for row in rows if "failed" not in row}
    ours = max((done[n] for n in OURS if n in done), key=lambda r: r["tokens_per_s"], default=None)
    if ours is None:
        return []
    out = [{"bar": "MFU, attended pairs", "value": ours["mfu_attended"], "target": 0.55}]
    out += [
        {"bar": f"tokens/s against {n}", "value": ours["tokens_per_s"] / done[n]["tokens_per_s"], "target": 1.0}
        for n in PEERS
        if n in done
    ]
    return [{**line, "met": line["value"] >= line["target"]} for line in out]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["athanor", "athanor-dssn", "textbook", "transformers", "litgpt"]
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--contenders", nargs="+", choices=names, default=names[:4])
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each contender")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--toy", action="store_true", help="the toy shape also on an accelerator")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    toy = args.toy or device_here().type == "cpu"
    shapes = [TOY] if toy else [SHAPES[name] for name in args.shapes]
    result = run(shapes, args.contenders, 2 if toy else args.rounds, not (args.no_compile or toy))
    for name, part in result["shapes"].items():
        keys = ("contender", "mode", "tokens_per_s", "spread", "mfu_attended", "mfu_full", "peak_bytes", "failed")
        show(f"{name} on {result['device']}", keys, [[row.get(k) for k in keys] for row in part["rows"]])
        if toy:
            print("A toy shape: the figures only show that everything runs, no bar is judged.")
        else:
            show("Bars", ("bar", "value", "target", "met"), [list(bar.values()) for bar in part["bars"]])
    write_result(result, args.out, shapes[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())

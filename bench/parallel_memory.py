"""What ZeRO, tensor, sequence and context parallel and each recompute choice leave on one rank, against the formulas.

    python bench/parallel_memory.py                    # writes bench/results/parallel_memory.json

Measured on fake tensors: the real training step of the engine as one rank of a fake world (``athanor.dryrun``), every
storage counted from the operation that makes it until nothing holds it. No memory is used and nothing is sent, so
2, 4 and 8 ranks are those of the plan. bfloat16 computation over float32 masters, gradients and moments.

State: parameters 4 bytes, moments 8 and gradients 4 of each of the Ψ parameters, over N ranks or whole. *Gathered* is
what FSDP2 brings together for the computation, 2 bytes a parameter: all of Ψ below ZeRO-3, and in ZeRO-3 the root
(embedding, final norm, head) and one block; the next block's buffer of the all-gather is communication.

Activations: the most bytes at once that a forward pass leaves to the backward pass or that are made again in it. By
``athanor.parallel.activations`` the blocks keep so much between forward and backward (*kept*), and with a block that is
made again whole at its moment, no more than so much (*peak*); parts of a block that are made again one after the other
need less than that. At the end of the forward pass final norm and head hold something too (``ends``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from athanor.dryrun.run import DryRun, dry_run
from athanor.model.config import ModelConfig
from athanor.model.params import count_params
from athanor.parallel.activations import Choice, Layout, estimate
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.workload import Workload
from athanor.recipe.schema import TrainRecipe
from bench.common import Shape, environment, show, write_result

SHAPE = Shape("memory", vocab=1024, width=256, layers=8, heads=8, kv_heads=8, ffn=704, context=512, rows=2)
DTYPE = torch.bfloat16
RESULT = Path(__file__).parent / "results" / "parallel_memory.json"
#: how far a measured figure may be from its formula
STATE_TOLERANCE, ACTIVATION_TOLERANCE = 0.005, 0.05

#: (name, layout, recomputation)
Case = tuple[str, dict[str, Any], dict[str, Any]]
_SAVED = {"communication": "save"}
ACTIVATIONS: list[Case] = [
    ("one rank", {}, {}),
    *((f"tp {n}", {"tp": n, "sp": False}, {}) for n in (2, 4, 8)),
    *((f"tp {n} + sp", {"tp": n}, {}) for n in (2, 4, 8)),
    *((f"cp {n}", {"cp": n}, {}) for n in (2, 4, 8)),
    ("tp 2 + sp, cp 2", {"tp": 2, "cp": 2}, {}),
    ("full", {}, {"mode": "full"}),
    ("every 2nd block", {}, {"mode": "every_k", "every_k": 2}),
    *(
        (" + ".join(names), {}, {"mode": "selective", "names": names})
        for names in (("attention",), ("ffn",), ("norms",), ("up_proj",), ("gate_proj",), ("qkv_proj",))
    ),
    ("norms + up_proj", {}, {"mode": "selective", "names": ("norms", "up_proj")}),
    ("tp 2 + sp, full", {"tp": 2}, {"mode": "full"}),
    ("tp 2 + sp, full, communication saved", {"tp": 2}, {"mode": "full", **_SAVED}),
    ("tp 2 + sp, gathers again", {"tp": 2}, {"mode": "selective"}),
]


def config_of(shape: Shape) -> ModelConfig:
    """The depth-scaled sandwich of ``shape``."""
    return shape.config(dssn=True)


def _run(shape: Shape, plan: ParallelPlan, micro_batches: int) -> DryRun:
    tokens = shape.rows * shape.context
    work = Workload.of(
        config_of(shape),
        plan,
        seq_len=shape.context,
        global_batch_tokens=tokens * micro_batches * plan.dp,
        micro_batch_tokens=tokens,
        dtype=DTYPE,
    )
    return dry_run(work, TrainRecipe(), rank=plan.world_size - 1)


def zero_row(shape: Shape, n_ranks: int, zero: int) -> dict[str, Any]:
    """One ZeRO level over ``n_ranks``, two micro-batches: measured bytes of a rank and what they should be."""
    run = _run(shape, ParallelPlan(dp_shard=n_ranks, zero=zero), micro_batches=2)  # type: ignore[arg-type]
    psi = count_params(config_of(shape))
    block = (psi - 2 * shape.vocab * shape.width - shape.width) // shape.layers
    held = 1 if zero == 0 else n_ranks
    state = run.state_bytes["parameters"] + run.state_bytes["optimizer"]
    gathered = psi if zero < 3 else psi - (shape.layers - 1) * block
    return {
        "zero": zero,
        "ranks": n_ranks,
        "state_bytes": state,
        "state_formula": 12 * psi / held,
        "gradient_bytes": run.state_bytes["gradients"],
        "gradient_formula": 4 * psi / held,
        "gradient_peak_bytes": run.trace.peak(["gradients"])[0],
        "gathered_bytes": run.trace.peak(["gathered"])[0],
        "gathered_formula": DTYPE.itemsize * gathered,
    }


def _choices(shape: Shape, recompute: RecomputePlan) -> dict[int, Choice]:
    choice: Choice = {"full": "full", "selective": recompute.names or "gathers"}.get(recompute.mode, "none")  # type: ignore[assignment]
    if recompute.mode == "every_k":
        return {i: "full" if i % recompute.every_k == 0 else "none" for i in range(shape.layers)}
    return dict.fromkeys(range(shape.layers), choice)


def ends_bytes(shape: Shape, plan: ParallelPlan) -> int:
    """What is alive beside the blocks' activations when the backward pass reaches the blocks: the final norm's float32
    copy of its input, normalised value and statistic, and the gradient that the head made for its input."""
    n_tokens = shape.rows * shape.context // plan.cp
    spread = n_tokens // plan.tp if plan.sp else n_tokens
    norm = spread * shape.width * (4 + DTYPE.itemsize) + 4 * spread
    return norm + n_tokens * shape.width * DTYPE.itemsize


def activation_row(shape: Shape, name: str, sizes: dict[str, Any], recompute: dict[str, Any]) -> dict[str, Any]:
    """One layout or recompute choice: the peak of activations of one micro-batch, measured and by formula."""
    plan = ParallelPlan(**sizes, recompute=RecomputePlan(**recompute))
    run = _run(shape, plan, micro_batches=1)
    at = Layout(plan.tp, plan.sp, plan.cp, collectives_saved=plan.recompute.communication == "save")
    tokens, config = shape.rows * shape.context, config_of(shape)
    experts = dict.fromkeys(range(shape.layers), False)
    chosen = estimate(config, experts, _choices(shape, plan.recompute), tokens, shape.context, DTYPE, at)
    assert chosen.peak_bytes is not None and chosen.kept_bytes is not None
    least = chosen.kept_bytes + ends_bytes(shape, plan)
    return {
        "what": name,
        "peak_bytes": run.trace.peak(["activations"])[0],
        "kept_formula": chosen.kept_bytes,
        "ends_bytes": ends_bytes(shape, plan),
        "least_formula": least,
        "most_formula": max(least, chosen.peak_bytes),
    }


def measure(
    shape: Shape, ranks: Sequence[int] = (2, 4, 8), cases: Sequence[Case] = ACTIVATIONS
) -> dict[str, list[dict[str, Any]]]:
    """Both tables; ``factor`` is a row's share of the first one's bytes: measured, by formula at least and at most."""
    zeros = [zero_row(shape, n, zero) for n in ranks for zero in (0, 1, 2, 3)]
    rows = [activation_row(shape, *case) for case in cases]
    first = rows[0]
    for row in rows:
        row["factor"] = row["peak_bytes"] / first["peak_bytes"]
        for end in ("least", "most"):
            row[f"factor_{end}"] = row[f"{end}_formula"] / first["least_formula"]
    return {"zero": zeros, "activations": rows}


def misses(result: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Rows that are further from their formula than allowed; empty when the bars are met."""
    out = []
    for row in result["zero"]:
        for key in ("state", "gradient", "gathered"):
            measured, formula = row[f"{key}_bytes"], row[f"{key}_formula"]
            if abs(measured / formula - 1) > STATE_TOLERANCE:
                out.append(f"ZeRO-{row['zero']}, {row['ranks']} ranks: {key} {measured:,}, by formula {formula:,.0f}")
    for row in result["activations"]:
        factor, least, most = (row[key] for key in ("factor", "factor_least", "factor_most"))
        if not least * (1 - ACTIVATION_TOLERANCE) <= factor <= most * (1 + ACTIVATION_TOLERANCE):
            out.append(f"{row['what']}: {factor:.3f} of the first, by formula {least:.3f} to {most:.3f}")
    return out


def print_tables(shape: Shape, result: dict[str, list[dict[str, Any]]]) -> None:
    """MiB of one rank beside the formulas."""
    mib, psi = 2**20, count_params(config_of(shape))
    columns = ("ZeRO", "ranks", "state", "12 Ψ / N", "gradients", "4 Ψ / N", "at most", "gathered", "formula")
    keys = ["state_bytes", "state_formula", "gradient_bytes", "gradient_formula", "gradient_peak_bytes"]
    keys += ["gathered_bytes", "gathered_formula"]
    rows = [[row["zero"], row["ranks"], *(row[key] / mib for key in keys)] for row in result["zero"]]
    show(f"MiB of one rank, Ψ = {psi:,} parameters (ZeRO-0: N = 1)", columns, rows)
    titles = ("activations", "measured", "kept + ends", "peak", "factor", "at least", "at most")
    shares = ("factor", "factor_least", "factor_most")
    lines = [
        [row["what"], *(row[key] / mib for key in ("peak_bytes", "least_formula", "most_formula"))]
        + [row[key] for key in shares]
        for row in result["activations"]
    ]
    show(f"MiB at most of a micro-batch of {shape.rows} × {shape.context} tokens, one rank", titles, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 where a figure misses its formula."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file for the results")
    args = parser.parse_args(argv)
    result = measure(SHAPE)
    print_tables(SHAPE, result)
    write_result({"environment": environment(), **result}, args.out, SHAPE)
    missed = misses(result)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

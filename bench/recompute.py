"""Step time and activation bytes of each recompute choice, on one device.

    python bench/recompute.py                                     # toy shape
    python bench/recompute.py --shape 0.3b --dtype bfloat16 --out results.json

``kept`` is measured: storages made by the blocks' forward pass that are alive behind it. ``predicted`` is the formula
of ``athanor.parallel.activations``, which counts for eager mode. ``step`` is forward and backward (no optimizer), the
median of its rounds; ``peak`` is the allocator's, on an accelerator. ``again`` is the repeated share of the
forward pass's operations. Eager unless ``--compile``, where only times and peaks are meaningful.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.parallel.activations import RecomputeChoice, kept_bytes
from athanor.parallel.plan import RecomputePlan
from athanor.parallel.recompute import apply_recompute
from athanor.train import flops
from athanor.train.compiling import compile_blocks
from bench.common import Shape, Spread, environment, show, timed, write_result
from bench.train_gpu import SHAPES, device_here, peak_memory
from bench.workloads import Work, full_rows

TOY = Shape("toy", vocab=512, width=256, layers=4, heads=4, kv_heads=2, ffn=688, context=256, rows=4)
PLANS: dict[str, RecomputePlan] = {
    "none": RecomputePlan(),
    "norms": RecomputePlan(mode="selective", names=("norms",)),
    "up_proj": RecomputePlan(mode="selective", names=("up_proj",)),
    "norms, up_proj": RecomputePlan(mode="selective", names=("norms", "up_proj")),
    "norms, qkv_proj, up_proj": RecomputePlan(mode="selective", names=("norms", "qkv_proj", "up_proj")),
    "norms, ffn": RecomputePlan(mode="selective", names=("norms", "ffn")),
    "attention": RecomputePlan(mode="selective", names=("attention",)),
    "every 2nd": RecomputePlan(mode="every_k", every_k=2),
    "full": RecomputePlan(mode="full"),
}


def build(shape: Shape, plan: RecomputePlan, dtype: torch.dtype, device: torch.device) -> tuple[Decoder, Any]:
    """The sandwich decoder of ``shape`` with ``plan`` in place, and what that predicts."""
    model = Decoder(shape.config(dssn=True))
    init_weights(model, 0)
    model = model.to(device, dtype)
    chosen = apply_recompute(model, plan, micro_batch_tokens=shape.tokens, seq_len=shape.context)
    return model, chosen


def stepper(model: Decoder, work: Work) -> Callable[[], None]:
    """One forward and backward pass."""
    batch = work.batch

    def step() -> None:
        model.zero_grad()
        loss, _ = model.loss(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens)
        loss.backward()

    return step


def blocks_keep(model: Decoder, work: Work) -> int:
    """Measured bytes that the blocks keep of one micro-batch."""
    batch = work.batch
    context = model.context(batch.input_ids_BT, batch.positions_BT, batch.doc_lens)
    h_BTD = model.embed(batch.input_ids_BT, context).detach().requires_grad_()
    given = [*model.parameters(), *(context.rope or ())]
    return kept_bytes(lambda: model.blocks(h_BTD * 1, context), given=given)


def measure(
    name: str, shape: Shape, dtype: torch.dtype, device: torch.device, rounds: int, compiled: bool
) -> dict[str, Any]:
    """One choice; the model is built, timed and dropped, so that peaks do not mix."""
    work = full_rows(shape, 0, device)
    model, chosen = build(shape, PLANS[name], dtype, device)
    assert isinstance(chosen, RecomputeChoice) and chosen.extra_flops is not None
    kept = blocks_keep(model, work)
    if compiled:
        compile_blocks(model, device)
    step = stepper(model, work)
    for _ in range(2):
        step()
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
    seconds = Spread.of([timed(step, device) for _ in range(rounds)])
    pairs = flops.attended_pairs([shape.context] * shape.rows)
    forward = flops.train_flops(model.config, shape.tokens, pairs) / 3
    return {
        "choice": name,
        "step_s": seconds.median,
        "spread": seconds.spread,
        "tokens_per_s": shape.tokens / seconds.median,
        "kept_bytes": kept,
        "predicted_bytes": chosen.kept_bytes,
        "again": chosen.extra_flops / forward,
        "peak_bytes": peak_memory(device),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the choices and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["toy", *SHAPES], default="toy")
    parser.add_argument("--choices", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each choice")
    parser.add_argument("--compile", action="store_true", help="blocks under torch.compile")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args(argv)
    shape = TOY if args.shape == "toy" else SHAPES[args.shape]
    device, dtype = device_here(), getattr(torch, args.dtype)
    rows = [measure(name, shape, dtype, device, args.rounds, args.compile) for name in args.choices]
    first, mib = rows[0], 2**20
    show(
        f"{shape.name}, {args.dtype}, {shape.tokens} tokens a step, {device.type}",
        ("recompute", "step ms", "× first", "kept MiB", "predicted MiB", "operations again", "peak MiB"),
        [
            (
                row["choice"],
                1000 * row["step_s"],
                row["step_s"] / first["step_s"],
                row["kept_bytes"] / mib,
                row["predicted_bytes"] / mib,
                f"{row['again']:.0%}",
                None if row["peak_bytes"] is None else row["peak_bytes"] / mib,
            )
            for row in rows
        ],
    )
    write_result({"environment": environment(torch.get_num_threads()), "rows": rows}, args.out, shape)


if __name__ == "__main__":
    main()

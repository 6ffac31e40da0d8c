"""Host memory that a rank takes to begin a model, whole first or on the meta device, and to write it.

    python bench/build_memory.py [--ranks 4] [--layers 12] [--width 768]   # writes bench/results/build_memory.json

Each rank is a process of its own; its figure is the growth of the peak of its resident memory (VmHWM of Linux) over
what torch and the imports take. *whole*: every rank draws the whole model and takes its part (ZeRO-3). *meta*: a rank
gets its part only, tensor by tensor (``athanor.parallel.materialize``). *export*: the growth of the peak on top of that
by writing the model directory from all ranks, *gathered*: by bringing the whole model to rank 0 first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = ("whole", "meta")


def rank_main(way: str, rank: int, world: int, layers: int, width: int, folder: str) -> None:
    """One rank: prints its figures in bytes."""
    import torch
    import torch.distributed as dist

    from athanor.model.config import ModelConfig
    from athanor.model.decoder import Decoder
    from athanor.model.hf import save_model_dir
    from athanor.model.init import drawn_later, init_weights
    from athanor.parallel.engine import ParallelEngine
    from athanor.parallel.mesh import Ranks
    from athanor.parallel.plan import ParallelPlan
    from athanor.recipe.schema import TrainRecipe

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store-{way}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=300))
    plan = ParallelPlan(dp_shard=world)
    ranks = Ranks.of(plan, torch.device("cpu"))
    heads = width // 64
    config = ModelConfig(
        vocab_size=16384,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    recipe = TrainRecipe(precision="fp32")
    warm = ParallelEngine(drawn_later(config.model_copy(update={"num_hidden_layers": 1}), 0), recipe, plan, ranks)
    del warm
    dist.barrier()
    reset_peak()
    base = resident("VmRSS")
    if way == "whole":
        model = Decoder(config)
        init_weights(model, 0)
    else:
        model = drawn_later(config, 0)
    engine = ParallelEngine(model, recipe, plan, ranks)
    del model
    built = resident("VmHWM") - base
    dist.barrier()
    reset_peak()
    base = resident("VmRSS")
    if way == "whole":
        whole = engine.whole_model()
        if whole is not None:
            save_model_dir(whole, f"{folder}/{way}", max_shard_bytes=50_000_000)
    else:
        engine.export(lambda shapes: save_model_dir(shapes, f"{folder}/{way}", max_shard_bytes=50_000_000))
    dist.barrier()
    n_params = sum(p.numel() for p in engine.model.parameters())
    print(json.dumps({"built_bytes": built, "export_bytes": resident("VmHWM") - base, "params": n_params}), flush=True)


def resident(field: str) -> int:
    """Bytes, from Linux' account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """Let VmHWM begin anew at the present size."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(world: int, layers: int, width: int) -> dict[str, Any]:
    """Largest figures over ranks, and those of rank 0, for both ways."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            words = [sys.executable, __file__, "--rank"]
            args = [way, str(world), str(layers), str(width), folder]
            ranks = [
                subprocess.Popen([*words, str(rank), *args], stdout=subprocess.PIPE, text=True) for rank in range(world)
            ]
            outs = [json.loads(process.communicate()[0].splitlines()[-1]) for process in ranks]
            found["model_bytes"] = 4 * outs[0]["params"]
            found[way] = {
                "built_bytes": max(out["built_bytes"] for out in outs),
                "export_bytes_rank_0": outs[0]["export_bytes"],
                "export_bytes_others": max(out["export_bytes"] for out in outs[1:]),
            }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rank", nargs=6, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank:
        rank, way, world, layers, width, folder = asked.rank
        rank_main(way, int(rank), int(world), int(layers), int(width), folder)
        return
    from athanor.files import write_json
    from bench.common import environment

    found = measure(asked.ranks, asked.layers, asked.width)
    print(f"model {found['model_bytes'] / 1e6:.0f} MB in float32, {asked.ranks} ranks, ZeRO-3; MB of a rank's host:")
    for way in WAYS:
        print(f"  {way:6} " + "  ".join(f"{name} {value / 1e6:7.0f}" for name, value in found[way].items()))
    result = {"ranks": asked.ranks, "layers": asked.layers, "width": asked.width, **found}
    write_json(Path(__file__).with_name("results") / "build_memory.json", {**result, "environment": environment()})


if __name__ == "__main__":
    main()

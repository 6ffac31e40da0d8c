"""The parity matrix: every layout trains to the numbers of one process, through the trainer, on packed documents.

Float64 to 1e-9: layouts only change the order of sums, each right to about 1e-15. Five AdamW steps amplify that, for
an update is nearly ±lr even where a gradient is tiny; 1e-9 leaves room. Float32 runs show what the order does there.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.parallel.engine import parallel_engine
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.recipe.schema import ScheduleRecipe, TrainRecipe
from athanor.train.engine import LocalEngine
from athanor.train.objective import CausalLM
from athanor.train.run_dir import RunDir
from athanor.train.sources import BatchPlan, PackedSource
from athanor.train.stages import Stage
from athanor.train.trainer import Trainer
from tests.parallel.ranks import run_ranks
from tests.train.tiny import TinyLoader, lines

SEQ_LEN, ROWS, STEPS = 32, 8, 5
Result = tuple[list[float], list[float], dict[str, torch.Tensor]]

#: The kinds of model: dense with fewer KV heads than query heads, and experts with a shared one and router losses.
KINDS = {
    "dense": None,
    "moe": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1),
    "moe-bias": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, balance="bias"),
    "wide": None,
    "wide-moe": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, num_shared_experts=1),
}
#: Of the wide kinds: every product and head is of a width that the kernels for bfloat16 take.
WIDE = {"hidden_size": 128, "intermediate_size": 192}


def make_model(kind: str, dtype: torch.dtype, layers: int = 2) -> Decoder:
    config = ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        norm_placement="depth_scaled_sandwich",
        max_position_embeddings=64,
        moe=KINDS[kind],
    )
    model = Decoder(config.model_copy(update=WIDE if kind.startswith("wide") else {}))
    init_weights(model, 3)
    return model if dtype == torch.bfloat16 else model.to(dtype)  # in bfloat16 masters are float32


def train(
    kind: str, dtype: torch.dtype, layers: int, micro_rows: int, plan: ParallelPlan | None, folder: str
) -> Result:
    """Losses and gradient norms of every step, the held-out loss last, and the final parameters (of the main rank)."""
    source = PackedSource(TinyLoader(SEQ_LEN), BatchPlan(SEQ_LEN, SEQ_LEN * ROWS), micro_rows * SEQ_LEN)
    schedule = ScheduleRecipe(kind="cosine", lr=1e-2, warmup_steps=2, min_lr=1e-3)
    stage = Stage(
        "pretrain", source, STEPS, schedule, evals={"held_out": [TinyLoader(SEQ_LEN, 9).rows(0, micro_rows)] * 3}
    )
    precision: Any = "bf16" if dtype == torch.bfloat16 else "fp32"
    recipe = TrainRecipe(precision=precision, tensorboard=False, clip_norm=0.5)
    engine = LocalEngine if plan is None else parallel_engine(plan)
    model, run = make_model(kind, dtype, layers), RunDir(folder)
    trainer = Trainer(model, CausalLM(), [stage], recipe, run, quiet=True, resumable=False, engine=engine)
    trainer.fit()
    whole = trainer.model if plan is None else trainer.engine.whole_model()
    if whole is None:
        return [], [], {}
    written = lines(Path(folder) / "metrics.jsonl")
    losses = [line["loss"] for line in written if "loss" in line] + [written[-1]["eval"]["held_out"]]
    state = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    return losses, [line["grad_norm"] for line in written if "loss" in line], {n: p.detach() for n, p in state.items()}


@cache
def alone(kind: str, dtype: torch.dtype, layers: int, micro_rows: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return train(kind, dtype, layers, micro_rows, None, folder)


def micro_rows(plan: ParallelPlan) -> int:
    """Rows of a micro-batch: two micro-batches a step and data rank, which is what accumulation needs; in a pipeline
    two for each rank of it where rows suffice, so that there is a steady state between filling and draining."""
    wanted = 2 if plan.pp == 1 else 2 * plan.pp
    least = 2 if plan.copies == 2 else 1
    return max(least, ROWS // plan.dp // wanted)


def compare(
    kind: str,
    keys: dict[str, Any],
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-9,
    run: Callable[..., Result] = train,
) -> None:
    plan = ParallelPlan(**keys)
    what = kind, dtype, sum(plan.layers_per_stage or ()) or max(2, plan.stages), micro_rows(plan)
    with tempfile.TemporaryDirectory() as folder:
        got = run_ranks(plan.world_size, run, *what, plan, folder, keep=run is train)[0]
    expected = alone(*what)
    for name, ours, theirs in zip(("loss", "gradient norm"), got[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    assert got[2].keys() == expected[2].keys()
    for name, value in expected[2].items():
        torch.testing.assert_close(
            got[2][name], value, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def _id(keys: dict[str, Any]) -> str:
    parts = [
        f"{k}{v}" if isinstance(v, int) else f"{k}-{v.mode if isinstance(v, RecomputePlan) else v}"
        for k, v in keys.items()
    ]
    return "x".join(parts)


#: Layouts whose parts others in the lists cover, and dear ones: under `make test-parallel` only.
LONG: list[dict[str, Any]] = [
    {"dp_shard": 8},
    {"dp_shard": 2, "offload": "all"},
    {"tp": 2, "cp": 2, "pp": 2, "recompute": RecomputePlan(mode="full")},
    {"dp_replicate": 2, "dp_shard": 2, "pp": 2, "zero": 2},
    {"dp_shard": 2, "tp": 4},
    {"dp_shard": 2, "pp": 2, "tp": 2, "vpp": 2, "schedule": "zbv"},
    {"pp": 4, "dp_shard": 2},
    {"cp": 2, "tp": 2, "dp_shard": 2, "cp_kv": "ring"},
    {"pp": 2, "schedule": "gpipe"},
    {"dp_shard": 4, "ep": 2},
    {"cp": 2, "ep": 2},
]


def cases(layouts: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(x, id=_id(x), marks=[pytest.mark.slow] if x in LONG else []) for x in layouts]


INTERLEAVED = {"vpp": 2, "schedule": "interleaved_1f1b"}
DENSE: list[dict[str, Any]] = [
    # every axis alone
    {"dp_shard": 2, "zero": 3},
    {"dp_shard": 4, "zero": 2},
    {"dp_shard": 2, "zero": 1},
    {"dp_shard": 2, "zero": 0},
    {"dp_shard": 8},
    {"dp_replicate": 2, "dp_shard": 2},
    {"dp_shard": 2, "offload": "optimizer"},
    {"dp_shard": 2, "offload": "all"},
    {"tp": 2},
    {"tp": 2, "sp": False},
    {"tp": 4},
    {"tp": 2, "copies": 2},
    {"tp": 2, "chunks": 2},
    {"cp": 2},
    {"cp": 2, "cp_kv": "ring"},
    {"cp": 4, "cp_split": "sequence"},
    {"pp": 2, "schedule": "gpipe"},
    {"pp": 2},
    {"pp": 4},
    {"pp": 2, **INTERLEAVED},
    {"pp": 2, "vpp": 2, "schedule": "zbv"},
    {"pp": 2, "vpp": 2, "schedule": "dualpipev"},
    {"pp": 2, "layers_per_stage": (1, 3)},
    {"dp_shard": 2, "recompute": RecomputePlan(mode="full")},
    {"tp": 2, "recompute": RecomputePlan(mode="selective", names=("attention", "norms"), communication="save")},
    # composed
    {"dp_shard": 2, "tp": 2},
    {"dp_shard": 2, "cp": 2},
    {"dp_shard": 2, "pp": 2},
    {"cp": 2, "tp": 2},
    {"pp": 2, "tp": 2},
    {"pp": 2, "cp": 2},
    {"dp_shard": 2, "tp": 2, "pp": 2},
    {"dp_shard": 2, "tp": 2, "pp": 2, **INTERLEAVED},
    {"cp": 2, "tp": 2, "dp_shard": 2},
    {"cp": 2, "tp": 2, "dp_shard": 2, "cp_kv": "ring"},
    {"cp": 2, "pp": 2, "dp_shard": 2},
    {"tp": 2, "cp": 2, "pp": 2},
    {"tp": 2, "cp": 2, "pp": 2, "recompute": RecomputePlan(mode="full")},
    {"dp_replicate": 2, "dp_shard": 2, "tp": 2},
    {"dp_replicate": 2, "dp_shard": 2, "pp": 2, "zero": 2},
    {"dp_shard": 2, "tp": 4},
    {"dp_shard": 2, "pp": 2, "vpp": 2, "schedule": "zbv"},
    {"pp": 2, "tp": 2, "vpp": 2, "schedule": "zbv"},
    {"dp_shard": 2, "pp": 2, "tp": 2, "vpp": 2, "schedule": "zbv"},
    {"dp_shard": 2, "tp": 2, "copies": 2},
    {"cp": 2, "tp": 2, "chunks": 2},
    {"pp": 4, "dp_shard": 2},
]
MOE: list[dict[str, Any]] = [
    {"dp_shard": 2},
    {"dp_shard": 2, "ep": 2},
    {"dp_shard": 4, "ep": 2},
    {"dp_shard": 4, "ep": 4},
    {"tp": 2},
    {"cp": 2},
    {"cp": 2, "ep": 2},
    {"pp": 2},
    {"dp_replicate": 2, "dp_shard": 2, "ep": 2},
    {"dp_shard": 2, "ep": 2, "tp": 2},
    {"dp_shard": 2, "ep": 2, "tp": 2, "pp": 2},
    {"dp_shard": 2, "cp": 2, "ep": 4, "tp": 2},
    {"tp": 2, "cp": 2, "pp": 2},
    {"dp_shard": 2, "ep": 2, "recompute": RecomputePlan(mode="full")},
]


@pytest.mark.parametrize("keys", cases(DENSE))
def test_dense_layouts_train_to_the_numbers_of_one_process(keys: dict[str, Any]) -> None:
    compare("dense", keys)


@pytest.mark.parametrize("keys", cases(MOE))
def test_expert_layouts_train_to_the_numbers_of_one_process(keys: dict[str, Any]) -> None:
    compare("moe", keys)


@pytest.mark.parametrize("keys", [{"dp_shard": 4, "ep": 2}, {"cp": 2, "tp": 2}], ids=_id)
def test_router_biases_move_as_on_one_process(keys: dict[str, Any]) -> None:
    compare("moe-bias", keys)


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_float32_to_the_rounding_of_the_order_of_sums(kind: str) -> None:
    """Wide, for AdamW divides by the root of tiny second moments: a gradient's sign may hang on its last bits."""
    compare(kind, {"dp_shard": 2, "tp": 2}, torch.float32, tolerance=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("keys", DENSE, ids=_id)
def test_dense_layouts_in_float32(keys: dict[str, Any]) -> None:
    compare("dense", keys, torch.float32, tolerance=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("keys", MOE, ids=_id)
def test_expert_layouts_in_float32(keys: dict[str, Any]) -> None:
    compare("moe", keys, torch.float32, tolerance=5e-4)


@pytest.mark.parametrize(
    "kind, keys",
    [
        ("wide", {"dp_shard": 2, "zero": 3}),
        ("wide", {"tp": 2}),
        ("wide", {"cp": 2}),
        ("wide", {"pp": 2}),
        ("wide-moe", {"dp_shard": 2, "ep": 2}),
        pytest.param("wide", {"dp_shard": 2, "tp": 2, "pp": 2}, marks=pytest.mark.slow),
    ],
    ids=lambda x: x if isinstance(x, str) else _id(x),
)
def test_bfloat16_stays_close(kind: str, keys: dict[str, Any]) -> None:
    """Losses and norms to what 8 bits allow over five steps; no parameter is a fifth of its way apart."""
    plan = ParallelPlan(**keys)
    what = kind, torch.bfloat16, max(2, plan.stages), micro_rows(plan)
    with tempfile.TemporaryDirectory() as folder:
        losses, norms, params = run_ranks(plan.world_size, train, *what, plan, folder)[0]
    expected = alone(*what)
    torch.testing.assert_close(losses, expected[0], atol=0.01, rtol=0)
    torch.testing.assert_close(norms, expected[1], atol=0, rtol=0.03)
    first = dict(make_model(*what[:3]).named_parameters())
    for name, value in first.items():
        moved, apart = (expected[2][name] - value).norm(), (params[name] - expected[2][name]).norm()
        assert apart < 0.2 * moved, f"{name}: {float(apart / moved):.3f} of its way"


def _all_layouts() -> list[dict[str, Any]]:
    """Every dp · tp · cp · pp of 2, 4 and 8 ranks that the tiny model's four heads and layers allow."""
    sizes = itertools.product((1, 2, 4, 8), (1, 2, 4), (1, 2, 4, 8), (1, 2, 4))
    names = ("dp_shard", "tp", "cp", "pp")
    return [
        {name: size for name, size in zip(names, layout, strict=True) if size > 1}
        for layout in sizes
        if math.prod(layout) in (2, 4, 8) and ROWS // layout[0] >= layout[3]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("keys", _all_layouts(), ids=_id)
def test_every_layout(keys: dict[str, Any], kind: str) -> None:
    sharing = keys.get("dp_shard", 1) * keys.get("cp", 1)
    compare(kind, {**keys, "ep": math.gcd(4, sharing)} if kind == "moe" else keys)


def _broken_train(*args: Any) -> Result:
    """As ``train``, with an all-reduce that forgets one rank's part."""
    honest = dist.all_reduce

    def broken(tensor: torch.Tensor, *rest: Any, **keys: Any) -> Any:
        if dist.get_rank() == 1 and tensor.dtype == torch.float64 and tensor.numel() > 4:
            tensor = tensor.zero_()
        return honest(tensor, *rest, **keys)

    dist.all_reduce = broken
    return train(*args)


def test_a_broken_collective_fails_the_matrix() -> None:
    with pytest.raises(AssertionError):
        compare("dense", {"tp": 2, "sp": False}, run=_broken_train)

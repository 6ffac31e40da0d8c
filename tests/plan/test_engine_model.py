"""The engine's formulas against the engine, run on fake tensors; and against published or independent counts."""

import pytest
import torch

from athanor.dryrun.compare import compare
from athanor.dryrun.run import dry_run
from athanor.model.params import count_params
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.engine_model import Flops, predict
from athanor.plan.engine_schedule import actions
from athanor.plan.engine_states import States
from athanor.plan.workload import NotModelled
from athanor.recipe.presets import PRESETS
from athanor.recipe.schema import TrainRecipe
from athanor.train.flops import train_flops
from tests.dryrun.shapes import config, experts, work

R = RecomputePlan
SANDWICH = {"norm_placement": "depth_scaled_sandwich"}
GPT = {
    "norm_type": "layernorm", "mlp_gated": False, "attention_bias": True, "attention_output_bias": True,
    "mlp_bias": True, "position_embedding": "learned", "tie_word_embeddings": True, "qk_norm": True,
}  # fmt: skip
PARTS = R(mode="selective", names=("attention", "ffn", "norms"))
#: layout, rank, shape
LAYOUTS = {
    "one": ({}, 0, {}),
    "zero 0": ({"dp_shard": 4, "zero": 0}, 3, {}),
    "zero 1": ({"dp_shard": 4, "zero": 1}, 1, SANDWICH),
    "zero 2": ({"dp_shard": 4, "zero": 2}, 2, {}),
    "zero 3, uneven shards, full": ({"dp_shard": 5, "recompute": R(mode="full")}, 4, {}),
    "hybrid": ({"dp_replicate": 2, "dp_shard": 2}, 3, {}),
    "tp 4, shared heads": ({"tp": 4, "sp": False}, 3, SANDWICH),
    "tp 2 + sp, parts": ({"tp": 2, "recompute": PARTS}, 1, SANDWICH),
    "tp 2 + sp, gathers": ({"tp": 2, "recompute": R(mode="selective")}, 0, {}),
    "tp 2 + sp, collectives saved": ({"tp": 2, "recompute": R(mode="full", communication="save")}, 0, SANDWICH),
    "cp 2": ({"cp": 2, "dp_shard": 2}, 1, {}),
    "cp 2, ring, parts": ({"cp": 2, "cp_kv": "ring", "recompute": R(mode="selective", names=("attention",))}, 0, {}),
    "gpipe, other shape": ({"pp": 2, "tp": 2, "schedule": "gpipe"}, 3, GPT),
    "1f1b, head alone": ({"pp": 2, "dp_shard": 2, "zero": 1, "layers_per_stage": (2, 0)}, 3, {}),
    "1f1b, first stage": ({"pp": 2, "dp_shard": 2}, 0, {"tie_word_embeddings": True}),
    "interleaved": (
        {"pp": 2, "vpp": 4, "dp_shard": 2, "schedule": "interleaved_1f1b", "recompute": R(mode="every_k")},
        0,
        {"num_hidden_layers": 8},
    ),
    "experts, ep 2": ({"dp_shard": 4, "ep": 2}, 3, {"moe": experts()}),
    "experts, bias": (
        {"dp_shard": 2, "ep": 2, "tp": 2, "recompute": R(mode="selective", names=("ffn",))},
        3,
        {"moe": experts(balance="bias", first_k_dense=1, num_shared_experts=0)},
    ),
    "all": (
        {"pp": 2, "dp_shard": 2, "cp": 2, "tp": 2, "ep": 2, "recompute": R(mode="full")},
        13,
        {"moe": experts()} | SANDWICH,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_agrees_with_the_engine(name):
    plan, rank, shape = LAYOUTS[name]
    at = work(plan, **shape)
    rows = compare(predict(at, rank), dry_run(at, TrainRecipe(), rank))
    assert [row for row in rows if not row.agrees] == []


def test_float32_and_packed_documents():
    for plan in ({"tp": 2}, {"cp": 2, "recompute": R(mode="full")}, {"pp": 2, "dp_shard": 2}):
        at = work(plan, dtype=torch.float32, doc_len=24, **SANDWICH)
        rows = compare(predict(at, 1), dry_run(at, TrainRecipe(), 1))
        assert [row for row in rows if not row.agrees] == []


def test_parameters_over_all_ranks_are_the_models():
    """Every element has one holder in each copy of the model: the sum over ranks is counted by another formula."""
    for shape in ({}, GPT, {"moe": experts(), **SANDWICH}):
        cfg = config(**shape)
        plan = ParallelPlan(dp_shard=2, tp=2, pp=1, zero=3)
        total = sum(States(cfg, plan, rank).optimizer_bytes // 8 for rank in range(4))
        replicated = sum(
            len_of(p.shape) for p in States(cfg, plan, 0).params[0] if p.tp_dim is None
        )  # whole on both tp ranks
        assert total - replicated == count_params(cfg)


def len_of(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def test_pangu_ultra_has_its_published_size():
    cfg, plan = PRESETS["pangu-ultra-135b"], ParallelPlan(tp=8, pp=8, dp_shard=128, zero=1)
    ranks = [States(cfg, plan, pp * 1024 + tp) for pp in range(8) for tp in range(8)]
    held = sum(shard_bytes.optimizer_bytes for shard_bytes in ranks) * 128 / 8
    assert held / 1e9 == pytest.approx(133.9, abs=0.1)


def test_flops_are_those_of_training():
    """3 × forward, and one product of scores more in attention's backward pass."""
    for shape in ({}, {"moe": experts()}, SANDWICH):
        at = work({}, **shape)
        flops = Flops(at, 0).count()
        pairs = at.micro_batches * at.rows * at.seq_len * (at.seq_len + 1) // 2
        usual = train_flops(at.config, at.micro_batches * at.tokens, pairs)
        again = 2 * at.config.num_hidden_layers * at.config.num_attention_heads * at.config.head_size * pairs
        assert sum(flops.values()) == usual + again


def test_order_of_an_interleaved_pipeline():
    """2 ranks, 2 stages each, 4 micro-batches: the figure of arXiv 2104.04473 (depth first, 1F1B inside)."""
    plan = ParallelPlan(pp=2, vpp=2, schedule="interleaved_1f1b")
    last = [f"{a.kind}{a.stage}.{a.micro_batch}" for a in actions(plan, 1, 4) if a.kind in "FB"]
    assert last[:6] == ["F1.0", "F1.1", "F3.0", "B3.0", "F3.1", "B3.1"]
    assert sorted(last) == sorted(f"{k}{s}.{i}" for k in "FB" for s in (1, 3) for i in range(4))


def test_what_it_does_not_know():
    for plan, told in (
        ({"tp": 2, "chunks": 2}, "chunks"),
        ({"copies": 2}, "two copies"),
        ({"pp": 2, "vpp": 2, "schedule": "zbv"}, "two halves"),
        ({"offload": "optimizer"}, "offload"),
    ):
        with pytest.raises(NotModelled, match=told):
            predict(work(plan, num_hidden_layers=4), 0)
    with pytest.raises(NotModelled, match="sliding window"):
        predict(work({}, sliding_window=16), 0)

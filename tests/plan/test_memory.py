"""Memory against published formulas and figures, the engine's own formulas, and the schedules' real order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from athanor.model.config import ModelConfig, MoEConfig
from athanor.parallel.activations import activation_bytes
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.plan.blocks import Load
from athanor.plan.engine_model import predict
from athanor.plan.layouts import Layouts
from athanor.plan.memory import block_bytes, in_flight, memory, rank_parameters, settle_budget
from athanor.plan.shape import parameters
from athanor.plan.timeline import PipelineWork, simulate
from athanor.plan.traits import ENGINES, States
from athanor.plan.workload import Workload
from athanor.recipe.presets import PRESETS

GPT = ModelConfig(
    vocab_size=51200,
    hidden_size=6144,
    intermediate_size=4 * 6144,
    num_hidden_layers=48,
    num_attention_heads=64,
    num_key_value_heads=64,
    mlp_gated=False,
    norm_type="layernorm",
    hidden_act="gelu",
)
LLAMA = ModelConfig(
    vocab_size=1024,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=4,
)
MIXED = LLAMA.model_copy(
    update={"moe": MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=256, first_k_dense=3)}
)


def _load(at: Layouts, seq_len: int) -> Load:
    one = np.ones(len(at))
    return Load((at.rows * seq_len / at.cp).astype(np.float64), seq_len, one * (seq_len + 1) / 2, one)


@pytest.mark.parametrize(
    ("tp", "sp", "names", "words"),
    [
        # arXiv 2205.05198, table 2: bytes of a layer in sbh.
        (1, False, (), lambda a, s, h, t: 34 + 5 * a * s / h),
        (8, False, (), lambda a, s, h, t: 10 + 24 / t + 5 * a * s / (h * t)),
        (8, True, (), lambda a, s, h, t: 34 / t + 5 * a * s / (h * t)),
        (8, False, ("core",), lambda a, s, h, t: 10 + 24 / t),
        (8, True, ("core",), lambda a, s, h, t: 34 / t),
    ],
)
def test_activations_of_a_gpt_block_as_published(tp: int, sp: bool, names: tuple[str, ...], words):  # type: ignore[no-untyped-def]
    at = Layouts.of([ParallelPlan(tp=tp, sp=sp)], 48, 4, 1)
    at.names[:, -1] = bool(names)
    kept = block_bytes(GPT, at, _load(at, 2048), ENGINES["megatron-2022"], expert=False).kept
    expected = 4 * 2048 * 6144 * words(64, 2048, 6144, tp)
    assert float(sum(kept.values())[0]) == pytest.approx(expected, rel=1e-12)  # type: ignore[index]


def test_a_block_that_is_made_again_keeps_its_input():
    at = Layouts.of([ParallelPlan(tp=8, sp=False), ParallelPlan(tp=8)], 48, 4, 1)
    full = block_bytes(GPT, at, _load(at, 2048), ENGINES["megatron-2022"], expert=False).full
    assert full.tolist() == [2 * 4 * 2048 * 6144, 2 * 4 * 2048 * 6144 / 8]


@pytest.mark.parametrize("config", [LLAMA, MIXED])
def test_athanors_blocks_are_those_of_its_own_formulas(config: ModelConfig):
    chosen = RecomputePlan(mode="selective", names=("ffn", "norms"))
    at = Layouts.of([ParallelPlan(tp=2, recompute=chosen), ParallelPlan(cp=2, recompute=chosen)], 12, 2, 1)
    expert = config.moe is not None
    ours = block_bytes(config, at, _load(at, 256), ENGINES["athanor"], expert)
    tokens = (512, 256)
    for i, tp in enumerate((2, 1)):
        for choice, value in ((("ffn", "norms"), sum(ours.kept.values())), ("none", ours.plain), ("full", ours.full)):
            expected = activation_bytes(config, tokens[i], choice, torch.bfloat16, tp, True, expert=expert)  # type: ignore[arg-type]
            assert float(value[i]) == expected  # type: ignore[index]


def test_states_as_in_the_zero_paper():
    """arXiv 1910.02054, figure 1: 7.5 B parameters on 64 devices, 120, 31.4, 16.6 and 1.88 GB."""
    config = LLAMA.model_copy(update={"tie_word_embeddings": True})
    total = parameters(config).total
    engine = ENGINES["megatron-core"].model_copy(
        update={
            "states": {
                0: States(whole=16, sharded=0),
                1: States(whole=4, sharded=12),
                2: States(whole=2, sharded=14),
                3: States(whole=0, sharded=16),
            },
            "state_grad_bytes": 2,
        }
    )
    at = Layouts.of([ParallelPlan(dp_shard=64, zero=z) for z in (0, 1, 2, 3)], 12, 1, 1)  # type: ignore[arg-type]
    held = memory(config, at, _load(at, 128), engine)
    states = (held.parameters + held.gradients + held.optimizer)[:, 0] * 7.5e9 / total / 1e9
    assert states.tolist() == pytest.approx([120, 31.4, 16.6, 1.88], rel=0.005)


@pytest.mark.parametrize("config", [LLAMA, MIXED])
def test_ranks_hold_the_whole_model_between_them(config: ModelConfig):
    plans = [
        ParallelPlan(pp=3, dp_shard=4, ep=1),
        ParallelPlan(pp=2, vpp=3, schedule="interleaved_1f1b", layers_per_stage=(1, 2, 3, 3, 3, 0), dp_shard=4),
        ParallelPlan(pp=2, vpp=2, schedule="zbv", dp_shard=4),
    ]
    every, routed = rank_parameters(config, Layouts.of(plans, 12, 1, 8))
    assert (every + routed).sum(axis=1).tolist() == [parameters(config).total] * 3
    spread = ParallelPlan(pp=3, dp_shard=4, ep=4)
    if config.moe is not None:
        _, fewer = rank_parameters(config, Layouts.of([spread], 12, 1, 8))
        assert fewer[0].tolist() == [x / 4 for x in routed[0]]


@pytest.mark.parametrize(
    ("schedule", "pp", "vpp", "m"),
    [
        ("gpipe", 4, 1, 8),
        ("1f1b", 4, 1, 8),
        ("1f1b", 4, 1, 4),
        ("interleaved_1f1b", 4, 3, 8),
        ("interleaved_1f1b", 2, 4, 8),
    ],
)
def test_micro_batches_in_flight_are_those_of_the_order_that_runs(schedule: str, pp: int, vpp: int, m: int):
    work = PipelineWork(
        schedule, pp, vpp, m, forward_s=1.0, backward_input_s=1.0, backward_weight_s=1.0, activation_bytes=1.0,  # type: ignore[arg-type]
    )  # fmt: skip
    at = Layouts.of([ParallelPlan(pp=pp, vpp=vpp, schedule=schedule)], 24, 1, m)  # type: ignore[arg-type]
    assert (in_flight(at)[0] * vpp).tolist() == simulate(work).peak_bytes.tolist()


@pytest.mark.parametrize(("schedule", "slack"), [("zbv", 1.0), ("dualpipev", 1.0)])
def test_v_shaped_schedules_hold_about_as_much_on_every_rank(schedule: str, slack: float):
    work = PipelineWork(
        schedule, 4, 2, 16, forward_s=1.0, backward_input_s=1.0, backward_weight_s=1.0, activation_bytes=1.0,  # type: ignore[arg-type]
    )  # fmt: skip
    at = Layouts.of([ParallelPlan(pp=4, vpp=2, schedule=schedule)], 24, 1, 16)  # type: ignore[arg-type]
    assert in_flight(at)[0] * 2 == pytest.approx(simulate(work).peak_bytes, abs=2 * slack)


def test_a_budget_is_kept_by_making_blocks_again():
    free = Layouts.of([ParallelPlan(pp=2)], 12, 2, 4)
    load, engine = _load(free, 512), ENGINES["athanor"]
    wanted = int(0.6 * memory(LLAMA, free, load, engine).activations.max())
    plan = ParallelPlan(pp=2, recompute=RecomputePlan(mode="budget", budget_bytes=wanted))
    at = settle_budget(LLAMA, Layouts.of([plan], 12, 2, 4), load, engine)
    assert 0 < at.full[0] < 1
    assert memory(LLAMA, at, load, engine).activations.max() == pytest.approx(wanted, rel=1e-6)


def test_offload_takes_states_out_of_the_device():
    plans = [ParallelPlan(offload=kind) for kind in ("none", "optimizer", "all")]  # type: ignore[arg-type]
    at = Layouts.of(plans, 12, 1, 1)
    held = memory(LLAMA, at, _load(at, 128), ENGINES["athanor"])
    assert held.optimizer[:, 0].tolist() == [8.0 * parameters(LLAMA).total, 0.0, 0.0]
    assert held.parameters[2, 0] == 0.0 < held.parameters[1, 0] == held.parameters[0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"dp_shard": 8, "zero": 3},
        {"dp_shard": 8, "zero": 2},
        {"dp_shard": 4, "tp": 2, "zero": 3},
        {"dp_shard": 2, "pp": 4, "zero": 3},
        {"dp_shard": 2, "cp": 2, "tp": 2, "zero": 3},
        {"dp_shard": 2, "pp": 2, "vpp": 2, "schedule": "interleaved_1f1b", "zero": 3},
        {"dp_shard": 8, "zero": 3, "recompute": RecomputePlan(mode="full")},
    ],
)
def test_athanor_is_as_the_exact_model_of_its_engine_says(changes: dict[str, object]):
    """``engine_model`` counts one rank's tensors and is checked against dry runs; the arrays here must keep to it."""
    config, plan = PRESETS["llama3-8b"], ParallelPlan(**changes)  # type: ignore[arg-type]
    work = Workload.of(config, plan, seq_len=4096, global_batch_tokens=4096 * plan.dp * 4, micro_batch_tokens=4096)
    at = Layouts.of([plan], 32, 1, 4)
    held = memory(config, at, _load(at, 4096), ENGINES["athanor"])
    for rank in (0, plan.world_size - 1):
        exact, pp = predict(work, rank), rank // (plan.world_size // plan.pp)
        assert held.optimizer[0, pp] == pytest.approx(exact.optimizer_bytes, rel=1e-4)
        if plan.zero == 3:
            # Under a pipeline gradients are whole until the step's end, and spread when it is over.
            whole = plan.dp_shard * plan.cp if plan.pp > 1 else 1
            assert held.parameters[0, pp] == pytest.approx(exact.parameter_bytes, rel=1e-4)
            assert held.gradients[0, pp] == pytest.approx(exact.gradient_bytes * whole, rel=1e-4)
        # The peak of everything is compared with the engine's own step in tests/dryrun/test_planned.py; what lies
        # between forward and backward passes is less than what is alive at the fullest moment of both.
        assert 0.85 * exact.activation_peak_bytes < held.activations[0, pp] + held.transient[0, pp]
        assert plan.recompute.mode != "none" or held.activations[0, pp] < exact.activation_peak_bytes

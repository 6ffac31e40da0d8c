"""A pipeline gives the single process's losses, metrics and gradients: every schedule, uneven cuts, experts, GRPO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from athanor.align.grpo import GRPO
from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.model import decoder
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.model.packing import Packing
from athanor.parallel.mesh import Ranks
from athanor.parallel.pipeline import Pipeline, check_micro_batches, forward_order
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.stages import Visit, placement, split
from athanor.train.objective import CausalLM, Objective
from tests.parallel.ranks import run_ranks

T = 24
VPP = {"gpipe": 1, "1f1b": 1, "interleaved_1f1b": 2, "zbv": 2, "dualpipev": 2}
#: blocks by number of stages: uneven, without any in the first stage, and in the last one where there are many
SPLITS = {2: (1, 3), 4: (0, 1, 2, 1), 8: (0, 1, 1, 1, 2, 1, 1, 0)}


def _config(n_layers: int, kind: str) -> ModelConfig:
    moe = MoEConfig(
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        num_shared_experts=1,
        router_aux_loss_coef=0.1,
        first_k_dense=1,
    )
    return ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        qk_norm=True,
        norm_placement="sandwich",
        init="tiny",
        tie_word_embeddings=kind == "tied",
        position_embedding="learned" if kind == "tied" else "rope",
        moe=moe if kind == "moe" else None,
    )


def _model(config: ModelConfig) -> Decoder:
    model = Decoder(config).double()
    init_weights(model, seed=1)
    return model


def _batches(n: int) -> list[Batch]:
    """Packed rows of several documents; each micro-batch has other lengths and other places without a loss, every
    second one shorter rows."""
    generator = torch.Generator().manual_seed(7)
    batches = []
    for i in range(n):
        length = T - 2 * (i % 2)
        doc_lens = [[5 + i % 3, 11, length - 16 - i % 3], [length - 3 - i, 3 + i]]
        ids = torch.randint(0, 64, (2, length), generator=generator)
        labels = torch.randint(0, 64, (2, length), generator=generator)
        labels[torch.rand(2, length, generator=generator) < 0.2] = IGNORE
        positions = torch.stack([torch.cat([torch.arange(k) for k in lens]) for lens in doc_lens])
        advantage, old = torch.randn(2, 2, length, generator=generator).double()
        extras = {"advantage_BT": advantage, "old_logprob_BT": 0.1 * old - 4}
        batches.append(Batch(ids, labels, positions, doc_lens, extras, {"metrics": {"reward": (0.5 * i, 2.0)}}))
    return batches


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "causal_lm": CausalLM,
    "grpo": lambda: GRPO(on_policy=False, temperature=0.7),
}


def _reference(kind: str, n_layers: int, n_micro: int, objective: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One process, one micro-batch after the other: metrics and gradients of a step."""
    model, batches = _model(_config(n_layers, kind)), _batches(n_micro)
    metrics: dict[str, Any] = {}
    run = OBJECTIVES[objective]()
    total = sum(run.weight(batch) for batch in batches)
    for batch in batches:
        loss = run(model, batch)
        (loss.loss_sum / total).backward()
        for name, (value, weight) in loss.metrics.items():
            old = metrics.get(name, (0.0, 0.0))
            metrics[name] = (old[0] + float(value), old[1] + weight)
    return metrics, {name: p.grad for name, p in model.named_parameters()}


def _plan(pp: int, schedule: str, **more: Any) -> ParallelPlan:
    plan = ParallelPlan(pp=pp, vpp=VPP[schedule], schedule=schedule, **more)  # type: ignore[arg-type]
    return plan.model_copy(update={"layers_per_stage": SPLITS[plan.stages]})


def _pipeline(plan: ParallelPlan, kind: str) -> tuple[Pipeline, Ranks]:
    ranks = Ranks.of(plan, torch.device("cpu"))
    config = _config(sum(plan.layers_per_stage or ()), kind)
    return Pipeline(split(_model(config), plan, ranks.at("pp")), ranks, plan, config), ranks


def _run(plan: ParallelPlan, n_micro: int, kinds: list[tuple[str, str]]) -> list[Any]:
    """On each rank, for each (model, objective): metrics of a step, of an evaluation, and this rank's gradients."""
    results = []
    for kind, name in kinds:
        pipeline, _ = _pipeline(plan, kind)
        batches, objective = _batches(n_micro), OBJECTIVES[name]()
        total = sum(objective.weight(batch) for batch in batches)
        metrics = pipeline.forward_backward(objective, batches, total)
        evaluated = pipeline.forward(objective, batches)
        grads = [(key, p.grad) for stage in pipeline.stages for key, p in stage.named_parameters()]
        results.append((metrics, evaluated, grads))
    return results


def _compare(plan: ParallelPlan, n_micro: int, kinds: list[tuple[str, str]], results: list[list[Any]]) -> None:
    for k, (kind, name) in enumerate(kinds):
        metrics, expected = _reference(kind, sum(plan.layers_per_stage or ()), n_micro, name)
        for ranks_answer in results:
            for given in ranks_answer[k][:2]:
                assert given.keys() == metrics.keys()
                for key, (value, weight) in metrics.items():
                    assert given[key][0] == pytest.approx(value, rel=1e-9, abs=1e-9), (kind, name, key)
                    assert given[key][1] == weight
        found = [pair for ranks_answer in results for pair in ranks_answer[k][2]]
        assert {key for key, _ in found} == expected.keys()
        assert len(found) == len(expected) + (kind == "tied")  # once each, but for the tied matrix
        for key, grad in found:
            assert grad is not None, (kind, name, key)
            torch.testing.assert_close(grad, expected[key], rtol=1e-9, atol=1e-11, msg=f"{kind} {name} {key}")


@pytest.mark.parametrize("pp", [2, 4])
@pytest.mark.parametrize("schedule", list(VPP))
def test_gradients_and_metrics_are_those_of_one_process(schedule: str, pp: int) -> None:
    plan = _plan(pp, schedule)
    n_micro = 8 if pp == 4 else 4
    kinds = [("dense", "causal_lm"), ("moe", "causal_lm"), ("moe", "grpo")]
    if schedule in ("1f1b", "zbv") and pp == 2:  # ends of the model on two ranks, and on one
        kinds.append(("tied", "causal_lm"))
    _compare(plan, n_micro, kinds, run_ranks(pp, _run, plan, n_micro, kinds))


# --- what a rank shares, several steps, FSDP --------------------------------------------------------------------------


def _one_row(batch: Batch) -> Batch:
    return Batch(batch.input_ids_BT[:1], batch.labels_BT[:1], batch.positions_BT[:1], batch.doc_lens[:1])


def _three_steps(plan: ParallelPlan) -> Any:
    """How often documents were packed in each call, and the gradients that three steps have added up."""
    pipeline, _ = _pipeline(plan, "tied")
    calls = [0]

    def counted(*args: Any) -> Packing:
        calls[0] += 1
        return Packing.of(*args)

    for stage in pipeline.stages:
        stage.pack = counted
    batches, objective, counts = _batches(4), CausalLM(), []
    for some in (batches, batches, [_one_row(batch) for batch in batches]):
        calls[0] = 0
        pipeline.forward_backward(objective, some, 10.0)
        counts.append(calls[0])
    calls[0] = 0
    pipeline.forward(objective, [batches[0], _one_row(batches[1]), batches[2]])  # no multiple of pp, not one shape
    counts.append(calls[0])
    with pytest.raises(AthanorError, match="different numbers of rows"):
        pipeline.forward_backward(objective, [*batches[:3], _one_row(batches[3])], 10.0)
    with pytest.raises(AthanorError, match="1 micro-batches a step"):
        pipeline.forward_backward(objective, batches[:1], 10.0)
    return counts, [(key, p.grad) for stage in pipeline.stages for key, p in stage.named_parameters()]


def test_packing_once_a_rank_and_steps_add_up() -> None:
    plan = _plan(2, "interleaved_1f1b")
    model = _model(_config(sum(plan.layers_per_stage or ()), "tied"))
    for batch in _batches(4):
        for part, times in ((batch, 2), (_one_row(batch), 1)):
            loss_sum, _ = model.loss(part.input_ids_BT, part.labels_BT, part.positions_BT, part.doc_lens)
            (times * loss_sum / 10.0).backward()
    expected = {key: p.grad for key, p in model.named_parameters()}
    for counts, grads in run_ranks(2, _three_steps, plan):
        assert counts == [4, 4, 4, 3]  # two stages a rank, one packing a micro-batch
        for key, grad in grads:
            torch.testing.assert_close(grad, expected[key], rtol=1e-9, atol=1e-11, msg=key)


def _shared_work(plan: ParallelPlan) -> tuple[Counter[str], Counter[str]]:
    """How often this rank makes rotary tables and lays out documents, in a step of four micro-batches and evaluating
    three."""
    pipeline, _ = _pipeline(plan, "dense")
    made: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            made[name] += 1
            return function(*args)

        return call

    decoder.rope_tables = counted("rope", decoder.rope_tables)  # this process ends with the test
    for stage in pipeline.stages:
        stage.pack = counted("documents", Packing.of)
    pipeline.forward_backward(CausalLM(), _batches(4), 10.0)
    trained = made.copy()
    made.clear()
    pipeline.forward(CausalLM(), _batches(3))
    return trained, made


@pytest.mark.parametrize("schedule", ["interleaved_1f1b", "zbv"])
def test_virtual_stages_share_rotary_tables_and_document_offsets(schedule: str) -> None:
    for trained, evaluated in run_ranks(2, _shared_work, _plan(2, schedule)):
        assert trained == {"rope": 4, "documents": 4}  # once a micro-batch, for two stages
        assert evaluated == {"rope": 3, "documents": 3}


def _sharded(plan: ParallelPlan, schedules: list[tuple[str, bool]]) -> list[Any]:
    """Each data rank has half the micro-batches; parameters are spread over the two of them, and freed behind each
    pass of a block (ZeRO 3) or kept."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups

    reductions, reduce = [0], groups.foreach_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        reductions[0] += 1
        return reduce(*args, **kwargs)

    groups.foreach_reduce = counted
    results = []
    for schedule, free in schedules:
        one = _plan(plan.pp, schedule, dp_shard=plan.dp_shard)
        pipeline, ranks = _pipeline(one, "moe")
        n_groups = 0
        for stage in pipeline.stages:
            for part in (*stage.layers.values(), stage):
                fully_shard(part, mesh=ranks.sub("fsdp"), reshard_after_forward=free and part is not stage)  # type: ignore[arg-type]
                part.set_force_sum_reduction_for_comms(True)
                part.set_gradient_divide_factor(1.0)
                n_groups += 1
            n_groups -= not any("layers" not in name for name, _ in stage.named_parameters())  # a root without its own
        batches, objective = _batches(8)[ranks.at("fsdp") :: 2], CausalLM()
        total = sum(objective.weight(batch) for batch in _batches(8))
        reductions[0] = 0
        metrics = pipeline.forward_backward(objective, batches, total)
        once = reductions[0] == n_groups
        evaluated = pipeline.forward(objective, batches)
        grads = [(key, p.grad.full_tensor()) for stage in pipeline.stages for key, p in stage.named_parameters()]  # type: ignore[union-attr]
        results.append((once, metrics, evaluated, grads))
    return results


def test_fsdp_reduces_once_a_step() -> None:
    schedules = [*((schedule, True) for schedule in VPP), ("1f1b", False), ("dualpipev", False)]
    answers = run_ranks(4, _sharded, ParallelPlan(pp=2, dp_shard=2), schedules)
    for k, (schedule, _) in enumerate(schedules):
        plan = _plan(2, schedule)
        metrics, expected = _reference("moe", sum(plan.layers_per_stage or ()), 8, "causal_lm")
        for answer in answers:
            once, found, evaluated, grads = answer[k]
            assert once, f"{schedule}: not one reduction a group and step"
            assert found == evaluated
            for key, grad in grads:
                torch.testing.assert_close(grad, expected[key], rtol=1e-9, atol=1e-11, msg=f"{schedule} {key}")
        # pp is the outermost dimension: ranks 0 and 1 are two data ranks of one pipeline place
        total = sum(answers[rank][k][1]["loss"][0] for rank in (0, 1))
        assert total == pytest.approx(metrics["loss"][0], rel=1e-9)


# --- without ranks -------------------------------------------------------------------------------------------------


def test_94_layers_on_48_stages_of_a_model_on_meta() -> None:
    config = _config(94, "dense")
    with torch.device("meta"):
        model = Decoder(config)
    whole = {name: p.shape for name, p in model.named_parameters()}
    middle = (2,) * 42 + (3, 2, 3, 2)
    for layers, ends in ((None, (1, 1)), ((0, *middle, 0), (0, 0))):
        plan = ParallelPlan(pp=8, vpp=6, schedule="interleaved_1f1b", layers_per_stage=layers)
        names: list[str] = []
        for at in range(8):
            stages = split(model, plan, at)
            assert [stage.index for stage in stages] == [at + 8 * turn for turn in range(6)]
            for stage in stages:
                assert all(p.is_meta and p.shape == whole[name] for name, p in stage.named_parameters())
                names += [name for name, _ in stage.named_parameters()]
                assert (stage.embed_tokens is None) == (stage.index > 0)
                assert (stage.lm_head is None) == (stage.final_norm is None) == (stage.index < 47)
            if at in (0, 7):
                assert len(stages[0 if at == 0 else -1].layers) == ends[at > 0]
        assert sorted(names) == sorted(whole)


def test_placement() -> None:
    loop, v = (ParallelPlan(pp=3, vpp=2, schedule=name) for name in ("interleaved_1f1b", "dualpipev"))
    assert placement(loop) == (0, 1, 2, 0, 1, 2)
    assert placement(v) == (0, 1, 2, 2, 1, 0)


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "zbv"])
@pytest.mark.parametrize("n_micro", [1, 3, 8])
def test_evaluation_goes_through_every_stage_in_order(schedule: str, n_micro: int) -> None:
    plan = ParallelPlan(pp=4, vpp=VPP[schedule], schedule=schedule)  # type: ignore[arg-type]
    order = forward_order(plan, n_micro)
    when = {pair: k for k, pair in enumerate(order)}
    assert len(when) == len(order) == plan.stages * n_micro
    assert all(when[s, i] < when[s + 1, i] for s, i in order if s + 1 < plan.stages)
    # Every rank takes the micro-batches of a stage in one order, or a message would be taken for another.
    assert all(when[s, i] < when[s, i + 1] for s, i in order if i + 1 < n_micro)


@pytest.mark.parametrize(
    ("schedule", "count", "wanted"),
    [
        ("gpipe", 3, "at least 4"),
        ("1f1b", 3, "at least 4"),
        ("zbv", 2, "at least 4"),
        ("dualpipev", 7, "at least 8"),
        ("interleaved_1f1b", 3, "at least 4"),
        ("interleaved_1f1b", 6, "a multiple of 4"),
    ],
)
def test_too_few_micro_batches_are_refused(schedule: str, count: int, wanted: str) -> None:
    plan = ParallelPlan(pp=4, vpp=VPP[schedule], schedule=schedule)  # type: ignore[arg-type]
    with pytest.raises(AthanorError, match=wanted):
        check_micro_batches(plan, count)
    check_micro_batches(plan, 8)


class _Elsewhere(CausalLM):
    def __call__(self, model: Decoder, batch: Batch) -> Any:
        return model.loss(batch.input_ids_BT.clone(), batch.labels_BT, batch.positions_BT, batch.doc_lens)


def test_an_objective_that_runs_other_tokens_is_refused() -> None:
    config, plan = _config(2, "dense"), ParallelPlan(pp=2, schedule="1f1b")
    (stage,), (batch,) = split(_model(config), plan, 1), _batches(1)
    context = stage.context(batch.input_ids_BT, batch.positions_BT, batch.doc_lens)
    h_BTD = torch.randn(2, T, 32, dtype=torch.float64)
    stage(h_BTD, Visit(batch, context, CausalLM(), 1.0, None))
    with pytest.raises(AthanorError, match="something else than the micro-batch"):
        stage(h_BTD, Visit(batch, context, _Elsewhere(), 1.0, None))

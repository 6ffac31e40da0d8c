"""The sharded optimizer on layouts of every kind, with given gradients, against the one-process optimizer."""

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial

from athanor.errors import AthanorError
from athanor.parallel.data import apply_data_parallel
from athanor.parallel.mesh import Ranks
from athanor.parallel.optimizer import ShardedAdamW
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.optimizer import AdamW
from tests.parallel.ranks import run_ranks
from tests.parallel.training import LR, compare, config, model_of, on_ranks, one_process, spread, whole

F64, F32 = torch.float64, torch.float32
STEPS = 3


def given_gradients(plans, tied, recipe):
    """Gradients of step s are the weights of seed s + 1; returns norms, skips and parameters by plan."""
    cfg = config(moe=plans[0].ep > 1, tied=tied)
    out = []
    for plan in plans:
        ranks = Ranks.of(plan, torch.device("cpu"))
        model = spread(ranks, cfg, 0)
        optimizer = ShardedAdamW([model], ranks, recipe)
        norms = []
        for step in range(STEPS):
            for p, grad in zip(model.parameters(), spread(ranks, cfg, step + 1).parameters(), strict=True):
                p.grad = _as_partial(grad.data) if plan.tp > 1 else grad.data
            norms.append(float(optimizer.step(LR, 0.7).grad_norm))
        out.append((norms, whole(optimizer.masters)))
    return out


def _as_partial(grad):
    """A gradient that is a copy on every tp rank, as the sum of halves instead."""
    if not grad.placements[-1].is_replicate():
        return grad
    places = [*grad.placements[:-1], Partial()]
    half = grad.to_local() / grad.device_mesh.size(-1)
    return DTensor.from_local(half, grad.device_mesh, places, shape=grad.shape, stride=grad.stride())


def expected(moe, tied, recipe):
    cfg = config(moe=moe, tied=tied)
    model = model_of(cfg, F64, 0)
    optimizer = AdamW(model, recipe)
    norms = []
    for step in range(STEPS):
        for p, grad in zip(model.parameters(), model_of(cfg, F64, step + 1).parameters(), strict=True):
            p.grad = grad.data.clone()
        optimizer.accumulate()
        norms.append(float(optimizer.step(LR, 0.7).grad_norm))
    return norms, optimizer.masters


USUAL, PLAIN = OptimizerRecipe(), OptimizerRecipe(fused=False)
CASES = {
    "tp and fsdp": ([ParallelPlan(tp=2, dp_shard=2), ParallelPlan(tp=4)], False, False, USUAL),
    "pp and its neighbours": (
        [ParallelPlan(pp=2, dp_shard=2), ParallelPlan(pp=2, tp=2), ParallelPlan(pp=2, dp_replicate=2, zero=1)],
        False,
        False,
        USUAL,
    ),
    "tied over pp": ([ParallelPlan(pp=2, dp_shard=2), ParallelPlan(pp=2, dp_shard=2, zero=0)], False, True, USUAL),
    "experts": ([ParallelPlan(dp_shard=4, ep=2), ParallelPlan(dp_replicate=2, dp_shard=2, ep=2)], True, False, PLAIN),
    "plain update": ([ParallelPlan(tp=2, dp_shard=2, offload="optimizer")], False, False, PLAIN),
    "post-norms by depth": (
        [ParallelPlan(tp=2, dp_shard=2), ParallelPlan(pp=2, dp_shard=2), ParallelPlan(dp_replicate=2, dp_shard=2)],
        False,
        False,
        OptimizerRecipe(post_norm_lr="depth_scaled"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_element_counts_once_and_is_updated_once(case):
    plans, moe, tied, recipe = CASES[case]
    norms, masters = expected(moe, tied, recipe)
    results = run_ranks(4, given_gradients, plans, tied, recipe)
    for i, plan in enumerate(plans):
        assert {tuple(rank[i][0]) for rank in results} == {tuple(results[0][i][0])}  # the same bits on all ranks
        assert results[0][i][0] == pytest.approx(norms, rel=1e-12), plan
        seen = {}
        for rank in results:
            for name, p in rank[i][1].items():
                torch.testing.assert_close(p, masters[name], rtol=1e-9, atol=1e-9, msg=f"{plan} {name}")
                seen[name] = p
        assert seen.keys() == masters.keys()


def broken(plan):
    return on_ranks(plan, config(), F64, F64, broken_step=2)


@pytest.mark.parametrize("zero", [0, 3])
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(zero):
    results = run_ranks(2, broken, ParallelPlan(dp_shard=2, zero=zero))
    reference = one_process(config(), F64, F32, broken_step=2)
    for rank in results:
        assert rank[2] == [0.0, 0.0, 1.0, 0.0, 0.0]
        compare(rank, reference, 1e-9)


def odds_and_ends():
    """Missing gradients count as zero, frozen parameters stay, restore refuses what does not fit."""
    ranks = Ranks.of(ParallelPlan(dp_shard=2), torch.device("cpu"))
    model = model_of(config(), F64)
    model.embed_tokens.weight.requires_grad_(False)
    apply_data_parallel(model, ranks, ranks.plan, F64)
    optimizer = ShardedAdamW([model], ranks, OptimizerRecipe())
    assert "embed_tokens.weight" not in optimizer.masters and optimizer.grads.keys() == optimizer.masters.keys()
    before = whole(optimizer.masters)
    norm = float(optimizer.step(LR, 1.0).grad_norm)
    after = whole(optimizer.masters)
    state = optimizer.snapshot()
    messages = []
    for change in (
        lambda s: s["params"].pop("final_norm.weight"),
        lambda s: s["params"].update({"lm_head.weight": s["params"]["layers.0.attn.q_proj.weight"]}),
        lambda s: s["exp_avg"].update({"lm_head.weight": s["exp_avg"]["lm_head.weight"].full_tensor()}),
    ):
        copy = {key: dict(part) for key, part in state.items()}
        change(copy)
        try:
            optimizer.restore(copy, "here")
        except AthanorError as error:
            messages.append(str(error))
    optimizer.restore(state)
    same = all(torch.equal(p, after[name]) for name, p in whole(optimizer.masters).items())
    return norm, before, after, messages, same, float(optimizer.steps_done)


def test_missing_gradients_frozen_parameters_and_refusals():
    for norm, before, after, messages, same, steps in run_ranks(2, odds_and_ends):
        assert norm == 0.0 and same and steps == 1.0
        torch.testing.assert_close(after["lm_head.weight"], before["lm_head.weight"] * (1 - 0.1 * LR))
        assert torch.equal(after["final_norm.weight"], before["final_norm.weight"])
        names, shapes, layout = messages
        assert "final_norm.weight" in names and "here" in names
        assert "lm_head.weight has shape (32, 32), the model's is (67, 32)" in shapes
        assert "lm_head.weight is laid out in another way" in layout

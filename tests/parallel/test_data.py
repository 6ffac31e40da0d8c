"""FSDP2 layouts against the one-process optimizer: losses, gradient norms and final parameters of five steps."""

import dataclasses
from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from athanor.data.types import Batch
from athanor.parallel.context import split_batch
from athanor.parallel.context_attention import ContextPacking
from athanor.parallel.data import apply_data_parallel, free_gathered, gradient_sync, sharded_modules
from athanor.parallel.mesh import Ranks
from athanor.parallel.optimizer import ShardedAdamW
from athanor.parallel.plan import ParallelPlan
from athanor.recipe.schema import OptimizerRecipe
from tests.parallel.ranks import run_ranks
from tests.parallel.training import (
    LR,
    compare,
    config,
    laid_out,
    micro,
    model_of,
    on_ranks,
    one_process,
    weight,
    whole,
)

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16


@cache
def reference(moe=False, tied=False, dtype=F64, compute=F32):
    return one_process(config(moe, tied), dtype, compute)


def plans_for(world):
    if world == 1:
        return [ParallelPlan()]
    if world == 2:
        zeros = [ParallelPlan(dp_shard=2, zero=zero) for zero in (0, 1, 2, 3)]
        return zeros + [ParallelPlan(dp_shard=2, offload=offload) for offload in ("optimizer", "all")]
    return [
        ParallelPlan(dp_shard=4, zero=3),
        ParallelPlan(dp_replicate=2, dp_shard=2, zero=3),
        ParallelPlan(dp_replicate=2, dp_shard=2, zero=1),
        ParallelPlan(dp_replicate=2, dp_shard=2, zero=0),
    ]


def several(plans):
    return [on_ranks(plan, config(), F64, F64) for plan in plans]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_five_steps_equal_one_process(world):
    """All ZeRO levels, hybrid sharding, offload; a vocabulary of 67 and widths that the ranks do not divide."""
    plans = plans_for(world)
    results = run_ranks(world, several, plans)
    for rank in results:
        for plan, got in zip(plans, rank, strict=True):
            compare(got, reference(), 1e-9, repr(plan))
    if world == 2:
        for rank in results:  # the same kernel on the same numbers, wherever they lie
            for offloaded in rank[4:]:
                assert offloaded[1] == rank[3][1]
                assert all(torch.equal(offloaded[3][name], p) for name, p in rank[3][3].items())


def mixtures():
    """Experts over ep 2, once with two ranks for each expert's shards, once hybrid; tied embeddings."""
    plans = [ParallelPlan(dp_shard=4, ep=2), ParallelPlan(dp_replicate=2, dp_shard=2, ep=2, zero=0)]
    return [on_ranks(plan, config(moe=True), F64, F64) for plan in plans] + [
        on_ranks(ParallelPlan(dp_shard=4), config(tied=True), F64, F64)
    ]


def test_experts_have_a_mesh_of_their_own_and_tied_embeddings_count_once():
    for rank in run_ranks(4, mixtures):
        compare(rank[0], reference(moe=True), 1e-9, "ep2 fsdp2")
        compare(rank[1], reference(moe=True), 1e-9, "ep2 copies2")
        compare(rank[2], reference(tied=True), 1e-9, "tied")


def low_precision():
    plan = ParallelPlan(dp_shard=2)
    return [on_ranks(plan, config(), F32, compute) for compute in (F32, BF16)]


def test_float32_and_bfloat16_runs_stay_close_to_one_process():
    """float32: sums in another order change gradients by about 1e-6, and Adam's first steps (g/√g²) amplify that where
    a gradient is near its rounding, up to a fraction of the rate 3e-3 for single elements; 2e-4 was the most seen.
    bfloat16: eight bits of mantissa in activations, so losses agree to about 1e-3."""
    for full, half in run_ranks(2, low_precision):
        exact = reference(dtype=F32)
        assert full[0] == pytest.approx(exact[0], rel=1e-5) and full[1] == pytest.approx(exact[1], rel=1e-4)
        for name, p in full[3].items():
            assert p.dtype == F32
            torch.testing.assert_close(p, exact[3][name], rtol=0, atol=LR / 10, msg=name)
        rough = reference(dtype=F32, compute=BF16)
        assert half[0] == pytest.approx(rough[0], rel=2e-3) and half[1] == pytest.approx(rough[1], rel=3e-2)
        assert half[0] != full[0]
        assert {p.dtype for p in half[3].values()} == {F32}


def held_bytes():
    """(bytes of parameters + moments a rank holds, those of the whole model) by layout, measured from storages."""
    out = []
    for plan in (ParallelPlan(dp_shard=4), ParallelPlan(dp_replicate=2, dp_shard=2), ParallelPlan(dp_shard=4, zero=0)):
        ranks, model = laid_out(plan, config(), F32, F32)
        optimizer = ShardedAdamW([model], ranks, OptimizerRecipe())
        kept = [p.to_local() for p in optimizer.masters.values()]
        kept += [t for group in optimizer.groups for t in (*group.exp_avg, *group.exp_avg_sq)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        out.append((sum(storages.values()), sum(p.numel() for p in model_of(config(), F32).parameters()) * 12))
    return out


def test_bytes_of_parameters_and_optimizer_state():
    for rank in run_ranks(4, held_bytes):
        for (held, total), n_shards in zip(rank, (4, 2, 1), strict=True):
            assert held == pytest.approx(total / n_shards, rel=0.03), n_shards  # of 67 rows one rank has less


def entries(zero):
    """Every way into the model from outside, with gradients, and without any left gathered in between."""
    ranks, model = laid_out(ParallelPlan(dp_shard=2, zero=zero), config(), F64, F64)
    ids, labels, positions, lens = micro(0, [ranks.rank])
    out = []
    for call in (
        lambda m: m(ids, positions, lens).square().sum(),
        lambda m: m.hidden(ids, positions, lens)[0].square().sum(),
        lambda m: m.token_logprobs(ids, labels, positions, lens)[0].sum(),
        lambda m: m.loss(ids, labels, positions, lens)[0],
    ):
        with torch.no_grad():
            value = call(model)
        loss = call(model)
        loss.backward()
        grads = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
        for p in model.parameters():
            p.grad = None
        out.append((float(value), float(loss.detach()), grads))
    return out


@pytest.mark.parametrize("zero", [2, 3])
def test_every_entry_point_gathers_the_root_and_brings_its_gradients(zero):
    results = run_ranks(2, entries, zero)
    calls = (
        lambda m, ids, labels, *rest: m(ids, *rest).square().sum(),
        lambda m, ids, labels, *rest: m.hidden(ids, *rest)[0].square().sum(),
        lambda m, ids, labels, *rest: m.token_logprobs(ids, labels, *rest)[0].sum(),
        lambda m, ids, labels, *rest: m.loss(ids, labels, *rest)[0],
    )
    for i, call in enumerate(calls):
        model = model_of(config(), F64)
        for rank in range(2):
            loss = call(model, *micro(0, [rank]))
            assert results[rank][i][0] == results[rank][i][1] == pytest.approx(float(loss.detach()), rel=1e-12)
            loss.backward()
        expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        for rank in results:
            assert rank[i][2].keys() == expected.keys()
            for name, grad in rank[i][2].items():
                torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-10, msg=f"{i} {name}")


def accumulation():
    """Reductions of one step by ZeRO level and choice, what is spread meanwhile, and the gradients."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as group

    counts, real = [], group.foreach_reduce
    group.foreach_reduce = lambda *args, **kwargs: (counts.append(1), real(*args, **kwargs))[1]
    out = {}
    for zero, each in ((1, False), (3, False), (3, True)):
        ranks, model = laid_out(ParallelPlan(dp_shard=2, zero=zero), config(), F64, F64)
        counts.clear()
        spread = []
        for i in range(3):
            gradient_sync(model, each or i == 2)
            ids, labels, positions, lens = micro(0, [2 * i + ranks.rank])
            (model.loss(ids, labels, positions, lens)[0] / weight(0)).backward()
            spread.append(all(isinstance(p, DTensor) for p in model.parameters()))
        grads = {n: p.grad.full_tensor() for n, p in model.named_parameters()}
        out[zero, each] = len(counts), spread, grads
    return out


def test_gradients_accumulate_with_a_single_reduction_where_asked():
    results = run_ranks(2, accumulation)
    model = model_of(config(), F64)
    for i in range(6):
        (model.loss(*micro(0, [i]))[0] / weight(0)).backward()
    for rank in results:
        modules = 3  # two blocks and the root
        assert {key: n for key, (n, _, _) in rank.items()} == {(1, False): modules, (3, False): modules, (3, True): 9}
        assert rank[1, False][1] == [False, False, True]  # parameters stay gathered until the last micro-batch
        assert rank[3, False][1] == rank[3, True][1] == [True, True, True]
        for key, (_, _, grads) in rank.items():
            for name, p in model.named_parameters():
                torch.testing.assert_close(grads[name], p.grad, rtol=1e-10, atol=1e-12, msg=f"{key} {name}")


def compiled():
    ranks = Ranks.of(ParallelPlan(dp_shard=2), torch.device("cpu"))
    model = model_of(config(), F64)
    for layer in model.layers:
        layer.compile(backend="aot_eager", dynamic=False)  # what compile_blocks does, without the C++ compiler
    apply_data_parallel(model, ranks, ranks.plan, F64)
    loss = model.loss(*micro(0, [ranks.rank]))[0]
    loss.backward()
    return float(loss.detach()), {n: p.grad.full_tensor() for n, p in model.named_parameters()}


def test_compiled_blocks():
    results = run_ranks(2, compiled)
    model = model_of(config(), F64)
    for rank in range(2):
        loss = model.loss(*micro(0, [rank]))[0]
        loss.backward()
        assert results[rank][0] == pytest.approx(float(loss.detach()), rel=1e-12)
    for _, grads in results:
        for name, p in model.named_parameters():
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-9, atol=1e-9, msg=name)


def parts_of_a_stage():
    """The middle stage of a pipeline: blocks under global numbers, no embedding, norm or head."""
    ranks = Ranks.of(ParallelPlan(dp_shard=2, zero=1), torch.device("cpu"))
    model = model_of(config(), F64)
    model.layers = torch.nn.ModuleDict({"1": model.layers[1]})
    model.embed_tokens = model.final_norm = model.lm_head = None
    apply_data_parallel(model, ranks, ranks.plan, F64)
    names = [n for n, _ in model.named_parameters()]
    with torch.no_grad():
        model.layers["1"](torch.ones(1, 4, 32, dtype=F64), *model.context(torch.ones(1, 4), None, dtype=F64)[1:])
    gathered = [isinstance(p, DTensor) for p in model.parameters()]
    free_gathered(model)
    dist.barrier()
    return names, any(gathered), list(whole(dict(model.named_parameters()))), len(list(sharded_modules(model)))


def test_a_stage_without_ends_and_freeing_what_evaluation_left_gathered():
    for names, gathered, after, modules in run_ranks(2, parts_of_a_stage):
        assert names == after and all(name.startswith("layers.1.") for name in names)
        assert not gathered and modules == 2


def test_document_boundaries_are_one_value_to_fsdp():
    """FSDP looks for tensors inside whatever lists, tuples and dataclasses a block is given: with a number for each
    document that took 0.4 ms a look at 512 documents, several times a block."""
    ids, lens = torch.zeros(2, 8, dtype=torch.int64), [[3, 5], [8]]
    plain = model_of(config(), F32).context(ids, None, lens).packing
    split = split_batch(Batch(ids, ids, ids, lens, {}, {}), 0, 2).doc_lens
    spread = ContextPacking.of(split, "all_gather", torch.device("cpu"))
    for packing in (plain, spread):
        assert not dataclasses.is_dataclass(packing) and not isinstance(packing, list | tuple | dict)

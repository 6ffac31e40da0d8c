"""Chunked products and copies: the plain model's results in float64, and collectives that are really in flight."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from athanor.data.types import Batch
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.parallel import chunked
from athanor.parallel.chunked import all_gather_matmul, matmul_reduce_scatter
from athanor.parallel.context import split_batch
from athanor.parallel.context_attention import apply_context_parallel
from athanor.parallel.expert import apply_expert_parallel
from athanor.parallel.mesh import Ranks
from athanor.parallel.overlap import Halves, apply_chunked, apply_copies
from athanor.parallel.plan import ParallelPlan, RecomputePlan
from athanor.parallel.recompute import apply_recompute
from athanor.parallel.tensor import apply_tensor_parallel
from tests.parallel.ranks import run_ranks

CPU = torch.device("cpu")
ROWS, T, D = 3, 26, 32  # halves of 1 and 2 rows; 13 tokens a rank are no multiple of 3 chunks
DOC_LENS = [[7, 19], [26], [5, 12, 9]]
OLD: dict[str, Any] = dict(
    attention_bias=True,
    attention_output_bias=True,
    mlp_bias=True,
    norm_type="layernorm",
    position_embedding="learned",
    hidden_act="gelu",
    mlp_gated=False,
)
MOE = MoEConfig(
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    num_shared_experts=1,
    first_k_dense=1,
    router_aux_loss_coef=0.5,
)
MODELS: dict[str, dict[str, Any]] = {
    "dense": dict(norm_placement="sandwich", qk_norm=True, num_key_value_heads=2),
    "old": OLD,
    "one KV head": dict(num_key_value_heads=1, attention_bias=True),
    "experts": dict(moe=MOE),
    "experts, bias": dict(moe=MOE.model_copy(update={"balance": "bias", "num_shared_experts": 0})),
}
CHUNKED = ParallelPlan(tp=2, chunks=3)
COPIES = ParallelPlan(tp=2, copies=2)
LAYOUTS: dict[str, tuple[str, ParallelPlan]] = {
    "chunks, dense": ("dense", CHUNKED),
    "chunks, old": ("old", CHUNKED),
    "chunks, one KV head": ("one KV head", CHUNKED),
    "chunks, experts": ("experts", CHUNKED),
    "copies, dense": ("dense", COPIES),
    "copies, old": ("old", COPIES),
    "copies, experts": ("experts", COPIES),
    "copies, experts, bias": ("experts, bias", COPIES),
    "copies, all-reduce": ("experts", COPIES.model_copy(update={"sp": False})),
    "copies, recompute full": ("experts", COPIES.model_copy(update={"recompute": RecomputePlan(mode="full")})),
    "copies, collectives saved": (
        "dense",
        COPIES.model_copy(update={"recompute": RecomputePlan(mode="full", communication="save")}),
    ),
    "chunks, recompute qkv": (
        "dense",
        CHUNKED.model_copy(update={"recompute": RecomputePlan(mode="selective", names=("qkv_proj", "norms"))}),
    ),
    "copies, context parallel": ("dense", ParallelPlan(cp=2, copies=2)),
    "copies, expert parallel": ("experts", ParallelPlan(dp_shard=2, ep=2, copies=2)),
}


def make(name: str) -> Decoder:
    sizes = dict(
        vocab_size=64,
        hidden_size=D,
        intermediate_size=44,
        num_hidden_layers=2,
        max_position_embeddings=64,
        init="normal",
    )
    heads = dict(num_attention_heads=4, num_key_value_heads=4, initializer_range=0.2)
    model = Decoder(ModelConfig(**(sizes | heads | MODELS[name]))).double()  # type: ignore[arg-type]
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, param in sorted(model.named_parameters()):
            param += 0.1 * torch.randn(param.shape, generator=generator, dtype=torch.float64)
    return model


def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids, labels = (torch.randint(0, 64, (ROWS, T), generator=generator) for _ in range(2))
    labels[:, ::5] = -100
    positions = torch.stack([torch.cat([torch.arange(n) for n in lens]) for lens in DOC_LENS])
    return Batch(ids, labels, positions, DOC_LENS, {}, {})


def loss_of(model: Decoder, data: Batch) -> torch.Tensor:
    loss, aux = model.loss(data.input_ids_BT, data.labels_BT, data.positions_BT, data.doc_lens)
    return loss if aux is None else loss + 40.0 * aux


# --- the products ----------------------------------------------------------------------------------------------------


def inputs_of(rank: int) -> tuple[torch.Tensor, ...]:
    """x, two weights and factors for all_gather_matmul, then x, weight, factor for matmul_reduce_scatter."""
    generator = torch.Generator().manual_seed(30 + rank)
    shapes = [(3, 5, 6), (4, 6), (7, 6), (3, 20, 4), (3, 20, 7), (3, 20, 8), (6, 8), (3, 5, 6)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def products_rank() -> Any:
    answers = {}
    for chunks in (1, 2, 3, 9):
        x, w1, w2, c1, c2, y, w3, c3 = (t.requires_grad_() for t in inputs_of(dist.get_rank()))
        outs = all_gather_matmul(x, [w1, w2], dist.group.WORLD, chunks)
        scattered = matmul_reduce_scatter(y, w3, dist.group.WORLD, chunks)
        ((outs[0] * c1).sum() + (outs[1] * c2).sum() + (scattered * c3).sum()).backward()
        answers[chunks] = [t.detach() for t in (*outs, scattered)] + [t.grad for t in (x, w1, w2, y, w3)]
    return answers


def test_products_in_pieces_are_the_products() -> None:
    world = 4
    tensors = [tuple(t.requires_grad_() for t in inputs_of(rank)) for rank in range(world)]
    whole = torch.cat([x for x, *_ in tensors], dim=1)
    total = sum(y @ w3.t() for *_, y, w3, _ in tensors)
    expected, losses = [], []
    for rank, (_, w1, w2, c1, c2, _, _, c3) in enumerate(tensors):
        outs = [whole @ w1.t(), whole @ w2.t(), total[:, 5 * rank : 5 * rank + 5]]  # type: ignore[index]
        expected.append([out.detach() for out in outs])
        losses.append((outs[0] * c1).sum() + (outs[1] * c2).sum() + (outs[2] * c3).sum())
    sum(losses).backward()  # type: ignore[union-attr]
    for rank, answers in enumerate(run_ranks(world, products_rank)):
        x, w1, w2, _, _, y, w3, _ = tensors[rank]
        for chunks, answer in answers.items():
            for got, want in zip(answer, [*expected[rank], x.grad, w1.grad, w2.grad, y.grad, w3.grad], strict=True):
                assert torch.allclose(got, want, rtol=0, atol=1e-12), chunks


def symmetric_rank() -> Any:
    """As ``products_rank``, through the operators over symmetric memory. No CPU has such memory: torch's own definition
    of what they compute, plain collectives and products, stands in for the CUDA kernels."""
    import torch.distributed._symmetric_memory as symmetric

    library = torch.library.Library("symm_mem", "IMPL")
    library.impl("fused_all_gather_matmul", symmetric._fused_all_gather_matmul_fallback, "CPU")
    library.impl("fused_matmul_reduce_scatter", symmetric._fused_matmul_reduce_scatter_fallback, "CPU")
    chunked._symmetric = lambda x, group: True  # this process ends with the test
    called = Counter[str]()
    chunked.begin_scatter = lambda *args: called.update(["pieces"])
    return products_rank(), called


def test_products_over_symmetric_memory_are_the_same() -> None:
    for pieces, (fused, called) in zip(run_ranks(4, products_rank), run_ranks(4, symmetric_rank), strict=True):
        assert not called
        for chunks, answer in fused.items():
            for got, want in zip(answer, pieces[chunks], strict=True):
                assert torch.allclose(got, want, rtol=0, atol=1e-12), chunks


@pytest.mark.parametrize(
    ("ranks", "per_host", "devices", "strangers", "good"),
    [
        ([0, 1, 2, 3], 8, 8, (), True),
        ([12, 13], 8, 8, (), True),  # the second host
        ([0], 8, 8, (), False),  # nobody to talk to
        ([7, 8], 8, 8, (), False),  # on two hosts
        ([0, 1, 2, 3], 4, 2, (), False),  # ranks share devices
        ([0, 1, 2, 3], 8, 8, ((2, 1),), False),  # not all are peers
    ],
)
def test_symmetric_memory_is_used_where_all_ranks_reach_each_other(
    monkeypatch: pytest.MonkeyPatch, ranks: list[int], per_host: int, devices: int, strangers: Any, good: bool
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(per_host))
    monkeypatch.setattr(dist, "get_process_group_ranks", lambda group: ranks)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: (a, b) not in strangers)
    group: Any = SimpleNamespace()
    assert chunked._reachable.__wrapped__(group) is good

    def tensor(dtype: torch.dtype, cuda: bool = True) -> Any:
        return SimpleNamespace(is_cuda=cuda, dtype=dtype)

    monkeypatch.setattr(chunked, "_reachable", lambda group: good)
    assert chunked._symmetric(tensor(torch.bfloat16), group) is good
    assert not chunked._symmetric(tensor(torch.bfloat16, cuda=False), group)
    assert not chunked._symmetric(tensor(torch.float64), group)


# --- models ----------------------------------------------------------------------------------------------------------


def lay_out(model: Decoder, ranks: Ranks, plan: ParallelPlan) -> None:
    apply_tensor_parallel(model, ranks, plan)
    apply_expert_parallel(model, ranks, plan)
    if plan.cp > 1:
        apply_context_parallel(model, ranks, plan)
    apply_chunked(model, ranks, plan)
    apply_copies(model, ranks, plan)
    apply_recompute(model, plan.recompute)


def models_rank() -> Any:
    answers = {}
    for name, (kind, plan) in LAYOUTS.items():
        model = make(kind)
        ranks = Ranks.of(plan, CPU)
        lay_out(model, ranks, plan)
        data = batch() if plan.cp == 1 else split_batch(batch(), ranks.at("cp"), plan.cp, plan.cp_split)
        packing = model.context(data.input_ids_BT, data.positions_BT, data.doc_lens).packing
        assert isinstance(packing, Halves) == (plan.copies == 2)
        loss = loss_of(model, data)
        loss.backward()
        grads = {}
        for key, param in model.named_parameters():
            grad = param.grad
            assert grad is not None, key
            if plan.tp == 1 and not isinstance(grad, DTensor):  # other tokens, or the same once more, on each rank
                dist.all_reduce(grad)
            grads[key] = grad.full_tensor() if isinstance(grad, DTensor) else grad
        load = [layer.mlp.router.load for layer in model.layers if "bias" in kind and hasattr(layer.mlp, "router")]
        answers[name] = loss.detach(), grads, load
    return answers


def close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return float((got - want).abs().max()) <= 1e-12 * max(1.0, float(want.abs().max()))


@pytest.fixture(scope="module")
def answers() -> list[Any]:
    return run_ranks(2, models_rank, timeout_s=400)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_plain_models_loss_and_gradients(name: str, answers: list[Any]) -> None:
    kind, plan = LAYOUTS[name]
    reference = make(kind)
    loss = loss_of(reference, batch())
    loss.backward()
    factor = 2 if plan.ep > 1 else 1  # both data ranks brought this batch
    losses = [answer[name][0] for answer in answers]
    assert close(sum(losses) if plan.cp > 1 else losses[0], loss.detach())
    for _, grads, load in (answer[name] for answer in answers):
        for key, param in reference.named_parameters():
            assert param.grad is not None
            assert close(grads[key], factor * param.grad), key
        for got in load:
            assert torch.equal(got, reference.layers[1].mlp.router.load)


# --- in flight -------------------------------------------------------------------------------------------------------


class Trace(TorchDispatchMode):
    """What begins, what is waited for and what is multiplied, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "_c10d_functional::wait_tensor":
            self.events.append(("wait", args[0].untyped_storage().data_ptr()))
        elif name.startswith("_c10d_functional::"):
            rows = max(args[0].numel(), out.numel()) // (T * D)
            self.events.append(("begin", (out.untyped_storage().data_ptr(), rows)))
        elif name in ("aten::mm", "aten::addmm", "aten::addmm_"):
            matrices = [x for x in args if isinstance(x, torch.Tensor) and x.dim() == 2]
            self.events.append(("multiply", {n for x in matrices[-2:] for n in x.shape}))
        return out

    def behind(self) -> list[tuple[int, list[set[int]]]]:
        """Of each collective its rows, and the products between its beginning and its end."""
        result = []
        for i, (kind, value) in enumerate(self.events):
            if kind == "begin":
                buffer, rows = value
                end = next(j for j in range(i, len(self.events)) if self.events[j] == ("wait", buffer))
                result.append((rows, [sizes for what, sizes in self.events[i:end] if what == "multiply"]))
        return result


def trace_rank() -> Any:
    answers = {}
    for name, plan in {"plain": ParallelPlan(tp=2), "copies": COPIES, "chunks": CHUNKED}.items():
        model = make("dense")
        lay_out(model, Ranks.of(plan, CPU), plan)
        data = batch()
        context = model.context(data.input_ids_BT, data.positions_BT, data.doc_lens)
        h_BTD = model.embed(data.input_ids_BT, context).detach().requires_grad_()
        with Trace() as forward:
            out_BTD, _ = model.blocks(h_BTD, context)
        with Trace() as backward:
            out_BTD.backward(torch.ones_like(out_BTD))
        answers[name] = forward.behind(), backward.behind()
    return answers


def test_collectives_are_in_flight_while_products_run() -> None:
    answer = run_ranks(2, trace_rank, timeout_s=400)[0]
    for passes, name in ((answer["copies"], "copies"), (answer["plain"], "plain")):
        for collectives in passes:
            # Those of norm gains in the backward pass are sums of D numbers: no rows.
            large = [(rows, products) for rows, products in collectives if rows]
            if name == "plain":
                assert len(large) == 2 * 4 and not any(products for _, products in large)
                continue
            assert len(large) == 2 * 8  # two layers, two halves, four of each
            others = [any((ROWS - rows) * T in sizes for sizes in products) for rows, products in large]
            own = [any(rows * T in sizes for sizes in products) for rows, products in large]
            assert sum(others) == 2 * 6 and not any(own)
    forward, backward = answer["chunks"]
    # Forward: of the three pieces of each of four collectives a layer, two have a product behind them.
    assert len(forward) == 2 * 4 * 3 and sum(bool(products) for _, products in forward) == 2 * 4 * 2
    # Backward: of the gathers that were scatters two, all scatters that were gathers (the weights' gradients are behind
    # the last one), and the two inputs that are gathered again.
    assert sum(bool(products) for _, products in backward) == 2 * (2 * 2 + 2 * 3 + 2)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused() -> None:
    model, ranks = make("dense"), SimpleNamespace()
    ffn = RecomputePlan(mode="selective", names=("ffn",))
    up = RecomputePlan(mode="selective", names=("up_proj", "norms"))
    for apply, plan, words in (
        (apply_chunked, ParallelPlan(tp=2, sp=False, chunks=2), "without sequence parallel"),
        (apply_copies, ParallelPlan(tp=2, copies=2, chunks=2), "hide the same collectives"),
        (apply_copies, ParallelPlan(tp=2, copies=2, recompute=ffn), "recompute of ffn beside copies 2"),
        (apply_chunked, ParallelPlan(tp=2, chunks=2, recompute=up), "recompute of up_proj beside chunks 2"),
    ):
        with pytest.raises(AthanorError, match=words):
            apply(model, ranks, plan)  # type: ignore[arg-type]


def test_switched_off_changes_nothing() -> None:
    model = make("experts")
    pack, kinds = model.pack, [type(module) for module in model.modules()]
    apply_chunked(model, SimpleNamespace(), ParallelPlan(tp=2))  # type: ignore[arg-type]
    apply_copies(model, SimpleNamespace(), ParallelPlan(tp=2))  # type: ignore[arg-type]
    assert model.pack == pack and [type(module) for module in model.modules()] == kinds


def test_one_row_goes_as_ever_and_one_rank_too() -> None:
    plain, model = make("experts"), make("experts")
    apply_copies(model, SimpleNamespace(), ParallelPlan(copies=2))  # type: ignore[arg-type]
    data = batch()
    for rows in (slice(0, 1), slice(0, 3)):
        part = Batch(data.input_ids_BT[rows], data.labels_BT[rows], data.positions_BT[rows], DOC_LENS[rows], {}, {})
        assert close(loss_of(model, part).detach(), loss_of(plain, part).detach())

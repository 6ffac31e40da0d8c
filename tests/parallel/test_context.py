"""Context parallel against one process: layouts by their definition, losses and gradients in float64."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.types import IGNORE, Batch
from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.model.moe import Load, MoEFeedForward, load_balancing_loss
from athanor.parallel import context_attention
from athanor.parallel.context import ContextLens, Layout, Split, merge_rows, split_batch, sum_load
from athanor.parallel.context_attention import Part, apply_context_parallel, gather_parts, ring_parts
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from tests.parallel.ranks import run_ranks

CPU = torch.device("cpu")
KV = Literal["all_gather", "ring"]
SHAPE: dict[str, Any] = dict(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,  # grouped queries
    max_position_embeddings=64,
    qk_norm=True,
    init="normal",
    initializer_range=0.3,
)
MOE = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, router_aux_loss_coef=0.1)
#: documents of less than 2·cp tokens, of one token, of a whole row; the last one needs padding for 2 and for 4 ranks
PACKED = [[13, 3, 1, 7], [24], [2, 2, 9, 5, 6]]
ODD = [[11, 1, 7], [3, 16]]
CASES: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "dense": ({}, PACKED),
    "padded": ({"num_key_value_heads": 4}, ODD),
    "moe": ({"moe": MOE}, PACKED),
}


def make_batch(doc_lens: list[list[int]]) -> Batch:
    """Random ids, labels with some places ignored, an extra for each token and one for each row."""
    generator = torch.Generator().manual_seed(5)
    shape = (len(doc_lens), sum(doc_lens[0]))
    ids = torch.randint(0, 61, shape, generator=generator)
    labels = torch.randint(0, 61, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = IGNORE
    positions = torch.cat([torch.arange(n) for lens in doc_lens for n in lens]).view(shape)
    extras = {"advantage_BT": torch.rand(shape, generator=generator), "row_B": torch.arange(shape[0])}
    return Batch(ids, labels, positions, doc_lens, extras, {"n_targets": int((labels != IGNORE).sum()), "from": "test"})


def make_model(changes: dict[str, Any], dtype: torch.dtype = torch.float64) -> Decoder:
    model = Decoder(ModelConfig(**{**SHAPE, **changes}))
    init_weights(model, 0)
    return model.to(dtype)


def step(model: Decoder, batch: Batch) -> torch.Tensor:
    """As ``CausalLM``: loss sum + auxiliary loss × this batch's weight; gradients in the parameters."""
    loss, aux = model.loss(batch.input_ids_BT, batch.labels_BT, batch.positions_BT, batch.doc_lens)
    total = loss if aux is None else loss + aux * batch.meta["n_targets"]
    total.backward()
    return total.detach()


# ---- layouts

rows_of_documents = st.lists(st.integers(1, 70), min_size=1, max_size=12)
sizes = st.integers(1, 9)
ways = st.sampled_from(["document", "sequence"])


def definition(layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(owner, document, place in the document) of every token of the batch, from the tokens each rank says it holds."""
    lens = [n for row in layout.doc_lens for n in row]
    owner = np.full(sum(lens), -1)
    for rank in range(layout.size):
        mine = layout.tokens(rank)
        assert (owner[mine[mine >= 0]] == -1).all()
        owner[mine[mine >= 0]] = rank
    assert (owner >= 0).all()
    return owner, np.repeat(np.arange(len(lens)), lens), np.concatenate([np.arange(n) for n in lens])


@settings(max_examples=60, deadline=None)
@given(rows_of_documents, sizes, ways)
def test_counts_are_those_of_the_definition(lens: list[int], size: int, how: Split) -> None:
    layout = Layout.of([lens, lens[::-1]], size, how)
    owner, _, place = definition(layout)
    assert layout.tokens_R.tolist() == [(owner == r).sum() for r in range(size)]
    assert layout.pairs_R.tolist() == [(place[owner == r] + 1).sum() for r in range(size)]
    assert layout.n_local == -(-sum(lens) // size)
    assert layout.padding == 2 * (layout.n_local * size - sum(lens)) < 2 * size


@settings(max_examples=60, deadline=None)
@given(rows_of_documents, st.integers(2, 32))
def test_document_split_is_balanced(lens: list[int], size: int) -> None:
    """Tokens of a row to one token; pairs to what two tokens at the end of the longest document attend to."""
    layout = Layout.of([lens], size, "document")
    assert layout.tokens_R.max() - layout.tokens_R.min() <= 1
    assert layout.pairs_R.max() - layout.pairs_R.min() <= 2 * max(lens)


def test_document_split_is_exact_where_lengths_divide() -> None:
    for size in (2, 4, 16):
        layout = Layout.of([[2 * size * n for n in (1, 5, 30)]], size, "document")
        assert len(set(layout.pairs_R.tolist())) == 1
        held = layout.pieces.where(layout.pieces.owner == 0)  # chunks 0 and 2·cp − 1 of every document
        assert held.start.tolist() == [0, 2 * size - 1, 0, 5 * (2 * size - 1), 0, 30 * (2 * size - 1)]
    whole = Layout.of([[512, *[32] * 16]], 16, "sequence").pairs_R
    assert whole.max() > 1.5 * whole.mean()


@settings(max_examples=40, deadline=None)
@given(rows_of_documents, sizes, ways)
def test_split_and_merge_give_the_batch_back(lens: list[int], size: int, how: Split) -> None:
    batch = make_batch([lens, lens[::-1]])
    parts = [split_batch(batch, at, size, how) for at in range(size)]
    layout = Layout.of(batch.doc_lens, size, how)
    for name in ("input_ids_BT", "labels_BT", "positions_BT"):
        assert torch.equal(merge_rows([getattr(part, name) for part in parts], layout), getattr(batch, name))
    extra = merge_rows([part.extras["advantage_BT"] for part in parts], layout)
    assert torch.equal(extra, batch.extras["advantage_BT"])
    assert sum(part.meta["n_targets"] for part in parts) == batch.n_targets
    for at, part in enumerate(parts):
        padding = layout.tokens(at).reshape(2, -1) < 0
        assert part.n_targets == part.meta["n_targets"] and part.meta["from"] == "test"
        assert part.meta["cp_padding"] == (int(padding.sum()), padding.size)
        assert (part.labels_BT.numpy()[padding] == IGNORE).all()
        assert torch.equal(part.extras["row_B"], batch.extras["row_B"])


@settings(max_examples=40, deadline=None)
@given(rows_of_documents, sizes, ways)
def test_parts_are_the_visible_pairs_once_each(lens: list[int], size: int, how: Split) -> None:
    layout = Layout.of([lens, lens[::-1]], size, how)
    _, document, place = definition(layout)
    held = [layout.tokens(rank) for rank in range(size)]
    for at in range(size):
        lens_here = ContextLens(layout, at)
        gathered = counted(gather_parts(lens_here), len(held[at]), len(document))
        assert (gathered == visible(held[at], np.arange(len(document)), document, place)).all()
        for source, parts in enumerate(ring_parts(lens_here)):
            seen = counted(parts, len(held[at]), len(held[source]))
            assert (seen == visible(held[at], held[source], document, place)).all()
            assert all(part.causal for part in parts[: sum(part.causal for part in parts)])  # they come first


def counted(parts: list[Part], n_queries: int, n_keys: int) -> np.ndarray:
    out = np.zeros((n_queries, n_keys), dtype=np.int64)
    for q, n_q, k, n_k, causal in parts:
        out[q : q + n_q, k : k + n_k] += np.tri(n_q, n_k, dtype=np.int64) if causal else 1
    return out


def visible(queries: np.ndarray, keys: np.ndarray, document: np.ndarray, place: np.ndarray) -> np.ndarray:
    real = (queries[:, None] >= 0) & (keys >= 0)
    return real & (document[queries][:, None] == document[keys]) & (place[queries][:, None] >= place[keys])


@settings(max_examples=20, deadline=None)
@given(rows_of_documents, sizes, ways)
def test_rows_of_a_part_are_the_part_of_the_rows(lens: list[int], size: int, how: Split) -> None:
    layout = Layout.of([lens, lens[::-1], [sum(lens)]], size, how)
    some = layout.rows(1, 3)
    for at in range(size):
        whole = layout.tokens(at).reshape(3, -1)[1:].ravel()
        assert (some.tokens(at) == np.where(whole < 0, -1, whole - sum(lens))).all()
    definition(some)


# ---- one part of attention


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_products_equal_softmax_of_all_scores(causal: bool, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way for devices without a fused kernel that gives its log-sum-exp."""
    monkeypatch.setattr(context_attention, "BLOCK", 3)  # blocks that do not divide the queries
    n_q, n_k = (7, 7) if causal else (7, 5)
    q, k, v = (
        torch.randn(n, h, 8, dtype=torch.float64, requires_grad=True)
        for n, h in ((n_q, 4), (n_k, kv_heads), (n_k, kv_heads))
    )
    keys, values = (x.repeat_interleave(4 // kv_heads, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, keys) / 8**0.5
    if causal:
        scores = scores.masked_fill(~torch.ones(n_q, n_k, dtype=torch.bool).tril(), -torch.inf)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
    grad = torch.randn_like(expected)
    grads = torch.autograd.grad(expected, (q, k, v), grad)
    with torch.no_grad():
        out, lse = context_attention.products_forward(q, k, v, causal)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(lse, scores.logsumexp(-1).T, rtol=0, atol=1e-12)
        for got, want in zip(context_attention.products_backward(grad, q, k, v, out, lse, causal), grads, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


# ---- ranks


def parallel_steps(world: int, how: Split, kv: KV, cases: list[str], dtype: torch.dtype) -> dict[str, Any]:
    """On a rank: case → (sum of the ranks' losses, summed gradients by name)."""
    plan = ParallelPlan(cp=world, cp_split=how, cp_kv=kv)
    ranks = Ranks.of(plan, CPU)
    results = {}
    for case in cases:
        changes, doc_lens = CASES[case]
        model = make_model(changes, dtype)
        apply_context_parallel(model, ranks, plan)
        total = step(model, split_batch(make_batch(doc_lens), ranks.at("cp"), world, how))
        dist.all_reduce(total)
        grads = {}
        for name, param in model.named_parameters():
            grads[name] = torch.zeros_like(param) if param.grad is None else param.grad.clone()
            dist.all_reduce(grads[name])
        results[case] = total, grads
    return results


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    """case → (loss, gradients by name) of one process, float64."""
    results = {}
    for case, (changes, doc_lens) in CASES.items():
        model = make_model(changes)
        total = step(model, make_batch(doc_lens))
        results[case] = total, {name: param.grad for name, param in model.named_parameters()}
    return results


@pytest.mark.parametrize("kv", ["all_gather", "ring"])
@pytest.mark.parametrize("how", ["document", "sequence"])
@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_equal_one_process(single: dict[str, Any], world: int, how: Split, kv: KV) -> None:
    """float64 to 1e-9: sums are taken in another order, nothing else differs."""
    for got in run_ranks(world, parallel_steps, world, how, kv, list(CASES), torch.float64):
        for case, (total, grads) in got.items():
            want, want_grads = single[case]
            torch.testing.assert_close(total, want, rtol=1e-11, atol=0)
            for name, grad in want_grads.items():
                assert grad is not None and grad.abs().max() > 1e-3, f"{case}: {name} tests nothing"
                torch.testing.assert_close(grads[name], grad, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kv", ["all_gather", "ring"])
def test_bfloat16_is_near(single: dict[str, Any], kv: KV) -> None:
    """Twice the distance that one process in bfloat16 has, and a floor for luck."""
    want, want_grads = single["dense"]
    model = make_model({}, torch.bfloat16)
    alone = step(model, make_batch(PACKED))
    first, second = run_ranks(2, parallel_steps, 2, "document", kv, ["dense"], torch.bfloat16)
    total, grads = first["dense"]
    assert abs(float(total - want)) <= 2 * abs(float(alone - want)) + 2e-3 * float(want)
    for name, param in model.named_parameters():
        scale = want_grads[name].norm()
        assert param.grad is not None
        error, error_alone = ((g.double() - want_grads[name]).norm() / scale for g in (grads[name], param.grad))
        assert error <= 2 * error_alone + 0.02, name
        assert torch.equal(grads[name], second["dense"][1][name])


def loads_on_a_rank(same_loss: bool) -> tuple[float, torch.Tensor]:
    rank = dist.get_rank()
    p_E = torch.tensor([0.2, 0.5], dtype=torch.float64).mul(rank + 1).requires_grad_()
    load = Load(torch.tensor([3, 1]) + rank, p_E, torch.tensor(4.0, dtype=torch.float64))
    aux = load_balancing_loss(sum_load(load, dist.group.WORLD, same_loss=same_loss))
    (aux * (1.0 if same_loss else [3.0, 5.0][rank])).backward()
    assert p_E.grad is not None
    return float(aux.detach()), p_E.grad


def test_load_is_that_of_all_ranks() -> None:
    p_E = torch.tensor([0.6, 1.5], dtype=torch.float64, requires_grad=True)
    aux = load_balancing_loss(Load(torch.tensor([7, 3]), p_E, torch.tensor(8.0, dtype=torch.float64)))
    aux.backward()
    assert p_E.grad is not None
    for same_loss, weight in ((False, 8.0), (True, 1.0)):  # own weights 3 and 5, or one loss that both hold
        for got, grad in run_ranks(2, loads_on_a_rank, same_loss):
            assert got == pytest.approx(float(aux.detach()), rel=1e-14)
            torch.testing.assert_close(grad, weight * p_E.grad, rtol=1e-13, atol=0)


def refusals() -> list[str]:
    """On a rank: what a context-parallel model says to input it cannot take, and that metadata is made once."""
    plan = ParallelPlan(cp=2)
    ranks = Ranks.of(plan, CPU)
    at, said = ranks.at("cp"), []

    def refused(call: Any, *args: Any) -> None:
        with pytest.raises(AthanorError) as error:
            call(*args)
        said.append(str(error.value))

    refused(apply_context_parallel, make_model({"sliding_window": 8}), ranks, plan)
    model, batch = make_model({}), make_batch(PACKED)
    apply_context_parallel(model, ranks, plan)
    refused(step, model, batch)
    refused(step, model, split_batch(batch, 1 - at, 2))
    refused(model.pack, split_batch(batch, at, 2).doc_lens, 3, 13, CPU)
    lens = split_batch(batch, at, 2).doc_lens
    assert model.pack(lens, 3, 12, CPU) is model.pack(lens, 3, 12, CPU)
    moe = make_model({"moe": MOE})
    apply_context_parallel(moe, ranks, plan)
    refused(step, moe, split_batch(make_batch(ODD), at, 2))
    assert isinstance(moe.layers[0].mlp, MoEFeedForward)
    return said


def test_what_does_not_fit_is_refused() -> None:
    window, whole, rank, shape, padding = run_ranks(2, refusals)[0]
    assert "sliding window (8" in window
    assert "split_batch" in whole
    assert "rank 0 of 2 was given the part of rank 1 of 2" in rank
    assert "3 × 12" in shape and "3 × 13" in shape
    assert "19 tokens do not divide by cp 2" in padding and "multiple of 2" in padding
    with pytest.raises(AthanorError, match=r"\[3, 4\]"):
        Layout.of([[1, 2], [4]], 2, "document")
    with pytest.raises(AthanorError, match="'ring'"):
        Layout.of([[1, 2]], 2, "ring")  # type: ignore[arg-type]

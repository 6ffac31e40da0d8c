"""Packed attention against an explicit mask, forward and backward."""

import math

import pytest
import torch
import torch.nn.functional as F

from athanor.errors import AthanorError
from athanor.model.attention_ops import _bucketed_sdpa, packed_attention
from athanor.model.packing import BUCKET_RATIO, Packing, make_buckets

LENGTHS = [
    [[24]],
    [[7, 9, 8], [24]],
    [[1, 1, 22], [3, 20, 1]],
    [[12, 12], [12, 12]],
    [[5, 5, 5, 5, 4], [23, 1]],
]


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lens: list[int], window: int | None) -> torch.Tensor:
    """softmax(q kᵀ/√D + mask) v with the whole mask written out."""
    n, heads, width = q.shape
    document = torch.repeat_interleave(torch.arange(len(lens)), torch.tensor(lens))
    at = torch.arange(n)
    seen = (document[:, None] == document) & (at[None, :] <= at[:, None])
    if window is not None:
        seen &= at[None, :] > at[:, None] - window
    repeat = heads // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(width)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def draw(n: int, dtype: torch.dtype, heads: int = 4, kv_heads: int = 2, width: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(n, heads, width), (n, kv_heads, width), (n, kv_heads, width)]
    return [torch.randn(s, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("doc_lens", LENGTHS)
@pytest.mark.parametrize("dtype,tol", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_an_explicit_mask(doc_lens: list[list[int]], dtype: torch.dtype, tol: float, window: int | None) -> None:
    n = sum(map(sum, doc_lens))
    packing = Packing.of(doc_lens, len(doc_lens), sum(doc_lens[0]), torch.device("cpu"))
    inputs = draw(n, dtype)
    out = packed_attention(*inputs, packing, window)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), inputs)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = explicit(*wide, packing.lens, window)
    expected_grads = torch.autograd.grad((expected * weight.double()).sum(), wide)
    torch.testing.assert_close(out.double(), expected, atol=tol, rtol=tol)
    for got, want in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got.double(), want, atol=10 * tol, rtol=10 * tol)


def test_generic_path_equals_the_fused_one() -> None:
    """Devices without a variable-length kernel take the same buckets over scaled_dot_product_attention."""
    packing = Packing.of([[7, 9, 8], [24, 0 + 0][:1]], 2, 24, torch.device("cpu"))
    inputs = draw(48, torch.float64)
    fused, generic = packed_attention(*inputs, packing), _bucketed_sdpa(*inputs, packing, None)
    torch.testing.assert_close(fused, generic, atol=1e-12, rtol=0)
    g1 = torch.autograd.grad(fused.square().sum(), inputs)
    g2 = torch.autograd.grad(generic.square().sum(), inputs)
    for a, b in zip(g1, g2, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype, tol", [(torch.bfloat16, 0.006), (torch.float32, 1e-6)])
@pytest.mark.parametrize("width", [16, 24, 32, 48, 64, 96])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("doc_lens", [[64], [30, 20, 14], [300, 7, 1, 9, 700]])
def test_stays_as_close_as_its_precision(
    doc_lens: list[int], kv_heads: int, width: int, dtype: torch.dtype, tol: float
) -> None:
    """Within its rounding of float64, forward and backward: our kernels where they run, PyTorch's elsewhere."""
    n = sum(doc_lens)
    packing = Packing.of([doc_lens], 1, n, torch.device("cpu"))
    inputs = draw(n, dtype, 4, kv_heads, width)
    out = packed_attention(*inputs, packing)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), inputs)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = explicit(*wide, packing.lens, None)
    expected_grads = torch.autograd.grad((expected * weight.double()).sum(), wide)
    assert (out.double() - expected).norm() < tol * expected.norm()
    for got, want in zip(grads, expected_grads, strict=True):
        assert (got.double() - want).norm() < 2 * tol * want.norm()


def test_operator_contract_and_compile() -> None:
    """opcheck covers fake tensors and autograd registration; one compiled graph serves changing lengths."""
    inputs = draw(24, torch.float32)
    torch.library.opcheck(torch.ops.athanor.packed_attention.default, (*inputs, torch.tensor([10, 14])))

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        return torch.ops.athanor.packed_attention(q * 2, k, v, lens)[0].sin()

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for lens in ([10, 14], [3, 21], [8, 8, 8], [1, 2, 3, 18]):
        t = torch.tensor(lens)
        torch.testing.assert_close(compiled(*inputs, t), run(*inputs, t))


def test_buckets_cover_every_token_once_with_little_padding() -> None:
    lens = [3, 100, 7, 90, 88, 3, 64, 1, 5, 5]
    covered: list[int] = []
    for bucket in make_buckets(lens, torch.device("cpu")):
        if bucket.start >= 0:
            covered += range(bucket.start, bucket.start + bucket.n_docs * bucket.length)
        else:
            covered += bucket.tokens.tolist()
            assert bucket.n_docs * bucket.length <= BUCKET_RATIO * len(bucket.tokens)
    assert sorted(covered) == list(range(sum(lens)))


def test_attention_equals_sdpa_on_plain_rows() -> None:
    q, k, v = draw(64, torch.float32, 4, 4)
    packing = Packing.of([[32], [32]], 2, 32, torch.device("cpu"))
    rows = [x.view(2, 32, 4, 16).transpose(1, 2) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*rows, is_causal=True).transpose(1, 2).reshape(64, 4, 16)
    torch.testing.assert_close(packed_attention(q, k, v, packing), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("doc_lens", [[[5, 5]], [[12], [12]], [[13, -1]]])
def test_boundaries_that_do_not_fill_the_rows_are_refused(doc_lens: list[list[int]]) -> None:
    with pytest.raises(AthanorError, match="doc_lens"):
        Packing.of(doc_lens, 1, 12, torch.device("cpu"))

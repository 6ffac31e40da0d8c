"""The native attention kernels: when they serve and what they leave alone; numbers are tested with attention_ops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from athanor.model import native

LENS = torch.tensor([65, 1, 200, 64, 30])
BOTH = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no answer remembered before or after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.attention_kernel.cache_clear()
    yield tmp_path
    native.attention_kernel.cache_clear()


def kernel(dtype: torch.dtype = torch.bfloat16) -> native.AttentionKernel:
    found = native.attention_kernel(dtype)
    if found is None:
        pytest.skip("this processor or machine cannot build the kernel")
    return found


def run(k: native.AttentionKernel, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(1)
    n = int(LENS.sum())
    q, grad = (torch.randn(n, 4, 64).to(dtype) for _ in range(2))
    keys, values = (torch.randn(n, 2, 64).to(dtype) for _ in range(2))
    lse = torch.empty(4, n)
    out = k.forward(q, keys, values, LENS, lse)
    return [out, lse, *k.backward(grad, q, keys, values, out, lse, LENS)]


@BOTH
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    k, threads = kernel(dtype), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(k, dtype)
        torch.set_num_threads(3)
        three = run(k, dtype)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@BOTH
def test_the_log_sum_exp_is_that_of_the_scores(dtype: torch.dtype) -> None:
    k = kernel(dtype)
    torch.manual_seed(2)
    q, keys = torch.randn(70, 1, 32).to(dtype), torch.randn(70, 1, 32).to(dtype)
    lse = torch.empty(1, 70)
    k.forward(q, keys, keys, torch.tensor([70]), lse)
    scores = q[:, 0].double() @ keys[:, 0].double().T / 32**0.5
    hidden = torch.ones(70, 70, dtype=torch.bool).triu(1)
    torch.testing.assert_close(
        lse[0].double(), scores.masked_fill(hidden, -torch.inf).logsumexp(-1), atol=1e-4, rtol=1e-4
    )


def test_loading_it_leaves_denormal_numbers_to_the_process() -> None:
    kernel()
    tiny = torch.tensor(1e-40)
    assert float(tiny * 1.0) > 0


def test_it_is_built_once_and_only_where_it_may(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel()
    assert len(list(fresh.glob("athanor/attention-*.so"))) == 1
    monkeypatch.setenv("ATHANOR_NATIVE", "0")
    native.attention_kernel.cache_clear()
    assert native.kernel_for(torch.zeros(2, 2, 64, dtype=torch.bfloat16)) is None


def test_a_compiler_that_fails_is_no_kernel_and_no_error(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert native.attention_kernel() is None


@pytest.mark.parametrize("dtype, width", [(torch.float64, 64), (torch.float32, 40), (torch.bfloat16, 48)])
def test_other_kinds_of_queries_are_left_to_pytorch(dtype: torch.dtype, width: int) -> None:
    assert native.kernel_for(torch.zeros(2, 2, width, dtype=dtype)) is None

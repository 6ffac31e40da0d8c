"""Products: layouts of memory as a linear layer has them, and what is solved from their times."""

from __future__ import annotations

import pytest
import torch
from torch.utils.benchmark import Timer

from athanor.calibrate.clock import Clock
from athanor.calibrate.products import Timing, _operands, half_k, roles, time_product

CPU = torch.device("cpu")


def test_roles_are_the_three_products_of_a_linear_layer():
    """Shapes, and values, of what autograd computes for y = x Wᵀ."""
    x, w = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    y = torch.nn.functional.linear(x, w)
    g = torch.randn_like(y)
    y.backward(g)
    left, right = _operands("weight", 4, 5, 6, lambda a, b: g.clone() if (a, b) == (6, 5) else x.detach())
    assert torch.equal(left.T @ right, w.grad)
    left, right = _operands("input", 6, 4, 5, lambda a, b: g if (a, b) == (6, 5) else w.detach())
    assert torch.equal(left @ right, x.grad)
    left, right = _operands("forward", 6, 5, 4, lambda a, b: x.detach() if a == 6 else w.detach())
    assert torch.equal(torch.nn.functional.linear(left, right), y.detach())


def test_the_role_of_a_shape_is_told_by_where_the_tokens_are():
    assert roles((4096, 256, 704), {4096}) == ("forward", "input")
    assert roles((256, 704, 4096), {4096}) == ("weight",)
    assert roles((4096, 256, 4096), {4096}) == ("forward", "input")


def test_time_of_a_product_is_what_torch_itself_measures():
    """torch.utils.benchmark as the reference; the machine may be busy, hence the width."""
    clock = Clock(CPU, budget_s=0.3, kind="cpu")
    ours = time_product(clock, (384, 384, 384), "fp32", ("input",)).seconds
    a, b = torch.randn(384, 384), torch.randn(384, 384)
    theirs = Timer("torch.mm(a, b)", globals={"a": a, "b": b, "torch": torch}, num_threads=torch.get_num_threads())
    assert ours == pytest.approx(theirs.blocked_autorange(min_run_time=0.3).median, rel=0.8)


@pytest.mark.parametrize("half", [0.0, 40.0, 300.0])
def test_half_k_is_found_where_rates_follow_the_formula(half: float):
    def timing(m: int, n: int, k: int) -> Timing:
        return Timing((m, n, k), "fp32", 2.0 * m * n * k / (1e11 * k / (k + half)))

    cubes = [timing(s, s, s) for s in (64, 128, 256, 512, 1024)]
    narrow = [timing(s, s, 64) for s in (181, 512, 1448)]
    # Between square products the rate is interpolated, so that the value is near and not exact.
    assert half_k(cubes, narrow, 0.0) == pytest.approx(half, rel=0.15, abs=1.0)

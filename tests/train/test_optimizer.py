"""Flat AdamW against torch.optim.AdamW and float64 formulas."""

import math

import pytest
import torch
from torch import nn

from athanor.errors import AthanorError
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.optimizer import AdamW
from athanor.train.precision import compute_dtype


class Net(nn.Module):
    def __init__(self, seed=0, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.embed_tokens = nn.Embedding(11, 6)
        self.mlp = nn.Linear(6, 7, bias=True)
        self.norm = nn.LayerNorm(7)
        self.lm_head = nn.Linear(7, 11, bias=False)
        self.to(dtype)

    def forward(self, ids):
        return self.lm_head(self.norm(torch.tanh(self.mlp(self.embed_tokens(ids)))))


def loss_of(net, step):
    ids = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(net(ids).flatten(0, 1).float(), ids.roll(1, 1).flatten())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("clip", [1e9, 0.3])
def test_equals_torch_adamw(fused, clip):
    recipe = OptimizerRecipe(fused=fused, weight_decay=0.1)
    mine, theirs = Net(), Net()
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=recipe.betas, eps=recipe.eps)
    ours = AdamW(mine, recipe)
    for step in range(6):
        loss_of(mine, step).backward()
        ours.accumulate()
        stats = ours.step(1e-2, clip)
        loss_of(theirs, step).backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        reference.step()
        reference.zero_grad()
        assert float(stats.grad_norm) == pytest.approx(float(norm), rel=1e-5)
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6, msg=name)


def test_embeddings_decay_only_by_switch():
    def decay_of(recipe):
        return {name: group.options.weight_decay for group in AdamW(Net(), recipe).groups for name in group.params}

    on, off = decay_of(OptimizerRecipe()), decay_of(OptimizerRecipe(decay_embeddings=False))
    assert on["embed_tokens.weight"] == on["lm_head.weight"] == on["mlp.weight"] == 0.1
    assert off["embed_tokens.weight"] == 0.0 and off["mlp.weight"] == off["lm_head.weight"] == 0.1
    assert on["norm.weight"] == on["mlp.bias"] == 0.0


def test_bf16_parameters_are_rounded_masters_and_gradients_add_in_float32():
    net, exact = Net(), Net()
    ours = AdamW(net, OptimizerRecipe(), torch.bfloat16)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    total = {name: torch.zeros_like(p) for name, p in exact.named_parameters()}
    for step in range(8):
        loss_of(net, step).backward()
        for name, p in net.named_parameters():
            total[name] += p.grad.float()
        ours.accumulate()
        assert all(p.grad is None for p in net.parameters())
    for name, grad in ours.grads.items():
        assert grad.dtype == torch.float32 and torch.equal(grad, total[name])
    ours.step(1e-2, 1e9)
    for name, p in net.named_parameters():
        assert torch.equal(p, ours.masters[name].bfloat16())
    ours.release()
    assert all(torch.equal(p, ours.masters[name]) for name, p in net.named_parameters())


def test_norm_is_accurate_for_many_elements():
    net = nn.Linear(1500, 1501, bias=False)
    ours = AdamW(net, OptimizerRecipe())
    net.weight.grad = torch.randn(net.weight.shape, generator=torch.Generator().manual_seed(0))
    expected = float(net.weight.grad.double().norm())
    ours.accumulate()
    assert float(ours.grad_norm()) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_gradient_changes_nothing(dtype, fused, bad):
    net = Net()
    ours = AdamW(net, OptimizerRecipe(fused=fused), dtype)
    loss_of(net, 0).backward()
    ours.accumulate()
    ours.step(1e-2, 1.0)
    before = ours.snapshot()
    loss_of(net, 1).backward()
    net.mlp.weight.grad[0, 0] = bad
    ours.accumulate()
    assert float(ours.step(1e-2, 1.0).skipped) == 1.0
    after = ours.snapshot()
    for key in before:
        assert all(torch.equal(before[key][name], after[key][name]) for name in before[key])
    loss_of(net, 2).backward()
    ours.accumulate()
    assert float(ours.step(1e-2, 1.0).skipped) == 0.0 and float(ours.steps_done) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restore_continues_to_the_bit(dtype):
    def advance(net, optimizer, first, last):
        for step in range(first, last):
            loss_of(net, step).backward()
            optimizer.accumulate()
            optimizer.step(1e-2, 0.5)

    net = Net()
    ours = AdamW(net, OptimizerRecipe(), dtype)
    advance(net, ours, 0, 3)
    state = ours.snapshot()
    advance(net, ours, 3, 6)
    other = Net(seed=5)
    again = AdamW(other, OptimizerRecipe(), dtype)
    again.restore(state)
    advance(other, again, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(ours.masters[n], again.masters[n]) for n in ours.masters)


def test_missing_gradients_count_as_zero_and_frozen_parameters_stay():
    net = Net()
    net.lm_head.weight.requires_grad_(False)
    frozen = net.lm_head.weight.clone()
    ours = AdamW(net, OptimizerRecipe())
    loss_of(net, 0).backward()
    ours.accumulate()
    ours.step(1e-2, 1.0)
    net.mlp.weight.grad = torch.ones_like(net.mlp.weight)
    ours.accumulate()
    assert float(ours.grads["embed_tokens.weight"].abs().max()) == 0.0
    assert float(ours.grad_norm()) == pytest.approx(math.sqrt(42))
    assert torch.equal(net.lm_head.weight, frozen) and "lm_head.weight" not in ours.masters


def test_wrong_state_is_named():
    ours = AdamW(Net(), OptimizerRecipe())
    state = ours.snapshot()
    state["params"]["mlp.weight"] = torch.zeros(2, 2)
    with pytest.raises(AthanorError, match=r"mlp.weight has shape \(2, 2\)"):
        ours.restore(state)
    del state["params"]["mlp.weight"]
    with pytest.raises(AthanorError, match="mlp.weight"):
        ours.restore(state)
    with pytest.raises(AthanorError, match="no parameter to train"):
        AdamW(Net().requires_grad_(False), OptimizerRecipe())


def test_precision_auto():
    cpu = torch.device("cpu")
    assert compute_dtype("fp32", cpu) == torch.float32 and compute_dtype("bf16", cpu) == torch.bfloat16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert compute_dtype("auto", cpu) == (torch.bfloat16 if native else torch.float32)

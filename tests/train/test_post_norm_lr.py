"""``post_norm_lr: depth_scaled`` against float64 AdamW on the reparameterised model: gain = c/√L · φ with φ from 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.optimizer import AdamW, grouped

LAYERS, LR = 3, 1e-2
SCALES = {"post_attn_norm": 0.283 / math.sqrt(LAYERS), "post_mlp_norm": 0.432 / math.sqrt(LAYERS)}


def config(**changes):
    shape = {
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "norm_placement": "depth_scaled_sandwich",
        "init": "tiny",
    }
    return ModelConfig(**{**shape, **changes})


def decoder(dtype=torch.float64, **changes):
    model = Decoder(config(**changes))
    init_weights(model, 0)
    return model.to(dtype)


def batch(step):
    ids = torch.randint(0, 31, (4, 12), generator=torch.Generator().manual_seed(step))
    return ids, ids.roll(1, 1)


def loss_of(model, step):
    loss_sum, _ = model.loss(*batch(step))
    return loss_sum / 48


def scale_of(name):
    return next((scale for part, scale in SCALES.items() if part in name), 1.0)


class Loss(torch.nn.Module):
    """The loss as a module's forward, which is what ``functional_call`` calls."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, step):
        return loss_of(self.model, step)


def reparameterised(model, recipe, steps, clip):
    """Weights after ``steps`` updates of textbook AdamW on φ = θ / scale, all in float64."""
    phi = {name: (p.detach() / scale_of(name)).requires_grad_() for name, p in model.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in phi.items()} for _ in range(2))
    beta1, beta2 = recipe.betas
    for step in range(steps):
        theta = {name: scale_of(name) * p for name, p in phi.items()}
        loss = functional_call(Loss(model), {f"model.{name}": p for name, p in theta.items()}, (step,))
        grads = dict(zip(phi, torch.autograd.grad(loss, list(phi.values())), strict=True))
        norm = math.sqrt(sum(float((grads[name] / scale_of(name)).square().sum()) for name in phi))  # as of θ
        for name, p in phi.items():
            grad = grads[name] / max(1.0, norm / clip)
            first[name] = beta1 * first[name] + (1 - beta1) * grad
            second[name] = beta2 * second[name] + (1 - beta2) * grad.square()
            m, v = first[name] / (1 - beta1 ** (step + 1)), second[name] / (1 - beta2 ** (step + 1))
            decay = recipe.weight_decay if p.ndim > 1 else 0.0
            phi[name] = (p.detach() * (1 - LR * decay) - LR * m / (v.sqrt() + recipe.eps)).requires_grad_()
    return {name: scale_of(name) * p.detach() for name, p in phi.items()}


@pytest.mark.parametrize("norm_type", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("clip", [1e9, 0.3])
@pytest.mark.parametrize("fused", [True, False])
def test_equals_adamw_on_the_reparameterised_model(fused, clip, norm_type):
    # a large eps: it is scaled as well, or the two would part
    recipe = OptimizerRecipe(fused=fused, post_norm_lr="depth_scaled", eps=1e-3)
    model = decoder(norm_type=norm_type)
    expected = reparameterised(decoder(norm_type=norm_type), recipe, 6, clip)
    ours = AdamW(model, recipe)
    for step in range(6):
        loss_of(model, step).backward()
        ours.accumulate()
        ours.step(LR, clip)
    for name, p in model.named_parameters():  # the fused kernel takes the clipping scale in float32
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-5 if clip < 1 else 1e-9, atol=1e-9, msg=name)
    moved = model.layers[0].post_attn_norm.weight.detach() / SCALES["post_attn_norm"] - 1
    assert 0 < float(moved.abs().max()) < 6 * LR * 1.5


def test_which_parameters_learn_at_which_rate():
    model = decoder(torch.float32, norm_type="layernorm")
    groups = grouped(model.named_parameters(), model.config, OptimizerRecipe(post_norm_lr="depth_scaled"))
    scale_by_name = {name: options.lr_scale for options, named in groups.items() for name, _ in named}
    assert scale_by_name.keys() == {name for name, _ in model.named_parameters()}
    assert all(scale == pytest.approx(scale_of(name)) for name, scale in scale_by_name.items())
    assert scale_by_name["layers.2.post_mlp_norm.bias"] < 1.0  # the bias writes to the stream as the gain does
    assert [options.weight_decay for options in groups] == [0.1, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("placement", ["pre", "sandwich"])
def test_other_placements_are_left_alone_to_the_bit(placement):
    def trained(post_norm_lr):
        model = decoder(torch.float32, norm_placement=placement)
        optimizer = AdamW(model, OptimizerRecipe(post_norm_lr=post_norm_lr))
        for step in range(2):
            loss_of(model, step).backward()
            optimizer.accumulate()
            optimizer.step(LR, 1.0)
        return optimizer

    one, other = trained("same"), trained("depth_scaled")
    assert len(one.groups) == len(other.groups) == 2
    assert all(torch.equal(p, other.masters[name]) for name, p in one.masters.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restore_continues_to_the_bit(dtype):
    def advance(model, optimizer, first, last):
        for step in range(first, last):
            loss_of(model, step).backward()
            optimizer.accumulate()
            optimizer.step(LR, 0.5)

    recipe = OptimizerRecipe(post_norm_lr="depth_scaled")
    model = decoder(torch.float32)
    ours = AdamW(model, recipe, dtype)
    advance(model, ours, 0, 2)
    state = ours.snapshot()
    advance(model, ours, 2, 4)
    other = decoder(torch.float32)
    again = AdamW(other, recipe, dtype)
    again.restore(state)
    advance(other, again, 2, 4)
    assert all(torch.equal(ours.masters[name], again.masters[name]) for name in ours.masters)
    # a checkpoint is by parameter name: one made without the option goes on with it
    AdamW(decoder(torch.float32), OptimizerRecipe(), dtype).restore(state)

"""Mixture of experts against a dense loop over tokens, in float64."""

import pytest
import torch

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.model.moe import Load, MoEFeedForward, load_balancing_loss

SHAPE = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "init": "normal",
    "initializer_range": 0.3,
}


def layer(**moe: object) -> MoEFeedForward:
    fields = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, **moe}
    model = Decoder(ModelConfig(**SHAPE, moe=fields))
    init_weights(model, 3)
    mlp = model.double().layers[0].mlp
    assert isinstance(mlp, MoEFeedForward)
    return mlp


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("shared", [0, 2])
def test_equals_a_loop_over_tokens(scoring: str, norm: bool, shared: int) -> None:
    mlp = layer(scoring=scoring, norm_topk_prob=norm, num_shared_experts=shared)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    out, aux = mlp(x)
    for token, got in zip(x.flatten(0, 1), out.flatten(0, 1), strict=True):
        logits = mlp.router.weight @ token
        p = logits.softmax(0) if scoring == "softmax" else logits.sigmoid()
        top = sorted(range(4), key=lambda e: -float(p[e]))[:2]
        total = sum(float(p[e]) for e in top) if norm else 1.0
        expected = torch.zeros(16, dtype=torch.float64)
        for e in top:
            gate, up = token @ mlp.w_gate[e], token @ mlp.w_up[e]
            expected += float(p[e]) / total * ((gate * gate.sigmoid() * up) @ mlp.w_down[e])
        if mlp.shared is not None:
            expected += mlp.shared(token)
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-9)
    assert aux is not None


def test_balanced_load_has_the_least_auxiliary_loss() -> None:
    """Uniform probabilities and an even load give exactly k (each of k assignments a token counts 1)."""
    n_tokens = torch.tensor(4.0)
    even = load_balancing_loss(Load(torch.tensor([2, 2, 2, 2]), torch.ones(4), n_tokens))
    skewed = load_balancing_loss(Load(torch.tensor([8, 0, 0, 0]), torch.tensor([2.8, 0.4, 0.4, 0.4]), n_tokens))
    assert even.item() == pytest.approx(2.0)
    assert skewed.item() == pytest.approx(4 * 2 * 0.7)


def test_router_bias_evens_the_load() -> None:
    torch.manual_seed(0)
    mlp = layer(balance="bias", bias_update_rate=0.002)
    x = torch.randn(4, 64, 16, dtype=torch.float64) + 2  # a shift prefers some experts

    def spread() -> float:
        mlp(x)
        load = mlp.router.load.clone()
        mlp.update_bias()
        return float(load.max() / load.mean())

    first = spread()
    for _ in range(200):
        last = spread()
    assert first > 1.5 and last < 1.05


def test_first_layers_stay_dense() -> None:
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "first_k_dense": 1}
    model = Decoder(ModelConfig(**SHAPE, moe=moe))
    assert not isinstance(model.layers[0].mlp, MoEFeedForward)
    assert isinstance(model.layers[1].mlp, MoEFeedForward)

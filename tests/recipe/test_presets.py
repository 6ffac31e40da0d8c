"""Preset sizes: built on the meta device, against published counts and against the closed formula."""

import pytest
import torch

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.params import count_params
from athanor.recipe import PRESETS, PUBLISHED_PARAMS, load_text


def built(config: ModelConfig) -> int:
    """Parameters of the real modules, without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_formula_counts_the_modules(name):
    assert count_params(PRESETS[name]) == built(PRESETS[name])


@pytest.mark.parametrize("name", PUBLISHED_PARAMS)
def test_size_is_the_published_one(name):
    published = PUBLISHED_PARAMS[name]
    assert abs(built(PRESETS[name]) - published.params) <= published.tolerance * published.params


def test_every_large_preset_has_a_published_size():
    assert {name for name in PRESETS if count_params(PRESETS[name]) > 10**9} == set(PUBLISHED_PARAMS)


MOE = "moe: {num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 48"


@pytest.mark.parametrize(
    "shape",
    [
        f"{MOE}}}",
        f"{MOE}, num_shared_experts: 2, first_k_dense: 1}}",
        f"{MOE}, balance: bias, scoring: sigmoid, first_k_dense: 9}}",
        f"{MOE}, num_shared_experts: 1}}, mlp_bias: true",
        "qk_norm: true, attention_bias: true",
        "norm_type: layernorm, qk_norm: true, norm_placement: pre",
        "mlp_gated: false, mlp_bias: true, attention_output_bias: true",
        "position_embedding: learned, tie_word_embeddings: false, head_dim: 48",
    ],
)
def test_formula_follows_every_switch(shape):
    config = load_text(f"model: {{preset: tiny, {shape}}}").model
    assert count_params(config) == built(config)


def test_active_parameters_leave_out_the_experts_a_token_does_not_visit():
    config = load_text(f"model: {{preset: tiny, {MOE}, num_shared_experts: 1}}}}").model
    idle = config.num_hidden_layers * (4 - 2) * 3 * config.hidden_size * 48
    assert count_params(config, active=True) == count_params(config) - idle
    assert count_params(PRESETS["tiny"], active=True) == count_params(PRESETS["tiny"])

"""config.json: published files, what is refused, which family is chosen, exact round trips."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig, RopeScaling
from athanor.model.decoder import Decoder
from athanor.model.hf_config import config_from_hf, config_to_hf, native_config
from athanor.model.hf_families import FAMILIES, choose_family, misfits
from athanor.model.hf_weights import family_links

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3_MOE = LLAMA | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4}

#: The fields of published config.json files (old spelling of RoPE and dtype) and the published parameter counts.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.1-8B": (
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 128256,
        },
        8_030_261_248,
    ),
    "Qwen2.5-72B": (
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 8192,
            "intermediate_size": 29568,
            "max_position_embeddings": 131072,
            "max_window_layers": 80,
            "model_type": "qwen2",
            "num_attention_heads": 64,
            "num_hidden_layers": 80,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 152064,
        },
        72_706_203_648,
    ),
    "Qwen3-8B": (
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 40960,
            "max_window_layers": 36,
            "model_type": "qwen3",
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        8_190_735_360,
    ),
    "Qwen3-30B-A3B": (
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "head_dim": 128,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "max_position_embeddings": 40960,
            "mlp_only_layers": [],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 48,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        30_532_122_624,
    ),
    "Mistral-7B-v0.1": (
        {
            "architectures": ["MistralForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        7_241_732_096,
    ),
    "Mixtral-8x7B-v0.1": (
        {
            "architectures": ["MixtralForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mixtral",
            "num_attention_heads": 32,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        46_702_792_704,
    ),
    "GLM-4-9B-0414": (
        {
            "architectures": ["Glm4ForCausalLM"],
            "attention_bias": True,
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 13696,
            "max_position_embeddings": 32768,
            "model_type": "glm4",
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "vocab_size": 151552,
        },
        9_400_279_040,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_have_the_published_size(name):
    hf, published = PUBLISHED[name]
    config = config_from_hf(hf)
    with torch.device("meta"):
        model = Decoder(config)
    assert sum(p.numel() for p in model.parameters()) == published
    assert config.rope_theta == hf["rope_theta"]
    again = config_to_hf(config)
    assert again["architectures"] == hf["architectures"]
    assert config_from_hf(again) == config


def test_published_details_are_read():
    llama = config_from_hf(PUBLISHED["Llama-3.1-8B"][0])
    assert llama.rope_scaling == RopeScaling(rope_type="llama3", factor=8, original_max_position_embeddings=8192)
    assert llama.norm_eps == 1e-5 and llama.head_dim == 0 and llama.eos_token_id == 128001
    assert config_from_hf(PUBLISHED["Qwen2.5-72B"][0]).sliding_window is None
    assert config_from_hf(PUBLISHED["Mistral-7B-v0.1"][0]).sliding_window == 4096
    glm = config_from_hf(PUBLISHED["GLM-4-9B-0414"][0])
    assert glm.rope_interleaved and glm.attention_bias and not glm.attention_output_bias
    assert glm.partial_rotary_factor == 0.5 and glm.norm_placement == "sandwich"


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if not f.moe], ids=lambda f: f.model_type)
def test_missing_keys_mean_what_transformers_takes_them_for(family):
    small = {k: v for k, v in LLAMA.items() if k not in ("architectures", "model_type")} | {"num_key_value_heads": 2}
    theirs = getattr(transformers, family.architecture.replace("ForCausalLM", "Config"))(**small)
    ours = config_from_hf(small | {"architectures": [family.architecture]})
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.sliding_window == (getattr(theirs, "sliding_window", None))
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.pad_token_id == theirs.pad_token_id
    assert ours.head_size == (getattr(theirs, "head_dim", None) or 16)


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (LLAMA | {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported.*LlamaForCausalLM"),
        ({"model_type": "bert"}, "'bert' is not supported.*Glm4ForCausalLM"),
        ({}, "no architectures and no model_type"),
        ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "hidden_size is missing"),
        (LLAMA | {"hidden_size": "64"}, "hidden_size is missing or not a whole number"),
        (LLAMA | {"num_attention_heads": 6}, "multiple"),
        (LLAMA | {"hidden_act": "relu2"}, "relu2.*silu"),
        (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic.*linear, llama3, yarn"),
        (LLAMA | {"rope_scaling": {"type": "linear"}}, "without a factor"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": -1}}, "rope_scaling.factor"),
        (LLAMA | {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ between layers"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantised"),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 3}, "1 of 4 layers"),
        (QWEN3_MOE | {"decoder_sparse_step": 2}, "every 2"),
        (QWEN3_MOE | {"mlp_only_layers": [1]}, r"dense layers \[1\]"),
        (LLAMA | {"athanor": {"config": {"wings": 2}}}, "wings"),
    ],
)
def test_what_cannot_be_computed_is_refused(hf, message):
    with pytest.raises(AthanorError, match=f"(?s)^somewhere: .*{message}"):
        config_from_hf(hf, where="somewhere")


def test_windows_of_all_or_no_layers():
    every = QWEN2 | {"use_sliding_window": True, "sliding_window": 16}
    assert config_from_hf(every | {"max_window_layers": 0}).sliding_window == 16
    assert config_from_hf(every | {"max_window_layers": 4}).sliding_window is None
    assert config_from_hf(every | {"layer_types": ["full_attention"] * 4}).sliding_window is None


def test_yarn_temperature_ratio_is_read():
    """DeepSeek's two temperatures, against transformers' own formula."""
    scaling = {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 1.2, "rope_theta": 1e4}
    theirs = transformers.LlamaConfig(rope_parameters=scaling | {"original_max_position_embeddings": 256})
    _, factor = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"](theirs)
    ours = config_from_hf(LLAMA | {"rope_scaling": scaling | {"original_max_position_embeddings": 256}})
    assert ours.rope_scaling is not None
    assert ours.rope_scaling.attention_factor == pytest.approx(factor)


def small(**changes: Any) -> ModelConfig:
    base = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return ModelConfig(**(base | changes))


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "layernorm"}, "no Hugging Face family has LayerNorm"),
        ({"position_embedding": "learned", "mlp_gated": False}, "learned position embeddings, a feed-forward without"),
        ({"norm_placement": "sandwich", "qk_norm": True}, "this combination: .*Glm4ForCausalLM lacks qk_norm"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor below 1"),
        ({"moe": EXPERTS | {"num_shared_experts": 1}}, "no Hugging Face family has shared experts"),
        ({"moe": EXPERTS | {"scoring": "sigmoid", "balance": "bias"}}, "sigmoid routing, a router bias"),
        ({"moe": EXPERTS | {"first_k_dense": 1}}, "dense layers before the experts"),
    ],
)
def test_export_names_what_no_family_has(changes, message):
    config = small(**changes)
    with pytest.raises(AthanorError, match=message):
        config_to_hf(config)
    assert config_from_hf(json.loads(json.dumps(native_config(config, "reason")))) == config


def test_forced_family():
    assert config_to_hf(small(), "qwen2")["architectures"] == ["Qwen2ForCausalLM"]  # with zero biases
    assert config_to_hf(small(), "MistralForCausalLM")["sliding_window"] is None
    with pytest.raises(AthanorError, match="Glm4ForCausalLM cannot express norm placement pre"):
        config_to_hf(small(), "glm4")
    with pytest.raises(AthanorError, match="did you mean llama"):
        config_to_hf(small(), "lama")


_rope = st.sampled_from(
    [
        None,
        RopeScaling(factor=2),
        RopeScaling(rope_type="llama3", factor=8, low_freq_factor=2),
        RopeScaling(rope_type="yarn", factor=4, beta_fast=20, attention_factor=1.5),
    ]
)
_moe = st.none() | st.builds(
    MoEConfig,
    num_experts=st.just(4),
    num_experts_per_tok=st.integers(1, 4),
    moe_intermediate_size=st.sampled_from([8, 24]),
    num_shared_experts=st.integers(0, 1),
    norm_topk_prob=st.booleans(),
    scoring=st.sampled_from(["softmax", "softmax", "sigmoid"]),
    balance=st.sampled_from(["loss", "none", "bias"]),
    first_k_dense=st.integers(0, 1),
)
_configs = st.builds(
    small,
    num_attention_heads=st.sampled_from([4, 6]),
    num_key_value_heads=st.sampled_from([1, 2]),
    head_dim=st.sampled_from([8, 16]),
    hidden_act=st.sampled_from(["silu", "gelu", "gelu_tanh"]),
    norm_eps=st.sampled_from([1e-6, 1e-5]),
    norm_placement=st.sampled_from(["pre", "sandwich", "depth_scaled_sandwich"]),
    init=st.sampled_from(["tiny", "small", "normal"]),
    rope_theta=st.sampled_from([1e4, 5e5]),
    rope_scaling=_rope,
    partial_rotary_factor=st.sampled_from([1.0, 1.0, 0.5]),
    rope_interleaved=st.booleans(),
    tie_word_embeddings=st.booleans(),
    attention_bias=st.booleans(),
    attention_output_bias=st.booleans(),
    mlp_bias=st.sampled_from([False, False, True]),
    qk_norm=st.booleans(),
    sliding_window=st.sampled_from([None, None, 7]),
    moe=_moe,
    eos_token_id=st.sampled_from([None, 3, [3, 4]]),
    pad_token_id=st.sampled_from([None, 1]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_configs)
def test_any_config_round_trips_and_matches_transformers_tensors(config):
    fitting = [f for f in FAMILIES.values() if not misfits(config, f)]
    for family in fitting:
        hf = json.loads(json.dumps(config_to_hf(config, family.model_type)))
        assert config_from_hf(hf) == config
        _same_tensors(config, family.model_type, hf)
    if fitting:
        assert choose_family(config) in fitting
    else:
        with pytest.raises(AthanorError, match="no Hugging Face family"):
            choose_family(config)


def _same_tensors(config: ModelConfig, model_type: str, hf: dict[str, Any]) -> None:
    """The names and shapes that would be written are those of the transformers model of the same config.json."""
    theirs_config = transformers.AutoConfig.for_model(**hf)
    with torch.device("meta"):
        ours, theirs = Decoder(config), transformers.AutoModelForCausalLM.from_config(theirs_config)
    state = ours.state_dict()
    written = {
        name: tensor.shape
        for link in family_links(config, FAMILIES[model_type], fused_experts=True)
        for name, tensor in zip(link.theirs, link.to_theirs([state[n] for n in link.ours]), strict=True)
    }
    expected = {name: p.shape for name, p in theirs.named_parameters()}
    assert written == expected

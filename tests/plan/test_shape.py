"""Parameters against models on the meta device and published counts; pairs against a mask; operations against PyTorch's
own counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig
from athanor.model.decoder import Decoder
from athanor.plan.shape import Documents, megatron_flops, model_config, parameters, step_flops
from athanor.recipe.presets import PRESETS, PUBLISHED_PARAMS

SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = MoEConfig(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=2, first_k_dense=1
)
VARIANTS = {
    "gqa": {},
    "sandwich": {"norm_placement": "depth_scaled_sandwich", "tie_word_embeddings": True},
    "gpt": {
        "norm_type": "layernorm",
        "mlp_gated": False,
        "position_embedding": "learned",
        "attention_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
    },
    "qk_norm": {"qk_norm": True, "head_dim": 16},
    "moe": {"moe": EXPERTS},
    "moe_biased": {"moe": EXPERTS, "mlp_bias": True, "attention_bias": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_of_the_model(name: str):
    config = ModelConfig(**SMALL, **HEADS, **VARIANTS[name])
    with torch.device("meta"):
        model = Decoder(config)
    counted, blocks = parameters(config), {"embed_tokens": 0, "layers": 0, "lm_head": 0}
    for key, parameter in model.named_parameters():
        part = key.split(".")[0]
        blocks[part] = blocks.get(part, 0) + parameter.numel()
    assert counted.total == sum(blocks.values())
    assert (counted.embedding, counted.head) == (blocks["embed_tokens"], blocks["lm_head"])
    kinds = counted.dense_blocks * counted.dense_block + counted.expert_blocks * counted.expert_block
    assert kinds == blocks["layers"]


@pytest.mark.parametrize("name", PUBLISHED_PARAMS)
def test_parameters_are_as_published(name: str):
    published = PUBLISHED_PARAMS[name]
    assert parameters(PRESETS[name]).total == pytest.approx(published.params, rel=published.tolerance)


def test_pangu_ultra_has_133_9_billion():
    assert round(parameters(PRESETS["pangu-ultra-135b"]).total / 1e9, 1) == 133.9


def test_a_hugging_face_config_is_taken():
    hf = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
    }
    # The Mixtral-8x7B-v0.1 checkpoint index: 93,405,585,408 bytes of bfloat16.
    assert parameters(model_config(hf)).total == 93_405_585_408 // 2


@pytest.mark.parametrize("window", [None, 5])
def test_pairs_are_those_of_a_mask(window: int | None):
    lengths = [3, 17, 8, 1]
    allowed = 0
    for n in lengths:
        i, j = np.indices((n, n))
        allowed += int(((j <= i) & (i - j < (window or n))).sum())
    documents = Documents.of(lengths)
    assert documents.pairs_per_token(64, window=window) == pytest.approx(allowed / sum(lengths))
    # Rows of four tokens cut the longer ones.
    cut = [3, 4, 4, 4, 4, 1, 4, 4, 1]
    assert documents.pairs_per_token(4) == pytest.approx(sum(n * (n + 1) / 2 for n in cut) / sum(cut))
    assert documents.pairs_per_token(64, "full") == pytest.approx(sum(n * n for n in lengths) / sum(lengths))
    assert Documents.rows().pairs_per_token(7) == 4.0


def test_bad_documents_are_refused():
    for lengths, weights in (((), None), ((0,), None), ((3,), (1.0, 2.0)), ((3,), (-1.0,))):
        with pytest.raises(AthanorError):
            Documents.of(lengths, weights)


@pytest.mark.parametrize("name", ["gqa", "gpt"])
def test_operations_are_those_that_pytorch_counts(name: str):
    config = ModelConfig(**SMALL, **HEADS, **VARIANTS[name])
    model, ids = Decoder(config), torch.randint(0, 96, (2, 24))
    counter = FlopCounterMode(display=False)
    with counter:
        model(ids).sum().backward()
    # PyTorch has no count of the CPU's fused attention, so that this is every product but attention's, exactly.
    assert counter.get_total_flops() == step_flops(config, 48, 0.0)
    # A pair costs two products of head_dim in each head, forward, and twice that backward.
    pairs = Documents.rows().pairs_per_token(24, "full") * 48
    attention = 3 * 2 * 2 * config.head_size * config.num_attention_heads * config.num_hidden_layers * pairs
    assert step_flops(config, 48, pairs / 48) == counter.get_total_flops() + attention


def test_the_formula_of_published_tflops_is_ours_for_its_models():
    config = PRESETS["codegeex-13b"]
    ours = step_flops(config, 8 * 2048, Documents.rows().pairs_per_token(2048, "full"))
    assert megatron_flops(config, 8, 2048, recompute=False) == pytest.approx(ours, rel=1e-12)
    assert megatron_flops(config, 8, 2048, recompute=True) == pytest.approx(
        ours * 4 / 3 - 2 * 8 * 2048 * 5120 * 52224, rel=1e-12
    )

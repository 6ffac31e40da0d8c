"""The Hugging Face families Athanor reads and writes: what each can express, and which one runs a given model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig

#: ``model_type`` and architecture of a directory that no family describes; only Athanor reads it.
NATIVE = "athanor"
NATIVE_ARCHITECTURE = "AthanorForCausalLM"


@dataclass(frozen=True)
class Family:
    """What one Hugging Face architecture can express beyond pre- or sandwich-RMSNorm, gated feed-forward and RoPE.

    ``qkv_bias``: q, k, v carry no bias, a bias switched by ``attention_bias``, or always one. ``output_bias``: that
    switch adds a bias to the attention output too. ``window``: no sliding window, one plain key, or Qwen's flag.
    ``defaults``: values of missing keys, as the family's own configuration class has them.
    """

    model_type: str
    architecture: str
    sandwich: bool = False
    qk_norm: bool = False
    qkv_bias: Literal["never", "switch", "always"] = "never"
    output_bias: bool = False
    mlp_bias: bool = False
    window: Literal["none", "plain", "flag"] = "none"
    moe: bool = False
    dense_layers: bool = False
    rope_interleaved: bool = False
    partial_rotary: bool = False
    heads_divide_hidden: bool = False
    fused_gate_up: bool = False
    moe_block: str = "mlp"
    expert_names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    defaults: Mapping[str, Any] = field(default_factory=dict)


_QWEN: dict[str, Any] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "sliding_window": 4096}
#: In the order of preference when several families fit equally well.
FAMILIES: dict[str, Family] = {
    f.model_type: f
    for f in (
        Family(
            "llama",
            "LlamaForCausalLM",
            qkv_bias="switch",
            output_bias=True,
            mlp_bias=True,
            heads_divide_hidden=True,
            defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
        ),
        Family(
            "mistral",
            "MistralForCausalLM",
            window="plain",
            defaults={
                "max_position_embeddings": 131072,
                "num_key_value_heads": 8,
                "sliding_window": 4096,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        ),
        Family("qwen2", "Qwen2ForCausalLM", qkv_bias="always", window="flag", defaults=_QWEN),
        Family(
            "qwen3",
            "Qwen3ForCausalLM",
            qk_norm=True,
            qkv_bias="switch",
            output_bias=True,
            window="flag",
            defaults=_QWEN | {"head_dim": 128},
        ),
        Family(
            "glm4",
            "Glm4ForCausalLM",
            sandwich=True,
            qkv_bias="switch",
            rope_interleaved=True,
            partial_rotary=True,
            fused_gate_up=True,
            defaults={
                "max_position_embeddings": 131072,
                "rms_norm_eps": 1.5625e-7,
                "head_dim": 128,
                "num_key_value_heads": 2,
                "attention_bias": True,
                "partial_rotary_factor": 0.5,
                "pad_token_id": 151329,
                "eos_token_id": [151329, 151336, 151338],
            },
        ),
        Family(
            "mixtral",
            "MixtralForCausalLM",
            window="plain",
            moe=True,
            moe_block="block_sparse_moe",
            expert_names=("w1", "w3", "w2"),
            defaults={
                "rms_norm_eps": 1e-5,
                "max_position_embeddings": 131072,
                "num_key_value_heads": 8,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
                "rope_theta": 1e6,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        ),
        Family(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            qk_norm=True,
            qkv_bias="switch",
            output_bias=True,
            window="flag",
            moe=True,
            dense_layers=True,
            defaults=_QWEN
            | {
                "num_key_value_heads": 4,
                "num_local_experts": 128,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
            },
        ),
    )
}


def supported() -> str:
    """The architectures that can be read and written, for messages."""
    return ", ".join(f.architecture for f in FAMILIES.values())


def family_named(name: str) -> Family:
    """A family by ``model_type`` or architecture name (any case), else an error with the nearest one."""
    by_name = {f.model_type: f for f in FAMILIES.values()} | {f.architecture.lower(): f for f in FAMILIES.values()}
    key = name.lower().replace("-", "_")
    if key not in by_name:
        near = difflib.get_close_matches(key, by_name, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise AthanorError(f"unknown model family {name!r}", fix=f"{hint}families: {', '.join(FAMILIES)}")
    return by_name[key]


def family_of(hf: Mapping[str, Any], where: str | None = None) -> Family | None:
    """The family of a ``config.json``, or None for Athanor's own format; unsupported architectures are named."""
    architectures = hf.get("architectures") or []
    model_type = hf.get("model_type")
    known = {f.architecture: f for f in FAMILIES.values()}
    if NATIVE_ARCHITECTURE in architectures or model_type == NATIVE:
        return None
    if architectures:
        if architectures[0] in known:
            return known[architectures[0]]
        raise AthanorError(f"architecture {architectures[0]} is not supported", where=where, fix=f"use {supported()}")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    name = f"model_type {model_type!r} is not supported" if model_type else "no architectures and no model_type"
    raise AthanorError(name, where=where, fix=f"architectures: {supported()}")


def misfits(config: ModelConfig, family: Family) -> list[str]:
    """What ``config`` has and ``family`` cannot express, in words; empty when the family runs it exactly."""
    moe = config.moe
    checks = (
        (config.norm_type != "rmsnorm", "LayerNorm"),
        (config.position_embedding != "rope", "learned position embeddings"),
        (not config.mlp_gated, "a feed-forward without gate"),
        ((config.norm_placement != "pre") != family.sandwich, f"norm placement {config.norm_placement}"),
        (config.qk_norm != family.qk_norm, "qk_norm" if config.qk_norm else "attention without qk_norm"),
        (config.attention_bias and family.qkv_bias == "never", "a bias on q, k, v"),
        (config.attention_output_bias and not family.output_bias, "a bias on the attention output"),
        (config.mlp_bias and not family.mlp_bias, "a bias in the feed-forward"),
        (config.sliding_window is not None and family.window == "none", "a sliding window"),
        (config.partial_rotary_factor != 1 and not family.partial_rotary, "partial_rotary_factor below 1"),
        (family.heads_divide_hidden and config.hidden_size % config.num_attention_heads != 0, "a free head_dim"),
        ((moe is not None) != family.moe, "a mixture of experts" if moe else "a dense feed-forward"),
    )
    reasons = [reason for wrong, reason in checks if wrong]
    return reasons + (_moe_misfits(moe, family) if moe is not None and family.moe else [])


def _moe_misfits(moe: MoEConfig, family: Family) -> list[str]:
    checks = (
        (moe.num_shared_experts > 0, "shared experts"),
        (moe.scoring != "softmax", f"{moe.scoring} routing"),
        (moe.balance == "bias", "a router bias (balance: bias)"),
        (moe.first_k_dense > 0 and not family.dense_layers, "dense layers before the experts"),
        (not moe.norm_topk_prob and not family.dense_layers, "router weights that do not sum to 1"),
    )
    return [reason for wrong, reason in checks if wrong]


def _added_biases(config: ModelConfig, family: Family) -> int:
    """How many kinds of bias the family stores that the model does not have (written as zeros, so still exact)."""
    has_qkv = writes_qkv_bias(config, family)
    return int(has_qkv and not config.attention_bias) + int(
        has_qkv and family.output_bias and not config.attention_output_bias
    )


def writes_qkv_bias(config: ModelConfig, family: Family) -> bool:
    """Whether the family's file of this model holds biases of q, k and v."""
    switched = config.attention_bias or config.attention_output_bias
    return family.qkv_bias == "always" or (family.qkv_bias == "switch" and switched)


def choose_family(config: ModelConfig, name: str | None = None) -> Family:
    """The family that runs ``config`` exactly, or ``name`` if it can; an error says what no family has."""
    if name is not None:
        family = family_named(name)
        if reasons := misfits(config, family):
            raise AthanorError(
                f"{family.architecture} cannot express {', '.join(reasons)}", where="export", fix="try another family"
            )
        return family
    fitting = [f for f in FAMILIES.values() if not misfits(config, f)]
    if fitting:
        return min(fitting, key=lambda f: _added_biases(config, f))  # the first of equals: the order of FAMILIES
    has_moe = config.moe is not None
    by_family = {f.architecture: misfits(config, f) for f in FAMILIES.values() if f.moe == has_moe}
    common = [r for r in next(iter(by_family.values())) if all(r in others for others in by_family.values())]
    fewest = min(len(r) for r in by_family.values())
    closest = [f"{name} lacks {', '.join(r)}" for name, r in by_family.items() if len(r) == fewest]
    what = f"has {', '.join(common)}" if common else f"has this combination: {'; '.join(closest)}"
    raise AthanorError(f"no Hugging Face family {what}", where="export", fix=f"families: {supported()}")

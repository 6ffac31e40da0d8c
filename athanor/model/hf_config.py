"""``config.json`` of Hugging Face families to and from :class:`ModelConfig`.

The fields a family (:mod:`athanor.model.hf_families`) knows are authoritative in ``config.json``. What only Athanor
knows (initialisation, depth scales, router balancing …) is kept under the key ``athanor`` as the difference to what
the family's fields already say, so a directory written here reads back as the exact same config, and a directory from
elsewhere needs no such block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig, MoEConfig, RopeScaling
from athanor.model.hf_families import NATIVE, NATIVE_ARCHITECTURE, Family, choose_family, family_of, writes_qkv_bias

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config_to_hf(config: ModelConfig, family: str | None = None) -> dict[str, Any]:
    """``config.json`` of ``config`` as the named family, or as the one that fits; AthanorError when none does."""
    chosen = choose_family(config, family)
    hf: dict[str, Any] = {
        "architectures": [chosen.architecture],
        "model_type": chosen.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_size,
        "hidden_act": _ACTIVATION_NAMES[config.hidden_act],
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
        "use_cache": True,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    hf |= _rope_to_hf(config, chosen) | _switches_to_hf(config, chosen)
    if config.moe is not None:
        hf |= _moe_to_hf(config.moe, chosen)
    hf |= {name: getattr(config, name) for name in _IDS}
    said = config_from_hf(hf).model_dump(mode="json")
    return hf | {NATIVE: {"config": _difference(said, config.model_dump(mode="json"))}}


def native_config(config: ModelConfig, reason: str) -> dict[str, Any]:
    """``config.json`` of a model that no family describes: all of it under ``athanor``, with the reason."""
    return {
        "architectures": [NATIVE_ARCHITECTURE],
        "model_type": NATIVE,
        NATIVE: {"config": config.model_dump(mode="json"), "reason": reason},
    } | {name: getattr(config, name) for name in _IDS}


def _switches_to_hf(config: ModelConfig, family: Family) -> dict[str, Any]:
    hf: dict[str, Any] = {}
    if family.qkv_bias == "switch":
        hf["attention_bias"] = writes_qkv_bias(config, family)
    if family.mlp_bias:
        hf["mlp_bias"] = config.mlp_bias
    if family.window == "plain":
        hf["sliding_window"] = config.sliding_window
    if family.window == "flag":
        sliding = config.sliding_window is not None
        hf["use_sliding_window"] = sliding
        hf["sliding_window"] = config.sliding_window
        hf["max_window_layers"] = 0 if sliding else config.num_hidden_layers
        if not family.moe:
            hf["layer_types"] = ["sliding_attention" if sliding else "full_attention"] * config.num_hidden_layers
    return hf


def _moe_to_hf(moe: MoEConfig, family: Family) -> dict[str, Any]:
    hf: dict[str, Any] = {
        "num_experts_per_tok": moe.num_experts_per_tok,
        "num_local_experts": moe.num_experts,
        "router_aux_loss_coef": moe.router_aux_loss_coef,
        "output_router_logits": False,
    }
    if family.dense_layers:
        hf |= {
            "num_experts": moe.num_experts,
            "moe_intermediate_size": moe.moe_intermediate_size,
            "norm_topk_prob": moe.norm_topk_prob,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(moe.first_k_dense)),
        }
    else:
        hf["intermediate_size"] = moe.moe_intermediate_size
    return hf


def _rope_to_hf(config: ModelConfig, family: Family) -> dict[str, Any]:
    """RoPE in both spellings: ``rope_parameters`` (transformers 5) and ``rope_theta`` + ``rope_scaling`` (before)."""
    s, theta = config.rope_scaling, config.rope_theta
    scaling: dict[str, Any] | None = None
    if s is not None:
        scaling = {"rope_type": s.rope_type, "factor": s.factor}
        if s.rope_type != "linear":
            scaling["original_max_position_embeddings"] = s.original_max_position_embeddings
        if s.rope_type == "llama3":
            scaling |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
        if s.rope_type == "yarn":
            scaling |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow}
            if s.attention_factor is not None:
                scaling["attention_factor"] = s.attention_factor
    partial = {"partial_rotary_factor": config.partial_rotary_factor} if family.partial_rotary else {}
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": theta, **partial}
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": parameters, **partial}


def config_from_hf(hf: Mapping[str, Any], where: str | None = None) -> ModelConfig:
    """The config of a ``config.json``; AthanorError for what Athanor does not compute (named, never guessed)."""
    family = family_of(hf, where)
    block = hf.get(NATIVE) or {}
    own = block.get("config") or {}
    fields = own if family is None else _merged(_family_fields(hf, family, where), own)
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise AthanorError(
            f"{key + ': ' if key else ''}{first['msg']}", where=where, fix="correct config.json"
        ) from error


def _family_fields(hf: Mapping[str, Any], family: Family, where: str | None) -> dict[str, Any]:
    """Fields of :class:`ModelConfig` that the family's keys say, as plain JSON values."""
    if hf.get("quantization_config"):
        raise AthanorError("quantised weights are not supported", where=where, fix="use the unquantised checkpoint")

    def get(key: str, default: Any = None) -> Any:
        value = hf.get(key)
        return value if value is not None else family.defaults.get(key, default)

    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if not isinstance(hf.get(key), int):
            raise AthanorError(f"{key} is missing or not a whole number", where=where, fix="correct config.json")
    activation = get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise AthanorError(f"hidden_act {activation!r} is not supported", where=where, fix=f"supported: {known}")
    heads, hidden = hf["num_attention_heads"], hf["hidden_size"]
    head_dim = get("head_dim") or 0
    bias = family.qkv_bias == "always" or (family.qkv_bias == "switch" and bool(get("attention_bias", False)))
    std = get("initializer_range", 0.02)
    fields = {
        "vocab_size": hf["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": hf["intermediate_size"],
        "num_hidden_layers": hf["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": get("num_key_value_heads", heads),
        "head_dim": 0 if head_dim * heads == hidden else head_dim,
        "hidden_act": _ACTIVATIONS[activation],
        "norm_eps": get("rms_norm_eps", 1e-6),
        "norm_placement": "sandwich" if family.sandwich else "pre",
        "init": "normal",
        "initializer_range": std,
        "rope_interleaved": family.rope_interleaved,
        "max_position_embeddings": get("max_position_embeddings"),
        "tie_word_embeddings": bool(get("tie_word_embeddings", False)),
        "attention_bias": bias,
        "attention_output_bias": bias and family.output_bias,
        "mlp_bias": family.mlp_bias and bool(get("mlp_bias", False)),
        "qk_norm": family.qk_norm,
        "sliding_window": _window_from_hf(hf, family, where),
    }
    fields |= {name: hf[name] if name in hf else family.defaults.get(name) for name in _IDS}
    if family.moe:
        fields["moe"] = _moe_from_hf(hf, family, where)
    return fields | _rope_from_hf(hf, family, where)


def _window_from_hf(hf: Mapping[str, Any], family: Family, where: str | None) -> int | None:
    """The sliding window of all layers, or None; a model that mixes both kinds is refused."""
    if family.window == "none":
        return None
    layers = hf["num_hidden_layers"]
    window = hf.get("sliding_window", family.defaults.get("sliding_window"))
    if family.window == "flag" and not hf.get("use_sliding_window", False):
        window = None
    kinds = hf.get("layer_types")
    if kinds is None and family.window == "flag" and not family.moe:
        first = hf.get("max_window_layers", 28)
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    if window is None or not kinds:
        return window
    if len(set(kinds)) > 1:
        raise AthanorError(
            f"{kinds.count('sliding_attention')} of {layers} layers have a sliding window; all or none is supported",
            where=where,
            fix="set use_sliding_window to false if the context stays below the window",
        )
    return window if kinds[0] == "sliding_attention" else None


def _moe_from_hf(hf: Mapping[str, Any], family: Family, where: str | None) -> dict[str, Any]:
    def get(key: str, default: Any = None) -> Any:
        value = hf.get(key)
        return value if value is not None else family.defaults.get(key, default)

    # transformers 5 writes ``num_local_experts`` where published Qwen3-MoE files say ``num_experts``.
    experts = hf.get("num_local_experts") or hf.get("num_experts") or family.defaults["num_local_experts"]
    dense = sorted(hf.get("mlp_only_layers") or []) if family.dense_layers else []
    if hf.get("decoder_sparse_step", 1) != 1 or dense != list(range(len(dense))):
        raise AthanorError(
            f"experts in every {hf.get('decoder_sparse_step', 1)}. layer with dense layers {dense}",
            where=where,
            fix="only models whose first layers are dense and all others have experts are supported",
        )
    return {
        "num_experts": experts,
        "num_experts_per_tok": get("num_experts_per_tok"),
        "moe_intermediate_size": get("moe_intermediate_size") if family.dense_layers else hf["intermediate_size"],
        "norm_topk_prob": bool(hf.get("norm_topk_prob", False)) if family.dense_layers else True,
        "router_aux_loss_coef": get("router_aux_loss_coef", 0.001),
        "first_k_dense": len(dense),
    }


def _rope_from_hf(hf: Mapping[str, Any], family: Family, where: str | None) -> dict[str, Any]:
    parameters = {**(hf.get("rope_parameters") or {}), **(hf.get("rope_scaling") or {})}
    if any(isinstance(value, dict) for value in parameters.values()):
        raise AthanorError("RoPE parameters that differ between layers are not supported", where=where)
    fallback = family.defaults.get("partial_rotary_factor", 1.0)
    partial = parameters.get("partial_rotary_factor", hf.get("partial_rotary_factor", fallback))
    if partial != 1 and not family.partial_rotary:
        raise AthanorError(f"partial_rotary_factor {partial} in {family.architecture}", where=where, fix="it must be 1")
    theta = parameters.get("rope_theta") or hf.get("rope_theta") or family.defaults.get("rope_theta", 10_000.0)
    scaling = _scaling_from_hf(parameters, hf, family, where)
    return {"rope_theta": theta, "partial_rotary_factor": partial, "rope_scaling": scaling}


def _scaling_from_hf(
    parameters: Mapping[str, Any], hf: Mapping[str, Any], family: Family, where: str | None
) -> dict[str, Any] | None:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise AthanorError(
            f"RoPE scaling {kind!r} is not supported", where=where, fix="supported: linear, llama3, yarn"
        )
    if not parameters.get("truncate", True):
        raise AthanorError("YaRN with truncate: false is not supported", where=where)
    scaling: dict[str, Any] = {"rope_type": kind} | {
        key: parameters[key] for key in RopeScaling.model_fields if parameters.get(key) is not None
    }
    longest = hf.get("max_position_embeddings") or family.defaults["max_position_embeddings"]
    if kind != "linear":
        original = hf.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
        scaling["original_max_position_embeddings"] = original or longest
    if kind == "yarn" and "factor" not in scaling:
        scaling["factor"] = longest / scaling["original_max_position_embeddings"]
    elif "factor" not in scaling:
        raise AthanorError(f"RoPE scaling {kind!r} without a factor", where=where, fix="give factor")
    mscale, mscale_all = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if kind == "yarn" and mscale and mscale_all and "attention_factor" not in scaling:
        # arXiv 2405.04434 (DeepSeek-V2): the ratio of two YaRN temperatures.
        log = math.log(max(scaling["factor"], 1.0))
        scaling["attention_factor"] = (0.1 * mscale * log + 1) / (0.1 * mscale_all * log + 1)
    return scaling


def _difference(base: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    """What must be laid over ``base`` (by :func:`_merged`) to get ``full``; recurses into sub-trees both have."""
    out: dict[str, Any] = {}
    for key, value in full.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            if inner := _difference(base[key], value):
                out[key] = inner
        elif key not in base or base[key] != value:
            out[key] = value
    return out


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        inner = isinstance(value, dict) and isinstance(base.get(key), dict)
        out[key] = _merged(base[key], value) if inner else value
    return out

"""Which tensors of a Hugging Face file hold which parameters, and how one becomes the other.

A :class:`Link` joins some parameters of :class:`~athanor.model.decoder.Decoder` to the file tensors that carry them,
with a function each way. The same links serve reading, writing, and (run on the meta device) the check of shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.hf_families import Family, writes_qkv_bias

Tensors = list[torch.Tensor]


def _unchanged(tensors: Tensors) -> Tensors:
    return tensors


@dataclass(frozen=True)
class Link:
    """``theirs`` (file tensors) carry ``ours`` (parameters or buffers); both functions keep the order of the names."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_theirs: Callable[[Tensors], Tensors] = _unchanged
    to_ours: Callable[[Tensors], Tensors] = _unchanged


def native_links(names: Iterable[str]) -> list[Link]:
    """Every tensor under its own name: Athanor's own format."""
    return [Link((name,), (name,)) for name in names]


def family_links(config: ModelConfig, family: Family, fused_experts: bool = False) -> list[Link]:
    """Links of a whole model. ``fused_experts``: transformers 5's 3-D expert tensors instead of one per expert."""
    links = [
        Link(("embed_tokens.weight",), ("model.embed_tokens.weight",)),
        Link(("final_norm.weight",), ("model.norm.weight",)),
    ]
    if not config.tie_word_embeddings:
        links.append(Link(("lm_head.weight",), ("lm_head.weight",)))
    for i in range(config.num_hidden_layers):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        links += _norm_links(family, ours, theirs)
        links += _attention_links(config, family, ours + "attn.", theirs + "self_attn.")
        if config.moe is not None and i >= config.moe.first_k_dense:
            block = "mlp" if fused_experts else family.moe_block
            links += _expert_links(config.moe.num_experts, family, ours + "mlp.", f"{theirs}{block}.", fused_experts)
        else:
            links += _feed_forward_links(config, family, ours + "mlp.", theirs + "mlp.")
    return links


def _norm_links(family: Family, ours: str, theirs: str) -> list[Link]:
    names = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if family.sandwich:
        names |= {"post_attn_norm": "post_self_attn_layernorm", "post_mlp_norm": "post_mlp_layernorm"}
    return [Link((f"{ours}{a}.weight",), (f"{theirs}{b}.weight",)) for a, b in names.items()]


def rotary_order(head_size: int, rotary_width: int, interleaved: bool) -> torch.Tensor:
    """int64 [head_size]: where each channel of a head comes from when the pairing of RoPE changes.

    ``interleaved`` True turns halves (i, i + width/2) into neighbours (2i, 2i + 1), False turns neighbours into halves.
    Queries and keys move alike, so their products, and with them the model, stay the same.
    """
    pairs = torch.arange(rotary_width).view((2, -1) if interleaved else (-1, 2))
    return torch.cat((pairs.T.flatten(), torch.arange(rotary_width, head_size)))


def _attention_links(config: ModelConfig, family: Family, ours: str, theirs: str) -> list[Link]:
    size = config.head_size
    forth = back = None
    if config.rope_interleaved != family.rope_interleaved:
        width = int(size * config.partial_rotary_factor)
        forth = rotary_order(size, width, family.rope_interleaved)
        back = rotary_order(size, width, config.rope_interleaved)
    file_bias = writes_qkv_bias(config, family)
    links = []
    for name in ("q_proj", "k_proj", "v_proj"):
        turn = (forth, back) if name != "v_proj" else (None, None)
        links += _linear_links(ours + name, theirs + name, config.attention_bias, file_bias, turn)
    out_bias = file_bias and family.output_bias
    links += _linear_links(ours + "o_proj", theirs + "o_proj", config.attention_output_bias, out_bias)
    if config.qk_norm:
        links += [_turned(f"{ours}{n}.weight", f"{theirs}{n}.weight", (forth, back)) for n in ("q_norm", "k_norm")]
    return links


def _turned(ours: str, theirs: str, turn: tuple[torch.Tensor | None, torch.Tensor | None]) -> Link:
    """One tensor whose rows are reordered within each head, by ``turn[0]`` to the file and ``turn[1]`` from it."""

    def reorder(order: torch.Tensor | None) -> Callable[[Tensors], Tensors]:
        if order is None:
            return _unchanged
        return lambda tensors: [_reorder_heads(x, order) for x in tensors]

    return Link((ours,), (theirs,), reorder(turn[0]), reorder(turn[1]))


def _reorder_heads(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return x.unflatten(0, (-1, len(order))).index_select(1, order.to(x.device)).flatten(0, 1)


def _linear_links(
    ours: str,
    theirs: str,
    has_bias: bool,
    file_bias: bool,
    turn: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
) -> list[Link]:
    """Weight and bias of one matrix. A bias that only the file has is written as zeros and must be zero when read."""
    weight = _turned(f"{ours}.weight", f"{theirs}.weight", turn)
    if has_bias == file_bias:
        return [weight, _turned(f"{ours}.bias", f"{theirs}.bias", turn)] if has_bias else [weight]
    if has_bias:
        raise ValueError(f"{theirs} has no bias in this family")  # choose_family does not let this come here

    def with_zeros(tensors: Tensors) -> Tensors:
        return weight.to_theirs(tensors) + [tensors[0].new_zeros(tensors[0].shape[0])]

    def without(tensors: Tensors) -> Tensors:
        if not tensors[1].is_meta and bool(tensors[1].any()):
            raise AthanorError(
                f"{theirs}.bias is not zero, and the athanor block of config.json says that there is no such bias",
                fix="remove attention_bias and attention_output_bias from athanor.config in config.json",
            )
        return weight.to_ours(tensors[:1])

    return [Link(weight.ours, (*weight.theirs, f"{theirs}.bias"), with_zeros, without)]


def _feed_forward_links(config: ModelConfig, family: Family, ours: str, theirs: str) -> list[Link]:
    names = ("gate_proj", "up_proj", "down_proj")
    if not family.fused_gate_up:
        kinds = ("weight", "bias") if config.mlp_bias else ("weight",)
        return [Link((f"{ours}{n}.{k}",), (f"{theirs}{n}.{k}",)) for n in names for k in kinds]
    gate, up, down = (f"{ours}{n}.weight" for n in names)
    fused = Link(
        (gate, up),
        (f"{theirs}gate_up_proj.weight",),
        lambda tensors: [torch.cat(tensors)],
        lambda tensors: list(tensors[0].chunk(2)),
    )
    return [fused, Link((down,), (f"{theirs}down_proj.weight",))]


def _expert_links(n_experts: int, family: Family, ours: str, theirs: str, fused: bool) -> list[Link]:
    """Router and experts; the file keeps each matrix as [out, in], we as [E, in, out]."""
    links = [Link((f"{ours}router.weight",), (f"{theirs}gate.weight",))]
    parts = ("w_gate", "w_up", "w_down")
    if not fused:
        for part, name in zip(parts, family.expert_names, strict=True):
            files = tuple(f"{theirs}experts.{e}.{name}.weight" for e in range(n_experts))
            links.append(Link((ours + part,), files, _split_experts, _stack_experts))
        return links
    return [
        *links,
        Link(
            (f"{ours}w_gate", f"{ours}w_up"),
            (f"{theirs}experts.gate_up_proj",),
            lambda tensors: [torch.cat([x.mT for x in tensors], dim=1)],
            lambda tensors: [x.mT.contiguous() for x in tensors[0].chunk(2, dim=1)],
        ),
        Link(
            (f"{ours}w_down",),
            (f"{theirs}experts.down_proj",),
            lambda tensors: [tensors[0].mT],
            lambda tensors: [tensors[0].mT.contiguous()],
        ),
    ]


def _split_experts(tensors: Tensors) -> Tensors:
    return [expert.T for expert in tensors[0].unbind(0)]


def _stack_experts(tensors: Tensors) -> Tensors:
    stacked = tensors[0].new_empty(len(tensors), *tensors[0].shape[::-1])
    for e, expert in enumerate(tensors):
        stacked[e].copy_(expert.T)
    return [stacked]

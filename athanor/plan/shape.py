"""The model side of a plan: parameters by part, documents and attended pairs, operations of one training step.

Pure arithmetic on a :class:`~athanor.model.config.ModelConfig` (or a Hugging Face ``config.json``); nothing is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.hf_config import config_from_hf

Convention = Literal["causal", "full"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts by part. ``attention``, ``dense``, ``experts`` … are of one block of that kind."""

    embedding: int
    positions: int
    head: int  #: 0 where it is tied to the embedding
    final_norm: int
    attention: int  #: q, k, v, o with biases, and norms of q and k
    norms: int  #: of one block: before (and behind) attention and feed-forward
    dense: int  #: feed-forward of a dense block
    router: int
    experts: int  #: all routed experts of an expert block
    shared: int  #: its shared experts
    dense_blocks: int
    expert_blocks: int

    @property
    def dense_block(self) -> int:
        """One block with a dense feed-forward."""
        return self.attention + self.norms + self.dense

    @property
    def expert_block(self) -> int:
        """One block with experts."""
        return self.attention + self.norms + self.router + self.experts + self.shared

    @property
    def total(self) -> int:
        """The whole model."""
        blocks = self.dense_blocks * self.dense_block + self.expert_blocks * self.expert_block
        return self.embedding + self.positions + self.head + self.final_norm + blocks


def parameters(config: ModelConfig) -> Parameters:
    """Parameters of ``config`` by part, exact: their sum is that of ``athanor.model.decoder.Decoder``'s."""
    d, h, kv, dh = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_size
    norm = d * (2 if config.norm_type == "layernorm" else 1)
    attention = d * dh * (2 * h + 2 * kv)
    attention += dh * (h + 2 * kv) if config.attention_bias else 0
    attention += d if config.attention_output_bias else 0
    attention += 2 * dh * (2 if config.norm_type == "layernorm" else 1) if config.qk_norm else 0
    moe, layers = config.moe, config.num_hidden_layers
    sparse = 0 if moe is None else max(0, layers - moe.first_k_dense)
    return Parameters(
        embedding=config.vocab_size * d,
        positions=config.max_position_embeddings * d if config.position_embedding == "learned" else 0,
        head=0 if config.tie_word_embeddings else config.vocab_size * d,
        final_norm=norm,
        attention=attention,
        norms=norm * (2 if config.norm_placement == "pre" else 4),
        dense=_feed_forward(config, config.intermediate_size),
        router=0 if moe is None else moe.num_experts * d,
        experts=0 if moe is None else moe.num_experts * 3 * d * moe.moe_intermediate_size,
        shared=0
        if moe is None or not moe.num_shared_experts
        else _feed_forward(config, moe.moe_intermediate_size * moe.num_shared_experts),
        dense_blocks=layers - sparse,
        expert_blocks=sparse,
    )


def _feed_forward(config: ModelConfig, inner: int) -> int:
    d, gates = config.hidden_size, 2 if config.mlp_gated else 1
    return (gates + 1) * d * inner + ((gates * inner + d) if config.mlp_bias else 0)


def model_config(model: ModelConfig | Mapping[str, Any], where: str | None = None) -> ModelConfig:
    """A ModelConfig as it is, or that of a Hugging Face ``config.json``; AthanorError for what is not supported."""
    return model if isinstance(model, ModelConfig) else config_from_hf(model, where)


# --- documents -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Documents:
    """How long documents are: ``lengths`` in tokens, ``weights`` how often each occurs (any scale).

    A row of T tokens is made of such documents, one after another; attention stays inside each (reset masks). What is
    longer than a row is cut. ``Documents.rows()`` (no lengths): every row is one document.
    """

    lengths: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    @classmethod
    def rows(cls) -> Documents:
        """Every row is one document."""
        return cls()

    @classmethod
    def of(cls, lengths: Sequence[int], weights: Sequence[float] | None = None) -> Documents:
        """From observed lengths, or from a histogram; AthanorError where they are empty or not positive."""
        given = tuple(weights) if weights is not None else (1.0,) * len(lengths)
        if not lengths or len(given) != len(lengths):
            raise AthanorError(f"{len(lengths)} document lengths with {len(given)} weights", fix="one weight a length")
        if min(lengths) < 1 or min(given) < 0 or sum(given) <= 0:
            raise AthanorError("document lengths and weights must be positive")
        return cls(tuple(int(n) for n in lengths), given)

    def pairs_per_token(self, seq_len: int, convention: Convention = "causal", window: int | None = None) -> float:
        """Mean attended (query, key) pairs a query in rows of ``seq_len`` tokens.

        ``causal``: T(T+1)/2 a document, a sliding window counted; ``full``: T² a document (PaLM, arXiv 2204.02311,
        appendix B). A document longer than the row is whole rows and a rest.
        """
        if not self.lengths:
            return float(_pairs(np.array([seq_len]), convention, window)[0]) / seq_len
        lengths, weights = np.asarray(self.lengths, np.int64), np.asarray(self.weights, np.float64)
        whole, rest = lengths // seq_len, lengths % seq_len
        row = _pairs(np.array([seq_len]), convention, window)[0]
        pairs = (weights * (whole * row + _pairs(rest, convention, window))).sum()
        return float(pairs / (weights * lengths).sum())

    def imbalance(self, seq_len: int, cp: int, rows: int = 256) -> float:
        """Attended pairs of the rank with most over the mean, where each of ``cp`` ranks has the two chunks i and
        2·cp−1−i of a row (split ``sequence``); mean over ``rows`` rows of documents drawn by a fixed seed."""
        rng = np.random.default_rng(0)
        lengths, weights = np.asarray(self.lengths or (seq_len,)), np.asarray(self.weights or (1.0,))
        ratios = []
        for _ in range(rows):
            drawn = rng.choice(lengths, size=-(-seq_len // int(lengths.min())), p=weights / weights.sum())
            ends = np.minimum(np.cumsum(drawn), seq_len)
            starts = np.concatenate([[0], ends[:-1]])
            within = np.arange(seq_len) - np.repeat(starts, ends - starts)  # a query's place in its document
            chunks = np.array([part.sum() for part in np.array_split(within + 1.0, 2 * cp)])
            ranks = chunks[:cp] + chunks[::-1][:cp]
            ratios.append(ranks.max() / ranks.mean())
        return float(np.mean(ratios))


def _pairs(lengths: np.ndarray, convention: Convention, window: int | None) -> np.ndarray:
    lengths = lengths.astype(np.float64)
    if convention == "full":
        return lengths * lengths
    reach = lengths if window is None else np.minimum(lengths, window)
    return reach * (reach + 1) / 2 + (lengths - reach) * reach


# --- operations ------------------------------------------------------------------------------------------------------


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that multiply one token in all blocks (of experts those it visits), without embedding and head."""
    p, moe = parameters(config), config.moe
    d, dh = config.hidden_size, config.head_size
    attention = d * dh * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    gates = 2 if config.mlp_gated else 1
    dense = (gates + 1) * d * config.intermediate_size
    total = p.dense_blocks * (attention + dense) + p.expert_blocks * attention
    if moe is not None:
        inner = d * moe.moe_intermediate_size
        visited = 3 * moe.num_experts_per_tok * inner + (gates + 1) * moe.num_shared_experts * inner
        total += p.expert_blocks * (visited + p.router)
    return total


def step_flops(config: ModelConfig, tokens: float, pairs_per_token: float) -> float:
    """Operations of forward and backward over ``tokens``: 3 · (2·(weights + V·D)·tokens + 4·Q·L·pairs)."""
    width = config.num_attention_heads * config.head_size
    weights = matmul_parameters(config) + config.vocab_size * config.hidden_size
    return 3.0 * tokens * (2.0 * weights + 4.0 * config.num_hidden_layers * width * pairs_per_token)


def megatron_flops(config: ModelConfig, sequences: float, seq_len: int, recompute: bool) -> float:
    """arXiv 2104.04473, equation 3 (``recompute``: 96 B·L·s·h²·(1 + s/6h + V/16Lh), the forward pass counted twice) or
    without it 72 B·L·s·h²·(1 + s/6h + V/12Lh). Only for models with F = 4·h and as many key-value heads as queries;
    it is what the published achieved TFLOP/s of that paper were divided by."""
    layers, h, vocab = config.num_hidden_layers, config.hidden_size, config.vocab_size
    factor, head = (96.0, 16.0) if recompute else (72.0, 12.0)
    return factor * sequences * layers * seq_len * h * h * (1 + seq_len / (6 * h) + vocab / (head * layers * h))

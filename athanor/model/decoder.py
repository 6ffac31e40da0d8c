"""The decoder, for one device: embeddings, blocks, final norm, head. No collective, no rank, no mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from athanor.errors import AthanorError
from athanor.model.attention import Attention, Rope
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig
from athanor.model.feed_forward import FeedForward
from athanor.model.head import cross_entropy_sum, token_logprobs
from athanor.model.moe import MoEFeedForward
from athanor.model.norms import make_norm
from athanor.model.packing import Packing
from athanor.model.rope import rope_tables

#: labels with this value carry no loss (the same as athanor.data.types.IGNORE, which this room does not import)
IGNORE = -100


#: logits [B, V] → (token ids int64 [B], log-probabilities float32 [B])
Choose = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

#: names and shapes of tensors → their values, one after the other, so that never all are held
FirstValues = Callable[[Mapping[str, torch.Size]], Iterator[tuple[str, torch.Tensor]]]


class Context(NamedTuple):
    """What all blocks share in one forward pass; one of ``packing`` (training) and ``cache`` (decoding) is set."""

    positions_BT: torch.Tensor
    rope: Rope
    packing: Any
    cache: KVCache | None


class Block(nn.Module):
    """h ← h + post(attn(norm(h))); h ← h + post(mlp(norm(h))). ``post`` is the identity for placement ``pre``.

    With placement ``depth_scaled_sandwich`` the post-norm gains begin at c/√L (arXiv 2504.07866, section 3.1, eq. 2).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        sandwich = config.norm_placement != "pre"
        moe = config.moe if config.moe is not None and layer >= config.moe.first_k_dense else None
        self.input_norm = make_norm(config)
        self.attn = Attention(config, layer)
        self.post_attn_norm = make_norm(config) if sandwich else None
        self.mlp_norm = make_norm(config)
        self.mlp: FeedForward | MoEFeedForward = MoEFeedForward(config, moe) if moe else FeedForward(config)
        self.post_mlp_norm = make_norm(config) if sandwich else None

    def forward(
        self,
        h_BTD: torch.Tensor,
        rope: Rope,
        packing: Packing | None,
        cache: KVCache | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, T, D] → ([B, T, D], router auxiliary loss or None)."""
        attn = self.attn(self.input_norm(h_BTD), rope, packing, cache)
        h_BTD = h_BTD + (attn if self.post_attn_norm is None else self.post_attn_norm(attn))
        out = self.mlp(self.mlp_norm(h_BTD))
        out, aux = out if isinstance(out, tuple) else (out, None)
        return h_BTD + (out if self.post_mlp_norm is None else self.post_mlp_norm(out)), aux


class Decoder(nn.Module):
    """Token ids → logits. Weights are torch's until ``athanor.model.init.init_weights`` or a ModelDir fills them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_theta = config.rope_theta
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position_embedding == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = make_norm(config)
        #: Doors for ``athanor.parallel``: what packs documents, and what the head computes. Same meaning, other place.
        self.pack: Callable[..., Any] = Packing.of
        self.cross_entropy: Callable[..., torch.Tensor] = cross_entropy_sum
        self.token_logprob_fn: Callable[..., tuple[torch.Tensor, torch.Tensor]] = token_logprobs
        #: and the shape a KVCache for this model has (a rank may hold some of the heads)
        self.cache_config = config
        #: how rows are shared where copies of a model decode side by side, and who decodes with the present weights
        #: where this is a rank's part of a model under training; None: there is one copy, and it does itself
        self.share: Any = None
        #: where a model on the meta device has its values: {name: shape} → (name, tensor), one after the other
        self.first_values: FirstValues | None = None
        self.decoding_twin: Any = None
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> torch.Tensor:
        """[V, D] output matrix (the embedding when tied)."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def set_rope_theta(self, theta: float) -> None:
        """Change the RoPE base (a stage may); saved with the model's config."""
        self.rope_theta = theta
        self.config = self.config.model_copy(update={"rope_theta": theta})

    def context(
        self,
        input_BT: torch.Tensor,
        positions_BT: torch.Tensor | None,
        doc_lens: Any = None,
        cache: KVCache | None = None,
        dtype: torch.dtype | None = None,
    ) -> Context:
        """What every block of one forward pass shares; ``input_BT`` gives rows, length and device only."""
        n_rows, n_tokens = input_BT.shape[:2]
        device = input_BT.device
        packing = None
        if cache is None:
            packing = self.pack(doc_lens or [[n_tokens]] * n_rows, n_rows, n_tokens, device)
        if positions_BT is None:
            lens_B = cache.lens_B if cache is not None else torch.zeros(n_rows, dtype=torch.int64, device=device)
            positions_BT = lens_B[:, None] + torch.arange(n_tokens, device=device)
        rope: Rope = None
        if self.config.position_embedding == "rope":
            rope = rope_tables(positions_BT, self.config, self.rope_theta, dtype or self.dtype)
        else:
            self._check_positions(positions_BT)
        return Context(positions_BT, rope, packing, cache)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of activations: that of the weights."""
        return next(self.parameters()).dtype

    def embed(self, input_ids_BT: torch.Tensor, context: Context) -> torch.Tensor:
        """Token ids [B, T] → the residual stream's first value [B, T, D]."""
        h_BTD = self.embed_tokens(input_ids_BT)
        return h_BTD if self.embed_positions is None else h_BTD + self.embed_positions(context.positions_BT)

    def blocks(self, h_BTD: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Through this model's blocks. The second value is their part of the router loss: the sum over these blocks of
        auxiliary loss × coefficient, divided by the number of expert blocks in the whole model."""
        aux_losses = []
        for layer in self.layers.values() if isinstance(self.layers, nn.ModuleDict) else self.layers:
            h_BTD, aux = layer(h_BTD, context.rope, context.packing, context.cache)
            if aux is not None:
                aux_losses.append(aux)
        moe = self.config.moe
        if not moe or not aux_losses:
            return h_BTD, None
        n_moe = self.config.num_hidden_layers - moe.first_k_dense
        return h_BTD, moe.router_aux_loss_coef * torch.stack(aux_losses).sum() / n_moe

    def hidden(
        self,
        input_ids_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        cache: KVCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states after the final norm [B, T, D], and the mean router loss × its coefficient, or None."""
        context = self.context(input_ids_BT, positions_BT, doc_lens, cache)
        h_BTD, aux = self.blocks(self.embed(input_ids_BT, context), context)
        return self.final_norm(h_BTD), aux

    def _check_positions(self, positions_BT: torch.Tensor) -> None:
        if int(positions_BT.max()) >= self.config.max_position_embeddings:
            raise AthanorError(
                f"position {int(positions_BT.max())} is beyond the "
                f"{self.config.max_position_embeddings} learned positions",
                where="model",
                fix="shorten the input or raise max_position_embeddings",
            )

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Logits [B, T, V] in the weights' dtype. ``doc_lens`` None: each row is one document."""
        return self.project(self.hidden(input_ids_BT, positions_BT, doc_lens, cache)[0])

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states after the final norm [..., D] → logits [..., V]."""
        return F.linear(hidden, self.head_weight)

    def decode(
        self, input_ids_BT: torch.Tensor, cache: KVCache, rows_B: torch.Tensor, last_B: torch.Tensor, choose: Choose
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read new tokens behind what ``cache`` holds (the caller advances it), and what ``choose`` makes of the logits
        [B, V] at the places (rows_B, last_B) of the input: a pipeline has them on one rank, and its answer on all."""
        hidden_BTD, _ = self.hidden(input_ids_BT, None, None, cache)
        return choose(self.project(hidden_BTD[rows_B, last_B]))

    def loss(
        self,
        input_ids_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        losses_BT: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Cross-entropy summed over labelled positions (float32 scalar), and the router loss or None.

        ``losses_BT``, where given, is filled with the loss of each labelled position (without a gradient).
        """
        hidden_BTD, aux = self.hidden(input_ids_BT, positions_BT, doc_lens)
        hidden_ND, labels_N = _labelled(hidden_BTD, labels_BT)
        if losses_BT is None:
            return self.cross_entropy(hidden_ND, self.head_weight, labels_N), aux
        losses_N = torch.empty(len(labels_N), dtype=losses_BT.dtype, device=losses_BT.device)
        loss = self.cross_entropy(hidden_ND, self.head_weight, labels_N, losses_N)
        losses_BT.masked_scatter_(labels_BT != IGNORE, losses_N)
        return loss, aux

    def token_logprobs(
        self,
        input_ids_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        positions_BT: torch.Tensor | None = None,
        doc_lens: Any = None,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the labels and entropies, float32 [B, T], 0 where ignored; entropy has no gradient."""
        hidden_BTD, _ = self.hidden(input_ids_BT, positions_BT, doc_lens)
        hidden_ND, labels_N = _labelled(hidden_BTD, labels_BT)
        logp_N, entropy_N = self.token_logprob_fn(hidden_ND, self.head_weight, labels_N, temperature)
        # no views: what wraps a model hooks the tensors that it returns
        zeros_BT, here_BT = logp_N.new_zeros(labels_BT.shape), labels_BT != IGNORE
        return zeros_BT.masked_scatter(here_BT, logp_N), zeros_BT.masked_scatter(here_BT, entropy_N)

    def post_step(self) -> None:
        """What a mixture-of-experts model does after each optimizer step: move the router biases."""
        for layer in self.layers.values() if isinstance(self.layers, nn.ModuleDict) else self.layers:
            if isinstance(layer.mlp, MoEFeedForward):
                layer.mlp.update_bias()


def _labelled(hidden_BTD: torch.Tensor, labels_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and labels of the positions that carry loss."""
    labels_N = labels_BT.flatten()
    where = (labels_N != IGNORE).nonzero().flatten()
    hidden_ND = hidden_BTD.flatten(0, 1)
    if len(where) == len(labels_N):
        return hidden_ND, labels_N
    return hidden_ND.index_select(0, where), labels_N[where]

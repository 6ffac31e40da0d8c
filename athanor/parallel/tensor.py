"""Tensor and sequence parallel: a finished Decoder, or a pipeline stage of one, laid over the ranks of ``tp``.

The layout is Megatron's (arXiv 1909.08053, section 3): the first matrices of attention and feed-forward are cut by
columns, the last ones by rows, so that a block needs one collective before and one behind each half. With ``sequence``
(arXiv 2205.05198, section 4.2) the residual stream and its norms hold T/tp tokens a rank: the collectives are then an
all-gather in front and a reduce-scatter behind, which move as many bytes as the all-reduces they stand for.

Parameters become DTensors, because checkpoints, FSDP2 and optimizers understand those. The arithmetic runs on their
local parts in plain tensors: DTensor's own dispatch costs every small operation more than the operation itself on a
CPU, and styles of ``parallelize_module`` know neither this RMSNorm nor a KV head that several ranks share. A module is
changed by giving it a subclass of its class, as FSDP2 does too, so names and types of everything stay what they were.

A gradient that each rank holds a part of is summed in the backward pass, where it arises: afterwards every ``.grad``
is a DTensor with the placement of its parameter, whether FSDP2 comes on top or nothing does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from athanor.errors import AthanorError
from athanor.model.attention import Attention, Rope
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig
from athanor.model.decoder import Block, Context, Decoder
from athanor.model.feed_forward import FeedForward
from athanor.model.moe import MoEFeedForward, Router, apply_experts
from athanor.model.norms import LayerNorm, RMSNorm, rms_norm
from athanor.parallel.mesh import Ranks
from athanor.parallel.plan import ParallelPlan
from athanor.parallel.vocab import VocabParallel, local

# ---------------------------------------------------------------------------------------------------------------------
# Collectives. The functional operators are what torch.compile keeps in one graph; [B, T, D] is cut along T.

_ops = torch.ops._c10d_functional


def _all_reduce(x: torch.Tensor, group: str) -> torch.Tensor:
    return _ops.wait_tensor(_ops.all_reduce(x.contiguous(), "sum", group))  # type: ignore[no-any-return]


def _all_gather(x_BtD: torch.Tensor, size: int, group: str) -> torch.Tensor:
    """T/tp tokens of each rank → all T tokens."""
    out = _ops.wait_tensor(_ops.all_gather_into_tensor(x_BtD.contiguous(), size, group))
    if x_BtD.shape[0] == 1:
        return out.flatten(0, 1)[None]  # type: ignore[no-any-return]
    return out.unflatten(0, (size, -1)).transpose(0, 1).flatten(1, 2)  # type: ignore[no-any-return]


def _reduce_scatter(x_BTD: torch.Tensor, size: int, group: str) -> torch.Tensor:
    """The sum over ranks of T tokens → this rank's T/tp of it."""
    parts = x_BTD.unflatten(1, (size, -1)).transpose(0, 1).flatten(0, 1)
    return _ops.wait_tensor(_ops.reduce_scatter_tensor(parts.contiguous(), "sum", size, group))  # type: ignore[no-any-return]


def _own(x_BTD: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """This rank's T/tp tokens of T."""
    length = x_BTD.shape[1] // size
    return x_BTD.narrow(1, rank * length, length)


class _Copy(torch.autograd.Function):
    """x → x; each rank's gradient is a part of a sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return _all_reduce(grad, ctx.group), None


class _Sum(torch.autograd.Function):
    """Parts of a sum → the sum on every rank; every rank then has the same gradient, which is that of each part."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: str) -> torch.Tensor:
        return _all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return grad, None


class _Gather(torch.autograd.Function):
    """T/tp tokens → T tokens, of which each rank's gradient is a part of a sum."""

    @staticmethod
    def forward(ctx: Any, x_BtD: torch.Tensor, size: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _all_gather(x_BtD, size, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return _reduce_scatter(grad, ctx.size, ctx.group), None, None


class _Scatter(torch.autograd.Function):
    """Parts of a sum over T tokens → T/tp tokens of the sum."""

    @staticmethod
    def forward(ctx: Any, x_BTD: torch.Tensor, size: int, group: str) -> torch.Tensor:
        ctx.size, ctx.group = size, group
        return _reduce_scatter(x_BTD, size, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return _all_gather(grad, ctx.size, ctx.group), None, None


class _Whole(torch.autograd.Function):
    """T/tp tokens → T tokens, whose gradient is whole on every rank."""

    @staticmethod
    def forward(ctx: Any, x_BtD: torch.Tensor, rank: int, size: int, group: str) -> torch.Tensor:
        ctx.rank, ctx.size = rank, size
        return _all_gather(x_BtD, size, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return _own(grad, ctx.rank, ctx.size).contiguous(), None, None, None


class _Share(torch.autograd.Function):
    """x → x, computed alike on every rank where gradients are summed: each gives its share of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int) -> torch.Tensor:
        ctx.size = size
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        return grad / ctx.size, None


class Lane:
    """How the modules of one model talk over ``tp``; they share one object.

    The stream between blocks is [B, T, D] on every rank, or [B, T/tp, D] while ``spread``. That is decided anew for
    every forward pass: with ``sequence``, it is spread unless a cache is given (decoding) or tp does not divide T.
    """

    def __init__(self, group: dist.ProcessGroup, sequence: bool) -> None:
        self.group, self.sequence = group, sequence
        self.name, self.rank, self.size = group.group_name, group.rank(), group.size()
        self.spread = sequence

    def __deepcopy__(self, memo: Any) -> Lane:
        return Lane(self.group, self.sequence)  # a process group is no value to copy

    def choose(self, context: Context) -> None:
        """Set ``spread`` for the pass that ``context`` belongs to."""
        self.spread = self.sequence and context.cache is None and context.positions_BT.shape[1] % self.size == 0

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """From the stream into a half-block that is cut over ranks: T whole, its gradient summed over ranks."""
        return _Gather.apply(x, self.size, self.name) if self.spread else _Copy.apply(x, self.name)  # type: ignore[no-any-return]

    def leave(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Back to the stream: the sum of what the ranks computed."""
        return _Scatter.apply(x_BTD, self.size, self.name) if self.spread else _Sum.apply(x_BTD, self.name)  # type: ignore[no-any-return]

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """The stream's tokens all together, for what every rank computes alike from them."""
        return _Whole.apply(x, self.rank, self.size, self.name) if self.spread else x  # type: ignore[no-any-return]

    def own(self, x_BT: torch.Tensor) -> torch.Tensor:
        """Of something known for all T tokens, what belongs to this rank's part of the stream."""
        return _own(x_BT, self.rank, self.size) if self.spread else x_BT

    def summed(self, weight: torch.Tensor) -> torch.Tensor:
        """A replicated parameter whose gradient is another part of a sum on each rank."""
        return _Copy.apply(local(weight), self.name)  # type: ignore[no-any-return]

    def on_stream(self, weight: torch.Tensor) -> torch.Tensor:
        """A replicated parameter that acts on the stream: a part of the gradient while spread, else the whole."""
        return self.summed(weight) if self.spread else local(weight)


# ---------------------------------------------------------------------------------------------------------------------
# Modules. Each is the class of the model with its weights read locally; ``adopt`` puts it in place.


class ColumnLinear(nn.Linear):
    """Output features cut over ranks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, local(self.weight), None if self.bias is None else local(self.bias))


class SharedHeadLinear(nn.Linear):
    """Keys or values when several ranks share a KV head: whole on every rank, which computes its ``features`` only."""

    lane: Lane
    features: slice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.lane.summed(self.bias)[self.features]
        return F.linear(x, self.lane.summed(self.weight)[self.features], bias)


class RowLinear(nn.Linear):
    """Input features cut over ranks; the bias is added once, behind the sum. The way back to the stream."""

    lane: Lane

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.lane.leave(F.linear(x, local(self.weight)))
        return out if self.bias is None else out + self.lane.on_stream(self.bias)


class PartialRowLinear(nn.Linear):
    """As :class:`RowLinear` for a shared expert: the sum over ranks is left to the block around it."""

    lane: Lane

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.linear(x, local(self.weight))
        if self.bias is None:
            return out
        # One rank adds it; every rank has the same gradient behind the sum, so each takes it whole.
        bias = local(self.bias)
        return out + (bias if self.lane.rank == 0 else bias - bias.detach())


class VocabEmbedding(nn.Embedding):
    """Rows of the vocabulary cut over ranks: each rank looks up its own tokens, zeros for others."""

    lane: Lane
    vocab: VocabParallel

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        row_BT, here_BT = self.vocab.find(ids_BT)
        return self.lane.leave(F.embedding(row_BT, local(self.weight)).masked_fill(~here_BT[..., None], 0.0))


class StreamEmbedding(nn.Embedding):
    """Learned positions of the tokens that this rank's part of the stream holds."""

    lane: Lane

    def forward(self, positions_BT: torch.Tensor) -> torch.Tensor:
        return F.embedding(self.lane.own(positions_BT), self.lane.on_stream(self.weight))


class _Norm(nn.Module):
    lane: Lane
    #: inside attention, over this rank's heads, rather than on the stream
    heads = False
    #: the last one: what follows sees all tokens
    final = False

    def _gain(self, weight: torch.Tensor) -> torch.Tensor:
        return self.lane.summed(weight) if self.heads else self.lane.on_stream(weight)

    def _out(self, x: torch.Tensor) -> torch.Tensor:
        return self.lane.whole(x) if self.final else x


class TensorRMSNorm(_Norm, RMSNorm):
    """RMSNorm with a replicated gain."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._out(rms_norm(x, self._gain(self.weight), self.eps))


class TensorLayerNorm(_Norm, LayerNorm):
    """LayerNorm with replicated gain and bias."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain, bias = self._gain(self.weight), self._gain(self.bias)
        return self._out(F.layer_norm(x, gain.shape, gain, bias, self.eps))


class TensorAttention(Attention):
    """Attention over this rank's heads."""

    lane: Lane

    def forward(self, x_BTD: torch.Tensor, rope: Rope, packing: Any, cache: KVCache | None) -> torch.Tensor:
        return super().forward(self.lane.enter(x_BTD), rope, packing, cache)


class TensorFeedForward(FeedForward):
    """Feed-forward over this rank's inner features."""

    lane: Lane

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.lane.enter(x))


class TensorRouter(Router):
    """Every rank routes every token alike. The gradient through the combination weights is a part of a sum, because
    each rank's experts give a part of the output."""

    lane: Lane

    def forward(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        return self.choose(F.linear(x_ND.to(wide), self.lane.summed(self.weight).to(wide)))


class TensorMoE(MoEFeedForward):
    """Experts over this rank's inner features of each; one sum behind all of them and the shared ones."""

    lane: Lane

    def forward(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        out_BTD, aux = super().forward(self.lane.enter(x_BTD))
        return self.lane.leave(out_BTD), None if aux is None else _Share.apply(aux, self.lane.size)

    def experts(self, x_MD: torch.Tensor, counts: list[int]) -> torch.Tensor:
        return apply_experts(x_MD, counts, local(self.w_gate), local(self.w_up), local(self.w_down), self.act)


class TensorDecoder(Decoder):
    """The pieces that begin and end a pass over the blocks."""

    lane: Lane
    vocab: VocabParallel

    def embed(self, input_ids_BT: torch.Tensor, context: Context) -> torch.Tensor:
        self.lane.choose(context)
        return super().embed(input_ids_BT, context)

    def blocks(self, h_BTD: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.lane.choose(context)
        return super().blocks(h_BTD, context)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.vocab.logits(hidden, self.head_weight)


# ---------------------------------------------------------------------------------------------------------------------
# Putting it in place.


def apply_tensor_parallel(model: Decoder, ranks: Ranks, plan: ParallelPlan, *, sequence: bool | None = None) -> None:
    """Lay ``model`` over ``ranks.sub("tp")``, in place; nothing happens for tp 1.

    Every rank holds the same whole weights before (or all are on the meta device) and its part of them after, as
    DTensors under the same names. ``model`` may be a pipeline stage: embedding, final norm and head may be None, layers
    a ModuleDict. ``sequence`` (default ``plan.sp``): the stream between blocks, hence between pipeline stages, is
    [B, T/tp, D] in training passes whose T is a multiple of tp. ``loss``, ``token_logprobs``, ``hidden`` and the logits
    of ``forward`` are whole and equal on every rank, with and without a cache. Raises AthanorError for heads that tp
    does not divide and that do not divide it.
    """
    if plan.tp == 1:
        return
    config, mesh = model.config, ranks.sub("tp")
    _check_heads(config, plan.tp)
    lane = Lane(ranks.group("tp"), plan.sp if sequence is None else sequence)
    vocab = VocabParallel(lane.group, config.vocab_size)
    if model.embed_tokens is not None:
        _adopt(model.embed_tokens, VocabEmbedding, mesh, {"weight": Shard(0)}, lane=lane, vocab=vocab)
    if model.embed_positions is not None:
        _adopt(model.embed_positions, StreamEmbedding, mesh, lane=lane)
    for block in model.layers.children():
        _block(block, mesh, lane)  # type: ignore[arg-type]
    if model.final_norm is not None:
        _norm(model.final_norm, mesh, lane, final=True)
    if model.lm_head is not None:
        _distribute(model.lm_head, mesh, {"weight": Shard(0)})
    _adopt(model, TensorDecoder, mesh, lane=lane, vocab=vocab)
    model.cross_entropy, model.token_logprob_fn = vocab.cross_entropy, vocab.token_logprobs
    model.cache_config = local_cache_config(config, ranks)


def local_cache_config(config: ModelConfig, ranks: Ranks) -> ModelConfig:
    """The config that a KVCache on this rank is made from: the heads it holds, each of its full size."""
    tp = ranks.size("tp")
    heads = {
        "num_attention_heads": config.num_attention_heads // tp,
        "num_key_value_heads": max(1, config.num_key_value_heads // tp),
        "head_dim": config.head_size,
    }
    return config.model_copy(update=heads)


def _check_heads(config: ModelConfig, tp: int) -> None:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % tp:
        raise AthanorError(
            f"{heads} attention heads do not divide over {tp} tensor-parallel ranks",
            where="parallel.tp",
            fix=f"use a divisor of {heads}",
        )
    if kv_heads % tp and tp % kv_heads:
        raise AthanorError(
            f"{kv_heads} key-value heads and {tp} tensor-parallel ranks: neither divides the other",
            where="parallel.tp",
            fix=f"use a divisor or a multiple of {kv_heads}",
        )


def _block(block: Block, mesh: DeviceMesh, lane: Lane) -> None:
    for norm in (block.input_norm, block.post_attn_norm, block.mlp_norm, block.post_mlp_norm):
        if norm is not None:
            _norm(norm, mesh, lane)
    _attention(block.attn, mesh, lane)
    if isinstance(block.mlp, MoEFeedForward):
        _experts(block.mlp, mesh, lane)
    else:
        _feed_forward(block.mlp, mesh, lane, RowLinear)
        _adopt(block.mlp, TensorFeedForward, mesh, lane=lane)


def _attention(attn: Attention, mesh: DeviceMesh, lane: Lane) -> None:
    sharers = lane.size // attn.n_kv_heads  # ranks to a KV head, 0 when a rank has several
    _adopt(attn.q_proj, ColumnLinear, mesh, {"weight": Shard(0), "bias": Shard(0)})
    for proj in (attn.k_proj, attn.v_proj):
        if sharers > 1:
            first = lane.rank // sharers * attn.head_size
            features = slice(first, first + attn.head_size)
            _adopt(proj, SharedHeadLinear, mesh, lane=lane, features=features)
        else:
            _adopt(proj, ColumnLinear, mesh, {"weight": Shard(0), "bias": Shard(0)})
    _adopt(attn.o_proj, RowLinear, mesh, {"weight": Shard(1)}, lane=lane)
    for norm in (attn.q_norm, attn.k_norm):
        if norm is not None:
            _norm(norm, mesh, lane, heads=True)
    attn.n_heads, attn.n_kv_heads = attn.n_heads // lane.size, max(1, attn.n_kv_heads // lane.size)
    _adopt(attn, TensorAttention, mesh, lane=lane)


def _feed_forward(mlp: FeedForward, mesh: DeviceMesh, lane: Lane, last: type[nn.Linear]) -> None:
    for proj in (mlp.gate_proj, mlp.up_proj):
        if proj is not None:
            _adopt(proj, ColumnLinear, mesh, {"weight": Shard(0), "bias": Shard(0)})
    _adopt(mlp.down_proj, last, mesh, {"weight": Shard(1)}, lane=lane)


def _experts(moe: MoEFeedForward, mesh: DeviceMesh, lane: Lane) -> None:
    _adopt(moe.router, TensorRouter, mesh, lane=lane)
    if moe.shared is not None:
        _feed_forward(moe.shared, mesh, lane, PartialRowLinear)
    own = moe.run_experts == moe.experts
    _adopt(moe, TensorMoE, mesh, {"w_gate": Shard(2), "w_up": Shard(2), "w_down": Shard(1)}, lane=lane)
    if own:  # the door still led to the class that it had
        moe.run_experts = moe.experts


def _norm(norm: RMSNorm | LayerNorm, mesh: DeviceMesh, lane: Lane, *, heads: bool = False, final: bool = False) -> None:
    cls = TensorRMSNorm if isinstance(norm, RMSNorm) else TensorLayerNorm
    _adopt(norm, cls, mesh, lane=lane, heads=heads, final=final)


def _adopt(
    module: nn.Module,
    cls: type[nn.Module],
    mesh: DeviceMesh,
    placements: dict[str, Placement] | None = None,
    **fields: Any,
) -> None:
    """Make ``module`` one of ``cls``, keeping a class of its own below it, and its parameters DTensors."""
    own = type(module)
    module.__class__ = cls if own in cls.__bases__ else type(cls.__name__, (cls, own), {})
    for name, value in fields.items():
        setattr(module, name, value)
    _distribute(module, mesh, placements or {})


def _distribute(module: nn.Module, mesh: DeviceMesh, placements: dict[str, Placement]) -> None:
    """The module's own parameters as DTensors, replicated where ``placements`` says nothing. Nothing is sent: every
    rank cuts its part out of its own copy, and the rest is freed."""
    for name, param in module.named_parameters(recurse=False):
        if isinstance(param, DTensor):
            continue
        placement = placements.get(name, Replicate())
        part = param.detach()
        if isinstance(placement, Shard):
            block = -(-part.shape[placement.dim] // mesh.size())  # as DTensor cuts what does not divide
            start = min(block * mesh.get_local_rank(), part.shape[placement.dim])
            length = min(block, part.shape[placement.dim] - start)
            part = part.narrow(placement.dim, start, length).clone(memory_format=torch.contiguous_format)
        whole = DTensor.from_local(part, mesh, [placement], run_check=False, shape=param.shape, stride=param.stride())
        module.register_parameter(name, nn.Parameter(whole, requires_grad=param.requires_grad))

"""The peers of ``parallel_cpu``: what one writes by hand with FSDP2, or with DTensor's styles, for a textbook decoder.

They follow PyTorch's own tutorials: ``fully_shard`` on every block and on the whole; ``parallelize_module`` with
column and row sharding, sequence-parallel norms and ``loss_parallel``. The loop is the usual one: fused AdamW,
``clip_grad_norm_``, no metrics, no checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from athanor.model.decoder import Decoder
from athanor.recipe.schema import OptimizerRecipe
from bench.common import Shape
from bench.textbook import RMSNorm, Textbook, rope_tables, rotate


class Attention(nn.Module):
    """The textbook's attention with three matrices, which can be cut by heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim, kv_width = shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = nn.Linear(shape.width, shape.width, bias=False)
        self.k = nn.Linear(shape.width, kv_width, bias=False)
        self.v = nn.Linear(shape.width, kv_width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, T, _ = x.shape
        q, k, v = (f(x).view(B, T, -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return self.out(y.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.ffn, bias=False)
        self.up = nn.Linear(shape.width, shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, as modules that styles can be given to."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(shape.width), RMSNorm(shape.width)
        self.attention, self.feed_forward = Attention(shape), FeedForward(shape)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.feed_forward(self.norm2(x))


class SplitTextbook(nn.Module):
    """:class:`bench.textbook.Textbook` with q, k and v apart: ids [B, T] → logits [B, T, V]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        self.cos: torch.Tensor
        self.sin: torch.Tensor
        for table, value in zip(("cos", "sin"), rope_tables(shape), strict=True):
            self.register_buffer(table, value, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


#: Athanor's names of a block's tensors → those here
_NAMES = {
    "input_norm": "norm1",
    "mlp_norm": "norm2",
    "attn.q_proj": "attention.q",
    "attn.k_proj": "attention.k",
    "attn.v_proj": "attention.v",
    "attn.o_proj": "attention.out",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
}


def weights_of(decoder: Decoder) -> dict[str, torch.Tensor]:
    """The state of a :class:`SplitTextbook` with the weights of a pre-norm ``decoder`` of the same shape."""
    state = {}
    for name, value in decoder.state_dict().items():
        for theirs, ours in {**_NAMES, "embed_tokens": "embed", "final_norm": "norm", "lm_head": "head"}.items():
            name = name.replace(f"{theirs}.weight", f"{ours}.weight")
        state[name.replace("layers.", "blocks.")] = value
    return state


def fused_qkv(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same state for :class:`bench.textbook.Textbook`, which has one matrix for q, k and v."""
    out = {name.replace("attention.out", "out").replace("feed_forward.", ""): x for name, x in state.items()}
    for name in [name for name in out if name.endswith("attention.q.weight")]:
        parts = [out.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        out[name.replace("attention.q", "qkv")] = torch.cat(parts)
    return out


class Fsdp2:
    """ZeRO-3 by ``fully_shard``, one block after the other; each rank has rows of its own."""

    def __init__(self, shape: Shape, world: int, decoder: Decoder) -> None:
        mesh = init_device_mesh("cpu", (world,))
        self.model = Textbook(shape)
        self.model.load_state_dict(fused_qkv(weights_of(decoder)))
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = _adamw(self.model.named_parameters())

    def step(self, ids: torch.Tensor, labels: torch.Tensor, lr: float, clip: float) -> torch.Tensor:
        """One training step; this rank's mean loss."""
        return _step(self.model, self.optimizer, lambda: self.model(ids, labels), lr, clip)


class TensorParallel:
    """Tensor and sequence parallel by DTensor's styles; all ranks have the same rows."""

    def __init__(self, shape: Shape, world: int, decoder: Decoder) -> None:
        mesh = init_device_mesh("cpu", (world,))
        self.model = SplitTextbook(shape)
        self.model.load_state_dict(weights_of(decoder))
        gathered = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
        with_rope = PrepareModuleInput(
            input_layouts=(Shard(1), None, None), desired_input_layouts=(Replicate(), None, None)
        )
        styles = {
            "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
            "blocks.*.norm1": SequenceParallel(),
            "blocks.*.norm2": SequenceParallel(),
            "blocks.*.attention": with_rope,
            "blocks.*.feed_forward": gathered,
            "blocks.*.attention.out": RowwiseParallel(output_layouts=Shard(1)),
            "blocks.*.feed_forward.down": RowwiseParallel(output_layouts=Shard(1)),
            **{f"blocks.*.attention.{name}": ColwiseParallel() for name in "qkv"},
            **{f"blocks.*.feed_forward.{name}": ColwiseParallel() for name in ("gate", "up")},
        }
        parallelize_module(self.model, mesh, styles)
        self.optimizer = _adamw(self.model.named_parameters())

    def _loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.model(ids).flatten(0, 1), labels.flatten())

    def step(self, ids: torch.Tensor, labels: torch.Tensor, lr: float, clip: float) -> torch.Tensor:
        """One training step; the mean loss."""
        with loss_parallel():
            return _step(self.model, self.optimizer, lambda: self._loss(ids, labels), lr, clip)


def _adamw(named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.AdamW:
    recipe = OptimizerRecipe()
    parameters = [p for _, p in named]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=recipe.betas, eps=recipe.eps, fused=True)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forward: Callable[[], torch.Tensor],
    lr: float,
    clip: float,
) -> torch.Tensor:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = forward()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


PEERS: dict[str, type[Fsdp2] | type[TensorParallel]] = {"fsdp2": Fsdp2, "tp": TensorParallel}

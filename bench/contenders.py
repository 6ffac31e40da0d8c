"""Who runs: Athanor as its trainer steps, and the peers in a plain PyTorch loop. All take the same :class:`Work`.

A peer's loop is the usual one: autocast for bfloat16 (float32 weights), fused AdamW, gradient clipping at 1. When
``compiled``, peers compile forward and loss together. Each keeps its library's own initial weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from athanor.data.types import IGNORE
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.recipe.schema import OptimizerRecipe
from athanor.train.allocator import keep_freed_memory
from athanor.train.compiling import compile_blocks
from athanor.train.objective import CausalLM
from athanor.train.optimizer import AdamW
from athanor.train.trainer import _deterministic
from bench.common import Shape
from bench.textbook import Textbook
from bench.workloads import Work

CLIP = 1.0
RECIPE = OptimizerRecipe()


class Contender(Protocol):
    """One model with its optimizer."""

    name: str
    ours: bool
    compiled: bool
    dtype: torch.dtype

    def step(self, work: Work, lr: float) -> torch.Tensor:
        """One whole training step; the mean loss (not synchronised)."""
        ...

    def logits(self, work: Work) -> torch.Tensor:
        """Logits [B, T, V] without gradient, in the training precision."""
        ...

    def reset(self) -> None:
        """Back to the first weights and an empty optimizer; compiled code stays."""
        ...


class Athanor:
    """The product: ``Decoder``, ``CausalLM``, flat ``AdamW``; the blocks compiled as ``train.compile`` does."""

    ours = True

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype, compiled: bool, device: torch.device) -> None:
        self.name, self.compiled, self.dtype = name, compiled, dtype
        with torch.device(device):
            self.model = Decoder(shape.config(dssn=name.endswith("dssn")))
        init_weights(self.model, 0)
        self.optimizer = AdamW(self.model, RECIPE, dtype)
        self.objective = CausalLM()
        self._first = self.optimizer.snapshot()
        keep_freed_memory()  # as the trainer does, for its process
        if compiled:
            compile_blocks(self.model, device)

    def step(self, work: Work, lr: float) -> torch.Tensor:
        with _deterministic(work.batch.input_ids_BT.device.type == "cpu"):  # as in the trainer, costs included
            weight = self.objective.weight(work.batch)
            loss = self.objective(self.model, work.batch)
            (loss.loss_sum / weight).backward()
            self.optimizer.accumulate()
            self.optimizer.step(lr, CLIP)
        return loss.loss_sum.detach() / weight

    @torch.no_grad()
    def logits(self, work: Work) -> torch.Tensor:
        batch = work.batch
        return self.model(batch.input_ids_BT, batch.positions_BT, batch.doc_lens)

    def reset(self) -> None:
        self.optimizer.restore(self._first)


class Peer:
    """A module with ``forward(work, labels or None) -> mean loss or logits`` in the plain loop."""

    ours = False

    def __init__(self, name: str, module: nn.Module, dtype: torch.dtype, compiled: bool, device: torch.device) -> None:
        self.name, self.compiled, self.dtype, self.device = name, compiled, dtype, device
        self.module = module.to(device)
        self._first = copy.deepcopy(self.module.state_dict())
        self.call: Callable[..., torch.Tensor] = torch.compile(self.module) if compiled else self.module
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), betas=RECIPE.betas, eps=RECIPE.eps, weight_decay=RECIPE.weight_decay, fused=True
        )

    def _forward(self, call: Callable[..., torch.Tensor], work: Work, labels: torch.Tensor | None) -> torch.Tensor:
        positions = None if work.mask is None else work.batch.positions_BT
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return call(work.batch.input_ids_BT, labels, work.mask, positions, work.padding)

    def step(self, work: Work, lr: float) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self._forward(self.call, work, work.batch.labels_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def logits(self, work: Work) -> torch.Tensor:
        return self._forward(self.module, work, None)

    def reset(self) -> None:
        self.module.load_state_dict(self._first)
        self._make_optimizer()


class TextbookModule(nn.Module):
    """The textbook decoder. Right padding needs no mask under causal attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Textbook(shape)

    def forward(
        self, ids: torch.Tensor, labels: Any, mask: Any = None, positions: Any = None, padding: Any = None
    ) -> torch.Tensor:
        return self.model(ids, labels, mask, positions)


class TransformersModule(nn.Module):
    """``LlamaForCausalLM`` with SDPA attention and its own loss."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.width,
            intermediate_size=shape.ffn,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.context,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            use_cache=False,
            attn_implementation="sdpa",
        )
        self.model = LlamaForCausalLM(config)

    def forward(
        self, ids: torch.Tensor, labels: Any, mask: Any = None, positions: Any = None, padding: Any = None
    ) -> torch.Tensor:
        seen = mask if mask is not None else padding
        shifted = {} if labels is None else {"labels": labels, "shift_labels": labels}
        out = self.model(input_ids=ids, attention_mask=seen, position_ids=positions, **shifted)
        return out.logits if labels is None else out.loss


class LitGPTModule(nn.Module):
    """LitGPT's ``GPT`` configured as a Llama; with a mask its blocks are called with it, as its ``forward`` would."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        from litgpt.config import Config
        from litgpt.model import GPT

        config = Config(
            name="bench",
            block_size=shape.context,
            padded_vocab_size=shape.vocab,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            n_query_groups=shape.kv_heads,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            intermediate_size=shape.ffn,
        )
        self.model = GPT(config)
        self.model.apply(self.model._init_weights)

    def forward(
        self, ids: torch.Tensor, labels: Any, mask: Any = None, positions: Any = None, padding: Any = None
    ) -> torch.Tensor:
        logits = self.model(ids) if mask is None else self._masked(ids, mask, positions)
        if labels is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

    def _masked(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        cos, sin = self.model.cos[positions], self.model.sin[positions]
        x = self.model.transformer.wte(ids)
        for block in self.model.transformer.h:
            x = block(x, cos, sin, mask)
        return self.model.lm_head(self.model.transformer.ln_f(x))


PEERS: dict[str, Callable[[Shape], nn.Module]] = {
    "transformers": TransformersModule,
    "litgpt": LitGPTModule,
    "textbook": TextbookModule,
}
OURS = ("athanor", "athanor-dssn")


def build(name: str, shape: Shape, dtype: torch.dtype, compiled: bool, device: torch.device) -> Contender:
    """A contender by name, with seed 0. Raises ImportError if its library is not installed."""
    torch.manual_seed(0)
    if name in OURS:
        return Athanor(name, shape, dtype, compiled, device)
    with torch.device(device):
        module = PEERS[name](shape)
    return Peer(name, module, dtype, compiled, device)


def held_out_loss(contender: Contender, work: Work) -> float:
    """Mean cross-entropy in nats, the same code for everyone: from logits, in float32."""
    logits = contender.logits(work).float().flatten(0, 1)
    return float(F.cross_entropy(logits, work.batch.labels_BT.flatten(), ignore_index=IGNORE))

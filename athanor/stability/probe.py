"""What the laboratory measures inside a model: output RMS, post-norm gains, update/weight ratio and gradient by block.

Sizes by depth have one number a block, first block first. All functions leave the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from athanor.data.types import Batch
from athanor.model.decoder import Decoder

#: Group names of parameters outside the blocks.
OUTSIDE = ("embed_tokens", "embed_positions", "final_norm", "lm_head")


def rms(x: torch.Tensor) -> float:
    """Root mean square over all elements, in float64 so that a large residual stream does not overflow."""
    return float(x.detach().double().square().mean().sqrt())


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _recording(modules: Iterable[tuple[str, nn.Module]], into: dict[str, list[float]]) -> Iterator[None]:
    """Append the RMS of each module's output to ``into[name]`` while the block runs."""

    def hook_for(name: str) -> Any:
        return lambda _module, _inputs, output: into.setdefault(name, []).append(rms(_first(output)))

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def output_rms(model: Decoder, batch: Batch) -> dict[str, list[float]]:
    """RMS by depth on one batch, eagerly: ``residual`` (the stream after each block), ``attn`` and ``mlp`` (what the
    two parts of a block give, before a post-norm), ``embedding`` (one number, the stream before the first block).

    The initial ``attn`` and ``mlp`` values are what c_attn and c_mlp of arXiv 2504.07866 (section 3.1) stand for.
    """
    found: dict[str, list[float]] = {}
    modules: list[tuple[str, nn.Module]] = [("embedding", model.embed_tokens)]
    for layer in model.layers:
        modules += [("residual", layer)]
        modules += [(part, layer.get_submodule(part)) for part in ("attn", "mlp")]
    # Compiled blocks would be traced again with the hooks inside: the probe runs the plain modules.
    with torch.compiler.set_stance("force_eager"), _recording(modules, found):
        model.hidden(batch.input_ids_BT, batch.positions_BT, batch.doc_lens)
    return found


@torch.no_grad()
def post_norm_gains(model: Decoder) -> dict[str, list[float]]:
    """Mean and standard deviation over channels of each post-norm's gain, by depth; empty without post-norms."""
    found: dict[str, list[float]] = {}
    for part in ("attn", "mlp"):
        norms = [getattr(layer, f"post_{part}_norm") for layer in model.layers]
        gains = [norm.weight.double() for norm in norms if norm is not None]
        if gains:
            found[f"{part}_gain_mean"] = [float(gain.mean()) for gain in gains]
            found[f"{part}_gain_std"] = [float(gain.std(correction=0)) for gain in gains]
    return found


def group_of(name: str) -> int | str:
    """The block index of a parameter, or its top-level module outside the blocks."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else parts[0]


def grouped_norms(tensors: Mapping[str, torch.Tensor]) -> dict[int | str, float]:
    """L2 norm over all tensors of each block (and of each module outside the blocks)."""
    norms = torch.stack(torch._foreach_norm(list(tensors.values()))).double().square().tolist()
    squares: dict[int | str, float] = {}
    for name, square in zip(tensors, norms, strict=True):
        group = group_of(name)
        squares[group] = squares.get(group, 0.0) + square
    return {group: math.sqrt(square) for group, square in squares.items()}


class UpdateRatio:
    """‖Δw‖ / ‖w‖ of one optimizer step over the matrices of each block (norm gains are left out)."""

    def __init__(self, model: Decoder) -> None:
        self._weights = {n: p for n, p in model.named_parameters() if p.ndim > 1 and n.startswith("layers.")}
        self._layers = model.config.num_hidden_layers
        self._before: dict[str, torch.Tensor] | None = None

    @torch.no_grad()
    def before(self) -> None:
        """Remember the weights as they are."""
        self._before = {name: param.detach().clone() for name, param in self._weights.items()}

    @torch.no_grad()
    def after(self) -> list[float]:
        """The ratio by depth since ``before``."""
        assert self._before is not None
        moved = {name: param.detach() - self._before[name] for name, param in self._weights.items()}
        delta, size = grouped_norms(moved), grouped_norms(self._before)
        self._before = None
        return [delta[i] / size[i] if size[i] else 0.0 for i in range(self._layers)]

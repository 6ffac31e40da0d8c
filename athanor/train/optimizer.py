"""Decoupled AdamW over flat buffers: master weights, moments and gradients of a group are one tensor each.

Why flat: clipping, the update and the cast back to bfloat16 are then one kernel a group instead of hundreds of small
ones (a 94-layer model has over 1,000 tensors), and a checkpoint snapshot is a handful of copies. Every parameter starts
on a 64-element boundary, so vector loads stay aligned and a resumed run sees the same alignment, hence the same bits.

Precision ``bf16``: the model's parameters are views of a bfloat16 buffer; float32 masters, moments and gradients live
here. Autocast would cast every weight again in each forward pass; here the cast happens once a step. Precision
``fp32``: the model's parameters are views of the master buffer itself, there is no second copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from athanor.errors import AthanorError
from athanor.model.config import ModelConfig
from athanor.model.init import post_norm_scale
from athanor.recipe.schema import OptimizerRecipe

_ALIGN = 64
_EMBEDDINGS = ("embed_tokens.", "embed_positions.")
#: Elements whose squares are summed in one run; short runs keep the float32 norm accurate to about 1e-6.
NORM_RUN = 4096


@dataclass(slots=True)
class StepStats:
    """Of one update, both on the device: the gradient's global norm before clipping, and 1.0 if it was not finite."""

    grad_norm: torch.Tensor
    skipped: torch.Tensor


def decays(name: str, param: torch.Tensor, recipe: OptimizerRecipe) -> bool:
    """Whether weight decay applies: to matrices; to embeddings by ``recipe.decay_embeddings``; not to norms, biases."""
    if param.ndim < 2 or "norm" in name or name.endswith("bias"):
        return False
    return recipe.decay_embeddings or not name.startswith(_EMBEDDINGS)


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """What the parameters of one group share: weight decay, and what their learning rate is multiplied by.

    With ``lr_scale`` s the update is AdamW's on θ/s instead of θ: θ = s·φ, so dL/dφ = s·dL/dθ, and Adam's quotient
    m/(√v + ε), which does not see the scale of a gradient, becomes m/(√v + ε/s) in terms of θ; θ moves by s times that.
    """

    weight_decay: float
    lr_scale: float = 1.0

    def rates(self, lr: float, recipe: OptimizerRecipe) -> tuple[float, float]:
        """(learning rate, ε) of the group's update."""
        return lr * self.lr_scale, recipe.eps / self.lr_scale


def grouped(
    named: Iterable[tuple[str, nn.Parameter]], config: ModelConfig | None, recipe: OptimizerRecipe
) -> dict[GroupOptions, list[tuple[str, nn.Parameter]]]:
    """Parameters by the options that ``recipe`` gives them, those that decay first; order inside a group is kept.

    With ``post_norm_lr: depth_scaled`` the norms behind attention and feed-forward learn as if their outputs were
    multiplied by a constant c/√L and they began at 1. ``config``: the whole model's; None: there are no such norms.
    """
    scaled = config if recipe.post_norm_lr == "depth_scaled" else None
    groups: dict[GroupOptions, list[tuple[str, nn.Parameter]]] = {}
    for name, param in named:
        lr_scale = 1.0 if scaled is None else post_norm_scale(scaled, name)
        options = GroupOptions(recipe.weight_decay if decays(name, param, recipe) else 0.0, lr_scale)
        groups.setdefault(options, []).append((name, param))
    return dict(sorted(groups.items(), key=lambda item: (-item[0].weight_decay, -item[0].lr_scale)))


def run_norms(flat: torch.Tensor) -> torch.Tensor:
    """L2 norms of consecutive runs of a flat tensor whose size is a multiple of the run."""
    return torch.linalg.vector_norm(flat.view(-1, NORM_RUN), dim=1)


def adamw_update(
    masters: list[torch.Tensor],
    grads: list[torch.Tensor],
    exp_avgs: list[torch.Tensor],
    exp_avg_sqs: list[torch.Tensor],
    steps_done: torch.Tensor,
    recipe: OptimizerRecipe,
    lr: float,
    options: GroupOptions,
    scale: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    """One AdamW update in place of tensors that share their options, with gradients divided by ``scale``.

    ``steps_done`` counts this update already. ``scale`` and ``skipped`` (1.0: change nothing) are scalars on the
    tensors' device. Fused: clip, decay, moments and weights in one pass over memory (torch.optim.AdamW's kernel).
    """
    if not recipe.fused:
        _plain_update(masters, grads, exp_avgs, exp_avg_sqs, steps_done, recipe, lr, options, scale, skipped)
        return
    lr, eps = options.rates(lr, recipe)
    torch._fused_adamw_(
        masters,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        [steps_done] * len(masters),
        lr=lr,
        beta1=recipe.betas[0],
        beta2=recipe.betas[1],
        weight_decay=options.weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
        grad_scale=scale.to(torch.float32),
        found_inf=skipped,
    )


def _plain_update(
    masters: list[torch.Tensor],
    grads: list[torch.Tensor],
    exp_avgs: list[torch.Tensor],
    exp_avg_sqs: list[torch.Tensor],
    steps_done: torch.Tensor,
    recipe: OptimizerRecipe,
    lr: float,
    options: GroupOptions,
    scale: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    """The same update written out (algorithm 2 of arXiv 1711.05101 without the schedule multiplier)."""
    if float(skipped):
        return
    beta1, beta2 = recipe.betas
    lr, eps = options.rates(lr, recipe)
    step = float(steps_done)
    for master, grad, exp_avg, exp_avg_sq in zip(masters, grads, exp_avgs, exp_avg_sqs, strict=True):
        grad.div_(scale)
        master.mul_(1 - lr * options.weight_decay)
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (exp_avg_sq.sqrt() / math.sqrt(1 - beta2**step)).add_(eps)
        master.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


class _Group:
    """Parameters that share their options, laid out in flat buffers."""

    def __init__(self, params: dict[str, nn.Parameter], options: GroupOptions, low: torch.dtype) -> None:
        first = next(iter(params.values()))
        self.options = options
        self.params = params
        # float64 models (gradient checks) keep their precision; half-precision ones get float32 masters
        high = first.dtype if first.dtype == torch.float64 and low == torch.float32 else torch.float32
        self.spans: dict[str, tuple[int, torch.Size]] = {}
        size = 0
        for name, param in params.items():
            self.spans[name] = (size, param.shape)
            size += math.ceil(param.numel() / _ALIGN) * _ALIGN
        size = math.ceil(size / NORM_RUN) * NORM_RUN
        self.master, self.exp_avg, self.exp_avg_sq, self.grad = (
            torch.zeros(size, dtype=high, device=first.device) for _ in range(4)
        )
        self.low = self.master if low == torch.float32 else torch.zeros(size, dtype=low, device=first.device)
        self.grad_views = list(self.views(self.grad).values())
        masters, lows = self.views(self.master), self.views(self.low)
        with torch.no_grad():
            for name, param in params.items():
                masters[name].copy_(param)
                lows[name].copy_(param)
                param.data = lows[name]
                param.grad = None

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each parameter's part of a flat buffer, in its shape."""
        return {name: flat[at : at + shape.numel()].view(shape) for name, (at, shape) in self.spans.items()}

    def collect(self, first: bool) -> None:
        """Move ``param.grad`` of every parameter into (or add it to) the flat gradient, in its precision."""
        pairs = [(view, p.grad) for view, p in zip(self.grad_views, self.params.values(), strict=True)]
        here = [(view, grad) for view, grad in pairs if grad is not None]
        if first:
            if len(here) < len(pairs):
                torch._foreach_zero_([view for view, grad in pairs if grad is None])
            if here:
                torch._foreach_copy_([view for view, _ in here], [grad for _, grad in here])
        elif here:
            torch._foreach_add_([view for view, _ in here], [grad for _, grad in here])
        for param in self.params.values():
            param.grad = None


class AdamW:
    """Decoupled AdamW (arXiv 1711.05101) that owns master weights, gradients, clipping and the low-precision copies.

    Groups: matrices decay; norms, biases and other 1-D parameters do not; embeddings by
    ``recipe.decay_embeddings``; norms behind a branch may learn slower (``grouped``). A parameter that got no gradient
    in a step counts as having gradient zero. Frozen parameters (``requires_grad=False``) are left alone, apart from
    being cast to the compute precision.
    """

    def __init__(self, model: nn.Module, recipe: OptimizerRecipe, dtype: torch.dtype = torch.float32) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trained:
            raise AthanorError("the model has no parameter to train", where="optimizer")
        low = torch.float32 if dtype == torch.float32 else dtype
        self.recipe, self.dtype = recipe, dtype
        for param in model.parameters():
            if not param.requires_grad and param.dtype != torch.float64:
                param.data = param.data.to(low)
        groups = grouped(trained.items(), getattr(model, "config", None), recipe)
        self.groups = [_Group(dict(named), options, low) for options, named in groups.items()]
        device = self.groups[0].master.device
        #: updates done so far (skipped ones not counted); float32 because the fused kernel asks for it
        self.steps_done = torch.zeros((), dtype=torch.float32, device=device)
        self._empty = True

    @property
    def masters(self) -> dict[str, torch.Tensor]:
        """Views of the master weights by parameter name."""
        return self._by_name("master")

    @property
    def grads(self) -> dict[str, torch.Tensor]:
        """Views of the accumulated gradients by parameter name; unclipped until ``step``, clipped after it if fused."""
        return self._by_name("grad")

    def _by_name(self, buffer: str) -> dict[str, torch.Tensor]:
        return {name: view for group in self.groups for name, view in group.views(getattr(group, buffer)).items()}

    @torch.no_grad()
    def accumulate(self) -> None:
        """After each backward pass: add the parameters' gradients in master precision and free them."""
        for group in self.groups:
            group.collect(first=self._empty)
        self._empty = False

    @torch.no_grad()
    def grad_norm(self) -> torch.Tensor:
        """Global L2 norm of the accumulated gradient, a scalar tensor; float32 to about 1e-6, same bits every time."""
        return torch.linalg.vector_norm(torch.cat([run_norms(group.grad) for group in self.groups]))

    @torch.no_grad()
    def step(self, lr: float, clip_norm: float) -> StepStats:
        """One update with the accumulated gradient, clipped to ``clip_norm``; left undone if it is not finite.

        Nothing here waits for the device: whether the step was skipped is decided there.
        """
        norm = self.grad_norm()
        skipped = (~torch.isfinite(norm)).to(torch.float32)
        scale = torch.clamp(norm / clip_norm, min=1.0)  # gradients are divided by it
        # Adam's step counts updates that happened, so the bias correction stays right after a skipped one
        self.steps_done += 1 - skipped
        for group in self.groups:
            state = [group.master], [group.grad], [group.exp_avg], [group.exp_avg_sq]
            adamw_update(*state, self.steps_done, self.recipe, lr, group.options, scale, skipped)
        if self.dtype != torch.float32:
            for group in self.groups:
                group.low.copy_(group.master)
        self._empty = True
        return StepStats(norm, skipped)

    def snapshot(self) -> dict[str, dict[str, torch.Tensor]]:
        """Copies in host memory of master weights and moments, by parameter name, for a checkpoint."""
        out: dict[str, dict[str, torch.Tensor]] = {"params": {}, "exp_avg": {}, "exp_avg_sq": {}}
        for group in self.groups:
            for key, flat in (("params", group.master), ("exp_avg", group.exp_avg), ("exp_avg_sq", group.exp_avg_sq)):
                out[key].update(group.views(flat.detach().to("cpu", copy=True)))
        out["optimizer"] = {"steps_done": self.steps_done.detach().to("cpu", copy=True)}
        return out

    @torch.no_grad()
    def restore(self, state: dict[str, dict[str, torch.Tensor]], where: str = "checkpoint") -> None:
        """Load what ``snapshot`` gave, bit for bit; a missing, extra or differently shaped parameter is named."""
        for key, buffer in (("params", "master"), ("exp_avg", "exp_avg"), ("exp_avg_sq", "exp_avg_sq")):
            ours = self._by_name(buffer)
            stored = state[key]
            if odd := sorted(set(ours) ^ set(stored)):
                raise AthanorError(f"parameters differ from the model's: {', '.join(odd[:5])}", where=where)
            for name, view in ours.items():
                if view.shape != stored[name].shape:
                    raise AthanorError(
                        f"{name} has shape {tuple(stored[name].shape)}, the model's is {tuple(view.shape)}", where=where
                    )
                view.copy_(stored[name])
        self.steps_done.copy_(state["optimizer"]["steps_done"])
        for group in self.groups:
            if group.low is not group.master:
                group.low.copy_(group.master)
        self._empty = True

    @torch.no_grad()
    def release(self) -> None:
        """Give the model parameters of its own again, in master precision; the optimizer is of no use afterwards."""
        for group in self.groups:
            for name, view in group.views(group.master).items():
                group.params[name].data = view.clone()
                group.params[name].grad = None

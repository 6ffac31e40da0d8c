"""Recompute: activations that the backward pass makes again instead of keeping them.

What autograd saves inside a *region* (a block, or a named part of one) is replaced by a place number; the first of
them that the backward pass asks for runs the region again from its inputs and fills all places (the idea of
``torch.utils.checkpoint``, arXiv 1604.06174). Beyond that, a region's *result* is not kept either: where autograd
saves it for a consumer outside the region, the consumer too gets it made again (as Megatron-LM's "checkpoint without
output"). So a norm or an up-projection can be dropped alone, and what a block keeps is exactly what the plain block
keeps, less what is named. Under ``torch.compile`` regions are plain ``torch.utils.checkpoint``: inductor's partitioner
takes them as tags and then drops results of regions by itself.

What each name drops (and makes again); everything else of the block is kept as ever:

==========  ============================================================================================
attention   all inside ``attn``: q, k, v, rotated or not, the core's output and log-sum-exp, what ``attn`` returns
ffn         all inside ``mlp``, of an expert block also routing, sorted tokens and the exchange between ranks
norms       statistics, normalised values *and outputs* of every norm (also those of q and k)
qkv_proj    q, k, v as the core reads them: products, norms of q and k, rotation; the core's output is kept
up_proj     the up product (dense, shared expert and experts); its product with the gate is kept
gate_proj   the gate product and its activation, likewise
==========  ============================================================================================

Communication. A region repeats the collectives in it, unless ``communication`` is ``save``: then results of functional
collectives (``_c10d_functional``) inside regions are kept and compute alone is made again. The reverse is mode
``selective`` without a name and ``communication: recompute``: all compute is kept, and what an all-gather brought
is gathered again from the rank's own part (arXiv 2205.05198, section 4.2.2: sequence parallel keeps Y_i and gathers
again). Other collectives give no more bytes than they take, so keeping their input would save nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from athanor.errors import AthanorError
from athanor.model.cache import KVCache
from athanor.model.config import ModelConfig
from athanor.model.decoder import Block, Decoder
from athanor.model.moe import MoEFeedForward, Router
from athanor.parallel.activations import Choice, Layout, RecomputeChoice, choose, estimate
from athanor.parallel.plan import RecomputePlan

Contexts = Callable[[], tuple[Any, Any]]

# ---------------------------------------------------------------------------------------------------------------------
# Regions: the engine in eager mode.


class _Local(threading.local):
    """Where this thread is: autograd has threads of its own for accelerators."""

    scope: _Scope | None = None
    inside = False  # in a region: whatever is named in there belongs to it


_now = _Local()


class _Enough(Exception):
    """A region's second run has made everything that is asked for."""


class _Region:
    """A function and its inputs, run a second time when the backward pass needs what the first run did not keep."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], scope: _Scope, part: nn.Module | None) -> None:
        self.fn = fn
        #: inputs, packed (an input may itself be dropped), and whether they carry a gradient
        self.held = [
            (scope.pack(x.detach()), x.requires_grad) if isinstance(x, torch.Tensor) else (x, None) for x in args
        ]
        self.routers = [m for m in part.modules() if isinstance(m, Router)] if part is not None else []
        self.again: Any = nullcontext()
        self.n_places = 0
        self.remade: dict[int, torch.Tensor] = {}
        self.results: dict[int, torch.Tensor] = {}
        self.wanted: Counter[int] = Counter()  # by result: consumers that still have to ask

    def run(self, args: tuple[Any, ...], contexts: Contexts) -> Any:
        """The first run."""
        begin, self.again = contexts()
        with _inside(), saved_tensors_hooks(self._place, _fill), begin:
            return self.fn(*args)

    def _place(self, _tensor: torch.Tensor) -> tuple[_Region, int]:
        self.n_places += 1
        return self, self.n_places - 1

    def take(self, place: int) -> torch.Tensor:
        """What autograd saved at ``place``. It is given away once: the next backward pass makes it anew."""
        if place not in self.remade:
            self._run_again(results=False)
        return self.remade.pop(place)

    def result(self, i: int) -> torch.Tensor:
        """The i-th result, kept until its last consumer has asked."""
        if i not in self.results:
            self._run_again(results=True)
        self.wanted[i] -= 1
        return self.results[i] if self.wanted[i] > 0 else self.results.pop(i)

    def _run_again(self, results: bool) -> None:
        results = results or any(n > 0 for n in self.wanted.values())
        saved: list[torch.Tensor] = []

        def collect(tensor: torch.Tensor) -> None:
            saved.append(tensor.detach())
            if len(saved) == self.n_places and not results:
                raise _Enough

        inputs = [x if grad is None else _unpack(x).detach().requires_grad_(grad) for x, grad in self.held]
        with _inside(), _load_kept(self.routers), torch.enable_grad():
            try:
                with saved_tensors_hooks(collect, _never), self.again:
                    out = self.fn(*inputs)
            except _Enough:
                out = ()
        if len(saved) != self.n_places:
            raise RuntimeError(f"a recomputed part saved {len(saved)} tensors, {self.n_places} the first time")
        self.remade = dict(enumerate(saved))
        if results:
            parts = out if isinstance(out, tuple) else (out,)
            self.results = {i: x.detach() for i, x in enumerate(parts) if isinstance(x, torch.Tensor)}
            self.results = {i: x for i, x in self.results.items() if i in self.wanted}


def _fill(place: tuple[_Region, int]) -> torch.Tensor:
    return place[0].take(place[1])


def _never(_: Any) -> torch.Tensor:
    raise AssertionError("nothing runs backward through a second run")


@contextmanager
def _inside() -> Iterator[None]:
    before, _now.inside = _now.inside, True
    try:
        yield
    finally:
        _now.inside = before


def running_again() -> bool:
    """Whether this thread is in a region; in autograd's engine that is a region's second run."""
    return _now.inside


@contextmanager
def _load_kept(routers: list[Router]) -> Iterator[None]:
    """The first run has counted the load of the experts; a second one must not."""
    loads = [(r.load, r.load.clone()) for r in routers if "load" in r._buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for load, before in loads:
                load.copy_(before)


class _Dropped:
    """A saved tensor that is a region's result, or a view of it."""

    __slots__ = ("region", "i", "view")

    def __init__(self, region: _Region, i: int, tensor: torch.Tensor) -> None:
        self.region, self.i = region, i
        self.view = tensor.size(), tensor.stride(), tensor.storage_offset()
        region.wanted[i] += 1

    def tensor(self) -> torch.Tensor:
        return self.region.result(self.i).as_strided(*self.view)


def _unpack(held: Any) -> torch.Tensor:
    return held.tensor() if isinstance(held, _Dropped) else held  # type: ignore[no-any-return]


class _Scope:
    """One forward pass of one block: knows the results of its regions while their consumers run."""

    def __init__(self, contexts: Contexts) -> None:
        self.contexts = contexts
        #: by storage; the weak reference keeps the key from being given to another storage
        self.made: dict[int, tuple[StorageWeakRef, _Region, int]] = {}

    def __enter__(self) -> None:
        self._before, _now.scope = _now.scope, self
        self._hooks = saved_tensors_hooks(self.pack, _unpack)
        self._hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        del self._hooks  # they know this scope: a circle, which would keep every region's inputs until it is looked for
        _now.scope = self._before

    def pack(self, tensor: torch.Tensor) -> Any:
        """What is kept for ``tensor``: itself, or how to make it again."""
        if not is_traceable_wrapper_subclass(tensor):
            found = self.made.get(_storage(tensor))
            if found is not None:
                return _Dropped(found[1], found[2], tensor)
        return tensor

    def note(self, region: _Region, i: int, result: torch.Tensor) -> None:
        """From now on ``result`` need not be kept: ``region`` can make it."""
        self.made[_storage(result)] = (StorageWeakRef(result.untyped_storage()), region, i)

    def region(self, fn: Callable[..., Any], args: tuple[Any, ...], part: nn.Module | None) -> Any:
        """Run ``fn(*args)`` as a region."""
        region = _Region(fn, args, self, part)
        out = region.run(args, self.contexts)
        given = {_storage(x) for x in args if _plain(x)}
        for i, x in enumerate(out if isinstance(out, tuple) else (out,)):
            if _plain(x) and _storage(x) not in given:
                self.note(region, i, x)
        return out


def _plain(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not is_traceable_wrapper_subclass(x)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


# ---------------------------------------------------------------------------------------------------------------------
# Communication.


def _is_collective(op: Any) -> bool:
    return getattr(op, "namespace", "") == "_c10d_functional" and "wait_tensor" not in op.name()


def _save_collectives(_context: Any, op: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_collective(op) else CheckpointPolicy.PREFER_RECOMPUTE


def _gather_again(_context: Any, op: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_RECOMPUTE if "all_gather" in str(op) else CheckpointPolicy.PREFER_SAVE


save_collectives: Contexts = partial(create_selective_checkpoint_contexts, _save_collectives)
gather_again: Contexts = partial(create_selective_checkpoint_contexts, _gather_again)


class _GatherAgain(TorchDispatchMode):
    """Notes the results of all-gathers as what can be made again, and what only lays them out anew."""

    LAYOUT = ("aten::clone", "aten::cat", "aten::contiguous", "_c10d_functional::wait_tensor")

    def __init__(self, scope: _Scope) -> None:
        super().__init__()
        self.scope = scope

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not _plain(out):
            return out
        leaves, shape = tree_flatten((args, kwargs or {}))
        known = [_storage(x) in self.scope.made for x in leaves if _plain(x)]
        if "all_gather" in func.name() or (func.name().startswith(self.LAYOUT) and known and all(known)):

            def again(*leaves: Any) -> Any:
                args, kwargs = tree_unflatten(leaves, shape)
                with torch.no_grad():
                    return func(*args, **kwargs)

            self.scope.note(_Region(again, tuple(leaves), self.scope, None), 0, out)
        return out


# ---------------------------------------------------------------------------------------------------------------------
# Modules: a subclass of their class, as FSDP2 does too, so names, parameters and types stay what they were.


def _region(fn: Callable[..., Any], args: tuple[Any, ...], part: nn.Module | None, contexts: Contexts) -> Any:
    """``fn(*args)`` as a region of the block around it; as it is where nothing is to be made again."""
    if torch.compiler.is_compiling():
        if not torch.is_grad_enabled() or any(isinstance(x, KVCache) for x in args):
            return fn(*args)
        more: dict[str, Any] = {} if contexts is noop_context_fn else {"context_fn": contexts}
        return checkpoint(fn, *args, use_reentrant=False, **more)
    if _now.scope is None or _now.inside:
        return fn(*args)
    return _now.scope.region(fn, args, part)


class _Part(nn.Module):
    """A part of a block that is made again whole."""

    recompute_contexts: Contexts

    def __call__(self, *args: Any) -> Any:
        return _region(super().__call__, args, self, self.recompute_contexts)


class _Projected(nn.Module):
    """An attention whose queries, keys and values are made again."""

    recompute_contexts: Contexts

    def qkv(self, x_BTD: torch.Tensor, rope: Any) -> Any:
        return _region(super().qkv, (x_BTD, rope), self, self.recompute_contexts)  # type: ignore[misc]


class _Gated:
    """The activation of a feed-forward, and the two products of an expert, some of them made again."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], gate: bool, up: bool, contexts: Contexts) -> None:
        self.act, self.gate, self.up, self.contexts = act, gate, up, contexts

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._maybe(self.gate, self.act, x)

    def gated(self, x_MD: torch.Tensor, w_gate_DF: torch.Tensor, w_up_DF: torch.Tensor) -> torch.Tensor:
        """act(x w_gate) · (x w_up)."""
        g = self._maybe(self.gate, torch.matmul, x_MD, w_gate_DF)
        return self(g) * self._maybe(self.up, torch.matmul, x_MD, w_up_DF)

    def _maybe(self, again: bool, fn: Callable[..., torch.Tensor], *args: torch.Tensor) -> torch.Tensor:
        return _region(fn, args, None, self.contexts) if again else fn(*args)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """A block that is made again whole, in named parts, or in what its all-gathers bring."""

    recompute: Choice
    recompute_contexts: Contexts

    def forward(self, h_BTD: torch.Tensor, rope: Any, packing: Any, cache: KVCache | None) -> Any:
        plain = super().forward
        if cache is not None or not torch.is_grad_enabled():
            return plain(h_BTD, rope, packing, cache)
        if torch.compiler.is_compiling():
            if self.recompute not in ("full", "gathers"):
                return plain(h_BTD, rope, packing, cache)

            def run(h_BTD: torch.Tensor) -> Any:
                return plain(h_BTD, rope, packing, None)

            return _region(run, (h_BTD,), self, self.recompute_contexts)
        scope = _Scope(self.recompute_contexts)
        if self.recompute == "full":
            return scope.region(plain, (h_BTD, rope, packing, cache), self)
        with scope, _GatherAgain(scope) if self.recompute == "gathers" else nullcontext():
            return plain(h_BTD, rope, packing, cache)


@cache
def _subclass(kind: Any, base: Any) -> type[nn.Module]:
    return type(base.__name__, (kind, base), {"recompute_of": base})


def _adopt(module: nn.Module | None, kind: type[nn.Module], contexts: Contexts) -> None:
    if module is not None:
        module.__class__ = _subclass(kind, type(module))  # type: ignore[arg-type]
        module.recompute_contexts = contexts  # type: ignore[assignment]


def _restore(block: Block) -> None:
    """Undo an earlier call."""
    for module in block.modules():
        base = type(module).__dict__.get("recompute_of")
        if base is None and hasattr(type(module), "recompute_of"):
            raise AthanorError("recompute was changed after fully_shard", where="parallel", fix="call it before")
        if base is not None:
            module.__class__ = base
            del module.recompute_contexts
        if isinstance(getattr(module, "act", None), _Gated):
            module.act = module.act.act  # type: ignore[union-attr,assignment]


def _change(block: Block, choice: Choice, contexts: Contexts) -> None:
    if choice == "none":
        return
    names: set[str] = set() if isinstance(choice, str) else set(choice)
    attn, mlp = block.attn, block.mlp
    if "attention" in names:
        _adopt(attn, _Part, contexts)
    elif "qkv_proj" in names:
        _adopt(attn, _Projected, contexts)
    if "norms" in names:
        for norm in (block.input_norm, block.post_attn_norm, block.mlp_norm, block.post_mlp_norm):
            _adopt(norm, _Part, contexts)
        for norm in () if names & {"attention", "qkv_proj"} else (attn.q_norm, attn.k_norm):
            _adopt(norm, _Part, contexts)
    if "ffn" in names:
        _adopt(mlp, _Part, contexts)
    elif names & {"up_proj", "gate_proj"}:
        routed = isinstance(mlp, MoEFeedForward)
        if routed:
            mlp.act = _Gated(mlp.act, "gate_proj" in names, "up_proj" in names, contexts)
        dense: Any = mlp.shared if routed else mlp
        if dense is not None and "up_proj" in names:
            _adopt(dense.up_proj, _Part, contexts)
        if dense is not None and "gate_proj" in names and dense.gate_proj is not None:
            _adopt(dense.gate_proj, _Part, contexts)
            dense.act = _Gated(dense.act, True, False, contexts)
    block.recompute = choice  # type: ignore[assignment]
    _adopt(block, _Block, contexts)


# ---------------------------------------------------------------------------------------------------------------------
# Putting it in place.


def apply_recompute(
    model: Decoder,
    plan: RecomputePlan,
    *,
    micro_batch_tokens: int | None = None,
    seq_len: int | None = None,
    layout: Layout | None = None,
    dtype: torch.dtype | None = None,
) -> RecomputeChoice:
    """Change the blocks of ``model`` (a Decoder or a pipeline stage of one) in place; names of parameters stay.

    Called behind tensor, expert and context parallel and in front of ``compile_blocks`` and ``fully_shard``. A second
    call replaces the first. ``every_k`` takes the blocks whose number in the whole model is a multiple of k.

    ``micro_batch_tokens`` (before tensor and context parallel) and ``seq_len`` (the longest document, for the cost of
    attention) are needed for mode ``budget`` and for estimates in the answer; ``layout`` says how they are spread over
    ranks and how many micro-batches are held at once; ``dtype`` is that of activations (None: of the parameters).

    Returns what every block does, with bytes and operations where the tokens are known. AthanorError: a budget that
    full recompute exceeds, or a name that this model has no part for.
    """
    config, layers = model.config, model.layers
    items = layers.items() if isinstance(layers, nn.ModuleDict) else enumerate(layers)
    blocks: dict[int, Any] = {int(name): block for name, block in items}
    experts = {i: isinstance(block.mlp, MoEFeedForward) for i, block in blocks.items()}
    layout = replace(layout or Layout(), collectives_saved=plan.communication == "save")
    dtype = dtype or next((p.dtype for p in model.parameters()), torch.float32)
    if plan.mode == "budget":
        if plan.budget_bytes is None or micro_batch_tokens is None:
            missing = "budget_bytes" if plan.budget_bytes is None else "micro_batch_tokens"
            raise AthanorError(f"a budget needs {missing}", where="parallel.recompute", fix=f"give {missing}")
        chosen = choose(config, experts, plan.budget_bytes, micro_batch_tokens, seq_len, dtype, layout)
    else:
        choices = {i: _chosen(plan, i, config) for i in blocks}
        chosen = estimate(config, experts, choices, micro_batch_tokens, seq_len, dtype, layout)
    for i, block in blocks.items():
        _restore(block)
        choice = chosen.blocks[i]
        if choice == "gathers":
            contexts = gather_again
        else:
            contexts = save_collectives if plan.communication == "save" else noop_context_fn
        _change(block, choice, contexts)
    return chosen


def _chosen(plan: RecomputePlan, layer: int, config: ModelConfig) -> Choice:
    """What the plan says about one block (every mode but ``budget``)."""
    if plan.mode == "selective":
        if "gate_proj" in plan.names and not config.mlp_gated and config.moe is None:
            raise AthanorError(
                "gate_proj is to be made again, and the feed-forward has no gate",
                where="parallel.recompute.names",
                fix="up_proj or ffn",
            )
        if plan.names:
            return tuple(sorted(set(plan.names)))
        return "gathers" if plan.communication == "recompute" else "none"
    if plan.mode == "every_k":
        return "full" if layer % plan.every_k == 0 else "none"
    return "full" if plan.mode == "full" else "none"

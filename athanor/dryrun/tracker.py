"""What a step does, seen operation by operation: bytes alive, collectives, floating-point operations.

The same tracker looks at fake tensors (a dry run) and at real ones. Memory is that of storages: one counts from the
operation that makes it until nothing holds it any more. What a kernel allocates inside, alignment and fragmentation of
an allocator are not seen. Parameters and gradients of a DTensor count as this rank's part.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.dryrun.flops import flops_of
from athanor.parallel.recompute import running_again

Phase = Literal["setup", "forward", "backward", "recompute", "optimizer"]
Category = Literal[
    "parameters", "gradients", "optimizer", "gathered", "activations", "communication", "inputs", "temporary", "host"
]
#: Where bytes belong. ``gathered``: whole parameters of FSDP; ``activations``: made in a forward pass and read in the
#: backward pass, or made there again; ``communication``: buffers of data parallel and between pipeline stages;
#: ``temporary``: everything short-lived; ``host``: not on the device (offload), so in no total.
CATEGORIES: tuple[Category, ...] = get_args(Category)


class Collective(NamedTuple):
    """``n_bytes`` of one call: an all-reduce's tensor, an all-gather's whole result, a reduce-scatter's whole input, an
    all-to-all's input, a message."""

    kind: str
    group: str  #: the process group's name
    size: int
    n_bytes: int
    phase: Phase


@dataclass(eq=False, slots=True)
class Storage:
    """One piece of memory and what happened to it. Times count events."""

    made_by: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    phase: Phase  #: in which it was made
    born: int  #: backward passes begun until then
    died: int | None = None  #: likewise; None: it was alive at the end
    died_in: Phase | None = None
    tag: Category | None = None

    @property
    def category(self) -> Category:
        """As tagged; else activations are what a forward pass, or a part run again, leaves to a backward pass."""
        if self.tag is not None:
            return self.tag
        if self.phase == "forward":
            return "temporary" if self.died_in == "forward" and self.died == self.born else "activations"
        return "activations" if self.phase == "recompute" and self.died_in == "backward" else "temporary"


@dataclass
class Trace:
    """What was seen. ``changes``: (storage, bytes more or less) in order of time."""

    changes: list[tuple[Storage, int]] = field(default_factory=list)
    collectives: Counter[Collective] = field(default_factory=Counter)
    flops: Counter[Phase] = field(default_factory=Counter)

    def over_time(self) -> Iterator[tuple[int, Counter[Category]]]:
        """(event, bytes by category); the counter is the same object every time."""
        now: Counter[Category] = Counter()
        for at, (storage, n_bytes) in enumerate(self.changes):
            now[storage.category] += n_bytes
            yield at, now

    def curve(self, points: int) -> list[dict[str, int]]:
        """Bytes by category over the step in at most ``points`` moments, each the fullest of its stretch; with
        ``event``, its place among all changes."""
        stretch = max(1, -(-len(self.changes) // points))
        out: list[dict[str, int]] = []
        best = -1
        for at, now in self.over_time():
            if at % stretch == 0:
                best = -1
                out.append({})
            total = sum(now.values())
            if total > best:
                best = total
                out[-1] = {"event": at} | {str(name): now[name] for name in CATEGORIES}
        return out

    def peak(self, of: Iterable[Category] = CATEGORIES) -> tuple[int, int, dict[str, int]]:
        """(most bytes of these categories together, when, bytes of every category at that moment)."""
        wanted = set(of) - {"host"} if set(of) == set(CATEGORIES) else set(of)
        best, when, by = 0, 0, {str(name): 0 for name in CATEGORIES}
        total = 0
        now: Counter[Category] = Counter()
        for at, (storage, n_bytes) in enumerate(self.changes):
            category = storage.category
            now[category] += n_bytes
            if category in wanted:
                total += n_bytes
                if total > best:
                    best, when, by = total, at, {str(name): now[name] for name in CATEGORIES}
        return best, when, by


class Tracker(TorchDispatchMode):
    """Enter it above ``FakeTensorMode`` (that is: later). ``phase`` is set by :meth:`during`; within ``forward``,
    operations of autograd's engine are ``backward``, and those that recomputation repeats are ``recompute``."""

    def __init__(self, fake: FakeTensorMode | None = None, run: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.trace = Trace()
        self.fake = fake  #: the mode whose tensors are what is there; None: real ones are
        self._run = run or _call  # (operator, args, kwargs) → its result
        self._asking = False
        self._phase: Phase = "setup"
        self._alive: dict[int, tuple[Any, Storage, int]] = {}
        self._resize: Callable[..., Any] | None = None
        self._passes, self._task = 0, -1

    # --- phases ------------------------------------------------------------------------------------------------------

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """What runs inside belongs to ``phase``."""
        before, self._phase = self._phase, phase
        try:
            yield
        finally:
            self._phase = before

    @property
    def phase(self) -> Phase:
        """Where the running thread is."""
        task = torch._C._current_graph_task_id()
        if self._phase != "forward" or task == -1:
            return self._phase
        if task != self._task:
            self._passes, self._task = self._passes + 1, task
        return "recompute" if running_again() else "backward"

    # --- memory ------------------------------------------------------------------------------------------------------

    def note(self, tensor: torch.Tensor, made_by: str, tag: Category | None = None) -> None:
        """Count a tensor's storage from now on; a tag given later replaces an earlier one."""
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            if tag is not None:
                self._alive[key][1].tag = tag
            return
        n_bytes = storage.nbytes()
        phase = self.phase
        record = Storage(made_by, tuple(tensor.shape), tensor.dtype, phase, self._passes, tag=tag)
        ref = weakref.ref(storage, lambda _: self._gone(key))
        self._alive[key] = ref, record, n_bytes
        self.trace.changes.append((record, n_bytes))

    def tag(self, tensors: Iterable[torch.Tensor], tag: Category) -> None:
        """These belong to a category."""
        for tensor in tensors:
            self.note(tensor, "given", tag)

    def _gone(self, key: int) -> None:
        _, record, n_bytes = self._alive.pop(key)
        record.died_in, record.died = self.phase, self._passes
        self.trace.changes.append((record, -n_bytes))

    def _resized(self, storage: torch.UntypedStorage, size: int) -> None:
        if (found := self._alive.get(storage._cdata)) is not None:
            ref, record, before = found
            self._alive[storage._cdata] = ref, record, size
            self.trace.changes.append((record, size - before))

    def __enter__(self) -> Tracker:
        plain: Any = torch.UntypedStorage.resize_
        self._resize = plain

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = plain(storage, size)
            self._resized(storage, size)
            return result

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign,assignment]
        self._lock = getattr(ShardingPropagator, "_fake_mode_lock", nullcontext())
        ShardingPropagator._fake_mode_lock = self._ask()  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign,assignment]
        ShardingPropagator._fake_mode_lock = self._lock

    def _ask(self) -> Any:
        """Around the moments in which DTensor runs an operation on fake tensors of the whole shape, only to learn the
        shape of the result: nobody holds that memory. torch has a lock there, in the place of which this stands."""
        tracker = self

        class Asking:
            def __enter__(self) -> None:
                tracker._asking = True

            def __exit__(self, *_: Any) -> None:
                tracker._asking = False

        return Asking()

    # --- operations --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its operations on local parts come here next
        kwargs = kwargs or {}
        out = self._run(func, args, kwargs)
        tensors = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if self._asking or any(isinstance(x, FakeTensor) and x.fake_mode is not self.fake for x in tensors):
            return out
        for x in tensors:
            if not isinstance(x, DTensor):
                self.note(x, func.name())
        if func.namespace in ("c10d", "_c10d_functional"):
            self._communicate(func.name().split("::")[1], args, out)
        else:
            n = flops_of(func, args, kwargs, out)
            if n:
                self.trace.flops[self.phase] += n
        return out

    def _communicate(self, name: str, args: Any, out: Any) -> None:
        found = _KINDS.get(name)
        if found is None:
            return
        kind, whole, where = found
        tensors = [x for x in tree_leaves(out if whole == "out" else args[whole]) if isinstance(x, torch.Tensor)]
        group = args[where]
        group = _resolve(group) if isinstance(group, str) else _unboxed(group)
        n_bytes = sum(x.numel() * x.element_size() for x in tensors)
        self.trace.collectives[Collective(kind, group.group_name, group.size(), n_bytes, self.phase)] += 1
        for which in _BUFFERS.get(name, ()):
            self.tag([x for x in tree_leaves(args[which]) if isinstance(x, torch.Tensor)], "communication")


_resolve: Any = dist.distributed_c10d._resolve_process_group


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _unboxed(group: Any) -> dist.ProcessGroup:
    return group if isinstance(group, dist.ProcessGroup) else dist.ProcessGroup.unbox(group)


#: operator → (kind, the argument (or ``out``) whose bytes count, the argument that is the group)
_KINDS: dict[str, tuple[str, int | Literal["out"], int]] = {
    "allreduce_": ("all_reduce", 0, 1),
    "_allgather_base_": ("all_gather", 0, 2),
    "_reduce_scatter_base_": ("reduce_scatter", 1, 2),
    "alltoall_base_": ("all_to_all", 1, 2),
    "broadcast_": ("broadcast", 0, 1),
    "send": ("send", 0, 1),
    "recv_": ("recv", 0, 1),
    "all_reduce": ("all_reduce", 0, -1),
    "all_gather_into_tensor": ("all_gather", "out", -1),
    "reduce_scatter_tensor": ("reduce_scatter", 0, -1),
    "all_to_all_single": ("all_to_all", 0, -1),
}
#: operator → arguments that are buffers and nothing else
_BUFFERS: dict[str, tuple[int, ...]] = {"_allgather_base_": (0,), "_reduce_scatter_base_": (0, 1), "recv_": (0,)}

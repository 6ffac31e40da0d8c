"""One process in the place of any rank of any world: a process group that sends nothing, and what its silence means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from athanor.errors import AthanorError
from athanor.plan.routing import even


@contextmanager
def fake_world(world_size: int, rank: int) -> Iterator[None]:
    """A default process group of ``world_size`` ranks in which this process is ``rank``; nobody else is there.

    Python objects that ranks tell each other (names of parameters, sums of metrics) stay what this rank knows.
    AthanorError for a rank outside the world, or where a real process group is there.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend

    if not 0 <= rank < world_size:
        raise AthanorError(f"rank {rank} of {world_size}", where="--rank", fix=f"0 to {world_size - 1}")
    if dist.is_initialized():
        raise AthanorError("this process is a rank of a real run already", where="dryrun", fix="start it by itself")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        with mock.patch.multiple(dist, all_gather_object=_gather_own, broadcast_object_list=_broadcast_nothing):
            yield
    finally:
        dist.destroy_process_group()


def _gather_own(objects: list[Any], obj: Any, group: Any = None) -> None:
    at = dist.get_rank(group)
    for i in range(len(objects)):
        objects[i] = obj if i == at else type(obj)()


def _broadcast_nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


class Answers(TorchDispatchMode):
    """Answers what only data could tell, for tensors that have none.

    * Every position carries a label (``nonzero`` of the mask is everything).
    * Tokens go to experts evenly, on every rank; what remains goes to the first ones.
    * A whole number read from a tensor is 1, any other one 0.0, unless it is known: pipeline stages vote 1 for "shapes
      are given", and no update is skipped.
    """

    def __init__(self) -> None:
        super().__init__()
        #: by storage: values of small integer tensors
        self._known: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its operations on local parts come here next
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operator's result, or the answer in its place."""
        answer = _ANSWERS.get(func.name())
        if answer is not None and args and any(isinstance(x, FakeTensor) for x in args[:2]):
            return answer(self, func, args, kwargs)
        if func.name() == "aten::detach" and not args[0].is_floating_point() and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():  # document lengths stay numbers where a part is run again
                return func(*args)
        out = func(*args, **kwargs)
        if func.name() == "aten::lift_fresh" and isinstance(out, FakeTensor):
            self._note_constant(out, args[0])
        return out

    def _note_constant(self, tensor: torch.Tensor, given: torch.Tensor) -> None:
        """A tensor made from Python numbers."""
        if not isinstance(given, FakeTensor) and not given.is_floating_point() and given.numel() < 2**16:
            with unset_fake_temporarily():
                values = given.flatten().tolist()
            self.know(tensor, values)

    def know(self, tensor: torch.Tensor, values: list[int]) -> None:
        """From now on ``tensor`` has these values."""
        self._known[tensor.untyped_storage()] = values

    def value(self, tensor: torch.Tensor) -> Any:
        """One number."""
        known = self._known.get(tensor.untyped_storage())
        if known is not None:
            return known[int(tensor.storage_offset())]
        return 0.0 if tensor.is_floating_point() else tensor.dtype != torch.bool and 1


def _item(answers: Answers, _func: Any, args: Any, _kwargs: Any) -> Any:
    return answers.value(args[0])


def _nonzero(_answers: Answers, _func: Any, args: Any, _kwargs: Any) -> torch.Tensor:
    (x,) = args
    return x.new_empty((x.numel(), x.ndim), dtype=torch.int64)


def _bincount(answers: Answers, _func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    x = args[0]
    bins = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
    out = x.new_empty((bins,), dtype=torch.int64)
    answers.know(out, even(x.numel(), bins))
    return out


def _all_to_all(answers: Answers, func: Any, args: Any, kwargs: Any) -> Any:
    """Every rank sends what this one does: of the sender's counts this rank gets its own part, from each."""
    result = func(*args, **kwargs)
    theirs, mine, group = args[:3]
    known = answers._known.get(mine.untyped_storage())
    if known is not None:
        group = dist.ProcessGroup.unbox(group)
        each = len(known) // group.size()
        answers.know(theirs, known[group.rank() * each : (group.rank() + 1) * each] * group.size())
    return result


_ANSWERS: dict[str, Callable[..., Any]] = {
    "aten::_local_scalar_dense": _item,
    "aten::item": _item,
    "aten::nonzero": _nonzero,
    "aten::bincount": _bincount,
    "c10d::alltoall_base_": _all_to_all,
}

"""Checkpoints of a laid-out run, in the folder format of ``athanor.train.checkpoint``: any layout writes, any reads.

Each rank writes its own shards through torch.distributed.checkpoint, which notes where in the whole tensor each piece
belongs; copies are written once. The files are checksummed by all ranks together, and rank 0 makes the folder appear at
once when everything is on the disk. All ranks must see one file system. An error of one rank is raised by every rank,
so that none is left waiting in a collective.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from athanor import files
from athanor.errors import AthanorError
from athanor.parallel.mesh import DIMS, Ranks
from athanor.train import checkpoint as one_process

_T = TypeVar("_T")
_SHOWN = 5


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    ranks: Ranks,
    group: dist.ProcessGroup | None = None,
) -> int:
    """Write one checkpoint folder atomically, together; returns its size in bytes.

    ``state`` is a tree as ``athanor.train.checkpoint.write_checkpoint`` takes, with host tensors that nobody changes
    any more; DTensors are this rank's shards (``ShardedAdamW.snapshot``). What is no DTensor is taken from the first
    rank that has it: per-rank values need keys of their own. ``group`` holds all ranks; to write in a background thread
    give a gloo group that nothing else uses.
    """
    import torch.distributed.checkpoint as dcp

    where = str(folder)
    tree, tensors = _each(lambda: one_process.split_state(state), where, group)
    with ExitStack() as stack:
        made = _together(
            lambda: stack.enter_context(files.atomic_dir(folder)) if ranks.rank == 0 else None, where, group
        )
        tmp = made[0]
        assert tmp is not None

        def write_tensors() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                writer = dcp.FileSystemWriter(tmp, sync_files=False)
                dcp.save(dict(tensors), storage_writer=writer, process_group=group)

        _together(write_tensors, where, group)
        parts = _together(lambda: _checksums(tmp, ranks.rank, dist.get_world_size()), where, group)
        # one rank of each pipeline stage is enough: names are the same on all the others
        first_of_stage = all(ranks.at(dim) == 0 for dim in DIMS if dim != "pp")
        trees = _together(lambda: tree if first_of_stage else None, where, group)

        def finish() -> int:
            if ranks.rank != 0:
                return 0
            listed = {name: entry for part in parts for name, entry in part.items()}
            merged = _merge([part for part in trees if part is not None])
            size = one_process.write_manifest(tmp, step, merged, listed)
            stack.close()  # flushed and renamed here, so that a failure reaches the other ranks
            return size

        return _together(finish, where, group)[0]


def load(
    folder: Path,
    template: Mapping[str, Any],
    ranks: Ranks | None = None,
    group: dist.ProcessGroup | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """The state of a checkpoint of any layout, in the layout of ``template``; every rank calls it.

    The top-level keys of ``template`` (``ShardedAdamW.snapshot()``, or one process's ``AdamW.snapshot()``) are filled
    in place and must name the model's tensors, each rank those it holds; everything else is returned whole, as
    ``read_checkpoint`` gives it. ``ranks`` None: one process alone. Raises AthanorError on every rank for a missing or
    damaged file, and for another model's checkpoint (``verify`` False leaves the checksums out).
    """
    world = dist.get_world_size() if ranks is not None else 1
    me = ranks.rank if ranks is not None else 0
    together = group if ranks is not None else _ALONE
    if verify:
        problems = _together(lambda: one_process.damage(folder, slice(me, None, world)), str(folder), together)
        if reason := next(filter(None, problems), None):
            fix = "restore the file from a copy, or load an earlier checkpoint"
            raise AthanorError(f"damaged checkpoint: {reason}", where=str(folder), fix=fix)
    tree, wanted = one_process.split_state(template)
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    first_of_stage = ranks is None or all(ranks.at(dim) == 0 for dim in DIMS if dim != "pp")
    stages = _together(lambda: shapes if first_of_stage else {}, str(folder), together)
    whole_model = {name: shape for stage in stages for name, shape in stage.items()}

    def read() -> dict[str, Any]:
        stored = one_process.stored_tensors(folder)
        keys = tuple(f"{key}." for key in template)
        _refuse_another_model(folder, {n: tuple(m.shape) for n, m in stored.items() if n.startswith(keys)}, whole_model)
        rest = {n: torch.empty_like(m, device="cpu") for n, m in stored.items() if not n.startswith(keys)}
        one_process.read_tensors(folder, {**wanted, **rest})
        plain = files.read_json(folder / one_process.STATE)
        others = {key: value for key, value in plain.items() if key not in template}
        return {**one_process.join_state(others, rest), **one_process.join_state(tree, wanted)}

    return _each(read, str(folder), together)


#: stands for the group of a process that is on its own
_ALONE: Any = object()


def _together(work: Callable[[], _T], where: str, group: Any) -> list[_T]:
    """``work`` on every rank and all its results by rank; what fails on any rank is raised on all, with its rank."""
    done: tuple[bool, Any]
    try:
        done = True, work()
    except BaseException as error:  # noqa: B036 - torch's CheckpointException is a BaseException
        if group is _ALONE:
            raise
        cause = one_process.cause_of(error)
        done = False, cause if isinstance(cause, AthanorError) else f"{type(cause).__name__}: {cause}"
    if group is _ALONE:
        mine: Any = done[1]
        return [mine]
    results: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(results, done, group=group)
    for rank, (ok, value) in enumerate(results):
        if not ok:
            raise value if isinstance(value, AthanorError) else AthanorError(f"rank {rank}: {value}", where=where)
    return [value for _, value in results]


def _each(work: Callable[[], _T], where: str, group: Any) -> _T:
    """``work`` on every rank, its own result; failures as in :func:`_together`."""
    mine: list[_T] = []
    _together(lambda: mine.append(work()), where, group)
    return mine[0]


def _checksums(folder: Path, rank: int, world: int) -> dict[str, dict[str, Any]]:
    """Sizes and checksums of this rank's share of the files."""
    return {path.name: one_process.checksum(path) for path in sorted(folder.iterdir())[rank::world]}


def _merge(trees: list[Any]) -> Any:
    """One tree with the keys of all; where they differ in a value, the first counts."""
    if not all(isinstance(tree, dict) for tree in trees):
        return trees[0]
    keys = list(dict.fromkeys(key for tree in trees for key in tree))
    return {key: _merge([tree[key] for tree in trees if key in tree]) for key in keys}


def _refuse_another_model(
    folder: Path, stored: Mapping[str, tuple[int, ...]], ours: Mapping[str, tuple[int, ...]]
) -> None:
    """Name the first tensors that are missing, left over or of another shape."""
    odd = []
    for name in sorted(set(stored) | set(ours)):
        if name not in stored:
            odd.append(f"{name} {ours[name]} is not in the checkpoint")
        elif name not in ours:
            odd.append(f"{name} {stored[name]} is not in the model")
        elif stored[name] != ours[name]:
            odd.append(f"{name} has shape {stored[name]}, the model's is {ours[name]}")
    if odd:
        more = f" … and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        raise AthanorError(
            f"the checkpoint is of another model: {'; '.join(odd[:_SHOWN])}{more}",
            where=str(folder),
            fix="use the recipe that made it",
        )

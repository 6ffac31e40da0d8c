"""Joining the process group that ``torchrun`` or ``athanor launch`` has prepared, and agreeing on what is run."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel

import athanor
from athanor import files
from athanor.errors import AthanorError
from athanor.parallel.supervise import cores
from athanor.train.run_dir import recipe_differences

_DEFAULT_TIMEOUT_S = 600.0
_SHOWN_KEYS = 6


@dataclass(frozen=True)
class _Place:
    rank: int
    world: int
    local_rank: int
    local_world: int
    host: str
    port: int


def join(timeout_s: float | None = None) -> bool:
    """Join the default process group named by the environment; False where this process was started on its own.

    gloo for CPU tensors and, where there is an accelerator, its own backend for its tensors; rank i of a machine takes
    accelerator i. ``timeout_s``: how long the start and every collective wait for a rank (None: what the launcher
    was told, else 600). Also sets this process's threads so that the ranks of a machine share its cores. AthanorError
    for an environment that does not fit together, and naming the ranks that did not come in time.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return False
    if dist.is_initialized():
        return True
    place = _place()
    seconds = timeout_s or float(os.environ.get("ATHANOR_TIMEOUT_S", _DEFAULT_TIMEOUT_S))
    _end_with_launcher()
    _share_cores(place.local_world)
    backend = _take_accelerator(place)
    timeout = timedelta(seconds=seconds)
    try:
        store = _meet(place, timeout)
        _roll_call(store, place, seconds)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=timeout)
    except dist.DistError as error:
        raise AthanorError(
            f"the group did not come together: {str(error).splitlines()[0]}",
            where=f"rank {place.rank}",
            fix=f"all {place.world} ranks must reach {place.host}:{place.port}, where rank 0 listens",
        ) from error
    return True


def leave() -> None:
    """Leave the group, if there is one, so that the other ranks see an end and not a lost connection."""
    if dist.is_initialized():
        dist.destroy_process_group()


def agree(recipe: BaseModel | Mapping[str, Any]) -> None:
    """Check that all ranks have the same recipe and the same code; collective, and nothing on a single process.

    AthanorError on *every* rank, with the ranks that differ from rank 0 and the first keys in which they do.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    values = recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else dict(recipe)
    mine = {"version": _version(), **values}
    digests = _gather(files.digest(mine))
    if len(set(digests)) == 1:
        return
    everyone = _gather(mine)  # large, but only on the way to an error
    first_with = {digest: digests.index(digest) for digest in dict.fromkeys(digests)}
    told = []
    for digest, rank in first_with.items():
        if rank == 0:
            continue
        changes = recipe_differences(everyone[0], everyone[rank])
        more = f"; and {len(changes) - _SHOWN_KEYS} more" if len(changes) > _SHOWN_KEYS else ""
        ranks = _names([r for r, other in enumerate(digests) if other == digest])
        told.append(f"{ranks} (rank 0 → rank {rank}): {'; '.join(changes[:_SHOWN_KEYS])}{more}")
    raise AthanorError(
        f"not all ranks run the same. Different from rank 0: {' | '.join(told)}",
        where=_names([r for r, digest in enumerate(digests) if digest != digests[0]]),
        fix="start every rank with the same recipe, the same overrides and the same version of the code",
    )


def _gather(value: Any) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def _version() -> dict[str, str]:
    """What is run: versions, and a digest of Athanor's own sources (a working copy has no version of its own)."""
    hasher = hashlib.sha256()
    root = Path(athanor.__file__).parent
    for path in sorted(root.rglob("*.py")):
        hasher.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return {"athanor": f"{athanor.__version__} ({hasher.hexdigest()[:12]})", "torch": torch.__version__}


def _names(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


# --- the steps of joining --------------------------------------------------------------------------------------------


def _place() -> _Place:
    """This process's place from the environment; AthanorError for what is missing or does not fit."""
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in wanted if not os.environ.get(name)]:
        raise AthanorError(
            f"{', '.join(missing)} not set beside {', '.join(name for name in wanted if name in os.environ)}",
            where="environment",
            fix="start with `athanor launch` or `torchrun`, which set all of them, or unset them",
        )
    rank, world = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < world:
        raise AthanorError(f"RANK {rank} of WORLD_SIZE {world}", where="environment", fix=f"RANK 0 to {world - 1}")
    local_rank = _number("LOCAL_RANK", rank)
    local_world = _number("LOCAL_WORLD_SIZE", world)
    return _Place(rank, world, local_rank, local_world, os.environ["MASTER_ADDR"], _number("MASTER_PORT"))


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise AthanorError(f"{name} is {text!r}", where="environment", fix="a whole number")
    return int(text)


def _end_with_launcher() -> None:
    """On Linux: a launcher that is killed takes its ranks along (SIGTERM: they save), so that none is left behind."""
    launcher = os.environ.get("ATHANOR_LAUNCHER_PID")
    if launcher is None or sys.platform != "linux" or str(os.getppid()) != launcher:
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM))


def _share_cores(local_world: int) -> None:
    """One thread a rank where ranks fill the cores, else an equal share; what the person set wins."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // local_world))


def _take_accelerator(place: _Place) -> str:
    """Make the rank's accelerator the current one; returns the backends to start, e.g. ``cpu:gloo,cuda:nccl``."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return "cpu:gloo"
    count = torch.accelerator.device_count()
    if place.local_world > count:
        raise AthanorError(
            f"{place.local_world} ranks on a machine with {count} {device.type} device{'s' * (count != 1)}",
            where=f"rank {place.rank}",
            fix=f"at most {count} ranks a machine (--nproc {count})",
        )
    torch.accelerator.set_device_index(place.local_rank)
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"


def _meet(place: _Place, timeout: timedelta) -> dist.Store:
    """The store of this attempt, where ranks find one another.

    Under ``torchrun`` the agent hosts it and keeps it over restarts: keys of the last attempt would send ranks to
    addresses of dead processes, hence a prefix for every attempt.
    """
    env = os.environ
    agent_hosts = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    listen_fd = env.get("ATHANOR_STORE_FD") if place.rank == 0 else None
    store = dist.TCPStore(
        place.host,
        place.port,
        place.world,
        is_master=place.rank == 0 and not agent_hosts,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=None if listen_fd is None else int(listen_fd),
    )
    run, attempt = env.get("TORCHELASTIC_RUN_ID", "0"), env.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"run{run}/attempt{attempt}", store)


def _roll_call(store: dist.Store, place: _Place, seconds: float) -> None:
    """Wait for every rank; who is missing after ``seconds`` is named."""
    keys = [f"here/{rank}" for rank in range(place.world)]
    store.set(keys[place.rank], "")
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except dist.DistStoreError:
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        raise AthanorError(
            f"{_names(missing[:16])} did not come within {seconds:g} s",
            where=f"rank {place.rank}",
            fix=f"start {place.world} ranks that reach {place.host}:{place.port}, or wait longer (--timeout)",
        ) from None

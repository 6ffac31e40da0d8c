"""What the trainer's checkpoint store calls in a run over ranks: each rank its shards, one rank the decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from athanor.errors import AthanorError
from athanor.parallel.checkpoint import load, save
from athanor.parallel.mesh import Ranks
from athanor.train import checkpoint as one_process


class ParallelCheckpoints:
    """``snapshot`` gives this rank's optimizer state, the template that a checkpoint of any layout is read into."""

    def __init__(self, ranks: Ranks, snapshot: Callable[[], dict[str, Any]]) -> None:
        self.ranks, self.snapshot = ranks, snapshot
        # checkpoints are written in the background: their collectives must not meet those of the training step
        self.group = dist.new_group(backend="fake" if dist.get_backend() == "fake" else "gloo")

    def write(self, folder: Path, step: int, state: Mapping[str, Any]) -> int:
        """Every rank writes its shards; rank 0 makes the folder appear when all is on the disk."""
        return save(folder, step, state, self.ranks, self.group)

    def damage(self, folder: Path) -> str | None:
        """What is wrong with a folder (asked by the rank that decides)."""
        return one_process.damage(folder)

    def read(self, folder: Path) -> dict[str, Any]:
        """This rank's part of a checkpoint of any layout. ``agree`` has led here, so it is known to be whole."""
        return load(folder, self.snapshot(), self.ranks, self.group, verify=False)

    def agree(self, find: Callable[[], int | None]) -> int | None:
        """Rank 0 looks, all go by what it found; its error is raised by all."""
        answer: list[Any] = [None, None]
        if self.ranks.rank == 0:
            try:
                answer[0] = find()
            except AthanorError as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0, group=self.group)
        if answer[1] is not None:
            raise answer[1]
        found: int | None = answer[0]
        return found

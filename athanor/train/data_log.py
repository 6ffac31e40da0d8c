"""What a run has read so far, written to its events: exact, from where it is and not from what it counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from athanor.data.loader import PackedLoader, Seen
from athanor.train.callbacks import Callback
from athanor.train.sources import PackedSource
from athanor.train.stages import Stage

if TYPE_CHECKING:
    from athanor.train.trainer import Trainer


def seen_so_far(stages: Sequence[Stage], step: int) -> Seen:
    """Tokens by source and domain and epochs by source of the run's first ``step`` steps, over all its stages.

    A function of the stages and ``step`` (and of recorded switches of a mixture), so a resumed run, and one laid out
    otherwise, gives the same. Stages that do not read packed rows count nothing.
    """
    total = Seen({}, {}, {})
    for stage in stages:
        steps = min(step, stage.total_steps)
        source = stage.source
        if steps and isinstance(source, PackedSource) and isinstance(source.loader, PackedLoader):
            last_row, rows = source.plan.rows(steps - 1)
            total += source.loader.seen(last_row + rows)
        step -= steps
    return total


class DataLog(Callback):
    """Event ``data_seen`` when a run goes on after a resume, with each evaluation within a stage and at stage ends."""

    def __init__(self) -> None:
        self._step = 0

    def on_start(self, trainer: Trainer) -> None:
        self._write(trainer)

    def on_eval(self, trainer: Trainer, losses: dict[str, float]) -> None:
        self._write(trainer)

    def on_stage_end(self, trainer: Trainer, stage: Stage) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.engine.is_main and trainer.step > self._step:
            self._step = trainer.step
            trainer.run.event("data_seen", step=trainer.step, **asdict(seen_so_far(trainer.stages, trainer.step)))

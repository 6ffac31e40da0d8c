"""The pipeline's jobs as a block of datatrove, whose executors run it on this machine, on Slurm or on Ray."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from athanor.data.pipeline.engine import explain
from athanor.data.pipeline.jobs import Context, Job, perform
from athanor.errors import AthanorError
from athanor.files import write_atomic, write_json

#: Note of an error that no job could survive.
FATAL = "fatal.json"


class Errand(PipelineStep):
    """Task ``rank`` does every job whose number is ``rank`` modulo the number of tasks."""

    name = "athanor"
    type = "data pipeline"

    def __init__(self, context: Context, jobs: list[Job]) -> None:
        super().__init__()
        self.context, self.jobs = context, pickle.dumps(jobs)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Do the jobs; one that fails leaves a note and does not stop the others."""
        jobs: list[Job] = pickle.loads(self.jobs)
        for number in range(rank, len(jobs), world_size):
            try:
                perform(self.context, jobs[number])
                self.stat_update("done")
            except Exception as error:
                self.stat_update("failed")
                notes = Path(self.context.root) / "datatrove" / "failed"
                try:
                    write_atomic(notes / f"{number:05d}.txt", explain(error, jobs[number]))
                except AthanorError as fatal:
                    write_json(notes / FATAL, {"what": fatal.what, "where": fatal.where, "fix": fatal.fix})
                    break
        yield from data or ()


def quiet() -> None:
    """Leave datatrove's log to warnings."""
    import sys

    from datatrove.utils.logging import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING")

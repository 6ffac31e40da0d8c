"""Engines: a worker that is killed costs its own job at most."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from athanor.data.pipeline import engine
from athanor.data.pipeline.jobs import Context
from athanor.recipe.schema import Recipe

#: A module of jobs that worker processes can import.
JOBS = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Touch:
    """Writes a file; kills its own process as often as ``deaths`` says."""

    folder: str
    number: int
    deaths: int = 0

    def name(self):
        return f"job {self.number}"

    def path(self):
        return Path(self.folder) / str(self.number)

    def done(self, context):
        return self.path().is_file()

    def run(self, context):
        died = len(list(Path(self.folder).glob(f"died-{self.number}-*")))
        if died < self.deaths:
            (Path(self.folder) / f"died-{self.number}-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.path().write_text("done")
'''


def test_a_killed_worker_costs_its_own_job_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killing_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import killing_jobs  # type: ignore[import-not-found]

    context = Context(Recipe().model_dump_json(), str(tmp_path))
    jobs = [killing_jobs.Touch(str(tmp_path), n, {3: 1, 5: 9}.get(n, 0)) for n in range(8)]
    ticks: list[tuple[int, int]] = []
    failed = engine.run_jobs(context, jobs, engine="local", workers=2, tick=lambda *at: ticks.append(at))
    assert set(failed) == {"job 5"} and "killed" in failed["job 5"]
    assert [job.number for job in jobs if not job.done(context)] == [5]
    assert ticks[-1] == (8, 8)
    sys.modules.pop("killing_jobs")

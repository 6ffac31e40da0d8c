"""Engines: a worker that is killed costs its own job at most, and none outlives its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.data.pipeline import engine
from athanor.data.pipeline.jobs import Context
from athanor.errors import AthanorError
from athanor.recipe.schema import Recipe

#: A module of jobs that worker processes can import.
JOBS = '''
import os, signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Touch:
    """Writes a file; kills its own process as often as ``deaths`` says, below zero: when it has written it."""

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
        if self.deaths < 0:
            os.kill(os.getpid(), signal.SIGKILL)
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


def test_work_whose_worker_did_not_live_to_say_so_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killing_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import killing_jobs

    context = Context(Recipe().model_dump_json(), str(tmp_path))
    jobs = [killing_jobs.Touch(str(tmp_path), n, -1 if n == 2 else 0) for n in range(4)]
    ticks: list[tuple[int, int]] = []
    assert engine.run_jobs(context, jobs, engine="local", workers=2, tick=lambda *at: ticks.append(at)) == {}
    assert ticks[-1] == (4, 4) and all(job.done(context) for job in jobs)
    sys.modules.pop("killing_jobs")


def test_workers_do_not_outlive_a_build_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from athanor.data.pipeline import engine\n"
        "def wait(folder):\n"
        "    Path(folder, str(os.getpid())).touch()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    with engine._new_pool(1) as pool:\n"
        "        pool.submit(wait, sys.argv[1]).result()\n"
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(pids)]) as process:
        _until(lambda: any(pids.iterdir()))
        process.kill()
    worker = int(next(pids.iterdir()).name)
    _until(lambda: not _is_alive(worker))


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _until(met: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_disk_is_told_by_datatrove_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datatrove")
    text = JOBS.replace('write_text("done")', "__class__; raise OSError(28, 'No space left on device', 'there')")
    (tmp_path / "filling_jobs.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import filling_jobs  # type: ignore[import-not-found]

    context = Context(Recipe().model_dump_json(), str(tmp_path))
    with pytest.raises(AthanorError, match="disk is full while job 0"):
        engine.run_jobs(
            context, [filling_jobs.Touch(str(tmp_path), 0)], engine="datatrove", workers=1, tick=lambda *_: None
        )
    sys.modules.pop("filling_jobs")

"""A run that is killed, stopped, or loses its newest checkpoint ends in the same bits as one that is left alone."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import Noise, lines, make_stages, make_trainer, recipe_of, untimed

from athanor import files
from athanor.errors import AthanorError
from athanor.train.callbacks import Callback
from athanor.train.stop import Stopped

HERE = Path(__file__).parent


def run_processes(*jobs):
    """Exit status of each job (precision, step to die at or 0, folder), all in children of one fresh interpreter."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    command = [sys.executable, str(HERE / "tiny.py"), *(f"{precision}:{at}:{path}" for precision, at, path in jobs)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def events(path, kind):
    return [event for event in lines(path / "events.jsonl") if event["kind"] == kind]


def test_killed_at_several_steps_equals_uninterrupted_to_the_bit(tmp_path):
    """SIGKILL before any checkpoint, between two, at the end of a stage, in the next stage; then a new interpreter."""
    kills, modes = (1, 5, 6, 9), ("fp32", "bf16")
    jobs = [(mode, at, tmp_path / mode / ("broken" if at else "whole")) for mode in modes for at in (0, *kills)]
    assert run_processes(*jobs) == ([0] + [-signal.SIGKILL] * len(kills)) * 2
    assert not list(tmp_path.glob("*/broken/final.pt"))
    assert run_processes(*((mode, 0, tmp_path / mode / "broken") for mode in modes)) == [0, 0]
    for mode in modes:
        whole, broken = tmp_path / mode / "whole", tmp_path / mode / "broken"
        assert len(events(broken, "resume")) >= 2
        assert untimed(broken / "metrics.jsonl") == untimed(whole / "metrics.jsonl")
        steps = [line["step"] for line in untimed(whole / "metrics.jsonl") if "loss" in line]
        assert steps == list(range(1, 13))
        a, b = torch.load(whole / "final.pt"), torch.load(broken / "final.pt")
        for part in ("masters", "model"):
            assert a[part].keys() == b[part].keys() and all(torch.equal(a[part][n], b[part][n]) for n in a[part])


class SignalAt(Callback):
    def __init__(self, step, signum):
        self.step, self.signum = step, signum

    def on_step(self, info):
        if info.step == self.step:
            signal.raise_signal(self.signum)


def finish(path, *callbacks, **recipe):
    trainer = make_trainer(path, recipe_of(**recipe), callbacks=[Noise(), *callbacks])
    result = trainer.fit()
    return result, trainer.optimizer.masters


def assert_same_run(path, masters, reference_path, reference_masters):
    assert untimed(path / "metrics.jsonl") == untimed(reference_path / "metrics.jsonl")
    assert all(torch.equal(masters[name], reference_masters[name]) for name in masters)


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_finishes_the_step_saves_and_says_how_to_resume(tmp_path, signum, exit_code):
    handler = signal.getsignal(signum)
    _, whole = finish(tmp_path / "whole")
    with pytest.raises(Stopped, match="after step 8 of 12.*same command again") as stopped:
        finish(tmp_path / "broken", SignalAt(8, signum))
    assert stopped.value.exit_code == exit_code and signal.getsignal(signum) is handler
    assert (tmp_path / "broken" / "checkpoints" / "step-8" / "manifest.json").exists()
    result, masters = finish(tmp_path / "broken")
    assert result.resumed_from == 8 and result.steps == 12
    assert_same_run(tmp_path / "broken", masters, tmp_path / "whole", whole)


def test_signal_in_the_last_step_lets_the_run_end(tmp_path):
    result, _ = finish(tmp_path, SignalAt(12, signal.SIGTERM))
    assert result.steps == 12


def test_damaged_checkpoint_falls_back_and_ends_the_same(tmp_path):
    _, whole = finish(tmp_path / "whole", checkpoint_every_steps=3)
    with pytest.raises(Stopped):
        finish(tmp_path / "broken", SignalAt(10, signal.SIGTERM), checkpoint_every_steps=3)
    shard = tmp_path / "broken" / "checkpoints" / "step-10" / "__0_0.distcp"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 4
    shard.write_bytes(data)
    result, masters = finish(tmp_path / "broken", checkpoint_every_steps=3)
    (event,) = events(tmp_path / "broken", "checkpoint_damaged")
    assert result.resumed_from == event["fallback_step"] == 9 and str(shard) in event["reason"]
    assert_same_run(tmp_path / "broken", masters, tmp_path / "whole", whole)


def test_finished_run_fits_again_without_a_step(tmp_path):
    _, first = finish(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    result, again = finish(tmp_path)
    assert result.resumed_from == 12 and (tmp_path / "metrics.jsonl").read_text() == before
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("change", ["stages", "seed", "data"])
def test_checkpoint_of_another_run_is_refused(tmp_path, change):
    with pytest.raises(Stopped):
        finish(tmp_path, SignalAt(3, signal.SIGTERM))
    stages = make_stages(steps=(6, 7) if change == "stages" else (6, 6), seed=9 if change == "data" else 0)
    trainer = make_trainer(tmp_path, recipe_of(), stages=stages, seed=int(change == "seed"), callbacks=[Noise()])
    with pytest.raises(AthanorError, match=f"{change} differ"):
        trainer.fit()


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_during_a_periodic_checkpoint_goes_on(tmp_path, monkeypatch):
    class Fill(Callback):
        def on_step(self, info):
            if info.step == 4:
                trainer.store.wait()
                monkeypatch.setattr(files, "fsync_tree", full)
            if info.step == 5:
                trainer.store.wait(raise_error=False)
                monkeypatch.undo()

    trainer = make_trainer(tmp_path, recipe_of(checkpoint_every_steps=2), callbacks=[Fill()])
    assert trainer.fit().steps == 12
    assert [event["step"] for event in events(tmp_path, "checkpoint_failed")] == [4]
    assert [event["step"] for event in events(tmp_path, "checkpoint")] == [2, 6, 8, 10, 12]


def test_full_disk_at_the_last_checkpoint_is_told_and_the_previous_one_resumes(tmp_path, monkeypatch):
    _, whole = finish(tmp_path / "whole")

    class Fill(Callback):
        def on_step(self, info):
            if info.step == 12:
                trainer.store.wait()
                monkeypatch.setattr(files, "fsync_tree", full)

    trainer = make_trainer(tmp_path / "broken", recipe_of(), callbacks=[Noise(), Fill()])
    with pytest.raises(AthanorError, match="disk is full.*step-6 is untouched"):
        trainer.fit()
    monkeypatch.undo()
    assert os.listdir(tmp_path / "broken" / "checkpoints") == ["step-6"]
    _, masters = finish(tmp_path / "broken")
    assert_same_run(tmp_path / "broken", masters, tmp_path / "whole", whole)


def test_lost_metrics_are_reported(tmp_path):
    with pytest.raises(Stopped):
        finish(tmp_path, SignalAt(7, signal.SIGTERM))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-200])
    finish(tmp_path)
    assert events(tmp_path, "metrics_lost")
    assert all(json.loads(line) for line in path.read_text().splitlines())

"""Checkpoints: whole or absent, damage named, the previous one always good."""

import errno
import json
import os
import subprocess

import pytest
import torch

from athanor import files
from athanor.errors import AthanorError
from athanor.train.checkpoint import CheckpointStore, damage, join_state, split_state
from athanor.train.run_dir import RunDir


def state_of(step):
    generator = torch.Generator().manual_seed(step)
    flat = torch.randn(1000, generator=generator)
    return {
        "params": {"a.weight": flat[:600].view(20, 30), "b": flat[640:700]},
        "rng": {"torch": torch.get_rng_state(), "python": [3, [1, 2, 3], None]},
        "step": step,
        "x": 0.1 + 0.2,
        "empty": {},
    }


def assert_same(a, b):
    tree_a, tensors_a = split_state(a)
    tree_b, tensors_b = split_state(b)
    assert tree_a == tree_b and tensors_a.keys() == tensors_b.keys()
    assert all(torch.equal(tensors_a[key], tensors_b[key]) for key in tensors_a)


def names(run):
    return sorted(p.name for p in run.checkpoints_dir.iterdir())


def events(run, kind):
    lines = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    return [event for event in lines if event["kind"] == kind]


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(RunDir(tmp_path), keep=2)
    for step in (1, 2, 3):
        store.save(step, state_of(step))
    store.wait()
    return store


def test_state_splits_and_joins():
    tree = {"a": (torch.ones(2), 1), "b": {"c": torch.zeros(1)}, "d": None}
    plain, tensors = split_state(tree)
    assert list(tensors) == ["a.0", "b.c"]
    assert json.loads(json.dumps(plain)) == plain
    assert_same(join_state(plain, tensors), {"a": [torch.ones(2), 1], "b": {"c": torch.zeros(1)}, "d": None})
    with pytest.raises(TypeError, match="a.b: set"):
        split_state({"a": {"b": {1}}})
    with pytest.raises(TypeError, match="not a string"):
        split_state({1: 2})


def test_newest_comes_back_and_only_the_last_are_kept(store):
    step, state = store.load_latest()
    assert step == 3 and names(store.run) == ["step-2", "step-3"]
    assert_same(state, state_of(3))
    assert [event["step"] for event in events(store.run, "checkpoint")] == [1, 2, 3]


def test_views_of_one_buffer_are_stored_once(store):
    size = (store.run.checkpoints_dir / "step-3" / "__0_0.distcp").stat().st_size
    assert size < 660 * 4 + 5056 + 3 * 2048


def test_no_checkpoint(tmp_path):
    assert CheckpointStore(RunDir(tmp_path), keep=1).load_latest() is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", [flip, truncate, os.unlink])
def test_damage_is_named_and_the_previous_one_taken(store, name, harm):
    harm(store.run.checkpoints_dir / "step-3" / name)
    warned = []
    store.warn = warned.append
    step, state = store.load_latest()
    assert step == 2
    assert_same(state, state_of(2))
    (event,) = events(store.run, "checkpoint_damaged")
    assert event["step"] == 3 and event["fallback_step"] == 2 and f"step-3/{name}" in event["reason"]
    assert len(warned) == 1 and names(store.run) == ["step-2", "step-3.damaged"]
    store.save(3, state_of(3), wait=True)
    assert store.load_latest()[0] == 3


def test_all_damaged_is_refused_every_time(store):
    for step in (2, 3):
        flip(store.run.checkpoints_dir / f"step-{step}" / "__0_0.distcp")
    for _ in range(2):
        with pytest.raises(AthanorError, match=r"step-3/__0_0.distcp: checksum"):
            store.load_latest()


def test_half_written_leftovers_are_ignored_and_removed(store):
    (store.run.checkpoints_dir / "step-9.tmp").mkdir()
    (store.run.checkpoints_dir / "step-1.deleting.tmp").mkdir()
    assert store.load_latest()[0] == 3 and names(store.run) == ["step-2", "step-3"]


@pytest.mark.parametrize("at", ["tensors", "state", "flush"])
def test_full_disk_leaves_the_previous_checkpoint_good(store, monkeypatch, at):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if at == "tensors":
        monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_item", full)
    elif at == "state":
        monkeypatch.setattr(files, "write_json", full)
    else:
        monkeypatch.setattr(files, "fsync_tree", full)
    warned = []
    store.warn = warned.append
    store.save(4, state_of(4))
    store.wait(raise_error=False)
    assert "disk is full" in warned[0] and "step-3 is untouched" in warned[0]
    with pytest.raises(AthanorError, match="disk is full"):
        store.save(5, state_of(5), wait=True)
    monkeypatch.undo()
    assert names(store.run) == ["step-2", "step-3"]
    assert [event["step"] for event in events(store.run, "checkpoint_failed")] == [4, 5]
    assert_same(store.load_latest()[1], state_of(3))
    store.save(6, state_of(6), wait=True)
    assert store.load_latest()[0] == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_really_full_disk(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        store = CheckpointStore(RunDir(tmp_path), keep=2)
        store.save(1, state_of(1), wait=True)
        with pytest.raises(AthanorError, match="disk is full"):
            store.save(2, {"params": {"big": torch.zeros(400_000)}}, wait=True)
        assert names(store.run) == ["step-1"] and damage(store.run.checkpoints_dir / "step-1") is None
        assert_same(store.load_latest()[1], state_of(1))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)

"""Resumable state: atomic, checksummed, written in the background.

A checkpoint is ``checkpoints/step-N/``: the tensors as a torch distributed checkpoint (so that another world size can
reshard them), ``state.json`` for everything else, and ``manifest.json`` with the size and SHA-256 of each file, because
a distributed checkpoint has no checksums of its own. It is written as ``step-N.tmp``, flushed to disk, then renamed.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from athanor import files
from athanor.errors import AthanorError
from athanor.train.run_dir import RunDir

_NAME = re.compile(r"step-(\d+)$")
_MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = 1


def split_state(tree: Any, key: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """A tree of dicts, lists, JSON values and tensors → (the same tree with references, {dotted key: tensor}).

    Tuples become lists. Anything else is refused here rather than pickled.
    """
    if isinstance(tree, torch.Tensor):
        return {"__tensor__": key}, {key: tree}
    items: dict[str, tuple[Any, dict[str, torch.Tensor]]]
    if isinstance(tree, Mapping):
        items = {name: split_state(value, f"{key}.{name}" if key else name) for name, value in tree.items()}
        if bad := [name for name in tree if not isinstance(name, str)]:
            raise TypeError(f"checkpoint state {key or '(root)'}: key {bad[0]!r} is not a string")
    elif isinstance(tree, list | tuple):
        items = {str(i): split_state(value, f"{key}.{i}") for i, value in enumerate(tree)}
    elif tree is None or isinstance(tree, bool | int | float | str):
        return tree, {}
    else:
        raise TypeError(f"checkpoint state {key}: {type(tree).__name__} is neither JSON nor a tensor")
    tensors = {name: tensor for _, part in items.values() for name, tensor in part.items()}
    plain = {name: value for name, (value, _) in items.items()}
    return (plain if isinstance(tree, Mapping) else list(plain.values())), tensors


def join_state(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of :func:`split_state`."""
    if isinstance(tree, dict):
        if set(tree) == {"__tensor__"}:
            return tensors[tree["__tensor__"]]
        return {name: join_state(value, tensors) for name, value in tree.items()}
    if isinstance(tree, list):
        return [join_state(value, tensors) for value in tree]
    return tree


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> int:
    """Write one checkpoint folder atomically and return its size in bytes. Tensors must be on the host."""
    import torch.distributed.checkpoint as dcp

    tree, tensors = split_state(state)
    with files.atomic_dir(folder) as tmp:
        with warnings.catch_warnings():  # it says that there is no process group; one process is what we mean
            warnings.simplefilter("ignore", UserWarning)
            dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(tmp, sync_files=False), no_dist=True)
        return write_manifest(tmp, step, tree, {path.name: checksum(path) for path in sorted(tmp.iterdir())})


def checksum(path: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}


def write_manifest(folder: Path, step: int, tree: Any, listed: Mapping[str, dict[str, Any]]) -> int:
    """The last two files of a checkpoint: the plain part of the state, and the manifest, which names the ``listed``
    tensor files beside it. Returns the checkpoint's size in bytes."""
    files.write_json(folder / STATE, tree)
    everything = {**listed, STATE: checksum(folder / STATE)}
    files.write_json(folder / _MANIFEST, {"format": FORMAT, "step": step, "files": everything})
    return sum(entry["bytes"] for entry in everything.values())


def damage(folder: Path, share: slice = slice(None)) -> str | None:
    """What is wrong with a checkpoint folder, naming the file; None if every byte is as it was written.

    ``share`` picks some of the files, so that many ranks can each look at a part.
    """
    try:
        manifest = files.read_json(folder / _MANIFEST)
        if manifest["format"] != FORMAT:
            return f"{folder / _MANIFEST}: format {manifest['format']}, this version reads {FORMAT}"
        for name, entry in sorted(manifest["files"].items())[share]:
            path = folder / name
            if not path.exists():
                return f"{path}: missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{path}: {path.stat().st_size} bytes, {entry['bytes']} were written"
            if files.sha256_file(path) != entry["sha256"]:
                return f"{path}: checksum differs from the one written"
    except AthanorError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return f"{folder / _MANIFEST}: not a checkpoint manifest"
    except OSError as error:
        return f"{folder}: {error}"
    return None


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The state that ``write_checkpoint`` was given, on the host. Check ``damage`` first."""
    tensors = {name: torch.empty_like(like, device="cpu") for name, like in stored_tensors(folder).items()}
    read_tensors(folder, tensors)
    return join_state(files.read_json(folder / STATE), tensors)


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors without memory (on meta) that have the names, shapes and dtypes of those in a checkpoint."""
    import torch.distributed.checkpoint as dcp

    metadata: Any = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: torch.empty(m.size, dtype=m.properties.dtype, device="meta") for name, m in metadata.items()}


def read_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill host tensors by name; a DTensor gets this process's part."""
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder), no_dist=True)


def cause_of(error: BaseException) -> BaseException:
    """The first real failure inside what torch.distributed.checkpoint raises."""
    failures = getattr(error, "failures", None)
    if isinstance(failures, Mapping) and failures:
        return next(iter(failures.values()))[0]
    return error


class CheckpointIO(Protocol):
    """How a checkpoint folder is written, checked and read, by one process or by many together."""

    def write(self, folder: Path, step: int, state: Mapping[str, Any]) -> int:
        """Write the folder atomically; its size in bytes."""
        ...

    def damage(self, folder: Path) -> str | None:
        """What is wrong with a folder, or None."""
        ...

    def read(self, folder: Path) -> dict[str, Any]:
        """The state that was written (each process its part of it)."""
        ...

    def agree(self, find: Callable[[], int | None]) -> int | None:
        """What ``find`` says on the process that decides; an error of it is raised by all."""
        ...


class LocalCheckpoints:
    """One process writes and reads everything."""

    def write(self, folder: Path, step: int, state: Mapping[str, Any]) -> int:
        return write_checkpoint(folder, step, state)

    def damage(self, folder: Path) -> str | None:
        return damage(folder)

    def read(self, folder: Path) -> dict[str, Any]:
        return read_checkpoint(folder)

    def agree(self, find: Callable[[], int | None]) -> int | None:
        return find()


class CheckpointStore:
    """The checkpoints of one run: at most ``keep`` whole ones, at most one being written."""

    def __init__(
        self, run: RunDir, keep: int, warn: Callable[[str], None] = lambda text: None, io: CheckpointIO | None = None
    ) -> None:
        self.run, self.keep, self.warn = run, keep, warn
        self.io: CheckpointIO = io or LocalCheckpoints()
        self._thread: threading.Thread | None = None
        self._error: AthanorError | None = None

    def folders(self) -> list[tuple[int, Path]]:
        """(step, folder) of every whole checkpoint, newest first."""
        if not self.run.checkpoints_dir.is_dir():
            return []
        named = ((_NAME.match(path.name), path) for path in self.run.checkpoints_dir.iterdir())
        return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)

    def save(self, step: int, state: Mapping[str, Any], wait: bool = False) -> None:
        """Write ``state`` (host tensors nobody changes any more) in the background.

        Waits for the previous write. With ``wait`` this one is waited for too, and its failure raised; otherwise a
        failure is recorded as an event and warned about, and the run goes on with the previous checkpoint.
        """
        self.wait(raise_error=False)
        self._error = None
        self._thread = threading.Thread(target=self._write, args=(step, state), name=f"checkpoint-{step}")
        self._thread.start()
        if wait:
            self.wait()

    def wait(self, raise_error: bool = True) -> None:
        """Wait for the write under way, if any; raise its failure if asked."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if raise_error and self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        folder = self.run.checkpoints_dir / f"step-{step}"
        begun = time.perf_counter()
        try:
            size = self.io.write(folder, step, state)
            self.run.event("checkpoint", step=step, bytes=size, write_s=round(time.perf_counter() - begun, 3))
            for _, old in [] if self.run.follower else self.folders()[self.keep :]:
                files.remove_tree(old)
        except BaseException as raised:  # noqa: B036 - torch's CheckpointException is a BaseException
            self._error = self._explain(step, cause_of(raised), state)
            self._record_failure(step, self._error)

    def _explain(self, step: int, error: BaseException, state: Mapping[str, Any]) -> AthanorError:
        good = next((f"step-{n}" for n, _ in self.folders() if n != step), None)
        left = f"the checkpoint {good} is untouched" if good else "there is no earlier checkpoint"
        where = str(self.run.checkpoints_dir / f"step-{step}")
        # torch.save hides "no space left" behind an error of its zip writer: the room left tells (the .tmp is gone)
        free_bytes = shutil.disk_usage(self.run.path).free
        needed_bytes = sum(tensor.nbytes for tensor in split_state(state)[1].values())
        if files.is_disk_full(error) or free_bytes < needed_bytes:
            return AthanorError(
                f"the disk is full ({free_bytes / 1e6:.1f} MB free, {needed_bytes / 1e6:.1f} MB needed): "
                f"checkpoint not written; {left}",
                where=where,
                fix="free some space, then run the same command again to resume",
            )
        return AthanorError(f"checkpoint not written ({type(error).__name__}: {error}); {left}", where=where)

    def _record_failure(self, step: int, error: AthanorError) -> None:
        self.warn(str(error))
        try:
            self.run.event("checkpoint_failed", step=step, error=str(error))
        except OSError as unwritable:  # the event log is on the same full disk: the warning has been given
            self.warn(f"{self.run.events_path}: {unwritable}")

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the newest undamaged checkpoint; None if the run has none."""
        step = self.io.agree(self._find_undamaged)
        return None if step is None else (step, self.io.read(self.run.checkpoints_dir / f"step-{step}"))

    def _find_undamaged(self) -> int | None:
        """The newest good step. A damaged one is named in an event, set aside as ``step-N.damaged`` and the one before
        it taken. If all are damaged an ``AthanorError`` says so: starting over without a word would hide it.
        """
        for leftover in self.run.checkpoints_dir.glob(f"*{files.TMP_SUFFIX}"):
            shutil.rmtree(leftover, ignore_errors=True)
        bad: list[tuple[int, Path, str]] = []
        for step, folder in self.folders():
            reason = self.io.damage(folder)
            if reason is None:
                self._set_aside(bad, step)
                return step
            bad.append((step, folder, reason))
        if bad:
            raise AthanorError(
                "no undamaged checkpoint: " + "; ".join(reason for _, _, reason in bad),
                where=str(self.run.checkpoints_dir),
                fix="restore the files from a copy, or remove this folder to start from the beginning",
            )
        return None

    def _set_aside(self, bad: list[tuple[int, Path, str]], good_step: int) -> None:
        for step, folder, reason in bad:
            aside = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            self.run.event("checkpoint_damaged", step=step, reason=reason, fallback_step=good_step)
            self.warn(f"checkpoint step-{step} is damaged ({reason}); resuming from step-{good_step}")

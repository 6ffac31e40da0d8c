"""Token shards on object storage: read from a local cache, fetched file by file when they are first needed.

A URL is anything that fsspec opens (``s3://…``, ``gs://…``, ``https://…``, ``memory://…``). The index is read anew each
time it is opened; a data file is fetched once, compared with the index's size and checksum before it takes its name in
the cache, and memory-mapped from there. Two processes of one machine that want the same file fetch it once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from athanor.data.read.locate import filesystem, is_url
from athanor.data.shard_files import check_file
from athanor.data.shards import ShardSet
from athanor.data.types import Split
from athanor.errors import AthanorError
from athanor.files import atomic_path, digest, write_atomic
from athanor.native import cache_dir as program_cache

_CHUNK_BYTES = 1 << 22
#: Files of a tokenizer's directory.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def cache_root() -> Path:
    """Where fetched files are kept: ``$ATHANOR_DATA_CACHE``, else ``shards`` in the project's cache folder."""
    given = os.environ.get("ATHANOR_DATA_CACHE")
    return Path(given) if given else program_cache() / "shards"


class Folder:
    """A directory behind a URL and its copy here. Nothing is listed: what there is, is asked for by name."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._store, self._root = filesystem(self.url)
        self.here = (cache or cache_root()) / digest(self.url)[:24]

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url}/{name}", self.here.parent)

    def read(self, name: str) -> bytes:
        """A small file's bytes. ``FileNotFoundError`` where there is none, ``AthanorError`` for all else."""
        with self._told(name):
            return bytes(self._store.cat_file(f"{self._root}/{name}"))

    def names(self) -> list[str]:
        """Names of the folders in it."""
        with self._told(""):
            found = self._store.ls(self._root, detail=True)
        return sorted(
            str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory"
        )

    def copy(self, name: str) -> Path:
        """A small file here, fetched anew."""
        write_atomic(self.here / name, self.read(name))
        return self.here / name

    def fetch(self, name: str, expected: Mapping[str, int]) -> Path:
        """A data file here, fetched if it is not in the cache. ``expected``: its ``bytes`` and ``crc32``.

        ``AthanorError`` for one that is missing, or is not what the index says.
        """
        # the checksum is in the name: shards that were made anew under the same URL are other files
        target = self.here / f"{expected['crc32']:08x}-{name}"
        where = f"{self.url}/{name}"
        if _is_whole(target, expected):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if _is_whole(target, expected):  # another process was quicker
                return target
            with atomic_path(target) as tmp:
                try:
                    with (
                        self._told(name),
                        self._store.open(f"{self._root}/{name}", "rb") as far,
                        open(tmp, "wb") as near,
                    ):
                        shutil.copyfileobj(far, near, _CHUNK_BYTES)
                except FileNotFoundError:
                    raise AthanorError("shard file is missing", where=where, fix="copy it there again") from None
                check_file(tmp, expected, verify=True, where=where)
        return target

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Failures of a driver in the words of a person."""
        try:
            yield
        except (FileNotFoundError, AthanorError):
            raise
        except Exception as error:  # drivers raise whatever their service's library raises
            what = f"{type(error).__name__}: {error}"
            raise AthanorError(what, where=f"{self.url}/{name}", fix="check the address and the credentials") from error


def _is_whole(file: Path, expected: Mapping[str, int]) -> bool:
    return file.is_file() and file.stat().st_size == expected["bytes"]


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold ``target`` against other processes; the lock goes with the process, however it ends."""
    with open(target.with_name(f".{target.name}.lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def read_state(folder: Folder, name: str) -> Any:
    """The JSON value of a small file, or None where there is none."""
    try:
        return json.loads(folder.read(name))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AthanorError(f"not readable as JSON: {error}", where=f"{folder.url}/{name}") from None


def data_parts(data: str | Path) -> dict[str, str | Path]:
    """``tokenizer_dir`` and ``data_dir`` of what ``data build`` wrote, in a folder or behind a URL.

    Of a URL the tokenizer is copied here; shards come as they are read.
    """
    if not is_url(data):
        return {"tokenizer_dir": Path(data) / "tokenizer", "data_dir": Path(data) / "tokens"}
    url = str(data).rstrip("/")
    folder = Folder(f"{url}/tokenizer")
    for name in TOKENIZER_FILES:
        try:
            folder.copy(name)
        except FileNotFoundError:
            if name == TOKENIZER_FILES[0]:
                raise AthanorError("no tokenizer here", where=folder.url, fix="what `data build` wrote") from None
    return {"tokenizer_dir": folder.here, "data_dir": f"{url}/tokens"}


def open_remote(url: str, stage_file: str, fingerprint: str | None) -> dict[str, dict[Split, ShardSet]]:
    """Source → split → shards of a finished directory of tokens behind a URL; ``stage_file`` says that it is."""
    root = Folder(url)
    state = read_state(root, stage_file)
    if not isinstance(state, dict) or not state.get("done"):
        raise AthanorError("no finished token shards here", where=url, fix="copy a finished directory of tokens there")
    found: dict[str, dict[Split, ShardSet]] = {}
    for name in root.names():
        inside = (root / name).names()
        splits: tuple[Split, ...] = ("train", "valid")
        found[name] = {
            split: ShardSet.open(f"{root.url}/{name}/{split}", tokenizer_fingerprint=fingerprint)
            for split in splits
            if split in inside
        }
    return found

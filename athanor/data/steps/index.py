"""What a build leaves for later ones to compare with: a folder of sorted 64-bit keys, read through memory maps.

``index.json`` names the kind of index, the settings its keys depend on and each file's type, length and checksum.
``keys-X`` are sorted; ``rows-X`` (the document each key belongs to) and ``check-X`` lie beside them in the same order;
all other files have one value a document.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.errors import AthanorError

Array = npt.NDArray[Any]
_VERSION = 1
_BLOCK = 1 << 24
#: Documents of one key that a query is compared with.
MAX_CANDIDATES = 8


@dataclass(frozen=True)
class Index:
    """An index folder, opened and checked."""

    path: Path
    kind: str
    settings: Mapping[str, Any]
    n_documents: int
    files: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, path: str | Path, kind: str | None = None, settings: Mapping[str, Any] | None = None) -> Index:
        """``AthanorError`` where the folder is no index, is damaged, or was built with other settings."""
        folder = _located(Path(path).expanduser(), kind)
        try:
            told = json.loads((folder / "index.json").read_text("utf-8"))
            index = cls(folder, told["kind"], told["settings"], told["n_documents"], told["files"])
        except (OSError, ValueError, KeyError) as error:
            fix = "name the folder that an earlier build left (`index` in a step's work folder)"
            raise AthanorError("not an index of an earlier build", where=str(path), fix=fix) from error
        if kind is not None and index.kind != kind:
            raise AthanorError(f"this index is of {index.kind}, not of {kind}", where=str(path), fix=f"one of {kind}")
        if settings is not None and dict(index.settings) != dict(settings):
            other = {k: v for k, v in index.settings.items() if settings.get(k) != v}
            raise AthanorError(
                f"built with other settings: {other}",
                where=str(path),
                fix=f"the same settings as now: {dict(settings)}",
            )
        for name, file in index.files.items():
            if _checksum(folder / name) != file["xxh3"]:
                raise AthanorError(f"{name} does not match its checksum", where=str(path), fix="build the index again")
        return index

    def array(self, name: str) -> Array:
        """A file as a memory map (or an empty array)."""
        file = self.files[name]
        if not file["length"]:
            return np.zeros(0, dtype=file["type"])
        return np.memmap(self.path / name, dtype=file["type"], mode="r", shape=(file["length"],))

    def matches(self, name: str, queries: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(query, place in ``keys-name``) of equal keys; at most ``MAX_CANDIDATES`` places a query."""
        keys = self.array(f"keys-{name}")
        order = np.argsort(queries, kind="stable")
        ordered = queries[order]
        at = np.searchsorted(keys, ordered)
        found: list[Array] = []
        places: list[Array] = []
        for step in range(MAX_CANDIDATES):
            inside = np.flatnonzero(at + step < len(keys))
            equal = inside[keys[at[inside] + step] == ordered[inside]]
            if not len(equal):
                break
            found.append(order[equal])
            places.append(at[equal] + step)
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(found), np.concatenate(places)


def write_index(
    path: Path, kind: str, settings: Mapping[str, Any], n_documents: int, arrays: Iterable[tuple[str, Array]]
) -> None:
    """Write an index folder whole or not at all; an older one at the place is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        files = {}
        for name, array in arrays:
            array.tofile(scratch / name)
            files[name] = {"type": array.dtype.str, "length": len(array), "xxh3": _checksum(scratch / name)}
        told = {"kind": kind, "version": _VERSION, "settings": settings, "n_documents": n_documents, "files": files}
        (scratch / "index.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
        if path.exists():
            shutil.rmtree(path)
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def merge_indexes(paths: Sequence[str | Path], out: Path) -> None:
    """One index of all documents of several, of one kind and the same settings, one file in memory at a time."""
    indexes = [Index.open(path) for path in paths]
    if not indexes:
        raise AthanorError("no index to merge", fix="name at least one")
    first = indexes[0]
    for path in paths[1:]:
        Index.open(path, first.kind, first.settings)
    begins = np.cumsum([0, *(index.n_documents for index in indexes)])

    def merged() -> Iterable[tuple[str, Array]]:
        for name in first.files:
            kind, _, band = name.partition("-")
            if kind in ("rows", "check"):
                continue  # written with the keys they belong to
            whole = np.concatenate([index.array(name) for index in indexes])
            if kind != "keys":
                yield name, whole
                continue
            order = np.argsort(whole, kind="stable")
            yield name, whole[order]
            if f"rows-{band}" in first.files:
                rows = [i.array(f"rows-{band}").astype(np.uint64) + np.uint64(b) for i, b in zip(indexes, begins)]  # noqa: B905
                yield f"rows-{band}", np.concatenate(rows)[order].astype(np.uint32)
            if f"check-{band}" in first.files:
                yield f"check-{band}", np.concatenate([i.array(f"check-{band}") for i in indexes])[order]

    write_index(out, first.kind, first.settings, int(begins[-1]), merged())


def _located(path: Path, kind: str | None) -> Path:
    """The folder itself, or the one index of this kind inside it (an earlier build's work folder)."""
    if (path / "index.json").exists() or not path.is_dir():
        return path
    found = [file.parent for file in sorted(path.rglob("index.json")) if kind in (_kind(file), None)]
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in found)
        raise AthanorError(f"several indexes below this folder: {names}", where=str(path), fix="name one of them")
    return found[0] if found else path


def _kind(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text("utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _checksum(path: Path) -> str:
    import xxhash

    digest = xxhash.xxh3_64()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return "missing"
    return digest.hexdigest()

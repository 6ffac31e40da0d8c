"""Paths, folders, globs and URLs → the files to read, each under a name that does not depend on where it lies."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from athanor.data.types import Dropped
from athanor.errors import AthanorError

_TEXT_NAMES = """
txt text md markdown rst org csv tsv json yaml yml toml ini cfg proto css
py pyi c h cc cpp cxx hpp cu cuh java kt scala go rs cs swift js jsx ts tsx rb php pl lua r jl m hs ml ex erl clj
lisp el sh bash ps1 bat sql cmake mk vim zig dart nim groovy gradle sv vhd f90 pas asm lean tf graphql vue svelte scss
less mjs cjs fs elm rkt scm sol thrift
"""
#: Files of source trees that have no extension.
BARE_NAMES = frozenset(["readme", "makefile", "dockerfile", "rakefile", "gemfile"])
#: Plain text, read as it is.
PLAIN_SUFFIXES = frozenset(f".{name}" for name in _TEXT_NAMES.split())
#: Documents with a structure, which an extractor reads.
STRUCTURED_SUFFIXES = frozenset(
    [
        ".html", ".htm", ".xhtml", ".xml", ".nxml", ".jats", ".epub", ".pdf", ".docx", ".docm", ".pptx", ".pptm",
        ".xlsx", ".xlsm", ".xls", ".tex", ".ltx", ".ipynb",
    ]
)  # fmt: skip
#: Files of rows or records, each of which is a document.
CONTAINER_SUFFIXES = frozenset([".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc", ".warc", ".tar", ".tgz"])
#: Extensions that a folder is searched for, also with .gz or .zst behind them. A file named outright is tried
#: whatever its extension.
READ_SUFFIXES = PLAIN_SUFFIXES | STRUCTURED_SUFFIXES | CONTAINER_SUFFIXES
COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read and the name its documents carry: its path below the folder or glob that was given.

    ``path`` is a ``Path``, or the URL as text for a file in an object store.
    """

    path: Path | str
    name: str


def is_url(path: str | Path) -> bool:
    """Whether it names a file by a URL (``s3://…``, ``memory://…``, ``https://…``)."""
    scheme, mark, _ = str(path).partition("://")
    return bool(mark) and scheme.replace("+", "").replace("-", "").replace(":", "").isalnum()


def open_bytes(path: Path | str) -> IO[bytes]:
    """A local file or one behind a URL, for reading. ``OSError`` where that fails."""
    if not is_url(path):
        return open(path, "rb")
    store, inside = filesystem(str(path))
    found: IO[bytes] = store.open(inside, "rb")
    return found


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec file system, path inside it) of a URL; ``AthanorError`` where its driver is missing."""
    import fsspec

    try:
        store, inside = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise AthanorError(f"no driver for this URL: {error}", where=url, fix="pip install what it names") from None
    return store, str(inside)


def stamp(file: InputFile) -> tuple[int, float | str]:
    """(bytes, time of change) of a file: what tells that it is still the same."""
    if not is_url(file.path):
        stat = Path(file.path).stat()
        return stat.st_size, stat.st_mtime_ns
    store, inside = filesystem(str(file.path))
    info = store.info(inside)
    changed = info.get("mtime") or info.get("LastModified") or info.get("created") or info.get("ETag") or 0
    return int(info.get("size") or 0), changed if isinstance(changed, (int, float)) else str(changed)


def expand(paths: Sequence[str | Path]) -> tuple[list[InputFile], list[Dropped]]:
    """Files, folders (recursive), globs and URLs → files in a fixed order, and what a folder holds that is not read.

    Names do not depend on where the folder lies. ``AthanorError`` for a path, glob or URL that matches nothing.
    """
    files: list[InputFile] = []
    dropped: list[Dropped] = []
    seen: set[str] = set()
    names: set[str] = set()
    for given in paths:
        for path, found, reason in _remote(str(given)) if is_url(given) else _matches(given):
            name = found.encode("utf-8", "backslashreplace").decode()  # a file's name need not be UTF-8; its ids must
            place = path if isinstance(path, str) else str(path.resolve())
            if not reason and place in seen:
                reason = "listed twice"
            if reason:
                dropped.append(Dropped(name, reason))
                continue
            seen.add(place)
            unique, n = name, 1
            while unique in names:
                n += 1
                unique = f"{name}~{n}"
            names.add(unique)
            files.append(InputFile(path, unique))
    return files, dropped


_Match = tuple[Path | str, str, str | None]


def _matches(given: str | Path) -> Iterator[_Match]:
    """(path, name, reason not to read it) of one path argument."""
    text = os.path.expanduser(str(given))
    path = Path(text)
    if path.is_dir():
        yield from _walk(path)
    elif path.exists():
        yield path, path.name, None
    elif glob.has_magic(text):
        found = sorted(glob.glob(text, recursive=True))
        if not found:
            raise AthanorError("no file matches", where=str(given), fix="check the glob")
        root = Path(text[: _magic_start(text)] + "x").parent
        for match in map(Path, found):
            if match.is_file():
                yield match, match.relative_to(root).as_posix(), None
    else:
        raise AthanorError("no such file or folder", where=str(given), fix="check the path in the recipe")


def _magic_start(text: str) -> int:
    return min(text.find(c) for c in "*?[" if c in text)


def _walk(root: Path) -> Iterator[_Match]:
    base = root.resolve().name
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        here = Path(folder)
        for sub in list(subfolders):
            if sub.startswith(".") or (here / sub).is_symlink():
                subfolders.remove(sub)
                kind = "hidden folder" if sub.startswith(".") else "linked folder"
                yield here / sub, f"{base}/{(here / sub).relative_to(root).as_posix()}/", kind
        for file in sorted(names):
            path = here / file
            reason = unread_reason(file)
            if reason is None and not path.is_file():
                reason = "not a regular file"
            yield path, f"{base}/{path.relative_to(root).as_posix()}", reason


def unread_reason(name: str) -> str | None:
    """Why a folder's file of that name is not read, None where it is."""
    if name.startswith("."):
        return "hidden file"
    known = inner_suffix(name) in READ_SUFFIXES or name.lower() in BARE_NAMES
    return None if known else f"extension not read: {Path(name).suffix or 'none'}"


def inner_suffix(name: str) -> str:
    """The extension without ``.gz`` and ``.zst``, in small letters: ``.jsonl`` of ``a.JSONL.gz``."""
    lowered = name.lower()
    for packed in COMPRESSED:
        lowered = lowered.removesuffix(packed)
    return posixpath.splitext(posixpath.basename(lowered))[1]


def _remote(url: str) -> Iterator[_Match]:
    """(URL, name, reason not to read it) of a file, folder or glob behind a URL."""
    store, inside = filesystem(url)
    scheme = url.partition("://")[0]
    try:
        if glob.has_magic(inside) and scheme not in ("http", "https"):
            found = sorted(p for p in store.glob(inside) if not store.isdir(p))
            root = posixpath.dirname(inside[: _magic_start(inside)] + "x")
            base = ""
        elif store.isfile(inside):
            yield url, posixpath.basename(inside.split("?")[0].rstrip("/")) or url, None
            return
        elif store.isdir(inside):
            found, root = sorted(store.find(inside)), inside.rstrip("/")
            base = posixpath.basename(root) + "/" if posixpath.basename(root) else ""
        else:
            found, root, base = [], "", ""
    except (OSError, ValueError, ImportError) as error:
        raise AthanorError(f"cannot be listed: {error}", where=url, fix="check the URL and access to it") from None
    if not found:
        raise AthanorError("no file matches", where=url, fix="check the URL")
    for path in found:
        inner = posixpath.relpath(path, root) if root else path.lstrip("/")
        hidden = any(part.startswith(".") for part in inner.split("/"))
        reason = ("hidden file" if hidden else unread_reason(posixpath.basename(path))) if base else None
        yield store.unstrip_protocol(path), base + inner, reason

"""From measures to reasons: which documents a rule applies to, what it says of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from athanor.data.steps.base import Columns, Docs

Mask = npt.NDArray[np.bool_]
Figures = npt.NDArray[np.float64]


class Rules:
    """Reasons of a batch, the first rule that a document breaks being the one named.

    Figures are float64 with NaN where a document was not measured: it breaks no rule.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._reasons: list[str | None] | None = None

    def figures(self, name: str) -> Figures:
        """A column as float64, NaN for null."""
        values = self._columns[name]
        return np.asarray(pa.array(values).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

    def above(self, name: str, limit: float | None, reason: str, unit: str = "") -> None:
        """Drops what measures more than ``limit``; None: no such rule."""
        if limit is not None:
            self._drop(values := self.figures(name), values > limit, reason, unit)

    def below(self, name: str, limit: float | None, reason: str, unit: str = "") -> None:
        """Drops what measures less than ``limit``; None: no such rule."""
        if limit is not None:
            self._drop(values := self.figures(name), values < limit, reason, unit)

    def flagged(self, mask: Mask, reason: Callable[[int], str]) -> None:
        """Drops the documents of the mask; ``reason`` is asked for each by its row."""
        reasons = self.reasons(len(mask))
        for i in np.flatnonzero(mask).tolist():
            if reasons[i] is None:
                reasons[i] = reason(i)

    def reasons(self, n_docs: int) -> list[str | None]:
        """One reason or None for each document."""
        if self._reasons is None:
            self._reasons = [None] * n_docs
        return self._reasons

    def _drop(self, values: Figures, broken: Mask, reason: str, unit: str) -> None:
        self.flagged(broken, lambda i: f"{reason}: {values[i]:.4g}{' ' + unit if unit else ''}")


def on_subset(
    docs: Docs, chosen: Mask, measure: Callable[[Docs], Columns], fields: Mapping[str, pa.DataType]
) -> dict[str, pa.Array]:
    """Measures of the chosen documents alone, null for the others, in the types of ``fields``."""
    if chosen.all():
        found = measure(docs)
        return {name: pa.array(found[name], type=kind) for name, kind in fields.items()}
    if not chosen.any():
        return {name: pa.nulls(len(docs), kind) for name, kind in fields.items()}
    found = measure(docs.take(chosen))
    rows = pa.array(np.where(chosen, np.cumsum(chosen) - 1, 0), mask=~chosen)
    return {name: pa.array(found[name], type=kind).take(rows) for name, kind in fields.items()}


def share(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Figures:
    """part / whole in float64; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part), dtype=np.float64), where=np.asarray(whole) != 0)


def outside(docs: Docs, names: Collection[str], column: str = "domain") -> Mask:
    """Which documents belong to none of these domains (or sources)."""
    return np.array([name not in names for name in docs.column(column)], dtype=bool)


#: Where the file's name may stand in a document's meta.
_PATH_KEYS = ("path", "file", "filename", "name")


#: Formats of documents that are a whole file as it stands: their id is its path below the folder that was read.
_WHOLE_FILES = frozenset(["code", "text", "markdown", "ipynb"])
_NOT_IN_NAMES = re.compile(r"(?:\.(?:gz|zst))?(?:~\d+)?$")


def paths(docs: Docs) -> list[str]:
    """The path of the file each document was, from its meta or, of a file read whole, its id; "" where none is told."""
    return [_path(meta, name) for meta, name in zip(docs.column("meta"), docs.column("id"), strict=True)]


def _path(meta: str | None, name: str) -> str:
    if not meta or meta == "{}":
        return ""
    try:
        found = json.loads(meta)
    except ValueError:
        return ""
    if not isinstance(found, Mapping):
        return ""
    own = _NOT_IN_NAMES.sub("", name) if found.get("format") in _WHOLE_FILES else ""
    return next((str(found[key]) for key in _PATH_KEYS if isinstance(found.get(key), str)), own)


def suffix(path: str) -> str:
    """The last suffix of a path, lower case, without its dot."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return name[dot + 1 :].lower() if dot > 0 else ""

"""What happened to the documents, counted so that the order of parts does not matter."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from athanor.data.steps.base import Docs

#: Samples kept of each reason, and of what each step kept and edited.
SAMPLES = 6
_EXCERPT = 600

#: documents in, bytes in, documents out, bytes out
Flow = list[int]


class Tally:
    """Counts and samples by step. ``merge`` is commutative: sums, and the samples of the smallest hashes."""

    def __init__(self) -> None:
        #: step → "source\tdomain\tlanguage" (as they came in) → flow
        self.flows: dict[str, dict[str, Flow]] = {}
        #: step → reason (before its colon) → [documents, bytes]
        self.reasons: dict[str, dict[str, list[int]]] = {}
        #: step → [documents edited, bytes taken out (negative: put in)]
        self.edited: dict[str, list[int]] = {}
        self.cpu_s: dict[str, float] = {}
        #: step → "dropped: reason" / "kept" / "edited" → samples
        self.samples: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def step(self, name: str, before: Docs, after: Docs, reasons: Sequence[str | None], cpu_s: float) -> None:
        """Count one step on one batch; ``after`` has the new texts of all, the dropped ones too."""
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + cpu_s
        keep = np.array([reason is None for reason in reasons], dtype=bool)
        was, now = before.n_bytes, after.n_bytes
        self._flow(name, before, after, keep)
        counts = self.reasons.setdefault(name, {})
        for at in np.flatnonzero(~keep).tolist():
            entry = counts.setdefault(phrase(reasons[at]), [0, 0])
            entry[0] += 1
            entry[1] += int(was[at])
        changed = self._changed(before, after, keep)
        if changed.size:
            entry = self.edited.setdefault(name, [0, 0])
            entry[0] += len(changed)
            entry[1] += int((was[changed] - now[changed]).sum())
        self._sample(name, before, after, reasons, keep, changed)

    def _flow(self, name: str, before: Docs, after: Docs, keep: npt.NDArray[np.bool_]) -> None:
        flows = self.flows.setdefault(name, {})
        sources, domains = before.column("source"), before.column("domain")
        labels = zip(sources, domains, before.column("language"), after.column("language"), strict=True)
        was, now = before.n_bytes.tolist(), after.n_bytes.tolist()
        for at, (source, domain, language, new_language) in enumerate(labels):
            entry = flows.setdefault(f"{source}\t{domain}\t{language}", [0, 0, 0, 0])
            entry[0] += 1
            entry[1] += was[at]
            if keep[at]:
                entry = flows.setdefault(f"{source}\t{domain}\t{new_language}", [0, 0, 0, 0])
                entry[2] += 1
                entry[3] += now[at]

    @staticmethod
    def _changed(before: Docs, after: Docs, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        if after.table.column("text") is before.table.column("text"):
            return np.zeros(0, dtype=np.int64)
        import pyarrow.compute as pc

        differ = pc.not_equal(before.table.column("text"), after.table.column("text"))
        return np.flatnonzero(np.asarray(differ.to_numpy(zero_copy_only=False)) & keep)

    def _sample(
        self,
        name: str,
        before: Docs,
        after: Docs,
        reasons: Sequence[str | None],
        keep: npt.NDArray[np.bool_],
        changed: npt.NDArray[np.int64],
    ) -> None:
        ids, sources = before.column("id"), before.column("source")
        text, fresh = before.table.column("text"), after.table.column("text")
        groups = self.samples.setdefault(name, {})
        edited = set(changed.tolist())
        for at, reason in enumerate(reasons):
            kind = "edited" if at in edited else "kept" if keep[at] else f"dropped: {phrase(reason)}"
            ranked = groups.setdefault(kind, [])
            rank = hashlib.blake2b(f"{name}\t{sources[at]}\t{ids[at]}".encode(), digest_size=8).hexdigest()
            if len(ranked) >= SAMPLES and rank >= ranked[-1]["rank"]:
                continue
            sample = {"rank": rank, "id": ids[at], "source": sources[at], "reason": reason}
            whole = text[at].as_py()
            sample["text"] = excerpt(whole)
            if kind == "edited":
                sample["text"], sample["after"] = around_change(whole, fresh[at].as_py())
            groups[kind] = sorted([*ranked, sample], key=_rank)[:SAMPLES]

    def merge(self, other: Tally) -> None:
        """Add another tally to this one."""
        for mine, theirs in ((self.flows, other.flows), (self.reasons, other.reasons)):
            for name, groups in theirs.items():
                for label, values in groups.items():
                    _add(mine.setdefault(name, {}), label, values)
        for name, values in other.edited.items():
            _add(self.edited, name, values)
        for name, cpu_s in other.cpu_s.items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + cpu_s
        for name, kinds in other.samples.items():
            for kind, samples in kinds.items():
                ranked = self.samples.setdefault(name, {})
                ranked[kind] = heapq.nsmallest(SAMPLES, [*ranked.get(kind, []), *samples], key=_rank)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that ``of`` reads."""
        return dict(vars(self))

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Tally:
        """The tally that ``to_json`` gave."""
        tally = cls()
        vars(tally).update(value)
        return tally

    @classmethod
    def total(cls, values: Iterable[Mapping[str, Any]]) -> Tally:
        """All tallies together."""
        tally = cls()
        for value in values:
            tally.merge(cls.of(value))
        return tally


def phrase(reason: str | None) -> str:
    """A reason without its figures."""
    return (reason or "").split(":")[0]


def excerpt(text: str, limit: int = _EXCERPT) -> str:
    """The beginning of a text, its cut marked."""
    return text if len(text) <= limit else text[:limit] + " …"


def around_change(before: str, after: str, limit: int = _EXCERPT // 2) -> tuple[str, str]:
    """Both texts from a little before their first difference on."""
    same = next(
        (at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, same - 60)
    lead = "… " if start else ""
    return lead + excerpt(before[start:], limit), lead + excerpt(after[start:], limit)


def _rank(sample: Mapping[str, Any]) -> str:
    return str(sample["rank"])


def _add(into: dict[str, list[int]], label: str, values: Sequence[int]) -> None:
    mine = into.setdefault(label, [0] * len(values))
    into[label] = [a + b for a, b in zip(mine, values, strict=True)]

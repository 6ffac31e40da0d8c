"""The curation pipeline from end to end: read → steps, with comparisons between → corpus and report.

Everything is kept below ``OUT/work`` under names that say what it depends on, so the second build with other thresholds
reads nothing again and measures only what it had not measured.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from athanor import __version__
from athanor.data.pipeline import compare, ingest, output, own_ids, segment
from athanor.data.pipeline.engine import Failures, run_jobs
from athanor.data.pipeline.ingest import Unit
from athanor.data.pipeline.jobs import Context, Job, ReadJob, SortJob, WorkJob, WriteJob, forget
from athanor.data.pipeline.layout import Part
from athanor.data.pipeline.segment import Chain
from athanor.data.pipeline.show import Bars
from athanor.data.pipeline.tally import Tally, phrase
from athanor.data.types import Dropped
from athanor.errors import AthanorError
from athanor.files import digest, read_json, write_json
from athanor.recipe.schema import Recipe

WORK = "work"
#: What a build leaves for those who look into it (``athanor data inspect|sample``).
MANIFEST = "pipeline.json"


@dataclass
class _Reading:
    """What the sources gave."""

    units: list[Unit]
    ignored: dict[str, list[Dropped]]
    parts: list[Part] = field(default_factory=list)
    by_source: dict[str, dict[str, Any]] = field(default_factory=dict)


class Pipeline:
    """One build. ``run`` does it and returns the report; run again after a stop, it goes on."""

    def __init__(self, recipe: Recipe, out: Path, say: Callable[[str], None]) -> None:
        self.recipe, self.out, self._say = recipe, out, say
        self.failures: Failures = {}
        self._context = Context(recipe.model_dump_json(), str((out / WORK).resolve()), "", __version__)
        self._bars = Bars(say)
        forget()

    def run(self) -> dict[str, Any]:
        """Read, work, compare, write. The report is a JSON value; ``AthanorError`` when nothing at all remains."""
        started = time.monotonic()
        units, ignored = ingest.find_units(self.recipe)
        reading = _Reading(units, ignored)
        with self._bars:
            self._read(reading)
            tallies, comparisons = self._work(reading)
            written = self._write(reading)
            chain = self._context.chain
            parts, work = reading.parts, self.out / WORK
            figures = compare.final_figures(self._context.layout, chain, parts, work) if parts else {}
        report = self._report(reading, tallies, comparisons, figures, written)
        report["wall_s"] = round(time.monotonic() - started, 3)
        if not any(entry["out"]["train"]["documents"] for entry in report["sources"].values()):
            raise _nothing_left(report)
        return report

    def _do(self, title: str, jobs: Sequence[Job]) -> None:
        data = self.recipe.data
        with self._bars.stage(title) as tick:
            failed = run_jobs(self._context, jobs, engine=data.engine, workers=data.workers, tick=tick)
        for name, why in failed.items():
            self._say(f"failed: {name}: {why}")
        self.failures |= failed

    def _read(self, reading: _Reading) -> None:
        self._do("reading", [ReadJob(unit) for unit in reading.units])
        layout = self._context.layout
        for name in self.recipe.data.sources:
            entry: dict[str, Any] = {"documents": 0, "n_bytes": 0, "dropped": {}, "examples": [], "formats": {}}
            entry["cpu_s"] = 0.0
            for item in reading.ignored.get(name, []):
                _count_drops(entry, {phrase(item.reason): 1}, [{"id": item.id, "reason": item.reason}])
            for unit in (u for u in reading.units if u.source == name and ingest.is_read(layout, u)):
                found = ingest.unit_report(layout, unit)
                for key in ("documents", "n_bytes", "cpu_s"):
                    entry[key] += getattr(found, key)
                _count_drops(entry, found.dropped, found.examples)
                for kind, n in found.formats.items():
                    entry["formats"][kind] = entry["formats"].get(kind, 0) + n
                reading.parts += [Part(name, part) for part in found.parts]
            entry["own_ids"] = own_ids.repeated(layout, [part for part in reading.parts if part.source == name])
            reading.by_source[name] = entry
        reading.parts.sort()
        self._context = self._context.of(self._inputs(reading.parts))

    def _inputs(self, parts: Sequence[Part]) -> str:
        """What a comparison over all documents depends on beside the steps."""
        return digest([[part.path for part in parts], earlier_builds(self.recipe)])

    def _work(self, reading: _Reading) -> tuple[Tally, list[dict[str, Any]]]:
        comparisons = self._segments(reading)
        while comparisons is None:
            comparisons = self._segments(reading)
        context = self._context
        layout, chain = context.layout, context.chain
        states = [
            layout.state(chain.keys.state(one), part, ".json") for one in chain.segments for part in reading.parts
        ]
        tally = Tally.total(read_json(path) for path in states)
        for found in comparisons:
            tally.cpu_s[found["step"]] = tally.cpu_s.get(found["step"], 0.0) + found["cpu_s"]
        return tally, comparisons

    def _segments(self, reading: _Reading) -> list[dict[str, Any]] | None:
        """Work all segments, compare between them; None after a failure: begin again without the parts that failed.

        Comparisons and what follows them are named by the parts that were compared, so the other parts' are redone
        (their measures are not); a later build, in which nothing fails, finds its own again.
        """
        layout, chain = self._context.layout, self._context.chain
        comparisons: list[dict[str, Any]] = []
        for number, one in enumerate(chain.segments if reading.parts else []):
            titles = [chain.steps[at].name for at in one.steps]
            if one.last is not None:
                titles.append(f"{chain.steps[one.last].name} (measuring)")
            self._do(", ".join(titles) or "checking", [WorkJob(number, part) for part in reading.parts])
            done = [part for part in reading.parts if segment.is_worked(layout, chain, number, part)]
            if len(done) < len(reading.parts):
                reading.parts = done
                self._context = self._context.of(self._inputs(done))
                return None
            if one.last is not None:
                comparisons.append(compare.compare(layout, chain, number, done, self._say))
        return comparisons

    def _write(self, reading: _Reading) -> dict[str, dict[str, dict[str, int]]]:
        context = self._context
        self._do("sorting", [SortJob(part) for part in reading.parts])
        is_sorted = [p for p in reading.parts if output.sorted_path(context.layout, context.chain, p).is_file()]
        by_source = {name: tuple(p for p in is_sorted if p.source == name) for name in self.recipe.data.sources}
        ranges = {name: output.n_ranges(reading.by_source[name]["n_bytes"]) for name in by_source}
        self._do(
            "writing",
            [
                WriteJob(name, parts, at, ranges[name])
                for name, parts in by_source.items()
                for at in range(ranges[name])
            ],
        )
        layout, chain = context.layout, context.chain
        return {
            name: output.join_ranges(layout, chain, name, parts, ranges[name], self.out)
            for name, parts in by_source.items()
        }

    def _report(
        self,
        reading: _Reading,
        tally: Tally,
        comparisons: list[dict[str, Any]],
        figures: dict[str, Any],
        written: dict[str, dict[str, dict[str, int]]],
    ) -> dict[str, Any]:
        chain: Chain = self._context.chain
        sources = {}
        for name, entry in reading.by_source.items():
            sources[name] = {
                "documents_in": entry["documents"] + sum(entry["dropped"].values()),
                "bytes_in": entry["n_bytes"],
                "read": entry,
                "out": written[name],
                "notes": _notes(entry, written[name]),
            }
        figures |= {found["step"]: found["figures"] for found in comparisons if found["figures"]}
        return {
            "sources": sources,
            "steps": [{"name": step.name, "options": step.options.model_dump(mode="json")} for step in chain.steps],
            "tally": tally.to_json(),
            "figures": figures,
            "failures": self.failures,
        }

    def manifest(self) -> dict[str, Any]:
        """What ``browse`` needs to find texts, measures and drops again."""
        context = self._context
        return {"recipe": self.recipe.model_dump(mode="json"), "inputs": context.inputs, "version": context.version}


def earlier_builds(recipe: Recipe) -> list[Any]:
    """Names, sizes and times of the index files of earlier builds that steps compare with."""
    folders = sorted({str(folder) for step in recipe.data.steps for folder in getattr(step, "against", ())})
    files = (file for folder in folders for file in sorted(Path(folder).rglob("*")) if file.is_file())
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _count_drops(entry: dict[str, Any], dropped: dict[str, int], examples: list[dict[str, str]]) -> None:
    for reason, n in dropped.items():
        entry["dropped"][reason] = entry["dropped"].get(reason, 0) + n
    shown = Counter(phrase(example["reason"]) for example in entry["examples"])
    for example in examples:
        shown[phrase(example["reason"])] += 1
        if shown[phrase(example["reason"])] <= ingest.EXAMPLES:
            entry["examples"].append(example)


def _notes(read: Mapping[str, Any], written: Mapping[str, Mapping[str, int]]) -> list[str]:
    notes = [] if written["train"]["documents"] else ["nothing of this source remains"]
    own = read["own_ids"]
    if own["repeated"]:
        notes.append(
            f"{own['repeated']:,} of {own['documents']:,} documents have an id of their own that another has too "
            f"({', '.join(own['examples'])}); they are told apart by file and row"
        )
    return notes


def _nothing_left(report: dict[str, Any]) -> AthanorError:
    lines = [f"\n    failed: {name}: {why}" for name, why in report["failures"].items()][:5]
    for name, source in report["sources"].items():
        for example in source["read"]["examples"][:5]:
            lines.append(f"\n    {name}: {example['id']}: {example['reason']}")
    for step, reasons in report["tally"]["reasons"].items():
        for reason, (documents, _) in reasons.items():
            lines.append(f"\n    {step} dropped {documents:,}: {reason}")
    return AthanorError(
        f"empty corpus: nothing remains of any source{''.join(lines)}",
        where="data.steps",
        fix="looser thresholds (measures are kept, so another try is quick), or other sources",
    )


def build(recipe: Recipe, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the pipeline; write ``report.json``, ``report.html`` and the manifest; return the report.

    The caller marks the directory as finished, and only when ``failures`` is empty.
    """
    from athanor.data.pipeline.page import write_page

    pipeline = Pipeline(recipe, out, say)
    report = pipeline.run()
    write_json(out / "report.json", report)
    write_json(out / MANIFEST, pipeline.manifest())
    write_page(report, recipe.name, out / "report.html")
    output.clean_up(pipeline._context.layout)
    return report

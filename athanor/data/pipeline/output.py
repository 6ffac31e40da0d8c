"""Writing the corpus: each source sorted by content key, so that neither input order nor parts show in it.

Parts are sorted one by one, then ranges of keys are merged from all parts: memory is that of one range. A range is
written as whole zstd frames, and frames one after the other are the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from athanor.data.pipeline.compare import measure
from athanor.data.pipeline.layout import SHORT, Layout, Part
from athanor.data.pipeline.segment import Chain, load_alive
from athanor.data.types import SPLITS, Document
from athanor.files import atomic_path, digest, read_json, write_atomic, write_json

#: Text in one key range.
RANGE_BYTES = 16_000_000
_GROUP_ROWS = 256
_FIGURES = 6
#: Which form the finished documents' meta has: an output folder of another form is written anew, not mixed with this.
_META_FORM = "declared"


def _final_key(chain: Chain) -> str:
    """Name of the finished documents: the last state and what of the measures they carry."""
    exports = [[step.name, *step.exports] for step in chain.steps if step.exports]
    return digest([_META_FORM, chain.keys.state(chain.segments[-1]), chain.keys.measures, exports])[:SHORT]


def sorted_path(layout: Layout, chain: Chain, part: Part) -> Path:
    """Where a part's finished documents stand, sorted by key."""
    return layout.root / "sorted" / _final_key(chain) / f"{part.path}.parquet"


def frame_path(layout: Layout, chain: Chain, parts: Sequence[Part], number: int, of: int, ending: str) -> Path:
    """Where one key range of a source stands; named by the parts it was made of, as some may have failed."""
    key = digest([_final_key(chain), [part.path for part in parts]])[:SHORT]
    return layout.root / "frames" / key / f"{number:05d}-of-{of:05d}{ending}"


def sort_part(layout: Layout, chain: Chain, part: Part) -> None:
    """Finished documents of a part (key, line of JSON), sorted by key, in small row groups that keep key ranges."""
    last = len(chain.segments) - 1
    alive = load_alive(layout, chain, last, part)
    docs = alive.docs
    carried = _carried(layout, chain, last, part)
    columns = [docs.column(name) for name in ("id", "text", "domain", "language", "meta")]
    rows = []
    for at, (origin, text, domain, language, meta) in enumerate(zip(*columns, strict=True)):
        known = _with_measures(json.loads(meta), {name: values[at] for name, values in carried.items()})
        known["origin"] = origin
        rows.append((docs.keys[at], origin, text, domain, language, json.dumps(known, ensure_ascii=False)))
    rows.sort()
    names = ("key", "origin", "text", "domain", "language", "meta")
    kinds = (pa.string(), pa.string(), pa.large_string(), pa.string(), pa.string(), pa.string())
    values = list(zip(*rows, strict=True)) or [()] * len(names)
    table = pa.table({n: pa.array(v, type=k) for n, v, k in zip(names, values, kinds, strict=True)})
    with atomic_path(sorted_path(layout, chain, part)) as tmp:
        pq.write_table(table, tmp, compression="zstd", row_group_size=_GROUP_ROWS)


def _with_measures(own: dict[str, Any], measures: dict[str, Any]) -> dict[str, Any]:
    """A document's own meta and its measures; what a measure of the same name would hide stays as ``declared_NAME``.

    A generated task says ``difficulty: 4`` of 1–5, which the text's measure (0 … 1) is no substitute for. A declaration
    that an earlier build has put aside is kept: what stands under the bare name then is that build's measure.
    """
    declared = {f"declared_{n}": own[n] for n, value in measures.items() if own.get(n) is not None and own[n] != value}
    return {**declared, **own, **measures}


def _carried(layout: Layout, chain: Chain, last: int, part: Part) -> dict[str, list[Any]]:
    """Measures that finished documents carry in their meta."""
    key = chain.keys.state(chain.segments[last])
    carried: dict[str, list[Any]] = {}
    for number, step in enumerate(chain.steps):
        for name in step.exports:
            values = measure(layout, chain, number, name, key, part).to_pylist()
            carried[name] = [round(v, _FIGURES) if isinstance(v, float) else v for v in values]
    return carried


def n_ranges(n_bytes: int) -> int:
    """Into how many key ranges a source of this size is cut."""
    return max(1, -(-n_bytes // RANGE_BYTES))


def _range_of(key: str, of: int) -> int:
    return int(key[:8], 16) * of >> 32


def write_range(layout: Layout, chain: Chain, parts: Sequence[Part], number: int, of: int, holdout: float) -> None:
    """One key range of one source, of both splits, and its counts."""
    from athanor.data.build import is_held_out

    rows = sorted(row for part in parts for row in _rows_in(sorted_path(layout, chain, part), number, of))
    counts: dict[str, dict[str, int]] = {split: {"documents": 0, "bytes": 0} for split in SPLITS}
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    again = 0
    previous = ""
    for key, _, text, domain, language, meta in rows:
        again = again + 1 if key == previous else 0
        previous = key
        split = "valid" if is_held_out(key, holdout) else "train"
        name = f"{key}~{again + 1}" if again else key
        lines[split].append(to_line(Document(name, text, domain, language, json.loads(meta))))
        counts[split]["documents"] += 1
        counts[split]["bytes"] += len(text.encode())
    for split in SPLITS:
        write_atomic(frame_path(layout, chain, parts, number, of, f".{split}.zst"), _frame(lines[split]))
    write_json(frame_path(layout, chain, parts, number, of, ".json"), counts)


def _rows_in(path: Path, number: int, of: int) -> Iterator[tuple[str, ...]]:
    """Rows of a sorted part whose keys fall into a range; other row groups are not read."""
    file = pq.ParquetFile(path)
    for group in range(file.metadata.num_row_groups):
        keys = file.metadata.row_group(group).column(0).statistics
        if keys is None or not keys.has_min_max:  # no rows
            continue
        if not _range_of(keys.min, of) <= number <= _range_of(keys.max, of):
            continue
        table = file.read_row_group(group, use_threads=False)
        for row in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
            if _range_of(row[0], of) == number:
                yield row


def to_line(document: Document) -> str:
    """A document as one line of a corpus file."""
    fields = {name: getattr(document, name) for name in ("id", "text", "domain", "language", "meta")}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _frame(lines: Sequence[str]) -> bytes:
    if not lines:
        return b""
    return zstandard.ZstdCompressor(level=3).compress("".join(lines).encode())


def join_ranges(
    layout: Layout, chain: Chain, source: str, parts: Sequence[Part], of: int, out: Path
) -> dict[str, dict[str, int]]:
    """The corpus files of one source from the ranges that were written; returns documents and bytes by split."""
    counts: dict[str, dict[str, int]] = {split: {"documents": 0, "bytes": 0} for split in SPLITS}
    written = [n for n in range(of) if frame_path(layout, chain, parts, n, of, ".json").is_file()]
    for number in written:
        found = read_json(frame_path(layout, chain, parts, number, of, ".json"))
        for split in SPLITS:
            for name, value in found[split].items():
                counts[split][name] += value
    targets: dict[str, str] = {split: split for split in SPLITS}
    if not counts["train"]["documents"]:
        # A handful of documents can all fall on the validation side; training comes first.
        targets = {"train": "valid", "valid": "train"}
        counts = {"train": counts["valid"], "valid": counts["train"]}
    for side, taken in targets.items():
        with atomic_path(out / source / f"{side}.jsonl.zst") as tmp, open(tmp, "wb") as joined:
            for number in written:
                with open(frame_path(layout, chain, parts, number, of, f".{taken}.zst"), "rb") as frame:
                    shutil.copyfileobj(frame, joined)
            if not joined.tell():
                joined.write(zstandard.ZstdCompressor().compress(b""))
    return counts


def clean_up(layout: Layout) -> None:
    """Remove what only the writing needed."""
    for name in ("sorted", "frames"):
        shutil.rmtree(layout.root / name, ignore_errors=True)

"""Peak memory of a whole build while the corpus grows tenfold: of the parent, the largest worker and all together.

    python bench/data_memory.py [--quick] [--megabytes 20] [--part-megabytes 16] [--workers 2] [--out FILE]

Generated documents of both languages, one in five a near or exact duplicate, go through the steps of a corpus recipe,
deduplication of documents, paragraphs, near duplicates and passages among them. Each build runs in processes of its
own, whose resident sets are read every 50 ms. The bar: ten times the corpus, less than twice the memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TARGET = 2.0
GROWTH = 10
#: One file of the input, and what of its documents is English.
_FILE_BYTES = 4_000_000
_STEPS: list[dict[str, Any]] = [
    {"step": "normalise"},
    {"step": "language", "languages": ["zh", "en"], "keep_unknown": True},
    {"step": "gopher"},
    {"step": "repetition"},
    {"step": "pii"},
    {"step": "exact_dedup", "by": ["document", "url", "paragraph"]},
    {"step": "minhash"},
    {"step": "substring_dedup"},
    {"step": "quality"},
]
_BUILD = """
import sys
from pathlib import Path
from athanor.data.build import build_corpus
from athanor.recipe.schema import Recipe
if __name__ == "__main__":
    build_corpus(Recipe.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2], print)
"""
Row = dict[str, Any]


def texts(n_bytes: int, seed: int) -> Iterator[str]:
    """Documents of one file: English and Chinese in halves, one in five a duplicate or near one of another."""
    from bench.data_filters import zipf_english
    from bench.dedup_texts import Writer

    english, writer = zipf_english(n_bytes // 2, seed), Writer("zh", seed)
    for number, text in enumerate(english):
        yield text
        words = writer.draw(max(20, len(text) // 5))
        chinese = writer.render(words)
        yield chinese
        if number % 5 == 0:
            yield text
            yield writer.render(writer.edited(words, 0.02))


def write_corpus(folder: Path, n_bytes: int) -> int:
    """Files of rows of about ``n_bytes`` of text; returns the bytes of text."""
    folder.mkdir(parents=True)
    written = number = 0
    while written < n_bytes:
        with open(folder / f"{number:04d}.jsonl", "w", encoding="utf-8") as file:
            for at, text in enumerate(texts(min(_FILE_BYTES, n_bytes - written), number)):
                row = {"text": text, "url": f"https://example.org/{number}/{at}"}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += len(text.encode())
        number += 1
    return written


def build(folder: Path, out: Path, workers: int, part_bytes: int) -> Row:
    """Build once; peak resident bytes of the parent, of the largest other process, and of all together."""
    import psutil

    sources = {"web": {"paths": [str(folder)], "holdout": 0.01}}
    recipe = out.with_suffix(".json")
    data = {"sources": sources, "steps": _STEPS, "workers": workers, "part_bytes": part_bytes}
    recipe.write_text(json.dumps({"data": data}))
    script = out.with_suffix(".py")  # a file, because a fork server runs the main module again
    script.write_text(_BUILD)
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, str(script), str(recipe), str(out)]
    began, peak = time.monotonic(), {"parent": 0, "worker": 0, "all": 0}
    stage, at_peak = "", {"parent": "", "worker": ""}
    log = out.with_suffix(".log")
    with open(log, "w") as told, subprocess.Popen(command, cwd=root, stdout=told, stderr=subprocess.STDOUT) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            sizes = {"parent": _resident(parent), "worker": 0}
            others = [_resident(child) for child in _children(parent)]
            sizes["worker"] = max(others, default=0)
            stage = log.read_text()[-200:].strip().rpartition("\n")[2] if sizes["parent"] > peak["parent"] else stage
            for name, size in sizes.items():
                if size > peak[name]:
                    peak[name], at_peak[name] = size, stage
            peak["all"] = max(peak["all"], sizes["parent"] + sum(others))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(log.read_text()[-2000:])
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    kept = sum(split["documents"] for split in report["sources"]["web"]["out"].values())
    return {
        "documents": report["sources"]["web"]["documents_in"],
        "kept": kept,
        "wall_s": time.monotonic() - began,
        **{f"{name}_mb": size / 1e6 for name, size in peak.items()},
        "parent_peak_after": at_peak["parent"].split(" in ")[0],  # without paths and times
    }


def _children(parent: Any) -> list[Any]:
    import psutil

    try:
        found: list[Any] = parent.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _resident(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def bars_of(rows: list[Row]) -> list[Row]:
    """How each peak grew from the first row to the last."""
    found = []
    for name in ("parent_mb", "worker_mb", "all_mb"):
        value = rows[-1][name] / rows[0][name]
        bar = f"{name}, {rows[-1]['megabytes'] / rows[0]['megabytes']:.1f} × the corpus"
        found.append({"bar": bar, "value": value, "target": TARGET, "holds": value < TARGET})
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 1 where a bar is missed."""
    from bench.common import environment, show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="0.3 and 1.2 MB; bars are printed, not judged")
    parser.add_argument("--megabytes", type=float, default=20.0, help="of the smaller corpus")
    parser.add_argument("--part-megabytes", type=float, default=16.0, help="data.part_bytes, the recipes' default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data_memory.json")
    args = parser.parse_args(arguments)
    part = 0.1 if args.quick else args.part_megabytes
    sizes = (0.3, 1.2) if args.quick else (args.megabytes, args.megabytes * GROWTH)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            folder = Path(scratch) / f"in-{size}"
            n_bytes = write_corpus(folder, int(size * 1e6))
            found = build(folder, Path(scratch) / f"out-{size:g}", args.workers, int(part * 1e6))
            rows.append({"megabytes": n_bytes / 1e6, **found})
            show("peak memory (resident, MB)", list(rows[0]), [list(row.values()) for row in rows])
    bars = bars_of(rows)
    show("bars", list(bars[0]), [list(bar.values()) for bar in bars])
    result = {"rows": rows, "bars": bars, "steps": _STEPS, "workers": args.workers, "environment": environment()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if args.quick or all(bar["holds"] for bar in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())

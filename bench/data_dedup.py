"""Deduplication and decontamination beside datatrove: speed a core, recall and precision, memory.

    python bench/data_dedup.py [--quick] [--only minhash memory exact substring decontaminate] [--shared FOLDER]

MinHash: generated English and Chinese texts with planted pairs of Jaccard similarity 0.5–1.0; the truth is the brute
force over all pairs of 5-gram sets by plain Python (words of English, characters of Chinese). Both sides take texts in
memory and leave verdicts, with their intermediate files on disk; rounds are interleaved, CPU time of this process.
``--shared`` names a folder with ``corpus`` and ``eval`` below it (real texts and benchmarks) for decontamination;
without it generated items and texts serve. Writes bench/results/data_dedup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
RESULTS = Path(__file__).with_name("results") / "data_dedup.json"


def sections() -> dict[str, Callable[..., dict[str, Any]]]:
    """The parts of the benchmark by name, each (quick, shared) → result with ``rows`` and ``bars``."""
    import bench.dedup_memory as dedup_memory
    import bench.dedup_minhash as dedup_minhash
    import bench.dedup_others as dedup_others

    return {
        "minhash": dedup_minhash.measure,
        "memory": dedup_memory.measure,
        "exact": dedup_others.exact,
        "substring": dedup_others.substring,
        "decontaminate": dedup_others.decontaminate,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the parts wanted, print their tables and the bars, write the result. 0: every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: a smoke test")
    parser.add_argument("--only", nargs="+", choices=sorted(sections()), default=sorted(sections()))
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ATHANOR_SHARED_DATA", "shared/data")))
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(argv)
    import pyarrow as pa

    from bench.common import environment, show

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    out = args.out or (None if args.quick else RESULTS)
    result: dict[str, Any] = {}
    if out is not None and out.exists():
        result = json.loads(out.read_text("utf-8"))
    for name, measure in sections().items():
        if name not in args.only:
            continue
        result[name] = {"environment": environment(1), "quick": args.quick, **measure(args.quick, args.shared)}
        for title, rows in result[name]["tables"].items():
            show(title, list(rows[0]), [list(row.values()) for row in rows])
    bars = [bar for name in sections() for bar in result.get(name, {}).get("bars", []) if name in args.only]
    if bars:
        show("bars", list(bars[0]), [list(bar.values()) for bar in bars])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0 if all(bar["met"] for bar in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())

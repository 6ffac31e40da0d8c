"""Peak memory of each comparing step on a corpus and on ten times as much (see bench/data_dedup.py).

The corpus lies on disk in parts; a process of its own runs all three phases over the first tenth or over all of it and
tells the peak of its resident memory (VmHWM of Linux).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: one measurement
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STEPS = ("minhash", "exact_dedup", "substring_dedup")


def measure(quick: bool, shared: Path) -> dict[str, Any]:
    """Rows and bars: peak at ×1 and ×10 of every step."""
    n_parts, n_docs = (1, 40) if quick else (10, 800)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        n_bytes = _write(Path(scratch), 10 * n_parts, n_docs)
        for step in STEPS:
            small, large = (_child(step, scratch, n) for n in (n_parts, 10 * n_parts))
            rows.append(
                {
                    "step": step,
                    "×1 MB": sum(n_bytes[:n_parts]) / 1e6,
                    "×10 MB": sum(n_bytes) / 1e6,
                    "×1 peak MB": small["peak_bytes"] / 1e6,
                    "×10 peak MB": large["peak_bytes"] / 1e6,
                    "ratio": large["peak_bytes"] / small["peak_bytes"],
                    "imports alone MB": small["imports_bytes"] / 1e6,
                    "×10 MB/s": sum(n_bytes) / 1e6 / large["cpu_s"],
                }
            )
    bars = [
        {"bar": f"{r['step']}: peak at ×10 ÷ ×1", "value": r["ratio"], "target": "< 2", "met": r["ratio"] < 2}
        for r in rows
    ]
    return {"tables": {"peak resident memory": rows}, "bars": bars}


def _write(folder: Path, n_parts: int, n_docs: int) -> list[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from athanor.data.steps.base import Docs
    from bench.dedup_texts import corpus_part

    sizes = []
    for number in range(n_parts):
        docs = Docs.of(corpus_part(number, n_docs))
        sizes.append(int(docs.n_bytes.sum()))
        pq.write_table(pa.Table.from_batches([docs.table]), folder / f"docs-{number:05d}.parquet", compression="zstd")
    return sizes


def _child(step: str, folder: str, n_parts: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, step, folder, str(n_parts)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _main(name: str, folder: str, n_parts: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from athanor.data.steps.base import Docs
    from athanor.data.steps.exact import ExactDedup
    from athanor.data.steps.minhash import MinhashDedup
    from athanor.data.steps.substring import SubstringDedup
    from athanor.recipe.steps import dedup
    from bench.dedup_disk import run_on_disk

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    steps = {
        "minhash": lambda: MinhashDedup(dedup.MinhashOptions()),
        "exact_dedup": lambda: ExactDedup(dedup.ExactDedupOptions(by=("document", "url", "paragraph"))),
        "substring_dedup": lambda: SubstringDedup(dedup.SubstringDedupOptions()),
    }

    def parts() -> Iterator[Docs]:
        for number in range(n_parts):
            table = pq.read_table(Path(folder) / f"docs-{number:05d}.parquet", use_threads=False)
            yield Docs(table.combine_chunks().to_batches()[0])

    imports = _peak_bytes()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as work:
        run_on_disk(steps[name](), parts, Path(work), keep=False)
    told = {"peak_bytes": _peak_bytes(), "imports_bytes": imports, "cpu_s": time.process_time() - start}
    print(json.dumps(told))


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("this system tells no VmHWM")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

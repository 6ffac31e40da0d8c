"""The loader: tokens per second and core, packing, for small and long documents, with weights and curriculum.

    python -m bench.data_loader [--quick] [--out bench/results/data_loader.json]

Generated token shards on disk, about 30 of a million tokens (read through their memory map, in the page cache), two
sources mixed 0.7 / 0.3, rows of 2,048 positions, 16 rows a call, one thread, CPU time. ``tokens/s`` is of calls that
make batches, plans of epochs included; ``with set-up`` also counts opening the loader (packing), over the tokens of one
epoch of the sources. Packing is what was counted in the batches themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data.loader import PackedLoader
from athanor.data.shards import Block, Int64s, ShardSet, ShardWriter
from athanor.recipe.mixing import OrderRecipe, WeightingRecipe
from bench.common import environment, show

SEQ, ROWS = 2048, 16
SPEED, PACKING = 5e6, 0.97
VOCAB = 50_000
WAYS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "by weight": {"weighting": WeightingRecipe(kind="document")},
    "easy to hard": {"order": OrderRecipe(kind="easy_to_hard")},
    "both": {"weighting": WeightingRecipe(kind="document"), "order": OrderRecipe(kind="easy_to_hard")},
}


def lengths(kind: str, n_tokens: int, rng: np.random.Generator) -> Int64s:
    """Document lengths of ``n_tokens`` in all: small ones of about 80 tokens, long ones of about 6,000."""
    mean = {"small": 80, "long": 6000}[kind]
    sizes = np.maximum(rng.lognormal(np.log(mean) - 0.32, 0.8, 2 * n_tokens // mean).astype(np.int64), 4)
    return sizes[: int(np.searchsorted(np.cumsum(sizes), n_tokens)) + 1]


def write(folder: Path, kind: str, n_tokens: int, seed: int) -> ShardSet:
    """Shards of random tokens with weights, difficulties and two domains."""
    rng = np.random.default_rng(seed)
    lens = lengths(kind, n_tokens, rng)
    tokens = rng.integers(2, VOCAB, int(lens.sum()), dtype=np.uint16)
    tokens[np.cumsum(lens) - 1] = 0
    measures = {"weight": rng.gamma(2.0, 0.5, len(lens)), "difficulty": rng.random(len(lens))}
    columns = {name: values.astype(np.float32) for name, values in measures.items()}
    with ShardWriter(folder, "bench", VOCAB, shard_tokens=1 << 20) as writer:
        labels = [("web", "en"), ("code", "en")]
        writer.extend(Block(tokens, lens, None, columns, labels, rng.integers(0, 2, len(lens))))
    return ShardSet.open(folder, verify=False)


def measure(sources: dict[str, ShardSet], way: dict[str, Any], n_tokens: int) -> dict[str, Any]:
    """One way of drawing over about ``n_tokens`` positions."""
    n_rows = n_tokens // (SEQ * ROWS) * ROWS
    begun = time.process_time()
    loader = PackedLoader(sources, {"a": 0.7, "b": 0.3}, SEQ, seed=0, n_rows=n_rows, **way)
    set_up_s = time.process_time() - begun
    used = 0
    begun = time.process_time()
    for at in range(0, n_rows, ROWS):
        used += sum(loader.rows(at, ROWS).meta["source_tokens"].values())
    work_s = time.process_time() - begun
    begun = time.process_time()
    seen = loader.seen(n_rows)
    account_s = time.process_time() - begun
    assert sum(seen.tokens.values()) == used
    epoch = sum(shards.n_tokens for shards in sources.values())
    return {
        "tokens_per_s": used / work_s,
        "with_set_up": epoch / (set_up_s + epoch * work_s / used),
        "set_up_s": set_up_s,
        "accounting_s": account_s,
        "packing": used / (n_rows * SEQ),
        "documents": sum(shards.n_docs for shards in sources.values()),
    }


def main() -> None:
    """Measure all cases, print the table and the bars, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small input, one round: for the smoke test")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    n_tokens, rounds = (6_000_000, 1) if args.quick else (30_000_000, args.rounds)
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("small", "long"):
            sources = {
                name: write(Path(scratch) / kind / name, kind, int(n_tokens * share), seed)
                for seed, (name, share) in enumerate({"a": 0.7, "b": 0.3}.items())
            }
            for _ in range(rounds):
                for name, way in WAYS.items():
                    cases.setdefault((kind, name), []).append(measure(sources, way, n_tokens))
    rows: list[dict[str, Any]] = []
    for (kind, name), found in cases.items():
        middle = {key: float(np.median([one[key] for one in found])) for key in found[0]}
        rows.append({"documents_are": kind, "drawn": name, **middle})
    fine = all(row["tokens_per_s"] >= SPEED and row["packing"] >= PACKING for row in rows)
    titles = ("documents", "drawn", "number", "tokens/s", "with set-up", "set-up s", "accounting s", "packing")
    keys = ("documents_are", "drawn", "documents", "tokens_per_s", "with_set_up", "set_up_s", "accounting_s", "packing")
    show("Loader, tokens per second and core", titles, [[row[key] for key in keys] for row in rows])
    print(f"bar: ≥ {SPEED / 1e6:.0f} M tokens/s a core and packing ≥ {PACKING}: {'holds' if fine else 'does not hold'}")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"environment": environment(1), "rows": rows, "bar_holds": fine}
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

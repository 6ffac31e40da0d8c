"""How evenly context parallel spreads attention: documents cut into chunks, or whole rows.

    python bench/context_balance.py --corpus ../shared/data/corpus --figure docs/img/context-balance.svg

Documents (lengths of real ones where the folder exists, and a log-normal) are packed into rows as Athanor packs them;
every row is split over cp ranks both ways by ``athanor.parallel.context.Layout``, the code that training runs. Counted,
not timed: the (query, key) pairs each rank attends to. Attention FLOPs are 4 · heads · head_dim a pair and layer, so
max/mean of pairs is max/mean of attention FLOPs, and all ranks wait for the slowest in every layer. A row is one
micro-batch; rows are summed as a step would: Σ max / Σ mean. The worst row is shown beside it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from athanor.data.packing import cut, fill_rows
from athanor.data.readers import expand, read_file
from athanor.data.shards import Int64s
from athanor.data.types import Document
from athanor.parallel.context import Layout, Split
from bench.common import show

BAR = 1.05
BYTES_PER_TOKEN = 4
CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072)
SIZES = (2, 4, 8, 16, 32, 64)
SPLITS: tuple[Split, Split] = ("document", "sequence")
#: median 600 tokens and a mean of about 1,230: web text
LOG_NORMAL = (600, 1.2)
#: a file of fewer tokens has no table of its own
OWN_TABLE = 400_000
#: FLOPs of one pair in one layer, forward and backward, at the shape of Pangu Ultra (96 heads of 128; arXiv 2504.07866)
FLOPS_PER_PAIR = 3 * 4 * 96 * 128


def corpus_lengths(folder: Path | None, own_table: int = OWN_TABLE) -> dict[str, Int64s]:
    """Tokens of the documents (UTF-8 bytes / 4) by file, for files large enough, and of all files together."""
    if folder is None or not folder.is_dir():
        return {}
    by_file: dict[str, Int64s] = {}
    for file in expand([folder])[0]:
        texts = (x.text for x in read_file(file) if isinstance(x, Document))
        lens = np.array([max(2, len(text.encode()) // BYTES_PER_TOKEN) for text in texts], dtype=np.int64)
        if len(lens):
            by_file[file.name.rsplit("/", 1)[-1].split(".")[0]] = lens
    large = {name: lens for name, lens in by_file.items() if lens.sum() >= own_table}
    return {"all files": np.concatenate(list(by_file.values())), **large} if by_file else {}


def log_normal_lengths(tokens: int, rng: np.random.Generator) -> Int64s:
    """Documents of about ``tokens`` tokens together."""
    median, sigma = LOG_NORMAL
    mean = median * np.exp(sigma**2 / 2)
    return np.maximum(2, rng.lognormal(np.log(median), sigma, size=int(tokens / mean) + 1)).astype(np.int64)


def sample_rows(doc_lens: Int64s, context: int, n_rows: int, rng: np.random.Generator) -> list[list[int]]:
    """Document lengths of ``n_rows`` rows at random among those that the packing makes, padding as a last document."""
    lens = cut(doc_lens, context)[2]
    lens = -np.sort(-lens)
    row_of, n_packed = fill_rows(lens, context)
    chosen = rng.permutation(n_packed)[:n_rows]
    rows = [lens[row_of == row] for row in chosen]
    shuffled = [rng.permutation(row).tolist() for row in rows]
    return [[*row, context - sum(row)] if sum(row) < context else row for row in shuffled]


def measure(rows: Sequence[Sequence[int]], size: int, how: Split) -> dict[str, float]:
    """One cell: pairs and tokens of the slowest rank against the mean; every row is a micro-batch of its own."""
    layouts = [Layout.of([row], size, how) for row in rows]
    slowest = np.array([layout.pairs_R.max() for layout in layouts], dtype=np.float64)
    mean = np.array([layout.pairs_R.mean() for layout in layouts])
    most = np.array([layout.tokens_R.max() for layout in layouts], dtype=np.float64)
    ratio = float(slowest.sum() / mean.sum())
    return {
        "max_over_mean": ratio,
        "worst_row": float((slowest / mean).max()),
        "tokens_max_over_mean": float(most.sum() / sum(layout.tokens_R.mean() for layout in layouts)),
        "padding_share": sum(x.padding for x in layouts) / sum(x.n_rows * x.n_local * size for x in layouts),
        "excess_pairs_a_row": float((slowest - mean).mean()),
        "excess_gflops_a_row_and_layer": float((slowest - mean).mean()) * FLOPS_PER_PAIR / 1e9,
        "excess_in_tokens": (ratio - 1) * sum(rows[0]) / size,
    }


def table(
    lengths: dict[str, Int64s], contexts: Sequence[int], sizes: Sequence[int], n_rows: int, budget: int, seed: int
) -> list[dict[str, Any]]:
    """All cells; at most ``n_rows`` rows and about ``budget`` tokens each (at least two rows)."""
    cells = []
    for name, lens in lengths.items():
        for context in contexts:
            rng = np.random.default_rng([seed, context])
            rows = sample_rows(lens, context, max(2, min(n_rows, budget // context)), rng)
            pieces = np.concatenate([np.asarray(row) for row in rows])
            about = {
                "documents": name,
                "context": context,
                "rows": len(rows),
                "median_length": float(np.median(pieces)),
            }
            for size in sizes:
                splits: dict[str, Any] = {how: measure(rows, size, how) for how in SPLITS}
                cells.append({**about, "cp": size, **splits})
    return cells


def judge(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The bar: where the document split is at most 1.05, and where it is not."""
    missed = [cell for cell in cells if cell["document"]["max_over_mean"] > BAR]
    return {
        "bar": BAR,
        "cells": len(cells),
        "document_within": len(cells) - len(missed),
        "sequence_within": sum(cell["sequence"]["max_over_mean"] <= BAR for cell in cells),
        "largest_document": max(cell["document"]["max_over_mean"] for cell in cells),
        "largest_sequence": max(cell["sequence"]["max_over_mean"] for cell in cells),
        "largest_padding_share": max(cell["document"]["padding_share"] for cell in cells),
        "missed": [[cell["documents"], cell["context"], cell["cp"]] for cell in missed],
    }


def print_tables(cells: Sequence[dict[str, Any]]) -> None:
    """max/mean as ``document | sequence``, then every cell that misses the bar."""
    sizes = sorted({cell["cp"] for cell in cells})
    rows: dict[tuple[str, int], list[Any]] = {}
    for cell in cells:
        head = [f"{cell['documents']}, {cell['context'] // 1024} K", f"{cell['median_length']:.0f}"]
        ours, whole = (cell[how]["max_over_mean"] for how in SPLITS)
        rows.setdefault((cell["documents"], cell["context"]), head).append(f"{ours:.3f} | {whole:.2f}")
    columns = ["documents, context", "median", *(f"cp {size}" for size in sizes)]
    show("attention FLOPs a rank, max/mean: document | sequence", columns, list(rows.values()))
    missed = [
        [
            f"{cell['documents']}, {cell['context'] // 1024} K, cp {cell['cp']}",
            *(cell["document"][name] for name in ("max_over_mean", "worst_row", "excess_gflops_a_row_and_layer")),
            cell["document"]["excess_in_tokens"],
            f"{cell['sequence']['max_over_mean']:.3f}",
        ]
        for cell in cells
        if cell["document"]["max_over_mean"] > BAR
    ]
    if missed:
        names = ["above the bar", "max/mean", "worst row", "GFLOP a row and layer", "tokens' worth", "sequence"]
        show(f"document split above {BAR}", names, missed)


def draw(cells: Sequence[dict[str, Any]], out: Path) -> None:
    """max/mean over cp, a panel a context (at most three), both splits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "athanor"  # the same file from the same numbers
    contexts = sorted({cell["context"] for cell in cells})
    shown = [contexts[i] for i in sorted({0, len(contexts) // 2, len(contexts) - 1})]
    names = list(dict.fromkeys(cell["documents"] for cell in cells))
    figure, axes = plt.subplots(1, len(shown), figsize=(3.6 * len(shown), 3.4), sharey=True, squeeze=False)
    for axis, context in zip(axes[0], shown, strict=True):
        for i, name in enumerate(names):
            here = [cell for cell in cells if cell["documents"] == name and cell["context"] == context]
            for how, style in zip(SPLITS, ("-", "--"), strict=True):
                values = [cell[how]["max_over_mean"] for cell in here]
                label = name if how == "document" else None
                axis.plot([cell["cp"] for cell in here], values, style, color=f"C{i}", label=label, linewidth=1.4)
        axis.axhline(BAR, color="0.5", linewidth=0.8, linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_title(f"context {context // 1024} K", fontsize=10)
        axis.set_xlabel("context-parallel ranks")
    axes[0][0].set_ylabel("attention FLOPs, max / mean")
    axes[0][0].legend(fontsize=7, title="— document split\n- - whole sequence", title_fontsize=7)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, write; returns what was written."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of documents (jsonl, text, parquet); left out where absent")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--cp", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rows", type=int, default=16, help="rows of a cell at most")
    parser.add_argument("--tokens", type=int, default=150_000, help="tokens of a cell, about")
    parser.add_argument("--own-table", type=int, default=OWN_TABLE, help="tokens that give a file its own rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/context_balance.json"))
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args(words)
    lengths = {"log-normal": log_normal_lengths(8 * max(args.contexts) + args.tokens, np.random.default_rng(args.seed))}
    lengths |= corpus_lengths(args.corpus, args.own_table)
    if len(lengths) == 1:
        print(f"no documents at {args.corpus}: log-normal only")
    cells = table(lengths, args.contexts, args.cp, args.rows, args.tokens, args.seed)
    print_tables(cells)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "bench/context_balance.py", *words]),
        "lengths": {
            name: {"documents": len(lens), "tokens": int(lens.sum()), "median": float(np.median(lens))}
            for name, lens in lengths.items()
        },
        "verdict": judge(cells),
        "cells": cells,
    }
    print(json.dumps(result["verdict"]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if args.figure is not None:
        draw(cells, args.figure)
    return result


if __name__ == "__main__":
    main()

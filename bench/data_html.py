"""Main text of HTML pages: F1 on annotated pages, formulas of each markup, cells of tables, MB/s; peers beside.

    python bench/data_html.py [--data ../shared/data/docs] [--rounds 3] [--quick]

Articles are scored as ``html_article_extraction_benchmark.jsonl.zst`` under ``--data`` annotates them (181 pages, the
set of scrapinghub/article-extraction-benchmark). Tokens are runs of ``\\w``.

- Token F1: of the multisets of tokens of a page's text and its reference, averaged over pages. Rules were chosen on the
  pages at even positions; the odd ones are held out and printed beside.
- 4-gram F1, that benchmark's own metric: multisets of four tokens in a row; true and false positives and negatives of a
  page are divided by their sum, then summed over pages; F1 of the sums' precision and recall.

Formulas: ``html_formulas.py``. Tables: cell F1 (``docling_score.py``) on the HTML files of docling's test set, links of
the references reduced to their text. Speed: MB of UTF-8 a second of CPU, one
process, contenders in turn, the median of the rounds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.markup import escape

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import docling_score as score
from bench import html_formulas
from bench.common import environment, show

BARS = {"token F1": 0.965, "MB/s": 5.0}
_LINK = re.compile(r"\[([^\]]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
_TOKEN = re.compile(r"\w+")
Extract = Callable[[str], str]


def contenders() -> dict[str, Extract]:
    """Name → HTML → text."""
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text

    from athanor.data.extract.html import extract_html

    found: dict[str, Extract] = {
        "athanor": lambda page: extract_html(page).text,
        "trafilatura": lambda page: trafilatura.extract(page) or "",
        "trafilatura precision": lambda page: trafilatura.extract(page, favor_precision=True) or "",
        "trafilatura precision, no comments": lambda page: (
            trafilatura.extract(page, favor_precision=True, include_comments=False) or ""
        ),
        "trafilatura markdown": lambda page: (
            trafilatura.extract(page, output_format="markdown", include_formatting=True, include_comments=False) or ""
        ),
        "resiliparse": lambda page: extract_plain_text(page, main_content=True),
    }
    if importlib.util.find_spec("readability") and importlib.util.find_spec("inscriptis"):
        get_text = importlib.import_module("inscriptis").get_text
        document = importlib.import_module("readability").Document
        found["readability + inscriptis"] = lambda page: get_text(document(page).summary())
    return found


def articles(data: Path, limit: int | None) -> list[dict[str, str]]:
    """Pages with ``html`` and ``articleBody``; none where the set is absent."""
    import zstandard

    path = data / "html_article_extraction_benchmark.jsonl.zst"
    if not path.is_file():
        return []
    with path.open("rb") as packed:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8")
        return [json.loads(line) for line in lines][:limit]


def token_f1(text: str, reference: str) -> float:
    """F1 of the multisets of tokens."""
    return score.f1(Counter(_TOKEN.findall(text)), Counter(_TOKEN.findall(reference)))


def gram_f1(pairs: list[tuple[str, str]], n: int = 4) -> float:
    """The benchmark's own metric over (text, reference) pairs."""
    right = wrong = missed = 0.0
    for text, reference in pairs:
        ours, wanted = _grams(text, n), _grams(reference, n)
        both = sum((ours & wanted).values())
        extra, lost = sum(ours.values()) - both, sum(wanted.values()) - both
        total = (both + extra + lost) or 1
        right, wrong, missed = right + both / total, wrong + extra / total, missed + lost / total
    return 2 * right / max(2 * right + wrong + missed, 1e-9)


def _grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    tokens = _TOKEN.findall(text)
    return Counter(tuple(tokens[at : at + n]) for at in range(max(1, len(tokens) - n + 1)) if tokens)


def score_articles(pages: list[dict[str, str]], rounds: int) -> dict[str, dict[str, Any]]:
    """F1 and speed of every contender."""
    n_bytes = sum(len(page["html"].encode("utf-8", "replace")) for page in pages)
    texts: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {}
    named = contenders()
    for extract in named.values():
        extract(pages[0]["html"])  # imports are no part of the speed
    for _ in range(rounds):
        for name, extract in named.items():
            start = time.process_time()
            texts[name] = [extract(page["html"]) for page in pages]
            seconds.setdefault(name, []).append(time.process_time() - start)
    rows = {}
    for name, found in texts.items():
        pairs = [(text, page["articleBody"]) for text, page in zip(found, pages, strict=True)]
        f1s = [token_f1(*pair) for pair in pairs]
        rows[name] = {
            "token_f1": statistics.fmean(f1s),
            "token_f1_even": statistics.fmean(f1s[::2]),
            "token_f1_odd": statistics.fmean(f1s[1::2]),
            "gram_f1": gram_f1(pairs),
            "mb_per_s": n_bytes / 1e6 / statistics.median(seconds[name]),
        }
    return rows


def score_formulas(quick: bool) -> dict[str, dict[str, float]]:
    """Markup → contender → share of the formulas kept."""
    formulas = html_formulas.FORMULAS[: 4 if quick else None]
    named = {name: extract for name, extract in contenders().items() if "precision" not in name}
    return {
        kind: {
            name: html_formulas.kept(kind, extract(html_formulas.page(markup, formulas)), formulas)
            for name, extract in named.items()
        }
        for kind, markup in html_formulas.kinds().items()
    }


def score_tables(data: Path) -> dict[str, float]:
    """Contender → mean cell F1 over docling's HTML files whose reference has tables."""
    wanted = {}
    for path in sorted((data / "docling" / "html").glob("*.html")):
        reference = (path.parent / "groundtruth" / f"{path.name}.md").read_text("utf-8")
        grids = score.tables(_LINK.sub(r"\1", reference))
        if grids:
            wanted[path] = score.cells(grids, False)
    if not wanted:
        return {}
    return {
        name: statistics.fmean(
            score.f1(score.cells(score.tables(extract(path.read_text("utf-8"))), False), cells)
            for path, cells in wanted.items()
        )
        for name, extract in contenders().items()
        if "precision" not in name
    }


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each bar with its value and whether it is met."""
    rows = []
    ours = result["articles"].get("athanor")
    if ours:
        for key, name in (("token_f1", "token F1"), ("token_f1_odd", "token F1"), ("mb_per_s", "MB/s")):
            rows.append({"bar": key, "value": ours[key], "target": BARS[name], "met": ours[key] >= BARS[name]})
    for kind, row in result["formulas"].items():
        best = max(value for name, value in row.items() if name != "athanor")
        rows.append(
            {"bar": f"formulas, {kind}", "value": row["athanor"], "target": best, "met": row["athanor"] >= best}
        )
    if result["tables"]:
        best = max(value for name, value in result["tables"].items() if name != "athanor")
        value = result["tables"]["athanor"]
        rows.append({"bar": "table cells", "value": value, "target": best, "met": value >= best})
    return rows


def report(result: dict[str, Any]) -> None:
    """Print the tables."""
    keys = ["token_f1", "token_f1_even", "token_f1_odd", "gram_f1", "mb_per_s"]
    if result["articles"]:
        show(
            "Main text of articles",
            ["extractor", "token F1", "even pages", "odd pages (held out)", "4-gram F1", "MB/s"],
            [[name, *(row[key] for key in keys)] for name, row in result["articles"].items()],
        )
    names = list(next(iter(result["formulas"].values())))
    show(
        "Share of formulas kept",
        ["markup", *names],
        [[escape(k), *(r[n] for n in names)] for k, r in result["formulas"].items()],
    )
    if result["tables"]:
        show("Cells of docling's HTML tables, F1", list(result["tables"]), [list(result["tables"].values())])
    show(
        "Bars",
        ["bar", "value", "at least", "met"],
        [[escape(b["bar"]), b["value"], b["target"], "yes" if b["met"] else "NO"] for b in result["bars"]],
    )


def run(data: Path, rounds: int, quick: bool) -> dict[str, Any]:
    """Everything that the data at hand allows."""
    pages = articles(data, 6 if quick else None)
    if not pages:
        print(f"no annotated articles under {data}: formulas only (give the folder with --data)", file=sys.stderr)
    result: dict[str, Any] = {
        "articles": score_articles(pages, rounds) if pages else {},
        "formulas": score_formulas(quick),
        "tables": score_tables(data),
    }
    return result | {"bars": bars(result)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    shared = Path(os.environ.get("ATHANOR_SHARED_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=shared / "docs", help="folder with the annotated pages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="six pages, four formulas, nothing written")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data_html.json")
    args = parser.parse_args()
    result = run(args.data, 1 if args.quick else args.rounds, args.quick)
    report(result)
    if not args.quick:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        written = {"environment": environment(1), **result}
        args.out.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

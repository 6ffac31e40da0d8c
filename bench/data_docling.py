"""Tables, formulas and text of structured documents against reference Markdown, beside plain libraries' output.

    python bench/data_docling.py --data ../shared/data/docs/docling [--quick]

The references are docling's own checked regression outputs. Per format: cell F1 and F1 of (cell, right neighbour)
pairs of tables, share of formulas found, F1 of words, pages or documents per second of CPU, for Athanor, for the
library that it builds on (or the usual one) used plainly, and for markitdown where it can be imported. Definitions are
in ``docling_score.py``. The bar: no format's tables or formulas below the plain library's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import docling_score as score
from bench.common import environment, show

FORMATS = ("docx", "pptx", "xlsx", "html", "latex", "pdf", "jats")
Convert = Callable[[Path], str]


def ours(path: Path) -> str:
    """What ``athanor data extract`` writes; "" where it reads nothing."""
    from athanor.data.extract.dispatch import extract
    from athanor.data.extract.types import Extracted

    return "\n\n".join(item.text for item in extract(path) if isinstance(item, Extracted))


def _python_docx(path: Path) -> str:
    import docx

    return "\n\n".join(
        block.text if hasattr(block, "text") else _pipes([[c.text for c in row.cells] for row in block.rows])
        for block in docx.Document(str(path)).iter_inner_content()
    )


def _python_pptx(path: Path) -> str:
    from pptx import Presentation

    parts = []
    for slide in Presentation(str(path)).slides:
        for shape in slide.shapes:
            if shape.has_text_frame:
                parts.append(shape.text_frame.text)
            if getattr(shape, "has_table", False) and shape.has_table:
                parts.append(_pipes([[cell.text for cell in row.cells] for row in shape.table.rows]))
    return "\n\n".join(parts)


def _openpyxl(path: Path) -> str:
    import openpyxl

    book = openpyxl.load_workbook(path, data_only=True)
    return "\n\n".join(
        _pipes([["" if v is None else str(v) for v in row] for row in sheet.iter_rows(values_only=True)])
        for sheet in book.worksheets
    )


def _trafilatura(path: Path) -> str:
    import trafilatura

    return trafilatura.extract(path.read_bytes(), output_format="markdown", include_tables=True) or ""


def _pylatexenc(path: Path) -> str:
    from pylatexenc.latex2text import LatexNodes2Text

    reader = LatexNodes2Text(math_mode="verbatim")
    reader.set_tex_input_directory(str(path.parent))
    return reader.latex_to_text(path.read_text("utf-8", "replace"))


def _pdfium(path: Path) -> str:
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    return "\n\n".join(document[i].get_textpage().get_text_range() for i in range(len(document)))


def _itertext(path: Path) -> str:
    import lxml.etree

    return " ".join(lxml.etree.parse(str(path)).getroot().itertext())


def _pipes(rows: list[list[str]]) -> str:
    return "\n".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in rows
    )


PLAIN: dict[str, tuple[str, Convert]] = {
    "docx": ("python-docx", _python_docx),
    "pptx": ("python-pptx", _python_pptx),
    "xlsx": ("openpyxl", _openpyxl),
    "html": ("trafilatura", _trafilatura),
    "latex": ("pylatexenc", _pylatexenc),
    "pdf": ("pypdfium2", _pdfium),
    "jats": ("lxml itertext", _itertext),
}


def markitdown() -> Convert | None:
    """markitdown's converter where it is installed (it needs onnxruntime, so the project does not)."""
    try:
        from markitdown import MarkItDown  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    converter = MarkItDown()
    return lambda path: str(converter.convert(str(path)).text_content)


def pairs(data: Path, kind: str) -> Iterator[tuple[Path, str]]:
    """(document, reference Markdown) of one format."""
    for reference in sorted((data / kind / "groundtruth").glob("*.md")):
        name = reference.name.removesuffix(".md")
        found = data / kind / name.replace("_main.tex", "/main.tex") if kind == "latex" else data / kind / name
        if kind == "pdf":
            found = data / kind / f"{name}.pdf"
        if found.is_file():
            yield found, reference.read_text("utf-8")


def measure(convert: Convert, documents: list[tuple[Path, str]]) -> dict[str, Any]:
    """Scores of one converter on one format. A document that it fails on counts as empty."""
    rows, failures, cpu_s = [], [], 0.0
    for path, reference in documents:
        started = time.process_time()
        try:
            text = convert(path)
        except Exception as error:
            failures.append(f"{path.name}: {type(error).__name__}")
            text = ""
        cpu_s += time.process_time() - started
        rows.append((path, score_document(text, reference)))
    scored = [row for _, row in rows]
    found, wanted = sum(r["formulas_found"] for r in scored), sum(r["formulas"] for r in scored)

    def mean(key: str) -> float | None:
        values = [row[key] for row in scored if row[key] is not None]
        return statistics.fmean(values) if values else None

    return {
        "documents": len(documents),
        "with_tables": sum(row["cell_f1"] is not None for row in scored),
        "cell_f1": mean("cell_f1"),
        "neighbour_f1": mean("neighbour_f1"),
        "formulas": wanted,
        "formula_recall": found / wanted if wanted else None,
        "word_f1": mean("word_f1"),
        "documents_per_s": len(documents) / max(cpu_s, 1e-9),
        "failures": failures,
        "by_document": {path.parent.name + "/" + path.name: row for path, row in rows},
    }


def score_document(text: str, reference: str) -> dict[str, Any]:
    """All scores of one document; tables count where the reference has some."""
    mine, wanted = score.tables(text), score.tables(reference)
    found, n_formulas = score.formula_recall(text, reference)
    return {
        "cell_f1": score.f1(score.cells(mine, False), score.cells(wanted, False)) if wanted else None,
        "neighbour_f1": score.f1(score.cells(mine, True), score.cells(wanted, True)) if wanted else None,
        "formulas_found": found,
        "formulas": n_formulas,
        "word_f1": score.f1(score.words(text), score.words(re.sub(r"^\s*\|[ |-]*\|\s*$", "", reference, flags=re.M))),
    }


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Every format and every contender."""
    extra = markitdown()
    result: dict[str, Any] = {}
    for kind in FORMATS:
        documents = list(pairs(data, kind))[: 3 if quick else None]
        if not documents:
            continue
        name, plain = PLAIN[kind]
        contenders: dict[str, Convert] = {"athanor": ours, name: plain}
        if extra is not None and kind not in ("latex", "jats"):
            contenders["markitdown"] = extra
        for convert in contenders.values():
            _warm(convert, documents[0][0])
        result[kind] = {label: measure(convert, documents) for label, convert in contenders.items()}
    return result


def _warm(convert: Convert, path: Path) -> None:
    """Imports are no part of the speed."""
    try:
        convert(path)
    except Exception as error:
        print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Tables and formulas of each format beside the best plain output."""
    rows = []
    for kind, contenders in result.items():
        for key in ("cell_f1", "formula_recall"):
            value = contenders["athanor"][key]
            others = {n: c[key] for n, c in contenders.items() if n != "athanor" and c[key] is not None}
            if value is None or not others:
                continue
            best = max(others, key=others.__getitem__)
            met = value >= others[best]
            rows.append({"bar": f"{kind} {key}", "value": value, "peer": best, "peer_value": others[best], "met": met})
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    shared = Path(os.environ.get("ATHANOR_SHARED_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=shared / "docs" / "docling", help="folder of docling's test data")
    parser.add_argument("--quick", action="store_true", help="three documents a format, nothing written")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data_docling.json")
    args = parser.parse_args()
    if not (args.data / "docx" / "groundtruth").is_dir():
        print(f"no reference set in {args.data}: give docling's tests/data with --data")
        return
    result = run(args.data, args.quick)
    columns = ["format", "reader", "documents", "cells F1", "neighbours F1", "formulas", "found", "words F1", "docs/s"]
    keys = ["documents", "cell_f1", "neighbour_f1", "formulas", "formula_recall", "word_f1", "documents_per_s"]
    table = [[kind, name, *(row[key] for key in keys)] for kind, c in result.items() for name, row in c.items()]
    show("Structured documents against docling's references", columns, table)
    judged = bars(result)
    show(
        "Bars: not below the best plain output",
        ["bar", "athanor", "best other", "its value", "met"],
        [[b["bar"], b["value"], b["peer"], b["peer_value"], "yes" if b["met"] else "NO"] for b in judged],
    )
    if not args.quick:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        written = {"environment": environment(1), "formats": result, "bars": judged}
        args.out.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

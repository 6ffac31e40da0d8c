"""Jupyter notebooks → Markdown: text cells as they are, code cells fenced, text outputs cut to a length."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from athanor.data.extract.types import Extracted, Unreadable

#: Characters kept of the outputs of one cell: logs and dumped arrays are not worth more.
MAX_OUTPUT_CHARS = 2_000
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def extract_ipynb(raw: bytes) -> Extracted:
    """One notebook (format 3 or 4). ``Unreadable`` where it is no notebook or has no text."""
    try:
        book = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"broken ipynb: {str(error) or 'nested too deep'}") from None
    if not isinstance(book, dict):
        raise Unreadable("broken ipynb: not an object")
    cells = book.get("cells")
    if cells is None:  # format 3
        sheets = book.get("worksheets")
        cells = [c for sheet in sheets for c in sheet.get("cells", ())] if isinstance(sheets, list) else None
    if not isinstance(cells, list):
        raise Unreadable("broken ipynb: no cells")
    language = _language(book.get("metadata"))
    parts = [part for cell in cells if isinstance(cell, dict) for part in _cell(cell, language)]
    if not parts:
        raise Unreadable("empty: no text in the notebook")
    return Extracted("\n\n".join(parts) + "\n", {"format": "ipynb", "code_language": language, "cells": len(cells)})


def _language(metadata: Any) -> str:
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(found, dict) and isinstance(found.get(name), str):
            return re.sub(r"[^\w+#-]", "", found[name].lower())
    return "python"


def _cell(cell: dict[str, Any], language: str) -> Iterator[str]:
    kind = cell.get("cell_type")
    source = _joined(cell.get("source", cell.get("input", ""))).strip("\n")
    if kind == "heading" and source:
        level = cell.get("level", 1)
        yield f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {source}"
    elif kind in ("markdown", "raw") and source.strip():
        yield source
    elif kind == "code" and source.strip():
        yield _fenced(source, language)
        output = "\n".join(filter(None, map(_output, cell.get("outputs") or ()))).strip("\n")
        if output.strip():
            cut = output if len(output) <= MAX_OUTPUT_CHARS else output[:MAX_OUTPUT_CHARS].rstrip() + "\n…"
            yield _fenced(cut, "")


def _fenced(text: str, language: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _output(output: Any) -> str:
    if not isinstance(output, dict):
        return ""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    data = output.get("data", output)
    text = output.get("text") or (data.get("text/plain") if isinstance(data, dict) else None)
    return _ESCAPES.sub("", _joined(text)).strip("\n")


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""

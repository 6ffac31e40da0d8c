"""Jupyter notebooks → Markdown: text cells as they are, code cells fenced, text outputs cut to a length."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from athanor.data.extract.types import Extracted, Unreadable

#: Characters kept of the outputs of one cell: logs and dumped arrays are not worth more.
MAX_OUTPUT_CHARS = 2_000
#: Pictures that stand in the text itself, as base64 or as an attachment of the cell.
_EMBEDDED = re.compile(
    r"!\[[^\[\]\n]{0,500}\]\(\s*<?(?:data:image/[^()\s]*|attachment:[^()\s]{0,500})[^()\n]{0,200}\)"
    r"|<img\b[^<>]{0,500}?\bsrc\s*=\s*[\"']?data:[^<>]*>",
    re.I,
)
#: What stands for an object that is shown in another form.
_OBJECT = re.compile(r"\[?<[^<>\n]*>(?:,?\s*<[^<>\n]*>)*\]?")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_PLAIN_KEYS = frozenset(
    ["text/plain", "text", "output_type", "metadata", "execution_count", "prompt_number", "stream", "name", "data"]
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def extract_ipynb(raw: bytes) -> Extracted:
    """One notebook (format 3 or 4). ``Unreadable`` where it is no notebook or has no text."""
    from athanor.data.extract.html_decode import decode

    try:
        book = json.loads(decode(raw)[0].removeprefix("\ufeff"))
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
    for key, name in (("language_info", "name"), ("kernelspec", "language"), ("kernelspec", "name")):
        found = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(found, dict) and isinstance(found.get(name), str):
            word = re.sub(r"[^\w+#-]", "", found[name].lower())
            # The name of a kernel holds its language and version: julia-1.9, python3, ir.
            return _of_kernel(word) if (key, name) == ("kernelspec", "name") else word
    return "python"


def _of_kernel(name: str) -> str:
    word = re.sub(r"[^a-z+#].*|\d.*", "", name)
    return {"": "python", "ir": "r", "conda": "python", "xpython": "python", "xcpp": "c++"}.get(word, word)


def _cell(cell: dict[str, Any], language: str) -> Iterator[str]:
    kind = cell.get("cell_type")
    source = _joined(cell.get("source", cell.get("input", ""))).strip("\n")
    if kind == "heading" and source:
        level = cell.get("level", 1)
        yield f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {source}"
    elif kind in ("markdown", "raw") and source.strip():
        text = _EMBEDDED.sub("", source).strip("\n")
        if text.strip():
            yield text
    elif kind == "code" and source.strip():
        yield _fenced(source, language)
        left = MAX_OUTPUT_CHARS
        for is_markdown, group in groupby(map(_output, cell.get("outputs") or ()), key=lambda output: output[0]):
            output = "\n".join(filter(None, (text for _, text in group))).strip("\n")
            if output.strip() and left > 0:
                cut = output if len(output) <= left else output[:left].rstrip() + "\n…"
                left -= len(output)
                yield cut if is_markdown else _fenced(cut, "")


def _fenced(text: str, language: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _output(output: Any) -> tuple[bool, str]:
    """(whether it is Markdown, text) of one output: formulas and Markdown as such, else the plain text."""
    if not isinstance(output, dict):
        return False, ""
    if output.get("output_type") in ("error", "pyerr"):
        return False, f"{output.get('ename', '')}: {output.get('evalue', '')}"
    data = output.get("data", output)
    data = data if isinstance(data, dict) else {}
    for key in ("text/markdown", "text/latex", "latex"):
        if (text := _joined(data.get(key)).strip()) and not _EMBEDDED.search(text):
            return True, text
    text = _ESCAPES.sub("", _joined(output.get("text") or data.get("text/plain")))
    # What a terminal shows: a carriage return writes the line anew, as progress bars do.
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")).strip("\n")
    if _WIDGET in data:
        return False, ""
    if _OBJECT.fullmatch(text.strip()) and (" at 0x" in text or any(key not in _PLAIN_KEYS for key in data)):
        html = _joined(data.get("text/html"))
        return (True, _of_html(html)) if html else (False, "")
    return False, text


def _of_html(html: str) -> str:
    from athanor.data.extract.html import extract_html

    try:
        return extract_html(html, main_text=False).text.strip()
    except Unreadable:
        return ""


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""

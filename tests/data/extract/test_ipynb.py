"""Notebooks: cells in order, outputs cut, broken ones told why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from athanor.data.extract.ipynb import MAX_OUTPUT_CHARS, extract_ipynb
from athanor.data.extract.types import Unreadable


def book(*cells: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"nbformat": 4, "cells": list(cells), **more}).encode()


def test_text_code_and_outputs() -> None:
    stream = {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n", "line"]}
    picture = {"output_type": "display_data", "data": {"image/png": "iVBOR", "text/plain": "<Figure>"}}
    error = {"output_type": "error", "ename": "ValueError", "evalue": "bad", "traceback": ["long"] * 50}
    found = extract_ipynb(
        book(
            {"cell_type": "markdown", "source": ["# 题目\n", "text $x$"]},
            {"cell_type": "code", "source": "print(1)", "outputs": [stream, picture, error]},
            {"cell_type": "code", "source": "s = '```'", "outputs": []},
            {"cell_type": "code", "source": "  "},
            metadata={"language_info": {"name": "Julia"}},
        )
    )
    assert found.text == (
        "# 题目\ntext $x$\n\n```julia\nprint(1)\n```\n\n```\nred\nline\n<Figure>\nValueError: bad\n```\n\n"
        "````julia\ns = '```'\n````\n"
    )
    assert found.meta == {"format": "ipynb", "code_language": "julia", "cells": 4}


def test_long_outputs_are_cut_and_format_3_is_read() -> None:
    cell = {"cell_type": "code", "input": "f()", "outputs": [{"output_type": "stream", "text": "y" * 10_000}]}
    raw = json.dumps(
        {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "heading", "level": 2, "source": "H"}, cell]}]}
    )
    found = extract_ipynb(raw.encode()).text
    assert found.startswith("## H\n\n```python\nf()\n```") and found.count("y") - 1 == MAX_OUTPUT_CHARS and "…" in found


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "broken ipynb"),
        (b"[]", "broken ipynb: not an object"),
        (b"{}", "broken ipynb: no cells"),
        (b"[" * 100_000, "broken ipynb"),
        (book({"cell_type": "code", "source": ""}), "empty"),
    ],
)
def test_broken_notebooks_are_told_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract_ipynb(raw)
    assert caught.value.reason.startswith(reason)

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
        "# 题目\ntext $x$\n\n```julia\nprint(1)\n```\n\n```\nred\nline\nValueError: bad\n```\n\n"
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


def shown(**data: str) -> str:
    output = {"output_type": "display_data", "metadata": {}, "data": {k.replace("__", "/"): v for k, v in data.items()}}
    text = extract_ipynb(book({"cell_type": "code", "source": "x", "outputs": [output]})).text
    return text.removeprefix("```python\nx\n```").strip()


def test_outputs_in_the_form_that_is_read() -> None:
    assert shown(text__plain="Integral(x, x)", text__latex=r"$\int x$", image__png="iVBOR") == r"$\int x$"
    assert shown(text__plain="<IPython.core.display.Markdown object>", text__markdown="**b**") == "**b**"
    table = "<table><tr><th>名</th><th>n</th></tr><tr><td>a</td><td>1</td></tr></table>"
    assert (
        shown(text__plain="<IPython.core.display.HTML object>", text__html=table)
        == "| 名 | n |\n| --- | --- |\n| a | 1 |"
    )
    assert shown(text__plain="   a\n0  1", text__html=table) == "```\n   a\n0  1\n```"
    assert shown(text__plain="<Figure size 432x288 with 1 Axes>", image__png="iVBOR") == ""
    assert (
        shown(text__plain="<object at 0x7f01>") == ""
        and shown(text__plain="<class 'int'>") == "```\n<class 'int'>\n```"
    )
    bar = {"output_type": "stream", "text": ["\r  0%| | 0/3", "\r100%|#| 3/3\n", "done\n"]}
    assert "0/3" not in (found := extract_ipynb(book({"cell_type": "code", "source": "x", "outputs": [bar]})).text)
    assert "100%|#| 3/3\ndone" in found


def test_pictures_in_the_text_kernels_and_encodings() -> None:
    source = (
        "a ![p](data:image/png;base64,AAAA) b ![q](attachment:q.png) <img src='data:image/png;base64,BB'/>c ![r](r.png)"
    )
    raw = book({"cell_type": "markdown", "source": source}, metadata={"kernelspec": {"name": "julia-1.9"}})
    found = extract_ipynb(raw)
    assert found.text == "a  b  c ![r](r.png)\n" and found.meta["code_language"] == "julia"
    wide = json.dumps({"cells": [{"cell_type": "markdown", "source": "笔记"}]}, ensure_ascii=False).encode("utf-16")
    assert extract_ipynb(wide).text == "笔记\n"


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

"""KaTeX's drawing (markup of KaTeX 0.16, ``output: "html"``), sizes and struts left out."""

from __future__ import annotations

import pytest

from athanor.data.extract.html import extract_html


def s(css: str, inner: str) -> str:
    return f'<span class="{css}">{inner}</span>'


def stack(*parts: str, deep: bool = False) -> str:
    strut = s("pstrut", "")
    rows = s("vlist", "".join(f"<span>{strut}{part}</span>" for part in parts))
    below = s("vlist-s", "\u200b") if deep else ""
    second = s("vlist-r", s("vlist", "<span></span>")) if deep else ""
    return s("vlist-t vlist-t2" if deep else "vlist-t", s("vlist-r", rows + below) + second)


def letter(sign: str) -> str:
    return s("mord mathnormal", sign)


def brace(kind: str) -> str:
    return s("stretchy", s(f"brace-{kind}", "<svg><path/></svg>"))


@pytest.mark.parametrize(
    ("drawn", "latex"),
    [
        (letter("E") + s("mrel", "=") + letter("m"), "E=m"),
        (s("mord", letter("c") + s("msupsub", stack(s("mord", "2")))), "c^{2}"),
        (s("mord", letter("x") + s("msupsub", stack(letter("i"), deep=True))), "x_{i}"),
        (s("mord", letter("x") + s("msupsub", stack(letter("i"), s("mord", "2"), deep=True))), "x_{i}^{2}"),
        (s("mord", letter("f") + s("msupsub", stack(s("mord", "'")))), "f'"),
        (s("mord", s("mfrac", stack(letter("b"), s("frac-line", ""), letter("a"), deep=True))), r"\frac{a}{b}"),
        (s("mord sqrt", stack(letter("x"), s("hide-tail", "<svg></svg>"))), r"\sqrt{x}"),
        (s("mord sqrt", s("root", stack(s("mord", "3"))) + stack(letter("x"))), r"\sqrt[3]{x}"),
        (
            s("mop op-limits", stack(letter("i"), s("mop op-symbol large-op", "∑"), letter("n"), deep=True)),
            r"\sum_{i}^{n}",
        ),
        (s("mop", "sin") + letter("x"), r"\sin x"),
        (s("mord accent", stack(letter("θ"), s("accent-body", s("mord", "^")))), r"\hat{\theta}"),
        (s("mord overline", stack(letter("A"), s("overline-line", ""))), r"\overline{A}"),
        (s("mord mathbb", "R") + s("mrel", "≤") + s("mord text", s("mord", "if so")), r"\mathbb{R}\leq\text{if so}"),
        (
            s("minner munder", stack(letter("n"), s("minner munder", stack(brace("left"), letter("a"), deep=True)))),
            r"\underbrace{a}_{n}",
        ),
        (s("mrel", s("mrel", s("mord vbox", "\ue020")) + s("mrel", "=")) + letter("b"), r"\ne b"),
        (
            s("mtable", s("col-align-c", stack(letter("a"), letter("c"))) + s("col-align-c", stack(letter("b")))),
            r"\begin{matrix} a & b \\ c & \end{matrix}",
        ),
        (s("no-such-class", letter("a") + "?"), "a?"),
    ],
)
def test_drawing_is_read_as_latex(drawn: str, latex: str) -> None:
    drawing = s("katex", f'<span class="katex-html" aria-hidden="true">{s("base", s("strut", "") + drawn)}</span>')
    assert extract_html(f"<p>so {drawing} holds</p>").text == f"so ${latex}$ holds"


def test_deep_drawing_is_no_error() -> None:
    drawn = letter("x")
    for _ in range(140):
        drawn = s("mord", drawn)
    drawing = s("katex", s("katex-html", drawn))
    assert extract_html(f"<p>so {drawing} holds</p>").text == "so $x$ holds"

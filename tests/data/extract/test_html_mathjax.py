"""MathJax's drawing (markup of MathJax 3.2) without its assistive MathML; styles left out."""

from __future__ import annotations

import random

import pytest

from athanor.data.extract.html import extract_html
from athanor.data.extract.types import Unreadable


def c(name: str, *inner: str) -> str:
    return f"<mjx-{name}>{''.join(inner)}</mjx-{name}>"


def leaf(name: str, code: str, font: str = "TEX-I") -> str:
    return c(name, f'<mjx-c class="mjx-c{code} {font}"></mjx-c>')


def g(name: str, *inner: str, y: int = 0) -> str:
    return f'<g data-mml-node="{name}" transform="translate(0,{y})">{"".join(inner)}</g>'


def use(name: str, code: str, y: int = 0) -> str:
    return g(name, f'<use data-c="{code}" xlink:href="#MJX-1-TEX-I-{code}"></use>', y=y)


X, TWO, INDEX = leaf("mi", "1D465"), leaf("mn", "32"), leaf("mi", "1D456")
SURD = c("surd", leaf("mo", "221A"))


@pytest.mark.parametrize(
    ("drawn", "latex"),
    [
        (X + leaf("mo", "2264") + TWO, r"x\leq2"),
        (c("msup", X, c("script", TWO)), "x^{2}"),
        (c("msub", X, c("script", INDEX)), "x_{i}"),
        (c("msubsup", X, c("script", TWO, c("spacer"), c("texatom", INDEX))), "x_{i}^{2}"),
        (
            c("mfrac", c("frac", c("num", c("nstrut"), X), c("dbox", c("dtable", c("line"), c("row", c("den", TWO)))))),
            r"\frac{x}{2}",
        ),
        (c("msqrt", c("sqrt", SURD, c("box", X))), r"\sqrt{x}"),
        (c("mroot", c("root", TWO), c("sqrt", SURD, c("box", X))), r"\sqrt[2]{x}"),
        (
            c("munderover", c("over", TWO), c("box", c("munder", c("row", c("base", leaf("mo", "2211"))),
                                                      c("row", c("under", INDEX))))),
            r"\sum_{i}^{2}",
        ),
        (c("mover", c("over", leaf("mo", "5E")), c("base", X)), r"\hat{x}"),
        (leaf("mi", "4C", "TEX-C"), r"\mathcal{L}"),
        (c("mtext", c("utext", "当")), r"\text{当}"),
        (leaf("mo", "1F") + leaf("mo", "D800") + X, "x"),
    ],
)  # fmt: skip
def test_chtml_is_read(drawn: str, latex: str) -> None:
    box = f'<mjx-container class="MathJax" jax="CHTML" aria-label="speech"><mjx-math>{drawn}</mjx-math></mjx-container>'
    assert extract_html(f"<p>so {box} holds</p>").text == f"so ${latex}$ holds"


@pytest.mark.parametrize(
    ("drawn", "latex"),
    [
        (g("msubsup", use("mi", "1D465"), use("mn", "32", 413), g("TeXAtom", use("mi", "1D456"), y=-247)), "x_{i}^{2}"),
        (g("munderover", use("mo", "2211"), use("mi", "1D456", -1000), use("mn", "32", 1150)), r"\sum_{i}^{2}"),
        (g("mfrac", use("mi", "1D465", 676), use("mn", "32", -686), "<rect></rect>"), r"\frac{x}{2}"),
        (g("msqrt", "<g>" + use("mi", "1D465") + "</g>", use("mo", "221A"), "<rect></rect>"), r"\sqrt{x}"),
    ],
)
def test_svg_is_read(drawn: str, latex: str) -> None:
    svg = f'<svg><defs><path id="MJX-1-TEX-I-1D465"></path></defs>{g("math", drawn)}</svg>'
    box = f'<mjx-container class="MathJax" jax="SVG" display="true">{svg}</mjx-container>'
    assert extract_html(f"<div>so {box}</div>").text == f"so\n\n$${latex}$$"


def test_broken_drawings_never_crash() -> None:
    draw = random.Random(7)
    names = ["msub", "munder", "munderover", "mfrac", "mroot", "mtable", "mtr", "script", "base", "row", "texatom"]
    for _ in range(200):
        drawn = X
        for _ in range(draw.randrange(1, 6)):
            drawn = c(draw.choice(names), *draw.sample([drawn, X, TWO, SURD, ""], draw.randrange(0, 4)))
        page = f"<p>so <mjx-container class='MathJax'><mjx-math>{drawn}</mjx-math></mjx-container> holds</p>"
        try:
            assert extract_html(page).text.startswith("so")
        except Unreadable:
            pytest.fail(page)

"""Formulas of Word: each construct of OMML, written by hand, against the LaTeX that a person would write."""

from __future__ import annotations

import lxml.etree
import pytest

from athanor.data.extract.mathchars import math_latex
from athanor.data.extract.omml import omml_to_latex
from tests.data.extract.made import M, W


def r(text: str, style: str = "") -> str:
    properties = f'<m:rPr><m:sty m:val="{style}"/></m:rPr>' if style else ""
    return f"<m:r>{properties}<m:t>{text}</m:t></m:r>"


def e(text: str, tag: str = "e") -> str:
    return f"<m:{tag}>{text if text.startswith('<') else r(text)}</m:{tag}>"


def latex(inner: str) -> str:
    return omml_to_latex(lxml.etree.fromstring(f'<m:oMath xmlns:m="{M}" xmlns:w="{W}">{inner}</m:oMath>'))


FRACTION = f"<m:f>{e('a', 'num')}{e('b', 'den')}</m:f>"
NO_BAR = f'<m:f><m:fPr><m:type m:val="noBar"/></m:fPr>{e("n", "num")}{e("k", "den")}</m:f>'
ROWS = f"<m:eqArr>{e('a')}{e('b')}</m:eqArr>"
BRACE = f"<m:groupChr>{e('x+y')}</m:groupChr>"
MATRIX = f"<m:m><m:mr>{e('1')}{e('0')}</m:mr><m:mr>{e('0')}{e('1')}</m:mr></m:m>"


@pytest.mark.parametrize(
    ("omml", "expected"),
    [
        (FRACTION, r"\frac{a}{b}"),
        (f"<m:sSup>{e('x')}{e('2', 'sup')}</m:sSup>", "x^{2}"),
        (f"<m:sSub>{e('x')}{e('i', 'sub')}</m:sSub>", "x_{i}"),
        (f"<m:sSubSup>{e('x')}{e('i', 'sub')}{e('2', 'sup')}</m:sSubSup>", "x_{i}^{2}"),
        (f"<m:sSup>{e(FRACTION)}{e('2', 'sup')}</m:sSup>", r"{\frac{a}{b}}^{2}"),
        (f"<m:rad><m:radPr><m:degHide m:val='1'/></m:radPr><m:deg/>{e('x')}</m:rad>", r"\sqrt{x}"),
        (f"<m:rad>{e('3', 'deg')}{e('x')}</m:rad>", r"\sqrt[3]{x}"),
        (f"<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr>{e('i=1', 'sub')}{e('n', 'sup')}{e('x')}</m:nary>",
         r"\sum_{i=1}^{n}x"),
        (f"<m:nary>{e('0', 'sub')}{e('1', 'sup')}{e('f')}</m:nary>", r"\int_{0}^{1}f"),
        (f"<m:d>{e('x')}</m:d>", "(x)"),
        (f"<m:d>{e(FRACTION)}</m:d>", r"\left(\frac{a}{b}\right)"),
        (f"<m:d>{e(NO_BAR)}</m:d>", r"\binom{n}{k}"),
        (f"<m:d><m:dPr><m:begChr m:val='['/><m:endChr m:val=']'/></m:dPr>{e(MATRIX)}</m:d>",
         r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}"),
        (f"<m:d><m:dPr><m:begChr m:val='{{'/><m:endChr m:val=''/></m:dPr>{e(ROWS)}</m:d>",
         r"\begin{cases} a \\ b \end{cases}"),
        (f"<m:acc><m:accPr><m:chr m:val='\u20d7'/></m:accPr>{e('v')}</m:acc>", r"\vec{v}"),
        (f"<m:acc>{e('x')}</m:acc>", r"\hat{x}"),
        (f"<m:bar><m:barPr><m:pos m:val='top'/></m:barPr>{e('AB')}</m:bar>", r"\overline{AB}"),
        (f"<m:func>{e(r('sin', 'p'), 'fName')}{e('x')}</m:func>", r"\sin x"),
        (f"<m:func>{e(r('sgn', 'p'), 'fName')}{e('x')}</m:func>", r"\operatorname{sgn} x"),
        (f"<m:limLow>{e(r('lim', 'p'))}{e('n→∞', 'lim')}</m:limLow>", r"\lim_{n\to\infty}"),
        (f"<m:limLow>{e(BRACE)}{e('two terms', 'lim')}</m:limLow>",
         r"\underbrace{x+y}_{\text{two terms}}"),
        (f"<m:eqArr>{e('a&amp;=b')}{e('c&amp;=d')}</m:eqArr>", r"\begin{aligned} a&=b \\ c&=d \end{aligned}"),
        (f"<m:borderBox>{e('E')}</m:borderBox>", r"\boxed{E}"),
        (f"<m:sPre>{e('a', 'sub')}<m:sup/>{e('X')}</m:sPre>", "{}_{a}X"),
        ("<m:r><m:rPr><m:nor/></m:rPr><m:t>if x_1</m:t></m:r>", r"\text{if x\_1}"),
        ("<m:r><m:rPr><m:scr m:val='double-struck'/></m:rPr><m:t>R</m:t></m:r>", r"\mathbb{R}"),
        (f"<m:eqArr>{e('<m:r><m:t>a=b#</m:t></m:r><m:d>' + e('1') + '</m:d>')}</m:eqArr>", r"a=b\tag{1}"),
        (f"<m:oMathPara><m:oMath>{r('a')}</m:oMath><m:oMath>{r('b')}</m:oMath></m:oMathPara>",
         r"\begin{gathered} a \\ b \end{gathered}"),
        (f"<w:del><m:r><m:t>gone</m:t></m:r></w:del>{r('x')}", "x"),
    ],
)  # fmt: skip
def test_constructs(omml: str, expected: str) -> None:
    assert latex(omml) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("αβ", r"\alpha\beta"),
        ("πr", r"\pi r"),
        ("2π", r"2\pi"),
        ("x≤y", r"x\leq y"),
        ("ℝ𝐀𝑥𝒜", r"\mathbb{R}\mathbf{A}x\mathcal{A}"),
        ("Γ", r"\Gamma"),
        ("50%", r"50\%"),
        ("速度", "速度"),
    ],
)
def test_characters(text: str, expected: str) -> None:
    assert math_latex(text) == expected


def test_strict_namespace_reads_alike() -> None:
    strict = f'<x:oMath xmlns:x="http://purl.oclc.org/ooxml/officeDocument/math">{FRACTION}</x:oMath>'
    assert omml_to_latex(lxml.etree.fromstring(strict.replace("m:", "x:"))) == r"\frac{a}{b}"

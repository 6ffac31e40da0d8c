"""MathML → LaTeX against formulas written by hand, and against a converter of the other direction where installed."""

from __future__ import annotations

import re

import lxml.etree
import lxml.html
import pytest

from athanor.data.extract.mathml import convert, math_to_latex

CASES = {
    r"x=\frac{-b\pm\sqrt{b^{2}-4ac}}{2a}": (
        "<mi>x</mi><mo>=</mo><mfrac><mrow><mo>−</mo><mi>b</mi><mo>±</mo><msqrt><msup><mi>b</mi><mn>2</mn>"
        "</msup><mo>−</mo><mn>4</mn><mi>a</mi><mi>c</mi></msqrt></mrow><mrow><mn>2</mn><mi>a</mi></mrow>"
        "</mfrac>"
    ),
    r"\sum_{i=1}^{n}\alpha_{i}": (
        "<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><msub><mi>α"
        "</mi><mi>i</mi></msub>"
    ),
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}": (
        "<mo>(</mo><mtable><mtr><mtd><mi>a</mi></mtd><mtd><mi>b</mi></mtd></mtr><mtr><mtd><mi>c</mi></mtd>"
        "<mtd><mi>d</mi></mtd></mtr></mtable><mo>)</mo>"
    ),
    r"\begin{bmatrix} 1 & 0 \end{bmatrix}": (
        '<mfenced open="[" close="]"><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr></mtable></mfenced>'
    ),
    r"f(x)=\begin{cases} 0 & \text{if }x<0 \\ 1 & \text{否则} \end{cases}": (
        "<mi>f</mi><mo>&#x2061;</mo><mo>(</mo><mi>x</mi><mo>)</mo><mo>=</mo><mrow><mo>{</mo><mtable><mtr>"
        "<mtd><mn>0</mn></mtd><mtd><mtext>if </mtext><mi>x</mi><mo>&lt;</mo><mn>0</mn></mtd></mtr><mtr><mtd>"
        "<mn>1</mn></mtd><mtd><mtext>否则</mtext></mtd></mtr></mtable></mrow>"
    ),
    r"\begin{aligned} a & =b \\ c & =d \end{aligned}": (
        '<mtable columnalign="right left"><mtr><mtd><mi>a</mi></mtd><mtd><mo>=</mo><mi>b</mi></mtd></mtr>'
        "<mtr><mtd><mi>c</mi></mtd><mtd><mo>=</mo><mi>d</mi></mtd></mtr></mtable>"
    ),
    r"\hat{x}+\overrightarrow{AB}+\bar{z}": (
        '<mover accent="true"><mi>x</mi><mo>^</mo></mover><mo>+</mo><mover><mrow><mi>A</mi><mi>B</mi></mrow>'
        "<mo>→</mo></mover><mo>+</mo><mover><mi>z</mi><mo>¯</mo></mover>"
    ),
    r"\lim_{n\to\infty}\sin\theta": (
        "<munder><mi>lim</mi><mrow><mi>n</mi><mo>→</mo><mi>∞</mi></mrow></munder><mi>sin</mi><mo>&#x2061;"
        "</mo><mi>θ</mi>"
    ),
    r"\underbrace{a+b}_{n}": (
        "<munder><munder><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mo>⏟</mo></munder><mi>n</mi></munder>"
    ),
    r"{}_{6}^{12}C": ("<mmultiscripts><mi>C</mi><mprescripts/><mn>6</mn><mn>12</mn></mmultiscripts>"),
    r"R_{i}{}^{j}": ("<mmultiscripts><mi>R</mi><mi>i</mi><none/><none/><mi>j</mi></mmultiscripts>"),
    r"\binom{n}{k}": ('<mo>(</mo><mfrac linethickness="0"><mi>n</mi><mi>k</mi></mfrac><mo>)</mo>'),
    r"\left(\frac{1}{2}\right)^{k}": (
        "<msup><mrow><mo>(</mo><mfrac><mn>1</mn><mn>2</mn></mfrac><mo>)</mo></mrow><mi>k</mi></msup>"
    ),
    r"(a,b)": ("<mfenced><mi>a</mi><mi>b</mi></mfenced>"),
    r"\sqrt[3]{x}": ("<mroot><mi>x</mi><mn>3</mn></mroot>"),
    r"\mathbb{R}\mathbf{v}\mathcal{L}": ('<mi>ℝ</mi><mi mathvariant="bold">v</mi><mi mathvariant="script">L</mi>'),
    r"f'": ("<msup><mi>f</mi><mo>′</mo></msup>"),
    r"90^{\circ}": ("<msup><mn>90</mn><mo>°</mo></msup>"),
    r"{x_{1}}^{2}": ("<msup><msub><mi>x</mi><mn>1</mn></msub><mn>2</mn></msup>"),
    r"\operatorname{softmax}(z)": ("<mi>softmax</mi><mo>&#x2061;</mo><mo>(</mo><mi>z</mi><mo>)</mo>"),
    r"\boxed{x}\quad y": ('<menclose notation="box"><mi>x</mi></menclose><mspace width="1em"/><mi>y</mi>'),
    r"\int_{0}^{1}f\,dx": (
        '<msubsup><mo>∫</mo><mn>0</mn><mn>1</mn></msubsup><mi>f</mi><mspace width="0.17em"/><mi>d</mi><mi>x</mi>'
    ),
    r"A\xrightarrow{f}B": ("<mi>A</mi><mover><mo>→</mo><mi>f</mi></mover><mi>B</mi>"),
    r"\overset{!}{=}": ("<mover><mo>=</mo><mo>!</mo></mover>"),
    r"50\%": ("<mn>50</mn><mo>%</mo>"),
    r"\{x\mid x>0\}": ("<mo>{</mo><mi>x</mi><mo>∣</mo><mi>x</mi><mo>&gt;</mo><mn>0</mn><mo>}</mo>"),
}


@pytest.mark.parametrize("latex", CASES)
def test_formula(latex: str) -> None:
    assert math_to_latex(lxml.html.fragment_fromstring(f"<math>{CASES[latex]}</math>")) == latex


def test_namespaces_and_prefixes_are_read() -> None:
    name = "http://www.w3.org/1998/Math/MathML"
    spaced = lxml.etree.fromstring(f'<math xmlns="{name}"><msup><mi>x</mi><mn>2</mn></msup></math>')
    prefixed = lxml.etree.fromstring(f'<m:math xmlns:m="{name}"><m:msup><m:mi>x</m:mi><m:mn>2</m:mn></m:msup></m:math>')
    assert math_to_latex(spaced) == math_to_latex(prefixed) == "x^{2}"


def test_annotation_and_alttext_win_over_conversion() -> None:
    annotated = (
        "<math><semantics><mi>q</mi><annotation encoding='application/x-tex'>{\\displaystyle a_{1}&lt;b}</annotation>"
        "</semantics></math>"
    )
    assert math_to_latex(lxml.html.fragment_fromstring(annotated)) == "a_{1}<b"
    assert math_to_latex(lxml.html.fragment_fromstring(r'<math alttext="\alpha_0"><mi>q</mi></math>')) == r"\alpha_0"
    # An alternative text in words is no formula.
    assert math_to_latex(lxml.html.fragment_fromstring('<math alttext="alpha sub zero"><mi>q</mi></math>')) == "q"


def test_unknown_elements_lose_no_text_and_depth_is_bounded() -> None:
    assert convert(lxml.html.fragment_fromstring("<math><mfoo><mi>x</mi><mbar>y</mbar></mfoo>z</math>")) == "xyz"
    deep = "<math>" + "<msqrt>" * 600 + "<mi>x</mi>" + "</msqrt>" * 600 + "</math>"
    assert "x" in convert(lxml.html.fragment_fromstring(deep, parser=lxml.html.HTMLParser(huge_tree=True)))


ROUND_TRIP = [
    r"\frac{a+b}{c}", r"x_{i}^{2}+y_{ij}", r"\sum_{i=1}^{n}i=\frac{n(n+1)}{2}", r"\int_{0}^{\infty}e^{-x^{2}}dx",
    r"\hat{\theta}=\max_{\theta}\mathcal{L}(\theta)", r"\nabla\times\mathbf{E}=-\frac{\partial\mathbf{B}}{\partial t}",
    r"\prod_{p}\frac{1}{1-p^{-s}}", r"\mathbb{E}[X]=\mu", r"|x|+\|y\|", r"\lfloor x\rfloor", r"\forall x\exists y",
]  # fmt: skip


@pytest.mark.parametrize("latex", ROUND_TRIP)
def test_round_trip_through_another_converter(latex: str) -> None:
    converter = pytest.importorskip("latex2mathml.converter")
    back = convert(lxml.html.fragment_fromstring(converter.convert(latex)))
    assert re.sub(r"\s", "", back) == re.sub(r"\s", "", latex)

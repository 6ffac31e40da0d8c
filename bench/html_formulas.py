"""Pages with formulas in each markup that the web uses, made from LaTeX, and whether an extraction still holds them.

A formula of a raw kind (``\\(…\\)``, ``\\[…\\]``, ``$$…$$``) counts as kept when its source stands in the output letter
by letter; of every other kind, when its LaTeX tokens (``docling_score.latex_tokens``: without spacing, sizing and font
commands and braces) stand one after the other in the output's. MathML comes from ``latex2mathml`` where installed.
"""

from __future__ import annotations

import html
from collections.abc import Callable

from bench.docling_score import latex_tokens

#: One field after the other, so that a page reads like an article of any of them.
FORMULAS = [
    r"\frac{a+b}{c-d}", r"x_{i}^{2}+y_{ij}", r"\sqrt{1+\sqrt[3]{x}}", r"\sum_{i=1}^{n}i=\frac{n(n+1)}{2}",
    r"\int_{0}^{\infty}e^{-x^{2}}dx", r"\lim_{x\to0}\frac{\sin x}{x}=1", r"\begin{pmatrix} a&b\\c&d\end{pmatrix}",
    r"\begin{cases} x&x>0\\-x&x\leq0\end{cases}", r"\hat{\theta}_{n}\to\theta", r"\mathbb{E}[X]=\mu",
    r"\left(\frac{1}{n}\right)^{k}", r"\overline{AB}\perp\vec{v}",
    r"\nabla\times\mathbf{E}=-\frac{\partial\mathbf{B}}{\partial t}",
    r"\underbrace{a+b}_{n}", r"\prod_{p}\frac{1}{1-p^{-s}}", r"f'(x)=2ax+b", r"\alpha+\beta\leq\Gamma\Delta",
    r"\|y-X\beta\|_{2}^{2}+\lambda\|\beta\|_{1}", r"\log_{2}n\approx3.32\log_{10}n",
    r"\oint_{C}\mathbf{F}\cdot d\mathbf{r}",
    r"\forall x\exists y:x<y", r"\lfloor x\rfloor+\lceil y\rceil", r"p(x\mid\theta)\propto e^{-x^{2}/2}",
    r"A\cap B\subseteq A\cup B", r"E=mc^{2}", r"\dot{x}=\frac{\partial H}{\partial p}", r"a\equiv b",
    r"\widehat{ABC}=90^{\circ}",
]  # fmt: skip
_WORDS = (
    "The measured value follows from {} when the boundary terms are dropped, as the earlier section showed at length, "
    "and the remaining error stays below the noise of the instrument."
)
_CHINESE = "由上文可知，{} 在边界项为零时成立；其余误差低于仪器噪声，因此下文不再讨论，读者可以自行验证。"

Markup = Callable[[str], str]


def _mathml(latex: str, display: str, annotation: bool) -> str:
    from latex2mathml.converter import convert

    math = convert(latex, display=display)
    if not annotation:
        return str(math)
    inner = math[math.index(">") + 1 : math.rindex("</math>")]
    note = f'<annotation encoding="application/x-tex">{html.escape(latex)}</annotation>'
    return f"{math[: math.index('>') + 1]}<semantics>{inner}{note}</semantics></math>"


def _katex(math: str, latex: str) -> str:
    drawn = f'<span class="katex-html" aria-hidden="true"><span class="base">{html.escape(latex[-6:])}</span></span>'
    return f'<span class="katex"><span class="katex-mathml">{math}</span>{drawn}</span>'


def kinds() -> dict[str, Markup]:
    """Name of a markup → LaTeX → its HTML."""
    found: dict[str, Markup] = {
        "script math/tex": lambda f: f'<script type="math/tex">{f}</script>',
        "script math/tex display": lambda f: (
            f'<span class="MathJax_Preview"></span><div class="MathJax_Display"><span class="MathJax">drawn'
            f'</span></div><script type="math/tex; mode=display">{f}</script>'
        ),
        "data-tex": lambda f: f'<span class="ztext-math" data-tex="{html.escape(f)}">drawn</span>',
        "image alt": lambda f: (
            f'<img class="tex" src="i.png" alt="{html.escape("{" + chr(92) + "displaystyle " + f + "}")}">'
        ),
        r"raw \(…\)": lambda f: f"\\({html.escape(f)}\\)",
        r"raw \[…\]": lambda f: f"\\[{html.escape(f)}\\]",
        "raw $$…$$": lambda f: f"$${html.escape(f)}$$",
    }
    try:
        import latex2mathml.converter  # noqa: F401
    except ImportError:
        return found
    return found | {
        "MathML annotated": lambda f: _mathml(f, "inline", True),
        "MathML bare": lambda f: _mathml(f, "inline", False),
        "MathML bare display": lambda f: _mathml(f, "block", False),
        "KaTeX": lambda f: _katex(_mathml(f, "inline", True), f),
        "KaTeX without TeX": lambda f: _katex(_mathml(f, "inline", False), f),
        "MathJax 3": lambda f: (
            '<mjx-container class="MathJax" jax="CHTML"><mjx-math class="MJX-TEX"></mjx-math><mjx-assistive-mml>'
            f"{_mathml(f, 'inline', False)}</mjx-assistive-mml></mjx-container>"
        ),
        "Wikipedia": lambda f: (
            f'<span class="mwe-math-element"><span style="display: none">{_mathml(f, "inline", True)}</span>'
            f'<img class="mwe-math-fallback-image-inline" alt="{html.escape(f)}"></span>'
        ),
    }


def page(markup: Markup, formulas: list[str]) -> str:
    """An article with a formula in every paragraph, navigation before and a footer behind it."""
    links = "".join(f'<li><a href="/{n}">Chapter {n} of the notes</a></li>' for n in range(10))
    text = "".join(
        f"<p>{(_CHINESE if n % 3 == 2 else _WORDS).format(markup(formula))}</p>" for n, formula in enumerate(formulas)
    )
    return (
        f"<html><head><title>Notes</title></head><body><nav><ul>{links}</ul></nav><main><article>{text}</article></main>"
        "<footer><p>All rights reserved by the authors of these notes.</p></footer></body></html>"
    )


def kept(kind: str, text: str, formulas: list[str]) -> float:
    """Share of the formulas that ``text`` still holds."""
    if kind.startswith("raw"):
        opening, closing = kind[4:].split("…")
        return sum(f"{opening}{formula}{closing}" in text for formula in formulas) / len(formulas)
    tokens = " ".join(latex_tokens(text))
    return sum(" ".join(latex_tokens(formula)) in tokens for formula in formulas) / len(formulas)

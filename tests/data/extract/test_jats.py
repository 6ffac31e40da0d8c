"""Journal articles: text, tables, formulas with TeX or MathML, nothing of the references."""

from __future__ import annotations

import pytest

from athanor.data.extract.jats import extract_jats
from athanor.data.extract.types import Unreadable

ARTICLE = """<article xml:lang="en" xmlns:mml="http://www.w3.org/1998/Math/MathML"><front><article-meta><title-group>
<article-title>On <italic>ducks</italic></article-title></title-group><abstract><p>Short.</p></abstract></article-meta>
</front><body><sec><label>1</label><title>Methods</title><p>We see
<inline-formula><alternatives><mml:math><mml:mi>y</mml:mi>
</mml:math><tex-math>\\documentclass{a}\\begin{document}$$x_1$$\\end{document}</tex-math></alternatives></inline-formula>
<inline-formula><mml:math><mml:msup><mml:mi>z</mml:mi><mml:mn>2</mml:mn></mml:msup></mml:math></inline-formula> at
10<sup>6</sup><xref rid="r">[1]</xref>.<disp-formula><tex-math>E=mc^2</tex-math></disp-formula>After.</p>
<sec><title>Deeper</title><list list-type="order"><list-item><p>one</p></list-item></list>
<table-wrap><label>Table 1</label><caption><p>Counts</p></caption><table><tr><th>a</th><th colspan="2">b</th></tr>
<tr><td>1</td><td>2</td><td>3</td></tr></table></table-wrap></sec></sec></body>
<back><ref-list><ref><mixed-citation>Someone, 1999</mixed-citation></ref></ref-list></back></article>"""


def test_an_article() -> None:
    found = extract_jats(ARTICLE.encode())
    assert found.text == (
        "# On ducks\n\n## Abstract\n\nShort.\n\n## 1 Methods\n\nWe see $x_1$ $z^{2}$ at 10⁶[1].\n\n$$E=mc^2$$\n\n"
        "After.\n\n"
        "### Deeper\n\n1. one\n\nTable 1. Counts\n\n<table>\n"
        '<tr><th>a</th><th colspan="2">b</th></tr>\n<tr><td>1</td><td>2</td><td>3</td></tr>\n</table>\n'
    )
    assert found.meta == {"format": "jats", "tables": 1, "formulas": 3, "title": "On ducks", "language": "en"}


def body(inner: str) -> str:
    found = extract_jats(f"<article><body>{inner}</body><back>{NOTES}</back></article>".encode()).text
    return found.removesuffix("\n")


NOTES = (
    """<fn-group><fn id="n1"><label>a</label><p>A note.</p></fn><fn id="n2"><p>Not referred to.</p></fn></fn-group>"""
)


def test_notes_and_citations() -> None:
    cite = '<xref ref-type="bibr" rid="b{0}">{0}</xref>'
    one, two = cite.format(1), cite.format(2)
    assert body(
        f'<p>Word{one},{two}. [{one}, {two}] <sup>{one}</sup> x<xref ref-type="fn" rid="n1"><sup>a</sup></xref></p>'
    ) == ("Word[1,2]. [1, 2] ¹ x[^1]\n\n[^1]: A note.")
    table = """<table-wrap><table><tr><td>N<xref ref-type="table-fn" rid="t"><sup>1</sup></xref></td><td>2</td></tr>
    </table><table-wrap-foot><fn id="t"><label>1</label><p>Normalised.</p></fn></table-wrap-foot></table-wrap>"""
    assert body(table) == "| N¹ | 2 |\n| --- | --- |\n\n1 Normalised."


def test_lists_keep_labels_order_and_code() -> None:
    inner = """<list list-type="simple"><list-item><label>(i)</label><p>first</p><list list-type="bullet"><list-item>
    <p>nested</p></list-item></list><p>more</p></list-item><list-item><label>(ii)</label><p>second</p>
    <preformat>a\n  b</preformat></list-item></list><def-list><def-item><term>ATP</term><def><p>a thing</p></def>
    </def-item></def-list><statement><label>Theorem 1</label><p>All.</p></statement><fig><caption><p>C.</p></caption>
    <alt-text>ALT</alt-text></fig>"""
    assert body(inner) == (
        "(i) first\n    - nested\n    more\n(ii) second\n    ```\n    a\n      b\n    ```\n\n- ATP: a thing\n\n"
        "Theorem 1. All.\n\nC."
    )


def test_sections_of_an_abstract_stand_below_it() -> None:
    raw = "<article><abstract><title>Summary</title><sec><title>Aim</title><p>x</p></sec></abstract></article>"
    assert extract_jats(raw.encode()).text == "## Summary\n\n### Aim\n\nx\n"


@pytest.mark.parametrize("raw", [b"<article><body>", b"", b"<article/>"])
def test_broken_articles_are_told_why(raw: bytes) -> None:
    with pytest.raises(Unreadable, match="broken jats|empty"):
        extract_jats(raw)

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


@pytest.mark.parametrize("raw", [b"<article><body>", b"", b"<article/>"])
def test_broken_articles_are_told_why(raw: bytes) -> None:
    with pytest.raises(Unreadable, match="broken jats|empty"):
        extract_jats(raw)

"""Pages written here, with what a reader sees of them: the text, in order, once, without what stands around it."""

from __future__ import annotations

import re
import time

import pytest

from athanor.data.extract.html import extract_html
from athanor.data.extract.html_decode import clean_text, decode
from athanor.data.extract.types import Unreadable

SENTENCE = (
    "The furnace kept a steady heat through the night, and by morning number {} of the vessels had turned clear. "
)


def article(body: str) -> str:
    """A news page: navigation, share bar, the text, related links, comments, footer."""
    links = "".join(f'<li><a href="/s{n}">Section number {n} of the paper</a></li>' for n in range(12))
    related = "".join(f'<li><a href="/r{n}">Related story number {n} that leads away</a></li>' for n in range(6))
    return f"""<!doctype html><html lang="en-GB"><head><title>On furnaces</title><style>p {{}}</style></head><body>
    <nav><ul>{links}</ul></nav><div class="share-bar"><a href="#">Share on everything</a></div>
    <div class="story-body">{body}</div><div class="related"><h3>More stories</h3><ul>{related}</ul></div>
    <section id="comments"><div class="comment"><p>A reader's remark that is long enough to look like prose, surely.</p>
    </div></section><footer><p>Copyright of the paper, all rights reserved, terms of use and privacy.</p></footer>
    <script>var tracked = "never shown";</script></body></html>"""


PROSE = [f"<p>{SENTENCE.format(n) * 3}</p>" for n in range(6)]


def test_article_comes_without_what_stands_around_it() -> None:
    page = extract_html(article("".join(PROSE)), url="https://example.org/a")
    assert page.text == "\n\n".join((SENTENCE.format(n) * 3).strip() for n in range(6))
    assert page.meta == {"format": "html", "title": "On furnaces", "url": "https://example.org/a", "language": "en"}


def test_tables_listings_and_formulas_inside_an_article_survive() -> None:
    inserted = (
        "<h2>Figures</h2><table><tr><th>vessel</th><th>heat</th></tr><tr><td>a|b</td><td>900</td></tr></table>"
        '<pre><code class="language-python">def heat():\n    return 900\n</code></pre>'
        '<math display="block"><mi>Q</mi><mo>=</mo><mi>m</mi><mi>c</mi></math>'
    )
    page = extract_html(article("".join(PROSE[:3]) + inserted + "".join(PROSE[3:])))
    middle = "## Figures\n\n| vessel | heat |\n| --- | --- |\n| a\\|b | 900 |\n\n"
    assert f"{middle}```python\ndef heat():\n    return 900\n```\n\n$$Q=mc$$\n\nThe furnace" in page.text
    assert page.text.count("The furnace") == 18
    assert page.meta["tables"] == page.meta["formulas"] == 1


def test_article_in_several_containers_is_whole() -> None:
    parts = "".join(f'<div class="grid body"><div class="chunk">{p}</div></div><aside>Ad</aside>' for p in PROSE)
    page = extract_html(article(parts))
    assert [f"number {n} of" in page.text for n in range(6)] == [True] * 6
    assert "Section number" not in page.text and "Related story" not in page.text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>Hello $x$</p>", "Hello $x$"),
        ("<p>one</p><p>two<br>three</p>", "one\n\ntwo\nthree"),
        ("just words", "just words"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
        ('<ol start="3"><li>x</li><li><p>y</p><p>z</p></li></ol>', "3. x\n4. y\n\n   z"),
        ("<blockquote><p>q</p><p>r</p></blockquote>", "> q\n>\n> r"),
        ("<dl><dt>term</dt><dd>meaning</dd></dl>", "- term\n  - meaning"),
        ("<h1>T</h1><h3>U</h3><p>v</p>", "# T\n\n### U\n\nv"),
        ("<p>see <a href='https://e.org'>the page</a>, call <code>f(x)</code></p>", "see the page, call `f(x)`"),
        ("<p>H<sub>2</sub>O, x<sup>2</sup>, 1<sup>st</sup></p>", "H₂O, x², 1st"),
        ("<p><i>x</i><sub>i</sub>, e<sup>x</sup>, M<sup>lle</sup></p>", "x_i, e^x, Mlle"),
        ('<pre class="lang-cpp">int  a;<br>int b;</pre>', "```cpp\nint  a;\nint b;\n```"),
        ("<pre>a\n```\nb</pre>", "````\na\n```\nb\n````"),
        ("<p>中文\n分行，“标点”。</p>", "中文分行，“标点”。"),
        ("<div>　　第一段。<br><br>　　第二段。</div>", "第一段。\n\n第二段。"),
        ("<?xml version='1.0'?><html><head><title/></head><body><p><a id='x'/>x</p></body></html>", "x"),
        ("<p>snake_case *stars* [brackets] 1. #no</p>", "snake_case *stars* [brackets] 1. #no"),
        ("<p hidden>no</p><p style='display: none'>no</p><p>yes</p>", "yes"),
    ],
)
def test_small_pages(markup: str, text: str) -> None:
    assert extract_html(markup).text == text


def test_cells_with_several_lines_and_spans_stay_a_table() -> None:
    page = extract_html("<table><tr><th colspan=2>A</th></tr><tr><td><p>1</p><p>2</p></td><td>3</td></tr></table>")
    assert page.text == '<table>\n<tr><th colspan="2">A</th></tr>\n<tr><td>1<br>2</td><td>3</td></tr>\n</table>'


def test_layout_tables_are_paragraphs() -> None:
    cell = f"<h2>Part</h2><p>{SENTENCE * 8}</p>"
    page = extract_html(f"<table><tr><td>{cell}</td><td>{cell}</td></tr><tr><td>{cell}</td><td>x</td></tr></table>")
    assert "|" not in page.text and "<td>" not in page.text and page.text.count("## Part") == 3


def test_table_in_a_cell_gives_its_words_and_in_a_layout_stays_a_table() -> None:
    inner = "<table><tr><th>kind</th><th>sound</th></tr><tr><td>short</td><td>quak</td></tr></table>"
    data = extract_html(f"<table><tr><th>who</th><th>what</th></tr><tr><td>duck</td><td>{inner}</td></tr></table>").text
    assert "<td>duck</td><td>kind sound<br>short quak</td>" in data
    layout = extract_html(f"<table><tr><td><p>{SENTENCE * 4}</p></td><td>{inner}</td></tr></table>").text
    assert "| kind | sound |\n| --- | --- |\n| short | quak |" in layout


MATHML = "<math><semantics><mrow><msub><mi>x</mi><mn>1</mn></msub></mrow>{}</semantics></math>"
ANNOTATED = MATHML.format('<annotation encoding="application/x-tex">x_1</annotation>')
KATEX = (
    '<span class="katex"><span class="katex-mathml">{}</span>'
    '<span class="katex-html" aria-hidden="true">x1</span></span>'
)


@pytest.mark.parametrize(
    ("markup", "formula"),
    [
        (ANNOTATED, "$x_1$"),
        (MATHML.format(""), "$x_{1}$"),
        (KATEX.format(ANNOTATED), "$x_1$"),
        (KATEX.format(MATHML.format("")), "$x_{1}$"),
        (f'<span class="katex-display">{KATEX.format(ANNOTATED)}</span>', "$$x_1$$"),
        ('<script type="math/tex">x_1</script>', "$x_1$"),
        ('<script type="math/tex; mode=display">x_1 &lt; 2</script>', "$$x_1 < 2$$"),
        (
            '<span class="MathJax_Preview">x</span><span class="MathJax" id="MathJax-1-Frame"><nobr>x1</nobr></span>'
            '<script type="math/tex">x_1</script>',
            "$x_1$",
        ),
        (
            '<span class="MathJax" data-mathml="&lt;math&gt;&lt;mi&gt;y&lt;/mi&gt;&lt;/math&gt;"><nobr>y</nobr></span>',
            "$y$",
        ),
        (
            f'<mjx-container class="MathJax" display="true"><mjx-math></mjx-math><mjx-assistive-mml>{MATHML.format("")}'
            "</mjx-assistive-mml></mjx-container>",
            "$$x_{1}$$",
        ),
        (
            f'<span class="mwe-math-element"><span style="display: none;">{ANNOTATED}</span>'
            '<img class="mwe-math-fallback-image-inline" alt="{\\displaystyle x_1}"></span>',
            "$x_1$",
        ),
        ('<img class="mwe-math-fallback-image-inline" alt="{\\displaystyle x_{1}}">', "$x_{1}$"),
        ('<span class="ztext-math" data-tex="x_1">x1</span>', "$x_1$"),
        ('<img src="https://www.zhihu.com/equation?tex=x_1%5E2" alt="公式">', "$x_1^2$"),
        ('<img class="tex" alt="\\frac{1}{2}" src="i.png">', r"$\frac{1}{2}$"),
        ('<span class="math inline">x_1^2</span>', "$x_1^2$"),
        (r'<span class="math inline">\(x_1\)</span>', "$x_1$"),
        (r"\(x_1 * y_2\)", r"\(x_1 * y_2\)"),
        (r"$$x_1 * y_2$$", r"$$x_1 * y_2$$"),
        (r"\[x_1 * y_2\]", r"\[x_1 * y_2\]"),
    ],
)
def test_formula_is_kept_once_in_its_place(markup: str, formula: str) -> None:
    text = extract_html(f"<html><body><p>before {markup} after</p></body></html>").text
    assert " ".join(text.split()) == f"before {formula} after"
    inside = extract_html(article("".join(PROSE[:3]) + f"<p>As before {markup} after.</p>" + "".join(PROSE[3:]))).text
    assert inside.count(formula) == 1 and len(re.findall("The furnace", inside)) == 18


def test_katex_without_its_mathml_gives_the_drawn_signs() -> None:
    drawn = '<span class="katex"><span class="katex-html" aria-hidden="true">a<span>≤</span>b</span></span>'
    assert extract_html(f"<p>if {drawn} then</p>").text == r"if $a\leq b$ then"


def test_chinese_page_in_gbk_keeps_punctuation() -> None:
    prose = "炉火整夜不熄，到了清晨，容器里的液体已经变得清澈；“这正是我们等待的。”他说——然后记下了温度：九百度。"
    page = article("".join(f"<p>第{n}段。{prose * 2}</p>" for n in range(4))).replace(
        "<style>", '<meta charset="gb2312"><style>'
    )
    found = extract_html(page.encode("gb18030"))
    assert found.text == "\n\n".join(f"第{n}段。{prose * 2}" for n in range(4))
    assert found.meta["encoding"] == "gb18030"


# -- bad input --


@pytest.mark.parametrize(
    ("opening", "inner", "closing"),
    [
        ("<div>", "<p>deep words</p>", "</div>"),
        ("<b>", "deep words", ""),
        ("<ul><li>", "deep words", ""),
        ("<table><tr><td>", "deep words", ""),
        ("<blockquote>", "deep words", "</blockquote>"),
        ("<math><mrow>", "<mi>x</mi></mrow></math> deep words", ""),
    ],
)
def test_nesting_a_hundred_thousand_deep(opening: str, inner: str, closing: str) -> None:
    start = time.process_time()
    text = extract_html(opening * 100_000 + inner + closing * 100_000 + "<p>and after</p>").text
    assert "deep words" in text and "and after" in text
    assert time.process_time() - start < 10


def test_pages_larger_than_the_marks_reach_lose_nothing() -> None:
    links = "".join(f'<li><a href="/{n}">Chapter number {n}</a></li>' for n in range(20))
    page = f"<nav><ul>{links}</ul></nav>" + "".join(f"<p>line {n}</p>" for n in range(50_000))
    text = extract_html(page).text
    assert text.count("line ") == 50_000 and "Chapter" not in text


def test_nul_bytes_controls_and_surrogates_go() -> None:
    assert extract_html(b"<p>a\x00b\x07c</p>").text == "abc"
    assert extract_html("<p>a\ud800b \ud83d\ude00</p>").text == "a\ufffdb 😀"
    assert clean_text("plain\n\ttext") == "plain\n\ttext"


@pytest.mark.parametrize(
    ("raw", "declared", "text"),
    [
        ("中文，标点。".encode(), "iso-8859-1", "中文，标点。"),  # wrong header
        (
            b'<meta charset="utf-8">' + "中文文本，编码声明是错的。".encode("gb18030"),
            None,
            "中文文本，编码声明是错的。",
        ),
        ("naïve café".encode("latin-1"), "utf-8", "naïve café"),
        ("\ufeff标记".encode("utf-16"), None, "标记"),
        ("<p>no mark at all</p>".encode("utf-16-le"), None, "<p>no mark at all</p>"),
        ("Привет, мир".encode("cp1251"), "windows-1251", "Привет, мир"),
        (
            b"<?xml version='1.0' encoding='shift_jis'?>" + "日本語の文章です。".encode("cp932"),
            None,
            "日本語の文章です。",
        ),
        ("中文".encode(), "no-such-charset", "中文"),
    ],
)
def test_charset_is_found_whatever_is_declared(raw: bytes, declared: str | None, text: str) -> None:
    assert decode(raw, declared)[0].endswith(text)


def test_lines_of_two_encodings_are_each_read() -> None:
    raw = "第一行是统一码，没有问题。\n".encode() + "第二行是国标码，也没有问题。\n".encode("gb18030")
    text, name = decode(raw * 3, "gbk")
    assert text == "第一行是统一码，没有问题。\n第二行是国标码，也没有问题。\n" * 3 and name == "utf-8+gb18030"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty page"),
        (b" \n\x00 ", "empty page"),
        (b"<html><head><title>t</title></head><body></body></html>", "no text"),
        (b"<script>only()</script><style>p{}</style>", "no text"),
        (b"<!-- only a remark -->", "no text|empty page"),
        (b"x" * 101, "too large"),
    ],
)
def test_pages_without_text_say_why(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=f"^(?:{reason})"):
        extract_html(raw, max_bytes=100)


def test_random_bytes_never_crash() -> None:
    import random

    draw = random.Random(5)
    for _ in range(60):
        pieces = [
            draw.randbytes(6),
            b"<p>",
            b"<table><td>",
            b"<math><mfrac>",
            b"</div>",
            b"&#0;&#xd800;",
            b"<pre>",
            b"$$",
        ]
        raw = b"".join(draw.choice(pieces) for _ in range(60))
        try:
            extract_html(raw, encoding=draw.choice([None, "gbk", "utf-8", "rot13", "utf-16"])).text.encode()
        except Unreadable:
            continue


def test_lines_of_a_listing_that_are_elements_stay_lines() -> None:
    lines = '<div class="line">x = 1</div><div class="line">  y = 2</div><div><br></div><div>z</div>'
    page = f"<pre><code>{lines}</code></pre>"
    text = extract_html(f"<article><h1>Listing</h1><p>{'Some words of prose. ' * 20}</p>{page}</article>").text
    assert "```\nx = 1\n  y = 2\n\nz\n```" in text

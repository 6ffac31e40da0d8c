"""Kinds of pages that a library made for news reads badly: threads, manuals, products, pages that scripts fill."""

from __future__ import annotations

import json

import pytest

from athanor.data.extract.html import blocks_of, extract_html
from athanor.data.extract.html_fill import is_article, with_posts
from athanor.data.extract.html_select import Page
from athanor.data.extract.html_tree import parse

ARTICLE = '<meta property="og:type" content="article">'
LONG = "The pump runs dry when the float sticks, and then the relay keeps it switched on until somebody comes to look. "
NAV = "<nav><ul>" + "".join(f'<li><a href="/{n}">Section {n} of the site</a></li>' for n in range(8)) + "</ul></nav>"


def page(body: str, title: str = "Pumps", head: str = "") -> str:
    return f"""<html><head><title>{title}</title>{head}</head><body>{NAV}{body}
    <footer><p>Terms of use and privacy of the whole site, all rights reserved.</p></footer></body></html>"""


def text_of(body: str, **given: str) -> str:
    return extract_html(page(body, **given)).text


# -- threads --


def forum(*posts: str) -> str:
    return "<div id='posts'>" + "".join(
        f"<div id='p{n}' class='post bg{n % 2}'><dl class='postprofile'><dt><a href='/u'>member{n}</a></dt>"
        f"<dd>Posts: {n}</dd></dl><div class='postbody'><div class='content'>{post}</div></div></div>"
        for n, post in enumerate(posts)
    ) + "</div>"  # fmt: skip


def test_short_reply_behind_a_quotation_is_a_post_like_the_others() -> None:
    quoted = "<blockquote><div>It keeps running.</div></blockquote>Look at the relay."
    text = text_of(forum(LONG * 2 + "<br>It keeps running.", quoted, LONG + "<br>That was it, thank you.", "Good."))
    assert "Look at the relay." in text and text.rstrip().endswith("Good.")
    assert text.index("Look at the relay.") < text.index("That was it")
    assert "Posts:" not in text and "Section 3" not in text


def test_replies_inside_replies_are_posts_too() -> None:
    def reply(text: str, *below: str) -> str:
        own = f"<form class='ut'><div class='ut-body'><div class='md'><p>{text}</p></div></div></form>"
        return f"<div class='thing'><div class='entry'>{own}</div><div class='child'>{''.join(below)}</div></div>"

    inner = reply("So wait for August?", reply("Yes."))
    text = text_of(f"<div class='thread'>{reply(LONG * 2)}{reply(LONG * 2, inner)}{reply(LONG)}</div>")
    assert f"{(LONG * 2).strip()}\n\nSo wait for August?\n\nYes.\n\nThe pump" in text


def test_columns_of_a_grid_are_no_posts() -> None:
    side = "<div class='col-md-4'><p>2019</p><p>2018</p><p>Archives of the years</p></div>"
    body = f"<div class='row'><div class='col-md-8'><p>{LONG * 4}</p><p>{LONG * 4}</p></div>{side}</div>"
    root = parse(page(body))
    blocks, _ = blocks_of(root, body)
    chosen = [block.text.startswith("The pump") or block.text == "2019" for block in blocks]
    assert with_posts(Page(root, blocks), chosen) is None
    root = parse(page(body.replace("col-md", "post")))
    blocks, _ = blocks_of(root, body)
    assert sum(with_posts(Page(root, blocks), chosen) or []) == sum(chosen) + 2


QA = """<div itemscope itemtype="https://schema.org/Question"><h1>Why does it run dry?</h1>
<div class="q"><div class="prose" itemprop="text"><p>{long}</p></div>
<ul class="tags"><li><a href="/t">pump</a></li></ul></div>
<div class="a" itemscope itemtype="https://schema.org/Answer"><span>41</span><div class="prose" itemprop="text">
<p>Clean the float.</p><pre><code>pump --reset</code></pre></div></div>
<div class="a" itemscope itemtype="https://schema.org/Answer"><span>2</span><div class="prose" itemprop="text">
<p>Replace it.</p></div></div></div>"""


def test_declared_answers_are_content_however_short() -> None:
    text = text_of(QA.format(long=LONG * 3), title="hardware - Why does it run dry? - Pump Exchange")
    assert text == (
        f"# Why does it run dry?\n\n{(LONG * 3).strip()}\n\nClean the float.\n\n```\npump --reset\n```\n\nReplace it."
    )


# -- titles, captions, boxes --

MANUAL = """<div class="doc"><header><h1>Pumps</h1></header><p>{long}</p>
<figure><img src="a.png"><figcaption>The float in its cage.</figcaption></figure><p>{long}</p><h2>Care</h2>
<div class="box"><div class="words">Never oil the float.</div></div><p>{long}</p></div>"""


def test_manual_keeps_its_title_captions_and_boxes() -> None:
    text = text_of(MANUAL.format(long=LONG * 3), title="Pumps | Manual")
    assert text.startswith("# Pumps\n\nThe pump")
    assert "\n\nThe float in its cage.\n\n" in text and "\n\nNever oil the float.\n\n" in text


def test_title_of_a_declared_article_is_a_datum_of_its_own() -> None:
    found = extract_html(page(MANUAL.format(long=LONG * 3), title="Pumps | Paper", head=ARTICLE))
    assert found.text.startswith("The pump") and found.meta["title"] == "Pumps | Paper"


def test_captions_of_tables_are_kept_in_articles_and_those_of_pictures_are_not() -> None:
    rows = "<tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr>"
    table = f"<figure><table>{rows}</table><figcaption>Sizes.</figcaption></figure>"
    picture = "<figure><img src='a.png'><figcaption>A picture by the agency.</figcaption></figure>"
    body = f"<div class='body'><p>{LONG * 3}</p>{table}<p>{LONG * 3}</p>{picture}<p>{LONG * 3}</p></div>"
    text = text_of(body, head=ARTICLE)
    assert "| 1 | 2 |\n\nSizes.\n\nThe pump" in text and "agency" not in text


def test_word_footer_in_a_note_is_no_frame() -> None:
    note = "<div class='footer-note'>Paid in cash.</div>"
    text = extract_html(f"<div class='box'><h1>Receipt</h1><div>Table 13</div>{note}</div>").text
    assert text == "# Receipt\n\nTable 13\n\nPaid in cash."


def test_name_of_the_site_is_no_title() -> None:
    body = f"<h1>Pump Forums</h1><h2 class='topic'>Float sticks</h2><div><p>{LONG * 3}</p><p>{LONG * 3}</p></div>"
    text = text_of(body, title="Float sticks - Pump Forums")
    assert text.startswith("## Float sticks") and "Pump Forums" not in text


def test_text_in_an_article_is_told_from_what_stands_around_it_without_names() -> None:
    """Pages whose classes are hashes have no widget or frame to see."""
    cards = "".join(f"<div class='x{n}'><a href='/{n}'>Another story</a><p>{n} min</p></div>" for n in range(3))
    body = f"<div class='a1'><article><h1>Floats</h1><p>{LONG * 3}</p><p>{LONG * 3}</p></article></div>{cards}"
    text = extract_html(f"<html><head><title>Floats</title></head><body>{body}</body></html>").text
    assert "Another story" not in text and "min" not in text and text.startswith("# Floats")


def test_lines_of_links_open_and_close_a_plain_page() -> None:
    links = "<div><a href='/'>Home</a> <a href='/a'>About</a></div>"
    text = extract_html(f"<body>{links}<p>{LONG * 3}</p>{links}</body>").text
    assert text == (LONG * 3).strip()


def test_short_blocks_of_a_page_that_is_no_article_are_kept_and_menus_in_it_are_not() -> None:
    question = (
        "<div class='q'><h3>{}</h3><label>A. A float</label><br><label>B. A relay</label><div>Answer: B</div></div>"
    )
    menu = "<ul class='nav'><li><a>2019</a></li><li><a>2018</a></li></ul>"
    body = f"<div class='quiz'><h1>A quiz</h1><p>{LONG}</p>{question.format('What sticks?')}{menu}<p>{LONG}</p></div>"
    text = text_of(body, title="A quiz")
    assert "### What sticks?\n\nA. A float\n\nB. A relay\n\nAnswer: B" in text and "2019" not in text


def test_list_that_is_most_of_a_page_is_kept_between_its_paragraphs() -> None:
    items = "<li>Prove that $\\sqrt{2}$ is irrational.</li><li>True or false?<ol><li>Every tree.</li></ol></li>"
    text = text_of(
        f"<div class='container'><h1>Homework 3</h1><p>Due on Friday.</p><ol>{items}</ol><p>On paper.</p></div>"
    )
    assert (
        "1. Prove that $\\sqrt{2}$ is irrational.\n2. True or false?\n   1. Every tree" in text and "On paper." in text
    )


def test_entry_that_is_no_article_keeps_its_title() -> None:
    """Specifications are h-entries (microformats2); blog articles are hentries (hAtom)."""
    body = f"<div class='h-entry'><h1>The Barrel Format</h1><p>{LONG * 3}</p><p>{LONG * 3}</p></div>"
    assert text_of(body, title="The Barrel Format 1.0").startswith("# The Barrel Format")
    assert not is_article(parse(body), body)
    blog = body.replace("h-entry", "hentry")
    assert is_article(parse(blog), blog)


def test_sections_without_names_are_text_of_an_article_too() -> None:
    short = "<section><section><p>Third, the relay.</p></section></section>"
    body = f"<div id='c'><section><span>{LONG}</span></section><p>{LONG * 3}</p>{short}<p>{LONG * 3}</p></div>"
    text = text_of(body, head=ARTICLE)
    assert text.count("The pump") == 7 and "Third, the relay." in text


def test_references_behind_the_text_are_kept_with_their_heading() -> None:
    references = "<h2>References</h2><div class='reflist'><ol><li>A Book of Pumps, 1961.</li></ol></div>"
    after = "<h2>More</h2><div class='teasers'><p>Our magazine.</p></div>"
    text = text_of(f"<div id='content'><h1>Pumps</h1><p>{LONG * 3}</p><p>{LONG * 3}</p>{references}{after}</div>")
    assert text.endswith("## References\n\n1. A Book of Pumps, 1961.")


def test_footnotes_of_an_article_are_part_of_it() -> None:
    note = "<div class='footnote'><a href='#r1'>1</a><div class='words'><p>The story is not true.</p></div></div>"
    text = text_of(f"<div class='body'><p>{LONG * 3}</p><p>{LONG * 3}</p>{note}</div>", head=ARTICLE)
    assert text.endswith("The story is not true.")


def test_contents_of_the_page_itself_are_no_text() -> None:
    contents = "<div><h4>In this article</h4><ul><li><a href='#a'>Care</a></li><li><a href='#b'>Use</a></li></ul></div>"
    text = text_of(
        f"<main><h1>Pumps</h1>{contents}<h2 id='a'>Care</h2><p>{LONG * 3}</p><h2 id='b'>Use</h2><p>{LONG}</p></main>"
    )
    assert "In this article" not in text and "- Care" not in text and "## Care" in text and "## Use" in text


# -- elements --


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<my-note>Stop first.</my-note><my-note>Then look.</my-note>", "Stop first.\n\nThen look."),
        ("<p>Press <my-key>Ctrl</my-key>+<my-key>K</my-key> now</p>", "Press Ctrl+K now"),
        ("<div>Press <my-key>K</my-key> now</div>", "Press K now"),
        ("<my-tabs><my-tab>npm</my-tab><my-tab>yarn</my-tab></my-tabs>", "npm\n\nyarn"),
        ("<dl><dd><h1>T</h1></dd></dl><p>x</p>", "# T\n\nx"),
        ("<h1>T <button>Copy path</button></h1><p>x</p>", "# T\n\nx"),
        ("<p>Let $$$a$$$ and $$$b \\le 9$$$ be, not $$c$$.</p>", "Let $a$ and $b \\le 9$ be, not $$c$$."),
        ("<div class='jp-InputPrompt jp-InputArea-prompt'>In [1]:</div><pre>y</pre>", "```\ny\n```"),
        ("<p>It was so.<sup>[1]</sup> And<sup>[2-3]</sup> so.</p>", "It was so. And so."),
        (
            "<table><tr><td class='blob-num' data-line-number='1'></td><td class='blob-code'>if x:</td></tr><tr>"
            "<td class='blob-num'></td><td class='blob-code blob-code-inner'>    <span>y()</span></td></tr></table>",
            "```\nif x:\n    y()\n```",
        ),
    ],
)
def test_small_pages(markup: str, text: str) -> None:
    assert extract_html(markup).text == text


# -- what scripts open, and text that stands elsewhere --


def test_accordion_buttons_and_panels_are_read() -> None:
    body = f"""<main><h1>Questions</h1><p>{LONG * 3}</p><div><h3><button aria-controls="p1">Does it rust?</button></h3>
    <div id="p1" hidden><p>It does not.</p></div></div><button>Send</button>
    <div role="tabpanel" hidden><p>{LONG}</p></div>
    <div hidden><p>Never seen.</p></div></main>"""
    text = text_of(body)
    assert "### Does it rust?\n\nIt does not." in text and text.count("The pump") == 4
    assert "Send" not in text and "Never" not in text


@pytest.mark.parametrize("style", ['style="visibility: hidden"', 'style="display:none"', "hidden"])
def test_article_that_a_script_reveals_is_read(style: str) -> None:
    assert text_of(f"<div id='js_content' {style}><p>{LONG * 3}</p><p>{LONG * 3}</p></div>").count("The pump") == 6


def test_form_around_a_page_is_no_form() -> None:
    body = f"<form id='aspnetForm'><div><h1>Pumps</h1><p>{LONG * 3}</p><p>{LONG * 3}</p></div></form>"
    assert text_of(body).count("The pump") == 6
    small = f"<div><p>{LONG * 3}</p><p>{LONG * 3}</p><form><p>Your address, that we tell nobody.</p></form></div>"
    assert "address" not in text_of(small)


def test_notes_in_asides_are_text_and_other_asides_are_not() -> None:
    aside = "<aside class='{}'><p>{}</p></aside>"
    inner = aside.format("admonition note", "Note that it hums.") + aside.format("teaser", "Read our magazine.")
    text = text_of(f"<main><p>{LONG * 3}</p>{inner}<p>{LONG * 3}</p></main>")
    assert "Note that it hums." in text and "magazine" not in text


@pytest.mark.parametrize(
    ("markup", "kept"),
    [
        ("<pre><code>a = 1\nb = 2</code><ul class='n'><li>1</li><li>2</li></ul></pre>", False),
        ("<div><ol><li>1</li><li>2</li></ol><pre>a = 1\nb = 2</pre></div>", False),
        ("<div><pre>a = 1\nb = 2</pre><ul><li>1</li><li>3</li></ul></div>", True),
        ("<div><p>Scores of the two teams:</p><ul><li>1</li><li>2</li></ul></div>", True),
    ],
)
def test_numbers_of_lines_beside_a_listing_are_no_text(markup: str, kept: bool) -> None:
    body = f"<article><h1>Two lines</h1><p>{'How a listing is numbered on many pages. ' * 6}</p>{markup}</article>"
    found = text_of(body)
    assert ("- 1" in found or "1. 1" in found) == kept and ("a = 1\nb = 2" in found or "teams" in found)


def test_tables_by_role() -> None:
    rows = "".join(
        f"<div role='row'><span role='cell'>{a}</span><span role='cell'>{b}</span></div>"
        for a, b in [("A", 1), ("B", 2)]
    )
    head = "<div role='row'><span role='columnheader'>grade</span><span role='columnheader'>range</span></div>"
    text = text_of(f"<main><p>{LONG * 3}</p><div role='table'>{head}{rows}</div><p>{LONG}</p></main>")
    assert "| grade | range |\n| --- | --- |\n| A | 1 |\n| B | 2 |" in text


def test_text_that_only_json_ld_states() -> None:
    stated = json.dumps({"@graph": [{"@type": "NewsArticle", "articleBody": f"{LONG}\n\nIt &amp; the relay."}]})
    source = f'<head><script type="application/ld+json">{stated}</script></head><body><p>Loading…</p></body>'
    assert extract_html(source).text == f"{LONG.strip()}\n\nIt & the relay."
    broken = source.replace("[{", "[")
    assert extract_html(broken).text == "Loading…"


def test_text_that_only_noscript_shows() -> None:
    inner = f"<noscript><h1>Pumps</h1><p>{LONG}</p></noscript>"
    assert (
        extract_html(f"<body><div id='app'></div>{inner}<script>x()</script></body>").text
        == f"# Pumps\n\n{LONG.strip()}"
    )
    pixel = "<noscript><img src='https://t.example/p.gif' alt=''></noscript>"
    assert extract_html(f"<body><p>A short page.</p>{pixel}</body>").text == "A short page."


# -- formulas --


@pytest.mark.parametrize(
    ("markup", "formula"),
    [
        (r'<span class="math notranslate nohighlight">\(f_1\)</span>', "$f_1$"),
        (r'<div class="math notranslate"><span class="eqno">(3)</span>\[h(t) = 1\]</div>', r"$$h(t) = 1\tag{3}$$"),
        (r'<span class="arithmatex">\(n \log n\)</span>', r"$n \log n$"),
        (r'<span class="math">\eta = 0.8</span>', r"$\eta = 0.8$"),
        ('<span class="math">Mathematics</span>', "Mathematics"),
        (
            '<mjx-container class="MathJax" aria-label="sigma squared"><mjx-math data-latex="\\sigma^2">'
            "<mjx-mi>𝜎</mjx-mi></mjx-math></mjx-container>",
            r"$\sigma^2$",
        ),
        (
            '<mjx-container class="MathJax"><mjx-math></mjx-math><mjx-assistive-mml><math data-latex="\\sqrt{2}">'
            "<msqrt><mn>2</mn></msqrt></math></mjx-assistive-mml></mjx-container>",
            r"$\sqrt{2}$",
        ),
        (
            '<span class="katex"><span class="katex-mathml">\n \n  p\n \n  i\n \n\n  p_i=\\frac{1}{n}\n \n</span>'
            '<span class="katex-html">pi</span></span>',
            r"$p_i=\frac{1}{n}$",
        ),
    ],
)
def test_formula_in_markup_of_manuals_and_blogs(markup: str, formula: str) -> None:
    text = extract_html(f"<p>before</p><div>{markup}</div><p>after</p>").text
    assert text == f"before\n\n{formula}\n\nafter"

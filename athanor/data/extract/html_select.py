"""Which blocks of a page are its content.

trafilatura chooses first (its precision mode, and the balanced one where that left most of the page's prose out, both
without its comparison with other extractors, which costs a third of the time and loses more than it finds here); its
choice is read from the marks of the blocks (``html_blocks``). Rules that know no site then correct it:

- *plain pages* (no navigation, few links) are content as a whole;
- *same kind*: blocks whose element and two ancestors have the tags and classes of most of the chosen prose are prose
  too (an article in several containers, of which a library takes one), and so are paragraphs beside most of it;
- *links*: paragraphs, headings and lists that are links and nothing else lead away from the text;
- *machinery*: blocks below elements whose class or id names a widget (newsletter, share, related, …), unless much of
  the chosen text stands there.

Headings, tables, listings and formulas between chosen blocks of one container are kept, though libraries drop them.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import Any

from athanor.data.extract import html_fill as fill
from athanor.data.extract.html_blocks import Block

_WIDGETS = re.compile(
    r"(?:^|[\s_-])(?:newsletters?|promos?|promotion|cta|related|recommended|recommendations?|recirc|shar(?:e|ing)|"
    r"sharebar|social|subscri(?:be|ption)|sign-?up|adverts?|ads?|advertisement|sponsor(?:ed|s)?|breadcrumbs?|byline|"
    r"copyright|disclaimer|cookie|consent|paywall|outbrain|taboola|popular|trending|more-?(?:news|stories|from)|"
    r"read-?more|author-?(?:bio|box|info|card)|about-?author|comments?|disqus|pagination|pager|tags?|tag-list|"
    r"(?:post|entry)-?meta|postinfo|meta|(?:post|user)-?(?:profile|info|details)|post-?likes|signature|online-?list|"
    r"jump-?box|nav-?box)(?:$|[\s_-])",
    re.IGNORECASE,
)
#: Parts of a page's frame, as classes and ids name them: a page that has any is not plain.
_FRAME = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|navigation|navigator|menu|header|footer(?![\s_-]?notes?)|site-?(?:header|footer)|side-?bar|top-?bar|"
    r"tool-?bar|crumbs?|banner)(?:$|[\s_-])",
    re.IGNORECASE,
)
_ASIDE_TAGS = frozenset(["nav", "footer", "aside"])
_PROSE = frozenset(["text", "item", "code", "table", "quote"])
_STRUCTURE = frozenset(["heading", "code", "table", "formula"])
#: Share of a block's text that may be links; a table of data often links every name in it.
_LINKS_IN = {"heading": 0.4, "code": 0.4, "formula": 0.4, "table": 0.8}
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_DIGITS = re.compile(r"\d+")
#: A block of prose: about a sentence (units: see ``weight``).
_SENTENCE = 80
_SHORT_LINK = 20
#: Beyond, there are no marks left, and the library's time grows with the square: only the cheap rules are asked.
_MAX_BLOCKS, _MAX_ELEMENTS = 40_000, 100_000
_SHORT_MAIN = 5 * _SENTENCE
_LINKED = 0.75
#: Share of a table of contents that stands in its links; the rest are numbers.
_CONTENTS = 0.75


def weight(block: Block) -> int:
    """Length in Latin letters: a Chinese, Japanese or Korean character says as much as about 2.5 of them."""
    if block.text.isascii():
        return block.n_chars
    return block.n_chars + 3 * len(_CJK.findall(block.text)) // 2


def _names(element: Any) -> str:
    return f"{element.get('class') or ''} {element.get('id') or ''}"


class Page:
    """The blocks of a page with what the rules ask of them."""

    def __init__(self, root: Any, blocks: list[Block]) -> None:
        self.root, self.blocks = root, blocks
        self.weights = [weight(block) for block in blocks]
        self._paths: dict[Any, list[Any]] = {}
        self._widgets: dict[Any, bool] = {}

    def path(self, block: Block) -> list[Any]:
        """The block's element and its ancestors below ``body``."""
        element = block.element
        known = self._paths.get(element)
        if known is None:
            known = [node for node in (element, *element.iterancestors()) if node.tag not in ("body", "html")]
            self._paths[element] = known
        return known

    def is_widget(self, element: Any) -> bool:
        """Whether class or id of an element name a widget of the page."""
        known = self._widgets.get(element)
        if known is None:
            known = self._widgets[element] = bool(_WIDGETS.search(_names(element)))
        return known

    def size(self, chosen: list[bool]) -> int:
        """Weight of the chosen blocks."""
        return sum(n for n, kept in zip(self.weights, chosen, strict=True) if kept)

    def held(self, chosen: list[bool]) -> Counter[Any]:
        """Weight of the chosen blocks below each element."""
        held: Counter[Any] = Counter()
        for block, n, kept in zip(self.blocks, self.weights, chosen, strict=True):
            if kept:
                for element in self.path(block):
                    held[element] += n
        return held

    def box(self, chosen: list[bool]) -> tuple[Any, int, int]:
        """The innermost element that holds four fifths of the chosen text (``None``: no one does); first, last."""
        total, held = self.size(chosen), self.held(chosen)
        holders = [element for element, n in held.items() if n >= 0.8 * total]
        inner = max(holders, key=lambda element: sum(1 for _ in element.iterancestors()), default=None)
        return inner, chosen.index(True), len(chosen) - 1 - chosen[::-1].index(True)


def select(root: Any, blocks: list[Block], title: str = "", is_article: bool = False) -> list[bool]:
    """For each block whether it is content. Something is chosen wherever there is any text at all.

    ``title`` is what the page calls itself; ``is_article`` that it declares itself a news or blog article. Such a page
    has one body, and its title, captions and boxes are no part of it; of other pages all that stands with the text is.
    """
    page = Page(root, blocks)
    chosen = _chosen(page, title, is_article)
    contents = _contents(page)
    text = [kept and at not in contents for at, kept in enumerate(chosen)]
    return text if any(text) else chosen


def _chosen(page: Page, title: str, is_article: bool) -> list[bool]:
    root, blocks = page.root, page.blocks
    aside = [any(node.tag in _ASIDE_TAGS for node in page.path(block)) for block in blocks]
    whole = [not beside for beside in aside]
    if not any(whole):
        return [True] * len(blocks)
    if _is_plain(page, aside):
        return _without_edges(page)
    if len(blocks) > _MAX_BLOCKS or root.xpath("count(.//*)") > _MAX_ELEMENTS:
        return _without_widgets(page, _without_links(page, whole))
    chosen = [kept and not beside for kept, beside in zip(_by_library(page, aside), aside, strict=True)]
    if not any(chosen):
        prose = [n >= _SENTENCE and b.link_density < 0.3 for b, n in zip(blocks, page.weights, strict=True)]
        chosen = [w and p for w, p in zip(whole, prose, strict=True)]
        return chosen if any(chosen) else whole
    for rule in (_without_links, _without_widgets, _same_kind, _same_parent, _with_structure, _without_bare_headings):
        changed = rule(page, chosen)
        if any(changed):
            chosen = changed
    thread = fill.with_declared_posts(page, chosen)
    if is_article and thread is None:
        chosen = fill.with_captions(page, fill.with_unnamed(page, chosen), pictures=False)
        return fill.with_references(page, _short_main(page, aside, chosen))
    thread = thread or fill.with_posts(page, chosen)
    if thread is not None:
        return fill.with_title(page, thread, title)
    chosen = fill.with_title(page, _short_main(page, aside, chosen), title)
    for rule in (fill.with_captions, fill.with_unnamed, fill.with_between, fill.with_references):
        chosen = rule(page, chosen)
    return chosen


def _short_main(page: Page, aside: list[bool], chosen: list[bool]) -> list[bool]:
    """The page's one ``<main>`` as a whole where it is short: of few sentences a library keeps one or none."""
    mains = list(page.root.iter("main")) or page.root.xpath(".//*[@role='main']") or list(page.root.iter("article"))
    if len(mains) != 1:
        return chosen
    inside = [
        not beside and mains[0] in page.path(block) and not any(page.is_widget(node) for node in page.path(block))
        for block, beside in zip(page.blocks, aside, strict=True)
    ]
    total = page.size(inside)
    links = sum(block.n_link_chars for block, within in zip(page.blocks, inside, strict=True) if within)
    is_short = 0 < total <= _SHORT_MAIN and links <= 0.3 * total and page.size(chosen) < 0.7 * total
    return inside if is_short else chosen


def _is_plain(page: Page, aside: list[bool]) -> bool:
    """A page that is nothing but its text: no navigation, no widgets, few links."""
    total = sum(page.weights)
    links = sum(block.n_link_chars for block in page.blocks)
    if any(aside) or links > 0.25 * total:
        return False
    nodes = {node for block in page.blocks for node in page.path(block)}
    if any(node.tag in ("main", "article") for node in nodes) and not all(
        any(node.tag in ("main", "article") for node in page.path(block)) for block in page.blocks
    ):
        return False
    return not any(page.is_widget(node) or _FRAME.search(_names(node)) for node in nodes)


def _without_edges(page: Page) -> list[bool]:
    """All but the lines of links that open and close a page."""
    linked = [block.n_chars > 0 and block.n_link_chars >= _LINKED * block.n_chars for block in page.blocks]
    if all(linked):
        return [True] * len(linked)
    first, last = linked.index(False), len(linked) - 1 - linked[::-1].index(False)
    return [first <= at <= last for at in range(len(linked))]


def _by_library(page: Page, aside: list[bool]) -> list[bool]:
    """trafilatura's choice; the balanced mode where the precise one keeps less than half of the page's prose."""
    chosen = _marked(page, favor_precision=True)
    prose = sum(
        n
        for block, n, beside in zip(page.blocks, page.weights, aside, strict=True)
        if n > _SENTENCE and block.link_density < 0.3 and block.kind in _PROSE and not beside
    )
    if page.size(chosen) < 0.5 * prose or not any(chosen):
        balanced = _marked(page)
        if page.size(chosen) < 0.4 * page.size(balanced):
            return balanced
    return chosen


def _marked(page: Page, **mode: Any) -> list[bool]:
    """The blocks whose marks come back from trafilatura; a table, where most of its cells do."""
    import trafilatura

    for name in ("trafilatura", "trafilatura.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # one page without content is no event of its own
    document = trafilatura.bare_extraction(page.root, fast=True, include_comments=False, **mode)
    text = getattr(document, "text", None) or ""
    found = set(text)
    return [
        2 * sum(cell.n_chars for cell in block.cells if cell.mark in found) >= block.n_chars
        if block.kind == "table"
        else bool(block.mark) and block.mark in found
        for block in page.blocks
    ]


def _without_links(page: Page, chosen: list[bool]) -> list[bool]:
    """Drop paragraphs and headings that are links, and lists of which most is."""
    lists: dict[Any, list[int]] = {}
    for block in page.blocks:
        if block.kind == "item":
            sums = lists.setdefault(block.element.getparent(), [0, 0])
            sums[0] += block.n_link_chars
            sums[1] += block.n_chars
    out = []
    for block, kept in zip(page.blocks, chosen, strict=True):
        n_link, n_all = block.n_link_chars, block.n_chars
        if block.kind == "item":
            n_link, n_all = lists[block.element.getparent()]
        linked = n_link >= _LINKED * n_all and n_all > _SHORT_LINK
        # A page's title may link to the page itself.
        linked = linked and block.kind in ("text", "heading", "item") and block.level != 1
        out.append(kept and not linked)
    return out


def _contents(page: Page) -> set[int]:
    """Positions of tables of contents: lists of two items or more that are links within the page; their headings."""
    lists: dict[Any, list[int]] = {}
    for at, block in enumerate(page.blocks):
        if block.kind == "item":
            outer = block.element
            for node in page.path(block):
                outer = node if node.tag in ("ul", "ol") else outer
            lists.setdefault(outer, []).append(at)
    found: set[int] = set()
    for items in lists.values():
        n_all = sum(page.blocks[at].n_chars for at in items)
        if len(items) > 1 and sum(page.blocks[at].n_anchor_chars for at in items) >= _CONTENTS * n_all:
            found.update(items)
            if items[0] and page.blocks[items[0] - 1].kind == "heading":
                found.add(items[0] - 1)
    return found


def _without_widgets(page: Page, chosen: list[bool]) -> list[bool]:
    """Drop what stands below a widget, unless that is a good part of the page's text (a thread of comments is)."""
    total, held = page.size(chosen), page.held(chosen)
    out = [
        kept and not any(page.is_widget(node) and held[node] < 0.3 * total for node in page.path(block))
        for block, kept in zip(page.blocks, chosen, strict=True)
    ]
    return out if page.size(out) > 0.7 * total else chosen


def _same_kind(page: Page, chosen: list[bool]) -> list[bool]:
    """Add prose marked up as most of the chosen prose is."""
    kinds: Counter[tuple[tuple[str, str], ...]] = Counter()
    signatures = [_signature(page.path(block)) if block.kind == "text" else () for block in page.blocks]
    for signature, n, kept in zip(signatures, page.weights, chosen, strict=True):
        if kept and signature:
            kinds[signature] += n
    total = sum(kinds.values())
    main = {kind for kind, n in kinds.items() if 2 * n > total and any(css for _, css in kind)}
    if not main:
        return chosen
    return [
        kept or (signature in main and block.link_density < 0.3 and n >= 60)
        for block, signature, n, kept in zip(page.blocks, signatures, page.weights, chosen, strict=True)
    ]


def _same_parent(page: Page, chosen: list[bool]) -> list[bool]:
    """Add paragraphs that are children of the element whose children most of the text is, and headings before it."""
    parents = [block.element.getparent() for block in page.blocks]
    held: Counter[Any] = Counter()
    for parent, n, kept in zip(parents, page.weights, chosen, strict=True):
        held[parent] += n * kept
    home = max(held, key=lambda parent: held[parent])
    if 2 * held[home] <= page.size(chosen):
        return chosen
    out = [
        kept or (parent is home and n >= 40 and block.element.tag in ("p", "section") and block.link_density < 0.1)
        for block, parent, n, kept in zip(page.blocks, parents, page.weights, chosen, strict=True)
    ]
    first = out.index(True)
    for at in range(max(0, first - 3), first):
        out[at] = page.blocks[at].kind == "heading" and parents[at] is home
    return out


def _without_bare_headings(page: Page, chosen: list[bool]) -> list[bool]:
    """Drop a heading under which nothing is left, because what it headed was dropped."""
    out = list(chosen)
    below = 0  # level of the kept heading that follows with no text between, 7 for text, 0 at the end
    for at in range(len(chosen) - 1, -1, -1):
        block = page.blocks[at]
        if not out[at]:
            continue
        if block.kind == "heading" and below <= block.level and not all(chosen[at + 1 : at + 2]):
            out[at] = False
        else:
            below = block.level if block.kind == "heading" else 7
    return out


def _signature(path: list[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((node.tag, _DIGITS.sub("", node.get("class") or "")) for node in path[:3])


def _with_structure(page: Page, chosen: list[bool]) -> list[bool]:
    """Add tables, listings and formulas inside the element that holds the text, and headings between its blocks."""
    box, first, last = page.box(chosen)
    out = list(chosen)
    for at in range(first, len(chosen)):
        block = page.blocks[at]
        if chosen[at] or block.kind not in _STRUCTURE or block.link_density > _LINKS_IN[block.kind]:
            continue
        if at > last and block.kind == "heading":
            continue
        path = page.path(block)
        inside = path[: path.index(box)] if box in path else (path if box is None else None)
        if inside is not None and not any(
            node.tag in _ASIDE_TAGS or node.tag in ("header", "form") or page.is_widget(node) for node in inside
        ):
            out[at] = True
    return out

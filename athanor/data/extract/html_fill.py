"""What a library's choice leaves out of a page's text: posts of a thread, answers, the title, captions, short blocks.

Each rule takes the page and the choice so far and gives the larger choice (``html_select.select`` calls them in turn).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from athanor.data.extract.html_select import Page

_THREAD_TYPES = re.compile(r"schema\.org/(?:Question|DiscussionForumPosting|SocialMediaPosting)$")
_POST_TYPES = re.compile(
    r"schema\.org/(?:Question|Answer|Comment|DiscussionForumPosting|SocialMediaPosting)$", re.IGNORECASE
)
#: The bare ``Article`` is no sign: encyclopedias and manuals state it too.
_ARTICLE = r"(?:\w*NewsArticle|OpinionNewsArticle|BlogPosting|LiveBlogPosting|Report)"
_ARTICLE_TYPES = re.compile(rf"schema\.org/{_ARTICLE}\b")
_ARTICLE_JSON = re.compile(rf'"@type"\s*:\s*\[?\s*"{_ARTICLE}"')
_HENTRY = re.compile(r"(?:^|\s)hentry(?:\s|$)")
_DIGITS = re.compile(r"\d+")
#: Columns of a page's grid are alike and hold different things.
_GRID = re.compile(r"^(?:col(?:umns?)?|grid|row|container)(?:$|[-_])", re.IGNORECASE)
_TITLE_WORDS = re.compile(r"[^\W_]+")
_MENU = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|navigation|menu|side-?bar|tool-?bar|crumbs?|toc|table-of-contents|catalog(?:ue)?)"
    r"(?:$|[\s_-])",
    re.IGNORECASE,
)
_BOXES = frozenset(["div", "section", "article", "blockquote", "td", "li", "span", "main"])
_APPARATUS = re.compile(
    r"(?:^|[\s_-])(?:references?|ref-?list|foot-?notes?|end-?notes?|biblio(?:graphy)?|bib-?(?:list|item)|"
    r"doc-(?:endnotes|bibliography))(?:$|[\s_-])",
    re.IGNORECASE,
)
_PLAIN_TAGS = frozenset(["div", "p", "section", "span", "font", "center", "strong", "b"])
#: A table of data often links the names in it.
_LINKS_IN_TABLE = 0.6
#: Weight of a few words.
_FEW = 15
_HEADER = frozenset(["nav", "footer", "aside", "form"])


def with_declared_posts(page: Page, chosen: list[bool]) -> list[bool] | None:
    """Add the text of every question, answer and post that the page declares (schema.org microdata), or ``None``."""
    types = page.root.xpath(".//@itemtype")
    if not any(_THREAD_TYPES.search(kind.strip()) for kind in types):
        return None
    posts = set()
    for element in page.root.xpath(".//*[@itemprop]"):
        if "text" in element.get("itemprop").lower().split():
            scope = next((node for node in element.iterancestors() if node.get("itemtype")), None)
            if scope is not None and _POST_TYPES.search(scope.get("itemtype").strip()):
                posts.add(element)
    if not posts:
        return None
    return [
        kept or (any(node in posts for node in page.path(block)) and not _is_links(block))
        for block, kept in zip(page.blocks, chosen, strict=True)
    ]


def with_posts(page: Page, chosen: list[bool]) -> list[bool] | None:
    """Add the rest of the posts of a thread; ``None`` where the page is none.

    Posts are two or more elements of one class, none inside another, with the same tags and classes right above, which
    hold most of the chosen text, at least two of them some. What stands in them is all content, the short answers too.
    """
    total, held = page.size(chosen), page.held(chosen)
    groups: dict[tuple[tuple[str, str], ...], list[Any]] = {}
    for element in {node for block in page.blocks for node in page.path(block)}:
        if element.tag in _BOXES and element.get("class") and not _GRID.match(element.get("class").strip()):
            groups.setdefault(_kind(element), []).append(element)
    best: list[Any] = []
    deepest = 0
    for elements in groups.values():
        alive = [element for element in elements if held[element]]
        if len(alive) < max(2, 0.5 * len(elements)) or sum(held[element] for element in alive) < 0.7 * total:
            continue
        depth = sum(1 for _ in alive[0].iterancestors())
        if depth > deepest:
            best, deepest = elements, depth
    if not best:
        return None
    posts = set(best)
    return [
        kept
        or (
            any(node in posts for node in page.path(block))
            and not _is_links(block)
            and not _in_frame(page, block, posts)
        )
        for block, kept in zip(page.blocks, chosen, strict=True)
    ]


def _kind(element: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (node.tag, " ".join(_DIGITS.sub("", node.get("class") or "").split()[:1]))
        for node in (element, *list(element.iterancestors())[:2])
    )


def _is_links(block: Any) -> bool:
    return bool(block.n_link_chars >= 0.75 * block.n_chars and block.n_chars)


def _in_frame(page: Page, block: Any, boxes: set[Any]) -> bool:
    """Whether navigation or a widget stands between the block and the first of ``boxes`` above it."""
    for node in page.path(block):
        if node in boxes:
            return False
        if (
            node.tag in _HEADER
            or page.is_widget(node)
            or _MENU.search(f"{node.get('class') or ''} {node.get('id') or ''}")
        ):
            return True
    return True


def with_title(page: Page, chosen: list[bool], title: str) -> list[bool]:
    """Add the nearest heading before the text that the page's ``<title>`` opens with.

    A first-level one may stand anywhere in it but at its end, where the site's name stands.
    """
    wanted = f" {_words(title)} "
    for at in range(chosen.index(True), -1, -1):
        block = page.blocks[at]
        words = f" {_words(block.text)} "
        if block.kind != "heading" or not words.strip() or words.strip() not in wanted:
            continue
        is_title = wanted.startswith(words.rstrip()) or (block.level == 1 and not wanted.endswith(words))
        if is_title and not any(node.tag in ("nav", "footer") for node in page.path(block)):
            return [kept or here == at for here, kept in enumerate(chosen)]
    return chosen


def _words(text: str) -> str:
    return " ".join(_TITLE_WORDS.findall(text.lower()))


def is_article(root: Any, source: str) -> bool:
    """Whether a page says that it is one news or blog article (Open Graph, schema.org, hAtom)."""
    for node in root.iter("meta"):
        name = (node.get("property") or node.get("name") or "").lower()
        if name.startswith("article:") or (name == "og:type" and (node.get("content") or "").lower() == "article"):
            return True
    return bool(
        _ARTICLE_JSON.search(source)
        or any(_ARTICLE_TYPES.search(kind) for kind in root.xpath(".//@itemtype"))
        or any(_HENTRY.search(css) for css in root.xpath(".//@class[contains(., 'entry')]"))
    )


def with_captions(page: Page, chosen: list[bool], pictures: bool = True) -> list[bool]:
    """Add captions between the chosen blocks; without ``pictures`` only those of tables, listings and formulas."""
    box, first, last = page.box(chosen)
    return [
        kept
        or (
            first < at < last
            and block.kind == "caption"
            and (pictures or any(_shows_data(node) for node in page.path(block)[:3]))
            and not _is_links(block)
            and (box is None or box in page.path(block))
            and not _in_frame(page, block, {box})
        )
        for at, (block, kept) in enumerate(zip(page.blocks, chosen, strict=True))
    ]


def _shows_data(element: Any) -> bool:
    return element.tag in ("figure", "table") and next(element.iter("table", "pre"), None) is not None


def with_between(page: Page, chosen: list[bool]) -> list[bool]:
    """Add what stands with the chosen blocks inside an element of which a fifth is chosen (links, widgets not counted).

    From the first chosen block (the title, where there is one) to the last.
    """
    box, first, last = page.box(chosen)
    if box is None:
        return chosen
    fits = [
        kept
        or (
            block.link_density < (_LINKS_IN_TABLE if block.kind == "table" else 0.1)
            and box in page.path(block)
            and not _in_frame(page, block, {box})
        )
        for block, kept in zip(page.blocks, chosen, strict=True)
    ]
    if 5 * page.size(chosen) < page.size(fits):
        return chosen
    return [kept or (fit and first < at < last) for at, (fit, kept) in enumerate(zip(fits, chosen, strict=True))]


def with_references(page: Page, chosen: list[bool]) -> list[bool]:
    """Add references and notes behind the text, in the element that holds it, and the heading over them."""
    box, _, last = page.box(chosen)
    out = list(chosen)
    for at in range(last + 1, len(chosen)):
        path = page.path(page.blocks[at])
        inside = path[: path.index(box)] if box in path else []
        if any(_is_apparatus(node) for node in inside) and not _in_frame(page, page.blocks[at], {box}):
            out[at] = True
            if page.blocks[at - 1].kind == "heading":
                out[at - 1] = True
    return out


def _is_apparatus(element: Any) -> bool:
    named = f"{element.get('class') or ''} {element.get('id') or ''} {element.get('role') or ''}"
    return bool(_APPARATUS.search(named))


def with_unnamed(page: Page, chosen: list[bool]) -> list[bool]:
    """Add prose inside the element that holds the text where no element between the two has a name.

    Widgets and boxes have classes; sections without any (as editors of newsletters and messengers write them) are text.
    """
    box, _, _ = page.box(chosen)
    if box is None:
        return chosen
    return [
        kept or (block.kind == "text" and n >= _FEW and block.link_density < 0.1 and _is_unnamed(page.path(block), box))
        for block, n, kept in zip(page.blocks, page.weights, chosen, strict=True)
    ]


def _is_unnamed(path: list[Any], box: Any) -> bool:
    if box not in path:
        return False
    between = path[: path.index(box)]
    return not any(node.get("class") or node.get("id") or node.tag not in _PLAIN_TAGS for node in between)

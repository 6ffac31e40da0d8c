"""A page's tree as its reader meets it: roles are elements, what scripts open is open, what lies elsewhere is read.

Runs before ``html_tree.clear``, which drops what no reader sees. Rules that know no site:

- elements of a page's own making (``<my-note>``) are blocks where they stand between elements, words where in text;
- tables, rows and cells named by ARIA roles (WAI-ARIA 1.2) are tables;
- notes, footnotes and quotations that are ``<aside>`` belong to the text, other asides do not;
- a form around most of the page (ASP.NET, a quiz) is no form, and a button that is all of a heading is its text
  (the accordion pattern of the ARIA Authoring Practices);
- a list beside a listing that counts its lines is no text;
- panels that a tab or such a button opens, and an element that holds most of the page and is hidden until a script
  has run, are shown.

``stated_text`` and ``scriptless_text`` are for pages whose text is built by scripts: schema.org's ``articleBody`` and
``<noscript>``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from athanor.data.extract.html_tree import BLOCK_TAGS, is_hidden

_ROLES = {"table": "table", "row": "tr", "columnheader": "th", "rowheader": "th", "cell": "td"}
_NAVIGATION_ROLES = frozenset(["navigation", "contentinfo", "banner", "search", "complementary"])
_PART_OF_TEXT = re.compile(
    r"(?:^|[\s_-])(?:foot-?notes?|end-?notes?|quote|admonition|call-?out|note|tip|warning|caution|danger|important|"
    r"hint|example)(?:$|[\s_-])",
    re.IGNORECASE,
)
_NOTE_ROLES = frozenset(
    ["doc-footnote", "doc-endnotes", "doc-tip", "doc-notice", "doc-example", "doc-pullquote", "note"]
)
_HEADINGS = frozenset(["h1", "h2", "h3", "h4", "h5", "h6", "summary", "dt"])
#: Inside these an element of the page's own is a word of the line.
_LINES = _HEADINGS | {"p", "li", "dd", "td", "th", "pre", "caption", "figcaption", "label", "legend"}
#: A form or a hidden element of fewer characters is never "most of the page".
_MUCH = 100
_UNREAD = frozenset(["script", "style", "template", "noscript", "option", "textarea", "head", "a"])


def prepare(root: Any) -> None:
    """Change the tree in place as the module says."""
    for element in root.xpath(".//*[@role]"):
        _take_role(element)
    for element in root.xpath(".//aside"):
        named = f"{element.get('class') or ''} {element.get('id') or ''}"
        if element.get("role") in _NOTE_ROLES or _PART_OF_TEXT.search(named):
            element.tag = "div"
    opened: set[str] = set()
    for element in root.xpath(".//*[contains(name(), '-')]"):
        if _is_block(element):
            element.tag = "div"
    for button in root.xpath(".//button"):
        heading = next((parent for parent in list(button.iterancestors())[:2] if parent.tag in _HEADINGS), None)
        if heading is not None and len(heading.text_content().strip()) == len(button.text_content().strip()):
            button.tag = "span"
            opened.add(button.get("aria-controls") or (button.get("data-bs-target") or "").lstrip("#"))
    for numbers in root.xpath(".//ul | .//ol"):
        if _counts_lines(numbers):
            numbers.drop_tree()
    for form in root.xpath(".//form"):
        if _is_most(form, root):
            form.tag = "div"
    for element in root.xpath(".//*[@hidden or @style or @aria-hidden]"):
        if not is_hidden(element):
            continue
        if element.get("role") == "tabpanel" or element.get("id") in opened or _is_most(element, root):
            for name in ("hidden", "style", "aria-hidden"):
                element.attrib.pop(name, None)


def _take_role(element: Any) -> None:
    role = element.get("role")
    if role in _ROLES and element.tag in ("div", "span", "p", "ul", "li", "section"):
        table = element if role == "table" else next((n for n in element.iterancestors() if n.tag == "table"), None)
        if table is not None:
            element.tag = _ROLES[role]
    elif role in _NAVIGATION_ROLES and element.tag in ("div", "section", "ul", "header"):
        element.tag = "nav" if role != "complementary" else "aside"


def _counts_lines(items: Any) -> bool:
    """Whether a list says 1, 2, 3 … and a listing stands beside it, or around it."""
    shown = [item.text_content().strip() for item in items]
    if not shown or shown != [str(n) for n in range(1, len(shown) + 1)]:
        return False
    around = items.getprevious(), items.getnext(), items.getparent()
    return any(near is not None and (near.tag == "pre" or near.find(".//pre") is not None) for near in around[:2]) or (
        around[2] is not None and around[2].tag in ("pre", "code")
    )


def _is_block(element: Any) -> bool:
    """Whether an element of a page's own (its name has a hyphen) stands for itself: beside elements and not in text."""
    parent = element.getparent()
    if parent is None or parent.tag not in BLOCK_TAGS and "-" not in str(parent.tag) or parent.tag in _LINES:
        return False
    return not any(text and text.strip() for text in (parent.text, *(child.tail for child in parent)))


def _is_most(element: Any, root: Any) -> bool:
    """Whether more than half of the page's words outside links stand below ``element``."""
    inside = _n_chars(element)
    return inside >= _MUCH and 2 * inside > _n_chars(root)


def _n_chars(element: Any) -> int:
    total, walk = 0, [element]
    while walk:
        node = walk.pop()
        if not isinstance(node.tag, str) or node.tag in _UNREAD:
            continue
        total += len((node.text or "").strip())
        for child in node:
            if child.tail:
                total += len(child.tail.strip())
            walk.append(child)
    return total


# -- text that is not in the tree's visible part --


def stated_text(root: Any, source: str) -> str:
    """HTML of the longest ``articleBody`` (schema.org) that the page's JSON-LD states; ``""`` where there is none."""
    if '"articleBody"' not in source:
        return ""
    bodies = [body for script in root.iter("script") for body in _article_bodies(script)]
    body = max(bodies, key=len, default="")
    return body if re.search(r"</p>|<br", body) else _paragraphs(body)


def scriptless_text(root: Any) -> str:
    """HTML of the longest ``<noscript>``: what a page without scripts shows; ``""`` where there is none."""
    return max((_inner(node) for node in root.iter("noscript")), key=len, default="")


def _article_bodies(script: Any) -> list[str]:
    if (script.get("type") or "").lower() != "application/ld+json":
        return []
    try:
        walk = [json.loads(script.text or "", strict=False)]
    except ValueError:
        return []
    found = []
    while walk:
        node = walk.pop()
        if isinstance(node, list):
            walk += node
        elif isinstance(node, dict):
            walk += node.values()
            if isinstance(body := node.get("articleBody"), str):
                found.append(body)
    return found


def _paragraphs(text: str) -> str:
    import html

    lines = (line.strip() for line in html.unescape(text).splitlines())
    return "".join(f"<p>{html.escape(line, quote=False)}</p>" for line in lines if line)


def _inner(node: Any) -> str:
    import lxml.etree

    if len(node):
        return "".join(lxml.etree.tostring(child, encoding="unicode", method="html") for child in node)
    return node.text or ""

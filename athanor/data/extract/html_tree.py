"""A page's tree: parsed without losing text, never deeper than ``MAX_DEPTH``, cleared of what is no content."""

from __future__ import annotations

import re
from typing import Any

from athanor.data.extract.types import Unreadable

#: The tags of deeper elements are left out: recursive code on the tree stays safe, and no text is lost.
MAX_DEPTH = 150
#: Elements without text of their own for a reader. Scripts that hold TeX are formulas and are gone before this counts.
_DROPPED = frozenset(
    ["script", "style", "template", "noscript", "iframe", "object", "embed", "canvas", "svg", "audio", "video"]
    + [
        "button",
        "map",
        "input",
        "select",
        "option",
        "textarea",
        "datalist",
        "progress",
        "meter",
        "dialog",
        "head",
        "applet",
    ]
    + ["basefont", "noframes", "rp", "rt", "link", "meta", "param", "source", "track", "area"]
)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)[^<>]*>")
_REFERENCE = re.compile(r"&#(?:[xX]([0-9a-fA-F]{1,9})|([0-9]{1,9}));?")
#: ``<title/>`` and ``<a id="x"/>`` are whole elements in XHTML and open ones to a reader of HTML.
_EMPTY_ELEMENT = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|m[a-z]+)\b)([a-zA-Z][\w:.-]*)((?:\s[^<>]*?)?)/>"
)
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_OPEN_ENDED = frozenset(["p", "li", "dt", "dd", "tr", "td", "th", "tbody", "thead", "tfoot", "option", "html", "body"])
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
#: Marks of the page's own machinery beside the text: line-number gutters, edit links, anchors of headings, footnote
#: signs, texts for screen readers.
_NOISE_CLASS = re.compile(
    r"(?:^|\s)(?:linenos?|linenodiv|line-?numbers?(?:-rows)?|gutter|headerlink|header-?anchor|anchorjs-link|"
    r"viewcode-link|jp-(?:Input|Output)Prompt|(?:in|out)put_prompt|mw-editsection|mw-cite-backlink|mw-jump-link|noprint|sr-only|visually-?hidden|screen-reader-text|copybtn|copy-btn|hljs-ln-numbers|"
    r"blob-num)(?:\s|$)",
    re.IGNORECASE,
)
#: Elements that begin and end a line of their own.
BLOCK_TAGS = frozenset(
    ["address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dir", "div"]
    + ["dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header"]
    + ["hgroup", "hr", "html", "label", "legend", "li", "listing", "main", "menu", "nav", "ol", "p", "plaintext", "pre"]
    + ["search", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul", "xmp"]
)


def as_html(text: str) -> str:
    """An XHTML source as HTML: empty elements get an end tag, CDATA sections are opened."""
    return _EMPTY_ELEMENT.sub(r"<\1\2></\1>", text.replace("<![CDATA[", "").replace("]]>", ""))


def parse(text: str) -> Any:
    """The root element (``lxml.html``) of a page; raises ``Unreadable("empty page")`` where there is none."""
    text = _REFERENCE.sub(_valid, text)
    root = _parsed(text)
    levels = MAX_DEPTH // 2
    while levels and _too_deep(root):
        root = _parsed(_shallow(text, levels))
        levels //= 2
    return root


def _valid(reference: re.Match[str]) -> str:
    """A character reference, if a tree may hold its character (no controls, surrogates, noncharacters)."""
    code = int(reference.group(1), 16) if reference.group(1) else int(reference.group(2))
    valid = code in (9, 10, 13) or 32 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code <= 0x10FFFF
    return reference.group() if valid else ""


def _parsed(text: str) -> Any:
    import lxml.etree
    import lxml.html

    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        return lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (lxml.etree.ParserError, lxml.etree.XMLSyntaxError, ValueError):
        raise Unreadable("empty page") from None


def _too_deep(root: Any) -> bool:
    import lxml.etree

    # XPath in C is far cheaper than a walk in Python; on the usual page no element has so many ancestors.
    return bool(lxml.etree.XPath("boolean(" + "/*" * (MAX_DEPTH + 1) + ")")(root))


def _shallow(text: str, levels: int) -> str:
    """The source without the tags below ``levels`` open ones: libxml2 ends a page at 2,048, whatever text follows.

    Elements whose end tag may be left out do not count, or every ``<li>`` of a long list would be a level.
    """
    depth = 0

    def tag(found: re.Match[str]) -> str:
        nonlocal depth
        name = found.group(2).lower()
        if name in _OPEN_ENDED or name in _VOID or found.group().endswith("/>"):
            return found.group() if depth <= levels else _line_end(name)
        if found.group(1):
            depth = max(0, depth - 1)
            return found.group() if depth < levels else _line_end(name)
        depth += 1
        return found.group() if depth <= levels else _line_end(name)

    return _TAG.sub(tag, text)


def _line_end(name: str) -> str:
    return "<br>" if name in BLOCK_TAGS or name == "br" else ""


def drop(element: Any) -> None:
    """Take an element out of the tree; the text behind it stays."""
    parent = element.getparent()
    if parent is None:
        return
    tail = element.tail
    if tail:
        before = element.getprevious()
        if before is not None:
            before.tail = (before.tail or "") + tail
        else:
            parent.text = (parent.text or "") + tail
    parent.remove(element)


def clear(root: Any) -> None:
    """Drop scripts, form controls, hidden parts and the machinery beside the text, in place."""
    doomed = []
    for element in root.iter():
        tag = element.tag
        if (
            not isinstance(tag, str)
            or tag in _DROPPED
            or element.attrib
            and tag not in ("html", "body")
            and is_hidden(element)
        ):
            doomed.append(element)
    for element in doomed:
        drop(element)


def is_hidden(element: Any) -> bool:
    """Whether attributes say that no reader sees the element, or that it is the page's own machinery."""
    attributes = element.attrib
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if attributes.get("aria-hidden") == "true" and element.tag not in ("main", "article", "section", "table", "div"):
        return True
    style = attributes.get("style")
    if style and _HIDDEN_STYLE.search(style) and element.tag not in ("main", "article"):
        return True
    css = attributes.get("class")
    return bool(css and _NOISE_CLASS.search(css))

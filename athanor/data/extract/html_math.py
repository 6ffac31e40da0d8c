r"""Formulas of a page → LaTeX, each once, however it is marked up; placeholders take their place in the tree.

Read: MathML (with and without TeX annotation), KaTeX and MathJax 2 to 4 (from the drawing where nothing else is left),
``<script type="math/tex">``, Wikipedia's images, ``data-tex`` and its kin, images whose alternative text is TeX,
pandoc's, Sphinx's and distill's elements, ``language-math`` listings. TeX between ``\(…\)``, ``\[…\]`` or ``$$…$$`` in
the text is text already and stays.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from athanor.data.extract.html_blocks import PLACEHOLDER
from athanor.data.extract.html_katex import katex_latex
from athanor.data.extract.html_mathjax import drawn_mathml
from athanor.data.extract.html_tree import BLOCK_TAGS, drop
from athanor.data.extract.mathml import convert, math_to_latex, unwrapped

#: What a page must hold (in lower case) for a search of its tree to be worth while. Plain substrings: as one pattern
#: they cost as much as all the rest of the extraction.
_HINTS = (
    "<math", ":math", "katex", "mathjax", "mjx-", "math/tex", "math/mml", "text/tex", "latex", "tex-math", "d-math",
    "mwe-math", "math-renderer", "language-math", "lang-math", "eeimg", "ee_img", "mimetex", "mathtex", "cht=tx",
    "/equation?", "math/render", "class=\"math", "class='math", "class=math", "math-tex", "ztext-math", "arithmatex",
    "\"tex\"", "'tex'", "class=tex", "data-tex=", "data-formula=", "data-equation=", "data-math=", "data-expr=",
)  # fmt: skip
_DATA_ATTRIBUTES = ("data-tex", "data-latex", "data-formula", "data-equation", "data-katex", "data-math", "data-expr")
#: What MathJax 2 draws beside its script, and previews.
_DRAWN = frozenset(
    [
        "MathJax",
        "MathJax_Display",
        "MathJax_SVG",
        "MathJax_SVG_Display",
        "MathJax_CHTML",
        "MathJax_Preview",
        "mjx-chtml",
    ]
    + ["MJXc-display", "MathJax_MathML"]
)
_TEX_IMAGE = re.compile(
    r"latex\.codecogs|latex\.php|/equation\?tex|mathtex|mimetex|chart\?cht=tx|/math/render|/latex", re.IGNORECASE
)
_TEX_CLASS = frozenset(["tex", "latex", "math", "equation", "mathtex", "ee_img", "mwe-math-fallback-image-inline"]
                       + ["mwe-math-fallback-image-display", "formula"])  # fmt: skip
_DELIMITED = re.compile(r"\\\(|\\\[|\$")
_OUTER = re.compile(r"^(?:\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\])$", re.DOTALL)
_NUMBERED = re.compile(r"^(?:\((\w[\w.]*)\)\s*)?\\\[((?:(?!\\\[).)*)\\\]$", re.DOTALL)
_TEX_SIGN = re.compile(r"\\[A-Za-z]|[_^]")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_SIGNS = re.compile(r"[\\^_=+<>/*|{}()]|[^\x00-\x7f]")
#: Inside these a displayed formula stays part of the line; elsewhere it becomes a paragraph.
_LINE_TAGS = frozenset(
    ["p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "td", "th", "caption", "figcaption", "summary"]
)

Formulas = dict[str, tuple[str, bool]]


def take_formulas(root: Any, source: str) -> Formulas:
    """Replace every formula below ``root`` by a placeholder; {placeholder: (LaTeX, whether it is displayed)}."""
    formulas: Formulas = {}
    lowered = source.lower()
    if not any(hint in lowered for hint in _HINTS):
        return formulas
    _drop_drawings(root)
    done: set[Any] = set()
    found: list[tuple[Any, str, bool]] = []
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        read = _read(element)
        if read is not None and not any(parent in done for parent in element.iterancestors()):
            done.add(element)
            found.append((element, *read))
    for element, latex, display in found:
        _replace(element, latex, display, formulas)
    return formulas


def _replace(element: Any, latex: str, display: bool, formulas: Formulas) -> None:
    latex = latex.strip()
    wrapped = _OUTER.match(latex)
    if wrapped and latex.count("$") in (0, 2, 4):
        inner = next(group for group in wrapped.groups() if group is not None).strip()
        display = display or latex.startswith(("$$", "\\["))
        latex = inner
    latex = re.sub(r"\n\s*\n+", "\n", latex.replace("\r\n", "\n"))
    if not display:
        latex = " ".join(latex.split())
    if not latex:
        drop(element)
        return
    key = PLACEHOLDER.format(len(formulas))
    formulas[key] = (latex, display)
    parent = element.getparent()
    is_block = display and parent is not None and parent.tag in BLOCK_TAGS and parent.tag not in _LINE_TAGS
    element.clear(keep_tail=True)
    element.tag, element.text = "p" if is_block else "span", key


def _drop_drawings(root: Any) -> None:
    """Drop what MathJax 2 drew where its source stands beside it: else every formula comes twice."""
    if root.find(".//script") is None:
        return
    for script in list(root.iter("script")):
        if not _script_type(script):
            continue
        before = script.getprevious()
        while (
            before is not None and not (before.tail or "").strip() and _DRAWN & set((before.get("class") or "").split())
        ):
            earlier = before.getprevious()
            drop(before)
            before = earlier


def _script_type(element: Any) -> str:
    kind = (element.get("type") or "").lower()
    return kind if kind.startswith(("math/tex", "math/mml", "text/tex", "math/latex")) else ""


def _read(element: Any) -> tuple[str, bool] | None:
    """(LaTeX, displayed) if ``element`` is a formula as a whole."""
    tag = element.tag
    reader = _READERS.get(tag.rsplit(":", 1)[-1])
    if reader is not None:
        read = reader(element)
        if read is not None:
            return read
    attributes = element.attrib
    if not attributes:
        return None
    for name in _DATA_ATTRIBUTES:
        value = attributes.get(name)
        # Such an element shows the formula and nothing else; a container with much text is none.
        if value and _looks_like_tex(value) and len(element.text_content()) <= 20 * len(value) + 200:
            return value, _is_display(element)
    css = attributes.get("class")
    return _by_class(element, set(css.split())) if css else None


def _is_display(element: Any) -> bool:
    css = f" {element.get('class') or ''} {element.get('data-display') or ''} ".lower()
    if element.get("display") in ("true", "block") or element.get("mode") == "display" or "inline" in css:
        return "inline" not in css
    return element.tag in ("div", "figure", "p") or "display" in css or "block" in css


def _by_class(element: Any, css: set[str]) -> tuple[str, bool] | None:
    if "katex-display" in css or "katex" in css or "katex-mathml" in css:
        latex = _inner_math(element)
        if latex is None:
            # Without the MathML half nothing but the drawing is left.
            latex = _text_of_mathml(element) or katex_latex(element) or _drawn_text(element)
        outer = element.iterancestors()
        return latex, "katex-display" in css or any("katex-display" in (a.get("class") or "") for a in outer)
    if "mwe-math-element" in css or "mjx-container" in css:
        latex = _inner_math(element)
        return (latex, bool(element.xpath("boolean(.//math[@display='block'])"))) if latex is not None else None
    if css & _DRAWN and element.tag != "script":
        return _mathjax(element, css)
    if "math" in css and css & {"inline", "display"} or "math-tex" in css or "ztext-math" in css:
        return _plain(element, "display" in css)
    if "math" in css or "arithmatex" in css:
        return _delimited(element)
    if "language-math" in css or "lang-math" in css:
        return _plain(element, element.tag == "pre" or element.getparent().tag == "pre")
    return None


def _plain(element: Any, display: bool) -> tuple[str, bool] | None:
    r"""TeX as the element's text; with delimiters of its own (``\(…\)``) it is text and stays so."""
    if any(child.tag in ("math", "script", "img") or "katex" in (child.get("class") or "") for child in element.iter()):
        return None
    text = element.text_content().strip()
    if len(element) and "\\" not in text:  # a formula set with <em> and <sup> is read as text
        return None
    if not text or (_DELIMITED.search(text) and not display and not _OUTER.match(text)):
        return None
    return text, display or text.startswith(("$$", "\\["))


def _delimited(element: Any) -> tuple[str, bool] | None:
    r"""A formula that its class only calls "math" (Sphinx, MkDocs, Discourse): between delimiters, or plainly TeX.

    The number that Sphinx writes before a displayed one becomes its ``\tag``.
    """
    display = element.tag in BLOCK_TAGS
    found = _NUMBERED.match(element.text_content().strip())
    if found:
        number, latex = found.groups()
        return (latex.strip() + f"\\tag{{{number}}}" if number else latex), True
    text = element.text_content().strip()
    if _OUTER.match(text) or (len(element) == 0 and _TEX_SIGN.search(text) and not _DELIMITED.search(text)):
        return _plain(element, display)
    return None


def _text_of_mathml(element: Any) -> str:
    """TeX of a KaTeX formula whose MathML lost its tags, as in sanitised blogs: the annotation's text comes last."""
    node = next((n for n in element.iter("span") if "katex-mathml" in (n.get("class") or "")), None)
    pieces = re.split(r"\n\s*\n", node.text_content().strip()) if node is not None else []
    return str(pieces[-1]).strip() if len(pieces) > 1 else ""


def _mathjax(element: Any, css: set[str]) -> tuple[str, bool] | None:
    display = any("Display" in name or "display" in name for name in css)
    latex = _inner_math(element)
    if latex is None:
        for node in element.iter():
            source = node.get("data-mathml")
            if source:
                latex = _from_markup(source)
                display = display or 'display="block"' in source
                break
    return (latex, display) if latex is not None else ("", False)


def _inner_math(element: Any) -> str | None:
    """LaTeX of the first MathML below, or of the first image with TeX."""
    for node in element.iter():
        if isinstance(node.tag, str) and node.tag.rsplit(":", 1)[-1] == "math":
            return math_to_latex(node)
    for node in element.iter("annotation"):
        return unwrapped(node.text_content())
    for image in element.iter("img"):
        if image.get("alt"):
            return unwrapped(image.get("alt"))
    return None


def _drawn_text(element: Any) -> str:
    from athanor.data.extract.mathchars import math_latex

    return math_latex(" ".join(element.text_content().replace("\u200b", "").split()))


def _from_markup(source: str) -> str | None:
    import lxml.etree
    import lxml.html

    try:
        math = lxml.html.fragment_fromstring(source)
    except (lxml.etree.ParserError, lxml.etree.XMLSyntaxError, ValueError):
        return None
    return math_to_latex(math)


# -- readers by tag --


def _math(element: Any) -> tuple[str, bool] | None:
    return math_to_latex(element), element.get("display") == "block" or element.get("mode") == "display"


def _script(element: Any) -> tuple[str, bool] | None:
    kind = _script_type(element)
    if not kind:
        return None
    text = re.sub(r"^\s*%?\s*<!\[CDATA\[|%?\s*\]\]>\s*$", "", element.text or "")
    display = re.search(r"mode\s*=\s*display", kind) is not None
    if kind.startswith("math/mml"):
        latex = _from_markup(text)
        return (latex, display or 'display="block"' in text) if latex else None
    # A script's text has no character references, but many generators escape it all the same; in TeX "&lt;" is nothing.
    return re.sub(r"&(?:lt|gt|amp);", lambda found: unescape(found.group()), text), display


def _container(element: Any) -> tuple[str, bool] | None:
    latex = _inner_math(element)
    if latex is None:  # MathJax 4 writes its source to what it draws; what it would speak comes last
        source = next((n.get("data-latex") for n in element.iter("mjx-math") if n.get("data-latex")), None)
        drawn = drawn_mathml(element) if source is None else None
        latex = source or (convert(drawn) if drawn is not None else _drawn_text(element))
        latex = latex or element.get("aria-label") or ""
    return latex, element.get("display") == "true"


def _image(element: Any) -> tuple[str, bool] | None:
    alternative = (element.get("alt") or "").strip()
    source = element.get("src") or element.get("data-src") or ""
    css = (element.get("class") or "").lower()
    is_tex = bool(_TEX_IMAGE.search(source))
    if not is_tex and not _TEX_CLASS & set(css.split()):
        return None
    display = "display" in css or alternative.startswith(("\\[", "$$"))
    if alternative and _looks_like_tex(alternative) or (alternative and "mwe-math" in css):
        return unwrapped(alternative), display
    if is_tex:
        latex = _from_address(source)
        if latex:
            return latex, display
    # A formula of one letter has no sign of TeX in it; the class alone ("math") may mean any picture.
    return (alternative, display) if is_tex and alternative and len(alternative) < 40 else None


def _from_address(source: str) -> str:
    """TeX in the query of a rendering service's address."""
    query = urlsplit(source).query
    values = parse_qs(query)
    for name in ("tex", "latex", "chl", "eq", "formula"):
        if values.get(name):
            return values[name][0]
    plain = unquote(query.replace("+", " ")) if query and "=" not in query.split("\\", 1)[0] else ""
    return re.sub(r"^\\(?:dpi|bg|fn|fg)[_a-z]*\{?\w*\}?\s*", "", plain)


def _tex_element(element: Any) -> tuple[str, bool] | None:
    text = re.sub(r".*\\begin\{document\}(.*)\\end\{document\}.*", r"\1", element.text_content(), flags=re.DOTALL)
    return text, "block" in element.attrib or element.get("display") in ("true", "block")


def _renderer(element: Any) -> tuple[str, bool] | None:
    return _plain(element, "js-display-math" in (element.get("class") or ""))


_READERS: dict[str, Any] = {
    "math": _math, "script": _script, "mjx-container": _container, "img": _image, "d-math": _tex_element,
    "tex-math": _tex_element, "math-renderer": _renderer,
}  # fmt: skip


def _looks_like_tex(text: str) -> bool:
    """Not a caption: a sign of mathematics in it, or a word of one or two letters."""
    if len(text) <= 2:
        return text.isalnum() and not _CJK.search(text)
    if "\\" in text or "^" in text or "_{" in text:
        return True
    words = re.findall(r"[A-Za-z]{4,}", text)
    return (
        bool(_SIGNS.search(text))
        and len(words) <= 2
        and not _CJK.search(text)
        and not re.search(r"\.(?:png|jpe?g|gif|svg)$", text)
    )

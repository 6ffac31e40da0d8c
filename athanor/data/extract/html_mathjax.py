"""What MathJax 3 and 4 drew (CHTML or SVG) → MathML, for pages without its assistive MathML.

CHTML names its elements after MathML's (``mjx-mfrac``) and its signs by code point (``class="mjx-c1D465"``); SVG does
in ``data-mml-node`` and ``data-c``. Between the two stand elements of layout, which are passed through.
"""

from __future__ import annotations

import re
from typing import Any

_LEAVES = frozenset(["mi", "mn", "mo", "mtext", "ms"])
_NODES = _LEAVES | {
    "mrow", "texatom", "mstyle", "mpadded", "mphantom", "menclose", "merror", "math", "msub", "msup", "msubsup",
    "munder", "mover", "munderover", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mlabeledtr", "mtd", "mspace",
    "mmultiscripts",
}  # fmt: skip
_CODE = re.compile(r"(?:^|\s)mjx-c([0-9A-F]{2,6})(?:\s|$)")
_CALLIGRAPHIC = re.compile(r"TEX-C\b")
_TRANSLATED = re.compile(r"translate\(\s*[-\d.]+\s*,\s*([-\d.]+)")
#: Pieces that tall brackets and braces are put together from, and the dash that MathJax draws over letters.
_PIECES = {
    **dict.fromkeys("⎛⎜⎝", "("), **dict.fromkeys("⎞⎟⎠", ")"), **dict.fromkeys("⎡⎢⎣", "["), **dict.fromkeys("⎤⎥⎦", "]"),
    **dict.fromkeys("⎧⎨⎩", "{"), **dict.fromkeys("⎫⎬⎭", "}"), **dict.fromkeys("\ue150\ue151\ue152\ue153", "⏟"),
    "–": "¯",
}  # fmt: skip
_SURD = "√"
_MAX_DEPTH = 100


def drawn_mathml(container: Any) -> Any:
    """A ``<math>`` element for what an ``<mjx-container>`` drew; ``None`` where nothing was."""
    top = next((node for node in container.iter() if _name(node) == "math"), None)
    if top is None:
        return None
    math = _built("math", _children(top, 0))
    return math if "".join(math.itertext()).strip() else None


def _name(node: Any) -> str:
    """Name of the MathML element that a node draws; ``""`` for layout."""
    if not isinstance(node.tag, str):
        return ""
    name = (node.get("data-mml-node") or (node.tag[4:] if node.tag.startswith("mjx-") else "")).lower()
    return name if name in _NODES else ""


def _built(name: str, children: list[Any], **attributes: str) -> Any:
    import lxml.etree

    element = lxml.etree.Element(name, attributes)
    element.extend(children)
    return element


def _children(node: Any, depth: int) -> list[Any]:
    """MathML of the nearest nodes below that draw some."""
    found = []
    for child in node:
        if _name(child):
            found += _converted(child, depth + 1)
        elif isinstance(child.tag, str):
            found += _children(child, depth)
    return found


def _converted(node: Any, depth: int) -> list[Any]:
    name = _name(node)
    if depth > _MAX_DEPTH or name == "mspace":
        return []
    if name in _LEAVES:
        return [_leaf(node, name)]
    if name in ("msub", "msup", "msubsup", "munder", "mover", "munderover"):
        return [_scripts(node, name, depth)]
    children = _children(node, depth)
    if name == "mfrac":
        line = any(part.tag in ("mjx-line", "rect") for part in node.iter())
        return [_built("mfrac", children, **({} if line else {"linethickness": "0"}))]
    if name in ("msqrt", "mroot"):
        body = [child for child in children if not (child.tag == "mo" and child.text == _SURD)]
        if name == "mroot" and node.tag.startswith("mjx-"):
            body.reverse()  # CHTML draws the degree first
        return [_built(name, body)]
    return [_built({"texatom": "mrow", "mlabeledtr": "mtr"}.get(name, name), children)]


def _leaf(node: Any, name: str) -> Any:
    signs, fonts = [], []
    for part in node.iter():
        if not isinstance(part.tag, str):
            continue
        css = part.get("class") or ""
        code = part.get("data-c") or (found.group(1) if (found := _CODE.search(css)) else "")
        if sign := _sign(code):
            signs.append(sign)
            fonts.append(css + (part.get("href") or part.get("xlink:href") or ""))
        elif (part.text or "").strip():
            signs.append(part.text)
    text = "".join(signs)
    if name == "mo" and text[:1] in _PIECES:
        text = _PIECES[text[0]]
    calligraphic = bool(fonts) and all(_CALLIGRAPHIC.search(font) for font in fonts)
    leaf = _built(name, [], **({"mathvariant": "script"} if calligraphic else {}))
    leaf.text = text
    return leaf


def _sign(code: str) -> str:
    """The character of a hexadecimal code point; ``""`` for what is none that a tree may hold."""
    value = int(code, 16) if re.fullmatch(r"[0-9A-Fa-f]{2,6}", code) else 0
    return chr(value) if 32 <= value < 0xD800 or 0xE000 <= value < 0xFFFE or 0x10000 <= value < 0x110000 else ""


def _scripts(node: Any, name: str, depth: int) -> Any:
    """Base, then what stands below it, then what stands above."""
    if node.tag.startswith("mjx-"):
        script = next((child for child in node if child.tag == "mjx-script"), None)
        if script is not None:
            base = [part for child in node if child is not script for part in _pieces(child, depth)]
            lower_upper = _children(script, depth)[::-1]
        else:
            base, *rest = [_children(part, depth) for part in _limits(node)] or [_children(node, depth)]
            lower_upper = [part for piece in rest for part in piece]
    else:
        base, *others = [_pieces(child, depth) for child in node if _name(child) or len(child)] or [[]]
        heights = [_height(child) for child in node if _name(child) or len(child)][1:]
        ordered = sorted(zip(heights, others, strict=True), key=lambda pair: pair[0])
        lower_upper = [part for _, piece in ordered for part in piece]
    return _built(name, [_one(base), *lower_upper])


#: Elements of CHTML around the parts of a base with limits, lowest part second.
_LIMITS = ("mjx-base", "mjx-under", "mjx-over")


def _limits(node: Any) -> list[Any]:
    """The elements around base, lower and upper part, where there are such, and not those of a formula inside."""
    found: dict[str, Any] = {}
    walk = list(node)
    while walk:
        part = walk.pop(0)
        if part.tag in _LIMITS:
            found.setdefault(part.tag, part)
        elif part.tag in ("mjx-munder", "mjx-mover") and "mjx-base" not in found or not _name(part):
            walk += list(part)
    return [found[tag] for tag in _LIMITS if tag in found]


def _pieces(child: Any, depth: int) -> list[Any]:
    return _converted(child, depth + 1) if _name(child) else _children(child, depth)


def _one(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else _built("mrow", parts)


def _height(node: Any) -> float:
    found = _TRANSLATED.search(node.get("transform") or "")
    return float(found.group(1)) if found else 0.0

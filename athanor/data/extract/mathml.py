"""Presentation MathML → LaTeX (MathML Core and MathML 3, chapter 3), as a page without a TeX annotation writes it.

Works on any ElementTree-like element, with or without namespace (``{…}mfrac``, ``mml:mfrac``, ``mfrac``). What is no
known element gives its children's formula, so text is never lost.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from athanor.data.extract.mathchars import join_math, math_latex

_FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "log"]
    + ["ln", "lg", "exp", "lim", "limsup", "liminf", "max", "min", "sup", "inf", "det", "dim", "ker", "hom", "arg"]
    + ["deg", "gcd", "Pr"]
)
_SPACED = {"lim sup": r"\limsup", "lim inf": r"\liminf", "arg max": r"\arg\max", "arg min": r"\arg\min"}
_VARIANTS = {
    "bold": "mathbf", "double-struck": "mathbb", "script": "mathcal", "fraktur": "mathfrak", "sans-serif": "mathsf",
    "monospace": "mathtt", "bold-italic": "boldsymbol", "bold-script": "mathcal", "bold-fraktur": "mathfrak",
    "normal": "mathrm",
}  # fmt: skip
#: Signs above and below a base: (command over one letter, command over more).
_OVER = {
    "^": ("hat", "widehat"), "ˆ": ("hat", "widehat"), "\u0302": ("hat", "widehat"), "~": ("tilde", "widetilde"),
    "˜": ("tilde", "widetilde"), "∼": ("tilde", "widetilde"), "\u0303": ("tilde", "widetilde"),
    "¯": ("bar", "overline"), "‾": ("bar", "overline"), "_": ("bar", "overline"), "\u0304": ("bar", "overline"),
    "\u0305": ("bar", "overline"), "−": ("bar", "overline"), "-": ("bar", "overline"), "―": ("bar", "overline"),
    "ˉ": ("bar", "overline"), "→": ("vec", "overrightarrow"), "⃗": ("vec", "overrightarrow"),
    "⇀": ("vec", "overrightarrow"),
    "←": ("overleftarrow", "overleftarrow"), "↔": ("overleftrightarrow", "overleftrightarrow"), "˙": ("dot", "dot"),
    "\u0307": ("dot", "dot"), ".": ("dot", "dot"), "¨": ("ddot", "ddot"), "\u0308": ("ddot", "ddot"),
    "..": ("ddot", "ddot"), "⃛": ("dddot", "dddot"), "...": ("dddot", "dddot"), "ˇ": ("check", "check"),
    "˘": ("breve", "breve"), "´": ("acute", "acute"), "`": ("grave", "grave"), "˚": ("mathring", "mathring"),
    "⏞": ("overbrace", "overbrace"), "︷": ("overbrace", "overbrace"), "⎴": ("overbracket", "overbracket"),
    "⏜": ("overparen", "overparen"),
}  # fmt: skip
_UNDER = {
    "_": "underline", "¯": "underline", "‾": "underline", "\u0332": "underline", "―": "underline",
    "⏟": "underbrace", "︸": "underbrace", "⎵": "underbracket", "→": "underrightarrow", "←": "underleftarrow",
}  # fmt: skip
_LIMIT_BASES = frozenset(
    [r"\sum", r"\prod", r"\coprod", r"\int", r"\iint", r"\iiint", r"\oint", r"\bigcup", r"\bigcap", r"\bigvee"]
    + [r"\bigwedge", r"\bigoplus", r"\bigotimes", r"\bigodot", r"\lim", r"\max", r"\min", r"\sup", r"\inf", r"\det"]
    + [r"\limsup", r"\liminf", r"\gcd", r"\Pr", r"\arg\max", r"\arg\min"]
)
_ARROWS = {"→": "xrightarrow", "⟶": "xrightarrow", "←": "xleftarrow", "⟵": "xleftarrow", "↔": "xleftrightarrow",
           "⇒": "xRightarrow", "⇌": "xrightleftharpoons", "⟹": "xRightarrow"}  # fmt: skip
_MATRICES = {("(", ")"): "pmatrix", ("[", "]"): "bmatrix", ("|", "|"): "vmatrix", ("‖", "‖"): "Vmatrix",
             ("∥", "∥"): "Vmatrix", ("{", "}"): "Bmatrix", ("∣", "∣"): "vmatrix"}  # fmt: skip
_OPENING, _CLOSING = "([{⟨⌊⌈|‖∣∥〈", ")]}⟩⌋⌉|‖∣∥〉"
_ENCLOSURES = {
    "box": "boxed", "roundedbox": "boxed", "circle": "boxed", "updiagonalstrike": "cancel",
    "horizontalstrike": "cancel",
    "downdiagonalstrike": "bcancel", "top": "overline", "bottom": "underline", "radical": "sqrt",
}  # fmt: skip
_TALL = frozenset(["mfrac", "mtable", "munderover", "munder", "mroot"])
_TEXT_SPECIAL = str.maketrans(
    {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "%": r"\%", "#": r"\#", "&": r"\&", "_": r"\_",
     "^": r"\^{}", "~": r"\~{}"}
)  # fmt: skip
_ATOM = re.compile(
    r"[^\\{}^_\s'&]|\\[A-Za-z]+|\\[{}|]|\\(?:math[a-z]+|boldsymbol|text|operatorname)\{[^{}]*\}|\d+(?:\.\d+)?"
)
_FENCED = re.compile(r"\((?:[^()])*\)|\[[^\[\]]*\]|\\left.*\\right.{1,8}", re.DOTALL)
_TEX_ENCODINGS = re.compile(r"tex|latex", re.IGNORECASE)
_DISPLAY_WRAPPER = re.compile(r"\{\\(?:display|text)style\s+(.*)\}", re.DOTALL)
_INVISIBLE = "\u2061\u2062\u2063\u2064\u200b"
_MAX_DEPTH = 120


def local(element: Any) -> str:
    """Tag without namespace or prefix; ``""`` for comments."""
    tag = element.tag
    return tag.rsplit("}", 1)[-1].rsplit(":", 1)[-1].lower() if isinstance(tag, str) else ""


def math_to_latex(math: Any) -> str:
    """LaTeX (without dollars) of ``<math>``: its TeX annotation, ``data-latex`` or ``alttext``, else converted."""
    for node in math.iter():
        if local(node) == "annotation" and _TEX_ENCODINGS.search(node.get("encoding") or ""):
            text = "".join(node.itertext()).strip()
            if text:
                return unwrapped(text)
    if source := (math.get("data-latex") or "").strip():  # MathJax 4
        return unwrapped(source)
    alternative = (math.get("alttext") or "").strip()
    if "\\" in alternative or re.search(r"[_^]", alternative):
        return unwrapped(alternative)
    return convert(math)


def unwrapped(latex: str) -> str:
    r"""Without the ``{\displaystyle …}`` that Wikipedia puts around every formula."""
    found = _DISPLAY_WRAPPER.fullmatch(latex.strip())
    return found.group(1).strip() if found else latex.strip()


def convert(element: Any) -> str:
    """LaTeX of a presentation MathML element and what is below it."""
    return re.sub(r"[ \t\n]{2,}", " ", _node(element, 0)).strip()


def _node(element: Any, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return math_latex("".join(element.itertext()))
    handler = _HANDLERS.get(local(element))
    return handler(element, depth + 1) if handler else _row(list(element), depth + 1, element)


def _kids(element: Any) -> list[Any]:
    return [child for child in element if local(child)]


def _arg(element: Any, at: int, depth: int) -> str:
    kids = _kids(element)
    return _node(kids[at], depth).strip() if at < len(kids) else ""


# -- token elements --


def _text(element: Any) -> str:
    return unicodedata.normalize("NFC", " ".join("".join(element.itertext()).split())).replace("⟂", "⊥")


def _identifier(element: Any, depth: int) -> str:
    text = _text(element).strip(_INVISIBLE)
    if text in _FUNCTIONS:
        return "\\" + text
    if text in _SPACED:
        return _SPACED[text]
    variant = _VARIANTS.get(element.get("mathvariant") or "", "")
    if len(text) == 1 or not text:
        plain = math_latex(text)
        # A Greek capital or a sign is upright by itself.
        return (
            f"\\{variant}{{{plain}}}"
            if variant and (variant != "mathrm" or text.isascii() and text.isalpha())
            else plain
        )
    if not text.isascii() and any("\u3400" <= char <= "\u9fff" for char in text):
        return f"\\text{{{text.translate(_TEXT_SPECIAL)}}}"
    inner = math_latex(text)
    return f"\\{variant or 'mathrm'}{{{inner}}}" if text.isalpha() and text.isascii() else inner


def _number(element: Any, depth: int) -> str:
    variant = _VARIANTS.get(element.get("mathvariant") or "", "")
    text = math_latex(_text(element))
    return f"\\{variant}{{{text}}}" if variant and variant != "mathrm" else text


def _operator(element: Any, depth: int) -> str:
    text = _text(element)
    if text in _FUNCTIONS:
        return "\\" + text
    if text in _SPACED:
        return _SPACED[text]
    if len(text) > 1 and text.isalpha() and text.isascii():
        return r"\bmod" if text == "mod" else f"\\operatorname{{{text}}}"
    return math_latex(text)


def _words(element: Any, depth: int) -> str:
    if any(local(child) == "math" for child in element.iter()):
        return _row(_kids(element), depth, element)
    raw = "".join(element.itertext())
    text = re.sub(r"\s+", " ", raw)
    if not text.strip():
        return r"\ " if text else ""
    return f"\\text{{{text.translate(_TEXT_SPECIAL)}}}"


def _string(element: Any, depth: int) -> str:
    quote = element.get("lquote") or '"', element.get("rquote") or '"'
    return f"\\text{{{quote[0]}{_text(element).translate(_TEXT_SPECIAL)}{quote[1]}}}"


def _space(element: Any, depth: int) -> str:
    if element.get("linebreak") == "newline":
        return r"\\ "
    found = re.fullmatch(r"\s*(-?[\d.]+)\s*(em|ex|px|pt|cm|mm)?\s*", element.get("width") or "")
    if not found:
        return ""
    try:
        width = float(found.group(1)) * {"ex": 0.5, "px": 1 / 16, "pt": 0.1, "cm": 2.8, "mm": 0.28}.get(
            found.group(2), 1
        )
    except ValueError:
        return ""
    steps = ((1.9, r"\qquad"), (0.9, r"\quad"), (0.25, r"\;"), (0.05, r"\,"), (-0.05, ""))
    return next((command for least, command in steps if width >= least), r"\!")


# -- rows and fences --


def _row(children: list[Any], depth: int, element: Any = None) -> str:
    kids = [child for child in children if local(child)]
    fenced = _fenced_table(kids, depth) or _fenced_row(kids, depth)
    if fenced:
        return fenced
    pieces: list[str] = [math_latex(" ".join((element.text or "").split()))] if element is not None else []
    for at, child in enumerate(kids):
        applied = at + 1 < len(kids) and local(kids[at + 1]) == "mo" and _text(kids[at + 1]) == "\u2061"
        piece = _node(child, depth)
        if applied and piece.startswith(r"\mathrm{"):
            piece = r"\operatorname" + piece[len(r"\mathrm") :]
        pieces.append(piece)
        if element is not None and child.tail and child.tail.strip():
            pieces.append(math_latex(" ".join(child.tail.split())))
    return join_math(pieces)


def _sign(element: Any) -> str:
    return _text(element) if local(element) == "mo" else ""


def _core(kids: list[Any]) -> list[Any]:
    """Children without empty operators and spaces at the ends; a lone row or style is opened."""
    while len(kids) == 1 and local(kids[0]) in ("mrow", "mstyle", "mpadded"):
        kids = _kids(kids[0])
    return [k for k in kids if not (local(k) in ("mo", "mspace", "none") and not _text(k).strip(_INVISIBLE))]


def _fenced_table(kids: list[Any], depth: int) -> str:
    r"""``( table )`` → ``pmatrix`` and its kin, ``{ table`` → ``cases``."""
    core = [k for k in kids if not (local(k) in ("mo", "mspace") and not _text(k).strip(_INVISIBLE))]
    if len(core) not in (2, 3) or not _sign(core[0]):
        return ""
    inside = _core([core[1]])
    if len(inside) != 1:
        return ""
    opening, closing = _sign(core[0]), _sign(core[2]) if len(core) == 3 else ""
    if local(inside[0]) == "mtable":
        if opening == "{" and not closing and len(core) == 2:
            return _environment("cases", inside[0], depth)
        if (opening, closing) in _MATRICES:
            return _environment(_MATRICES[opening, closing], inside[0], depth)
    if local(inside[0]) == "mfrac" and (opening, closing) == ("(", ")") and _no_line(inside[0]):
        return f"\\binom{{{_arg(inside[0], 0, depth)}}}{{{_arg(inside[0], 1, depth)}}}"
    return ""


def _fenced_row(kids: list[Any], depth: int) -> str:
    r"""Fences around something tall grow: ``\left( … \right)``."""
    if len(kids) < 3:
        return ""
    opening, closing = _sign(kids[0]), _sign(kids[-1])
    if not (opening and closing and opening in _OPENING and closing in _CLOSING):
        return ""
    if any(_sign(kid) in (opening, closing) for kid in kids[1:-1]):
        return ""
    if not any(local(node) in _TALL for kid in kids[1:-1] for node in kid.iter()):
        return ""
    inner = _row(kids[1:-1], depth)
    return join_math([f"\\left{math_latex(opening)}", inner, f"\\right{math_latex(closing)}"])


def _fences(element: Any, depth: int) -> str:
    opening, closing = element.get("open", "("), element.get("close", ")")
    kids = _kids(element)
    inside = _core(kids)
    if len(inside) == 1 and local(inside[0]) == "mtable":
        if (opening, closing) in _MATRICES:
            return _environment(_MATRICES[opening, closing], inside[0], depth)
        if opening == "{" and not closing:
            return _environment("cases", inside[0], depth)
    if len(inside) == 1 and local(inside[0]) == "mfrac" and (opening, closing) == ("(", ")") and _no_line(inside[0]):
        return f"\\binom{{{_arg(inside[0], 0, depth)}}}{{{_arg(inside[0], 1, depth)}}}"
    separators = "".join((element.get("separators", ",")).split())
    pieces: list[str] = []
    for at, kid in enumerate(kids):
        if at and separators:
            pieces.append(math_latex(separators[min(at - 1, len(separators) - 1)]))
        pieces.append(_node(kid, depth))
    inner = join_math(pieces)
    tall = any(local(node) in _TALL for node in element.iter())
    left, right = math_latex(opening), math_latex(closing)
    if tall or not (left and right):
        return join_math([f"\\left{left or '.'}", inner, f"\\right{right or '.'}"])
    return join_math([left, inner, right])


# -- scripts and layout --


def _grouped(base: str) -> str:
    """A base ready for ``^`` or ``_``."""
    if not base:
        return "{}"
    return base if _ATOM.fullmatch(base) or _FENCED.fullmatch(base) else f"{{{base}}}"


def _raised(base: str, script: str) -> str:
    if script and not script.strip("'"):
        return base + script
    inner = script[2:-1] if script.startswith("^{") and script.endswith("}") else script
    return f"{base}^{{{inner}}}" if script else base


def _lowered(base: str, script: str) -> str:
    return f"{base}_{{{script}}}" if script else base


def _sup(element: Any, depth: int) -> str:
    return _raised(_grouped(_arg(element, 0, depth)), _arg(element, 1, depth))


def _sub(element: Any, depth: int) -> str:
    return _lowered(_grouped(_arg(element, 0, depth)), _arg(element, 1, depth))


def _subsup(element: Any, depth: int) -> str:
    base = _grouped(_arg(element, 0, depth))
    return _raised(_lowered(base, _arg(element, 1, depth)), _arg(element, 2, depth))


def _is_limit_base(base: str) -> bool:
    return base in _LIMIT_BASES or base.startswith((r"\operatorname{", r"\underbrace{", r"\overbrace{"))


def _mark_of(element: Any, at: int) -> str:
    kids = _kids(element)
    return _text(kids[at]) if at < len(kids) else ""


def _over(element: Any, depth: int) -> str:
    base, mark = _arg(element, 0, depth), _mark_of(element, 1)
    if mark in _OVER:
        one, more = _OVER[mark]
        return f"\\{one if len(_mark_of(element, 0)) <= 1 else more}{{{base}}}"
    if _mark_of(element, 0) in _ARROWS:
        return f"\\{_ARROWS[_mark_of(element, 0)]}{{{_arg(element, 1, depth)}}}"
    script = _arg(element, 1, depth)
    return _raised(base, script) if _is_limit_base(base) else f"\\overset{{{script}}}{{{base}}}"


def _under(element: Any, depth: int) -> str:
    base, mark = _arg(element, 0, depth), _mark_of(element, 1)
    if mark in _UNDER:
        return f"\\{_UNDER[mark]}{{{base}}}"
    script = _arg(element, 1, depth)
    if _mark_of(element, 0) in _ARROWS:
        return f"\\{_ARROWS[_mark_of(element, 0)]}[{script}]{{}}"
    return _lowered(base, script) if _is_limit_base(base) else f"\\underset{{{script}}}{{{base}}}"


def _underover(element: Any, depth: int) -> str:
    base, low, high = (_arg(element, at, depth) for at in range(3))
    if _mark_of(element, 0) in _ARROWS:
        return f"\\{_ARROWS[_mark_of(element, 0)]}[{low}]{{{high}}}"
    if _is_limit_base(base):
        return _raised(_lowered(base, low), high)
    if _mark_of(element, 2) in _OVER:
        return f"\\underset{{{low}}}{{\\{_OVER[_mark_of(element, 2)][1]}{{{base}}}}}"
    return f"\\overset{{{high}}}{{\\underset{{{low}}}{{{base}}}}}"


def _no_line(element: Any) -> bool:
    return bool(re.fullmatch(r"0+(?:\.0+)?\s*(?:[a-z]+|%)?", (element.get("linethickness") or "").strip()))


def _fraction(element: Any, depth: int) -> str:
    top, bottom = _arg(element, 0, depth), _arg(element, 1, depth)
    if _no_line(element):
        return f"{{{top} \\atop {bottom}}}"
    if element.get("bevelled") == "true":
        return f"{_grouped(top)}/{_grouped(bottom)}"
    return f"\\frac{{{top}}}{{{bottom}}}"


def _root(element: Any, depth: int) -> str:
    return f"\\sqrt[{_arg(element, 1, depth)}]{{{_arg(element, 0, depth)}}}"


def _square_root(element: Any, depth: int) -> str:
    return f"\\sqrt{{{_row(_kids(element), depth).strip()}}}"


def _phantom(element: Any, depth: int) -> str:
    return f"\\phantom{{{_row(_kids(element), depth).strip()}}}"


def _enclosed(element: Any, depth: int) -> str:
    inner = _row(_kids(element), depth).strip()
    for notation in (element.get("notation") or "").split():
        if notation in _ENCLOSURES:
            return f"\\{_ENCLOSURES[notation]}{{{inner}}}"
    return inner


def _first(element: Any, depth: int) -> str:
    return _arg(element, 0, depth)


def _multiscripts(element: Any, depth: int) -> str:
    kids = _kids(element)
    if not kids:
        return ""
    cut = next((at for at, kid in enumerate(kids) if local(kid) == "mprescripts"), len(kids))

    def pairs(scripts: list[Any]) -> list[tuple[str, str]]:
        texts = [_node(kid, depth).strip() for kid in scripts] + [""]
        return [(texts[at], texts[at + 1]) for at in range(0, len(scripts), 2)]

    before = "".join(_raised(_lowered("{}", low), high) for low, high in pairs(kids[cut + 1 :]))
    base = _grouped(_node(kids[0], depth).strip())
    for at, (low, high) in enumerate(pairs(kids[1:cut])):
        base = _raised(_lowered(base if at == 0 else base + "{}", low), high)
    return before + base


# -- tables --


def _table(element: Any, depth: int) -> str:
    aligned = (element.get("columnalign") or "").split()
    is_aligned = aligned[:2] == ["right", "left"] or element.get("displaystyle") == "true"
    return _environment("aligned" if is_aligned else "matrix", element, depth)


def _environment(name: str, table: Any, depth: int) -> str:
    lines = []
    for row in _kids(table):
        if local(row) in ("mtr", "mlabeledtr"):
            cells = _kids(row)[1 if local(row) == "mlabeledtr" else 0 :]
            lines.append(
                " & ".join(_row(_kids(c), depth, c).strip() if local(c) == "mtd" else _node(c, depth) for c in cells)
            )
    return f"\\begin{{{name}}} " + r" \\ ".join(lines) + f" \\end{{{name}}}"


def _nothing(element: Any, depth: int) -> str:
    return ""


_HANDLERS: dict[str, Callable[[Any, int], str]] = {
    "mi": _identifier, "mn": _number, "mo": _operator, "mtext": _words, "ms": _string, "mspace": _space,
    "mfenced": _fences, "msup": _sup, "msub": _sub, "msubsup": _subsup, "mover": _over, "munder": _under,
    "munderover": _underover, "mfrac": _fraction, "mroot": _root, "msqrt": _square_root, "mphantom": _phantom,
    "menclose": _enclosed, "mmultiscripts": _multiscripts, "mtable": _table, "semantics": _first, "maction": _first,
    "none": _nothing, "mprescripts": _nothing, "annotation": _nothing, "annotation-xml": _nothing,
    "maligngroup": _nothing, "malignmark": _nothing,
}  # fmt: skip

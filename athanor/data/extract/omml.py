"""OMML, the formulas of Word and PowerPoint → LaTeX (ECMA-376 part 1, section 22.1: the ``m:`` elements).

Elements are matched by local name, so the strict and the transitional namespace read alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from athanor.data.extract.mathchars import join_math, math_latex

_FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "log",
        "ln", "lg", "exp", "lim", "limsup", "liminf", "max", "min", "sup", "inf", "det", "dim", "ker", "hom", "arg",
        "deg", "gcd", "Pr",
    ]
)  # fmt: skip
_NARY = {
    "∑": r"\sum", "∏": r"\prod", "∐": r"\coprod", "∫": r"\int", "∬": r"\iint", "∭": r"\iiint", "∮": r"\oint",
    "∯": r"\oiint", "∰": r"\oiiint", "⋃": r"\bigcup", "⋂": r"\bigcap", "⋁": r"\bigvee", "⋀": r"\bigwedge",
    "⨁": r"\bigoplus", "⨂": r"\bigotimes", "⨀": r"\bigodot", "⨄": r"\biguplus", "⨆": r"\bigsqcup",
}  # fmt: skip
_ACCENTS = {
    "\u0302": "hat", "\u02c6": "hat", "^": "hat", "\u030c": "check", "\u0303": "tilde", "~": "tilde", "\u02dc": "tilde",
    "\u0301": "acute", "\u0300": "grave", "\u0307": "dot", "\u02d9": "dot", "\u0308": "ddot", "\u20db": "dddot",
    "\u20dc": "ddddot", "\u0306": "breve", "\u0304": "bar", "\u0305": "overline", "\u00af": "bar", "\u033f": "overline",
    "\u20d7": "vec", "\u2192": "vec", "\u20d6": "overleftarrow", "\u20e1": "overleftrightarrow", "\u030a": "mathring",
    "\u23de": "overbrace", "\u23df": "underbrace", "\u0332": "underline",
}  # fmt: skip
_WIDE = {"hat": "widehat", "tilde": "widetilde", "bar": "overline", "vec": "overrightarrow"}
_FENCES = {"(": "(", ")": ")", "[": "[", "]": "]", "{": r"\{", "}": r"\}", "|": "|", "": "."}
_MATRICES = {("(", ")"): "pmatrix", ("[", "]"): "bmatrix", ("{", "}"): "Bmatrix", ("|", "|"): "vmatrix"}
_MATRICES[("‖", "‖")] = "Vmatrix"
_SCRIPTS = {"double-struck": "mathbb", "fraktur": "mathfrak", "script": "mathcal", "sans-serif": "mathsf"}
_SCRIPTS["monospace"] = "mathtt"
_TALL = re.compile(r"\\(?:frac|sum|prod|int|iint|iiint|oint|begin|sqrt|genfrac|binom|big\w+|over|under)")
#: Words typed into a formula without marking them as text.
_PROSE = re.compile(r"[A-Za-z]{2,}(?:\s+[A-Za-z]{2,})+|[\u4e00-\u9fff]+")
_ATOM = re.compile(r"(?:\\?[^\W_]|\\[A-Za-z]+|\\math\w+\{[^{}]*\}|[^\\{}^_\s])\Z")


def local(element: Any) -> str:
    """Name of an element without its namespace; "" for comments and processing instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def child(element: Any, *path: str) -> Any:
    """The first descendant along ``path`` of local names, or None."""
    for name in path:
        if element is None:
            return None
        element = next((c for c in element if local(c) == name), None)
    return element


def val(element: Any, name: str = "val", default: str | None = None) -> str | None:
    """An attribute by its local name."""
    if element is None:
        return default
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return default


def whole(value: str | None, default: int, low: int = 0, high: int = 1_000) -> int:
    """A whole number of an attribute within bounds; ``default`` where it is none. Damaged files hold anything."""
    try:
        return min(max(int(value or ""), low), high)
    except ValueError:
        return default


def is_on(element: Any) -> bool:
    """Whether an on/off property is there and not switched off."""
    return element is not None and val(element, default="1") not in ("0", "off", "false")


def omml_to_latex(element: Any) -> str:
    """LaTeX (without ``$``) of an ``m:oMath``, ``m:oMathPara`` or any part of one."""
    return re.sub(r"\s{2,}", " ", _node(element)).strip()


def _node(element: Any) -> str:
    name = local(element)
    handler = _HANDLERS.get(name)
    if handler is not None:
        return handler(element)
    if name.endswith("Pr") or name in ("del", "moveFrom", "rPr", "instrText"):
        return ""
    return _children(element)


def _children(element: Any) -> str:
    return join_math([_node(c) for c in element]) if element is not None else ""


def _arg(element: Any, name: str) -> str:
    return _children(child(element, name)).strip()


def _run(element: Any) -> str:
    text = "".join(c.text or "" for c in element if local(c) == "t")
    if not text:
        return r" \\ " if child(element, "br") is not None else ""
    properties = child(element, "rPr")
    if is_on(child(properties, "nor") if properties is not None else None):
        return _as_text(text)
    if _PROSE.fullmatch(text.strip()):
        return _as_text(text)
    latex = math_latex(text)
    style = val(child(properties, "sty")) if properties is not None else None
    script = val(child(properties, "scr")) if properties is not None else None
    word = text.strip()
    if style == "p" and word.isalpha() and word.isascii() and len(word) > 1:
        return f"\\{word}" if word in _FUNCTIONS else f"\\mathrm{{{word}}}"
    letters = any(c.isalpha() for c in text)
    if script in _SCRIPTS and letters:
        return f"\\{_SCRIPTS[script]}{{{latex}}}"
    if style in ("b", "bi") and letters:
        return f"\\mathbf{{{latex}}}" if text.isascii() else f"\\boldsymbol{{{latex}}}"
    return latex


def _as_text(text: str) -> str:
    escaped = re.sub(r"([#$%&_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    return f"\\text{{{escaped}}}" if any(c.isalpha() for c in text) else math_latex(text)


def _base(element: Any) -> str:
    base = _arg(element, "e")
    only = _only_child(child(element, "e"))
    fenced = only is not None and local(only) == "d"
    return base if fenced or (base and _ATOM.match(base)) else f"{{{base}}}"


def _is_hidden(element: Any, properties: str, flag: str) -> bool:
    found = child(element, properties, flag)
    return is_on(found)


def _fraction(element: Any) -> str:
    top, bottom = _arg(element, "num"), _arg(element, "den")
    kind = val(child(element, "fPr", "type"), default="bar")
    if kind == "noBar":
        return f"\\genfrac{{}}{{}}{{0pt}}{{}}{{{top}}}{{{bottom}}}"
    if kind in ("lin", "skw"):
        return f"{_grouped(top)}/{_grouped(bottom)}"
    return f"\\frac{{{top}}}{{{bottom}}}"


def _grouped(latex: str) -> str:
    return latex if _ATOM.match(latex) or latex.isalnum() else f"{{{latex}}}"


def _superscript(element: Any) -> str:
    sup = _arg(element, "sup")
    base = _base(element)
    return base + sup if sup and not sup.strip("'") else f"{base}^{{{sup}}}"


def _subscript(element: Any) -> str:
    return f"{_base(element)}_{{{_arg(element, 'sub')}}}"


def _both_scripts(element: Any) -> str:
    return f"{_base(element)}_{{{_arg(element, 'sub')}}}^{{{_arg(element, 'sup')}}}"


def _pre_scripts(element: Any) -> str:
    marks = (("_", "sub"), ("^", "sup"))
    scripts = "".join(f"{mark}{{{text}}}" for mark, name in marks if (text := _arg(element, name)))
    return f"{{}}{scripts}{_base(element)}"


def _radical(element: Any) -> str:
    degree = "" if _is_hidden(element, "radPr", "degHide") else _arg(element, "deg")
    return f"\\sqrt[{degree}]{{{_arg(element, 'e')}}}" if degree else f"\\sqrt{{{_arg(element, 'e')}}}"


def _nary(element: Any) -> str:
    char = val(child(element, "naryPr", "chr"), default="∫") or "∫"
    out = _NARY.get(char) or math_latex(char)
    for name, mark in (("sub", "_"), ("sup", "^")):
        limit = "" if _is_hidden(element, "naryPr", f"{name}Hide") else _arg(element, name)
        if limit:
            out += f"{mark}{{{limit}}}"
    body = _arg(element, "e")
    return join_math([out, body]) if out[-1] == "}" or not body[:1].isalnum() else f"{out} {body}"


def _delimited(element: Any) -> str:
    marks = [val(child(element, "dPr", f"{side}Chr"), default=default) or "" for side, default in _SIDES]
    opening, closing, separator = marks
    parts = [c for c in element if local(c) == "e"]
    only = _only_child(parts[0]) if len(parts) == 1 else None
    if only is not None and local(only) == "m" and (opening, closing) in _MATRICES:
        return _environment(_MATRICES[(opening, closing)], _matrix_rows(only))
    if only is not None and local(only) == "eqArr" and (opening, closing) == ("{", ""):
        return _environment("cases", _equation_rows(only))
    stacked = only is not None and local(only) == "f" and val(child(only, "fPr", "type")) == "noBar"
    if stacked and (opening, closing) == ("(", ")"):
        return f"\\binom{{{_arg(only, 'num')}}}{{{_arg(only, 'den')}}}"
    inner = math_latex(separator).join(_children(part).strip() for part in parts)
    left, right = (_FENCES.get(mark) or math_latex(mark) for mark in (opening, closing))
    if _TALL.search(inner) or "." in (left, right) or (left, right) == ("|", "|"):
        return join_math([f"\\left{left}", " " if left[-1].isalpha() else "", inner, f"\\right{right}"])
    return join_math([left, inner, right])


_SIDES = (("beg", "("), ("end", ")"), ("sep", "|"))


def _only_child(element: Any) -> Any:
    found = [c for c in element if not local(c).endswith("Pr")] if element is not None else []
    return found[0] if len(found) == 1 else None


def _environment(name: str, rows: list[str]) -> str:
    return f"\\begin{{{name}}} " + r" \\ ".join(rows) + f" \\end{{{name}}}"


def _matrix_rows(element: Any) -> list[str]:
    rows = [c for c in element if local(c) == "mr"]
    return [" & ".join(_children(cell).strip() for cell in row if local(cell) == "e") for row in rows]


def _matrix(element: Any) -> str:
    return _environment("matrix", _matrix_rows(element))


def _equation_rows(element: Any) -> list[str]:
    """Rows of an equation array: a ``&`` typed in a run is an alignment mark there, not a character."""
    return [_children(c).replace(r"\&", "&").strip() for c in element if local(c) == "e"]


def _equations(element: Any) -> str:
    rows = _equation_rows(element)
    if len(rows) == 1:  # Word's way to number an equation: the number behind a #
        return re.sub(r"\s*\\#\s*\(?([^()#]*)\)?\s*\Z", r"\\tag{\1}", rows[0].replace("&", ""))
    return _environment("aligned", [re.sub(r"\s*\\#\s*(\S.*)\Z", r" \\quad \1", row) for row in rows]) if rows else ""


def _accent(element: Any) -> str:
    name = _ACCENTS.get(val(child(element, "accPr", "chr"), default="\u0302") or "", "")
    body = _arg(element, "e")
    if not name:
        return f"\\overset{{{math_latex(val(child(element, 'accPr', 'chr')) or '')}}}{{{body}}}"
    wide = not _ATOM.match(body) and len(body) > 1
    return f"\\{_WIDE.get(name, name) if wide else name}{{{body}}}"


def _bar(element: Any) -> str:
    top = val(child(element, "barPr", "pos"), default="bot") == "top"
    return f"\\{'overline' if top else 'underline'}{{{_arg(element, 'e')}}}"


def _group(element: Any) -> str:
    char = val(child(element, "groupChrPr", "chr"), default="\u23df") or ""
    top = val(child(element, "groupChrPr", "pos"), default="bot") == "top"
    body = _arg(element, "e")
    if char in ("\u23df", "\u23de", "{", "}"):
        return f"\\{'overbrace' if top else 'underbrace'}{{{body}}}"
    if char in ("→", "←", "↔", "⇒", "⇐", "⇔", "⇌"):
        # Word sets an arrow with a label as the label above (or below) a stretched arrow.
        return f"\\underset{{{body}}}{{{math_latex(char)}}}" if top else f"\\overset{{{body}}}{{{math_latex(char)}}}"
    return f"\\{'overset' if top else 'underset'}{{{math_latex(char)}}}{{{body}}}"


def _prose(element: Any) -> str:
    r"""``\text{…}`` of a part that holds nothing but words, however many runs they are cut into."""
    if element is None or any(local(c) not in ("r", "ctrlPr") for c in element):
        return ""
    text = "".join(t.text or "" for run in element for t in run if local(t) == "t")
    return _as_text(text) if _PROSE.fullmatch(text.strip()) else ""


def _limit(mark: str, stack: str) -> Callable[[Any], str]:
    def handler(element: Any) -> str:
        base, limit = _arg(element, "e"), _prose(child(element, "lim")) or _arg(element, "lim")
        word = base.removeprefix("\\mathrm{").rstrip("}").lstrip("\\")
        if word in _FUNCTIONS:
            return f"\\{word}{mark}{{{limit}}}"
        if base == f"\\mathrm{{{word}}}":
            return f"\\operatorname*{{{word}}}{mark}{{{limit}}}"
        if base.startswith(("\\underbrace", "\\overbrace", "\\sum", "\\prod")):
            return f"{base}{mark}{{{limit}}}"
        return f"\\{stack}{{{limit}}}{{{base}}}"

    return handler


def _function(element: Any) -> str:
    name, body = _arg(element, "fName"), _arg(element, "e")
    head = re.match(r"(?:\\mathrm\{)?([A-Za-z]{2,})\}?", name)
    if head:
        word = head[1]
        name = (f"\\{word}" if word in _FUNCTIONS else f"\\operatorname{{{word}}}") + name[head.end() :]
    return f"{name} {body}" if body[:1].isalnum() or body[:1] == "\\" else name + body


def _phantom(element: Any) -> str:
    shown = child(element, "phantPr", "show")
    return _arg(element, "e") if shown is None or is_on(shown) else f"\\phantom{{{_arg(element, 'e')}}}"


def _boxed(element: Any) -> str:
    return f"\\boxed{{{_arg(element, 'e')}}}"


def _paragraph(element: Any) -> str:
    found = list(filter(None, (_node(c).strip() for c in element if local(c) == "oMath")))
    return _environment("gathered", found) if len(found) > 1 else "".join(found)


_HANDLERS: dict[str, Callable[[Any], str]] = {
    "r": _run, "f": _fraction, "sSup": _superscript, "sSub": _subscript, "sSubSup": _both_scripts,
    "sPre": _pre_scripts, "rad": _radical, "nary": _nary, "d": _delimited, "m": _matrix, "eqArr": _equations,
    "acc": _accent, "bar": _bar, "groupChr": _group, "limLow": _limit("_", "underset"),
    "limUpp": _limit("^", "overset"), "func": _function, "phant": _phantom, "borderBox": _boxed,
    "oMathPara": _paragraph,
}  # fmt: skip

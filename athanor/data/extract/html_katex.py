"""What KaTeX drew (``.katex-html``) → LaTeX, for pages without its MathML half.

The markup is that of KaTeX 0.10 and later (``buildHTML``): a stack (``vlist``) holds its parts from the lowest to the
highest, ``msupsub``, ``mfrac``, ``op-limits``, ``accent`` and their kin say what the parts are. What is no known class
gives its children's formula, so no sign is lost.
"""

from __future__ import annotations

import re
from typing import Any

from athanor.data.extract.mathchars import join_math, math_latex

_ALPHABETS = {
    "mathbf": "mathbf", "mathbb": "mathbb", "mathcal": "mathcal", "mathfrak": "mathfrak", "mathscr": "mathscr",
    "mathsf": "mathsf", "mathtt": "mathtt", "mathrm": "mathrm", "boldsymbol": "boldsymbol", "mathit": "mathit",
}  # fmt: skip
_ACCENTS = {
    "^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "ˉ": "bar", "¯": "bar", "˙": "dot", "¨": "ddot", "ˇ": "check",
    "˘": "breve", "ˊ": "acute", "´": "acute", "ˋ": "grave", "`": "grave", "˚": "mathring", "⃗": "vec",
}  # fmt: skip
_FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "log"]
    + ["ln", "lg", "exp", "lim", "max", "min", "sup", "inf", "det", "dim", "ker", "hom", "arg", "deg", "gcd", "Pr"]
)
_UNSEEN = frozenset(["strut", "pstrut", "vlist-s", "nulldelimiter", "mspace", "frac-line", "hide-tail", "arraycolsep"])
_PRIMES = re.compile(r"\^\{('+)\}")
#: The stroke that KaTeX lays over a relation to negate it, a character of its fonts.
_STROKE = "\ue020"
_MAX_DEPTH = 100


def katex_latex(element: Any) -> str:
    """LaTeX of the drawn half of a KaTeX formula at or below ``element``; ``""`` where there is none."""
    drawn = next((n for n in element.iter("span") if "katex-html" in _css(n)), None)
    if drawn is None:
        return ""
    latex = _PRIMES.sub(r"\1", _inner(drawn, 0)).replace(r"\not=", r"\ne ")
    return re.sub(r"\s+", " ", latex).strip()


def _css(element: Any) -> set[str]:
    return set((element.get("class") or "").split())


def _inner(element: Any, depth: int) -> str:
    """Formula of the children, side by side."""
    if depth > _MAX_DEPTH:
        return math_latex(element.text_content())
    pieces = [_signs(element.text)]
    for child in element:
        if "msupsub" in _css(child):
            pieces.append(_scripts(child, depth + 1))
        else:
            pieces.append(_node(child, depth + 1))
        pieces.append(_signs(child.tail))
    return join_math([piece for piece in pieces if piece])


def _signs(text: str | None) -> str:
    plain = "".join((text or "").replace("\u200b", "").split())
    return r"\not" if plain == _STROKE else math_latex(plain)


def _node(element: Any, depth: int) -> str:
    css = _css(element)
    if css & _UNSEEN or element.tag not in ("span", "div"):
        return ""
    for name, reader in _READERS.items():
        if name in css:
            return str(reader(element, depth))
    alphabet = next((command for name, command in _ALPHABETS.items() if name in css), "")
    if alphabet and len(element) == 0:
        return f"\\{alphabet}{{{_signs(element.text)}}}"
    if "mop" in css and (name := element.text_content().replace("\u200b", "").strip()) in _FUNCTIONS:
        return f"\\{name}"
    return _inner(element, depth)


def _parts(element: Any) -> list[Any]:
    """The parts of the first stack below, from the lowest to the highest."""
    stack = next((n for n in element.iter("span") if "vlist" in _css(n)), None)
    return [] if stack is None else [part for part in stack if part.text_content().replace("\u200b", "").strip()]


def _is_deep(element: Any) -> bool:
    """Whether the stack reaches below the line, as one with an index does."""
    stack = next((n for n in element.iter("span") if "vlist-t" in _css(n)), None)
    return stack is not None and "vlist-t2" in _css(stack)


def _scripts(element: Any, depth: int) -> str:
    parts = [_inner(part, depth) for part in _parts(element)]
    if len(parts) > 1:
        return f"_{{{parts[0]}}}^{{{parts[1]}}}"
    return f"{'_' if _is_deep(element) else '^'}{{{parts[0]}}}" if parts else ""


def _limits(element: Any, depth: int) -> str:
    parts = _parts(element)
    at = next((n for n, part in enumerate(parts) if any("mop" in _css(node) for node in part.iter("span"))), 0)
    text = [_inner(part, depth) for part in parts]
    below = f"_{{{''.join(text[:at])}}}" if at else ""
    above = f"^{{{''.join(text[at + 1 :])}}}" if text[at + 1 :] else ""
    return (text[at] if text else "") + below + above


def _fraction(element: Any, depth: int) -> str:
    parts = _parts(element)
    if len(parts) != 2:
        return _inner(element, depth)
    lower, upper = (_inner(part, depth) for part in parts)
    line = any("frac-line" in _css(node) for node in element.iter("span"))
    return f"\\frac{{{upper}}}{{{lower}}}" if line else f"{{{upper} \\atop {lower}}}"


def _root(element: Any, depth: int) -> str:
    degree = next((n for n in element if "root" in _css(n)), None)
    body = [part for n in element if n is not degree for part in _parts(n)]
    order = f"[{_inner(degree, depth)}]" if degree is not None else ""
    return f"\\sqrt{order}{{{join_math([_inner(part, depth) for part in body])}}}"


def _accent(element: Any, depth: int) -> str:
    stack = next((n for n in element.iter("span") if "vlist" in _css(n)), None)
    parts = [] if stack is None else list(stack)
    base = next((part for part in parts if not _holds(part, "accent-body", "stretchy")), None)
    over = next((part for part in parts if part is not base), None)
    if base is None or over is None:
        return _inner(element, depth)
    sign = over.text_content().replace("\u200b", "").strip()
    # A vector's arrow is a picture, and so are the wide signs.
    command = _ACCENTS.get(sign, "vec" if _holds(over, "accent-body") else "widehat")
    return f"\\{command}{{{_inner(base, depth)}}}"


def _holds(element: Any, *names: str) -> bool:
    return any(_css(node) & set(names) for node in element.iter("span"))


def _brace(element: Any, depth: int) -> str:
    """A brace over or under its base, or such a formula with its label."""
    is_under = "munder" in _css(element)
    stack = next((n for n in element.iter("span") if "vlist" in _css(n)), None)
    parts = [] if stack is None else list(stack)
    if len(parts) != 2:
        return _inner(element, depth)
    base, other = (parts[1], parts[0]) if is_under else (parts[0], parts[1])
    if _holds(other, "stretchy"):
        return f"\\{'under' if is_under else 'over'}brace{{{_inner(base, depth)}}}"
    return f"{_inner(base, depth)}{'_' if is_under else '^'}{{{_inner(other, depth)}}}"


def _arrow(element: Any, depth: int) -> str:
    parts = _parts(element)
    picture = next((n for n in element.iter("svg")), None)
    # The arrow is a picture cut at the end without a head (attributes are lower-cased by the parser).
    cut = (picture.get("preserveaspectratio") or "") if picture is not None else ""
    label = join_math([_inner(part, depth) for part in parts[-1:]])
    return f"\\x{'right' if 'xMax' in cut else 'left'}arrow{{{label}}}"


def _lined(command: str) -> Any:
    def read(element: Any, depth: int) -> str:
        return f"\\{command}{{{join_math([_inner(part, depth) for part in _parts(element)])}}}"

    return read


def _text(element: Any, depth: int) -> str:
    text = element.text_content().replace("\u200b", "").replace("\xa0", " ")
    return f"\\text{{{text}}}"


def _table(element: Any, depth: int) -> str:
    columns = []
    for column in element:
        if any(name.startswith("col-align") for name in _css(column)):
            stack = next((n for n in column.iter("span") if "vlist" in _css(n)), None)
            columns.append([_inner(part, depth) for part in (stack if stack is not None else ())])
    n_rows = max(map(len, columns), default=0)
    rows = [" & ".join(column[at] if at < len(column) else "" for column in columns) for at in range(n_rows)]
    return r"\begin{matrix} " + r" \\ ".join(rows) + r" \end{matrix}"


_READERS: dict[str, Any] = {
    "mfrac": _fraction, "sqrt": _root, "op-limits": _limits, "accent": _accent, "overline": _lined("overline"),
    "underline": _lined("underline"), "mtable": _table, "text": _text, "munder": _brace,
    "mover": _brace, "x-arrow": _arrow,
}  # fmt: skip

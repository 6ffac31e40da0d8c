"""Superscripts and subscripts of running text as Unicode characters."""

from __future__ import annotations

_TABLES = {
    "superscript": str.maketrans("0123456789+-−=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ"),
    "subscript": str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎"),
}


def raised(text: str, align: str | None) -> str:
    """``text`` as ``superscript`` or ``subscript`` where every character has such a form: 10⁶ must not become 106."""
    table = _TABLES.get(align or "")
    stripped = text.strip()
    if table is None or not stripped or not all(ord(c) in table for c in stripped):
        return text
    return text.translate(table)

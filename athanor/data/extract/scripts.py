"""Pieces of running text put together: formulas kept apart, superscripts and subscripts as Unicode characters."""

from __future__ import annotations

from collections.abc import Iterable

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


def join_inline(pieces: Iterable[str]) -> str:
    """Pieces of a paragraph; a space between formulas side by side, whose dollars would read as ``$$``."""
    out = ""
    for piece in pieces:
        out += f" {piece}" if out.endswith("$") and piece.startswith("$") else piece
    return out

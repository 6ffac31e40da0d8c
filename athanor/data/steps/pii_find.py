"""Personal data in a text: candidates by pattern, kept or refused by checksum and surroundings.

Finders are run in the order of how much their evidence weighs, and a place that one has claimed is not given to
another: a bank card is never also a phone number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from athanor.data.steps.pii_context import Around
from athanor.data.steps.pii_network import emails, ip_addresses, mac_addresses
from athanor.data.steps.pii_numbers import ibans, numbers, passports, plates
from athanor.data.steps.pii_secrets import secrets

#: Every type, in the order in which counts are kept. The placeholder of a type is its name in angle brackets.
TYPES = (
    "EMAIL", "PHONE", "RESIDENT_ID", "SOCIAL_CREDIT_CODE", "BANK_CARD", "IBAN", "SSN", "PASSPORT", "PLATE",
    "IP", "MAC", "KEY",
)  # fmt: skip

#: (start, end, type): code points of the text.
Found = tuple[int, int, str]

#: Where secrets begin whose digits may not touch a letter, so that the gate for tokens lets them pass.
_LETTERS_ALONE = ("-----BEGIN", "AKIA", "xox", "_live_", "密钥")

_NARROW = {0xFF10 + digit: 0x30 + digit for digit in range(10)} | {
    ord(wide): ord(narrow) for wide, narrow in zip("＠＋－（）．", "@+-().", strict=True)
}


@dataclass(frozen=True)
class May:
    """What the gates of a batch leave possible in one document."""

    at: bool = True
    number: bool = True
    token: bool = True
    dotted: bool = True
    colons: bool = True
    wide: bool = True


def find(text: str, may: May = May()) -> list[Found]:  # noqa: B008 - frozen
    """All personal data of a text, by place. Spans never overlap.

    Full-width digits and signs are read as their narrow forms; each is one code point in both, so places agree.
    """
    read = text.translate(_NARROW) if may.wide else text
    around = Around(read)
    found: list[Found] = []
    for finder in _finders(read, may):
        for start, end, kind in finder(around):
            if not any(start < b and a < end for a, b, _ in found):
                found.append((start, end, kind))
    return sorted(found)


def _finders(text: str, may: May) -> Iterator[Callable[[Around], Iterator[Found]]]:
    """The finders that a text needs. A literal that must be there is looked for first: that is a memory scan."""
    if may.token or may.at or any(literal in text for literal in _LETTERS_ALONE):
        yield secrets
    if may.at or may.wide or "at]" in text or "at)" in text:
        yield emails
    if may.number:
        yield passports
        yield ibans
        yield numbers
    if may.dotted or may.colons:
        yield ip_addresses
    if may.colons:
        yield mac_addresses
    if not text.isascii() and ("车" in text or "牌" in text or "·" in text):
        yield plates


def replaced(text: str, found: list[Found], mark: Callable[[str, str], str]) -> str:
    """The text with ``mark(type, what stood there)`` in place of each span."""
    parts: list[str] = []
    at = 0
    for start, end, kind in found:
        parts += (text[at:start], mark(kind, text[start:end]))
        at = end
    return "".join((*parts, text[at:]))


def indexed_marks(kind: str, value: str, seen: dict[tuple[str, str], int]) -> str:
    """``<EMAIL_1>``: numbered by first appearance in ``seen`` (a document's), equal values alike."""
    key = (kind, re.sub(r"[\s\-().]", "", value).lower())
    number = seen.get(key)
    if number is None:
        number = seen[key] = 1 + sum(known == kind for known, _ in seen)
    return f"<{kind}_{number}>"

"""Bytes of a text file → text: as UTF-8 or not at all, or, where that is asked for, in the encoding they are in."""

from __future__ import annotations

import codecs
from typing import Any

from athanor.data.extract.types import Unreadable
from athanor.data.types import Dropped

#: Shares of a file's characters that may be beyond repair before it counts as no text.
_MAX_BROKEN = 0.01
_MAX_CONTROLS = 0.02


def strict(raw: bytes) -> str:
    """UTF-8 (with or without its mark) → text. Nothing is replaced or guessed: ``Unreadable`` for what is not UTF-8."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable("not UTF-8: begins with the mark of UTF-16 or UTF-32")
    if (nul := raw.find(b"\0")) >= 0:
        raise Unreadable(f"binary: zero byte at offset {nul}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}") from None
    if not text.strip():
        raise Unreadable("empty")
    return text


def decode(name: str, raw: bytes) -> tuple[str, str] | Dropped:
    """(name, text) of UTF-8 bytes, or why there is none."""
    try:
        return name, strict(raw)
    except Unreadable as error:
        return Dropped(name, error.reason)


def tolerant(raw: bytes) -> tuple[str, dict[str, Any]]:
    """(text, meta) of a text file in any common encoding.

    ``meta["encoding"]`` where it is not UTF-8, ``meta["repaired"]`` names what was taken out (``control characters``,
    ``undecodable bytes``). ``Unreadable`` for binary files and where too much is beyond repair.
    """
    from athanor.data.extract.html_decode import clean_text
    from athanor.data.extract.html_decode import decode as detect

    text, encoding = detect(raw)
    n_chars = max(1, len(text))
    broken = text.count("\ufffd") if encoding != "utf-8" or "\ufffd".encode() not in raw else 0
    clean = clean_text(text)
    controls = len(text) - len(clean)
    if controls > _MAX_CONTROLS * n_chars:
        raise Unreadable(f"binary: {controls} control characters among {n_chars}")
    if broken > _MAX_BROKEN * n_chars:
        raise Unreadable(f"unknown encoding: {broken} of {n_chars} characters cannot be decoded")
    if not clean.strip():
        raise Unreadable("empty")
    repaired = ["control characters"] * bool(controls) + ["undecodable bytes"] * bool(broken)
    meta: dict[str, Any] = {"encoding": encoding} if encoding != "utf-8" else {}
    return clean.removeprefix("\ufeff"), meta | ({"repaired": repaired} if repaired else {})

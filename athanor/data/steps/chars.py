"""What kind of character each code point is, from Python's own Unicode tables: no data of ours to go stale.

Every code point has a *kind* (a small number), and every kind a set of bits (``CLASSES``): one byte a code point keeps
the table small enough for the cache, and counting characters means counting kinds.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: Bit i of a kind stands for CLASSES[i]; text_counts.cpp knows the same order.
CLASSES = (
    "space",  # str.isspace
    "line_break",  # where str.splitlines splits
    "letter",  # str.isalpha
    "digit",  # decimal digits
    "symbol",  # punctuation, symbols and control characters
    "terminal",  # ends a sentence: full stops, question and exclamation marks, danda, of any script
    "latin",
    "han",
    "kana",
    "hangul",
    "simplified",  # Han in GB 2312 that Big5 lacks
    "traditional",  # Han in Big5 that GB 2312 lacks
    "control",  # C0 and C1 other than white space, and DEL
    "private",  # private use
    "replacement",  # U+FFFD
    "unusual",  # what format normalisation may have to touch: text without it is in its normal form but for blanks
)
BIT = {name: 1 << i for i, name in enumerate(CLASSES)}
#: Letters and punctuation above this code point do not exist (Unicode 16: the last Han block ends at U+323AF).
_LAST_LETTER = 0x32400
#: What frequent characters of UTF-8 become when read as GBK, and what is left of U+FFFD.
GBK_SIGNS = "锛銆鐨鏄鈥鍦浜涓绗锟"
_TERMINAL_NAMES = ("FULL STOP", "QUESTION MARK", "EXCLAMATION MARK", "DANDA", "INTERROBANG", "QUESTION EXCLAMATION")


class CharTable(NamedTuple):
    """``kinds`` uint8 [0x110000]: the kind of each code point; ``bits`` uint32 [n_kinds]: the classes of each kind."""

    kinds: npt.NDArray[np.uint8]
    bits: npt.NDArray[np.uint32]


@cache
def char_table() -> CharTable:
    """The table of this Python's Unicode version; built once a process (about 0.2 s)."""
    bits = np.zeros(sys.maxunicode + 1, dtype=np.uint32)
    for code in range(_LAST_LETTER):
        bits[code] = _bits_of(chr(code))
    bits[0xF0000:] |= BIT["private"]
    bits[0xE0000:] |= BIT["unusual"]
    for name, codec, other in (("simplified", "gb2312", "big5"), ("traditional", "big5", "gb2312")):
        for code in range(0x4E00, 0xA000):
            if _encodes(chr(code), codec) and not _encodes(chr(code), other):
                bits[code] |= BIT[name]
    values, kinds = np.unique(bits, return_inverse=True)
    return CharTable(kinds.reshape(-1).astype(np.uint8), values.astype(np.uint32))


def _bits_of(char: str) -> int:
    category = unicodedata.category(char)
    found = 0
    if char.isspace():
        found |= BIT["space"]
    if len(f"a{char}b".splitlines()) == 2:
        found |= BIT["line_break"]
    if category[0] in "PS" or category == "Cc":
        found |= BIT["symbol"]
        name = unicodedata.name(char, "")
        if category == "Po" and "INVERTED" not in name and any(part in name for part in _TERMINAL_NAMES):
            found |= BIT["terminal"]
    if category == "Nd":
        found |= BIT["digit"]
    if category == "Cc" and not char.isspace():
        found |= BIT["control"]
    if category == "Co":
        found |= BIT["private"]
    if char == "\ufffd":
        found |= BIT["replacement"]
    if _unusual(char, category):
        found |= BIT["unusual"]
    return found | _script(char) | (BIT["letter"] if char.isalpha() else 0)


def _unusual(char: str, category: str) -> bool:
    """Marks that may compose, unstable or invisible characters, spaces of other widths, and signs of a wrong encoding
    (letters of Latin-1 among them)."""
    if char in " \t\n\u3000":
        return False
    return (
        category[0] in "MZ"
        or category in ("Cc", "Cf", "Co", "Cs", "Cn")
        or "\u0080" <= char <= "\u00ff"
        or "\u1160" <= char <= "\u11ff"  # Hangul vowels and finals compose with what stands before
        or char in GBK_SIGNS
        or char in "\u0192\ufffc\ufffd"
        or not unicodedata.is_normalized("NFC", char)
    )


def _script(char: str) -> int:
    if not char.isalpha():
        return 0
    name = unicodedata.name(char, "")
    for prefixes, bit in (
        (("LATIN ", "FULLWIDTH LATIN"), BIT["latin"]),
        (("CJK UNIFIED", "CJK COMPATIBILITY IDEO"), BIT["han"]),
        (("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA"), BIT["kana"]),
        (("HANGUL", "HALFWIDTH HANGUL"), BIT["hangul"]),
    ):
        # the sound mark shared by both kana is no evidence of either, so names decide and not blocks
        if name.startswith(prefixes):
            return bit
    return 0


def _encodes(char: str, codec: str) -> bool:
    try:
        char.encode(codec)
    except UnicodeEncodeError:
        return False
    return True

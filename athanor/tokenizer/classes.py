"""What kind of token a token is: by the script of its text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from athanor.tokenizer.tokenizer import Tokenizer

#: In the order of reports. English is ASCII letters, "Latin" those beyond; mathematics is symbols and Greek.
CLASSES = (
    "English",
    "Chinese",
    "Latin",
    "mathematics",
    "Japanese",
    "Korean",
    "Arabic",
    "Cyrillic",
    "other script",
    "digits",
    "white space",
    "signs",
    "part of a character",
    "special",
)
_BY_NAME = (
    ("CJK ", "Chinese"),
    ("IDEOGRAPHIC ", "Chinese"),
    ("HIRAGANA", "Japanese"),
    ("KATAKANA", "Japanese"),
    ("HALFWIDTH KATAKANA", "Japanese"),
    ("HANGUL", "Korean"),
    ("ARABIC", "Arabic"),
    ("CYRILLIC", "Cyrillic"),
    ("GREEK", "mathematics"),
    ("MATHEMATICAL", "mathematics"),
    ("DOUBLE-STRUCK", "mathematics"),
    ("LATIN", "Latin"),
)


@lru_cache(maxsize=1 << 16)
def class_of_character(character: str) -> str:
    """The class of one character."""
    if character.isascii() and character.isalpha():
        return "English"
    if character.isspace():
        return "white space"
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category[0] in "LM" or name.startswith("IDEOGRAPHIC NUMBER"):
        return next((kind for start, kind in _BY_NAME if name.startswith(start)), "other script")
    if category[0] == "N":
        return "digits"
    return "mathematics" if category == "Sm" and not character.isascii() else "signs"


def class_of(data: bytes) -> str:
    """The class of a token's bytes: of most of its letters; without letters, of most of its signs, spaces or digits.

    Kana beside Han is Japanese.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "part of a character"
    found = Counter(map(class_of_character, text))
    if "Japanese" in found and "Chinese" in found:
        return "Japanese"
    if "Latin" in found and "English" in found:
        return "Latin"
    weak = ("white space", "signs", "digits")
    for kind in weak:
        if len(found) > 1:
            found.pop(kind, None)
    return max(found, key=lambda kind: (found[kind], -CLASSES.index(kind)))


def classes(tokenizer: Tokenizer) -> dict[str, int]:
    """How many tokens of each class, in the order of ``CLASSES``; classes without a token are left out."""
    found = Counter(
        "special" if i in tokenizer.special_ids else class_of(data)
        for i, data in enumerate(tokenizer.token_bytes)
        if data or i in tokenizer.special_ids
    )
    return {kind: found[kind] for kind in CLASSES if found[kind]}

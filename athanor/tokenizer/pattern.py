"""Where BPE may never merge across: the pre-tokenisation pattern, its policies, and the classes of characters in it."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from athanor import native
from athanor.files import atomic_path

#: ``single``: every digit is a token; ``three``: runs of up to three digits, from the left, may become one. With
#: ``/end`` a space behind signs belongs to them at the end of a text too, not only before a digit: tokens such as " = "
#: are then reachable from their own text, and a prompt that ends with "= " is cut as the training texts were.
Digits = Literal["single", "three", "single/end", "three/end"]

#: Letters and combining marks of every script but Han (Oniguruma class intersection).
_WORD = r"[\p{L}\p{M}&&[^\p{Han}]]+"


def pattern(digits: Digits = "single") -> str:
    r"""The pattern, in Oniguruma's syntax. In order of preference:

    1. one digit alone: every number is spelled the same way wherever it stands, which arithmetic needs (policy
       ``three``: up to three, fewer tokens for long numbers);
    2. a run of Han: Chinese has no spaces, so the words inside are BPE's to find; a Latin name in a Chinese sentence
       and full-width punctuation stay apart from it;
    3. a word with the one ASCII space or sign before it (" return", "_name", ".append", "(self", "'s"): 3 % fewer
       tokens on Python than words with a space alone. Marks belong to the word, or decomposed accents and Indic
       vowels would break;
    4. a run of signs, with one space before, and after it the line ends ("):\n", "。\n") or one space that a digit
       follows (" = " in "6 + 8 = 14": two tokens fewer a line of arithmetic);
    5. line ends with the blank lines before them;
    6. white space before a digit, whole; other white space less its last character, which belongs to the word that
       follows: eight columns of indentation are one token and " return" is the same token at any depth.

    Every newline ends a piece on purpose. Letting indentation join it would save 6 % on Python, but then a prompt that
    ends with a newline would have to be continued by tokens that never followed a newline in training.
    """
    return "|".join(
        [
            r"\p{N}{1,3}" if digits.startswith("three") else r"\p{N}",
            r"\p{Han}+",
            r"[\t -/:-@\[-`{-~]?" + _WORD,
            r" ?[^\s\p{L}\p{M}\p{N}]+(?: (?=\p{N}" + (r"|\z" if digits.endswith("/end") else "") + r")|[\r\n]*)",
            r"\s*[\r\n]+",
            r"[^\S\r\n]+(?=\p{N})",
            r"\s+(?!\S)",
            r"\s+",
        ]
    )


PATTERN = pattern()
#: What ``scan.cpp`` knows them by.
POLICIES: dict[Digits, int] = {"single": 1, "three": 3, "single/end": 17, "three/end": 19}

#: Bits of ``flags()``; ``scan.cpp`` has the same.
NUMBER, HAN, WORD, SPACE, NEWLINE, SIGN, PREFIX = (1 << i for i in range(7))
_CLASSES = {
    NUMBER: r"\p{N}",
    HAN: r"\p{Han}",
    WORD: r"[\p{L}\p{M}&&[^\p{Han}]]",
    SPACE: r"\s",
    NEWLINE: r"[\r\n]",
    SIGN: r"[^\s\p{L}\p{M}\p{N}]",
    PREFIX: r"[\t -/:-@\[-`{-~]",
}
_CODE_POINTS, _SURROGATES = 0x110000, range(0xD800, 0xE000)
#: Planes with characters; the others are unassigned or private, which the pattern calls signs.
_PLANES = (0, 1, 2, 3, 14)


@cache
def flags() -> npt.NDArray[np.uint8]:
    """The classes of every code point, uint8 [1114112], as the regular expressions of ``tokenizers`` see them.

    Asked of that library itself (a second, then kept in the user's cache): versions differ in the Unicode they
    know, and ids must not.
    """
    import tokenizers

    key = hashlib.sha256("\n".join([tokenizers.__version__, *_CLASSES.values()]).encode()).hexdigest()[:16]
    file = native.cache_dir() / f"characters-{key}.npy"
    try:
        table = np.load(file)
        if table.shape == (_CODE_POINTS,) and table.dtype == np.uint8:
            return table
    except (OSError, ValueError, EOFError):
        pass
    table = _ask()
    try:
        with atomic_path(file) as part, open(part, "wb") as out:
            np.save(out, table)
    except OSError:  # a cache that cannot be written costs time only
        pass
    return table


def _ask() -> npt.NDArray[np.uint8]:
    from tokenizers import Regex, pre_tokenizers

    points = [p for plane in _PLANES for p in range(plane << 16, plane + 1 << 16) if p not in _SURROGATES]
    text = "".join(map(chr, points))
    where = np.array(points)
    table = np.full(_CODE_POINTS, SIGN, dtype=np.uint8)
    table[where] = 0
    for bit, members in _CLASSES.items():
        table[where] |= bit
        # what is left when the members are removed are the others
        for _, (start, end) in pre_tokenizers.Split(Regex(members + "+"), "removed").pre_tokenize_str(text):
            table[where[start:end]] &= ~np.uint8(bit)
    return table

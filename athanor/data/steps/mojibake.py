"""Text that was decoded with the wrong encoding, decoded anew.

Three mistakes make nearly all of it: UTF-8 read as Latin-1 or Windows-1252 ("ä½ å¥½", repaired by ftfy), UTF-8 read as
GBK ("浣犲ソ"), GBK read as Latin-1 ("ÄãºÃ"). Each has a cheap sign; a repair is tried only on lines with that sign, and
kept only if the bytes decode without a fault.
"""

from __future__ import annotations

import re

from athanor.data.steps.chars import GBK_SIGNS

#: UTF-8 lead byte, then a continuation byte, both as Latin-1 or Windows-1252 show them.
_LATIN_SIGN = re.compile(
    "[\u00c2-\u00f4\u0192][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014"
    "\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
#: Frequent characters of Chinese UTF-8 (，。的是 and the quotes) read as GBK give ones that are rare otherwise.
_GBK_SIGN = re.compile(f"[{GBK_SIGNS}][\u4e00-\u9fff\u20ac\ue000-\uf8ff]")
_GBK_RUN = re.compile("[^\x00-\x7f]{2,}")
_LOST_RUN = re.compile("\ufffd+")
#: Eight or more letters of Latin-1 in a row: no language writes so, GBK in Latin-1 does.
_HIGH_RUN = re.compile("[\u00a1-\u00fe]{8,}")


def repaired(text: str) -> tuple[str, int]:
    """The text with such lines repaired, and how many characters were replaced."""
    if not (_LATIN_SIGN.search(text) or _GBK_SIGN.search(text) or _HIGH_RUN.search(text)):
        return text, 0
    lines = text.split("\n")
    n_repaired = 0
    for i, line in enumerate(lines):
        new = _repaired_line(line)
        if new != line:
            n_repaired += sum(c > "\x7f" for c in line)
            lines[i] = new
    return "\n".join(lines), n_repaired


def _repaired_line(line: str) -> str:
    if line.isascii():
        return line
    if _HIGH_RUN.search(line):
        line = _HIGH_RUN.sub(_from_latin, line)
    if _LATIN_SIGN.search(line):
        from ftfy import fix_encoding

        line = fix_encoding(line)
    if _GBK_SIGN.search(line):
        line = _GBK_RUN.sub(_from_gbk, line)
    return line


def _from_latin(match: re.Match[str]) -> str:
    """GBK read as Latin-1: kept if every pair of bytes is a character of GB 2312 and most are its common Han ones."""
    raw = match[0].encode("latin-1")
    try:
        found = raw.decode("gb2312")
    except UnicodeDecodeError:
        return match[0]
    common = sum(0xB0 <= byte <= 0xD7 for byte in raw[::2])  # the first level of GB 2312
    return found if common * 10 >= len(found) * 7 else match[0]


def _from_gbk(match: re.Match[str]) -> str:
    """UTF-8 read as GBK. Bytes that GBK could not pair are lost: kept if at most a fifth of the characters are."""
    run = match[0]
    try:
        raw = run.replace("\ufffd", "").encode("gb18030")
    except UnicodeEncodeError:
        return run
    found = _LOST_RUN.sub("\ufffd", raw.decode("utf-8", "replace"))
    return found if found.count("\ufffd") * 5 <= len(found) and len(found) > 1 else run

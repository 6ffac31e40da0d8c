"""Bytes of a page → text: the charset by byte order mark, by what the bytes are, by what is declared, in this order.

Declarations are often wrong, and valid UTF-8 beyond ASCII is no accident: it wins. Labels are read as the WHATWG
Encoding Standard reads them (``gb2312`` is GB18030, ``iso-8859-1`` is windows-1252).
"""

from __future__ import annotations

import codecs
import re

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE
)
_WHATWG = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312-80": "gb18030", "x-gbk": "gb18030", "chinese": "gb18030",
    "hz-gb-2312": "hz", "iso-8859-1": "cp1252", "latin1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252",
    "us-ascii": "cp1252", "big5": "big5hkscs", "shift_jis": "cp932", "shift-jis": "cp932", "x-sjis": "cp932",
    "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "utf8": "utf-8", "unicode": "utf-16-le", "utf-16": "utf-16-le",
    "iso-8859-9": "cp1254", "tis-620": "cp874", "iso-8859-11": "cp874",
}  # fmt: skip
#: Characters a text never holds: NUL and other controls, lone surrogates, noncharacters.
_NEVER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_HEAD_BYTES = 4096


def clean_text(text: str) -> str:
    """Without control characters, lone surrogates and noncharacters (surrogate pairs become their character)."""
    if not _NEVER.search(text):
        return text
    # Halves of a pair that stand side by side (as JSON escapes leave them) are one character.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _NEVER.sub("", text.replace("\f", "\n"))


def decode(raw: bytes, declared: str | None = None) -> tuple[str, str]:
    """(text, encoding) of a page; ``declared`` is the charset of the transport (HTTP), where there was one.

    Never fails: what no charset can read becomes U+FFFD. Lines of different encodings are decoded each by itself.
    """
    for bom, name in _BOMS:
        if raw.startswith(bom):
            return raw[len(bom) :].decode(name, "replace"), name
    wide = _wide(raw)
    if wide:
        return raw.decode(wide, "replace"), wide
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    names = [name for name in (_known(declared), _known(_meta_label(raw))) if name and name != "utf-8"]
    for name in dict.fromkeys(names):
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        if _plausible(text, name, raw):
            return text, name
    return _by_line(raw, names)


def _wide(raw: bytes) -> str:
    """UTF-16 without a mark: ASCII markup has a NUL in every second byte."""
    head = raw[:_HEAD_BYTES]
    if len(head) < 8 or head.count(0) < len(head) // 4:
        return ""
    return "utf-16-le" if head[1::2].count(0) > head[0::2].count(0) else "utf-16-be"


def _meta_label(raw: bytes) -> str | None:
    found = _META.search(raw[:_HEAD_BYTES])
    return found.group(1).decode("ascii") if found else None


def _known(label: str | None) -> str:
    """Python's name of the codec behind a label, or ``""``."""
    name = (label or "").strip().strip("\"'").lower()
    name = _WHATWG.get(name, name)
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        return ""
    # rot13, base64 and the like are codecs of Python and no charsets.
    return codec.name if getattr(codec, "_is_text_encoding", True) else ""


def _plausible(text: str, name: str, raw: bytes) -> bool:
    """Single-byte charsets read any bytes at all, so they count only where the detector sees no multibyte one."""
    if not name.startswith(("cp12", "iso8859", "koi8", "cp874", "mac")):
        return True
    return not (_detected(raw) or "").startswith(("gb", "big5", "cp932", "euc", "cp949", "shift"))


def _detected(data: bytes) -> str:
    """What the bytes look like, markup aside: lines that are ASCII tell nothing."""
    from resiliparse.parse.encoding import detect_encoding

    strange = b"".join(line for line in data.splitlines(True) if not line.isascii())
    return _known(detect_encoding(strange, max_len=1 << 17)) if strange else ""


def _by_line(raw: bytes, names: list[str]) -> tuple[str, str]:
    """A mixture: UTF-8 where a line is UTF-8, else the first charset that reads all other lines."""
    lines = raw.splitlines(True)
    strange = [line for line in lines if not line.isascii()]
    odd = [line for line in strange if not _reads(line, "utf-8")]
    # A few bytes of another charset are UTF-8 by accident: that alone is no mixture.
    n_good = sum(map(len, strange)) - sum(map(len, odd))
    mixed = n_good > sum(map(len, odd)) // 20
    detected = _detected(b"".join(odd))
    candidates = [*names, *([detected] if detected and detected != "utf-8" else [])]
    chosen = next((name for name in candidates if all(_reads(line, name) for line in odd)), "")
    if not chosen and candidates and not mixed:
        chosen = min(candidates, key=lambda name: raw.decode(name, "replace").count("\ufffd"))
    chosen = chosen or "utf-8"
    if not mixed:
        return raw.decode(chosen, "replace"), chosen
    odd_lines = set(odd)
    text = "".join(line.decode(chosen if line in odd_lines else "utf-8", "replace") for line in lines)
    return text, chosen if chosen == "utf-8" else f"utf-8+{chosen}"


def _reads(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return False
    return True

"""E-mail, IP and MAC addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from athanor.data.steps.pii_checks import public_ip
from athanor.data.steps.pii_context import ADDRESS, MAC, VERSION, Around

_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+'\-]{0,62}[A-Za-z0-9_+\-])?\Z|[A-Za-z0-9._%+\-]*[A-Za-z0-9_]\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9\-])")
_SPOKEN = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9][A-Za-z0-9._%+\-]{1,40}(?:\s?[\[(]\s?dot\s?[\])]\s?[A-Za-z0-9]{1,20})?\s?[\[(]\s?at\s?[\])]\s?"
    r"[A-Za-z0-9\-]{2,40}(?:\s?(?:\.|[\[(]\s?dot\s?[\])])\s?[A-Za-z0-9\-]{2,20}){1,3}",
    re.I,
)
#: Last labels that are file names after a retina mark or a package version, not top-level domains.
_FILE_SUFFIXES = "png jpg jpeg gif svg webp ico js ts jsx tsx css json py so dll exe txt html xml yml yaml whl gz zip"
_FILES = frozenset(_FILE_SUFFIXES.split())
#: Mailbox names of a protocol, not of a person: ``git@github.com:owner/project``.
_PROTOCOL = frozenset(("git", "hg", "svn"))

#: A URL's ``user:password`` part goes on up to the at-sign.
_LOGIN = re.compile(r"://[^\s/@]*\Z")
#: Coordinates of a drawn path, where ``1.23.82.72`` is 1.23, .82, .72.
_DECIMALS_BEHIND = re.compile(r"[ \t,]*-?[0-9]*\.[0-9]|-")
_DECIMALS_BEFORE = re.compile(r"\.[0-9]+[\s,]\Z|[0-9]-\Z")
#: Places that every address has, found at the speed of a literal; the whole is read from there to both sides.
_DOT_SEED = re.compile(r"\.[0-9]{1,3}\.[0-9]")
_COLON_SEED = re.compile(r":[0-9A-Fa-f]{0,4}:")
_HYPHEN_SEED = re.compile(r"-[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-")
_IPV4 = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}\Z")
_PAIRS = re.compile(r"[0-9A-Fa-f]{2}([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}\Z")
_WORD = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"

Span = tuple[int, int]


def _wholes(text: str, seed: re.Pattern[str], joints: str) -> Iterator[Span]:
    """The stretch of letters, digits and ``joints`` around each match of ``seed``, joints at its ends left off."""
    last = -1
    for match in seed.finditer(text):
        if match.start() < last:
            continue
        start, end = match.start(), match.end()
        while start > 0 and text[start - 1] in _WORD + joints:
            start -= 1
        while end < len(text) and text[end] in _WORD + joints:
            end += 1
        last = end
        while end > start and text[end - 1] in joints and text[end - 2 : end] != "::":
            end -= 1
        while start < end and text[start] in joints and text[start : start + 2] != "::":
            start += 1
        yield start, end


def emails(around: Around) -> Iterator[tuple[int, int, str]]:
    """Addresses around each ``@``, and those written ``name [at] host [dot] org``."""
    text = around.text
    at = text.find("@")
    while at >= 0:
        host = _HOST.match(text, at + 1)
        local = _LOCAL.search(text[max(0, at - 64) : at]) if host else None
        if host and local and _is_mail(local.group(), host.group()) and not _LOGIN.search(text, max(0, at - 80), at):
            yield at - len(local.group()), host.end(), "EMAIL"
        at = text.find("@", at + 1)
    if "at]" in text or "at)" in text or "AT]" in text:
        for match in _SPOKEN.finditer(text):
            yield *match.span(), "EMAIL"


def _is_mail(local: str, host: str) -> bool:
    return host.rsplit(".", 1)[1].lower() not in _FILES and local not in _PROTOCOL and ".." not in local


def ip_addresses(around: Around) -> Iterator[tuple[int, int, str]]:
    """Public addresses. Four small numbers are a version or a section unless words around speak of a machine."""
    text = around.text
    for start, end in _wholes(text, _DOT_SEED, "."):
        if _IPV4.match(text[start:end]) and public_ip(text[start:end]) and _is_ipv4(around, start, end):
            yield start, end, "IP"
    for start, end in _wholes(text, _COLON_SEED, ":"):
        if _IPV6.match(text[start:end]) and public_ip(text[start:end]):
            yield start, end, "IP"


def _is_ipv4(around: Around, start: int, end: int) -> bool:
    before = around.before(start)
    left, right = around.text[max(0, start - 2) : start], around.text[end : end + 2]
    if left.endswith(("-", "/")) and left != "//" or right[:1] == "-" and right[1:].isalnum():
        return False
    if VERSION.search(before) or _DECIMALS_BEFORE.search(before) or _DECIMALS_BEHIND.match(around.text, end):
        return False
    octets = [int(part) for part in around.text[start:end].split(".")]
    telling = sum(octet >= 64 for octet in octets)
    if telling >= 2 or around.text[end : end + 1] in ("/", ":") and telling:
        return True
    return bool(ADDRESS.search(around.before(start, 40)))


def mac_addresses(around: Around) -> Iterator[tuple[int, int, str]]:
    """Six pairs of hexadecimal digits with one separator; a letter among them, or a word for it before."""
    text = around.text
    for seed, joint in ((_COLON_SEED, ":"), (_HYPHEN_SEED, "-")):
        for start, end in _wholes(text, seed, joint):
            pairs = text[start:end]
            if not _PAIRS.match(pairs) or len(set(pairs)) < 4:  # all zeros, the broadcast address
                continue
            if any(c in "abcdefABCDEF" for c in pairs) or MAC.search(around.before(start)):
                yield start, end, "MAC"

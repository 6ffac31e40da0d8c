"""The licence that a source file tells: its SPDX tag, else the words of its header, as an SPDX expression."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

#: Headers stand at the top; licences pasted further down are those of quoted code.
_HEAD_CHARS = 4000
#: The expression of a tag (SPDX specification 2.3, annex D): names, operators, parentheses, to the end of the line.
_SPDX = re.compile(
    r"SPDX-License-Identifier:[ \t]*(\(*[A-Za-z0-9.+-]+\)*(?:[ \t]+(?:AND|OR|WITH)[ \t]+\(*[A-Za-z0-9.+-]+\)*)*)"
)
_OPERATORS = re.compile(r"\s*(\(|\)|\bAND\b|\bOR\b)\s*")
#: An exception only allows more; "only" and "or later" are told in names of the GNU licences since SPDX 3.0.
_NOT_IN_NAMES = re.compile(
    r"\s+WITH\s.*|-only\b|-or-later\b|\+$|\b(?:the|licen[cs]e|version)\b|\bv(?=\d)", re.IGNORECASE
)
#: Words of well-known headers, the more specific first: LGPL and AGPL name the GPL too.
_HEADERS = tuple(
    (re.compile(pattern, re.IGNORECASE), spdx)
    for pattern, spdx in (
        (r"apache license,?\s+version 2|www\.apache\.org/licenses/license-2\.0", "Apache-2.0"),
        (r"mozilla public license,?\s+v(?:ersion|\.)?\s*2|mozilla\.org/mpl/2\.0", "MPL-2.0"),
        (r"gnu affero general public license", "AGPL-3.0"),
        (r"gnu (?:lesser|library) general public license[\s\S]{0,200}?version 3", "LGPL-3.0"),
        (r"gnu (?:lesser|library) general public license", "LGPL-2.1"),
        (r"gnu general public license[\s\S]{0,200}?version 3", "GPL-3.0"),
        (r"gnu general public license", "GPL-2.0"),
        (r"eclipse public license[\s\S]{0,60}?2\.0", "EPL-2.0"),
        (r"eclipse public license", "EPL-1.0"),
        (r"boost software license", "BSL-1.0"),
        (r"permission is hereby granted, free of charge, to any person", "MIT"),
        (r"(?:under|the) (?:the )?mit license|mit licensed|license:\s*mit\b", "MIT"),
        (r"permission to use, copy, modify, and(?:/or)? distribute this software for any purpose", "ISC"),
        (r"redistribution and use in source and binary forms[\s\S]{0,1200}?neither the name", "BSD-3-Clause"),
        (r"redistribution and use in source and binary forms", "BSD-2-Clause"),
        (r"(?:under|the) (?:a |the )?(?:new |modified |3-clause )?bsd(?:-style)? license", "BSD-3-Clause"),
        (r"this is free and unencumbered software released into the public domain", "Unlicense"),
        (r"creative commons (?:zero|cc0)|\bcc0[- ]1\.0", "CC0-1.0"),
        (r"木兰宽松许可证[\s\S]{0,40}?第\s*2\s*版|mulan psl v2", "MulanPSL-2.0"),
        (r"all rights reserved\.?[\s\S]{0,200}?(?:proprietary|confidential)", "proprietary"),
    )
)
_ANY = re.compile(r"licen[cs]e|permission|redistribution|public domain|cc0|许可证|mulan|proprietary|confidential", re.I)


def licence_of(text: str, meta: str | None = None) -> str | None:
    """SPDX expression of a file, or None: its tag, its header, then ``license`` or ``licence`` in its meta (JSON)."""
    head = text[:_HEAD_CHARS]
    if _ANY.search(head):
        if tag := _SPDX.search(head):
            return tag[1]
        # headers are commented line by line: the marks between words must not hide them
        plain = re.sub(r"[\s*#/;%-]+", " ", head) if "\n" in head else head
        for pattern, spdx in _HEADERS:
            if pattern.search(plain) or pattern.search(head):
                return spdx
    return _told(meta)


def _told(meta: str | None) -> str | None:
    if not meta or "licen" not in meta:
        return None
    try:
        found = json.loads(meta)
    except ValueError:
        return None
    value = (found.get("licence") or found.get("license")) if isinstance(found, dict) else None
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return " AND ".join(value)  # several were found, and nobody says that one may choose
    return value if isinstance(value, str) else None


def permits(told: str, wanted: Collection[str]) -> bool:
    """Whether an SPDX expression holds under the licences ``wanted``: of ``OR`` one, of ``AND`` all.

    Identifiers are compared without case (SPDX specification 2.3, annex D.2), exceptions, ``-only`` and
    ``-or-later``; names as people write them ("MIT License", "Apache 2.0") count too.
    """
    names = {_folded(name) for name in wanted}
    words = [word for word in _OPERATORS.split(told) if word.strip()]
    return _any_of(words, names)


def _any_of(words: list[str], names: Collection[str]) -> bool:
    held = _all_of(words, names)
    while words and words[0] == "OR":
        words.pop(0)
        held = _all_of(words, names) or held
    return held


def _all_of(words: list[str], names: Collection[str]) -> bool:
    held = _one(words, names)
    while words and words[0] == "AND":
        words.pop(0)
        held = _one(words, names) and held
    return held


def _one(words: list[str], names: Collection[str]) -> bool:
    word = words.pop(0) if words else ""
    if word == "(":
        held = _any_of(words, names)
        if words and words[0] == ")":
            words.pop(0)
        return held
    return _folded(word) in names


def _folded(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9.]+", _NOT_IN_NAMES.sub("", name.strip(" .\t")).lower()))

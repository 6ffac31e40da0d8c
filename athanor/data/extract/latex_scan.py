r"""Arguments of LaTeX commands: ``{…}`` and ``[…]``."""

from __future__ import annotations

import re
from functools import lru_cache

_MAX_ARGUMENT = 50_000
#: Most arguments close within so many characters; for longer ones the braces of a text (up to a size) are matched once.
_NEAR_CHARS, _MAX_MATCHED_CHARS = 2_000, 4_000_000
_BRACE = re.compile(r"\\.|[{}]", re.S)


def argument(text: str, position: int) -> tuple[str, int] | None:
    """(content, end) of the braced argument at ``position``, spaces before it skipped; None where there is none."""
    while position < len(text) and text[position] in " \t\n":
        position += 1
    if text[position : position + 1] != "{":
        return None
    end = _scan(text, position, position + _NEAR_CHARS)
    if end < 0 and len(text) > position + _NEAR_CHARS:
        near = len(text) <= _MAX_MATCHED_CHARS
        end = _closing(text).get(position, -1) if near else _scan(text, position, position + _MAX_ARGUMENT)
    return (text[position + 1 : end], end + 1) if position < end <= position + _MAX_ARGUMENT else None


def _scan(text: str, position: int, limit: int) -> int:
    """Where the brace at ``position`` closes, -1 where it does not before ``limit``."""
    depth = 0
    for match in _BRACE.finditer(text, position, limit):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if not depth:
                return match.start()
    return -1


@lru_cache(maxsize=8)
def _closing(text: str) -> dict[int, int]:
    """Each opening brace that is closed → its closing one: sources of unclosed braces would cost their square."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            found[opened.pop()] = match.start()
    return found


def optional(text: str, position: int) -> tuple[str, int] | None:
    """(content, end) of the bracketed argument at ``position``, or None."""
    match = re.compile(r"[ \t]*\[((?:[^\[\]{}]|\{[^{}]*\})*)\]").match(text, position, position + 2000)
    return (match[1], match.end()) if match else None

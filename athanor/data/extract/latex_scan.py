r"""Arguments of LaTeX commands: ``{…}`` and ``[…]``."""

from __future__ import annotations

import re

_MAX_ARGUMENT = 50_000


def argument(text: str, position: int) -> tuple[str, int] | None:
    """(content, end) of the braced argument at ``position``, spaces before it skipped; None where there is none."""
    while position < len(text) and text[position] in " \t\n":
        position += 1
    if text[position : position + 1] != "{":
        return None
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.S).finditer(text, position, position + _MAX_ARGUMENT):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if not depth:
                return text[position + 1 : match.start()], match.end()
    return None


def optional(text: str, position: int) -> tuple[str, int] | None:
    """(content, end) of the bracketed argument at ``position``, or None."""
    match = re.compile(r"[ \t]*\[((?:[^\[\]{}]|\{[^{}]*\})*)\]").match(text, position, position + 2000)
    return (match[1], match.end()) if match else None

r"""Pseudocode of LaTeX → lines, indented by two spaces a level: algorithmic, algpseudocode and algorithm2e."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from athanor.data.extract.latex_scan import argument, optional

Flat = Callable[[str], str]

#: Commands of algorithmic (in any case) → the line they begin; ``{}`` is an argument.
_OPENING = {
    "if": "if {} then", "elsif": "else if {} then", "elseif": "else if {} then", "else": "else", "for": "for {} do",
    "forall": "for all {} do", "while": "while {} do", "loop": "loop", "repeat": "repeat",
    "function": "function {}({})", "procedure": "procedure {}({})",
}  # fmt: skip
_CLOSING = {
    "endif": "end if", "endfor": "end for", "endwhile": "end while", "endloop": "end loop", "until": "until {}",
    "endfunction": "end function", "endprocedure": "end procedure",
}  # fmt: skip
_PLAIN = {"state": "", "statex": "", "return": "return ", "require": "Require: ", "ensure": "Ensure: ",
          "input": "Input: ", "output": "Output: ", "print": "print "}  # fmt: skip
_WORDS = sorted([*_OPENING, *_CLOSING, *_PLAIN], key=len, reverse=True)
_COMMAND = re.compile(rf"\\({'|'.join(_WORDS)})(?![A-Za-z])", re.I)
_COMMENT = re.compile(r"\\(?:comment|tcp\*?|tcc\*?|tcp\*\[\w\])\s*(?=[{\[])", re.I)
#: Of algorithm2e: command → (template, how many blocks follow its condition).
_BLOCKS = {
    "if": ("if {} then", 1), "elseif": ("else if {} then", 1), "else": ("else", 0), "for": ("for {} do", 1),
    "foreach": ("for each {} do", 1), "forall": ("for all {} do", 1), "while": ("while {} do", 1),
    "eif": ("if {} then", 2), "repeat": ("repeat", 1), "function": ("function {}", 1), "fn": ("function {}", 1),
}  # fmt: skip
_LABELS = {"kwdata": "Data: ", "kwin": "Input: ", "kwinput": "Input: ", "kwout": "Output: ", "kwoutput": "Output: ",
           "kwresult": "Result: ", "kwret": "return ", "input": "Input: ", "output": "Output: "}  # fmt: skip
_TWO_E = re.compile(
    r"\\(?:([ul]?(?:If|ElseIf|Else|For|ForEach|ForAll|While)|eIf|Repeat|Function|Fn|Kw(?:Data|In|Input|Out|Output|Result|Ret)"
    r"|Input|Output)(?![A-Za-z])|;)"
)


def is_algorithm2e(body: str) -> bool:
    """Whether the body of an ``algorithm`` environment is written for algorithm2e."""
    return "\\begin{algorithmic}" not in body and bool(re.search(r"\\;|\\Kw[A-Z]|\\eIf", body))


def algorithmic_lines(body: str, flat: Flat) -> Iterator[str]:
    """Lines of an ``algorithmic`` environment; ``flat`` reads the source of a piece of text."""
    depth = 0
    matches = list(_COMMAND.finditer(body))
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        name = match[1].lower()
        end = following.start() if following else len(body)
        template = _OPENING.get(name) or _CLOSING.get(name) or _PLAIN.get(name, "")
        position = match.end()
        values = []
        for _ in range(template.count("{}")):
            found = argument(body, position)
            values.append(flat(found[0]) if found else "")
            position = found[1] if found else position
        head = template.format(*values) if values else template
        text, comment = _commented(body[min(position, end) : end], flat)
        line = " ".join(filter(None, (head.rstrip() if text else head.strip(), text, comment)))
        if name in _CLOSING or name.startswith("els"):
            depth = max(0, depth - 1)
        if line:
            yield "  " * depth + line
        depth += name in _OPENING


def algorithm2e_lines(body: str, flat: Flat, depth: int = 0) -> Iterator[str]:
    """Lines of the body of an algorithm2e environment."""
    position = 0
    while match := _TWO_E.search(body, position):
        before, position = body[position : match.start()], match.end()
        yield from _plain(before, flat, depth)
        if match[1] is None:
            continue
        name = match[1].lower()
        if name in _LABELS:
            found = argument(body, position)
            if found:
                position = found[1]
                yield "  " * depth + _LABELS[name] + flat(found[0])
            continue
        name = name.removeprefix("u").removeprefix("l") if name not in _BLOCKS else name
        template, n_blocks = _BLOCKS[name]
        while skipped := _option(body, position):
            position = skipped
        condition = argument(body, position) if n_blocks else None
        position = condition[1] if condition else position
        shown = flat(condition[0]) if condition else ""
        yield "  " * depth + template.format(shown)
        for number in range(max(1, n_blocks)):
            found = argument(body, position)
            if found is None:
                break
            if number:
                yield "  " * depth + "else"
            if depth < 12:
                yield from algorithm2e_lines(found[0], flat, depth + 1)
            position = found[1]
        if not match[1].startswith("u"):  # the u of uIf: an else follows, nothing ends here
            yield "  " * depth + (f"until {shown}" if name == "repeat" else "end")
    yield from _plain(body[position:], flat, depth)


def _option(body: str, position: int) -> int | None:
    """The end of a comment in parentheses, as algorithm2e's commands may have, or None."""
    match = re.compile(r"\s*\((?:[^()]|\([^()]*\))*\)").match(body, position, position + 500)
    return match.end() if match else None


def _plain(source: str, flat: Flat, depth: int) -> Iterator[str]:
    source = re.sub(
        r"\\(?:DontPrintSemicolon|SetAlgoLined|SetAlgoNoLine|LinesNumbered|BlankLine|SetKw\w*)(?![A-Za-z])", "", source
    )
    for part in re.split(r"\n\s*\n|\\\\", source):
        text, comment = _commented(part, flat)
        if line := " ".join(filter(None, (text, comment))):
            yield "  " * depth + line


def _commented(source: str, flat: Flat) -> tuple[str, str]:
    """(text, comment behind its mark) of a statement."""
    match = _COMMENT.search(source)
    if match is None:
        return flat(source), ""
    skipped = optional(source, match.end())
    found = argument(source, skipped[1] if skipped else match.end())
    if found is None:
        return flat(source), ""
    rest = source[: match.start()] + source[found[1] :]
    comment = flat(found[0])
    return flat(rest), f"▷ {comment}" if comment else ""

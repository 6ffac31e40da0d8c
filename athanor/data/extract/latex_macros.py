r"""A LaTeX source's own macros and environments written out, and the branches of its conditionals that count.

Macros that are plain abbreviations are expanded; those that compute are left alone. Understood are ``\newcommand`` and
its kin, ``\def`` without delimiters, ``\let`` between commands, ``\DeclareMathOperator``, ``\DeclarePairedDelimiter``
(mathtools), ``\NewDocumentCommand`` with plain arguments (xparse) and ``\newenvironment``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from athanor.data.extract.latex_commands import CITATIONS, REFERENCES, SECTIONS, SIGNATURES, SYMBOLS
from athanor.data.extract.latex_scan import argument, optional

#: ``\input`` inside ``\input``, macros inside macros.
MAX_DEPTH = 20
#: What macros may add to a source, in characters.
_MAX_GROWTH = 2_000_000

_NAME = r"(?:\{\s*\\([A-Za-z@]+)\s*\}|\\([A-Za-z@]+))"
_NEW = re.compile(r"\\(?:(?:re|provide)?newcommand|providecommand|renewcommand|DeclareRobustCommand)\s*\*?\s*" + _NAME)
_DEF = re.compile(r"\\(?:g|e|x)?def\s*\\([A-Za-z@]+)((?:#\d)*)\s*(?=\{)")
_OPERATOR = re.compile(r"\\DeclareMathOperator\s*(\*?)\s*\{?\s*\\([A-Za-z@]+)\s*\}?\s*(?=\{)")
_PAIRED = re.compile(r"\\DeclarePairedDelimiter\s*" + _NAME)
_DOCUMENT = re.compile(r"\\(?:New|Renew|Provide|Declare)(?:Expandable)?DocumentCommand\s*" + _NAME)
_LET = re.compile(r"\\let\s*\\([A-Za-z@]+)\s*=?\s*\\([A-Za-z@]+)(?![A-Za-z@])")
_ENVIRONMENT = re.compile(r"\\(?:newenvironment|provideenvironment)\s*\*?\s*(?=\{)")
_START = re.compile(
    r"\\(?:(?:re|provide)?(?:new)?command|DeclareRobustCommand|[gex]?def|DeclareMathOperator|DeclarePairedDelimiter"
    r"|let|(?:New|Renew|Provide|Declare)(?:Expandable)?DocumentCommand|newenvironment|provideenvironment)(?![A-Za-z])"
)
#: Bodies with these are programs, not abbreviations.
_PROGRAM = re.compile(
    r"\\(?:if\w*|If\w*|else|fi|csname|expandafter|let|futurelet|catcode|def|newcommand|@\w*|loop|the)(?![A-Za-z])"
)
#: Environments that are read by their meaning, however a paper defines them.
_KNOWN_ENVIRONMENTS = frozenset(
    ["abstract", "proof", "theorem", "lemma", "figure", "table", "algorithm", "algorithmic", "keywords", "tabular"]
)
_MAX_PACKAGE_BODY = 300
_LAYOUT = re.compile(
    r"\\(?:begingroup|bgroup|global|advance|par|[vh]skip|[vh]rule|[vh]box|setlength|setcounter|penalty|noindent|vspace|font"
    r"|selectfont|clearpage|thispagestyle)(?![A-Za-z])"
)
_OF_LATEX = frozenset([*CITATIONS, *REFERENCES, *SECTIONS, *SIGNATURES, *SYMBOLS, "caption", "footnote", "thanks"])
#: TeX's own conditionals, each of which ends with ``\fi``.
_PRIMITIVE_IFS = (
    "if", "ifcat", "ifnum", "ifdim", "ifodd", "ifvmode", "ifhmode", "ifmmode", "ifinner", "ifvoid", "ifhbox", "ifvbox",
    "ifx", "ifeof", "iftrue", "iffalse", "ifcase", "ifdefined", "ifcsname", "ifpdf", "ifxetex", "ifluatex",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Macro:
    """``starred``: the body behind a ``*``, for macros that know one."""

    n_arguments: int
    default: str | None
    body: str
    starred: str | None = None


@dataclass(slots=True)
class _Definitions:
    macros: dict[str, _Macro]
    #: Name → what begins and what ends the environment.
    environments: dict[str, tuple[_Macro, _Macro]]


def taken_branches(text: str) -> str:
    r"""The text without the branches that TeX skips: of ``\iffalse``, ``\iftrue`` and of the source's own switches.

    A switch (``\newif\ifdraft``) holds what it was last set to before it is asked. What cannot be decided stays.
    """
    declared = set(re.findall(r"\\newif\s*\\if([A-Za-z@]+)", text))
    if not declared and "\\iffalse" not in text and "\\iftrue" not in text:
        return text
    text = re.sub(r"\\newif\s*\\if[A-Za-z@]+", "", text)
    names = "|".join(
        map(re.escape, sorted([*_PRIMITIVE_IFS, *(f"if{name}" for name in declared)], key=len, reverse=True))
    )
    setters = "|".join(map(re.escape, sorted(declared, key=len, reverse=True))) or "(?!)"
    tokens = re.compile(rf"\\(?:({names})|(else)|(fi)|({setters})(true|false))(?![A-Za-z@])")
    state = {f"if{name}": False for name in declared} | {"iffalse": False, "iftrue": True}
    out: list[str] = []
    stack: list[tuple[bool | None, bool]] = []  # (what the condition is, whether the text before it counted)
    position, shown = 0, True
    for match in tokens.finditer(text):
        out.append(text[position : match.start()] if shown else "")
        position = match.end()
        kept = match[0] if shown else ""
        if match[1]:
            holds = state.get(match[1])
            stack.append((holds, shown))
            shown = shown and holds is not False
            kept = kept if holds is None else ""
        elif match[2] and stack:
            holds, before = stack[-1]
            kept = kept if holds is None else ""
            shown = before and holds is not True
        elif match[3] and stack:
            holds, shown = stack.pop()
            kept = match[0] if holds is None and shown else ""
        elif match[4]:
            kept = ""
            if shown:
                state[f"if{match[4]}"] = match[5] == "true"
        out.append(kept)
    if any(holds is not None for holds, _ in stack):  # a branch that never ends: nothing is known
        return text
    return "".join(out) + text[position:]


def expand_macros(text: str, packages: Sequence[str] = ()) -> str:
    """The source without its definitions, every use of a plain abbreviation written out.

    ``packages``: sources of the paper's own packages. Of these, new commands with short bodies alone are taken, since
    packages are where layouts are programmed as well.
    """
    text, found = _definitions(text)
    for package in packages:
        for name, macro in _definitions(package)[1].macros.items():
            if name not in _OF_LATEX and len(macro.body) <= _MAX_PACKAGE_BODY and not _LAYOUT.search(macro.body):
                found.macros.setdefault(name, macro)
    if not found.macros and not found.environments:
        return text
    names = "|".join(sorted(map(re.escape, found.macros), key=len, reverse=True)) or "(?!)"
    environments = "|".join(sorted(map(re.escape, found.environments), key=len, reverse=True)) or "(?!)"
    use = re.compile(rf"\\(?:({names})(?![A-Za-z@])|(begin|end)\s*\{{({environments})\}})")
    left = _MAX_GROWTH

    def expand(part: str, depth: int) -> str:
        nonlocal left
        out: list[str] = []
        position = 0
        while depth < MAX_DEPTH and left > 0 and (match := use.search(part, position)):
            out.append(part[position : match.start()])
            macro = found.macros[match[1]] if match[1] else found.environments[match[3]][match[2] == "end"]
            filled, position = _filled(macro, part, match.end())
            left -= len(filled)
            out.append(expand(filled, depth + 1))
        return "".join(out) + part[position:]

    return expand(text, 0)


def _filled(macro: _Macro, text: str, position: int) -> tuple[str, int]:
    """A macro's body with its arguments put in, and where they end."""
    values: list[str] = []
    body = macro.body
    if macro.starred is not None:
        if text[position : position + 1] == "*":
            body, position = macro.starred, position + 1
        size = optional(text, position)
        position = size[1] if size else position
    if macro.default is not None:
        found = optional(text, position)
        values.append(found[0] if found else macro.default)
        position = found[1] if found else position
    while len(values) < macro.n_arguments:
        found = argument(text, position)
        if found is None:
            token = re.compile(r"\s*(\\[A-Za-z]+|\\.|[^\s\\{}])").match(text, position)
            found = (token[1], token.end()) if token else ("", position)
        values.append(found[0])
        position = found[1]
    body = re.sub(r"#([1-9])", lambda m: values[int(m[1]) - 1] if int(m[1]) <= len(values) else "", body)
    return body, position


def _definitions(text: str) -> tuple[str, _Definitions]:
    """The text without its definitions, and those that are plain abbreviations."""
    found = _Definitions({}, {})
    renamed: dict[str, str] = {}
    out: list[str] = []
    position = 0
    for match in _START.finditer(text):
        if match.start() < position:
            continue
        if let := _LET.match(text, match.start()):
            renamed[let[1]] = let[2]
            found.macros[let[1]] = found.macros.get(let[2], _Macro(0, None, f"\\{let[2]}"))
            end = let.end()
        elif (environment := _ENVIRONMENT.match(text, match.start())) is not None:
            read = _environment(text, environment.end())
            if read is None:
                continue
            name, parts, end = read
            if name not in _KNOWN_ENVIRONMENTS and not any(map(_computes, parts)):
                found.environments[name] = parts
        else:
            defined = _definition(text, match.start())
            if defined is None:
                continue
            name, macro, end = defined
            if macro is not None and not _computes(macro) and not _mentions(macro.body, name):
                found.macros[name] = macro
        out.append(text[position : match.start()])
        position = end
    for name, target in renamed.items():
        # A command that was saved under another name to be built upon keeps its own meaning.
        if target in found.macros and _mentions(found.macros[target].body, name):
            del found.macros[target]
    return "".join(out) + text[position:], found


def _computes(macro: _Macro) -> bool:
    return bool(_PROGRAM.search(macro.body))


def _mentions(body: str, name: str) -> bool:
    return re.search(rf"\\{re.escape(name)}(?![A-Za-z@])", body) is not None


def _definition(text: str, position: int) -> tuple[str, _Macro | None, int] | None:
    """(name, macro or None where it cannot be written out, end) of the definition at ``position``."""
    if match := _OPERATOR.match(text, position):
        body = argument(text, match.end())
        return (match[2], _Macro(0, None, f"\\operatorname{match[1]}{{{body[0]}}}"), body[1]) if body else None
    if match := _DEF.match(text, position):
        body = argument(text, match.end())
        return (match[1], _Macro(match[2].count("#"), None, body[0]), body[1]) if body else None
    if match := _NEW.match(text, position):
        return _new_command(text, match[1] or match[2], match.end())
    if match := _PAIRED.match(text, position):
        opening = argument(text, match.end())
        closing = argument(text, opening[1]) if opening else None
        if opening is None or closing is None:
            return None
        left, right = opening[0].strip(), closing[0].strip()
        return (
            match[1] or match[2],
            _Macro(1, None, f"{left} #1 {right}", f"\\left{left} #1 \\right{right}"),
            closing[1],
        )
    if match := _DOCUMENT.match(text, position):
        return _document_command(text, match[1] or match[2], match.end())
    return None


def _new_command(text: str, name: str, position: int) -> tuple[str, _Macro | None, int] | None:
    count = optional(text, position)
    default = optional(text, count[1]) if count else None
    body = argument(text, default[1] if default else (count[1] if count else position))
    if body is None:
        return None
    n_arguments = int(count[0]) if count and count[0].strip().isdigit() else 0
    if n_arguments > 9:
        return name, None, body[1]
    return name, _Macro(n_arguments, default[0] if default else None, body[0]), body[1]


def _document_command(text: str, name: str, position: int) -> tuple[str, _Macro | None, int] | None:
    """Of xparse's argument types ``m`` is written out, and a first ``O{…}`` or ``o``."""
    kinds = argument(text, position)
    body = argument(text, kinds[1]) if kinds else None
    if kinds is None or body is None:
        return None
    plain = re.fullmatch(r"\s*(?:(o)|O\s*\{([^{}]*)\})?\s*((?:\+?m\s*)*)", kinds[0])
    if plain is None:
        return name, None, body[1]
    default = "" if plain[1] else plain[2]
    n_arguments = plain[3].count("m") + (default is not None)
    return name, _Macro(n_arguments, default, body[0]) if n_arguments <= 9 else None, body[1]


def _environment(text: str, position: int) -> tuple[str, tuple[_Macro, _Macro], int] | None:
    name = argument(text, position)
    count = optional(text, name[1]) if name else None
    default = optional(text, count[1]) if count else None
    begin = argument(text, default[1] if default else count[1] if count else name[1]) if name else None
    end = argument(text, begin[1]) if begin else None
    if name is None or begin is None or end is None:
        return None
    n_arguments = int(count[0]) if count and count[0].strip().isdigit() else 0
    first = _Macro(min(n_arguments, 9), default[0] if default else None, begin[0])
    return name[0].strip(), (first, _Macro(0, None, end[0])), end[1]

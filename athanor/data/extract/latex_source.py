r"""LaTeX sources before they are read: files put together, comments taken out, a paper's own macros written out."""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from athanor.data.extract.types import Unreadable

#: ``\input`` inside ``\input``, macros inside macros.
MAX_DEPTH = 20
MAX_SOURCE_CHARS = 64_000_000
#: What macros may add to a source, in characters.
_MAX_GROWTH = 2_000_000
_MAX_ARGUMENT = 50_000
_VERBATIM: tuple[str, ...] = (
    "verbatim*",
    "verbatim",
    "Verbatim",
    "lstlisting",
    "minted",
    "alltt",
    "comment",
    "filecontents*",
)
_VERBATIM += ("filecontents", "tikzpicture", "pgfpicture", "CCSXML")
_DROPPED_VERBATIM = frozenset(_VERBATIM[6:])
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*\n?[ \t]*")
#: A programming language inside LaTeX, never text.
_EXPL3 = re.compile(r"\\ExplSyntaxOn.{0,20000}?\\ExplSyntaxOff", re.S)
_INPUT = re.compile(
    r"\\(?:input|include|subfile|InputIfFileExists)(?![A-Za-z])\s*(?:\{([^{}\n]{1,300})\}|([^\s{}\\]{1,300}))"
)
_NEW = re.compile(
    r"\\(?:(?:re|provide)?newcommand|providecommand|renewcommand|DeclareRobustCommand)\s*\*?\s*(?:\{\s*\\([A-Za-z@]+)\s*\}|\\([A-Za-z@]+))"
)
_DEF = re.compile(r"\\(?:g|e|x)?def\s*\\([A-Za-z@]+)((?:#\d)*)\s*(?=\{)")
_OPERATOR = re.compile(r"\\DeclareMathOperator\s*(\*?)\s*\{?\s*\\([A-Za-z@]+)\s*\}?\s*(?=\{)")
#: Bodies with these are programs, not abbreviations.
_PROGRAM = re.compile(
    r"\\(?:if\w*|else|fi|csname|expandafter|let|futurelet|catcode|def|newcommand|@\w*|loop|the)(?![A-Za-z])"
)

#: Text of an included file by the name written in the source, or None.
Resolve = Callable[[str], str | None]


@dataclass(slots=True)
class Source:
    """One document's source, ready to read; ``code[i]`` is what stood verbatim where the mark ``i`` stands."""

    text: str
    code: list[str] = field(default_factory=list)


CODE_MARK = "\ue0c0"
_MARKED = re.compile(f"{CODE_MARK}(\\d+){CODE_MARK}")


def prepare(text: str, resolve: Resolve) -> Source:
    """Put the files together, set verbatim text aside, drop comments, write out the macros."""
    source = Source(text.replace("\r\n", "\n").replace("\r", "\n").replace(CODE_MARK, ""))
    source.text = _EXPL3.sub("", _assemble(source, resolve))
    return Source(_expand(source.text), source.code)


def _assemble(source: Source, resolve: Resolve) -> str:
    seen_chars = 0

    def load(text: str, depth: int) -> str:
        nonlocal seen_chars
        seen_chars += len(text)
        if seen_chars > MAX_SOURCE_CHARS:
            raise Unreadable("too large after input: the files that the source includes")
        plain = _COMMENT.sub(r"\1", _set_aside(text, source.code))

        def included(match: re.Match[str]) -> str:
            found = resolve((match[1] or match[2]).strip()) if depth < MAX_DEPTH else None
            return f"\n{load(found, depth + 1)}\n" if found is not None else ""

        return _INPUT.sub(included, plain)

    return load(source.text, 0)


def _set_aside(text: str, code: list[str]) -> str:
    """Verbatim environments → marks; ``comment``, drawings and the like are dropped."""
    out: list[str] = []
    position = 0
    missing: set[str] = set()
    for match in re.finditer(r"\\begin\{(" + "|".join(map(re.escape, _VERBATIM)) + r")\}", text):
        name = match[1]
        if match.start() < position or name in missing or _is_commented(text, match.start()):
            continue
        end = text.find(f"\\end{{{name}}}", match.end())
        if end < 0:
            missing.add(name)
            continue
        out.append(text[position : match.start()])
        if name not in _DROPPED_VERBATIM:
            body = re.sub(r"^(?:\[[^\]\n]*\]|\{[^}\n]*\})*[ \t]*\n?", "", text[match.end() : end])
            code.append(body.rstrip())
            out.append(f"\n\n{CODE_MARK}{len(code) - 1}{CODE_MARK}\n\n")
        position = end + len(f"\\end{{{name}}}")
    return "".join(out) + text[position:]


def _is_commented(text: str, position: int) -> bool:
    return "%" in text[text.rfind("\n", 0, position) + 1 : position].replace("\\%", "")


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


@dataclass(frozen=True, slots=True)
class _Macro:
    n_arguments: int
    default: str | None
    body: str


def _expand(text: str) -> str:
    text, macros = _definitions(text)
    if not macros:
        return text
    names = "|".join(sorted(map(re.escape, macros), key=len, reverse=True))
    use = re.compile(rf"\\({names})(?![A-Za-z@])")
    left = _MAX_GROWTH

    def expand(part: str, depth: int) -> str:
        nonlocal left
        out: list[str] = []
        position = 0
        while depth < MAX_DEPTH and left > 0 and (match := use.search(part, position)):
            out.append(part[position : match.start()])
            filled, position = _filled(macros[match[1]], part, match.end())
            left -= len(filled)
            out.append(expand(filled, depth + 1))
        return "".join(out) + part[position:]

    return expand(text, 0)


def _filled(macro: _Macro, text: str, position: int) -> tuple[str, int]:
    """A macro's body with its arguments put in, and where they end."""
    values: list[str] = []
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
    body = re.sub(r"#([1-9])", lambda m: values[int(m[1]) - 1] if int(m[1]) <= len(values) else "", macro.body)
    return body, position


def _definitions(text: str) -> tuple[str, dict[str, _Macro]]:
    """The text without its definitions of macros, and those that are plain abbreviations."""
    macros: dict[str, _Macro] = {}
    out: list[str] = []
    position = 0
    start = re.compile(
        r"\\(?:(?:re|provide)?(?:new)?command|DeclareRobustCommand|[gex]?def|DeclareMathOperator)(?![A-Za-z])"
    )
    for match in start.finditer(text):
        if match.start() < position:
            continue
        found = _definition(text, match.start())
        if found is None:
            continue
        name, macro, end = found
        out.append(text[position : match.start()])
        position = end
        if macro is not None and not _PROGRAM.search(macro.body) and f"\\{name}" not in macro.body:
            macros[name] = macro
    return "".join(out) + text[position:], macros


def _definition(text: str, position: int) -> tuple[str, _Macro | None, int] | None:
    if match := _OPERATOR.match(text, position):
        body = argument(text, match.end())
        return (match[2], _Macro(0, None, f"\\operatorname{match[1]}{{{body[0]}}}"), body[1]) if body else None
    if match := _DEF.match(text, position):
        body = argument(text, match.end())
        return (match[1], _Macro(match[2].count("#"), None, body[0]), body[1]) if body else None
    if match := _NEW.match(text, position):
        end = match.end()
        count = optional(text, end)
        default = optional(text, count[1]) if count else None
        end = default[1] if default else (count[1] if count else end)
        body = argument(text, end)
        if body is None:
            return None
        n_arguments = int(count[0]) if count and count[0].strip().isdigit() else 0
        if n_arguments > 9:
            return match[1] or match[2], None, body[1]
        return match[1] or match[2], _Macro(n_arguments, default[0] if default else None, body[0]), body[1]
    return None


def main_file(files: Mapping[str, str]) -> str:
    r"""The document among the files of a paper: it has ``\documentclass``; ``Unreadable`` where none has."""
    found = [name for name, text in files.items() if re.search(r"^[^%\n]*\\document(?:class|style)", text, re.M)]
    if not found:
        raise Unreadable("no LaTeX document: no file with documentclass")
    usual = ("main", "ms", "paper", "article", "root", "arxiv")
    return max(
        found, key=lambda n: (_stem(n) in usual, "\\begin{document}" in files[n], -n.count("/"), len(files[n]), n)
    )


def _stem(name: str) -> str:
    return posixpath.basename(name).lower().removesuffix(".tex")


def resolver(files: Mapping[str, str], main: str) -> Resolve:
    """Looks names up among the files of a paper, relative to the main file; each is included at most 50 times."""
    counts: dict[str, int] = {}

    def resolve(name: str) -> str | None:
        for candidate in (name, f"{name}.tex"):
            key = posixpath.normpath(posixpath.join(posixpath.dirname(main), candidate))
            if key in files and counts.get(key, 0) < 50:
                counts[key] = counts.get(key, 0) + 1
                return files[key]
        return None

    return resolve


def archive_files(raw: bytes, max_bytes: int = MAX_SOURCE_CHARS) -> dict[str, str]:
    """Texts of the .tex files of an (unpacked) tar; ``Unreadable`` where it is damaged or too large."""
    files: dict[str, str] = {}
    n_bytes = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for member in archive:
                if not member.isfile() or not member.name.lower().endswith((".tex", ".ltx", ".latex")):
                    continue
                n_bytes += member.size
                if n_bytes > max_bytes:
                    raise Unreadable(f"too large after unpacking: more than {max_bytes} bytes of LaTeX")
                stream = archive.extractfile(member)
                if stream is not None:
                    files[posixpath.normpath(member.name)] = decode_source(stream.read())
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise Unreadable(f"broken archive: {error}") from None
    return files


def decode_source(raw: bytes) -> str:
    """UTF-8, or Latin-1 as TeX files of before had it."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def included_names(text: str, folder: Path, depth: int = 0) -> frozenset[str]:
    """Names (without ``.tex``, relative to the folder) that a document includes, directly or through others."""
    found: set[str] = set()
    for match in _INPUT.finditer(_COMMENT.sub(r"\1", text)):
        name = posixpath.normpath((match[1] or match[2]).strip()).removesuffix(".tex")
        if name in found or len(found) > 500 or name.startswith(("/", "..")):
            continue
        found.add(name)
        path = folder / f"{name}.tex"
        if depth < 5 and path.is_file():
            found |= included_names(path.read_bytes()[:1_000_000].decode("utf-8", "replace"), folder, depth + 1)
    return frozenset(found)

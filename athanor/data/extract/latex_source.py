r"""LaTeX sources before they are read: files put together, comments taken out, a paper's own macros written out."""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from athanor.data.extract.latex_macros import MAX_DEPTH, expand_macros, taken_branches
from athanor.data.extract.types import Unreadable

MAX_SOURCE_CHARS = 64_000_000
_VERBATIM: tuple[str, ...] = (
    "verbatim*",
    "verbatim",
    "Verbatim",
    "lstlisting",
    "minted",
    "alltt",
    "Highlighting",
    "comment",
    "filecontents*",
)
_VERBATIM += ("filecontents", "tikzpicture", "pgfpicture", "CCSXML")
_DROPPED_VERBATIM = frozenset(_VERBATIM[7:])
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*\n?[ \t]*")
#: A programming language inside LaTeX, never text.
_EXPL3 = re.compile(r"\\ExplSyntaxOn.{0,20000}?\\ExplSyntaxOff", re.S)
_INPUT = re.compile(
    r"\\(?:input|include|subfile|InputIfFileExists)(?![A-Za-z])\s*(?:\{([^{}\n]{1,300})\}|([^\s{}\\]{1,300}))"
)
#: ``\import{folder/}{file}`` and its kin.
_IMPORT = re.compile(r"\\(?:sub)?(?:import|inputfrom|includefrom)\*?\s*\{([^{}\n]{0,200})\}\s*\{([^{}\n]{1,200})\}")
_PACKAGE = re.compile(r"\\(?:usepackage|RequirePackage)\s*(?:\[[^\]]*\])?\s*\{([^{}]{1,500})\}")
#: Larger ones are a journal's layout.
_MAX_PACKAGE_CHARS = 60_000
_DECLARED = re.compile(
    rb"\\usepackage\s*\[([\w-]+)\]\s*\{inputenc\}|\\begin\s*\{CJK\*?\}\s*(?:\[[^\]]*\])?\s*\{([\w-]+)\}"
)
_INPUTENC = {"ansinew": "cp1252", "applemac": "mac_roman", "latin9": "iso-8859-15", "utf8x": "utf-8", "bg5": "big5"}
_WIDE_ENCODINGS = ("gb", "big5", "cp932", "cp949", "cp950", "euc", "shift", "utf-16")
_HEAD_BYTES = 20_000

#: Text of an included file by the name written in the source, or None.
Resolve = Callable[[str], str | None]


@dataclass(slots=True)
class Source:
    """One document's source, ready to read; ``code[i]`` is what stood verbatim where the mark ``i`` stands."""

    text: str
    code: list[str] = field(default_factory=list)
    #: The programming language of each piece of code, "" where the source does not say.
    languages: list[str] = field(default_factory=list)


CODE_MARK = "\ue0c0"


def prepare(text: str, resolve: Resolve) -> Source:
    """Put the files together, set verbatim text aside, drop comments, write out the macros."""
    source = Source(text.replace("\r\n", "\n").replace("\r", "\n").replace(CODE_MARK, ""))
    text = _EXPL3.sub("", _assemble(source, resolve))
    return Source(expand_macros(taken_branches(text), _packages(text, resolve)), source.code, source.languages)


def _packages(text: str, resolve: Resolve) -> list[str]:
    """Sources of the packages that lie beside a document: papers keep their macros there."""
    found = []
    for names in _PACKAGE.findall(text[:_HEAD_BYTES]):
        for name in names.split(",")[:20]:
            package = resolve(f"{name.strip()}.sty") if name.strip() else None
            if package is not None and len(package) <= _MAX_PACKAGE_CHARS:
                found.append(_COMMENT.sub(r"\1", package))
    return found


def _assemble(source: Source, resolve: Resolve) -> str:
    seen_chars = 0

    def load(text: str, depth: int) -> str:
        nonlocal seen_chars
        seen_chars += len(text)
        if seen_chars > MAX_SOURCE_CHARS:
            raise Unreadable("too large after input: the files that the source includes")
        plain = _COMMENT.sub(r"\1", _set_aside(text, source))

        def included(match: re.Match[str]) -> str:
            name = match[1] + match[2] if match.re is _IMPORT else match[1] or match[2]
            found = resolve(name.strip()) if depth < MAX_DEPTH else None
            return f"\n{load(found, depth + 1)}\n" if found is not None else ""

        return _INPUT.sub(included, _IMPORT.sub(included, plain))

    return load(source.text, 0)


def _set_aside(text: str, source: Source) -> str:
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
            body = text[match.end() : end]
            options = re.match(r"(?:\[[^\]\n]*\]|\{[^}\n]*\})*[ \t]*\n?", body)
            head = options[0] if options else ""
            body = body[len(head) :].rstrip()
            source.code.append(_uncoloured(body) if name == "Highlighting" else body)
            source.languages.append(_language(name, head))
            out.append(f"\n\n{CODE_MARK}{len(source.code) - 1}{CODE_MARK}\n\n")
        position = end + len(f"\\end{{{name}}}")
    return "".join(out) + text[position:]


def _uncoloured(code: str) -> str:
    """The code of a listing that pandoc wrote with a command around every token."""
    code = re.sub(r"\\[A-Z][A-Za-z]*Tok\{((?:[^{}\\]|\\[A-Za-z]+\{\}|\\.)*)\}", r"\1", code)
    names = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textquotesingle": "'",
             "textasciigrave": "`"}  # fmt: skip
    return re.sub(r"\\(?:([A-Za-z]+)\{\}|([{}_#$%&]))", lambda m: names.get(m[1] or "", m[2] or m[0]), code)


def _language(environment: str, head: str) -> str:
    """The language that a listing's options name, as a fence writes it."""
    found = re.search(
        r"\{([\w+#-]+)\}" if environment == "minted" else r"language\s*=\s*\{?(?:\[[^\]]*\])?([\w+#-]+)", head
    )
    return found[1].lower() if found else ""


def _is_commented(text: str, position: int) -> bool:
    return "%" in text[text.rfind("\n", 0, position) + 1 : position].replace("\\%", "")


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
                if not member.isfile() or not member.name.lower().endswith((".tex", ".ltx", ".latex", ".sty")):
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
    """UTF-8; the encoding that the source declares; one of Chinese, Japanese or Korean where the bytes are that; else
    Latin-1, as TeX files of before had it."""
    from athanor.data.extract.html_decode import decode

    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    declared = _DECLARED.search(raw, 0, _HEAD_BYTES)
    label = (declared[1] or declared[2]).decode().lower() if declared else ""
    text, encoding = decode(raw, _INPUTENC.get(label, label) or None)
    # Statistics of single bytes mistake short texts of western languages for those of eastern Europe.
    return text if label or encoding.startswith(_WIDE_ENCODINGS) else raw.decode("latin-1")


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

r"""LaTeX sources → Markdown: sections as headings, formulas kept as LaTeX, tables, lists, code, footnotes.

A reader of the language as papers use it, not a TeX engine: macros that are plain abbreviations are written out,
unknown commands give their braced text, drawings and bibliographies are left out. Citations become numbers in the
order of their first use, references the numbers that LaTeX's counters would give in the common case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from athanor.data.extract import latex_commands as commands
from athanor.data.extract import latex_units
from athanor.data.extract.latex_algorithms import algorithm2e_lines, algorithmic_lines, is_algorithm2e
from athanor.data.extract.latex_labels import Label, numbered_labels, theorems
from athanor.data.extract.latex_scan import argument, optional
from athanor.data.extract.latex_source import (
    CODE_MARK,
    Resolve,
    Source,
    archive_files,
    decode_source,
    main_file,
    prepare,
    resolver,
)
from athanor.data.extract.latex_tables import once_headed, table_rows
from athanor.data.extract.scripts import join_inline, raised
from athanor.data.extract.tables import render_table
from athanor.data.extract.types import Extracted, Unreadable

#: Deeper nesting of lists, tables and notes than this is read as plain text.
_MAX_NESTING = 12
_BLOCK = "\ue0c1"
_BLOCKS = re.compile(f"{_BLOCK}(\\d+){_BLOCK}")
#: A line break between characters that are written without spaces is none.
_CJK = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_CJK_BREAK = re.compile(f"(?<=[{_CJK}])[ \t]*\n[ \t]*(?=[{_CJK}])")
#: For which steps of a slide (beamer) something is shown: ``\item<2->``.
_OVERLAY = re.compile(
    r"(\\[A-Za-z]+|\\begin\s*\{[A-Za-z*]+\})\s*"
    r"(?:<(?=[^<>]*[-+:\d]|presentation|handout|article)(?:\\value\{\w+\}|[\w:+\-,.|]){1,40}>|\[<[\d+\-,.| ]*>\])"
)
_CAPTION = re.compile(
    r"\\caption\*?\s*(?:\[[^\]]*\])?\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}(?:\s*\\tabularnewline|\s*\\\\)?"
)
_LENGTH = re.compile(
    r"\s*=?\s*(?:(?:to|spread)\s*)?(?:-?[\d.]+\s*|\\[A-Za-z]+)(?:(?:pt|em|ex|cm|mm|in|sp|bp|pc|mu|fil+)(?![A-Za-z]))?"
    r"(?:\s*(?:plus|minus)\s*-?[\d.]+\s*(?:pt|em|ex|cm|mm|in|sp|bp|pc|mu|fil+))*"
)
#: ``=-1`` after a register such as ``\\looseness``, or nothing.
_ASSIGNED = re.compile(r"(?:\s*=\s*-?[\d.]+(?:pt|em|ex|cm|mm|in|sp|fil)?)?")
_TOKEN = re.compile(
    rf"\\begin\s*\{{([^{{}}\n]{{1,40}})\}}|\\end\s*\{{([^{{}}\n]{{1,40}})\}}|\\([A-Za-z@]+)(\*?)|\\(.)"
    rf"|(\$\$?)|``|''|---?|[{{}}~]|{CODE_MARK}\d+{CODE_MARK}",
    re.S,
)


def extract_latex(raw: bytes, resolve: Resolve = lambda name: None) -> Extracted:
    """One LaTeX document; ``resolve`` finds what it inputs. ``Unreadable`` where nothing is left."""
    return _extract(decode_source(raw), resolve)


def extract_latex_archive(raw: bytes) -> Extracted:
    """The paper in a tar of LaTeX sources, as arXiv gives them."""
    files = archive_files(raw)
    main = main_file(files)
    found = _extract(files[main], resolver(files, main))
    return Extracted(found.text, found.meta | {"main_file": main})


def _extract(text: str, resolve: Resolve) -> Extracted:
    source = prepare(text.replace(_BLOCK, ""), resolve)
    reader = _Reader(source)
    markdown = reader.document()
    if not markdown.strip():
        raise Unreadable("empty: no text in the LaTeX source")
    meta: dict[str, Any] = {"format": "latex", "tables": reader.n_tables, "formulas": reader.n_formulas}
    if reader.title:
        meta["title"] = reader.title
    return Extracted(markdown, meta)


class _Reader:
    def __init__(self, source: Source) -> None:
        begin = source.text.find("\\begin{document}")
        end = source.text.rfind("\\end{document}")
        self.preamble = source.text[: max(begin, 0)]
        self.body = source.text[begin + len("\\begin{document}") if begin >= 0 else 0 : end if end > begin else None]
        self.code, self.languages = source.code, source.languages
        self.blocks: list[str] = []
        self.notes: list[str] = []
        self.cited: dict[str, int] = {}
        if "{beamer}" in self.preamble:
            self.body = _OVERLAY.sub(r"\1", self.body)
        self.theorems = theorems(source.text)
        self.labels = numbered_labels(self.body, self.theorems)
        self.missing: set[str] = set()
        self.n_tables = self.n_formulas = 0
        self.title = ""
        self.sections = 2

    def document(self) -> str:
        """The whole document: title, authors, body, footnotes."""
        self.sections = 2 if re.search(r"\\chapter(?![A-Za-z])", self.body) else 1
        head = []
        for command, heading in (("title", "# "), ("author", "")):
            found = next(iter(commands.find_arguments(self.preamble + self.body[:20_000], command)), "")
            value = self._flat(re.sub(r"^\s*\[[^\]]*\]", "", found), 0)
            value = re.sub(r"\s+,", ",", value)
            if value and command == "title":
                self.title = re.sub(r"\s*\[\^\d+\]", "", value)
            if value:
                head.append(heading + value)
        body = self._paragraphs(self._convert(self.body, 0))
        notes = [f"[^{i}]: {note}" for i, note in enumerate(self.notes, 1)]
        return "\n\n".join([*head, *filter(None, [body]), *notes]) + "\n"

    def _block(self, markdown: str) -> str:
        """Set finished Markdown aside, so that joining lines of paragraphs leaves it alone."""
        self.blocks.append(markdown)
        return f"\n\n{_BLOCK}{len(self.blocks) - 1}{_BLOCK}\n\n"

    def _paragraphs(self, text: str) -> str:
        """Join the lines of each paragraph and put the blocks back."""
        parts = (" ".join(_CJK_BREAK.sub("", part).split()) for part in re.split(r"\n\s*\n", text))
        out = []
        for part in filter(None, parts):
            out.append(_BLOCKS.sub(lambda m: self.blocks[int(m[1])], part))
        return "\n\n".join(out)

    def _flat(self, text: str, depth: int) -> str:
        """A title, a cell or a caption: on one line, its blocks in the text."""
        plain = self._paragraphs(self._convert(text, depth + 1))
        return " ".join(plain.replace("$$", "$").split())

    def _convert(self, text: str, depth: int) -> str:
        out: list[str] = []
        position = 0
        while match := _TOKEN.search(text, position):
            out.append(text[position : match.start()])
            piece, position = self._token(text, match, depth)
            out.append(piece)
        out.append(text[position:])
        return join_inline(filter(None, out))

    def _token(self, text: str, match: re.Match[str], depth: int) -> tuple[str, int]:
        end = match.end()
        if match[1] is not None:
            return self._begin(text, match[1].strip(), end, depth)
        if match[3] is not None:
            return self._command(text, match[3], end, depth)
        if match[5] is not None:
            return self._symbol(text, match[5], end)
        if match[6] is not None:
            return self._math(text, match[6], match[6], end)
        if match[0].startswith(CODE_MARK):
            number = int(match[0].strip(CODE_MARK))
            return self._block(f"```{self.languages[number]}\n{self.code[number]}\n```"), end
        if match[2] is not None:
            return "\n\n", end
        return commands.LIGATURES.get(match[0], ""), end

    def _symbol(self, text: str, char: str, position: int) -> tuple[str, int]:
        r"""``\x`` with a character that is no letter: escapes, accents, math marks, line breaks."""
        if char in "([":
            return self._math(text, "\\" + char, "\\" + ")]"["([".index(char)], position)
        if char == "\\":
            skipped = optional(text, position)
            return "\n", skipped[1] if skipped else position
        if char in commands.ACCENTS:
            return _accented(text, commands.ACCENTS[char], position)
        return commands.ESCAPES.get(char, char if char in "{}#$%&_" else " " if char.isspace() else ""), position

    def _math(self, text: str, opening: str, closing: str, position: int) -> tuple[str, int]:
        end = -1 if closing in self.missing else commands.find_unescaped(text, closing, position)
        if end < 0:
            self.missing.add(closing)
            return opening if opening == "$" else "", position
        latex = commands.clean_math(text[position:end])
        if not latex:
            return "", end + len(closing)
        self.n_formulas += 1
        inline = opening in ("$", "\\(")
        return f"${latex}$" if inline else self._block(f"$${latex}$$"), end + len(closing)

    def _begin(self, text: str, name: str, position: int, depth: int) -> tuple[str, int]:
        plain = name.rstrip("*")
        lines = plain in ("algorithm", "algorithm2e", "algorithmic", "tabbing")
        handled = lines or plain in commands.MATH or plain in commands.TABLES or plain in commands.LISTS
        if not handled and plain not in commands.DROPPED:
            return self._opened(text, name, position, depth)
        end = commands.find_end(text, name, position, self.missing)
        if end is None or depth > _MAX_NESTING:
            return "\n\n", position
        body, after = text[position : end[0]], end[1]
        if plain in commands.MATH:
            latex = commands.clean_math(body)
            self.n_formulas += bool(latex)
            wrapper = commands.MATH[plain]
            latex = f"\\begin{{{wrapper}}}{latex}\\end{{{wrapper}}}" if wrapper else latex
            return (f"${latex}$" if plain == "math" else self._block(f"$${latex}$$")) if latex else "", after
        if plain in commands.TABLES:
            return self._table(text, name, position, body, depth), after
        if plain in commands.LISTS:
            return self._list(body, plain, depth), after
        if lines:
            return self._as_lines(text, plain, position, body, depth, after)
        return "\n\n", after

    def _opened(self, text: str, name: str, position: int, depth: int) -> tuple[str, int]:
        """What stands for the beginning of an environment whose body is text like any other."""
        plain = name.rstrip("*")
        if plain in commands.HEADED:
            return self._block(f"{'#' * 2} {commands.HEADED[plain]}"), position
        theorem = self.theorems.get(plain)
        if theorem is not None:
            found = optional(text, position)
            title = self._flat(theorem.title, depth)
            note = self._flat(found[0], depth) if found else ""
            if plain == "proof":
                return f"\n\n{note or title}. ", found[1] if found else position
            return f"\n\n{title}{f' ({note})' if note else ''}. ", found[1] if found else position
        after = commands.skip_arguments(text, position, name)
        if plain in commands.TITLED:
            titled = argument(text, after) if re.match(r"[ \t]*\{", text[after : after + 20]) else None
            if titled:
                title = self._flat(titled[0], depth)
                return self._block(commands.TITLED[plain] + title) if title else "\n\n", titled[1]
        return "\n\n", after

    def _as_lines(self, text: str, name: str, position: int, body: str, depth: int, after: int) -> tuple[str, int]:
        """Pseudocode and ``tabbing``: every line by itself."""

        def flat(source: str) -> str:
            return self._flat(source, depth)

        if name == "tabbing":
            rows = re.split(r"\\\\(?:\[[^\]]*\])?|(\\kill)(?![A-Za-z])", body)
            rows = [row for row, killed in zip(rows[::2], [*rows[1::2], None], strict=True) if not killed]
            found = [flat(re.sub(r"\\[=>+\-<]", " ", row)) for row in rows]
        elif name == "algorithmic":
            found = list(algorithmic_lines(body, flat))
        elif is_algorithm2e(body):
            captions = [flat(caption) for caption in commands.find_arguments(body, "caption")]
            rest = _CAPTION.sub("", body[commands.skip_arguments(body, 0, name) :])
            return "\n\n".join(["", *captions, ""]) + self._lines(algorithm2e_lines(rest, flat)), after
        else:  # a float around an algorithmic environment
            return "\n\n", commands.skip_arguments(text, position, name)
        return self._lines(found), after

    def _lines(self, lines: Iterable[str]) -> str:
        found = [line for line in lines if line.strip()]
        return self._block("\n".join(found)) if found else "\n\n"

    def _table(self, text: str, name: str, position: int, body: str, depth: int) -> str:
        body = body[max(0, commands.skip_arguments(text, position, name) - position) :]
        if "\\startdata" in body:  # the tables of AASTeX
            caption = " ".join(commands.find_arguments(body, "tablecaption"))
            head = " ".join(commands.find_arguments(body, "tablehead"))
            data = body.partition("\\startdata")[2].partition("\\enddata")[0]
            table = f"{head} \\\\ {data}" if head else data
            return f"\n\n{self._flat(caption, depth)}\n\n" + self._rendered(table, depth)
        body = once_headed(body)
        captions = [] if depth else [self._flat(caption, depth) for caption in commands.find_arguments(body, "caption")]
        if captions:
            body = _CAPTION.sub("", body)
        return "\n\n".join(["", *captions, ""]) + self._rendered(body, depth)

    def _rendered(self, body: str, depth: int) -> str:
        rows = table_rows(body, lambda cell: self._flat(cell, depth + 1))
        if not any(cell.text for row in rows for cell in row):
            return ""
        if depth or max(map(len, rows)) < 2:  # a table in a cell, or one column for its line breaks
            return " ".join(cell.text for row in rows for cell in row)
        self.n_tables += 1
        return self._block(render_table(rows))

    def _list(self, body: str, kind: str, depth: int) -> str:
        lines = []
        for number, (label, item) in enumerate(commands.split_items(body), 1):
            text = self._paragraphs(self._convert(item, depth + 1))
            if not text:
                continue
            head = self._flat(label, depth) if label else ""
            if kind == "description" and head:
                mark = f"- {head}:" if not head.endswith((":", ".")) else f"- {head}"
            else:
                mark = head or ("-" if kind == "itemize" else f"{number}.")
                mark = mark if not head or mark in "-•" else f"- {head}"
            lines.append(f"{mark} " + re.sub(r"\n(?=[^\n])", "\n    ", text))
        return self._block("\n".join(lines)) if lines else ""

    def _command(self, text: str, name: str, position: int, depth: int) -> tuple[str, int]:
        if name in commands.SECTIONS:
            return self._section(text, name, position, depth)
        if name in ("footnote", "thanks", "footnotetext", "tablefootnote") and depth <= _MAX_NESTING:
            found = argument(text, _after_option(text, position))
            if found:
                note = self._flat(found[0], depth)
                self.notes += [note] if note else []
                return f"[^{len(self.notes)}]" if note else "", found[1]
        if name in commands.CITATIONS:
            return self._cite(text, position)
        if name in commands.REFERENCES:
            found = argument(text, position + (text[position : position + 1] == "*"))
            if found:
                return self._reference(name, found[0]), found[1]
        if name in latex_units.NAMES:
            quantity = latex_units.quantity(name, text, position, lambda source: self._flat(source, depth))
            if quantity is not None:
                return quantity
        if name in ("frametitle", "framesubtitle"):
            found = argument(text, _after_option(text, position))
            if found:
                mark = "### " if name == "frametitle" else ""
                return self._block(mark + title) if (title := self._flat(found[0], depth)) else "", found[1]
        if name in ("verb", "lstinline", "mintinline") and position < len(text):
            return _verb(text, position)
        if name in ("caption", "captionof", "tablecaption"):
            kind = argument(text, position) if name == "captionof" else None
            return "\n\n", _after_option(text, kind[1] if kind else position)
        if name in commands.ACCENTS:
            return _accented(text, commands.ACCENTS[name], position)
        if name in ("textsuperscript", "textsubscript") and (found := argument(text, position)):
            return raised(self._flat(found[0], depth), name.removeprefix("text")), found[1]
        if name in commands.SIGNATURES:
            return commands.apply_signature(commands.SIGNATURES[name], text, position)
        if name in commands.LENGTHS:
            length = _LENGTH.match(text, position)
            return "", length.end() if length else position
        symbol = commands.SYMBOLS.get(name)
        if symbol is None:
            symbol = _library_symbol(name)
        if symbol is None:
            assigned = _ASSIGNED.match(text, _after_option(text, position))
            end = assigned.end() if assigned else position
            # TeX takes the space behind a command's name away; one that prints something unknown may need it.
            return "", _after_spaces(text, end)
        if text[position : position + 2] == "{}":
            position += 2
        elif name in commands.LETTERS or name.startswith("text") or (not symbol and name != "xspace"):
            position = _after_spaces(text, position)
        return symbol, position

    def _reference(self, name: str, keys: str) -> str:
        """What a reference prints: the numbers, with the name of what they number where the command says so."""
        found = [self.labels.get(key.strip()) or Label("", "?") for key in keys.split(",")]
        shown = ", ".join(f"({label.number})" if label.kind == "equation" and name not in _BARE else label.number
                          for label in found)  # fmt: skip
        if name in ("cref", "Cref", "autoref", "vref") and found[0].kind:
            kind = found[0].kind
            plural = "s" if len(found) > 1 and kind.isascii() else ""
            return f"{kind[:1].lower() + kind[1:] if name == 'cref' else kind[:1].upper() + kind[1:]}{plural} {shown}"
        return shown if name != "eqref" or shown.startswith("(") else f"({shown})"

    def _section(self, text: str, name: str, position: int, depth: int) -> tuple[str, int]:
        found = argument(text, _after_option(text, position))
        if found is None:
            return "", position
        title = self._flat(found[0], depth)
        level = min(commands.SECTIONS[name] + self.sections, 6)
        return (self._block(f"{'#' * max(level, 2)} {title}") if title else ""), found[1]

    def _cite(self, text: str, position: int) -> tuple[str, int]:
        for _ in range(2):
            position = _after_option(text, position)
        found = argument(text, position)
        if found is None:
            return "", position
        keys = [key.strip() for key in found[0].split(",") if key.strip()]
        numbers = [self.cited.setdefault(key, len(self.cited) + 1) for key in keys]
        return f"[{', '.join(map(str, numbers))}]" if numbers else "", found[1]


#: References that print a number as it is, without the parentheses of an equation's.
_BARE = frozenset(["ref", "pageref", "nameref", "subref", "labelcref"])


def _after_spaces(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t") and position < len(text):
        position += 1
    return position


def _after_option(text: str, position: int) -> int:
    found = optional(text, position)
    return found[1] if found else position


def _accented(text: str, mark: str, position: int) -> tuple[str, int]:
    """An accent and the letter it stands on, as one character."""
    match = re.compile(r"\s*(?:\{\s*(\\?[A-Za-z])?\s*\}|(\\?[A-Za-z]))").match(text, position)
    if match is None:
        return "", position
    letter = (match[1] or match[2] or "").removeprefix("\\")
    return unicodedata.normalize("NFC", letter + mark) if letter else "", match.end()


def _verb(text: str, position: int) -> tuple[str, int]:
    position = _after_option(text, position)
    mark = text[position : position + 1]
    end = text.find("}" if mark == "{" else mark, position + 1, position + 2000) if mark else -1
    return (f"`{text[position + 1 : end]}`", end + 1) if end > 0 else ("", position)


@cache
def _library_symbol(name: str) -> str | None:
    """Text that pylatexenc knows for a command without arguments."""
    spec = _library().get_macro_spec(name)
    found = getattr(spec, "simplify_repl", None)
    return found if isinstance(found, str) and "%" not in found and len(found) < 10 else None


@cache
def _library() -> Any:
    from pylatexenc.latex2text import get_default_latex_context_db

    return get_default_latex_context_db()


def folder_resolver(read: Callable[[str], bytes | None], files: Mapping[str, str] | None = None) -> Resolve:
    """Finds inputs beside a file on disk: ``read`` gives the bytes of a name relative to it, or None."""
    del files

    def resolve(name: str) -> str | None:
        if name.startswith(("/", "~")) or ".." in name.split("/"):
            return None
        for candidate in (name, f"{name}.tex"):
            raw = read(candidate)
            if raw is not None:
                return decode_source(raw)
        return None

    return resolve

"""Source code: what is code, and which files of it are generated, minified, data or under another licence.

Rules: The Stack (arXiv 2211.15533) and StarCoder (arXiv 2305.06161, section 3.1) for long lines and the share of
letters and digits; StarCoder 2 (arXiv 2402.19173, section 3.1) for the number of lines, letters, encoded data and
markers of generated files.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from athanor.data.steps.base import Columns, Docs, Step, Verdict
from athanor.data.steps.licences import licence_of, permits
from athanor.data.steps.prose import unfenced, unfenced_text
from athanor.data.steps.rules import Mask, Rules, on_subset, outside, paths, share, suffix
from athanor.data.steps.words import char_counts, line_counts, word_counts
from athanor.recipe.steps.clean import CodeOptions

_SUFFIXES = """
py pyi pyx c h cc cpp cxx hpp hh cu cuh java kt kts scala groovy go rs cs fs vb swift m mm js mjs cjs jsx ts tsx vue rb
php pl pm lua r jl hs ml mli el lisp clj cljs erl ex exs sh bash zsh fish ps1 bat sql cmake vim f f90 f95 for asm s v sv
vhd vhdl proto thrift graphql css scss less html htm xml json yaml yml toml ini cfg gradle tf nim zig dart d pas sol tcl
"""
#: File suffixes that make a document code, whatever its domain.
CODE_SUFFIXES = frozenset(_SUFFIXES.split())
#: A line of code: it ends as statements and blocks do, begins with a keyword, assigns or calls. A backslash in it means
#: LaTeX. The same syntax for Python's re and for RE2.
_CODE_LINE = (
    r"(?m)^[ \t]{0,120}(?:"  # bounded: a line of blanks must not be tried from each of them
    r"[^\\\n]*[;{}][ \t]*"
    r"|(?:import [\w.]+|from [\w.]+ import |(?:async )?def \w+\(|class \w+[(:]|#include\b|#define\b|@\w+|return\b"
    r"|raise\b|pub |fn \w|func \w|package \w|using \w|namespace \w|elif |else:|try:|except\b|finally:)[^\n]*"
    r"|(?:if|for|while|with|elif) [^\n]*:[ \t]*"
    r"|(?:(?:let|const|var|auto|int|float|double|bool|char|void|String|static|public|private) )*"
    r"[A-Za-z_][\w.]*(?:\[[^\]\n]*\])?(?:: ?\w+)? ?(?:[-+*/|&]?=|:=) ?[^=\n][^\n]*"
    r"|[\w.]+\([^\n]*\),?[ \t]*"
    r")$"
)
_CODE_LINE_RE = re.compile(_CODE_LINE)
#: Share of lines from which a text counts as code; prose and Markdown stay below a tenth.
_CODE_SHARE = 0.35
_MIN_CODE_LINES = 3

_GENERATED = re.compile(
    r"auto-?generated|automatically generated|generated automatically|@generated\b|do not (?:hand-?)?(?:edit|modify)\b"
    r"|(?:this|the following) (?:file|code|source|module|class) (?:is|was|has been) (?:\w+[- ])?generated"
    r"|^[\W_]*(?:code |file )?generated (?:by|from|with|using)\b|自动生成|请勿(?:编辑|修改)",
    re.IGNORECASE | re.MULTILINE,
)
_HEAD_LINES, _HEAD_CHARS = 10, 2000
_VENDORED = re.compile(
    r"(?:^|/)(?:node_modules|bower_components|vendor|vendored|third[-_]?party|external|site-packages|dist)/",
    re.IGNORECASE,
)
_GENERATED_NAME = re.compile(
    r"\.min\.(?:js|css)$|_pb2(?:_grpc)?\.pyi?$|\.pb\.(?:go|cc|h)$|\.g\.dart$|\.designer\.cs$|\.(?:js|css)\.map$"
    r"|(?:^|/)(?:package-lock\.json|yarn\.lock|pnpm-lock\.yaml|poetry\.lock|cargo\.lock|go\.sum)$",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}(?:\r?\n[ \t]*[A-Za-z0-9+/]{20,})*={0,2}")
_HEX = re.compile(r"(?:(?:0x|\\x|\\u)[0-9a-fA-F]{1,4}[,\s]*){8,}")
#: Different characters of a run that make it encoded data; rulers of slashes have one.
_MIN_ALPHABET = 12


def is_code(docs: Docs, domains: Collection[str]) -> Mask:
    """Which documents are code by their domain or by the suffix of the file's name in ``meta``."""
    return ~outside(docs, domains) | np.array([suffix(path) in CODE_SUFFIXES for path in paths(docs)], dtype=bool)


def looks_like_code(text: str) -> bool:
    """Whether enough lines of a text read as code; fenced code in Markdown does not make the text code."""
    text = unfenced_text(text)
    found = sum(1 for _ in _CODE_LINE_RE.finditer(text))
    return found >= _MIN_CODE_LINES and found >= _CODE_SHARE * sum(1 for line in text.split("\n") if line.strip())


def look_like_code(docs: Docs) -> Mask:
    """``looks_like_code`` of a batch."""
    found = _code_lines(docs)
    fenced = pc.match_substring(docs.table.column("text"), "```").to_numpy(zero_copy_only=False)
    again = found & fenced
    if again.any():
        found[again] = _code_lines(unfenced(docs.take(again)))
    return found


def _code_lines(docs: Docs) -> Mask:
    found = pc.count_substring_regex(docs.table.column("text"), _CODE_LINE).to_numpy(zero_copy_only=False)
    enough = (found >= _MIN_CODE_LINES) & (found >= _CODE_SHARE * line_counts(docs)["filled_lines"])
    return np.asarray(enough, dtype=bool)


class Code(Step):
    """Drops generated, minified, vendored and data files, and what is not under the licences wanted."""

    name: ClassVar[str] = "code"
    exports: ClassVar[tuple[str, ...]] = ("licence",)
    fields: ClassVar[dict[str, pa.DataType]] = {
        "lines": pa.int64(),
        "longest_line": pa.int64(),
        "mean_line": pa.float64(),  # characters
        "alphanumeric": pa.float64(),
        "letters": pa.float64(),
        "space": pa.float64(),
        "encoded_run": pa.int64(),  # characters
        "encoded": pa.float64(),
        "generated": pa.string(),  # the marker found
        "vendored": pa.string(),  # the part of the path
        "suffix": pa.string(),
        "licence": pa.string(),
    }

    options: CodeOptions

    def compute_key(self) -> Any:
        """Which documents are measured."""
        return [3, list(self.options.domains)]

    def annotate(self, docs: Docs) -> Columns:
        """Figures of code, null for other documents."""
        return on_subset(docs, is_code(docs, self.options.domains), _measure, self.fields)

    def apply(self, docs: Docs, columns: Columns) -> Verdict:
        """The rules, each with its own reason."""
        options, rules = self.options, Rules(columns)
        told = {name: pa.array(columns[name]).to_pylist() for name in ("generated", "vendored", "suffix", "licence")}
        if options.generated:
            marked = np.array([bool(value) for value in told["generated"]], dtype=bool)
            rules.flagged(marked, lambda i: f"generated code: {told['generated'][i]}")
        if options.vendored:
            vendored = np.array([bool(value) for value in told["vendored"]], dtype=bool)
            rules.flagged(vendored, lambda i: f"vendored code: {told['vendored'][i]}")
        rules.below("lines", options.min_lines, "too few lines of code")
        rules.above("lines", options.max_lines, "too many lines of code")
        prose = np.array([value in options.long_line_suffixes for value in told["suffix"]], dtype=bool)
        for name, limit, what in (
            ("longest_line", options.max_line_chars, "code with a long line"),
            ("mean_line", options.max_mean_line_chars, "code with long lines"),
        ):
            if limit is not None:
                values = rules.figures(name)
                rules.flagged((values > limit) & ~prose, _figure(what, values, "characters"))
        rules.above("encoded_run", options.max_encoded_run, "encoded data in code", "characters in a run")
        rules.above("encoded", options.max_encoded, "code mostly encoded data", "of characters")
        rules.below("alphanumeric", options.min_alphanumeric, "code with few letters and digits", "of characters")
        rules.below("letters", options.min_letters, "code with few letters", "of characters")
        rules.below("space", options.min_space, "code without spaces", "of characters")
        if options.licences is not None:
            wanted, measured = options.licences, ~np.isnan(rules.figures("lines"))
            held = {None: options.keep_unlicensed} | {
                name: permits(name, wanted) for name in {*told["licence"]} - {None}
            }
            refused = [not held[value] for value in told["licence"]]
            unwanted = measured & np.array(refused, dtype=bool)
            rules.flagged(unwanted, lambda i: f"licence not wanted: {told['licence'][i]}")
        return Verdict(rules.reasons(len(docs)))


def _figure(what: str, values: Any, unit: str) -> Any:
    return lambda i: f"{what}: {values[i]:.4g} {unit}"


def _measure(docs: Docs) -> Columns:
    chars, lines, words = char_counts(docs), line_counts(docs), word_counts(docs, ())
    found = [_encoded(text, int(longest)) for text, longest in zip(docs.texts, words["longest_word"], strict=True)]
    names = paths(docs)
    vendored = [_VENDORED.search(name) for name in names]
    return {
        "lines": lines["lines"],
        "longest_line": lines["longest_line"],
        "mean_line": share(chars["chars"] - words["newlines"], lines["lines"]),
        "alphanumeric": share(chars["letter"] + chars["digit"], chars["chars"]),
        "letters": share(chars["letter"], chars["chars"]),
        "space": share(chars["space"], chars["chars"]),
        "encoded_run": np.array([run for run, _ in found], dtype=np.int64),
        "encoded": share(np.array([total for _, total in found], dtype=np.int64), chars["chars"]),
        "generated": [_generated(text, name) for text, name in zip(docs.texts, names, strict=True)],
        "vendored": [match[0].strip("/") if match else None for match in vendored],
        "suffix": list(map(suffix, names)),
        "licence": [licence_of(text, meta) for text, meta in zip(docs.texts, docs.column("meta"), strict=True)],
    }


def _encoded(text: str, longest_word: int) -> tuple[int, int]:
    """(longest run, all runs) of encoded data, in characters."""
    runs: list[int] = []
    if longest_word >= 64:  # no run of base64 is shorter
        runs += [len(m[0]) for m in _BASE64.finditer(text) if len(set(m[0])) >= _MIN_ALPHABET]
    if "0x" in text or "\\x" in text or "\\u" in text:
        runs += [len(m[0]) for m in _HEX.finditer(text)]
    return max(runs, default=0), sum(runs)


def _generated(text: str, name: str) -> str | None:
    """What marks a file as generated: words among its first lines, or its name."""
    if match := _GENERATED_NAME.search(name):
        return match[0].strip("/")
    head = "\n".join(text[:_HEAD_CHARS].split("\n", _HEAD_LINES)[:_HEAD_LINES])
    match = _GENERATED.search(head)
    return match[0].strip().lower() if match else None

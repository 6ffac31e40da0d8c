"""How much of a reference's tables, formulas and text an extraction holds.

- Tables: every cell of every table with its spans written out (a cell over three columns counts three times), as
  (text, text to its right) pairs where ``adjacent``, else alone; F1 of the two multisets. Cells are compared as
  words without spaces, markup and case. Tables of one cell or one column are left out on both sides: a reference calls
  every title of a sheet a table.
- Formulas: a reference formula is found when a formula of the extraction, each used once, has a token F1 of at least
  ``FOUND`` with it, both without spacing, sizing and font commands, braces and alignment marks.
- Text: F1 of the multisets of words (Chinese, Japanese and Korean by character), formulas and markup taken out.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable

#: Token F1 from which a formula counts as found.
FOUND = 0.9
_PIPE_ROW = re.compile(r"^\s*\|(.*)\|\s*$")
_RULE = re.compile(r"^[\s|:-]*-[\s|:-]*$")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]{1,2000}?)(?<![\s\\])\$(?!\d)", re.S)
_COMMANDS = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|mathrm|mathit|mathbf|mathbb|mathcal|boldsymbol|bm|text|textrm|textbf|mbox|rm|bf|"
    r"it|operatorname\*?|displaystyle|textstyle|limits|nolimits|quad|qquad|nonumber|notag|label\{[^}]*\}|tag\{[^}]*\}|"
    r"begin\{[^}]*\}|end\{[^}]*\}|hspace\{[^}]*\}|mathop|mathsf|mathds|tt|texttt|[lr]vert|middle)(?![A-Za-z])|"
    r"\\[,;:!> ]|\\\\"
)
_SAME = {
    r"\le": r"\leq", r"\ge": r"\geq", r"\to": r"\rightarrow", r"\ne": r"\neq", r"\dots": r"\ldots",
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\textellipsis": r"\ldots", r"\varepsilon": r"\epsilon",
    r"\varphi": r"\phi", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|", r"\ast": "*", r"\prime": "'",
    r"\land": r"\wedge", r"\lor": r"\vee", "−": "-", r"\cdotp": r"\cdot", r"\binom": r"\genfrac", r"\textendash": "-",
}  # fmt: skip
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")


def f1(ours: Counter[str], reference: Counter[str]) -> float:
    """Of two multisets; 1 where both are empty."""
    if not ours and not reference:
        return 1.0
    common = sum((ours & reference).values())
    return 2 * common / (sum(ours.values()) + sum(reference.values()))


def tables(markdown: str) -> list[list[list[str]]]:
    """Pipe and HTML tables as grids of normalised cells, spans written out; those of one column left out."""
    grids = [_html_grid(body) for body in re.findall(r"<table.*?</table>", markdown, re.S)]
    block: list[list[str]] = []
    for line in [*re.sub(r"<table.*?</table>", "", markdown, flags=re.S).splitlines(), ""]:
        row = _PIPE_ROW.match(line)
        if row:
            if not _RULE.match(line):
                block.append([_cell(cell) for cell in re.split(r"(?<!\\)\|", row[1])])
        elif block:
            grids.append(block)
            block = []
    return [grid for grid in grids if max(map(len, grid), default=0) > 1]


def _html_grid(body: str) -> list[list[str]]:
    grid: dict[tuple[int, int], str] = {}
    for r, row in enumerate(re.findall(r"<tr.*?</tr>", body, re.S)):
        c = 0
        for attributes, text in re.findall(r"<t[dh]([^>]*)>(.*?)</t[dh]>", row, re.S):
            while (r, c) in grid:
                c += 1
            spans = dict(re.findall(r'(colspan|rowspan)="?(\d+)', attributes))
            value = _cell(re.sub(r"<br\s*/?>", " ", text))
            for i in range(int(spans.get("rowspan", 1))):
                for j in range(int(spans.get("colspan", 1))):
                    grid[r + i, c + j] = value
            c += int(spans.get("colspan", 1))
    height = max((r for r, _ in grid), default=-1) + 1
    width = max((c for _, c in grid), default=-1) + 1
    return [[grid.get((r, c), "") for c in range(width)] for r in range(height)]


def _cell(text: str) -> str:
    """Letters, digits and signs of a cell, its formula's LaTeX in normal form."""
    text = html.unescape(html.unescape(text)).replace("\\|", "|")
    text = _FORMULA.sub(lambda m: "".join(latex_tokens(m[1] or m[2])), text)
    text = re.sub(r"<!--.*?-->|</?[a-z][^>]*>|\[\^\d+\]", "", text)
    return re.sub(r"[\s*_`~\\•-]+", "", text.lower().translate(_PLAIN))


_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉⁺⁻⁼⁽⁾₊₋₌₍₎ⁿⁱ−–’“”", '01234567890123456789+-=()+-=()ni--\'""')


def cells(grids: Iterable[list[list[str]]], adjacent: bool) -> Counter[str]:
    """Multiset of the filled cells, or of pairs with the next filled cell to the right."""
    out: Counter[str] = Counter()
    for grid in grids:
        for row in grid:
            filled = [cell for cell in row if cell]
            out.update(f"{a}\t{b}" for a, b in zip(filled, filled[1:], strict=False)) if adjacent else out.update(
                filled
            )
    return out


def formulas(markdown: str) -> list[Counter[str]]:
    """Tokens of each formula."""
    found = (latex_tokens(html.unescape(m[1] or m[2])) for m in _FORMULA.finditer(markdown))
    return [Counter(tokens) for tokens in found if tokens]


def latex_tokens(latex: str) -> list[str]:
    """Tokens that carry meaning: letters, digits, commands, signs, sub- and superscript marks."""
    latex = re.sub(r"[_^]\{\s*\}", "", re.sub(r"\\([_^#%&$])", r"\1", latex))
    latex = _COMMANDS.sub(" ", latex)
    tokens = re.findall(r"\\[A-Za-z]+|\\.|[^\s{}&~]", latex)
    return [token for token in (_SAME.get(t, t) for t in tokens) if token]


def formula_recall(ours: str, reference: str) -> tuple[int, int]:
    """(reference formulas found, reference formulas)."""
    candidates, wanted = formulas(ours), formulas(reference)
    found = 0
    for want in sorted(wanted, key=lambda w: -sum(w.values())):
        scores = [f1(candidate, want) for candidate in candidates]
        best = max(range(len(scores)), key=scores.__getitem__, default=-1)
        if best >= 0 and scores[best] >= FOUND:
            found += 1
            candidates.pop(best)
    return found, len(wanted)


def words(markdown: str) -> Counter[str]:
    """Multiset of the words of the text, formulas and markup taken out."""
    text = html.unescape(html.unescape(_FORMULA.sub(" ", markdown)))
    text = re.sub(r"<!--.*?-->|</?[a-z][^>]*>|!?\[([^\]]*)\]\([^)\s]*\)", r" \1 ", text)
    return Counter(_WORD.findall(text.lower().translate(_PLAIN)))

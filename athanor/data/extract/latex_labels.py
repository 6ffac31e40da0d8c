r"""Theorems as a source declares them, and the numbers and names that ``\ref`` and its kin print."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = (
    "theorem", "lemma", "proposition", "corollary", "definition", "proof", "remark", "example", "claim", "conjecture",
    "assumption",
)  # fmt: skip
_NEW_THEOREM = re.compile(
    r"\\(?:newtheorem|newmdtheoremenv|spnewtheorem)\s*(\*?)\s*\{([^{}]+)\}\s*(?:\[([^\]]*)\])?\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
    r"\s*(?:\[([^\]]*)\])?"
)
_DECLARE_THEOREM = re.compile(r"\\declaretheorem\s*(?:\[([^\]]*)\])?\s*\{([^{}]+)\}")
_SECTIONS = ("section", "subsection", "subsubsection")
_EQUATIONS = ("equation", "align", "eqnarray", "gather", "multline", "flalign", "alignat")
#: Environments of several numbered lines.
_LINED = ("align", "eqnarray", "gather", "flalign", "alignat")


@dataclass(frozen=True, slots=True)
class Theorem:
    """``title`` is printed before the text; ``counter`` counts it, anew in each ``within`` ("" for throughout)."""

    title: str
    counter: str
    within: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """What a label stands on (``section``, ``equation``, ``figure``, a theorem's title, "" unknown) and its number."""

    kind: str
    number: str


def theorems(source: str) -> dict[str, Theorem]:
    """Environment → theorem: those that papers use by custom, and those that the source declares."""
    found = {name: Theorem(name.capitalize(), name) for name in _NAMES}
    for match in _NEW_THEOREM.finditer(source):
        star, name, shared, title, within = match.groups()
        counter = (shared or name).strip()
        parent = found[counter].within if shared and counter in found else (within or "").strip()
        found[name.strip()] = Theorem(title.strip(), "" if star else counter, parent)
    for match in _DECLARE_THEOREM.finditer(source):
        options = dict(re.findall(r"(\w+)\s*=\s*\{?([^,{}]*)\}?", match[1] or ""))
        name = match[2].strip()
        counter = options.get("sibling") or options.get("numberlike") or options.get("sharenumber") or name
        title = options.get("name") or options.get("title") or name.capitalize()
        found[name] = Theorem(title.strip(), counter.strip(), (options.get("numberwithin") or "").strip())
    return found


def numbered_labels(body: str, known: dict[str, Theorem]) -> dict[str, Label]:
    """Labels with their numbers, by counting sections, floats, equations and theorems as LaTeX's article class does.

    Of an environment with several numbered lines (``align``) each label gets the next number.
    """
    return _Counter(known).read(body)


class _Counter:
    def __init__(self, known: dict[str, Theorem]) -> None:
        self.known = known
        self.counts: dict[str, int] = {}
        self.current = Label("", "")
        self.is_lined = self.is_appendix = False

    def read(self, body: str) -> dict[str, Label]:
        names = "|".join(map(re.escape, ("figure", "table", "algorithm", *_EQUATIONS, *self.known)))
        counted = re.compile(
            rf"\\begin\{{({names})(\*?)\}}|\\(section|subsection|subsubsection)(?![A-Za-z])(\*?)"
            r"|\\label\s*\{([^{}]*)\}|\\(appendix)(?![A-Za-z])"
        )
        labels: dict[str, Label] = {}
        for match in counted.finditer(body):
            environment, starred, section, section_star, label, appendix = match.groups()
            if appendix:
                self.is_appendix, self.counts["section"] = True, 0
            elif environment and not starred:
                self._environment(environment)
            elif section and not section_star:
                self._section(section)
            elif label is not None:
                if self.is_lined and self.current in labels.values():
                    self.counts["equation"] += 1
                    self.current = Label("equation", str(self.counts["equation"]))
                labels[label.strip()] = self.current
        return labels

    def _environment(self, name: str) -> None:
        theorem = self.known.get(name)
        if theorem is not None and not theorem.counter:
            return
        counter = theorem.counter if theorem else "equation" if name in _EQUATIONS else name
        self.counts[counter] = self.counts.get(counter, 0) + 1
        prefix = f"{self._section_number(theorem.within)}." if theorem and theorem.within in _SECTIONS else ""
        self.current = Label(theorem.title if theorem else counter, f"{prefix}{self.counts[counter]}")
        self.is_lined = name in _LINED

    def _section(self, name: str) -> None:
        level = _SECTIONS.index(name)
        self.counts[name] = self.counts.get(name, 0) + 1
        self.counts.update(dict.fromkeys(_SECTIONS[level + 1 :], 0))
        for theorem in self.known.values():
            if theorem.within in _SECTIONS[level:]:
                self.counts[theorem.counter] = 0
        self.current, self.is_lined = Label("section", self._section_number(name)), False

    def _section_number(self, name: str) -> str:
        numbers = [str(self.counts.get(upper, 0)) for upper in _SECTIONS[: _SECTIONS.index(name) + 1]]
        if self.is_appendix:
            numbers[0] = chr(ord("A") + (max(self.counts.get("section", 0), 1) - 1) % 26)
        return ".".join(numbers)

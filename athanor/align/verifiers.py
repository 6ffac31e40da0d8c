"""Deterministic verifiers: a model's text and the expected answer in, a reward between 0 and 1 out.

Every verifier first looks for what is announced as the final answer ("Answer: 42", "答案：42", "#### 42",
"\\boxed{42}"); what counts as one is the same for all of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from athanor.errors import AthanorError

#: (text the model wrote, expected answer) → reward in [0, 1].
Verifier = Callable[[str, str], float]

_ANNOUNCED = re.compile(
    r"(?:\banswer|最终答案|正确答案|答案|答)\s*(?:(?:[:=]|是|为|is\b)\s*)+|####\s*|\\boxed\{",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"。|[.!?;](?:\s|$)")
_MINUS = str.maketrans({"−": "-", "–": "-", "﹣": "-"})
#: A number whose digits may be grouped by commas or apostrophes in threes, or by single spaces in threes.
_NUMBER = re.compile(r"[-+]?\s?(?:\d{1,3}(?:[,' ]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?|[-+]?\.\d+")
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z])")


def normalise(text: str) -> str:
    """NFKC (full-width digits, letters and signs become ASCII), every minus sign '-', one space for white space."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_MINUS).split())


def final_answer(text: str) -> str | None:
    """What stands behind the last announcement, to the end of its line, normalised; None when nothing is announced."""
    lines = "\n".join(normalise(line) for line in text.splitlines())
    heads = list(_ANNOUNCED.finditer(lines))
    if not heads:
        return None
    said = lines[heads[-1].end() :].partition("\n")[0]
    return said.partition("}")[0].strip() if heads[-1].group().endswith("{") else said.strip()


def parse_number(text: str) -> Decimal | None:
    """The first number in ``text``, exactly; a fraction a/b is divided. None when there is none."""
    match = _NUMBER.search(normalise(text))
    if match is None:
        return None
    digits = re.sub(r"[,' ]", "", match.group())
    top, _, bottom = digits.partition("/")
    try:
        return Decimal(top) / Decimal(bottom) if bottom else Decimal(top)
    except (InvalidOperation, ZeroDivisionError):
        return None


def arithmetic(text: str, expected: str) -> float:
    """1 when the announced answer is the expected number: 1,234 = １２３４ = 1234.0, with or without a unit behind it.

    The first sentence behind the announcement counts, and of an equation ("Answer: 6 × 7 = 42") its right-hand side.
    A text that announces no answer is wrong, even when the number occurs in it: the format is part of the task.
    """
    want = parse_number(expected)
    if want is None:
        raise AthanorError(f"the expected answer {expected!r} holds no number", where="arithmetic verifier")
    said = final_answer(text)
    if said is None:
        return 0.0
    sentence = _SENTENCE_END.split(said)[0]
    return float(parse_number(sentence.rpartition("=")[2]) == want)


def exact(text: str, expected: str) -> float:
    """1 when the announced answer (the whole text if none is announced) equals the expected one after normalising.

    Letter case and a full stop at the end do not matter.
    """
    said = final_answer(text)
    return float(_bare(text if said is None else said) == _bare(expected))


def choice(text: str, expected: str) -> float:
    """1 when the chosen letter A–J is the expected one: the announced letter, or the only letter in the text."""
    want = _CHOICE.search(normalise(expected).upper())
    if want is None:
        raise AthanorError(f"the expected answer {expected!r} is no letter from A to J", where="choice verifier")
    said = final_answer(text)
    letters = _CHOICE.findall(normalise(text) if said is None else said)
    if said is None and len(set(letters)) != 1:
        return 0.0
    return float(bool(letters) and letters[0] == want.group(1))


def _bare(text: str) -> str:
    return normalise(text).casefold().rstrip(".。").strip()


VERIFIERS: dict[str, Verifier] = {"arithmetic": arithmetic, "exact": exact, "choice": choice}


def verifier(name: str) -> Verifier:
    """The verifier of that name; AthanorError names the known ones."""
    if name not in VERIFIERS:
        raise AthanorError(f"no verifier is called {name!r}", where="rl.verifier", fix=f"one of {', '.join(VERIFIERS)}")
    return VERIFIERS[name]

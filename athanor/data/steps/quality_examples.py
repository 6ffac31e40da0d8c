"""Labelled examples that the quality models are trained from when a person brings none.

Clean text of known kind (explanations, reports, worked problems, code and documents of the installed Python; chatter,
advertisements, page furniture) is damaged by known amounts; what was done gives the labels. Everything follows from a
seed. Judges that want text of their own use ``labels`` (see ``quality_train``); these examples know a few topics only,
which is why the models see classes of words and not words (``quality_text``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

AXES = ("cleanliness", "fluency", "educational", "density")
#: Models are trained for each group of texts on its own.
GROUPS = ("en", "zh", "code")


#: Characters of a real text that the order of words is learnt from.
_LEARNT_CHARS = 10_000


@dataclass(frozen=True)
class Example:
    """A text, its group, and its value on each axis, 0 … 1 (None: this example says nothing of it)."""

    text: str
    group: str
    labels: tuple[float | None, ...]


@cache
def phrases() -> dict[str, Any]:
    """The sentences and topics of ``quality_phrases.yaml``, by language."""
    with open(Path(__file__).with_name("quality_phrases.yaml"), encoding="utf-8") as file:
        loaded: dict[str, Any] = yaml.safe_load(file)
    return loaded


def examples(n: int, seed: int, prose: list[str], code: list[str]) -> Iterator[Example]:
    """``n`` examples of every group in turn. ``prose`` and ``code``: real texts of this machine (may be empty).

    Of each text two examples are made, whole and damaged, so that a model learns the damage and not the topic; how
    lines are broken is drawn anew for each, because it says nothing.
    """
    rng = random.Random(f"quality examples {seed}")
    made = 0
    while made < n:
        group = GROUPS[made // 2 % len(GROUPS)]
        if group == "code" and not code:
            group = "en"
        text, labels = _code_base(rng, code) if group == "code" else _prose_base(rng, group, prose)
        damage = rng.choice(_CODE_DAMAGE if group == "code" else _DAMAGE)
        amount = rng.random()
        worse = damage.apply(rng, text, amount, group)
        lowered = tuple(x * (1 - amount**0.6 * c) for x, c in zip(labels, damage.costs, strict=True))
        for one, values in ((text, labels), (worse, lowered)):
            yield Example(one if group == "code" else _laid_out(rng, _among_code(rng, one, code), group), group, values)
        made += 2


def _among_code(rng: random.Random, text: str, code: list[str]) -> str:
    """Now and then with marked-up names, links, lists and listings, as in technical documentation."""
    if rng.random() > 0.35:
        return text
    lines = text.split("\n")
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(lines))
        name = "".join(rng.choice("abcdefgilmnoprstu_") for _ in range(rng.randint(4, 12)))
        form = rng.randrange(5)
        if form == 0:
            lines[at] = f"{lines[at]} `{name}`"
        elif form == 1:
            lines[at] = f"{lines[at]} [{name}](https://{name}.org/{rng.randint(1, 99)})"
        elif form == 2:
            lines[at] = f"- {lines[at]}"
        elif form == 3:
            lines.insert(at, f"## {name.replace('_', ' ').title()}")
        elif code:
            lines.insert(at, f"```\n{piece(rng, rng.choice(code), 60, 500).rstrip()}\n```")
    return "\n".join(lines)


def _laid_out(rng: random.Random, text: str, group: str) -> str:
    """The same text in lines as they come: as it is, wrapped, in one line, with blank lines or a heading."""
    roll = rng.random()
    if roll < 0.3:
        return text
    if roll < 0.5:
        width = rng.randint(25, 90)
        if group == "zh":
            return "\n".join(
                line[i : i + width] for line in text.split("\n") for i in range(0, max(len(line), 1), width)
            )
        return re.sub(rf"(.{{{width},{width + 15}}}?) ", r"\1\n", text)
    if roll < 0.75:
        return re.sub(r"\s*\n\s*", "" if group == "zh" else " ", text)
    if roll < 0.9:
        return re.sub(r"\n+", "\n\n", text)
    title = rng.choice(phrases()[group]["topics"])[0]
    return f"{'#' * rng.randint(1, 3)} {title}\n\n{text}"


def whole_texts(prose: list[str], code: list[str]) -> dict[str, list[str]]:
    """Undamaged texts of each group: what the order of words is learnt from.

    Only half of the topics and sentences are among them, so that the models see how new ones cost."""
    rng = random.Random("whole texts")
    found: dict[str, list[str]] = {"code": [text[:_LEARNT_CHARS] for text in code[::4]]}
    for language in ("en", "zh"):
        data = phrases()[language]
        lists = [sentence for kind in ("prose", "narrative", "filler", "chatter") for sentence in data[kind][::2]]
        made = [explanation(rng, language, 2) for _ in range(150)] + [problem(rng, language) for _ in range(60)]
        learnt = [text[:_LEARNT_CHARS] for text in prose[::2]] if language == "en" else []
        found[language] = [*lists, *made, *learnt]
    return found


def explanation(rng: random.Random, language: str, every: int = 1) -> str:
    """One paragraph that explains a topic (of every ``every``-th)."""
    data = phrases()[language]
    (t, d, w, x), (u, e, _, _) = rng.sample(data["topics"][::every], 2)
    frame: str = rng.choice(data["frames"])
    return frame.format(T=t[:1].upper() + t[1:] if language == "en" else t, t=t, D=d, W=w, X=x, u=u, U=u, E=e)


def problem(rng: random.Random, language: str) -> str:
    """A worked problem whose numbers are right."""
    a, b, c = rng.randint(2, 60), rng.randint(2, 40), rng.randint(2, 12)
    forms = {
        "en": (
            f"Problem: A shop sells {a} boxes with {b} pens each. How many pens are sold? Solution: We multiply: "
            f"{a} × {b} = {a * b}. The answer is {a * b}.",
            f"Solve ${c}x + {a} = {c * b + a}$. Subtracting {a} from both sides gives ${c}x = {c * b}$, so $x = {b}$.",
            f"Let $f(x) = {c}x^2 + {a}x$. Then $f'(x) = {2 * c}x + {a}$, because the derivative of $x^2$ is $2x$. "
            f"In particular, $f'({b}) = {2 * c * b + a}$.",
        ),
        "zh": (
            f"题目：商店卖出{a}盒钢笔，每盒{b}支，一共卖出多少支？解：{a} × {b} = {a * b}，所以一共卖出{a * b}支。",
            f"解方程 ${c}x + {a} = {c * b + a}$。两边同时减去{a}，得 ${c}x = {c * b}$，因此 $x = {b}$。",
            f"设 $f(x) = {c}x^2 + {a}x$，则 $f'(x) = {2 * c}x + {a}$，这是因为 $x^2$ 的导数是 $2x$。"
            f"特别地，$f'({b}) = {2 * c * b + a}$。",
        ),
    }
    return rng.choice(forms[language])


#: kind → (share of examples, labels in the order of AXES)
_KINDS: dict[str, tuple[float, tuple[float, float, float, float]]] = {
    "explanation": (0.22, (1.0, 1.0, 1.0, 0.9)),
    "problem": (0.08, (1.0, 1.0, 1.0, 0.9)),
    "narrative": (0.14, (1.0, 1.0, 0.45, 0.8)),
    "prose": (0.14, (1.0, 1.0, 0.6, 0.8)),
    "documentation": (0.12, (0.95, 1.0, 0.75, 0.8)),
    "chatter": (0.12, (0.7, 0.8, 0.05, 0.25)),
    "ads": (0.08, (0.3, 0.8, 0.02, 0.2)),
    "boilerplate": (0.06, (0.05, 0.3, 0.02, 0.1)),
    "filler": (0.06, (0.9, 0.95, 0.2, 0.05)),
}


def _prose_base(rng: random.Random, language: str, prose: list[str]) -> tuple[str, tuple[float, ...]]:
    kind = rng.choices(list(_KINDS), [share for share, _ in _KINDS.values()])[0]
    if kind == "documentation" and (language == "zh" or not prose):
        kind = "prose"
    labels = _KINDS[kind][1]
    if kind == "documentation":
        return piece(rng, rng.choice(prose)), labels
    data = phrases()[language]
    n = rng.randint(2, 14)
    if kind in ("explanation", "problem"):
        make = explanation if kind == "explanation" else problem
        parts = list(dict.fromkeys(make(rng, language) for _ in range(n)))
    else:
        parts = rng.sample(data[kind], min(n + 2, len(data[kind])))
    joint = "" if language == "zh" and kind != "boilerplate" else " "
    return _paragraphs(rng, parts, joint, kind), labels


def _paragraphs(rng: random.Random, parts: list[str], joint: str, kind: str) -> str:
    breaks = 0.7 if kind in ("boilerplate", "ads", "chatter") else 0.35
    return "".join(part + (rng.choice(("\n", "\n\n")) if rng.random() < breaks else joint) for part in parts).strip()


def piece(rng: random.Random, text: str, low: int = 300, high: int = 3000) -> str:
    """``low`` to ``high`` characters of a text, from a line's start."""
    n = rng.randint(low, high)
    start = rng.randrange(max(len(text) - n, 1))
    start = text.rfind("\n", 0, start) + 1
    return text[start : start + n]


def _code_base(rng: random.Random, code: list[str]) -> tuple[str, tuple[float, ...]]:
    text = piece(rng, rng.choice(code))
    documented = min(1.0, (text.count("#") + 8 * text.count('"""')) / max(text.count("\n"), 1) * 2)
    return text, (1.0, 1.0, 0.35 + 0.5 * documented, 0.8)


@dataclass(frozen=True)
class Damage:
    """What is done to a text by an ``amount`` 0 … 1, and how much of each axis the full amount takes away."""

    apply: Callable[[random.Random, str, float, str], str]
    costs: tuple[float, float, float, float]


def _garble(rng: random.Random, text: str, amount: float, group: str) -> str:
    noise = "锟斤拷烫屯ÃÂâ€™\ufffd□¤#@%&*~^|\\qxzjkvw0123" if group == "zh" else "ÃÂâ€™\ufffd¤#@%&*~^|\\qxzjkvw0123"
    rate = 0.02 + 0.3 * amount
    return "".join(rng.choice(noise) if c.strip() and rng.random() < rate else c for c in text)


def _units(text: str, group: str) -> list[str]:
    return re.findall(r"[一-鿿]{1,2}|[A-Za-z]+|\s+|[^\s]", text) if group == "zh" else re.findall(r"\S+|\s+", text)


def _shuffle(rng: random.Random, text: str, amount: float, group: str) -> str:
    """Words change places within reach of eight."""
    units = _units(text, group)
    places = [i for i, unit in enumerate(units) if unit.strip()]
    for a in range(len(places)):
        if rng.random() < 0.15 + 0.8 * amount:
            b = min(len(places) - 1, a + rng.randint(1, 8))
            units[places[a]], units[places[b]] = units[places[b]], units[places[a]]
    return "".join(units)


def _mix(kind: str) -> Callable[[random.Random, str, float, str], str]:
    def apply(rng: random.Random, text: str, amount: float, group: str) -> str:
        language = "zh" if group == "zh" else "en"
        lines = [line for line in re.split(r"(?<=[.。!！?？\n])", text) if line.strip()]
        extra = phrases()[language][kind]
        for _ in range(1 + int(amount * max(len(lines), 4) * 1.2)):
            lines.insert(rng.randint(0, len(lines)), rng.choice(extra) + ("" if kind == "filler" else "\n"))
        return (" " if language == "en" else "").join(lines)

    return apply


_LOOKS = {
    "o": "0",
    "l": "1",
    "i": "l",
    "e": "c",
    "m": "rn",
    "h": "b",
    "a": "o",
    "s": "5",
    "t": "f",
    "u": "n",
    "g": "9",
    "B": "8",
}
_LOOKS_HAN = dict(
    zip("的人大日未土己是在了不有个和为中上这时可成体", "旳入太曰末士已昰茬ㄋ丕冇亇咊爲屮丄迻旪叮戍休", strict=True)
)


def _ocr(rng: random.Random, text: str, amount: float, group: str) -> str:
    """Characters taken for others of like shape, stray spaces, broken lines."""
    out = []
    for c in text:
        roll = rng.random()
        if roll < 0.1 + 0.4 * amount and (c in _LOOKS or c in _LOOKS_HAN):
            out.append(_LOOKS_HAN.get(c) or _LOOKS[c])
        elif roll > 1 - 0.06 * amount:
            out.append(c + rng.choice((" ", "\n", ".", "'", "-")))
        else:
            out.append(c)
    return "".join(out)


def _typos(rng: random.Random, text: str, amount: float, group: str) -> str:
    """Letters mistyped, doubled or left out; Chinese characters become other frequent ones."""
    rate = 0.03 + 0.2 * amount
    out = []
    for c in text:
        if rng.random() > rate or not c.isalpha():
            out.append(c)
        elif c.isascii():
            out.append(rng.choice((c + c, "", rng.choice("etaoinshrdlucmfw"))))
        else:
            out.append(
                rng.choice(
                    "年人来上大国地出会对生子学下作里用道行所家种事成方多经么去法如都同现当没动面起看定天分还进好"
                )
            )
    return "".join(out)


def _repeat(rng: random.Random, text: str, amount: float, group: str) -> str:
    parts = [part for part in re.split(r"(?<=[.。!！?？\n])", text) if part.strip()] or [text]
    for _ in range(1 + int(2.5 * amount * len(parts))):
        at = rng.randrange(len(parts))
        parts.insert(at, parts[at])
    return "".join(parts)


def _fragments(rng: random.Random, text: str, amount: float, group: str) -> str:
    """Sentences cut off and put behind one another."""
    parts = [part for part in re.split(r"(?<=[.。!！?？\n])", text) if part.strip()] or [text]
    cut = [
        p[rng.randrange(max(len(p) // 2, 1)) :][: max(4, len(p) // 3)] if rng.random() < 0.2 + 0.8 * amount else p
        for p in parts
    ]
    rng.shuffle(cut)
    return "".join(cut)


def _markup(rng: random.Random, text: str, amount: float, group: str) -> str:
    tags = (
        '<p class="c1">',
        "</p>",
        "<br/>",
        "&nbsp;",
        "&lt;",
        "</div>",
        '<span style="x">',
        "http://t.co/x?id=1&u=2",
        "[edit]",
        "{{nav}}",
    )
    units = _units(text, group)
    return "".join(unit + rng.choice(tags) if rng.random() < 0.02 + 0.15 * amount else unit for unit in units)


_DAMAGE = (
    Damage(_garble, (1.0, 0.9, 0.6, 0.4)),
    Damage(_shuffle, (0.25, 1.0, 0.5, 0.15)),
    Damage(_shuffle, (0.25, 1.0, 0.5, 0.15)),
    Damage(_mix("boilerplate"), (0.85, 0.2, 0.5, 0.5)),
    Damage(_mix("ads"), (0.65, 0.05, 0.7, 0.5)),
    Damage(_ocr, (0.75, 0.7, 0.4, 0.15)),
    Damage(_typos, (0.6, 0.8, 0.3, 0.1)),
    Damage(_repeat, (0.35, 0.15, 0.25, 0.85)),
    Damage(_fragments, (0.3, 0.85, 0.5, 0.2)),
    Damage(_markup, (0.85, 0.2, 0.3, 0.3)),
    Damage(_mix("filler"), (0.05, 0.0, 0.35, 0.8)),
    Damage(_mix("chatter"), (0.25, 0.15, 0.75, 0.5)),
)  # fmt: skip


def _strip_comments(rng: random.Random, text: str, amount: float, group: str) -> str:
    text = re.sub(r'"""(?:.|\n)*?"""', '""""""', text)
    return re.sub(r"(?m)\s*#.*$", "", text)


def _shuffle_lines(rng: random.Random, text: str, amount: float, group: str) -> str:
    lines = text.split("\n")
    for a in range(len(lines)):
        if rng.random() < 0.2 + 0.8 * amount:
            b = rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def _short_names(rng: random.Random, text: str, amount: float, group: str) -> str:
    """Names become one letter and a number, blank space goes: as minified code."""
    names: dict[str, str] = {}
    keep = re.compile(
        r"def|class|return|import|from|if|else|elif|for|while|in|not|and|or|is|self|None|True|False|with|as|try|except|raise|lambda|yield"
    )

    def new(match: re.Match[str]) -> str:
        word = match.group()
        if keep.fullmatch(word) or rng.random() > 0.3 + 0.7 * amount:
            return word
        return names.setdefault(word, f"{'abcdefgh'[len(names) % 8]}{len(names) // 8 or ''}")

    return re.sub(r"\n\s*\n", "\n", re.sub(r"[A-Za-z_]{3,}", new, text))


def _data_table(rng: random.Random, text: str, amount: float, group: str) -> str:
    rows = [
        "    (" + ", ".join(f"0x{rng.randrange(1 << 16):04x}" for _ in range(8)) + "),"
        for _ in range(int(5 + 60 * amount))
    ]
    return text[: len(text) // 3] + "\nTABLE = [\n" + "\n".join(rows) + "\n]\n"


_CODE_DAMAGE = (
    Damage(_garble, (1.0, 0.9, 0.6, 0.4)),
    Damage(_strip_comments, (0.0, 0.05, 0.5, 0.0)),
    Damage(_shuffle_lines, (0.3, 1.0, 0.7, 0.2)),
    Damage(_shuffle, (0.4, 1.0, 0.7, 0.2)),
    Damage(_short_names, (0.4, 0.6, 0.85, 0.2)),
    Damage(_data_table, (0.3, 0.2, 0.8, 0.8)),
    Damage(_repeat, (0.35, 0.15, 0.4, 0.85)),
    Damage(_mix("boilerplate"), (0.8, 0.4, 0.5, 0.5)),
    Damage(_markup, (0.85, 0.4, 0.4, 0.3)),
    Damage(_ocr, (0.75, 0.7, 0.4, 0.15)),
)  # fmt: skip

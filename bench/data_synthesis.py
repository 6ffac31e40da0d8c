"""Synthesised tasks: how fast, how much verifies again, how diverse; beside ``athanor.data.arithmetic``.

    python -m bench.data_synthesis [--quick] [--n 20000] [--out bench/results/data_synthesis.json]

Every row is made in this process, CPU time of one core. *Verified again*: the announced answer is read off the solution
and compared; every task with code is run against its tests in the sandbox (a sample of ``--checked``). *Skeletons* are
questions with every number replaced by 0 and every code block by its first line: how many kinds of question there are.
*distinct-4* is the share of different 4-grams of words (Chinese: characters) among all of them, over at most 200,000
characters. *Overlap* counts held-out questions (5 % by key) that occur in training under another seed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from athanor.data.arithmetic import questions
from athanor.data.synthesis.answers import check
from athanor.data.synthesis.engine import Coverage, synthesise
from athanor.data.synthesis.language_model import code_of
from athanor.data.synthesis.points import load_taxonomy
from athanor.data.synthesis.sandbox import run
from athanor.data.synthesis.types import Task
from athanor.recipe.synthesis import SynthesisOptions
from bench.common import environment, show

_WORD = re.compile(r"[\u4e00-\u9fff]|\w+|[^\w\s]")
_CHARS = 200_000


def skeleton(question: str) -> str:
    """The question without its numbers and without its code."""
    text = re.sub(r"```.*?\n(.*?)\n.*?```", r"\1", question, flags=re.DOTALL)
    return re.sub(r"\d+", "0", text)


def distinct_4(texts: Iterable[str]) -> float:
    """Share of different 4-grams among the first ``_CHARS`` characters of texts."""
    seen: set[tuple[str, ...]] = set()
    total = chars = 0
    for text in texts:
        words = _WORD.findall(text)
        grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        seen.update(grams)
        total, chars = total + len(grams), chars + len(text)
        if chars > _CHARS:
            break
    return len(seen) / max(total, 1)


def verified(tasks: list[Task], checked: int) -> tuple[int, int]:
    """(right, looked at): announced answers of all, and programs of ``checked`` tasks run in the sandbox."""
    plain = [t for t in tasks if t.kind != "code" and t.ask != "explain"]
    right = sum(check(t.solution, t.answer, t.kind) for t in plain)
    code = [t for t in tasks if t.kind == "code"]
    sample = code[:: max(1, len(code) // checked)][:checked]
    return right + sum(run(code_of(t.solution), t.tests).ok for t in sample), len(plain) + len(sample)


def measured(name: str, options: SynthesisOptions, n: int, checked: int) -> dict[str, Any]:
    """One row: a run of ``n`` tasks."""
    coverage = Coverage()
    began = time.process_time()
    tasks = list(synthesise(options, n, 0, coverage=coverage))
    cpu_s = time.process_time() - began
    right, looked = verified(tasks, checked)
    n_bytes = sum(len(t.prompt.encode()) + len(t.solution.encode()) for t in tasks)
    return {
        "row": name,
        "tasks": len(tasks),
        "points": len({t.point for t in tasks}),
        "tasks_per_s": len(tasks) / cpu_s,
        "mb_per_s": n_bytes / cpu_s / 1e6,
        "verified": right / looked,
        "looked_at": looked,
        "distinct_questions": len({t.question for t in tasks}) / len(tasks),
        "rejected_repeats": coverage.rejected["repeated question"],
        "skeletons": len({skeleton(t.question) for t in tasks}),
        "distinct_4": distinct_4(t.question for t in tasks),
    }


def arithmetic_row(n: int) -> dict[str, Any]:
    """The quickstart's generator, for comparison."""
    began = time.process_time()
    made = questions(n, 0, "train")
    cpu_s = time.process_time() - began
    return {
        "row": "athanor.data.arithmetic",
        "tasks": len(made),
        "points": 5,
        "tasks_per_s": len(made) / cpu_s,
        "mb_per_s": sum(len((p.question + p.worked()).encode()) for p in made) / cpu_s / 1e6,
        "distinct_questions": len({p.question for p in made}) / len(made),
        "skeletons": len({skeleton(p.question) for p in made}),
        "distinct_4": distinct_4(p.question for p in made),
    }


def overlap(n: int) -> int:
    """Held-out questions of one run that occur, in any wording, among another run's training questions."""

    def texts(split: Any, seed: int) -> Iterator[str]:
        for t in synthesise(SynthesisOptions(subjects=["math"], holdout=0.05, split=split), n, seed):
            yield re.sub(r"\s", "", t.question)

    return len(set(texts("heldout", 1)) & set(texts("train", 2)))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--checked", type=int, default=300)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    n, checked = (200, 8) if given.quick else (given.n, given.checked)
    points = load_taxonomy().points.values()
    served = [p for p in points if p.served]
    list(synthesise(SynthesisOptions(), 50, 9))  # imports and parsed modules are no part of the rate
    rows = [
        measured("mathematics", SynthesisOptions(subjects=["math"]), n, checked),
        measured("code", SynthesisOptions(subjects=["code"]), n // 4, checked),
        measured("both", SynthesisOptions(), n, checked),
        arithmetic_row(min(n, 2_000)),
    ]
    shared = overlap(max(100, n // 10))
    least = {key: min(row[key] for row in rows[:3]) for key in ("verified", "distinct_questions")}
    bars = [
        ("points computed, of all", len(served) / len(points), "≥ 0.6", len(served) / len(points) >= 0.6),
        ("verified again, smallest row", least["verified"], "1", least["verified"] == 1),
        ("distinct questions, smallest row", least["distinct_questions"], "1", least["distinct_questions"] == 1),
        ("held-out questions seen in training", shared, "0", shared == 0),
    ]  # fmt: skip
    columns = list(rows[0])
    show("Synthesised tasks (CPU time, one core)", columns, [[row.get(c) for c in columns] for row in rows])
    show("Bars (ours; the issue names none but coverage)", ("bar", "value", "target", "holds"), bars)
    result = {
        "rows": rows,
        "bars": [dict(zip(("bar", "value", "target", "holds"), bar, strict=True)) for bar in bars],
        "points": len(points),
        "computed_points": len(served),
        "environment": environment(),
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return result


if __name__ == "__main__":
    main()

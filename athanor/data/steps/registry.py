"""Which class does which step; imported when it is needed, so that the command line starts fast."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from athanor.data.steps.base import Step

#: step name (``options.step``) → "module:class"
STEPS: dict[str, str] = {
    "normalise": "athanor.data.steps.normalise:Normalise",
    "language": "athanor.data.steps.language:Language",
    "length": "athanor.data.steps.length:Length",
    "gopher": "athanor.data.steps.heuristics:Gopher",
    "repetition": "athanor.data.steps.repetition:Repetition",
    "c4": "athanor.data.steps.c4:C4",
    "fineweb": "athanor.data.steps.heuristics:FineWeb",
    "chinese": "athanor.data.steps.chinese:Chinese",
    "code": "athanor.data.steps.code:Code",
    "irrelevant": "athanor.data.steps.irrelevant:Irrelevant",
    "pii": "athanor.data.steps.pii:Pii",
    "toxicity": "athanor.data.steps.toxicity:Toxicity",
    "exact_dedup": "athanor.data.steps.exact:ExactDedup",
    "minhash": "athanor.data.steps.minhash:MinhashDedup",
    "substring_dedup": "athanor.data.steps.substring:SubstringDedup",
    "decontaminate": "athanor.data.steps.decontaminate:Decontaminate",
    "perplexity": "athanor.data.steps.perplexity:Perplexity",
    "quality": "athanor.data.steps.quality:Quality",
    "judge": "athanor.data.steps.judge:Judge",
}


def make(options: Any) -> Step:
    """The step of validated options."""
    module, name = STEPS[options.step].split(":")
    step: Step = getattr(importlib.import_module(module), name)(options)
    return step


def make_all(options: Sequence[Any]) -> tuple[Step, ...]:
    """The steps of a recipe. A kind that comes again is told apart by a number: ``length``, ``length~2``."""
    steps: list[Step] = []
    seen: dict[str, int] = {}
    for one in options:
        step = make(one)
        seen[step.name] = seen.get(step.name, 0) + 1
        if seen[step.name] > 1:
            step.name = f"{step.name}~{seen[step.name]}"  # type: ignore[misc]
        steps.append(step)
    return tuple(steps)

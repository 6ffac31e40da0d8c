"""Which class does which step; imported when it is needed, so that the command line starts fast."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from athanor.data.steps.base import Step

#: step name (``options.step``) → "module:class"
STEPS: dict[str, str] = {
    "length": "athanor.data.steps.length:Length",
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

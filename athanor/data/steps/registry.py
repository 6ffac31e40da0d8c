"""Which class does which step; imported when it is needed, so that the command line starts fast."""

from __future__ import annotations

import importlib
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

"""Running the families' own programs, and small changes of them, in this process: with a budget and with a trace.

Only code of this package is run here. What a model or a person wrote goes through ``sandbox``.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

FILE = "<task>"
#: A program that executes more lines, or lets a value grow beyond these, is given up.
MAX_LINES, MAX_BITS, MAX_LENGTH = 20_000, 4_000, 4_000


class OverBudgetError(Exception):
    """The program ran too long or a value grew too large."""


@dataclass
class Trace:
    """What was seen: ``counts`` line → times executed; ``events`` (line, name, new value) in the outermost frame."""

    counts: Counter[int] = field(default_factory=Counter)
    events: list[tuple[int, str, str]] = field(default_factory=list)
    lines: int = 0


def load(source: str, name: str) -> Callable[..., Any]:
    """The function ``name`` that ``source`` defines."""
    code: CodeType = compile(source, FILE, "exec", dont_inherit=True)
    space: dict[str, Any] = {"__name__": "task"}
    exec(code, space)
    return space[name]  # type: ignore[no-any-return]


def call(function: Callable[..., Any], args: tuple[Any, ...], max_lines: int = MAX_LINES) -> tuple[Any, Trace]:
    """The result on a deep copy of ``args``, traced. Raises what the program raises, or ``OverBudgetError``."""
    trace = Trace()
    outer: list[FrameType] = []
    before: dict[str, str] = {}
    here = [0]

    def note(frame: FrameType) -> None:
        for name, value in frame.f_locals.items():
            text = _shown(value)
            if text and len(text) <= 120 and " at 0x" not in text and before.get(name) != text:
                before[name] = text
                trace.events.append((here[0], name, text))

    def step(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != FILE:
            return None
        if not outer:
            outer.append(frame)
            before.update({name: _shown(value) for name, value in frame.f_locals.items()})
        if event == "line":
            trace.lines += 1
            trace.counts[frame.f_lineno] += 1
            if trace.lines > max_lines or _too_large(frame.f_locals):
                raise OverBudgetError(trace.lines)
        if frame is outer[0] and event in ("line", "return") and len(trace.events) < 200:
            if here[0]:
                note(frame)
            here[0] = frame.f_lineno
        return step

    old = sys.gettrace()
    sys.settrace(step)
    try:
        return function(*copy.deepcopy(args)), trace
    finally:
        sys.settrace(old)


def _shown(value: Any) -> str:
    """The text of a value, the same in every process: sets of texts have no order of their own."""
    if callable(value):
        return ""
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(repr, value))) + "}" if value else "set()"
    return repr(value)


def _too_large(values: dict[str, Any]) -> bool:
    for value in values.values():
        if isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                return True
        elif isinstance(value, list | str | dict | set) and len(value) > MAX_LENGTH:
            return True
    return False

"""Quantities with units in YAML: ``989 TFLOP/s``, ``80 GiB``, ``400 Gbit/s``, ``5 us`` → SI numbers.

A plain number is taken in the SI unit that the key's name ends with (bytes, s, FLOP/s, W). A text without a unit, or
with one of another kind, is refused: 400 Gbit/s and 400 GB/s differ by eight.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_BYTES = {f"{p}B": x for p, x in {**_DECIMAL, **_BINARY}.items()}
_BITS = {f"{p}bit": x / 8 for p, x in {**_DECIMAL, **_BINARY}.items()}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

#: Factor to SI by kind of quantity and unit.
UNITS: dict[str, dict[str, float]] = {
    "bytes": _BYTES,
    "bytes/s": {f"{unit}/s": x for unit, x in {**_BYTES, **_BITS}.items()},
    "FLOP/s": {f"{p}FLOP/s": x for p, x in _DECIMAL.items()},
    "FLOP": {f"{p}FLOP": x for p, x in _DECIMAL.items()},
    "s": {**_SECONDS, "a": 365.0 * 86400.0},
    "W": {f"{p}W": x for p, x in _DECIMAL.items()},
}
_SHAPE = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


def parse_quantity(value: Any, kind: str) -> float:
    """``value`` in the SI unit of ``kind`` (a key of UNITS). ValueError for what is no such quantity."""
    known = UNITS[kind]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no quantity: write a number in {kind}, or a text such as {_example(kind)}")
    if isinstance(value, str):
        match = _SHAPE.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} does not begin with a number: write for example {_example(kind)}")
        number, unit = match.groups()
        if unit not in known:
            told = f"unknown unit {unit!r}" if unit else "no unit"
            raise ValueError(f"{told} in {value!r}: {kind} may be in {', '.join(known)}")
        value = float(number.replace("_", "")) * known[unit]
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def _example(kind: str) -> str:
    return {
        "bytes": "80 GiB",
        "bytes/s": "400 Gbit/s",
        "FLOP/s": "989 TFLOP/s",
        "FLOP": "1 TFLOP",
        "s": "5 us",
        "W": "700 W",
    }[kind]


def _reader(kind: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, kind))


Bytes = Annotated[float, _reader("bytes"), Field(gt=0)]
BytesOrZero = Annotated[float, _reader("bytes"), Field(ge=0)]
BytesPerSecond = Annotated[float, _reader("bytes/s"), Field(gt=0)]
FlopsPerSecond = Annotated[float, _reader("FLOP/s"), Field(gt=0)]
Flops = Annotated[float, _reader("FLOP"), Field(gt=0)]
Seconds = Annotated[float, _reader("s"), Field(ge=0)]
Watts = Annotated[float, _reader("W"), Field(ge=0)]
#: A part of a whole: 0 < x ≤ 1.
Share = Annotated[float, Field(gt=0, le=1)]

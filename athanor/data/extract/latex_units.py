r"""Numbers and units of the siunitx package as text: ``\SI{5}{\milli\second}`` → ``5 ms``."""

from __future__ import annotations

import re
from collections.abc import Callable

from athanor.data.extract.latex_scan import argument, optional

_PREFIXES = {
    "yocto": "y", "zepto": "z", "atto": "a", "femto": "f", "pico": "p", "nano": "n", "micro": "µ", "milli": "m",
    "centi": "c", "deci": "d", "deca": "da", "hecto": "h", "kilo": "k", "mega": "M", "giga": "G", "tera": "T",
    "peta": "P", "exa": "E", "zetta": "Z", "yotta": "Y", "kibi": "Ki", "mebi": "Mi", "gibi": "Gi", "tebi": "Ti",
}  # fmt: skip
_UNITS = {
    "ampere": "A", "candela": "cd", "kelvin": "K", "kilogram": "kg", "metre": "m", "meter": "m", "mole": "mol",
    "second": "s", "becquerel": "Bq", "celsius": "°C", "degreeCelsius": "°C", "coulomb": "C", "farad": "F",
    "gray": "Gy", "hertz": "Hz", "henry": "H", "joule": "J", "lumen": "lm", "lux": "lx", "newton": "N", "ohm": "Ω",
    "pascal": "Pa", "radian": "rad", "siemens": "S", "sievert": "Sv", "steradian": "sr", "tesla": "T", "volt": "V",
    "watt": "W", "weber": "Wb", "day": "d", "degree": "°", "hectare": "ha", "hour": "h", "liter": "L", "litre": "l",
    "minute": "min", "percent": "%", "tonne": "t", "gram": "g", "electronvolt": "eV", "dalton": "Da", "byte": "B",
    "bit": "bit", "bar": "bar", "decibel": "dB", "angstrom": "Å", "arcminute": "′", "arcsecond": "″", "bel": "B",
    "astronomicalunit": "au", "atomicmassunit": "u", "kWh": "kWh", "molar": "M", "mmHg": "mmHg", "neper": "Np",
}  # fmt: skip
_POWERS = {"squared": "²", "cubed": "³"}
_BEFORE = {"square": "²", "cubic": "³"}
#: Command → what its arguments are: n a number, u a unit.
_KINDS = {"SI": "nu", "qty": "nu", "si": "u", "unit": "u", "num": "n", "ang": "a", "SIrange": "nnu", "qtyrange": "nnu",
          "numrange": "nn", "SIlist": "nu", "qtylist": "nu", "numlist": "n"}  # fmt: skip
NAMES = frozenset(_KINDS)


def quantity(name: str, text: str, position: int, flat: Callable[[str], str]) -> tuple[str, int] | None:
    """(text, end) of a command in ``NAMES`` whose arguments begin at ``position``; None where they do not follow.

    ``flat`` reads what in a unit is not of siunitx.
    """
    skipped = optional(text, position)
    position = skipped[1] if skipped else position
    numbers, units = [], ""
    for kind in _KINDS[name]:
        found = argument(text, position)
        if found is None:
            return None
        position = found[1]
        if kind == "u":
            units = _unit(found[0], flat)
        else:
            numbers.append(_angle(found[0]) if kind == "a" else _number(found[0]))
    value = "–".join(filter(None, numbers))
    tight = units.startswith(("°", "′", "″")) and not units.startswith("°C")
    return value + ("" if tight or not value or not units else " ") + units, position


def _number(source: str) -> str:
    """``1e-3`` → ``1 × 10⁻³``; lists (``1;2``) with commas."""
    text = ", ".join(part.strip() for part in source.split(";"))
    return re.sub(r"(?<=\d)[eEdD]([+-]?\d+)", lambda m: f" × 10{m[1].lstrip('+').translate(_RAISED)}", text)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _angle(source: str) -> str:
    return "".join(part.strip() + mark for part, mark in zip(source.split(";"), "°′″", strict=False) if part.strip())


def _unit(source: str, flat: Callable[[str], str]) -> str:
    if "\\" not in source:
        plain = re.sub(r"\^\{?(-?\d+)\}?", lambda m: m[1].translate(_RAISED), source)
        return plain.replace(".", "·").replace("~", " ").strip("{}")
    out, prefix, power, divided = "", "", "", False
    for match in re.finditer(r"\\([A-Za-z]+)\s*(?:\{([^{}]*)\})?|([^\\\s{}]+)", source):
        name = match[1] or ""
        if name in _PREFIXES:
            prefix = _PREFIXES[name]
        elif name == "per":
            divided = True
        elif name in _BEFORE:
            power = _BEFORE[name]
        elif name in _POWERS:
            out += _POWERS[name]
        elif name in ("tothe", "raiseto"):
            out += (match[2] or "").translate(_RAISED)
        elif name != "of":
            unit = _UNITS.get(name) or (match[3] or flat(match[0]))
            out += ("/" if divided else "·" if out else "") + prefix + unit + power
            prefix, power, divided = "", "", False
    return out + prefix

"""Nsight Compute's printed values: numbers with grouped digits, and units scaled for reading."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from math import isfinite

_PREFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
"""Decimal in Nsight Compute for bytes too: 1,024 bytes of shared memory print as 1.02 Kbyte."""
_SECONDS = {"s", "second"}
_COUNTED = {"byte", "hz", "Hz", "cycle", "inst", "sector", "request", "warp", "thread"}


@cache
def base_unit(unit: str) -> tuple[float, str]:
    """Factor to the base unit and its name as new versions print it: ``Gbyte/second`` → (1e9, ``byte/s``).

    Times go to ns, rates to ``…/s``, ``cycle/s`` to hz. A unit without a known scale stays as it is.
    """
    numerator, slash, denominator = unit.strip().partition("/")
    factor, name = _atom(numerator)
    if not slash:
        return (factor * 1e9, "ns") if name == "s" else (factor, name)
    divisor, per = _atom(denominator)
    name = f"{name}/{per}"
    return factor / divisor, "hz" if name == "cycle/s" else name


def _atom(text: str) -> tuple[float, str]:
    """Scale and plain name of one side of a unit: ``usecond`` → (1e-6, ``s``), ``Mhz`` → (1e6, ``hz``)."""
    prefix, plain = (_PREFIXES.get(text[:1]), text[1:])
    if text in _SECONDS:
        return 1.0, "s"
    if plain in _SECONDS and prefix is not None and prefix < 1:
        return prefix, "s"
    if plain in _COUNTED and prefix is not None and prefix > 1:
        return prefix, plain.lower()
    return 1.0, text.lower() if text == "Hz" else text


_GROUPS = re.compile(r"(?<=\d)[ \u00a0\u202f'\u2019](?=\d)")
"""What stands between groups of three digits in some locales, beside comma and point."""
_POINT = re.compile(r"[+-]?[\d,]*\.(?:\d{1,2}|\d{4,})(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?[\d.]*,(?:\d{1,2}|\d{4,})(?:[eE][+-]?\d+)?")
"""Numbers whose last mark must be a decimal one: three digits behind it could be a group."""


def decimal_comma(cells: Iterable[str]) -> bool:
    """Whether the numbers of a page have a decimal comma, as the locale of the one who printed it has it."""
    points = commas = 0
    for cell in cells:
        plain = _GROUPS.sub("", cell.split(" (", maxsplit=1)[0].strip())
        points += _POINT.fullmatch(plain) is not None
        commas += _COMMA.fullmatch(plain) is not None
    return commas > points


def number(text: str, *, comma: bool = False) -> float | None:
    """A printed value: ``3,142.86`` → 3142.86, ``5 (1; 4)`` (value and instances) → 5; a text, NaN or infinity → None.

    ``comma``: the decimal mark is a comma, points group digits.
    """
    plain = _GROUPS.sub("", text.split(" (", maxsplit=1)[0].strip())
    plain = plain.replace(".", "").replace(",", ".") if comma else plain.replace(",", "")
    if not plain or plain[0] not in "+-.0123456789":
        return None
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if isfinite(value) else None

"""Figures inside sentences: what the messages of rules are made of.

Durations and sizes come in the unit that reads best, with three significant digits; the evidence beside a message
holds them exactly.
"""

from __future__ import annotations

import re

from traceql.report.units import count, number, quantity

_VOWEL = re.compile(r"8|1[18](?!\d)")
"""Numbers said with a vowel first: eight, eleven, eighteen."""


def duration(ns: float) -> str:
    """Nanoseconds as text: ``33.4 ms``, ``866 µs``; no time at all is ``0 µs``."""
    return " ".join(quantity(ns / 1000, "µs"))


def size(bytes_: float) -> str:
    """Bytes as text: ``516 bytes``, ``2.10 MB``."""
    amount, unit = quantity(bytes_, "B")
    return f"{amount} {'bytes' if unit == 'B' else unit}"


def percent(share: float) -> str:
    """A share of 0-100: ``81 %``, one digit more below ten: ``4.1 %``; what there is of it is never ``0.0 %``."""
    if 0 < share < 0.05:
        return f"{number(share)} %"
    return f"{share:.0f} %" if share >= 9.95 or share == 0 else f"{share:.1f} %"


def part_of(ns: int, whole_ns: int) -> str:
    """A time named after the whole it is part of: ``4.08 ms of that``, or ``all of that``."""
    return "all of that" if ns == whole_ns else f"{duration(ns)} of that"


def counted(amount: int, thing: str, things: str | None = None) -> str:
    """``1 gap``, ``1,101 gaps``, ``32 boundaries``."""
    return f"{count(amount)} {thing if amount == 1 else things or thing + 's'}"


def a_step(period_ns: int, label: str) -> str:
    """A step with its length, after an article: ``an 8.49 ms decode step``."""
    length = duration(period_ns)
    return f"{'an' if _VOWEL.match(length) else 'a'} {length} {label}"

"""Numbers for people: one unit a column, at most three significant digits, the exact value kept beside.

Evidence carries its units in the key names (``gap_us``, ``share_of_period_pct``); this module reads them back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_TIME = (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9))
_BYTES = (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
_FLOPS = (("FLOP", 1.0), ("MFLOP", 1e6), ("GFLOP", 1e9), ("TFLOP", 1e12))
_SCALES = {unit: family for family in (_TIME, _BYTES, _FLOPS) for unit, _ in family}
_COMFORTABLE = 10.0
"""A time column changes to the next unit from 10 of it on: 4,080 and 1,420 µs stay; 23,500 µs becomes 23.5 ms."""

_UNIT_WORDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("tb", "per", "s"), "TB/s"),
    (("gb", "per", "s"), "GB/s"),
    (("bytes", "per", "s"), "B/s"),
    (("flop", "per", "byte"), "FLOP/B"),
    (("tflops",), "TFLOP/s"),
    (("flops",), "FLOP"),
    (("bytes",), "B"),
    (("pct",), "%"),
    (("ns",), "ns"),
    (("us",), "µs"),
    (("ms",), "ms"),
    (("ratio",), "×"),
    (("factor",), "×"),
)
"""Words of a key that are a unit, longest first."""

_SPELLED = {
    "gpu": "GPU", "cpu": "CPU", "gemm": "GEMM", "gemms": "GEMMs", "kv": "KV", "nccl": "NCCL", "sm": "SM", "l1": "L1",
    "l2": "L2", "dram": "DRAM", "api": "API", "id": "ID", "itl": "ITL", "ttft": "TTFT", "z": "z",
}  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What a key says: ``launch_gap_us_per_step`` is *launch gap* in *µs* per *step*."""

    label: str
    unit: str
    per: str = ""

    @property
    def scalable(self) -> bool:
        return self.unit in _SCALES

    def full_unit(self, unit: str | None = None) -> str:
        """The unit (or ``unit`` in its place) with what it is per: ``µs/step``."""
        chosen = self.unit if unit is None else unit
        return chosen + (f"/{self.per}" if self.per and chosen else "")


def meaning(key: str) -> Meaning:
    """Label and unit of an evidence key."""
    words = key.lower().split("_")
    for unit_words, unit in _UNIT_WORDS:
        for at in range(len(words) - len(unit_words) + 1):
            if tuple(words[at : at + len(unit_words)]) == unit_words:
                before, after = words[:at], words[at + len(unit_words) :]
                per = ""
                if len(after) > 1 and after[0] == "per":
                    per, after = " ".join(after[1:]), []
                if unit == "×":
                    before = [*before, unit_words[0]]
                return Meaning(spelled([*before, *after]), unit, per)
    if "per" in words[1:-1]:
        at = words.index("per")
        return Meaning(spelled(words[:at]) + " per " + spelled(words[at + 1 :]), "")
    return Meaning(spelled(words), "")


def spelled(words: Iterable[str]) -> str:
    """Words of a key as prose, abbreviations in their usual case."""
    return " ".join(_SPELLED.get(word, word) for word in words)


@dataclass(frozen=True)
class Scale:
    """A unit and what one of it is in the key's own unit."""

    unit: str
    factor: float = 1.0


def scale(unit: str, values: Iterable[float], *, comfortable: float = _COMFORTABLE) -> Scale:
    """The unit of the same family in which the largest of ``values`` (given in ``unit``) reads best.

    From ms on, a time takes the next unit only when it is ``comfortable`` of it.
    """
    family = _SCALES.get(unit)
    if family is None:
        return Scale(unit)
    own = dict(family)[unit]
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0) * own
    if not largest:
        return Scale(unit)
    late = ("ms", "s")
    fitting = [(name, size) for name, size in family if largest >= size * (comfortable if name in late else 1.0)]
    name, size = fitting[-1] if fitting else family[0]
    return Scale(name, size / own)


def number(value: float) -> str:
    """``value`` with at most three significant digits, thousands separated: 27,026 is 27,000 and 0.04567 is 0.0457."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    if rounded == 0 or abs(rounded) < 1e-4:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{digits}f}"


def count(value: int) -> str:
    """A count, exact: 12,345."""
    return f"{value:,}"


def quantity(value: float, unit: str, per: str = "") -> tuple[str, str]:
    """(number, unit) of one value in the unit that reads best: 33412.4 µs is ("33.4", "ms")."""
    chosen = scale(unit, [value], comfortable=1.0)
    return number(value / chosen.factor), chosen.unit + (f"/{per}" if per else "")


def exact(value: float, unit: str, per: str = "") -> str:
    """The value as measured, for the tooltip beside a rounded number."""
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.6g}" if abs(value) < 1 else f"{value:,.3f}"
    return f"{text} {unit}".strip() + (f"/{per}" if per and unit else "")


def ms(ns: float) -> str:
    """Nanoseconds as text in the unit that reads best: "33.4 ms"."""
    return " ".join(quantity(ns, "ns"))

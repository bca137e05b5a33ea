"""Geometry of the comparison page's static charts: x in percent of the width, y in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from traceql.comparison.statistics import Judgement
from traceql.comparison.steps import Contribution
from traceql.comparison.structure import LayerPair
from traceql.report import units

LAYERS_HEIGHT = 110


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: ``kind`` is *total*, *worse* (it adds time), *better* or *even*."""

    x: float
    width: float
    kind: str


def waterfall(base_ns: int, lines: Sequence[Contribution], head_ns: int) -> list[Bar]:
    """The base period, one bar a line from where the last one ended, and the head period: all on one scale."""
    reached = list(accumulate((line.delta_ns for line in lines), initial=base_ns))
    left = min(0, *reached)
    whole = max(base_ns, head_ns, *reached) - left or 1

    def bar(one: int, other: int, kind: str) -> Bar:
        low, high = sorted((one, other))
        return Bar(100 * (low - left) / whole, max(100 * (high - low) / whole, 0.15), kind)

    steps = [
        bar(before, after, "even" if before == after else "worse" if after > before else "better")
        for before, after in pairwise(reached)
    ]
    return [bar(0, base_ns, "total"), *steps, bar(0, head_ns, "total")]


@dataclass(frozen=True)
class Dot:
    """One run: its place and its value as text."""

    x: float
    text: str


@dataclass(frozen=True)
class Strip:
    """The runs of one metric on one axis: dots and median of either side, and the labels of the ends."""

    metric: str
    sides: tuple[tuple[str, tuple[Dot, ...], float], ...]
    low: str
    high: str


def strip(judgement: Judgement) -> Strip:
    """Where the runs of one metric lie."""
    every = [*judgement.base, *judgement.head]
    room = (max(every) - min(every)) * 0.06 or max(abs(every[0]) * 0.01, 1e-9)
    low, high = min(every) - room, max(every) + room

    def x(value: float) -> float:
        return 100 * (value - low) / (high - low)

    sides = tuple(
        (name, tuple(Dot(x(value), f"{value:.5g} ms") for value in values), x(middle))
        for name, values, middle in (
            ("base", judgement.base, judgement.base_median),
            ("head", judgement.head, judgement.head_median),
        )
    )
    return Strip(judgement.metric, sides, f"{low:.4g} ms", f"{high:.4g} ms")


@dataclass(frozen=True)
class Column:
    """One layer's two bars, base and head: x in percent, top in pixels; None where a side has no such layer."""

    base_x: float
    head_x: float
    base_top: float | None
    head_top: float | None
    text: str


@dataclass(frozen=True)
class Layers:
    """Wall time of the layers of both sides, in pairs; ``top`` labels the highest line of the axis."""

    columns: tuple[Column, ...]
    width: float
    top: str
    height: int = LAYERS_HEIGHT


def layer_columns(pairs: Sequence[LayerPair]) -> Layers | None:
    """The pairs as columns on one scale; None without layers."""
    walls = [wall for pair in pairs for wall in (pair.base_ns, pair.head_ns) if wall]
    if not walls:
        return None
    highest = max(walls)
    slot = 100 / max(len(pairs), 14)
    width = 0.38 * slot

    def top(wall: int | None) -> float | None:
        return None if wall is None else LAYERS_HEIGHT * (1 - wall / highest)

    def said(wall: int | None) -> str:
        return "–" if wall is None else units.ms(wall)

    return Layers(
        tuple(
            Column(
                at * slot + 0.08 * slot, at * slot + 0.5 * slot, top(pair.base_ns), top(pair.head_ns),
                f"layer {pair.layer}: {said(pair.base_ns)} → {said(pair.head_ns)}",
            )
            for at, pair in enumerate(pairs)
        ),
        width,
        units.ms(highest),
    )  # fmt: skip

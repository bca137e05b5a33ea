"""Geometry of the static charts: x in percent of the width (they fit any page), y in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from traceql.report import units
from traceql.report.model import Layer, Place, Point, Roofline, StepPoint

PLOT_HEIGHT = 260
STRIP_HEIGHT = 96
SERIES_HEIGHT = 150
_NAMED = 30
"""Columns with names there is room for."""
_WIDEST = 14
"""Columns are as wide as if there were this many at least."""


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """One column: its whole height and the filled part of it, from the bottom."""

    name: str
    x: float
    width: float
    top: float
    fill_top: float | None
    text: str
    kind: str
    place: Place


@dataclass(frozen=True)
class Columns:
    """A column chart with an axis in one unit."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    height: int
    unit: str


@dataclass(frozen=True)
class Line:
    """A straight line with a text at its end."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""


@dataclass(frozen=True)
class Dot:
    """A GEMM shape: radius by share of the GEMM time."""

    x: float
    y: float
    radius: float
    kind: str
    text: str
    label: str


@dataclass(frozen=True)
class RooflineChart:
    """Log-log: FLOP per byte to the right, TFLOP/s upwards."""

    dots: tuple[Dot, ...]
    roofs: tuple[Line, ...]
    ridges: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    height: int = PLOT_HEIGHT


def series(points: Sequence[StepPoint]) -> Columns:
    """Period of each step as a column, its GPU busy time filled."""
    every = max(1, math.ceil(len(points) / _NAMED))
    columns = [
        _Value(str(p.step_id) if i % every == 0 else "", p.period_ms, p.busy_ms, p.label, p.kind, p.place)
        for i, p in enumerate(points)
    ]
    return _columns(columns, 1e6, SERIES_HEIGHT)


def strip(layers: Sequence[Layer]) -> Columns:
    """Wall time of each layer as a column, GPU busy time filled."""
    every = max(1, math.ceil(len(layers) / _NAMED))
    columns = [
        _Value(la.label if i % every == 0 else "", la.dur_ns, la.busy_ns, la.text, "layer", la.place)
        for i, la in enumerate(layers)
    ]
    return _columns(columns, 1.0, STRIP_HEIGHT)


class _Value(NamedTuple):
    name: str
    whole: float
    part: float | None
    text: str
    kind: str
    place: Place


def _columns(values: Sequence[_Value], ns_each: float, height: int) -> Columns:
    """One column a value; whole and part are in units of ``ns_each`` ns."""
    largest = max((value.whole for value in values), default=0.0) or 1.0
    scale = units.scale("ns", [largest * ns_each], comfortable=1.0)
    top = _ceiling(largest * ns_each / scale.factor)
    full = top * scale.factor / ns_each
    slot = 100 / max(len(values), _WIDEST)
    gap = 0.14 * slot if len(values) > 1 else 0.0
    bars = tuple(
        Bar(
            name=value.name,
            x=i * slot + gap / 2,
            width=slot - gap,
            top=height * (1 - value.whole / full),
            fill_top=None if value.part is None else height * (1 - min(value.part, value.whole) / full),
            text=value.text,
            kind=value.kind,
            place=value.place,
        )
        for i, value in enumerate(values)
    )
    ticks = tuple(Tick(height * (1 - share), _tick(top * share)) for share in (0.0, 0.5, 1.0))
    return Columns(bars, ticks, height, scale.unit)


def _ceiling(value: float) -> float:
    """The next round number: 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value * 0.999)


def roofline(data: Roofline) -> RooflineChart:
    """The chart of ``data``; without known peaks, the points alone."""
    tops = [peak for _, peak in data.peaks]
    bandwidth = data.bandwidth_tb_per_s
    ridges = [peak / bandwidth for peak in tops] if bandwidth else []
    xs = [p.intensity for p in data.points] + ridges
    ys = [p.tflops for p in data.points] + tops
    left, right = _range(xs)
    bottom, top = _range(ys)

    def x_of(value: float) -> float:
        return 100 * (math.log10(value) - left) / (right - left)

    def y_of(value: float) -> float:
        return PLOT_HEIGHT * (1 - (math.log10(value) - bottom) / (top - bottom))

    roofs = []
    if bandwidth:
        reach = max(ridges, default=10.0**right)
        low = max(10.0**left, 10.0**bottom / bandwidth)
        slope = f"{units.number(bandwidth)} TB/s"
        roofs.append(Line(x_of(low), y_of(low * bandwidth), x_of(reach), y_of(reach * bandwidth), slope))
        for (dtype, peak), ridge in zip(data.peaks, ridges, strict=True):
            label = f"{dtype} {units.number(peak)} TFLOP/s"
            roofs.append(Line(x_of(ridge), y_of(peak), 100.0, y_of(peak), label))
    return RooflineChart(
        dots=tuple(_dot(p, x_of(p.intensity), y_of(p.tflops)) for p in reversed(data.points)),
        roofs=tuple(roofs),
        ridges=tuple(Tick(x_of(r), f"ridge {units.number(r)} FLOP/B") for r in ridges),
        x_ticks=tuple(Tick(x_of(value), _tick(value)) for value in _round_numbers(left, right)),
        y_ticks=tuple(Tick(y_of(value), _tick(value)) for value in _round_numbers(bottom, top)),
    )


def _dot(point: Point, x: float, y: float) -> Dot:
    return Dot(x, y, 4 + 1.4 * math.sqrt(point.share_pct), point.bound, point.text, point.label)


def _tick(value: float) -> str:
    return f"{value:,.6g}" if value < 1e6 else f"{value:g}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Logarithms of the limits around ``values``: quarter decades with some room, one decade apart at least."""
    logs = [math.log10(v) for v in values if v > 0] or [0.0]
    low = math.floor(4 * (min(logs) - 0.12)) / 4
    return low, max(math.ceil(4 * (max(logs) + 0.08)) / 4, low + 1)


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two logarithms; the powers alone over a long range."""
    steps = (1, 2, 5) if high - low <= 2.5 else (1,)
    found = [m * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    return [value for value in found if low - 1e-9 <= math.log10(value) <= high + 1e-9]

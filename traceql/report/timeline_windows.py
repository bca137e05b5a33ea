"""Which steps the timeline holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from traceql.report import units
from traceql.report.headline import median_steps, step_label
from traceql.report.names import shown
from traceql.trace import Trace

STEP_BUDGET = 45_000
"""Slices of whole steps on one page; further steps are left out once it is spent."""


@dataclass(frozen=True)
class Step:
    """A step to choose on the timeline: its period, to the end of its GPU work."""

    step_id: int
    label: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Windows:
    """The stretches of the trace that are kept: ``ranges`` are disjoint and sorted."""

    ranges: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]
    first: int
    """the step shown at first, a position in ``steps``"""
    dropped: tuple[str, ...]

    @property
    def base_ns(self) -> int:
        return self.ranges[0][0]

    def holds(self, at_ns: int) -> bool:
        return any(start <= at_ns < end for start, end in self.ranges)

    def touched(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows of ``frame`` (start_ns, dur_ns) that overlap a range."""
        starts, ends = (np.array(edge, dtype=np.int64) for edge in zip(*self.ranges, strict=True))
        begin = frame["start_ns"].to_numpy()
        end = begin + frame["dur_ns"].to_numpy()
        at = np.searchsorted(ends, begin, side="right")
        inside = at < len(starts)
        inside[inside] = starts[at[inside]] < np.maximum(end[inside], begin[inside] + 1)
        return frame.filter(pl.Series(inside))


def choose(trace: Trace, places: Sequence[int], share: float) -> Windows | None:
    """The steps that stand for each kind, then those with findings (at ``places``), then the rest while they fit."""
    steps = [_step(row) for row in _step_rows(trace)]
    if not steps:
        return _whole(trace)
    wanted = [median.step_id for median in median_steps(trace)]
    wanted += [s.step_id for at in places for s in steps if s.start_ns <= at < s.end_ns]
    wanted += [s.step_id for s in steps]
    sizes = _sizes(trace, steps)
    kept: set[int] = set()
    spent = 0
    for step_id in dict.fromkeys(wanted):
        if not kept or spent + sizes[step_id] <= STEP_BUDGET * share:
            kept.add(step_id)
            spent += sizes[step_id]
    chosen = tuple(s for s in steps if s.step_id in kept)
    dropped: tuple[str, ...] = ()
    if len(chosen) < len(steps):
        ids = ", ".join(str(s.step_id) for s in steps if s.step_id not in kept)
        dropped = (f"The timeline holds {len(chosen)} of {len(steps)} steps; left out to keep the page small: {ids}.",)
    first = next(i for i, s in enumerate(chosen) if s.step_id == wanted[0])
    return Windows(merged([(s.start_ns, s.end_ns) for s in chosen]), chosen, first, dropped)


def _step_rows(trace: Trace) -> list[dict[str, int | str | None]]:
    steps = trace.table("steps").filter(pl.col("period_ns") > 0)
    end = pl.max_horizontal(pl.col("start_ns") + pl.col("period_ns"), pl.col("gpu_start_ns") + pl.col("gpu_dur_ns"))
    columns = ["step_id", "kind", "batch_size", "start_ns", "period_ns"]
    return list(steps.select(*columns, end_ns=end).rows(named=True))


def _step(row: dict[str, int | str | None]) -> Step:
    label = step_label(row["kind"], row["batch_size"])  # type: ignore[arg-type]
    text = shown(f"{row['step_id']} · {label} · {units.ms(row['period_ns'] or 0)}")  # type: ignore[arg-type]
    return Step(int(row["step_id"] or 0), text, int(row["start_ns"] or 0), int(row["end_ns"] or 0))


def _sizes(trace: Trace, steps: Sequence[Step]) -> dict[int, int]:
    """Slices each step has, Python frames aside (they are thinned on their own)."""
    sizes = dict.fromkeys((s.step_id for s in steps), 0)
    for table in ("cpu_ops", "runtime_calls", "gpu_ops", "gaps"):
        starts = trace.table(table)["start_ns"].sort().to_numpy()
        for s in steps:
            low, high = np.searchsorted(starts, [s.start_ns, s.end_ns])
            sizes[s.step_id] += int(high - low)
    return sizes


def merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The ranges as disjoint ones in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


def _whole(trace: Trace) -> Windows | None:
    """Without steps: first to last GPU work as one stretch."""
    ops = trace.table("gpu_ops")
    if ops.is_empty():
        return None
    start = int(ops["start_ns"].min())  # type: ignore[arg-type]
    end = max(int((ops["start_ns"] + ops["dur_ns"]).max()), start + 1)  # type: ignore[arg-type]
    return Windows(((start, end),), (Step(-1, "whole trace", start, end),), 0, ())

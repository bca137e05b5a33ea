"""The downloads of a page: the events of every finding's cut once, and what puts one cut together.

A cut is what ``traceql open`` serves: the same lines from ``traceql.perfetto``, chosen by the same window. The page holds
the lines of all windows of a trace as one compressed document, and its script leaves out those of other windows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from traceql import chrome_events, perfetto
from traceql.report import units
from traceql.report.model import Card, Cut, Handoff
from traceql.report.names import shown
from traceql.report.timeline_windows import merged

if TYPE_CHECKING:
    from traceql.finding import Finding
    from traceql.reporting import Report
    from traceql.trace import Trace

BUDGET_BYTES = 1_600_000
"""Of all downloads on one page, in base64: with the timelines a page stays under 3 MB."""
_BYTES_A_LINE = 31
"""A first guess, on the safe side: 36,000 events of a decode trace with Python frames take 980 kB."""
_TRIES = 4


def pack(report: Report, cards: Sequence[Card]) -> Handoff:
    """What the page needs to offer a cut for each card that has a command, as far as the budget reaches; ``cards`` are those
    of all findings, twins behind the card that holds them."""
    events: list[str | None] = []
    dropped: list[tuple[str, ...]] = []
    cuts: dict[str, Cut] = {}
    found = [finding for entry in report.entries for finding in entry.every]
    budget = BUDGET_BYTES // max(1, sum(trace.source != "ncu" for trace in report.traces))
    for index, trace in enumerate(report.traces):
        mine = [
            (card, finding) for card, finding in zip(cards, found, strict=True)
            if finding.trace == index and card.command
        ]  # fmt: skip
        payload, kept, lines = _of_trace(trace, mine, budget)
        events.append(payload)
        dropped.append(lines)
        for card, finding, (begin, end) in kept:
            shift = trace.source_offset_ns
            line = perfetto.finding_line(trace, finding)
            cuts[card.anchor] = Cut(index, begin + shift, end + shift, line, _file_name(trace, card.number))
    return Handoff(tuple(events), cuts, tuple(dropped))


_Windowed = tuple[Card, "Finding", tuple[int, int]]


def _of_trace(
    trace: Trace, mine: Sequence[tuple[Card, Finding]], budget: int
) -> tuple[str | None, list[_Windowed], tuple[str, ...]]:
    """The trace's events in base64, the findings that have a cut, and what the cuts lack."""
    wanted = [(card, finding, perfetto.window(trace, finding)) for card, finding in mine]
    # the whole trace costs most and tells least; then the findings furthest down
    order = sorted(wanted, key=lambda each: (each[2] == perfetto.EVERYTHING, each[0].number))
    limit = budget // _BYTES_A_LINE
    for _ in range(_TRIES):
        kept, lines, shortest = _fitting(trace, order, limit)
        if not kept:
            break
        payload = base64.b64encode(perfetto.compressed(perfetto.document(trace, lines["text"]))).decode()
        if len(payload) <= budget:
            return payload, sorted(kept, key=lambda each: each[0].number), _left_out(shortest)
        limit = int(limit * 0.95 * budget / len(payload))
    return None, [], ()


def _fitting(trace: Trace, order: Sequence[_Windowed], limit: int) -> tuple[list[_Windowed], pl.DataFrame, int | None]:
    """The findings, in this order, whose events fit in ``limit`` lines together, short Python frames giving way first.

    Also the shortest Python frame kept, ns, where some had to go.
    """
    starts = _starts(trace)
    kept: list[_Windowed] = []
    for each in order:
        if _count(starts, merged([window for _, _, window in [*kept, each]])) <= limit:
            kept.append(each)
    if not kept:
        return [], pl.DataFrame(), None
    lines = chrome_events.lines(trace, merged([window for _, _, window in kept]))
    if lines.height <= limit:
        return kept, lines, None
    is_python = pl.col("category") == chrome_events.PYTHON
    room = limit - lines.filter(~is_python).height
    long = (pl.col("end_ns") - pl.col("start_ns")).rank("ordinal", descending=True).over(is_python) <= room
    cut_down = lines.filter(~is_python | long)
    frames = cut_down.filter(is_python)
    shortest = (frames["end_ns"] - frames["start_ns"]).min() if frames.height else 0
    return kept, cut_down, int(shortest or 0)  # type: ignore[arg-type]


def _starts(trace: Trace) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Starts of everything that becomes a line and cannot give way, sorted."""
    tables = ("runtime_calls", "cpu_ops", "annotations", "gpu_ops", "launches")
    return np.sort(np.concatenate([trace.table(table)["start_ns"].to_numpy() for table in tables]))


def _count(starts: np.ndarray[Any, np.dtype[np.int64]], windows: Sequence[tuple[int, int]]) -> int:
    """How many of ``starts`` lie in one of the disjoint ``windows``."""
    edges = np.searchsorted(starts, np.array(windows, dtype=np.int64))
    return int((edges[:, 1] - edges[:, 0]).sum())


def _left_out(shortest_ns: int | None) -> tuple[str, ...]:
    if shortest_ns is None:
        return ()
    which = f"Python frames shorter than {units.ms(shortest_ns)}" if shortest_ns else "Python frames"
    return (f"To keep this page small it holds no {which}; the command hands over all.",)


def _file_name(trace: Trace, number: int) -> str:
    stem = re.sub(r"[^\w.-]+", "_", re.sub(r"(\.pt)?(\.trace)?\.\w+(\.gz)?$", "", shown(trace.path.name)))
    return f"{stem}.finding-{number}.json.gz"

"""Cuts of a trace around findings, for the Perfetto UI: a Chrome trace made from the tables of any source.

Host threads and GPU streams become tracks, launches point at the GPU work they started, and the finding has a track of
its own. ``traceql open`` serves one cut; an HTML report carries the events of all of them once, and its script puts each
together as ``cut`` does: the lines of the window, the finding's own line, the frame around them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence

import msgspec
import polars as pl

from traceql import chrome_events
from traceql.finding import Finding
from traceql.report.names import without_home
from traceql.trace import Trace

_MARGIN_NS = 1_000_000
_MARGIN_STEPS = 2
EVERYTHING = (-(2**62), 2**62)
"""The window of a finding that is about the whole trace."""

OPENING = '{"schemaVersion":1,"displayTimeUnit":"ns","traceName":"traceql cut","deviceProperties":'
CLOSING = f'{{"ph":"M","name":"thread_name","pid":{chrome_events.FINDING_PID},"tid":0,"args":{{"name":"finding"}}}}]}}'
"""The last event stands here without the comma that ends every other line."""


def window(trace: Trace, finding: Finding) -> tuple[int, int]:
    """The finding's span with two steps (1 ms where there are none) before and after it, ns of the trace's time.

    With steps it begins and ends where a step does. A finding without a time means its step; without that, everything.
    """
    steps = trace.table("steps").sort("start_ns")
    start, end = finding.start_ns, finding.end_ns if finding.end_ns is not None else finding.start_ns
    if start is None and finding.step_id is not None:
        own = steps.filter(pl.col("step_id") == finding.step_id)
        if own.height:
            start = int(own["start_ns"][0])
            end = start + int(own["period_ns"][0] or own["dur_ns"][0] or 0)
    if start is None or end is None:
        return EVERYTHING
    if steps.is_empty():
        return start - _MARGIN_NS, end + _MARGIN_NS
    starts = steps["start_ns"]
    first = int(starts.search_sorted(start, side="right")) - 1 - _MARGIN_STEPS
    last = int(starts.search_sorted(end, side="left")) + _MARGIN_STEPS
    begin = int(starts[first]) if first >= 0 else EVERYTHING[0]
    stop = int(starts[last]) if last < steps.height else EVERYTHING[1]
    return min(begin, start - _MARGIN_NS), max(stop, end + _MARGIN_NS)


def cut(trace: Trace, finding: Finding | None = None) -> bytes:
    """Gzip-compressed Chrome trace of the events of the finding's window and the finding (all without one)."""
    span = EVERYTHING if finding is None else window(trace, finding)
    own = () if finding is None else (finding_line(trace, finding),)
    return compressed(document(trace, chrome_events.lines(trace, [span])["text"], own))


def document(trace: Trace, events: Iterable[str], findings: Sequence[str] = ()) -> str:
    """A whole trace of ``events``; every line but the first and the last is one that may be left out."""
    devices = msgspec.json.encode(chrome_events.devices(trace)).decode()
    lines = [*chrome_events.tracks(trace), *events, *findings]
    return "\n".join([f'{OPENING}{devices},"traceEvents":[', *(f"{line}," for line in lines), CLOSING])


def finding_line(trace: Trace, finding: Finding) -> str:
    """The finding as an event on its own track, over its span; over everything seen where it has none."""
    start = finding.start_ns
    end = finding.end_ns
    if start is None:
        begin, stop = window(trace, finding)
        ops = trace.table("gpu_ops")
        low = int(ops["start_ns"].min() or 0) if ops.height else 0  # type: ignore[arg-type]
        high = int((ops["start_ns"] + ops["dur_ns"]).max() or 1) if ops.height else 1  # type: ignore[arg-type]
        start, end = max(begin, low), min(stop, high)
    return chrome_events.slice_text(
        trace, start, max(1, (start if end is None else end) - start), chrome_events.FINDING_PID, "finding",
        f"{finding.code} {finding.rule}",
        {"message": without_home(finding.message), "advice": without_home("; ".join(finding.advice))},
    )  # fmt: skip


def compressed(text: str) -> bytes:
    """``text`` as gzip, the same bytes for the same text."""
    return gzip.compress(text.encode(), 6, mtime=0)

"""The lanes of the timeline: idle time, graph segments and streams of each GPU, then the host threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from traceql.derived import api, intervals, opaque_replays
from traceql.derived.gaps import gap_parts, gaps
from traceql.derived.graphs import graph_segments
from traceql.derived.launches import launches
from traceql.report import units
from traceql.report.timeline_windows import Windows
from traceql.trace import Trace

_BUDGETS = {"gpu": 20_000, "idle": 14_000, "calls": 14_000, "ops": 20_000, "ranges": 5_000, "python": 24_000}
"""Slices of each sort on one page; of more, the longest stay."""
_MAX_THREADS = 6
_MAX_STREAMS = 12
_FEW = 20
"""A thread that launches nothing gets lanes from this many slices on."""
_MAX_ROWS = {"ops": 8, "ranges": 4, "python": 14, "calls": 2, "stream": 4}
"""Depth shown of each lane; deeper slices are left out."""
_WRAPPER_SHARE = 0.9
_FRAME = r"^(?:.*/)?(?P<file>[^/]+)\(\d+\): (?P<function>.+)$"
"""A Python frame as profilers write it; in a narrow slice the function comes first."""


@dataclass(frozen=True)
class Track:
    """One lane: ``frame`` has start_ns, dur_ns, name, short and where they apply row, class and launch_id."""

    kind: str
    group: str
    label: str
    rows: int
    frame: pl.DataFrame


class _LeftOut:
    """Collects what had to go, in sentences."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.lines: list[str] = []

    def longest(self, frame: pl.DataFrame, sort: str, words: str) -> pl.DataFrame:
        """``frame`` cut to the budget of its sort, the longest rows staying, in order of start."""
        budget = int(_BUDGETS[sort] * self.share)
        if frame.height <= budget:
            return frame
        kept = frame.sort("dur_ns", descending=True).head(budget)
        shortest = units.ms(int(kept["dur_ns"].min()))  # type: ignore[arg-type]
        self.lines.append(f"The timeline shows the {budget:,} longest of {frame.height:,} {words} (from {shortest}).")
        return kept.sort("start_ns")

    def shallow(self, frame: pl.DataFrame, kind: str, words: str) -> pl.DataFrame:
        """``frame`` without the rows nested deeper than its lane shows."""
        kept = frame.filter(pl.col("row") < _MAX_ROWS[kind])
        if kept.height < frame.height:
            self.lines.append(
                f"{frame.height - kept.height:,} {words} nested deeper than {_MAX_ROWS[kind]} are left out."
            )
        return kept


def tracks(trace: Trace, windows: Windows, share: float) -> tuple[list[Track], list[str]]:
    """The lanes in order from the top, and a sentence for everything left out."""
    left_out = _LeftOut(share)
    found = [*_gpu_tracks(trace, windows, left_out), *_host_tracks(trace, windows, left_out)]
    return found, left_out.lines


# --- GPU ----------------------------------------------------------------------------------------------------------


def _gpu_tracks(trace: Trace, windows: Windows, left_out: _LeftOut) -> list[Track]:
    ops = _gpu_slices(trace, windows, left_out)
    idle = _idle_slices(trace, windows, left_out)
    segments = _segments(trace, windows)
    devices = sorted({*ops["device"].drop_nulls(), *idle["device"].drop_nulls()})
    found = []
    for device in devices:
        group = f"GPU {device}"
        for kind, label, frame in (("idle", "idle, by cause", idle), ("segment", "graph segments", segments)):
            rows = frame.filter(pl.col("device") == device)
            if rows.height:
                found.append(Track(kind, group, label, 1, rows))
        on_device = ops.filter(pl.col("device") == device)
        streams = (
            on_device.group_by("stream")
            .agg(pl.col("dur_ns").sum())
            .sort(["dur_ns", "stream"], descending=[True, False])
        )
        shown_streams = streams["stream"].head(_MAX_STREAMS).to_list()
        if streams.height > _MAX_STREAMS:
            left_out.lines.append(
                f"{streams.height - _MAX_STREAMS} streams of GPU {device} with the least work are left out."
            )
        for stream in shown_streams:
            rows = _stacked(on_device.filter(pl.col("stream").eq_missing(pl.lit(stream, pl.Int64))))
            rows = left_out.shallow(rows, "stream", "GPU rows")
            label = "no stream" if stream is None else f"stream {stream}"
            found.append(Track("stream", group, label, _depth(rows), rows))
    return found


def _gpu_slices(trace: Trace, windows: Windows, left_out: _LeftOut) -> pl.DataFrame:
    kernels = trace.table("kernels").select(source_id="kernel_id", full="name", category="category")
    ops = windows.touched(trace.table("gpu_ops"))
    is_kernel = pl.col("kind") == "kernel"
    named = pl.concat(
        [
            ops.filter(is_kernel).join(kernels, on="source_id", how="left"),
            ops.filter(~is_kernel).with_columns(full="name", category="kind"),
        ]
    ).sort("start_ns", "gpu_op_id")
    slices = named.select(
        "device", "stream", "start_ns", "dur_ns", "launch_id", name="full", short="name",
        **{"class": pl.lit("k-") + pl.col("category").fill_null("other")},
    )  # fmt: skip
    return left_out.longest(slices, "gpu", "GPU rows")


def _idle_slices(trace: Trace, windows: Windows, left_out: _LeftOut) -> pl.DataFrame:
    """Gap parts, neighbours of one gap with one cause as one slice, named after what the gap is blamed on."""
    parts = windows.touched(gap_parts(trace))
    run = pl.struct("gap_id", "cause").rle_id()
    blame = gaps(trace).select("gap_id", "device", "blame", gap_ns="dur_ns", before="before", after="after")
    merged = (
        parts.sort("gap_id", "start_ns")
        .with_columns(run=run)
        .group_by("run", maintain_order=True)
        .agg(
            pl.col("gap_id", "cause").first(),
            pl.col("start_ns").min(),
            end_ns=(pl.col("start_ns") + pl.col("dur_ns")).max(),
            own=pl.col("blame").sort_by("dur_ns").last(),
        )
        .join(blame, on="gap_id", how="left", maintain_order="left")
        .sort("device", "start_ns")
    )
    slices = merged.select(
        "device", "start_ns", dur_ns=pl.col("end_ns") - pl.col("start_ns"), name=pl.coalesce("own", "blame", "cause"),
        short=pl.coalesce("own", "blame", "cause"), **{"class": pl.col("cause")},
    )  # fmt: skip
    every = pl.concat([slices, _opaque_slices(trace, windows)])
    return left_out.longest(every, "idle", "idle stretches").sort("device", "start_ns")


def _opaque_slices(trace: Trace, windows: Windows) -> pl.DataFrame:
    """When replays without a device record may have run: no gap of theirs is known, so these lie between the gaps."""
    name = pl.lit(opaque_replays.NAME)
    held = opaque_replays.opaque_windows(trace).with_columns(
        dur_ns=pl.min_horizontal("end_ns", pl.lit(windows.ranges[-1][1])) - pl.col("start_ns")
    )
    return windows.touched(held.filter(pl.col("dur_ns") > 0)).select(
        "device", "start_ns", "dur_ns", name=name, short=name, **{"class": pl.lit("opaque replay")}
    )


def _segments(trace: Trace, windows: Windows) -> pl.DataFrame:
    words = pl.format(
        "{} kernels, {} … {}", "kernels", pl.col("first_kernel").fill_null("–"), pl.col("last_kernel").fill_null("–")
    )
    return windows.touched(graph_segments(trace)).select(
        "device", "start_ns", "dur_ns", "launch_id", name=words, short=words
    )


# --- host ---------------------------------------------------------------------------------------------------------


def _host_tracks(trace: Trace, windows: Windows, left_out: _LeftOut) -> list[Track]:
    lanes: tuple[tuple[str, str, str, Callable[[], pl.DataFrame]], ...] = (
        ("calls", "CUDA calls", "API calls", lambda: _calls(trace, windows)),
        ("ops", "operators", "operators", lambda: _plain(trace.loaded["cpu_ops"], windows)),
        (
            "ranges",
            "ranges",
            "ranges",
            lambda: _plain(trace.loaded["annotations"].filter(pl.col("side") == "cpu"), windows),
        ),
        ("python", "Python", "Python frames", lambda: _python(trace, windows, left_out)),
    )
    nested = {
        kind: left_out.longest(left_out.shallow(_nested(load()), kind, words), kind, words)
        for kind, _, words, load in lanes
    }
    found = []
    threads = _threads(trace, windows, nested)
    if len(threads) > _MAX_THREADS:
        left_out.lines.append(f"{len(threads) - _MAX_THREADS} host threads with fewest launches are left out.")
    for pid, tid in threads[:_MAX_THREADS]:
        group = f"thread {tid}"
        for kind, label, _, _ in lanes:
            rows = nested[kind].filter((pl.col("pid").eq_missing(pl.lit(pid, pl.Int64))) & (pl.col("tid") == tid))
            if rows.height:
                found.append(Track(kind, group, label, _depth(rows), rows.sort("start_ns", "row")))
    return found


def _threads(trace: Trace, windows: Windows, nested: dict[str, pl.DataFrame]) -> list[tuple[int, int]]:
    """(pid, tid) of the threads that do anything here, those that launch most first."""
    launched = windows.touched(launches(trace)).group_by("pid", "tid").agg(launched=pl.len())
    active = pl.concat([frame.select("pid", "tid") for frame in nested.values()]).drop_nulls("tid")
    counted = (
        active.group_by("pid", "tid").agg(rows=pl.len()).join(launched, on=["pid", "tid"], how="left", nulls_equal=True)
    )
    ordered = (
        counted.with_columns(pl.col("launched").fill_null(0))
        .filter((pl.col("launched") > 0) | (pl.col("rows") >= _FEW))
        .sort(["launched", "rows", "tid"], descending=[True, True, False])
    )
    return list(ordered.select("pid", "tid").rows())


def _calls(trace: Trace, windows: Windows) -> pl.DataFrame:
    calls = windows.touched(trace.table("runtime_calls"))
    name = pl.col("name")
    sort = (
        pl.when(name.str.contains(api.GRAPH_LAUNCH))
        .then(pl.lit("h-graph-launch"))
        .when(name.str.contains(api.KERNEL_LAUNCH))
        .then(pl.lit("h-launch"))
        .when(name.str.contains(api.SYNCHRONIZE))
        .then(pl.lit("h-blocked"))
        .otherwise(pl.lit("h-call"))
    )
    return calls.select("pid", "tid", "start_ns", "dur_ns", "launch_id", "name", short="name", **{"class": sort})


def _plain(frame: pl.DataFrame, windows: Windows) -> pl.DataFrame:
    return windows.touched(frame).select("pid", "tid", "start_ns", "dur_ns", "name", short="name")


def _python(trace: Trace, windows: Windows, left_out: _LeftOut) -> pl.DataFrame:
    """Python frames without those that tell nothing here.

    Frames open throughout everything shown, and wrappers: frames of which one callee takes nine tenths. A module's
    ``__call__``, ``_call_impl`` and ``forward`` become the frame in which time divides.
    """
    first, last = windows.ranges[0][0], windows.ranges[-1][1]
    frames = _plain(trace.loaded["python_calls"], windows)
    inside = frames.filter((pl.col("start_ns") > first) | (pl.col("start_ns") + pl.col("dur_ns") < last))
    sorted_, parent = _with_parent(inside)
    callee = (
        sorted_.select("dur_ns", parent=parent)
        .filter(pl.col("parent") >= 0)
        .group_by("parent")
        .agg(longest=pl.col("dur_ns").max())
    )
    divided = (
        sorted_.with_row_index("parent")
        .with_columns(pl.col("parent").cast(pl.Int64))
        .join(callee, on="parent", how="left", maintain_order="left")
        .filter(pl.col("longest").fill_null(0) < _WRAPPER_SHARE * pl.col("dur_ns"))
        .drop("parent", "longest")
    )
    if divided.height < sorted_.height:
        left_out.lines.append(
            f"{sorted_.height - divided.height:,} of {sorted_.height:,} Python frames are left out: one callee takes nine "
            "tenths of them."
        )
    return divided.with_columns(short=pl.col("name").str.replace(_FRAME, "$function · $file"))


def _with_parent(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
    """``frame`` sorted so that a row follows those that enclose it, and the row number of each one's parent (or −1)."""
    end = pl.col("start_ns") + pl.col("dur_ns")
    sorted_ = (
        frame.filter(pl.col("tid").is_not_null())
        .with_columns(thread=pl.struct("pid", "tid").rank("dense").cast(pl.Int64), end_ns=end)
        .sort("thread", "start_ns", pl.col("end_ns") * -1, maintain_order=True)
    )
    if sorted_.is_empty():
        return sorted_.drop("thread", "end_ns"), pl.Series([], dtype=pl.Int64)
    parent = intervals.parents(*(sorted_[c].to_numpy() for c in ("start_ns", "end_ns", "thread")))
    return sorted_.drop("thread", "end_ns"), pl.Series(parent, dtype=pl.Int64)


def _nested(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with ``row``: how many others on the thread enclose it."""
    sorted_, parent = _with_parent(frame)
    depth: list[int] = []
    for at in parent:  # a parent stands before its children
        depth.append(depth[at] + 1 if at >= 0 else 0)
    return sorted_.with_columns(row=pl.Series(depth, dtype=pl.Int64))


def _stacked(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` (one stream) with ``row``: rows that run at once lie under each other."""
    ends: list[int] = []
    rows = []
    for start, dur in frame.select("start_ns", "dur_ns").rows():
        row = next((i for i, end in enumerate(ends) if end <= start), len(ends))
        if row == len(ends):
            ends.append(0)
        ends[row] = start + dur
        rows.append(row)
    return frame.with_columns(row=pl.Series(rows, dtype=pl.Int64))


def _depth(frame: pl.DataFrame) -> int:
    return int(frame["row"].max() or 0) + 1  # type: ignore[arg-type]

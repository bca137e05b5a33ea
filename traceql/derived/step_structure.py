"""Steps of a trace without step marks, told from what repeats: named ranges, graph replays, the kernel sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import api, intervals
from traceql.derived.kernel_sequence import kernels_in_launch_order
from traceql.derived.launches import calls_with_gpu_work, launched_by, launches
from traceql.derived.repetition import repetition
from traceql.derived.step_marks import MARK_SCHEMA, PROFILER_STEP, host_ranges
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_STEPS = 3
_COVERED = 0.6
"""Share of the kernels that a period must explain to be taken for the step."""
_CANDIDATES = 64
"""Rarest kernels whose spacing is tried as the period."""
_SMALLEST_STEP = 12
"""Kernels a step has at least; shorter cycles are loops inside one."""


def from_graph_replays(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """Steps as the shortest repeating cycle of graph launches (a piecewise decode replays dozens a step).

    Of one process with ``pid``, as in all that follow.
    """
    calls = launches_of_graphs(trace, pid)
    if calls.height < _MIN_STEPS:
        return _none()
    found = repetition(calls["symbol"].to_numpy())
    if not found.count:
        return _none()
    first = np.arange(found.count) * found.period + found.start
    starts = calls["start_ns"].to_numpy()[first]
    own_pid, tid = calls.select("pid", "tid").row(int(first[0]))
    return whole_steps(trace, pid, between(trace, starts, starts, own_pid, tid, "graph_replays"))


def launches_of_graphs(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """Graph launch calls of the thread that makes most of them, with ``symbol``: a number for each distinct replay."""
    calls = calls_with_gpu_work(trace).filter((pl.col("kind") == "graph") & _of(pid))
    if calls.is_empty():
        return calls.with_columns(symbol=pl.lit(None, pl.Int64))
    names = trace.loaded["kernels"].select(source_id="kernel_id", kernel="name")
    replay = (
        launched_by(trace)
        .filter((pl.col("launch_kind") == "graph") & (pl.col("kind") == "kernel"))
        .join(names, on="source_id", how="left", maintain_order="left")
        .group_by("launch_id")
        .agg(nodes=pl.len(), first=pl.col("kernel").first(), last=pl.col("kernel").last())
    )
    thread = ["pid", "tid"]
    busiest = calls.group_by(thread).len().sort("len", descending=True).select(thread).head(1)
    return (
        calls.join(busiest, on=thread, how="semi", nulls_equal=True, maintain_order="left")
        .join(replay, on="launch_id", how="left", maintain_order="left")
        .join(_calls_before(trace, calls), on="launch_id", how="left", maintain_order="left")
        # replays without kernel rows are told apart by what the host called just before
        .with_columns(before=pl.when(pl.col("nodes").is_null()).then("before"))
        .with_columns(symbol=pl.struct("nodes", "first", "last", "before").rank("dense").cast(pl.Int64))
    )


def _calls_before(trace: Trace, graph_calls: pl.DataFrame) -> pl.DataFrame:
    """launch_id → ``before``: the last API call on its thread since the graph launch before it; none, no row."""
    own = graph_calls.select("pid", "tid", "launch_id", at="start_ns").sort("at")
    return (
        trace.loaded["runtime_calls"]
        .select("pid", "tid", "start_ns", "name")
        .sort("start_ns")
        .join_asof(
            own, left_on="start_ns", right_on="at", by=["pid", "tid"], strategy="forward", allow_exact_matches=False,
            check_sortedness=False,
        )
        .filter(pl.col("launch_id").is_not_null() & ~pl.col("name").str.contains(api.GRAPH_LAUNCH))
        .group_by("launch_id")
        .agg(before=pl.col("name").last())
    )  # fmt: skip


def _of(pid: int | None) -> pl.Expr:
    return pl.lit(True) if pid is None else pl.col("pid") == pid


def from_kernel_sequence(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """Steps as the period of the kernel sequence, cut at a once-a-step kernel.

    Where steps differ in length (prefills between decodes) there is no period: then at the embedding or sampling kernel
    that always has a whole model pass between two of its occurrences.
    """
    kernels = kernels_in_launch_order(trace, pid)
    at = _periodic_anchors(kernels["symbol"].to_numpy())
    if at is None:
        at = _model_pass_anchors(kernels)
    if at is None:
        return _none()
    anchors = kernels[at]
    starts = anchors["call_ns"].to_numpy()
    if (np.diff(starts) <= 0).any():
        return _none()  # several in one replay: a cycle inside a step
    ends_step = anchors["category"][0] == "sampling"
    earliest = np.append(kernels["call_ns"][0], starts[:-1] + 1) if ends_step else starts
    return whole_steps(
        trace, pid, between(trace, starts, earliest, anchors["pid"][0], anchors["tid"][0], "kernel_sequence")
    )


def _periodic_anchors(symbols: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Positions of a once-a-step kernel; None when no period explains the sequence.

    The period is the spacing of a rare kernel at which most of the sequence equals itself.
    """
    size = len(symbols)
    if size < _MIN_STEPS * _SMALLEST_STEP:
        return None
    values, counts = np.unique(symbols, return_counts=True)
    often = counts >= _MIN_STEPS
    rare = values[often][np.argsort(counts[often], kind="stable")][:_CANDIDATES]
    best_share, best_period = 0.0, 0
    for value in rare:
        period = int(np.median(np.diff(np.flatnonzero(symbols == value))))
        if not _SMALLEST_STEP <= period <= size // 2:
            continue
        share = float((symbols[period:] == symbols[:-period]).sum()) / (size - period)
        if share > best_share + 0.02 or (share > best_share - 0.02 and period < best_period):
            best_share, best_period = max(share, best_share), period
    if best_share < _COVERED:
        return None
    return _spaced_by(symbols, values[often], best_period)


def _spaced_by(symbols: NDArray[np.int64], values: NDArray[np.int64], period: int) -> NDArray[np.int64] | None:
    """Occurrences of the kernel that comes once a period, most regularly and earliest."""
    found: list[tuple[float, int, NDArray[np.int64]]] = []
    for value in values:
        at = np.flatnonzero(symbols == value)
        regular = float((np.abs(np.diff(at) - period) <= max(2, period // 50)).mean())
        if regular >= _COVERED and abs(len(at) * period - len(symbols)) <= period:
            found.append((regular, int(at[0]), at))
    return min(found, key=lambda f: (-round(f[0], 1), f[1]))[2] if found else None


def _model_pass_anchors(kernels: pl.DataFrame) -> NDArray[np.int64] | None:
    """Occurrences of the embedding (else sampling) kernel with gemm or attention work between each two of them."""
    work = kernels["category"].is_in(["gemm", "attention"]).fill_null(False).to_numpy().cumsum()
    for category in ("embedding", "sampling"):
        best: NDArray[np.int64] | None = None
        named = kernels.with_row_index("at").filter(pl.col("category") == category)
        for (_,), group in named.group_by("symbol", maintain_order=True):
            at = group["at"].to_numpy().astype(np.int64)
            whole = len(at) >= _MIN_STEPS and bool((np.diff(work[at]) >= _SMALLEST_STEP).all())
            if whole and (best is None or len(at) > len(best)):
                best = at
        if best is not None:
            return best
    return None


def whole_steps(trace: Trace, pid: int | None, marks: pl.DataFrame) -> pl.DataFrame:
    """``marks`` if they are steps; none if they are cycles inside one (layers, segments).

    A step embeds or samples: where the trace has such kernels, most cycles must launch one.
    """
    numbered = marks.with_columns(cycle=pl.int_range(pl.len(), dtype=pl.Int64))
    placed = intervals.holding(kernels_in_launch_order(trace, pid), "call_ns", numbered, "cycle", [])
    inside = placed.filter(pl.col("cycle").is_not_null())
    once = pl.col("category").is_in(["embedding", "sampling"]).fill_null(False)
    if placed.filter(once).is_empty() or inside.is_empty():
        return marks  # nothing to tell by: replays without kernel rows, or a model without known names
    held = inside.filter(once)["cycle"].n_unique()
    return marks if held >= _COVERED * marks.height else _none()


def from_ranges(trace: Trace, pid: int | None = None) -> pl.DataFrame:
    """Steps as the named host range that repeats and holds most of the launches between its first and last instance."""
    ranges = host_ranges(trace, pid).filter(~pl.col("name").str.contains(PROFILER_STEP))
    calls = launches(trace, with_steps=False).filter((pl.col("gpu_ops") > 0) & _of(pid))
    if ranges.is_empty() or calls.is_empty():
        return _none()
    named = ranges.with_columns(
        end_ns=pl.col("start_ns") + pl.col("dur_ns"), family=pl.col("name").str.replace_all(r"\d+", "#")
    )
    key = ["family", "pid", "tid"]
    alone = (pl.col("start_ns") >= pl.col("end_ns").cum_max().shift(1)).fill_null(True).over(key, order_by="start_ns")
    # a range of the same name in several threads is the same step mark
    candidates = (
        named.with_columns(alone=alone)
        .group_by("family")
        .agg(
            pl.len().alias("instances"),
            pl.col("alone").all(),
            first=pl.col("start_ns").min(),
            last=pl.col("end_ns").max(),
        )
        .filter((pl.col("instances") >= _MIN_STEPS) & pl.col("alone"))
        .sort("family")
    )
    best: tuple[float, int, pl.DataFrame] | None = None
    for row in candidates.rows(named=True):
        members = named.filter(pl.col("family") == row["family"]).sort("start_ns")
        share = _share_inside(calls.filter(pl.col("start_ns").is_between(row["first"], row["last"])), members)
        if share >= _COVERED and (best is None or (share, -members.height) > best[:2]):
            best = (share, -members.height, members)
    if best is None:
        return _none()
    name = pl.col("name").str.to_lowercase()
    kind = (
        pl.when(name.str.contains("decode"))
        .then(pl.lit("decode"))
        .when(name.str.contains("prefill"))
        .then(pl.lit("prefill"))
    )
    return best[2].select(
        "name", "start_ns", "end_ns", "pid", "tid", kind.alias("kind"),
        pl.lit(None, pl.Int64).alias("batch_size"), pl.lit(None, pl.Int64).alias("tokens"), pl.lit("nvtx").alias("found_by"),
    )  # fmt: skip


def _share_inside(calls: pl.DataFrame, members: pl.DataFrame) -> float:
    """Share of the launched GPU work whose call lies inside one of the ranges."""
    numbered = members.with_columns(member=pl.int_range(pl.len(), dtype=pl.Int64))
    inside = intervals.holding(calls, "start_ns", numbered, "member", ["pid"]).filter(pl.col("member").is_not_null())
    total = int(calls["gpu_ops"].sum())
    return int(inside["gpu_ops"].sum()) / total if total else 0.0


def between(
    trace: Trace,
    starts: NDArray[np.int64],
    earliest: NDArray[np.int64],
    pid: int | None,
    tid: int | None,
    found_by: str,
) -> pl.DataFrame:
    """Step ranges from the host times of a once-a-step event, as MARK_SCHEMA.

    A step begins where the host came back from its last wait before the event (it has the tokens of the step before),
    without one at ``earliest``. It ends where the next begins; the last one is as long as the median.
    """
    waits = _wait_ends(trace, pid, tid)
    typical = int(np.median(np.diff(starts)))
    previous = np.append(starts[0] - typical, starts[:-1])
    if len(waits):
        position = np.searchsorted(waits, starts, side="right") - 1
        resumed = np.where(position >= 0, waits[np.maximum(position, 0)], previous)
        begins = np.where(resumed > previous, resumed, earliest)
    else:
        begins = earliest
    last = begins[-1] + int(np.median(np.diff(begins)))
    size = len(begins)
    return pl.DataFrame(
        {
            "name": [None] * size, "start_ns": begins, "end_ns": np.append(begins[1:], last), "pid": [pid] * size,
            "tid": [tid] * size, "kind": [None] * size, "batch_size": [None] * size, "tokens": [None] * size,
            "found_by": [found_by] * size,
        },
        schema=MARK_SCHEMA,
    )  # fmt: skip


def _wait_ends(trace: Trace, pid: int | None, tid: int | None) -> NDArray[np.int64]:
    """Ends of the synchronising calls of a thread, sorted."""
    calls = trace.loaded["runtime_calls"].filter(
        pl.col("pid").eq_missing(pid) & pl.col("tid").eq_missing(tid) & pl.col("name").str.contains(api.SYNCHRONIZE)
    )
    return (calls["start_ns"] + calls["dur_ns"]).sort().to_numpy()


def _none() -> pl.DataFrame:
    return pl.DataFrame(schema=MARK_SCHEMA)

"""How many launches a device has outstanding, and launch calls that waited for room in its queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray


@memoised
def queued_launches(trace: Trace) -> pl.DataFrame:
    """Launch calls with device rows: launch_id, name, start_ns, dur_ns, step_id, device, ``queued`` (launches of that
    device called before and not finished when the call starts) and ``device_busy_ns`` within the call."""
    done = (
        gpu_ops(trace)
        .filter(pl.col("launch_id").is_not_null() & pl.col("device").is_not_null())
        .group_by("launch_id", "device")
        .agg(done_ns=pl.col("end_ns").max())
    )
    calls = (
        launches(trace)
        .select(
            "launch_id", "name", "kind", "start_ns", "dur_ns", "step_id", end_ns=pl.col("start_ns") + pl.col("dur_ns")
        )
        .join(done, on="launch_id")
        .sort("device", "start_ns", "launch_id")
    )
    device = calls["device"].to_numpy()
    finished = np.zeros(len(device), np.int64)
    for one in np.unique(device):
        rows = device == one
        finished[rows] = _finished(calls["start_ns"].to_numpy()[rows], calls["done_ns"].to_numpy()[rows])
    everything = gpu_ops(trace).filter(pl.col("device").is_not_null())
    until = intervals.busy_at(calls, ("start_ns", "end_ns"), everything, ["device"])
    before = pl.int_range(pl.len(), dtype=pl.Int64).over("device")
    return calls.with_columns(queued=before - pl.Series(finished), device_busy_ns=until[1] - until[0]).drop("done_ns")


def _finished(starts: NDArray[np.int64], done: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many have finished when each starts."""
    return np.searchsorted(np.sort(done), starts, side="right").astype(np.int64)


BUSY_SHARE = 0.9
"""The device works while a launch call waits for room in its queue."""


def held_by_full_queue(trace: Trace, min_call_ns: float, min_queued: float) -> pl.DataFrame:
    """Kernel launch calls that lasted at least ``min_call_ns`` with ``min_queued`` launches outstanding while the
    device worked: rows of ``queued_launches``."""
    return queued_launches(trace).filter(
        (pl.col("kind") == "kernel")
        & (pl.col("dur_ns") >= min_call_ns)
        & (pl.col("queued") >= min_queued)
        & (pl.col("device_busy_ns") >= BUSY_SHARE * pl.col("dur_ns"))
    )

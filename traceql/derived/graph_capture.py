"""When the host captured or instantiated CUDA graphs."""

from __future__ import annotations

import polars as pl

from traceql.derived import api, memoised
from traceql.derived.steps import steps
from traceql.trace import Trace

_PLACE = ["pid", "tid", "start_ns", "end_ns"]


@memoised
def graph_captures(trace: Trace) -> pl.DataFrame:
    """Captures and instantiations that began within the measured steps: what, pid, tid, start_ns, end_ns, dur_ns, step_id.

    ``what`` is *capture* (the call that begins one to the end of the call that ends it on that thread) or *instantiate*.
    The measured steps last from the first one's start to the end of the last one's period; ``step_id`` is the step of the
    same process whose period holds the start.
    """
    name = pl.col("name")
    calls = trace.loaded["runtime_calls"].with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))
    ends = calls.filter(name.str.contains(api.CAPTURE_END)).select("pid", "tid", "start_ns", captured_ns="end_ns")
    captured = (
        calls.filter(name.str.contains(api.CAPTURE_BEGIN))
        .select(_PLACE)
        .sort("start_ns")
        .join_asof(ends.sort("start_ns"), on="start_ns", by=["pid", "tid"], strategy="forward", check_sortedness=False)
        .with_columns(end_ns=pl.coalesce("captured_ns", "end_ns"), what=pl.lit("capture"))
    )
    instantiated = calls.filter(name.str.contains(api.GRAPH_INSTANTIATE)).select(*_PLACE, what=pl.lit("instantiate"))
    periods = steps(trace).select("pid", "step_id", period_start="start_ns", period_ns="period_ns").sort("period_start")
    return (
        pl.concat([captured.select("what", *_PLACE), instantiated.select("what", *_PLACE)])
        .sort("start_ns")
        .join_asof(
            periods, left_on="start_ns", right_on="period_start", by="pid", strategy="backward", check_sortedness=False
        )
        .filter(pl.col("start_ns") < pl.col("period_start") + pl.col("period_ns"))
        .select("what", *_PLACE, "step_id", dur_ns=pl.col("end_ns") - pl.col("start_ns"))
    )

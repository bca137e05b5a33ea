"""Which host call put which GPU work on the device."""

from __future__ import annotations

import polars as pl

from traceql import schema
from traceql.derived import api, memoised
from traceql.derived.naming import told
from traceql.trace import Trace

_GPU_TABLES = {"kernel": "kernels", "memcpy": "memcpys", "memset": "memsets", "graph": "graph_traces"}
"""gpu_ops.kind → loaded table."""


@memoised
def gpu_rows(trace: Trace) -> pl.DataFrame:
    """All GPU work as loaded: kind, source_id, start_ns, dur_ns, end_ns, device, stream, pid, correlation_id."""
    frames = []
    for kind, table in _GPU_TABLES.items():
        frame = trace.loaded[table]
        identity = schema.TABLES[table].columns[0].name
        frames.append(
            frame.select(
                pl.lit(kind).alias("kind"),
                pl.col(identity).alias("source_id"),
                "rank", "start_ns", "dur_ns", "device", "stream", "pid", _correlation(),
                (pl.col("start_ns") + pl.col("dur_ns")).alias("end_ns"),
            )
        )  # fmt: skip
    return pl.concat(frames).sort("start_ns", "end_ns", maintain_order=True)


def _correlation() -> pl.Expr:
    """Correlation ids; profilers write 0 for "none"."""
    return pl.when(pl.col("correlation_id") != 0).then("correlation_id").alias("correlation_id")


@memoised
def calls_with_gpu_work(trace: Trace) -> pl.DataFrame:
    """Runtime calls that launch, with what they launched: one row a launch call, ``launch_id`` in order of start.

    A call launches when its name says so, or when GPU rows carry its correlation id. GPU rows join on (pid,
    correlation id); a row whose process the file does not tell joins where only one process has a call with its id.
    Should several calls of a process share one id, the one whose name launches wins, then the first.
    """
    keys = ["pid", "correlation_id"]
    launched = _joinable(trace).filter(pl.col("correlation_id").is_not_null())
    counts = launched.group_by(keys).agg(gpu_ops=pl.len().cast(pl.Int64))
    calls = trace.loaded["runtime_calls"]
    calls = calls.with_columns(_correlation(), kind=told(calls["name"], api.kind(pl.col("name"))))
    linked = (
        calls.filter(pl.col("correlation_id").is_not_null())
        .sort(pl.col("kind").is_null(), "start_ns", maintain_order=True)
        .unique(keys, keep="first", maintain_order=True)
        .join(counts, on=keys, how="inner", nulls_equal=True)
        .select("call_id", "gpu_ops")
    )
    return (
        calls.join(linked, on="call_id", how="left")
        .filter(pl.col("kind").is_not_null() | pl.col("gpu_ops").is_not_null())
        .sort("start_ns", maintain_order=True)
        .with_columns(pl.col("gpu_ops").fill_null(0), launch_id=pl.int_range(pl.len(), dtype=pl.Int64))
    )


@memoised
def _joinable(trace: Trace) -> pl.DataFrame:
    """pid and correlation id by which each of ``gpu_rows``, in order, joins its call; no id where that is not certain."""
    rows = gpu_rows(trace).select("pid", "correlation_id")
    if not rows["pid"].null_count():
        return rows
    calls = trace.loaded["runtime_calls"].select("pid", _correlation())
    of_id = calls.group_by("correlation_id").agg(only=pl.col("pid").first(), processes=pl.col("pid").n_unique())
    certain = pl.col("pid").is_not_null() | (pl.col("processes") == 1)
    return rows.join(of_id, on="correlation_id", how="left", maintain_order="left").select(
        pid=pl.coalesce("pid", "only"), correlation_id=pl.when(certain).then("correlation_id")
    )


@memoised
def launched_by(trace: Trace) -> pl.DataFrame:
    """``gpu_rows`` with ``launch_id`` and ``launch_kind``, null where the launch is not in the trace."""
    keys = ["pid", "correlation_id"]
    calls = calls_with_gpu_work(trace).filter(pl.col("gpu_ops") > 0)
    by_id = calls.select(*keys, "launch_id", launch_kind="kind")
    found = _joinable(trace).join(by_id, on=keys, how="left", maintain_order="left", nulls_equal=True)
    return gpu_rows(trace).with_columns(found["launch_id"], found["launch_kind"])


@memoised
def _delays(trace: Trace) -> pl.DataFrame:
    """Launch id → first GPU start and the previous end on that stream (a running maximum)."""
    return (
        launched_by(trace)
        .with_columns(
            previous_end_ns=pl.col("end_ns")
            .cum_max()
            .shift(1)
            .over("device", "stream", order_by=["start_ns", "end_ns"])
        )
        .filter(pl.col("launch_id").is_not_null())
        .sort("start_ns", maintain_order=True)
        .group_by("launch_id", maintain_order=True)
        .agg(gpu_start_ns=pl.col("start_ns").first(), previous_end_ns=pl.col("previous_end_ns").first())
    )


@memoised
def launches(trace: Trace, *, with_steps: bool = True) -> pl.DataFrame:
    """The contract's ``launches``: every call that put work on the GPU or by its name was meant to.

    ``delay_ns`` = max(0, GPU start − max(call end, previous end on that stream)): time queued behind other work is
    not delay. ``with_steps=False`` leaves ``step_id`` null: what finds the steps cannot ask for it.
    """
    from traceql.derived.steps import step_of_time

    end = pl.col("start_ns") + pl.col("dur_ns")
    frame = calls_with_gpu_work(trace).join(_delays(trace), on="launch_id", how="left", maintain_order="left")
    ready = pl.max_horizontal(end, "previous_end_ns")
    delay = pl.max_horizontal(pl.col("gpu_start_ns") - ready, pl.lit(0))
    stepped = step_of_time(trace, frame) if with_steps else frame.with_columns(step_id=pl.lit(None, pl.Int64))
    return stepped.with_columns(delay_ns=pl.when(pl.col("gpu_start_ns").is_not_null()).then(delay))


def runtime_calls(trace: Trace) -> pl.DataFrame:
    """The loaded calls with ``launch_id``."""
    ids = calls_with_gpu_work(trace).select("call_id", "launch_id")
    return trace.loaded["runtime_calls"].drop("launch_id").join(ids, on="call_id", how="left", maintain_order="left")

"""When requests get their tokens, as far as a trace shows: between tokens (ITL) and to the first one (TTFT)."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.decode_intervals import decode_intervals
from traceql.derived.steps import steps
from traceql.trace import Trace


@memoised
def token_latencies(trace: Trace) -> pl.DataFrame:
    """The contract's ``token_latencies``, in order of the time from which they count.

    TTFT is a lower bound: from the host's start of the prefill to the end of its GPU work. How long the requests had
    waited to be scheduled is not in a trace, and a chunk of a long prompt gives no token yet.
    """
    between = decode_intervals(trace).select(
        "step_id", "batch_size", "prefills", "start_ns", kind=pl.lit("itl"), latency_ns="itl_ns"
    )
    gpu_end = pl.col("gpu_start_ns") + pl.col("gpu_dur_ns")
    first = (
        steps(trace)
        .filter(pl.col("kind") == "prefill")
        .select(
            "step_id", "batch_size", "tokens", "start_ns", kind=pl.lit("ttft"), latency_ns=gpu_end - pl.col("start_ns")
        )
        .drop_nulls("latency_ns")
    )
    both = pl.concat([between, first], how="diagonal_relaxed").sort("start_ns", "step_id", "kind")
    return both.with_columns(rank=pl.lit(trace.rank, pl.Int64))

"""Inter-token latency as a trace shows it: from the end of one decode step's GPU work to the end of the next one's."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.attention_growth import attention_steps
from traceql.derived.steps import steps
from traceql.trace import Trace

_THREAD = ["pid", "tid"]


@memoised
def decode_intervals(trace: Trace) -> pl.DataFrame:
    """One row a decode step that follows another one on its thread.

    Columns:
        step_id, batch_size, gpu_busy_ns: of the step.
        waiting_batch: batch size of the decode step before, whose requests waited.
        start_ns, itl_ns: from the end of the GPU work of the decode step before to the end of its own; between host
            starts where GPU work is not recorded.
        prefills, prefill_tokens, prefill_busy_ns: other steps in between and the GPU work of those.
    """
    frame = steps(trace).sort("start_ns").with_columns(
        end_ns=pl.coalesce(pl.col("gpu_start_ns") + pl.col("gpu_dur_ns"), pl.col("start_ns") + pl.col("period_ns")),
        is_decode=(pl.col("kind") == "decode").fill_null(False),
    )  # fmt: skip
    other = ~pl.col("is_decode")
    so_far = frame.with_columns(
        others=other.cast(pl.Int64).cum_sum().over(_THREAD),
        tokens_of_others=pl.when(other).then(pl.col("tokens").fill_null(0)).otherwise(0).cum_sum().over(_THREAD),
        busy_of_others=pl.when(other).then(pl.col("gpu_busy_ns").fill_null(0)).otherwise(0).cum_sum().over(_THREAD),
    )
    decode = so_far.filter("is_decode")

    def since_last(column: str) -> pl.Expr:
        return pl.col(column) - pl.col(column).shift(1).over(_THREAD)

    return (
        decode.with_columns(
            waiting_batch=pl.col("batch_size").shift(1).over(_THREAD),
            before_ns=pl.col("end_ns").shift(1).over(_THREAD),
            itl_ns=since_last("end_ns"),
            prefills=since_last("others"),
            prefill_tokens=since_last("tokens_of_others"),
            prefill_busy_ns=since_last("busy_of_others"),
        )
        .filter(pl.col("itl_ns") > 0)
        .select(
            "step_id", "name", "batch_size", "gpu_busy_ns", "waiting_batch", "itl_ns", "prefills", "prefill_tokens",
            "prefill_busy_ns", start_ns="before_ns",
        )
    )  # fmt: skip


@memoised
def undisturbed_runs(trace: Trace) -> pl.DataFrame:
    """Decode intervals of one batch size that follow each other without a prefill between them.

    ``decode_intervals`` with ``run`` (a number for each such stretch), ``kv_tokens`` (tokens added to the KV cache since
    the stretch began: every step adds one a request), ``attention_ns`` and ``idle_ns`` (the interval less GPU busy).
    The first interval of a stretch is left out: it begins in another batch, and often loads kernels.
    """
    attention = attention_steps(trace).select("step_id", "attention_ns")
    found = decode_intervals(trace).join(attention, on="step_id", how="left", maintain_order="left")
    changes = (
        (pl.col("prefills") > 0)
        | pl.col("batch_size").ne_missing(pl.col("waiting_batch"))
        | pl.col("batch_size").ne_missing(pl.col("batch_size").shift(1))
    )
    numbered = found.with_columns(run=changes.fill_null(True).cum_sum())
    position = pl.int_range(pl.len(), dtype=pl.Int64).over("run")
    begins_elsewhere = changes.first().over("run")
    return (
        numbered.with_columns(position=position, skipped=begins_elsewhere & (position == 0))
        .filter(~pl.col("skipped"))
        .with_columns(
            kv_tokens=pl.col("batch_size") * pl.col("position"), idle_ns=pl.col("itl_ns") - pl.col("gpu_busy_ns")
        )
        .drop("position", "skipped")
    )

"""What the device did while it communicated: computed elsewhere, waited, or nothing else.

A later kernel of the communication kernel's own stream that runs at the same time was launched early (programmatic
dependent launch) and waits for it: that is no overlap. An earlier one is what the communication kernel waits for.
"""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.collectives import collectives
from traceql.derived.gpu_ops import gpu_ops
from traceql.trace import Trace

_ZERO = pl.lit(0, pl.Int64)


@memoised
def collective_overlap(trace: Trace) -> pl.DataFrame:
    """The contract's ``collective_overlap``, with ``bytes``, in order of start."""
    found = trace.table("collectives").filter(pl.col("device").is_not_null())
    if found.is_empty():
        return found
    compute = compute_kernels(trace)
    streams = [_of_stream(rows, compute) for _, rows in found.group_by("device", "stream", maintain_order=True)]
    placed = pl.concat(streams).sort("collective_id")
    end = pl.col("start_ns") + pl.col("dur_ns")
    reach = (
        (pl.col("own_ns") + pl.col("left_ns")).cum_max().shift(1).over("device", order_by=["start_ns", "collective_id"])
    )
    shared = pl.min_horizontal(pl.max_horizontal(reach.fill_null(0) - pl.col("own_ns"), _ZERO), "left_ns")
    alone = placed.with_columns(shared_ns=shared).with_columns(
        alone_ns=pl.col("own_ns") + pl.col("shared_ns"), end_ns=end
    )
    hidden = _busy_elsewhere(alone, compute)
    return (
        alone.with_columns(hidden_ns=hidden)
        .with_columns(
            exposed_ns=pl.col("end_ns") - pl.col("alone_ns") - pl.col("hidden_ns"),
            transfer_ns=pl.col("left_ns").min().over(_kind(trace)),
        )
        .with_columns(waiting_ns=pl.col("left_ns") - pl.col("transfer_ns"))
        .join(_layers(trace), on="kernel_id", how="left", maintain_order="left")
    )


def compute_kernels(trace: Trace) -> pl.DataFrame:
    """Kernels that do not communicate, with ``end_ns``, in order of start."""
    communicating = collectives(trace)
    kernels = gpu_ops(trace).filter((pl.col("kind") == "kernel") & pl.col("device").is_not_null())
    if not communicating.is_empty():
        kernels = kernels.filter(~pl.col("source_id").is_in(communicating["kernel_id"].implode()))
    return kernels.select("device", "stream", "start_ns", "end_ns", "step_id")


def _kind(trace: Trace) -> list[pl.Expr]:
    """What collectives must have in common to be compared: kernel, launch shape, size, or the step's batch."""
    steps = trace.table("steps").select("step_id", "batch_size", "tokens")
    size = pl.col("step_id").replace_strict(
        steps["step_id"], steps["tokens"].fill_null(-1), default=None, return_dtype=pl.Int64
    )
    return [pl.col("name"), pl.col("group"), pl.col("bytes"), pl.when(pl.col("bytes").is_null()).then(size)]


def _of_stream(rows: pl.DataFrame, compute: pl.DataFrame) -> pl.DataFrame:
    """Collectives of one stream with ``early_ns``, ``followed_ns``, ``own_ns`` (when it began on its own account) and
    ``left_ns`` (from there to its end)."""
    first = rows.row(0, named=True)
    mine = compute.filter(
        (pl.col("device") == first["device"]) & pl.col("stream").eq_missing(pl.lit(first["stream"], pl.Int64))
    )
    end = pl.col("start_ns") + pl.col("dur_ns")
    before = mine.select(pl.col("start_ns").alias("_from"), reach=pl.col("end_ns").cum_max()).sort("_from")
    timed = rows.with_columns(end_ns=end).sort("start_ns", maintain_order=True)
    behind = timed.join_asof(
        before,
        left_on="start_ns",
        right_on="_from",
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    early = pl.min_horizontal(pl.max_horizontal(pl.col("reach").fill_null(0) - pl.col("start_ns"), _ZERO), "dur_ns")
    marked = behind.with_columns(early_ns=early).with_columns(own_ns=pl.col("start_ns") + pl.col("early_ns"))
    until = intervals.busy_at(marked, ("own_ns", "end_ns"), mine, ["device"])
    return marked.with_columns(left_ns=pl.col("end_ns") - pl.col("own_ns"), followed_ns=until[1] - until[0]).drop(
        "end_ns", "reach", "_from", strict=False
    )


def _busy_elsewhere(rows: pl.DataFrame, compute: pl.DataFrame) -> pl.Series:
    """Time from ``alone_ns`` to ``end_ns`` under compute kernels of other streams, in the order of ``rows``."""
    parts = []
    for (device, stream), mine in rows.group_by("device", "stream", maintain_order=True):
        others = compute.filter((pl.col("device") == device) & ~pl.col("stream").eq_missing(pl.lit(stream, pl.Int64)))
        until = intervals.busy_at(mine, ("alone_ns", "end_ns"), others, ["device"])
        parts.append(mine.select("collective_id").with_columns(hidden_ns=until[1] - until[0]))
    joined = rows.select("collective_id").join(pl.concat(parts), on="collective_id", how="left", maintain_order="left")
    return joined["hidden_ns"]


def _layers(trace: Trace) -> pl.DataFrame:
    """kernel_id → layer and the wall time of that layer."""
    key = ["step_id", "device", "layer"]
    from traceql.derived.layers import layer_kernels, layers

    walls = layers(trace).select(*key, layer_dur_ns="dur_ns")
    return layer_kernels(trace).join(walls, on=key, how="left").select("kernel_id", "layer", "layer_dur_ns")

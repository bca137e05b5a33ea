"""How long the sequences of a decode step are, where the recorded run tells, and what attention reads then."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.kv_cache import kv_bytes_per_token
from traceql.derived.roofline import classify
from traceql.derived.steps import steps
from traceql.run_manifest import SEQUENCE
from traceql.trace import Trace


@memoised
def kv_tokens(trace: Trace) -> pl.DataFrame:
    """step_id → ``kv_tokens``: the sum of the sequence lengths of a decode step, every sequence one longer each step.

    No row where the run does not tell, or where its steps are not those of one batch.
    """
    stated = trace.loaded["metadata"].filter(pl.col("key") == SEQUENCE)["value"]
    every = steps(trace).sort("start_ns")
    one_batch = every["batch_size"].n_unique() == 1 and every["kind"].unique().to_list() == ["decode"]
    first = int(stated[0]) if len(stated) and one_batch else None
    return every.select(
        "step_id", kv_tokens=pl.col("batch_size") * (pl.lit(first, pl.Int64) + pl.int_range(pl.len()))
    ).drop_nulls()


def paged_attention(trace: Trace) -> pl.DataFrame:
    """Attention kernels whose bytes the sequence lengths tell, as rows of ``roofline``.

    Each layer reads the keys and values of all tokens once; queries and results, some per cent at most, are left out.
    The kernels of a step divide evenly over its layers (split and merge kernels of one layer are one row).
    """
    lengths = kv_tokens(trace)
    if lengths.is_empty():
        return pl.DataFrame(schema={"kernel_id": pl.Int64})
    kernels = trace.table("kernels").filter(pl.col("category") == "attention")
    layers = pl.col("layers")
    rows = (
        kernels.join(lengths, on="step_id", how="inner")
        .join(kv_bytes_per_token(trace), on="step_id", how="inner")
        .sort("start_ns", "kernel_id")
        .with_columns(
            every=pl.len().over("step_id"),
            place=pl.int_range(pl.len()).over("step_id"),
            blocks=pl.col("grid_x") * pl.col("grid_y") * pl.col("grid_z"),
        )
        .filter(pl.col("every") % layers == 0)
        .with_columns(layer=pl.col("place") // (pl.col("every") // layers))
        .group_by("step_id", "layer", maintain_order=True)
        .agg(
            pl.col("kernel_id", "blocks").sort_by("dur_ns").last(),
            pl.col("rank", "device").first(),
            pl.col("start_ns").min(),
            pl.col("dur_ns").sum(),
            kernels=pl.len().cast(pl.Int64),
            bytes=(pl.col("kv_tokens") * pl.col("kv_bytes_per_token") // layers).first(),
        )
        .drop("layer")
    )
    unknown = {"flops": pl.lit(None, pl.Int64), "dtype": pl.lit(None, pl.String)}
    return classify(trace, rows.with_columns(source=pl.lit("lengths"), **unknown))

"""Rows that CUDA graph replays compute for nobody: graphs are captured for a few batch sizes, and batches rounded up."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.steps import steps
from traceql.trace import Trace

ROW_KERNELS = ("norm", "activation", "rope", "kv_store", "attention", "elementwise", "embedding", "sampling")
"""Categories whose time grows with the rows computed, at any batch size; a decode step's matrix products read the same
weights for one row as for many."""
_LARGEST_PADDING = 4
"""A grid more than this many times the tokens is launched by another measure than rows."""
_REPEATED = 3
"""Kernels of one launch shape in a step that make it the shape of the model's rows."""


@memoised
def padded_steps(trace: Trace) -> pl.DataFrame:
    """Steps with graph replays whose rows are known: step_id, name, kind, batch_size, tokens, padded_tokens, gpu_busy_ns,
    row_kernel_ns (time of ROW_KERNELS), gemm_ns.

    The replayed rows are told from the norm kernels, which launch one block a row: the grid that most of them share. A
    grid that is a multiple of the device's SMs may be a persistent kernel's and says nothing.
    """
    kernels = trace.table("kernels").filter(pl.col("step_id").is_not_null())
    replays = trace.table("graph_launches").filter(pl.col("traced") == "node")["launch_id"]
    in_graph = kernels.filter(pl.col("launch_id").is_in(replays.implode()))
    known = steps(trace).filter((pl.col("tokens") > 0) & (pl.col("graph_launches") > 0))
    shared = (
        in_graph.filter((pl.col("category") == "norm") & (pl.col("grid_y") == 1) & (pl.col("grid_z") == 1))
        .group_by("step_id", padded_tokens="grid_x")
        .len()
        .filter(pl.col("len") >= _REPEATED)
        .sort("step_id", "len", "padded_tokens", descending=[False, True, False])
        .unique("step_id", keep="first", maintain_order=True)
    )
    costs = in_graph.group_by("step_id").agg(
        row_kernel_ns=pl.col("dur_ns").filter(pl.col("category").is_in(ROW_KERNELS)).sum(),
        gemm_ns=pl.col("dur_ns").filter(pl.col("category") == "gemm").sum(),
    )
    sms = trace.loaded["devices"]["sm_count"].drop_nulls().unique().to_list()
    persistent = pl.any_horizontal(pl.lit(False), *(pl.col("padded_tokens") % sm == 0 for sm in sms if sm))
    exact = pl.col("padded_tokens") == pl.col("tokens")
    plausible = pl.col("padded_tokens").is_between(pl.col("tokens"), _LARGEST_PADDING * pl.col("tokens")) & ~persistent
    return (
        known.select("step_id", "name", "kind", "batch_size", "tokens", "gpu_busy_ns", "start_ns", "period_ns")
        .join(shared.select("step_id", "padded_tokens"), on="step_id", how="inner", maintain_order="left")
        .filter(exact | plausible)
        .join(costs, on="step_id", how="left", maintain_order="left")
    )

"""Keys and values: what one token takes, from the operators that store them."""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised, recorded_inputs
from traceql.derived.ops import cpu_ops, op_gpu_rows
from traceql.dtypes import element_size_bytes
from traceql.trace import Trace

_STORES = r"(?:^|::)(?:store_cache|reshape_and_cache(?:_flash)?|concat_and_cache_mla)$"
"""Inputs: key rows, value rows (MLA: the latent and its rotary part), then the cache: [tokens, …] each."""


@memoised
def kv_bytes_per_token(trace: Trace) -> pl.DataFrame:
    """step_id → ``kv_bytes_per_token``: keys and values that the step stores for one token, over all ``layers``.

    From the shapes of the storing operators, one call a layer; of replays through an aligned eager run. Steps without
    such operators have no row.
    """
    recorded = [pl.col("op_id"), pl.col("name"), "input_shapes", "input_dtypes"]
    own = (
        op_gpu_rows(trace)
        .filter(pl.col("kind") == "kernel")
        .select("op_id", "step_id")
        .join(cpu_ops(trace).select(recorded), on="op_id", how="inner")
    )
    replayed = trace.table("aligned_kernels").select(
        "step_id", "input_shapes", "input_dtypes", name="op", op_id="eager_op_id"
    )
    calls = (
        pl.concat([own, replayed], how="diagonal_relaxed")
        .filter(pl.col("name").str.contains(_STORES) & pl.col("step_id").is_not_null())
        .unique(["step_id", "op_id"])
    )
    forms = calls.select("input_shapes", "input_dtypes").unique()
    row_bytes = pl.Series("row_bytes", [_row_bytes(*form) for form in forms.rows()], dtype=pl.Int64)
    return (
        calls.join(forms.with_columns(row_bytes), on=["input_shapes", "input_dtypes"], nulls_equal=True)
        .group_by("step_id")
        .agg(
            kv_bytes_per_token=pl.when(pl.col("row_bytes").null_count() == 0).then(pl.col("row_bytes").sum()),
            layers=pl.len().cast(pl.Int64),
        )
        .drop_nulls()
        .sort("step_id")
    )


def _row_bytes(shapes: str | None, dtypes: str | None) -> int | None:
    """Bytes of one token's key and value at the element size of the cache; None when they do not say."""
    try:
        dims, types = recorded_inputs.extents(shapes), recorded_inputs.types(dtypes)
        size = element_size_bytes(str(types[2]))
        if size is None or not dims[0] or dims[0][0] != dims[1][0]:
            return None
        return int((recorded_inputs.elements(dims[0][1:]) + recorded_inputs.elements(dims[1][1:])) * size)
    except (ValueError, TypeError, IndexError):
        return None

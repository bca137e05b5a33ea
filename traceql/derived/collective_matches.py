"""What is known of the ranks in one file, in the ids of the file's own tables."""

from __future__ import annotations

import polars as pl

from traceql import schema
from traceql.derived import memoised
from traceql.trace import Trace

_STEP = ["pid", "tid", "start_ns"]
"""What names a step in a rank and in the whole file alike."""


@memoised
def collective_matches(trace: Trace) -> pl.DataFrame:
    """The contract's ``collective_matches`` of a file that holds several ranks; empty for one rank."""
    parts = trace.ranks().traces
    empty = schema.TABLES["collective_matches"].empty()
    if len(parts) < 2:
        return empty
    found = trace.ranks().table("collective_matches")
    renamed = [
        _in_whole(trace, part, found.filter(pl.col("rank") == part.rank)) for part in parts if part.rank is not None
    ]
    return pl.concat([empty, *renamed]).sort("match_id", "rank")


def _in_whole(trace: Trace, part: Trace, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of one rank with the ids of the whole file: collectives keep their order, steps their thread and start."""
    devices = part.table("kernels")["device"].unique()
    ids = trace.table("collectives").filter(pl.col("device").is_in(devices.implode()))["collective_id"]
    whole = trace.table("steps").select(*_STEP, whole_id="step_id")
    steps = part.table("steps").select("step_id", *_STEP).join(whole, on=_STEP, how="left", nulls_equal=True)
    return rows.with_columns(
        collective_id=ids.gather(rows["collective_id"]),
        step_id=pl.col("step_id").replace_strict(
            steps["step_id"], steps["whole_id"], default=None, return_dtype=pl.Int64
        ),
    )

"""Interval arithmetic on sorted frames: unions, idle gaps, membership, nesting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_REACH = "_reach_before"


def _reach_before(by: list[str]) -> pl.Expr:
    """Latest end among the rows before this one (in order of start) within ``by``."""
    return pl.col("end_ns").cum_max().shift(1).over(by, order_by=["start_ns", "end_ns"])


def union_ns(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Length of the union of [start_ns, end_ns) for each ``by``: columns ``by`` and ``union_ns``."""
    return (
        frame.with_columns(_reach_before(by).alias(_REACH))
        .with_columns(
            added=pl.max_horizontal(pl.col("end_ns") - pl.max_horizontal("start_ns", _REACH), pl.lit(0, pl.Int64))
        )
        .group_by(by, maintain_order=True)
        .agg(union_ns=pl.col("added").sum())
    )


def idle(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Rows of ``frame`` that start after everything before them in ``by`` has ended, with the gap before them.

    Adds ``gap_start_ns`` (the running maximum of ends) and ``gap_ns`` = start_ns − gap_start_ns > 0.
    """
    return (
        frame.with_columns(_reach_before(by).alias("gap_start_ns"))
        .with_columns(gap_ns=pl.col("start_ns") - pl.col("gap_start_ns"))
        .filter(pl.col("gap_ns") > 0)
    )


def busy_ends(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """For every row: ``reach_ns``, the latest end up to it in order of start within ``by``, and
    ``busy_to_reach_ns``, the union of all intervals up to there."""
    return (
        frame.with_columns(_reach_before(by).alias(_REACH))
        .with_columns(
            added=pl.max_horizontal(pl.col("end_ns") - pl.max_horizontal("start_ns", _REACH), pl.lit(0, pl.Int64)),
            reach_ns=pl.max_horizontal("end_ns", _REACH),
        )
        .with_columns(busy_to_reach_ns=pl.col("added").cum_sum().over(by, order_by=["start_ns", "end_ns"]))
        .drop("added", _REACH)
    )


def busy_at(points: pl.DataFrame, times: Sequence[str], frame: pl.DataFrame, by: list[str]) -> list[pl.Series]:
    """Union of ``frame``'s intervals before each of ``times``, for each point, in the order of ``points``, ns.

    The busy time of any window is the difference of its two ends' values.
    """
    order = ["start_ns", "busy_to_reach_ns", "reach_ns"]
    cumulative = busy_ends(frame, by).select(*by, *order).sort(order)
    return [_busy_at(points, time, cumulative, by) for time in times]


def _busy_at(points: pl.DataFrame, at: str, cumulative: pl.DataFrame, by: list[str]) -> pl.Series:
    return (
        points.select(*by, at)
        .with_row_index("_order")
        .sort(at, maintain_order=True)
        .join_asof(
            cumulative, left_on=at, right_on="start_ns", by=by or None, strategy="backward", check_sortedness=False,
            allow_exact_matches=False,
        )
        .sort("_order")
        # past the reach the total stands; before it, the part of the last stretch beyond ``at`` is taken off
        .select(pl.col("busy_to_reach_ns") - pl.max_horizontal(pl.col("reach_ns") - pl.col(at), pl.lit(0, pl.Int64)))
        .to_series()
        .fill_null(0)
        .alias("busy_ns")
    )  # fmt: skip


def holding(points: pl.DataFrame, at: str, ranges: pl.DataFrame, value: str, by: list[str]) -> pl.DataFrame:
    """``points`` with ``value`` of the last range that starts at or before ``at`` and has not ended by then.

    ``ranges`` has start_ns, end_ns (exclusive), ``by`` and ``value``; within one ``by`` they must not overlap.
    Row order is kept; points outside every range get null.
    """
    order = "_order"
    right = ranges.select(*by, value, "start_ns", "end_ns").rename({"start_ns": "_from", "end_ns": "_to"}).sort("_from")
    joined = (
        points.with_row_index(order)
        .sort(at, maintain_order=True)
        .join_asof(right, left_on=at, right_on="_from", by=by or None, strategy="backward", check_sortedness=False)
        .sort(order)
    )
    return joined.with_columns(pl.when(pl.col(at) < pl.col("_to")).then(value).alias(value)).drop(order, "_from", "_to")


def parents(starts: NDArray[np.int64], ends: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the innermost enclosing interval of each, −1 at the top; rows sorted by (group, start, −end).

    An interval belongs to the last one before it in its group that is still open at its start, so one that outlives
    its parent (rounding, an unclosed range) is still that parent's child.
    """
    found: NDArray[np.int64] = _kernels().parents(starts, ends, groups)
    return found


def innermost(starts: NDArray[np.int64], ends: NDArray[np.int64], groups: NDArray[np.int64]) -> pl.DataFrame:
    """Each group's time, cut where its innermost interval changes: group, start_ns, end_ns, row; in order, no overlap.

    Innermost is the last started interval that is still open; ``row`` is −1 where none is. A group's pieces cover all
    time, from long before its first interval to long after its last.
    """
    start, end, row, group = _kernels().innermost(starts, ends, groups)
    return pl.DataFrame({"group": group, "start_ns": start, "end_ns": end, "row": row})


def _kernels() -> Any:
    """The compiled loops; imported on first use because numba takes half a second to load."""
    from traceql.derived import interval_kernels

    return interval_kernels

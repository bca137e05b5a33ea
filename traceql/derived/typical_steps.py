"""The step that stands for the others: which steps count, and which of them is shown.

Everything that shows "a step of this kind" (the report's first lines, the rules, comparisons) asks here, so that they speak
of the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived import memoised
from traceql.derived.collectives import collectives
from traceql.derived.steps import steps
from traceql.trace import Trace

_MAIN_SHARE = 0.5
"""A batch size with at least this share of a kind's time stands for the kind; else its batch sizes count together."""
_MIDDLE = (0.25, 0.75)
"""A step whose value lies between these quantiles is typical for it."""


@dataclass(frozen=True)
class Alike:
    """Steps that are compared with each other: one kind and, where ``one_batch_size``, one batch size.

    ``step_id`` is the step that stands for them, ``step_ids`` are those it was chosen from, ``steps`` is how many there are
    with the first and the last of the recording; ``shortest_ns`` and ``longest_ns`` are their periods, ``total_ns`` the sum.
    """

    kind: str | None
    batch_size: int | None
    one_batch_size: bool
    step_id: int
    step_ids: tuple[int, ...]
    steps: int
    shortest_ns: int
    longest_ns: int
    total_ns: int


@memoised
def alike_steps(trace: Trace) -> tuple[Alike, ...]:
    """Every kind and batch size, those of the kind that takes most time first.

    A kind without a main batch size comes first as a whole, then by batch size.
    """
    every = timed_steps(trace)
    kinds = every.group_by("kind").agg(pl.col("period_ns").sum()).sort(pl.col("period_ns") * -1, "kind")
    found: list[Alike] = []
    for kind in kinds["kind"]:
        rows = every.filter(pl.col("kind").eq_missing(pl.lit(kind, pl.String)))
        sizes = [
            _alike(rows.filter(pl.col("batch_size").eq_missing(pl.lit(size, pl.Int64))), one_batch_size=True)
            for size in rows["batch_size"].unique()
        ]
        sizes.sort(key=lambda alike: (-alike.total_ns, alike.step_id))
        if sizes[0].total_ns < _MAIN_SHARE * sum(size.total_ns for size in sizes):
            found.append(_alike(rows, one_batch_size=False))
        found += sizes
    return tuple(found)


@memoised
def kinds_of_step(trace: Trace) -> tuple[Alike, ...]:
    """One ``Alike`` a kind, most time first: its main batch size, or all of it where it has none."""
    first: dict[str | None, Alike] = {}
    for alike in alike_steps(trace):
        first.setdefault(alike.kind, alike)
    return tuple(first.values())


def _alike(rows: pl.DataFrame, *, one_batch_size: bool) -> Alike:
    counted = counting(rows)
    period = rows["period_ns"]
    return Alike(
        kind=rows["kind"][0],
        batch_size=rows["batch_size"][0] if one_batch_size else None,
        one_batch_size=one_batch_size,
        step_id=middle(counted, "period_ns")["step_id"],
        step_ids=tuple(counted["step_id"]),
        steps=rows.height,
        shortest_ns=int(period.min()),  # type: ignore[arg-type]
        longest_ns=int(period.max()),  # type: ignore[arg-type]
        total_ns=int(period.sum()),
    )


@memoised
def timed_steps(trace: Trace) -> pl.DataFrame:
    """The steps with a period, in order of start, with ``edge``, how little their length says: 0 for a step between two
    others of its thread, 1 and 2 for the first and the last. The last one is worse, since no next one ends its period; of
    ranks that communicate the first one is: in it they wait for each other's recording to begin."""
    frame = steps(trace).filter(pl.col("period_ns") > 0).sort("start_ns", "step_id")
    thread = ["pid", "tid"]
    start = pl.col("start_ns")
    first, last = (1, 2) if collectives(trace).is_empty() else (2, 1)
    is_first, is_last = start == start.min().over(thread), start == start.max().over(thread)
    edge = pl.max_horizontal(is_first.cast(pl.Int64) * first, is_last.cast(pl.Int64) * last)
    return frame.with_columns(edge=edge)


def counting(rows: pl.DataFrame) -> pl.DataFrame:
    """Those of ``rows`` (of ``timed_steps``) that medians are taken over.

    The first step of a recording warms up and nothing shows what came before it; the last has no next one to end its
    period. Both are left out while others remain; where only these two are left, the one that says less is.
    """
    return rows.filter(pl.col("edge") == pl.col("edge").min())


def middle(rows: pl.DataFrame, by: str) -> dict[str, Any]:
    """The row in the middle in order of ``by`` (the upper of two), as a dict: a real step, to be looked up."""
    return rows.sort(by, "step_id").row(rows.height // 2, named=True)


def typical_for(rows: pl.DataFrame, alike: Alike, by: str) -> dict[str, int]:
    """The row of ``rows`` (step_id and ``by``) to show a figure by: that of the step that stands for them all, so that
    every figure is of one step, unless this step is unusual in ``by``; then the middle one."""
    own = rows.filter(pl.col("step_id") == alike.step_id)
    if own.height:
        low = rows[by].quantile(_MIDDLE[0], "lower")
        high = rows[by].quantile(_MIDDLE[1], "higher")
        if low is not None and high is not None and low <= own[by][0] <= high:
            return own.row(0, named=True)
    return middle(rows, by)

"""Look-ups and sums over intervals, held against plain counts."""

from __future__ import annotations

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traceql.derived import intervals

relaxed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

GROUP = st.one_of(st.none(), st.integers(0, 3))
SPANS = st.lists(st.tuples(GROUP, st.integers(0, 60), st.integers(0, 9)), max_size=25)
POINTS = st.lists(st.tuples(GROUP, st.one_of(st.none(), st.integers(-5, 80))), max_size=15)
"""(group, start, duration) and (group, time)."""


def ranges(spans: list[tuple[int | None, int, int]]) -> pl.DataFrame:
    rows = [(group, start, start + dur) for group, start, dur in spans]
    return pl.DataFrame(rows, {"by": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64}, orient="row")


def asked(points: list[tuple[int | None, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(points, {"by": pl.Int64, "at": pl.Int64}, orient="row")


@relaxed
@given(SPANS, POINTS, st.booleans(), st.booleans())
def test_the_last_to_start(spans: list[tuple[int | None, int, int]], points: list[tuple[int | None, int | None]],
                           grouped: bool, texts: bool) -> None:  # fmt: skip
    frame, wanted = ranges(spans), asked(points)
    if texts:
        frame, wanted = (each.with_columns(pl.col("by").cast(pl.String)) for each in (frame, wanted))
    found = intervals.Starts(frame, ["by"] if grouped else []).last(wanted, "at").to_list()
    for (group, at), row in zip(points, found, strict=True):
        before = [
            (start, number)
            for number, (by, start, _) in enumerate(spans)
            if at is not None and start <= at and (not grouped or (by == group and group is not None))
        ]
        assert row == (max(before)[1] if before else None)


@relaxed
@given(SPANS)
def test_unions_and_gaps(spans: list[tuple[int | None, int, int]]) -> None:
    frame = ranges(spans)
    found = dict(intervals.union_ns(frame, ["by"]).rows())
    idle = intervals.idle(frame, ["by"]).group_by("by").agg(pl.col("gap_ns").sum()).rows()
    for group in {by for by, _, _ in spans}:
        mine = [(start, start + dur) for by, start, dur in spans if by == group]
        covered = {t for start, end in mine for t in range(start, end)}
        assert found.pop(group) == len(covered)
        whole = max(end for _, end in mine) - min(start for start, _ in mine)
        assert dict(idle).get(group, 0) == whole - len(covered)
    assert not found


@relaxed
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 4)), st.one_of(st.none(), st.integers(-9, 9)))))
def test_sums(rows: list[tuple[int | None, int | None]]) -> None:
    frame = pl.DataFrame(rows, {"row": pl.Int64, "value": pl.Int64}, orient="row")
    found = intervals.summed(frame["row"], frame["value"], 5)
    assert list(found) == [sum(value or 0 for row, value in rows if row == each) for each in range(5)]

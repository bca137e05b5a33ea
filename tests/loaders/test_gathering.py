"""Frames put together from parts."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from traceql.loaders.gathering import gathered

SCHEMA = {"a": pl.Int64, "b": pl.Int64, "text": pl.String}
VALUE = st.one_of(st.none(), st.integers(0, 1), st.integers(-(2**63), 2**63 - 1))
ROW = st.tuples(VALUE, st.sampled_from([7, 7, 7, 7, None]), st.sampled_from(["x", "", None]))


@settings(deadline=None)
@given(st.lists(st.lists(ROW, max_size=6), min_size=1, max_size=6))
def test_is_the_parts_one_under_the_other(parts: list[list[tuple[int | None, int | None, str | None]]]) -> None:
    frames = [pl.DataFrame(rows, SCHEMA, orient="row") for rows in parts]
    assert_frame_equal(gathered(iter(frames)), pl.concat(frames))


def test_grows_where_it_is() -> None:
    frames = [pl.DataFrame({"a": range(at, at + 400_000)}) for at in range(0, 4_000_000, 400_000)]
    found = gathered(iter(frames))
    assert found["a"].equals(pl.Series("a", range(4_000_000)))
    assert found.n_chunks() == 1

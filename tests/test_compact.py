"""Constant columns kept once: the same frame for whoever looks at it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import traces
from hypothesis import given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql.compact import compact
from traceql.trace import Trace

COLUMNS = {
    pl.Int64: st.one_of(st.none(), st.integers(-1, 1), st.integers(-(2**63), 2**63 - 1)),
    pl.String: st.one_of(st.none(), st.sampled_from(["", "a", "ä"])),
    pl.Float64: st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    rows = draw(st.integers(0, 5))
    columns = {}
    for index, dtype in enumerate(draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=5))):
        same = draw(st.booleans())
        values = [draw(COLUMNS[dtype])] * rows if same else draw(st.lists(COLUMNS[dtype], min_size=rows, max_size=rows))
        columns[f"c{index}"] = pl.Series(values, dtype=dtype)
    return pl.DataFrame(columns)


@settings(deadline=None)
@given(frames())
def test_is_the_same_frame(frame: pl.DataFrame) -> None:
    found = compact(frame)
    assert found.schema == frame.schema
    assert repr(found.rows()) == repr(frame.rows())  # tells 0.0 from -0.0


def test_a_value_that_differs_in_the_middle_is_kept() -> None:
    frame = pl.DataFrame({"n": [7, 7, None, 7], "t": ["a", "a", "b", "a"]})
    assert compact(frame).rows() == frame.rows()


@pytest.mark.parametrize("path", traces.SAMPLES, ids=lambda path: path.name)
def test_tables_come_in_one_piece(path: Path) -> None:
    """Polars looks texts up, and joins them, many times slower across pieces, and copies them."""
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    for name, frame in trace.loaded.items():
        assert frame.is_empty() or set(frame.n_chunks("all")) == {1}, name

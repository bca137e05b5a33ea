"""Odd but plausible files, end to end: every figure against the plain count, every invariant, no rule that breaks."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import plain_count
import pytest
from adversarial.held import check, compare_collectives, compare_gaps, compare_step_costs, compare_steps
from adversarial.kineto import FILES, gpu_annotations_alone, overlapping_streams, partial_replays_at_both_edges
from adversarial.nsys import NAMES, NSYS

import traceql as tq
from traceql.trace import Trace


@pytest.mark.parametrize("name", FILES)
def test_kineto(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": FILES[name]()}), encoding="utf-8")
    expected = plain_count.count_torch(path)
    trace = check(path, expected)
    # the plain count takes the innermost mark, and marks on the host alone
    if name not in ("nested_step_marks", "overlapping_step_ranges", "gpu_annotations_alone"):
        compare_steps(trace, expected)
        rows = plain_count.read(path)
        compare_gaps(trace, rows)
        compare_step_costs(trace, rows)
        compare_collectives(trace, rows)


def test_ranges_on_the_gpu_tell_the_steps_of_a_trace_without_a_host(tmp_path: Path) -> None:
    events = gpu_annotations_alone()
    other_stream = [
        e | {"ts": e["ts"] + 10, "tid": 9, "args": e["args"] | {"stream": 9}}
        for e in events
        if "annotation" in e["cat"]
    ]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"traceEvents": events + other_stream}))
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    columns = ["kind", "batch_size", "kernels", "gpu_busy_ns", "dur_ns", "period_ns"]
    steps = trace.table("steps").select(columns).rows()
    assert steps[:3] == [("decode", 4, 2, 60_000, None, 100_000)] * 3
    assert len(steps) == 4


@pytest.mark.parametrize("name", NSYS)
def test_nsys(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.sqlite"
    tables = {"StringIds": [{"id": i, "value": text} for i, text in enumerate(NAMES)], **NSYS[name]()}
    with closing(sqlite3.connect(path)) as connection:
        for table, rows in tables.items():
            columns = list(rows[0])
            connection.execute(f'create table "{table}" ({", ".join(columns)})')
            values = [[r.get(c) for c in columns] for r in rows]
            connection.executemany(f'insert into "{table}" values ({", ".join("?" * len(columns))})', values)
        connection.commit()
    trace, rows = check(path, plain_count.count_nsys(path)), plain_count.read(path)
    compare_gaps(trace, rows)
    compare_step_costs(trace, rows)
    compare_collectives(trace, rows)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    text = json.dumps({"schemaVersion": 1, "traceEvents": overlapping_streams()}, ensure_ascii=False)
    path.write_bytes(text.replace("k2", "caf\xe9").encode("latin-1"))
    expected = plain_count.count_torch(path)
    trace = check(path, expected)
    compare_steps(trace, expected)
    assert trace.table("kernels")["name"].str.starts_with("caf").any()


@pytest.mark.parametrize("indent", [None, 0, 4])
@pytest.mark.parametrize("array", [True, False])
def test_layouts_say_the_same(indent: int | None, array: bool, tmp_path: Path) -> None:
    """A bare array, keys in another order, any white space."""
    events = [dict(reversed(list(e.items()))) for e in partial_replays_at_both_edges()]
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(events if array else {"traceEvents": events, "schemaVersion": 1}, indent=indent))
    expected = plain_count.count_torch(path)
    compare_steps(check(path, expected), expected)

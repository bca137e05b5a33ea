"""Nsight Systems SQLite exports with odd values, lying schemas and damage."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loaders.nsys_made import (
    KERNEL,
    MEMCPY,
    NAMES,
    RUNTIME,
    Rows,
    call,
    export,
    global_id,
    kernel,
    load,
    nvtx,
    problems,
    strings,
)

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_sqlite
from traceql.trace import Trace


def test_rows_without_a_time_are_left_out_and_counted(tmp_path: Path) -> None:
    times = [(10, 20), (None, 20), (10, None), (20, 10), (0, 0), (-(2**63), 2**63 - 1), (5, 5)]
    trace = load(tmp_path, {KERNEL: [{**kernel(1, 1), "start": start, "end": end} for start, end in times]})
    assert trace.frames["kernels"].select("start_ns", "dur_ns").rows() == [(10, 10), (5, 0)]
    assert problems(trace, "skipped") == [(f"{KERNEL}: rows without a valid start and end were left out", 5)]


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """Stored as TEXT, as nsys writes it, with bytes that are not."""
    sql = "update StringIds set value = cast(x'67656d6dff' as text) where id = 0"
    gpu = [{"id": 0, "name": "GPU", "smCount": 1}]
    sql += "; update TARGET_INFO_GPU set name = cast(x'e9' as text)"
    trace = load(tmp_path, {KERNEL: [kernel(1, 2)], "TARGET_INFO_GPU": gpu}, extra_sql=sql)
    assert trace.frames["kernels"]["name"].to_list() == ["gemm\ufffd"]
    assert trace.frames["devices"]["name"].to_list() == ["\ufffd"]


def test_values_of_a_wrong_type(tmp_path: Path) -> None:
    """Whole numbers survive being stored as text or float; anything else is missing, and counted."""
    rows = [
        kernel(10, 20, gridX="8", streamId=7.0),
        kernel(30, 40, gridX="x", streamId=7.5, deviceId=b"\xff"),
        kernel(50, 60, gridX=float("inf"), streamId=None, contextId=2.0**60),
    ]
    trace = load(tmp_path, {KERNEL: rows})
    columns = ["start_ns", "grid_x", "stream", "device", "context"]
    assert trace.frames["kernels"].select(columns).rows() == [
        (10, 8, 7, 0, 1), (30, None, None, None, 1), (50, None, None, 0, None),
    ]  # fmt: skip
    assert [count for _, count in problems(trace, "skipped")] == [5]


def test_types_that_change_after_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_sqlite, "_BATCH_ROWS", 2)
    ranges = [nvtx(i, i + 1, text=None if i < 5 else "late", textId=1) for i in range(1, 8)]
    kernels = [kernel(i, i + 1, gridX=i if i < 5 else "five", graphId=None if i < 5 else 1) for i in range(1, 8)]
    trace = load(tmp_path, {"NVTX_EVENTS": ranges, KERNEL: kernels})
    assert trace.frames["annotations"]["name"].to_list() == ["gemm"] * 4 + ["late"] * 3
    assert trace.frames["kernels"]["grid_x"].to_list() == [1, 2, 3, 4, None, None, None]
    assert trace.frames["kernels"]["graph_id"].to_list() == [None] * 4 + [1] * 3


def test_large_tables_are_read_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [kernel(i, i + 1, gridX=i) for i in range(1, 1001)]
    gaps = f"delete from {KERNEL} where rowid between 300 and 600"
    whole = load(tmp_path, {KERNEL: rows}, extra_sql=gaps).frames["kernels"]
    monkeypatch.setattr(nsys_sqlite, "_PART_ROWS", 10)
    assert nsys_sqlite.load(tmp_path / "x.sqlite").frames["kernels"].equals(whole)
    assert whole.height == 699


def test_views_triggers_and_odd_tables(tmp_path: Path) -> None:
    """Views are not read (this one never ends); a column may be called rowid; a table may have no row ids."""
    sql = f"""
        create view {MEMCPY} as with recursive r(start) as (select 1 union all select start + 1 from r)
            select start, start as end from r;
        create trigger t after insert on StringIds begin delete from StringIds; end;
        create table {RUNTIME} (start, end, globalTid, correlationId, nameId, key primary key) without rowid;
        insert into {RUNTIME} values (1, 2, {global_id(42, 43)}, 1, 2, 0), (3, 'x', 0, 1, 2, 1);
    """
    trace = load(tmp_path, {KERNEL: [kernel(5, 6, rowid="odd", gridX="?")]}, extra_sql=sql)
    assert trace.frames["memcpys"].is_empty()
    assert trace.frames["runtime_calls"].select("name", "start_ns").rows() == [("cudaLaunchKernel", 1)]
    assert trace.frames["kernels"].height == 1


sqlite_values = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            dict.fromkeys(("start", "end", "deviceId", "globalPid", "graphNodeId", "shortName"), sqlite_values)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_value_crashes(tmp_path: Path, rows: Rows) -> None:
    path = tmp_path / "x.sqlite"
    path.unlink(missing_ok=True)
    trace = nsys_sqlite.load(export(path, {KERNEL: rows, "NVTX_EVENTS": rows, "StringIds": NAMES}))
    untimed = sum(
        count or 0 for message, count in problems(trace, "skipped") if KERNEL in message and "start" in message
    )
    assert trace.frames["kernels"].height + untimed == len(rows)
    Trace.from_loaded(trace)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"no database at all" * 100])
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    with pytest.raises(UnreadableTraceError, match=r"x\.sqlite"):
        nsys_sqlite.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTraceError, match="unable to open"):
        nsys_sqlite.load(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def damaged_copy(tmp_path: Path) -> tuple[Path, int]:
    """An export whose last table, of kernels, lies in the last pages of the file; and its size."""
    names = strings(*(f"kernel {i}" for i in range(100)))
    rows = [kernel(i, i + 1, gridX=i) for i in range(1, 20_001)]
    path = export(tmp_path / "x.sqlite", {"StringIds": names, RUNTIME: [call(1, 2)], KERNEL: rows})
    return path, path.stat().st_size


def test_truncated_database(tmp_path: Path) -> None:
    path, size = damaged_copy(tmp_path)
    os.truncate(path, size * 3 // 4 - 1000)  # not at the edge of a page
    trace = nsys_sqlite.load(path)
    kernels = trace.frames["kernels"]
    assert trace.frames["runtime_calls"].height == 1
    assert 10_000 < kernels.height < 16_000
    assert kernels["grid_x"].to_list() == list(range(1, kernels.height + 1))
    first, second = problems(trace, "truncated")
    assert "malformed" in first[0]
    assert second[0].startswith(f"{KERNEL}: the file is damaged; {kernels.height} rows")


def test_damaged_page(tmp_path: Path) -> None:
    path, size = damaged_copy(tmp_path)
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(bytes(4096))
    trace = nsys_sqlite.load(path)
    assert trace.frames["runtime_calls"].height == 1
    assert 0 < trace.frames["kernels"].height < 20_000
    assert len(problems(trace, "truncated")) == 1


def test_nothing_readable(tmp_path: Path) -> None:
    path = export(tmp_path / "x.sqlite", {KERNEL: [kernel(i, i + 1) for i in range(1, 2000)]})
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(UnreadableTraceError, match="damaged"):
        nsys_sqlite.load(path)


def test_rows_in_a_write_ahead_log(tmp_path: Path) -> None:
    path = export(tmp_path / "x.sqlite", {"StringIds": NAMES, KERNEL: [kernel(1, 2)]})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute(f"insert into {KERNEL} (start, end) values (3, 4)")
        connection.commit()
        assert nsys_sqlite.load(path).frames["kernels"].height == 2


def test_a_name_with_special_characters(tmp_path: Path) -> None:
    path = export(tmp_path / "100% é?#;.sqlite", {"StringIds": NAMES, KERNEL: [kernel(1, 2)]})
    assert nsys_sqlite.load(path).frames["kernels"].height == 1

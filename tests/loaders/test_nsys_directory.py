"""Nsight Systems table directories: the same tables as files, so the same trace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_directory, nsys_sqlite
from traceql.trace import LoadedTrace

GLOBAL_PID = 1 << 48 | 42 << 24
TABLES = {
    "CUPTI_ACTIVITY_KIND_KERNEL": pl.DataFrame(
        {"start": [10, 30], "end": [20, 35], "globalPid": [GLOBAL_PID] * 2, "demangledName": [0, 1], "gridX": [1, 2]},
        schema_overrides={"globalPid": pl.UInt64, "demangledName": pl.UInt64, "gridX": pl.Int32},
    ),
    "StringIds": pl.DataFrame({"id": [0, 1], "value": ["a", "b"]}, schema_overrides={"id": pl.Int32}),
    "TARGET_INFO_GPU": pl.DataFrame({"id": [0], "name": ["GPU"], "isDiscrete": [True]}),
}


def load(tmp_path: Path, suffix: str) -> LoadedTrace:
    for name, frame in TABLES.items():
        if suffix == "parquet":
            frame.write_parquet(tmp_path / f"{name}.parquet")
        else:
            frame.write_ipc_stream(tmp_path / f"{name}.arrow")
    (tmp_path / "notes.txt").write_text("beside the tables", encoding="utf-8")
    return nsys_directory.load(tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_as_files(tmp_path: Path, suffix: str) -> None:
    trace = load(tmp_path, suffix)
    assert trace.frames["kernels"].select("start_ns", "dur_ns", "name", "pid", "grid_x").rows() == [
        (10, 10, "a", 42, 1),
        (30, 5, "b", 42, 2),
    ]
    assert trace.frames["devices"].select("device", "name").rows() == [(0, "GPU")]
    assert trace.path == tmp_path
    assert trace.problems == ()


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_damaged_file_is_a_problem(tmp_path: Path, suffix: str) -> None:
    load(tmp_path, suffix)
    damaged = tmp_path / f"StringIds.{suffix}"
    damaged.write_bytes(b"junk" * 100)
    trace = nsys_directory.load(tmp_path)
    assert trace.frames["kernels"].height == 2
    assert [(problem.kind, damaged.name in problem.message) for problem in trace.problems] == [
        ("truncated", True),
        ("note", False),
        ("unnamed", False),
    ]


def test_other_directories(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTraceError, match="a directory without Nsight Systems tables"):
        nsys_directory.load(tmp_path)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(UnreadableTraceError, match="its tables are other"):
        nsys_directory.load(tmp_path)


EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES")


@pytest.mark.skipif(shutil.which("nsys") is None, reason="nsys is not installed")
@pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of captures")
@pytest.mark.parametrize("kind", ["parquetdir", "arrowdir"])
def test_real_exports(tmp_path: Path, kind: str) -> None:
    folder, name = Path(EXTRA or "") / "nsys", "mini-decode-piecewise-node"
    command = ["nsys", "export", f"--type={kind}", f"--output={tmp_path / 'tables'}", str(folder / f"{name}.nsys-rep")]
    subprocess.run(command, check=True, capture_output=True)
    trace, expected = nsys_directory.load(tmp_path / "tables"), nsys_sqlite.load(folder / f"{name}.sqlite")
    for table in expected.frames.keys() - {"metadata"}:  # these directories lack META_DATA_CAPTURE
        assert trace.frames[table].equals(expected.frames[table]), table
    assert trace.unix_offset_ns == expected.unix_offset_ns

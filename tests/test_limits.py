"""Inputs made to exhaust memory, time or the stack: each opens with what it holds, or is refused in one line."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fuzz import seeds

import traceql as tq
from traceql.errors import TraceqlError, UnreadableTraceError
from traceql.kernel_names import short_name
from traceql.loaders import files, registry
from traceql.opening import open_all

MEMORY_KIB = 1_500_000
SECONDS = 30  # of processor time; most take less than two


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Every test here stays within its share of time and memory."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KIB


def x(cat: str, name: str, ts: Any, dur: Any, pid: Any = 9, tid: Any = 9, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def kernel(ts: Any, dur: Any = 5, name: str = "k", **args: Any) -> dict[str, Any]:
    return x("kernel", name, ts, dur, 0, 7, **{"device": 0, "stream": 7, **args})


WHOLE = [x("cuda_runtime", "cudaLaunchKernel", 1, 4, correlation=1), kernel(10, correlation=1)]


def analyzed(path: Path) -> dict[str, Any]:
    """The JSON report of a file on which no rule broke; the page and the text are made as well."""
    report = tq.analyze(tq.open(path))
    assert [(o.code, o.reason) for o in report.rules if o.outcome == "error"] == []
    for form in ("html", "text", "markdown"):
        report.render(form)
    document: dict[str, Any] = json.loads(report.render("json"))
    return document


def written(path: Path, events: list[dict[str, Any]], **header: Any) -> Path:
    path.write_text(json.dumps({**header, "traceEvents": events}))
    return path


# --- gzip ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.json.gz", "r.ncu-rep.gz", "p.csv.gz"])
def test_a_gzip_bomb_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SURELY_FINE_BYTES", 8 << 20)
    start = {
        "t.json.gz": b'{"traceEvents":[{"ph":"X","name":"',
        "r.ncu-rep.gz": b"NVR\0",
        "p.csv.gz": b'"ID","Kernel Name"\n',
    }[name]
    packer = zlib.compressobj(9, wbits=31)
    path = tmp_path / name
    path.write_bytes(
        packer.compress(start) + b"".join(packer.compress(b" " * (1 << 22)) for _ in range(60)) + packer.flush()
    )
    with pytest.raises(UnreadableTraceError, match="expands over 200-fold"):
        tq.open(path)


def test_a_repetitive_trace_is_no_bomb(tmp_path: Path) -> None:
    text = json.dumps({"traceEvents": [kernel(i) for i in range(20_000)]}).encode()
    packer = zlib.compressobj(9, wbits=31)
    path = tmp_path / "t.json.gz"
    path.write_bytes(packer.compress(text) + packer.flush())
    assert tq.open(path).table("kernels").height == 20_000


# --- nesting and length ----------------------------------------------------------------------------------------------


DEEP = 100_000
NESTED = {
    "array": "[" * DEEP + "]" * DEEP,
    "open array": "[" * DEEP,
    "arguments": '{"traceEvents":[{"ph":"X","cat":"kernel","name":"k","ts":1,"dur":1,"args":{"a":' + "[" * DEEP + "]" * DEEP + "}}]}",
    "header": '{"x":' + '{"a":' * DEEP + "1" + "}" * DEEP + ',"traceEvents":' + json.dumps(WHOLE) + "}",
    "pid": json.dumps({"traceEvents": [*WHOLE, kernel(20) | {"pid": "@"}]}).replace('"@"', "[" * 600 + "]" * 600),
    "shapes": json.dumps({"traceEvents": [*WHOLE, x("cpu_op", "aten::mm", 0, 9, **{"Input Dims": "@"})]}).replace('"@"', "[" * 900 + "]" * 900),
}  # fmt: skip


@pytest.mark.parametrize("where", NESTED)
def test_deep_nesting(where: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(NESTED[where])
    try:
        analyzed(path)
    except TraceqlError as error:
        assert "t.json" in str(error) and "\n" not in str(error)


def test_ops_in_ops(tmp_path: Path) -> None:
    ops = [x("cpu_op", "o", i / 1000, 80 - i / 500, **{"External id": i}) for i in range(20_000)]
    trace = tq.open(written(tmp_path / "t.json", [*WHOLE, *ops]))
    assert trace.table("cpu_ops")["depth"].max() == 19_999


def test_long_names(tmp_path: Path) -> None:
    long = "void " + "kernel<" * 100_000 + ">" * 100_000 + "(int)"
    assert len(short_name(long)) < 1 << 17
    events = [*WHOLE, kernel(20, name=long), x("cpu_op", "A<" * 10_000_000, 0, 9)]
    assert analyzed(written(tmp_path / "t.json", events))["metrics"]["gpus"]["0"]["kernels"] == 2


# --- figures no profiler writes --------------------------------------------------------------------------------------


def test_times_beyond_reckoning_are_left_out_and_said(tmp_path: Path) -> None:
    odd = [kernel(t) for t in (2**63, -(2**63), 9e15, 1e300, "x", None)] + [
        kernel(20, d) for d in (2**62, 9.1e12, -1, 1e300)
    ]
    document = analyzed(written(tmp_path / "t.json", [*WHOLE, *odd]))
    assert document["metrics"]["gpus"]["0"]["kernels"] == 1
    assert not document["traces"][0]["capabilities"]["complete"]
    assert any(
        finding["code"] == "TQL901" and finding["evidence"]["lost_events"] == len(odd)
        for finding in document["findings"]
    )


def test_sums_stay_within_an_integer(tmp_path: Path) -> None:
    events = [*WHOLE, *(kernel(i, 9e12) for i in range(900))]
    gpu = analyzed(written(tmp_path / "t.json", events))["metrics"]["gpus"]["0"]
    assert gpu["kernel_time_ns"] == 5_000 + 900 * 9 * 10**15 and gpu["busy_ns"] < gpu["kernel_time_ns"]


def test_numbers_that_fit_nothing(tmp_path: Path) -> None:
    huge = 2**62
    events = [
        *WHOLE,
        kernel(
            20,
            grid=[huge] * 3,
            block=[huge] * 3,
            **{"registers per thread": huge, "shared memory": 10**30, "stream": 2**70},
        ),
        kernel(
            30,
            name="ncclDevKernel_AllReduce_Sum_bf16",
            **{
                "Collective name": "allreduce",
                "In msg nelems": huge,
                "Group size": huge,
                "dtype": "BFloat16",
                "Process Group Ranks": "[" * 5000,
            },
        ),
        *(
            x(
                "cpu_op",
                "aten::mm",
                i,
                1,
                **{"External id": i, "Input Dims": [[2**40, 2**40]] * 2, "Input type": ["c10::BFloat16"] * 2},
            )
            for i in range(9)
        ),
    ]
    analyzed(
        written(
            tmp_path / "t.json",
            events,
            baseTimeNanoseconds=2**70,
            deviceProperties=[{"id": 2**65, "totalGlobalMem": 10**30, "name": ["x"]}],
        )
    )


def test_cycles_of_parents(tmp_path: Path) -> None:
    frames = [
        x("python_function", f"f{i}", 0, 10, **{"Python id": i, "Python parent id": (i + 1) % 50}) for i in range(50)
    ]
    analyzed(written(tmp_path / "t.json", [*WHOLE, *frames]))


MANY: dict[str, Callable[[int], dict[str, Any]]] = {
    "streams": lambda i: kernel(i, stream=i, correlation=i),
    "devices": lambda i: kernel(i, device=i // 50, stream=7),
    "calls of one id": lambda i: x("cuda_runtime", "cudaLaunchKernel", i, 1, correlation=1),
    "processes": lambda i: x("cuda_runtime", "cudaLaunchKernel", i, 1, i, i, correlation=1),
    "names": lambda i: kernel(i, name=f"k{i}"),
    "marks": lambda i: x("user_annotation", f"step[DECODE bs={i}]", 0, 10**6),
    "nothing long": lambda i: kernel(1, 0, correlation=1),
}


@pytest.mark.parametrize("what", MANY)
def test_very_many(what: str, tmp_path: Path) -> None:
    analyzed(written(tmp_path / "t.json", [*WHOLE, *map(MANY[what], range(10_000))]))


# --- SQLite ----------------------------------------------------------------------------------------------------------

ENDLESS = (
    "with recursive n(start) as (select 1 union all select start + 1 from n) select start, start + 1 as end from n"
)
SCHEMAS = {
    "endless view": f"alter table CUPTI_ACTIVITY_KIND_KERNEL rename to k; create view CUPTI_ACTIVITY_KIND_KERNEL as {ENDLESS};",
    "trigger": "create trigger t after insert on StringIds begin delete from StringIds; end;",
    "virtual table": "drop table CUPTI_ACTIVITY_KIND_MEMCPY; create virtual table CUPTI_ACTIVITY_KIND_MEMCPY using fts5(start, end);",
    "large made values": "drop table CUPTI_ACTIVITY_KIND_MEMSET; create table CUPTI_ACTIVITY_KIND_MEMSET (start, x, end as (start + length(hex(zeroblob(x)))));"
    "insert into CUPTI_ACTIVITY_KIND_MEMSET values (1, 9000000), (2, 9000000);",
    "far ids": "insert into StringIds values (4611686018427387904, 'x'), (-4611686018427387904, 'y');"
    "update CUPTI_ACTIVITY_KIND_KERNEL set rowid = rowid + 9223372036854775000;",
    "long text": "update StringIds set value = replace(hex(zeroblob(2000000)), '0', 'A<') where id = 1;",
    "many tables": "".join(f"create table t{i} (a);" for i in range(500)),
    "wrong root": "pragma writable_schema = on; update sqlite_master set rootpage = 3 where name = 'CUPTI_ACTIVITY_KIND_KERNEL';",
    "no such columns": "pragma writable_schema = on; update sqlite_master set sql = 'CREATE TABLE StringIds (nothing)' where name = 'StringIds';",
}  # fmt: skip


@pytest.mark.parametrize("what", SCHEMAS)
def test_databases_that_lie(what: str, tmp_path: Path) -> None:
    path = seeds.write_sqlite(tmp_path / "t.sqlite", seeds.nsys_tables())
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMAS[what])
        connection.commit()
    try:
        document = analyzed(path)
    except TraceqlError as error:
        assert "t.sqlite" in str(error)
    else:
        if what == "endless view":
            assert document["metrics"]["launches"]["graph_kernels"] == 0


# --- folders ---------------------------------------------------------------------------------------------------------


def test_links_in_a_circle_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    (tmp_path / "gone.json").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.json")
    written(tmp_path / "t.json", WHOLE)
    opened = open_all([tmp_path])
    assert {trace.path.name for trace in opened.traces} == {"t.json"}
    with pytest.raises(UnreadableTraceError, match="a pipe or a device"):
        tq.open(tmp_path / "pipe.json")
    with pytest.raises(UnreadableTraceError):
        tq.open(tmp_path / "a.json")
    with pytest.raises(UnreadableTraceError, match="a pipe or a device"):
        tq.open(Path(os.devnull))


def test_a_folder_of_very_many_files(tmp_path: Path) -> None:
    for i in range(5_000):
        (tmp_path / f"f{i}.txt").touch()
    written(tmp_path / "t.json", WHOLE)
    assert len(open_all([tmp_path]).traces) == 1


@pytest.mark.parametrize(
    "blocks", [b"\x00" * (2 << 20), struct.pack("<I", 3 << 20) + b"\xff" * (3 << 20)], ids=["zeros", "endless number"]
)
def test_a_report_of_blocks_without_end(blocks: bytes, tmp_path: Path) -> None:
    """Block headers that say nothing, and one that is a single number of megabytes: each took minutes once."""
    from traceql.loaders import ncu_report_file

    path = tmp_path / "r.ncu-rep"
    path.write_bytes(ncu_report_file.MAGIC + struct.pack("<I", 2) + b"\x08\x07" + blocks)
    with path.open("rb") as file:
        assert ncu_report_file._ends_early(file, path.stat().st_size) == (blocks[-1] == 0)
    with pytest.raises(UnreadableTraceError, match="ncu-rep"):
        registry.load(path)


def test_a_manifest_does_not_lead_out_of_its_run(tmp_path: Path) -> None:
    from traceql import run_manifest

    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "secret.csv").write_text("x")
    (run / "own.csv").write_text("x")
    names = ["own.csv", "../secret.csv", str(tmp_path / "secret.csv"), "x" * 5000 + ".csv", "a\x00b.csv"]
    assert [run_manifest._is_file_of(run, name) for name in names] == [True, False, False, False, False]

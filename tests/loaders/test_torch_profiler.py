"""PyTorch profiler files as they come: three forms of time, old and odd layouts, damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import traces
from hypothesis import given
from hypothesis import strategies as st

import traceql as tq
from traceql.errors import UnreadableTraceError
from traceql.loaders.kineto_json import nanoseconds


def call(ts: Any, correlation: Any = 1, name: str = "cudaLaunchKernel", **more: Any) -> dict[str, Any]:
    return {
        "ph": "X", "cat": "cuda_runtime", "name": name, "pid": 9, "tid": 9, "ts": ts, "dur": 4,
        "args": {"correlation": correlation}, **more,
    }  # fmt: skip


def kernel(ts: Any, correlation: Any = 1, name: str = "k", dur: Any = 5.5, **args: Any) -> dict[str, Any]:
    return {
        "ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": ts, "dur": dur,
        "args": {"device": 0, "stream": 7, "correlation": correlation, "grid": [2, 1, 1], "block": [64, 1, 1], **args},
    }  # fmt: skip


EVENTS = [call(10.5), kernel(20.25), call(30, 2), kernel(40, 2, dur=1)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def trace_of(path: Path, events: Any = None, **header: Any) -> tq.Trace:
    document = {"schemaVersion": 1, **header, "traceEvents": EVENTS if events is None else events}
    trace = tq.open(write(path / "t.json", json.dumps(document)))
    assert isinstance(trace, tq.Trace)
    return trace


def starts(trace: tq.Trace) -> list[int]:
    return trace.table("kernels")["start_ns"].to_list()


# --- time -----------------------------------------------------------------------------------------------------------


def test_relative_times_count_from_the_first_event(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, baseTimeNanoseconds=1_790_857_026_000_000_000)
    assert starts(trace) == [9_750, 29_500]
    assert trace.origin_unix_ns == 1_790_857_026_000_010_500


def test_epoch_microseconds_lose_nothing(tmp_path: Path) -> None:
    text = json.dumps({"traceEvents": [kernel("A"), kernel("B")]})
    text = text.replace('"A"', "1712195495505583.001").replace('"B"', "1712195495505583.988")
    trace = tq.open(write(tmp_path / "t.json", text))
    assert starts(trace) == [0, 987]  # type: ignore[arg-type]
    assert trace.origin_unix_ns == 1_712_195_495_505_583_001  # type: ignore[union-attr]


def test_integer_epoch_microseconds(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, [kernel(1682725898082228, dur=10), kernel(1682725898082240, dur=3)])
    assert starts(trace) == [0, 12_000]
    assert trace.table("kernels")["dur_ns"].to_list() == [10_000, 3_000]


@given(st.integers(0, 2 * 10**18), st.integers(0, 999))
def test_digits_to_nanoseconds_are_exact(whole: int, thousandths: int) -> None:
    whole //= 1000
    assert nanoseconds(pl.Series([f"{whole}.{thousandths:03d}"])).to_list() == [whole * 1000 + thousandths]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12_000), ("12.3", 12_300), ("12.3456", 12_346), ("12.3454", 12_345), ("1.5e3", 1_500_000), ("1E-3", 1),
        ('"7.25"', 7_250), ("-2.5", -2_500), ("NaN", None), ("x", None), ("9223372036854775807", None), (None, None),
        ("0.0004", 0), ("1e400", None),
    ],
)  # fmt: skip
def test_number_forms(text: str | None, expected: int | None) -> None:
    assert nanoseconds(pl.Series([text], dtype=pl.String)).to_list() == [expected]


# --- layouts --------------------------------------------------------------------------------------------------------


def test_bare_array_and_old_categories(tmp_path: Path) -> None:
    events = [
        {**call(1), "cat": "Runtime"},
        {**kernel(5), "cat": "Kernel"},
        {**kernel(9), "cat": "Memcpy", "name": "Memcpy HtoD (Pageable -> Device)"},
    ]
    trace = tq.open(write(tmp_path / "t.json", json.dumps(events)))
    assert trace.table("kernels").height == 1
    copy = trace.table("memcpys").row(0, named=True)
    assert (copy["kind"], copy["src_memory"], copy["dst_memory"]) == ("HtoD", "pageable", "device")


def test_texts_where_numbers_belong(tmp_path: Path) -> None:
    event = kernel(5, correlation="77") | {"pid": "0", "tid": "stream 7"}
    event["args"] |= {"device": "0", "stream": "stream 13"}
    trace = trace_of(tmp_path, [call(1, "77"), event])
    row = trace.table("kernels").row(0, named=True)
    assert (row["device"], row["stream"], row["correlation_id"], row["launch_id"]) == (0, 13, 77, 0)


def test_the_window_event_is_no_work(tmp_path: Path) -> None:
    window = {
        "ph": "X",
        "cat": "Trace",
        "name": "PyTorch Profiler (0)",
        "pid": "Spans",
        "tid": "PyTorch Profiler",
        "ts": 1,
        "dur": 9999,
    }
    trace = trace_of(tmp_path, [*EVENTS, window])
    assert starts(trace) == [19_250, 39_000]  # but it is where a viewer's time starts
    assert trace.table("gpu_ops").height == 2


def test_one_launch_many_kernels_and_a_launch_outside_the_window(tmp_path: Path) -> None:
    events = [call(1, 5, "cudaGraphLaunch"), kernel(10, 5), kernel(20, 5), kernel(30, 5), kernel(40, 99)]
    trace = trace_of(tmp_path, events)
    assert trace.table("launches")["gpu_ops"].to_list() == [3]
    assert trace.table("kernels")["launch_id"].to_list() == [0, 0, 0, None]
    assert trace.table("graph_launches")["node_count"].to_list() == [3]


def test_amd_names(tmp_path: Path) -> None:
    events = [call(1, 5, "hipGraphLaunch"), kernel(10, 5), call(30, 6, "hipExtModuleLaunchKernel"), kernel(40, 6)]
    trace = trace_of(tmp_path, events)
    assert trace.table("launches")["kind"].to_list() == ["graph", "kernel"]


def test_properties_and_rank(tmp_path: Path) -> None:
    trace = trace_of(
        tmp_path,
        deviceProperties=[{"id": 0, "name": "NVIDIA H200", "numSms": 132, "computeMajor": 9, "computeMinor": 0}],
        distributedInfo={"rank": 3, "world_size": 8, "backend": "nccl"},
    )
    assert trace.rank == 3
    assert trace.table("kernels")["rank"].to_list() == [3, 3]
    assert trace.table("devices").row(0, named=True)["sm_count"] == 132


# --- damage ---------------------------------------------------------------------------------------------------------

LAYOUTS = {"one line": {"separators": (",", ":")}, "indented": {"indent": 2}, "plain": {}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_truncation_keeps_every_whole_event(tmp_path: Path, layout: str, packed: bool) -> None:
    events = [kernel(i * 10, i, name=f"k{i}") for i in range(40)]
    text = json.dumps({"schemaVersion": 1, "traceEvents": events, "traceName": "x"}, **LAYOUTS[layout]).encode()  # type: ignore[arg-type]
    whole_ends = []
    decoder = json.JSONDecoder()
    position = text.index(b"[", text.index(b"traceEvents")) + 1
    for _ in events:
        begin = text.index(b"{", position)
        _, length = decoder.raw_decode(text[begin:].decode())
        position = begin + length
        whole_ends.append(position)
    for percent in range(20, 100, 7):
        cut = text[: len(text) * percent // 100]
        expected = sum(end <= len(cut) for end in whole_ends)
        if packed:
            path = write(tmp_path / "t.json.gz", gzip.compress(cut)[:-8])  # the checksum is cut off as well
        else:
            path = write(tmp_path / "t.json", cut)
        trace = tq.open(path)
        assert trace.table("kernels").height == expected, percent
        assert any(p.kind == "truncated" for p in trace.problems)  # type: ignore[union-attr]
        assert not trace.capabilities.complete  # type: ignore[union-attr]


ODD = {
    "nan": b'{"traceEvents": [%s, {"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":50,"dur":1,"args":{"correlation":NaN,"est. achieved occupancy %%":Infinity}}]}',
    "invalid utf-8": b'{"traceEvents": [%s, {"ph":"X","cat":"kernel","name":"k\xff\xfe","pid":0,"tid":7,"ts":50,"dur":1}]}',
    "lone surrogate": b'{"traceEvents": [%s, {"ph":"X","cat":"kernel","name":"k\\ud800","pid":0,"tid":7,"ts":50,"dur":1}]}',
    "bom": b'\xef\xbb\xbf{"traceEvents": [%s, {"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":50,"dur":1}]}',
    "crlf": b'{\r\n"traceEvents": [\r\n%s,\r\n{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":50,"dur":1}\r\n]}\r\n',
    "leading newlines": b'\n\n\n  {"traceEvents": [%s, {"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":50,"dur":1}]}',
    "duplicate keys": b'{"traceEvents": [%s, {"ph":"i","ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":1,"ts":50,"dur":1}]}',
    "events first": b'{"traceEvents": [%s, {"dur":1,"args":{},"ts":50,"tid":7,"pid":0,"name":"k","cat":"kernel","ph":"X"}], "schemaVersion": 1}',
}


@pytest.mark.parametrize("form", ODD)
def test_odd_but_whole_files_lose_nothing(tmp_path: Path, form: str) -> None:
    content = ODD[form] % ", ".join(json.dumps(e) for e in EVENTS).encode()
    trace = tq.open(write(tmp_path / "t.json", content))
    assert trace.table("kernels").height == 3
    assert trace.capabilities.complete  # type: ignore[union-attr]


def test_an_unescaped_quote_costs_one_event(tmp_path: Path) -> None:
    bad = json.dumps(kernel(25)).replace('"k"', '"k"oops"')
    text = (
        '{"traceEvents": ['
        + ",\n".join([json.dumps(EVENTS[0]), json.dumps(EVENTS[1]), bad, json.dumps(EVENTS[3])])
        + "]}"
    )
    trace = tq.open(write(tmp_path / "t.json", text))
    assert trace.table("kernels").height == 2
    (problem,) = trace.problems  # type: ignore[union-attr]
    assert (problem.kind, problem.count) == ("skipped", 1)


def test_negative_durations_are_left_out_and_said(tmp_path: Path) -> None:
    trace = trace_of(tmp_path, [*EVENTS, kernel(60, dur=-5)])
    assert trace.table("kernels").height == 2
    assert [p.kind for p in trace.problems] == ["skipped"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"hello", "unknown content"),
        (b'{"nodes": [], "schema": "1.0"}', "execution trace"),
        (b'{"segments": [], "device_traces": []}', "memory snapshot"),
        (b'[{"a": 1}]', 'no "ph"'),
        (b'{"traceEvents": []}', "without a single event"),
        (b'{"a": 1, "b": 2}', "keys a, b"),
        (b'{"traceEvents": [{"ph": "X", "na', "end before one whole trace event"),
        (b"\x1f\x8b\x08\x00garbage", "damaged gzip file .*copy it again"),
        (b"\x1f", "1 byte of unknown content"),
        (b"x", "1 byte of unknown content"),
        (b"  \n", "3 bytes of white space.*record it again"),
        (b"{}", "an empty JSON object.*record it again"),
        (b"\xef\xbb\xbf{}", "an empty JSON object.*record it again"),
        (b"[]", "an empty JSON array.*record it again"),
        (b"{", "1 byte of JSON that end before one whole"),
        (b'{"traceEvents": 5}', '"traceEvents" is not a list'),
        (b'{"traceEvents": [1, 2]}', '2 items in "traceEvents", none an event'),
        (b"[1, 2]", "JSON array of 2 items"),
        (b"null", "unknown content"),
        (gzip.compress(b"", mtime=0), "an empty file, compressed"),
        (gzip.compress(b"{}", mtime=0), "an empty JSON object"),
        (b"SQLite format 3\x00", "SQLite cannot read it"),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UnreadableTraceError, match=says) as caught:
        tq.open(write(tmp_path / "t.json", content))
    assert "\n" not in str(caught.value)
    assert "t.json" in str(caught.value)


def test_a_trace_without_gpu_rows_opens_and_no_rule_fails(tmp_path: Path) -> None:
    op = {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 1, "dur": 5}
    report = tq.analyze(trace_of(tmp_path, [op]))
    outcomes = {o.code: o.outcome for o in report.rules}
    assert outcomes["TQL101"] == "not_applicable"
    assert "error" not in outcomes.values()
    assert report.metrics["gpus"] == {}


def test_every_real_trace_opens() -> None:
    for path in traces.REAL_TRACES:
        assert traces.opened(path).table("gpu_ops").height > 0

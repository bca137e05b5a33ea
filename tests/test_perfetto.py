"""The hand-off to Perfetto: a cut that is a trace again, served to nobody else."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import traces
from commands import traceql
from report.made import finding, small_trace

import traceql as tq
from traceql.errors import UsageError
from traceql.perfetto import EVERYTHING, cut, window
from traceql.serving import PERFETTO, CutServer
from traceql.testing import TraceBuilder


@pytest.mark.parametrize("name", ["sglang-h200-bs64-decode-graph", "nsys-h200-mini-decode-piecewise-node"])
def test_the_whole_cut_opens_as_the_same_trace(name: str, tmp_path: Path) -> None:
    trace = traces.sample(name)
    path = tmp_path / "cut.json.gz"
    path.write_bytes(cut(trace))
    again = tq.open(path)
    assert isinstance(again, tq.Trace)
    for table in ("kernels", "memcpys", "memsets", "runtime_calls", "cpu_ops"):
        mine, theirs = (t.table(table).select("start_ns", "dur_ns") for t in (trace, again))
        shift = trace.source_offset_ns - again.source_offset_ns
        assert (
            theirs.with_columns(theirs["start_ns"] - shift)
            .sort("start_ns", "dur_ns")
            .equals(mine.sort("start_ns", "dur_ns"))
        )


@pytest.mark.parametrize("name", ["sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph"])
def test_the_rules_say_the_same_of_the_whole_cut(name: str, tmp_path: Path) -> None:
    report = tq.analyze(traces.sample(name))
    path = tmp_path / "cut.json.gz"
    path.write_bytes(cut(report.traces[0]))
    again = tq.analyze(path)
    assert [(f.code, f.fingerprint, f.message) for f in again.found] == [
        (f.code, f.fingerprint, f.message) for f in report.found
    ]


_EVENT = {
    "type": "object",
    "required": ["ph", "name", "pid", "tid"],
    "properties": {
        "ph": {"enum": ["X", "M", "s", "f"]},
        "name": {"type": "string"},
        "cat": {"type": "string"},
        "pid": {"type": "integer"},
        "tid": {"type": "integer"},
        "ts": {"type": "number"},
        "dur": {"type": "number", "minimum": 0},
        "args": {"type": "object"},
    },
    "allOf": [
        {"if": {"properties": {"ph": {"const": "X"}}}, "then": {"required": ["ts", "dur", "cat", "args"]}},
        {"if": {"properties": {"ph": {"enum": ["s", "f"]}}}, "then": {"required": ["ts", "cat", "id"]}},
    ],
}


@pytest.mark.parametrize("name", ["sglang-h200-bs64-decode-graph", "nsys-h200-mini-decode-full-graph"])
def test_every_cut_is_a_chrome_trace(name: str) -> None:
    report = tq.analyze(traces.sample(name))
    valid = jsonschema.Draft202012Validator({"type": "array", "items": _EVENT})
    for each in report.found:
        events = json.loads(gzip.decompress(cut(report.traces[0], each)))["traceEvents"]
        assert list(valid.iter_errors(events)) == []
        starts = {e["id"]: e["ts"] for e in events if e["ph"] == "s"}
        ends = {e["id"]: e["ts"] for e in events if e["ph"] == "f"}
        assert starts.keys() == ends.keys()
        slices = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
        assert {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] in "sf"} <= slices, "flows hang on slices"
        named = {e["pid"] for e in events if e["name"] == "process_name"}
        assert {e["pid"] for e in events} <= named
        assert sum(e["cat"] == "finding" for e in events if e["ph"] == "X") == 1


def test_times_are_exact_to_the_nanosecond() -> None:
    trace = replace(small_trace(), source_offset_ns=1_763_655_686_123_456_789)
    events = gzip.decompress(cut(trace)).decode()
    assert '"ts":1763655686123456.789,"dur":900.000' in events


def test_a_window_begins_and_ends_with_steps() -> None:
    trace = long_steps(9)
    steps = trace.table("steps")
    inside = finding(start_ns=int(steps["start_ns"][4]) + 100_000, end_ns=int(steps["start_ns"][4]) + 200_000)
    begin, end = window(trace, inside)
    assert begin == min(steps["start_ns"][2], inside.start_ns - 1_000_000)
    assert end == max(steps["start_ns"][7], inside.end_ns + 1_000_000)
    assert window(trace, finding(start_ns=None, end_ns=None, step_id=4)) == window(
        trace, finding(start_ns=int(steps["start_ns"][4]), end_ns=int(steps["start_ns"][5]))
    )
    assert window(trace, finding(start_ns=None, end_ns=None, step_id=None)) == EVERYTHING


def long_steps(count: int) -> tq.Trace:
    build = TraceBuilder()
    for start in range(0, count * 3000, 3000):
        build.range("step[DECODE bs=8]", start, 2900)
        build.launch("gemm_kernel", call_us=start + 10, gpu_us=start + 20, gpu_dur_us=2000)
    return build.trace()


def test_open_writes_the_cut_it_would_serve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sample = "sglang-h200-bs64-decode-graph"
    path = tmp_path / "cut.json.gz"
    done = traceql(capsys, "open", "--sample", sample, "--finding", "1", "-o", path)
    assert done.code == 0, done.err
    report = tq.analyze(traces.sample(sample))
    assert f"finding 1: {report.found[0].rule}" in done.err
    assert path.read_bytes() == cut(report.traces[0], report.found[0])
    missing = traceql(capsys, "open", "--sample", sample, "--finding", "99")
    assert missing.code == 2
    assert "has" in missing.err


def test_open_counts_findings_as_analyze_does_with_the_same_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = traceql(
        capsys, "open", "--sample", "sglang-h200-bs64-decode-graph", "--select", "TQL902", "--finding", "1",
        "-o", tmp_path / "cut.json.gz",
    )  # fmt: skip
    assert "finding 1: profiler-distortion" in done.err


def test_a_cut_holds_the_findings_window_and_its_own_track() -> None:
    report = tq.analyze(traces.sample("nsys-h200-mini-decode-piecewise-node"))
    finding = report.found[0]
    trace = report.traces[0]
    events = json.loads(gzip.decompress(cut(trace, finding)))["traceEvents"]
    begin, end = (t + trace.source_offset_ns for t in window(trace, finding))
    spans = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] * 1000 < end and (e["ts"] + e["dur"]) * 1000 >= begin - 1 for e in spans)
    assert len(spans) < trace.table("gpu_ops").height + trace.table("runtime_calls").height
    (track,) = [e for e in spans if e["cat"] == "finding"]
    assert track["args"]["message"] == finding.message
    starts = {e["id"] for e in events if e["ph"] == "s"}
    assert starts == {e["id"] for e in events if e["ph"] == "f"}


def test_only_the_guessed_path_is_served_with_the_right_origin() -> None:
    server = CutServer(b"content", port=0)
    assert server.link.startswith(f"{PERFETTO}/#!/?url=http://127.0.0.1:")
    thread = threading.Thread(target=server.serve_once, args=(10,))
    thread.start()
    base = f"http://127.0.0.1:{server.port}"
    for wrong in ("/", "/cut.json.gz", server.path + "x", "/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(base + wrong, timeout=5)
    asked = urllib.request.Request(base + server.path, method="OPTIONS", headers={"Origin": PERFETTO})
    with urllib.request.urlopen(asked, timeout=5) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == PERFETTO
        assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    with urllib.request.urlopen(base + server.path, timeout=5) as answer:
        assert answer.read() == b"content"
        assert answer.headers["Access-Control-Allow-Origin"] == PERFETTO
    thread.join(5)
    server.close()


def test_a_silent_or_vanished_client_does_not_hold_up_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    server = CutServer(b"content" * 2**20, port=0, patience_s=0.2)
    thread = threading.Thread(target=server.serve_once)
    thread.start()
    with (
        socket.create_connection(("127.0.0.1", server.port)),
        socket.create_connection(("127.0.0.1", server.port)) as gone,
    ):
        gone.sendall(f"GET {server.path} HTTP/1.0\r\n\r\n".encode())
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{server.path}", timeout=5) as answer:
            assert len(answer.read()) == len(server.content)
    except urllib.error.URLError:  # the vanished client took the whole file from its buffer: it was served
        assert server.served
    thread.join(5)
    server.close()
    assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_sends_a_byte_now_and_then_does_not_hold_up_the_next_one() -> None:
    server = CutServer(b"content", port=0, patience_s=0.1)
    thread = threading.Thread(target=server.serve_once, daemon=True)
    thread.start()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.03):
                    slow.sendall(b"G")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{server.path}", timeout=20) as answer:
                assert answer.read() == b"content"
        finally:
            stop.set()
            dripping.join()
    thread.join(5)
    server.close()


def test_a_taken_port_is_said() -> None:
    first = CutServer(b"", port=0)
    with pytest.raises(UsageError, match="is taken"):
        CutServer(b"", port=first.port)
    first.close()

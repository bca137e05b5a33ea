"""The hand-off to Perfetto: a cut that is a trace again, served to nobody else."""

from __future__ import annotations

import gzip
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import traces

import traceql as tq
from traceql.errors import UsageError
from traceql.perfetto import cut, window
from traceql.serving import PERFETTO, CutServer


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
    with urllib.request.urlopen(base + server.path, timeout=5) as answer:
        assert answer.read() == b"content"
        assert answer.headers["Access-Control-Allow-Origin"] == PERFETTO
    thread.join(5)
    server.close()


def test_a_taken_port_is_said() -> None:
    first = CutServer(b"", port=0)
    with pytest.raises(UsageError, match="is taken"):
        CutServer(b"", port=first.port)
    first.close()

"""The exact counts of real Nsight Systems exports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from traceql.loaders import nsys_sqlite
from traceql.trace import Trace

EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES")


def truth() -> dict[str, dict[str, Any]]:
    if not EXTRA:
        return {}
    entries = json.loads((Path(EXTRA) / "truth.json").read_text(encoding="utf-8"))
    return {name: entry for name, entry in entries.items() if name.endswith(".sqlite")}


@pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of captures")
@pytest.mark.parametrize("name", truth())
def test_exact_counts_of_real_captures(name: str) -> None:
    expected = truth()[name]
    trace = Trace.from_loaded(nsys_sqlite.load(Path(EXTRA or "") / name))
    kernels, memcpys, memsets = (trace.loaded[table] for table in ("kernels", "memcpys", "memsets"))
    calls = trace.loaded["runtime_calls"]
    assert (kernels.height, memcpys.height, memsets.height, calls.height) == (
        expected["kernels"], expected["memcpys"], expected["memsets"], expected["runtime_calls"],
    )  # fmt: skip
    assert kernels["dur_ns"].sum() == expected["kernel_ns"]
    assert pl.concat([memcpys["dur_ns"], memsets["dur_ns"]]).sum() == expected["memop_ns"]
    assert trace.loaded["graph_traces"].height == expected["graph_trace_rows"]
    assert kernels["name"].n_unique() == expected["distinct_kernel_names"]
    assert dict(calls["name"].value_counts().rows()).items() >= dict(expected["runtime_top"]).items()
    work = pl.concat([kernels.select("device", "start_ns", "dur_ns"), memcpys.select("device", "start_ns", "dur_ns"),
                      memsets.select("device", "start_ns", "dur_ns")])  # fmt: skip
    for device, figures in expected["devices"].items():
        rows = work.filter(pl.col("device") == int(device))
        assert rows["start_ns"].min() == figures["first"] - trace.source_offset_ns
        assert (rows["start_ns"] + rows["dur_ns"]).max() == figures["last"] - trace.source_offset_ns
    steps = trace.loaded["annotations"].filter(pl.col("name").str.starts_with("step["))
    starts = [step["cpu"][0] - trace.source_offset_ns for step in expected["steps"]]
    assert steps["start_ns"].to_list()[-len(starts) :] == starts
    assert trace.problems == ()


PUBLIC = {  # counted with the sqlite3 shell
    "flameox-nsight-2025.5.2-graph": {
        "kernels": 3, "memcpys": 1, "runtime_calls": 33, "graph_traces": 2, "synchronizations": 2, "overheads": 35,
    },
    "nsys-ai-h100_2gpu_1s": {
        "kernels": 3442, "memcpys": 904, "memsets": 22, "runtime_calls": 5796, "annotations": 16782,
        "synchronizations": 244, "overheads": 198, "devices": 0,
    },
    "nsys-ai-mock": {"kernels": 2, "memcpys": 1, "runtime_calls": 9, "synchronizations": 1, "overheads": 31},
}  # fmt: skip


@pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of captures")
@pytest.mark.parametrize("name", PUBLIC)
def test_public_captures(name: str) -> None:
    path = Path(EXTRA or "") / "public" / "nsys" / f"{name}.sqlite"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the captures")
    trace = nsys_sqlite.load(path)
    assert {table: trace.frames[table].height for table in PUBLIC[name]} == PUBLIC[name]
    assert trace.frames["kernels"]["name"].null_count() == 0

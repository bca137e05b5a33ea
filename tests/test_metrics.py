"""Metrics of every real trace against the plain-Python count, and against figures counted elsewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import plain_count
import polars as pl
import pytest
import traces
from adversarial.held import compare_collectives, compare_gaps, compare_step_costs

from traceql import metrics
from traceql.trace import Trace

STEP_FIELDS = {
    "cpu_ns": "dur", "gpu_span_ns": "gpu_span_ns", "gpu_busy_ns": "gpu_busy_ns", "kernels": "kernels",
    "launch_calls": "launch_calls", "graph_launches": "graph_launches", "kind": "kind", "batch_size": "batch_size",
}  # fmt: skip


@cache
def rows(path: Path) -> plain_count.Rows:
    return plain_count.read(path)


@cache
def plain(path: Path) -> dict[str, Any]:
    found = rows(path)
    return plain_count.count(found.ops, found.calls, found.marks)


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_equal_to_the_plain_count(path: Path) -> None:
    trace, expected = traces.opened(path), plain(path)
    found = metrics.of(trace)
    assert {name: found["launches"][name] for name in found["launches"]} == {
        name: expected[name] for name in found["launches"]
    }
    for device, gpu in expected["devices"].items():
        ours = found["gpus"][str(device)]
        for name in ("kernels", "kernel_time_ns", "busy_ns", "gpu_busy_ns", "span_ns"):
            assert ours[name] == gpu[name], (device, name)
        assert ours["idle_pct"] == (None if gpu["idle_pct"] is None else pytest.approx(gpu["idle_pct"], abs=1e-3))
    assert len(expected["devices"]) == len(found["gpus"])
    marked = [s for s in found["steps"] if s["found_by"] == "step mark"]
    assert len(marked) == len(expected["steps"])
    for ours, theirs in zip(marked, expected["steps"], strict=True):
        for name, other in STEP_FIELDS.items():
            assert ours[name] == theirs[other], (ours["step_id"], name)


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_steps_equal_to_the_plain_count(path: Path) -> None:
    """What the first comparison leaves: place, name, tokens and segments."""
    marked = [s for s in metrics.steps(traces.opened(path)) if s["found_by"] == "step mark"]
    expected = plain(path)["steps"]
    for ours, theirs in zip(marked, expected, strict=True):
        assert ours["start_ns"] - marked[0]["start_ns"] == theirs["start"] - expected[0]["start"]
        assert ours["name"] == theirs["name"]
        stated = re.search(r"toks=(\d+)", theirs["name"])
        assert ours["tokens"] == (int(stated[1]) if stated else theirs["batch_size"])
        if ours["gpu_busy_ns"] is not None:
            assert ours["graph_segments"] == theirs["graph_segments"]


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_gaps_and_their_causes_equal_to_the_plain_count(path: Path) -> None:
    compare_gaps(traces.opened(path), rows(path))


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_periods_and_devices_of_steps_equal_to_the_plain_count(path: Path) -> None:
    compare_step_costs(traces.opened(path), rows(path))


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_communication_equal_to_the_plain_count(path: Path) -> None:
    compare_collectives(traces.opened(path), rows(path))


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_gap_parts_add_up_to_the_idle_time(path: Path) -> None:
    trace = traces.opened(path)
    parts = trace.table("gap_parts")
    assert parts["dur_ns"].min() is None or parts["dur_ns"].min() > 0  # type: ignore[operator]
    by_gap = parts.group_by("gap_id").agg(total=pl.col("dur_ns").sum())
    joined = trace.table("gaps").join(by_gap, on="gap_id", how="left")
    assert joined.filter(pl.col("total").ne_missing(pl.col("dur_ns"))).is_empty()
    for device, gpu in metrics.gpus(trace).items():
        idle = trace.table("gaps").filter(pl.col("device") == int(device))["dur_ns"].sum()
        if gpu["gpu_busy_ns"] is not None:
            assert idle == gpu["span_ns"] - gpu["gpu_busy_ns"]


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_boundaries_equal_to_the_plain_count(path: Path) -> None:
    trace, expected = traces.opened(path), plain(path)
    found = trace.table("graph_boundaries").filter(pl.col("step_id").is_not_null())
    wanted = [b for step in expected["segments_and_boundaries"] for b in step["boundaries"]]
    if {s["found_by"] for s in metrics.steps(trace)} - {"step mark"}:
        pytest.skip("steps were not marked: the plain count has none")
    assert found.height == len(wanted)
    assert sorted(found["dur_ns"]) == sorted(b["wall_ns"] for b in wanted)
    assert sorted(found["idle_ns"]) == sorted(b["idle_ns"] for b in wanted)
    assert sorted(found["eager_gpu_ops"]) == sorted(b["eager_gpu_ops"] for b in wanted)


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_every_gpu_row_belongs_to_one_op_or_none(path: Path) -> None:
    from traceql.derived.ops import op_gpu_rows, op_instances

    trace = traces.opened(path)
    rows = op_gpu_rows(trace)
    assert rows.height == trace.table("gpu_ops").height
    unattributed = rows.filter(pl.col("op_id").is_null())["dur_ns"].sum()
    assert op_instances(trace)["device_ns"].sum() + unattributed == rows["dur_ns"].sum()


def of_truth() -> list[str]:
    return sorted(str(p.relative_to(traces.EXTRA_FOLDER)) for p in traces.OWN_CAPTURES) if traces.EXTRA_FOLDER else []


@pytest.mark.parametrize("name", of_truth())
def test_equal_to_figures_counted_elsewhere(name: str) -> None:
    expected = traces.truth()[name]
    trace: Trace = traces.extra(name)
    found = metrics.of(trace)
    assert sum(g["kernels"] for g in found["gpus"].values()) == expected["kernels"]
    assert sum(g["kernel_time_ns"] for g in found["gpus"].values()) == expected["kernel_ns"]
    assert found["launches"]["graph_kernels"] == expected["kernels_from_graph"]
    assert found["launches"]["graph_launches"] == expected["graph_launches"]
    assert found["launches"]["launch_calls"] == expected["launch_calls"]
    for device, figures in expected["devices"].items():
        ours = found["gpus"][device]
        assert ours["span_ns"] == figures["span_ns"]
        assert ours["busy_ns"] == figures["busy_kernels_ns"]
        if ours["gpu_busy_ns"] is not None:
            assert ours["gpu_busy_ns"] == figures["busy_all_ns"]
            assert ours["idle_pct"] == pytest.approx(figures["idle_pct_all"], abs=1e-3)

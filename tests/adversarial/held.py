"""Every figure of a trace against the plain count, every invariant, no rule that breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plain_count
import polars as pl
import pytest
from plain_count.collectives import overlaps
from plain_count.gaps import all_gaps
from plain_count.steps import steps

import traceql as tq
from traceql import engine, metrics
from traceql.derived.ops import op_gpu_rows, op_instances
from traceql.derived.step_metrics import step_metrics
from traceql.report import headline
from traceql.trace import Trace


def check(path: Path, expected: dict[str, Any]) -> Trace:
    """Open, count and judge one file."""
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    compare_with_count(trace, expected)
    hold_invariants(trace)
    broken = [(o.code, o.traceback) for o in engine.run(trace) if o.outcome == "error"]
    assert not broken
    report = tq.analyze(trace)
    for kind in ("text", "json", "html", "markdown"):
        assert report.render(kind)
    for finding in report.found:
        shares = {k: v for k, v in finding.evidence.items() if k.endswith("_pct") and isinstance(v, (int, float))}
        assert all(-1e-9 <= v <= 100 + 1e-9 for v in shares.values()), (finding.code, shares)
    assert "nan" not in headline.verdict(trace).lower()
    return trace


def compare_with_count(trace: Trace, expected: dict[str, Any]) -> None:
    found = metrics.of(trace)
    assert found["launches"] == {name: expected[name] for name in found["launches"]}
    assert {int(device) for device in found["gpus"]} == set(expected["devices"])
    for device, figures in expected["devices"].items():
        ours = found["gpus"][str(device)]
        for name in ("kernels", "kernel_time_ns", "busy_ns", "gpu_busy_ns", "span_ns"):
            assert ours[name] == figures[name], (device, name)
        assert ours["idle_pct"] == (
            None if figures["idle_pct"] is None else pytest.approx(figures["idle_pct"], abs=1e-3)
        )
    gaps = trace.table("gaps").filter(pl.col("dur_ns") > plain_count.GAP_NS)
    for device, (count, total) in expected["idle_gaps_gt_5us"].items():
        of_device = gaps.filter(pl.col("device") == device)
        assert [of_device.height, of_device["dur_ns"].sum()] == [count, total], device


def compare_steps(trace: Trace, expected: dict[str, Any]) -> None:
    fields = {"cpu_ns": "dur", "gpu_span_ns": "gpu_span_ns", "kernels": "kernels", "launch_calls": "launch_calls",
              "graph_launches": "graph_launches", "kind": "kind", "batch_size": "batch_size",
              "gpu_busy_ns": "gpu_busy_ns"}  # fmt: skip
    ours = [s for s in metrics.steps(trace) if s["found_by"] == "step mark"]
    assert len(ours) == len(expected["steps"])
    for one, other in zip(ours, expected["steps"], strict=True):
        for name, theirs in fields.items():
            if name == "gpu_busy_ns" and other[theirs] is None and one["kernels"] == 0:
                assert one[name] in (0, None)  # nothing ran in it: known to be idle where others are known
            else:
                assert one[name] == other[theirs], (one["step_id"], name)


def hold_invariants(trace: Trace) -> None:
    ops, gaps, parts = trace.table("gpu_ops"), trace.table("gaps"), trace.table("gap_parts")
    assert parts["dur_ns"].sum() == gaps["dur_ns"].sum()
    by_gap = parts.group_by("gap_id").agg(pl.col("dur_ns").sum().alias("total"))
    assert gaps.join(by_gap, on="gap_id", how="left").filter(pl.col("total").ne_missing(pl.col("dur_ns"))).is_empty()
    steps = trace.table("steps")
    known = steps.filter(pl.col("gpu_busy_ns").is_not_null())
    assert (known["gpu_busy_ns"] + known["gpu_idle_ns"] <= known["whole_ns"]).all()
    assert step_metrics(trace)["gpu_idle_pct"].drop_nulls().is_between(0, 100).all()
    assert steps["gpu_ops"].sum() == ops["step_id"].count()
    rows = op_gpu_rows(trace)
    assert rows.height == ops.height
    outside = rows.filter(pl.col("op_id").is_null())["dur_ns"].sum()
    assert op_instances(trace)["device_ns"].sum() + outside == ops["dur_ns"].sum()
    layers, kernels = trace.table("layers"), trace.table("kernels")
    assert layers["kernels"].sum() <= kernels.height


def compare_gaps(trace: Trace, rows: plain_count.Rows) -> None:
    """Every gap: its place, the step that waits, and how much of it each cause has."""
    expected = all_gaps(rows)
    found = trace.table("gaps").sort("device", "start_ns")
    assert found.height == len(expected)
    if not expected:
        return
    begin = expected[0].start - found["start_ns"][0]
    by_marks = trace.table("steps").filter(pl.col("found_by") != "step mark").is_empty()
    marked = trace.table("steps")["step_id"].to_list() if by_marks else []
    parts: dict[int, dict[str, int]] = {}
    for gap, cause, dur in trace.table("gap_parts").select("gap_id", "cause", "dur_ns").iter_rows():
        parts.setdefault(gap, {})[cause] = parts.get(gap, {}).get(cause, 0) + dur
    for ours, gap in zip(found.iter_rows(named=True), expected, strict=True):
        place = (ours["device"], ours["start_ns"] + begin, ours["start_ns"] + ours["dur_ns"] + begin)
        assert place == (gap.device, gap.start, gap.end)
        assert parts[ours["gap_id"]] == gap.causes, place
        if marked:
            assert ours["step_id"] == (None if gap.step is None else marked[gap.step]), place


def compare_step_costs(trace: Trace, rows: plain_count.Rows) -> None:
    """Period, lead-in, busy and idle time of every marked step, and the same of each device it ran on."""
    marked = trace.table("steps").filter(pl.col("found_by") == "step mark")
    devices = trace.table("step_devices")
    expected = steps(rows)
    assert marked.height == len(expected)
    for ours, theirs in zip(marked.iter_rows(named=True), expected, strict=True):
        assert ours["period_ns"] == theirs["period_ns"], ours["step_id"]
        if ours["gpu_busy_ns"] is not None:  # of devices whose time is not known none is the busiest
            assert ours["device"] == theirs["device"], ours["step_id"]
        there = {
            row["device"]: row for row in devices.filter(pl.col("step_id") == ours["step_id"]).iter_rows(named=True)
        }
        assert there.keys() == theirs["devices"].keys()
        for device, figures in theirs["devices"].items():
            place = (ours["step_id"], device)
            for name in ("gpu_busy_ns", "gpu_idle_ns", "lead_in_ns", "kernels"):
                assert there[device][name] == figures[name], (place, name)
            assert there[device]["gpu_dur_ns"] == figures["gpu_span_ns"], place
            if device == theirs["device"]:
                for name in ("gpu_busy_ns", "gpu_idle_ns", "lead_in_ns"):
                    assert ours[name] == figures[name], (place, name)


def compare_collectives(trace: Trace, rows: plain_count.Rows) -> None:
    """Early, shared, hidden and exposed time of every communication kernel."""
    names = ["device", "dur_ns", "early_ns", "shared_ns", "hidden_ns", "exposed_ns"]
    expected = overlaps(rows)
    found = trace.table("collective_overlap").sort("device", "start_ns", "dur_ns")
    assert found.select(names).rows() == [tuple(each[name] for name in names) for each in expected]

"""The independent count against recorded truth.

`TRACEQL_EXTRA_TRACES` names a folder of captures with a `truth.json` in it; without it these tests skip.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import plain_count
import pytest

EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES", "")
TRUTH_FILE = Path(EXTRA) / "truth.json" if EXTRA else None
HAS_TRUTH = TRUTH_FILE is not None and TRUTH_FILE.is_file()
needs_truth = pytest.mark.skipif(not HAS_TRUTH, reason="TRACEQL_EXTRA_TRACES names no folder with a truth.json")
TRUTH: dict[str, Any] = json.loads(TRUTH_FILE.read_text("utf-8")) if HAS_TRUTH and TRUTH_FILE else {}
CAPTURES = [name for name in TRUTH if name.startswith(("torch/", "nsys/"))] or ["no captures"]

STEP_KEYS = {
    "name": "name",
    "dur": "cpu_ns",
    "gpu_span_ns": "gpu_span_ns",
    "gpu_busy_ns": "gpu_busy_ns",
    "own_busy_ns": "own_busy_ns",
    "kernels": "kernels",
    "memops": "memops",
    "launch_calls": "launches",
    "graph_launches": "graph_launches",
}
BUSY_KEYS = {"gpu_busy_ns", "own_busy_ns"}

# From EXPECTED.md beside the truth: boundaries, their wall and idle ns, eager rows, idle over 5 and 10 µs.
BOUNDARIES = {
    "torch/sglang-h200-llama8b-bs4-prefill-piecewise.trace.json.gz": (32, 2_222_711, 963_868, 160, 32, 1),
    "nsys/mini-decode-piecewise-node.sqlite": (288, None, 5_791_892, None, None, 192),
    "torch/sglang-h200-llama8b-bs64-decode-graph.trace.json.gz": (0, 0, 0, 0, 0, 0),
}


def count_capture(name: str) -> dict[str, Any]:
    path = Path(EXTRA) / name
    if not path.is_file():
        pytest.skip(f"{name} is not in TRACEQL_EXTRA_TRACES")
    reader = plain_count.count_nsys if path.suffix == ".sqlite" else plain_count.count_torch
    figures: dict[str, Any] = reader(path)
    return figures


@needs_truth
@pytest.mark.parametrize("name", CAPTURES)
def test_against_truth(name: str) -> None:
    """Every figure both counts have, to the nanosecond."""
    truth, got = TRUTH[name], count_capture(name)
    for key in ("kernels", "memcpys", "memsets", "launch_calls", "graph_launches"):
        assert got[key] == truth[key], key
    assert got["kernel_time_ns"] == truth["kernel_ns"]
    assert got["graph_kernels"] == truth["kernels_from_graph"]
    assert got["matched_gpu_ops"] == truth["matched"] + truth["memops_matched"]
    memops_unmatched = truth["memcpys"] + truth["memsets"] - truth["memops_matched"]
    assert got["unmatched_gpu_ops"] == truth["unmatched"] + memops_unmatched
    assert [sum(column) for column in zip(*got["gaps_gt_5us"].values(), strict=True)] == truth["gaps_device_gt_5us"]

    # The truth's union counts what it sees; where replays left no rows, we say "not recorded" instead.
    silent = truth["graph_launches"] > 0 and truth["graph_launches_without_gpu_events"] == truth["graph_launches"]
    assert {str(device) for device in got["devices"]} == set(truth["devices"])
    for device, figures in got["devices"].items():
        expected = truth["devices"][str(device)]
        assert figures["busy_ns"] == expected["busy_kernels_ns"]
        assert figures["span_ns"] == expected["span_ns"]
        assert figures["gpu_busy_ns"] == (None if silent else expected["busy_all_ns"])
        idle = None if silent else pytest.approx(expected["idle_pct_all"], abs=5e-5)
        assert figures["idle_pct"] == idle

    assert len(got["steps"]) == len(truth["steps"])
    for figures, expected in zip(got["steps"], truth["steps"], strict=True):
        assert figures["start"] == expected["cpu"][0]
        assert figures["gpu_start"] == expected["gpu"][0]
        for ours, theirs in STEP_KEYS.items():
            value = None if silent and ours in BUSY_KEYS else expected[theirs]
            assert figures[ours] == value, (figures["step_id"], ours)


@needs_truth
@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundaries_against_expected(name: str) -> None:
    found = [b for step in count_capture(name)["segments_and_boundaries"] for b in step["boundaries"]]
    idle = [b["idle_ns"] for b in found]
    totals = (sum(b["wall_ns"] for b in found), sum(idle), sum(b["eager_gpu_ops"] for b in found))
    longer = (sum(ns > 5_000 for ns in idle), sum(ns > 10_000 for ns in idle))
    for ours, expected in zip((len(found), *totals, *longer), BOUNDARIES[name], strict=True):
        assert expected is None or ours == expected


@needs_truth
def test_public_captures_can_be_counted() -> None:
    """Other projects' files: no truth, but the figures must hold together."""
    paths = sorted(p for p in Path(EXTRA).glob("public/*/*") if p.suffix in {".sqlite", ".gz", ".json"})
    if not paths:
        pytest.skip("no public/ captures in TRACEQL_EXTRA_TRACES")
    for path in paths:
        got = count_capture(str(path.relative_to(EXTRA)))
        rows = got["kernels"] + got["memcpys"] + got["memsets"]
        assert got["matched_gpu_ops"] + got["unmatched_gpu_ops"] == rows > 0, path.name
        for device in got["devices"].values():
            assert device["busy_ns"] <= device["kernel_time_ns"], path.name
            assert device["busy_ns"] <= device["gpu_busy_ns"] <= device["span_ns"], path.name

"""The errors that docs/guarantees.md states of estimated figures, measured again where that is cheap."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
import traces
from test_steps import without_marks

import traceql as tq
from traceql import samples
from traceql.derived.what_if import as_one_graph
from traceql.trace import Trace

PAGE = (Path(__file__).parents[1] / "docs" / "guarantees.md").read_text(encoding="utf-8")
RUN = samples.folder() / "sglang-h200-bs64-run"
NAMES = {
    "torch": "{0}-torch/sglang-{0}_batch64_input512_output10_decode.trace.json.gz",
    "nsys": "{0}-nsys/sglang-{0}.sqlite",
}


def recorded(mode: str, profiler: str) -> Trace:
    return traces.opened(RUN / NAMES[profiler].format(mode))


def row(figure: str) -> str:
    (found,) = [line for line in PAGE.splitlines() if line.startswith(f"| {figure}")]
    return found


def test_one_graph_launch() -> None:
    pairs = [
        (traces.sample("sglang-h200-bs64-decode-eager"), traces.sample("sglang-h200-bs64-decode-graph")),
        (recorded("eager", "torch"), recorded("graph", "torch")),
    ]
    errors = []
    for eager, graph in pairs:
        twin = tq.align(graph, eager).trace
        errors += [as_one_graph(eager, step, twin, step).error_pct for step in range(3)]
    stated = re.search(r"n = (\d+) steps of two recordings: ([\d.]+) to ([\d.]+) % longer", row("savings: one graph"))
    assert stated is not None
    assert [len(errors), min(errors), max(errors)] == pytest.approx([float(s) for s in stated.groups()], abs=0.06)


def test_two_profilers_of_one_run() -> None:
    report = tq.analyze(tq.open(RUN))
    saved = {
        report.traces[f.trace].path.parent.name: (f.estimated_savings_us_per_step or 0) / 1000
        for f in report.found
        if f.code == "TQL101"
    }
    stated = re.findall(
        r"([\d.]+) \(torch\) and ([\d.]+) ms \(nsys\)|graph ([\d.]+) and ([\d.]+) ms", row("savings: two")
    )
    figures = [float(figure) for pair in stated for figure in pair if figure]
    measured = [saved[f"{mode}-{profiler}"] for mode in ("eager", "graph") for profiler in ("torch", "nsys")]
    assert measured == pytest.approx(figures, abs=0.01)


def test_profiled_periods() -> None:
    found = []
    for mode in ("eager", "graph"):
        for profiler in ("torch", "nsys"):
            periods = recorded(mode, profiler).table("steps")["period_ns"]
            unprofiled = {"eager": 15.7226, "graph": 7.7652}[mode]
            found.append(periods[1] / 1e6 / unprofiled)  # the first warms up, the last has no end
    stated = re.search(r"periods of ([\d.]+) to ([\d.]+) times the unprofiled step in that run \(n = (\d+)", PAGE)
    assert stated is not None
    assert [min(found), max(found), len(found)] == pytest.approx([float(s) for s in stated.groups()], abs=0.06)


def test_steps_without_marks() -> None:
    """Of all captures where they are at hand; of those without them none may differ."""
    found = []
    for path in traces.REAL_TRACES:
        steps = traces.opened(path).table("steps")
        if steps.height > 1 and steps["found_by"].unique().to_list() == ["step mark"]:
            found.append(without_marks(traces.opened(path)).table("steps").height - steps.height)
    if traces.EXTRA_FOLDER is None:
        assert found and not any(found)
        return
    stated = re.search(r"the (\d+) captures with several marked steps: the same number in (\d+)", row("steps without"))
    assert stated is not None
    assert [len(found), found.count(0)] == [int(s) for s in stated.groups()]
    assert sorted(filter(None, found)) == [-1, 2]


def test_bytes_by_counters() -> None:
    from test_ncu_join import joined

    matches = joined().table("ncu_matches").filter(pl.col("name").str.starts_with("nvjet"))
    ratios = sorted((matches["dram_bytes"] / matches["shape_bytes"]).drop_nulls().to_list())
    stated = re.search(r"formula's bytes: ([\d.]+), ([\d.]+) and ([\d.]+) \(n = 3", row("GEMM FLOPs"))
    assert stated is not None
    assert ratios == pytest.approx([float(s) for s in stated.groups()], abs=0.0006)

"""A known loss put into a real trace is reported with its cause and its size, and nothing else is.

Positions and sizes are drawn by hypothesis; TRACEQL_ABLATION_EXAMPLES draws more of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import polars as pl
import pytest
import traces
from ablation import changes
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql import engine
from traceql.finding import Finding, Severity
from traceql.opening import TraceSet

EAGER, GRAPH = "sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph"
NSYS = "nsys-h200-mini-decode-piecewise-node"
NSYS_EAGER = "nsys-h200-sglang-decode-eager"
RANKS = ("sglang-h200-tp2-decode-graph-rank0", "sglang-h200-tp2-decode-graph-rank1")
WITHIN = 0.10
HOST_BOUND = "TQL301"
"""Follows where the host becomes the slower side: its operators count then, as an info while they are few."""

few = settings(
    max_examples=int(os.environ.get("TRACEQL_ABLATION_EXAMPLES", "5")),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a failure names its position; to make it smaller takes minutes
    derandomize="TRACEQL_ABLATION_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)


def findings(trace: tq.Trace) -> list[Finding]:
    outcomes = engine.run(trace)
    assert not [o for o in outcomes if o.outcome == "error"], [o.traceback for o in outcomes if o.traceback]
    return [finding for outcome in outcomes for finding in outcome.findings]


@cache
def trace_of(name: str) -> tq.Trace:
    if name == "aligned":
        return tq.align(traces.sample(GRAPH), traces.sample(EAGER)).trace
    return traces.sample(name)


@cache
def found_in(name: str) -> tuple[Finding, ...]:
    """What the rules say of the unchanged trace."""
    return tuple(findings(trace_of(name)))


def baseline(name: str) -> frozenset[str]:
    return frozenset(f.fingerprint for f in found_in(name))


def only(name: str, changed: tq.Trace, code: str, *follow: str) -> Finding:
    """The finding of ``code`` in the changed trace, which has no new findings but of this rule and of ``follow``."""
    found = findings(changed)
    new = {f.code for f in found if f.fingerprint not in baseline(name)}
    assert new <= {code, *follow}, [f.message for f in found if f.code in new - {code, *follow}]
    assert all(f.severity is Severity.INFO for f in found if f.code == HOST_BOUND and f.code in new)
    (finding,) = [f for f in found if f.code == code]
    return finding


def row(finding: Finding, table: str, **wanted: object) -> dict[str, object]:
    (found,) = [r for r in finding.evidence[table] if all(r[k] == v for k, v in wanted.items())]
    return found


def close(figure: object, size: float) -> bool:
    return figure == pytest.approx(size, rel=WITHIN)


def test_an_edit_that_changes_nothing_gives_the_same_findings() -> None:
    again = changes.host_delay(trace_of(EAGER), 5, 0)
    assert {f.fingerprint for f in findings(again)} == baseline(EAGER)


@cache
def inside(name: str) -> tuple[int, ...]:
    """Positions of launches in front of which the step has GPU work already: what is lost there is not the bubble's.

    Where no mark tells the steps, they are cut where the sequence of kernels repeats and the GPU waits longest: a hole among
    the first or last launches moves the cut, so the middle alone is drawn from.
    """
    places = changes.places_before_launches(trace_of(name))
    if trace_of(name).table("steps")["name"].is_null().all():
        count = places.group_by("step_id").len()["len"].min()
        places = places.filter(pl.col("position").is_between(count // 4, count * 3 // 4))  # type: ignore[operator]
    return tuple(places.filter(pl.col("gpu_ns") > pl.col("gpu_ns").min().over("step_id"))["position"].unique().sort())


@pytest.mark.parametrize(
    ("name", "least_us", "most_us"),
    [(EAGER, 4000, 9000), (GRAPH, 4000, 4500), (NSYS, 300, 900), (NSYS_EAGER, 3000, 9000)],
)
@few
@given(data=st.data())
def test_host_delay_before_a_launch(name: str, least_us: int, most_us: int, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(least_us, most_us))
    finding = only(name, changes.host_delay(trace_of(name), position, by_us), "TQL101")
    assert close(row(finding, "by_blame", cause="host", blame=changes.FRAME)["us_per_step"], by_us)


@pytest.mark.parametrize(("name", "least_us", "most_us"), [(EAGER, 4000, 9000), (GRAPH, 1000, 4500), (NSYS, 300, 900)])
@few
@given(data=st.data())
def test_host_delay_between_steps(name: str, least_us: int, most_us: int, data: st.DataObject) -> None:
    by_us = data.draw(st.integers(least_us, most_us))
    finding = only(name, changes.host_delay(trace_of(name), 0, by_us), "TQL103", "TQL101")
    # blamed on the frame around it whose name tells the kind of work, where there is one
    top = max(finding.evidence["by_activity"], key=lambda activity: activity["us"])
    usual = [
        r["us"]
        for f in found_in(name)
        if f.code == "TQL103"
        for r in f.evidence["by_activity"]
        if r["activity"] == top["activity"]
    ]
    assert close(top["us"] - sum(usual), by_us)


@pytest.mark.parametrize(
    ("name", "least_us", "most_us"),
    [(EAGER, 1000, 5000), (GRAPH, 500, 3000), (NSYS, 100, 600), (NSYS_EAGER, 1000, 2500)],
)
@few
@given(data=st.data())
def test_added_allocation(name: str, least_us: int, most_us: int, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(least_us, most_us))
    changed = changes.allocate(trace_of(name), position, by_us)
    finding = only(name, changed, "TQL701")
    calls = finding.evidence["call_sites"][0]
    assert (calls["call"], calls["calls"]) == ("cudaMalloc", changed.table("steps").height)
    # the step became longer by all of the call, which begins while the GPU still works
    made = changed.loaded["runtime_calls"].filter(pl.col("name") == "cudaMalloc")["dur_ns"]
    assert close(calls["total_us"], made.sum() / 1000)
    assert by_us <= (finding.estimated_savings_us_per_step or 0) * (1 + WITHIN)
    assert (finding.estimated_savings_us_per_step or 0) <= made.max() / 1000 * (1 + WITHIN)  # type: ignore[operator]


@pytest.mark.parametrize(("name", "least_us", "most_us"), [(EAGER, 5000, 30000), (GRAPH, 2000, 4500)])
@few
@given(data=st.data())
def test_added_recompilation(name: str, least_us: int, most_us: int, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(least_us, most_us))
    changed = changes.recompile(trace_of(name), position, by_us)
    finding = only(name, changed, "TQL304", "TQL101", "TQL103", HOST_BOUND)
    assert finding.evidence["steps_compiling"] == changed.table("steps").height
    spans = changed.loaded["python_calls"].filter(pl.col("name") == changes.COMPILE)
    assert close(finding.evidence["compile_ms"], spans["dur_ns"].sum() / 1e6)


@few
@given(by_us=st.integers(1500, 6000))
def test_a_rank_that_is_late(by_us: int) -> None:
    pair = [trace_of(name) for name in RANKS]
    before = {f.fingerprint for f in tq.analyze(TraceSet(tuple(pair))).found}
    # position 0 would lengthen the bubble too: the host is late with the work that follows
    found = tq.analyze(TraceSet(changes.late_rank(*pair, 1, by_us))).found
    new = {f.code for f in found if f.fingerprint not in before}
    assert new <= {"TQL503", "TQL101", HOST_BOUND}, [f.message for f in found if f.fingerprint not in before]
    (finding,) = [f for f in found if f.code == "TQL503"]
    assert finding.subject == "rank 1"
    assert close(finding.evidence["late_us_per_step"], by_us)


@pytest.mark.parametrize(
    ("name", "least_us", "most_us"),
    [(EAGER, 1500, 5000), (GRAPH, 1500, 5000), (NSYS, 100, 600), (NSYS_EAGER, 1500, 5000)],
)
@few
@given(data=st.data())
def test_added_synchronise(name: str, least_us: int, most_us: int, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(least_us, most_us))
    finding = only(name, changes.synchronise(trace_of(name), position, by_us), "TQL104")
    assert close(max(site["idle_us"] for site in finding.evidence["call_sites"]), by_us)
    if name != NSYS:  # there the place may be a graph boundary, whose finding counts the saving
        assert close(finding.estimated_savings_us_per_step, by_us)


@pytest.mark.parametrize(
    ("name", "least_us", "most_us"),
    [(EAGER, 1500, 5000), (GRAPH, 500, 3000), (NSYS, 100, 600), (NSYS_EAGER, 1500, 5000)],
)
@few
@given(data=st.data(), size=st.integers(100_000, 10_000_000))
def test_added_blocking_copy(name: str, least_us: int, most_us: int, data: st.DataObject, size: int) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(least_us, most_us))
    finding = only(name, changes.blocking_copy(trace_of(name), position, by_us, size), "TQL105")
    site = max(finding.evidence["call_sites"], key=lambda site: site["cost_us"])
    assert close(site["cost_us"], by_us)
    # small copies of the program's own from the same call site are in the row too, where no caller tells them apart
    assert size <= site["bytes"] < size + 10_000


@few
@given(position=st.integers(0, 11), host_us=st.integers(50, 90), gpu_us=st.integers(10, 16))
def test_added_copies(position: int, host_us: int, gpu_us: int) -> None:
    finding = only(EAGER, changes.copies(trace_of(EAGER), position, host_us, gpu_us), "TQL302")
    pattern = row(finding, "patterns", shape=str(changes.COPY_SHAPE))
    assert pattern["count"] == 32
    assert close(pattern["gpu_us"], 32 * gpu_us)
    assert close(pattern["host_us"], 32 * host_us)


@few
@given(position=st.integers(120, 300), idle_us=st.integers(400, 2500))
def test_split_graph(position: int, idle_us: int) -> None:
    finding = only(GRAPH, changes.split_graph(trace_of(GRAPH), position, idle_us), "TQL201")
    assert finding.subject == changes.FRAME
    assert finding.evidence["boundaries_per_step"] == finding.evidence["host_late_boundaries_per_step"] == 1
    assert close(finding.evidence["host_late_idle_us_per_step"], idle_us)
    assert close(finding.estimated_savings_us_per_step, idle_us)


@cache
def comparable_nodes() -> tuple[int, ...]:
    """Nodes with an eager twin that overlap neither their predecessor nor their successor in any replay."""
    twins = trace_of("aligned").table("aligned_kernels").filter(pl.col("match") == "shape")["kernel_id"].implode()
    clear = [
        replay.select(
            pl.col("kernel_id").is_in(twins)
            & (pl.col("start_ns") >= pl.col("reach_ns")).fill_null(True)
            & (pl.col("end_ns") <= pl.col("start_ns").shift(-1)).fill_null(True)
        ).to_series()
        for replay in changes.replays(trace_of(GRAPH))
    ]
    return tuple((clear[0] & clear[1] & clear[2]).arg_true())


@few
@given(data=st.data())
def test_slower_kernel(data: st.DataObject) -> None:
    position = data.draw(st.sampled_from(comparable_nodes()))
    kernel = changes.replays(trace_of(GRAPH))[0].row(position, named=True)
    by_us = round(data.draw(st.floats(0.6, 1.5)) * kernel["dur_ns"] / 1000) + 8
    slowed = changes.slower_kernel(trace_of(GRAPH), position, by_us)
    # a matrix product at half its speed is also far from both ceilings
    finding = only("aligned", tq.align(slowed, trace_of(EAGER)).trace, "TQL206", "TQL402", "TQL403")
    assert finding.evidence["slower_kernels_per_step"] == 1
    assert close(finding.estimated_savings_us_per_step, by_us)


def test_the_original_trace_is_left_alone() -> None:
    trace: tq.Trace = trace_of(GRAPH)
    before = {name: frame.clone() for name, frame in trace.loaded.items()}
    apply: list[Callable[[], tq.Trace]] = [
        lambda: changes.host_delay(trace, 3, 4000), lambda: changes.split_graph(trace, 200, 900)
    ]  # fmt: skip
    for change in apply:
        assert change() is not trace
    assert all(frame.equals(trace.loaded[name]) for name, frame in before.items())

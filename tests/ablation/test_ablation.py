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
from traceql.finding import Finding

EAGER, GRAPH = "sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph"
WITHIN = 0.10

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
def baseline(name: str) -> frozenset[str]:
    return frozenset(f.fingerprint for f in findings(trace_of(name)))


def only(name: str, changed: tq.Trace, code: str, *follow: str) -> Finding:
    """The finding of ``code`` in the changed trace, which has no new findings but of this rule and of ``follow``."""
    found = findings(changed)
    new = {f.code for f in found if f.fingerprint not in baseline(name)}
    assert new <= {code, *follow}, [f.message for f in found if f.code in new - {code, *follow}]
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
    """Positions of launches in front of which the step has GPU work already: what is lost there is not the bubble's."""
    places = changes.places_before_launches(trace_of(name))
    return tuple(places.filter(pl.col("gpu_ns") > pl.col("gpu_ns").min().over("step_id"))["position"].unique().sort())


@pytest.mark.parametrize(("name", "most_us"), [(EAGER, 9000), (GRAPH, 4500)])
@few
@given(data=st.data())
def test_host_delay_before_a_launch(name: str, most_us: int, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(4000, most_us))
    finding = only(name, changes.host_delay(trace_of(name), position, by_us), "TQL101")
    assert close(row(finding, "by_blame", cause="host", blame=changes.FRAME)["us_per_step"], by_us)


@few
@given(by_us=st.integers(4000, 9000))
def test_host_delay_between_steps(by_us: int) -> None:
    finding = only(EAGER, changes.host_delay(trace_of(EAGER), 0, by_us), "TQL103", "TQL101")
    assert close(max(activity["us"] for activity in finding.evidence["by_activity"]), by_us)


@pytest.mark.parametrize("name", [EAGER, GRAPH])
@few
@given(data=st.data())
def test_added_synchronise(name: str, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(1500, 5000))
    finding = only(name, changes.synchronise(trace_of(name), position, by_us), "TQL104")
    assert close(max(site["idle_us"] for site in finding.evidence["call_sites"]), by_us)
    assert close(finding.estimated_savings_us_per_step, by_us)


@few
@given(data=st.data(), by_us=st.integers(1500, 5000), size=st.integers(100_000, 10_000_000))
def test_added_blocking_copy(data: st.DataObject, by_us: int, size: int) -> None:
    position = data.draw(st.sampled_from(inside(EAGER)))
    finding = only(EAGER, changes.blocking_copy(trace_of(EAGER), position, by_us, size), "TQL105")
    assert close(row(finding, "call_sites", bytes=size)["cost_us"], by_us)


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

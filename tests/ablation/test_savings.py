"""The saving reported for a planted loss is the time that it added to the step.

The loss is planted in every step of a real trace; what it costs is the growth of the period of the step that was timed
again, and what its finding saves beyond what the finding of the untouched trace did must be that, within a twentieth.
"""

from __future__ import annotations

import os
from functools import cache

import polars as pl
import pytest
import traces
from ablation import changes
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql import engine, registry
from traceql.finding import Finding
from traceql.fix import RETIMED

EAGER, GRAPH, ALIGNED = "sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph", "aligned"
NSYS = "nsys-h200-mini-decode-piecewise-node"
WITHIN = 0.05

few = settings(
    max_examples=int(os.environ.get("TRACEQL_ABLATION_EXAMPLES", "4")),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize="TRACEQL_ABLATION_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)


@cache
def trace_of(name: str) -> tq.Trace:
    if name == ALIGNED:
        return tq.align(traces.sample(GRAPH), traces.sample(EAGER)).trace
    return traces.sample(name)


LOWERED = {code: {"min_share_pct": 0} for code in ("TQL101", "TQL103", "TQL201")}
"""What is under the threshold before the change must not appear as the change's."""


def findings(trace: tq.Trace, *codes: str) -> list[Finding]:
    outcomes = engine.run(trace, engine.Selection([registry.rules()[code] for code in codes], LOWERED))
    assert not [o for o in outcomes if o.outcome == "error"], [o.traceback for o in outcomes]
    return [f for o in outcomes for f in o.findings if f.fix is not None and not f.fix.is_empty]


@cache
def saved_before(name: str, *codes: str) -> float:
    return sum(f.estimated_savings_us_per_step or 0.0 for f in findings(trace_of(name), *codes))


def agrees(name: str, changed: tq.Trace, *codes: str) -> bool:
    """Whether the findings of these rules save what the change cost the step they were timed again on."""
    found = findings(changed, *codes)
    assert {f.evidence["savings_basis"] for f in found} == {RETIMED}
    (step_id,) = {f.evidence.get("savings_step_id", f.step_id) for f in found}
    before, after = (
        t.table("steps").filter(pl.col("step_id") == step_id)["period_ns"].item() for t in (trace_of(name), changed)
    )
    planted = (after - before) / 1000
    saved = sum(f.estimated_savings_us_per_step or 0.0 for f in found) - saved_before(name, *codes)
    return bool(saved == pytest.approx(planted, rel=WITHIN))


@cache
def inside(name: str) -> tuple[int, ...]:
    """Positions of launches in front of which the step has GPU work already."""
    places = changes.places_before_launches(trace_of(name))
    return tuple(places.filter(pl.col("gpu_ns") > pl.col("gpu_ns").min().over("step_id"))["position"].unique().sort())


@pytest.mark.parametrize(("name", "least_us", "most_us"), [(EAGER, 4000, 9000), (GRAPH, 4000, 4500), (NSYS, 300, 900)])
@few
@given(data=st.data())
def test_host_delay(name: str, least_us: int, most_us: int, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(least_us, most_us))
    # at a graph boundary the loss is the boundary's
    assert agrees(name, changes.host_delay(trace_of(name), position, by_us), "TQL101", "TQL201")


@pytest.mark.parametrize("name", [EAGER, GRAPH])
@few
@given(by_us=st.integers(4000, 9000))
def test_host_delay_between_steps(name: str, by_us: int) -> None:
    assert agrees(name, changes.host_delay(trace_of(name), 0, by_us), "TQL103")


@pytest.mark.parametrize("name", [EAGER, GRAPH])
@few
@given(data=st.data())
def test_synchronise(name: str, data: st.DataObject) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(1500, 5000))
    assert agrees(name, changes.synchronise(trace_of(name), position, by_us), "TQL104")


@pytest.mark.parametrize("name", [EAGER, GRAPH])
@few
@given(data=st.data(), size=st.integers(100_000, 10_000_000))
def test_blocking_copy(name: str, data: st.DataObject, size: int) -> None:
    position, by_us = data.draw(st.sampled_from(inside(name))), data.draw(st.integers(1500, 3000))
    assert agrees(name, changes.blocking_copy(trace_of(name), position, by_us, size), "TQL105")


@few
@given(position=st.integers(120, 300), idle_us=st.integers(400, 2500))
def test_split_graph(position: int, idle_us: int) -> None:
    assert agrees(GRAPH, changes.split_graph(trace_of(GRAPH), position, idle_us), "TQL201")


@few
@given(position=st.integers(0, 11), host_us=st.integers(50, 90), gpu_us=st.integers(10, 16))
def test_copies(position: int, host_us: int, gpu_us: int) -> None:
    assert agrees(EAGER, changes.copies(trace_of(EAGER), position, host_us, gpu_us), "TQL302")


@few
@given(position=st.integers(10, 400), by_us=st.integers(200, 900))
def test_slower_kernel(position: int, by_us: int) -> None:
    slowed = tq.align(changes.slower_kernel(trace_of(GRAPH), position, by_us), trace_of(EAGER)).trace
    found = findings(slowed, "TQL206")
    if found:  # not where the kernel has no twin, or overlaps the one before it
        assert agrees(ALIGNED, slowed, "TQL206")

"""Budgets: what a metric is, which steps it covers, and that what a trace cannot tell never passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import traces
from small_traces import Decode

from traceql.derived.step_metrics import METRICS, step_metrics
from traceql.errors import UsageError
from traceql.gate import budgets
from traceql.gate.budgets import Budget
from traceql.opening import open_trace
from traceql.testing import TraceBuilder
from traceql.trace import Trace


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return open_(Decode().write(tmp_path_factory.mktemp("eager") / "eager.json"))


def open_(path: Path) -> Trace:
    trace = open_trace(path)
    assert isinstance(trace, Trace)
    return trace


def check(trace: Trace | list[Trace], **given: Any) -> tuple[str, float | None]:
    found = budgets.check(Budget(**given), trace if isinstance(trace, list) else [trace])
    return found.state, found.value


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("step.period_ns", 846_000), ("step.cpu_ns", 790_000), ("step.gpu_busy_ns", 191_000), ("step.gpu_idle_ns", 655_000),
        ("step.kernels", 13), ("step.gpu_ops", 14), ("step.launch_calls", 13), ("step.graph_launches", 0),
        ("step.graph_segments", 0), ("step.memcpys", 1), ("step.memcpy_bytes", 4096), ("step.synchronizes", 0),
    ],
)  # fmt: skip
def test_metrics_of_an_eager_step(eager: Trace, metric: str, value: float) -> None:
    assert check(eager, metric=metric, max=value) == ("within", value)
    assert check(eager, metric=metric, max=value - 1) == ("exceeded", value)
    assert check(eager, metric=metric, min=value + 1) == ("exceeded", value)
    assert check(eager, metric=metric, min=value, max=value) == ("within", value)


def test_idle_share_is_of_the_period(eager: Trace) -> None:
    rows = step_metrics(eager)
    assert rows["gpu_idle_pct"][1] == pytest.approx(100 * 655_000 / 846_000)
    # the last step has no next one: its share is of its busy and idle time, which are longer than its period
    assert rows["gpu_idle_pct"][3] == pytest.approx(100 * 655_000 / (655_000 + rows["gpu_busy_ns"][3]))
    assert check(eager, metric="step.gpu_idle_pct", aggregate="max", max=77.4)[0] == "exceeded"
    assert check(eager, metric="step.gpu_idle_pct", aggregate="min", max=77.4)[0] == "within"
    assert check(eager, metric="step.gpu_idle_pct", max=77.5)[0] == "within"


def test_every_metric_is_a_column(eager: Trace) -> None:
    assert step_metrics(eager).columns == ["step_id", "name", "kind", "batch_size", *METRICS]


def test_steps_are_chosen_by_kind_and_batch_size(eager: Trace) -> None:
    assert check(eager, metric="step.kernels", kind="decode", batch_size=8, max=13)[0] == "within"
    found = budgets.check(Budget(metric="step.kernels", kind="prefill", max=13), [eager])
    assert (found.state, found.reason) == ("unknown", "no prefill step in eager.json")
    found = budgets.check(Budget(metric="step.kernels", batch_size=64, max=13), [eager])
    assert found.reason == "no step of batch size 64 in eager.json"


def test_a_budget_holds_in_every_trace_that_has_such_steps(eager: Trace, tmp_path: Path) -> None:
    longer = open_(Decode(layers=6).write(tmp_path / "longer.json"))
    found = budgets.check(Budget(metric="step.kernels", max=15), [eager, longer])
    assert (found.state, found.value, found.trace) == ("exceeded", 19, 1)
    assert found.message == "step.kernels (median) is 19: exceeds its budget of ≤ 15."
    assert budgets.check(Budget(metric="step.kernels", min=5), [eager, longer]).value == 13, "the nearest to its limit"
    no_steps = TraceBuilder().trace()
    assert check([no_steps, eager], metric="step.kernels", max=13) == ("within", 13)


def test_what_the_trace_cannot_tell_is_unknown() -> None:
    opaque, whole = (
        traces.extra("nsys/mini-decode-piecewise-graph.sqlite"),
        traces.extra("nsys/mini-decode-full-node.sqlite"),
    )
    for metric in ("kernels", "gpu_busy_ns", "gpu_idle_pct", "memcpy_bytes", "graph_segments"):
        found = budgets.check(Budget(metric=f"step.{metric}", max=1e12), [opaque])
        assert found.state == "unknown", metric
        assert "nsys profile --cuda-graph-trace=node" in found.message
    assert check(opaque, metric="step.graph_launches", max=25) == ("within", 25)
    assert check(opaque, metric="step.synchronizes", max=17) == ("within", 17)
    assert check(whole, metric="step.kernels", max=98) == ("within", 98)
    assert check(opaque, sql="select count(*) from kernels", max=1e9)[0] == "unknown"
    assert check(opaque, sql="select count(*) from gaps", max=1e9)[0] == "unknown"
    assert check(opaque, sql="select count(*) from launches", max=1e9)[0] == "within"


def test_whole_replay_records_tell_time_and_no_counts() -> None:
    build = TraceBuilder("nsys")
    for step in range(4):
        start = step * 1000
        build.range("step[DECODE bs=8]", start, 500)
        correlation = build.graph([], call_us=start + 10)
        build.graph_trace(start + 30, 800, correlation=correlation)
    trace = build.trace()
    assert check(trace, metric="step.kernels", max=1e9)[0] == "unknown"
    assert check(trace, metric="step.gpu_busy_ns", max=800_000) == ("within", 800_000)
    assert check(trace, metric="step.graph_segments", max=1) == ("within", 1)


def test_queries(eager: Trace) -> None:
    assert check(eager, sql="select count(*) from kernels where step_id = 1", max=13) == ("within", 13)
    assert check(eager, sql="select max(dur_ns) / 1000.0 from kernels", max=29.9) == ("exceeded", 30)
    assert check(eager, sql="select max(dur_ns) from kernels where name = 'none'", max=1)[0] == "unknown"
    for sql, expected in {
        "select name from kernels": r"gives 52 rows of 1 columns; one number is needed",
        "select 'x'": "one number is needed",
        "select count(*) from kernel": "budget 'select count",
        "drop table kernels": "only SELECT is allowed",
    }.items():
        with pytest.raises(UsageError, match=expected):
            check(eager, sql=sql, max=1)


def test_labels_and_limits() -> None:
    budget = Budget(metric="step.gpu_idle_pct", kind="decode", batch_size=8, max=8)
    assert (budget.label, budget.limit, budget.unit) == ("step.gpu_idle_pct (decode bs=8, median)", "≤ 8", "%")
    assert Budget(sql="select\n 1", min=2, name="one").label == "one"
    assert Budget(sql="select\n 1", min=2).label == "select 1"
    assert Budget(sql="x", min=2).limit == "≥ 2"
    assert Budget(sql="x", min=2, max=3).limit == "2 … 3"
    looser = Budget(metric="step.gpu_idle_pct", kind="decode", batch_size=8, max=9)
    assert budget.fingerprint == looser.fingerprint

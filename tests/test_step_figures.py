"""What a step's figures mean: on several devices, at the edges of a recording, with replays nobody recorded, without GPU
work; and that everything that shows a step shows the same one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import traces

import traceql as tq
from traceql import engine, metrics, registry
from traceql.comparison.steps import compare
from traceql.derived.step_costs import median_steps
from traceql.derived.step_metrics import step_metrics
from traceql.derived.typical_steps import alike_steps
from traceql.finding import Finding
from traceql.report import headline
from traceql.report.json import document
from traceql.testing import TraceBuilder
from traceql.trace import Trace


def outcome(trace: Trace, code: str) -> Any:
    (found,) = engine.run(trace, engine.Selection([registry.rules()[code]]))
    return found


def findings(trace: Trace, *codes: str) -> list[Finding]:
    return [finding for code in codes for finding in outcome(trace, code).findings]


def text(trace: Trace) -> str:
    return tq.analyze(trace).render("text")


# --- several devices -------------------------------------------------------------------------------------------------


def on_two_devices(busy_us: tuple[float, float] = (30, 20), steps: int = 5) -> Trace:
    """One process drives two devices; each is idle for most of every step of 100 µs."""
    build = TraceBuilder()
    for i in range(steps):
        build.range("step[DECODE bs=4]", i * 100, 95)
        for device, busy in enumerate(busy_us):
            build.launch(
                f"gemm{device}", call_us=i * 100 + 40 + device, gpu_us=i * 100 + 50, gpu_dur_us=busy, device=device
            )
    return build.trace()


def test_times_of_a_step_are_those_of_its_busiest_device() -> None:
    trace = on_two_devices()
    steps = trace.table("steps")
    assert steps["device"].unique().to_list() == [0]
    assert steps["devices"].unique().to_list() == [2]
    assert steps["gpu_busy_ns"].to_list() == [30_000] * 5
    assert steps["gpu_idle_ns"].to_list() == [0] + [70_000] * 4
    assert steps["kernels"].to_list() == [2] * 5
    each = trace.table("step_devices").filter(pl.col("step_id") == 2)
    assert each.select("device", "gpu_busy_ns", "gpu_idle_ns", "stands_for_step").rows() == [
        (0, 30_000, 70_000, True),
        (1, 20_000, 80_000, False),
    ]


def test_no_share_of_a_step_passes_the_whole() -> None:
    trace = on_two_devices()
    assert step_metrics(trace)["gpu_idle_pct"].to_list() == [0, *[pytest.approx(70)] * 4]
    found = outcome(trace, "TQL101")
    (finding,) = found.findings
    assert finding.evidence["share_of_period_pct"] == pytest.approx(70)
    assert "device 0, the busiest of 2" in headline.verdict(trace)
    entry = metrics.steps(trace)[2]
    assert (entry["device"], entry["gpu_busy_ns"]) == (0, 30_000)
    assert {device: d["gpu_busy_ns"] for device, d in entry["devices"].items()} == {"0": 30_000, "1": 20_000}


def test_equally_busy_devices_are_told_apart_by_number() -> None:
    assert on_two_devices((30, 30)).table("steps")["device"].unique().to_list() == [0]


def test_a_long_bubble_before_a_short_step_is_no_more_than_all_of_it() -> None:
    build = TraceBuilder()
    at = 0.0
    for period in (1000.0, 100.0, 1000.0, 100.0, 1000.0):
        build.range("step[DECODE bs=4]", at, 50)
        build.launch("k", call_us=at + 10, gpu_us=at + 20, gpu_dur_us=20)
        at += period
    trace = build.trace()
    steps = trace.table("steps")
    assert (steps["gpu_idle_ns"] > steps["period_ns"])[1]
    assert step_metrics(trace)["gpu_idle_pct"].is_between(0, 100).all()
    for finding in tq.analyze(trace).found:
        shares = [v for k, v in finding.evidence.items() if k.endswith("_pct") and isinstance(v, float)]
        assert all(0 <= share <= 100 for share in shares), finding.message


# --- the edges of a recording ----------------------------------------------------------------------------------------


def test_start_up_is_shown_and_is_no_pass() -> None:
    build = TraceBuilder()
    build.range("step[DECODE bs=32]", 0, 465_000)
    build.graph([("a", 463_000, 5_000), ("b", 468_001, 5_000)], call_us=462_000, call_dur_us=900)
    trace = build.trace()
    (step,) = trace.table("steps").rows(named=True)
    assert (step["lead_in_ns"], step["gpu_idle_ns"]) == (463_000_000, 1_000)
    found = outcome(trace, "TQL101")
    assert found.outcome == "not_applicable"
    assert "start-up" in found.reason
    assert "463 ms of start-up before its first GPU work; almost none of the rest" in headline.verdict(trace)
    assert "463 ms of step 0 (473 ms) pass before its first GPU work" in re.sub(r"\s+", " ", text(trace))


def test_only_a_devices_first_step_has_a_lead_in() -> None:
    build = TraceBuilder()
    build.launch("warm_up", call_us=0, gpu_us=5, gpu_dur_us=10)
    for i in range(3):
        build.range("step[DECODE bs=1]", 100 + i * 100, 90)
        build.launch("k", call_us=150 + i * 100, gpu_us=160 + i * 100, gpu_dur_us=20)
    steps = build.trace().table("steps")
    assert steps["lead_in_ns"].to_list() == [60_000, 0, 0]
    assert steps["gpu_idle_ns"].to_list() == [0, 80_000, 80_000]


def uneven_steps(periods_us: list[float]) -> Trace:
    build = TraceBuilder()
    at = 0.0
    for period in periods_us:
        build.range("step[DECODE bs=4]", at, period - 10)
        build.launch("first", call_us=at + period / 2, gpu_us=at + period / 2 + 5, gpu_dur_us=10)
        build.launch("last", call_us=at + period - 30, gpu_us=at + period - 25, gpu_dur_us=10)
        at += period
    return build.trace()


@pytest.mark.parametrize(
    ("periods_us", "step_id"),
    [
        ([500], 0),
        ([500, 100], 0),  # the last one is cut off
        ([900, 200, 100], 1),  # the first warms up
        ([900, 200, 300, 400, 100], 2),
        ([900, 200, 300, 400, 350, 100], 4),  # the upper of the two in the middle
    ],
)
def test_everything_shows_the_same_step(periods_us: list[float], step_id: int) -> None:
    trace = uneven_steps(periods_us)
    assert [alike.step_id for alike in alike_steps(trace)] == [step_id]
    assert headline.median_steps(trace)[0].step_id == step_id
    assert compare(trace, trace).base.step_id == step_id
    period = periods_us[step_id] * 1000
    if step_id != len(periods_us) - 1:
        assert headline.median_steps(trace)[0].period_ns == period
    for finding in findings(trace, "TQL101", "TQL102", "TQL103"):
        if len(periods_us) > 2:
            assert finding.step_id == step_id, finding.message


def test_an_unusual_step_does_not_show_a_figure() -> None:
    """The step that stands for all waits in a copy that no other makes: the rule about copies looks at the others."""
    trace = uneven_steps([900, 300, 250, 280, 320, 290, 100])
    (alike,) = alike_steps(trace)
    values = pl.DataFrame({"step_id": [alike.step_id], "value": [100_000]})
    (median,) = median_steps(trace, values)
    assert (median.value, median.steps) == (0, 7)
    assert median.step_id != alike.step_id


def test_a_kind_without_a_main_batch_size_is_one() -> None:
    build = TraceBuilder()
    for i in range(9):
        build.range(f"step[DECODE bs={i + 1}]", i * 100, 90 + i)
        build.launch("k", call_us=i * 100 + 10, gpu_us=i * 100 + 20, gpu_dur_us=20)
    first, *sizes = alike_steps(build.trace())
    assert (first.one_batch_size, first.steps, first.batch_size) == (False, 9, None)
    assert len(sizes) == 9


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_real_traces_speak_of_one_step(path: Path) -> None:
    """The period in the first line, in the rules' evidence and in a comparison is one figure."""
    trace = traces.opened(path)
    shown = headline.median_steps(trace)
    if not shown:
        return
    assert step_metrics(trace)["gpu_idle_pct"].drop_nulls().is_between(0, 100).all()
    assert compare(trace, trace).base.period_ns == shown[0].period_ns
    for finding in findings(trace, "TQL101", "TQL103"):
        if finding.step_id == shown[0].step_id:
            assert finding.evidence["step_period_us"] == shown[0].period_ns / 1000


# --- what was not recorded -------------------------------------------------------------------------------------------


def test_no_gpu_work_is_not_zero_busy() -> None:
    build = TraceBuilder()
    for i in range(3):
        build.range("step[DECODE bs=2]", i * 100, 90)
        build.op("aten::mm", i * 100 + 10, 20)
        build.call("cudaLaunchKernel", i * 100 + 15, 5)
    trace = build.trace()
    assert "GPU busy not recorded: no GPU work was recorded" in headline.verdict(trace)
    assert "GPU busy 0" not in text(trace)
    steps = document(tq.analyze(trace))["metrics"]["steps"]
    assert [(s["gpu_busy_ns"], s["gpu_idle_ns"], s["reason"]) for s in steps] == [
        (None, None, "no GPU work was recorded")
    ] * 3
    html = tq.analyze(trace).render("html")
    assert "not recorded" in html
    assert not re.search(r"GPU busy\s*(?:<[^>]*>\s*)*0\s*%", html)


def test_a_step_without_gpu_work_beside_others_is_known_to_be_idle() -> None:
    build = TraceBuilder()
    build.range("step[DECODE bs=2]", 0, 90)
    build.launch("k", call_us=10, gpu_us=20, gpu_dur_us=5)
    build.range("step[IDLE bs=0]", 100, 50)
    assert build.trace().table("steps")["gpu_busy_ns"].to_list() == [5_000, 0]


def test_unrecorded_replays_are_in_no_gap() -> None:
    """Busy 0-10, a replay nobody recorded from its call at 30 to the end of the wait at 90, busy again at 100-110."""
    build = TraceBuilder(source="nsys")
    build.launch("a", call_us=0, gpu_us=5, gpu_dur_us=5)
    build.graph([], call_us=30)
    build.call("cudaStreamSynchronize", 45, 45)
    build.launch("b", call_us=92, gpu_us=100, gpu_dur_us=10)
    trace = build.trace()
    gaps = trace.table("gaps").select("start_ns", "dur_ns", "before", "after").rows()
    assert gaps == [
        (10_000, 20_000, "a", "graph replay (not recorded)"),
        (90_000, 10_000, "graph replay (not recorded)", "b"),
    ]
    parts = trace.table("gap_parts")
    assert parts["dur_ns"].sum() == 30_000
    assert "opaque replay" not in parts["cause"].to_list()


def test_a_replay_nobody_waits_for_hides_the_rest() -> None:
    build = TraceBuilder(source="nsys")
    build.launch("a", call_us=0, gpu_us=5, gpu_dur_us=5)
    build.graph([], call_us=30)
    build.launch("b", call_us=192, gpu_us=200, gpu_dur_us=10)
    assert build.trace().table("gaps").select("start_ns", "dur_ns").rows() == [(10_000, 20_000)]


# --- several processes -----------------------------------------------------------------------------------------------


def test_each_process_may_mark_its_steps_in_its_own_way() -> None:
    build = TraceBuilder(source="nsys")
    for i in range(4):
        at = i * 100
        build.range(f"prefill worker pass {i}", at, 60, pid=1)
        build.launch("p", call_us=at + 5, gpu_us=at + 10, gpu_dur_us=40, pid=1, device=0)
        build.range(f"decode_forward_{i}", at + 20, 70, pid=2)
        build.launch("d", call_us=at + 25, gpu_us=at + 30, gpu_dur_us=30, pid=2, device=1)
    steps = build.trace().table("steps")
    assert steps.group_by("pid").len().sort("pid").rows() == [(1, 4), (2, 4)]
    assert steps.group_by("pid").agg(pl.col("kernels").sum()).sort("pid").rows() == [(1, 4), (2, 4)]
    assert steps["found_by"].unique().to_list() == ["nvtx"]


def test_a_process_without_marks_beside_one_with() -> None:
    build = TraceBuilder(source="nsys")
    for i in range(4):
        at = i * 1000
        build.range("step[DECODE bs=1]", at, 900, pid=1)
        build.launch("k", call_us=at + 5, gpu_us=at + 10, gpu_dur_us=40, pid=1, device=0)
        for layer in range(15):
            name = "argmax_sampler" if layer == 14 else f"gemm{layer}"
            build.launch(name, call_us=at + layer * 50, gpu_us=at + layer * 50 + 5, gpu_dur_us=20, pid=2, device=1)
    steps = build.trace().table("steps")
    assert set(steps.select("pid", "found_by").rows()) == {(1, "step mark"), (2, "kernel_sequence")}

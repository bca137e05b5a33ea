"""Savings: one basis each, of one step a kind, together no more than the step has to give."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
import traces

import traceql as tq
from traceql import engine, registry
from traceql.engine import Selection
from traceql.finding import Finding, Severity
from traceql.fix import RETIMED, Fix
from traceql.run_manifest import UNPROFILED
from traceql.savings import priced, recoverable
from traceql.suppressions import Suppression
from traceql.testing import TraceBuilder

EAGER, GRAPH = "sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph"


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_savings_of_a_report_belong_together(path: object) -> None:
    trace = traces.opened(path)  # type: ignore[arg-type]
    report = tq.analyze(trace)
    found = {f.fingerprint: f for f in report.found}
    for finding in report.found:
        if finding.estimated_savings_us_per_step is None:
            assert "savings_basis" not in finding.evidence
        else:
            assert finding.estimated_savings_us_per_step >= 0
            assert finding.evidence["savings_basis"] in (RETIMED, "measured", "bound")
    for together in report.recoverable:
        us = together.estimated_savings_us_per_step
        singles = [found[fingerprint].estimated_savings_us_per_step for fingerprint in together.findings]
        assert max(singles) <= us <= together.period_ns / 1000  # type: ignore[type-var]
        fixes = [found[fingerprint].fix for fingerprint in together.findings]
        if all(fix is not None and fix.gpu.is_empty() for fix in fixes):
            assert us <= max(0, together.period_ns - together.gpu_busy_ns) / 1000
    priced_findings = {fingerprint for together in report.recoverable for fingerprint in together.findings}
    assert priced_findings == {f.fingerprint for f in found.values() if f.evidence.get("savings_basis") == RETIMED}


@pytest.mark.parametrize("path", traces.REAL_TRACES, ids=lambda p: p.name[:60])
def test_what_two_findings_save_twice_explains_the_sum(path: object) -> None:
    report = tq.analyze(traces.opened(path))  # type: ignore[arg-type]
    saving = {f.fingerprint: f.estimated_savings_us_per_step or 0.0 for f in report.found}
    for together in report.recoverable:
        common = {shared.findings: shared.us_per_step for shared in together.shared}
        for (more, less), us in common.items():
            assert 0 < us <= saving[less] * 1.0001 + 0.001 <= saving[more] * 1.0001 + 0.002
        if len(together.findings) == 2 and common:
            apart = sum(saving[fingerprint] for fingerprint in together.findings)
            assert apart - sum(common.values()) == pytest.approx(together.estimated_savings_us_per_step, abs=0.01)


def test_findings_say_whose_time_they_save_too() -> None:
    report = tq.analyze(traces.sample(EAGER))
    by_code = {f.code: f for f in report.found}
    captured, gap = by_code["TQL202"], by_code["TQL101"]
    ((fingerprint, us), *_) = report.overlaps(gap) or []
    assert fingerprint == captured.fingerprint
    assert us > 0.99 * (gap.estimated_savings_us_per_step or 0)
    assert report.overlaps(by_code["TQL102"]) is None, "no saving modelled"
    text = report.render("text")
    assert "what finding 1 (uncaptured-decode) saves too: count it once." in text
    (entry,) = [f for f in json.loads(report.render("json"))["findings"] if f["code"] == "TQL101"]
    assert entry["overlaps_with"][0] == {"code": "TQL202", "fingerprint": fingerprint, "us_per_step": us}


def test_a_slow_product_that_nobody_waits_for_is_no_warning() -> None:
    ranks = [
        traces.extra(f"torch/sglang-h200-llama8b-tp2-decode-eager-nccl-rank{rank}.trace.json.gz") for rank in (0, 1)
    ]
    slow = [f for rank in ranks for f in tq.analyze(rank).found if f.code == "TQL402"]
    assert slow
    assert {(f.severity, f.estimated_savings_us_per_step) for f in slow} == {(Severity.INFO, 0.0)}
    asked = tq.analyze(ranks[1], selection=Selection(severities={"TQL402": Severity.ERROR}))
    assert {f.severity for f in asked.found if f.code == "TQL402"} == {Severity.ERROR}, (
        "the configuration has the last word"
    )


def test_recoverable_is_one_figure_in_every_form() -> None:
    report = tq.analyze(traces.sample(EAGER))
    (together,) = report.recoverable
    assert (together.step_id, together.kind, together.batch_size) == (1, "decode", 64)
    document = json.loads(report.render("json"))
    assert document["recoverable"] == [json.loads(json.dumps(dataclasses.asdict(together)))]
    shown = f"{together.estimated_savings_us_per_step / 1000:.1f} ms/step"
    assert f"recoverable {shown}" in report.render("text")
    assert shown in report.render("markdown")
    assert shown.split(" ", maxsplit=1)[0] in report.render("html")


def test_one_graph_launch_saves_what_the_replay_saved() -> None:
    """The finding on the eager run against the run that was replayed, both profiled: within 15 %."""
    eager, graph = traces.sample(EAGER), traces.sample(GRAPH)
    (outcome,) = engine.run(eager, Selection([registry.rules()["TQL202"]]))
    periods = [t.table("steps").filter(pl.col("step_id") == 1)["period_ns"].item() / 1000 for t in (eager, graph)]
    assert outcome.findings[0].estimated_savings_us_per_step == pytest.approx(periods[0] - periods[1], rel=0.15)


def test_suppressed_findings_are_not_recoverable() -> None:
    trace = traces.sample(GRAPH)
    whole = tq.analyze(trace).recoverable[0]
    hidden = Suppression(rule="TQL101", reason="known")
    less = tq.analyze(trace, selection=Selection(suppressions=[hidden])).recoverable[0]
    assert set(less.findings) < set(whole.findings)
    assert less.estimated_savings_us_per_step < whole.estimated_savings_us_per_step


def test_host_time_saved_shrinks_to_the_unprofiled_step() -> None:
    trace = traces.sample(EAGER)
    (profiled,) = tq.analyze(trace).recoverable
    row = pl.DataFrame({"rank": [trace.rank], "key": [UNPROFILED], "value": ["13.4"]}, trace.loaded["metadata"].schema)
    loaded = {**trace.loaded, "metadata": pl.concat([trace.loaded["metadata"], row])}
    (scaled,) = tq.analyze(dataclasses.replace(trace, loaded=loaded, _memo={})).recoverable
    step = trace.table("steps").row(1, named=True)
    ratio = (13.4e6 - step["gpu_busy_ns"]) / (step["period_ns"] - step["gpu_busy_ns"])
    assert scaled.profiled_savings_us_per_step == profiled.estimated_savings_us_per_step
    assert scaled.estimated_savings_us_per_step == pytest.approx(
        ratio * profiled.estimated_savings_us_per_step, rel=0.02
    )
    assert scaled.estimated_savings_us_per_step <= 13_400 - step["gpu_busy_ns"] / 1000


def made(step_id: int, fix: Fix) -> Finding:
    return Finding("TQL999", "made", Severity.INFO, "made.", step_id=step_id, fix=fix, fingerprint="made")


def repeated(steps: int = 4, *, late: int | None = None, device: int = 0) -> TraceBuilder:
    """Steps of 100 µs; with a host that is 30 µs later in one of them."""
    build = TraceBuilder()
    for number in range(steps):
        at = 100 * number
        build.range("step[DECODE bs=2]", at, 90)
        build.launch("a", call_us=at + 2, call_dur_us=2, gpu_us=at + 6, gpu_dur_us=10)
        later = 40 if number == late else 10
        build.launch("b", call_us=at + later, call_dur_us=2, gpu_us=at + 10 + later, gpu_dur_us=10, device=device)
    return build


def host(start_us: int, end_us: int) -> Fix:
    row = {"pid": [1], "tid": [1], "start_ns": [1000 * start_us], "end_ns": [1000 * end_us]}
    return Fix.host_time(pl.DataFrame(row))


def test_a_loss_of_few_steps_counts_for_its_share_of_them() -> None:
    trace = repeated(late=3).trace()
    finding = priced(made(3, host(310, 340)), trace)
    assert finding.evidence["share_of_steps_pct"] == 25
    assert finding.estimated_savings_us_per_step == pytest.approx(30 / 4)
    (together,) = recoverable(trace, [finding])
    assert (together.step_id, together.estimated_savings_us_per_step) == (3, 30)


def test_a_step_that_cannot_be_timed_again_says_why() -> None:
    trace = repeated(device=1).trace()
    finding = priced(made(1, host(110, 140)), trace)
    assert finding.estimated_savings_us_per_step is None
    assert finding.evidence["savings_unknown_because"] == "step 1 cannot be timed again: it works on several devices"
    assert recoverable(trace, [finding]) == ()


def test_findings_without_a_fix_are_left_alone() -> None:
    trace = repeated().trace()
    for finding in (made(1, Fix.union([])), dataclasses.replace(made(1, host(110, 120)), fix=None)):
        assert priced(finding, trace) is finding


def test_reports_without_steps_have_nothing_to_recover() -> None:
    assert tq.analyze(TraceBuilder().trace()).recoverable == ()


def test_the_json_schema_knows_the_field() -> None:
    schema = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text())
    assert "recoverable" in schema["required"]

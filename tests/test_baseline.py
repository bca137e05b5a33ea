"""The baseline: like compared with like, tolerances, what is fixed, and a file that survives accidents."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import traces
from small_traces import Decode

from traceql.config_file import BaselineSettings
from traceql.context import context
from traceql.engine import Outcome
from traceql.errors import UsageError
from traceql.finding import Finding, Severity
from traceql.gate import baseline
from traceql.gate.baseline import Baseline, Capture, Entry
from traceql.opening import open_trace
from traceql.reporting import Report, analyze
from traceql.trace import Trace

FILE = Path("base.json")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    opened = open_trace(Decode().write(tmp_path_factory.mktemp("baseline") / "decode.json"))
    assert isinstance(opened, Trace)
    return opened


def finding(us: float | None, fingerprint: str = "f", code: str = "TQL101", trace: int = 0) -> Finding:
    evidence = {} if us is None else {"steps": 3, "launch_gap_us_per_step": us, "share_of_period_pct": 50.0}
    return Finding(code, "rule", Severity.WARNING, "text", evidence=evidence, fingerprint=fingerprint, trace=trace)


def report(trace: Trace, *outcomes: Outcome) -> Report:
    return Report((trace,), (outcomes,))


def failed(*findings: Finding, code: str = "TQL101") -> Outcome:
    return Outcome(code, "rule", "failed" if findings else "passed", None, findings)


def compared(before: Report, now: Report, **settings: Any) -> baseline.Comparison:
    return baseline.compare(now, Baseline(1, baseline.captures(before)), BaselineSettings(**settings), FILE)


@pytest.mark.parametrize(
    ("before", "now", "status"),
    [
        (100, 100, "known"), (100, 50, "known"),
        (100, 110, "known"), (100, 110.1, "worse"),  # 10 % decides
        (10, 15, "known"), (10, 15.1, "worse"),  # 5 µs decide
        (0, 4, "known"), (0, 6, "worse"),
        (None, None, "known"), (None, 80, "known"),
    ],
)  # fmt: skip
def test_worse_is_beyond_both_tolerances(trace: Trace, before: float, now: float, status: str) -> None:
    found = compared(report(trace, failed(finding(before))), report(trace, failed(finding(now))))
    assert found.status == {(0, "f"): status}


def test_tolerances_are_settings(trace: Trace) -> None:
    before, now = report(trace, failed(finding(100))), report(trace, failed(finding(104)))
    assert compared(before, now, tolerance_pct=3, tolerance_us_per_step=3).status == {(0, "f"): "worse"}
    assert compared(before, now, tolerance_pct=3, tolerance_us_per_step=5).status == {(0, "f"): "known"}


def test_new_fixed_unchecked_and_not_selected(trace: Trace) -> None:
    before = report(
        trace,
        failed(finding(1, "a"), finding(2, "b")),
        failed(finding(3, "c", "TQL103"), code="TQL103"),
        failed(finding(4, "d", "TQL104"), code="TQL104"),
        failed(finding(5, "e", "TQL105"), code="TQL105"),
    )
    unable = Outcome("TQL103", "rule", "not_applicable", "no steps")
    crashed = Outcome("TQL104", "rule", "error", "ValueError: x")
    found = compared(before, report(trace, failed(finding(1, "a"), finding(9, "n")), unable, crashed))
    assert found.status == {(0, "a"): "known", (0, "n"): "new"}
    assert [e.magnitude for e in found.fixed] == [2]
    assert [(e.code, reason) for e, reason in found.unchecked] == [("TQL103", "no steps"), ("TQL104", "ValueError: x")]


def test_a_suppressed_finding_is_not_fixed(trace: Trace) -> None:
    from traceql.suppressions import Suppressed, Suppression

    hidden = Suppressed(finding(1), Suppression(rule="TQL101", reason="known"))
    now = dataclasses.replace(report(trace, failed()), suppressed=(hidden,))
    assert compared(report(trace, failed(finding(1))), now).fixed == ()


def test_the_largest_of_several_ranks_stands(trace: Trace) -> None:
    ranks = Report((trace, trace), ((failed(finding(5)),), (failed(finding(9, trace=1)),)))
    (capture,) = baseline.captures(ranks)
    assert capture.findings["f"].magnitude == 9
    found = compared(ranks, ranks)
    assert found.status == {(0, "f"): "known", (1, "f"): "known"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (Decode(gpu="NVIDIA H100 80GB HBM3"), "GPU NVIDIA H100 80GB HBM3 (was NVIDIA H200)"),
        (Decode(batch_size=16), "batch size 16 (was 8)"),
        (Decode(world_size=2), "world size (TP) 2 (was 1)"),
        (Decode(graph=True), None),
        (Decode(layers=6), None),
    ],
)
def test_another_context_is_refused(trace: Trace, tmp_path: Path, changed: Decode, expected: str | None) -> None:
    other = open_trace(changed.write(tmp_path / "other.json"))
    assert isinstance(other, Trace)
    before, now = report(trace, failed(finding(1))), report(other, failed(finding(1)))
    if expected is None:
        assert compared(before, now).status == {(0, "f"): "known"}
        return
    with pytest.raises(UsageError) as error:
        compared(before, now)
    assert str(error.value).startswith(f"other.json: not comparable with the baseline base.json: {expected};")


def test_contexts_of_real_captures() -> None:
    graph = context(traces.sample("sglang-h200-bs64-decode-graph"))
    assert (graph.gpu, graph.devices, graph.world_size) == ("NVIDIA H200", 1, 1)
    assert (graph.step_kind, graph.batch_size, graph.profiler, graph.replays) == (
        "decode",
        64,
        "torch_profiler",
        "node",
    )
    assert graph.differences(context(traces.sample("sglang-h200-bs64-decode-eager"))) == []
    piecewise = context(traces.sample("nsys-h200-mini-decode-piecewise-node"))
    differences = graph.differences(piecewise)
    assert "profiler torch_profiler (was nsys)" in differences
    assert "Python stacks recorded (was not recorded)" in differences
    rank = context(traces.sample("sglang-h200-tp2-decode-graph-rank1"))
    assert (rank.world_size, rank.devices) == (2, 1)


def test_how_replays_were_recorded_must_agree() -> None:
    node = context(traces.extra("nsys/mini-decode-piecewise-node.sqlite"))
    opaque = context(traces.extra("nsys/mini-decode-piecewise-graph.sqlite"))
    assert opaque.differences(node) == ["recording of graph replays opaque (was node)"]


def test_real_captures_compare_clean_with_themselves(tmp_path: Path) -> None:
    for name in ("sglang-h200-bs64-decode-graph", "nsys-h200-mini-decode-piecewise-node"):
        found = analyze(traces.sample(name))
        path = tmp_path / f"{name}.json"
        baseline.write(path, baseline.captures(found))
        same = baseline.compare(found, baseline.read(path), BaselineSettings(), path)
        assert set(same.status.values()) == {"known"}
        assert (same.fixed, same.unchecked) == ((), ())


def test_magnitudes() -> None:
    assert baseline.magnitude(finding(7.1234567)) == (7.123, "us_per_step")
    plain = Finding("TQL901", "r", Severity.WARNING, "m", evidence={"unmatched_pct": 6.5, "ok": True})
    assert baseline.magnitude(plain) == (6.5, "pct")
    saving = dataclasses.replace(plain, estimated_savings_us_per_step=3.0)
    assert baseline.magnitude(saving) == (3.0, "us_per_step")
    assert baseline.magnitude(dataclasses.replace(plain, evidence={"cpu_gpu_ratio": 5.0})) == (5.0, "ratio")
    assert baseline.magnitude(dataclasses.replace(plain, evidence={"rows": 5})) == (None, None)


def test_the_file_does_not_depend_on_the_order_of_findings(trace: Trace, tmp_path: Path) -> None:
    one, two = finding(1, "a"), finding(2, "b")
    for name, found in (("x", (one, two)), ("y", (two, one))):
        baseline.write(tmp_path / name, baseline.captures(report(trace, failed(*found))))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    entry = baseline.read(tmp_path / "x").captures[0].findings["a"]
    assert entry == Entry("TQL101", "rule", "text", None, 1.0, "us_per_step")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"no baseline \(No such file or directory\); write one with --update-baseline"),
        ("", "damaged baseline"),
        ("{}", "damaged baseline"),
        ('{"traceql_baseline": 1, "captures": [{"context"', "damaged baseline"),
        ('{"traceql_baseline": 1, "captures": [{"context": {}, "findings": {}}]}', "damaged baseline"),
        ("\udcff", "damaged baseline"),
        ('{"traceql_baseline": 9, "captures": []}', "baseline of version 9, this traceql reads 1"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "base.json"
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=expected) as error:
        baseline.read(path)
    assert "\n" not in str(error.value)


def test_a_write_that_fails_leaves_the_old_file(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "base.json"
    baseline.write(path, [])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        baseline.write(path, baseline.captures(report(trace, failed(finding(1)))))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(before)["captures"] == []


def test_an_empty_baseline_refuses_everything(trace: Trace) -> None:
    with pytest.raises(UsageError, match="nothing recorded"):
        baseline.compare(report(trace, failed()), Baseline(1, []), BaselineSettings(), FILE)
    kept = Baseline(1, [Capture(context(trace), {})])
    assert baseline.compare(report(trace, failed()), kept, BaselineSettings(), FILE).status == {}

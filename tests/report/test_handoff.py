"""What the page holds for its downloads, and the commands it names."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
from pathlib import Path

import pytest
from report.made import finding, info_finding, long_trace, report_of, small_report, small_trace

from traceql import samples
from traceql.engine import Selection
from traceql.report import handoff
from traceql.report.commands import analyze_command, open_command
from traceql.report.view import build
from traceql.reporting import analyze


def document(events: str | None) -> dict[str, list[dict[str, object]]]:
    assert events is not None
    loaded: dict[str, list[dict[str, object]]] = json.loads(gzip.decompress(base64.b64decode(events)))
    return loaded


def test_every_finding_of_a_small_trace_has_a_cut() -> None:
    view = build(small_report())
    assert view.handoff is not None
    assert set(view.handoff.cuts) == {card.anchor for card in view.cards}
    assert view.handoff.dropped == ((),)
    assert {e["cat"] for e in document(view.handoff.events[0])["traceEvents"] if e["ph"] == "X"} >= {"kernel", "cpu_op"}


def test_short_python_frames_give_way_first_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    report = analyze(samples.path("sglang-h200-bs64-decode-eager"))
    cards = build(report, timeline=False).cards
    whole = handoff.pack(report, cards)
    monkeypatch.setattr(handoff, "BUDGET_BYTES", len(whole.events[0] or "") * 3 // 4)
    less = handoff.pack(report, cards)
    assert set(less.cuts) == set(whole.cuts)
    assert len(less.events[0] or "") <= handoff.BUDGET_BYTES
    (line,) = less.dropped[0]
    assert line.startswith("To keep this page small it holds no Python frames shorter than")

    def categories(events: str | None) -> list[object]:
        return [e["cat"] for e in document(events)["traceEvents"] if e["ph"] == "X"]

    kept, every = categories(less.events[0]), categories(whole.events[0])
    assert kept.count("kernel") == every.count("kernel")
    assert 0 < kept.count("python_function") < every.count("python_function")


def test_findings_too_large_for_the_page_have_the_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "BUDGET_BYTES", 20_000)
    made = report_of(long_trace(4000), findings=(finding(start_ns=5_000, end_ns=8_000, step_id=None), info_finding()))
    view = build(made)
    assert view.handoff is not None
    assert view.handoff.cuts == {}
    assert view.handoff.events == (None,)
    html = made.render("html")
    assert "Download this cut" not in html
    assert html.count("too large for a download on this page") == 2
    assert "--finding 2" in html


def test_only_html_packs_downloads() -> None:
    assert build(small_report(), timeline=False).handoff is None


def test_commands_repeat_what_was_run() -> None:
    report = small_report()
    assert analyze_command(report) == ""
    assert open_command(report, 2) == "traceql open small.trace.json --finding 2"
    given = dataclasses.replace(report, command=("my run/a.json", "--option", "TQL101.min_gap_us=3"))
    assert analyze_command(given) == "traceql analyze 'my run/a.json' --option TQL101.min_gap_us=3"
    assert open_command(given, 1) == "traceql open 'my run/a.json' --option TQL101.min_gap_us=3 --finding 1"


def test_commands_do_not_name_who_ran_them() -> None:
    report = dataclasses.replace(small_report(), command=("/home/ann/my traces/a.json",))
    assert analyze_command(report) == "traceql analyze ~/'my traces/a.json'"
    assert "/ann" not in report.render("html")


def test_thresholds_are_those_used() -> None:
    selection = Selection(options={"TQL101": {"min_gap_us": 3.0}})
    report = analyze(small_trace(), selection=selection)
    rows = {(row[0].text, row[2].text): row[3].text for row in build(report, timeline=False).thresholds.rows}
    assert rows["TQL101", "min-gap-us"] == "3 (set)"
    assert [text for text in rows.values() if "(set)" in text] == ["3 (set)"]


def test_names_of_files_to_save_are_plain() -> None:
    report = report_of(small_trace("a b;$(x).pt.trace.json.gz"))
    view = build(report)
    assert view.handoff is not None
    files = {cut.file for cut in view.handoff.cuts.values()}
    assert files == {f"a_b_x_.finding-{n}.json.gz" for n in (1, 2)}
    assert all(Path(file).name == file for file in files)

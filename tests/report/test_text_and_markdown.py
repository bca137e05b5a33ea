"""The note and the Markdown against golden files, and what they must say in special cases.

Set TRACEQL_UPDATE_GOLDEN=1 to write the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from commands import traceql
from report.made import info_finding, opaque_trace, report_of, small_report, small_trace
from rich.console import Console
from rich.text import Text

from traceql import __version__
from traceql.report.text import print_report
from traceql.report.view import build
from traceql.terminal import put

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("format", "name"), [("text", "small.txt"), ("markdown", "small.md")])
def test_golden(format: str, name: str) -> None:
    rendered = small_report().render(format).replace(f"traceql {__version__}", "traceql VERSION")
    if os.environ.get("TRACEQL_UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(rendered, encoding="utf-8")
    assert rendered == (GOLDEN / name).read_text(encoding="utf-8")


def test_renderings_do_not_disagree() -> None:
    report = small_report()
    view = build(report, timeline=False)
    texts = {format: report.render(format) for format in ("text", "markdown", "html")}
    said = [view.verdict, *(f.value for f in view.headline), *(c.message for c in view.cards)]
    for format, text in texts.items():
        flat = " ".join(text.replace("\N{NO-BREAK SPACE}", " ").replace("\\", "").split())
        assert [s for s in said if s not in flat] == [], format


def test_text_has_no_colour_and_fits() -> None:
    text = small_report().render("text")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_console_decides_colour() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    print_report(small_report(), console)
    assert "\x1b[" in console.file.getvalue()  # type: ignore[attr-defined]


def test_unrecorded_is_neither_busy_nor_idle() -> None:
    report = report_of(opaque_trace(), findings=())
    text = report.render("text")
    assert "GPU busy not recorded" in text
    assert "GPU busy 0" not in text
    assert "100 %" not in text


def test_no_findings_and_no_steps() -> None:
    from traceql.testing import TraceBuilder

    build = TraceBuilder()
    build.launch("k", call_us=0, gpu_us=10, gpu_dur_us=5)
    text = report_of(build.trace(), findings=()).render("text")
    assert "No steps found" in text
    assert "No findings." in text


def test_empty_trace_in_every_format() -> None:
    from traceql.testing import TraceBuilder

    report = report_of(TraceBuilder(gpu=None).trace(), findings=())
    assert "No GPU work in this trace" in report.render("text")
    for format in ("html", "json", "markdown"):
        assert report.render(format)


def test_ranks_are_named_and_the_slowest_leads() -> None:
    slow = small_trace("rank1.json", rank=1)
    report = report_of(small_trace("rank0.json", rank=0), slow, findings=(info_finding(trace=1),))
    view = build(report, timeline=False)
    assert view.ranks is not None
    assert view.ranks.title == "Ranks"
    assert [trace.label for trace in view.traces] == ["rank 0", "rank 1"]
    assert view.cards[0].trace == "rank 1"
    assert "rank 1" in report.render("text")


def test_what_another_rank_has_too_is_told_once() -> None:
    ranks = [small_trace(f"rank{rank}.json", rank=rank) for rank in (0, 1)]
    text = report_of(*ranks, findings=(info_finding(trace=1), info_finding(trace=0))).render("text")
    for told in (info_finding(trace=0).message[:40], info_finding(trace=0).advice[0][:30], "Also on rank 1."):
        assert text.count(told) == 1
    assert "as for finding" not in text


def test_what_two_captures_of_a_rank_have_is_told_with_its_remedy_once() -> None:
    captures = [small_trace(f"{name}.json", rank=0) for name in ("before", "after")]
    text = report_of(*captures, findings=(info_finding(trace=1), info_finding(trace=0))).render("text")
    assert text.count(info_finding(trace=0).message[:40]) == 2
    assert text.count("as for finding 1") == 1
    assert text.count(info_finding(trace=0).advice[0][:30]) == 1


@pytest.mark.parametrize("columns", ["40", "80", "120", "", "wide"])
def test_printed_lines_fit_and_end_where_they_end(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", columns)
    for arguments in (("--sample", "sglang-h200-bs64-decode-graph"), ("--sample", "list")):
        ran = traceql(capsys, "analyze", *arguments)
        lines = ran.out.split("\nreport: ", maxsplit=1)[0].splitlines()
        assert ran.code == 0
        assert [line for line in lines if line != line.rstrip()] == []
        assert max(map(len, lines)) <= (int(columns) if columns.isdecimal() else 100)


def test_colour_ends_with_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), width=30, force_terminal=True, color_system="standard")
    put(console, Text("words that are dim and go on over several lines", style="dim"), 3)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("   \x1b[2m")
        assert line.endswith("\x1b[0m")
        assert " \x1b[0m" not in line

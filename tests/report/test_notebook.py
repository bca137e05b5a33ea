"""Fragments for notebooks: no script, nothing loaded, names escaped."""

from __future__ import annotations

import re

import pytest
from report.made import finding, opaque_trace, report_of, small_report, small_trace

from traceql.notebook import finding_html, report_html, trace_html, traces_html
from traceql.opening import TraceSet

FRAGMENTS = {
    "report": lambda: report_html(small_report()),
    "opaque": lambda: report_html(report_of(opaque_trace(), findings=())),
    "trace": lambda: trace_html(small_trace(kernel="<script>k</script>")),
    "traces": lambda: traces_html((small_trace("a.json"), small_trace("b.json", kernel="<script>k</script>"))),
    "finding": lambda: finding_html(finding("<script>alert(1)</script> takes 400 µs.")),
}


@pytest.mark.parametrize("name", sorted(FRAGMENTS))
def test_fragments_load_and_run_nothing(name: str) -> None:
    html = FRAGMENTS[name]()
    assert "<script" not in html
    assert not re.search(r"(?:src|href)=", html)
    assert html.count('<div class="traceql">') == 1


def test_report_shows_itself() -> None:
    html = small_report()._repr_html_()
    assert "launch-gap" in html
    assert "400" in html


def test_a_set_of_ranks_shows_a_row_for_each() -> None:
    html = TraceSet((small_trace("a.json", rank=0), small_trace("b.json", rank=1)))._repr_html_()
    assert "2 ranks" in html
    assert html.count("<tr>") == 3


def test_finding_keeps_its_evidence() -> None:
    html = finding_html(finding())
    assert "by cause" in html
    assert "<code>--cuda-graph-trace=node</code>" in html

"""The report as one HTML file: self-contained, readable without scripts, under a strict content security policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traceql.report import causes, page
from traceql.report.markdown import card_markdown
from traceql.report.model import View
from traceql.report.view import build

if TYPE_CHECKING:
    from traceql.reporting import Report

STYLES = ("report.css", "report_sections.css", "ranks.css")
SCRIPTS = (
    "page.js",
    "timeline_data.js",
    "timeline_draw.js",
    "timeline.js",
    "timeline_input.js",
    "tips.js",
    "handoff.js",
    "start.js",
)
"""Concatenated in this order into one strict function scope."""


def render(report: Report) -> str:
    """The whole page."""
    return of_view(build(report))


def of_view(view: View) -> str:
    """A view as a page."""
    return page.rendered(
        "report.html.j2",
        STYLES,
        SCRIPTS,
        view=view,
        markdown={
            card.anchor: card_markdown(card, card.trace or view.title) for each in view.cards for card in each.every
        },
        cause_label=causes.LABELS,
        cause_class=causes.css,
        cuts=_cuts(view),
    )


def _cuts(view: View) -> dict[str, dict[str, str | int]]:
    """What the script needs of each cut; times as text: a number in a script has 53 bits."""
    return {
        anchor: {
            "trace": cut.trace,
            "begin": str(cut.start_ns),
            "end": str(cut.end_ns),
            "line": cut.line,
            "file": cut.file,
        }
        for anchor, cut in (view.handoff.cuts if view.handoff else {}).items()
    }

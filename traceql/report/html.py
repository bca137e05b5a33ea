"""The report as one HTML file: self-contained, readable without scripts, under a strict content security policy."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from markupsafe import Markup

from traceql.report import causes
from traceql.report.markdown import card_markdown
from traceql.report.model import View
from traceql.report.templates import environment, source
from traceql.report.view import build

if TYPE_CHECKING:
    from traceql.reporting import Report

_STYLES = ("report.css", "report_sections.css")
_SCRIPTS = ("page.js", "timeline_data.js", "timeline_draw.js", "timeline.js", "timeline_input.js", "start.js")
"""Concatenated in this order into one strict function scope."""


def render(report: Report) -> str:
    """The whole page."""
    return of_view(build(report))


def of_view(view: View) -> str:
    """A view as a page."""
    style = "".join(source(name) for name in _STYLES)
    script = '"use strict";\n(() => {\n' + "".join(source(name) for name in _SCRIPTS) + "})();\n"
    head_script = source("theme.js")
    return environment().get_template("report.html.j2").render(
        view=view,
        style=Markup(style),
        script=Markup(script),
        head_script=Markup(head_script),
        policy=_policy([style], [head_script, script]),
        markdown={card.anchor: card_markdown(card, card.trace or view.title) for card in view.cards},
        cause_label=causes.LABELS,
        cause_class=causes.css,
    )  # fmt: skip


def _policy(styles: list[str], scripts: list[str]) -> str:
    """Nothing is loaded from anywhere; only the page's own script and style run, named by their hashes."""
    return "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(_hash(text) for text in scripts),
            "style-src " + " ".join(_hash(text) for text in styles),
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

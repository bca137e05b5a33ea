"""The report as Markdown, compact enough for a pull-request comment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from traceql.report.model import Card, Table, View
from traceql.report.templates import environment
from traceql.report.view import build

if TYPE_CHECKING:
    from traceql.reporting import Report

_ROWS = 10
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#@])")


def render(report: Report) -> str:
    """The whole report."""
    return of_view(build(report, timeline=False))


def of_view(view: View) -> str:
    """A view as Markdown."""
    return environment().get_template("markdown.md.j2").render(view=view)


def card_markdown(card: Card, title: str) -> str:
    """One finding, to paste into an issue; ``title`` names the trace."""
    return environment().get_template("finding.md.j2").render(card=card, title=title)


def escaped(text: str) -> str:
    """``text`` with what Markdown or HTML would act upon escaped; underscores inside words are left."""
    inside_word = re.sub(r"(?<=\w)_(?=\w)", "\x00", text)
    return _SPECIAL.sub(r"\\\1", inside_word).replace("\x00", "_").replace("&", "&amp;")


def prose(text: str) -> str:
    """A sentence in Markdown: what stands between backticks stays code, the rest is escaped."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(code(part) if i % 2 else escaped(part) for i, part in enumerate(parts))


def code(text: str) -> str:
    """``text`` as a code span that its own backticks cannot end."""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def table(data: Table) -> str:
    """A table in Markdown, ten rows at most, numbers right-aligned."""
    lines = [
        "| " + " | ".join(escaped(column.header) for column in data.columns) + " |",
        "|" + "|".join("--:" if column.numeric else ":--" for column in data.columns) + "|",
    ]
    lines += ["| " + " | ".join(escaped(cell.text) for cell in row) + " |" for row in data.rows[:_ROWS]]
    left = max(0, len(data.rows) - _ROWS) + data.dropped
    if left:
        lines += ["", f"… {left} more row{'s' if left > 1 else ''}"]
    return "\n".join(lines)

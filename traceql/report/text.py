"""The report as a colleague's note in the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from traceql.report import textable
from traceql.report.model import Card, Figure, Table, TraceView, View
from traceql.report.view import build

if TYPE_CHECKING:
    from traceql.reporting import Report

WIDTH = 100
"""Columns of the plain text output, which no terminal tells its width."""

_SEVERITY = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_ROWS = 5


def render(report: Report) -> str:
    """The note as plain text without colour."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, legacy_windows=False)
    print_report(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in str(text).splitlines()) + "\n"


def print_report(report: Report, console: Console) -> None:
    """Print the note on ``console``, which decides colour and width."""
    view = build(report, timeline=False)
    _head(view, console)
    told: list[Card] = []
    for card in view.cards:
        same = (c for c in told if card.anchor.startswith(f"{c.anchor}-") and card.advice == c.advice)
        _card(card, console, next(same, None))
        told.append(card)
    if not view.cards:
        console.print(Text("No findings."), end="\n\n")
    if view.ranks is not None:
        _table(view.ranks, console, indent=0)
        console.print()
    _notes(view, console)


def _head(view: View, console: Console) -> None:
    console.print(Text(" · ".join((view.title, *view.scope)), style="dim"))
    console.print()
    console.print(Text(view.verdict, style="bold"))
    figures = [_figure(f) for f in view.headline]
    if figures:
        console.print(Text(" · ".join(figures)))
    console.print()


def _figure(figure: Figure) -> str:
    if figure.label.startswith("finding"):
        return f"{figure.value} {figure.label}" + (f": {figure.note}" if figure.value != "0" else "")
    return f"{figure.label} {figure.text}"


def _card(card: Card, console: Console, alike: Card | None) -> None:
    """One finding; of a problem that ``alike`` told of another trace (a rank), only what differs."""
    head = Text.assemble((f"{card.number}. ", "bold"), (card.rule, "bold"), "  ", (card.code, "dim"), "  ")
    head.append(card.severity, style=_SEVERITY.get(card.severity, ""))
    if card.savings:
        saved = f"about {card.savings.text}" if card.savings_us else "nothing by itself"
        head.append(f"  saves {saved} ({card.certainty})")
    console.print(head)
    _indented(Text(card.message), console)
    where = [*([card.trace] if card.trace else []), *card.where]
    if where:
        _labelled("where", " · ".join(where), console)
    if alike is not None:
        _labelled("do", f"as for finding {alike.number}", console)
        console.print()
        return
    if card.facts:
        _labelled("figures", " · ".join(f"{f.label} {f.text}" for f in card.facts), console)
    for table in card.tables:
        _table(table, console, indent=3)
    for line in card.advice:
        _labelled("do", line, console)
    console.print()


def _labelled(label: str, text: str, console: Console) -> None:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(width=7, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text))
    _indented(grid, console)


def _indented(content: Text | RichTable, console: Console, by: int = 3) -> None:
    console.print(Padding(content, (0, 0, 0, by)))


def _table(table: Table, console: Console, indent: int) -> None:
    header, *rows = (placed := textable.lines(table, console.width - indent, _ROWS))[0]
    _indented(Text(table.title, style="italic"), console, indent)
    _indented(Text(header, style="dim"), console, indent)
    for row in rows:
        _indented(Text(row), console, indent)
    left = max(0, len(table.rows) - _ROWS) + table.dropped
    more = [
        *([f"{left} more row{'s' if left > 1 else ''}"] if left else []),
        *([f"not shown: {' · '.join(placed[1])}"] if placed[1] else []),
    ]
    if more:
        _indented(Text(f"… {'; '.join(more)}", style="dim"), console, indent)


def _notes(view: View, console: Console) -> None:
    for trace in view.traces:
        _trace_notes(trace, console, named=len(view.traces) > 1)
    for line in view.unreadable:
        console.print(Text(f"Not read: {line}", style="red"))
    for rule, reason in view.crashed:
        console.print(Text(f"{rule} failed to run: {reason}", style="red"))
    if view.passed:
        console.print(Text(f"Passed: {', '.join(view.passed)}.", style="dim"))
    if view.suppressed:
        listed = "; ".join(f"{what} ({why})" for what, why in view.suppressed)
        console.print(Text(f"Suppressed: {listed}.", style="dim"))
    if view.not_applicable:
        console.print(Text("Did not apply:", style="dim"))
        for reason, rules in _by_reason(view.not_applicable):
            _indented(Text(f"{', '.join(rules)}: {reason}", style="dim"), console, 2)


def _by_reason(not_applicable: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Rules that did not apply by reason, the reason that most of them share first."""
    found: dict[str, list[str]] = {}
    for rule, reason in not_applicable:
        found.setdefault(reason, []).append(rule)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def _trace_notes(trace: TraceView, console: Console, *, named: bool) -> None:
    for note in trace.notes:
        console.print(Text((f"{trace.label}: " if named else "") + note, style="dim"))

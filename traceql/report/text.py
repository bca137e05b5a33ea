"""The report as a colleague's note in the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from traceql.report import textable
from traceql.report.model import Card, Figure, Table, TraceView, View
from traceql.report.view import build
from traceql.terminal import put

if TYPE_CHECKING:
    from traceql.reporting import Report

WIDTH = 100
"""Columns of the plain text output, which no terminal tells its width."""

_SEVERITY = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_ROWS = 5
_INDENT, _LABEL = 3, 7
_BESIDE = _INDENT + _LABEL + 1


def render(report: Report) -> str:
    """The note as plain text without colour."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, legacy_windows=False)
    print_report(report, console)
    return str(console.file.getvalue()).rstrip("\n") + "\n"  # type: ignore[attr-defined]


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
        put(console, Text("No findings."))
        put(console)
    if view.ranks is not None:
        _table(view.ranks, console, indent=0)
        put(console)
    _notes(view, console)


def _head(view: View, console: Console) -> None:
    put(console, Text(" · ".join((view.title, *view.scope)), style="dim"))
    put(console)
    put(console, Text(view.verdict, style="bold"))
    if view.recorded:
        put(console, Text(view.recorded))
    figures = [_figure(f) for f in view.headline]
    if figures:
        put(console, Text(_listed(figures, console.width)))
    put(console)


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
    put(console, head)
    _indented(Text(card.message), console)
    where = [*([card.trace] if card.trace else []), *card.where]
    if where:
        _labelled("where", _listed(where, console.width - _BESIDE), console)
    for twin in (each for each in card.twins if not each.other_rank):
        _labelled(
            "also", f"{' · '.join([*([twin.trace] if twin.trace else []), *twin.where])}: {twin.message}", console
        )
    for label, line in (
        ("size" if card.savings_us else "ranks", card.sizes and f"{card.sizes}."),
        ("shared", card.shared),
    ):
        if line:
            _labelled(label, line, console)
    if alike is not None:
        _labelled("do", f"as for finding {alike.number}", console)
        put(console)
        return
    if card.facts:
        _labelled("figures", _listed([f"{f.label} {f.text}" for f in card.facts], console.width - _BESIDE), console)
    for table in card.tables:
        _table(table, console, indent=_INDENT)
    for line in card.advice:
        _labelled("do", line, console)
    put(console)


def _labelled(label: str, text: str, console: Console) -> None:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(width=_LABEL, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text))
    _indented(grid, console)


def _listed(pieces: Sequence[str], room: int) -> str:
    """The pieces with points between them, in lines of ``room`` columns that end after a piece: no number stands apart from
    its unit."""
    lines = [""]
    for piece in pieces:
        joined = f"{lines[-1]} · {piece}" if lines[-1] else piece
        if cell_len(joined) + 2 > room and lines[-1]:  # 2 for the point that follows
            lines[-1] += " ·"
            lines.append(piece)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def _indented(content: Text | RichTable, console: Console, by: int = _INDENT) -> None:
    put(console, content, by)


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
    for note, labels in _notes_of(view.traces).items():
        whose = "" if len(labels) == len(view.traces) else f"{', '.join(labels)}: "
        put(console, Text(whose + note, style="dim"))
    for line in view.unreadable:
        put(console, Text(f"Not read: {line}", style="red"))
    for rule, reason in view.crashed:
        put(console, Text(f"{rule} failed to run: {reason}", style="red"))
    if view.passed:
        put(console, Text(f"Passed: {', '.join(view.passed)}.", style="dim"))
    if view.suppressed:
        listed = "; ".join(f"{what} ({why})" for what, why in view.suppressed)
        put(console, Text(f"Suppressed: {listed}.", style="dim"))
    if view.not_applicable:
        put(console, Text("Did not apply:", style="dim"))
        for reason, rules in view.abstained:
            _indented(Text(f"{', '.join(rules)}: {reason}", style="dim"), console, 2)


def _notes_of(traces: Iterable[TraceView]) -> dict[str, list[str]]:
    """Each note once, with the traces it is about."""
    found: dict[str, list[str]] = {}
    for trace in traces:
        for note in trace.notes:
            found.setdefault(note, []).append(trace.label)
    return found

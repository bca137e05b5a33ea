"""The forms a comparison is shown in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import traceql
from traceql.comparison.runs import Comparison
from traceql.comparison.steps import Contribution, Side, StepComparison
from traceql.comparison.view import View, build
from traceql.report import textable
from traceql.report.json_text import json_text
from traceql.report.markdown import escaped
from traceql.report.model import Table
from traceql.report.names import shown

_WIDTH = 110
_ROWS = 40
_SCHEMA = 1


def text(comparison: Comparison) -> str:
    """Plain text with a final newline."""
    return "\n".join(_text_lines(build(comparison))) + "\n"


def _text_lines(view: View) -> Iterator[str]:
    yield view.title
    for line in (*view.lines, *(f"Note: {note}" for note in view.notes)):
        yield ""
        yield line
    for table in view.tables:
        if not table.rows:
            continue
        placed, left_out = textable.lines(table, _WIDTH, _ROWS)
        yield ""
        yield table.title
        yield from (f"  {line}" for line in placed)
        more = [
            *([f"{table.dropped} more rows"] if table.dropped else []),
            *([f"not shown: {', '.join(left_out)}"] if left_out else []),
        ]
        if more:
            yield f"  … {'; '.join(more)}"


def markdown(comparison: Comparison) -> str:
    """Markdown for a pull-request comment: the verdict first, tables behind a fold except the first."""
    view = build(comparison)
    lines = [f"### traceql compare: {escaped(view.title)}", ""]
    for line in view.lines:
        lines += [escaped(line), ""]
    for note in view.notes:
        lines += [f"> {escaped(note)}", ""]
    for index, table in enumerate(table for table in view.tables if table.rows):
        title = escaped(table.title)
        rows = list(_markdown_table(table))
        lines += (
            [f"**{title}**", "", *rows]
            if not index
            else [f"<details><summary>{title}</summary>", "", *rows, "</details>"]
        )
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_table(table: Table) -> Iterator[str]:
    """All rows, numbers to the right."""
    yield "| " + " | ".join(column.header for column in table.columns) + " |"
    yield "|" + "|".join("--:" if column.numeric else ":--" for column in table.columns) + "|"
    for row in table.rows:
        yield "| " + " | ".join(escaped(cell.text) for cell in row) + " |"
    yield ""
    if table.dropped:
        yield f"… {table.dropped} more rows"
        yield ""


def as_json(comparison: Comparison) -> str:
    """One JSON document with a final newline, times in ns; docs/compare.schema.json describes it."""
    return json_text(document(comparison))


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data."""
    return {
        "traceql": traceql.__version__,
        "schema": _SCHEMA,
        "base": comparison.base,
        "head": comparison.head,
        "notes": list(comparison.notes),
        "runs": [asdict(judgement) for judgement in comparison.judgements],
        "profiled": comparison.profiled,
        "step": None if comparison.step is None else _step(comparison.step),
    }


def _step(step: StepComparison) -> dict[str, Any]:
    return {
        "base": _side(step.base),
        "head": _side(step.head),
        "delta_ns": step.delta_ns,
        "notes": list(step.notes),
        "figures": [asdict(figure) for figure in step.figures],
        "detail": step.detail,
        "roles": [_contribution(c, step) for c in step.roles],
        "parts": [_contribution(c, step) for c in step.parts],
        "ops": [asdict(op) for op in step.ops],
    }


def _contribution(c: Contribution, step: StepComparison) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(c).items() if name != "comparable"}
    return plain | {"delta_ns": c.delta_ns, "share_pct": step.share_pct(c), "status": c.status}


def _side(side: Side) -> dict[str, Any]:
    return {
        "trace": shown(side.trace.path.name), "source": side.trace.source, "rank": side.trace.rank, "step_id": side.step_id,
        "kind": side.kind, "batch_size": side.batch_size, "period_ns": side.period_ns, "steps": side.steps,
    }  # fmt: skip


def html(comparison: Comparison) -> str:
    """One page, self-contained."""
    from traceql.comparison.html import render

    return render(comparison)


RENDERERS: dict[str, Callable[[Comparison], str]] = {"text": text, "html": html, "json": as_json, "markdown": markdown}
"""Format → function from a comparison to the whole output."""

SUFFIXES = {".html": "html", ".json": "json", ".md": "markdown", ".txt": "text"}
"""Suffix of a file → its format."""

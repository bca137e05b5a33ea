"""A lint result as Markdown, for a pull-request comment or a job summary."""

from __future__ import annotations

from collections.abc import Iterator

from traceql.gate.budgets import Checked, number
from traceql.gate.lint import Judged, LintResult
from traceql.gate.text import change
from traceql.report.labels import trace_labels
from traceql.report.markdown import code, escaped
from traceql.report.names import shown

_ROWS = 20
_STATES = {"within": "held", "exceeded": "**exceeded**", "unknown": "not told"}


def render(result: LintResult) -> str:
    """The whole comment with a final newline."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: LintResult) -> Iterator[str]:
    labels = trace_labels(result.report.traces)
    yield f"### traceql: {_text(result.verdict)}"
    yield ""
    yield from _findings("Fails", result.failing, labels)
    if result.budgets:
        yield from _table(("Budget", "Limit", "Value", ""), [_budget(checked) for checked in result.budgets])
    for line in [*result.report.unreadable, *result.incomplete]:
        yield f"- {_text(line)}"
    if result.report.unreadable or result.incomplete:
        yield ""
    others = [judged for judged in result.findings if not judged.fails]
    if others or result.fixed or result.report.suppressed:
        yield "<details><summary>Findings that do not fail, fixed and suppressed ones</summary>"
        yield ""
        yield from _findings("", others, labels)
        for entry in result.fixed:
            yield f"- fixed: {entry.code} {entry.rule}: {_text(entry.message)}"
        for suppressed in result.report.suppressed:
            finding = suppressed.finding
            yield f"- suppressed: {finding.code} {finding.rule}: {_text(suppressed.suppression.reason)}"
        yield ""
        yield "</details>"
        yield ""
    used = [
        f"{what} {code(shown(str(path)))}"
        for what, path in (("configuration", result.configuration), ("baseline", result.baseline))
        if path
    ]
    yield " · ".join([*(code(label) for label in labels[:4]), *used])


def _findings(title: str, found: list[Judged], labels: list[str]) -> Iterator[str]:
    if title and found:
        yield f"**{title}**"
        yield ""
    for judged in found[:_ROWS]:
        finding = judged.finding
        marks = [finding.severity.label, *([note] if (note := change(judged)) else [])]
        where = f" {code(labels[finding.trace])}" if len(labels) > 1 else ""
        yield f"- **{finding.rule}** ({finding.code}, {', '.join(marks)}){where}: {_text(finding.message)}"
        if judged.fails and finding.advice:
            yield f"  - {_text(finding.advice[0])}"
    if len(found) > _ROWS:
        yield f"- … {len(found) - _ROWS} more"
    if found:
        yield ""


def _budget(checked: Checked) -> tuple[str, ...]:
    unit = f" {checked.budget.unit}" if checked.budget.unit else ""
    value = _text(checked.reason or "") if checked.state == "unknown" else f"{number(checked.value)}{unit}"
    return code(shown(checked.budget.label)), f"{checked.budget.limit}{unit}", value, _STATES[checked.state]


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join(" --- " for _ in header) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def _text(text: str) -> str:
    return escaped(shown(text))

"""A lint result for the terminal: a line a finding, as linters print them, and the verdict last."""

from __future__ import annotations

from collections.abc import Iterator

from traceql.gate.lint import Judged, LintResult
from traceql.report.labels import trace_labels
from traceql.report.names import shown


def render(result: LintResult) -> str:
    """Plain text with a final newline."""
    return "\n".join(lines(result)) + "\n"


def lines(result: LintResult) -> Iterator[str]:
    """The result, line by line."""
    labels = trace_labels(result.report.traces)
    for judged in sorted(result.findings, key=lambda j: not j.fails):
        yield from _finding(judged, labels[judged.finding.trace])
    for checked in result.budgets:
        if checked.state == "exceeded":
            yield f"{labels[checked.trace or 0]}: budget error: {shown(checked.message)}"
    for entry in result.fixed:
        yield f"fixed: {entry.code} {entry.rule}: {shown(entry.message)}"
    for suppressed in result.report.suppressed:
        finding = suppressed.finding
        yield f"suppressed: {finding.code} {finding.rule}: {shown(suppressed.suppression.reason)}"
    for line in result.report.unreadable:
        yield f"not read: {shown(line)}"
    for line in result.incomplete:
        yield f"incomplete{' (allowed)' if result.allow_incomplete else ''}: {shown(line)}"
    within = [c for c in result.budgets if c.state == "within"]
    if within:
        yield f"budgets held: {'; '.join(shown(c.message.rstrip('.')) for c in within)}"
    used = [
        f"{what} {shown(str(path))}"
        for what, path in (("configuration", result.configuration), ("baseline", result.baseline))
        if path
    ]
    yield f"{result.verdict.rstrip('.')} ({', '.join(used)})." if used else result.verdict


def change(judged: Judged) -> str:
    """What the baseline says of a finding: ``known``, ``worse: 866 → 1,201 µs/step``; empty for a new one."""
    from traceql.gate.baseline import amount, magnitude

    if judged.before is None:
        return ""
    if judged.status == "known":
        return "known"
    return f"worse: {judged.before.size} → {amount(*magnitude(judged.finding))}"


def _finding(judged: Judged, label: str) -> Iterator[str]:
    finding = judged.finding
    note = change(judged)
    marks = f" [{note}]" if note else ""
    yield f"{label}: {finding.code} {finding.rule} {finding.severity.label}{marks}: {shown(finding.message)}"
    if judged.fails:
        for advice in finding.advice[:1]:
            yield f"    help: {shown(advice)}"

"""A lint result as GitHub Actions workflow commands: each becomes an annotation of the run.

Traces are not files of the repository, so annotations carry a title and no file. GitHub shows ten of each level a step;
the worst come first.
"""

from __future__ import annotations

from collections.abc import Iterator

from traceql.finding import Severity
from traceql.gate.lint import LintResult
from traceql.gate.text import change
from traceql.report.labels import trace_labels
from traceql.report.names import shown

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(result: LintResult) -> str:
    """One command a line; a finding that fails is never less than a warning, one that does not is a notice."""
    return "".join(f"{command}\n" for command in _commands(result))


def command(level: str, title: str, message: str) -> str:
    """``::error title=…::message`` with what the runner would act upon escaped."""
    return f"::{level} title={_property(title)}::{_data(message)}"


def _commands(result: LintResult) -> Iterator[str]:
    labels = trace_labels(result.report.traces)
    for checked in result.exceeded:
        yield command("error", f"traceql budget, {labels[checked.trace or 0]}", shown(checked.message))
    for line in result.report.unreadable:
        yield command("error", "traceql could not read", shown(line))
    for line in result.incomplete:
        yield command(_LEVELS[result.gravity], "traceql could not check", shown(line))
    for judged in sorted(result.findings, key=lambda j: not j.fails):
        finding, note = judged.finding, change(judged)
        level = _LEVELS[max(finding.severity, Severity.WARNING) if judged.fails else Severity.INFO]
        title = f"{finding.code} {finding.rule}{f' ({note})' if note else ''}, {labels[finding.trace]}"
        yield command(level, title, "\n".join(map(shown, [finding.message, *finding.advice[:1]])))
    for entry in result.fixed:
        yield command("notice", f"{entry.code} {entry.rule} fixed", shown(entry.message))


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

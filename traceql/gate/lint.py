"""Lint: findings, budgets and a baseline → a verdict and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from traceql.config import Configuration
from traceql.finding import Finding, Severity
from traceql.gate import baseline as baselines
from traceql.gate import budgets
from traceql.gate.baseline import Comparison, Entry
from traceql.gate.budgets import Checked
from traceql.reporting import Report

Status = Literal["new", "worse", "known"]


@dataclass(frozen=True)
class Judged:
    """A finding with what it means for the verdict.

    ``status`` is *new* for all of them without a baseline; ``before`` is the baseline's entry; ``fails`` says whether it
    alone makes the exit code 1.
    """

    finding: Finding
    status: Status
    fails: bool
    before: Entry | None = None


@dataclass(frozen=True)
class LintResult:
    """What a lint says.

    Attributes:
        report: the analysis it rests on; suppressed findings are in ``report.suppressed``.
        findings: worst first.
        budgets: every budget of the configuration.
        fixed: entries of the baseline that are gone.
        incomplete: reasons why passing would prove nothing, one line each.
        fail_on: least severity that fails.
        allow_incomplete: whether those reasons are accepted.
        configuration, baseline: the files used; None for none.
    """

    report: Report
    findings: tuple[Judged, ...]
    budgets: tuple[Checked, ...]
    fixed: tuple[Entry, ...]
    incomplete: tuple[str, ...]
    fail_on: Severity
    allow_incomplete: bool = False
    configuration: Path | None = None
    baseline: Path | None = None

    @property
    def failing(self) -> list[Judged]:
        """Findings that fail the lint."""
        return [judged for judged in self.findings if judged.fails]

    @property
    def exceeded(self) -> list[Checked]:
        """Budgets that do not hold."""
        return [checked for checked in self.budgets if checked.state == "exceeded"]

    @property
    def exit_code(self) -> int:
        """0 clean; 1 failed: a finding at or over ``fail_on``, or a budget exceeded; 2 unreadable or incomplete.

        A check that could not run does not hide that others failed: then it is 1.
        """
        if self.report.unreadable:
            return 2
        if self.failing or self.exceeded:
            return 1
        return 2 if self.incomplete and not self.allow_incomplete else 0

    @property
    def gravity(self) -> Severity:
        """How bad it is that checks could not run: an error when that decides the exit code."""
        if self.allow_incomplete:
            return Severity.INFO
        return Severity.ERROR if self.exit_code == 2 else Severity.WARNING

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if not self.exit_code and not self.findings:
            return "Clean."
        known = sum(not judged.fails for judged in self.findings)
        parts = [
            _count(len(self.failing), "finding") + f" at or over {self.fail_on.label}" if self.failing else "",
            _count(len(self.exceeded), "budget") + " exceeded" if self.exceeded else "",
            _count(len(self.report.unreadable), "file") + " not read" if self.report.unreadable else "",
            _count(len(self.incomplete), "check") + " could not run" if self.incomplete else "",
            _count(known, "other finding" if self.failing else "finding")
            + f" that {'does' if known == 1 else 'do'} not fail"
            if known
            else "",
        ]
        head = ("Passed", "Failed", "Incomplete")[self.exit_code]
        return f"{head}: {', '.join(part for part in parts if part) or 'no findings'}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def lint(
    report: Report,
    configuration: Configuration,
    *,
    baseline: Path | None = None,
    fail_on: Severity | None = None,
    allow_incomplete: bool = False,
) -> LintResult:
    """Judge a report by the configuration and, where one is given, against a baseline file."""
    least = configuration.fail_on if fail_on is None else fail_on
    compared = None
    if baseline is not None:
        compared = baselines.compare(report, baselines.read(baseline), configuration.baseline, baseline)
    checked = tuple(budgets.check(budget, report.traces) for budget in configuration.budgets)
    return LintResult(
        report,
        tuple(_judged(finding, compared, least) for finding in report.found),
        checked,
        compared.fixed if compared else (),
        tuple(_incomplete(report, configuration, checked, compared)),
        least,
        allow_incomplete,
        configuration.path,
        baseline,
    )


def _judged(finding: Finding, compared: Comparison | None, least: Severity) -> Judged:
    key = (finding.trace, finding.fingerprint)
    status: Status = compared.status[key] if compared else "new"
    before = compared.before.get(key) if compared else None
    return Judged(finding, status, finding.severity >= least and status != "known", before)


def _incomplete(
    report: Report, configuration: Configuration, checked: Sequence[Checked], compared: Comparison | None
) -> list[str]:
    crashed = [
        f"{o.code} {o.name} crashed on {trace.path.name}: {o.reason}"
        for trace, outcomes in zip(report.traces, report.outcomes, strict=True)
        for o in outcomes
        if o.outcome == "error"
    ]
    unable = [
        f"{o.code} {o.name} was selected by name and did not apply: {o.reason}"
        for o in report.rules
        if o.code in configuration.named and o.outcome == "not_applicable"
    ]
    untold = [c.message for c in checked if c.state == "unknown"]
    unchecked = [
        f"{entry.code} {entry.rule} is in the baseline and could not run: {reason}"
        for entry, reason in {e.code: (e, reason) for e, reason in (compared.unchecked if compared else ())}.values()
    ]
    return [*crashed, *unable, *untold, *unchecked]

"""Findings that somebody decided to live with: hidden while the reason stands, reported when it no longer does."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from traceql import registry
from traceql.finding import Finding
from traceql.rule import Rule

if TYPE_CHECKING:
    from traceql.engine import Outcome, Selection
    from traceql.trace import Trace

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Outcomes = tuple[tuple["Outcome", ...], ...]


class Suppression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[suppress]]`` of the configuration: which findings, and why they may stay.

    ``rule`` is a code, a name or a family; the globs narrow it down: ``subject`` to the finding's subject, ``kernel`` and
    ``op`` to the kernels or operators its evidence lists (its subject, where it lists none). All of them must match: a
    finding that also lists other kernels is not hidden.
    """

    rule: _Text
    reason: _Text
    kernel: _Text | None = None
    op: _Text | None = None
    subject: _Text | None = None
    expires: date | None = None

    @property
    def label(self) -> str:
        """How messages name it: ``TQL402 kernel=lm_head*``."""
        globs = [f"{name}={glob}" for name in ("kernel", "op", "subject") if (glob := getattr(self, name))]
        return " ".join([self.rule, *globs])

    def expired(self, today: date) -> bool:
        """The day named is the last one it holds."""
        return self.expires is not None and today > self.expires

    def codes(self) -> frozenset[str]:
        """Codes of the rules meant; UsageError when there is none."""
        return frozenset(rule.code for rule in registry.resolve(self.rule))

    def matches(self, finding: Finding) -> bool:
        """Whether the finding is one of a rule meant and every glob fits."""
        if finding.code not in self.codes():
            return False
        subject = [finding.subject or ""]
        wanted = [
            (self.subject, subject),
            (self.kernel, _named(finding, "kernel") or subject),
            (self.op, _named(finding, "op") or subject),
        ]
        return all(fnmatchcase(name, glob) for glob, names in wanted if glob for name in names)


def _named(finding: Finding, kind: Literal["kernel", "op"]) -> list[str]:
    """What the evidence lists in columns named after ``kind``: ``kernel``, ``kernel_name``, ``op``, ``op_name``."""
    return [
        value
        for table in finding.evidence.values()
        if isinstance(table, (list, tuple))
        for row in table
        if isinstance(row, dict)
        for column, value in row.items()
        if column in (kind, f"{kind}_name") and isinstance(value, str)
    ]


@dataclass(frozen=True)
class Suppressed:
    """A finding that does not count, and the suppression that hides it."""

    finding: Finding
    suppression: Suppression


@dataclass(frozen=True)
class Use:
    """What became of one suppression in a report.

    ``hidden`` counts the findings it hides. ``judged`` says whether a rule it names applied to any trace: a suppression
    for a rule that did not run is neither used nor unused.
    """

    suppression: Suppression
    hidden: int
    judged: bool
    expired: bool


class SuppressionRule(Rule):
    """A rule about the suppressions of the configuration. It runs after the others, once a report."""

    def check(self, trace: Trace, options: Any) -> Iterator[Finding]:
        """A trace alone says nothing of suppressions."""
        yield from ()

    @abstractmethod
    def check_suppressions(self, uses: Sequence[Use]) -> Iterable[Finding]:
        """Findings about what became of the suppressions."""


def applied(
    outcomes: _Outcomes, selection: Selection, today: date | None = None
) -> tuple[_Outcomes, tuple[Suppressed, ...]]:
    """Outcomes of every trace without the findings that are suppressed, and those findings.

    A rule whose findings are all suppressed has passed, with that as the reason. Rules about suppressions run last and
    report in the first trace.
    """
    if not selection.suppressions or not outcomes:
        return outcomes, ()
    day = today or date.today()
    holding = [s for s in selection.suppressions if not s.expired(day)]
    hidden: list[Suppressed] = []
    kept = tuple(tuple(_without(outcome, holding, hidden) for outcome in each) for each in outcomes)
    uses = [_use(suppression, day, hidden, outcomes) for suppression in selection.suppressions]
    for rule in selection.chosen():
        if issubclass(rule, SuppressionRule):
            kept = (tuple(_judged(o, rule, uses, selection) for o in kept[0]), *kept[1:])
    return kept, tuple(hidden)


def _without(outcome: Outcome, holding: list[Suppression], hidden: list[Suppressed]) -> Outcome:
    found = [(finding, next((s for s in holding if s.matches(finding)), None)) for finding in outcome.findings]
    gone = [Suppressed(finding, suppression) for finding, suppression in found if suppression is not None]
    if not gone:
        return outcome
    hidden += gone
    kept = tuple(finding for finding, suppression in found if suppression is None)
    if kept:
        return dataclasses.replace(outcome, findings=kept)
    return dataclasses.replace(outcome, outcome="passed", reason=f"{len(gone)} suppressed", findings=())


def _use(suppression: Suppression, day: date, hidden: list[Suppressed], outcomes: _Outcomes) -> Use:
    codes = suppression.codes()
    return Use(
        suppression,
        hidden=sum(h.suppression is suppression for h in hidden),
        judged=any(o.code in codes and o.outcome in ("passed", "failed") for each in outcomes for o in each),
        expired=suppression.expired(day),
    )


def _judged(outcome: Outcome, rule: type[SuppressionRule], uses: Sequence[Use], selection: Selection) -> Outcome:
    if outcome.code != rule.code or outcome.outcome != "passed":
        return outcome
    severity = selection.severities.get(rule.code, rule.severity)
    found = tuple(dataclasses.replace(f, severity=severity) for f in rule().check_suppressions(uses))
    return dataclasses.replace(outcome, outcome="failed", findings=found) if found else outcome

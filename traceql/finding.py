"""Finding: one problem in one trace, with its evidence and what to do about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from traceql.fix import Fix


class Severity(IntEnum):
    """How bad; ordered so that ``fail-on`` can compare."""

    INFO = 1
    WARNING = 2
    ERROR = 3

    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Severity:
        """``info``, ``warning`` or ``error``; KeyError otherwise."""
        return cls[text.upper()]


Certainty = Literal["exact", "modelled"]


@dataclass(frozen=True)
class Finding:
    """One problem, its occurrences grouped.

    Attributes:
        code, rule: ``TQL101``, ``launch-gap``.
        severity: as the rule's default or the configuration says.
        message: one sentence with the figures.
        start_ns, end_ns: the worst instance on the trace's time; None when the whole trace is meant.
        step_id: step of the worst instance.
        subject: what it is about: the kernel, op, graph or call; None for the whole trace.
        evidence: figures, units in the key names; values are numbers, texts, or lists of flat rows (tables).
        estimated_savings_us_per_step: time a step would save if this alone were fixed; None when that is not known.
        advice: what to do, most useful first.
        fingerprint: identifies the problem across runs: no times and no counts in it.
        trace: index of the trace in the report it belongs to.
        certainty: whether the figures are counted (exact) or rest on a model (said in the message or advice).
        source_time_s: start on the source viewer's own timeline, seconds.
        fix: what fixing it would take out of the steps, for the engine to time them again; None when not modelled.
    """

    code: str
    rule: str
    severity: Severity
    message: str
    start_ns: int | None = None
    end_ns: int | None = None
    step_id: int | None = None
    subject: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    estimated_savings_us_per_step: float | None = None
    advice: tuple[str, ...] = ()
    fingerprint: str = ""
    trace: int = 0
    certainty: Certainty = "exact"
    source_time_s: float | None = None
    fix: Fix | None = field(default=None, compare=False, repr=False)

    def _repr_html_(self) -> str:
        from traceql.notebook import finding_html

        return finding_html(self)


def fingerprint(*parts: str | int | None) -> str:
    """16 hex digits that name a problem: give it codes, names and shapes, never times, counts or ids."""
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

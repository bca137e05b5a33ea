"""The interface of a rule: class attributes that describe it and one pure function from a trace to findings."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from traceql.errors import UsageError
from traceql.finding import Certainty, Finding, Severity, fingerprint
from traceql.fix import Fix, SavingsBasis
from traceql.trace import Trace

if TYPE_CHECKING:
    from traceql.ranks.digest import RankDigest

Need = Literal[
    "gpu_rows", "host_calls", "launch_links", "cpu_ops", "shapes", "python_stacks", "annotations", "steps", "graph_replays",
    "replay_nodes", "ncu",
]  # fmt: skip
"""What a rule cannot do without; the first that a trace lacks makes the rule not applicable."""

PAGE_HEADINGS = (
    "What it does", "Why it matters", "How it is measured", "Known problems", "How to fix", "References",
)  # fmt: skip
"""Sections of every rule's page, which is the docstring of its module."""

_CODE = re.compile(r"^[A-Z]{2,6}\d{3}$")
_UNITS = ("_us", "_ns", "_ms", "_pct", "_bytes", "_ratio", "_count", "_factor", "_score")


def option(default: float, help: str) -> Any:
    """A rule option: a number whose name ends in its unit, with a line of help."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class NoOptions:
    """For rules that have nothing to set."""


class NotApplicableError(Exception):
    """Raised by ``check`` when the trace turns out not to hold what the rule measures; the text is the reason."""


class Rule(ABC):
    """One check. Subclasses set the class attributes and implement ``check``; the engine does the rest.

    Class attributes:
        code: unique, e.g. ``TQL101``; never reused.
        name: unique, kebab-case; accepted wherever a code is.
        summary: one line, what a finding means.
        severity: default severity of its findings.
        severity_if_worthless: most severe that a finding is by default whose fix leaves the re-timed step as long as it is;
            None where that makes no difference.
        needs: what a trace must have recorded, in the order to report.
        scope: ``trace`` (checked trace by trace) or ``run`` (a RunRule: all traces of a report at once).
        Options: frozen dataclass of ``option`` fields.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    summary: ClassVar[str]
    severity: ClassVar[Severity]
    severity_if_worthless: ClassVar[Severity | None] = None
    needs: ClassVar[tuple[Need, ...]] = ()
    scope: ClassVar[Literal["trace", "run"]] = "trace"
    Options: ClassVar[type[Any]] = NoOptions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isabstract(cls):
            return
        missing = [a for a in ("code", "name", "summary", "severity") if not hasattr(cls, a)]
        if missing:
            raise TypeError(f"rule {cls.__name__} lacks {', '.join(missing)}")
        if not _CODE.match(cls.code):
            raise TypeError(f"rule {cls.__name__}: code {cls.code!r} is not letters and three digits")
        for f in dataclasses.fields(cls.Options):
            if not f.name.endswith(_UNITS):
                raise TypeError(f"rule {cls.code}: option {f.name!r} does not end in a unit ({', '.join(_UNITS)})")
            if "help" not in f.metadata or f.default is MISSING:
                raise TypeError(f"rule {cls.code}: option {f.name!r} needs a default and a help text")

    @abstractmethod
    def check(self, trace: Trace, options: Any) -> Iterable[Finding]:
        """Findings in ``trace``; none means it passed. Raise NotApplicableError with the reason to abstain."""

    def finding(
        self,
        message: str,
        *,
        key: tuple[str | int | None, ...] = (),
        evidence: Mapping[str, Any] | None = None,
        advice: Iterable[str] = (),
        start_ns: int | None = None,
        end_ns: int | None = None,
        step_id: int | None = None,
        subject: str | None = None,
        fix: Fix | None = None,
        savings_us_per_step: float | None = None,
        savings_basis: SavingsBasis = "measured",
        certainty: Certainty = "exact",
        trace: int = 0,
    ) -> Finding:
        """A finding of this rule. ``key`` names the problem across runs (names and shapes, no times or counts).

        ``fix`` says what fixing it would take out of the steps: the engine times the step again without it and that is
        the saving. Where no fix can say that, ``savings_us_per_step`` is the rule's own estimate and ``savings_basis``
        what it rests on, which the evidence then shows. ``trace`` is the place in the report of the trace meant; the
        engine sets it for rules of a single trace.
        """
        told = {} if savings_us_per_step is None else {"savings_basis": savings_basis}
        return Finding(
            code=self.code,
            rule=self.name,
            severity=self.severity,
            message=message,
            start_ns=start_ns,
            end_ns=end_ns,
            step_id=step_id,
            subject=subject,
            evidence={**(evidence or {}), **told},
            estimated_savings_us_per_step=savings_us_per_step,
            advice=tuple(advice),
            fingerprint=fingerprint(self.code, *key),
            trace=trace,
            certainty=certainty,
            fix=fix,
        )

    @classmethod
    def options_from(cls, values: Mapping[str, Any]) -> Any:
        """``Options`` with ``values`` set; ``min_gap_us`` and ``min-gap-us`` are the same. UsageError names a wrong one."""
        known = {f.name for f in dataclasses.fields(cls.Options)}
        given = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in known:
                raise UsageError(f"{cls.code} has no option {key!r}; it has: {', '.join(sorted(known)) or 'none'}")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"{cls.code}.{key} must be a number, not {value!r}")
            if not math.isfinite(value) or value < 0:
                raise UsageError(f"{cls.code}.{key} must be a finite number, 0 or more, not {value!r}")
            given[name] = value
        return cls.Options(**given)

    @classmethod
    def page(cls) -> str:
        """The rule's page in Markdown: its module's docstring under a title, with the options as a table."""
        module = inspect.getmodule(cls)
        body = inspect.cleandoc(module.__doc__ or "") if module else ""
        lines = [f"# {cls.code} {cls.name}", "", cls.summary, "", body]
        fields = dataclasses.fields(cls.Options)
        if fields:
            lines += ["", "## Options", "", "| option | default | meaning |", "|---|---|---|"]
            lines += [f"| `{f.name.replace('_', '-')}` | {f.default:g} | {f.metadata['help']} |" for f in fields]
        worthless = cls.severity_if_worthless
        otherwise = f"; {worthless.label} where fixing it would save nothing" if worthless is not None else ""
        lines += ["", f"Default severity: {cls.severity.label}{otherwise}."]
        return "\n".join(lines) + "\n"


class RunRule(Rule):
    """A rule that compares the traces of a report: the ranks of a job, the runs of a sweep.

    It gets a digest of every trace that has what it ``needs`` and says in its findings which trace they belong to; its
    one outcome stands with the first trace. With too few traces to compare it raises NotApplicableError.
    """

    scope = "run"

    def check(self, trace: Trace, options: Any) -> Iterable[Finding]:
        """A single trace is a run of one: the engine asks ``check_run``."""
        return ()

    @abstractmethod
    def check_run(self, digests: Sequence[RankDigest], options: Any) -> Iterable[Finding]:
        """Findings in the traces of a report, in order of trace; none means it passed."""

"""The baseline: findings that were there before, with their size, so that only what is new or worse fails.

A capture is compared with the one of the same context alone; a re-run of unchanged code compares clean within the
tolerances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from traceql.config_file import BaselineSettings
from traceql.context import Context, context
from traceql.engine import Outcome
from traceql.errors import UsageError
from traceql.finding import Finding
from traceql.reporting import Report
from traceql.writing import write_text

NAME = ".traceql-baseline.json"
_VERSION = 1

Unit = Literal["us_per_step", "pct", "ratio"]
Status = Literal["new", "worse", "known"]

_SUFFIXES: tuple[tuple[str, Unit], ...] = (("_us_per_step", "us_per_step"), ("_pct", "pct"), ("_ratio", "ratio"))
_SHOWN: dict[Unit, str] = {"us_per_step": "µs/step", "pct": "%", "ratio": "×"}
_FLOORS: dict[Unit, float] = {"us_per_step": 0.0, "pct": 1.0, "ratio": 0.0}
"""Least growth that counts beside the relative one; µs per step take theirs from the settings."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One finding of the baseline. ``magnitude`` is in ``unit``; null where the finding has no size."""

    code: str
    rule: str
    message: str
    subject: str | None = None
    magnitude: float | None = None
    unit: Unit | None = None

    @property
    def size(self) -> str:
        """The magnitude as text: ``866 µs/step``; empty without one."""
        return amount(self.magnitude, self.unit)


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The findings of one context by fingerprint."""

    context: Context
    findings: dict[str, Entry]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    traceql_baseline: int
    captures: list[Capture]


def amount(magnitude: float | None, unit: Unit | None) -> str:
    """A magnitude as text, empty without one."""
    if magnitude is None or unit is None:
        return ""
    digits = f"{magnitude:,.0f}" if abs(magnitude) >= 100 else f"{magnitude:.3g}"
    return f"{digits} {_SHOWN[unit]}"


def magnitude(finding: Finding) -> tuple[float, Unit] | tuple[None, None]:
    """How large a finding is: its first measured figure in µs per step, else the saving, else a share, else a ratio."""
    numbers = {
        k: float(v) for k, v in finding.evidence.items() if isinstance(v, (int, float)) and not isinstance(v, bool)
    }
    for suffix, unit in _SUFFIXES:
        for key, value in numbers.items():
            if key.endswith(suffix):
                return round(value, 3), unit
        if unit == "us_per_step" and finding.estimated_savings_us_per_step is not None:
            return round(finding.estimated_savings_us_per_step, 3), unit
    return None, None


def read(path: Path) -> Baseline:
    """The baseline of a file; UsageError when it cannot be read or is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Baseline)
    except OSError as error:
        raise UsageError(
            f"{path}: no baseline ({error.strerror or error}); write one with --update-baseline"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"{path}: damaged baseline ({error}); restore it or write it anew with --update-baseline"
        ) from error
    if found.traceql_baseline != _VERSION:
        raise UsageError(
            f"{path}: baseline of version {found.traceql_baseline}, this traceql reads {_VERSION}; "
            "write it anew with --update-baseline"
        )
    return found


def write(path: Path, captures: Sequence[Capture]) -> None:
    """Write the file whole or not at all, in an order that does not depend on the run."""
    ordered = sorted(captures, key=lambda capture: msgspec.json.encode(capture.context))
    document = Baseline(_VERSION, [Capture(c.context, dict(sorted(c.findings.items()))) for c in ordered])
    write_text(path, msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")


def captures(report: Report) -> list[Capture]:
    """The findings of a report by context; of one fingerprint (in several ranks) the largest."""
    found: dict[Context, dict[str, Entry]] = {context(trace): {} for trace in report.traces}
    for finding in report.found:
        entries = found[context(report.traces[finding.trace])]
        entry = _entry(finding)
        other = entries.get(finding.fingerprint)
        if other is None or (entry.magnitude or 0.0) > (other.magnitude or 0.0):
            entries[finding.fingerprint] = entry
    return [Capture(where, entries) for where, entries in found.items()]


def updated(path: Path, new: Sequence[Capture]) -> list[Capture]:
    """``new`` and what the file holds of other contexts; of a file that is none or damaged, ``new`` alone."""
    try:
        old = read(path).captures
    except UsageError:
        return list(new)
    return [*new, *(each for each in old if all(own.context.differences(each.context) for own in new))]


def _entry(finding: Finding) -> Entry:
    size, unit = magnitude(finding)
    return Entry(finding.code, finding.rule, finding.message, finding.subject, size, unit)


@dataclass(frozen=True)
class Comparison:
    """What a report says against a baseline.

    Attributes:
        status: (trace, fingerprint) → new, worse or known.
        before: (trace, fingerprint) → the entry of the baseline, for those that were there.
        fixed: entries whose rule ran and found nothing.
        unchecked: entries whose rule could not run, each with the reason.
    """

    status: Mapping[tuple[int, str], Status]
    before: Mapping[tuple[int, str], Entry]
    fixed: tuple[Entry, ...]
    unchecked: tuple[tuple[Entry, str], ...]


def compare(report: Report, baseline: Baseline, settings: BaselineSettings, path: Path) -> Comparison:
    """The report against the baseline; UsageError when a trace was recorded in a context the baseline has not."""
    places = [_place(context(trace), baseline, path, trace.path.name) for trace in report.traces]
    status: dict[tuple[int, str], Status] = {}
    before: dict[tuple[int, str], Entry] = {}
    for finding in report.found:
        key = (finding.trace, finding.fingerprint)
        old = baseline.captures[places[finding.trace]].findings.get(finding.fingerprint)
        status[key] = _status(_entry(finding), old, settings)
        if old is not None:
            before[key] = old
    fixed: list[Entry] = []
    unchecked: list[tuple[Entry, str]] = []
    for place in dict.fromkeys(places):
        indices = [index for index, own in enumerate(places) if own == place]
        there = {f.fingerprint for f in report.found if f.trace in indices}
        there |= {s.finding.fingerprint for s in report.suppressed if s.finding.trace in indices}
        for entry in (e for f, e in sorted(baseline.captures[place].findings.items()) if f not in there):
            outcomes = [o for i in indices for o in report.outcomes[i] if o.code == entry.code]
            reason = _could_not_run(outcomes)
            if reason is not None:
                unchecked.append((entry, reason))
            elif outcomes:
                fixed.append(entry)
    return Comparison(status, before, tuple(fixed), tuple(unchecked))


def _place(own: Context, baseline: Baseline, path: Path, trace: str) -> int:
    """Index of the capture to compare with: of this very context, else the first that compares with it."""
    differing = [own.differences(capture.context) for capture in baseline.captures]
    comparable = [index for index, differences in enumerate(differing) if not differences]
    if comparable:
        return next((i for i in comparable if baseline.captures[i].context == own), comparable[0])
    nearest = min(differing, key=len, default=["nothing recorded"])
    raise UsageError(
        f"{trace}: not comparable with the baseline {path}: {', '.join(nearest)}; "
        "compare like with like, or accept the new context with --update-baseline"
    )


def _status(now: Entry, old: Entry | None, settings: BaselineSettings) -> Status:
    if old is None:
        return "new"
    if now.magnitude is None or old.magnitude is None or now.unit != old.unit or now.unit is None:
        return "known"
    floor = settings.tolerance_us_per_step if now.unit == "us_per_step" else _FLOORS[now.unit]
    growth = now.magnitude - old.magnitude
    return "worse" if growth > max(floor, settings.tolerance_pct / 100 * abs(old.magnitude)) else "known"


def _could_not_run(outcomes: list[Outcome]) -> str | None:
    """Why a rule ran in none of the traces; None when it did, or was not asked to."""
    unable = [o for o in outcomes if o.outcome in ("not_applicable", "error")]
    return (unable[0].reason or unable[0].outcome) if unable and len(unable) == len(outcomes) else None

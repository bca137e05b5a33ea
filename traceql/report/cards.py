"""Findings as cards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import polars as pl

from traceql import registry
from traceql.finding import Finding, Severity
from traceql.fix import RETIMED
from traceql.report import evidence, units
from traceql.report.commands import open_command
from traceql.report.headline import source_name, step_label
from traceql.report.model import Card, Figure, Group, Place
from traceql.report.names import shown
from traceql.trace import Trace
from traceql.twins import Entry
from traceql.wording import counted

if TYPE_CHECKING:
    from traceql.reporting import Report

_CERTAINTY = {"exact": "counted", "modelled": "modelled"}
_TOLD = "savings_basis"
_BASIS: dict[str | None, str] = {RETIMED: "modelled", "measured": "measured", "bound": "at most"}
"""What the saving rests on, in the word that stands beside it."""
_RANKS_TOLD = 4
"""Ranks whose saving is told one by one."""


def cards(report: Report, labels: Sequence[str]) -> tuple[Card, ...]:
    """One card an entry, in the report's order; ``labels`` name the traces."""
    seen: Counter[str] = Counter()
    entries = report.entries
    numbers = {(f.trace, f.fingerprint): at for at, entry in enumerate(entries, start=1) for f in entry.every}
    found = []
    for number, entry in enumerate(entries, start=1):
        members: list[Card] = []
        for finding in entry.every:
            anchor = f"f-{finding.fingerprint}" if finding.fingerprint else f"f-{finding.code}"
            seen[anchor] += 1
            if seen[anchor] > 1:
                anchor += f"-{seen[anchor]}"
            label = labels[finding.trace] if len(labels) > 1 else None
            trace = report.traces[finding.trace]
            # the command opens the first finding of an entry
            command = "" if members or trace.source == "ncu" else open_command(report, number)
            members.append(_card(number, finding, trace, anchor, label, command))
        shared = _shared(report, entry, numbers, number)
        found.append(_entry_card(report, entry, members, shared))
    return tuple(found)


def _entry_card(report: Report, entry: Entry, members: Sequence[Card], shared: str) -> Card:
    """The first member's card, with the size that stands for all of them."""
    first, *twins = (replace(card, other_rank=at >= len(entry.findings)) for at, card in enumerate(members))
    sized = members[entry.findings.index(entry.sized)]
    return replace(
        first,
        severity=entry.severity.label,
        savings=sized.savings,
        savings_us=sized.savings_us,
        certainty=sized.certainty,
        shared=shared,
        sizes=_sizes(report, entry, members) if twins else "",
        twins=tuple(twins),
    )


def _sizes(report: Report, entry: Entry, members: Sequence[Card]) -> str:
    """``Nsight Systems says 8.81 ms/step, PyTorch profiler 8.74 ms/step``; of several ranks what each of them says, the
    largest first. Empty where none says anything."""
    by_source: dict[str, list[tuple[Finding, Card]]] = {}
    for finding, card in zip(entry.every, members, strict=True):
        if card.savings:
            by_source.setdefault(source_name(report.traces[finding.trace]), []).append((finding, card))
    one_source = len({report.traces[finding.trace].source for finding in entry.every}) == 1
    if not any(card.savings_us for _, card in chain(*by_source.values())) and (one_source or not by_source):
        return _also_on(report, entry)
    said = [(source, _by_rank(report, sized)) for source, sized in by_source.items()][::-1]
    if one_source:
        return said[0][1] if len(members) > 1 else ""
    (source, saved), *others = said
    between = "; " if any(len(sized) > 1 for sized in by_source.values()) else ", "
    return between.join([f"{source} says {saved}", *(" ".join(each) for each in others)])


def _also_on(report: Report, entry: Entry) -> str:
    """Where else the problem is, when nobody says how large it is."""
    ranks = sorted({rank for finding in entry.others if (rank := report.traces[finding.trace].rank) is not None})
    if not ranks:
        return ""
    return f"Also on {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks[:_RANKS_TOLD]))}" + (
        f" and {len(ranks) - _RANKS_TOLD} more" if len(ranks) > _RANKS_TOLD else ""
    )


def _by_rank(report: Report, sized: Sequence[tuple[Finding, Card]]) -> str:
    """What one profiler says; of several ranks the first four that save anything, and how many there are besides."""
    saving = [
        (report.traces[finding.trace].rank, card.savings.text)
        for finding, card in sized
        if card.savings and card.savings_us
    ]
    if not saving:
        return "nothing"
    if len(sized) == 1:
        return saving[0][1]
    told = [f"{text} on rank {rank}" for rank, text in saving[:_RANKS_TOLD]]
    less = [f"less on {len(saving) - _RANKS_TOLD} more"] if len(saving) > _RANKS_TOLD else []
    none = [f"nothing on {counted(len(sized) - len(saving), 'other')}"] if len(sized) > len(saving) else []
    return ", ".join([*told, *less, *none])


def _shared(report: Report, entry: Entry, numbers: Mapping[tuple[int, str], int], number: int) -> str:
    """The most that an entry told before this one saves of the same time."""
    of_others = [
        (us, numbers[finding.trace, other])
        for finding in entry.every
        for other, us in report.overlaps(finding) or []
        if numbers[finding.trace, other] < number
    ]
    if not of_others:
        return ""
    us, other_number = max(of_others, key=lambda each: (round(each[0]), -each[1]))
    other = report.entries[other_number - 1].findings[0]
    return f"{_savings(us).text} of this is what finding {other_number} ({other.rule}) saves too: count it once."


def grouped(cards: Sequence[Card]) -> tuple[Group, ...]:
    """The cards by rule; what all findings of a rule share is told once."""
    by_code: dict[str, list[Card]] = {}
    for card in cards:
        by_code.setdefault(card.code, []).append(card)
    return tuple(_group(tuple(members)) for members in by_code.values())


def _group(cards: tuple[Card, ...]) -> Group:
    first = cards[0]
    known = registry.rules().get(first.code)
    return Group(
        first.code,
        first.rule,
        max((card.severity for card in cards), key=Severity.parse),
        shown(known.summary) if known else first.rule,
        cards,
        first.advice if all(card.advice == first.advice for card in cards) else (),
        tuple(part for part in first.where if all(part in card.where for card in cards)),
    )


def _card(number: int, finding: Finding, trace: Trace, anchor: str, label: str | None, command: str) -> Card:
    savings = finding.estimated_savings_us_per_step
    place = None
    if finding.start_ns is not None:
        place = Place(finding.trace, finding.start_ns, finding.end_ns or finding.start_ns)
    return Card(
        number=number,
        code=finding.code,
        rule=finding.rule,
        severity=finding.severity.label,
        message=shown(finding.message),
        where=tuple(_where(finding, trace)),
        certainty=_BASIS.get(finding.evidence.get(_TOLD), _CERTAINTY[finding.certainty]),
        savings=None if savings is None else _savings(savings),
        savings_us=savings or 0.0,
        facts=evidence.facts({k: v for k, v in finding.evidence.items() if k != _TOLD}),
        tables=evidence.tables(finding.evidence, trace, finding.trace),
        advice=tuple(shown(line) for line in finding.advice),
        anchor=anchor,
        place=place,
        trace=label,
        command=command,
    )


def _savings(us: float) -> Figure:
    value, unit = units.quantity(us, "µs", "step")
    return Figure("estimated saving", value, unit, units.exact(us, "µs", "step"))


def _where(finding: Finding, trace: Trace) -> list[str]:
    parts = []
    if finding.step_id is not None:
        step = trace.table("steps").filter(pl.col("step_id") == finding.step_id)
        name = step_label(*step.select("kind", "batch_size").row(0)) if step.height else "step"
        parts.append(shown(f"step {finding.step_id}" if name == "step" else f"step {finding.step_id}, {name}"))
    if finding.subject and finding.subject != f"rank {trace.rank}":  # the label says so
        parts.append(shown(finding.subject))
    if finding.source_time_s is not None:
        parts.append(f"at {finding.source_time_s:.6f} s")
    return parts

"""One problem seen more than once, on every rank of a job or by two profilers: the findings that a report tells at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from traceql.context import context
from traceql.finding import Finding, Severity
from traceql.run_manifest import FILE, MODE
from traceql.trace import Trace

_ABOUT_THE_CAPTURE = "TQL9"
"""Codes of findings that are about a trace itself, not about what it recorded."""


@dataclass(frozen=True)
class Recording:
    """What tells which traces were recorded together.

    Attributes:
        run: the run directory; without one the folder of a rank's trace, the file where it holds several ranks.
        mode: eager, graph or piecewise; None where no run directory says so.
        source: torch_profiler, nsys or ncu.
        rank, kind, batch_size: of the trace, and of the steps it spends most time in; None where it does not tell.
    """

    run: str
    mode: str | None
    source: str
    rank: int | None = None
    kind: str | None = None
    batch_size: int | None = None

    def shows_steps_of(self, other: Recording) -> bool:
        """Whether nothing says that the two recorded different steps."""
        return all(
            None in pair or len(set(pair)) == 1
            for pair in ((self.kind, other.kind), (self.batch_size, other.batch_size))
        )


def recording(trace: Trace) -> Recording | None:
    """What its run's manifest or its rank says of ``trace``; None for one read alone."""
    stated = dict(trace.loaded["metadata"].select("key", "value").rows())
    mode, file = stated.get(MODE), stated.get(FILE)
    if file is None and trace.rank is None:
        return None
    path = trace.path.resolve()
    # the manifest lists the report where its export lies beside it
    listed = next((p for p in (path, path.with_suffix(".nsys-rep")) if p.as_posix().endswith(f"/{file}")), None)
    if mode is not None and file is not None and listed is not None:
        run = listed.as_posix().removesuffix(file)
    elif trace.rank is not None:
        run, mode = (path.parent if trace.part is None else path).as_posix(), None
    else:
        return None
    of = context(trace)
    return Recording(run, mode, trace.source, trace.rank, of.step_kind, of.batch_size)


@dataclass(frozen=True)
class Entry:
    """What a report tells at once: a finding, or one problem that both profilers found in one mode of a run.

    The first of ``findings`` knows the names (PyTorch's operators and frames), the last the size (Nsight Systems, which
    slows the host less). Each is of the rank where the problem is largest; ``others`` are the same problem on the others.
    """

    findings: tuple[Finding, ...]
    others: tuple[Finding, ...] = ()

    @property
    def every(self) -> tuple[Finding, ...]:
        return (*self.findings, *self.others)

    @property
    def severity(self) -> Severity:
        """The worst of theirs."""
        return max(finding.severity for finding in self.every)

    @property
    def sized(self) -> Finding:
        """The finding whose saving stands for the problem: the last that has one, else the first."""
        return next(
            (f for f in reversed(self.findings) if f.estimated_savings_us_per_step is not None), self.findings[0]
        )

    @property
    def order(self) -> tuple[int, float, str, int, str]:
        """Sorts entries: worst severity first, then by saving, then by code."""
        first = self.findings[0]
        saving = self.sized.estimated_savings_us_per_step or 0.0
        return -self.severity, -saving, first.code, first.trace, first.fingerprint


def entries(found: Sequence[Finding], recordings: Sequence[Recording | None]) -> list[Entry]:
    """The findings as a report tells them; ``recordings`` are those of the traces, by index.

    Findings of one fingerprint on several ranks of a run, in one mode and by one profiler, are one problem. So are two of
    one rule in captures of the same mode, run and rank by the two profilers, when either is its trace's only one of the
    rule, or they have the same subject; but what is about a capture itself is each profiler's own.
    """
    alike = _over_ranks(found, recordings)
    place = {id(finding): at for at, bundle in enumerate(alike) for finding in bundle}
    second: dict[int, int] = {}
    for finding, other in _twins(found, _pairs(recordings)):
        one, two = place[id(finding)], place[id(other)]
        if one not in second and two not in second.values():
            second[one] = two
    made = []
    for at, (lead, *rest) in enumerate(alike):
        if at in second:
            twin, *others = alike[second[at]]
            made.append(Entry((lead, twin), (*rest, *others)))
        elif at not in second.values():
            made.append(Entry((lead,), tuple(rest)))
    return sorted(made, key=lambda entry: entry.order)


def peers(recordings: Sequence[Recording | None], index: int) -> list[int]:
    """The traces of one run, mode and profiler, one a rank, that the one at ``index`` is of; itself alone where it is of
    none."""
    return next((members for members in _ranks(recordings) if index in members), [index])


def _ranks(recordings: Sequence[Recording | None]) -> list[list[int]]:
    """The traces that are ranks of one run, in one mode and by one profiler; two captures of one rank are no two ranks."""
    ranks: dict[tuple[object, ...], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, each in enumerate(recordings):
        if each is not None and each.rank is not None:
            ranks[each.run, each.mode, each.source][each.rank].append(index)
    return [
        [index for (index,) in of_ranks.values()]
        for of_ranks in ranks.values()
        if all(len(captures) == 1 for captures in of_ranks.values())
    ]


def _over_ranks(found: Sequence[Finding], recordings: Sequence[Recording | None]) -> list[list[Finding]]:
    """The findings, those of one fingerprint on the ranks of one run together, the largest saving first."""
    group = {index: at for at, members in enumerate(_ranks(recordings)) for index in members}
    alike: dict[tuple[object, ...], list[Finding]] = defaultdict(list)
    for finding in found:
        own = group.get(finding.trace)
        alike[("alone", id(finding)) if own is None else (own, finding.code, finding.fingerprint)].append(finding)
    return [
        sorted(bundle, key=lambda f: (-f.severity, -(f.estimated_savings_us_per_step or 0.0), f.trace))
        for bundle in alike.values()
    ]


def _pairs(recordings: Sequence[Recording | None]) -> list[tuple[int, int]]:
    """(PyTorch trace, Nsight Systems trace) of one mode of a run, and of one rank where it has several."""
    known = {index: each for index, each in enumerate(recordings) if each is not None and each.mode is not None}
    found = []
    for run, mode in dict.fromkeys((each.run, each.mode) for each in known.values()):
        alike = {index: each for index, each in known.items() if (each.run, each.mode) == (run, mode)}
        sources = [[i for i, each in alike.items() if each.source == name] for name in ("torch_profiler", "nsys")]
        if all(len(of_source) == 1 for of_source in sources):
            found.append((sources[0][0], sources[1][0]))
            continue
        for rank in dict.fromkeys(each.rank for each in alike.values() if each.rank is not None):
            torch, nsys = ([i for i in of_source if alike[i].rank == rank] for of_source in sources)
            if len(torch) == len(nsys) == 1:
                found.append((torch[0], nsys[0]))
    return [(first, second) for first, second in found if known[first].shows_steps_of(known[second])]


def _twins(found: Sequence[Finding], pairs: Iterable[tuple[int, int]]) -> list[tuple[Finding, Finding]]:
    """(finding of a pair's first trace, the second trace's finding of the same problem)."""
    by_trace: dict[int, dict[str, list[Finding]]] = defaultdict(lambda: defaultdict(list))
    for finding in found:
        if not finding.code.startswith(_ABOUT_THE_CAPTURE):
            by_trace[finding.trace][finding.code].append(finding)
    return [
        pair
        for first, second in pairs
        for code, ones in by_trace[first].items()
        for pair in _matched(ones, by_trace[second].get(code, []))
    ]


def _matched(ones: Sequence[Finding], others: Sequence[Finding]) -> list[tuple[Finding, Finding]]:
    if len(ones) == len(others) == 1:
        return [(ones[0], others[0])]
    one_by_subject, other_by_subject = _by_subject(ones), _by_subject(others)
    return [(one, other_by_subject[key]) for key, one in one_by_subject.items() if key in other_by_subject]


def _by_subject(findings: Sequence[Finding]) -> Mapping[str, Finding]:
    """Findings by subject, those alone with theirs."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.subject:
            found[finding.subject].append(finding)
    return {subject: alike[0] for subject, alike in found.items() if len(alike) == 1}

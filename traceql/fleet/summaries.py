"""Many traces as plain data: what each one is reduced to, and the report over all of them.

A summary holds no table of events: it is made where the trace is, by whatever process, and sent to where the report is
assembled. The report says exactly what ``analyze`` says of the same traces in one process.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from traceql import engine, kernel_names, metrics, remote, run_manifest, savings, suppressions
from traceql.engine import Outcome, Selection
from traceql.errors import TraceqlError
from traceql.loaders import registry as loaders
from traceql.ranks.digest import RankDigest, digests
from traceql.ranks.processes import ranks
from traceql.report.json import assembled, trace_entry
from traceql.report.json_text import json_text
from traceql.report.names import file_labels, shown
from traceql.reporting import Results
from traceql.savings import Recoverable
from traceql.suppressions import Suppressed
from traceql.trace import Trace
from traceql.twins import Recording, recording


@dataclass(frozen=True)
class Setup:
    """What holds for every trace: rules with their options, the user's GPU peaks and kernel names."""

    selection: Selection = field(default_factory=Selection)
    hardware: Path | None = None
    kernel_patterns: Path | None = None


@dataclass(frozen=True)
class Summary:
    """One trace, reduced. ``entry`` is its entry of the JSON document (metrics included), ``digests`` are for the rules
    over all traces; ``recoverable`` is what findings save together, ``recording`` what a run directory says of the trace;
    ``seconds`` and ``bytes`` are what it cost to make; ``others`` are the other ranks of its file, where that holds several.
    """

    path: str
    rank: int | None
    entry: dict[str, Any]
    outcomes: tuple[Outcome, ...]
    digests: tuple[RankDigest, ...]
    recoverable: tuple[Recoverable, ...] = ()
    recording: Recording | None = None
    seconds: float = 0.0
    bytes: int = 0
    others: tuple[Summary, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be summarised, in one line."""

    path: str
    reason: str


@dataclass(frozen=True)
class Location:
    """A trace file: a path or a URL, and the run directory it was found in."""

    path: str
    run: Path | None = None


def summarise(location: Location, setup: Setup) -> Summary | Unreadable:
    """Open one trace, run the rules of single traces, and keep what is needed of it; of a file that holds several ranks,
    of each.

    What is wrong with the file is returned, never raised: one bad file must not stop the rest.
    """
    import time

    started = time.perf_counter()
    try:
        url = remote.url_of(location.path)
        path = Path(location.path) if url is None else remote.fetched(url)
        traces = ranks(_equipped(_opened(path, location.run), setup))
        first, *others = (_summary(location.path, trace, setup) for trace in traces)
        size = path.stat().st_size if path.is_file() else 0
        seconds = time.perf_counter() - started
        return dataclasses.replace(first, seconds=seconds, bytes=size, others=tuple(others))
    except TraceqlError as error:
        return Unreadable(location.path, str(error))
    except Exception as error:  # a defect in one trace's analysis: the others still report
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Unreadable(location.path, f"{location.path}: {reason}")


def _summary(path: str, trace: Trace, setup: Setup) -> Summary:
    outcomes = engine.run(trace, setup.selection)
    ((*kept,),), _ = suppressions.applied((tuple(outcomes),), setup.selection)
    together = savings.recoverable(trace, [finding for outcome in kept for finding in outcome.findings])
    needs_digest = any(rule.scope == "run" for rule in setup.selection.chosen())
    return Summary(
        path=path,
        rank=trace.rank,
        entry=trace_entry(trace),
        outcomes=tuple(_light(outcome) for outcome in outcomes),
        digests=digests(trace, 0) if needs_digest else (),
        recoverable=together,
        recording=recording(trace),
    )


def _light(outcome: Outcome) -> Outcome:
    """Without what only the trace can make use of."""
    return dataclasses.replace(outcome, findings=tuple(dataclasses.replace(f, fix=None) for f in outcome.findings))


def _opened(path: Path, run: Path | None) -> Trace:
    """The trace with what its run's manifest knows: the unprofiled step, for a graph capture its eager twin, and the
    counters that belong to it."""
    trace = Trace.from_loaded(loaders.load(path))
    manifest = run_manifest.read(run) if run else None
    if manifest is None:
        return trace
    eager = _eager_twin(manifest, trace)
    beside = [eager] if eager else []
    beside += [manifest.folder / name for name in manifest.counters.get(manifest.name(trace.path) or "", ())]
    others = [Trace.from_loaded(loaders.load(other)) for other in beside]
    return run_manifest.noted([*others, trace], manifest)[-1]


def _eager_twin(manifest: run_manifest.RunManifest, trace: Trace) -> Path | None:
    """The eager capture of the same rank: the file at the same place of its stage."""
    if manifest.mode(trace) != "graph":
        return None
    of_mode = {
        mode: sorted(name for name, its in manifest.modes.items() if its == mode and loaders.is_trace_name(Path(name)))
        for mode in ("graph", "eager")
    }
    paths = {mode: [manifest.folder / name for name in names] for mode, names in of_mode.items()}
    if len(paths["graph"]) != len(paths["eager"]):
        return None
    mine = [path.resolve() for path in paths["graph"]].index(trace.path.resolve())
    return paths["eager"][mine]


def _equipped(trace: Trace, setup: Setup) -> Trace:
    if setup.kernel_patterns is not None:
        _use_patterns(setup.kernel_patterns)
    return trace if setup.hardware is None else dataclasses.replace(trace, hardware=setup.hardware, _memo={})


@cache
def _use_patterns(path: Path) -> None:
    """Once in a process."""
    kernel_names.extend(path)


@dataclass(frozen=True, repr=False)
class FleetReport(Results):
    """The report over summaries, in order of rank, then path.

    Attributes:
        summaries: one a trace that could be read.
        outcomes: for each of them one outcome a rule; those of rules over all traces stand with the first.
        unreadable: one line for each file that could not be read.
        suppressed: findings that the configuration says not to report.
    """

    summaries: tuple[Summary, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    unreadable: tuple[str, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()

    @property
    def labels(self) -> list[str]:
        """What to call the file of each trace."""
        return file_labels([Path(summary.path) for summary in self.summaries])

    @property
    def metrics(self) -> dict[str, Any]:
        """The JSON contract's metrics over all traces."""
        parts = [(summary.rank, summary.entry["metrics"]) for summary in self.summaries]
        return metrics.merged(parts, one_file=len({summary.path for summary in self.summaries}) == 1)

    @property
    def recordings(self) -> tuple[Recording | None, ...]:
        return tuple(summary.recording for summary in self.summaries)

    @property
    def recoverable(self) -> tuple[Recoverable, ...]:
        return tuple(each for summary in self.summaries for each in summary.recoverable)

    def document(self) -> dict[str, Any]:
        """The JSON document, as ``traceql analyze --format json`` writes it."""
        return assembled(
            self,
            [summary.entry for summary in self.summaries],
            labels=self.labels,
            metrics=self.metrics,
            unreadable=self.unreadable,
            suppressed=self.suppressed,
        )

    def json(self) -> str:
        """``document`` as text."""
        return json_text(self.document())

    def text(self) -> str:
        """Findings, each once with the ranks that have it, then the slowest ranks and what could not be read."""
        from traceql.fleet.text import render

        return render(self)


def assemble(results: Iterable[Summary | Unreadable], setup: Setup) -> FleetReport:
    """The report over what ``summarise`` returned, in any order."""
    every = list(results)
    parts = (part for s in every if isinstance(s, Summary) for part in (s, *s.others))
    summaries = sorted(parts, key=lambda s: (s.rank is not None, s.rank or 0, s.path))
    placed = [_at(index, summary) for index, summary in enumerate(summaries)]
    outcomes = [list(summary.outcomes) for summary in placed]
    if placed:
        together = engine.run_together([d for s in placed for d in s.digests], setup.selection)
        outcomes[0] = engine.joined(outcomes[0], together)
    kept, suppressed = suppressions.applied(tuple(tuple(each) for each in outcomes), setup.selection)
    unreadable = sorted((u for u in every if isinstance(u, Unreadable)), key=lambda u: u.path)
    return FleetReport(tuple(placed), kept, tuple(shown(u.reason) for u in unreadable), suppressed)


def _at(index: int, summary: Summary) -> Summary:
    """The summary with its place in the report, in its findings and digests."""
    outcomes = tuple(
        dataclasses.replace(o, findings=tuple(dataclasses.replace(f, trace=index) for f in o.findings))
        for o in summary.outcomes
    )
    placed = tuple(dataclasses.replace(digest, index=index) for digest in summary.digests)
    together = tuple(dataclasses.replace(each, trace=index) for each in summary.recoverable)
    return dataclasses.replace(summary, outcomes=outcomes, digests=placed, recoverable=together)


def locations(paths: Sequence[Path]) -> tuple[list[Location], list[Unreadable]]:
    """Every trace file that paths, directories and URLs stand for, and those that stand for none."""
    from traceql.opening import run_folders, trace_files

    found: list[Location] = []
    missing: list[Unreadable] = []
    for path in paths:
        url = remote.url_of(path)
        try:
            if url is not None:
                found += [Location(each) for each in remote.trace_urls(url)]
            else:
                for run in run_folders(path):
                    found += _in_run(run, trace_files(run))
        except TraceqlError as error:
            missing.append(Unreadable(str(path), str(error)))
    return found, missing


def _in_run(path: Path, members: list[Path]) -> list[Location]:
    """The trace files of a path; reports that are read with the timeline they belong to are no places of their own."""
    if not path.is_dir():
        return [Location(os.fspath(member)) for member in members]
    manifest = run_manifest.read(path)
    counters = manifest.counters.values() if manifest else ()
    beside = {path / name for names in counters for name in names}
    return [Location(os.fspath(member), path) for member in members if member not in beside]

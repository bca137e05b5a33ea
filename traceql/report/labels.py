"""What a report calls its traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from traceql.report.headline import source_name
from traceql.report.names import file_labels, process_label, shown
from traceql.trace import Trace
from traceql.twins import Recording

_RUNS_NAMED = 4
"""Runs that the title lists."""


def trace_labels(traces: Sequence[Trace], recordings: Sequence[Recording | None] = ()) -> list[str]:
    """Mode and profiler of each trace of a recorded run, its rank too where several share them, and the run's name before
    them where there are several runs; else the file's name, with the rank or process where a file holds several."""
    recordings = recordings or [None] * len(traces)
    runs = {each.run for each in recordings if each is not None and each.mode is not None}
    files = [
        " · ".join(filter(None, each))
        for each in zip(file_labels([trace.path for trace in traces]), map(part_label, traces), strict=True)
    ]
    named = [
        file
        if each is None or each.mode is None
        else " · ".join([*([_name(each.run)] if len(runs) > 1 else []), shown(each.mode), source_name(trace)])
        for trace, each, file in zip(traces, recordings, files, strict=True)
    ]
    ranked = [
        label if trace.rank is None or count == 1 else f"{label} · rank {trace.rank}"
        for trace, label, count in zip(traces, named, _counts(named), strict=True)
    ]
    return [label if count == 1 else file for label, file, count in zip(ranked, files, _counts(ranked), strict=True)]


def part_label(trace: Trace) -> str:
    """Which part of its file a trace is: ``rank 1``, ``process 2705``; empty for a whole file."""
    return "" if trace.part is None else process_label(trace.rank, trace.part.processes)


def run_name(recordings: Sequence[Recording | None]) -> str | None:
    """The names of the run directories that the traces are of; None where one is of none, or they are of many."""
    runs = dict.fromkeys(None if each is None or each.mode is None else each.run for each in recordings)
    if not runs or None in runs or len(runs) > _RUNS_NAMED:
        return None
    return ", ".join(sorted(_name(run) for run in runs if run is not None))


def _name(run: str) -> str:
    return shown(Path(run).name)


def _counts(labels: Sequence[str]) -> list[int]:
    counted = Counter(labels)
    return [counted[label] for label in labels]

"""Sets of runs: what BASE and HEAD stand for, which of their figures are compared, and whether they differ.

A run is one process: its trace explains, its unprofiled latency times. Repetitions inside a process are one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

import msgspec
import polars as pl

from traceql.comparison import recorded, statistics
from traceql.comparison.recorded import Recorded
from traceql.comparison.statistics import Judgement
from traceql.comparison.steps import StepComparison, compare
from traceql.context import context
from traceql.derived.typical_steps import counting, timed_steps
from traceql.errors import UnreadableTraceError, UsageError
from traceql.loaders.registry import is_trace_name
from traceql.opening import open_all
from traceql.ranks.processes import apart
from traceql.report.labels import part_label
from traceql.trace import Trace

_FLOOR_MS = 0.005
"""Least change that counts, 5 µs a step."""


class _Measured(msgspec.Struct, forbid_unknown_fields=True):
    """A file of somebody's own measurements: one value a run."""

    runs_ms: list[float]
    metric: str = "step"


@dataclass(frozen=True)
class Run:
    """One run: where it lies, its unprofiled latencies by name in ms, whether it may hold traces, and its manifest."""

    path: Path
    latencies: dict[str, list[float]] = field(default_factory=dict)
    traced: bool = True
    recorded: Recorded | None = None


@dataclass(frozen=True)
class Comparison:
    """BASE against HEAD: what the steps differ in, where both have a trace, and whether the runs differ in time.

    ``profiled`` says that the figures come from profiled steps, for want of unprofiled ones.
    """

    base: str
    head: str
    step: StepComparison | None
    judgements: tuple[Judgement, ...]
    profiled: bool
    notes: tuple[str, ...]

    @property
    def slower(self) -> list[Judgement]:
        return [j for j in self.judgements if j.outcome == "slower"]

    @property
    def inconclusive(self) -> bool:
        """Whether the runs cannot tell: there are none to judge, or too few."""
        return not self.judgements or any(j.outcome == "inconclusive" for j in self.judgements)


def compare_paths(
    base: Path,
    head: Path,
    *,
    kind: str | None = None,
    batch_size: int | None = None,
    rank: int | None = None,
    pattern: str | None = None,
    alpha: float = statistics.ALPHA,
    min_effect_pct: float = statistics.MIN_EFFECT_PCT,
) -> Comparison:
    """Compare what two paths stand for: traces, run directories, folders of runs, or files of measurements.

    ``rank`` and ``pattern`` (a glob over paths) choose among the traces of a run. UsageError or UnreadableTraceError
    where there is nothing to compare.
    """
    sides = [runs_of(base), runs_of(head)]
    values, profiled = _values(sides, kind, batch_size, rank, pattern)
    judged = statistics.judge(values, alpha=alpha, min_effect_pct=min_effect_pct, floor=_FLOOR_MS) if values else []
    typical = [_typical(runs, values, index) for index, runs in enumerate(sides)]
    step = None
    notes: list[str] = []
    if all(run.traced for run in typical):
        gravest = statistics.gravest(judged)
        wanted = _mode(gravest.metric) if gravest else "graph"
        traces, notes = _matching(*(_traces(run, rank, pattern) for run in typical), mode=wanted)
        step = compare(*traces, kind=kind, batch_size=batch_size)
    if judged:
        notes += recorded.notes(*([run.recorded for run in runs if run.recorded] for runs in sides))
    if judged and profiled:
        notes.append("The runs were timed under the profiler: it slows the host, and by how much varies.")
    return Comparison(_shown(base), _shown(head), step, tuple(judged), profiled, tuple(notes))


def runs_of(path: Path) -> list[Run]:
    """The runs a path stands for.

    A folder with a manifest is one run; a folder of such folders, or of folders with traces, is a set of runs; a folder of
    traces is the ranks of one run when they say which rank they are, else a set of runs. A JSON file with ``runs_ms`` is a
    set of measured runs. Anything else is a trace.
    """
    if not path.is_dir():
        measured = _measured(path)
        return [Run(path, measured, traced=False)] if measured else [Run(path)]
    if (path / recorded.NAME).is_file() and (own := _manifest(path)) is not None:
        return [own]
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [_manifest(p) or Run(p) for p in inside if _holds_traces(p)]
    if found:
        return found
    files = sorted(p for p in path.iterdir() if p.is_file() and is_trace_name(p))
    if not files:
        raise UnreadableTraceError(
            f"{path}: neither traces nor runs in this folder; give a trace, a run or a folder of runs"
        )
    ranks = [t.rank for t in open_all(files).traces]
    return [Run(path)] if None not in ranks and len(set(ranks)) == len(ranks) else [Run(file) for file in files]


def _holds_traces(folder: Path) -> bool:
    return (folder / recorded.NAME).is_file() or any(p.is_file() and is_trace_name(p) for p in folder.glob("*"))


def _measured(path: Path) -> dict[str, list[float]]:
    """The values of a file of measurements; empty for any other file."""
    try:
        if path.suffix != ".json" or path.stat().st_size > 1_000_000:
            return {}
        found = msgspec.json.decode(path.read_bytes(), type=_Measured)
    except (OSError, msgspec.DecodeError):
        return {}
    if not found.runs_ms or min(found.runs_ms) <= 0:
        raise UsageError(f"{path}: runs_ms must hold a positive number for each run")
    return {found.metric: found.runs_ms}


def _manifest(folder: Path) -> Run | None:
    """A recorded run with its unprofiled latencies; None when the folder is none."""
    found = recorded.read(folder)
    return None if found is None else Run(folder, dict(found.latencies), recorded=found)


def _values(
    sides: Sequence[Sequence[Run]], kind: str | None, batch_size: int | None, rank: int | None, pattern: str | None
) -> tuple[dict[str, tuple[list[float], list[float]]], bool]:
    """Metric → (base runs, head runs), and whether they were timed under the profiler. None for one run a side."""
    names = [set().union(*(run.latencies for run in runs)) for runs in sides]
    values = {name: (_pooled(sides[0], name), _pooled(sides[1], name)) for name in sorted(names[0] & names[1])}
    if values or max(map(len, sides)) < 2 or not all(run.traced for runs in sides for run in runs):
        return values, False
    periods = [[_period_ms(run, kind, batch_size, rank, pattern) for run in runs] for runs in sides]
    return {"step period, profiled": (periods[0], periods[1])}, True


def _pooled(runs: Sequence[Run], name: str) -> list[float]:
    return [value for run in runs for value in run.latencies.get(name, [])]


def _period_ms(run: Run, kind: str | None, batch_size: int | None, rank: int | None, pattern: str | None) -> float:
    """Median step period of a run's trace, the first and the last step left out where there are others."""
    steps = timed_steps(_traces(run, rank, pattern)[0])
    if kind is None and not steps.is_empty():
        kind = steps.group_by("kind").agg(pl.col("period_ns").sum()).sort("period_ns", "kind")["kind"][-1]
    alike = steps.filter(pl.col("kind").eq_missing(pl.lit(kind, pl.String)))
    if batch_size is not None:
        alike = alike.filter(pl.col("batch_size") == batch_size)
    kept = counting(alike)
    if kept.is_empty():
        raise UsageError(f"{run.path}: no {kind or ''} step in its trace to time".replace("  ", " "))
    return float(median(kept["period_ns"].to_list())) / 1e6


def _typical(runs: Sequence[Run], values: dict[str, tuple[list[float], list[float]]], side: int) -> Run:
    """The run whose trace explains the side: the one with the median latency where each run has one."""
    first = next(iter(values.values()), None)
    if first is None or len(first[side]) != len(runs):
        return runs[0]
    order = sorted(range(len(runs)), key=lambda i: first[side][i])
    return runs[order[(len(order) - 1) // 2]]


def _traces(run: Run, rank: int | None, pattern: str | None) -> list[Trace]:
    """The run's traces with a timeline, as ``rank`` and ``pattern`` choose."""
    opened = open_all([run.path])
    found = [t for t in apart(opened.traces) if t.source != "ncu"]
    if pattern is not None:
        found = [t for t in found if fnmatch(str(t.path), f"*{pattern}*")]
    if rank is not None:
        found = [t for t in found if t.rank == rank]
    if not found:
        reason = (
            opened.unreadable[0]
            if opened.unreadable and not opened.traces
            else f"{run.path}: no trace that was asked for"
        )
        raise UnreadableTraceError(reason)
    return found


def _mode(metric: str) -> str | None:
    """The mode a latency was taken in: of ``decode step, graph`` graph."""
    return metric.rpartition(", ")[2] or None


def _matching(base: list[Trace], head: list[Trace], *, mode: str | None) -> tuple[tuple[Trace, Trace], list[str]]:
    """The two traces most alike in source, mode, stage and rank, those of ``mode`` first; a note where there was a choice."""

    def likeness(pair: tuple[Trace, Trace]) -> tuple[bool, ...]:
        modes = [context(trace).mode for trace in pair]
        one, other = pair
        return (
            one.source == other.source, modes[0] == modes[1], modes == [mode, mode],
            one.path.parent.name == other.path.parent.name, one.rank == other.rank,
        )  # fmt: skip

    pairs = [(one, other) for one in base for other in head]
    best = max(pairs, key=likeness)
    if len(pairs) == 1:
        return best, []
    one, other = (
        " · ".join(filter(None, (f"{trace.path.parent.name}/{trace.path.name}", part_label(trace)))) for trace in best
    )
    return best, [f"Several traces on a side: compared {one} with {other}; --rank and --trace choose others."]


def _shown(path: Path) -> str:
    from traceql.report.names import shown

    return shown(path.name or str(path))

"""What ``analyze`` and ``open`` share: reading all that belongs to one analysis, and the arguments that repeat it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceql.errors import UsageError

if TYPE_CHECKING:
    from traceql.config import Configuration
    from traceql.opening import Opened
    from traceql.trace import Trace


@dataclass(frozen=True)
class Inputs:
    """What the command line names: traces or a sample, an eager twin, Nsight Compute reports, and the choice of rules."""

    paths: tuple[Path, ...] = ()
    sample: str | None = None
    eager: Path | None = None
    counters: tuple[Path, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    config: Path | None = None
    lost_graph: bool = False
    """whether a trace without replays is taken as it is where an eager run was given: a gate must say what it is then"""

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments as given, in one order."""
        repeated = {"--ncu": self.counters, "--select": self.select, "--ignore": self.ignore, "--option": self.options}
        single = {"--sample": self.sample, "--eager": self.eager, "--config": self.config}
        return (
            *(str(path) for path in self.paths),
            *(word for flag, value in single.items() if value for word in (flag, str(value))),
            *(word for flag, values in repeated.items() for value in values for word in (flag, str(value))),
        )

    def read(self, configuration: Configuration, *, cache: bool) -> Opened:
        """The traces, equipped as ``configuration`` says, with the eager twin's names and the counters joined in."""
        from traceql import samples
        from traceql.cli import inputs
        from traceql.opening import Opened

        if self.sample and self.paths:
            raise UsageError("give PATH or --sample, not both")
        paths = [samples.path(self.sample)] if self.sample else list(self.paths) or [inputs.newest_run()]
        opened = inputs.read(paths, cache=cache)
        traces = configuration.equipped(opened.traces)
        if self.eager is not None:
            traces = tuple(_aligned(trace, self.eager, lost_graph=self.lost_graph) for trace in traces)
        if self.counters:
            traces = _counted(traces, self.counters)
        return Opened(traces, opened.unreadable)


def _aligned(trace: Trace, eager: Path, *, lost_graph: bool) -> Trace:
    """``trace`` with its replays named by the eager run; says how much of them."""
    from traceql.aligning import align
    from traceql.cli import inputs

    if lost_graph and not trace.capabilities.graph_replays:
        click.echo(f"{trace.path.name}: replays no CUDA graph, {eager.name} names nothing in it", err=True)
        return trace
    (other, *more) = inputs.read([eager]).traces
    if more:
        raise UsageError(f"--eager {eager}: give one trace, this holds {1 + len(more)}")
    alignment = align(trace, other)
    coverage = alignment.coverage
    click.echo(
        f"{trace.path.name}: {coverage.matched_kernels} of {coverage.kernels} replayed-step kernels "
        f"({coverage.time_pct:.0f} % of their time) named by {eager.name}",
        err=True,
    )
    return alignment.trace


def _counted(traces: Iterable[Trace], reports: tuple[Path, ...]) -> tuple[Trace, ...]:
    """``traces`` with the counters of ``reports`` on the timeline that ran most of their kernels; says which."""
    from traceql.cli import inputs
    from traceql.counters import with_counters

    every = tuple(traces)
    counters = inputs.read(list(reports)).traces
    timelines = {index: with_counters(t, *counters) for index, t in enumerate(every) if t.source != "ncu"}
    if not timelines:
        raise UsageError("--ncu needs a timeline to join to: give a PyTorch profiler or Nsight Systems trace as PATH")
    at, chosen = max(timelines.items(), key=lambda each: each[1].table("ncu_matches")["total_ns"].sum())
    click.echo(
        f"{chosen.path.name}: {chosen.table('ncu_matches').height} kernels of the timeline have counters, "
        f"from {chosen.loaded['ncu_kernels'].height} profiled",
        err=True,
    )
    return (*every[:at], chosen, *every[at + 1 :])

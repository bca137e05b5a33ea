"""
## What it does
Measures what launching CUDA graphs costs a step: how long the GPU is idle between the start of the launch call and the
first node, and the host time of the calls, graph by graph. The first replay of a graph is shown apart.

## Why it matters
A launch of some hundred nodes takes tens to hundreds of microseconds on the host, and on an idle GPU nothing runs until
it is nearly over. In a decode step of a few milliseconds that is several percent, once a token.

## How it is measured
*GPU idle*: the part of the gap before a replay's first node that lies inside the launch call (cause *graph launch*) or
after it (*launch latency*). *Host time*: the duration of the calls. Host time counts only where the launching thread has
none to spare: where it waits for the GPU, in the step's period, for less time than the launches take. A call that lasts
while the GPU is busy with earlier work, on a thread that then waits for it, costs nothing. The rule fires when the
larger of the two is over `min-share-pct` of the period in the median step of its kind.

The first replay of a graph uploads it to the device (203 µs against 61-102 µs of the later ones, in a program of 98
nodes): steps that hold the first replay of a graph in the trace are left out and shown apart. Without graph ids (PyTorch
profiler) graphs are told apart by their size and first kernel.

The saving is the step timed again with every graph launched while other work runs. Launch-gap (TQL101) and
graph-segment-boundary (TQL201) count the same gaps: the report's recoverable time counts them once.

`min-share-pct` is 2: where the GPU starts on the first nodes while the call still runs it waits for 0.4 % of the step, in
decodes that wait for the whole call for 4.7-7.2 %, with 25 small graphs a step for 8 % (all profiled).

## Known problems
Profilers slow this very call: recording nodes took the launch of 98 nodes from 29 to 89 µs (Nsight Systems on an H200),
and the PyTorch profiler does the same. The share is an upper bound; compare the unprofiled step time
(profiler-distortion, TQL902).

## How to fix
Launch the next replay before the last one ends (overlap scheduling), so that the launch is hidden. Fewer nodes: fuse
kernels, leave out copies and memsets. Upload before the first use (`cudaGraphUpload`, a warm-up replay).

## References
CUDA programming guide, "CUDA Graphs"; NVIDIA technical blog, "Constant Time Launch for Straight-Line CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.launches import launches
from traceql.derived.replay_costs import replay_costs, waited_in_period
from traceql.derived.step_costs import Median, median_steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, duration, percent


class GraphLaunchCost(Rule):
    code = "TQL204"
    name = "graph-launch-cost"
    summary = "Launching CUDA graphs takes a noticeable part of the step."
    severity = Severity.WARNING
    needs = ("gpu_rows", "host_calls", "steps", "graph_replays")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(
            2.0, "share of the step period the GPU is idle for graph launches, or a busy host spends in them"
        )

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        if trace.capabilities.graph_replays == "opaque":
            raise NotApplicableError("graph replays left no device record; record with --cuda-graph-trace=node")
        costs = replay_costs(trace)
        later = costs.filter(~pl.col("first").any().over("step_id"))
        if later.is_empty():
            raise NotApplicableError("every step holds the first replay of a graph, which may include its upload")
        per_step = (
            later.group_by("step_id")
            .agg(pl.col("host_ns", "idle_ns").sum())
            .join(waited_in_period(trace), on="step_id", how="left")
            .with_columns(
                spent=pl.when(pl.col("waited_ns").fill_null(0) < pl.col("host_ns")).then("host_ns").otherwise(0)
            )
            .with_columns(value=pl.max_horizontal("idle_ns", "spent"))
        )
        for median in median_steps(trace, per_step, given_only=True):
            if median.share_pct > options.min_share_pct:
                step = per_step.row(by_predicate=pl.col("step_id") == median.step_id, named=True)
                yield self._finding(median, step, costs, _hidden(trace))

    def _finding(self, median: Median, step: dict[str, int], costs: pl.DataFrame, fix: Fix) -> Finding:
        own = costs.filter(pl.col("step_id") == median.step_id)
        worst = own.sort(pl.col("idle_ns") * -1, pl.col("host_ns") * -1).row(0, named=True)
        idle, host = step["idle_ns"] / 1000, step["host_ns"] / 1000
        calls, them = (f"{own.height} {worst['name']} calls", "them") if own.height > 1 else (f"{worst['name']}", "it")
        of = f"of {a_step(median.period_ns, median.label)} ({percent(median.share_pct)})"
        waiting = idle >= median.value / 1000
        meanwhile = f"; the GPU is idle for {duration(step['idle_ns'])} of it" if step["idle_ns"] else ""
        return self.finding(
            f"The GPU is idle for {duration(step['idle_ns'])} {of} between the start of {calls} and the first node; the "
            f"host spends {duration(step['host_ns'])} in {them}."
            if waiting
            else f"The host spends {duration(step['host_ns'])} {of} in {calls} and has no time to spare{meanwhile}.",
            key=(median.kind, "idle" if waiting else "host"),
            subject=worst["graph"],
            step_id=median.step_id,
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "gpu_idle_us_per_step": idle,
                "host_us_per_step": host,
                "host_waits_for_gpu_us_per_step": (step["waited_ns"] or 0) / 1000,
                "share_of_period_pct": median.share_pct,
                "graph_launches_per_step": own.height,
                "steps": median.steps,
                "graphs": _by_graph(costs),
            },
            advice=[
                "Launch the next replay before the last one has ended: then the GPU does not wait for the call.",
                "Fewer nodes make a cheaper launch: fuse small kernels, leave copies and fills out of the graph.",
            ],
        )


def _hidden(trace: Trace) -> Fix:
    """With every graph launched while other work runs: neither the call nor the way to its first node holds the GPU up."""
    calls = launches(trace).filter((pl.col("kind") == "graph") & (pl.col("gpu_ops") > 0))
    timed = calls.with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))
    return Fix.host_time(timed) | Fix.launch_latency(timed.with_columns(start_ns="end_ns", end_ns="gpu_start_ns"))


def _by_graph(costs: pl.DataFrame) -> list[dict[str, object]]:
    """Median cost of each graph's later replays beside its first in the trace."""
    later = ~pl.col("first")
    table = (
        costs.group_by("graph")
        .agg(
            pl.len().cast(pl.Int64).alias("replays"),
            (pl.col("host_ns").filter(later).median() / 1000).alias("median_host_us"),
            (pl.col("idle_ns").filter(later).median() / 1000).alias("median_gpu_idle_us"),
            (pl.col("delay_ns").filter(later).median() / 1000).alias("median_delay_after_call_us"),
            (pl.col("host_ns").filter("first").first() / 1000).alias("first_replay_host_us"),
        )
        .sort(pl.col("replays") * -1, "graph")
    )
    return list(table.head(8).rows(named=True))

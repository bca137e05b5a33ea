"""
## What it does
Finds decode steps that are launched kernel by kernel instead of replayed from a CUDA graph: all of them, or those of
batch sizes that no graph was captured for.

## Why it matters
A decode step is hundreds of kernels of a few microseconds. One graph launch replaces hundreds of launch calls and the
framework code between them. A server that had captured graphs up to batch size 32 took 31 ms for a step of 48
requests, against 6 ms for one of 24 (both profiled).

## How it is measured
A decode step (also the draft and verify steps of speculative decoding) is *uncaptured* when it has no graph launch and
at least `min-launches-count` kernel launch calls. The rule fires when the uncaptured steps take at least
`min-share-pct` of the time of all steps of their kind, and the GPU is idle for at least `min-idle-pct` of the period of
the median one: a step that keeps the GPU busy loses nothing to its launches. The cost shown is GPU idle time a step,
uncaptured less replayed, median against median: batch sizes may differ, and GPU time with them, idle time hardly.

`min-idle-pct` is 10: decode steps of an 8B-parameter model launched kernel by kernel left an H200 idle for 81-87 % of
the period, and for 16 % where one rank's collectives waited for the other; a driver program that launches 98 kernels a
step from C, 14 %. `min-launches-count` is 20: a step around one graph still had 7 or 8 launches of its own.
`min-share-pct` is 5: one odd batch in twenty is not worth a graph.

The saving is the step timed again with one graph launch in place of its launch calls and of what the host does between
the first and the last of them. Much of that is launch-gap's (TQL101) too: the report says how much, and its recoverable
time counts it once. What launching a graph costs an eager trace does not hold: the step that was left lay 12-17 % under
the one recorded with the graph (H200, batch 64, 8.5 ms), and 14 % under it without the profiler. Of a rank that waits for
others in collectives the waiting stays in: graphs on all ranks save more.

## Known problems
The profiler slows the host more than the GPU, so the idle time is larger than in production (profiler-distortion,
TQL902). Steps whose tokens are unknown have no kind and are not looked at. One captured segment makes a step captured:
what a piecewise graph leaves outside is graph-segment-boundary's (TQL201).

## How to fix
Capture the batch sizes that are served. SGLang: `--cuda-graph-max-bs` or `--cuda-graph-bs`, and no
`--disable-cuda-graph`; vLLM: `cudagraph_capture_sizes` in the compilation config, and no `--enforce-eager`. Each graph
costs memory; pad the batch to the next captured size in between.

## References
CUDA programming guide, "CUDA Graphs"; SGLang server arguments; vLLM documentation, "CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.launches import launches
from traceql.derived.overhead_chain import step_chain
from traceql.derived.step_costs import Median, median_steps
from traceql.derived.steps import steps
from traceql.derived.typical_steps import counting, middle, timed_steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration

_KINDS = ["decode", "verify", "draft"]
_WORTH_TELLING_PCT = 5
"""Share of the period that waiting for other ranks must have to be spoken of."""


class UncapturedDecode(Rule):
    code = "TQL202"
    name = "uncaptured-decode"
    summary = "Decode steps are launched kernel by kernel instead of replayed from a CUDA graph."
    severity = Severity.WARNING
    needs = ("gpu_rows", "host_calls", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(5.0, "share of the time of all steps of the kind that uncaptured steps must take")
        min_idle_pct: float = option(10.0, "share of the period the GPU is idle in the median uncaptured step")
        min_launches_count: float = option(20, "kernel launch calls that a step without a graph launch must have")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        decode = timed_steps(trace).filter(pl.col("kind").is_in(_KINDS))
        if decode.is_empty():
            unknown = steps(trace)["kind"].null_count() == steps(trace).height
            raise NotApplicableError(
                "which steps decode is not known: neither marks nor shapes tell their tokens"
                if unknown
                else "no decode step in the trace"
            )
        eager = (pl.col("graph_launches") == 0) & (pl.col("launch_calls") >= options.min_launches_count)
        told = decode.with_columns(eager=eager)
        time = told.group_by("kind").agg(
            share=100 * pl.col("period_ns").filter("eager").sum() / pl.col("period_ns").sum()
        )
        shares = dict(time.select("kind", "share").rows())
        idle = told.filter("eager").select("step_id", value="gpu_idle_ns")
        for median in median_steps(trace, idle, given_only=True):
            if shares[median.kind] >= options.min_share_pct and median.share_pct >= options.min_idle_pct:
                own = told.filter(pl.col("kind") == median.kind)
                yield self._finding(trace, median, own)

    def _finding(self, trace: Trace, median: Median, told: pl.DataFrame) -> Finding:
        eager = told.filter("eager")
        replayed = told.filter(pl.col("graph_launches") > 0)
        step = eager.row(by_predicate=pl.col("step_id") == median.step_id, named=True)
        usual = replayed["gpu_idle_ns"].median()
        idle_us = median.value / 1000
        waiting = _waiting_ns(trace, median.step_id)
        replayed_us = usual / 1000 if isinstance(usual, (int, float)) else None
        sizes, graphs = (_sizes(frame) for frame in (eager, replayed))
        message = (
            f"{_steps(eager.height, told.height, median.kind, sizes)} launched kernel by kernel, "
            f"{counted(step['launch_calls'], 'launch', 'launches')} each: the GPU is idle for "
            f"{duration(median.value)} of {duration(median.period_ns if median.value <= median.period_ns else median.whole_ns)}"
        )
        message += (
            f"; steps replayed from a graph{f' (batch size {graphs})' if graphs else ''} leave it idle for "
            f"{duration(1000 * replayed_us)}."
            if replayed_us is not None
            else "."
        )
        return self.finding(
            message,
            key=(median.kind,),
            subject=f"{median.kind} steps of batch size {sizes}" if sizes else f"{median.kind} steps",
            step_id=median.step_id,
            start_ns=step["start_ns"],
            end_ns=step["start_ns"] + step["period_ns"],
            fix=_captured(trace, eager),
            certainty="modelled",
            evidence={
                "uncaptured_steps": eager.height,
                "replayed_steps": replayed.height,
                "steps": told.height,
                "launches_per_step": step["launch_calls"],
                "gpu_idle_us_per_step": idle_us,
                "replayed_gpu_idle_us_per_step": replayed_us,
                "extra_idle_us_per_step": None if replayed_us is None else idle_us - replayed_us,
                "idle_share_of_period_pct": median.share_pct,
                **({"waiting_for_ranks_us_per_step": waiting / 1000} if waiting else {}),
                "by_batch_size": _by_batch_size(told),
            },
            advice=[_fix(eager, replayed), *_beyond(waiting, median)],
        )


def _waiting_ns(trace: Trace, step_id: int) -> int:
    """What of the device's work may be waiting for other ranks in collectives."""
    step = step_chain(trace).filter(pl.col("step_id") == step_id)
    return int((step["gpu_busy_ns"] - step["gpu_work_ns"]).sum())


def _beyond(waiting: int, median: Median) -> list[str]:
    """What the saving leaves in because it is that of one rank alone."""
    if 100 * waiting < _WORTH_TELLING_PCT * median.period_ns:
        return []
    return [
        f"The saving is this rank's alone: with graphs on every rank most of the {duration(waiting)} that the step waits "
        "for others goes too."
    ]


def _captured(trace: Trace, eager: pl.DataFrame) -> Fix:
    """With one graph launch in place of a step's launch calls: the host does nothing else between the first and the last of
    them. The graph's launch takes what graph launches of this trace take; in a trace without any, no time."""
    calls = launches(trace).with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"))
    graph_ns = (
        calls.filter(pl.col("kind") == "graph").select(pl.col("dur_ns").median().fill_null(0).cast(pl.Int64)).item()
    )
    own = calls.join(eager.select("step_id"), on="step_id", how="semi").filter(pl.col("gpu_ops") > 0)
    between = own.group_by("step_id", "pid", "tid").agg(pl.col("start_ns").min(), pl.col("end_ns").max())
    after_launch = between.with_columns(pl.col("start_ns") + graph_ns)
    return Fix.host_time(after_launch.filter(pl.col("end_ns") > pl.col("start_ns"))) | Fix.launch_latency(
        own.with_columns(start_ns="end_ns", end_ns="gpu_start_ns")
    )


def _steps(some: int, all_: int, kind: str | None, sizes: str) -> str:
    """So many of the steps, with the verb."""
    of_size = f" (batch size {sizes})" if sizes else ""
    if all_ == 1:
        return f"The {kind} step{of_size} is"
    which = f"All {all_}" if some == all_ else f"{some} of {all_}"
    return f"{which} {kind} steps{of_size} {'is' if some == 1 else 'are'}"


def _fix(eager: pl.DataFrame, replayed: pl.DataFrame) -> str:
    """What to do: turn graphs on, or capture the sizes that lack one."""
    sized = eager["batch_size"].drop_nulls().to_list()
    if replayed.is_empty():
        return "Turn CUDA graphs on for decode (SGLang: no --disable-cuda-graph; vLLM: no --enforce-eager)."
    sizes = _sizes(eager)
    return (
        f"Capture a graph for {f'batch size {sizes}' if sizes else 'these batch sizes'} too (SGLang: --cuda-graph-max-bs"
        f"{f' {max(sized)}' if sized else ''}, or --cuda-graph-bs with the sizes; vLLM: cudagraph_capture_sizes in "
        "--compilation-config), or keep the batch at a captured size."
    )


def _sizes(steps_: pl.DataFrame) -> str:
    """The batch sizes of these steps, at most five of them."""
    sizes = steps_["batch_size"].drop_nulls().unique().sort().to_list()
    return ", ".join(map(str, sizes[:5])) + (" …" if len(sizes) > 5 else "")


def _by_batch_size(told: pl.DataFrame) -> list[dict[str, object]]:
    """For each batch size and way of launching the step with the median period: its own figures, which belong together."""
    launched = pl.when("eager").then(pl.lit("kernel by kernel")).otherwise(pl.lit("graph"))
    alike = told.with_columns(launched=launched).partition_by("batch_size", "launched", maintain_order=True)
    rows = [
        {
            "batch_size": (step := middle(counting(own), "period_ns"))["batch_size"],
            "launched": step["launched"],
            "steps": own.height,
            **{f"median_{c}_us": _us(step[f"{c}_ns"]) for c in ("period", "gpu_busy", "gpu_idle")},
            "launches_per_step": step["launch_calls"],
            "graph_launches_per_step": step["graph_launches"],
        }
        for own in alike
    ]
    return sorted(rows, key=lambda row: (row["batch_size"] or 0, str(row["launched"])))[:12]


def _us(ns: int | None) -> float | None:
    return None if ns is None else ns / 1000

"""
## What it does
Measures how long the GPU is idle between the last work of one step and the first of the next, and says what the
host did in that time: sampling, scheduling, output processing, plan and metadata.

## Why it matters
Every token pays the bubble. It does not shrink with a CUDA graph or a faster kernel, and it grows with the batch
where the scheduler loops over requests in Python.

## How it is measured
All device idle time after the last GPU work launched in one step and before the first launched in the next, work
that runs between the two (sampling kernels) left out. Replays without a device record are not idle. It is compared
with the period that holds it, from the start of the step before to the start of the step that waits, in the median
step of its kind. Host time is split by what the launching thread was inside of; names that tell the kind of work
are those of SGLang, vLLM and FlashInfer.

`min-share-pct` is 5: of three SGLang H200 captures an eager decode has 3 % (the forward pass itself is the
problem), a server whose eager steps leave nothing to overlap 6 %, a graph decode 10 %.

The estimate is the part that the host caused. Waits that began inside a step belong to synchronizing-call (TQL104),
idle time within steps to launch-gap (TQL101).

## Known problems
The profiler lengthens the bubble, which is Python. A benchmark that synchronises after every step (bench_one_batch)
has a bubble that a server with overlap scheduling hides.

## How to fix
Overlap scheduling (prepare step N+1 while step N runs), sampling on the GPU, index and page-table arrays built on
the GPU, persistent batch state instead of rebuilding it per step.

## References
SGLang's overlap scheduler and vLLM's asynchronous scheduling in their documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.fixes import closing
from traceql.derived.gap_host import UNCOVERED
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.gaps import gaps
from traceql.derived.step_bubbles import OTHER, WAITING, bubble_steps, bubble_work
from traceql.derived.step_costs import Median, median_steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, duration, percent


class StepBubble(Rule):
    code = "TQL103"
    name = "step-bubble"
    summary = "The GPU is idle between one step and the next."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(5.0, "share of the step period that the idle time between steps must exceed")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        bubbles = bubble_steps(trace)
        if bubbles.is_empty():
            raise NotApplicableError("no two steps follow each other on the GPU")
        for median in median_steps(trace, bubbles.rename({"idle_ns": "value"}), given_only=True):
            if median.share_pct > options.min_share_pct:
                yield self._finding(trace, median)

    def _finding(self, trace: Trace, median: Median) -> Finding:
        detail = bubble_work(trace, median.step_id)
        work = detail.group_by("work").agg(pl.col("ns").sum()).sort(pl.col("ns") * -1, "work")
        top = detail.row(0, named=True)
        place = owned_gap_parts(trace).filter(
            (pl.col("step_id") == median.step_id) & (pl.col("place") == "between steps")
        )
        around = gaps(trace).filter(pl.col("gap_id").is_in(place["gap_id"].implode()))
        most = "" if top["activity"] == UNCOVERED else f"; most in {top['activity']}"
        doing = ", ".join(f"{duration(ns)} {_DOING.get(name, name)}" for name, ns in work.head(4).rows())
        return self.finding(
            f"The GPU is idle between steps for {duration(median.value)} of {a_step(median.period_ns, median.label)} "
            f"({percent(median.share_pct)}); the host meanwhile: {doing}{most}.",
            key=(median.kind,),
            subject=str(top["activity"]),
            step_id=median.step_id,
            start_ns=around["start_ns"].min(),  # type: ignore[arg-type]
            end_ns=around["end_ns"].max(),  # type: ignore[arg-type]
            fix=closing(trace, pl.col("owner") == "between steps"),
            certainty="modelled",
            evidence={
                "bubble_us_per_step": median.value / 1000,
                "share_of_period_pct": median.share_pct,
                "step_period_us": median.period_ns / 1000,
                "bubbles": median.steps,
                "range_us_per_step": [median.low / 1000, median.high / 1000],
                "gaps_in_bubble": around.height,
                "by_work": [{"work": name, "us": ns / 1000} for name, ns in work.rows()],
                "by_activity": [
                    {"work": name, "activity": activity, "us": ns / 1000}
                    for name, activity, ns in detail.head(8).rows()
                ],
            },
            advice=_advice(work["work"].to_list()),
        )


_DOING = {"sampling": "in sampling", "scheduling": "in scheduling", UNCOVERED: f"with {UNCOVERED}"}
"""Kinds of work as messages name them, where they differ."""

_FOR = {
    "scheduling": "Prepare the next batch while the GPU runs this one (SGLang: no --disable-overlap-schedule; vLLM: "
    "--async-scheduling).",
    "plan and metadata": "Build attention metadata on the GPU, or plan the next step before this one ends.",
    "sampling": "Sample on the GPU without reading logits or tokens back, and fuse the sampler's kernels.",
    "output processing": "Move detokenising and output handling to another process or behind the next launch.",
    WAITING: "Launch the next step before waiting for this one's result.",
    UNCOVERED: "Record Python stacks or ranges to see what the host does there.",
    OTHER: "Let the other host work wait: launch the next step first.",
}


def _advice(work: list[str]) -> list[str]:
    return [_FOR[kind] for kind in work if kind in _FOR][:3]

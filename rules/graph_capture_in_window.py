"""
## What it does
Finds CUDA graphs being captured or instantiated while the measured steps run, and the steps that pay for it.

## Why it matters
Capturing runs the whole model once on the host without doing any work on the GPU, and instantiating turns the result
into something that can be launched: tens to hundreds of milliseconds for a model. Done at start-up it costs nothing;
done when a batch size is met for the first time, a request waits for it.

## How it is measured
A capture lasts from the start of cudaStreamBeginCapture to the end of the next cudaStreamEndCapture on that thread, an
instantiation is the call of that name (runtime and driver, CUDA and HIP). Those count that begin between the start of
the first step and the end of the last one's period, in the step whose period holds the start. Time that a capture and an
instantiation share counts once. The rule fires when one step's period has `min-capture-us` or more of it. Launching,
uploading or updating an existing graph is not capturing.

`min-capture-us` is 100: capturing and instantiating 98 kernels took 2.2 ms, graphs of two to six nodes 20-80 µs each.

No saving is estimated: the time is part of what step-outlier (TQL108) or launch-gap (TQL101) counts.

## Known problems
What the framework does around a capture (warm-up runs, garbage collection, synchronising) is not counted.

## How to fix
Capture every batch size that will be served before serving (SGLang: `--cuda-graph-bs`; vLLM: `cudagraph_capture_sizes`),
pad odd sizes to a captured one, and begin measuring after the warm-up. If the same graph is captured again, find what
invalidates it: new addresses of inputs, changed shapes.

## References
CUDA programming guide, "Creating a Graph Using Stream Capture"; CUDA runtime API, cudaGraphInstantiate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived import intervals
from traceql.derived.graph_capture import graph_captures
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration


class GraphCaptureInWindow(Rule):
    code = "TQL205"
    name = "graph-capture-in-window"
    summary = "CUDA graphs are captured or instantiated while the measured steps run."
    severity = Severity.WARNING
    needs = ("host_calls", "steps")

    @dataclass(frozen=True)
    class Options:
        min_capture_us: float = option(100.0, "capture and instantiation time that began in one step's period")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        found = graph_captures(trace)
        per_step = (
            intervals.union_ns(found.filter(pl.col("dur_ns") > 0), ["step_id"])
            .filter(pl.col("union_ns") >= options.min_capture_us * 1000)
            .join(steps(trace), on="step_id")
            .sort(pl.col("union_ns") * -1, "step_id")
        )
        if not per_step.is_empty():
            yield self._finding(trace, found.filter(pl.col("step_id").is_in(per_step["step_id"].implode())), per_step)

    def _finding(self, trace: Trace, found: pl.DataFrame, per_step: pl.DataFrame) -> Finding:
        worst = per_step.row(0, named=True)
        total = int(per_step["union_ns"].sum())
        captures, instantiations = (found.filter(pl.col("what") == w).height for w in ("capture", "instantiate"))
        longest = found.filter(pl.col("step_id") == worst["step_id"]).sort(pl.col("dur_ns") * -1).row(0, named=True)
        count = steps(trace).height
        label = worst["name"] or f"step {worst['step_id']}"
        times = pl.len().cast(pl.Int64)
        what = pl.col("what")
        by_step = found.group_by("step_id").agg(
            times.alias("calls"),
            captures=(what == "capture").sum().cast(pl.Int64),
            instantiations=(what == "instantiate").sum().cast(pl.Int64),
        )
        return self.finding(
            f"CUDA graphs are captured ({captures}×) or instantiated ({instantiations}×) in {per_step.height} of "
            f"{counted(count, 'step')}, for {duration(total)}; the longest in {label}, "
            f"{duration(worst['union_ns'])}.",
            key=(worst["kind"], worst["batch_size"]),
            subject=label,
            step_id=worst["step_id"],
            start_ns=longest["start_ns"],
            end_ns=longest["end_ns"],
            evidence={
                "capture_ms": total / 1e6,
                "captures": captures,
                "instantiations": instantiations,
                "steps_affected": per_step.height,
                "steps": count,
                "by_step": [
                    {
                        "step_id": row["step_id"], "step": row["name"], "batch_size": row["batch_size"],
                        "captures": row["captures"], "instantiations": row["instantiations"],
                        "capture_us": row["union_ns"] / 1000, "step_period_us": row["period_ns"] / 1000,
                    }
                    for row in per_step.head(8)
                    .join(by_step, on="step_id", how="left", maintain_order="left")
                    .rows(named=True)
                ],
            },
            advice=[
                "Capture every batch size that will be served at start-up, and pad others to a captured size.",
                "Begin measuring after the warm-up; if the same graph is captured again, find the input that changed.",
            ],
        )  # fmt: skip

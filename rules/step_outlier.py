"""
## What it does
Finds steps that took much longer than the others of their kind and batch size, and says what the extra time was:
GPU work, or idle time by cause with the op or frame to blame, and whether code was compiled or loaded or memory
allocated meanwhile.

## Why it matters
One slow step is a stall that users see, and it spoils the averages that other findings rest on.

## How it is measured
A step lasts from the end of the GPU work of the step before it to the end of its own (from host start to host start
where GPU work is not recorded). It is an outlier above `min-length-ratio` times the median of the steps of its kind
and batch size; with fewer than three such steps, of its kind, unless it computes over 1.5 times the median's
tokens. Steps of unknown kind are compared with those that have as many GPU rows. The extra time is the difference
to the median of each cause over the steps of the kind.

`min-length-ratio` is 1.5: sixteen decode steps of one server at one batch size, eager and so noisy, took 0.66 to
1.19 of their median but for the first, at 1.55, in which the kernels of that batch size ran for the first time.

The estimate is the extra time over all steps of the kind. It belongs to single steps; other rules report the median
step.

## Known problems
The first step of a capture has none before it and is not judged. Two or three steps do not make a baseline: short
captures pass. What the host does where nothing is recorded (a hole) can only be inferred from what surrounds it.

## How to fix
Warm up what the extra time names: compile and load before serving, allocate at start-up, keep garbage collection
and logging out of the loop. A hole without host activity on a busy machine: look at CPU contention (`perf sched`,
OS runtime trace).

## References
Nsight Systems user guide, "OS runtime libraries trace" and "CPU thread states", for holes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.compilation import compilations, loadings
from traceql.derived.gap_host import UNCOVERED
from traceql.derived.host_calls import allocations
from traceql.derived.step_lengths import extra_time, step_lengths
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import duration


class StepOutlier(Rule):
    code = "TQL108"
    name = "step-outlier"
    summary = "A step takes much longer than the others like it."
    severity = Severity.WARNING
    needs = ("gpu_rows", "steps")

    @dataclass(frozen=True)
    class Options:
        min_length_ratio: float = option(1.5, "length of the step over the median of its kind and batch size")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        lengths = step_lengths(trace)
        if lengths["baseline_ns"].count() == 0:
            raise NotApplicableError("fewer than three steps of one kind to compare")
        ratio = pl.col("length_ns") / pl.col("baseline_ns")
        outliers = lengths.with_columns(ratio=ratio).filter(pl.col("ratio") > options.min_length_ratio)
        for _, group in outliers.group_by("kind", "batch_size", maintain_order=True):
            yield self._finding(trace, group.sort("ratio", descending=True), lengths)

    def _finding(self, trace: Trace, outliers: pl.DataFrame, lengths: pl.DataFrame) -> Finding:
        worst = outliers.row(0, named=True)
        label = worst["name"] or (f"{worst['kind']} step" if worst["kind"] else "step")
        same = lengths.filter(pl.col("kind").eq_missing(pl.lit(worst["kind"], pl.String))).height
        extra = int(outliers.select((pl.col("length_ns") - pl.col("baseline_ns")).sum()).item())
        details = extra_time(trace, worst)
        events = _events(trace, worst)
        others = f" ({outliers.height - 1} more like it)" if outliers.height > 1 else ""
        meanwhile = "".join(f"; meanwhile {e['event']} ({e['count']}×)" for e in events[:1])
        return self.finding(
            f"Step {worst['step_id']} ({label}) took {duration(worst['length_ns'])}, {worst['ratio']:.1f}× the usual "
            f"{duration(worst['baseline_ns'])}{others}: {_phrase(details)}{meanwhile}.",
            key=(worst["kind"], worst["batch_size"], details["what"][0], details["blame"][0]),
            subject=label,
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            savings_us_per_step=extra / same / 1000,
            certainty="modelled",
            evidence={
                "length_us": worst["length_ns"] / 1000,
                "usual_length_us": worst["baseline_ns"] / 1000,
                "length_ratio": worst["ratio"],
                "extra_us": (worst["length_ns"] - worst["baseline_ns"]) / 1000,
                "outliers": outliers.height,
                "steps_compared": worst["alike"],
                "extra_time": [
                    {
                        "what": row["what"], "blame": row["blame"], "before": row["after"], "us": row["ns"] / 1000,
                        "extra_us": row["extra_ns"] / 1000,
                    }
                    for row in details.head(6).rows(named=True)
                ],
                "events": events,
                "outlier_steps": [
                    {
                        "step_id": row["step_id"], "step": row["name"], "length_us": row["length_ns"] / 1000,
                        "ratio": row["ratio"],
                    }
                    for row in outliers.head(8).rows(named=True)
                ],
            },
            advice=_advice(events, details),
        )  # fmt: skip


_SPENT = {
    "GPU idle: host": "waiting for the host",
    "GPU idle: launch": "waiting for launch calls",
    "GPU idle: graph launch": "waiting for the graph launch",
    "GPU idle: launch latency": "between launch calls and kernels",
    "GPU idle: blocked": "with the host waiting in turn",
    "GPU idle: profiler": "while the profiler worked",
}


def _phrase(details: pl.DataFrame) -> str:
    """The largest part of the extra time in words."""
    top = details.row(0, named=True)
    more = f"{duration(top['extra_ns'])} more"
    if top["what"] == "GPU busy":
        return f"{more} GPU work"
    spent = _SPENT.get(top["what"], top["what"].removeprefix("GPU idle: "))
    where = f"with {UNCOVERED}" if top["blame"] == UNCOVERED else f"under {top['blame']}"
    return f"{more} GPU idle time {spent}, {where}, longest before {top['after']}"


def _events(trace: Trace, step: dict[str, Any]) -> list[dict[str, Any]]:
    """Compiling, loading and allocating while the step lasted."""
    found = pl.concat(
        [
            compilations(trace).select("start_ns", "dur_ns", event=pl.col("what") + ": " + pl.col("name")),
            loadings(trace).select("start_ns", "dur_ns", event="kind"),
            allocations(trace).select("start_ns", "dur_ns", event="name"),
        ]
    )
    within = found.filter(pl.col("start_ns").is_between(step["start_ns"], step["end_ns"]))
    counted = within.group_by("event").agg(count=pl.len(), us=pl.col("dur_ns").sum() / 1000)
    return list(counted.sort(pl.col("us") * -1, "event").head(6).rows(named=True))


def _advice(events: list[dict[str, Any]], details: pl.DataFrame) -> list[str]:
    advice = []
    if events:
        advice.append("Warm up this batch size before serving: code was loaded or memory allocated in the step.")
    if details["what"][0] == "GPU busy":
        advice.append("The GPU worked longer: compare its kernels with those of a usual step.")
    elif details["blame"][0] == UNCOVERED:
        advice.append("Record OS runtime and thread states, or Python stacks, to see what the host did in the hole.")
    else:
        advice.append("The host was late: see what it did under the op or frame named.")
    return advice

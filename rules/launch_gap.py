"""
## What it does
Adds up the gaps in which the GPU had nothing to run because the host had not launched the next work yet, in the
median step of each kind, and names the op, range or Python frame that the launching thread was in.

## Why it matters
A decode step is hundreds of kernels of a few microseconds. When each launch costs the host more than the kernel
costs the GPU, the step runs at the speed of Python. The gaps are the part of the step that a CUDA graph, a fused op
or a faster scheduler gets back.

## How it is measured
A gap is time in which no kernel, copy, fill or graph replay runs on the device, over all streams. Each gap of at
least `min-gap-us` is cut by what the thread that launched the *next* GPU work was doing: *host* (it had not reached
the launch: op dispatch, Python), *launch* or *graph launch* (inside the launch call), *launch latency* (the call
had returned, nothing was queued). Time in profiler overhead, in synchronising calls and between nodes of one replay
is not counted here, nor are gaps before work that was already queued (device latency). The sum is compared with the
step's period, start to next start. The step shown is the typical one of its kind (docs/definitions.md). What passes
before the first GPU work of the first step is start-up and in no gap: where only such steps can be judged, the rule
abstains.

The estimate leaves out what other rules count: gaps between steps (step-bubble, TQL103), at graph boundaries
(graph-segment-boundary, TQL201), under blocking copies (TQL105) and allocations (TQL701) made in the step.

`min-gap-us` is 5: the drain between queued kernels took 1.5-3 µs in the captures, and in an eager decode the gaps over 5 µs
hold 89.36 of 89.39 ms of idle time. `min-share-pct` is 5: a prefill of 32,768 tokens loses 0.5 % of its step this way, a C
program that launches 98 kernels a step 6 %, decode replayed from one graph 19-29 % (profiled), eager decode 38-87 %.

## Known problems
A profiler slows the host more than the GPU: with Python stacks an eager decode step of 13 ms took 32-36 ms. The
gaps are then larger than in production; their order and their causes are not. Compare with the unprofiled step
time.

## How to fix
Capture the step in a CUDA graph. Where that is not possible: fuse small ops (torch.compile, custom kernels), move
work that does not depend on the step out of it, drop hooks and per-layer Python.

## References
CUDA programming guide, "CUDA Graphs"; the causes are defined in docs/definitions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.fixes import closing
from traceql.derived.gap_host import UNCOVERED
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.gaps import gaps as every_gap
from traceql.derived.step_costs import HOST_CAUSES, Median, median_steps
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, counted, duration, part_of, percent

_REPLAYED = {
    "host": "The step replays a graph; what is late is the work around it. Prepare the next step while the replay runs "
    "(SGLang: no --disable-overlap-schedule; vLLM: --async-scheduling), or capture the kernels outside the graph too.",
    "launch": "Launch calls outside the graph are the delay: capture those kernels and copies too, or fuse them.",
    "launch latency": "The launch had returned and the GPU was still idle: nothing was queued ahead of it.",
    "graph launch": "The graph launch itself is the delay: launch the next replay before the last one ends, and give "
    "the graph fewer nodes (graph-launch-cost, TQL204).",
}
_BETWEEN = "For the work between graph segments see graph-segment-boundary (TQL201)."
_EAGER = {
    "launch": "Launch calls are the delay: fewer, larger kernels (fusion), or one graph launch in their place.",
    "launch latency": "The launch had returned and the GPU was still idle: launches come one at a time, with nothing "
    "queued ahead.",
    "graph launch": _REPLAYED["graph launch"],
}
_CAPTURE = {
    "decode": "Replay the step from a CUDA graph, so that the host reaches one launch and not hundreds (SGLang: no "
    "--disable-cuda-graph, and --cuda-graph-max-bs at this batch size or over; vLLM: no --enforce-eager).",
    "prefill": "Replay the prefill from piecewise CUDA graphs (SGLang: no --disable-piecewise-cuda-graph, and "
    "--piecewise-cuda-graph-max-tokens at this size or over; vLLM: no --enforce-eager), or prefill more tokens at once.",
}
"""What to do when the host has not reached the launch, for steps without graphs; by kind."""

_CAPTURE_ANY = "Capture the step in a CUDA graph, so that the host reaches one launch and not hundreds."
_LESS_HOST_WORK = "Or cut the Python and operator dispatch that the table by blame names."


class LaunchGap(Rule):
    code = "TQL101"
    name = "launch-gap"
    summary = "The GPU waits in a step because the host launches its work too late."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_gap_us: float = option(5.0, "shorter gaps are drain between queued kernels and are not counted")
        min_share_pct: float = option(5.0, "share of the step period the counted gaps must exceed")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        enough = (pl.col("gap_ns") >= options.min_gap_us * 1000) & pl.col("cause").is_in(HOST_CAUSES)
        parts = owned_gap_parts(trace).lazy().filter(enough)  # a trace has a million of them: only what is asked for
        per_step = parts.group_by("step_id").agg(value=pl.col("dur_ns").sum()).collect()
        medians = median_steps(trace, per_step)
        late = [median for median in medians if median.share_pct > options.min_share_pct]
        own = closing(trace, enough & (pl.col("owner") == "host late")) if late else Fix.union([])
        for median in late:
            yield self._finding(trace, median, parts.filter(pl.col("step_id") == median.step_id).collect(), own)
        if not late and medians and all(_starts_up(trace, m, options.min_share_pct) for m in medians):
            raise NotApplicableError(
                "the only steps to judge begin with start-up, which is in no gap; record more steps"
            )

    def _finding(self, trace: Trace, median: Median, parts: pl.DataFrame, fix: Fix) -> Finding:
        causes = (
            parts.group_by("cause")
            .agg(gaps=pl.col("gap_id").n_unique(), total=pl.col("dur_ns").sum())
            .sort(pl.col("total") * -1, "cause")
        )
        blames = (
            parts.group_by("cause", "blame")
            .agg(gaps=pl.col("gap_id").n_unique(), total=pl.col("dur_ns").sum())
            .sort(pl.col("total") * -1, "cause", "blame")
        )
        gaps = parts.unique("gap_id").sort(pl.col("gap_ns") * -1, "gap_id")
        worst = gaps.head(3)
        around = every_gap(trace).select("before", "after")[worst["gap_id"]]
        top = causes.row(0, named=True)
        culprit = blames.filter(pl.col("cause") == top["cause"]).row(0, named=True)
        us = median.value / 1000
        next_cause = f"; {_part(causes.row(1, named=True))}" if causes.height > 1 else ""
        return self.finding(
            f"The GPU waits {duration(median.value)} of {a_step(median.period_ns, median.label)} for the host "
            f"({percent(median.share_pct)}, {counted(gaps.height, 'gap')}): {_part(top)}, "
            f"{part_of(culprit['total'], top['total'])} {_under(culprit['blame'])}{next_cause}.",
            key=(median.kind,),
            subject=culprit["blame"],
            step_id=median.step_id,
            start_ns=worst["gap_start_ns"][0],
            end_ns=worst["gap_start_ns"][0] + worst["gap_ns"][0],
            fix=fix,
            certainty="modelled",
            evidence={
                "launch_gap_us_per_step": us,
                "share_of_period_pct": median.share_pct,
                "step_period_us": median.period_ns / 1000,
                "steps": median.steps,
                "range_us_per_step": [median.low / 1000, median.high / 1000],
                "by_cause": [{"cause": c, "gaps": n, "us_per_step": t / 1000} for c, n, t in causes.rows()],
                "by_blame": [
                    {"cause": c, "blame": b, "gaps": n, "us_per_step": t / 1000} for c, b, n, t in blames.head(5).rows()
                ],
                "worst_gaps": [
                    {
                        "start_ns": r["gap_start_ns"],
                        "gap_us": r["gap_ns"] / 1000,
                        "before": r["before"],
                        "after": r["after"],
                    }
                    for r in pl.concat([worst, around], how="horizontal").rows(named=True)
                ],
            },
            advice=_advice(trace, median, causes["cause"].head(2).to_list()),
        )


def _starts_up(trace: Trace, median: Median, min_share_pct: float) -> bool:
    """Whether more of the step than a finding needs passes before the first GPU work of the first step."""
    lead_in: int | None = steps(trace).row(by_predicate=pl.col("step_id") == median.step_id, named=True)["lead_in_ns"]
    return 100 * (lead_in or 0) > min_share_pct * median.whole_ns


def _under(blame: str) -> str:
    return f"with {UNCOVERED}" if blame == UNCOVERED else f"under {blame}"


def _part(cause: dict[str, Any]) -> str:
    """Time and place of one cause in words."""
    where = {
        "host": "before the launch is reached", "launch": "inside launch calls",
        "launch latency": "between a launch call's return and the start of its work",
        "graph launch": "inside the graph launch call",
    }[cause["cause"]]  # fmt: skip
    return f"{duration(cause['total'])} {where}"


def _advice(trace: Trace, median: Median, causes: list[str]) -> list[str]:
    """What to do about these causes in the median step."""
    step = steps(trace).row(by_predicate=pl.col("step_id") == median.step_id, named=True)
    if step["graph_launches"]:
        between = [_BETWEEN] if step["graph_launches"] > 1 and "host" in causes else []
        return [*between, *(_REPLAYED[cause] for cause in causes)]
    kind = "decode" if median.kind in ("decode", "verify", "draft") else median.kind
    advice = []
    for cause in causes:
        advice += [_CAPTURE.get(kind or "", _CAPTURE_ANY), _LESS_HOST_WORK] if cause == "host" else [_EAGER[cause]]
    return advice

"""
## What it does
Says how much the profiler slowed the step down, and what that does to the idle time and to the other findings. Where
the unprofiled step time is known, it gives both idle figures: as profiled, and honest.

## Why it matters
A profiler works on the host, once per call and per Python frame, so it makes a host-bound step look far worse than it
is: an eager decode step of 13.4 ms took 32-36 ms with stacks. The GPU was idle for 81 % of the profiled step, and for
52 % of the real one.

## How it is measured
*With the unprofiled decode step time* (recorded by the collector): the factor is the period of the profiled decode step
with the median idle share over it; the rule fires above `max-slowdown-factor`. Honest idle is 1 − GPU busy / unprofiled
period. Idle time that findings report is larger than in production by (profiled − unprofiled) at most;
`honest_savings_ratio` is what savings of host time are scaled by: (unprofiled − busy) / (profiled − busy).

*Without it*, and for other kinds of step, the rule fires when the profiler's own records (buffer requests and flushes
on the step's thread; not the loading of kernels on first use, nor a full launch queue) take more than
`max-overhead-pct` of the median step, or when Python stacks were recorded and the GPU is idle for more than
`max-idle-pct` of the median step: such a step waits for a host that was slowed by an unknown factor, and its figures
are upper bounds.

`max-slowdown-factor` is 1.2: on an H200, decode replayed from a CUDA graph took 1.1-1.3 times its unprofiled time with
stacks, eager decode 2.4-2.8 times. `max-overhead-pct` is 5: no step of those captures holds such records, they lie before
the first. `max-idle-pct` is 10: a prefill with the same stacks, 1 % idle, is not distorted.

## Known problems
The unprofiled time is that of another run, with its own noise. Kernels are hardly slowed, but their clocks may differ.
Node tracing of CUDA graphs (Nsight Systems) adds 2-4 % to a step and leaves no record of it.

## How to fix
Measure the step without a profiler beside every capture (`traceql collect` does). Record without stacks once the causes
are known; fewer steps, no layer-wise markers. Judge changes by unprofiled time.

## References
PyTorch profiler documentation, notes on `with_stack` and overhead; Nsight Systems user guide, "CUDA Graph Trace".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.distortion import step_overheads, unprofiled_step_ns
from traceql.derived.step_costs import Median, median_steps
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, duration, percent

_WEAKENED = "launch-gap, launch-bound-step, step-bubble, graph-launch-cost, uncaptured-decode, cpu-gpu-ratio-outlier"
"""Rules whose figures are host time or idle time that the host caused."""


_WITHOUT_STACKS = "Record without Python stacks once the causes are known."


class ProfilerDistortion(Rule):
    code = "TQL902"
    name = "profiler-distortion"
    summary = "The profiler slowed the step: its host and idle times are larger than in production."
    severity = Severity.WARNING
    needs = ("host_calls", "steps")

    @dataclass(frozen=True)
    class Options:
        max_slowdown_factor: float = option(1.2, "profiled step time over the unprofiled one")
        max_overhead_pct: float = option(5.0, "share of the step period the profiler's own records may take")
        max_idle_pct: float = option(10.0, "share of the step period a GPU may be idle in a trace with Python stacks")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        idle = steps(trace).select("step_id", value="gpu_idle_ns")
        medians = median_steps(trace, idle, given_only=True)
        if not medians:
            raise NotApplicableError("no step with a period")
        median = next((m for m in medians if m.kind == "decode"), medians[0])
        busy_ns = steps(trace).row(by_predicate=pl.col("step_id") == median.step_id, named=True)["gpu_busy_ns"]
        unprofiled = unprofiled_step_ns(trace)
        if unprofiled is not None and median.kind in (None, "decode"):
            if median.period_ns / unprofiled > options.max_slowdown_factor:
                yield self._slowed(trace, median, busy_ns, unprofiled)
            return
        overheads = step_overheads(trace).select("step_id", value="overhead_ns")
        spent = next(m for m in median_steps(trace, overheads) if m.kind == median.kind)
        if spent.share_pct > options.max_overhead_pct:
            yield self._overhead(trace, spent)
        elif trace.capabilities.python_stacks and busy_ns is not None and median.share_pct > options.max_idle_pct:
            yield self._unknown(trace, median, busy_ns)

    def _slowed(self, trace: Trace, median: Median, busy_ns: int | None, unprofiled_ns: int) -> Finding:
        factor = median.period_ns / unprofiled_ns
        profiled, honest = (_idle_pct(busy_ns, period) for period in (median.period_ns, unprofiled_ns))
        idle = (
            f": the GPU is idle for {percent(profiled)} of it as profiled, for {percent(honest)} without the profiler"
            if profiled is not None and honest is not None
            else ""
        )
        return self._finding(
            trace,
            f"The {median.label} takes {duration(median.period_ns)} under the profiler and {duration(unprofiled_ns)} "
            f"without it ({factor:.1f}×){idle}.",
            median,
            "slowed",
            {
                "slowdown_factor": factor,
                "unprofiled_step_us": unprofiled_ns / 1000,
                "profiled_idle_pct": profiled,
                "honest_idle_pct": honest,
                "honest_savings_ratio": _savings_ratio(busy_ns, median.period_ns, unprofiled_ns),
            },
            "Savings of host time are scaled to the unprofiled step; order and causes of the gaps hold.",
        )

    def _overhead(self, trace: Trace, spent: Median) -> Finding:
        return self._finding(
            trace,
            f"The profiler's own work takes {duration(spent.value)} of {a_step(spent.period_ns, spent.label)} "
            f"({percent(spent.share_pct)}).",
            spent,
            "overhead",
            {"profiler_us_per_step": spent.value / 1000, "share_of_period_pct": spent.share_pct},
            "Give the profiler larger buffers, or record fewer activities, and capture again.",
        )

    def _unknown(self, trace: Trace, median: Median, busy_ns: int) -> Finding:
        return self._finding(
            trace,
            f"Python stacks were recorded, which slows the host, and {a_step(median.period_ns, median.label)} waits for it "
            f"(GPU idle {percent(median.share_pct)}): without the unprofiled step time, idle and host times are upper "
            "bounds.",
            median,
            "unknown",
            {"gpu_busy_us_per_step": busy_ns / 1000, "profiled_idle_pct": median.share_pct},
            f"Measure the step without the profiler (`traceql collect` does): it takes between {duration(busy_ns)}, its GPU "
            f"busy time, and {duration(median.period_ns)}.",
        )

    def _finding(
        self, trace: Trace, message: str, median: Median, what: str, evidence: dict[str, float | None], advice: str
    ) -> Finding:
        return self.finding(
            message,
            key=(median.kind, what),
            subject=median.label,
            step_id=median.step_id,
            certainty="modelled",
            evidence={
                **evidence,
                "step_period_us": median.period_ns / 1000,
                "steps": median.steps,
                "weakens": _WEAKENED,
            },
            advice=[advice, *([_WITHOUT_STACKS] if trace.capabilities.python_stacks else [])],
        )


def _idle_pct(busy_ns: int | None, period_ns: int) -> float | None:
    """Share of the period in which the GPU did nothing; None where its busy time is not recorded."""
    return None if busy_ns is None else max(0.0, 100 * (1 - busy_ns / period_ns))


def _savings_ratio(busy_ns: int | None, period_ns: int, unprofiled_ns: int) -> float | None:
    """Time beside the GPU's work in the unprofiled step over that in the profiled one."""
    if busy_ns is None or period_ns <= busy_ns:
        return None
    return max(0.0, (unprofiled_ns - busy_ns) / (period_ns - busy_ns))

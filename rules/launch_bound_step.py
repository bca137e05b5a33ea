"""
## What it does
Finds steps in which the host needs longer to issue the work than the GPU needs to do it, and shows the overhead
chain: Python · operator dispatch · launch calls · GPU busy · GPU idle, for the step and for one layer.

## Why it matters
Such a step runs at the speed of the host: a faster GPU, a better kernel or a smaller model changes nothing. It is
the usual state of an eager decode step.

## How it is measured
On the thread that makes the step's launches: the union of operators and API calls within the step, less the calls
that wait for the GPU and less the profiler's own work. The step is launch-bound when that is longer than the GPU
work of the step in the median step of its kind. GPU work is the busy time; of a communication kernel only the time
of the shortest alike counts, the rest is waiting for another rank. Python time outside operators and calls is shown
in the chain and not counted, so the verdict does not rest on the part that a profiler with stacks inflates most.

The chain of a layer is the median over the layers of that step: from the launch call of a layer's first kernel to
that of the next layer's. Layers inside a graph replay have no launch calls of their own.

`min-host-ratio` is 1 by definition: above it the host is the slower side. Eager decodes of an 8B-parameter model on an H200
have 1.9 to 4.9, a piecewise prefill of 4,096 tokens 0.8, decodes replayed from one graph 0.1-0.3, a prefill of 32,768
tokens 0.02.

## Known problems
The profiler also slows dispatch and launch calls (an eager decode step of 13 ms took 32-36 ms with shapes and
stacks): near the limit, compare the unprofiled step time with the GPU work. A trace without operators (Nsight
Systems) shows API calls only, and misses steps that dispatch alone makes launch-bound. No saving is estimated here:
the idle time of such a step is counted by launch-gap (TQL101) and step-bubble (TQL103).

## How to fix
Capture the step in a CUDA graph. Otherwise fewer operators: torch.compile, fused kernels, out-variants; a larger
batch spreads the same host time over more tokens.

## References
PyTorch documentation, "CUDA Graphs" and "Performance Tuning Guide"; the parts are defined in docs/definitions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.derived.overhead_chain import layer_chain, step_chain
from traceql.derived.step_costs import Median, median_steps
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, duration

_PARTS = {"dispatch_ns": "operator dispatch", "launch_ns": "launch calls", "other_calls_ns": "other calls"}
"""Parts of the host's time that are issuing, and what messages call them."""

_ISSUING = tuple(_PARTS)
_SHOWN = (
    "host_ns", "python_ns", "dispatch_ns", "launch_ns", "gpu_busy_ns", "gpu_idle_ns", "other_calls_ns", "wait_ns",
    "profiler_ns",
)  # fmt: skip
"""The chain in the order in which it is read; the last ones are left out where a table is narrow."""


class LaunchBoundStep(Rule):
    code = "TQL102"
    name = "launch-bound-step"
    summary = "The host needs longer to launch a step's work than the GPU needs to run it."
    severity = Severity.WARNING
    needs = ("gpu_rows", "host_calls", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_host_ratio: float = option(1.0, "operators and API calls of the launching thread over the step's GPU work")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        chain = step_chain(trace).with_columns(issuing_ns=pl.sum_horizontal(_ISSUING))
        if chain["gpu_work_ns"].count() == 0:
            raise NotApplicableError("GPU busy time is not recorded: graph replays left no device record")
        over = pl.col("issuing_ns") - options.min_host_ratio * pl.col("gpu_work_ns")
        excess = chain.with_columns(value=pl.max_horizontal(over, pl.lit(0)).round().cast(pl.Int64))
        for median in median_steps(trace, excess):
            if median.value > 0:
                yield self._finding(
                    trace, median, chain.row(by_predicate=pl.col("step_id") == median.step_id, named=True)
                )

    def _finding(self, trace: Trace, median: Median, step: dict[str, Any]) -> Finding:
        place = steps(trace).row(by_predicate=pl.col("step_id") == median.step_id, named=True)
        waiting = step["gpu_busy_ns"] - step["gpu_work_ns"]
        less = f" (and waits up to {duration(waiting)} for other ranks)" if waiting else ""
        parts = ", ".join(f"{name} {duration(step[part])}" for part, name in _PARTS.items() if step[part])
        between = step["python_ns"]
        more = (
            f"Between them the host spends {duration(between)} more, in Python or the framework; the"
            if between
            else "The"
        )
        return self.finding(
            f"Issuing the work of {a_step(median.period_ns, median.label)} takes the host {duration(step['issuing_ns'])} "
            f"({parts}), running it takes the GPU {duration(step['gpu_work_ns'])}{less}. {more} "
            f"GPU is idle for {duration(step['gpu_idle_ns'])} within the step.",
            key=(median.kind,),
            subject=median.label,
            step_id=median.step_id,
            start_ns=place["start_ns"],
            end_ns=place["start_ns"] + median.period_ns,
            certainty="modelled" if waiting else "exact",
            evidence={
                "host_over_gpu_ratio": step["issuing_ns"] / step["gpu_work_ns"] if step["gpu_work_ns"] else None,
                "issuing_us": step["issuing_ns"] / 1000,
                "gpu_work_us": step["gpu_work_ns"] / 1000,
                "step_period_us": median.period_ns / 1000,
                "launches": place["launch_calls"] + place["graph_launches"],
                "steps": median.steps,
                "overhead_chain": [_row("step", step), *_layer_rows(trace, median.step_id)],
            },
            advice=[
                "Replay the step from a CUDA graph: one launch call replaces all of them.",
                "Or issue fewer operators: fused kernels and out-variants, torch.compile (SGLang: "
                "--enable-torch-compile); a larger batch gives each of them more work.",
            ],
        )


def _row(scope: str, times: dict[str, Any]) -> dict[str, Any]:
    return {"scope": scope, **{name.replace("_ns", "_us"): times[name] / 1000 for name in _SHOWN}}


def _layer_rows(trace: Trace, step_id: int) -> list[dict[str, Any]]:
    """The median layer of the step as a row of the chain, where layers were launched kernel by kernel."""
    layers = layer_chain(trace, step_id)
    if layers.is_empty():
        return []
    return [_row("layer (median)", layers.select(pl.col(_SHOWN).median()).row(0, named=True))]

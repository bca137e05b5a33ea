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

from traceql.derived.overhead_chain import HOST_PARTS, layer_chain, step_chain
from traceql.derived.step_costs import Median, median_steps
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace

_ISSUING = ("dispatch_ns", "launch_ns", "other_calls_ns")
_SHOWN = ("host_ns", *HOST_PARTS, "gpu_busy_ns", "gpu_idle_ns")


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
        ms = {name: step[name] / 1e6 for name in (*_SHOWN, "issuing_ns", "gpu_work_ns")}
        waiting = step["gpu_busy_ns"] - step["gpu_work_ns"]
        less = f" (and up to {waiting / 1e6:.2f} ms waiting for other ranks)" if waiting else ""
        return self.finding(
            f"The host takes {ms['issuing_ns']:.2f} ms to issue a {median.label}, the GPU {ms['gpu_work_ns']:.2f} ms to run "
            f"it{less}: dispatch {ms['dispatch_ns']:.2f} + launch calls {ms['launch_ns']:.2f} ms, and {ms['python_ns']:.2f} ms "
            f"in neither (Python); within the step the GPU is idle {ms['gpu_idle_ns']:.2f} ms.",
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
                "Capture the step in a CUDA graph: one launch call replaces all of them.",
                "Issue fewer operators: torch.compile, fused kernels and out-variants; or give each more work with a "
                "larger batch.",
            ],
        )


def _row(scope: str, times: dict[str, Any]) -> dict[str, Any]:
    return {"scope": scope, **{name.replace("_ns", "_us"): times[name] / 1000 for name in _SHOWN}}


def _layer_rows(trace: Trace, step_id: int) -> list[dict[str, Any]]:
    """The median layer of the step as a row of the chain, where layers were launched kernel by kernel."""
    layers = layer_chain(trace).filter(pl.col("step_id") == step_id)
    if layers.is_empty():
        return []
    return [_row("layer (median)", layers.select(pl.col(_SHOWN).median()).row(0, named=True))]

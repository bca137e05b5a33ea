"""
## What it does
Finds operators whose own host time is many times the GPU time of the work they launch, in steps where the host is
the slower side.

## Why it matters
An op that takes 44 µs on the host for 3 µs on the GPU holds up everything behind it once the queue is empty. A
handful of such ops, once a layer, is where an eager step's time goes.

## How it is measured
For each operator name, over the calls inside steps: self CPU time with its own API calls (duration minus child
operators, profiler overhead taken out) over the GPU time of the rows launched by it and not by a child. It is an
outlier over `min-ratio`, when that CPU time is at least `min-cpu-share-pct` of the steps' host time, and only where
the steps' host path (host time not spent waiting for the GPU) is longer than their GPU work (busy time, waiting for
other ranks in communication kernels left out). The robust z-score is of the logarithm of the ratio, against the
trace's other operators (median and MAD).

## Known problems
Operators of Python extensions that launch through ctypes or TVM have no operator around the launch: their GPU work
belongs to no op and is listed as unattributed. Profiling with stacks inflates every op's host time.

## How to fix
Replace the op by one with less dispatch (a fused or out-variant kernel), cache what it recomputes per call, or
capture it in a CUDA graph, where its host cost vanishes.

## References
torch.profiler documentation on self CPU time; the definitions are in docs/definitions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.gpu_work import gpu_work
from traceql.derived.host_path import host_path
from traceql.derived.ops import op_costs, op_instances
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace


class CpuGpuRatioOutlier(Rule):
    code = "TQL301"
    name = "cpu-gpu-ratio-outlier"
    summary = "An operator costs the host many times what it gives the GPU to do."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "cpu_ops", "steps")

    @dataclass(frozen=True)
    class Options:
        min_ratio: float = option(5.0, "self CPU time over device time")
        min_cpu_share_pct: float = option(0.5, "share of the steps' host time")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        path = host_path(trace).join(gpu_work(trace), on="step_id")
        host_bound = path.filter(pl.col("host_path_ns") > pl.col("gpu_work_ns"))
        if path["gpu_busy_ns"].count() == 0:
            raise NotApplicableError("GPU busy time is not recorded: graph replays left no device record")
        if 2 * host_bound.height <= path.height:
            return  # in most steps the GPU is the slower side: host time is hidden behind it
        total = int(steps(trace)["dur_ns"].sum())
        costs = op_costs(trace).filter(pl.col("device_ns") > 0).with_columns(_robust_z())
        outliers = costs.filter(
            (pl.col("cpu_gpu_ratio") > options.min_ratio)
            & (pl.col("self_cpu_with_launch_ns") >= total * options.min_cpu_share_pct / 100)
        )
        for row in outliers.rows(named=True):
            yield self._finding(trace, row, steps(trace).height, total)

    def _finding(self, trace: Trace, op: dict[str, object], count: int, total: int) -> Finding:
        calls, cpu, device = (int(op[c]) for c in ("calls", "self_cpu_with_launch_ns", "device_ns"))  # type: ignore[call-overload]
        worst = (
            op_instances(trace)
            .filter((pl.col("name") == op["name"]) & pl.col("step_id").is_not_null())
            .sort("self_cpu_with_launch_ns", descending=True)
            .row(0, named=True)
        )
        per_call_cpu, per_call_gpu = cpu / calls / 1000, device / calls / 1000
        often = f"{calls / count:.3g} {'call' if calls == count else 'calls'}"
        return self.finding(
            f"{op['name']} takes {per_call_cpu:.1f} µs of host time a call for {per_call_gpu:.1f} µs on the GPU "
            f"({op['cpu_gpu_ratio']:.1f}×), {often} and {cpu / count / 1000:,.0f} µs a step.",
            key=(str(op["name"]),),
            subject=str(op["name"]),
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["dur_ns"],
            evidence={
                "cpu_gpu_ratio": op["cpu_gpu_ratio"],
                "robust_z_score": op["z"],
                "calls": calls,
                "calls_per_step": calls / count,
                "self_cpu_us_per_call": per_call_cpu,
                "device_us_per_call": per_call_gpu,
                "self_cpu_us_per_step": cpu / count / 1000,
                "share_of_step_cpu_pct": 100 * cpu / total,
            },
            advice=[
                "Give the op less to do on the host: a fused or out-variant kernel, cached arguments, no per-call "
                "checks.",
                "Inside a CUDA graph its host cost vanishes.",
            ],
        )


def _robust_z() -> pl.Expr:
    """(log ratio − median) / (1.4826 · MAD) over the trace's operators; null when they are all alike."""
    log = pl.col("cpu_gpu_ratio").log()
    mad = (log - log.median()).abs().median()
    return pl.when(mad > 0).then((log - log.median()) / (1.4826 * mad)).alias("z")

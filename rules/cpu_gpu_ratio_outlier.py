"""
## What it does
Finds operators whose own host time is many times the GPU time of the work they launch, in steps where the host is
the slower side. They are one finding, with a row for each operator.

## Why it matters
An op that takes 44 µs on the host for 3 µs on the GPU holds up everything behind it once the queue is empty. A
handful of such ops, once a layer, is where an eager step's time goes.

## How it is measured
For each operator name, over the calls inside steps: self CPU time with its own API calls (duration minus child
operators, profiler overhead taken out) over the GPU time of the rows launched by it and not by a child. It is an
outlier over `min-ratio`, when that CPU time is at least `min-cpu-share-pct` of the steps' host time, and only where
the steps' host path (host time not spent waiting for the GPU) is longer than their GPU work (busy time, waiting for
other ranks in communication kernels left out). Figures per step are averages over all steps of the trace. The robust
z-score is of the logarithm of the ratio, against the trace's other operators (median and MAD): near 0, the other
operators are no better, and the step as a whole is launched operator by operator.

`min-ratio` is 5: in an eager SGLang decode on an H200 (batch 64) the GEMM operator has a ratio of 0.9-1.1, and those with
kernels of 1-3 µs have 7 to 20. `min-cpu-share-pct` is 0.5: the cheapest of these, once a layer, takes 1.4 %.
`min-total-share-pct` is 2: the four of that step take 7 to 11 % together; around a graph replay that waits for the host,
an operator or two takes 1 %, which is worth knowing and no fault.

No saving is estimated: the host time is part of what launch-gap (TQL101) counts. A baseline follows the sum over the
operators; to hold a single one, set a budget on the table `op_costs`. A suppression by `op` hides the finding only where
its globs cover every operator listed.

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
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from traceql.derived.gpu_work import gpu_work
from traceql.derived.host_path import host_path
from traceql.derived.ops import op_costs, op_instances
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import duration, percent


class CpuGpuRatioOutlier(Rule):
    code = "TQL301"
    name = "cpu-gpu-ratio-outlier"
    summary = "Operators cost the host many times what they give the GPU to do."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "cpu_ops", "steps")

    @dataclass(frozen=True)
    class Options:
        min_ratio: float = option(5.0, "self CPU time over device time")
        min_cpu_share_pct: float = option(0.5, "share of the steps' host time an operator must take to be listed")
        min_total_share_pct: float = option(2.0, "share that those listed take together; below it, an info is given")

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
        if not outliers.is_empty():
            finding = self._finding(trace, outliers.sort(pl.col("self_cpu_with_launch_ns") * -1, "name"), total)
            minor = finding.evidence["share_of_host_time_pct"] < options.min_total_share_pct
            yield replace(finding, severity=Severity.INFO) if minor else finding

    def _finding(self, trace: Trace, outliers: pl.DataFrame, total: int) -> Finding:
        count = steps(trace).height
        rows = [_row(op, count, total) for op in outliers.rows(named=True)]
        cpu, device = (int(outliers[c].sum()) for c in ("self_cpu_with_launch_ns", "device_ns"))
        top = outliers.row(0, named=True)
        worst = (
            op_instances(trace)
            .filter((pl.col("name") == top["name"]) & pl.col("step_id").is_not_null())
            .sort("self_cpu_with_launch_ns", descending=True)
            .row(0, named=True)
        )
        together = (
            f"{len(rows)} operators take {duration(cpu / count)} of host time a step for {duration(device / count)} of GPU "
            f"work ({percent(100 * cpu / total)} of the steps' host time); most: "
            if len(rows) > 1
            else ""
        )
        return self.finding(
            f"{together}{top['name']} takes {duration(1000 * rows[0]['self_cpu_us_per_call'])} of host time a call for "
            f"{duration(1000 * rows[0]['device_us_per_call'])} on the GPU ({top['cpu_gpu_ratio']:.1f}×), "
            f"{rows[0]['calls_per_step']:.3g} {'call' if top['calls'] == count else 'calls'} and "
            f"{duration(1000 * rows[0]['self_cpu_us_per_step'])} a step.",
            subject=top["name"],
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["dur_ns"],
            evidence={
                "self_cpu_us_per_step": cpu / count / 1000,
                "device_us_per_step": device / count / 1000,
                "share_of_host_time_pct": 100 * cpu / total,
                "steps": count,
                "operators": rows,
            },
            advice=[
                "Give these operators less to do on the host: fused kernels, out-variants, cached arguments, no checks "
                "per call.",
                "Inside a CUDA graph their host time vanishes.",
            ],
        )


def _row(op: dict[str, Any], steps_: int, total_ns: int) -> dict[str, Any]:
    """One operator of the table; ``total_ns`` is the host time of all ``steps_``."""
    calls, cpu, device = op["calls"], op["self_cpu_with_launch_ns"], op["device_ns"]
    return {
        "op": op["name"],
        "cpu_gpu_ratio": op["cpu_gpu_ratio"],
        "self_cpu_us_per_step": cpu / steps_ / 1000,
        "self_cpu_us_per_call": cpu / calls / 1000,
        "device_us_per_call": device / calls / 1000,
        "calls_per_step": calls / steps_,
        "share_of_host_time_pct": 100 * cpu / total_ns,
        "robust_z_score": op["z"],
    }


def _robust_z() -> pl.Expr:
    """(log ratio − median) / (1.4826 · MAD) over the trace's operators; null when they are all alike."""
    log = pl.col("cpu_gpu_ratio").log()
    mad = (log - log.median()).abs().median()
    return pl.when(mad > 0).then((log - log.median()) / (1.4826 * mad)).alias("z")

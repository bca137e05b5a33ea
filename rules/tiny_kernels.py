"""
## What it does
Finds steps in which most launches are of kernels so short that launching them costs more than running them, and
lists the chains of neighbouring ones that a fused kernel could replace.

## Why it matters
A kernel of 2 µs behind a launch call of 5-7 µs cannot keep the GPU busy, however well it is written. Chains of such
kernels (norm, rotary embedding, cache write, a sampler of five launches) are what fusion is for.

## How it is measured
Of the kernels launched one by one in a step (those inside graph replays cost no launch): the ones under
`max-kernel-us`. The rule fires when they are more than `min-launches-pct` of those launches, their launch calls
together take longer than the kernels themselves, and at least `min-share-pct` of the step's period, in the median
step of its kind. A launch call ten times longer than the trace's median waited for something (a full queue, a
module) and counts as the median. A chain is two or more tiny kernels in a row on one stream; equal chains are one
row with a count.

`max-kernel-us` is 5: launch calls of an eager SGLang decode on an H200 took 7 µs under the PyTorch profiler
(median), those of a driver-API program 4 µs under Nsight Systems, so a shorter kernel is over before the next can
be launched. `min-launches-pct` is 50: most of them. `min-share-pct` is 2 so that a graph decode, whose seven or eight
preparation kernels take 0.6-1.2 % of the step to launch, is left alone.

## Known problems
The launch call's time is the profiled one. The saving is the step timed again with one launch call a chain, the
kernels' own time kept: in a launch-bound step part of launch-gap's (TQL101), elsewhere next to nothing.

## How to fix
Fuse the chain (torch.compile, a hand-written or library kernel: fused add + norm, fused rotary + cache write, a
fused sampler), or capture the step in a CUDA graph.

## References
CUDA best practices guide; PyTorch documentation on `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.derived.layers import layer_kernels
from traceql.derived.step_costs import Median, median_steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, duration, percent

_ARROW = " → "


class TinyKernels(Rule):
    code = "TQL106"
    name = "tiny-kernels"
    summary = "Most launches are of kernels that take longer to launch than to run."
    severity = Severity.INFO
    needs = ("gpu_rows", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        max_kernel_us: float = option(5.0, "a kernel is tiny below this duration")
        min_launches_pct: float = option(50.0, "share of the step's kernel launches that tiny kernels must exceed")
        min_share_pct: float = option(2.0, "share of the step period that launching them must take")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        kernels = _launched_singly(trace).with_columns(tiny=pl.col("dur_ns") < options.max_kernel_us * 1000)
        if kernels.is_empty():
            return  # everything is replayed from graphs
        tiny = pl.col("tiny")
        per_step = kernels.group_by("step_id").agg(
            many=100 * tiny.mean() > options.min_launches_pct,
            gpu=pl.col("dur_ns").filter(tiny).sum(),
            value=pl.col("call_ns").filter(tiny).sum(),
        )
        costly = per_step.filter(pl.col("many") & (pl.col("value") > pl.col("gpu")))
        for median in median_steps(trace, costly):
            if median.value > 0 and median.share_pct >= options.min_share_pct:
                own = kernels.filter(pl.col("step_id") == median.step_id)
                yield self._finding(median, own, _fused(kernels), options)

    def _finding(self, median: Median, kernels: pl.DataFrame, fix: Fix, options: Options) -> Finding:
        tiny = kernels.filter("tiny")
        chains = _chains(kernels)
        gpu_us = int(tiny["dur_ns"].sum()) / 1000
        avoidable = chains.select((pl.col("launch_ns") * (pl.col("kernels") - 1) / pl.col("kernels")).sum()).item()
        first = tiny.sort("start_ns").row(0, named=True)
        rows = [_chain_row(c) for c in chains.head(10).rows(named=True)]
        best = f"; the costliest chain is {rows[0]['chain']}, {_often(rows[0]['count'])} a step" if rows else ""
        return self.finding(
            f"{tiny.height} of {kernels.height} kernel launches in {a_step(median.period_ns, median.label)} are of "
            f"kernels under {options.max_kernel_us:g} µs: their launch calls take {duration(median.value)} "
            f"({percent(median.share_pct)}), the kernels {duration(1000 * gpu_us)}{best}.",
            key=(median.kind,),
            subject=rows[0]["chain"] if rows else str(first["name"]),
            step_id=median.step_id,
            start_ns=first["start_ns"],
            end_ns=first["end_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "tiny_launches_per_step": tiny.height,
                "launches_per_step": kernels.height,
                "launch_us_per_step": median.value / 1000,
                "gpu_us_per_step": gpu_us,
                "share_of_period_pct": median.share_pct,
                "fusable_launch_us_per_step": avoidable / 1000,
                "steps": median.steps,
                "chains": rows,
            },
            advice=[
                "Fuse the chains listed: torch.compile, or library kernels (fused add + norm, rotary + cache write, "
                "sampler).",
                "A CUDA graph removes the launch calls of all of them at once.",
            ],
        )


def _often(times: int) -> str:
    return "once" if times == 1 else f"{times:,} times"


def _launched_singly(trace: Trace) -> pl.DataFrame:
    """Kernels of the steps with a launch call of their own, with its ``call_start``, ``call_ns`` (its duration) and thread,
    and ``layer``.

    A call over ten times the median waited for something else than the launch and counts as the median.
    """
    usual = pl.col("dur_ns").median().round().cast(pl.Int64)
    call_ns = pl.when(pl.col("dur_ns") > 10 * usual).then(usual).otherwise("dur_ns")
    calls = (
        launches(trace)
        .filter(pl.col("kind") == "kernel")
        .select("launch_id", "tid", call_pid="pid", call_ns=call_ns, call_start="start_ns")
    )
    layer = layer_kernels(trace).select("layer", source_id="kernel_id")
    return (
        gpu_ops(trace)
        .filter((pl.col("kind") == "kernel") & pl.col("step_id").is_not_null())
        .join(calls, on="launch_id")
        .join(layer, on="source_id", how="left")
        .sort("device", "stream", "start_ns", "gpu_op_id")
    )


_RUN = ["step_id", "device", "stream", "run"]


def _runs(kernels: pl.DataFrame) -> pl.DataFrame:
    """The tiny kernels with the ``run`` of neighbours on a stream that they belong to."""
    return kernels.with_columns(run=(~pl.col("tiny")).cum_sum().over("device", "stream")).filter("tiny")


def _fused(kernels: pl.DataFrame) -> Fix:
    """With one launch call a chain: the first. The work of the others stays."""
    later = _runs(kernels).filter(pl.int_range(pl.len()).over(_RUN) > 0)
    return Fix.host_time(
        later.select("tid", pid="call_pid", start_ns="call_start", end_ns=pl.col("call_start") + pl.col("call_ns"))
    )


def _chains(kernels: pl.DataFrame) -> pl.DataFrame:
    """Runs of two or more tiny kernels on a stream, alike ones together, most launch time first."""
    return (
        _runs(kernels)
        .group_by(_RUN, maintain_order=True)
        .agg(
            kernels=pl.len(),
            chain=pl.col("name").str.join(_ARROW),
            in_layers=pl.col("layer").is_not_null().any(),
            gpu_ns=pl.col("dur_ns").sum(),
            launch_ns=pl.col("call_ns").sum(),
        )
        .filter(pl.col("kernels") > 1)
        .group_by("chain", maintain_order=True)
        .agg(
            pl.col("kernels").first(),
            pl.col("in_layers").any(),
            pl.col("gpu_ns", "launch_ns").sum(),
            count=pl.len(),
        )
        .sort(pl.col("launch_ns") * -1, "chain")
    )


def _chain_row(chain: dict[str, Any]) -> dict[str, Any]:
    launch_us = chain["launch_ns"] / 1000
    return {
        "chain": _shortened(chain["chain"]),
        "kernels": chain["kernels"],
        "count": chain["count"],
        "in_layers": chain["in_layers"],
        "gpu_us": chain["gpu_ns"] / 1000,
        "launch_us": launch_us,
        "fusable_launch_us": launch_us * (chain["kernels"] - 1) / chain["kernels"],
    }


def _shortened(chain: str) -> str:
    """The chain with repeats counted, cut after six different kernels in a row."""
    runs = [(name, len(list(group))) for name, group in groupby(chain.split(_ARROW))]
    shown = [name if count == 1 else f"{name} ×{count}" for name, count in runs[:6]]
    return _ARROW.join([*shown, "…"] if len(runs) > 6 else shown)

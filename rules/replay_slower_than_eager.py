"""
## What it does
Compares every kernel of a CUDA graph replay with the same kernel in an eager run of the same model and batch, and lists
those that are slower in the replay.

## Why it matters
A replay saves launches, it should not cost kernel time. A kernel that is slower was captured with another
configuration: an attention backend that plans for the longest sequence, a padded batch, a workspace that was not there
at capture time.

## How it is measured
The replay is aligned with the eager run (`--eager`): same kernel name, same launch shape, same place in the sequence.
Each replayed kernel's median over the steps is compared with its twin's median over the eager steps; it counts when it
is slower by more than `min-slowdown-pct` and by more than `min-slowdown-us`, in at least `min-steps-count` steps. Kernels
at the same call site (name, launch shape, operator and its shapes) are one row.

Left out: kernels without a twin, which the graph's backend added and which are no regression of another kernel; twins
with another launch shape; kernels that began before their predecessor on the stream had ended (programmatic dependent
launch: they are resident early and wait, so their duration says nothing); communication kernels, which wait for other
ranks.

`min-slowdown-pct` is 10 and `min-slowdown-us` is 1: in three aligned pairs of captures of an 8B-parameter model no kernel
passes both, while with the overlapping ones 27 of 64 RMSNorm kernels would look 80 % slower. `min-steps-count` is 3, the
fewest that have a median.

The saving is the step timed again with each of these kernels as fast as its twin.

## Known problems
The two runs must be at the same clocks: a throttled GPU slows every kernel. Caches are warmer behind a replay's shorter
gaps, which hides small regressions.

## How to fix
Look at what the kernel was captured with: planned split counts, maximum sequence length, padded batch, workspace size.
Capture more batch sizes; plan again before the replay where the backend allows it.

## References
CUDA programming guide, "Programmatic Dependent Launch and Synchronization".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.alignment import aligned_kernels
from traceql.derived.fixes import kernel_time
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import duration

_SITE = ["short_name", "op", "input_shapes"]
_STREAM = ["device", "stream"]


class ReplaySlowerThanEager(Rule):
    code = "TQL206"
    name = "replay-slower-than-eager"
    summary = "Kernels are slower in the CUDA graph replay than in an eager run."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "steps", "graph_replays", "replay_nodes")

    @dataclass(frozen=True)
    class Options:
        min_slowdown_pct: float = option(10.0, "how much slower than its eager twin a replayed kernel must be")
        min_slowdown_us: float = option(1.0, "how much longer than its eager twin it must take")
        min_steps_count: float = option(3, "steps in which it can be compared")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        if trace.eager is None:
            raise NotApplicableError("no eager run of the same model to compare with; give one with --eager")
        pairs = _pairs(trace)
        if pairs.is_empty():
            raise NotApplicableError("no replayed kernel has a twin of the same launch shape in the eager run")
        excess = pl.col("replay_ns") - pl.col("eager_ns")
        slower = pairs.with_columns(excess_ns=excess).filter(
            pl.col("instances") >= options.min_steps_count,
            pl.col("excess_ns") > options.min_slowdown_us * 1000,
            pl.col("replay_ns") > (1 + options.min_slowdown_pct / 100) * pl.col("eager_ns"),
        )
        if not slower.is_empty():
            aligned = aligned_kernels(trace).select("kernel_id", "eager_kernel_id")
            cut = aligned.join(slower.select("eager_kernel_id", saved_ns="excess_ns"), on="eager_kernel_id")
            yield self._finding(trace, pairs, slower, kernel_time(trace, cut))

    def _finding(self, trace: Trace, pairs: pl.DataFrame, slower: pl.DataFrame, fix: Fix) -> Finding:
        all_of_site = pairs.group_by(_SITE).agg(compared=pl.len())
        sites = (
            slower.group_by(_SITE)
            .agg(
                pl.len().alias("slower"),
                pl.col("replay_ns", "eager_ns").median(),
                pl.col("excess_ns").sum(),
            )
            .join(all_of_site, on=_SITE, nulls_equal=True)
            .sort(pl.col("excess_ns") * -1, *_SITE)
        )
        top = sites.row(0, named=True)
        worst = slower.sort(pl.col("excess_ns") * -1, "start_ns").row(0, named=True)
        total = float(slower["excess_ns"].sum()) / 1000
        count, compared = slower.height, pairs.height
        return self.finding(
            f"{count} of {compared} replayed kernels of a step take longer than in the eager run, {duration(1000 * total)} "
            f"together; most by {top['short_name']} ({top['slower']} of {top['compared']}): {duration(top['replay_ns'])} "
            f"against {duration(top['eager_ns'])}.",
            key=(top["short_name"], top["op"], top["input_shapes"]),
            subject=top["short_name"],
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["dur_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "slower_kernels_per_step": count,
                "compared_kernels_per_step": compared,
                "excess_us_per_step": total,
                "steps": steps(trace).height,
                "pairs": [
                    {
                        "kernel": row["short_name"], "op": row["op"], "input_shapes": row["input_shapes"],
                        "slower": row["slower"], "compared": row["compared"], "median_replay_us": row["replay_ns"] / 1000,
                        "median_eager_us": row["eager_ns"] / 1000, "excess_us_per_step": row["excess_ns"] / 1000,
                    }
                    for row in sites.head(8).rows(named=True)
                ],
            },
            advice=[
                "Compare what the kernel was captured with and what it runs on: split counts, sequence lengths, padding.",
                "Check that both runs had the same clocks before believing a small difference.",
            ],
        )  # fmt: skip


def _pairs(trace: Trace) -> pl.DataFrame:
    """One row an eager twin: _SITE, replay_ns (median over the steps), eager_ns, instances, and its longest instance."""
    reach = pl.col("end_ns").cum_max().shift(1).over(_STREAM, order_by=["start_ns", "end_ns"])
    alone = (
        gpu_ops(trace)
        .with_columns(alone=(pl.col("start_ns") >= reach).fill_null(True))
        .filter("alone", kind="kernel", launch_kind="graph")
        .select("start_ns", kernel_id="source_id")
    )
    named = trace.table("kernels").select("kernel_id", "short_name", "category")
    longest = pl.col("dur_ns").arg_max()
    return (
        aligned_kernels(trace)
        .drop("start_ns", strict=False)
        .filter(pl.col("match") == "shape")
        .join(alone, on="kernel_id", maintain_order="left")
        .join(named, on="kernel_id", maintain_order="left")
        .filter(pl.col("category").ne_missing("communication"))
        .group_by("eager_kernel_id", maintain_order=True)
        .agg(
            pl.col(_SITE).first(),
            pl.col("dur_ns").median().alias("replay_ns"),
            pl.col("eager_dur_ns").first().alias("eager_ns"),
            pl.col("step_id").n_unique().alias("instances"),
            pl.col("step_id", "start_ns", "dur_ns").get(longest),
        )
    )

"""
## What it does
Finds tensors that are copied on the device over and over within a step, by `contiguous`, `clone`, `to` or `copy_`,
and names who asked for the copy and the layout that made it necessary.

## Why it matters
A copy computes nothing. Once a layer it costs a launch and a pass over memory each time, and in an eager step
several operators' worth of host time: a `contiguous()` on one attention input was 32 copies a step, 82 µs on the
GPU and 1.1 ms on the host, of an 8B-parameter model's decode.

## How it is measured
GPU rows (copy kernels and device-to-device copies) launched inside `aten::copy_`, each counted once: `contiguous`
calls `clone` calls `copy_`, and the outermost of the copying operators is the one that was asked for. Same type on
both sides; a change of type is dtype-cast's (TQL303). Copies that agree in operator, caller, shape and source
strides are one pattern; it counts from `min-repeats-count` in a step. The rule fires when the counted copies take
at least `min-share-pct` of the step's period on the side that the step waits for: host time of the outermost
operators where the host path is longer than the GPU work, GPU time elsewhere. Copies inside a CUDA graph replay
have no operator; they are counted where an aligned eager trace names them. From `min-info-share-pct` to
`min-share-pct` the finding is an info.

`min-share-pct` is 2: on an H200 the copies above are 4 % of an eager decode step, 1 % of its graph's replay and 1.5
% of a prefill of 32,768 tokens: worth knowing and no fault. `min-info-share-pct` is 0.5, the least worth a line.
`min-repeats-count` is 3, the fewest that make a structure.

The saving is the step timed again without these copies: their GPU time where the GPU is the slower side, their host
time where the host is. The latter is part of launch-gap's (TQL101): the report's recoverable time counts it once.

## Known problems
A copy may be needed: a kernel that takes no strides has to be given a dense tensor. The rule cannot tell, it shows
the strides. Copies made by Python extensions outside torch operators are not seen. Without recorded input types
casts are counted here.

## How to fix
Have the producer write the layout that the consumer wants (split the fused QKV output differently, an out-variant
that writes into the right place), or use a consumer kernel that takes strides.

## References
PyTorch documentation, `torch.Tensor.contiguous` and "Tensor Views".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import polars as pl

from traceql.derived.copy_costs import PATTERN, copy_costs, copying, described, pattern_row, patterns, place, spent
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.step_costs import Median, median_steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, counted, percent


class RedundantCopy(Rule):
    code = "TQL302"
    name = "redundant-copy"
    summary = "The same kind of tensor is copied again and again within a step."
    severity = Severity.WARNING
    needs = ("gpu_rows", "launch_links", "cpu_ops", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(2.0, "share of the step period the copies take on the side the step waits for")
        min_info_share_pct: float = option(0.5, "from this share on an info is given instead of the rule's severity")
        min_repeats_count: float = option(3, "copies of one pattern in a step; rarer ones are not counted")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        same_type = pl.col("from_dtype").eq_missing(pl.col("to_dtype"))
        repeated = pl.len().over("step_id", *PATTERN) >= options.min_repeats_count
        chosen = copy_costs(trace).filter(same_type).filter(repeated)
        per_step = chosen.group_by("step_id").agg(value=pl.col("cost_ns").sum())
        for median in median_steps(trace, per_step):
            if median.value > 0 and median.share_pct >= min(options.min_info_share_pct, options.min_share_pct):
                own = chosen.filter(pl.col("step_id") == median.step_id)
                finding = self._finding(trace, median, own, copying(trace, chosen))
                minor = median.share_pct < options.min_share_pct
                yield replace(finding, severity=Severity.INFO) if minor else finding

    def _finding(self, trace: Trace, median: Median, chosen: pl.DataFrame, fix: Fix) -> Finding:
        found = patterns(chosen)
        top = found.row(0, named=True)
        gpu, host = (int(found[c].sum()) for c in ("gpu_ns", "host_ns"))
        row = gpu_ops(trace).row(by_predicate=pl.col("gpu_op_id") == top["first_op"], named=True)
        most = f"{top['count']} of them " if found.height > 1 else "all "
        return self.finding(
            f"{counted(chosen.height, 'copy', 'copies')} in {a_step(median.period_ns, median.label)}: {spent(gpu, host)}, "
            f"{percent(median.share_pct)} of the step on the {'host' if chosen['host_bound'][0] else 'GPU'}'s side; {most}{described(top)}.",
            key=(median.kind, top["op"], place(top)),
            subject=place(top) or top["op"],
            step_id=median.step_id,
            start_ns=row["start_ns"],
            end_ns=row["end_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "copies_per_step": chosen.height,
                "gpu_us_per_step": gpu / 1000,
                "host_us_per_step": host / 1000,
                "share_of_period_pct": median.share_pct,
                "steps": median.steps,
                "patterns": [pattern_row(p) for p in found.head(8).rows(named=True)],
            },
            advice=[
                "Write the layout that the next kernel reads, or use a kernel that takes strides: then nothing is "
                "copied.",
                "If the copy must stay, make it part of the kernel that produces the tensor.",
            ],
        )

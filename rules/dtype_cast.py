"""
## What it does
Finds tensors that are converted from one element type to another within the steps: weights cast on every use,
activations that change type between operators, indices that change width.

## Why it matters
A cast reads and writes the whole tensor and computes nothing. A weight that is cast in the step costs its full size
in memory traffic once a token, on top of being read by the product.

## How it is measured
GPU rows launched inside an `aten::copy_` whose two inputs differ in type (`to`, `_to_copy`, `float()`, a `copy_`
into a buffer of another type), each counted once for the outermost of the copying operators. The rule fires when
they take at least `min-share-pct` of the step's period on the side that the step waits for, as for redundant-copy
(TQL302).

`min-share-pct` is 1: the one cast that SGLang's decode makes, logits to float32 for sampling ([64, 128256], 23 µs),
is 0.2 % of a step at most and harmless; a bf16 copy of a 4096 × 4096 float32 weight alone moves 100 MB, 21 µs a layer at
4.8 TB/s.

The saving is the step timed again without the casts.

## Known problems
Needs operator input types (recorded with shapes). Casts inside fused kernels cost next to nothing and are not seen.

## How to fix
Cast weights once when they are loaded; keep activations in one type; build index tensors in the type the kernel
takes.

## References
PyTorch documentation, "Automatic Mixed Precision" and `torch.Tensor.to`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.copy_costs import copy_costs, copying, pattern_row, patterns, place, spent
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.step_costs import Median, median_steps
from traceql.finding import Finding, Severity
from traceql.fix import Fix
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import a_step, counted, percent


class DtypeCast(Rule):
    code = "TQL303"
    name = "dtype-cast"
    summary = "Tensors are converted to another element type within every step."
    severity = Severity.INFO
    needs = ("gpu_rows", "launch_links", "shapes", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(1.0, "share of the step period the casts take on the side the step waits for")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        casts = copy_costs(trace).filter(pl.col("from_dtype") != pl.col("to_dtype"))
        per_step = casts.group_by("step_id").agg(value=pl.col("cost_ns").sum())
        for median in median_steps(trace, per_step):
            if median.value > 0 and median.share_pct >= options.min_share_pct:
                own = casts.filter(pl.col("step_id") == median.step_id)
                yield self._finding(trace, median, own, copying(trace, casts))

    def _finding(self, trace: Trace, median: Median, casts: pl.DataFrame, fix: Fix) -> Finding:
        found = patterns(casts)
        top = found.row(0, named=True)
        gpu, host = (int(found[c].sum()) for c in ("gpu_ns", "host_ns"))
        row = gpu_ops(trace).row(by_predicate=pl.col("gpu_op_id") == top["first_op"], named=True)
        where = top["frame"] or top["caller_op"]
        most = f"{top['count']} of them" if found.height > 1 else "all"
        return self.finding(
            f"{counted(casts.height, 'cast')} in {a_step(median.period_ns, median.label)}: {spent(gpu, host)}, "
            f"{percent(median.share_pct)} of the step on the {'host' if casts['host_bound'][0] else 'GPU'}'s side; {most} from {top['from_dtype']} to {top['to_dtype']} of "
            f"{top['shape']}{f' in {where}' if where else ''}.",
            key=(median.kind, top["from_dtype"], top["to_dtype"], place(top)),
            subject=place(top) or top["op"],
            step_id=median.step_id,
            start_ns=row["start_ns"],
            end_ns=row["end_ns"],
            fix=fix,
            certainty="modelled",
            evidence={
                "casts_per_step": casts.height,
                "gpu_us_per_step": gpu / 1000,
                "host_us_per_step": host / 1000,
                "share_of_period_pct": median.share_pct,
                "steps": median.steps,
                "patterns": [pattern_row(p) for p in found.head(8).rows(named=True)],
            },
            advice=[
                "Cast once: weights at load time, constants and index tensors before the step.",
                "Let the producer write the type that the consumer reads.",
            ],
        )

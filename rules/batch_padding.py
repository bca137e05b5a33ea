"""
## What it does
Finds CUDA graph replays that compute more rows than the batch has, because the graph of the next larger captured size was
used.

## Why it matters
Graphs are captured for a list of batch sizes and a batch is rounded up to the next one. Attention, norms and sampling run
for the padding too, and for prefills the matrix products as well.

## How it is measured
The real number of tokens comes from the step's mark (`step[DECODE bs=17]`), the computed one from the replay itself: its
norm kernels launch one block a row. Wasted share = 1 − tokens / computed rows, weighted by GPU time over the steps of a
kind; the rule fires above `max-wasted-pct`.

The estimate is the wasted share of the kernels whose time grows with rows (attention, norms, activation, rotary embedding,
sampling); of a prefill's matrix products too. A decode's read the same weights for any small batch and gain nothing.

`max-wasted-pct` is 10: graphs captured in steps of 8 rows waste 29 % for 17 requests, and under 10 % from 64 requests on.

## Known problems
Norm kernels that launch by another rule than a block a row tell nothing: such steps are left out, as are steps whose
batch size no mark gives.

## How to fix
Capture the batch sizes that occur (SGLang: `--cuda-graph-bs`, vLLM: `cudagraph_capture_sizes`), or let the scheduler fill
the batch up.

## References
SGLang and vLLM documentation on CUDA graph batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.batch_padding import padded_steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import percent


class BatchPadding(Rule):
    code = "TQL604"
    name = "batch-padding"
    summary = "CUDA graph replays compute rows that belong to no request."
    severity = Severity.INFO
    needs = ("graph_replays", "replay_nodes", "steps")

    @dataclass(frozen=True)
    class Options:
        max_wasted_pct: float = option(10.0, "share of the computed rows that may be padding")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        steps = padded_steps(trace).filter(pl.col("gpu_busy_ns") > 0)
        if steps.is_empty():
            raise NotApplicableError("the batch of the replayed steps, or the rows they compute, are not known")
        wasted = 1 - pl.col("tokens") / pl.col("padded_tokens")
        weighed = steps.with_columns(wasted_pct=100 * wasted)
        for (kind,), rows in weighed.group_by("kind", maintain_order=True):
            share = float((rows["wasted_pct"] * rows["gpu_busy_ns"]).sum()) / float(rows["gpu_busy_ns"].sum())
            if share > options.max_wasted_pct:
                yield self._finding(rows, share, None if kind is None else str(kind))

    def _finding(self, rows: pl.DataFrame, share: float, kind: str | None) -> Finding:
        worst = rows.sort("wasted_pct", "step_id", descending=[True, False]).row(0, named=True)
        scaling = pl.col("row_kernel_ns") + (0 if kind == "decode" else pl.col("gemm_ns"))
        saved = rows.select((scaling * pl.col("wasted_pct") / 100).mean()).item()
        label = f"{kind} step" if kind else "step"
        return self.finding(
            f"{percent(share)} of the rows that replayed {label}s compute are padding; the worst: {worst['tokens']:,} tokens in a "
            f"graph of {worst['padded_tokens']:,}.",
            key=(kind,),
            subject=label,
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["period_ns"],
            savings_us_per_step=saved / 1000,
            savings_basis="bound",
            certainty="modelled",
            evidence={
                "wasted_pct": share,
                "steps": rows.height,
                "padded_steps": int((rows["wasted_pct"] > 0).sum()),
                "by_batch": [
                    {
                        "tokens": tokens, "computed_rows": padded, "steps": count, "wasted_pct": 100 * (1 - tokens / padded),
                        "gpu_busy_us": busy / 1000,
                    }
                    for tokens, padded, count, busy in rows.group_by("tokens", "padded_tokens")
                    .agg(pl.len(), pl.col("gpu_busy_ns").median())
                    .sort("tokens", "padded_tokens")
                    .head(16)
                    .rows()
                ],
            },
            advice=["Capture graphs for the batch sizes that occur, or let the scheduler fill batches up to captured sizes."],
        )  # fmt: skip

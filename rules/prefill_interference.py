"""
## What it does
Measures how much longer the running requests wait for their next token when prefills run between two decode steps.

## Why it matters
A scheduler that runs a prefill to its end holds up every request that is decoding. Users see a stutter: one token takes
ten times as long as the others.

## How it is measured
Inter-token latency (ITL) is the time from the end of one decode step's GPU work to the end of the next one's. Intervals
with other steps in between are compared with the median of those without, of the same batch size where there are such.
The rule fires when an interval is `min-slowdown-ratio` times as long as that and the extra time of all of them is at
least `min-share-pct` of the time spent decoding (all intervals together).

The estimate is the extra time spread over the decode steps: what decoding would gain if prefills ran elsewhere. Their own
work does not go away.

`min-slowdown-ratio` is 1.5, as for step-outlier (TQL108): eager decode steps of one server stayed under 1.2 times their
median. `min-share-pct` is 5: in that server one interval held up by six prefills, 11.6 times the usual, made 42 % of
the decoding time.

## Known problems
Prefill and decode tokens computed in one step (mixed batches, chunked prefill) lengthen the step itself: that does not
show here. A capture sees few prefills; their share depends on the traffic at that moment.

## How to fix
Chunked prefill with a small chunk, mixed batches (SGLang: `--enable-mixed-chunk`), a limit on consecutive prefills, or
prefill and decode on different GPUs (disaggregation).

## References
Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024; Zhong et al.,
"DistServe", OSDI 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.decode_intervals import decode_intervals
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration, percent


class PrefillInterference(Rule):
    code = "TQL602"
    name = "prefill-interference"
    summary = "Running requests wait for their next token while prefills run."
    severity = Severity.WARNING
    needs = ("steps",)

    @dataclass(frozen=True)
    class Options:
        min_slowdown_ratio: float = option(1.5, "inter-token latency with a prefill in between over that without")
        min_share_pct: float = option(5.0, "share of the time spent decoding that the extra time must reach")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        intervals = decode_intervals(trace)
        alone = intervals.filter(pl.col("prefills") == 0)
        if alone.is_empty() or alone.height == intervals.height:
            raise NotApplicableError("no decode steps with a prefill between them, beside others without")
        usual = alone.group_by("batch_size").agg(usual_ns=pl.col("itl_ns").median())
        over_all = float(alone["itl_ns"].median())  # type: ignore[arg-type]
        held_up = (
            intervals.filter(pl.col("prefills") > 0)
            .join(usual, on="batch_size", how="left", nulls_equal=True, maintain_order="left")
            .with_columns(pl.col("usual_ns").fill_null(over_all))
            .with_columns(extra_ns=pl.col("itl_ns") - pl.col("usual_ns"), ratio=pl.col("itl_ns") / pl.col("usual_ns"))
            .filter(pl.col("ratio") >= options.min_slowdown_ratio)
        )
        extra = float(held_up["extra_ns"].sum())
        share = 100 * extra / float(intervals["itl_ns"].sum())
        if not held_up.is_empty() and share >= options.min_share_pct:
            yield self._finding(intervals, held_up.sort(pl.col("extra_ns") * -1, "step_id"), extra, share)

    def _finding(self, intervals: pl.DataFrame, held_up: pl.DataFrame, extra: float, share: float) -> Finding:
        worst = held_up.row(0, named=True)
        waiting = f"{worst['waiting_batch']} running requests" if worst["waiting_batch"] else "The running requests"
        tokens = f" of {worst['prefill_tokens']:,} tokens" if worst["prefill_tokens"] else ""
        busy = worst["prefill_busy_ns"]
        return self.finding(
            f"{waiting} waited {duration(worst['itl_ns'])} for a token, {worst['ratio']:.1f}× the usual "
            f"{duration(worst['usual_ns'])}, while {counted(worst['prefills'], 'prefill')}{tokens} ran (the GPU worked for "
            f"{duration(busy)} of that); prefills take {percent(share)} of the time spent decoding.",
            key=("decode",),
            subject="prefill",
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["start_ns"] + worst["itl_ns"],
            savings_us_per_step=extra / intervals.height / 1000,
            certainty="modelled",
            evidence={
                "itl_with_prefill_ms": float(held_up["itl_ns"].median()) / 1e6,  # type: ignore[arg-type]
                "itl_without_ms": float(held_up["usual_ns"].median()) / 1e6,  # type: ignore[arg-type]
                "slowdown_ratio": worst["ratio"],
                "extra_share_of_decode_pct": share,
                "intervals": intervals.height,
                "intervals_held_up": held_up.height,
                "prefill_gpu_busy_ms": busy / 1e6,
                "held_up": [
                    {
                        "start_ns": r["start_ns"], "end_ns": r["start_ns"] + r["itl_ns"], "step_id": r["step_id"],
                        "waiting_requests": r["waiting_batch"], "prefills": r["prefills"],
                        "prefill_tokens": r["prefill_tokens"], "itl_ms": r["itl_ns"] / 1e6, "ratio": r["ratio"],
                    }
                    for r in held_up.head(8).rows(named=True)
                ],
            },
            advice=_advice(worst),
        )  # fmt: skip


def _advice(worst: dict[str, int]) -> list[str]:
    advice = ["Chunk prefills and mix them into decode steps, or limit how many may run in a row."]
    if worst["prefill_busy_ns"] < worst["itl_ns"] / 2:
        advice.append(
            "The GPU was idle for most of it: make the prefill itself faster first (launch-gap, step-outlier)."
        )
    return advice

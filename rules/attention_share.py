"""
## What it does
Fits how attention's time in a decode step grows with the length of the sequences, and says when it grows faster than
the added keys and values explain.

## Why it matters
Weights cost a decode step the same at every length, attention costs more with every token. Its slope decides how the
inter-token latency ends up at long contexts: a kernel that needs twice the time of the bytes it adds makes a step twice
as much slower as it had to be.

## How it is measured
Each decode step adds one token to every sequence, so the order of the steps is the length up to a constant. Over the
longest run of decode steps with equal batch size and equal number of attention kernels, without another kind of step
between, attention's kernel time is fitted by a line: slope, and R², the share of the variation that the line explains.
The bytes of one token (keys and values, all layers) come from the shapes of the operators that store them; over the
peak bandwidth they give the slope that no kernel can go under.

The rule fires when all of these hold: R² at least `min-r2-ratio` (the growth is one of length, not noise), the line rises
by `min-growth-pct` over the run, attention takes `min-share-pct` of the GPU busy time, and the slope is over
`max-slope-factor` times the floor. Without shapes there is no floor to compare with, and the finding says so. Fewer than
`min-steps-count` comparable steps, or no attention kernel: not applicable.

Eight steps are the fewest in which a line and its R² mean something. Twice the floor is 50 % of the bandwidth, under which
decode attention is worth a look (70 % is near optimal). Growth of 2 % is what 16 steps add to sequences of 800 tokens.

## Known problems
Attention kernels are told by name. In a server's batch sequences end and others take their place: the length then does
not grow by one, R² shows it. Kernels that split the keys by length jump when the number of splits changes.

## How to fix
Another attention backend or split size for long sequences; FP8 keys and values halve the slope; grouped-query or latent
attention divide it by the heads that share keys.

## References
docs/roofline.md: bytes of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from traceql.derived.attention_growth import Growth, attention_growth, attention_steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import duration, percent


class AttentionShare(Rule):
    code = "TQL407"
    name = "attention-share"
    summary = "Attention's time in decode grows faster with the sequence length than its bytes explain."
    severity = Severity.INFO
    needs = ("gpu_rows", "launch_links", "steps")

    @dataclass(frozen=True)
    class Options:
        min_steps_count: float = option(8, "comparable decode steps in a row")
        min_r2_ratio: float = option(0.8, "part of the variation that the line must explain")
        min_growth_pct: float = option(2.0, "rise of the line over the run")
        min_share_pct: float = option(10.0, "attention's share of the steps' GPU busy time")
        max_slope_factor: float = option(2.0, "slope over the one of the added bytes at peak bandwidth")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        if trace.capabilities.graph_replays in ("graph", "opaque"):
            raise NotApplicableError("CUDA graph replays were recorded without their kernels")
        growth = attention_growth(trace)
        count = growth.rows.height if growth else attention_steps(trace).height
        if growth is None or count < options.min_steps_count:
            raise NotApplicableError(
                f"{count} comparable decode steps in a row with attention kernels, {options.min_steps_count:g} are needed; "
                "capture more steps of one batch"
            )
        floor = growth.floor_slope_ns
        grows = growth.r2 >= options.min_r2_ratio and growth.growth_pct >= options.min_growth_pct
        matters = growth.share_pct("gpu_busy_ns") >= options.min_share_pct
        if grows and matters and (floor is None or growth.slope_ns > options.max_slope_factor * floor):
            yield self._finding(growth)

    def _finding(self, growth: Growth) -> Finding:
        last = growth.rows.row(-1, named=True)
        tokens = growth.batch_size or 1
        per_token = growth.slope_ns / tokens / 1000
        floor = growth.floor_slope_ns
        against = (
            f"{growth.slope_ns / floor:.1f} times what the added keys and values take at the peak bandwidth"
            if floor
            else "without shapes there is no floor to compare with"
        )
        share = growth.share_pct("gpu_busy_ns")
        thousand = growth.slope_ns * 1000
        return self.finding(
            f"Attention grows by {duration(growth.slope_ns)} a decode step (R² {growth.r2:.2f}) as every sequence gains "
            f"a token, {against}; it takes {percent(share)} of the GPU time now, and 1,000 tokens more add "
            f"{duration(thousand)} to a step.",
            key=("decode",),
            subject="attention",
            step_id=last["step_id"],
            start_ns=last["gpu_start_ns"],
            certainty="modelled",
            evidence={
                "slope_us_per_step": growth.slope_ns / 1000,
                "slope_us_per_kv_token": per_token if growth.batch_size else None,
                "floor_slope_us_per_step": None if floor is None else floor / 1000,
                "slope_over_floor_factor": None if not floor else growth.slope_ns / floor,
                "r2_ratio": growth.r2,
                "attention_first_us": growth.first_ns / 1000,
                "attention_last_us": growth.last_ns / 1000,
                "growth_pct": growth.growth_pct,
                "share_of_gpu_busy_pct": share,
                "share_of_period_pct": growth.share_pct("period_ns"),
                "kv_bytes_per_token": growth.kv_bytes_per_token,
                "batch_size": growth.batch_size,
                "steps": growth.rows.height,
            },
            advice=[
                "Try another attention backend or another split of the keys at this length.",
                "FP8 keys and values halve the bytes of each token.",
            ],
        )

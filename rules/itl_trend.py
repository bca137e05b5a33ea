"""
## What it does
Finds inter-token latency that grows from step to step by more than the growing KV cache explains, and says which part of
the step grows: attention, other GPU work, or GPU idle time.

## Why it matters
Every decode step adds a token to each sequence, so attention reads a little more: that growth is expected and small.
Latency that climbs faster is something else, such as host work that grows with the output (penalties, logging, a list
rebuilt each step), a fragmented cache, or a GPU that throttles.

## How it is measured
Inter-token latency (ITL) is the time from the end of one decode step's GPU work to the end of the next one's. Over each
stretch of at least `min-steps-count` decode steps of one batch size without a prefill between them, a line is fitted
through ITL against the tokens added to the KV cache. It grows when the line rises by `min-growth-pct` of its start over
the stretch and explains the variation (R² of `min-r2-score`). What the keys and values explain is the larger of two
lines: the attention kernels' time (all GPU work, where none is known by name), and the bytes of the added tokens at
peak bandwidth where their size is known. The rest must itself exceed `min-growth-pct`.

The estimate is the mean of the unexplained growth over the stretch.

`min-steps-count` is 8, the fewest for which a line and its R² mean something, and `min-r2-score` is 0.5: the line
explains more than it leaves. `min-growth-pct` is 5: ten repeats of one decode on an H200 had a standard deviation of 3
%.

## Known problems
A capture of a few dozen steps sees only fast trends. Latency that falls (caches warm up, requests finish) is no finding;
nor is a step back and forth between two levels.

## How to fix
GPU idle time grows: find what the host does more of (launch-gap, TQL101, and step-bubble, TQL103, at the end of the
stretch against its start). Other GPU work grows: compare kernels of an early and a late step; look at clocks.

## References
SGLang and vLLM documentation on inter-token latency (ITL, TPOT).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from traceql.derived.attention_growth import attention_growth
from traceql.derived.decode_intervals import undisturbed_runs
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import duration

_PARTS = {"idle_ns": "GPU idle time", "other_ns": "GPU work other than attention", "attention_ns": "attention"}


@dataclass(frozen=True)
class _Line:
    """A line over the tokens added: ``first_ns`` at its start, ``rise_ns`` over the stretch, ``slope_ns`` a token."""

    first_ns: float
    rise_ns: float
    slope_ns: float
    r2: float


class ItlTrend(Rule):
    code = "TQL601"
    name = "itl-trend"
    summary = "Inter-token latency grows faster than the KV cache explains."
    severity = Severity.WARNING
    needs = ("steps",)

    @dataclass(frozen=True)
    class Options:
        min_steps_count: int = option(8, "decode steps of one batch size in a row that make a trend")
        min_growth_pct: float = option(
            5.0, "growth over the stretch, and the part of it that keys and values do not explain"
        )
        min_r2_score: float = option(0.5, "share of the variation that the line must explain, 0-1")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        runs = undisturbed_runs(trace).filter(pl.len().over("run") >= options.min_steps_count)
        runs = runs.filter(pl.col("kv_tokens").is_not_null())
        if runs.is_empty():
            raise NotApplicableError(f"fewer than {options.min_steps_count:g} decode steps of one batch size in a row")
        if runs["gpu_busy_ns"].null_count():
            raise NotApplicableError("graph replays left no device record: what grows cannot be told")
        for _, run in runs.group_by("run", maintain_order=True):
            line = _line(run, "itl_ns")
            explained = _explained_ns(trace, run)
            unexplained = line.rise_ns - explained
            enough = options.min_growth_pct / 100 * line.first_ns
            if line.r2 >= options.min_r2_score and line.rise_ns >= enough and unexplained >= enough:
                yield self._finding(run, line, explained)

    def _finding(self, run: pl.DataFrame, line: _Line, explained: float) -> Finding:
        parts = _growing_parts(run)
        what, rise = max(parts.items(), key=lambda part: part[1])
        batch = run["batch_size"][0]
        last = line.first_ns + line.rise_ns
        return self.finding(
            f"ITL grows from {duration(line.first_ns)} to {duration(last)} over {run.height} decode steps of batch {batch} "
            f"({duration(line.slope_ns)} per KV token, R² {line.r2:.2f}); keys and values explain {duration(explained)} of it, "
            f"{what} grows by {duration(rise)}.",
            key=(batch, what),
            subject=what,
            step_id=run["step_id"][-1],
            start_ns=run["start_ns"][0],
            end_ns=run["start_ns"][-1] + run["itl_ns"][-1],
            savings_us_per_step=(line.rise_ns - explained) / 2 / 1000,
            certainty="modelled",
            evidence={
                "first_itl_ms": line.first_ns / 1e6,
                "last_itl_ms": last / 1e6,
                "growth_pct": 100 * line.rise_ns / line.first_ns,
                "slope_us_per_kv_token": line.slope_ns / 1000,
                "r2": line.r2,
                "explained_by_kv_ms": explained / 1e6,
                "steps": run.height,
                "batch": batch,
                "kv_tokens_added": run["kv_tokens"][-1],
                "growth_by_part": [{"part": part, "growth_ms": ns / 1e6} for part, ns in parts.items()],
            },
            advice=[
                "Compare a late step with an early one: gaps (launch-gap, step-bubble) where the GPU idles more, kernels where "
                "it works more."
            ],
        )


def _line(run: pl.DataFrame, column: str) -> _Line:
    at = run["kv_tokens"].to_numpy().astype(np.float64)
    time = run[column].to_numpy().astype(np.float64)
    slope, at_zero = (float(c) for c in np.polyfit(at, time, 1))
    spread = float(((time - time.mean()) ** 2).sum())
    left = float(((time - at_zero - slope * at) ** 2).sum())
    return _Line(
        at_zero + slope * float(at[0]), slope * float(at[-1] - at[0]), slope, 1 - left / spread if spread else 0.0
    )


def _explained_ns(trace: Trace, run: pl.DataFrame) -> float:
    """Growth that the keys and values account for: attention's own, at least what their bytes take to read."""
    # without attention kernels known by name, all GPU work may be attention
    attention = _line(run, "gpu_busy_ns" if run["attention_ns"].null_count() else "attention_ns").rise_ns
    fitted = attention_growth(trace)
    floor = fitted.floor_slope_ns if fitted is not None and fitted.floor_slope_ns else 0.0
    return max(attention, floor * (run.height - 1), 0.0)


def _growing_parts(run: pl.DataFrame) -> dict[str, float]:
    """Growth of each part of the interval over the stretch, largest first."""
    split = run.with_columns(attention_ns=pl.col("attention_ns").fill_null(0)).with_columns(
        other_ns=pl.col("gpu_busy_ns") - pl.col("attention_ns")
    )
    rises = {label: _line(split, column).rise_ns for column, label in _PARTS.items()}
    return dict(sorted(rises.items(), key=lambda part: -part[1]))

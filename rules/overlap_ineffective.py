"""
## What it does
Checks whether overlap scheduling does what it is for: the host's work for step N+1 should run while the GPU works on
step N. Says for which steps it does and why not for the others.

## Why it matters
An overlap scheduler is switched on and forgotten. It hides host work only while the GPU is the slower side; a decode
step launched kernel by kernel takes the host longer than the GPU, and nothing is hidden.

## How it is measured
The host's work for a step reaches from the end of its part of the step before to the end of its own. The part before the
GPU had finished the step before is hidden. The rule fires when, in the median step of a kind, less than `min-hidden-pct`
of that work is hidden and the GPU idles for more than `min-idle-pct` of the step; of several such kinds the one that takes
most of the time is reported.

The rule applies where a trace shows overlap at all: at least one step began while the GPU worked on the one before
(by more than 50 µs). A benchmark that waits for every step has no overlap to lose.

There is no estimate: the idle time is that of launch-gap (TQL101) and step-bubble (TQL103).

`min-hidden-pct` is 50: of a server's steps, those launched kernel by kernel hid 0.5 % of the host's work; behind the
one replayed from a graph the next began 2.6 ms before its GPU work had ended. `min-idle-pct` is 5: a GPU that hardly
idles needs no better overlap.

## Known problems
Host work that needs no hiding (other threads, the detokenizer process) is not seen. A profiler lengthens the host's part,
so overlap that works in production may fail in the capture: compare with the unprofiled step time.

## How to fix
Make the host's part of a step shorter than the GPU's: capture the batch size in a CUDA graph (SGLang:
`--cuda-graph-max-bs`), then look at what is left between the steps.

## References
SGLang, "Zero-overhead batch scheduler" (v0.4 release notes); vLLM documentation, asynchronous scheduling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.step_overlap import step_overlap
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration, percent

_AHEAD_NS = 50_000
"""A step that begins this long before the GPU has finished the one before was scheduled ahead."""
_ENOUGH = 3


class OverlapIneffective(Rule):
    code = "TQL603"
    name = "overlap-ineffective"
    summary = "Overlap scheduling does not hide the host's work behind the GPU's."
    severity = Severity.WARNING
    needs = ("gpu_rows", "host_calls", "steps")

    @dataclass(frozen=True)
    class Options:
        min_hidden_pct: float = option(
            50.0, "share of the host's work for a step that should run behind the step before"
        )
        min_idle_pct: float = option(5.0, "GPU idle share of the step period below which it does not matter")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        pairs = step_overlap(trace).filter((pl.col("host_ns") > 0) & (pl.col("period_ns") > 0))
        ahead = pairs.filter(pl.col("lead_ns") > _AHEAD_NS)
        if ahead.is_empty():
            raise NotApplicableError("no overlap scheduling: every step begins after the GPU work of the one before")
        if pairs["idle_ns"].null_count():
            raise NotApplicableError("graph replays left no device record: GPU idle time is not known")
        shares = pairs.with_columns(
            hidden=100 * pl.col("hidden_ns") / pl.col("host_ns"), idle=100 * pl.col("idle_ns") / pl.col("period_ns")
        )
        failing = []
        for (kind,), rows in shares.group_by("kind", maintain_order=True):
            hidden, idle = (float(rows[c].median() or 0.0) for c in ("hidden", "idle"))  # type: ignore[arg-type]
            if rows.height >= _ENOUGH and hidden < options.min_hidden_pct and idle > options.min_idle_pct:
                failing.append((int(rows["period_ns"].sum()), None if kind is None else str(kind), rows))
        if failing:  # one scheduler, one finding: for the kind of step that takes most of the time
            _, worst, rows = max(failing, key=lambda found: found[0])
            yield self._finding(pairs, rows, ahead, worst)

    def _finding(self, pairs: pl.DataFrame, rows: pl.DataFrame, ahead: pl.DataFrame, kind: str | None) -> Finding:
        row = rows.sort("hidden", "step_id").row(rows.height // 2, named=True)
        label = f"{kind} step" if kind else "step"
        eager = int((rows["graph_launches"] == 0).sum())
        why = (
            f"; {'all' if eager == rows.height else eager} of the {rows.height} {label}s were launched kernel by kernel, which "
            f"takes the host {duration(row['host_ns'])} for {duration(row['gpu_busy_ns'])} of GPU work"
            if eager > rows.height // 2 and row["host_ns"] > row["gpu_busy_ns"]
            else ""
        )
        return self.finding(
            f"Overlap scheduling hides {duration(row['hidden_ns'])} of {duration(row['host_ns'])} of host work of a {label} "
            f"({percent(row['hidden'])}) and works for {ahead.height} of {counted(pairs.height, 'step')}{why}.",
            key=(kind, eager > rows.height // 2),
            subject=row["name"] or label,
            step_id=row["step_id"],
            start_ns=row["start_ns"],
            end_ns=row["start_ns"] + row["period_ns"],
            evidence={
                "hidden_us_per_step": row["hidden_ns"] / 1000,
                "exposed_us_per_step": (row["host_ns"] - row["hidden_ns"]) / 1000,
                "hidden_pct": row["hidden"],
                "gpu_idle_pct": row["idle"],
                "gpu_busy_us_per_step": row["gpu_busy_ns"] / 1000,
                "begins_after_gpu_end_us": -row["lead_ns"] / 1000,
                "steps": rows.height,
                "steps_without_graph": eager,
                "steps_that_overlap": ahead.height,
                "overlapping": [
                    {"step_id": r["step_id"], "step": r["name"], "begins_before_gpu_end_us": r["lead_ns"] / 1000}
                    for r in ahead.head(8).rows(named=True)
                ],
                "by_batch": [
                    {
                        "batch": r["batch_size"], "graph": r["graph"], "steps": r["steps"], "hidden_pct": r["hidden"],
                        "host_us": r["host_ns"] / 1000, "gpu_busy_us": r["gpu_busy_ns"] / 1000,
                        "lead_us": r["lead_ns"] / 1000,
                    }
                    for r in _by_batch(rows).rows(named=True)
                ],
            },
            advice=_advice(eager, rows.height),
        )  # fmt: skip


def _by_batch(rows: pl.DataFrame) -> pl.DataFrame:
    graph = pl.when(pl.col("graph_launches") > 0).then(pl.lit("replayed")).otherwise(pl.lit("eager"))
    return (
        rows.group_by("batch_size", graph.alias("graph"))
        .agg(pl.col("hidden", "host_ns", "gpu_busy_ns", "lead_ns").median(), steps=pl.len())
        .sort(pl.col("steps").cast(pl.Int64) * -1, "batch_size")
        .head(8)
    )


def _advice(eager: int, steps: int) -> list[str]:
    if eager > steps // 2:
        return [
            "Capture these batch sizes in a CUDA graph (SGLang: --cuda-graph-max-bs): the host must be done before the GPU is."
        ]
    return ["Shorten the host's part of the step: see launch-bound-step (TQL102) and step-bubble (TQL103)."]

"""The first lines of a report: the step that stands for the trace, the verdict, the headline figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from traceql import metrics
from traceql.derived.step_costs import HOST_CAUSES, step_gap_parts
from traceql.finding import Severity
from traceql.report import causes, units
from traceql.report.model import Figure
from traceql.report.names import shown
from traceql.trace import Trace

if TYPE_CHECKING:
    from traceql.reporting import Report

NOT_RECORDED = "not recorded"
_SOURCES = {"torch_profiler": "PyTorch profiler", "nsys": "Nsight Systems", "ncu": "Nsight Compute"}
_WORTH_A_WORD_PCT = 1.0
"""A largest loss under this share of the step is not worth a sentence: the GPU is the limit then."""


@dataclass(frozen=True)
class StepCost:
    """One step and where its GPU time went; ``busy_ns`` is None where replays left no record."""

    step_id: int
    kind: str | None
    batch_size: int | None
    tokens: int | None
    start_ns: int
    period_ns: int
    busy_ns: int | None
    idle_ns: dict[str, int]
    steps: int
    """steps of the same kind and batch size"""
    shortest_ns: int
    longest_ns: int

    @property
    def span_ns(self) -> int:
        """What shares of the step refer to: its period, or busy plus idle where the GPU is further behind."""
        return max(self.period_ns, self._accounted_ns)

    @property
    def outside_ns(self) -> int:
        """Time of the step that is neither its GPU work nor a gap of it: a first step's start, idle that is the next one's."""
        return self.span_ns - self._accounted_ns

    @property
    def _accounted_ns(self) -> int:
        return (self.busy_ns or 0) + sum(self.idle_ns.values())

    @property
    def busy_pct(self) -> float | None:
        return None if self.busy_ns is None else 100 * self.busy_ns / self.span_ns

    @property
    def label(self) -> str:
        return step_label(self.kind, self.batch_size)


def step_label(kind: str | None, batch_size: int | None) -> str:
    """``decode bs 64``; ``step`` where the kind is unknown."""
    return (kind or "step") + (f" bs {batch_size}" if batch_size is not None else "")


def source_name(trace: Trace) -> str:
    """The profiler's product name."""
    return _SOURCES[trace.source]


def median_steps(trace: Trace) -> list[StepCost]:
    """For each kind and batch size the step that stands for it, in order of the total time they take.

    It is a real step, so every figure shown for it can be looked up: the median by share of the period that the host
    was late (as the rules choose theirs), by period where replays left no record.
    """
    steps = trace.table("steps").filter(pl.col("period_ns") > 0)
    if steps.is_empty():
        return []
    idle = idle_by_step(trace)
    late = {step_id: sum(by.get(cause, 0) for cause in HOST_CAUSES) for step_id, by in idle.items()}
    lateness = steps["step_id"].replace_strict(late, default=0, return_dtype=pl.Int64)
    ranked = steps.with_columns(
        order=pl.when(pl.col("gpu_busy_ns").is_null()).then("period_ns").otherwise(lateness / pl.col("period_ns"))
    ).sort("order", "step_id")
    chosen = (
        ranked.group_by("kind", "batch_size", maintain_order=True)
        .agg(
            pl.col("step_id").get(pl.len() // 2),
            steps=pl.len(),
            shortest=pl.col("period_ns").min(),
            longest=pl.col("period_ns").max(),
            total=pl.col("period_ns").sum(),
        )
        .sort(["total", "step_id"], descending=[True, False])
    )
    rows = chosen.join(steps.drop("kind", "batch_size"), on="step_id", how="left", maintain_order="left")
    return [
        StepCost(
            row["step_id"], row["kind"], row["batch_size"], row["tokens"], row["start_ns"], row["period_ns"],
            row["gpu_busy_ns"], idle.get(row["step_id"], {}), row["steps"], row["shortest"], row["longest"],
        )
        for row in rows.rows(named=True)
    ]  # fmt: skip


def idle_by_step(trace: Trace) -> dict[int, dict[str, int]]:
    """step_id → cause → idle ns."""
    sums = step_gap_parts(trace).group_by("step_id", "cause").agg(pl.col("dur_ns").sum())
    found: dict[int, dict[str, int]] = {}
    for step_id, cause, ns in sorted(sums.rows(), key=lambda row: (row[0], causes.order(row[1]))):
        found.setdefault(step_id, {})[cause] = ns
    return found


def verdict(trace: Trace) -> str:
    """One sentence: how long a step takes, how busy the GPU is, what the largest loss is."""
    medians = median_steps(trace)
    if not medians:
        return _without_steps(trace)
    step = medians[0]
    start = f"{_capital(shown(step.label))}: {units.ms(step.period_ns)}/step (profiled)"
    if step.busy_pct is None:
        return f"{start}, GPU busy {NOT_RECORDED}: CUDA graph replays left no device record in this trace."
    if step.busy_ns == 0:
        return f"{start}; no GPU work is linked to it."
    return f"{start}, GPU busy {units.number(step.busy_pct)} %; {_loss(trace, step)}."


def _loss(trace: Trace, step: StepCost) -> str:
    loss = causes.largest_loss(step.idle_ns | {causes.OUTSIDE: step.outside_ns})
    if loss is not None and 100 * loss[1] / step.span_ns >= _WORTH_A_WORD_PCT:
        return f"the largest loss is {units.ms(loss[1])} of {loss[0]}"
    return "almost none of it is lost to gaps"


def _without_steps(trace: Trace) -> str:
    if trace.source == "ncu":
        return f"{trace.table('ncu_kernels').height} kernels profiled one by one; no timeline to find gaps in."
    gpus = metrics.gpus(trace)
    if not gpus:
        return "No GPU work in this trace: there is nothing to measure."
    device, gpu = max(gpus.items(), key=lambda item: item[1]["span_ns"])
    idle = gpu["idle_pct"]
    busy = NOT_RECORDED if idle is None else f"{units.number(100 - idle)} %"
    return (
        f"No steps found; GPU {device} ran {gpu['kernels']:,} kernels over {units.ms(gpu['span_ns'])}, GPU busy {busy}."
    )


def figures(report: Report, trace: Trace) -> tuple[Figure, ...]:
    """Step time, throughput, GPU busy, what is recoverable, and how many findings."""
    medians = median_steps(trace)
    shown_figures = _step_figures(medians[0]) if medians else _trace_figures(trace)
    return (*shown_figures, *_recoverable(report), _findings(report))


def _step_figures(step: StepCost) -> tuple[Figure, ...]:
    value, unit = units.quantity(step.period_ns, "ns")
    found = [Figure("step time", value, unit, f"{step.period_ns:,} ns", shown(_standing_for(step)))]
    if step.tokens and step.kind in ("decode", "prefill", "mixed"):
        per_second = step.tokens / step.period_ns * 1e9
        per_token, token_unit = units.quantity(step.period_ns / step.tokens, "ns")
        found.append(
            Figure("throughput", units.number(per_second), "tokens/s", f"{per_second:,.1f} tokens/s",
                   f"{per_token} {token_unit} per token, {step.tokens:,} tokens a step")
        )  # fmt: skip
    return (*found, _busy_figure(step.busy_pct, "of that step, profiled"))


def _standing_for(step: StepCost) -> str:
    if step.steps == 1:
        return f"step {step.step_id}, the only {step.label} step"
    scale = units.scale("ns", [step.longest_ns], comfortable=1.0)
    low, high = (units.number(ns / scale.factor) for ns in (step.shortest_ns, step.longest_ns))
    return f"step {step.step_id}, the median of {step.steps} {step.label} steps ({low}–{high} {scale.unit})"


def _trace_figures(trace: Trace) -> tuple[Figure, ...]:
    gpus = metrics.gpus(trace)
    if not gpus:
        return ()
    _, gpu = max(gpus.items(), key=lambda item: item[1]["span_ns"])
    value, unit = units.quantity(gpu["span_ns"], "ns")
    idle = gpu["idle_pct"]
    span = Figure("GPU span", value, unit, f"{gpu['span_ns']:,} ns", "first to last GPU work; no steps found")
    return span, _busy_figure(None if idle is None else 100 - idle, "of that span")


def _busy_figure(busy_pct: float | None, of: str) -> Figure:
    if busy_pct is None:
        return Figure("GPU busy", NOT_RECORDED, note="graph replays left no device record")
    return Figure("GPU busy", units.number(busy_pct), "%", f"{busy_pct:.4f} %", of)


def _recoverable(report: Report) -> tuple[Figure, ...]:
    combined: float | None = getattr(report, "recoverable_us_per_step", None)
    single = [f.estimated_savings_us_per_step for f in report.found if f.estimated_savings_us_per_step]
    us = combined if combined is not None else max(single, default=None)
    if us is None:
        return ()
    value, unit = units.quantity(us, "µs", "step")
    note = "estimate, findings combined" if combined is not None else "estimate, largest single finding"
    return (Figure("recoverable", value, unit, units.exact(us, "µs", "step"), note),)


def _findings(report: Report) -> Figure:
    found = report.found
    parts = []
    for severity in sorted(Severity, reverse=True):
        number = sum(f.severity is severity for f in found)
        if number:
            plural = "s" if number > 1 and severity is not Severity.INFO else ""
            parts.append(f"{number} {severity.label}{plural}")
    return Figure(
        "finding" if len(found) == 1 else "findings",
        units.count(len(found)),
        note=", ".join(parts) or "nothing to report",
    )


def slowest(traces: Sequence[Trace]) -> int:
    """Index of the trace whose representative step takes longest; the first where none has steps."""

    def period(index: int) -> int:
        medians = median_steps(traces[index])
        return medians[0].period_ns if medians else 0

    return max(range(len(traces)), key=period)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

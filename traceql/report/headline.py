"""The first lines of a report: the step that stands for the trace, the verdict, the headline figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from traceql import metrics
from traceql.derived import memoised
from traceql.derived.distortion import unprofiled_step_ns
from traceql.derived.step_costs import step_idle
from traceql.derived.typical_steps import Alike, alike_steps
from traceql.finding import Severity
from traceql.report import causes, units
from traceql.report.model import Figure
from traceql.report.names import shown
from traceql.trace import Trace
from traceql.twins import Recording, peers

if TYPE_CHECKING:
    from traceql.reporting import Report

NOT_RECORDED = "not recorded"
_SOURCES = {"torch_profiler": "PyTorch profiler", "nsys": "Nsight Systems", "ncu": "Nsight Compute"}
_WORTH_A_WORD_PCT = 1.0
"""A largest loss under this share of the step is not worth a sentence: the GPU is the limit then."""

_RECORDED_TOLD = 8
"""Modes and runs whose unprofiled step stands at the top of a report; of more nobody reads them."""


@dataclass(frozen=True)
class StepCost:
    """One step and where the time of its device went; ``busy_ns`` is None where that is not recorded."""

    step_id: int
    kind: str | None
    batch_size: int | None
    tokens: int | None
    start_ns: int
    period_ns: int
    busy_ns: int | None
    lead_in_ns: int
    """idle before its first GPU work that no gap covers: it is the first on its device"""
    device: int | None
    devices: int
    idle_ns: dict[str, int]
    steps: int
    """steps of the same kind and batch size"""
    counted: int
    """of these, the ones it was chosen from"""
    shortest_ns: int
    longest_ns: int

    @property
    def span_ns(self) -> int:
        """What shares of the step refer to: its period, or busy plus idle where the GPU is further behind."""
        return max(self.period_ns, self._accounted_ns)

    @property
    def outside_ns(self) -> int:
        """Time of the step that is neither its GPU work nor a gap of it: a first step's lead-in, idle that is the next one's."""
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


@memoised
def median_steps(trace: Trace) -> list[StepCost]:
    """For each kind and batch size the step that stands for it, as ``derived.typical_steps`` chooses and orders them."""
    idle = idle_by_step(trace)
    steps = {row["step_id"]: row for row in trace.table("steps").rows(named=True)}
    return [_cost(alike, steps[alike.step_id], idle.get(alike.step_id, {})) for alike in alike_steps(trace)]


def _cost(alike: Alike, row: Mapping[str, Any], idle_ns: dict[str, int]) -> StepCost:
    return StepCost(
        row["step_id"], row["kind"], alike.batch_size, row["tokens"], row["start_ns"], row["period_ns"],
        row["gpu_busy_ns"], row["lead_in_ns"] or 0, row["device"], row["devices"], idle_ns, alike.steps,
        len(alike.step_ids), alike.shortest_ns, alike.longest_ns,
    )  # fmt: skip


@memoised
def idle_by_step(trace: Trace) -> dict[int, dict[str, int]]:
    """step_id → cause → idle ns."""
    sums = step_idle(trace).group_by("step_id", "cause").agg(pl.col("ns").sum())
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
    unprofiled = unprofiled_ns(trace, step)
    beside = "" if unprofiled is None else f", {units.ms(unprofiled)} without the profiler"
    start = f"{_capital(shown(step.label))}: {units.ms(step.period_ns)}/step (profiled{beside})"
    on = f" on device {step.device}, the busiest of {step.devices}" if step.devices > 1 else ""
    if step.busy_pct is None:
        return f"{start}, GPU busy {NOT_RECORDED}: {metrics.unrecorded_reason(trace)}."
    if step.busy_ns == 0:
        return f"{start}; no GPU work is linked to it."
    return f"{start}, GPU busy {units.number(step.busy_pct)} %{on}; {_loss(step, waiting_ns(trace, step))}."


def unprofiled_ns(trace: Trace, step: StepCost) -> int | None:
    """What the decode step takes without the profiler, where the run measured it."""
    return unprofiled_step_ns(trace) if step.kind in (None, "decode") else None


def waiting_ns(trace: Trace, step: StepCost) -> int:
    """Time of the step in which its device did nothing but wait for other ranks in a collective."""
    found = trace.table("collective_overlap").filter(
        (pl.col("step_id") == step.step_id) & (pl.col("device") == step.device)
    )
    alone = found.select(pl.col("exposed_ns") - pl.min_horizontal("exposed_ns", "transfer_ns"))
    return int(alone.to_series().sum())


def _loss(step: StepCost, waiting: int) -> str:
    first = min(step.lead_in_ns, step.outside_ns)
    start_up = f"{units.ms(first)} of start-up before its first GPU work; " if _notable(first, step.span_ns) else ""
    rest = step.span_ns - first
    loss = causes.largest_loss(step.idle_ns | {causes.OUTSIDE: step.outside_ns - first, causes.WAITING: waiting})
    if loss is not None and _notable(loss[1], rest):
        return f"{start_up}the largest loss is {units.ms(loss[1])} of {loss[0]}"
    return f"{start_up}almost none of {'the rest' if start_up else 'it'} is lost to gaps"


def _notable(ns: int, of_ns: int) -> bool:
    return 100 * ns >= _WORTH_A_WORD_PCT * of_ns > 0


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
    shown_figures = _step_figures(trace, medians[0]) if medians else _trace_figures(trace)
    together = _recoverable(report, trace, medians[0].step_id) if medians else ()
    return (*shown_figures, *together, _findings(report))


def _step_figures(trace: Trace, step: StepCost) -> tuple[Figure, ...]:
    value, unit = units.quantity(step.period_ns, "ns")
    unprofiled = unprofiled_ns(trace, step)
    beside = "" if unprofiled is None else f"{units.ms(unprofiled)} without the profiler; "
    found = [Figure("step time", value, unit, f"{step.period_ns:,} ns", shown(beside + _standing_for(step)))]
    if step.tokens and step.kind in ("decode", "prefill", "mixed"):
        step_ns = step.period_ns if unprofiled is None else unprofiled
        per_second = step.tokens / step_ns * 1e9
        per_token, token_unit = units.quantity(step_ns / step.tokens, "ns")
        without = "" if unprofiled is None else ", without the profiler"
        found.append(
            Figure("throughput", units.number(per_second), "tokens/s", f"{per_second:,.1f} tokens/s",
                   f"{per_token} {token_unit} per token, {step.tokens:,} tokens a step{without}")
        )  # fmt: skip
    on = f", device {step.device}" if step.devices > 1 else ""
    honest = "" if unprofiled is None else _honest_busy(step, unprofiled)
    return (*found, _busy_figure(trace, step.busy_pct, f"of that step, profiled{on}{honest}"))


def _honest_busy(step: StepCost, unprofiled: int) -> str:
    """The device's share of the unprofiled step; nothing where that is not known to be a share."""
    if not step.busy_ns or step.busy_ns > unprofiled:
        return ""
    return f"; {units.number(100 * step.busy_ns / unprofiled)} % of the unprofiled one"


def _standing_for(step: StepCost) -> str:
    if step.steps == 1:
        return f"step {step.step_id}, the only {step.label} step"
    scale = units.scale("ns", [step.longest_ns], comfortable=1.0)
    low, high = (units.number(ns / scale.factor) for ns in (step.shortest_ns, step.longest_ns))
    chosen = "the median" if step.counted > 1 else "the one"
    left_out = "" if step.counted == step.steps else ", first or last of the recording left out"
    return f"step {step.step_id}, {chosen} of {step.steps} {step.label} steps ({low}–{high} {scale.unit}{left_out})"


def _trace_figures(trace: Trace) -> tuple[Figure, ...]:
    gpus = metrics.gpus(trace)
    if not gpus:
        return ()
    _, gpu = max(gpus.items(), key=lambda item: item[1]["span_ns"])
    value, unit = units.quantity(gpu["span_ns"], "ns")
    idle = gpu["idle_pct"]
    span = Figure("GPU span", value, unit, f"{gpu['span_ns']:,} ns", "first to last GPU work; no steps found")
    return span, _busy_figure(trace, None if idle is None else 100 - idle, "of that span")


def _busy_figure(trace: Trace, busy_pct: float | None, of: str) -> Figure:
    if busy_pct is None:
        return Figure("GPU busy", NOT_RECORDED, note=shown(metrics.unrecorded_reason(trace)))
    return Figure("GPU busy", units.number(busy_pct), "%", f"{busy_pct:.4f} %", of)


def _recoverable(report: Report, trace: Trace, step_id: int) -> tuple[Figure, ...]:
    """What the step shown would save with its findings fixed together, of several ranks the one's that would save most: the
    others wait for it. Where none of them could be timed again, the largest estimate there is."""
    index = next(i for i, each in enumerate(report.traces) if each is trace)
    shown_steps = {index: step_id}
    for peer in peers(report.recordings, index):
        medians = median_steps(report.traces[peer])
        shown_steps.setdefault(peer, medians[0].step_id if medians else -1)
    modelled = [r for r in report.recoverable if shown_steps.get(r.trace) == r.step_id]
    together = max(modelled, key=lambda r: (r.estimated_savings_us_per_step, r.trace == index), default=None)
    if together is not None:
        us, count = together.estimated_savings_us_per_step, len(together.findings)
        note = f"estimate, {count} findings fixed together" if count > 1 else "estimate, one finding fixed"
        if len(shown_steps) > 1:
            note += f" on rank {report.traces[together.trace].rank}, where most is"
        if together.profiled_savings_us_per_step is not None:
            recorded, unit = units.quantity(together.profiled_savings_us_per_step, "µs", "step")
            note += f", of the unprofiled step; {recorded} {unit} of the profiled one"
    else:
        single = [f.estimated_savings_us_per_step for f in report.found if f.estimated_savings_us_per_step]
        if not single:
            return ()
        us, note = max(single), "estimate, largest single finding"
    value, unit = units.quantity(us, "µs", "step")
    return (Figure("recoverable", value, unit, units.exact(us, "µs", "step"), note),)


def _findings(report: Report) -> Figure:
    found = report.entries
    parts = []
    for severity in sorted(Severity, reverse=True):
        number = sum(entry.severity is severity for entry in found)
        if number:
            plural = "s" if number > 1 and severity is not Severity.INFO else ""
            parts.append(f"{number} {severity.label}{plural}")
    return Figure(
        "finding" if len(found) == 1 else "findings",
        units.count(len(found)),
        note=", ".join(parts) or "nothing to report",
    )


def without_profiler(traces: Sequence[Trace], recordings: Sequence[Recording | None]) -> str:
    """The steps that the manifests measured without a profiler, by run and mode, in a sentence; empty where fewer than two
    are told."""
    known: dict[tuple[str, str], int] = {}
    for trace, each in zip(traces, recordings, strict=True):
        ns = unprofiled_step_ns(trace)
        if each is not None and each.mode is not None and ns is not None:
            known.setdefault((each.run, each.mode), ns)
    if not 2 <= len(known) <= _RECORDED_TOLD:
        return ""
    runs, modes = ({key[at] for key in known} for at in (0, 1))
    told = [
        " ".join(
            [
                *([shown(Path(run).name)] if len(runs) > 1 else []),
                *([shown(mode)] if len(modes) > 1 else []),
                units.ms(ns),
            ]
        )
        for (run, mode), ns in sorted(known.items())
    ]
    return f"A decode step without the profiler: {', '.join(told)}."


def slowest(traces: Sequence[Trace]) -> int:
    """Index of the trace whose representative step takes longest; the first where none has steps."""

    def period(index: int) -> int:
        medians = median_steps(traces[index])
        return medians[0].period_ns if medians else 0

    return max(range(len(traces)), key=period)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

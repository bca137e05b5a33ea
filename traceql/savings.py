"""What fixing findings would save, alone and together: the step that stands for its kind, timed again without them.

Rules say what a fix takes out (``traceql.fix``); what that is worth is worked out here, the same way for all of them and
on one step a kind, so that the savings of a report belong together: together they are at least the largest of them, and
never more than the step's period less its GPU work where only host time goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from traceql.derived import intervals
from traceql.derived.distortion import host_time_ratio
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.steps import steps
from traceql.derived.typical_steps import kinds_of_step
from traceql.derived.what_if import StepModel, not_modelled, step_model
from traceql.finding import Finding
from traceql.fix import RETIMED, Fix
from traceql.trace import Trace


@dataclass(frozen=True)
class Shared:
    """Time that fixing either of two findings saves: savings to be added up hold it twice.

    Attributes:
        findings: fingerprints of the two, the one that saves more first.
        us_per_step: how much more the two save apart than together, in the terms of their estimated savings.
    """

    findings: tuple[str, str]
    us_per_step: float


@dataclass(frozen=True)
class Recoverable:
    """What a step would save with all findings fixed that were timed again on it.

    Attributes:
        trace: index of the trace in the report.
        step_id, kind, batch_size: the step.
        period_ns: its period as recorded.
        gpu_busy_ns: how long the device works between its first and last operation.
        estimated_savings_us_per_step: what it saves; of an unprofiled step where that one's length is known.
        profiled_savings_us_per_step: what the recorded step saves; None where that is the same.
        findings: fingerprints of the findings.
        shared: what two of them both save, where that is a good part of either; of the findings that save most.
    """

    trace: int
    step_id: int
    kind: str | None
    batch_size: int | None
    period_ns: int
    gpu_busy_ns: int
    estimated_savings_us_per_step: float
    profiled_savings_us_per_step: float | None
    findings: tuple[str, ...]
    shared: tuple[Shared, ...] = ()


_COMPARED = 12
"""Findings of one step that are held against each other, the ones that save most: it takes a re-timing a pair."""
_WORTH_TELLING = 0.1
"""Share of the smaller saving that two findings must have in common."""
_SHARE = "share_of_steps_pct"


def priced(finding: Finding, trace: Trace) -> Finding:
    """The finding with its saving, where it says what a fix would remove.

    The step is the one that stands for the finding's kind; where the fix changes nothing in that, the finding's own, and
    the saving counts for the share of steps that have any of it. The evidence says what the saving rests on and which step
    was timed again where that is not the finding's own; where none could be, why.
    """
    if finding.fix is None or finding.fix.is_empty or finding.step_id is None:
        return finding
    model = _model_for(finding, trace)
    if isinstance(model, str):
        evidence = {**finding.evidence, "savings_unknown_because": model}
        return dataclasses.replace(finding, evidence=evidence, estimated_savings_us_per_step=None)
    us, profiled_us = _saved_us(trace, model, finding.fix)
    told: dict[str, Any] = {"savings_basis": RETIMED}
    if model.step_id not in {alike.step_id for alike in kinds_of_step(trace)}:
        share = _share_of_steps(trace, finding.fix, model.step_id)
        us, profiled_us = share * us, None if profiled_us is None else share * profiled_us
        told[_SHARE] = 100 * share
    if profiled_us is not None:
        told["profiled_savings_us_per_step"] = profiled_us
    if model.step_id != finding.step_id:
        told["savings_step_id"] = model.step_id
    return dataclasses.replace(finding, evidence={**finding.evidence, **told}, estimated_savings_us_per_step=us)


def recoverable(trace: Trace, findings: Iterable[Finding], index: int = 0) -> tuple[Recoverable, ...]:
    """For each step that findings of the trace were timed again on, what it would save without all of them; the kind of
    step that takes most time first. What two findings both remove counts once."""
    by_step: dict[int, list[Finding]] = {}
    for finding in findings:
        if finding.fix is not None and finding.estimated_savings_us_per_step is not None:
            by_step.setdefault(_priced_on(finding), []).append(finding)
    order = {alike.step_id: place for place, alike in enumerate(kinds_of_step(trace))}
    return tuple(
        _together(trace, step_id, by_step[step_id], index)
        for step_id in sorted(by_step, key=lambda step_id: (order.get(step_id, len(order)), step_id))
    )


def _priced_on(finding: Finding) -> int:
    step_id: int = finding.evidence.get("savings_step_id", finding.step_id)
    return step_id


def _together(trace: Trace, step_id: int, findings: list[Finding], index: int) -> Recoverable:
    model = step_model(trace, step_id)
    assert model is not None  # priced on it
    us, profiled_us = _saved_us(trace, model, Fix.union(f.fix for f in findings if f.fix is not None))
    row = steps(trace).row(by_predicate=pl.col("step_id") == step_id, named=True)
    return Recoverable(
        index, step_id, row["kind"], row["batch_size"], model.measured_ns, model.busy_ns, us, profiled_us,
        tuple(sorted({f.fingerprint for f in findings})), _shared(trace, model, findings),
    )  # fmt: skip


def _shared(trace: Trace, model: StepModel, findings: list[Finding]) -> tuple[Shared, ...]:
    """What the findings that save most on the step save twice when their savings are added."""
    saving = {id(f): f.estimated_savings_us_per_step or 0.0 for f in findings}
    most = sorted((f for f in findings if saving[id(f)] > 0), key=lambda f: (-saving[id(f)], f.code, f.fingerprint))
    pairs = combinations(most[:_COMPARED], 2)
    found = [
        Shared((more.fingerprint, less.fingerprint), us)
        for more, less in pairs
        if (us := _common_us(trace, model, more, less)) >= _WORTH_TELLING * saving[id(less)]
    ]
    return tuple(found)


def _common_us(trace: Trace, model: StepModel, one: Finding, other: Finding) -> float:
    assert one.fix is not None and other.fix is not None
    alone, also, both = (_saved_us(trace, model, fix)[0] for fix in (one.fix, other.fix, one.fix | other.fix))
    share: float = min(finding.evidence.get(_SHARE, 100.0) for finding in (one, other)) / 100
    return share * (alone + also - both)


def _model_for(finding: Finding, trace: Trace) -> StepModel | str:
    """The step that stands for the finding's kind, or its own where the fix changes nothing in that one; why not, where
    neither can be timed again."""
    assert finding.step_id is not None and finding.fix is not None
    own = steps(trace).filter(pl.col("step_id") == finding.step_id)["kind"].to_list()
    usual = [alike.step_id for alike in kinds_of_step(trace) if [alike.kind] == own]
    for step_id in [*usual, finding.step_id]:
        model = step_model(trace, step_id)
        if model is not None and model.touches(finding.fix):
            return model
    model = step_model(trace, finding.step_id)
    return model or f"step {finding.step_id} cannot be timed again: {not_modelled(trace, finding.step_id)}"


def _share_of_steps(trace: Trace, fix: Fix, step_id: int) -> float:
    """Share of the steps of this one's kind that the fix changes something in, at least one."""
    period = steps(trace).select(
        "step_id", "kind", "pid", "start_ns", end_ns=pl.col("start_ns") + pl.col("period_ns")
    )  # fmt: skip
    calls = trace.loaded["runtime_calls"].join(fix.released, on="call_id", how="semi")
    points = pl.concat([frame.select("pid", "start_ns") for frame in (fix.host, fix.way, calls)])
    on_host = intervals.holding(points, "start_ns", period, "step_id", ["pid"])["step_id"]
    on_device = gpu_ops(trace).join(fix.gpu, on="gpu_op_id", how="semi")["step_id"]
    touched = pl.concat([on_host, on_device]).drop_nulls().unique()
    kind = period.filter(pl.col("step_id") == step_id)["kind"].implode()
    alike = period.filter(pl.col("kind").is_in(kind, nulls_equal=True))
    return max(int(alike["step_id"].is_in(touched.implode()).sum()), 1) / alike.height


def _saved_us(trace: Trace, model: StepModel, fix: Fix) -> tuple[float, float | None]:
    """What the step saves, µs, and what the recorded one does where the profiler stretched it.

    A profiler slows the host and not the GPU: what is saved beyond the device's own time shrinks as the step does.
    """
    saved = model.saving_ns(fix)
    ratio = host_time_ratio(trace, model.step_id)
    if ratio is None or ratio >= 1:
        return saved / 1000, None
    of_device = model.saving_ns(Fix.device_time(fix.gpu))
    return (of_device + ratio * (saved - of_device)) / 1000, saved / 1000

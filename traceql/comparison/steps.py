"""Two traces side by side: one typical step of each, and what makes the difference between them.

The period of either step is cut into parts that add up to it (``derived.period_parts``), so the differences of the
parts add up to the difference of the periods: exactly, to the nanosecond. Which parts belong together is told by role
(the kernel's place in the block, the cause of idle time) and, within a role, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from traceql.context import context
from traceql.derived.graphs import graph_boundaries
from traceql.derived.layers import layers
from traceql.derived.ops import op_costs
from traceql.derived.period_parts import OUTSIDE, main_device, period_parts, period_roles
from traceql.derived.step_metrics import METRICS, step_metrics
from traceql.derived.typical_steps import counting, middle, timed_steps
from traceql.errors import UsageError
from traceql.run_manifest import UNPROFILED
from traceql.trace import Trace
from traceql.wording import duration

Status = Literal["appeared", "vanished", "slower", "faster", "same", "not comparable"]

Detail = Literal["alike", "replays", "opaque"]
"""How finely both sides recorded their GPU work: *alike*; *replays*: whole replays on one side, kernels on the other;
*opaque*: replays without any device record on one side, recorded work on the other."""

_OPAQUE_SHARE = 0.01
"""Share of a period from which on what is not recorded decides that two sides cannot be compared part by part."""
_REPLAY = "graph replay"
_IN_GRAPH = "in-graph"

_NOTICEABLE_NS = 1_000
_NOTICEABLE_PCT = 2.0
"""A part that changed by less than both is the same: kernels vary by that from step to step."""


@dataclass(frozen=True)
class Side:
    """One trace and the step that stands for its kind, as ``derived.typical_steps`` chooses it."""

    trace: Trace
    step_id: int
    kind: str | None
    batch_size: int | None
    period_ns: int
    steps: int

    @property
    def label(self) -> str:
        """``decode step, batch 64``."""
        name = f"{self.kind} step" if self.kind else "step"
        return f"{name}, batch {self.batch_size}" if self.batch_size is not None else name


@dataclass(frozen=True)
class Figure:
    """A metric of the step on both sides, null where a trace cannot tell."""

    name: str
    unit: str
    base: float | None
    head: float | None


@dataclass(frozen=True)
class Contribution:
    """One part of the periods: device time by ``what`` (gpu, idle or unrecorded), role and, where split so far, name.

    ``comparable`` is false where one side did not record what the other did: then a zero says nothing.
    """

    what: str
    role: str
    name: str | None
    base_count: int
    head_count: int
    base_ns: int
    head_ns: int
    comparable: bool = True

    @property
    def delta_ns(self) -> int:
        return self.head_ns - self.base_ns

    @property
    def status(self) -> Status:
        if not self.comparable:
            return "not comparable"
        if not self.base_ns and not self.base_count:
            return "appeared"
        if not self.head_ns and not self.head_count:
            return "vanished"
        if abs(self.delta_ns) < max(_NOTICEABLE_NS, _NOTICEABLE_PCT / 100 * self.base_ns):
            return "same"
        return "slower" if self.delta_ns > 0 else "faster"


@dataclass(frozen=True)
class OpChange:
    """An operator on both sides, per step over all steps of the trace, ns; descriptive."""

    name: str
    base_calls: float
    head_calls: float
    base_cpu_ns: float
    head_cpu_ns: float
    base_device_ns: float
    head_device_ns: float


@dataclass(frozen=True)
class StepComparison:
    """Base against head. ``roles`` and ``parts`` each add up to ``delta_ns``, largest change first."""

    base: Side
    head: Side
    figures: tuple[Figure, ...]
    roles: tuple[Contribution, ...]
    parts: tuple[Contribution, ...]
    ops: tuple[OpChange, ...]
    notes: tuple[str, ...]
    detail: Detail = "alike"

    @property
    def delta_ns(self) -> int:
        """Difference of the step periods, head minus base."""
        return self.head.period_ns - self.base.period_ns

    def share_pct(self, contribution: Contribution) -> float | None:
        """Its share of the difference; None when the periods are equal, or it is not recorded alike on both sides."""
        if not self.delta_ns or not contribution.comparable:
            return None
        return 100 * contribution.delta_ns / self.delta_ns

    @property
    def cancels(self) -> bool:
        """Whether gains and losses nearly cancel, so that shares of the difference say little: it is less than a
        quarter of what moved."""
        moved = sum(abs(c.delta_ns) for c in self.roles)
        return 4 * abs(self.delta_ns) < moved


def compare(base: Trace, head: Trace, *, kind: str | None = None, batch_size: int | None = None) -> StepComparison:
    """Compare the typical steps of two traces; UsageError where they have no kind of step in common.

    Without ``kind``: the kind both have that takes most time. Without ``batch_size``: the batch size both have that
    takes most time, else the main one of each side.
    """
    chosen = kind if kind is not None else _common_kind(base, head)
    sizes = _batch_sizes(base, head, chosen, batch_size)
    one, other = _side(base, chosen, sizes[0]), _side(head, chosen, sizes[1])
    detail = _detail(one, other)
    return StepComparison(
        one,
        other,
        figures=_figures(one, other),
        roles=_contributions(one, other, detail, by=["what", "role"]),
        parts=_contributions(one, other, detail, by=["what", "role", "name"]),
        ops=_ops(base, head),
        notes=tuple(_notes(one, other)),
        detail=detail,
    )


# --- which steps -----------------------------------------------------------------------------------------------------


def _common_kind(base: Trace, head: Trace) -> str | None:
    totals = [dict(timed_steps(t).group_by("kind").agg(pl.col("period_ns").sum()).rows()) for t in (base, head)]
    for trace, total in zip((base, head), totals, strict=True):
        if not total:
            raise UsageError(
                f"{trace.path.name}: no steps found, nothing to compare; `traceql tables` shows what is in it"
            )
    common = totals[0].keys() & totals[1].keys()
    if not common:
        kinds = [", ".join(sorted(str(k or "unknown") for k in total)) for total in totals]
        raise UsageError(
            f"no kind of step in common: {base.path.name} has {kinds[0]}, {head.path.name} has {kinds[1]} steps"
        )
    kind: str | None = max(common, key=lambda k: (totals[0][k] + totals[1][k], str(k)))
    return kind


def _batch_sizes(base: Trace, head: Trace, kind: str | None, wanted: int | None) -> tuple[int | None, int | None]:
    if wanted is not None:
        return wanted, wanted
    totals = [
        dict(_of_kind(timed_steps(t), kind).group_by("batch_size").agg(pl.col("period_ns").sum()).rows())
        for t in (base, head)
    ]
    common = totals[0].keys() & totals[1].keys()
    if common:
        size: int | None = max(common, key=lambda s: (totals[0][s] + totals[1][s], s or 0))
        return size, size
    mains = [max(total, key=lambda s: (total[s], s or 0), default=None) for total in totals]
    return mains[0], mains[1]


def _of_kind(steps: pl.DataFrame, kind: str | None) -> pl.DataFrame:
    return steps.filter(pl.col("kind").eq_missing(pl.lit(kind, pl.String)))


def _side(trace: Trace, kind: str | None, batch_size: int | None) -> Side:
    alike = _of_kind(timed_steps(trace), kind).filter(pl.col("batch_size").eq_missing(pl.lit(batch_size, pl.Int64)))
    if alike.is_empty():
        meant = f"{kind or ''} step" + (f" of batch size {batch_size}" if batch_size is not None else "")
        has = timed_steps(trace).select("kind", "batch_size").unique().sort("kind", "batch_size").rows()
        listed = ", ".join(f"{k or 'unknown'} {b if b is not None else ''}".strip() for k, b in has)
        raise UsageError(f"{trace.path.name}: no {meant.strip()}; it has: {listed or 'no steps'}")
    typical = middle(counting(alike), "period_ns")
    return Side(trace, typical["step_id"], kind, batch_size, typical["period_ns"], alike.height)


# --- what differs ----------------------------------------------------------------------------------------------------


def _detail(base: Side, head: Side) -> Detail:
    """How finely the two sides recorded."""

    def holds(side: Side, rows: pl.Expr) -> bool:
        found = int(period_parts(side.trace, side.step_id).filter(rows)["ns"].sum())
        return found > _OPAQUE_SHARE * side.period_ns

    for detail, rows in (("opaque", pl.col("what") == "unrecorded"), ("replays", pl.col("role") == _REPLAY)):
        if holds(base, rows) != holds(head, rows):
            return detail  # type: ignore[return-value]
    return "alike"


def _comparable(what: str, role: str, detail: Detail) -> bool:
    if detail == "replays":
        return what == "idle" and role != _IN_GRAPH
    return detail == "alike"


def _contributions(base: Side, head: Side, detail: Detail, *, by: list[str]) -> tuple[Contribution, ...]:
    named = "name" in by
    sums = [(period_parts if named else period_roles)(side.trace, side.step_id) for side in (base, head)]
    joined = (
        sums[0]
        .join(sums[1], on=by, how="full", coalesce=True, nulls_equal=True, suffix="_head")
        .with_columns(pl.col("count", "ns", "count_head", "ns_head").fill_null(0))
        .sort((pl.col("ns_head") - pl.col("ns")).abs() * -1, *by)
    )
    name = pl.col("name") if named else pl.lit(None, pl.String).alias("name")
    rows = joined.select("what", "role", name, "count", "count_head", "ns", "ns_head").rows()
    return tuple(
        Contribution(what, role, part, count, count_head, ns, ns_head, _comparable(what, role, detail))
        for what, role, part, count, count_head, ns, ns_head in rows
    )


def _figures(base: Side, head: Side) -> tuple[Figure, ...]:
    values = [_step_figures(side) for side in (base, head)]
    return tuple(Figure(name, unit, values[0][name], values[1][name]) for name, unit in _FIGURES.items())


_FIGURES = {"unprofiled_step_ns": "ns"} | {name: metric.unit for name, metric in METRICS.items()} | {
    "graph_boundaries": "", "idle_at_boundaries_ns": "ns", "layers": "", "kernels_per_layer": "", "layer_busy_ns": "ns",
}  # fmt: skip


def _step_figures(side: Side) -> dict[str, Any]:
    own = pl.col("step_id") == side.step_id
    found = step_metrics(side.trace).filter(own).row(0, named=True)
    boundaries = graph_boundaries(side.trace).filter(own)
    device = main_device(side.trace, side.step_id)
    block = layers(side.trace).filter(own & (pl.col("device") == device))
    stated = side.trace.loaded["metadata"].filter(pl.col("key") == UNPROFILED)["value"]
    return found | {
        "unprofiled_step_ns": float(stated[0]) * 1e6 if len(stated) else None,
        "graph_boundaries": boundaries.height if found["graph_segments"] is not None else None,
        "idle_at_boundaries_ns": boundaries["idle_ns"].sum() if found["graph_segments"] is not None else None,
        "layers": block.height or None,
        "kernels_per_layer": block["kernels"].median(),
        "layer_busy_ns": block["gpu_busy_ns"].median(),
    }


def _ops(base: Trace, head: Trace) -> tuple[OpChange, ...]:
    """Operators of both traces, largest change of host time first; none where a side recorded none."""
    if not (base.capabilities.cpu_ops and head.capabilities.cpu_ops):
        return ()
    columns = ["calls", "self_cpu_with_launch_ns", "device_ns"]
    sums = [op_costs(t).select("name", pl.col(columns) / max(1, t.table("steps").height)) for t in (base, head)]
    joined = (
        sums[0]
        .join(sums[1], on="name", how="full", coalesce=True, suffix="_head")
        .with_columns(pl.exclude("name").fill_null(0.0))
        .sort((pl.col("self_cpu_with_launch_ns_head") - pl.col("self_cpu_with_launch_ns")).abs() * -1, "name")
    )
    ordered = ["name", *(f"{column}{side}" for column in columns for side in ("", "_head"))]
    return tuple(OpChange(*row) for row in joined.select(ordered).rows())


def _notes(base: Side, head: Side) -> list[str]:
    """What a reader must know before trusting the difference."""
    differing = context(head.trace).differences(context(base.trace))
    notes = [f"Not the same conditions: {', '.join(differing)}."] if differing else []
    for which, side in (("base", base), ("head", head)):
        parts = period_parts(side.trace, side.step_id)
        hidden = int(parts.filter(pl.col("what") == "unrecorded")["ns"].sum())
        if hidden:
            notes.append(
                f"{which}: {duration(hidden)} of the step may be graph replays that left no device record; "
                "their kernels cannot be compared. Record both with `nsys profile --cuda-graph-trace=node`."
            )
        outside = int(parts.filter(pl.col("role") == OUTSIDE)["ns"].sum())
        if outside > side.period_ns / 100:
            notes.append(f"{which}: {duration(outside)} of the step lie before the first or after the last GPU work.")
        if parts.is_empty():
            notes.append(f"{which}: the step has no GPU work in the trace; nothing explains its period.")
        if side.steps < 3:
            notes.append(
                f"{which}: only {side.steps} such step{'s' if side.steps > 1 else ''}; the median is of little worth."
            )
    return notes

"""Steps: where the time of each kind went, the table, the series over time, the ranks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from traceql.derived.overhead_chain import step_chain
from traceql.report import causes, units
from traceql.report.evidence import column
from traceql.report.headline import NOT_RECORDED, StepCost, idle_by_step, median_steps, step_label
from traceql.report.model import Cell, Chain, Column, Part, Place, StepPoint, Table
from traceql.report.names import shown
from traceql.trace import Trace

MAX_STEPS = 200
"""Rows of the step table and points of the series."""
_MAX_CHAINS = 8
_WORTH_SHOWING = 0.005
"""Less than half a percent outside a step's GPU work is the offset between host and GPU; it is not drawn."""


def chains(trace: Trace) -> tuple[Chain, ...]:
    """Where the time went in the step that stands for each kind and batch size."""
    found = median_steps(trace)[:_MAX_CHAINS]
    scale = units.scale("ns", [step.span_ns for step in found], comfortable=1.0)
    host = {row["step_id"]: row for row in step_chain(trace).rows(named=True)} if found else {}
    return tuple(_chain(step, host.get(step.step_id, {}), scale) for step in found)


def _chain(step: StepCost, host: Mapping[str, Any], scale: units.Scale) -> Chain:
    label = shown(step.label[:1].upper() + step.label[1:])
    total = f"{units.number((step.span_ns if step.busy_ns else step.period_ns) / scale.factor)} {scale.unit}"
    host_ns = host.get("host_ns") or 0
    whole = max(step.span_ns if step.busy_ns else step.period_ns, host_ns)
    host_parts = _host_parts(host, whole) if host_ns else ()
    host_total = units.ms(host_ns) if host_ns else ""
    if not step.busy_ns:
        lacking = f"GPU time {NOT_RECORDED}" if step.busy_ns is None else "no GPU work is linked to this step"
        return Chain(label, (), total, host_parts, host_total, known=False, note=lacking)
    amounts = {"busy": step.busy_ns} | step.idle_ns
    if step.outside_ns > _WORTH_SHOWING * step.span_ns:
        amounts[causes.OUTSIDE] = step.outside_ns
    of = f"step {step.step_id}" + (f", the median of {step.steps}" if step.steps > 1 else "")
    return Chain(label, causes.parts(amounts, whole), total, host_parts, host_total, note=of)


def _host_parts(host: Mapping[str, Any], whole_ns: int) -> tuple[Part, ...]:
    return tuple(
        Part(words, key.removesuffix("_ns").replace("_", "-"), host[key], 100 * host[key] / whole_ns,
             units.ms(host[key]), f"{host[key]:,} ns")
        for key, words in causes.HOST_LABELS.items() if host[key]
    )  # fmt: skip


_STEP_COLUMNS = {
    "step_id": "step", "kind": "kind", "batch_size": "batch", "tokens": "tokens", "period_ns": "period_ns",
    "dur_ns": "host_ns", "gpu_busy_ns": "gpu_busy_ns", "gpu_idle_ns": "gpu_idle_ns", "busy_pct": "busy_pct",
    "kernels": "kernels", "launch_calls": "launch_calls", "graph_launches": "graph_launches",
    "graph_segments": "segments",
}  # fmt: skip
"""Column of the frame → key whose unit the header shows."""


def step_table(trace: Trace, index: int) -> Table | None:
    """One row a step; columns that say nothing in this trace are left out."""
    steps = trace.table("steps").with_columns(
        busy_pct=100
        * pl.col("gpu_busy_ns")
        / pl.max_horizontal("period_ns", pl.col("gpu_busy_ns") + pl.col("gpu_idle_ns")),
        end_ns=pl.col("start_ns") + pl.col("period_ns"),
    )
    if steps.is_empty():
        return None
    kept = steps.head(MAX_STEPS)
    present = {name: key for name, key in _STEP_COLUMNS.items() if _says_something(kept[name])}
    if kept["graph_segments"].equals(kept["graph_launches"]):
        present.pop("graph_segments", None)
    headers, columns = [], []
    periods = kept["period_ns"].drop_nulls().to_list()
    for name, key in present.items():
        header, cells = column(key, kept[name].to_list(), beside=periods if key.endswith("_ns") else ())
        headers.append(header)
        columns.append(cells)
    at = [
        Cell(
            f"{trace.source_time_s(start):.6f}", f"{start:,} ns from the trace's first event", Place(index, start, end)
        )
        for start, end in kept.select("start_ns", "end_ns").rows()
    ]
    headers.insert(1, Column("at, s", numeric=True))
    columns.insert(1, at)
    return Table("Steps", tuple(headers), tuple(zip(*columns, strict=True)), steps.height - kept.height)


def _says_something(series: pl.Series) -> bool:
    values = series.drop_nulls()
    return bool(values.len()) and (
        series.name == "step_id" or bool((values != 0).any() if values.dtype.is_numeric() else True)
    )


def step_series(trace: Trace, index: int) -> tuple[StepPoint, ...]:
    """Period and GPU busy time of each step, in order."""
    columns = ["step_id", "kind", "batch_size", "period_ns", "gpu_busy_ns", "start_ns"]
    rows = trace.table("steps").filter(pl.col("period_ns") > 0).head(MAX_STEPS).select(columns)
    return tuple(_point(row, index) for row in rows.rows(named=True))


def _point(row: dict[str, Any], index: int) -> StepPoint:
    period, busy = row["period_ns"], row["gpu_busy_ns"]
    busy_text = f"GPU busy {NOT_RECORDED}" if busy is None else f"GPU busy {units.ms(busy)}"
    label = step_label(row["kind"], row["batch_size"])
    return StepPoint(
        step_id=row["step_id"],
        kind=shown(row["kind"] or "step"),
        label=shown(f"step {row['step_id']}, {label}: {units.ms(period)}, {busy_text}"),
        period_ms=period / 1e6,
        busy_ms=None if busy is None else busy / 1e6,
        place=Place(index, row["start_ns"], row["start_ns"] + period),
    )


def ranks(traces: Sequence[Trace], labels: Sequence[str]) -> Table | None:
    """One row a trace: what its representative step costs; None for a single trace."""
    if len(traces) < 2:
        return None
    rows = [_rank_row(trace) for trace in traces]
    keys = ["step", "period_ns", "gpu_busy_ns", "busy_pct", "communication_ns", "idle_ns", "largest_loss", "loss_ns"]
    headers, columns = [], []
    periods = [row["period_ns"] for row in rows if row]
    for key in keys:
        values = [row.get(key) for row in rows]
        if key == "communication_ns" and not any(values):
            continue
        header, cells = column(key, values, beside=periods if key.endswith("_ns") else ())
        headers.append(header)
        columns.append(cells)
    by_rank = are_ranks(traces)
    names = [Cell(str(trace.rank) if by_rank else label) for trace, label in zip(traces, labels, strict=True)]
    headers.insert(0, Column("rank" if by_rank else "trace", numeric=by_rank))
    columns.insert(0, names)
    return Table("Ranks" if by_rank else "Traces", tuple(headers), tuple(zip(*columns, strict=True)))


def are_ranks(traces: Sequence[Trace]) -> bool:
    """Whether the traces are the ranks of one job: several, each with a rank of its own."""
    found = [trace.rank for trace in traces if trace.rank is not None]
    return len(traces) > 1 and len(set(found)) == len(traces)


def _rank_row(trace: Trace) -> dict[str, Any]:
    medians = median_steps(trace)
    if not medians:
        return {}
    step = medians[0]
    loss = causes.largest_loss(step.idle_ns) if step.busy_ns is not None else None
    communication = trace.table("kernels").filter(
        (pl.col("step_id") == step.step_id) & (pl.col("category") == "communication")
    )
    return {
        "step": step.label,
        "period_ns": step.period_ns,
        "gpu_busy_ns": step.busy_ns,
        "busy_pct": step.busy_pct,
        "communication_ns": int(communication["dur_ns"].sum()) or None,
        "idle_ns": None if step.busy_ns is None else sum(idle_by_step(trace).get(step.step_id, {}).values()),
        "largest_loss": loss[0] if loss else None,
        "loss_ns": loss[1] if loss else None,
    }

"""The comparison as one HTML file: verdict, what the difference is made of, both timelines on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

import traceql
from traceql.comparison import charts, structure
from traceql.comparison.runs import Comparison
from traceql.comparison.steps import Side, StepComparison
from traceql.comparison.view import View, build, line_label
from traceql.derived.steps import steps
from traceql.report import causes, notes, page
from traceql.report.headline import source_name
from traceql.report.html import SCRIPTS, STYLES
from traceql.report.model import Figure, Timeline
from traceql.report.names import shown
from traceql.report.timeline import pack_windows
from traceql.report.timeline_windows import Step, Windows
from traceql.report.units import ms, quantity

_REPORT_ONLY = ("handoff.js", "start.js")
_SHARE = 0.5
"""Part of a page's slices that either timeline may use."""


@dataclass(frozen=True)
class Shown:
    """One side as the page shows it: ``label`` base or head, its trace, and its timeline where it has one."""

    label: str
    trace: str
    step: str
    facts: tuple[Figure, ...]
    timeline: Timeline | None


def render(comparison: Comparison) -> str:
    """The whole page."""
    view = build(comparison)
    step = comparison.step
    return page.rendered(
        "compare.html.j2",
        (*STYLES, "compare.css"),
        (*(name for name in SCRIPTS if name not in _REPORT_ONLY), "compare.js"),
        view=view,
        version=traceql.__version__,
        figures=_figures(comparison, view),
        strips=[charts.strip(judgement) for judgement in comparison.judgements],
        bars=[] if step is None else charts.waterfall(step.base.period_ns, view.bars, step.head.period_ns),
        line_labels=[line_label(line) for line in view.bars],
        layers=None if step is None or step.detail != "alike" else _layers(step),
        sides=() if step is None else _sides(step),
        cause_label=causes.LABELS,
        cause_class=causes.css,
    )


def _figures(comparison: Comparison, view: View) -> tuple[Figure, ...]:
    """The numbers under the verdict."""
    step = comparison.step
    found: list[Figure] = []
    if step is not None:
        for name, side in (("base", step.base), ("head", step.head)):
            value, unit = quantity(side.period_ns, "ns")
            note = f"step {side.step_id}, the median of {side.steps}" if side.steps > 1 else f"step {side.step_id}"
            found.append(Figure(f"{name} step", value, unit, f"{side.period_ns:,} ns", note))
        change = 100 * step.delta_ns / step.base.period_ns
        found.append(
            Figure("difference", f"{change:+.1f}".replace("-", "−"), "%", f"{step.delta_ns:,} ns", "of the steps compared, profiled")
        )  # fmt: skip
    for judgement in comparison.judgements:
        interval = (
            f"{judgement.low_pct:+.1f} … {judgement.high_pct:+.1f} %, ".replace("-", "−")
            if judgement.low_pct is not None and judgement.high_pct is not None
            else ""
        )
        note = f"{interval}p = {judgement.adjusted_p:.2g}, {len(judgement.base)} against {len(judgement.head)} runs"
        found.append(Figure(shown(judgement.metric), judgement.outcome, "", "", note))
    return tuple(found)


def _layers(step: StepComparison) -> charts.Layers | None:
    sides = ((step.base.trace, step.base.step_id), (step.head.trace, step.head.step_id))
    return charts.layer_columns(structure.layer_pairs(sides))


def _sides(step: StepComparison) -> tuple[Shown, ...]:
    return tuple(
        Shown(
            label,
            shown(side.trace.path.name),
            f"step {side.step_id}, {ms(side.period_ns)}",
            _facts(side),
            _timeline(side),
        )
        for label, side in (("base", step.base), ("head", step.head))
    )


def _facts(side: Side) -> tuple[Figure, ...]:
    gpus: Sequence[str] = notes.gpus(side.trace)
    return (
        Figure("trace", shown(side.trace.path.name)),
        Figure("recorded with", source_name(side.trace)),
        *(Figure("GPU", gpu) for gpu in gpus),
        *([Figure("rank", str(side.trace.rank))] if side.trace.rank is not None else []),
    )


def _timeline(side: Side) -> Timeline | None:
    """The compared step alone: from its start to the next one's, and to the end of its GPU work."""
    row = steps(side.trace).filter(pl.col("step_id") == side.step_id).row(0, named=True)
    start, end = row["start_ns"], row["start_ns"] + row["period_ns"]
    if row["gpu_start_ns"] is not None:
        end = max(end, row["gpu_start_ns"] + (row["gpu_dur_ns"] or 0))
    step = Step(side.step_id, shown(f"{side.step_id} · {side.label} · {ms(side.period_ns)}"), start, end)
    return pack_windows(side.trace, Windows(((start, end),), (step,), 0, ()), share=_SHARE)

"""A comparison in the words and figures it is shown in; text and Markdown render the same view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from traceql.comparison.runs import Comparison
from traceql.comparison.statistics import Judgement
from traceql.comparison.steps import Contribution, Figure, StepComparison
from traceql.report.model import Cell, Column, Table
from traceql.report.names import shown
from traceql.report.units import number, quantity

_LINES = 14
"""Lines of the breakdown; the rest are summed, so that it still adds up."""
_PARTS = 12
_OPS = 8

_LABELS = {
    "unprofiled_step_ns": "Step without the profiler", "period_ns": "Step period", "cpu_ns": "Host time of the step", "gpu_busy_ns": "GPU busy", "gpu_idle_ns": "GPU idle",
    "gpu_idle_pct": "GPU idle, of the period", "gpu_ops": "GPU operations", "memcpys": "Copies", "memcpy_bytes": "Bytes copied",
    "synchronizes": "Synchronising calls", "idle_at_boundaries_ns": "Idle at graph boundaries", "layer_busy_ns": "GPU busy per layer",
}  # fmt: skip

_WHATS = {"gpu": "GPU", "unrecorded": "not recorded"}

_WORDS = {
    "slower": "slower",
    "faster": "faster",
    "small": "differs, by less than what counts",
    "no difference": "no difference shown",
    "inconclusive": "inconclusive: too few runs",
}


@dataclass(frozen=True)
class View:
    """Title, headline, notes and tables, in the order shown."""

    title: str
    headline: tuple[str, ...]
    notes: tuple[str, ...]
    tables: tuple[Table, ...]


def build(comparison: Comparison) -> View:
    """The view of a comparison."""
    step = comparison.step
    headline = [_verdict(judgement) for judgement in comparison.judgements]
    tables = [_runs(comparison)] if comparison.judgements else []
    notes = list(comparison.notes)
    if step is not None:
        headline.insert(0, _headline(step))
        tables += [_waterfall(step), _figures(step), _parts(step), *_ops(step)]
        notes += step.notes
    return View(f"{comparison.base} → {comparison.head}", tuple(headline), tuple(map(shown, notes)), tuple(tables))


def _headline(step: StepComparison) -> str:
    base, head = (_time(side.period_ns) for side in (step.base, step.head))
    label = step.base.label if step.base.label == step.head.label else f"{step.base.label} → {step.head.label}"
    if not step.delta_ns:
        return f"{label[:1].upper()}{label[1:]}: {base} on both sides."
    word = "longer" if step.delta_ns > 0 else "shorter"
    change = f"{_time(abs(step.delta_ns))} {word} ({_signed_pct(100 * step.delta_ns / step.base.period_ns)})"
    causes = ", ".join(f"{_role(c.what, c.role)} {_signed_time(c.delta_ns)}" for c in _leading(step))
    return f"{label[:1].upper()}{label[1:]}: {base} → {head}, {change}. Most of it: {causes}."


def _leading(step: StepComparison) -> list[Contribution]:
    """The largest changes in the direction of the whole."""
    sign = 1 if step.delta_ns > 0 else -1
    return [c for c in step.roles if c.delta_ns * sign > 0][:3]


def _verdict(judgement: Judgement) -> str:
    interval = (
        f" [{_signed_pct(judgement.low_pct)} … {_signed_pct(judgement.high_pct)}]"
        if judgement.low_pct is not None and judgement.high_pct is not None
        else ""
    )
    runs = f"{len(judgement.base)} against {len(judgement.head)} runs"
    return (
        f"{shown(judgement.metric)}: {_signed_pct(judgement.change_pct)}{interval}, p = {judgement.adjusted_p:.2g}, {runs}: "
        f"{_WORDS[judgement.outcome]}."
    )


def _runs(comparison: Comparison) -> Table:
    columns = _columns("metric", "base ms", "head ms", "change", "interval", "p (Holm)", "verdict")
    rows = [
        (
            shown(j.metric), f"{j.base_median:.4g}", f"{j.head_median:.4g}", _signed_pct(j.change_pct),
            f"{_signed_pct(j.low_pct)} … {_signed_pct(j.high_pct)}" if None not in (j.low_pct, j.high_pct) else "–",
            f"{j.adjusted_p:.2g}", _WORDS[j.outcome],
        )
        for j in comparison.judgements
    ]  # fmt: skip
    how = "step periods under the profiler" if comparison.profiled else "unprofiled"
    return _table(f"Runs, {how} (median; a run is the unit)", columns, rows)


def _waterfall(step: StepComparison) -> Table:
    columns = _columns("what", "base µs", "head µs", "difference µs", "share", "count")
    shown_first = step.roles[:_LINES]
    rows = [(_role(c.what, c.role), *_contribution(c, step)) for c in shown_first]
    if rest := step.roles[_LINES:]:
        rows.append((f"{len(rest)} more", *_contribution(_sum(rest), step)))
    rows.append(("period", *_contribution(_sum(step.roles), step)))
    return _table("Where the difference comes from; the lines add up to the period", columns, rows)


def _sum(contributions: Sequence[Contribution]) -> Contribution:
    return Contribution(
        "", "", None, 0, 0, sum(c.base_ns for c in contributions), sum(c.head_ns for c in contributions)
    )  # fmt: skip


def _contribution(c: Contribution, step: StepComparison) -> tuple[str, ...]:
    share = step.share_pct(c)
    return (
        _us(c.base_ns), _us(c.head_ns), _signed_us(c.delta_ns), "–" if share is None else f"{share:.1f} %".replace("-", "−"),
        _counts(c.base_count, c.head_count) if c.what else "",
    )  # fmt: skip


def _figures(step: StepComparison) -> Table:
    columns = _columns("figure", "base", "head", "difference")
    rows = [
        (_spelled(f.name), _value(f.base, f.unit), _value(f.head, f.unit), _difference(f))
        for f in step.figures
        if f.base or f.head
    ]
    steps = " and ".join(f"{side.step_id} of {side.steps}" for side in (step.base, step.head))
    return _table(f"The steps compared (step {steps} alike)", columns, rows)


def _parts(step: StepComparison) -> Table:
    columns = _columns("name", "part of", "change", "base µs", "head µs", "difference µs", "count", text=3)
    changed = [c for c in step.parts if c.status != "same" and c.name is not None]
    rows = [
        (
            shown(str(c.name)), _role(c.what, c.role), c.status, _us(c.base_ns), _us(c.head_ns), _signed_us(c.delta_ns),
            _counts(c.base_count, c.head_count),
        )
        for c in changed[:_PARTS]
    ]  # fmt: skip
    return _table("Kernels and causes that changed most", columns, rows, dropped=max(0, len(changed) - _PARTS))


def _ops(step: StepComparison) -> list[Table]:
    if not step.ops:
        return []
    columns = _columns("operator", "base CPU µs", "head CPU µs", "difference µs", "calls", "GPU µs")
    rows = [
        (
            shown(o.name), _us(o.base_cpu_ns), _us(o.head_cpu_ns), _signed_us(o.head_cpu_ns - o.base_cpu_ns),
            _counts(o.base_calls, o.head_calls), _counts(o.base_device_ns / 1000, o.head_device_ns / 1000),
        )
        for o in step.ops[:_OPS]
    ]  # fmt: skip
    left = max(0, len(step.ops) - _OPS)
    return [_table("Operators, own host time a step (mean over all steps)", columns, rows, dropped=left)]


def _table(title: str, columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]], dropped: int = 0) -> Table:
    return Table(title, columns, tuple(tuple(Cell(text) for text in row) for row in rows), dropped)


def _columns(*headers: str, text: int = 1) -> tuple[Column, ...]:
    return tuple(Column(header, numeric=index >= text) for index, header in enumerate(headers))


def _role(what: str, role: str) -> str:
    return f"{_WHATS.get(what, what)}: {role}"


def _us(ns: float) -> str:
    return f"{ns / 1000:,.1f}"


def _signed_us(ns: float) -> str:
    return f"{ns / 1000:+,.1f}".replace("-", "−")


def _signed_pct(pct: float | None) -> str:
    return "–" if pct is None else f"{pct:+.1f} %".replace("-", "−")


def _counts(base: float, head: float) -> str:
    return number(base) if base == head else f"{number(base)} → {number(head)}"


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "not recorded"
    return _time(value) if unit == "ns" else f"{number(value)} {unit}".strip()


def _difference(figure: Figure) -> str:
    if figure.base is None or figure.head is None:
        return "–"
    delta = figure.head - figure.base
    if figure.unit == "ns":
        return f"{_signed_us(delta)} µs"
    return f"{delta:+,.4g} {figure.unit}".strip().replace("-", "−") if delta else "0"


def _time(ns: float) -> str:
    return " ".join(quantity(ns, "ns"))


def _signed_time(ns: float) -> str:
    return ("+" if ns >= 0 else "−") + _time(abs(ns))


def _spelled(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " ").capitalize())

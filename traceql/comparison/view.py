"""A comparison in the words and figures it is shown in; text, Markdown and the page render the same view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from traceql.comparison import statistics, structure
from traceql.comparison.runs import Comparison
from traceql.comparison.statistics import Judgement
from traceql.comparison.steps import Contribution, Figure, Side, StepComparison
from traceql.comparison.structure import Row
from traceql.derived.period_parts import longest_instance
from traceql.report.model import Cell, Column, Place, Table
from traceql.report.names import shown
from traceql.report.textable import middle_cut
from traceql.report.units import number, quantity

_LINES = 14
"""Lines of the breakdown; the rest are summed, so that it still adds up."""
_PARTS = 12
_OPS = 8
_HALF = 18
"""Cells of either name where a kernel stands beside the one in its place."""

_LABELS = {
    "unprofiled_step_ns": "Step without the profiler", "period_ns": "Step period", "cpu_ns": "Host time of the step", "gpu_busy_ns": "GPU busy", "gpu_idle_ns": "GPU idle",
    "gpu_idle_pct": "GPU idle, of the period", "gpu_ops": "GPU operations", "memcpys": "Copies", "memcpy_bytes": "Bytes copied",
    "synchronizes": "Synchronising calls", "idle_at_boundaries_ns": "Idle at graph boundaries", "layer_busy_ns": "GPU busy per layer",
}  # fmt: skip

_WHATS = {"gpu": "GPU", "unrecorded": "not recorded"}

_RECORDED_WORK = "GPU work on record"
_HIDDEN = "replays without a record"
_NOT_COMPARABLE = "not comparable"

_WORDS = {
    "slower": "slower",
    "faster": "faster",
    "small": "differs, by less than what counts",
    "no difference": "no difference shown",
    "inconclusive": "inconclusive: too few runs",
}


@dataclass(frozen=True)
class Detail(Table):
    """A table with a name of its own, for the page's sections."""

    short: str = ""


@dataclass(frozen=True)
class View:
    """Title, headline, notes and tables, in the order shown.

    ``verdict`` is the one sentence that matters most: the gravest judgement of runs in short, else the steps' line.
    ``why`` says what the difference of the steps is made of, empty where nothing is compared.
    ``runs`` judges the sets of runs, ``waterfall`` adds up to the difference, ``bars`` are the lines of it as ns.
    """

    base: str
    head: str
    verdict: str
    why: str
    headline: tuple[str, ...]
    notes: tuple[str, ...]
    runs: Table | None
    waterfall: Table | None
    bars: tuple[Contribution, ...]
    details: tuple[Detail, ...]

    @property
    def title(self) -> str:
        """``base → head``."""
        return f"{self.base} → {self.head}"

    @property
    def lines(self) -> tuple[str, ...]:
        """The headline's lines, with what the steps' difference is made of in the same line."""
        return tuple(f"{line} {self.why}" if self.why and not at else line for at, line in enumerate(self.headline))

    @property
    def tables(self) -> tuple[Table, ...]:
        """All of them."""
        return tuple(table for table in (self.runs, self.waterfall, *self.details) if table is not None and table.rows)


def build(comparison: Comparison) -> View:
    """The view of a comparison."""
    step = comparison.step
    headline = [_verdict(judgement) for judgement in comparison.judgements]
    details: list[Detail] = []
    bars: tuple[Contribution, ...] = ()
    notes = list(comparison.notes)
    if step is not None:
        headline.insert(0, _headline(step))
        bars = _lines(step)
        details = [_parts(step), *_structure(step), *_ops(step), _figures(step)]
        notes += step.notes
    return View(
        base=comparison.base,
        head=comparison.head,
        why="" if step is None or not step.delta_ns else _why(step),
        verdict=_gravest(comparison.judgements) or (headline[0] if headline else "Nothing to compare."),
        headline=tuple(headline),
        notes=tuple(map(shown, notes)),
        runs=_runs(comparison) if comparison.judgements else None,
        waterfall=None if step is None else _waterfall(step, bars),
        bars=bars,
        details=tuple(details),
    )


def _gravest(judgements: Sequence[Judgement]) -> str | None:
    """The gravest judgement in short."""
    gravest = statistics.gravest(judgements)
    if gravest is None:
        return None
    words = _WORDS[gravest.outcome]
    runs = f"{len(gravest.base)} against {len(gravest.head)} runs"
    return f"{words[:1].upper()}{words[1:]}: {shown(gravest.metric)}, {_signed_pct(gravest.change_pct)} over {runs}."


def _headline(step: StepComparison) -> str:
    base, head = (_time(side.period_ns) for side in (step.base, step.head))
    label = step.base.label if step.base.label == step.head.label else f"{step.base.label} → {step.head.label}"
    label = label[:1].upper() + label[1:]
    if not step.delta_ns:
        return f"{label}: {base} on both sides."
    word = "longer" if step.delta_ns > 0 else "shorter"
    change = f"{_time(abs(step.delta_ns))} {word} ({_signed_pct(100 * step.delta_ns / step.base.period_ns)})"
    return f"{label}: {base} → {head}, {change}."


def _why(step: StepComparison) -> str:
    if step.detail == "opaque":
        hidden, other = ("base", "head") if _unrecorded(step.roles)[0] else ("head", "base")
        return (
            f"What it is made of is not comparable: {hidden} left its graph replays without a record, {other} recorded "
            "its GPU work."
        )
    sign = 1 if step.delta_ns > 0 else -1
    causes = ", ".join(f"{line_label(c)} {_signed_time(c.delta_ns)}" for c in _largest(step, sign))
    against = ", ".join(f"{line_label(c)} {_signed_time(c.delta_ns)}" for c in _largest(step, -sign))
    if step.cancels and against:
        return f"Most of it: {causes}; against it: {against}."
    return f"Most of it: {causes}."


def _largest(step: StepComparison, sign: int) -> list[Contribution]:
    """The largest changes in one direction."""
    return [c for c in _fused(step) if c.delta_ns * sign > 0][:3]


def _unrecorded(contributions: Iterable[Contribution]) -> tuple[int, int]:
    hidden = [c for c in contributions if c.what == "unrecorded"]
    return sum(c.base_ns for c in hidden), sum(c.head_ns for c in hidden)


def _fused(step: StepComparison) -> list[Contribution]:
    """The roles, those that only one side tells apart put together, largest change first."""
    if step.detail == "alike":
        return list(step.roles)
    if step.detail == "opaque":
        groups = {"gpu": _RECORDED_WORK, "unrecorded": _HIDDEN, "idle": "idle time on record"}
        fused = [
            replace(_sum(of), what=what, role=label, comparable=False)
            for what, label in groups.items()
            if (of := [c for c in step.roles if c.what == what])
        ]
    else:
        work = [c for c in step.roles if not c.comparable]
        whole = replace(_sum(work), what="gpu", role="work, with idle time inside replays")
        fused = [whole, *(c for c in step.roles if c.comparable)]
    return sorted(fused, key=lambda c: -abs(c.delta_ns))


def _lines(step: StepComparison) -> tuple[Contribution, ...]:
    """The lines of the breakdown: the largest, and the rest as one."""
    found = _fused(step)
    rest = found[_LINES:]
    more = [replace(_sum(rest), role=f"{len(rest)} more")] if rest else []
    return (*found[:_LINES], *more)


def line_label(line: Contribution) -> str:
    """A line of the breakdown in words."""
    if line.role in (_RECORDED_WORK, _HIDDEN) or line.role.startswith("idle time") or not line.what:
        return line.role
    return f"{_WHATS.get(line.what, line.what)}: {line.role}"


def _verdict(judgement: Judgement) -> str:
    interval = (
        f" [{_signed_pct(judgement.low_pct)} … {_signed_pct(judgement.high_pct)}]"
        if judgement.low_pct is not None and judgement.high_pct is not None
        else ""
    )
    runs = f"{len(judgement.base)} against {len(judgement.head)} runs"
    missed = judgement.missed_pct
    unseen = "" if missed is None else f"; a slowdown of up to {missed:.1f} % is not ruled out, more runs would tell"
    return (
        f"{shown(judgement.metric)}: {_signed_pct(judgement.change_pct)}{interval}, p = {judgement.adjusted_p:.2g}, {runs}: "
        f"{_WORDS[judgement.outcome]}{unseen}."
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


def _waterfall(step: StepComparison, lines: Sequence[Contribution]) -> Table:
    share = "of base period" if step.cancels and step.detail != "opaque" else "share"
    columns = _columns("what", "base µs", "head µs", "difference µs", share, "count")
    rows = [(line_label(c), *_contribution(c, step)) for c in lines]
    rows.append(("period", *_contribution(replace(_sum(step.roles), comparable=True), step)))
    title = "Where the difference comes from; the lines add up to the period"
    if step.detail == "opaque":
        title = "The periods cut into what is on record; the lines add up, but cannot be compared"
    elif step.cancels and step.delta_ns:
        title += " (gains and losses nearly cancel)"
    return _table(title, columns, rows)


def _sum(contributions: Sequence[Contribution]) -> Contribution:
    return Contribution(
        "", "", None, sum(c.base_count for c in contributions), sum(c.head_count for c in contributions),
        sum(c.base_ns for c in contributions), sum(c.head_ns for c in contributions),
        comparable=all(c.comparable for c in contributions),
    )  # fmt: skip


def _contribution(c: Contribution, step: StepComparison) -> tuple[str, ...]:
    return (
        _us(c.base_ns), _us(c.head_ns), _signed_us(c.delta_ns), _share(c, step),
        _counts(c.base_count, c.head_count) if c.what and c.comparable else "",
    )  # fmt: skip


def _share(c: Contribution, step: StepComparison) -> str:
    if not c.comparable:
        return _NOT_COMPARABLE
    if step.cancels and step.detail != "opaque":
        return _signed_pct(100 * c.delta_ns / step.base.period_ns)
    share = step.share_pct(c)
    return "–" if share is None else f"{_signed(share).removeprefix('+')} %"


def _figures(step: StepComparison) -> Detail:
    columns = _columns("figure", "base", "head", "difference")
    rows = [
        (_spelled(f.name), _value(f.base, f.unit), _value(f.head, f.unit), _difference(f))
        for f in step.figures
        if f.base or f.head
    ]
    steps = " and ".join(f"{side.step_id}, of {side.steps} alike" for side in (step.base, step.head))
    return _detail("Figures", f"The steps compared (step {steps})", columns, rows)


def _parts(step: StepComparison) -> Detail:
    columns = _columns("name", "part of", "change", "base µs", "head µs", "difference µs", "count", text=3)
    changed = [c for c in _replaced(step.parts) if c.change not in ("same", _NOT_COMPARABLE) and c.name is not None]
    rows = [
        (
            shown(str(c.name)), line_label(c.part), c.change, _first(step.base, 0, c.part, c.part.name),
            _first(step.head, 1, c.part, c.head_name),
            _signed_us(c.part.delta_ns), _counts(c.part.base_count, c.part.head_count),
        )
        for c in changed[:_PARTS]
    ]  # fmt: skip
    return _detail(
        "Kernels and causes",
        "Kernels and causes that changed most",
        columns,
        rows,
        dropped=max(0, len(changed) - _PARTS),
    )


def _first(side: Side, index: int, part: Contribution, name: str | None) -> Cell:
    """Time of a part on one side, and where its longest instance in the step is."""
    ns = part.head_ns if index else part.base_ns
    found = longest_instance(side.trace, side.step_id, part.what, part.role, name) if ns else None
    return Cell(_us(ns), f"{ns:,} ns", None if found is None else Place(index, *found))


@dataclass(frozen=True)
class _Change:
    """A part as shown: its name, or those of a kernel and the one in its place."""

    name: str | None
    change: str
    part: Contribution
    head_name: str | None


def _replaced(parts: Sequence[Contribution]) -> list[_Change]:
    """The parts by size of change; of one role, a kernel that vanished and one that appeared as often are one line."""
    gone = [c for c in parts if c.what == "gpu" and c.status == "vanished"]
    new = [c for c in parts if c.what == "gpu" and c.status == "appeared"]
    pairs: dict[int, Contribution] = {}
    for old in gone:
        place = next((c for c in new if c.role == old.role and c.head_count == old.base_count), None)
        if place is not None:
            new.remove(place)
            pairs[id(old)] = place
    taken = {id(c) for c in pairs.values()}
    lines = []
    for c in parts:
        place = pairs.get(id(c))
        if place is not None:
            both = replace(c, head_count=place.head_count, head_ns=place.head_ns)
            names = (middle_cut(str(each.name), _HALF) for each in (c, place))
            lines.append(_Change(" → ".join(names), "replaced", both, place.name))
        elif id(c) not in taken:
            lines.append(_Change(c.name, c.status, c, c.name))
    return sorted(lines, key=lambda line: -abs(line.part.delta_ns))


def _structure(step: StepComparison) -> list[Detail]:
    """Layers and graph segments, where both sides recorded their kernels."""
    if step.detail != "alike":
        return []
    sides = ((step.base.trace, step.base.step_id), (step.head.trace, step.head.step_id))
    found = [
        (
            "Layers",
            "One layer by role (median over the layers)",
            "role",
            structure.block(sides),
            "µs a layer",
            "kernels",
        ),
        (
            "Segments",
            "Graph segments by what they begin and end with",
            "segment",
            structure.segments(sides),
            "µs each",
            "segments",
        ),
        (
            "Boundaries",
            "Between graph segments: GPU idle",
            "between",
            structure.boundaries(sides),
            "idle µs each",
            "boundaries",
        ),
    ]
    return [_sides(*each) for each in found if each[3]]


def _sides(short: str, title: str, name: str, rows: Sequence[Row], unit: str, count: str) -> Detail:
    columns = _columns(name, f"base {unit}", f"head {unit}", "difference µs", count)
    cells = [
        (
            shown(row.name), "–" if row.base_ns is None else _us(row.base_ns), "–" if row.head_ns is None else _us(row.head_ns),
            "–" if row.delta_ns is None else _signed_us(row.delta_ns), _counts(row.base_count, row.head_count),
        )
        for row in rows[:_LINES]
    ]  # fmt: skip
    return _detail(short, title, columns, cells, dropped=max(0, len(rows) - _LINES))


def _ops(step: StepComparison) -> list[Detail]:
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
    return [_detail("Operators", "Operators, own host time a step (mean over all steps)", columns, rows, dropped=left)]


def _table(title: str, columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]], dropped: int = 0) -> Table:
    return Table(title, columns, tuple(tuple(Cell(text) for text in row) for row in rows), dropped)


def _detail(
    short: str, title: str, columns: tuple[Column, ...], rows: Iterable[tuple[str | Cell, ...]], dropped: int = 0
) -> Detail:
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return Detail(title, columns, cells, dropped, short)


def _columns(*headers: str, text: int = 1) -> tuple[Column, ...]:
    return tuple(Column(header, numeric=index >= text) for index, header in enumerate(headers))


def _us(ns: float) -> str:
    return f"{ns / 1000:,.1f}"


def _signed_us(ns: float) -> str:
    return _signed(ns / 1000)


def _signed_pct(pct: float | None) -> str:
    return "–" if pct is None else f"{_signed(pct)} %"


def _signed(value: float) -> str:
    """With one digit after the point; what rounds to nothing has no sign."""
    text = f"{value:+,.1f}".replace("-", "−")
    return text if text.strip("+−") != "0.0" else "0.0"


def _counts(base: float, head: float) -> str:
    return number(base) if base == head else f"{number(base)} → {number(head)}"


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "not recorded"
    if unit in ("ns", "B"):
        return " ".join(quantity(value, unit)) if value else f"0 {unit}"
    return f"{number(value)} {unit}".strip()


def _difference(figure: Figure) -> str:
    if figure.base is None or figure.head is None:
        return "–"
    delta = figure.head - figure.base
    if not delta:
        return "0"
    if figure.unit == "ns":
        return f"{_signed_us(delta)} µs"
    if figure.unit == "B":
        return ("+" if delta > 0 else "−") + " ".join(quantity(abs(delta), "B"))
    if figure.unit == "%":
        return f"{delta:+.1f} points".replace("-", "−")
    return f"{delta:+,.4g}".replace("-", "−")


def _time(ns: float) -> str:
    return " ".join(quantity(ns, "ns"))


def _signed_time(ns: float) -> str:
    return ("+" if ns >= 0 else "−") + _time(abs(ns))


def _spelled(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " ").capitalize())

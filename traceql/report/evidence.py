"""A finding's evidence as figures and tables: units read from the keys, one unit a column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from traceql.report import units
from traceql.report.model import Cell, Column, Figure, Place, Table
from traceql.report.names import shown
from traceql.trace import Trace

MAX_ROWS = 25
"""Rows of an evidence table that are shown."""


def facts(evidence: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The scalar entries, each in the unit that reads best."""
    return tuple(_fact(key, value) for key, value in evidence.items() if value is not None and not _is_table(value))


def tables(evidence: Mapping[str, Any], trace: Trace | None, index: int) -> tuple[Table, ...]:
    """The entries that are lists of rows; ``trace`` (the ``index``-th) places their times on the source's timeline."""
    return tuple(_table(key, value, trace, index) for key, value in evidence.items() if _is_table(value))


def _is_table(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def _fact(key: str, value: Any) -> Figure:
    means = units.meaning(key)
    label = shown(means.label or (f"per {means.per}" if means.per else key))
    if is_number(value):
        text, unit = _scalar(value, means)
        exact = units.exact(value, means.unit, means.per)
        return Figure(label, text, unit, exact if exact != f"{text} {unit}".strip() else "")
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(is_number(v) for v in value):
            scale = units.scale(means.unit, value, comfortable=1.0)
            joined = " – ".join(dict.fromkeys(units.number(v / scale.factor) for v in value))
            exact = " – ".join(units.exact(v, means.unit, means.per) for v in value)
            return Figure(label, joined, means.full_unit(scale.unit), exact)
        return Figure(label, ", ".join(shown(str(v)) for v in value))
    return Figure(label, shown(str(value)), means.full_unit() if means.unit != "×" else "")


def _scalar(value: float, means: units.Meaning) -> tuple[str, str]:
    if means.scalable:
        return units.quantity(value, means.unit, means.per)
    if isinstance(value, int) and not means.unit:
        return units.count(value), ""
    return units.number(value), means.full_unit()


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number to format (a bool is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(key: str, rows: Sequence[Mapping[str, Any]], trace: Trace | None, index: int) -> Table:
    keys = list(dict.fromkeys(k for row in rows for k in row))
    kept = rows[:MAX_ROWS]
    columns = [column(k, [row.get(k) for row in kept]) for k in keys if k not in ("start_ns", "end_ns")]
    headers = [header for header, _ in columns]
    cells = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)] if columns else [[] for _ in kept]
    if "start_ns" in keys:
        headers.insert(0, Column("at, s", numeric=True))
        for row, line in zip(kept, cells, strict=True):
            line.insert(0, _time_cell(row, trace, index))
    return Table(shown(units.spelled(key.split("_"))), tuple(headers), tuple(map(tuple, cells)), len(rows) - len(kept))


def column(key: str, values: Sequence[Any], beside: Sequence[Any] = ()) -> tuple[Column, list[Cell]]:
    """Header and cells of one column, its numbers all in one unit: the one that suits ``beside`` where that is given."""
    means = units.meaning(key)
    numbers = [v for v in values if is_number(v)]
    if not numbers:
        header = ", ".join(t for t in (means.label, means.full_unit()) if t)
        return Column(shown(header)), [Cell("–" if v is None else _text(v)) for v in values]
    scale = units.scale(means.unit, beside or numbers) if means.scalable else units.Scale(means.unit)
    unit = means.full_unit(scale.unit)
    header = ", ".join(t for t in (means.label, unit) if t) or key
    if means.unit == "×":
        header = means.label
    whole = not means.unit and all(isinstance(v, int) for v in numbers)
    return Column(shown(header), numeric=True), [_number_cell(v, means, scale, whole=whole) for v in values]


def _number_cell(value: Any, means: units.Meaning, scale: units.Scale, *, whole: bool) -> Cell:
    if value is None:
        return Cell("–")
    if not is_number(value):
        return Cell(_text(value))
    if not math.isfinite(value):
        return Cell("–")
    text = units.count(value) if whole else units.number(value / scale.factor)
    exact = units.exact(value, means.unit, means.per)
    return Cell(text, exact if exact != text else "")


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(shown(str(v)) for v in value)
    return shown(str(value))


def _time_cell(row: Mapping[str, Any], trace: Trace | None, index: int) -> Cell:
    start = row.get("start_ns")
    if not isinstance(start, int):
        return Cell("–")
    end = row.get("end_ns")
    if not isinstance(end, int):
        length = next((row[k] * 1000 for k in ("gap_us", "idle_us", "dur_us") if is_number(row.get(k))), 0)
        end = start + round(length)
    seconds = start / 1e9 if trace is None else trace.source_time_s(start)
    return Cell(f"{seconds:.6f}", f"{start:,} ns from the trace's first event", Place(index, start, end))

"""Tables in plain characters: numbers never give way, names are cut in the middle, columns that do not fit are named."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from traceql.report.model import Table

_GUTTER = "  "
_NARROWEST = 15
"""A name column is not cut below this; sooner, the last columns are left out."""
_FIRST = 24
"""The same for the first column, which says what a row is about."""


def lines(table: Table, width: int, rows: int) -> tuple[list[str], list[str]]:
    """Header and rows (``rows`` at most) as lines of at most ``width``; and the headers of columns left out."""
    shown = [[cell.text for cell in row] for row in table.rows[:rows]]
    headers = [column.header for column in table.columns]
    numeric = [column.numeric for column in table.columns]
    columns = list(range(len(headers)))
    while True:
        widths = _fitted(headers, shown, numeric, columns, width)
        if widths is not None or len(columns) <= 1:
            break
        columns.pop()
    widths = widths or [width]
    placed = [
        _GUTTER.join(_cell(row[c], size, right=numeric[c]) for c, size in zip(columns, widths, strict=True)).rstrip()
        for row in [headers, *shown]
    ]
    return placed, [headers[c] for c in range(len(headers)) if c not in columns]


def _fitted(
    headers: list[str], rows: list[list[str]], numeric: list[bool], columns: list[int], width: int
) -> list[int] | None:
    """Width of each column so that all fit, name columns cut evenly; None when they cannot."""
    natural = [max(cell_len(text) for text in [headers[c], *(row[c] for row in rows)]) for c in columns]
    spare = width - len(_GUTTER) * (len(columns) - 1) - sum(natural)
    names = [i for i, c in enumerate(columns) if not numeric[c]]
    least = [_FIRST if c == 0 else _NARROWEST for c in columns]
    while spare < 0:
        widest = max(names, key=lambda i: natural[i] - least[i], default=None)
        if widest is None or natural[widest] <= least[widest]:
            return None
        natural[widest] -= 1
        spare += 1
    return natural


def _cell(text: str, size: int, *, right: bool) -> str:
    length = cell_len(text)
    if length > size:
        return middle_cut(text, size)
    return " " * (size - length) + text if right else text + " " * (size - length)


def middle_cut(text: str, size: int) -> str:
    """``text`` in ``size`` cells with the middle left out: both ends of a kernel's name tell it from others."""
    if cell_len(text) <= size:
        return text
    head = (size - 1) * 2 // 3
    tail = size - 1 - head
    return set_cell_size(text, head) + "…" + text[len(text) - tail :]

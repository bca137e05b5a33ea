"""One stretch of a trace's events through the compiled scanner: a Piece with its frames and what it proves."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import polars as pl

from traceql.loaders.kineto_events import (
    DECODE_EVENT,
    FAMILIES,
    NOT_JSON,
    READABLE,
    Event,
    family_of,
    family_schema,
    frame_of,
    frames,
)
from traceql.loaders.kineto_json import Buffer
from traceql.loaders.kineto_scan_layout import (
    NULL,
    Ended,
    FamilyColumn,
    Kind,
    Mode,
    Result,
    Workspace,
    layout,
    workspace,
)
from traceql.loaders.scan_code import Scanner, scanner

_ORDER = "order of the event"  # no column of a family has a name with spaces


@dataclass(frozen=True)
class Piece:
    """What a scan found between ``begin`` and ``position``; the rest is as in ``kineto_scan.scan``."""

    begin: int
    position: int
    ended: Ended
    frames: dict[str, pl.DataFrame]
    """rows of each family that has any"""
    events: int
    phases: int
    """events with a phase: none in the whole file means it is no trace"""
    skipped: int
    """complete events without a readable time"""
    last_start: int
    aligned: bool

    @property
    def at_limit(self) -> bool:
        return self.ended == Ended.AT_LIMIT

    @property
    def closed(self) -> bool:
        return self.ended == Ended.CLOSED


class _UnreadableError(Exception):
    """The strict decoder refuses the event at this index."""

    def __init__(self, at: int) -> None:
        self.at = at


class _DoubtError(Exception):
    """The scan cannot be used; one that leaves more to the strict decoder may do."""


class _Room(threading.local):
    """A workspace for each thread, kept from scan to scan."""

    space: Workspace | None = None
    rows = odd = texts = 0

    def of(self, rows: int, odd: int, texts: int) -> Workspace:
        if self.space is None or rows > self.rows or odd > self.odd or texts > self.texts:
            self.space = None  # give the old one back first
            self.rows, self.odd, self.texts = max(rows, self.rows), max(odd, self.odd), max(texts, self.texts)
            self.space = workspace(self.rows, self.odd, self.texts)
        return self.space


_room = _Room()


def read(buffer: Buffer, begin: int, limit: int) -> Piece:
    """The events from ``begin``, where one starts, until one would start at or after ``limit``."""
    compiled = scanner()
    assert compiled is not None
    data = np.frombuffer(buffer, np.uint8)
    mode = Mode.ODD_ONLY
    while True:
        try:
            return _read(compiled, buffer, data, begin, limit, mode)
        except _DoubtError:
            mode = Mode(mode + 1)
        except _UnreadableError as error:
            return replace(read(buffer, begin, error.at), position=error.at, ended=Ended.BROKEN)


def _read(compiled: Scanner, buffer: Buffer, data: Any, begin: int, limit: int, mode: Mode) -> Piece:
    space, ended = _scan(compiled, data, begin, limit, mode)
    result = space.result
    position = int(result[Result.POSITION])
    odd = space.odd[: result[Result.ODD]]
    if mode != Mode.EVERYTHING and compiled.count_phases(data, begin, position) != result[Result.PHASES]:
        raise _DoubtError
    texts = _texts(buffer, space)
    tables = {
        family: _frame(columns, space, index, texts)
        for index, (family, columns) in enumerate(layout()[1].items())
        if space.counts[index]
    }
    phases = int(result[Result.PHASES] - result[Result.ODD_PHASES])
    skipped = int(result[Result.SKIPPED])
    if len(odd):
        events = [_decoded(buffer, start, stop) for start, stop in odd[:, :2].tolist()]
        phases += sum(event.ph is not None for event in events)
        skipped += _insert(tables, events, odd[:, 2:])
    return Piece(
        begin=begin,
        position=position,
        ended=ended,
        frames=tables,
        events=int(result[Result.EVENTS]),
        phases=phases,
        skipped=skipped,
        last_start=int(result[Result.LAST_START]),
        aligned=bool(result[Result.ALIGNED]),
    )


def _scan(compiled: Scanner, data: Any, begin: int, limit: int, mode: Mode) -> tuple[Workspace, Ended]:
    size = limit - begin
    rows, odd, texts = size // 128 + 64, size // 4096 + 64, size // 512 + 256
    while True:
        space = _room.of(rows, odd, texts)
        ended = compiled.scan(data, begin, limit, mode, space)
        if ended != Ended.FULL:
            return space, ended
        rows, odd, texts = 4 * _room.rows, 4 * _room.odd, 4 * _room.texts


def _texts(buffer: Buffer, space: Workspace) -> pl.Series:
    """The distinct texts of a scan by code, and a null after the last."""
    count = space.result[Result.TEXTS]
    starts = space.text_starts[:count].tolist()
    lengths = space.text_lengths[:count].tolist()
    texts: list[str | None] = []
    for start, packed in zip(starts, lengths, strict=True):
        encoded = buffer[start : start + (packed >> 1)]
        if packed & 1:
            texts.append(encoded.decode("utf-8", "replace"))
        elif b"\\" not in encoded and encoded.isascii():
            texts.append(encoded.decode("ascii"))
        else:
            texts.append(_unescaped(encoded))
    texts.append(None)
    return pl.Series(texts, dtype=pl.String)


def _unescaped(encoded: bytes) -> str:
    try:
        return msgspec.json.decode(b'"' + encoded + b'"', type=str)
    except NOT_JSON:
        raise _DoubtError from None


def _frame(columns: list[FamilyColumn], space: Workspace, family: int, texts: pl.Series) -> pl.DataFrame:
    rows = int(space.counts[family])
    series: list[pl.Series] = []
    gaps: list[pl.Expr] = []
    for name, row, kind in columns:
        is_text = kind in (Kind.TEXT, Kind.RAW)
        filled = int(space.filled[row])
        if not filled:
            dtype = pl.String if is_text else pl.Float64 if kind == Kind.FLOAT else pl.Int64
            series.append(pl.Series(name, [None], dtype=dtype).new_from_index(0, rows))
            continue
        values = space.columns[row, :rows].copy()  # Polars may keep the array itself
        values[filled:] = NULL
        if is_text:
            codes = np.where(values == NULL, len(texts) - 1, values).astype(np.uint32)
            series.append(texts.gather(pl.Series(codes)).alias(name))
            continue
        if values.min() == NULL:
            gaps.append(pl.when(pl.Series(values != NULL)).then(pl.col(name)).alias(name))
        series.append(pl.Series(name, values.view(np.float64) if kind == Kind.FLOAT else values))
    frame = pl.DataFrame(series)
    return frame.with_columns(gaps) if gaps else frame


# --- events the scanner left to the strict decoder ------------------------------------------------------------------


def _decoded(buffer: Buffer, start: int, stop: int) -> Event:
    try:
        return DECODE_EVENT.decode(buffer[start:stop])
    except NOT_JSON:
        raise _UnreadableError(start) from None


def _insert(tables: dict[str, pl.DataFrame], events: list[Event], counts: Any) -> int:
    """Put each event's row where it stands in the file; returns how many have no readable time.

    ``counts[i, f]``: rows of family ``f`` that the scanner read before ``events[i]``.
    """
    members: dict[str, list[int]] = {}
    for index, event in enumerate(events):
        if family := family_of(event):
            members.setdefault(family, []).append(index)
    skipped = 0
    for family, indices in members.items():
        rows = frame_of(family, [events[index] for index in indices])
        # scanner rows have even places, and an odd event comes before the row whose number it noted
        places = pl.Series(counts[indices, FAMILIES.index(family)] * 2 - 1)
        rows = rows.with_columns(places.alias(_ORDER)).filter(READABLE)
        skipped += len(indices) - rows.height
        if family in tables:
            scanned = tables[family].with_columns((pl.int_range(pl.len(), dtype=pl.Int64) * 2).alias(_ORDER))
            rows = pl.concat([scanned, rows]).sort(_ORDER, maintain_order=True)
        if rows.height:
            tables[family] = rows.drop(_ORDER)
    return skipped


def recovered(events: list[Event]) -> Piece:
    """Events read by the strict recovery, as a piece."""
    found, skipped = frames(events)
    return Piece(
        begin=-1,
        position=-1,
        ended=Ended.BROKEN,
        frames={family: frame for family, frame in found.items() if frame.height},
        events=len(events),
        phases=sum(event.ph is not None for event in events),
        skipped=skipped,
        last_start=-1,
        aligned=True,
    )


def joined(pieces: list[dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """The frames of all families, each the pieces' rows one after the other."""
    parts = {family: [piece[family] for piece in pieces if family in piece] for family in FAMILIES}
    return {
        family: pl.concat(found) if found else pl.DataFrame(schema=family_schema(family))
        for family, found in parts.items()
    }

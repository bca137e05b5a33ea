"""The compiled scanner of torch traces run as Python, where coverage can see it, and what it says held against others.

Works with NUMBA_DISABLE_JIT=1 alone: the vector helpers are LLVM code, and stand-ins of the same meaning take their place.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from traceql.loaders import json_scan, kineto_events, kineto_fast, kineto_json, kineto_scan, scan_code
from traceql.loaders.kineto_scan_layout import NULL, Ended, Kind, Mode, Result, Workspace, layout, workspace

_ROOM = (64, 64, 512)  # rows, odd events, texts: the inputs are small


def _word_at(data: bytes, index: int) -> Any:
    return np.uint64(int.from_bytes(data[index : index + 8], "little"))


def _leading(data: bytes, index: int, stops: Any) -> int:
    block = data[index : index + json_scan.BLOCK]
    return next((at for at, byte in enumerate(block) if stops(byte)), json_scan.BLOCK)


def _plain_bytes(data: bytes, index: int) -> int:
    return _leading(data, index, lambda byte: byte < 32 or byte > 127 or byte in b'"\\')


def _space_bytes(data: bytes, index: int) -> int:
    return _leading(data, index, lambda byte: byte not in b" \n\r\t")


def _phase_bytes(data: bytes, index: int) -> int:
    return sum(data[at : at + 4] == b'"ph"' for at in range(index, index + json_scan.BLOCK))


class PlainScanner:
    """The entry points of ``scan_code.Scanner``; bytes are Python integers, as numba widens them too."""

    def scan(self, data: Any, begin: int, limit: int, mode: Mode, space: Workspace) -> Ended:
        return Ended(kineto_scan.scan(data.tobytes(), begin, limit, len(data), mode, layout()[0], space))

    def count_phases(self, data: Any, begin: int, stop: int) -> int:
        return int(json_scan.count_phases(data.tobytes(), begin, stop))


def take_over() -> None:
    """From here on ``json_scan`` runs without LLVM."""
    stand_ins = {
        "word_at": _word_at,
        "plain_bytes": _plain_bytes,
        "space_bytes": _space_bytes,
        "phase_bytes": _phase_bytes,
    }
    for name, function in stand_ins.items():
        assert hasattr(json_scan, name)
        setattr(json_scan, name, function)


def agree(text: bytes) -> None:
    """The scanner as Python, as machine code, and the strict decoder read the same from the array in ``text``."""
    recovery = kineto_json.Recovery(text)
    begin = kineto_fast._first_event(text, kineto_fast._array_begin(text, recovery))
    if begin is None:
        return
    data = np.frombuffer(text, np.uint8)
    for mode in (Mode.ODD_ONLY, Mode.SPECIAL_TEXTS) if len(text) % 4 == 0 else (Mode.ODD_ONLY,):
        space = workspace(*_ROOM)
        ended = PlainScanner().scan(data, begin, len(text), mode, space)
        machine = scan_code.scanner() if scan_code.is_built() else None  # nothing can be built without numba
        if machine is not None:
            other = workspace(*_ROOM)
            assert machine.scan(data, begin, len(text), mode, other) == ended
            _same(space, other)
        phases = PlainScanner().count_phases(data, begin, int(space.result[Result.POSITION]))
        if ended != Ended.FULL and phases == space.result[Result.PHASES]:
            _as_decoded(text, begin, space, ended)


def _same(one: Workspace, other: Workspace) -> None:
    assert one.result.tolist() == other.result.tolist(), f"results {one.result} {other.result}"
    assert one.counts.tolist() == other.counts.tolist() and one.filled.tolist() == other.filled.tolist(), "rows differ"
    for row, filled in enumerate(one.filled):
        assert np.array_equal(one.columns[row, :filled], other.columns[row, :filled]), f"column {row} differs"
    odd, texts = int(one.result[Result.ODD]), int(one.result[Result.TEXTS])
    assert np.array_equal(one.odd[:odd], other.odd[:odd]), "odd events differ"
    assert np.array_equal(one.text_starts[:texts], other.text_starts[:texts]), "texts differ"
    assert np.array_equal(one.text_lengths[:texts], other.text_lengths[:texts]), "texts differ"


def _as_decoded(text: bytes, begin: int, space: Workspace, ended: Ended) -> None:
    """Rows of a stretch without odd events are those of its strictly decoded events, value by value."""
    result = space.result
    stretch = b"[" + text[begin : int(result[Result.POSITION])].rstrip(b" \t\r\n,") + b"]"
    odd = int(result[Result.ODD])
    try:
        events = kineto_events.DECODE_EVENTS.decode(stretch)
    except kineto_events.NOT_JSON:
        plain_texts = int(result[Result.TEXTS]) == 0 or text.isascii()
        assert odd or ended == Ended.BROKEN or not plain_texts or b"\\" in text, "the scanner read what is no JSON"
        return
    if ended == Ended.BROKEN or odd:
        return
    assert len(events) == result[Result.EVENTS], "number of events"
    texts = _texts(text, space)
    if texts is None:
        return
    for index, (family, columns) in enumerate(layout()[1].items()):
        members = [event for event in events if kineto_events.family_of(event) == family]
        times = [(_ns(event.ts), _ns(event.dur)) for event in members]
        kept = [e for e, (start, dur) in zip(members, times, strict=True) if None not in (start, dur) and dur >= 0]
        assert len(kept) == space.counts[index], f"{family}: {space.counts[index]} rows for {len(kept)} events"
        for at, event in enumerate(kept):
            for name, row, kind in columns:
                raw = space.columns[row, at] if at < space.filled[row] else NULL
                read = None if raw == NULL else _value(raw, kind, texts)
                assert _equal(read, _expected(event, family, name)), f"{family}.{name} of event {at}: {read!r}"


def _texts(text: bytes, space: Workspace) -> list[str] | None:
    found = []
    for start, packed in zip(
        space.text_starts[: space.result[Result.TEXTS]].tolist(),
        space.text_lengths[: space.result[Result.TEXTS]].tolist(),
        strict=True,
    ):
        encoded = text[start : start + (packed >> 1)]
        try:
            found.append(
                encoded.decode("utf-8", "replace")
                if packed & 1
                else msgspec.json.decode(b'"' + encoded + b'"', type=str)
            )
        except kineto_events.NOT_JSON:
            return None  # the next mode leaves such texts to the strict decoder
    return found


def _ns(raw: Any) -> int | None:
    return kineto_events._nanoseconds(bytes(raw).decode("utf-8", "replace").strip('" \t\r\n'))


def _value(raw: Any, kind: Kind, texts: list[str]) -> Any:
    if kind in (Kind.TEXT, Kind.RAW):
        return texts[raw]
    return float(np.int64(raw).view(np.float64)) if kind == Kind.FLOAT else int(raw)


def _expected(event: Any, family: str, name: str) -> Any:
    if name in ("start_ns", "dur_ns"):
        return _ns(event.ts if name == "start_ns" else event.dur)
    if name in ("pid", "tid"):
        return kineto_events._integer(getattr(event, name))
    if name == "name":
        return event.name if event.name is None or isinstance(event.name, str) else str(event.name)
    args = event.args or kineto_events._NO_ARGS
    for column, key in kineto_events.ARGUMENTS[family].items():
        value = getattr(args, kineto_events.ATTRIBUTE[key])
        if column in kineto_events.TRIPLES and name in kineto_events.TRIPLES[column]:
            return kineto_events._integer(kineto_events._item(value, kineto_events.TRIPLES[column].index(name)))
        if column != name:
            continue
        if column in kineto_events.JSON_TEXT:
            return bytes(value).decode("utf-8", "replace") or None
        if column in kineto_events.TEXT:
            return value if value is None or isinstance(value, str) else str(value)
        if column in kineto_events.FLOAT:
            return float(value) if isinstance(value, (int, float)) else None
        return kineto_events._integer(value)
    raise AssertionError(f"unknown column {name}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)

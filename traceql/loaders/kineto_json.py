"""Kineto's Chrome-trace JSON → one frame of typed columns for each family of events.

This module is the parsing seam: everything above it works on ``KinetoFile`` and never sees JSON. The parser reads any
layout. A file that is not valid JSON (killed run, NaN, broken text) is read event by event: every whole event is kept
and the loss is counted. ``kineto_fast`` gives the same result sooner for large files and falls back to this one.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from traceql.errors import UnreadableTraceError
from traceql.loaders import files
from traceql.loaders.kineto_events import (
    ATTRIBUTE,
    DECODE_EVENT,
    DECODE_EVENTS,
    DECODE_HEADER,
    NO_RAW,
    NOT_JSON,
    RAW_KEYS,
    Arguments,
    Event,
    KinetoFile,
    family_schema,
    frames,
    nanoseconds,
    skipped_problem,
)  # fmt: skip
from traceql.trace import Problem

__all__ = ["KinetoFile", "Recovery", "family_schema", "nanoseconds", "parse"]


GZIP_ENDS_EARLY = Problem("truncated", "the gzip stream ends early")


def parse(path: Path) -> KinetoFile:
    """Parse a plain or gzip trace file; raises UnreadableTraceError when no whole event can be read."""
    content = files.read(path)
    data = content.data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        what = "a damaged gzip file" if content.truncated else "an empty file"
        raise UnreadableTraceError(f"{path}: {what}; record the trace again")
    problems: list[Problem] = []
    try:
        header, events = _decode_whole(data)
    except NOT_JSON:
        header, events, problems = _recover(path, data)
    if not any(event.ph is not None for event in events):
        raise UnreadableTraceError(f"{path}: {_what_it_looks_like(data)}")
    if content.truncated and not any(p.kind == "truncated" for p in problems):
        problems.append(GZIP_ENDS_EARLY)
    families, skipped = frames(events)
    return KinetoFile(header, families, (*problems, *skipped_problem(skipped)))


def _decode_whole(data: bytes) -> tuple[dict[str, Any], list[Event]]:
    if data.lstrip()[:1] == b"[":
        return {}, DECODE_EVENTS.decode(data)
    raw = DECODE_HEADER.decode(data)
    events = DECODE_EVENTS.decode(raw.pop("traceEvents", msgspec.Raw(b"[]")))
    return {key: msgspec.json.decode(value) for key, value in raw.items()}, events


# --- recovery: event by event -----------------------------------------------------------------------------------

_EVENT_START = re.compile(rb'\{\s*"(?:ph|name|cat|pid|tid|ts|dur|args|id|bp|s)"\s*:')
_BETWEEN = b" \t\r\n,"
_MOST_SPACE = 1 << 16  # between two events
_MERGE_LIMIT = 4  # an event whose args hold something that looks like an event start comes in up to this many pieces
EVENTS_ARRAY = re.compile(rb'"traceEvents"\s*:\s*\[')

Buffer = bytes | mmap


class Piece(NamedTuple):
    """A stretch of text that starts like an event; ``event`` is None where it cannot be decoded."""

    start: int
    stop: int
    following: int
    """where the next piece starts"""
    event: Event | None


@dataclass
class Recovery:
    """Reads events one by one from text that is not strict JSON, and keeps account of what is lost."""

    data: Buffer
    array: re.Match[bytes] | None = field(init=False)
    begin: int = field(init=False)
    """first byte inside the array of events"""
    end_of_last: int = field(init=False)
    found: bool = False
    lost_events: int = 0
    lost_bytes: int = 0

    def __post_init__(self) -> None:
        self.array = EVENTS_ARRAY.search(self.data)
        self.begin = self.end_of_last = self.array.end() if self.array else self.data.find(b"[") + 1

    def pieces(self, begin: int) -> Iterator[Piece]:
        """The pieces from ``begin`` on."""
        for piece in _pieces(self.data, begin):
            if piece.event is None:
                self.lost_events += 1
                self.lost_bytes += piece.stop - piece.start
            else:
                self.found = True
                self.end_of_last = piece.stop
            yield piece

    def took_over(self, begin: int) -> None:
        """Go on at the piece that starts at ``begin``: all before it has been read, the last of it an event."""
        before = self.data[max(0, begin - _MOST_SPACE) : begin]
        self.found = True
        self.end_of_last = begin - len(before) + len(before.rstrip(_BETWEEN))

    def finish(self, path: Path) -> tuple[dict[str, Any], list[Problem]]:
        """The header as far as it reads, and what was lost."""
        size = len(self.data)
        tail = self.data[self.end_of_last :].strip()
        closed = tail.startswith(b"]")
        lost_events, lost_bytes = self.lost_events, self.lost_bytes
        problems = []
        if self.found and not closed:
            lost = size - self.end_of_last
            problems.append(Problem("truncated", f"{path.name} ends inside an event", bytes=lost, count=1))
            lost_events -= 1 if lost_events and tail else 0
            lost_bytes = max(0, lost_bytes - lost)
        if lost_events > 0:
            message = f"{lost_events} events are not valid JSON and were left out"
            problems.append(Problem("skipped", message, count=lost_events, bytes=lost_bytes))
        if not problems:
            problems.append(Problem("note", "the file is not strict JSON; every event could be read"))
        return _header_around(self.data, self.array, self.end_of_last if closed else None), problems


def _recover(path: Path, data: bytes) -> tuple[dict[str, Any], list[Event], list[Problem]]:
    """Whole events of a file that is not valid JSON, with the header as far as it reads, and what was lost."""
    recovery = Recovery(data)
    events = [piece.event for piece in recovery.pieces(recovery.begin) if piece.event is not None]
    header, problems = recovery.finish(path)
    return header, events, problems


def _pieces(data: Buffer, begin: int) -> Iterator[Piece]:
    starts = chain((match.start() for match in _EVENT_START.finditer(data, begin)), [len(data)])
    ahead = deque(islice(starts, _MERGE_LIMIT + 1))
    while len(ahead) > 1:
        start, width = ahead[0], 1
        piece = Piece(start, ahead[1], ahead[1], None)
        for width in range(1, len(ahead)):
            stop = ahead[width]
            event, length = _decode_piece(data[start:stop], last=stop == len(data))
            if event is not None:
                piece = Piece(start, start + length, stop, event)
                break
        else:
            width = 1
        yield piece
        for _ in range(width):
            ahead.popleft()
        ahead.extend(islice(starts, width))


def _decode_piece(piece: bytes, *, last: bool) -> tuple[Event | None, int]:
    """The event at the start of ``piece`` and how many bytes it takes."""
    text = piece.rstrip(_BETWEEN)
    try:
        return DECODE_EVENT.decode(text), len(text)
    except NOT_JSON:
        pass
    if not last and not text.endswith(b"}"):
        return None, 0
    lenient = text.decode("utf-8", "surrogateescape")  # keeps the byte count; the surrogates are replaced later
    try:
        value, stop = json.JSONDecoder(strict=False, parse_float=str, parse_constant=lambda _: None).raw_decode(lenient)
    except (ValueError, RecursionError):
        return None, 0
    rest = lenient[stop:].strip()
    if not isinstance(value, dict) or (rest and not (last and rest[0] in "],")):
        return None, 0
    return _event_from(value), len(lenient[:stop].encode("utf-8", "surrogateescape"))


def _event_from(value: dict[str, Any]) -> Event:
    """An event from leniently decoded JSON: lone surrogates replaced, numbers kept as their digits."""
    clean = _without_surrogates(value)
    args = clean.get("args")
    known = {}
    for key, attribute in ATTRIBUTE.items():
        if isinstance(args, dict) and args.get(key) is not None:
            known[attribute] = msgspec.Raw(msgspec.json.encode(args[key])) if key in RAW_KEYS else args[key]

    def raw(name: str) -> msgspec.Raw:
        return NO_RAW if clean.get(name) is None else msgspec.Raw(str(clean[name]).encode())

    fields = {name: clean.get(name) for name in ("ph", "cat", "name", "pid", "tid")}
    return Event(**fields, ts=raw("ts"), dur=raw("dur"), args=Arguments(**known) if known else None)


def _without_surrogates(value: dict[str, Any]) -> dict[str, Any]:
    """The same with lone surrogates, which are no text, replaced."""
    clean: dict[str, Any] = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return clean


def _header_around(data: Buffer, array: re.Match[bytes] | None, stop: int | None) -> dict[str, Any]:
    """The keys beside ``traceEvents`` as far as they can be read."""
    if array is None:
        return {}
    before = data[: array.start()]
    after = b"" if stop is None else data[stop:].lstrip().removeprefix(b"]")
    for text in (before + b'"traceEvents": []' + after, before.rstrip(b", \t\r\n") + b"}"):
        try:
            header = json.loads(text.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(header, dict):
            header.pop("traceEvents", None)
            return _without_surrogates(header)
    return {}


_WANT = 'traceql reads PyTorch profiler traces (JSON with "traceEvents")'
_AGAIN = "record it again and export it after the profiled steps (prof.export_chrome_trace)"


def _what_it_looks_like(data: bytes) -> str:
    """Why a file without trace events was refused, and what to do."""
    start = data.lstrip()[:1]
    if start not in (b"{", b"["):
        return f"not JSON (starts with {data.lstrip()[:24]!r}); {_WANT}"
    try:
        value = msgspec.json.decode(data)
    except NOT_JSON:
        size = f"{len(data):,} byte{'' if len(data) == 1 else 's'}"
        return f"{size} of JSON that end before one whole trace event; writing it was cut short: {_AGAIN}"
    if isinstance(value, list):
        if not value:
            return f"an empty JSON array, no event in it; {_AGAIN}"
        return f'a JSON array of {len(value)} items, none a trace event (no "ph"); {_WANT}'
    if not value:
        return f"an empty JSON object, no event in it; {_AGAIN}"
    events = value.get("traceEvents")
    if events is not None and not isinstance(events, list):
        return f'its "traceEvents" is not a list of events; {_AGAIN}'
    if events:
        return f'{len(events)} items in "traceEvents", none an event (no "ph"); {_AGAIN}'
    if "traceEvents" in value:
        return (
            "a trace without a single event; was the profiler active while the program ran (its activities, its schedule)? "
            f"{_AGAIN}"
        )
    if "nodes" in value and "schema" in value:
        return f"a PyTorch execution trace (ExecutionTraceObserver), which has no GPU timeline; {_WANT}"
    if "segments" in value and "device_traces" in value:
        return f"a PyTorch memory snapshot; {_WANT}"
    keys = ", ".join(list(value)[:5])
    return f'JSON with the keys {keys}, no "traceEvents"; {_WANT}'

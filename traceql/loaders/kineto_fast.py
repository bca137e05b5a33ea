"""Large Kineto traces: compiled scanning in threads, with the frames of ``kineto_json`` exactly.

The file is cut where an event seems to start and the pieces are scanned at the same time. A piece counts only when
the piece before it, read from a proven start, ends exactly where it begins: by induction every byte of the array was
read in order. Inside a piece the number of ``"ph"`` keys is counted a second time without any parsing. An event the
scanner does not fully understand is decoded by ``kineto_json``; at a break its recovery takes over until the text is
whole again; anything that leaves a doubt gives it the whole file.
"""

from __future__ import annotations

import mmap
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from traceql.loaders import files, kineto_json
from traceql.loaders.kineto_events import DECODE_HEADER, NOT_JSON, Event, KinetoFile, frames, skipped_problem
from traceql.loaders.kineto_json import Buffer, Recovery
from traceql.trace import Problem

if TYPE_CHECKING:
    from traceql.loaders.kineto_pieces import Piece

SMALL_BYTES = 16 << 20
"""Files under this size are read sooner without the compiled code, which takes a while to load."""

_TYPICAL_RATIO = 12  # of a trace's size to its gzip's
_PIECE_BYTES = 4 << 20
_LOOK_AHEAD_BYTES = 1 << 20  # how far to look for a place to cut
_MAX_RESTARTS = 64  # a file with more breaks than that is the recovery's from there on
_RECOVERED_ROWS = 50_000  # recovered events held as objects at a time
_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"
_MARKER = b'["events"]'  # stands for the events while the header is decoded

_CUT = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:ph|name|cat|pid|tid|ts|dur|args|id|bp|s)"\s*:)')
"""A likely boundary between two events; a wrong guess costs time, never a row."""


def parse(path: Path) -> KinetoFile:
    """Parse a plain or gzip trace file: the result and the errors of ``kineto_json.parse``, sooner for large files."""
    try:
        size = path.stat().st_size * (_TYPICAL_RATIO if files.is_gzip(path) else 1)
        file = parse_large(path) if size >= SMALL_BYTES else None
    except OSError:
        file = None  # the strict parser says what is wrong
    return file or kineto_json.parse(path)


def parse_large(path: Path) -> KinetoFile | None:
    """Parse with the compiled scanner; None where only the strict parser can tell what the file is."""
    if files.is_gzip(path):
        return _parse_stream(path) or _parse_bytes(path)
    with path.open("rb") as file:
        if file.read(len(_BOM)) == _BOM or not os.fstat(file.fileno()).st_size:
            return _parse_bytes(path)
        return _parse_buffer(path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _parse_bytes(path: Path) -> KinetoFile | None:
    content = files.read(path)
    return _parse_buffer(path, content.data.removeprefix(_BOM), truncated=content.truncated)


# --- a file in memory or mapped --------------------------------------------------------------------------------------


def _parse_buffer(path: Path, buffer: Buffer, *, truncated: bool = False) -> KinetoFile | None:
    recovery = Recovery(buffer)
    begin = _first_event(buffer, recovery.begin)
    if begin is None:
        return None
    pieces = list(_verified(buffer, begin))
    header = _header(buffer, recovery, pieces[-1].position) if _is_closed(pieces) else None
    if header is not None:
        return _file(header, [piece.frames for piece in pieces], pieces)
    return _recovered(path, buffer, recovery, pieces, truncated=truncated)


def _first_event(buffer: Buffer, begin: int) -> int | None:
    """Where the first event starts when ``begin`` is just inside the array."""
    start = buffer[begin : begin + 4096].lstrip(_SPACE)
    return begin + len(buffer[begin : begin + 4096]) - len(start) if start.startswith(b"{") else None


def _is_closed(pieces: list[Piece]) -> bool:
    return pieces[-1].ended.name == "CLOSED"


def _verified(buffer: Buffer, begin: int) -> Iterator[Piece]:
    """The pieces in order, each from where the one before proved an event to start; the last did not reach its limit."""
    from traceql.loaders.kineto_pieces import Ended, read

    position = begin
    waiting: deque[tuple[int, int, Future[Piece]]] = deque()
    threads = _threads()
    with ThreadPoolExecutor(threads) as pool:
        guesses = _guesses(buffer, begin)
        for first, limit in guesses:
            waiting.append((first, limit, pool.submit(read, buffer, first, limit)))
            if len(waiting) < 2 * threads and limit < len(buffer):
                continue
            while len(waiting) >= 2 * threads or (limit == len(buffer) and waiting):
                start, end, future = waiting.popleft()
                if end <= position:  # the piece before reached over all of it
                    continue
                piece = future.result() if start == position else read(buffer, position, end)
                _release(buffer, position, piece.position)
                position = piece.position
                yield piece
                if piece.ended != Ended.AT_LIMIT:
                    pool.shutdown(wait=True, cancel_futures=True)
                    return


def _threads() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _guesses(buffer: Buffer, begin: int) -> Iterator[tuple[int, int]]:
    """Stretches of the array that probably start and end between two events."""
    size = len(buffer)
    while begin < size:
        cut = _cut(buffer, begin + _PIECE_BYTES)
        yield begin, cut
        begin = cut


def _cut(buffer: Buffer, at: int) -> int:
    """A likely start of an event after ``at``, else the end of the buffer."""
    while at < len(buffer):
        found = _CUT.search(buffer, at, at + _LOOK_AHEAD_BYTES)
        if found:
            return found.end()
        at += _LOOK_AHEAD_BYTES // 2
    return len(buffer)


def _release(buffer: Buffer, begin: int, end: int) -> None:
    """Let go of mapped pages that have been read, so that they do not count as this process's memory."""
    if isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        begin = begin // mmap.PAGESIZE * mmap.PAGESIZE
        end = end // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            buffer.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _header(buffer: Buffer, recovery: Recovery, closing: int) -> dict[str, Any] | None:
    """What stands beside the events, which end at ``closing``; None unless that is strict JSON around one array."""
    before, after = buffer[: recovery.begin - 1], buffer[closing + 1 :]
    return _header_of(before, after)


def _header_of(before: bytes, after: bytes) -> dict[str, Any] | None:
    if not before.strip(_SPACE):
        return None if after.strip(_SPACE) else {}
    try:
        raw = DECODE_HEADER.decode(before + _MARKER + after)
        # found by its text, the array could still be one inside another value
        if bytes(raw.pop("traceEvents", msgspec.Raw(b""))) != _MARKER:
            return None
        return {key: msgspec.json.decode(value) for key, value in raw.items()}
    except NOT_JSON:
        return None


def _file(
    header: dict[str, Any], parts: list[dict[str, pl.DataFrame]], pieces: list[Piece], problems: tuple[Problem, ...] = (), skipped: int = 0,
) -> KinetoFile | None:
    from traceql.loaders.kineto_pieces import joined

    if not any(piece.phases for piece in pieces):
        return None
    skipped += sum(piece.skipped for piece in pieces)
    return KinetoFile(header, joined(parts), (*problems, *skipped_problem(skipped)))


# --- a file with a break ---------------------------------------------------------------------------------------------


def _recovered(
    path: Path, buffer: Buffer, recovery: Recovery, pieces: list[Piece], *, truncated: bool
) -> KinetoFile | None:
    """The result of the strict recovery, which reads only what lies around the breaks."""
    done: list[Piece] = []
    parts: list[dict[str, pl.DataFrame]] = []
    skipped = restarts = 0
    while True:
        if not all(piece.aligned for piece in pieces):
            return None  # the recovery would cut out other events than these
        broken_at = pieces[-1].position
        start = _without_last_event(buffer, pieces)
        done += pieces
        parts += [piece.frames for piece in pieces]
        events: list[Event] = []
        resume = None
        for piece in recovery.pieces(recovery.begin if start is None else start):
            if piece.event is not None:
                events.append(piece.event)
                if piece.start > broken_at and restarts < _MAX_RESTARTS and piece.following < len(buffer):
                    resume = piece.following
                    break
            if len(events) >= _RECOVERED_ROWS:
                found, count = frames(events)
                parts.append(found)
                skipped += count
                events.clear()
        found, count = frames(events)
        parts.append(found)
        skipped += count
        if resume is None:
            break
        restarts += 1
        pieces = list(_verified(buffer, resume))
    header, problems = recovery.finish(path)
    if truncated and not any(problem.kind == "truncated" for problem in problems):
        problems.append(Problem("truncated", "the gzip stream ends early"))
    return _file(header, parts, done, tuple(problems), skipped)


def _without_last_event(buffer: Buffer, pieces: list[Piece]) -> int | None:
    """Take the last event off the pieces and return where it starts: the recovery needs a whole event to go on from."""
    from traceql.loaders.kineto_pieces import read

    while pieces:
        last = pieces.pop()
        if last.last_start >= 0:
            if last.last_start > last.begin:
                pieces.append(read(buffer, last.begin, last.last_start))
            return last.last_start
    return None


# --- a gzip stream ---------------------------------------------------------------------------------------------------


def _parse_stream(path: Path) -> KinetoFile | None:
    ...

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
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from traceql.loaders import files, kineto_json
from traceql.loaders.kineto_events import DECODE_HEADER, NOT_JSON, Event, KinetoFile, skipped_problem
from traceql.loaders.kineto_json import EVENTS_ARRAY, GZIP_ENDS_EARLY, Buffer, Recovery
from traceql.trace import Problem

if TYPE_CHECKING:
    from traceql.loaders.kineto_pieces import Piece

_Job = tuple[Buffer, int, int]

SMALL_BYTES = 4 << 20
"""Files under this size are read sooner by the strict parser: the compiled scanner takes a while to load."""
BUILD_BYTES = 32 << 20
"""From this size on the scanner is compiled when that was not done yet, which takes some seconds, once."""

_TYPICAL_RATIO = 12  # of a trace's size to its gzip's
_PIECE_BYTES = 8 << 20
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
        file = parse_large(path, build=size >= BUILD_BYTES) if size >= SMALL_BYTES else None
    except OSError:
        file = None  # the strict parser says what is wrong
    return file or kineto_json.parse(path)


def parse_large(path: Path, *, build: bool = True) -> KinetoFile | None:
    """Parse with the compiled scanner; None where only the strict parser can tell what the file is.

    Also None when there is no compiled scanner, which ``build`` compiles where it can.
    """
    from traceql.loaders import scan_code

    if not (build or scan_code.is_built()) or scan_code.scanner() is None:
        return None
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
    begin = _array_begin(buffer, recovery)
    first = _first_event(buffer, begin)
    if first is None:
        return None
    pieces = list(_verified(buffer, first))
    before = buffer[: begin - 1]
    if pieces[-1].closed:
        header = _header(before, buffer[pieces[-1].position + 1 :])
        return None if header is None else _file(header, pieces, [GZIP_ENDS_EARLY] if truncated else [])
    if recovery.begin != begin or _header(before, b"}" if recovery.array else b"") is None:
        return None
    if EVENTS_ARRAY.search(buffer, begin):
        return None  # of two such keys the last one counts
    return _recovered(path, buffer, recovery, pieces, truncated=truncated)


def _array_begin(buffer: Buffer, recovery: Recovery) -> int:
    """Just inside the array of events: the file's own, or that of its key ``traceEvents``."""
    start = buffer[:4096].lstrip(_SPACE)
    return len(buffer[:4096]) - len(start) + 1 if start.startswith(b"[") else recovery.begin


def _first_event(buffer: Buffer, begin: int) -> int | None:
    start = buffer[begin : begin + 4096]
    spaces = len(start) - len(start.lstrip(_SPACE))
    return begin + spaces if start[spaces : spaces + 1] == b"{" else None


def _verified(buffer: Buffer, begin: int) -> Iterator[Piece]:
    """Pieces in order, each from where the one before proved an event to start, to the first that stops early."""
    from traceql.loaders.kineto_pieces import read

    position = begin
    with closing(_ahead((buffer, start, end) for start, end in _guesses(buffer, begin))) as jobs:
        for (_, start, end), future in jobs:
            if end <= position:
                continue  # the piece before reached over all of it
            piece = future.result() if start == position else read(buffer, position, end)
            _release(buffer, position, piece.position)
            position = piece.position
            yield piece
            if not piece.at_limit:
                return


def _ahead(jobs: Iterable[_Job]) -> Generator[tuple[_Job, Future[Piece]]]:
    """Each job with its result to come, while threads are already at work on the next ones."""
    from traceql.loaders.kineto_pieces import read

    threads = files.threads()
    waiting: deque[tuple[_Job, Future[Piece]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append((job, pool.submit(read, *job)))
                if len(waiting) == 2 * threads:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


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


def _header(before: bytes, after: bytes) -> dict[str, Any] | None:
    """What stands beside the events; None unless that is strict JSON around the one array of events."""
    if not before.strip(_SPACE):
        return None if after.strip(_SPACE) else {}
    try:
        raw = DECODE_HEADER.decode(before + _MARKER + after)
        # the array was found by its text: it could be one inside another value
        if bytes(raw.pop("traceEvents", msgspec.Raw(b""))) != _MARKER:
            return None
        return {key: msgspec.json.decode(value) for key, value in raw.items()}
    except NOT_JSON:
        return None


def _file(header: dict[str, Any], pieces: list[Piece], problems: Sequence[Problem] = ()) -> KinetoFile | None:
    from traceql.loaders.kineto_pieces import joined

    if not any(piece.phases for piece in pieces):
        return None
    skipped = skipped_problem(sum(piece.skipped for piece in pieces))
    return KinetoFile(header, joined([piece.frames for piece in pieces]), (*problems, *skipped))


# --- a file with a break ---------------------------------------------------------------------------------------------


def _recovered(
    path: Path, buffer: Buffer, recovery: Recovery, pieces: list[Piece], *, truncated: bool
) -> KinetoFile | None:
    """The result of the strict recovery, which itself reads only what lies around the breaks."""
    done: list[Piece] = []
    begin = recovery.begin
    for restart in range(_MAX_RESTARTS + 1):
        if not all(piece.aligned for piece in pieces):
            return None  # the recovery would cut out other events than these
        break_at = pieces[-1].position
        begin = _without_last_event(buffer, pieces, begin)
        if any(piece.events for piece in pieces):
            recovery.took_over(begin)
        done += pieces
        resume_after = break_at if restart < _MAX_RESTARTS else len(buffer)
        found, begin = _around_break(recovery, begin, resume_after)
        done += found
        if begin == len(buffer):
            break
        pieces = list(_verified(buffer, begin))
    header, problems = recovery.finish(path)
    if truncated and not any(problem.kind == "truncated" for problem in problems):
        problems.append(GZIP_ENDS_EARLY)
    return _file(header, done, problems)


def _without_last_event(buffer: Buffer, pieces: list[Piece], begin: int) -> int:
    """Take the last event off the pieces and return where it starts, ``begin`` when there is none.

    The recovery goes on from a whole event: it looks for the next start of an event only after that.
    """
    from traceql.loaders.kineto_pieces import read

    while pieces:
        last = pieces.pop()
        if last.last_start >= 0:
            if last.last_start > last.begin:
                pieces.append(read(buffer, last.begin, last.last_start))
            return last.last_start
    return begin


def _around_break(recovery: Recovery, begin: int, resume_after: int) -> tuple[list[Piece], int]:
    """What the recovery reads from ``begin`` to the first whole event after ``resume_after``, and where that ends."""
    from traceql.loaders.kineto_pieces import recovered

    found: list[Piece] = []
    events: list[Event] = []
    end = len(recovery.data)
    for piece in recovery.pieces(begin):
        if piece.event is None:
            continue
        events.append(piece.event)
        if len(events) == _RECOVERED_ROWS:
            found.append(recovered(events))
            events = []
        if piece.start > resume_after:
            end = piece.following
            break
    return [*found, recovered(events)], end


# --- a gzip stream ---------------------------------------------------------------------------------------------------


def _parse_stream(path: Path) -> KinetoFile | None:
    """Scan while decompressing; None when anything is not as it should be, which takes the whole text to judge."""
    stretches = _stretches(files.GzipBlocks(path))
    text, cut = next(stretches, (b"", 0))
    if text.startswith(_BOM):
        return None
    begin = _array_begin(text, Recovery(text))
    first = _first_event(text, begin)
    if first is None:
        return None
    pieces: list[Piece] = []
    after: list[bytes] = []
    jobs = chain([(text, first, cut)], ((later, 0, end) for later, end in stretches))
    with closing(_ahead(jobs)) as running:
        for (stretch, _, end), future in running:
            if after:
                after.append(bytes(stretch[:end]))
                continue
            pieces.append(future.result())
            position = pieces[-1].position
            if pieces[-1].closed:
                after.append(bytes(stretch[position + 1 : end]))
            elif not pieces[-1].at_limit or position != end:
                return None
    header = _header(text[: begin - 1], b"".join(after)) if after else None
    return None if header is None else _file(header, pieces)


def _stretches(blocks: files.GzipBlocks) -> Iterator[tuple[bytes, int]]:
    """The text in stretches, each with where in it the next one begins; none for the rest of a damaged file."""
    held: list[bytes] = []
    size, enough = 0, _PIECE_BYTES + _LOOK_AHEAD_BYTES // 16
    for block in blocks:
        held.append(block)
        size += len(block)
        if size >= enough:
            text = b"".join(held)
            cut = _cut(text, min(_PIECE_BYTES, size - _LOOK_AHEAD_BYTES // 16))
            if cut < size:
                yield text, cut
                held, size = [text[cut:]], size - cut
                enough = _PIECE_BYTES + _LOOK_AHEAD_BYTES // 16
            else:
                held, enough = [text], 2 * enough
    if not blocks.truncated:
        text = b"".join(held)
        yield text, len(text)

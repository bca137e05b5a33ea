"""Kineto's Chrome-trace JSON → one frame of typed columns for each family of events.

This module is the parsing seam: everything above it works on ``KinetoFile`` and never sees JSON. The parser reads any
layout. A file that is not valid JSON (killed run, NaN, broken text) is read event by event: every whole event is kept
and the loss is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from traceql.errors import UnreadableTraceError
from traceql.loaders import files
from traceql.trace import Problem

FAMILY_OF_CATEGORY = {
    "kernel": "kernel", "Kernel": "kernel",
    "gpu_memcpy": "memcpy", "Memcpy": "memcpy",
    "gpu_memset": "memset", "Memset": "memset",
    "cuda_runtime": "call", "cuda_driver": "call", "Runtime": "call", "hip_runtime": "call", "hip_driver": "call",
    "cpu_op": "op", "Operator": "op",
    "python_function": "python",
    "user_annotation": "annotation",
    "gpu_user_annotation": "gpu_annotation",
    "overhead": "overhead", "Overhead": "overhead",
    "cuda_sync": "sync",
    "Trace": "window",
}  # fmt: skip
"""Event category → family; capitalised names are those of Kineto before 2022."""

_GPU_KEYS = {
    "correlation_id": "correlation", "external_id": "External id",
    "device": "device", "stream": "stream", "context": "context",
    "graph_id": "graph id", "graph_node_id": "graph node id",
}  # fmt: skip
_COLLECTIVE_KEYS = {
    "collective": "Collective name", "collective_dtype": "dtype", "in_elements": "In msg nelems",
    "out_elements": "Out msg nelems", "group": "Process Group Name", "group_size": "Group size",
}  # fmt: skip
ARGUMENTS: dict[str, dict[str, str]] = {
    "kernel": {
        **_GPU_KEYS, "registers_per_thread": "registers per thread", "shared_memory_bytes": "shared memory",
        "occupancy_pct": "est. achieved occupancy %", "grid": "grid", "block": "block", **_COLLECTIVE_KEYS,
    },
    "memcpy": {**_GPU_KEYS, "bytes": "bytes"},
    "memset": {**_GPU_KEYS, "bytes": "bytes"},
    "call": {"correlation_id": "correlation", "external_id": "External id"},
    "op": {
        "external_id": "External id", "input_shapes": "Input Dims", "input_strides": "Input Strides",
        "input_dtypes": "Input type", **_COLLECTIVE_KEYS,
    },
    "python": {"python_id": "Python id", "parent_id": "Python parent id"},
    "annotation": {},
    "gpu_annotation": {"device": "device", "stream": "stream"},
    "overhead": {},
    "sync": _GPU_KEYS,
    "window": {},
}  # fmt: skip
"""Family → its argument columns → the key in an event's ``args``."""

TEXT = {"collective", "collective_dtype", "group"}
JSON_TEXT = {"input_shapes", "input_strides", "input_dtypes"}
FLOAT = {"occupancy_pct"}
TRIPLES = {"grid": ("grid_x", "grid_y", "grid_z"), "block": ("block_x", "block_y", "block_z")}


def family_schema(family: str) -> pl.Schema:
    """Columns of a family's frame: what every event has, then the family's arguments."""
    columns: dict[str, pl.DataType] = {
        "name": pl.String(), "pid": pl.Int64(), "tid": pl.Int64(), "start_ns": pl.Int64(), "dur_ns": pl.Int64(),
    }  # fmt: skip
    for column in ARGUMENTS[family]:
        if column in TRIPLES:
            columns.update(dict.fromkeys(TRIPLES[column], pl.Int64()))
        elif column in TEXT or column in JSON_TEXT:
            columns[column] = pl.String()
        else:
            columns[column] = pl.Float64() if column in FLOAT else pl.Int64()
    return pl.Schema(columns)


FAMILIES = tuple(ARGUMENTS)


@dataclass(frozen=True)
class KinetoFile:
    """A parsed file: the header (everything beside the events) and a frame for each family of complete events.

    Times are integer ns on the file's clock: microseconds × 1000, read from the digits, never through a float.
    """

    header: dict[str, Any]
    families: dict[str, pl.DataFrame]
    problems: tuple[Problem, ...] = ()


_KEYS = sorted({key for family in ARGUMENTS.values() for key in family.values()})
_ATTRIBUTE = {key: re.sub(r"\W+", "_", key).strip("_").lower() for key in _KEYS}
_RAW_KEYS = {key for family in ARGUMENTS.values() for column, key in family.items() if column in JSON_TEXT}
_EMPTY = msgspec.Raw(b"")

_Args = msgspec.defstruct(
    "_Args",
    [(_ATTRIBUTE[key], msgspec.Raw, _EMPTY) if key in _RAW_KEYS else (_ATTRIBUTE[key], Any, None) for key in _KEYS],
    rename={_ATTRIBUTE[key]: key for key in _KEYS},
    gc=False,
)


class _Event(msgspec.Struct, gc=False):
    """One trace event with the fields the tables use; anything else is skipped while decoding."""

    ph: Any = None
    cat: Any = None
    name: Any = None
    pid: Any = None
    tid: Any = None
    ts: msgspec.Raw = _EMPTY
    dur: msgspec.Raw = _EMPTY
    args: _Args | None = None  # type: ignore[valid-type]


_DECODE_EVENTS = msgspec.json.Decoder(list[_Event])
_DECODE_EVENT = msgspec.json.Decoder(_Event)
_DECODE_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_ARGS = _Args()


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        header, events, problems = _recover(path, data)
    if not any(event.ph is not None for event in events):
        raise UnreadableTraceError(f"{path}: {_what_it_looks_like(data)}")
    if content.truncated and not any(p.kind == "truncated" for p in problems):
        problems.append(Problem("truncated", "the gzip stream ends early"))
    families, skipped = _frames(events)
    if skipped:
        problems.append(Problem("skipped", f"{skipped} events without a readable time were left out", count=skipped))
    return KinetoFile(header, families, tuple(problems))


def _decode_whole(data: bytes) -> tuple[dict[str, Any], list[_Event]]:
    if data.lstrip()[:1] == b"[":
        return {}, _DECODE_EVENTS.decode(data)
    raw = _DECODE_HEADER.decode(data)
    events = _DECODE_EVENTS.decode(raw.pop("traceEvents", msgspec.Raw(b"[]")))
    return {key: msgspec.json.decode(value) for key, value in raw.items()}, events


# --- recovery: event by event -----------------------------------------------------------------------------------

_EVENT_START = re.compile(rb'\{\s*"(?:ph|name|cat|pid|tid|ts|dur|args|id|bp|s)"\s*:')
_MERGE_LIMIT = 4  # an event whose args hold something that looks like an event start comes in up to this many pieces


def _recover(path: Path, data: bytes) -> tuple[dict[str, Any], list[_Event], list[Problem]]:
    """Whole events of a file that is not valid JSON, with the header as far as it reads, and what was lost."""
    array = re.search(rb'"traceEvents"\s*:\s*\[', data)
    begin = array.end() if array else data.find(b"[") + 1
    events: list[_Event] = []
    lost_events = lost_bytes = 0
    end_of_last = begin
    for start, stop, event in _pieces(data, begin):
        if event is None:
            lost_events += 1
            lost_bytes += stop - start
        else:
            events.append(event)
            end_of_last = stop
    tail = data[end_of_last:].strip()
    closed = tail.startswith(b"]")
    problems = []
    if events and not closed:
        problems.append(
            Problem("truncated", f"{path.name} ends inside an event", bytes=len(data) - end_of_last, count=1)
        )
        lost_events -= 1 if lost_events and tail else 0
        lost_bytes = max(0, lost_bytes - (len(data) - end_of_last))
    if lost_events > 0:
        message = f"{lost_events} events are not valid JSON and were left out"
        problems.append(Problem("skipped", message, count=lost_events, bytes=lost_bytes))
    if not problems:
        problems.append(Problem("note", "the file is not strict JSON; every event could be read"))
    return _header_around(data, array, end_of_last if closed else None), events, problems


def _pieces(data: bytes, begin: int) -> Iterator[tuple[int, int, _Event | None]]:
    """(start, stop, event) for each stretch that starts like an event; None where it cannot be decoded."""
    starts = [match.start() for match in _EVENT_START.finditer(data, begin)]
    starts.append(len(data))
    index = 0
    while index < len(starts) - 1:
        start = starts[index]
        for width in range(1, min(_MERGE_LIMIT, len(starts) - 1 - index) + 1):
            stop = starts[index + width]
            event, length = _decode_piece(data[start:stop], last=stop == len(data))
            if event is not None:
                yield start, start + length, event
                index += width
                break
        else:
            yield start, starts[index + 1], None
            index += 1


def _decode_piece(piece: bytes, *, last: bool) -> tuple[_Event | None, int]:
    """The event at the start of ``piece`` and how many bytes it takes."""
    text = piece.rstrip(b" \t\r\n,")
    try:
        return _DECODE_EVENT.decode(text), len(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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


def _event_from(value: dict[str, Any]) -> _Event:
    """An event from leniently decoded JSON: lone surrogates replaced, numbers kept as their digits."""
    clean = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    args = clean.get("args")
    known = {}
    for key, attribute in _ATTRIBUTE.items():
        if isinstance(args, dict) and args.get(key) is not None:
            known[attribute] = msgspec.Raw(msgspec.json.encode(args[key])) if key in _RAW_KEYS else args[key]

    def raw(name: str) -> msgspec.Raw:
        return _EMPTY if clean.get(name) is None else msgspec.Raw(str(clean[name]).encode())

    fields = {name: clean.get(name) for name in ("ph", "cat", "name", "pid", "tid")}
    return _Event(**fields, ts=raw("ts"), dur=raw("dur"), args=_Args(**known) if known else None)


def _header_around(data: bytes, array: re.Match[bytes] | None, stop: int | None) -> dict[str, Any]:
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
            return header
    return {}


def _what_it_looks_like(data: bytes) -> str:
    """Why a file without trace events was refused, and what to do."""
    want = 'traceql reads PyTorch profiler traces (JSON with "traceEvents")'
    start = data.lstrip()[:1]
    if start not in (b"{", b"["):
        return f"not JSON (starts with {data.lstrip()[:24]!r}); {want}"
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"JSON without one whole trace event; {want}, record it again"
    if isinstance(value, list):
        return f'a JSON array of {len(value)} items, none a trace event (no "ph"); {want}'
    if not isinstance(value, dict):
        return f"a JSON {type(value).__name__}; {want}"
    if "traceEvents" in value:
        return "a trace without a single event; was the profiler active while the program ran?"
    if "nodes" in value and "schema" in value:
        return f"a PyTorch execution trace (ExecutionTraceObserver), which has no GPU timeline; {want}"
    if "segments" in value and "device_traces" in value:
        return f"a PyTorch memory snapshot; {want}"
    keys = ", ".join(list(value)[:5])
    return f'JSON with the keys {keys}, no "traceEvents"; {want}'


# --- columns ----------------------------------------------------------------------------------------------------


def _frames(events: list[_Event]) -> tuple[dict[str, pl.DataFrame], int]:
    """A frame for each family and the number of complete events whose time could not be read."""
    by_family: dict[str, list[_Event]] = {family: [] for family in FAMILIES}
    family_of = FAMILY_OF_CATEGORY.get
    for event in events:
        if event.ph == "X" and isinstance(event.cat, str) and (family := family_of(event.cat)):
            by_family[family].append(event)
    frames: dict[str, pl.DataFrame] = {}
    skipped = 0
    for family, members in by_family.items():
        frame = _frame(family, members)
        readable = frame.filter(pl.col("start_ns").is_not_null() & (pl.col("dur_ns") >= 0))
        skipped += frame.height - readable.height
        frames[family] = readable
    return frames, skipped


def _frame(family: str, events: list[_Event]) -> pl.DataFrame:
    args = [event.args or _NO_ARGS for event in events]
    columns: dict[str, pl.Series] = {
        "name": _texts([event.name for event in events]),
        "pid": _integers([event.pid for event in events]),
        "tid": _integers([event.tid for event in events]),
        "start_ns": nanoseconds(_digits([event.ts for event in events])),
        "dur_ns": nanoseconds(_digits([event.dur for event in events])),
    }
    for column, key in ARGUMENTS[family].items():
        values = list(map(attrgetter(_ATTRIBUTE[key]), args))
        if column in TRIPLES:
            for axis, name in enumerate(TRIPLES[column]):
                columns[name] = _integers([_item(value, axis) for value in values])
        elif column in JSON_TEXT:
            columns[column] = _digits(values)
        else:
            convert: Callable[[list[Any]], pl.Series] = (
                _texts if column in TEXT else _floats if column in FLOAT else _integers
            )
            columns[column] = convert(values)
    return pl.DataFrame(columns, schema=family_schema(family))


def _item(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, (list, tuple)) and len(value) > index else None


def _digits(raws: list[Any]) -> pl.Series:
    """Raw JSON text as strings; null where the key was missing. Quoted numbers lose their quotes."""
    return pl.Series([bytes(raw).decode("utf-8", "replace") or None for raw in raws], dtype=pl.String)


def _texts(values: list[Any]) -> pl.Series:
    return pl.Series([v if v is None or isinstance(v, str) else str(v) for v in values], dtype=pl.String)


def _floats(values: list[Any]) -> pl.Series:
    return pl.Series([v if isinstance(v, (int, float)) else None for v in values], dtype=pl.Float64, strict=False)


def _integers(values: list[Any]) -> pl.Series:
    """Integers as they are; texts give their first run of digits ("stream 7" is 7); anything else is null."""
    try:
        return pl.Series(values, dtype=pl.Int64, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series([_integer(value) for value in values], dtype=pl.Int64)


_INT64_MAX = 2**63 - 1


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        found = re.search(r"-?\d{1,19}", value)
        value = int(found.group()) if found else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and abs(value) <= _INT64_MAX else None


def nanoseconds(microseconds: pl.Series) -> pl.Series:
    """Decimal microsecond texts → integer ns, exact; a fourth decimal rounds half up. Null where not a number.

    ``(float * 1000).round()`` is wrong by 1 ns on 0.3 % of values with a 1.7e15 µs epoch: a float64 has 53 bits.
    """
    text = microseconds.str.strip_chars('" \t\r\n')
    plain = text.str.contains(r"^-?\d{1,15}(\.\d*)?$")
    parts = text.set(~plain.fill_null(False), None).str.split_exact(".", 1)
    whole = parts.struct.field("field_0")
    fraction = parts.struct.field("field_1").fill_null("")
    sign = whole.str.starts_with("-").cast(pl.Int64) * -2 + 1
    thousandths = (fraction + "000").str.slice(0, 3).cast(pl.Int64)
    rounding = ((fraction + "0000").str.slice(3, 1).cast(pl.Int64) >= 5).cast(pl.Int64)
    result = whole.cast(pl.Int64) * 1000 + sign * (thousandths + rounding)
    odd = text.is_not_null() & ~plain.fill_null(False)
    if odd.any():
        exact = [_nanoseconds(value) for value in text.filter(odd)]
        result = result.scatter(odd.arg_true(), pl.Series(exact, dtype=pl.Int64))
    return result.cast(pl.Int64)


def _nanoseconds(text: str) -> int | None:
    """One number in a form the vectorised path leaves out: exponents, more than 15 digits."""
    try:
        value = Decimal(text)
        if not value.is_finite() or value.adjusted() > 16:
            return None
        return int((value * 1000).to_integral_value(rounding="ROUND_HALF_UP"))
    except InvalidOperation:
        return None

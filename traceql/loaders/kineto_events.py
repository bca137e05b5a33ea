"""What the tables use of a trace event: families, their columns, and the strict decoder with its conversions.

Every conversion here works value by value, so that a file may be read in any number of parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from typing import Any

import msgspec
import polars as pl

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
    "group_ranks": "Process Group Ranks",
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

TEXT = {"collective", "collective_dtype", "group", "group_ranks"}
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
ATTRIBUTE = {key: re.sub(r"\W+", "_", key).strip("_").lower() for key in _KEYS}
RAW_KEYS = {key for family in ARGUMENTS.values() for column, key in family.items() if column in JSON_TEXT}
NO_RAW = msgspec.Raw(b"")

Arguments = msgspec.defstruct(
    "Arguments",
    [(ATTRIBUTE[key], msgspec.Raw, NO_RAW) if key in RAW_KEYS else (ATTRIBUTE[key], Any, None) for key in _KEYS],
    rename={ATTRIBUTE[key]: key for key in _KEYS},
    gc=False,
)


class Event(msgspec.Struct, gc=False):
    """One trace event with the fields the tables use; anything else is skipped while decoding."""

    ph: Any = None
    cat: Any = None
    name: Any = None
    pid: Any = None
    tid: Any = None
    ts: msgspec.Raw = NO_RAW
    dur: msgspec.Raw = NO_RAW
    args: Arguments | None = None  # type: ignore[valid-type]


DECODE_EVENTS = msgspec.json.Decoder(list[Event])
DECODE_EVENT = msgspec.json.Decoder(Event)
DECODE_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_ARGS = Arguments()

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for text that is not strict JSON."""


def skipped_problem(count: int) -> list[Problem]:
    """The problem to report for ``count`` complete events without a time, none for zero."""
    message = f"{count} events without a readable time were left out"
    return [Problem("skipped", message, count=count)] if count else []


def frames(events: Iterable[Event]) -> tuple[dict[str, pl.DataFrame], int]:
    """A frame for each family and the number of complete events whose time could not be read."""
    by_family: dict[str, list[Event]] = {family: [] for family in FAMILIES}
    for event in events:
        if family := family_of(event):
            by_family[family].append(event)
    found = {family: frame_of(family, members) for family, members in by_family.items()}
    readable = {family: frame.filter(READABLE) for family, frame in found.items()}
    return readable, sum(found[family].height - readable[family].height for family in FAMILIES)


READABLE = pl.col("start_ns").is_not_null() & (pl.col("dur_ns") >= 0)


def family_of(event: Event) -> str | None:
    """The family of a complete event, None for what the tables do not use."""
    return FAMILY_OF_CATEGORY.get(event.cat) if event.ph == "X" and isinstance(event.cat, str) else None


def frame_of(family: str, events: list[Event]) -> pl.DataFrame:
    """The events' columns, one row an event; READABLE tells those whose time could be read."""
    if not events:
        return pl.DataFrame(schema=family_schema(family))
    args = [event.args or _NO_ARGS for event in events]
    columns: dict[str, pl.Series] = {
        "name": _texts([event.name for event in events]),
        "pid": _integers([event.pid for event in events]),
        "tid": _integers([event.tid for event in events]),
        "start_ns": nanoseconds(_digits([event.ts for event in events])),
        "dur_ns": nanoseconds(_digits([event.dur for event in events])),
    }
    for column, key in ARGUMENTS[family].items():
        values = list(map(attrgetter(ATTRIBUTE[key]), args))
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
    """Integers as they are; texts give their first run of digits ("stream 7" is 7); anything else is null.

    Where traces of several ranks were merged into one file, a label stands before every process ("[TP01-PP00] 7", the
    host's and the GPU's alike): then the digits of the label are the process.
    """
    # Polars is given integers alone: on a deeply nested list it takes gigabytes to say that this is none
    if set(map(type, values)) <= _PLAIN:
        with suppress(TypeError, OverflowError, pl.exceptions.PolarsError):
            return pl.Series(values, dtype=pl.Int64, strict=True)
    return pl.Series([_integer(value) for value in values], dtype=pl.Int64)


_INT64_MAX = 2**63 - 1
_RANK_LABEL = re.compile(r"\[([^\]]*)\]")
_PLAIN = {int, type(None)}


def _integer(value: Any) -> int | None:
    if isinstance(value, str):
        found = _RANK_LABEL.match(value)
        digits = re.sub(r"[^0-9]", "", found[1]) if found else ""
        if not 0 < len(digits) < 19:
            run = re.search(r"-?[0-9]{1,19}", value)
            digits = run.group() if run else ""
        value = int(digits) if digits else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and -_INT64_MAX - 1 <= value <= _INT64_MAX else None


def nanoseconds(microseconds: pl.Series) -> pl.Series:
    """Decimal microsecond texts → integer ns, exact; a fourth decimal rounds half up. Null where not a number.

    ``(float * 1000).round()`` is wrong by 1 ns on 0.3 % of values with a 1.7e15 µs epoch: a float64 has 53 bits.
    """
    text = pl.col("text")
    plain = text.str.contains(r"^-?[0-9]{1,15}(\.[0-9]*)?$")
    parts = pl.when(plain).then(text).str.split_exact(".", 1)
    whole = parts.struct.field("field_0")
    fraction = parts.struct.field("field_1").fill_null("")
    sign = pl.when(whole.str.starts_with("-")).then(-1).otherwise(1)
    thousandths = (fraction + "000").str.slice(0, 3).cast(pl.Int64)
    rounding = ((fraction + "0000").str.slice(3, 1).cast(pl.Int64) >= 5).cast(pl.Int64)
    found = (
        pl.DataFrame({"text": microseconds})
        .select(text.str.strip_chars('" \t\r\n'))
        .select(text, ns=whole.cast(pl.Int64) * 1000 + sign * (thousandths + rounding), odd=~plain)
    )
    odd = found["odd"].fill_null(False)
    if odd.any():
        exact = [_nanoseconds(value) for value in found["text"].filter(odd)]
        return found["ns"].scatter(odd.arg_true(), pl.Series(exact, dtype=pl.Int64))
    return found["ns"]


def _nanoseconds(text: str) -> int | None:
    """One number in a form the vectorised path leaves out: exponents, more than 15 digits."""
    try:
        value = Decimal(text)
        if not value.is_finite() or value.adjusted() > 16:
            return None
        result = int((value * 1000).to_integral_value(rounding="ROUND_HALF_UP"))
        return result if abs(result) <= _INT64_MAX else None
    except InvalidOperation:
        return None

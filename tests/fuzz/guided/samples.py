"""First corpus beside ``fuzz.seeds``: small cuts of the bundled recordings, and inputs only some readers know."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sqlite3
import struct
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import traceql.sample_traces

FOLDER = Path(traceql.sample_traces.__file__).parent
_EVENTS = 12
_ROWS = 4
_SHOWN = 20  # metrics of a counter page, of hundreds


def decode() -> Path:
    """A whole small recording."""
    return FOLDER / "sglang-h200-bs64-decode-graph.trace.json.gz"


@cache
def torch() -> list[bytes]:
    """Some events of each recording, of every category it has, with the facts of the recording beside them."""
    found = []
    for path in sorted(FOLDER.glob("*.trace.json.gz")):
        document = json.loads(gzip.decompress(path.read_bytes()))
        events = document.pop("traceEvents")
        by_kind: dict[Any, list[Any]] = {}
        for event in events:
            by_kind.setdefault((event.get("ph"), event.get("cat")), []).append(event)
        few = [event for kind in by_kind.values() for event in kind[len(kind) // 2 :][:2]][: 2 * _EVENTS]
        middle = len(events) // 2
        facts = {key: value for key, value in document.items() if len(json.dumps(value)) < 600}
        found += [
            json.dumps({**facts, "traceEvents": chosen}).encode() for chosen in (few, events[middle : middle + _EVENTS])
        ]
    return found


def chrome() -> list[bytes]:
    """Traces of other programs in the same format, and one cut off."""
    at = {"pid": 1, "tid": 1}
    events = [
        {"ph": "B", "name": "load", "ts": 1, **at},
        {"ph": "E", "ts": 9.5, **at},
        {"ph": "b", "cat": "request", "id": "0x1", "name": "wait", "ts": 2, **at},
        {"ph": "e", "cat": "request", "id": "0x1", "name": "wait", "ts": 4, **at},
        {"ph": "C", "name": "memory", "ts": 3, "args": {"used": 5}, **at},
        {"ph": "I", "s": "g", "name": "mark", "ts": 3, **at},
        {"ph": "P", "name": "sample", "ts": 5, **at},
        {"ph": "N", "id": 7, "name": "object", "ts": 5, **at},
        {"ph": "X", "name": "task", "ts": 6, "dur": 2, "tts": 4, "tdur": 1, "args": {"a": [1, {"b": None}]}, **at},
        {"ph": "M", "name": "thread_name", "args": {"name": "main"}, **at},
    ]
    whole = json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"version": "1"}}).encode()
    return [whole, json.dumps(events).encode(), whole[: len(whole) * 2 // 3]]


@cache
def nsys() -> list[dict[str, list[dict[str, Any]]]]:
    """Tables of each recording: some rows of each, and the texts they name."""
    found = []
    for path in sorted(FOLDER.glob("*.sqlite")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
            tables = {name: _rows(connection, name) for name in names if name != "StringIds"}
            used = {
                value for rows in tables.values() for row in rows for value in row.values() if isinstance(value, int)
            }
            texts = [dict(row) for row in connection.execute("select * from StringIds") if row["id"] in used]
        filled = {name: rows for name, rows in tables.items() if rows and not name.startswith(("ENUM", "sqlite"))}
        found.append({"StringIds": texts[:60], **filled})
    return found


def _rows(connection: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    rows = connection.execute(f'select * from "{table}" limit {_ROWS}').fetchall()
    return [{key: row[key] for key in row.keys() if not isinstance(row[key], bytes)} for row in rows]  # noqa: SIM118


@cache
def ncu() -> list[bytes]:
    """The start of a recorded counter page, with some of its metrics."""
    (path,) = FOLDER.glob("*/*/*.csv")
    rows = list(csv.reader(io.StringIO(path.read_text())))[:6]
    wanted = range(len(rows[0]))[:11]
    metrics = [at for at in range(11, len(rows[0])) if at % (len(rows[0]) // _SHOWN) == 0]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
        [row[at] for at in (*wanted, *metrics)] for row in rows
    )
    return [text.getvalue().encode()]


def ncu_reports() -> list[bytes]:
    """The frame of a report around nothing the package knows: header, then blocks of a length and a payload."""

    def block(payload: bytes) -> bytes:
        header = bytes([0x08, 0x01, 0x28, *_varint(len(payload))])
        return struct.pack("<I", len(header)) + header + payload

    start = b"NVR\x00" + struct.pack("<I", 2) + b"\x08\x07"
    return [
        start,
        start + block(b"\x0a\x03abc"),
        start + block(b"") + block(bytes(range(200))),
        start + struct.pack("<I", 9),
    ]


def _varint(value: int) -> list[int]:
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return [*found, value]


SUPPRESSIONS = b"""[[suppress]]
rule = "TQL101"
reason = "known"
[[suppress]]
rule = "TQL4"
reason = "later"
kernel = "*gemm*"
[[suppress]]
rule = "launch-gap"
reason = "old"
op = "aten::*"
subject = "[a-f]?*"
expires = 2020-02-29
"""


def baseline() -> bytes:
    """The baseline of the small recording."""
    import tempfile

    import traceql as tq
    from traceql.gate import baseline as gate
    from traceql.opening import open_all

    report = tq.analyze(open_all([decode()], strict=True).traces[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.json"
        gate.write(path, gate.captures(report))
        return path.read_bytes()

"""Write large traces for benchmarks by repeating real captures.

    python benchmarks/generate.py torch OUT.json[.gz] --mb 500 CAPTURE.json.gz …
    python benchmarks/generate.py nsys OUT.sqlite --kernels 2500000 CAPTURE.sqlite

A torch file keeps the bytes of its captures' events, in Kineto's own layout; only times and ids move on from one
repeat to the next, so that every id stays unique. An nsys file keeps its capture's tables and columns, but
for the system calls, which no loader reads. ``--layout``
re-serialises a torch file: ``line`` is ``json.dumps``, ``indent`` is ``json.dumps(indent=2)``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

EVENT_BREAK = b"\n  },\n  {\n"
ID_KEYS = (
    b"id", b"correlation", b"External id", b"Python id", b"Python parent id", b"Record function id", b"Ev Idx",
)  # fmt: skip
MOVING = re.compile(rb'"(ts|' + b"|".join(ID_KEYS) + rb')": (\d+(?:\.\d+)?)')
"""Event time and ids; nothing else changes between repeats."""

PAUSE_NS = 1_000_000
"""Idle time between two repeats."""


class Capture:
    """The events of one file as text pieces between the numbers that move."""

    def __init__(self, path: Path) -> None:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        array = re.search(rb'"traceEvents": \[\n  \{\n', data)
        end = data.rfind(b"\n  }\n  ]")
        if array is None or end < 0:
            raise SystemExit(f"{path}: not in Kineto's own layout; give an unchanged torch profiler export")
        self.head = data[: array.end() - len(b"  {\n")]
        self.tail = data[end + len(b"\n  }") :]
        # the whole-window event and the names of threads would not be repeated by a longer run
        texts = [t for t in data[array.end() : end].split(EVENT_BREAK) if b'"ph": "M"' not in t and b'"Trace"' not in t]
        self.events = [list(self._pieces(text)) for text in texts]
        times = [value for event in self.events for kind, value in event if kind == "ts"]
        self.first_ns = min(times)
        self.span_ns = max(times) - self.first_ns + PAUSE_NS
        self.stride = max((v for event in self.events for kind, v in event if kind == "id"), default=0) + 1

    @staticmethod
    def _pieces(text: bytes) -> Iterator[tuple[str, Any]]:
        done = 0
        for match in MOVING.finditer(text):
            yield "text", text[done : match.start(2)]
            number = match[2]
            if match[1] == b"ts":
                yield "ts", int(Decimal(number.decode()) * 1000)
            elif b"." in number:
                yield "text", number
            else:
                yield "id", int(number)
            done = match.end()
        yield "text", text[done:]

    def repeat(self, start_ns: int, id_shift: int) -> list[bytes]:
        """The events once more, starting at ``start_ns`` with every id moved by ``id_shift``."""
        shift_ns = start_ns - self.first_ns
        lines = []
        for event in self.events:
            out = []
            for kind, value in event:
                if kind == "text":
                    out.append(value)
                elif kind == "ts":
                    time = value + shift_ns
                    out.append(b"%d.%03d" % (time // 1000, time % 1000))
                else:
                    out.append(b"%d" % (value + id_shift))
            lines.append(b"".join(out))
        return lines


def write_torch(out: Path, size: int, captures: list[Capture], layout: str) -> int:
    """Write at least ``size`` bytes of events; returns their number."""
    first = captures[0]
    head, separator, tail = FRAMES[layout](first)
    time, shift, written, events = first.first_ns, 0, 0, 0
    with gzip.open(out, "wb", compresslevel=6) if out.suffix == ".gz" else out.open("wb") as file:
        file.write(head)
        while written < size:
            for capture in captures:
                lines = capture.repeat(time, shift)
                if layout != "kineto":
                    lines = [_reserialised(line, layout) for line in lines]
                text = separator.join(lines)
                file.write(separator * (events > 0) + text)
                time, shift = time + capture.span_ns, shift + capture.stride
                written, events = written + len(text), events + len(lines)
                if written >= size:
                    break
        file.write(tail)
    return events


def _kineto_frame(capture: Capture) -> tuple[bytes, bytes, bytes]:
    return capture.head + b"  {\n", EVENT_BREAK, b"\n  }" + capture.tail


def _line_frame(capture: Capture) -> tuple[bytes, bytes, bytes]:
    header = json.loads(capture.head + b"]}")
    del header["traceEvents"]
    return json.dumps(header)[:-1].encode() + b', "traceEvents": [', b", ", b"]}"


def _indent_frame(capture: Capture) -> tuple[bytes, bytes, bytes]:
    header = json.loads(capture.head + b"]}")
    del header["traceEvents"]
    return json.dumps(header, indent=2)[:-2].encode() + b',\n  "traceEvents": [\n', b",\n", b"\n  ]\n}\n"


FRAMES = {"kineto": _kineto_frame, "line": _line_frame, "indent": _indent_frame}
"""Layout → the text before, between and after the events."""


def _reserialised(text: bytes, layout: str) -> bytes:
    event = json.loads(b"{" + text + b"}")
    if layout == "line":
        return json.dumps(event).encode()
    return ("    " + json.dumps(event, indent=2).replace("\n", "\n    ")).encode()


TIME_COLUMNS = {"start", "end", "timestamp", "rawTimestamp"}
KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
ID_COLUMNS = {"correlationId", "eventSyncId", "gridId"}


def write_nsys(out: Path, capture: Path, *, size: float, kernels: int) -> int:
    """Repeat every table that has times until the file has ``size`` bytes and ``kernels``; returns the rows added."""
    shutil.copyfile(capture, out)
    with closing(sqlite3.connect(out)) as db:
        db.executescript("pragma journal_mode = off; pragma synchronous = off; drop table if exists OSRT_API")
        columns = {
            name: [row[1] for row in db.execute(f'pragma table_info("{name}")')]
            for (name,) in db.execute("select name from sqlite_master where type = 'table'")
        }
        timed = {name: cols for name, cols in columns.items() if TIME_COLUMNS & set(cols)}
        span = _largest(db, timed, TIME_COLUMNS)
        stride = _largest(db, timed, ID_COLUMNS) + 1
        for name, cols in timed.items():  # the first copy, so that repeats do not grow what they read
            db.execute(f'create temp table "seed_{name}" as select {", ".join(map(_quoted, cols))} from "{name}"')
        rows = repeat = 0
        found = db.execute(f"select count(*) from {KERNELS}").fetchone()[0]
        each = found
        while out.stat().st_size < size or found < kernels:
            repeat += 1
            for name, cols in timed.items():
                moved = [
                    f"{_quoted(c)} + {repeat * (span if c in TIME_COLUMNS else stride)}"
                    if c in TIME_COLUMNS | ID_COLUMNS
                    else _quoted(c)
                    for c in cols
                ]
                names = ", ".join(map(_quoted, cols))
                rows += db.execute(
                    f'insert or ignore into "{name}" ({names}) select {", ".join(moved)} from temp."seed_{name}"'
                ).rowcount
            db.commit()
            found += each
    return rows


def _largest(db: sqlite3.Connection, tables: dict[str, list[str]], wanted: set[str]) -> int:
    """The largest value in any of the ``wanted`` columns."""
    queries = [
        f'select max("{column}") from "{name}"' for name, cols in tables.items() for column in wanted & set(cols)
    ]
    return max(db.execute(query).fetchone()[0] or 0 for query in queries)


def _quoted(name: str) -> str:
    return f'"{name}"'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["torch", "nsys"])
    parser.add_argument("out", type=Path)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--mb", type=float, default=0.0, help="size to reach, MB")
    parser.add_argument("--kernels", type=int, default=0, help="kernels to reach, nsys only")
    parser.add_argument("--layout", choices=["kineto", "line", "indent"], default="kineto", help="torch only")
    options = parser.parse_args()
    size = int(options.mb * 1e6)
    if options.kind == "nsys":
        count = write_nsys(options.out, options.captures[0], size=size, kernels=options.kernels)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB, {count} rows added")
        return
    count = write_torch(options.out, size, [Capture(path) for path in options.captures], options.layout)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB, {count} events")


if __name__ == "__main__":
    main()

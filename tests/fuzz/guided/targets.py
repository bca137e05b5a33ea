"""From the bytes libFuzzer tries to a file, and how to change them with sense: JSON by value, databases by row and schema.

The checks are those of ``fuzz.targets``. A database is described by a document of its tables and rows, so that a change is
one of a value, a row, a column or the schema; ``spoil`` and ``pages`` hold seeds of further changes.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import traceql as tq
from fuzz import mutation, seeds
from fuzz import targets as plain
from fuzz.guided import samples
from traceql.opening import open_all
from traceql.trace import Trace

Mutate = Callable[[Random, bytes], bytes]


@dataclass(frozen=True)
class Guided:
    """``name``: of the file. ``seeds``: first corpus. ``check``: what is run. ``write`` puts the bytes into the file."""

    name: str
    seeds: Callable[[], list[bytes]]
    check: Callable[[Path], None]
    mutate: Mutate
    write: Callable[[bytes, Path], None] = lambda data, path: path.write_bytes(data) and None
    most_bytes: int = 4096
    names_file: bool = True

    def run(self, data: bytes, folder: Path) -> str:
        """One execution: "read" or "refused"; anything that is a crash is raised."""
        path = folder / self.name
        self.write(data, path)
        target = plain.Target(lambda random, folder: path, self.check, self.names_file)
        target.tried(path)
        return next(iter(target.outcomes))


# --- how to change ---------------------------------------------------------------------------------------------------


def json_text(random: Random, data: bytes) -> bytes:
    """Values, keys and order of a document; bytes where it is none."""
    with suppress(ValueError, RecursionError):
        document = json.loads(data)
        if isinstance(document, (dict, list)) and document:
            return mutation.json_spoiled(random, document, 3)
    return mutation.bytes_spoiled(random, data, 3)


def values(random: Random, data: bytes) -> bytes:
    """A document that mostly stays one: readers of small files say no to all else at once."""
    if random.random() < 0.1:
        return json_text(random, data)
    try:
        changed = json.loads(data)
        for _ in range(random.randint(1, 3)):
            mutation._change(random, changed, {})
    except (ValueError, TypeError, IndexError):
        return mutation.bytes_spoiled(random, data, 1)
    return json.dumps(changed, separators=(",", ":")).encode()


def document(random: Random, data: bytes) -> bytes:
    """The same, but it stays a document."""
    try:
        changed = json.loads(data)
        changed["tables"].items()
    except (ValueError, LookupError, TypeError, AttributeError):
        return data
    for _ in range(random.randint(1, 3)):
        kind = random.randrange(8)
        if kind == 0:
            changed["spoil"] = [*_numbers(changed.get("spoil")), random.randrange(1000)]
        elif kind == 1:
            changed["pages"] = [*_numbers(changed.get("pages")), random.randrange(1000)]
        elif kind == 2:
            _other_table(random, changed)
        else:
            mutation._change(random, changed["tables"] or changed, {})
    return json.dumps(changed, separators=(",", ":")).encode()


def _other_table(random: Random, changed: Any) -> None:
    """A table as another sample has it: more, fewer or other columns."""
    every = [*samples.nsys(), seeds.nsys_tables()]
    chosen = random.choice(every)
    name = random.choice(list(chosen))
    with suppress(TypeError, AttributeError):
        changed["tables"][name] = chosen[name][:4]


def cells(random: Random, data: bytes) -> bytes:
    """Cells of a CSV page, or its bytes."""
    if random.random() < 0.4:
        return mutation.bytes_spoiled(random, data, 3)
    parts = data.split(b",")
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(parts))
        kind = random.randrange(5)
        if kind < 3:
            parts[at] = str(random.choice(mutation.HOSTILE_VALUE)).encode("utf-8", "surrogatepass")
        elif kind == 3:
            parts[at] = random.choice(parts)
        else:
            del parts[at]
            parts = parts or [b""]
    return b",".join(parts)


def lines(random: Random, data: bytes) -> bytes:
    """Lines of a text: their values, their order; or its bytes."""
    if random.random() < 0.4:
        return mutation.bytes_spoiled(random, data, 3)
    found = data.split(b"\n")
    at = random.randrange(len(found))
    kind = random.randrange(5)
    key, equals, _ = found[at].partition(b"=")
    if kind < 2 and equals:
        found[at] = key + b"= " + random.choice(plain._TOML_VALUES).encode()
    elif kind == 2:
        del found[at]
    elif kind == 3:
        found.insert(random.randrange(len(found) + 1), found[at])
    else:
        found.insert(at, random.choice(found[: at + 1]).replace(b"0", random.choice((b"9" * 20, b"-1", b"0.5"))))
    return b"\n".join(found)


def raw(random: Random, data: bytes) -> bytes:
    """Bytes."""
    return mutation.bytes_spoiled(random, data, 4)


# --- what is run ---------------------------------------------------------------------------------------------------------


def _one_in(number: int, path: Path) -> bool:
    """Whether this input is one of those that get the slow check: the input alone decides."""
    return zlib.crc32(path.read_bytes()) % number == 0


def scan(path: Path) -> None:
    """Plain scanner, machine code and strict decoder agree; whole frames of one input in a hundred."""
    from fuzz.guided import plain_scanner

    plain_scanner.agree(path.read_bytes())
    if _one_in(100, path):
        plain.compare_parsers(path)


def parsers(path: Path) -> None:
    """Both readers give the same frames, the fast one in pieces of a few hundred bytes."""
    from traceql.loaders import kineto_fast

    before = kineto_fast._PIECE_BYTES, kineto_fast._LOOK_AHEAD_BYTES
    kineto_fast._PIECE_BYTES, kineto_fast._LOOK_AHEAD_BYTES = ((120, 64), (400, 256), before)[path.stat().st_size % 3]
    try:
        plain.compare_parsers(path)
    finally:
        kineto_fast._PIECE_BYTES, kineto_fast._LOOK_AHEAD_BYTES = before


def analyze(path: Path) -> None:
    """Every rule and the JSON; each other report, the hand-off and every derived table for one input in eight."""
    if _one_in(8, path):
        plain.analyze_whole(path)
        trace = open_all([path], strict=True).traces[0]
        for name in tq.schema.TABLES:
            with suppress(KeyError):
                trace.table(name)
        _handed_on(trace, path)
        return
    report = tq.analyze(open_all([path], strict=True).traces[0])
    broken = [(o.code, o.reason, o.traceback) for o in report.rules if o.outcome == "error"]
    assert not broken, f"rules broke: {broken}"
    json.loads(report.render("json"))


def _handed_on(trace: Trace, path: Path) -> None:
    """What goes to Perfetto is JSON, and traceql reads it back."""
    from traceql import perfetto

    text = gzip.decompress(perfetto.cut(trace))
    json.loads(text)
    if any(trace.loaded[name].height for name in ("kernels", "cpu_ops", "runtime_calls")):
        again = path.with_name("again.json")
        again.write_bytes(text)
        found = plain.conform(plain_load(again))
        assert found.loaded["kernels"].height == trace.loaded["kernels"].height, "the cut lost kernels"


def plain_load(path: Path) -> Any:
    from traceql.loaders import registry

    return registry.load(path)


@cache
def _analysed() -> Any:
    return tq.analyze(open_all([samples.decode()], strict=True).traces[0])


def suppress_findings(path: Path) -> None:
    """A configuration's suppressions, over the findings of a small trace."""
    from traceql import config, suppressions
    from traceql.engine import Selection

    selection = config.load(path).selection
    kept, hidden = suppressions.applied(
        _analysed().outcomes, Selection(None, {}, selection.severities, selection.suppressions)
    )
    rules = {
        outcome.code for each in kept for outcome in each if outcome.code.startswith("TQL9")
    }  # of suppressions too
    before, after = (
        sum(len(o.findings) for each in found for o in each if o.code not in rules)
        for found in (_analysed().outcomes, kept)
    )
    assert after + sum(each.finding.code not in rules for each in hidden) == before, "findings are gone"


def baseline(path: Path) -> None:
    """A baseline, and a report held against it."""
    from traceql.config_file import BaselineSettings
    from traceql.gate import baseline as gate

    found = gate.read(path)
    gate.compare(_analysed(), found, BaselineSettings(), path)


# --- databases -----------------------------------------------------------------------------------------------------------


def database(data: bytes, path: Path) -> None:
    """The database a document describes; a file of the bytes themselves where it describes none."""
    path.unlink(missing_ok=True)
    try:
        given = json.loads(data)
        tables = given["tables"].items()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        path.write_bytes(data)
        return
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma synchronous = off")
        for name, rows in tables:
            with suppress(sqlite3.Error, OverflowError):
                _table(connection, name, rows)
        for seed in _numbers(given.get("spoil")):
            with suppress(sqlite3.Error, OverflowError, MemoryError):
                mutation._change_database(Random(seed), connection)
        with suppress(sqlite3.Error):
            connection.commit()
    for seed in _numbers(given.get("pages")):
        plain._spoil_pages(Random(seed), path)


def _numbers(value: Any) -> list[int]:
    return [seed for seed in value if isinstance(seed, int)][:8] if isinstance(value, list) else []


def _table(connection: sqlite3.Connection, name: str, rows: Any) -> None:
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    columns = list(dict.fromkeys(_text(column) for row in rows for column in row))[:60]
    if not columns:
        return
    quoted = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
    table = '"' + _text(name).replace('"', '""') + '"'
    connection.execute(f"create table {table} ({quoted})")
    values = [[_cell(row.get(column)) for column in columns] for row in rows]
    connection.executemany(f"insert into {table} values ({', '.join('?' * len(columns))})", values)


def _cell(value: Any) -> Any:
    if isinstance(value, dict) and "hex" in value:
        with suppress(ValueError, TypeError):
            return bytes.fromhex(value["hex"])
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode().replace("\x00", " ")


def _torch(*more: Callable[[], list[bytes]]) -> Callable[[], list[bytes]]:
    return lambda: [
        *seeds.kineto_texts(),
        *samples.torch(),
        *samples.chrome(),
        *(text for each in more for text in each()),
    ]


def _single_events() -> list[bytes]:
    """One or two events each: the scanner as Python reads some hundred bytes in a millisecond."""
    documents = [json.loads(text) for text in (*seeds.kineto_texts(), *samples.torch())]
    events = [
        event
        for document in documents
        for event in (document if isinstance(document, list) else document["traceEvents"])
    ]
    kinds = {(event.get("ph"), event.get("cat"), *event.get("args", {})): event for event in events}
    return [
        json.dumps(each, separators=(",", ":")).encode()
        for event in kinds.values()
        for each in ([event], {"traceEvents": [event] * 2})
    ]


def _databases() -> list[bytes]:
    described = [{"tables": tables} for tables in (seeds.nsys_tables(), *samples.nsys())]
    return [json.dumps(each, separators=(",", ":")).encode() for each in described]


def _packed() -> list[bytes]:
    return [gzip.compress(text, 9, mtime=0) for text in seeds.kineto_texts()[:1]]


_torch_target = partial(Guided, mutate=json_text, most_bytes=4096)
_config = partial(Guided, "traceql.toml", mutate=lines)

TARGETS = {
    "torch-scan": _torch_target("t.json", _single_events, scan, most_bytes=700),
    "torch-parsers": _torch_target("t.json", _torch(_packed), parsers),
    "torch-load": _torch_target("t.json", _torch(_packed), plain.load_any),
    "torch-analyze": _torch_target("t.json", _torch(), analyze),
    "nsys-load": Guided("t.sqlite", _databases, plain.load_any, document, database, 16384),
    "nsys-analyze": Guided("t.sqlite", _databases, analyze, document, database, 16384),
    "ncu-load": Guided("p.csv", lambda: [*seeds.ncu_pages(), *samples.ncu()], plain.load_any, cells, most_bytes=8192),
    "ncu-analyze": Guided("p.csv", lambda: [*seeds.ncu_pages(), *samples.ncu()], analyze, cells, most_bytes=8192),
    "ncu-report": Guided("r.ncu-rep", samples.ncu_reports, plain.load_any, raw, most_bytes=16384),
    "manifest": Guided("manifest.json", lambda: [json.dumps(seeds.manifest()).encode()], plain._read_manifest, values),
    "configuration": _config(lambda: [seeds.CONFIGURATION], plain._read_configuration),
    "suppressions": _config(lambda: [seeds.CONFIGURATION, samples.SUPPRESSIONS], suppress_findings),
    "baseline": Guided("b.json", lambda: [json.dumps(seeds.baseline()).encode(), samples.baseline()], baseline, values),
    "hardware": Guided("hardware.toml", lambda: [seeds.HARDWARE], plain._read_hardware, lines),
    "kernel-patterns": Guided("patterns.toml", lambda: [seeds.PATTERNS], plain._read_patterns, lines),
    "server-log": Guided("server.log", lambda: [seeds.SERVER_LOG], plain._read_log, lines),
}

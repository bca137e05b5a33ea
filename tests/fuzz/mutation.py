"""Ways to spoil an input: its bytes, the values of a JSON document, the rows and the schema of a SQLite file."""

from __future__ import annotations

import copy
import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

HOSTILE_TEXT = [
    "", " ", "\x00", "a\x00b", "</script><script>alert(1)</script>", "'; drop table x; --", "\u202egnp.exe", "\ud800",
    "\x1b[2J\x1b]0;x\x07", "%0A::error::x", "]]>", "nan", "stream 7", "-1", "0x10", "1e3", "\n", "é" * 40, "x" * 3000,
    "step[DECODE bs=8]", "step[EXTEND bs=3 toks=336]", "step[DECODE bs=999999999999999999999]", "ProfilerStep#3",
    "cudaGraphLaunch", "cudaLaunchKernel", "Memcpy HtoD (Pinned -> Device)", "ncclDevKernel_AllReduce_Sum_bf16",
    "kernel", "cpu_op", "[[1, 2], [3]]", "[" * 50, "{", '"', "\\",
]  # fmt: skip
HOSTILE_NUMBER = [
    0, -0.0, 1, -1, 7, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64,
    10**30, 0.1, 1e-9, 1e15, 1e18, 1e300, -1e300, 123456789.0005, 1712195495505583.001, float("nan"), float("inf"),
]  # fmt: skip
HOSTILE_VALUE: list[Any] = [
    *HOSTILE_TEXT,
    *HOSTILE_NUMBER,
    None,
    True,
    False,
    [],
    {},
    [None],
    [1, 2, 3, 4],
    [[]],
    {"a": {}},
    [2**70],
]
_RAW = [
    "1e400", "-1e-400", "1E5", "0.10000000000000000000000001", "01", "+1", "1.", ".5", "-", "--1", "0x1F", "1_000", "'a'", "nul",
    "NaN", "-Infinity", '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\x41"', '"a\nb"', '"tab\there"', "[,]", "[1,]", "{,}",
    '{"ph":"X"}', '{"ph":"X","ph":"M"}', "/* c */ 1", "// c\n1", "9223372036854775807", "9223372036854775808", "1" * 400,
    "[" * 600 + "]" * 600, '{"a":' * 600 + "1" + "}" * 600,
]  # fmt: skip
_TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"null", b"-",
    b"1e999", b"9" * 30, b'"ph":"X",', b'{"ph":"X","cat":"kernel",', b'"traceEvents":[', b'"args":{', b"},{", b"}\n,\n{", b",,", b"==PROF==",
    b"\x1f\x8b", b"SQLite format 3\x00", b"nan", b"(1, 2, 3)", b"\r\n",
]  # fmt: skip


def bytes_spoiled(random: Random, data: bytes, most: int = 4) -> bytes:
    """One to ``most`` changes of the bytes: flipped, cut out, doubled, moved, replaced, put in, the end cut off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, most)):
        size = len(changed)
        at = random.randrange(size + 1)
        length = min(random.choice((1, 1, 2, 4, 16, 200)), size - at)
        kind = random.randrange(8)
        if kind == 0 and at < size:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length] * random.choice((1, 1, 3))
        elif kind == 3:
            del changed[at:]
        elif kind == 4 and at < size:
            changed[at] = random.choice(b'0 {}[]",:\\\x00\xff-9')
        elif kind == 5:
            other = random.randrange(size + 1)
            changed[at:at] = changed[other : other + length]
        else:
            changed[at:at] = random.choice(_TOKENS)
    return bytes(changed)


def json_spoiled(random: Random, document: Any, most: int = 5) -> bytes:
    """One to ``most`` changes of the values, keys and order of a document, written in one of several layouts."""
    changed = json.loads(json.dumps(document))
    raw: dict[str, str] = {}
    for _ in range(random.randint(1, most)):
        _change(random, changed, raw)
    indent, separators = random.choice([(None, (",", ":")), (None, (", ", ": ")), (1, None), (None, (" ,\n", " :\t"))])
    text = json.dumps(changed, indent=indent, separators=separators, ensure_ascii=random.random() < 0.5)
    for mark, token in raw.items():
        text = text.replace(f'"{mark}"', token)
    encoded = text.encode("utf-8", random.choice(("surrogatepass", "replace")))
    return random.choice((b"", b"", b"", b"\xef\xbb\xbf", b" \r\n")) + encoded


def _change(random: Random, document: Any, raw: dict[str, str]) -> None:
    holders = list(_holders(document))
    holder = random.choice(holders)
    if not holder:
        return
    kind = random.randrange(10)
    if isinstance(holder, dict):
        key = random.choice(list(holder))
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[random.choice(list(random.choice([h for h in holders if isinstance(h, dict)]) or [key]))] = holder[
                key
            ]
        elif kind == 2:
            items = list(holder.items())
            random.shuffle(items)
            holder.clear()
            holder.update(items)
        else:
            holder[key] = _value(random, raw)
        return
    at = random.randrange(len(holder))
    if kind == 0:
        del holder[at]
    elif kind in (1, 2):
        holder.insert(random.randrange(len(holder) + 1), copy.deepcopy(holder[at]))
    elif kind == 3:
        random.shuffle(holder)
    elif kind == 4:
        holder[at] = _value(random, raw)
    elif isinstance(holder[at], dict) and holder[at]:
        holder[at][random.choice(list(holder[at]))] = _value(random, raw)


def _value(random: Random, raw: dict[str, str]) -> Any:
    if random.random() < 0.25:
        mark = f"@raw{len(raw)}@"
        raw[mark] = random.choice(_RAW)
        return mark
    if random.random() < 0.2:
        return random.randint(-(2 ** random.randrange(66)), 2 ** random.randrange(66))
    return copy.deepcopy(random.choice(HOSTILE_VALUE))


def _holders(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


# --- SQLite ------------------------------------------------------------------------------------------------------------


def sqlite_spoiled(random: Random, path: Path, most: int = 6) -> None:
    """Change values, rows, tables and the schema of a database in place; what SQLite refuses to do is left out."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = off")
        connection.execute("pragma synchronous = off")
        for _ in range(random.randint(1, most)):
            with suppress(sqlite3.Error, OverflowError, MemoryError):
                _change_database(random, connection)
        with suppress(sqlite3.Error):
            connection.commit()


def _change_database(random: Random, connection: sqlite3.Connection) -> None:
    tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    if not tables:
        return
    table = random.choice(tables)
    columns = [row[1] for row in connection.execute(f'pragma table_info("{table}")')]
    columns = columns or ["x"]
    column = random.choice(columns)
    kind = random.randrange(16)
    if kind < 7:
        value = _sql_value(random)
        where = random.choice(["1", f'rowid = (select min(rowid) from "{table}")', "abs(random()) % 2"])
        connection.execute(f'update "{table}" set "{column}" = ? where {where}', [value])
    elif kind == 7:
        connection.execute(f'insert into "{table}" select * from "{table}"')
    elif kind == 8:
        connection.execute(f'delete from "{table}"' + random.choice(["", " where abs(random()) % 2"]))
    elif kind == 9:
        connection.execute(f'alter table "{table}" drop column "{column}"')
    elif kind == 10:
        connection.execute(
            f'alter table "{table}" rename column "{column}" to "{random.choice(["zz", "Start", "a b", "é"])}"'
        )
    elif kind == 11:
        connection.execute(f'drop table "{table}"')
    elif kind == 12:
        _replace_by_lookalike(random, connection, table)
    elif kind == 13:
        _lie_about(random, connection, table)
    elif kind == 14:
        connection.execute(
            f'create trigger "t{random.randrange(99)}" after update on "{table}" begin delete from "{table}"; end'
        )
    else:
        connection.execute(f'update "{table}" set "{column}" = "{random.choice(columns)}"')


def _replace_by_lookalike(random: Random, connection: sqlite3.Connection, table: str) -> None:
    """A view, a virtual table, a table without row ids, a generated column or endless rows under the table's name."""
    connection.execute(f'alter table "{table}" rename to "was {table}"')
    recursive = (
        "with recursive n(start) as (select 1 union all select start + 1 from n) select start, start + 1 as end from n"
    )
    connection.execute(
        random.choice([
            f'create view "{table}" as select * from "was {table}"',
            f'create view "{table}" as {recursive}',
            f'create view "{table}" as select * from "{table}"',
            f'create virtual table "{table}" using fts5(start, end)',
            f'create table "{table}" (start integer primary key, end) without rowid',
            f'create table "{table}" (start, end as (start + 9e18), id as (zeroblob(99)))',
            f'create table "{table}" ("start" text, "END" blob, rowid, oid, _rowid_)',
            f'create table "{table}" (start any, end any) strict',
        ])
    )  # fmt: skip


def _lie_about(random: Random, connection: sqlite3.Connection, table: str) -> None:
    """A schema that says what is not so."""
    connection.execute("pragma writable_schema = on")
    change, value = random.choice([
        ("rootpage = ?", random.choice([0, 1, 2, 3, 5, 10**6, -1])),
        ("sql = replace(sql, ',', ?)", ", missing text, "),
        ("sql = ?", f'CREATE TABLE "{table}" (start, end, nothing, "x" integer primary key)'),
        ("sql = ?", "not sql"),
        ("sql = ?", None),
        ("type = ?", random.choice(["view", "index", "trigger", ""])),
        ("name = ?", random.choice(["sqlite_x", "", "StringIds", "x" * 300])),
        ("tbl_name = ?", "other"),
    ])  # fmt: skip
    connection.execute(f"update sqlite_master set {change} where name = ?", [value, table])


def _sql_value(random: Random) -> Any:
    value = random.choice(
        [
            *HOSTILE_TEXT,
            *HOSTILE_NUMBER,
            None,
            b"",
            b"\xff\xfe\x00",
            b"x" * 500,
            random.getrandbits(random.randrange(1, 63)),
        ]
    )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return value

"""A copy of a trace without what it tells of the machine and its user.

Captures carry environment variables, host and user names, command lines and home paths. ``scrub`` keeps what the
analysis reads and nothing else; the copy gives the same tables and the same findings.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceql.errors import UsageError
from traceql.loaders import files, ncu, nsys_ranks
from traceql.writing import write_bytes

if TYPE_CHECKING:
    import sqlite_utils

_SQLITE_MAGIC = b"SQLite format 3\x00"

_KEPT_TABLES = re.compile(
    r"^(?:CUPTI_ACTIVITY_KIND_\w+|CUDA_GRAPH\w*|CUDA_HOST_CALLBACK|GRAPH_HOST_NODE\w*|NVTX_\w+|PROFILER_OVERHEAD|GPU_METRICS"
    r"|StringIds|TARGET_INFO_(?:GPU|GPU_METRICS|CUDA_DEVICE|CUDA_CONTEXT_INFO|CUDA_STREAM|SESSION_START_TIME)|DIAGNOSTIC_EVENT"
    r"|ANALYSIS_DETAILS|META_DATA_(?:EXPORT|CAPTURE)|ENUM_\w+)$"
)
_KEPT_METADATA = (
    r"EXPORT_(?:PRODUCT|SCHEMA|ARCH|PLATFORM)\w*|(?:PROCESS_\d+:)?(?:CUDA_GRAPH_TRACE_OPTIONS:\w+|COLLECT_\w+TRACE)"
)
_STRING_COLUMN = re.compile(r"(?:[nN]ame|[tT]ext|[sS]tring|module|symbol)(?:Id)?$|Name$|^nameId$")
_SLASH = rb"\\?/"  # JSON may escape it
_HOME = re.compile(
    rb"%(s)s(?:home|Users)%(s)s[^/\"\s\\:,;)]+|(?<![\w.])%(s)sroot(?=%(s)s)|[A-Za-z]:(?:\\\\|\\|/)+Users(?:\\\\|\\|/)+[^/\"\s\\:,;)]+"
    rb"|(?<=torchinductor_)[^/\"\s\\:,;)]+" % {b"s": _SLASH}
)
_PRIVATE_KEY = re.compile(
    rb"(\"[^\"]*?(?:host_?name|user_?name|environ\w*|command_?line|cmdline|argv|working_?dir\w*|cwd)\"\s*:\s*)\"(?:[^\"\\]|\\.)*\"",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"^[A-Za-z_]\w*=.*\0[A-Za-z_]\w*=", re.DOTALL)
"""Whole environments, entries separated by NUL, as nsys keeps them among its strings."""
_WANTED = "PyTorch profiler traces, nsys .sqlite exports and .nsys-rep reports, and Nsight Compute CSV pages"


def scrub(source: Path, target: Path) -> None:
    """Write a scrubbed copy; UsageError for a format that cannot be scrubbed, and when the copy cannot be written.

    A ``.nsys-rep`` is exported first, so that ``target`` is a SQLite file; a ``.ncu-rep`` is refused: export a CSV page.
    Of a run directory the copy holds the traces, the manifest and what its logs are read for.
    """
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target}: the copy must be another file")
    if source.is_dir():
        from traceql.scrub_run import scrub_run

        try:
            scrub_run(source, target, scrub, _plain)
        except OSError as error:
            raise UsageError(f"{target}: cannot be written ({error.strerror or error})") from error
        return
    if not source.is_file():
        raise UsageError(f"{source}: no file")
    write = _writer(source)
    if write is _scrub_report and target.suffix == ".nsys-rep":
        raise UsageError(f"{target}: the copy of a report is the SQLite file nsys exports; give it the ending .sqlite")
    try:
        write(source, target)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror or error})") from error
    except sqlite3.Error as error:
        raise UsageError(f"{source}: SQLite cannot read it ({error}); scrub an undamaged export") from error


def _writer(source: Path) -> Callable[[Path, Path], None]:
    start = files.head(source)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_SQLITE_MAGIC):
        return _scrub_nsys
    if source.name.endswith(".nsys-rep"):
        return _scrub_report
    if text[:1] in (b"{", b"["):
        return _scrub_kineto
    if ncu.looks_like_ncu_csv(text.decode("utf-8", "replace")):
        return _scrub_ncu
    raise UsageError(f"{source}: cannot be scrubbed; what can is {_WANTED} (export other reports first)")


def _scrub_kineto(source: Path, target: Path) -> None:
    """The file's text without its own path, host and command lines, and home folders; nothing is re-encoded."""
    text = files.read(source).data
    text = re.sub(rb'("traceName"\s*:\s*")(?:[^"\\]|\\.)*"', rb'\1trace.json"', text)
    _write(target, _plain(text))


def _plain(text: bytes) -> bytes:
    """A text without values of private keys and home folders."""
    return _HOME.sub(b"~", _PRIVATE_KEY.sub(rb'\1""', text))


def _write(target: Path, text: bytes) -> None:
    """Written whole or not at all, as gzip where the name says so."""
    if target.suffix == ".gz":
        packed = io.BytesIO()
        with gzip.GzipFile("", mode="wb", fileobj=packed, mtime=0) as file:
            file.write(text)
        text = packed.getvalue()
    write_bytes(target, text)


def _scrub_ncu(source: Path, target: Path) -> None:
    """A CSV page without host names, folders of programs and what ncu printed before it."""
    text = files.read(source).data.decode("utf-8", "replace")
    rows = list(csv.reader(io.StringIO(text)))
    kept = [row for row in rows if row and not row[0].lstrip("\ufeff").startswith("==")]
    out = io.StringIO()
    columns: dict[str, int] = {}
    for row in kept:
        if row[0].lstrip("\ufeff") == "ID":
            columns = {name: index for index, name in enumerate(row)}
        else:
            row[:] = [_cell(cell, index, columns) for index, cell in enumerate(row)]
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(kept)
    _write(target, _HOME.sub(b"~", out.getvalue().encode()))


def _cell(cell: str, index: int, columns: dict[str, int]) -> str:
    if index == columns.get("Host Name"):
        return ""
    return re.split(r"[/\\]", cell)[-1] if index == columns.get("Process Name") else cell


def _scrub_report(source: Path, target: Path) -> None:
    from traceql.loaders import nsys_report

    with tempfile.TemporaryDirectory() as folder:
        _scrub_nsys(nsys_report.export(source, Path(folder)), target)


def _scrub_nsys(source: Path, target: Path) -> None:
    import sqlite_utils

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = Path(folder) / "copy.sqlite"
        shutil.copyfile(source, copy)
        with closing(sqlite3.connect(copy)) as connection:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.create_function("without_home", 1, _without_home, deterministic=True)
            database = sqlite_utils.Database(connection)
            for kind, name in database.execute(
                "select type, name from sqlite_master where type in ('view', 'trigger')"
            ).fetchall():
                database.execute(f"drop {kind} {_quoted(name)}")
            workers = _workers(database)
            for table in database.table_names():
                if not _KEPT_TABLES.match(table):
                    database[table].drop()
            if workers:
                connection.execute("create table PROCESSES (globalPid integer, name text)")
                connection.executemany("insert into PROCESSES values (?, ?)", workers)
            for table in database.table_names():
                if table.startswith("ENUM_") and database[table].count == 0:
                    database[table].drop()
            _scrub_metadata(database)
            _drop_unused_strings(database)
            _scrub_texts(database)
            connection.commit()
            database.vacuum()
        copy.replace(target)


def _workers(database: sqlite_utils.Database) -> list[tuple[int, str]]:
    """globalPid and what of their names tells the rank, of processes and threads whose names do."""
    tables = {name: database[name].columns_dict for name in database.table_names()}
    texts = "(select value from StringIds where id = nameId)"
    found = set()
    for table, process, name in (("PROCESSES", "globalPid", "name"), ("ThreadNames", "globalTid", texts)):
        needed = {process, "nameId" if name == texts else name}
        readable = name != texts or {"id", "value"} <= tables.get("StringIds", {}).keys()
        if readable and needed <= tables.get(table, {}).keys():
            rows = database.execute(f"select {process}, {name} from {table}").fetchall()
            found |= {
                (of, nsys_ranks.worker(text)) for of, text in rows if isinstance(of, int) and isinstance(text, str)
            }
    return sorted((of, text) for of, text in found if text)


def _without_home(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    if _ENVIRONMENT.match(text):
        return ""
    return _HOME.sub(b"~", text.encode("utf-8", "replace")).decode("utf-8", "replace")


def _scrub_texts(database: sqlite_utils.Database) -> None:
    """Texts that stay, without home folders and environments."""
    for table, columns in {
        "StringIds": ("value",),
        "NVTX_EVENTS": ("text", "jsonText"),
        "DIAGNOSTIC_EVENT": ("text",),
    }.items():
        if table in database.table_names():
            for column in columns:
                if column in database[table].columns_dict:
                    name = _quoted(column)
                    database.execute(f"update {table} set {name} = without_home({name}) where typeof({name}) = 'text'")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _scrub_metadata(database: sqlite_utils.Database) -> None:
    kept = re.compile(f"^(?:{_KEPT_METADATA})$")
    for table in ("META_DATA_EXPORT", "META_DATA_CAPTURE"):
        if table in database.table_names():
            names = {row["name"] for row in database[table].rows}
            for name in names:
                if not kept.match(str(name)):
                    database.execute(f"delete from {table} where name = ?", [name])
    if "TARGET_INFO_GPU" in database.table_names():
        for column in ("uuid", "busLocation"):
            if column in database["TARGET_INFO_GPU"].columns_dict:
                database.execute(f"update TARGET_INFO_GPU set {column} = null")
    database.conn.commit()


def _drop_unused_strings(database: sqlite_utils.Database) -> None:
    """Keep only strings a remaining row refers to: others hold whole environments and file paths."""
    if "StringIds" not in database.table_names():
        return
    references = [
        f'select "{column}" as used from "{table}" where "{column}" is not null'
        for table in database.table_names()
        if table != "StringIds" and not table.startswith(("ENUM_", "META_"))
        for column in database[table].columns_dict
        if _STRING_COLUMN.search(column)
    ]
    used = " union ".join(references) or "select -1 as used"
    database.execute(f"delete from StringIds where id not in ({used})")
    database.conn.commit()

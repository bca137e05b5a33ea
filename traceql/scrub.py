"""A copy of a trace without what it tells of the machine and its user.

Captures carry environment variables, host and user names, command lines and home paths. ``scrub`` keeps what the
analysis reads and nothing else; the copy gives the same tables and the same findings.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from traceql.errors import UsageError
from traceql.loaders import files

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
_HOME = re.compile(rb"/(?:home|Users)/[^/\"\s\\]+|/root(?=/)")


def scrub(source: Path, target: Path) -> None:
    """Write a scrubbed copy of an nsys SQLite export or a PyTorch profiler trace; UsageError for other formats."""
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target}: the copy must be another file")
    start = files.head(source)
    is_nsys = start.startswith(_SQLITE_MAGIC)
    if not is_nsys and start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
        raise UsageError(
            f"{source}: only nsys .sqlite exports and PyTorch profiler traces can be scrubbed; export first"
        )
    try:
        (_scrub_nsys if is_nsys else _scrub_kineto)(source, target)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror or error})") from error


def _scrub_kineto(source: Path, target: Path) -> None:
    """The file's text without its own path and without home folders in frame names; nothing is re-encoded."""
    text = files.read(source).data
    text = re.sub(rb'("traceName"\s*:\s*")[^"]*"', rb'\1trace.json"', text)
    text = _HOME.sub(b"~", text)
    if target.suffix == ".gz":
        with target.open("wb") as raw, gzip.GzipFile("", mode="wb", fileobj=raw, mtime=0) as packed:
            packed.write(text)
    else:
        target.write_bytes(text)


def _scrub_nsys(source: Path, target: Path) -> None:
    import sqlite_utils

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = Path(folder) / "copy.sqlite"
        shutil.copyfile(source, copy)
        database = sqlite_utils.Database(copy)
        for view in database.view_names():
            database[view].drop()
        for table in database.table_names():
            if not _KEPT_TABLES.match(table):
                database[table].drop()
        for table in database.table_names():
            if table.startswith("ENUM_") and database[table].count == 0:
                database[table].drop()
        _scrub_metadata(database)
        _drop_unused_strings(database)
        database.vacuum()
        database.close()
        copy.replace(target)


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

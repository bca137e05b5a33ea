"""Which loader reads a path, told by its content."""

from __future__ import annotations

import re
from pathlib import Path

from traceql.errors import UnreadableTraceError
from traceql.loaders import files
from traceql.trace import LoadedTrace

_SQLITE_MAGIC = b"SQLite format 3\x00"
_READS = "traceql reads PyTorch profiler traces (.json, .json.gz), Nsight Systems (.nsys-rep, .sqlite) and Nsight Compute (.ncu-rep, .csv)"
_OTHER_FORMATS = [
    (re.compile(rb"^\s*<(!doctype|html|\?xml)", re.IGNORECASE), "an HTML or XML page (a failed download?)"),
    (re.compile(rb"^PK\x03\x04"), "a zip archive; unpack it first"),
    (re.compile(rb"^\x7fELF"), "a program"),
    (re.compile(rb"^PAR1"), "a Parquet file; give the directory of an nsys parquetdir export instead"),
    (re.compile(rb"^\x0a[^\s]"), "a Perfetto protobuf trace"),
]


def load(path: Path) -> LoadedTrace:
    """Load the trace in one file or one nsys table directory; raises UnreadableTraceError naming what was found."""
    if not path.exists():
        raise UnreadableTraceError(f"{path}: no such file; check the path")
    if path.is_dir():
        from traceql.loaders import nsys_directory

        return nsys_directory.load(path)
    try:
        start = files.head(path)
    except OSError as error:
        raise UnreadableTraceError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start.strip():
        what = "a damaged gzip file" if files.is_gzip(path) else "an empty file"
        raise UnreadableTraceError(f"{path}: {what}; {_READS}")
    if start.startswith(_SQLITE_MAGIC):
        from traceql.loaders import nsys_sqlite

        return nsys_sqlite.load(path)
    if path.name.endswith(".nsys-rep"):
        from traceql.loaders import nsys_report

        return nsys_report.load(path)
    if path.name.endswith((".ncu-rep", ".ncu-rep.gz")):
        from traceql.loaders import ncu

        return ncu.load(path)
    return _load_text(path, start)


def _load_text(path: Path, start: bytes) -> LoadedTrace:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        from traceql.loaders import torch_profiler

        return torch_profiler.load(path)
    for pattern, what in _OTHER_FORMATS:
        if pattern.match(start):
            raise UnreadableTraceError(f"{path}: {what}; {_READS}")
    from traceql.loaders import ncu

    if ncu.looks_like_ncu_csv(text.decode("utf-8", "replace")):
        return ncu.load(path)
    raise UnreadableTraceError(f"{path}: unknown content (starts with {start[:24]!r}); {_READS}")


def is_nsys_directory(path: Path) -> bool:
    """Whether a directory is an nsys parquetdir or arrowdir export: one file a table."""
    return any(path.glob("StringIds.*")) or any(path.glob("META_DATA_EXPORT.*"))


def is_trace_name(path: Path) -> bool:
    """Whether a file inside a directory may be a trace by its name; its content still decides."""
    names = (".json", ".json.gz", ".nsys-rep", ".sqlite", ".ncu-rep", ".ncu-rep.gz")
    return path.name.endswith(names) and path.name not in ("manifest.json", "truth.json", "package.json")

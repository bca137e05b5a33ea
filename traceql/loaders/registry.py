"""Which loader reads a path, told by its content."""

from __future__ import annotations

import re
from pathlib import Path

from traceql.errors import UnreadableTraceError
from traceql.loaders import files
from traceql.trace import LoadedTrace

_SQLITE_MAGIC = b"SQLite format 3\x00"
_READS = "traceql reads PyTorch profiler traces (.json, .json.gz), Nsight Systems (.nsys-rep, .sqlite) and Nsight Compute (.ncu-rep, .csv)"
_HEAD = 4096
"""Bytes that tell what a file is."""
_SHORTEST = 64
"""No trace is shorter, bytes: the length is worth a word."""
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
    if not path.is_file():
        raise UnreadableTraceError(f"{path}: a pipe or a device, no file; write the trace to a file first")
    try:
        start = files.head(path)
    except OSError as error:
        raise UnreadableTraceError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start.strip():
        start = files.read(path).data.lstrip()[:_HEAD]
        if not start:
            raise UnreadableTraceError(f"{path}: {_nothing_in(path)}")
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
    if is_counter_page(path):
        from traceql.loaders import ncu

        return ncu.load(path)
    raise UnreadableTraceError(f"{path}: {_unknown(path, text)}; {_READS}")


def _nothing_in(path: Path) -> str:
    """What a file without content is, and what to do."""
    size = path.stat().st_size
    again = "the profiler wrote no trace, or its disk was full: record it again"
    if not files.is_gzip(path):
        return f"an empty file ({size} bytes{' of white space' if size else ''}); {again}"
    if files.read(path).truncated:
        return f"a damaged gzip file ({size} bytes, nothing can be unpacked); copy it again from where it was recorded"
    return f"an empty file, compressed ({size} bytes); {again}"


def _unknown(path: Path, text: bytes) -> str:
    size = path.stat().st_size
    length = f"{size} byte{'s' if size > 1 else ''} of " if size < _SHORTEST else ""
    return f"{length}unknown content (starts with {text[:24].decode('utf-8', 'replace')!r})"


def is_nsys_directory(path: Path) -> bool:
    """Whether a directory is an nsys parquetdir or arrowdir export: one file a table."""
    return any(path.glob("StringIds.*")) or any(path.glob("META_DATA_EXPORT.*"))


def is_trace_name(path: Path) -> bool:
    """Whether a file inside a directory may be a trace by its name; its content still decides."""
    names = (".json", ".json.gz", ".nsys-rep", ".sqlite", ".ncu-rep", ".ncu-rep.gz")
    return path.name.endswith(names) and path.name not in ("manifest.json", "truth.json", "package.json")


def is_counter_page(path: Path) -> bool:
    """Whether a file begins as a CSV page of Nsight Compute; other tables lie in run directories too."""
    from traceql.loaders import ncu

    try:
        return ncu.looks_like_ncu_csv(ncu.text_of(files.head(path, 1 << 16)))  # a program may print before ncu does
    except OSError:
        return False

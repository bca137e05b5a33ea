"""Loaded tables kept as Parquet, so that a large trace opens in a moment the second time.

An entry lies beside its trace, in ``NAME.traceql-cache``, or in the user's cache folder where the trace's folder
cannot be written. It is named after everything it depends on: the file's path, size and time of change, and the
schema, version and code that read it. An entry appears whole or not at all; one that is stale or damaged is as good
as none. Entries in the user's folder are bounded: those not used for longest go first.

The variable ``TRACEQL_CACHE`` names another folder for all entries, or is ``off``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import msgspec
import polars as pl

import traceql
from traceql import schema
from traceql.trace import Problem, Source, Trace

WORTHWHILE_BYTES = 20_000_000
"""Files under this size open about as fast without."""
MAX_BYTES = 4_000_000_000
"""Bound of the user's folder, all entries together."""

_SUFFIX = ".traceql-cache"
_ABANDONED_S = 3600  # a temporary folder that old was left by a process that died
_TYPICAL_RATIO = 12  # of a trace's size to its gzip's


class _File(msgspec.Struct, frozen=True):
    bytes: int
    crc32: int


class _Meta(msgspec.Struct, frozen=True):
    """What an entry holds beside its tables, and how to tell that they are whole."""

    path: str
    source: Source
    rank: int | None
    source_offset_ns: int
    origin_unix_ns: int | None
    problems: list[dict[str, str | int | None]]
    files: dict[str, _File]


@dataclass(frozen=True)
class Entry:
    """A trace kept in the cache. ``current`` is False when the trace has changed or is gone."""

    path: Path
    folder: Path
    bytes: int
    last_used_unix_s: float
    current: bool


def worthwhile(path: Path) -> bool:
    """Whether the file is large enough to keep its tables."""
    try:
        ratio = _TYPICAL_RATIO if path.name.endswith(".gz") else 1
        return path.is_file() and path.stat().st_size * ratio >= WORTHWHILE_BYTES
    except OSError:
        return False


def load(path: Path) -> Trace | None:
    """The trace of ``path`` from the cache; None when it is not there, stale or damaged."""
    key = _key(path)
    if key is None:
        return None
    for home in _homes(path):
        folder = home / key
        if not folder.is_dir():
            continue
        try:
            trace = _read(folder, path)
        except (OSError, ValueError, KeyError, msgspec.MsgspecError, pl.exceptions.PolarsError):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            os.utime(folder / "meta.json")
        return trace
    return None


def store(trace: Trace) -> Path | None:
    """Keep the trace's tables; returns their folder, None where nothing can be written."""
    key = _key(trace.path)
    if key is None:
        return None
    for home in _homes(trace.path):
        try:
            folder = _write(home, key, trace)
        except OSError:
            continue
        _tidy(home, keep=key)
        return folder
    return None


def entries() -> list[Entry]:
    """Every entry known, the last used first."""
    found: dict[Path, Entry] = {}
    for folder in _folders():
        try:
            meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=_Meta)
            used = (folder / "meta.json").stat().st_mtime
            size = sum(file.stat().st_size for file in folder.iterdir())
        except (OSError, msgspec.MsgspecError):
            continue
        path = Path(meta.path)
        found[folder.resolve()] = Entry(path, folder, size, used, _key(path) == folder.name)
    return sorted(found.values(), key=lambda entry: -entry.last_used_unix_s)


def clear() -> int:
    """Remove every entry known; returns the bytes given back."""
    freed = 0
    for entry in entries():
        shutil.rmtree(entry.folder, ignore_errors=True)
        freed += entry.bytes
        with contextlib.suppress(OSError):  # the folder beside the trace, when nothing is left in it
            entry.folder.parent.rmdir()
    with contextlib.suppress(OSError):
        shutil.rmtree(_user_folder() / _BESIDE)
    return freed


# --- where entries lie -------------------------------------------------------------------------------------------------

_BESIDE = "beside"  # names the folders that lie beside traces, for entries() and clear()


def _key(path: Path) -> str | None:
    """Name of the entry for the file as it is now; None where it cannot be told whether it changes."""
    if _chosen() == "off":
        return None
    try:
        status = path.stat()
        path = path.resolve()
    except OSError:
        return None
    if not path.is_file() or path.with_name(path.name + "-wal").exists():
        return None  # a directory, or a database that is still being written
    return _digest(str(path), status.st_size, status.st_mtime_ns, _reader())


def _digest(*parts: str | int) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def _reader() -> str:
    """Stands for the code that fills the tables: an entry written by another version of it is stale."""
    root = Path(traceql.__file__).parent
    files = [root / "trace.py", root / "schema.py", *sorted((root / "loaders").glob("*.py"))]
    seen = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(traceql.__version__, schema.SCHEMA_VERSION, repr(seen))


def _chosen() -> str:
    """What TRACEQL_CACHE says: a folder, ``off``, or nothing."""
    chosen = os.environ.get("TRACEQL_CACHE", "")
    return "off" if chosen.lower() in ("off", "0", "no", "false") else chosen


def _homes(path: Path) -> list[Path]:
    """Folders that may hold the trace's entry, best first."""
    path = path.resolve()
    return [_user_folder()] if _chosen() else [path.with_name(path.name + _SUFFIX), _user_folder()]


def _user_folder() -> Path:
    return user_folder() / "traces" if _chosen() in ("", "off") else Path(_chosen())


def user_folder() -> Path:
    """Where the system wants traceql to keep what can be made again; nowhere that exists for a user without a home."""
    try:
        return _user_base() / "traceql"
    except RuntimeError:  # no home
        return Path(os.devnull) / "traceql"


def _user_base() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _folders() -> Iterator[Path]:
    user = _user_folder()
    homes = [user]
    with contextlib.suppress(OSError):
        homes += [Path(note.read_text()) for note in (user / _BESIDE).iterdir()]
    for home in homes:
        with contextlib.suppress(OSError):
            yield from (folder for folder in home.iterdir() if (folder / "meta.json").is_file())


# --- one entry ---------------------------------------------------------------------------------------------------------


def _write(home: Path, key: str, trace: Trace) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    try:
        files = {}
        for name, frame in trace.loaded.items():
            if frame.is_empty():
                continue
            packed = io.BytesIO()
            frame.write_parquet(packed, compression="zstd", compression_level=1, statistics=False)
            content = packed.getbuffer()
            (temporary / f"{name}.parquet").write_bytes(content)
            files[name] = _File(len(content), zlib.crc32(content))
        meta = _Meta(
            path=str(trace.path.resolve()),
            source=trace.source,
            rank=trace.rank,
            source_offset_ns=trace.source_offset_ns,
            origin_unix_ns=trace.origin_unix_ns,
            problems=[asdict(problem) for problem in trace.problems],
            files=files,
        )
        (temporary / "meta.json").write_bytes(msgspec.json.encode(meta))
        temporary.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was first: its entry holds the same
            temporary.rename(home / key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not (home / key / "meta.json").is_file():
        raise OSError(f"{home / key} could not be written")
    _note(home)
    return home / key


def _note(home: Path) -> None:
    """Remember a folder beside a trace."""
    if home != _user_folder():
        with contextlib.suppress(OSError):
            notes = _user_folder() / _BESIDE
            notes.mkdir(parents=True, exist_ok=True)
            (notes / _digest(str(home))).write_text(str(home))


def _read(folder: Path, path: Path) -> Trace:
    meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=_Meta)
    loaded = {name: schema.TABLES[name].empty() for name in schema.LOADED}
    for name, file in meta.files.items():
        content = (folder / f"{name}.parquet").read_bytes()
        if len(content) != file.bytes or zlib.crc32(content) != file.crc32:
            raise ValueError(f"{name} is damaged")
        frame = pl.read_parquet(io.BytesIO(content))
        if frame.schema != loaded[name].schema:
            raise ValueError(f"{name} has other columns")
        loaded[name] = frame.with_columns(pl.col("start_ns").set_sorted()) if "start_ns" in frame.columns else frame
    problems = tuple(msgspec.convert(meta.problems, list[Problem]))
    return Trace(meta.source, path, loaded, meta.rank, meta.source_offset_ns, meta.origin_unix_ns, problems)


def _tidy(home: Path, keep: str) -> None:
    """Remove what is of no more use: entries of the same trace as it was, what dead processes left, too much."""
    now = time.time()
    with contextlib.suppress(OSError):
        for old in home.glob(".new-*"):
            if now - old.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)
    bound = MAX_BYTES if home == _user_folder() else sys.maxsize
    total = 0
    for entry in entries():
        if entry.folder.parent == home:
            total += entry.bytes
            if entry.folder.name != keep and (total > bound or not entry.current):
                shutil.rmtree(entry.folder, ignore_errors=True)

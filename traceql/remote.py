"""Traces named by URL (``s3://…``, ``gs://…``, anything fsspec opens), read through a copy on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from traceql.errors import UnreadableTraceError, UsageError
from traceql.loaders import registry

_URL = re.compile(r"^([a-z][a-z0-9+.-]+):(/{1,3})(?=[^/])", re.IGNORECASE)
"""Two letters at least: ``C:/`` is a drive. ``Path`` makes one slash of several."""


def url_of(path: str | Path) -> str | None:
    """The URL a path stands for; None for a path on this machine."""
    text = str(path)
    found = _URL.match(text)
    if found is None:
        return None
    protocol = found[1].lower()
    root = "/" if len(found[2]) == 3 or protocol == "file" else ""
    return f"{protocol}://{root}{text[found.end() :]}"


def trace_urls(url: str) -> list[str]:
    """The trace files a URL stands for: itself, or those in the folder it names and one level down."""
    filesystem, path = _filesystem(url)
    try:
        if not filesystem.isdir(path):
            return [url]
        inside = [p for pattern in ("*", "*/*") for p in filesystem.glob(f"{path.rstrip('/')}/{pattern}")]
    except Exception as error:
        raise _unreadable(url, error) from error
    names = sorted({p for p in inside if registry.is_trace_name(PurePosixPath(p))})  # type: ignore[arg-type]
    if not names:
        raise UnreadableTraceError(f"{url}: no trace in this folder; give a trace file or a run directory")
    return [str(filesystem.unstrip_protocol(name)) for name in names]


def fetched(url: str, folder: Path | None = None) -> Path:
    """A copy of the file on this machine, fetched again only when the original changed.

    Kept below ``folder``, by default in the user's cache; the file keeps its name, its folder is named after the URL.
    Raises UnreadableTraceError when the file cannot be had.
    """
    _filesystem(url)
    import fsspec

    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    storage = (folder or cache_folder()) / key
    try:
        return Path(
            fsspec.open_local(
                f"filecache::{url}",
                filecache={"cache_storage": str(storage), "same_names": True, "check_files": True},
            )
        )
    except Exception as error:  # every protocol has errors of its own
        raise _unreadable(url, error) from error


def local_paths(path: Path) -> list[Path]:
    """``path`` itself, or copies of the trace files that it stands for when it is a URL."""
    url = url_of(path)
    if url is not None:
        return [fetched(each) for each in trace_urls(url)]
    try:
        path.exists()
    except OSError as error:  # a name no file can have
        raise UnreadableTraceError(f"{str(path)[:80]}…: {error.strerror}; check the path") from error
    return [path]


def cache_folder() -> Path:
    """Where copies are kept: ``TRACEQL_CACHE``, else the user's cache folder, else a temporary one."""
    named = os.environ.get("TRACEQL_CACHE", "")
    if named and named != "off":
        return Path(named) / "remote"
    if named == "off":
        return Path(tempfile.gettempdir()) / "traceql-remote"
    base = os.environ.get("XDG_CACHE_HOME") or (
        "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("LOCALAPPDATA") or "~/.cache"
    )
    return Path(base).expanduser() / "traceql" / "remote"


def _filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; UsageError when what opens it is not installed."""
    try:
        import fsspec

        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(
            f"{url}: {error}; install what reads it, e.g. pip install fsspec s3fs (or gcsfs, adlfs)"
        ) from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    return found


def _unreadable(url: str, error: Exception) -> UnreadableTraceError:
    return UnreadableTraceError(" ".join(f"{url}: cannot be fetched ({type(error).__name__}: {error})".split()))

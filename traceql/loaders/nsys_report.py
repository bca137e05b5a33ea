"""Nsight Systems reports (``.nsys-rep``): only nsys itself reads them, so it exports them to SQLite first.

The export is kept, as it takes nsys longer than anything traceql does with it: beside the report in
``NAME.traceql-cache``, or in the user's cache folder where the report's folder cannot be written. Its name
carries the report's size and time of change, so that a report recorded again is exported again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from traceql import nsight
from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_sqlite
from traceql.trace import LoadedTrace

NSYS_VARIABLE = "TRACEQL_NSYS"
"""Environment variable with the path of the ``nsys`` to run; without it, the first on PATH, or where it is installed."""

_MESSAGE_LENGTH = 300  # of what nsys says, the characters passed on


def load(path: Path) -> LoadedTrace:
    """Export a report with nsys, or take the export kept from before, and load it.

    Raises UnreadableTraceError when there is no report, no nsys, or nsys refuses the report.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableTraceError(f"{path}: cannot be read ({error.strerror})") from error
    name = f"{status.st_size}-{status.st_mtime_ns}.sqlite"
    for folder in _cache_folders(path):
        with suppress(UnreadableTraceError, OSError):  # damaged since it was kept, or not ours to read
            if (folder / name).exists():
                return _load_export(folder / name, path)
    for folder in _cache_folders(path):
        with suppress(_ReadOnlyError):
            return _load_export(_export_and_keep(path, folder, name), path)
    with tempfile.TemporaryDirectory(prefix="traceql-") as scratch:
        return _load_export(export(path, Path(scratch)), path)


class _ReadOnlyError(Exception):
    """Nothing can be written to a cache folder."""


def _load_export(export: Path, report: Path) -> LoadedTrace:
    return replace(nsys_sqlite.load(export), path=report)


def _export_and_keep(report: Path, folder: Path, name: str) -> Path:
    """The report's export as ``folder / name``, which appears when it is whole; older ones go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder, prefix="exporting-")
    except OSError as error:
        raise _ReadOnlyError from error
    with scratch:
        kept = export(report, Path(scratch.name)).replace(folder / name)
    for other in folder.glob("*.sqlite"):
        if other != kept:
            other.unlink(missing_ok=True)
    return kept


def _cache_folders(report: Path) -> Iterator[Path]:
    """Where the export of a report may lie, the best place first."""
    yield report.with_name(f"{report.name.removesuffix('.nsys-rep')}.traceql-cache")
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield user_cache / "traceql" / sha256(os.fsencode(report.absolute())).hexdigest()[:16]


def export(report: Path, folder: Path) -> Path:
    """Have nsys write the report's SQLite export into a folder; returns the file."""
    export = folder / "export.sqlite"
    nsys = _nsys(report)
    command = [nsys, "export", "--type=sqlite", f"--output={export}", "--force-overwrite=true"]
    try:
        result = subprocess.run(
            [*command, str(report.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise UnreadableTraceError(f"{report}: {nsys} does not run ({error.strerror})") from error
    if result.returncode != 0 or not export.is_file():
        said = " ".join(result.stdout.decode("utf-8", "replace").split())[-_MESSAGE_LENGTH:]
        raise UnreadableTraceError(
            f"{report}: {nsys} could not export it (exit {result.returncode}: {said or 'no message'}); "
            "what is needed is an intact report and an nsys at least as new as the one that recorded it"
        )
    return export


def _nsys(report: Path) -> str:
    named = os.environ.get(NSYS_VARIABLE)
    found = shutil.which(named) if named else nsight.program("nsys")
    if found is None:
        missing = f"{NSYS_VARIABLE}={named} is no program" if named else "nsys is not installed"
        raise UnreadableTraceError(
            f"{report}: only Nsight Systems can read a report, and {missing}; install it, or run "
            f"`nsys export --type sqlite {report.name}` where it is and give traceql the .sqlite file"
        )
    return found

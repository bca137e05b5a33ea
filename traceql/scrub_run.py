"""A copy of a run directory without what it tells of the machine and its user: traces, manifest, what logs are read for."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from traceql import server_logs
from traceql.collectors import manifest as manifests
from traceql.errors import UsageError
from traceql.loaders import registry
from traceql.opening import trace_files
from traceql.writing import write_bytes

_WORD = re.compile(r"-{0,2}[A-Za-z][\w.-]*|\d+")
"""A word of a command that names nothing of a machine: an option, a module, a whole number."""
_SECRET_OPTION = re.compile(r"key|token|password|secret|host|user", re.IGNORECASE)


def scrub_run(
    source: Path, target: Path, scrub_file: Callable[[Path, Path], None], plain: Callable[[bytes], bytes]
) -> None:
    """Write the copy to ``target``, a new or an empty folder; whole or not at all.

    ``scrub_file`` writes the copy of one trace, ``plain`` takes private things out of a text. Result files and samples
    of the recording (clocks, benchmark output) are left out: the analysis does not read them.
    """
    if registry.is_nsys_directory(source):
        raise UsageError(f"{source}: a table directory cannot be scrubbed; scrub an .sqlite export of the same report")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: is there already; give a new folder")
    traces = trace_files(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as scratch:
        new = Path(scratch) / "run"
        new.mkdir()
        copies = {path.relative_to(source).as_posix(): _copied(path, source, new, scrub_file) for path in traces}
        for folder in sorted({source, *(path.parent for path in traces)}):
            for log in server_logs.logs_in(folder):
                write_bytes(_place(log, source, new), plain(server_logs.essence(log)))
        if (source / manifests.NAME).is_file():
            write_bytes(new / manifests.NAME, plain(_manifest(source, new, copies)))
        if target.exists():
            target.rmdir()
        new.rename(target)


def _place(path: Path, source: Path, new: Path) -> Path:
    place = new / path.relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _copied(path: Path, source: Path, new: Path, scrub_file: Callable[[Path, Path], None]) -> Path:
    """The scrubbed copy of a trace; of a report the copy is what it is exported to, or the page beside it."""
    if ".ncu-rep" in path.suffixes:
        page = next((p for p in sorted(path.parent.glob("*.csv")) if _is_page_of(p, path)), None)
        if page is None:
            raise UsageError(
                f"{path}: a .ncu-rep cannot be scrubbed; export its page beside it: "
                f"ncu --import {path.name} --csv --page raw --print-units base > {path.name.split('.')[0]}.csv"
            )
        path = page
    place = _place(path.with_suffix(".sqlite") if path.suffix == ".nsys-rep" else path, source, new)
    scrub_file(path, place)
    return place


def _is_page_of(page: Path, report: Path) -> bool:
    return page.name.split(".")[0] == report.name.split(".")[0] and registry.is_counter_page(page)


def _manifest(source: Path, new: Path, copies: dict[str, Path]) -> bytes:
    """The manifest with the copies' sizes and sums, without environments, messages and what commands were given."""
    found = manifests.read(source)
    found.command = _words(found.command)
    found.environment = dict.fromkeys(found.environment)
    found.problem = None
    found.warnings = []
    for stage in found.stages:
        stage.command = _words(stage.command)
        stage.environment = {}
        stage.problem = stage.fix = None
        stage.notes = []
        stage.files = [manifests.describe(copies[f.path], new, f.kind) for f in stage.files if f.path in copies]
    content = msgspec.to_builtins(found)
    peaks = msgspec.json.decode((source / manifests.NAME).read_bytes()).get("measured_peaks")
    if peaks is not None:
        content["measured_peaks"] = peaks
    return msgspec.json.format(msgspec.json.encode(content), indent=1)


def _words(command: list[str]) -> list[str]:
    """A command's options, modules and numbers; ``…`` for any other word."""
    kept: list[str] = []
    for before, word in zip(["", *command], command, strict=False):
        private = before.startswith("-") and _SECRET_OPTION.search(before)
        kept.append("…" if private or not _WORD.fullmatch(word) else word)
    return kept

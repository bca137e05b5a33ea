"""From what a user names (a file, a run directory, a list) to traces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from traceql import run_manifest, schema
from traceql.errors import TraceqlError, UnreadableTraceError
from traceql.loaders import registry
from traceql.trace import Trace, in_order

if TYPE_CHECKING:
    from traceql.ranks.jobs import Job
    from traceql.ranks.matching import Matches

PathArgument = str | PathLike[str]


@dataclass(frozen=True)
class Opened:
    """Traces that could be read, in order of rank then name, and one line for each file that could not."""

    traces: tuple[Trace, ...]
    unreadable: tuple[str, ...] = ()


def open_trace(path: PathArgument | Iterable[PathArgument], *, cache: bool = False) -> Trace | TraceSet:
    """Open one file, a directory of traces, or a list of them.

    One trace comes back as a Trace, several as a TraceSet with the same tables. ``cache`` keeps the tables of large
    files for the next time: see ``traceql.cache``. Raises UnreadableTraceError when any file named cannot be read, or
    a directory holds no trace.
    """
    paths = [path] if isinstance(path, (str, PathLike)) else list(path)
    opened = open_all([Path(p) for p in paths], strict=True, cache=cache)
    return opened.traces[0] if len(opened.traces) == 1 else TraceSet(opened.traces)


def open_all(paths: list[Path], *, strict: bool = False, cache: bool = False) -> Opened:
    """Open every path; unless ``strict``, files that cannot be read are reported and the rest still open."""
    traces: list[Trace] = []
    unreadable: list[str] = []
    local = _on_this_machine(paths, unreadable, strict=strict)
    for path in (run for named in local for run in run_folders(named)):
        inside = path.is_dir()
        try:
            members = trace_files(path)
        except TraceqlError as error:
            if strict:
                raise
            unreadable.append(str(error))
            continue
        found: list[Trace] = []
        for member in members:
            try:
                found.append(_open_file(member, cache=cache))
            except TraceqlError as error:
                if strict and not inside:
                    raise
                unreadable.append(str(error))
        if strict and not found:
            raise UnreadableTraceError(unreadable[-1])
        manifest = run_manifest.read(path) if inside else None
        traces += found if manifest is None else run_manifest.noted(found, manifest)
    return Opened(in_order(traces), tuple(unreadable))


def _on_this_machine(paths: list[Path], unreadable: list[str], *, strict: bool) -> list[Path]:
    """The paths, URLs among them fetched; what cannot be had goes to ``unreadable`` unless ``strict``."""
    from traceql import remote

    found: list[Path] = []
    for path in paths:
        try:
            found += remote.local_paths(path)
        except TraceqlError as error:
            if strict:
                raise
            unreadable.append(str(error))
    return found


def _open_file(path: Path, *, cache: bool) -> Trace:
    if not cache:
        return Trace.from_loaded(registry.load(path))
    from traceql import cache as kept

    if not kept.worthwhile(path):
        return Trace.from_loaded(registry.load(path))
    trace = kept.load(path)
    if trace is None:
        trace = Trace.from_loaded(registry.load(path))
        kept.store(trace)
    return trace


def run_folders(path: Path) -> list[Path]:
    """The run directories in a folder of runs (a sweep's); of anything else the path itself."""
    if not path.is_dir() or registry.is_nsys_directory(path) or run_manifest.read(path) is not None:
        return [path]
    runs = sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink() and run_manifest.read(p) is not None)
    loose = [p for p in path.iterdir() if p.is_file() and registry.is_trace_name(p)]
    return runs if runs and not loose else [path]


def trace_files(path: Path) -> list[Path]:
    """The trace files a path stands for: itself, or those in a directory (and one level down: a run's stages)."""
    if not path.is_dir() or registry.is_nsys_directory(path):
        return [path]
    files = [p for pattern in ("*", "*/*") for p in path.glob(pattern) if p.is_file()]
    inside = [p for p in files if registry.is_trace_name(p)]
    inside += _counter_pages(files, inside)
    if not inside:
        what = ", ".join(sorted(p.name for p in path.iterdir())[:4]) or "nothing"
        raise UnreadableTraceError(
            f"{path}: no trace in this directory (it holds {what}); give a trace file or a run directory"
        )
    # an exported .sqlite beside its .nsys-rep is the same capture
    exported = {p.with_suffix("") for p in inside if p.suffix == ".sqlite"}
    return sorted(p for p in inside if not (p.suffix == ".nsys-rep" and p.with_suffix("") in exported))


def _counter_pages(files: list[Path], inside: list[Path]) -> list[Path]:
    """CSV pages of Nsight Compute among ``files``: one a report (the raw page before the details page), none of a report
    that lies there itself."""
    taken = {(p.parent, p.name.split(".")[0]) for p in inside if ".ncu-rep" in p.suffixes}
    found: list[Path] = []
    for page in sorted(files, key=lambda p: ("details" in p.name, str(p))):
        report = (page.parent, page.name.split(".")[0])
        if page.suffix == ".csv" and report not in taken and registry.is_counter_page(page):
            taken.add(report)
            found.append(page)
    return found


@dataclass(frozen=True)
class TraceSet:
    """Several traces, usually the ranks of one job; tables are theirs one under the other.

    Ids count within a trace: (``rank``, ``kernel_id``) names a kernel.
    """

    traces: tuple[Trace, ...]

    def table(self, name: str) -> pl.DataFrame:
        """The table of every trace, concatenated in order of rank.

        ``collective_matches`` are those of all ranks, a file's that holds several included: ids count within a rank.
        """
        if name == "collective_matches":
            return pl.concat([schema.TABLES[name].conform(found.rows) for _, found in self.matched])
        return pl.concat([trace.table(name) for trace in self.traces])

    @cached_property
    def matched(self) -> tuple[tuple[Job, Matches], ...]:
        """The jobs among the traces, each with its collectives matched across ranks and the ranks' clocks."""
        from traceql.ranks.digest import digests
        from traceql.ranks.jobs import Job, jobs
        from traceql.ranks.matching import matches
        from traceql.ranks.processes import apart

        made = [digest for index, trace in enumerate(apart(self.traces)) for digest in digests(trace, index)]
        found = jobs(made) or [Job(tuple(made))]
        return tuple((job, matches(job)) for job in found)

    def __getattr__(self, name: str) -> pl.LazyFrame:
        if name.startswith("_") or name not in schema.TABLES:
            raise AttributeError(f"TraceSet has no table or attribute {name!r}; tables: {', '.join(schema.TABLES)}")
        return self.table(name).lazy()

    def sql(self, query: str) -> pl.DataFrame:
        """Run one read-only SELECT over the concatenated tables."""
        from traceql.query import run

        return run(self, query)

    def _repr_html_(self) -> str:
        from traceql.notebook import traces_html

        return traces_html(self.traces)

    def __len__(self) -> int:
        return len(self.traces)

    def __iter__(self) -> Any:
        return iter(self.traces)

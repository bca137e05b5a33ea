"""From the tables of an Nsight Systems export to a trace."""

from __future__ import annotations

import re

import polars as pl

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_ranks, nsys_tables, nsys_target
from traceql.loaders.nsys_export import Export
from traceql.trace import LoadedTrace, Problem

_NSYS_TABLES = frozenset(
    (
        "META_DATA_EXPORT",
        "META_DATA_CAPTURE",
        "ANALYSIS_DETAILS",
        "TARGET_INFO_SESSION_START_TIME",
        "NVTX_EVENTS",
    )
)
_NSYS_COLUMNS = frozenset(("globalPid", "globalTid"))
_TABLES_NAMED = 6  # in the message about a foreign file


def load(export: Export) -> LoadedTrace:
    """The trace in an export; raises UnreadableTraceError when it is not from nsys or nothing is left."""
    if not _is_nsys(export):
        raise UnreadableTraceError(
            f"{export.path}: not an Nsight Systems export ({_contents(export)}); "
            "make one with `nsys export --type sqlite REPORT.nsys-rep`"
        )
    frames = nsys_target.number_devices(export, nsys_tables.frames(export))
    ranks = nsys_ranks.ranks(export, frames["kernels"], frames.pop(nsys_tables.COMMUNICATORS))
    frames["metadata"] = pl.concat([nsys_target.metadata(export), ranks])
    unix_offset_ns = nsys_target.unix_offset_ns(export)
    damaged = any(problem.kind == "truncated" for problem in export.problems)
    if damaged and all(frame.is_empty() for frame in frames.values() if "start_ns" in frame.columns):
        raise UnreadableTraceError(
            f"{export.path}: a damaged Nsight Systems export of which no event can be read; "
            "export the report again with `nsys export`"
        )
    told = [each for each in nsys_target.diagnostics(export) if not _contradicted(each, frames)]
    problems = (*export.problems, *_unnamed(frames), *told)
    return LoadedTrace("nsys", export.path, frames, unix_offset_ns=unix_offset_ns, problems=problems)


_NOTHING = {
    "kernels": re.compile(r"No CUDA events collected|CUDA profiling might (?:have not|not have) been started"),
    "annotations": re.compile(r"No NVTX events collected"),
}
"""Table → what nsys says of a process that left nothing in it."""


def _contradicted(problem: Problem, frames: dict[str, pl.DataFrame]) -> bool:
    """Whether it says of one process (a launcher, a tokenizer) what the export as a whole does hold."""
    return problem.kind == "diagnostic" and any(
        not frames[table].is_empty() and of_nothing.match(problem.message) for table, of_nothing in _NOTHING.items()
    )


def _unnamed(frames: dict[str, pl.DataFrame]) -> list[Problem]:
    """Calls and kernels without a name: what a call does (launch a graph, wait) is told from nothing else."""
    found = []
    for table, what in (("runtime_calls", "CUDA calls"), ("kernels", "kernels")):
        nameless, rows = frames[table]["name"].null_count(), frames[table].height
        if nameless:
            message = f"{nameless:,} of {rows:,} {what} have no name in StringIds; what they do is not known"
            found.append(Problem("unnamed", message, count=nameless))
    return found


def _is_nsys(export: Export) -> bool:
    """Whether these are tables of nsys; nvprof uses some of the names for tables with other columns."""
    return any(
        name in _NSYS_TABLES or (name.startswith("CUPTI_ACTIVITY_") and not _NSYS_COLUMNS.isdisjoint(columns))
        for name, columns in export.tables.items()
    )


def _contents(export: Export) -> str:
    names = sorted(export.tables)
    if not names:
        return "it has no tables"
    return f"its tables are {', '.join(names[:_TABLES_NAMED])}{' …' if len(names) > _TABLES_NAMED else ''}"

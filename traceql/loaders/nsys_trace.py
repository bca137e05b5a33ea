"""From the tables of an Nsight Systems export to a trace."""

from __future__ import annotations

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_tables, nsys_target
from traceql.loaders.nsys_export import Export
from traceql.trace import LoadedTrace

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
    frames["metadata"] = nsys_target.metadata(export)
    unix_offset_ns = nsys_target.unix_offset_ns(export)
    damaged = any(problem.kind == "truncated" for problem in export.problems)
    if damaged and all(frame.is_empty() for frame in frames.values() if "start_ns" in frame.columns):
        raise UnreadableTraceError(
            f"{export.path}: a damaged Nsight Systems export of which no event can be read; "
            "export the report again with `nsys export`"
        )
    problems = (*export.problems, *nsys_target.diagnostics(export))
    return LoadedTrace("nsys", export.path, frames, unix_offset_ns=unix_offset_ns, problems=problems)


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

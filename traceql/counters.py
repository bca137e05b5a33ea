"""``with_counters``: Nsight Compute reports beside a timeline of the same program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from traceql.errors import UsageError
from traceql.trace import Trace

REPORTS = "counters.reports"
"""Metadata key of the reports whose counters a timeline carries: file names, ``, `` between."""

_TABLES = ("ncu_kernels", "ncu_metrics")


def with_counters(trace: Trace, *reports: Trace) -> Trace:
    """``trace`` with the profiled kernels of ``reports``: its tables ``ncu_kernels`` and ``ncu_matches`` are filled.

    Kernels are joined by short name and launch shape; of several reports (one a component) the kernels are numbered on.
    UsageError when one is no Nsight Compute report, or was taken on another kind of GPU.
    """
    if trace.source == "ncu":
        raise UsageError(f"{trace.path.name} is a Nsight Compute report itself; give a timeline of the same program")
    for report in reports:
        _check(trace, report)
    return joined(trace, reports)


def joined(trace: Trace, reports: Sequence[Trace]) -> Trace:
    """``trace`` with the kernels of ``reports``, which are known to be of the same program."""
    if not reports:
        return trace
    tables = {name: _numbered_on(name, reports) for name in _TABLES}
    note = {"rank": [trace.rank], "key": [REPORTS], "value": [", ".join(report.path.name for report in reports)]}
    metadata = trace.loaded["metadata"].filter(pl.col("key") != REPORTS)
    tables["metadata"] = pl.concat([metadata, pl.DataFrame(note, metadata.schema)])
    return replace(trace, loaded={**trace.loaded, **tables}, _memo={})


def _check(trace: Trace, report: Trace) -> None:
    if report.source != "ncu":
        raise UsageError(f"{report.path.name} is no Nsight Compute report; it was read as {report.source}")
    names = [set(t.loaded["devices"]["name"].drop_nulls()) for t in (trace, report)]
    if all(names) and not names[0] & names[1]:
        there, here = (", ".join(sorted(group)) for group in names)
        raise UsageError(f"{report.path.name} was profiled on {here}, {trace.path.name} on {there}")


def _numbered_on(table: str, reports: Sequence[Trace]) -> pl.DataFrame:
    """The reports' rows one below the other, ``ncu_kernel_id`` counting through."""
    parts, first = [], 0
    for report in reports:
        parts.append(report.loaded[table].with_columns(pl.col("ncu_kernel_id") + first))
        first += report.loaded["ncu_kernels"].height
    return pl.concat(parts)

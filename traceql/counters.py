"""``with_counters``: a Nsight Compute report beside a timeline of the same program."""

from __future__ import annotations

from dataclasses import replace

from traceql.errors import UsageError
from traceql.trace import Trace


def with_counters(trace: Trace, report: Trace) -> Trace:
    """``trace`` with the profiled kernels of ``report``: its tables ``ncu_kernels`` and ``ncu_matches`` are filled.

    Kernels are joined by short name and launch shape. UsageError when ``report`` is no Nsight Compute report, or was
    taken on another kind of GPU.
    """
    if report.source != "ncu":
        raise UsageError(f"{report.path.name} is no Nsight Compute report; it was read as {report.source}")
    if trace.source == "ncu":
        raise UsageError(f"{trace.path.name} is a Nsight Compute report itself; give a timeline of the same program")
    names = [set(t.loaded["devices"]["name"].drop_nulls()) for t in (trace, report)]
    if all(names) and not names[0] & names[1]:
        there, here = (", ".join(sorted(group)) for group in names)
        raise UsageError(f"{report.path.name} was profiled on {here}, {trace.path.name} on {there}")
    tables = ("ncu_kernels", "ncu_metrics")
    return replace(trace, loaded={**trace.loaded, **{t: report.loaded[t] for t in tables}}, _memo={})

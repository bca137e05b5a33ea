"""traceql: find where an LLM decode step loses GPU time, say why, and fail the change that makes it worse.

import traceql as tq
trace = tq.open("decode.trace.json.gz")
trace.sql("select category, sum(dur_ns) from kernels group by 1")
report = tq.analyze(trace)
report.save("report.html")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from traceql.aligning import align
    from traceql.errors import TraceqlError
    from traceql.finding import Finding, Severity
    from traceql.opening import TraceSet
    from traceql.opening import open_trace as open
    from traceql.reporting import Report, analyze
    from traceql.rule import Rule, option
    from traceql.trace import Trace

_WHERE = {
    "open": "traceql.opening.open_trace",
    "TraceSet": "traceql.opening.TraceSet",
    "Trace": "traceql.trace.Trace",
    "align": "traceql.aligning.align",
    "analyze": "traceql.reporting.analyze",
    "Report": "traceql.reporting.Report",
    "Finding": "traceql.finding.Finding",
    "Severity": "traceql.finding.Severity",
    "Rule": "traceql.rule.Rule",
    "option": "traceql.rule.option",
    "TraceqlError": "traceql.errors.TraceqlError",
}
"""Public name → where it lives; loaded on first use so that importing traceql costs nothing."""

__all__ = [
    "Finding", "Report", "Rule", "Severity", "Trace", "TraceSet", "TraceqlError", "__version__", "align", "analyze", "open", "option",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'traceql' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].rpartition(".")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Causes of idle time in the words of the report."""

from __future__ import annotations

from traceql.derived.step_costs import HOST_CAUSES
from traceql.report import units
from traceql.report.model import Part
from traceql.report.names import shown

HOST_LABELS: dict[str, str] = {
    "dispatch_ns": "operator dispatch",
    "launch_ns": "launch calls",
    "other_calls_ns": "other API calls",
    "wait_ns": "waiting for the GPU",
    "profiler_ns": "profiler overhead",
    "python_ns": "Python and framework",
}
"""Part of the launching thread's time → legend text."""

OUTSIDE = "outside"
"""Stands beside the causes for time of a step that is neither its GPU work nor one of its gaps."""

WAITING = "waiting"
"""Stands beside the causes for time in which the device only waits for other ranks: busy by definition, and lost."""

LABELS: dict[str, str] = {
    "busy": "GPU busy",
    "host": "host, before the launch",
    "launch": "inside launch calls",
    "launch latency": "launch latency",
    "graph launch": "inside graph launches",
    "blocked": "host blocked in a wait",
    "profiler": "profiler overhead",
    "in-graph": "between graph nodes",
    "device latency": "device latency",
    "opaque replay": "not recorded",
    "unknown": "unknown",
    "outside": "outside its GPU work",
}
"""Cause → legend text, in the order charts stack them."""

_LATE = {
    "host": "host time before kernel launches",
    "launch": "host time in launch calls",
    "launch latency": "launch latency",
    "graph launch": "host time in graph launches",
}
_LOSSES = {
    "blocked": "GPU idle while the host waits in a synchronising call",
    "profiler": "profiler overhead",
    "in-graph": "idle time between graph nodes",
    "device latency": "idle time between queued kernels",
    "unknown": "idle time of unknown cause",
    OUTSIDE: "time outside the step's GPU work",
    WAITING: "collectives that wait for other ranks",
}


def order(cause: str) -> int:
    """Place of a cause in legends and stacks; unheard-of ones last."""
    known = list(LABELS)
    return known.index(cause) if cause in LABELS else len(known)


def css(cause: str) -> str:
    """The cause as the name of its colour."""
    return cause.replace(" ", "-") if cause in LABELS else "unknown"


def largest_loss(idle_ns: dict[str, int]) -> tuple[str, int] | None:
    """The largest loss as a phrase and its time: what the host was late for is one loss, other causes one each."""
    losses = {_LOSSES[cause]: ns for cause, ns in idle_ns.items() if cause in _LOSSES}
    late = {cause: idle_ns[cause] for cause in HOST_CAUSES if idle_ns.get(cause)}
    if late:
        losses[_LATE[max(late, key=lambda cause: late[cause])]] = sum(late.values())
    if not losses:
        return None
    phrase = max(losses, key=lambda name: losses[name])
    return phrase, losses[phrase]


def parts(ns_by_cause: dict[str, int], whole_ns: int) -> tuple[Part, ...]:
    """The causes in their order, with shares of ``whole_ns``."""
    return tuple(
        Part(shown(LABELS.get(cause, cause)), css(cause), ns, 100 * ns / max(whole_ns, 1), units.ms(ns),
             f"{ns:,} ns")
        for cause, ns in sorted(ns_by_cause.items(), key=lambda item: order(item[0]))
    )  # fmt: skip

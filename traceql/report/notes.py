"""What the trace could not tell, and where the figures come from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl

import traceql
from traceql import metrics
from traceql.report import ceilings, units
from traceql.report.headline import source_name
from traceql.report.model import Figure
from traceql.report.names import shown
from traceql.trace import Capabilities, Trace

_WORTH_A_NOTE = 0.05
"""Share of a step that a note must concern."""

_ABSENT = {
    "gpu_rows": "GPU work",
    "host_calls": "CUDA API calls",
    "launch_links": "links from launch calls to GPU work",
    "cpu_ops": "framework operators",
    "shapes": "operator shapes",
    "python_stacks": "Python frames",
    "annotations": "named ranges",
}
_REPLAYS = {
    "graph": "CUDA graph replays are one row each: their kernels were not recorded.",
    "opaque": "CUDA graph replays left no device record: GPU busy and idle time are not recorded, not zero.",
    "mixed": "Some CUDA graph replays were recorded without their kernels.",
}
_METADATA = {
    "product_version": "profiler version",
    "driver_version": "driver",
    "cuda_driver_version": "CUDA driver",
    "cuda_runtime_version": "CUDA runtime",
    "cupti_version": "CUPTI",
    "cuda_graph_trace": "graph tracing",
    "distributed.backend": "backend",
    "distributed.world_size": "world size",
    "distributed.nccl_version": "NCCL",
    "counters.reports": "counters from",
}
"""Facts shown, by the key the loaders use; others (host names, paths, command lines) stay out of a shared report."""


def notes(trace: Trace) -> tuple[str, ...]:
    """What was lost or never recorded, one sentence each."""
    has = trace.capabilities
    found = [shown(sentence(problem.message)) for problem in trace.problems]
    absent = [words for name, words in _ABSENT.items() if not getattr(has, name)]
    if absent and trace.source != "ncu":
        found.append(f"Not recorded: {', '.join(absent)}.")
    if has.graph_replays in _REPLAYS:
        found.append(_REPLAYS[has.graph_replays])
    return (*found, *_unplaced(trace, has), *ceilings.sentences(trace))


def _unplaced(trace: Trace, has: Capabilities) -> list[str]:
    if not has.gpu_rows:
        return []
    found = []
    ops = trace.table("gpu_ops")
    outside = ops.filter(pl.col("step_id").is_null())
    if outside.height and not trace.table("steps").is_empty():
        found.append(
            f"{outside.height:,} of {ops.height:,} GPU rows ({units.ms(int(outside['dur_ns'].sum()))}) lie outside the "
            "steps and count in no step."
        )
    unmatched = metrics.launch_counts(trace)["unmatched_gpu_ops"]
    if unmatched and has.host_calls:
        found.append(f"{unmatched:,} GPU rows have no launch call in the trace: gaps before them are of unknown cause.")
    found += [_lead_in(row) for row in _lead_ins(trace)]
    overhead = trace.loaded["overheads"]
    if overhead.height:
        found.append(f"The profiler noted {units.ms(int(overhead['dur_ns'].sum()))} of its own overhead.")
    return found


def _lead_ins(trace: Trace) -> list[dict[str, Any]]:
    """First steps of which a good part is start-up."""
    late = pl.col("lead_in_ns") >= _WORTH_A_NOTE * pl.col("whole_ns")
    return trace.table("steps").filter(late & (pl.col("lead_in_ns") > 0)).rows(named=True)


def _lead_in(step: dict[str, Any]) -> str:
    return (
        f"{units.ms(step['lead_in_ns'])} of step {step['step_id']} ({units.ms(step['period_ns'])}) pass before its first GPU "
        "work. It is the first step of the recording: this counts as start-up, in no gap and no finding."
    )


def sentence(text: str) -> str:
    """``text`` with a full stop."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def provenance(trace: Trace, label: str) -> tuple[Figure, ...]:
    """File, profiler, GPUs, versions, time of capture, and how much was read."""
    facts = [("file", label), ("profiler", source_name(trace)), ("GPU", ", ".join(gpus(trace)) or "not named")]
    if trace.rank is not None:
        facts.append(("rank", str(trace.rank)))
    if trace.origin_unix_ns is not None:
        moment = datetime.fromtimestamp(trace.origin_unix_ns // 1_000_000_000, UTC)
        facts.append(("captured", moment.strftime("%Y-%m-%d %H:%M:%S UTC")))
    stated = dict(trace.loaded["metadata"].select("key", "value").rows())
    facts += [(words, stated[key]) for key, words in _METADATA.items() if stated.get(key)]
    rows = {name: trace.loaded[name].height for name in trace.loaded}
    read = [
        f"{rows[t]:,} {t.replace('_', ' ')}" for t in ("kernels", "runtime_calls", "cpu_ops", "python_calls") if rows[t]
    ]
    facts.append(("events read", ", ".join(read) or "none"))
    facts.append(("traceql", traceql.__version__))
    return tuple(Figure(name, shown(str(value))) for name, value in facts)


def gpus(trace: Trace) -> tuple[str, ...]:
    """The GPUs that worked in this trace (all it lists, where none did), alike ones counted."""
    devices = trace.loaded["devices"]
    used = trace.table("gpu_ops")["device"].drop_nulls().unique()
    active = devices.filter(pl.col("device").is_in(used.implode()))
    names = (active if active.height else devices)["name"].drop_nulls()
    counted = names.value_counts(sort=False).sort("name").rows()
    return tuple(shown(f"{count} × {name}" if count > 1 else name) for name, count in counted)

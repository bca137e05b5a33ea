"""Frames computed from a trace's tables: each a memoised function of (trace, parameters).

A module here computes one thing and names it: ``steps.steps(trace)`` is the frame ``trace.steps``. Nothing in this
package reads a file or judges a figure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Concatenate, ParamSpec, TypeVar

import polars as pl

from traceql import schema
from traceql.trace import Trace

_P = ParamSpec("_P")
_R = TypeVar("_R")


def memoised(function: Callable[Concatenate[Trace, _P], _R]) -> Callable[Concatenate[Trace, _P], _R]:
    """Keep ``function(trace, **parameters)`` on the trace: each set of parameters is computed once."""

    @wraps(function)
    def call(trace: Trace, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        key = (function.__module__, function.__name__, args, tuple(sorted(kwargs.items())))
        return trace.memo(key, lambda: function(trace, *args, **kwargs))

    return call


_PROVIDERS = {
    "steps": "steps.steps",
    "step_devices": "step_devices.step_devices",
    "critical_path": "critical_path.critical_path",
    "launches": "launches.launches",
    "gpu_ops": "gpu_ops.gpu_ops",
    "graph_launches": "graphs.graph_launches",
    "graph_segments": "graphs.graph_segments",
    "graph_boundaries": "graphs.graph_boundaries",
    "gaps": "gaps.gaps",
    "gap_parts": "gaps.gap_parts",
    "layers": "layers.layers",
    "layer_kernels": "roles.kernel_roles",
    "op_costs": "ops.op_costs",
    "aligned_kernels": "alignment.aligned_kernels",
    "gemms": "gemms.gemms",
    "roofline": "kernel_roofline.roofline",
    "step_floor": "step_floor.step_floor",
    "token_latencies": "token_latencies.token_latencies",
    "ncu_matches": "ncu_join.ncu_matches",
    "collectives": "collectives.collectives",
    "collective_overlap": "collective_overlap.collective_overlap",
    "collective_matches": "collective_matches.collective_matches",
    "kernels": "gpu_ops.kernels",
    "memcpys": "gpu_ops.memcpys",
    "memsets": "gpu_ops.memsets",
    "graph_traces": "gpu_ops.graph_traces",
    "runtime_calls": "launches.runtime_calls",
    "cpu_ops": "ops.cpu_ops",
}
"""Contract table → the function that computes it or joins derived columns into it; the rest are as loaded."""


def table(trace: Trace, name: str) -> pl.DataFrame:
    """The table ``name`` of the contract for ``trace``; KeyError for a name that is not in the contract."""
    contract = schema.TABLES[name]
    if name not in _PROVIDERS:
        return trace.loaded[name]
    module, function = _PROVIDERS[name].split(".")
    provider = getattr(import_module(f"traceql.derived.{module}"), function)
    return trace.memo(("table", name), lambda: contract.conform(provider(trace)))

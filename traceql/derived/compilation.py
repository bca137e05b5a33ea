"""When the host compiled, autotuned or loaded code, told from what the trace names."""

from __future__ import annotations

import polars as pl

from traceql.derived import intervals, memoised
from traceql.derived.host import host_timeline
from traceql.derived.steps import marks
from traceql.trace import Trace

COMPILING = {
    "Dynamo": r"torch/_dynamo/(?:convert_frame|output_graph)\.py\(\d+\): "
    r"(?:_?compile(?:_inner)?|compile_subgraph|call_user_compiler|compile_and_call_fx_graph)$",
    "Inductor": r"torch/_inductor/(?:compile_fx|graph|codecache|async_compile)\.py\(\d+\): "
    r"(?:_?compile_fx\w*|fx_codegen_and_compile|_?codegen\w*|compile_to_(?:fn|module)|wait|load_by_key_path)$",
    "Triton": r"triton/(?:compiler/compiler\.py\(\d+\): compile|runtime/jit\.py\(\d+\): (?:_do_compile|compile))$",
    "autotuning": r"(?:triton/runtime/autotuner\.py\(\d+\): (?:_bench|benchmark|check_disk_cache)"
    r"|triton/testing\.py\(\d+\): do_bench\w*"
    r"|triton_heuristics\.py\(\d+\): (?:autotune_to_one_config|benchmark_all_configs|coordinate_descent_tuning))$",
    "C++ build": r"(?:flashinfer/jit/core\.py\(\d+\): build\w*|torch/utils/cpp_extension\.py\(\d+\): _jit_compile)$",
    "torch.compile": r"\(dynamo_timed\)$",
    "module load": r"^(?:cu|cuda|hip)(?:ModuleLoad\w*|LibraryLoad\w*|Link(?:Create|AddData|AddFile|Complete)\w*)$"
    r"|^(?:nvrtc|hiprtc)CompileProgram$",
}
"""What was done → how its frames, ranges and calls are named. ``(dynamo_timed)`` is the suffix of the ranges that
torch.compile records around its own phases. A lookup ("TorchDynamo Cache Lookup", "compute_cache_key") and a compiled
region that runs are not compilation and match none of these."""

LOADING = r"(?i)lazy function loading|module loading"
"""Overhead rows that say the driver loaded a kernel on first use: weak evidence of new code."""


@memoised
def compilations(trace: Trace) -> pl.DataFrame:
    """Outermost compile, autotune and module-load activities on threads that run steps, from the first step's start on:
    what, name, pid, tid, start_ns, end_ns, dur_ns, step_id (the step whose period holds the start)."""
    timeline = host_timeline(trace)
    what = timeline.names.labels(COMPILING)
    inside = intervals.nearest(what.is_not_null().to_numpy(), timeline.column("parent")) >= 0
    steps = marks(trace).select("pid", "tid", "step_id", step_start="start_ns").sort("step_start")
    return (
        timeline.activities.with_columns(what=what)
        .filter(what.is_not_null() & ~pl.Series(inside))
        .join(timeline.threads, on="thread")
        .sort("start_ns")
        .join_asof(
            steps, left_on="start_ns", right_on="step_start", by=["pid", "tid"], strategy="backward",
            check_sortedness=False,
        )
        .filter(pl.col("step_id").is_not_null())
        .select(
            "what", "name", "pid", "tid", "start_ns", "end_ns", "step_id", dur_ns=pl.col("end_ns") - pl.col("start_ns")
        )
    )  # fmt: skip


@memoised
def loadings(trace: Trace) -> pl.DataFrame:
    """Overhead rows of code loading: start_ns, dur_ns, kind."""
    return trace.loaded["overheads"].filter(pl.col("kind").str.contains(LOADING)).select("start_ns", "dur_ns", "kind")

"""All GPU work in one table, and the loaded GPU tables with their launch and step."""

from __future__ import annotations

import polars as pl

from traceql import schema
from traceql.derived import memoised
from traceql.derived.launches import launched_by, launches
from traceql.kernel_names import described
from traceql.trace import Trace


@memoised
def _with_step(trace: Trace) -> pl.DataFrame:
    """GPU rows with launch and step.

    The step is the one whose host range holds the start of the launch call; where a trace has no launch calls at all,
    the one whose GPU range holds the row.
    """
    from traceql.derived.steps import step_of_gpu_time

    rows = launched_by(trace)
    if rows["launch_id"].null_count() == rows.height:
        return step_of_gpu_time(trace, rows)
    steps = launches(trace).select("launch_id", "step_id")
    return rows.join(steps, on="launch_id", how="left", maintain_order="left")


@memoised
def gpu_ops(trace: Trace) -> pl.DataFrame:
    """The contract's ``gpu_ops``, in order of start (then end), with ``end_ns``."""
    kernel_names = _kernels_described(trace).select(source_id="kernel_id", kernel="short_name")
    copies = trace.loaded["memcpys"].select(source_id="memcpy_id", direction="kind")
    rows = _with_step(trace)
    is_kernel, is_copy = pl.col("kind") == "kernel", pl.col("kind") == "memcpy"
    return (
        rows.join(kernel_names, on="source_id", how="left", maintain_order="left")
        .join(copies, on="source_id", how="left", maintain_order="left")
        .with_columns(
            name=pl.when(is_kernel)
            .then("kernel")
            .when(is_copy)
            .then(pl.concat_str(pl.lit("memcpy"), "direction", separator=" ", ignore_nulls=True))
            .when(pl.col("kind") == "graph")
            .then(pl.lit("graph replay"))
            .otherwise("kind")
        )
        .drop("kernel", "direction")
        .with_columns(gpu_op_id=pl.int_range(pl.len(), dtype=pl.Int64))
    )


@memoised
def _kernels_described(trace: Trace) -> pl.DataFrame:
    return described(trace.loaded["kernels"])


def _joined(trace: Trace, table: str, kind: str, frame: pl.DataFrame) -> pl.DataFrame:
    identity = schema.TABLES[table].columns[0].name
    links = (
        _with_step(trace)
        .filter(pl.col("kind") == kind)
        .select(pl.col("source_id").alias(identity), "launch_id", "step_id")
    )
    return frame.drop("launch_id", "step_id").join(links, on=identity, how="left", maintain_order="left")


def kernels(trace: Trace) -> pl.DataFrame:
    """Kernels with short name, category, launch and step."""
    return _joined(trace, "kernels", "kernel", _kernels_described(trace))


def memcpys(trace: Trace) -> pl.DataFrame:
    """Copies with launch and step."""
    return _joined(trace, "memcpys", "memcpy", trace.loaded["memcpys"])


def memsets(trace: Trace) -> pl.DataFrame:
    """Fills with launch and step."""
    return _joined(trace, "memsets", "memset", trace.loaded["memsets"])


def graph_traces(trace: Trace) -> pl.DataFrame:
    """Whole-replay records with launch and step."""
    return _joined(trace, "graph_traces", "graph", trace.loaded["graph_traces"])

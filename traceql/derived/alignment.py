"""A replay aligned with an eager run of the same model: op, shapes, module and frame for each replayed kernel.

CUDA graph replays carry no operators. The eager run of the same model and batch launches the same kernels in the same
order, but for a few that the graph's backend adds or swaps. An order-keeping alignment of the two sequences gives each
replayed kernel its eager twin; a kernel without the same name on the other side stays without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql import schema
from traceql.derived import memoised
from traceql.derived.gemms import SHAPE_COLUMNS, gemm_gpu_rows, gemm_ops
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host import host_timeline
from traceql.derived.layers import layer_kernels
from traceql.derived.ops import cpu_ops, op_gpu_rows
from traceql.derived.sequence_kernels import align
from traceql.derived.steps import marks, steps
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST = 6000
"""Kernels a step may have to be aligned: the table of the alignment has their product of entries."""

_SHAPE = ["grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"]
_FRAMEWORK = r"^(?:<|torch/|contextlib|functools|nn\.Module)"
"""Frames of the framework itself: they say nothing of the model."""


@memoised
def aligned_kernels(trace: Trace) -> pl.DataFrame:
    """The contract's ``aligned_kernels``: kernels of steps with a replay, with their eager twins where there are any."""
    if trace.eager is None:
        return schema.TABLES["aligned_kernels"].empty()
    twin = _twin_step(trace.eager)
    replayed = _step_kernels(trace).filter(pl.col("step_id").is_in(_replayed_steps(trace).implode()))
    known: dict[bytes, NDArray[np.int64]] = {}
    parts = []
    for (_,), step in replayed.group_by("step_id", maintain_order=True):
        if max(step.height, twin.height) > _LONGEST:
            continue
        codes = _codes(step, twin)
        key = codes[0].tobytes() + codes[1].tobytes()
        pair = known.setdefault(key, _paired(*codes)) if key not in known else known[key]
        parts.append(step.with_columns(twin_row=pl.Series(pair, dtype=pl.Int64)))
    if not parts:
        return schema.TABLES["aligned_kernels"].empty()
    numbered = twin.with_row_index("twin_row").with_columns(pl.col("twin_row").cast(pl.Int64))
    eager = numbered.select(
        "twin_row", *(pl.col(c).alias(f"eager_{c}") for c in ("kernel_id", "op_id", "dur_ns", *_SHAPE)),
        "op", "input_shapes", "input_dtypes", "module", "frame", "nvtx",
    )  # fmt: skip
    same_shape = pl.all_horizontal(pl.col(c).eq_missing(pl.col(f"eager_{c}")) for c in _SHAPE)
    return (
        pl.concat(parts)
        .join(eager, on="twin_row", how="left", maintain_order="left")
        .with_columns(
            rank=pl.lit(trace.rank, pl.Int64),
            match=pl.when(pl.col("eager_kernel_id").is_null())
            .then(None)
            .when(same_shape)
            .then(pl.lit("shape"))
            .otherwise(pl.lit("name")),
        )
    )


def _replayed_steps(trace: Trace) -> pl.Series:
    return gpu_ops(trace).filter(pl.col("launch_kind") == "graph")["step_id"].drop_nulls().unique()


@memoised
def _step_kernels(trace: Trace) -> pl.DataFrame:
    """Kernels of the steps in order of start, with name and launch shape."""
    loaded = trace.loaded["kernels"].select("kernel_id", "name", *_SHAPE)
    return (
        gpu_ops(trace)
        .filter((pl.col("kind") == "kernel") & pl.col("step_id").is_not_null())
        .select("step_id", "start_ns", "dur_ns", kernel_id="source_id")
        .join(loaded, on="kernel_id", how="left", maintain_order="left")
        .sort("step_id", "start_ns", "kernel_id")
    )


@memoised
def _twin_step(eager: Trace) -> pl.DataFrame:
    """The eager step that stands for all: its kernels with operator, module, frame and the median time over the steps.

    The step is the last of those with the most common number of kernels: the first may still warm up.
    """
    kernels = _step_kernels(eager)
    heights = kernels.group_by("step_id").len().sort("step_id")
    usual = heights.filter(pl.col("len") == heights["len"].mode().max())["step_id"]
    alike = kernels.filter(pl.col("step_id").is_in(usual.implode())).with_columns(
        position=pl.int_range(pl.len(), dtype=pl.Int64).over("step_id")
    )
    median = alike.group_by("position").agg(pl.col("dur_ns").median().round().cast(pl.Int64))
    owner = op_gpu_rows(eager).filter(pl.col("kind") == "kernel").select("op_id", "launch_id", kernel_id="source_id")
    ops = cpu_ops(eager).select("op_id", "input_shapes", "input_dtypes", op="name")
    return (
        alike.filter(pl.col("step_id") == usual.max())
        .drop("dur_ns")
        .join(median, on="position", how="left", maintain_order="left")
        .join(owner, on="kernel_id", how="left", maintain_order="left")
        .join(ops, on="op_id", how="left", maintain_order="left")
        .join(_launch_context(eager), on="launch_id", how="left", maintain_order="left")
    )


@memoised
def _launch_context(trace: Trace) -> pl.DataFrame:
    """launch_id → innermost module, model frame and named range open when the call started."""
    from traceql.derived.launches import launches

    timeline = host_timeline(trace)
    calls = (
        launches(trace)
        .select("launch_id", "start_ns", "pid", "tid")
        .join(timeline.threads, on=["pid", "tid"], nulls_equal=True)
    )
    at = timeline.activity_at(calls, "start_ns")
    step_names = marks(trace)["name"].unique().drop_nulls()
    kind, name = pl.col("kind"), pl.col("name")
    what = {
        "module": (kind == "python") & name.str.starts_with("nn.Module: "),
        "frame": (kind == "python") & ~name.str.contains(_FRAMEWORK),
        "nvtx": (kind == "range") & ~name.is_in(step_names.implode()),
    }
    found = calls.select("launch_id")
    for column, wanted in what.items():
        chosen = timeline.activities.select(wanted.fill_null(False)).to_series().to_numpy()
        row = _nearest_around(at, timeline.column("parent"), chosen)
        names = timeline.activities["name"].gather(pl.Series(row, dtype=pl.Int64).set(pl.Series(row < 0), None))
        found = found.with_columns(names.alias(column))
    return found.with_columns(pl.col("module").str.strip_prefix("nn.Module: "))


def _nearest_around(at: NDArray[np.int64], parent: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each activity: itself or the nearest one around it that is chosen; −1 when none is."""
    row = at.copy()
    padded = np.append(chosen, True)  # −1 indexes the last entry: stop there
    while (moving := ~padded[row]).any():
        row[moving] = parent[row[moving]]
    return row


def _codes(step: pl.DataFrame, twin: pl.DataFrame) -> tuple[NDArray[np.int64], ...]:
    """Names and launch shapes of both sequences as numbers that are equal where the texts are."""
    both = pl.concat([step.select("name", *_SHAPE), twin.select("name", *_SHAPE)]).select(
        pl.col("name").rank("dense").cast(pl.Int64), shape=pl.struct(*_SHAPE).rank("dense").cast(pl.Int64)
    )
    name, shape = both["name"].to_numpy(), both["shape"].to_numpy()
    return name[: step.height], shape[: step.height], name[step.height :], shape[step.height :]


def _paired(*codes: NDArray[np.int64]) -> NDArray[np.int64]:
    rows, columns = len(codes[0]), len(codes[2])
    pair = np.full(rows, -1, np.int64)
    align(*codes, np.zeros((rows + 1, columns + 1), np.int32), np.zeros((rows + 1, columns + 1), np.int8), pair)
    return pair


@memoised
def aligned_gemms(trace: Trace) -> pl.DataFrame:
    """GEMMs of replayed kernels whose eager twins belong to a GEMM operator with shapes.

    A replayed product counts only when every kernel of its operator found its twin in the same step.
    """
    if trace.eager is None:
        return pl.DataFrame()
    owner = (
        gemm_gpu_rows(trace.eager)
        .filter(pl.col("kind") == "kernel")
        .select("gemm_op_id", eager_kernel_id="source_id")
        .with_columns(wanted=pl.len().over("gemm_op_id").cast(pl.Int64))
    )
    shapes = gemm_ops(trace.eager).select(*SHAPE_COLUMNS, gemm_op_id="op_id", op="name")
    layer = layer_kernels(trace).select("kernel_id", "layer", "device")
    loaded = trace.loaded["kernels"].select(
        "kernel_id", "start_ns", blocks=pl.col("grid_x") * pl.col("grid_y") * pl.col("grid_z")
    )
    short = trace.table("kernels").select("kernel_id", kernel="short_name", gpu="device", launch="launch_id")
    graph = gpu_ops(trace).filter((pl.col("kind") == "kernel") & (pl.col("launch_kind") == "graph"))
    rows = (
        aligned_kernels(trace)
        .drop("start_ns", strict=False)
        .filter(pl.col("kernel_id").is_in(graph["source_id"].implode()))
        .join(owner, on="eager_kernel_id", how="inner", maintain_order="left")
        .join(loaded, on="kernel_id", how="left", maintain_order="left")
        .join(short, on="kernel_id", how="left", maintain_order="left")
        .join(layer.drop("device"), on="kernel_id", how="left", maintain_order="left")
    )
    return (
        rows.group_by("step_id", "gemm_op_id", maintain_order=True)
        .agg(
            pl.col("rank").first(),
            pl.col("gpu").first().alias("device"),
            pl.col("layer").drop_nulls().first(),
            pl.col("start_ns").min(),
            pl.col("dur_ns").sum(),
            pl.col("kernel_id").sort_by("dur_ns").last(),
            kernel_name=pl.col("kernel").sort_by("dur_ns").last(),
            blocks=pl.col("blocks").sort_by("dur_ns").last(),
            kernels=pl.len().cast(pl.Int64),
            wanted=pl.col("wanted").first(),
        )
        .filter(pl.col("kernels") == pl.col("wanted"))
        .join(shapes, on="gemm_op_id", how="left", maintain_order="left")
        .with_columns(source=pl.lit("alignment"))
        .drop("gemm_op_id", "wanted")
    )


def comparable(trace: Trace, eager: Trace) -> str | None:
    """Why the two runs cannot be aligned (different batch sizes, no steps); None when they can."""
    if steps(trace).is_empty() or steps(eager).is_empty():
        which = "replayed" if steps(trace).is_empty() else "eager"
        return f"no steps found in the {which} trace"
    if _replayed_steps(trace).is_empty():
        return "no step of the first trace replays a CUDA graph with its kernels recorded"
    replayed = steps(trace).filter(pl.col("step_id").is_in(_replayed_steps(trace).implode()))
    ours, theirs = (set(s["batch_size"].drop_nulls()) for s in (replayed, steps(eager)))
    if ours and theirs and not ours & theirs:
        return f"batch sizes differ: {_list(ours)} replayed, {_list(theirs)} eager"
    kinds, eager_kinds = (set(s["kind"].drop_nulls()) for s in (replayed, steps(eager)))
    if kinds and eager_kinds and not kinds & eager_kinds:
        return f"kinds of step differ: {_list(kinds)} replayed, {_list(eager_kinds)} eager"
    return None


def _list(values: set[int] | set[str]) -> str:
    return ", ".join(str(v) for v in sorted(values, key=str))

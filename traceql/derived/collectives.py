"""Communication kernels, with what the trace tells of the collective each one is."""

from __future__ import annotations

import polars as pl

from traceql.derived import collective_names as names
from traceql.derived import intervals, memoised, recorded_inputs
from traceql.derived.launches import launches
from traceql.dtypes import element_size_bytes
from traceql.trace import Trace

_FACTS = pl.Schema(
    {
        "kernel_id": pl.Int64(), "op": pl.String(), "bytes": pl.Int64(), "dtype": pl.String(), "group": pl.String(),
        "world_size": pl.Int64(), "group_ranks": pl.String(), "source": pl.String(),
    }
)  # fmt: skip
_KNOWN = [name for name in _FACTS if name != "kernel_id"]
_PER_RANK = ("all_gather", "reduce_scatter", "all_to_all")
"""Operations whose size NCCL-tests counts over the whole group."""


@memoised
def collectives(trace: Trace) -> pl.DataFrame:
    """The contract's ``collectives``: kernels of category communication, in order of start.

    Sizes and groups come from what the framework wrote on the kernel, else on the operator that launched it, else from
    NCCL's NVTX range, else from the operator's input shapes, else from the twin in an eager run, else the name.
    """
    kernels = trace.table("kernels").filter(pl.col("category") == "communication")
    if kernels.is_empty():
        return kernels
    found = kernels.select("kernel_id")
    for facts in (_on_kernels, _on_ops, _in_nvtx, _in_shapes, _of_twins):
        found = found.join(facts(trace, kernels), on="kernel_id", how="left", maintain_order="left", suffix="_next")
        if "op_next" in found.columns:
            found = _filled(found)
    on_amd = bool(trace.loaded["runtime_calls"]["name"].str.starts_with("hip").any())
    name = pl.col("name")
    joined = kernels.join(found, on="kernel_id", how="left", maintain_order="left").with_columns(
        collective_id=pl.int_range(pl.len(), dtype=pl.Int64),
        # the name tells what ran; only NCCL's SendRecv kernel also carries all-to-alls, which the framework knows
        op=pl.when(names.op(name) == "send_recv")
        .then(pl.coalesce("op", names.op(name)))
        .otherwise(pl.coalesce(names.op(name), "op")),
        library=names.library(name, on_amd=on_amd),
        algorithm=names.algorithm(name),
        protocol=names.protocol(name),
        dtype=pl.coalesce(pl.col("dtype").str.to_lowercase(), names.dtype(name)),
        world_size=pl.coalesce("world_size", names.world_size(name)),
        source=pl.coalesce("source", pl.lit("name")),
    )
    rate = pl.when(pl.col("dur_ns") > 0).then(pl.col("bytes") / pl.col("dur_ns"))
    return joined.with_columns(algorithm_gb_per_s=rate, bus_gb_per_s=rate * names.bus_factor("op", "world_size"))


def _filled(found: pl.DataFrame) -> pl.DataFrame:
    """What was known keeps its value, what was not takes the next source's; ``source`` names who gave the size."""
    takes = pl.col("bytes").is_null() & pl.col("bytes_next").is_not_null()
    source = pl.when(takes).then("source_next").otherwise(pl.coalesce("source", "source_next"))
    values = [pl.coalesce(c, f"{c}_next").alias(c) for c in _KNOWN if c != "source"]
    return found.select("kernel_id", *values, source.alias("source"))


def _on_kernels(trace: Trace, kernels: pl.DataFrame) -> pl.DataFrame:
    calls = trace.loaded["collective_calls"].filter(pl.col("side") == "kernel")
    keyed = _stated(calls).unique(["start_ns", "correlation_id"], keep="first", maintain_order=True)
    keys = ["start_ns", "correlation_id"]
    return _facts(kernels.select("kernel_id", *keys).join(keyed, on=keys, nulls_equal=True), "kernel")


def _on_ops(trace: Trace, kernels: pl.DataFrame) -> pl.DataFrame:
    return _around_launch(trace, kernels, "op")


def _in_nvtx(trace: Trace, kernels: pl.DataFrame) -> pl.DataFrame:
    return _around_launch(trace, kernels, "nvtx")


def _around_launch(trace: Trace, kernels: pl.DataFrame, side: str) -> pl.DataFrame:
    """Facts of the innermost stated call whose range holds the launch of an eager kernel, on its thread."""
    calls = trace.loaded["collective_calls"].filter(pl.col("side") == side)
    if calls.is_empty():
        return pl.DataFrame(schema=_FACTS)
    ranges = calls.with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns")).sort("start_ns")
    ranges = ranges.with_columns(  # of nested ranges the inner one starts later: it cuts the outer one short
        end_ns=pl.min_horizontal("end_ns", pl.col("start_ns").shift(-1).over("pid", "tid", order_by="start_ns"))
    )
    launched = launches(trace).filter(pl.col("kind") == "kernel").select("launch_id", "start_ns", "pid", "tid")
    points = kernels.select("kernel_id", "launch_id").join(launched, on="launch_id")
    inside = intervals.holding(points, "start_ns", ranges, "collective_call_id", ["pid", "tid"])
    held = inside.select("kernel_id", "collective_call_id").drop_nulls()
    return _facts(held.join(_stated(calls), on="collective_call_id"), side)


def _stated(calls: pl.DataFrame) -> pl.DataFrame:
    """``collective_calls`` with ``op`` and ``bytes`` as ``collectives`` counts them."""
    sizes = {name: element_size_bytes(name) for name in calls["dtype"].drop_nulls().unique()}
    element = pl.col("dtype").replace_strict(sizes, default=None, return_dtype=pl.Float64)
    ranks = pl.col("world_size").cast(pl.Float64)  # a product that fits no Int64 becomes null
    one = pl.coalesce("in_elements", "out_elements")
    gathered = pl.coalesce("out_elements", pl.col("in_elements") * ranks)
    scattered = pl.coalesce("in_elements", pl.col("out_elements") * ranks)
    elements = (
        pl.when(pl.col("op") == "all_gather")
        .then(gathered)
        .when(pl.col("op") == "reduce_scatter")
        .then(scattered)
        .otherwise(one)
    )
    whole = pl.when(pl.col("op").is_in(_PER_RANK)).then(pl.col("bytes") * ranks).otherwise("bytes")
    return calls.with_columns(op=names.op(pl.col("name"))).with_columns(
        bytes=pl.coalesce(whole.cast(pl.Int64, strict=False), (elements * element).cast(pl.Int64, strict=False))
    )


def _in_shapes(trace: Trace, kernels: pl.DataFrame) -> pl.DataFrame:
    """Size from the first input of a communication operator that says nothing else (custom all-reduce)."""
    from traceql.derived.ops import launch_ops

    if trace.loaded["cpu_ops"].is_empty():
        return pl.DataFrame(schema=_FACTS)
    ops = trace.loaded["cpu_ops"].with_columns(op=names.op(pl.col("name"))).filter(pl.col("op").is_not_null())
    inputs = ops.select("input_shapes", "input_dtypes").unique()
    sizes = [_first_input(shapes, dtypes) for shapes, dtypes in inputs.rows()]
    sized = inputs.with_columns(
        bytes=pl.Series([size for size, _ in sizes], dtype=pl.Int64),
        dtype=pl.Series([dtype for _, dtype in sizes], dtype=pl.String),
    )
    launched = kernels.select("kernel_id", "launch_id").join(launch_ops(trace), on="launch_id")
    of_ops = launched.join(ops, on="op_id").join(sized, on=["input_shapes", "input_dtypes"], nulls_equal=True)
    by_rank = pl.col("op").is_in(("all_reduce", "broadcast", "reduce"))
    return _facts(of_ops.filter(by_rank & pl.col("bytes").is_not_null()), "shapes")


def _first_input(shapes: str | None, dtypes: str | None) -> tuple[int | None, str | None]:
    """Bytes and type of the first tensor in an operator's inputs as recorded; (None, None) without one."""
    try:
        for shape, dtype in zip(
            recorded_inputs.extents(shapes) or [], recorded_inputs.types(dtypes) or [], strict=False
        ):
            size = element_size_bytes(dtype) if isinstance(dtype, str) and dtype else None
            if size and shape:
                return round(recorded_inputs.elements(shape) * size), dtype
    except (ValueError, TypeError):
        pass
    return None, None


def _of_twins(trace: Trace, kernels: pl.DataFrame) -> pl.DataFrame:
    """What an aligned eager run knows of the same kernel in a replay."""
    if trace.eager is None:
        return pl.DataFrame(schema=_FACTS)
    twins = trace.table("aligned_kernels").select("kernel_id", "eager_kernel_id").drop_nulls()
    known = collectives(trace.eager)
    if known.is_empty():
        return pl.DataFrame(schema=_FACTS)
    facts = known.select(*_KNOWN, eager_kernel_id="kernel_id")
    return _facts(kernels.select("kernel_id").join(twins, on="kernel_id").join(facts, on="eager_kernel_id"), "eager")


def _facts(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    stated = frame.with_columns(source=pl.lit(source)).select(
        pl.col(name).cast(dtype) if name in frame.columns or name == "source" else pl.lit(None, dtype).alias(name)
        for name, dtype in _FACTS.items()
    )
    return stated.unique("kernel_id", keep="first", maintain_order=True)

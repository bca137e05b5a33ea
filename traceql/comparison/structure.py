"""Layers and graph segments of two steps side by side, put together by what their kernels are to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.graphs import graph_boundaries, graph_segments
from traceql.derived.layers import layers
from traceql.derived.period_parts import main_device
from traceql.derived.roles import kernel_roles
from traceql.trace import Trace


@dataclass(frozen=True)
class Row:
    """One thing on both sides: how many there are, and ns of one of them (the median); None where a side has none."""

    name: str
    base_count: int
    head_count: int
    base_ns: int | None
    head_ns: int | None

    @property
    def delta_ns(self) -> int | None:
        """Difference of one of them; None where only one side has it."""
        return None if self.base_ns is None or self.head_ns is None else self.head_ns - self.base_ns


@dataclass(frozen=True)
class LayerPair:
    """The n-th layer on both sides, wall time and GPU busy time in ns; None where a side has fewer layers."""

    layer: int
    base_ns: int | None
    head_ns: int | None
    base_busy_ns: int | None
    head_busy_ns: int | None


Sides = tuple[tuple[Trace, int], tuple[Trace, int]]
"""(trace, step_id) of base and head."""


def block(sides: Sides) -> tuple[Row, ...]:
    """One layer by role: kernels of the role in a layer, and their time summed, the median over the layers.

    In the order of the block; empty where a side has no layers.
    """
    found = [_roles_of_layers(*side) for side in sides]
    if any(rows.is_empty() for rows in found):
        return ()
    return _paired(found, "role")


def layer_pairs(sides: Sides) -> tuple[LayerPair, ...]:
    """The layers of both steps by number; empty where a side has none."""
    found = [_own(layers(trace), trace, step_id).select("layer", "dur_ns", "gpu_busy_ns") for trace, step_id in sides]
    if any(rows.is_empty() for rows in found):
        return ()
    joined = found[0].join(found[1], on="layer", how="full", coalesce=True, suffix="_head").sort("layer")
    rows = joined.select("layer", "dur_ns", "dur_ns_head", "gpu_busy_ns", "gpu_busy_ns_head").rows()
    return tuple(LayerPair(*row) for row in rows)


def segments(sides: Sides) -> tuple[Row, ...]:
    """Graph segments by the roles they begin and end with; ns from a segment's first start to its last end."""
    return _paired([_segments(*side) for side in sides], "name")


def boundaries(sides: Sides) -> tuple[Row, ...]:
    """What lies between two segments by the roles around it; ns the GPU is idle there."""
    return _paired([_boundaries(*side) for side in sides], "name")


def _own(rows: pl.DataFrame, trace: Trace, step_id: int) -> pl.DataFrame:
    """Rows of the step on the device with most of its work."""
    device = pl.lit(main_device(trace, step_id), pl.Int64)
    return rows.filter((pl.col("step_id") == step_id) & (pl.col("device") == device))


def _roles_of_layers(trace: Trace, step_id: int) -> pl.DataFrame:
    """role, count (kernels a layer), ns (a layer), place (in the block)."""
    times = gpu_ops(trace).filter(pl.col("kind") == "kernel").select("dur_ns", kernel_id="source_id")
    rows = _own(kernel_roles(trace), trace, step_id).join(times, on="kernel_id", how="left")
    return (
        rows.with_columns(pl.col("role").fill_null("other"))
        .group_by("role", "layer")
        .agg(pl.len().alias("count"), pl.col("dur_ns").sum(), place=pl.col("position").min())
        .group_by("role")
        .agg(
            pl.col("count").median().round().cast(pl.Int64),
            ns=pl.col("dur_ns").median().round().cast(pl.Int64),
            place=pl.col("place").min(),
        )
        .sort("place", "role")
    )


def _segments(trace: Trace, step_id: int) -> pl.DataFrame:
    rows = _own(graph_segments(trace), trace, step_id)
    ends = _ends(trace)
    return (
        rows.join(ends, on="launch_id", how="left", maintain_order="left")
        .with_columns(name=_between("first", "first_kernel", "last", "last_kernel"))
        .group_by("name", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("count"), ns=pl.col("dur_ns").median().round().cast(pl.Int64))
    )


def _boundaries(trace: Trace, step_id: int) -> pl.DataFrame:
    rows = _own(graph_boundaries(trace), trace, step_id)
    ends = _ends(trace)
    return (
        rows.join(ends.select(before_launch_id="launch_id", left="last"), on="before_launch_id", how="left", maintain_order="left")
        .join(ends.select(after_launch_id="launch_id", right="first"), on="after_launch_id", how="left", maintain_order="left")
        .with_columns(name=_between("left", "before", "right", "after"))
        .group_by("name", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("count"), ns=pl.col("idle_ns").median().round().cast(pl.Int64))
    )  # fmt: skip


def _ends(trace: Trace) -> pl.DataFrame:
    """launch_id, first, last: roles (else categories) of the kernels a launch begins and ends with."""
    known = trace.table("kernels").select("launch_id", "start_ns", "kernel_id", "category")
    role = pl.coalesce("role", "category")
    return (
        known.filter(pl.col("launch_id").is_not_null())
        .join(kernel_roles(trace).select("kernel_id", "role"), on="kernel_id", how="left")
        .sort("start_ns", "kernel_id")
        .group_by("launch_id")
        .agg(first=role.first(), last=role.last())
    )


def _between(left: str, left_name: str, right: str, right_name: str) -> pl.Expr:
    """``norm … kv_store``; kernel names where no role is known."""
    return pl.format("{} … {}", pl.coalesce(left, left_name, pl.lit("–")), pl.coalesce(right, right_name, pl.lit("–")))


def _paired(sides: Sequence[pl.DataFrame], key: str) -> tuple[Row, ...]:
    """Rows of both sides by ``key``, in the order of the base, then what only the head has."""
    base, head = (side.select(key, "count", "ns") for side in sides)
    joined = base.with_row_index("place").join(
        head.with_row_index("place"), on=key, how="full", coalesce=True, suffix="_head", nulls_equal=True
    )
    rows = joined.sort("place", "place_head", nulls_last=True).select(
        key, pl.col("count").fill_null(0), pl.col("count_head").fill_null(0), "ns", "ns_head"
    )
    return tuple(Row(*row) for row in rows.rows())

"""What each kernel of a layer is to the model: qkv, rope, attention, o_proj, gate_up, down …"""

from __future__ import annotations

import polars as pl

from traceql.derived import memoised
from traceql.derived.gpu_ops import kernels
from traceql.derived.layers import layer_kernels
from traceql.trace import Trace

_PASSED_OVER = {"copy", "elementwise", "quantize", "index", "communication", "reduce", "attention_plan", None}
"""Categories that may lie between two parts of a block without telling which parts they are."""

_ATTENTION_SIDE = {"rope", "kv_store", "attention"}


@memoised
def kernel_roles(trace: Trace) -> pl.DataFrame:
    """The contract's ``layer_kernels``: layer, position and role of every kernel that lies in a layer.

    A matrix product is named by its neighbours in the block, which repeats: before rotary embedding or attention it is
    qkv, after attention o_proj, before the activation gate_up, after it down. Any other kernel keeps its category.
    """
    placed = layer_kernels(trace).join(
        kernels(trace).select("kernel_id", "category", "short_name"), on="kernel_id", how="left", maintain_order="left"
    )
    templates: dict[tuple[str | None, ...], list[str | None]] = {}
    parts = []
    for (_, _), step in placed.group_by("step_id", "device", maintain_order=True):
        first = step.filter(pl.col("layer") == 0).sort("position")
        key = tuple(first["category"]) + tuple(first["short_name"])
        roles = templates.setdefault(key, block_roles(list(first["category"]), list(first["short_name"])))
        named = pl.DataFrame(
            {"position": first["position"], "role": roles}, schema={"position": pl.Int64, "role": pl.String}
        )
        parts.append(step.join(named, on="position", how="left", maintain_order="left"))
    empty = placed.with_columns(role=pl.lit(None, pl.String))
    return (pl.concat(parts) if parts else empty).with_columns(rank=pl.lit(trace.rank, pl.Int64))


def block_roles(categories: list[str | None], names: list[str]) -> list[str | None]:
    """Roles of one block's kernels, given their categories and short names in order; the block repeats."""
    size = len(categories)
    roles: list[str | None] = list(categories)
    for at, category in enumerate(categories):
        if category == "gemm" and not _is_reduction(names[at]):
            roles[at] = _product_role(categories, names, at) or "gemm"
    for at, name in enumerate(names):
        if _is_reduction(name):
            before = next(
                (roles[(at - back) % size] for back in range(1, size) if not _is_reduction(names[at - back])), None
            )
            roles[at] = before
    return roles


def _is_reduction(name: str) -> bool:
    """Split-K reductions finish the product before them."""
    return "splitkreduce" in name.lower() or "splitk_reduce" in name.lower()


def _product_role(categories: list[str | None], names: list[str], at: int) -> str | None:
    after, then = _neighbours(categories, names, at, +1)
    before, _ = _neighbours(categories, names, at, -1)
    if after in _ATTENTION_SIDE or (after == "norm" and then in _ATTENTION_SIDE and before == "norm"):
        return "qkv"
    if before == "attention":
        return "o_proj"
    if after == "activation":
        return "gate_up"
    if before == "activation":
        return "down"
    return None


def _neighbours(categories: list[str | None], names: list[str], at: int, step: int) -> tuple[str | None, str | None]:
    """The next two telling categories from ``at`` in one direction, around the block's ends."""
    size = len(categories)
    telling = [
        categories[(at + step * i) % size]
        for i in range(1, size)
        if categories[(at + step * i) % size] not in _PASSED_OVER and not _is_reduction(names[(at + step * i) % size])
    ]
    nearest, following, *_ = [*telling, None, None]
    return nearest, following

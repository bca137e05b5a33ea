"""Bytes that operators other than matrix products move, by the shapes of their inputs (``op_traffic.toml``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from math import prod
from typing import Any, Literal

import msgspec
import polars as pl

from traceql.derived import recorded_inputs
from traceql.dtypes import element_size_bytes

FORM = pl.Struct({"dtype": pl.String, "flops": pl.Int64, "bytes": pl.Int64})
INPUTS = ["name", "input_shapes", "input_dtypes", "input_strides"]
"""What an operator's recorded call is told by."""


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[op]]``; the file's head says what the letters mean."""

    names: tuple[str, ...]
    access: str
    result: Literal["like", "first", "bool"] | None = None
    flops: Literal["attention"] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    op: list[_Rule]


class _Tensor(msgspec.Struct, frozen=True):
    dims: tuple[int, ...]
    element_bytes: float
    elements: int
    """Distinct ones: expanded dimensions count once."""

    @property
    def bytes(self) -> float:
        return self.elements * self.element_bytes


def with_traffic(calls: pl.DataFrame) -> pl.DataFrame:
    """The rows of ``calls`` (INPUTS) whose traffic is known, with dtype, flops (null: not counted) and bytes."""
    counted = [name for name in calls["name"].unique() if _rule(name) is not None]
    calls = calls.filter(pl.col("name").is_in(counted))
    forms = calls.select(INPUTS).unique()
    found = pl.Series("form", [traffic(*row) for row in forms.rows()], dtype=FORM)
    known = forms.with_columns(found).filter(pl.col("form").is_not_null())
    return calls.join(known, on=INPUTS, how="inner", nulls_equal=True, maintain_order="left").unnest("form")


def traffic(
    name: str | None, shapes: str | None, dtypes: str | None, strides: str | None = None
) -> dict[str, Any] | None:
    """What a call with these recorded inputs moves: the fields of FORM; None when they do not say."""
    rule = _rule(name)
    if rule is None or not shapes or not dtypes:
        return None
    try:
        types = recorded_inputs.types(dtypes)
        tensors = _tensors(rule, recorded_inputs.extents(shapes), types, recorded_inputs.extents(strides or "[]"))
        first = next(i for i, letter in enumerate(rule.access) if letter != "-" and i in tensors)
        flops, moved = _flops(rule, tensors), round(_moved(rule, tensors))
        if max(flops or 0, moved) >= recorded_inputs.MOST_COUNT:
            return None
        return {"dtype": str(types[first]).removeprefix("c10::"), "flops": flops, "bytes": moved}
    except (ValueError, TypeError, IndexError, KeyError, StopIteration, OverflowError):
        return None


def _rule(name: str | None) -> _Rule | None:
    """How the operator's traffic is counted, None where it is not."""
    return _rules().get(name if name.startswith("aten::") else name.rpartition("::")[2]) if name else None


def _tensors(rule: _Rule, shapes: Any, dtypes: Any, strides: Any) -> dict[int, _Tensor]:
    """Input position → tensor, for the inputs the rule counts; scalars are left out, ValueError for an unknown type."""
    found = {}
    for index, letter in enumerate(rule.access[: len(shapes)]):
        dims, kind = shapes[index], str(dtypes[index])
        if letter == "-" or kind in ("", "Scalar"):
            continue
        size = element_size_bytes(kind)
        if size is None or not all(isinstance(d, int) for d in dims):
            raise ValueError(f"element size of {kind!r} is unknown")
        steps: Sequence[int] = strides[index] if index < len(strides) and len(strides[index]) == len(dims) else dims
        distinct = prod(d for d, step in zip(dims, steps, strict=True) if step != 0 or d == 0)
        found[index] = _Tensor(tuple(dims), size, distinct)
    return found


def _moved(rule: _Rule, tensors: dict[int, _Tensor]) -> float:
    """Bytes over all inputs and the result; KeyError where a tensor the rule needs was not recorded."""
    by_letter = {letter: tensors[i] for i, letter in enumerate(rule.access) if i in tensors}
    total = 0.0
    for index, tensor in tensors.items():
        match rule.access[index]:
            case "b":
                total += 2 * tensor.bytes
            case "e":
                total += prod(by_letter["w"].dims) * tensor.element_bytes
            case "g":
                total += 2 * by_letter["i"].elements * prod(tensor.dims[1:]) * tensor.element_bytes
            case _:
                total += tensor.bytes
    written = {"w", "b"} & set(rule.access)
    if not tensors or (written and not written & set(by_letter)):
        raise KeyError("a tensor the operator writes was not recorded")
    return total + _result_bytes(rule, list(tensors.values()))


def _result_bytes(rule: _Rule, inputs: list[_Tensor]) -> float:
    if rule.result is None:
        return 0.0
    if rule.result == "first":
        return prod(inputs[0].dims) * inputs[0].element_bytes
    elements = prod(_broadcast([t.dims for t in inputs]))
    return elements * (1.0 if rule.result == "bool" else max(t.element_bytes for t in inputs))


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that shapes broadcast to; ValueError when they do not."""
    longest = max(len(shape) for shape in shapes)
    padded = [(1,) * (longest - len(shape)) + shape for shape in shapes]
    out = []
    for sizes in zip(*padded, strict=True):
        others = {size for size in sizes if size != 1}
        if len(others) > 1:
            raise ValueError("shapes do not broadcast")
        out.append(others.pop() if others else 1)
    return tuple(out)


def _flops(rule: _Rule, tensors: dict[int, _Tensor]) -> int | None:
    """Operations where the shapes alone tell: attention of one query a sequence (a causal mask hides no key then)."""
    if rule.flops is None or len(tensors[0].dims) != 4 or tensors[0].dims[2] != 1:
        return None
    batch, heads, _, head_dim = tensors[0].dims
    return 4 * batch * heads * tensors[1].dims[2] * head_dim


@cache
def _rules() -> dict[str, _Rule]:
    text = files("traceql").joinpath("op_traffic.toml").read_bytes()
    return {name: rule for rule in msgspec.toml.decode(text, type=_File).op for name in rule.names}

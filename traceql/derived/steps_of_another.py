"""Steps of a process that shows too few to tell, from another process of its file that runs the same kernels.

The ranks of a job run one sequence. Where a capture of one begins late, two repeats are left of it, and what a step is shows
in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import intervals
from traceql.derived.kernel_sequence import kernels_in_launch_order
from traceql.derived.step_marks import MARK_SCHEMA
from traceql.derived.step_structure import between, whole_steps
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

Example = tuple[Trace, int | None, pl.DataFrame]
"""A trace, a process of it (None: all it holds) and the step marks found there."""

_EVEN = 0.1
"""The kernels between two starts may be so much more or fewer than in a step of the example."""
_TRIED = 32
"""Kernels that come once a step, tried from the step's first on."""


def from_another(trace: Trace, pid: int | None, examples: Sequence[Example]) -> pl.DataFrame:
    """Steps of a process cut at a kernel that comes once in every step of an example; none where that does not repeat.

    The example with most steps is asked first. Kind, batch size and tokens are its steps' where those are all of one.
    """
    own = _named(trace, pid)
    for other, other_pid, marks in sorted(examples, key=lambda example: -example[2].height):
        for name, size in _once_a_step(_named(other, other_pid), marks):
            at = np.flatnonzero((own["name"] == name).fill_null(False).to_numpy())
            found = _cut(trace, pid, own, at, size, marks)
            if not found.is_empty():
                return found
    return pl.DataFrame(schema=MARK_SCHEMA)


def _named(trace: Trace, pid: int | None) -> pl.DataFrame:
    names = trace.loaded["kernels"].select("kernel_id", "name")
    return kernels_in_launch_order(trace, pid).join(names, on="kernel_id", how="left", maintain_order="left")


def _once_a_step(kernels: pl.DataFrame, marks: pl.DataFrame) -> Iterator[tuple[str, int]]:
    """(kernel, kernels in a step) for those that come once in every step but perhaps the first and the last, in order of
    their place in the step."""
    numbered = marks.with_columns(step_id=pl.int_range(pl.len(), dtype=pl.Int64))
    placed = intervals.holding(kernels, "call_ns", numbered, "step_id", [])
    inside = placed.drop_nulls("step_id").with_columns(place=pl.int_range(pl.len()).over("step_id"))
    if inside.is_empty():
        return
    size = int(inside.group_by("step_id").len()["len"].median() or 0)  # type: ignore[arg-type]
    whole = max(numbered.height - 2, 1)
    counts = inside.group_by("name", "step_id").agg(times=pl.len(), place=pl.col("place").min())
    once = (
        counts.group_by("name")
        .agg(pl.col("times").max(), steps=pl.len(), place=pl.col("place").median())
        .filter((pl.col("times") == 1) & (pl.col("steps") >= whole))
        .sort("place", "name")
    )
    for name in once["name"].drop_nulls().head(_TRIED):
        yield name, size


def _cut(
    trace: Trace, pid: int | None, kernels: pl.DataFrame, at: NDArray[np.int64], size: int, like: pl.DataFrame
) -> pl.DataFrame:
    """Step marks at the kernels in rows ``at``, if those lie as far apart as in a step."""
    none = pl.DataFrame(schema=MARK_SCHEMA)
    if len(at) < 2 or (np.abs(np.diff(at) - size) > max(2, _EVEN * size)).any():
        return none
    anchors = kernels[at]
    starts = anchors["call_ns"].to_numpy()
    if (np.diff(starts) <= 0).any():
        return none
    marks = between(trace, starts, starts, anchors["pid"][0], anchors["tid"][0], "kernel_sequence")
    # the last step has all its kernels, however much longer than the others it took to launch them
    last = kernels["call_ns"][min(int(at[-1]) + size, kernels.height) - 1] + 1
    marks = marks.with_columns(
        end_ns=pl.when(pl.int_range(pl.len()) == pl.len() - 1)
        .then(pl.max_horizontal("end_ns", last))
        .otherwise("end_ns")
    )
    same = [
        pl.lit(like[name][0] if like[name].n_unique() == 1 else None, MARK_SCHEMA[name]).alias(name)
        for name in ("kind", "batch_size", "tokens")
    ]
    return whole_steps(trace, pid, marks.with_columns(same))

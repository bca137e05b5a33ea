"""``tq.align``: name the kernels of a CUDA graph replay by an eager run of the same model and batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from traceql.errors import UsageError
from traceql.trace import Trace


@dataclass(frozen=True)
class Coverage:
    """How much of the replayed steps found an eager twin: counts and kernel time, exact.

    ``unmatched``: short kernel name → kernels without a twin, most time first.
    """

    kernels: int
    matched_kernels: int
    kernel_time_ns: int
    matched_time_ns: int
    unmatched: dict[str, int]

    @property
    def kernels_pct(self) -> float:
        return 100 * self.matched_kernels / self.kernels if self.kernels else 0.0

    @property
    def time_pct(self) -> float:
        return 100 * self.matched_time_ns / self.kernel_time_ns if self.kernel_time_ns else 0.0


@dataclass(frozen=True)
class Alignment:
    """The result of ``align``.

    Attributes:
        trace: the replayed trace, knowing its eager run: ``trace.gemms`` and ``trace.aligned_kernels`` are filled.
        coverage: what was and was not attributed.
    """

    trace: Trace
    coverage: Coverage

    @property
    def kernels(self) -> pl.DataFrame:
        """The table ``aligned_kernels``: one row a kernel of the replayed steps."""
        return self.trace.table("aligned_kernels")


def align(graph: Trace, eager: Trace) -> Alignment:
    """Give the kernels of ``graph``'s replayed steps the operator, shapes, module and frame of their eager twins.

    Both traces must hold steps of the same kind and batch size; UsageError says what differs. Kernels that the two
    runs do not share (another attention backend) stay without a twin: nothing is guessed.
    """
    from traceql.derived.alignment import comparable

    reason = comparable(graph, eager)
    if reason is not None:
        raise UsageError(f"{graph.path.name} cannot be aligned with {eager.path.name}: {reason}")
    aligned = replace(graph, eager=eager, _memo={})
    return Alignment(aligned, coverage(aligned))


def coverage(trace: Trace) -> Coverage:
    """Coverage of an aligned trace."""
    rows = trace.table("aligned_kernels").join(trace.table("kernels").select("kernel_id", "short_name"), on="kernel_id")
    matched = rows.filter(pl.col("eager_kernel_id").is_not_null())
    left = (
        rows.filter(pl.col("eager_kernel_id").is_null())
        .group_by("short_name")
        .agg(pl.len(), total=pl.col("dur_ns").sum())
        .sort("total", descending=True)
    )
    return Coverage(
        kernels=rows.height,
        matched_kernels=matched.height,
        kernel_time_ns=int(rows["dur_ns"].sum()),
        matched_time_ns=int(matched["dur_ns"].sum()),
        unmatched=dict(left.select("short_name", "len").rows()),
    )

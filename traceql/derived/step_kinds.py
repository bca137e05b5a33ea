"""The kinds of step in a trace, with the GPU time that shares of a kind refer to."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from traceql.derived import memoised
from traceql.derived.host_path import host_path
from traceql.derived.step_devices import step_devices
from traceql.derived.steps import steps
from traceql.trace import Trace


@dataclass(frozen=True)
class StepKind:
    """All steps of one kind (decode, prefill …; None where tokens are unknown).

    ``busy_ns`` is the GPU busy time of all devices they ran on; ``host_bound``: in most of them the host's work took longer than the GPU's.
    """

    name: str | None
    steps: int
    busy_ns: int
    host_bound: bool

    @property
    def label(self) -> str:
        return f"{self.name} step" if self.name else "step"

    def share_pct(self, ns: int) -> float:
        """``ns`` of the kind's GPU busy time; no more than all, where streams overlap and ``ns`` is a sum over rows."""
        return min(100 * ns / self.busy_ns, 100.0) if self.busy_ns else 0.0

    def us_per_step(self, ns: int) -> float:
        return ns / self.steps / 1000

    def rows(self, trace: Trace, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows of ``frame`` (step_id) that belong to these steps."""
        wanted = pl.col("kind").eq_missing(pl.lit(self.name, pl.String))
        return frame.join(steps(trace).filter(wanted).select("step_id"), on="step_id", how="semi")


@memoised
def step_kinds(trace: Trace) -> tuple[StepKind, ...]:
    """Kinds with GPU work on record, most GPU time first."""
    late = host_path(trace).select("step_id", late=pl.col("host_path_ns") > pl.col("gpu_busy_ns"))
    busy = step_devices(trace).group_by("step_id").agg(busy_ns=pl.col("gpu_busy_ns").sum())
    known = pl.col("gpu_busy_ns").is_not_null()
    found = (
        steps(trace)
        .join(late, on="step_id", how="left")
        .join(busy, on="step_id", how="left")
        .group_by(name="kind")
        .agg(
            steps=pl.len(),
            busy_ns=pl.col("busy_ns").filter(known).sum(),
            host_bound=pl.col("late").fill_null(False).mean() > 0.5,
        )
        .filter(pl.col("busy_ns") > 0)
        .sort("busy_ns", "name", descending=[True, False])
    )
    return tuple(StepKind(**row) for row in found.rows(named=True))

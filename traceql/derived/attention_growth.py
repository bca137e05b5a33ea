"""How attention's time in decode steps grows as each step adds a token to every sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from traceql.derived import memoised
from traceql.derived.kv_cache import kv_bytes_per_token
from traceql.derived.roofline import device_match
from traceql.derived.steps import steps
from traceql.trace import Trace


@memoised
def attention_steps(trace: Trace) -> pl.DataFrame:
    """Decode steps with attention kernels on the device that stands for them: step_id, batch_size, period_ns, gpu_busy_ns,
    start_ns, attention_ns, kernels (attention kernels), run (steps of one run follow each other with equal batch size
    and kernel count) and position (0-based in the run)."""
    attention = (
        trace.table("kernels")
        .filter(pl.col("category") == "attention")
        .join(steps(trace), on=["step_id", "device"], how="semi")
        .group_by("step_id")
        .agg(attention_ns=pl.col("dur_ns").sum(), kernels=pl.len().cast(pl.Int64))
    )
    unlike = pl.any_horizontal(
        pl.col(c).ne_missing(pl.col(c).shift(1)) for c in ("kind", "batch_size", "kernels", "device", "pid")
    )
    columns = ["step_id", "kind", "batch_size", "period_ns", "gpu_busy_ns", "gpu_start_ns", "device", "pid"]
    return (
        steps(trace)
        .select(columns)
        .join(attention, on="step_id", how="left", maintain_order="left")
        .sort("step_id")
        .with_columns(run=unlike.cum_sum())
        .filter((pl.col("kind") == "decode") & pl.col("attention_ns").is_not_null())
        .with_columns(position=pl.int_range(pl.len(), dtype=pl.Int64).over("run"))
    )


@dataclass(frozen=True)
class Growth:
    """A line through attention's time over the steps of one run.

    ``slope_ns`` a step; ``first_ns`` and ``last_ns`` on the line; ``r2`` how much of the variation the line explains.
    ``floor_slope_ns``: what the bytes of one more token a sequence take at the peak bandwidth, None without shapes.
    """

    rows: pl.DataFrame
    batch_size: int | None
    slope_ns: float
    first_ns: float
    last_ns: float
    r2: float
    kv_bytes_per_token: int | None
    floor_slope_ns: float | None

    @property
    def growth_pct(self) -> float:
        return 100 * (self.last_ns - self.first_ns) / self.first_ns if self.first_ns > 0 else 0.0

    def share_pct(self, of: str) -> float:
        """Attention of ``gpu_busy_ns`` or ``period_ns``, over the run."""
        whole = int(self.rows[of].sum())
        return 100 * int(self.rows["attention_ns"].sum()) / whole if whole else 0.0


@memoised
def attention_growth(trace: Trace) -> Growth | None:
    """The fit over the longest run of decode steps, the later of equally long ones; None under two steps."""
    found = attention_steps(trace)
    longest = found.group_by("run").len().sort("len", "run", descending=True)
    if longest.is_empty() or longest["len"][0] < 2:
        return None
    rows = found.filter(pl.col("run") == longest["run"][0])
    at = rows["position"].to_numpy().astype(np.float64)
    time = rows["attention_ns"].to_numpy().astype(np.float64)
    slope, first = (float(c) for c in np.polyfit(at, time, 1))
    spread = float(((time - time.mean()) ** 2).sum())
    left = float(((time - first - slope * at) ** 2).sum())
    batch = rows["batch_size"][0]
    stored = kv_bytes_per_token(trace).join(rows, on="step_id", how="semi")["kv_bytes_per_token"]
    per_token = int(stored.median()) if len(stored) else None  # type: ignore[arg-type]
    gpu = device_match(trace, rows["device"][0]).gpu
    floor = (
        None if per_token is None or gpu is None or not batch else per_token * batch / gpu.bandwidth_bytes_per_s * 1e9
    )
    return Growth(
        rows=rows,
        batch_size=batch,
        slope_ns=slope,
        first_ns=first,
        last_ns=first + slope * float(at[-1]),
        r2=1 - left / spread if spread else 0.0,
        kv_bytes_per_token=per_token,
        floor_slope_ns=floor,
    )

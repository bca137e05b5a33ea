"""What the host did while the GPU was idle between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from traceql.derived import api, memoised
from traceql.derived.gap_host import UNCOVERED
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.host import host_timeline, nearest
from traceql.derived.naming import labels
from traceql.derived.steps import marks
from traceql.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORK = {
    "plan and metadata": r"plan\b|metadata|begin_forward|replay_prepare|forward_batch_info|page_table|block_table"
    r"|kv_indices",
    "sampling": r"sampl|argmax|top_?[kp]\b|multinomial|logits_processor",
    "output processing": r"detoken|process_batch_result|stream_output|output_processor|make_output",
    "scheduling": r"schedul|prepare_for_(?:decode|extend)|get_next_batch|recv_req|(?:input|running)_batch"
    r"|waiting_queue",
}
"""Kind of work → what its frames, ranges and operators are called in SGLang, vLLM and FlashInfer."""

WAITING = "waiting for the GPU"
OTHER = "other host work"


@memoised
def bubble_steps(trace: Trace) -> pl.DataFrame:
    """Steps that follow another on the GPU, with the idle time between the two: step_id, idle_ns."""
    parts = owned_gap_parts(trace).filter(pl.col("place") == "between steps")
    return parts.group_by("step_id").agg(idle_ns=pl.col("dur_ns").sum()).sort("step_id")


def bubble_work(trace: Trace, step_id: int) -> pl.DataFrame:
    """The idle time before ``step_id`` by what its launching thread did: work, activity, ns; largest first.

    ``work`` is told by the innermost activity whose name says it (WORK), and ``activity`` is that one; of other host
    work, the outermost frame, range or operator that does not itself hold a step.
    """
    bubble = owned_gap_parts(trace).filter((pl.col("step_id") == step_id) & (pl.col("place") == "between steps"))
    timeline = host_timeline(trace)
    threads = timeline.activities.select("thread", "pid", "tid").unique()
    idle = bubble.select("pid", "tid", from_ns="start_ns", to_ns="end_ns").join(threads, on=["pid", "tid"])
    first, last = idle.select(pl.col("from_ns").min(), pl.col("to_ns").max()).fill_null(0).row(0)
    lasting = timeline.pieces.filter((pl.col("end_ns") > first) & (pl.col("start_ns") < last))
    seen = (
        lasting.join(idle, on="thread")
        .filter((pl.col("start_ns") < pl.col("to_ns")) & (pl.col("end_ns") > pl.col("from_ns")))
        .join(_told(trace), on="activity_id")
        .select("work", "activity", ns=pl.min_horizontal("end_ns", "to_ns") - pl.max_horizontal("start_ns", "from_ns"))
    )
    unseen = int(bubble["dur_ns"].sum()) - int(seen["ns"].sum())
    nothing = pl.DataFrame({"work": [UNCOVERED], "activity": [UNCOVERED], "ns": [unseen]})
    return (
        pl.concat([seen, nothing])
        .group_by("work", "activity")
        .agg(pl.col("ns").sum())
        .filter(pl.col("ns") > 0)
        .sort(pl.col("ns") * -1, "activity")
    )


@memoised
def _told(trace: Trace) -> pl.DataFrame:
    """activity_id → ``work`` and ``activity`` as ``bubble_work`` describes them."""
    timeline = host_timeline(trace)
    name, parent = timeline.activities["name"], timeline.column("parent")
    starts, ends = timeline.column("start_ns"), timeline.column("end_ns")
    marked = np.sort(marks(trace)["start_ns"].to_numpy())
    holds_step = np.searchsorted(marked, ends) > np.searchsorted(marked, starts)
    is_profiler = timeline.activities["kind"] == "profiler"
    own = labels(name, {WAITING: api.SYNCHRONIZE, **{work: f"(?i){p}" for work, p in WORK.items()}})
    own = own.set(is_profiler, "profiler")
    telling = nearest(own.is_not_null().to_numpy() & ~holds_step, parent, itself=True)
    outermost = nearest(~holds_step & np.append(holds_step, True)[parent], parent, itself=True)
    shown = np.where(telling >= 0, telling, np.where(outermost >= 0, outermost, np.arange(len(parent))))
    return timeline.activities.select(
        "activity_id",
        work=own.gather(_rows(telling)).fill_null(OTHER),
        activity=name.gather(_rows(shown)),
    )


def _rows(found: NDArray[np.int64]) -> pl.Series:
    """Row numbers with −1 as null."""
    rows = pl.Series(found, dtype=pl.Int64)
    return rows.set(rows < 0, None)

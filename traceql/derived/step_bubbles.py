"""What the host did while the GPU was idle between two steps."""

from __future__ import annotations

import numpy as np
import polars as pl

from traceql.derived import api, intervals, memoised
from traceql.derived.gap_host import UNCOVERED
from traceql.derived.gap_owners import owned_gap_parts
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.host import host_timeline
from traceql.derived.steps import marks, steps
from traceql.trace import Trace

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
_LIKE_A_STEP = 0.75
"""Work of no step that is this much of a step's own was a step. Where marks cover the model alone, its output projection and
the sampling between two steps are up to a half of a model of a few layers."""


@memoised
def bubble_steps(trace: Trace) -> pl.DataFrame:
    """Steps that follow another on the GPU, with the idle time between the two: step_id, idle_ns.

    Not those before which work of no step ran: a step without a mark lies between the two then, and its idle time is none of
    theirs.
    """
    parts = owned_gap_parts(trace).filter(pl.col("place") == "between steps")
    found = parts.group_by("step_id").agg(idle_ns=pl.col("dur_ns").sum()).sort("step_id")
    return found.join(_after_unmarked_work(trace), on="step_id", how="anti", maintain_order="left")


def _after_unmarked_work(trace: Trace) -> pl.DataFrame:
    """Steps before which the device did ``_LIKE_A_STEP`` of what it does in them for no step: step_id."""
    ops = gpu_ops(trace).select("device", "start_ns", "dur_ns", "step_id").drop_nulls("device").sort("start_ns")
    of_steps, unmarked = ops.drop_nulls("step_id"), ops.filter(pl.col("step_id").is_null()).drop("step_id")
    busy = steps(trace).select("step_id", "gpu_busy_ns")
    return (
        unmarked.join_asof(
            of_steps.drop("dur_ns"), on="start_ns", by="device", strategy="forward", check_sortedness=False
        )
        .group_by("step_id")
        .agg(unmarked_ns=pl.col("dur_ns").sum())
        .join(busy, on="step_id")
        .filter(pl.col("unmarked_ns") > _LIKE_A_STEP * pl.col("gpu_busy_ns"))
        .select("step_id")
    )


def bubble_work(trace: Trace, step_id: int) -> pl.DataFrame:
    """The idle time before ``step_id`` by what its launching thread did: work, activity, ns; largest first.

    ``work`` is told by the innermost activity whose name says it (WORK), and ``activity`` is that one; of other host
    work, the outermost frame, range or operator that does not itself hold a step.
    """
    bubble = owned_gap_parts(trace).filter((pl.col("step_id") == step_id) & (pl.col("place") == "between steps"))
    timeline = host_timeline(trace)
    idle = bubble.select("pid", "tid", from_ns="start_ns", to_ns="end_ns").join(timeline.threads, on=["pid", "tid"])
    first, last = idle.select(pl.col("from_ns").min(), pl.col("to_ns").max()).fill_null(0).row(0)
    lasting = timeline.pieces.filter((pl.col("end_ns") > first) & (pl.col("start_ns") < last))
    seen = (
        lasting.join(idle, on="thread")
        .filter((pl.col("start_ns") < pl.col("to_ns")) & (pl.col("end_ns") > pl.col("from_ns")))
        .join(_told(trace), on="activity")
        .select(
            "work", activity="name", ns=pl.min_horizontal("end_ns", "to_ns") - pl.max_horizontal("start_ns", "from_ns")
        )
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
    """activity (row) → ``work`` and ``name``, the ``activity`` that ``bubble_work`` describes."""
    timeline = host_timeline(trace)
    name, parent = timeline.activities["name"], timeline.column("parent")
    starts, ends = timeline.column("start_ns"), timeline.column("end_ns")
    marked = np.sort(marks(trace)["start_ns"].to_numpy())
    holds_step = np.searchsorted(marked, ends) > np.searchsorted(marked, starts)
    is_profiler = timeline.activities["kind"] == "profiler"
    own = timeline.names.labels({WAITING: api.SYNCHRONIZE, **{work: f"(?i){p}" for work, p in WORK.items()}})
    own = own.set(is_profiler, "profiler")
    telling = intervals.nearest(own.is_not_null().to_numpy() & ~holds_step, parent, itself=True)
    outermost = intervals.nearest(~holds_step & np.append(holds_step, True)[parent], parent, itself=True)
    shown = np.where(telling >= 0, telling, np.where(outermost >= 0, outermost, np.arange(len(parent))))
    return pl.select(
        activity=pl.int_range(len(parent), dtype=pl.Int64),
        work=own.gather(intervals.rows_or_null(telling)).fill_null(OTHER),
        name=name.gather(shown),
    )

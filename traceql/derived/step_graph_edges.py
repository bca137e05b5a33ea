"""The edges of steps' dependency graphs, from the calls and the device's work in them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from traceql.derived.step_graph_rows import device_order
from traceql.trace import Trace

PARTS = ("gpu", "drain", "sync", "latency", "launch", "host")
"""What the time of an edge is: the device working; between two operations of the device that no launch held up; a wait's
own cost, or what it waits for beyond the step; from a launch call to the start of its work on an idle device; a launch
call; the host thread between its calls. Where two edges hold a node up alike, the first in this order is named."""

_GPU, _DRAIN, _SYNC, _LATENCY, _LAUNCH, _HOST = range(len(PARTS))

GONE = -(2**60)
"""Weight of an edge that holds nothing up, ns: far below any time of a trace, far above what sums could overflow."""

_EDGE = {
    "step": pl.Int64, "src": pl.Int64, "dst": pl.Int64, "ns": pl.Int64, "part": pl.Int8, "thread": pl.Int64,
    "from_ns": pl.Int64, "to_ns": pl.Int64, "event": pl.Int64, "op": pl.Int64, "waits": pl.Boolean,
}  # fmt: skip
_ABSENT = {
    "thread": pl.lit(-1), "from_ns": pl.lit(0), "to_ns": pl.lit(0), "event": pl.lit(-1), "op": pl.lit(-1),
    "waits": pl.lit(False),
}  # fmt: skip


def _edges(rows: pl.DataFrame, part: int | pl.Expr, **columns: pl.Expr) -> pl.DataFrame:
    given = {"part": pl.lit(part) if isinstance(part, int) else part, **_ABSENT, **columns}
    return rows.select("step", **{name: given[name].cast(dtype) for name, dtype in _EDGE.items() if name != "step"})


@dataclass(frozen=True)
class Nodes:
    """Numbers of the nodes: of every step its begin, its end, and two on the way to its first operation past work from
    before; start and return of every call; of every operation when it begins, when it is done and when others' work after
    it is done."""

    steps: int
    events: int
    ops: int

    @property
    def count(self) -> int:
        return 4 * self.steps + 2 * self.events + 3 * self.ops

    @property
    def begin(self) -> pl.Expr:
        return 4 * pl.col("step")

    @property
    def end(self) -> pl.Expr:
        return self.begin + 1

    @property
    def waited(self) -> pl.Expr:
        return self.begin + 2

    @property
    def inherited(self) -> pl.Expr:
        return self.begin + 3

    def call(self, event: str = "event") -> pl.Expr:
        return 4 * self.steps + 2 * pl.col(event)

    def returned(self, event: str = "event") -> pl.Expr:
        return self.call(event) + 1

    def starts(self, op: str = "op") -> pl.Expr:
        return 4 * self.steps + 2 * self.events + 3 * pl.col(op)

    def done(self, op: str = "op") -> pl.Expr:
        return self.starts(op) + 1

    def free(self, op: str = "op") -> pl.Expr:
        return self.starts(op) + 2


def host_edges(node: Nodes, windows: pl.DataFrame, events: pl.DataFrame, waits: pl.DataFrame) -> list[pl.DataFrame]:
    """begin → call → return → next call … → end, the last only on the thread of the step's mark."""
    held = waits.filter(pl.col("anchor") != "none").select("event", depends=pl.lit(True))
    calls = events.join(held, on="event", how="left", maintain_order="left").with_columns(
        pl.col("depends").fill_null(False)
    )
    before = _edges(
        events, _HOST,
        src=pl.when(pl.col("previous_event").is_null()).then(node.begin).otherwise(node.returned("previous_event")),
        dst=node.call(), ns=pl.col("start_ns") - pl.col("before_ns"), thread=pl.col("thread"),
        from_ns=pl.col("before_ns"), to_ns=pl.col("start_ns"), event=pl.col("event"),
    )  # fmt: skip
    own = pl.when("depends").then("usual_ns").otherwise("dur_ns")
    during = _edges(
        calls, pl.when(pl.col("kind") == "wait").then(_SYNC).otherwise(_LAUNCH),
        src=node.call(), dst=node.returned(), ns=own, thread=pl.col("thread"),
        from_ns=pl.col("start_ns"), to_ns=pl.col("start_ns") + own, event=pl.col("event"),
    )  # fmt: skip
    last = events.filter("main").group_by("step", maintain_order=True).agg(pl.col("event", "end_ns", "thread").last())
    closing = windows.select("step", begin="start_ns", finish="end_ns").join(
        last, on="step", how="left", maintain_order="left"
    )
    done = pl.coalesce("end_ns", "begin")
    after = _edges(
        closing, _HOST,
        src=pl.when(pl.col("event").is_null()).then(node.begin).otherwise(node.returned()),
        dst=node.end, ns=pl.col("finish") - done, thread=pl.col("thread").fill_null(-1),
        from_ns=done, to_ns=pl.max_horizontal("finish", done),
    )  # fmt: skip
    return [before, during, after]


def dependencies(trace: Trace, events: pl.DataFrame, ops: pl.DataFrame) -> pl.DataFrame:
    """For every call that waits for the device what it waited for: ``anchor`` *op* (with ``op`` and ``reach_ns``: of the
    work its thread launched before, the last that was done when the call returned), *step* (work from before the step
    that ended during the call) or *none*.
    """
    mine = ops.select("step", "thread", "op", "reach_ns", "place", done_ns="end_ns").sort("done_ns", "place")
    order = device_order(trace).select(ended_ns="end_ns").sort("ended_ns")
    return (
        events.filter("blocks")
        .sort("end_ns")
        .join_asof(
            mine.drop("place"), left_on="end_ns", right_on="done_ns", by=["step", "thread"], strategy="backward",
            check_sortedness=False,
        )
        .join_asof(order, left_on="end_ns", right_on="ended_ns", strategy="backward", check_sortedness=False)
        .with_columns(
            anchor=pl.when(pl.col("op").is_not_null() & (pl.col("reach_ns") <= pl.col("end_ns")))
            .then(pl.lit("op"))
            .when(pl.col("ended_ns") > pl.col("start_ns"))
            .then(pl.lit("step"))
            .otherwise(pl.lit("none"))
        )
        .sort("event")
    )  # fmt: skip


def wait_edges(node: Nodes, waits: pl.DataFrame) -> list[pl.DataFrame]:
    """What the call waited for → its return. A wait that found the work done still comes after it, by its own cost."""
    since = pl.col("end_ns") - pl.max_horizontal("reach_ns", "start_ns")
    on_work = _edges(
        waits.filter(pl.col("anchor") == "op"), _SYNC,
        src=node.done(), dst=node.returned(), ns=since, event=pl.col("event"), waits=pl.lit(True),
    )  # fmt: skip
    late = waits.filter((pl.col("anchor") == "op") & (pl.col("reach_ns") <= pl.col("start_ns")))
    own_cost = _edges(
        late, _SYNC, src=node.call(), dst=node.returned(), ns=pl.col("dur_ns"), thread=pl.col("thread"),
        from_ns=pl.col("start_ns"), to_ns=pl.col("end_ns"), event=pl.col("event"), waits=pl.lit(True),
    )  # fmt: skip
    on_others = _edges(
        waits.filter(pl.col("anchor") == "step"), _SYNC,
        src=node.begin, dst=node.returned(), ns=pl.col("end_ns") - pl.col("begin"), event=pl.col("event"),
        waits=pl.lit(True),
    )  # fmt: skip
    return [on_work, own_cost, on_others]


def device_edges(trace: Trace, node: Nodes, ops: pl.DataFrame) -> list[pl.DataFrame]:
    """Launch → operation → the next of the step on the device."""
    starved = ~pl.col("queued")
    singly = pl.col("queued") & pl.col("first_of_launch")
    drains = ops.filter(singly)["gap_ns"].median()
    usual = drains if isinstance(drains, (int, float)) else 0
    chained = ops.with_columns(
        delay=pl.col("start_ns") - pl.col("call_start"),
        drain=pl.col("gap_ns").filter(singly).median().over("step").fill_null(usual).cast(pl.Int64),
        previous=pl.col("op").shift(1).over("step"),
        since_busy=pl.col("busy_before_ns").shift(1).over("step"),
        since_idle=pl.col("idle_ns").shift(1).over("step"),
        previous_exec=pl.col("exec_ns").shift(1).over("step"),
    ).with_columns(
        least=pl.col("delay").filter(starved).min().over("step").fill_null(0).clip(lower_bound=0),
        others=pl.col("busy_before_ns") - pl.col("since_busy") - pl.col("previous_exec"),
        kept=pl.when("queued").then("gap_ns").otherwise(pl.min_horizontal("gap_ns", "drain")),
    )
    launched = chained.filter("first_of_launch")
    latency = _edges(
        launched, _LATENCY, src=node.call("event"), dst=node.starts(),
        ns=pl.when("queued").then(pl.min_horizontal("least", pl.col("begin_ns") - pl.col("call_start"))).otherwise("delay"),
        thread=pl.when(starved).then(pl.col("thread")).otherwise(-1), from_ns=pl.col("call_start"),
        to_ns=pl.when(starved).then(pl.max_horizontal("call_start", "start_ns")).otherwise("call_start"),
        event=pl.col("event"), op=pl.col("op"),
    )  # fmt: skip
    work = _edges(ops, _GPU, src=node.starts(), dst=node.done(), ns=pl.col("exec_ns"), op=pl.col("op"))
    following = chained.filter(pl.col("previous").is_not_null())
    shared = pl.col("others") > 0
    foreign = _edges(
        following.filter(shared), _GPU, src=node.done("previous"), dst=node.free("previous"), ns=pl.col("others"),
    )  # fmt: skip
    drain = _edges(
        following, _DRAIN, src=pl.when(shared).then(node.free("previous")).otherwise(node.done("previous")), dst=node.starts(),
        ns=pl.col("idle_ns") - pl.col("since_idle") - pl.col("gap_ns") + pl.col("kept"), op=pl.col("op"),
    )  # fmt: skip
    # the device may still be at work from before the step
    first = chained.filter(pl.col("previous").is_null() & (pl.col("before_ns") >= pl.col("begin"))).with_columns(
        inherited=pl.col("before_ns") - pl.col("begin")
    )
    first = first.with_columns(busy=pl.col("busy_before_ns") - _busy_until_begin(trace, first))
    waited = _edges(first, _DRAIN, src=node.begin, dst=node.waited, ns=pl.col("inherited") - pl.col("busy"))
    from_before = _edges(first, _GPU, src=node.waited, dst=node.inherited, ns=pl.col("busy"))
    then = _edges(first, _DRAIN, src=node.inherited, dst=node.starts(), ns=pl.col("kept"), op=pl.col("op"))
    return [latency, work, foreign, drain, waited, from_before, then]


def _busy_until_begin(trace: Trace, first: pl.DataFrame) -> pl.Series:
    """Busy time of the device before the step's begin, for the first operations of steps."""
    order = device_order(trace).select(
        "device", "start_ns", "reach_ns", done=pl.col("busy_before_ns") + pl.col("exec_ns")
    )
    at = first.select("device", "begin").with_row_index("order").sort("begin", maintain_order=True)
    latest = at.join_asof(
        order.sort("start_ns"), left_on="begin", right_on="start_ns", by="device", strategy="backward",
        check_sortedness=False, allow_exact_matches=False,
    )  # fmt: skip
    ahead = (pl.col("reach_ns") - pl.col("begin")).clip(lower_bound=0)
    return latest.sort("order").select((pl.col("done") - ahead).fill_null(0)).to_series()


def end_edges(node: Nodes, ops: pl.DataFrame) -> list[pl.DataFrame]:
    """Last operation → end. Work still running then was as far behind when the step began: it costs the period nothing."""
    last = ops.group_by("step", maintain_order=True).agg(pl.col("op", "reach_ns", "finish").last())
    behind = pl.min_horizontal(pl.col("finish") - pl.col("reach_ns"), pl.lit(0))
    return [_edges(last, _GPU, src=node.done(), dst=node.end, ns=behind)]

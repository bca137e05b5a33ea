"""What a step would take if something in it were faster: its dependency graph, re-timed.

The graph of one step has three chains that hold each other up: the host thread (work, launch calls, waits, in order),
the GPU's streams (operations, in order), and the edges between them: a launch before its operation, an operation before
the wait that returns when it is done. Each edge weighs the least time that must pass between the *starts* of its ends,
as measured in this step. The latest start of the last node is the step's period; the model is trusted only where it
gives the measured one back (``error_pct``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import networkx as nx
import polars as pl

from traceql.derived import api, memoised
from traceql.derived.gpu_ops import gpu_ops
from traceql.derived.launches import launches
from traceql.derived.steps import marks, steps
from traceql.trace import Trace

Part = Literal["host", "call", "wait", "latency", "drain", "gpu"]
"""What an edge's time is: host work between calls, a launch call, a wait's own cost, from launch to start on an idle GPU,
between operations of a stream, GPU execution."""

MAX_ERROR_PCT = 10.0
"""A model that misses the measured period by more says nothing about another one."""


@dataclass(frozen=True)
class StepModel:
    """The dependency graph of one step.

    Attributes:
        step_id: the step.
        measured_ns: its period as recorded.
        graph: nodes are events (host marks and GPU operations); an edge has ``part``, ``ns`` and, for host work,
            ``start_ns``/``end_ns`` of the stretch it stands for.
        end: the node whose start is the end of the period.
    """

    step_id: int
    measured_ns: int
    graph: nx.DiGraph[Any] = field(repr=False)
    end: str

    def period_ns(
        self, *, scale: Mapping[Part, float] | None = None, saved: Mapping[tuple[Any, Any], int] | None = None
    ) -> int:
        """The period with each part's time multiplied by ``scale`` and edges shortened by ``saved`` ns."""
        return self._starts(scale or {}, saved or {})[self.end]

    @property
    def error_pct(self) -> float:
        """How far the model is from the measured period, unchanged."""
        return 100 * (self.period_ns() - self.measured_ns) / self.measured_ns if self.measured_ns else 0.0

    @property
    def trusted(self) -> bool:
        return abs(self.error_pct) <= MAX_ERROR_PCT

    def without(self, stretches: Iterable[tuple[int, int]]) -> int:
        """Period with these stretches of host time gone, ns. They may overlap neither each other nor anything else."""
        saved: dict[tuple[Any, Any], int] = {}
        spans = sorted(stretches)
        for a, b, edge in self.graph.edges(data=True):
            if "start_ns" not in edge:
                continue
            overlap = sum(max(0, min(e, edge["end_ns"]) - max(s, edge["start_ns"])) for s, e in spans)
            if overlap:
                saved[a, b] = overlap
        return self.period_ns(saved=saved)

    def critical_path(self) -> list[tuple[Part, str, int]]:
        """(part, what, ns) along the longest path, in order; the times add up to the modelled period."""
        path = nx.dag_longest_path(self.graph, weight="ns", default_weight=0)
        edges = [self.graph.edges[a, b] for a, b in pairwise(path)]
        return [(e["part"], e["what"], e["ns"]) for e in edges if e["ns"]]

    def _starts(self, scale: Mapping[Part, float], saved: Mapping[tuple[Any, Any], int]) -> dict[Any, int]:
        starts: dict[Any, int] = {}
        for node in nx.topological_sort(self.graph):
            latest = 0
            for before, _, edge in self.graph.in_edges(node, data=True):
                weight = edge["ns"] - min(saved.get((before, node), 0), max(edge["ns"], 0))
                latest = max(latest, starts[before] + round(weight * scale.get(edge["part"], 1.0)))
            starts[node] = latest
        return starts


@memoised
def step_model(trace: Trace, step_id: int) -> StepModel | None:
    """The model of a step; None when its work left no record or was launched by no thread we see.

    GPU operations of one replay are one node: between them the host has no say.
    """
    step = steps(trace).filter(pl.col("step_id") == step_id)
    if step.is_empty() or step["gpu_busy_ns"][0] is None or not step["gpu_ops"][0]:
        return None
    mark = marks(trace).filter(pl.col("step_id") == step_id).row(0, named=True)
    begin, measured = mark["start_ns"], step["period_ns"][0]
    host = _host_events(trace, mark["pid"], mark["tid"], begin, begin + measured)
    work = _gpu_work(trace, host)
    if work.is_empty():
        return None
    graph: nx.DiGraph[Any] = nx.DiGraph()
    end = _add_host_chain(graph, host, begin, begin + measured)
    _add_gpu_chain(graph, host, work, begin)
    _add_waits(graph, host, work)
    last = work.filter(pl.col("end_ns") == pl.col("end_ns").max()).row(0, named=True)
    # work still running when the next step starts was as far behind when this one started: it costs the period nothing
    behind = max(0, last["end_ns"] - begin - measured)
    graph.add_edge(f"gpu {last['node']}", end, part="gpu", what=last["name"], ns=last["exec_ns"] - behind)
    return StepModel(step_id, measured, graph, end)


def _edge(graph: nx.DiGraph[Any], a: str, b: str, part: Part, what: str | None, ns: int, **more: int) -> None:
    graph.add_edge(a, b, part=part, what=what or "", ns=max(0, int(ns)), **more)


def _host_events(trace: Trace, pid: int | None, tid: int | None, begin: int, end: int) -> pl.DataFrame:
    """Launch calls and waits of the step's thread that start in the period: event, kind, name, start_ns, end_ns, launch_id."""
    own = pl.col("pid").eq_missing(pl.lit(pid, pl.Int64)) & pl.col("tid").eq_missing(pl.lit(tid, pl.Int64))
    inside = own & (pl.col("start_ns") >= begin) & (pl.col("start_ns") < end)
    calls = (
        launches(trace)
        .filter(inside & (pl.col("gpu_ops") > 0))
        .select("name", "start_ns", "dur_ns", "launch_id", kind=pl.lit("launch"))
    )
    waits = (
        trace.loaded["runtime_calls"]
        .filter(inside & pl.col("name").str.contains(api.SYNCHRONIZE))
        .select("name", "start_ns", "dur_ns", pl.lit(None, pl.Int64).alias("launch_id"), kind=pl.lit("wait"))
    )
    return (
        pl.concat([calls, waits])
        .sort("start_ns")
        .with_columns(end_ns=pl.col("start_ns") + pl.col("dur_ns"), event=pl.int_range(pl.len(), dtype=pl.Int64))
        # a call inside another (a wait inside a copy) is the outer one's time
        .filter((pl.col("start_ns") >= pl.col("end_ns").cum_max().shift(1)).fill_null(True))
        .with_columns(event=pl.int_range(pl.len(), dtype=pl.Int64))
    )


def _gpu_work(trace: Trace, host: pl.DataFrame) -> pl.DataFrame:
    """One row an operation or replay launched by these events, in order of start.

    ``exec_ns`` is what it adds to its stream (kernels of one stream overlap under programmatic dependent launch);
    ``lag_ns`` the time since the work before it on the stream ended, ``queued`` whether its call had returned by then.
    """
    calls = host.filter(pl.col("launch_id").is_not_null()).select(
        "event", "launch_id", call_start="start_ns", call_end="end_ns"
    )
    rows = gpu_ops(trace).join(calls, on="launch_id", how="inner", maintain_order="left")
    grouped = (
        rows.sort("start_ns", "end_ns")
        .group_by("event", "device", "stream", maintain_order=True)
        .agg(
            pl.col("name").first(), pl.col("start_ns").min(), pl.col("end_ns").max(),
            pl.col("call_start", "call_end").first(),
        )
        .sort("start_ns", "end_ns")
    )  # fmt: skip
    reach = pl.col("end_ns").cum_max().shift(1).over("device", "stream", order_by=["start_ns", "end_ns"])
    return (
        grouped.with_columns(previous_end=reach, node=pl.int_range(pl.len(), dtype=pl.Int64))
        .with_columns(previous_node=pl.col("node").shift(1).over("device", "stream", order_by=["start_ns", "end_ns"]))
        .with_columns(
            exec_ns=(pl.col("end_ns") - pl.max_horizontal("start_ns", "previous_end")).clip(lower_bound=0),
            lag_ns=(pl.col("start_ns") - pl.col("previous_end")).clip(lower_bound=0),
            queued=pl.col("call_end") <= pl.col("previous_end"),
        )
    )


def _add_host_chain(graph: nx.DiGraph[Any], host: pl.DataFrame, begin: int, end: int) -> str:
    """``begin`` → call, wait, call … → ``end``; host work between calls carries the stretch it stands for."""
    before, since = "begin", begin
    for row in host.rows(named=True):
        start, stop = f"{row['event']} start", f"{row['event']} end"
        _edge(
            graph, before, start, "host", "host work", row["start_ns"] - since, start_ns=since, end_ns=row["start_ns"]
        )
        if row["kind"] == "launch":
            _edge(
                graph, start, stop, "call", row["name"], row["dur_ns"], start_ns=row["start_ns"], end_ns=row["end_ns"]
            )
        else:
            _edge(graph, start, stop, "wait", row["name"], 0)
        before, since = stop, min(row["end_ns"], end)
    _edge(graph, before, "end", "host", "host work", end - since, start_ns=since, end_ns=end)
    return "end"


def _add_gpu_chain(graph: nx.DiGraph[Any], host: pl.DataFrame, work: pl.DataFrame, begin: int) -> None:
    """Launch → operation, and operation → the next on its stream."""
    idle = work.filter(~pl.col("queued").fill_null(False))
    starved = (idle["start_ns"] - idle["call_start"]).clip(lower_bound=0)
    least = int(starved.min() or 0)  # type: ignore[arg-type]
    drain = int(work.filter(pl.col("queued"))["lag_ns"].median() or 0)  # type: ignore[arg-type]
    execution = dict(work.select("node", "exec_ns").rows())
    for row in work.rows(named=True):
        node, queued = f"gpu {row['node']}", bool(row["queued"])
        latency = least if queued else row["start_ns"] - row["call_start"]
        _edge(graph, f"{row['event']} start", node, "latency", row["name"], latency)
        if row["previous_node"] is not None:
            # start of the one before → its execution → the drain between them → start of this one
            before, middle = f"gpu {row['previous_node']}", f"gpu {row['node']} after"
            _edge(graph, before, middle, "gpu", row["name"], execution[row["previous_node"]])
            _edge(graph, middle, node, "drain", row["name"], row["lag_ns"] if queued else min(drain, row["lag_ns"]))


def _add_waits(graph: nx.DiGraph[Any], host: pl.DataFrame, work: pl.DataFrame) -> None:
    """Operation → the wait that returned after it: its execution, then what the call took to come back."""
    for wait in host.filter(pl.col("kind") == "wait").rows(named=True):
        done = work.filter((pl.col("call_start") < wait["start_ns"]) & (pl.col("end_ns") <= wait["end_ns"]))
        stop = f"{wait['event']} end"
        own = wait["dur_ns"]
        if not done.is_empty():
            last = done.filter(pl.col("end_ns") == done["end_ns"].max()).row(0, named=True)
            if last["end_ns"] > wait["start_ns"]:
                own = 0
                back = wait["end_ns"] - last["end_ns"]
                middle = f"{wait['event']} done"
                _edge(graph, f"gpu {last['node']}", middle, "gpu", last["name"], last["exec_ns"])
                _edge(graph, middle, stop, "wait", wait["name"], back)
        if own:
            graph.edges[f"{wait['event']} start", stop]["ns"] = own


def gpu_only_ns(model: StepModel) -> int:
    """The period with a host that takes no time: launches, latencies, waits and drains gone; what is left is GPU busy."""
    return model.period_ns(scale={"host": 0, "call": 0, "wait": 0, "latency": 0, "drain": 0})


@dataclass(frozen=True)
class GraphPrediction:
    """An eager step replayed as one CUDA graph, predicted.

    ``period_ns`` = host time around the replay + launch to first kernel + GPU work of the replay. The first two are the
    twin's (a profiled replay of the same model), the last is the eager step's GPU time plus the kernels only the
    replay has.
    """

    period_ns: int
    host_ns: int
    gpu_ns: int
    extra_gpu_ns: int
    twin_period_ns: int

    @property
    def error_pct(self) -> float:
        return 100 * (self.period_ns - self.twin_period_ns) / self.twin_period_ns


def as_one_graph(eager: Trace, eager_step: int, twin: Trace, twin_step: int) -> GraphPrediction:
    """Predict the period of ``eager_step`` launched as one graph, with host costs and extra kernels from the twin.

    ``twin`` is a replayed trace aligned with ``eager`` (``tq.align``); its kernels without an eager twin are the extra
    ones. Their time is what they add to the stream.
    """
    model = step_model(twin, twin_step)
    if model is None:
        raise ValueError(f"step {twin_step} of {twin.path.name} has no model")
    host = model.period_ns(scale={"gpu": 0, "drain": 0})
    own = steps(eager).filter(pl.col("step_id") == eager_step).row(0, named=True)
    rows = twin.table("aligned_kernels").filter(pl.col("step_id") == twin_step)
    extra = int(rows.filter(pl.col("eager_kernel_id").is_null())["dur_ns"].sum())
    period = steps(twin).filter(pl.col("step_id") == twin_step)["period_ns"][0]
    return GraphPrediction(host + own["gpu_busy_ns"] + extra, host, own["gpu_busy_ns"], extra, period)

"""What a step would take if something in it were faster: its dependency graph, timed again.

The graph (``step_graph``) gives the step's period back exactly. A change shortens or removes edges; the longest path
through what is left is the period with that change, and the difference is what it saves. A step is never said to take
less than its own work keeps the device busy: the one before it would still be running.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from traceql.derived import memoised
from traceql.derived.step_graph import Solution, solved, step_graphs
from traceql.derived.step_graph_edges import GONE, PARTS
from traceql.derived.step_graph_kernels import path_lengths, paths
from traceql.derived.step_graph_rows import CONTRADICTION
from traceql.derived.steps import steps
from traceql.fix import Fix
from traceql.trace import Trace

if TYPE_CHECKING:
    import networkx as nx
    from numpy.typing import NDArray

Part = Literal["gpu", "drain", "sync", "latency", "launch", "host"]
"""See ``step_graph_edges.PARTS``."""


@dataclass(frozen=True, eq=False)
class StepModel:
    """The dependency graph of one step, to be timed again with changes.

    Attributes:
        step_id: the step.
        start_ns: its start.
        measured_ns: its period as recorded, which is what the unchanged graph takes.
        busy_ns: how long the device works between its first and last operation.
        edges: as ``StepGraphs.edges``, the nodes numbered from 0: begin is the first, the end is ``end``.
        nodes: how many there are.
    """

    step_id: int
    start_ns: int
    measured_ns: int
    busy_ns: int
    edges: pl.DataFrame = field(repr=False)
    nodes: int
    end: int
    _calls: pl.DataFrame = field(repr=False)
    _ops: pl.DataFrame = field(repr=False)
    _threads: pl.DataFrame = field(repr=False)

    def period_ns(self, fix: Fix | None = None, *, scale: Mapping[Part, float] | None = None) -> int:
        """The period with ``fix`` made, then each part's time multiplied by ``scale``, ns."""
        ns, busy = self._weights(fix)
        if scale:
            factors = np.array([scale.get(part, 1.0) for part in PARTS])  # type: ignore[call-overload]
            ns = np.where(ns == GONE, ns, np.rint(ns * factors[self._column("part")]).astype(np.int64))
            busy = round(busy * scale.get("gpu", 1.0))
        end = int(self._solved(ns).time[self.end])
        return max(end, min(busy, self.measured_ns))

    def saving_ns(self, fix: Fix) -> int:
        """How much shorter the period is with ``fix`` made, ns; never negative."""
        return self.measured_ns - self.period_ns(fix)

    def touches(self, fix: Fix) -> bool:
        """Whether ``fix`` changes anything in this step."""
        ns, _ = self._weights(fix)
        return bool((ns != self._column("ns")).any())

    def critical_path(self) -> list[tuple[Part, str | None, int]]:
        """(part, what, ns) along the longest path, in order; the times add up to the period."""
        rows = path_rows(
            self._solved(self._column("ns")), np.array([self.end]), self.edges, np.array([self.measured_ns])
        )
        return list(self._named(split_launches(rows, self._calls)).select("part", "name", "dur_ns").rows())

    @property
    def graph(self) -> nx.MultiDiGraph[int]:
        """The same graph in networkx, its edges with ``part``, ``name`` and ``ns``."""
        import networkx as nx

        graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        edges = self._named(self.edges.with_columns(edge=pl.int_range(pl.len(), dtype=pl.Int64)))
        for row in edges.select("src", "dst", "part", "name", "ns").rows(named=True):
            graph.add_edge(row["src"], row["dst"], part=row["part"], name=row["name"], ns=row["ns"])
        return graph

    def _named(self, rows: pl.DataFrame) -> pl.DataFrame:
        return named_edges(rows, self._calls, self._ops)

    def _column(self, name: str) -> NDArray[np.int64]:
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int64]]:
        return {name: self.edges[name].to_numpy() for name in self.edges.columns}

    def _solved(self, ns: NDArray[np.int64]) -> Solution:
        src, dst, part = (self._column(c) for c in ("src", "dst", "part"))
        return solved(self.nodes, src, dst, ns, part, np.array([0]))

    def _weights(self, fix: Fix | None) -> tuple[NDArray[np.int64], int]:
        """The edges' times with ``fix`` made, and the device's work."""
        ns = self._column("ns").copy()
        if fix is None:
            return ns, self.busy_ns
        way = self._column("part") == PARTS.index("latency")
        returned = self._returned_ns
        self._without(
            ns,
            fix.host,
            self._column("from_ns"),
            np.where(way, np.minimum(self._column("to_ns"), returned), self._column("to_ns")),
        )
        self._without(
            ns, fix.way, np.maximum(self._column("from_ns"), returned), np.where(way, self._column("to_ns"), 0)
        )
        self._without_waits(ns, fix.released)
        return ns, self.busy_ns - self._without_work(ns, fix.gpu)

    def _without(
        self, ns: NDArray[np.int64], stretches: pl.DataFrame, from_ns: NDArray[np.int64], to_ns: NDArray[np.int64]
    ) -> None:
        """Take stretches of threads' time off the edges that stand for the time from ``from_ns`` to ``to_ns``."""
        near = stretches.filter(
            (pl.col("end_ns") > self.start_ns) & (pl.col("start_ns") < self.start_ns + self.measured_ns)
        ).join(self._threads, on=["pid", "tid"], nulls_equal=True)
        for (thread,), rows in near.group_by("thread"):
            mine = np.flatnonzero((self._column("thread") == thread) & (ns > 0) & (to_ns > from_ns))
            covered = _Covered(rows)
            ns[mine] -= np.minimum(covered.until(to_ns[mine]) - covered.until(from_ns[mine]), ns[mine])

    @cached_property
    def _returned_ns(self) -> NDArray[np.int64]:
        """When the call that an edge begins with returned; 0 for edges of none."""
        ends = np.append(self._calls["end_ns"].to_numpy(), 0)
        returned: NDArray[np.int64] = ends[self._column("event")]
        return returned

    def _without_waits(self, ns: NDArray[np.int64], released: pl.DataFrame) -> None:
        calls = self._calls.join(released, on="call_id", how="semi")
        if calls.is_empty():
            return
        usual = dict(calls.select("event", "usual_ns").rows())
        freed = np.isin(self._column("event"), calls["event"].to_numpy())
        holds = freed & self._columns["waits"]
        calling = freed & ~holds & np.isin(self._column("part"), (PARTS.index("sync"), PARTS.index("launch")))
        ns[holds] = GONE
        for edge in np.flatnonzero(calling):
            ns[edge] = min(ns[edge], usual[int(self._column("event")[edge])])

    def _without_work(self, ns: NDArray[np.int64], shorter: pl.DataFrame) -> int:
        ops = self._ops.join(shorter, on="gpu_op_id", how="inner", maintain_order="left")
        cut = ops.select("op", ns=pl.min_horizontal("saved_ns", "exec_ns").clip(lower_bound=0))
        if cut.is_empty():
            return 0
        by_op = dict(cut.rows())
        working = np.flatnonzero((self._column("part") == PARTS.index("gpu")) & (self._column("op") >= 0))
        saved = np.array([by_op.get(int(op), 0) for op in self._column("op")[working]], np.int64)
        ns[working] -= saved
        return int(saved.sum())


class _Covered:
    """How much of a thread's time stretches cover; where they overlap, once."""

    def __init__(self, stretches: pl.DataFrame) -> None:
        ordered = stretches.filter(pl.col("end_ns") > pl.col("start_ns")).sort("start_ns", "end_ns")
        ends = ordered["end_ns"].cum_max().to_numpy()
        before = np.append(np.iinfo(np.int64).min, ends[:-1])
        self._starts = np.maximum(ordered["start_ns"].to_numpy(), before)
        self._lengths = np.maximum(ends - self._starts, 0)
        self._sums = np.append(0, np.cumsum(self._lengths))

    def until(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Covered time before ``at``, ns."""
        row = np.searchsorted(self._starts, at, side="right")
        last = np.maximum(row - 1, 0)
        beyond = np.maximum(self._starts[last] + self._lengths[last] - at, 0) if len(self._starts) else 0
        covered: NDArray[np.int64] = self._sums[row] - np.where(row > 0, beyond, 0)
        return covered


@memoised
def step_model(trace: Trace, step_id: int) -> StepModel | None:
    """The model of a step; None where ``not_modelled`` says why."""
    graphs = step_graphs(trace, (step_id,))
    if graphs.steps.is_empty():
        return None
    row = graphs.steps.row(0, named=True)
    edges = graphs.edges
    used, numbers = np.unique(np.concatenate([edges["src"].to_numpy(), edges["dst"].to_numpy()]), return_inverse=True)
    model = StepModel(
        step_id, row["start_ns"], row["period_ns"], row["busy_ns"],
        edges.with_columns(src=pl.Series(numbers[: edges.height]), dst=pl.Series(numbers[edges.height :])),
        len(used), int(np.searchsorted(used, 1)), graphs.events, graphs.ops, graphs.threads,
    )  # fmt: skip
    solution = model._solved(model._column("ns"))
    exact = solution.waiting[model.end] == 0 and solution.time[model.end] == model.measured_ns
    return model if exact else None


def not_modelled(trace: Trace, step_id: int) -> str | None:
    """Why a step has no model, to complete "step N has no model: …"; None where it has one."""
    if step_model(trace, step_id) is not None:
        return None
    return step_graphs(trace, (step_id,)).unmodelled.get(step_id, CONTRADICTION)


def named_edges(rows: pl.DataFrame, calls: pl.DataFrame, ops: pl.DataFrame) -> pl.DataFrame:
    """Rows with ``part``, ``event`` and ``op`` of edges in words: part, name, launch_id, gpu_op_id.

    The name is the operation's; of host time, calls and waits, that of the call made or on the way.
    """
    by_call = calls.select("event", call_launch="launch_id", call_name="name")
    by_op = ops.select("op", "gpu_op_id", op_launch="launch_id", op_name="name")
    return (
        rows.join(by_call, on="event", how="left", maintain_order="left")
        .join(by_op, on="op", how="left", maintain_order="left")
        .with_columns(
            part=pl.col("part").cast(pl.Int64).replace_strict(dict(enumerate(PARTS)), return_dtype=pl.String),
            name=pl.coalesce("op_name", "call_name"),
            launch_id=pl.coalesce("op_launch", "call_launch"),
        )
    )


def path_rows(
    solution: Solution, ends: NDArray[np.int64], edges: pl.DataFrame, periods: NDArray[np.int64]
) -> pl.DataFrame:
    """The edges along the longest paths to ``ends``: ``which`` end, part, event, op, at_ns after the step's begin, dur_ns.

    Times are those of the path, cut to the period: work of the device that goes on after it is the next step's.
    """
    src, dst = edges["src"].to_numpy(), edges["dst"].to_numpy()
    length = path_lengths(ends, src, solution.best)
    which, edge = np.empty(length, np.int64), np.empty(length, np.int64)
    paths(ends, src, solution.best, which, edge)
    rows: pl.DataFrame = edges[edge].with_columns(
        which=pl.Series(which, dtype=pl.Int64),
        from_=pl.Series(solution.time[src[edge]]),
        to=pl.Series(solution.time[dst[edge]]),
        period=pl.Series(periods[which]),
    )
    # an edge back in time (a clock that runs ahead, work beyond the period) adds nothing
    to = pl.min_horizontal("to", "period")
    reached = to.cum_max().shift(1, fill_value=0).over("which")
    return (
        rows.with_columns(at_ns=reached, dur_ns=(to - reached).clip(lower_bound=0))
        .filter(pl.col("dur_ns") > 0)
        .select("which", "part", "event", "op", "at_ns", "dur_ns")
    )


def split_launches(rows: pl.DataFrame, calls: pl.DataFrame) -> pl.DataFrame:
    """``path_rows`` with the way from a launch to its work cut in two where the call returned."""
    way, launch = (PARTS.index(part) for part in ("latency", "launch"))
    length = calls.select("event", call_ns=pl.col("end_ns") - pl.col("start_ns"))
    cut = (
        rows.join(length, on="event", how="left", maintain_order="left")
        .with_columns(inside=pl.when(pl.col("part") == way).then(pl.min_horizontal("call_ns", "dur_ns")).otherwise(0))
        .with_row_index("order")
    )
    calling = cut.with_columns(part=pl.lit(launch, pl.Int8), dur_ns=pl.col("inside"), op=pl.lit(-1, pl.Int64))
    rest = cut.with_columns(at_ns=pl.col("at_ns") + pl.col("inside"), dur_ns=pl.col("dur_ns") - pl.col("inside"))
    return (
        pl.concat([calling, rest])
        .filter(pl.col("dur_ns") > 0)
        .sort("order", "at_ns", maintain_order=True)
        .select(rows.columns)
    )


def gpu_only_ns(model: StepModel) -> int:
    """The period with a host that takes no time: launches, latencies, waits and drains gone; what is left is GPU busy."""
    return model.period_ns(scale={"host": 0, "launch": 0, "sync": 0, "latency": 0, "drain": 0})


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

"""Trace: one opened capture, its tables and the frames derived from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl

from traceql import schema
from traceql.compact import compact

if TYPE_CHECKING:
    from traceql.opening import TraceSet

Source = Literal["torch_profiler", "nsys", "ncu"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Problem:
    """Something the file lost or could not say, found while loading.

    ``kind``: ``truncated`` (the file ends early), ``skipped`` (events that could not be read), ``dropped`` (the
    profiler says it lost data), ``unnamed`` (calls or kernels whose name is not in the file), ``diagnostic`` (a message
    the profiler left), ``note`` (an oddity, nothing lost).
    """

    kind: Literal["truncated", "skipped", "dropped", "unnamed", "diagnostic", "note"]
    message: str
    count: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class LoadedTrace:
    """What a loader returns: frames in the contract's columns, times still on the source's own clock.

    ``unix_offset_ns`` is what to add to a source time to get nanoseconds since the Unix epoch, None when the file
    does not tell. ``first_ns`` is the first event's source time where the loader knows one the tables do not show.
    """

    source: Source
    path: Path
    frames: dict[str, pl.DataFrame]
    rank: int | None = None
    unix_offset_ns: int | None = None
    first_ns: int | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What the source recorded. A rule that needs what is missing is *not applicable*, never a pass."""

    gpu_rows: bool
    """kernels, copies or fills are in the trace"""
    host_calls: bool
    """CUDA or HIP API calls are in the trace"""
    launch_links: bool
    """GPU rows can be joined to the call that launched them"""
    cpu_ops: bool
    """framework operators are in the trace"""
    shapes: bool
    """operators carry their input shapes"""
    python_stacks: bool
    """Python frames are in the trace"""
    annotations: bool
    """NVTX or record_function ranges are in the trace"""
    graph_replays: Literal["node", "graph", "opaque", "mixed"] | None
    """how CUDA graph replays were recorded: as nodes, as one row each, not at all, some of these; None: no replay"""
    complete: bool
    """nothing was truncated, skipped or dropped"""

    def as_dict(self) -> dict[str, bool | str | None]:
        return asdict(self)


@dataclass
class Part:
    """What a trace is of a file that holds several ranks: see ``Trace.ranks``.

    ``processes`` are those that work on its GPUs; ``siblings`` are all parts of the file, this one among them.
    """

    processes: tuple[int, ...]
    siblings: tuple[Trace, ...] = field(default=(), repr=False)


@dataclass(repr=False)
class Trace:
    """One capture. Tables are LazyFrames by name (``trace.kernels``), derived frames are computed once and kept.

    Attributes:
        source: ``torch_profiler``, ``nsys`` or ``ncu``.
        path: the file it came from.
        rank: rank in the distributed job, None where the file names none.
        source_offset_ns: time of the first event on the source's own clock, ns; ``start_ns`` counts from it.
        origin_unix_ns: wall-clock time of ``start_ns == 0``, ns since the Unix epoch; None when not told.
        problems: what the loader could not read, in the order met.
        eager: an eager run of the same model to name replayed kernels by; set by ``align``.
        hardware: a file of GPU peaks over the packaged ones; set by the configuration.
        part: which part of its file it is, where that holds several ranks; None for a whole file.
    """

    source: Source
    path: Path
    loaded: dict[str, pl.DataFrame] = field(repr=False)
    rank: int | None = None
    source_offset_ns: int = 0
    origin_unix_ns: int | None = None
    problems: tuple[Problem, ...] = ()
    eager: Trace | None = field(default=None, repr=False)
    hardware: Path | None = None
    part: Part | None = field(default=None, repr=False)
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_loaded(cls, loaded: LoadedTrace) -> Trace:
        """Conform a loader's frames to the contract, sort each by start and count time from the first event.

        The frames are taken out of ``loaded``: a large table is not held twice.
        """
        frames = schema.conform_all(loaded.frames)
        loaded.frames.clear()
        starts = [
            frame["start_ns"].min() for frame in frames.values() if "start_ns" in frame.columns and not frame.is_empty()
        ]
        candidates = [s for s in [*starts, loaded.first_ns] if isinstance(s, int)]
        first = min(candidates, default=0)
        placed = {name: _placed(name, frames.pop(name), first, loaded.rank) for name in schema.LOADED}
        origin = None if loaded.unix_offset_ns is None else first + loaded.unix_offset_ns
        return cls(loaded.source, loaded.path, placed, loaded.rank, first, origin, loaded.problems)

    def table(self, name: str) -> pl.DataFrame:
        """The table or derived frame ``name`` of the contract, in memory, with launch and step ids joined in."""
        from traceql import derived

        return derived.table(self, name)

    def __getattr__(self, name: str) -> pl.LazyFrame:
        if name.startswith("_") or name not in schema.TABLES:
            raise AttributeError(f"Trace has no table or attribute {name!r}; tables: {', '.join(schema.TABLES)}")
        return self.table(name).lazy()

    def sql(self, query: str) -> pl.DataFrame:
        """Run one read-only SELECT over the tables and derived frames; raises QueryError for anything else."""
        from traceql.query import run

        return run(self, query)

    def ranks(self) -> TraceSet:
        """The ranks in this file, one trace each, in order: processes that work on GPUs of their own.

        Analysis takes them for ranks as it does those of several files. Of a file of one rank: the trace itself. Times count
        from the file's first event in all of them, ids within each.
        """
        from traceql.opening import TraceSet
        from traceql.ranks.processes import ranks

        return TraceSet(ranks(self))

    @property
    def capabilities(self) -> Capabilities:
        from traceql.derived.capabilities import capabilities

        return capabilities(self)

    def memo(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """``compute()`` once per key; later calls return the kept value."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: _T = self._memo[key]
        return value

    def source_time_s(self, start_ns: int) -> float:
        """Seconds at which the source's own viewer shows ``start_ns``.

        Nsight Systems shows the session clock; Perfetto and the Chrome viewer count from the first event.
        """
        return (start_ns + (self.source_offset_ns if self.source == "nsys" else 0)) / 1e9

    def __repr__(self) -> str:
        from traceql.report.names import shown

        rank = "" if self.rank is None else f", rank {self.rank}"
        return f"<Trace {shown(self.path.name)}, {self.source}{rank}>"

    def _repr_html_(self) -> str:
        from traceql.notebook import trace_html

        return trace_html(self)


def _placed(name: str, frame: pl.DataFrame, first_ns: int, rank: int | None) -> pl.DataFrame:
    """A loaded table in order of start from ``first_ns``, with the rank and, where it has a time, its own row ids."""
    columns = [pl.lit(rank, pl.Int64).alias("rank")] if "rank" in frame.columns and rank is not None else []
    if "start_ns" not in frame.columns:
        return frame.with_columns(columns)
    ordered = compact(frame).with_columns(pl.col("start_ns") - first_ns, *columns)
    del frame
    if ordered["start_ns"].is_sorted():
        ordered = ordered.rechunk()
    else:
        order = ordered.select(pl.arg_sort_by("start_ns", maintain_order=True)).to_series()
        sorted_columns: list[pl.DataFrame] = []
        for column in ordered.columns:  # one after the other: a large table is not held twice
            sorted_columns.append(ordered.select(column)[order])
            ordered = ordered.drop(column)
        ordered = pl.concat(sorted_columns, how="horizontal")
    ordered = ordered.with_columns(pl.col("start_ns").set_sorted())
    identity = schema.TABLES[name].columns[0].name
    if not identity.endswith("_id"):
        return ordered
    return ordered.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(identity))


def in_order(traces: Iterable[Trace]) -> tuple[Trace, ...]:
    """Traces in order of rank, then path; the parts of a file in their own order."""
    return tuple(sorted(traces, key=lambda t: (t.rank is not None, t.rank or 0, str(t.path))))

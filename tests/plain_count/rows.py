"""Rows as the files hold them, and arithmetic of intervals."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

GAP_NS = 5_000  # gaps_gt_5us counts gaps strictly longer than this

WAIT = re.compile(r"(cuda|cu|hip)\w*Synchronize\w*|(cuda|cu|hip)Mem[Cc]py(?!\w*Async)\w*")
KERNEL_LAUNCH = re.compile(r"(cuda|cu|hip)\w*Launch\w*Kernel\w*|cudaLaunch")
GRAPH_LAUNCH = re.compile(r"(cuda|cu|hip)GraphLaunch(_ptsz|_spt)?")
VERSION_SUFFIX = re.compile(r"_v\d+$")

Interval = tuple[int, int]


@dataclass(frozen=True, eq=False)  # rows are compared by identity: two equal rows are two rows
class Call:
    """One runtime or driver API call of the host process `pid`."""

    name: str
    start: int
    pid: str
    correlation: int | None
    end: int = 0
    thread: str = ""

    @property
    def is_graph_launch(self) -> bool:
        return GRAPH_LAUNCH.fullmatch(self.name) is not None

    @property
    def is_kernel_launch(self) -> bool:
        return KERNEL_LAUNCH.fullmatch(self.name) is not None


@dataclass(frozen=True, eq=False)
class Op:
    """One GPU row. `pid` is the process that launched it, None where the format does not tell (torch)."""

    kind: str  # kernel, memcpy, memset, graph_trace
    start: int
    end: int
    device: int
    pid: str | None
    correlation: int | None
    stream: str = ""
    name: str = ""


@dataclass(frozen=True, eq=False)
class Mark:
    """One host-side `step[...]` range."""

    name: str
    start: int
    end: int
    pid: str
    thread: str = ""


@dataclass(frozen=True, eq=False)
class Overhead:
    """Time the profiler, or CUDA itself, took from a thread."""

    kind: str
    start: int
    end: int
    thread: str


@dataclass
class Rows:
    """What a reader takes from a file."""

    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    overheads: list[Overhead] = field(default_factory=list)


# ------------------------------------------------------------------------------------ interval arithmetic


def total(intervals: Iterable[Interval]) -> int:
    """Length of the union."""
    covered, latest = 0, -sys.maxsize
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, latest))
        latest = max(latest, end)
    return covered


def clipped(ops: Iterable[Op], low: int, high: int) -> list[Interval]:
    """The parts of the rows inside [low, high]."""
    return [(max(op.start, low), min(op.end, high)) for op in ops if op.start < high and op.end > low]


def union_ns(ops: Iterable[Op]) -> int:
    return total((op.start, op.end) for op in ops)


def span_of(ops: Iterable[Op]) -> Interval:
    """First start and last end."""
    starts, ends = zip(*((op.start, op.end) for op in ops), strict=True)
    return min(starts), max(ends)


def gaps(intervals: Iterable[Interval]) -> Iterator[int]:
    """Length of every stretch between intervals that none covers, by the running maximum of ends."""
    latest: int | None = None
    for start, end in sorted(intervals):
        if latest is not None and start > latest:
            yield start - latest
        latest = end if latest is None else max(latest, end)

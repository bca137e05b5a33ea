"""Idle stretches of each device: the step that waits, and what the host was doing meanwhile.

A gap ends with the work (or the replay nobody recorded) that starts next, and is of the step of that work; where that has
none, of the step of the next work that has one. Nothing before a device's first step and after its last is a step's.

Its causes: unknown where the work's call is not in the file; in-graph between two rows of one graph launch; device latency
where the call had returned when the gap began. Else the gap is cut by what the calling thread did: the profiler's time
(CUDA's own overheads are none), calls that wait, the call itself (a graph launch apart), after it launch latency, else host.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, pairwise

from plain_count.figures import hidden_replays, match_launches, step_holding
from plain_count.rows import WAIT, Call, Op, Rows

CUDAS_OWN = re.compile(r"lazy function|command buffer", re.IGNORECASE)


@dataclass(frozen=True)
class Gap:
    """One idle stretch of a device; ``step``: index of the mark in order of start; ``causes``: cause → ns."""

    device: int
    start: int
    end: int
    step: int | None
    causes: dict[str, int]


@dataclass(frozen=True)
class _Item:
    """What may end a gap: a GPU row, or a replay nobody recorded."""

    start: int
    end: int
    call: Call | None
    op: Op | None


@dataclass(frozen=True)
class _Activity:
    """Something a thread was in; ``kind``: blocked, call or profiler."""

    start: int
    end: int
    kind: str


class _Timeline:
    """A thread's activities, found by time."""

    def __init__(self, activities: list[_Activity]) -> None:
        self._activities = sorted(activities, key=lambda a: a.start)
        self._starts = [a.start for a in self._activities]
        self._reach = list(accumulate((a.end for a in self._activities), max))

    def during(self, start: int, end: int) -> list[_Activity]:
        """What overlaps [start, end)."""
        found = []
        for at in range(bisect_left(self._starts, end) - 1, -1, -1):
            if self._reach[at] <= start:
                break
            if self._activities[at].end > start:
                found.append(self._activities[at])
        return found


def all_gaps(rows: Rows) -> list[Gap]:
    """Every gap of every device, in order of device and start."""
    launch_of = match_launches(rows.ops, rows.calls)
    hidden = hidden_replays(rows.ops, rows.calls, launch_of)
    order = sorted(rows.marks, key=lambda m: (m.start, -m.end))
    number = {mark: index for index, mark in enumerate(order)}
    steps = {call: number[mark] for call in rows.calls if (mark := step_holding(call, rows.marks))}
    threads: dict[str, list[_Activity]] = defaultdict(list)
    for call in rows.calls:
        kind = "blocked" if WAIT.fullmatch(call.name) else "call"
        threads[call.thread].append(_Activity(call.start, call.end, kind))
    for overhead in rows.overheads:
        kind = "call" if CUDAS_OWN.search(overhead.kind) else "profiler"
        threads[overhead.thread].append(_Activity(overhead.start, overhead.end, kind))
    for mark in rows.marks:
        threads[mark.thread].append(_Activity(mark.start, mark.end, "call"))
    timelines = {thread: _Timeline(activities) for thread, activities in threads.items()}
    found: list[Gap] = []
    for device in sorted({op.device for op in rows.ops}):
        items = [_Item(op.start, op.end, launch_of.get(op), op) for op in rows.ops if op.device == device]
        items += [_Item(start, end, call, None) for start, end, call in hidden[device]]
        items.sort(key=lambda item: (item.start, item.end))
        owner = _owners([steps.get(item.call) if item.call else None for item in items])
        latest: _Item | None = None
        for item, step in zip(items, owner, strict=True):
            if latest is not None and item.start > latest.end:
                causes = _causes(latest, item, timelines)
                found.append(Gap(device, latest.end, item.start, step, causes))
            if latest is None or item.end >= latest.end:
                latest = item
    return found


def _owners(steps: list[int | None]) -> list[int | None]:
    """For each item of a device the step a gap before it belongs to; none up to the first item that has one."""
    found: list[int | None] = []
    following: int | None = None
    for step in reversed(steps):
        following = step if step is not None else following
        found.append(following)
    found.reverse()
    first = next((at for at, step in enumerate(steps) if step is not None), len(steps))
    return [None] * min(first + 1, len(steps)) + found[first + 1 :]


def _causes(before: _Item, after: _Item, timelines: dict[str, _Timeline]) -> dict[str, int]:
    start, end, call = before.end, after.start, after.call
    whole = end - start
    if call is None:
        return {"unknown": whole}
    if before.call is call and call.is_graph_launch:
        return {"in-graph": whole}
    if call.end <= start:
        return {"device latency": whole}
    during = timelines[call.thread].during(start, end)
    times = [t for a in during for t in (a.start, a.end)]
    edges = sorted({start, end, *(t for t in (*times, call.start, call.end) if start < t < end)})
    found: dict[str, int] = defaultdict(int)
    for low, high in pairwise(edges):
        found[_cause_at(low, high, call, during)] += high - low
    return dict(found)


def _cause_at(low: int, high: int, call: Call, during: list[_Activity]) -> str:
    if low >= call.end:
        return "launch latency"
    covering = [a for a in during if a.start <= low and a.end >= high]
    innermost = max(covering, key=lambda a: (a.start, -a.end), default=None)
    if innermost is not None and innermost.kind != "call":
        return innermost.kind
    if low >= call.start:
        return "graph launch" if call.is_graph_launch else "launch"
    return "host"

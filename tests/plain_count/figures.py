"""The figures of one trace from its rows; the package's docstring says what the words mean."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from typing import Any

from plain_count.rows import GAP_NS, WAIT, Call, Interval, Mark, Op, clipped, gaps, span_of, total, union_ns

Replay = tuple[int, int, Call]
STEP_KINDS = {
    "DECODE": "decode",
    "EXTEND": "prefill",
    "PREFILL": "prefill",
    "MIXED": "mixed",
    "TARGET_VERIFY": "verify",
    "DRAFT_EXTEND": "draft",
    "DRAFT": "draft",
}


def match_launches(ops: list[Op], calls: list[Call]) -> dict[Op, Call]:
    """The launch call of each GPU row that has one in the file: one call to many rows.

    Joined on (process, correlation id); on the id alone where one side does not tell its process. Should
    several calls carry one id: a graph launch before a kernel launch before any other, then the earliest.
    """
    by_id: dict[tuple[str | None, int | None], Call] = {}
    for call in sorted(calls, key=lambda c: (not c.is_graph_launch, not c.is_kernel_launch, c.start)):
        if call.correlation is not None:
            by_id.setdefault((call.pid, call.correlation), call)
            by_id.setdefault((None, call.correlation), call)
    found = {op: by_id.get((op.pid, op.correlation)) or by_id.get(("", op.correlation)) for op in ops}
    return {op: call for op, call in found.items() if call is not None}


def step_holding(call: Call, marks: list[Mark]) -> Mark | None:
    """The innermost step of the call's process whose range holds its start."""
    holding = (m for m in marks if m.pid == call.pid and m.start <= call.start < m.end)
    return max(holding, key=lambda m: (m.start, -m.end), default=None)


def step_kind(name: str) -> tuple[str | None, int | None]:
    """Kind and batch size from the words of the mark: `step[DECODE bs=64]` is ("decode", 64)."""
    label, batch = re.match(r"step\[(\w+)", name), re.search(r"\bbs=(\d+)", name)
    kind = STEP_KINDS.get(label[1].upper(), "other") if label else None
    return kind, int(batch[1]) if batch else None


def count_device(ops: list[Op], recorded: bool) -> dict[str, Any]:
    """Figures of one device; `recorded` is False where graph replays left no rows."""
    kernels = [op for op in ops if op.kind == "kernel"]
    first, last = span_of(ops)
    span, busy = last - first, union_ns(ops)
    return {
        "kernels": len(kernels),
        "kernel_time_ns": sum(op.end - op.start for op in kernels),
        "busy_ns": union_ns(kernels),
        "gpu_busy_ns": busy if recorded else None,
        "span_ns": span,
        "idle_pct": 100 * (span - busy) / span if recorded and span else None,
    }


def count_step(mark: Mark, calls: list[Call], ops: list[Op], nearby: list[Op]) -> dict[str, Any]:
    """Figures of one step from its own calls and GPU rows; `nearby` are all rows of the devices it ran on.

    `gpu_busy_ns`: how long the busiest of those devices was busy, with whatever rows, inside the step's GPU span
    on it, so that span minus busy is idle time. `own_busy_ns`: the union of the step's own rows.
    """
    kind, batch_size = step_kind(mark.name)
    first, last = span_of(ops) if ops else (0, 0)
    busiest = 0
    for device in {op.device for op in ops}:
        span = span_of(op for op in ops if op.device == device)
        busiest = max(busiest, total(clipped((op for op in nearby if op.device == device), *span)))
    return {
        "name": mark.name,
        "kind": kind,
        "batch_size": batch_size,
        "start": mark.start,
        "dur": mark.end - mark.start,
        "gpu_start": first if ops else None,
        "gpu_span_ns": last - first if ops else None,
        "gpu_busy_ns": busiest if ops else None,
        "own_busy_ns": union_ns(ops) if ops else None,
        "kernels": sum(op.kind == "kernel" for op in ops),
        "memops": sum(op.kind in ("memcpy", "memset") for op in ops),
        "launch_calls": sum(call.is_kernel_launch for call in calls),
        "graph_launches": sum(call.is_graph_launch for call in calls),
    }


def boundaries_of(
    segments: list[Interval], ops: list[Op], eager: list[Op], hidden: list[Interval]
) -> list[dict[str, int]]:
    """What lies between consecutive segments of a step on one device; `ops` are its rows.

    Wall is from the latest end of the segments so far to the start of the next (0 where they overlap), idle
    its part without any GPU row or hidden replay; eager rows are those that no graph launched, their union cut to the wall.
    """
    out: list[dict[str, int]] = []
    segments = sorted(segments)
    for i, (start, _) in enumerate(segments[1:], start=1):
        low = max(end for _, end in segments[:i])
        wall = max(0, start - low)
        unseen = [(max(a, low), min(b, low + wall)) for a, b in hidden if a < low + wall and b > low]
        idle = wall - total(clipped(ops, low, low + wall) + unseen)
        parts = clipped(eager, low, low + wall)
        counts = {"eager_gpu_ops": len(parts), "eager_busy_ns": total(parts)}
        out.append({"start": low, "wall_ns": wall, "idle_ns": idle, **counts})
    return out


def only_process(calls: list[Call]) -> str | None:
    """The process of rows that name none (torch), where the file has just one."""
    processes = {call.pid for call in calls}
    return processes.pop() if len(processes) == 1 else None


def hidden_replays(ops: list[Op], calls: list[Call], launch_of: dict[Op, Call]) -> dict[int, list[Replay]]:
    """By device: when a replay that left no row may have run, within the device's recorded span, and its launch."""
    launched = set(launch_of.values())
    waits = sorted((c for c in calls if WAIT.fullmatch(c.name)), key=lambda c: c.start)
    windows: dict[str, list[Replay]] = defaultdict(list)
    for call in calls:
        if call.is_graph_launch and call not in launched:
            until = (w.end for w in waits if (w.pid, w.thread) == (call.pid, call.thread) and w.start >= call.start)
            windows[call.pid].append((call.start, next(until, sys.maxsize), call))
    only = only_process(calls)
    found: dict[int, list[Replay]] = {}
    for device in {op.device for op in ops}:
        own = [op for op in ops if op.device == device]
        first, last = span_of(own)
        pids = {launch_of[op].pid if op in launch_of else op.pid or only for op in own}
        unseen = [
            (max(a, first), min(b, last), c) for pid in pids if pid is not None for a, b, c in windows.get(pid, [])
        ]
        found[device] = [(a, b, call) for a, b, call in unseen if b > a]
    return found


def hidden_windows(ops: list[Op], calls: list[Call], launch_of: dict[Op, Call]) -> dict[int, list[Interval]]:
    """The same without the launches."""
    return {d: [(a, b) for a, b, _ in found] for d, found in hidden_replays(ops, calls, launch_of).items()}


def count(ops: list[Op], calls: list[Call], marks: list[Mark]) -> dict[str, Any]:
    """Every figure of one trace (see the module docstring for what the words mean)."""
    launch_of = match_launches(ops, calls)
    graph_ops = {op for op, call in launch_of.items() if call.is_graph_launch}
    eager_ops = [op for op in ops if op not in graph_ops and op.kind != "graph_trace"]
    by_device: dict[int, list[Op]] = defaultdict(list)
    for op in sorted(ops, key=lambda o: o.device):
        by_device[op.device].append(op)

    # A process whose graph launches left nothing on any device: its devices' busy time is not in the file.
    replayed = {launch_of[op].pid for op in graph_ops} | {op.pid for op in ops if op.kind == "graph_trace"}
    silent = {call.pid for call in calls if call.is_graph_launch} - replayed

    hidden = hidden_windows(ops, calls, launch_of)
    only = only_process(calls)

    def recorded(own: list[Op]) -> bool:
        if hidden[own[0].device]:
            return False
        pids = {launch_of[op].pid if op in launch_of else op.pid or only for op in own}
        return not silent & pids

    step_calls: dict[Mark, list[Call]] = defaultdict(list)
    step_of = {call: step_holding(call, marks) for call in calls}
    for call, held in step_of.items():
        if held:
            step_calls[held].append(call)
    step_ops: dict[Mark, list[Op]] = defaultdict(list)
    for op, call in launch_of.items():
        if held := step_of[call]:
            step_ops[held].append(op)

    steps, between = list[dict[str, Any]](), list[dict[str, Any]]()
    for step_id, mark in enumerate(sorted(marks, key=lambda m: (m.start, -m.end))):
        own = step_ops[mark]
        devices = sorted({op.device for op in own})
        step = count_step(mark, step_calls[mark], own, [op for d in devices for op in by_device[d]])
        replays: dict[tuple[int, Call], list[Op]] = defaultdict(list)
        for op in own:
            if op in graph_ops:
                replays[op.device, launch_of[op]].append(op)
        step["graph_segments"] = len(replays)
        graphs = {call for call in step_calls[mark] if call.is_graph_launch}
        if graphs and not replays:
            step["graph_segments"] = None
        if graphs - {call for _, call in replays}:
            step |= {"gpu_busy_ns": None, "own_busy_ns": None}
        steps.append({"step_id": step_id, **step})
        found: list[dict[str, int]] = []
        for device in devices:
            segments = [span_of(segment) for (where, _), segment in replays.items() if where == device]
            eager = [op for op in eager_ops if op.device == device]
            lying_between = boundaries_of(segments, by_device[device], eager, hidden[device])
            found += [{"device": device, **b} for b in lying_between]
        between.append({"step_id": step_id, "boundaries": found})

    kinds = Counter(op.kind for op in ops)
    matched = sum(op.kind != "graph_trace" for op in launch_of)
    seen = {d: [(op.start, op.end) for op in own] for d, own in by_device.items()}
    long_gaps = {d: [gap for gap in gaps(rows) if gap > GAP_NS] for d, rows in seen.items()}
    long_idle = {d: [gap for gap in gaps(rows + hidden[d]) if gap > GAP_NS] for d, rows in seen.items()}
    return {
        "kernels": kinds["kernel"],
        "memcpys": kinds["memcpy"],
        "memsets": kinds["memset"],
        "kernel_time_ns": sum(op.end - op.start for op in ops if op.kind == "kernel"),
        "devices": {d: count_device(own, recorded(own)) for d, own in by_device.items()},
        "matched_gpu_ops": matched,
        "unmatched_gpu_ops": len(ops) - kinds["graph_trace"] - matched,
        "launch_calls": sum(call.is_kernel_launch for call in calls),
        "graph_launches": sum(call.is_graph_launch for call in calls),
        "graph_kernels": sum(op.kind == "kernel" for op in graph_ops),
        "steps": steps,
        "gaps_gt_5us": {d: [len(lengths), sum(lengths)] for d, lengths in long_gaps.items()},
        "idle_gaps_gt_5us": {d: [len(lengths), sum(lengths)] for d, lengths in long_idle.items()},
        "segments_and_boundaries": between,
    }

"""The metrics once more, in plain Python: the independent truth that the tests hold the engine against.

Standard library only, no import of traceql, written from the definitions and not from the engine's code:
loops over rows, integer nanoseconds. A reader turns a file into three lists (GPU rows, API calls, host step
marks); `count` computes every figure from those lists.

- GPU row: a kernel, a memory copy, a memory fill, or a GRAPH_TRACE row (one opaque graph replay, nsys only).
- Launch of a GPU row: the runtime or driver call with its correlation id (and, for nsys, its process).
- Busy: union of the intervals of all GPU rows of one device. Span: first start to last end of those rows.
  Gap: idle time between GPU rows, by the running maximum of ends; gaps sum to span minus busy.
- Not recorded: where a process launched graphs and none of them left a device row, or where a hidden replay (below)
  may have run within a device's span, its busy and idle time are None; in a step, where any of its replays left none.
- Hidden: from a graph launch without rows to the end of the next waiting call of its thread, on every device of its
  process, a replay may have run; that time is no gap (`idle_gaps_gt_5us`), though no row is seen (`gaps_gt_5us`).
- Step: a host-side range named `step[...]`; its busy time is that of the device it kept busiest. A call belongs to the innermost step of its process whose range
  holds the start of the call (start inclusive, end exclusive); a GPU row belongs to the step of its launch.
- Segment: the GPU rows of one graph launch on one device. Boundary: what lies between two consecutive
  segments of a step on one device.

Times stay on the file's own clock: torch `ts` without `baseTimeNanoseconds`, nsys session nanoseconds.
"""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

GAP_NS = 5_000  # gaps_gt_5us counts gaps strictly longer than this

WAIT = re.compile(r"(cuda|cu|hip)\w*Synchronize\w*|(cuda|cu|hip)Mem[Cc]py(?!\w*Async)\w*")
KERNEL_LAUNCH = re.compile(r"(cuda|cu|hip)\w*Launch\w*Kernel\w*|cudaLaunch")
GRAPH_LAUNCH = re.compile(r"(cuda|cu|hip)GraphLaunch(_ptsz|_spt)?")
VERSION_SUFFIX = re.compile(r"_v\d+$")

TORCH_CALLS = {"cuda_runtime", "cuda_driver", "runtime", "driver", "hip_runtime"}
TORCH_GPU_ROWS = {"kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset"}  # the last two: 2020-21
NSYS_GPU_ROWS = ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE")  # tables CUPTI_ACTIVITY_KIND_…
NVTX_RANGES = {59, 60}  # push/pop and start/end
STEP_KINDS = {
    "DECODE": "decode",
    "EXTEND": "prefill",
    "PREFILL": "prefill",
    "MIXED": "mixed",
    "TARGET_VERIFY": "verify",
    "DRAFT_EXTEND": "draft",
    "DRAFT": "draft",
}

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


@dataclass(frozen=True, eq=False)
class Mark:
    """One host-side `step[...]` range."""

    name: str
    start: int
    end: int
    pid: str


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


# ----------------------------------------------------------------------------------------- torch profiler


def nanoseconds(value: object) -> int | None:
    """Decimal microseconds, as written in the file, to integer nanoseconds; None for what is not a number."""
    try:
        return int(Decimal(str(value)).scaleb(3).to_integral_value(rounding=ROUND_HALF_EVEN))
    except (InvalidOperation, ValueError, OverflowError):  # text, NaN, Infinity
        return None


def integer(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def torch_device(event: dict[str, Any], args: dict[str, Any]) -> int:
    """`args.device`, else the number in the row's pid (files that keep the device only there), else -1."""
    device = integer(args.get("device"))
    if device is None:
        digits = re.search(r"\d+", str(event.get("pid", "")))
        device = int(digits[0]) if digits else -1
    return device


def count_torch(path: str | Path) -> dict[str, Any]:
    """Figures of a torch profiler trace: an object with `traceEvents`, or a bare array; gzip or not."""
    raw = Path(path).read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig", errors="replace")
    # Floats stay the text they are: a float64 loses nanoseconds of an epoch timestamp.
    document = json.loads(text, parse_float=str, parse_constant=str, strict=False)
    ops, calls, marks = list[Op](), list[Call](), list[Mark]()
    for event in document["traceEvents"] if isinstance(document, dict) else document:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        start, dur = nanoseconds(event.get("ts")), nanoseconds(event.get("dur", 0))
        if start is None or dur is None or dur < 0:
            continue
        end = start + dur
        category = str(event.get("cat", "")).lower()
        name, pid, args = str(event.get("name", "")), str(event.get("pid", "")), event.get("args") or {}
        correlation = integer(args.get("correlation")) or None  # 0 is CUPTI's "unknown", not an id
        if category in TORCH_GPU_ROWS:
            kind, device = category.removeprefix("gpu_"), torch_device(event, args)
            ops.append(Op(kind, start, end, device, None, correlation))
        elif category in TORCH_CALLS:
            calls.append(Call(VERSION_SUFFIX.sub("", name), start, pid, correlation, end, str(event.get("tid", ""))))
        elif category == "user_annotation" and name.startswith("step["):
            marks.append(Mark(name, start, end, pid))
    return count(ops, calls, marks)


# ----------------------------------------------------------------------------------------- Nsight Systems


def process_of(global_id: int | None) -> str | None:
    """The process id inside a globalTid or globalPid."""
    return None if global_id is None else str((global_id >> 24) & 0xFFFFFF)


def rows(db: sqlite3.Connection, table: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The columns of a table; None for a column it lacks, no rows where the table itself is missing."""
    present = {row[1] for row in db.execute(f'PRAGMA table_info("{table}")')}
    if present:
        selected = ", ".join(f'"{name}"' if name in present else "NULL" for name in columns)
        yield from db.execute(f'SELECT {selected} FROM "{table}"')


def count_nsys(path: str | Path) -> dict[str, Any]:
    """Figures of an Nsight Systems SQLite export; every table and column may be missing."""
    db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
    db.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    ops, calls, marks = list[Op](), list[Call](), list[Mark]()
    try:
        strings: dict[int, str] = dict(rows(db, "StringIds", "id", "value"))
        for kind in NSYS_GPU_ROWS:
            columns = ["start", "end", "deviceId", "globalPid", "correlationId"]
            for start, end, device, pid, correlation in rows(db, f"CUPTI_ACTIVITY_KIND_{kind}", *columns):
                if None not in (start, end) and end >= start:
                    where = (-1 if device is None else device, process_of(pid))
                    ops.append(Op(kind.lower(), start, end, *where, correlation or None))
        columns = ["start", "end", "nameId", "globalTid", "correlationId"]
        for start, end, name_id, tid, correlation in rows(db, "CUPTI_ACTIVITY_KIND_RUNTIME", *columns):
            if start is not None:
                name = VERSION_SUFFIX.sub("", strings.get(name_id, ""))
                calls.append(Call(name, start, process_of(tid) or "", correlation or None, end or start, str(tid)))
        columns = ["start", "end", "eventType", "text", "textId", "globalTid"]
        for start, end, event_type, text, text_id, tid in rows(db, "NVTX_EVENTS", *columns):
            name = text if text is not None else strings.get(text_id, "")
            if event_type in NVTX_RANGES and None not in (start, end) and name.startswith("step["):
                marks.append(Mark(name, start, end, process_of(tid) or ""))
    finally:
        db.close()
    return count(ops, calls, marks)


# -------------------------------------------------------------------------------------------- the figures


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


def hidden_windows(ops: list[Op], calls: list[Call], launch_of: dict[Op, Call]) -> dict[int, list[Interval]]:
    """By device: when a replay that left no row may have run, within the device's recorded span."""
    launched = set(launch_of.values())
    waits = sorted((c for c in calls if WAIT.fullmatch(c.name)), key=lambda c: c.start)
    windows: dict[str, list[Interval]] = defaultdict(list)
    for call in calls:
        if call.is_graph_launch and call not in launched:
            until = (w.end for w in waits if (w.pid, w.thread) == (call.pid, call.thread) and w.start >= call.start)
            windows[call.pid].append((call.start, next(until, sys.maxsize)))
    only = only_process(calls)
    found: dict[int, list[Interval]] = {}
    for device in {op.device for op in ops}:
        own = [op for op in ops if op.device == device]
        first, last = span_of(own)
        pids = {launch_of[op].pid if op in launch_of else op.pid or only for op in own}
        unseen = [(max(a, first), min(b, last)) for pid in pids if pid is not None for a, b in windows.get(pid, [])]
        found[device] = [(a, b) for a, b in unseen if b > a]
    return found


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


def main(arguments: list[str]) -> int:
    """Print the figures of each file as JSON."""
    for path in arguments:
        with Path(path).open("rb") as file:
            reader = count_nsys if file.read(15) == b"SQLite format 3" else count_torch
        print(json.dumps({"path": path, **reader(path)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

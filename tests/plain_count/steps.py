"""What the steps of a trace cost: periods, and busy, idle and lead-in time on each device.

The period is the start of the next step on the thread less the own start; the last one's reaches to the end of its GPU work
or of its range, whichever is later. A step's figures are those of its busiest device, of equals the lowest. Lead-in: of a
device's first step (that of the first work there), the idle time from the step's start to its first work there; no other step has any.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from plain_count.figures import hidden_windows, match_launches, step_holding
from plain_count.gaps import all_gaps
from plain_count.rows import Op, Rows, clipped, span_of, total


def steps(rows: Rows) -> list[dict[str, Any]]:
    """One dictionary a step, with one for each device under ``devices``; busy and idle are None where replays left no row."""
    order = sorted(rows.marks, key=lambda m: (m.start, -m.end))
    launch_of = match_launches(rows.ops, rows.calls)
    hidden = hidden_windows(rows.ops, rows.calls, launch_of)
    held = {call: step_holding(call, rows.marks) for call in rows.calls}
    own: dict[Any, list[Op]] = defaultdict(list)
    for op, call in launch_of.items():
        own[held[call]].append(op)
    idle: dict[tuple[int, int], int] = defaultdict(int)
    for gap in all_gaps(rows):
        if gap.step is not None:
            idle[gap.step, gap.device] += gap.end - gap.start
    launched = set(launch_of.values())
    unseen_in = {held[call] for call in rows.calls if call.is_graph_launch and call not in launched}
    first_on = {
        device: min(((op.start, index) for index, m in enumerate(order) for op in own[m] if op.device == device))[1]
        for device in {op.device for m in order for op in own[m]}
    }
    found = []
    for index, mark in enumerate(order):
        silent = mark in unseen_in
        following = [m.start for m in order[index + 1 :] if m.thread == mark.thread]
        end = following[0] if following else max([mark.end, *(op.end for op in own[mark])])
        devices = {}
        for device in sorted({op.device for op in own[mark]}):
            first, last = span_of(op for op in own[mark] if op.device == device)
            there = [op for op in rows.ops if op.device == device]
            lead = None if silent else 0  # a gap covers what passes before any other step's work
            if index == first_on[device] and not silent:
                unseen = [
                    (max(a, mark.start), min(b, first)) for a, b in hidden[device] if a < first and b > mark.start
                ]
                lead = max(0, first - mark.start - total(clipped(there, mark.start, first) + unseen))
            devices[device] = {
                "gpu_start": first,
                "gpu_span_ns": last - first,
                "gpu_busy_ns": None if silent else total(clipped(there, first, last)),
                "gpu_idle_ns": None if silent else idle[index, device],
                "lead_in_ns": lead,
                "kernels": sum(op.kind == "kernel" for op in own[mark] if op.device == device),
            }
        busiest = max(devices, key=lambda d: (devices[d]["gpu_busy_ns"] or 0, -d), default=None)
        found.append({"period_ns": end - mark.start, "device": busiest, "devices": devices})
    return found

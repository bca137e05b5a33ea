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

from pathlib import Path
from typing import Any

from plain_count.figures import count, step_kind
from plain_count.nsys import read_nsys
from plain_count.rows import GAP_NS, Call, Rows, total
from plain_count.torch import TORCH_GPU_ROWS, nanoseconds, read_torch

__all__ = [
    "GAP_NS", "TORCH_GPU_ROWS", "Call", "Rows", "count", "count_file", "count_nsys", "count_torch", "nanoseconds", "read",
    "step_kind", "total",
]  # fmt: skip


def count_torch(path: str | Path) -> dict[str, Any]:
    """Figures of a torch profiler trace."""
    rows = read_torch(path)
    return count(rows.ops, rows.calls, rows.marks)


def count_nsys(path: str | Path) -> dict[str, Any]:
    """Figures of an Nsight Systems SQLite export."""
    rows = read_nsys(path)
    return count(rows.ops, rows.calls, rows.marks)


def read(path: str | Path) -> Rows:
    """Rows of either format, told by the content."""
    with Path(path).open("rb") as file:
        return (read_nsys if file.read(15) == b"SQLite format 3" else read_torch)(path)


def count_file(path: str | Path) -> dict[str, Any]:
    """Figures of a file of either format."""
    rows = read(path)
    return count(rows.ops, rows.calls, rows.marks)

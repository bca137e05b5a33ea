"""What a device did while it communicated.

A communication kernel waits behind earlier kernels of its own stream (early), runs beside an earlier communication kernel
(shared), under computing kernels of other streams (hidden), or alone (exposed). Each nanosecond counts once, in that order.
"""

from __future__ import annotations

import re

from plain_count.rows import Op, Rows, clipped, total

COMMUNICATES = re.compile(
    r"nccl|rccl|cross_device_reduce|all_?reduce|multimem|two_?shot|one_?shot|deep_ep|nvshmem|all_?gather|reduce_?scatter",
    re.IGNORECASE,
)


def overlaps(rows: Rows) -> list[dict[str, int]]:
    """One dictionary a communication kernel, in order of device and start."""
    kernels = [op for op in rows.ops if op.kind == "kernel"]
    talking = sorted(
        (op for op in kernels if COMMUNICATES.search(op.name)), key=lambda op: (op.device, op.start, op.end)
    )
    found = []
    for index, op in enumerate(talking):
        here = [k for k in kernels if k.device == op.device and k is not op and k.start < op.end and k.end > op.start]
        before = [k for k in here if k.stream == op.stream and k.start < op.start and not COMMUNICATES.search(k.name)]
        earlier = [k for k in talking[:index] if k.device == op.device]
        computing = [k for k in here if k.stream != op.stream and not COMMUNICATES.search(k.name)]
        early = _covered(op, before)
        shared = _covered(op, [*before, *earlier]) - early
        hidden = _covered(op, [*before, *earlier, *computing]) - early - shared
        whole = op.end - op.start
        found.append({"device": op.device, "start": op.start, "dur_ns": whole, "early_ns": early, "shared_ns": shared,
                      "hidden_ns": hidden, "exposed_ns": whole - early - shared - hidden})  # fmt: skip
    return found


def _covered(op: Op, others: list[Op]) -> int:
    return total(clipped(others, op.start, op.end))

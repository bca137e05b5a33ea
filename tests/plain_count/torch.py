"""Rows of a torch profiler trace."""

from __future__ import annotations

import gzip
import json
import re
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from plain_count.rows import VERSION_SUFFIX, Call, Mark, Op, Overhead, Rows

TORCH_CALLS = {"cuda_runtime", "cuda_driver", "runtime", "driver", "hip_runtime"}
TORCH_GPU_ROWS = {"kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset"}  # the last two: 2020-21


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


def stream_of(event: dict[str, Any], args: dict[str, Any]) -> str:
    """`args.stream`, else the row's thread."""
    return str(args.get("stream", event.get("tid", "")))


def read_torch(path: str | Path) -> Rows:
    """Rows of a torch profiler trace: an object with `traceEvents`, or a bare array; gzip or not."""
    raw = Path(path).read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig", errors="replace")
    # Floats stay the text they are: a float64 loses nanoseconds of an epoch timestamp.
    document = json.loads(text, parse_float=str, parse_constant=str, strict=False)
    found = Rows()
    for event in document["traceEvents"] if isinstance(document, dict) else document:
        if not isinstance(event, dict) or event.get("ph") != "X":
            continue
        start, dur = nanoseconds(event.get("ts")), nanoseconds(event.get("dur", 0))
        if start is None or dur is None or dur < 0:
            continue
        end = start + dur
        category = str(event.get("cat", "")).lower()
        name, pid, args = str(event.get("name", "")), str(event.get("pid", "")), event.get("args") or {}
        thread = f"{pid}/{event.get('tid', '')}"
        correlation = integer(args.get("correlation")) or None  # 0 is CUPTI's "unknown", not an id
        if category in TORCH_GPU_ROWS:
            kind, device = category.removeprefix("gpu_"), torch_device(event, args)
            found.ops.append(Op(kind, start, end, device, None, correlation, stream_of(event, args), name))
        elif category in TORCH_CALLS:
            found.calls.append(Call(VERSION_SUFFIX.sub("", name), start, pid, correlation, end, thread))
        elif category == "user_annotation" and name.startswith("step["):
            found.marks.append(Mark(name, start, end, pid, thread))
        elif category == "overhead":
            found.overheads.append(Overhead(name, start, end, thread))
    return found

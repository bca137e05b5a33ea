"""Nsight Compute counters → columns of ``ncu_kernels``, over the names of different versions and chips."""

from __future__ import annotations

import re
from collections.abc import Mapping

from traceql.loaders.limits import MOST_INTEGER
from traceql.stalls import stall_reason

Numbers = Mapping[str, float]
"""Metric name → value in its base unit."""
Cell = int | float | str | None

_ELAPSED = "avg.pct_of_peak_sustained_elapsed"
_ACTIVE = "avg.pct_of_peak_sustained_active"

_PERCENT: dict[str, tuple[str, ...]] = {
    "sm_throughput_pct": (f"sm__throughput.{_ELAPSED}",),
    "memory_throughput_pct": (f"gpu__compute_memory_throughput.{_ELAPSED}",),
    "dram_throughput_pct": (f"gpu__dram_throughput.{_ELAPSED}", f"dram__throughput.{_ELAPSED}"),
    "l1_throughput_pct": (f"l1tex__throughput.{_ACTIVE}", f"l1tex__throughput.{_ELAPSED}"),
    "l2_throughput_pct": (f"lts__throughput.{_ELAPSED}",),
    "issue_active_pct": (f"smsp__issue_active.{_ACTIVE}", f"sm__issue_active.{_ACTIVE}"),
    "achieved_occupancy_pct": (f"sm__warps_active.{_ACTIVE}",),
    "theoretical_occupancy_pct": ("sm__maximum_warps_per_active_cycle_pct",),
    "l1_hit_pct": ("l1tex__t_sector_hit_rate.pct",),
    "l2_hit_pct": ("lts__t_sector_hit_rate.pct",),
}
_TENSOR_PIPE = (
    f"sm__pipe_tensor_cycles_active.{_ACTIVE}",
    f"sm__inst_executed_pipe_tensor.{_ACTIVE}",
    f"sm__pipe_tensor_cycles_active.{_ELAPSED}",
)
_TENSOR_FAMILY = re.compile(
    r"sm__(?:pipe_tensor_op_\w+_cycles_active|inst_executed_pipe_tensor_op_\w+)\.avg\.pct_of_peak_sustained_active"
)
_TENSOR_OPERATIONS = re.compile(r"sm__ops_path_tensor_src_(\w+)\.sum")
_BY_SPARSITY = re.compile(r"_sparsity_(?:on|off)$")
_SECTOR_BYTES = 32
_TOO_LARGE = 2.0**63
_LIMITS = ("registers", "shared_mem", "warps", "blocks", "barriers")
_CYCLES = "smsp__average_warps_issue_stalled"
_SHARES = "smsp__warp_issue_stalled"
_SAMPLES = "smsp__pcsamp_warps_issue_stalled"
"""Stall counters: warp cycles per issued instruction, per cent of them, samples."""
_CYCLES_TOTAL = "smsp__average_warp_latency_per_inst_issued.ratio"


def columns(numbers: Numbers) -> dict[str, Cell]:
    """The fixed counter columns of one profiled kernel; null where its report lacks the counters."""
    dur_ns = numbers.get("gpu__time_duration.sum")
    row: dict[str, Cell] = {
        "registers_per_thread": _whole(numbers.get("launch__registers_per_thread")),
        "shared_memory_bytes": _whole(_shared_memory(numbers)),
        "dur_ns": _whole(dur_ns),
        "waves_per_sm": numbers.get("launch__waves_per_multiprocessor"),
        "dram_bytes": _whole(_dram_bytes(numbers, dur_ns)),
        "dram_bytes_per_s": numbers.get("dram__bytes.sum.per_second"),
        "tensor_pipe_pct": _tensor_pipe(numbers),
        "tensor_flops": _whole(_tensor_flops(numbers)),
        "occupancy_limiter": _limiter(numbers),
        "coalescing_pct": _coalescing(numbers, "ld"),
        "store_coalescing_pct": _coalescing(numbers, "st"),
        "spill_requests": _whole(
            _first(numbers, "derived__local_spilling_requests", "sass__inst_executed_register_spilling")
        ),
        "local_memory_bytes": _whole(_local_memory(numbers)),
    }
    row.update({name: _first(numbers, *metrics) for name, metrics in _PERCENT.items()})
    return row | _top_stall(numbers)


def _first(numbers: Numbers, *metrics: str) -> float | None:
    return next((numbers[metric] for metric in metrics if metric in numbers), None)


def _sum(numbers: Numbers, *metrics: str) -> float | None:
    """Sum of the metrics present, None when none is."""
    present = [numbers[metric] for metric in metrics if metric in numbers]
    return sum(present) if present else None


def _whole(value: float | None) -> int | None:
    return round(value) if value is not None and abs(value) < MOST_INTEGER else None


def _shared_memory(numbers: Numbers) -> float | None:
    """Static plus dynamic bytes a block, without what the driver reserves."""
    return _sum(numbers, "launch__shared_mem_per_block_static", "launch__shared_mem_per_block_dynamic")


def _dram_bytes(numbers: Numbers, dur_ns: float | None) -> float | None:
    if "dram__bytes.sum" in numbers:
        return numbers["dram__bytes.sum"]
    if "dram__bytes_read.sum" in numbers and "dram__bytes_write.sum" in numbers:
        return numbers["dram__bytes_read.sum"] + numbers["dram__bytes_write.sum"]
    rate = numbers.get("dram__bytes.sum.per_second")
    return None if rate is None or dur_ns is None else rate * dur_ns / 1e9


def _tensor_pipe(numbers: Numbers) -> float | None:
    """All tensor instructions together, else the busiest of the kinds that are counted apart."""
    whole = _first(numbers, *_TENSOR_PIPE)
    if whole is not None:
        return whole
    return max((value for name, value in numbers.items() if _TENSOR_FAMILY.fullmatch(name)), default=None)


def _tensor_flops(numbers: Numbers) -> float | None:
    """Operations the tensor cores executed; by sparsity only where no total stands beside."""
    counted = {found[1]: value for name, value in numbers.items() if (found := _TENSOR_OPERATIONS.fullmatch(name))}
    totals = [
        value
        for kind, value in counted.items()
        if (total := _BY_SPARSITY.sub("", kind)) == kind or total not in counted
    ]
    return sum(totals) if totals else None


def _limiter(numbers: Numbers) -> str | None:
    """What holds the fewest blocks on an SM, ``, `` between equals; None at full theoretical occupancy."""
    if numbers.get("sm__maximum_warps_per_active_cycle_pct", 0.0) >= 100:
        return None
    limits = {limit: numbers[metric] for limit in _LIMITS if (metric := f"launch__occupancy_limit_{limit}") in numbers}
    lowest = min(limits.values(), default=0)
    return ", ".join(limit for limit, blocks in limits.items() if blocks == lowest) or None


def _coalescing(numbers: Numbers, op: str) -> float | None:
    """Bytes used of each 32-byte sector of global memory touched, 0-100; None without such accesses."""
    stem = f"smsp__sass_average_data_bytes_per_sector_mem_global_op_{op}"
    used = numbers.get(f"{stem}.pct")
    if used is None and f"{stem}.ratio" in numbers:
        used = numbers[f"{stem}.ratio"] / _SECTOR_BYTES * 100
    return used or None


def _local_memory(numbers: Numbers) -> float | None:
    stem = "l1tex__t_sectors_pipe_lsu_mem_local_op"
    sectors = _sum(numbers, f"{stem}_ld.sum", f"{stem}_st.sum")
    return None if sectors is None else sectors * _SECTOR_BYTES


def _top_stall(numbers: Numbers) -> dict[str, Cell]:
    """The reason with the most warp cycles, its share of all, and its cycles an issued instruction."""
    for family in (_CYCLES, _SHARES, _SAMPLES):
        cycles = {
            reason: value
            for metric, value in numbers.items()
            if metric.startswith(family) and (reason := stall_reason(metric))
        }
        stalls = {reason: value for reason, value in cycles.items() if reason != "selected"}
        if not any(stalls.values()):
            continue
        top = max(stalls, key=lambda reason: stalls[reason])
        totals = {_CYCLES: numbers.get(_CYCLES_TOTAL), _SHARES: 100.0}
        total = totals.get(family) or sum(cycles.values())
        return {
            "top_stall": top,
            "top_stall_pct": stalls[top] / total * 100,
            "top_stall_ratio": stalls[top] if family == _CYCLES else None,
        }
    return {"top_stall": None, "top_stall_pct": None, "top_stall_ratio": None}

"""CSV pages of Nsight Compute: ``--page raw`` (a row a kernel) and ``--page details`` (a row a metric)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from traceql.errors import UnreadableTraceError
from traceql.loaders.ncu_units import base_unit, decimal_comma, number


@dataclass(frozen=True)
class Value:
    """One metric of one kernel: a number in its base unit, or a text."""

    number: float | None
    unit: str = ""
    text: str | None = None


@dataclass
class Profile:
    """One profiled workload, mostly a kernel, with its metrics by name; None where nothing tells."""

    name: str
    metrics: dict[str, Value] = field(default_factory=dict)
    pid: int | None = None
    process: str | None = None
    context: int | None = None
    stream: int | None = None
    device: int | None = None
    compute_capability: str | None = None
    workload: str | None = None
    grid: tuple[int, ...] = ()
    block: tuple[int, ...] = ()

    def numbers(self) -> dict[str, float]:
        """The numeric metrics, in base units."""
        return {metric: value.number for metric, value in self.metrics.items() if value.number is not None}

    def number(self, metric: str) -> float | None:
        value = self.metrics.get(metric)
        return value.number if value else None

    def text(self, metric: str) -> str | None:
        value = self.metrics.get(metric)
        return value.text if value else None


@dataclass(frozen=True)
class Page:
    """What a CSV file holds: which page, its kernels in profiling order, and rows shorter than the header."""

    kind: str
    profiles: list[Profile]
    broken_rows: int


_IDENTITY = {
    "ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Kernel Time", "Context", "Stream",
    "Block Size", "Grid Size", "Device", "CC",
}  # fmt: skip
"""Columns of both pages that identify the kernel; every other column of the raw page is a metric."""

_ELAPSED = "avg.pct_of_peak_sustained_elapsed"
_ACTIVE = "avg.pct_of_peak_sustained_active"
LABELS: dict[str, str] = {
    "Achieved Active Warps Per SM": "sm__warps_active.avg.per_cycle_active",
    "Achieved Occupancy": f"sm__warps_active.{_ACTIVE}",
    "Active Warps Per Scheduler": "smsp__warps_active.avg.per_cycle_active",
    "Average SM Active Cycles": "sm__cycles_active.avg",
    "Avg. Active Threads Per Warp": "smsp__thread_inst_executed_per_inst_executed.ratio",
    "Block Limit Barriers": "launch__occupancy_limit_barriers",
    "Block Limit Registers": "launch__occupancy_limit_registers",
    "Block Limit SM": "launch__occupancy_limit_blocks",
    "Block Limit Shared Mem": "launch__occupancy_limit_shared_mem",
    "Block Limit Warps": "launch__occupancy_limit_warps",
    "Block Size": "launch__block_size",
    "Cluster Size": "launch__cluster_size",
    "Compute (SM) Throughput": f"sm__throughput.{_ELAPSED}",
    "Compute (SM) [%]": f"sm__throughput.{_ELAPSED}",
    "DRAM Frequency": "dram__cycles_elapsed.avg.per_second",
    "DRAM Throughput": f"gpu__dram_throughput.{_ELAPSED}",
    "Driver Shared Memory Per Block": "launch__shared_mem_per_block_driver",
    "Duration": "gpu__time_duration.sum",
    "Dynamic Shared Memory Per Block": "launch__shared_mem_per_block_dynamic",
    "Elapsed Cycles": "gpc__cycles_elapsed.max",
    "Eligible Warps Per Scheduler": "smsp__warps_eligible.avg.per_cycle_active",
    "Executed Instructions": "smsp__inst_executed.sum",
    "Executed Ipc Active": "sm__inst_executed.avg.per_cycle_active",
    "Executed Ipc Elapsed": "sm__inst_executed.avg.per_cycle_elapsed",
    "Grid Size": "launch__grid_size",
    "Issued Instructions": "smsp__inst_issued.sum",
    "Issued Ipc Active": "sm__inst_issued.avg.per_cycle_active",
    "L1/TEX Cache Throughput": f"l1tex__throughput.{_ACTIVE}",
    "L1/TEX Hit Rate": "l1tex__t_sector_hit_rate.pct",
    "L2 Cache Throughput": f"lts__throughput.{_ELAPSED}",
    "L2 Hit Rate": "lts__t_sector_hit_rate.pct",
    "Local Memory Spilling Request Overhead": "derived__local_spilling_requests_pct",
    "Local Memory Spilling Requests": "derived__local_spilling_requests",
    "Max Bandwidth": f"gpu__compute_memory_request_throughput.{_ELAPSED}",
    "Mem Busy": f"gpu__compute_memory_access_throughput.{_ELAPSED}",
    "Mem Pipes Busy": f"sm__memory_throughput.{_ELAPSED}",
    "Memory [%]": f"gpu__compute_memory_throughput.{_ELAPSED}",
    "Memory Throughput": f"gpu__compute_memory_throughput.{_ELAPSED}",
    "No Eligible": f"smsp__issue_inst0.{_ACTIVE}",
    "One or More Eligible": f"smsp__issue_active.{_ACTIVE}",
    "Registers Per Thread": "launch__registers_per_thread",
    "SM [%]": f"sm__throughput.{_ELAPSED}",
    "SM Active Cycles": "sm__cycles_active.avg",
    "SOL DRAM": f"gpu__dram_throughput.{_ELAPSED}",
    "SOL FB": f"gpu__dram_throughput.{_ELAPSED}",
    "SOL L2 Cache": f"lts__throughput.{_ELAPSED}",
    "SOL Memory": f"gpu__compute_memory_throughput.{_ELAPSED}",
    "SOL SM": f"sm__throughput.{_ELAPSED}",
    "Selected": "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio",
    "Shared Memory Configuration Size": "launch__shared_mem_config_size",
    "Static Shared Memory Per Block": "launch__shared_mem_per_block_static",
    "Theoretical Active Warps per SM": "sm__maximum_warps_avg_per_active_cycle",
    "Theoretical Occupancy": "sm__maximum_warps_per_active_cycle_pct",
    "Threads": "launch__thread_count",
    "Warp Cycles Per Executed Instruction": "smsp__average_warps_active_per_inst_executed.ratio",
    "Warp Cycles Per Issued Instruction": "smsp__average_warp_latency_per_inst_issued.ratio",
    "Waves Per SM": "launch__waves_per_multiprocessor",
    "# SMs": "launch__sm_count",
}
"""Labels of the details page → metric names, as the reports of 2020 to 2025 pair them."""


_MOST_DIGITS = 18  # of an integer that fits Int64


_DELIMITERS = (",", ";", "\t")
"""Nsight Compute writes commas; spreadsheets save what they like."""


def is_header(line: str) -> bool:
    """Whether a line is the header of a page: columns from ID on, the kernel's name among them."""
    return _delimiter(line) is not None


def _delimiter(line: str) -> str | None:
    """What separates the columns of a header line; None for any other line."""
    plain = line.lstrip("\ufeff").replace('"', "").rstrip()
    for delimiter in _DELIMITERS:
        names = plain.split(delimiter)
        if names[0] == "ID" and "Kernel Name" in names:
            return delimiter
    return None


def read(text: str, path: Path) -> Page:
    """Parse a raw or details page, or several one after the other; raises UnreadableTraceError with what the file is
    instead."""
    lines = text.lstrip("\ufeff").splitlines(keepends=True)
    starts = [index for index, line in enumerate(lines) if is_header(line)]
    if not starts:
        raise UnreadableTraceError(
            f"{path}: no Nsight Compute CSV page (no header line); export one with "
            "ncu --import REPORT --csv --page raw --print-units base"
        )
    cut = _is_cut(lines[-1])
    pages = []
    try:
        for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
            rows = csv.reader(
                lines[start : stop - (cut and stop == len(lines))], delimiter=_delimiter(lines[start]) or ","
            )
            pages.append(_page(next(rows, []), rows, path))
    except csv.Error as error:
        raise UnreadableTraceError(f"{path}: not a CSV page of Nsight Compute ({error})") from error
    profiles = [profile for page in pages for profile in page.profiles]
    if not profiles:
        raise UnreadableTraceError(f"{path}: an Nsight Compute {pages[0].kind} page without a kernel; profile again")
    return Page(pages[0].kind, profiles, sum(page.broken_rows for page in pages) + cut)


def _is_cut(last: str) -> bool:
    """Whether the last line of a file ends within a quoted cell, or before one: a cut number reads as a smaller one."""
    return not last.endswith(("\n", "\r")) and (last.count('"') % 2 == 1 or last.startswith('"') != last.endswith('"'))


def _page(header: list[str], rows: Iterable[list[str]], path: Path) -> Page:
    header = [name.lstrip("\ufeff") for name in header]
    if {"Metric Name", "Metric Value"} <= set(header):  # the columns of rules follow it, only on the rows of rules
        kind, parsed, needed = "details", _details, header.index("Metric Value") + 1
    elif "Metric Name" in header:
        raise UnreadableTraceError(
            f"{path}: a summary over kernels (--print-summary), which no longer holds single kernels; "
            "export it again with --page raw"
        )
    else:
        kind, parsed, needed = "raw", _raw, len(header)
    if not {"ID", "Kernel Name"} <= set(header):
        raise UnreadableTraceError(f"{path}: the header of the {kind} page is damaged; export the report again")
    whole: list[dict[str, str]] = []
    broken = 0
    for row in rows:
        if len(row) >= needed:
            whole.append(dict(zip(header, row, strict=False)))
        elif any(row) and not row[0].startswith("=="):  # ==PROF== lines of ncu itself
            broken += 1
    return Page(kind, parsed(whole), broken)


def _raw(rows: list[dict[str, str]]) -> list[Profile]:
    """One kernel a row; the row without an ID holds the units, base or scaled per column."""
    units: dict[str, str] = {}
    profiles = []
    comma = decimal_comma(cell for row in rows for name, cell in row.items() if name not in _IDENTITY)
    for row in rows:
        if not row["ID"]:
            units = row
            continue
        profile = _profile(row)
        for metric, text in row.items():
            if metric not in _IDENTITY and text:
                profile.metrics[metric] = _value(text, units.get(metric, ""), comma=comma)
        _shape_from_metrics(profile)
        profiles.append(profile)
    return profiles


def _details(rows: list[dict[str, str]]) -> list[Profile]:
    """One metric a row, kernels told apart by ID; rows of rules carry advice and no metric."""
    profiles: dict[str, Profile] = {}
    comma = decimal_comma(row["Metric Value"] for row in rows)
    for row in rows:
        profile = profiles.get(row["ID"])
        if profile is None:
            profile = profiles[row["ID"]] = _profile(row)
        label = row["Metric Name"]
        if label:
            value = _value(row["Metric Value"], row.get("Metric Unit", ""), comma=comma)
            profile.metrics.setdefault(metric_name(label, value.unit), value)
    for profile in profiles.values():
        _shape_from_metrics(profile)
    return list(profiles.values())


def _shape_from_metrics(profile: Profile) -> None:
    """Grid and block from the metrics where the page has no columns for them, as before 2022."""
    for what in ("grid", "block"):
        sizes = [profile.number(f"launch__{what}_dim_{axis}") for axis in "xyz"]
        if not getattr(profile, what) and None not in sizes:
            setattr(profile, what, tuple(int(size or 0) for size in sizes))


def metric_name(label: str, unit: str) -> str:
    """The metric a label of the details page stands for; a label without a known one stays as it is.

    ``Memory Throughput`` is two things: the share of the peak in one section, DRAM bytes/s in another.
    """
    if label == "Memory Throughput" and unit == "byte/s":
        return "dram__bytes.sum.per_second"
    if label.startswith("Stall "):
        reason = re.sub(r"\W+", "_", label.removeprefix("Stall ").lower())
        return f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio"
    return LABELS.get(label, label)


def _value(text: str, unit: str, *, comma: bool) -> Value:
    factor, name = base_unit(unit)
    parsed = number(text, comma=comma)
    return Value(None, name, text) if parsed is None else Value(parsed * factor, name)


def _profile(row: dict[str, str]) -> Profile:
    return Profile(
        name=row["Kernel Name"],
        pid=_integer(row.get("Process ID")),
        process=row.get("Process Name"),
        context=_integer(row.get("Context")),
        stream=_integer(row.get("Stream")),
        device=_integer(row.get("Device")),
        compute_capability=row.get("CC"),
        grid=tuple(_integers(row.get("Grid Size", ""))),
        block=tuple(_integers(row.get("Block Size", ""))),
    )


_DIGITS = 19


def _integer(text: str | None) -> int | None:
    plain = (text or "").replace(",", "")
    return int(plain) if plain.isdecimal() and len(plain) <= _MOST_DIGITS else None


def _integers(text: str) -> Iterator[int]:
    """The numbers of ``(128, 1, 1)``."""
    return (int(digits) for digits in re.findall(r"\d+", text) if len(digits) <= _MOST_DIGITS)

"""Nsight Compute reports and CSV pages → the table contract: counters of single kernels, in base units.

Durations are those of a kernel run alone, by default with caches flushed and clocks held at base: small
kernels take longer than in the program.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from traceql import schema
from traceql.kernel_names import short_name
from traceql.loaders import files, ncu_pages, ncu_report_file
from traceql.loaders.ncu_columns import Cell, columns
from traceql.loaders.ncu_pages import Profile
from traceql.trace import LoadedTrace, Problem

_METRICS = pl.Schema(
    {
        "ncu_kernel_id": pl.Int64,
        "metric": pl.String,
        "value": pl.Float64,
        "unit": pl.String,
        "text": pl.String,
    }
)
"""The long form: one row a metric of a kernel, a number in its base unit or a text."""


def looks_like_ncu_csv(first_lines: str) -> bool:
    """Whether a text begins as a CSV page of Nsight Compute, or with the lines ncu prints before it."""
    lines = first_lines.splitlines()
    return any(line.startswith("==PROF==") for line in lines) or any(map(ncu_pages.is_header, lines))


def text_of(data: bytes) -> str:
    """The text of a CSV page: UTF-8, or UTF-16 as PowerShell writes what it redirects."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    return data.decode(encoding, "replace")


def load(path: Path) -> LoadedTrace:
    """Read a ``.ncu-rep`` (gzip too) or a raw or details CSV page; raises UnreadableTraceError in one line.

    Frames: ``ncu_kernels`` (fixed columns, then every numeric metric under its own name), ``ncu_metrics``
    (the long form), ``devices`` and ``metadata``.
    """
    problems: list[Problem] = []
    if files.head(path, 4) == ncu_report_file.MAGIC or path.name.endswith((".ncu-rep", ".ncu-rep.gz")):
        kind = "report"
        profiles, truncated = ncu_report_file.read(path)
    else:
        content = files.read(path)
        page = ncu_pages.read(text_of(content.data), path)
        kind, profiles, truncated = f"{page.kind} page", page.profiles, content.truncated
        if page.broken_rows:
            problems.append(Problem("skipped", "rows shorter than the header", count=page.broken_rows))
    if truncated:
        problems.append(Problem("truncated", f"the file ends early; {len(profiles)} kernels were read"))
    return LoadedTrace(
        source="ncu",
        path=path,
        frames={
            "ncu_kernels": _kernels(profiles),
            "ncu_metrics": _metrics(profiles),
            "devices": _devices(profiles),
            "metadata": _metadata(profiles, kind),
        },
        problems=tuple(problems),
    )


def _kernels(profiles: list[Profile]) -> pl.DataFrame:
    """One row a kernel: fixed columns, then numeric metrics as Float64, null where a kernel lacks them."""
    contract = schema.TABLES["ncu_kernels"].polars_schema
    rows = [_fixed(index, profile) for index, profile in enumerate(profiles)]
    known = {name: contract[name] for name in rows[0] if name in contract}
    fixed = pl.DataFrame(rows, schema_overrides=known, infer_schema_length=None)
    numeric = dict.fromkeys(metric for profile in profiles for metric in profile.numbers())
    wide = {metric: [profile.number(metric) for profile in profiles] for metric in numeric if metric not in rows[0]}
    return fixed.hstack(pl.DataFrame(wide, schema=dict.fromkeys(wide, pl.Float64)))


def _fixed(index: int, profile: Profile) -> dict[str, Cell]:
    sizes = dict(zip(("grid_x", "grid_y", "grid_z"), profile.grid, strict=False))
    sizes |= dict(zip(("block_x", "block_y", "block_z"), profile.block, strict=False))
    return {
        "ncu_kernel_id": index,
        "name": profile.name,
        "short_name": short_name(profile.name),
        "workload": profile.workload,
        "device": profile.device,
        "stream": profile.stream,
        "context": profile.context,
        "pid": profile.pid,
        **{f"{what}_{axis}": sizes.get(f"{what}_{axis}") for what in ("grid", "block") for axis in "xyz"},
        **columns(profile.numbers()),
    }


def _metrics(profiles: list[Profile]) -> pl.DataFrame:
    rows = [
        (index, metric, value.number, value.unit, value.text)
        for index, profile in enumerate(profiles)
        for metric, value in profile.metrics.items()
    ]
    return pl.DataFrame(rows, schema=_METRICS, orient="row")


def _devices(profiles: list[Profile]) -> pl.DataFrame:
    """The GPUs profiled on, from the attributes beside the first kernel of each; details pages have few."""
    first = {profile.device: profile for profile in reversed(profiles)}
    devices = [first[device] for device in sorted(first, key=lambda device: device or 0)]
    rows = [
        {
            "device": profile.device,
            "name": profile.text("device__attribute_display_name"),
            "sm_count": profile.number("device__attribute_multiprocessor_count") or profile.number("launch__sm_count"),
            "compute_capability": profile.compute_capability,
            "memory_bandwidth_bytes_per_s": _bandwidth(profile),
            "memory_bytes": profile.number("device__attribute_total_memory"),
            "l2_bytes": profile.number("device__attribute_l2_cache_size"),
        }
        for profile in devices
    ]
    return schema.TABLES["devices"].conform(pl.DataFrame(rows, infer_schema_length=None))


def _bandwidth(profile: Profile) -> float | None:
    """Peak DRAM bandwidth, bytes/s: memory clock (kHz) × two transfers a clock × bus width (bits)."""
    clock = profile.number("device__attribute_memory_clock_rate")
    width = profile.number("device__attribute_global_memory_bus_width")
    return None if clock is None or width is None else clock * 1e3 * 2 * width / 8


def _metadata(profiles: list[Profile], kind: str) -> pl.DataFrame:
    processes = sorted({profile.process for profile in profiles if profile.process})
    passes = [count for p in profiles if (count := p.number("profiler__replayer_passes")) is not None]
    entries = {
        "profiler": "Nsight Compute",
        "content": kind,
        "processes": ", ".join(processes) or None,
        "passes_per_kernel": f"{max(passes):.0f}" if passes else None,
    }
    known = {key: value for key, value in entries.items() if value is not None}
    return pl.DataFrame({"key": list(known), "value": list(known.values())})

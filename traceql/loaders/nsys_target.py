"""What an Nsight Systems export says of its GPUs, its session and its own completeness."""

from __future__ import annotations

import polars as pl

from traceql.loaders.nsys_export import Export
from traceql.trace import Problem

_WARNING, _ERROR = 2, 3  # ENUM_DIAGNOSTIC_SEVERITY_LEVEL
_LOST = r"(?:dropped|lost|losing|discarded|overwritten|throttled|truncated|incomplete|overflow\w*)"
_DATA_LOST = rf"(?i)\b{_LOST}\b|\bnot all\b.*\b(?:collected|recorded|captured)\b"
_NOTHING_LOST = rf"(?i)\b(?:no|0)\b[^.]*\b{_LOST}\b|\b{_LOST}\b[^.]*[:=]\s*0\b"

# The only entries that are copied: exports also hold the environment, the command line, host and user names.
_METADATA = {
    "META_DATA_EXPORT": {
        "EXPORT_PRODUCT_NAME": "product",
        "EXPORT_PRODUCT_VERSION": "product_version",
        "EXPORT_SCHEMA_VERSION": "schema_version",
        "EXPORT_PLATFORM": "platform",
        "EXPORT_ARCH": "arch",
    },
    "META_DATA_CAPTURE": {
        "CAPTURE_EVENT_TYPE": "traced",
        "CUDA_GRAPH_TRACE_OPTIONS:MODE": "cuda_graph_trace",
        "COLLECT_GPU_MEMORY_USAGE": "cuda_memory_usage",
        "START_TRIGGER": "start_trigger",
        "STOP_TRIGGER": "stop_trigger",
        "RUN_DURATION_MS": "run_duration_ms",
    },
    "TARGET_INFO_SYSTEM_ENV": {
        "NvDriverVersion": "driver_version",
        "CudaDriverVersion": "cuda_driver_version",
    },
}


def metadata(export: Export) -> pl.DataFrame:
    """Versions and capture settings as ``key``, ``value``; a comma joins several values of one key."""
    parts = []
    for table, keys in _METADATA.items():
        name = pl.col("name").str.replace(r"^PROCESS_\d+:", "")
        key = name.replace_strict(keys, default=None, return_dtype=pl.String)
        parts.append(export.read(table, "", "name value").select("value", key=key))
    distinct = pl.concat(parts).drop_nulls().unique(maintain_order=True)
    return distinct.group_by("key", maintain_order=True).agg(pl.col("value").str.join(", "))


def unix_offset_ns(export: Export) -> int | None:
    """What to add to an event's time for ns since the Unix epoch; None where the export does not hold it.

    Times count from the session's start, unless exported with ``--ts-normalize`` or ``--ts-shift``.
    """
    start = export.read("TARGET_INFO_SESSION_START_TIME", "utcEpochNs")["utcEpochNs"].drop_nulls()
    if start.is_empty():
        return None
    settings = export.read("META_DATA_EXPORT", "", "name value")
    shift = settings.filter(pl.col("name") == "EXPORT_CONFIG_TIME_SHIFT")["value"]
    shift = shift.str.to_integer(strict=False).drop_nulls()
    return int(start[0]) - (0 if shift.is_empty() else int(shift[0]))


def diagnostics(export: Export) -> list[Problem]:
    """What the profiler itself complained of: warnings, errors and whatever speaks of lost data."""
    messages = export.read("DIAGNOSTIC_EVENT", "severity", "text").drop_nulls("text")
    text = pl.col("text")
    lost = text.str.contains(_DATA_LOST) & ~text.str.contains(_NOTHING_LOST)
    severe = pl.col("severity").is_in([_WARNING, _ERROR])
    told = messages.with_columns(lost=lost).filter(pl.col("lost") | severe)
    told = told.group_by("text", "lost", maintain_order=True).agg(count=pl.len())
    return [
        Problem("dropped" if lost else "diagnostic", " ".join(text.split()), count if count > 1 else None)
        for text, lost, count in told.iter_rows()
    ]


def number_devices(export: Export, frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """``frames`` with one numbering of the GPUs throughout, and the ``devices`` table.

    Rows carry the CUDA ordinal their process saw. Where processes numbered the GPUs differently
    (``CUDA_VISIBLE_DEVICES``), rows get the GPU's id in the export instead: two GPUs must not look like one,
    nor one like two.
    """
    seen = export.read("TARGET_INFO_CUDA_DEVICE", "gpuId cudaId pid numMultiprocessors")
    seen = seen.drop_nulls(["gpuId", "cudaId"]).unique(["pid", "cudaId"], keep="first", maintain_order=True)
    gpus = export.read(
        "TARGET_INFO_GPU",
        "id isDiscrete l2CacheSize totalMemory smCount cuDevice computeMajor computeMinor",
        "name",
        "memoryBandwidth",
    )
    gpus = gpus.drop_nulls("id").unique("id", keep="first", maintain_order=True)
    pairs = seen.unique(["gpuId", "cudaId"])
    if pairs["cudaId"].is_duplicated().any() or pairs["gpuId"].is_duplicated().any():
        message = "processes numbered the GPUs differently (CUDA_VISIBLE_DEVICES); device is the host's GPU id"
        export.problems.append(Problem("note", message))
        ids = seen.select("pid", device="cudaId", number="gpuId")
        gpu_tables = [name for name, frame in frames.items() if {"pid", "device"} <= set(frame.columns)]
        numbered = {name: _renumber(frames[name], ids) for name in gpu_tables}
        gpus = gpus.with_columns(device="id")
    else:
        gpus = gpus.with_columns(device=_ordinal(gpus, seen))
        numbered = {"counters": _renumber(frames["counters"], gpus.select(device="id", number="device"))}
    frames = frames | numbered
    return frames | {"devices": _devices(gpus, seen, frames)}


def _renumber(frame: pl.DataFrame, numbers: pl.DataFrame) -> pl.DataFrame:
    keys = [name for name in numbers.columns if name != "number"]
    joined = frame.join(numbers, keys, how="left", maintain_order="left")
    return joined.with_columns(device=pl.coalesce("number", "device")).drop("number")


def _ordinal(gpus: pl.DataFrame, seen: pl.DataFrame) -> pl.Series:
    """The ordinal by which rows name each GPU: as processes saw it, else CUDA's on the host, else its id."""
    if not seen.is_empty():
        pairs = seen.unique("gpuId")
        return gpus["id"].replace_strict(pairs["gpuId"], pairs["cudaId"], default=None, return_dtype=pl.Int64)
    return gpus["id"] if gpus["cuDevice"].null_count() == gpus.height else gpus["cuDevice"]


def _devices(gpus: pl.DataFrame, seen: pl.DataFrame, frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The GPUs with an ordinal; integrated and software ones only when a row names them."""
    used = pl.concat(frame["device"] for frame in frames.values() if "device" in frame.columns).unique()
    is_gpu = (pl.col("isDiscrete") != 0).fill_null(True) | pl.col("device").is_in(used.implode())
    gpus = gpus.filter(pl.col("device") >= 0, is_gpu).unique("device", keep="first", maintain_order=True)
    visible = seen.unique("gpuId", keep="first", maintain_order=True).select("numMultiprocessors", id="gpuId")
    return gpus.join(visible, "id", how="left", maintain_order="left").select(
        "device",
        "name",
        pl.coalesce("numMultiprocessors", "smCount").alias("sm_count"),
        pl.format("{}.{}", "computeMajor", "computeMinor").alias("compute_capability"),
        pl.col("memoryBandwidth").alias("memory_bandwidth_bytes_per_s"),
        pl.col("totalMemory").alias("memory_bytes"),
        pl.col("l2CacheSize").alias("l2_bytes"),
    )

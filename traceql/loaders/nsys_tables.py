"""Nsight Systems event tables as contract tables. Times stay on the session clock, ns.

The numbers are those of CUPTI's ``CUpti_ActivityMemcpyKind``, ``CUpti_ActivityMemoryKind``,
``CUpti_ActivitySynchronizationType`` and ``CUpti_ActivityOverheadKind`` and of ENUM_NSYS_EVENT_TYPE.
"""

from __future__ import annotations

import polars as pl

from traceql.loaders import nsys_nccl
from traceql.loaders.limits import possible
from traceql.loaders.nsys_export import Export, is_time, pid, tid

# fmt: off
_MEMCPY_KINDS = {
    1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD", 9: "HtoH",
    10: "PtoP", 11: "UVM HtoD", 12: "UVM DtoH", 13: "UVM DtoD",
}
_MEMORY_KINDS = {
    0: "pageable", 1: "pinned", 2: "device", 3: "array", 4: "managed", 5: "device static",
    6: "managed static",
}
_SYNC_KINDS = {1: "event", 2: "stream_wait", 3: "stream", 4: "context"}
_OVERHEAD_KINDS = {
    2: "Driver JIT compiler", 3: "Buffer flush", 4: "Instrumentation", 5: "Resource creation/destruction",
    6: "Runtime module loading", 7: "Lazy function loading", 8: "Command buffer full",
}
# fmt: on

_MARK, _PUSH_POP_RANGE, _START_END_RANGE, _DOMAIN_CREATE = 34, 59, 60, 75
_VERSION_SUFFIX = r"_v\d{4,}$"  # cudaLaunchKernel_v7000; cuMemAlloc_v2 is another function than cuMemAlloc
_NO_STREAM = 2**32 - 1  # CUPTI_SYNCHRONIZATION_INVALID_VALUE
_ON_HOST = 2**31 - 1  # device of a graph replay whose first node runs on the host

_TIMES = (pl.col("start_ns"), pl.col("dur_ns"))
_CORRELATION = pl.col("correlationId").alias("correlation_id")
_GPU_COLUMNS = "deviceId streamId globalPid correlationId"
_GPU_ROW = (
    *_TIMES,
    pl.when(pl.col("deviceId") != _ON_HOST).then("deviceId").alias("device"),
    pl.when(pl.col("streamId") != _NO_STREAM).then("streamId").alias("stream"),
    pid("globalPid"),
    _CORRELATION,
)


COMMUNICATORS = "communicators"
"""Name under which ``frames`` holds ``nsys_nccl.communicators``, which is no table of the contract."""


def frames(export: Export) -> dict[str, pl.DataFrame]:
    """Every table of the contract that holds events of an export, and COMMUNICATORS."""
    tables = {
        "kernels": kernels(export),
        "memcpys": memcpys(export),
        "memsets": memsets(export),
        "graph_traces": graph_traces(export),
        "synchronizations": synchronizations(export),
        "runtime_calls": runtime_calls(export),
        "overheads": overheads(export),
        "counters": counters(export),
    }
    for name in ("kernels", "runtime_calls"):
        nameless = tables[name]["name"].null_count()
        export.report("note", f"{name} without a name: the export does not hold their text", nameless)
    ends = [table.select(pl.col("start_ns") + pl.col("dur_ns")).max().item() for table in tables.values()]
    last_end = max((end for end in ends if end is not None), default=None)
    nccl = nsys_nccl.payloads(export)
    return tables | {
        "annotations": nvtx(export, last_end),
        "collective_calls": nsys_nccl.collective_calls(export, nccl),
        COMMUNICATORS: nsys_nccl.communicators(nccl),
    }


def kernels(export: Export) -> pl.DataFrame:
    """Kernels, with the graph CUPTI names for them or else the one in the upper half of the node's id."""
    names = [export.string(column) for column in ("demangledName", "shortName", "mangledName")]
    node, graph_of_node = pl.col("graphNodeId"), pl.col("graphNodeId") // 2**32
    static, dynamic = pl.col("staticSharedMemory"), pl.col("dynamicSharedMemory")
    return export.events(
        "CUPTI_ACTIVITY_KIND_KERNEL",
        f"{_GPU_COLUMNS} contextId demangledName shortName mangledName graphId graphNodeId gridX gridY gridZ "
        "blockX blockY blockZ registersPerThread staticSharedMemory dynamicSharedMemory",
        *_GPU_ROW,
        pl.coalesce(names).alias("name"),
        names[1].alias("short_name"),
        pl.col("contextId").alias("context"),
        pl.coalesce(_positive(pl.col("graphId")), _positive(graph_of_node)).alias("graph_id"),
        pl.when(graph_of_node > 0).then(node % 2**32).otherwise(node).alias("graph_node_id"),
        pl.col("gridX").alias("grid_x"),
        pl.col("gridY").alias("grid_y"),
        pl.col("gridZ").alias("grid_z"),
        pl.col("blockX").alias("block_x"),
        pl.col("blockY").alias("block_y"),
        pl.col("blockZ").alias("block_z"),
        pl.col("registersPerThread").alias("registers_per_thread"),
        pl.coalesce(static + dynamic, static, dynamic).alias("shared_memory_bytes"),
    )


def memcpys(export: Export) -> pl.DataFrame:
    """Copies, those inside graph replays included."""
    name = pl.col("name")
    direction = name.str.extract(r"^CUDA_MEMCPY_KIND_(\w+TO\w)$").str.replace("^UVM_", "UVM ")
    direction = direction.str.replace(r"(\w)TO(\w)$", "${1}to${2}")
    memory = name.str.extract(r"^CUDA_MEMOPR_MEMORY_KIND_(\w+)$").str.to_lowercase().str.replace_all("_", " ")
    memory = pl.when(memory != "unknown").then(memory)
    return export.events(
        "CUPTI_ACTIVITY_KIND_MEMCPY",
        f"{_GPU_COLUMNS} bytes copyKind srcKind dstKind",
        *_GPU_ROW,
        "bytes",
        export.enum("copyKind", "ENUM_CUDA_MEMCPY_OPER", _MEMCPY_KINDS, direction).alias("kind"),
        export.enum("srcKind", "ENUM_CUDA_MEM_KIND", _MEMORY_KINDS, memory).alias("src_memory"),
        export.enum("dstKind", "ENUM_CUDA_MEM_KIND", _MEMORY_KINDS, memory).alias("dst_memory"),
    )


def memsets(export: Export) -> pl.DataFrame:
    """Fills, those inside graph replays included."""
    return export.events("CUPTI_ACTIVITY_KIND_MEMSET", f"{_GPU_COLUMNS} bytes value", *_GPU_ROW, "bytes", "value")


def graph_traces(export: Export) -> pl.DataFrame:
    """One row a replay where graphs were traced as a whole; before schema 3.24 such replays left no row."""
    graph, executable = pl.col("graphId").alias("graph_id"), pl.col("graphExecId").alias("graph_exec_id")
    columns = f"{_GPU_COLUMNS} graphId graphExecId"
    return export.events("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", columns, *_GPU_ROW, graph, executable)


def synchronizations(export: Export) -> pl.DataFrame:
    """Waits as CUPTI records them."""
    name = pl.col("name").str.extract(r"^CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_(\w+)_(?:SYNCHRONIZE|EVENT)$")
    kind = export.enum("syncType", "ENUM_CUPTI_SYNC_TYPE", _SYNC_KINDS, name.str.to_lowercase()).alias("kind")
    return export.events("CUPTI_ACTIVITY_KIND_SYNCHRONIZATION", f"{_GPU_COLUMNS} syncType", *_GPU_ROW, kind)


def runtime_calls(export: Export) -> pl.DataFrame:
    """Runtime and driver API calls: one table holds both."""
    return export.events(
        "CUPTI_ACTIVITY_KIND_RUNTIME",
        "globalTid correlationId nameId returnValue",
        *_TIMES,
        export.string("nameId", strip=_VERSION_SUFFIX).alias("name"),
        pid("globalTid"),
        tid("globalTid"),
        _CORRELATION,
        pl.col("returnValue").alias("return_value"),
    )


def overheads(export: Export) -> pl.DataFrame:
    """The profiler's host time, and what CUPTI reports with it: JIT, lazy loading, a full command buffer."""
    kind = export.enum("overheadType", "ENUM_CUPTI_OVERHEAD_TYPE", _OVERHEAD_KINDS, pl.col("label"))
    text = export.string("nameId")
    return pl.concat(
        export.events(
            table,
            "globalTid nameId overheadType",
            *_TIMES,
            pl.coalesce(pl.when(text != "Unknown").then(text), kind, text).alias("kind"),
            pid("globalTid"),
            tid("globalTid"),
        )
        for table in ("PROFILER_OVERHEAD", "CUPTI_ACTIVITY_KIND_OVERHEAD")
    )


def counters(export: Export) -> pl.DataFrame:
    """Samples of GPU metrics, as points; ``device`` is the GPU's id in the export, the low byte of typeId."""
    samples = export.read("GPU_METRICS", "timestamp typeId metricId", reals="value").filter(is_time("timestamp"))
    metrics = export.read("TARGET_INFO_GPU_METRICS", "typeId metricId", "metricName")
    metrics = metrics.unique(["typeId", "metricId"], keep="first", maintain_order=True)
    unit = r"\s*\[([^\[\]]*)\]$"
    return samples.join(metrics, ["typeId", "metricId"], how="left", maintain_order="left").select(
        pl.col("timestamp").alias("start_ns"),
        pl.lit(0, pl.Int64).alias("dur_ns"),
        pl.col("metricName").str.replace(unit, "").alias("name"),
        "value",
        pl.col("metricName").str.extract(unit).alias("unit"),
        (pl.col("typeId") & 0xFF).alias("device"),
    )


def nvtx(export: Export, last_end_ns: int | None) -> pl.DataFrame:
    """NVTX ranges and marks; a mark lasts 0 ns.

    A range still open when the capture stopped ends with the last event: the last in NVTX or, of all others,
    the one that ended at ``last_end_ns``.
    """
    name = pl.coalesce("text", export.string("textId")).alias("name")
    columns = [pl.col("start", "end", "eventType", "domainId"), pid("globalTid"), tid("globalTid"), name]
    frame = export.read("NVTX_EVENTS", "start end eventType globalTid textId domainId", "text", columns=columns)
    kind = pl.col("eventType")
    is_range = kind.is_in([_PUSH_POP_RANGE, _START_END_RANGE])
    if "eventType" not in export.tables.get("NVTX_EVENTS", ()):
        is_range = pl.lit(True)
    domains = frame.filter(kind == _DOMAIN_CREATE).select("pid", "domainId", domain="name")
    domains = domains.unique(["pid", "domainId"], keep="first", maintain_order=True)

    end, is_open = pl.col("end"), is_range & pl.col("end").is_null()
    last_end = pl.max_horizontal(end.filter(is_time("end")).max(), pl.lit(last_end_ns, pl.Int64))
    closed = pl.when(is_open).then(pl.max_horizontal("start", last_end)).when(is_range).then(end)
    events = frame.filter(is_range | (kind == _MARK)).with_columns(is_open=is_open, end=closed.otherwise("start"))
    timed = events.filter(is_time("start"), is_time("end")).with_columns(dur_ns=end - pl.col("start"))
    placed = timed.filter(possible("start"))
    untimed, still_open = events.height - placed.height, int(placed["is_open"].sum())
    export.report("skipped", "NVTX_EVENTS: rows without a valid time were left out", untimed)
    export.report("note", "NVTX ranges were open when the capture stopped; they end with the trace", still_open)

    return placed.select(
        pl.col("start").alias("start_ns"),
        "dur_ns",
        "name",
        _domain(placed, domains).alias("domain"),
        pl.lit("cpu").alias("side"),
        "pid",
        "tid",
    )


def _domain(ranges: pl.DataFrame, domains: pl.DataFrame) -> pl.Expr:
    """The name of each range's domain, ``domain 3`` where the process did not name it; null for the default one."""
    keys = [pl.col("pid").fill_null(-1), pl.col("domainId")]  # a join drops null
    used = ranges.select(keys).unique().filter(pl.col("domainId") != 0)
    if used.is_empty():
        return pl.lit(None, pl.String)
    names = used.join(domains, keys, how="left").select(
        "pid", "domainId", pl.coalesce("domain", pl.format("domain {}", "domainId"))
    )
    placed = ranges.select(keys).join(names, ["pid", "domainId"], how="left", maintain_order="left")
    return pl.lit(placed["domain"])


def _positive(column: pl.Expr) -> pl.Expr:
    """Graphs are counted from 1; 0 stands for none."""
    return pl.when(column > 0).then(column)

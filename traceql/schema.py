"""The table contract: every table and derived frame, every column with its type, unit and meaning.

SQL, Python and other tools rely on these names. Times are ``Int64`` nanoseconds; ``start_ns`` counts from the
trace's first event. A value the trace does not hold is null, never 0. Every table exists for every trace, perhaps
empty, and carries ``rank`` (null where a trace has none).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

SCHEMA_VERSION = 1
"""Version of the table and JSON contracts; raised when a column changes meaning or goes."""

I = pl.Int64  # noqa: E741 - one letter keeps the tables below readable as tables
F = pl.Float64
S = pl.String


@dataclass(frozen=True)
class Column:
    """One column: its Polars type and what it holds. Units are in the name (``_ns``, ``_bytes``, ``_pct``)."""

    name: str
    dtype: type[pl.DataType]
    doc: str


@dataclass(frozen=True)
class Table:
    """A table of the contract. ``derived`` tables are computed on first use, the others come from the file."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    derived: bool = False

    @property
    def polars_schema(self) -> pl.Schema:
        return pl.Schema({column.name: column.dtype() for column in self.columns})

    def empty(self) -> pl.DataFrame:
        """A frame with this table's columns and no row."""
        return pl.DataFrame(schema=self.polars_schema)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """``frame`` with exactly this table's columns in order; those it lacks become null, others are dropped."""
        return frame.select(
            pl.col(c.name).cast(c.dtype) if c.name in frame.columns else pl.lit(None, c.dtype).alias(c.name)
            for c in self.columns
        )


def _columns(spec: list[tuple[str, type[pl.DataType], str]]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in spec)


_START = ("start_ns", I, "start, ns from the trace's first event")
_DUR = ("dur_ns", I, "duration, ns")
_RANK = ("rank", I, "rank of the process in its distributed job; null where the trace names none")
_PID = ("pid", I, "process id on the host")
_TID = ("tid", I, "thread id on the host")
_DEVICE = ("device", I, "device ordinal as the profiler numbers it")
_STREAM = ("stream", I, "stream id within the device's context")
_CONTEXT = ("context", I, "CUDA context id")
_CORRELATION = (
    "correlation_id",
    I,
    "id that links an API call to the GPU work it launched, unique within a pid",
)
_LAUNCH = (
    "launch_id",
    I,
    "the launch call that put it on the GPU: launches.launch_id; null when not in the trace",
)
_STEP = ("step_id", I, "the step whose host range holds the start of the launch call: steps.step_id")
_GRAPH = (
    "graph_id",
    I,
    "CUDA graph it was replayed from; null outside graphs and where the file does not tell",
)

_TABLES = [
    Table(
        "kernels",
        "GPU kernel executions, graph replays included where the trace holds them",
        _columns(
            [
                ("kernel_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("name", S, "full demangled kernel name"),
                ("short_name", S, "name without template arguments, parameters and return type"),
                (
                    "category",
                    S,
                    "what kind of work the name says it is: gemm, attention, norm, communication …; null unknown",
                ),
                _DEVICE,
                _STREAM,
                _CONTEXT,
                _PID,
                _CORRELATION,
                _GRAPH,
                ("graph_node_id", I, "node of the graph, within the graph"),
                ("grid_x", I, "blocks in x"),
                ("grid_y", I, "blocks in y"),
                ("grid_z", I, "blocks in z"),
                ("block_x", I, "threads in x"),
                ("block_y", I, "threads in y"),
                ("block_z", I, "threads in z"),
                ("registers_per_thread", I, "registers a thread"),
                ("shared_memory_bytes", I, "static plus dynamic shared memory a block, bytes"),
                ("occupancy_pct", F, "estimated achieved occupancy, 0-100, where the profiler writes one"),
                _LAUNCH,
                _STEP,
            ]
        ),
    ),
    Table(
        "memcpys",
        "GPU memory copies",
        _columns(
            [
                ("memcpy_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("bytes", I, "bytes moved"),
                ("kind", S, "direction: HtoD, DtoH, DtoD, PtoP, HtoH …"),
                ("src_memory", S, "pageable, pinned, device, array, managed …"),
                ("dst_memory", S, "pageable, pinned, device, array, managed …"),
                _DEVICE,
                _STREAM,
                _PID,
                _CORRELATION,
                _LAUNCH,
                _STEP,
            ]
        ),
    ),
    Table(
        "memsets",
        "GPU memory fills",
        _columns(
            [
                ("memset_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("bytes", I, "bytes written"),
                ("value", I, "the value written"),
                _DEVICE,
                _STREAM,
                _PID,
                _CORRELATION,
                _LAUNCH,
                _STEP,
            ]
        ),
    ),
    Table(
        "runtime_calls",
        "CUDA runtime and driver (HIP) API calls on the host",
        _columns(
            [
                ("call_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("name", S, "API name, version suffix (_v7000) stripped"),
                _PID,
                _TID,
                _CORRELATION,
                ("return_value", I, "the call's return code; 0 is success"),
                _LAUNCH,
            ]
        ),
    ),
    Table(
        "cpu_ops",
        "framework operators on the host (torch dispatcher)",
        _columns(
            [
                ("op_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("name", S, "operator, e.g. aten::mm"),
                _PID,
                _TID,
                ("external_id", I, "the profiler's id of the operator call"),
                ("parent_id", I, "enclosing operator on the same thread: cpu_ops.op_id"),
                ("input_shapes", S, "JSON list of input dimensions, as recorded"),
                ("input_strides", S, "JSON list of input strides in elements, as recorded"),
                ("input_dtypes", S, "JSON list of input types, as recorded"),
                ("depth", I, "enclosing operators, 0 at the top"),
            ]
        ),
    ),
    Table(
        "python_calls",
        "Python function calls on the host (profiled with stacks)",
        _columns(
            [
                ("python_call_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("name", S, "file(line): function, or nn.Module: Name_k"),
                _PID,
                _TID,
                ("python_id", I, "the profiler's id of the call"),
                ("parent_id", I, "python_id of the caller, as the profiler links them"),
            ]
        ),
    ),
    Table(
        "annotations",
        "named ranges: record_function, NVTX, ProfilerStep; host side and their GPU projection",
        _columns(
            [
                ("annotation_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("name", S, "text of the range"),
                ("domain", S, "NVTX domain; null for the default domain and torch ranges"),
                ("side", S, "cpu or gpu"),
                _PID,
                _TID,
                _DEVICE,
                _STREAM,
            ]
        ),
    ),
    Table(
        "graph_launches",
        "CUDA graph launch calls and what of the replay the trace holds",
        _columns(
            [
                ("launch_id", I, "the call: launches.launch_id"),
                _RANK,
                _START,
                _DUR,
                _GRAPH,
                ("graph_exec_id", I, "executable graph; null where the file does not tell"),
                _DEVICE,
                _STREAM,
                _PID,
                _CORRELATION,
                ("node_count", I, "GPU rows recorded for this replay"),
                ("gpu_start_ns", I, "first GPU work of the replay"),
                ("gpu_dur_ns", I, "first start to last end, ns"),
                (
                    "traced",
                    S,
                    "node: kernels are rows; graph: one row for the whole replay; null: no device record",
                ),
                _STEP,
            ]
        ),
        derived=True,
    ),
    Table(
        "graph_traces",
        "whole-replay device records of graph-mode tracing (nsys --cuda-graph-trace=graph)",
        _columns(
            [
                ("graph_trace_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                _GRAPH,
                ("graph_exec_id", I, "executable graph"),
                _DEVICE,
                _STREAM,
                _PID,
                _CORRELATION,
                _LAUNCH,
                _STEP,
            ]
        ),
    ),
    Table(
        "synchronizations",
        "GPU-side synchronisation records; not GPU work",
        _columns(
            [
                ("synchronization_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("kind", S, "event, stream_wait, stream or context"),
                _DEVICE,
                _STREAM,
                _PID,
                _CORRELATION,
            ]
        ),
    ),
    Table(
        "counters",
        "sampled counters: GPU metrics, memory in use",
        _columns(
            [
                _RANK,
                _START,
                _DUR,
                ("name", S, "counter"),
                ("value", F, "sample, in unit"),
                ("unit", S, "unit"),
                _DEVICE,
            ]
        ),
    ),
    Table(
        "collective_calls",
        "what the framework or NCCL states of a communication call, as written",
        _columns(
            [
                ("collective_call_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("side", S, "what it is written on: kernel, op (a framework operator) or nvtx (NCCL's own range)"),
                ("name", S, "operation as written: allreduce, _allgather_base, ncclAllReduce …"),
                _PID,
                _TID,
                _CORRELATION,
                ("in_elements", I, "elements of the input"),
                ("out_elements", I, "elements of the output"),
                ("bytes", I, "message size where it is written in bytes (NCCL: of one rank)"),
                ("dtype", S, "element type as written"),
                ("group", S, "process group or communicator"),
                ("world_size", I, "ranks in the group"),
                ("group_ranks", S, "JSON list of the ranks in the group"),
            ]
        ),
    ),
    Table(
        "collectives",
        "communication kernels and what is known of the collective each one is",
        _columns(
            [
                ("collective_id", I, "row id, in order of start"),
                _RANK,
                _START,
                _DUR,
                ("name", S, "kernel name"),
                (
                    "op",
                    S,
                    "all_reduce, all_gather, reduce_scatter, all_to_all, dispatch, combine, broadcast, reduce, send_recv",
                ),
                ("library", S, "nccl, rccl, custom all-reduce, multimem, fused all-reduce, deepep, nvshmem"),
                ("algorithm", S, "ring, tree, nvls, oneshot …, as the kernel's name says"),
                ("protocol", S, "NCCL protocol: ll, ll128, simple"),
                ("bytes", I, "size as NCCL-tests counts it: the larger of input and output of the whole group, bytes"),
                ("dtype", S, "element type"),
                ("group", S, "process group"),
                ("world_size", I, "ranks in the group"),
                ("group_ranks", S, "JSON list of the ranks in the group"),
                ("algorithm_gb_per_s", F, "bytes over the recorded duration, waiting included, GB/s"),
                ("bus_gb_per_s", F, "the same times NCCL-tests' factor of the operation: bytes over each link, GB/s"),
                ("source", S, "where bytes and group come from: kernel, op, nvtx, shapes, eager or name"),
                ("kernel_id", I, "the kernel: kernels.kernel_id"),
                _DEVICE,
                _STREAM,
                _LAUNCH,
                _STEP,
            ]
        ),
        derived=True,
    ),
    Table(
        "collective_overlap",
        "how much of each communication kernel the device computed under; the parts add up to dur_ns",
        _columns(
            [
                ("collective_id", I, "collectives.collective_id"),
                _RANK,
                _START,
                _DUR,
                ("op", S, "operation"),
                _DEVICE,
                _STREAM,
                _STEP,
                ("layer", I, "layers.layer; null outside the layers"),
                ("layer_dur_ns", I, "wall time of that layer, ns: what no launch order can hide"),
                ("early_ns", I, "at its start, behind an earlier kernel of its own stream: launched early, it waits"),
                ("shared_ns", I, "under an earlier communication kernel of the device, counted there"),
                ("hidden_ns", I, "under compute kernels of other streams of the device"),
                ("exposed_ns", I, "the rest: the device does nothing else"),
                (
                    "followed_ns",
                    I,
                    "under a later kernel of its own stream, launched early, which waits for it: exposed all the same",
                ),
                ("transfer_ns", I, "the fastest of its kind in this trace: the most that can be transfer, ns"),
                ("waiting_ns", I, "dur_ns − early_ns − transfer_ns: waiting for a peer, or a slower transfer"),
            ]
        ),
        derived=True,
    ),
    Table(
        "collective_matches",
        "collectives of several ranks matched with one another; empty for a file of one rank",
        _columns(
            [
                ("match_id", I, "the collective, in order of time"),
                _RANK,
                ("collective_id", I, "collectives.collective_id of that rank"),
                ("op", S, "operation"),
                ("group", S, "process group; the operation where it has no name"),
                ("step_id", I, "steps.step_id of that rank"),
                ("arrival_ns", I, "when this rank arrived, on the common clock of the ranks matched"),
                ("dur_ns", I, "duration on this rank, ns"),
                ("transfer_ns", I, "shortest duration among the ranks: the last one to arrive does not wait"),
                ("waiting_ns", I, "dur_ns − transfer_ns, waiting for the last rank"),
                ("late_ns", I, "arrival after the median rank (of two: the first), ns; 0 for who was not late"),
                ("last_rank", I, "the rank that arrived last"),
            ]
        ),
        derived=True,
    ),
    Table(
        "overheads",
        "time the profiler itself took on the host",
        _columns(
            [
                _RANK,
                _START,
                _DUR,
                ("kind", S, "buffer request, lazy loading, flush …"),
                _PID,
                ("tid", I, "thread it ran on; null where the profiler does not say"),
            ]
        ),
    ),
    Table(
        "devices",
        "GPUs as the trace describes them",
        _columns(
            [
                ("device", I, "ordinal"),
                _RANK,
                ("name", S, "product name"),
                ("sm_count", I, "streaming multiprocessors"),
                ("compute_capability", S, "major.minor"),
                ("memory_bandwidth_bytes_per_s", F, "peak DRAM bandwidth as the trace states it, bytes/s"),
                ("memory_bytes", I, "device memory, bytes"),
                ("l2_bytes", I, "L2 cache, bytes"),
            ]
        ),
    ),
    Table(
        "metadata",
        "what the file says of itself",
        _columns([_RANK, ("key", S, "name"), ("value", S, "text")]),
    ),
    Table(
        "ncu_kernels",
        "kernels profiled by Nsight Compute: launch shape and counters in base units",
        _columns(
            [
                ("ncu_kernel_id", I, "row id, in profiling order"),
                _RANK,
                ("name", S, "full kernel name"),
                ("short_name", S, "name without template arguments and parameters"),
                ("device", I, "device ordinal"),
                _STREAM,
                _CONTEXT,
                _PID,
                ("grid_x", I, "blocks in x"),
                ("grid_y", I, "blocks in y"),
                ("grid_z", I, "blocks in z"),
                ("block_x", I, "threads in x"),
                ("block_y", I, "threads in y"),
                ("block_z", I, "threads in z"),
                ("registers_per_thread", I, "registers a thread"),
                ("workload", S, "kernel, graph, range or cmdlist; null where the page does not say"),
                ("shared_memory_bytes", I, "static plus dynamic shared memory a block, bytes"),
                ("dur_ns", I, "duration, ns, run alone with caches flushed and base clocks unless told otherwise"),
                ("waves_per_sm", F, "waves of blocks over the SMs"),
                ("sm_throughput_pct", F, "compute throughput of its peak, 0-100"),
                ("memory_throughput_pct", F, "throughput of the busiest memory unit of its peak, 0-100"),
                ("dram_throughput_pct", F, "DRAM throughput of its peak, 0-100"),
                ("l1_throughput_pct", F, "L1/TEX throughput of its peak, 0-100"),
                ("l2_throughput_pct", F, "L2 throughput of its peak, 0-100"),
                ("dram_bytes", I, "bytes read from and written to DRAM"),
                ("dram_bytes_per_s", F, "DRAM traffic, bytes/s"),
                ("tensor_pipe_pct", F, "tensor pipe busy while an SM is active, 0-100"),
                (
                    "tensor_flops",
                    I,
                    "operations the tensor cores executed, a multiply-add as two, tile padding included",
                ),
                ("issue_active_pct", F, "cycles in which a scheduler issued, 0-100"),
                ("achieved_occupancy_pct", F, "active warps of the maximum, 0-100"),
                ("theoretical_occupancy_pct", F, "occupancy the launch shape allows, 0-100"),
                (
                    "occupancy_limiter",
                    S,
                    "resource with the lowest block limit: registers, shared_mem, warps, blocks, barriers, ', ' between equals; null at full theoretical occupancy",
                ),
                ("l1_hit_pct", F, "L1/TEX hit rate, 0-100"),
                ("l2_hit_pct", F, "L2 hit rate, 0-100"),
                (
                    "coalescing_pct",
                    F,
                    "bytes used of each 32-byte sector loaded from global memory, 0-100; null without such loads",
                ),
                ("store_coalescing_pct", F, "the same for stores"),
                ("spill_requests", I, "local-memory requests (or instructions) from register spills"),
                ("local_memory_bytes", I, "local-memory traffic through L1, bytes"),
                ("top_stall", S, "stall reason with the most warp cycles: stalls.stall_advice"),
                ("top_stall_pct", F, "its share of the cycles between two issues of a warp, 0-100"),
                ("top_stall_ratio", F, "its warp cycles per issued instruction; null from samples"),
            ]
        ),
    ),
    Table(
        "ncu_metrics",
        "every metric of the kernels Nsight Compute profiled, long form",
        _columns(
            [
                ("ncu_kernel_id", I, "ncu_kernels.ncu_kernel_id"),
                _RANK,
                ("metric", S, "metric name; a details page's label where unknown"),
                ("value", F, "number in the base unit"),
                ("unit", S, "base unit: ns, byte, byte/s, hz, %, …"),
                ("text", S, "value of a metric that is no number"),
            ]
        ),
    ),
    Table(
        "steps",
        "one model forward each: a decode step, a prefill, a mixed batch",
        _columns(
            [
                ("step_id", I, "row id, in order of start"),
                _RANK,
                _START,
                ("dur_ns", I, "host side, ns; null when the step was found on the GPU alone"),
                ("name", S, "text of the mark, where there is one"),
                ("kind", S, "prefill, decode, mixed, verify, draft, other; null when tokens are unknown"),
                ("batch_size", I, "requests in the step; null when unknown"),
                ("tokens", I, "tokens computed in the step; null when unknown"),
                ("period_ns", I, "start to the next step's start; the last one: to the end of its GPU work"),
                ("gpu_start_ns", I, "first GPU work"),
                ("gpu_dur_ns", I, "first start to last end of its GPU work, ns"),
                (
                    "gpu_busy_ns",
                    I,
                    "its device busy between its first and last work there, ns; null when part of its work left no record",
                ),
                (
                    "gpu_idle_ns",
                    I,
                    "gaps of its device that belong to the step (the one before its first work included), ns",
                ),
                (
                    "lead_in_ns",
                    I,
                    "idle from its start to its first GPU work where no gap covers it (the device's first step), ns",
                ),
                (
                    "whole_ns",
                    I,
                    "what shares of the step refer to: its period, or busy plus idle where that is longer, ns",
                ),
                ("kernels", I, "kernels"),
                ("gpu_ops", I, "kernels, copies and memsets"),
                ("launch_calls", I, "kernel launch API calls"),
                ("graph_launches", I, "graph launch calls"),
                ("graph_segments", I, "graph launches with GPU rows"),
                ("device", I, "the device that stands for it, the busiest; step_devices has a row for each"),
                ("devices", I, "devices it ran on"),
                ("pid", I, "process of the mark"),
                ("tid", I, "thread of the mark"),
                (
                    "found_by",
                    S,
                    "what told the step: step mark, execute mark, nvtx, profiler_step, graph_replays, kernel_sequence",
                ),
            ]
        ),
        derived=True,
    ),
    Table(
        "launches",
        "host calls that put work on the GPU",
        _columns(
            [
                ("launch_id", I, "row id, in order of start"),
                _RANK,
                ("name", S, "API name"),
                ("kind", S, "kernel, graph, memcpy or memset"),
                _START,
                _DUR,
                _PID,
                _TID,
                _CORRELATION,
                ("gpu_ops", I, "GPU rows it launched"),
                ("gpu_start_ns", I, "start of the first of them"),
                ("delay_ns", I, "max(0, GPU start − max(call end, previous end on that stream)), ns"),
                _STEP,
            ]
        ),
        derived=True,
    ),
    Table(
        "gpu_ops",
        "all GPU work in one table: kernels, copies, memsets and whole-replay records",
        _columns(
            [
                ("gpu_op_id", I, "row id, in order of start"),
                _RANK,
                ("kind", S, "kernel, memcpy, memset or graph"),
                ("source_id", I, "row id in the table of its kind"),
                ("name", S, "kernel short name, or e.g. memcpy HtoD"),
                _START,
                _DUR,
                _DEVICE,
                _STREAM,
                _PID,
                _CORRELATION,
                _LAUNCH,
                ("launch_kind", S, "kind of the launch call: kernel, graph, memcpy, memset"),
                _STEP,
            ]
        ),
        derived=True,
    ),
    Table(
        "critical_path",
        "what made each step's period, one after the other: its times add up to the period exactly",
        _columns(
            [
                ("step_id", I, "steps.step_id"),
                _RANK,
                ("position", I, "place along the path, from 0"),
                (
                    "part",
                    S,
                    "host (a thread between its calls), launch (a launch call), latency (call returned, device idle), gpu, "
                    "drain (between two operations of the device), sync (a wait beyond the work it waits for)",
                ),
                (
                    "name",
                    S,
                    "the operation; of host, launch and sync the call made or on the way, null towards the end",
                ),
                _START,
                _DUR,
                ("launch_id", I, "launches.launch_id of that call or of the operation's launch"),
                ("gpu_op_id", I, "gpu_ops.gpu_op_id"),
            ]
        ),
        derived=True,
    ),
    Table(
        "step_devices",
        "what each step cost on each device it ran on",
        _columns(
            [
                ("step_id", I, "steps.step_id"),
                _RANK,
                _DEVICE,
                ("gpu_start_ns", I, "first GPU work of the step there"),
                ("gpu_dur_ns", I, "first start to last end, ns"),
                ("gpu_busy_ns", I, "the device busy within that span, whoever's work it was, ns; null like the step's"),
                ("gpu_idle_ns", I, "gaps of the device that belong to the step, ns"),
                ("lead_in_ns", I, "idle from the step's start to its first work there where no gap covers it, ns"),
                ("kernels", I, "kernels"),
                ("gpu_ops", I, "kernels, copies and memsets"),
                ("stands_for_step", pl.Boolean, "whether the step's own busy and idle time are this device's"),
            ]
        ),
        derived=True,
    ),
    Table(
        "gaps",
        "device idle between two GPU operations",
        _columns(
            [
                ("gap_id", I, "row id, in order of device and start"),
                _RANK,
                _DEVICE,
                _START,
                _DUR,
                (
                    "step_id",
                    I,
                    "the step that waits: the one of the work after the gap; null outside the steps",
                ),
                ("cause", S, "the cause with the largest share of the gap"),
                ("blame", S, "op, range, frame or call the dominant cause points at"),
                ("before", S, "GPU work that ended where the gap starts"),
                ("after", S, "GPU work that starts where it ends"),
                ("before_op_id", I, "gpu_ops.gpu_op_id"),
                ("after_op_id", I, "gpu_ops.gpu_op_id"),
                ("launch_id", I, "launch call of the work after the gap"),
            ]
        ),
        derived=True,
    ),
    Table(
        "gap_parts",
        "gaps split by cause; the parts of a gap add up to it exactly",
        _columns(
            [
                ("gap_id", I, "gaps.gap_id"),
                _RANK,
                ("cause", S, "see docs/definitions.md"),
                (
                    "detail",
                    S,
                    "within a cause: python, op, runtime, range, idle; the call's name when blocked",
                ),
                _START,
                _DUR,
                ("blame", S, "op, range, frame or call"),
            ]
        ),
        derived=True,
    ),
    Table(
        "graph_segments",
        "the GPU work of one graph launch",
        _columns(
            [
                ("step_id", I, "steps.step_id"),
                _RANK,
                ("launch_id", I, "launches.launch_id"),
                _GRAPH,
                _DEVICE,
                _START,
                _DUR,
                ("kernels", I, "kernels in it"),
                ("gpu_busy_ns", I, "union of its GPU rows, ns"),
                ("first_kernel", S, "first kernel, short name"),
                ("last_kernel", S, "last kernel, short name"),
            ]
        ),
        derived=True,
    ),
    Table(
        "graph_boundaries",
        "what lies between two consecutive graph segments of a step",
        _columns(
            [
                ("boundary_id", I, "row id, in order of start"),
                ("step_id", I, "steps.step_id"),
                _RANK,
                _DEVICE,
                ("before_launch_id", I, "launch of the segment before"),
                ("after_launch_id", I, "launch of the segment after"),
                _START,
                ("dur_ns", I, "end of the segment before to start of the one after, ns"),
                ("idle_ns", I, "GPU idle within it, ns"),
                ("eager_gpu_ops", I, "GPU rows that ran in it outside graphs"),
                ("eager_gpu_ns", I, "their union, ns"),
                ("cause", S, "dominant cause of the idle time; null when there is none"),
                ("cpu_activity", S, "what the launching host thread did during most of the idle time"),
                ("before", S, "last kernel of the segment before"),
                ("after", S, "first kernel of the segment after"),
                ("eager", S, "distinct eager GPU work between, in order"),
            ]
        ),
        derived=True,
    ),
    Table(
        "layers",
        "one repeat of the longest periodic run of kernels in a step",
        _columns(
            [
                ("step_id", I, "steps.step_id"),
                _RANK,
                ("layer", I, "0-based position in the run"),
                _START,
                _DUR,
                ("gpu_busy_ns", I, "union of its kernels, ns"),
                ("kernels", I, "kernels"),
                ("first_kernel_id", I, "kernels.kernel_id of its first kernel"),
                ("busy_ratio", F, "gpu_busy_ns over the median layer of its step: an outlier layer stands out"),
            ]
        ),
        derived=True,
    ),
    Table(
        "layer_kernels",
        "kernels that lie in a layer, with their place and role in the block",
        _columns(
            [
                ("kernel_id", I, "kernels.kernel_id"),
                _RANK,
                _STEP,
                _DEVICE,
                ("layer", I, "layers.layer"),
                ("position", I, "0-based place in the block"),
                ("role", S, "qkv, o_proj, gate_up, down for matrix products; else the kernel's category"),
            ]
        ),
        derived=True,
    ),
    Table(
        "op_costs",
        "host and device cost by operator name, steps only where there are steps",
        _columns(
            [
                _RANK,
                ("name", S, "operator"),
                ("calls", I, "calls"),
                ("self_cpu_ns", I, "duration minus child ops and API calls, profiler overhead taken out, ns"),
                ("self_cpu_with_launch_ns", I, "self_cpu_ns plus its own API calls, ns"),
                ("cpu_ns", I, "duration with children, profiler overhead taken out, ns"),
                ("device_ns", I, "GPU rows launched inside it and not inside a child, ns summed"),
                ("device_total_ns", I, "GPU rows launched inside it or a child, ns summed"),
                ("kernels", I, "GPU rows launched by itself"),
                ("cpu_gpu_ratio", F, "self_cpu_with_launch_ns / device_ns; null without device time"),
            ]
        ),
        derived=True,
    ),
    Table(
        "aligned_kernels",
        "replayed kernels with what an eager run of the same model knows of them; empty without one (--eager)",
        _columns(
            [
                ("kernel_id", I, "the replayed kernel: kernels.kernel_id"),
                _RANK,
                ("eager_kernel_id", I, "its twin in the eager trace; null where the two runs differ"),
                (
                    "match",
                    S,
                    "shape: same kernel and launch shape; name: same kernel, other launch shape; null: no twin",
                ),
                ("op", S, "operator that launched the twin; null when none did"),
                ("eager_op_id", I, "that operator in the eager trace: cpu_ops.op_id"),
                ("input_shapes", S, "the operator's input shapes, JSON"),
                ("input_dtypes", S, "the operator's input types, JSON"),
                ("module", S, "innermost nn.Module around the twin's launch, where stacks were recorded"),
                ("frame", S, "innermost Python frame outside torch around it, where stacks were recorded"),
                ("nvtx", S, "innermost named range around it, no step mark"),
                ("dur_ns", I, "the replayed kernel, ns"),
                ("eager_dur_ns", I, "its twin, ns; the median over the eager steps"),
                _STEP,
            ]
        ),
        derived=True,
    ),
    Table(
        "gemms",
        "matrix products with known shapes, one row per innermost GEMM op",
        _columns(
            [
                ("gemm_id", I, "row id, in order of launch"),
                _RANK,
                ("op", S, "operator"),
                ("op_id", I, "cpu_ops.op_id"),
                ("batch", I, "independent products in the call (bmm), else 1"),
                ("m", I, "rows of A"),
                ("n", I, "columns of B"),
                ("k", I, "inner dimension"),
                ("dtype", S, "type of A"),
                ("b_dtype", S, "type of B; packed weights by their width: 4-bit"),
                _START,
                ("dur_ns", I, "all its kernels summed, split-K reduction included, ns"),
                _DEVICE,
                _STEP,
                ("layer", I, "layers.layer; null outside the layers"),
                ("kernel_id", I, "its longest kernel: kernels.kernel_id"),
                ("kernel_name", S, "its longest kernel"),
                ("kernels", I, "kernels it took"),
                ("flops", I, "2·batch·M·N·K"),
                ("bytes", I, "operands and result once each, bytes"),
                ("weight_bytes", I, "B alone, with the scales of packed weights, bytes"),
                ("intensity", F, "flops / bytes"),
                ("ridge", F, "peak FLOP/s over peak bandwidth of the device"),
                ("achieved_tflops", F, "flops / dur, TFLOP/s"),
                ("achieved_tb_per_s", F, "bytes / dur, TB/s"),
                ("pct_of_roof", F, "achieved over the lower of the two ceilings at this intensity, 0-100"),
                ("bound", S, "compute, memory, latency or under; null when the device's peaks are unknown"),
                ("source", S, "where the shapes come from: shapes or alignment"),
                ("note", S, "which assumption breaks where a peak is exceeded; null where none is"),
            ]
        ),
        derived=True,
    ),
    Table(
        "roofline",
        "kernels whose bytes or operations are known: from operator shapes, an aligned eager run, or Nsight Compute",
        _columns(
            [
                (
                    "kernel_id",
                    I,
                    "kernels.kernel_id; of an operator with several kernels the longest; null in a report",
                ),
                ("ncu_kernel_id", I, "ncu_kernels.ncu_kernel_id where the figures come from counters"),
                _RANK,
                ("name", S, "kernel, short name"),
                ("category", S, "kind of work the kernel's name says it is"),
                ("op", S, "operator; null without one"),
                _START,
                ("dur_ns", I, "all kernels of the operator summed, ns"),
                _DEVICE,
                _STEP,
                ("kernels", I, "kernels of the operator"),
                ("blocks", I, "blocks of its longest kernel"),
                ("dtype", S, "type that the operations are counted against"),
                ("flops", I, "operations; null where only bytes are known"),
                ("bytes", I, "bytes moved: by the shapes each tensor once, by the counters to and from DRAM"),
                ("intensity", F, "flops / bytes"),
                ("ridge", F, "peak FLOP/s over peak bandwidth of the device"),
                ("achieved_tflops", F, "flops / dur, TFLOP/s"),
                ("achieved_tb_per_s", F, "bytes / dur, TB/s"),
                ("pct_of_roof", F, "achieved over the lower of the two ceilings at this intensity, 0-100"),
                ("bound", S, "compute, memory, latency or under; null when the device's peaks are unknown"),
                ("source", S, "shapes, alignment, lengths (of the sequences, from the run's manifest) or ncu"),
                ("note", S, "which assumption breaks where a peak is exceeded; null where none is"),
            ]
        ),
        derived=True,
    ),
    Table(
        "step_floor",
        "the bytes every step of a kind must move, over the bandwidth, beside what was measured",
        _columns(
            [
                _RANK,
                ("kind", S, "kind of step"),
                ("batch_size", I, "requests in the step"),
                ("steps", I, "steps of this kind and batch size"),
                ("gpu", S, "GPU whose peaks count"),
                ("bandwidth_bytes_per_s", F, "its peak bandwidth"),
                ("weight_bytes", I, "weights the step's matrix products read, each product once; median step"),
                ("kv_bytes", I, "keys and values that attention reads; null when their lengths are unknown"),
                ("kv_bytes_per_token", I, "keys and values of one token over all layers; null without shapes"),
                ("floor_ns", I, "(weight_bytes + kv_bytes) / bandwidth, ns; kv_bytes left out when unknown"),
                ("compute_floor_ns", I, "FLOPs of the matrix products over the peaks of their types, ns"),
                ("gpu_busy_ns", I, "measured, median step"),
                ("period_ns", I, "measured, median step"),
                ("busy_over_floor", F, "gpu_busy_ns over the higher of the two floors"),
                ("period_over_floor", F, "period_ns over the higher of the two floors"),
                ("gemms_known_pct", F, "matrix-product kernel time whose shapes are known, 0-100"),
                ("source", S, "where the bytes come from: shapes, alignment; + ncu or given for keys and values"),
                ("note", S, "what the floor leaves out, or which assumption broke"),
            ]
        ),
        derived=True,
    ),
    Table(
        "token_latencies",
        "when requests get tokens: one row a decode step that follows another (itl), one a prefill step (ttft)",
        _columns(
            [
                ("step_id", I, "the step that made the tokens: steps.step_id"),
                _RANK,
                (
                    "kind",
                    S,
                    "itl: from the decode step before to this one, ends of GPU work; ttft: from the host's start of a prefill to the end of its GPU work, a lower bound without the time in the queue",
                ),
                ("batch_size", I, "requests in the step"),
                ("tokens", I, "prompt tokens of the prefill; null for itl"),
                ("prefills", I, "other steps between the two decode steps; null for ttft"),
                ("start_ns", I, "from when it counts, ns from the trace's first event"),
                ("latency_ns", I, "how long it took, ns"),
            ]
        ),
        derived=True,
    ),
    Table(
        "ncu_matches",
        "kernels of the timeline that Nsight Compute measured too, one row a kernel name and launch shape",
        _columns(
            [
                ("ncu_kernel_id", I, "the profiled kernel of median duration: ncu_kernels.ncu_kernel_id"),
                _RANK,
                ("name", S, "kernel, short name"),
                ("category", S, "kind of work the kernel's name says it is"),
                ("grid_x", I, "blocks in x"),
                ("grid_y", I, "blocks in y"),
                ("grid_z", I, "blocks in z"),
                ("block_x", I, "threads in x"),
                ("block_y", I, "threads in y"),
                ("block_z", I, "threads in z"),
                ("calls", I, "times it ran on the timeline"),
                ("dur_ns", I, "median on the timeline, ns"),
                ("total_ns", I, "sum on the timeline, ns"),
                ("ncu_calls", I, "times it was profiled"),
                ("ncu_dur_ns", I, "median under Nsight Compute, ns"),
                ("shapes", I, "distinct matrix products that run under this name and launch shape; null: none known"),
                ("comparable", pl.Boolean, "one product at most, and durations within 25 %: the counters hold for it"),
                ("shape_bytes", I, "bytes by the operator's shapes; null without shapes"),
                ("dram_bytes", I, "bytes by the counters"),
                ("bound_by_shapes", S, "compute, memory, latency or under, from shapes and timeline"),
                ("bound_by_counters", S, "the same from the counters; null where they do not tell for the timeline"),
                ("agree", pl.Boolean, "whether the two classes are the same; null where one is unknown"),
                ("reason", S, "why they differ, where the figures tell"),
            ]
        ),
        derived=True,
    ),
]

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
"""Every table of the contract by name."""

LOADED = tuple(name for name, table in TABLES.items() if not table.derived)
"""Tables a loader fills."""


def conform_all(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """One conforming frame for every loaded table; those ``frames`` lacks are empty."""
    return {name: TABLES[name].conform(frames[name]) if name in frames else TABLES[name].empty() for name in LOADED}

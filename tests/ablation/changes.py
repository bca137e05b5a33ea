"""The changes: each takes a real trace, a position and a size, and makes the same change in every step."""

from __future__ import annotations

import json

import polars as pl
from ablation.edit import Edit

from traceql.derived import api
from traceql.derived.ops import cpu_ops
from traceql.trace import Trace

FRAME = "ablation.py(1): injected"
_US = 1000


def places_before_launches(trace: Trace) -> pl.DataFrame:
    """Places between operators, in front of each launch made in a step: ``at_ns`` on the host, ``gpu_ns`` where the first
    work launched after it starts; step_id, launch_id, and ``position`` in the step."""
    ops = cpu_ops(trace).filter(pl.col("depth") == 0).select("start_ns", "end_ns").sort("start_ns")
    calls = (
        trace.table("launches")
        .filter(pl.col("gpu_ops") > 0)
        .select("step_id", "launch_id", call_ns="start_ns", gpu_ns="gpu_start_ns")
        .sort("call_ns")
    )
    inside = pl.col("end_ns") > pl.col("call_ns")
    return (
        calls.filter(pl.col("step_id").is_not_null())
        .drop("gpu_ns")
        .join_asof(ops, left_on="call_ns", right_on="start_ns", strategy="backward")
        .with_columns(at_ns=pl.when(inside).then("start_ns").otherwise("call_ns"))
        .sort("at_ns")
        .join_asof(calls.select("call_ns", "gpu_ns"), left_on="at_ns", right_on="call_ns", strategy="forward")
        .select("step_id", "launch_id", "at_ns", "gpu_ns", position=pl.int_range(pl.len()).over("step_id"))
    )


def _delayed(trace: Trace, position: int, by_ns: int) -> tuple[Edit, list[dict[str, int]]]:
    """In every step the place in front of launch ``position`` with a hole that leaves the GPU idle for ``by_ns``.

    ``hole_ns`` of a place is longer where the GPU still works when the hole opens.
    """
    places = places_before_launches(trace).filter(pl.col("position") == position).rows(named=True)
    chosen = [{**p, "hole_ns": by_ns + max(0, _reach(trace, p["gpu_ns"]) - p["at_ns"])} for p in places]
    return _opened(trace, chosen), chosen


def _opened(trace: Trace, places: list[dict[str, int]]) -> Edit:
    edit = Edit(trace)
    for place in places:
        edit.host_hole(place["at_ns"], place["hole_ns"])
        edit.gpu_hole(place["gpu_ns"], place["hole_ns"])
    return edit


def _reach(trace: Trace, gpu_ns: int) -> int:
    """When the GPU work that starts before this time has ended."""
    before = trace.table("gpu_ops").filter(pl.col("start_ns") < gpu_ns)
    last: int = before.select((pl.col("start_ns") + pl.col("dur_ns")).max()).item()
    return min(last, gpu_ns)


def host_delay(trace: Trace, position: int, by_us: int) -> Trace:
    """The host is in a Python function (in a named range, where the trace has no Python calls) before it makes the launch,
    and the GPU waits ``by_us`` for it."""
    edit, chosen = _delayed(trace, position, by_us * _US)
    for place in chosen:
        edit.add_activity(FRAME, start_ns=edit.before("host", place["at_ns"]), dur_ns=place["hole_ns"])
    return edit.trace()


def allocate(trace: Trace, position: int, by_us: int) -> Trace:
    """The step allocates device memory before it makes the launch, and the GPU waits ``by_us`` for it."""
    edit, chosen = _delayed(trace, position, by_us * _US)
    for place in chosen:
        edit.add(
            "runtime_calls", name="cudaMalloc", start_ns=edit.before("host", place["at_ns"]), dur_ns=place["hole_ns"] - 1,
            correlation_id=edit.correlation(), return_value=0,
        )  # fmt: skip
    return edit.trace()


COMPILE = "torch/_dynamo/convert_frame.py(900): _compile_inner"


def recompile(trace: Trace, position: int, by_us: int) -> Trace:
    """A compiled function is compiled again in every step before it makes the launch: the GPU waits ``by_us``."""
    edit, chosen = _delayed(trace, position, by_us * _US)
    for place in chosen:
        edit.add_activity(COMPILE, start_ns=edit.before("host", place["at_ns"]), dur_ns=place["hole_ns"])
    return edit.trace()


def late_rank(on_time: Trace, late: Trace, position: int, by_us: int) -> tuple[Trace, Trace]:
    """Both ranks of a job after one of them reaches the launch at ``position`` of each step ``by_us`` later, in front of all
    its collectives: the first collective of the step waits that long on the other rank."""
    waiting = Edit(on_time)
    collectives = on_time.table("collectives").select("kernel_id", "step_id").filter(pl.col("step_id").is_not_null())
    first = (
        on_time.table("kernels")
        .select("kernel_id", "start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"))
        .join(collectives, on="kernel_id")
        .sort("start_ns")
        .unique("step_id", keep="first", maintain_order=True)
    )
    for kernel in first.rows(named=True):
        wait_start, wait_end = _wait_over(on_time, kernel["start_ns"])
        waiting.lengthen(kernel["kernel_id"], by_us * _US)
        waiting.gpu_hole(kernel["end_ns"], by_us * _US)
        waiting.host_hole(wait_start, by_us * _US, until_ns=wait_end)
    return waiting.trace(), host_delay(late, position, by_us)


def synchronise(trace: Trace, position: int, by_us: int) -> Trace:
    """The host waits for the stream before it makes the launch, for ``by_us`` longer than the GPU works."""
    edit, chosen = _delayed(trace, position, by_us * _US)
    for place in chosen:
        edit.add(
            "runtime_calls", name="cudaStreamSynchronize", start_ns=edit.before("host", place["at_ns"]),
            dur_ns=place["hole_ns"] - 1, correlation_id=edit.correlation(), return_value=0,
        )  # fmt: skip
    return edit.trace()


def blocking_copy(trace: Trace, position: int, by_us: int, bytes: int) -> Trace:
    """The step reads ``bytes`` back into pageable memory before it makes the launch: ``by_us`` beyond the GPU's work."""
    edit, chosen = _delayed(trace, position, by_us * _US)
    for place in chosen:
        correlation, at = edit.correlation(), edit.before("host", place["at_ns"])
        edit.add(
            "runtime_calls", name="cudaMemcpyAsync", start_ns=at, dur_ns=place["hole_ns"] - 1, correlation_id=correlation,
            return_value=0,
        )  # fmt: skip
        edit.add(
            "memcpys", kind="DtoH", src_memory="device", dst_memory="pageable", bytes=bytes,
            start_ns=at + place["hole_ns"] - (by_us - 5) * _US, dur_ns=(by_us - 10) * _US, correlation_id=correlation,
        )  # fmt: skip
    return edit.trace()


COPY_SHAPE = [4096, 2048]
_SOURCE, _TYPE = [9000, 1], "c10::BFloat16"
_COPYING = (
    ("aten::contiguous", [COPY_SHAPE], [_SOURCE], [_TYPE]),
    ("aten::clone", [COPY_SHAPE], [_SOURCE], [_TYPE]),
    ("aten::copy_", [COPY_SHAPE, COPY_SHAPE], [[2048, 1], _SOURCE], [_TYPE, _TYPE]),
)
"""Operators of a copy from the outside in: name, input shapes, strides and types."""


def copies(trace: Trace, position: int, host_us: int, gpu_us: int) -> Trace:
    """In every layer a tensor is made contiguous before the operator that launches the kernel at ``position``."""
    in_layer = (
        trace.table("layer_kernels")
        .filter(pl.col("position") == position)
        .join(trace.table("kernels").select("kernel_id", "launch_id"), on="kernel_id")
        .select("launch_id")
    )
    hole = pl.lit(host_us * _US).alias("hole_ns")
    places = (
        places_before_launches(trace).join(in_layer, on="launch_id", how="semi").with_columns(hole).rows(named=True)
    )
    edit = _opened(trace, places)
    for place in places:
        at, correlation = edit.before("host", place["at_ns"]), edit.correlation()
        for depth, (name, shapes, strides, types) in enumerate(_COPYING):
            edit.add(
                "cpu_ops", name=name, start_ns=at + depth * _US, dur_ns=(host_us - 2 * depth) * _US - 1,
                input_shapes=json.dumps(shapes), input_strides=json.dumps(strides), input_dtypes=json.dumps(types),
            )  # fmt: skip
        edit.add(
            "runtime_calls", name="cudaLaunchKernel", start_ns=at + 5 * _US, dur_ns=4 * _US, correlation_id=correlation,
            return_value=0,
        )  # fmt: skip
        free = edit.before("gpu", place["gpu_ns"]) - place["gpu_ns"] + _reach(trace, place["gpu_ns"])
        edit.add(
            "kernels", name="elementwise_kernel_injected", start_ns=max(at + 11 * _US, free + _US), dur_ns=gpu_us * _US,
            correlation_id=correlation, grid_x=4096, grid_y=1, grid_z=1, block_x=128, block_y=1, block_z=1,
        )  # fmt: skip
    return edit.trace()


def replays(trace: Trace) -> list[pl.DataFrame]:
    """The kernels of each graph replay in order of start: kernel_id, start_ns, end_ns, reach_ns (the end of all before)."""
    graphs = trace.table("graph_launches").select("launch_id")
    rows = (
        trace.table("kernels")
        .join(graphs, on="launch_id", how="semi")
        .select("kernel_id", "launch_id", "start_ns", "dur_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns"))
        .sort("start_ns", "end_ns")
        .with_columns(reach_ns=pl.col("end_ns").cum_max().shift(1).over("launch_id"))
    )
    return [replay for _, replay in rows.group_by("launch_id", maintain_order=True)]


def _wait_over(trace: Trace, gpu_ns: int) -> tuple[int, int]:
    """Start and end of the host's first wait for the GPU that lasts beyond a GPU time."""
    waits = trace.loaded["runtime_calls"].filter(pl.col("name").str.contains(api.SYNCHRONIZE)).sort("start_ns")
    ends = waits.select("start_ns", end_ns=pl.col("start_ns") + pl.col("dur_ns")).filter(pl.col("end_ns") > gpu_ns)
    start, end = ends.row(0)
    return start, end


def split_graph(trace: Trace, position: int, idle_us: int) -> Trace:
    """Each replay becomes two: the nodes from ``position`` on are launched by a second call. The host waits for the first
    part, then the GPU waits ``idle_us`` for the host."""
    edit = Edit(trace)
    launches = trace.table("graph_launches").select("start_ns", "dur_ns").rows()
    call_ns, latency_ns, idle_ns = 20 * _US, 3 * _US, idle_us * _US
    second = []
    for (start, dur), replay in zip(launches, replays(trace), strict=True):
        returned = start + dur
        cut = replay.row(position, named=True)
        # the second call returns just before the GPU has been idle for ``idle_ns``
        late_ns = cut["reach_ns"] + idle_ns - latency_ns - returned
        wait_start, wait_end = _wait_over(trace, cut["start_ns"])
        edit.host_hole(returned, late_ns)
        edit.host_hole(wait_start, cut["reach_ns"] + idle_ns - cut["start_ns"] - late_ns, until_ns=wait_end)
        edit.gpu_hole(cut["start_ns"], cut["reach_ns"] + idle_ns - cut["start_ns"])
        second.append((returned, late_ns, replay["kernel_id"].to_list()[position:]))
    for returned, late_ns, kernel_ids in second:
        correlation, at = edit.correlation(), edit.before("host", returned)
        wait_ns = late_ns + latency_ns - idle_ns
        edit.add(
            "runtime_calls", name="cudaStreamSynchronize", start_ns=at, dur_ns=wait_ns, correlation_id=edit.correlation(),
            return_value=0,
        )  # fmt: skip
        edit.add(
            "runtime_calls", name="cudaGraphLaunch", start_ns=at + late_ns - call_ns, dur_ns=call_ns,
            correlation_id=correlation, return_value=0,
        )  # fmt: skip
        edit.add("python_calls", name=FRAME, start_ns=at + wait_ns, dur_ns=late_ns - call_ns - wait_ns)
        edit.relink(kernel_ids, correlation)
    return edit.trace()


def slower_kernel(trace: Trace, position: int, by_us: int) -> Trace:
    """The kernel at ``position`` of every replay takes ``by_us`` longer."""
    edit = Edit(trace)
    for replay in replays(trace):
        kernel = replay.row(position, named=True)
        wait_start, wait_end = _wait_over(trace, kernel["start_ns"])
        edit.lengthen(kernel["kernel_id"], by_us * _US)
        edit.gpu_hole(kernel["end_ns"], by_us * _US)
        edit.host_hole(wait_start, by_us * _US, until_ns=wait_end)
    return edit.trace()

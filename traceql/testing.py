"""Build small traces by hand, for the tests of rules: times in microseconds, as one thinks of them.

from traceql.testing import TraceBuilder

build = TraceBuilder()
with build.step("step[DECODE bs=8]", start_us=0, dur_us=900):
    build.launch("my_kernel", call_us=10, call_dur_us=4, gpu_us=16, gpu_dur_us=5)
trace = build.trace()
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from traceql import schema
from traceql.aligning import align
from traceql.kernel_names import short_name
from traceql.trace import LoadedTrace, Problem, Source, Trace

_GRID = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")


def _ns(us: float) -> int:
    return round(us * 1000)


class TraceBuilder:
    """Collects rows and makes a Trace of them. One process (pid 1), main thread 1, device 0, stream 7 by default."""

    def __init__(
        self,
        source: Source = "torch_profiler",
        *,
        gpu: str | None = "NVIDIA H200",
        rank: int | None = None,
        clock_us: float | None = None,
        path: Path = Path("built.json"),
    ):
        """``clock_us`` is the wall clock at time 0, microseconds since the epoch; None: the file does not tell."""
        self.source = source
        self.rank = rank
        self.path = path
        self.clock_us = clock_us
        self.problems: list[Problem] = []
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in schema.LOADED}
        self._correlation = 0
        if gpu:
            self.device(gpu)

    def device(self, name: str, *, device: int = 0, memory_bytes: int = 150_109_880_320, sm_count: int = 132) -> None:
        """Describe a GPU."""
        self._add(
            "devices", device=device, name=name, sm_count=sm_count, memory_bytes=memory_bytes, compute_capability="9.0"
        )

    def call(
        self,
        name: str,
        start_us: float,
        dur_us: float,
        *,
        tid: int = 1,
        pid: int = 1,
        correlation: int | None = None,
        return_value: int = 0,
    ) -> int:
        """A CUDA API call; returns its correlation id."""
        if correlation is None:
            self._correlation += 1
            correlation = self._correlation
        self._add(
            "runtime_calls",
            start_us=start_us,
            dur_us=dur_us,
            name=name,
            tid=tid,
            pid=pid,
            correlation_id=correlation,
            return_value=return_value,
        )
        return correlation

    def kernel(
        self,
        name: str,
        start_us: float,
        dur_us: float,
        *,
        correlation: int | None = None,
        device: int = 0,
        stream: int = 7,
        grid: Sequence[int] = (132, 1, 1),
        block: Sequence[int] = (128, 1, 1),
        graph_id: int | None = None,
        collective: Mapping[str, Any] | None = None,
        pid: int | None = 1,
    ) -> None:
        """A kernel on the GPU, launched by the call with ``correlation`` (None: launched outside the trace).

        ``collective`` is what the framework states of a communication kernel: columns of ``collective_calls``.
        """
        if collective is not None:
            self._add(
                "collective_calls",
                start_us=start_us,
                dur_us=dur_us,
                side="kernel",
                pid=pid,
                correlation_id=correlation,
                **collective,
            )
        self._add(
            "kernels",
            start_us=start_us,
            dur_us=dur_us,
            name=name,
            pid=pid,
            correlation_id=correlation,
            device=device,
            stream=stream,
            graph_id=graph_id,
            **dict(zip(_GRID, (*grid, *block), strict=True)),
        )

    def launch(
        self,
        kernel: str,
        *,
        call_us: float,
        gpu_us: float,
        gpu_dur_us: float,
        call_dur_us: float = 4.0,
        call: str = "cudaLaunchKernel",
        tid: int = 1,
        pid: int = 1,
        **kernel_arguments: Any,
    ) -> int:
        """A launch call and its kernel; returns the correlation id."""
        correlation = self.call(call, call_us, call_dur_us, tid=tid, pid=pid)
        self.kernel(kernel, gpu_us, gpu_dur_us, correlation=correlation, pid=pid, **kernel_arguments)
        return correlation

    def graph(
        self,
        kernels: Sequence[tuple[str, float, float]],
        *,
        call_us: float,
        call_dur_us: float = 10.0,
        tid: int = 1,
        pid: int = 1,
        device: int = 0,
        stream: int = 7,
    ) -> int:
        """A graph launch whose replay ran ``kernels`` (name, start_us, dur_us); none of them: it left no record."""
        correlation = self.call("cudaGraphLaunch", call_us, call_dur_us, tid=tid, pid=pid)
        for name, start_us, dur_us in kernels:
            self.kernel(name, start_us, dur_us, correlation=correlation, device=device, stream=stream, pid=pid)
        return correlation

    def graph_trace(
        self, start_us: float, dur_us: float, *, correlation: int, device: int = 0, stream: int = 7
    ) -> None:
        """One device record for a whole replay (nsys graph mode)."""
        self._add(
            "graph_traces",
            start_us=start_us,
            dur_us=dur_us,
            correlation_id=correlation,
            device=device,
            stream=stream,
            pid=1,
        )

    def memcpy(
        self,
        kind: str,
        *,
        call_us: float,
        gpu_us: float,
        gpu_dur_us: float,
        bytes: int = 4096,
        call: str = "cudaMemcpyAsync",
        call_dur_us: float = 4.0,
        src: str = "pinned",
        dst: str = "device",
        tid: int = 1,
        device: int = 0,
        stream: int = 7,
    ) -> int:
        """A copy and its call."""
        correlation = self.call(call, call_us, call_dur_us, tid=tid)
        self._add(
            "memcpys",
            start_us=gpu_us,
            dur_us=gpu_dur_us,
            kind=kind,
            bytes=bytes,
            src_memory=src,
            dst_memory=dst,
            pid=1,
            correlation_id=correlation,
            device=device,
            stream=stream,
        )
        return correlation

    def memset(self, *, call_us: float, gpu_us: float, gpu_dur_us: float, bytes: int = 4096, tid: int = 1) -> int:
        """A fill and its call."""
        correlation = self.call("cudaMemsetAsync", call_us, 4.0, tid=tid)
        self._add(
            "memsets",
            start_us=gpu_us,
            dur_us=gpu_dur_us,
            bytes=bytes,
            pid=1,
            correlation_id=correlation,
            device=0,
            stream=7,
        )
        return correlation

    def op(
        self,
        name: str,
        start_us: float,
        dur_us: float,
        *,
        tid: int = 1,
        shapes: Sequence[Any] | None = None,
        dtypes: Sequence[str] | None = None,
        strides: Sequence[Any] | None = None,
    ) -> None:
        """A framework operator, with input shapes where given."""
        self._add(
            "cpu_ops",
            start_us=start_us,
            dur_us=dur_us,
            name=name,
            pid=1,
            tid=tid,
            input_shapes=None if shapes is None else json.dumps(shapes),
            input_dtypes=None if dtypes is None else json.dumps(dtypes),
            input_strides=None if strides is None else json.dumps(strides),
        )

    def python(self, name: str, start_us: float, dur_us: float, *, tid: int = 1) -> None:
        """A Python frame."""
        self._add("python_calls", start_us=start_us, dur_us=dur_us, name=name, pid=1, tid=tid)

    def range(
        self, name: str, start_us: float, dur_us: float, *, tid: int = 1, pid: int = 1, side: str = "cpu"
    ) -> None:
        """A named range (NVTX, record_function)."""
        self._add("annotations", start_us=start_us, dur_us=dur_us, name=name, pid=pid, tid=tid, side=side)

    def ncu_kernel(
        self,
        name: str,
        dur_us: float,
        *,
        grid: Sequence[int] = (132, 1, 1),
        block: Sequence[int] = (128, 1, 1),
        device: int = 0,
        tensor_type: str = "bf16",
        **counters: Any,
    ) -> None:
        """A kernel that Nsight Compute profiled; ``counters`` are columns of ``ncu_kernels``.

        ``tensor_type`` is what the tensor operations are counted in, where ``tensor_flops`` is given.
        """
        identity = len(self._rows["ncu_kernels"])
        self._rows["ncu_kernels"].append(
            {
                "ncu_kernel_id": identity,
                "name": name,
                "short_name": short_name(name),
                "device": device,
                "dur_ns": _ns(dur_us),
                **dict(zip(_GRID, (*grid, *block), strict=True)),
                **counters,
            }
        )
        if "tensor_flops" in counters:
            metric = f"sm__ops_path_tensor_src_{tensor_type}_dst_fp32.sum"
            value = float(counters["tensor_flops"])
            self._add("ncu_metrics", ncu_kernel_id=identity, metric=metric, value=value, unit="")

    @contextmanager
    def step(self, name: str, *, start_us: float, dur_us: float, tid: int = 1) -> Iterator[None]:
        """A step mark; what is built inside the block need not be, times decide."""
        self.range(name, start_us, dur_us, tid=tid)
        yield

    def overhead(self, kind: str, start_us: float, dur_us: float, *, tid: int | None = 1) -> None:
        """Time the profiler took."""
        self._add("overheads", start_us=start_us, dur_us=dur_us, kind=kind, pid=1 if tid else None, tid=tid)

    def metadata(self, key: str, value: str) -> None:
        """A fact the file states of itself."""
        self._add("metadata", key=key, value=value)

    def problem(self, kind: Any, message: str, **amounts: int) -> None:
        """Something the loader would have noted."""
        self.problems.append(Problem(kind, message, **amounts))

    def _add(self, table: str, *, start_us: float | None = None, dur_us: float | None = None, **values: Any) -> None:
        times = {} if start_us is None else {"start_ns": _ns(start_us), "dur_ns": _ns(dur_us or 0)}
        self._rows[table].append({**times, **values})

    def trace(self) -> Trace:
        """The trace of everything added so far."""
        frames = {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in self._rows.items() if rows}
        return Trace.from_loaded(
            LoadedTrace(
                self.source,
                self.path,
                frames,
                rank=self.rank,
                unix_offset_ns=None if self.clock_us is None else _ns(self.clock_us),
                problems=tuple(self.problems),
            )
        )


_METHODS = {
    "device", "call", "kernel", "launch", "graph", "graph_trace", "memcpy", "memset", "op", "python", "range", "overhead",
    "metadata", "problem", "ncu_kernel",
}  # fmt: skip


def trace_from(spec: Mapping[str, Any]) -> Trace:
    """A trace from plain data (a YAML case): ``source``, ``gpu``, ``rank``, ``clock_us`` and ``events``.

    Each event is a mapping from one builder method to its arguments; ``repeat`` holds ``count``, ``every_us`` and
    nested ``events`` whose times shift by ``every_us`` each round. ``eager`` is the spec of an eager run that the trace is
    aligned with.
    """
    builder = TraceBuilder(
        spec.get("source", "torch_profiler"),
        gpu=spec.get("gpu", "NVIDIA H200"),
        rank=spec.get("rank"),
        clock_us=spec.get("clock_us"),
    )
    _play(builder, spec.get("events", []), 0.0)
    if "eager" in spec:
        return align(builder.trace(), trace_from(spec["eager"])).trace
    return builder.trace()


def _play(builder: TraceBuilder, events: Sequence[Mapping[str, Any]], shift_us: float) -> None:
    for event in events:
        ((method, given),) = event.items()
        if method == "repeat":
            for turn in range(given["count"]):
                _play(builder, given["events"], shift_us + turn * given["every_us"])
            continue
        if method not in _METHODS:
            raise ValueError(f"no builder method {method!r}; there are: {', '.join(sorted(_METHODS))}")
        arguments = {k: v + shift_us if k in ("start_us", "call_us", "gpu_us") else v for k, v in given.items()}
        if method == "graph":
            arguments["kernels"] = [(name, start + shift_us, dur) for name, start, dur in given["kernels"]]
        getattr(builder, method)(**arguments)

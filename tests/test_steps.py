"""Steps of real captures with their marks taken away: the structure alone must give the same steps."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
import traces

from traceql.testing import TraceBuilder
from traceql.trace import Trace


def without_marks(trace: Trace) -> Trace:
    loaded = dict(trace.loaded)
    loaded["annotations"] = loaded["annotations"].clear()
    return Trace(trace.source, trace.path, loaded, trace.rank, trace.source_offset_ns, trace.origin_unix_ns)


@pytest.mark.parametrize(
    ("name", "found_by"),
    [
        ("sglang-h200-bs64-decode-eager", "kernel_sequence"),
        ("sglang-h200-bs64-decode-graph", "graph_replays"),
        ("sglang-h200-tp2-decode-graph-rank0", "graph_replays"),
        ("nsys-h200-mini-decode-piecewise-node", "graph_replays"),
        ("nsys-h200-mini-decode-full-graph", "graph_replays"),
    ],
)
def test_found_without_marks(name: str, found_by: str) -> None:
    marked = traces.sample(name).table("steps")
    bare = without_marks(traces.sample(name)).table("steps")
    assert bare["found_by"].unique().to_list() == [found_by]
    assert bare.height == marked.height
    # a bare step begins where the host came back from its last wait, a marked one a little later
    kernels = marked["kernels"][0]
    assert all(abs(k - kernels) <= max(6, kernels // 50) for k in bare["kernels"])
    assert bare["graph_launches"].to_list() == marked["graph_launches"].to_list()


def test_server_steps_without_marks() -> None:
    trace = traces.extra("torch/sglang-h200-llama8b-server-24steps.trace.json.gz")
    marked, bare = trace.table("steps"), without_marks(trace).table("steps")
    assert bare.height == marked.height == 23
    known = bare.filter(pl.col("tokens").is_not_null())
    assert known["tokens"].to_list() == marked["tokens"].to_list()[1:]
    assert known["batch_size"].to_list() == marked["batch_size"].to_list()[1:]


@pytest.mark.parametrize("name", ["sglang-h200-bs4-prefill-piecewise", "sglang-h200-bs64-prefill-eager"])
def test_layers_of_a_single_step_are_not_steps(name: str) -> None:
    assert without_marks(traces.sample(name)).table("steps").is_empty()


def test_vllm_marks() -> None:
    build = TraceBuilder()
    names = [
        ("execute_8192_context_9(sq8155sk8430sqsq7sqsk7)_generation_37(sq37sk34489sqsq37sqsk34489)", "mixed", 46, 8192),
        ("execute_32_context_0(sq0sk0sqsq0sqsk0)_generation_32(sq32sk32785sqsq32sqsk32785)", "decode", 32, 32),
        ("execute_64_context_2(sq64sk64sqsq1sqsk1)_generation_0(sq0sk0sqsq0sqsk0)", "prefill", 2, 64),
    ]
    for i, (name, *_) in enumerate(names):
        build.range(name, i * 100, 90)
        build.launch("k", call_us=i * 100 + 5, gpu_us=i * 100 + 12, gpu_dur_us=10)
    steps = build.trace().table("steps")
    assert steps.select("kind", "batch_size", "tokens").rows() == [tuple(rest) for _, *rest in names]
    assert steps["found_by"].unique().to_list() == ["execute mark"]


def test_period_and_membership() -> None:
    build = TraceBuilder()
    for i in range(3):
        build.range("step[DECODE bs=4]", i * 100, 60)
        build.launch(
            "k", call_us=i * 100 + 50, call_dur_us=20, gpu_us=i * 100 + 80, gpu_dur_us=10
        )  # called inside, runs outside
        build.launch("late", call_us=i * 100 + 70, gpu_us=i * 100 + 92, gpu_dur_us=2)  # called outside
    trace = build.trace()
    steps = trace.table("steps")
    assert steps["period_ns"].to_list() == [100_000, 100_000, 90_000]
    assert steps["kernels"].to_list() == [1, 1, 1]
    kernels = trace.table("kernels").select("name", "step_id").rows()
    assert kernels == [row for i in range(3) for row in (("k", i), ("late", None))]


def test_ranges_that_repeat_are_steps() -> None:
    build = TraceBuilder("nsys")
    for i in range(4):
        build.range(f"iteration {i}", i * 100, 90)
        for layer in range(3):
            build.range("layer", i * 100 + 10 + layer * 20, 15)
            build.launch("k", call_us=i * 100 + 12 + layer * 20, gpu_us=i * 100 + 20 + layer * 20, gpu_dur_us=5)
        build.launch("head", call_us=i * 100 + 75, gpu_us=i * 100 + 82, gpu_dur_us=4)
    steps = build.trace().table("steps")
    assert steps.height == 4
    assert steps["found_by"].unique().to_list() == ["nvtx"]
    assert steps["kernels"].to_list() == [4] * 4
    assert steps["kind"].null_count() == 4


def test_marks_of_the_engine_win_over_profiler_steps() -> None:
    build = TraceBuilder()
    for i in range(3):
        build.range(f"ProfilerStep#{i}", i * 100, 99)
        build.range("step[EXTEND bs=2 toks=50]", i * 100 + 10, 60)
        build.launch("k", call_us=i * 100 + 20, gpu_us=i * 100 + 30, gpu_dur_us=5)
    steps = build.trace().table("steps")
    assert steps.select("kind", "batch_size", "tokens", "found_by").unique().rows() == [("prefill", 2, 50, "step mark")]


def test_trace_is_unchanged_by_deriving() -> None:
    trace = traces.sample("sglang-h200-bs64-decode-graph")
    before = {name: frame.height for name, frame in trace.loaded.items()}
    trace.table("gap_parts")
    assert before == {name: frame.height for name, frame in trace.loaded.items()}
    assert dataclasses.is_dataclass(trace)

"""Replays named by an eager run: what must be attributed, and what must be left alone."""

from __future__ import annotations

import polars as pl
import pytest
import traces

import traceql as tq
from traceql.errors import UsageError
from traceql.testing import TraceBuilder

GRAPH, EAGER = "sglang-h200-bs64-decode-graph", "sglang-h200-bs64-decode-eager"


def aligned() -> tq.Trace:
    return tq.align(traces.sample(GRAPH), traces.sample(EAGER)).trace


def test_coverage_of_the_same_backend() -> None:
    coverage = tq.align(traces.sample(GRAPH), traces.sample(EAGER)).coverage
    assert coverage.time_pct > 98
    # FlashInfer's replay merges attention states in a kernel the eager run does not have
    assert coverage.unmatched["PersistentVariableLengthMergeStatesKernel"] == 96


def test_a_twin_has_the_same_name_and_order_is_kept() -> None:
    trace, eager = aligned(), traces.sample(EAGER)
    names = trace.table("kernels").select("kernel_id", "name")
    eager_names = eager.table("kernels").select(eager_kernel_id="kernel_id", eager_name="name")
    rows = trace.table("aligned_kernels").join(names, on="kernel_id").join(eager_names, on="eager_kernel_id")
    assert rows.filter(pl.col("name") != pl.col("eager_name")).is_empty()
    for (_,), step in rows.sort("kernel_id").group_by("step_id", maintain_order=True):
        assert (step["eager_kernel_id"].diff().drop_nulls() > 0).all()


def test_gemms_of_the_replay_are_those_of_the_eager_run() -> None:
    gemms = aligned().table("gemms").filter(pl.col("source") == "alignment")
    sites = gemms.group_by("m", "n", "k").agg(pl.len()).sort("n", "k")
    assert sites.rows() == [
        (64, 4096, 4096, 96), (64, 4096, 14336, 96), (64, 6144, 4096, 96), (64, 28672, 4096, 96), (64, 128256, 4096, 3),
    ]  # fmt: skip
    assert gemms["bound"].unique().to_list() == ["memory"]
    down = gemms.filter(pl.col("k") == 14336)
    assert down["kernels"].unique().to_list() == [2]  # with its split-K reduction


def test_other_attention_backend_abstains_on_attention() -> None:
    graph = traces.extra("torch/sglang-h200-llama8b-bs64-decode-graph-triton.trace.json.gz")
    alignment = tq.align(graph, traces.sample(EAGER))
    assert alignment.coverage.unmatched["_fwd_grouped_kernel_stage1"] == 96
    assert alignment.coverage.unmatched["_fwd_kernel_stage2"] == 96
    assert len(alignment.trace.table("gemms")) == 3 * (4 * 32 + 1)


def test_other_batch_size_is_refused() -> None:
    graph = traces.extra("torch/sglang-h200-llama8b-bs1-decode-graph.trace.json.gz")
    with pytest.raises(UsageError, match="batch sizes differ: 1 replayed, 64 eager"):
        tq.align(graph, traces.sample(EAGER))


def test_a_trace_without_replays_is_refused() -> None:
    with pytest.raises(UsageError, match="replays a CUDA graph"):
        tq.align(traces.sample(EAGER), traces.sample(EAGER))


def test_inserted_and_missing_kernels_do_not_shift_the_rest() -> None:
    def build(graph: bool, names: list[str]) -> tq.Trace:
        builder = TraceBuilder()
        for step in range(3):
            t = step * 100
            builder.range("step[DECODE bs=2]", t, 90)
            if graph:
                builder.graph([(n, t + 20 + 5 * i, 4) for i, n in enumerate(names)], call_us=t + 5)
            else:
                for i, n in enumerate(names):
                    builder.op(f"op::{n}", t + 4 + 5 * i, 4)
                    builder.launch(n, call_us=t + 5 + 5 * i, call_dur_us=2, gpu_us=t + 20 + 5 * i, gpu_dur_us=4)
        return builder.trace()

    trace = tq.align(build(True, ["a", "b", "extra", "c", "a"]), build(False, ["a", "b", "gone", "c", "a"])).trace
    step = trace.table("aligned_kernels").filter(pl.col("step_id") == 1)
    assert step["op"].to_list() == ["op::a", "op::b", None, "op::c", "op::a"]

"""Communication kernels: what they are, how large, and what the device did meanwhile."""

from __future__ import annotations

import polars as pl
import pytest
import traces
from hypothesis import given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql.derived import collective_names
from traceql.kernel_names import described
from traceql.testing import TraceBuilder


@pytest.mark.parametrize(
    ("name", "op", "library", "algorithm", "protocol", "dtype", "ranks"),
    [
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_reduce", "nccl", "ring", "ll", "bfloat16", None),
        ("ncclDevKernel_ReduceScatter_Sum_f16_NVLS_SIMPLE(x)", "reduce_scatter", "nccl", "nvls", "simple", "float16", None),
        ("ncclDevKernel_AllGather_RING_LL128(x)", "all_gather", "nccl", "ring", "ll128", None, None),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*)", "send_recv", "nccl", "ring", "simple", None, None),
        ("ncclDevKernel_Reduce_Sum_f32_TREE_LL(x)", "reduce", "nccl", "tree", "ll", "float32", None),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(RankData*)", "all_reduce", "custom all-reduce", "1stage", None, "bfloat16", 2),
        ("void sglang::cross_device_reduce_2stage<half, 8>(RankData*)", "all_reduce", "custom all-reduce", "2stage", None, "half", 8),
        ("multimem_all_reduce_kernel<c10::BFloat16, 8>", "all_reduce", "multimem", None, None, None, None),
        ("void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<x>", "all_reduce", "fused all-reduce", "oneshot", None, None, None),
        ("void deep_ep::intranode::dispatch<8, 768, 8192>", "dispatch", "deepep", None, None, None, None),
        ("void deep_ep::internode_ll::combine<7168>", "combine", "deepep", None, None, None, None),
        ("void pplx::all_to_all::dispatchKernel(x)", "dispatch", "pplx", None, None, None, None),
        ("void mscclpp::allreduce7<__half>(x)", "all_reduce", "mscclpp", None, None, None, None),
        ("void quickreduce::allreduce_prototype_twoshot<x>(x)", "all_reduce", "quick reduce", "twoshot", None, None, None),
        ("void (anonymous namespace)::all_reduce_one_shot_push_kernel<__nv_bfloat16, 2u, true>(AllReducePushData, PushController)", "all_reduce", "custom all-reduce", "oneshot", None, "bfloat16", 2),
        ("void <unnamed>::all_reduce_two_shot_kernel<__nv_bfloat16, (unsigned int)4, (bool)1>(AllReduceData*, AllReduceParams)", "all_reduce", "custom all-reduce", "twoshot", None, "bfloat16", 4),
        ("void sglang::all_reduce_one_shot_kernel<float, 8u, false>(x)", "all_reduce", "custom all-reduce", "oneshot", None, "float", 8),
        ("void aiter::cross_device_reduce_1stage_naive<__hip_bfloat16, 8>(x)", "all_reduce", "custom all-reduce", "1stage", None, "bfloat16", 8),
        ("void tensorrt_llm::kernels::mnnvl::twoshotAllreduceKernel<8>(x)", "all_reduce", "fused all-reduce", "twoshot", None, None, None),
        ("ncclSymkDevKernel_AllReduce_RSxLDMC_AGxSTMC_sum_bf16(x)", "all_reduce", "nccl", None, None, None, None),
        ("ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)", None, "nccl", None, None, None, None),
    ],
)  # fmt: skip
def test_names(name: str, op: str | None, library: str, algorithm: str, protocol: str, dtype: str, ranks: int) -> None:
    text = pl.col("name")
    row = described(pl.DataFrame({"name": [name], "short_name": [None], "category": [None]})).select(
        "category", op=collective_names.op(text), library=collective_names.library(text, on_amd=False),
        algorithm=collective_names.algorithm(text), protocol=collective_names.protocol(text),
        dtype=collective_names.dtype(text), ranks=collective_names.world_size(text),
    )  # fmt: skip
    assert row.row(0) == ("communication", op, library, algorithm, protocol, dtype, ranks)


@pytest.mark.parametrize(
    ("op", "ranks", "factor"),
    [
        ("all_reduce", 2, 1.0),
        ("all_reduce", 8, 1.75),
        ("all_gather", 4, 0.75),
        ("broadcast", 8, 1.0),
        ("dispatch", 8, None),
    ],
)
def test_bus_factors_are_those_of_nccl_tests(op: str, ranks: int, factor: float | None) -> None:
    frame = pl.DataFrame({"op": [op], "ranks": [ranks]})
    assert frame.select(collective_names.bus_factor("op", "ranks")).item() == factor


def _with_call(**stated: object) -> dict[str, object]:
    build = TraceBuilder()
    build.launch("ncclDevKernel_AllGather_RING_LL", call_us=0, gpu_us=10, gpu_dur_us=10, collective=stated)
    return build.trace().table("collectives").row(0, named=True)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce"]),
    st.integers(2, 64), st.integers(1, 1 << 20), st.sampled_from([("BFloat16", 2), ("Float", 4), ("Byte", 1)]),
)  # fmt: skip
def test_bandwidths_are_those_of_nccl_tests(op: str, ranks: int, count: int, dtype: tuple[str, int]) -> None:
    """doc/PERFORMANCE.md of NCCL-tests: algbw = S / t; every rank sends and receives busbw · t over its slowest link."""
    kernel = {"all_reduce": "AllReduce_Sum", "all_gather": "AllGather", "reduce_scatter": "ReduceScatter_Sum", "all_to_all": "SendRecv",
              "broadcast": "Broadcast", "reduce": "Reduce_Sum"}[op]  # fmt: skip
    whole = count * ranks  # elements of the whole group's buffer, where ranks hold parts of it
    sent, received = {
        "all_reduce": (count, count), "all_gather": (count, whole), "reduce_scatter": (whole, count),
        "all_to_all": (whole, whole), "broadcast": (count, count), "reduce": (count, count),
    }[op]  # fmt: skip
    build = TraceBuilder()
    stated = {"name": op, "in_elements": sent, "out_elements": received, "dtype": dtype[0], "world_size": ranks}
    build.launch(f"ncclDevKernel_{kernel}_RING_LL(x)", call_us=0, gpu_us=5, gpu_dur_us=20, collective=stated)
    (row,) = build.trace().table("collectives").to_dicts()
    size = dtype[1] * (whole if op in ("all_gather", "reduce_scatter", "all_to_all") else count)
    crossing = {"all_reduce": 2 * size * (ranks - 1) / ranks, "broadcast": size, "reduce": size}
    assert (row["op"], row["bytes"]) == (op, size)
    assert row["algorithm_gb_per_s"] == pytest.approx(size / 20_000)
    assert row["bus_gb_per_s"] == pytest.approx(crossing.get(op, size * (ranks - 1) / ranks) / 20_000)


def test_size_of_a_gather_is_that_of_the_group() -> None:
    row = _with_call(name="_allgather_base", in_elements=1000, out_elements=4000, dtype="Half", group="1", world_size=4)
    assert (row["bytes"], row["dtype"], row["group"], row["source"]) == (8000, "half", "1", "kernel")
    assert row["bus_gb_per_s"] == pytest.approx(8000 / 10_000 * 3 / 4)
    only_input = _with_call(name="allgather", in_elements=1000, dtype="Half", world_size=4)
    assert only_input["bytes"] == 8000


def test_framework_names_what_send_receive_stands_for() -> None:
    build = TraceBuilder()
    stated = {"name": "all_to_allv", "in_elements": 512, "dtype": "BFloat16", "world_size": 8}
    build.launch("ncclDevKernel_SendRecv(x)", call_us=0, gpu_us=10, gpu_dur_us=10, collective=stated)
    row = build.trace().table("collectives").row(0, named=True)
    assert (row["op"], row["bytes"]) == ("all_to_all", 1024)


def test_custom_all_reduce_takes_its_size_from_the_operator() -> None:
    build = TraceBuilder()
    build.op("sgl_kernel::all_reduce", 0, 10, shapes=[[64, 4096], []], dtypes=["c10::BFloat16", "Scalar"])
    build.launch("void cross_device_reduce_1stage<__nv_bfloat16, 2>()", call_us=2, gpu_us=10, gpu_dur_us=10)
    row = build.trace().table("collectives").row(0, named=True)
    assert (row["bytes"], row["world_size"], row["source"]) == (64 * 4096 * 2, 2, "shapes")


def overlap(build: TraceBuilder) -> dict[str, int]:
    rows = build.trace().table("collective_overlap")
    assert (
        rows.select(pl.sum_horizontal("early_ns", "shared_ns", "hidden_ns", "exposed_ns")).to_series() == rows["dur_ns"]
    ).all()
    return rows.row(-1, named=True)


def test_overlap_with_another_stream_hides() -> None:
    build = TraceBuilder()
    build.kernel("gemm", 0, 12, stream=7)
    build.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 5, 10, stream=9)
    row = overlap(build)
    assert (row["hidden_ns"], row["exposed_ns"], row["early_ns"]) == (7_000, 3_000, 0)


def test_kernels_of_the_same_stream_wait() -> None:
    """The gemm before is waited for, the norm after waits: programmatic dependent launch hides nothing."""
    build = TraceBuilder()
    build.kernel("gemm", 0, 12)
    build.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 10, 10)
    build.kernel("rmsnorm", 14, 8)
    row = overlap(build)
    assert (row["early_ns"], row["exposed_ns"], row["followed_ns"], row["hidden_ns"]) == (2_000, 8_000, 6_000, 0)


def test_two_collectives_at_once_count_once() -> None:
    build = TraceBuilder()
    build.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 0, 10, stream=7)
    build.kernel("ncclDevKernel_AllGather_RING_LL", 4, 10, stream=9)
    row = overlap(build)
    assert (row["shared_ns"], row["exposed_ns"]) == (6_000, 4_000)


def test_waiting_is_what_exceeds_the_fastest_of_a_kind() -> None:
    build = TraceBuilder()
    for start, dur in ((0, 10), (100, 50)):
        build.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", start, dur)
    rows = build.trace().table("collective_overlap")
    assert rows["transfer_ns"].to_list() == [10_000, 10_000]
    assert rows["waiting_ns"].to_list() == [0, 40_000]


def test_real_eager_collectives() -> None:
    trace = traces.extra("torch/sglang-h200-llama8b-tp2-decode-eager-nccl-rank0.trace.json.gz")
    found = trace.table("collectives")
    counts = dict(found.group_by("op").len().rows())
    assert counts == {"all_reduce": 195, "all_gather": 3}
    assert found.filter(pl.col("op") == "all_reduce")["bytes"].unique().to_list() == [64 * 4096 * 2]
    assert found["world_size"].unique().to_list() == [2]


def test_sizes_inside_a_graph_come_from_an_eager_run() -> None:
    name = "torch/sglang-h200-llama8b-tp2-decode-{}-nccl-rank0.trace.json.gz"
    graph, eager = (traces.extra(name.format(mode)) for mode in ("graph", "eager"))
    found = tq.align(graph, eager).trace.table("collectives")
    assert found["source"].unique().to_list() == ["eager"]
    assert found["bytes"].null_count() == 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=10),
)
def test_hidden_and_exposed_equal_a_count_by_the_microsecond(
    collectives: list[tuple[int, int]], compute: list[tuple[int, int]]
) -> None:
    """Collectives of one stream one after the other, computation on another at any time, overlapping itself too."""
    build, end = TraceBuilder(), 100
    placed = []
    for gap, dur in collectives:
        start = end + gap
        end = start + dur
        placed.append((start, dur))
        name = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"
        build.launch(name, call_us=start - 50, gpu_us=start, gpu_dur_us=dur, stream=20)
    busy = set()
    for start, dur in compute:
        build.launch("gemm", call_us=50 + start, gpu_us=100 + start, gpu_dur_us=dur)
        busy |= set(range(100 + start, 100 + start + dur))
    rows = build.trace().table("collective_overlap").sort("start_ns")
    hidden = [len(busy & set(range(start, start + dur))) * 1000 for start, dur in placed]
    assert rows["hidden_ns"].to_list() == hidden
    assert rows["exposed_ns"].to_list() == [dur * 1000 - h for (_, dur), h in zip(placed, hidden, strict=True)]

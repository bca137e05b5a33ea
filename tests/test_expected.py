"""What the real captures are known to hold: figures from an independent reading, stated here as they were found."""

from __future__ import annotations

import polars as pl
import pytest
import traces

import traceql as tq
from traceql import metrics


def torch(name: str) -> tq.Trace:
    return traces.extra(f"torch/sglang-h200-llama8b-{name}.trace.json.gz")


def nsys(name: str) -> tq.Trace:
    return traces.extra(f"nsys/mini-decode-{name}.sqlite")


def causes(trace: tq.Trace, step_id: int) -> dict[tuple[str, str | None], float]:
    """(cause, detail) → ms in the gaps of one step."""
    parts = trace.table("gap_parts").join(trace.table("gaps").select("gap_id", "step_id"), on="gap_id")
    rows = parts.filter(pl.col("step_id") == step_id).group_by("cause", "detail").agg(pl.col("dur_ns").sum() / 1e6)
    return {(cause, detail): ms for cause, detail, ms in rows.rows()}


@pytest.mark.parametrize(
    ("name", "python_ms", "op_ms", "launch_ms", "idle_ms"),
    # python includes what the definition of the reference calls "between steps"
    [
        ("bs64-decode-eager", 13.27 + 0.85, 9.08, 3.40, 27.0),
        ("bs64-decode-eager-nvtx-hooks", 29.62 + 0.51, 8.37, 3.02, 41.86),
    ],
)
def test_eager_decode_is_host_bound(
    name: str, python_ms: float, op_ms: float, launch_ms: float, idle_ms: float
) -> None:
    found = causes(torch(name), 1)
    tolerance = 0.05 * idle_ms
    assert sum(found.values()) == pytest.approx(idle_ms, rel=0.01)
    assert found["host", "python"] == pytest.approx(python_ms, abs=tolerance)
    assert found["host", "op"] == pytest.approx(op_ms, abs=tolerance)
    assert found["launch", None] + found["launch latency", None] == pytest.approx(launch_ms, abs=tolerance)
    assert found["blocked", None] < 0.06


def test_operator_ratios() -> None:
    costs = torch("bs64-decode-eager-nvtx-hooks").table("op_costs").filter(pl.col("device_ns") > 0)
    ratio = dict(costs.select("name", "cpu_gpu_ratio").rows())
    for name, expected in {
        "aten::copy_": 6.94, "sglang::_run_activation_inplace": 13.6, "sglang::apply_rope_inplace": 11.6,
        "sglang::store_cache": 17.4, "aten::mm": 0.94,
    }.items():  # fmt: skip
        assert ratio[name] == pytest.approx(expected, rel=0.02), name


def test_gpu_rows_without_an_operator() -> None:
    from traceql.derived.ops import op_gpu_rows

    rows = op_gpu_rows(torch("bs64-decode-eager-nvtx-hooks")).filter(pl.col("op_id").is_null())
    assert rows.height == 300
    assert rows["dur_ns"].sum() / 1e6 == pytest.approx(5.18, abs=0.01)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("bs64-decode-eager", 12),
        ("bs64-decode-eager-nvtx-hooks", 12),
        ("bs64-decode-graph", 13),
        ("bs64-prefill-eager", 11),
    ],
)
def test_layers(name: str, kernels: int) -> None:
    layers = torch(name).table("layers")
    for (_,), step in layers.group_by("step_id"):
        assert step.height == 32
        assert step["kernels"].unique().to_list() == [kernels]
    if name.endswith("hooks"):
        assert layers["gpu_busy_ns"].mean() / 1000 == pytest.approx(187.8, abs=0.5)  # type: ignore[operator]


def test_piecewise_prefill_boundaries() -> None:
    boundaries = torch("bs4-prefill-piecewise").table("graph_boundaries")
    assert boundaries.height == 32
    assert boundaries["dur_ns"].sum() == 2_222_711
    assert boundaries["idle_ns"].sum() == 963_868
    late = boundaries.filter(pl.col("cause") != "device latency")
    assert late["idle_ns"].to_list() == [747_580]
    assert (boundaries["idle_ns"] > 5_000).sum() == 32
    assert boundaries["idle_ns"].sum() - 747_580 == 216_288


def test_piecewise_nsys_boundaries() -> None:
    trace = nsys("piecewise-node")
    boundaries = trace.table("graph_boundaries")
    assert trace.table("graph_segments").filter(pl.col("step_id").is_not_null()).height == 300
    assert boundaries.height == 288
    assert boundaries["idle_ns"].sum() == 5_791_892
    late = boundaries.filter(pl.col("cause") != "device latency")
    assert late.height == 192
    assert boundaries.filter(pl.col("cause") == "device latency")["idle_ns"].sum() == 253_248
    host = dict(late.group_by("cpu_activity").agg(pl.len()).rows())
    assert host["build_page_table"] >= 94
    assert host["route_residual"] >= 94


@pytest.mark.parametrize(("name", "bound_ms"), [("full-graph", 17.43), ("piecewise-graph", 19.47)])
def test_replays_without_record_are_not_idle(name: str, bound_ms: float) -> None:
    trace = nsys(name)
    (gpu,) = metrics.gpus(trace).values()
    assert gpu["idle_pct"] is None
    assert gpu["gpu_busy_ns"] is None
    assert "no device record" in gpu["reason"]
    assert trace.table("steps")["gpu_busy_ns"].null_count() == 12
    report = tq.analyze(trace)
    (finding,) = [f for f in report.found if f.code == "TQL203"]
    assert finding.evidence["launch_to_synchronize_ms"] == pytest.approx(bound_ms, abs=0.005)
    assert not [f for f in report.found if f.code == "TQL104"]


def test_drain_between_queued_kernels_is_not_the_hosts() -> None:
    """148 of about 206 µs idle a step is 1.5 µs of drain between queued kernels."""
    trace = nsys("eager-node")
    parts = trace.table("gap_parts").join(trace.table("gaps").select("gap_id", "step_id"), on="gap_id")
    drain = parts.filter((pl.col("cause") == "device latency") & pl.col("step_id").is_not_null())["dur_ns"].sum()
    assert drain / 12 / 1000 == pytest.approx(
        148, abs=0.05 * 206
    )  # 5 % of the idle time: definitions differ by that much


def test_server_steps() -> None:
    steps = torch("server-24steps").table("steps")
    kinds = steps.group_by("kind", "batch_size", maintain_order=True).agg(pl.len()).rows()
    assert sum(n for kind, _, n in kinds if kind == "decode") == 17
    assert sum(n for kind, _, n in kinds if kind == "prefill") == 6
    bs48 = steps.filter((pl.col("kind") == "decode") & (pl.col("batch_size") == 48))
    assert bs48.height == 16
    assert bs48["graph_launches"].sum() == 0
    assert steps.row(0, named=True)["graph_launches"] == 1
    assert bs48["period_ns"].median() / 1e6 == pytest.approx(30.8, abs=0.2)  # type: ignore[operator]


def test_gemms_of_the_eager_decode() -> None:
    """Shape → (median µs, TB/s, % of the bandwidth peak), all memory-bound at 62-63 FLOP/B."""
    gemms = torch("bs64-decode-eager-nvtx-hooks").table("gemms").filter(pl.col("step_id").is_not_null())
    expected = {
        (6144, 4096): (16.46, 3.14, 65), (4096, 4096): (11.75, 2.94, 61), (28672, 4096): (61.61, 3.88, 81),
        (4096, 14336): (36.55, 3.28, 68), (128256, 4096): (278.6, 3.83, 80),
    }  # fmt: skip
    for (n, k), (us, tb_per_s, pct) in expected.items():
        site = gemms.filter((pl.col("m") == 64) & (pl.col("n") == n) & (pl.col("k") == k))
        assert site["dur_ns"].mean() / 1000 == pytest.approx(us, rel=0.01)  # type: ignore[operator]
        assert site["achieved_tb_per_s"].median() == pytest.approx(tb_per_s, rel=0.015)
        assert site["pct_of_roof"].median() == pytest.approx(pct, abs=1.5)
        assert site["bound"].unique().to_list() == ["memory"]
        assert 61 < site["intensity"][0] < 64
        assert site["ridge"][0] == pytest.approx(206, abs=0.5)
    down = gemms.filter(pl.col("k") == 14336)
    assert down["kernels"].unique().to_list() == [2]
    assert down.height == 96

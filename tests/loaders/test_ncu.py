"""Nsight Compute: CSV pages written here, and the real reports where TRACEQL_EXTRA_TRACES points at them."""

from __future__ import annotations

import builtins
import csv
import gzip
import io
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import traceql
from traceql import schema
from traceql.errors import UnreadableTraceError
from traceql.loaders import ncu
from traceql.loaders.ncu_columns import columns
from traceql.loaders.ncu_units import base_unit, decimal_comma, number
from traceql.trace import LoadedTrace, Trace

IDENTITY = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream"]
SHAPE = ["Block Size", "Grid Size", "Device", "CC"]
KERNEL = ["7", "4711", "python3", "127.0.0.1", "void ns::gemm<float>(float*)", "1", "7"]
KERNEL_SHAPE = ["(128, 1, 1)", "(64, 2, 1)", "0", "9.0"]
THROUGHPUT = "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"
RAW = {
    "gpu__time_duration.sum": ("ns", "12,345"),
    "dram__bytes_read.sum": ("byte", "1,000,000"),
    "dram__bytes_write.sum": ("byte", "24"),
    "launch__registers_per_thread": ("register/thread", "80"),
    THROUGHPUT: ("%", "46.63"),
    "device__attribute_display_name": ("", "NVIDIA H200"),
}


def test_raw_page_in_base_units(tmp_path: Path) -> None:
    loaded = ncu.load(written(tmp_path, raw_page(RAW)))
    assert loaded.source == "ncu"
    assert only(loaded) | {
        "ncu_kernel_id": 0,
        "name": "void ns::gemm<float>(float*)",
        "short_name": "gemm",
        "pid": 4711,
        "context": 1,
        "stream": 7,
        "device": 0,
        "grid_x": 64,
        "grid_y": 2,
        "grid_z": 1,
        "block_x": 128,
        "registers_per_thread": 80,
        "dur_ns": 12345,
        "dram_bytes": 1000024,
        "memory_throughput_pct": 46.63,
        "sm_throughput_pct": None,
        "gpu__time_duration.sum": 12345.0,
    } == only(loaded)
    assert loaded.frames["devices"].row(0, named=True)["name"] == "NVIDIA H200"
    assert loaded.problems == ()


def test_scaled_units_come_to_the_same(tmp_path: Path) -> None:
    scaled = RAW | {
        "gpu__time_duration.sum": ("usecond", "12.345"),
        "dram__bytes_read.sum": ("Mbyte", "1.00"),
    }
    first = only(ncu.load(written(tmp_path, raw_page(RAW))))
    assert only(ncu.load(written(tmp_path, raw_page(scaled)))) == first


def test_long_form_has_numbers_and_texts(tmp_path: Path) -> None:
    metrics = ncu.load(written(tmp_path, raw_page(RAW))).frames["ncu_metrics"]
    rows = {row["metric"]: row for row in metrics.to_dicts()}
    assert rows["dram__bytes_read.sum"] == {
        "ncu_kernel_id": 0,
        "metric": "dram__bytes_read.sum",
        "value": 1e6,
        "unit": "byte",
        "text": None,
    }
    assert rows["device__attribute_display_name"]["text"] == "NVIDIA H200"
    assert rows["device__attribute_display_name"]["value"] is None


def test_a_metric_of_one_kernel_is_null_for_the_other(tmp_path: Path) -> None:
    units, first = zip(*RAW.values(), strict=True)
    second = ["1,000", *[""] * (len(RAW) - 1)]
    text = page(
        [*IDENTITY, *SHAPE, *RAW],
        [[""] * 11 + list(units), [*KERNEL, *KERNEL_SHAPE, *first], [*KERNEL, *KERNEL_SHAPE, *second]],
    )
    frame = ncu.load(written(tmp_path, text)).frames["ncu_kernels"]
    assert frame["dur_ns"].to_list() == [12345, 1000]
    assert frame[THROUGHPUT].to_list() == [46.63, None]
    assert frame["dram_bytes"].to_list() == [1000024, None]


def test_details_page_maps_labels_to_metrics(tmp_path: Path) -> None:
    row = only(ncu.load(written(tmp_path, details_page())))
    assert row["dur_ns"] == 2910
    assert row[THROUGHPUT] == row["memory_throughput_pct"] == 46.6
    assert row["dram__bytes.sum.per_second"] == row["dram_bytes_per_s"] == pytest.approx(2.24e12)
    assert row["dram_bytes"] == round(2.24e12 * 2910e-9)
    assert row["top_stall"] == "long_scoreboard"
    assert row["A Label Of Next Year"] == 5.0
    assert "SOLBottleneck" not in row


def test_metrics_asked_for_by_name_come_as_details(tmp_path: Path) -> None:
    """``ncu --csv --metrics …`` prints metric names where a section prints labels, after its progress lines."""
    header = [*IDENTITY[:5], "Kernel Time", *IDENTITY[5:], "Section Name", "Metric Name", "Metric Unit"]
    kernel = [*KERNEL[:4], "k(int)", "2020-Apr-07 17:01:05", *KERNEL[5:]]
    metric = ["Command line profiler metrics", "gpu__time_duration.sum", "msecond", "1,200"]
    progress = '==PROF== Connected to process 1 (/bin/a "b")\n==PROF== Profiling "k": 100%\n'
    text = progress + page([*header, "Metric Value"], [[*kernel, *metric]])
    assert ncu.looks_like_ncu_csv(text)
    row = only(ncu.load(written(tmp_path, text + "==PROF== Disconnected from process 1\n")))
    assert (row["dur_ns"], row["short_name"], row["grid_x"]) == (1_200_000_000, "k", None)


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "raw.csv"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + raw_page(RAW).encode()))
    assert only(ncu.load(path))["dur_ns"] == 12345


def test_rows_cut_off_are_counted(tmp_path: Path) -> None:
    text = raw_page(RAW)
    loaded = ncu.load(written(tmp_path, text + '"8","4711","pyth'))
    assert [(problem.kind, problem.count) for problem in loaded.problems] == [("skipped", 1)]


def test_the_trace_takes_it(tmp_path: Path) -> None:
    trace = Trace.from_loaded(ncu.load(written(tmp_path, raw_page(RAW))))
    assert trace.source == "ncu"
    assert trace.loaded["ncu_kernels"]["dur_ns"].to_list() == [12345]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no Nsight Compute CSV page"),
        ('"ID","Kernel Name","Metric Name","Metric Unit","Average"\n', "a summary over kernels"),
        ('"ID","Kernel Name","m"\n', "raw page without a kernel"),
        ("", "no Nsight Compute CSV page"),
    ],
)
def test_malformed_pages_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UnreadableTraceError, match=message) as caught:
        ncu.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_report_and_what_lacks_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ncu-rep"
    path.write_bytes(b"something else")
    with pytest.raises(UnreadableTraceError, match="not an Nsight Compute report"):
        ncu.load(path)
    path.write_bytes(b"NVR\x00\x02\x00\x00\x00\x08\x07")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "ncu_report":
            raise ImportError("No module named 'ncu_report'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ncu_report", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnreadableTraceError, match=r"pip install 'traceql\[ncu\]'") as caught:
        ncu.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("nsecond", (1.0, "ns")),
        ("ns", (1.0, "ns")),
        ("us", (1e3, "ns")),
        ("second", (1e9, "ns")),
        ("Gbyte/second", (1e9, "byte/s")),
        ("Tbyte/s", (1e12, "byte/s")),
        ("Kbyte/block", (1e3, "byte/block")),
        ("cycle/nsecond", (1e9, "hz")),
        ("Ghz", (1e9, "hz")),
        ("inst/cycle", (1.0, "inst/cycle")),
        ("byte/sector", (1.0, "byte/sector")),
        ("%", (1.0, "%")),
        ("", (1.0, "")),
        ("sectors", (1.0, "sectors")),
    ],
)
def test_units(unit: str, expected: tuple[float, str]) -> None:
    factor, name = base_unit(unit)
    assert factor == pytest.approx(expected[0])
    assert name == expected[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("3,142,857.86", 3142857.86), ("-1e-3", -0.001), ("5 (1; 4)", 5.0), ("n/a", None), ("nan", None), ("", None)],
)
def test_numbers(text: str, value: float | None) -> None:
    assert number(text) == value


# --- what other machines and other tools make of a page -----------------------------------------------------------


def grouped(value: float, places: int, group: str, mark: str) -> str:
    """A number as a locale prints it."""
    return f"{value:,.{places}f}".replace(",", "\0").replace(".", mark).replace("\0", group)


@pytest.mark.parametrize("group", [".", " ", "\u00a0", "\u202f", "", "'"])
def test_decimal_commas(tmp_path: Path, group: str) -> None:
    values = {
        "gpu__time_duration.sum": ("ns", grouped(12345, 0, group, ",")),
        THROUGHPUT: ("%", grouped(46.63, 2, group, ",")),
    }
    values["dram__bytes.sum"] = ("byte", grouped(1234567.89, 2, group, ","))
    row = only(ncu.load(written(tmp_path, raw_page(values))))
    assert (row["dur_ns"], row["memory_throughput_pct"], row["dram_bytes"]) == (12345, 46.63, 1234568)


@pytest.mark.parametrize("group", [",", " ", "\u2019", "'"])
def test_decimal_points(tmp_path: Path, group: str) -> None:
    values = {"gpu__time_duration.sum": ("ns", grouped(12345, 0, group, ".")), THROUGHPUT: ("%", "46.63")}
    row = only(ncu.load(written(tmp_path, raw_page(values))))
    assert (row["dur_ns"], row["memory_throughput_pct"]) == (12345, 46.63)


@settings(deadline=None)
@given(st.floats(0, 1e12, allow_nan=False), st.sampled_from([(",", "."), (".", ","), ("\u202f", ","), ("'", ".")]))
def test_a_printed_number_comes_back(value: float, marks: tuple[str, str]) -> None:
    text = grouped(value, 2, *marks)
    assert number(text, comma=decimal_comma([text])) == pytest.approx(round(value, 2))


@pytest.mark.parametrize("text", ["nan", "n/a", "-inf", "1e999", "(!) nan", "N/A", "--", "."])
def test_what_is_no_number_is_null(tmp_path: Path, text: str) -> None:
    row = only(ncu.load(written(tmp_path, raw_page({**RAW, "gpu__time_duration.sum": ("ns", text)}))))
    assert row["dur_ns"] is None
    assert row["memory_throughput_pct"] == 46.63


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-16")])
def test_saved_by_other_tools(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = raw_page(RAW)
    rows = list(csv.reader(io.StringIO(text)))
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    path = tmp_path / "page.csv"
    path.write_text(buffer.getvalue(), encoding=encoding)
    trace = traceql.open(path)
    assert trace.table("ncu_kernels")["dur_ns"].to_list() == [12345]  # type: ignore[union-attr]


def test_lines_of_the_program_before_the_page(tmp_path: Path) -> None:
    noise = "Loading weights: 100%\n" * 400 + "==PROF== Connected to process 1\n"
    path = written(tmp_path, noise + raw_page(RAW))
    assert traceql.open(path).table("ncu_kernels").height == 1  # type: ignore[union-attr]


def test_several_pages_in_one_file(tmp_path: Path) -> None:
    """Two reports exported one after the other: both count their kernels from 0."""
    other = raw_page({**RAW, "gpu__time_duration.sum": ("us", "2.5")})
    loaded = ncu.load(written(tmp_path, raw_page(RAW) + other))
    assert loaded.frames["ncu_kernels"]["dur_ns"].to_list() == [12345, 2500]


def test_a_number_cut_off_is_no_number(tmp_path: Path) -> None:
    header = [*IDENTITY, *SHAPE, "Section Name", "Metric Name", "Metric Unit", "Metric Value"]
    metrics = [["A", "Duration", "ns", "12,345"], ["A", "Registers Per Thread", "register/thread", "1,280"]]
    text = page(header, [[*KERNEL, *KERNEL_SHAPE, *metric] for metric in metrics])
    cut = text[: text.rindex('"1,280"') + 4]  # … "1,2
    loaded = ncu.load(written(tmp_path, cut))
    row = only(loaded)
    assert (row["dur_ns"], row["registers_per_thread"]) == (12345, None)
    assert [problem.kind for problem in loaded.problems] == ["skipped"]


def test_pages_before_2022_have_no_launch_columns(tmp_path: Path) -> None:
    header = [*IDENTITY, "launch__grid_dim_x", "launch__grid_dim_y", "launch__grid_dim_z", "gpu__time_duration.sum"]
    text = "\n".join(
        ",".join(f'"{cell}"' for cell in row)
        for row in (header, [""] * 7 + ["", "", "", "usecond"], [*KERNEL, "64", "2", "1", "4.5"])
    )
    row = only(ncu.load(written(tmp_path, text + "\n")))
    assert [row[f"grid_{axis}"] for axis in "xyz"] == [64, 2, 1]
    assert (row["block_x"], row["dur_ns"]) == (None, 4500)


def test_numbers_no_column_holds(tmp_path: Path) -> None:
    wild = raw_page({**RAW, "gpu__time_duration.sum": ("ns", "1e300")}).replace("4711", "9" * 40)
    row = only(ncu.load(written(tmp_path, wild)))
    assert (row["pid"], row["dur_ns"]) == (None, None)


@pytest.mark.parametrize(
    ("metrics", "codes"),
    [
        ({"gpu__time_duration.sum": ("ns", "9000")}, ["TQL404", "TQL405", "TQL406"]),
        (RAW, ["TQL404", "TQL406"]),
    ],
)
def test_rules_name_what_records_the_missing_counters(
    tmp_path: Path, metrics: dict[str, Any], codes: list[str]
) -> None:
    report = traceql.analyze(written(tmp_path, raw_page(metrics)))
    reasons = {o.code: o.reason for o in report.rules if o.outcome == "not_applicable"}
    for code in codes:
        assert code in reasons
    assert "--section WarpStateStats" in str(reasons["TQL404"])
    assert "ncu --set full" in str(reasons["TQL406"])
    assert "ncu --set full" in str(reasons.get("TQL405", "ncu --set full"))


def test_columns_over_versions() -> None:
    assert set(columns({}).values()) == {None}
    older = columns({"dram__throughput.avg.pct_of_peak_sustained_elapsed": 5.0, "dram__bytes.sum": 7.0})
    assert (older["dram_throughput_pct"], older["dram_bytes"]) == (5.0, 7)
    kind = "sm__inst_executed_pipe_tensor_op_{}.avg.pct_of_peak_sustained_active"
    assert columns({kind.format("hmma"): 3.0, kind.format("imma"): 4.0})["tensor_pipe_pct"] == 4.0
    stem = "sm__ops_path_tensor_src_fp16"
    assert columns({f"{stem}.sum": 9.0, f"{stem}_sparsity_off.sum": 9.0})["tensor_flops"] == 9
    assert columns({f"{stem}_sparsity_off.sum": 8.0, f"{stem}_sparsity_on.sum": 1.0})["tensor_flops"] == 9
    loads = "smsp__sass_average_data_bytes_per_sector_mem_global_op_ld"
    assert columns({f"{loads}.ratio": 8.0})["coalescing_pct"] == 25.0
    assert columns({f"{loads}.ratio": 0.0})["coalescing_pct"] is None
    assert columns({"l1tex__t_sectors_pipe_lsu_mem_local_op_ld.sum": 2.0})["local_memory_bytes"] == 64


def test_occupancy_limiter() -> None:
    limits = {"launch__occupancy_limit_registers": 6.0, "launch__occupancy_limit_shared_mem": 6.0}
    limits["launch__occupancy_limit_warps"] = 16.0
    assert columns(limits)["occupancy_limiter"] == "registers, shared_mem"
    full = limits | {"sm__maximum_warps_per_active_cycle_pct": 100.0}
    assert columns(full)["occupancy_limiter"] is None


def test_top_stall_from_cycles_shares_or_samples() -> None:
    cycles = {"selected": 1.0, "wait": 2.0, "barrier": 1.0}
    exact = {f"smsp__average_warps_issue_stalled_{r}_per_issue_active.ratio": v for r, v in cycles.items()}
    row = columns(exact)
    assert (row["top_stall"], row["top_stall_pct"], row["top_stall_ratio"]) == ("wait", 50.0, 2.0)
    share = columns({"smsp__warp_issue_stalled_barrier_per_warp_active.pct": 30.0})
    assert (share["top_stall"], share["top_stall_pct"], share["top_stall_ratio"]) == ("barrier", 30.0, None)
    samples = {"smsp__pcsamp_warps_issue_stalled_wait": 30.0, "smsp__pcsamp_warps_issue_stalled_selected": 10.0}
    samples["smsp__pcsamp_warps_issue_stalled_wait_not_issued"] = 500.0
    assert columns(samples)["top_stall_pct"] == 75.0


EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES")
STEM = "sglang-h200-decode-eager-bs64"
needs_real = pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of real captures")


@pytest.fixture(scope="module")
def real() -> dict[str, LoadedTrace]:
    pytest.importorskip("ncu_report")
    folder = Path(EXTRA or "") / "ncu"
    names = {"report": f"{STEM}.ncu-rep.gz", "raw": f"{STEM}.raw.csv", "details": f"{STEM}.details.csv"}
    return {kind: ncu.load(folder / name) for kind, name in names.items()}


@needs_real
def test_report_raw_and_details_agree(real: dict[str, LoadedTrace]) -> None:
    report = numbers(real["report"])
    for kind, least in (("raw", 30000), ("details", 700)):
        other = numbers(real[kind])
        both = report.join(other, on=["ncu_kernel_id", "metric"], suffix="_printed")
        assert both.height > least
        apart = (pl.col("value") - pl.col("value_printed")).abs()
        rounded = apart > 0.0051 + 1e-9 * pl.col("value").abs()  # pages print two decimals
        assert both.filter(rounded).to_dicts() == []
        units = both.filter(pl.col("unit") != "", pl.col("unit_printed") != "")
        assert units.filter(pl.col("unit") != pl.col("unit_printed")).to_dicts() == []
    frames = {kind: loaded.frames["ncu_kernels"] for kind, loaded in real.items()}
    for column in ("short_name", "grid_x", "block_x", "dur_ns", "stream", "occupancy_limiter", "dram_bytes"):
        assert frames["raw"][column].to_list() == frames["report"][column].to_list(), column
        assert frames["details"][column].to_list() == frames["report"][column].to_list(), column


@needs_real
def test_dram_traffic_of_the_gemms_is_the_formulas(real: dict[str, LoadedTrace]) -> None:
    """bf16 products of a decode step at batch 64: measured DRAM bytes are 0.996 to 1.031 of 2·(MK + KN + MN)."""
    m = 64
    shapes = {3: (4096, 4096), 5: (4096, 28672), 7: (14336, 4096), 10: (4096, 6144), 15: (4096, 4096)}
    frame = real["report"].frames["ncu_kernels"]
    for index, (k, n) in shapes.items():
        row = frame.row(index, named=True)
        assert row["name"].startswith("nvjet")
        ratio = row["dram_bytes"] / (2 * (m * k + k * n + m * n))
        assert 0.995 < ratio < 1.032, (index, ratio)
        padded = row["tensor_flops"] / (2 * m * n * k)
        assert 1.0 <= padded < 1.04, (index, padded)


@needs_real
def test_kernels_of_the_real_report(real: dict[str, LoadedTrace]) -> None:
    loaded = real["report"]
    frame = loaded.frames["ncu_kernels"]
    assert frame.height == 16
    assert loaded.problems == ()
    attention = frame.row(1, named=True)
    assert attention["short_name"] == "_fwd_grouped_kernel_stage1"
    assert attention["dur_ns"] == 61728
    assert attention["workload"] == "kernel"
    assert attention["top_stall"] == "long_scoreboard"
    assert f"{attention['top_stall_pct']:.1f}" == "59.2"  # as the report's own rule says it
    assert (attention["theoretical_occupancy_pct"], attention["occupancy_limiter"]) == (37.5, "registers, shared_mem")
    device = schema.TABLES["devices"].conform(loaded.frames["devices"]).row(0, named=True)
    assert device["name"] == "NVIDIA H200"
    assert (device["sm_count"], device["compute_capability"]) == (132, "9.0")
    assert device["memory_bandwidth_bytes_per_s"] == 4814304000000


@needs_real
def test_a_report_cut_off_is_read_up_to_the_cut(tmp_path: Path, real: dict[str, LoadedTrace]) -> None:
    whole = gzip.decompress((Path(EXTRA or "") / "ncu" / f"{STEM}.ncu-rep.gz").read_bytes())
    path = tmp_path / "cut.ncu-rep"
    path.write_bytes(whole[:3_000_000])
    loaded = ncu.load(path)
    assert 0 < loaded.frames["ncu_kernels"].height < 16
    assert [problem.kind for problem in loaded.problems] == ["truncated"]
    path.write_bytes(whole[:100_000])
    with pytest.raises(UnreadableTraceError, match="cut off before the first"):
        ncu.load(path)


def numbers(loaded: LoadedTrace) -> pl.DataFrame:
    return loaded.frames["ncu_metrics"].drop_nulls("value").select("ncu_kernel_id", "metric", "value", "unit")


def only(loaded: LoadedTrace) -> dict[str, Any]:
    frame = loaded.frames["ncu_kernels"]
    assert frame.height == 1
    return frame.row(0, named=True)


def written(folder: Path, text: str) -> Path:
    path = folder / "page.csv"
    path.write_text(text, encoding="utf-8")
    return path


def page(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def raw_page(metrics: dict[str, tuple[str, str]]) -> str:
    units, values = zip(*metrics.values(), strict=True)
    rows = [[""] * len([*IDENTITY, *SHAPE]) + list(units), [*KERNEL, *KERNEL_SHAPE, *values]]
    return page([*IDENTITY, *SHAPE, *metrics], rows)


def details_page() -> str:
    header = [*IDENTITY, *SHAPE, "Section Name", "Metric Name", "Metric Unit", "Metric Value"]
    metrics = [
        ["GPU Speed Of Light Throughput", "Duration", "us", "2.91"],
        ["GPU Speed Of Light Throughput", "Memory Throughput", "%", "46.60"],
        ["Memory Workload Analysis", "Memory Throughput", "Tbyte/s", "2.24"],
        ["Warp State Statistics", "Stall Long Scoreboard", "inst", "11.4"],
        ["Warp State Statistics", "Stall Wait", "inst", "2.1"],
        ["Section Of Next Year", "A Label Of Next Year", "", "5"],
    ]
    rows = [[*KERNEL, *KERNEL_SHAPE, *metric] for metric in metrics]
    rule = [*KERNEL, *KERNEL_SHAPE, "SpeedOfLight", "", "", "", "SOLBottleneck", "OPT", "Advice, of two parts."]
    return page([*header, "Rule Name", "Rule Type", "Rule Description"], [*rows, rule])

"""GPU peaks: figures, the way from a device's name to a row, the user's own file, and the documentation's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from traceql.errors import UsageError
from traceql.hardware import Gpu, gpus, lookup, markdown_table, override

GIB = 2**30
DOCS = Path(__file__).parent.parent / "docs"

FIGURES = [
    # name, bandwidth TB/s, bf16, tf32, fp8, fp32 TFLOP/s, SMs, bf16 ridge FLOP/byte as rounded
    ("A100-SXM4-40GB", 1.555, 312, 156, None, 19.5, 108, "200.6"),
    ("A100-PCIe-40GB", 1.555, 312, 156, None, 19.5, 108, "200.6"),
    ("A100-SXM4-80GB", 2.039, 312, 156, None, 19.5, 108, "153.0"),
    ("A100-PCIe-80GB", 1.935, 312, 156, None, 19.5, 108, "161.2"),
    ("H100-SXM5-80GB", 3.35, 989, 494, 1979, 67, 132, "295"),
    ("H100-PCIe-80GB", 2.0, 756, 378, 1513, 51, 114, "378"),
    ("H200-SXM-141GB", 4.8, 989, 494, 1979, 67, 132, "206"),
]


@pytest.mark.parametrize("figures", FIGURES, ids=[row[0] for row in FIGURES])
def test_figures_and_ridge(figures: tuple[str, float, float, float, float | None, float, int, str]) -> None:
    name, bandwidth, bf16, tf32, fp8, fp32, sms, ridge = figures
    gpu = found(name)
    decimals = len(ridge.partition(".")[2])
    assert gpu.bandwidth_bytes_per_s == pytest.approx(bandwidth * 1e12)
    assert gpu.peak("c10::BFloat16") == gpu.peak("c10::Half") == bf16 * 1e12
    assert (gpu.peak("tf32"), gpu.peak("float")) == (tf32 * 1e12, fp32 * 1e12)
    assert gpu.peak("Float8_e4m3fn") == (None if fp8 is None else fp8 * 1e12)
    assert gpu.sm_count == sms
    assert f"{gpu.ridge('bfloat16'):.{decimals}f}" == ridge


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIe-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("NVIDIA H100 NVL", "H100-NVL-94GB"),
        ("NVIDIA H200", "H200-SXM-141GB"),
        ("NVIDIA H200 NVL", "H200-NVL-141GB"),
        ("NVIDIA H20", "H20-96GB"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("NVIDIA B200", "B200-180GB"),
        ("NVIDIA GB200", "GB200-186GB"),
        ("NVIDIA B300 SXM6 AC", "B300-270GB"),
        ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("Tesla V100-PCIE-16GB", "V100-PCIe-16GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000-Blackwell-Server"),
        ("AMD Instinct MI300X", "MI300X-192GB"),
        ("AMD Instinct MI250X/MI250", "MI250X-GCD"),
    ],
)
def test_names_that_profilers_write(device: str, expected: str) -> None:
    match = lookup(device)
    assert match.gpu is not None
    assert (match.gpu.name, match.note) == (expected, "")


@pytest.mark.parametrize(
    "device",
    ["NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA H20-3e", "Apple M3"],
)
def test_relatives_of_known_gpus_are_unknown(device: str) -> None:
    match = lookup(device)
    assert match.gpu is None
    assert match.note.startswith(f"no peaks known for {device!r}")


def test_a_name_with_variants_needs_what_tells_them_apart() -> None:
    assert lookup("A100").gpu is None
    assert "A100-SXM4-40GB, A100-PCIe-40GB, A100-SXM4-80GB, A100-PCIe-80GB: none chosen" in lookup("A100").note
    by_memory = lookup("A100", memory_bytes=int(39.4 * GIB))
    assert by_memory.gpu is not None
    assert by_memory.gpu.name == "A100-SXM4-40GB"
    assert "A100-SXM4-40GB or A100-PCIe-40GB, which have the same peaks" in by_memory.note
    assert lookup("A100", memory_bytes=int(79.2 * GIB)).gpu is None
    by_bandwidth = lookup("A100", memory_bytes=int(79.2 * GIB), bandwidth_bytes_per_s=1.935e12)
    assert by_bandwidth.gpu is not None
    assert by_bandwidth.gpu.name == "A100-PCIe-80GB"
    by_sms = lookup("NVIDIA H100", memory_bytes=int(79.1 * GIB), sm_count=114)
    assert by_sms.gpu is not None
    assert by_sms.gpu.name == "H100-PCIe-80GB"


def test_an_unnamed_device() -> None:
    match = lookup("", memory_bytes=206141652992, sm_count=304, compute_capability="9.4")
    assert match.gpu is not None
    assert match.gpu.name == "MI300X-192GB"
    assert match.note == "MI300X-192GB, identified by memory size and SM count"
    two = lookup(None, memory_bytes=150109880320, sm_count=132, compute_capability="9.0")
    assert two.gpu is None
    assert "H200-SXM-141GB, H200-NVL-141GB" in two.note
    assert "does not say" in lookup(None, memory_bytes=150109880320).note
    assert "fits no known variant" in lookup(None, memory_bytes=GIB, sm_count=3).note


def test_parts_of_a_gpu_do_not_get_its_peaks() -> None:
    assert lookup("NVIDIA A100-SXM4-80GB MIG 1g.10gb").gpu is None
    partition = lookup("AMD Instinct MI300X", memory_bytes=24 * GIB, sm_count=38)
    assert partition.gpu is None
    assert "38 of 304 SMs is a partition" in partition.note


def test_bandwidth_that_the_trace_states() -> None:
    unknown = lookup("NVIDIA GeForce RTX 3060", bandwidth_bytes_per_s=360048000000)
    assert unknown.gpu is not None
    assert unknown.gpu.bandwidth_bytes_per_s == 360048000000
    assert unknown.gpu.peak("bf16") is None
    assert unknown.gpu.ridge("bf16") is None
    assert unknown.gpu.source == "the trace"
    assert "as the trace states it" in unknown.note
    assert lookup("NVIDIA H200", bandwidth_bytes_per_s=4814304000000).note == ""
    other = lookup("NVIDIA H100 80GB HBM3", bandwidth_bytes_per_s=2.4e12)
    assert other.gpu is not None
    assert other.note.startswith("the trace states 2.4 TB/s")


def test_a_users_file_adds_and_changes(tmp_path: Path) -> None:
    path = tmp_path / "gpus.toml"
    path.write_text("""
        [[gpu]]
        name = "A100-SXM4-80GB"
        bandwidth_tb_per_s = 1.8
        tflops = { bf16 = 280 }

        [[gpu]]
        name = "A10G"
        match = ["a10g"]
        bandwidth_tb_per_s = 0.6

        [[gpu]]
        name = "Our H200"
        match = ["h200"]
        bandwidth_tb_per_s = 4.3
    """)
    changed = found("NVIDIA A100-SXM4-80GB", path)
    assert (changed.bandwidth_bytes_per_s, changed.peak("bf16"), changed.peak("fp16")) == (1.8e12, 280e12, 312e12)
    assert changed.sm_count == 108
    assert changed.source.endswith(f"changed by {path}")
    assert not changed.measured
    assert found("NVIDIA A10G", path).source == str(path)
    assert found("NVIDIA H200", path).name == "Our H200"
    assert found("NVIDIA H200 NVL", path).name == "H200-NVL-141GB"
    assert lookup("A100-SXM4-80GB").gpu != changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu = 3", "Expected `array`, got `int`"),
        ("[[gpu]\n", "not a hardware file"),
        ("[[gpu]]\nname = 'X'\nbandwith_tb_per_s = 1\n", "unknown field `bandwith_tb_per_s`"),
        ("[[gpu]]\nname = 'X'\nbandwidth_tb_per_s = -1\n", "`float` > 0"),
        ("[[gpu]]\nname = 'X'\nbandwidth_tb_per_s = 1\ntflops = { bf61 = 1 }\n", "unknown field `bf61`"),
        ("[[gpu]]\nbandwidth_tb_per_s = 1\n", "missing required field `name`"),
        ("[[gpu]]\nname = 'X'\n", "GPU 'X' has no bandwidth_tb_per_s"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gpus.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        lookup("A100", extra=path)
    line = str(caught.value)
    assert message in line
    assert line.startswith(str(path))
    assert "\n" not in line


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        lookup("A100", extra=tmp_path / "none.toml")


def test_measured_peaks_replace_the_datasheet() -> None:
    gpu = found("NVIDIA H200")
    measured = override(gpu, bandwidth=4.3e12, peak={"c10::BFloat16": 790e12}, source="copy and GEMM benchmark")
    assert measured.measured
    assert (measured.bandwidth_bytes_per_s, measured.peak("bf16")) == (4.3e12, 790e12)
    assert measured.peak("fp8") == gpu.peak("fp8")
    assert measured.source == "copy and GEMM benchmark"
    with pytest.raises(UsageError, match="'bool' has no GPU peak"):
        override(gpu, peak={"bool": 1.0})


def test_every_row_is_complete_and_told_apart() -> None:
    table = gpus()
    assert len({gpu.name for gpu in table}) == len(table)
    for gpu in table:
        assert gpu.memory_bytes, gpu.name
        assert gpu.source, gpu.name
        assert gpu.compute_capability, gpu.name
        assert gpu.peak("fp16"), gpu.name
        assert lookup(gpu.name).gpu == gpu
        narrow = [gpu.peak_flops[kind] for kind in ("fp32", "fp16", "fp8", "fp4") if kind in gpu.peak_flops]
        assert narrow == sorted(narrow), f"{gpu.name}: a narrower type is slower"


def test_documentation_shows_the_table() -> None:
    text = (DOCS / "hardware.md").read_text(encoding="utf-8")
    shown = text.split("<!-- peaks:begin")[1].split("-->", 1)[1].split("<!-- peaks:end")[0]
    assert shown.strip() == markdown_table().strip()


def found(device: str, extra: Path | None = None) -> Gpu:
    gpu = lookup(device, extra=extra).gpu
    assert gpu is not None
    return gpu

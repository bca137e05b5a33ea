"""`traceql doctor` on fake machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from traceql.collectors import ncu, nsys, software
from traceql.collectors.software import Tool


def test_ready_machine(machine) -> None:
    code, text = machine.run("doctor")
    assert code == 0, text
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith(("ok", "note", "problem"))}
    assert lines["driver"] == "ok       driver    580.159.04, runs CUDA up to 13.0"
    assert "0: NVIDIA H200, 1: NVIDIA H200" in lines["GPUs"]
    assert "nvlink: NV18" in lines["topology"]
    assert "2.11.0 on Python" in lines["torch"]
    assert lines["sglang"].endswith("0.5.12")
    assert "2025.3.2.474, shipped with CUDA 13.0" in lines["nsys"]
    assert "2025.3.1.0, shipped with CUDA 13.0" in lines["ncu"]
    assert "clocks" in lines
    assert text.rstrip().endswith("collect sglang: ready")


def test_each_problem_has_a_fix_and_blocks_what_it_must(bare) -> None:
    for collector in ("sglang", "server", "torch", "nsys", "ncu"):
        code, text = bare.run("doctor", "--for", collector)
        assert code == 1
        assert text.count("problem ") == text.count("fix: ")
        assert f"collect {collector}: cannot work here" in text


def test_old_nsys_blocks_only_nsys(machine) -> None:
    machine.environment["FAKE_NSYS_VERSION"] = "2023.4.4.54"
    code, text = machine.run("doctor", "--for", "nsys")
    assert code == 1
    assert "problem  nsys      nsys 2023.4.4.54 knows CUDA up to 12.4, the program uses 13.0" in text
    assert machine.run("doctor", "--for", "ncu")[0] == 0


def test_notes_do_not_block(machine) -> None:
    machine.environment |= {"FAKE_THROTTLE": "1", "FAKE_MEMORY_USED": "90000"}
    code, text = machine.run("doctor")
    assert code == 0
    assert "note     clocks    GPU 0 at 1980 MHz: hardware thermal slowdown" in text
    assert "note     in use    GPU 0 holds 90000 MiB" in text


def test_torch_of_a_newer_cuda_than_the_driver(bare) -> None:
    bare.install("nvidia-smi")
    bare.install_sglang("0.5.12", torch_cuda="14.0")
    code, text = bare.run("doctor")
    assert code == 1
    assert "uses CUDA 14.0, the driver runs 13.0" in text


def test_cpu_build_of_torch_is_a_problem_beside_a_gpu(bare) -> None:
    bare.install("nvidia-smi")
    bare.install_sglang("0.5.12", torch_cuda="")
    code, text = bare.run("doctor", "--for", "torch")
    assert code == 1
    assert "a build without CUDA" in text


@pytest.mark.parametrize(
    ("version", "cuda", "fits"),
    [
        ("2023.4.4", "13.0", False), ("2023.4.4", "12.4", True), ("2023.4.4", "12.8", True), ("2025.1.1", "13.0", False),
        ("2025.3.2", "13.0", True), ("2026.1.1", "13.2", True), ("2022.1.1", "12.0", False), ("2023.4.4", None, True),
    ],
)  # fmt: skip
def test_nsys_fits_the_programs_cuda(version: str, cuda: str | None, fits: bool) -> None:
    problem = nsys.fit(Tool("nsys", version), cuda)
    assert (problem is None) == fits
    if problem is not None:
        assert "or newer" in problem.fix


def test_versions_are_ordered() -> None:
    assert software.nsys_cuda((2024, 6)) == (12, 8)
    assert software.nsys_cuda((2021, 1)) is None
    assert software.nsys_for((12, 4)) == (2023, 4)
    assert software.nsys_for((12, 7)) == (2024, 6)
    assert software.nsys_for((13, 5)) == (2025, 3)
    assert software.ncu_cuda((2025, 3)) == (13, 0)


@pytest.mark.parametrize(
    ("params", "capabilities", "allowed"),
    [
        ("RmProfilingAdminOnly: 1\n", "CapEff:\t0000000000000000\n", False),
        ("RmProfilingAdminOnly: 1\n", "CapEff:\t000001ffffffffff\n", True),
        ("RmProfilingAdminOnly: 0\n", "CapEff:\t0000000000000000\n", True),
        (None, "", True),
    ],
)
def test_counter_permission(tmp_path: Path, params: str | None, capabilities: str, allowed: bool) -> None:
    if params is not None:
        (tmp_path / "params").write_text(params, encoding="utf-8")
    (tmp_path / "status").write_text(capabilities, encoding="utf-8")
    problem = ncu.permission(tmp_path / "params", tmp_path / "status")
    assert (problem is None) == allowed
    if problem is not None:
        assert "RmProfilingAdminOnly: 1" in problem.what
        assert "NVreg_RestrictProfilingToAdminUsers=0" in problem.fix

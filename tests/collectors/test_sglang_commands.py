"""The command lines for each SGLang version, held against golden files.

To renew them after a change that is meant: UPDATE_GOLDEN=1 pytest tests/collectors/test_sglang_commands.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from traceql.collectors import ncu, nsys, sglang
from traceql.collectors.command import shown
from traceql.collectors.manifest import Workload
from traceql.collectors.problems import CollectError
from traceql.collectors.sglang import Installation, Profile
from traceql.collectors.software import Interpreter, Tool

HERE = Path(__file__).parent
VERSIONS = ["0.5.9", "0.5.12", "0.5.17", "0.5.23"]
RUN = Path("/run")


def installation(version: str) -> Installation:
    text = (HERE / "fakes" / f"help-{version}.txt").read_text(encoding="utf-8")
    module = "sglang.benchmark.one_batch" if version in ("0.5.17", "0.5.23") else "sglang.bench_one_batch"
    return Installation.from_help("python", version, module, text)


def commands(version: str) -> list[str]:
    """Every command of one version, a title before each."""
    here = installation(version)
    workload = Workload(
        engine="sglang", model="llama-3-8b", dummy_weights=True, batch_size=64, input_len=512, output_len=32, steps=3,
        attention_backend="flashinfer", extra=["--mem-fraction-static", "0.8"],
    )  # fmt: skip
    lines = []
    for mode in sglang.MODES:
        try:
            latency = sglang.latency_command(here, workload, mode, "/model", results=RUN / "bench.jsonl", repeats=3)
        except CollectError as error:
            lines += [f"# {mode}: {error}", ""]
            continue
        stage = "prefill" if mode == "piecewise" else "decode"
        profiles = {
            kind: sglang.profile_command(here, workload, mode, "/model", Profile(kind, RUN, 6, 3, stage))
            for kind in ("torch", "cuda")
        }
        system = nsys.command(Tool("nsys", "2025.3.2"), profiles["cuda"], RUN / "report", capture_range=True)
        compute = ncu.command(
            Tool("ncu", "2025.3.1"), profiles["cuda"], RUN / "report", kernels=ncu.PRESETS["norm"], from_start=False
        )
        server = sglang.server_command(here, workload, mode, "/model", port=30000)
        for title, command in [
            ("latency", latency), ("torch", profiles["torch"]), ("nsys", system), ("ncu", compute), ("server", server)
        ]:  # fmt: skip
            lines += [f"# {mode} {title}", shown(command, RUN), ""]
    workload.tp, workload.layerwise_nvtx = 2, True
    lines += ["# graph server, tp 2, layerwise NVTX"]
    lines += [shown(sglang.server_command(here, workload, "graph", "/model", port=30000), RUN)]
    return lines


@pytest.mark.parametrize("version", VERSIONS)
def test_commands(version: str) -> None:
    golden = HERE / "golden" / f"sglang-{version}.txt"
    text = "\n".join(commands(version)) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_only_options_of_that_version(version: str) -> None:
    known = installation(version).options
    for line in commands(version):
        if line.startswith("#"):
            continue
        for word in line.split("python -m ")[-1].split():
            assert not word.startswith("--") or word in known, f"{version} has no {word}"


@pytest.mark.parametrize(
    ("files", "module"),
    [
        (["bench_one_batch.py"], "sglang.bench_one_batch"),
        (["benchmark/one_batch.py"], "sglang.benchmark.one_batch"),
        (["bench_one_batch.py", "benchmark/one_batch.py"], "sglang.benchmark.one_batch"),
    ],
)
def test_module_is_found_by_its_file(tmp_path: Path, files: list[str], module: str) -> None:
    for file in files:
        (tmp_path / "sglang" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sglang" / file).touch()
    target = Interpreter("python", "3.12", {"sglang": "0.5.x"}, {"sglang": str(tmp_path / "sglang")}, "13.0")
    assert sglang.bench_module(target) == module
    shutil.rmtree(tmp_path / "sglang")
    with pytest.raises(CollectError, match="no one-batch benchmark"):
        sglang.bench_module(target)


def test_unknown_attention_backend_is_named() -> None:
    workload = Workload(
        engine="sglang", model="m", attention_backend="flashinfr", batch_size=1, input_len=1, output_len=8
    )
    with pytest.raises(CollectError, match=r"no attention backend flashinfr; it has triton, .*flashinfer"):
        sglang.server_command(installation("0.5.23"), workload, "graph", "/model", port=1)


def test_latency_from_results_and_from_the_log(tmp_path: Path) -> None:
    results = tmp_path / "bench.jsonl"
    results.write_text(
        '{"batch_size": 64, "prefill_latency": 1.0, "median_decode_latency": 0.0072}\nnot json\n'
        '{"batch_size": 64, "prefill_latency": 1.2, "median_decode_latency": 0.0074}\n'
        '{"batch_size": 64, "prefill_latency": 1.1, "median_decode_latency": 0.0073}\n',
        encoding="utf-8",
    )
    found = sglang.read_latency(results, "", "graph")
    assert found is not None
    assert (found.what, found.median_ms, found.runs_ms) == ("decode step", 7.3, [7.2, 7.4, 7.3])
    assert (found.prefill_ms, found.tokens_per_s, found.source) == (1100.0, 8767.1, "result file")
    assert found.spread_pct == pytest.approx(2.74)
    prefill = sglang.read_latency(results, "", "piecewise")
    assert prefill is not None
    assert (prefill.what, prefill.median_ms) == ("prefill", 1100.0)
    log = (
        "Warmup ...\nDecode.  median latency: 0.00990 s, median throughput: 1.0 token/s\nBenchmark ...\n"
        "Decode.  median latency: 0.00720 s, median throughput: 1.0 token/s\n"
    )
    from_log = sglang.read_latency(tmp_path / "missing.jsonl", log, "graph")
    assert from_log is not None
    assert (from_log.runs_ms, from_log.source) == ([7.2], "log")
    assert sglang.read_latency(tmp_path / "missing.jsonl", "", "graph") is None

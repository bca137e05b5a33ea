"""Scrubbed copies of what only a whole recording has: reports that nsys wrote itself, run directories with their logs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from test_privacy import ENVIRONMENT, SECRETS, findings, kineto, ncu_page, nsys, tables
from traces import EXTRA_FOLDER

import traceql as tq
from traceql import nsight, samples
from traceql.errors import UsageError
from traceql.scrub import scrub

needs_nsys = pytest.mark.skipif(nsight.program("nsys") is None, reason="needs nsys")
REPORTS = sorted(EXTRA_FOLDER.glob("nsys/*.nsys-rep")) if EXTRA_FOLDER else []


def told(folder: Path) -> list[str]:
    """Secrets in any file below a folder, unpacked."""
    found = []
    for path in (p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        found += [f"{secret} in {path.name}" for secret in SECRETS if secret.encode() in content]
    return found


@needs_nsys
def test_a_report_recorded_here_tells_nothing_of_the_environment(tmp_path: Path) -> None:
    """nsys writes down the environment, the command line, the host and the folders of whatever it records."""
    home = tmp_path / "home" / "jdoe"
    home.mkdir(parents=True)
    program = nsight.program("nsys")
    assert program is not None
    command = [program, "profile", "--trace=osrt", "--sample=none", f"--output={home / 'r'}", sys.executable, "-c", "import time; time.sleep(0.01)", "jdoe"]  # fmt: skip
    environment = {**os.environ, "HOME": str(home), "API_TOKEN": "hunter2", "LONG": "hunter2" * 2000}
    recorded = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    report = home / "r.nsys-rep"
    if not report.is_file():
        pytest.skip(f"nsys cannot record here: {recorded.stdout[-200:]}")
    assert b"hunter2" in report.read_bytes()
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "r.sqlite"
    scrub(report, copy)
    assert told(copy.parent) == []
    assert str(tmp_path).encode() not in copy.read_bytes()
    assert findings(copy) == findings(report)


@needs_nsys
@pytest.mark.parametrize("report", REPORTS[:2], ids=lambda path: path.name)
def test_a_report_and_its_scrubbed_copy_analyze_to_the_same(report: Path, tmp_path: Path) -> None:
    here = tmp_path / report.name
    here.symlink_to(report)
    copy = tmp_path / "copy.sqlite"
    scrub(here, copy)
    assert findings(copy) == findings(here)
    before, after = tables(here), tables(copy)
    for name, frame in before.items():
        kept = [column for column in frame.columns if frame.schema[column] != pl.String]
        assert after[name].select(kept).equals(frame.select(kept)), name


def test_the_copy_of_a_report_is_no_report(tmp_path: Path) -> None:
    report = tmp_path / "r.nsys-rep"
    report.write_bytes(b"report")
    with pytest.raises(UsageError, match=r"ending \.sqlite"):
        scrub(report, tmp_path / "copy.nsys-rep")


LOG = b"""[2026-10-01 10:00:00] server_args=ServerArgs(model_path='/home/jdoe/m', api_key='hunter2', host='buildhost17', disable_radix_cache=True)
jdoe@buildhost17 started API_TOKEN=hunter2
[2026-10-01 10:00:01] Prefill batch. #new-seq: 1, #new-token: 512, #cached-token: 128, token usage: 0.01, host buildhost17
sglang:cached_tokens_total{model="/home/jdoe/m",host="buildhost17"} 512.0
sglang:cached_tokens_total{model="/home/jdoe/m",host="buildhost18"} 12.0
sglang:prompt_tokens_total{model="/home/jdoe/m"} 2048.0
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with secrets in every file of it."""
    folder = tmp_path / "run"
    for stage, name, make in (
        ("eager-torch", "t.json.gz", kineto),
        ("eager-nsys", "n.sqlite", nsys),
        ("eager-ncu", "p.csv", ncu_page),
    ):
        (folder / stage).mkdir(parents=True)
        make(folder / stage / name)
    for left in folder.rglob("plain.json"):
        left.unlink()
    (folder / "eager-torch" / "server.log").write_bytes(LOG)
    (folder / "eager-torch" / "bench.jsonl").write_text('{"host": "buildhost17"}\n')
    stage = {
        "mode": "eager", "status": "complete", "started": "2026-10-01T00:00:00Z", "environment": {"API_TOKEN": "hunter2"},
        "command": ["/home/jdoe/bin/python3", "-m", "sglang.bench_one_batch", "--input-len", "512", "--profile-start-step", "6", "--api-key", "hunter2", "--host=buildhost17"],
        "problem": "no such file /home/jdoe/x on buildhost17", "notes": ["jdoe"],
    }  # fmt: skip
    files = {"torch": "eager-torch/t.json.gz", "nsys": "eager-nsys/n.sqlite", "ncu": "eager-ncu/p.csv"}
    stages = [
        {**stage, "name": f"eager-{profiler}", "profiler": profiler, "files": [{"path": path, "bytes": 9, "sha256": "00", "kind": "trace"}]}
        for profiler, path in files.items()
    ]  # fmt: skip
    latency = {"what": "decode step", "runs_ms": [7.2], "median_ms": 7.2, "spread_pct": 0.0, "source": "log"}
    manifest = {
        "schema": 1, "kind": "run", "name": "r", "status": "complete", "traceql": "0.1", "collector": "sglang", "started": "2026-10-01T00:00:00Z",
        "started_unix_ns": 1, "command": ["traceql", "collect", "/home/jdoe/model"], "workload": {"engine": "sglang", "model": "llama", "batch_size": 8},
        "machine": {"gpus": [{"index": 0, "name": "NVIDIA H200"}], "hostname": "buildhost17"}, "software": {}, "environment": {"HF_TOKEN": "hunter2"},
        "warnings": ["buildhost17 is busy"], "measured_peaks": {"bandwidth_tb_per_s": 4.1, "tflops": {"bf16": 700.0}},
        "stages": [*stages, {"name": "eager-latency", "profiler": "none", "mode": "eager", "status": "complete", "started": "x", "latency": latency}],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def analyzed(folder: Path) -> list[tuple[str, str, int]]:
    """Findings of a whole run; messages without what is scrubbed out of names."""
    report = tq.analyze(tq.open(folder))
    return sorted((f.code, f.message.replace("/home/jdoe", "~"), f.trace) for f in report.found)


def test_a_run_directory_is_scrubbed_whole(run: Path, tmp_path: Path) -> None:
    assert told(run)
    copy = tmp_path / "copies" / "run"
    scrub(run, copy)
    assert told(copy) == []
    assert ENVIRONMENT.encode() not in b"".join(p.read_bytes() for p in copy.rglob("*.sqlite"))
    names = sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file())
    assert names == ["eager-ncu/p.csv", "eager-nsys/n.sqlite", "eager-torch/server.log", "eager-torch/t.json.gz", "manifest.json"]  # fmt: skip
    manifest = json.loads((copy / "manifest.json").read_text())
    for stage in manifest["stages"]:
        for file in stage["files"]:
            assert (copy / file["path"]).stat().st_size == file["bytes"]
    assert manifest["measured_peaks"] == {"bandwidth_tb_per_s": 4.1, "tflops": {"bf16": 700.0}}
    assert analyzed(copy) == analyzed(run)


def test_what_a_log_is_read_for_stays(run: Path, tmp_path: Path) -> None:
    from traceql import server_logs

    scrub(run, tmp_path / "copy")
    before, after = (
        server_logs.logs_beside(folder / "eager-torch" / "t.json.gz") for folder in (run, tmp_path / "copy")
    )
    assert [(log.cache, log.disabled) for log in after] == [(log.cache, log.disabled) for log in before]
    assert before[0].disabled and before[0].cache is not None


def test_the_bundled_run_scrubs_to_the_same(tmp_path: Path) -> None:
    source = samples.folder() / "sglang-h200-bs64-run"
    scrub(source, tmp_path / "run")
    assert analyzed(tmp_path / "run") == analyzed(source)


def test_a_run_that_cannot_be_scrubbed_leaves_nothing(run: Path, tmp_path: Path) -> None:
    (run / "eager-ncu" / "q.ncu-rep").write_bytes(b"NVR\0" + bytes(99))
    with pytest.raises(UsageError, match=r"q\.ncu-rep: a \.ncu-rep cannot be scrubbed"):
        scrub(run, tmp_path / "out" / "copy")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        scrub(run, tmp_path / "there")
    with pytest.raises(UsageError, match="cannot be written"):
        scrub(samples.folder() / "sglang-h200-bs64-run", Path("/proc/none/copy"))

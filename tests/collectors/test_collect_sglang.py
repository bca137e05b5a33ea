"""`traceql collect` with a fake SGLang: what a whole run leaves, and every way it can go wrong."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from traceql.collectors import manifest
from traceql.collectors.child import last_line


def test_default_run_is_complete(machine) -> None:
    code, text = machine.run("collect")
    assert code == 0, text
    run = machine.latest()
    assert run.status == "complete"
    assert [s.name for s in run.stages] == [
        "eager-latency", "eager-torch", "eager-nsys", "eager-ncu", "graph-latency", "graph-torch", "graph-nsys",
    ]  # fmt: skip
    assert {s.status for s in run.stages} == {"complete"}
    assert run.latency("eager").runs_ms == [13.4, 13.41, 13.42]
    assert run.latency("graph").median_ms == 7.21
    assert run.workload.model == "llama-3-8b"
    assert run.workload.dummy_weights
    assert (run.software.sglang, run.software.torch_cuda, run.software.nsys) == ("0.5.12", "13.0", "2025.3.2.474")
    assert [g.name for g in run.machine.gpus] == ["NVIDIA H200", "NVIDIA H200"]
    assert run.machine.topology["GPU0"] == {"GPU1": "NV18"}
    assert "next: traceql analyze runs/" in text
    assert "1.86" in text  # eager over graph


def _install_kernels(machine, loads: str = "from sgl_kernel import flash_ops") -> Path:
    """A kernel package whose FlashAttention 3 loader is there, without the library it loads."""
    package = machine.site / "sgl_kernel"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "flash_attn.py").write_text(loads + "\n")
    return package


def test_a_build_without_fa3_gets_another_backend_and_says_so(machine) -> None:
    _install_kernels(machine)
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch")
    assert code == 0, text
    run = machine.latest()
    assert run.workload.attention_backend == "triton"
    assert run.warnings == [
        "this sglang has no FlashAttention 3 kernels, its default on Hopper: attention by triton"
    ]  # fmt: skip
    assert run.warnings[0] in text


@pytest.mark.parametrize("case", ["library", "other loader", "named", "passed on"])
def test_the_backend_is_left_to_sglang_or_the_user_otherwise(machine, case: str) -> None:
    package = _install_kernels(machine, "import flash_attn_3" if case == "other loader" else "import flash_ops")
    if case == "library":
        (package / "flash_ops.abi3.so").touch()
    options = {"named": ["--attention-backend", "fa3"], "passed on": ["--", "--attention-backend", "fa3"]}.get(case, [])
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch", *options)
    assert code == 0, text
    assert machine.latest().warnings == []
    assert machine.latest().workload.attention_backend == ("fa3" if case == "named" else None)


def test_manifest_lists_every_file_and_nothing_private(machine) -> None:
    machine.environment |= {
        "NCCL_DEBUG_FILE": "/home/someone/nccl.log",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": "hf_secret",
    }
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch", "--", "--api-key", "hunter2")
    assert code == 0, text
    folder = (machine.folder / "runs" / "latest").resolve()
    run = machine.latest()
    listed = {f.path for s in run.stages for f in s.files}
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert on_disk == listed | {"manifest.json"}
    traces = [f for s in run.stages for f in s.files if f.kind == "trace"]
    assert [f.path for f in traces] == ["graph-torch/sglang-graph_batch64_input512_output10_decode.trace.json.gz"]
    assert run.environment == {"CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG_FILE": None}
    whole = (folder / "manifest.json").read_text()
    for private in ("hunter2", "hf_secret", str(machine.folder), "someone"):
        assert private not in whole
    assert run.stages[0].command[-2:] == ["--api-key", "***"]
    assert json.loads(whole)["schema"] == 1


def test_clocks_and_throttling_are_in_the_manifest(machine) -> None:
    machine.environment["FAKE_THROTTLE"] = "1"
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch")
    assert code == 0
    run = machine.latest()
    clocks = run.stages[0].clocks
    assert [c.gpu for c in clocks] == [0, 1]
    assert clocks[0].throttle_reasons == {"hardware thermal slowdown": clocks[0].samples}
    assert run.throttled
    assert text.count("the clocks were held down while recording") == 1
    assert "(hardware thermal slowdown in 2 of 2 stages on GPU 0, 1, SM " in text
    assert len([line for line in run.warnings if "held down" in line]) == 1
    assert "(throttled)" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./nowhere"], "./nowhere: no such folder; give a model's folder or a Hugging Face id"),
        (["--model", "bin"], "bin: no such folder|bin: holds no config.json"),
        (["--attention-backend", "flash"], "sglang 0.5.12 has no attention backend flash; it has triton"),
        (["--mode", "breakable"], "sglang 0.5.12 has no breakable CUDA graphs; choose eager or graph"),
        (["--tp", "4"], "--tp 4: this machine has 2 GPUs"),
        (["--gpus", "5"], "--gpus: no GPU 5 here; there are 0, 1"),
        (["--gpus", "0", "--tp", "2"], "--gpus names 1 GPUs, --tp wants 2"),
        (["--tp", "2", "--topology", "numa"], "--topology numa: no 2 GPUs here are linked like that"),
        (["--output-len", "8"], "--output-len 8 ends before the recorded steps do"),
        (["--preset", "communication", "--tp", "2"], "a collective waits for the others"),
        (["--resume"], "--resume goes with -o"),
        (["--resume", "bin"], "--resume -o bin"),
        (["--", "python", "script.py"], "traceql collect torch -- python"),
        (["--dummy-weights"], "--dummy-weights goes with --model"),
    ],
)
def test_bad_input_is_named_and_nothing_recorded(machine, arguments: list[str], said: str) -> None:
    code, text = machine.run("collect", "sglang", *arguments)
    assert code == 2
    assert any(part in text for part in said.split("|")), text
    assert "Traceback" not in text
    assert not (machine.folder / "runs").exists()


def test_nothing_here_says_what_is_missing(bare) -> None:
    code, text = bare.run("collect")
    assert code == 2
    for part in ("no NVIDIA driver", "traceql analyze --sample list", "torch: not installed", "sglang: not installed"):
        assert part in text
    assert "nothing was recorded" in text
    assert not (bare.folder / "runs").exists()


def test_broken_driver_is_told_in_its_own_words(machine) -> None:
    machine.environment["FAKE_DRIVER"] = "broken"
    code, text = machine.run("collect")
    assert code == 2
    assert "nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver" in text


def test_old_nsys_is_left_out_or_refused(machine) -> None:
    machine.environment["FAKE_NSYS_VERSION"] = "2023.4.4.54"
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "nsys")
    assert code == 2
    assert "nsys 2023.4.4.54 knows CUDA up to 12.4, the program uses 13.0: it stops importing" in text
    assert "install Nsight Systems 2025.3 or newer" in text
    code, text = machine.run("collect", "--mode", "graph")
    assert code == 0
    assert "note: without nsys" in text
    assert [s.name for s in machine.latest().stages] == ["graph-latency", "graph-torch", "graph-ncu"]


@pytest.mark.parametrize(
    ("failure", "problem", "fix"),
    [
        ("oom", "the GPU ran out of memory", "--mem-fraction-static"),
        ("crash", "exit code 3: ValueError: something unheard of", "eager-torch/output.log"),
        ("notrace", "no trace was written", "eager-torch/output.log"),
    ],
)
def test_failed_stage_is_kept_and_named(machine, failure: str, problem: str, fix: str) -> None:
    machine.environment |= {"FAKE_SGLANG": failure, "FAKE_SGLANG_IN": "--profile"}
    code, text = machine.run("collect", "--mode", "eager", "--profiler", "torch")
    assert code == 2
    assert problem in text
    run = machine.newest()
    assert run.status == "partial"  # the latency was measured
    assert run.stage("eager-latency").status == "complete"
    failed = run.stage("eager-torch")
    assert (failed.status, failed.problem) == ("failed", problem)
    assert fix in failed.fix
    assert run.problem.startswith(f"eager-torch: {problem}")
    assert (machine.folder / "runs" / run.name / "eager-torch" / "output.log").is_file()
    assert not (machine.folder / "runs" / "latest").exists()  # it holds no trace


def test_batch_that_does_not_fit_is_no_success(machine) -> None:
    machine.environment["FAKE_SGLANG"] = "skip"
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch")
    assert code == 2
    assert text.count("the KV cache is too small for this batch and length") >= 2
    assert machine.newest().status == "failed"


def test_a_failed_stage_does_not_stop_the_others(machine) -> None:
    machine.environment["FAKE_NCU"] = "permission"
    code, text = machine.run("collect")
    assert code == 2
    run = machine.latest()
    assert run.status == "partial"
    assert [s.name for s in run.stages if s.status != "complete"] == ["eager-ncu"]
    assert "no permission for the GPU's performance counters (ERR_NVGPUCTRPERM)" in run.stage("eager-ncu").problem
    assert "NVreg_RestrictProfilingToAdminUsers=0" in text


def test_ncu_without_a_match(machine) -> None:
    machine.environment["FAKE_NCU"] = "nothing"
    code, _ = machine.run("collect", "--mode", "eager", "--profiler", "ncu", "--repeats", "0")
    assert code == 2
    assert machine.newest().stage("eager-ncu").problem == "ncu saw no kernel that matches"


@pytest.mark.parametrize(
    ("failure", "problem"),
    [("qdstrm", "it left a .qdstrm and no report"), ("fail", "older than the CUDA of the program")],
)
def test_nsys_without_a_report(machine, failure: str, problem: str) -> None:
    machine.environment["FAKE_NSYS"] = failure
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "nsys", "--repeats", "0")
    assert code == 2
    assert problem in text
    assert machine.newest().status == "failed"


@pytest.mark.parametrize(
    ("importer", "said"),
    [
        ("echo imported > $4", None),
        ("echo Status: damaged stream; exit 1", "made no report of sglang-graph.qdstrm: Status: damaged stream"),
        (
            "echo x: error while loading shared libraries: libdw.so.1: cannot open; exit 127",
            "install the package that brings libdw.so.1",
        ),
    ],
)
def test_nsys_inside_nsight_compute_imports_by_the_importer_beside_it(machine, importer: str, said: str | None) -> None:
    machine.environment["FAKE_NSYS"] = "qdstrm"
    host = machine.folder / "linux-desktop-x64"
    host.mkdir()
    (host / "QdstrmImporter").write_text(f"#!/bin/sh\n{importer}\n")
    (host / "QdstrmImporter").chmod(0o755)
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "nsys", "--repeats", "0")
    assert code == (2 if said else 0), text
    assert said is None or said in text
    if said is None:
        assert machine.latest().traces() == ["graph-nsys/sglang-graph.nsys-rep"]


def test_hanging_child_is_ended_in_time(machine) -> None:
    machine.environment["FAKE_SGLANG"] = "hang"
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch", "--timeout", "1")
    assert code == 2
    assert "not done after 1 s (last output: Load weight begin" in text
    assert "raise --timeout" in text


def test_interrupt_ends_all_that_was_started_and_nothing_else(machine) -> None:
    pids = machine.folder / "pids"
    machine.environment |= {"FAKE_SGLANG": "stubborn", "FAKE_SGLANG_IN": "--profile", "FAKE_PIDS": str(pids)}
    process = machine.start("collect", "--mode", "eager,graph", "--profiler", "torch")
    _wait_for(lambda: pids.exists() and pids.read_text())
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)  # a second one does not wait for the child's grace
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    for pid in pids.read_text().split():
        _wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists() or "Z" in _state(pid))
    run = machine.newest()
    assert run.status == "interrupted"
    assert [(s.name, s.status) for s in run.stages] == [("eager-latency", "complete"), ("eager-torch", "interrupted")]


def test_killed_run_says_how_far_it_came(machine) -> None:
    machine.environment |= {"FAKE_SGLANG": "hang", "FAKE_SGLANG_IN": "--profile"}
    process = machine.start("collect", "--mode", "graph", "--profiler", "torch", "-o", "run")
    partial = machine.folder / ".run.partial"
    log = partial / "graph-torch" / "output.log"
    _wait_for(lambda: last_line(log).startswith("Load weight"))
    process.kill()
    process.wait()
    found = manifest.read(partial)
    assert (found.status, [s.name for s in found.stages]) == ("running", ["graph-latency"])
    _wait_for(lambda: not _holders(log))  # the child does not outlive a killed collect
    machine.environment.pop("FAKE_SGLANG")
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch", "-o", "run")
    assert (code, "a run is there" in text) == (2, True)
    code, text = machine.run(
        "collect", "--mode", "graph", "--profiler", "torch", "-o", "run", "--resume", "--batch-size", "1"
    )
    assert (code, "holds a run of another workload" in text) == (2, True)
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch", "-o", "run", "--resume")
    assert code == 0, text
    assert "kept: complete in an earlier attempt" in text
    assert manifest.read(machine.folder / "run").status == "complete"
    assert not partial.exists()


def test_sweep_records_one_run_each_and_resumes(machine) -> None:
    machine.environment |= {"FAKE_SGLANG": "oom", "FAKE_SGLANG_IN": "--batch-size 16 "}
    words = ["collect", "--batch-size", "1,16", "--attention-backend", "flashinfer,triton", "--profiler", "torch",
             "--mode", "graph", "-o", "runs/sweep"]  # fmt: skip
    code, text = machine.run(*words)
    assert code == 2
    sweep = json.loads((machine.folder / "runs/sweep/manifest.json").read_text())
    assert {p["name"]: p["status"] for p in sweep["points"]} == {
        "bs1-flashinfer": "complete", "bs16-flashinfer": "failed", "bs1-triton": "complete", "bs16-triton": "failed",
    }  # fmt: skip
    assert sweep["status"] == "partial"
    machine.environment.clear()
    code, text = machine.run(*words, "--resume")
    assert code == 0, text
    assert text.count("] graph-torch") == 4  # start and end of two runs
    rows = [line.split()[0] for line in text.splitlines() if " graph " in line]
    assert rows == ["bs1-flashinfer", "bs16-flashinfer", "bs1-triton", "bs16-triton"]
    assert machine.latest().workload.attention_backend == "triton"


def test_tensor_parallel_records_every_rank_by_the_server(machine) -> None:
    code, text = machine.run(
        "collect", "--tp", "1,2", "--topology", "nvlink", "--profiler", "torch", "--mode", "graph", "--output-len", "160"
    )  # fmt: skip
    assert code == 0, text
    run = machine.latest()
    assert (run.workload.tp, run.workload.topology, run.workload.gpus) == (2, "nvlink", [0, 1])
    assert [f.split("/")[1] for f in run.traces()] == [f"1700000000.0-TP-{rank}.trace.json.gz" for rank in (0, 1)]
    assert run.stage("graph-torch").environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert "50" in text.splitlines()[-3]  # the fake is no faster with two GPUs: half the efficiency


def test_dry_run_prints_commands_and_runs_nothing(machine) -> None:
    code, text = machine.run("collect", "--dry-run", "--mode", "graph", "--layers", "2")
    assert code == 0
    assert "--profile-start-step 6 --profile-steps 3" in text
    assert "~/.cache/traceql/models/llama-3-8b-2-layers" in text
    assert not (machine.folder / "runs").exists()


def test_existing_folder_is_not_touched(machine) -> None:
    (machine.folder / "mine").mkdir()
    (machine.folder / "mine" / "file").touch()
    code, text = machine.run("collect", "--mode", "graph", "--profiler", "torch", "-o", "mine", "--resume")
    assert code == 2
    assert "mine: exists and holds no run" in text
    assert [p.name for p in (machine.folder / "mine").iterdir()] == ["file"]


def _wait_for(ready, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return "Z"


def _holders(log: Path) -> list[str]:
    """The processes that have a log open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(log) in {str(fd.readlink()) for fd in (entry / "fd").iterdir()}:
                found.append(entry.name)
        except OSError:
            continue
    return found

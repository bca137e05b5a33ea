"""Recording any program: torch.profiler for real on the CPU, nsys and ncu by fakes (nsys for real where it is)."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from traceql.collectors import inject, mini_sglang, torch_profiler
from traceql.collectors.manifest import Workload

PYTHON = os.environ.get("TRACEQL_TEST_PYTHON", sys.executable)
"""A Python with torch; the one that runs the tests unless the variable names another."""


def _torch_import_s() -> float | None:
    """How long ``import torch`` takes on this machine; None without torch."""
    begin = time.monotonic()
    found = subprocess.run([PYTHON, "-c", "import torch"], check=False, capture_output=True).returncode == 0
    return time.monotonic() - begin if found else None


IMPORT_S = _torch_import_s()
needs_torch = pytest.mark.skipif(
    IMPORT_S is None, reason="torch is not installed (or name a Python: TRACEQL_TEST_PYTHON)"
)

SCRIPT = """
import sys
import torch

class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))

def decode_step(model, x):
    with torch.no_grad():
        return model(x)

if __name__ == "__main__":
    model, x = Decoder(), torch.randn(4, 16)
    for _ in range(int(sys.argv[1])):
        x = decode_step(model, x)
    print("ran as", __name__, sys.argv[1:])
"""


@pytest.fixture
def script(bare):
    (bare.folder / "decode.py").write_text(SCRIPT, encoding="utf-8")
    return bare


def _events(path: Path) -> list[dict]:
    with gzip.open(path, "rt") as file:
        return [e for e in json.load(file)["traceEvents"] if e.get("ph") == "X"]


@needs_torch
def test_whole_program(script) -> None:
    code, text = script.run("collect", "torch", "--", PYTHON, "decode.py", "20")
    assert code == 0, text
    run = script.latest()
    assert run.traces() == ["torch/torch.trace.json.gz"]
    events = _events(script.folder / "runs/latest/torch/torch.trace.json.gz")
    linear = [e for e in events if e["name"] == "aten::addmm"]
    assert len(linear) == 40
    assert linear[0]["args"]["Input Dims"]  # shapes are on
    log = (script.folder / "runs/latest/torch/output.log").read_text()
    assert "ran as __main__ ['20']" in log
    assert "no GPU here: what was recorded is the CPU side alone" in text
    assert not list((script.folder / "runs/latest/torch").glob(".*"))


@needs_torch
def test_chosen_steps_of_the_outermost_module(script) -> None:
    code, text = script.run("collect", "torch", "--steps", "3", "--skip", "4", "--", PYTHON, "decode.py", "20")
    assert code == 0, text
    events = _events(script.folder / "runs/latest/torch/torch.trace.json.gz")
    assert sorted({e["name"] for e in events if e["name"].startswith("ProfilerStep")}) == [
        "ProfilerStep#6", "ProfilerStep#7", "ProfilerStep#8",
    ]  # fmt: skip
    assert sum(e["name"] == "aten::addmm" for e in events) == 6
    latency = script.latest().stage("torch").latency
    assert (latency.what, latency.source) == ("step", "steps outside the recording")
    assert latency.median_ms > 0


@needs_torch
def test_chosen_steps_of_a_named_function(script) -> None:
    (script.folder / "model_code.py").write_text(SCRIPT, encoding="utf-8")
    (script.folder / "main.py").write_text(
        "import model_code, torch\nm = model_code.Decoder()\nx = torch.randn(4, 16)\n"
        "for _ in range(12):\n    x = model_code.decode_step(m, x)\n",
        encoding="utf-8",
    )
    words = ["--steps", "2", "--step-on", "model_code:decode_step", "--stacks", "--no-shapes"]
    code, text = script.run("collect", "torch", *words, "--", PYTHON, "main.py")
    assert code == 0, text
    events = _events(script.folder / "runs/latest/torch/torch.trace.json.gz")
    assert sum(e["name"] == "aten::addmm" for e in events) == 4
    assert any(e.get("cat") == "python_function" for e in events)
    assert not any("Input Dims" in e.get("args", {}) for e in events)


@needs_torch
def test_function_of_the_script_itself(script) -> None:
    words = ["--steps", "2", "--step-on", "__main__:decode_step"]
    code, text = script.run("collect", "torch", *words, "--", PYTHON, "decode.py", "12")
    version = subprocess.run([PYTHON, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, check=True)
    if int(version.stdout) < 12:
        assert code == 2
        assert "a function of __main__ needs Python 3.12; name forward or module:function" in text
        return
    assert code == 0, text
    assert (
        sum(e["name"] == "aten::addmm" for e in _events(script.folder / "runs/latest/torch/torch.trace.json.gz")) == 4
    )


@needs_torch
def test_every_rank_of_a_launcher_leaves_a_trace(script) -> None:
    launcher = (
        "import os, subprocess, sys\n"
        "ranks = [subprocess.Popen([sys.executable, 'decode.py', '3'], env={**os.environ, 'RANK': str(r)}) for r in (0, 1)]\n"
        "sys.exit(max(rank.wait() for rank in ranks))\n"
    )
    (script.folder / "launch.py").write_text(launcher, encoding="utf-8")
    code, text = script.run("collect", "torch", "--", PYTHON, "launch.py")
    assert code == 0, text
    assert script.latest().traces() == ["torch/torch-rank0.trace.json.gz", "torch/torch-rank1.trace.json.gz"]


@needs_torch
def test_an_interrupted_or_hanging_program_leaves_its_trace(script) -> None:
    (script.folder / "slow.py").write_text(
        SCRIPT.replace("print(", "__import__('time').sleep(600); print("), encoding="utf-8"
    )
    patience = f"{4 + 3 * round(IMPORT_S or 0)}"  # the program has to come to its sleep, on a busy machine too
    code, text = script.run("collect", "torch", "--timeout", patience, "--", PYTHON, "slow.py", "5", timeout=300)
    assert code == 2
    assert f"not done after {patience} s" in text
    run = script.latest()
    assert run.status == "partial"
    assert sum(e["name"] == "aten::addmm" for e in _events(script.folder / "runs/latest" / run.traces()[0])) == 10


@needs_torch
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--", PYTHON, "-c", "print(1)"], "no Python process of the program imported torch"),
        (["--", PYTHON, "-I", "-c", "import torch"], "it ran with -S, -E or -I"),
        (["--steps", "3", "--", PYTHON, "decode.py", "4"], "ended before the steps to record (needs more than 10)"),
        (["--steps", "3", "--", PYTHON, "-c", "import torch"], "no step was seen: forward was never called"),
        (
            ["--steps", "3", "--step-on", "math:nothing", "--", PYTHON, "decode.py", "20"],
            "the injected profiler failed",
        ),
        (["--", PYTHON, "missing.py"], "can't open file"),
        (["--", PYTHON, "-c", "import torch; raise SystemExit(3)"], "exit code 3"),
    ],
)
def test_no_trace_is_explained(script, words: list[str], problem: str) -> None:
    code, text = script.run("collect", "torch", *words)
    assert code == 2
    assert problem in text, text
    assert "Traceback" not in text


@needs_torch
def test_the_programs_own_sitecustomize_still_runs(script) -> None:
    (script.site / "sitecustomize.py").write_text("print('own sitecustomize')\n", encoding="utf-8")
    code, text = script.run("collect", "torch", "--", PYTHON, "decode.py", "3")
    assert code == 0, text
    assert "own sitecustomize" in (script.folder / "runs/latest/torch/output.log").read_text()


def test_python_without_torch_is_refused(bare) -> None:
    bare.install_distribution("nothing", "1.0")
    empty = bare.folder / "python3"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', encoding="utf-8")
    empty.chmod(0o755)
    code, text = bare.run("collect", "torch", "--", str(empty), "decode.py")
    assert code == 2
    assert "torch: not installed" in text


def test_unknown_program_is_named(machine) -> None:
    code, text = machine.run("collect", "nsys", "--", "no-such-program")
    assert code == 2 or "no-such-program" in text
    code, text = machine.run("collect", "torch", "--", "no-such-program")
    assert code == 2
    assert "no-such-program: cannot be run (No such file or directory)" in text


def test_step_on_must_name_a_function(bare) -> None:
    code, text = bare.run("collect", "torch", "--steps", "1", "--step-on", "module", "--", "python", "x.py")
    assert code == 2
    assert "--step-on module: give forward or module:function" in text


def test_nsys_and_ncu_wrap_the_command(machine) -> None:
    code, text = machine.run("collect", "nsys", "--capture-range", "--repeats", "2", "--", "echo", "decoded")
    assert code == 0, text
    run = machine.latest()
    assert [s.name for s in run.stages] == ["plain", "nsys"]
    assert run.stages[0].latency.what == "process"
    assert len(run.stages[0].latency.runs_ms) == 2
    assert "--capture-range=cudaProfilerApi" in run.stages[1].command
    assert run.traces() == ["nsys/program.nsys-rep"]
    code, text = machine.run(
        "collect", "ncu", "--preset", "norm", "--count", "2", "--gpus", "1", "--", "echo", "decoded"
    )
    assert code == 0, text
    run = machine.latest()
    assert "regex:[Nn]orm" in run.stages[0].command
    assert run.stages[0].environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert run.traces() == ["ncu/program.ncu-rep"]
    code, text = machine.run("collect", "ncu", "--preset", "norm", "--kernels", "x", "--", "echo")
    assert (code, "give --preset or --kernels, not both" in text) == (2, True)


def test_old_nsys_records_with_force(machine) -> None:
    machine.environment["FAKE_NSYS_VERSION"] = "2023.4.4"
    code, text = machine.run("collect", "nsys", "--", "echo")
    assert (code, "stops importing" in text) == (2, True)
    code, text = machine.run("collect", "nsys", "--force", "--", "echo")
    assert code == 0, text


@pytest.mark.skipif(shutil.which("nsys") is None, reason="nsys is not installed")
def test_real_nsys_leaves_a_report(bare) -> None:
    bare.environment["PATH"] = f"{Path(shutil.which('nsys') or '').parent}:/usr/bin:/bin"
    code, text = bare.run("collect", "nsys", "--force", "--trace", "nvtx,osrt", "--", sys.executable, "-c", "print(1)")
    assert code == 0, text
    assert bare.latest().stages[0].files[-1].bytes > 1000


def test_mini_sglang_decodes_in_both_modes(machine) -> None:
    (machine.site / "minisgl").mkdir()
    (machine.site / "minisgl" / "__init__.py").touch()
    code, text = machine.run("collect", "mini-sglang", "--dry-run", "--attention-backend", "fi", "--batch-size", "8")
    assert code == 0, text
    eager, graph = [line for line in text.splitlines() if "mini_sglang_load.py" in line]
    assert "--cuda-graph-max-bs 0 --attention-backend fi --dummy-weights" in eager
    assert "--cuda-graph-max-bs 8" in graph
    assert mini_sglang.STEP in eager
    workload = Workload(engine="mini-sglang", model="m", batch_size=64, input_len=512)
    assert mini_sglang.skip(workload) == 20  # twice (4 chunks and 1), 4 warm-up tokens, 6 steps
    code, text = machine.run("collect", "mini-sglang", "--mode", "piecewise")
    assert code == 2


def test_injected_options_survive_the_environment(tmp_path: Path) -> None:
    options = inject.Options(folder=str(tmp_path), stacks=True, step_on="a:b", skip=1, warmup=2, active=3)
    from traceql.collectors.command import Command

    command = torch_profiler.command(Command(("python", "x.py"), {"PYTHONPATH": "mine"}), tmp_path / "scratch", options)
    assert inject.Options.from_text(command.environment[inject.VARIABLE]) == options
    assert command.environment["PYTHONPATH"] == f"{tmp_path / 'scratch'}:mine"
    assert inject.Options.from_text('{"active": 1, "unknown": 2}').active == 1

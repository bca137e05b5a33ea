"""The fixture in a pytest of its own, as somebody else's test suite runs it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from small_traces import Decode

PLUGIN = [] if entry_points(group="pytest11", name="traceql") else ["-p", "traceql.pytest_plugin"]


def run(folder: Path, body: str) -> str:
    """The output of pytest over one test file."""
    (folder / "test_it.py").write_text(body)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, *PLUGIN, folder / "test_it.py"],
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Decode().write(tmp_path / "decode.json")
    return tmp_path


def test_within_exceeded_and_unknown(folder: Path) -> None:
    out = run(
        folder,
        """
import traceql as tq

def test_within(traceql_budget):
    assert traceql_budget("decode.json", "step.kernels", kind="decode", max=13) == 13
    assert traceql_budget(tq.open("decode.json"), sql="select count(*) from launches", max=100) == 56
    assert traceql_budget(["decode.json"], "step.launch_calls", min=13) == 13

def test_exceeded(traceql_budget):
    traceql_budget("decode.json", "step.kernels", max=12)

def test_unknown(traceql_budget):
    traceql_budget("decode.json", "step.kernels", kind="prefill", max=12)

def test_wrong(traceql_budget):
    traceql_budget("decode.json", "step.kernel", max=12)
""",
    )
    assert "3 failed, 1 passed" in out
    assert "step.kernels (median) is 13: exceeds its budget of ≤ 12." in out
    assert "cannot be told: no prefill step in decode.json" in out
    assert "no metric 'step.kernel'; did you mean step.kernels?" in out


def test_the_budgets_of_the_configuration(folder: Path) -> None:
    body = "def test_all(traceql_budget):\n    traceql_budget('decode.json')\n"
    assert "no budget given and none in the configuration" in run(folder, body)
    (folder / "traceql.toml").write_text(
        "[[budgets]]\nmetric = 'step.kernels'\nmax = 13\n[[budgets]]\nmetric = 'step.launch_calls'\nmax = 12\n"
    )
    out = run(folder, body)
    assert "1 failed" in out
    assert "step.launch_calls (median) is 13: exceeds its budget of ≤ 12." in out
    assert "step.kernels" not in out


def test_the_plugin_imports_nothing_of_traceql_before_it_is_used() -> None:
    code = (
        "import sys, traceql.pytest_plugin; assert not {'polars', 'numba', 'msgspec'} & set(sys.modules), sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

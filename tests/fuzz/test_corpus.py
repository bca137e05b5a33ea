"""What fuzzing under coverage kept, run again: every place of the readers it reached, in seconds and without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.guided import CORPUS, replay
from fuzz.guided.targets import TARGETS

MOST = {
    "torch-analyze": 5,
    "nsys-analyze": 3,
    "ncu-analyze": 8,
    "nsys-load": 10,
    "torch-load": 40,
    "torch-parsers": 40,
    "ncu-load": 60,
}
"""Inputs of a slow target that a run of the suite takes; of the others all."""


def test_every_target_has_a_corpus() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 2_000_000


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "torch-scan"])
def test_kept_inputs(target: str, tmp_path: Path) -> None:
    assert replay.replay(target, tmp_path, MOST.get(target))


def test_kept_inputs_of_the_scanner_as_python() -> None:
    """Its loops without compilation, against its machine code and the strict decoder."""
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.guided.replay", "torch-scan"]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    ran = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout.split()[1]) > 100

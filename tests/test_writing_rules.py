"""The guide to writing a rule, followed to the letter: its files are installed as a package and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from traceql import samples

GUIDE = (Path(__file__).parents[1] / "docs" / "writing-rules.md").read_text(encoding="utf-8")
SAMPLE = samples.path("sglang-h200-bs64-decode-eager")
TRACEQL = "from traceql.cli.main import main; main()"


def _run(*command: str | Path, folder: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)} if site else dict(os.environ)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's package, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("guide")
    files = re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)```", GUIDE, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in files] == ["many_readbacks.py", "pyproject.toml"]
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
    target = folder / "site"
    done = _run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, ".", folder=folder)
    assert done.returncode == 0, done.stderr
    return target


def test_the_rule_has_a_page(site: Path, tmp_path: Path) -> None:
    done = _run(sys.executable, "-c", TRACEQL, "rule", "many-readbacks", folder=tmp_path, site=site)
    assert done.returncode == 0, done.stderr
    assert "# ACME001 many-readbacks" in done.stdout
    assert "| `max-copies-count` | 1 | device-to-host copies a step may have |" in done.stdout


def test_lint_runs_the_rule(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRACEQL, "lint", "--select", "ACME001", str(SAMPLE)]
    done = _run(*command, folder=tmp_path, site=site)
    assert done.returncode == 1, done.stderr
    assert "ACME001" in done.stdout
    spared = _run(*command, "--option", "ACME001.max-copies-count=9", folder=tmp_path, site=site)
    assert spared.returncode == 0, spared.stdout + spared.stderr


def test_its_test_passes(site: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"## Test it.*?```python\n(.*?)```", GUIDE, re.DOTALL)
    done = _run(sys.executable, "-c", code, folder=tmp_path, site=site)
    assert done.returncode == 0, done.stderr


def test_the_rule_is_no_longer_than_promised() -> None:
    """Twenty lines in the class."""
    body = GUIDE.split("class ManyReadbacks(Rule):\n")[1].split("```")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20

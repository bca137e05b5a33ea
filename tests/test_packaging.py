"""The package as a user gets it: a wheel with rules, templates and samples, and somebody else's rule beside them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAPPED = {
    "traceql.rules": "rules",
    "traceql.collectors": "collectors",
    "traceql.templates": "templates",
    "traceql.sample_traces": "sample_traces",
}


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_package_list_is_the_tree() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"traceql"}
    for folder, package in [(ROOT / "traceql", "traceql"), *((ROOT / d, p) for p, d in MAPPED.items())]:
        for init in folder.rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(folder).parts]))
    assert set(settings["packages"]) == found
    assert settings["package-dir"] == {"traceql": "traceql", **MAPPED}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_what_the_commands_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "traceql/rules/launch_gap.py",
        "traceql/templates/report.html.j2",
        "traceql/kernels.toml",
        "traceql/py.typed",
    ):
        assert wanted in names
    samples = tomllib.loads((ROOT / "sample_traces" / "samples.toml").read_text())["sample"]
    folder = ROOT / "sample_traces"
    captures = {p for s in samples for p in [folder / s["file"], *(folder / s["file"]).rglob("*")] if p.is_file()}
    assert {f"traceql/sample_traces/{p.relative_to(folder)}" for p in captures} <= names
    assert not [n for n in names if n.startswith(("tests/", "rules/"))]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder to put on PYTHONPATH; its dependencies come from this interpreter."""
    target = tmp_path_factory.mktemp("installed")
    done = run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, cwd=target)
    assert done.returncode == 0, done.stderr
    return target


def test_a_sample_analyzes_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import traceql, sys; assert traceql.__file__.startswith(sys.argv[1]), traceql.__file__; from traceql.cli.main import main; sys.argv[1:] = sys.argv[2:]; main()"
    done = run(
        sys.executable, "-c", code, installed, "analyze", "--sample", "sglang-h200-bs64-decode-eager",
        cwd=tmp_path, PYTHONPATH=str(installed),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TQL101" in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000


PLUGIN = '''
"""
## What it does
Nothing but be found.
"""
from traceql import Rule, Severity


class Always(Rule):
    code = "EXT001"
    name = "always"
    summary = "Fires on every trace."
    severity = Severity.INFO

    def check(self, trace, options):
        yield self.finding(f"{trace.table('kernels').height} kernels")
'''


def test_somebody_elses_rule_runs(tmp_path: Path) -> None:
    """A package that knows only the entry-point group; installed beside traceql, its rule is one of the rules."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "tql_always.py").write_text(PLUGIN)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tql-always"\nversion = "1"\n[project.entry-points."traceql.rules"]\nalways = "tql_always"\n'
        '[tool.setuptools]\npy-modules = ["tql_always"]\n'
    )
    target = tmp_path / "site"
    done = run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, project, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    code = (
        "import traceql as tq; from traceql import samples;"
        "r = tq.analyze(samples.path('sglang-h200-bs64-decode-graph'));"
        "print([f.message for f in r.found if f.code == 'EXT001'])"
    )
    ran = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target))
    assert ran.stdout.strip() == "['1299 kernels']", ran.stderr

"""The recipe under the real nsys, as its users start it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import traces

import traceql

PACKAGE = Path(traceql.__file__).parent
NEEDED = [name for name in ("pandas", "psutil") if find_spec(name) is None]

needs_nsys = pytest.mark.skipif(shutil.which("nsys") is None, reason="nsys is not on PATH")
needs_recipe_packages = pytest.mark.skipif(bool(NEEDED), reason=f"nsys recipes need {', '.join(NEEDED)}")


def recipe(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``nsys recipe traceql`` in ``folder`` with this interpreter first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["nsys", "recipe", "traceql", *map(str, arguments)],
        cwd=folder, env={**os.environ, "PATH": path, "NSYS_RECIPE_PATH": str(PACKAGE.parent)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_nsys_finds_the_module_by_the_metadata() -> None:
    metadata = json.loads((PACKAGE / "metadata.json").read_text())
    assert (PACKAGE / f"{metadata['module_name']}.py").is_file()
    assert f"class {metadata['class_name']}(" in (PACKAGE / f"{metadata['module_name']}.py").read_text()
    assert metadata["display_name"]
    assert isinstance(metadata["description"], list)


@needs_nsys
@needs_recipe_packages
def test_a_report_becomes_findings_and_a_page(tmp_path: Path) -> None:
    captured = traces.extra("nsys/mini-decode-piecewise-node.sqlite").path.with_suffix(".nsys-rep")
    (tmp_path / "report.nsys-rep").write_bytes(captured.read_bytes())
    (tmp_path / "traceql.toml").write_text("[rules.TQL201]\nseverity = 'error'\n")
    done = recipe(tmp_path, "--input", "report.nsys-rep", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert "Generated:\n    out" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"findings.json", "report.html", "out.nsys-analysis"}
    found = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert found["traces"][0]["source"] == "nsys"
    severities = {f["code"]: f["severity"] for f in found["findings"]}
    assert severities["TQL201"] == "error", "the configuration file of the folder holds"
    assert len(found["metrics"]["steps"]) == 12
    assert "<html" in (tmp_path / "out" / "report.html").read_text()[:500]
    analysis = json.loads((tmp_path / "out" / "out.nsys-analysis").read_text())
    assert analysis["RecipeName"] == "traceql"
    assert analysis["Outputs"] == {"findings.json": "JSON", "report.html": "HTML"}


@needs_nsys
@needs_recipe_packages
def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.nsys-rep").write_text("x")
    done = recipe(tmp_path, "--input", "bad.nsys-rep")
    assert done.returncode == 1
    assert "could not export it" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "traceql-1").exists()

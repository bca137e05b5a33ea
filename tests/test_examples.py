"""What the documentation shows to copy: hooks, actions and the example repository, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from traceql import config, samples

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
STEPS = re.findall(
    r"<!-- exits (\d) -->\n```bash\n(.*?)```", (EXAMPLES / "perf-gate" / "README.md").read_text(), re.DOTALL
)


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``script`` as a CI runner starts it, with this interpreter's commands first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    plugin = "" if entry_points(group="pytest11", name="traceql") else "-p traceql.pytest_plugin"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder, env={**os.environ, "PATH": path, "PYTEST_ADDOPTS": plugin, **environment},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """A copy of the example repository after every command of its README, and what each said."""
    folder = tmp_path_factory.mktemp("example") / "perf-gate"
    shutil.copytree(EXAMPLES / "perf-gate", folder)
    return folder, [bash(script, folder) for _, script in STEPS]


def test_the_example_repository_does_what_it_says(walked: tuple[Path, list[Any]]) -> None:
    folder, said = walked
    for (code, script), done in zip(STEPS, said, strict=True):
        assert done.returncode == int(code), f"{script}\n{done.stdout}\n{done.stderr}"
    assert len(said) == 7
    assert "budget error" not in said[1].stdout
    worse = said[4].stdout
    assert "step.launch_calls (decode, median) is 392: exceeds its budget of ≤ 10." in worse
    assert re.search(r"TQL101 launch-gap warning \[worse: [\d.,]+ µs/step → [\d.,]+ µs/step\]", worse)
    assert "idle: host" in said[5].stdout
    assert "step.launch_calls (decode, median) is 392" in said[6].stdout
    assert json.loads((folder / "traceql.sarif").read_text())["version"] == "2.1.0"
    assert ElementTree.parse(folder / "traceql.xml").getroot().attrib["failures"] != "0"


def test_the_configuration_of_the_example_is_valid() -> None:
    assert len(config.load(EXAMPLES / "perf-gate" / "traceql.toml").budgets) == 4


def test_the_action_lints_summarises_and_passes_the_exit_code_on(tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [s for s in action["runs"]["steps"] if s.get("id") == "lint"]
    assert {s.get("shell") for s in action["runs"]["steps"] if "run" in s} == {"bash"}
    inputs = {name: value.get("default", "") for name, value in action["inputs"].items()}
    inputs["traces"] = f"{samples.path('sglang-h200-bs64-decode-graph')}\n\n"
    for fail_on, code in (("warning", 1), ("error", 0)):
        inputs["fail-on"] = fail_on
        environment = {
            name: inputs[re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value).group(1)]  # type: ignore[union-attr]
            for name, value in step["env"].items()
        }
        (tmp_path / "output").write_text("")
        done = bash(
            step["run"], tmp_path, GITHUB_OUTPUT=str(tmp_path / "output"),
            GITHUB_STEP_SUMMARY=str(tmp_path / "summary"), **environment,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert (tmp_path / "output").read_text() == f"exit-code={code}\n"
    assert done.stdout.startswith("::notice title=TQL")
    assert "### traceql: Failed" in (tmp_path / "summary").read_text()
    assert (tmp_path / "traceql.sarif").exists()
    assert "${{" not in step["run"], "inputs reach the script as environment, never as text of it"


def test_the_action_installs_the_version_it_is_of(tmp_path: Path) -> None:
    """There may be a package of this name that is not ours: without a requirement the action installs its own folder."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [s for s in action["runs"]["steps"] if "pip install" in s.get("run", "")]
    assert step["env"]["ACTION"] == "${{ github.action_path }}"
    assert (ROOT / "pyproject.toml").exists(), "the action's folder is what pip installs"
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    for requirement, installed in (("", "/the/action"), ("traceql==9", "traceql==9")):
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]], capture_output=True, text=True, check=True,
            env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "REQUIREMENT": requirement, "ACTION": "/the/action"},
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == installed


def test_the_commands_of_the_ci_files_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from commands import traceql

    texts = [EXAMPLES / "gitlab" / ".gitlab-ci.yml", EXAMPLES / "perf-gate" / ".github" / "workflows" / "perf.yml"]
    commands = set()
    for path in texts:
        yaml.safe_load(path.read_text())
        commands |= set(re.findall(r"traceql (\w+) [^\n]*", path.read_text())) - {"lint"} | {"lint"}
        for flags in re.findall(r"traceql (?:collect \w+|lint) ([^\n]*)", path.read_text()):
            assert not set(re.findall(r"--[\w-]+", flags)) - {"--mode", "--profiler", "--batch-size", "--output"}
    assert commands == {"collect", "lint"}
    for command in (["collect", "sglang"], ["lint"]):
        shown = traceql(capsys, *command, "--help").out
        assert "--help" in shown
    assert all(
        flag in traceql(capsys, "collect", "sglang", "--help").out for flag in ("--mode", "--profiler", "--batch-size")
    )


def test_the_pre_commit_hook(tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    wanted = re.compile(hook["files"])
    for name in ("a/decode.trace.json.gz", "decode.trace.json", "rank0.pt.trace.json", "report.nsys-rep"):
        assert wanted.search(name), name
    for name in ("package.json", "trace.py", "x.sqlite"):
        assert not wanted.search(name), name
    capture = samples.path("sglang-h200-bs64-decode-graph")
    done = bash(f"{hook['entry']} {capture}", tmp_path)
    assert done.returncode == 1
    used = yaml.safe_load((EXAMPLES / "perf-gate" / ".pre-commit-config.yaml").read_text())
    assert used["repos"][0]["hooks"] == [{"id": hook["id"]}]


def test_the_hook_manifest_is_valid() -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    clientlib.load_manifest(ROOT / ".pre-commit-hooks.yaml")
    clientlib.load_config(EXAMPLES / "perf-gate" / ".pre-commit-config.yaml")


def shown(page: str, command: str) -> tuple[list[str], list[str]]:
    """(samples, lines) of the output that a page of the documentation shows of ``command``."""
    text = (ROOT / "docs" / page).read_text()
    (found,) = re.findall(rf"<!-- {command}: (.*?) -->\n```text\n(.*?)```", text, re.DOTALL)
    return found[0].split(), [line for line in found[1].splitlines() if line.strip()]


def is_held(documented: str, lines: list[str]) -> bool:
    """Whether a line is in the output; what it leaves out is marked by an ellipsis at its end."""
    begin = documented.removesuffix("…").rstrip()
    return any(line.startswith(begin) if documented.endswith("…") else line == documented for line in lines)


def test_the_output_in_the_documentation_of_compare(capsys: pytest.CaptureFixture[str]) -> None:
    from commands import traceql

    names, documented = shown("compare.md", "compare")
    said = traceql(capsys, "compare", *map(samples.path, names)).out.splitlines()
    assert [line for line in documented if not is_held(line, said)] == []


def test_the_output_in_the_documentation_of_lint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commands import traceql

    monkeypatch.chdir(tmp_path)
    (base, head), documented = shown("lint.md", "lint")
    shutil.copy(samples.path(base), "decode.trace.json.gz")
    assert traceql(capsys, "lint", "decode.trace.json.gz", "--update-baseline").code == 0
    shutil.copy(samples.path(head), "decode.trace.json.gz")
    ran = traceql(capsys, "lint", "decode.trace.json.gz", "--baseline", ".traceql-baseline.json")
    assert ran.code == 1
    assert [line for line in documented if not is_held(line, ran.out.splitlines())] == []

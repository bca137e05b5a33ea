"""`traceql lint` as a shell sees it: exit codes, what is said, and files written."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Ran, traceql
from small_traces import Decode

from traceql import registry, samples
from traceql.finding import Severity
from traceql.rule import Rule

LINE = "select = ['TQL1', 'TQL9']\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lint(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> Ran:
        return traceql(capsys, "lint", *arguments)

    return run


@pytest.fixture
def eager() -> Path:
    return Decode().write(Path("eager.json"))


@pytest.fixture
def clean() -> Path:
    """A run whose GPU is never short of work."""
    return Decode(host_us=4.0, between_us=0.0, layer={"gemm": 60.0}).write(Path("clean.json"))


def test_clean_is_zero(lint: Any, clean: Path) -> None:
    ran = lint(clean, "--ignore", "TQL903")
    assert (ran.code, ran.out, ran.err) == (0, "Clean.\n", "")


def test_findings_at_or_over_fail_on_are_one(lint: Any, eager: Path) -> None:
    ran = lint(eager)
    assert ran.code == 1
    first, advice, *_, last = ran.out.splitlines()
    assert first.startswith(
        "eager.json: TQL101 launch-gap warning: The GPU waits 655 µs of an 846 µs decode step for the host (77 %"
    )
    assert advice.startswith("    help: ")
    assert last.startswith("Failed: 2 findings at or over warning, 1 other finding")
    assert lint(eager, "--fail-on", "error").code == 0
    assert lint(eager, "--fail-on", "error").out.endswith("Passed: 3 findings that do not fail.\n")
    assert lint(eager, "--select", "TQL903", "--fail-on", "info").code == 1
    Path("traceql.toml").write_text("fail-on = 'error'\n")
    assert lint(eager).code == 0
    assert lint(eager, "--fail-on", "warning").code == 1


def test_severities_of_the_configuration_count(lint: Any, eager: Path) -> None:
    Path("traceql.toml").write_text(
        "fail-on = 'error'\n[rules.TQL101]\nseverity = 'error'\n[rules.TQL103]\nseverity = 'info'\n"
    )
    ran = lint(eager)
    assert ran.code == 1
    assert "TQL101 launch-gap error" in ran.out
    assert "TQL103 step-bubble info" in ran.out
    assert "(configuration traceql.toml)." in ran.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["none.json"], "none.json"),
        (["eager.json", "--select", "TQL999"], "no rule 'TQL999'"),
        (["eager.json", "--format", "xml"], "'xml'"),
        (["eager.json", "--output", "sarif"], "give FORMAT=FILE with one of text, json, sarif"),
        (["eager.json", "--output", "xml=x"], "give FORMAT=FILE"),
        (["eager.json", "--output", "sarif=no/such/x.sarif"], "no/such/x.sarif: cannot be written"),
        (
            ["eager.json", "--baseline", "none.json"],
            "none.json: there is no baseline yet; accept what is found now with `traceql lint eager.json --baseline none.json --update-baseline`",
        ),
        (["eager.json", "--no-baseline", "--update-baseline"], "--no-baseline goes with neither"),
        (["eager.json", "--config", "none.toml"], "none.toml: cannot be read"),
    ],
)
def test_wrong_usage_is_two_and_one_line(lint: Any, eager: Path, arguments: list[str], expected: str) -> None:
    ran = lint(*arguments)
    assert ran.code == 2
    assert expected in ran.err
    assert (ran.err.count("\n"), ran.out) == (1, "")


def test_an_unreadable_file_beside_readable_ones_is_two(lint: Any, clean: Path) -> None:
    Path("bad.json").write_text("{}")
    ran = lint(clean, "bad.json", "--ignore", "TQL903", "--allow-incomplete")
    assert ran.code == 2
    assert "not read: bad.json" in ran.out
    assert "Incomplete: 1 file not read." in ran.out
    ran = lint(clean, "bad.json", "--update-baseline")
    assert ran.code == 2
    assert not Path(".traceql-baseline.json").exists()


class _Crash(Rule):
    code = "TQL998"
    name = "crash"
    summary = "Crashes."
    severity = Severity.WARNING

    def check(self, trace: Any, options: Any) -> Iterator[Any]:
        raise ValueError("boom")


def test_a_crash_is_incomplete(lint: Any, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "rules", lambda: {"TQL998": _Crash})
    ran = lint(clean)
    assert ran.code == 2
    assert ran.out == (
        "incomplete: TQL998 crash crashed on clean.json: ValueError: boom\nIncomplete: 1 check could not run.\n"
    )
    ran = lint(clean, "--allow-incomplete")
    assert ran.code == 0
    assert "incomplete (allowed): TQL998" in ran.out


def test_a_rule_named_that_cannot_run_is_incomplete_a_family_is_not(lint: Any, clean: Path) -> None:
    assert lint(clean, "--select", "TQL3").code == 0
    ran = lint(clean, "--select", "TQL301")
    assert ran.code == 2
    assert "TQL301 cpu-gpu-ratio-outlier was selected by name and did not apply: no framework operators" in ran.out
    assert lint(clean, "--select", "cpu-gpu-ratio-outlier").code == 2
    assert lint(clean, "--select", "TQL301", "--allow-incomplete").code == 0


def test_what_failed_outranks_what_could_not_run(lint: Any, eager: Path) -> None:
    Path("traceql.toml").write_text("[[budgets]]\nmetric = 'step.kernels'\nkind = 'prefill'\nmax = 5\n")
    ran = lint(eager)
    assert ran.code == 1
    assert "incomplete: Budget step.kernels (prefill, median) ≤ 5 cannot be told" in ran.out
    assert lint(eager, "--fail-on", "error").code == 2


def test_budgets(lint: Any, clean: Path) -> None:
    config = Path("traceql.toml")
    config.write_text("ignore=['TQL903']\n[[budgets]]\nmetric = 'step.kernels'\nkind = 'decode'\nmax = 5\n")
    ran = lint(clean)
    assert ran.code == 0
    assert "budgets held: step.kernels (decode, median) is 5: is within ≤ 5" in ran.out
    config.write_text(config.read_text().replace("max = 5", "max = 4"))
    ran = lint(clean, "--fail-on", "error")
    assert ran.code == 1
    assert "clean.json: budget error: step.kernels (decode, median) is 5: exceeds its budget of ≤ 4." in ran.out
    config.write_text(config.read_text().replace("decode", "prefill"))
    ran = lint(clean)
    assert ran.code == 2
    assert "cannot be told: no prefill step in clean.json" in ran.out
    config.write_text("[[budgets]]\nsql = 'select nonsense from kernels'\nmax = 1\n")
    ran = lint(clean)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "budget 'select nonsense from kernels'" in ran.err


def test_the_baseline_cycle(lint: Any, eager: Path) -> None:
    ran = lint(eager, "--update-baseline")
    assert (ran.code, ran.out) == (0, "wrote .traceql-baseline.json: 3 findings\n")
    ran = lint(eager)
    assert ran.code == 0, "a re-run of unchanged code compares clean"
    assert "(baseline .traceql-baseline.json)." in ran.out
    assert lint(eager, "--no-baseline").code == 1

    Decode(host_us=64.0).write(eager)
    assert lint(eager).code == 0, "655 → 703 µs/step is within 10 %"
    Decode(host_us=70.0).write(eager)
    ran = lint(eager)
    assert ran.code == 1
    assert "TQL101 launch-gap warning [worse: 655 µs/step → 785 µs/step]" in ran.out

    Decode(between_us=0.0).write(eager)
    ran = lint(eager)
    assert ran.code == 0
    assert "fixed: TQL103 step-bubble" in ran.out
    assert "[known]" in ran.out


def test_a_new_finding_fails(lint: Any, clean: Path, eager: Path) -> None:
    lint(clean, "--update-baseline")
    ran = lint(eager)
    assert ran.code == 1
    assert ran.out.startswith("eager.json: TQL101 launch-gap warning: ")


def test_another_context_is_refused(lint: Any, eager: Path) -> None:
    lint(eager, "--update-baseline")
    Decode(gpu="NVIDIA B200").write(eager)
    ran = lint(eager)
    assert (ran.code, ran.out) == (2, "")
    assert "GPU NVIDIA B200 (was NVIDIA H200)" in ran.err
    assert lint(eager, "--update-baseline").code == 0
    assert lint(eager).code == 0


def test_a_baselined_rule_that_cannot_run_is_incomplete(lint: Any, eager: Path) -> None:
    Path("traceql.toml").write_text(LINE)
    lint(eager, "--update-baseline")
    content = json.loads(Path(".traceql-baseline.json").read_text())
    content["captures"][0]["findings"]["0123"] = {"code": "TQL201", "rule": "graph-segment-boundary", "message": "m"}
    Path(".traceql-baseline.json").write_text(json.dumps(content))
    assert lint(eager).code == 0, "TQL201 is not selected: nothing is said of it"
    ran = lint(eager, "--select", "TQL")
    assert ran.code == 2
    assert "TQL201 graph-segment-boundary is in the baseline and could not run" in ran.out


def test_the_baseline_may_be_configured(lint: Any, eager: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("traceql.toml").write_text("[baseline]\nfile = 'perf/base.json'\ntolerance-pct = 50\n")
    Path("perf").mkdir()
    ran = lint(eager)
    assert ran.code == 2
    assert "perf/base.json: there is no baseline yet" in ran.err
    assert lint(eager, "--update-baseline").code == 0
    assert Path("perf/base.json").exists()
    Decode(host_us=70.0).write(eager)
    assert lint(eager).code == 0
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    assert lint("../eager.json").code == 0, "the place is relative to the configuration file"


def test_suppressions(lint: Any, eager: Path) -> None:
    Path("traceql.toml").write_text(
        "ignore = ['TQL903']\n"
        "[[suppress]]\nrule = 'TQL101'\nreason = 'eager by design'\n"
        "[[suppress]]\nrule = 'TQL103'\nsubject = 'zzz'\nreason = 'old'\n"
    )
    ran = lint(eager, "--ignore", "TQL903")
    assert ran.code == 1
    assert "suppressed: TQL101 launch-gap: eager by design" in ran.out
    assert "TQL904 unused-suppression warning: The suppression of TQL103 subject=zzz matches no finding." in ran.out


def test_several_formats_at_once(lint: Any, eager: Path) -> None:
    ran = lint(eager, "--format", "github", "-o", "sarif=x.sarif", "--output", "junit=x.xml", "-o", "text=x.txt")
    assert ran.code == 1
    assert ran.out.startswith("::warning title=TQL101")
    assert json.loads(Path("x.sarif").read_text())["version"] == "2.1.0"
    assert Path("x.xml").read_text().startswith("<?xml")
    assert Path("x.txt").read_text().startswith("eager.json: TQL101")
    assert lint(eager, "--quiet").out == ""


def test_a_compressed_trace_and_a_directory(lint: Any) -> None:
    Path("run").mkdir()
    Decode().write(Path("run/decode.json.gz"))
    gzip.decompress(Path("run/decode.json.gz").read_bytes())
    ran = lint("run")
    assert ran.code == 1
    assert ran.out.startswith("decode.json.gz: TQL101")


def test_a_lint_is_quick(lint: Any, clean: Path) -> None:
    lint(clean)
    began = time.perf_counter()
    lint(clean)
    assert time.perf_counter() - began < 2


def test_the_first_run_names_the_command_that_writes_the_baseline(lint: Any, eager: Path) -> None:
    """The command of the README, in a repository that has no baseline: its message is the next command."""
    ran = lint(eager, "--baseline", "b.json")
    assert (ran.code, ran.out) == (2, "")
    command = ran.err.split("`")[1].split()
    assert command[:2] == ["traceql", "lint"]
    assert lint(*command[2:]).code == 0
    assert lint(eager, "--baseline", "b.json").code == 0


def test_updating_keeps_what_was_recorded_of_other_contexts(lint: Any) -> None:
    Decode(batch_size=8).write(Path("eight.json"))
    Decode(batch_size=16).write(Path("sixteen.json"))
    assert lint("eight.json", "--update-baseline").code == 0
    ran = lint("sixteen.json", "--update-baseline")
    assert ran.out == "wrote .traceql-baseline.json: 3 findings; kept 1 capture of another context\n"
    assert (lint("eight.json").code, lint("sixteen.json").code) == (0, 0)
    assert lint("eight.json", "--update-baseline").out.endswith("kept 1 capture of another context\n")
    assert len(json.loads(Path(".traceql-baseline.json").read_text())["captures"]) == 2


def pair(folder: Path, graph: Decode) -> Path:
    """A run directory of an eager and a graph capture, as the collectors leave it."""
    for mode, run in (("eager", Decode()), ("graph", graph)):
        (folder / mode).mkdir(parents=True)
        run.write(folder / mode / "decode.trace.json")
    stages = [
        {"mode": m, "profiler": "torch", "files": [{"path": f"{m}/decode.trace.json"}]} for m in ("eager", "graph")
    ]
    (folder / "manifest.json").write_text(json.dumps({"kind": "run", "stages": stages}))
    return folder


def test_a_lost_graph_in_a_pair_is_not_taken_for_the_eager_run(lint: Any) -> None:
    graph = Decode(graph=True)
    assert lint(pair(Path("base"), graph), "--update-baseline").code == 0
    assert lint(pair(Path("same"), graph)).code == 0
    ran = lint(pair(Path("lost"), Decode()))
    assert ran.code == 1
    assert "graph/decode.trace.json: TQL101 launch-gap warning [worse: " in ran.out


def test_names_from_an_eager_run(lint: Any) -> None:
    names = {"gemm_qkv": 30.0, "attention_kernel": 12.0, "rms_norm": 4.0}
    Decode(layer=names).write(Path("eager.json"))
    Decode(layer=names, graph=True).write(Path("graph.json"))
    ran = lint("graph.json", "--eager", "eager.json", "--fail-on", "error")
    assert ran.code == 0
    assert "52 of 52 replayed-step kernels (100 % of their time) named by eager.json" in ran.err
    assert lint("graph.json", "--eager", "eager.json", "--update-baseline").code == 0
    refused = lint("graph.json")
    assert refused.code == 2
    assert "eager run to name the replays by (--eager) not given (was given)" in refused.err
    lost = lint("eager.json", "--eager", "eager.json")
    assert lost.code == 1, "without its graph the run is judged as it is, not refused"
    assert "replays no CUDA graph" in lost.err


@pytest.mark.parametrize("what", ["GPU", "batch size", "world size (TP)", "profiler"])
def test_another_context_is_refused_by_name(lint: Any, eager: Path, what: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "GPU": {"gpu": "NVIDIA H100 80GB HBM3"}, "batch size": {"batch_size": 16}, "world size (TP)": {"world_size": 2},
    }  # fmt: skip
    assert lint(eager, "--update-baseline").code == 0
    other = samples.path("nsys-h200-mini-decode-piecewise-node")
    if what != "profiler":
        other = Decode(**changes[what]).write(Path("other.json"))
    ran = lint(other)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert f"{what} " in ran.err
    assert "(was " in ran.err

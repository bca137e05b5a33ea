"""Lint output for other programs: valid by their schemas, with odd characters in every text."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import sarif_schema
from small_traces import Decode

from traceql.engine import Outcome
from traceql.finding import Finding, Severity
from traceql.gate.baseline import Entry
from traceql.gate.budgets import Budget, Checked
from traceql.gate.formats import LINT_RENDERERS
from traceql.gate.github import command
from traceql.gate.lint import Judged, LintResult
from traceql.opening import open_trace
from traceql.reporting import Report
from traceql.suppressions import Suppressed, Suppression
from traceql.trace import Trace

ODD = '50 % of <T> & "x", a::b|c\r\n\x1b[31m ]]> `q` \u202e é \x00'
LINT_SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "lint.schema.json").read_text())


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    opened = open_trace(Decode().write(tmp_path_factory.mktemp("formats") / "odd name, 50%:x.json"))
    assert isinstance(opened, Trace)
    return opened


def finding(code: str, rule: str, severity: Severity, message: str = ODD, **more: Any) -> Finding:
    evidence = {"launch_gap_us_per_step": 120.0}
    return Finding(code, rule, severity, message, evidence=evidence, advice=(ODD,), fingerprint="ab12", **more)


@pytest.fixture
def result(trace: Trace) -> LintResult:
    """One of everything."""
    worse = finding("TQL101", "launch-gap", Severity.ERROR, subject=ODD, step_id=1, start_ns=5, source_time_s=0.1)
    new = finding("TQL103", "step-bubble", Severity.WARNING, estimated_savings_us_per_step=3.5)
    known = finding("TQL104", "synchronizing-call", Severity.INFO)
    hidden = finding("TQL105", "blocking-memcpy", Severity.WARNING)
    outcomes = (
        Outcome("TQL101", "launch-gap", "failed", None, (worse,), seconds=0.25),
        Outcome("TQL102", "launch-bound-step", "not_applicable", ODD),
        Outcome("TQL103", "step-bubble", "failed", None, (new,)),
        Outcome("TQL104", "synchronizing-call", "failed", None, (known,)),
        Outcome("TQL105", "blocking-memcpy", "passed", "1 suppressed"),
        Outcome("TQL106", "tiny-kernels", "error", ODD, traceback=ODD),
    )
    suppression = Suppression(rule="TQL105", reason=ODD, expires=date(2027, 1, 31))
    before = Entry("TQL101", "launch-gap", "m", None, 100.0, "us_per_step")
    report = Report((trace,), (outcomes,), (f"bad.json: {ODD}",), (Suppressed(hidden, suppression),))
    budgets = (
        Checked(Budget(metric="step.kernels", kind="decode", max=4), "exceeded", 5.0, 0),
        Checked(Budget(sql="select 1", max=4), "within", 1.0, 0),
        Checked(Budget(metric="step.gpu_busy_ns", max=4), "unknown", reason=ODD),
    )
    judged = (
        Judged(worse, "worse", True, before),
        Judged(new, "new", True),
        Judged(known, "known", False, before),
    )
    return LintResult(
        report, judged, budgets, (Entry("TQL107", "launch-queue-full", ODD),), (f"TQL106 crashed: {ODD}",),
        Severity.WARNING, configuration=Path("traceql.toml"), baseline=Path("base.json"),
    )  # fmt: skip


def calm(result: LintResult) -> LintResult:
    """The same trace with nothing to say."""
    report = Report(result.report.traces, ((Outcome("TQL101", "launch-gap", "passed"),),))
    return LintResult(report, (), (), (), (), Severity.WARNING)


@pytest.mark.parametrize("format_", LINT_RENDERERS)
def test_output_is_whole_lines_without_control_characters(result: LintResult, format_: str) -> None:
    for each in (result, calm(result)):
        text = LINT_RENDERERS[format_](each)
        assert text.endswith("\n") or (format_ == "github" and not text)
        if format_ != "json":  # a parser gives the texts back as they were
            assert not set(text) & {"\x00", "\x1b", "\u202e", "\r"}


def test_sarif_is_valid(result: LintResult) -> None:
    for each in (result, calm(result)):
        log = json.loads(LINT_RENDERERS["sarif"](each))
        checker = jsonschema.Draft202012Validator(sarif_schema.SCHEMA, format_checker=jsonschema.FormatChecker())
        assert [f"{list(e.absolute_path)}: {e.message}" for e in checker.iter_errors(log)] == []
        (run,) = log["runs"]
        rules = run["tool"]["driver"]["rules"]
        for entry in run["results"]:
            assert rules[entry["ruleIndex"]]["id"] == entry["ruleId"]
            place = entry["locations"][0]["physicalLocation"]["artifactLocation"]
            assert run["artifacts"][place["index"]]["location"]["uri"] == place["uri"]


@pytest.mark.skipif(
    "TRACEQL_SARIF_SCHEMA" not in os.environ,
    reason="set TRACEQL_SARIF_SCHEMA to OASIS's schema (in the npm package @microsoft/jest-sarif: lib/schemas)",
)
def test_sarif_is_valid_by_the_official_schema(result: LintResult) -> None:
    schema = json.loads(Path(os.environ["TRACEQL_SARIF_SCHEMA"]).read_text())
    checker = jsonschema.validators.validator_for(schema)(schema, format_checker=jsonschema.FormatChecker())
    for each in (result, calm(result)):
        found = checker.iter_errors(json.loads(LINT_RENDERERS["sarif"](each)))
        assert [f"{list(error.absolute_path)}: {error.message}" for error in found] == []


def test_sarif_says_what_lint_says(result: LintResult) -> None:
    (run,) = json.loads(LINT_RENDERERS["sarif"](result))["runs"]
    said = [(r["ruleId"], r["level"], r.get("baselineState"), "suppressions" in r) for r in run["results"]]
    assert said == [
        ("TQL101", "error", "updated", False),
        ("TQL103", "warning", "new", False),
        ("TQL104", "note", "unchanged", False),
        ("TQL105", "warning", None, True),
        ("budget", "error", None, False),
    ]
    assert run["artifacts"][0]["location"]["uri"] == "odd%20name%2C%2050%25%3Ax.json"
    assert (run["invocations"][0]["executionSuccessful"], run["invocations"][0]["exitCode"]) == (False, 2)
    assert len(run["invocations"][0]["toolExecutionNotifications"]) == 2
    without = dataclasses.replace(result, baseline=None)
    assert "baselineState" not in LINT_RENDERERS["sarif"](without)


def test_sarif_paths_are_relative_to_the_working_directory(
    result: LintResult, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trace.path.parent.parent)
    (run,) = json.loads(LINT_RENDERERS["sarif"](result))["runs"]
    assert run["artifacts"][0]["location"]["uri"] == f"{trace.path.parent.name}/odd%20name%2C%2050%25%3Ax.json"


def test_json_is_valid(result: LintResult) -> None:
    for each in (result, calm(result)):
        document = json.loads(LINT_RENDERERS["json"](each))
        jsonschema.validate(document["lint"], LINT_SCHEMA, format_checker=jsonschema.FormatChecker())
        assert document["schema"] == 1
        assert [f["fingerprint"] for f in document["lint"]["findings"]] == [
            f["fingerprint"] for f in document["findings"]
        ]
    (worse, *_) = json.loads(LINT_RENDERERS["json"](result))["lint"]["findings"]
    assert (worse["status"], worse["magnitude"], worse["magnitude_before"]) == ("worse", 120.0, 100.0)


CHILDREN = {
    "testsuites": {"testsuite"}, "testsuite": {"testcase"}, "testcase": {"failure", "error", "skipped", "system-out"},
    "failure": set(), "error": set(), "skipped": set(), "system-out": set(),
}  # fmt: skip
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"}, "error": {"message"}, "skipped": {"message"}, "system-out": set(),
}  # fmt: skip


def test_junit_has_the_elements_that_readers_know(result: LintResult) -> None:
    """As the schema of Jenkins' JUnit reader has them."""
    for each in (result, calm(result)):
        root = ElementTree.fromstring(LINT_RENDERERS["junit"](each).encode())
        for element in root.iter():
            assert {child.tag for child in element} <= CHILDREN[element.tag]
            assert set(element.attrib) == ATTRIBUTES[element.tag]
        for element in (root, *root):
            cases = list(element.iter("testcase"))
            assert int(element.attrib["tests"]) == len(cases)
            assert int(element.attrib["failures"]) == sum(c.find("failure") is not None for c in cases)
            assert int(element.attrib["errors"]) == sum(c.find("error") is not None for c in cases)
            assert float(element.attrib["time"]) == pytest.approx(sum(float(c.attrib["time"]) for c in cases))


def test_another_reader_counts_what_junit_states(result: LintResult, tmp_path: Path) -> None:
    junitparser = pytest.importorskip("junitparser")
    for each in (result, calm(result)):
        (tmp_path / "x.xml").write_text(LINT_RENDERERS["junit"](each))
        read = junitparser.JUnitXml.fromfile(str(tmp_path / "x.xml"))
        stated = (read.tests, read.failures, read.errors)
        read.update_statistics()
        assert (read.tests, read.failures, read.errors) == stated
        assert stated[1] == len({j.finding.code for j in each.failing}) + len(each.exceeded)


def test_junit_says_what_lint_says(result: LintResult) -> None:
    root = ElementTree.fromstring(LINT_RENDERERS["junit"](result).encode())
    said = {case.attrib["name"]: [child.tag for child in case] for case in root.iter("testcase")}
    assert said == {
        "TQL101 launch-gap": ["failure"], "TQL102 launch-bound-step": ["skipped"], "TQL103 step-bubble": ["failure"],
        "TQL104 synchronizing-call": ["system-out"], "TQL105 blocking-memcpy": [], "TQL106 tiny-kernels": ["error"],
        "step.kernels (decode, median) ≤ 4": ["failure"], "select 1 ≤ 4": [], "step.gpu_busy_ns (median) ≤ 4": ["skipped"],
        "bad.json": ["error"], "TQL106 crashed": ["error"],
    }  # fmt: skip
    (failure, *_) = root.iter("failure")
    assert failure.text is not None
    assert failure.text.startswith('error [worse: 100 µs/step → 120 µs/step]: 50 % of <T> & "x"')


def test_github_commands(result: LintResult) -> None:
    lines = LINT_RENDERERS["github"](result).splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == [
        "::error", "::error", "::error", "::error", "::warning", "::notice", "::notice",
    ]  # fmt: skip
    worse = lines[3]
    assert worse.startswith(
        "::error title=TQL101 launch-gap (worse%3A 100 µs/step → 120 µs/step)%2C odd name%2C 50%25%3Ax.json::50 %25 of"
    )
    assert LINT_RENDERERS["github"](calm(result)) == ""
    allowed = dataclasses.replace(
        result, allow_incomplete=True, report=dataclasses.replace(result.report, unreadable=())
    )
    assert LINT_RENDERERS["github"](allowed).splitlines()[1].startswith("::notice title=traceql could not check")


def test_github_escaping() -> None:
    assert command("error", "a:b,c%\r\n", "x:y,z%\r\nw") == "::error title=a%3Ab%2Cc%25%0D%0A::x:y,z%25%0D%0Aw"


def test_markdown(result: LintResult) -> None:
    text = LINT_RENDERERS["markdown"](result)
    assert text.startswith(
        "### traceql: Incomplete: 2 findings at or over warning, 1 budget exceeded, 1 file not read,"
    )
    assert "- **launch-gap** (TQL101, error, worse: 100 µs/step → 120 µs/step): 50 % of \\<T\\> &amp;" in text
    assert "| `step.kernels (decode, median)` | ≤ 4 | 5 | **exceeded** |" in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert LINT_RENDERERS["markdown"](calm(result)).startswith("### traceql: Clean.\n")


def test_text(result: LintResult) -> None:
    text = LINT_RENDERERS["text"](result)
    assert "odd name, 50%:x.json: TQL101 launch-gap error [worse: 100 µs/step → 120 µs/step]: " in text
    assert text.splitlines()[-1] == (
        "Incomplete: 2 findings at or over warning, 1 budget exceeded, 1 file not read, 1 check could not run, "
        "1 other finding that does not fail (configuration traceql.toml, baseline base.json)."
    )

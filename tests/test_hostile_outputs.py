"""Names nobody would choose, in every field that comes from outside, in every form traceql writes: parsed back, without
control characters, without commands or markup of their own, of bounded length."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import polars as pl
import pytest
import sarif_schema
from commands import traceql
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report.made import finding, report_of
from small_traces import Decode

import traceql as tq
from traceql import perfetto
from traceql.engine import Outcome
from traceql.finding import Finding, Severity
from traceql.gate.baseline import Entry
from traceql.gate.budgets import Budget, Checked
from traceql.gate.formats import LINT_RENDERERS
from traceql.gate.lint import Judged, LintResult
from traceql.opening import open_trace
from traceql.report.names import LONGEST
from traceql.reporting import Report
from traceql.suppressions import Suppressed, Suppression
from traceql.testing import TraceBuilder
from traceql.trace import Trace

BITS = [
    "\x1b[31m", "\x1b]0;title\x07", "\x9b31m", "\n", "\r\n", "\n::error title=x::owned", "::error::owned", " ::warning::x", "##[error]x", "::set-output name=a::b",
    "%0A::error::owned", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "]]>", "&lt;", '"', "'", "`", "```",
    "\x00", "\x08", "\x7f", "\u202etxt.exe", "\u2066", "\u200b", "\u2028", "\ufeff", "שלום", "|", "\t", "\\", "${{ github.token }}", "{{7*7}}",
    "[a](javascript:alert(1))", "![x](http://x/y.png)", "# title", "- item", "@user", "=1+1", ",", ";", "\ufffe", "é", "🙂", "x" * 200, "kernel_1",
]  # fmt: skip
LONE = ["\ud800", "\udfff", "\udcff"]
NAMES = st.lists(st.sampled_from(BITS), min_size=1, max_size=6).map("".join)
ANY_NAMES = st.lists(st.sampled_from([*BITS, *LONE]), min_size=1, max_size=6).map("".join)
HUGE = "".join(BITS) * 220  # over 100 kB
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028\u2029\u202a-\u202e\u2060-\u2065\u2066\u2067\ufeff\ud800-\udfff]"
)
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    opened = open_trace(Decode().write(tmp_path_factory.mktemp("plain") / "t.json"))
    assert isinstance(opened, Trace)
    return opened


def file_name(name: str) -> str:
    """``name`` as a file may be called: any bytes but two."""
    return os.fsdecode(name.encode("utf-8", "surrogatepass")[:90].replace(b"/", b"-").replace(b"\0", b"-"))


def lint_result(trace: Trace, name: str) -> LintResult:
    """A gate's result with ``name`` wherever a text from outside may stand."""
    named = dataclasses.replace(trace, path=Path("runs") / file_name(name))

    def problem(code: str, rule: str, severity: Severity) -> Finding:
        evidence = {"kernel": name, "rows": [{"kernel": name, "gap_us": 1.0}], "launch_gap_us_per_step": 1.0}
        return Finding(
            code, rule, severity, f"{name} is late", subject=name, evidence=evidence, advice=(name, f"`{name}`"), fingerprint="ab12"
        )  # fmt: skip

    bad, mild, hidden = (
        problem("TQL101", "launch-gap", Severity.ERROR),
        problem("TQL103", "step-bubble", Severity.INFO),
        problem("TQL105", "blocking-memcpy", Severity.WARNING),
    )
    outcomes = (
        Outcome("TQL101", "launch-gap", "failed", None, (bad,)),
        Outcome("TQL103", "step-bubble", "failed", None, (mild,)),
        Outcome("TQL102", "launch-bound-step", "not_applicable", name),
        Outcome("TQL105", "blocking-memcpy", "passed", name),
        Outcome("TQL106", "tiny-kernels", "error", name, traceback=name),
    )
    suppressed = (Suppressed(hidden, Suppression(rule="TQL105", reason=name or "x")),)
    budgets = (
        Checked(Budget(sql=name or "x", max=4), "exceeded", 5.0, 0),
        Checked(Budget(metric="step.kernels", max=4), "unknown", reason=name),
    )
    before = Entry("TQL101", "launch-gap", name, name, 100.0, "us_per_step")
    return LintResult(
        Report((named,), (outcomes,), (f"{name}: not read",), suppressed),
        (Judged(bad, "worse", True, before), Judged(mild, "new", False)), budgets, (Entry("TQL107", "launch-queue-full", name),),
        (f"{name}: not checked",), Severity.WARNING, configuration=Path(file_name(name)), baseline=Path("b.json"),
    )  # fmt: skip


def printable(text: str) -> None:
    text.encode()
    found = HIDDEN.search(text)
    assert found is None, (found, text[max(0, found.start() - 40) : found.end() + 40])


def hold_lint_forms(result: LintResult) -> None:
    forms = {form: render(result) for form, render in LINT_RENDERERS.items()}
    for text in forms.values():
        printable(text)
    jsonschema.validate(json.loads(forms["sarif"]), sarif_schema.SCHEMA)
    json.loads(forms["json"])
    (suite, *_) = ElementTree.fromstring(forms["junit"]).iter("testsuite")
    assert len(suite.findall("testcase")) == 5
    hold_annotations(forms["github"])
    hold_markdown(forms["markdown"])
    lines = forms["text"].splitlines()
    hold_log(forms["text"])
    assert max(map(len, lines)) < 3 * LONGEST


def hold_log(text: str) -> None:
    """No line a build's runner would act upon."""
    assert not re.search(r"^\s*::|##\[", text, re.MULTILINE)


COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")


def hold_annotations(text: str) -> None:
    """One command a line, of the runner's three levels, none begun by a name."""
    lines = text.removesuffix("\n").split("\n")
    for line in lines:
        found = COMMAND.fullmatch(line)
        assert found is not None, line
        assert len(found[3]) < 12 * LONGEST
    assert len(lines) == 6, lines


def hold_markdown(text: str) -> None:
    """No HTML but the report's own, no links, no headings, tables of as many cells as their heads."""
    outside = re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    own = re.sub(r"</?(details|summary)>", "", outside)
    assert not re.search(r"(?<!\\)<(?=[a-zA-Z!/])", own), own[:400]
    assert not re.search(r"(?<!\\)\]\(", own)
    assert len(re.findall(r"^#", text, re.MULTILINE)) <= 1 or "traceql" in text
    width = 0
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


@settings(max_examples=20, deadline=None, suppress_health_check=CHECKS)
@given(name=ANY_NAMES)
def test_lint_forms(plain: Trace, name: str) -> None:
    hold_lint_forms(lint_result(plain, name))


def test_lint_forms_of_a_name_of_a_hundred_kilobytes(plain: Trace) -> None:
    result = lint_result(plain, HUGE)
    assert len(HUGE) > 100_000
    hold_lint_forms(result)
    for form, render in LINT_RENDERERS.items():
        if form not in ("json", "sarif"):
            assert len(render(result)) < 100 * LONGEST, form


# --- reports of a whole trace --------------------------------------------------------------------------------------------


def hostile_file(folder: Path, name: str) -> Path:
    """A decode whose kernels, operators, ranges, processes and Python frames are called ``name``."""
    document = json.loads(
        Decode(layers=3, steps=3, layer={"a": 30.0, "b": 9.0}).write(folder / "plain.json").read_text()
    )
    for event in document["traceEvents"]:
        if event.get("cat") in ("kernel", "cpu_op", "python_function", "overhead"):
            event["name"] = f"{name}{event['name']}"
    place = {"ph": "X", "pid": 100, "tid": 100}
    document["traceEvents"] += [
        {**place, "cat": "user_annotation", "name": name, "ts": 1001, "dur": 40, "args": {}},
        {**place, "cat": "python_function", "name": name, "ts": 1002, "dur": 30, "args": {"Python id": 1}},
        {**place, "cat": "cpu_op", "name": f"aten::{name}", "ts": 1003, "dur": 20, "args": {"Input type": [name], "Input Dims": [[name]]}},
        {"ph": "M", "name": "process_name", "pid": 100, "tid": 0, "ts": 0, "args": {"name": name}},
    ]  # fmt: skip
    document |= {
        "host_name": name,
        "deviceProperties": [{"id": 0, "name": name, "numSms": 132}],
        "distributedInfo": {"backend": name, "rank": 0},
    }
    label = re.sub(r"[/\x00]", "∕", name.encode("utf-8", "replace").decode())[:40]
    path = folder / f"{label}.json"
    path.write_text(json.dumps(document))
    return path


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.seen += [f"{tag}.{name}" for name, _ in attrs if name.startswith("on")]
        self.seen += [
            f"{tag}.{name}={value}"
            for name, value in attrs
            if value and "javascript:" in value.lower() and name in ("href", "src")
        ]


def tags(page: str) -> list[str]:
    parser = _Tags()
    parser.feed(page)
    return parser.seen


def hold_page(page: str, scripts: int) -> None:
    """No element, handler or link of a name; the data in it is JSON."""
    page.encode()
    found = tags(page)
    assert not [tag for tag in found if tag == "img" or "." in tag]
    assert found.count("script") == scripts
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S):
        json.loads(block)
    visible = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066\u2067]", visible)


def hold_reports(path: Path, scripts: int) -> None:
    trace = open_trace(path)
    report = tq.analyze(trace)
    assert not [o.traceback for o in report.rules if o.outcome == "error"]
    for form in ("text", "json", "markdown"):
        printable(report.render(form))
    hold_log(report.render("text"))
    json.loads(report.render("json"))
    hold_markdown(report.render("markdown"))
    hold_page(report.render("html"), scripts)
    for fragment in (report, trace, *report.found[:2]):
        markup = fragment._repr_html_()
        assert tags(markup).count("script") == 0 and "img" not in tags(markup)
        printable(re.sub(r"<style>.*?</style>", "", markup, flags=re.S))
    events = json.loads(gzip.decompress(perfetto.cut(trace)))["traceEvents"]
    names = {event["name"] for event in events}
    printable(f"{report!r} {trace!r}")
    assert set(trace.table("kernels")["name"].unique()) <= names


@pytest.fixture(scope="module")
def scripts() -> int:
    """Script elements of a page whose names are harmless."""
    build = TraceBuilder()
    build.range("step[DECODE bs=8]", 0, 900)
    build.launch("gemm_kernel", call_us=10, gpu_us=20, gpu_dur_us=100)
    return tags(report_of(build.trace(), findings=(finding("late", start_ns=0),)).render("html")).count("script")


@settings(max_examples=6, deadline=None, suppress_health_check=CHECKS)
@given(name=ANY_NAMES)
def test_reports(name: str, scripts: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    hold_reports(hostile_file(tmp_path_factory.mktemp("named"), name), scripts)


def test_reports_of_all_of_it_at_once(tmp_path: Path, scripts: int) -> None:
    path = hostile_file(tmp_path, HUGE)
    hold_reports(path, scripts)
    report = tq.analyze(open_trace(path))
    for form in ("text", "markdown"):
        assert len(report.render(form)) < 100 * LONGEST


@pytest.mark.parametrize("name", ["".join(BITS[:12]), "".join(BITS[12:]), HUGE])
def test_comparisons(name: str, tmp_path: Path) -> None:
    from traceql.comparison.formats import RENDERERS
    from traceql.comparison.runs import compare_paths

    base, head = (tmp_path / side for side in ("base", "head"))
    base.mkdir()
    head.mkdir()
    comparison = compare_paths(hostile_file(base, name), hostile_file(head, f"{name}2"))
    for form, render in RENDERERS.items():
        text = render(comparison)
        if form == "html":
            assert not [tag for tag in tags(text) if tag == "img" or "." in tag]
        else:
            printable(text)
    json.loads(RENDERERS["json"](comparison))
    hold_markdown(RENDERERS["markdown"](comparison))


@pytest.mark.parametrize("name", ["".join(BITS[:12]), "".join(BITS[12:]).replace("\ufffe", "")])
def test_queries(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What goes to a terminal is made visible; CSV and JSON give the names back as they are."""
    path = hostile_file(tmp_path, name)
    names = open_trace(path).loaded["kernels"]["name"].to_list()
    ran = {
        form: traceql(capsys, "query", path, "select name from kernels", "--format", form)
        for form in ("table", "csv", "json")
    }
    assert all(each.code == 0 for each in ran.values())
    printable(ran["table"].out)
    assert [row[0] for row in csv.reader(io.StringIO(ran["csv"].out, newline=""))][1:] == names
    assert pl.read_json(io.BytesIO(ran["json"].out.encode()))["name"].to_list() == names


def test_files_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are no UTF-8, line breaks and workflow commands in the file's name; a name that no file can have."""
    name = os.fsdecode(b"a\xff\x1b[31m\n::error::x.json")
    plain = Decode().write(tmp_path / "plain.json").read_bytes()
    (tmp_path / name).write_bytes(plain)
    for form in ("text", "json", "sarif", "junit", "github", "markdown"):
        ran = traceql(capsys, "lint", tmp_path / name, "--format", form)
        assert ran.code in (0, 1)
        printable(ran.out + ran.err)
        assert not re.search(r"^::error::x", ran.out, re.MULTILINE)
    (tmp_path / name).write_bytes(b"{")
    for path in (tmp_path / name, tmp_path / ("x" * 5000)):
        ran = traceql(capsys, "analyze", path)
        assert ran.code == 2 and ran.err.count("\n") == 1 and len(ran.err) < 1000
        printable(ran.err)

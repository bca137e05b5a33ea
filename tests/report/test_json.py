"""The JSON output against its published schema."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from report.made import finding, opaque_trace, report_of, small_report, small_trace

from traceql import samples
from traceql.reporting import Report, analyze
from traceql.testing import TraceBuilder

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))


def _valid(report: Report) -> dict[str, object]:
    document = json.loads(report.render("json"))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert isinstance(document, dict)
    return document


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", sorted(samples.samples()))
def test_samples_conform(name: str) -> None:
    _valid(analyze(samples.folder() / samples.samples()[name].file))


def test_hand_made_reports_conform() -> None:
    _valid(small_report())
    _valid(report_of(opaque_trace(), findings=()))
    _valid(report_of(TraceBuilder(gpu=None).trace(), findings=()))


def test_same_input_same_bytes() -> None:
    assert small_report().render("json") == small_report().render("json")
    assert small_report().render("html") == small_report().render("html")


def test_several_traces_carry_their_own_metrics() -> None:
    document = _valid(report_of(small_trace("a/run.json", rank=0), small_trace("b/run.json", rank=1), findings=()))
    assert [t["path"] for t in document["traces"]] == ["a/run.json", "b/run.json"]  # type: ignore[attr-defined, index]
    assert all("metrics" in t for t in document["traces"])  # type: ignore[attr-defined]
    assert sorted(document["metrics"]["gpus"]) == ["0/0", "1/0"]  # type: ignore[index, call-overload]


def test_what_is_not_finite_is_null() -> None:
    document = _valid(
        report_of(small_trace(), findings=(finding(evidence={"a_us": math.nan, "b": [{"c_pct": math.inf}]}),))
    )
    (found,) = document["findings"]  # type: ignore[misc]
    assert found["evidence"] == {"a_us": None, "b": [{"c_pct": None}]}


def test_only_file_names_leave_the_machine() -> None:
    report = report_of(small_trace("/home/somebody/secret/small.json"), findings=())
    for format in ("json", "html", "text", "markdown"):
        assert "somebody" not in report.render(format)

"""Every rule against its YAML cases: tests/cases/<CODE>/*.yml, each a small trace and what the rule must say of it.

``traces`` in place of ``trace`` holds the ranks of a job or several runs, each in its place of ``folders``; ``files`` are
written beside the traces: a manifest, a log. ``rows`` are those of a table in the evidence, all of them, each with the columns
to look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from cases import CASES, FILES, outcomes

from traceql import engine, registry
from traceql.suppressions import Suppression


def _close(actual: Any, expected: Any) -> bool:
    if isinstance(expected, float) or (isinstance(expected, int) and isinstance(actual, float)):
        return actual == pytest.approx(expected, rel=1e-3)
    return bool(actual == expected)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_case(path: Path, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    rule = registry.rules()[path.parent.name]
    suppress = msgspec.convert(case.get("suppress", []), list[Suppression])
    selection = engine.Selection([rule], options={rule.code: case.get("options", {})}, suppressions=suppress)
    ((outcome,),) = outcomes(case, tmp_path, selection)
    assert outcome.traceback is None, outcome.traceback
    assert outcome.outcome == case["outcome"], (outcome.reason, [f.message for f in outcome.findings])
    assert case.get("reason", "") in (outcome.reason or "")
    expected = case.get("findings", [])
    if expected:
        assert len(outcome.findings) == len(expected), [f.message for f in outcome.findings]
    for finding, wanted in zip(outcome.findings, expected, strict=False):
        for text in wanted.get("message", []):
            assert text in finding.message
        assert wanted.get("subject", finding.subject) == finding.subject
        assert wanted.get("step_id", finding.step_id) == finding.step_id
        assert wanted.get("severity", finding.severity.label) == finding.severity.label
        if "savings_us_per_step" in wanted:
            assert _close(finding.estimated_savings_us_per_step, wanted["savings_us_per_step"])
        for key, value in wanted.get("evidence", {}).items():
            assert _close(finding.evidence[key], value), (key, finding.evidence[key], value)
        for table, rows in wanted.get("rows", {}).items():
            for row, cells in zip(finding.evidence[table], rows, strict=True):
                for column, value in cells.items():
                    assert _close(row[column], value), (table, column, row[column], value)


@pytest.mark.parametrize("code", registry.rules())
def test_every_rule_has_pass_fail_and_not_applicable_cases(code: str) -> None:
    found = {yaml.safe_load(p.read_text())["outcome"] for p in (CASES / code).glob("*.yml")}
    rule = registry.rules()[code]
    wanted = {"passed", "failed", "not_applicable"} if rule.needs else {"passed", "failed"}
    assert wanted <= found, f"{code} lacks cases for: {', '.join(sorted(wanted - found))}"


def test_cases_belong_to_rules() -> None:
    assert {p.parent.name for p in FILES} <= set(registry.rules())

"""Suppressions: what they hide, what they must not hide, and TQL904, which reports those that hide nothing."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from traceql import suppressions
from traceql.engine import Outcome, Selection
from traceql.finding import Finding, Severity
from traceql.registry import resolve
from traceql.reporting import analyze
from traceql.suppressions import Suppression
from traceql.testing import TraceBuilder

TODAY = date(2026, 6, 1)


def finding(code: str = "TQL101", subject: str | None = "aten::linear", **evidence: Any) -> Finding:
    (rule,) = resolve(code)
    return Finding(
        code, rule.name, Severity.WARNING, "text", subject=subject, evidence=evidence, fingerprint=str(subject)
    )


def suppression(rule: str = "TQL101", **given: Any) -> Suppression:
    return Suppression(rule=rule, reason="known", **given)


@pytest.mark.parametrize(
    ("given", "matches"),
    [
        ({}, True),
        ({"rule": "launch-gap"}, True),
        ({"rule": "TQL1"}, True),
        ({"rule": "TQL102"}, False),
        ({"subject": "aten::*"}, True),
        ({"subject": "ATEN::*"}, False),
        ({"op": "aten::lin?ar"}, True),
        ({"kernel": "gemm*"}, False),
        ({"subject": "aten::*", "kernel": "gemm*"}, False),
    ],
)
def test_rule_and_globs(given: dict[str, str], matches: bool) -> None:
    assert suppression(**given).matches(finding()) is matches


def test_a_finding_that_lists_other_kernels_as_well_stays() -> None:
    rows = [{"kernel": "lm_head_gemm", "us": 3}, {"kernel": "qkv_gemm", "us": 4}]
    both, one = finding("TQL401", gemms=rows), finding("TQL401", gemms=rows[:1])
    assert not suppression("TQL401", kernel="lm_head*").matches(both)
    assert suppression("TQL401", kernel="lm_head*").matches(one)
    assert suppression("TQL401", kernel="*_gemm").matches(both)


def outcome(*findings: Finding, code: str = "TQL101", verdict: Any = None) -> Outcome:
    (rule,) = resolve(code)
    return Outcome(code, rule.name, verdict or ("failed" if findings else "passed"), None, findings)


def applied(outcomes: list[Outcome], *given: Suppression) -> tuple[dict[str, Outcome], list[str], list[str]]:
    """Outcomes by code, subjects of what was hidden, messages of TQL904."""
    selection = Selection([r for o in outcomes for r in resolve(o.code)], suppressions=given)
    ((*kept,),), hidden = suppressions.applied((tuple(outcomes),), selection, TODAY)
    by_code = {o.code: o for o in kept}
    about = [f.message for f in by_code["TQL904"].findings] if "TQL904" in by_code else []
    return by_code, [str(h.finding.subject) for h in hidden], about


def test_hidden_findings_leave_their_outcome() -> None:
    first, second = finding(subject="a"), finding(subject="b")
    kept, hidden, _ = applied([outcome(first, second)], suppression(subject="a"))
    assert (kept["TQL101"].outcome, kept["TQL101"].findings, hidden) == ("failed", (second,), ["a"])
    kept, hidden, _ = applied([outcome(first, second)], suppression())
    assert (kept["TQL101"].outcome, kept["TQL101"].reason, hidden) == ("passed", "2 suppressed", ["a", "b"])


def test_an_expired_one_hides_nothing_and_is_reported() -> None:
    states = []
    for day in (TODAY - timedelta(days=1), TODAY, None):
        kept, hidden, about = applied([outcome(finding()), outcome(code="TQL904")], suppression(expires=day))
        states.append((kept["TQL101"].outcome, len(hidden), about))
    assert states == [
        ("failed", 0, ["The suppression of TQL101 expired on 2026-05-31 and hides nothing any more."]),
        ("passed", 1, []),
        ("passed", 1, []),
    ]


def test_an_unused_one_is_reported_where_its_rule_ran() -> None:
    unused = suppression(subject="zzz")
    assert applied([outcome(finding()), outcome(code="TQL904")], unused)[2] == [
        "The suppression of TQL101 subject=zzz matches no finding."
    ]
    assert applied([outcome(code="TQL904")], unused)[2] == []
    assert applied([outcome(verdict="not_applicable"), outcome(code="TQL904")], unused)[2] == []
    assert applied([outcome(finding())], unused)[2] == [], "TQL904 was not selected"


def test_used_in_one_rank_is_used() -> None:
    selection = Selection([*resolve("TQL101"), *resolve("TQL904")], suppressions=[suppression(subject="a")])
    ranks = ((outcome(), outcome(code="TQL904")), (outcome(finding(subject="a")), outcome(code="TQL904")))
    kept, hidden = suppressions.applied(ranks, selection, TODAY)
    assert len(hidden) == 1
    assert [o.outcome for each in kept for o in each] == ["passed"] * 4


def test_severity_of_the_rule_about_suppressions_can_be_set() -> None:
    selection = Selection(
        [*resolve("TQL101"), *resolve("TQL904")],
        severities={"TQL904": Severity.ERROR},
        suppressions=[suppression(subject="zzz")],
    )
    build = TraceBuilder()
    for step in range(3):
        start = step * 100
        build.range("step[DECODE bs=8]", start, 50)
        build.launch("gemm", call_us=start + 2, gpu_us=start + 8, gpu_dur_us=90)
    (found,) = [f for f in analyze(build.trace(), selection=selection).found if f.code == "TQL904"]
    assert found.severity is Severity.ERROR

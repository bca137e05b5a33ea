"""Warp stall reasons: names in counters and labels, and the documentation's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from traceql.stalls import markdown_table, reasons, stall_advice, stall_reason

DOCS = Path(__file__).parent.parent / "docs"
NSIGHT_REASONS = """
    barrier branch_resolving dispatch_stall drain gmma imc_miss lg_throttle long_scoreboard math_pipe_throttle
    membar mio_throttle misc no_instruction not_selected selected short_scoreboard sleeping tex_throttle wait
"""


def test_every_reason_of_a_full_report_has_advice() -> None:
    for reason in NSIGHT_REASONS.split():
        advice = stall_advice(f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio")
        assert advice is not None, reason
        assert advice.reason == reason
        assert advice.means
        assert advice.action
    assert len(reasons()) == len(NSIGHT_REASONS.split())


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("smsp__average_warps_issue_stalled_wait_per_issue_active.ratio", "wait"),
        ("smsp__average_warp_latency_issue_stalled_long_scoreboard.ratio", "long_scoreboard"),
        ("smsp__warp_issue_stalled_barrier_per_warp_active.pct", "barrier"),
        ("smsp__pcsamp_warps_issue_stalled_no_instructions", "no_instruction"),
        ("smsp__pcsamp_warps_issue_stalled_warpgroup_arrive", "gmma"),
        ("smsp__pcsamp_warps_issue_stalled_something_new", "something_new"),
        ("smsp__pcsamp_warps_issue_stalled_wait_not_issued", None),
        ("smsp__average_warps_issue_stalled_wait_not_issued_per_issue_active.ratio", None),
        ("smsp__warps_active.avg.per_cycle_active", None),
    ],
)
def test_reason_of_a_counter(metric: str, reason: str | None) -> None:
    assert stall_reason(metric) == reason


def test_labels_and_unknown_reasons() -> None:
    advice = stall_advice("Stall Long Scoreboard")
    assert advice is not None
    assert "memory" in advice.means
    assert not advice.harmless
    selected = stall_advice("Selected")
    assert selected is not None
    assert selected.harmless
    assert stall_advice("something_new") is None


def test_documentation_shows_the_table() -> None:
    text = (DOCS / "nsight-compute.md").read_text(encoding="utf-8")
    shown = text.split("<!-- stalls:begin")[1].split("-->", 1)[1].split("<!-- stalls:end")[0]
    assert shown.strip() == markdown_table().strip()

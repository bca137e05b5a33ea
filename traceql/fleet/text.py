"""A fleet's report as a note: findings once each, with the ranks that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traceql.finding import Finding
from traceql.report.names import process_label, shown
from traceql.wording import duration, size

if TYPE_CHECKING:
    from traceql.fleet.summaries import FleetReport

_FINDINGS, _RANKS, _FILES = 20, 8, 10
"""Rows shown of each list."""


def render(report: FleetReport) -> str:
    """The note as plain text, ending with a newline."""
    lines = [_head(report), ""]
    groups = _grouped(report.found)
    for group in groups[:_FINDINGS]:
        lines += _finding(group, len(report.summaries))
    if len(groups) > _FINDINGS:
        lines.append(f"… and {len(groups) - _FINDINGS} more kinds of finding; --format json has all.")
    if not groups:
        lines.append("No findings.")
    lines += ["", *_slowest(report)]
    crashed = [o for o in report.rules if o.outcome == "error"]
    lines += [f"{o.code} {o.name} crashed: {shown(o.reason or '')}" for o in crashed]
    if report.unreadable:
        many = len(report.unreadable) > 1
        lines += [f"{len(report.unreadable)} {'files were' if many else 'file was'} skipped:"]
        lines += [f"  {line}" for line in report.unreadable[:_FILES]]
        if len(report.unreadable) > _FILES:
            lines.append(f"  … and {len(report.unreadable) - _FILES} more")
    return "\n".join(lines).rstrip() + "\n"


def _head(report: FleetReport) -> str:
    read = size(sum(summary.bytes for summary in report.summaries))
    spent = sum(summary.seconds for summary in report.summaries)
    return f"{len(report.summaries)} traces, {read}, {spent:,.1f} s of work; {len(report.found)} findings"


def _grouped(found: list[Finding]) -> list[list[Finding]]:
    """Findings of one problem together, in the report's order."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        groups.setdefault((finding.code, finding.fingerprint), []).append(finding)
    return list(groups.values())


def _finding(group: list[Finding], traces: int) -> list[str]:
    worst = group[0]
    saving = worst.estimated_savings_us_per_step
    also = f"  [{len(group)} of {traces} traces]" if len(group) > 1 else ""
    worth = f"  ({duration(1000 * saving)}/step)" if saving else ""
    return [f"{worst.code} {worst.rule} {worst.severity.label}{also}{worth}", f"  {shown(worst.message)}"]


def _slowest(report: FleetReport) -> list[str]:
    """The ranks whose median step takes longest."""
    medians = []
    for label, summary in zip(report.labels, report.summaries, strict=True):
        periods = sorted(s["period_ns"] for s in summary.entry["metrics"]["steps"] if s["period_ns"])
        if periods:
            pids = summary.entry.get("pids", ())
            name = process_label(summary.rank, pids) if pids or summary.rank is not None else label
            medians.append((periods[len(periods) // 2], name, len(periods)))
    if len(medians) < 2:
        return []
    ordered = sorted(medians, reverse=True)[:_RANKS]
    return [
        "Slowest steps (median):",
        *(f"  {name:<24} {period / 1e6:10.3f} ms  of {steps} steps" for period, name, steps in ordered),
        "",
    ]

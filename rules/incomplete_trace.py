"""
## What it does
Says what the file lost: an end cut off, events that could not be read, records the profiler dropped, names that are not in
the file, and GPU work whose launch call is not in the trace.

## Why it matters
A count from half a trace is half a count. Every other finding is weaker for it.

## How it is measured
Truncation, unreadable events and the profiler's own messages are noted while loading, with their number and bytes. GPU
rows (kernels, copies, fills) join launch calls on process and correlation id; the rule fires when more than
`max-unmatched-pct` of them have none.

`max-unmatched-pct` is 5: captures that began on a quiet GPU have every launch call, a public one that opened on a busy GPU
lacks 52 %.

## Known problems
A window that opens in mid-run always holds some GPU work launched before it: 5-30 % in short captures of a busy GPU.

## How to fix
Let the profiler finish writing (no kill), use a larger buffer or a shorter window, start the capture on a quiet GPU.

## References
Nsight Systems user guide, "Diagnostics"; Kineto's buffer settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from traceql import metrics
from traceql.finding import Finding, Severity
from traceql.rule import Rule, option
from traceql.trace import Problem, Trace
from traceql.wording import percent

_LOSSES = {
    "truncated": "The trace ends early",
    "skipped": "Events were left out",
    "dropped": "The profiler warns of lost data",
    "unnamed": "Names are missing",
}
"""Kind of problem that loses data → how a message begins."""


class IncompleteTrace(Rule):
    code = "TQL901"
    name = "incomplete-trace"
    summary = "The trace lost events, or GPU work in it has no launch call."
    severity = Severity.WARNING

    @dataclass(frozen=True)
    class Options:
        max_unmatched_pct: float = option(5.0, "share of GPU rows that may lack their launch call")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        for kind in _LOSSES:
            losses = [problem for problem in trace.problems if problem.kind == kind]
            if losses:
                yield self._loss(kind, losses)
        counts = metrics.launch_counts(trace)
        unmatched = counts["unmatched_gpu_ops"]
        total = unmatched + counts["matched_gpu_ops"]
        if total and 100 * unmatched / total > options.max_unmatched_pct:
            yield self.finding(
                f"{unmatched:,} of {total:,} GPU rows ({percent(100 * unmatched / total)}) have no launch call in the "
                "trace: what the host did before them cannot be told.",
                key=("unmatched",),
                evidence={
                    "gpu_rows": total, "unmatched_gpu_rows": unmatched, "unmatched_pct": 100 * unmatched / total,
                },
                advice=[
                    "Start the capture while the GPU is quiet, or record the host's CUDA calls as well (all processes).",
                ],
            )  # fmt: skip

    def _loss(self, kind: str, losses: list[Problem]) -> Finding:
        counts = [problem.count for problem in losses if problem.count is not None]
        sizes = [problem.bytes for problem in losses if problem.bytes is not None]
        lost = f" ({sum(sizes):,} bytes lost)" if sizes else ""
        more = f", and {len(losses) - 1} more like it" if len(losses) > 1 else ""
        evidence: dict[str, object] = {"lost_events": sum(counts)} if counts else {}
        if sizes:
            evidence["lost_bytes"] = sum(sizes)
        if len(losses) > 1:
            evidence["losses"] = [{"what": p.message, "lost_events": p.count, "lost_bytes": p.bytes} for p in losses]
        return self.finding(
            f"{_LOSSES[kind]}: {losses[0].message.rstrip('.')}{more}{lost}.",
            key=(kind,),
            evidence=evidence,
            advice=["Record again and let the profiler finish; until then read every sum here as a lower bound."],
        )

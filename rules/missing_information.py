"""
## What it does
Lists what the trace did not record, which rules could not run for it, and the profiler flag that records it.

## Why it matters
"No finding" and "could not look" are different answers.

## How it is measured
Each installed rule declares what it needs of a trace. The ones whose needs are not met are grouped by what is missing,
where the profiler that wrote this trace could have recorded it.

## Known problems
None.

## How to fix
Record again with the flags listed, or add a second capture of the same run that has them.

## References
PyTorch profiler documentation (`record_shapes`, `with_stack`); Nsight Systems user guide (`--trace`,
`--cuda-graph-trace`).
"""

from __future__ import annotations

from collections.abc import Iterator

from traceql import registry
from traceql.finding import Finding, Severity
from traceql.requirements import how_to_record, lacks
from traceql.rule import Need, NoOptions, Rule
from traceql.trace import Trace


class MissingInformation(Rule):
    code = "TQL903"
    name = "missing-information"
    summary = "Rules abstained because the trace did not record what they need."
    severity = Severity.INFO

    def check(self, trace: Trace, options: NoOptions) -> Iterator[Finding]:
        if trace.source == "ncu":
            return  # counters of single kernels have no timeline to miss
        abstained: dict[Need, list[str]] = {}
        for rule in registry.rules().values():
            for need in rule.needs:
                if lacks(trace, need) and how_to_record(trace, need):
                    abstained.setdefault(need, []).append(f"{rule.code} {rule.name}")
                    break
        if abstained:
            yield self.finding(
                f"Not recorded: {', '.join(n.replace('_', ' ') for n in abstained)}; "
                f"{sum(map(len, abstained.values()))} rules abstained.",
                key=tuple(sorted(abstained)),
                evidence={
                    "missing": [
                        {
                            "missing": need.replace("_", " "),
                            "rules": ", ".join(rules),
                            "record_with": how_to_record(trace, need),
                        }
                        for need, rules in abstained.items()
                    ]
                },
                advice=[f"To see {need.replace('_', ' ')}: {how_to_record(trace, need)}." for need in abstained],
            )

"""
## What it does
Lists what the trace did not record, which rules could not run or tell less for it, and the profiler flag that records it.

## Why it matters
"No finding" and "could not look" are different answers.

## How it is measured
Each installed rule declares what it needs of a trace, most basic first. The ones whose needs are not met are grouped by
the first that is missing, where the profiler that wrote this trace could have recorded it; a rule about CUDA graphs does
not miss the nodes of replays in a trace without any. No rule needs Python stacks or named ranges, but without them host
time is blamed on operators and calls at best: they are listed too.

## Known problems
A rule that lacks several things is listed under the first alone. What a trace holds in part, such as shapes of some
operators, is not missing: rules that need more say so themselves.

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
from traceql.requirements import how_to_record, lacks, name_of
from traceql.rule import Need, NoOptions, Rule
from traceql.trace import Trace
from traceql.wording import counted

_SHARPENING: tuple[Need, ...] = ("python_stacks", "annotations")
"""What no rule needs, and what makes the blame of host time more precise."""


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
            first = next((need for need in rule.needs if lacks(trace, need)), None)
            if first is not None and how_to_record(trace, first):
                abstained.setdefault(first, []).append(rule.code)
        blunt = [
            need for need in _SHARPENING if need not in abstained and lacks(trace, need) and how_to_record(trace, need)
        ]
        missing = [*abstained, *blunt]
        if missing:
            count = sum(map(len, abstained.values()))
            less = f"host time has nothing finer to blame than {_blamed(trace)}" if blunt else ""
            could_not = f"{counted(count, 'rule')} could not run" if count else ""
            yield self.finding(
                f"Not recorded: {', '.join(map(name_of, missing))}; {' and '.join(filter(None, (could_not, less)))}.",
                key=tuple(sorted(missing)),
                evidence={
                    "rules_abstained": count,
                    "missing": [
                        {"missing": name_of(need), "rules_abstained": ", ".join(abstained.get(need, [])) or None}
                        for need in missing
                    ],
                },
                advice=_advice(trace, missing),
            )


def _blamed(trace: Trace) -> str:
    """The finest things that host time can be blamed on."""
    has = trace.capabilities
    known = {"Python frames": has.python_stacks, "named ranges": has.annotations, "operators": has.cpu_ops}
    return " and ".join(name for name, there in known.items() if there) or "API calls"


def _advice(trace: Trace, missing: list[Need]) -> list[str]:
    """How to record what is missing, what is recorded alike together."""
    by_flag: dict[str, list[str]] = {}
    for need in missing:
        by_flag.setdefault(str(how_to_record(trace, need)), []).append(name_of(need))
    return [f"For {' and '.join(names)}: {flag}." for flag, names in by_flag.items()]

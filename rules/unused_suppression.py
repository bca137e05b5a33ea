"""
## What it does
Lists suppressions of the configuration that hide nothing, and those whose date has passed.

## Why it matters
A suppression outlives its reason: the kernel was renamed, the problem was fixed, the quarter in which it should be fixed
is over. What is left of it hides the next regression.

## How it is measured
Each `[[tool.traceql.suppress]]` is matched with the findings of the rules it names, over all traces of the report. It is
unused when at least one of those rules applied to a trace and none of their findings matched; a rule that did not apply
or was not selected proves nothing. From the day after `expires` on a suppression hides nothing and is reported here.

## Known problems
A suppression for a decode capture is unused where the same configuration checks a prefill capture alone, if its rule
applies to both. Check them in one command, or keep one configuration file for each.

## How to fix
Delete the entry, or renew its reason and date.

## References
docs/configuration.md, "Suppressions".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from traceql.finding import Finding, Severity
from traceql.suppressions import SuppressionRule, Use


class UnusedSuppression(SuppressionRule):
    code = "TQL904"
    name = "unused-suppression"
    summary = "A suppression hides nothing, or its date has passed."
    severity = Severity.WARNING

    def check_suppressions(self, uses: Sequence[Use]) -> Iterator[Finding]:
        for use in uses:
            if use.expired:
                yield self._finding(use, "expired", f"expired on {use.suppression.expires} and hides nothing any more")
            elif use.judged and not use.hidden:
                yield self._finding(use, "unused", "matches no finding")

    def _finding(self, use: Use, what: str, phrase: str) -> Finding:
        suppression = use.suppression
        return self.finding(
            f"The suppression of {suppression.label} {phrase}.",
            key=(what, suppression.label),
            subject=suppression.label,
            evidence={"state": what, "reason_given": suppression.reason},
            advice=["Delete the entry from the configuration, or renew its reason and date."],
        )

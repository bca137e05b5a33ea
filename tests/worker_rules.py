"""Rules that end the process they run in: workers that are lost, for the tests of the distributed engine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from traceql.finding import Finding, Severity
from traceql.rule import NoOptions, Rule
from traceql.trace import Trace


class DeadlyRule(Rule):
    """Kills its process on a trace named ``deadly…`` always, on ``once…`` the first time."""

    code = "TST001"
    name = "deadly"
    summary = "Ends the process."
    severity = Severity.INFO

    def check(self, trace: Trace, options: NoOptions) -> Iterator[Finding]:
        marker = trace.path.with_suffix(".seen")
        if trace.path.name.startswith("deadly") or (trace.path.name.startswith("once") and not marker.exists()):
            marker.touch()
            os._exit(1)
        yield self.finding(f"read by a living worker: {trace.path.name}")

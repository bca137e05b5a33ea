"""A pytest fixture for people who gate performance in tests: ``traceql_budget``.

def test_decode_step_stays_small(traceql_budget):
    traceql_budget("decode.trace.json.gz", "step.kernels", kind="decode", max=420)

It fails the test when the trace is over the budget, and also when it cannot tell. pytest finds this module through its
entry point; nothing of traceql is imported before the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from traceql.gate.budgets import Budget
    from traceql.trace import Trace


class BudgetCheck:
    """What the fixture gives: call it with a trace, and a metric, a query, or nothing for the configured budgets."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: dict[str, tuple[Trace, ...]] = {}

    def __call__(self, trace: Any, metric: str | None = None, **limits: Any) -> float | None:
        """Check one budget and return its value, or every budget of the configuration found from pytest's root on.

        ``trace`` is a path, several, or what ``traceql.open`` gave. ``limits`` are the keys of a budget: ``max``, ``min``,
        ``kind``, ``batch_size``, ``aggregate``, ``sql``, ``name``.
        """
        from traceql import config
        from traceql.gate import budgets

        traces = self._traces(trace)
        if metric is None and not limits:
            wanted = list(config.load(start=self._root).budgets)
            if not wanted:
                pytest.fail("traceql_budget: no budget given and none in the configuration", pytrace=False)
        else:
            wanted = [_budget(metric, limits)]
        checked = [budgets.check(budget, traces) for budget in wanted]
        broken = [each.message for each in checked if each.state != "within"]
        if broken:
            pytest.fail("\n".join(broken), pytrace=False)
        return checked[0].value if len(checked) == 1 else None

    def _traces(self, trace: Any) -> tuple[Trace, ...]:
        """The traces meant, the ranks of one file apart; files are opened once a session."""
        from traceql.opening import TraceSet, open_trace
        from traceql.ranks.processes import apart
        from traceql.trace import Trace

        if isinstance(trace, (Trace, TraceSet)):
            return apart(trace.traces if isinstance(trace, TraceSet) else (trace,))
        key = str(trace)
        if key not in self._opened:
            self._opened[key] = self._traces(open_trace(trace))
        return self._opened[key]


def _budget(metric: str | None, limits: dict[str, Any]) -> Budget:
    from traceql.errors import UsageError
    from traceql.gate.budgets import Budget

    budget = Budget(metric=metric, **limits)
    if problem := budget.problem():
        raise UsageError(f"traceql_budget: {problem}")
    return budget


@pytest.fixture(scope="session")
def traceql_budget(pytestconfig: pytest.Config) -> Callable[..., float | None]:
    """Fails the test when a trace is over a budget, or cannot tell: ``traceql_budget(trace, metric, max=…)``."""
    return BudgetCheck(pytestconfig.rootpath)

"""Budgets: limits on figures that one capture tells exactly, so that a gate needs no statistics."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import polars as pl

from traceql.derived.step_metrics import METRICS, step_metrics
from traceql.derived.typical_steps import counting, timed_steps
from traceql.errors import QueryError, UsageError
from traceql.finding import fingerprint
from traceql.trace import Trace

KINDS = ("prefill", "decode", "mixed", "verify", "draft", "other")
"""Kinds of step a budget can be limited to."""

_PREFIX = "step."
_NODES = {"kernels", "memcpys", "memsets", "gemms", "layers", "collectives", "op_costs", "aligned_kernels"}
_ANY_RECORD = _NODES | {"gpu_ops", "gaps", "gap_parts", "graph_segments", "graph_boundaries", "graph_traces"}
"""Tables that miss what a replay did when its nodes, or any record of it, are not in the trace."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One ``[[budgets]]`` of the configuration: a metric of the steps, or the number a query gives, and its limits.

    ``metric`` is ``step.`` and a name of ``METRICS``, aggregated over the steps of ``kind`` and ``batch_size``; a median
    leaves the first and the last step of the recording out where there are others.
    """

    metric: str | None = None
    sql: str | None = None
    kind: Literal["prefill", "decode", "mixed", "verify", "draft", "other"] | None = None
    batch_size: Annotated[int, msgspec.Meta(gt=0)] | None = None
    aggregate: Literal["median", "max", "min"] = "median"
    max: float | None = None
    min: float | None = None
    name: str | None = None

    def problem(self) -> str | None:
        """What is wrong with it, None when nothing is."""
        if (self.metric is None) == (self.sql is None):
            return "give either metric or sql"
        if self.max is None and self.min is None:
            return "give max or min, or both"
        if self.max is not None and self.min is not None and self.min > self.max:
            return f"min, {self.min:g}, is over max, {self.max:g}: no figure can hold it"
        if self.sql is not None and (self.kind or self.batch_size):
            return "kind and batch-size belong to a metric; put the condition into the query"
        if self.metric is not None and self.metric.removeprefix(_PREFIX) not in METRICS:
            names = [_PREFIX + name for name in METRICS]
            near = difflib.get_close_matches(self.metric, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            return f"no metric {self.metric!r}; {hint}"
        return None

    @property
    def label(self) -> str:
        """How messages name it: ``step.kernels (decode, median)``, or its own name."""
        if self.name:
            return self.name
        if self.sql is not None:
            return " ".join(self.sql.split())
        steps = " ".join([*([self.kind] if self.kind else []), *([f"bs={self.batch_size}"] if self.batch_size else [])])
        return f"{self.metric} ({steps + ', ' if steps else ''}{self.aggregate})"

    @property
    def limit(self) -> str:
        """The limits as text: ``≤ 8``, ``≥ 1``, ``1 … 8``."""
        if self.max is None:
            return f"≥ {self.min:g}"
        return f"≤ {self.max:g}" if self.min is None else f"{self.min:g} … {self.max:g}"

    @property
    def unit(self) -> str:
        """Unit of its value; empty for counts and queries."""
        return METRICS[self.metric.removeprefix(_PREFIX)].unit if self.metric else ""

    @property
    def fingerprint(self) -> str:
        """Names the budget across runs, whatever its limits are."""
        return fingerprint("budget", self.metric, self.sql, self.kind, self.batch_size, self.aggregate)

    def excess(self, value: float) -> float:
        """How far ``value`` is beyond the limits, 0 within them."""
        over = value - self.max if self.max is not None else 0.0
        under = self.min - value if self.min is not None else 0.0
        return max(over, under, 0.0)


@dataclass(frozen=True)
class Checked:
    """A budget against the traces: ``value`` of ``trace`` is the worst of them; ``reason`` says why it is unknown."""

    budget: Budget
    state: Literal["within", "exceeded", "unknown"]
    value: float | None = None
    trace: int | None = None
    reason: str | None = None

    @property
    def message(self) -> str:
        """One sentence: the figure and its limit, or why there is none."""
        if self.state == "unknown":
            return f"Budget {self.budget.label} {self.budget.limit} cannot be told: {self.reason}."
        unit = f" {self.budget.unit}" if self.budget.unit else ""
        verdict = "exceeds its budget of" if self.state == "exceeded" else "is within"
        return f"{self.budget.label} is {number(self.value)}{unit}: {verdict} {self.budget.limit}{unit}."


def number(value: float | None) -> str:
    """A figure as it is compared: whole numbers exactly, others with six digits; – for none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def check(budget: Budget, traces: Sequence[Trace]) -> Checked:
    """The budget in every trace that holds what it is about; it must hold in all of them.

    UsageError when its query does not run or gives no single number.
    """
    told: list[tuple[float, int]] = []
    untold: list[str] = []
    for index, trace in enumerate(traces):
        value = _value(budget, trace)
        if isinstance(value, str):
            untold.append(value if len(traces) == 1 else f"{trace.path.name}: {value}")
        elif value is not None:
            told.append((value, index))
    worst = max(told, key=lambda entry: (budget.excess(entry[0]), _towards_limit(budget, entry[0])), default=None)
    if worst is not None and budget.excess(worst[0]):
        return Checked(budget, "exceeded", *worst)
    if untold:
        return Checked(budget, "unknown", reason="; ".join(untold))
    if worst is None:
        return Checked(budget, "unknown", reason=f"no {_steps_meant(budget)} in {_listed(traces)}")
    return Checked(budget, "within", *worst)


def _towards_limit(budget: Budget, value: float) -> float:
    return value if budget.max is not None else -value


def _steps_meant(budget: Budget) -> str:
    of_batch = f" of batch size {budget.batch_size}" if budget.batch_size else ""
    return f"{budget.kind or ''} step{of_batch}".strip()


def _listed(traces: Sequence[Trace]) -> str:
    return ", ".join(trace.path.name for trace in traces[:3]) + (" …" if len(traces) > 3 else "")


def _value(budget: Budget, trace: Trace) -> float | str | None:
    """The figure; None where the trace has no such step; a text where it cannot tell."""
    return _metric(budget, trace) if budget.metric is not None else _scalar(str(budget.sql), trace)


def _metric(budget: Budget, trace: Trace) -> float | str | None:
    rows = step_metrics(trace)
    if budget.kind is not None:
        rows = rows.filter(pl.col("kind") == budget.kind)
    if budget.batch_size is not None:
        rows = rows.filter(pl.col("batch_size") == budget.batch_size)
    if budget.aggregate == "median":
        rows = rows.join(counting(timed_steps(trace).join(rows, on="step_id", how="semi")), on="step_id", how="semi")
    values = rows[str(budget.metric).removeprefix(_PREFIX)]
    if values.is_empty():
        return None
    if values.null_count():
        return f"{values.null_count()} of {len(values)} steps do not have it recorded{_because(trace)}"
    found: Any = {"median": values.median, "max": values.max, "min": values.min}[budget.aggregate]()
    return float(found)


def _because(trace: Trace) -> str:
    has = trace.capabilities
    if not has.gpu_rows:
        return " (no GPU work in the trace)"
    if not has.host_calls:
        return " (no CUDA API calls in the trace)"
    if has.graph_replays in ("graph", "opaque", "mixed"):
        return " (graph replays without their kernels; nsys profile --cuda-graph-trace=node records them)"
    return ""


def _scalar(sql: str, trace: Trace) -> float | str | None:
    blind = {"graph": _NODES, "opaque": _ANY_RECORD, "mixed": _ANY_RECORD}.get(
        trace.capabilities.graph_replays or "", set()
    )
    hidden = sorted(name for name in blind if re.search(rf"\b{name}\b", sql, re.IGNORECASE))
    if hidden:
        return f"it reads {', '.join(hidden)}{_because(trace)}"
    try:
        frame = trace.sql(sql)
    except QueryError as error:
        raise UsageError(f"budget {' '.join(sql.split())!r}: {error}") from error
    if frame.shape != (1, 1) or not (frame.dtypes[0].is_numeric() or frame.dtypes[0] == pl.Null):
        raise UsageError(
            f"budget {' '.join(sql.split())!r}: gives {frame.height} rows of {frame.width} columns; one number is needed"
        )
    found = frame.item()
    return "the query gives null" if found is None else float(found)

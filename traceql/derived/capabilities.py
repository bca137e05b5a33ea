"""What a trace recorded, told from its tables."""

from __future__ import annotations

from typing import Literal

import polars as pl

from traceql.derived import memoised
from traceql.trace import Capabilities, Trace


@memoised
def capabilities(trace: Trace) -> Capabilities:
    """See Capabilities for what each flag means."""
    from traceql.derived.launches import gpu_rows, launched_by

    shapes = trace.loaded["cpu_ops"]["input_shapes"]
    return Capabilities(
        gpu_rows=not gpu_rows(trace).is_empty(),
        host_calls=not trace.loaded["runtime_calls"].is_empty(),
        launch_links=launched_by(trace)["launch_id"].count() > 0,
        cpu_ops=not trace.loaded["cpu_ops"].is_empty(),
        shapes=bool((shapes.is_not_null() & ~shapes.is_in(["[]", ""])).any()),
        python_stacks=not trace.loaded["python_calls"].is_empty(),
        annotations=not trace.loaded["annotations"].filter(pl.col("side") == "cpu").is_empty(),
        graph_replays=_graph_replays(trace),
        complete=not any(p.kind in ("truncated", "skipped", "dropped", "unnamed") for p in trace.problems),
    )


def _graph_replays(trace: Trace) -> Literal["node", "graph", "opaque", "mixed"] | None:
    from traceql.derived.graphs import graph_launches

    traced = graph_launches(trace)["traced"].fill_null("opaque").unique().to_list()
    if len(traced) > 1:
        return "mixed"
    kind: Literal["node", "graph", "opaque"] | None = traced[0] if traced else None
    return kind

"""What a capture was recorded on and how: figures of two captures compare only where this is the same."""

from __future__ import annotations

from typing import Literal

import msgspec
import polars as pl

from traceql.derived import memoised
from traceql.run_manifest import MODE
from traceql.trace import Trace


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hardware, workload and profiler of one capture. What the trace does not tell is null."""

    gpu: str | None
    """Product name of the GPUs that did work, several separated by commas."""
    devices: int
    """GPUs that did work in this trace's file."""
    world_size: int | None
    """Ranks of the distributed job."""
    step_kind: str | None
    """The kind of step that most of the time went to."""
    batch_size: int | None
    """The batch size that most of its time went to."""
    profiler: str
    """torch_profiler, nsys or ncu."""
    replays: Literal["node", "graph", "opaque", "mixed"] | None
    """How graph replays were recorded; null without any."""
    python_stacks: bool
    shapes: bool
    mode: str | None = None
    """What a run directory says it recorded: eager, graph or piecewise; null for a trace alone."""
    eager_names: bool | None = None
    """Whether an eager run names the kernels of the replays; null without replays."""

    def differences(self, base: Context) -> list[str]:
        """What differs from ``base``, one phrase each: ``GPU NVIDIA H100 (was NVIDIA H200)``.

        A capture without graph replays compares with one that has them: losing the graph is a regression to report,
        not another way to record.
        """
        found = []
        for name, label in _LABELS.items():
            own, other = getattr(self, name), getattr(base, name)
            if own == other or (name in _MAY_LACK and None in (own, other)):
                continue
            words = _GIVEN if name == "eager_names" else _RECORDED
            found.append(f"{label} {_shown(own, words)} (was {_shown(other, words)})")
        return found


_LABELS = {
    "gpu": "GPU", "devices": "device count", "world_size": "world size (TP)", "step_kind": "kind of step",
    "batch_size": "batch size", "profiler": "profiler", "replays": "recording of graph replays",
    "python_stacks": "Python stacks", "shapes": "operator shapes", "mode": "mode of the run",
    "eager_names": "eager run to name the replays by (--eager)",
}  # fmt: skip

_MAY_LACK = ("replays", "mode", "eager_names")
"""What a capture may lack and still compare."""


_RECORDED, _GIVEN = ("not recorded", "recorded"), ("not given", "given")


def _shown(value: object, words: tuple[str, str]) -> str:
    if isinstance(value, bool):
        return words[value]
    return "unknown" if value is None else str(value)


@memoised
def context(trace: Trace) -> Context:
    """The context of one trace."""
    has = trace.capabilities
    parts = (trace,) if trace.part is None else trace.part.siblings
    used = pl.concat([part.table("gpu_ops")["device"] for part in parts]).drop_nulls().unique()
    devices = pl.concat([part.loaded["devices"] for part in parts])
    own = devices.filter(pl.col("device").is_in(used.implode())) if len(used) else devices
    names = sorted(set(own["name"].drop_nulls()))
    kind, batch_size = _main_steps(trace)
    return Context(
        gpu=", ".join(names) or None,
        devices=len(used),
        world_size=_world_size(trace),
        step_kind=kind,
        batch_size=batch_size,
        profiler=trace.source,
        replays=has.graph_replays,
        python_stacks=has.python_stacks,
        shapes=has.shapes,
        mode=_stated(trace, MODE),
        eager_names=trace.eager is not None if has.graph_replays else None,
    )


def _stated(trace: Trace, key: str) -> str | None:
    """The metadata value of ``key``."""
    found = trace.loaded["metadata"].filter(pl.col("key") == key)["value"]
    return str(found[0]) if len(found) else None


def _main_steps(trace: Trace) -> tuple[str | None, int | None]:
    """The kind of step with the most time, and its batch size with the most time."""
    steps = trace.table("steps").select("kind", "batch_size", "period_ns")
    if steps.is_empty():
        return None, None
    kind = steps.group_by("kind").agg(pl.col("period_ns").sum()).sort("period_ns", "kind")["kind"][-1]
    sizes = (
        steps.filter(pl.col("kind").eq_missing(pl.lit(kind, pl.String)))
        .group_by("batch_size")
        .agg(pl.col("period_ns").sum())
        .sort("period_ns", "batch_size")
    )
    return kind, sizes["batch_size"][-1]


def _world_size(trace: Trace) -> int | None:
    stated = _stated(trace, "distributed.world_size")
    if stated is not None and stated.isdigit():
        return int(stated)
    largest = trace.table("collectives")["world_size"].max()
    return int(largest) if isinstance(largest, int) else None

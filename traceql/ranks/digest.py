"""What one trace is reduced to for the rules that compare ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import polars as pl

from traceql.derived import collective_names, memoised
from traceql.derived.collective_overlap import collective_overlap, compute_kernels
from traceql.derived.distortion import unprofiled_step_ns
from traceql.derived.intervals import union_ns
from traceql.derived.roofline import device_match
from traceql.derived.step_costs import device_gap_parts, step_gap_parts
from traceql.derived.typical_steps import Alike, kinds_of_step, timed_steps
from traceql.ranks.run_facts import RunFacts, run_facts
from traceql.requirements import missing
from traceql.rule import Need
from traceql.trace import Source, Trace

MAX_STEPS = 64
"""Steps of a capture that are compared between ranks, from its first on; more make a median no surer, and ten thousand
digests must fit into one process."""


@dataclass(frozen=True, eq=False)
class RankDigest:
    """One rank: its collectives and steps as small frames. A process that drives several devices gives one a device.

    Attributes:
        index: place of the trace in the report.
        rank: rank in the job; the device where one process drives several; None where nothing tells.
        clock: the file whose clock its times are on, where other digests' are too; None for a file of one rank.
        groups: process groups of several ranks it is in, as far as the file lists them: (name, ranks).
        span_ns: first to last event.
        link_bytes_per_s: peak of the GPU's fabric (NVLink) in one direction; None where unknown.
        lacking: need → why a rule that has it does not apply.
        collectives: collective_id, key (group, or operation where it has no name), op, what (library, algorithm),
            bytes, bus_factor, world_size, step_id, layer, layer_dur_ns, arrival_ns, end_ns, dur_ns (without what was
            early), exposed_ns, hidden_ns, early_ns, transfer_ns (fastest of its kind in this trace).
        steps: step_id, name, kind, batch_size, tokens, start_ns, period_ns, edge (``typical_steps.timed_steps``),
            gpu_start_ns, gpu_dur_ns, gpu_busy_ns, graph_launches, compute_ns (union of its kernels that do not communicate),
            layers.
        typical: the steps that stand for the others, one a kind, as everywhere.
        unprofiled_step_ns: a decode step without a profiler, where the run's manifest has it.
        idle: step_id, cause, blame (largest of the cause), ns.
    """

    index: int
    name: str
    source: Source
    rank: int | None
    world_size: int | None
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    gpu: str | None
    link_bytes_per_s: float | None
    source_offset_ns: int
    origin_unix_ns: int | None
    span_ns: int
    lacking: Mapping[str, str]
    run: RunFacts | None
    collectives: pl.DataFrame
    steps: pl.DataFrame
    idle: pl.DataFrame
    typical: tuple[Alike, ...] = ()
    unprofiled_step_ns: int | None = None
    clock: str | None = None

    def source_time_s(self, start_ns: int) -> float:
        """Seconds at which the source's own viewer shows ``start_ns``."""
        return (start_ns + (self.source_offset_ns if self.source == "nsys" else 0)) / 1e9

    @property
    def label(self) -> str:
        return self.name if self.rank is None else f"rank {self.rank}"


def digests(trace: Trace, index: int) -> tuple[RankDigest, ...]:
    """The digests of the trace at place ``index`` of a report, one a rank it holds."""
    return tuple(replace(digest, index=index) for digest in _digests(trace))


@memoised
def _digests(trace: Trace) -> tuple[RankDigest, ...]:
    whole = _digest(trace)
    devices = trace.table("collectives")["device"].drop_nulls().unique().sort().to_list()
    if trace.rank is not None or len(devices) < 2:
        return (whole,)
    return tuple(_on_device(whole, trace, device) for device in devices)


def _digest(trace: Trace) -> RankDigest:
    stated = dict(trace.loaded["metadata"].select("key", "value").rows())
    world = stated.get("distributed.world_size", "")
    gpu, link = _gpu(trace)
    needs: tuple[Need, ...] = get_args(Need)
    return RankDigest(
        index=0,
        name=trace.path.name,
        source=trace.source,
        rank=trace.rank,
        world_size=int(world) if world.isdigit() else None,
        groups=_groups(stated.get("distributed.groups")),
        gpu=gpu,
        link_bytes_per_s=link,
        source_offset_ns=trace.source_offset_ns,
        origin_unix_ns=trace.origin_unix_ns,
        span_ns=_span_ns(trace),
        lacking={need: reason for need in needs if (reason := missing(trace, (need,)))},
        run=run_facts(trace.path),
        collectives=_collectives(trace),
        steps=_steps(trace),
        idle=_idle(trace),
        typical=kinds_of_step(trace),
        unprofiled_step_ns=unprofiled_step_ns(trace),
        clock=None if trace.part is None else str(trace.path),
    )


def _on_device(whole: RankDigest, trace: Trace, device: int) -> RankDigest:
    """The part of a digest that happened on one of the trace's devices."""
    here = trace.table("collectives").filter(pl.col("device") == device)["collective_id"]
    of_steps = trace.table("step_devices").filter(pl.col("device") == device)["step_id"]
    return replace(
        whole,
        rank=device,
        clock=str(trace.path),
        collectives=whole.collectives.filter(pl.col("collective_id").is_in(here.implode())),
        steps=_steps(trace, device).filter(pl.col("step_id").is_in(of_steps.implode())),
        idle=_idle(trace, device).filter(pl.col("step_id").is_in(of_steps.implode())),
    )


def _groups(text: str | None) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((str(name), tuple(ranks)) for name, ranks in json.loads(text)) if text else ()


def _gpu(trace: Trace) -> tuple[str | None, float | None]:
    """Name of the first GPU that worked, and its link in one direction."""
    used = trace.table("gpu_ops")["device"].drop_nulls().unique()
    found = trace.loaded["devices"].filter(pl.col("device").is_in(used.implode())).sort("device").head(1)
    if found.is_empty():
        return None, None
    gpu = device_match(trace, found["device"][0]).gpu
    link = None if gpu is None else gpu.nvlink_bytes_per_s
    return found["name"][0], None if link is None else link / 2  # both directions together in the table


def _span_ns(trace: Trace) -> int:
    ends = [
        frame.select((pl.col("start_ns") + pl.col("dur_ns")).max()).item()
        for frame in trace.loaded.values()
        if {"start_ns", "dur_ns"} <= set(frame.columns)
    ]
    return max((end for end in ends if end is not None), default=0)


_COLLECTIVES = pl.Schema(
    {
        "collective_id": pl.Int64(), "key": pl.String(), "op": pl.String(), "what": pl.String(), "bytes": pl.Int64(),
        "bus_factor": pl.Float64(), "world_size": pl.Int64(), "step_id": pl.Int64(), "layer": pl.Int64(),
        "layer_dur_ns": pl.Int64(), "arrival_ns": pl.Int64(), "end_ns": pl.Int64(), "dur_ns": pl.Int64(),
        "exposed_ns": pl.Int64(), "hidden_ns": pl.Int64(), "early_ns": pl.Int64(), "transfer_ns": pl.Int64(),
    }
)  # fmt: skip


def _collectives(trace: Trace) -> pl.DataFrame:
    found = collective_overlap(trace)
    if found.is_empty():
        return pl.DataFrame(schema=_COLLECTIVES)
    last = pl.lit(_last_step(trace), pl.Int64)
    begins_later = pl.col("start_ns").filter(pl.col("step_id") > last).min()
    found = found.filter((pl.col("start_ns") < begins_later).fill_null(True))
    what = pl.concat_str("library", "algorithm", "protocol", separator=" ", ignore_nulls=True)
    return found.select(
        "collective_id",
        pl.coalesce("group", "op", pl.lit("unknown")).alias("key"),
        "op",
        what.alias("what"),
        "bytes",
        collective_names.bus_factor("op", "world_size").alias("bus_factor"),
        "world_size",
        "step_id",
        "layer",
        "layer_dur_ns",
        pl.col("own_ns").alias("arrival_ns"),
        (pl.col("start_ns") + pl.col("dur_ns")).alias("end_ns"),
        pl.col("left_ns").alias("dur_ns"),
        "exposed_ns",
        "hidden_ns",
        "early_ns",
        "transfer_ns",
    ).cast(dict(_COLLECTIVES))  # type: ignore[arg-type]


def _last_step(trace: Trace) -> int | None:
    """The last step of a capture that is compared."""
    ids = trace.table("steps")["step_id"]
    return None if ids.is_empty() else int(ids.sort()[min(MAX_STEPS, len(ids)) - 1])


def _here(device: int | None) -> pl.Expr:
    """Rows of one device, or of all."""
    return pl.lit(True) if device is None else pl.col("device") == device


def _steps(trace: Trace, device: int | None = None) -> pl.DataFrame:
    steps = trace.table("steps").head(MAX_STEPS)
    if device is not None:
        figures = ["gpu_start_ns", "gpu_dur_ns", "gpu_busy_ns"]
        here = trace.table("step_devices").filter(pl.col("device") == device).select("step_id", *figures)
        steps = steps.drop(figures).join(here, on="step_id", how="left", maintain_order="left")
    own = compute_kernels(trace).filter(pl.col("step_id").is_not_null() & _here(device))
    compute = union_ns(own, ["step_id"]).rename({"union_ns": "compute_ns"})
    layers = trace.table("layers").group_by("step_id").agg(layers=pl.len().cast(pl.Int64))
    edges = timed_steps(trace).select("step_id", pl.col("edge").cast(pl.Int64))
    return (
        steps.join(edges, on="step_id", how="left", maintain_order="left")
        .select(
            "step_id", "name", "kind", "batch_size", "tokens", "start_ns", "period_ns", "edge", "gpu_start_ns",
            "gpu_dur_ns", "gpu_busy_ns", "graph_launches",
        )
        .join(compute, on="step_id", how="left", maintain_order="left")
        .join(layers, on="step_id", how="left", maintain_order="left")
    )  # fmt: skip


def _idle(trace: Trace, device: int | None = None) -> pl.DataFrame:
    last = pl.lit(_last_step(trace), pl.Int64)
    parts = step_gap_parts(trace) if device is None else device_gap_parts(trace)
    by_blame = (
        parts.filter((pl.col("step_id") <= last) & _here(device))
        .group_by("step_id", "cause", "blame")
        .agg(pl.col("dur_ns").sum())
    )
    return (
        by_blame.sort(pl.col("dur_ns") * -1, "blame")
        .group_by("step_id", "cause", maintain_order=True)
        .agg(pl.col("blame").first(), ns=pl.col("dur_ns").sum())
        .sort("step_id", pl.col("ns") * -1, "cause")
    )

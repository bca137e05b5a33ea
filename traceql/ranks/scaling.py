"""Tensor-parallel scaling: how much faster a step is on more GPUs, against what their links let one expect."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Literal

import polars as pl

from traceql.ranks.digest import RankDigest, digests
from traceql.ranks.jobs import Job, jobs
from traceql.ranks.run_facts import RunFacts
from traceql.trace import Trace

Kind = Literal["nvlink", "numa", "across"]

BANDS: dict[Kind, tuple[float, float]] = {"nvlink": (90.0, 100.0), "numa": (65.0, 75.0), "across": (45.0, 55.0)}
"""Expected scaling efficiency in percent, by how the GPUs of a group are linked: all by NVLink, over PCIe within one NUMA
node, across NUMA nodes. Figures of 8B-class models at TP=2; more ranks do not do better."""

_FABRIC = ("NV", "XGMI")
"""Links of the GPUs' own fabric, as ``nvidia-smi topo -m`` and ``rocm-smi --showtopo`` name them."""


def kind_of(facts: RunFacts) -> Kind | None:
    """How the GPUs of a run's group are linked; None where the manifest does not tell."""
    group, links = facts.group(), facts.group_links()
    if len(group) < 2:
        return None
    if len(links) < len(list(combinations(group, 2))):
        stated: dict[str | None, Kind] = {"nvlink": "nvlink", "numa": "numa", "across": "across"}
        return stated.get(facts.topology)
    if all(link.startswith(_FABRIC) for _, _, link in links):
        return "nvlink"
    nodes = {node for gpu, node in facts.numa if gpu in group}
    return "across" if len(nodes) > 1 or any(link == "SYS" for _, _, link in links) else "numa"


_SCHEMA = pl.Schema(
    {
        "tp": pl.Int64(), "kind": pl.String(), "batch_size": pl.Int64(), "mode": pl.String(), "step_ms": pl.Float64(),
        "profiled": pl.Boolean(), "speedup": pl.Float64(), "efficiency_pct": pl.Float64(), "topology": pl.String(),
        "expected_low_pct": pl.Float64(), "expected_high_pct": pl.Float64(),
    }
)  # fmt: skip


def scaling(traces: Sequence[Trace]) -> pl.DataFrame:
    """Runs of one workload on 1, 2, 4 … GPUs compared: see ``of_digests``."""
    return of_digests([digest for index, trace in enumerate(traces) for digest in digests(trace, index)])


def of_digests(given: Sequence[RankDigest]) -> pl.DataFrame:
    """One row for each TP size, kind of step, batch size and mode (eager, graph) among the runs.

    ``step_ms`` is the step without a profiler where the manifest has it, else the median recorded one (``profiled``);
    ``speedup`` is against the smallest TP of the same kind, batch and mode, and ``efficiency_pct`` 100 · speedup over the
    ratio of the sizes; null where profiled and unprofiled steps would be compared.
    """
    parallel = jobs(given)
    taken = {rank.index for job in parallel for rank in job.ranks}
    alone = [Job((digest,)) for digest in given if digest.index not in taken]
    rows = [row for job in [*parallel, *alone] for row in _rows(job)]
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    best = frame.sort("profiled", "step_ms").unique(
        ["tp", "kind", "batch_size", "mode"], keep="first", maintain_order=True
    )
    by = ["kind", "batch_size", "mode", "profiled"]
    first_ms, first_tp = (pl.col(c).sort_by("tp").first().over(by) for c in ("step_ms", "tp"))
    several = pl.len().over(by) > 1
    return (
        best.with_columns(speedup=pl.when(several).then(first_ms / pl.col("step_ms")))
        .with_columns(efficiency_pct=100 * pl.col("speedup") * first_tp / pl.col("tp"))
        .sort("kind", "batch_size", "mode", "tp")
    )


def _rows(job: Job) -> list[tuple[object, ...]]:
    """The steps of one run by kind and batch size."""
    lead = job.ranks[0]
    facts = lead.run
    tp = _size(job)
    topology = None if facts is None else kind_of(facts)
    low, high = BANDS[topology] if topology else (None, None)
    steps = lead.steps.filter(pl.col("period_ns") > 0)
    first = steps["step_id"].min()
    found: list[tuple[object, ...]] = []
    for (kind, batch), rows in steps.group_by("kind", "batch_size", maintain_order=True):
        warm = rows.filter(pl.col("step_id") != first) if rows.height > 1 else rows
        mode = "graph" if int(rows["graph_launches"].sum()) else "eager"
        unprofiled = None
        if facts is not None and kind == "decode" and batch == facts.batch_size:
            unprofiled = next((ms for stage, ms in facts.step_ms if stage == mode), None)
        profiled_ms = median(warm["period_ns"].to_list()) / 1e6
        ms = profiled_ms if unprofiled is None else unprofiled
        found.append((tp, kind, batch, mode, ms, unprofiled is None, None, None, topology, low, high))
    return found


def _size(job: Job) -> int:
    """Ranks of the tensor-parallel group: as the manifest says, else those of the collectives, else of the job."""
    facts = job.ranks[0].run
    stated = job.ranks[0].collectives["world_size"].max()
    known = [facts.tp if facts else None, stated, job.ranks[0].world_size, len(job.ranks)]
    return next(size for size in known if isinstance(size, int))

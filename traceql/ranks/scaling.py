"""Tensor-parallel scaling: how much faster a step is on more GPUs, against what their links let one expect."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import polars as pl

from traceql.derived.typical_steps import counting, middle
from traceql.ranks.costs import step_costs
from traceql.ranks.digest import RankDigest, digests
from traceql.ranks.jobs import Job, jobs
from traceql.ranks.processes import apart
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
        "expected_low_pct": pl.Float64(), "expected_high_pct": pl.Float64(), "profiled_step_ms": pl.Float64(),
        "compute_ms": pl.Float64(), "communication_ms": pl.Float64(), "waiting_ms": pl.Float64(), "rest_ms": pl.Float64(),
    }
)  # fmt: skip

PARTS = ("compute_ms", "communication_ms", "waiting_ms", "rest_ms")
"""What a recorded step consists of; together its ``profiled_step_ms``."""


def scaling(traces: Sequence[Trace]) -> pl.DataFrame:
    """Runs of one workload on 1, 2, 4 … GPUs compared: see ``of_digests``."""
    return of_digests([digest for index, trace in enumerate(apart(traces)) for digest in digests(trace, index)])


def of_digests(given: Sequence[RankDigest]) -> pl.DataFrame:
    """One row for each TP size, kind of step, batch size and mode (eager, graph) among the runs.

    ``step_ms`` is the step without a profiler where the manifests have it, else the typical recorded one (``profiled``):
    of one kind, batch and mode all rows are the one or the other, unprofiled where more than half of the sizes have that,
    since only these can be compared. ``speedup`` is against the smallest TP, and ``efficiency_pct`` 100 · speedup over the ratio of the sizes.

    What the recorded step consists of, ms, on the first rank: ``communication_ms`` (transfer with no computation beside
    it), ``waiting_ms`` (the rest of the time in collectives), ``compute_ms`` (the rest of the time the GPU is busy),
    ``rest_ms`` (the rest of ``profiled_step_ms``: the GPU idle, or at work launched between the steps, such as sampling).
    """
    parallel = jobs(given)
    taken = {rank.index for job in parallel for rank in job.ranks}
    alone = [Job((digest,)) for digest in given if digest.index not in taken]
    rows = [row for job in [*parallel, *alone] for row in _rows(job)]
    frame = pl.DataFrame(rows, schema={**_SCHEMA, "unprofiled_ms": pl.Float64})
    # of several captures of one run the one whose profiler took least
    best = frame.sort("profiled_step_ms").unique(
        ["tp", "kind", "batch_size", "mode"], keep="first", maintain_order=True
    )
    by = ["kind", "batch_size", "mode"]
    step_ms = pl.when("profiled").then("profiled_step_ms").otherwise("unprofiled_ms")
    comparable = step_ms.is_not_null()
    first_ms, first_tp = (
        pl.col(c).sort_by("tp").filter(comparable.sort_by("tp")).first().over(by) for c in ("step_ms", "tp")
    )
    several = comparable.sum().over(by) > 1
    return (
        best.with_columns(profiled=2 * pl.col("unprofiled_ms").count().over(by) <= pl.len().over(by))
        .with_columns(step_ms=step_ms)
        .with_columns(speedup=pl.when(several).then(first_ms / pl.col("step_ms")))
        .with_columns(efficiency_pct=100 * pl.col("speedup") * first_tp / pl.col("tp"))
        .sort("kind", "batch_size", "mode", "tp")
        .select(_SCHEMA.names())
    )


def lost(table: pl.DataFrame, tp: int, kind: str | None, batch_size: int | None, mode: str) -> dict[str, float]:
    """Where the recorded step on ``tp`` GPUs is longer than that on the fewest, shared out evenly: part (of PARTS) → ms more
    than its share, largest first; together what the step loses against an efficiency of 100 %. Empty without a step on
    fewer GPUs."""
    rows = table.filter(
        pl.col("kind").eq_missing(pl.lit(kind, pl.String))
        & pl.col("batch_size").eq_missing(pl.lit(batch_size, pl.Int64))
        & (pl.col("mode") == mode)
    ).sort("tp")
    mine = rows.filter(pl.col("tp") == tp)
    if mine.is_empty() or rows["tp"][0] >= tp:
        return {}
    few, many = rows.row(0, named=True), mine.row(0, named=True)
    more = {part: many[part] - few[part] * few["tp"] / tp for part in PARTS}
    return dict(sorted(more.items(), key=lambda item: -item[1]))


def _rows(job: Job) -> list[dict[str, object]]:
    """The steps of one run by kind and batch size."""
    lead = job.ranks[0]
    facts = lead.run
    topology = None if facts is None else kind_of(facts)
    low, high = BANDS[topology] if topology else (None, None)
    steps = lead.steps.filter(pl.col("period_ns") > 0)
    found: list[dict[str, object]] = []
    for (kind, batch), rows in steps.group_by("kind", "batch_size", maintain_order=True):
        mode = "graph" if int(rows["graph_launches"].sum()) else "eager"
        unprofiled = None
        if facts is not None and kind == "decode" and batch == facts.batch_size:
            unprofiled = next((ms for stage, ms in facts.step_ms if stage == mode), None)
        found.append(
            {
                "tp": _size(job), "kind": kind, "batch_size": batch, "mode": mode, "unprofiled_ms": unprofiled,
                "topology": topology, "expected_low_pct": low, "expected_high_pct": high,
                **_parts(job, rows),
            }
        )  # fmt: skip
    return found


def _parts(job: Job, rows: pl.DataFrame) -> dict[str, float]:
    """The typical one of ``rows``, the steps of a job's first rank, and what it consists of, ms."""
    communicating = step_costs(job).filter(pl.col("member") == 0).join(rows, on="step_id", how="semi")
    sums = dict.fromkeys(("exposed_transfer_ns", "exposed_waiting_ns"), 0)
    row = middle(counting(rows) if communicating.is_empty() else communicating, "period_ns")
    sums |= {name: row[name] for name in sums if name in row}
    period, busy = row["period_ns"], row["gpu_busy_ns"] or 0
    transfer, waiting = sums["exposed_transfer_ns"], sums["exposed_waiting_ns"]
    compute, rest = busy - transfer - waiting, period - busy
    shares = dict(zip(PARTS, (compute, transfer, waiting, rest), strict=True))
    return {"profiled_step_ms": period / 1e6, **{name: ns / 1e6 for name, ns in shares.items()}}


def _size(job: Job) -> int:
    """Ranks of the tensor-parallel group: as the manifest says, else those of the collectives, else of the job."""
    facts = job.ranks[0].run
    stated = job.ranks[0].collectives["world_size"].max()
    known = [facts.tp if facts else None, stated, job.ranks[0].world_size, len(job.ranks)]
    return next(size for size in known if isinstance(size, int))

"""
## What it does
Finds a tensor-parallel group whose GPUs reach each other over PCIe or across NUMA nodes, and compares the efficiency
that such links let one expect with the measured one.

## Why it matters
Two all-reduces a layer go over the slowest link of the group. A pair over NVLink keeps nine tenths of the ideal
speed-up, over PCIe two thirds, across sockets a half: choosing the right GPUs of a machine costs nothing.

## How it is measured
Links, NUMA nodes and the GPUs of the group come from the manifest that `traceql collect` writes beside the traces
(`nvidia-smi topo -m`). A group with a pair that the GPUs' own fabric does not link is reported.

Scaling efficiency is the step on one GPU over n times the step on n, from the runs in the report: unprofiled steps where
both manifests have them, else recorded ones. Without a run on fewer GPUs the share of the step that does not wait for or
transfer in exposed collectives is given instead: an upper bound of the efficiency, for smaller shards also compute less
efficiently.

With a run on fewer GPUs the loss against an even share is divided: the recorded step on n GPUs less the one on the fewest
shared out evenly, in computation, communication, waiting and the rest (the GPU idle, copying or filling). Host time does
not shrink with more GPUs and is the usual reason on NVLink: on H200s an 8B model's decode of 64 went from 7.59 ms on one
GPU to 5.04 ms on two and 4.25 ms on four, with 1.8-1.9 ms of it the host's in each.

`min-efficiency-pct` is 90, the lower end of what NVLink pairs reach: a group linked by NVLink that scales worse in this
report is a finding too.

## Known problems
A trace alone does not tell its links: without a manifest the rule does not apply. Bands are those of 8B-class models at
TP=2.

## How to fix
Choose GPUs that share NVLink (`CUDA_VISIBLE_DEVICES`, or `traceql collect --topology nvlink`), or at least one NUMA node.
Without NVLink prefer pipeline or data parallelism over tensor parallelism.

## References
`nvidia-smi topo -m`; NCCL user guide, "Troubleshooting: GPU-to-GPU communication".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from traceql.finding import Finding, Severity
from traceql.ranks.costs import median_costs
from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job, jobs
from traceql.ranks.run_facts import RunFacts
from traceql.ranks.scaling import BANDS, Kind, kind_of, lost, of_digests
from traceql.rule import NotApplicableError, RunRule, option
from traceql.wording import duration

_WORDS = {
    "nvlink": "all linked by NVLink", "numa": "linked over PCIe within one NUMA node", "across": "spread over NUMA nodes",
}  # fmt: skip


_PARTS = {
    "compute_ms": "computation", "communication_ms": "communication", "waiting_ms": "waiting for other ranks",
    "rest_ms": "time the GPU does not compute or communicate",
}  # fmt: skip
"""Columns of ``scaling`` in words."""

_REMEDIES = {
    "compute_ms": "Kernels did not shrink with their share of the model: fewer ranks and a larger batch on each, and see "
    "latency-bound-kernel (TQL403).",
    "communication_ms": "Fuse the all-reduces with the norms after them, or run on fewer ranks (exposed-communication, TQL501).",
    "waiting_ms": "Find out which rank the others wait for (straggler-rank, TQL503).",
    "rest_ms": "Host time does not shrink with more GPUs: hide it behind the GPU's work (SGLang: no "
    "--disable-overlap-schedule) or cut it (step-bubble, TQL103; launch-gap, TQL101).",
}


class Topology(RunRule):
    code = "TQL504"
    name = "topology"
    summary = "The GPUs of a tensor-parallel group are linked worse than they could be."
    severity = Severity.WARNING
    needs = ("gpu_rows",)

    @dataclass(frozen=True)
    class Options:
        min_efficiency_pct: float = option(90.0, "scaling efficiency below which a group on NVLink is reported")

    def check_run(self, digests: Sequence[RankDigest], options: Options) -> Iterator[Finding]:
        known = [
            (job, facts, kind) for job in jobs(digests) if (facts := job.ranks[0].run) and (kind := kind_of(facts))
        ]
        if not known:
            raise NotApplicableError(
                "no communication, or how its GPUs are linked is not recorded; `traceql collect` writes it into the manifest"
            )
        table = of_digests(digests)
        reported: set[RunFacts] = set()
        for job, facts, kind in known:
            mine = _measured(table, job, facts)
            efficiency = None if mine is None else mine["efficiency_pct"]
            bad = kind != "nvlink" or (efficiency is not None and efficiency < options.min_efficiency_pct)
            if bad and facts not in reported:
                reported.add(facts)
                yield self._finding(job, facts, kind, mine, table)

    def _finding(
        self, job: Job, facts: RunFacts, kind: Kind, mine: dict[str, Any] | None, table: pl.DataFrame
    ) -> Finding:
        low, high = BANDS[kind]
        spent = [c.row for c in median_costs(job, pl.col("exposed_transfer_ns"), pl.col("period_ns"))[:1]]
        free = [100 - 100 * (r["exposed_transfer_ns"] + r["exposed_waiting_ns"]) / r["period_ns"] for r in spent]
        measured, parts = "no run on fewer GPUs to compare with", dict[str, float]()
        if mine is not None:
            parts = lost(table, mine["tp"], mine["kind"], mine["batch_size"], mine["mode"])
            measured = f"measured {mine['efficiency_pct']:.0f} %{_most(parts)}"
        slow = [(a, b, link) for a, b, link in facts.group_links() if not link.startswith("NV")]
        numa = dict(facts.numa)
        return self.finding(
            f"The {len(facts.group()) or facts.tp} GPUs of the tensor-parallel group are {_WORDS[kind]}: scaling efficiency "
            f"of {low:.0f}-{high:.0f} % is to be expected, {measured}.",
            key=(kind,),
            subject=kind,
            trace=job.ranks[0].index,
            certainty="modelled",
            evidence={
                "links": kind,
                "expected_low_pct": low,
                "expected_high_pct": high,
                "measured_efficiency_pct": None if mine is None else mine["efficiency_pct"],
                "step_without_exposed_communication_pct": free[0] if free else None,
                "lost_by_part": [{"part": _PARTS[part], "ms_more_than_its_share": ms} for part, ms in parts.items()],
                "gpu_pairs": [
                    {"gpu": a, "peer": b, "link": link, "gpu_numa": numa.get(a), "peer_numa": numa.get(b)}
                    for a, b, link in (slow or facts.group_links())[:16]
                ],
                "scaling": [
                    {
                        "tp": r["tp"], "kind": r["kind"], "batch": r["batch_size"], "mode": r["mode"], "step_ms": r["step_ms"],
                        "speedup_ratio": r["speedup"], "efficiency_pct": r["efficiency_pct"], "compute_ms": r["compute_ms"],
                        "communication_ms": r["communication_ms"], "waiting_ms": r["waiting_ms"], "rest_ms": r["rest_ms"],
                    }
                    for r in table.filter(pl.col("efficiency_pct").is_not_null()).rows(named=True)
                ],
            },
            advice=_advice(kind, parts),
        )  # fmt: skip


def _measured(table: pl.DataFrame, job: Job, facts: RunFacts) -> dict[str, Any] | None:
    """The row of ``scaling`` of a run's decode step (else of any), None without a run on fewer GPUs."""
    size = facts.tp or len(job.ranks)
    mine = table.filter((pl.col("tp") == size) & pl.col("efficiency_pct").is_not_null())
    if mine.is_empty() or table.filter(pl.col("tp") < size).is_empty():
        return None
    ordered = mine.sort((pl.col("kind") == "decode").fill_null(False), "profiled", descending=[True, False])
    return ordered.row(0, named=True)


def _most(parts: dict[str, float]) -> str:
    """The part that loses most against an even share, in words."""
    if not parts or next(iter(parts.values())) <= 0:
        return ""
    part, ms = next(iter(parts.items()))
    return (
        f"; the recorded step is {duration(1e6 * sum(parts.values()))} longer than an even share, {duration(1e6 * ms)} of "
        f"that in {_PARTS[part]}"
    )


def _advice(kind: Kind, parts: dict[str, float]) -> list[str]:
    largest = [_REMEDIES[part] for part, ms in list(parts.items())[:1] if ms > 0]
    if kind == "nvlink":
        return [
            *largest,
            "The links are the best there are: look at exposed-communication (TQL501) and straggler-rank (TQL503).",
        ]
    return [
        "Choose GPUs that share NVLink for a group, or at least one NUMA node (CUDA_VISIBLE_DEVICES).",
        "Without NVLink, prefer data or pipeline parallelism over tensor parallelism.",
        *largest,
    ]

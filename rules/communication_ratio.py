"""
## What it does
Compares the time that collectives take to transfer with the time the GPU computes in a step, and the bandwidth they reach
with the link's.

## Why it matters
The ratio says whether the number of ranks suits the model and the link. Tensor parallelism over a pair of NVLink GPUs
costs about 5 % of the computation; several times that means small messages, a slow algorithm or a slow path.

## How it is measured
Transfer time as in exposed-communication (TQL501): waiting for a late rank is left out, hidden transfer counts. Compute
time is the union of the step's other kernels. The ratio of the typical step is reported, for each kind of step, on the
rank where the median is largest, over the steps that exposed-communication counts.

Bandwidth follows NCCL-tests: algorithm bandwidth is size over time, with the size of the whole group's buffer for
all-gather, reduce-scatter and all-to-all; bus bandwidth is that times 2(n−1)/n for all-reduce, (n−1)/n for those three,
1 for broadcast, reduce and send/receive. It is compared with the GPU's link in one direction.

`max-ratio-pct` is 10.

## Known problems
Sizes of collectives inside a CUDA graph are known only with an eager run (`--eager`), and bandwidth with them. Messages
of a few hundred kB reach a tenth of the link's bandwidth at best: their time is latency.

## How to fix
As for exposed-communication. Check the algorithm and protocol NCCL chose (columns of the table), that peers use NVLink
(`nvidia-smi topo -m`), and whether fewer ranks would do.

## References
NCCL-tests, doc/PERFORMANCE.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from traceql.finding import Finding, Severity
from traceql.ranks.costs import StepCost, by_collective, collective_costs, median_costs, mostly_nccl, per_layer
from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job, jobs
from traceql.report.units import number
from traceql.rule import NotApplicableError, RunRule, option
from traceql.wording import duration, percent


class CommunicationRatio(RunRule):
    code = "TQL502"
    name = "communication-ratio"
    summary = "Collectives take long compared with the computation of a step."
    severity = Severity.INFO
    needs = ("gpu_rows", "steps")

    @dataclass(frozen=True)
    class Options:
        max_ratio_pct: float = option(10.0, "transfer over compute time of the step that is still normal")

    def check_run(self, digests: Sequence[RankDigest], options: Options) -> Iterator[Finding]:
        found = jobs(digests)
        if not found:
            raise NotApplicableError("no communication kernels in the trace")
        for job in found:
            for cost in median_costs(job, pl.col("transfer_ns"), pl.col("compute_ns")):
                if cost.share_pct > options.max_ratio_pct:
                    yield self._finding(job, cost)

    def _finding(self, job: Job, cost: StepCost) -> Finding:
        rank, row = job.ranks[cost.member], cost.row
        table = by_collective(job, cost)
        link = rank.link_bytes_per_s
        rates = table.filter(pl.col("bus_gb_per_s").is_not_null()).sort(pl.col("transfer_ns") * -1)
        speed = ""
        if link and not rates.is_empty():
            rate = rates["bus_gb_per_s"][0]
            speed = (
                f"; {rates['op'][0]} reaches {number(rate)} GB/s bus bandwidth, {percent(100 * rate * 1e9 / link)} of the "
                f"link's {link / 1e9:.0f}"
            )
        of = collective_costs(job).filter((pl.col("member") == cost.member) & (pl.col("step_id") == row["step_id"]))
        return self.finding(
            f"Collectives transfer for {duration(row['transfer_ns'])} beside {duration(row['compute_ns'])} of computation in a "
            f"{cost.label} ({percent(cost.share_pct)}), waiting not counted{speed}.",
            key=(cost.kind, *sorted({str(op) for op in table["op"]})),
            subject=str(table.sort(pl.col("transfer_ns") * -1)["op"][0]),
            trace=rank.index,
            step_id=row["step_id"],
            certainty="exact" if of["matched"].all() else "modelled",
            evidence={
                "communication_to_compute_pct": cost.share_pct,
                "transfer_us_per_step": row["transfer_ns"] / 1000,
                "compute_us_per_step": row["compute_ns"] / 1000,
                "waiting_us_per_step": row["waiting_ns"] / 1000,
                "steps": cost.steps,
                "bytes_per_step": None if table["bytes"].null_count() else int((table["bytes"] * table["calls"]).sum()),
                "link_gb_per_s": None if link is None else link / 1e9,
                **per_layer(job, cost),
                "by_collective": [
                    {
                        "op": r["op"], "kernel": r["what"], "bytes": r["bytes"], "calls": r["calls"],
                        "transfer_us": r["transfer_ns"] / 1000, "bus_gb_per_s": r["bus_gb_per_s"],
                        "of_link_pct": None if link is None or r["bus_gb_per_s"] is None
                        else 100 * r["bus_gb_per_s"] * 1e9 / link,
                    }
                    for r in table.head(8).rows(named=True)
                ],
            },
            advice=[
                "Check which algorithm and protocol the kernels' names give, and that the GPUs are linked by NVLink.",
                "Messages too small for the link: fuse them, use a one-shot all-reduce, or run on fewer ranks."
                if mostly_nccl(table)
                else "Messages too small for the link: fuse them with the norm after them, or run on fewer ranks.",
            ],
        )  # fmt: skip

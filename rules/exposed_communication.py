"""
## What it does
Measures how long a step's GPU only communicates: collectives (NCCL, RCCL, custom and multimem all-reduce, DeepEP) that
no computation hides. Waiting for a late rank is shown apart and does not count.

## Why it matters
Tensor parallelism puts two all-reduces into every layer. What is not hidden under computation is added to every token.

## How it is measured
The time of a communication kernel is split four ways: *early* (launched ahead and still behind an earlier kernel of its
own stream), *hidden* (compute kernels run on another stream of the device), *shared* (under an earlier collective,
counted there), and *exposed*, the rest. A later kernel of the same stream that overlaps it was launched early
(programmatic dependent launch) and waits for it: that hides nothing, and is why the layer's wall time stands beside.

Transfer is the shortest duration among the ranks of the same collective: the last rank to arrive does not wait. With one
rank it is the shortest of the same kernel, group and size in the trace, which is then modelled. The rest is waiting; it
comes first, so hidden time is taken off it. The exposed transfer of the typical step is compared with the step's period,
for each kind of step, on the rank where the median share is largest. The first and the last step of a capture are left
out where there are others; of these two alone the last counts, for the first one's collectives absorb the skew with which
the ranks started to record. Captures are judged by their first 64 steps.

`min-share-pct` is 5: an 8B model at TP=2 over NVLink with NCCL inside a CUDA graph spends 10 % of a profiled 7 ms step, a
host-bound eager step of the same model 2 %.

The estimate is all of the exposed transfer: the most that overlap or a faster collective could bring.

## Known problems
Collectives in a graph replay carry no size unless an eager run is given (`--eager`). Branches of a replay that a
profiler shows on one stream look like early launches. A single rank whose every collective waited has no undisturbed
one to compare with: its transfer is overstated.

## How to fix
Small messages: one-shot custom, multimem or symmetric-memory all-reduce in place of NCCL's ring; fuse the all-reduce
with the norm that follows. Large ones: overlap with computation (two micro-batches, sequence parallelism, chunked
GEMM + reduce-scatter). Fewer ranks, or data-parallel attention, where the model fits.

## References
NCCL user guide, "Environment variables" (NCCL_ALGO, NCCL_PROTO); CUDA programming guide, "Programmatic Dependent Launch".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from traceql.finding import Finding, Severity
from traceql.ranks.costs import (
    StepCost,
    alignment,
    all_reduces,
    by_collective,
    collective_costs,
    median_costs,
    mostly_nccl,
    per_layer,
)
from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job, jobs
from traceql.rule import NotApplicableError, RunRule, option
from traceql.wording import a_step, counted, duration, percent

_SMALL_BYTES = 1 << 20
"""Below this an all-reduce over NVLink is a matter of latency, not of bandwidth."""


class ExposedCommunication(RunRule):
    code = "TQL501"
    name = "exposed-communication"
    summary = "The GPU communicates and does nothing else for too much of a step."
    severity = Severity.WARNING
    needs = ("gpu_rows", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(5.0, "share of the step period that exposed transfer must exceed")

    def check_run(self, digests: Sequence[RankDigest], options: Options) -> Iterator[Finding]:
        found = jobs(digests)
        if not found:
            raise NotApplicableError("no communication kernels in the trace")
        for job in found:
            for cost in median_costs(job, pl.col("exposed_transfer_ns"), pl.col("period_ns")):
                if cost.share_pct > options.min_share_pct:
                    yield self._finding(job, cost)

    def _finding(self, job: Job, cost: StepCost) -> Finding:
        rank, row = job.ranks[cost.member], cost.row
        of = collective_costs(job).filter((pl.col("member") == cost.member) & (pl.col("step_id") == row["step_id"]))
        measured = bool(of["matched"].all())
        table = by_collective(job, cost)
        hidden = f"another {duration(row['hidden_ns'])}" if row["hidden_ns"] else "none of them"
        waiting = row["exposed_waiting_ns"]
        late = f"; for {duration(waiting)} more it waits for other ranks" if waiting else ""
        return self.finding(
            f"The GPU only communicates for {duration(row['exposed_transfer_ns'])} of {a_step(row['period_ns'], cost.label)} "
            f"({percent(cost.share_pct)}): {counted(row['collectives'], 'collective')}, {hidden} hidden under "
            f"computation{late}.",
            key=(cost.kind, *sorted({str(op) for op in table["op"]})),
            subject=str(table["op"][0]),
            trace=rank.index,
            step_id=row["step_id"],
            start_ns=row["gpu_start_ns"],
            end_ns=None if row["gpu_start_ns"] is None else row["gpu_start_ns"] + row["gpu_dur_ns"],
            savings_us_per_step=row["exposed_transfer_ns"] / 1000,
            savings_basis="bound",
            certainty="exact" if measured else "modelled",
            evidence={
                "exposed_us_per_step": row["exposed_transfer_ns"] / 1000,
                "share_of_period_pct": cost.share_pct,
                "hidden_us_per_step": row["hidden_ns"] / 1000,
                "waiting_us_per_step": row["waiting_ns"] / 1000,
                "step_period_us": row["period_ns"] / 1000,
                "steps": cost.steps,
                "collectives_per_step": row["collectives"],
                "transfer_from": f"the shortest of {len(job.ranks)} ranks" if measured else "the fastest of its kind",
                **per_layer(job, cost),
                **alignment(job),
                "by_collective": [
                    {
                        "op": r["op"], "kernel": r["what"], "bytes": r["bytes"], "calls": r["calls"],
                        "exposed_us": r["exposed_transfer_ns"] / 1000, "hidden_us": r["hidden_ns"] / 1000,
                        "waiting_us": r["waiting_ns"] / 1000,
                    }
                    for r in table.head(8).rows(named=True)
                ],
                **({"by_rank": _by_rank(job, cost)} if job.several else {}),
            },
            advice=_advice(table, cost.kind, waits=waiting > row["exposed_transfer_ns"]),
        )  # fmt: skip


def _by_rank(job: Job, cost: StepCost) -> list[dict[str, object]]:
    return [
        {
            "rank": job.ranks[r["member"]].rank, "exposed_us_per_step": r["exposed_transfer_ns"] / 1000,
            "waiting_us_per_step": r["waiting_ns"] / 1000, "share_pct": 100 * r["share"],
        }
        for r in cost.ranks.sort(["share", "member"], descending=[True, False]).head(16).rows(named=True)
    ]  # fmt: skip


def _advice(table: pl.DataFrame, kind: str | None, *, waits: bool) -> list[str]:
    advice = []
    largest = all_reduces(table)["bytes"].max()
    small = kind == "decode" if largest is None else int(largest) <= _SMALL_BYTES  # type: ignore[arg-type]
    if small and mostly_nccl(table):
        advice.append(
            "For small messages a one-shot all-reduce beats a ring (SGLang: no --disable-custom-all-reduce, or "
            "--enable-torch-symm-mem), and it can be fused with the norm after it (--enable-flashinfer-allreduce-fusion)."
        )
    elif small:
        advice.append(
            "The all-reduce is one made for small messages already: fuse it with the norm after it (SGLang: "
            "--enable-flashinfer-allreduce-fusion), or run on fewer ranks."
        )
    else:
        advice.append(
            "Overlap large messages with computation: two micro-batches (SGLang: --enable-two-batch-overlap), or chunked "
            "GEMM and reduce-scatter."
        )
    if waits:
        advice.append("Most of the time in collectives is waiting: see straggler-rank (TQL503) first.")
    return advice

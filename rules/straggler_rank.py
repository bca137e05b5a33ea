"""
## What it does
Finds the rank that the others wait for: it enters the collectives of a step late. Says how late, who waits, and what the
rank did meanwhile: longer kernels, or a GPU idle because its host was late.

## Why it matters
A collective ends when its last rank has arrived. One slow GPU, one busy host process, slows every rank of the job, and on
each of the others it looks like communication: 86 % "communication" on one capture was 3 % transfer.

## How it is measured
Collectives of the ranks are matched by their order within the process group. The clocks are those of the files; ends of
matched collectives, which all ranks see at the same time, check them and correct them where the files disagree. The error
that remains (median distance between first and last end) is in the evidence. Processes of one Nsight Systems file share its
clock and are matched by what runs at the same time.

A rank is late by the time from the middle rank's arrival to its own (of two ranks: from the first's). After a
collective the ranks are together again, so lateness at each adds up over the step. A straggler is late by more than
`min-share-pct` of the median step and more than `min-late-us`, in the median of the steps. The first step of a capture
is left out: it holds the skew with which the ranks began to record (12.7 ms was seen); the 63 steps after it are
compared. Where most ranks are late in turn, no single rank is the cause and one finding says so.

What the rank did instead is what it spent more, per step, than the median of the others.

The estimate is the lateness of the one straggler, the most that can be saved; none where ranks are late in turn. A profiler slows
the hosts and not the GPUs: what the straggler lost but to longer kernels counts as much less as its step without a profiler
is shorter beside its kernels, where the run's manifest has that step; `profiled_savings` is the lateness as recorded.

`min-share-pct` is 10 and `min-late-us` is 100: two ranks that replay graphs waited 42-84 µs for each other in a step of
5.8 ms, 1 % of it, which is the jitter of their hosts.

## Known problems
A profiler slows the hosts, not equally: host-bound ranks wait for each other more than in production. Two captured steps
are few. Ranks whose captures do not overlap in time cannot be matched.

## How to fix
Longer kernels on one rank: clocks and temperature (throttling), another process on the GPU, an uneven shard or expert
load. A late host: pin processes to cores near the GPU, keep other work off those cores, capture the step in a CUDA graph
so that the host's jitter is hidden.

## References
NCCL user guide, "Collective operations"; `nvidia-smi -q -d PERFORMANCE,CLOCK`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from traceql.finding import Finding, Severity
from traceql.ranks.costs import alignment
from traceql.ranks.digest import RankDigest
from traceql.ranks.jobs import Job, jobs
from traceql.ranks.lateness import by_rank, instead, late_steps, waits_between
from traceql.rule import NotApplicableError, RunRule, option
from traceql.wording import duration, percent


class StragglerRank(RunRule):
    code = "TQL503"
    name = "straggler-rank"
    summary = "One rank enters collectives late and the others wait for it."
    severity = Severity.WARNING
    needs = ("gpu_rows", "steps")

    @dataclass(frozen=True)
    class Options:
        min_share_pct: float = option(10.0, "lateness in a step, as share of the median step")
        min_late_us: float = option(100.0, "lateness in a step below which a rank is not reported")

    def check_run(self, digests: Sequence[RankDigest], options: Options) -> Iterator[Finding]:
        several = [job for job in jobs(digests) if job.several]
        if not several:
            raise NotApplicableError("one rank alone: give the traces of all ranks of the job")
        judged = [(job, steps) for job in several if not (steps := late_steps(job)).is_empty()]
        if not judged:
            raise NotApplicableError("no collective of a step after the first could be matched between the ranks")
        for job, steps in judged:
            for (kind,), of_kind in steps.group_by("kind", maintain_order=True):
                yield from self._of_kind(job, of_kind, None if kind is None else str(kind), options)

    def _of_kind(self, job: Job, steps: pl.DataFrame, kind: str | None, options: Options) -> Iterator[Finding]:
        period = float(steps["period_ns"].median() or 0)  # type: ignore[arg-type]
        ranks = by_rank(steps).with_columns(share=100 * pl.col("late_ns") / pl.lit(period))
        late = ranks.filter(
            (pl.col("late_ns") > options.min_late_us * 1000) & (pl.col("share") > options.min_share_pct)
        )
        if late.height > len(job.ranks) // 2:
            yield self._in_turn(job, steps, ranks, late, kind)
            return
        for index in range(late.height):
            yield self._straggler(job, steps, ranks, index, kind)

    def _straggler(self, job: Job, steps: pl.DataFrame, ranks: pl.DataFrame, index: int, kind: str | None) -> Finding:
        row = ranks.row(index, named=True)
        member = row["member"]
        spent = instead(job, member, steps)
        own = steps.filter((pl.col("member") == member) & (pl.col("step_id") == row["typical_step_id"]))
        saved_ns = _unprofiled(job.ranks[member], steps.filter(pl.col("member") == member), kind, row["late_ns"], spent)
        others = len(job.ranks) - 1
        waiting = f"the other {others} ranks wait" if others > 1 else f"rank {job.ranks[1 - member].rank} waits"
        return self.finding(
            f"Rank {row['rank']} is {duration(row['late_ns'])} late at the collectives of a {_label(kind)} "
            f"({percent(row['share'])} of {_ms(steps)}), {waiting} for it; meanwhile {_phrase(spent)}.",
            key=("straggler", row["rank"], kind),
            subject=f"rank {row['rank']}",
            trace=job.ranks[member].index,
            step_id=row["typical_step_id"],
            start_ns=_start_ns(job.ranks[member], row["typical_step_id"]),
            savings_us_per_step=saved_ns / 1000,
            savings_basis="bound",
            certainty="modelled",
            evidence={
                "late_us_per_step": row["late_ns"] / 1000,
                **({} if saved_ns == row["late_ns"] else {"profiled_savings_us_per_step": row["late_ns"] / 1000}),
                "share_of_step_pct": row["share"],
                "last_at_collectives": row["last"],
                "collectives": own["collectives"][0] * row["steps"],
                "steps": row["steps"],
                "did_instead": [
                    {"what": r["what"], "blame": r["blame"], "us": r["ns"] / 1000, "extra_us": r["extra_ns"] / 1000}
                    for r in spent.filter(pl.col("extra_ns") > 0).head(5).rows(named=True)
                ],
                **_tables(job, ranks, kind),
                **alignment(job),
            },
            advice=_advice(spent),
        )

    def _in_turn(
        self, job: Job, steps: pl.DataFrame, ranks: pl.DataFrame, late: pl.DataFrame, kind: str | None
    ) -> Finding:
        first = late.row(0, named=True)
        named = ", ".join(f"rank {r['rank']} {duration(r['late_ns'])}" for r in late.head(4).rows(named=True))
        spent = instead(job, first["member"], steps)
        return self.finding(
            f"The ranks are late in turn at the collectives of a {_label(kind)} of {_ms(steps)} and wait for each other: "
            f"{named} a step. This is waiting, not communication.",
            key=("in turn", kind),
            subject=f"rank {first['rank']}",
            trace=job.ranks[first["member"]].index,
            step_id=first["typical_step_id"],
            start_ns=_start_ns(job.ranks[first["member"]], first["typical_step_id"]),
            evidence={
                "latest_rank_us_per_step": first["late_ns"] / 1000,
                "share_of_step_pct": first["share"],
                "late_ranks": late.height,
                "ranks": len(job.ranks),
                "steps": first["steps"],
                **_tables(job, ranks, kind),
                **alignment(job),
            },
            advice=[
                "Every rank's GPU waits for its own host at times, and the others for it: capture the step in a CUDA graph "
                "(see launch-gap, TQL101).",
                *_advice(spent)[:1],
            ],
        )


def _unprofiled(rank: RankDigest, own: pl.DataFrame, kind: str | None, late_ns: float, spent: pl.DataFrame) -> float:
    """The lateness in a step without a profiler: that of the host as much shorter as the step beside its kernels."""
    unprofiled = rank.unprofiled_step_ns
    period, computing = own.select(pl.col("period_ns").median(), pl.col("compute_ns").fill_null(0).median()).row(0)
    if unprofiled is None or kind not in (None, "decode") or period <= max(computing, unprofiled):
        return late_ns
    longer_kernels = float(spent.filter(pl.col("what") == "computing")["extra_ns"].sum())
    of_device = min(max(longer_kernels, 0.0), late_ns)
    return float(of_device + (late_ns - of_device) * max(0, unprofiled - computing) / (period - computing))


def _start_ns(rank: RankDigest, step_id: int) -> int:
    return int(rank.steps.filter(pl.col("step_id") == step_id)["start_ns"][0])


def _tables(job: Job, ranks: pl.DataFrame, kind: str | None) -> dict[str, object]:
    return {
        "by_rank": [
            {
                "rank": r["rank"], "late_us_per_step": r["late_ns"] / 1000, "waiting_us_per_step": r["waiting_ns"] / 1000,
                "share_of_step_pct": r["share"], "last_at": r["last"],
            }
            for r in ranks.head(16).rows(named=True)
        ],
        "who_waits_for_whom": [
            {"rank": waiting, "waits_for_rank": last, "us_per_step": ns / 1000}
            for waiting, last, ns in waits_between(job, kind).head(8).rows()
        ],
    }  # fmt: skip


def _label(kind: str | None) -> str:
    return f"{kind} step" if kind else "step"


def _ms(steps: pl.DataFrame) -> str:
    return duration(float(steps["period_ns"].median() or 0))  # type: ignore[arg-type]


def _phrase(spent: pl.DataFrame) -> str:
    top = spent.row(0, named=True)
    if top["extra_ns"] <= 0:
        return "it did nothing that the trace shows longer than they did"
    us = f"{duration(top['extra_ns'])} more than the others"
    if top["what"] == "computing":
        return f"it computes {us}"
    under = f", most under {top['blame']}" if top["blame"] else ""
    return f"its GPU is idle {us} ({top['what'].removeprefix('GPU idle: ')}{under})"


def _advice(spent: pl.DataFrame) -> list[str]:
    if spent["what"][0] == "computing":
        return [
            "The rank computes longer: look at its clocks, temperature and other processes on the GPU, then at uneven shards "
            "or expert load."
        ]
    return [
        "The rank's host is late: pin the process to cores near its GPU and see what ran beside it; a CUDA graph hides "
        "the host's jitter."
    ]

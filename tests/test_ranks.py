"""Ranks of one job: matching, clocks, who waits for whom; on built jobs and on the real two-rank captures."""

from __future__ import annotations

import polars as pl
import pytest
import ranks_built
import traces

import traceql as tq
from traceql import registry
from traceql.engine import Selection
from traceql.opening import TraceSet
from traceql.ranks.digest import digests
from traceql.ranks.jobs import jobs
from traceql.testing import TraceBuilder


def matched(*ranks: tq.Trace) -> tuple[object, object]:
    ((job, found),) = TraceSet(tuple(ranks)).matched
    return job, found


def only(code: str) -> Selection:
    return Selection([registry.rules()[code]])


def test_one_straggler_among_64_ranks_is_found() -> None:
    ranks = ranks_built.job(64, slower_us=lambda rank: 25.0 if rank == 17 else 0.0)
    (finding,) = tq.analyze(TraceSet(tuple(ranks)), selection=only("TQL503")).found
    assert finding.subject == "rank 17"
    assert finding.trace == 17
    assert finding.evidence["late_us_per_step"] == pytest.approx(8 * 25, rel=0.1)
    assert finding.evidence["last_at_collectives"] == finding.evidence["collectives"] == 8 * 4
    assert finding.evidence["did_instead"][0]["what"] == "computing"
    assert finding.evidence["did_instead"][0]["extra_us"] == pytest.approx(8 * 25, rel=0.1)
    assert finding.evidence["clock_error_us"] < 1
    assert "the other 63 ranks" in finding.message


def test_even_ranks_have_no_straggler() -> None:
    report = tq.analyze(TraceSet(tuple(ranks_built.job(16))), selection=only("TQL503"))
    assert [o.outcome for o in report.rules] == ["passed"]


def test_clocks_are_corrected_by_the_ends_of_collectives() -> None:
    _, found = matched(*ranks_built.job(8, clock_error_us=5_000))
    assert found.wall_skew_ns > 1_000_000
    assert found.end_skew_ns < 1_000
    assert found.unmatched == 0


def test_captures_that_begin_at_different_collectives_are_matched() -> None:
    ranks = ranks_built.job(4, missed=lambda rank: 3 * rank)
    _, found = matched(*ranks)
    assert found.unmatched == 9 + 6 + 3
    assert found.rows["match_id"].n_unique() == 5 * 8 - 9
    assert found.end_skew_ns < 1_000


def test_matching_needs_no_wall_clock() -> None:
    _, found = matched(*ranks_built.job(4, missed=lambda rank: rank, clocks=False))
    assert found.wall_skew_ns is None
    assert found.end_skew_ns < 1_000
    assert found.rows["match_id"].n_unique() == 5 * 8 - 3


def test_drifting_clocks_are_corrected() -> None:
    _, found = matched(*ranks_built.job(4, steps=40, drift_ppm=400))
    assert found.wall_skew_ns > 20_000
    assert found.end_skew_ns < 1_000
    assert found.unmatched == 0


def test_two_unnamed_groups_of_one_job_are_told_apart() -> None:
    """Data parallelism over tensor parallelism: ranks 0-3 and 4-7 reduce among themselves, at about the same times."""
    pace = [
        ranks_built.job(4, group=None, steps=20, first_rank=4 * n, seed=n, slower_us=lambda rank, n=n: 5.0 * n)
        for n in (0, 1)
    ]
    _, found = matched(*pace[0], *pace[1])
    partners = found.rows.group_by("match_id").agg(pl.col("rank").sort())["rank"].unique().sort().to_list()
    assert partners == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_devices_of_one_file_are_ranks() -> None:
    """Nsight Systems records all processes of a host into one file: device 1 is late at every collective."""
    build = TraceBuilder("nsys")
    for step in range(4):
        start = 1000 * step
        build.range("step[DECODE bs=8]", start, 900)
        for device, compute in ((0, 300), (1, 500)):
            build.launch("gemm", call_us=start + 2, call_dur_us=1, gpu_us=start + 10, gpu_dur_us=compute, device=device)
            build.launch(
                "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", call_us=start + 5, call_dur_us=1,
                gpu_us=start + 10 + compute, gpu_dur_us=510 - compute, device=device,
            )  # fmt: skip
    trace = build.trace()
    (finding,) = tq.analyze(trace, selection=only("TQL503")).found
    assert finding.subject == "rank 1"
    assert finding.evidence["late_us_per_step"] == pytest.approx(200)
    assert finding.evidence["did_instead"][0] == {"what": "computing", "blame": None, "us": 500, "extra_us": 200}


def test_captures_of_other_runs_are_other_jobs() -> None:
    ranks = [*ranks_built.job(4, seed=1), *ranks_built.job(4, seed=2)]
    made = [digest for index, trace in enumerate(ranks) for digest in digests(trace, index)]
    assert [len(job.ranks) for job in jobs(made)] == [4, 4]


@pytest.mark.parametrize(
    ("mode", "waits", "skew_ns"), [("eager", (73142926, 21537727), 215), ("graph", (185988, 12945676), 419)]
)
def test_real_pair_waits(mode: str, waits: tuple[int, int], skew_ns: int) -> None:
    name = f"torch/sglang-h200-llama8b-tp2-decode-{mode}-nccl-rank"
    _, found = matched(*(traces.extra(f"{name}{rank}.trace.json.gz") for rank in (0, 1)))
    rows = found.rows
    truth = traces.truth()[f"crossrank_tp2_{mode}_nccl"]
    assert found.wall_skew_ns == truth["end_skew_abs_median_ns"] == skew_ns
    assert found.end_skew_ns <= skew_ns
    assert found.unmatched == 0
    for rank in (0, 1):
        mine = rows.filter(pl.col("rank") == rank)
        assert mine.height == truth["counts"][rank] == 198
        assert mine["dur_ns"].sum() == truth["sum_ns"][rank]
        assert mine["transfer_ns"].sum() == truth["min_of_pair_sum_ns"]
        assert mine["waiting_ns"].sum() == waits[rank] == truth["wait_ns"][rank]
    last = rows.unique("match_id")["last_rank"].value_counts().sort("last_rank")["count"].to_list()
    assert last[0] == truth["rank0_later"]


def test_bundled_pair_transfers_and_does_not_wait() -> None:
    pair = TraceSet(tuple(traces.sample(f"sglang-h200-tp2-decode-graph-rank{rank}") for rank in (0, 1)))
    report = tq.analyze(pair, selection=Selection(registry.resolve("TQL5")))
    outcomes = {o.code: o.outcome for o in report.rules}
    assert outcomes == {"TQL501": "failed", "TQL502": "failed", "TQL503": "passed", "TQL504": "not_applicable"}
    exposed = next(f for f in report.found if f.code == "TQL501")
    assert exposed.evidence["exposed_us_per_step"] == pytest.approx(680, abs=5)
    assert exposed.evidence["transfer_us_per_layer"] == pytest.approx(19.2, abs=0.2)
    assert exposed.certainty == "exact"
    assert pair.sql("select count(*) n from collective_matches")["n"][0] == 396


def test_waiting_is_not_called_communication() -> None:
    name = "torch/sglang-h200-llama8b-tp2-decode-eager-nccl-rank"
    pair = TraceSet(tuple(traces.extra(f"{name}{rank}.trace.json.gz") for rank in (0, 1)))
    report = tq.analyze(pair, selection=Selection(registry.resolve("TQL5")))
    outcomes = {o.code: o.outcome for o in report.rules}
    assert outcomes["TQL501"] == "passed"
    assert outcomes["TQL503"] == "failed"
    ratio = next(f for f in report.found if f.code == "TQL502")
    assert ratio.evidence["transfer_us_per_step"] == pytest.approx(667, abs=5)
    assert ratio.evidence["communication_to_compute_pct"] < 20


def test_a_rule_over_all_traces_has_one_outcome() -> None:
    pair = TraceSet(tuple(traces.sample(f"sglang-h200-tp2-decode-graph-rank{rank}") for rank in (0, 1)))
    report = tq.analyze(pair)
    assert "TQL503" in {o.code for o in report.outcomes[0]}
    assert "TQL503" not in {o.code for o in report.outcomes[1]}
    assert [o.code for o in report.rules] == sorted({o.code for o in report.rules})

"""Ranks of one job: matching, clocks, who waits for whom; on built jobs and on the real two-rank captures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import ranks_built
import traces
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql import registry, samples
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


def without(trace: tq.Trace, lost: set[int]) -> tuple[tq.Trace, dict[int, int]]:
    """``trace`` without the collectives at ``lost`` places of its order; place → duration, ns, of those that stay."""
    calls = trace.loaded["kernels"].filter(pl.col("name").str.contains("nccl")).sort("start_ns")
    gone = [row for place, row in enumerate(calls.select("kernel_id", "start_ns").rows()) if place in lost]
    kernels = trace.loaded["kernels"].filter(~pl.col("kernel_id").is_in([kernel for kernel, _ in gone]))
    kernels = kernels.with_columns(kernel_id=pl.int_range(pl.len(), dtype=pl.Int64))  # ids are places in the table
    stated = trace.loaded["collective_calls"].filter(~pl.col("start_ns").is_in([start for _, start in gone]))
    left = {place: dur for place, dur in enumerate(calls["dur_ns"]) if place not in lost}
    return replace(trace, loaded={**trace.loaded, "kernels": kernels, "collective_calls": stated}, _memo={}), left


def test_records_lost_side_by_side() -> None:
    """One rank lost the 40th collective, the other the 41st: the 40th of the one is not the 41st of the other."""
    ranks = [without(trace, {40 + rank})[0] for rank, trace in enumerate(ranks_built.job(2, steps=12))]
    _, found = matched(*ranks)
    assert found.rows["match_id"].n_unique() == 12 * 8 - 2
    assert found.unmatched == 2


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_waits_equal_a_plain_count_whatever_was_lost(data: st.DataObject) -> None:
    """Ranks that start late, lose records in between, stop early, with wrong and drifting clocks or none at all."""
    ranks, steps = data.draw(st.integers(2, 5)), 12
    missed = data.draw(st.lists(st.integers(0, 20), min_size=ranks, max_size=ranks))
    slower = data.draw(st.lists(st.floats(0, 40), min_size=ranks, max_size=ranks))
    built = ranks_built.job(
        ranks, steps=steps, missed=missed.__getitem__, slower_us=slower.__getitem__, seed=data.draw(st.integers(0, 99)),
        clock_error_us=data.draw(st.sampled_from([0.0, 300.0, 50_000.0])), drift_ppm=data.draw(st.sampled_from([0, 80])),
        clocks=data.draw(st.booleans()),
    )  # fmt: skip
    traces_left, durations = [], []
    for rank, whole in enumerate(built):
        there = steps * ranks_built.LAYERS - missed[rank]
        lost = data.draw(st.sets(st.integers(10, there - 10), max_size=2))
        lost |= set(range(there - data.draw(st.integers(0, 6)), there))  # the capture stopped earlier
        trace, left = without(whole, lost)
        traces_left.append(trace)
        durations.append({place + missed[rank]: dur for place, dur in left.items()})
    _, found = matched(*traces_left)
    common = set.intersection(*map(set, durations))
    assert found.rows["match_id"].n_unique() == len(common)
    assert found.unmatched == sum(map(len, durations)) - ranks * len(common)
    for rank, own in enumerate(durations):
        waits = sum(own[place] - min(other[place] for other in durations) for place in common)
        mine = found.rows.filter(pl.col("rank") == rank)
        assert mine["waiting_ns"].sum() == pytest.approx(waits, abs=2 * len(common))  # sub-ns starts round
    assert found.end_skew_ns < 1_500


def test_a_capture_given_twice_counts_once() -> None:
    ranks = ranks_built.job(4, slower_us=lambda rank: 30.0 if rank == 2 else 0.0)
    again = replace(ranks[1], path=Path("copy-of-rank1.json"), _memo={})
    (finding,) = tq.analyze(TraceSet((*ranks, again)), selection=only("TQL503")).found
    assert finding.subject == "rank 2"
    assert finding.evidence["captures_given_twice"] == "copy-of-rank1.json"


def test_ranks_that_are_not_there_are_counted() -> None:
    """Traces of ranks 1 and 3 of four: what they say of each other stands, and that two are missing."""
    ranks = ranks_built.job(4, slower_us=lambda rank: 30.0 if rank == 3 else 0.0)
    world = pl.DataFrame({"rank": [None], "key": ["distributed.world_size"], "value": ["4"]})
    two = []
    for trace in (ranks[1], ranks[3]):
        metadata = pl.concat([trace.loaded["metadata"], world.cast(dict(trace.loaded["metadata"].schema))])
        two.append(replace(trace, loaded={**trace.loaded, "metadata": metadata}, _memo={}))
    (finding,) = tq.analyze(TraceSet(tuple(two)), selection=only("TQL503")).found
    assert finding.subject == "rank 3"
    assert finding.evidence["ranks_without_a_trace"] == 2


def test_captures_of_different_length_are_matched() -> None:
    long, short = ranks_built.job(2, steps=30), ranks_built.job(2, steps=4)
    _, found = matched(long[0], short[1])  # built from one seed: the same steps, of which one capture holds four
    assert found.rows["match_id"].n_unique() == 4 * 8


def test_one_broken_file_does_not_keep_the_others_from_matching(tmp_path: Path) -> None:
    for rank in (0, 1):
        source = samples.path(f"sglang-h200-tp2-decode-graph-rank{rank}")
        shutil.copyfile(source, tmp_path / source.name)
    (tmp_path / "rank2.trace.json").write_text("not a trace")
    pair = tq.open(tmp_path)
    assert pair.sql("select count(*) n from collective_matches")["n"][0] == 396


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

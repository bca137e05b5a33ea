"""Several ranks in one nsys file: taken apart without loss, matched, judged as the ranks of several files are."""

from __future__ import annotations

import gzip
import json
import sqlite3
import struct
from collections import Counter
from contextlib import closing
from pathlib import Path

import jsonschema
import nsys_built
import polars as pl
import pytest
import ranks_built
import traces
from commands import traceql
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql import metrics, registry, samples
from traceql.counters import REPORTS, with_counters
from traceql.engine import Selection
from traceql.fleet import summaries as fleet
from traceql.opening import TraceSet
from traceql.scrub import scrub
from traceql.testing import TraceBuilder

_PAIR = "nsys-h200-sglang-tp2-decode-eager"
_GPU_TABLES = ("kernels", "memcpys", "memsets", "graph_traces")


def only(code: str) -> Selection:
    return Selection([registry.rules()[code]])


def straggling(ranks: int = 4, late: int = 2) -> list[tq.Trace]:
    """Rank ``late`` computes 30 µs longer than the others in each of 8 layers."""
    return ranks_built.job(ranks, slower_us=lambda rank: 30.0 if rank == late else 0.0, clock_error_us=0, group=None)


# --- against a plain count -----------------------------------------------------------------------------------------------


def plain_collectives(path: Path) -> dict[int, list[tuple[int, int, str]]]:
    """pid → (start, end, name) of its NCCL kernels in order, straight from SQLite."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "select (globalPid >> 24) & 0xffffff, start, end, value from CUPTI_ACTIVITY_KIND_KERNEL "
            "join StringIds on id = shortName where value like 'nccl%' order by start"
        ).fetchall()
    found: dict[int, list[tuple[int, int, str]]] = {}
    for pid, start, end, name in rows:
        found.setdefault(pid, []).append((start, end, name))
    return found


def test_matches_equal_a_plain_count() -> None:
    """Rank 1's capture began one step later: its n-th collective is the n-th from the end of rank 0's."""
    trace = traces.sample(_PAIR)
    one, other = plain_collectives(samples.path(_PAIR)).values()
    late = len(one) - len(other)
    pairs = list(zip(one[late:], other, strict=True))
    assert all(a[2] == b[2] and max(a[0], b[0]) < min(a[1], b[1]) for a, b in pairs)
    ((job, found),) = trace.ranks().matched
    assert job.one_clock
    assert [rank.rank for rank in job.ranks] == [0, 1]
    assert found.unmatched == late == 66
    assert [clock.offset_ns for clock in found.clocks] == [0, 0]
    durations = [[end - start for start, end, _ in each] for each in zip(*pairs, strict=True)]
    shortest = [min(both) for both in zip(*durations, strict=True)]
    begun = [a[0] - b[0] for a, b in pairs]
    for rank, (own, sign) in enumerate(zip(durations, (1, -1), strict=True)):
        mine = found.rows.filter(pl.col("rank") == rank)
        assert mine["dur_ns"].to_list() == own
        assert mine["transfer_ns"].to_list() == shortest
        assert mine["waiting_ns"].sum() == sum(own) - sum(shortest)
        assert mine["late_ns"].to_list() == [max(0, sign * late) for late in begun]
    skews = sorted(abs(a[1] - b[1]) for a, b in pairs)
    assert found.end_skew_ns == skews[len(skews) // 2] < 1_000


def test_the_late_rank_of_the_capture_is_named() -> None:
    report = tq.analyze(traces.sample(_PAIR))
    (finding,) = (f for f in report.found if f.code == "TQL503")
    one, other = plain_collectives(samples.path(_PAIR)).values()
    second = [b[0] - a[0] for a, b in zip(one[-66:], other[-66:], strict=True)]  # of rank 1's two steps
    assert finding.subject == "rank 1"
    assert finding.trace == 1
    assert finding.evidence["late_us_per_step"] == pytest.approx(sum(second) / 1000)
    assert finding.evidence["last_at_collectives"] == 66
    assert finding.evidence["clocks"] == "one, of one file"
    assert finding.evidence["clock_error_us"] == 0
    assert finding.evidence["ends_apart_us"] < 1


def test_sql_over_the_whole_file_uses_its_own_ids() -> None:
    trace = traces.sample(_PAIR)
    found = trace.sql(
        "select m.rank, k.pid, sum(m.waiting_ns) as waiting, sum(c.dur_ns - m.dur_ns) as off, count(*) as n, "
        "count(distinct m.step_id) as steps, min(c.step_id = m.step_id) as same from collective_matches m "
        "join collectives c using (collective_id) join kernels k using (kernel_id) group by 1, 2 order by 1"
    )
    one, other = plain_collectives(samples.path(_PAIR))
    assert found["pid"].to_list() == [one, other]
    assert found["off"].to_list() == [0, 0]
    assert found["n"].to_list() == [132, 132]
    assert found["steps"].to_list() == [2, 2]
    assert found["same"].to_list() == [True, True]
    assert found["waiting"].to_list() == [92359991, 0]


def test_figures_of_the_whole_stay() -> None:
    """What JSON says of the file's GPUs and launches does not depend on how it was taken apart."""
    trace = traces.sample(_PAIR)
    whole, apart = metrics.of(trace), tq.analyze(trace).metrics
    assert apart["gpus"] == whole["gpus"]
    assert apart["launches"] == whole["launches"]
    assert Counter(step["period_ns"] for step in apart["steps"]) == Counter(
        step["period_ns"] for step in whole["steps"]
    )


def test_steps_of_the_rank_that_shows_two() -> None:
    """Two repeats prove no step; that rank 0 repeats the same kernels three times does."""
    trace = traces.sample(_PAIR)
    for frame in (trace.table("steps"), trace.ranks().table("steps")):
        assert frame.group_by("pid").len().sort("pid")["len"].to_list() == [3, 2]
    (second,) = (part for part in trace.ranks() if part.rank == 1)
    assert second.table("steps")["kernels"].to_list() == [435, 435]
    assert second.table("step_devices")["device"].to_list() == [1, 1]
    alone = TraceSet((tq.open(samples.path(_PAIR)),)).traces[0].ranks().traces[1]
    alone.part.siblings = (alone,)
    assert alone.table("steps").is_empty()


# --- taken apart without loss --------------------------------------------------------------------------------------------


@st.composite
def files(draw: st.DrawFn) -> tq.Trace:
    """Up to four processes, most of their work on a GPU of their own, helpers and strays among it, some rows unnamed."""
    build = TraceBuilder("nsys", gpu=None)
    workers = draw(st.integers(2, 4))
    for place in range(workers):
        build.device("NVIDIA H200", device=place)
        for number in range(draw(st.integers(3, 12))):
            build.launch(
                draw(st.sampled_from(["gemm", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL"])), pid=place + 1,
                call_us=10 * number, gpu_us=10 * number + 5, gpu_dur_us=3, device=place,
            )  # fmt: skip
    some = st.sampled_from([None, *range(1, workers + 3)])
    for number in range(draw(st.integers(0, 12))):
        pid, device = draw(some), draw(st.sampled_from([None, *range(workers + 1)]))
        what = draw(st.sampled_from(["memcpys", "memsets", "synchronizations", "counters", "annotations", "overheads"]))
        row = {"start_us": number, "dur_us": 1}
        if what == "counters":
            build._add(what, **row, device=device, name="SM active", value=1.0)
        elif what in ("annotations", "overheads"):
            named = {"name": "range", "side": draw(st.sampled_from(["cpu", "gpu"])), "device": device}
            build._add(what, **row, pid=pid, tid=1, **(named if what == "annotations" else {"kind": "flush"}))
        else:
            build._add(what, **row, pid=pid, device=device)
    build.metadata("driver_version", "580")
    return build.trace()


def rows(frame: pl.DataFrame) -> Counter[tuple[object, ...]]:
    names = [c for c in frame.columns if c != "rank" and not (c.endswith("_id") and c != "correlation_id")]
    return Counter(frame.select(names).rows())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files())
def test_every_row_is_in_one_rank(trace: tq.Trace) -> None:
    parts = trace.ranks().traces
    put = {pid for name in _GPU_TABLES for pid in trace.loaded[name]["pid"].drop_nulls()}
    assert len(parts) == trace.loaded["kernels"]["device"].n_unique()
    for name, frame in trace.loaded.items():
        kept = frame
        if "pid" in frame.columns and name not in _GPU_TABLES:  # but for host rows of processes without GPU work
            of_nobody = ~pl.col("pid").is_in(list(put))
            if "device" in frame.columns:
                worked_on = [device for name in _GPU_TABLES for device in trace.loaded[name]["device"].drop_nulls()]
                on_gpu = pl.col("side") == "gpu" if name == "annotations" else pl.lit(True)
                of_nobody &= ~(on_gpu & pl.col("device").is_in(worked_on).fill_null(False))
            kept = frame.filter(~of_nobody.fill_null(False))
        if name == "metadata":
            assert all(rows(part.loaded[name]) == rows(frame) for part in parts)
            continue
        assert sum((rows(part.loaded[name]) for part in parts), Counter()) == rows(kept), name
    for part in parts:
        for frame in part.loaded.values():
            identity = frame.columns[0]
            if identity.endswith("_id") and "start_ns" in frame.columns:
                assert frame[identity].to_list() == list(range(frame.height))
    assert tq.analyze(trace, selection=Selection([])).metrics["gpus"] == metrics.of(trace)["gpus"]


# --- as those of several files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible_devices", [False, True])
@pytest.mark.parametrize("wall_clock", [False, True])
def test_a_straggler_of_four_processes(tmp_path: Path, *, visible_devices: bool, wall_clock: bool) -> None:
    """Found as in four files, with the same figures, whether or not each process calls its GPU device 0."""
    several = TraceSet(tuple(straggling()))
    (expected,) = tq.analyze(several, selection=only("TQL503")).found
    path = nsys_built.written(
        tmp_path / "four.sqlite", several.traces, visible_devices=visible_devices, wall_clock=wall_clock
    )
    trace = tq.open(path)
    assert [part.table("kernels")["device"].unique().to_list() for part in trace.ranks()] == [[0], [1], [2], [3]]
    (finding,) = tq.analyze(trace, selection=only("TQL503")).found
    assert finding.subject == expected.subject == "rank 2"
    assert finding.fingerprint == expected.fingerprint
    # several files' clocks are set by the ends of collectives, which scatter by up to 0.2 µs; one file's need not be
    assert finding.evidence["late_us_per_step"] == pytest.approx(expected.evidence["late_us_per_step"], abs=1)
    assert finding.evidence["who_waits_for_whom"][0]["waits_for_rank"] == 2
    ((_, one),), ((_, four),) = trace.ranks().matched, several.matched
    assert one.unmatched == four.unmatched == 0
    same = ["match_id", "rank", "collective_id", "op", "step_id", "dur_ns", "transfer_ns", "waiting_ns", "last_rank"]
    assert one.rows.select(same).equals(four.rows.select(same))
    assert trace.ranks().table("collective_matches").height == 4 * 5 * ranks_built.LAYERS


def test_a_merged_pytorch_trace_says_what_its_ranks_say(tmp_path: Path) -> None:
    """SGLang's profile merger writes the ranks into one file, a label before every process id."""
    pair = [samples.path(f"sglang-h200-tp2-decode-graph-rank{rank}") for rank in (0, 1)]
    documents = [json.loads(gzip.decompress(path.read_bytes())) for path in pair]
    merged = {k: v for k, v in documents[0].items() if k not in ("traceEvents", "distributedInfo")}
    merged["traceEvents"] = [
        event | ({"pid": f"[TP0{rank}] {event['pid']}"} if "pid" in event else {})
        for rank, document in enumerate(documents)
        for event in document["traceEvents"]
    ]
    path = tmp_path / "merged.trace.json"
    path.write_text(json.dumps(merged))
    told = [[(f.code, f.trace, f.message, f.fingerprint) for f in tq.analyze(each).found] for each in (path, pair)]
    assert told[0] == told[1]
    assert len(told[0]) > 5


def test_waiting_is_a_plain_count_when_one_capture_begins_late_and_loses_records(tmp_path: Path) -> None:
    built = ranks_built.job(
        3, slower_us=lambda rank: 9.0 * rank, missed=lambda rank: 5 * rank, clock_error_us=0, group=None
    )
    lost = {0: 20, 2: 15}  # of rank 0 and 2 one record each, by order of the rank's own
    processes, durations = [], []
    for rank, trace in enumerate(built):
        kernels = trace.loaded["kernels"].sort("start_ns")
        calls = kernels.filter(pl.col("name").str.contains("nccl"))
        gone = calls["kernel_id"][lost[rank]] if rank in lost else -1
        trace.loaded["kernels"] = kernels.filter(pl.col("kernel_id") != gone)
        durations.append({
            place + 5 * rank: dur for place, (row, dur) in enumerate(calls.select("kernel_id", "dur_ns").rows()) if row != gone
        })  # fmt: skip
        processes.append(trace)
    ((_, found),) = tq.open(nsys_built.written(tmp_path / "x.sqlite", processes)).ranks().matched
    common = set.intersection(*map(set, durations))
    assert found.rows["match_id"].n_unique() == len(common) == 40 - 10 - 2
    for rank, own in enumerate(durations):
        waits = sum(own[place] - min(other[place] for other in durations) for place in common)
        mine = found.rows.filter(pl.col("rank") == rank)
        assert mine["waiting_ns"].sum() == pytest.approx(waits, abs=2 * len(common))  # sub-ns starts round


def test_two_groups_in_one_file_are_not_matched_with_each_other(tmp_path: Path) -> None:
    """Two replicas of two ranks each, at about the same pace on one clock."""
    pace = [
        ranks_built.job(2, group=None, steps=20, seed=n, clock_error_us=0, slower_us=lambda rank, n=n: 3.0 * n)
        for n in (0, 1)
    ]
    ((_, found),) = tq.open(nsys_built.written(tmp_path / "x.sqlite", [*pace[0], *pace[1]])).ranks().matched
    partners = found.rows.group_by("match_id").agg(pl.col("rank").sort())["rank"].unique().sort().to_list()
    assert partners == [[0, 1], [2, 3]]
    assert found.rows["match_id"].n_unique() == 2 * 20 * ranks_built.LAYERS


def test_one_process_with_a_thread_for_each_gpu(tmp_path: Path) -> None:
    """Stays one trace; its devices are ranks for the matching, each with the steps of its thread."""
    build = TraceBuilder("nsys", gpu=None)
    for step in range(5):
        start = 1000 * step
        for device in range(4):
            build.range("step[DECODE bs=8]", start, 900, tid=10 + device)
            compute = 500 if device == 3 else 300
            build.launch("gemm", call_us=start + 2, call_dur_us=1, gpu_us=start + 10, gpu_dur_us=compute, device=device,
                         tid=10 + device)  # fmt: skip
            build.launch("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", call_us=start + 5, call_dur_us=1, device=device,
                         gpu_us=start + 10 + compute, gpu_dur_us=510 - compute, tid=10 + device)  # fmt: skip
    trace = build.trace()
    assert trace.ranks().traces == (trace,)
    assert trace.table("step_devices").group_by("device").len()["len"].to_list() == [5] * 4
    (finding,) = tq.analyze(trace, selection=only("TQL503")).found
    assert finding.subject == "rank 3"
    assert finding.evidence["late_us_per_step"] == pytest.approx(200)


# --- what is a rank ------------------------------------------------------------------------------------------------------


def test_processes_that_share_a_gpu_stay_together(tmp_path: Path) -> None:
    """Each sees its GPU as device 0 and the file does not say which that is: nothing is taken apart, and that is said."""
    path = nsys_built.written(tmp_path / "x.sqlite", straggling(), visible_devices=True, tells_gpus=False)
    report = tq.analyze(path)
    assert len(report.traces) == 1
    (note,) = (p for p in report.traces[0].problems if "look as if they worked on one GPU" in p.message)
    assert note.kind == "note"
    assert "processes 100, 101, 102, 103 communicate" in note.message
    assert tq.open(path).problems == ()


def test_a_helper_on_a_ranks_gpu_is_of_that_rank() -> None:
    build = TraceBuilder("nsys")
    build.device("NVIDIA H200", device=1)
    for number in range(20):
        for pid, device in ((1, 0), (2, 0), (3, 1)):
            build.launch("gemm", call_us=10 * number, gpu_us=10 * number + 3, gpu_dur_us=2, pid=pid, device=device)
    parts = build.trace().ranks().traces
    assert [part.part.processes for part in parts] == [(1, 2), (3,)]
    assert [part.rank for part in parts] == [None, None]  # they do not communicate: no ranks of one job
    report = tq.analyze(build.trace())
    text = report.render("text")
    assert text.startswith("2 processes: built.json")
    assert "processes 1, 2" in text
    assert [entry["pids"] for entry in json.loads(report.render("json"))["traces"]] == [[1, 2], [3]]


def test_a_stray_kernel_counts_where_it_ran() -> None:
    build = TraceBuilder("nsys")
    build.device("NVIDIA H200", device=1)
    for number in range(300):
        for pid, device in ((1, 0), (2, 1)):
            build.launch("gemm", call_us=10 * number, gpu_us=10 * number + 3, gpu_dur_us=2, pid=pid, device=device)
    build.launch("fill", call_us=0.5, gpu_us=6, gpu_dur_us=1, pid=2, device=0)
    first, second = build.trace().ranks()
    assert "fill" in first.table("kernels")["name"].to_list()
    assert second.table("kernels")["device"].unique().to_list() == [1]
    (note,) = first.problems
    assert note.message.startswith("1 GPU operations were put on the GPU of another rank")


def test_a_process_that_only_replays_without_a_record_keeps_the_trace_whole() -> None:
    build = TraceBuilder("nsys")
    build.device("NVIDIA H200", device=1)
    for number in range(5):
        for pid in (1, 2):
            build.launch("gemm", call_us=10 * number, gpu_us=10 * number + 3, gpu_dur_us=2, pid=pid, device=pid - 1)
        build.graph([], call_us=10 * number, pid=3)
    (whole,) = build.trace().ranks()
    (note,) = whole.problems
    assert note.message.startswith("process 3 replays CUDA graphs of which nothing was recorded")


def test_counters_are_joined_to_one_rank() -> None:
    report = TraceBuilder("ncu")
    report.ncu_kernel("gemm", 50, dram_bytes=1000)
    build = TraceBuilder("nsys")
    build.device("NVIDIA H200", device=1)
    for number in range(4):
        for pid in (1, 2):
            build.launch("gemm", call_us=90 * number, gpu_us=90 * number + 3, gpu_dur_us=50, pid=pid, device=pid - 1)
    first, second = with_counters(build.trace(), report.trace()).ranks()
    assert [part.loaded["ncu_kernels"].height for part in (first, second)] == [1, 0]
    assert [(part.loaded["metadata"]["key"] == REPORTS).sum() for part in (first, second)] == [1, 0]


@pytest.mark.parametrize(
    ("names", "ranks"),
    [
        ({0: "sglang::scheduler_TP1", 1: "sglang::scheduler_TP0"}, {100: 1, 101: 0}),
        ({0: "sglang::scheduler_DP1_TP0", 1: "sglang::scheduler_DP0_TP1"}, {100: 1, 101: 0}),
        ({0: "VLLM::Worker_PP0_TP7", 1: "VLLM::Worker_PP1_TP7"}, {100: 0, 101: 1}),
        ({0: "worker rank 5", 1: "worker rank 4"}, {100: 5, 101: 4}),
        ({0: "sglang::scheduler_TP1"}, {100: 0, 101: 1}),  # not all are named: by device
        ({0: "sglang::scheduler_TP1", 1: "sglang::scheduler_TP1"}, {100: 0, 101: 1}),
    ],
)
def test_ranks_from_the_names_of_threads(tmp_path: Path, names: dict[int, str], ranks: dict[int, int]) -> None:
    path = nsys_built.written(tmp_path / "x.sqlite", straggling(2), names=names)
    trace = tq.open(path)
    assert {part.part.processes[0]: part.rank for part in trace.ranks()} == ranks
    assert [part.rank for part in trace.ranks()] == sorted(ranks.values())
    assert not any(name in str(trace.table("metadata").rows()) for name in names.values())  # nothing else is kept


def test_a_scrubbed_copy_keeps_the_ranks(tmp_path: Path) -> None:
    names = {0: "jdoe-sglang::scheduler_TP1", 1: "jdoe-sglang::scheduler_TP0"}
    path = nsys_built.written(tmp_path / "x.sqlite", straggling(2), names=names)
    copy = tmp_path / "copy.sqlite"
    scrub(path, copy)
    assert b"jdoe" not in copy.read_bytes()
    ranks = [[(part.rank, part.part.processes) for part in tq.open(each).ranks()] for each in (path, copy)]
    assert ranks[0] == ranks[1] == [(0, (101,)), (1, (100,))]


def test_ranks_from_communicators(tmp_path: Path) -> None:
    """NCCL's ranges around communicators state the rank in each; that in the largest one counts."""
    path = nsys_built.written(tmp_path / "x.sqlite", straggling(2), names={})
    schema_id = 16777218
    with closing(sqlite3.connect(path)) as db:
        db.execute("alter table NVTX_EVENTS add column binaryData blob")
        db.execute(
            "create table NVTX_PAYLOAD_SCHEMA_ENTRIES (schemaId integer, type integer, name text, offset integer)"
        )
        entries = [("NCCL communicator ID", 18, None), ("No. of ranks", 5, 8), ("Rank", 5, 12)]
        db.executemany(
            "insert into NVTX_PAYLOAD_SCHEMA_ENTRIES values (?, ?, ?, ?)",
            [(schema_id, kind, n, at) for n, kind, at in entries],
        )
        for place, communicators in enumerate([[(7, 4, 3), (8, 2, 0)], [(7, 4, 1), (9, 2, 0)]]):
            for communicator, size, rank in communicators:
                values = struct.pack("<Qii", communicator, size, rank)
                blob = struct.pack("<IIIIQQ", 1, 0, schema_id, 0, len(values), 32 + len(values)) + values
                thread = nsys_built.global_id(nsys_built.PID + place, 1)
                db.execute("insert into NVTX_EVENTS values (1, 2, 59, ?, 'ncclCommInitRank', 0, ?)", (thread, blob))
        db.commit()
    assert {part.part.processes[0]: part.rank for part in tq.open(path).ranks()} == {100: 3, 101: 1}


# --- everything that shows or gates them ---------------------------------------------------------------------------------


def test_json_tells_the_ranks_apart(tmp_path: Path) -> None:
    path = nsys_built.written(tmp_path / "four.sqlite", straggling())
    document = json.loads(tq.analyze(path).render("json"))
    jsonschema.validate(document, json.loads(Path("docs/report.schema.json").read_text()))
    assert [(e["path"], e["rank"], e["pids"]) for e in document["traces"]] == [
        ("four.sqlite", rank, [nsys_built.PID + rank]) for rank in range(4)
    ]
    assert list(document["metrics"]["gpus"]) == ["0", "1", "2", "3"]
    assert [list(e["metrics"]["gpus"]) for e in document["traces"]] == [["0"], ["1"], ["2"], ["3"]]


def test_two_files_of_two_ranks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        nsys_built.written(tmp_path / f"{name}.sqlite", straggling(2, late=1))
    report = tq.analyze(tmp_path)
    assert [(t.path.name, t.rank) for t in report.traces] == [
        ("a.sqlite", 0), ("b.sqlite", 0), ("a.sqlite", 1), ("b.sqlite", 1)
    ]  # fmt: skip
    assert set(report.metrics["gpus"]) == {"0/0", "1/1"} or len(report.metrics["gpus"]) == 4
    text = report.render("text")
    assert "a.sqlite · rank 1" in text
    assert "b.sqlite · rank 0" in text


def test_a_fleet_says_what_analyze_says(tmp_path: Path) -> None:
    path = nsys_built.written(tmp_path / "four.sqlite", straggling())
    setup = fleet.Setup()
    summary = fleet.summarise(fleet.Location(str(path)), setup)
    assert isinstance(summary, fleet.Summary)
    assert [other.rank for other in summary.others] == [1, 2, 3]
    assert json.loads(fleet.assemble([summary], setup).json()) == json.loads(tq.analyze(path).render("json"))


def test_lint_with_a_baseline_is_stable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A capture compares clean with itself; a straggler that is new fails."""
    monkeypatch.chdir(tmp_path)
    path = nsys_built.written(tmp_path / "four.sqlite", straggling())
    even = nsys_built.written(tmp_path / "even.sqlite", straggling(late=9))
    lint = ("--select", "TQL5", "--ignore", "TQL504")
    assert traceql(capsys, "lint", path, *lint, "--no-baseline").code == 1
    assert traceql(capsys, "lint", path, *lint, "--update-baseline").code == 0
    again = traceql(capsys, "lint", path, *lint, "--format", "sarif")
    assert again.code == 0
    log = json.loads(again.out)["runs"][0]
    assert [artifact["location"]["uri"] for artifact in log["artifacts"]] == ["four.sqlite"]
    assert any(result["message"]["text"].startswith("In rank 2: ") for result in log["results"])
    (capture,) = json.loads((tmp_path / ".traceql-baseline.json").read_text())["captures"]
    assert capture["context"]["devices"] == 4  # GPUs of the file: a capture of two ranks is another context
    traceql(capsys, "lint", even, *lint, "--update-baseline")
    assert "TQL503 straggler-rank warning: Rank 2" in traceql(capsys, "lint", path, *lint).out


def test_savings_of_ranks_are_not_added(tmp_path: Path) -> None:
    """As in several files: each rank's own step, none the sum of them."""
    several = straggling()
    path = nsys_built.written(tmp_path / "four.sqlite", several)
    one, four = tq.analyze(path), tq.analyze(TraceSet(tuple(several)))
    assert [(r.trace, r.period_ns) for r in one.recoverable] == [(r.trace, r.period_ns) for r in four.recoverable]
    assert all(r.estimated_savings_us_per_step * 1000 <= r.period_ns for r in one.recoverable)


def test_the_page_has_the_views_of_ranks(tmp_path: Path) -> None:
    page = tq.analyze(nsys_built.written(tmp_path / "four.sqlite", straggling())).render("html")
    for words in ("4 ranks: four.sqlite", "Lateness by rank", "Who waits for whom", "share the clock of one file"):
        assert words in page


def test_compare_and_budgets_take_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = nsys_built.written(tmp_path / "four.sqlite", straggling())
    assert traceql(capsys, "compare", path, path, "--rank", "2").code == 0
    config = tmp_path / "traceql.toml"
    config.write_text('[[budgets]]\nmetric = "step.kernels"\nmax = 15\n')
    found = traceql(capsys, "lint", path, "--config", config, "--select", "TQL501", "--allow-incomplete")
    assert "four.sqlite · rank 0: budget error: step.kernels (median) is 16" in found.out

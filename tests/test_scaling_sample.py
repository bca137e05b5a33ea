"""The bundled runs on one, two and four GPUs against a count straight from their JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import traceql as tq
from traceql import registry, samples
from traceql.engine import Selection
from traceql.opening import TraceSet
from traceql.ranks.scaling import scaling

COUNTED_STEP = {1: 1, 2: 1, 4: 1}
"""The step that stands for a run: of three the middle one, of two on several ranks the last."""


@pytest.fixture(scope="module")
def runs() -> TraceSet:
    opened = tq.open(samples.path("sglang-h200-tp-scaling"))
    assert isinstance(opened, TraceSet)
    return opened


def _events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def _ns(us: Any) -> int:
    return round(float(us) * 1000)


def _length(spans: list[tuple[int, int]]) -> int:
    """How long at least one of the spans lasts."""
    total = reached = 0
    for begin, end in sorted(spans):
        total += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _collective(name: str) -> bool:
    return "all_reduce_" in name or name.startswith("nccl")


Work = list[tuple[str, int, int, int]]
"""(name, start, end, stream) of GPU work in order of start; copies and fills have no name"""


def _work(path: Path, step: int) -> tuple[Work, Work]:
    """What was launched in the decode step, and all of the file."""
    events = _events(path)
    marks = sorted(
        (_ns(e["ts"]), _ns(e["dur"]))
        for e in events
        if e["cat"] == "user_annotation" and e["name"].startswith("step[DECODE bs=64")
    )
    begin, end = marks[step][0], sum(marks[step])
    launched = {e["args"]["correlation"]: _ns(e["ts"]) for e in events if e["cat"] in ("cuda_runtime", "cuda_driver")}
    inside, everything = [], []
    for e in sorted(
        (e for e in events if e["cat"] in ("kernel", "gpu_memcpy", "gpu_memset")), key=lambda e: _ns(e["ts"])
    ):
        name = e["name"] if e["cat"] == "kernel" else ""
        row = (name, _ns(e["ts"]), _ns(e["ts"]) + _ns(e["dur"]), e["args"]["stream"])
        everything.append(row)
        if begin <= launched[e["args"]["correlation"]] < end:
            inside.append(row)
    return inside, everything


def _first_rank(tp: int) -> Path:
    folder = samples.path("sglang-h200-tp-scaling") / f"tp{tp}" / "graph-torch"
    return sorted(folder.glob("*.json.gz"))[0]


def test_every_run_is_found_with_its_ranks(runs: TraceSet) -> None:
    assert [trace.path.parts[-3] for trace in runs].count("tp4") == 4
    jobs = {len(job.ranks): found for job, found in runs.matched if job.several}
    assert sorted(jobs) == [2, 4]
    # every collective has its partners: 65 all-reduces and an all-gather in each of two steps
    for ranks, found in jobs.items():
        assert found.unmatched == 0
        assert found.rows.height == ranks * 2 * 66
        assert found.end_skew_ns is not None and found.end_skew_ns < 1500


@pytest.mark.parametrize("tp", [2, 4])
def test_collectives_are_matched_by_their_order_and_not_a_layer_apart(runs: TraceSet, tp: int) -> None:
    """One host, one clock: layers of a replay look alike, and a shift by one of them fits as steadily."""
    found = next(found for job, found in runs.matched if len(job.ranks) == tp)
    assert all(abs(clock.offset_ns) < 1000 for clock in found.clocks)
    paths = sorted(_first_rank(tp).parent.glob("*.json.gz"))
    by_rank = [
        sorted((start, end) for name, start, end, _ in _work(path, step)[0] if _collective(name))
        for path in paths
        for step in (0, 1)
    ]
    longest = [max(end - start for start, end in each) for each in zip(*by_rank[0::2], strict=True)]
    assert len(longest) == 66
    shortest = {min(end - start for start, end in each) for each in zip(*by_rank[1::2], strict=True)}
    assert set(found.rows["transfer_ns"].to_list()) >= {ns for ns in shortest if ns > 40_000}  # the all-gather


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_what_a_step_consists_of(runs: TraceSet, tp: int) -> None:
    (row,) = scaling(tuple(runs)).filter(tp=tp).rows(named=True)
    work, everything = _work(_first_rank(tp), COUNTED_STEP[tp])
    exposed = _exposed(work, everything)
    first, last = work[0][1], max(end for _, _, end, _ in work)
    busy = _length(
        [(max(first, start), min(last, end)) for _, start, end, _ in everything if start < last and end > first]
    )
    assert row["communication_ms"] + row["waiting_ms"] == pytest.approx(exposed / 1e6)
    assert row["compute_ms"] == pytest.approx((busy - exposed) / 1e6)
    assert row["rest_ms"] == pytest.approx(row["profiled_step_ms"] - busy / 1e6)


def _exposed(work: Work, everything: Work) -> int:
    """Time in collectives with no computation beside it: from when the kernel before it on its stream has ended (it may be
    launched early and wait for that), less what other streams compute meanwhile."""
    total = 0
    computing = [row for row in everything if row[0] and not _collective(row[0])]
    for name, start, end, stream in work:
        if not _collective(name):
            continue
        own = max([start, *(e for _, s, e, other in computing if other == stream and s < start)])
        elsewhere = [
            (max(own, s), min(end, e)) for _, s, e, other in computing if other != stream and s < end and e > own
        ]
        total += max(0, end - own) - _length(elsewhere)
    return total


def test_the_speedup_and_where_the_rest_of_it_went(runs: TraceSet) -> None:
    table = scaling(tuple(runs))
    assert table["tp"].to_list() == [1, 2, 4]
    assert table["step_ms"].to_list() == [7.5926, 5.035, 4.2532]  # the manifests' medians
    assert table["profiled"].to_list() == [False] * 3
    assert table["efficiency_pct"].to_list() == pytest.approx(
        [100, 100 * 7.5926 / 5.035 / 2, 100 * 7.5926 / 4.2532 / 4]
    )
    found = tq.analyze(runs, selection=Selection([registry.rules()["TQL504"]])).found
    assert [round(f.evidence["measured_efficiency_pct"]) for f in found] == [75, 45]
    for finding in found:
        parts = {row["part"]: row["ms_more_than_its_share"] for row in finding.evidence["lost_by_part"]}
        tp = finding.evidence["scaling"][-1]["tp"] if "45 %" in finding.message else 2
        step = {row["tp"]: row["profiled_step_ms"] for row in table.rows(named=True)}
        assert sum(parts.values()) == pytest.approx(step[tp] - step[1] / tp)
        assert next(iter(parts)) == "time the GPU does not compute or communicate"


def test_custom_all_reduce_is_known_by_its_kernels(runs: TraceSet) -> None:
    reduces = runs.collectives.collect().filter(op="all_reduce")
    assert set(reduces["library"]) == {"custom all-reduce"}
    kinds = {(r["algorithm"], r["world_size"], r["dtype"]) for r in reduces.rows(named=True)}
    assert kinds == {("oneshot", 2, "bfloat16"), ("twoshot", 4, "bfloat16")}
    exposed = tq.analyze(runs, selection=Selection([registry.rules()["TQL501"]])).found
    assert exposed and all("beats a ring" not in line for finding in exposed for line in finding.advice)


def test_the_documented_table_is_this_one(runs: TraceSet) -> None:
    document = (Path(__file__).parents[1] / "docs" / "fleet.md").read_text(encoding="utf-8")
    for r in scaling(tuple(runs)).rows(named=True):
        parts = " | ".join(
            f"{r[part]:.2f}" for part in ("step_ms", "compute_ms", "communication_ms", "waiting_ms", "rest_ms")
        )
        step, rest = parts.split(" | ", 1)
        assert f"| {r['tp']} | {step} | {r['efficiency_pct']:.0f} % | {rest} |" in document

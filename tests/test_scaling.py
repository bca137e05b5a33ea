"""TP=1, 2 and 4 runs of one workload compared with each other and with what their links let one expect."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest

import traceql as tq
from traceql import registry
from traceql.engine import Selection
from traceql.opening import TraceSet
from traceql.ranks.run_facts import RunFacts
from traceql.ranks.scaling import PARTS, kind_of, lost, scaling
from traceql.testing import TraceBuilder


def run(
    folder: Path, tp: int, step_us: float, *, link: str = "NV18", unprofiled_ms: float | None = None
) -> list[tq.Trace]:
    """A run directory's traces: three decode steps of ``step_us``, with an all-reduce at the end from two ranks on."""
    folder.mkdir(parents=True)
    gpus = list(range(tp))
    manifest = {
        "workload": {"tp": tp, "gpus": gpus, "batch_size": 8},
        "machine": {"topology": {f"GPU{a}": {f"GPU{b}": link for b in gpus if b != a} for a in gpus}},
        "stages": [{"mode": "eager", "latency": {"median_ms": unprofiled_ms}}] if unprofiled_ms else [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return [_rank(folder, rank if tp > 1 else None, step_us) for rank in range(tp)]


def _rank(folder: Path, rank: int | None, step_us: float) -> tq.Trace:
    build = TraceBuilder(rank=rank, path=folder / f"rank{rank}.json")
    transfer = 0.0 if rank is None else 10.0
    for step in range(3):
        start = step * step_us
        build.range("step[DECODE bs=8]", start, step_us)
        build.launch("gemm", call_us=start + 1, call_dur_us=1, gpu_us=start + 3, gpu_dur_us=step_us - transfer - 3)
        if transfer:
            build.launch(
                "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", call_us=start + 3, call_dur_us=1,
                gpu_us=start + step_us - transfer, gpu_dur_us=transfer,
            )  # fmt: skip
    return build.trace()


def test_efficiency_is_the_speedup_over_the_gpus(tmp_path: Path) -> None:
    traces = [
        *run(tmp_path / "tp1", 1, 400), *run(tmp_path / "tp2", 2, 220), *run(tmp_path / "tp4", 4, 160)
    ]  # fmt: skip
    table = scaling(traces)
    assert table["tp"].to_list() == [1, 2, 4]
    assert table["speedup"].to_list() == pytest.approx([1, 400 / 220, 2.5])
    assert table["efficiency_pct"].to_list() == pytest.approx([100, 100 * 200 / 220, 62.5])
    assert table["topology"].to_list() == [None, "nvlink", "nvlink"]
    assert table["expected_low_pct"].to_list() == [None, 90, 90]


def test_unprofiled_steps_win(tmp_path: Path) -> None:
    table = scaling(
        [*run(tmp_path / "tp1", 1, 400, unprofiled_ms=0.3), *run(tmp_path / "tp2", 2, 390, unprofiled_ms=0.16)]
    )
    assert table["profiled"].to_list() == [False, False]
    assert table["efficiency_pct"][1] == pytest.approx(100 * 0.3 / 0.16 / 2)


def test_profiled_and_unprofiled_are_not_compared(tmp_path: Path) -> None:
    one, two = run(tmp_path / "tp1", 1, 400, unprofiled_ms=0.3), run(tmp_path / "tp2", 2, 220)
    table = scaling([*one, *two])
    assert table["profiled"].to_list() == [True, True]
    assert table["step_ms"].to_list() == [0.4, 0.22]
    assert table["efficiency_pct"][1] == pytest.approx(100 * 400 / 220 / 2)
    most = scaling([*one, *two, *run(tmp_path / "tp4", 4, 160, unprofiled_ms=0.1)])
    assert most["profiled"].to_list() == [False, False, False]
    assert most["step_ms"].to_list() == [0.3, None, 0.1]
    assert most["efficiency_pct"].to_list() == [100, None, pytest.approx(75)]


def test_what_a_step_consists_of_and_where_it_loses_against_an_even_share(tmp_path: Path) -> None:
    table = scaling([*run(tmp_path / "tp1", 1, 400), *run(tmp_path / "tp2", 2, 220)])
    # on one GPU a kernel of 397 us; on two 207 us and an all-reduce of 10 us; 3 us before the kernel in both
    assert table["compute_ms"].to_list() == pytest.approx([0.397, 0.207])
    assert table["communication_ms"].to_list() == pytest.approx([0, 0.01])
    assert table["rest_ms"].to_list() == pytest.approx([0.003, 0.003])
    assert table.select(pl.sum_horizontal(PARTS)).to_series().to_list() == pytest.approx([0.4, 0.22])
    parts = lost(table, 2, "decode", 8, "eager")
    assert list(parts) == ["communication_ms", "compute_ms", "rest_ms", "waiting_ms"]
    assert parts == pytest.approx({"communication_ms": 0.01, "compute_ms": 0.0085, "rest_ms": 0.0015, "waiting_ms": 0})
    assert sum(parts.values()) == pytest.approx(0.22 - 0.4 / 2)
    assert lost(table, 1, "decode", 8, "eager") == {}
    assert lost(table, 2, "prefill", 8, "eager") == {}


def test_a_group_on_nvlink_that_scales_badly_is_reported(tmp_path: Path) -> None:
    selection = Selection([registry.rules()["TQL504"]])
    good = TraceSet((*run(tmp_path / "a1", 1, 400), *run(tmp_path / "a2", 2, 210)))
    assert not tq.analyze(good, selection=selection).found
    bad = TraceSet((*run(tmp_path / "b1", 1, 400), *run(tmp_path / "b2", 2, 310)))
    (finding,) = tq.analyze(bad, selection=selection).found
    assert finding.evidence["measured_efficiency_pct"] == pytest.approx(100 * 400 / 310 / 2)
    assert [row["tp"] for row in finding.evidence["scaling"]] == [1, 2]
    assert "measured 65 %" in finding.message


@pytest.mark.parametrize(
    ("links", "numa", "kind"),
    [
        (((0, 1, "NV18"),), ((0, "0"), (1, "1")), "nvlink"),
        (((0, 1, "PIX"),), ((0, "0"), (1, "0")), "numa"),
        (((0, 1, "PHB"),), ((0, "0"), (1, "1")), "across"),
        (((0, 1, "SYS"),), (), "across"),
        (((0, 1, "XGMI"),), (), "nvlink"),
        ((), (), None),
    ],
)
def test_kinds_of_links(
    links: tuple[tuple[int, int, str], ...], numa: tuple[tuple[int, str], ...], kind: str | None
) -> None:
    facts = RunFacts("run", tp=2, gpus=(0, 1), links=links, numa=numa)
    assert kind_of(facts) == kind
    assert kind_of(dataclasses.replace(facts, links=(), topology="numa")) == "numa"

"""A recorded run opens as one: the eager trace names the replay, the unprofiled step time is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import traceql as tq
from traceql import samples
from traceql.derived.roofline import device_match
from traceql.opening import TraceSet

FILES = {"eager": "sglang-h200-bs64-decode-eager", "graph": "sglang-h200-bs64-decode-graph"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    stages = []
    for mode, sample in FILES.items():
        folder = tmp_path / f"{mode}-torch"
        folder.mkdir()
        source = samples.path(sample)
        shutil.copyfile(source, folder / source.name)
        stages.append(
            {"name": f"{mode}-torch", "mode": mode, "files": [{"path": f"{mode}-torch/{source.name}", "bytes": 1}]}
        )
        latency = {"what": "decode step", "median_ms": 13.4 if mode == "eager" else 7.22}
        stages.append({"name": f"{mode}-latency", "mode": mode, "latency": latency, "files": []})
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "stages": stages, "unknown": True}))
    return tmp_path


def test_a_run_knows_its_pair_and_its_unprofiled_time(run: Path) -> None:
    opened = tq.open(run)
    assert isinstance(opened, TraceSet)
    by_mode = {("graph" if "graph" in t.path.name else "eager"): t for t in opened.traces}
    assert by_mode["graph"].eager is not None
    assert by_mode["eager"].eager is None
    told = {
        mode: dict(t.table("metadata").select("key", "value").rows())["unprofiled_step_ms"]
        for mode, t in by_mode.items()
    }
    assert told == {"eager": "13.4", "graph": "7.22"}
    assert by_mode["graph"].table("gemms").height == 3 * (4 * 32 + 1)


def test_both_idle_figures_are_reported(run: Path) -> None:
    """Profiled 81 % idle, honest 52 %: the eager step takes 33.4 ms under the profiler and 13.4 without."""
    report = tq.analyze(run)
    (finding,) = [f for f in report.found if f.code == "TQL902" and "eager" in report.traces[f.trace].path.name]
    assert "13.4" in finding.message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": 3}', "\xff"])
def test_a_broken_manifest_does_not_keep_the_traces_from_opening(run: Path, text: str) -> None:
    (run / "manifest.json").write_text(text, encoding="latin-1")
    assert len(tq.open(run)) == 2  # type: ignore[arg-type]


def test_measured_peaks_replace_the_datasheet(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["measured_peaks"] = {"bandwidth_tb_per_s": 4.3, "tflops": {"bf16": 790, "unheard of": 3}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    opened = tq.open(run)
    row = opened.sql("select ridge, achieved_tb_per_s, pct_of_roof from gemms where source = 'shapes' limit 1").row(0)
    assert row[0] == pytest.approx(790 / 4.3)
    assert row[2] == pytest.approx(100 * row[1] / 4.3)
    match = device_match(opened.traces[0], None)  # type: ignore[union-attr]
    assert match.note == "peaks as measured in this run (4.3 TB/s, bf16 790 TFLOP/s), not the datasheet's"
    assert match.gpu is not None
    assert match.gpu.measured


@pytest.mark.parametrize("peaks", [{"bandwidth_tb_per_s": -1}, {"tflops": {"bf16": "fast"}}, 3])
def test_nonsense_peaks_do_not_count(run: Path, peaks: object) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"measured_peaks": peaks}))
    opened = tq.open(run)
    assert device_match(opened.traces[0], None).note == ""  # type: ignore[union-attr]
    assert [t.eager is not None for t in opened.traces] == [False, True]  # type: ignore[union-attr]


BENCH = [
    "python3",
    "-m",
    "sglang.bench_one_batch",
    "--input-len",
    "512",
    "--batch-size",
    "64",
    "--profile-start-step",
    "6",
]


def test_sequence_lengths_tell_what_paged_attention_reads(run: Path) -> None:
    """A static batch: 512 tokens of input, and in the loop's step i (from 0) i + 1 more."""
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in manifest["stages"]:
        stage["command"] = BENCH
    (run / "manifest.json").write_text(json.dumps(manifest))
    opened = tq.open(run)
    for trace in opened.traces:  # type: ignore[union-attr]
        rows = trace.sql("select * from roofline where source = 'lengths' order by start_ns").to_dicts()
        assert len(rows) == 3 * 32
        key_and_value = 2 * 8 * 128 * 2  # bytes of one token in one layer: heads, head size, bf16
        assert [rows[32 * step]["bytes"] for step in range(3)] == [
            64 * (519 + step) * key_and_value for step in range(3)
        ]
        assert all(row["achieved_tb_per_s"] == pytest.approx(row["bytes"] / row["dur_ns"] / 1e3) for row in rows)
        assert all(row["flops"] is None and 30 < row["pct_of_roof"] < 100 for row in rows)
        (floor,) = trace.table("step_floor").to_dicts()
        assert floor["kv_bytes"] == 32 * 64 * 520 * key_and_value
        assert floor["note"] is None


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["python3", "-m", "sglang.launch_server", "--input-len", "512", "--profile-start-step", "6"],
        [*BENCH, "--input-len", "1024"],
        [word for word in BENCH if word != "6"],
    ],
)
def test_lengths_that_the_command_does_not_tell(run: Path, command: list[str]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in manifest["stages"]:
        stage["command"] = command
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert tq.open(run).sql("select count(*) n from roofline where source = 'lengths'")["n"][0] == 0  # type: ignore[union-attr]

"""A recorded run opens as one: the eager trace names the replay, the unprofiled step time is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import traceql as tq
from traceql import samples
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

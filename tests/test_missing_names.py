"""Nsight Systems exports that lost names: kernels without one still count, and nothing breaks."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

import traceql as tq
from traceql import samples


@pytest.mark.parametrize("lost", ["drop table StringIds", "delete from StringIds where id % 2 = 0"])
@pytest.mark.parametrize("name", ["nsys-h200-sglang-decode-graph", "nsys-h200-sglang-4-layers-nvtx"])
def test_kernels_without_names_are_counted(tmp_path: Path, name: str, lost: str) -> None:
    whole = samples.path(name)
    path = tmp_path / whole.name
    shutil.copy(whole, path)
    with sqlite3.connect(path) as database:
        database.execute(lost)
        (kernels,) = database.execute("select count(*) from CUPTI_ACTIVITY_KIND_KERNEL").fetchone()
    report = tq.analyze(path)
    assert report.traces[0].table("kernels").height == kernels
    assert {outcome.outcome for outcome in report.rules}.isdisjoint({"error"})
    (loss,) = [f for f in report.traces[0].problems if f.kind == "unnamed" and "CUDA calls" in f.message]
    assert (loss.count or 0) > 0
    assert any("have no name in StringIds" in f.message for f in report.found if f.code == "TQL901")
    assert report.render("text")


def test_messages_about_idle_processes_do_not_deny_what_was_recorded(tmp_path: Path) -> None:
    whole = samples.path("sglang-h200-bs64-run") / "graph-nsys" / "sglang-graph.sqlite"
    told = [problem.message for problem in tq.open(whole).problems]  # type: ignore[union-attr]
    assert not any("No CUDA events" in message for message in told)
    empty = tmp_path / whole.name
    shutil.copy(whole, empty)
    with sqlite3.connect(empty) as database:
        database.execute("delete from CUPTI_ACTIVITY_KIND_KERNEL")
    told = [problem.message for problem in tq.open(empty).problems]  # type: ignore[union-attr]
    assert any("No CUDA events" in message for message in told)

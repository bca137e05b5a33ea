"""Traces analyzed by several processes: the same report as in one, whatever happens to workers and files."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from worker_rules import DeadlyRule

import traceql as tq
from traceql import registry, samples
from traceql.cli.main import cli
from traceql.engine import Selection
from traceql.errors import UsageError
from traceql.fleet import summaries as fleet
from traceql.report.json import document

PAIR = [samples.path(f"sglang-h200-tp2-decode-graph-rank{rank}") for rank in (0, 1)]


@pytest.fixture
def distributed() -> object:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'traceql[distributed]'")
    from traceql.fleet import cluster as distributed

    return distributed


def plain(content: object) -> object:
    """As a program reads it: JSON knows no tuples."""
    return json.loads(json.dumps(content))


def test_two_processes_say_what_one_says(distributed: object, tmp_path: Path) -> None:
    other = samples.path("sglang-h200-bs64-decode-graph")
    broken = tmp_path / "broken.trace.json.gz"
    broken.write_bytes(gzip.compress(b'{"not": "a trace"}'))
    report = distributed.analyze([*PAIR, other, broken], workers=2)
    alone = tq.analyze([*PAIR, other])
    said, expected = plain(report.document()), plain(document(alone))
    assert [line for line in said.pop("unreadable") if "broken.trace.json.gz" in line]
    expected.pop("unreadable")
    for key, value in expected.items():
        assert said[key] == value, key
    assert {o.outcome for o in report.rules if o.code == "TQL503"} == {"passed"}


def test_a_lost_worker_is_replaced_and_a_deadly_file_left_out(distributed: object, tmp_path: Path) -> None:
    names = ["once-rank0.trace.json.gz", "deadly-rank1.trace.json.gz", "plain-rank2.trace.json.gz"]
    for name in names:
        shutil.copy(PAIR[0], tmp_path / name)
    report = distributed.analyze([tmp_path], setup=fleet.Setup(Selection([DeadlyRule])), workers=2)
    assert sorted(Path(s.path).name for s in report.summaries) == [names[0], names[2]]
    (line,) = report.unreadable
    assert names[1] in line
    assert "every worker that read it was lost" in line


def test_summaries_are_small() -> None:
    import pickle

    summary = fleet.summarise(fleet.Location(str(PAIR[0])), fleet.Setup())
    assert isinstance(summary, fleet.Summary)
    assert len(pickle.dumps(summary)) < 100_000


def test_without_a_cluster_the_same_code_reports() -> None:
    setup = fleet.Setup(Selection(registry.resolve("TQL5")))
    report = fleet.assemble([fleet.summarise(fleet.Location(str(path)), setup) for path in reversed(PAIR)], setup)
    alone = tq.analyze(PAIR, selection=setup.selection)
    assert plain(report.document()) == plain(document(alone))
    assert "exposed-communication" in report.text()


def test_bad_files_are_lines_not_exceptions(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.touch()
    places, missing = fleet.locations([empty, tmp_path / "nothing.json"])
    results = [fleet.summarise(place, fleet.Setup()) for place in places]
    assert all(isinstance(result, fleet.Unreadable) for result in results)
    report = fleet.assemble([*results, *missing], fleet.Setup())
    assert report.summaries == ()
    assert len(report.unreadable) == 2


def test_scheduler_that_does_not_answer(distributed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_TIMEOUT", "1s")
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        distributed.analyze(PAIR, scheduler="tcp://127.0.0.1:9")


def test_command_line_refuses_what_makes_no_sense() -> None:
    result = CliRunner().invoke(cli, ["analyze", str(PAIR[0]), "--engine", "dask", "--format", "html"])
    assert isinstance(result.exception, UsageError)
    result = CliRunner().invoke(cli, ["analyze", str(PAIR[0]), "--workers", "2"])
    assert isinstance(result.exception, UsageError)

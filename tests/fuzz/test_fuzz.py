"""A short run of every target, and every input that once broke something."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from fuzz import seeds, targets, truncation
from traceql import query
from traceql.errors import QueryError
from traceql.opening import open_trace
from traceql.trace import Trace

CRASHES = sorted((Path(__file__).parent / "crashes").glob("*/*"))
NAMES = {"manifest": "manifest.json", "server-log": "server.log"}
EXECUTIONS = {
    "kineto-analyze": 4,
    "nsys-analyze": 4,
    "ncu-analyze": 10,
    "nsys-load": 25,
    "kineto-load": 60,
    "kineto-parsers": 60,
    "cache": 15,
}


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_short_run(name: str, tmp_path: Path) -> None:
    for number in range(EXECUTIONS.get(name, 200)):
        targets.TARGETS[name].run(Random(f"suite:{name}:{number}"), tmp_path)


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_broke(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    name = NAMES.get(path.parent.name, path.name)
    if path.name.endswith(".sqlite.gz"):
        content, name = gzip.decompress(content), name.removesuffix(".gz")
    copy = tmp_path / name
    copy.write_bytes(content)
    targets.TARGETS[path.parent.name].tried(copy)


def test_unspoiled_inputs_are_read(tmp_path: Path) -> None:
    """What is spoiled is whole to begin with, so that changes reach beyond the first check."""
    whole = {
        "kineto-analyze": [("a.json", text) for text in seeds.kineto_texts()],
        "ncu-analyze": [("p.csv", text) for text in seeds.ncu_pages()],
        "manifest": [("manifest.json", json.dumps(seeds.manifest()).encode())],
        "baseline": [("b.json", json.dumps(seeds.baseline()).encode())],
        "configuration": [("traceql.toml", seeds.CONFIGURATION)],
        "hardware": [("h.toml", seeds.HARDWARE)],
        "kernel-patterns": [("p.toml", seeds.PATTERNS)],
        "server-log": [("server.log", seeds.SERVER_LOG)],
    }
    for target, files in whole.items():
        for name, content in files:
            path = tmp_path / name
            path.write_bytes(content)
            targets.TARGETS[target].check(path)
    targets.analyze_whole(seeds.write_sqlite(tmp_path / "t.sqlite", seeds.nsys_tables()))
    (tmp_path / "t.sqlite").rename(tmp_path / "u.sqlite")
    trace = open_trace(tmp_path / "u.sqlite")
    assert isinstance(trace, Trace)
    filled = {name for name, frame in trace.loaded.items() if frame.height}
    assert {
        "kernels",
        "memcpys",
        "memsets",
        "graph_traces",
        "annotations",
        "overheads",
        "counters",
        "devices",
    } <= filled


# --- SQL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["read_csv", '"read_csv"', "`read_csv`", "READ_CSV", '"Read_CSV"', "read_csv /* */", "scan_csv"]
)
@pytest.mark.parametrize(
    "frame",
    [
        "select * from {}",
        "with a as (select * from {}) select * from a",
        "select (select max(a) from {}) x from kernels",
        "select 1 /* ' */, * from {} /* ' */",
    ],
)
def test_a_query_reads_no_file(name: str, frame: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(f"a\n{targets.SECRET}\n")
    with pytest.raises(QueryError):
        query.run(targets.Tables(), frame.format(f"{name}('{tmp_path / 's.csv'}')"))


@pytest.mark.parametrize(
    "text",
    [
        "select '--' as a, '/* ; */' as b from kernels -- ;",
        "select name as \"a;b\", '''' as b from kernels;",
        "WITH a AS (SELECT 1 AS x) SELECT x AS a, x AS b FROM a",
    ],
)
def test_quotes_and_comments_are_no_statements(text: str) -> None:
    assert query.run(targets.Tables(), text).shape == (1, 2)


def test_texts_with_comment_marks_stay_whole() -> None:
    assert query.run(targets.Tables(), "select '--' as a, '/* ; */' as b from kernels").rows() == [("--", "/* ; */")]


# --- what a cut-off file still says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch .json", "torch .json.gz", "nsys .sqlite", "ncu .csv"])
def test_cut_off_files_give_their_whole_events_and_say_what_is_lost(kind: str, tmp_path: Path) -> None:
    path = truncation.examples(tmp_path)[kind]
    scratch = tmp_path / "cut"
    scratch.mkdir()
    for cut in truncation.cuts(path, scratch, range(3, 100, 16)):
        # near a damaged place a database is read in pages of some rows
        allowed = 16 if kind == "nsys .sqlite" else 0
        assert cut.whole_rows - allowed <= cut.rows <= cut.whole_rows or cut.refused, cut
        assert not cut.refused or cut.percent < 10, cut
        assert cut.said and cut.incomplete_trace, cut


def test_a_run_can_be_repeated(tmp_path: Path) -> None:
    """The long run's own driver: counts, seeds, a child with bounded memory."""
    command = [
        sys.executable,
        "-m",
        "fuzz.run",
        "--count",
        "30",
        "--seconds",
        "20",
        "--output",
        str(tmp_path),
        "hardware",
    ]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], timeout=60)
    (line,) = [json.loads(line) for line in (tmp_path / "counts.jsonl").read_text().splitlines()]
    assert line["crashes"] == 0 and line["executions"] == 30
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".stderr"]

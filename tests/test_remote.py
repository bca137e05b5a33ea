"""Traces named by URL, through a copy on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import traceql as tq
from traceql import remote, samples
from traceql.errors import UnreadableTraceError, UsageError
from traceql.fleet import summaries as fleet

SAMPLE = samples.path("sglang-h200-tp2-decode-graph-rank0")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with one trace in a file system that is not this machine's."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install fsspec")
    monkeypatch.setenv("TRACEQL_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/run/a-rank0.trace.json.gz", SAMPLE.read_bytes())
    memory.pipe("/bucket/run/notes.txt", b"no trace")
    yield "memory://bucket/run"
    memory.rm("/bucket", recursive=True)


def test_drives_and_paths_are_no_urls() -> None:
    assert remote.url_of(Path("run/a.json")) is None
    assert remote.url_of("C:/traces/a.json") is None
    assert remote.url_of(Path("s3://bucket/a.json")) == "s3://bucket/a.json"  # Path makes one slash of two


def test_a_folder_is_opened_through_the_cache(bucket: str, tmp_path: Path) -> None:
    trace = tq.open(bucket)
    assert isinstance(trace, tq.Trace)
    assert trace.path.name == "a-rank0.trace.json.gz"
    assert tmp_path in trace.path.parents
    assert trace.table("kernels").height == tq.open(SAMPLE).table("kernels").height


def test_a_file_is_fetched_once(bucket: str) -> None:
    url = f"{bucket}/a-rank0.trace.json.gz"
    first = remote.fetched(url)
    written = first.stat().st_mtime_ns
    assert remote.fetched(url) == first
    assert first.stat().st_mtime_ns == written


def test_summaries_of_urls(bucket: str) -> None:
    places, missing = fleet.locations([Path(bucket)])
    assert not missing
    (summary,) = [fleet.summarise(place, fleet.Setup()) for place in places]
    assert isinstance(summary, fleet.Summary)
    assert summary.path.endswith("run/a-rank0.trace.json.gz")


def test_what_is_not_there(bucket: str) -> None:
    with pytest.raises(UnreadableTraceError, match="cannot be fetched"):
        tq.open(f"{bucket}/absent.json")
    with pytest.raises(UsageError, match="nosuchprotocol"):
        tq.open("nosuchprotocol://x/y.json")

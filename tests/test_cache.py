"""Tables kept from one opening to the next: same trace, never stale, never damaged, never too much."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import traceql as tq
from traceql import cache, opening, schema
from traceql.trace import Trace


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache folder of the test's own; every file is worth keeping."""
    monkeypatch.delenv("TRACEQL_CACHE", raising=False)
    monkeypatch.setattr(cache.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(cache, "WORTHWHILE_BYTES", 0)
    return tmp_path / "user" / "traceql" / "traces"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return write(folder / "rank-3.json")


def write(path: Path, kernels: int = 2, **header: Any) -> Path:
    events = [
        {"ph": "X", "cat": "kernel", "name": f"k{i}", "pid": 0, "tid": 7, "ts": 1000.5 + i, "dur": 0.25, "args": {"device": 0, "stream": 7}}
        for i in range(kernels)
    ]  # fmt: skip
    events.append({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 9, "tid": 9, "ts": "never", "dur": 1})
    path.write_text(json.dumps({"baseTimeNanoseconds": 1_790_857_026_000_000_000, **header, "traceEvents": events}))
    return path


def opened(path: Path) -> Trace:
    trace = tq.open(path)
    assert isinstance(trace, Trace)
    return trace


def stored(path: Path) -> Path:
    folder = cache.store(opened(path))
    assert folder is not None
    return folder


def assert_same(trace: Trace | None, other: Trace) -> None:
    assert trace is not None
    for field in fields(Trace):
        if field.name not in ("loaded", "_memo"):
            assert getattr(trace, field.name) == getattr(other, field.name), field.name
    assert list(trace.loaded) == list(other.loaded) == list(schema.LOADED)
    for name, frame in other.loaded.items():
        assert trace.loaded[name].schema == frame.schema
        assert trace.loaded[name].equals(frame), name


def test_trace_comes_back_as_it_was(path: Path) -> None:
    trace = opened(path)
    assert trace.rank == 3 and trace.origin_unix_ns and trace.problems
    assert cache.load(path) is None
    folder = cache.store(trace)
    assert folder is not None and folder.parent == path.with_name("rank-3.json.traceql-cache")
    assert_same(cache.load(path), trace)


def test_opening_uses_it_only_when_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = opened(path)
    assert cache.load(path) is None
    first = tq.open(path, cache=True)
    monkeypatch.setattr(opening.registry, "load", lambda _: pytest.fail("read again"))
    again = tq.open(path, cache=True)
    assert isinstance(first, Trace) and isinstance(again, Trace)
    assert_same(first, trace)
    assert_same(again, trace)


def test_small_files_are_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WORTHWHILE_BYTES", 10**9)
    tq.open(path, cache=True)
    assert cache.load(path) is None


def test_a_kept_folder_is_no_trace(path: Path) -> None:
    stored(path)
    traces = opening.open_all([path.parent]).traces
    assert [trace.path for trace in traces] == [path]


def test_changed_file_is_read_again_and_its_old_tables_go(path: Path) -> None:
    old = stored(path)
    write(path, kernels=5)
    assert cache.load(path) is None
    new = stored(path)
    assert new != old and not old.exists()
    assert_same(cache.load(path), opened(path))


def test_same_size_other_time_is_a_change(path: Path) -> None:
    stored(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert cache.load(path) is None


@pytest.mark.parametrize("what", ["version", "schema", "loader"])
def test_other_code_reads_again(what: str, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stored(path)
    if what == "version":
        monkeypatch.setattr(tq, "__version__", "0.0.0")
    elif what == "schema":
        monkeypatch.setattr(schema, "SCHEMA_VERSION", -1)
    else:
        code = tmp_path / "traceql"
        shutil.copytree(Path(tq.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(tq, "__file__", str(code / "__init__.py"))
        (code / "loaders" / "files.py").write_text("")
    cache._reader.cache_clear()
    assert cache.load(path) is None
    cache._reader.cache_clear()


def damage(folder: Path, how: str) -> None:
    table = folder / "kernels.parquet"
    content = bytearray(table.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
    elif how == "cut":
        table.write_bytes(content[:-3])
    elif how == "missing":
        table.unlink()
    elif how == "other table":
        shutil.copy(folder / "metadata.parquet", table)
    elif how == "no meta":
        (folder / "meta.json").unlink()
    else:
        (folder / "meta.json").write_text(how)


@pytest.mark.parametrize(
    "how", ["flipped", "cut", "missing", "other table", "no meta", "", "{}", '{"path": 1}', "\x00"]
)
def test_damage_is_read_again(how: str, path: Path) -> None:
    damage(stored(path), how)
    assert cache.load(path) is None
    trace = tq.open(path, cache=True)
    assert isinstance(trace, Trace)
    assert_same(cache.load(path), trace)


def test_folder_that_cannot_be_written_leaves_it_to_the_users(path: Path, user_folder: Path) -> None:
    path.with_name(path.name + ".traceql-cache").write_text("in the way")
    folder = stored(path)
    assert folder.parent == user_folder
    assert_same(cache.load(path), opened(path))


def test_nowhere_to_write(path: Path, tmp_path: Path) -> None:
    path.with_name(path.name + ".traceql-cache").write_text("in the way")
    (tmp_path / "user").write_text("in the way")
    assert cache.store(opened(path)) is None
    assert tq.open(path, cache=True) is not None
    assert cache.entries() == [] and cache.clear() == 0


def test_chosen_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEQL_CACHE", str(tmp_path / "chosen"))
    assert stored(path).parent == tmp_path / "chosen"
    assert [entry.path for entry in cache.entries()] == [path]
    monkeypatch.setenv("TRACEQL_CACHE", "off")
    assert cache.load(path) is None and cache.store(opened(path)) is None


def test_users_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEQL_CACHE", str(tmp_path / "chosen"))
    paths = [write(tmp_path / f"{i}.json", kernels=50) for i in range(4)]
    for age, path in zip((4, 3, 2), paths, strict=False):
        os.utime(stored(path) / "meta.json", (1_000_000_000 - age, 1_000_000_000 - age))
    assert cache.load(paths[0])  # used again
    monkeypatch.setattr(cache, "MAX_BYTES", int(2.5 * cache.entries()[0].bytes))
    stored(paths[3])
    assert {entry.path.name for entry in cache.entries()} == {"0.json", "3.json"}


def test_entries_and_clear(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", kernels=9)
    folders = {path: stored(path), other: stored(other)}
    other.write_text("changed")
    found = {entry.path: entry for entry in cache.entries()}
    assert {p: entry.folder for p, entry in found.items()} == folders
    assert {p: entry.current for p, entry in found.items()} == {path: True, other: False}
    size = sum(file.stat().st_size for folder in folders.values() for file in folder.iterdir())
    assert sum(entry.bytes for entry in found.values()) == size
    assert cache.clear() == size
    assert cache.entries() == [] and not folders[path].parent.exists() and path.exists()


def test_what_a_dead_process_left_goes(path: Path) -> None:
    left = path.with_name(path.name + ".traceql-cache") / ".new-left"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    stored(path)
    assert not left.exists()


def test_open_database_and_directories_are_not_kept(path: Path) -> None:
    trace = opened(path)
    path.with_name(path.name + "-wal").write_text("")
    assert cache.store(trace) is None
    assert cache.load(path.parent) is None
    assert cache.load(path.with_name("gone")) is None


def test_two_processes_at_once(path: Path) -> None:
    code = (
        "import sys, traceql as tq; from traceql import cache; from pathlib import Path; cache.WORTHWHILE_BYTES = 0\n"
        "for _ in range(15): assert len(tq.open(sys.argv[1], cache=True).loaded['kernels']) == 2; cache.clear()"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, env=os.environ)
        for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()

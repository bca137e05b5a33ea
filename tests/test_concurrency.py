"""Several processes at once, places that cannot be written, a full disk, a kill at any moment: nothing half-written stays."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_traces import Decode

import traceql as tq
from traceql import cache
from traceql.errors import UsageError
from traceql.trace import Trace
from traceql.writing import write_bytes

ANALYZE = (
    "import sys; from pathlib import Path; import traceql as tq; from traceql import cache; cache.WORTHWHILE_BYTES = 0\n"
    "report = tq.analyze(tq.open(sys.argv[1], cache=True)); report.save(sys.argv[2])"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACEQL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(cache, "WORTHWHILE_BYTES", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Decode(steps=20).write(tmp_path / "t.json.gz")


def started(path: Path, report: Path, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", ANALYZE, str(path), str(report)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **environment})


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def kernels(path: Path) -> int:
    trace = tq.open(path, cache=True)
    assert isinstance(trace, Trace)
    return trace.loaded["kernels"].height


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.name.startswith((".new-", ".r")))


def test_two_processes_and_a_cold_cache(path: Path, tmp_path: Path) -> None:
    reports = [tmp_path / "a.json", tmp_path / "b.json"]
    for process in [started(path, report) for report in reports]:
        finished(process)
    assert reports[0].read_bytes() == reports[1].read_bytes()
    assert len(cache.entries()) == 1 and cache.entries()[0].current
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("form", ["json", "html"])
def test_the_same_input_gives_the_same_bytes(form: str, path: Path, tmp_path: Path) -> None:
    """Whatever Python's hash seed, the number of threads, and whether the tables come from the cache."""
    reports = [tmp_path / f"{i}.{form}" for i in range(3)]
    settings = [
        {"PYTHONHASHSEED": "1", "POLARS_MAX_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "POLARS_MAX_THREADS": "4"},
        {"PYTHONHASHSEED": "3", "POLARS_MAX_THREADS": "2", "TRACEQL_CACHE": "off"},
    ]
    for report, environment in zip(reports, settings, strict=True):
        finished(started(path, report, **environment))
    first, *others = [report.read_bytes() for report in reports]
    assert all(other == first for other in others)


def test_killed_at_any_moment(path: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    report = tmp_path / "r.html"
    report.write_text("as it was")
    for _ in range(4):
        process = started(path, report)
        time.sleep(chance.uniform(0.2, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        text = report.read_text()
        assert text == "as it was" or text.rstrip().endswith("</html>"), "half a report"
        assert kernels(path) == 20 * (4 * 3 + 1)
    finished(started(path, report))
    assert report.read_text().rstrip().endswith("</html>")


def limited() -> None:
    """A disk with 4,000 bytes left, as far as one file is concerned."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))


def test_a_full_disk(path: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    tq.analyze(tq.open(path))  # what is compiled once is kept from here on
    report.write_text("as it was")
    command = [sys.executable, "-m", "traceql.cli.main", "analyze", str(path), "-o", str(report)]
    done = subprocess.run(
        command,
        capture_output=True,
        preexec_fn=limited,
        check=False,
        timeout=120,
        env=os.environ | {"TRACEQL_CACHE": ""},
    )
    assert done.returncode == 2
    message = done.stderr.decode().strip().splitlines()[-1]
    assert "File too large" in message and "defect" not in message
    assert report.read_text() == "as it was"
    assert leftovers(tmp_path) == []
    assert kernels(path) == 20 * 13


def test_a_cache_on_a_full_disk_is_no_error(path: Path, tmp_path: Path) -> None:
    code = f"import traceql as tq; from traceql import cache; cache.WORTHWHILE_BYTES = 0; tq.open({str(path)!r}, cache=True)"
    subprocess.run([sys.executable, "-c", code], preexec_fn=limited, check=True, timeout=120)
    assert leftovers(tmp_path) == []
    assert kernels(path) == 20 * 13


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fixed"
    folder.mkdir()
    moved = path.rename(folder / path.name)
    folder.chmod(0o555)
    try:
        assert kernels(moved) == kernels(moved) == 20 * 13
        with pytest.raises(UsageError, match="cannot be written"):
            write_bytes(folder / "r.html", b"x")
    finally:
        folder.chmod(0o755)


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(pipe, b"content")
        assert os.read(reader, 99) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    write_bytes(Path(os.devnull), b"content")
    assert not Path(os.devnull).is_file()

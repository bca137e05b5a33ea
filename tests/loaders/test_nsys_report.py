"""Nsight Systems reports: the export is made once, kept whole or not at all, and nsys's refusal is passed on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from traceql.errors import UnreadableTraceError
from traceql.loaders import nsys_report, nsys_sqlite

KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(nsys_report.NSYS_VARIABLE, raising=False)
    path = tmp_path / "runs" / "my run.nsys-rep"
    path.parent.mkdir()
    path.write_bytes(b"report")
    return path


def pretend_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A program called nsys that runs ``script`` with the output file in ``output``; returns its log of runs."""
    program, log = tmp_path / "bin" / "nsys", tmp_path / "runs.log"
    program.parent.mkdir(exist_ok=True)
    lines = [
        f"#!{sys.executable}",
        "import sqlite3, sys",
        "output = next(a.split('=', 1)[1] for a in sys.argv if a.startswith('--output='))",
        f"open({str(log)!r}, 'a').write(repr(sys.argv[1:]) + chr(10))",
        script,
    ]
    program.write_text("\n".join(lines), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return log


EXPORTS = f"""
connection = sqlite3.connect(output)
connection.execute("create table {KERNEL} (start, end, globalPid)")
connection.execute("insert into {KERNEL} values (1, 2, 0)")
connection.commit()
"""


def cached(report: Path) -> list[Path]:
    return sorted(path for path in report.parent.rglob("*") if path.is_file() and path != report)


def test_exports_once(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    for _ in range(2):
        trace = nsys_report.load(report)
        assert trace.path == report
        assert trace.source == "nsys"
        assert trace.frames["kernels"].height == 1
    (run,) = log.read_text(encoding="utf-8").splitlines()
    assert str(report) in run
    (kept,) = cached(report)
    assert kept.parent == report.with_name("my run.traceql-cache")


def test_a_report_recorded_again_is_exported_again(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    nsys_report.load(report)
    report.write_bytes(b"another report")
    nsys_report.load(report)
    assert len(log.read_text(encoding="utf-8").splitlines()) == 2
    assert len(cached(report)) == 1


def test_the_kept_export_serves_without_nsys(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    nsys_report.load(report)
    monkeypatch.setenv("PATH", "")
    assert nsys_report.load(report).frames["kernels"].height == 1


def test_a_damaged_export_is_made_anew(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    nsys_report.load(report)
    (kept,) = cached(report)
    kept.write_bytes(b"not a database, for some reason")
    assert nsys_report.load(report).frames["kernels"].height == 1


def test_a_folder_that_cannot_be_written(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    report.with_name("my run.traceql-cache").write_text("a file where the folder would be", encoding="utf-8")
    for _ in range(2):
        assert nsys_report.load(report).frames["kernels"].height == 1
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1
    assert len(list((tmp_path / "cache" / "traceql").rglob("*.sqlite"))) == 1


def test_no_folder_can_be_written(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    report.with_name("my run.traceql-cache").write_text("", encoding="utf-8")
    (tmp_path / "cache").write_text("", encoding="utf-8")
    assert nsys_report.load(report).frames["kernels"].height == 1


@pytest.mark.parametrize(
    "script",
    [
        "print('Report is newer\\nthan this nsys.'); sys.exit(1)",
        "open(output, 'w').write('half'); print('Report is newer than this nsys.'); sys.exit(1)",
        "print('Report is newer than this nsys.')",
    ],
)
def test_a_refusal_is_passed_on(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    pretend_nsys(tmp_path, monkeypatch, script)
    with pytest.raises(UnreadableTraceError, match=r"Report is newer than this nsys\.") as caught:
        nsys_report.load(report)
    assert str(report) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert cached(report) == []


def test_without_nsys(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnreadableTraceError, match=r"nsys is not installed.*nsys export --type sqlite") as caught:
        nsys_report.load(report)
    assert "\n" not in str(caught.value)
    assert cached(report) == []


def test_nsys_named_by_the_environment(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nsys(tmp_path, monkeypatch, EXPORTS)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(nsys_report.NSYS_VARIABLE, str(tmp_path / "bin" / "nsys"))
    assert nsys_report.load(report).frames["kernels"].height == 1
    monkeypatch.setenv(nsys_report.NSYS_VARIABLE, str(tmp_path / "nowhere"))
    report.write_bytes(b"another report")
    with pytest.raises(UnreadableTraceError, match="nowhere is no program"):
        nsys_report.load(report)


def test_missing_report(tmp_path: Path) -> None:
    with pytest.raises(UnreadableTraceError, match=r"none\.nsys-rep: cannot be read"):
        nsys_report.load(tmp_path / "none.nsys-rep")


EXTRA = os.environ.get("TRACEQL_EXTRA_TRACES")


@pytest.mark.skipif(shutil.which("nsys") is None, reason="nsys is not installed")
@pytest.mark.skipif(not EXTRA, reason="TRACEQL_EXTRA_TRACES names no folder of captures")
def test_real_report(tmp_path: Path) -> None:
    name = "mini-decode-piecewise-node"
    folder = Path(EXTRA or "") / "nsys"
    report = tmp_path / f"{name}.nsys-rep"
    shutil.copyfile(folder / report.name, report)
    trace, expected = nsys_report.load(report), nsys_sqlite.load(folder / f"{name}.sqlite")
    for table, frame in expected.frames.items():
        assert trace.frames[table].equals(frame), table
    with closing(sqlite3.connect(cached(report)[0])) as connection:
        assert connection.execute(f"select count(*) from {KERNEL}").fetchone() == (1372,)


@pytest.mark.skipif(shutil.which("nsys") is None, reason="nsys is not installed")
def test_real_nsys_refuses_what_is_no_report(report: Path) -> None:
    with pytest.raises(UnreadableTraceError, match="could not export it"):
        nsys_report.load(report)
    assert cached(report) == []

"""The compiled scanner as a file: built once, used without numba, never trusted when it is not whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import traces

from traceql import machine_code
from traceql.loaders import kineto_fast, scan_code

CODE = (scan_code.scanner() and scan_code._folder() / scan_code._name()) or Path()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own for the machine code; what is built is a copy of the real one."""
    own = tmp_path / "code"
    monkeypatch.setattr(scan_code, "_folder", lambda: own)
    monkeypatch.setattr("traceql.loaders.scan_build.build", lambda: CODE.read_bytes()[machine_code.DIGEST_BYTES :])
    scan_code.scanner.cache_clear()
    yield own
    scan_code.scanner.cache_clear()


def test_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not scan_code.is_built()
    assert scan_code.scanner() is not None
    assert scan_code.is_built() and [file.name for file in folder.iterdir()] == [scan_code._name()]
    scan_code.scanner.cache_clear()
    monkeypatch.setattr("traceql.loaders.scan_build.build", lambda: pytest.fail("built again"))
    assert scan_code.scanner() is not None


def test_folder_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    folder.write_text("in the way")
    assert scan_code.scanner() is None
    path = tmp_path / "t.json"
    path.write_text('[{"ph": "X", "cat": "kernel", "ts": 1, "dur": 2}]')
    assert kineto_fast.parse_large(path) is None


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 33, 1000, -1])
def test_damaged_code_is_built_again(cut: int, folder: Path) -> None:
    folder.mkdir()
    place = folder / scan_code._name()
    place.write_bytes(CODE.read_bytes()[:cut])
    assert scan_code.scanner() is not None
    assert place.read_bytes() == CODE.read_bytes()


def test_code_that_cannot_be_loaded_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceql.loaders.scan_build.build", lambda: b"not an object file")
    assert scan_code.scanner() is None
    assert not scan_code.is_built() and list(folder.iterdir()) == []


def test_a_compiler_that_fails_leaves_the_strict_parser(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bytes:
        raise RuntimeError("unknown processor")

    monkeypatch.setattr("traceql.loaders.scan_build.build", fail)
    assert scan_code.scanner() is None


def test_middling_files_do_not_start_the_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceql.loaders.scan_build.build", lambda: pytest.fail("compiled"))
    monkeypatch.setattr(kineto_fast, "SMALL_BYTES", 0)
    path = min(
        traces.SAMPLES, key=lambda sample: sample.stat().st_size if sample.name.endswith(".json.gz") else 1 << 60
    )
    assert not kineto_fast.parse(path).families["kernel"].is_empty()


def test_reading_a_trace_does_not_import_numba() -> None:
    path = next(sample for sample in traces.SAMPLES if sample.name.endswith("decode-eager.trace.json.gz"))
    code = (
        "import sys, traceql as tq; from traceql.loaders import kineto_fast; kineto_fast.SMALL_BYTES = 0\n"
        "tq.open(sys.argv[1]); assert 'llvmlite' in sys.modules; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)

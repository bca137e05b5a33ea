"""Compiled loops: where their machine code lies, and what they are given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import traces

from traceql import cache, compiled, machine_code
from traceql.derived import interval_kernels, repetition_kernels, sequence_kernels, step_graph_kernels
from traceql.loaders import scan_code

MODULES = (interval_kernels, repetition_kernels, sequence_kernels, step_graph_kernels)
ROWS, VALUES = np.array([0, 1, 0, -1]), np.array([5, 7, 11, 100])


def added() -> list[int]:
    sums = np.zeros(2, np.int64)
    interval_kernels.add(ROWS, VALUES, sums)
    return [int(value) for value in sums]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own for machine code, and a loop that was never called."""
    folder = tmp_path / "code"
    monkeypatch.setattr(machine_code, "folder", lambda: folder)
    monkeypatch.setattr(interval_kernels.add, "_run", None)
    compiled._library.cache_clear()
    yield folder
    compiled._library.cache_clear()


def test_is_built_once_and_loaded_from_then_on(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert added() == [16, 7]
    (kept,) = fresh.iterdir()
    assert kept.name == compiled.file_name(interval_kernels.__name__)
    monkeypatch.setattr(interval_kernels.add, "_run", None)
    monkeypatch.setattr("traceql.machine_code_build.object_file", lambda _: pytest.fail("built again"))
    compiled._library.cache_clear()
    assert added() == [16, 7]


def test_works_where_nothing_can_be_kept(fresh: Path) -> None:
    fresh.write_text("in the way")
    assert added() == [16, 7]


def test_works_where_the_compiler_makes_nothing_of_use(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceql.machine_code_build.object_file", lambda _: b"not an object file")
    assert added() == [16, 7]
    assert list(fresh.iterdir()) == []


def test_numbas_switch_leaves_them_to_python(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert added() == [16, 7]
    assert not fresh.exists()


@pytest.mark.parametrize(
    "given",
    [VALUES.astype(np.int32), VALUES.astype(float), np.repeat(VALUES, 2)[::2], VALUES.reshape(2, 2)],
    ids=["narrow", "real", "strided", "table"],
)
def test_arrays_of_another_kind_are_refused(given: np.ndarray[object, np.dtype[np.int64]]) -> None:
    with pytest.raises(TypeError, match="add takes a packed array of int64"):
        interval_kernels.add(ROWS, given, np.zeros(2, np.int64))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_loop_says_what_it_takes(module: object) -> None:
    found = compiled.loops(module.__name__)  # type: ignore[attr-defined]
    assert found
    for loop in found.values():
        assert len(loop.signature) == loop.plain.__code__.co_argcount


def test_nothing_is_kept_beside_the_package() -> None:
    """What an uninstall leaves of a package's folder, Python takes for the package."""
    package = Path(cache.__file__).parent
    assert not machine_code.folder().is_relative_to(package)
    assert not scan_code._folder().is_relative_to(package)


def test_an_analysis_does_not_import_numba() -> None:
    for module in MODULES:
        assert compiled._library(module.__name__) is not None  # built, if it was not
    path = next(sample for sample in traces.SAMPLES if sample.name.endswith("decode-eager.trace.json.gz"))
    code = (
        "import sys, traceql as tq; report = tq.analyze(tq.open(sys.argv[1])); report.render('html')\n"
        "assert report.found; assert 'llvmlite' in sys.modules; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)

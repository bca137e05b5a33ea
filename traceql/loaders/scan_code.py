"""The compiled event scanner as machine code: built once for a processor, then loaded in a few milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from traceql import machine_code
from traceql.loaders.kineto_scan_layout import Ended, Layout, Mode, Result, Workspace, layout, workspace

_SOURCES = ("json_scan.py", "kineto_scan.py", "kineto_scan_layout.py", "scan_build.py", "scan_code.py")


class _Scan(NamedTuple):
    """Arguments of kineto_scan.scan."""

    data: Any
    begin: int
    limit: int
    stop: int
    mode: int
    layout: Layout
    space: Workspace


class _Count(NamedTuple):
    """Arguments of json_scan.count_phases."""

    data: Any
    begin: int
    stop: int


EXAMPLES: dict[str, Callable[[], Any]] = {
    "scan": lambda: _Scan(np.zeros(1, np.uint8), 0, 0, 0, 0, layout()[0], workspace(1, 1, 1)),
    "count_phases": lambda: _Count(np.zeros(1, np.uint8), 0, 0),
}
"""Entry point → arguments of the types it takes."""


class Scanner:
    """The entry points; calls let other threads run."""

    def __init__(self, library: machine_code.Library) -> None:
        self._scan = library.function("scan")
        self._count_phases = library.function("count_phases")

    def scan(self, data: Any, begin: int, limit: int, mode: Mode, space: Workspace) -> Ended:
        """See kineto_scan.scan; the arguments must not change or go while it runs."""
        return Ended(self._scan(_Scan(data, begin, limit, len(data), mode, layout()[0], space)))

    def count_phases(self, data: Any, begin: int, stop: int) -> int:
        """See json_scan.count_phases."""
        return self._count_phases(_Count(data, begin, stop))


# --- on disk ---------------------------------------------------------------------------------------------------------


@cache
def scanner() -> Scanner | None:
    """The scanner, built when it is not there yet; None where that does not work."""
    found = machine_code.load(_path())
    if found is None:
        machine_code.build(_path(), _make, _PROOF, "its trace reader (about 10 s)")
        found = machine_code.load(_path())
    return None if found is None else Scanner(found)


def is_built() -> bool:
    """Whether the machine code is there already."""
    return _path().is_file()


_PROOF = "import sys; from traceql.loaders.scan_code import prove; prove(sys.argv[1])"


def prove(path: str) -> None:
    """Load an object file and read one event; ends the process where LLVM cannot load it."""
    if not _works(Scanner(machine_code.Library(Path(path).read_bytes()))):
        raise SystemExit("the compiled scanner misreads an event")


def _works(scanner: Scanner) -> bool:
    """Whether the code reads one event as it should."""
    text = b'{"ph": "X", "cat": "kernel", "ts": 1.5, "dur": 2, "name": "n"},{'
    space = workspace(4, 4, 4)
    ended = scanner.scan(np.frombuffer(text, np.uint8), 0, len(text) - 1, Mode.ODD_ONLY, space)
    read = [int(space.result[slot]) for slot in (Result.POSITION, Result.EVENTS, Result.TEXTS, Result.PHASES)]
    times = [int(space.values[layout()[0].time_value]), int(space.values[layout()[0].duration_value])]
    return ended == Ended.AT_LIMIT and read == [len(text) - 1, 1, 1, 1] and times == [1500, 2000]


def _make() -> bytes:
    from traceql.loaders import scan_build

    return scan_build.build()


@cache
def _name() -> str:
    here = Path(__file__).parent
    return machine_code.file_name("kineto_scan", [here / source for source in _SOURCES])


def _path() -> Path:
    return _folder() / _name()


def _folder() -> Path:
    return machine_code.folder()

"""The compiled event scanner as machine code: built once for a processor, then loaded in a few milliseconds.

The code lies in the user's cache folder: beside this module it would outlive an uninstall. Its file is named after the
source it was built from and the processor it was built for, and carries its own checksum.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numpy as np
from llvmlite import binding

from traceql.loaders.kineto_scan_layout import Ended, Layout, Mode, Result, Workspace, layout, workspace

_SOURCES = ("json_scan.py", "kineto_scan.py", "kineto_scan_layout.py", "scan_build.py", "scan_code.py")
_DIGEST_BYTES = 32


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

    def __init__(self, code: bytes) -> None:
        with suppress(RuntimeError):  # older versions need it, newer ones refuse it
            binding.initialize()
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(jit=True)
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
        self._scan = prototype(self._engine.get_function_address("scan"))
        self._count_phases = prototype(self._engine.get_function_address("count_phases"))

    def scan(self, data: Any, begin: int, limit: int, mode: Mode, space: Workspace) -> Ended:
        """See kineto_scan.scan; the arguments must not change or go while it runs."""
        arguments = _Scan(data, begin, limit, len(data), mode, layout()[0], space)
        return Ended(_call(self._scan, arguments))

    def count_phases(self, data: Any, begin: int, stop: int) -> int:
        """See json_scan.count_phases."""
        return _call(self._count_phases, _Count(data, begin, stop))


def _call(function: Any, arguments: Any) -> int:
    block = np.array(list(_words(arguments)), np.int64)
    return int(function(block.ctypes.data))


def _words(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for part in value:
            yield from _words(part)
    elif isinstance(value, np.ndarray):
        yield value.ctypes.data
        yield from value.shape
    else:
        yield int(value)


# --- on disk ---------------------------------------------------------------------------------------------------------


@cache
def scanner() -> Scanner | None:
    """The scanner, built when it is not there yet; None where that does not work."""
    found = _load()
    if found is None:
        _build()
        found = _load()
    return found


def is_built() -> bool:
    """Whether the machine code is there already."""
    return (_folder() / _name()).is_file()


def _load() -> Scanner | None:
    try:
        content = (_folder() / _name()).read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return Scanner(code) if hashlib.sha256(code).digest() == digest else None


def prove(path: str) -> None:
    """Load an object file and read one event; ends the process where LLVM cannot load it."""
    if not _works(Scanner(Path(path).read_bytes())):
        raise SystemExit("the compiled scanner misreads an event")


def _works(scanner: Scanner) -> bool:
    """Whether the code reads one event as it should."""
    text = b'{"ph": "X", "cat": "kernel", "ts": 1.5, "dur": 2, "name": "n"},{'
    space = workspace(4, 4, 4)
    ended = scanner.scan(np.frombuffer(text, np.uint8), 0, len(text) - 1, Mode.ODD_ONLY, space)
    read = [int(space.result[slot]) for slot in (Result.POSITION, Result.EVENTS, Result.TEXTS, Result.PHASES)]
    times = [int(space.values[layout()[0].time_value]), int(space.values[layout()[0].duration_value])]
    return ended == Ended.AT_LIMIT and read == [len(text) - 1, 1, 1, 1] and times == [1500, 2000]


def _build() -> None:
    """Compile and keep the machine code; leaves nothing where that does not work."""
    if getattr(sys, "frozen", False):
        return  # there is no interpreter to try it in
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
            _build_in(Path(new), folder / _name())
    except OSError:
        return  # cannot be written
    except Exception:  # another numba, an unknown processor: the strict parser reads everything
        logging.getLogger(__name__).warning("the compiled trace reader is not available", exc_info=True)


def _build_in(new: Path, target: Path) -> None:
    """Compile, and put the code in place once a process of its own could use it: LLVM gives up by ending one."""
    if sys.stderr.isatty():
        print("traceql: compiling its trace reader for this machine, once (about 10 s) …", file=sys.stderr)
    from traceql.loaders.scan_build import build

    code = build()
    bare, whole = new / "bare.o", new / "whole.o"
    bare.write_bytes(code)
    program = f"from traceql.loaders.scan_code import prove; prove({str(bare)!r})"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
    whole.write_bytes(hashlib.sha256(code).digest() + code)
    whole.replace(target)


@cache
def _name() -> str:
    here = Path(__file__).parent
    built_for = (binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    key = hashlib.sha256(repr((llvmlite.__version__, *built_for)).encode())
    for source in _SOURCES:
        key.update((here / source).read_bytes())
    return f"kineto_scan.{key.hexdigest()[:24]}.o"


def _folder() -> Path:
    from traceql.cache import user_folder

    return user_folder() / "code"

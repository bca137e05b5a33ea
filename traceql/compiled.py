"""Loops over arrays that no column expression can do, compiled by numba once for a processor."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_PROOF = "import sys; from traceql.compiled import prove; prove(sys.argv[1])"

Ints = np.zeros(0, np.int64)
"""Stands for an array of Int64 in a signature."""
Table = np.zeros((0, 0), np.int64)
"""Stands for a table of Int64."""
Small = np.zeros(0, np.int8)
"""Stands for an array of Int8."""
Flags = np.zeros(0, np.bool_)
"""Stands for an array of booleans."""
Int = 0
"""Stands for a number."""


def compiled(*signature: Any) -> Callable[[Callable[..., Any]], Loop]:
    """Decorate a function of such arguments that fills arrays it is given and returns an integer or nothing.

    It owns no memory: what it needs is handed to it. It runs without Python's lock. All loops of a module are compiled
    together, the first time one of them is called (see ``machine_code``); where they cannot be kept as machine code,
    numba compiles them in each process.
    """
    return lambda function: Loop(function, signature)


class Loop:
    """A compiled function."""

    def __init__(self, function: Callable[..., Any], signature: tuple[Any, ...]) -> None:
        self.plain = function
        self.signature = signature
        self._run: Callable[[Any], int] | None = None

    def __call__(self, *arguments: Any) -> int:
        for given, wanted in zip(arguments, self.signature, strict=True):
            if isinstance(wanted, np.ndarray) and not _fits(given, wanted):
                raise TypeError(f"{self.plain.__name__} takes a packed array of {wanted.dtype}, not {given!r}")
        if self._run is None:
            self._run = self._loaded()
        return self._run(arguments)

    def _loaded(self) -> Callable[[Any], int]:
        interpreted = os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"  # numba's own switch, for whoever debugs
        library = None if interpreted else _library(self.plain.__module__)
        if library is not None:
            run: Callable[[Any], int] = library.function(self.plain.__name__)
            return run
        import numba

        function = numba.njit(nogil=True)(self.plain)
        return lambda arguments: function(*arguments) or 0


def _fits(given: Any, wanted: np.ndarray[Any, Any]) -> bool:
    packed: bool = given.dtype == wanted.dtype and given.ndim == wanted.ndim and given.flags.c_contiguous
    return packed


def loops(module: str) -> dict[str, Loop]:
    """The loops of a module by name."""
    return {name: value for name, value in vars(sys.modules[module]).items() if isinstance(value, Loop)}


@cache
def _library(module: str) -> Any:
    """The machine code of a module's loops, built when it is not there yet; None where that does not work."""
    from traceql import machine_code

    path = machine_code.folder() / file_name(module)
    found = machine_code.load(path)
    if found is None:
        machine_code.build(path, lambda: _built(module), _PROOF, "its loops over intervals (a few seconds)")
        found = machine_code.load(path)
    return found


def file_name(module: str) -> str:
    """Name of the file of a module's machine code."""
    from traceql import machine_code

    source = Path(str(sys.modules[module].__file__))
    return machine_code.file_name(module.rpartition(".")[2], [source, Path(__file__)])


def _built(module: str) -> bytes:
    from traceql.machine_code_build import Entry, object_file

    return object_file({name: Entry(loop.plain, loop.signature) for name, loop in loops(module).items()})


def prove(path: str) -> None:
    """Load an object file; ends the process where LLVM cannot."""
    from traceql.machine_code import Library

    Library(Path(path).read_bytes())

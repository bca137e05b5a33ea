"""Compiled loops as machine code: built once for a processor by numba, then loaded in milliseconds without it.

The code lies in the user's cache folder: beside the package it would outlive an uninstall. Each file is named after the
sources it was built from and the processor it was built for, and carries its own checksum.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

DIGEST_BYTES = 32

_BUILDERS = ("machine_code.py", "machine_code_build.py")


class Library:
    """The functions of an object file; calls let other threads run."""

    def __init__(self, code: bytes) -> None:
        with suppress(RuntimeError):  # older versions need it, newer ones refuse it
            binding.initialize()
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(jit=True)
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def function(self, name: str) -> Callable[[Any], int]:
        """A function of one tuple of arrays and numbers, which must not change or go while it runs."""
        address = self._engine.get_function_address(name)
        if not address:
            raise KeyError(name)
        return _Function(self, ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address))


class _Function:
    def __init__(self, library: Library, entry: Callable[[int], int]) -> None:
        self._library = library  # the code goes with it
        self._entry = entry

    def __call__(self, arguments: Any) -> int:
        block = np.array(list(_words(arguments)), np.int64)
        return int(self._entry(block.ctypes.data))


def _words(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for part in value:
            yield from _words(part)
    elif isinstance(value, np.ndarray):
        yield value.ctypes.data
        yield from value.shape
    else:
        yield int(value)


def folder() -> Path:
    """Where the machine code lies."""
    from traceql.cache import user_folder

    return user_folder() / "code"


def file_name(stem: str, sources: Iterable[Path]) -> str:
    """Name of the file of what is compiled from ``sources`` for this processor."""
    here = Path(__file__).parent
    built_for = (binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    key = hashlib.sha256(repr((llvmlite.__version__, *built_for)).encode())
    for source in [*sources, *(here / builder for builder in _BUILDERS)]:
        key.update(source.read_bytes())
    return f"{stem}.{key.hexdigest()[:24]}.o"


def load(path: Path) -> Library | None:
    """The library kept there; None where there is none, or not a whole one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return Library(code) if hashlib.sha256(code).digest() == digest else None


def build(path: Path, make: Callable[[], bytes], proof: str, what: str) -> None:
    """Compile with ``make`` and keep the machine code; leaves nothing where that does not work.

    ``proof`` is a program that ends well when it could use the object file named by its first argument: LLVM gives up by
    ending the process. ``what`` says in a message what is compiled and how long it takes.
    """
    if getattr(sys, "frozen", False):
        return  # there is no interpreter to try it in
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as new:
            _build_in(Path(new), path, make, proof, what)
    except OSError:
        return  # cannot be written
    except Exception:  # another numba, an unknown processor: what is not compiled is done another way
        logging.getLogger(__name__).warning("%s is not available", what, exc_info=True)


def _build_in(new: Path, target: Path, make: Callable[[], bytes], proof: str, what: str) -> None:
    if sys.stderr.isatty():
        print(f"traceql: compiling {what} for this machine, once …", file=sys.stderr)
    code = make()
    bare, whole = new / "bare.o", new / "whole.o"
    bare.write_bytes(code)
    subprocess.run([sys.executable, "-c", proof, str(bare)], check=True, capture_output=True, timeout=60)
    whole.write_bytes(hashlib.sha256(code).digest() + code)
    whole.replace(target)

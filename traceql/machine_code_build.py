"""Compiles functions over arrays to an object file, for this processor.

Each becomes a C function of one argument, the address of a block of words: addresses and shapes of its arrays, and its
numbers. What it does not use (reference counts, exceptions, Python) is compiled out, so the code needs nothing beside
itself: ``machine_code`` loads it without numba, whose start takes longer than the work on most traces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

OPTIONS: Any = {"nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False}
"""Without reference counting: the functions own no memory, and counting costs more than their work."""

_WORD = ir.IntType(64)


class Entry(NamedTuple):
    """A function (Python's, or compiled by numba with OPTIONS), and arguments of the types it takes, numbers and arrays in
    tuples of tuples. It returns an integer where its annotation says so, or nothing."""

    function: Any
    example: Any


def object_file(entries: Mapping[str, Entry]) -> bytes:
    """An object file with a C function for each entry."""
    module = binding.parse_assembly("")
    for name, entry in entries.items():
        module.link_in(_module(name, entry))
    unknown = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    if unknown:
        raise RuntimeError(f"the compiled code depends on {', '.join(unknown)}")
    machine = binding.Target.from_triple(module.triple).create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3, reloc="pic",
        codemodel="jitdefault", jit=True,
    )  # fmt: skip
    return bytes(machine.emit_object(module))


def _module(name: str, entry: Entry) -> Any:
    """The optimised module of one entry; nothing in it is visible but the C function ``name``."""
    read = _reader(entry.example)
    plain = getattr(entry.function, "py_func", entry.function)
    inner = numba.njit(**OPTIONS, forceinline=True)(plain)  # an error could not be told apart from a result otherwise

    def counting(block: int) -> Any:
        return np.int64(inner(*read(block)))

    def filling(block: int) -> Any:
        inner(*read(block))
        return np.int64(0)

    chosen = filling if plain.__annotations__.get("return") == "None" else counting
    options = {key: value for key, value in OPTIONS.items() if key != "nogil"}
    wrapper: Any = numba.cfunc(types.int64(types.int64), **options)(chosen)
    module = binding.parse_assembly(wrapper.inspect_llvm())
    for member in [*module.functions, *module.global_variables]:
        if not member.is_declaration:
            member.linkage = binding.Linkage.internal
    found = module.get_function(wrapper.native_name)
    found.linkage = binding.Linkage.external
    found.name = name
    return module


def _reader(example: Any) -> Callable[[int], Any]:
    """A compiled function from the address of a block to arguments of the example's types."""
    typeof: Any = numba.typeof
    kind = typeof(example)

    def read(_context: Any, _block: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            words = _Words(builder, arguments[0])
            return _value(context, builder, kind, words)

        return kind(types.int64), generate

    decorate: Any = intrinsic
    reader: Callable[[int], Any] = decorate(read)
    return reader


class _Words:
    """Loads one word of the block after the other."""

    def __init__(self, builder: Any, address: Any) -> None:
        self.builder = builder
        self.base = builder.inttoptr(address, _WORD.as_pointer())
        self.place = 0

    def next(self) -> Any:
        word = self.builder.load(self.builder.gep(self.base, [ir.Constant(_WORD, self.place)]))
        self.place += 1
        return word


def _value(context: Any, builder: Any, kind: Any, words: _Words) -> Any:
    tuples: Any = types.BaseTuple
    if isinstance(kind, tuples):
        return context.make_tuple(builder, kind, [_value(context, builder, part, words) for part in kind.types])
    if not isinstance(kind, types.Array):
        return words.next()
    array = context.make_array(kind)(context, builder)
    data = builder.inttoptr(words.next(), array.data.type)
    shape = [words.next() for _ in range(kind.ndim)]
    item = ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [item]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    fill: Any = populate_array
    fill(array, data=data, shape=shape, strides=strides, itemsize=item, meminfo=None)
    return array._getvalue()

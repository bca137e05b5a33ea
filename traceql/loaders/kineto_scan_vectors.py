"""Vector helpers for the compiled scanner: 32 bytes at a time through LLVM, on any processor.

numba does not see a change of this file when it looks for cached machine code: touch ``kineto_scan.py`` as well.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BLOCK = 32  # bytes looked at in one step


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, target: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), target.as_pointer())


def _block(context: Any, builder: Any, signature: Any, arguments: Any, offset: int = 0) -> Any:
    """Load BLOCK bytes; numba's own arrays offer no unaligned vector load."""
    vector = ir.VectorType(ir.IntType(8), BLOCK)
    index = builder.add(arguments[1], ir.Constant(ir.IntType(64), offset))
    return builder.load(_address(context, builder, signature.args[0], arguments[0], index, vector), align=1)


def _equal(builder: Any, block: Any, byte: int) -> Any:
    return builder.icmp_unsigned("==", block, ir.Constant(block.type, [byte] * BLOCK))


def _leading(builder: Any, stops: Any) -> Any:
    """Bytes before the first stop, BLOCK when there is none."""
    bits = builder.bitcast(stops, ir.IntType(BLOCK))
    return builder.zext(builder.cttz(bits, ir.Constant(ir.IntType(1), 0)), ir.IntType(64))


@intrinsic
def word_at(_context: Any, data: Any, _index: Any) -> Any:
    """Eight bytes from ``index``, which need not be aligned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(64))
        return builder.load(address, align=1)

    return types.uint64(data, types.int64), generate


@intrinsic
def plain_bytes(_context: Any, data: Any, _index: Any) -> Any:
    """How many of the next BLOCK bytes are plain text: not a quote, a backslash, a control byte or over 127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _block(context, builder, signature, arguments)
        # as a signed byte everything over 127 is negative
        odd = builder.icmp_signed("<", block, ir.Constant(block.type, [32] * BLOCK))
        marks = builder.or_(_equal(builder, block, ord('"')), _equal(builder, block, ord("\\")))
        return _leading(builder, builder.or_(odd, marks))

    return types.int64(data, types.int64), generate


@intrinsic
def space_bytes(_context: Any, data: Any, _index: Any) -> Any:
    """How many of the next BLOCK bytes are white space."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _block(context, builder, signature, arguments)
        space = builder.or_(_equal(builder, block, ord(" ")), _equal(builder, block, ord("\n")))
        space = builder.or_(space, _equal(builder, block, ord("\r")))
        space = builder.or_(space, _equal(builder, block, ord("\t")))
        return _leading(builder, builder.not_(space))

    return types.int64(data, types.int64), generate


@intrinsic
def phase_bytes(_context: Any, data: Any, _index: Any) -> Any:
    """How many of the next BLOCK bytes start the four bytes ``"ph"``; reads three bytes more."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        hits = None
        for offset, byte in enumerate(b'"ph"'):
            equal = _equal(builder, _block(context, builder, signature, arguments, offset), byte)
            hits = equal if hits is None else builder.and_(hits, equal)
        count = builder.ctpop(builder.bitcast(hits, ir.IntType(BLOCK)))
        return builder.zext(count, ir.IntType(64))

    return types.int64(data, types.int64), generate

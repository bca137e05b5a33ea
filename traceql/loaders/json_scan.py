"""Compiled helpers of the event scanner: JSON grammar and strings over bytes, 32 at a time where that pays.

``at`` is an index into ``data`` and ``stop`` the end of what may be read; reading functions return the index after
what they read, -1 when it is not what it should be. The vector helpers go through LLVM and work on any processor.
"""

# ruff: noqa: PLR0912, PLR1714 - compiled loops: a call, a tuple or a set here costs time per byte

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from traceql.loaders.kineto_scan_layout import LENGTH_MIX, Result, State
from traceql.machine_code_build import OPTIONS

BLOCK = 32  # bytes looked at in one step
MAX_DEPTH = 60  # containers in containers; one bit each in a 64-bit word
MAX_KEY = 32  # bytes of the longest key the tables use, in whole words
MAX_ODD_EVENT = 1 << 24  # an event that long is a file with its quotes out of step


def compiled(function: Callable[..., Any]) -> Any:
    """Decorate a function of the scanner."""
    return numba.njit(**OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorate a function that takes a Layout or a Workspace: passing one costs a hundred words a call."""
    return numba.njit(**OPTIONS, forceinline=True)(function)


def intrinsic(function: Callable[..., Any]) -> Any:
    """Decorate a generator of LLVM instructions."""
    return _intrinsic(function)


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


@compiled
def count_phases(data: Any, begin: int, stop: int) -> Any:
    """Occurrences of ``"ph"`` in the bytes, whatever they mean: the check on the scanner's own count."""
    count = 0
    at = begin
    while at + BLOCK + 3 <= stop:
        count += phase_bytes(data, at)
        at += BLOCK
    while at + 4 <= stop:
        if data[at] == 34 and data[at + 1] == 112 and data[at + 2] == 104 and data[at + 3] == 34:
            count += 1
        at += 1
    return count


# --- JSON grammar; every function returns the index after what it read, -1 when it is not what it should be ----------


@inlined
def byte_at(data: Any, at: int, stop: int) -> Any:
    return np.int64(data[at]) if at < stop else np.int64(0)


@compiled
def skip_space(data: Any, at: int, stop: int) -> Any:
    if at < stop and data[at] > 32:
        return at
    while at + BLOCK <= stop:
        run = space_bytes(data, at)
        at += run
        if run < BLOCK:
            return at
    while at < stop and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@compiled
def plain_end(data: Any, at: int, stop: int) -> Any:
    """First byte that is not plain text."""
    while at + BLOCK <= stop:
        run = plain_bytes(data, at)
        at += run
        if run < BLOCK:
            return at
    while at < stop and data[at] >= 32 and data[at] < 128 and data[at] != 34 and data[at] != 92:
        at += 1
    return at


@compiled
def string_end(data: Any, at: int, stop: int, state: Any) -> Any:
    """The closing quote of the string whose text starts at ``at``; state[State.SPECIAL] = 1 when the text is not plain.

    Unicode escapes are left to the strict decoder: half a surrogate pair is an error it knows about.
    """
    state[State.SPECIAL] = 0
    while True:
        at = plain_end(data, at, stop)
        if at >= stop:
            return -1
        byte = data[at]
        if byte == 34:
            return at
        state[State.SPECIAL] = 1
        if byte >= 128:
            at += 1
        elif byte == 92:
            escape = byte_at(data, at + 1, stop)
            if not (
                escape == 34 or escape == 92 or escape == 47 or escape == 98
                or escape == 102 or escape == 110 or escape == 114 or escape == 116
            ):  # fmt: skip
                return -1
            at += 2
        else:
            return -1


@compiled
def digits_end(data: Any, at: int, stop: int) -> Any:
    while at < stop and data[at] >= 48 and data[at] <= 57:
        at += 1
    return at


@compiled
def number_end(data: Any, at: int, stop: int) -> Any:
    if byte_at(data, at, stop) == 45:
        at += 1
    first = at
    at = digits_end(data, at, stop)
    if at == first or (at > first + 1 and data[first] == 48):
        return -1
    if byte_at(data, at, stop) == 46:
        first = at + 1
        at = digits_end(data, first, stop)
        if at == first:
            return -1
    byte = byte_at(data, at, stop)
    if byte == 101 or byte == 69:
        at += 1
        byte = byte_at(data, at, stop)
        if byte == 43 or byte == 45:
            at += 1
        first = at
        at = digits_end(data, first, stop)
        if at == first:
            return -1
    return at


@compiled
def literal_end(data: Any, at: int, stop: int) -> Any:
    """true, false or null."""
    if at + 5 > stop:  # no literal ends an event
        return -1
    a, b, c, d = data[at], data[at + 1], data[at + 2], data[at + 3]
    if a == 110 and b == 117 and c == 108 and d == 108:
        return at + 4
    if a == 116 and b == 114 and c == 117 and d == 101:
        return at + 4
    if a == 102 and b == 97 and c == 108 and d == 115 and data[at + 4] == 101:
        return at + 5
    return -1


@compiled
def key_end(data: Any, at: int, stop: int) -> Any:
    """The closing quote of the plain key that starts with the quote at ``at``."""
    if byte_at(data, at, stop) != 34:
        return -1
    at = plain_end(data, at + 1, stop)
    return at if byte_at(data, at, stop) == 34 else -1


@compiled
def after_colon(data: Any, at: int, stop: int) -> Any:
    """Where the value starts, given the closing quote of its key."""
    at = skip_space(data, at + 1, stop)
    return skip_space(data, at + 1, stop) if byte_at(data, at, stop) == 58 else -1


@compiled
def value_end(data: Any, at: int, stop: int, state: Any) -> Any:
    """The end of any JSON value; state[State.OBJECTS] counts the objects in it."""
    depth = 0
    objects = np.uint64(0)  # one bit a container, innermost lowest: 1 for an object
    one = np.uint64(1)
    while True:
        byte = byte_at(data, at, stop)
        if byte == 34:
            at = string_end(data, at + 1, stop, state)
            if at < 0:
                return -1
            at += 1
        elif byte == 123 or byte == 91:
            state[State.OBJECTS] += byte == 123
            at = skip_space(data, at + 1, stop)
            if byte_at(data, at, stop) != byte + 2:  # not empty: } and ] are two after { and [
                if depth == MAX_DEPTH:
                    return -1
                depth += 1
                objects <<= one
                if byte == 123:
                    objects |= one
                    at = key_end(data, at, stop)
                    at = after_colon(data, at, stop) if at >= 0 else -1
                    if at < 0:
                        return -1
                continue
            at += 1
        elif byte == 45 or (byte >= 48 and byte <= 57):
            at = number_end(data, at, stop)
            if at < 0:
                return -1
        else:
            at = literal_end(data, at, stop)
            if at < 0:
                return -1
        while True:  # after a value: close containers until one goes on
            if depth == 0:
                return at
            in_object = (objects & one) == one
            at = skip_space(data, at, stop)
            byte = byte_at(data, at, stop)
            at += 1
            if byte == 44:
                at = skip_space(data, at, stop)
                if in_object:
                    at = key_end(data, at, stop)
                    at = after_colon(data, at, stop) if at >= 0 else -1
                    if at < 0:
                        return -1
                break
            if byte != (125 if in_object else 93):
                return -1
            depth -= 1
            objects >>= one


@compiled
def odd_end(data: Any, at: int, stop: int, state: Any) -> Any:
    """The end of the object at ``at`` by brackets and quotes alone; the strict decoder checks the rest."""
    stop = min(stop, at + MAX_ODD_EVENT)
    depth = 0
    while at < stop:
        byte = data[at]
        at += 1
        if byte == 34:
            while True:
                at = plain_end(data, at, stop)
                if at >= stop:
                    return -1
                byte = data[at]
                at += 2 if byte == 92 else 1
                if byte == 34:
                    break
        elif byte == 123 or byte == 91:
            depth += 1
            state[State.OBJECTS] += byte == 123
        elif byte == 125 or byte == 93:
            depth -= 1
            if depth == 0:
                return at
    return -1


# --- recognising and keeping strings -----------------------------------------------------------------------------


@inlined
def word_of(data: Any, at: int, count: int, stop: int) -> Any:
    """Up to eight bytes as one word, zero padded."""
    if at + 8 <= stop:
        word = word_at(data, at)
        if count < 8:
            word &= (np.uint64(1) << np.uint64(8 * count)) - np.uint64(1)
        return word
    word = np.uint64(0)
    for index in range(min(count, 8)):
        word |= np.uint64(data[at + index]) << np.uint64(8 * index)
    return word


@inlined
def slot_of(data: Any, at: int, length: int, stop: int, known: Any, level: int) -> Any:
    """Slot of the string in the vocabulary, -1 when it is not in it."""
    if length > MAX_KEY or length == 0:
        return -1
    word = word_of(data, at, length, stop)
    mixed = (word ^ (np.uint64(length) * np.uint64(LENGTH_MIX))) * known.multipliers[level]
    slot = np.int64(known.table[level, np.int64(mixed >> np.uint64(57))])
    if slot < 0 or known.lengths[slot] != length or known.words[slot, 0] != word:
        return -1
    index = 1
    while index * 8 < length:
        if known.words[slot, index] != word_of(data, at + index * 8, length - index * 8, stop):
            return -1
        index += 1
    return slot


@inlined
def keep_text(data: Any, at: int, length: int, raw: int, stop: int, space: Any) -> Any:
    """Code of a text, the same for equal texts; -1 when the table is full."""
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    mixed = np.uint64(2 * length + raw)
    index = 0
    while index < length:
        mixed = (mixed ^ word_of(data, at + index, length - index, stop)) * multiplier
        mixed ^= mixed >> np.uint64(32)
        index += 8
    slots = space.slots
    mask = np.int64(len(slots) - 1)
    slot = np.int64(mixed >> np.uint64(1)) & mask
    while True:
        code = np.int64(slots[slot])
        if code < 0:
            break
        if space.text_lengths[code] == 2 * length + raw:
            other = space.text_starts[code]
            index = 0
            while index < length:
                left = length - index
                if word_of(data, at + index, left, stop) != word_of(data, other + index, left, stop):
                    break
                index += 8
            if index >= length:
                return code
        slot = (slot + 1) & mask
    code = space.result[Result.TEXTS]
    if code >= len(space.text_starts):
        return -1
    slots[slot] = code
    space.text_starts[code] = at
    space.text_lengths[code] = 2 * length + raw
    space.result[Result.TEXTS] = code + 1
    return code

"""Compiled scanner of trace events: the loop behind ``kineto_fast``.

It reads a stretch of a JSON array of events byte by byte and writes what the tables use into integer columns. It
accepts an event only when every byte of it follows the JSON grammar and every value the tables use has the plain form
it knows; any other event is put on the *odd* list for the strict decoder. Nothing is guessed and nothing is dropped.

All compiled loops are in this one file on purpose: numba's cache on disk notices a change of the file a function is
in, not of the files it calls into.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from traceql.loaders.kineto_scan_layout import (
    ALIGNED, ARGUMENTS, AT_LIMIT, BROKEN, CLOSED, COMPLETE, EVENTS, EVERYTHING, FAMILY, FLOAT, FULL, INTEGER,
    KNOWN_START, LAST_START, LENGTH_MIX, NO_ROOM, NULL, OBJECTS, ODD, PHASE, PHASE_KEYS, PHASES, POSITION, RAW, SKIP, SKIPPED,
    SPECIAL, SPECIAL_TEXTS, TEXT, TEXTS, TIME, TOUCHED, TRIPLE,
)  # fmt: skip
from traceql.loaders.kineto_scan_vectors import BLOCK, phase_bytes, plain_bytes, space_bytes, word_at

MAX_DEPTH = 60  # containers in containers; one bit each in a 64-bit word
MAX_KEY = 32  # bytes of the longest key the tables use, in whole words
MAX_ODD_EVENT = 1 << 24  # an event that long is a file with its quotes out of step
MAX_ALIGNED_OBJECTS = 3  # more in one event and the recovery of kineto_json may not put its pieces together

_compiled = njit(nogil=True, cache=True, boundscheck=False, error_model="numpy", _nrt=False)


@_compiled
def count_phases(data: Any, begin: int, stop: int) -> int:
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


@_compiled
def byte_at(data: Any, at: int, stop: int) -> int:
    return np.int64(data[at]) if at < stop else np.int64(0)


@_compiled
def skip_space(data: Any, at: int, stop: int) -> int:
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


@_compiled
def plain_end(data: Any, at: int, stop: int) -> int:
    """First byte that is not plain text."""
    while at + BLOCK <= stop:
        run = plain_bytes(data, at)
        at += run
        if run < BLOCK:
            return at
    while at < stop and data[at] >= 32 and data[at] < 128 and data[at] != 34 and data[at] != 92:
        at += 1
    return at


@_compiled
def string_end(data: Any, at: int, stop: int, state: Any) -> int:
    """The closing quote of the string whose text starts at ``at``; state[SPECIAL] = 1 when the text is not plain.

    Unicode escapes are left to the strict decoder: half a surrogate pair is an error it knows about.
    """
    state[SPECIAL] = 0
    while True:
        at = plain_end(data, at, stop)
        if at >= stop:
            return -1
        byte = data[at]
        if byte == 34:
            return at
        state[SPECIAL] = 1
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


@_compiled
def digits_end(data: Any, at: int, stop: int) -> int:
    while at < stop and data[at] >= 48 and data[at] <= 57:
        at += 1
    return at


@_compiled
def number_end(data: Any, at: int, stop: int) -> int:
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


@_compiled
def literal_end(data: Any, at: int, stop: int) -> int:
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


@_compiled
def key_end(data: Any, at: int, stop: int) -> int:
    """The closing quote of the plain key that starts with the quote at ``at``."""
    if byte_at(data, at, stop) != 34:
        return -1
    at = plain_end(data, at + 1, stop)
    return at if byte_at(data, at, stop) == 34 else -1


@_compiled
def after_colon(data: Any, at: int, stop: int) -> int:
    """Where the value starts, given the closing quote of its key."""
    at = skip_space(data, at + 1, stop)
    return skip_space(data, at + 1, stop) if byte_at(data, at, stop) == 58 else -1


@_compiled
def value_end(data: Any, at: int, stop: int, state: Any) -> int:
    """The end of any JSON value; state[OBJECTS] counts the objects in it."""
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
            state[OBJECTS] += byte == 123
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


@_compiled
def odd_end(data: Any, at: int, stop: int, state: Any) -> int:
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
            state[OBJECTS] += byte == 123
        elif byte == 125 or byte == 93:
            depth -= 1
            if depth == 0:
                return at
    return -1


# --- recognising and keeping strings -----------------------------------------------------------------------------


@_compiled
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


@_compiled
def slot_of(data: Any, at: int, length: int, stop: int, known: Any, level: int) -> int:
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


@_compiled
def keep_text(data: Any, at: int, length: int, raw: int, stop: int, space: Any) -> int:
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
    code = space.result[TEXTS]
    if code >= len(space.text_starts):
        return -1
    slots[slot] = code
    space.text_starts[code] = at
    space.text_lengths[code] = 2 * length + raw
    space.result[TEXTS] = code + 1
    return code


# --- events --------------------------------------------------------------------------------------------------------


@_compiled
def touch(value: int, number: int, space: Any) -> bool:
    """Set a value of the event being read; a key given twice counts with its last value."""
    count = space.state[TOUCHED]
    if count == len(space.touched):
        return False
    space.touched[count] = value
    space.state[TOUCHED] = count + 1
    space.values[value] = number
    return True


@_compiled
def read_integer(data: Any, at: int, stop: int, value: int, space: Any) -> int:
    """An integer, null, or a plain text, of which the first run of digits counts ("stream 7" is 7)."""
    byte = byte_at(data, at, stop)
    if byte == 110:
        end = literal_end(data, at, stop)
        return end if touch(value, NULL, space) else -1
    end = 0
    if byte == 34:
        end = key_end(data, at, stop)
        if end < 0:
            return -1
        while at < end and not (48 <= data[at] <= 57):
            at += 1
        if at == end:
            return end + 1 if touch(value, NULL, space) else -1
        at -= data[at - 1] == 45
    negative = data[at] == 45
    at += negative
    first = at
    number = np.uint64(0)
    while at < stop and 48 <= data[at] <= 57 and at < first + 19:
        number = number * np.uint64(10) + np.uint64(data[at] - 48)
        at += 1
    if end:
        fits = number < np.uint64(2**63)
        signed = np.int64(number)
        return end + 1 if touch(value, (-signed if negative else signed) if fits else NULL, space) else -1
    byte = byte_at(data, at, stop)
    if at == first or at > first + 18 or (at > first + 1 and data[first] == 48) or byte in (46, 69, 101):
        return -1
    signed = np.int64(number)
    return at if touch(value, -signed if negative else signed, space) else -1


@_compiled
def read_time(data: Any, at: int, stop: int, value: int, space: Any) -> int:
    """Decimal microseconds as integer ns; a fourth decimal of 5 or more rounds away from zero."""
    negative = byte_at(data, at, stop) == 45
    at += negative
    first = at
    number = np.int64(0)
    while at < stop and 48 <= data[at] <= 57 and at < first + 17:
        number = number * 10 + (data[at] - 48)
        at += 1
    digits = at - first
    if digits == 0 or digits > 16 or number > 9_223_372_036_854_774 or (digits > 1 and data[first] == 48):
        return -1
    decimals = 0
    rounding = 0
    if byte_at(data, at, stop) == 46:
        at += 1
        while at < stop and 48 <= data[at] <= 57:
            if decimals < 3:
                number = number * 10 + (data[at] - 48)
            elif decimals == 3:
                rounding = np.int64(data[at] >= 53)
            decimals += 1
            at += 1
        # with more digits than 28 the strict decoder rounds twice
        if decimals == 0 or (digits == 16 and decimals > 10):
            return -1
    byte = byte_at(data, at, stop)
    if byte == 69 or byte == 101:
        return -1
    while decimals < 3:
        number *= 10
        decimals += 1
    number += rounding
    return at if touch(value, -number if negative else number, space) else -1


@_compiled
def read_float(data: Any, at: int, stop: int, value: int, space: Any) -> int:
    """A short decimal, kept as the bits of its float64: an exact quotient of two exact floats rounds correctly."""
    if byte_at(data, at, stop) == 110:
        end = literal_end(data, at, stop)
        return end if touch(value, NULL, space) else -1
    end = number_end(data, at, stop)
    if end < 0 or end - at > 16 or data[at] == 45:
        return -1
    number = np.int64(0)
    scale = 1.0
    in_fraction = False
    while at < end:
        byte = data[at]
        if byte == 46:
            in_fraction = True
        elif byte > 57:
            return -1
        else:
            number = number * 10 + (byte - 48)
            if in_fraction:
                scale *= 10.0
        at += 1
    if number > 2**53 or not touch(value, 0, space):
        return -1
    space.values.view(np.float64)[value] = np.float64(number) / scale
    return end


@_compiled
def read_text(data: Any, at: int, stop: int, value: int, mode: int, space: Any) -> int:
    if byte_at(data, at, stop) == 110:
        end = literal_end(data, at, stop)
        return end if touch(value, NULL, space) else -1
    if byte_at(data, at, stop) != 34:
        return -1
    end = string_end(data, at + 1, stop, space.state)
    if end < 0 or (mode == SPECIAL_TEXTS and space.state[SPECIAL]):
        return -1
    code = keep_text(data, at + 1, end - at - 1, 0, stop, space)
    if code < 0:
        space.state[NO_ROOM] = 1
        return -1
    return end + 1 if touch(value, code, space) else -1


@_compiled
def read_raw(data: Any, at: int, stop: int, value: int, space: Any) -> int:
    """Any value, kept as its JSON text."""
    end = value_end(data, at, stop, space.state)
    if end < 0:
        return -1
    code = keep_text(data, at, end - at, 1, stop, space)
    if code < 0:
        space.state[NO_ROOM] = 1
        return -1
    return end if touch(value, code, space) else -1


@_compiled
def read_triple(data: Any, at: int, stop: int, value: int, space: Any) -> int:
    """The first three integers of an array, missing ones null."""
    for axis in range(3):
        if not touch(value + axis, NULL, space):
            return -1
    if byte_at(data, at, stop) != 91:
        return -1
    at = skip_space(data, at + 1, stop)
    axis = 0
    while byte_at(data, at, stop) != 93:
        byte = byte_at(data, at, stop)
        if axis >= 3 or not (byte == 45 or 48 <= byte <= 57):
            return -1
        at = read_integer(data, at, stop, value + axis, space)
        if at < 0:
            return -1
        at = skip_space(data, at, stop)
        axis += 1
        if byte_at(data, at, stop) == 44:
            at = skip_space(data, at + 1, stop)
            if byte_at(data, at, stop) == 93:
                return -1
        elif byte_at(data, at, stop) != 93:
            return -1
    return at + 1


@_compiled
def read_value(data: Any, at: int, stop: int, slot: int, mode: int, layout: Any, space: Any) -> int:
    kind = layout.kinds[slot] if slot >= 0 else SKIP
    if kind == SKIP:
        return value_end(data, at, stop, space.state)
    value = layout.values[slot]
    if kind == INTEGER:
        return read_integer(data, at, stop, value, space)
    if kind == TIME:
        return read_time(data, at, stop, value, space)
    if kind == TEXT:
        return read_text(data, at, stop, value, mode, space)
    if kind == RAW:
        return read_raw(data, at, stop, value, space)
    if kind == TRIPLE:
        return read_triple(data, at, stop, value, space)
    if kind == FLOAT:
        return read_float(data, at, stop, value, space)
    end = key_end(data, at, stop)
    if end < 0:
        return -1
    if kind == PHASE:
        space.state[COMPLETE] = end == at + 2 and data[at + 1] == 88
        space.state[PHASE_KEYS] += 1
    else:
        slot = slot_of(data, at + 1, end - at - 1, stop, layout.categories, 0)
        space.state[FAMILY] = layout.families[slot] if slot >= 0 else -1
    return end + 1


@_compiled
def read_event(data: Any, at: int, stop: int, mode: int, layout: Any, space: Any) -> int:
    """Read the object at ``at`` into ``space.values`` and ``space.state``; -1 when the strict decoder has to."""
    state = space.state
    state[:] = 0
    state[FAMILY] = -1
    space.values[layout.time_value] = NULL
    space.values[layout.duration_value] = NULL
    level = 0
    arguments = 0
    at = skip_space(data, at + 1, stop)
    if byte_at(data, at, stop) == 125:
        return at + 1
    first = True
    while True:
        end = key_end(data, at, stop)
        if end < 0:
            return -1
        slot = slot_of(data, at + 1, end - at - 1, stop, layout.keys, level)
        if first:
            state[KNOWN_START] = slot >= 0
            first = False
        at = after_colon(data, end, stop)
        if at < 0:
            return -1
        if slot >= 0 and layout.kinds[slot] == ARGUMENTS:
            arguments += 1
            # a second args replaces the first as a whole
            if arguments > 1 or byte_at(data, at, stop) != 123:
                return -1
            state[OBJECTS] += 1
            at = skip_space(data, at + 1, stop)
            if byte_at(data, at, stop) != 125:
                level = 1
                continue
            at += 1
        else:
            at = read_value(data, at, stop, slot, mode, layout, space)
            if at < 0:
                return -1
        while True:
            at = skip_space(data, at, stop)
            byte = byte_at(data, at, stop)
            at += 1
            if byte == 44:
                at = skip_space(data, at, stop)
                break
            if byte != 125:
                return -1
            if level == 0:
                return at
            level = 0


@_compiled
def keep_row(layout: Any, space: Any) -> bool:
    """Append the event's values to the columns of its family; False when they are full."""
    family = space.state[FAMILY]
    if family < 0 or not space.state[COMPLETE]:
        return True
    if space.values[layout.time_value] == NULL or space.values[layout.duration_value] < 0:
        space.result[SKIPPED] += 1
        return True
    row = space.counts[family]
    if row == space.columns.shape[1]:
        return False
    for index in range(space.state[TOUCHED]):
        value = space.touched[index]
        column = layout.columns[family, value]
        if column >= 0:
            for missing in range(space.filled[column], row):
                space.columns[column, missing] = NULL
            space.columns[column, row] = space.values[value]
            space.filled[column] = row + 1
    space.counts[family] = row + 1
    return True


@_compiled
def keep_odd(data: Any, at: int, stop: int, layout: Any, space: Any) -> int:
    """Note an event for the strict decoder; its end, or -1 when its brackets or quotes do not close."""
    state = space.state
    state[:] = 0
    key = skip_space(data, at + 1, stop)
    end = key_end(data, key, stop)
    state[KNOWN_START] = end >= 0 and slot_of(data, key + 1, end - key - 1, stop, layout.keys, 0) >= 0
    end = odd_end(data, at, stop, state)
    state[OBJECTS] -= 1
    index = space.result[ODD]
    if end < 0:
        return -1
    if index == len(space.odd):
        state[NO_ROOM] = 1
        return -1
    space.odd[index, 0] = at
    space.odd[index, 1] = end
    for family in range(len(space.counts)):
        space.odd[index, 2 + family] = space.counts[family]
    space.result[ODD] = index + 1
    return end


@_compiled
def scan(data: Any, begin: int, limit: int, stop: int, mode: int, layout: Any, space: Any) -> int:
    """Read events from ``begin`` until one would start at or after ``limit``; returns how it ended.

    ``begin`` is the first byte of an event. ``result[POSITION]`` is where the next event starts, where the array's
    ``]`` is, or what could not be read.
    """
    space.filled[:] = 0
    space.counts[:] = 0
    space.slots[:] = -1
    result = space.result
    result[:] = 0
    result[ALIGNED] = 1
    result[LAST_START] = -1
    at = begin
    while at < limit:
        result[POSITION] = at
        if byte_at(data, at, stop) != 123:
            return BROKEN
        end = np.int64(-1)
        if mode != EVERYTHING:
            end = read_event(data, at, stop, mode, layout, space)
            if space.state[NO_ROOM] or (end >= 0 and not keep_row(layout, space)):
                return FULL
            if end >= 0:
                result[PHASES] += space.state[PHASE_KEYS]
        if end < 0:
            end = keep_odd(data, at, stop, layout, space)
            if end < 0:
                return FULL if space.state[NO_ROOM] else BROKEN
        if not space.state[KNOWN_START] or space.state[OBJECTS] > MAX_ALIGNED_OBJECTS:
            result[ALIGNED] = 0
        result[EVENTS] += 1
        result[LAST_START] = at
        at = skip_space(data, end, stop)
        result[POSITION] = at
        byte = byte_at(data, at, stop)
        if byte == 93:
            return CLOSED
        if byte != 44:
            return BROKEN
        at = skip_space(data, at + 1, stop)
    result[POSITION] = at
    return AT_LIMIT

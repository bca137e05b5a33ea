"""Compiled scanner of trace events: the loop behind ``kineto_fast``.

It reads a stretch of a JSON array of events byte by byte and writes what the tables use into integer columns. It
accepts an event only when every byte of it follows the JSON grammar and every value the tables use has the plain form
it knows; any other event is put on the *odd* list for the strict decoder. Nothing is guessed and nothing is dropped.
"""

# ruff: noqa: PLR0912, PLR1714 - compiled loops: a call, a tuple or a set here costs time per byte

from __future__ import annotations

from typing import Any

import numpy as np

from traceql.loaders.json_scan import (
    after_colon,
    byte_at,
    compiled,
    count_phases,
    inlined,
    keep_text,
    key_end,
    literal_end,
    number_end,
    odd_end,
    skip_space,
    slot_of,
    string_end,
    value_end,
)
from traceql.loaders.kineto_scan_layout import NULL, Ended, Kind, Mode, Result, State

MAX_ALIGNED_OBJECTS = 3  # more in one event and the recovery of kineto_json may not put its pieces together


@inlined
def touch(value: int, number: int, space: Any) -> Any:
    """Set a value of the event being read; a key given twice counts with its last value."""
    count = space.state[State.TOUCHED]
    if count == len(space.touched):
        return False
    space.touched[count] = value
    space.state[State.TOUCHED] = count + 1
    space.values[value] = number
    return True


@inlined
def read_integer(data: Any, at: int, stop: int, value: int, space: Any) -> Any:
    """An integer, null, or a plain text, of which the first run of digits counts ("stream 7" is 7).

    In front of it may be the label of a merged rank ("[TP01-PP00] 7"): then all digits of the label count.
    """
    byte = byte_at(data, at, stop)
    if byte == 110:
        end = literal_end(data, at, stop)
        return end if touch(value, NULL, space) else -1
    end = 0
    if byte == 34:
        end = key_end(data, at, stop)
        if end < 0:
            return -1
        if data[at + 1] == 91:
            label, labelled, inside = np.int64(0), 0, at + 2
            while inside < end and data[inside] != 93 and labelled < 19:
                if 48 <= data[inside] <= 57:
                    label = label * 10 + (data[inside] - 48)
                    labelled += 1
                inside += 1
            if 0 < labelled < 19 and inside < end:
                return end + 1 if touch(value, label, space) else -1
        while at < end and not (48 <= data[at] <= 57):
            at += 1
        if at == end:
            return end + 1 if touch(value, NULL, space) else -1
        at -= data[at - 1] == 45
    negative = byte_at(data, at, stop) == 45
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


@inlined
def read_time(data: Any, at: int, stop: int, value: int, space: Any) -> Any:
    """Decimal microseconds as integer ns; a fourth decimal of 5 or more rounds away from zero."""
    negative = byte_at(data, at, stop) == 45
    at += negative
    first = at
    number: Any = np.int64(0)
    while at < stop and 48 <= data[at] <= 57 and at < first + 17:
        number = number * 10 + (data[at] - 48)
        at += 1
    digits = at - first
    if digits == 0 or digits > 16 or number > 9_223_372_036_854_774 or (digits > 1 and data[first] == 48):
        return -1
    decimals = 0
    rounding: Any = 0
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


@inlined
def read_float(data: Any, at: int, stop: int, value: int, space: Any) -> Any:
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


@inlined
def read_text(data: Any, at: int, stop: int, value: int, mode: int, space: Any) -> Any:
    if byte_at(data, at, stop) == 110:
        end = literal_end(data, at, stop)
        return end if touch(value, NULL, space) else -1
    if byte_at(data, at, stop) != 34:
        return -1
    end = string_end(data, at + 1, stop, space.state)
    if end < 0 or (mode == Mode.SPECIAL_TEXTS and space.state[State.SPECIAL]):
        return -1
    code = keep_text(data, at + 1, end - at - 1, 0, stop, space)
    if code < 0:
        space.state[State.NO_ROOM] = 1
        return -1
    return end + 1 if touch(value, code, space) else -1


@inlined
def read_raw(data: Any, at: int, stop: int, value: int, space: Any) -> Any:
    """Any value, kept as its JSON text."""
    end = value_end(data, at, stop, space.state)
    if end < 0:
        return -1
    code = keep_text(data, at, end - at, 1, stop, space)
    if code < 0:
        space.state[State.NO_ROOM] = 1
        return -1
    return end if touch(value, code, space) else -1


@inlined
def read_triple(data: Any, at: int, stop: int, value: int, space: Any) -> Any:
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


@inlined
def read_value(data: Any, at: int, stop: int, slot: int, mode: int, layout: Any, space: Any) -> Any:
    kind = layout.kinds[slot] if slot >= 0 else Kind.SKIP
    if kind == Kind.SKIP:
        return value_end(data, at, stop, space.state)
    value = layout.values[slot]
    if kind == Kind.INTEGER:
        return read_integer(data, at, stop, value, space)
    if kind == Kind.TIME:
        return read_time(data, at, stop, value, space)
    if kind == Kind.TEXT:
        return read_text(data, at, stop, value, mode, space)
    if kind == Kind.RAW:
        return read_raw(data, at, stop, value, space)
    if kind == Kind.TRIPLE:
        return read_triple(data, at, stop, value, space)
    if kind == Kind.FLOAT:
        return read_float(data, at, stop, value, space)
    end = key_end(data, at, stop)
    if end < 0:
        return -1
    if kind == Kind.PHASE:
        space.state[State.COMPLETE] = end == at + 2 and data[at + 1] == 88
        space.state[State.PHASE_KEYS] += 1
    else:
        slot = slot_of(data, at + 1, end - at - 1, stop, layout.categories, 0)
        space.state[State.FAMILY] = layout.families[slot] if slot >= 0 else -1
    return end + 1


@inlined
def read_event(data: Any, at: int, stop: int, mode: int, layout: Any, space: Any) -> Any:
    """Read the object at ``at`` into ``space.values`` and ``space.state``; -1 when the strict decoder has to."""
    state = space.state
    state[:] = 0
    state[State.FAMILY] = -1
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
            state[State.KNOWN_START] = slot >= 0
            first = False
        at = after_colon(data, end, stop)
        if at < 0:
            return -1
        if slot >= 0 and layout.kinds[slot] == Kind.ARGUMENTS:
            arguments += 1
            # a second args replaces the first as a whole
            if arguments > 1 or byte_at(data, at, stop) != 123:
                return -1
            state[State.OBJECTS] += 1
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


@inlined
def keep_row(layout: Any, space: Any) -> Any:
    """Append the event's values to the columns of its family; False when they are full."""
    family = space.state[State.FAMILY]
    if family < 0 or not space.state[State.COMPLETE]:
        return True
    if space.values[layout.time_value] == NULL or space.values[layout.duration_value] < 0:
        space.result[Result.SKIPPED] += 1
        return True
    row = space.counts[family]
    if row == space.columns.shape[1]:
        return False
    for index in range(space.state[State.TOUCHED]):
        value = space.touched[index]
        column = layout.columns[family, value]
        if column >= 0:
            for missing in range(space.filled[column], row):
                space.columns[column, missing] = NULL
            space.columns[column, row] = space.values[value]
            space.filled[column] = row + 1
    space.counts[family] = row + 1
    return True


@inlined
def keep_odd(data: Any, at: int, stop: int, layout: Any, space: Any) -> Any:
    """Note an event for the strict decoder; its end, or -1 when its brackets or quotes do not close."""
    state = space.state
    state[:] = 0
    key = skip_space(data, at + 1, stop)
    end = key_end(data, key, stop)
    state[State.KNOWN_START] = end >= 0 and slot_of(data, key + 1, end - key - 1, stop, layout.keys, 0) >= 0
    end = odd_end(data, at, stop, state)
    state[State.OBJECTS] -= 1
    index = space.result[Result.ODD]
    if end < 0:
        return -1
    if index == len(space.odd):
        state[State.NO_ROOM] = 1
        return -1
    space.odd[index, 0] = at
    space.odd[index, 1] = end
    for family in range(len(space.counts)):
        space.odd[index, 2 + family] = space.counts[family]
    space.result[Result.ODD] = index + 1
    phases = count_phases(data, at, end)
    space.result[Result.PHASES] += phases
    space.result[Result.ODD_PHASES] += phases
    return end


@compiled
def scan(data: Any, begin: int, limit: int, stop: int, mode: int, layout: Any, space: Any) -> Any:
    """Read events from ``begin`` until one would start at or after ``limit``; returns how it ended.

    ``begin`` is the first byte of an event. ``result[Result.POSITION]`` is where the next event starts, where the
    array's ``]`` is, or what could not be read.
    """
    space.filled[:] = 0
    space.counts[:] = 0
    space.slots[:] = -1
    result = space.result
    result[:] = 0
    result[Result.ALIGNED] = 1
    result[Result.LAST_START] = -1
    at = begin
    while at < limit:
        result[Result.POSITION] = at
        if byte_at(data, at, stop) != 123:
            return Ended.BROKEN
        end = np.int64(-1)
        if mode != Mode.EVERYTHING:
            end = read_event(data, at, stop, mode, layout, space)
            if space.state[State.NO_ROOM] or (end >= 0 and not keep_row(layout, space)):
                return Ended.FULL
            if end >= 0:
                result[Result.PHASES] += space.state[State.PHASE_KEYS]
        if end < 0:
            end = keep_odd(data, at, stop, layout, space)
            if end < 0:
                return Ended.FULL if space.state[State.NO_ROOM] else Ended.BROKEN
        if not space.state[State.KNOWN_START] or space.state[State.OBJECTS] > MAX_ALIGNED_OBJECTS:
            result[Result.ALIGNED] = 0
        result[Result.EVENTS] += 1
        result[Result.LAST_START] = at
        at = skip_space(data, end, stop)
        result[Result.POSITION] = at
        byte = byte_at(data, at, stop)
        if byte == 93:
            return Ended.CLOSED
        if byte != 44:
            return Ended.BROKEN
        at = skip_space(data, at + 1, stop)
    result[Result.POSITION] = at
    return Ended.AT_LIMIT

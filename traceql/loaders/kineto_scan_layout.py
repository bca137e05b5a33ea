"""What the compiled scanner is told: the keys and columns of ``kineto_events`` as arrays, and room to work in."""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from traceql.loaders import kineto_events

NULL = np.int64(-(2**63))
"""Marks a missing value in an integer column. A number that large in the file makes its event odd."""


class Kind(IntEnum):
    """What a value has to look like, by what it fills."""

    SKIP, PHASE, CATEGORY, TEXT, INTEGER, TIME, ARGUMENTS, FLOAT, RAW, TRIPLE = range(10)


class Ended(IntEnum):
    """How a scan ended: at its limit between two events, at the array's end, at something unreadable, out of room."""

    AT_LIMIT, CLOSED, BROKEN, FULL = range(4)


class Mode(IntEnum):
    """What the strict decoder gets: what the scanner cannot read; texts with escapes or beyond ASCII too; all."""

    ODD_ONLY, SPECIAL_TEXTS, EVERYTHING = range(3)


class _Result(NamedTuple):
    """Slots of Workspace.result."""

    POSITION: int = 0
    """where the scan ended: see kineto_scan.scan"""
    EVENTS: int = 1
    LAST_START: int = 2
    """first byte of the last event, -1 when there is none"""
    ALIGNED: int = 3
    """whether the recovery of kineto_json would cut out the same events"""
    SKIPPED: int = 4
    """complete events without a time"""
    TEXTS: int = 5
    ODD: int = 6
    PHASES: int = 7
    """ "ph" keys read, and times "ph" stands in odd events"""
    ODD_PHASES: int = 8
    """the latter alone"""


Result = _Result()


class _State(NamedTuple):
    """Slots of Workspace.state, about the event being read."""

    FAMILY: int = 0
    TOUCHED: int = 1
    """values set"""
    OBJECTS: int = 2
    """objects inside it"""
    SPECIAL: int = 3
    """the last string has escapes or goes beyond ASCII"""
    COMPLETE: int = 4
    """its phase is X"""
    KNOWN_START: int = 5
    """its first key is one that starts an event"""
    NO_ROOM: int = 6
    PHASE_KEYS: int = 7


State = _State()


LENGTH_MIX = 0xD6E8FEB86659FD93
_TABLE_SIZE = 128
_KEY_WORDS = 4


class Vocabulary(NamedTuple):
    """Strings to recognise, in one hash table a level; every hit is compared byte by byte."""

    table: Any
    """int16[levels, 128] → slot, -1 for none"""
    words: Any
    """uint64[slots, 4]: the string, zero padded"""
    lengths: Any
    """int64[slots]"""
    multipliers: Any
    """uint64[levels]"""


class Layout(NamedTuple):
    """What the keys mean and where the values of each family go."""

    keys: Vocabulary
    """level 0: keys of an event; level 1: keys of its args"""
    categories: Vocabulary
    """level 0: event categories"""
    kinds: Any
    """int64[keys] → SKIP … TRIPLE"""
    values: Any
    """int64[keys] → index of its (first) value"""
    families: Any
    """int64[categories] → family"""
    columns: Any
    """int64[families, values] → row of Workspace.columns, -1 where the family has no such column"""
    time_value: int
    duration_value: int


class Workspace(NamedTuple):
    """Room for one thread's scan; its contents are valid until the thread's next scan."""

    columns: Any
    """int64[columns, rows]"""
    filled: Any
    """int64[columns]: rows written so far; null from there on"""
    counts: Any
    """int64[families]: rows of each"""
    odd: Any
    """int64[events, 2 + families]: start, stop, rows of each family before it"""
    slots: Any
    """int32[2**n]: hash table of texts"""
    text_starts: Any
    """int64[texts]"""
    text_lengths: Any
    """int64[texts]: length × 2, + 1 for raw JSON"""
    values: Any
    """int64[values] of the event being read"""
    touched: Any
    """int64[]: which of them it has"""
    state: Any
    """int64[8]: see State"""
    result: Any
    """int64[9]: see Result"""


class FamilyColumn(NamedTuple):
    """A column of a family's frame and the row of Workspace.columns that holds it."""

    name: str
    row: int
    kind: int


_EVENT_KEYS: dict[str, int] = {
    "ph": Kind.PHASE, "cat": Kind.CATEGORY, "name": Kind.TEXT, "pid": Kind.INTEGER, "tid": Kind.INTEGER, "ts": Kind.TIME, "dur": Kind.TIME,
    "args": Kind.ARGUMENTS, "id": Kind.SKIP, "bp": Kind.SKIP, "s": Kind.SKIP,
}  # fmt: skip
_EVENT_COLUMNS = {"name": "name", "pid": "pid", "tid": "tid", "start_ns": "ts", "dur_ns": "dur"}


def _kind(column: str) -> int:
    if column in kineto_events.TRIPLES:
        return Kind.TRIPLE
    if column in kineto_events.JSON_TEXT:
        return Kind.RAW
    if column in kineto_events.TEXT:
        return Kind.TEXT
    return Kind.FLOAT if column in kineto_events.FLOAT else Kind.INTEGER


@cache
def layout() -> tuple[Layout, dict[str, list[FamilyColumn]]]:
    """The scanner's tables, and for each family its columns in the order of its schema."""
    argument_kinds: dict[str, int] = {
        key: _kind(column) for family in kineto_events.ARGUMENTS.values() for column, key in family.items()
    }  # fmt: skip
    keys = [*((0, key, kind) for key, kind in _EVENT_KEYS.items()), *((1, k, v) for k, v in argument_kinds.items())]
    values: list[int] = []
    width = 0
    for _, _, kind in keys:
        values.append(width)
        width += 3 if kind == Kind.TRIPLE else 1
    value_of = {(level, key): value for (level, key, _), value in zip(keys, values, strict=True)}
    columns = np.full((len(kineto_events.FAMILIES), width), -1, np.int64)
    by_family: dict[str, list[FamilyColumn]] = {}
    row = 0
    for index, family in enumerate(kineto_events.FAMILIES):
        members = [(c, value_of[0, key], _EVENT_KEYS[key]) for c, key in _EVENT_COLUMNS.items()]
        for column, key in kineto_events.ARGUMENTS[family].items():
            first = value_of[1, key]
            names = kineto_events.TRIPLES.get(column, (column,))
            members += [(name, first + axis, argument_kinds[key]) for axis, name in enumerate(names)]
        by_family[family] = []
        for name, value, kind in members:
            columns[index, value] = row
            by_family[family].append(FamilyColumn(name, row, kind))
            row += 1
        if [c.name for c in by_family[family]] != list(kineto_events.family_schema(family)):
            raise AssertionError(f"columns of {family} are out of step with its schema")
    categories = list(kineto_events.FAMILY_OF_CATEGORY)
    family_index = {family: index for index, family in enumerate(kineto_events.FAMILIES)}
    tables = Layout(
        keys=_vocabulary([(level, key) for level, key, _ in keys], levels=2),
        categories=_vocabulary([(0, category) for category in categories], levels=1),
        kinds=np.array([kind for _, _, kind in keys], np.int64),
        values=np.array(values, np.int64),
        families=np.array([family_index[kineto_events.FAMILY_OF_CATEGORY[c]] for c in categories], np.int64),
        columns=columns,
        time_value=value_of[0, "ts"],
        duration_value=value_of[0, "dur"],
    )
    return tables, by_family


def _vocabulary(entries: list[tuple[int, str]], levels: int) -> Vocabulary:
    texts = [text.encode() for _, text in entries]
    padded = b"".join(text.ljust(8 * _KEY_WORDS, b"\0") for text in texts)
    words = np.frombuffer(padded, "<u8").reshape(len(texts), _KEY_WORDS).astype(np.uint64)
    lengths = np.array([len(text) for text in texts], np.int64)
    table = np.full((levels, _TABLE_SIZE), -1, np.int16)
    multipliers = np.zeros(levels, np.uint64)
    mixed = [int(word) ^ (len(text) * LENGTH_MIX % 2**64) for word, text in zip(words[:, 0], texts, strict=True)]
    for level in range(levels):
        slots = [slot for slot, (at, _) in enumerate(entries) if at == level]
        multiplier, places = _perfect_hash([mixed[slot] for slot in slots])
        multipliers[level] = multiplier
        table[level, places] = slots
    return Vocabulary(table, words, lengths, multipliers)


def _perfect_hash(words: list[int]) -> tuple[int, list[int]]:
    """An odd multiplier whose products differ in their top seven bits for all ``words``, and those bits."""
    if len(set(words)) < len(words):
        raise AssertionError("two keys of one length share their first eight bytes")
    multiplier = 0x9E3779B97F4A7C15
    while True:
        places = [(word * multiplier % 2**64) >> 57 for word in words]
        if len(set(places)) == len(words):
            return multiplier, places
        multiplier = (multiplier * 6364136223846793005 + 1442695040888963407) % 2**64 | 1


def workspace(rows: int, odd: int, texts: int) -> Workspace:
    """Room for so many rows a family, odd events and distinct texts; untouched room costs no memory."""
    tables, by_family = layout()
    height = sum(len(columns) for columns in by_family.values())
    slots = 1 << (2 * texts).bit_length()
    return Workspace(
        columns=np.empty((height, rows), np.int64),
        filled=np.zeros(height, np.int64),
        counts=np.zeros(len(by_family), np.int64),
        odd=np.empty((odd, 2 + len(by_family)), np.int64),
        slots=np.empty(slots, np.int32),
        text_starts=np.empty(texts, np.int64),
        text_lengths=np.empty(texts, np.int64),
        values=np.zeros(tables.columns.shape[1], np.int64),
        touched=np.empty(256, np.int64),
        state=np.zeros(len(State), np.int64),
        result=np.zeros(len(Result), np.int64),
    )

"""An operator's recorded inputs, from the JSON texts of ``input_shapes``, ``input_strides`` and ``input_dtypes``.

A file may hold anything there: what no tensor can be is refused, so that sums over shapes stay within an Int64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import Any

_MOST_ELEMENTS = 2**53
MOST_COUNT = 2**62
"""Largest count of operations or bytes taken for one call."""


def extents(text: str | None) -> Any:
    """The shapes or strides of the inputs: integers in lists, as deep as recorded; ValueError for anything else."""
    value = _decoded(text)
    if value is not None:
        _check(value)
    return value


def elements(shape: Sequence[Any]) -> int:
    """Elements of one tensor; ValueError when its shape is no list of integers."""
    if not all(type(extent) is int for extent in shape):
        raise ValueError("the shape of one tensor is flat")
    return prod(shape)


def types(text: str | None) -> Any:
    """The element types of the inputs, a list of texts as a rule; ValueError for what is no JSON or no text."""
    value = _decoded(text)
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text: UnicodeEncodeError is a ValueError
    return value


def _decoded(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _check(value: Any) -> None:
    if not isinstance(value, list):
        raise ValueError("no list")  # noqa: TRY004 - the text is wrong, not the call
    numbers = [item for item in value if type(item) is int]
    for item in value:
        if type(item) is not int:
            _check(item)
    if (
        abs(prod(number for number in numbers if number)) > _MOST_ELEMENTS
        or max(map(abs, numbers), default=0) > _MOST_ELEMENTS
    ):
        raise ValueError("larger than any tensor")

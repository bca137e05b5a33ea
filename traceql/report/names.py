"""Names that come from outside (kernels, operators, files) made fit to show."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_HOME = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s:]+|(?<![\w.])/root(?=/)")
"""Home directories of Linux, macOS and Windows: they name a person, and the rest of the path says enough."""

_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters, invisible ones, those that reorder text, and lone surrogates."""


_RIGHT_TO_LEFT = re.compile(
    r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe]+(?:\s+[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe]+)*"
)
"""Runs of Hebrew, Arabic and their kin: isolated, so that the numbers beside them keep their place."""


def shown(text: str) -> str:
    """``text`` with home directories as ``~`` and characters that hide or reorder text made visible."""
    return _RIGHT_TO_LEFT.sub("\u2068\\g<0>\u2069", _UNSAFE.sub(_visible, without_home(text)))


def without_home(text: str) -> str:
    """``text`` with home directories as ``~``, else as it is."""
    return _HOME.sub("~", text)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␀ ␛ ␊ …
    return f"⟨U+{code:04X}⟩"


def file_labels(paths: Sequence[Path]) -> list[str]:
    """What to call each file: its name; where names repeat, the path below the directory they share."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        absolute = [path.absolute() for path in paths]
        common = os.path.commonpath([path.parent for path in absolute])
        names = [str(path.relative_to(common)) for path in absolute]
    return [shown(name) for name in names]

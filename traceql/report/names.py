"""Names that come from outside (kernels, operators, files) made fit to show."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

_HOME = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s:]+|(?<![\w.])/root(?=/)")
"""Home directories of Linux, macOS and Windows: they name a person, and the rest of the path says enough."""

HIDDEN = r"\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
"""What no text is shown with, as a regular expression's set: controls beyond ASCII's, invisible characters, those that
reorder text, and lone surrogates."""
_UNSAFE = re.compile(rf"[\x00-\x1f{HIDDEN}]")

_COMMAND = re.compile(r"(?<!\S)::")
"""What a line of a build's log must not begin with, like ``##[``: the runner would take it for a command."""

LONGEST = 4000
"""Characters of a text that are shown; of a longer one the middle goes. Names of templates stay below."""


_RIGHT_TO_LEFT = re.compile(
    r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe]+(?:\s+[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe]+)*"
)
"""Runs of Hebrew, Arabic and their kin: isolated, so that the numbers beside them keep their place."""


def shown(text: str) -> str:
    """``text`` with home directories as ``~`` and characters that hide or reorder text made visible, without what a build's log takes
    for a command, ``LONGEST`` characters at most."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 2 // 3]} … {text[-LONGEST // 3 :]}"
    visible = _UNSAFE.sub(_visible, without_home(text))
    visible = _COMMAND.sub("∷", visible).replace("##[", "＃＃[")
    return _RIGHT_TO_LEFT.sub("\u2068\\g<0>\u2069", visible)


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
    if len(set(names)) < len(set(paths)):
        absolute = [path.absolute() for path in paths]
        common = os.path.commonpath([path.parent for path in absolute])
        names = [str(path.relative_to(common)) for path in absolute]
    return [shown(name) for name in names]


def process_label(rank: int | None, processes: Sequence[int]) -> str:
    """``rank 1``; where that is not known, the processes."""
    if rank is not None:
        return f"rank {rank}"
    return f"process{'es' if len(processes) > 1 else ''} {', '.join(map(str, processes))}"

"""JSON as it is written for programs that may print it: nothing in it hides, reorders or colours text."""

from __future__ import annotations

import json
import re
from typing import Any

from traceql.report.names import HIDDEN, without_home

_HIDDEN = re.compile(f"[{HIDDEN}]")


def json_text(content: Any) -> str:
    """``content`` as an indented document with a final newline and without home directories.

    Hidden characters are escaped, so that a reader gets them back; a lone surrogate, which is no text, becomes U+FFFD.
    """
    text = json.dumps(_without_homes(content), ensure_ascii=False, allow_nan=False, indent=1)
    return _HIDDEN.sub(_escaped, text) + "\n"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def _without_homes(value: Any) -> Any:
    """``value`` without home directories in any of its texts: a report is shared, and they name a person."""
    if isinstance(value, str):
        return without_home(value)
    if isinstance(value, dict):
        return {without_home(key): _without_homes(inner) for key, inner in value.items()}
    return [_without_homes(inner) for inner in value] if isinstance(value, (list, tuple)) else value

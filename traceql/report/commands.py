"""The commands a report names: what made it, and what opens one of its findings in Perfetto."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from traceql.report.names import file_labels, shown

if TYPE_CHECKING:
    from traceql.reporting import Report


def analyze_command(report: Report) -> str:
    """``traceql analyze …`` as it was run; empty for a report made from Python."""
    return _line("analyze", report.command) if report.command else ""


def open_command(report: Report, number: int) -> str:
    """What shows finding ``number`` in Perfetto; names the files alone where the report was made from Python."""
    words = report.command or list(dict.fromkeys(file_labels([trace.path for trace in report.traces])))
    return _line("open", [*words, "--finding", str(number)])


def _line(command: str, words: Sequence[str]) -> str:
    return " ".join(["traceql", command, *(_word(word) for word in words)])


def _word(word: str) -> str:
    """``word`` for a shell, a home directory as ``~``, which the shell reads back when it is not quoted."""
    safe = shown(word)
    head, slash, rest = safe.partition("/")
    if head == "~" and slash:
        return f"~/{shlex.quote(rest)}" if rest else safe
    return shlex.quote(safe)

"""The errors a user can meet.

Every one is a single line that names the input, what was found there and what to do. The command line prints the
line and exits with 2; the Python API raises it.
"""

from __future__ import annotations

_LONGEST = 2_000


class TraceqlError(Exception):
    """Base of all errors that are the input's or the caller's, never a defect of traceql.

    The message is made one printable line whatever the input put into it: a name or a path may hold line ends and
    terminal escapes, and be of any length.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class UnreadableTraceError(TraceqlError):
    """A file or directory that holds no trace traceql can read."""


class QueryError(TraceqlError):
    """A SQL text that is refused or does not run."""


class UsageError(TraceqlError):
    """An argument, option or configuration value that makes no sense."""


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"

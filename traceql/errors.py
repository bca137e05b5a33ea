"""The errors a user can meet.

Every one is a single line that names the input, what was found there and what to do. The command line prints the
line and exits with 2; the Python API raises it.
"""

from __future__ import annotations


class TraceqlError(Exception):
    """Base of all errors that are the input's or the caller's, never a defect of traceql."""


class UnreadableTraceError(TraceqlError):
    """A file or directory that holds no trace traceql can read."""


class QueryError(TraceqlError):
    """A SQL text that is refused or does not run."""


class UsageError(TraceqlError):
    """An argument, option or configuration value that makes no sense."""

"""What several commands share: paths, samples, consoles."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from traceql.errors import UnreadableTraceError

if TYPE_CHECKING:
    from rich.console import Console

    from traceql.opening import Opened

RUNS = Path("runs")

_PIPE, _NARROWEST = 100, 40
"""Columns of what is not printed to a terminal, and the fewest that text still reads in."""


def newest_run() -> Path:
    """The run directory ``collect`` wrote last; UnreadableTraceError when there is none."""
    latest = RUNS / "latest"
    if latest.exists():
        return latest
    raise UnreadableTraceError(
        "no PATH given and no runs/latest here: give a trace, record one with `traceql collect`, "
        "or try `traceql analyze --sample list`"
    )


def read(paths: list[Path], *, cache: bool = True) -> Opened:
    """Open every path; what cannot be read is said on stderr. UnreadableTraceError when nothing could.

    Large traces come from and go to the cache unless ``cache`` is off.
    """
    from traceql.opening import open_all

    opened = open_all(paths, cache=cache)
    if not opened.traces:
        for line in opened.unreadable[:-1]:
            click.echo(f"traceql: {line}", err=True)
        raise UnreadableTraceError(opened.unreadable[-1] if opened.unreadable else "no trace given")
    for line in opened.unreadable:
        click.echo(f"traceql: skipped: {line}", err=True)
    return opened


def console(*, stderr: bool = False) -> Console:
    """A rich console that honours NO_COLOR and does not colour a pipe, which is as wide as COLUMNS says."""
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    piped = max(_NARROWEST, int(columns)) if columns.isdecimal() and len(columns) < 5 else _PIPE
    width = None if sys.stdout.isatty() else piped
    return Console(stderr=stderr, width=width, highlight=False, no_color="NO_COLOR" in os.environ or None)

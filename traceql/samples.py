"""The bundled captures: small real traces, described in sample_traces/samples.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from traceql.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Sample:
    """One bundled capture: its name, file (or run directory), what it shows and how it was recorded."""

    name: str
    file: str
    shows: str
    recorded: str


def folder() -> Path:
    """Where the captures lie, in an installed wheel as in a source tree."""
    return Path(str(files("traceql.sample_traces")))


def samples() -> dict[str, Sample]:
    """Every bundled capture by name."""
    rows = tomllib.loads((folder() / "samples.toml").read_text(encoding="utf-8"))["sample"]
    return {row["name"]: Sample(**row) for row in rows}


def path(name: str) -> Path:
    """The file or folder of sample ``name``; UsageError lists the names when there is none."""
    known = samples()
    if name not in known:
        raise UsageError(f"no sample {name!r}; there are: {', '.join(known)}")
    return folder() / known[name].file


def print_list(console: Console) -> None:
    """Each sample's name, and below it what it shows."""
    from rich.text import Text

    from traceql.terminal import put

    for sample in samples().values():
        put(console, Text(sample.name, style="bold"))
        put(console, Text(sample.shows), 4)

"""Options that analyze, lint and open share: what stands beside the traces, and the choice of rules over the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from traceql.config import Configuration

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--select", multiple=True, metavar="RULE", help="Run only these rules: codes, names or families (TQL1)."
    ),
    click.option("--ignore", multiple=True, metavar="RULE", help="Leave these rules out."),
    click.option(
        "--option", "options", multiple=True, metavar="RULE.OPTION=N", help="Set a rule's option: TQL101.min_gap_us=3."
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration to use; else the nearest traceql.toml or pyproject.toml with [tool.traceql], upwards.",
    ),
]


_COMPANIONS = [
    click.option(
        "--eager",
        type=click.Path(path_type=Path),
        metavar="TRACE",
        help="An eager run of the same model and batch: names the kernels of CUDA graph replays.",
    ),
    click.option(
        "--ncu",
        "reports",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="REPORT",
        help="A Nsight Compute report (.ncu-rep, CSV page) of the same program; may be repeated.",
    ),
]


def companion_options(command: _Command) -> _Command:
    """Adds the options for what is recorded beside the traces; the command takes ``eager`` and ``reports``."""
    for option in reversed(_COMPANIONS):
        command = option(command)
    return command


def selection_options(command: _Command) -> _Command:
    """Adds the options; the command takes ``select``, ``ignore``, ``options`` and ``config``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def configuration_from(
    select: Iterable[str], ignore: Iterable[str], options: Iterable[str], config: Path | None
) -> Configuration:
    """What the options and the configuration file say together; UsageError names what does not exist."""
    from traceql import config as configuration

    return configuration.load(config, select=select, ignore=ignore, options=options)

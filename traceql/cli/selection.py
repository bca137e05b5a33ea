"""--config, --select, --ignore and --option: options that analyze and lint share, over the configuration file."""

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

"""traceql doctor"""

from __future__ import annotations

import sys
from pathlib import Path

import click

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "red")}


@click.command()
@click.option(
    "--for",
    "collector",
    type=click.Choice(["sglang", "server", "torch", "nsys", "ncu"]),
    default="sglang",
    show_default=True,
    help="The collector that has to work: a problem that blocks it makes the exit code 1.",
)
@click.option(
    "--python", default=sys.executable, help="The Python that runs the program to record; this one by default."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("runs"), help="Where runs go: its disk is checked."
)  # fmt: skip
def doctor(collector: str, python: str, output: Path) -> None:
    """Check this machine for what the collectors need.

    Looks at the driver, the GPUs and their links, the CUDA versions of driver, torch, nsys and ncu and whether they fit
    together, the permission for performance counters, sglang, clocks and disk. Every line is ok, a note or a problem
    with its fix. Exit code 1 when something blocks the collector of --for, else 0.

    \b
    traceql doctor
    traceql doctor --for ncu
    """
    from traceql.collectors.doctor import examine

    facts = examine(python, output)
    for check in facts.checks:
        mark, colour = _MARKS[check.status]
        click.echo(f"{click.style(f'{mark:<8}', fg=colour)} {check.name:<9} {check.found}")
        if check.fix:
            click.echo(f"{'':<18} fix: {check.fix}")
    blocking = facts.blocking(collector)
    click.echo("")
    if blocking:
        click.echo(f"collect {collector}: cannot work here, {len(blocking)} to fix")
        sys.exit(1)
    click.echo(f"collect {collector}: ready")

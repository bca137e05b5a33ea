"""traceql rules"""

from __future__ import annotations

import shutil
import sys
import textwrap

import click


@click.command()
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def rules(format_: str) -> None:
    """List every installed rule with its code, name, default severity and what a finding means.

    \b
    traceql rules
    """
    from traceql import registry

    installed = registry.rules().values()
    if format_ == "json":
        import json

        rows = [{"code": r.code, "name": r.name, "severity": r.severity.label, "summary": r.summary} for r in installed]
        click.echo(json.dumps(rows, indent=1))
        return
    width = max(len(rule.name) for rule in installed)
    for rule in installed:
        head = f"{rule.code}  {rule.name:<{width}}  {rule.severity.label:<7}  "
        click.echo(head + _hung(rule.summary, len(head)))


def _hung(text: str, indent: int) -> str:
    """``text`` wrapped beside an indent of so many columns on a terminal; one line in a file or a pipe."""
    if not sys.stdout.isatty():
        return text
    room = max(24, shutil.get_terminal_size().columns - indent)
    return f"\n{' ' * indent}".join(textwrap.wrap(text, room))

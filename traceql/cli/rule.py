"""traceql rule"""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("code")
@click.option("--markdown", is_flag=True, help="Print the page's Markdown as it is.")
def rule(code: str, markdown: bool) -> None:
    """Show a rule's page: what it does, how it is measured, its options and how to fix what it finds.

    \b
    traceql rule TQL101
    traceql rule launch-gap
    """
    from traceql import registry
    from traceql.cli import inputs

    for index, found in enumerate(registry.resolve(code)):
        if markdown or not sys.stdout.isatty():
            click.echo(("\n" if index else "") + found.page(), nl=False)
        else:
            from rich.markdown import Markdown

            inputs.console().print(Markdown(found.page()))

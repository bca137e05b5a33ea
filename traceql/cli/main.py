"""Entry point: finds the command, and turns every expected error into one line and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

from traceql import __version__
from traceql.errors import TraceqlError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COMMANDS = {
    "collect": "Record a run of SGLang, or of any program, under a profiler.",
    "analyze": "Find where the GPU loses time in a trace; HTML report and text by default.",
    "lint": "Check traces against rules, budgets and a baseline; exit 1 on findings.",
    "compare": "Compare two traces or two sets of runs.",
    "query": "Run read-only SQL over a trace's tables.",
    "tables": "List the tables of a trace with their columns and rows.",
    "rules": "List the rules.",
    "rule": "Show one rule's page.",
    "open": "Serve a cut of a trace to the Perfetto UI.",
    "scrub": "Write a copy of a trace without private data.",
    "cache": "List or clear cached traces.",
    "doctor": "Check this machine for what the collectors need.",
}
"""Command → its line in the help, so that the help imports no command."""


class _Commands(click.Group):
    """Loads a command's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if _module_exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS or not _module_exists(cmd_name):
            return None
        # a command named like a built-in is open_ in its module
        module = import_module(_module(cmd_name))
        command: click.Command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message.rstrip('.')}; `traceql --help` lists the commands", ctx) from None


def _module(command: str) -> str:
    return f"traceql.cli.{command}"


def _module_exists(command: str) -> bool:
    from importlib.util import find_spec

    return find_spec(_module(command)) is not None


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="traceql")
@click.option("--debug", is_flag=True, help="Show tracebacks and the time each rule took.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Find where an LLM decode step loses GPU time, say why, and fail the change that makes it worse.

    \b
    traceql analyze decode.trace.json.gz          text here, report.html beside
    traceql query decode.sqlite "select …"        SQL over kernels, gaps, steps …
    traceql analyze --sample list                 bundled real captures to try
    """
    context.obj = {"debug": debug}


def main() -> None:
    """Run the command line and exit: 0, or as the command says; 2 for anything wrong with what was given."""
    debug = "--debug" in sys.argv
    try:
        result: Any = cli.main(prog_name="traceql", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.ClickException as error:
        hint = f"{error.format_message()}"
        _fail(hint, 2)
    except TraceqlError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except MemoryError:
        _fail("out of memory; read it on a machine with more, or record fewer steps", 2)
    except BrokenPipeError:
        # the reader of our output is gone (| head); Python would complain again while shutting down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            _fail(f"the disk is full ({error.strerror}: {error.filename or 'a file of its own'}); free some of it", 2)
        _fail(f"{type(error).__name__}: {error} – a defect of traceql; run with `traceql --debug …` and report it", 2)


def _fail(message: str, code: int) -> None:
    click.echo(f"traceql: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

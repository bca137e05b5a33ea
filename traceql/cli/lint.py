"""traceql lint"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from traceql.cli.selection import companion_options, configuration_from, selection_options
from traceql.errors import UsageError

if TYPE_CHECKING:
    from traceql.cli.analysis import Inputs
    from traceql.config import Configuration
    from traceql.reporting import Report

_FORMATS = ["text", "json", "sarif", "junit", "github", "markdown"]


class _Output(click.ParamType[Any]):
    """``FORMAT=FILE``."""

    name = "FORMAT=FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        format_, found, file = str(value).partition("=")
        if not found or not file or format_ not in _FORMATS:
            self.fail(
                f"{value!r}: give FORMAT=FILE with one of {', '.join(_FORMATS)}, such as sarif=traceql.sarif",
                param,
                ctx,
            )
        return format_, Path(file)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "--format", "format_", type=click.Choice(_FORMATS), default="text", show_default=True, help="What to print."
)
@click.option(
    "-o", "--output", "outputs", multiple=True, type=_Output(), help="Also write this format to FILE; may be repeated."
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info"]),
    help="Least severity that fails; default as configured, else warning.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fail on what is new or worse than this file says; default .traceql-baseline.json, if there is one.",
)
@companion_options
@click.option("--no-baseline", is_flag=True, help="Use no baseline, even if there is one.")
@click.option("--update-baseline", is_flag=True, help="Write what is found to the baseline and exit with 0.")
@click.option("--allow-incomplete", is_flag=True, help="Do not fail because a check could not run.")
@selection_options
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def lint(
    context: click.Context,
    *,
    paths: tuple[Path, ...],
    format_: str,
    outputs: tuple[tuple[str, Path], ...],
    fail_on: str | None,
    baseline: Path | None,
    eager: Path | None,
    reports: tuple[Path, ...],
    no_baseline: bool,
    update_baseline: bool,
    allow_incomplete: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    options: tuple[str, ...],
    config: Path | None,
    quiet: bool,
) -> int:
    """Check traces against rules, budgets and a baseline.

    Exit code 0: clean. 1: a finding at or over --fail-on that the baseline does not know, or a budget exceeded. 2: wrong
    usage, a file that cannot be read, or a check that could not run although it was asked for by name, budgeted or in
    the baseline.

    \b
    traceql lint decode.trace.json.gz
    traceql lint runs/latest --output sarif=traceql.sarif --output junit=traceql.xml
    traceql lint decode.trace.json.gz --update-baseline
    traceql lint decode.trace.json.gz --baseline .traceql-baseline.json
    """
    from traceql.cli.analysis import Inputs
    from traceql.finding import Severity
    from traceql.gate import lint as linting
    from traceql.gate.formats import LINT_RENDERERS
    from traceql.opening import TraceSet
    from traceql.reporting import analyze
    from traceql.writing import write_text

    if no_baseline and (baseline or update_baseline):
        raise UsageError("--no-baseline goes with neither --baseline nor --update-baseline")
    configuration = configuration_from(select, ignore, options, config)
    given = Inputs(paths, None, eager, reports, select, ignore, options, config, lost_graph=True)
    place = None if no_baseline else _baseline_file(baseline, configuration)
    if place is not None and not place.exists() and not update_baseline:
        raise UsageError(_no_baseline(place, given, baseline))
    opened = given.read(configuration, cache=True)
    report = analyze(TraceSet(opened.traces), selection=configuration.selection, unreadable=opened.unreadable)
    if update_baseline:
        return _update(report, place or _default_baseline(configuration), quiet=quiet)
    result = linting.lint(
        report,
        configuration,
        baseline=place,
        fail_on=Severity.parse(fail_on) if fail_on else None,
        allow_incomplete=allow_incomplete,
    )
    for each, file in outputs:
        write_text(file, LINT_RENDERERS[each](result))
    if not quiet:
        click.echo(LINT_RENDERERS[format_](result), nl=False)
    if context.obj["debug"]:
        _print_crashes(report)
    return result.exit_code


def _default_baseline(configuration: Configuration) -> Path:
    """As configured, beside the configuration file; else in the working directory."""
    from traceql.gate.baseline import NAME

    folder = configuration.path.parent if configuration.path else Path()
    return folder / (configuration.baseline.file or NAME)


def _baseline_file(given: Path | None, configuration: Configuration) -> Path | None:
    """The baseline to compare with: the one given or configured, or the default one if it is there."""
    default = _default_baseline(configuration)
    return given or (default if configuration.baseline.file or default.exists() else None)


def _no_baseline(place: Path, given: Inputs, named: Path | None) -> str:
    """What to do where there is no baseline yet: the command that writes it."""
    words = [*given.words, *(["--baseline", str(named)] if named else []), "--update-baseline"]
    return (
        f"{place}: there is no baseline yet; accept what is found now with "
        f"`{shlex.join(['traceql', 'lint', *words])}`, then commit the file"
    )


def _update(report: Report, place: Path, *, quiet: bool) -> int:
    from traceql.gate import baseline as baselines

    if report.unreadable:
        raise UsageError(f"{place}: not written, a file could not be read: {report.unreadable[0]}")
    captures = baselines.captures(report)
    every = baselines.updated(place, captures)
    baselines.write(place, every)
    if not quiet:
        kept = len(every) - len(captures)
        others = f"; kept {kept} capture{'s' if kept > 1 else ''} of another context" if kept else ""
        click.echo(f"wrote {place}: {sum(len(c.findings) for c in captures)} findings{others}")
        for outcome in report.rules:
            if outcome.outcome == "error":
                click.echo(f"{outcome.code} {outcome.name} crashed and is not in it: {outcome.reason}", err=True)
    return 0


def _print_crashes(report: Report) -> None:
    for outcome in (o for outcomes in report.outcomes for o in outcomes if o.traceback):
        click.echo(outcome.traceback, err=True)

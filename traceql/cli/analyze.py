"""traceql analyze"""

from __future__ import annotations

from pathlib import Path

import click

from traceql.cli.analysis import Inputs
from traceql.cli.selection import companion_options, configuration_from, selection_options
from traceql.errors import UsageError

_FORMATS = ["html", "json", "text", "markdown"]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="Print this format alone (or write it with -o).")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the report here; the suffix tells the format."
)
@companion_options
@click.option("--sample", metavar="NAME", help="Analyze a bundled real capture; 'list' shows them.")
@selection_options
@click.option("--no-cache", is_flag=True, help="Read the files themselves, and keep nothing of them.")
@click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    help="dask: one task a trace, on many processes or machines.",
)
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler; else processes on this machine.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes of --engine dask on this machine.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def analyze(
    context: click.Context,
    *,
    paths: tuple[Path, ...],
    format_: str | None,
    output: Path | None,
    eager: Path | None,
    reports: tuple[Path, ...],
    sample: str | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    options: tuple[str, ...],
    config: Path | None,
    no_cache: bool,
    engine: str,
    scheduler: str | None,
    workers: int | None,
    quiet: bool,
) -> None:
    """Find where the GPU loses time in traces, and why.

    PATH is a PyTorch profiler trace (.json, .json.gz), an Nsight Systems report or export (.nsys-rep, .sqlite), a
    Nsight Compute report, or a directory of them (the ranks of one job). Without PATH: the newest recorded run.
    Prints the findings and writes report.html. Exit code 0, or 2 when nothing could be read.

    \b
    traceql analyze decode.trace.json.gz
    traceql analyze run/ --format json > report.json
    traceql analyze --sample sglang-h200-bs64-decode-eager
    traceql analyze decode.trace.json.gz --ncu attention.ncu-rep --ncu gemm.ncu-rep
    traceql analyze s3://bucket/run/ --engine dask --scheduler tcp://head:8786
    """
    from traceql import samples
    from traceql.cli import inputs
    from traceql.opening import TraceSet
    from traceql.reporting import analyze as run

    if sample == "list":
        samples.print_list(inputs.console())
        return
    configuration = configuration_from(select, ignore, options, config)
    if engine == "dask":
        from traceql.cli import fleet

        if sample or eager or reports:
            raise UsageError("--engine dask takes paths and URLs, not --sample, --eager or --ncu")
        fleet.analyze(paths or (inputs.newest_run(),), configuration, scheduler, workers, format_, output, quiet=quiet)
        return
    if scheduler or workers:
        raise UsageError("--scheduler and --workers belong to --engine dask")
    given = Inputs(paths, sample, eager, reports, select, ignore, options, config)
    opened = given.read(configuration, cache=not no_cache)
    report = run(
        TraceSet(opened.traces),
        selection=configuration.selection,
        unreadable=opened.unreadable,
        command=given.words,
    )
    if output is not None:
        report.save(output, format_)
        if not quiet:
            click.echo(f"wrote {output}", err=True)
    elif format_ is not None:
        click.echo(report.render(format_), nl=False)
    else:
        written = report.save(Path("report.html"))
        if not quiet:
            from traceql.report.text import print_report

            print_report(report, inputs.console())
            click.echo(f"\nreport: {written.resolve()}")
    if context.obj["debug"]:
        _print_timing(report.outcomes)


def _print_timing(outcomes: object) -> None:
    from traceql.engine import Outcome

    every: list[Outcome] = [o for each in outcomes for o in each]  # type: ignore[attr-defined]
    for outcome in sorted(every, key=lambda o: -o.seconds):
        click.echo(f"{outcome.seconds * 1000:8.1f} ms  {outcome.code} {outcome.outcome}", err=True)
        if outcome.traceback:
            click.echo(outcome.traceback, err=True)

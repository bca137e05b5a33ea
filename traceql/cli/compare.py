"""traceql compare"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("head", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["prefill", "decode", "mixed", "verify", "draft", "other"]),
    help="Compare this kind of step.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Compare steps of this batch size.")
@click.option("--rank", type=click.IntRange(min=0), help="Compare this rank's traces.")
@click.option(
    "--trace", "pattern", metavar="GLOB", help="Choose among the traces of a run by path: 'graph*', '*torch*'."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "html", "json", "markdown"]),
    help="Default text, or what -o says.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write here instead of to the terminal; the suffix tells the format: .html is a page with both timelines.",
)
@click.option("--gate", is_flag=True, help="Exit with 1 if HEAD's runs are slower, with 2 if they are too few to tell.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="Chance of a false alarm.",
)
@click.option(
    "--min-effect",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    metavar="PCT",
    help="Smaller changes do not count.",
)
def compare(
    *,
    base: Path,
    head: Path,
    kind: str | None,
    batch_size: int | None,
    rank: int | None,
    pattern: str | None,
    format_: str | None,
    output: Path | None,
    gate: bool,
    alpha: float,
    min_effect: float,
) -> int:
    """Compare two traces, or two sets of runs.

    BASE and HEAD are each a trace, a run directory, a folder of runs, or a JSON file {"runs_ms": [...]} of measurements.
    Two traces: what makes the difference between their typical steps; the parts add up to it exactly. Sets of runs: also
    whether their unprofiled times differ, by an exact rank test over the runs.

    \b
    traceql compare eager.trace.json.gz graph.trace.json.gz -o compare.html
    traceql compare runs/base runs/head --gate
    """
    from traceql.comparison.formats import RENDERERS, SUFFIXES
    from traceql.comparison.runs import compare_paths
    from traceql.writing import write_text

    found = compare_paths(
        base, head, kind=kind, batch_size=batch_size, rank=rank, pattern=pattern, alpha=alpha, min_effect_pct=min_effect
    )  # fmt: skip
    suffix = None if output is None else SUFFIXES.get(output.suffix)
    rendered = RENDERERS[format_ or suffix or "text"](found)
    if output is None:
        click.echo(rendered, nl=False)
    else:
        write_text(output, rendered)
        click.echo(f"wrote {output}", err=True)
    if not gate:
        return 0
    return 1 if found.slower else 2 if found.inconclusive else 0

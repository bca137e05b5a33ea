"""Write the pages that say what the code says: rules, command line, tables, and what the rules say of the samples.

python docs/generate.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import polars as pl

import traceql as tq
from traceql import expectations, hardware, registry, samples, schema, stalls
from traceql.cli import main as cli
from traceql.finding import Finding, Severity
from traceql.reporting import Report
from traceql.rule import Rule

FOLDER = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py; change the code it comes from. -->\n\n"

FAMILIES = {
    "TQL1": "Gaps and launches",
    "TQL2": "CUDA graphs",
    "TQL3": "CPU against GPU",
    "TQL4": "Kernels and roofline",
    "TQL5": "Communication",
    "TQL6": "Serving and phases",
    "TQL7": "Memory",
    "TQL9": "The trace itself",
}


def documents() -> Iterator[tuple[Path, str]]:
    """Every generated page: its path under docs/ and its text."""
    rules = list(registry.rules().values())
    yield Path("rules/index.md"), NOTE + rule_index(rules)
    for rule in rules:
        yield Path(f"rules/{rule.code}.md"), NOTE + rule.page()
    yield Path("cli.md"), NOTE + command_line()
    yield Path("tables.md"), NOTE + tables()
    yield Path("outcomes.md"), NOTE + outcomes(rules)
    yield from with_data_tables()


def with_data_tables() -> Iterator[tuple[Path, str]]:
    """Written pages that show a data file of the package, between ``<!-- NAME:begin … -->`` and ``<!-- NAME:end -->``."""
    pages = {
        "hardware.md": {"peaks": hardware},
        "nsight-compute.md": {"expectations": expectations, "stalls": stalls},
    }
    for name, tables in pages.items():
        text = (FOLDER / name).read_text(encoding="utf-8")
        for mark, module in tables.items():
            before, rest = text.split(f"<!-- {mark}:begin", 1)
            head, rest = rest.split("-->", 1)
            after = rest.split(f"<!-- {mark}:end", 1)[1]
            table = module.markdown_table().strip()
            text = f"{before}<!-- {mark}:begin{head}-->\n\n{table}\n\n<!-- {mark}:end{after}"
        yield Path(name), text


# --- rules ------------------------------------------------------------------------------------------------------------


def rule_index(rules: Iterable[type[Rule]]) -> str:
    """The rules by family, each with a link to its page."""
    lines = [
        "# Rules", "", "`traceql rules` lists them, `traceql rule CODE` shows a page. A name is accepted wherever a code is.",
        "The terms are defined in [definitions](../definitions.md), the severity is the default one, and",
        "[outcomes](../outcomes.md) shows what each rule says of the bundled captures.",
    ]  # fmt: skip
    for prefix, title in FAMILIES.items():
        family = [rule for rule in rules if rule.code.startswith(prefix)]
        if family:
            lines += [
                "",
                f"## {prefix[3:]}xx {title}",
                "",
                "| code | name | severity | a finding means |",
                "|---|---|---|---|",
            ]
            lines += [
                f"| [{r.code}]({r.code}.md) | {r.name} | {r.severity.label} | {_cell(r.summary)} |" for r in family
            ]
    return "\n".join(lines) + "\n"


# --- command line -----------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command with its arguments and options, in the order of the help."""
    lines = [
        "# Command line", "", "Exit codes: 0 done, 1 findings (`traceql lint`), 2 something wrong with what was given, 130 interrupted.", ""
    ]  # fmt: skip
    return "\n".join(lines + _command(cli.cli, "traceql")).rstrip() + "\n"


def _command(command: click.Command, path: str) -> list[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f"## {path}", "", "```", usage, "```", "", *_help(inspect.cleandoc(command.help or ""))]
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if shown:
        lines += ["", "| option | default | meaning |", "|---|---|---|", *(_option(p) for p in shown)]
    lines.append("")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                lines += _command(child, f"{path} {name}")
    return lines


def _help(text: str) -> list[str]:
    """Click's help as Markdown: a paragraph after a line of ``\\b`` keeps its lines."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        kept = paragraph.strip().startswith("\b")
        body = inspect.cleandoc(paragraph.replace("\b", "").strip("\n"))
        lines += ["", *(["```", body, "```"] if kept else [body])]
    return lines[1:]


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag or option.count else f" {_values(option)}"
    shown = option.show_default and not option.is_flag and isinstance(option.default, (str, int, float))
    many = " May be given several times." if option.multiple else ""
    given = f"`{option.default}`" if shown else ""
    return f"| {names}{value} | {given} | {_cell((option.help or '').replace(chr(8), ''))}{many} |"


def _values(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return _cell(" | ".join(str(c) for c in option.type.choices))
    return option.metavar or option.type.name.upper()


# --- tables -----------------------------------------------------------------------------------------------------------

_UNITS = {
    "_bytes_per_s": "bytes/s", "_gb_per_s": "GB/s", "_tb_per_s": "TB/s", "_tflops": "TFLOP/s", "flops": "FLOP", "_ns": "ns",
    "_us": "µs", "_ms": "ms", "_s": "s", "bytes": "bytes", "_pct": "%", "_elements": "elements", "intensity": "FLOP/byte", "ridge": "FLOP/byte",
    "_ratio": "ratio",
}  # fmt: skip
"""End of a column's name → unit; the longest that fits counts."""


def tables() -> str:
    """Every table of the contract with its columns."""
    lines = [
        "# Tables", "", f"The tables that `traceql query` and `Trace.sql` know, version {schema.SCHEMA_VERSION} of the contract. Times are integer",
        "nanoseconds from the trace's first event. A value the trace does not hold is null. Every table exists for every trace,",
        "perhaps empty. *Derived* tables are computed on first use; [definitions](definitions.md) says how.", "",
    ]  # fmt: skip
    for kind, derived in (("From the file", False), ("Derived", True)):
        lines += [f"## {kind}", ""]
        for table in schema.TABLES.values():
            if table.derived is derived:
                lines += [
                    f"### {table.name}",
                    "",
                    f"{_sentence(table.doc)}",
                    "",
                    "| column | type | unit | meaning |",
                    "|---|---|---|---|",
                ]
                lines += [
                    f"| `{c.name}` | {c.dtype.__name__} | {unit(c.name, c.dtype)} | {_cell(c.doc)} |"
                    for c in table.columns
                ]
                lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def unit(column: str, dtype: Any) -> str:
    """Unit of a numeric column, told from the end of its name; empty for counts, ids and texts."""
    ends = [end for end in _UNITS if column.endswith(end)] if dtype in (pl.Int64, pl.Float64) else []
    return _UNITS[max(ends, key=len)] if ends else ""


# --- outcomes ---------------------------------------------------------------------------------------------------------


def outcomes(rules: Iterable[type[Rule]]) -> str:
    """What each rule says of each bundled capture, and the findings in words."""
    reports = dict(analyzed())
    lines = [
        "# What the rules say of the bundled captures", "",
        "Default options, no configuration. `traceql analyze --sample NAME` shows the whole report.", "",
    ]  # fmt: skip
    lines += [f"{number}. {label}" for number, label in enumerate(reports, 1)]
    numbers = " | ".join(str(n) for n in range(1, len(reports) + 1))
    lines += [
        "",
        "**warning** or info: it found something (×: so many things) · ok: it ran and found nothing · –: it does not",
        "apply",
        "",
    ]
    lines += [f"| rule | {numbers} |", "|---" * (len(reports) + 1) + "|"]
    for rule in rules:
        cells = " | ".join(_outcome(report, rule.code) for report in reports.values())
        lines.append(f"| [{rule.code}](rules/{rule.code}.md) {rule.name} | {cells} |")
    for label, report in reports.items():
        lines += ["", f"## {label}", ""]
        lines += [f"- {_line(report, finding)}" for finding in report.found] or ["Nothing found."]
    return "\n".join(lines) + "\n"


def analyzed() -> Iterator[tuple[str, Report]]:
    """The samples, ranks of one job together, and replays a second time with the eager run beside them."""
    names = list(samples.samples())
    jobs: dict[str, list[str]] = {}
    for name in names:
        jobs.setdefault(re.sub(r"-rank\d+$", "", name), []).append(name)
    for job, members in jobs.items():
        files = [samples.path(name) for name in members]
        yield job, tq.analyze(files if len(files) > 1 else files[0])
        twin = job.replace("-graph", "-eager")
        if twin != job and twin in names:
            aligned = tq.align(_opened(job), _opened(twin)).trace
            yield f"{job}, with {twin} as its eager run", tq.analyze(aligned)


def _line(report: Report, finding: Finding) -> str:
    rank = report.traces[finding.trace].rank
    where = f"rank {rank}: " if len(report.traces) > 1 and rank is not None else ""
    return f"{finding.severity.label} [{finding.code}](rules/{finding.code}.md): {where}{_cell(finding.message)}"


def _opened(name: str) -> tq.Trace:
    trace = tq.open(samples.path(name))
    assert isinstance(trace, tq.Trace)
    return trace


def _outcome(report: Report, code: str) -> str:
    (outcome,) = (o for o in report.rules if o.code == code)
    if outcome.outcome != "failed":
        return {"passed": "ok", "not_applicable": "–"}.get(outcome.outcome, outcome.outcome)
    found = [f for f in report.found if f.code == code]
    worst = max(f.severity for f in found)
    word = f"**{worst.label}**" if worst > Severity.INFO else worst.label
    return word if len(found) == 1 else f"{word} ×{len(found)}"


# --- text -------------------------------------------------------------------------------------------------------------


def _cell(text: str) -> str:
    """Text that may stand in a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def main() -> None:
    """Write every page, and remove pages of rules that are gone."""
    written = dict(documents())
    for path, text in written.items():
        target = FOLDER / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for page in (FOLDER / "rules").glob("*.md"):
        if page.relative_to(FOLDER) not in written:
            page.unlink()


if __name__ == "__main__":
    main()

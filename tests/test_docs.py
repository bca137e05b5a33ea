"""The documentation says what the code does: generated pages are fresh, examples give the results they show."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
import yaml

from traceql import registry, schema
from traceql.derived.step_costs import HOST_CAUSES
from traceql.rule import PAGE_HEADINGS
from traceql.testing import trace_from

DOCS = Path(__file__).parents[1] / "docs"
_UNITS = ("us", "ns", "ms", "pct", "bytes", "ratio", "count", "factor", "score", "slope")


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def documents() -> dict[Path, str]:
    return dict(generator().documents())


def _stale(path: Path, text: str) -> str | None:
    written = (DOCS / path).read_text(encoding="utf-8") if (DOCS / path).exists() else ""
    if written == text:
        return None
    lines = zip([*written.splitlines(), ""], [*text.splitlines(), ""], strict=False)
    first = next(((ours, theirs) for ours, theirs in lines if ours != theirs), ("", ""))
    return f"docs/{path} is stale, run `python docs/generate.py`:\n  written: {first[0]}\n  now:     {first[1]}"


def test_generated_pages_are_fresh() -> None:
    stale = [message for path, text in documents().items() if (message := _stale(path, text))]
    assert not stale, "\n".join(stale)


def test_no_page_of_a_rule_that_is_gone() -> None:
    pages = {p.relative_to(DOCS) for p in (DOCS / "rules").glob("*.md")}
    assert pages <= set(documents())


@pytest.mark.parametrize("code", registry.rules())
def test_rule_page(code: str) -> None:
    rule = registry.rules()[code]
    page = rule.page()
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    expected = [*PAGE_HEADINGS, *(["Options"] if dataclasses.fields(rule.Options) else [])]
    assert headings == expected
    for number, heading in enumerate(headings[:-1]):
        between = page.split(f"## {heading}\n")[1].split(f"## {headings[number + 1]}\n")[0]
        assert between.strip(), f"{code}: nothing under {heading!r}"
    for option in dataclasses.fields(rule.Options):
        assert option.name.rsplit("_", 1)[-1] in _UNITS, f"{code}.{option.name} lacks a unit"
        assert f"`{option.name.replace('_', '-')}`" in page
    assert rule.summary.endswith(".")
    assert code[:4] in generator().FAMILIES or not code.startswith("TQL")


_REASONED = ("TQL1", "TQL2", "TQL3", "TQL7", "TQL9")


@pytest.mark.parametrize("code", [code for code in registry.rules() if code.startswith(_REASONED)])
def test_page_says_why_each_default_is_what_it_is(code: str) -> None:
    """As "`min-gap-us` is 5: …", with the number that the code has: defaults and pages must not part."""
    rule = registry.rules()[code]
    measured = rule.page().split("## How it is measured\n")[1].split("## Known problems\n")[0]
    for option in dataclasses.fields(rule.Options):
        assert re.search(rf"`{option.name.replace('_', '-')}` is {option.default:g}\b", measured), option.name


def test_columns_have_a_meaning() -> None:
    for table in schema.TABLES.values():
        assert table.doc
        assert all(column.doc for column in table.columns), table.name


# --- definitions.md ---------------------------------------------------------------------------------------------------

_EXAMPLE = re.compile(r"```yaml\n(.*?)```\s+```sql\n(.*?)```\s+```csv\n(.*?)```", re.DOTALL)
_DEFINITIONS = (DOCS / "definitions.md").read_text(encoding="utf-8")
_EXAMPLES = _EXAMPLE.findall(_DEFINITIONS)


@pytest.mark.parametrize(
    ("trace", "query", "result"), _EXAMPLES, ids=[re.sub(r"\s+", "-", e[1].strip())[:40] for e in _EXAMPLES]
)
def test_example_of_a_definition(trace: str, query: str, result: str) -> None:
    answer = io.StringIO()
    trace_from(yaml.safe_load(trace)).sql(query).write_csv(answer)
    assert answer.getvalue() == result


def test_every_example_is_run() -> None:
    assert len(_EXAMPLES) == _DEFINITIONS.count("```yaml") == _DEFINITIONS.count("```csv")


def test_every_cause_is_defined() -> None:
    causes = {*HOST_CAUSES, "blocked", "profiler", "device latency", "in-graph", "unknown"}
    table = {row.split("|")[1].strip() for row in _DEFINITIONS.splitlines() if row.startswith("| ")}
    assert causes <= table


def test_terms_of_the_tables_are_defined() -> None:
    for word in (
        "GPU busy",
        "gap",
        "period",
        "segment",
        "boundary",
        "layer",
        "Launch delay",
        "self CPU time",
        "Device time",
    ):
        assert f"**{word}**" in _DEFINITIONS


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} → {target}"


def test_units_of_columns() -> None:
    unit = generator().unit
    assert unit("dur_ns", pl.Int64) == "ns"
    assert unit("achieved_tb_per_s", pl.Float64) == "TB/s"
    assert unit("kernels", pl.Int64) == ""
    assert unit("name", pl.String) == ""

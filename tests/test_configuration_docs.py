"""docs/configuration.md and docs/lint.md say what the code accepts."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec

from traceql import config
from traceql.cli.compare import compare
from traceql.cli.lint import _FORMATS, lint
from traceql.config_file import BaselineSettings, Settings
from traceql.derived.step_metrics import METRICS
from traceql.gate.formats import LINT_RENDERERS
from traceql.suppressions import Suppression

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "configuration.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_load(tmp_path: Path) -> None:
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        (tmp_path / "pyproject.toml").write_text(block)
        assert config.load(tmp_path / "pyproject.toml").budgets


def test_every_key_is_in_the_example() -> None:
    for struct in (Settings, BaselineSettings):
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"\b{field.encode_name}\b", BLOCKS[0]), field.encode_name
    for field in msgspec.structs.fields(Suppression):
        assert f"`{field.encode_name}`" in PAGE, field.encode_name


def test_every_metric_is_described_as_in_the_code() -> None:
    rows = dict(re.findall(r"^\| `step\.(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert rows == {m.name: f"{m.unit} | {m.doc}".removeprefix(" ") for m in METRICS.values()}


def test_every_format_and_option_is_described() -> None:
    page = (DOCS / "lint.md").read_text()
    assert set(_FORMATS) == set(LINT_RENDERERS) == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    _described(lint, page + PAGE, besides={"--quiet"})
    _described(compare, (DOCS / "compare.md").read_text(), besides=set())


def _described(command: click.Command, text: str, besides: set[str]) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            assert any(name in text for name in option.opts) or besides & set(option.opts), option.opts

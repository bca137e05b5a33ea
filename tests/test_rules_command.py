"""``traceql rules`` and ``traceql rule``: one line a rule in a pipe, lines that fit on a terminal, no colour in files."""

from __future__ import annotations

import sys

import pytest
from commands import traceql

from traceql import registry


def test_in_a_pipe_a_rule_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    ran = traceql(capsys, "rules")
    assert ran.code == 0
    assert [line.split()[:2] for line in ran.out.splitlines()] == [[r.code, r.name] for r in registry.rules().values()]
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_lines_fit(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ran = traceql(capsys, "rules")
    assert max(len(line) for line in ran.out.splitlines()) <= width
    words = " ".join(ran.out.split())
    for rule in registry.rules().values():
        assert rule.summary in words


@pytest.mark.parametrize("name", ["TQL301", "tql301", "cpu-gpu-ratio-outlier"])
def test_a_page_by_code_or_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = traceql(capsys, "rule", name)
    assert ran.out.startswith("# TQL301 cpu-gpu-ratio-outlier\n")
    assert "\x1b" not in ran.out


def test_a_name_nearly_right(capsys: pytest.CaptureFixture[str]) -> None:
    ran = traceql(capsys, "rule", "lanch-gap")
    assert (ran.code, ran.err) == (2, "traceql: no rule 'lanch-gap'; did you mean launch-gap?\n")

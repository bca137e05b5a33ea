"""The forms a lint result is shown in, by the name ``--format`` and ``--output`` take."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traceql.gate.lint import LintResult


def _renderer(module: str) -> Callable[[LintResult], str]:
    """``render`` of a module, imported when first called."""

    def render(result: LintResult) -> str:
        rendered: str = import_module(module).render(result)
        return rendered

    return render


LINT_RENDERERS: dict[str, Callable[[LintResult], str]] = {
    "text": _renderer("traceql.gate.text"),
    "json": _renderer("traceql.gate.json"),
    "sarif": _renderer("traceql.gate.sarif"),
    "junit": _renderer("traceql.gate.junit"),
    "github": _renderer("traceql.gate.github"),
    "markdown": _renderer("traceql.gate.markdown"),
}
"""Format → function from a lint result to the whole output."""

"""The forms a report is shown in: each renders the same Report, text, Markdown and HTML through one view model."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traceql.reporting import Report


def _renderer(module: str) -> Callable[[Report], str]:
    """``render`` of a module of this package, imported when first called."""

    def render(report: Report) -> str:
        rendered: str = import_module(f"{__name__}.{module}").render(report)
        return rendered

    return render


RENDERERS: dict[str, Callable[[Report], str]] = {
    "html": _renderer("html"),
    "json": _renderer("json"),
    "text": _renderer("text"),
    "markdown": _renderer("markdown"),
}
"""Format → function from a report to the whole output."""

SUFFIXES: dict[str, str] = {".html": "html", ".json": "json", ".txt": "text", ".md": "markdown"}
"""File suffix → format."""

"""One browser for all page tests; they are skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = os.environ.get("TRACEQL_CHROMIUM") or next((p for n in _NAMES if (p := shutil.which(n))), None)
    if executable is None:
        pytest.skip("no Chromium found; set TRACEQL_CHROMIUM to its path")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=executable, args=_FLAGS)
        yield started
        started.close()


class OpenedPage:
    """A report in a tab, with what the browser complained of and what it asked the network for."""

    def __init__(self, context: Any, file: Path) -> None:
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., OpenedPage]]:
    """``open_page(html, theme=…, width=…)`` opens a page from a file; options go to the browser context."""
    contexts = []

    def opened(html: str, *, theme: str = "light", width: int = 1280, **options: Any) -> OpenedPage:
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        return OpenedPage(context, file)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def serious_violations() -> Callable[[Any], list[tuple[str, Any]]]:
    """``serious_violations(page)``: what axe-core holds against it, (rule, the first elements), everything unfolded."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def found(page: Any) -> list[tuple[str, Any]]:
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        violations = axe.Axe().run(page).response["violations"]
        serious = [v for v in violations if v["impact"] in ("serious", "critical")]
        return [(v["id"], [node["target"] for node in v["nodes"]][:3]) for v in serious]

    return found

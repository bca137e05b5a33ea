"""The comparison page in Chromium: both timelines on one scale, in both themes, on a phone and without scripts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import traces
from small_traces import Decode

from traceql import samples
from traceql.comparison.formats import RENDERERS
from traceql.comparison.runs import compare_paths

Open = Callable[..., Any]
_DRAWN = ".timeline canvas[data-from]"


@cache
def page_of(base: str, head: str) -> str:
    return RENDERERS["html"](compare_paths(samples.path(base), samples.path(head)))


def eager_graph() -> str:
    return page_of("sglang-h200-bs64-decode-eager", "sglang-h200-bs64-decode-graph")


def drawn(opened: Any) -> Any:
    """The page with both timelines drawn."""
    page = opened.page
    page.locator("#timelines").scroll_into_view_if_needed()
    page.locator(_DRAWN).nth(1).wait_for()
    return page


def views(page: Any) -> list[tuple[float, float]]:
    """What either timeline shows, ns from the start of its step."""
    for _ in range(3):
        page.evaluate("() => new Promise(requestAnimationFrame)")
    shown = page.locator(_DRAWN).evaluate_all("all => all.map((c) => [Number(c.dataset.from), Number(c.dataset.to)])")
    return [tuple(each) for each in shown]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_opens_clean_and_paints_both_timelines(open_page: Open, theme: str) -> None:
    opened = open_page(eager_graph(), theme=theme)
    page = drawn(opened)
    views(page)
    colours = page.locator(_DRAWN).evaluate_all("""all => all.map((canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let i = 0; i < data.length; i += 16) found.add(data.slice(i, i + 3).join());
        return found.size;
    })""")
    assert len(colours) == 2
    assert min(colours) > 12, "slices, text and lines have colours of their own"
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len(eager_graph().encode()) < 3_000_000


def test_zoom_position_and_scale_are_common(open_page: Open) -> None:
    page = drawn(open_page(eager_graph()))
    base, head = views(page)
    assert base == pytest.approx(head, abs=2), "both steps begin at their timeline's zero"
    assert base[1] > 33e6, "the longer of the two steps is whole"
    page.locator(".timeline canvas").nth(1).press("w")
    page.locator(".timeline canvas").nth(0).press("ArrowRight")
    zoomed = views(page)
    assert zoomed[0] == pytest.approx(zoomed[1], abs=2)
    assert zoomed[0][1] - zoomed[0][0] < 0.8 * (base[1] - base[0])
    page.get_by_role("button", name="Fit step").first.click()
    assert views(page)[1] == pytest.approx(head, abs=2)


def test_search_finds_in_both(open_page: Open) -> None:
    page = drawn(open_page(eager_graph()))
    page.locator(".timeline .search").first.fill("PersistentVariableLength")
    assert page.locator(".matches").first.inner_text() == "0 found in base, 32 in head"


def test_a_row_leads_to_its_place(open_page: Open) -> None:
    page = open_page(eager_graph()).page
    page.locator("#timelines").scroll_into_view_if_needed()
    link = page.locator("section tr", has_text="aten::linear").locator("a.place").first
    link.click()
    page.locator(_DRAWN).first.wait_for()
    assert page.locator(".timeline").first.locator(".detail .name").inner_text() == "aten::linear"
    base, head = views(page)
    assert base == pytest.approx(head, abs=2)
    assert base[1] - base[0] < 1e6


def test_fits_a_phone_and_reads_without_scripts(open_page: Open) -> None:
    page = open_page(eager_graph(), width=390).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page = open_page(eager_graph(), java_script_enabled=False).page
    assert "24.9 ms shorter" in page.get_by_role("heading", level=1).inner_text().replace("\u00a0", " ")
    assert page.locator(".waterfall tbody tr").count() == 17
    assert "scripts are off" in page.locator("#timelines noscript").inner_text()


def test_bars_run_from_the_base_period_to_the_heads(open_page: Open) -> None:
    page = open_page(eager_graph()).page
    bars = page.locator(".fall").evaluate_all(
        "all => all.map((r) => [parseFloat(r.getAttribute('x')), parseFloat(r.getAttribute('width'))])"
    )
    assert bars[0] == [0, 100]
    assert bars[1][0] + bars[1][1] == pytest.approx(100, abs=0.1), "the first change begins where the base ends"
    assert bars[-2][0] == pytest.approx(bars[-1][1], abs=0.3), "the last one ends at the head"


def test_runs_are_shown_and_judged(open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"runs_ms": [7.2, 7.3, 7.25, 7.21, 7.22]}')
    (tmp_path / "b.json").write_text('{"runs_ms": [7.6, 7.7, 7.65, 7.61, 7.62]}')
    opened = open_page(RENDERERS["html"](compare_paths(tmp_path / "a.json", tmp_path / "b.json")))
    assert (
        opened.page.get_by_role("heading", level=1).inner_text().replace("\u00a0", " ").startswith("Slower: step, +5.")
    )
    assert opened.page.locator("circle.run.base").count() == opened.page.locator("circle.run.head").count() == 5
    assert opened.page.locator("#timelines").count() == 0
    assert opened.complaints == []


def test_opaque_replays_are_not_called_a_change(open_page: Open) -> None:
    sides = ("piecewise-node", "piecewise-graph")
    html = RENDERERS["html"](compare_paths(*(traces.extra(f"nsys/mini-decode-{s}.sqlite").path for s in sides)))
    opened = open_page(html)
    drawn(opened)
    assert opened.page.locator(".waterfall", has_text="not comparable").count() == 1
    assert opened.page.locator("h2", has_text="Layers").count() == 0
    assert opened.complaints == []


def test_names_are_untrusted(open_page: Open, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)></script><b>'\"`\u202eabc"
    for name, us in (("base", 12.0), ("head", 30.0)):
        Decode(layer={"gemm_qkv": 30.0, hostile: us, "rms_norm": 4.0}).write(tmp_path / f"{name}{{{{7*7}}}}.json")
    html = RENDERERS["html"](compare_paths(*(tmp_path / f"{name}{{{{7*7}}}}.json" for name in ("base", "head"))))
    opened = open_page(html)
    drawn(opened)
    assert opened.page.locator("img, main b, main td script").count() == 0
    assert opened.complaints == []
    assert "base{{7*7}}.json" in opened.page.locator(".origin").inner_text()
    assert "\u202e" not in html


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Open, serious_violations: Callable[[Any], list[Any]], theme: str) -> None:
    assert serious_violations(drawn(open_page(eager_graph(), theme=theme))) == []

"""The HTML report in Chromium: opened from a file, in both themes, with and without scripts."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from report.made import finding, info_finding, long_trace, opaque_trace, report_of, small_report, small_trace

import traceql as tq
from traceql import perfetto, samples
from traceql.reporting import Report, analyze

EAGER, GRAPH, PIECEWISE, OPAQUE = (
    "sglang-h200-bs64-decode-eager",
    "sglang-h200-bs64-decode-graph",
    "nsys-h200-mini-decode-piecewise-node",
    "nsys-h200-mini-decode-full-graph",
)
MAX_PAGE_BYTES = 3_000_000
_DRAWN = ".timeline canvas[data-from]"

Open = Callable[..., Any]


@cache
def sample_report(name: str) -> Report:
    return analyze(samples.path(name))


@cache
def sample_page(name: str) -> str:
    return sample_report(name).render("html")


@cache
def small_page() -> str:
    return small_report().render("html")


def colours(page: Any) -> dict[str, int]:
    """Distinct colours of the canvas and how many pixels each has."""
    counted: dict[str, int] = page.evaluate("""() => {
        const canvas = document.querySelector('.timeline canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const found = {};
        for (let i = 0; i < data.length; i += 16) {
            const key = data.slice(i, i + 4).join(',');
            found[key] = (found[key] || 0) + 1;
        }
        return found;
    }""")
    return counted


def drawn(opened: Any) -> Any:
    """The page with its timeline drawn."""
    page = opened.page
    page.locator(".timeline").first.scroll_into_view_if_needed()
    page.locator(_DRAWN).first.wait_for()
    for _ in range(5):  # on a busy machine the first frames come late
        page.evaluate("() => new Promise(requestAnimationFrame)")
    return page


def view_of(page: Any) -> tuple[float, float]:
    """What the timeline shows, ns."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    data = page.evaluate("() => ({...document.querySelector('.timeline canvas').dataset})")
    return float(data["from"]), float(data["to"])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [EAGER, GRAPH, PIECEWISE, OPAQUE])
def test_real_captures_open_clean_and_paint(open_page: Open, name: str, theme: str) -> None:
    opened = open_page(sample_page(name), theme=theme)
    found = colours(drawn(opened))
    paper = "255,255,255,255" if theme == "light" else "21,24,28,255"
    assert max(found, key=lambda colour: found[colour]) == paper
    assert len(found) > 12, "slices, text and lines have colours of their own"
    assert found.get("0,0,0,255", 0) < 50, "an unresolved colour paints black"
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("name", [EAGER, GRAPH, PIECEWISE, OPAQUE])
def test_page_is_small_and_fits_a_phone(open_page: Open, name: str) -> None:
    html = sample_page(name)
    assert len(html.encode()) < MAX_PAGE_BYTES
    page = open_page(html, width=400).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_theme_button_repaints(open_page: Open) -> None:
    page = drawn(open_page(small_page(), theme="light"))
    button = page.locator("#theme")
    button.click()
    button.click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    view_of(page)
    found = colours(page)
    assert max(found, key=lambda colour: found[colour]) == "21,24,28,255"
    button.click()
    assert page.locator("html").get_attribute("data-theme") is None


def test_zoom_and_pan_by_wheel_keys_and_buttons(open_page: Open) -> None:
    page = drawn(open_page(small_page()))
    canvas = page.locator(".timeline canvas")
    whole = view_of(page)
    canvas.hover(position={"x": 300, "y": 100})
    page.mouse.wheel(0, -300)
    assert view_of(page) == whole, "before the chart has focus the wheel scrolls the page"
    canvas.focus()
    page.evaluate("document.activeElement.scrollIntoView({block: 'center'})")
    canvas.hover(position={"x": 300, "y": 100})
    page.mouse.wheel(0, -100)
    by_wheel = view_of(page)
    assert by_wheel[1] - by_wheel[0] < whole[1] - whole[0]
    canvas.press("w")
    by_key = view_of(page)
    assert by_key[1] - by_key[0] < by_wheel[1] - by_wheel[0]
    canvas.press("ArrowRight")
    assert view_of(page)[0] > by_key[0]
    page.locator(".zoom-out").click()
    assert view_of(page)[1] - view_of(page)[0] > by_key[1] - by_key[0]
    page.locator(".fit").click()
    assert view_of(page) == whole


def test_search_counts_and_selects(open_page: Open) -> None:
    page = drawn(open_page(small_page()))
    page.locator(".timeline .search").fill("rms_norm")
    assert page.locator(".matches").inner_text() == "3 found"
    page.locator(".timeline .search").press("Enter")
    assert page.locator(".matches").inner_text() == "2 of 3", "from the step in view on"
    assert page.locator(".detail .name").inner_text() == "rms_norm_kernel"
    page.get_by_role("button", name="Go to the launch call").click()
    assert page.locator(".detail .name").inner_text() == "cudaLaunchKernel"
    page.get_by_role("button", name="Go to the GPU work").click()
    assert page.locator(".detail .name").inner_text() == "rms_norm_kernel"


def test_keyboard_walks_the_slices(open_page: Open) -> None:
    page = drawn(open_page(small_page()))
    canvas = page.locator(".timeline canvas")
    canvas.press(".")
    first = page.locator(".detail").inner_text()
    canvas.press(".")
    assert page.locator(".detail").inner_text() != first
    canvas.press("Escape")
    assert "Click the chart" in page.locator(".detail").inner_text()


def test_jump_to_an_instance_and_back(open_page: Open) -> None:
    page = open_page(small_page()).page
    page.get_by_role("link", name="Show on the timeline").first.click()
    page.locator(_DRAWN).first.wait_for()
    start, end = view_of(page)
    assert start < 1_120_000
    assert end > 1_520_000
    assert page.locator(".detail dt", has_text="idle because of").count() == 1
    page.locator(".back").click()
    assert page.evaluate("document.activeElement.closest('.card').dataset.number") == "1"


def test_findings_filter_and_sort(open_page: Open) -> None:
    page = open_page(small_page()).page
    shown = page.locator(".card:visible")
    page.locator("#filter").fill("gemms")
    assert shown.count() == 1
    page.locator("#filter").fill("")
    page.get_by_label("warning").uncheck()
    assert [c.get_attribute("data-code") for c in shown.all()] == ["TQL401"]
    page.get_by_label("info").uncheck()
    assert page.locator("#none-shown").is_visible()
    page.get_by_label("warning").check()
    page.get_by_label("info").check()
    page.locator("#sort").select_option("time")
    assert [c.get_attribute("data-code") for c in shown.all()] == ["TQL401", "TQL101"]


def test_copy_as_markdown(open_page: Open) -> None:
    page = open_page(small_page(), permissions=["clipboard-read", "clipboard-write"]).page
    page.get_by_role("button", name="Copy as Markdown").first.click()
    page.get_by_text("Copied", exact=True).wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("**launch-gap** (TQL101, warning) · saves about **400 µs/step**")
    assert copied.endswith("\nIn Perfetto: `traceql open small.trace.json --finding 1`\n")


def test_permalink_opens_its_evidence(open_page: Open) -> None:
    opened = open_page(small_page())
    anchor = opened.page.locator(".card").nth(1).get_attribute("id")
    opened.page.goto(opened.page.url + f"#{anchor}")
    assert opened.page.locator(f"#{anchor} details.evidence").get_attribute("open") is not None


def test_readable_without_scripts(open_page: Open) -> None:
    page = open_page(small_page(), java_script_enabled=False).page
    assert page.get_by_role("heading", level=1).is_visible()
    assert page.locator(".card h3").first.is_visible()
    assert page.locator(".card table").first.is_visible()
    assert page.locator(".stack").first.is_visible()
    assert "scripts are off" in page.locator("noscript").inner_text()
    assert not page.locator("#theme").is_visible()
    assert not page.get_by_role("button", name="Copy as Markdown").first.is_visible()
    assert not page.locator("#filter").is_visible()
    page.get_by_text("Open in Perfetto").first.click()
    assert page.get_by_text("traceql open small.trace.json --finding 1").is_visible()


def test_unrecorded_is_said(open_page: Open) -> None:
    page = open_page(report_of(opaque_trace(), findings=()).render("html")).page
    assert "GPU busy not recorded" in page.get_by_role("heading", level=1).inner_text().replace("\u00a0", " ")


def test_two_ranks_have_a_timeline_each(open_page: Open) -> None:
    report = report_of(small_trace("a.json", rank=0), small_trace("b.json", rank=1))
    opened = open_page(report.render("html"))
    assert opened.page.get_by_role("heading", name="Ranks").is_visible()
    for timeline in opened.page.locator(".timeline").all():
        timeline.scroll_into_view_if_needed()
        timeline.locator("canvas[data-from]").wait_for()
    assert opened.complaints == []


def test_policy_names_every_script_and_style() -> None:
    html = small_page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src &#39;none&#39;; ")
    assert "unsafe" not in policy
    assert " style=" not in html
    assert not re.search(r"(?:src|href)=\"(?!#|data:image/svg)", html)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [EAGER, GRAPH, PIECEWISE, OPAQUE])
def test_axe_finds_nothing_serious(
    open_page: Open, serious_violations: Callable[[Any], list[Any]], name: str, theme: str
) -> None:
    assert serious_violations(drawn(open_page(sample_page(name), theme=theme))) == []


@pytest.mark.parametrize("name", [EAGER, PIECEWISE])
def test_downloads_are_the_cuts_that_open_serves(open_page: Open, name: str, tmp_path: Path) -> None:
    report = sample_report(name)
    page = open_page(sample_page(name)).page
    for number in (1, len(report.found)):
        finding = report.found[number - 1]
        card = page.locator(f'.card[data-number="{number}"]')
        card.get_by_text("Open in Perfetto").click()
        assert card.locator("code", has_text=f"--finding {number}").count() == 1
        with page.expect_download() as download:
            card.get_by_role("button", name="Download this cut").click()
        assert download.value.suggested_filename.endswith(f".finding-{number}.json.gz")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        served = perfetto.cut(report.traces[finding.trace], finding)
        assert gzip.decompress(path.read_bytes()) == gzip.decompress(served)
        again = tq.open(path)
        assert isinstance(again, tq.Trace)
        assert again.table("kernels").height > 0


def test_the_command_is_copied(open_page: Open) -> None:
    page = open_page(small_page(), permissions=["clipboard-read", "clipboard-write"]).page
    page.get_by_text("Open in Perfetto").first.click()
    page.get_by_role("button", name="Copy command").first.click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "traceql open small.trace.json --finding 1"


def test_findings_of_one_rule_stay_together(open_page: Open) -> None:
    several = [finding(f"Operator {i} is slow.", subject=f"op{i}", fingerprint=f"{i:016}") for i in range(3)]
    page = open_page(report_of(small_trace(), findings=(*several, info_finding())).render("html")).page
    assert page.locator(".entry").count() == 2
    group = page.locator(".entry").first
    assert group.locator(".card-head .count").inner_text() == "3 findings"
    assert group.locator(".advice").count() == 1, "what all of them advise is told once"
    page.locator("#filter").fill("op2")
    assert page.locator(".card:visible").count() == 1
    page.locator("#filter").fill("launch-gap")
    assert page.locator(".card:visible").count() == 3
    page.locator("#filter").fill("gemms")
    assert not group.is_visible()
    page.locator("#filter").fill("")
    page.locator("#sort").select_option("time")
    assert [c.get_attribute("data-code") for c in page.locator(".card").all()] == ["TQL401", *["TQL101"] * 3]


def test_charts_tell_what_is_under_the_pointer(open_page: Open) -> None:
    page = open_page(sample_page(EAGER), reduced_motion="reduce").page
    dot = page.locator(".area circle.dot").last
    dot.scroll_into_view_if_needed()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    dot.hover(force=True)
    page.locator(".tip").wait_for()
    assert re.search(r"\[64,\d+\]×\[\d+,\d+\].* TFLOP/s", page.locator(".tip").inner_text())


def test_printed_it_is_complete(open_page: Open) -> None:
    page = open_page(small_page()).page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".card table").first.is_visible()
    assert not page.locator(".topbar").is_visible()
    assert not page.locator(".timeline").is_visible()
    assert not page.locator(".perfetto").first.is_visible()


def test_fifty_thousand_slices_draw_within_a_frame(open_page: Open) -> None:
    html = report_of(long_trace(22_000), findings=()).render("html")
    (payload,) = re.findall(r'id="timeline-data-0">(.*?)</script>', html)
    tracks = json.loads(gzip.decompress(base64.b64decode(payload)))["tracks"]
    assert sum(len(track["d"]) for track in tracks) >= 50_000
    page = drawn(open_page(html))
    canvas = page.locator(".timeline canvas")
    canvas.focus()
    times = []
    for key in "wwwwddddaaaassssssss":
        canvas.press(key)
        view_of(page)
        times.append(float(canvas.get_attribute("data-drawn-ms")))
    assert sorted(times)[len(times) // 2] < 16, times

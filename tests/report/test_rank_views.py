"""What the page shows of several ranks: who is late, as planted and as recorded; and that it stays small."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import traces
from ranks_built import LAYERS, job

from traceql import samples
from traceql.opening import TraceSet, open_trace
from traceql.report.rank_views import rank_views
from traceql.report.view import build
from traceql.reporting import analyze

Open = Callable[..., Any]
LATE_RANK, LATE_US = 37, 40.0


@cache
def many() -> Any:
    """Twenty steps on 64 ranks, one of which computes 40 µs longer in each of 8 layers."""
    return TraceSet(tuple(job(64, steps=20, slower_us=lambda rank: LATE_US if rank == LATE_RANK else 0.0)))


@cache
def many_report() -> Any:
    return analyze(many())


@cache
def many_page() -> str:
    return many_report().render("html")


@cache
def two_page() -> str:
    folder = samples.folder()
    return analyze([folder / f"sglang-h200-tp2-decode-graph-rank{r}.trace.json.gz" for r in (0, 1)]).render("html")


def test_the_straggler_is_the_dark_row_and_first_in_the_table() -> None:
    (view,) = rank_views(many().traces, range(64))
    assert len(view.heat.ranks) == 64
    assert len({c.x for c in view.heat.cells if c.row == LATE_RANK}) == 19, "the first step holds the skew of the start"
    strong = [cell for cell in view.heat.cells if cell.strength > 0.5]
    assert {cell.row for cell in strong} == {LATE_RANK}
    assert len(strong) == 19
    rank, late, share, caused, waits, last, meanwhile = (cell.text for cell in view.stragglers.rows[0])
    assert (rank, waits, last) == (str(LATE_RANK), "0", "100 %")
    # the last of 64 draws of 0 to 3 µs counts against the middle one: up to 1.5 µs a layer
    assert float(late) == pytest.approx(LAYERS * LATE_US, abs=1.5 * LAYERS)
    assert float(caused) == pytest.approx(LAYERS * LATE_US, abs=3 * LAYERS)
    assert float(share) == pytest.approx(100 * float(late) / (LAYERS * (50 + LATE_US + 8 + 3) + 20), rel=0.1)
    assert meanwhile.startswith("computing +32")
    assert {row[1].text for row in view.waits.rows} == {str(LATE_RANK)}


def test_the_waterfall_is_arrival_then_waiting_then_transfer() -> None:
    (view,) = rank_views(many().traces, range(64))
    fall = view.waterfall
    assert len(fall.joins) == 6
    by_rank: dict[int, list[Any]] = {}
    for stretch in fall.stretches:
        by_rank.setdefault(stretch.row, []).append(stretch)
    assert {s.kind for s in by_rank[LATE_RANK] if s.width > 0.2} == {"work", "transfer"}, "nobody is waited for by it"
    for row, stretches in by_rank.items():
        if row == LATE_RANK:
            continue
        assert [s.kind for s in stretches] == ["work", "wait", "transfer"] * 6
        for one, other in pairwise(stretches):
            assert other.x == pytest.approx(one.x + one.width, abs=0.01), (
                "every nanosecond of the row is in one stretch"
            )
        assert all(36 <= float(re.findall(r"([\d.]+) µs$", s.text)[0]) <= 44 for s in stretches if s.kind == "wait")
        assert all(f"for rank {LATE_RANK}" in s.text for s in stretches if s.kind == "wait")


def test_real_ranks_agree_with_the_matched_collectives() -> None:
    base = "torch/sglang-h200-llama8b-tp2-decode-eager-nccl-rank"
    pair = tuple(traces.extra(f"{base}{rank}.trace.json.gz") for rank in (0, 1))
    (view,) = rank_views(pair, (0, 1))
    ((_, matches),) = TraceSet(pair).matched
    rows = matches.rows.filter(~matches.rows["first_step"])
    # with two ranks each waits exactly for the other: waiting of one is what the other causes
    waiting = {rank: rows.filter(rows["rank"] == rank)["waiting_ns"].sum() / 2000 for rank in (0, 1)}
    shown = {row[0].text: row for row in view.stragglers.rows}
    for rank in (0, 1):
        assert float(shown[str(rank)][4].exact.split()[0].replace(",", "")) / 1000 == pytest.approx(
            waiting[rank], rel=0.001
        )
        assert float(shown[str(1 - rank)][3].exact.split()[0].replace(",", "")) / 1000 == pytest.approx(
            waiting[rank], rel=0.01
        )
    assert "2 ranks, matched at 198 collectives. Clocks agree within 215 ns." in view.lead


def test_a_page_of_64_ranks_is_small_says_what_it_left_out_and_has_no_dead_link() -> None:
    html = many_page()
    assert len(html.encode()) < 3_000_000
    assert "Timelines and evidence of 58 of 64 traces are left out to keep the page small." in html
    ids = set(re.findall(r' id="([^"]+)"', html))
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert targets <= ids, targets - ids
    assert f'id="timeline-{LATE_RANK}"' in html, "the straggler's evidence is there"
    view = build(many_report())
    assert sum(not trace.brief for trace in view.traces) == 6


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_drawn_in_both_themes(open_page: Open, theme: str) -> None:
    opened = open_page(two_page(), theme=theme)
    page = opened.page
    assert page.get_by_role("heading", name="Lateness by rank").is_visible()
    assert page.locator(".heat rect.late").count() > 0
    fill = page.locator(".collectives .s-wait").first.evaluate("e => getComputedStyle(e).fill")
    assert fill == ("rgb(213, 94, 0)" if theme == "light" else "rgb(238, 127, 53)")
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_a_cell_leads_to_the_ranks_timeline(open_page: Open) -> None:
    page = open_page(many_page()).page
    page.locator(f".heat rect.late[data-trace='{LATE_RANK}']").first.click()
    page.locator(f"#timeline-{LATE_RANK} canvas[data-from]").wait_for()


def test_many_ranks_fit_a_phone(open_page: Open) -> None:
    page = open_page(many_page(), width=390).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_one_rank_has_no_such_view() -> None:
    trace = open_trace(samples.path("sglang-h200-tp2-decode-graph-rank0"))
    assert rank_views([trace], [0]) == ()  # type: ignore[list-item]

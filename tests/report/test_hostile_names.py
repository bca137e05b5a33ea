"""Names from outside are text, never markup, script, terminal codes or direction changes."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from report.made import finding, report_of, small_trace

from traceql.report.names import shown
from traceql.testing import TraceBuilder

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`&<b>{{7*7}}\x1b[31m\x00\u202etxt.exe\u2066|#@user"


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    trace = small_trace(f"{HOSTILE.replace('/', '∕')}.json", kernel=HOSTILE)
    bad = finding(
        HOSTILE,
        subject=HOSTILE,
        evidence={"name": HOSTILE, "rows": [{HOSTILE: HOSTILE, "gap_us": 1.0}]},
        advice=(HOSTILE, f"`{HOSTILE}`"),
    )
    report = report_of(trace, findings=(bad,), unreadable=(HOSTILE,))
    return {format: report.render(format) for format in ("html", "text", "markdown", "json")}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_html_has_no_foreign_element(rendered: dict[str, str]) -> None:
    parser = _Tags()
    parser.feed(rendered["html"])
    assert "img" not in parser.tags
    assert parser.handlers == []
    assert parser.tags.count("script") == 6, "head, Markdown, cuts, events, timeline, page"
    assert "49" not in re.findall(r"<b>(.*?)\{", rendered["html"])


def test_embedded_markdown_is_json(rendered: dict[str, str]) -> None:
    (block,) = re.findall(r'<script type="application/json" id="markdown">(.*?)</script>', rendered["html"], re.S)
    (text,) = json.loads(block).values()
    assert "onerror" in text


def test_timeline_names_are_made_visible(rendered: dict[str, str]) -> None:
    (block,) = re.findall(
        r'<script type="application/gzip" id="timeline-data-0">(.*?)</script>', rendered["html"], re.S
    )
    names = json.loads(gzip.decompress(base64.b64decode(block)))["names"]
    assert shown(HOSTILE) in names


def test_the_embedded_cut_is_a_trace_with_the_names_as_they_are(rendered: dict[str, str]) -> None:
    (block,) = re.findall(r'<script type="application/gzip" id="events-0">(.*?)</script>', rendered["html"], re.S)
    text = gzip.decompress(base64.b64decode(block)).decode()
    assert HOSTILE in {event["name"] for event in json.loads(text)["traceEvents"]}
    assert len(text.split("\n")) == text.count('"ph"') - text.count('"ph":"f"') + 1, "one event, or one flow, a line"
    (cuts,) = re.findall(r'<script type="application/json" id="cuts">(.*?)</script>', rendered["html"], re.S)
    assert json.loads(f"[{next(iter(json.loads(cuts).values()))['line']}]")[0]["args"]["message"] == HOSTILE


def test_the_embedded_cut_names_nobody() -> None:
    build = TraceBuilder()
    build.range("step[DECODE bs=8]", 0, 900)
    build.python("/home/ann/serve/model.py(3): forward", 5, 500)
    build.launch("gemm_kernel", call_us=10, gpu_us=20, gpu_dur_us=100)
    html = report_of(build.trace(), findings=(finding("Late under /home/ann/serve/model.py.", start_ns=0),)).render(
        "html"
    )
    (block,) = re.findall(r'<script type="application/gzip" id="events-0">(.*?)</script>', html, re.S)
    text = gzip.decompress(base64.b64decode(block)).decode()
    assert "~/serve/model.py(3): forward" in text
    assert "ann/" not in text + html


@pytest.mark.parametrize("format", ["html", "text", "markdown"])
def test_no_control_or_direction_characters(rendered: dict[str, str], format: str) -> None:
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066]", rendered[format]) == []
    assert "⟨U+202E⟩" in rendered[format]


def test_markdown_holds_no_raw_html(rendered: dict[str, str]) -> None:
    allowed = re.sub(r"</?(details|summary)>", "", rendered["markdown"])
    outside_code = re.sub(r"(`+).*?\1", "", allowed)
    assert re.findall(r"(?<!\\)<", outside_code) == []


def test_right_to_left_runs_are_isolated() -> None:
    assert shown("kernel_שלום 42") == "kernel_\u2068שלום\u2069 42"


def test_home_directories_are_shortened() -> None:
    assert shown("/home/ann/sglang/srt/x.py(3): f") == "~/sglang/srt/x.py(3): f"
    assert shown("/Users/ann/x.py and C:\\Users\\ann\\x.py") == "~/x.py and ~\\x.py"
    assert shown("/root/x.py") == "~/x.py"
    assert shown("/srv/root/x.py") == "/srv/root/x.py"

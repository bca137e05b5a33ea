"""The GPU timeline of the HTML report: which slices it holds, and their packing.

Columns are delta-encoded, written as JSON, gzipped and put in base64: 20,000 slices take about 170 kB.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from traceql.report.causes import css, order
from traceql.report.model import Card, Timeline
from traceql.report.names import shown
from traceql.report.timeline_tracks import Track, tracks
from traceql.report.timeline_windows import Windows, choose
from traceql.trace import Trace


def pack(trace: Trace, index: int, cards: Sequence[Card], share: float = 1.0) -> Timeline | None:
    """The timeline of ``trace``, the ``index``-th of the report; None without GPU work or host activity.

    ``share`` is the part of the page's budget of slices that this trace may use.
    """
    marks = [
        (c.number, c.anchor, c.place.start_ns, c.place.end_ns) for c in cards if c.place and c.place.trace == index
    ]
    windows = choose(trace, [start for _, _, start, _ in marks], share)
    return None if windows is None else pack_windows(trace, windows, marks, share)


Mark = tuple[int, str, int, int]
"""Number and anchor of a finding, and the stretch it is about in ns."""


def pack_windows(trace: Trace, windows: Windows, marks: Sequence[Mark] = (), share: float = 1.0) -> Timeline | None:
    """The timeline of the chosen stretches of ``trace``."""
    found, left_out = tracks(trace, windows, share)
    if not found:
        return None
    names = _Names()
    classes: dict[str, int] = {}
    packed = [_packed(track, names, classes, windows.base_ns) for track in found]
    content = {
        "base": windows.base_ns,
        "offset": round(trace.source_time_s(0) * 1e9),
        "tracks": packed,
        "names": names.full,
        "short": names.short,
        "classes": list(classes),
        "steps": [
            {"id": s.step_id, "label": s.label, "s": s.start_ns - windows.base_ns, "e": s.end_ns - windows.base_ns}
            for s in windows.steps
        ],
        "windows": [[start - windows.base_ns, end - windows.base_ns] for start, end in windows.ranges],
        "marks": [
            {"n": number, "a": anchor, "s": start - windows.base_ns, "e": end - windows.base_ns}
            for number, anchor, start, end in marks
            if windows.holds(start)
        ],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    causes = [track.frame["class"].unique().to_list() for track in found if track.kind == "idle"]
    return Timeline(
        steps=tuple(s.label for s in windows.steps),
        first=windows.first,
        causes=tuple(sorted({cause for some in causes for cause in some}, key=order)),
        dropped=(*windows.dropped, *left_out),
        payload=base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode(),
    )


class _Names:
    """Each name once, as it is shown: ``full`` for the details, ``short`` for the slice (null where the same)."""

    def __init__(self) -> None:
        self.full: list[str] = []
        self.short: list[str | None] = []
        self._known: dict[tuple[str, str], int] = {}

    def index(self, full: str, short: str) -> int:
        key = (full, short)
        if key not in self._known:
            self._known[key] = len(self.full)
            self.full.append(shown(full))
            self.short.append(None if short == full else shown(short))
        return self._known[key]


def _packed(track: Track, names: _Names, classes: dict[str, int], base_ns: int) -> dict[str, Any]:
    """One track as columns; ``s`` holds differences between starts, the first one from the base."""
    frame = track.frame
    pairs = frame.select(pl.col("name").fill_null(""), pl.coalesce("short", "name").fill_null(""))
    distinct = pairs.unique(maintain_order=True)
    index = {pair: names.index(*pair) for pair in distinct.rows()}
    packed: dict[str, Any] = {
        "kind": track.kind,
        "group": shown(track.group),
        "label": shown(track.label),
        "rows": track.rows,
        "s": (frame["start_ns"] - base_ns).diff().fill_null(frame["start_ns"][0] - base_ns).to_list(),
        "d": frame["dur_ns"].to_list(),
        "n": [index[pair] for pair in pairs.rows()],
    }
    if track.rows > 1:
        packed["y"] = frame["row"].to_list()
    if "class" in frame.columns:
        packed["c"] = [classes.setdefault(css(c) if track.kind == "idle" else c, len(classes)) for c in frame["class"]]
    if "launch_id" in frame.columns:
        packed["l"] = frame["launch_id"].fill_null(-1).to_list()
    return packed

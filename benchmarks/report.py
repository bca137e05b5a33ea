"""How long a report takes and how large its page is, part by part.

    python benchmarks/report.py [TRACE …] [--steps 5] [--runs 5]

Without TRACE: the bundled captures. A trace with fewer steps is repeated in memory until it has ``--steps``. Prints for
each: steps, events, seconds for the rules, for the sections, timeline and downloads, and for the HTML (the median of
``--runs``, derived frames computed anew each time), their sum, and the bytes of the page with those of its timeline and
downloads. The limits a page is held to are 3 s and 3 MB for a trace of five steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from itertools import pairwise
from pathlib import Path

from derived import repeated

from traceql import samples
from traceql.opening import open_trace
from traceql.report import html, view
from traceql.reporting import analyze
from traceql.trace import Trace


def timed(trace: Trace) -> tuple[list[float], dict[str, int]]:
    """Seconds for rules, view and HTML; bytes of the page and of what it embeds."""
    fresh = dataclasses.replace(trace, _memo={})
    marks = [time.perf_counter()]
    report = analyze(fresh)
    marks.append(time.perf_counter())
    built = view.build(report)
    marks.append(time.perf_counter())
    page = html.of_view(built)
    marks.append(time.perf_counter())
    sizes = {
        "page": len(page.encode()),
        "timeline": sum(len(t.timeline.payload) for t in built.traces if t.timeline),
        "downloads": sum(len(e) for e in (built.handoff.events if built.handoff else ()) if e),
    }
    return [later - earlier for earlier, later in pairwise(marks)], sizes


def with_steps(base: Trace, steps: int) -> Trace:
    """``base`` repeated until it has ``steps`` steps; itself where it has as many, or none."""
    found = base.table("steps").height
    return base if not found or found >= steps else repeated(base, math.ceil(steps / found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    paths = given.traces or [samples.folder() / sample.file for sample in samples.samples().values()]
    columns = ("steps", "events", "rules s", "view s", "html s", "sum s", "page kB", "timeline kB", "downloads kB")
    print(f"{'trace':<44}" + "".join(f"{c:>13}" for c in columns))
    for path in paths:
        opened = open_trace(path)
        for base in [opened] if isinstance(opened, Trace) else opened.traces:
            trace = with_steps(base, given.steps)
            timed(trace)  # compiled loops are loaded here
            runs = [timed(trace) for _ in range(given.runs)]
            seconds = [statistics.median(run[0][i] for run in runs) for i in range(3)]
            events = sum(frame.height for frame in trace.loaded.values())
            cells = [f"{trace.table('steps').height}", f"{events:,}", *(f"{s:.2f}" for s in (*seconds, sum(seconds)))]
            cells += [f"{size / 1000:,.0f}" for size in runs[0][1].values()]
            print(f"{path.name[:43]:<44}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

"""What is left of a file that was cut off, at every per cent of it: the table of REPORT.md and its test.

The whole events before the cut are counted from the text of the file or the pages of the database, without the loaders.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import traceql as tq
from fuzz import seeds
from traceql.errors import TraceqlError
from traceql.trace import Trace

PER_CENT = range(1, 100)
STEPS = 60
_TABLES = ("kernels", "memcpys", "memsets", "runtime_calls", "annotations", "ncu_kernels", "cpu_ops")


@dataclass(frozen=True)
class Cut:
    """A file cut at ``percent``: rows read of those in the whole file, and what was said."""

    percent: int
    rows: int
    whole_rows: int
    """rows of events that lie whole before the cut, in a database up to the first page of their table that is cut off"""
    said: bool
    """a problem of kind truncated, or the file was refused"""
    lost_bytes: int | None
    incomplete_trace: bool
    """TQL901 fired, or the file was refused"""
    refused: bool


def rows_of(trace: Trace) -> int:
    """Rows of the tables that hold what the files here hold."""
    return sum(trace.loaded[name].height for name in _TABLES)


def examples(folder: Path) -> dict[str, Path]:
    """A whole file of each format, made here."""
    from small_traces import Decode

    run = Decode(steps=STEPS, layers=4)
    rows = seeds.nsys_tables()
    many = [
        {**row, "start": row["start"] + 10_000 * i, "end": row["end"] + 10_000 * i, "correlationId": i}
        for i in range(2_000)
        for row in rows["CUPTI_ACTIVITY_KIND_KERNEL"][:1]
    ]
    calls = [
        {**rows["CUPTI_ACTIVITY_KIND_RUNTIME"][0], "start": 10_000 * i, "end": 10_000 * i + 900, "correlationId": i}
        for i in range(2_000)
    ]
    csv = seeds.ncu_pages()[0].decode().splitlines(keepends=True)
    page = folder / "page.csv"
    page.write_text("".join([*csv[:2], *(csv[2].replace('"7"', f'"{i}"', 1) for i in range(200))]))
    return {
        "torch .json": run.write(folder / "t.json"),
        "torch .json.gz": run.write(folder / "t.json.gz"),
        "nsys .sqlite": seeds.write_sqlite(
            folder / "t.sqlite",
            {**rows, "DIAGNOSTIC_EVENT": [], "CUPTI_ACTIVITY_KIND_KERNEL": many, "CUPTI_ACTIVITY_KIND_RUNTIME": calls},
        ),
        "ncu .csv": page,
    }


def cuts(path: Path, scratch: Path, percents: range = PER_CENT) -> Iterator[Cut]:
    """The file cut at each per cent, opened and analysed."""
    content = path.read_bytes()
    for percent in percents:
        cut = scratch / path.name
        cut.write_bytes(content[: len(content) * percent // 100])
        yield _opened(cut, percent, _whole(path, cut))


def _opened(cut: Path, percent: int, whole_rows: int) -> Cut:
    try:
        trace = tq.open(cut)
        assert isinstance(trace, Trace)
        report = tq.analyze(trace)
    except TraceqlError:
        return Cut(percent, 0, whole_rows, said=True, lost_bytes=None, incomplete_trace=True, refused=True)
    lost = [problem for problem in trace.problems if problem.kind in ("truncated", "skipped")]
    sizes = [problem.bytes for problem in lost if problem.bytes is not None]
    fired = {outcome.code for outcome in report.rules if outcome.outcome == "failed"}
    return Cut(
        percent, rows_of(trace), whole_rows, bool(lost), sum(sizes) if sizes else None, "TQL901" in fired, refused=False
    )


def _whole(path: Path, cut: Path) -> int:
    """Events that lie whole before the cut, counted without the loaders."""
    if path.suffix == ".sqlite":
        return _whole_rows(path, cut.stat().st_size)
    content = cut.read_bytes()
    if path.suffix == ".gz":
        content = zlib.decompressobj(wbits=31).decompress(content)
    if path.suffix == ".csv":
        lines = content.decode().split("\n")
        return sum(line.count('","') == lines[0].count('","') and line.endswith('"') for line in lines[2:])
    return _whole_events(content.decode())


def _whole_events(text: str) -> int:
    """Events of a trace up to the first that does not end."""
    begin = text.find('"traceEvents"')
    position = text.find("[", begin) + 1
    if begin < 0 or not position:
        return 0
    count = 0
    decoder = json.JSONDecoder()
    while True:
        while text[position : position + 1] in (",", " ", "\n"):
            position += 1
        try:
            _, position = decoder.raw_decode(text, position)
        except ValueError:
            return count
        count += 1


_READ = ("KERNEL", "MEMCPY", "MEMSET", "RUNTIME")


def _whole_rows(path: Path, size: int) -> int:
    """Rows of the event tables on pages before ``size``, up to the first page of the table beyond it."""
    content = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        roots = dict(connection.execute("select name, rootpage from sqlite_master"))
        (events,) = connection.execute("select count(*) from NVTX_EVENTS where eventType <> 75").fetchone()
    counted = 0
    for kind in _READ:
        try:
            for rows in _leaves(content, roots[f"CUPTI_ACTIVITY_KIND_{kind}"], size):
                counted += rows
        except EOFError:
            continue
    nvtx_is_there = all(page * _PAGE <= size for page in (1, roots["NVTX_EVENTS"], roots["StringIds"]))
    return counted + (events if nvtx_is_there else 0)


_PAGE = 4096


def _leaves(content: bytes, page: int, size: int) -> Iterator[int]:
    """Rows of each leaf of a table's tree in order; EOFError at the first page that is cut off.

    https://www.sqlite.org/fileformat2.html#b_tree_pages
    """
    if page * _PAGE > size:
        raise EOFError
    start = (page - 1) * _PAGE
    header = start + (100 if page == 1 else 0)
    kind, cells = content[header], int.from_bytes(content[header + 3 : header + 5], "big")
    if kind == 13:
        yield cells
        return
    for cell in range(cells):
        place = header + 12 + 2 * cell
        at = start + int.from_bytes(content[place : place + 2], "big")
        yield from _leaves(content, int.from_bytes(content[at : at + 4], "big"), size)
    yield from _leaves(content, int.from_bytes(content[header + 8 : header + 12], "big"), size)


def markdown_table(folder: Path) -> str:
    """The table of REPORT.md: every tenth per cent of each example, and what holds at all of them."""
    lines = []
    for name, path in examples(folder).items():
        scratch = folder / "cut"
        scratch.mkdir(exist_ok=True)
        every = list(cuts(path, scratch))
        trace = tq.open(path)
        assert isinstance(trace, Trace)
        lines += ["", f"### {name}: {path.stat().st_size:,} bytes, {rows_of(trace):,} rows", ""]
        lines += [
            "| cut at | whole before the cut | read | bytes said to be lost | incomplete-trace |",
            "|---|---|---|---|---|",
        ]
        for cut in every:
            if cut.percent % 10 == 0 or cut.percent in (1, 99):
                lost = "" if cut.lost_bytes is None else f"{cut.lost_bytes:,}"
                read = "refused" if cut.refused else f"{cut.rows:,}"
                fired = "refused" if cut.refused else "fires" if cut.incomplete_trace else "silent"
                lines.append(f"| {cut.percent} % | {cut.whole_rows:,} | {read} | {lost} | {fired} |")
        exact = sum(cut.rows == cut.whole_rows for cut in every)
        fewer = max(cut.whole_rows - cut.rows for cut in every)
        lines += [
            "",
            f"Of {len(every)} cuts {exact} gave exactly the whole rows, {sum(c.refused for c in every)} were refused, the worst missed {fewer} rows; {sum(c.said for c in every)} said so.",
        ]
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(markdown_table(Path(scratch)))

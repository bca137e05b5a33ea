"""The whole table of docs/performance.md: writes the files, measures traceql and what else is installed, prints Markdown.

    python benchmarks/all.py --torch CAPTURE.json.gz … --nsys CAPTURE.sqlite --peers OTHER-VENV/bin/python

Takes about 15 minutes on two free processors and 4 GB of disk, which it gives back. ``--large`` adds a trace of 3 GB.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from generate import Capture, write_nsys, write_torch
from load import compare, machine

SIZES_MB = (50, 500)
LARGE_MB = 3000
RESERIALISED_MB = 50
KERNELS = 2_500_000
OPENING = ("traceql",)
"""Loaders that stay within memory on a file of any size."""


def files(folder: Path, torch: list[Path], nsys: Path | None, *, large: bool) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Each file with the loaders to measure on it (none: all), one at a time; it goes when the next is asked for."""
    captures = [Capture(path) for path in torch]
    for size in (*SIZES_MB, *([LARGE_MB] if large else [])) if captures else ():
        path = folder / f"kineto-{size}.json"
        write_torch(path, size * 1_000_000, captures, "kineto")
        yield path, () if size != LARGE_MB else ("traceql",)
        if size == RESERIALISED_MB:
            packed = path.with_name(path.name + ".gz")
            with path.open("rb") as plain, gzip.open(packed, "wb", compresslevel=6) as target:
                shutil.copyfileobj(plain, target)
            yield packed, OPENING
            packed.unlink()
        path.unlink()
    for layout in ("line", "indent") if captures else ():
        path = folder / f"{layout}-{RESERIALISED_MB}.json"
        write_torch(path, RESERIALISED_MB * 1_000_000, captures, layout)
        yield path, OPENING
        path.unlink()
    if nsys is not None:
        path = folder / "nsys.sqlite"
        write_nsys(path, nsys, size=0, kernels=KERNELS)
        yield path, ()
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", type=Path, nargs="+", default=[], metavar="CAPTURE", help="torch profiler exports")
    parser.add_argument("--nsys", type=Path, metavar="CAPTURE", help="an nsys export (.sqlite)")
    parser.add_argument("--peers", action="append", default=[], metavar="PYTHON", help="interpreter that has peers")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--large", action="store_true", help=f"also a trace of {LARGE_MB} MB, read by traceql alone")
    options = parser.parse_args()
    if not options.torch and options.nsys is None:
        parser.error("give a capture to repeat: --torch, --nsys or both")
    with tempfile.TemporaryDirectory(prefix="traceql-bench-") as folder:
        for path, only in files(Path(folder), options.torch, options.nsys, large=options.large):
            print(machine(), compare(path, options.peers, options.repeat, only), sep="\n\n", end="\n\n", flush=True)


if __name__ == "__main__":
    main()

"""Loading time of traceql and its peers: each run in a process of its own, one table a file at the end.

    python benchmarks/load.py TRACE.json … --repeat 5 --peers OTHER-VENV/bin/python

``load`` is the time from the call that loads the file to a result in memory. For traceql that includes what it
imports on first use (Polars, NumPy); for the others, and in the row that says so, imports are done before. ``process``
is everything, from the start of Python to its end. The rounds go through all loaders in turn, so that a busy moment on the machine hits all
alike. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MEASURE = """
import json, os, sys, time
path = sys.argv[1]
{prepare}
wall, cpu = time.perf_counter(), time.process_time()
{load}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
try:  # of this process alone: what the system keeps for a child starts at its parent's size
    peak = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([wall, cpu, peak]), flush=True)
os._exit(0)
"""

CEILING = "simdjson, parse only"
_ALL = (".json", ".json.gz", ".sqlite")


@dataclass(frozen=True)
class Loader:
    """How one loader is called, and the module it needs."""

    name: str
    module: str
    prepare: str
    load: str
    formats: tuple[str, ...] = (".json", ".json.gz")
    prime: str = ""
    """run once before the rounds"""


_REPORT = "cli.main(['analyze', path, *{options}, '-o', os.devnull, '--format', 'html', '-q'], standalone_mode=False)"
_ANALYZE = ("from traceql.cli.main import cli", _REPORT.format(options=["--no-cache"]))
_CACHED = ("from traceql.cli.main import cli", _REPORT.format(options=[]))

LOADERS = [
    Loader("traceql", "traceql", "import traceql as tq", "tq.open(path)", _ALL),
    Loader("traceql, libraries imported", "traceql", "import numpy, polars, traceql as tq", "tq.open(path)", _ALL),
    Loader(
        "traceql, from cache",
        "traceql",
        "import traceql as tq",
        "tq.open(path, cache=True)",
        _ALL,
        prime="import sys, traceql as tq; tq.open(sys.argv[1], cache=True)",
    ),
    Loader("traceql analyze", "traceql", *_ANALYZE, _ALL),
    Loader(
        "traceql analyze, from cache",
        "traceql",
        *_CACHED,
        _ALL,
        prime="import sys, traceql as tq; tq.open(sys.argv[1], cache=True)",
    ),
    Loader(
        "traceql, strict parser",
        "traceql",
        "import traceql as tq\nfrom traceql.loaders import kineto_fast\nkineto_fast.SMALL_BYTES = 1 << 62",
        "tq.open(path)",
    ),
    Loader(
        "json + pandas",
        "pandas",
        "import gzip, pandas as pd",
        "events = json.load(gzip.open(path) if path.endswith('.gz') else open(path, 'rb'))['traceEvents']\n"
        "frame = pd.DataFrame(events).join(pd.DataFrame([e.get('args') or {} for e in events]), rsuffix='_args')",
    ),
    Loader(
        "HolisticTraceAnalysis",
        "hta",
        "import logging; logging.disable()\nfrom hta.common.trace import parse_trace_file",
        "parse_trace_file(path)",
    ),
    Loader("TraceLens", "TraceLens", "from TraceLens.util import DataLoader", "DataLoader.load_data(path)"),
    Loader(CEILING, "simdjson", "import simdjson", "simdjson.Parser().load(path)", (".json",)),
    Loader(
        "simdjson, parse only, again",
        "simdjson",
        "import simdjson\ntext = open(path, 'rb').read()\nparser = simdjson.Parser()\nparser.parse(text)",
        "parser.parse(text)",
        (".json",),
    ),
]


@dataclass(frozen=True)
class Run:
    load_s: float
    cpu_s: float
    peak_bytes: int
    process_s: float


def measure(python: str, loader: Loader, path: Path) -> Run | None:
    """One run; None when it fails."""
    code = _MEASURE.format(prepare=loader.prepare, load=loader.load)
    start = time.perf_counter()
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True, check=False)
    process = time.perf_counter() - start
    if done.returncode:
        print(f"{loader.name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return Run(*json.loads(done.stdout.strip().splitlines()[-1]), process)


def interpreter(loader: Loader, candidates: list[str]) -> str | None:
    """The first interpreter that has what the loader needs."""
    for python in candidates:
        test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({loader.module!r}) is None)"
        if subprocess.run([python, "-c", test], check=False, capture_output=True).returncode == 0:
            return python
    return None


def table(path: Path, runs: dict[str, list[Run]]) -> str:
    """A Markdown table: medians, the range of the loading time, and ratios to the first row."""
    size = path.stat().st_size
    first = next(iter(runs.values()))
    lines = [
        f"{path.name}: {size / 1e6:.0f} MB",
        "",
        "| loader | load s | range | ratio | process s | ratio | CPU s | ratio | peak MB | MB/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in runs.items():
        load, process, cpu = (median(found, field) for field in ("load_s", "process_s", "cpu_s"))
        times = [run.load_s for run in found]
        lines.append(
            f"| {name} | {load:.2f} | {min(times):.2f}-{max(times):.2f} | {load / median(first, 'load_s'):.1f} "
            f"| {process:.2f} | {process / median(first, 'process_s'):.1f} | {cpu:.2f} | {cpu / median(first, 'cpu_s'):.1f} "
            f"| {max(run.peak_bytes for run in found) / 1e6:.0f} | {size / load / 1e6:.0f} |"
        )
    ceiling = runs.get(CEILING)
    if ceiling:
        share = median(ceiling, "load_s") / median(first, "load_s")
        lines += [
            "",
            f"{next(iter(runs))} reaches {share:.0%} of the speed at which simdjson parses and keeps nothing.",
        ]
    return "\n".join(lines)


def machine() -> str:
    """What the figures were measured on, and how busy it is with other things."""
    import platform

    model = platform.processor() or platform.machine()
    with suppress(OSError):
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {cores} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}{load}"


def median(runs: list[Run], field: str) -> float:
    return float(statistics.median(getattr(run, field) for run in runs))


def compare(path: Path, peers: list[str], repeat: int, only: tuple[str, ...] = ()) -> str:
    """The table of one file: every loader that can read it, in turn, ``repeat`` times."""
    usable: dict[str, tuple[str, Loader]] = {}
    for loader in LOADERS:
        wanted = path.name.endswith(loader.formats) and loader.name.startswith(only or "")
        if wanted and (python := interpreter(loader, [sys.executable, *peers])):
            usable[loader.name] = (python, loader)
    runs: dict[str, list[Run]] = {name: [] for name in usable}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRACEQL_CACHE"] = cache
        for python, loader in usable.values():
            if loader.prime:
                subprocess.run([python, "-c", loader.prime, str(path)], check=True)
        for _ in range(repeat):
            for name, (python, loader) in usable.items():
                if run := measure(python, loader, path):
                    runs[name].append(run)
    return table(path, {name: found for name, found in runs.items() if found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--peers", action="append", default=[], metavar="PYTHON", help="interpreter that has peers")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="loaders whose name starts so")
    options = parser.parse_args()
    print(machine(), end="\n\n")
    for path in options.traces:
        print(compare(path, options.peers, options.repeat, tuple(options.only)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()

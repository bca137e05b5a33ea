"""Loading time of traceql and its peers: each run in a process of its own, one table at the end.

    python benchmarks/load.py TRACE.json … --repeat 5 --peers OTHER-VENV/bin/python

The clock runs from the call that loads the file to a result in memory. For traceql that includes what it imports on
first use (Polars, numba); for the others imports are done before. The rounds go through all loaders in turn, so that
a busy moment on the machine hits all alike. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MEASURE = """
import json, os, sys, time
path = sys.argv[1]
{prepare}
wall, cpu = time.perf_counter(), time.process_time()
{load}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = None
try:  # of this process alone: what the system keeps for a child starts at its parent's size
    peak = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([wall, cpu, peak]), flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class Loader:
    """How one loader is called, and the module it needs."""

    name: str
    module: str
    prepare: str
    load: str
    formats: tuple[str, ...] = (".json", ".json.gz")


LOADERS = [
    Loader("traceql", "traceql", "import traceql as tq", "tq.open(path)", (".json", ".json.gz", ".sqlite")),
    Loader(
        "traceql from cache",
        "traceql",
        "import subprocess; import traceql as tq\n"
        "subprocess.run([sys.executable, '-c', 'import sys, traceql as tq; tq.open(sys.argv[1], cache=True)', path])",
        "tq.open(path, cache=True)",
        (".json", ".json.gz", ".sqlite"),
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
    Loader("simdjson, parse only", "simdjson", "import simdjson", "simdjson.Parser().load(path)", (".json",)),
]


@dataclass(frozen=True)
class Run:
    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure(python: str, loader: Loader, path: Path, cache: Path) -> Run | None:
    """One run; None when it fails."""
    code = _MEASURE.format(prepare=loader.prepare, load=loader.load)
    environment = {**os.environ, "TRACEQL_CACHE": str(cache)}
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"{loader.name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return Run(*json.loads(done.stdout.strip().splitlines()[-1]))


def interpreter(loader: Loader, candidates: list[str]) -> str | None:
    """The first interpreter that has what the loader needs."""
    for python in candidates:
        test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({loader.module!r}) is None)"
        if subprocess.run([python, "-c", test], check=False).returncode == 0:
            return python
    return None


def table(path: Path, runs: dict[str, list[Run]]) -> str:
    """A Markdown table; times are medians, with the range of the wall time, ratios are to the first row."""
    size = path.stat().st_size
    first = statistics.median(run.wall_s for run in next(iter(runs.values())))
    lines = [
        f"{path.name}: {size / 1e6:.0f} MB",
        "",
        "| loader | wall s | range | CPU s | peak MB | MB/s | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in runs.items():
        walls = [run.wall_s for run in found]
        wall = statistics.median(walls)
        cpu = statistics.median(run.cpu_s for run in found)
        peak = max(run.peak_bytes for run in found) / 1e6
        span = f"{min(walls):.2f}-{max(walls):.2f}"
        lines.append(
            f"| {name} | {wall:.2f} | {span} | {cpu:.2f} | {peak:.0f} | {size / wall / 1e6:.0f} | {wall / first:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--peers", action="append", default=[], metavar="PYTHON", help="interpreter that has peers")
    parser.add_argument("--only", action="append", metavar="NAME", help="loaders whose name starts so")
    options = parser.parse_args()
    for path in options.traces:
        usable: dict[str, tuple[str, Loader]] = {}
        for loader in LOADERS:
            wanted = not options.only or loader.name.startswith(tuple(options.only))
            python = interpreter(loader, [sys.executable, *options.peers]) if wanted else None
            if python and path.name.endswith(loader.formats):
                usable[loader.name] = (python, loader)
        runs: dict[str, list[Run]] = {name: [] for name in usable}
        with tempfile.TemporaryDirectory() as cache:
            for _ in range(options.repeat):
                for name, (python, loader) in usable.items():
                    if run := measure(python, loader, path, Path(cache)):
                        runs[name].append(run)
        print(table(path, {name: found for name, found in runs.items() if found}), end="\n\n", flush=True)


if __name__ == "__main__":
    main()

"""How many traces a second go through the distributed engine, and what one costs.

    python benchmarks/fleet.py CAPTURE.json.gz … --traces 64 --workers 2

The captures are copied in turn until there are so many traces. They are summarised one after the other in this process,
by so many plain processes with an equal share each (the ideal), and on a Dask cluster on this machine that is already
running. Prints seconds and megabytes, and the cluster's time over the ideal: by the clock, and by CPU seconds of all
processes, which a busy machine does not disturb.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # as the cluster's workers have it

from traceql.fleet import cluster as distributed
from traceql.fleet import summaries as fleet

ROUNDS = 3


def main() -> None:
    """Run the comparison named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="+", type=Path)
    parser.add_argument("--traces", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.traces):
            capture = given.captures[number % len(given.captures)]
            shutil.copy(capture, Path(folder, f"{number:05d}-{capture.name}"))
        compare(Path(folder), given.workers)


def compare(folder: Path, workers: int) -> None:
    """One process against ``workers``, on the traces of ``folder``."""
    from distributed import LocalCluster

    setup = fleet.Setup()
    places, _ = fleet.locations([folder])
    fleet.summarise(places[0], setup)  # imports and compiled code
    started, cpu = time.perf_counter(), time.process_time()
    summaries = [fleet.summarise(place, setup) for place in places]
    alone, alone_cpu = time.perf_counter() - started, time.process_time() - cpu
    size = sum(Path(place.path).stat().st_size for place in places)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{len(places)} traces, {size / 1e6:.1f} MB; one process: {alone:.1f} s ({alone_cpu:.1f} s CPU), peak {peak:.0f} MB"
    )
    print(f"summary: {sum(len(pickle.dumps(s)) for s in summaries) / len(summaries) / 1e3:.0f} kB a trace")
    started = time.perf_counter()
    report = fleet.assemble(summaries, setup)
    print(f"reduction: {time.perf_counter() - started:.2f} s, {len(report.found)} findings")
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        warm_up = [Path(place.path) for place in places[: 2 * workers]]
        list(pool.map(share, [places[:1]] * workers))
        distributed.analyze(warm_up, scheduler=cluster.scheduler_address)
        for _ in range(ROUNDS):  # in turn: a busy moment on the machine hits both
            started, cpu = time.perf_counter(), _cpu_seconds()
            list(pool.map(share, [places[n::workers] for n in range(workers)]))
            ideal, ideal_cpu = time.perf_counter() - started, _cpu_seconds() - cpu
            started, cpu = time.perf_counter(), _cpu_seconds()
            together = distributed.analyze([folder], scheduler=cluster.scheduler_address)
            wall, wall_cpu = time.perf_counter() - started, _cpu_seconds() - cpu
            busy = 100 * sum(summary.seconds for summary in together.summaries) / wall / workers
            print(
                f"{workers} workers: {wall:.1f} s with the reduction, {wall / ideal:.2f} of the ideal {ideal:.1f} s; "
                f"workers busy {busy:.0f} %; CPU {wall_cpu:.1f} s, {wall_cpu / ideal_cpu:.2f} of {ideal_cpu:.1f} s"
            )


def _cpu_seconds() -> float:
    """CPU time so far of this process and all it started that still run."""
    import psutil  # comes with distributed

    this = psutil.Process()
    spent = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(times.user + times.system for times in spent)


def share(places: list[fleet.Location]) -> int:
    """One plain process's part; what it finds is dropped."""
    return sum(isinstance(fleet.summarise(place, fleet.Setup()), fleet.Summary) for place in places)


if __name__ == "__main__":
    main()

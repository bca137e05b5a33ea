"""Traces summarised by many processes or machines, on Dask: one task a trace, one reduction over the summaries.

A task reads one trace and returns a few kilobytes to a megabyte; nothing of its tables outlives it, so a worker needs
memory for one trace. A worker that is lost has its tasks given to others. A file that cannot be read, or that keeps
killing workers, is reported and skipped.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from traceql.errors import UsageError
from traceql.fleet.summaries import FleetReport, Location, Setup, Summary, Unreadable, assemble, locations, summarise

_LOST_WORKERS = 1
"""Workers that may die over a trace before it is set aside and, at the end, tried alone: so another's fault is not its."""

_TIMEOUT = "10s"
"""How long to wait for a scheduler."""

Progress = Callable[[int, int], None]
"""Called with traces done and traces in all."""


def analyze(
    paths: Sequence[Path],
    *,
    setup: Setup | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FleetReport:
    """Analyze every trace that ``paths`` (files, directories, URLs) stand for.

    ``scheduler`` is the address of a running Dask scheduler, whose workers must see the files and have traceql
    installed; without one a cluster of ``workers`` processes (as many as there are cores) is started on this machine.
    UsageError when Dask is not installed or the scheduler does not answer.
    """
    setup = setup or Setup()
    found, missing = locations(paths)
    if not found:
        return assemble(missing, setup)
    with _client(scheduler, workers) as client:
        results = list(_summaries(client, found, setup, progress))
    return assemble([*results, *missing], setup)


def _summaries(
    client: Any, places: list[Location], setup: Setup, progress: Progress | None
) -> Iterator[Summary | Unreadable]:
    """One result a trace, as they come; each is released on its worker once it is here."""
    done = 0
    set_aside: list[Location] = []
    for place, result in _completed(client, places, setup):
        if result is None:
            set_aside.append(place)
            continue
        yield result
        done += 1
        if progress is not None:
            progress(done, len(places))
    for place in set_aside:
        ((_, result),) = _completed(client, [place], setup)
        yield result or Unreadable(
            place.path,
            f"{place.path}: every worker that read it was lost; give workers more memory (it may be too large for them)",
        )


def _completed(
    client: Any, places: list[Location], setup: Setup
) -> Iterator[tuple[Location, Summary | Unreadable | None]]:
    """What each task returned, as they come; None for a trace over which workers died. Results are released on their
    worker once they are here."""
    futures = client.map(summarise, places, setup=setup, pure=False)
    place_of = {future.key: place for future, place in zip(futures, places, strict=True)}
    for future in _dask().as_completed(futures, loop=client.loop):
        yield place_of[future.key], _result(future, place_of[future.key].path)
        future.release()


def _result(future: Any, path: str) -> Summary | Unreadable | None:
    try:
        result: Summary | Unreadable = future.result()
    except _dask().KilledWorker:
        return None
    except Exception as error:
        return Unreadable(path, f"{path}: {type(error).__name__}: {error}".splitlines()[0])
    return result


@contextlib.contextmanager
def _client(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    """A client of the scheduler named, or of a cluster on this machine that ends with the block."""
    try:
        distributed, config = _dask(), import_module("dask.config")
    except ImportError as error:
        raise UsageError(f"Dask is not installed ({error.name}); pip install 'traceql[distributed]'") from error
    if scheduler is not None:
        try:
            with distributed.Client(scheduler, timeout=_TIMEOUT, set_as_default=False) as client:
                yield client
        except OSError as error:
            raise UsageError(f"no Dask scheduler answers at {scheduler} ({error or type(error).__name__})") from error
        return
    count = workers or os.cpu_count() or 1
    threads = max(1, (os.cpu_count() or 1) // count)
    settings = {
        "distributed.scheduler.allowed-failures": _LOST_WORKERS,
        # each worker is one process that reads one trace: Polars must not start a thread a core in each
        "distributed.nanny.pre-spawn-environ": {"POLARS_MAX_THREADS": str(threads), "MALLOC_TRIM_THRESHOLD_": "65536"},
        "distributed.comm.timeouts.connect": "60s",
    }
    with (
        config.set(settings),
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _dask() -> Any:
    """Dask's scheduler package, an extra: imported when it is needed."""
    return import_module("distributed")

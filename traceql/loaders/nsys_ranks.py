"""Which rank each process of an Nsight Systems export is, where the export tells."""

from __future__ import annotations

import re

import polars as pl

from traceql.loaders.nsys_export import Export, pid
from traceql.ranks import RANK_KEY

_DIMENSION = re.compile(r"(?<![A-Za-z])(DP|PP|TP)[ _-]?(\d+)")
"""How serving engines name a worker: sglang::scheduler_DP0_TP1, VLLM::Worker_PP0_TP3."""
_RANK = re.compile(r"(?<![A-Za-z])rank[ _-]?(\d+)", re.IGNORECASE)
_OUTERMOST_FIRST = ("DP", "PP", "TP")


def ranks(export: Export, kernels: pl.DataFrame, communicators: pl.DataFrame) -> pl.DataFrame:
    """Metadata rows (key, value) with the rank of each process that ran kernels; none unless all of several are told apart.

    From the names of processes and threads, else from the largest communicator NCCL states. Nothing else of the names is
    kept.
    """
    working = set(kernels["pid"].drop_nulls().unique()) if "pid" in kernels.columns else set()
    if len(working) < 2:
        return _rows({})
    return _rows(_of_names(export, working) or _of_communicators(communicators, working))


def worker(name: str) -> str:
    """What of a name tells the worker's rank, and nothing else: ``DP0_TP1``, ``rank 5``; empty where nothing does."""
    named = [f"{dimension}{number}" for dimension, number in _DIMENSION.findall(name)]
    found = None if named else _RANK.search(name)
    return "_".join(named) if found is None else f"rank {found.group(1)}"


def _rows(found: dict[int, int]) -> pl.DataFrame:
    rows = [(RANK_KEY.format(process), str(rank)) for process, rank in sorted(found.items())]
    return pl.DataFrame(rows, schema={"key": pl.String, "value": pl.String}, orient="row")


def _of_names(export: Export, working: set[int]) -> dict[int, int]:
    processes = export.read("PROCESSES", "globalPid", "name").select(pid("globalPid"), "name")
    threads = export.read("ThreadNames", "globalTid nameId").select(pid("globalTid"), name=export.string("nameId"))
    named: dict[int, set[tuple[int, ...]]] = {}
    for process, name in pl.concat([processes, threads]).drop_nulls().unique().rows():
        place = _place(name)
        if process in working and place:
            named.setdefault(process, set()).add(place)
    told = {process: places.pop() for process, places in named.items() if len(places) == 1}
    if set(told) != working or len(set(told.values())) != len(working) or len({len(p) for p in told.values()}) > 1:
        return {}
    if all(len(place) == 1 for place in told.values()):
        return {process: place[0] for process, place in told.items()}
    return {process: rank for rank, process in enumerate(sorted(told, key=lambda process: told[process]))}


def _place(name: str) -> tuple[int, ...]:
    """The numbers a worker's name gives, outermost dimension first; empty for another name."""
    named = dict(_DIMENSION.findall(name))
    if named:
        return tuple(int(named[each]) for each in _OUTERMOST_FIRST if each in named)
    found = _RANK.search(name)
    return (int(found.group(1)),) if found else ()


def _of_communicators(communicators: pl.DataFrame, working: set[int]) -> dict[int, int]:
    told: dict[int, int] = dict(communicators.filter(pl.col("pid").is_in(list(working))).rows())
    once = communicators.filter(pl.col("pid").is_in(list(working))).height == len(told)
    return told if once and set(told) == working and len(set(told.values())) == len(working) else {}

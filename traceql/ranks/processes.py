"""Several ranks in one file: a trace taken apart into one for each process with GPUs of its own.

Nsight Systems records all processes of a host into one file. Processes that work on the same GPU cannot be told apart in
its busy and idle time and stay together; those on different GPUs are traces of their own, on one clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from traceql import schema
from traceql.counters import REPORTS
from traceql.derived import api, memoised
from traceql.kernel_names import described
from traceql.ranks import RANK_KEY
from traceql.trace import Part, Problem, Trace, in_order

_WORK = ("kernels", "graph_traces")
"""What makes a process a worker of a GPU; copies and fills alone are a helper's (a test of peer access, a transfer)."""
_GPU_WORK = (*_WORK, "memcpys", "memsets")
_ON_GPU = (*_GPU_WORK, "counters", "devices")
"""Tables whose rows belong to a device first, so that its busy time stays whole; other rows belong to a process first."""
_OF_ONE = ("ncu_kernels", "ncu_metrics")
"""Counters that were joined to the timeline: the first part has them, so that nothing is found twice."""
_MOST = 1_024
"""Processes with GPU work on one host; a file with more is damaged."""
_STRAY = 0.01
"""Share of a device's work up to which a process is a passer-by there and not its worker."""


def apart(traces: Sequence[Trace]) -> tuple[Trace, ...]:
    """The traces, each that holds several ranks as these, in order."""
    parts = tuple(part for trace in traces for part in ranks(trace))
    return parts if len(parts) == len(traces) else in_order(parts)


@memoised
def ranks(trace: Trace) -> tuple[Trace, ...]:
    """One trace for each process (or processes that share a GPU), in order of rank; the trace itself where that is one.

    Every row of the trace is in one of them, GPU work where its device is, host rows where their process is, but for those
    of processes that put nothing on a GPU (a launcher, a tokenizer), which are in none. Metadata is in all; what names neither
    device nor process is in the first. Times stay as they are: ``start_ns`` counts from the file's first event. Ids count
    anew.
    """
    if trace.part is not None or trace.rank is not None:
        return (trace,)
    groups = _groups(trace)
    if len(groups) < 2:
        told = [*_shared(trace, groups), *_unplaced(trace)]
        return (replace(trace, problems=(*trace.problems, *told)) if told else trace,)
    placed = _ranked(trace, groups)
    process = {pid: place for place, (_, pids, _) in enumerate(placed) for pid in pids}
    device = {number: place for place, (_, _, devices) in enumerate(placed) for number in devices}
    device = _mostly(trace, "device", _place("pid", process)) | device  # some get copies alone
    process = _mostly(trace, "pid", _place("device", device)) | process  # and some only make them
    tables = {name: _distributed(name, frame, process, device, len(placed)) for name, frame in trace.loaded.items()}
    problems = (*trace.problems, *_shared(trace, groups), *_strays(trace, process, device))
    own = [Part(tuple(sorted(pids))) for _, pids, _ in placed]
    parts = tuple(
        replace(
            trace,
            loaded={name: _numbered(name, frames[place], rank) for name, frames in tables.items()},
            rank=rank,
            problems=problems,
            eager=_eager(trace, place, rank, len(placed)),
            part=own[place],
            _memo={},
        )
        for place, (rank, _, _) in enumerate(placed)
    )
    for each in own:
        each.siblings = parts
    return parts


# --- which processes and devices belong together -----------------------------------------------------------------------

_Group = tuple[frozenset[int], frozenset[int]]
"""Processes and the devices that only they work on."""


@memoised
def _groups(trace: Trace) -> tuple[_Group, ...]:
    """The processes that work on GPUs, those that share one together; one group at most where that is not certain."""
    work = _work(trace)
    processes = set(work["pid"].drop_nulls().unique())
    if not 1 < len(processes) <= _MOST or _replaying(trace) - processes:
        return ()
    joined: list[tuple[set[int], set[int]]] = []
    for pid, device in _at_home(work).rows():
        touched = [group for group in joined if pid in group[0] or device in group[1]]
        joined = [group for group in joined if group not in touched]
        joined.append(({pid}.union(*(g[0] for g in touched)), {device}.union(*(g[1] for g in touched))))
    owned = {device for _, devices in joined for device in devices}
    if not work.filter(pl.col("pid").is_null() & ~pl.col("device").is_in(list(owned)).fill_null(False)).is_empty():
        return ()  # work of which neither process nor device tells whose it is
    return tuple((frozenset(pids), frozenset(devices)) for pids, devices in joined)


def _work(trace: Trace) -> pl.DataFrame:
    return pl.concat(trace.loaded[name].select("pid", "device", "dur_ns") for name in _WORK)


def _at_home(work: pl.DataFrame) -> pl.DataFrame:
    """pid, device of the devices each process works on: more than a stray of what runs there, or most of what it does."""
    each = work.drop_nulls(["pid", "device"]).group_by("pid", "device").agg(rows=pl.len(), ns=pl.col("dur_ns").sum())
    share = pl.max_horizontal(
        (pl.col(amount) / pl.col(amount).sum().over("device")).fill_nan(0) for amount in ("rows", "ns")
    )
    most = pl.struct("ns", "rows", -pl.col("device")).rank("ordinal", descending=True).over("pid") == 1
    return each.filter((share > _STRAY) | most).select("pid", "device").sort("pid", "device")


def _replaying(trace: Trace) -> set[int]:
    """The processes that launch CUDA graphs: such a one without GPU rows works on a device that nothing names."""
    calls = trace.loaded["runtime_calls"]
    return set(calls.filter(pl.col("name").str.contains(api.GRAPH_LAUNCH))["pid"].drop_nulls().unique())


# --- their ranks -------------------------------------------------------------------------------------------------------


def _ranked(trace: Trace, groups: Sequence[_Group]) -> list[tuple[int | None, frozenset[int], frozenset[int]]]:
    """(rank, processes, devices) of each group in order: as the file tells, else by device where all communicate."""
    by_device = sorted(groups, key=lambda group: min(group[1]))
    told = _told(trace)
    known = [{told[pid] for pid in pids if pid in told} for pids, _ in by_device]
    if all(len(each) == 1 for each in known) and len(set.union(*known)) == len(known):
        return sorted((min(each), *group) for each, group in zip(known, by_device, strict=True))
    one_each = all(len(devices) == 1 for _, devices in by_device)
    numbered = one_each and all(pids & _communicating(trace) for pids, _ in by_device)
    return [(place if numbered else None, *group) for place, group in enumerate(by_device)]


def _told(trace: Trace) -> dict[int, int]:
    """Process → rank, as far as the loader found it."""
    prefix, suffix = RANK_KEY.split("{}")
    rows = trace.loaded["metadata"].filter(pl.col("key").str.starts_with(prefix) & pl.col("key").str.ends_with(suffix))
    stated = {key.removeprefix(prefix).removesuffix(suffix): value for key, value in rows.select("key", "value").rows()}
    return {int(pid): int(rank) for pid, rank in stated.items() if pid.isdecimal() and str(rank).isdecimal()}


def _communicating(trace: Trace) -> set[int]:
    """The processes that ran communication kernels."""
    names = trace.loaded["kernels"].select("pid", "name", "short_name", "category").drop_nulls("pid").unique()
    return set(described(names).filter(pl.col("category") == "communication")["pid"])


def _mostly(trace: Trace, column: str, place: pl.Expr) -> dict[int, int]:
    """Device or process (``column``) → the part that most of its GPU work is of; the first where nothing tells."""
    rows = _gpu_work(trace).drop_nulls(column).select(column, place=place)
    each = rows.group_by(column, "place").len().sort(pl.col("place").is_null(), pl.col("len") * -1, "place")
    most = each.unique(column, keep="first", maintain_order=True).with_columns(pl.col("place").fill_null(0))
    return dict(most.select(column, "place").rows())


def _gpu_work(trace: Trace) -> pl.DataFrame:
    return pl.concat(trace.loaded[name].select("pid", "device") for name in _GPU_WORK)


# --- the rows ----------------------------------------------------------------------------------------------------------


def _distributed(
    name: str, frame: pl.DataFrame, process: Mapping[int, int], device: Mapping[int, int], parts: int
) -> list[pl.DataFrame]:
    """The rows of one table for each part."""
    if name == "metadata":  # describes the file, but for what the first part alone has
        return [frame, *[frame.filter(pl.col("key") != REPORTS)] * (parts - 1)]
    if name in _OF_ONE:
        return [frame, *[frame.head(0)] * (parts - 1)]
    places = [_place("device", device), _place("pid", process)]
    held = [place for place, column in zip(places, ("device", "pid"), strict=True) if column in frame.columns]
    if name not in _ON_GPU and name != "annotations":
        held.reverse()
    if name == "annotations":  # ranges the profiler drew on the GPU, else of the host
        held = [pl.when(pl.col("side") == "gpu").then(held[0]), held[1]]
    of_nobody = pl.col("pid").is_not_null() if name not in _ON_GPU and "pid" in frame.columns else pl.lit(False)
    number = frame.select(pl.coalesce(*held, pl.when(~of_nobody).then(0))).to_series()
    return [frame.filter(number == place) for place in range(parts)]


def _place(column: str, places: Mapping[int, int]) -> pl.Expr:
    return pl.col(column).replace_strict(list(places), list(places.values()), default=None, return_dtype=pl.Int64)


def _numbered(name: str, frame: pl.DataFrame, rank: int | None) -> pl.DataFrame:
    """Rows of a part with its rank, ids counted anew."""
    if "rank" in frame.columns:
        frame = frame.with_columns(rank=pl.lit(rank, pl.Int64))
    identity = schema.TABLES[name].columns[0].name
    if "start_ns" not in frame.columns:
        return frame
    frame = frame.with_columns(pl.col("start_ns").set_sorted())
    if not identity.endswith("_id"):
        return frame
    old = frame[identity]
    frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(identity))
    if name != "cpu_ops":
        return frame
    return frame.with_columns(
        pl.col("parent_id").replace_strict(old, frame[identity], default=None, return_dtype=pl.Int64)
    )


def _eager(trace: Trace, place: int, rank: int | None, parts: int) -> Trace | None:
    """The eager run to name a part's replays by: of as many ranks the same one."""
    if trace.eager is None:
        return None
    eager = ranks(trace.eager)
    if len(eager) != parts:
        return trace.eager
    return next((each for each in eager if rank is not None and each.rank == rank), eager[place])


# --- what to say -------------------------------------------------------------------------------------------------------


def _strays(trace: Trace, process: Mapping[int, int], device: Mapping[int, int]) -> list[Problem]:
    """The problem to report for GPU work that a process of one part put on a device of another."""
    rows = _gpu_work(trace)
    apart = rows.filter(_place("pid", process) != _place("device", device))
    if apart.is_empty():
        return []
    message = (
        f"{apart.height:,} GPU operations were put on the GPU of another rank: they count where they ran and have no "
        "launch call there"
    )
    return [Problem("note", message, count=apart.height)]


def _shared(trace: Trace, groups: Sequence[_Group]) -> list[Problem]:
    """The problem to report where processes that communicate with each other look as if they shared a GPU.

    The loader of PyTorch's traces says so itself.
    """
    if trace.source != "nsys":
        return []
    together = [pids & _communicating(trace) for pids, _ in groups if len(pids) > 1]
    return [
        Problem(
            "note",
            f"processes {', '.join(map(str, sorted(pids)))} communicate and look as if they worked on one GPU: they are "
            "one trace here and not ranks; record each into a file of its own if their GPUs differ",
        )
        for pids in together
        if len(pids) > 1
    ]


def _unplaced(trace: Trace) -> list[Problem]:
    """The problem to report where a process keeps the others from being told apart."""
    working = set(_work(trace)["pid"].drop_nulls().unique())
    hidden = _replaying(trace) - working
    if trace.source != "nsys" or len(working) < 2 or not hidden:
        return []
    message = (
        f"process {min(hidden)} replays CUDA graphs of which nothing was recorded, on a GPU that nothing names: the processes "
        "of this file stay one trace; record with --cuda-graph-trace=node to tell ranks apart"
    )
    return [Problem("note", message)]

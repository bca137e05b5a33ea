"""Which process put work on which GPU, in a Kineto file that holds several processes.

GPU rows of such a file carry the device, not the process, and every process counts its correlation ids from 1. What a file
does tell: the label that a merging tool put before every process id; which process has a call for a row at all; and that
no work starts before the call that launched it. A device is given to a process only where that leaves no other.
"""

from __future__ import annotations

import polars as pl

from traceql.trace import Problem

_EARLY_NS = 100_000
"""Work that starts this much before a call was not launched by it; clocks of host and GPU agree better than that."""
_MOST = 0.9
"""Share of a device's rows that have a call in its process, at least; the rest were launched before the recording."""
_FEW = 0.5
"""Share that another process must stay under to be ruled out by missing calls."""


PLACE = ["device", "row_pid"]


def owners(rows: pl.DataFrame, calls: pl.DataFrame) -> pl.DataFrame:
    """device, row_pid → ``pid`` of the process whose calls launched the work, for those where that is certain.

    ``rows``: GPU work with device, row_pid (the process field of its event), correlation_id, start_ns. ``calls``: API calls
    with pid, correlation_id, start_ns.
    """
    first = (
        calls.drop_nulls(["pid", "correlation_id"])
        .group_by("pid", "correlation_id")
        .agg(call_ns=pl.col("start_ns").min())
    )
    merged = rows["row_pid"].is_in(calls["pid"].implode()).all()  # GPU rows carry labels of processes, not devices
    linked = rows.filter(pl.col("correlation_id") > 0).drop_nulls(PLACE)
    early = pl.col("call_ns") - pl.col("start_ns")
    share = pl.col("matched") / pl.col("rows")
    judged = (
        linked.join(first, on="correlation_id")
        .group_by(*PLACE, "pid")
        .agg(matched=pl.len(), possible=(early <= 0).all(), ruled_out=(early > _EARLY_NS).any())
        .join(linked.group_by(PLACE).agg(rows=pl.len()), on=PLACE)
        .with_columns(fits=pl.col("possible") & (share >= _MOST), out=pl.col("ruled_out") | (share < _FEW))
    )
    alone = pl.col("out").sum().over(PLACE) == pl.len().over(PLACE) - 1
    named = pl.lit(bool(merged)) & (pl.col("pid") == pl.col("row_pid"))
    return judged.filter(pl.col("fits") & ~pl.col("out") & (alone | named)).select(*PLACE, "pid").sort(PLACE)


def undecided(rows: pl.DataFrame, calls: pl.DataFrame) -> list[Problem]:
    """The problem to report for ``rows`` without an owner whose correlation ids several processes use."""
    shared = calls.drop_nulls().group_by("correlation_id").agg(pl.col("pid").n_unique()).filter(pl.col("pid") > 1)
    count = rows.filter(pl.col("correlation_id") > 0).join(shared, on="correlation_id", how="semi").height
    if not count:
        return []
    message = (
        f"{count:,} GPU rows have a correlation id that several processes of this file use, and nothing tells which of them "
        "launched the work: it is joined to no call; give traceql the trace of each process"
    )
    return [Problem("note", message, count=count)]


def shared_devices(owner: pl.DataFrame) -> list[Problem]:
    """The problem to report for devices that several processes of the file name: perhaps different GPUs."""
    shared = owner.group_by("device").agg(pl.col("pid").n_unique()).filter(pl.col("pid") > 1).sort("device")
    return [
        Problem(
            "note",
            f"{processes} processes of this file use device {device}, which counts as one GPU; if each saw its own GPU under "
            "that number (CUDA_VISIBLE_DEVICES), give traceql the trace of each process",
        )
        for device, processes in shared.rows()
    ]

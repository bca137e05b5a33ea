"""What a finding's fix would take out of the steps, for the engine to re-time them without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

SavingsBasis = Literal["modelled by re-timing", "measured", "bound"]
"""What an estimated saving rests on: the step's dependency graph timed again without the finding; a difference between
steps of the trace; or a time that the fix cannot save more than."""

RETIMED: SavingsBasis = "modelled by re-timing"

_HOST = {"pid": pl.Int64, "tid": pl.Int64, "start_ns": pl.Int64, "end_ns": pl.Int64}
_WAITS = {"call_id": pl.Int64}
_GPU = {"gpu_op_id": pl.Int64, "saved_ns": pl.Int64}


@dataclass(frozen=True, eq=False)
class Fix:
    """Edits to the steps of a trace, wherever in it they apply; the engine uses those of the step it re-times.

    Make one with ``host_time``, ``launch_latency``, ``waits`` or ``device_time`` and join them with ``|``. What two edits
    both remove is removed once: stretches of one thread are united, and of an operation shortened twice the larger cut
    holds.

    Attributes:
        host: pid, tid, start_ns, end_ns: time that a launching thread no longer spends.
        way: pid, tid, start_ns, end_ns: time after a launch call returned that its work no longer needs to begin.
        released: call_id of synchronising calls and blocking copies that no longer hold their thread.
        gpu: gpu_op_id, saved_ns: time the device no longer works; all of an operation's time removes it.
    """

    host: pl.DataFrame
    way: pl.DataFrame
    released: pl.DataFrame
    gpu: pl.DataFrame

    @classmethod
    def host_time(cls, stretches: pl.DataFrame) -> Fix:
        """Without these stretches (pid, tid, start_ns, end_ns; more columns are ignored) of the threads' time: work that
        is dropped, moved off the launching thread or done ahead, launch calls that one call replaces."""
        return dataclasses.replace(cls.union([]), host=_typed(stretches, _HOST))

    @classmethod
    def launch_latency(cls, stretches: pl.DataFrame) -> Fix:
        """Without these stretches (pid, tid of the launch, start_ns, end_ns) between the return of a launch call and the
        start of its work on an idle device: work that is queued ahead, or one call launches with other work."""
        return dataclasses.replace(cls.union([]), way=_typed(stretches, _HOST))

    @classmethod
    def waits(cls, calls: pl.DataFrame) -> Fix:
        """Without these calls (call_id) waiting for the GPU: the host goes on at once."""
        return dataclasses.replace(cls.union([]), released=_typed(calls, _WAITS))

    @classmethod
    def device_time(cls, operations: pl.DataFrame) -> Fix:
        """With these operations (gpu_op_id, saved_ns) shorter: kernels that run faster, kernels and copies that are not
        needed, communication that computation hides."""
        return dataclasses.replace(cls.union([]), gpu=_typed(operations, _GPU))

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return all(frame.is_empty() for frame in (self.host, self.way, self.released, self.gpu))

    def __or__(self, other: Fix) -> Fix:
        return Fix.union([self, other])

    @classmethod
    def union(cls, fixes: Iterable[Fix]) -> Fix:
        """All of them together; of none, a fix that changes nothing."""
        every = list(fixes)
        return cls(
            pl.concat([_empty(_HOST), *(fix.host for fix in every)]),
            pl.concat([_empty(_HOST), *(fix.way for fix in every)]),
            pl.concat([_empty(_WAITS), *(fix.released for fix in every)]).unique(maintain_order=True),
            pl.concat([_empty(_GPU), *(fix.gpu for fix in every)])
            .group_by("gpu_op_id", maintain_order=True)
            .agg(pl.col("saved_ns").max()),
        )


def _typed(frame: pl.DataFrame, columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(dtype) for name, dtype in columns.items())


def _empty(columns: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    return pl.DataFrame(schema=columns)

"""Change a trace by a known amount: open holes in host and GPU time, and put calls, operators and kernels into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from traceql.trace import LoadedTrace, Trace

_HOST = ("python_calls", "cpu_ops", "runtime_calls", "overheads")
_GPU = ("kernels", "memcpys", "memsets", "graph_traces", "synchronizations")

_Times = NDArray[np.int64]


@dataclass(frozen=True)
class Hole:
    """From ``at_ns`` on everything is ``by_ns`` later; with ``until_ns`` the delay grows evenly from one to the other."""

    at_ns: int
    by_ns: int
    until_ns: int | None = None

    def delay(self, times: _Times, *, inclusive: bool) -> _Times:
        """How much later each time is. What lies exactly at a hole is after it if ``inclusive``, else before."""
        if self.until_ns is None:
            past = times >= self.at_ns if inclusive else times > self.at_ns
            return np.where(past, self.by_ns, 0).astype(np.int64)
        share = np.clip((times - self.at_ns) / (self.until_ns - self.at_ns), 0, 1)
        return np.rint(share * self.by_ns).astype(np.int64)


class Edit:
    """A trace being changed. Open the holes first, then add rows, in the times that hold after the change."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._holes: dict[str, list[Hole]] = {"host": [], "gpu": []}
        self._added: list[tuple[str, dict[str, Any]]] = []
        self._longer: dict[int, int] = {}
        self._relinked: dict[int, int] = {}
        threads = trace.table("launches").group_by("pid", "tid").len().sort("len")
        self._thread = threads.select("pid", "tid").row(-1, named=True)
        self._stream = trace.loaded["kernels"].select("pid", "device", "stream", "context").row(0, named=True)
        self._correlation = int(trace.loaded["runtime_calls"]["correlation_id"].max() or 0)  # type: ignore[arg-type]

    def host_hole(self, at_ns: int, by_ns: int, until_ns: int | None = None) -> None:
        """Everything on the host from ``at_ns`` on is later; what spans it lasts longer."""
        self._holes["host"].append(Hole(at_ns, by_ns, until_ns))

    def gpu_hole(self, at_ns: int, by_ns: int) -> None:
        """GPU work that starts at ``at_ns`` or after is later."""
        self._holes["gpu"].append(Hole(at_ns, by_ns))

    def before(self, side: str, at_ns: int) -> int:
        """The new time of ``at_ns``, in front of a hole that opens there."""
        return int(self._moved(side, np.array([at_ns]), inclusive=False)[0])

    def lengthen(self, kernel_id: int, by_ns: int) -> None:
        """The kernel takes longer. Open a GPU hole at its end as well."""
        self._longer[kernel_id] = by_ns

    def correlation(self) -> int:
        """A correlation id that is not in use."""
        self._correlation += 1
        return self._correlation

    def relink(self, kernel_ids: list[int], correlation: int) -> None:
        """These kernels were launched by another call."""
        self._relinked.update(dict.fromkeys(kernel_ids, correlation))

    def add(self, table: str, **row: Any) -> None:
        """A new row: on the thread that launches most where it is a host row, else on the first kernel's stream."""
        columns = self._trace.loaded[table].columns
        place = self._thread if table in _HOST or row.get("side") == "cpu" else self._stream
        self._added.append((table, {c: {**place, **row}.get(c) for c in columns}))

    def add_activity(self, name: str, *, start_ns: int, dur_ns: int) -> None:
        """The host is in a Python frame; in a named range, where the trace has no Python calls."""
        if self._trace.capabilities.python_stacks:
            self.add("python_calls", name=name, start_ns=start_ns, dur_ns=dur_ns)
        else:
            self.add("annotations", name=name, side="cpu", start_ns=start_ns, dur_ns=dur_ns)

    def trace(self) -> Trace:
        """The changed trace; the given one stays as it was."""
        frames = {name: self._retimed(name, frame) for name, frame in self._trace.loaded.items()}
        for table, row in self._added:
            frames[table] = pl.concat([frames[table], pl.DataFrame([row], schema=frames[table].schema)])
        old = self._trace
        return Trace.from_loaded(LoadedTrace(old.source, old.path, frames, rank=old.rank, problems=old.problems))

    def _moved(self, side: str, times: _Times, *, inclusive: bool) -> _Times:
        return times + sum((h.delay(times, inclusive=inclusive) for h in self._holes[side]), np.zeros_like(times))

    def _retimed(self, name: str, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.is_empty():
            return frame
        if name in _HOST:
            return self._stretched(frame, "host")
        if name == "annotations":
            cpu = pl.col("side") == "cpu"
            return pl.concat(
                [self._stretched(frame.filter(cpu), "host"), self._stretched(frame.filter(~cpu), "gpu")],
            )
        if name not in _GPU:
            return frame
        moved = frame.with_columns(start_ns=pl.Series(self._moved("gpu", frame["start_ns"].to_numpy(), inclusive=True)))
        if name != "kernels":
            return moved
        longer = pl.col("kernel_id").replace_strict(self._longer, default=0, return_dtype=pl.Int64)
        link = pl.col("kernel_id").replace_strict(self._relinked, default=None, return_dtype=pl.Int64)
        return moved.with_columns(pl.col("dur_ns") + longer, correlation_id=pl.coalesce(link, "correlation_id"))

    def _stretched(self, frame: pl.DataFrame, side: str) -> pl.DataFrame:
        """Starts and ends moved, each on its side of a hole that opens there."""
        starts = frame["start_ns"].to_numpy()
        new = self._moved(side, starts, inclusive=True)
        ends = self._moved(side, starts + frame["dur_ns"].to_numpy(), inclusive=False)
        return frame.with_columns(start_ns=pl.Series(new), dur_ns=pl.Series(np.maximum(ends - new, 0)))

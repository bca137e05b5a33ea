"""How long the derived frames take after loading, and how that grows: a trace repeated 1, 2 and 4 times in memory.

    python benchmarks/derived.py sample_traces/sglang-h200-bs64-decode-eager.trace.json.gz --events 500000

Prints processor seconds for each frame at each size, their total, its ratio to the size before (2 is linear), the total on the
clock, and the peak memory. On a machine that others use too, processor time is the figure to compare.
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise
from pathlib import Path

import polars as pl

from traceql.derived.typical_steps import kinds_of_step
from traceql.derived.what_if import step_model
from traceql.opening import open_trace
from traceql.trace import Trace

FRAMES = (
    "launches", "gpu_ops", "steps", "gap_parts", "gaps", "graph_segments", "graph_boundaries", "layers", "op_costs", "gemms",
    "layer_kernels", "kernels", "cpu_ops", "critical_path",
)  # fmt: skip
WHAT_IF = "one step re-timed"


def repeated(base: Trace, times: int) -> Trace:
    """``base`` one after the other ``times`` times: times and correlation ids shift, row ids are made anew."""
    timed = [f for f in base.loaded.values() if "start_ns" in f.columns and not f.is_empty()]
    span = max(int((f["start_ns"] + f["dur_ns"]).max()) for f in timed) + 1_000  # type: ignore[arg-type]
    loaded = {}
    for name, frame in base.loaded.items():
        if "start_ns" not in frame.columns:
            loaded[name] = frame
            continue
        shifts = [
            frame.with_columns(
                pl.col("start_ns") + i * span,
                *([pl.col("correlation_id") + i * 10_000_000] if "correlation_id" in frame.columns else []),
            )
            for i in range(times)
        ]
        joined = pl.concat(shifts).sort("start_ns", maintain_order=True)
        identity = frame.columns[0]
        if identity.endswith("_id"):
            joined = joined.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(identity))
        loaded[name] = joined
    return Trace(base.source, base.path, loaded)


def timed(trace: Trace) -> dict[str, float]:
    """Processor seconds each frame took, in order; what an earlier one computed on the way is not counted again."""
    seconds = {}
    for frame in (*FRAMES, WHAT_IF):
        started = time.process_time()
        if frame == WHAT_IF:
            halved(trace)
        else:
            trace.table(frame)
        seconds[frame] = time.process_time() - started
    return seconds


def halved(trace: Trace) -> int:
    """The period of the step that stands for the trace with half its host time, from a graph built for it alone."""
    model = step_model(trace, kinds_of_step(trace)[0].step_id)
    return 0 if model is None else model.period_ns(scale={"host": 0.5, "launch": 0.5})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--events", type=int, default=500_000, help="events of the smallest size")
    given = parser.parse_args()
    base = open_trace(given.trace)
    if not isinstance(base, Trace):
        raise SystemExit("give one trace")
    timed(repeated(base, 1))  # compiled loops are loaded here
    events = sum(f.height for f in base.loaded.values())
    columns = []
    for size in (1, 2, 4):
        times = max(1, size * given.events // events)
        trace = repeated(base, times)
        started = time.perf_counter()
        seconds = timed(trace)
        columns.append((times * events, seconds, time.perf_counter() - started))
        del trace
    print(f"{'frame':<18}" + "".join(f"{n:>14,}" for n, _, _ in columns))
    for frame in (*FRAMES, WHAT_IF):
        print(f"{frame:<18}" + "".join(f"{seconds[frame]:>14.2f}" for _, seconds, _ in columns))
    totals = [sum(seconds.values()) for _, seconds, _ in columns]
    print(f"{'total, s':<18}" + "".join(f"{t:>14.2f}" for t in totals))
    print(f"{'ratio':<18}{'':>14}" + "".join(f"{b / a:>14.2f}" for a, b in pairwise(totals)))
    print(f"{'on the clock, s':<18}" + "".join(f"{clock:>14.2f}" for _, _, clock in columns))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()

"""Files made by chance: every figure against the plain count, every invariant, no rule that breaks."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import plain_count
from adversarial.held import (
    compare_collectives,
    compare_gaps,
    compare_step_costs,
    compare_steps,
    compare_with_count,
    hold_invariants,
)
from adversarial.kineto import Event, call, gpu, mark
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import traceql as tq
from traceql import engine
from traceql.trace import Trace


@st.composite
def generated(draw: st.DrawFn) -> list[Event]:
    """Launches, replays with and without rows, waits and copies of one or two processes, inside and outside steps."""
    numbers = itertools.count(1)
    events: list[Event] = []
    for process in range(draw(st.integers(1, 2))):
        place = {"pid": 100 + process}
        devices = [process] if draw(st.booleans()) else [process, process + 2]
        at = draw(st.integers(0, 300))
        for _ in range(draw(st.integers(0, 5))):
            length = draw(st.integers(20, 300))
            if draw(st.booleans()):
                events.append(mark(f"step[DECODE bs={draw(st.integers(1, 2))}]", at, length, **place))
            for _ in range(draw(st.integers(0, 6))):
                begin, number = at + draw(st.integers(0, 400)), next(numbers)
                start, dur = begin + draw(st.integers(0, 200)), draw(st.integers(0, 120))
                device, stream = draw(st.sampled_from(devices)), draw(st.sampled_from([7, 13]))
                kind = draw(st.sampled_from(["kernel", "kernel", "graph", "wait", "copy", "stray"]))
                where = {"device": device, "stream": stream}
                if kind == "kernel":
                    events += [call(begin, number, **place), gpu("k", start, dur, number, **where)]
                elif kind == "graph":
                    events.append(call(begin, number, "cudaGraphLaunch", **place))
                    nodes = draw(st.integers(0, 3))
                    events += [gpu(f"n{i}", start + 9 * i, dur, number, **where) for i in range(nodes)]
                elif kind == "wait":
                    events.append(call(begin, 0, "cudaStreamSynchronize", dur=dur, **place))
                elif kind == "copy":
                    name = draw(st.sampled_from(["cudaMemcpyAsync", "cudaMemcpy"]))
                    events.append(call(begin, number, name, dur=dur, **place))
                    events.append(
                        gpu("Memcpy HtoD (Pageable -> Device)", start, dur, number, cat="gpu_memcpy", **where)
                    )
                else:
                    events.append(gpu("stray", start, dur, None if draw(st.booleans()) else 10_000 + number, **where))
            at += length + draw(st.integers(0, 100))
    return events


@settings(
    max_examples=int(os.environ.get("TRACEQL_TEST_EXAMPLES", "40")), deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each try opens a file: no shrinking
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(generated())
def test_generated_files(tmp_path: Path, events: list[Event]) -> None:
    if not any(e["cat"] in ("kernel", "gpu_memcpy", "cuda_runtime") for e in events):
        return
    path = tmp_path / "generated.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    rows = plain_count.read(path)
    expected = plain_count.count(rows.ops, rows.calls, rows.marks)
    trace = tq.open(path, cache=False)
    assert isinstance(trace, Trace)
    compare_with_count(trace, expected)
    compare_steps(trace, expected)
    compare_gaps(trace, rows)
    compare_step_costs(trace, rows)
    compare_collectives(trace, rows)
    hold_invariants(trace)
    assert not [(o.code, o.traceback) for o in engine.run(trace) if o.outcome == "error"]

"""Odd but plausible Kineto files."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

Event = dict[str, Any]
FILES: dict[str, Callable[[], list[Event]]] = {}
"""Name → the events of a Kineto file."""


def kineto(function: Callable[[], list[Event]]) -> Callable[[], list[Event]]:
    FILES[function.__name__] = function
    return function


def host(cat: str, name: str, ts: Any, dur: Any, *, pid: Any = 100, tid: Any = 1, **args: Any) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def mark(name: str, ts: Any, dur: Any, **where: Any) -> Event:
    return host("user_annotation", name, ts, dur, **where)


def call(ts: Any, number: int, name: str = "cudaLaunchKernel", dur: Any = 4, **where: Any) -> Event:
    return host("cuda_runtime", name, ts, dur, correlation=number, **where)


def gpu(
    name: str, ts: Any, dur: Any, number: int | None, *, device: int = 0, stream: int = 7, cat: str = "kernel"
) -> Event:
    args: dict[str, Any] = {"device": device, "stream": stream, "grid": [8, 1, 1], "block": [128, 1, 1]}
    if number is not None:
        args["correlation"] = number
    return {"ph": "X", "cat": cat, "name": name, "pid": device, "tid": stream, "ts": ts, "dur": dur, "args": args}


def pair(name: str, at: float, dur: float, number: int, *, after: float = 6, **where: Any) -> list[Event]:
    """A launch call at ``at`` and its kernel ``after`` later."""
    place = {k: where.pop(k) for k in ("device", "stream") if k in where}
    return [call(at, number, **where), gpu(name, at + after, dur, number, **place)]


def steps(count: int, body: Callable[[float, Iterator[int]], list[Event]], every: float = 1000) -> list[Event]:
    numbers = itertools.count(1)
    events: list[Event] = []
    for i in range(count):
        events.append(mark("step[DECODE bs=4]", i * every, every * 0.9))
        events += body(i * every, numbers)
    return events


# --- kineto ----------------------------------------------------------------------------------------------------------


@kineto
def overlapping_streams() -> list[Event]:
    def body(at: float, numbers: Iterator[int]) -> list[Event]:
        found = []
        for i, stream in enumerate((7, 13, 20, 7)):
            found += pair(f"k{i}", at + 20 * i, 100 + 30 * i, next(numbers), stream=stream)
        return found

    return steps(4, body)


@kineto
def zero_durations() -> list[Event]:
    return steps(4, lambda at, n: [e for i in range(5) for e in pair("null_kernel", at + 50 * i, 0, next(n))])


@kineto
def nested_step_marks() -> list[Event]:
    """A mixed step around decode steps of its own name family."""
    events = [mark("step[MIXED bs=4 toks=100]", 0, 900), mark("step[DECODE bs=2]", 300, 200)]
    events += pair("outer", 10, 20, 1) + pair("inner", 310, 20, 2) + pair("outer2", 600, 20, 3)
    events += [mark("step[DECODE bs=2]", 1000, 500), *pair("inner", 1010, 20, 4)]
    return events


@kineto
def overlap_scheduling() -> list[Event]:
    """The host range of a step begins before the GPU work of the one before ends; GPU work is queued throughout."""
    events, free = [], 0.0
    for i in range(6):
        events.append(mark("step[DECODE bs=4]", i * 100, 80))
        for j in range(4):
            number, at = i * 10 + j + 1, i * 100 + 10 * j
            start = max(free, at + 6)
            free = start + 24
            events += [call(at, number), gpu("k", start, 24, number)]
    return events


@kineto
def overlapping_step_ranges() -> list[Event]:
    """Marks on two threads of one process whose ranges overlap."""
    events = []
    for i in range(5):
        for tid in (1, 2):
            at = i * 100 + 40 * (tid - 1)
            events.append(mark("step[DECODE bs=4]", at, 90, tid=tid))
            events += pair("k", at + 10, 20, 10 * i + tid, tid=tid, stream=tid)
    return events


@kineto
def launches_outside_steps() -> list[Event]:
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return events + pair("warm_up", -500, 20, 90) + pair("between", 950, 20, 91) + pair("after", 5000, 20, 92)


@kineto
def no_correlations() -> list[Event]:
    """GPU rows without ids: nothing can be joined, nothing is invented."""
    events = steps(3, lambda at, n: [call(at + 10, next(n))])
    return events + [gpu("k", i * 1000 + 16, 50, None) for i in range(3)]


@kineto
def gpu_annotations_alone() -> list[Event]:
    """No host side: GPU ranges and kernels."""
    events = []
    for i in range(4):
        events += [gpu("k", i * 100 + 5, 30, None), gpu("k", i * 100 + 50, 30, None)]
        events.append({**gpu("step[DECODE bs=4]", i * 100, 90, None, cat="gpu_user_annotation")})
    return events


@kineto
def amd_names() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        number, graph = next(n), next(n)
        return [
            call(at, number, "hipLaunchKernel"), gpu("Cijk_Alik_Bljk", at + 8, 30, number),
            call(at + 50, graph, "hipGraphLaunch", dur=20), gpu("a", at + 75, 30, graph), gpu("b", at + 106, 30, graph),
            call(at + 150, 0, "hipStreamSynchronize", dur=100),
        ]  # fmt: skip

    return steps(4, body)


@kineto
def old_categories() -> list[Event]:
    """Capitalised categories, device and stream in pid and tid alone, call ids as texts."""
    events: list[Event] = []
    for i in range(3):
        events.append({"ph": "X", "cat": "Runtime", "name": "cudaLaunchKernel", "ts": i * 100, "dur": 4, "pid": "77",
                       "tid": "77", "args": {"correlation": i + 1}})  # fmt: skip
        events.append({"ph": "X", "cat": "Kernel", "name": "k", "ts": i * 100 + 9, "dur": 20, "pid": "2",
                       "tid": "stream 7", "args": {"correlation": i + 1}})  # fmt: skip
    return events


@kineto
def two_ranks_in_one_file() -> list[Event]:
    events = []
    for rank in (0, 1):
        for i in range(4):
            at, where = i * 1000 + rank * 500, {"pid": 500 + rank}
            events.append(mark("step[DECODE bs=4]", at, 400, **where))
            events += pair("k", at + 10, 100, 100 * rank + i + 1, device=rank, **where)
    return events


@kineto
def unsorted_events() -> list[Event]:
    events = overlapping_streams()
    random.Random(3).shuffle(events)
    return events


@kineto
def times_as_texts_with_digits_beyond_nanoseconds() -> list[Event]:
    base = 1_757_000_000_000_000  # µs since 1970
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return [e | {"ts": f"{base + e['ts']}.{i % 1000:03d}4", "dur": f"{e['dur']}.0004"} for i, e in enumerate(events)]


@kineto
def times_no_float_holds() -> list[Event]:
    """In nanoseconds these are over 2^61: a float64 is 512 of them apart."""
    base = 4_503_599_627_370_001
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return [e | {"ts": base + int(e["ts"])} for e in events]


@kineto
def begin_and_end_events() -> list[Event]:
    """Ranges as B/E pairs (other producers write those) beside complete events: those without a duration are left out."""
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    return [
        *events,
        {"ph": "B", "cat": "cpu_op", "name": "aten::mm", "pid": 100, "tid": 1, "ts": 5},
        {"ph": "E", "cat": "cpu_op", "name": "aten::mm", "pid": 100, "tid": 1, "ts": 40},
        {"ph": "i", "name": "marker", "pid": 100, "tid": 1, "ts": 40, "s": "t"},
        {"ph": "s", "id": 1, "cat": "ac2g", "name": "ac2g", "pid": 100, "tid": 1, "ts": 10},
        {"ph": "f", "id": 1, "cat": "ac2g", "name": "ac2g", "pid": 0, "tid": 7, "ts": 16, "bp": "e"},
        {"ph": "C", "name": "gpu memory", "pid": 100, "ts": 40, "args": {"bytes": 5}},
        {"ph": "M", "name": "process_name", "pid": 100, "args": {"name": "python"}},
    ]


@kineto
def duplicate_ids() -> list[Event]:
    """Runtime and driver call share an id, as cuLaunchKernel inside cudaLaunchKernel does."""

    def body(at: float, n: Iterator[int]) -> list[Event]:
        number = next(n)
        inner = host("cuda_driver", "cuLaunchKernel", at + 1, 2, correlation=number)
        return [*pair("k", at, 50, number), inner]

    return steps(3, body)


@kineto
def empty_and_hostile_names() -> list[Event]:
    names = [
        "",
        " ",
        "</script><script>alert(1)</script>",
        "\u202eevil",
        "a" * 5000,
        "naïve kernel 😀",
        "x\ny\tz",
        "a|b`c`",
    ]
    return steps(3, lambda at, n: [e for i, name in enumerate(names) for e in pair(name, at + 20 * i, 10, next(n))])


@kineto
def partial_replays_at_both_edges() -> list[Event]:
    """The first replay's launch call lies before the window, the last one's rows after it."""
    events = [gpu(f"node{i}", 5 + 11 * i, 10, 1) for i in range(3)]  # launched before the recording
    for i in range(4):
        at, number = 100 + 200 * i, i + 2
        events += [mark("step[DECODE bs=4]", at - 20, 190), call(at, number, "cudaGraphLaunch", dur=10)]
        if i < 3:
            events += [gpu(f"node{j}", at + 15 + 11 * j, 10, number) for j in range(6)]
    return events


@kineto
def only_memory_operations() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        first, second = next(n), next(n)
        return [
            call(at, first, "cudaMemcpyAsync"), gpu("Memcpy HtoD (Pinned -> Device)", at + 8, 30, first, cat="gpu_memcpy"),
            call(at + 50, second, "cudaMemsetAsync"), gpu("Memset (Device)", at + 60, 5, second, cat="gpu_memset"),
        ]  # fmt: skip

    return steps(3, body)


@kineto
def one_step_over_two_devices() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        found = []
        for i in range(3):
            for device in (0, 1):
                found += pair("k", at + 200 * i + 10 * device, 90 + 30 * device, next(n), device=device)
        return found

    return steps(4, body)


@kineto
def work_before_its_call() -> list[Event]:
    """Clocks that disagree by a few µs: GPU work seems to start before its launch call."""
    return steps(3, lambda at, n: [e for i in range(4) for e in pair("k", at + 50 * i, 20, next(n), after=-3)])


@kineto
def one_event() -> list[Event]:
    return [gpu("k", 5, 10, 1)]


@kineto
def calls_alone() -> list[Event]:
    return steps(3, lambda at, n: [call(at + 10, next(n)), call(at + 20, next(n), "cudaGraphLaunch")])


@kineto
def replays_nobody_recorded() -> list[Event]:
    def body(at: float, n: Iterator[int]) -> list[Event]:
        return [
            *pair("prepare", at + 10, 20, next(n)),
            call(at + 50, next(n), "cudaGraphLaunch", dur=10),
            call(at + 100, 0, "cudaStreamSynchronize", dur=300),
            *pair("sample", at + 450, 20, next(n)),
        ]

    return steps(4, body)


@kineto
def negative_times_and_lengths() -> list[Event]:
    events = steps(3, lambda at, n: pair("k", at + 10, 50, next(n)))
    shifted = [e | {"ts": e["ts"] - 5000} for e in events]
    return [*shifted, gpu("bad", 10, -5, 99), gpu("worse", None, 5, 98), gpu("nan", "NaN", 5, 97)]


@kineto
def a_thousand_streams() -> list[Event]:
    return steps(3, lambda at, n: [e for i in range(300) for e in pair("k", at + i, 10, next(n), stream=i)])

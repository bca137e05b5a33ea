"""A job of many ranks built by hand: every layer computes, then all ranks meet in an all-reduce."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from traceql.testing import TraceBuilder
from traceql.trace import Trace

COMPUTE_US, TRANSFER_US, LAYERS = 50.0, 8.0, 8
_ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def job(
    ranks: int,
    *,
    steps: int = 5,
    slower_us: Callable[[int], float] = lambda rank: 0.0,
    missed: Callable[[int], int] = lambda rank: 0,
    clock_error_us: float = 300.0,
    drift_ppm: float = 0.0,
    clocks: bool = True,
    first_rank: int = 0,
    group: str | None = "tp",
    seed: int = 0,
) -> list[Trace]:
    """Traces of ``ranks``; in each layer rank r computes ``slower_us(r)`` longer than the others.

    Wall clocks are off by up to ``clock_error_us``, and odd ranks' run faster by ``drift_ppm``; rank r's capture lacks
    the first ``missed(r)`` collectives. ``group`` None: the files do not name the process group.
    """
    draw = random.Random(seed)
    origins = [1_000_000.0 + draw.uniform(0, 400) for _ in range(ranks)]
    errors = [draw.uniform(-clock_error_us, clock_error_us) for _ in range(ranks)]
    builders = [
        TraceBuilder(
            rank=first_rank + rank,
            clock_us=origins[rank] + errors[rank] if clocks else None,
            path=Path(f"job-rank{first_rank + rank}.json"),
        )
        for rank in range(ranks)
    ]
    speed = [1 + drift_ppm * 1e-6 * (rank % 2) for rank in range(ranks)]
    done, now = [0] * ranks, 1_001_000.0
    for _ in range(steps):
        begin = now
        for _ in range(LAYERS):
            arrivals = [now + COMPUTE_US + slower_us(rank) + draw.uniform(0, 3) for rank in range(ranks)]
            end = max(arrivals) + TRANSFER_US
            for rank, arrival in enumerate(arrivals):
                done[rank] += 1
                if done[rank] <= missed(rank):
                    continue
                start = (now - origins[rank]) * speed[rank]
                wait = (end - arrival) * speed[rank] + draw.uniform(-0.2, 0.2)
                _layer(builders[rank], start, (arrival - now) * speed[rank], wait, group)
            now = end + 1
        for rank, builder in enumerate(builders):
            if done[rank] > missed(rank):
                builder.range("step[DECODE bs=8]", (begin - origins[rank]) * speed[rank] - 20, now - begin)
        now += 20
    return [builder.trace() for builder in builders]


def _layer(build: TraceBuilder, start_us: float, compute_us: float, wait_us: float, group: str | None) -> None:
    build.launch("gemm", call_us=start_us - 15, call_dur_us=2, gpu_us=start_us, gpu_dur_us=compute_us)
    stated = {"name": "allreduce", "in_elements": 32768, "dtype": "BFloat16", "group": group}
    build.launch(
        _ALL_REDUCE, call_us=start_us - 12, call_dur_us=2, gpu_us=start_us + compute_us, gpu_dur_us=wait_us,
        collective=stated if group else None,
    )  # fmt: skip

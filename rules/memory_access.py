"""
## What it does
Finds profiled kernels whose way of using memory and registers costs them: loads that use little of what they fetch,
registers spilled to memory, an occupancy too low to hide the waiting.

## Why it matters
Global memory moves in sectors of 32 bytes. A load that uses 12 of them fetches almost three times what it needs, and a
kernel "at 45 % of the bandwidth" is then moving mostly waste. Spilled registers are memory traffic that nobody
wrote. Few resident warps leave the schedulers with nothing to issue while those wait.

## How it is measured
From Nsight Compute's counters, for kernels with at least `min-share-pct` of the time (of the timeline's kernel time where
the report was joined to one, else of the profiled kernels):

- **coalescing**: bytes used of each sector touched by global loads (or stores), below `min-coalescing-pct`;
- **spills**: local-memory requests that come from register spilling, at least `min-spill-requests-count`;
- **occupancy**: theoretical occupancy below `min-occupancy-pct`, with the resource that limits it. Only where it matters:
  the kernel is under `max-throughput-pct` of both the compute and the memory throughput, and its data comes through
  ordinary loads. Kernels that copy through the tensor memory accelerator hide latency with their pipeline, not with
  warps: they run at 19 % occupancy by design and reach 80 % of the bandwidth.

Half a sector and half of the warps are where at least half of the traffic, or of the chance to hide a wait, is lost. 60 %
is below what Nsight Compute calls limited by a unit. Any spill counts: a kernel at a register limit usually has none.

## Known problems
Loads that go through L1 twice may use the rest of a sector on the second visit: look at the L1 hit rate beside. A gather of
rows narrower than a sector cannot do better.

## How to fix
Neighbouring threads should load neighbouring addresses, 16 bytes each; lay the data out for that or transpose it through
shared memory. For spills: fewer live values, smaller tiles, `__launch_bounds__`. For occupancy: less of the limiting
resource a block.

## References
Nsight Compute Profiling Guide; CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from traceql.derived.ncu_join import launch_shape, weighted
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.trace import Trace

Fault = Literal["load coalescing", "store coalescing", "register spills", "occupancy"]

_ADVICE: dict[Fault, str] = {
    "load coalescing": "Let neighbouring threads load neighbouring addresses, 16 bytes each, or stage through shared memory.",
    "store coalescing": "Let neighbouring threads store to neighbouring addresses, or collect the output in shared memory.",
    "register spills": "Fewer live values: smaller tiles, less unrolling, or __launch_bounds__ with fewer blocks an SM.",
    "occupancy": "Use less of the limiting resource a block, or prefetch deeper so that fewer warps suffice.",
}
_COUNTERS = ["coalescing_pct", "store_coalescing_pct", "spill_requests", "theoretical_occupancy_pct"]


class MemoryAccess(Rule):
    code = "TQL406"
    name = "memory-access"
    summary = "A profiled kernel wastes memory traffic, spills registers or has too few warps."
    severity = Severity.INFO
    needs = ("ncu",)

    @dataclass(frozen=True)
    class Options:
        min_coalescing_pct: float = option(50.0, "used bytes of the sectors touched")
        min_spill_requests_count: float = option(1, "local-memory requests from register spills")
        min_occupancy_pct: float = option(50.0, "theoretical occupancy")
        max_throughput_pct: float = option(60.0, "a kernel closer to a ceiling has warps enough")
        min_share_pct: float = option(2.0, "share of the time a kernel must have")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        kernels = weighted(trace)
        if all(kernels[column].null_count() == kernels.height for column in _COUNTERS):
            raise NotApplicableError("the report has no memory or occupancy counters; record them: ncu --set full")
        for row in kernels.rows(named=True):
            if row["share_pct"] >= options.min_share_pct:
                faults = _faults(row, options)
                if faults:
                    yield self._finding(row, faults)

    def _finding(self, row: dict[str, Any], faults: dict[Fault, str]) -> Finding:
        return self.finding(
            f"{row['short_name']} {' and '.join(faults.values())}.",
            key=(row["short_name"], launch_shape(row), *faults),
            subject=row["short_name"],
            evidence={
                "faults": ", ".join(faults),
                "coalescing_pct": row["coalescing_pct"],
                "store_coalescing_pct": row["store_coalescing_pct"],
                "spill_requests_count": row["spill_requests"],
                "local_memory_bytes": row["local_memory_bytes"],
                "theoretical_occupancy_pct": row["theoretical_occupancy_pct"],
                "achieved_occupancy_pct": row["achieved_occupancy_pct"],
                "occupancy_limiter": row["occupancy_limiter"],
                "registers_per_thread_count": row["registers_per_thread"],
                "shared_memory_bytes": row["shared_memory_bytes"],
                "l1_hit_pct": row["l1_hit_pct"],
                "l2_hit_pct": row["l2_hit_pct"],
                "memory_throughput_pct": row["memory_throughput_pct"],
                "launch": launch_shape(row),
                "ncu_us": row["dur_ns"] / 1000,
                "share_of_time_pct": row["share_pct"],
            },
            advice=[_ADVICE[fault] for fault in faults],
        )


def _faults(row: dict[str, Any], options: MemoryAccess.Options) -> dict[Fault, str]:
    """Fault → what to say of it."""
    found: dict[Fault, str] = {}
    loads, stores = row["coalescing_pct"], row["store_coalescing_pct"]
    if loads is not None and loads < options.min_coalescing_pct:
        found["load coalescing"] = f"uses {loads:.0f} % of the bytes its global loads move"
    if stores is not None and stores < options.min_coalescing_pct:
        found["store coalescing"] = f"uses {stores:.0f} % of the bytes its global stores move"
    spills = row["spill_requests"]
    if spills is not None and spills >= options.min_spill_requests_count:
        found["register spills"] = f"spills registers to memory in {spills:,} requests"
    if _occupancy_matters(row, options):
        limiter = f", limited by {row['occupancy_limiter']}" if row["occupancy_limiter"] else ""
        found["occupancy"] = f"has {row['theoretical_occupancy_pct']:.0f} % occupancy at most{limiter}"
    return found


def _occupancy_matters(row: dict[str, Any], options: MemoryAccess.Options) -> bool:
    """Whether few warps can be what keeps the kernel from its ceilings."""
    occupancy = row["theoretical_occupancy_pct"]
    busiest = max(row["sm_throughput_pct"] or 0.0, row["memory_throughput_pct"] or 0.0)
    ordinary_loads = row["coalescing_pct"] is not None
    low = occupancy is not None and occupancy < options.min_occupancy_pct
    return low and busiest < options.max_throughput_pct and ordinary_loads

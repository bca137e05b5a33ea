"""
## What it does
Finds compilation within the measured steps: TorchDynamo and Inductor compiling, Triton kernels compiling or
autotuning, C++ extensions building, the driver loading modules.

## Why it matters
A compile takes from a tenth of a second to minutes and happens on the thread that runs the step. A graph that is
recompiled whenever a shape changes does so again and again in production.

## How it is measured
Frames, ranges and API calls on the threads that run steps are matched by what compilers name their phases; nested
ones count once, with the outermost. A step's compile time is that of the activities that began in its period. The
rule fires when a step has `min-compile-us` or more. Looking up a compiled graph or kernel ("TorchDynamo Cache
Lookup", `compute_cache_key`), running a compiled region and launching a Triton kernel are not compilation. "Lazy
Function Loading" rows of the driver are shown as evidence and never fire the rule: a kernel that runs for the first
time is loaded, compiled or not.

`min-compile-us` is 1000: lookups in the captures took up to 1,109 µs and are not matched; anything shorter than a
millisecond would not be worth a warm-up.

No saving is estimated: a step that compiles is a step-outlier (TQL108), which counts the time.

## Known problems
Without Python stacks only ranges and API calls can tell. Compilation in another process or in a pool of workers
shows as an unexplained wait.

## How to fix
Warm up every shape that will be served before measuring (and before going live); mark dynamic dimensions
(`torch._dynamo.mark_dynamic`, `dynamic=True`); keep the compile caches (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR)
across restarts; `TORCH_LOGS=recompiles` says why.

## References
PyTorch documentation, "torch.compile Troubleshooting" and "Dealing with Recompilations".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.compilation import compilations, loadings
from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import Rule, option
from traceql.trace import Trace
from traceql.wording import counted, duration


class Recompilation(Rule):
    code = "TQL304"
    name = "recompilation"
    summary = "Code is compiled, tuned or loaded within the measured steps."
    severity = Severity.WARNING
    needs = ("host_calls", "steps")

    @dataclass(frozen=True)
    class Options:
        min_compile_us: float = option(1000.0, "compile time that began in one step's period")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        total = pl.col("dur_ns").sum().over("step_id")
        found = compilations(trace).filter(total >= options.min_compile_us * 1000)
        if not found.is_empty():
            yield self._finding(trace, found)

    def _finding(self, trace: Trace, found: pl.DataFrame) -> Finding:
        by_what = (
            found.group_by("what", "name")
            .agg(times=pl.len(), total=pl.col("dur_ns").sum(), steps=pl.col("step_id").n_unique())
            .sort(pl.col("total") * -1, "what", "name")
        )
        per_step = found.group_by("step_id").agg(pl.col("dur_ns").sum()).sort(pl.col("dur_ns") * -1, "step_id")
        worst = found.sort(pl.col("dur_ns") * -1, "start_ns").row(0, named=True)
        top = by_what.row(0, named=True)
        names = steps(trace).select("step_id", "name")
        total = int(found["dur_ns"].sum())
        first, last = found["start_ns"].min(), found["end_ns"].max()
        loaded = loadings(trace).filter(pl.col("start_ns").is_between(first, last))
        return self.finding(
            f"Code is compiled or loaded in {per_step.height} of {counted(names.height, 'step')}, for {duration(total)}; "
            f"most by {top['what']} ({top['name']}, {counted(top['times'], 'time')}).",
            key=(top["what"],),
            subject=top["name"],
            step_id=worst["step_id"],
            start_ns=worst["start_ns"],
            end_ns=worst["end_ns"],
            evidence={
                "steps_compiling": per_step.height,
                "steps": names.height,
                "compile_ms": total / 1e6,
                "driver_loads_meanwhile": loaded.height,
                "by_activity": [
                    {"what": what, "name": name, "times": times, "ms": ns / 1e6, "steps": n}
                    for what, name, times, ns, n in by_what.head(8).rows()
                ],
                "by_step": [
                    {"step_id": step_id, "step": name, "ms": ns / 1e6}
                    for step_id, ns, name in per_step.head(8)
                    .join(names, on="step_id", how="left", maintain_order="left")
                    .rows()
                ],
            },
            advice=[
                "Warm up every shape before measuring, and keep the compile caches across restarts.",
                "If it happens again at every change of shape, mark that dimension dynamic; TORCH_LOGS=recompiles "
                "names the guard.",
            ],
        )

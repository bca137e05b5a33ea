"""Small reports made by hand: their findings do not come from rules, so that a rule's wording changes no golden file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from traceql.engine import Outcome
from traceql.finding import Finding, Severity, fingerprint
from traceql.reporting import Report
from traceql.testing import TraceBuilder
from traceql.trace import Trace


def small_trace(path: str = "small.trace.json", *, rank: int | None = None, kernel: str = "gemm_kernel") -> Trace:
    """Three decode steps of batch 8, 1 ms apart: in each two kernels, 400 µs of host time before the second."""
    build = TraceBuilder(rank=rank)
    for start in (0, 1000, 2000):
        build.range("step[DECODE bs=8]", start, 900)
        build.op("aten::mm", start + 5, 20, shapes=[[8, 4096], [4096, 4096]], dtypes=["c10::BFloat16", "c10::BFloat16"])
        build.launch(kernel, call_us=start + 10, gpu_us=start + 20, gpu_dur_us=100)
        build.op("aten::slow_op", start + 130, 390)
        build.launch("rms_norm_kernel", call_us=start + 510, gpu_us=start + 520, gpu_dur_us=30)
    build.metadata("cuda_driver_version", "13000")
    return replace(build.trace(), path=Path(path))


def long_trace(kernels: int) -> Trace:
    """One step of ``kernels`` short kernels, each with its operator, its launch call and a gap before it."""
    build = TraceBuilder()
    build.range("step[DECODE bs=8]", 0, kernels * 20)
    for at in range(0, kernels * 20, 20):
        build.op("aten::mm", at + 1, 15)
        build.launch(f"kernel_{at % 7}", call_us=at + 4, call_dur_us=3, gpu_us=at + 9, gpu_dur_us=6)
    return build.trace()


def opaque_trace() -> Trace:
    """Decode steps whose replays left no record."""
    build = TraceBuilder("nsys")
    for start in (0, 1000, 2000):
        build.range("step[DECODE bs=8]", start, 900)
        build.launch("plan_kernel", call_us=start + 10, gpu_us=start + 20, gpu_dur_us=5)
        build.graph([], call_us=start + 50)
        build.call("cudaStreamSynchronize", start + 70, 700)
    return build.trace()


def finding(
    message: str = "The GPU waits 400 µs a step for the host, longest under aten::slow_op.", **changes: object
) -> Finding:
    """A finding with every sort of evidence."""
    made = Finding(
        code="TQL101",
        rule="launch-gap",
        severity=Severity.WARNING,
        message=message,
        start_ns=1_120_000,
        end_ns=1_520_000,
        step_id=1,
        subject="aten::slow_op",
        evidence={
            "launch_gap_us_per_step": 400.0,
            "share_of_period_pct": 40.0,
            "steps": 3,
            "range_us_per_step": [400.0, 400.0],
            "gpu": "NVIDIA H200",
            "absent": None,
            "by_cause": [
                {"cause": "host", "gaps": 3, "us_per_step": 390.1234},
                {"cause": "launch", "gaps": 3, "us_per_step": 9.9},
            ],
            "worst_gaps": [
                {"start_ns": 1_120_000, "gap_us": 400.0, "before": "gemm_kernel", "after": "rms_norm_kernel"}
            ],
        },
        estimated_savings_us_per_step=400.0,
        advice=("Capture the step in a CUDA graph.", "Record with `--cuda-graph-trace=node`."),
        fingerprint=fingerprint("TQL101", "decode"),
        certainty="modelled",
        source_time_s=0.00112,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def info_finding(**changes: object) -> Finding:
    """A second finding, of another rule and severity, without a saving."""
    return replace(
        finding("Memory-bound GEMMs take 77 % of the GPU time."),
        code="TQL401", rule="memory-bound-gemm", severity=Severity.INFO, start_ns=20_000, end_ns=120_000, step_id=0,
        subject="aten::mm", evidence={"share_of_gpu_busy_pct": 76.923}, estimated_savings_us_per_step=None,
        advice=("A larger batch.",), fingerprint=fingerprint("TQL401"), certainty="exact", source_time_s=0.00002, **changes,
    )  # fmt: skip


def report_of(*traces: Trace, findings: tuple[Finding, ...] | None = None, unreadable: tuple[str, ...] = ()) -> Report:
    """A report of the traces; the findings belong to the trace each names."""
    found = (finding(), info_finding()) if findings is None else findings
    outcomes = tuple(
        (
            *(Outcome(f.code, f.rule, "failed", findings=(f,)) for f in found if f.trace == index),
            Outcome("TQL201", "graph-segment-boundary", "not_applicable", "no CUDA graph replay in the trace"),
            Outcome("TQL901", "incomplete-trace", "passed"),
            Outcome("TQL999", "broken-rule", "error", "ValueError: by design"),
        )
        for index in range(len(traces))
    )
    return Report(traces, outcomes, unreadable)


def small_report() -> Report:
    """The report of the golden files."""
    return report_of(small_trace(), unreadable=("other.json: not a trace",))

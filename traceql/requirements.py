"""What rules need of a trace, and which flag would have recorded it."""

from __future__ import annotations

from traceql.rule import Need
from traceql.trace import Trace

_HOW_TORCH = {
    "gpu_rows": "profile with ProfilerActivity.CUDA",
    "host_calls": "profile with ProfilerActivity.CPU and CUDA together",
    "launch_links": "profile with ProfilerActivity.CPU and CUDA together",
    "cpu_ops": "profile with ProfilerActivity.CPU",
    "shapes": "record_shapes=True (SGLang: --profile-record-shapes)",
    "python_stacks": "with_stack=True",
    "annotations": "mark steps with torch.profiler.record_function",
    "steps": "mark steps with torch.profiler.record_function, or profile at least three steps",
}
_HOW_NSYS = {
    "gpu_rows": "nsys profile -t cuda",
    "host_calls": "nsys profile -t cuda",
    "launch_links": "nsys profile -t cuda",
    "cpu_ops": "capture with the PyTorch profiler; Nsight Systems does not record them",
    "shapes": "capture with the PyTorch profiler; Nsight Systems does not record them",
    "python_stacks": "nsys profile --python-sampling=true, or a PyTorch profiler trace with with_stack=True",
    "annotations": "nsys profile -t cuda,nvtx (SGLang: --enable-layerwise-nvtx-marker)",
    "steps": "nsys profile -t cuda,nvtx with a range around each step, or capture at least three steps",
    "replay_nodes": "nsys profile --cuda-graph-trace=node",
}
_NAMES: dict[Need, str] = {
    "gpu_rows": "GPU work",
    "host_calls": "CUDA API calls",
    "launch_links": "links from launch calls to GPU work",
    "cpu_ops": "operators",
    "shapes": "operator shapes",
    "python_stacks": "Python stacks",
    "annotations": "named ranges",
    "steps": "steps",
    "graph_replays": "CUDA graph replays",
    "replay_nodes": "kernels of CUDA graph replays",
    "ncu": "Nsight Compute counters",
}
_WHAT = {
    "gpu_rows": "no GPU work in the trace",
    "host_calls": "no CUDA API calls in the trace",
    "launch_links": "GPU work is not linked to launch calls",
    "cpu_ops": "no framework operators in the trace",
    "shapes": "no operator input shapes in the trace",
    "python_stacks": "no Python stacks in the trace",
    "annotations": "no named ranges in the trace",
    "steps": "no steps found in the trace",
    "graph_replays": "no CUDA graph replay in the trace",
    "replay_nodes": "CUDA graph replays were recorded without their kernels",
    "ncu": "no Nsight Compute counters; record the kernels with ncu --set full and join the report with --ncu",
}


_NO_TIMELINE = "Nsight Compute reports have no timeline; give the report together with a capture that has one"


def name_of(need: Need) -> str:
    """What the need is called in messages."""
    return _NAMES[need]


def missing(trace: Trace, needs: tuple[Need, ...]) -> str | None:
    """Why a rule with these needs does not apply to ``trace``, with the remedy; None when it does."""
    for need in needs:
        if lacks(trace, need):
            if trace.source == "ncu":
                return _NO_TIMELINE
            how = how_to_record(trace, need)
            return f"{_WHAT[need]}; to record it: {how}" if how else _WHAT[need]
    return None


def how_to_record(trace: Trace, need: Need) -> str | None:
    """The profiler flag that records ``need`` for this trace's source; None where there is none."""
    return (_HOW_TORCH if trace.source == "torch_profiler" else _HOW_NSYS).get(need)


def lacks(trace: Trace, need: Need) -> bool:
    """Whether ``trace`` did not record ``need``."""
    has = trace.capabilities
    if need == "steps":
        return trace.table("steps").is_empty()
    if need == "ncu":
        return trace.loaded["ncu_kernels"].is_empty()
    if need == "shapes" and trace.eager is not None:
        return lacks(trace.eager, need)
    if need == "graph_replays":
        return has.graph_replays is None
    if need == "replay_nodes":
        return has.graph_replays not in ("node", "mixed")
    return not getattr(has, need)

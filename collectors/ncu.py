"""Nsight Compute: kernels by component, the command, and the permission its counters need."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .command import Command
from .problems import COUNTERS_FIX, Problem
from .software import Tool, dotted, ncu_cuda, parse_version

PRESETS = {
    "attention": r"[aA]ttention|fmha|flash_fwd|flash_attn|PagedKV|Decode|Prefill|mla|_fwd_kernel_stage|MergeStates",
    "gemm": r"gemm|GEMM|nvjet|cutlass|xmma|gemv|splitK|ampere_|sm80_|sm90_|sm100_",
    "norm": r"[Nn]orm",
    "communication": r"nccl|all_?reduce|cross_device_reduce|all_?gather|reduce_?scatter|multimem|oneshot|twoshot",
    "all": r"gemm|GEMM|nvjet|cutlass|xmma|[aA]ttention|fmha|flash|PagedKV|Decode|Prefill|mla|[Nn]orm|act_and_mul"
    r"|rope|rotary|Rotary|store|MergeStates|_fwd_kernel_stage",
}
"""Component → regular expression over kernel names of SGLang, FlashInfer, Triton, cuBLAS, CUTLASS and NCCL."""

DEFAULT_COUNT = 16
_CAP_SYS_ADMIN = 21  # linux/capability.h


def command(
    tool: Tool,
    program: Command,
    output: Path,
    *,
    kernels: str | None,
    count: int = DEFAULT_COUNT,
    skip: int = 0,
    metrics: str = "full",
    from_start: bool = True,
) -> Command:
    """``program`` under ncu. ``output`` is the report's path without its suffix; ``kernels`` a regular expression.

    Clocks are left alone: locked clocks measure another machine than the one that serves.
    """
    words = [tool.path, "--set", metrics, "--clock-control", "none", "--target-processes", "all"]
    if not from_start:
        words += ["--profile-from-start", "off"]
    if kernels:
        words += ["--kernel-name", f"regex:{kernels}"]
    if skip:
        words += ["--launch-skip", str(skip)]
    return program.wrapped_in(*words, "--launch-count", str(count), "--force-overwrite", "--export", str(output))


def missing(tool: Tool | None) -> Problem | None:
    """Whether ncu is there."""
    if tool is None:
        return Problem(
            "ncu is not installed",
            "install Nsight Compute (part of the CUDA toolkit: cuda-nsight-compute) and put ncu on PATH",
        )
    return None


def fit(tool: Tool, driver_cuda: str | None) -> Problem | None:
    """Why this ncu does not fit the driver: a driver newer by a major CUDA version is refused."""
    cuda, version = parse_version(driver_cuda), tool.version
    known = ncu_cuda(version) if version else None
    if cuda is not None and known is not None and known[0] < cuda[0]:
        return Problem(
            f"ncu {tool.text} knows CUDA up to {dotted(known)}, the driver runs {dotted(cuda)}",
            "install the Nsight Compute of the driver's CUDA toolkit",
        )
    return None


def permission(
    params: Path = Path("/proc/driver/nvidia/params"), status: Path = Path("/proc/self/status")
) -> Problem | None:
    """Why the counters may not be read: the driver keeps them for administrators and this process is none."""
    try:
        restricted = re.search(r"RmProfilingAdminOnly:\s*1", params.read_text(encoding="utf-8"))
    except OSError:
        return None
    if not restricted or _is_administrator(status):
        return None
    return Problem("the driver keeps performance counters for administrators (RmProfilingAdminOnly: 1)", COUNTERS_FIX)


def _is_administrator(status: Path) -> bool:
    try:
        found = re.search(r"CapEff:\s*([0-9a-f]+)", status.read_text(encoding="utf-8"))
    except OSError:
        return os.geteuid() == 0
    return bool(found and int(found.group(1), 16) >> _CAP_SYS_ADMIN & 1)


def collectives_problem(tp: int) -> Problem | None:
    """Why ncu cannot measure the collectives of several ranks: it replays one while the others wait, without end."""
    if tp > 1:
        return Problem(
            "ncu replays kernels one rank at a time, and a collective waits for the others: it would hang",
            "record communication with torch or nsys (--profiler torch)",
        )
    return Problem("one GPU runs no collective", "choose another --preset")

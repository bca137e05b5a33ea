"""Mini-SGLang: one static batch through its offline engine, recorded by the injected profiler or by nsys."""

from __future__ import annotations

from pathlib import Path

from . import mini_sglang_load
from .command import Command
from .manifest import Workload
from .software import Interpreter

STEP = "minisgl.engine.engine:Engine.forward_batch"
MODES = ("eager", "graph")

_WARM_UP_TOKENS = 4


def command(target: Interpreter, workload: Workload, mode: str, model_path: str) -> Command:
    """The decode script in the target Python; its graphs go up to the batch, or are off."""
    argv = [
        target.executable, str(Path(mini_sglang_load.__file__).resolve()), "--model", model_path,
        "--batch-size", str(workload.batch_size), "--input-len", str(workload.input_len),
        "--output-len", str(workload.output_len),
        "--cuda-graph-max-bs", str(workload.batch_size if mode == "graph" else 0),
    ]  # fmt: skip
    if workload.attention_backend:
        argv += ["--attention-backend", workload.attention_backend]
    if workload.dummy_weights:
        argv.append("--dummy-weights")
    return Command((*argv, *workload.extra))


def skip(workload: Workload) -> int:
    """Engine steps before the recorded ones: the warm-up, the batch's prefill in chunks, and a few decode steps."""
    prefill_chunks = -(-(workload.batch_size or 1) * (workload.input_len or 1) // 8192) + 1
    return prefill_chunks + _WARM_UP_TOKENS + prefill_chunks + 6

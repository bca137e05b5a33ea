"""Small decode traces as files in the PyTorch profiler's format, with every cost to be set: for gates and comparisons."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Decode:
    """A decode run: ``steps`` steps of ``layers`` layers, each the kernels of ``layer`` (name → µs), launched one by one
    every ``host_us`` of host time, or as one graph replay a step."""

    steps: int = 4
    layers: int = 4
    layer: dict[str, float] = field(
        default_factory=lambda: {"gemm_qkv": 30.0, "attention_kernel": 12.0, "rms_norm": 4.0}
    )
    host_us: float = 60.0
    between_us: float = 50.0
    graph: bool = False
    batch_size: int = 8
    gpu: str = "NVIDIA H200"
    world_size: int = 1
    copies: int = 1

    def events(self) -> list[dict[str, Any]]:
        """The trace events of the run."""
        self_events: list[dict[str, Any]] = []
        now, correlation = 1000.0, 1
        gpu_free = 0.0

        def add(cat: str, name: str, ts: float, dur: float, **args: Any) -> None:
            on_gpu = cat in ("kernel", "gpu_memcpy")
            place = {"pid": 0, "tid": 7} if on_gpu else {"pid": 100, "tid": 100}
            event = {
                "ph": "X",
                "cat": cat,
                "name": name,
                "ts": round(ts, 3),
                "dur": round(dur, 3),
                **place,
                "args": args,
            }
            self_events.append(event)

        def run(name: str, after: float, dur: float, number: int) -> None:
            nonlocal gpu_free
            start = max(after, gpu_free)
            where = {"device": 0, "stream": 7, "correlation": number}
            if name == "memcpy":
                add("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", start, dur, bytes=4096, **where)
            else:
                add("kernel", name, start, dur, grid=[132, 1, 1], block=[128, 1, 1], **where)
            gpu_free = start + dur

        for _ in range(self.steps):
            begin = now
            work = [(name, us) for _ in range(self.layers) for name, us in self.layer.items()] + [
                ("argmax_sample", 5.0)
            ]
            for _ in range(self.copies):
                add("cuda_runtime", "cudaMemcpyAsync", now, 4.0, correlation=correlation)
                run("memcpy", now + 6.0, 2.0, correlation)
                now, correlation = now + 10.0, correlation + 1
            if self.graph:
                add("cuda_runtime", "cudaGraphLaunch", now, 20.0, correlation=correlation)
                for name, us in work:
                    run(name, now + 22.0, us, correlation)
                now, correlation = now + 30.0, correlation + 1
            else:
                for name, us in work:
                    now += self.host_us
                    add("cuda_runtime", "cudaLaunchKernel", now - 5.0, 4.0, correlation=correlation)
                    run(name, now + 1.0, us, correlation)
                    correlation += 1
            add("user_annotation", f"step[DECODE bs={self.batch_size}]", begin, now - begin)
            now = max(now, gpu_free) + self.between_us
        return self_events

    def write(self, path: Path) -> Path:
        """The run as a .json or .json.gz file."""
        document = {
            "schemaVersion": 1,
            "deviceProperties": [{"id": 0, "name": self.gpu, "totalGlobalMem": 150109880320, "numSms": 132}],
            "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": self.world_size},
            "displayTimeUnit": "ms",
            "traceEvents": self.events(),
        }
        text = json.dumps(document).encode()
        path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
        return path

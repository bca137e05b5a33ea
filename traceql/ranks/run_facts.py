"""What a run directory's manifest says of the GPUs a trace ran on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

_MANIFEST = "manifest.json"
_LEVELS = 3
"""A trace lies in its run directory or in a stage's folder inside it."""


@dataclass(frozen=True)
class RunFacts:
    """Links and workload of a recorded run, None or empty for what the manifest does not say.

    ``links``: (GPU, GPU) → link as ``nvidia-smi topo -m`` names it. ``numa``: GPU → NUMA node. ``gpus``: those of the
    tensor-parallel group. ``step_ms``: the step without a profiler, by mode (eager, graph).
    """

    folder: str
    tp: int | None = None
    batch_size: int | None = None
    gpus: tuple[int, ...] = ()
    topology: str | None = None
    links: tuple[tuple[int, int, str], ...] = ()
    numa: tuple[tuple[int, str], ...] = ()
    step_ms: tuple[tuple[str | None, float], ...] = ()

    def group(self) -> tuple[int, ...]:
        """The GPUs of the tensor-parallel group: as stated, else all of the machine when the group takes them all."""
        known = sorted({gpu for a, b, _ in self.links for gpu in (a, b)})
        return self.gpus or (tuple(known) if self.tp == len(known) else ())

    def group_links(self) -> tuple[tuple[int, int, str], ...]:
        """The links between the GPUs of the group."""
        pairs = set(combinations(sorted(self.group()), 2))
        return tuple((a, b, link) for a, b, link in self.links if (a, b) in pairs)


def run_folder(trace: Path) -> Path | None:
    """The run directory a trace file lies in: the nearest folder above it with a manifest."""
    for folder in list(trace.absolute().parents)[:_LEVELS]:
        if (folder / _MANIFEST).is_file():
            return folder
    return None


def run_facts(trace: Path) -> RunFacts | None:
    """The facts of the run a trace belongs to; None without a readable manifest."""
    folder = run_folder(trace)
    if folder is None:
        return None
    try:
        content = msgspec.json.decode((folder / _MANIFEST).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(content, dict) or content.get("kind", "run") != "run":
        return None
    workload, machine = (_mapping(content.get(key)) for key in ("workload", "machine"))
    return RunFacts(
        folder=folder.name,
        tp=_number(workload.get("tp")),
        batch_size=_number(workload.get("batch_size")),
        gpus=tuple(gpu for gpu in workload.get("gpus") or () if isinstance(gpu, int)),
        topology=workload.get("topology"),
        links=tuple(_links(_mapping(machine.get("topology")))),
        numa=tuple(
            (number, str(node))
            for gpu, node in _mapping(machine.get("numa")).items()
            if (number := _gpu(gpu)) is not None
        ),
        step_ms=tuple(_latencies(content.get("stages"))),
    )


def _links(topology: dict[str, Any]) -> list[tuple[int, int, str]]:
    found = []
    for one, others in topology.items():
        for other, link in _mapping(others).items():
            a, b = _gpu(one), _gpu(other)
            if a is not None and b is not None and a < b:
                found.append((a, b, str(link)))
    return sorted(found)


def _latencies(stages: Any) -> list[tuple[str | None, float]]:
    rows = [stage for stage in stages or () if isinstance(stage, dict)]
    found = ((stage.get("mode"), _mapping(stage.get("latency"))) for stage in rows)
    return [(mode, float(latency["median_ms"])) for mode, latency in found if latency.get("median_ms")]


def _gpu(name: str) -> int | None:
    digits = name.removeprefix("GPU")
    return int(digits) if digits.isdigit() else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None

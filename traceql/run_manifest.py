"""What a run directory's manifest says of its traces: the unprofiled step time, and which traces are one pair."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import polars as pl

from traceql.trace import Trace

UNPROFILED = "unprofiled_step_ms"
"""Metadata key of the unprofiled step time of a trace's own mode, ms."""


class _Latency(msgspec.Struct):
    what: str | None = None
    median_ms: float | None = None


class _File(msgspec.Struct):
    path: str


class _Stage(msgspec.Struct):
    mode: str | None = None
    latency: _Latency | None = None
    files: list[_File] = msgspec.field(default_factory=list)


class _Manifest(msgspec.Struct):
    stages: list[_Stage] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class RunManifest:
    """Mode of each trace file (path relative to the run) and the unprofiled decode step of each mode, ms."""

    folder: Path
    modes: dict[str, str] = field(default_factory=dict)
    unprofiled_ms: dict[str, float] = field(default_factory=dict)

    def mode(self, trace: Trace) -> str | None:
        """``eager``, ``graph`` or ``piecewise``; None for a file the manifest does not list."""
        try:
            return self.modes.get(trace.path.resolve().relative_to(self.folder.resolve()).as_posix())
        except ValueError:
            return None


def read(folder: Path) -> RunManifest | None:
    """The manifest of a run directory; None where there is none or it cannot be read: the traces still open."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return None
    modes = {file.path: stage.mode for stage in manifest.stages if stage.mode for file in stage.files}
    latency = {
        stage.mode: stage.latency.median_ms
        for stage in manifest.stages
        if stage.mode and stage.latency and stage.latency.median_ms and stage.latency.what == "decode step"
    }
    return RunManifest(folder, modes, latency)


def noted(traces: list[Trace], manifest: RunManifest) -> list[Trace]:
    """``traces`` of one run with what the manifest knows: unprofiled step times, and replays named by the eager twin."""
    named = [_with_latency(trace, manifest) for trace in traces]
    eager = {t.rank: t for t in named if t.source == "torch_profiler" and manifest.mode(t) == "eager"}
    return [_with_twin(t, eager.get(t.rank)) if manifest.mode(t) == "graph" else t for t in named]


def _with_latency(trace: Trace, manifest: RunManifest) -> Trace:
    milliseconds = manifest.unprofiled_ms.get(manifest.mode(trace) or "")
    if milliseconds is None:
        return trace
    row = pl.DataFrame(
        {"rank": [trace.rank], "key": [UNPROFILED], "value": [f"{milliseconds:g}"]}, trace.loaded["metadata"].schema
    )
    return replace(trace, loaded={**trace.loaded, "metadata": pl.concat([trace.loaded["metadata"], row])}, _memo={})


def _with_twin(trace: Trace, eager: Trace | None) -> Trace:
    from traceql.derived.alignment import comparable

    if eager is None or trace.source != "torch_profiler" or comparable(trace, eager) is not None:
        return trace
    return replace(trace, eager=eager, _memo={})

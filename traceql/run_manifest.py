"""What a run directory's manifest says of its traces: the unprofiled step time, and which traces are one pair."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Annotated

import msgspec
import polars as pl

from traceql.dtypes import dtype_class
from traceql.trace import Trace

UNPROFILED = "unprofiled_step_ms"
"""Metadata key of the unprofiled step time of a trace's own mode, ms."""

MODE = "run.mode"
"""Metadata key of the mode the run was recorded in: eager, graph or piecewise."""

FILE = "run.file"
"""Metadata key of a trace's path below its run directory."""

SEQUENCE = "sequence_tokens"
"""Metadata key of the tokens that every sequence has in a trace's first decode step, where the run decodes one batch."""

MEASURED = "measured_peak."
"""Metadata keys of measured peaks: ``bandwidth`` in bytes/s, and types in operations/s, behind it."""


class _Latency(msgspec.Struct):
    what: str | None = None
    median_ms: float | None = None


class _File(msgspec.Struct):
    path: str


class _Stage(msgspec.Struct):
    mode: str | None = None
    profiler: str | None = None
    command: list[str] = msgspec.field(default_factory=list)
    latency: _Latency | None = None
    files: list[_File] = msgspec.field(default_factory=list)


_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Peaks(msgspec.Struct):
    bandwidth_tb_per_s: _Positive | None = None
    tflops: dict[str, _Positive] = msgspec.field(default_factory=dict)


class _Manifest(msgspec.Struct):
    kind: str = "run"
    stages: list[_Stage] = msgspec.field(default_factory=list)
    measured_peaks: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True)
class RunManifest:
    """Mode and profiler of each file (path relative to the run), the unprofiled decode step of each mode, ms, and which
    Nsight Compute reports belong to which timeline (``counters``)."""

    folder: Path
    modes: dict[str, str] = field(default_factory=dict)
    unprofiled_ms: dict[str, float] = field(default_factory=dict)
    counters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    """measured peaks of the run's GPU: ``bandwidth`` in bytes/s, types in operations/s"""
    sequence_tokens: dict[str, int] = field(default_factory=dict)
    """file → tokens of every sequence in its first decode step"""

    def mode(self, trace: Trace) -> str | None:
        """``eager``, ``graph`` or ``piecewise``; None for a file the manifest does not list."""
        return self.modes.get(self.name(trace.path) or "")

    def name(self, path: Path) -> str | None:
        """A file's path relative to the run, of an export beside its ``.nsys-rep`` that one's; None for one outside."""
        try:
            relative = path.resolve().relative_to(self.folder.resolve())
        except ValueError:
            return None
        report = relative.with_suffix(".nsys-rep").as_posix()
        exported = relative.suffix == ".sqlite" and relative.as_posix() not in self.modes and report in self.modes
        return report if exported else relative.as_posix()


def read(folder: Path) -> RunManifest | None:
    """The manifest of a run directory; None where there is none (a sweep's folder holds runs) or it cannot be read: the
    traces still open."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if manifest.kind == "sweep":
        return None
    modes = {file.path: stage.mode for stage in manifest.stages if stage.mode for file in stage.files}
    latency = {
        stage.mode: stage.latency.median_ms
        for stage in manifest.stages
        if stage.mode and stage.latency and stage.latency.median_ms and stage.latency.what == "decode step"
    }
    return RunManifest(
        folder,
        modes,
        latency,
        _counters(folder, manifest.stages),
        _measured(manifest.measured_peaks),
        _lengths(manifest.stages),
    )


def _measured(stated: msgspec.Raw) -> dict[str, float]:
    """Measured peaks in bytes/s and operations/s; none where they are not as they should be."""
    try:
        peaks = msgspec.json.decode(stated, type=_Peaks | None) or _Peaks()
    except msgspec.DecodeError:
        return {}
    found = {kind: tflops * 1e12 for kind, tflops in peaks.tflops.items() if dtype_class(kind)}
    return found | ({"bandwidth": peaks.bandwidth_tb_per_s * 1e12} if peaks.bandwidth_tb_per_s else {})


_STATIC_BATCH = re.compile(r"sglang\.(?:bench_one_batch|benchmark\.one_batch)$")


def _lengths(stages: list[_Stage]) -> dict[str, int]:
    """Of SGLang's static-batch benchmark: decode step i of its loop (from 0) attends to the input and i + 1 tokens more."""
    found: dict[str, int] = {}
    for stage in stages:
        if any(map(_STATIC_BATCH.search, stage.command)):
            given, first = (_number_after(stage.command, flag) for flag in ("--input-len", "--profile-start-step"))
            if given is not None and first is not None:
                found |= dict.fromkeys((file.path for file in stage.files), given + first + 1)
    return found


def _number_after(command: list[str], flag: str) -> int | None:
    """The whole number behind an option; None without one, or with several."""
    values = [command[at + 1] for at, word in enumerate(command[:-1]) if word == flag]
    return int(values[0]) if len(values) == 1 and values[0].isdecimal() and len(values[0]) < 10 else None


def _is_file_of(folder: Path, name: str) -> bool:
    """Whether a manifest's file is there and of its run; no name leads out of the folder."""
    relative = PurePath(name)
    if relative.is_absolute() or ".." in relative.parts:
        return False
    return os.path.isfile(folder / relative)  # noqa: PTH113 - Path.is_file raises for a name that is too long


def _counters(folder: Path, stages: list[_Stage]) -> dict[str, tuple[str, ...]]:
    """Timeline → reports. A report's counters go to one timeline, so that nothing is found twice: of its own graph mode
    where there is one, with operators (torch) before without (nsys), the first by name (the first rank)."""
    from traceql.loaders.registry import is_trace_name

    held = [
        (stage, file.path)
        for stage in stages
        for file in stage.files
        if (is_trace_name(Path(file.path)) or file.path.endswith(".csv")) and _is_file_of(folder, file.path)
    ]
    timelines = [(stage, path) for stage, path in held if stage.profiler in ("torch", "nsys")]
    found: dict[str, tuple[str, ...]] = {}
    for stage, report in sorted(held, key=lambda each: each[1]):
        if stage.profiler == "ncu" and timelines:
            mode = stage.mode
            fitting = min(timelines, key=lambda t: (t[0].mode != mode, t[0].profiler != "torch", t[1]))[1]
            found[fitting] = (*found.get(fitting, ()), report)
    return found


def noted(traces: list[Trace], manifest: RunManifest) -> list[Trace]:
    """``traces`` of one run with what the manifest knows: unprofiled step times, replays named by the eager twin, and
    Nsight Compute's counters on the timeline they belong to (their reports are no traces of their own then)."""
    named = [_with_metadata(trace, _facts(trace, manifest)) for trace in traces]
    eager = {t.rank: t for t in named if t.source == "torch_profiler" and manifest.mode(t) == "eager"}
    twinned = [_with_twin(t, eager.get(t.rank)) if manifest.mode(t) == "graph" else t for t in named]
    return _with_counters(twinned, manifest)


def _with_counters(traces: list[Trace], manifest: RunManifest) -> list[Trace]:
    from traceql.counters import joined

    reports = {name: t for t in traces if t.source == "ncu" and (name := manifest.name(t.path))}
    wanted = {
        name: [reports[r] for r in manifest.counters.get(name, ()) if r in reports]
        for t in traces
        if (name := manifest.name(t.path))
    }
    taken = {id(report) for of_timeline in wanted.values() for report in of_timeline}
    return [joined(t, wanted.get(manifest.name(t.path) or "", ())) for t in traces if id(t) not in taken]


def _facts(trace: Trace, manifest: RunManifest) -> dict[str, str]:
    """What the manifest tells of one trace, as metadata."""
    found = {f"{MEASURED}{name}": f"{value:g}" for name, value in manifest.measured.items()}
    mode = manifest.mode(trace)
    if mode is not None:
        found[MODE] = mode
        found[FILE] = manifest.name(trace.path) or ""
    milliseconds = manifest.unprofiled_ms.get(mode or "")
    if milliseconds is not None:
        found[UNPROFILED] = f"{milliseconds:g}"
    tokens = manifest.sequence_tokens.get(manifest.name(trace.path) or "")
    if tokens is not None:
        found[SEQUENCE] = str(tokens)
    return found


def _with_metadata(trace: Trace, facts: dict[str, str]) -> Trace:
    if not facts:
        return trace
    metadata = trace.loaded["metadata"]
    rows = pl.DataFrame(
        {"rank": [trace.rank] * len(facts), "key": list(facts), "value": list(facts.values())}, metadata.schema
    )
    return replace(trace, loaded={**trace.loaded, "metadata": pl.concat([metadata, rows])}, _memo={})


def _with_twin(trace: Trace, eager: Trace | None) -> Trace:
    from traceql.derived.alignment import comparable

    if eager is None or trace.source != "torch_profiler" or comparable(trace, eager) is not None:
        return trace
    return replace(trace, eager=eager, _memo={})

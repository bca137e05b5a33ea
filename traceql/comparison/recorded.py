"""What the manifest of a recorded run says to a comparison: its unprofiled times, and what they were taken on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from traceql.errors import UnreadableTraceError

NAME = "manifest.json"


class _Latency(msgspec.Struct):
    what: str
    runs_ms: list[float]
    median_ms: float


class _Clocks(msgspec.Struct):
    samples: int = 0
    throttle_reasons: dict[str, int] = {}

    @property
    def throttled(self) -> bool:
        return any(count * 20 > self.samples for count in self.throttle_reasons.values())


class _Stage(msgspec.Struct):
    name: str
    mode: str | None = None
    status: str | None = None
    latency: _Latency | None = None
    clocks: list[_Clocks] = []


class _Workload(msgspec.Struct):
    model: str | None = None
    batch_size: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    attention_backend: str | None = None
    tp: int | None = None


class _Gpu(msgspec.Struct):
    name: str


class _Machine(msgspec.Struct):
    gpus: list[_Gpu] = []
    driver: str | None = None


class _Manifest(msgspec.Struct):
    """The part of a run's manifest that times it."""

    kind: Literal["run"]
    stages: list[_Stage] = []
    started_unix_ns: int | None = None
    workload: _Workload = msgspec.field(default_factory=_Workload)
    machine: _Machine = msgspec.field(default_factory=_Machine)


@dataclass(frozen=True)
class Recorded:
    """One recorded run: unprofiled latencies by name in ms, one value a process; when it began (Unix time, ns); what it was
    recorded on and with (label → value, what is not told left out); whether clocks were held down while it was timed."""

    latencies: Mapping[str, list[float]] = field(default_factory=dict)
    started_unix_ns: int | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    throttled: bool = False


def read(folder: Path) -> Recorded | None:
    """A recorded run; None when the folder is none."""
    try:
        found = msgspec.json.decode((folder / NAME).read_bytes(), type=_Manifest)
    except FileNotFoundError:
        return None
    except msgspec.ValidationError:
        return None  # the manifest of a sweep, or of something else
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise UnreadableTraceError(f"{folder / NAME}: cannot be read ({error})") from error
    latencies: dict[str, list[float]] = {}
    timed = [stage for stage in found.stages if stage.latency is not None and stage.status != "failed"]
    for stage in timed:
        assert stage.latency is not None
        name = stage.latency.what + (f", {stage.mode}" if stage.mode else "")
        # a repeated process is a run each; repetitions within one are not
        own = stage.latency.runs_ms if stage.latency.what == "process" else [stage.latency.median_ms]
        latencies.setdefault(name, []).extend(value for value in own if value > 0)
    return Recorded(
        {name: values for name, values in latencies.items() if values},
        found.started_unix_ns,
        _conditions(found),
        any(clocks.throttled for stage in timed for clocks in stage.clocks),
    )


def _conditions(manifest: _Manifest) -> dict[str, str]:
    work, machine = manifest.workload, manifest.machine
    told = {
        "GPU": ", ".join(sorted({gpu.name for gpu in machine.gpus})) or None, "driver": machine.driver, "model": work.model,
        "batch size": work.batch_size, "input length": work.input_len, "output length": work.output_len,
        "attention backend": work.attention_backend, "TP size": work.tp,
    }  # fmt: skip
    return {label: str(value) for label, value in told.items() if value is not None}


def notes(base: Sequence[Recorded], head: Sequence[Recorded]) -> list[str]:
    """What makes the times of two sets of runs hard to compare, a sentence each."""
    found = []
    labels = dict.fromkeys(label for run in (*base, *head) for label in run.conditions)
    differing = []
    for label in labels:
        sides = [sorted({run.conditions[label] for run in runs if label in run.conditions}) for runs in (base, head)]
        if all(sides) and sides[0] != sides[1]:
            differing.append(f"{label} {', '.join(sides[1])} (was {', '.join(sides[0])})")
    if differing:
        found.append(f"The runs were not taken alike: {'; '.join(differing)}.")
    held = [sum(run.throttled for run in runs) for runs in (base, head)]
    if any(held):
        found.append(
            f"Clocks were held down in {held[0]} of {len(base)} base and {held[1]} of {len(head)} head runs (power or heat): "
            "their times say little."
        )
    times = [[run.started_unix_ns for run in runs if run.started_unix_ns is not None] for runs in (base, head)]
    if min(map(len, times)) > 1 and (max(times[0]) < min(times[1]) or max(times[1]) < min(times[0])):
        found.append(
            "All runs of one side were recorded before those of the other: a machine that drifts looks like a change. Record "
            "base and head in turn."
        )
    return found

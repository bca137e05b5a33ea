"""What a run directory says of itself: manifest.json, its structs and its reading and writing.

Names carry their unit. What could not be learned is null, never a guess. No host or user name is kept, and no value of
an environment variable but those listed in command.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from traceql.errors import UnreadableTraceError
from traceql.writing import write_text

NAME = "manifest.json"
SCHEMA = 1

Status = Literal["pending", "running", "complete", "partial", "failed", "interrupted"]
Profiler = Literal["none", "torch", "nsys", "ncu"]
FileKind = Literal["trace", "log", "data"]


class Record(msgspec.Struct, kw_only=True):
    """Base of all structs; unknown keys of newer files are ignored."""


class File(Record, kw_only=True):
    """One file of a stage."""

    path: str
    """Relative to the run directory."""
    bytes: int
    sha256: str
    kind: FileKind
    """trace: what analyze reads. log: a child's output. data: results and samples that belong to the stage."""


class Clocks(Record, kw_only=True):
    """One GPU's clocks while a stage ran and the GPU was busy."""

    gpu: int
    samples: int
    """Samples with the GPU at least 10 % busy; the figures below are over these."""
    sm_mhz_min: int
    sm_mhz_median: int
    sm_mhz_max: int
    memory_mhz_median: int
    power_w_max: float | None = None
    temperature_c_max: int | None = None
    throttle_reasons: dict[str, int] = {}
    """Reason → samples in which it held the clocks down; idle and application settings are no reasons."""

    @property
    def throttled(self) -> bool:
        """Whether clocks were held down in more than one sample of twenty."""
        return any(count * 20 > self.samples for count in self.throttle_reasons.values())


class Latency(Record, kw_only=True):
    """The same workload without a profiler, in the same run."""

    what: str
    """decode step (one token for the whole batch), prefill, step (of any program), or process (its whole run)."""
    runs_ms: list[float]
    """One median for each repetition."""
    median_ms: float
    spread_pct: float
    """(largest - smallest) / median of the repetitions."""
    prefill_ms: float | None = None
    tokens_per_s: float | None = None
    """Generated tokens of the whole batch."""
    source: str
    """Where the figures were read: the benchmark's result file, its log, the load generator, the injected profiler."""


class Stage(Record, kw_only=True):
    """One child process: a measurement, or a recording under one profiler."""

    name: str
    profiler: Profiler
    mode: str | None = None
    """eager, graph, piecewise or breakable; null where the program decides."""
    status: Status
    started: str
    duration_s: float = 0.0
    command: list[str] = []
    """RUN stands for the run directory, ~ for the home folder."""
    environment: dict[str, str] = {}
    """What was added to the caller's environment."""
    exit_code: int | None = None
    signal: str | None = None
    problem: str | None = None
    fix: str | None = None
    notes: list[str] = []
    latency: Latency | None = None
    clocks: list[Clocks] = []
    files: list[File] = []


class Workload(Record, kw_only=True):
    """What was decoded."""

    engine: str
    """sglang, sglang-server, mini-sglang or command."""
    model: str
    """A Hugging Face id, a folder's name, or the built-in shape."""
    dummy_weights: bool = False
    model_config_sha256: str | None = None
    layers: int | None = None
    batch_size: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    steps: int | None = None
    attention_backend: str | None = None
    tp: int = 1
    topology: str | None = None
    """How the GPUs of one TP group are linked: nvlink, numa, across, single; null when not asked for."""
    gpus: list[int] | None = None
    layerwise_nvtx: bool = False
    extra: list[str] = []
    """Options passed on to the program."""


class Gpu(Record, kw_only=True):
    """One GPU as nvidia-smi reports it."""

    index: int
    name: str
    memory_mib: int | None = None
    memory_used_mib: int | None = None
    compute_capability: str | None = None
    sm_mhz_max: int | None = None
    memory_mhz_max: int | None = None
    power_limit_w: float | None = None


class Machine(Record, kw_only=True):
    """The hardware and its driver."""

    gpus: list[Gpu] = []
    driver: str | None = None
    driver_cuda: str | None = None
    """The newest CUDA the driver runs."""
    topology: dict[str, dict[str, str]] = {}
    """GPU → GPU → link, as `nvidia-smi topo -m` names it."""
    numa: dict[str, str] = {}
    cpu: str | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    kernel: str | None = None


class Software(Record, kw_only=True):
    """Versions, as installed in the Python that ran the program."""

    python: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    sglang: str | None = None
    packages: dict[str, str] = {}
    nsys: str | None = None
    ncu: str | None = None


class Git(Record, kw_only=True):
    """The repository of the folder that collect was run in."""

    commit: str
    dirty: bool


class Manifest(Record, kw_only=True):
    """One run directory."""

    schema: int = SCHEMA
    kind: Literal["run"] = "run"
    name: str
    status: Status = "running"
    problem: str | None = None
    traceql: str
    collector: str
    command: list[str]
    started: str
    """UTC, ISO 8601."""
    started_unix_ns: int
    duration_s: float = 0.0
    workload: Workload
    machine: Machine
    software: Software
    git: Git | None = None
    environment: dict[str, str | None] = {}
    """Relevant variables that were set; values only for those that cannot name anything private."""
    warnings: list[str] = []
    stages: list[Stage] = []

    def stage(self, name: str) -> Stage | None:
        """The stage of that name."""
        return next((s for s in self.stages if s.name == name), None)

    def put(self, stage: Stage) -> None:
        """Add a stage, or replace the one of its name."""
        self.stages = [s for s in self.stages if s.name != stage.name] + [stage]

    def latency(self, mode: str | None) -> Latency | None:
        """The unprofiled latency measured in ``mode``."""
        return next((s.latency for s in self.stages if s.mode == mode and s.latency is not None), None)

    def traces(self) -> list[str]:
        """Paths of all traces, relative to the run directory."""
        return [f.path for s in self.stages for f in s.files if f.kind == "trace"]

    @property
    def throttled(self) -> bool:
        """Whether the clocks were held down in any stage."""
        return any(c.throttled for s in self.stages for c in s.clocks)


class Point(Record, kw_only=True):
    """One point of a sweep."""

    name: str
    """Its run directory, relative to the sweep's."""
    status: Status


class Sweep(Record, kw_only=True):
    """A folder of run directories recorded by one command."""

    schema: int = SCHEMA
    kind: Literal["sweep"] = "sweep"
    name: str
    status: Status = "running"
    traceql: str
    command: list[str]
    started: str
    points: list[Point] = []


def read(run: Path) -> Manifest:
    """The manifest of a run directory; UnreadableTraceError when there is none or it is no manifest."""
    path = run / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise UnreadableTraceError(
            f"{path}: cannot be read ({error.strerror or error}); give a run directory"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableTraceError(f"{path}: not a run's manifest ({error})") from error


def write(folder: Path, record: Manifest | Sweep) -> None:
    """Write manifest.json whole or not at all."""
    write_text(folder / NAME, msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")


def describe(path: Path, run: Path, kind: FileKind) -> File:
    """Size and hash of one file of ``run``."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(path=path.relative_to(run).as_posix(), bytes=path.stat().st_size, sha256=digest, kind=kind)


def latency(what: str, runs_ms: list[float], source: str, **more: float | None) -> Latency | None:
    """Median and spread of repeated measurements; None without any."""
    if not runs_ms:
        return None
    ordered = sorted(runs_ms)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    spread = (ordered[-1] - ordered[0]) / median * 100 if median else 0.0
    return Latency(
        what=what, runs_ms=[round(r, 4) for r in runs_ms], median_ms=round(median, 4), spread_pct=round(spread, 2),
        source=source, **more,
    )  # fmt: skip

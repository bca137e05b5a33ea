"""One stage of a run: do its work beside a clock sampler, then write down how it went and what it left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from traceql.errors import TraceqlError

from . import child, manifest
from .clocks import Sampler
from .command import Command, recorded_additions, recorded_argv
from .manifest import File, Latency, Profiler, Stage
from .problems import Problem, explain, last_error_line
from .progress import Progress
from .run_directory import RunDirectory

LOG = "output.log"

TRACE_SUFFIXES = (".trace.json.gz", ".trace.json", ".nsys-rep", ".ncu-rep")


@dataclass
class Done:
    """What a stage's work came to."""

    command: Command
    outcome: child.Outcome
    latency: Latency | None = None
    problem: Problem | None = None
    """A failure although the child ended well."""
    notes: list[str] = field(default_factory=list)
    usable: bool = False
    """Whether what was recorded counts although the child did not end well."""


@dataclass(frozen=True)
class Room:
    """Where and within what limits a stage works."""

    run: Path
    folder: Path
    log: Path
    timeout_s: float
    tick: child.Tick


class Work(Protocol):
    """What a stage does."""

    @property
    def name(self) -> str: ...
    @property
    def profiler(self) -> Profiler: ...
    @property
    def mode(self) -> str | None: ...
    @property
    def what(self) -> str:
        """A few words for the progress line."""

    def build(self, folder: Path) -> Command:
        """The command for a stage folder."""

    def execute(self, room: Room) -> Done:
        """Do it."""


@dataclass(frozen=True)
class CommandWork:
    """The usual work: build a command for the stage's folder, run it to its end, look at what is there."""

    name: str
    profiler: Profiler
    mode: str | None
    what: str
    build: Callable[[Path], Command]
    read: Callable[[Path, str], tuple[Latency | None, Problem | None]]
    """Folder and log → latency, and a failure that the exit code does not show."""
    grace_s: float = 20.0
    notes: tuple[str, ...] = ()

    def execute(self, room: Room) -> Done:
        """Run it to its end."""
        command = self.build(room.folder)
        outcome = child.run(
            command, room.log, timeout_s=room.timeout_s, tick=room.tick, folder=room.run, grace_s=self.grace_s
        )
        latency, problem = self.read(room.folder, child.tail(room.log, 4_000_000))
        return Done(command, outcome, latency, problem, list(self.notes))


def record(work: Work, run: RunDirectory, progress: Progress, *, timeout_s: float, gpus: list[int] | None) -> Stage:
    """Do one stage; whatever happens, what comes back says so. KeyboardInterrupt is a status, not an exception."""
    folder = run.stage_folder(work.name)
    started, begin = datetime.now(UTC), time.monotonic()
    progress.start(work.name, work.what)
    room = Room(run.path, folder, folder / LOG, timeout_s, progress.tick)
    stage = Stage(
        name=work.name,
        profiler=work.profiler,
        mode=work.mode,
        status="failed",
        started=started.isoformat(timespec="seconds"),
    )
    sampler = Sampler(folder, gpus)
    try:
        with sampler:
            done = work.execute(room)
        _judge(stage, work, done, room)
        stage.command = recorded_argv(done.command.argv, run.path)
        stage.environment = recorded_additions(done.command.environment, run.path)
        stage.exit_code, stage.signal = done.outcome.exit_code, done.outcome.signal
        stage.latency, stage.notes = done.latency, done.notes
    except KeyboardInterrupt:
        stage.status, stage.problem = "interrupted", "interrupted before it was done"
    except (TraceqlError, OSError) as error:
        stage.problem = str(error)
    stage.duration_s = round(time.monotonic() - begin, 3)
    stage.clocks = sampler.clocks()
    stage.files = _files(folder, run.path)
    progress.end(stage.status, _summary(stage), stage.duration_s)
    return stage


def _judge(stage: Stage, work: Work, done: Done, room: Room) -> None:
    """Set the stage's status, and its problem with the remedy where it did not go well."""
    if done.outcome.interrupted:
        stage.status, stage.problem = "interrupted", "interrupted before it was done"
        return
    recorded = work.profiler == "none" or any(_is_trace(p) for p in room.folder.rglob("*"))
    ended_well = done.outcome.ok or done.usable
    if ended_well and done.problem is None and recorded:
        stage.status = "complete"
        return
    log = child.tail(room.log, 400_000)
    problem = (done.problem if ended_well else None) or explain(log)
    if done.outcome.timed_out:
        reason = Problem(
            f"not done after {room.timeout_s:g} s (last output: {done.outcome.last_line[:160] or 'none'})",
            "raise --timeout; a first run compiles kernels for minutes",
        )
        problem = Problem(f"{reason.what}: {problem.what}", problem.fix) if problem else reason
    if problem is None:
        ended = f"signal {done.outcome.signal}" if done.outcome.signal else f"exit code {done.outcome.exit_code}"
        what = "no trace was written" if ended_well else f"{ended}: {last_error_line(log)}"
        problem = Problem(what, f"see {stage.name}/{LOG}")
    stage.status, stage.problem, stage.fix = "failed", problem.what, problem.fix


def _files(folder: Path, run: Path) -> list[File]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return [manifest.describe(path, run, _kind(path)) for path in paths]


def _kind(path: Path) -> manifest.FileKind:
    if _is_trace(path):
        return "trace"
    return "log" if path.suffix == ".log" else "data"


def _is_trace(path: Path) -> bool:
    return path.name.endswith(TRACE_SUFFIXES) and not path.name.startswith(".")


def _summary(stage: Stage) -> str:
    if stage.problem:
        return f"{stage.problem}{'; ' + stage.fix if stage.fix else ''}"
    if stage.latency is not None:
        latency = stage.latency
        runs = f", {len(latency.runs_ms)} runs within {latency.spread_pct:g} %" if len(latency.runs_ms) > 1 else ""
        return f"{latency.median_ms:g} ms a {latency.what}{runs}"
    traces = [f for f in stage.files if f.kind == "trace"]
    size = sum(f.bytes for f in traces)
    return f"{len(traces)} {'trace' if len(traces) == 1 else 'traces'}, {size / 2**20:.1f} MiB" if traces else ""

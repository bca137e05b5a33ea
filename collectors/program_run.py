"""The stages of recording any command: unprofiled runs if asked for, then one profiler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import inject, nsys, torch_profiler
from . import ncu as ncu_tool
from .child import run
from .command import Command
from .doctor import Facts
from .manifest import Latency, Profiler, latency
from .problems import Problem
from .software import Tool
from .stage import CommandWork, Done, Room, Work

_NSYS_GRACE_S = 60.0


@dataclass(frozen=True)
class Request:
    """Any command, and one profiler with its options; exactly one of the three is set."""

    argv: tuple[str, ...]
    torch: inject.Options | None = None
    nsys: NsysOptions | None = None
    ncu: NcuOptions | None = None


@dataclass(frozen=True)
class NsysOptions:
    """graph_trace: node or graph. capture_range: record only between cudaProfilerStart and Stop."""

    graph_trace: str = "node"
    trace: str = "cuda,nvtx,osrt"
    capture_range: bool = False
    cpu_samples: bool = False


@dataclass(frozen=True)
class NcuOptions:
    """Which kernels (a regular expression, None for every one), how many and after how many, and which sections."""

    kernels: str | None
    count: int = ncu_tool.DEFAULT_COUNT
    skip: int = 0
    metrics: str = "full"
    from_start: bool = True


def works(request: Request, facts: Facts, repeats: int, gpus: list[int] | None = None) -> list[Work]:
    """The stages: the command alone ``repeats`` times, then under the profiler. ``gpus``: those it may see."""
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(str(g) for g in gpus)} if gpus is not None else {}
    program = Command(request.argv, visible)
    found: list[Work] = [PlainWork(program, repeats)] if repeats else []
    if request.torch is not None:
        found.append(TorchWork(program, request.torch))
    if request.nsys is not None and facts.nsys is not None:
        found.append(nsys_work(program, facts.nsys, request.nsys))
    if request.ncu is not None and facts.ncu is not None:
        found.append(ncu_work(program, facts.ncu, request.ncu))
    return found


class PlainWork:
    """The command without a profiler, several times: how long the process takes."""

    name = "plain"
    profiler: Profiler = "none"

    def __init__(self, program: Command, repeats: int, mode: str | None = None) -> None:
        self._program, self._repeats, self.mode = program, repeats, mode
        self.what = f"unprofiled, {repeats} times"

    def build(self, _folder: Path) -> Command:
        return self._program

    def execute(self, room: Room) -> Done:
        """Run it; the first run that fails ends the stage."""
        times: list[float] = []
        outcome = run(self._program, room.log, timeout_s=room.timeout_s, tick=room.tick, folder=room.run)
        while outcome.ok:
            times.append(outcome.duration_s * 1000)
            if len(times) == self._repeats:
                break
            outcome = run(self._program, room.log, timeout_s=room.timeout_s, tick=room.tick, folder=room.run)
        return Done(self._program, outcome, latency("process", times, "wall clock"))


class TorchWork:
    """The command with torch.profiler put into it."""

    profiler: Profiler = "torch"

    def __init__(self, program: Command, options: inject.Options, name: str = "torch", mode: str | None = None) -> None:
        self._program, self._options, self.name, self.mode = program, options, name, mode
        steps = f"{options.active} steps" if options.active else "the whole program"
        self.what = f"torch.profiler, {steps}"

    def build(self, folder: Path) -> Command:
        options = inject.Options(**{**vars(self._options), "folder": str(folder.resolve())})
        return torch_profiler.command(self._program, folder / ".inject", options)

    def execute(self, room: Room) -> Done:
        """Run it to its end; what the injector reported tells more than the exit code."""
        command = self.build(room.folder)
        outcome = run(command, room.log, timeout_s=room.timeout_s, tick=room.tick, folder=room.run)
        torch_profiler.remove_unfinished(room.folder)
        torch_profiler.remove_injected(room.folder / ".inject")
        reported = torch_profiler.events(room.folder)
        problem = torch_profiler.problem(reported, self._options) if outcome.ok else None
        return Done(command, outcome, torch_profiler.latency(reported), problem)


def nsys_work(program: Command, tool: Tool, options: NsysOptions, name: str = "nsys", mode: str | None = None) -> Work:
    """The command under nsys."""

    def build(folder: Path) -> Command:
        return nsys.command(
            tool, program, folder / "program", graph_trace=options.graph_trace, trace=options.trace,
            capture_range=options.capture_range, cpu_samples=options.cpu_samples,
        )  # fmt: skip

    def read(folder: Path, _log: str) -> tuple[Latency | None, Problem | None]:
        return None, nsys.finish(tool, folder / "program")

    return CommandWork(name, "nsys", mode, f"Nsight Systems, {options.trace}", build, read, grace_s=_NSYS_GRACE_S)


def ncu_work(program: Command, tool: Tool, options: NcuOptions) -> Work:
    """The command under ncu."""

    def build(folder: Path) -> Command:
        return ncu_tool.command(
            tool, program, folder / "program", kernels=options.kernels, count=options.count, skip=options.skip,
            metrics=options.metrics, from_start=options.from_start,
        )  # fmt: skip

    def read(_folder: Path, _log: str) -> tuple[Latency | None, Problem | None]:
        return None, None

    return CommandWork("ncu", "ncu", None, f"Nsight Compute, {options.count} kernels", build, read)


def engine_works(
    program: Command, mode: str, profilers: tuple[str, ...], facts: Facts, *, step_on: str, skip: int, steps: int,
    stacks: bool,
) -> list[Work]:  # fmt: skip
    """The stages of a known engine's decode loop in one graph mode."""
    works: list[Work] = []
    if "torch" in profilers:
        options = inject.Options(stacks=stacks, step_on=step_on, skip=skip, warmup=2, active=steps)
        works.append(TorchWork(program, options, f"{mode}-torch", mode))
    if "nsys" in profilers and facts.nsys is not None:
        works.append(nsys_work(program, facts.nsys, NsysOptions(), f"{mode}-nsys", mode))
    return works

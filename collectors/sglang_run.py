"""The stages of an SGLang run: for each graph mode its unprofiled latency, then each profiler in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import load, ncu, nsys, server, sglang
from .command import Command
from .manifest import Latency, Workload
from .problems import Problem, explain
from .sglang import Installation, Profile
from .software import Tool
from .stage import CommandWork, Work


@dataclass(frozen=True)
class Plan:
    """What to record of one workload."""

    installation: Installation
    workload: Workload
    model_path: str
    modes: tuple[str, ...]
    profilers: tuple[str, ...]
    start_step: int
    repeats: int
    stage: str = "decode"
    devices: tuple[int, ...] | None = None
    """GPUs the program may see; None leaves that to the environment."""
    nsys_tool: Tool | None = None
    ncu_tool: Tool | None = None
    graph_trace: str = "node"
    cpu_samples: bool = False
    ncu_preset: str = "all"
    ncu_count: int = ncu.DEFAULT_COUNT
    ncu_skip: int = 0
    port: int | None = None
    stacks: bool = False
    shared_prefix: int = 0

    @property
    def steps(self) -> int:
        return self.workload.steps or 1

    def visible(self, command: Command) -> Command:
        """The command with the chosen GPUs."""
        if self.devices is None:
            return command
        return command.with_environment(CUDA_VISIBLE_DEVICES=",".join(str(d) for d in self.devices))


def batch_works(plan: Plan) -> list[Work]:
    """Stages of the static-batch benchmark. With several GPUs it profiles rank 0 alone, so torch goes by the server."""
    works: list[Work] = []
    for mode in plan.modes:
        if plan.repeats:
            works.append(_latency_work(plan, mode))
        for profiler in plan.profilers:
            if profiler == "torch" and plan.workload.tp > 1 and mode != "piecewise":
                works.append(server_work(plan, mode, f"{mode}-torch", repeats=0))
            elif profiler == "torch":
                works.append(_torch_work(plan, mode))
            elif profiler == "nsys" and plan.nsys_tool is not None:
                works.append(_nsys_work(plan, mode, plan.nsys_tool))
            elif profiler == "ncu" and plan.ncu_tool is not None and mode == _ncu_mode(plan.modes):
                works.append(_ncu_work(plan, mode, plan.ncu_tool))
    return works


def server_works(plan: Plan) -> list[Work]:
    """One stage a graph mode: the server measured without and recorded with the profiler, all ranks."""
    return [server_work(plan, mode, f"{mode}-server", repeats=plan.repeats) for mode in plan.modes]


def attached_work(url: str, plan_shape: load.Shape, *, steps: int, ranks: int, repeats: int, stacks: bool) -> Work:
    """Record a server that runs already."""
    return server.ServerWork(
        name="server", mode=None, what=f"load on {url}", launch=None, port=None, url=url, shape=plan_shape, steps=steps,
        ranks=ranks, repeats=repeats, stacks=stacks,
    )  # fmt: skip


def server_work(plan: Plan, mode: str, name: str, *, repeats: int) -> Work:
    """A server of our own under load."""
    workload = plan.workload

    def launch(port: int) -> Command:
        return plan.visible(sglang.server_command(plan.installation, workload, mode, plan.model_path, port=port))

    shape = load.Shape(
        requests=workload.batch_size or 1, input_len=workload.input_len or 1, output_len=workload.output_len or 1,
        shared_prefix=plan.shared_prefix,
    )  # fmt: skip
    return server.ServerWork(
        name=name, mode=mode, what=f"server under load, {plan.steps} steps of every rank", launch=launch,
        port=plan.port,
        url=None, shape=shape, steps=plan.steps, ranks=workload.tp, repeats=repeats, stacks=plan.stacks,
    )  # fmt: skip


def _latency_work(plan: Plan, mode: str) -> Work:
    def build(folder: Path) -> Command:
        results = folder / "bench.jsonl"
        return plan.visible(
            sglang.latency_command(
                plan.installation, plan.workload, mode, plan.model_path, results=results, repeats=plan.repeats
            )
        )

    def read(folder: Path, log: str) -> tuple[Latency | None, Problem | None]:
        found = sglang.read_latency(folder / "bench.jsonl", log, mode)
        none = Problem("the benchmark reported no latency", "see the stage's log")
        return found, None if found is not None else explain(log) or none

    what = f"unprofiled latency, {plan.repeats} times"
    return CommandWork(f"{mode}-latency", "none", mode, what, build, read, notes=_notes(plan, mode))


def _torch_work(plan: Plan, mode: str) -> Work:
    def build(folder: Path) -> Command:
        return _bench(plan, mode, "torch", folder)

    return CommandWork(
        f"{mode}-torch", "torch", mode, _what(plan, mode, "torch.profiler"), build, _nothing, notes=_notes(plan, mode)
    )


def _nsys_work(plan: Plan, mode: str, tool: Tool) -> Work:
    def build(folder: Path) -> Command:
        return nsys.command(
            tool, _bench(plan, mode, "nsys", folder), folder / f"sglang-{mode}", graph_trace=plan.graph_trace,
            capture_range=True, cpu_samples=plan.cpu_samples,
        )  # fmt: skip

    def read(folder: Path, _log: str) -> tuple[Latency | None, Problem | None]:
        return None, nsys.finish(tool, folder / f"sglang-{mode}")

    what = _what(plan, mode, "Nsight Systems")
    return CommandWork(f"{mode}-nsys", "nsys", mode, what, build, read, grace_s=60.0, notes=_notes(plan, mode))


def _ncu_work(plan: Plan, mode: str, tool: Tool) -> Work:
    def build(folder: Path) -> Command:
        return ncu.command(
            tool, _bench(plan, mode, "ncu", folder), folder / f"sglang-{mode}-{plan.ncu_preset}",
            kernels=ncu.PRESETS[plan.ncu_preset], count=plan.ncu_count, skip=plan.ncu_skip, from_start=False,
        )  # fmt: skip

    what = f"Nsight Compute, {plan.ncu_count} kernels ({plan.ncu_preset})"
    return CommandWork(f"{mode}-ncu", "ncu", mode, what, build, _nothing, notes=_notes(plan, mode))


def _bench(plan: Plan, mode: str, kind: str, folder: Path) -> Command:
    stage = "prefill" if mode == "piecewise" else plan.stage
    profile = Profile(kind=kind, folder=folder, start_step=plan.start_step, steps=plan.steps, stage=stage)
    return plan.visible(sglang.profile_command(plan.installation, plan.workload, mode, plan.model_path, profile))


def _nothing(_folder: Path, _log: str) -> tuple[Latency | None, Problem | None]:
    return None, None


def _ncu_mode(modes: tuple[str, ...]) -> str:
    """ncu measures single kernels, which are the same in a graph: eager is enough, and easier to filter."""
    return "eager" if "eager" in modes else modes[0]


def _what(plan: Plan, mode: str, profiler: str) -> str:
    if mode == "piecewise" or plan.stage == "prefill":
        return f"{profiler}, one prefill"
    steps = plan.steps if plan.installation.chooses_steps else 1
    return f"{profiler}, {steps} decode {'step' if steps == 1 else 'steps'}"


def _notes(plan: Plan, mode: str) -> tuple[str, ...]:
    """What differs from the workload as it was asked for."""
    notes = []
    if mode == "piecewise":
        batch = sglang.prefill_batch(plan.workload)
        notes.append(f"prefill of {batch} x {plan.workload.input_len} tokens: piecewise graphs are captured for sizes")
    elif not plan.installation.chooses_steps and plan.steps > 1:
        notes.append(f"sglang {plan.installation.version} records one step, it cannot be told which")
    return tuple(notes)

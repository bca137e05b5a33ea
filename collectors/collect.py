"""From what was asked for to recorded runs: check the machine, plan, record, sum up.

The command line and Python callers come in here; every function returns an exit code: 0 complete, 2 when something
failed (what was recorded is kept and says so), 130 when interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from traceql.errors import UsageError

from . import doctor, load, mini_sglang, planning, program_run, recording, sglang, sglang_run, software, sweep
from .command import recorded_argv, recorded_environment
from .doctor import Facts
from .manifest import Manifest, Workload
from .planning import Common, Engine
from .problems import CollectError, ProblemsError
from .progress import Progress
from .recording import Limits, Recorded
from .run_directory import RunDirectory, default_run
from .stage import Work

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 2, 130


@dataclass
class _Prepared:
    """One point of a sweep, ready to record."""

    name: str
    collector: str
    workload: Workload
    works: list[Work]
    gpus: list[int] | None
    warnings: list[str] = field(default_factory=list)


def run_sglang(common: Common, engine: Engine) -> int:
    """The static batch of SGLang's benchmark under every profiler asked for."""
    facts = _examine(common, "sglang")
    chosen, skipped = planning.profilers(facts, engine, force=common.force)
    engine, replaced = planning.without_fa3(engine, facts)
    plans = _plans(facts, common, engine, chosen)
    prepared = [
        _Prepared(
            name, "sglang", plan.workload, sglang_run.batch_works(plan), plan.workload.gpus, [*skipped, *replaced]
        )
        for name, plan in plans
    ]
    return _record_all(common, facts, prepared, f"sglang-{engine.batch_label}")


def run_server(common: Common, engine: Engine) -> int:
    """A server of our own under load, all ranks recorded by torch.profiler."""
    facts = _examine(common, "server")
    engine, replaced = planning.without_fa3(engine, facts)
    plans = _plans(facts, common, engine, ("torch",))
    for _, plan in plans:
        plan.workload.engine = "sglang-server"
    prepared = [
        _Prepared(name, "server", plan.workload, sglang_run.server_works(plan), plan.workload.gpus, replaced)
        for name, plan in plans
    ]
    return _record_all(common, facts, prepared, f"server-{engine.batch_label}")


def run_attached(common: Common, engine: Engine, url: str, ranks: int) -> int:
    """A server that runs already on this machine: load it, record it, leave it running."""
    if load.get_status(url, "/health", 5.0) != 200:
        raise CollectError(f"{url}: no SGLang server answers there; start one, or leave --url out to have one started")
    facts = doctor.examine(common.python, common.output or Path("runs"))
    batch, length = engine.batch_sizes[0], engine.input_lens[0]
    workload = Workload(
        engine="sglang-server", model="as served", batch_size=batch, input_len=length, output_len=engine.output_len,
        steps=engine.steps, tp=ranks,
    )  # fmt: skip
    shape = load.Shape(batch, length, engine.output_len, engine.shared_prefix)
    work = sglang_run.attached_work(
        url, shape, steps=engine.steps, ranks=ranks, repeats=common.repeats, stacks=engine.stacks
    )
    prepared = _Prepared("server", "server", workload, [work], None)
    return _record_all(common, facts, [prepared], f"server-{engine.batch_label}")


def run_mini_sglang(common: Common, engine: Engine) -> int:
    """One static batch of Mini-SGLang under torch.profiler, and nsys where it is asked for."""
    facts = _examine(common, "torch", needs_gpu=True)
    target = planning.interpreter(facts, "minisgl")
    unknown = [mode for mode in engine.modes if mode not in mini_sglang.MODES]
    if unknown:
        raise UsageError(f"Mini-SGLang has no {unknown[0]} mode; choose {' or '.join(mini_sglang.MODES)}")
    chosen, _ = planning.profilers(facts, engine, force=common.force)
    planning.check(engine, chosen)
    found = planning.points(engine)
    prepared = []
    for point in found:
        workload, model_path = planning.workload(engine, point, "mini-sglang")
        works: list[Work] = []
        for mode in engine.modes:
            works += program_run.engine_works(
                mini_sglang.command(target, workload, mode, model_path), mode, chosen, facts,
                step_on=mini_sglang.STEP, skip=mini_sglang.skip(workload), steps=engine.steps, stacks=engine.stacks,
            )  # fmt: skip
        name = point.name(sweep.varying(found))
        prepared.append(_Prepared(name, "mini-sglang", workload, works, common.gpu_list))
    return _record_all(common, facts, prepared, f"mini-sglang-{engine.batch_label}")


def run_program(common: Common, collector: str, request: program_run.Request) -> int:
    """Any command under one profiler."""
    facts = _examine(common, collector)
    warnings = [] if facts.machine.gpus else ["no GPU here: what was recorded is the CPU side alone"]
    words = [word for word in request.argv if not word.startswith("-")]
    named = words[1] if len(words) > 1 and re.match(r"python[\d.]*$", Path(words[0]).name) else words[0]
    workload = Workload(engine="command", model=Path(named).name, extra=list(request.argv))
    works = program_run.works(request, facts, common.repeats, common.gpu_list)
    name = f"{collector}-{Path(named).stem}"
    return _record_all(common, facts, [_Prepared(name, collector, workload, works, common.gpu_list, warnings)], name)


def _plans(
    facts: Facts, common: Common, engine: Engine, profilers: tuple[str, ...]
) -> list[tuple[str, sglang_run.Plan]]:
    """A plan for every point, with the point's name."""
    planning.check(engine, profilers)
    target = planning.interpreter(facts, "sglang")
    found = planning.points(engine)
    described = [
        (point, *planning.workload(engine, point, "sglang"), planning.devices(facts, common, point)) for point in found
    ]
    if not common.quiet:
        print("asking sglang for its options …", file=sys.stderr)
    installation = sglang.inspect(target)
    plans = []
    for point, workload, model_path, devices in described:
        workload.gpus = list(devices) if devices else None
        plan = sglang_run.Plan(
            installation=installation, workload=workload, model_path=model_path, modes=engine.modes,
            profilers=profilers, start_step=engine.start_step, repeats=common.repeats, stage=engine.stage,
            devices=devices, nsys_tool=facts.nsys, ncu_tool=facts.ncu, graph_trace=engine.graph_trace,
            cpu_samples=engine.cpu_samples, ncu_preset=engine.ncu_preset, ncu_count=engine.ncu_count,
            ncu_skip=engine.ncu_skip, port=engine.port or None, stacks=engine.stacks, shared_prefix=engine.shared_prefix,
        )  # fmt: skip
        for work in sglang_run.batch_works(plan):
            work.build(Path("RUN"))  # an option that this version has not is refused before anything runs
        plans.append((point.name(sweep.varying(found)), plan))
    return plans


def _record_all(common: Common, facts: Facts, prepared: list[_Prepared], name: str) -> int:
    if common.dry_run:
        for item in prepared:
            print("\n".join([f"# {item.name}", *(line for work in item.works for line in recording.plan_lines(work))]))
        return EXIT_OK
    if common.resume and common.output is None:
        raise UsageError("--resume goes with -o: name the run or sweep to go on with")
    root = common.output or default_run(name)
    if len(prepared) == 1:
        done = [(root.name, _record_one(common, facts, prepared[0], RunDirectory(root)).manifest)]
        return _sum_up(common, done, str(root))
    return _record_sweep(common, facts, prepared, root)


def _record_sweep(common: Common, facts: Facts, prepared: list[_Prepared], root: Path) -> int:
    log = recording.SweepLog(root, _command_line(), [p.name for p in prepared], resume=common.resume)
    done: list[tuple[str, Manifest]] = []
    for number, item in enumerate(prepared):
        if not common.quiet:
            print(f"run {number + 1} of {len(prepared)}: {item.name}", file=sys.stderr)
        if log.complete(item.name):
            done.append((item.name, log.manifest(item.name)))
            continue
        recorded = _record_one(common, facts, item, RunDirectory(root / item.name))
        log.put(item.name, recorded.manifest.status)
        done.append((item.name, recorded.manifest))
        if recorded.manifest.status == "interrupted":
            break
    return _sum_up(common, done, f"{root / done[-1][0]}")


def _record_one(common: Common, facts: Facts, item: _Prepared, run: RunDirectory) -> Recorded:
    progress = Progress(len(item.works), quiet=common.quiet)
    for warning in item.warnings:
        progress.note(f"note: {warning}")
    described = msgspec.structs.replace(item.workload, extra=recorded_argv(item.workload.extra))
    there = run.earlier()
    if common.resume and there is not None and there.workload != described:
        raise CollectError(f"{run.final}: holds a run of another workload; give the options it was recorded with")
    earlier = run.open(resume=common.resume)
    manifest = recording.new_manifest(
        run.final.name, collector=item.collector, command=_command_line(), workload=described,
        machine=facts.machine, software=software.versions(facts.target, facts.nsys, facts.ncu), git=software.git(),
        environment=recorded_environment(os.environ), warnings=list(item.warnings),
    )  # fmt: skip
    limits = Limits(common.timeout_s, item.gpus)
    return recording.record(run, manifest, item.works, progress, limits, earlier=earlier)


def _sum_up(common: Common, done: list[tuple[str, Manifest]], last: str) -> int:
    """Print the table, what went wrong and what comes next; the exit code."""
    rows = sweep.table(done)
    if not common.quiet and any(row[2] != "–" for row in rows):
        print("\n" + "\n".join(sweep.lines(rows)))
    for name, manifest in done:
        if manifest.problem:
            print(f"{name}: {manifest.problem}", file=sys.stderr)
    if not common.quiet and any(manifest.traces() for _, manifest in done):
        print(f"\nnext: traceql analyze {last}")
    states = {manifest.status for _, manifest in done}
    if "interrupted" in states:
        return EXIT_INTERRUPTED
    return EXIT_OK if states == {"complete"} else EXIT_FAILED


def _examine(common: Common, collector: str, *, needs_gpu: bool = False) -> Facts:
    """The machine's facts; ProblemsError when something keeps ``collector`` from working and neither --force nor
    --dry-run was given."""
    facts = doctor.examine(common.python, common.output or Path("runs"))
    blocking = facts.blocking(collector)
    if needs_gpu and not facts.machine.gpus:
        blocking = list(dict.fromkeys([*facts.blocking("server")[:1], *blocking]))
    if blocking and not (common.force or common.dry_run):
        raise ProblemsError(blocking)
    return facts


def _command_line() -> list[str]:
    return ["traceql", *recorded_argv(sys.argv[1:])]

"""From what was asked for to recorded runs: check the machine, plan, record, sum up.

The command line and Python callers come in here; every function returns an exit code: 0 complete, 2 when something
failed (what was recorded is kept and says so), 130 when interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from traceql.errors import UsageError

from . import (
    doctor,
    load,
    mini_sglang,
    model_shapes,
    ncu,
    program_run,
    recording,
    sglang,
    sglang_run,
    software,
    sweep,
    topology,
)  # fmt: skip
from .command import recorded_argv, recorded_environment
from .doctor import Facts
from .manifest import Manifest, Workload
from .problems import CollectError, Problem, ProblemsError
from .progress import Progress
from .recording import Limits
from .run_directory import RunDirectory, default_run
from .stage import Work

PROFILERS = ("torch", "nsys", "ncu")
EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 2, 130


@dataclass(frozen=True)
class Common:
    """What every collector takes."""

    python: str = sys.executable
    output: Path | None = None
    resume: bool = False
    dry_run: bool = False
    quiet: bool = False
    timeout_s: float = 900.0
    force: bool = False
    """Record although the machine's check objects."""
    repeats: int = 3
    gpus: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Engine:
    """A workload of SGLang, its server or Mini-SGLang, and what to record of it."""

    model: str | None = None
    shape: str = "llama-3-8b"
    layers: int | None = None
    dummy_weights: bool = False
    batch_sizes: tuple[int, ...] = (64,)
    input_lens: tuple[int, ...] = (512,)
    output_len: int = 32
    steps: int = 3
    start_step: int = 6
    modes: tuple[str, ...] = ("eager", "graph")
    backends: tuple[str, ...] = ()
    tps: tuple[int, ...] = (1,)
    topologies: tuple[str, ...] = ()
    profilers: tuple[str, ...] | None = None
    """None: those that are here and fit."""
    stage: str = "decode"
    layerwise_nvtx: bool = False
    graph_trace: str = "node"
    cpu_samples: bool = False
    ncu_preset: str = "all"
    ncu_count: int = ncu.DEFAULT_COUNT
    ncu_skip: int = 0
    port: int = 0
    stacks: bool = False
    shared_prefix: int = 0
    extra: tuple[str, ...] = ()


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
    chosen, skipped = _profilers(facts, engine)
    _check_engine(engine, chosen)
    installation = sglang.inspect(_target(facts, "sglang"))
    prepared = []
    found = _points(engine)
    for point in found:
        plan, gpus = _plan(facts, common, engine, point, installation, chosen)
        works = sglang_run.batch_works(plan)
        prepared.append(
            _Prepared(point.name(sweep.varying(found)), "sglang", plan.workload, works, gpus, list(skipped))
        )
    return _record_all(common, facts, prepared, f"sglang-bs{'-'.join(str(b) for b in engine.batch_sizes)}")


def run_server(common: Common, engine: Engine) -> int:
    """A server of our own under load, all ranks recorded by torch.profiler."""
    facts = _examine(common, "server")
    _check_engine(engine, ("torch",))
    installation = sglang.inspect(_target(facts, "sglang"))
    prepared = []
    found = _points(engine)
    for point in found:
        plan, gpus = _plan(facts, common, engine, point, installation, ("torch",))
        plan.workload.engine = "sglang-server"
        works = sglang_run.server_works(plan)
        prepared.append(_Prepared(point.name(sweep.varying(found)), "server", plan.workload, works, gpus))
    return _record_all(common, facts, prepared, f"server-bs{'-'.join(str(b) for b in engine.batch_sizes)}")


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
    )  # fmt: skip
    return _record_all(common, facts, [_Prepared("server", "server", workload, [work], None)], f"server-bs{batch}")


def run_mini_sglang(common: Common, engine: Engine) -> int:
    """One static batch of Mini-SGLang under torch.profiler, and nsys where it is asked for."""
    facts = _examine(common, "torch", needs_gpu=True)
    target = _target(facts, "minisgl")
    unknown = [mode for mode in engine.modes if mode not in mini_sglang.MODES]
    if unknown:
        raise UsageError(f"Mini-SGLang has no {unknown[0]} mode; choose {' or '.join(mini_sglang.MODES)}")
    chosen = engine.profilers or ("torch",)
    _check_engine(engine, chosen)
    prepared = []
    found = _points(engine)
    for point in found:
        workload, model_path = _workload(engine, point, "mini-sglang")
        works: list[Work] = []
        for mode in engine.modes:
            program = mini_sglang.command(target, workload, mode, model_path)
            works += program_run.engine_works(
                program, mode, chosen, facts, step_on=mini_sglang.STEP, skip=mini_sglang.skip(workload), steps=engine.steps,
                stacks=engine.stacks, graph_trace=engine.graph_trace,
            )  # fmt: skip
        prepared.append(_Prepared(point.name(sweep.varying(found)), "mini-sglang", workload, works, _listed(common)))
    return _record_all(common, facts, prepared, f"mini-sglang-bs{'-'.join(str(b) for b in engine.batch_sizes)}")


def run_program(common: Common, collector: str, request: program_run.Request) -> int:
    """Any command under one profiler."""
    facts = _examine(common, collector)
    warnings = [] if facts.machine.gpus else ["no GPU here: what was recorded is the CPU side alone"]
    words = [word for word in request.argv if not word.startswith("-")]
    name = f"{collector}-{Path(words[1] if len(words) > 1 and _is_python(words[0]) else words[0]).stem}"
    workload = Workload(engine="command", model=Path(request.argv[0]).name, extra=recorded_argv(request.argv))
    works = program_run.works(request, facts, common.repeats)
    return _record_all(common, facts, [_Prepared(name, collector, workload, works, _listed(common), warnings)], name)


def _record_all(common: Common, facts: Facts, prepared: list[_Prepared], name: str) -> int:
    if common.dry_run:
        return _print_plan(prepared)
    if common.resume and common.output is None:
        raise UsageError("--resume goes with -o: name the run or sweep to go on with")
    root = common.output or default_run(name)
    many = len(prepared) > 1
    done: list[tuple[str, Manifest]] = []
    log = recording.SweepLog(root, _command_line(), [p.name for p in prepared], resume=common.resume) if many else None
    for number, item in enumerate(prepared):
        run = RunDirectory(root / item.name if many else root)
        if log is not None and common.resume and log.complete(item.name):
            done.append((item.name, log.manifest(item.name)))
            continue
        earlier = run.open(resume=common.resume)
        progress = Progress(len(item.works), quiet=common.quiet)
        if many:
            progress.note(f"run {number + 1} of {len(prepared)}: {item.name}")
        for warning in item.warnings:
            progress.note(f"note: {warning}")
        manifest = recording.new_manifest(
            run.final.name, collector=item.collector, command=_command_line(),
            workload=item.workload, machine=facts.machine, software=software.versions(facts.target, facts.nsys, facts.ncu),
            git=software.git(), environment=recorded_environment(os.environ), warnings=item.warnings,
        )  # fmt: skip
        recorded = recording.record(
            run, manifest, item.works, progress, Limits(common.timeout_s, item.gpus), earlier=earlier
        )
        done.append((item.name, recorded.manifest))
        if log is not None:
            log.put(item.name, recorded.manifest.status)
        if recorded.manifest.status == "interrupted":
            break
    return _sum_up(common, root, done, many)


def _sum_up(common: Common, root: Path, done: list[tuple[str, Manifest]], many: bool) -> int:
    if not common.quiet:
        rows = sweep.table(done)
        if any(row[2] != "–" for row in rows):
            print("\n" + "\n".join(sweep.lines(rows)))
        for name, manifest in done:
            for line in [*manifest.warnings, *([manifest.problem] if manifest.problem else [])]:
                print(f"{name + ': ' if many else ''}{line}")
        if any(manifest.traces() for _, manifest in done):
            print(f"\nnext: traceql analyze {root / done[-1][0] if many else root}")
    states = {manifest.status for _, manifest in done}
    if "interrupted" in states:
        return EXIT_INTERRUPTED
    return EXIT_OK if states == {"complete"} else EXIT_FAILED


def _print_plan(prepared: list[_Prepared]) -> int:
    for item in prepared:
        print(f"# {item.name}")
        for work in item.works:
            for line in recording.plan_lines(work):
                print(line)
    return EXIT_OK


def _examine(common: Common, collector: str, *, needs_gpu: bool = False) -> Facts:
    """The machine's facts; ProblemsError when something keeps ``collector`` from working and neither --force nor
    --dry-run was given."""
    facts = doctor.examine(common.python, common.output or Path("runs"))
    blocking = facts.blocking(collector)
    if needs_gpu and not facts.machine.gpus:
        blocking += facts.blocking("sglang")[:1]
    if blocking and not (common.force or common.dry_run):
        raise ProblemsError(blocking)
    return facts


def _profilers(facts: Facts, engine: Engine) -> tuple[tuple[str, ...], list[str]]:
    """The profilers to use and, where they were not named, a line for each that cannot be."""
    if engine.profilers is not None:
        blocking = [p for name in engine.profilers if name != "torch" for p in facts.blocking(name)]
        if blocking:
            raise ProblemsError(blocking)
        return engine.profilers, []
    skipped = [f"without {name}: {p}" for name in ("nsys", "ncu") for p in facts.blocking(name)[:1]]
    return tuple(name for name in PROFILERS if not facts.blocking(name)), skipped


def _check_engine(engine: Engine, profilers: Sequence[str]) -> None:
    """UsageError for numbers that contradict each other."""
    if not profilers:
        raise UsageError("no profiler is left to record with; see `traceql doctor`")
    if engine.output_len < engine.start_step + engine.steps + 1 and engine.stage == "decode":
        raise UsageError(
            f"--output-len {engine.output_len} ends before the recorded steps do (--start-step {engine.start_step} + --steps "
            f"{engine.steps} + 1); raise it"
        )
    if engine.dummy_weights and engine.model is None:
        raise UsageError("--dummy-weights goes with --model; the built-in shapes always have them")
    if "ncu" in profilers:
        for tp in engine.tps:
            problem = ncu.collectives_note(engine.ncu_preset, tp)
            if problem is not None:
                raise UsageError(str(problem))


def _points(engine: Engine) -> list[sweep.Point]:
    return sweep.points(
        engine.batch_sizes, engine.input_lens, engine.backends, engine.tps, engine.topologies or (None,)
    )


def _plan(
    facts: Facts, common: Common, engine: Engine, point: sweep.Point, installation: sglang.Installation,
    profilers: tuple[str, ...],
) -> tuple[sglang_run.Plan, list[int] | None]:  # fmt: skip
    workload, model_path = _workload(engine, point, "sglang")
    devices = _devices(facts, common, point)
    workload.gpus = list(devices) if devices else None
    plan = sglang_run.Plan(
        installation=installation, workload=workload, model_path=model_path, modes=engine.modes, profilers=profilers,
        start_step=engine.start_step, repeats=common.repeats, stage=engine.stage, devices=devices, nsys_tool=facts.nsys,
        ncu_tool=facts.ncu, graph_trace=engine.graph_trace, cpu_samples=engine.cpu_samples, ncu_preset=engine.ncu_preset,
        ncu_count=engine.ncu_count, ncu_skip=engine.ncu_skip, port=engine.port or None, stacks=engine.stacks,
        shared_prefix=engine.shared_prefix,
    )  # fmt: skip
    return plan, workload.gpus


def _workload(engine: Engine, point: sweep.Point, name: str) -> tuple[Workload, str]:
    """The manifest's description, and the model as the program gets it."""
    if engine.model is None:
        folder = model_shapes.write(engine.shape, engine.layers)
        model, path, dummy = folder.name, str(folder), True
    else:
        model, path, dummy = _given_model(engine.model), engine.model, engine.dummy_weights
    workload = Workload(
        engine=name, model=model, dummy_weights=dummy, model_config_sha256=model_shapes.config_hash(Path(path)),
        layers=engine.layers, batch_size=point.batch_size, input_len=point.input_len, output_len=engine.output_len,
        steps=engine.steps, attention_backend=point.attention_backend, tp=point.tp, topology=point.topology,
        layerwise_nvtx=engine.layerwise_nvtx, extra=list(engine.extra),
    )  # fmt: skip
    return workload, path


def _given_model(model: str) -> str:
    """The model's name for the manifest; UsageError when it is a folder without a model or no name at all."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"{model}: holds no config.json; give the folder of a Hugging Face model")
        return folder.resolve().name
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UsageError(
            f"{model}: no such folder; give a model's folder or a Hugging Face id (organisation/name), or leave --model out "
            "for the built-in shape with dummy weights"
        )
    return model


def _devices(facts: Facts, common: Common, point: sweep.Point) -> tuple[int, ...] | None:
    """The GPUs of a point: those named, or a group of the wanted topology; None leaves it to the environment."""
    here = [gpu.index for gpu in facts.machine.gpus]
    if common.gpus is not None:
        missing = [g for g in common.gpus if g not in here]
        if missing:
            raise UsageError(
                f"--gpus: there is no GPU {missing[0]} here; there are {', '.join(map(str, here)) or 'none'}"
            )
        if len(common.gpus) < point.tp:
            raise UsageError(f"--gpus names {len(common.gpus)} GPUs, --tp wants {point.tp}")
        here = list(common.gpus)
    if facts.machine.gpus and point.tp > len(here):
        raise UsageError(f"--tp {point.tp}: this machine has {len(here)} {'GPU' if len(here) == 1 else 'GPUs'}")
    if point.topology is None:
        return tuple(here[: point.tp]) if common.gpus is not None else None
    links = topology.Topology(facts.machine.topology, facts.machine.numa)
    found = topology.group(links, here, point.tp, point.topology)
    if found is None:
        raise UsageError(
            f"--topology {point.topology}: no {point.tp} GPUs here are linked like that; see `nvidia-smi topo -m`, or choose "
            "them with --gpus"
        )
    return found


def _command_line() -> list[str]:
    return ["traceql", *recorded_argv(sys.argv[1:])]


def _listed(common: Common) -> list[int] | None:
    return list(common.gpus) if common.gpus is not None else None


def _target(facts: Facts, module: str) -> software.Interpreter:
    """The Python that runs the program; CollectError when ``module`` is not installed in it."""
    if facts.target is None:
        raise CollectError(facts.target_problem or "no usable Python; see --python")
    if module not in facts.target.modules:
        what = Problem(
            f"{module} is not installed in Python {facts.target.python}", "name the Python that has it with --python"
        )
        raise ProblemsError([what])
    return facts.target


def _is_python(word: str) -> bool:
    return re.match(r"python[\d.]*$", Path(word).name) is not None

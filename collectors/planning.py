"""What was asked for, checked, and turned into the workload, model and GPUs of each point."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from traceql.errors import UsageError

from . import model_shapes, ncu, sweep, topology
from .doctor import Facts
from .manifest import Workload
from .problems import CollectError, Problem, ProblemsError
from .software import Interpreter
from .topology import Topology

PROFILERS = ("torch", "nsys", "ncu")


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

    @property
    def gpu_list(self) -> list[int] | None:
        return list(self.gpus) if self.gpus is not None else None


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

    @property
    def batch_label(self) -> str:
        return "bs" + "-".join(str(size) for size in self.batch_sizes)


def check(engine: Engine, profilers: Sequence[str]) -> None:
    """UsageError for numbers that contradict each other."""
    if not profilers:
        raise UsageError("no profiler is left to record with; see `traceql doctor`")
    if engine.output_len < engine.start_step + engine.steps + 1 and engine.stage == "decode":
        raise UsageError(
            f"--output-len {engine.output_len} ends before the recorded steps do (step {engine.start_step} to "
            f"{engine.start_step + engine.steps}); raise it, or lower --steps"
        )
    if engine.dummy_weights and engine.model is None:
        raise UsageError("--dummy-weights goes with --model; the built-in shapes always have them")
    if "ncu" in profilers and engine.ncu_preset == "communication":
        problem = next((p for tp in engine.tps if (p := ncu.collectives_problem(tp))), None)
        if problem is not None:
            raise UsageError(str(problem))


def profilers(facts: Facts, engine: Engine, *, force: bool) -> tuple[tuple[str, ...], list[str]]:
    """The profilers to use and, where they were not named, a line for each that cannot be."""
    if engine.profilers is not None:
        blocking = [p for name in engine.profilers if name != "torch" for p in facts.blocking(name)]
        if blocking and not force:
            raise ProblemsError(list(dict.fromkeys(blocking)))
        return engine.profilers, []
    skipped = [f"without {name}: {p}" for name in ("nsys", "ncu") for p in facts.blocking(name)[:1]]
    return tuple(name for name in PROFILERS if not facts.blocking(name)), skipped


def points(engine: Engine) -> list[sweep.Point]:
    """Every workload asked for."""
    return sweep.points(
        batch_sizes=engine.batch_sizes,
        input_lens=engine.input_lens,
        backends=engine.backends or (None,),
        tps=engine.tps,
        topologies=engine.topologies or (None,),
    )


def without_fa3(engine: Engine, facts: Facts) -> tuple[Engine, list[str]]:
    """The engine with a backend named where sglang's own choice cannot work, and a line that says so.

    On Hopper sglang takes FlashAttention 3 when no backend is named. Small builds of its kernel package come without
    that library while the module that loads it is there.
    """
    target = facts.target
    hopper = any((gpu.compute_capability or "").startswith("9.") for gpu in facts.machine.gpus)
    named = bool(engine.backends) or any(word.startswith("--attention-backend") for word in engine.extra)
    if named or target is None or not hopper or "sgl_kernel" not in target.modules:
        return engine, []
    kernels = Path(target.modules["sgl_kernel"])
    try:
        loader = (kernels / "flash_attn.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return engine, []
    if "flash_ops" not in loader or any(kernels.glob("flash_ops*")):
        return engine, []
    backend = "flashinfer" if "flashinfer" in target.modules else "triton"
    said = f"this sglang has no FlashAttention 3 kernels, its default on Hopper: attention by {backend}"
    return replace(engine, backends=(backend,)), [said]


def workload(engine: Engine, point: sweep.Point, name: str) -> tuple[Workload, str]:
    """The manifest's description, and the model as the program gets it."""
    if engine.model is None:
        folder = model_shapes.write(engine.shape, engine.layers)
        model, path, dummy = folder.name, str(folder), True
    else:
        model, path, dummy = given_model(engine.model), engine.model, engine.dummy_weights
    described = Workload(
        engine=name, model=model, dummy_weights=dummy, model_config_sha256=model_shapes.config_hash(Path(path)),
        layers=engine.layers, batch_size=point.batch_size, input_len=point.input_len, output_len=engine.output_len,
        steps=engine.steps, attention_backend=point.attention_backend, tp=point.tp, topology=point.topology,
        layerwise_nvtx=engine.layerwise_nvtx, extra=list(engine.extra),
    )  # fmt: skip
    return described, path


def given_model(model: str) -> str:
    """The model's name for the manifest; UsageError when it is a folder without a model or no name at all."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"{model}: holds no config.json; give the folder of a Hugging Face model")
        return folder.resolve().name
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UsageError(
            f"{model}: no such folder; give a model's folder or a Hugging Face id (organisation/name), or leave --model "
            "out for the built-in shape with dummy weights"
        )
    return model


def devices(facts: Facts, common: Common, point: sweep.Point) -> tuple[int, ...] | None:
    """The GPUs of a point: those named, or a group of the wanted topology; None leaves it to the environment."""
    here = [gpu.index for gpu in facts.machine.gpus]
    if common.gpus is not None:
        missing = [g for g in common.gpus if g not in here]
        if missing:
            raise UsageError(f"--gpus: no GPU {missing[0]} here; there are {', '.join(map(str, here)) or 'none'}")
        if len(common.gpus) < point.tp:
            raise UsageError(f"--gpus names {len(common.gpus)} GPUs, --tp wants {point.tp}")
        here = list(common.gpus)
    if facts.machine.gpus and point.tp > len(here):
        raise UsageError(f"--tp {point.tp}: this machine has {len(here)} {'GPU' if len(here) == 1 else 'GPUs'}")
    if point.topology is None:
        return tuple(here[: point.tp]) if common.gpus is not None else None
    links = Topology(facts.machine.topology, facts.machine.numa)
    found = topology.group(links, here, point.tp, point.topology)
    if found is None:
        raise UsageError(
            f"--topology {point.topology}: no {point.tp} GPUs here are linked like that; see `nvidia-smi topo -m`, or "
            "choose them with --gpus"
        )
    return found


def interpreter(facts: Facts, module: str) -> Interpreter:
    """The Python that runs the program; an error when ``module`` is not installed in it."""
    if facts.target is None:
        raise CollectError(facts.target_problem or "no usable Python; see --python")
    if module not in facts.target.modules:
        what = f"{module} is not installed in Python {facts.target.python}"
        raise ProblemsError([Problem(what, "name the Python that has it with --python")])
    return facts.target

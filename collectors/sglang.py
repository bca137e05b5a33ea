"""SGLang's static-batch benchmark and its server: which options this version has, and the command lines for them.

Versions differ: 0.5.23 moved the benchmark to ``sglang.benchmark.one_batch`` and renamed options; 0.5.14 replaced the
CUDA graph switches by one backend a phase. Nothing here looks at the version number: the installed files tell the
module, and its ``--help`` tells the options.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import manifest
from .child import ask
from .command import Command
from .manifest import Workload
from .problems import CollectError, explain, last_error_line
from .software import Interpreter, terminal_width_environment

MODES = ("eager", "graph", "piecewise", "breakable")
"""eager: no CUDA graphs. graph: one graph a decode step. piecewise: prefill in graph segments. breakable: decode in
graph segments (from 0.5.14)."""

_BENCH_MODULES = ("sglang.benchmark.one_batch", "sglang.bench_one_batch")
_HELP_TIMEOUT_S = 180.0
_PREFILL_GRAPH_TOKENS = 2048


@dataclass(frozen=True)
class Installation:
    """One installed SGLang: its modules and the options its benchmark takes (the server's are among them)."""

    python: str
    version: str
    bench_module: str
    options: frozenset[str]
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Option → the values it accepts, where the help lists them."""

    @classmethod
    def from_help(cls, python: str, version: str, module: str, text: str) -> Installation:
        """From what ``python -m module --help`` printed."""
        return cls(python, version, module, frozenset(re.findall(r"--[a-z][a-z0-9-]+", text)), _choices(text))

    def has(self, option: str) -> bool:
        return option in self.options

    @property
    def prefix_option(self) -> str:
        """The option for the trace's name; 0.5.23 renamed it."""
        return "--profile-prefix" if self.has("--profile-prefix") else "--profile-filename-prefix"

    @property
    def chooses_steps(self) -> bool:
        """Whether the profiled steps can be chosen; 0.5.9 profiles the one in the middle of the output."""
        return self.has("--profile-start-step") and self.has("--profile-steps")

    @property
    def graph_backends(self) -> tuple[str, ...]:
        """Backends of the decode phase's CUDA graphs; empty where the older switches are."""
        return self.choices.get("--cuda-graph-backend-decode", ())


def bench_module(target: Interpreter) -> str:
    """The benchmark's module, from the installed files; CollectError when this SGLang has none."""
    root = Path(target.modules["sglang"])
    for module in _BENCH_MODULES:
        if (root.parent / Path(*module.split("."))).with_suffix(".py").is_file():
            return module
    raise CollectError(
        f"sglang {target.packages.get('sglang', '?')} has no one-batch benchmark; install sglang 0.5.9 or newer, or "
        "use `traceql collect server`"
    )


def inspect(target: Interpreter) -> Installation:
    """Ask the installed benchmark for its options; CollectError with its own reason when it does not start."""
    module = bench_module(target)
    code, text = ask(
        [target.executable, "-m", module, "--help"], timeout_s=_HELP_TIMEOUT_S, environment=terminal_width_environment()
    )
    if code != 0 or "--model-path" not in text:
        problem = explain(text)
        said = str(problem) if problem else last_error_line(text)
        raise CollectError(f"python -m {module} --help does not work: {said}")
    return Installation.from_help(target.executable, target.packages.get("sglang", "unknown"), module, text)


def _choices(help_text: str) -> dict[str, tuple[str, ...]]:
    found = re.findall(r"(--[a-z][a-z0-9-]+)[ =]\{([^}]*)\}", re.sub(r"\s*\n\s*", " ", help_text))
    return {option: tuple(value.strip() for value in values.split(",")) for option, values in found}


@dataclass(frozen=True)
class Profile:
    """What the benchmark is to record, and how: torch (it writes the trace), nsys or ncu (they watch)."""

    kind: str
    folder: Path
    start_step: int
    steps: int
    stage: str = "decode"


def latency_command(
    installation: Installation, workload: Workload, mode: str, model_path: str, *, results: Path, repeats: int
) -> Command:
    """The benchmark without a profiler; the batch is given once for each repetition, in one process."""
    batch = prefill_batch(workload) if mode == "piecewise" else workload.batch_size or 1
    argv = [
        *_common(installation, workload, mode, model_path),
        "--batch-size", *([str(batch)] * repeats),
        "--output-len", str(workload.output_len), "--result-filename", str(results),
    ]  # fmt: skip
    return Command((*argv, *workload.extra))


def profile_command(
    installation: Installation, workload: Workload, mode: str, model_path: str, profile: Profile
) -> Command:
    """The benchmark with its own profiler on, or with marks for nsys and ncu."""
    batch = prefill_batch(workload) if mode == "piecewise" else workload.batch_size or 1
    argv = [
        *_common(installation, workload, mode, model_path),
        "--batch-size", str(batch),
        "--output-len", str(_profiled_output(installation, profile)),
        "--result-filename", str(profile.folder / "bench.jsonl"),
        "--profile", "--profile-stage", profile.stage, installation.prefix_option, f"sglang-{mode}",
    ]  # fmt: skip
    if profile.kind == "torch":
        argv.append("--profile-record-shapes")
    else:
        argv += ["--profile-activities", "CUDA_PROFILER"]
    if profile.kind == "ncu" and "--max-total-tokens" not in workload.extra:
        argv += ["--max-total-tokens", str(_replayable_tokens(workload, batch))]
    if installation.chooses_steps and profile.stage != "prefill":
        argv += ["--profile-start-step", str(profile.start_step), "--profile-steps", str(profile.steps)]
    return Command((*argv, *workload.extra), {"SGLANG_TORCH_PROFILER_DIR": str(profile.folder)})


def _replayable_tokens(workload: Workload, batch: int) -> int:
    """KV cache for twice the tokens of the run: ncu saves all GPU memory before each replay of a kernel.

    With sglang's usual cache of most of the GPU, the first replay of a 16 GB model on a 141 GB GPU failed.
    """
    return 2 * batch * ((workload.input_len or 1024) + (workload.output_len or 32))


def _profiled_output(installation: Installation, profile: Profile) -> int:
    """Tokens to generate: up to the end of the profiled steps, since a CUDA profiler range is never stopped there.

    Where the steps cannot be chosen, so many that the middle one is the wanted first.
    """
    if profile.stage == "prefill":
        return 2
    return profile.start_step + profile.steps + 1 if installation.chooses_steps else 2 * profile.start_step


def server_command(installation: Installation, workload: Workload, mode: str, model_path: str, *, port: int) -> Command:
    """The server, listening on this machine only."""
    argv = [
        installation.python,
        "-m",
        "sglang.launch_server",
        *_server_options(installation, workload, mode, model_path),
    ]
    if mode in ("graph", "breakable"):
        option = "--cuda-graph-max-bs-decode" if installation.graph_backends else "--cuda-graph-max-bs"
        argv += [option, str(workload.batch_size)]
    return Command((*argv, "--host", "127.0.0.1", "--port", str(port), *workload.extra))


def _common(installation: Installation, workload: Workload, mode: str, model_path: str) -> list[str]:
    return [
        installation.python, "-m", installation.bench_module,
        *_server_options(installation, workload, mode, model_path), "--input-len", str(workload.input_len),
    ]  # fmt: skip


def _server_options(installation: Installation, workload: Workload, mode: str, model_path: str) -> list[str]:
    options = ["--model-path", model_path]
    if workload.dummy_weights:
        options += ["--load-format", "dummy"]
    if workload.tp > 1:
        options += ["--tp-size" if installation.has("--tp-size") else "--tensor-parallel-size", str(workload.tp)]
    if workload.attention_backend:
        known = installation.choices.get("--attention-backend", ())
        if known and workload.attention_backend not in known:
            raise CollectError(
                f"sglang {installation.version} has no attention backend {workload.attention_backend}; it has {', '.join(known)}"
            )
        options += ["--attention-backend", workload.attention_backend]
    if workload.layerwise_nvtx:
        if not installation.has("--enable-layerwise-nvtx-marker"):
            raise CollectError(f"sglang {installation.version} has no layerwise NVTX; leave --layerwise-nvtx out")
        options.append("--enable-layerwise-nvtx-marker")
    return options + graph_options(installation, mode, prefill_tokens(workload))


def graph_options(installation: Installation, mode: str, tokens: int) -> list[str]:
    """The CUDA graph options of a mode; CollectError where this version cannot do it.

    Prefill graphs are off unless they are what is recorded: they do not touch decode, and capturing them takes long.
    """
    if installation.graph_backends:
        return _backend_options(installation, mode, tokens)
    no_prefill_graphs = ["--disable-piecewise-cuda-graph"] if installation.has("--disable-piecewise-cuda-graph") else []
    if mode == "eager":
        return ["--disable-cuda-graph", *no_prefill_graphs]
    if mode == "graph":
        return no_prefill_graphs
    if mode == "piecewise":
        for switch in ("--enforce-piecewise-cuda-graph", "--enable-piecewise-cuda-graph"):
            if installation.has(switch):
                return [switch, "--piecewise-cuda-graph-tokens", str(tokens)]
    raise CollectError(f"sglang {installation.version} has no {mode} CUDA graphs; choose eager or graph with --mode")


def _backend_options(installation: Installation, mode: str, tokens: int) -> list[str]:
    decode, prefill = "--cuda-graph-backend-decode", "--cuda-graph-backend-prefill"
    if mode == "eager":
        return [decode, "disabled", prefill, "disabled"]
    if mode == "graph":
        return [decode, "full", prefill, "disabled"]
    if mode == "breakable" and "breakable" in installation.graph_backends:
        return [decode, "breakable", prefill, "disabled"]
    segmented = [b for b in ("tc_piecewise", "breakable") if b in installation.choices.get(prefill, ())]
    if mode == "piecewise" and segmented:
        return [decode, "disabled", prefill, segmented[0], "--cuda-graph-bs-prefill", str(tokens)]
    raise CollectError(f"sglang {installation.version} has no {mode} CUDA graphs; choose eager or graph with --mode")


def prefill_batch(workload: Workload) -> int:
    """Requests in a piecewise prefill: so many that its tokens fit one captured size."""
    return max(1, min(workload.batch_size or 1, _PREFILL_GRAPH_TOKENS // (workload.input_len or 1)))


def prefill_tokens(workload: Workload) -> int:
    """Tokens of that prefill."""
    return prefill_batch(workload) * (workload.input_len or 1)


def read_latency(results: Path, log: str, mode: str) -> manifest.Latency | None:
    """Unprofiled latency from the benchmark's result file, or from its log where the file is missing."""
    prefill = mode == "piecewise"
    rows = _result_rows(results)
    key = "prefill_latency" if prefill else "median_decode_latency"
    seconds = [float(row[key]) for row in rows if key in row]
    source = "result file"
    if not seconds:
        pattern = r"Prefill\. latency:\s+([\d.]+) s" if prefill else r"Decode\.\s+median latency:\s+([\d.]+) s"
        # the first pair of figures is the warm-up's
        seconds = [float(text) for text in re.findall(pattern, log)][1:]
        source = "log"
    prefill_s = [float(row["prefill_latency"]) for row in rows if "prefill_latency" in row]
    batch = next((int(row["batch_size"]) for row in rows if "batch_size" in row), None)
    found = manifest.latency("prefill" if prefill else "decode step", [s * 1000 for s in seconds], source)
    if found is not None and prefill_s and not prefill:
        found.prefill_ms = round(sorted(prefill_s)[len(prefill_s) // 2] * 1000, 4)
    if found is not None and batch and not prefill:
        found.tokens_per_s = round(batch / found.median_ms * 1000, 1)
    return found


def _result_rows(results: Path) -> list[dict[str, float]]:
    try:
        lines = results.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows

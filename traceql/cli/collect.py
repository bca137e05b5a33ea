"""traceql collect"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from traceql.errors import UsageError

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic from click 8.2 on only

_Decorated = Callable[..., Any]

_PRESETS = ["attention", "gemm", "norm", "communication", "all"]


class _Numbers(_ParamType):
    """Positive numbers separated by commas: 1,16,64."""

    name = "N[,N…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: give whole numbers separated by commas, such as 1,16,64", param, ctx)
        if any(number < 0 or (number == 0 and self.name != "GPU[,GPU…]") for number in numbers):
            self.fail(f"{value!r}: give numbers from 1 on", param, ctx)
        return numbers


class _Gpus(_Numbers):
    name = "GPU[,GPU…]"


class _Words(_ParamType):
    """Words separated by commas, of a list if there is one."""

    name = "NAME[,NAME…]"

    def __init__(self, *allowed: str) -> None:
        self._allowed = allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(dict.fromkeys(word.strip() for word in str(value).split(",")))
        for word in words:
            if self._allowed and word not in self._allowed:
                self.fail(f"{word!r}: choose from {', '.join(self._allowed)}", param, ctx)
        return words


class _Collect(click.Group):
    """Without the name of a collector: sglang."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ("-h", "--help"))
        if args and not named and not args[0].startswith("-"):
            known = ", ".join(self.commands)
            raise UsageError(
                f"no collector {args[0]!r}; there are: {known}. Any program: traceql collect torch -- COMMAND"
            )
        return super().parse_args(ctx, args if named else ["sglang", *args])


@click.group(cls=_Collect)
def collect() -> None:
    """Record a run: traces, logs and a manifest in a directory that `traceql analyze` takes next.

    Without the name of a collector: a static batch of SGLang, eager and with CUDA graphs, under every profiler that is
    here. Exit code 0 when everything was recorded, 2 when something failed (what was recorded is kept), 130 when
    interrupted.

    \b
    traceql collect && traceql analyze
    traceql collect --batch-size 1,16,64 --attention-backend flashinfer,triton -o runs/sweep
    traceql collect torch -- python decode.py
    """


def _several(*decorators: Callable[[_Decorated], _Decorated]) -> Callable[[_Decorated], _Decorated]:
    def apply(function: _Decorated) -> _Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _common(repeats: int) -> Callable[[_Decorated], _Decorated]:
    return _several(
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), help="The run directory; by default runs/TIME-NAME."
        ),
        click.option("--resume", is_flag=True, help="Go on with the run or sweep of -o: only what is not complete."),
        click.option(
            "--repeats", type=click.IntRange(0), default=repeats, show_default=True, help="Unprofiled repetitions."
        ),
        click.option(
            "--timeout", type=click.FloatRange(1), default=900, show_default=True, help="Seconds a stage may take."
        ),
        click.option("--gpus", type=_Gpus(), help="The GPUs to use, as nvidia-smi numbers them."),
        click.option(
            "--python", default=sys.executable, help="The Python that has torch or sglang; this one by default."
        ),
        click.option("--force", is_flag=True, help="Record although `traceql doctor` objects."),
        click.option("--dry-run", is_flag=True, help="Print the commands and run nothing."),
        click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    )


def _engine(*modes: str) -> Callable[[_Decorated], _Decorated]:
    return _several(
        click.option("--model", help="A model's folder or Hugging Face id; by default a built-in shape."),
        click.option(
            "--shape", type=click.Choice(["llama-3-8b", "llama-3-1b", "tiny"]), default="llama-3-8b", show_default=True,
            help="The built-in shape.",
        ),
        click.option("--layers", type=click.IntRange(1), help="Layers of the built-in shape, to record less."),
        click.option("--dummy-weights", is_flag=True, help="Random weights for --model: only its config is read."),
        click.option("--batch-size", type=_Numbers(), default="64", show_default=True, help="Requests at once."),
        click.option("--input-len", type=_Numbers(), default="512", show_default=True, help="Prompt tokens of each."),
        click.option("--output-len", type=click.IntRange(2), default=32, show_default=True, help="Tokens generated."),
        click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Steps to record."),
        click.option("--mode", type=_Words(*modes), default="eager,graph", show_default=True, help="CUDA graph modes."),
        click.option("--attention-backend", type=_Words(), default=None, help="flashinfer, triton, fa3 …"),
        click.option("--stacks", is_flag=True, help="Record Python stacks where the profiler leaves the choice."),
    )  # fmt: skip


_tensor_parallel = _several(
    click.option("--tp", type=_Numbers(), default="1", show_default=True, help="Tensor-parallel sizes."),
    click.option(
        "--topology", type=_Words("nvlink", "numa", "across"), default=None,
        help="How the GPUs of a group are linked: NVLink pairs, one NUMA node, across nodes.",
    ),
    click.option("--layerwise-nvtx", is_flag=True, help="NVTX ranges for each module; they cost time in eager mode."),
    click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- SGLANG OPTIONS]"),
)  # fmt: skip


@collect.command()
@_engine("eager", "graph", "piecewise", "breakable")
@_tensor_parallel
@click.option(
    "--profiler", type=_Words("torch", "nsys", "ncu"), default=None, help="By default those that are here and fit."
)
@click.option(
    "--stage", type=click.Choice(["decode", "prefill"]), default="decode", show_default=True, help="What to record."
)
@click.option("--start-step", type=click.IntRange(1), default=6, show_default=True, help="First decode step to record.")
@click.option(
    "--graph-trace", type=click.Choice(["node", "graph"]), default="node", show_default=True, help="nsys detail."
)
@click.option("--cpu-samples", is_flag=True, help="nsys: sample CPU stacks too.")
@click.option(
    "--preset", type=click.Choice(_PRESETS), default="all", show_default=True, help="ncu: kernels by component."
)
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="ncu: kernels to measure.")
@click.option(
    "--skip", type=click.IntRange(0), default=0, show_default=True, help="ncu: matching kernels to pass over."
)
@_common(repeats=3)
def sglang(**options: Any) -> None:
    """Record SGLang's static-batch benchmark.

    For each graph mode: the unprofiled latency, then torch.profiler, Nsight Systems and Nsight Compute in turn, as far
    as they are here. With --tp over 1 the torch traces come from a server, since the benchmark profiles rank 0 alone.
    Several values of --batch-size, --input-len, --attention-backend, --tp or --topology make a sweep: one run directory
    each and a table at the end. Options after -- go to SGLang.

    \b
    traceql collect sglang
    traceql collect sglang --model meta-llama/Llama-3.1-8B-Instruct --mode eager,graph,piecewise
    traceql collect sglang --tp 1,2 --topology nvlink,across --profiler torch
    traceql collect sglang --profiler ncu --preset attention --count 8
    traceql collect sglang -- --mem-fraction-static 0.8
    """
    from traceql.collectors.collect import run_sglang

    _finish(run_sglang, options)


@collect.command()
@_engine("eager", "graph", "breakable")
@_tensor_parallel
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 finds a free one.")
@click.option("--url", help="Record this running server instead, and leave it running.")
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="With --url: traces to wait for.")
@click.option(
    "--shared-prefix", type=click.IntRange(0), default=0, help="Prompt tokens that every second request shares."
)
@_common(repeats=3)
def server(url: str | None, ranks: int, **options: Any) -> None:
    """Record an SGLang server under load: every rank writes a torch trace.

    Starts a server, sends --batch-size requests at once, measures the time between tokens, then records --steps steps
    of all ranks and ends the server. With --url a server that runs already is used and left running.

    \b
    traceql collect server --tp 2
    traceql collect server --url http://127.0.0.1:30000 --batch-size 32
    """
    from traceql.collectors.collect import run_attached, run_server

    if url is not None:
        _finish(lambda common, engine: run_attached(common, engine, url.rstrip("/"), ranks), options)
    else:
        _finish(run_server, options)


@collect.command(name="mini-sglang")
@_engine("eager", "graph")
@click.option("--profiler", type=_Words("torch", "nsys"), default="torch", show_default=True, help="What records.")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]")
@_common(repeats=0)
def mini_sglang(**options: Any) -> None:
    """Record a static batch of Mini-SGLang.

    Uses its offline engine; a step is one call of Engine.forward_batch.

    \b
    traceql collect mini-sglang --attention-backend fi
    """
    from traceql.collectors.collect import run_mini_sglang

    _finish(run_mini_sglang, options)


_command = click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND")


@collect.command()
@click.option(
    "--steps", type=click.IntRange(0), default=0, show_default=True, help="Steps to record; 0: the whole program."
)
@click.option(
    "--skip", type=click.IntRange(0), default=5, show_default=True, help="Steps to let pass first, unprofiled."
)
@click.option("--warmup", type=click.IntRange(0), default=2, show_default=True, help="Steps the profiler warms up in.")
@click.option(
    "--step-on", default="forward", show_default=True, metavar="forward|MODULE:FUNCTION",
    help="What ends a step: the outermost module, or a function by name (of __main__: from Python 3.12 on).",
)  # fmt: skip
@click.option("--shapes/--no-shapes", default=True, show_default=True, help="Record input shapes.")
@click.option("--stacks/--no-stacks", default=False, show_default=True, help="Record Python stacks.")
@click.option("--memory", is_flag=True, help="Record allocations.")
@_common(repeats=0)
@_command
def torch(*, command: tuple[str, ...], steps: int, step_on: str, **options: Any) -> None:
    """Record any Python program with torch.profiler, without editing it.

    The profiler is put into every Python process that the command starts: a script, a module, torchrun, a shell script.
    With --steps only that many steps are recorded, and the steps around them give the unprofiled step time.

    \b
    traceql collect torch -- python decode.py --batch 8
    traceql collect torch --steps 3 --step-on __main__:decode_step -- python decode.py
    traceql collect torch --steps 3 -- torchrun --nproc-per-node 2 train.py
    """
    from traceql.collectors.inject import Options
    from traceql.collectors.program_run import Request

    if step_on != "forward" and not all(step_on.partition(":")):
        raise UsageError(f"--step-on {step_on}: give forward or module:function")
    kinds = {kind: options.pop(kind) for kind in ("shapes", "stacks", "memory")}
    around = {name: options.pop(name) if steps else options.pop(name) * 0 for name in ("skip", "warmup")}
    chosen = Options(step_on=step_on, active=steps, **around, **kinds)
    _record_program("torch", Request(command, torch=chosen), options)


@collect.command()
@click.option("--trace", default="cuda,nvtx,osrt", show_default=True, help="What nsys traces.")
@click.option(
    "--graph-trace", type=click.Choice(["node", "graph"]), default="node", show_default=True, help="Kernels in graphs?"
)
@click.option("--capture-range", is_flag=True, help="Record between cudaProfilerStart and cudaProfilerStop only.")
@click.option("--cpu-samples", is_flag=True, help="Sample CPU stacks too.")
@_common(repeats=0)
@_command
def nsys(*, command: tuple[str, ...], **options: Any) -> None:
    """Record any program with Nsight Systems.

    \b
    traceql collect nsys -- python decode.py
    traceql collect nsys --capture-range --trace cuda,nvtx -- ./decode
    """
    from traceql.collectors.program_run import NsysOptions, Request

    chosen = NsysOptions(
        **{name: options.pop(name) for name in ("trace", "graph_trace", "capture_range", "cpu_samples")}
    )
    _record_program("nsys", Request(command, nsys=chosen), options)


@collect.command()
@click.option("--preset", type=click.Choice(_PRESETS), help="Kernels by component.")
@click.option("--kernels", metavar="REGEX", help="Kernels by name; without this and --preset: every one.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Kernels to measure.")
@click.option(
    "--skip", type=click.IntRange(0), default=0, show_default=True, help="Matching kernels to pass over first."
)
@click.option(
    "--set", "metrics", default="full", show_default=True, help="ncu's set of sections: basic, detailed, full …"
)
@click.option("--capture-range", is_flag=True, help="Measure between cudaProfilerStart and cudaProfilerStop only.")
@_common(repeats=0)
@_command
def ncu(
    *, command: tuple[str, ...], preset: str | None, kernels: str | None, capture_range: bool, **options: Any
) -> None:
    """Measure kernels of any program with Nsight Compute.

    Clocks are left alone, so that the figures are those of the machine as it serves.

    \b
    traceql collect ncu --preset attention --count 4 -- python decode.py
    """
    from traceql.collectors.ncu import PRESETS
    from traceql.collectors.program_run import NcuOptions, Request

    if preset and kernels:
        raise UsageError("give --preset or --kernels, not both")
    figures = {name: options.pop(name) for name in ("count", "skip", "metrics")}
    chosen = NcuOptions(PRESETS[preset] if preset else kernels, from_start=not capture_range, **figures)
    _record_program("ncu", Request(command, ncu=chosen), options)


_COMMON = {"output", "resume", "repeats", "gpus", "python", "force", "dry_run", "quiet"}

_PLURAL = {
    "batch_size": "batch_sizes", "input_len": "input_lens", "mode": "modes", "attention_backend": "backends", "tp": "tps",
    "topology": "topologies", "profiler": "profilers", "preset": "ncu_preset", "count": "ncu_count", "skip": "ncu_skip",
}  # fmt: skip
"""Option → field of Engine, where the names differ."""


def _finish(run: Callable[[Any, Any], int], options: dict[str, Any]) -> None:
    """Split the options, run, and leave with the exit code."""
    from traceql.collectors.collect import Engine

    common = _take_common(options)
    chosen = {_PLURAL.get(name, name): value for name, value in options.items() if value is not None}
    words = chosen.get("extra", ())
    if words and not words[0].startswith("-"):
        if common.resume and Path(words[0]).is_dir():
            raise UsageError(
                f"{words[0]}: to go on with a run name it with -o, and give its options again: --resume -o {words[0]}"
            )
        raise UsageError(
            f"{words[0]}: what comes after -- are SGLang's options; a program: traceql collect torch -- {words[0]} …"
        )
    engine = Engine(**chosen)
    _leave(lambda: run(common, engine))


def _record_program(collector: str, request: Any, options: dict[str, Any]) -> None:
    from dataclasses import replace

    from traceql.collectors.collect import run_program

    common = _take_common(options)
    if Path(request.argv[0]).name.startswith("python"):
        common = replace(common, python=request.argv[0])
    _leave(lambda: run_program(common, collector, request))


def _take_common(options: dict[str, Any]) -> Any:
    from traceql.collectors.collect import Common

    timeout_s = options.pop("timeout")
    return Common(**{name: options.pop(name) for name in _COMMON}, timeout_s=timeout_s)


def _leave(run: Callable[[], int]) -> None:
    """Run; a terminate counts as an interrupt, so that the run is written down; several problems are a line each."""
    from traceql.collectors.problems import ProblemsError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = run()
    except ProblemsError as error:
        for problem in error.problems:
            click.echo(f"traceql: {problem.what}\n         fix: {problem.fix}", err=True)
        click.echo("traceql: nothing was recorded; `traceql doctor` shows every check", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("traceql: interrupted", err=True)
        sys.exit(130)
    sys.exit(code)

"""A child's command line: its words, what it adds to the environment, and how it is written down."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SECRET_OPTION = re.compile(r"^--?[\w-]*(?:api-?key|token|password|secret|credential)s?$", re.IGNORECASE)
_PROGRAM = re.compile(r"/(?:.*/)?(python[\d.]*|nsys|ncu)$")
_NOT_SECRET = re.compile(r"tokens$|tokenizer|token-id", re.IGNORECASE)

RECORDED_VALUES = frozenset(
    {
        "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING",
        "CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "NCCL_ALGO", "NCCL_PROTO", "NCCL_P2P_DISABLE",
        "NCCL_P2P_LEVEL", "NCCL_NVLS_ENABLE", "NCCL_CUMEM_ENABLE", "NCCL_MAX_NCHANNELS", "NCCL_MIN_NCHANNELS",
        "PYTORCH_CUDA_ALLOC_CONF", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "SGLANG_PROFILE_WITH_STACK", "SGLANG_PROFILE_RECORD_SHAPES", "SGLANG_PROFILE_V2", "SGLANG_SET_CPU_AFFINITY",
        "SGLANG_ENABLE_JIT_DEEPGEMM", "TORCHDYNAMO_DISABLE", "TRITON_INTERPRET",
    }
)  # fmt: skip
"""Variables whose value changes what is measured and cannot name a person, host or secret."""

_RELEVANT = re.compile(
    r"^(?:CUDA|NVIDIA|NCCL|NVSHMEM|TORCH|PYTORCH|TRITON|SGLANG|SGL|FLASHINFER|VLLM|KINETO|NSYS|OMP)_"
)


@dataclass(frozen=True)
class Command:
    """What is run: never through a shell. ``environment`` is added to the caller's own."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def wrapped_in(self, *before: str) -> Command:
        """The same command under a profiler: its words after ``before``."""
        return Command((*before, *self.argv), self.environment)

    def with_environment(self, **values: str) -> Command:
        """The same command with more variables."""
        return Command(self.argv, {**self.environment, **values})


def portable(text: str, folder: Path | None = None) -> str:
    """``text`` without what only this machine knows: RUN for the run folder, bare names of interpreter and profilers,
    and ~ for the home folder."""
    if folder is not None:
        text = text.replace(str(folder), "RUN")
    program = _PROGRAM.match(text)
    if program:
        return program.group(1)
    home = os.path.expanduser("~")  # noqa: PTH111 - the text form, not a Path
    if len(home) > 1 and (text == home or text.startswith(home + "/") or f"={home}/" in text):
        text = text.replace(home, "~")
    return text


def recorded_argv(argv: tuple[str, ...] | list[str], folder: Path | None = None) -> list[str]:
    """The words as a manifest keeps them: portable, and *** for values of options that hold secrets."""
    words: list[str] = []
    hide_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide_next:
            words.append("***")
            hide_next = False
        elif _SECRET_OPTION.match(name) and not _NOT_SECRET.search(name):
            words.append(f"{name}=***" if equals else word)
            hide_next = not equals
        else:
            words.append(portable(word, folder))
    return words


def shown(command: Command, folder: Path | None = None) -> str:
    """One line to read or to paste into a shell."""
    added = recorded_additions(command.environment, folder)
    variables = [f"{name}={shlex.quote(value)}" for name, value in added.items()]
    return " ".join([*variables, shlex.join(recorded_argv(command.argv, folder))])


def recorded_additions(environment: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """What a command adds to the environment, portable; of a search path only what was put in front."""
    added = {}
    for name, value in sorted(environment.items()):
        first, separator, _ = value.partition(os.pathsep) if name == "PYTHONPATH" else (value, "", "")
        added[name] = portable(first, folder) + (f"{separator}…" if separator else "")
    return added


def recorded_environment(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Names of variables that bear on the run; their values only where ``RECORDED_VALUES`` lists them."""
    names = sorted(name for name in environment if _RELEVANT.match(name) or name in RECORDED_VALUES)
    return {name: environment[name] if _may_record(name, environment[name]) else None for name in names}


def _may_record(name: str, value: str) -> bool:
    """A listed variable with a plain value: a device's UUID is not one."""
    return (
        name in RECORDED_VALUES and re.fullmatch(r"[A-Za-z0-9_.,:/=-]{0,64}", value) is not None and "GPU-" not in value
    )

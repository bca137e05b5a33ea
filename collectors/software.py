"""Versions of what records and of what is recorded, and whether they fit together.

The Python that runs the program need not be the one that runs traceql: it is asked in a child process that imports
neither torch nor sglang.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass

from traceql import nsight

from .child import ask
from .manifest import Git, Software
from .problems import CollectError

Version = tuple[int, int]

_PACKAGES = (
    "sglang", "minisgl", "torch", "triton", "flashinfer-python", "sglang-kernel", "sgl-kernel", "transformers", "vllm",
    "nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-cuda-cupti-cu12", "nvidia-cuda-cupti",
)  # fmt: skip

_PROBE = """
import importlib.metadata as metadata, importlib.util as util, json, os, platform, runpy, sys
found = {"python": platform.python_version(), "packages": {}, "modules": {}, "torch_cuda": None}
for name in json.loads(sys.argv[1]):
    try:
        found["packages"][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
for name in ("torch", "sglang", "minisgl", "sgl_kernel", "flashinfer"):
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        found["modules"][name] = list(spec.submodule_search_locations)[0]
if "torch" in found["modules"]:
    try:
        found["torch_cuda"] = runpy.run_path(os.path.join(found["modules"]["torch"], "version.py")).get("cuda")
    except Exception:
        pass
print("\\n" + json.dumps(found))
"""

_NSYS_CUDA: tuple[tuple[Version, Version], ...] = (
    ((2025, 3), (13, 0)), ((2025, 1), (12, 9)), ((2024, 6), (12, 8)), ((2024, 5), (12, 6)), ((2024, 2), (12, 5)),
    ((2023, 4), (12, 4)), ((2023, 3), (12, 3)), ((2023, 2), (12, 2)), ((2023, 1), (12, 1)), ((2022, 4), (12, 0)),
)  # fmt: skip
"""Nsight Systems release → the CUDA toolkit that first shipped it (component tables of the toolkit's release notes)."""

_NCU_CUDA: tuple[tuple[Version, Version], ...] = (
    ((2025, 3), (13, 0)), ((2025, 2), (12, 9)), ((2025, 1), (12, 8)), ((2024, 3), (12, 6)), ((2024, 2), (12, 5)),
    ((2024, 1), (12, 4)), ((2023, 3), (12, 3)), ((2023, 2), (12, 2)), ((2023, 1), (12, 1)), ((2022, 4), (12, 0)),
)  # fmt: skip
"""Nsight Compute release → CUDA toolkit, from the same tables."""


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the program, and where it finds torch, sglang, minisgl and their kernel packages."""

    executable: str
    python: str
    packages: dict[str, str]
    modules: dict[str, str]
    torch_cuda: str | None


@dataclass(frozen=True)
class Tool:
    """A profiler's executable."""

    path: str
    text: str
    """Its version as it writes it, such as 2025.3.1."""

    @property
    def version(self) -> Version | None:
        return parse_version(self.text)


def interpreter(executable: str) -> Interpreter:
    """Ask a Python what it has installed; CollectError when it cannot be run or is no Python."""
    resolved = shutil.which(executable)
    if resolved is None:
        raise CollectError(f"{executable}: no such program; give the Python that has sglang or torch with --python")
    code, text = ask([resolved, "-c", _PROBE, json.dumps(_PACKAGES)], timeout_s=60)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if code != 0 or not lines:
        said = next((line for line in reversed(text.splitlines()) if line.strip()), f"exit code {code}")
        raise CollectError(f"{executable}: not a usable Python ({said.strip()}); give another with --python")
    found = json.loads(lines[-1])
    return Interpreter(resolved, found["python"], found["packages"], found["modules"], found["torch_cuda"])


def nsys() -> Tool | None:
    """Nsight Systems, from PATH, where its packages install it, or the one inside Nsight Compute."""
    return _tool("nsys")


def ncu() -> Tool | None:
    """Nsight Compute, from PATH or where its packages install it."""
    return _tool("ncu")


def versions(target: Interpreter | None, nsys_tool: Tool | None, ncu_tool: Tool | None) -> Software:
    """The manifest's part on software."""
    software = Software(nsys=nsys_tool.text if nsys_tool else None, ncu=ncu_tool.text if ncu_tool else None)
    if target is not None:
        software.python = target.python
        software.torch = target.packages.get("torch")
        software.torch_cuda = target.torch_cuda
        software.sglang = target.packages.get("sglang")
        software.packages = {k: v for k, v in sorted(target.packages.items()) if k not in ("torch", "sglang")}
    return software


def git() -> Git | None:
    """Commit of the current folder's repository; None outside of one."""
    code, text = ask(["git", "rev-parse", "HEAD"], timeout_s=5)
    if code != 0 or not re.match(r"[0-9a-f]{40,64}\s*$", text):
        return None
    _, status = ask(["git", "status", "--porcelain", "--untracked-files=no"], timeout_s=10)
    return Git(commit=text.strip(), dirty=bool(status.strip()))


def parse_version(text: str | None) -> Version | None:
    """Major and minor of a version text; None when there is none in it."""
    found = re.search(r"(\d+)\.(\d+)", text or "")
    return (int(found.group(1)), int(found.group(2))) if found else None


def nsys_cuda(version: Version) -> Version | None:
    """The newest CUDA that this Nsight Systems is known to have shipped with; None for one older than the table."""
    return next((cuda for release, cuda in _NSYS_CUDA if version >= release), None)


def ncu_cuda(version: Version) -> Version | None:
    """The newest CUDA that this Nsight Compute is known to have shipped with; None for one older than the table."""
    return next((cuda for release, cuda in _NCU_CUDA if version >= release), None)


def nsys_for(cuda: Version) -> Version | None:
    """The first Nsight Systems for a CUDA, by its major version where the minor is newer than the table."""
    fitting = [release for release, known in _NSYS_CUDA if known[0] == cuda[0]]
    exact = [release for release, known in _NSYS_CUDA if known[0] == cuda[0] and known >= cuda]
    return min(exact) if exact else max(fitting, default=None)


def dotted(version: Version | None) -> str:
    """(13, 0) → 13.0"""
    return f"{version[0]}.{version[1]}" if version else "?"


def _tool(name: str) -> Tool | None:
    found = nsight.program(name)
    if found is None:
        return None
    code, text = ask([found, "--version"])
    version = re.search(r"(?:version|Version)\s+([\d.]+\d)", text) if code == 0 else None
    return Tool(found, version.group(1) if version else "")


def terminal_width_environment() -> dict[str, str]:
    """Variables that keep a child's help text from being folded in the middle of an option."""
    return {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"}

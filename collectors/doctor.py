"""Check this machine for what the collectors need: one line a thing, and the remedy where it is not right."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import machine, ncu, nsys, software, topology
from .child import ask
from .clocks import THROTTLE_REASONS
from .manifest import Machine
from .problems import SAMPLE_HINT, CollectError, Problem
from .software import Interpreter, Tool, dotted, parse_version

COLLECTORS = ("sglang", "server", "torch", "nsys", "ncu")

_ALL = frozenset(COLLECTORS)
_LEAST_FREE_GIB = 2
_BUSY_MEMORY_PCT = 5


@dataclass(frozen=True)
class Check:
    """One line of the report. ``blocks`` names the collectors that cannot work because of it."""

    name: str
    status: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""
    blocks: frozenset[str] = frozenset()


@dataclass
class Facts:
    """What was looked up once, for the checks and for the manifest."""

    machine: Machine
    target: Interpreter | None
    target_problem: str | None
    nsys: Tool | None
    ncu: Tool | None
    checks: list[Check] = field(default_factory=list)

    def blocking(self, collector: str) -> list[Problem]:
        """The problems that keep ``collector`` from working."""
        return [Problem(f"{c.name}: {c.found}", c.fix) for c in self.checks if collector in c.blocks]


def examine(python: str, folder: Path) -> Facts:
    """Look at everything; nothing raises."""
    target: Interpreter | None = None
    target_problem: str | None = None
    try:
        target = software.interpreter(python)
    except CollectError as error:
        target_problem = str(error)
    facts = Facts(machine.read(), target, target_problem, software.nsys(), software.ncu())
    facts.checks = [
        *_gpu_checks(facts.machine), *_torch_checks(facts), *_sglang_checks(facts), *_nsys_checks(facts),
        *_ncu_checks(facts), _disk_check(folder),
    ]  # fmt: skip
    return facts


def _gpu_checks(found: Machine) -> list[Check]:
    if not found.gpus:
        return [_no_gpu()]
    checks = [Check("driver", "ok", f"{found.driver}, runs CUDA up to {found.driver_cuda or '?'}")]
    names = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in found.gpus)
    checks.append(Check("GPUs", "ok", names))
    if len(found.gpus) > 1:
        group = tuple(gpu.index for gpu in found.gpus)
        links = topology.Topology(found.topology, found.numa)
        kind = topology.kind_of(links, group)
        pairs = sorted({link for row in found.topology.values() for link in row.values()})
        checks.append(
            Check("topology", "ok", f"{kind}: {', '.join(pairs)}")
            if kind
            else Check("topology", "note", "nvidia-smi topo -m tells no links", "name the GPUs with --gpus")
        )
    checks += [*_busy_checks(found), _clock_check()]
    return checks


def _no_gpu() -> Check:
    blocks = _ALL - {"torch"}
    said = machine.driver_problem()
    if said is not None:
        return Check(
            "driver", "problem", f"nvidia-smi: {said}", "load or reinstall the NVIDIA driver, then reboot", blocks
        )
    return Check(
        "driver", "problem", "no NVIDIA driver (nvidia-smi is not on PATH)",
        f"install the driver, or start the container with --gpus all; {SAMPLE_HINT}", blocks,
    )  # fmt: skip


def _busy_checks(found: Machine) -> list[Check]:
    busy = [
        f"GPU {g.index} holds {g.memory_used_mib} MiB" for g in found.gpus
        if g.memory_used_mib and g.memory_mib and g.memory_used_mib * 100 > g.memory_mib * _BUSY_MEMORY_PCT
    ]  # fmt: skip
    if not busy:
        return []
    return [Check("in use", "note", "; ".join(busy), "another program would be measured too: end it, or choose --gpus")]


def _clock_check() -> Check:
    code, text = ask(["nvidia-smi", "--query-gpu=index,clocks.sm,clocks_event_reasons.active", "--format=csv,noheader"])
    if code != 0:
        code, text = ask(
            ["nvidia-smi", "--query-gpu=index,clocks.sm,clocks_throttle_reasons.active", "--format=csv,noheader"]
        )
    if code != 0:
        return Check("clocks", "note", "nvidia-smi does not tell them", "a throttled run will not be noticed")
    slow = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[2].startswith("0x"):
            held = [name for bit, name in THROTTLE_REASONS.items() if int(cells[2], 16) & bit]
            slow += [f"GPU {cells[0]} at {cells[1]}: {', '.join(held)}"] if held else []
    if slow:
        return Check("clocks", "note", "; ".join(slow), "let it cool down or raise the power limit before measuring")
    return Check("clocks", "ok", "not held down")


def _torch_checks(facts: Facts) -> list[Check]:
    target = facts.target
    if target is None:
        return [Check("python", "problem", facts.target_problem or "not usable", "see --python", _ALL)]
    if "torch" not in target.modules:
        return [
            Check(
                "torch", "problem", f"not installed in Python {target.python}",
                "pip install torch, or name the Python that has it with --python", _ALL - {"nsys", "ncu"},
            )
        ]  # fmt: skip
    text = f"{target.packages.get('torch', '?')} on Python {target.python}"
    cuda, driver = parse_version(target.torch_cuda), parse_version(facts.machine.driver_cuda)
    if facts.machine.gpus and cuda is None:
        return [
            Check(
                "torch",
                "problem",
                f"{text}, a build without CUDA",
                "install a CUDA build of torch",
                _ALL - {"nsys", "ncu"},
            )
        ]
    if cuda is not None and driver is not None and cuda[0] > driver[0]:
        return [
            Check(
                "torch", "problem", f"{text} uses CUDA {dotted(cuda)}, the driver runs {dotted(driver)}",
                "update the driver, or install torch for the driver's CUDA", _ALL - {"nsys", "ncu"},
            )
        ]  # fmt: skip
    return [Check("torch", "ok", f"{text}, CUDA {target.torch_cuda or 'none'}")]


def _sglang_checks(facts: Facts) -> list[Check]:
    target = facts.target
    if target is None:
        return []
    if "sglang" not in target.modules:
        return [
            Check(
                "sglang", "problem", f"not installed in Python {target.python}",
                "pip install 'sglang>=0.5.9', or name the Python that has it with --python",
                frozenset({"sglang", "server"}),
            )
        ]  # fmt: skip
    version = target.packages.get("sglang", "unknown")
    number = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if len(number) == 3 and number < (0, 5, 9):
        return [Check("sglang", "note", version, "traceql knows the options of 0.5.9 and newer")]
    return [Check("sglang", "ok", version)]


def _nsys_checks(facts: Facts) -> list[Check]:
    cuda = facts.target.torch_cuda if facts.target else None
    problem = nsys.fit(facts.nsys, cuda)
    if problem is not None:
        return [Check("nsys", "problem", problem.what, problem.fix, frozenset({"nsys"}))]
    assert facts.nsys is not None
    known = software.nsys_cuda(facts.nsys.version) if facts.nsys.version else None
    program = parse_version(cuda)
    text = f"{facts.nsys.text}, shipped with CUDA {dotted(known)}"
    if program is not None and known is not None and program > known:
        return [
            Check(
                "nsys",
                "note",
                f"{text}; the program uses {dotted(program)}",
                "if calls are missing, install a newer one",
            )
        ]
    return [Check("nsys", "ok", text)]


def _ncu_checks(facts: Facts) -> list[Check]:
    problem = ncu.missing(facts.ncu)
    if problem is None and facts.ncu is not None:
        problem = ncu.fit(facts.ncu, facts.machine.driver_cuda)
    checks = []
    if problem is not None:
        checks.append(Check("ncu", "problem", problem.what, problem.fix, frozenset({"ncu"})))
    elif facts.ncu is not None:
        known = software.ncu_cuda(facts.ncu.version) if facts.ncu.version else None
        checks.append(Check("ncu", "ok", f"{facts.ncu.text}, shipped with CUDA {dotted(known)}"))
    refused = ncu.permission()
    if refused is not None:
        checks.append(Check("counters", "problem", refused.what, refused.fix, frozenset({"ncu"})))
    elif facts.machine.gpus:
        checks.append(Check("counters", "ok", "may be read, as far as the driver's settings tell"))
    return checks


def _disk_check(folder: Path) -> Check:
    place = folder
    while not place.exists():
        place = place.parent
    free_gib = shutil.disk_usage(place).free / 2**30
    if free_gib < _LEAST_FREE_GIB:
        return Check("disk", "problem", f"{free_gib:.1f} GiB free", "free space, or record elsewhere with -o", _ALL)
    return Check("disk", "ok", f"{free_gib:.0f} GiB free")

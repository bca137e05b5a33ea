"""What nvidia-smi and the operating system say of this machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from . import topology
from .child import ask
from .manifest import Gpu, Machine

_FIELDS = (
    "index", "name", "memory.total", "memory.used", "compute_cap", "clocks.max.sm", "clocks.max.memory", "power.limit",
    "driver_version",
)  # fmt: skip


def read() -> Machine:
    """GPUs, driver, links, processor. Without nvidia-smi, or when it fails, the GPU part is empty."""
    machine = Machine(
        cpu=_cpu_name(),
        cpus=os.cpu_count(),
        memory_mib=_memory_mib(),
        kernel=f"{platform.system()} {platform.release()}",
    )
    if shutil.which("nvidia-smi") is None:
        return machine
    code, text = ask(["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"])
    if code != 0:
        return machine
    rows = [
        [cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.count(",") == len(_FIELDS) - 1
    ]
    machine.gpus = [
        Gpu(
            index=int(row[0]), name=row[1], memory_mib=_integer(row[2]), memory_used_mib=_integer(row[3]),
            compute_capability=row[4] if re.match(r"\d+\.\d+$", row[4]) else None, sm_mhz_max=_integer(row[5]),
            memory_mhz_max=_integer(row[6]), power_limit_w=_number(row[7]),
        )
        for row in rows if row[0].isdigit()
    ]  # fmt: skip
    machine.driver = rows[0][8] if rows else None
    machine.driver_cuda = _driver_cuda()
    if len(machine.gpus) > 1:
        code, text = ask(["nvidia-smi", "topo", "-m"])
        if code == 0:
            parsed = topology.parse(text)
            machine.topology, machine.numa = parsed.links, parsed.numa
    return machine


def driver_problem() -> str | None:
    """Why nvidia-smi shows no GPU, in its own words; None when it shows one or is missing."""
    if shutil.which("nvidia-smi") is None:
        return None
    code, text = ask(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"])
    if code == 0 and any(line.strip().isdigit() for line in text.splitlines()):
        return None
    return next((line.strip() for line in text.splitlines() if line.strip()), f"exit code {code}")


def _driver_cuda() -> str | None:
    code, text = ask(["nvidia-smi"])
    found = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", text) if code == 0 else None
    return found.group(1) if found else None


def _cpu_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1).strip() if found else None


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return None


def _integer(text: str) -> int | None:
    return int(float(text)) if re.match(r"[\d.]+$", text) else None


def _number(text: str) -> float | None:
    return float(text) if re.match(r"[\d.]+$", text) else None

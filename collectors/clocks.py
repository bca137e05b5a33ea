"""Clocks and throttle reasons, sampled beside a stage by one nvidia-smi process."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from statistics import median

from .child import ask
from .manifest import Clocks

_PERIOD_MS = 500
_BUSY_PCT = 10

THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Bits of NVML's clocks event reasons that mean slower than asked for (nvml.h, nvmlClocksEventReasons)."""

_FIELDS = "index,clocks.sm,clocks.mem,utilization.gpu,power.draw,temperature.gpu,{reasons}"


_HEADER = b"gpu,sm_mhz,memory_mhz,busy_pct,power_w,temperature_c,reasons\n"


class Sampler:
    """Writes clocks.csv while it is open; ``clocks`` sums it up afterwards. Without nvidia-smi it does nothing.

    nvidia-smi writes into a pipe of ours, so that it ends when we do, however that happens.
    """

    def __init__(self, folder: Path, gpus: list[int] | None) -> None:
        self._path = folder / "clocks.csv"
        self._gpus = gpus
        self._process: subprocess.Popen[bytes] | None = None
        self._copier: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        reasons = _reasons_field()
        if reasons is None:
            return self
        argv = ["nvidia-smi", f"--query-gpu={_FIELDS.format(reasons=reasons)}", "--format=csv,noheader,nounits"]
        if self._gpus:
            argv += ["-i", ",".join(str(g) for g in self._gpus)]
        with suppress(OSError):
            self._process = subprocess.Popen(
                [*argv, "-lms", str(_PERIOD_MS)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._copier = threading.Thread(target=self._copy, daemon=True)
            self._copier.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None or self._copier is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._copier.join(timeout=5)

    def _copy(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with suppress(OSError), self._path.open("wb") as file:
            file.write(_HEADER)
            for line in self._process.stdout:
                file.write(line)

    def clocks(self) -> list[Clocks]:
        """One summary for each GPU that was busy."""
        try:
            return summarize(self._path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return []


def summarize(text: str) -> list[Clocks]:
    """Sum up the sampler's lines; samples of an idle GPU say nothing about a workload and are left out."""
    by_gpu: dict[int, list[list[str]]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 7 and all(cell.isdigit() for cell in cells[:4]) and int(cells[3]) >= _BUSY_PCT:
            by_gpu.setdefault(int(cells[0]), []).append(cells)
    return [_summary(gpu, rows) for gpu, rows in sorted(by_gpu.items())]


def _summary(gpu: int, rows: list[list[str]]) -> Clocks:
    sm = [int(row[1]) for row in rows]
    reasons: dict[str, int] = {}
    for row in rows:
        with suppress(ValueError):
            bits = int(row[6], 16)
            for bit, name in THROTTLE_REASONS.items():
                if bits & bit:
                    reasons[name] = reasons.get(name, 0) + 1
    return Clocks(
        gpu=gpu, samples=len(rows), sm_mhz_min=min(sm), sm_mhz_median=round(median(sm)), sm_mhz_max=max(sm),
        memory_mhz_median=round(median(int(row[2]) for row in rows)), power_w_max=_largest(rows, 4),
        temperature_c_max=round(_largest(rows, 5) or 0) or None, throttle_reasons=reasons,
    )  # fmt: skip


def _largest(rows: list[list[str]], column: int) -> float | None:
    values = []
    for row in rows:
        with suppress(ValueError):
            values.append(float(row[column]))
    return max(values, default=None)


def _reasons_field() -> str | None:
    """The name this driver has for the reasons; None without a working nvidia-smi."""
    for name in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
        code, text = ask(["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader"])
        if code == 0 and text.strip().startswith("0x"):
            return name
    return None

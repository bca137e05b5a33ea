"""Utilisation that kernels of a kind usually reach (``expectations.toml``)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

Unit = Literal["sm", "tensor", "memory"]
Band = tuple[float, float]


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"kernel_class": "class"}):
    """One kind of kernel; the file's head says what the fields mean."""

    kernel_class: str
    category: str
    limit: Unit
    gpu: str
    side: Literal["memory", "compute"] | None = None
    sm: Band | None = None
    tensor: Band | None = None
    memory: Band | None = None

    def bands(self) -> dict[Unit, Band]:
        """The units that have a range."""
        known: dict[Unit, Band | None] = {"sm": self.sm, "tensor": self.tensor, "memory": self.memory}
        return {unit: band for unit, band in known.items() if band is not None}

    def holds_on(self, gpu: str | None) -> bool:
        """Whether the figures were taken on this GPU, so that every unit can be judged."""
        return gpu is not None and gpu.startswith(self.gpu)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    kernel: list[Expectation]


@cache
def expectations() -> tuple[Expectation, ...]:
    """Every kind, in the file's order."""
    text = files("traceql").joinpath("expectations.toml").read_bytes()
    return tuple(msgspec.toml.decode(text, type=_File).kernel)


def expectation(category: str | None, side: str | None) -> Expectation | None:
    """What to expect of a kernel of ``category`` on ``side`` of the ridge; None for kinds without figures.

    A kind that is told by its side has no figures for a kernel whose side is unknown.
    """
    fitting = (e for e in expectations() if e.category == category and e.side in (None, side))
    return next(fitting, None)


def markdown_table() -> str:
    """The table as docs/nsight-compute.md shows it, ending with a newline."""
    lines = [("kernel", "SM %", "tensor %", "memory %", "limited by", "on"), ("---",) * 6]
    for e in expectations():
        bands = e.bands()
        lines.append((e.kernel_class, *(_shown(bands.get(u)) for u in ("sm", "tensor", "memory")), e.limit, e.gpu))  # type: ignore[arg-type]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _shown(band: Band | None) -> str:
    return "–" if band is None else f"{band[0]:g}-{band[1]:g}" if band[0] != band[1] else f"{band[0]:g}"

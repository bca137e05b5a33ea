"""How a matrix product's output divides into tiles, where the kernel's name tells the tile."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil

_NVJET = re.compile(r"^nvjet_\w*?_(\d+)x(\d+)_")
"""cuBLAS's kernels since Hopper: columns × rows of the output tile (the weights' side first)."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of one product over the SMs of the GPU.

    ``used_pct`` is the part of the tiles that is output, the rest pads; ``waves`` rounds of tiles over the SMs.
    """

    columns: int
    rows: int
    tiles: int
    used_pct: float
    sms: int

    @property
    def waves(self) -> float:
        return self.tiles / self.sms

    @property
    def hint(self) -> str | None:
        """What of this costs time; None where nothing does."""
        if self.tiles < self.sms:
            return f"{self.tiles} tiles of {self.rows}×{self.columns} for {self.sms} SMs: the rest idle"
        full = ceil(self.waves)
        if self.waves / full < 0.9 and full <= 4:
            return f"{self.tiles} tiles for {self.sms} SMs: {self.waves:.2f} waves take the time of {full}"
        if self.used_pct < 90:
            return f"tiles of {self.rows}×{self.columns} are {self.used_pct:.0f} % full: the rest pads"
        return None


def tiling(kernel: str, m: int, n: int, sms: int | None) -> Tiling | None:
    """The tiles of an [m, k]×[k, n] product run by ``kernel``; None where its name does not tell the tile."""
    found = _NVJET.match(kernel)
    if found is None or not sms:
        return None
    columns, rows = int(found[1]), int(found[2])
    tiles = ceil(n / columns) * ceil(m / rows)
    return Tiling(columns, rows, tiles, 100 * m * n / (tiles * columns * rows), sms)

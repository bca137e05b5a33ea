"""What the report shows of several ranks: x in percent of the width, heights in pixels."""

from __future__ import annotations

from dataclasses import dataclass

from traceql.report.model import Place, Table


@dataclass(frozen=True)
class HeatCell:
    """One rank in one step: ``strength`` 0 to 1 is its lateness as share of the scale's end."""

    x: float
    row: int
    strength: float
    text: str
    place: Place | None


@dataclass(frozen=True)
class HeatMap:
    """Ranks from top to bottom, steps from left to right: how late each rank was at the collectives.

    ``edge`` is what the darkest cell stands for, ``left_out`` sentences about ranks and steps not drawn.
    """

    ranks: tuple[str, ...]
    steps: tuple[tuple[float, str], ...]
    cells: tuple[HeatCell, ...]
    width: float
    row_height: int
    edge: str
    left_out: tuple[str, ...]

    @property
    def height(self) -> int:
        return len(self.ranks) * self.row_height


@dataclass(frozen=True)
class Stretch:
    """A stretch of one rank's time: ``kind`` is *work*, *wait* or *transfer*."""

    x: float
    width: float
    row: int
    kind: str
    text: str


@dataclass(frozen=True)
class Waterfall:
    """A few collectives in a row on every rank, on the ranks' common clock.

    ``joins`` are the ends of the collectives: (x, label).
    """

    ranks: tuple[str, ...]
    stretches: tuple[Stretch, ...]
    joins: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    row_height: int
    caption: str
    left_out: tuple[str, ...]

    @property
    def height(self) -> int:
        return len(self.ranks) * self.row_height


@dataclass(frozen=True)
class RankView:
    """One job: who is late, where, and who waits for whom."""

    title: str
    lead: str
    heat: HeatMap
    waterfall: Waterfall
    stragglers: Table
    waits: Table

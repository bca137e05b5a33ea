"""The view model: all a report shows, in the words and figures it shows them in.

Text, Markdown and HTML are renderings of one View, so they cannot disagree. Every text in it is safe to show: names
from outside have passed ``names.shown``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from traceql.report.units import number

if TYPE_CHECKING:
    from traceql.report.rank_model import RankView


@dataclass(frozen=True)
class Place:
    """A stretch of a trace to look at."""

    trace: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Figure:
    """One number with its label. ``exact`` is the unrounded value, ``note`` a qualification."""

    label: str
    value: str
    unit: str = ""
    exact: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        return f"{self.value}×" if self.unit == "×" else f"{self.value} {self.unit}".strip()


@dataclass(frozen=True)
class Column:
    """A table column; its unit, where it has one, is in the header."""

    header: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the exact value behind it and, for an instance, where it is."""

    text: str
    exact: str = ""
    place: Place | None = None


@dataclass(frozen=True)
class Table:
    """Rows as shown; ``dropped`` more were left out."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    dropped: int = 0


@dataclass(frozen=True)
class Card:
    """One finding. ``number`` counts from 1 in the order shown."""

    number: int
    code: str
    rule: str
    severity: str
    message: str
    where: tuple[str, ...]
    certainty: str
    savings: Figure | None
    savings_us: float
    facts: tuple[Figure, ...]
    tables: tuple[Table, ...]
    advice: tuple[str, ...]
    anchor: str
    place: Place | None
    trace: str | None
    """label of its trace, where the report has several"""
    command: str = ""
    """what opens it in Perfetto; empty where there is no timeline to open"""
    shared: str = ""
    """how much of its saving another finding's holds too, in a sentence; empty where there is nothing to say"""
    sizes: str = ""
    """what either profiler, and each rank, says it saves, where several found it"""
    twins: tuple[Card, ...] = ()
    """the same problem as other captures of the mode show it"""
    other_rank: bool = False
    """a twin of another rank than the card's, that says the same"""

    @property
    def every(self) -> tuple[Card, ...]:
        """The card and its twins."""
        return (self, *self.twins)


@dataclass(frozen=True)
class Group:
    """The findings of one rule, in the report's order.

    ``summary`` says what the rule looks for, ``severity`` is the worst of theirs, ``advice`` theirs where all advise the
    same (else empty), ``where`` what all of them share of where they are.
    """

    code: str
    rule: str
    severity: str
    summary: str
    cards: tuple[Card, ...]
    advice: tuple[str, ...]
    where: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """What the download of one finding is made of.

    The events of the ``trace``-th trace between ``start_ns`` and ``end_ns`` of the source's own clock, and ``line``, the
    finding's own event; ``file`` is the name to save it under.
    """

    trace: int
    start_ns: int
    end_ns: int
    line: str
    file: str


@dataclass(frozen=True)
class Handoff:
    """What a page needs to offer cuts of its traces as downloads; see ``handoff.pack``.

    ``events`` are gzipped trace documents in base64, one a trace (None where no finding has a cut); ``cuts`` go by the
    anchor of the card; ``dropped`` says for each trace what its cuts lack.
    """

    events: tuple[str | None, ...] = field(repr=False)
    cuts: Mapping[str, Cut] = field(repr=False)
    dropped: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Part:
    """A share of something: of a step, of the kernels' time. ``key`` names its colour."""

    label: str
    key: str
    value_ns: int
    share_pct: float
    text: str
    exact: str

    @property
    def share(self) -> str:
        return number(self.share_pct) if self.share_pct >= 0.1 or not self.share_pct else "< 0.1"


@dataclass(frozen=True)
class Breakdown:
    """Parts of a whole, their texts all in ``unit``."""

    unit: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chain:
    """Where the time of one step went: on the GPU, busy and idle by cause; on the thread that launched it, by activity.

    ``known`` is false where replays left no record. Shares of both are of the same time.
    """

    label: str
    parts: tuple[Part, ...]
    total: str
    host: tuple[Part, ...] = ()
    host_total: str = ""
    known: bool = True
    note: str = ""


@dataclass(frozen=True)
class Bin:
    """Gaps of one range of lengths; the parts' shares are of the fullest bin."""

    label: str
    parts: tuple[Part, ...]
    total: Cell
    gaps: str


@dataclass(frozen=True)
class Histogram:
    """Idle time by length of gap and cause, in ``unit``; ``causes`` are the sums over all bins."""

    bins: tuple[Bin, ...]
    unit: str
    causes: tuple[Part, ...]
    total: str
    partial: bool
    """some of the gaps' time was not recorded, and is left out"""


@dataclass(frozen=True)
class StepPoint:
    """One step in the series over time."""

    step_id: int
    kind: str
    label: str
    period_ms: float
    busy_ms: float | None
    place: Place


@dataclass(frozen=True)
class Layer:
    """One layer of the strip: its wall time and how much of it the GPU was busy."""

    label: str
    dur_ns: int
    busy_ns: int
    text: str
    place: Place


@dataclass(frozen=True)
class Point:
    """One GEMM shape, or one kernel by its counters, under the roofline."""

    label: str
    intensity: float
    tflops: float
    share_pct: float
    bound: str
    text: str


@dataclass(frozen=True)
class Roofline:
    """Points and the ceilings of the device: bandwidth in TB/s and peak TFLOP/s by type, None when unknown."""

    points: tuple[Point, ...]
    gpu: str
    bandwidth_tb_per_s: float | None
    peaks: tuple[tuple[str, float], ...]
    lead: str
    note: str
    """what to know about the GPU's peaks"""
    tables: tuple[Table, ...]
    bounds: tuple[tuple[str, str], ...]
    """classes that occur: (key, words)"""


@dataclass(frozen=True)
class Timeline:
    """What the timeline canvas needs: ``payload`` is gzipped JSON in base64, see ``timeline.pack``.

    ``first`` is the step shown at first, ``causes`` those of the gaps in it, ``dropped`` what was left out.
    """

    steps: tuple[str, ...]
    first: int
    causes: tuple[str, ...]
    dropped: tuple[str, ...]
    payload: str = field(repr=False)


@dataclass(frozen=True)
class TraceView:
    """The evidence of one trace."""

    label: str
    source: str
    gpus: tuple[str, ...]
    verdict: str
    chains: tuple[Chain, ...]
    steps: Table | None
    series: tuple[StepPoint, ...]
    gaps: Histogram | None
    layers: tuple[Layer, ...]
    layers_note: str
    categories: Breakdown | None
    kernels_scope: str
    kernels: Table | None
    roofline: Roofline | None
    notes: tuple[str, ...]
    provenance: tuple[Figure, ...]
    timeline: Timeline | None
    brief: bool = False
    """its evidence is left out to keep the page small; only its row among the ranks is shown"""

    @property
    def chain_keys(self) -> list[tuple[str, str]]:
        """(colour, label) of every part of the chains, the GPU's first."""
        every = [part for chain in self.chains for part in chain.parts]
        every += [part for chain in self.chains for part in chain.host]
        labels: dict[str, str] = {}
        for part in every:
            labels.setdefault(part.key, part.label)
        return list(labels.items())

    @property
    def sections(self) -> list[tuple[str, str]]:
        """(id, name) of the sections this trace has, in order."""
        present = {
            "timeline": self.timeline, "steps": self.steps, "gaps": self.gaps, "layers": self.layers,
            "kernels": self.categories, "roofline": self.roofline, "trace": True,
        }  # fmt: skip
        return [(name, name.capitalize()) for name, content in present.items() if content]


@dataclass(frozen=True)
class View:
    """The whole report."""

    title: str
    scope: tuple[str, ...]
    """what stands beside the title: GPU and profiler, or which of several traces the figures are of"""
    verdict: str
    recorded: str
    """the steps without a profiler of several modes and runs, in a sentence; empty without"""
    headline: tuple[Figure, ...]
    cards: tuple[Card, ...]
    traces: tuple[TraceView, ...]
    ranks: Table | None
    passed: tuple[str, ...]
    suppressed: tuple[tuple[str, str], ...]
    """(what the configuration hides, why)"""
    not_applicable: tuple[tuple[str, str], ...]
    """(rule, reason)"""
    crashed: tuple[tuple[str, str], ...]
    unreadable: tuple[str, ...]
    thresholds: Table
    version: str
    groups: tuple[Group, ...] = ()
    """the cards by rule, in order of the first of each"""
    command: str = ""
    """what was run; empty when the report was made from Python"""
    lead: int | None = None
    """the trace the headline is about; None when no trace could be read"""
    handoff: Handoff | None = None
    """only HTML offers downloads"""
    rank_views: tuple[RankView, ...] = ()
    """the jobs among the traces, as HTML draws them"""
    brief_note: str = ""
    """which traces' evidence was left out, and why; empty where all is there"""

    @property
    def abstained(self) -> list[tuple[str, list[str]]]:
        """Rules that did not apply by reason, the reason that most of them share first."""
        found: dict[str, list[str]] = {}
        for rule, reason in self.not_applicable:
            found.setdefault(reason, []).append(rule)
        return sorted(found.items(), key=lambda item: -len(item[1]))

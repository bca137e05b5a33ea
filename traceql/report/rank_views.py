"""Several ranks of a job in the report: lateness by rank and step, collectives as they ran, stragglers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from traceql.opening import TraceSet
from traceql.ranks import lateness
from traceql.ranks.jobs import Job
from traceql.ranks.matching import Matches
from traceql.report.model import Cell, Column, Place, Table
from traceql.report.names import shown
from traceql.report.rank_model import HeatCell, HeatMap, RankView, Stretch, Waterfall
from traceql.report.units import ms, number
from traceql.trace import Trace

_MAX_RANKS = 128
"""Rows of the charts; of more ranks, those that are late most stay."""
_MAX_STEPS = 64
_COLLECTIVES = 6
"""Collectives of the waterfall: a layer has two, so three layers."""
_NAMED = 12
"""Steps whose number stands below the map: more do not fit a phone."""
_FAINTEST = 0.02
"""Cells under this share of the scale's end are drawn as none."""
_RANK_AT_END = re.compile(r" · (rank|process) \S+$")
_SPOKEN = 3
"""Stragglers for which the table says what they did instead."""


def rank_views(traces: Sequence[Trace], detailed: Collection[int], labels: Sequence[str] = ()) -> tuple[RankView, ...]:
    """One view a job of several ranks whose collectives could be matched.

    ``detailed`` are the traces whose evidence the page holds: places lead to them alone. ``labels`` name the traces: of
    several jobs each is called as its first rank, but for the rank.
    """
    if len(traces) < 2 and not any(len(trace.loaded["devices"]) > 1 for trace in traces):
        return ()
    found = []
    for job, matches in TraceSet(tuple(traces)).matched:
        steps = lateness.late_steps(job) if job.several else pl.DataFrame()
        if not steps.is_empty():
            found.append((job, _view(job, matches, steps, detailed)))
    if len(found) < 2 or not labels:
        return tuple(view for _, view in found)
    return tuple(
        replace(view, title=f"{view.title}: {_RANK_AT_END.sub('', labels[job.ranks[0].index])}") for job, view in found
    )


def _view(job: Job, matches: Matches, steps: pl.DataFrame, detailed: Collection[int]) -> RankView:
    kind = steps.group_by("kind").agg(pl.col("period_ns").sum()).sort("period_ns", "kind")["kind"][-1]
    of_kind = steps.filter(pl.col("kind").eq_missing(pl.lit(kind, pl.String)))
    ranking = lateness.by_rank(of_kind)
    order = _drawn(job, ranking)
    left_out = [] if len(order) == len(job.ranks) else [
        f"{len(job.ranks) - len(order)} ranks with the least lateness are not drawn."
    ]  # fmt: skip
    period = float(of_kind["period_ns"].median() or 0)  # type: ignore[arg-type]
    error = "" if matches.end_skew_ns is None else _clocks(job, matches.end_skew_ns)
    unmatched = f" {matches.unmatched} collectives have no counterpart." if matches.unmatched else ""
    words = f"{kind} step" if kind else "step"
    return RankView(
        title="Lateness by rank",
        lead=(
            f"{len(job.ranks)} ranks, matched at {matches.rows['match_id'].n_unique():,} collectives.{error}{unmatched} "
            f"A {words} takes {ms(period)}; the first step of a capture holds the skew with which the ranks began to record "
            "and is left out."
        ),
        heat=_heat(job, steps, order, detailed, left_out),
        waterfall=_waterfall(job, matches, of_kind, order, left_out),
        stragglers=_stragglers(job, of_kind, ranking, period, detailed),
        waits=_waits(job, kind),
    )


def _clocks(job: Job, end_skew_ns: int) -> str:
    if job.one_clock:
        return f" They share the clock of one file; collectives end within {ms(end_skew_ns)} on all of them."
    return f" Clocks agree within {ms(end_skew_ns)}."


def _drawn(job: Job, ranking: pl.DataFrame) -> list[int]:
    """Members in order of rank; of too many those with the most lateness."""
    known = ranking["member"].to_list()
    every = [*known, *(m for m in range(len(job.ranks)) if m not in set(known))]
    return sorted(every[:_MAX_RANKS])


def _row_height(rows: int) -> int:
    return 16 if rows <= 24 else 10 if rows <= 64 else 6


def _label(job: Job, member: int) -> str:
    return shown(job.ranks[member].label)


def _place(job: Job, detailed: Collection[int], member: int, step_id: int) -> Place | None:
    """The rank's own step on its timeline, where the page has it."""
    digest = job.ranks[member]
    if digest.index not in detailed:
        return None
    row = digest.steps.filter(pl.col("step_id") == step_id).row(0, named=True)
    return Place(digest.index, row["start_ns"], row["start_ns"] + (row["period_ns"] or 0))


# --- ranks by steps --------------------------------------------------------------------------------------------------


def _heat(
    job: Job, steps: pl.DataFrame, order: Sequence[int], detailed: Collection[int], left_out: Sequence[str]
) -> HeatMap:
    numbers = steps["step"].unique().sort()
    kept = numbers[:_MAX_STEPS]
    notes = [*left_out]
    if len(kept) < len(numbers):
        notes.append(f"The first {len(kept)} of {len(numbers)} steps are drawn.")
    drawn = steps.filter(pl.col("step").is_in(kept.implode()) & pl.col("member").is_in(list(order)))
    edge = max(int(drawn["late_ns"].max() or 0), 1)  # type: ignore[arg-type]
    column = {step: at for at, step in enumerate(kept)}
    row = {member: at for at, member in enumerate(order)}
    width = 100 / max(len(kept), 1)
    place = partial(_place, job, detailed)
    cells = tuple(
        HeatCell(
            x=column[each["step"]] * width,
            row=row[each["member"]],
            strength=each["late_ns"] / edge,
            text=shown(_cell_text(_label(job, each["member"]), each)),
            place=place(each["member"], each["step_id"]),
        )
        for each in drawn.rows(named=True)
        if each["late_ns"] >= _FAINTEST * edge
    )
    every = -(-len(kept) // _NAMED)
    named = tuple((at * width + width / 2, str(step)) for step, at in column.items() if at % every == 0)
    return HeatMap(
        tuple(_label(job, m) for m in order), named, cells, width, _row_height(len(order)), ms(edge), tuple(notes)
    )


def _cell_text(label: str, each: dict[str, Any]) -> str:
    return (
        f"{label}, step {each['step']}: {ms(each['late_ns'])} late in all, last at {each['last']} of {each['collectives']} "
        f"collectives, waited {ms(each['waiting_ns'])} for others"
    )


# --- collectives as they ran -----------------------------------------------------------------------------------------


def _waterfall(
    job: Job, matches: Matches, steps: pl.DataFrame, order: Sequence[int], left_out: Sequence[str]
) -> Waterfall:
    """Around the longest wait of the step with the median waiting: where arrival, waiting and transfer lie."""
    waited = steps.group_by("step").agg(pl.col("waiting_ns").sum()).sort("waiting_ns", "step")
    step = waited["step"][(waited.height - 1) // 2]
    rows = matches.rows.filter(pl.col("step") == step)
    group = rows.group_by("group").agg(pl.col("waiting_ns").sum()).sort("waiting_ns", "group")["group"][-1]
    rows = rows.filter(pl.col("group").eq_missing(pl.lit(group, pl.String)))
    ids = rows["match_id"].unique().sort().to_list()
    longest = rows.sort(pl.col("waiting_ns") * -1, "match_id")["match_id"][0]
    at = ids.index(longest)
    first = max(0, min(at - _COLLECTIVES // 2, len(ids) - _COLLECTIVES))
    chosen = ids[first : first + _COLLECTIVES]
    before = rows.filter(pl.col("match_id") == ids[first - 1]) if first else rows.head(0)
    shown_rows = rows.filter(pl.col("match_id").is_in(chosen) & pl.col("member").is_in(list(order)))
    left = int((before if first else shown_rows).select(pl.col("end_ns" if first else "arrival_ns").min()).item())
    right = int(shown_rows["end_ns"].max() or 0)  # type: ignore[arg-type]
    whole = max(right - left, 1)

    def x(time: int) -> float:
        return min(max(100 * (time - left) / whole, 0.0), 100.0)

    begin = dict(before.select("member", "end_ns").rows())
    place = {member: index for index, member in enumerate(order)}
    stretches: list[Stretch] = []
    for each in shown_rows.sort("member", "match_id").rows(named=True):
        member, arrival, end = each["member"], each["arrival_ns"], each["end_ns"]
        moving = end - each["transfer_ns"]
        label, op = _label(job, member), shown(each["op"] or "collective")
        parts = [
            ("work", begin.get(member, left), arrival, f"{label}: until its {op}"),
            ("wait", arrival, moving, f"{label}: waits in {op} for rank {each['last_rank']}"),
            ("transfer", max(moving, arrival), end, f"{label}: {op} transfers"),
        ]
        stretches += [
            Stretch(x(one), x(other) - x(one), place[member], kind, f"{text}, {ms(other - one)}")
            for kind, one, other, text in parts
            if other > one
        ]
        begin[member] = end
    ends = shown_rows.group_by("match_id").agg(pl.col("end_ns").max(), pl.col("op").first()).sort("match_id")
    return Waterfall(
        ranks=tuple(_label(job, m) for m in order),
        stretches=tuple(stretches),
        joins=tuple((x(end), shown(op or "")) for end, op in ends.select("end_ns", "op").rows()),
        ticks=tuple((25.0 * n, ms(whole * n / 4) if n else "0") for n in range(5)),
        row_height=_row_height(len(order)),
        caption=f"{len(chosen)} collectives in a row of step {step}, around its longest wait, {ms(whole)} in all",
        left_out=tuple(left_out),
    )


# --- tables ----------------------------------------------------------------------------------------------------------

_ROWS = 16


def _stragglers(
    job: Job, steps: pl.DataFrame, ranking: pl.DataFrame, period: float, detailed: Collection[int]
) -> Table:
    columns = (
        Column("rank", numeric=True), Column("late, µs/step", numeric=True), Column("of the step, %", numeric=True),
        Column("others wait for it, µs/step", numeric=True), Column("waits itself, µs/step", numeric=True),
        Column("last at", numeric=True), Column("meanwhile, more than the others"),
    )  # fmt: skip
    rows = []
    for at, each in enumerate(ranking.head(_ROWS).rows(named=True)):
        place = _place(job, detailed, each["member"], each["typical_step_id"])
        last = 100 * each["last"] / each["collectives"] if each["collectives"] else 0.0
        rows.append(
            (
                Cell(str(job.ranks[each["member"]].rank), place=place),
                _us(each["late_ns"]),
                Cell(number(100 * each["late_ns"] / period) if period else "–"),
                _us(each["caused_ns"]),
                _us(each["waiting_ns"]),
                Cell(f"{last:.0f} %", f"{each['last']} of {each['collectives']} collectives"),
                Cell(_instead(job, each["member"], steps) if at < _SPOKEN else ""),
            )
        )
    return Table(
        "Stragglers: median over the steps, latest first", columns, tuple(rows), max(0, ranking.height - _ROWS)
    )


def _instead(job: Job, member: int, steps: pl.DataFrame) -> str:
    spent = lateness.instead(job, member, steps).filter(pl.col("extra_ns") > 0).head(1)
    if spent.is_empty():
        return "nothing longer on record"
    row = spent.row(0, named=True)
    blame = f", most under {row['blame']}" if row["blame"] else ""
    return shown(f"{row['what']} +{ms(row['extra_ns'])}{blame}")


def _waits(job: Job, kind: str | None) -> Table:
    found = lateness.waits_between(job, kind)
    columns = (Column("rank", numeric=True), Column("waits for rank", numeric=True), Column("µs/step", numeric=True))
    rows = tuple(
        (Cell(str(rank)), Cell(str(last)), _us(ns)) for rank, last, ns in found.head(_ROWS).select("rank", "last_rank", "ns").rows()
    )  # fmt: skip
    return Table("Who waits for whom", columns, rows, max(0, found.height - _ROWS))


def _us(ns: float) -> Cell:
    return Cell(number(ns / 1000), f"{ns:,.0f} ns")

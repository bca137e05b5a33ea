"""Warp stall reasons: what a warp waits for and what helps (``stalls.toml``)."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

_COUNTER = re.compile(
    r"smsp__(?:average_warps?_(?:latency_)?issue_stalled_(\w+?)(?:_per_issue_active)?\.(?:ratio|pct)"
    r"|warp_issue_stalled_(\w+?)_per_warp_active\.pct"
    r"|pcsamp_warps_issue_stalled_(\w+))"
)
_NOT_ISSUED = "_not_issued"


class StallAdvice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"action": "do"}):
    """One reason: what the warp waits for, what shortens it, and when its share is worth a word.

    ``harmless``: a high share alone is no fault. ``threshold_pct``: from this share of the cycles between two issues
    on. ``ceiling``: a kernel at that ceiling has to wait like this.
    """

    reason: str
    means: str
    action: str
    aliases: tuple[str, ...] = ()
    harmless: bool = False
    threshold_pct: float = 30.0
    ceiling: Literal["memory"] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    stall: list[StallAdvice]


def stall_advice(reason: str) -> StallAdvice | None:
    """Advice for a reason (``long_scoreboard``), its label (``Stall Long Scoreboard``) or its counter's name.

    None for a reason this table does not know, as a newer Nsight Compute may bring.
    """
    return _by_reason().get(_spelled(stall_reason(reason) or reason))


def stall_reason(metric: str) -> str | None:
    """The reason a stall counter counts, spelled as in the table where it stands there; else None.

    Samples that count only cycles without an issue (``…_not_issued``) are left out: they repeat the others.
    """
    found = _COUNTER.fullmatch(metric)
    if found is None or _NOT_ISSUED in metric:
        return None
    reason = next(group for group in found.groups() if group)
    known = _by_reason().get(reason)
    return known.reason if known else reason


def reasons() -> tuple[StallAdvice, ...]:
    """Every reason, in the table's order."""
    text = files("traceql").joinpath("stalls.toml").read_bytes()
    return tuple(msgspec.toml.decode(text, type=_File).stall)


def markdown_table() -> str:
    """The table as docs/nsight-compute.md shows it, ending with a newline."""
    lines = [("warp stall", "the warp waits for", "what helps"), ("---", "---", "---")]
    lines += [(f"`{advice.reason}`", advice.means, advice.action) for advice in reasons()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


@cache
def _by_reason() -> dict[str, StallAdvice]:
    return {name: advice for advice in reasons() for name in (advice.reason, *advice.aliases)}


def _spelled(reason: str) -> str:
    return re.sub(r"\W+", "_", reason.strip().lower()).removeprefix("stall_")

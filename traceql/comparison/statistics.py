"""Whether one set of runs is slower than another: an exact rank test, for few runs and no assumed distribution.

The run is the unit: steps of one run share its clocks, its memory layout and its neighbours, and are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, log
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outcome = Literal["slower", "faster", "small", "no difference", "inconclusive"]

ALPHA = 0.05
MIN_EFFECT_PCT = 3.0


@dataclass(frozen=True)
class Judgement:
    """One metric of two sets of runs; larger values are worse.

    Attributes:
        change_pct: head against base, the median of all pairwise ratios (Hodges-Lehmann on logarithms).
        low_pct, high_pct: confidence interval of the change at 1 − alpha; None where the runs are too few for one.
        p_value: two-sided, exact, as tested. adjusted_p: after Holm over the metrics judged together.
        outcome: *slower* or *faster*: significant, and a change of the minimum effect not ruled out. *small*:
            significant, and surely below it. *no difference*: not significant. *inconclusive*: so few runs that no
            outcome could have been significant.
        least_pct: the minimum effect it was judged by, in per cent of the base.
    """

    metric: str
    base: tuple[float, ...]
    head: tuple[float, ...]
    base_median: float
    head_median: float
    change_pct: float
    low_pct: float | None
    high_pct: float | None
    p_value: float
    adjusted_p: float
    outcome: Outcome
    least_pct: float = MIN_EFFECT_PCT

    @property
    def missed_pct(self) -> float | None:
        """The slowdown that *no difference* does not rule out, where it is over the minimum effect; else None."""
        if self.outcome != "no difference" or self.high_pct is None or self.high_pct <= self.least_pct:
            return None
        return self.high_pct


def judge(
    metrics: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    alpha: float = ALPHA,
    min_effect_pct: float = MIN_EFFECT_PCT,
    floor: float = 0.0,
) -> list[Judgement]:
    """Judge each metric's (base runs, head runs), all positive; ``floor`` is the least absolute change that counts.

    The chance that any of them is called slower or faster when nothing changed is at most ``alpha``.
    """
    p_values = [mann_whitney(base, head) for base, head in metrics.values()]
    adjusted = holm(p_values)
    level = alpha / max(1, len(metrics))
    found = []
    for (name, (base, head)), p, p_adjusted in zip(metrics.items(), p_values, adjusted, strict=True):
        change, low, high = shift_pct(base, head, alpha)
        typical = median(base)
        least = max(min_effect_pct, 100 * floor / typical if typical else 0.0)
        outcome: Outcome
        if least_p(base, head) > level and len({*base, *head}) > 1:
            outcome = "inconclusive"
        elif p_adjusted > alpha:
            outcome = "no difference"
        elif change > 0:
            outcome = "slower" if (change if high is None else high) >= least else "small"
        else:
            outcome = "faster" if -(change if low is None else low) >= least else "small"
        found.append(
            Judgement(
                name, tuple(base), tuple(head), typical, median(head), change, low, high, p, p_adjusted, outcome, least
            )
        )
    return found


_GRAVITY = ("slower", "inconclusive", "faster", "small", "no difference")


def gravest(judgements: Sequence[Judgement]) -> Judgement | None:
    """The judgement that matters most; of several alike that of replays, which is what serves. None of none."""
    return min(judgements, key=lambda j: (_GRAVITY.index(j.outcome), not j.metric.endswith("graph")), default=None)


def least_p(base: Sequence[float], head: Sequence[float]) -> float:
    """The smallest p value that these very values could give, dealt otherwise: ties leave fewer ways to be extreme."""
    if not base or not head:
        return 1.0
    ranks = sorted(_doubled_ranks([*base, *head]))
    counts = _rank_sums(tuple(ranks), len(base))
    distance = np.abs(np.arange(len(counts)) - len(base) * (len(ranks) + 1))
    farthest = distance[counts > 0].max()
    return float(counts[distance >= farthest].sum() / counts.sum())


def mann_whitney(base: Sequence[float], head: Sequence[float]) -> float:
    """Two-sided exact p value of the Mann-Whitney test, ties by their mid-ranks.

    The share of all ways to deal the pooled ranks to the two sides in which the rank sum lies at least as far from its
    mean as the one observed.
    """
    if not base or not head:
        return 1.0
    ranks = _doubled_ranks([*base, *head])
    own = sum(ranks[: len(base)])
    counts = _rank_sums(tuple(sorted(ranks)), len(base))
    centre = len(base) * (len(ranks) + 1)  # mean of the doubled rank sum
    distance = np.abs(np.arange(len(counts)) - centre)
    return float(counts[distance >= abs(own - centre)].sum() / counts.sum())


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the mid-rank of each value: whole numbers, ties included."""
    ordered = sorted(values)
    first = {value: index for index, value in reversed(list(enumerate(ordered)))}
    last = {value: index for index, value in enumerate(ordered)}
    return [first[value] + last[value] + 2 for value in values]


@cache
def _rank_sums(ranks: tuple[int, ...], size: int) -> NDArray[np.float64]:
    """How many subsets of ``size`` ranks have each sum; exact up to 2**53 ways, relative to 1e-15 beyond."""
    total = sum(ranks)
    counts = np.zeros((size + 1, total + 1))
    counts[0, 0] = 1
    for rank in ranks:
        counts[1:, rank:] += counts[:-1, : total + 1 - rank].copy()
    found: NDArray[np.float64] = counts[size]
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compare with alpha and the family-wise error is at most alpha."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def shift_pct(
    base: Sequence[float], head: Sequence[float], alpha: float = ALPHA
) -> tuple[float, float | None, float | None]:
    """Change of head against base in per cent, and its confidence interval from the same rank test.

    None for the bounds where the runs are too few for the level.
    """
    if not base or not head:
        return 0.0, None, None
    ratios = sorted(log(h) - log(b) for h in head for b in base)
    outside = _pairs_outside(len(base), len(head), alpha)
    if outside is None:
        return _pct(median(ratios)), None, None
    return _pct(median(ratios)), _pct(ratios[outside]), _pct(ratios[-1 - outside])


def _pairs_outside(base: int, head: int, alpha: float) -> int | None:
    """How many ordered pairs lie outside the interval on each side; None where even the extremes are inside."""
    counts = _rank_sums(tuple(range(2, 2 * (base + head) + 1, 2)), base)[::2]
    u = counts[base * (base + 1) // 2 :]  # from the least rank sum on: the distribution of U
    tail = np.cumsum(u) / u.sum()
    allowed = int(np.searchsorted(tail, alpha / 2, side="right"))
    return allowed - 1 if allowed else None


def _pct(log_ratio: float) -> float:
    return 100 * (exp(log_ratio) - 1)

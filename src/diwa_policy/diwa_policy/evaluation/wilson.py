"""95% intervals of success rates (Wilson 1927) and of their differences over shared starts (Newcombe 1998)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959963984540054
"""97.5% point of the normal distribution."""


class Rate(NamedTuple):
    """A share, or a difference of two, with the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Rate:
    """The share of successes. Between 0 and 1 also where all or none succeeded; all of that after no trial."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if not trials:
        return Rate(math.nan, 0.0, 1.0)
    share, spread = successes / trials, Z_95 * Z_95 / trials
    centre = (share + spread / 2.0) / (1.0 + spread)
    half = Z_95 / (1.0 + spread) * math.sqrt(share * (1.0 - share) / trials + spread / (4.0 * trials))
    # The bounds of none and of all are 0 and 1, but for rounding.
    low = centre - half if successes else 0.0
    high = centre + half if successes < trials else 1.0
    return Rate(share, low, high)


def paired_difference(base: Sequence[bool], other: Sequence[bool]) -> Rate:
    """Share of ``other`` less that of ``base``; number n of both is the same start.

    Newcombe's square-and-add interval (his method 10): from the Wilson bounds of both shares and their correlation,
    which is what is won by sharing the starts.
    """
    trials = len(base)
    if len(other) != trials:
        raise ValueError(f"{trials} and {len(other)} outcomes; expected pairs")
    if not trials:
        return Rate(math.nan, -1.0, 1.0)
    before, after = wilson(sum(base), trials), wilson(sum(other), trials)
    value, correlation = after.value - before.value, _correlation(base, other)
    low = _beside(after.value - after.low, before.high - before.value, correlation)
    high = _beside(after.high - after.value, before.value - before.low, correlation)
    return Rate(value, max(value - low, -1.0), min(value + high, 1.0))


def _beside(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one * one - 2.0 * correlation * one * other + other * other, 0.0))


def _correlation(base: Sequence[bool], other: Sequence[bool]) -> float:
    """phi of the outcomes, a positive one made smaller as Newcombe does; 0 where one side never varies."""
    trials = len(base)
    both = sum(a and b for a, b in zip(base, other, strict=True))
    first, second = sum(base), sum(other)
    product = first * (trials - first) * second * (trials - second)
    if not product:
        return 0.0
    covariance = float(both * trials - first * second)  # ad - bc
    if covariance > 0.0:
        covariance = max(covariance - trials / 2.0, 0.0)
    return covariance / math.sqrt(product)

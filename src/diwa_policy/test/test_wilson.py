from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from diwa_policy.evaluation.wilson import paired_difference, wilson

OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def of_table(both: int, first_only: int, second_only: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Outcomes of a base and of another with these counts."""
    first = [True] * (both + first_only) + [False] * (second_only + neither)
    second = [True] * both + [False] * first_only + [True] * second_only + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes, trials, low, high):
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, Table I, method 3."""
    assert wilson(successes, trials) == pytest.approx((successes / trials, low, high), abs=5e-5)


def test_wilson_covers_the_true_share_nearly_as_often_as_it_says():
    trials = 40
    rates = [wilson(successes, trials) for successes in range(trials + 1)]
    covered = [
        sum(binom.pmf(n, trials, share) for n, rate in enumerate(rates) if rate.low <= share <= rate.high)
        for share in np.linspace(0.05, 0.95, 91)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.90


def test_wilson_of_no_trial_knows_nothing():
    rate = wilson(0, 0)
    assert math.isnan(rate.value)
    assert (rate.low, rate.high) == (0.0, 1.0)


def test_wilson_refuses_more_successes_than_trials():
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        wilson(3, 2)


def test_paired_difference_gives_the_published_interval():
    """Bentur et al. 2009 as in Fagerland et al. 2014, Table IV: Newcombe's square-and-add interval."""
    assert paired_difference(*of_table(1, 1, 7, 12)) == pytest.approx((0.286, 0.026, 0.507), abs=5e-4)


def test_pairs_that_agree_make_the_interval_narrower():
    agreeing = paired_difference(*of_table(45, 5, 15, 35))
    independent = paired_difference(*of_table(30, 20, 30, 20))
    assert agreeing.value == independent.value == pytest.approx(0.1)
    assert agreeing.high - agreeing.low < 0.8 * (independent.high - independent.low)


@given(OUTCOMES)
def test_paired_difference_holds_its_value_and_turns_round_with_its_sides(outcomes):
    base, other = ([pair[side] for pair in outcomes] for side in (0, 1))
    there, back = paired_difference(base, other), paired_difference(other, base)
    assert -1.0 <= there.low <= there.value <= there.high <= 1.0
    assert back == pytest.approx((-there.value, -there.high, -there.low), abs=1e-12)


def test_paired_difference_of_equals_is_zero_but_not_certain():
    difference = paired_difference([True] * 20, [True] * 20)
    assert difference.value == 0.0
    assert difference.low < 0.0 < difference.high


def test_paired_difference_needs_pairs():
    with pytest.raises(ValueError, match="expected pairs"):
        paired_difference([True], [])

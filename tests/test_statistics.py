"""Intervals, against the plain way to compute them."""

import math

import numpy as np
import pytest

from tools.statistics import Difference, hierarchical_bootstrap, paired_bootstrap, uneven


@pytest.mark.parametrize(("n", "right"), [(40, (12, 20)), (400, (200, 230))])
def test_paired_bootstrap_is_the_plain_one(n, right):
    """Against resampling question by question; and swapping the two sides swaps the sign."""
    rng = np.random.default_rng(1)
    first, second = (dict(enumerate(rng.permutation([1.0] * k + [0.0] * (n - k)))) for k in right)
    found = paired_bootstrap(first, second)
    differences = np.array([second[id] - first[id] for id in first])
    means = differences[rng.integers(n, size=(20_000, n))].mean(1)
    assert found.n == n and found.mean == pytest.approx((right[1] - right[0]) / n)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=1.5 / n)
    back = paired_bootstrap(second, first)
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=1.5 / n)
    assert paired_bootstrap(first, first) == Difference(n, 0, 0, 0)
    assert paired_bootstrap(first, {"other": 1.0}).n == 0


def test_uneven_is_the_chi_square_test():
    """Against Pearson's statistic in closed form for two values, and flat where letters are even."""
    assert uneven([(4, letter) for letter in "ABCD" * 20]) == 1.0
    assert uneven([(4, "B")] * 40) < 1e-3
    lopsided = [(2, "A")] * 60 + [(2, "B")] * 40  # chi-square = 4 with one degree of freedom: p = erfc(sqrt(2))
    assert uneven(lopsided) == pytest.approx(math.erfc(math.sqrt(2)), abs=0.015)
    assert uneven([(2, "A")] * 30 + [(3, letter) for letter in "ABC" * 20]) < 1e-3  # groups add up


def by_seed(values):
    """Differences (seeds, questions) as the bootstrap takes them."""
    return [{str(n): value for n, value in enumerate(row)} for row in values]


@pytest.mark.parametrize(("between_seeds", "between_questions"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_hierarchical_bootstrap_is_the_plain_one(between_seeds, between_questions):
    """Against drawing seeds, then questions, one resample at a time."""
    rng = np.random.default_rng(2)
    seeds, n = 5, 40
    values = rng.normal(size=(seeds, 1)) * between_seeds + rng.normal(size=(1, n)) * between_questions
    found = hierarchical_bootstrap(by_seed(values))
    draws = [values[rng.integers(seeds, size=seeds)][:, rng.integers(n, size=n)].mean() for _ in range(20_000)]
    assert found.n == n and found.mean == pytest.approx(values.mean())
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), abs=0.05 * width)


def test_one_seed_is_the_paired_bootstrap_and_more_seeds_never_hide_their_spread():
    rng = np.random.default_rng(3)
    row = rng.integers(-1, 2, size=60).astype(float)
    one, paired = (
        hierarchical_bootstrap(by_seed([row])),
        paired_bootstrap(dict.fromkeys(by_seed([row])[0], 0.0), by_seed([row])[0]),
    )
    assert (one.low, one.high) == pytest.approx((paired.low, paired.high), abs=0.03)
    apart = hierarchical_bootstrap(by_seed([row - 1, row, row + 1]))
    assert apart.low < one.low - 0.3 and apart.high > one.high + 0.3
    assert hierarchical_bootstrap([{"a": 1.0}, {"b": 1.0}]).n == 0 and hierarchical_bootstrap([]).n == 0
    assert hierarchical_bootstrap([{"a": 1.0, "b": 0.0}, {"b": 1.0}]).mean == 0.5  # the questions that all have

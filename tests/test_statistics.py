"""Intervals, against the plain way to compute them."""

import numpy as np
import pytest

from tools.statistics import Difference, paired_bootstrap


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

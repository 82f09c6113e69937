"""How sure a share is, and a difference of two: intervals for what was measured on a sample of questions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Z = 1.96  # of a 95% interval
RESAMPLES = 10_000  # of a bootstrap


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share of `n` independent trials (Wilson 1927; Newcombe 1998, method 3).

    For means of several samples per question it is on the safe side.
    """
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over `n` questions and the bounds of its 95% interval, as shares."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def paired_bootstrap(first: Mapping[str, float], second: Mapping[str, float]) -> Difference:
    """How much higher `second` is on the questions that both have; the interval is from resampling these questions.

    Each maps a question's id to its share of right samples. How often each distinct difference is drawn is
    multinomial, so no question has to be drawn one by one (Efron & Tibshirani 1993, section 6.4).
    """
    differences = np.array([second[id] - share for id, share in first.items() if id in second])
    n = len(differences)
    if n == 0:
        return Difference(0, 0.0, 0.0, 0.0)
    values, counts = np.unique(differences, return_counts=True)
    means = np.random.default_rng(0).multinomial(n, counts / n, size=RESAMPLES) @ values / n
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(n, float(differences.mean()), float(low), float(high))

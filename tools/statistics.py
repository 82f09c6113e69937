"""How sure a share is, and a difference of two: intervals for what was measured on a sample of questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96  # of a 95% interval
RESAMPLES = 10_000  # of a bootstrap
PORTION = 500  # of them that are drawn at a time, so that many questions fit the memory


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


def hierarchical_bootstrap(differences: Sequence[Mapping[str, float]]) -> Difference:
    """The mean over several seeds of one method and over the questions that all of them have.

    Each seed maps a question's id to a difference, or to any value. A resample draws seeds with replacement, then
    questions, the same ones for each seed, because all seeds answer the same: seeds and questions are crossed, and the
    interval is at least as wide as it has to be (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics
    1(2)). Of one seed it is that of the questions. Few seeds tell little: of three, all draws are of these three.
    """
    shared = [id for id in differences[0] if all(id in seed for seed in differences)] if differences else []
    if not shared:
        return Difference(0, 0.0, 0.0, 0.0)
    values = np.array([[seed[id] for id in shared] for seed in differences])  # (seeds, questions)
    seeds, n = values.shape
    rng = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES // PORTION):
        of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=PORTION) / seeds
        of_questions = rng.multinomial(n, np.full(n, 1 / n), size=PORTION) / n
        means.append(((of_seeds @ values) * of_questions).sum(1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Difference(n, float(values.mean()), float(low), float(high))


def uneven(draws: Iterable[tuple[int, str]]) -> float:
    """How likely draws at least as uneven as these are if each is uniform: Pearson's chi-square, its p by simulation.

    A draw is (number of possible values, the value). With `RESAMPLES` simulations p is never below 1 / (1 + RESAMPLES)
    (Davison & Hinkley 1997, section 4.2).
    """
    counts = Counter(draws)
    rng, found, simulated = np.random.default_rng(0), 0.0, np.zeros(RESAMPLES)
    for size in {size for size, _ in counts}:
        observed = np.array([count for (of, _), count in counts.items() if of == size])
        total = observed.sum()
        found += (observed**2).sum() * size / total - total
        drawn = rng.multinomial(total, np.full(size, 1 / size), size=RESAMPLES)
        simulated += (drawn**2).sum(1) * size / total - total
    return float((1 + (simulated >= found - 1e-9).sum()) / (1 + RESAMPLES))

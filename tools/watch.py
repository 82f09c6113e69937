"""A training stage that speaks up: what is wrong with a run, read from its metrics alone.

Such runs fail silently: rewards of zero, everything cut, nothing learned, and no line that says so. `CONDITIONS` is the
table of what is watched. A condition is told once when it has held for its number of steps in a row, and once when it
has not held for as many; a step whose metrics lack its fields counts for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

Row = dict[str, Any]  # a step's metrics, as in metrics.jsonl
HISTORY = 200  # steps that conditions may look back


@dataclass(frozen=True, slots=True)
class Condition:
    """`holds(rows)` judges the last of the rows, which may be one only; it raises KeyError if a field is missing."""

    name: str
    steps: int  # in a row before it is told
    holds: Callable[[Sequence[Row]], bool]
    message: str  # what it means, and the remedy


def _halves(rows: Sequence[Row], name: str, steps: int) -> tuple[float, float]:
    """The means of a field over the first and the second half of the last `steps` rows. KeyError if there are fewer."""
    if len(rows) < steps:
        raise KeyError(name)
    values, half = [row[name] for row in rows[-steps:]], steps // 2
    return fmean(values[:half]), fmean(values[half:])


def _truncation_rises(rows: Sequence[Row]) -> bool:
    before, now = _halves(rows, "truncated", 20)
    last = rows[-1]["truncated"]
    return before + 0.1 < min(now, last) and last <= 0.5  # above a half is told apart


def _collapses(rows: Sequence[Row]) -> bool:
    (entropy, now), (reward, earned) = _halves(rows, "entropy", 40), _halves(rows, "reward", 40)
    return now < entropy / 2 and earned <= reward + 0.01


def _unlearns(rows: Sequence[Row]) -> bool:
    (entropy, now), (reward, earned) = _halves(rows, "entropy", 20), _halves(rows, "reward", 20)
    return earned < reward - 0.05 and now > 1.25 * entropy


def _too_small(rows: Sequence[Row]) -> bool:
    alike = fmean(row["zero_advantage"] for row in rows[-10:])  # a step of few groups is noisy
    return rows[-1]["group_size"] < 4 and 0.6 < alike <= 0.9  # above 90% is told apart


def _gradient_explodes(rows: Sequence[Row]) -> bool:
    norms = [row["grad_norm"] for row in rows[:-1] if row["grad_norm"] > 0]
    return len(norms) >= 10 and rows[-1]["grad_norm"] > 100 * median(norms)


def _slows_down(rows: Sequence[Row]) -> bool:
    speeds = [row["tokens_per_s"] for row in rows if "sampled_tokens" in row]
    return len(speeds) > 20 and "sampled_tokens" in rows[-1] and speeds[-1] < median(speeds[:-1]) / 2


CONDITIONS = (
    Condition("no advantage", 10, lambda rows: rows[-1]["zero_advantage"] > 0.9,
        "above 90% of the groups have no advantage: nothing is learned from them. With `accuracy` near 0 the questions "
        "are too hard or the form is not known (a longer cold start), near 1 too easy (stage 2); raise --group-size"),
    Condition("truncated", 5, lambda rows: rows[-1]["truncated"] > 0.5,
        "above half of the responses are cut and earn nothing: raise --max-new-tokens"),
    Condition("truncation rises", 5, _truncation_rises,
        "ever more responses are cut (10 points more than ten steps before): raise --max-new-tokens or lower --lr"),
    Condition("no format", 5, lambda rows: rows[-1]["format"] < 0.1,
        "below 10% of the responses keep the form: is the model cold-started (sft.py), its chat template the one it "
        "was trained with, --max-new-tokens enough?"),
    Condition("entropy collapses", 5, _collapses,
        "the entropy has halved within 40 steps and the reward does not rise: the policy narrows without learning; go "
        "back to an earlier model and lower --lr"),
    Condition("unlearns", 3, _unlearns,
        "within 20 steps the reward has fallen by more than 0.05 and the entropy has risen by a quarter: the steps are "
        "too large for this gradient; go back to an earlier model and lower --lr, or sample more responses a step"),
    Condition("one letter", 5, lambda rows: rows[-1]["top_letter"] > 0.8,
        "above 80% of the answers are one letter, whatever is asked: the policy has collapsed; lower --lr, or begin "
        "with a longer cold start"),
    Condition("sampler and trainer disagree", 5,
        lambda rows: rows[-1]["logprob_gap"] > 0.05 or rows[-1]["ratio_outside"] > 0.1,
        "sampler and trainer disagree on log pi (gap above 0.05 or a tenth of the ratios outside 0.9 to 1.1): another "
        "precision or a changed forward; the gradient is no longer that of Eq. 1"),
    Condition("samples are not the policy's", 5,
        lambda rows: rows[-1]["surprise"] < 0.8 * rows[-1]["entropy"],
        "the sampled tokens are likelier than the policy's own would be (`surprise` below 0.8 of `entropy`): sample at "
        "temperature 1 without truncation (top-p 1), or the gradient is not that of Eq. 1"),
    Condition("no baseline", 5, lambda rows: abs(rows[-1]["advantage"]) > 0.1,
        "the advantages of all responses do not come to zero (`advantage`): the group's mean (Eq. 3) is not what is "
        "subtracted from the rewards, which makes the gradient noisier"),
    Condition("small groups", 5, _too_small,
        "of groups of two or three responses more than 60% have no advantage: few samples teach anything, and stage 1 "
        "may take it for its plateau; raise --group-size, and lower --questions for as many samples"),
    Condition("differences of nothing", 5, lambda rows: rows[-1]["nearly_equal"] > 0.1,
        "in above a tenth of the groups rewards differ by less than 0.05, and --with-std lets that count as much as "
        "right against wrong: leave it out, or let rewards differ by what matters only"),
    Condition("no gradient", 5, lambda rows: rows[-1]["grad_norm"] == 0,
        "the gradient is zero: nothing is learned; are all rewards of a group alike (`zero_advantage`)?"),
    Condition("gradient explodes", 1, _gradient_explodes,
        "the gradient is above a hundred times its median: look at this step's data; lower --lr or --max-grad-norm"),
    Condition("slower", 20, _slows_down,
        "half as many tokens are sampled a second as before: are others using this machine, or responses much longer "
        "(`length`, --cache-gb)?"),
    Condition("memory is idle", 20, lambda rows: rows[-1]["memory_share"] < 0.5,
        "more than half of the card's memory is never used: raise --micro-tokens and --cache-gb, or leave out "
        "--gradient-checkpointing and --cpu-offload"),
)  # fmt: skip


@dataclass(slots=True)
class Watcher:
    """What has been told of a stage so far. It follows from the stage's metrics alone, so `watch` of the lines that a
    run has left restores it."""

    rows: list[Row] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)  # steps in a row that spoke against what was told last
    told: set[str] = field(default_factory=set)  # the conditions that hold now

    def watch(self, row: Row) -> list[str]:
        """Take a step's metrics in; a line for each condition that begins to hold, or no longer holds, with it."""
        self.rows = [*self.rows[1 - HISTORY :], row]
        return [line for condition in CONDITIONS if (line := self._judge(condition))]

    def restore(self, rows: Iterable[Row]) -> None:
        """Take in what was told already."""
        for row in rows:
            self.watch(row)

    def _judge(self, condition: Condition) -> str | None:
        name, holding = condition.name, condition.name in self.told
        try:
            changes = condition.holds(self.rows) != holding
        except KeyError:
            return None
        self.streaks[name] = self.streaks.get(name, 0) + 1 if changes else 0
        if self.streaks[name] < condition.steps:
            return None
        self.streaks[name] = 0
        self.told ^= {name}
        return f"{name}: over" if holding else f"{name}: {condition.message}"

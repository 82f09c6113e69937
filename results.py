"""The results file: what one model answered to one benchmark, and its scores (section 4).

    eval/BENCHMARK/MODEL.jsonl   one response per line, with all that scoring needs
    eval/BENCHMARK/MODEL.json    how they were made (`settings`), and their scores

`reward.parse`, the training reward's own extractor, reads each answer: the last explicit <answer>, no fuzzy fallback.
A response without one, an empty or a cut one, is wrong and stays in the denominator. Scores need the files alone.
Models that were not trained on that form often answer in another one: `lenient_answer` reads those too, for a column of
its own, which no reward ever sees.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from fidelity import BY_PATH, OUTCOMES, REASONS, PathJudge
from question import LETTERS, TIERS, Question, order_of
from reward import parse
from tools.cli import UserError
from tools.run import is_there, read_json, read_jsonl
from tools.shape import misfit
from tools.statistics import wilson_interval

RESPONSE = {  # the shape of a line of a results file
    **{"id": str, "sample?": int, "tier": (str, None), "kind": (str, None), "truth": str, "response?": str},
    **{"logprobs?": {str: float}, "tokens?": (int, None), "truncated?": (bool, None)},
}
SETTINGS = {"questions": int}  # of what is noted of how it was made, what tables rely on


def result_row(question: Question, sample: int = 0, **outcome: Any) -> dict[str, Any]:
    """A line of a results file: all that scoring needs."""
    return {"id": question.id, "sample": sample, "tier": question.tier, "kind": question.kind,
            "truth": question.answer, **outcome}  # fmt: skip


def provenance(path: Path) -> dict[str, Any]:
    """What is noted beside a results file: its `settings` and `scores`; empty if there is no note.

    Raises UserError with the remedy if the note is broken.
    """
    note = path.with_suffix(".json")
    shape = {"settings?": SETTINGS, "scores?": {}}
    return read_json(note, shape, f"delete it and {path.name} to evaluate again") if is_there(note) else {}


# -------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy (a share) of `n` questions."""

    accuracy: float
    n: int

    @classmethod
    def of(cls, shares: Iterable[float]) -> Score:
        shares = list(shares)
        return cls(fmean(shares), len(shares))

    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        return wilson_interval(self.accuracy, self.n)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.accuracy:.1f} ({100 * low:.1f}-{100 * high:.1f})"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question and the answers of its samples, None where a response gave none.

    Where the options were shown in other orders, letters are those of the question's own order; `shown` are the ones
    that were given, each after the number of options. `length` is that of the path, `ways` are the samples'
    `fidelity.OUTCOMES` or `REASONS`; empty if paths were not judged.
    """

    truth: str
    tier: str | None
    kind: str | None
    length: str = ""
    answers: list[str | None] = field(default_factory=list)
    shown: list[tuple[int, str]] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)

    def take(self, answer: str | None, order: str) -> None:
        """Note a sample's answer; `order` is that of the options, if it is not the question's own."""
        self.answers.append(own_letter(answer, order))
        if order and answer and answer in LETTERS[: len(order)]:
            self.shown.append((len(order), answer))

    @property
    def share(self) -> float:
        """The share of right samples."""
        return self.answers.count(self.truth) / len(self.answers)

    @property
    def same(self) -> float:
        """The share of pairs of samples that give the same answer."""
        pairs = math.comb(len(self.answers), 2)
        return sum(math.comb(n, 2) for answer, n in Counter(self.answers).items() if answer) / max(1, pairs)

    def judged(self) -> list[str]:
        """The outcomes of those samples that have one."""
        return [way for way in self.ways if way in OUTCOMES]


@dataclass(frozen=True)
class Scores:
    """One model's results on one benchmark, by question id; a mean over all responses is None where it is unknown.

    `lenient` is the accuracy as `lenient_answer` reads, `length` is in tokens; `settings` says how all that was made.
    """

    answered: dict[str, Answered]
    well_formed: float | None
    lenient: float | None
    truncated: float | None
    length: float | None
    settings: dict[str, Any]

    @cached_property
    def correct(self) -> dict[str, float]:
        """Each question's share of right samples."""
        return {id: item.share for id, item in self.answered.items()}

    @cached_property
    def overall(self) -> Score:
        return Score.of(self.correct.values())

    @cached_property
    def subsets(self) -> dict[str, Score]:
        """The questions of each tier and of each kind (subject, body system, path, ...)."""
        members: dict[str, list[float]] = defaultdict(list)
        for id, item in self.answered.items():
            for name in {item.tier, item.kind} - {None}:
                members[name].append(self.correct[id])
        return {name: Score.of(members[name]) for name in sorted(members)}

    @cached_property
    def fidelity(self) -> dict[str, dict[str, Score]]:
        """Of all judged questions, of each tier and each length of the path: the share of each of `OUTCOMES`."""
        groups: dict[str, list[list[str]]] = defaultdict(list)
        for item in self.answered.values():
            if judged := item.judged():
                for name in ("all", item.tier, item.length):
                    groups[name].append(judged)
        places = {name: place for place, name in enumerate(("all", *TIERS))}
        return {
            name: {way: Score.of(judged.count(way) / len(judged) for judged in groups[name]) for way in OUTCOMES}
            for name in sorted(groups.keys() - {None}, key=lambda name: (places.get(name, len(places)), name))
        }

    @cached_property
    def by_path(self) -> dict[str, float]:
        """Of each judged question the share of samples that are right by the path."""
        judged = {id: item.judged() for id, item in self.answered.items()}
        return {id: ways.count(BY_PATH) / len(ways) for id, ways in judged.items() if ways}

    @property
    def left_out(self) -> Counter[str]:
        """How many questions path fidelity leaves out for each of `REASONS`; none if paths were not judged."""
        reasons = [item.ways[0] for item in self.answered.values() if item.ways and not item.judged()]
        return Counter({reason: reasons.count(reason) for reason in REASONS if reason in reasons})

    @property
    def samples(self) -> int:
        """Responses per question: the k of pass@k."""
        return max(len(item.answers) for item in self.answered.values())

    @property
    def mute(self) -> bool:
        """Whether no response at all held an answer."""
        return not any(answer for item in self.answered.values() for answer in item.answers)

    @property
    def pass_at_k(self) -> float:
        """The share of questions with a right answer among their samples."""
        return fmean(share > 0 for share in self.correct.values())

    @property
    def majority(self) -> float:
        """The share of questions whose most frequent answer is right."""
        return fmean(majority_vote(item.answers) == item.truth for item in self.answered.values())

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data."""
        several = {"pass_at_k": self.pass_at_k, "majority": self.majority} if self.samples > 1 else {}
        low, high = self.overall.interval()
        return {
            "n": self.overall.n, "samples": self.samples, "accuracy": self.overall.accuracy, "low": low, "high": high,
            **several, "format": self.well_formed, "lenient": self.lenient, "truncated": self.truncated,
            "length": self.length, **self.summary_of_paths(),
            "subsets": {name: [score.accuracy, score.n, *score.interval()] for name, score in self.subsets.items()},
        }  # fmt: skip

    def summary_of_paths(self) -> dict[str, Any]:
        """How the answers were reached, as plain data; nothing if paths were not judged."""
        groups = {
            group: {way: [score.accuracy, score.n, *score.interval()] for way, score in ways.items()}
            for group, ways in self.fidelity.items()
        }
        return {"fidelity": groups, "fidelity_left_out": dict(self.left_out)} if groups else {}


Results = dict[str, dict[str, Scores]]  # model -> benchmark -> scores
OWN = ("heldout", "heldout_public")  # the run's own questions, synthetic and public: see curate.py


def macro_average(scores: dict[str, Scores]) -> float:
    """The mean over benchmarks, each counting the same (the paper's "Avg.")."""
    return fmean(item.overall.accuracy for item in scores.values())


def micro_average(scores: dict[str, Scores]) -> float:
    """The mean over all questions of all benchmarks."""
    return fmean(share for item in scores.values() for share in item.correct.values())


# ------------------------------------------------------------------------------------------------- reading and scoring


def row_problem(row: dict[str, Any]) -> str | None:
    """Why a row holds no saved response, in a few words; None if it holds one."""
    if problem := misfit(row, RESPONSE):
        return problem
    if len(row["truth"]) != 1 or not {row["truth"], *row.get("logprobs", "")} <= set(LETTERS):
        return "truth or logprobs name no option's letter"
    return None if row.get("logprobs") or "response" in row else "there is neither response nor logprobs"


def read_answer(row: dict[str, Any]) -> tuple[str | None, bool | None]:
    """The answer's letter and whether the format holds; of log-likelihoods the likeliest letter, and no format."""
    if "logprobs" in row:
        return max(row["logprobs"], key=row["logprobs"].get), None
    if row.get("truncated"):  # it earns nothing, as in training
        return None, False
    response = parse(row["response"])
    return response.answer, response.well_formed


# An answer's letter outside of <answer>, told from a word: "A patient" is no answer.
BOXED = re.compile(r"\\boxed\{(?:\\text\{)?\s{0,3}\(?([A-Z])(?![A-Za-z])")
BOLD = re.compile(r"\*\*\(?([A-Z])(?:[.):]|\*\*)")
NAMED = re.compile(r"(?i:answer|option|choice|答案|选)(?:\s{0,3}(?i:is|是|为))?[\s:：*(（]{0,6}([A-Z])(?![A-Za-z'])")
FIRST = re.compile(r"^[\W_]{0,6}([A-Z])(?:[.):．、：]|[\W_]{0,6}$)")


def lenient_answer(response: str) -> str | None:
    """The letter that a response means, also in the form of another contract: an explicit <answer>, else its last
    boxed letter, else that of its last line ("B", "B. Pneumonia", "the answer is B"), else the last bold one."""
    said = response.rpartition("</think>")[2].strip()
    last_line = said.rpartition("\n")[2].strip()
    forms = ((BOXED, said), (NAMED, last_line), (FIRST, last_line), (BOLD, said))
    letters = [found[-1] for pattern, text in forms if (found := pattern.findall(text))]
    return parse(response).answer or next(iter(letters), None)


def is_meant(row: dict[str, Any]) -> bool | None:
    """Whether a response that was not cut means the right letter; None of log-likelihoods."""
    return None if "logprobs" in row else not row.get("truncated") and lenient_answer(row["response"]) == row["truth"]


def majority_vote(answers: list[str | None]) -> str | None:
    """The most frequent answer, the earlier one of a tie; responses without an answer do not vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def score_file(path: Path, paths: PathJudge | None = None) -> Scores:
    """Score saved responses: needs the file alone, no model. Raises UserError if it is empty or no results file.

    `paths` judges by which way each answer was reached.
    """
    answered: dict[str, Answered] = {}
    formed, meant, cut, lengths = [], [], [], []
    settings = provenance(path).get("settings", {})
    for row in read_jsonl(path, appended=True):
        if problem := row_problem(row):
            raise UserError(f"{path} is no file of saved responses ({problem}); delete it and evaluate again")
        answer, well_formed = read_answer(row)
        id, order = order_of(row["id"]) if settings.get("shuffle_options") else (row["id"], "")
        length = paths.lengths.get(id, "") if paths else ""
        item = answered.setdefault(id, Answered(own_letter(row["truth"], order), row["tier"], row["kind"], length))
        item.take(answer, order)
        if paths and "response" in row:
            item.ways.append(paths.outcome(id, order, row["response"], answer, answer == row["truth"]))
        formed.append(well_formed)
        meant.append(is_meant(row))
        cut.append(row.get("truncated"))
        lengths.append(row.get("tokens"))
    if not answered:
        raise UserError(f"{path} holds no response; delete it and evaluate again")
    return Scores(answered, *map(mean_or_none, (formed, meant, cut, lengths)), settings)


def own_letter(letter: str | None, order: str) -> str | None:
    """The letter that an option has in the question's own order; None if it is no option's."""
    if not order or letter is None:
        return letter
    place = LETTERS.index(letter)
    return order[place] if place < len(order) else None


def mean_or_none(values: list[float | None]) -> float | None:
    """The mean, or None if a value is unknown."""
    return None if None in values else fmean(values)

"""Questions that are nearly the same, and questions that overlap others, such as an evaluation benchmark's."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

SHINGLE, HASHES, BANDS = 3, 64, 16  # words in a shingle; MinHash values of a question, in bands of four
NEAR = 0.8  # share of shingles (Jaccard) from which two questions with the same answer are one


class Asked(Protocol):
    """What is compared: the fields of a question record (question.py)."""

    language: str
    question: str
    options: dict[str, str]
    answer: str
    evidence: list[list[Any]]


Question = TypeVar("Question", bound=Asked)
SHOWN = 300  # characters of a shared text that are reported


def normalised(text: str) -> str:
    """A text for comparison: compatibility forms unified, case, white space and a final full stop ignored."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .。")


# A genotype in pairs ("AaBb"), or a word with a capital or small letter where no sentence has one ("XHXh", "pH").
SYMBOL = re.compile(r"(?i:(?:([a-z])\1)+)|[a-zA-Z]|(?=[a-zA-Z]{2,4}$)(?![A-Z]?[a-z]+$|[A-Z]+$)[a-zA-Z]+")


def normalised_option(text: str) -> str:
    """An option for comparison. Like `normalised`, but in an option of symbols only their case counts.

    >>> [normalised_option(text) for text in ("Aspirin.", "Bb", "bb", "XHXh", "Vitamin K")]
    ['aspirin', 'Bb', 'bb', 'XHXh', 'vitamin k']
    """
    words = unicodedata.normalize("NFKC", text).rstrip(" .。").split()
    if not all(len(word) <= 4 or SYMBOL.fullmatch(word) for word in words):
        return normalised(text)
    return " ".join(word if SYMBOL.fullmatch(word) else word.casefold() for word in words)


# One word of a text: a Chinese character, a word of letters, or a number.
WORD = re.compile("[\u3400-\u9fff]|[^\\W\\d_\u3400-\u9fff]+|\\d+")


def words_in(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def hashes(texts: Iterable[str]) -> list[int]:
    """64 bits of each text."""
    return [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") for text in texts]


def runs_of(words: Sequence[str], length: int) -> set[int]:
    """The hashes of all runs of `length` words; of the whole text where it is shorter."""
    starts = range(max(1, len(words) - length + 1))
    return set(hashes(" ".join(words[start : start + length]) for start in starts))


def near_duplicates(questions: Iterable[Question]) -> Iterator[tuple[Question, Question | None]]:
    """Yield each question with an earlier one that it nearly repeats: most of its words, the same answer; else None.

    MinHash: the smallest of a hash over a question's shingles is the same for two questions as often as their shingle
    sets overlap, so questions that agree in a whole band of such values are worth comparing in full. Synthetic
    questions share a template; what tells them apart is their facts, so they are not compared.
    """
    rng = np.random.default_rng(0)
    factors, offsets = rng.integers(1, 2**63, (2, HASHES, 1), dtype=np.uint64)  # h(x) = factor * x + offset mod 2^64
    buckets: dict[tuple[int, str, bytes], list[int]] = defaultdict(list)
    firsts: list[tuple[Question, set[int]]] = []  # what repeats nothing, with its shingles
    for question in questions:
        if question.evidence:
            yield question, None
            continue
        mine = runs_of(words_in(question.question), SHINGLE)
        values = (factors * np.fromiter(mine, np.uint64) + offsets).min(axis=1).reshape(BANDS, -1)
        answer = normalised(question.options[question.answer])
        bands = [(number, answer, band.tobytes()) for number, band in enumerate(values)]
        alike = (firsts[index] for index in dict.fromkeys(i for band in bands for i in buckets.get(band, ())))
        like = next((other for other, its in alike if len(mine & its) >= NEAR * len(mine | its)), None)
        if like is None:
            for band in bands:
                buckets[band].append(len(firsts))
            firsts.append((question, mine))
        yield question, like


# ---------------------------------------------------------------------------------- overlaps with evaluation benchmarks

RUN = {"en": 8, "zh": 16}  # words (characters, in Chinese) in a row, numbers left out, that are compared
SHARE = 0.3  # of a question's runs that stand in one benchmark question, or of that question's in it: an overlap
STOCK = 3  # benchmark questions; a run or a whole question that more of them share is a stock phrase
LEAST = 5  # runs that have to be shared, if there are so many: a copied stem is no copied question
SHORT = 3  # runs' lengths; up to there a few changed words leave no run, so all are compared by shingles
SHINGLE_CHARS = 3  # characters of such a shingle
SIMILAR = 0.7  # weighted share of these shingles (Jaccard) from which two questions are one
HINT = 0.1  # share of runs from which a long question is compared by shingles


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a question shares with a benchmark question `other`: how much (0 to 1), and the text they share."""

    other: Any
    how: str
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """A text's words without numbers, and where they stand in the text (which is normalised: NFKC, lower case)."""

    text: str
    words: list[str]
    spans: list[tuple[int, int]]
    length: int  # words of a run

    @classmethod
    def of(cls, question: Asked) -> Words:
        text = unicodedata.normalize("NFKC", question.question).casefold()
        found = [match for match in WORD.finditer(text) if not match[0].isdigit()]
        return cls(text, [m[0] for m in found], [m.span() for m in found], RUN.get(question.language, RUN["en"]))

    def runs(self, length: int | None = None) -> list[int]:
        """The hashes of its runs in order; none if it is shorter than one."""
        length = length or self.length
        return hashes(" ".join(self.words[i : i + length]) for i in range(len(self.words) - length + 1))

    def shingles(self) -> set[str]:
        """Its shingles of characters, of numbers too: in a short question they may be all that it asks about."""
        line = f" {' '.join(WORD.findall(self.text))} "
        return {line[i : i + SHINGLE_CHARS] for i in range(len(line) - SHINGLE_CHARS + 1)}

    def longest(self, shared: Sequence[bool]) -> str:
        """The longest stretch of the text that neighbouring shared runs cover."""
        best, start = range(0), 0
        for end, flag in enumerate([*shared, False]):
            if not flag:
                best, start = max(best, range(start, end), key=len), end + 1
        return self.text[self.spans[best[0]][0] : self.spans[best[-1] + self.length - 1][1]] if best else ""


class Benchmarks:
    """The questions of evaluation benchmarks, indexed by runs of words and, the short ones, by shingles of characters.

    Vital signs and stems ("Which of the following is the most likely diagnosis?") stand in many questions. So an
    overlap is a *share* of the runs of a question in one benchmark question, and stock phrases are no part of it.
    Numbers do not count: another temperature hides no copied vignette.
    """

    def __init__(self, others: Sequence[Asked]):
        self.others = others
        self.exact: dict[str, list[int]] = defaultdict(list)  # all its words -> the questions
        self.by_run: dict[int, list[int]] = defaultdict(list)
        self.by_shingle: dict[str, list[int]] = defaultdict(list)  # of short questions
        self.short: dict[int, set[str]] = {}  # their shingles
        self.sizes: list[int] = []  # runs of each
        words = [Words.of(other) for other in others]
        for index, its in enumerate(words):
            self.add(index, its)
        # A shingle weighs by its rarity: "Drug of choice for ..." makes no two questions alike.
        self.weights = {shingle: math.log(1 + len(others) / len(users)) for shingle, users in self.by_shingle.items()}
        self.unknown = math.log(1 + len(others))  # of a shingle that no short one has: as of one that a single one has
        self.short_weight = {index: self.weigh(shingles) for index, shingles in self.short.items()}
        phrases = {
            its.runs(len(its.words))[0]: index
            for index, its in enumerate(words)
            if its.length // 2 <= len(its.words) < its.length
        }
        self.phrase_lengths = {len(words[index].words) for index in phrases.values()}
        users = Counter(phrase for its in words for phrase in self.phrases_in(its) if phrase in phrases)
        self.by_phrase = {phrase: index for phrase, index in phrases.items() if users[phrase] <= STOCK}

    def add(self, index: int, words: Words) -> None:
        """Index a benchmark question by all its words, its runs and, if it is short, its shingles."""
        self.exact[" ".join(words_in(self.others[index].question))].append(index)
        runs = set(words.runs())
        self.sizes.append(len(runs))
        for run in runs:
            self.by_run[run].append(index)
        if len(words.words) <= SHORT * words.length:
            self.short[index] = words.shingles()
            for shingle in self.short[index]:
                self.by_shingle[shingle].append(index)

    def phrases_in(self, words: Words) -> set[int]:
        return {phrase for length in self.phrase_lengths for phrase in words.runs(length)}

    def overlap(self, question: Asked) -> Overlap | None:
        """The largest overlap of a question with a benchmark question; None if there is none to speak of."""
        same = self.exact.get(" ".join(words_in(question.question)), [])
        if len(same) > STOCK:  # "Which is true?": what is asked are the options
            answer = normalised(question.options[question.answer])
            same = [i for i in same if normalised(self.others[i].options[self.others[i].answer]) == answer]
            if not same:
                return None
        if same:
            return Overlap(self.others[same[0]], "the same question", 1.0, question.question[:SHOWN])
        words = Words.of(question)
        return self.overlap_of_runs(words) or self.overlap_of_shingles(words) or self.phrase_inside(words)

    def overlap_of_runs(self, words: Words) -> Overlap | None:
        """An overlap by share of runs, or a hint of one that the shingles confirm."""
        runs = words.runs()
        counts: Counter[int] = Counter()
        for run in set(runs):
            users = self.by_run.get(run, ())
            if len(users) <= STOCK:
                counts.update(users)
        shares = [
            (n / min(len(runs), self.sizes[index]), index)
            for index, n in counts.items()
            if n >= min(LEAST, len(runs), self.sizes[index])
        ]
        share, index = max(shares, default=(0.0, 0))
        if share >= SHARE:
            text = words.longest([index in self.by_run.get(run, ()) for run in runs])
            return Overlap(self.others[index], "the same words in a row", min(share, 1.0), text[:SHOWN])
        return self.alike(words, [index]) if share >= HINT else None

    def overlap_of_shingles(self, words: Words) -> Overlap | None:
        """An overlap of short questions. What has `SIMILAR` of all shingles has one of the rarest that make up the
        rest: only those are looked up."""
        if len(words.words) > SHORT * words.length:
            return None
        mine = words.shingles()
        rest, candidates = (1 - SIMILAR) * self.weigh(mine), set()
        for shingle in sorted(mine, key=lambda shingle: (-self.weights.get(shingle, self.unknown), shingle)):
            if rest < 0:
                break
            candidates.update(self.by_shingle.get(shingle, ()))
            rest -= self.weights.get(shingle, self.unknown)
        return self.alike(words, sorted(candidates))

    def phrase_inside(self, words: Words) -> Overlap | None:
        """A whole benchmark question, shorter than a run, inside a longer text."""
        found = next((self.by_phrase[p] for p in sorted(self.phrases_in(words)) if p in self.by_phrase), None)
        if found is None:
            return None
        other = self.others[found]
        return Overlap(other, "a whole short question", 1.0, other.question[:SHOWN])

    def alike(self, words: Words, candidates: Sequence[int]) -> Overlap | None:
        """The candidate with the most shingles in common, if these are `SIMILAR`."""
        mine = words.shingles()
        weight, best = self.weigh(mine), (0.0, 0)
        for index in candidates:
            its = self.short[index] if index in self.short else Words.of(self.others[index]).shingles()
            its_weight = self.short_weight.get(index) or self.weigh(its)
            if SIMILAR * weight <= its_weight <= weight / SIMILAR:  # otherwise it cannot be
                common = self.weigh(mine & its)
                best = max(best, (common / (weight + its_weight - common), index))
        share, index = best
        if share < SIMILAR:
            return None
        return Overlap(self.others[index], "nearly the same question", share, self.others[index].question[:SHOWN])

    def weigh(self, shingles: set[str]) -> float:
        return sum(self.weights.get(shingle, self.unknown) for shingle in shingles)

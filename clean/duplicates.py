"""Questions that are nearly the same, and questions that overlap others, such as an evaluation benchmark's."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

RUN = {"en": 13, "zh": 26}  # words (characters, in Chinese) in a row that show an overlap with a benchmark
STOCK = 3  # benchmark questions; a run of words that stands in more of them is a stock phrase, no overlap
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
Other = TypeVar("Other", bound=Asked)


def normalised(text: str) -> str:
    """A text for comparison: compatibility forms unified, case, white space and a final full stop ignored."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .。")


# One word of a text: a Chinese character, a word of letters, or a number.
WORD = re.compile("[\u3400-\u9fff]|[^\\W\\d_\u3400-\u9fff]+|\\d+")


def words_of(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def runs_of(words: Sequence[str], length: int) -> set[int]:
    """The hashes (64 bits) of all runs of `length` words; of the whole text where it is shorter."""
    runs = (" ".join(words[start : start + length]) for start in range(max(1, len(words) - length + 1)))
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs}


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
        mine = runs_of(words_of(question.question), SHINGLE)
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


def overlaps(questions: Iterable[Question], others: Sequence[Other]) -> Iterator[tuple[Question, Other | None, str]]:
    """Yield each question with one of the others that it overlaps, and how: the same, or a long run of the same words.

    Numbers do not count in a run, so another temperature hides no copied vignette, and the line of vital signs that
    every vignette has becomes a stock phrase: a run that more than `STOCK` of the others share is none's own.
    """
    exact = {" ".join(words_of(other.question)): other for other in others}
    shared: Counter[int] = Counter()
    owner: dict[int, Other] = {}
    for other in others:
        runs = long_runs(other)
        shared.update(runs)
        owner.update(dict.fromkeys(runs, other))
    for question in questions:
        like, how = exact.get(" ".join(words_of(question.question))), "the same question"
        if not like:
            runs = (run for run in sorted(long_runs(question)) if 0 < shared[run] <= STOCK)
            like, how = next((owner[run] for run in runs), None), "a long run of the same words"
        yield question, like, how


def long_runs(question: Asked) -> set[int]:
    """The hashes of a question's long runs of words, numbers left out; none if it is shorter than one."""
    words = [word for word in words_of(question.question) if not word.isdigit()]
    length = RUN.get(question.language, RUN["en"])
    return runs_of(words, length) if len(words) >= length else set()

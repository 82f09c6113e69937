"""The question record: one multiple-choice question of `train.jsonl`, `synth.jsonl` and every benchmark."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tools.cli import UserError
from tools.run import read_jsonl
from tools.shape import misfit

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TIERS = ("easy", "moderate", "difficult")  # section 3.1: three tiers, in this order


@dataclass(slots=True)
class Question:
    """One multiple-choice question, the record of `train.jsonl`, `synth.jsonl` and every benchmark.

    `options` maps 2 to 26 letters (A, B, ... without a gap) to their texts and `answer` is one of the letters. `tier`
    is one of `TIERS`, `kind` a free label that tables group by (a meta-path, a subject). `evidence`, on synthetic
    questions only, is the path through the graph that makes the answer right: [subject, relation, object, revision
    id, sentence].
    """

    id: str
    source: str
    language: str
    question: str
    options: dict[str, str]
    answer: str
    tier: str | None = None
    kind: str | None = None
    evidence: list[list[Any]] = field(default_factory=list)

    NAMES: ClassVar = {"id": str, "source": str, "language": str, "kind": (str, None)}

    def __post_init__(self) -> None:
        problem = self.problem()
        if problem:
            raise ValueError(f"question {self.id!r}: {problem}")

    def problem(self) -> str | None:
        """Why this is no valid question, in a few words that serve as a rejection reason; None if it is one."""
        problem = misfit({name: getattr(self, name) for name in ("id", "source", "language", "kind")}, self.NAMES)
        if problem:
            return problem
        if not isinstance(self.question, str) or not self.question.strip():
            return "empty question"
        if problem := options_problem(self.options):
            return problem
        if not isinstance(self.answer, str) or self.answer not in self.options:
            return "answer not among the options"
        if self.tier is not None and self.tier not in TIERS:
            return "unknown tier"
        if misfit(self.evidence, [list]) or not all(map(is_fact, self.evidence)):
            return "no evidence path"
        return None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object; fields that are not set are left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, [])}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Question:
        """The record of a JSON object. Raises ValueError with the reason if it is not a valid question."""
        if not isinstance(row, dict):
            raise ValueError("a question record must be a JSON object")
        missing = [name for name in ("id", "source", "language", "question", "options", "answer") if name not in row]
        if missing:
            raise ValueError(f"missing field {', '.join(missing)}")
        return cls(**{name: row[name] for name in cls.__slots__ if name in row})


def is_fact(row: list[Any]) -> bool:
    """Whether it is [subject, relation, object], perhaps followed by a revision and the sentence that states it."""
    source = dict(zip(("revision", "sentence"), row[3:]))
    told = not misfit(source, {"revision?": (int, None), "sentence?": (str, None)})
    return len(row) >= 3 and not misfit(row[:3], [str]) and told


def options_problem(options: Any) -> str | None:
    """Why these are no options of a question; None if they are."""
    if not isinstance(options, dict) or not 2 <= len(options) <= len(LETTERS):
        return "not 2 to 26 options"
    if list(options) != list(LETTERS[: len(options)]):
        return "option letters are not A, B, C, ..."
    if any(not isinstance(text, str) or not text.strip() for text in options.values()):
        return "empty option"
    return None


def load_questions(path: Path, made_by: str | None = None) -> list[Question]:
    """All questions of a JSON-lines file. Raises UserError for a missing file, an invalid record, or none at all."""
    questions: dict[str, Question] = {}
    for number, row in enumerate(read_jsonl(path, made_by), 1):
        try:
            question = Question.from_json(row)
        except ValueError as error:
            raise UserError(f"{path}, record {number}: {error}") from None
        if question.id in questions:
            raise UserError(
                f"{path}, record {number}: the id {question.id!r} occurs twice; every question needs its own"
            )
        questions[question.id] = question
    if not questions:
        raise UserError(f"{path} holds no valid question" + (f"; make it again with: {made_by}" if made_by else ""))
    return list(questions.values())


# ---------------------------------------------------------------------------------------------------- options that move


REFERS = re.compile(  # to other options by what they are: "all of the above", "none of these"
    r"\b(?:above|below)\b|\b(?:all|any|none|both|either|neither) of (?:these|those|them|the)\b|以上|上述|上列|以下",
    re.I,
)
WORDS = re.compile(r"[A-Za-z]+|[^\W_]")  # of Chinese each character
LISTING = set(
    "both either neither only option options choice choices answer answers and or nor but not alone is are".split()
)
LISTING |= set("correct true right wrong false incorrect".split()) | set("和与及或都不对正确")


def can_move(question: Question) -> bool:
    """Whether the options may change places: not if one refers to others ("A and B", "all of the above")."""
    return not any(REFERS.search(text) or lists_letters(text, question.options) for text in question.options.values())


def lists_letters(text: str, letters: Container[str]) -> bool:
    """Whether a text consists of two letters of options or more, and what joins them: "Both A and C, but not B"."""
    words = WORDS.findall(text)
    return sum(word in letters for word in words) > 1 and all(w in letters or w.lower() in LISTING for w in words)


def reordered(question: Question, order: Sequence[str]) -> Question:
    """The question with its options in an order of their letters, and so lettered anew; its id says how."""
    options = {letter: question.options[old] for letter, old in zip(LETTERS, order)}
    answer = LETTERS[list(order).index(question.answer)]
    return replace(question, id=f"{question.id} [{''.join(order)}]", options=options, answer=answer)


def order_of(id: str) -> tuple[str, str]:
    """The id and the order that `reordered` put together; the order is empty where there is none."""
    found = re.fullmatch(r"(.*) \[([A-Z]{2,26})\]", id, re.DOTALL)
    return (found[1], found[2]) if found else (id, "")

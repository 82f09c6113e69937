"""What a policy knows and does not: the facts that its reasoning tells wrongly, and what a stage of training changed.

A fact of a question's path is told wrongly where a sentence names the end that leads to it and, instead of the end that
was to be found, another entity of its type of which the graph does not say so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fidelity import Fidelity, path_entities
from question import Question
from reward import parse


class WrongFact(NamedTuple):
    """A fact as it was told and as the graph has it, with the sentence that the graph has it from."""

    subject: str
    relation: str
    told: str
    true: str
    sentence: str


def wrong_facts(fidelity: Fidelity, failed: Iterable[tuple[Question, str]]) -> list[tuple[WrongFact, int]]:
    """The facts that failed responses tell wrongly, with the number of responses, most frequent first."""
    counts: Counter[WrongFact] = Counter()
    for question, response in failed:
        reasoning = parse(response).thinking
        if not fidelity.unjudgeable(question, reasoning):
            counts.update(set(told_wrongly(fidelity, question, reasoning)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def told_wrongly(fidelity: Fidelity, question: Question, reasoning: str) -> Iterable[WrongFact]:
    """The facts of the question's path that its reasoning tells wrongly."""
    graph, place = fidelity.graph, {title: number for number, title in enumerate(path_entities(question))}
    sentences: dict[int, set[int]] = defaultdict(set)
    for mention in fidelity.names.mentions(reasoning):
        if not mention.negated:
            sentences[mention.sentence] |= mention.entities
    for subject, relation, other, *source in question.evidence:
        known, sought = (graph.entity[title] for title in sorted((subject, other), key=place.get))
        for named in sentences.values():
            if known not in named or not named.isdisjoint(graph.interchangeable(sought)):
                continue
            for entity in named - {known}:
                fact = (known, relation, entity) if graph.title[known] == subject else (entity, relation, known)
                if graph.type[entity] == graph.type[sought] and fact not in graph.facts:
                    sentence = str(source[1]) if len(source) > 1 else ""
                    yield WrongFact(graph.title[known], relation, graph.title[entity], graph.title[sought], sentence)


def never_to_always(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Ids of the questions that no sample answered before and every sample does after; both map ids to shares."""
    return [id for id, share in after.items() if share == 1 and before.get(id) == 0]

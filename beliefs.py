"""What a policy knows and does not: the facts that its reasoning tells wrongly, and what a stage of training changed.

A fact of a question's path is told wrongly where a sentence names the end that leads to it and, instead of the end that
was to be found, another entity of its type, one that the graph does not connect with the first by any relation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fidelity import Fidelity, path_entities
from question import Question
from reward import parse


class Fact(NamedTuple):
    """A fact of a path from the end that leads to the other, and the sentence that the graph has it from."""

    known: str
    relation: str
    true: str
    sentence: str


def wrong_facts(fidelity: Fidelity, failed: Iterable[tuple[Question, str]]) -> list[tuple[Fact, Counter[str]]]:
    """The facts that failed responses tell wrongly: what they tell instead, each with the number of responses; the fact
    that most responses tell wrongly comes first."""
    told: dict[Fact, Counter[str]] = defaultdict(Counter)
    for question, response in failed:
        reasoning = parse(response).thinking
        if not fidelity.unjudgeable(question, reasoning):
            for fact, instead in set(told_wrongly(fidelity, question, reasoning)):
                told[fact][instead] += 1
    return sorted(told.items(), key=lambda item: (-item[1].total(), item[0]))


def told_wrongly(fidelity: Fidelity, question: Question, reasoning: str) -> Iterable[tuple[Fact, str]]:
    """The facts of the question's path that its reasoning tells wrongly, and what it tells instead."""
    graph, place = fidelity.graph, {title: number for number, title in enumerate(path_entities(question))}
    sentences: dict[int, set[int]] = defaultdict(set)
    for mention in fidelity.names.mentions(reasoning):
        if not mention.negated:
            sentences[mention.sentence] |= mention.entities
    for subject, relation, other, *source in question.evidence:
        known, sought = (graph.entity[title] for title in sorted((subject, other), key=place.get))
        fact = Fact(graph.title[known], relation, graph.title[sought], str(source[1]) if len(source) > 1 else "")
        for named in sentences.values():
            if known not in named or not named.isdisjoint(graph.interchangeable(sought)):
                continue
            for entity in named - {known}:
                related = any(entity in graph.neighbours(known, step) for step in list(graph.links))
                if graph.type[entity] == graph.type[sought] and not related:
                    yield fact, graph.title[entity]


def never_to_always(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Ids of the questions that no sample answered before and every sample does after; both map ids to shares."""
    return [id for id, share in after.items() if share == 1 and before.get(id) == 0]

"""Knowledge graph -> masked multi-hop multiple-choice questions, rare entities first (section 3.1, Figure 3).

A question is a small subgraph with its answer masked. The subgraph is sampled along a typed meta-path (`metapath.py`),
backwards: a rare answer is drawn first, then what leads to it.

    chain          an entity is named, one to three relations lead from it to the answer:
                   Vibrio cholerae <-cause- [Cholera] -treated_by-> ?
    presentation   several features of one disease are observed, the disease itself is masked:
                   {Fever, Cough, Night sweats} <-symptom- [?]    and then, as in a chain:    -treated_by-> ?

Only a random part of a disease's features is observed (`mask`), and none with its own form (pain and headache), so
inference happens under partial information. They are what its page tells of the disease as a whole, and early or more
than once (`is_prominent`): what comes late, or under a heading about something else, is often rare or of some patients
only. What is observed must determine what the path passes through (`is_determined`): not by way of a drug with many
uses, nor of a disease that is shown by what many others may have as well (`fits_many`). One path is asked about in
several ways, as often as the graph allows: the disease between findings and a drug may be what is masked, or the drug,
or the pathogen at its other end.

Under a comorbidity or a medication, that of the drugs is asked for which the patient may have: others that treat the
disease as well are contraindicated there or interact, and the answer's own page speaks of such things and names no
other (`draw_given`).

Wrong options are relation-preserving perturbations: what the same relation gives for a competitor, which shares an
observed feature and lacks others. No wrong option may be arguably right: no interpretation of what is observed leads
to it in the graph (`proved_wrong`), and pages that speak of the matter deny it (`absence.py`). No page tells all:
whether a disease may have a finding that its page does not tell is judged by the company that the finding keeps in
others (`likelihood`), and neither a disease that is likely to have all that is observed nor what follows from such a
disease is a wrong option. An entity may be taken for its synonyms, its classes and its members
(`Graph.interchangeable`), a relation for those that a reader may not tell from it (`graph.ALIKE`).

Deviations from the paper, which does not give its sampler: the meta-paths, and the weights 1 / (1 + incoming links).
Without a teacher, questions are plain sentence templates. With one, presentations are rewritten as clinical vignettes
(`vignette.py`). Within a question a name is written as in running text ("fever", "Lyme disease"); options are titles
without what tells namesakes apart. `--plain-wordings` asks in few forms and writes titles everywhere, for models too
small to know that both are one name.

Reads kg.sqlite. Writes synth.jsonl (question records, `evidence` = the path) and metrics.jsonl.

    python synth.py --workers 8                                 # 100,000 questions from runs/main/kg.sqlite
    python synth.py --run runs/tiny --questions 12000 --no-long-paths --plain-wordings \\
        --single-facts 0.45                                     # the tiny recipe
    python synth.py --teacher openai:openai/gpt-oss-120b        # presentations become clinical vignettes
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ in ("__main__", "__mp_main__"):  # first: the rest takes seconds to import
    can_stop(worker=__name__ == "__mp_main__")

import argparse
import gc
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain
from math import prod
from pathlib import Path
from typing import Any

from absence import (
    are_nested,
    are_opposite,
    fits_nearly_any,
    go_together,
    is_class,
    is_cleared,
    is_common,
    is_denied,
    is_expected,
    is_prominent,
    is_typical,
    likelihood,
    likelihoods,
    may_hold,
    named_on_page,
    names_in_words,
    tell_one_thing,
)
from graph import Graph, inverse
from metapath import FINDINGS, LONG_PATHS, MEDICATION, META_PATHS, MetaPath, tell_features, wordings_of
from question import LETTERS, TIERS, Question
from teacher import add_teacher_arguments, teacher_of
from tools.cli import UserError, at_least, between, progress_bar, run_stage, stage_parser
from tools.run import Metrics, RunDir, write_jsonl
from vignette import write_vignettes
from wiki.kinds import words_of
from wiki.mediawiki import bare, in_order, worker_processes

SINGLE_FACTS = 0.18  # at most this share of the questions asks for one fact
RARE_SHARE = 0.95  # of the answers are drawn among the rarest quarter of entities
MOST_OF_A_KIND = 0.06  # of the questions at most are of one kind while the graph still gives others
MOST_OFTEN = 0.01  # at most this share of the questions starts from the same entity or has it as their answer
LEAST_OFTEN = 5  # questions may do so, however few there are; two where the answer is rare
MOST_OFTEN_RARE = 0.002  # the same for the answers among the rarest quarter
FEW = 50  # single facts are asked for where a graph holds nothing else
REFUSED = 0.05  # of such a draw is one that was asked about often enough: it may be welcome later
LEAST_LIKELY = 1 / 50  # as likely as with the disease that is meant may be what is observed with another
LEAST_LIKELY_OPTION = 1 / 100  # the same with a wrong option
MOST_ALIKE = 60  # diseases, of those that are compared, may be likelier than that, where the disease is asked for
MOST_ALIKE_ODD = 15  # the same where nothing observed is typical of it
MOST_ALIKE_ON = 40  # the same where the question leads on from it
LEAST_TYPICAL_ON = 2  # observed symptoms that its page tells at its beginning, where the question leads on from it
LEAST_SURE = 0.7  # confidence of all facts from the start to the answer together; a finding may be less sure
MOST_MEANT = 2  # entities that a hop may pass through: with more, what is observed does not determine what comes next
REDRAWS = 8  # answers drawn at once: the first that was not asked for too often is taken
PART = 12_500  # questions that are drawn together, with one seed
FORGOTTEN = 200  # questions, after which answers that were asked for too often are drawn again
PATIENCE = 1000  # draws in a row that give no question, after which a meta-path counts as exhausted
KIN = ("treated_by", "~treated_by", "diagnosed_by", "complication")  # two things that go together here may do so again
EFFECTS = ("symptom", "complication", "adverse_effect")  # may lead to what goes with the others there
PROOFS = ("diagnosed_by", "mechanism")  # tell a disease only where few have them: not a blood test, nor inflammation
UNSAID = ("symptom", "complication", "adverse_effect", "treated_by")  # no page tells all that these lead to
LACKING = 2  # observed features that a wrong diagnosis lacks for sure, and all that tell something but one
COMMON_FINDING = (10, 0.05)  # what more diseases (and more than this share) have proves nothing, nor is it asked alone
COMMON_TO_LEAD_ON = (10, 0.02)  # the same of a disease that a question leads on from without naming it
COMMON_OPTION = (6, 0.03)  # what belongs to more is no wrong option: it may belong to any
MOST_RIVALS = 150  # competitors, and what they lead to, that are looked at
MOST_TRIED = 60  # candidates for wrong options that are looked at

# -------------------------------------------------------------------------------------------------- sampling a subgraph


@dataclass(slots=True)
class Subgraph:
    """A sampled meta-path: what is observed, the path (start .. answer), the facts of both in this order.

    An observed feature is (step, entity) as seen from the start. In a chain the start itself is observed: no feature.
    `given` is what rules out other drugs, if the meta-path has such a thing.
    """

    features: list[tuple[str, int]]
    path: list[int]
    facts: list[tuple[int, str, int]]
    given: int | None = None

    @property
    def answer(self) -> int:
        return self.path[-1]

    @property
    def observed(self) -> list[int]:
        seen = [entity for _, entity in self.features] or self.path[:1]
        return seen if self.given is None else [*seen, self.given]


class Draw:
    """Random draws of entities, rare ones first; all alike if `uniform`."""

    def __init__(self, graph: Graph, seed: int | str, uniform: bool = False):
        self.graph, self.rng, self.uniform = graph, random.Random(seed), uniform
        self.weight = {entity: 1.0 if uniform else rarity(incoming) for entity, incoming in graph.incoming.items()}
        self.answers: dict[str, list[tuple[list[int], list[float]]]] = {}  # meta-path -> what it may ask for
        self.refused: set[int] = set()  # answers that were asked for often enough, at present

    def answer(self, meta: MetaPath) -> int | None:
        """An entity that a meta-path may lead to, a share of `RARE_SHARE` among the rarest; None if there is none."""
        if meta.name not in self.answers:
            self.answers[meta.name] = [self.weighed(entities) for entities in self.ends(meta)]
        rare, every = self.answers[meta.name]
        rarely = not self.uniform and self.rng.random() < RARE_SHARE
        for members, cumulative in (rare, every) if rarely else (every,):
            drawn = self.rng.choices(members, cum_weights=cumulative, k=REDRAWS) if members else ()
            for entity in drawn:
                if entity not in self.refused:
                    return entity
        return None

    def ends(self, meta: MetaPath) -> tuple[list[int], list[int]]:
        """The entities that the last step of a meta-path leads to: the rarest of them, and all."""
        graph, back = self.graph, inverse(meta.steps[-1]) if meta.steps else "symptom"
        every = [entity for kind in meta.answer for entity in graph.of_type[kind] if graph.neighbours(entity, back)]
        return [entity for entity in every if entity in graph.rarest], every

    def weighed(self, entities: list[int]) -> tuple[list[int], list[float]]:
        return entities, list(accumulate(self.weight[entity] for entity in entities))

    def among(self, entities: Iterable[int]) -> int:
        choices = sorted(entities)
        return self.rng.choices(choices, [self.weight[entity] for entity in choices])[0]

    def some(self, entities: set[int]) -> list[int]:
        """A random part of the entities where they are more than `MOST_RIVALS`."""
        choices = sorted(entities)
        return self.rng.sample(choices, MOST_RIVALS) if len(choices) > MOST_RIVALS else choices


def rarity(incoming: int) -> float:
    """The weight of an entity in every draw: an entity is rare if few pages link to it."""
    return 1 / (1 + incoming)


def sample_subgraph(meta: MetaPath, draw: Draw) -> Subgraph | None:
    """Draw an answer, walk back to a start, mask a part of the start. None where the walk ends early, or what is
    observed is too little or on the path."""
    answer = draw.answer(meta)
    path = walk(answer, [inverse(step) for step in reversed(meta.steps)], draw)[::-1] if answer else []
    if len(path) <= len(meta.steps) or draw.graph.type[path[0]] != meta.start:
        return None
    given = draw_given(meta, path, draw) if meta.given else None
    if meta.given and given is None:
        return None
    features = mask(meta, path[0], draw) if meta.presentation else []
    facts = [draw.graph.triple(path[0], step, entity) for step, entity in features]
    facts += [draw.graph.triple(*hop) for hop in zip(path, meta.steps, path[1:])]
    subgraph = Subgraph(features, path, facts, given)
    if meta.presentation and (len(features) < 3 or not set(path).isdisjoint(subgraph.observed)):
        return None
    return subgraph


def draw_given(meta: MetaPath, path: list[int], draw: Draw) -> int | None:
    """What rules out other drugs than the answer, which is cleared of it by its own page; None if there is nothing."""
    graph, answer, disease = draw.graph, path[-1], path[-2]
    others = graph.neighbours(disease, meta.steps[-1]) - graph.interchangeable(answer)
    strange = graph.reach(others, (meta.given,)) - graph.interchangeable(disease) - set(path)
    cleared = [
        entity
        for entity in sorted(strange)
        if graph.family(entity) in ("condition", "remedy") and is_cleared(graph, answer, meta.given, entity)
    ]
    return draw.among(cleared) if cleared else None


def mask(meta: MetaPath, disease: int, draw: Draw) -> list[tuple[str, int]]:
    """The features (relation, entity) of a disease that stay visible; all else about it is masked, its name as well.

    One for each relation of `meta.observed` if it names any; else two to four symptoms and perhaps another finding, but
    nothing of the relation that is asked for. [] if the disease has too few.
    """
    graph, rng = draw.graph, draw.rng
    of_relation = {step: observable(graph, disease, step) for step in meta.observed or ("symptom", *FINDINGS)}
    of_relation["symptom"] = [entity for entity in of_relation["symptom"] if not may_cause(graph, entity, disease)]
    if meta.observed:
        return one_of_each(draw, Counter(meta.observed), of_relation)
    symptoms = some_distinct(graph, of_relation.pop("symptom"), 4, rng)
    if len(symptoms) < 2:
        return []
    features = [("symptom", entity) for entity in symptoms[: rng.randint(2, len(symptoms))]]
    findings = [(step, entity) for step in of_relation if step not in meta.steps[:1] for entity in of_relation[step]]
    if findings and (len(features) < 3 or rng.random() < 0.3):
        features.append(rng.choice(findings))
    return features


def observable(graph: Graph, disease: int, step: str) -> list[int]:
    """What a step leads to from a disease and tells something of it: prominent symptoms (`is_prominent`), tests and
    mechanisms of few diseases, nothing told as an aside; of treatments the drugs alone: surgery and diets help too many
    diseases."""
    found = sorted(graph.neighbours(disease, step))
    if step == "symptom":
        return [entity for entity in found if is_prominent(graph, disease, entity)]
    found = [entity for entity in found if (disease, step, entity) not in graph.asides]
    if step in PROOFS:
        return [entity for entity in found if not is_common(graph, entity, step, *COMMON_OPTION)]
    return [entity for entity in found if graph.type[entity] in MEDICATION] if step == "treated_by" else found


def one_of_each(draw: Draw, numbers: Counter[str], of_relation: dict[str, list[int]]) -> list[tuple[str, int]]:
    """As many features of each relation as asked for, at random; [] if one relation has too few."""
    features: list[tuple[str, int]] = []
    for step, number in numbers.items():
        found = some_distinct(draw.graph, of_relation[step], number, draw.rng)
        if len(found) < number:
            return []
        features += [(step, entity) for entity in found]
    return features


def some_distinct(graph: Graph, entities: list[int], most: int, rng: random.Random) -> list[int]:
    """Up to `most` of the entities at random, no two of which tell one thing or contrary things."""
    found: list[int] = []
    for entity in rng.sample(entities, len(entities)):
        clashing = any(tell_one_thing(graph, entity, other) or are_opposite(graph, entity, other) for other in found)
        if len(found) < most and not clashing:
            found.append(entity)
    return found


def walk(start: int, steps: Sequence[str], draw: Draw) -> list[int]:
    """The entities of a random walk from `start` on; shorter than `steps` asks for where it finds no way on."""
    path = [start]
    for step in steps:
        onward = draw.graph.sample_neighbours(path[-1], step, draw.rng) - set(path)
        if not onward:
            break
        path.append(draw.among(onward))
    return path


def is_determined(graph: Graph, meta: MetaPath, subgraph: Subgraph) -> bool:
    """Whether what is observed determines what the path passes through.

    At each distance from the start there are at most `MOST_MEANT` entities, no disease that more pathogens cause or
    more drugs treat, and no drug or disease that leads on by what only other pages tell of its treatment. Start and
    answer are no classes of diseases or organisms and no kinds of one another, few diseases would have all observed
    features by chance, and the facts of the path are sure.
    """
    hops = subgraph.facts[len(subgraph.features) :]
    return not (
        has_vague_ends(graph, meta, subgraph)
        or any(hop in graph.asides and (meta.presentation or hop[1] in EFFECTS) for hop in hops)
        or prod(graph.confidence[fact] for fact in hops) < LEAST_SURE
        or any(len(meant) > MOST_MEANT for meant in meant_along(graph, meta, subgraph))
        or any(is_loose(graph, step, entity) for step, entity in zip(meta.steps[:-1], subgraph.path))
        or any(has_many_causes(graph, disease) for disease, relation, _ in hops if relation == "cause")
        or (meta.presentation and fits_many(graph, meta, subgraph))
    )


def may_cause(graph: Graph, entity: int, disease: int) -> bool:
    """Whether an entity may be what a disease comes of, and so is no sure sign of it."""
    return any(entity in graph.possible[step].get(disease, ()) for step in ("cause", "risk_factor"))


def has_vague_ends(graph: Graph, meta: MetaPath, subgraph: Subgraph) -> bool:
    """Whether start or answer is a class of diseases or organisms, one is a kind of the other, or the answer causes
    what it should follow from."""
    start, answer = subgraph.path[0], subgraph.answer
    if meta.steps and meta.steps[-1] in EFFECTS and may_cause(graph, answer, subgraph.path[-2]):
        return True
    if start != answer and graph.family(start) == graph.family(answer) and are_nested(graph, start, answer):
        return True
    return any(graph.type[entity] in ("disease", "pathogen") and is_class(graph, entity) for entity in (start, answer))


def is_loose(graph: Graph, step: str, entity: int) -> bool:
    """Whether a step of treatment leads on from an entity whose own page does not tell of it, or names many drugs."""
    if step not in ("treated_by", "~treated_by"):
        return False
    many = step == "treated_by" and len(named_on_page(graph, entity, "remedy")) > MOST_MEANT
    return many or entity not in graph.told[step]


def has_many_causes(graph: Graph, disease: int) -> bool:
    """Whether more pathogens cause a disease than it would be determined by, or its page names more."""
    causes = sum(graph.type[other] == "pathogen" for other in graph.could_mean(disease, "cause"))
    return max(causes, len(named_on_page(graph, disease, "pathogen"))) > MOST_MEANT


def fits_many(graph: Graph, meta: MetaPath, subgraph: Subgraph) -> bool:
    """Whether a presentation points to no disease: another could have all that is observed, many are likely to, or it
    is odd. Where the question leads on from the disease, typical findings are told, not common ones only."""
    symptoms = [entity for step, entity in subgraph.features if step == "symptom"]
    typical = [entity for entity in symptoms if is_typical(graph, subgraph.path[0], entity)]
    if meta.steps:
        common = all(is_common(graph, entity, "symptom", *COMMON_TO_LEAD_ON) for entity in typical)
        if common or len(typical) < LEAST_TYPICAL_ON:
            return True
    likely = map(prod, zip(*(likelihoods(graph, entity) for entity in symptoms)))
    most = MOST_ALIKE_ON if meta.steps else MOST_ALIKE if typical else MOST_ALIKE_ODD
    if sum(each >= LEAST_LIKELY for each in likely) > most:
        return True
    return not graph.with_features(subgraph.features) <= graph.interchangeable(subgraph.path[0])


def explains(graph: Graph, disease: int, features: list[tuple[str, int]]) -> bool:
    """Whether a disease is likely enough to have the symptoms that are observed."""
    likely = 1.0
    for step, entity in features:
        if step == "symptom":
            likely *= likelihood(graph, disease, entity)
            if likely < LEAST_LIKELY_OPTION:
                return False
    return True


def meant_along(graph: Graph, meta: MetaPath, subgraph: Subgraph) -> list[set[int]]:
    """What each entity of the path but the answer may be, for one who knows only what is observed and the steps."""
    meant = [{subgraph.path[0]}]
    for step, entity in zip(meta.steps[:-1], subgraph.path[1:]):
        found = set().union(*(graph.possible[step].get(other, ()) for other in meant[-1]))
        meant.append({other for other in found if graph.family(other) == graph.family(entity)})
    return meant


# -------------------------------------------------------------------------------------------------------- wrong options


def proved_wrong(graph: Graph, meta: MetaPath, subgraph: Subgraph, candidates: set[int]) -> set[int]:
    """Those candidates that are wrong answers however a reader may understand the question.

    The question is about the start or what is interchangeable with it (`fits_many`), and a candidate is wrong if none
    of these could lead to it by way of the meta-path's steps, and the question does not mention it.
    """
    return candidates.difference(subgraph.observed, subgraph.path, graph.could_lead_to(subgraph.path[0], meta.steps))


def choose_wrong(meta: MetaPath, subgraph: Subgraph, draw: Draw, count: int) -> list[int]:
    """Up to `count` wrong options: proved wrong, denied where pages speak, and none a kind of another.

    Where the patient also has what rules out other drugs, these come first, and there is one at least.
    """
    graph = draw.graph
    unsuitable = sorted(ruled_out_by_given(graph, meta, subgraph))
    if meta.given and not unsuitable:
        return []
    candidates = sorted(proved_wrong(graph, meta, subgraph, perturb(meta, subgraph, draw)) - set(unsuitable))
    tried = [draw.rng.sample(options, min(len(options), MOST_TRIED)) for options in (unsuitable, candidates)]
    wrong: list[int] = []
    for option in chain(*tried):
        distinct = not any(are_nested(graph, option, other) for other in (subgraph.answer, *wrong))
        if distinct and (option in unsuitable or is_ruled_out(graph, meta, subgraph, option)):
            wrong.append(option)
        if len(wrong) == count:
            break
    return wrong if not meta.given or wrong and wrong[0] in unsuitable else []


def ruled_out_by_given(graph: Graph, meta: MetaPath, subgraph: Subgraph) -> set[int]:
    """The drugs that treat the disease as the answer does, and must not be given to this patient."""
    if subgraph.given is None:
        return set()
    forbidden = graph.neighbours(subgraph.given, inverse(meta.given))
    treating = graph.neighbours(subgraph.path[-2], meta.steps[-1]) & forbidden
    return {drug for drug in treating if graph.type[drug] == graph.type[subgraph.answer]}


def is_ruled_out(graph: Graph, meta: MetaPath, subgraph: Subgraph, option: int) -> bool:
    """Whether pages that speak deny an option: a disease lacks observed features, or nothing that the path may pass
    through leads to it. What is common is found with nearly everything and never denied, and what goes together with
    a right answer elsewhere may do so here."""
    if not meta.steps:
        if is_class(graph, option) or is_presented(graph, subgraph, option):
            return False
        telling = [
            (step, entity) for step, entity in subgraph.features if not is_common(graph, entity, step, *COMMON_FINDING)
        ]
        lacking = sum(is_denied(graph, entity, inverse(step), option) for step, entity in telling)
        if lacking < max(LACKING, len(telling) - 1) or explains(graph, option, subgraph.features):
            return False
        return not shares_much(graph, subgraph, option)
    step, meant = meta.steps[-1], meant_along(graph, meta, subgraph)[-1]
    if is_common(graph, option, step, *COMMON_OPTION) or step in UNSAID and fits_nearly_any(graph, option):
        return False
    denied = is_cleared if step == "contraindication" else is_denied  # no page tells which drugs it rules out
    if not all(denied(graph, entity, step, option) for entity in meant):
        return False
    if step == "treated_by" and any(may_hold(graph, seen, step, option) for seen in subgraph.observed):
        return False  # levetiracetam, where a seizure is presented
    if step in EFFECTS and any(is_expected(graph, entity, step, option) for entity in meant):
        return False
    if step in KIN and any(go_together(graph, step, right, option) for right in graph.reach(meant, (step,))):
        return False
    if step in EFFECTS and any(is_like_another(graph, entity, step, option) for entity in meant):
        return False
    return not could_be_of_another(graph, subgraph, meta, option)


def shares_much(graph: Graph, subgraph: Subgraph, option: int) -> bool:
    """Whether a disease may have more of the symptoms that are observed than one, or be treated with what is."""
    symptoms = [entity for step, entity in subgraph.features if step == "symptom"]
    if sum(may_hold(graph, option, "symptom", entity) for entity in symptoms) > 1:
        return True
    return any(may_hold(graph, option, step, entity) for step, entity in subgraph.features if step == "treated_by")


def is_like_another(graph: Graph, entity: int, step: str, option: int) -> bool:
    """Whether an option tells one thing with something that a step may lead to: tachypnea, where dyspnea is found."""
    return any(tell_one_thing(graph, option, right) for right in graph.could_mean(entity, step))


def is_presented(graph: Graph, subgraph: Subgraph, option: int) -> bool:
    """Whether an option is a kind of what is observed: iron-deficiency anemia, where anemia is."""
    return not graph.interchangeable(option).isdisjoint(subgraph.observed)


def could_be_of_another(graph: Graph, subgraph: Subgraph, meta: MetaPath, option: int) -> bool:
    """Whether what is asked of a presented disease gives an option for another that could be meant."""
    if not meta.presentation or len(meta.steps) > 1:
        return False
    others = graph.could_mean(option, inverse(meta.steps[0]))
    return any(explains(graph, other, subgraph.features) for other in others)


def perturb(meta: MetaPath, subgraph: Subgraph, draw: Draw) -> set[int]:
    """Candidates for wrong options, of the answer's type: what the same relation gives for a competitor.

    A competitor of a presented disease shares an observed symptom with it; where the disease itself is asked for,
    the competitors are the options. In a chain the entity before the answer has competitors.
    """
    graph = draw.graph
    if meta.presentation:
        symptoms = [entity for step, entity in subgraph.features if step == "symptom"]
        rivals = set().union(*(graph.sample_neighbours(entity, "~symptom", draw.rng) for entity in symptoms))
        steps = meta.steps
    else:
        rivals, steps = competitors(graph, subgraph.path[-2], draw.rng), meta.steps[-1:]
    found = rivals - {subgraph.path[0]} if meta.presentation else rivals
    for step in steps:
        found = graph.reach(draw.some(found), (step,))
    return {entity for entity in draw.some(found) if graph.type[entity] == graph.type[subgraph.answer]}


def competitors(graph: Graph, entity: int, rng: random.Random) -> set[int]:
    """Entities of the same type that share a symptom, a treated disease, an adverse effect, or are differentials; of a
    pathogen also those whose diseases do."""
    shared = set(graph.neighbours(entity, "differential"))
    if graph.type[entity] == "pathogen":
        for disease in sorted(graph.neighbours(entity, "~cause")):
            causes = graph.reach(competitors(graph, disease, rng), ("cause",))
            shared.update(cause for cause in causes if graph.type[cause] == "pathogen")
            if len(shared) > MOST_RIVALS:
                break
    for step in ("symptom", "~treated_by", "adverse_effect", "cause", "~cause", "differential"):
        for neighbour in sorted(graph.neighbours(entity, step)):
            shared.update(graph.sample_neighbours(neighbour, inverse(step), rng))
    return {other for other in shared if graph.type[other] == graph.type[entity]}


# ---------------------------------------------------------------------------------------------------- making a question


def synthesize(
    graph: Graph,
    count: int,
    seed: int | str,
    options: int,
    meta_paths: Sequence[MetaPath] = META_PATHS,
    plain: bool = False,
    uniform: bool = False,
    single_facts: float = SINGLE_FACTS,
    tick: Callable[[], object] = lambda: None,
) -> list[Question]:
    """`count` different questions, spread over the meta-paths (`Mix`); fewer if the graph does not hold so many.

    `plain` asks in few forms and writes names as titles; `uniform` does not prefer rare entities; at most the share
    `single_facts` asks for one fact. `tick` is called at each question.

    Two questions are the same if they have the same meta-path, facts and options: asked once more with other options, a
    question has to be read again. A meta-path whose draws keep failing or repeating is exhausted and leaves its share
    to the others.
    """
    draw, mix = Draw(graph, seed, uniform), Mix(graph.rarest, single_facts)
    alive = {meta.name: meta for meta in meta_paths}
    misses: dict[str, float] = defaultdict(float)
    known: set[tuple] = set()
    questions: list[Question] = []
    while len(questions) < count and (open_to := mix.has_room(alive.values())):
        for meta in open_to:
            if len(questions) == count:
                break
            subgraph = sample_subgraph(meta, draw)
            admitted = mix.admits(subgraph)
            if subgraph and not mix.welcomes(subgraph.answer):
                draw.refused.add(subgraph.answer)
            question = make_question(meta, subgraph, draw, options, plain) if admitted else None
            if question is None or identity(question) in known:
                misses[meta.name] += 1 if admitted else REFUSED
                if misses[meta.name] > PATIENCE:
                    del alive[meta.name]
                continue
            misses[meta.name] = 0
            known.add(identity(question))
            mix.add(meta, subgraph)
            question.id = id_of(meta.name, mix.kinds[meta.name])
            questions.append(question)
            if len(questions) % FORGOTTEN == 0:
                draw.refused.clear()
            tick()
    return questions


def synthesize_in_parts(path: Path, sure: float, count: int, seed: int, workers: int, **how: Any) -> list[Question]:
    """`synthesize` from a graph's file, its relations of at least the confidence `sure`: in parts of `PART` questions,
    all but the first of them in `workers` processes, each part with a seed of its own.

    So the questions are the same however many processes there are. What two parts ask alike is kept once and made up
    for, unless more than half of what was asked for is.
    """
    found: dict[tuple, Question] = {}
    kinds: Counter[str] = Counter()

    def add(questions: list[Question]) -> None:
        for question in questions:
            if identity(question) not in found:
                found[identity(question)] = question
                kinds[question.kind] += 1
                question.id = id_of(question.kind, kinds[question.kind])
        progress.update(len(found) - progress.n)

    with progress_bar(total=count, desc="synth", unit="question") as progress:
        first = synthesize(graph_of(path, sure), min(count, PART), seed, tick=progress.update, **how)
        add(first)
        gives_more, parts = len(first) == PART, 1
        while gives_more and len(found) < count:
            before, sizes = len(found), [min(PART, count - start) for start in range(len(found), count, PART)]
            jobs = ((part, path, sure, size, f"{seed}/{parts + n}", how) for n, size in enumerate(sizes))
            try:
                with worker_processes(min(workers, len(sizes))) as pool:
                    for questions in in_order(pool, jobs, ahead=workers):
                        add(questions)
            except BrokenProcessPool:
                raise UserError(
                    f"one of {workers} processes was ended, perhaps for want of memory; ask with fewer --workers"
                ) from None
            gives_more, parts = len(found) - before > sum(sizes) / 2, parts + len(sizes)
    return list(found.values())


def part(path: Path, sure: float, count: int, seed: str, how: dict[str, Any]) -> list[Question]:
    """What a worker process makes of the graph that it keeps."""
    return synthesize(graph_of(path, sure), count, seed, **how)


@lru_cache(maxsize=1)
def graph_of(path: Path, sure: float) -> Graph:
    gc.disable()  # a third of the time: nothing here is cyclic, and it would search millions of remembered answers
    return Graph(path, sure)


def id_of(kind: str, number: int) -> str:
    return f"synth/{kind.replace(' ', '-')}/{number}"


class Mix:
    """What the questions so far are about, and what may join them: few single facts, no kind and
    nothing else again and again."""

    def __init__(self, rarest: set[int], single_facts: float):
        self.rarest, self.single_facts = rarest, single_facts
        self.kinds: Counter[str] = Counter()
        self.starts: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.easy = 0

    def has_room(self, alive: Iterable[MetaPath]) -> list[MetaPath]:
        """The meta-paths whose turn it is: those that have less than their share of the questions, if any is left. A
        graph that gives single facts only is asked for a few."""
        alive, number = list(alive), 1 + self.kinds.total()
        others = [meta for meta in alive if meta.tier != "easy" or self.easy < self.single_facts * number]
        scarce = [meta for meta in others if self.kinds[meta.name] < MOST_OF_A_KIND * number]
        return scarce or others or (alive if self.easy == self.kinds.total() < FEW else [])

    def admits(self, subgraph: Subgraph | None) -> bool:
        if subgraph is None:
            return False
        often = max(LEAST_OFTEN, MOST_OFTEN * self.kinds.total())
        return self.welcomes(subgraph.answer) and self.starts[subgraph.path[0]] < often

    def welcomes(self, answer: int) -> bool:
        """Whether an entity has been the answer seldom enough to be it once more."""
        least, share = (2, MOST_OFTEN_RARE) if answer in self.rarest else (LEAST_OFTEN, MOST_OFTEN)
        return self.answers[answer] < max(least, share * self.kinds.total())

    def add(self, meta: MetaPath, subgraph: Subgraph) -> None:
        self.kinds[meta.name] += 1
        self.easy += meta.tier == "easy"
        self.starts[subgraph.path[0]] += 1
        self.answers[subgraph.answer] += 1


def identity(question: Question) -> tuple:
    """What two questions share if they are the same."""
    facts = frozenset((subject, relation, object_) for subject, relation, object_, *_ in question.evidence)
    return question.kind, facts, frozenset(question.options.values())


def make_question(meta: MetaPath, subgraph: Subgraph, draw: Draw, options: int, plain: bool) -> Question | None:
    """The question that a subgraph makes, without its id; None if it names or does not determine its answer, or there
    are too few wrong options."""
    graph, rng = draw.graph, draw.rng
    if gives_away(graph, meta, subgraph) or not is_determined(graph, meta, subgraph):
        return None
    wrong = choose_wrong(meta, subgraph, draw, options - 1)
    if len(wrong) < options - 1:
        return None
    forbidden = ruled_out_by_given(graph, meta, subgraph)
    proof = [graph.triple(drug, meta.given, subgraph.given) for drug in wrong if drug in forbidden]
    seen, hops = subgraph.facts[: len(subgraph.features)], subgraph.facts[len(subgraph.features) :]
    shown = [subgraph.answer, *wrong]
    rng.shuffle(shown)
    return Question(
        id="",
        source="synth",
        language="en",
        question=wording(meta, subgraph, draw, plain),
        options={letter: bare(graph.title[entity]) for letter, entity in zip(LETTERS, shown)},
        answer=LETTERS[shown.index(subgraph.answer)],
        tier=meta.tier,
        kind=meta.name,
        evidence=[
            [graph.title[subject], relation, graph.title[object_], *graph.facts[subject, relation, object_]]
            for subject, relation, object_ in (*seen, *proof, *hops)
        ],
    )


def gives_away(graph: Graph, meta: MetaPath, subgraph: Subgraph) -> bool:
    """Whether the question's own words name what is masked: the answer, a presented disease.

    What is shown and what is masked are told by their names if one contains the other ("Measles", "Measles virus"; by
    any name of what is shown: oral thrush, or oral candidiasis, of candidiasis).
    """
    if meta.presentation and not graph.interchangeable(subgraph.path[0]).isdisjoint(subgraph.observed):
        return True  # hypoxia of cerebral hypoxia
    masked = {subgraph.answer, subgraph.path[0]} if meta.presentation else {subgraph.answer}
    names = [name for entity in masked for name in names_in_words(graph, entity)]
    for entity in subgraph.observed:
        if any(name <= seen for name in names for seen in names_in_words(graph, entity)):
            return True
    named = set(words_of(graph.title[subgraph.path[0] if meta.presentation else subgraph.answer]))
    return any(named.issuperset(words_of(graph.title[entity])) for entity in subgraph.observed)


def wording(meta: MetaPath, subgraph: Subgraph, draw: Draw, plain: bool) -> str:
    """The question's text: what is observed, and one of the forms in which a meta-path asks (metapath.py)."""
    names = draw.graph.title if plain else draw.graph.in_text
    seen = names[subgraph.path[0]]
    if meta.presentation:
        told: dict[str, list[str]] = defaultdict(list)
        for step, entity in subgraph.features:
            told[step].append(names[entity])
        seen = tell_features(told, draw.rng, plain)
    return draw.rng.choice(wordings_of(meta, plain)).format(seen=seen, given=names.get(subgraph.given))


# ----------------------------------------------------------------------------------------------------------------- main


def rare_share(graph: Graph, questions: list[Question]) -> float:
    """The share of answers among the rarest quarter (by incoming links) of the entities of their own type."""
    rarest = {bare(graph.title[entity]) for entity in graph.rarest}
    return sum(question.options[question.answer] in rarest for question in questions) / len(questions)


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--run", "--run-dir", default="runs/main", help="run directory: reads kg.sqlite, writes synth.jsonl"
    )
    parser.add_argument("--questions", type=at_least(1), default=100_000, help="how many; the paper does not say")
    parser.add_argument("--options", type=between(2, len(LETTERS)), default=4, help="per question; exams have four")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same questions")
    workers = f"processes, for more than {PART:,} questions: one holds a graph of 100,000 entities in 1.5 GB"
    parser.add_argument("--workers", type=at_least(1), default=min(4, os.cpu_count() or 1), metavar="N", help=workers)
    parser.add_argument(
        "--long-paths",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also ask along LONG_PATHS: three and four hops, or a presentation with a test and a mechanism",
    )
    parser.add_argument(
        "--plain-wordings",
        action="store_true",
        help="few forms of a question, names as their titles (Fever); a small model learns them sooner",
    )
    parser.add_argument(
        "--single-facts", type=between(0.0, 1.0), default=SINGLE_FACTS, help="at most this share asks for one fact"
    )
    parser.add_argument(
        "--min-confidence",
        type=between(0.0, 1.0),
        default=0.6,
        help="of what a question states; 0: take every relation",
    )
    add_teacher_arguments(parser, "none", "rewrites presentations as clinical vignettes (none: sentence templates)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    run = RunDir(args.run)
    if not run.begin("synth.jsonl"):
        return
    teacher = None if args.teacher == "none" else teacher_of(args, run)
    if teacher and not teacher.is_language_model:
        raise UserError(f"--teacher {args.teacher} writes no vignettes; choose openai:MODEL or local:FOLDER")
    path = run.input("kg.sqlite")
    graph = graph_of(path, args.min_confidence)
    meta_paths = META_PATHS + LONG_PATHS if args.long_paths else META_PATHS
    how = {"options": args.options, "meta_paths": meta_paths}
    how |= {"plain": args.plain_wordings, "single_facts": args.single_facts}
    questions = synthesize_in_parts(path, args.min_confidence, args.questions, args.seed, args.workers, **how)
    if not questions:
        raise UserError(f"{path} is too small to ask about: no meta-path has a question with {args.options} options")
    vignettes = write_vignettes(graph, questions, teacher, args.seed) if teacher else Counter()
    few = min(len(questions), 1000)
    uniform = synthesize(graph, few, args.seed, uniform=True, **how)
    shares = {
        "rare_share": rare_share(graph, questions[:few]),
        "rare_share_uniform": rare_share(graph, uniform),
    }
    summarise(run, questions, shares, vignettes)
    write_jsonl(run.output("synth.jsonl"), [question.to_json() for question in questions])  # last: it ends the stage


def summarise(run: RunDir, questions: list[Question], shares: dict[str, float], vignettes: Counter[str]) -> None:
    """Print and log what was made: the answers' rarity, the questions of each kind, what became of the vignettes."""
    kinds = Counter((question.tier, question.kind) for question in questions)
    print(f"{len(questions)} questions")
    rare, uniform = shares["rare_share"], shares["rare_share_uniform"]
    print(f"answers among the rarest quarter of entities: {rare:.1%} (sampled uniformly: {uniform:.1%})")
    for (tier, kind), number in sorted(kinds.items(), key=lambda item: (TIERS.index(item[0][0]), item[0][1])):
        print(f"  {tier:9}  {kind:42} {number:7}")
    for outcome, number in vignettes.most_common():
        print(f"  vignettes  {outcome:42} {number:7}")
    metrics = Metrics(run, "synth")
    metrics.rewind(-1)
    metrics.log(
        len(questions),
        **shares,
        **{kind: n for (_, kind), n in kinds.items()},
        **{f"vignettes: {outcome}": n for outcome, n in vignettes.items()},
    )


if __name__ == "__main__":
    run_stage(main)

"""Knowledge graph -> masked multi-hop multiple-choice questions, rare entities first (section 3.1, Figure 3).

A question is a small subgraph with its answer masked. The subgraph is sampled along a typed meta-path (`META_PATHS`):

    chain          an entity is named, one to three relations lead from it to the answer:
                   Vibrio cholerae <-cause- [Cholera] -treated_by-> ?
    presentation   several features of one disease are observed, the disease itself is masked:
                   {Fever, Cough, Night sweats} <-symptom- [?]    and then, as in a chain:    -treated_by-> ?

Only a random part of a disease's features is observed, so inference happens under partial information; the part is
chosen so that it still determines the disease. Rare entities (few incoming links) are drawn more often.

Wrong options are relation-preserving perturbations: what the same relation gives for a competing disease, one that
shares an observed feature. None of them is right as well: an option is wrong only if no reading of the observed facts
leads to it through the graph, nor to its drug class or a member of it.

Deviations from the paper, which does not give its sampler: the meta-paths, the weights 1 / (1 + incoming links), and
plain sentence templates instead of questions worded by a language model.

Reads kg.sqlite. Writes synth.jsonl (question records, `evidence` = the path) and metrics.jsonl.

    python synth.py                                             # 100,000 questions from runs/main/kg.sqlite
    python synth.py --run runs/tiny --questions 5000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tqdm import tqdm

from records import LETTERS, TIERS, Metrics, Question, RunDir, UserError, run_stage, stage_parser, write_jsonl


@dataclass(frozen=True, slots=True)
class MetaPath:
    """A typed path from what is observed to what is asked. A step is a relation, with a leading `~` against its
    direction.

    `presentation`: features of the start are observed, not its name. `answer` limits the answer's type. `{seen}` in a
    wording is the named entity, or the sentences that list the observed features.
    """

    name: str
    tier: str  # section 3.1: one fact; one inference; several
    start: str
    steps: tuple[str, ...]
    answer: tuple[str, ...]
    wordings: tuple[str, ...]
    presentation: bool = False


DRUGS, TESTS = ("drug",), ("test", "imaging")

# How a presentation's features are told, by relation: the symptoms together, another finding in a sentence of its own.
SYMPTOMS = ("A patient has {}.", "A person presents with {}.", "Symptoms: {}.")
FINDINGS = {
    "mechanism": "The mechanism is {}.",
    "diagnosed_by": "The diagnosis is made with {}.",
    "risk_factor": "A risk factor is {}.",
    "affects": "The disease affects {}.",
}


META_PATHS = (
    # One fact.
    MetaPath("disease>drug", "easy", "disease", ("treated_by",), DRUGS,
             ("Which drug treats {seen}?", "What is given for {seen}?")),
    MetaPath("drug>disease", "easy", "drug", ("~treated_by",), ("disease",),
             ("Which disease is treated with {seen}?", "What is {seen} used for?")),
    MetaPath("disease>symptom", "easy", "disease", ("symptom",), ("symptom",),
             ("Which is a symptom of {seen}?", "What does {seen} cause?")),
    MetaPath("disease>test", "easy", "disease", ("diagnosed_by",), TESTS,
             ("Which test is used to diagnose {seen}?", "How is {seen} confirmed?")),
    MetaPath("disease>complication", "easy", "disease", ("complication",), ("disease", "symptom"),
             ("Which is a complication of {seen}?", "What can {seen} lead to?")),
    MetaPath("disease>pathogen", "easy", "disease", ("cause",), ("pathogen",),
             ("Which organism causes {seen}?", "What is {seen} caused by?")),
    MetaPath("drug>adverse effect", "easy", "drug", ("adverse_effect",), ("symptom", "disease"),
             ("Which is a side effect of {seen}?", "What can {seen} cause?")),
    # One inference: two facts joined, or several features weighed against each other.
    MetaPath("pathogen>disease>drug", "moderate", "pathogen", ("~cause", "treated_by"), DRUGS,
             ("Which drug treats a disease caused by {seen}?",)),
    MetaPath("drug>disease>test", "moderate", "drug", ("~treated_by", "diagnosed_by"), TESTS,
             ("Which test is used to diagnose a disease treated with {seen}?",)),
    MetaPath("disease>drug>adverse effect", "moderate", "disease", ("treated_by", "adverse_effect"),
             ("symptom", "disease"), ("Which is a side effect of a drug that treats {seen}?",)),
    MetaPath("presentation>disease", "moderate", "disease", (), ("disease",),
             ("{seen} What is the most likely diagnosis?", "{seen} Which disease is it?"), True),
    # Several inferences: the disease has to be found before its drug, test, complication.
    MetaPath("presentation>disease>drug", "difficult", "disease", ("treated_by",), DRUGS,
             ("{seen} Which drug treats the most likely disease?", "{seen} What should be given?"), True),
    MetaPath("presentation>disease>test", "difficult", "disease", ("diagnosed_by",), TESTS,
             ("{seen} Which test confirms the most likely disease?",), True),
    MetaPath("presentation>disease>complication", "difficult", "disease", ("complication",), ("disease", "symptom"),
             ("{seen} Which is a complication of the most likely disease?", "{seen} What can it lead to?"), True),
    MetaPath("presentation>disease>drug>adverse effect", "difficult", "disease", ("treated_by", "adverse_effect"),
             ("symptom", "disease"), ("{seen} Which is a side effect of a drug for the most likely disease?",), True),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ the graph


class Graph:
    """The knowledge graph in memory, indexed by relation in both directions. Entities are their database ids."""

    def __init__(self, path: Path, uniform: bool = False):
        """`uniform` gives every entity the same sampling weight. Raises UserError if the file is no knowledge graph."""
        try:
            database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            entities = database.execute("SELECT id, title, type, incoming FROM entity ORDER BY id").fetchall()
            relations = database.execute(
                "SELECT subject, relation, object, revision, sentence FROM relation ORDER BY id"
            ).fetchall()
            database.close()
        except sqlite3.Error as error:
            raise UserError(
                f"{path} is not a knowledge graph ({error}); make it again with: python kg_build.py"
            ) from None
        if not relations:
            raise UserError(f"{path} holds no relation; build it from a medical dump with: python kg_build.py")
        self.title = {entity: title for entity, title, _, _ in entities}
        self.type = {entity: kind for entity, _, kind, _ in entities}
        # Sampling weight: rare entities, which few pages link to, come first.
        self.weight = {entity: 1 if uniform else 1 / (1 + incoming) for entity, _, _, incoming in entities}
        self.of_type: dict[str, list[int]] = defaultdict(list)
        for entity, kind in self.type.items():
            self.of_type[kind].append(entity)
        self.starts = {  # entities of a type with their cumulative weights, for quick weighted draws
            kind: (members, list(accumulate(self.weight[entity] for entity in members)))
            for kind, members in self.of_type.items()
        }
        self.facts: dict[tuple[int, str, int], tuple[int, str]] = {}  # triple -> its first evidence: revision, sentence
        self.links: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))  # step -> entity -> entities
        for subject, relation, object_, revision, sentence in relations:
            self.facts.setdefault((subject, relation, object_), (revision, sentence))
            self.links[relation][subject].add(object_)
            self.links["~" + relation][object_].add(subject)

    def step(self, entity: int, step: str) -> set[int]:
        """What one step (a relation, or `~relation`) leads to from an entity."""
        return self.links[step].get(entity, set())

    def reach(self, entities: set[int], steps: tuple[str, ...]) -> set[int]:
        """Everything that a chain of steps leads to from any of the entities."""
        for step in steps:
            entities = set().union(*(self.step(entity, step) for entity in entities))
        return entities

    def kin(self, entity: int) -> set[int]:
        """The entity itself, its classes and its members: each would be as right an answer as the other."""
        return {entity} | self.step(entity, "belongs_to") | self.step(entity, "~belongs_to")

    def triple(self, entity: int, step: str, other: int) -> tuple[int, str, int]:
        """The fact behind one step, in the direction in which it is stored."""
        return (other, step[1:], entity) if step.startswith("~") else (entity, step, other)


# -------------------------------------------------------------------------------------------------- sampling a subgraph


@dataclass(slots=True)
class Subgraph:
    """A sampled path: what is observed, the masked entities (centre .. answer), all right answers, the facts."""

    observed: list[int]
    path: list[int]
    right: set[int]
    facts: list[tuple[int, str, int]]


def sample_chain(graph: Graph, meta: MetaPath, start: int, rng: random.Random) -> Subgraph | None:
    """Walk the meta-path's steps from a named entity. None where the walk ends early."""
    path, facts = walk(graph, meta.steps, start, rng)
    if len(path) <= len(meta.steps):
        return None
    return Subgraph([start], path, graph.reach({start}, meta.steps), facts)


def sample_presentation(graph: Graph, meta: MetaPath, disease: int, rng: random.Random) -> Subgraph | None:
    """Observe a random part of a disease's features that still determines it, then walk on to the answer.

    Two to four symptoms are observed, and sometimes another finding; three features at least. What is asked for is no
    finding.
    """
    symptoms = sorted(graph.step(disease, "symptom"))
    if len(symptoms) < 3:
        return None
    features = [("symptom", entity) for entity in rng.sample(symptoms, rng.randint(2, min(4, len(symptoms))))]
    asked = meta.steps[0] if meta.steps else None
    findings = [(step, entity) for step in FINDINGS if step != asked for entity in sorted(graph.step(disease, step))]
    if findings and (len(features) < 3 or rng.random() < 0.3):
        features.append(rng.choice(findings))
    fitting = set.intersection(*(graph.step(entity, "~" + step) for step, entity in features))
    path, facts = walk(graph, meta.steps, disease, rng)
    if len(features) < 3 or fitting != {disease} or len(path) <= len(meta.steps):
        return None  # too little observed, another disease shows all of it too, or the path ends early
    if not {entity for _, entity in features}.isdisjoint(path):
        return None
    seen = [(disease, step, entity) for step, entity in features]
    return Subgraph([entity for _, entity in features], path, graph.reach({disease}, meta.steps), seen + facts)


def walk(
    graph: Graph, steps: tuple[str, ...], start: int, rng: random.Random
) -> tuple[list[int], list[tuple[int, str, int]]]:
    """A random walk that prefers rare entities: the entities from `start` on, and the facts between them."""
    path, facts = [start], []
    for step in steps:
        choices = sorted(graph.step(path[-1], step) - set(path))
        if not choices:
            break
        path.append(rng.choices(choices, [graph.weight[entity] for entity in choices])[0])
        facts.append(graph.triple(path[-2], step, path[-1]))
    return path, facts


def sample_distractors(graph: Graph, meta: MetaPath, subgraph: Subgraph, rng: random.Random, count: int) -> list[int]:
    """Plausible but wrong answers: what the last step gives for a competitor, of the answer's type. May be fewer than
    asked.

    A competitor has the type of the entity that the last step leaves (in a presentation: of the masked disease) and
    shares a feature with it. Right answers, their classes and members, and what the question itself names are
    excluded.
    """
    answer = subgraph.path[-1]
    excluded = set(subgraph.observed).union(subgraph.path, *(graph.kin(entity) for entity in subgraph.right))
    if (
        meta.presentation
    ):  # diseases that share an observed symptom; where the disease itself is asked, they are the options
        rivals = set().union(*(graph.step(entity, "~symptom") for entity in subgraph.observed))
        pool = graph.reach(rivals - {subgraph.path[0]}, meta.steps)
    else:
        pool = graph.reach(competing(graph, subgraph.path[-2]), meta.steps[-1:])
    pool = sorted(entity for entity in pool - excluded if graph.type[entity] == graph.type[answer])
    return rng.sample(pool, min(count, len(pool)))


def competing(graph: Graph, entity: int) -> set[int]:
    """Entities of the same type that share a symptom, a treated disease, an adverse effect, or are differentials."""
    shared: set[int] = set()
    for step in ("symptom", "~treated_by", "adverse_effect", "cause", "~cause", "differential"):
        for neighbour in graph.step(entity, step):
            back = step[1:] if step.startswith("~") else "~" + step
            shared |= graph.step(neighbour, back)
    shared |= graph.step(entity, "differential")
    same_type = {other for other in shared if graph.type[other] == graph.type[entity]}
    return same_type or set(graph.of_type[graph.type[entity]])


# ---------------------------------------------------------------------------------------------------- making a question


def make_question(graph: Graph, meta: MetaPath, rng: random.Random, options: int) -> tuple[tuple, Question] | None:
    """One question along a meta-path and what makes two questions the same; None if the draw failed."""
    starts, weights = graph.starts.get(meta.start, ([], []))
    if not starts:
        return None
    start = rng.choices(starts, cum_weights=weights)[0]
    subgraph = (sample_presentation if meta.presentation else sample_chain)(graph, meta, start, rng)
    if subgraph is None or graph.type[subgraph.path[-1]] not in meta.answer:
        return None
    wrong = sample_distractors(graph, meta, subgraph, rng, options - 1)
    if len(wrong) < options - 1:
        return None
    answer = subgraph.path[-1]
    shown = [answer, *wrong]
    rng.shuffle(shown)
    seen = tell_features(graph, subgraph, rng) if meta.presentation else graph.title[start]
    evidence = [
        [graph.title[subject], relation, graph.title[object_], *graph.facts[subject, relation, object_]]
        for subject, relation, object_ in subgraph.facts
    ]
    question = Question(
        id="",
        source="synth",
        language="en",
        question=rng.choice(meta.wordings).format(seen=seen),
        options={letter: graph.title[entity] for letter, entity in zip(LETTERS, shown)},
        answer=LETTERS[shown.index(answer)],
        tier=meta.tier,
        kind=meta.name,
        evidence=evidence,
    )
    return (meta.name, frozenset(subgraph.facts), frozenset(shown)), question


def tell_features(graph: Graph, subgraph: Subgraph, rng: random.Random) -> str:
    """The observed features in sentences: the symptoms together, another finding by itself."""
    told: dict[str, list[str]] = defaultdict(list)
    for _, relation, entity in subgraph.facts[: len(subgraph.observed)]:
        told[relation].append(graph.title[entity])
    symptoms = rng.choice(SYMPTOMS).format(join_names(told.pop("symptom")))
    return " ".join([symptoms, *(FINDINGS[relation].format(join_names(names)) for relation, names in told.items())])


def join_names(names: list[str]) -> str:
    """A, B and C"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def synthesize(graph: Graph, count: int, seed: int, options: int) -> list[Question]:
    """`count` different questions, spread evenly over the meta-paths; fewer if the graph does not hold so many.

    Two questions are the same if they have the same meta-path, facts and options: asked once more with other options, a
    question has to be read again. A meta-path whose draws keep
    failing or repeating is exhausted and leaves its share to the others.
    """
    rng = random.Random(seed)
    alive = {meta.name: meta for meta in META_PATHS}
    misses: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    known: set[tuple] = set()
    questions: list[Question] = []
    with tqdm(total=count, desc="synth", unit="question") as progress:
        while len(questions) < count and alive:
            for name, meta in list(alive.items()):
                made = make_question(graph, meta, rng, options) if len(questions) < count else None
                if made is None or made[0] in known:
                    misses[name] += 1
                    if misses[name] > 300:  # in a row
                        del alive[name]
                    continue
                misses[name] = 0
                known.add(made[0])
                numbers[name] += 1
                made[1].id = f"synth/{name.replace(' ', '-')}/{numbers[name]}"
                questions.append(made[1])
                progress.update()
    return questions


def rare_share(graph: Graph, questions: list[Question]) -> float:
    """The share of answers among the rarest quarter (by incoming links) of the entities of their own type."""
    rarest: dict[str, set[str]] = {}
    for kind, members in graph.of_type.items():
        ranked = sorted(members, key=lambda entity: graph.weight[entity], reverse=True)
        rarest[kind] = {graph.title[entity] for entity in ranked[: max(1, len(ranked) // 4)]}
    kind_of = {graph.title[entity]: kind for entity, kind in graph.type.items()}
    answers = [question.options[question.answer] for question in questions]
    return sum(answer in rarest[kind_of[answer]] for answer in answers) / len(answers)


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--run", default="runs/main", help="run directory: reads kg.sqlite, writes synth.jsonl")
    parser.add_argument(
        "--questions", type=int, default=100_000, help="how many; the paper's graph gives about this many"
    )
    parser.add_argument("--options", type=int, default=4, help="options per question, 2 to 26; exams have four")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same questions")
    args = parser.parse_args()
    if args.questions < 1 or not 2 <= args.options <= 26:
        raise UserError(f"--questions {args.questions} must be at least 1, --options {args.options} from 2 to 26")
    return args


def main() -> None:
    args = parse_args()
    run = RunDir(args.run)
    if run.finished("synth.jsonl"):
        return
    path = run.input("kg.sqlite")
    graph = Graph(path)
    questions = synthesize(graph, args.questions, args.seed, args.options)
    if not questions:
        raise UserError(f"{path} is too small to ask about: no meta-path has a question with {args.options} options")
    plain = synthesize(Graph(path, uniform=True), min(len(questions), 1000), args.seed, args.options)
    share, uniform_share = rare_share(graph, questions[: len(plain)]), rare_share(graph, plain)
    kinds = Counter((question.tier, question.kind) for question in questions)
    print(f"{len(questions)} questions")
    print(f"answers among the rarest quarter of entities: {share:.1%} (sampled uniformly: {uniform_share:.1%})")
    for (tier, kind), number in sorted(kinds.items(), key=lambda item: (TIERS.index(item[0][0]), item[0][1])):
        print(f"  {tier:9}  {kind:42} {number:7}")
    metrics = Metrics(run, "synth")
    metrics.rewind(-1)
    metrics.log(
        len(questions),
        rare_share=share,
        rare_share_uniform=uniform_share,
        **{kind: n for (_, kind), n in kinds.items()},
    )
    write_jsonl(run.output("synth.jsonl"), [question.to_json() for question in questions])


if __name__ == "__main__":
    run_stage(main)

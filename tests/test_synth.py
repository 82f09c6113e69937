"""Questions from the graph: unique answers, plausible distractors, rare entities first, reproducible."""

import os
import random
import re
import shutil
import sqlite3
import zlib
from collections import Counter, defaultdict
from copy import deepcopy
from itertools import chain
from unittest.mock import patch

import pytest
from conftest import call_main, metrics_of, python
from hypothesis import given, settings
from hypothesis import strategies as st

import synth
import vignette as vignettes
from absence import (
    FIRST_TOLD,
    FIRST_WORDS,
    are_nested,
    could_lead_from,
    fits_nearly_any,
    is_cleared,
    is_denied,
    is_expected,
    is_typical,
    likelihood,
    mentions,
    tell_one_thing,
)
from graph import ALIKE, Graph
from metapath import FINDINGS
from question import LETTERS, Question, load_questions
from teacher import Teacher
from tools.cli import UserError
from wiki.kinds import words_of

EVERY_PATH = synth.META_PATHS + synth.LONG_PATHS

RELATIONS = [  # subject type, relation, object type
    ("disease", "symptom", "symptom"),
    ("disease", "treated_by", "drug"),
    ("disease", "treated_by", "drug class"),
    ("disease", "diagnosed_by", "test"),
    ("disease", "cause", "pathogen"),
    ("disease", "complication", "disease"),
    ("disease", "mechanism", "mechanism"),
    ("disease", "affects", "anatomy"),
    ("drug", "adverse_effect", "symptom"),
    ("drug", "belongs_to", "drug class"),
    ("drug class", "belongs_to", "drug class"),
    ("drug class", "adverse_effect", "symptom"),
    ("symptom", "belongs_to", "symptom"),
    ("disease", "prevented_by", "drug"),
    ("disease", "risk_factor", "drug"),
    ("drug", "contraindication", "disease"),
    ("drug", "interaction", "drug"),
]
RARER = ("belongs_to", "prevented_by", "risk_factor")  # a fifth as dense: with all of them, every answer is right


def make_graph(path, seed, density=0.25, sizes=None):
    """A random typed graph in kg_build's schema; incoming counts how many relations an entity is in. One drug, symptom
    and test in six has an alias that is another one's title."""
    rng = random.Random(seed)
    sizes = sizes or {"disease": 14, "symptom": 12, "drug": 12, "drug class": 3, "test": 8, "pathogen": 6,
                      "mechanism": 4, "anatomy": 4}  # fmt: skip
    entities = [(f"{kind} {n:02d}", kind) for kind, count in sizes.items() for n in range(count)]
    ids = {title: number for number, (title, _) in enumerate(entities, 1)}
    facts = set()
    for subject_type, relation, object_type in RELATIONS:
        for subject, a in entities:
            for object_, b in entities:
                if (
                    (a, b) == (subject_type, object_type)
                    and subject != object_
                    and rng.random() < density / (5 if relation in RARER else 1)
                ):
                    facts.add((ids[subject], relation, ids[object_]))
    degree = Counter(end for s, _, o in facts for end in (s, o))
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE entity(id INTEGER PRIMARY KEY, title TEXT, type TEXT, page, revision, rare, incoming)"
    )
    database.execute("CREATE TABLE alias(name TEXT PRIMARY KEY, entity INTEGER)")
    for kind in ("drug", "symptom", "test"):
        same = [ids[title] for title, other in entities if other == kind]
        synonyms = [(f"{kind} {n:02d}", rng.choice(same)) for n in range(len(same)) if rng.random() < 1 / 6]
        database.executemany("INSERT INTO alias VALUES (?, ?)", synonyms)
    database.execute("CREATE TABLE relation(id INTEGER PRIMARY KEY, subject, relation, object, revision, sentence)")
    database.executemany(
        "INSERT INTO entity VALUES (?, ?, ?, ?, 1, 0, ?)", [(ids[t], t, k, ids[t], degree[ids[t]]) for t, k in entities]
    )
    database.executemany(
        "INSERT INTO relation(subject, relation, object, revision, sentence) VALUES (?, ?, ?, 7, 'so it says')",
        sorted(facts),
    )
    database.commit()
    database.close()
    return path


class Reader:
    """Reads a question from its record by brute force over all facts and names, with nothing of the sampler's."""

    def __init__(self, graph, path):
        self.facts = set(graph.facts)
        self.ids = {title: entity for entity, title in graph.title.items()}
        self.same = defaultdict(set)
        for name, entity in sqlite3.connect(path).execute("SELECT name, entity FROM alias"):
            self.same[entity].add(self.ids[name])
            self.same[self.ids[name]].add(entity)
        classes = defaultdict(set)
        for s, r, o in self.facts:
            if r == "belongs_to":
                classes[s].add(o)
        above = {entity: self.above(entity, classes) for entity in graph.title}
        self.kin = {a: {b for b in above if b in above[a] or a in above[b]} for a in above}
        self.read = defaultdict(set)
        for s, r, o in self.facts:
            for step in {step for meta in EVERY_PATH for step in (*meta.steps, meta.given)} | {"symptom", *FINDINGS}:
                for relation in (step, *ALIKE.get(step, ())):
                    if relation == r:
                        self.read[step].add((s, o))
                    if relation == "~" + r:
                        self.read[step].add((o, s))

    def above(self, entity, classes):
        """The entity and its classes at any distance, with the synonyms of each."""
        found = {entity}
        while True:
            more = found.union(*(classes[e] | self.same[e] for e in found))
            if more == found:
                return found
            found = more

    def leads(self, entities, step):
        """All that one step could be read to lead to from any of the entities, and its kin."""
        ends = {b for a, b in self.read[step] if a in entities}
        return set().union(*(self.kin[end] for end in ends))

    def fits(self, entity, features):
        return all(any((entity, same) in self.read[step] for same in self.kin[other]) for step, other in features)


def seen_features(graph, meta, question):
    """What a presentation observes, as (relation, entity)."""
    rows = question.evidence[: len(question.evidence) - len(meta.steps)]
    return [(relation, graph.entity[title]) for _, relation, title, *_ in rows if relation != meta.given]


def ruled_out(reader, meta, question):
    """The wrong options that treat the disease, but must not be given: {drug: what rules it out}."""
    rows = question.evidence[: len(question.evidence) - len(meta.steps)]
    return {reader.ids[drug]: reader.ids[given] for drug, relation, given, *_ in rows if relation == meta.given}


def questions_of_a_small_graph(graph, count, seed):
    """By every path, each given up after 75 draws in a row that gave none, not 600: so small a graph holds few."""
    with patch.object(synth, "PATIENCE", 75):
        return synth.synthesize(graph, count, seed, 4, EVERY_PATH)


@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.sampled_from([0.1, 0.25, 0.4]))
def test_exactly_one_option_is_right(tmp_path_factory, seed, density):
    path = make_graph(tmp_path_factory.mktemp("g") / "kg.sqlite", seed, density)
    graph = Graph(path)
    reader = Reader(graph, path)
    for question in questions_of_a_small_graph(graph, 60, seed):
        meta = next(meta for meta in EVERY_PATH if meta.name == question.kind)
        facts = [(reader.ids[s], r, reader.ids[o]) for s, r, o, *_ in question.evidence]
        assert all(fact in reader.facts for fact in facts), "evidence is in the graph"
        if meta.presentation:
            features, start = seen_features(graph, meta, question), facts[0][0]
            assert all((start, *feature) in reader.facts for feature in features)
            assert {e for e in graph.title if reader.fits(e, features)} <= reader.kin[start], "one disease fits"
        else:
            first = facts[-len(meta.steps)]
            start = first[2] if meta.steps[0].startswith("~") else first[0]
        right, read = {start}, set(reader.kin[start])
        for step in meta.steps:
            right = graph.reach(right, (step,))
            read = reader.leads(read, step)
        options = {letter: reader.ids[text] for letter, text in question.options.items()}
        assert options[question.answer] in right
        forbidden = ruled_out(reader, meta, question)
        wrong = {entity for letter, entity in options.items() if letter != question.answer}
        assert wrong & read == set(forbidden), "no other option leads there"
        assert bool(forbidden) == bool(meta.given) and forbidden.keys() <= right and len(set(forbidden.values())) <= 1
        for reason in forbidden.values():
            assert reason not in reader.leads(reader.kin[options[question.answer]], meta.given), "the answer is cleared"
        assert len(set(options.values())) == 4
        assert len({graph.type[entity] for entity in options.values()}) == 1, "options of one type"
        assert question.options[question.answer] not in question.question, "the answer is masked"


def around(graph, entity):
    """An entity's relations, without itself."""
    return {(r, o) for s, r, o in graph.facts if s == entity} | {(s, r) for s, r, o in graph.facts if o == entity}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_wrong_options_come_from_competitors(tmp_path_factory, seed):
    """What gives a wrong option shares an observed feature with what gives the right one, and lacks another."""
    graph = Graph(make_graph(tmp_path_factory.mktemp("g") / "kg.sqlite", seed))
    for question in questions_of_a_small_graph(graph, 40, seed):
        meta = next(meta for meta in EVERY_PATH if meta.name == question.kind)
        wrong = {graph.entity[text] for letter, text in question.options.items() if letter != question.answer}
        wrong -= {graph.entity[row[0]] for row in question.evidence if row[1] == meta.given}
        if meta.presentation:
            features, disease = seen_features(graph, meta, question), graph.entity[question.evidence[0][0]]
            rivals = {
                other
                for other in set(graph.title) - {disease}
                if any((other, *feature) in graph.facts for feature in features if feature[0] == "symptom")
                and not all((other, *feature) in graph.facts for feature in features)
            }
            assert wrong <= graph.reach(rivals, meta.steps)
        else:
            subject, _, object_, *_ = question.evidence[-1]
            last = graph.entity[object_ if meta.steps[-1].startswith("~") else subject]
            rivals = {e for e in graph.of_type[graph.type[last]] if around(graph, e) & around(graph, last)}
            if graph.type[last] == "pathogen":
                features = set().union(*(around(graph, disease) for disease in graph.neighbours(last, "~cause")))
                rivals |= graph.reach([e for e in graph.of_type["disease"] if around(graph, e) & features], ("cause",))
            assert wrong <= graph.reach(rivals, meta.steps[-1:])


@pytest.fixture(scope="module")
def encyclopedia_path(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    built = python("kg_build.py", "--run", run, "--source", "data/encyclopedia.xml")
    assert built.returncode == 0, built.stderr
    return run / "kg.sqlite"


@pytest.fixture(scope="module")
def encyclopedia(encyclopedia_path):
    return Graph(encyclopedia_path)


@pytest.fixture(scope="module")
def asked(encyclopedia):
    """800 of its questions, by the default paths."""
    return synth.synthesize(encyclopedia, 800, 0, 4)


@pytest.fixture(scope="module")
def asked_of_every_path(encyclopedia):
    return synth.synthesize(encyclopedia, 800, 0, 4, EVERY_PATH)


@pytest.fixture(scope="module")
def asked_plainly(encyclopedia):
    return synth.synthesize(encyclopedia, 300, 0, 4, EVERY_PATH, plain=True)


def test_what_could_lead_to_a_thing_is_what_a_reader_may_take_for_it(encyclopedia):
    """By way of a step or one like it, from an entity or what is interchangeable with it, to the thing or its kinds."""
    graph = encyclopedia
    for step in ("symptom", "~symptom", "treated_by", "cause", "interaction"):
        others = sorted({other for found in graph.possible[step].values() for other in found})[::7]
        for other in others:
            expected = {
                entity
                for entity in graph.title
                if any(
                    not graph.possible[like].get(same, set()).isdisjoint(graph.interchangeable(other))
                    for like in (step, *ALIKE.get(step, ()))
                    for same in graph.interchangeable(entity)
                )
            }
            assert expected and could_lead_from(graph, step, other) == expected, (step, graph.title[other])


def test_parts_of_many_questions_make_the_same_whatever_the_number_of_processes(encyclopedia_path, monkeypatch):
    monkeypatch.setattr(synth, "PART", 60)
    alone, together = (
        synth.synthesize_in_parts(encyclopedia_path, 0.0, 200, 0, workers, options=4) for workers in (1, 2)
    )
    assert [question.to_json() for question in alone] == [question.to_json() for question in together]
    assert len({synth.identity(question) for question in alone}) == len({question.id for question in alone}) == 200
    first = synth.synthesize(synth.graph_of(encyclopedia_path, 0.0), 60, 0, 4)
    assert [question.to_json() for question in alone[:60]] == [question.to_json() for question in first]
    numbers = Counter(question.kind for question in alone)
    assert {question.id for question in alone} == {
        f"synth/{kind.replace(' ', '-')}/{number + 1}" for kind in numbers for number in range(numbers[kind])
    }


def same_again(path, sure, count, _, how):
    return synth.synthesize(synth.graph_of(path, sure), count, 0, **how)


def test_parts_end_where_the_graph_gives_hardly_more(encyclopedia_path, monkeypatch):
    monkeypatch.setattr(synth, "PART", 40)
    monkeypatch.setattr(synth, "part", same_again)
    few = synth.synthesize_in_parts(encyclopedia_path, 0.0, 100, 0, 1, options=4)
    assert len(few) == len({synth.identity(question) for question in few}) == 40


def die(*_):
    os._exit(9)


def test_a_worker_that_dies_is_told_of(encyclopedia_path, monkeypatch):
    monkeypatch.setattr(synth, "PART", 20)
    monkeypatch.setattr(synth, "part", die)
    with pytest.raises(UserError, match="fewer --workers"):
        synth.synthesize_in_parts(encyclopedia_path, 0.0, 60, 0, 1, options=4)


def test_the_encyclopedia_gives_every_kind(encyclopedia):
    questions = synth.synthesize(encyclopedia, 1200, 0, 4, single_facts=0.45)
    assert {question.kind for question in questions} == {meta.name for meta in synth.META_PATHS}
    facts = [
        (q.kind, frozenset(tuple(row[:3]) for row in q.evidence), frozenset(q.options.values())) for q in questions
    ]
    assert len(set(facts)) == len(questions) == 1200
    kinds = Counter(question.kind for question in questions)
    assert max(kinds.values()) <= synth.MOST_OF_A_KIND * 1200 + 1, "no kind outweighs the others"
    assert sum(question.tier == "easy" for question in questions) < 0.46 * 1200
    assert {len(question.evidence) for question in questions} >= {1, 2, 3, 4, 5}
    assert Counter(q.answer for q in questions).most_common()[-1][1] > 1200 / 4 * 0.8, "no letter is favoured"


def test_a_kind_that_outweighs_the_others_waits_while_they_last():
    first, second = synth.META_PATHS[-2:]
    mix = synth.Mix(set(), synth.SINGLE_FACTS)
    assert mix.has_room([first, second]) == [first, second]
    mix.add(first, synth.Subgraph([], [1, 2], []))
    assert mix.has_room([first, second]) == [second]
    assert mix.has_room([first]) == [first], "the graph gives nothing else"


def test_diagnoses_share_an_observed_feature_and_lack_another(encyclopedia, asked):
    for question in asked:
        if question.kind == "presentation>disease":
            seen = [(relation, encyclopedia.entity[object_]) for _, relation, object_, *_ in question.evidence]
            for letter, text in question.options.items():
                shared = [o in encyclopedia.neighbours(encyclopedia.entity[text], r) for r, o in seen]
                assert all(shared) if letter == question.answer else any(shared) and not all(shared)


def test_a_random_part_is_masked(encyclopedia):
    """A disease is presented in different ways, and never with everything that is known of it."""
    ways = defaultdict(set)
    meta = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease")
    for question in synth.synthesize(encyclopedia, 200, 2, 4, [meta]):
        disease = encyclopedia.entity[question.evidence[0][0]]
        seen = frozenset((disease, r, encyclopedia.entity[o]) for _, r, o, *_ in question.evidence)
        assert seen < {fact for fact in encyclopedia.facts if fact[0] == disease}
        ways[disease].add(seen)
    assert sum(len(seen) > 1 for seen in ways.values()) > len(ways) / 2


def test_long_paths_have_up_to_four_hops(encyclopedia, asked_of_every_path):
    """symptom -> mechanism -> test -> treatment is among them; without the flag they are not asked."""
    assert sum(question.tier == "easy" for question in asked_of_every_path) < 0.2 * 800
    assert {question.kind for question in asked_of_every_path} > {
        "symptoms+mechanism+test>disease>drug",
        "presentation>disease>complication>drug",
    }
    assert {len(meta.steps) + meta.presentation for meta in EVERY_PATH} == {1, 2, 3, 4}
    question = synth.synthesize(encyclopedia, 1, 0, 4, synth.LONG_PATHS[:1])[0]
    assert [row[1] for row in question.evidence] == ["symptom"] * 3 + ["mechanism", "diagnosed_by", "treated_by"]


def test_questions_have_many_surface_forms(encyclopedia, asked_of_every_path, asked_plainly):
    """Of each kind of question; the plain ones are fewer."""
    for meta in EVERY_PATH:
        forms = synth.wordings_of(meta)
        assert len(set(forms)) == len(forms) >= 4 > len(synth.wordings_of(meta, plain=True))
        assert all(form.count("{seen}") == 1 and form.endswith("?") for form in forms)
    told, asked = defaultdict(set), Counter()
    shown = "|".join(map(re.escape, sorted(encyclopedia.in_text.values(), key=len, reverse=True)))
    for question in asked_of_every_path:
        asked[question.kind] += 1
        told[question.kind].add(re.sub(shown, "X", question.question))
    assert (
        all(len(forms) >= min(3, asked[kind] / 2) for kind, forms in told.items())
        and len(told["presentation>disease"]) > 20
    )
    plain = {meta.name: synth.wordings_of(meta, plain=True) for meta in EVERY_PATH}
    for question in asked_plainly:
        ends = [wording.split("{seen}")[1] for wording in plain[question.kind]]
        forms = (re.escape(end).replace(r"\{given\}", ".+") for end in ends)
        assert any(re.search(f"{form}$", question.question) for form in forms)


NAMES = {  # title -> type, name within a sentence
    "Fever": ("symptom", "fever"),
    "Koplik's spots": ("symptom", "Koplik's spots"),
    "Lyme disease": ("disease", "Lyme disease"),
    "Familial Mediterranean fever": ("disease", "familial Mediterranean fever"),
    "Parkinson's disease": ("disease", "Parkinson's disease"),
    "Von Willebrand disease": ("disease", "von Willebrand disease"),
    "Syncope (medicine)": ("symptom", "syncope"),
    "Seizure": ("symptom", "seizure"),
    "HIV": ("pathogen", "HIV"),
    "Chlamydia": ("disease", "chlamydia"),
    "Chlamydia trachomatis": ("pathogen", "Chlamydia trachomatis"),
    "Leishmania": ("pathogen", "Leishmania"),
    "ACE inhibitor": ("drug class", "ACE inhibitor"),
    "Sputum": ("symptom", "sputum"),
    # without any evidence of their own:
    "Chlamydia pneumoniae": ("pathogen", "Chlamydia pneumoniae"),
    "Sputum culture": ("test", "sputum culture"),
    "Spirometry": ("test", "spirometry"),
    "Agalsidase beta": ("drug", "agalsidase beta"),
    "Babinski sign": ("symptom", "Babinski sign"),
    "Brucella": ("pathogen", "Brucella"),
}
SENTENCES = {  # a sentence and what it states a fact of
    "Early Lyme disease causes a fever.": ("Lyme disease", "Fever"),
    "Lyme disease: symptoms: Fever, Seizure, Syncope": ("Lyme disease", "Fever"),
    "Typical are seizures with syncope, or none.": ("Lyme disease", "Seizure"),
    "It may end in syncope.": ("Lyme disease", "Syncope (medicine)"),
    "Attacks of familial Mediterranean fever bring on fever.": ("Familial Mediterranean fever", "Fever"),
    "Some people with parkinson's disease have seizures.": ("Parkinson's disease", "Seizure"),
    "In Parkinson's disease a seizure is rare.": ("Parkinson's disease", "Seizure"),
    "For Parkinson's disease, fever is not typical.": ("Parkinson's disease", "Fever"),
    "No symptom of Parkinson's disease is syncope.": ("Parkinson's disease", "Syncope (medicine)"),
    "In severe von Willebrand disease and in mild Von Willebrand disease.": ("Von Willebrand disease", "Fever"),
    "Only Koplik's spots are typical.": ("Lyme disease", "Koplik's spots"),
    "Then HIV is found.": ("Lyme disease", "HIV"),
    "The cause of chlamydia is Chlamydia trachomatis.": ("Chlamydia", "Chlamydia trachomatis"),
    "Visceral leishmaniasis is its disease.": ("Lyme disease", "Leishmania"),
    "An ACE inhibitor helps.": ("Lyme disease", "ACE inhibitor"),
    "There is sputum.": ("Lyme disease", "Sputum"),
}


def test_names_within_sentences_are_written_as_in_running_text(tmp_path):
    ids = {title: number for number, title in enumerate(NAMES, 1)}
    database = sqlite3.connect(make_graph(tmp_path / "kg.sqlite", 0))
    for table in ("entity", "alias", "relation"):
        database.execute(f"DELETE FROM {table}")
    entities = [(ids[title], title, kind) for title, (kind, _) in NAMES.items()]
    database.executemany("INSERT INTO entity VALUES (?, ?, ?, 1, 1, 0, 0)", entities)
    facts = [(ids[subject], ids[object_], sentence) for sentence, (subject, object_) in SENTENCES.items()]
    database.executemany(
        "INSERT INTO relation(subject, relation, object, revision, sentence) VALUES (?, 'symptom', ?, 1, ?)", facts
    )
    database.commit()
    database.close()
    graph = Graph(tmp_path / "kg.sqlite")
    assert {graph.title[entity]: name for entity, name in graph.in_text.items()} == {
        t: n for t, (_, n) in NAMES.items()
    }
    assert graph.named["syncope"] == {ids["Syncope (medicine)"]}, "a vignette may call it so"


def test_only_questions_write_names_so(encyclopedia, asked_of_every_path, asked_plainly):
    """Options and evidence are titles, as is everything with plain wordings."""
    inside = " ".join(encyclopedia.in_text.values())  # "Chlamydia trachomatis" has a capital, chlamydia has none
    titles = ((title, encyclopedia.in_text[entity]) for entity, title in encyclopedia.title.items())
    capital = [title for title, name in titles if name != title and title not in inside]
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, capital))})\b")
    for plain, questions in ((False, asked_of_every_path), (True, asked_plainly)):
        assert any(pattern.search(question.question) for question in questions) == plain
        for question in questions:
            told = {text for row in question.evidence for text in (row[0], row[2])} | set(question.options.values())
            assert told <= encyclopedia.entity.keys()


def test_no_question_names_its_answer(encyclopedia, asked):
    """Nor does the name of what is asked about: "What is measles caused by?" is no question of medicine."""
    for question in asked:
        answer, text = question.options[question.answer], words_of(question.question)
        names = encyclopedia.names[encyclopedia.entity[answer]]
        assert not any(f" {name} " in f" {' '.join(text)} " for name in names)
        if not question.kind.startswith("presentation"):
            start = min(
                (name for row in question.evidence[:1] for name in (row[0], row[2])),
                key=lambda n: f" {' '.join(words_of(n))} " not in f" {' '.join(text)} ",
            )
            assert not set(words_of(start)) <= set(words_of(answer))


def test_rare_entities_come_first(encyclopedia, asked):
    uniform = synth.synthesize(encyclopedia, 500, 0, 4, uniform=True)
    assert synth.rare_share(encyclopedia, asked[:500]) > 1.3 * synth.rare_share(encyclopedia, uniform)


def test_a_seed_gives_the_same_questions(encyclopedia):
    first, again, other = (synth.synthesize(encyclopedia, 200, seed, 4) for seed in (5, 5, 6))
    assert first == again != other


def test_command_line(tmp_path):
    make_graph(tmp_path / "kg.sqlite", 0)
    done = python("synth.py", "--run", tmp_path, "--questions", "40", "--options", "3")
    assert done.returncode == 0 and "40 questions" in done.stdout and "sampled uniformly" in done.stdout
    (row,) = metrics_of(tmp_path, "synth")
    assert 0 <= row["rare_share"] <= 1 and 0 <= row["rare_share_uniform"] <= 1
    assert all(len(question.options) == 3 for question in load_questions(tmp_path / "synth.jsonl"))
    again = python("synth.py", "--run", tmp_path)
    assert again.returncode == 0 and "nothing to do" in again.stdout


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: None, "kg_build.py"),
        (lambda run: (run / "kg.sqlite").write_bytes(b"no database at all" * 100), "not a knowledge graph"),
        (lambda run: make_graph(run / "kg.sqlite", 0, density=0.0), "no relation"),
    ],
)
def test_bad_input_is_one_line(tmp_path, prepare, message):
    prepare(tmp_path)
    failed = python("synth.py", "--run", tmp_path)
    assert failed.returncode == 1 and message in failed.stderr and failed.stderr.count("\n") == 1


def test_unusable_numbers_are_refused(tmp_path):
    two_to_26 = "from 2 to 26"
    for flag, value, allowed in (
        ("--options", "1", two_to_26),
        ("--options", "27", two_to_26),
        ("--questions", "0", "at least 1"),
    ):
        with pytest.raises(UserError, match=f"{flag}: {value} must be {allowed}"):
            call_main(synth, "--run", tmp_path, flag, value)
    with pytest.raises(UserError, match="does not exist"):
        synth.RunDir(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------- absence and comorbidity


def graph_of(path, types, facts, prose=(), confidence=1.0, heading=None):
    """A graph of titles with their types, facts (subject, relation, object) and the prose of some pages.

    `heading`: what the sentence of each fact stands under, if that is known.
    """
    ids = {title: number for number, title in enumerate(types, 1)}
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE entity(id, title, type, page, revision, rare, incoming)")
        database.execute("CREATE TABLE alias(name, entity)")
        database.execute("CREATE TABLE prose(entity, text)")
        columns = "subject, relation, object, page, revision, sentence, confidence"
        database.execute(f"CREATE TABLE relation(id INTEGER PRIMARY KEY, {columns})")
        rows = [(ids[title], title, kind, ids[title], "orphan" in title) for title, kind in types.items()]
        database.executemany("INSERT INTO entity VALUES (?, ?, ?, ?, 1, ?, 0)", rows)
        rows = [(ids[s], r, ids[o], ids[s], "so", confidence) for s, r, o in facts]
        database.executemany(f"INSERT INTO relation({columns}) VALUES (?, ?, ?, ?, 1, ?, ?)", rows)
        if heading:
            database.execute("ALTER TABLE relation ADD COLUMN section")
            places = [(heading[fact], number) for number, fact in enumerate(facts, 1)]
            database.executemany("UPDATE relation SET section = ? WHERE id = ?", places)
        pages = [
            (ids[title], zlib.compress((text + " and so on" * 10).encode())) for title, text in dict(prose).items()
        ]
        database.executemany("INSERT INTO prose VALUES (?, ?)", pages)
    return Graph(path, 0.6), ids


@pytest.mark.parametrize(
    "one, other, nested",
    [
        ("Lipoid congenital adrenal hyperplasia", "X-linked adrenal hypoplasia congenita", True),
        ("Diabetic nephropathy", "Chronic nephropathy", True),
        ("Retinal detachment", "Central retinal vein occlusion", True),
        ("Roberts syndrome", "Sotos syndrome", False),
        ("Gaucher's disease", "Fabry disease", False),
    ],
)
def test_options_of_one_kind_share_a_telling_word(tmp_path, one, other, nested):
    types = dict.fromkeys([one, other, *(f"{name} syndrome" for name in ("Alport", "Cohen", "Down"))], "disease")
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [(one, "differential", "Down syndrome")])
    assert are_nested(graph, ids[one], ids[other]) == nested == are_nested(graph, ids[other], ids[one])


@pytest.mark.parametrize(
    "drug, text, named",
    [
        ("Valproic acid", "Valproate is given.", True),
        ("Morphine", "Some take morphine.", True),
        ("Salicylic acid", "Salicylates help.", True),
        ("Folic acid", "A folio is read.", False),
        ("Digoxin", "Digitalis is old.", False),
    ],
)
def test_a_page_names_a_drug_by_its_stem(tmp_path, drug, text, named):
    types = {"Migraine": "disease", drug: "drug", "Pain": "symptom"}
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [("Migraine", "symptom", "Pain")], {"Migraine": text})
    assert mentions(graph, ids["Migraine"], ids[drug]) == named


def test_a_page_that_lists_few_side_effects_denies_none(tmp_path):
    effects = [f"Effect {letter}" for letter in "ABCDEF"]
    types = {"Talkative": "drug", "Laconic": "drug", **dict.fromkeys(effects, "symptom")}
    facts = [("Talkative", "adverse_effect", effect) for effect in effects[:5]]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [*facts, ("Laconic", "adverse_effect", effects[5])])
    graph.told["~adverse_effect"].update(ids.values())
    graph.told["~adverse_effect"].discard(ids[effects[5]])
    assert is_denied(graph, ids["Talkative"], "adverse_effect", ids[effects[5]])
    graph.told["~adverse_effect"].discard(ids[effects[0]])
    assert not is_denied(graph, ids["Laconic"], "adverse_effect", ids[effects[0]])


def test_what_many_pages_name_may_go_with_any_disease(tmp_path):
    """A page that does not name it says little; what one page names is another matter."""
    diseases = [f"Disease {letter}" for letter in "ABCDEFGH"]
    types = {**dict.fromkeys([*diseases, "Stroke"], "disease"), "Chalazion": "disease"}
    prose = {disease: "It may end in a stroke." for disease in diseases} | {"Stroke": "It may follow a chalazion."}
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [("Disease A", "complication", "Stroke")], prose)
    assert fits_nearly_any(graph, ids["Stroke"]) and not fits_nearly_any(graph, ids["Chalazion"])


@pytest.mark.parametrize(
    "symptoms, found, leads_on",
    [
        (["Chorea", "Fever"], True, True),
        (["Chorea", "Rash"], True, False),  # one typical finding does where the disease itself is asked for
        (["Itch", "Rash"], False, False),  # odd, and found together in others
        (["Tophus", "Podagra"], True, False),  # odd, but of no other disease
    ],
)
def test_a_disease_is_shown_by_what_its_page_tells_first_or_no_other_has(tmp_path, symptoms, found, leads_on):
    rest = " It is so." * FIRST_WORDS
    prose = {"Sydenham": "Fever and chorea are typical." + rest + " Rash and itch are seldom seen.", "Gout": rest}
    has = {"Sydenham": ("Fever", "Chorea", "Rash", "Itch"), "Gout": ("Tophus", "Podagra")}
    others = [f"Disease {number}" for number in range(200)]
    types = dict.fromkeys((*has, *others), "disease") | dict.fromkeys((*chain(*has.values()), "Cough"), "symptom")
    facts = [(disease, "symptom", finding) for disease in has for finding in has[disease]]
    facts += [(other, "symptom", "Fever") for other in others[:3]]
    facts += [(other, "symptom", finding) for other in others[3:17] for finding in ("Rash", "Itch")]
    facts += [(other, "symptom", "Cough") for other in others]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts, prose)
    features = [("symptom", ids[title]) for title in symptoms]
    (disease,) = (ids[title] for title in has if symptoms[0] in has[title])
    shown = {title for title in types if types[title] == "symptom" and is_typical(graph, disease, ids[title])}
    assert shown == ({"Fever", "Chorea"} if disease == ids["Sydenham"] else set())
    for name, determined in (("presentation>disease", found), ("presentation>disease>drug", leads_on)):
        meta = next(meta for meta in EVERY_PATH if meta.name == name)
        assert synth.fits_many(graph, meta, synth.Subgraph(features, [disease], [])) != determined


LUNGS, SKIN, GUT = ("Cough", "Dyspnea", "Wheeze"), ("Erythema", "Papule", "Blister"), ("Nausea", "Bloating", "Melena")


@pytest.fixture(scope="module")
def companies(tmp_path_factory):
    """Diseases of three organs, each with two of the three findings there; one with all of the lungs'."""
    types = dict.fromkeys((*LUNGS, *SKIN, *GUT), "symptom") | dict.fromkeys(("Steroid", "Airol", "Dermol"), "drug")
    facts = []
    organs = (("Lung", LUNGS, "Airol", 30), ("Skin", SKIN, "Dermol", 30), ("Gut", GUT, "Dermol", 60))
    for organ, findings, drug, diseases in organs:
        for number in range(diseases):
            types[f"{organ} {number}"] = "disease"
            facts += [(f"{organ} {number}", "symptom", f) for f in findings if f != findings[number % 3]]
            facts += [(f"{organ} {number}", "treated_by", drug)]
    types["Asthma"] = "disease"
    facts += [("Asthma", "symptom", finding) for finding in LUNGS] + [("Asthma", "treated_by", "Steroid")]
    return graph_of(tmp_path_factory.mktemp("g") / "kg.sqlite", types, facts)


def test_what_a_page_does_not_tell_is_judged_by_its_company(companies):
    """Dyspnea goes with cough and wheeze: a page that tells these and not dyspnea denies nothing."""
    graph, ids = companies
    assert [likelihood(graph, ids[title], ids["Cough"]) for title in ("Asthma", "Lung 1", "Lung 0")] == [1, 1, 1]
    assert likelihood(graph, ids["Skin 0"], ids["Cough"]) < 0.2
    assert is_expected(graph, ids["Lung 0"], "symptom", ids["Cough"])
    assert not is_expected(graph, ids["Skin 0"], "symptom", ids["Cough"])
    features = [("symptom", ids[finding]) for finding in LUNGS]
    explaining = [
        title for title in ids if title[:4] in ("Lung", "Skin") and synth.explains(graph, ids[title], features)
    ]
    assert explaining == [f"Lung {number}" for number in range(30)]


@pytest.mark.parametrize(
    "one, other, same",
    [("Pain", "Abdominal pain", True), ("Pain", "Myalgia", True), ("Pain", "Headache", True),
     ("Night sweats", "Sweating", True), ("Edema", "Papilledema", True), ("Bleeding", "Epistaxis", True),
     ("Muscle weakness", "Fatigue", True), ("Asthenopia", "Eyestrain", True), ("Headache", "Abdominal pain", False),
     ("Chest pain", "Pleurisy", True), ("Parkinsonism", "Hypokinesia", True),
     ("Hepatomegaly", "Hepatosplenomegaly", True), ("Metabolic acidosis", "Lactic acidosis", True),
     ("Edema", "Fever", False), ("Coma", "Glaucoma", False)],
)  # fmt: skip
def test_no_presentation_tells_one_thing_twice(tmp_path, one, other, same):
    """By their names, by the first sentence of a page, or by the forms of well-known findings."""
    types = {one: "symptom", other: "symptom", "Chill": "symptom", "Asthma": "disease"}
    prose = {"Asthenopia": "Asthenopia is eyestrain of long duration. It is told apart from fever and coma."}
    facts = [("Asthma", "symptom", finding) for finding in (one, other, "Chill")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts, {t: text for t, text in prose.items() if t in types})
    assert tell_one_thing(graph, ids[one], ids[other]) == tell_one_thing(graph, ids[other], ids[one]) == same
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease")
    masks = [synth.mask(asked, ids["Asthma"], synth.Draw(graph, seed)) for seed in range(20)]
    both = {("symptom", ids[one]), ("symptom", ids[other])}
    assert any(both <= set(features) for features in masks) != same


@pytest.mark.parametrize(
    "one, other, contrary",
    [
        ("Hypotension", "Hypertension", True),
        ("Tachycardia", "Bradycardia", True),
        ("Hypotension", "Hyperalgesia", False),
    ],
)
def test_no_presentation_tells_contrary_things(tmp_path, one, other, contrary):
    types = {one: "symptom", other: "symptom", "Chill": "symptom", "Asthma": "disease"}
    facts = [("Asthma", "symptom", finding) for finding in (one, other, "Chill")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease")
    masks = [synth.mask(asked, ids["Asthma"], synth.Draw(graph, seed)) for seed in range(20)]
    both = {("symptom", ids[one]), ("symptom", ids[other])}
    assert any(both <= set(features) for features in masks) != contrary


@pytest.mark.parametrize("told_by, leads_on", [(10, True), (11, False)])
def test_a_question_leads_on_from_what_few_diseases_have(tmp_path, told_by, leads_on):
    """Five in a hundred are few enough where the disease itself is asked for."""
    types = {"Gout": "disease"} | dict.fromkeys(("Tophus", "Cramp", "Fever", "Chill"), "symptom")
    types |= dict.fromkeys([f"Disease {number}" for number in range(400)], "disease")
    facts = [("Gout", "symptom", title) for title in ("Tophus", "Cramp")]
    for number, title in enumerate(types):
        if title.startswith("Disease"):
            facts.append((title, "symptom", ("Fever", "Chill")[number % 2]))
            facts += [(title, "symptom", ("Tophus", "Cramp")[number % 2])] if number <= 2 * told_by + 2 else []
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    counts = {len(graph.could_mean(ids[title], "~symptom")) for title in ("Tophus", "Cramp")}
    assert counts == {told_by}
    features = [("symptom", ids[title]) for title in ("Tophus", "Cramp")]
    for name, fits in (("presentation>disease", True), ("presentation>disease>drug", leads_on)):
        meta = next(meta for meta in EVERY_PATH if meta.name == name)
        assert synth.fits_many(graph, meta, synth.Subgraph(features, [ids["Gout"]], [])) != fits


def test_no_presentation_shows_what_a_page_tells_as_an_aside_or_late(tmp_path):
    """Nor is an aside asked for."""
    early, late = [f"Finding {number}" for number in range(FIRST_TOLD)], ["Itch", "Chorea"]
    types = {"Gout": "disease", **dict.fromkeys(("Tophus", "Gangrene", *early, *late), "symptom")}
    facts = [("Gout", "symptom", title) for title in ("Gangrene", "Tophus", *early, *late)]
    heading = dict.fromkeys(facts, "Signs and symptoms") | {facts[0]: "Aortic rupture", facts[1]: "lead"}
    prose = {"Gout": "Gout is known for its chorea." + " It is so." * FIRST_WORDS}
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts, prose, heading=heading)
    shown = [graph.title[entity] for entity in synth.observable(graph, ids["Gout"], "symptom")]
    assert sorted(shown) == sorted(["Tophus", *early[:-1], "Chorea"])
    asked = next(meta for meta in EVERY_PATH if meta.name == "disease>symptom")
    for title in ("Tophus", "Gangrene"):
        path = [ids["Gout"], ids[title]]
        fact = (path[0], "symptom", path[1])
        assert synth.is_determined(graph, asked, synth.Subgraph([], path, [fact])) == (title == "Tophus")


def test_a_drug_told_as_an_aside_is_asked_where_the_disease_is_named(tmp_path):
    """Cholera's antibiotics have a section of their own; of a disease to be found, the first choice is asked for."""
    types, fact = {"Cholera": "disease", "Doxycycline": "drug"}, ("Cholera", "treated_by", "Doxycycline")
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [fact], heading={fact: "Antibiotics"})
    path = [ids["Cholera"], ids["Doxycycline"]]
    subgraph = synth.Subgraph([], path, [(path[0], "treated_by", path[1])])
    with patch.object(synth, "fits_many", lambda *_: False):
        for name, asked in (("disease>drug", True), ("presentation>disease>drug", False)):
            meta = next(meta for meta in EVERY_PATH if meta.name == name)
            assert synth.is_determined(graph, meta, subgraph) == asked


@pytest.mark.parametrize(
    "section, page, aside",
    [
        ("Signs and symptoms", "Gout", False),
        ("Common symptoms in adults", "Gout", False),
        ("infobox: symptoms", "Gout", False),
        ("lead", "Gout", False),
        ("Hypothalamic dysfunction", "Gout", True),
        ("Children", "Gout", True),
        ("Causes", "Rash", False),  # the page of the symptom lists diseases
    ],
)
def test_an_aside_stands_under_a_heading_about_something_else(tmp_path, section, page, aside):
    types, fact = {"Gout": "disease", "Rash": "symptom"}, ("Gout", "symptom", "Rash")
    graph_of(tmp_path / "kg.sqlite", types, [fact], heading={fact: section})
    with sqlite3.connect(tmp_path / "kg.sqlite") as database:
        database.execute("UPDATE relation SET page = (SELECT page FROM entity WHERE title = ?)", [page])
    graph = Graph(tmp_path / "kg.sqlite")
    assert bool(graph.asides) == aside


def test_what_is_told_twice_is_prominent_and_no_aside_if_one_place_is_none(tmp_path):
    types, fact = {"Gout": "disease", "Rash": "symptom"}, ("Gout", "symptom", "Rash")
    graph_of(tmp_path / "kg.sqlite", types, [fact])
    with sqlite3.connect(tmp_path / "kg.sqlite") as database:
        database.execute("CREATE TABLE evidence(relation, page, revision, section, sentence, trust)")
        rows = [(1, 1, 1, section, "so", 0.9) for section in ("Children", "Signs")]
        database.executemany("INSERT INTO evidence VALUES (?, ?, ?, ?, ?, ?)", rows)
    graph = Graph(tmp_path / "kg.sqlite")
    assert graph.repeated == set(graph.facts) and not graph.asides


def test_a_test_or_a_mechanism_of_many_diseases_is_no_clue(tmp_path):
    diseases = [f"Disease {number}" for number in range(8)]
    types = dict.fromkeys(diseases, "disease") | dict.fromkeys(("Blood test", "Sweat test"), "test")
    types |= dict.fromkeys(("Inflammation", "Gliosis"), "mechanism")
    facts = [(disease, "diagnosed_by", "Blood test") for disease in diseases]
    facts += [(disease, "mechanism", "Inflammation") for disease in diseases]
    facts += [(diseases[0], "diagnosed_by", "Sweat test"), (diseases[0], "mechanism", "Gliosis")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    for step, clue in (("diagnosed_by", "Sweat test"), ("mechanism", "Gliosis")):
        assert synth.observable(graph, ids[diseases[0]], step) == [ids[clue]]


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("It shows a tremor.", True),
        ("It shows a tremor and a rash.", False),  # two of the findings
        ("It shows a tremor. Airol is given.", False),  # the drug
    ],
)
def test_a_wrong_diagnosis_has_one_of_the_findings_and_not_the_drug(tmp_path, text, wrong):
    types = {"Gout": "disease", "Lupus": "disease", "Airol": "drug"}
    types |= dict.fromkeys(("Tremor", "Rash", "Itch"), "symptom")
    facts = [("Gout", "symptom", title) for title in ("Tremor", "Rash", "Itch")] + [("Gout", "treated_by", "Airol")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts, {"Lupus": text})
    features = [(step, ids[title]) for _, step, title in facts]
    assert synth.shares_much(graph, synth.Subgraph(features, [ids["Gout"]], []), ids["Lupus"]) != wrong


@pytest.mark.parametrize("option, distinct", [("Tachypnea", False), ("Night sweats", False), ("Stridor", True)])
def test_no_option_is_a_form_of_something_else_that_is_right(tmp_path, option, distinct):
    types = {"Cor pulmonale": "disease", **dict.fromkeys(("Orthopnea", "Dyspnea", "Sweating", option), "symptom")}
    facts = [("Cor pulmonale", "symptom", title) for title in ("Orthopnea", "Dyspnea", "Sweating")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    assert synth.is_like_another(graph, ids["Cor pulmonale"], "symptom", ids[option]) != distinct


@pytest.mark.parametrize(
    "disease, finding, names, told",
    [
        ("Candidiasis", "Oral thrush", ["oral candidiasis"], True),
        ("Cocaine dependence", "Cocaine", [], True),
        ("Candidiasis", "Oral thrush", [], False),
    ],
)
def test_what_is_shown_does_not_name_the_disease(tmp_path, disease, finding, names, told):
    types = {disease: "disease", finding: "symptom"}
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [(disease, "symptom", finding)])
    graph.names[ids[finding]].update(names)
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease")
    subgraph = synth.Subgraph([("symptom", ids[finding])], [ids[disease]], [])
    assert synth.gives_away(graph, asked, subgraph) == told


def test_a_page_names_a_test_by_a_telling_word(tmp_path):
    types = {"Conjunctivitis": "disease", "Microbiological culture": "test", "Sweat test": "test", "Gout": "disease"}
    prose = {"Conjunctivitis": "Cultures are taken, and other tests."}
    facts = [("Gout", "diagnosed_by", "Microbiological culture")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts, prose)
    named = [title for title in types if types[title] == "test" and mentions(graph, ids["Conjunctivitis"], ids[title])]
    assert named == ["Microbiological culture"]


def test_a_page_that_names_something_broader_denies_nothing(tmp_path):
    types = {"Hepatitis": "disease", "Adenocarcinoma": "disease", "Sarcoma": "disease"}
    prose = {
        "Hepatitis": "Hepatitis may be followed by carcinoma of the liver. " + "It is a disease of the liver. " * 5
    }
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [("Hepatitis", "complication", "Sarcoma")], prose)
    assert mentions(graph, ids["Hepatitis"], ids["Adenocarcinoma"])
    assert not mentions(graph, ids["Hepatitis"], ids["Sarcoma"])


def test_no_option_is_of_another_disease_that_fits(companies):
    graph, ids = companies
    features = [("symptom", ids[finding]) for finding in LUNGS]
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease")
    diagnosis = synth.Subgraph(features, [ids["Asthma"]], [])
    assert not any(synth.is_ruled_out(graph, asked, diagnosis, ids[f"Lung {number}"]) for number in range(3))
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease>drug")
    treatment = synth.Subgraph(features, [ids["Asthma"], ids["Steroid"]], [])
    drugs = ("Airol", "Dermol")
    assert [synth.could_be_of_another(graph, treatment, asked, ids[drug]) for drug in drugs] == [True, False]


def test_what_may_cause_a_disease_is_no_sign_of_it(tmp_path):
    """Nor is it asked as what follows from it."""
    types = {"Chorea minor": "disease", "Vaginitis": "disease", "Vaginosis": "disease", "Sepsis": "disease"}
    types |= dict.fromkeys(("Goitre", "Tic", "Fever"), "symptom")
    facts = [("Chorea minor", "symptom", finding) for finding in ("Goitre", "Tic", "Fever")]
    facts += [("Chorea minor", "cause", "Goitre"), ("Vaginitis", "cause", "Vaginosis")]
    facts += [("Vaginitis", "complication", "Vaginosis"), ("Vaginitis", "complication", "Sepsis")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation>disease")
    draw = synth.Draw(graph, 0)
    seen = {entity for _ in range(20) for _, entity in synth.mask(asked, ids["Chorea minor"], draw)}
    assert seen == {ids["Tic"], ids["Fever"]}
    asked = next(meta for meta in EVERY_PATH if meta.name == "disease>complication")
    paths = [synth.Subgraph([], [ids["Vaginitis"], ids[answer]], []) for answer in ("Vaginosis", "Sepsis")]
    assert [synth.has_vague_ends(graph, asked, path) for path in paths] == [True, False]


def test_what_is_presented_is_no_diagnosis(tmp_path):
    """Iron-deficiency anemia, where anemia is presented; another disease that shows less is one."""
    types = {"Ectasia": "disease", "Iron-deficiency anemia": "disease", "Gout": "disease", "Anemia": "symptom"}
    types |= dict.fromkeys(("Melena", "Hematemesis", "Pica", "Tophus"), "symptom")
    facts = [("Ectasia", "symptom", finding) for finding in ("Anemia", "Melena", "Hematemesis")]
    facts += [("Iron-deficiency anemia", "symptom", finding) for finding in ("Pica", "Anemia")]
    facts += [("Gout", "symptom", "Tophus")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    shown = synth.Subgraph([("symptom", ids[f]) for f in ("Anemia", "Melena", "Hematemesis")], [ids["Ectasia"]], [])
    assert synth.is_presented(graph, shown, ids["Iron-deficiency anemia"]) and not synth.is_presented(
        graph, shown, ids["Gout"]
    )


@pytest.mark.parametrize(
    "one, other, same",
    [("Drowsiness", "Somnolence", True), ("Skin rash", "Rash", True), ("Itch", "Pruritus", True),
     ("Kidney failure", "Renal failure", True), ("Vertigo", "Syncope", False), ("Paresis", "Paralysis", False)],
)  # fmt: skip
def test_two_names_of_one_finding_are_synonyms(tmp_path, one, other, same):
    types = {"Gout": "disease", one: "symptom", other: "symptom"}
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [("Gout", "symptom", one), ("Gout", "symptom", other)])
    assert (ids[other] in graph.interchangeable(ids[one])) == same == are_nested(graph, ids[one], ids[other])


def test_a_disease_between_findings_and_drug_may_be_masked(encyclopedia):
    meta = next(meta for meta in EVERY_PATH if meta.name == "presentation+drug>disease")
    for question in synth.synthesize(encyclopedia, 10, 0, 4, [meta]):
        assert [row[1] for row in question.evidence] == ["symptom"] * 3 + ["treated_by"]
        assert encyclopedia.in_text[encyclopedia.entity[question.evidence[-1][2]]] in question.question
        assert question.options[question.answer] == question.evidence[0][0]


def test_only_a_drug_tells_which_disease_is_treated(tmp_path):
    """Surgery, rest and diets help too many."""
    types = dict.fromkeys(("Fever", "Coma", "Chill"), "symptom") | {"Asthma": "disease", "Steroid": "drug class"}
    types |= {"Airol": "drug", "Surgery": "procedure", "Palliative care": "procedure"}
    facts = [("Asthma", "symptom", finding) for finding in ("Fever", "Coma", "Chill")]
    facts += [("Asthma", "treated_by", remedy) for remedy in ("Airol", "Surgery", "Steroid", "Palliative care")]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, facts)
    asked = next(meta for meta in EVERY_PATH if meta.name == "presentation+drug>disease")
    masks = [synth.mask(asked, ids["Asthma"], synth.Draw(graph, seed)) for seed in range(20)]
    assert {features[-1] for features in masks} == {("treated_by", ids["Airol"]), ("treated_by", ids["Steroid"])}


COMORBID = {
    "Hypertension": "disease", "Angina": "disease", "Asthma": "disease", "Gout": "disease", "Glaucoma": "disease",
    "Amlodipine": "drug", "Propranolol": "drug", "Sotalol": "drug", "Nebivolol": "drug", "Pilocarpine": "drug",
}  # fmt: skip
TREATS = [("Hypertension", "treated_by", drug) for drug in ("Amlodipine", "Propranolol", "Sotalol", "Nebivolol")]
FORBIDDEN = [(drug, "contraindication", "Asthma") for drug in ("Propranolol", "Sotalol", "Nebivolol")]


@pytest.mark.parametrize(
    "cleared, prose, asked",
    [
        ([("Amlodipine", "contraindication", "Gout")], {}, True),
        ([], {}, False),  # its page does not speak of contraindications
        ([("Amlodipine", "contraindication", "Gout")], {"Amlodipine": "Care is needed in asthma."}, False),
        ([("Amlodipine", "contraindication", "Gout")], {"Asthma": "Amlodipine is safe."}, False),
    ],
)
def test_a_comorbidity_leaves_the_drug_that_its_page_clears(tmp_path, cleared, prose, asked):
    """Every wrong option treats the disease and is contraindicated; the evidence proves both."""
    graph, ids = graph_of(tmp_path / "kg.sqlite", COMORBID, [*TREATS, *FORBIDDEN, *cleared], prose)
    assert is_cleared(graph, ids["Amlodipine"], "contraindication", ids["Asthma"]) == asked
    meta = next(meta for meta in EVERY_PATH if meta.name == "disease+comorbidity>drug")
    questions = [q for q in synth.synthesize(graph, 3, 0, 3, [meta]) if q.options[q.answer] == "Amlodipine"]
    assert bool(questions) == asked
    for question in questions:
        wrong = {text for text in question.options.values() if text != "Amlodipine"}
        told = [tuple(row[:3]) for row in question.evidence]
        assert told[-1] == TREATS[0] and {row[0] for row in told[:-1]} == wrong and set(told[:-1]) <= set(FORBIDDEN)
        assert "asthma" in question.question.lower() and "hypertension" in question.question.lower()


def test_rare_are_entities_that_facts_speak_of(tmp_path):
    """What no fact speaks of is unknown; of equals those called rare come first."""
    types = {f"{name} disease": "disease" for name in ("A", "B", "C orphan", "D", "E", "F orphan", "G", "H", "I", "J")}
    known = list(types)[:8]
    graph, ids = graph_of(tmp_path / "kg.sqlite", types, [(title, "differential", known[0]) for title in known[1:]])
    assert graph.rarest == {ids["C orphan disease"], ids["F orphan disease"]}


def test_a_path_is_as_sure_as_all_its_facts_together(tmp_path):
    for confidence in (0.9, 0.8, 0.65):
        graph, ids = graph_of(tmp_path / f"{confidence}.sqlite", COMORBID, TREATS, (), confidence)
        for name, hops in (("disease>drug", 1), ("pathogen>disease>drug", 2)):
            meta = next(meta for meta in EVERY_PATH if meta.name == name)
            facts = [graph.triple(*(ids[end] if end in ids else end for end in fact)) for fact in TREATS[:hops]]
            subgraph = synth.Subgraph([], [facts[0][0], facts[0][2]], facts)
            sure = synth.prod(graph.confidence[fact] for fact in facts) >= synth.LEAST_SURE
            assert sure == (confidence**hops >= synth.LEAST_SURE)
            if hops == 1:
                assert synth.is_determined(graph, meta, subgraph) == sure


# --------------------------------------------------------------------------------------------------- clinical vignettes


class Writer(Teacher):
    """Answers each request with what a function of its findings gives."""

    def __init__(self, write):
        self.write = write

    def ask(self, requests):
        lines = (request.messages[-1]["content"].splitlines() for request in requests)
        return [self.write([line.split(": ", 1)[1] for line in findings]) for findings in lines]


def vignette(findings):
    return (
        f"A 54-year-old woman comes to the clinic. She reports {', '.join(findings[1:]).lower()};\nalso {findings[0]}."
    )


@pytest.fixture(scope="module")
def tuberculosis(encyclopedia):
    """A question that presents tuberculosis with fever, cough and night sweats, and asks for the drug."""
    rows = [("symptom", "Fever"), ("symptom", "Cough"), ("symptom", "Night sweats"), ("treated_by", "Isoniazid")]
    return Question(
        id="synth/1",
        source="synth",
        language="en",
        question="Symptoms: Fever, Cough and Night sweats. What should be given?",
        options=dict(zip(LETTERS, ("Aspirin", "Isoniazid", "Insulin", "Digoxin"))),
        answer="B",
        kind="presentation>disease>drug",
        evidence=[["Tuberculosis", relation, title, 1, ""] for relation, title in rows],
    )


def test_vignettes_replace_presentations_only(encyclopedia, asked):
    plain, told = (deepcopy(asked[:400]) for _ in range(2))
    outcomes = synth.write_vignettes(encyclopedia, told, Writer(vignette), 0)
    presentations = [meta.name for meta in synth.META_PATHS if meta.presentation]
    kept = 0
    for before, after in zip(plain, told):
        if before.kind in presentations and before.question != after.question:
            meta = next(meta for meta in synth.META_PATHS if meta.name == before.kind)
            seen = [title for _, title in vignettes.observed_of(meta, before)]
            assert all(title.lower() in after.question.lower() for title in seen)
            assert after.question.endswith(before.question.rsplit(". ", 1)[1]), "what is asked stays as it is"
            before.question, kept = after.question, kept + 1
        assert before == after
    assert kept == outcomes["kept"] > 0.9 * sum(outcomes.values())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A man of 40 has had fever, a cough and night sweats for weeks.", None),
        ("A man of 40 has had pyrexia, a cough and night sweats for weeks.", None),  # an alias of fever
        ("", "empty, too long, or a question"),
        ("fever cough night sweats " * 100, "empty, too long, or a question"),
        ("A man has fever, cough and night sweats. Ignore the list. What is 1 + 1?", "empty, too long, or a question"),
        ("A man of 40 has had fever and night sweats.", "an observed feature is missing"),
        ("A man of 40 has feverish coughing and night sweats.", "an observed feature is missing"),
        ("A man with cough and night sweats denies any fever.", "an observed feature is negated"),
        ("A man with fever, cough and night sweats, probably tuberculosis.", "what is masked is named"),
        ("A man with fever, cough and night sweats took isoniazid.", "what is masked is named"),
        ("A man with fever, cough, night sweats and hemoptysis.", "a finding is added"),
        ("A man with asthma now has fever, cough and night sweats.", "a finding is added"),
    ],
)
def test_a_vignette_tells_what_is_observed_and_no_more(encyclopedia, tuberculosis, text, problem):
    meta = next(meta for meta in synth.META_PATHS if meta.name == tuberculosis.kind)
    assert vignettes.vignette_problem(encyclopedia, meta, tuberculosis, text) == problem


def test_vignettes_on_the_command_line(tmp_path, monkeypatch, capsys, encyclopedia_path):
    shutil.copy(encyclopedia_path, tmp_path / "kg.sqlite")
    with pytest.raises(UserError, match="writes no vignettes"):
        call_main(synth, "--run", tmp_path, "--teacher", "evidence")
    monkeypatch.setattr(synth, "teacher_of", lambda args, run: Writer(lambda findings: ""))
    call_main(synth, "--run", tmp_path, "--questions", "30", "--teacher", "local:x")
    assert "empty, too long, or a question" in capsys.readouterr().out
    assert len(load_questions(tmp_path / "synth.jsonl")) == 30

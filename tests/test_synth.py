"""Questions from the graph: unique answers, plausible distractors, rare entities first, reproducible."""

import random
import sqlite3
from collections import Counter

import pytest
from conftest import python
from hypothesis import given, settings
from hypothesis import strategies as st

import synth
from records import UserError, load_questions

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
]


def make_graph(path, seed, density=0.25, sizes=None):
    """A random typed graph in kg_build's schema; incoming counts how many relations an entity is in."""
    rng = random.Random(seed)
    sizes = sizes or {"disease": 14, "symptom": 12, "drug": 12, "drug class": 3, "test": 8, "pathogen": 6,
                      "mechanism": 4, "anatomy": 4}  # fmt: skip
    entities = [(f"{kind} {n:02d}", kind) for kind, count in sizes.items() for n in range(count)]
    ids = {title: number for number, (title, _) in enumerate(entities, 1)}
    facts = set()
    for subject_type, relation, object_type in RELATIONS:
        for subject, a in entities:
            for object_, b in entities:
                if (a, b) == (subject_type, object_type) and subject != object_ and rng.random() < density:
                    facts.add((ids[subject], relation, ids[object_]))
    degree = Counter(end for s, _, o in facts for end in (s, o))
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE entity(id INTEGER PRIMARY KEY, title TEXT, type TEXT, page, revision, rare, incoming)"
    )
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


def right_answers(graph, question):
    """All entities that fit what the question states, found from the record alone (its kind and evidence)."""
    meta = next(meta for meta in synth.META_PATHS if meta.name == question.kind)
    ids = {title: entity for entity, title in graph.title.items()}
    facts = [(ids[s], r, ids[o]) for s, r, o, *_ in question.evidence]
    if meta.presentation:
        seen = facts[: len(facts) - len(meta.steps)]
        start = {e for e in graph.of_type["disease"] if all((e, r, o) in graph.facts for _, r, o in seen)}
    else:
        first, step = facts[0], meta.steps[0]
        start = {first[2] if step.startswith("~") else first[0]}
    return graph.reach(start, meta.steps)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), density=st.sampled_from([0.1, 0.25, 0.4]))
def test_exactly_one_option_is_right(tmp_path_factory, seed, density):
    graph = synth.Graph(make_graph(tmp_path_factory.mktemp("g") / "kg.sqlite", seed, density))
    for question in synth.synthesize(graph, 150, seed, 4):
        ids = {title: entity for entity, title in graph.title.items()}
        right = right_answers(graph, question)
        as_right = set().union(*(graph.kin(entity) for entity in right))
        options = {letter: ids[text] for letter, text in question.options.items()}
        assert options[question.answer] in right
        assert not any(entity in as_right for letter, entity in options.items() if letter != question.answer)
        assert len(set(options.values())) == 4
        assert len({graph.type[entity] for entity in options.values()}) == 1, "options of one type"
        assert all((ids[s], r, ids[o]) in graph.facts for s, r, o, *_ in question.evidence), "evidence is in the graph"
        assert question.options[question.answer] not in question.question, "the answer is masked"


@pytest.fixture(scope="module")
def encyclopedia(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    built = python("kg_build.py", "--run", run, "--source", "data/encyclopedia.xml")
    assert built.returncode == 0, built.stderr
    return synth.Graph(run / "kg.sqlite")


def test_the_encyclopedia_gives_every_kind(encyclopedia):
    questions = synth.synthesize(encyclopedia, 3000, 0, 4)
    assert {question.kind for question in questions} == {meta.name for meta in synth.META_PATHS}
    facts = [
        (q.kind, frozenset(tuple(row[:3]) for row in q.evidence), frozenset(q.options.values())) for q in questions
    ]
    assert len(set(facts)) == len(questions) == 3000
    assert {len(question.evidence) for question in questions} >= {1, 2, 3, 4, 5}
    assert Counter(q.answer for q in questions).most_common()[-1][1] > 3000 / 4 * 0.85, "no letter is favoured"


def test_presentations_show_competitors(encyclopedia):
    """The wrong diagnoses share an observed symptom and lack another observed feature."""
    ids = {title: entity for entity, title in encyclopedia.title.items()}
    for question in synth.synthesize(encyclopedia, 2000, 1, 4):
        if question.kind == "presentation>disease":
            seen = [(relation, ids[object_]) for _, relation, object_, *_ in question.evidence]
            for letter, text in question.options.items():
                shared = [o in encyclopedia.step(ids[text], r) for r, o in seen]
                assert all(shared) if letter == question.answer else any(shared) and not all(shared)


def test_rare_entities_come_first(tmp_path):
    path = make_graph(tmp_path / "kg.sqlite", 3, 0.2)
    weighted, plain = synth.Graph(path), synth.Graph(path, uniform=True)
    share = synth.rare_share(weighted, synth.synthesize(weighted, 300, 0, 3))
    assert share > 1.1 * synth.rare_share(weighted, synth.synthesize(plain, 300, 0, 3))


def test_a_seed_gives_the_same_questions(encyclopedia):
    first, again, other = (synth.synthesize(encyclopedia, 200, seed, 4) for seed in (5, 5, 6))
    assert first == again != other


def test_command_line(tmp_path):
    make_graph(tmp_path / "kg.sqlite", 0)
    done = python("synth.py", "--run", tmp_path, "--questions", "60", "--options", "3")
    assert done.returncode == 0 and "60 questions" in done.stdout
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
    make_graph(tmp_path / "kg.sqlite", 0)
    failed = python("synth.py", "--run", tmp_path, "--options", "1")
    assert failed.returncode == 1 and "--options 1" in failed.stderr
    with pytest.raises(UserError, match="does not exist"):
        synth.RunDir(tmp_path / "nowhere")

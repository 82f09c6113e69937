"""Near duplicates are those of the Jaccard index; stock phrases are no overlap."""

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean import duplicates
from clean.formats import read_native
from question import Question


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), changed=st.sampled_from([0, 1, 2, 20, 40]))
def test_near_duplicates_are_those_of_the_jaccard_index(seed, changed):
    """Whatever buckets the hashes make: questions far apart are kept, questions close together are not."""
    rng = random.Random(seed)
    words = [f"word{rng.randrange(10_000)}" for _ in range(60)]
    other = [f"other{i}" if i in rng.sample(range(60), changed) else word for i, word in enumerate(words)]
    pair = [
        Question(f"x/{i}", "x", "en", " ".join(text), {"A": "a", "B": "b"}, "A")
        for i, text in enumerate((words, other))
    ]
    a, b = (duplicates.runs_of(duplicates.words_in(q.question), duplicates.SHINGLE) for q in pair)
    (_, none), (_, like) = duplicates.near_duplicates(pair)
    assert none is None and like is (pair[0] if len(a & b) >= duplicates.NEAR * len(a | b) else None)


VITAL = "His temperature is {} C, pulse is {}/min, respirations are {}/min, and blood pressure is {}/80 mm Hg today."


def ask(number, text, source="b"):
    return Question(f"{source}/{number}", source, "en", text, {"A": "a", "B": "b"}, "A")


def test_stock_phrases_are_no_contamination():
    """Vital signs, of which only the numbers differ, stand in many benchmark questions; generic stems do as well."""
    cases = ("rash on both arms", "cough at night", "sudden chest pain", "weight loss for months", "loss of vision")
    benchmark = [
        ask(i, f"A man has {case}. {VITAL.format(36 + i, 80 + i, 12 + i, 110 + i)}") for i, case in enumerate(cases)
    ]
    known = duplicates.Benchmarks([*benchmark, *(ask(f"g{i}", "Which of these is true?") for i in range(4))])
    trained = ask(
        9, f"A woman with a swollen knee saw a physician in Boston after a fall. {VITAL.format(39, 99, 20, 150)}"
    )
    assert known.overlap(trained) is None
    assert known.overlap(benchmark[0]).how == "the same question"
    generic = ask(10, "Which of these is true?")
    assert known.overlap(replace(generic, answer="B")) is None, "the same stem, another answer"
    assert known.overlap(generic).how == "the same question"
    assert known.overlap(ask(11, "He reads a book. Which of these is true? He thinks about it for an hour.")) is None


def test_an_overlap_says_how_much_and_what():
    text = "A boy who keeps pigeons coughs for weeks and his chest film shows fine shadows in both lungs"
    known = duplicates.Benchmarks([ask(0, text), ask(1, "Which vitamin prevents scurvy?")])
    half = known.overlap(ask(2, f"{' '.join(text.split()[:12])} but nothing else at all was ever found by anyone"))
    assert half.other.id == "b/0" and 0.3 < half.share < 1 and half.text == " ".join(text.split()[:12]).lower()
    assert known.overlap(ask(3, "Scurvy is prevented by which vitamin?")) is None
    short = known.overlap(ask(4, "Which vitamins prevent scurvy?"))
    assert short.how == "nearly the same question" and short.share > duplicates.SIMILAR
    assert known.overlap(ask(5, "On a ship: which vitamin prevents scurvy? The cook wonders.")).how.startswith(
        "a whole"
    )
    assert duplicates.Benchmarks([]).overlap(ask(6, text)) is None


def every(n, change):
    """A text whose every n-th word is changed."""
    return lambda text: " ".join(change(w) if i % n == n // 2 else w for i, w in enumerate(text.split()))


PLANTED = {  # how a benchmark question may come into a training set, and the share of them that has to be found
    "verbatim": (lambda text: text, 1.0, 1.0),
    "other case and marks": (lambda text: re.sub("[,.?:;-]", " ", text.upper()), 1.0, 1.0),
    "other numbers": (lambda text: re.sub(r"\d+", lambda match: str(int(match[0]) + 3), text), 1.0, 1.0),
    "a sentence before": (lambda text: f"A resident asks the consultant: {text}", 1.0, 0.9),
    "inside a long text": (
        lambda text: f"{'He reads about it for a while. ' * 9}{text}{' So they say.' * 40}",
        1.0,
        0.9,
    ),
    "some words changed": (every(15, lambda word: "replaced"), 1.0, 0.75),
    "some words misspelt": (every(12, lambda word: word[:-2] + word[-1:] + word[-2:-1]), 0.95, 0.95),
    "its first half": (lambda text: " ".join(text.split()[: len(text.split()) // 2]), 1.0, 0.0),
    "its last 40%": (lambda text: " ".join(text.split()[-int(0.4 * len(text.split())) :]), 1.0, 0.0),
}


@pytest.fixture(scope="module")
def exams(shared_data):
    """MedQA test, MedMCQA validation, and 25 training questions of MedQA."""
    full = shared_data / "native" / "full"
    names = (("medqa", "medqa_test.jsonl"), ("medmcqa", "medmcqa_dev.json"), ("medqa", "medqa_train_25.jsonl"))
    return [read_native(name, full / file, Question)[0] for name, file in names]


@pytest.fixture(scope="module")
def both(exams):
    return duplicates.Benchmarks(exams[0] + exams[1])


def test_planted_overlaps_with_real_benchmarks_are_found(exams, both):
    """Of long questions all; of those of 5 to 24 words those that a change leaves recognisable."""
    medqa, medmcqa, _ = exams
    short = [question for question in medmcqa if 5 <= len(question.question.split()) <= 24]
    for kind, (change, of_long, of_short) in PLANTED.items():
        for questions, least in ((medqa[::13], of_long), (short[::30], of_short)):
            found = [both.overlap(replace(q, question=change(q.question) or "?")) is not None for q in questions]
            assert sum(found) >= least * len(found), f"{kind}: {sum(found)} of {len(found)}"


def test_other_questions_of_the_same_exams_are_no_overlap(exams, both):
    """No training question of MedQA is rejected, and none of MedQA's for MedMCQA's sake or the other way round."""
    medqa, medmcqa, train = exams
    assert not any(map(both.overlap, train))
    assert not any(map(duplicates.Benchmarks(medmcqa).overlap, medqa))
    assert not any(map(duplicates.Benchmarks(medqa).overlap, medmcqa))


def test_chinese_questions_are_compared_by_characters():
    zh = lambda number, text: replace(ask(number, text), language="zh")  # noqa: E731
    stem = "患者男性五十岁反复上腹部疼痛三年近日加重伴黑便呕血查体贫血貌上腹部压痛首选的检查是什么"
    known = duplicates.Benchmarks([zh(0, stem), zh(1, "治疗癫痫大发作的首选药物是"), zh(2, "以下哪项正确")])
    assert known.overlap(zh(3, f"某医院收治一例。{stem}请选择一项。")).how == "the same words in a row"
    assert known.overlap(zh(4, "治疗癫痫大发作首选药物是")).how == "nearly the same question"
    assert known.overlap(zh(5, "治疗高血压危象的首选药物是")) is None
    assert known.overlap(zh(6, "关于肝硬化腹水的治疗原则，以下哪项正确？请说明理由。")) is None

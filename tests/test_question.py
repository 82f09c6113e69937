"""A question record is valid or says why not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear import assert_linear

from question import LETTERS, Question, can_move, load_questions, order_of, reordered
from tools.cli import UserError
from tools.run import write_jsonl

ROW = {
    "id": "a/1",
    "source": "a",
    "language": "en",
    "question": "Which?",
    "options": {"A": "one", "B": "two"},
    "answer": "B",
}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"question": "  "}, "empty question"),
        ({"question": None}, "empty question"),
        ({"options": {"A": "one"}}, "not 2 to 26 options"),
        ({"options": {letter: "x" for letter in [*LETTERS, "AA"]}}, "not 2 to 26 options"),
        ({"options": ["one", "two"]}, "not 2 to 26 options"),
        ({"options": {"A": "one", "C": "three"}, "answer": "A"}, "option letters are not A, B, C, ..."),
        ({"options": {"B": "two", "A": "one"}}, "option letters are not A, B, C, ..."),
        ({"options": {"A": "one", "B": " "}}, "empty option"),
        ({"options": {"A": "one", "B": 2}}, "empty option"),
        ({"answer": "C"}, "answer not among the options"),
        ({"answer": "AB"}, "answer not among the options"),
        ({"answer": ["A"]}, "answer not among the options"),
        ({"answer": None}, "answer not among the options"),
        ({"tier": "hard"}, "unknown tier"),
        ({"tier": ["easy"]}, "unknown tier"),
        ({"source": 3}, "source is not a text"),
        ({"language": None}, "language is not a text"),
        ({"kind": {}}, "kind is not a text"),
        ({"evidence": "path"}, "no evidence path"),
        ({"evidence": [["a", "b"]]}, "no evidence path"),
        ({"evidence": [["a", "b", 3]]}, "no evidence path"),
        ({"evidence": [7]}, "no evidence path"),
        ({"evidence": [["a", "b", "c", "1", "It."]]}, "no evidence path"),
        ({"evidence": [["a", "b", "c", 1, ["It."]]]}, "no evidence path"),
    ],
)
def test_an_invalid_question_says_why(change, reason):
    with pytest.raises(ValueError) as caught:
        Question.from_json(ROW | change)
    assert reason in str(caught.value) and "a/1" in str(caught.value)


@pytest.mark.parametrize("name", ["id", "source", "language", "question", "options", "answer"])
def test_a_missing_field_is_named(name):
    with pytest.raises(ValueError, match=f"missing field {name}"):
        Question.from_json({key: value for key, value in ROW.items() if key != name})


@given(
    options=st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=26),
    answer=st.integers(0, 25),
    tier=st.sampled_from([None, "easy", "moderate", "difficult"]),
    evidence=st.lists(
        st.tuples(st.text(), st.text(), st.text(), st.integers(0, 2**63 - 1), st.text()).map(list), max_size=2
    ),
)
def test_a_record_survives_the_way_through_json(options, answer, tier, evidence):
    question = Question(
        "a/1", "a", "zh", "Which?", dict(zip(LETTERS, options)), LETTERS[answer % len(options)], tier, "kind", evidence
    )
    assert Question.from_json(json.loads(json.dumps(question.to_json()))) == question


def test_unset_fields_are_left_out_and_unknown_ones_ignored():
    assert Question.from_json(ROW | {"comment": "x"}).to_json() == ROW


def test_load_questions_names_the_record_and_the_remedy(tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [ROW, ROW | {"answer": "Z"}])
    with pytest.raises(UserError, match=r"train.jsonl, record 2: .*answer not among"):
        load_questions(path, "python curate.py")
    write_jsonl(path, [])
    with pytest.raises(UserError, match="no valid question; make it again with: python curate.py"):
        load_questions(path, "python curate.py")


def test_an_id_that_is_no_text_or_occurs_twice_is_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    for rows, problem in (([ROW | {"id": ["a"]}], "id is not a text"), ([ROW, ROW], "the id 'a/1' occurs twice")):
        write_jsonl(path, rows)
        with pytest.raises(UserError, match=f"train.jsonl, record {len(rows)}: .*{problem}"):
            load_questions(path)


@given(st.permutations("ABCDE"), st.sampled_from("ABCDE"), st.text(min_size=1))
def test_a_reordered_question_is_the_same_question(order, answer, name):
    options = {letter: f"option {letter.lower()}" for letter in "ABCDE"}
    question = Question(name, "s", "en", "Which?", options, answer)
    moved = reordered(question, order)
    assert moved.problem() is None and set(moved.options.values()) == set(options.values())
    assert moved.options[moved.answer] == options[answer]
    assert order_of(moved.id) == (name, "".join(order))
    assert [question.options[letter] for letter in order] == list(moved.options.values())


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        *((text, False) for text in ("A and B", "Both A & B", "A/C", "A+C", "A, B and C", "Both F and G", "F, G",
                                     "A、B", "A和C", "A or B only", "A and C but not B",
                                     "Both A and B are correct.", "Neither A nor B")),
        *((text, False) for text in ("all of the above", "None of the above", "All of these", "none of these",
                                     "Either of the two", "以上都是", "上列均可")),
        *((text, True) for text in ("A vitamin", "Vitamin B", "Hepatitis B and C", "Vitamin A, oral", "HLA-A or HLA-B",
                                    "Y and Z", "1 and 2 only", "A", "Anti-A and anti-B", "Types A and B of influenza")),
    ],
)  # fmt: skip
def test_options_that_refer_to_others_stay(text, moves):
    options = dict(zip(LETTERS, ["one", text, "three", "four", "five", "six", "seven"]))
    assert can_move(Question("q", "s", "en", "Which?", options, "B")) == moves


def test_hostile_options_take_linear_time():
    def move(text):
        return can_move(Question("q", "s", "en", "Which?", {"A": "one", "B": text + "x"}, "B"))

    assert_linear(move, ["A", "A and ", "both ", "A, ", "above ", " ", "is "], 20_000, most=3)

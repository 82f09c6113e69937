"""Scores: every item counts once, and they can be made again from the files alone."""

import itertools
import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import Score, lenient_answer, provenance, score_file
from reward import format_response
from tables import orders_table
from tools.cli import UserError
from tools.run import append_jsonl, write_jsonl


def rows_of(responses, truth="A", **fields):
    base = {"tier": "easy", "kind": "one", "truth": truth, "tokens": 5, "truncated": False}
    return [{"id": str(n), **base, **fields, "response": text} for n, text in enumerate(responses)]


def cells_of(text, *parts):
    """The cells of the first table row that holds all parts."""
    line = next(line for line in text.splitlines() if all(part in line for part in parts) and line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_unparsed_empty_and_cut_responses_stay_in_the_denominator(tmp_path):
    good, bad = format_response("so", "A"), format_response("so", "B")
    path = tmp_path / "m.jsonl"
    write_jsonl(path, rows_of([good, bad, "", "the answer is A", good + "<answer>C</answer>", "<answer>A</answer>"]))
    scores = score_file(path)
    assert scores.overall == Score(2 / 6, 6)
    assert scores.well_formed == 2 / 6


@pytest.mark.parametrize(
    "said",
    [
        "B", "B.", "(B)", "**B**", "**B. Pneumonia**", "B. Pneumonia", "- B) Pneumonia", "Answer: B", "ANSWER: B",
        "The correct answer is B.", "the answer is (B) because of the fever", "**Answer:** B", "Final answer: **B**",
        "So it is option B", "$\\boxed{B}$", "\\boxed{\\text{B}}", "\\boxed{B. Pneumonia}, as A is a virus",
        "答案：B", "答案是B",
        "It is **B. Pneumonia**.\n\nA fever speaks for it.", "<answer>B</answer>\nA. would be wrong"
    ],
)  # fmt: skip
def test_another_form_of_an_answer_is_read_leniently_and_never_strictly(tmp_path, said):
    path = tmp_path / "m.jsonl"
    write_jsonl(path, rows_of([f"<think>A. is likely\n**C**</think>\n\n{said}", said, "## Thinking\nA.\n" + said], "B"))
    scores = score_file(path)
    assert scores.lenient == 1 and scores.overall.accuracy == ("</answer>" in said)


@pytest.mark.parametrize(
    "said",
    ["", "A patient has a fever", "I think so", "Pneumonia", "**Answer**", "The answer is Aspirin", "ABC",
     "answers vary", "A or B", "B vitamins are", "**A patient**", "\\boxed{Aspirin}", "B\n\nThat is what I believe"],
)  # fmt: skip
def test_a_word_is_no_letter(said):
    assert lenient_answer(said) is None


@given(st.text(), st.sampled_from("ABCDE"), st.text(alphabet="AB*:.(\\boxed{} \nanswer", max_size=60))
def test_an_explicit_answer_comes_before_all(thinking, letter, more):
    assert lenient_answer(f"<think>{thinking}</think><answer>{letter}</answer>{more.replace('<', '')}") == letter


def test_what_was_cut_means_nothing_and_letters_have_no_form(tmp_path):
    write_jsonl(tmp_path / "cut.jsonl", rows_of(["Answer: A"] * 2, truncated=True))
    assert score_file(tmp_path / "cut.jsonl").lenient == 0
    row = rows_of([""])[0] | {"logprobs": {"A": -1.0, "B": -2.0}}
    write_jsonl(tmp_path / "letters.jsonl", [row])
    assert score_file(tmp_path / "letters.jsonl").lenient is None


@pytest.mark.parametrize("text", ["**" * 50_000, "answer " * 30_000, "\\boxed{" * 30_000, " " * 200_000, "_" * 200_000])
def test_no_response_is_slow_to_read(text):
    began = time.process_time()
    lenient_answer(text)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "note", ["", "{", "[]", '{"settings": 3}', '{"settings": {}}', '{"scores": null}', "[" * 100_000]
)
def test_a_broken_note_is_told_with_the_remedy(tmp_path, note):
    (tmp_path / "m.json").write_text(note)
    with pytest.raises(UserError, match="m.json is broken .*; delete it and m.jsonl to evaluate again"):
        provenance(tmp_path / "m.jsonl")


BROKEN = [("tier", ["easy"]), ("kind", {}), ("truth", "AB"), ("truth", ""), ("truncated", "yes"), ("tokens", "5")]
BROKEN += [("response", None), ("logprobs", {}), ("logprobs", {"A": "0"}), ("logprobs", {"x": 0.5})]


@pytest.mark.parametrize(("field", "value"), BROKEN)
def test_a_row_that_is_no_saved_response_is_told_with_the_remedy(tmp_path, field, value):
    row = rows_of(["<answer>A</answer>"])[0] | {field: value}
    if field == "logprobs":
        del row["response"]
    write_jsonl(tmp_path / "m.jsonl", [row])
    with pytest.raises(UserError, match="m.jsonl is no file of saved responses .*; delete it and evaluate again"):
        score_file(tmp_path / "m.jsonl")


def test_groups_add_up(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "m.jsonl"
    for tier in ("easy", "moderate", "difficult"):
        texts = [format_response("so", rng.choice("ABCD")) for _ in range(40)]
        rows = rows_of(texts, tier=tier, kind=f"{tier} kind")
        append_jsonl(path, [row | {"id": f"{tier} {row['id']}"} for row in rows])
    scores = score_file(path)
    for groups in (("easy", "moderate", "difficult"), ("easy kind", "moderate kind", "difficult kind")):
        parts = [scores.subsets[group] for group in groups]
        assert sum(part.n for part in parts) == scores.overall.n == 120
        assert math.isclose(sum(part.accuracy * part.n for part in parts), scores.overall.accuracy * scores.overall.n)


def test_pass_at_k_and_majority_vote(tmp_path):
    """Ties go to the earlier answer, responses without one do not vote, a question without votes is wrong."""
    path = tmp_path / "m.jsonl"
    answers = {"plain": "ABA", "tie": "BA", "silent": "--A", "none": "---", "never": "BBC"}
    for id, letters in answers.items():
        texts = ["" if letter == "-" else format_response("so", letter) for letter in letters]
        append_jsonl(path, [row | {"id": id, "sample": n} for n, row in enumerate(rows_of(texts))])
    scores = score_file(path)
    assert scores.correct == pytest.approx({"plain": 2 / 3, "tie": 1 / 2, "silent": 1 / 3, "none": 0, "never": 0})
    assert scores.overall == Score(pytest.approx(0.3), 5)
    assert (scores.samples, scores.pass_at_k, scores.majority) == (3, 3 / 5, 2 / 5)


@given(st.lists(st.lists(st.sampled_from("ABC-"), min_size=3, max_size=3), min_size=1, max_size=6))
def test_pass_at_k_is_no_less_than_the_others(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("k") / "m.jsonl"
    for number, letters in enumerate(samples):
        texts = [format_response("so", letter) for letter in letters]
        append_jsonl(path, [row | {"id": str(number), "sample": n} for n, row in enumerate(rows_of(texts))])
    scores = score_file(path)
    assert scores.pass_at_k >= max(scores.overall.accuracy, scores.majority)
    assert scores.overall.accuracy == pytest.approx(sum(row.count("A") for row in samples) / 3 / len(samples))


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (81, 263, 0.255, 0.366)]
)
def test_wilson_interval(hits, n, low, high):
    """Values of Newcombe (1998), table I, and of the formula at the edges."""
    assert Score(hits / n, n).interval() == pytest.approx((low, high), abs=6e-4)


def test_letters_of_other_orders_are_the_questions_own(tmp_path):
    """Who knows the thing gives it in every order; who prefers a letter is right by chance, and it shows."""
    orders = ["".join(order) for order in itertools.permutations("ABCD")]
    for name, letter_for in (("knows", lambda order: "ABCD"[order.index("C")]), ("prefers", lambda order: "B")):
        path = tmp_path / f"{name}.jsonl"
        rows = [
            rows_of([format_response("so", letter_for(order))], "ABCD"[order.index("C")])[0] | {"id": f"{id} [{order}]"}
            for id in ("one", "two")
            for order in orders
        ]
        write_jsonl(path, rows)
        path.with_suffix(".json").write_text('{"settings": {"shuffle_options": 24, "questions": 2}}')
    knows, prefers = (score_file(tmp_path / f"{name}.jsonl") for name in ("knows", "prefers"))
    assert (knows.overall, prefers.overall) == (Score(1.0, 2), Score(0.25, 2)) and knows.samples == 24
    assert {item.same for item in knows.answered.values()} == {1.0}
    assert {item.same for item in prefers.answered.values()} == {4 * 15 / 276}  # pairs of 6 among those of 24
    table = orders_table({"knows": {"b": knows}, "prefers": {"b": prefers}})
    assert cells_of(table, "knows")[-2:] == ["A 25 B 25 C 25 D 25", "1.0000"]
    assert cells_of(table, "prefers")[-2:] == ["B 100", "0.0001"]


def test_a_response_without_an_answer_prefers_no_letter(tmp_path):
    path = tmp_path / "m.jsonl"
    write_jsonl(path, [row | {"id": "q [BA]"} for row in rows_of(["", format_response("so", "Z")])])
    path.with_suffix(".json").write_text('{"settings": {"shuffle_options": 2, "questions": 1}}')
    scores = score_file(path)
    assert scores.overall == Score(0.0, 1) and scores.answered["q"].same == 0 and not scores.answered["q"].shown

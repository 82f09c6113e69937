"""Curation loses nothing, holds out without overlap, keeps what must stay, and says why it rejects."""

import json
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from conftest import call_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import curate
from records import LETTERS, Question, RunDir, UserError, load_questions, read_jsonl
from teacher import Teacher

FACTS = [(f"Disease {d}", relation, f"{relation} {o}") for d in range(6) for relation in "st" for o in range(3)]


def question(number=0, path=(0,), kind="disease>drug", **changes):
    record = {
        "id": f"synth/{number}",
        "source": "synth",
        "language": "en",
        "question": f"Question number {number}?",
        "options": {"A": "Aspirin", "B": "Isoniazid", "C": "Insulin", "D": "Heparin"},
        "answer": "B",
        "kind": kind,
        "evidence": [[*FACTS[i], 1, "A sentence."] for i in path],
    }
    return record | changes


def public(number=0, **changes):
    row = {"question": f"Public {number}?", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}
    return row | changes


def run_curate(folder, rows, *flags, public_rows=()):
    """The outputs of a run of curate.py by name."""
    folder.mkdir(exist_ok=True)
    write = lambda name, items: (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))  # noqa: E731
    write("synth.jsonl", rows)
    flags = ["--run", str(folder), *flags]
    if public_rows:
        write("public.jsonl", public_rows)
        flags += ["--public", f"medqa={folder / 'public.jsonl'}"]
    call_main(curate, *flags)
    names = ("train", "heldout", "review", "rejected", "left_out")
    return {name: list(read_jsonl(folder / f"{name}.jsonl")) for name in names}


records = st.builds(
    question,
    number=st.integers(0, 30),
    path=st.lists(st.integers(0, len(FACTS) - 1), max_size=3),
    kind=st.sampled_from(["disease>drug", "presentation>disease"]),
    question=st.one_of(st.text(max_size=12), st.sampled_from(["Which?", "which ?", "caf\u00c3\u00a9", "a\ud800b"])),
    options=st.lists(st.text(max_size=4), min_size=1, max_size=5).map(lambda texts: dict(zip(LETTERS, texts))),
    answer=st.sampled_from(["A", "B", "E", "AB", "", 3, ["A"]]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(records, max_size=25), extra=st.integers(0, 6), seed=st.integers(0, 3))
def test_nothing_is_lost_or_doubled(tmp_path_factory, rows, extra, seed):
    rows = [question(1000 + i, path=(i, 30 + i)) for i in range(4)] + rows
    publics = [public(i, answer_idx=random_letter) for i, random_letter in enumerate("ABABZA"[:extra] + "A")]
    out = run_curate(tmp_path_factory.mktemp("run"), rows, "--heldout", "1", "--seed", str(seed), public_rows=publics)
    assert sum(map(len, out.values())) == len(rows) + len(publics)
    ids = Counter(row["id"] for name in ("train", "heldout", "review", "left_out") for row in out[name])
    assert all(count == 1 for count in ids.values())
    assert all(row["reason"] for row in out["rejected"])


@settings(max_examples=100, deadline=None)
@given(
    paths=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4), min_size=1, max_size=80),
    number=st.integers(0, 20),
    seed=st.integers(0, 5),
)
def test_no_heldout_path_occurs_in_training(paths, number, seed):
    questions = [Question.from_json(question(i, path=path, kind=f"{len(path)}")) for i, path in enumerate(paths)]
    try:
        rest, held, overlapping = curate.hold_out(questions, number, seed)
    except UserError:
        return
    assert len(held) == number
    assert sorted(q.id for q in rest + held + overlapping) == sorted(q.id for q in questions)
    assert not any(curate.path_of(h) <= curate.path_of(r) for h in held for r in rest)
    assert all(any(curate.path_of(h) <= curate.path_of(o) for h in held) for o in overlapping)


def test_heldout_has_as_many_of_each_kind():
    rows = [question(i, path=(i % 36, (i // 36) % 36), kind=f"kind {min(i % 7, 3)}") for i in range(1200)]
    _, held, _ = curate.hold_out([Question.from_json(row) for row in rows], 100, 0)
    assert set(Counter(q.kind for q in held).values()) == {25}


def test_too_large_a_heldout_set_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--heldout 50"):
        run_curate(tmp_path / "run", [question(i, path=(i,)) for i in range(5)], "--heldout", "50")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "A caf\u00c3\u00a9 au lait spot?"}, "encoding artefact"),
        ({"question": "A \ufffd spot?"}, "encoding artefact"),
        ({"question": "A \ud800 spot?"}, "encoding artefact"),
        ({"options": {"A": "Aspirin.", "B": " aspirin"}}, "duplicate options"),
        ({"options": {"A": "ＡＢ", "B": "ab"}}, "duplicate options"),
        ({"question": " "}, "empty question"),
        ({"answer": "BD"}, "several answers"),
        ({"answer": ["B", "D"]}, "several answers"),
        ({"answer": "F"}, "answer not among the options"),
        ({"evidence": []}, "no evidence path"),
        ({"evidence": [["only"]]}, "no evidence path"),
        ({"question": "QUESTION number  1"}, "duplicate question"),
        ({"id": "synth/1"}, "id occurs twice"),
    ],
)
def test_each_rejection_has_its_reason(changes, reason, tmp_path):
    rows = [question(1, path=(1,), question="Question number 1"), question(2, path=(2,)) | changes]
    out = run_curate(tmp_path / "run", rows, "--heldout", "0")
    assert [row["reason"] for row in out["rejected"]] == [reason]
    assert len(out["train"]) == 1


def test_generic_questions_with_other_answers_are_no_duplicates(tmp_path):
    rows = [question(i, path=(i,), question="Which is true?", answer="ABCD"[i]) for i in range(4)]
    assert len(run_curate(tmp_path / "run", rows, "--heldout", "0")["train"]) == 4


def test_anonymisation():
    hidden = {
        "Call 555-123-4567 or (555) 123-4567.": "Call [PHONE] or [PHONE].",
        "Write to jane.doe@mail.example.org now": "Write to [EMAIL] now",
        "Mr. O'Brien and Dr. Anna Smith": "Mr. [NAME] and Dr. [NAME]",
        "手机13812345678。": "手机[PHONE]。",
    }
    stays = [
        "A 54-year-old man takes 500 mg of metformin.",
        "BP 120/80 mmHg, platelets 150,000/mm3, WBC 4500, INR 2.5",
        "Crohn's disease, Parkinson disease, Down syndrome",
        "Leukocytes 11500000000/L, TSH 0.123 to 456.7",
        "MS and DR findings",
    ]
    assert {text: curate.anonymise(text) for text in hidden} == hidden
    assert [curate.anonymise(text) for text in stays] == stays


@pytest.mark.parametrize("hostile", ["a" * 200_000, "1" * 200_000, "a@" * 100_000, "Dr. A" * 50_000, "555-" * 50_000])
def test_patterns_are_linear(hostile):
    start = time.process_time()
    curate.anonymise(hostile)
    curate.ARTEFACTS.search(hostile)
    assert time.process_time() - start < 5.0


class ScriptedTeacher(Teacher):
    """Knows the answer of question n only at trial n; grades everything difficult."""

    def __init__(self):
        self.asked = Counter()

    def ask(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        self.asked[request.purpose] += 1
        if request.purpose == "grade":
            return "Difficult."
        right = request.seed == int(request.question.id.rsplit("/", 1)[1])
        return f"<think>...</think><answer>{'B' if right else 'A'}</answer>"


def test_labels_that_five_trials_never_confirm_go_to_review(tmp_path, monkeypatch):
    teacher = ScriptedTeacher()
    monkeypatch.setattr(curate, "teacher_of", lambda args, run: teacher)
    rows = [question(i, path=(i,)) for i in (0, 1, 4, 5, 9)]
    out = run_curate(tmp_path / "run", rows, "--heldout", "0", "--teacher", "local:x")
    assert [row["id"] for row in out["review"]] == ["synth/5", "synth/9"]
    assert out["review"][0]["votes"] == ["A"] * 5
    assert teacher.asked == {"verify": 1 + 2 + 5 + 5 + 5, "grade": 3}
    assert {row["tier"] for row in out["train"]} == {"difficult"}


def test_the_evidence_teacher_verifies_nothing_and_says_so(tmp_path, capsys):
    out = run_curate(tmp_path / "run", [question(path=(0,))], "--heldout", "0", "--teacher", "evidence")
    assert not out["review"] and "verifies no label" in capsys.readouterr().out


def test_tiers_by_rule_and_given_tiers():
    one, two, three = (Question.from_json(question(i, path=path)) for i, path in enumerate([(0,), (0, 3), (0, 3, 7)]))
    assert [curate.tier_by_rule(q, set()) for q in (one, two, three)] == ["easy", "moderate", "difficult"]
    assert curate.tier_by_rule(one, {"Isoniazid"}) == "moderate"
    star = question(evidence=[["Tuberculosis", "symptom", s, 1, ""] for s in ("Fever", "Cough", "Weight loss")])
    assert curate.tier_by_rule(Question.from_json(star), set()) == "easy"
    given_tier = Question.from_json(question(tier="difficult"))
    assert curate.grade([given_tier], None, 0)[0].tier == "difficult"


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_mixing(fraction):
    synthetic = [Question.from_json(question(i)) for i in range(60)]
    publics = [SimpleNamespace(id=i, evidence=[]) for i in range(30)]
    kept, left_out = curate.mix(synthetic + publics, fraction, 0)
    share = sum(bool(q.evidence) for q in kept) / len(kept)
    assert abs(share - fraction) < 0.02 and len(kept) + len(left_out) == 90
    assert curate.mix(synthetic, fraction, 0) == (synthetic, [])


def test_a_run_is_deterministic_and_finished_only_once(tmp_path, capsys):
    rows = [question(i, path=(i % 36, (i * 7) % 36)) for i in range(60)]
    first = run_curate(tmp_path / "a", rows, "--heldout", "5", "--seed", "3")
    assert run_curate(tmp_path / "b", rows, "--heldout", "5", "--seed", "3") == first
    assert run_curate(tmp_path / "c", rows, "--heldout", "5", "--seed", "4") != first
    run_curate(tmp_path / "a", rows[:2])
    assert "nothing to do" in capsys.readouterr().out
    assert len(load_questions(tmp_path / "a" / "heldout.jsonl")) == 5


def test_bad_flags_and_inputs(tmp_path):
    with pytest.raises(UserError, match="python synth.py"):
        curate.read_synthetic(RunDir(tmp_path), curate.Ledger())
    with pytest.raises(UserError, match="NAME=PATH"):
        run_curate(tmp_path / "run", [question()], "--public", "medqa")
    with pytest.raises(UserError, match="known: "):
        run_curate(tmp_path / "run", [question()], "--public", "nosuch=x.json")
    with pytest.raises(UserError, match="no question is left"):
        run_curate(tmp_path / "run", [question(answer="Z")], "--heldout", "0")
    with pytest.raises(UserError, match="from 0 to 1"):
        run_curate(tmp_path / "run", [question()], "--synthetic-fraction", "2")

"""The evaluation: every item counts once, scores can be redone from the files, tables say what the files say."""

import json
import math
import random

import pytest
from conftest import PROJECT, call_main, python

import evaluate
from records import UserError, append_jsonl, read_jsonl, write_jsonl
from reward import format_response


@pytest.fixture
def run(tmp_path, questions):
    write_jsonl(tmp_path / "heldout.jsonl", [question.to_json() for question in questions])
    return tmp_path


def rows_of(responses, truth="A", **fields):
    base = {"tier": "easy", "kind": "one", "truth": truth, "tokens": 5, "truncated": False}
    return [{"id": str(n), **base, **fields, "response": text} for n, text in enumerate(responses)]


def test_every_question_is_answered_once_and_a_cut_file_is_continued(run, tiny, questions):
    call_main(evaluate, "--run", run, "--model", f"tiny={tiny}", "--max-new-tokens", "8")
    out = run / "eval" / "heldout" / "tiny.jsonl"
    whole = list(read_jsonl(out))
    assert [row["id"] for row in whole] == [question.id for question in questions]
    text = out.read_text()
    out.write_text(text[: len(text) * 2 // 3])  # as a crash in the middle of a line leaves it
    call_main(evaluate, "--run", run, "--model", f"tiny={tiny}", "--max-new-tokens", "8")
    assert sorted(map(json.dumps, read_jsonl(out))) == sorted(map(json.dumps, whole))


def test_unparsed_empty_and_cut_responses_stay_in_the_denominator(tmp_path):
    good, bad = format_response("so", "A"), format_response("so", "B")
    path = tmp_path / "m.jsonl"
    write_jsonl(path, rows_of([good, bad, "", "the answer is A", good + "<answer>C</answer>", "<answer>A</answer>"]))
    scores = evaluate.score_file(path)
    assert scores.overall == evaluate.Score(2 / 6, 6)
    assert scores.well_formed == 2 / 6


def test_groups_add_up(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "m.jsonl"
    for tier in ("easy", "moderate", "difficult"):
        texts = [format_response("so", rng.choice("ABCD")) for _ in range(40)]
        append_jsonl(path, rows_of(texts, tier=tier, kind=f"{tier} kind"))
    scores = evaluate.score_file(path)
    tiers = [scores.groups[tier] for tier in ("easy", "moderate", "difficult")]
    assert math.isclose(sum(score.accuracy * score.n for score in tiers), scores.overall.accuracy * scores.overall.n)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (81, 263, 0.255, 0.366)]
)
def test_wilson_interval(hits, n, low, high):
    """Values of Newcombe (1998), table I, and of the formula at the edges."""
    assert evaluate.Score(hits / n, n).interval() == pytest.approx((low, high), abs=6e-4)


def test_table_of_several_runs(tmp_path, capsys):
    for name, hits in (("run-0", 4), ("run-1", 6)):
        folder = tmp_path / name / "eval" / "heldout"
        folder.mkdir(parents=True)
        write_jsonl(folder / "Base.jsonl", rows_of([format_response("x", "B")] * 10))
        write_jsonl(folder / "RL.jsonl", rows_of([format_response("x", "A" if n < hits else "B") for n in range(10)]))
    call_main(evaluate, "--table", tmp_path / "run-0", tmp_path / "run-1")
    line = next(line for line in capsys.readouterr().out.splitlines() if "RL" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "heldout",
        "RL",
        "40.0",
        "60.0",
        "50.0",
        "20.0",
        "+50.0",
    ]


def test_native_benchmark_file(shared_data, tmp_path, tiny):
    flags = ("--run", tmp_path, "--model", f"t={tiny}", "--max-new-tokens", "4", "--transcripts", "0", "--benchmark")
    native = shared_data / "native" / "medmcqa_raw.jsonl"
    call_main(evaluate, *flags, f"medmcqa={native}")
    rows = list(read_jsonl(tmp_path / "eval" / "medmcqa" / "t.jsonl"))
    assert len(rows) == sum(1 for _ in open(native)) and all(row["truth"] in "ABCD" for row in rows)
    with pytest.raises(UserError, match="exceeds the context"):
        call_main(evaluate, *flags, f"mmlu_pro_health={shared_data / 'native' / 'mmlu_pro_health.jsonl'}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--benchmark", "medqua"), "known: heldout, careqa"),
        (("--model", "x=./no/such/folder"), "no/such/folder does not exist"),
        (("--run", "no/such/run"), "no/such/run does not exist"),
    ],
)
def test_bad_input_is_one_line(run, flags, message):
    failed = python("evaluate.py", "--run", run, *flags)
    assert failed.returncode == 1 and message in failed.stderr
    assert len([line for line in failed.stderr.splitlines() if line.strip()]) == 1


def test_nothing_in_common_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no evaluation is common"):
        evaluate.runs_table([tmp_path, tmp_path])


def test_two_processes_share_the_items(run, tiny, questions):
    shared = python("-m", "torch.distributed.run", "--nproc_per_node", "2", "--", PROJECT / "evaluate.py", "--run", run,
                    "--model", f"tiny={tiny}", "--max-new-tokens", "8")  # fmt: skip
    assert shared.returncode == 0, shared.stderr
    two = {row["id"]: row["response"] for row in read_jsonl(run / "eval" / "heldout" / "tiny.jsonl")}
    call_main(evaluate, "--run", run, "--model", f"alone={tiny}", "--max-new-tokens", "8")
    one = {row["id"]: row["response"] for row in read_jsonl(run / "eval" / "heldout" / "alone.jsonl")}
    assert two == one and len(two) == len(questions)


def test_sampled_questions_have_their_own_randomness(tmp_path, tiny, questions):
    twins = [questions[0].to_json() | {"id": name} for name in ("one", "two")]
    write_jsonl(tmp_path / "heldout.jsonl", twins)
    flags = ("--temperature", "1", "--top-p", "1", "--max-new-tokens", "12", "--transcripts", "0")
    call_main(evaluate, "--run", tmp_path, "--model", f"t={tiny}", *flags)
    first, second = (row["response"] for row in read_jsonl(tmp_path / "eval" / "heldout" / "t.jsonl"))
    assert first != second

"""The evaluation: every item counts once, scores can be redone from the files, tables say what the files say."""

import json
import math
import os
import random
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, SHARED, call_main, metrics_of, python
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import evaluate
from question import LETTERS, Question
from reward import format_response, prompt_messages, prompt_tokens
from tools.cli import UserError
from tools.run import append_jsonl, read_jsonl, write_jsonl

QUICK = ("--max-new-tokens", "8", "--transcripts", "0")


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
        rows = rows_of(texts, tier=tier, kind=f"{tier} kind")
        append_jsonl(path, [row | {"id": f"{tier} {row['id']}"} for row in rows])
    scores = evaluate.score_file(path)
    for groups in (("easy", "moderate", "difficult"), ("easy kind", "moderate kind", "difficult kind")):
        parts = [scores.groups[group] for group in groups]
        assert sum(part.n for part in parts) == scores.overall.n == 120
        assert math.isclose(sum(part.accuracy * part.n for part in parts), scores.overall.accuracy * scores.overall.n)


def test_pass_at_k_and_majority_vote(tmp_path):
    """Ties go to the earlier answer, responses without one do not vote, a question without votes is wrong."""
    path = tmp_path / "m.jsonl"
    answers = {"plain": "ABA", "tie": "BA", "silent": "--A", "none": "---", "never": "BBC"}
    for id, letters in answers.items():
        texts = ["" if letter == "-" else format_response("so", letter) for letter in letters]
        append_jsonl(path, [row | {"id": id, "sample": n} for n, row in enumerate(rows_of(texts))])
    scores = evaluate.score_file(path)
    assert scores.correct == pytest.approx({"plain": 2 / 3, "tie": 1 / 2, "silent": 1 / 3, "none": 0, "never": 0})
    assert scores.overall == evaluate.Score(pytest.approx(0.3), 5)
    assert (scores.samples, scores.pass_at_k, scores.majority) == (3, 3 / 5, 2 / 5)


@given(st.lists(st.lists(st.sampled_from("ABC-"), min_size=3, max_size=3), min_size=1, max_size=6))
def test_pass_at_k_is_no_less_than_the_others(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("k") / "m.jsonl"
    for number, letters in enumerate(samples):
        texts = [format_response("so", letter) for letter in letters]
        append_jsonl(path, [row | {"id": str(number), "sample": n} for n, row in enumerate(rows_of(texts))])
    scores = evaluate.score_file(path)
    assert scores.pass_at_k >= max(scores.overall.accuracy, scores.majority)
    assert scores.overall.accuracy == pytest.approx(sum(row.count("A") for row in samples) / 3 / len(samples))


def test_macro_and_micro_average(tmp_path):
    results = {"m": {}}
    for name, right, n in (("small", 1, 1), ("large", 2, 8)):
        path = tmp_path / f"{name}.jsonl"
        write_jsonl(path, rows_of([format_response("so", "A" if i < right else "B") for i in range(n)]))
        results["m"][name] = evaluate.score_file(path)
    assert evaluate.macro_average(results["m"]) == (1 + 1 / 4) / 2
    assert evaluate.micro_average(results["m"]) == 3 / 9
    assert "| 62.5 | 33.3  |" in evaluate.ablation_table(results)


@pytest.mark.parametrize(("n", "right"), [(40, (12, 20)), (400, (200, 230))])
def test_paired_bootstrap_is_the_plain_one(n, right):
    """Against resampling question by question; and swapping the two sides swaps the sign."""
    rng = np.random.default_rng(1)
    first, second = (dict(enumerate(rng.permutation([1.0] * k + [0.0] * (n - k)))) for k in right)
    count, mean, low, high = evaluate.paired_bootstrap(first, second)
    differences = np.array([second[id] - first[id] for id in first])
    means = differences[rng.integers(n, size=(20_000, n))].mean(1)
    assert count == n and mean == pytest.approx((right[1] - right[0]) / n)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=1.5 / n)
    assert evaluate.paired_bootstrap(second, first)[1:] == pytest.approx((-mean, -high, -low), abs=1.5 / n)
    assert evaluate.paired_bootstrap(first, first) == (n, 0, 0, 0)
    assert evaluate.paired_bootstrap(first, {"other": 1.0})[0] == 0


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (81, 263, 0.255, 0.366)]
)
def test_wilson_interval(hits, n, low, high):
    """Values of Newcombe (1998), table I, and of the formula at the edges."""
    assert evaluate.Score(hits / n, n).interval() == pytest.approx((low, high), abs=6e-4)


def write_results(run, **hits):
    """A run's saved responses to ten questions, of two tiers by turns: variant -> how many are right."""
    folder = run / "eval" / "heldout"
    folder.mkdir(parents=True)
    for label, right in hits.items():
        rows = rows_of([format_response("x", "A" if n < right else "B") for n in range(10)])
        tiers = ("difficult", "easy")
        write_jsonl(folder / f"{label}.jsonl", [row | {"tier": tiers[n % 2]} for n, row in enumerate(rows)])


def test_table_of_several_runs(tmp_path, capsys):
    for name, hits in (("run-0", 4), ("run-1", 6)):
        write_results(tmp_path / name, Base=0, RL=hits)
    call_main(evaluate, "--table", tmp_path / "run-0", tmp_path / "run-1")
    text = capsys.readouterr().out
    accuracies = text.partition("Accuracy in %")[2]
    assert cells_of(accuracies, "heldout ", "RL ") == ["heldout", "RL", "40.0", "60.0", "50.0", "20.0", "+50.0"]
    step = cells_of(text, "run-1: Base -> RL")
    assert step[2] == "10" and step[3].startswith("+60.0 (") and step[4] == "yes"
    assert "Step: the gain over the row above" in text
    assert "quoted" not in text and "run-0 -> run-1" not in text  # no benchmark of the paper's; seeds are no methods


def table_after(text, title):
    """The cells of the first table behind a title, but for the column of the benchmark."""
    table = text.split(f"{title}\n\n", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in table if "| ---" not in line]


def test_an_ablation_stands_beside_its_baseline(tmp_path, capsys):
    """A fork is another method, not another seed: each run is a column, the differences to the first come last."""
    write_results(tmp_path / "full", **{"+CoT cold start": 4, "Base": 1, "+RL stage 2": 8})
    write_results(tmp_path / "full-rl2--no-mining---steps-5", **{"Base": 1, "+RL stage 2": 5, "+RL stage 1": 3})
    for run in tmp_path.iterdir():  # the fork has the very same base
        (run / "eval" / "heldout" / "Base.json").write_text('{"settings": {"questions": 10, "model_hash": "0123"}}')
    call_main(evaluate, "--table", tmp_path / "full", tmp_path / "full-rl2--no-mining---steps-5")
    text = capsys.readouterr().out
    assert table_after(text, "Accuracy in %") == [
        ["Variant", "full", "rl2 --no-mining --steps-5"],
        ["Base", "10.0", "10.0"],
        ["+CoT cold start", "40.0", "-"],
        ["+RL stage 1", "-", "30.0"],
        ["+RL stage 2", "80.0", "50.0"],
    ]
    name, against = "+RL stage 2: full -> rl2 --no-mining --steps-5", "Against full, on the same questions"
    assert table_after(text, f"{against} (paired bootstrap, 95%)")[1:] == [
        [name, "10", "-30.0 (-60.0 to +0.0)", "no"],
        [name, "5", "-40.0 (-80.0 to +0.0)", "no"],  # easy
        [name, "5", "-20.0 (-60.0 to +0.0)", "no"],  # difficult
    ]
    assert text.index("Against full") > text.index("From row to row") and "Mean" not in text
    write_results(tmp_path / "full-sft", **{"+RL stage 2": 5})
    call_main(evaluate, "--table", *sorted(tmp_path.iterdir()))
    assert "heldout, easy" in text and "heldout, easy" not in capsys.readouterr().out  # several forks: no tiers
    with pytest.raises(UserError, match="tinny does not exist"):
        call_main(evaluate, "--table", tmp_path / "full", tmp_path / "tinny")


@pytest.mark.parametrize(
    ("names", "seeds"),
    [
        (["tiny"], True),
        (["tiny-0", "tiny-1", "tiny-2"], True),
        (["tiny", "tiny-1"], True),
        (["tiny-rl1", "tiny-rl2"], False),  # forks of two stages
        (["tiny-rl1--clip-0.2", "tiny-rl1--clip-0.3"], False),
        (["7b", "32b"], False),
        (["a/tiny-0", "b/tiny-0"], False),
    ],
)
def test_what_counts_as_seeds_of_one_method(names, seeds):
    assert evaluate.are_seeds(evaluate.run_names([Path(name) for name in names])) == seeds


def test_table_of_one_run_has_neither_mean_nor_spread(tmp_path, capsys):
    write_results(tmp_path / "run", Base=1, RL=4)
    call_main(evaluate, "--table", tmp_path / "run")
    text = capsys.readouterr().out
    accuracies = text.partition("Accuracy in %")[2]
    assert cells_of(accuracies, "| Benchmark") == ["Benchmark", "Variant", "run", "Step"]
    assert cells_of(accuracies, "heldout ", "RL ") == ["heldout", "RL", "40.0", "+30.0"]


def cells_of(text, *parts):
    """The cells of the first table row that holds all parts."""
    line = next(line for line in text.splitlines() if all(part in line for part in parts) and line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_stands_beside_the_papers_rows(tmp_path, capsys):
    for name in ("medqa", "pubmedqa"):
        (tmp_path / "eval" / name).mkdir(parents=True)
        write_jsonl(tmp_path / "eval" / name / "ours.jsonl", rows_of([format_response("x", "A")] * 3 + [""]))
    call_main(evaluate, "--table", tmp_path)
    text = capsys.readouterr().out
    assert cells_of(text, "| Model", "Source")[2:] == [
        "CareQA", "JMED", "Medbullets", "MedMCQA", "MedQA", "MedXpertQA", "PubMedQA", "MMLU-Pro Biology",
        "MMLU-Pro Health", "Avg.", "ΔAvg.",
    ]  # fmt: skip
    ours = ["measured here", "-", "-", "-", "-", "75.0", "-", "75.0", "-", "-", "75.0", "+0.0"]
    assert cells_of(text, "7B: +RL Stage 2")[-2:] == ["63.4", "+7.9"]
    assert cells_of(text, f"{tmp_path.name}: ours")[1:] == ours
    assert cells_of(text, "Fleming-R1-7B")[6:9] == ["75.10", "19.14", "78.60"]


def test_the_quoted_tables_are_the_papers():
    rows = evaluate.paper_rows()
    assert [row["table"] for row in rows] == ["Table 3"] * 11 + ["Table 4"] * 7
    for row in rows:
        nine = [float(row[name]) for name in evaluate.formats.BENCHMARKS]
        assert sum(nine) / 9 == pytest.approx(float(row["avg"]), abs=0.06), row["model"]
    if SHARED.is_dir():
        paper = (SHARED / "paper.txt").read_text(encoding="utf-8").replace("\xa0", " ")
        for row in rows:
            numbers = [row[name] for name in (*evaluate.formats.BENCHMARKS, "avg")]
            assert f"{row['model']} {' '.join(numbers)}{' +' + row['gain'] if row['gain'] else ''}\n" in paper


def test_native_benchmark_file(shared_data, tmp_path, tiny):
    flags = ("--run", tmp_path, "--model", f"t={tiny}", "--max-new-tokens", "4", "--transcripts", "0", "--benchmark")
    native = shared_data / "native" / "medmcqa_raw.jsonl"
    call_main(evaluate, *flags, f"medmcqa={native}")
    rows = list(read_jsonl(tmp_path / "eval" / "medmcqa" / "t.jsonl"))
    assert {"Surgery", "Pathology"} & {row["kind"] for row in rows}
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
    assert not list(run.glob("eval/*/*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cache-gb", "1e-9"), "one row of .* needs .* the budget is"),  # the sampler's own error
        (("--temperature", "0.5", "--top-p", "2"), "top_p"),
        (("--max-new-tokens", "100000"), "exceeds the context"),
        (("--samples", "2"), "needs .* --temperature above 0"),
        (("--samples", "0"), "--samples: 0 must be at least 1"),
        (("--model", "a=x", "a=y"), "label 'a' occurs twice"),
        (("--model", "a=openai:m", "--score", "loglikelihood"), "not a server"),
        (("--benchmark", "medqua=pyproject.toml"), "pyproject.toml, line 1: .* of their own: heldout, careqa"),
        (("--prompt", "nicely"), "invalid choice: 'nicely'"),
        (("--model", "a=rl2"), "rl2 does not exist; make it with: python grpo.py --stage 2 --run"),
        (("--model", "a=openai:m", "--teacher-max-calls", "0"), "--teacher-max-calls: 0 must be at least 1"),
    ],
)
def test_bad_input_is_a_clear_error(run, tiny, flags, message):
    with pytest.raises(UserError, match=message):
        call_main(evaluate, "--run", run, "--model", f"t={tiny}", *QUICK, *flags)
    assert not list(run.glob("eval/*/*"))


def test_a_model_that_cannot_be_asked_is_a_clear_error(run, tiny, tmp_path_factory):
    """Without a chat template; of an architecture that the sampler does not know."""
    for name, change in (("no chat template", "template"), ("sliding-window", "window")):
        folder = tmp_path_factory.mktemp(change) / "model"
        shutil.copytree(tiny, folder)
        if change == "template":
            (folder / "chat_template.jinja").unlink()
        else:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"use_sliding_window": True, "sliding_window": 8}))
        with pytest.raises(UserError, match=name):
            call_main(evaluate, "--run", run, "--model", f"t={folder}", *QUICK)


def test_nothing_to_tabulate_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no evaluation"):
        call_main(evaluate, "--table", tmp_path)
    write_results(tmp_path, x=1)
    write_jsonl(tmp_path / "eval" / "heldout" / "x.jsonl", [{"id": "1"}])
    with pytest.raises(UserError, match="no file of saved responses"):
        call_main(evaluate, "--table", tmp_path)


def test_two_to_26_options_and_chinese(tmp_path, tiny):
    two = Question("two", "t", "zh", "发热、咳嗽、盗汗，最可能的诊断是？", {"A": "肠炎", "B": "肺结核"}, "B")
    many = Question("26", "t", "zh", "是哪一项？", {letter: f"选项{n}" for n, letter in enumerate(LETTERS)}, "Z")
    write_jsonl(tmp_path / "heldout.jsonl", [two.to_json(), many.to_json()])
    call_main(evaluate, "--run", tmp_path, "--model", f"t={tiny}", "--score", "loglikelihood", "--transcripts", "0")
    path = tmp_path / "eval" / "heldout" / "t.jsonl"
    assert [list(row["logprobs"]) for row in read_jsonl(path)] == [list("AB"), list(LETTERS)]
    responses = [format_response("低热，盗汗。", "B"), format_response("逐项排除。", "Z")]
    write_jsonl(path, [evaluate.saved(question, response=text) for question, text in zip((two, many), responses)])
    assert evaluate.score_file(path).overall == evaluate.Score(1.0, 2)


def test_two_questions_of_one_id_are_refused(run, tiny):
    append_jsonl(run / "heldout.jsonl", [next(read_jsonl(run / "heldout.jsonl"))])
    with pytest.raises(UserError, match="'test/0' occurs twice"):
        call_main(evaluate, "--run", run, "--model", f"t={tiny}", *QUICK)


# ------------------------------------------------------------------------------------------------- trust in saved files


def test_results_made_in_another_way_are_not_mixed_in(run, tiny, questions, tmp_path_factory):
    flags = ("--run", run, "--model", f"t={tiny}", *QUICK)
    call_main(evaluate, *flags)
    for change, name in (
        (("--seed", "1"), "seed"),
        (("--prompt", "explicit"), "prompt"),
        (("--no-thinking",), "prompt_hash"),
    ):
        with pytest.raises(UserError, match=f"made with another {name} .*; ask as before"):
            call_main(evaluate, *flags, *change)
    other = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(tiny, other)
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    with pytest.raises(UserError, match="made with another model_hash"):
        call_main(evaluate, "--run", run, "--model", f"t={other}", *QUICK)
    write_jsonl(run / "heldout.jsonl", [q.to_json() | {"answer": "A"} for q in questions])
    with pytest.raises(UserError, match="made with another questions_hash"):
        call_main(evaluate, *flags)
    (run / "eval" / "heldout" / "t.jsonl").unlink()
    call_main(evaluate, *flags)


def test_scores_are_made_again_without_the_model(run, tiny, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("gone") / "model"
    shutil.copytree(tiny, folder)
    flags = ("--run", run, "--model", f"t={folder}", "--max-new-tokens", "8")
    call_main(evaluate, *flags)
    first = capsys.readouterr().out
    logged = metrics_of(run, "evaluate")
    shutil.rmtree(folder)
    call_main(evaluate, *flags)
    assert capsys.readouterr().out == first and "Model hash" in first
    assert metrics_of(run, "evaluate") == logged and [row["step"] for row in logged] == [21]
    notes = json.loads((run / "eval" / "heldout" / "t.json").read_text())
    assert notes["settings"]["model_hash"] == evaluate.model_hash(tiny) and notes["scores"]["n"] == 21
    accuracy, n, low, high = logged[0]["groups"]["easy"]
    assert n == 7 and (low, high) == pytest.approx(evaluate.Score(accuracy, n).interval())


def test_a_million_responses_are_scored_in_a_minute(tmp_path):
    """Of 20,000, in proportion; bench/evaluate.py measures the million."""
    text = format_response("Isoniazid treats tuberculosis. " * 12, "A")
    write_jsonl(tmp_path / "m.jsonl", rows_of([text] * 20_000, kind="kind"))
    began = time.process_time()
    assert evaluate.score_file(tmp_path / "m.jsonl").overall.n == 20_000
    assert time.process_time() - began < 60 * 20_000 / 1_000_000


# ------------------------------------------------------------------------------------------- samples, letters, a server


def test_samples_of_a_cut_file_are_continued(run, tiny, questions, capsys):
    flags = ("--run", run, "--model", f"t={tiny}", *QUICK, "--samples", "3", "--temperature", "1")
    call_main(evaluate, *flags)
    out = run / "eval" / "heldout" / "t.jsonl"
    whole = list(read_jsonl(out))
    assert len({(row["id"], row["sample"]) for row in whole}) == len(whole) == 3 * len(questions)
    assert len({row["response"] for row in whole}) > 2 * len(questions)
    text = out.read_text()
    out.write_text(text[: len(text) * 2 // 3])
    call_main(evaluate, *flags)
    assert sorted(map(json.dumps, read_jsonl(out))) == sorted(map(json.dumps, whole))
    assert cells_of(capsys.readouterr().out, "Pass@k")[2:6] == ["n", "k", "Pass@k", "Majority"]


def test_letters_are_scored_by_their_log_likelihood(run, tiny, questions):
    """Against one plain forward pass for each letter."""
    call_main(evaluate, "--run", run, "--model", f"t={tiny}", "--score", "loglikelihood", "--transcripts", "1")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny).float(), AutoTokenizer.from_pretrained(tiny)
    rows = list(read_jsonl(run / "eval" / "heldout" / "t.jsonl"))
    assert [row["id"] for row in rows] == [question.id for question in questions]
    right = 0
    for question, row in zip(questions, rows):
        prompt = prompt_tokens(tokenizer, prompt_messages(question, "letter"))
        expected = {}
        for letter in question.options:
            ids = tokenizer(letter)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            expected[letter] = sum(logs[len(prompt) + n - 1, id].item() for n, id in enumerate(ids))
        assert row["logprobs"] == pytest.approx(expected, abs=1e-4)
        right += max(expected, key=expected.get) == question.answer
    scores = evaluate.score_file(run / "eval" / "heldout" / "t.jsonl")
    assert scores.overall.accuracy == right / len(questions) and scores.well_formed is None


class Mortal(BaseHTTPRequestHandler):
    """A chat server that answers B, its reasoning apart, a limited number of times; then it only refuses."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            alive = len(self.server.asked) < self.server.life
            if alive:
                self.server.asked.append(body)
        message = {"content": "<answer>B</answer>", "reasoning_content": "so"}
        answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 9}}
        self.send_response(200 if alive else 503)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mortal)
    server.asked, server.life, server.lock = [], 10**6, threading.Lock()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("TEACHER_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_that_dies_half_way_is_gone_on_with(run, server, questions, capsys):
    server.life = 9
    flags = ("--run", run, "--model", "served=openai:m", "--prompt", "explicit", "--teacher-concurrency", "2", *QUICK)
    with pytest.raises(UserError, match=r"--teacher-max-calls 4 \(4 calls"):
        call_main(evaluate, *flags, "--teacher-max-calls", "4")
    with pytest.raises(UserError, match="what it answered is kept"):
        call_main(evaluate, *flags, "--teacher-tries", "2")
    server.life = 10**6
    call_main(evaluate, *flags)
    assert len(server.asked) == len(questions)  # nothing was asked twice
    rows = list(read_jsonl(run / "eval" / "heldout" / "served.jsonl"))
    assert [row["id"] for row in rows] == [question.id for question in questions]
    scores = evaluate.score_file(run / "eval" / "heldout" / "served.jsonl")
    assert scores.overall.accuracy == sum(q.answer == "B" for q in questions) / len(questions)
    assert (scores.well_formed, scores.truncated, scores.length) == (1, 0, 9)
    assert {"explicit", "openai:m"} <= set(cells_of(capsys.readouterr().out, "| heldout", "openai:m"))
    assert server.asked[0]["messages"][0]["role"] == "user" and server.asked[0]["max_tokens"] == 8


def test_samples_of_a_server_have_their_own_seeds(run, server, questions):
    flags = ("--samples", "2", "--temperature", "1", *QUICK)
    call_main(evaluate, "--run", run, "--model", "served=openai:m", *flags)
    assert len({body["seed"] for body in server.asked}) == len(server.asked) == 2 * len(questions)


@pytest.mark.skipif("CHAT_MODEL" not in os.environ, reason="no CHAT_MODEL is served at TEACHER_BASE_URL")
def test_a_server_answers_as_the_sampler_does(tmp_path, questions):
    """CHAT_MODEL: a folder that a server at TEACHER_BASE_URL serves under this name; CHAT_QUESTIONS: question records.

    `transformers serve` with the tiny recipe's model gives the very same responses in float32; bfloat16 rounds.
    """
    model, file = os.environ["CHAT_MODEL"], os.environ.get("CHAT_QUESTIONS")
    asked = list(read_jsonl(file))[:100] if file else [question.to_json() for question in questions]
    write_jsonl(tmp_path / "heldout.jsonl", asked)
    models = ("--model", f"local={model}", f"served=openai:{model}")
    call_main(evaluate, "--run", tmp_path, *models, "--max-new-tokens", "80", "--transcripts", "0")
    local, served = (
        evaluate.score_file(tmp_path / "eval" / "heldout" / f"{name}.jsonl") for name in ("local", "served")
    )
    assert sum(served.correct[id] == share for id, share in local.correct.items()) >= 0.95 * len(asked)
    assert served.well_formed == pytest.approx(local.well_formed, abs=0.05)
    assert served.truncated == pytest.approx(local.truncated, abs=0.05)
    assert served.length == pytest.approx(local.length, rel=0.05)


def test_the_part_of_a_response_that_the_template_writes_is_scored(run, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3") / "model"
    shutil.copytree(tiny, folder)
    template = (folder / "chat_template.jinja").read_text()
    end = "{% if add_generation_prompt and enable_thinking is defined %}<think>\n\n</think>\n\n{% endif %}"
    (folder / "chat_template.jinja").write_text(template + end)
    for label, flags, opening in (("on", (), ""), ("off", ("--no-thinking",), "<think>\n\n</think>\n\n")):
        call_main(evaluate, "--run", run, "--model", f"{label}={folder}", *QUICK, *flags)
        rows = list(read_jsonl(run / "eval" / "heldout" / f"{label}.jsonl"))
        assert rows and all(row["response"].startswith(opening) for row in rows)
        assert any("<think>" in row["response"] for row in rows) == (label == "off")


@pytest.mark.parametrize(("score", "count"), [("answer", 21), ("loglikelihood", 1)])
def test_two_processes_share_the_items(run, tiny, questions, score, count):
    """Of a single item, one of them has nothing to do."""
    write_jsonl(run / "heldout.jsonl", [question.to_json() for question in questions[:count]])
    flags = ("--run", run, "--score", score, *QUICK, "--model")
    shared = python("-m", "torch.distributed.run", "--nproc_per_node", "2", "--", PROJECT / "evaluate.py", *flags,
                    f"two={tiny}", timeout=100)  # fmt: skip
    assert shared.returncode == 0, shared.stderr
    call_main(evaluate, *flags, f"one={tiny}")
    two, one = (
        {row["id"]: row.get("response") or row["logprobs"] for row in read_jsonl(run / "eval" / "heldout" / name)}
        for name in ("two.jsonl", "one.jsonl")
    )
    assert two == (one if score == "answer" else {id: pytest.approx(letters, abs=1e-4) for id, letters in one.items()})
    assert len(two) == count


def test_sampled_questions_have_their_own_randomness(tmp_path, tiny, questions):
    twins = [questions[0].to_json() | {"id": name} for name in ("one", "two")]
    write_jsonl(tmp_path / "heldout.jsonl", twins)
    flags = ("--temperature", "1", "--top-p", "1", "--max-new-tokens", "12", "--transcripts", "0")
    call_main(evaluate, "--run", tmp_path, "--model", f"t={tiny}", *flags)
    first, second = (row["response"] for row in read_jsonl(tmp_path / "eval" / "heldout" / "t.jsonl"))
    assert first != second

"""The evaluation: every item counts once, scores can be redone from the files, tables say what the files say."""

import json
import os
import re
import shlex
import shutil
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

import pytest
import stages
import torch
from conftest import call_main, metrics_of, python
from test_results import cells_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import evaluate
import report
from clean.formats import BENCHMARKS
from question import LETTERS, Question, order_of
from results import Score, result_row, score_file
from reward import format_response, prompt_messages, prompt_tokens
from tables import paper_rows
from tools.cli import UserError
from tools.run import RunDir, append_jsonl, read_jsonl, write_jsonl

QUICK = ("--max-new-tokens", "8")


@pytest.fixture
def run(tmp_path, questions):
    write_jsonl(tmp_path / "heldout.jsonl", [question.to_json() for question in questions])
    return tmp_path


def test_every_question_is_answered_once_and_a_cut_file_is_continued(run, tiny, questions, capsys):
    call_main(evaluate, "--run", run, "--model", f"tiny={tiny}", "--max-new-tokens", "8")
    shown = capsys.readouterr().err
    assert "heldout: tiny: 100%" in shown and f" {len(questions)}/{len(questions)} " in shown
    out = run / "eval" / "heldout" / "tiny.jsonl"
    whole = list(read_jsonl(out))
    assert [row["id"] for row in whole] == [question.id for question in questions]
    text = out.read_text()
    out.write_text(text[: len(text) * 2 // 3])  # as a crash in the middle of a line leaves it
    call_main(evaluate, "--run", run, "--model", f"tiny={tiny}", "--max-new-tokens", "8")
    assert sorted(map(json.dumps, read_jsonl(out))) == sorted(map(json.dumps, whole))


def test_native_benchmark_file(shared_data, tmp_path, tiny, capsys):
    flags = ("--run", tmp_path, "--model", f"t={tiny}", "--max-new-tokens", "4", "--benchmark")
    native = shared_data / "native" / "medmcqa_raw.jsonl"
    call_main(evaluate, *flags, f"medmcqa={native}")
    rows = list(read_jsonl(tmp_path / "eval" / "medmcqa" / "t.jsonl"))
    printed = capsys.readouterr().out
    assert (
        "Warning: t, medmcqa: 100.0% of the responses were cut and count as wrong; raise --max-new-tokens (4)"
        in printed
    )
    assert f"Warning: medmcqa has {len(rows)} questions here, 4183 in the paper" in printed
    assert {"Surgery", "Pathology"} & {row["kind"] for row in rows}
    assert len(rows) == sum(1 for _ in open(native)) and all(row["truth"] in "ABCD" for row in rows)
    with pytest.raises(UserError, match="exceeds the context"):
        call_main(evaluate, *flags, f"mmlu_pro_health={shared_data / 'native' / 'mmlu_pro_health.jsonl'}")


@pytest.mark.parametrize("name, n, cut, warned", [
    ("mmlu_pro_biology", 717, 7, []), ("mmlu_pro_biology", 716, 8, ["1.1% of the responses", "717 in the paper"]),
    ("heldout", 100, 1, []), ("heldout", 99, 1, ["were cut"]),
])  # fmt: skip
def test_what_cannot_be_compared_with_the_paper_is_warned_of(tmp_path, name, n, cut, warned):
    row = {"truth": "A", "tier": None, "kind": None, "response": "<answer>B</answer>", "tokens": 3}
    write_jsonl(tmp_path / "m.jsonl", [row | {"id": str(number), "truncated": number < cut} for number in range(n)])
    warnings = evaluate.warnings_of({"m": {name: score_file(tmp_path / "m.jsonl")}})
    assert len(warnings) == len(warned) and all(part in text for part, text in zip(warned, warnings))


@pytest.mark.parametrize("outcome, mute", [
    ([{"response": "It is B."}] * 9, True), ([{"response": "<answer>B</answer>", "truncated": True}] * 9, True),
    ([{"response": "It is B."}] * 8 + [{"response": "<answer>B</answer>"}], False),
    ([{"logprobs": {"A": -1.0, "B": -2.0}}], False),
])  # fmt: skip
def test_a_model_that_never_answers_is_told_of(tmp_path, outcome, mute):
    rows = [
        {"id": str(number), "truth": "A", "tier": None, "kind": None, "tokens": 3, "truncated": False} | row
        for number, row in enumerate(outcome)
    ]
    write_jsonl(tmp_path / "m.jsonl", rows)
    told = [
        line
        for line in evaluate.warnings_of({"m": {"heldout": score_file(tmp_path / "m.jsonl")}})
        if "cut and" not in line
    ]
    assert len(told) == mute
    if mute:
        (line,) = told
        assert line.startswith("m, heldout: no response held an answer") and "\n" not in line
        remedies = ("--max-new-tokens", "--prompt explicit", "--score loglikelihood", "chat template")
        assert all(remedy in line for remedy in remedies)


def test_every_row_of_table_3_has_a_command(monkeypatch):
    """Those of docs/baselines.md, as a shell would read them."""
    page = (Path(__file__).parents[1] / "docs" / "baselines.md").read_text(encoding="utf-8")
    given = dict(re.findall(r'^(\w+)="(.*?)"', page, re.MULTILINE))
    given = {name: Template(flags).substitute(given) for name, flags in given.items()}
    models = []
    for flags in re.findall(r"evaluate\.py (\$.*)", page):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *shlex.split(Template(flags).substitute(given))])
        args = evaluate.parse_args()
        assert args.benchmark == list(BENCHMARKS) and args.prompt == "explicit" and args.run == "runs/table3"
        models += [model.partition("=")[0] for model in args.model]
    assert sorted(models) == sorted(row["model"] for row in paper_rows() if row["table"] == "Table 3")


def test_a_benchmark_is_grouped_by_the_tiers_it_was_given(run, questions):
    write_jsonl(run / "given.jsonl", [replace(question, tier=None).to_json() for question in questions])
    file = run / "tiers" / "given.jsonl"
    file.parent.mkdir()
    write_jsonl(file, [{"id": questions[0].id, "tier": "difficult"}])
    _, graded = evaluate.load_benchmark(str(run / "given.jsonl"), RunDir(run))
    assert [question.tier for question in graded] == ["difficult"] + [None] * (len(questions) - 1)
    for row in ({"id": "another", "tier": "easy"}, {"id": questions[0].id, "tier": "hard"}):
        write_jsonl(file, [row])
        with pytest.raises(UserError, match="does not fit the benchmark; delete it"):
            evaluate.load_benchmark(str(run / "given.jsonl"), RunDir(run))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--benchmark", "medqua"), "known: heldout, heldout_public, careqa"),
        (("--model", "x=./no/such/folder"), "no/such/folder does not exist"),
        (("--benchmark", "../../x=data/base/config.json"), "'../../x' is no name"),
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
        (
            ("--benchmark", "medqua=pyproject.toml"),
            "pyproject.toml, line 1: .* of their own: heldout, heldout_public, careqa",
        ),
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


def test_two_to_26_options_and_chinese(tmp_path, tiny):
    two = Question("two", "t", "zh", "发热、咳嗽、盗汗，最可能的诊断是？", {"A": "肠炎", "B": "肺结核"}, "B")
    many = Question("26", "t", "zh", "是哪一项？", {letter: f"选项{n}" for n, letter in enumerate(LETTERS)}, "Z")
    write_jsonl(tmp_path / "heldout.jsonl", [two.to_json(), many.to_json()])
    call_main(evaluate, "--run", tmp_path, "--model", f"t={tiny}", "--score", "loglikelihood")
    path = tmp_path / "eval" / "heldout" / "t.jsonl"
    assert [list(row["logprobs"]) for row in read_jsonl(path)] == [list("AB"), list(LETTERS)]
    responses = [format_response("低热，盗汗。", "B"), format_response("逐项排除。", "Z")]
    write_jsonl(path, [result_row(question, response=text) for question, text in zip((two, many), responses)])
    assert score_file(path).overall == Score(1.0, 2)


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
    (run / "eval" / "heldout" / "t.json").unlink()
    with pytest.raises(UserError, match="without its note t.json of how it was made; delete it"):
        call_main(evaluate, *flags)
    (run / "eval" / "heldout" / "t.jsonl").unlink()
    call_main(evaluate, *flags)


def test_scores_are_made_again_without_the_model(run, tiny, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("gone") / "model"
    shutil.copytree(tiny, folder)
    flags = ("--run", run, "--model", f"t={folder}", "--max-new-tokens", "8")
    call_main(evaluate, *flags)
    call_main(report, "--run", run)
    first = capsys.readouterr().out
    logged = metrics_of(run, "evaluate")
    shutil.rmtree(folder)
    call_main(evaluate, *flags)
    call_main(report, "--run", run)
    assert capsys.readouterr().out == first and "Model hash" in first
    assert metrics_of(run, "evaluate") == logged and [row["step"] for row in logged] == [21]
    notes = json.loads((run / "eval" / "heldout" / "t.json").read_text())
    assert notes["settings"]["model_hash"] == evaluate.model_hash(tiny) and notes["scores"]["n"] == 21
    accuracy, n, low, high = logged[0]["subsets"]["easy"]
    assert n == 7 and (low, high) == pytest.approx(Score(accuracy, n).interval())


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
    call_main(report, "--run", run)
    assert cells_of(capsys.readouterr().out, "Pass@k")[2:6] == ["n", "k", "Pass@k", "Majority"]


def test_letters_are_scored_by_their_log_likelihood(run, tiny, questions):
    """Against one plain forward pass for each letter."""
    call_main(evaluate, "--run", run, "--model", f"t={tiny}", "--score", "loglikelihood")
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
    scores = score_file(run / "eval" / "heldout" / "t.jsonl")
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
    scores = score_file(run / "eval" / "heldout" / "served.jsonl")
    assert scores.overall.accuracy == sum(q.answer == "B" for q in questions) / len(questions)
    assert (scores.well_formed, scores.truncated, scores.length) == (1, 0, 9)
    call_main(report, "--run", run)
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
    call_main(evaluate, "--run", tmp_path, *models, "--max-new-tokens", "80")
    local, served = (score_file(tmp_path / "eval" / "heldout" / f"{name}.jsonl") for name in ("local", "served"))
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
def test_two_processes_share_the_items(run, tiny, questions, score, count, tmp_path_factory):
    """Of a single item, one of them has nothing to do."""
    write_jsonl(run / "heldout.jsonl", [question.to_json() for question in questions[:count]])
    flags = ("--run", run, "--score", score, *QUICK, "--model")
    assert stages.run_on_two(["evaluate.py", *flags, f"two={tiny}"], tmp_path_factory.mktemp("two")) == [0, 0]
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
    flags = ("--temperature", "1", "--top-p", "1", "--max-new-tokens", "12")
    call_main(evaluate, "--run", tmp_path, "--model", f"t={tiny}", *flags)
    first, second = (row["response"] for row in read_jsonl(tmp_path / "eval" / "heldout" / "t.jsonl"))
    assert first != second


def test_options_in_other_orders(run, tiny, questions):
    """Each question in different orders, its right option moved along; scored as one question; nothing mixes."""
    stuck = replace(questions[0], id="stuck", options={**questions[0].options, "D": "none of the above"})
    write_jsonl(run / "heldout.jsonl", [question.to_json() for question in [*questions, stuck]])
    flags = ("--run", run, "--model", f"t={tiny}", *QUICK, "--shuffle-options")
    call_main(evaluate, *flags, "3")
    out = run / "eval" / "heldout" / "t.jsonl"
    rows = list(read_jsonl(out))
    assert len(rows) == 3 * len(questions) + 1 and len({row["id"] for row in rows}) == len(rows)
    by_id = {question.id: question for question in questions}
    for row in rows[:-1]:
        id, order = order_of(row["id"])
        assert order[LETTERS.index(row["truth"])] == by_id[id].answer
    assert rows[-1]["id"] == "stuck"
    assert score_file(out).overall.n == 22 and score_file(out).samples == 3
    with pytest.raises(UserError, match="made with another shuffle_options"):
        call_main(evaluate, *flags, "2")
    with pytest.raises(UserError, match="made with another questions_hash"):
        call_main(evaluate, *flags, "0")
    assert len(evaluate.in_other_orders(questions, 100, 0)) == 24 * len(questions)
    assert evaluate.in_other_orders(questions, 3, 0) != evaluate.in_other_orders(questions, 3, 1)

"""Teachers against a server that misbehaves; distillation that verifies, refines and survives kill -9."""

import itertools
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import stages
from conftest import call_main, python
from hypothesis import given
from hypothesis import strategies as st
from test_fidelity import MARFAN, REASONED, write_graph

import distill
import graph
import reward
from question import LETTERS, Question, load_questions
from rollout import LiveRows
from teacher import (
    FACT_SENTENCES,
    Answer,
    EvidenceTeacher,
    OpenAITeacher,
    Request,
    Teacher,
    evidence_sentences,
    fact_sentence,
    make_teacher,
    read_completion,
)
from tools import cost
from tools.cli import UserError, run_stage
from tools.run import Journal, RunDir, read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-very-secret"


def make_question(number=0, tier="easy", evidence=None):
    options = {"A": "Aspirin", "B": "Isoniazid", "C": "Insulin", "D": "Heparin"}
    path = [["Tuberculosis", "treated_by", "Isoniazid", 1, "It is treated with isoniazid."]]
    path = path if evidence is None else evidence
    return Question(f"synth/{number}", "synth", "en", f"Question {number}?", options, "B", tier, "disease>drug", path)


def ask_for(number=0, seed=0):
    question = make_question(number)
    return Request(reward.prompt_messages(question), question.id, "reason", seed=seed)


# ---------------------------------------------------------------------------------------------- the evidence in words


def test_every_relation_has_a_sentence_with_the_titles_as_given():
    assert fact_sentence("Tuberculosis", "treated_by", "Isoniazid") == "Tuberculosis is treated with Isoniazid."
    for relation in FACT_SENTENCES:
        sentence = fact_sentence("COVID-19 {x}", relation, "beta Blocker")
        assert "COVID-19 {x}" in sentence and "beta Blocker" in sentence and sentence.endswith(".")
    with pytest.raises(ValueError, match="cures"):
        fact_sentence("a", "cures", "b")


def test_the_evidence_teacher_words_a_presentation():
    rows = [["Tuberculosis", "symptom", name, 1, "..."] for name in ("Fever", "Cough", "Night sweats")]
    rows += [["Tuberculosis", "treated_by", "Isoniazid", 1, "..."]]
    (text,) = EvidenceTeacher().ask([Request([], "synth/0", "reason", question=make_question(evidence=rows))])
    assert text == (
        "<think> Fever, Cough and Night sweats are symptoms of Tuberculosis. Tuberculosis is treated with Isoniazid. "
        "Isoniazid is (B). </think><answer>B</answer>"
    )
    assert evidence_sentences(rows[:1]) == ["Fever is a symptom of Tuberculosis."]


def test_the_evidence_teacher_refuses_what_has_no_path():
    question = make_question(evidence=[])
    assert not EvidenceTeacher().can_reason_about(question)
    with pytest.raises(UserError, match="synth/0"):
        EvidenceTeacher().ask([Request([], question.id, "reason", question=question)])


# -------------------------------------------------------------------------------------------- a server that misbehaves


class Server(ThreadingHTTPServer):
    """Answers chats by `script`: question text -> list of behaviours, used up one by one; then it behaves."""

    daemon_threads = True

    def __init__(self, script=None, delay=0.0, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.delay = script or {}, delay
        self.hits, self.times, self.headers_seen, self.lock = Counter(), [], [], threading.Lock()
        self.closing, self.together = threading.Event(), threading.Barrier(8)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that was killed is no news here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Quiet."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.server.lock:
            number = int(text.split("Question ")[1].split("?")[0])
            blind = "its conclusion was taken out" in body["messages"][0]["content"]
            self.server.hits[number] += 1
            self.server.times.append(time.monotonic())
            self.server.headers_seen.append(dict(self.headers))
            behaviours = self.server.script.get(number, [])
            behaviour = behaviours.pop(0) if behaviours else "good"
        time.sleep(self.server.delay)
        # It writes B, the true letter; a blind reader finds the option by its text; other readers find all well.
        letter = next(line[0] for line in text.splitlines() if line.endswith(". Isoniazid")) if blind else "B"
        letter = "A" if text.startswith("<question>") and "<reasoning>" in text and not blind else letter
        answer = f"<think>Reasoning about {number}.</think><answer>{letter}</answer>"
        good = json.dumps({"choices": [{"message": {"content": answer}}], "usage": {"total_tokens": 7}}).encode()
        if isinstance(behaviour, tuple):
            self.reply(*behaviour)
        elif behaviour == "cut":
            self.reply(200, good[:20], length=len(good))
            self.connection.close()
        elif behaviour == "drop":
            self.close_connection = True
        elif behaviour == "slow":
            self.server.closing.wait(60)
            self.close_connection = True
        elif behaviour == "all at once":
            self.server.together.wait(60)
            self.reply(200, good)
        else:
            self.reply(200, good)

    def reply(self, status, body, headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = True


@pytest.fixture
def serve(monkeypatch):
    servers = []

    def start(script=None, delay=0.0, port=0):
        servers.append(Server(script, delay, port))
        monkeypatch.setenv("TEACHER_BASE_URL", servers[-1].url)
        monkeypatch.setenv("TEACHER_API_KEY", KEY)
        return servers[-1]

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


def openai(tmp_path, **options):
    return OpenAITeacher("model", tmp_path / "cache.jsonl", **{"backoff": 0.01, "timeout": 30.0, "tries": 3} | options)


BEHAVIOURS = {
    "server error": (500, b"oops"),
    "overloaded": (503, b"", {"Retry-After": "0"}),
    "a date to retry after": (429, b"", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "malformed Retry-After": (429, b"", {"Retry-After": "soon"}),
    "invalid JSON": (200, b"<html>"),
    "no choices": (200, b'{"choices": []}'),
    "no content": (200, b'{"choices": [{"message": {"content": null}}]}'),
    "another shape": (200, b"[1, 2]"),
    "an error with status 200": (200, b'{"error": {"message": "overloaded"}}'),
    "JSON without end": (200, b"[" * 100_000),
    "nonsense for usage": (200, b'{"choices": [], "usage": {"total_tokens": "many"}}'),
    "cut connection": "cut",
    "dropped connection": "drop",
    "slow": "slow",
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_passing_trouble_is_retried(behaviour, serve, tmp_path):
    server = serve({1: [behaviour, behaviour]})
    teacher = openai(tmp_path, timeout=1.5 if behaviour == "slow" else 30.0)
    texts = teacher.ask([ask_for(0), ask_for(1), ask_for(2)])
    assert [f"about {number}." in text for number, text in enumerate(texts)] == [True] * 3
    assert server.hits == {0: 1, 1: 3, 2: 1}


def test_retry_after_is_honoured(serve, tmp_path):
    server = serve({0: [(429, b"", {"Retry-After": "1"})]})
    openai(tmp_path).ask([ask_for(0)])
    assert 0.95 < server.times[1] - server.times[0] < 3.0


def test_lasting_trouble_stops_with_one_clear_error_and_keeps_what_was_answered(serve, tmp_path):
    server = serve({3: [(500, f"out of memory {KEY}".encode())] * 3})
    requests = [ask_for(number) for number in range(4)]
    with pytest.raises(UserError, match=r"failed 3 times \(HTTP 500 out of memory \*\*\*\)"):
        openai(tmp_path, concurrency=1).ask(requests)
    assert all(openai(tmp_path, concurrency=1).ask(requests))
    assert server.hits == {0: 1, 1: 1, 2: 1, 3: 4}


def test_a_request_that_only_ever_gets_empty_answers_is_empty_and_not_cached(serve, tmp_path):
    serve({0: [(200, b'{"choices": []}')] * 3})
    assert openai(tmp_path).ask([ask_for(0)]) == [""]
    assert openai(tmp_path).ask([ask_for(0)]) != [""]


def test_a_refusal_is_told_at_once_without_the_key(serve, tmp_path, capsys):
    server = serve({0: [(401, f"bad key {KEY}".encode())]})
    with pytest.raises(UserError, match=r"HTTP 401 bad key \*\*\*"):
        openai(tmp_path).ask([ask_for(0)])
    assert server.hits[0] == 1 and server.headers_seen[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "reply",
    [
        (401, b"x" * 195 + KEY.encode()),
        (401, b" " * 99_995 + KEY.encode()),  # white space is taken out of the excerpt
        (401, json.dumps({"error": KEY.upper()}).encode()),
        (401, "".join(f"\\u{ord(letter):04x}" for letter in KEY).encode()),
        (302, b"", {"Location": f"http://{KEY}.example/"}),
    ],
)
def test_a_key_is_masked_wherever_it_stands(serve, tmp_path, reply):
    """Before the excerpt is cut, whatever its case, in JSON's escapes, in another server's name."""
    serve({0: [reply]})
    with pytest.raises(UserError) as refused:
        openai(tmp_path).ask([ask_for(0)])
    assert KEY[:4] not in str(refused.value).lower()


def test_a_key_that_is_a_word_changes_no_answer(serve, tmp_path, monkeypatch):
    serve()
    monkeypatch.setenv("TEACHER_API_KEY", "about")
    assert "about 0" in openai(tmp_path).ask([ask_for(0)])[0]


def test_what_a_server_counts_wrongly_leaves_a_cache_that_can_be_read(serve, tmp_path):
    for number, tokens in enumerate((True, 2**62, 10**30, -1, 1.5)):
        usage = {"total_tokens": tokens, "completion_tokens": tokens}
        body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
        serve({number: [(200, json.dumps(body).encode())]})
        openai(tmp_path).ask([ask_for(number)])
    assert len(openai(tmp_path).cache.rows) == 5


@pytest.mark.parametrize("price, paid", [("", None), ("0.5/1.5", 1.0), ("3/0", 3.0), ("0/0", 0.0)])
def test_what_answers_cost_is_told(serve, tmp_path, monkeypatch, capsys, price, paid):
    """A million tokens are read and a third of one written, half of them for an answer that is asked for again."""
    usage = {"total_tokens": 666_667, "completion_tokens": 166_667}
    bodies = [{"choices": [{"message": {"content": text}}], "usage": usage} for text in ("", "x")]
    serve({0: [(200, json.dumps(body).encode()) for body in bodies]})
    monkeypatch.setenv("TEACHER_PRICE", price)
    monkeypatch.setattr(cost, "COUNTED", Counter())
    monkeypatch.setattr(sys, "argv", ["distill.py"])
    run_stage(lambda: openai(tmp_path).ask([ask_for(0)]))
    run_stage(lambda: openai(tmp_path).ask([ask_for(0)]))  # from the cache
    told = capsys.readouterr().out
    if paid is None:
        assert told == "" and cost.COUNTED.total() == 2 * usage["total_tokens"]
    else:
        read, told_paid = (
            "1,000,000 tokens read by the teacher, 333,334 tokens written by it",
            f"{paid:,.4f} {cost.PAID}",
        )
        assert f"{read}, {told_paid}" in told


@pytest.mark.parametrize("price", ["0.5", "0.5/1.5/2", "a/b", "-1/2", "nan/1", "1/inf", "/", "0,5/1,5"])
def test_a_price_that_is_none_is_refused_before_anything_is_asked(serve, tmp_path, monkeypatch, price):
    server = serve()
    monkeypatch.setenv("TEACHER_PRICE", price)
    with pytest.raises(UserError, match=rf"TEACHER_PRICE {re.escape(repr(price))} is no price; write .*0.5/1.5"):
        openai(tmp_path)
    assert not server.hits


STOPPED = {"finish_reason": "stop"}
COMPLETIONS = [  # a choice, its text, its text for the response contract, whether it was cut
    ({"message": {"content": " x "}, **STOPPED}, "x", "x", False),
    ({"message": {"content": "x", "reasoning_content": "r"}, **STOPPED}, "x", "<think>r</think>x", False),
    ({"message": {"content": "x", "reasoning": "r"}}, "x", "<think>r</think>x", None),
    (
        {"message": {"content": "<think>t</think>x", "reasoning": "hidden"}},
        "<think>t</think>x",
        "<think>t</think>x",
        None,
    ),
    ({"message": {"content": None, "reasoning": "r"}, "finish_reason": "length"}, "", "<think>r", True),
    ({"message": {"content": ["x"], "reasoning": 3}, "finish_reason": 3}, "", "", None),
    ({"message": {"content": "x", "reasoning": None}}, "x", "x", None),
    ("x", "", "", None),
]


@pytest.mark.parametrize(("choice", "plain", "contract", "truncated"), COMPLETIONS)
def test_what_a_completion_says(choice, plain, contract, truncated):
    """Reasoning that the server hands over apart belongs to the response contract, and to nothing else."""
    body = {"choices": [choice], "usage": {"total_tokens": 9, "completion_tokens": 4}}
    assert read_completion(body, ask_for()) == Answer(plain, 9, 4, truncated)
    assert read_completion(body, replace(ask_for(), contract=True)) == Answer(contract, 9, 4, truncated)


def test_an_answer_that_was_cut_before_its_first_word_is_not_asked_for_again(serve, tmp_path):
    server = serve({0: [(200, b'{"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}')]})
    for _ in range(2):
        assert openai(tmp_path).answers([ask_for(0)])[0].truncated
    assert server.hits[0] == 1


def test_answers_are_cached_by_their_whole_request(serve, tmp_path):
    server = serve()
    teacher = openai(tmp_path)
    assert teacher.ask([ask_for(0), ask_for(0)])[0] == teacher.ask([ask_for(0)])[0]
    assert server.hits[0] == 1 and teacher.calls == 1 and teacher.tokens == 7
    with open(tmp_path / "cache.jsonl", "a") as file:
        file.write('{"key": "half a li')  # a crash while writing
    again = openai(tmp_path)
    again.ask([ask_for(0), ask_for(0, seed=1)])
    assert server.hits[0] == 2 and len(list(read_jsonl(tmp_path / "cache.jsonl"))) == 2
    assert KEY not in (tmp_path / "cache.jsonl").read_text()


def test_an_error_with_status_200_is_no_answer(serve, tmp_path):
    serve({0: [(200, b'{"error": "no such model"}')] * 3})
    with pytest.raises(UserError, match=r"failed 3 times \(an error instead of an answer: .*no such model"):
        openai(tmp_path).ask([ask_for(0)])


def test_a_cap_on_calls_holds_over_commands_and_can_be_raised(serve, tmp_path):
    server = serve({1: [(500, b"")]})
    requests = [ask_for(number) for number in range(4)]
    with pytest.raises(UserError, match=r"--teacher-max-calls 3 \(3 calls, 14 tokens\); .* raise the cap"):
        openai(tmp_path, concurrency=1, max_calls=3).ask(requests)
    assert server.hits == {0: 1, 1: 2}  # a call that failed is a call
    again = openai(tmp_path, concurrency=1, max_calls=2)  # two answers are there
    assert len(again.ask(requests[:2])) == 2
    with pytest.raises(UserError, match="--teacher-max-calls 2"):
        again.ask(requests)
    assert sum(server.hits.values()) == 3
    assert all(openai(tmp_path, max_calls=4).ask(requests)) and server.hits == {0: 1, 1: 2, 2: 1, 3: 1}


def test_a_cap_on_calls_is_never_exceeded_by_concurrent_requests(serve, tmp_path):
    server = serve(delay=0.02)
    with pytest.raises(UserError, match="--teacher-max-calls 5"):
        openai(tmp_path, concurrency=8, max_calls=5).ask([ask_for(number) for number in range(20)])
    assert sum(server.hits.values()) <= 5


def test_a_cap_on_tokens_holds_over_commands(serve, tmp_path):
    server = serve()
    requests = [ask_for(number) for number in range(4)]
    for _ in range(2):
        with pytest.raises(UserError, match=r"--teacher-max-tokens 10 \(2 calls, 14 tokens\)"):
            openai(tmp_path, concurrency=1, max_tokens=10).ask(requests)
    assert sum(server.hits.values()) == 2
    assert all(openai(tmp_path, max_tokens=1000).ask(requests))


def test_tokens_are_estimated_where_the_server_tells_none(serve, tmp_path):
    serve({0: [(200, json.dumps({"choices": [{"message": {"content": "x" * 400}}]}).encode())]})
    teacher = openai(tmp_path)
    teacher.ask([ask_for(0)])
    asked = sum(len(message["content"]) for message in ask_for(0).messages)
    assert teacher.tokens == (asked + 400) // 4


def test_a_question_with_broken_characters_can_be_asked(serve, tmp_path):
    serve()
    question = make_question()
    question.question += " \ud800"
    request = Request(reward.prompt_messages(question), question.id, "reason")
    assert openai(tmp_path).ask([request]) == openai(tmp_path).ask([request]) != [""]


def test_requests_run_concurrently(serve, tmp_path):
    """None of eight is answered before all are asked."""
    serve({number: ["all at once"] for number in range(8)})
    assert all(openai(tmp_path, concurrency=8).ask([ask_for(number) for number in range(8)]))


def test_names_and_environment_are_checked(tmp_path, monkeypatch):
    monkeypatch.delenv("TEACHER_BASE_URL", raising=False)
    for name, message in [
        ("openai:model", "TEACHER_BASE_URL"),
        ("oracle", "choose evidence"),
        ("local:/no/such/folder", "does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            make_teacher(name, tmp_path / "cache.jsonl")
    monkeypatch.setenv("TEACHER_BASE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("TEACHER_API_KEY", "two\nlines")
    with pytest.raises(UserError, match="TEACHER_API_KEY"):
        make_teacher("openai:model", tmp_path / "cache.jsonl")
    assert isinstance(make_teacher("evidence", tmp_path / "cache.jsonl"), EvidenceTeacher)


def test_a_local_model_answers_each_request_by_its_own_settings(tiny, tmp_path):
    teacher = make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl")
    chat = reward.prompt_messages(make_question())
    requests = [Request(chat, "synth/0", "verify", 1.0, 6, seed) for seed in range(3)]
    requests.insert(1, Request(chat, "synth/0", "grade", 0.0, 3))
    answers = teacher.ask(requests)
    assert len(set(answers)) > 1 and teacher.calls == 4 and teacher.tokens > 4 * 6
    fresh = make_teacher(f"local:{tiny}", tmp_path / "another.jsonl")
    assert fresh.ask([requests[1], requests[0]]) == [answers[1], answers[0]]
    with pytest.raises(UserError, match="exceed the model's context"):
        teacher.ask([Request(chat, "synth/0", "verify", 1.0, 100_000)])


def test_the_reasoning_that_a_template_opens_belongs_to_a_local_models_answer(tiny, tmp_path):
    teacher = make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl")
    teacher.tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    request = replace(ask_for(), max_tokens=6)
    plain, contract = (teacher.ask([replace(request, contract=flag)])[0] for flag in (False, True))
    assert contract.removeprefix("<think>").strip() == plain and "<think>" not in plain


def test_a_local_model_is_asked_once_and_within_its_cap(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("teacher.LOCAL_BATCH", 2)
    chat = reward.prompt_messages(make_question())
    requests = [Request(chat, "synth/0", "verify", 1.0, 6, seed) for seed in range(5)]
    with pytest.raises(UserError, match="--teacher-max-calls 3"):
        make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl", max_calls=3).ask(requests)
    kept = [row["text"] for row in read_jsonl(tmp_path / "cache.jsonl")]
    teacher = make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl")
    answers = teacher.ask(requests)
    assert len(kept) == 3 and answers[:3] == kept and teacher.calls == 2
    assert teacher.ask(requests) == answers and teacher.calls == 2


def test_a_local_model_that_is_stopped_has_kept_what_it_had_answered(tiny, tmp_path, monkeypatch):
    """Two rows at a time, six tokens each: stopped at step 8, the first two are there and the next two are not."""
    chat = reward.prompt_messages(make_question())
    requests = [Request(chat, "synth/0", "verify", 1.0, 6, seed) for seed in range(5)]
    teacher, steps, step = make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl"), itertools.count(1), LiveRows.decode
    teacher.stop_ids = []
    monkeypatch.setattr(teacher.sampler, "capacity", lambda *sizes: (2, 2))

    def stop(rows):
        if next(steps) == 8:
            raise KeyboardInterrupt
        return step(rows)

    monkeypatch.setattr(LiveRows, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        teacher.ask(requests)
    kept = [row["text"] for row in read_jsonl(tmp_path / "cache.jsonl")]
    monkeypatch.undo()
    again = make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl")
    again.stop_ids = []
    assert len(kept) == 2 and again.ask(requests)[:2] == kept and again.calls == 3


def test_a_local_model_without_a_chat_template_is_refused(tiny, tmp_path):
    teacher = make_teacher(f"local:{tiny}", tmp_path / "cache.jsonl")
    teacher.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        teacher.ask([ask_for()])


def test_a_real_server_that_no_one_here_wrote(tmp_path, monkeypatch):
    """`transformers serve`; skipped where pip install 'transformers[serving]' was not done (it takes half a minute)."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "home" / "hub").mkdir(parents=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    model, where = str(ROOT / "data" / "base"), ["--host", "127.0.0.1", "--port", str(port)]
    cli = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", model]
    log = open(tmp_path / "log", "w")
    server = subprocess.Popen([*cli, "--device", "cpu", *where], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok:
                    break
            except requests.ConnectionError:
                pass
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        monkeypatch.setenv("TEACHER_BASE_URL", f"http://127.0.0.1:{port}/v1")
        asked = [replace(ask_for(number), max_tokens=8) for number in range(3)]
        teacher = OpenAITeacher(model, tmp_path / "cache.jsonl", tries=2, timeout=60)
        answers = teacher.ask(asked)
        assert all(answers) and teacher.calls == 3 and teacher.tokens > 3 * 8
        again = OpenAITeacher(model, tmp_path / "cache.jsonl", max_calls=3)
        assert again.ask(asked) == answers and again.calls == 0
        stranger = OpenAITeacher("no/such-model", tmp_path / "cache.jsonl", tries=2, backoff=0.01)
        with pytest.raises(UserError, match="HTTP (400|404|422|500)"):
            stranger.ask(asked)
    finally:
        server.terminate()
        server.wait(10)
        log.close()


# ------------------------------------------------------------------------------------------------------- distillation


def flags(**changes):
    defaults = {"rounds": 3, "candidates": (1, 2, 4), "max_reasoning_tokens": 50, "tokenizer": None, "batch_size": 4}
    defaults |= {"temperature": 0.7, "max_tokens": 64, "reader_tokens": 64, "seed": 0, "keep_corrections": 0.0}
    return Namespace(**defaults | changes)


def ruled(response, question=None, limit=50):
    """A draft after the checks by rule, its limit in tokens."""
    draft = distill.Draft("first", response, distill.token_counter(None)(reward.parse(response).thinking))
    distill.check_rules(draft, question or make_question(), limit)
    return draft


GOOD = "<think>Rifampicin is not there. Isoniazid treats it.</think>\n<answer>B</answer>\n"
FLAWED = {
    "Isoniazid, so B.": ("form", "form"),
    "<think>Aspirin.</think><answer>A</answer>": ("answer", "wrong answer"),
    "<think> </think><answer>B</answer>": ("reasoning", "no reasoning"),
    "<think>B. isoniazid</think><answer>B</answer>": ("reasoning", "only names the answer"),
    "<think>Aspirin, insulin. The answer is isoniazid.</think><answer>B</answer>": ("reasoning", "only names"),
    "<think>As the correct answer is B, it must be B.</think><answer>B</answer>": ("betrayal", "betrays"),
    "<think>The provided answer is B.</think><answer>B</answer>": ("betrayal", "betrays"),
    "<think>We know that the correct answer is B, so isoniazid.</think><answer>B</answer>": ("betrayal", "betrays"),
    "<think>To justify the answer, note the cough.</think><answer>B</answer>": ("betrayal", "betrays"),
    "<think>已知答案为B。</think><answer>B</answer>": ("betrayal", "betrays"),
    f"<think>{'word ' * 51}</think><answer>B</answer>": ("brevity", "longer than 50 tokens"),
    f"<think>{'字' * 51}</think><answer>B</answer>": ("brevity", "longer than 50 tokens"),
    f"<think>{'we, ' * 26}</think><answer>B</answer>": ("brevity", "longer than 50 tokens"),
    "<think>70 kg × 5 mg/kg = 35 mg.</think><answer>B</answer>": ("calculations", "70 kg * 5 mg/kg = 35 mg"),
    "<think>70 kg × 5 mg/kg = 350 g.</think><answer>B</answer>": ("calculations", "= 350 g"),
    "": ("form", "form"),
}


@pytest.mark.parametrize(("response", "check", "reason"), [(key, *value) for key, value in FLAWED.items()])
def test_flaws_are_found(response, check, reason):
    draft = ruled(response)
    assert reason in draft.flaw and draft.verdicts.pop(check) is False
    assert False not in draft.verdicts.values() and not draft.verified


@pytest.mark.parametrize(
    ("thinking", "done_again"),
    [
        ("Isoniazid treats it.", None),
        ("异烟肼可杀灭结核杆菌。", None),
        ("It kills the bacteria. Of the given answer choices only one fits. The correct answer is B.", None),
        ("70 kg × 5 mg/kg = 350 mg. Isoniazid treats it.", True),
    ],
)
def test_sound_reasoning_passes(thinking, done_again):
    draft = ruled(reward.format_response(thinking, "B"))
    assert draft.verified and draft.verdicts["calculations"] is done_again


def test_tokens_are_those_of_the_named_tokenizer(tiny):
    from transformers import AutoTokenizer

    text = "Isoniazid inhibits the synthesis of mycolic acid: 5 mg/kg."
    count = len(AutoTokenizer.from_pretrained(tiny)(text, add_special_tokens=False)["input_ids"])
    assert distill.token_counter(str(tiny))(text) == count > distill.token_counter(None)(text)
    with pytest.raises(UserError, match="--tokenizer /no/such: .*give a model's folder"):
        distill.token_counter("/no/such")


@pytest.mark.parametrize(
    "stated",
    [
        "The answer is B.",
        "Therefore, the correct option is Isoniazid.",
        "Isoniazid is (B).",
        "So it must be B.",
        "故选B。",
        "答案是异烟肼。",
    ],
)
def test_the_stated_answer_is_taken_out_of_the_reasoning(stated):
    reasoning = "It blocks mycolic acid, 5.5 mg suffice. Option B, the drug (B), does so."
    assert distill.without_answer(f"{reasoning} {stated}") == (
        "It blocks mycolic acid, 5.5 mg suffice. [option], the drug [option], does so."
    )
    assert distill.without_answer(stated) == ""


@given(st.integers(2, 26), st.integers(0, 25), st.integers(0, 5))
def test_a_blind_reader_sees_every_option_under_another_letter(number, answer, seed):
    options = {letter: f"drug {index}" for index, letter in enumerate(LETTERS[:number])}
    question = Question("q", "s", "en", "Which?", options, LETTERS[answer % number])
    other = distill.relettered(question, seed)
    assert other.options[other.answer] == options[question.answer]
    assert list(other.options) == list(options) and sorted(other.options.values()) == sorted(options.values())
    assert all(other.options[letter] != options[letter] for letter in options)


def test_options_that_speak_of_others_keep_their_letters():
    for text in ("A and B", "All of the above", "以上都是"):
        question = replace(make_question(), options={"A": "x", "B": "y", "C": text})
        assert distill.relettered(question, 0) == question


def letter_of(option, request):
    """Under which letter a request's chat shows an option."""
    return next(line[0] for line in request.messages[-1]["content"].splitlines() if line[1:] == f". {option}")


class ReadingTeacher(Teacher):
    """Writes `texts` (by seed: candidate and round), and reads as told: purpose -> how it replies to a request."""

    def __init__(self, texts=None, **readers):
        self.texts, self.readers, self.asked = texts or {}, readers, []

    def ask(self, requests):
        self.asked += requests
        return [self.reply(request) for request in requests]

    def reply(self, request):
        if not request.purpose.startswith("read "):
            return self.texts.get((request.id, request.seed), GOOD)
        reader = request.purpose.removeprefix("read ")
        right = letter_of("Isoniazid", request) if reader == "blind" else "A"
        return self.readers.get(reader, lambda request: f"<think>Well.</think><answer>{right}</answer>")(request)

    def of(self, purpose):
        return [request for request in self.asked if request.purpose == purpose]


def one(teacher, question=None, **changes):
    """The row of one question, and the teacher's requests."""
    batch = [distill.first_attempt(question or make_question(), teacher, flags(**changes))]
    distill.refine(batch, teacher, distill.token_counter(None), flags(**changes))
    return distill.row_of(batch[0], distill.token_counter(None), flags(**changes))


def test_the_blind_reader_gets_neither_answer_nor_letter_and_must_find_the_option():
    text = "<think>Isoniazid blocks mycolic acid. So the answer is (B).</think><answer>B</answer>"
    teacher = ReadingTeacher({("synth/0", 0): text})
    row = one(teacher)
    (request,) = teacher.of("read blind")
    content = request.messages[-1]["content"]
    assert "<reasoning>\nIsoniazid blocks mycolic acid.\n</reasoning>" in content and "answer is" not in content
    assert letter_of("Isoniazid", request) != "B"
    assert row["verdicts"] == dict.fromkeys(
        [
            "form",
            "answer",
            "reasoning",
            "betrayal",
            "brevity",
            "calculations",
            "blind",
            "evidence",
            "locality",
            "assumptions",
        ],
        True,
    ) | {"calculations": None}


@pytest.mark.parametrize("reply", ["<answer>B</answer>", "<answer>-</answer>", "Isoniazid, I think", ""])
def test_reasoning_that_leads_a_blind_reader_elsewhere_is_not_verified(reply):
    """B is where the true option was; to the reader it is another one."""
    row = one(ReadingTeacher(blind=lambda request: reply), rounds=0)
    assert "does not lead a reader" in row["history"][0]["flaw"]
    assert row["history"][0]["verdicts"]["blind"] is False and "evidence" not in row["history"][0]["verdicts"]


def test_a_contradiction_of_the_evidence_is_told_to_the_writer():
    replies = iter(["<think>Aspirin is not a drug for it.</think><answer>B</answer>", "<answer>A</answer>"])
    teacher = ReadingTeacher(evidence=lambda request: next(replies))
    row = one(teacher)
    statements = teacher.of("read evidence")[0].messages[-1]["content"]
    assert "Tuberculosis is treated with Isoniazid.\nIt is treated with isoniazid.\n</statements>" in statements
    assert (row["strategy"], row["rounds"]) == ("backtracking", 1)
    assert row["flaws"] == ["the reasoning contradicts the evidence (Aspirin is not a drug for it.)"]
    assert row["flaws"][0] in teacher.of("backtracking")[0].messages[-1]["content"]


def test_without_evidence_no_one_is_asked_about_it():
    teacher = ReadingTeacher()
    row = one(teacher, make_question(evidence=[]))
    assert row["verdicts"]["evidence"] is None and not teacher.of("read evidence")


PAGES = {
    "Tuberculosis": "Tuberculosis infects the lung. It is treated with isoniazid, a drug for tuberculosis.",
    "Isoniazid": 'It is an antibiotic. For tuberculosis "isoniazid" is taken for six months or longer.',
}


@pytest.fixture
def with_pages(tmp_path):
    """A run directory whose graph has two pages."""
    with sqlite3.connect(tmp_path / "kg.sqlite") as db:
        db.executescript(graph.SCHEMA)
        for number, (title, text) in enumerate(PAGES.items()):
            db.execute("INSERT INTO entity VALUES (?, ?, 'disease', ?, ?, 0, 0)", (number, title, number, 70 + number))
            db.execute("INSERT INTO prose VALUES (?, ?)", (number, zlib.compress(text.encode())))
        db.execute("INSERT INTO alias VALUES ('consumption', 0)")
    db.close()
    return tmp_path


def test_public_questions_are_compared_with_what_pages_and_guidelines_say(with_pages):
    question = replace(make_question(evidence=[]), question="Which drug is given for tuberculosis (TB)?")
    (with_pages / "lines.jsonl").write_text(
        '{"text": "Give isoniazid for tuberculosis for half a year.", "source": "WHO 1"}'
    )
    found = distill.look_up([question], with_pages / "kg.sqlite", str(with_pages / "lines.jsonl"))
    teacher = ReadingTeacher()
    attempt = distill.first_attempt(question, teacher, flags(), found)
    assert sorted(attempt.statements) == [
        'For tuberculosis "isoniazid" is taken for six months or longer. (Isoniazid, revision 71)',
        "Give isoniazid for tuberculosis for half a year. (WHO 1)",
        "It is treated with isoniazid, a drug for tuberculosis. (Tuberculosis, revision 70)",
    ]
    distill.refine([attempt], teacher, distill.token_counter(None), flags())
    (request,) = teacher.of("read evidence")
    assert "Give isoniazid for tuberculosis for half a year. (WHO 1)" in request.messages[-1]["content"]
    row = distill.row_of(attempt, distill.token_counter(None), flags())
    assert row["verdicts"]["evidence"] is True and row["statements"] == attempt.statements
    assert distill.statistics([row])["with_statements"] == 1
    assert distill.first_attempt(make_question(), teacher, flags(), found).statements == [], "it has its own evidence"
    assert distill.look_up([make_question()], with_pages / "kg.sqlite", None) is None
    strange = replace(question, question='What" OR (x) NEAR* ^ is NOT AND?', options={"A": 'x" AND', "B": "*"})
    assert found.about(strange.question, strange.options["A"]) == []
    (with_pages / "lines.jsonl").write_text('{"txt": 1}\n')
    with pytest.raises(UserError, match="line 1: no text; a guideline is"):
        distill.look_up([question], with_pages / "kg.sqlite", str(with_pages / "lines.jsonl"))


@pytest.mark.parametrize("reply", ["<answer>B</answer>", "no idea"])
def test_hidden_assumptions_are_a_flaw(reply):
    row = one(ReadingTeacher(assumptions=lambda request: reply), rounds=0)
    assert "hides an assumption" in row["history"][0]["flaw"]


def test_the_shortest_verified_candidate_wins_and_longer_ones_are_not_read():
    """Four candidates: the shortest is wrong, the second shortest holds."""
    texts = {
        ("synth/0", index): f"<think>{'word ' * n}</think><answer>B</answer>" for index, n in enumerate([40, 9, 7])
    }
    texts["synth/0", 3] = "<think>No.</think><answer>A</answer>"
    teacher = ReadingTeacher(texts)
    row = one(teacher, make_question(tier="difficult"))
    assert (row["tokens"], row["candidates"], row["rounds"], row["strategy"]) == (7, 4, 0, "first")
    assert len(teacher.of("first")) == 4 and len(teacher.of("read blind")) == 1


def test_k_grows_with_the_tier_and_every_call_is_a_trial_of_its_own():
    for tier, k in zip(("easy", "moderate", "difficult"), (1, 2, 4)):
        teacher = ReadingTeacher(blind=lambda request: "no idea")
        row = one(teacher, make_question(tier=tier))
        written = [request for request in teacher.asked if not request.purpose.startswith("read")]
        assert len(written) == len({request.seed for request in written}) == k * 4
        assert Counter((step["candidate"], step["round"]) for step in row["history"]) == Counter(
            (candidate, number) for candidate in range(k) for number in range(4)
        )
    assert len(distill.first_attempt(make_question(tier="difficult"), EvidenceTeacher(), flags()).candidates) == 1


class RoundTeacher(ReadingTeacher):
    """Gets question n right in round n."""

    def reply(self, request):
        rounds = ["first", *distill.STRATEGIES]
        number = int(request.id.rsplit("/", 1)[1])
        return super().reply(request) if request.purpose not in rounds[:number] else "Hm."


def test_the_refinement_loop(tmp_path, capsys):
    teacher = RoundTeacher()
    questions = [make_question(number) for number in range(5)]
    rows = distill.distill(questions, teacher, flags(), Journal(tmp_path / "cot.partial.jsonl", {}))
    assert [row.get("strategy") for row in rows[:4]] == ["first", *distill.STRATEGIES]
    assert [row["rounds"] for row in rows[:4]] == [0, 1, 2, 3]
    assert [[step["strategy"], step["flaw"] is None] for step in rows[4]["history"]] == [
        [strategy, False] for strategy in ("first", *distill.STRATEGIES)
    ]
    assert sum(not request.purpose.startswith("read") for request in teacher.asked) == 5 + 4 + 3 + 2
    assert rows[0]["messages"] == [
        *reward.prompt_messages(questions[0]),
        {
            "role": "assistant",
            "content": "<think> Rifampicin is not there. Isoniazid treats it. </think><answer>B</answer>",
        },
    ]
    revision = teacher.of("self_correction")[-1].messages
    assert revision[-2]["content"] == "Hm." and distill.STRATEGIES["self_correction"] in revision[-1]["content"]
    distill.print_outcome(rows, teacher)
    tiers = distill.by_tier(rows)
    numbers = tiers["all"]
    assert (numbers["questions"], numbers["passed"], numbers["failed"], numbers["first_rate"]) == (5, 4, 1, 20.0)
    assert [numbers[name] for name in ("first", *distill.STRATEGIES)] == [1, 1, 1, 1]
    assert numbers["mean_tokens"] == numbers["p95_tokens"] == 9 and tiers["easy"]["first_rate"] == 20.0
    printed = capsys.readouterr().out
    assert "1 (20.0%)" in printed and "1  failed: the form is not" in printed


def test_the_evidence_teacher_is_no_reader(tmp_path):
    (row,) = distill.distill(
        [make_question(tier="difficult")], EvidenceTeacher(), flags(), Journal(tmp_path / "cot.partial.jsonl", {})
    )
    assert [row["verdicts"][reader] for reader in distill.READERS] == [None] * 4
    assert row["verdicts"]["form"] is row["verdicts"]["brevity"] is True and row["candidates"] == 1


def test_what_no_language_model_wrote_is_not_reported_as_passed_at_the_first_try(tmp_path, capsys):
    write_jsonl(tmp_path / "train.jsonl", [make_question(number).to_json() for number in range(3)])
    call_main(distill, "--run", tmp_path, "--teacher", "evidence")
    printed = capsys.readouterr().out
    assert "3 of 3 chains in the evidence's own words, 12 tokens on average" in printed
    assert "first try" not in printed and "calls" not in printed
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["passed"] == 3 and row["teacher_calls"] == 0 and row["easy_first_rate"] == 100.0


def test_selection_is_stratified_seeded_and_without_repeats():
    questions = [
        make_question(i, tier) for i, tier in enumerate(["easy"] * 60 + ["moderate"] * 30 + ["difficult"] * 10)
    ]
    chosen = distill.select(questions, 20, seed=1)
    assert Counter(question.tier for question in chosen) == {"easy": 12, "moderate": 6, "difficult": 2}
    assert chosen == distill.select(questions, 20, seed=1) != distill.select(questions, 20, seed=2)
    assert len({question.id for question in distill.select(questions, 1000, seed=1)}) == 100


def test_complex_problems_come_first():
    """A tier's share goes by its size times its weight, in every prefix; the others fill one that is used up."""
    questions = [
        make_question(i, tier) for i, tier in enumerate(["easy"] * 400 + ["moderate"] * 200 + ["difficult"] * 50)
    ]
    tiers = lambda *how: Counter(question.tier for question in distill.select(questions, *how))  # noqa: E731
    assert tiers(50, 0, (1, 2, 4)) == tiers(50, 1, (1, 2, 4)) == {"easy": 20, "moderate": 20, "difficult": 10}
    assert tiers(400, 0, (1, 2, 4))["difficult"] == 50 and tiers(10**6, 0, (1, 2, 4)) == tiers(10**6, 0)
    assert tiers(650, 0, (0, 1, 1)) == {"moderate": 200, "difficult": 50}
    assert len(distill.select([make_question(0, None)], 5, 0, (0, 0, 0))) == 1, "no tier, no weight"


WRONG = "<think>Aspirin lowers his fever.</think><answer>A</answer>"


@pytest.mark.parametrize(
    ("first", "readers", "said"),
    [
        (WRONG, {}, "Aspirin lowers his fever. Wait, that conclusion does not fit the question. Let me go back"),
        (
            "<think>70 kg × 5 mg/kg = 35 mg.</think><answer>B</answer>",
            {},
            "Wait, this calculation is wrong: 70 kg * 5 mg/kg = 35 mg. Let me go back",
        ),
        (
            "<think>Isoniazid cures all of it.</think><answer>B</answer>",
            {"locality": "<think>Nothing says that it cures.</think><answer>B</answer>"},
            "Isoniazid cures all of it. Wait, one of these steps does not follow. Nothing says that it cures. Let",
        ),
    ],
)
def test_a_refined_chain_keeps_its_correction(first, readers, said):
    """Draft, flaw and revision are one trajectory, in form and right; without the flag the revision stands alone."""
    replies = {name: iter([reply]) for name, reply in readers.items()}
    fine = "<think>Well.</think><answer>A</answer>"
    teacher = lambda: ReadingTeacher(  # noqa: E731
        {("synth/0", 0): first}, **{name: lambda request, name=name: next(replies[name], fine) for name in readers}
    )
    row = one(teacher(), keep_corrections=1.0)
    response = row["messages"][-1]["content"]
    assert reward.reward(response, "B").total == reward.reward(reward.format_response("x", "B"), "B").total
    assert said in response and response.endswith("Isoniazid treats it. </think><answer>B</answer>")
    assert row["corrected"] and row["tokens"] == distill.token_counter(None)(reward.parse(response).thinking)
    replies = {name: iter([reply]) for name, reply in readers.items()}
    plain = one(teacher(), keep_corrections=0.0)
    assert not plain["corrected"] and "Wait" not in plain["messages"][-1]["content"] and plain["rounds"] == 1


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        ("Isoniazid, so B.", {}),  # no form
        ("<think>The provided answer is B.</think><answer>B</answer>", {}),
        ("<think>The provided answer is A.</think><answer>A</answer>", {}),  # wrong, and it betrays
        (f"<think>{'word ' * 51}</think><answer>B</answer>", {}),
        (f"<think>{'word ' * 100}</think><answer>A</answer>", {}),  # too long with its revision
        (WRONG, {"keep_corrections": 0.0}),
    ],
)
def test_what_is_nothing_to_learn_from_is_not_kept(first, changes):
    row = one(ReadingTeacher({("synth/0", 0): first}), **{"keep_corrections": 1.0} | changes)
    assert row["rounds"] == 1 and not row["corrected"]
    assert row["messages"][-1]["content"] == reward.format_response(reward.parse(GOOD).thinking, "B")


def test_a_share_of_the_corrections_is_kept_and_in_chinese():
    texts = {(f"synth/{number}", 0): WRONG for number in range(60)}
    questions = [replace(make_question(number), language="zh") for number in range(60)]
    rows = [one(ReadingTeacher(texts), question, keep_corrections=0.5) for question in questions]
    assert 20 < sum(row["corrected"] for row in rows) < 40
    kept = next(row for row in rows if row["corrected"])
    assert "等等，这个结论与题目不符。" in kept["messages"][-1]["content"]


def test_a_readers_reply_that_was_cut_is_asked_for_again_with_more_tokens():
    class Thinker(ReadingTeacher):
        def answers(self, requests):
            return [
                Answer("<think>Hm", 9, 9, True) if r.purpose == "read blind" and r.max_tokens < 500 else Answer(text, 9)
                for r, text in zip(requests, self.ask(requests))
            ]

    teacher = Thinker()
    assert one(teacher, max_tokens=500)["rounds"] == 0
    assert [request.max_tokens for request in teacher.of("read blind")] == [64, 500]


def begun(partial):
    """Whether a whole line is there; a file without one may be a moment old."""
    return partial.exists() and b"\n" in partial.read_bytes()


def test_distillation_survives_kill_9(serve, tmp_path):
    server = serve(delay=0.02)
    write_jsonl(tmp_path / "train.jsonl", [make_question(number).to_json() for number in range(60)])
    arguments = [
        "distill.py",
        "--run",
        tmp_path,
        "--teacher",
        "openai:model",
        "--batch-size",
        6,
        "--teacher-concurrency",
        2,
    ]
    partial = tmp_path / "cot.partial.jsonl"
    process = stages.start(arguments, tmp_path)
    deadline = time.monotonic() + 300
    while not begun(partial) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert 0 < len(list(read_jsonl(partial, appended=True))) < 60
    with open(partial, "a") as file:
        file.write('{"id": "synth/')  # the kill came while a line was written

    done = python(*arguments)
    assert done.returncode == 0, done.stderr
    rows = list(read_jsonl(tmp_path / "cot.jsonl"))
    assert Counter(row["id"] for row in rows) == {f"synth/{number}": 1 for number in range(60)}
    assert not partial.exists() and list(read_jsonl(tmp_path / "cot_failed.jsonl")) == []
    # A question takes five calls (writer, four readers); only what was in flight at the kill was asked again.
    assert min(server.hits.values()) == 5 and sum(server.hits.values()) <= 60 * 5 + 2
    assert sum(row["stage"] == "distill" for row in read_jsonl(tmp_path / "metrics.jsonl")) == 1
    assert KEY not in "".join(path.read_text() for path in tmp_path.glob("*.jsonl")) + done.stdout + done.stderr


def test_a_server_that_dies_half_way_and_a_cap_lose_nothing(serve, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "train.jsonl", [make_question(number).to_json() for number in range(12)])
    arguments = ["--run", tmp_path, "--teacher", "openai:model", "--batch-size", "2", "--teacher-concurrency", "1"]
    server = serve()
    with pytest.raises(UserError, match=r"--teacher-max-calls 26 \(26 calls, 182 tokens\)"):
        call_main(distill, *arguments, "--teacher-max-calls", "26")
    assert len(list(read_jsonl(tmp_path / "cot.partial.jsonl"))) == 1 + 4 and sum(server.hits.values()) == 26

    post, calls = OpenAITeacher._post, Counter()

    def die(self, request):
        calls["made"] += 1
        if calls["made"] == 10:
            server.shutdown()
            server.server_close()
        return post(self, request)

    monkeypatch.setattr(OpenAITeacher, "_post", die)
    with pytest.raises(UserError, match=r"the teacher failed 2 times \(ConnectionError\)"):
        call_main(distill, *arguments, "--teacher-tries", "2")
    assert not (tmp_path / "cot.jsonl").exists()
    back = serve(port=server.server_address[1])
    call_main(distill, *arguments)
    assert len(list(read_jsonl(tmp_path / "cot.jsonl"))) == 12
    assert sum((server.hits + back.hits).values()) == 12 * 5  # no call was made twice


@pytest.mark.skipif("CHAT_MODEL" not in os.environ, reason="no CHAT_MODEL is served at TEACHER_BASE_URL")
def test_distillation_by_a_real_model_loses_nothing_and_pays_once(tmp_path):
    """CHAT_MODEL, served at TEACHER_BASE_URL, writes and reads; CHAT_QUESTIONS: question records, of which it gets six.

    Nothing is asserted about what it writes but that the checks hold of every chain that passed.
    """
    model, file = os.environ["CHAT_MODEL"], os.environ.get("CHAT_QUESTIONS")
    asked = list(read_jsonl(file))[:6] if file else [make_question(number).to_json() for number in range(6)]
    write_jsonl(tmp_path / "train.jsonl", asked)
    run, args = RunDir(tmp_path), flags(rounds=1, max_tokens=200, max_reasoning_tokens=200)
    questions = {question.id: question for question in load_questions(tmp_path / "train.jsonl")}
    teacher = OpenAITeacher(model, tmp_path / "cache.jsonl", concurrency=4)
    rows = distill.distill(list(questions.values()), teacher, args, Journal(run.output("cot.partial.jsonl"), {}))
    assert [row["id"] for row in rows] == list(questions) and all(("messages" in r) != ("history" in r) for r in rows)
    for row in rows:
        if "messages" in row:
            assert ruled(row["messages"][-1]["content"], questions[row["id"]], 200).verified
            assert False not in row["verdicts"].values() and row["verdicts"]["blind"]
    assert teacher.calls >= len(list(read_jsonl(tmp_path / "cache.jsonl"))) > 0

    run.output("cot.partial.jsonl").unlink()
    again = OpenAITeacher(model, tmp_path / "cache.jsonl")
    assert distill.distill(list(questions.values()), again, args, Journal(run.output("cot.partial.jsonl"), {})) == rows
    assert again.calls == 0


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (None, [], "make it with: python curate.py"),
        ([], [], "holds no valid question"),
        ([make_question(evidence=[])], ["--teacher", "evidence"], "for none of the 1 training questions"),
        ([make_question()], ["--teacher", "evidence", "--max-reasoning-tokens", "2"], "no chain of thought passed"),
        ([make_question()], ["--questions", "0"], "--questions: 0 must be at least 1"),
        ([make_question()], ["--candidates", "1", "0", "4"], "--candidates: 0 must be from 1 to 1000"),
        ([make_question()], ["--teacher-max-calls", "0"], "--teacher-max-calls: 0 must be at least 1"),
        ([make_question()], ["--teacher-timeout", "0"], "--teacher-timeout: 0 must be above 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(rows, more, message, tmp_path):
    if rows is not None:
        write_jsonl(tmp_path / "train.jsonl", [question.to_json() for question in rows])
    done = python("distill.py", "--run", tmp_path, *more)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "cot.jsonl").exists()


@pytest.mark.parametrize("changed", ["flag", "questions", "tokenizer"])
def test_a_partial_file_of_other_questions_or_flags_is_not_resumed(tmp_path, monkeypatch, changed, tiny):
    """The ids are the same: only what was asked, or how, has changed."""
    write_jsonl(tmp_path / "train.jsonl", [make_question(number).to_json() for number in range(6)])
    arguments = ["--run", tmp_path, "--teacher", "evidence", "--batch-size", "2"]
    if changed == "tokenizer":
        arguments += ["--tokenizer", shutil.copytree(tiny, tmp_path / "tokenizer")]

    def crash(*_):
        raise OSError("power cut")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(distill, "write_jsonl", crash)
        call_main(distill, *arguments)
    if changed == "flag":
        arguments += ["--max-reasoning-tokens", "14"]
    elif changed == "tokenizer":
        (tmp_path / "tokenizer" / "tokenizer.json").touch()
    else:
        rows = [make_question(number).to_json() | {"question": f"Other {number}?"} for number in range(6)]
        write_jsonl(tmp_path / "train.jsonl", rows)
    named = {"flag": "with --max-reasoning-tokens 600, now it is 14", "questions": "from another train.jsonl"}
    named = named.get(changed, "from another tokenizer")
    with pytest.raises(UserError, match=f"cot.partial.jsonl was made {named}.*delete"):
        call_main(distill, *arguments)
    (tmp_path / "cot.partial.jsonl").unlink()
    call_main(distill, *arguments[:6])


def test_whether_a_chain_goes_by_the_path_is_a_verdict_of_its_own(tmp_path):
    """It rejects nothing; a chain that keeps its correction, and a question without a path, have none."""
    write_graph(tmp_path / "kg.sqlite")
    public, lines = replace(MARFAN, id="public", evidence=[]), [REASONED, "Losartan is (D).", REASONED, REASONED]
    rows = [
        {"verdicts": {"form": True}, "corrected": number == 2,
         "messages": [{"role": "assistant", "content": reward.format_response(line, "D")}]}
        for number, line in enumerate(lines)
    ]  # fmt: skip
    rows.append({"history": []})
    distill.note_paths(
        rows, [MARFAN, replace(MARFAN, id="2"), replace(MARFAN, id="3"), public, MARFAN], RunDir(tmp_path)
    )
    assert [row["verdicts"]["path"] for row in rows[:-1]] == [True, False, None, None]
    assert "verdicts" not in rows[-1]

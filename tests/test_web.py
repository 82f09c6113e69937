"""A server may do anything: every exchange ends in time, in bounded memory, at the server that was named."""

import gzip
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import stages
from conftest import PROJECT, python
from pages import PAGES, REDIRECTS, export

from policy import load_config, load_tokenizer
from tools.cli import UserError
from tools.run import write_jsonl
from tools.web import HUB_LOG, Client, ReplyTooLarge, ReplyTooSlow, UnreadableReply, asking_hub, json_of, post

BOMB = gzip.compress(b" " * (64 << 20))


class Hostile(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        getattr(self, self.path.split("/")[1])()

    def reply(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def good(self):
        self.reply(b'{"a": 1}')

    def bomb(self):
        self.reply(BOMB, Content_Encoding="gzip")

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            time.sleep(0.3)

    def drip_head(self):
        for _ in range(100):
            self.wfile.write(b"H")
            time.sleep(0.3)

    def hang(self):
        self.server.asked.set()
        time.sleep(60)

    def near(self):
        self.reply(b"", 307, Location="/good")

    def far(self):
        self.reply(b"", 302, Location=f"http://localhost:{self.server.server_port}/good")

    def file(self):
        self.reply(b"", 302, Location="file:///etc/passwd")

    def flood(self):
        self.send_response(302)
        self.send_header("Location", "/good")
        self.end_headers()
        self.server.sent = 0
        while True:
            self.server.sent += self.wfile.write(b" " * (1 << 20))

    def port(self):
        self.reply(b"", 302, Location="http://127.0.0.1:999999/")

    def brackets(self):
        self.reply(b"", 302, Location="http://[::1")

    def lengths(self):
        self.reply(b"{}", Content_Length="1, 2")

    def round(self):
        self.reply(b"", 302, Location="/round")


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.handle_error = lambda *_: None
    server.daemon_threads, server.asked = True, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def url(server):
    return server.url


def ask(url, path, **how):
    return post(Client().post, f"{url}/{path}", **{"seconds": 2.0, "most": 1 << 20} | how, data={"q": "x"})


def test_a_good_reply_and_a_redirect_on_the_same_server(url):
    assert json_of(ask(url, "good")) == json_of(ask(url, "near")) == {"a": 1}
    assert json_of(ask(url, "flood")) == {"a": 1}, "what comes with a redirect is not read"


@pytest.mark.parametrize(
    "path, error", [("bomb", ReplyTooLarge), ("drip", ReplyTooSlow), ("round", requests.TooManyRedirects),
                    ("drip_head", (ReplyTooSlow, requests.RequestException)), ("port", UnreadableReply),
                    ("brackets", UnreadableReply), ("lengths", requests.RequestException)]
)  # fmt: skip
def test_every_exchange_ends(url, path, error):
    began = time.monotonic()
    with pytest.raises(error):
        ask(url, path)
    assert time.monotonic() - began < 20  # the server would take 30


@pytest.mark.parametrize("path", ["far", "file"])
def test_no_redirect_leads_to_another_server(url, path):
    with pytest.raises(UserError, match="redirects to another server, (http://localhost|file://)"):
        ask(url, path)


def test_a_request_that_hangs_is_stopped_within_two_seconds(url):
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    began = time.monotonic()
    with pytest.raises(UserError, match="was stopped"):
        ask(url, "drip", seconds=60.0, stopping=stopping)
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"9" * 5000,
        b'{"a": NaN}',
        b'{"a": 9223372036854775808}',
        b'{"a": 1e999}',
        b"9" * 5000 + b".5",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_json_without_limits_is_unreadable(body):
    reply = requests.Response()
    reply._content = body
    with pytest.raises(UnreadableReply):
        json_of(reply)


@pytest.mark.parametrize(("how", "words", "given"), [
    (signal.SIGINT, "kg_build.py --source api --api-url {}/hang --workers 1", "none"),
    (signal.SIGTERM, "kg_build.py --source api --api-url {}/hang --workers 1", "none"),
    (signal.SIGINT, "kg_build.py --source {run}/dump.xml --teacher openai:m --workers 1", "none"),
    (signal.SIGINT, "curate.py --teacher openai:m --heldout 0", "synth"),
    (signal.SIGINT, "distill.py --teacher openai:m", "train"),
    (signal.SIGTERM, "distill.py --teacher openai:m", "train"),
    (signal.SIGINT, "evaluate.py --model m=openai:m", "heldout"),
])  # fmt: skip
def test_who_asks_a_stage_to_stop_while_a_request_hangs_is_heard(server, how, words, given, tmp_path, questions):
    """Within two seconds, with one line, and nothing that was done is lost: the same command continues."""
    rows = [question.to_json() | {"evidence": [["Asthma", "symptom", "Cough", 1, "x"]]} for question in questions]
    write_jsonl(tmp_path / f"{given}.jsonl", rows)
    (tmp_path / "dump.xml").write_text(export(PAGES, REDIRECTS))
    server.asked.clear()
    stage = stages.start([*words.format(server.url, run=tmp_path).split(), "--run", tmp_path], tmp_path,
                         environment={"TEACHER_BASE_URL": f"{server.url}/hang"})  # fmt: skip
    assert server.asked.wait(300), (tmp_path / "stderr").read_text()
    os.kill(stage.pid, how)
    began = time.monotonic()
    stage.join(20)
    stage.kill()
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert stage.exitcode == 128 + how and time.monotonic() - began < 2
    assert f"{words.split()[0]}: interrupted; the same command continues" in lines and "Traceback" not in " ".join(
        lines
    )


def test_ctrl_c_is_not_for_the_processes_that_read_pages(server, tmp_path):
    """A terminal sends it to all of them: the build says one line, they end with it."""
    (tmp_path / "dump.xml").write_text(export(PAGES, REDIRECTS))
    words = f"kg_build.py --run {tmp_path} --source {tmp_path}/dump.xml --teacher openai:m --workers 1"
    server.asked.clear()
    with open(tmp_path / "stderr", "w+") as errors:
        build = subprocess.Popen(
            [sys.executable, *words.split()], cwd=PROJECT, stdout=errors, stderr=errors, start_new_session=True,
            env={**os.environ, "TEACHER_BASE_URL": f"{server.url}/hang"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert server.asked.wait(300), (tmp_path / "stderr").read_text()
        os.killpg(build.pid, signal.SIGINT)
        assert build.wait(20) == 130
    told = (tmp_path / "stderr").read_text()
    assert told.count("kg_build.py: interrupted") == 1 and "Traceback" not in told


# ------------------------------------------------------------------------------------------------------------- the hub

ASK = """
import sys, time
time.sleep = lambda _: None  # between the tries
from clean.formats import read_hub
from policy import load_policy, load_tokenizer
from pretrained import model_hash
from tools.cli import UserError

for ask in (load_policy, load_tokenizer, model_hash, lambda _: read_hub("medqa", "test", None)):
    try:
        print(ask("org/model"))
    except UserError as error:
        print(error)
"""


REMEDY = "; where there is no network, give a folder that holds it"


def test_a_hub_that_cannot_be_reached_is_one_line_with_the_cause(tmp_path):
    told = python("-c", ASK, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert told.returncode == 0 and told.stderr == ""
    policy, tokenizer, nothing, questions = told.stdout.splitlines()
    for line in (policy, tokenizer):
        assert line.startswith("cannot load the model org/model: ") and line.endswith(f"(Connection refused){REMEDY}")
    assert nothing == "None"
    assert questions.startswith("cannot load GBaker/MedQA-USMLE-4-options from the hub (")
    assert "Connection refused" in questions


@pytest.mark.parametrize("load", [load_config, load_tokenizer])
def test_a_hub_that_is_not_asked_is_named_as_the_cause(load):
    with pytest.raises(UserError) as caught:
        load("org/model")
    assert str(caught.value).endswith(f"(HF_HUB_OFFLINE is set){REMEDY}")


def test_a_hub_that_answers_late_is_told_in_one_line(capsys, monkeypatch):
    for _ in range(2):
        with asking_hub():
            for _ in range(6):
                logging.getLogger(HUB_LOG).warning("no route")
    line = "the hub did not answer at once, which takes half a minute: no route\n"
    assert capsys.readouterr().err == 2 * line
    monkeypatch.setenv("RANK", "1")  # rank 0 has told it
    with asking_hub():
        logging.getLogger(HUB_LOG).warning("no route")
    with asking_hub():
        pass
    assert capsys.readouterr().err == ""

"""A server may do anything: every exchange ends in time, in bounded memory, at the server that was named."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tools.cli import UserError
from tools.web import ReplyTooLarge, ReplyTooSlow, UnreadableReply, json_of, post


class Hostile(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        getattr(self, self.path.strip("/"))()

    def reply(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def good(self):
        self.reply(b'{"a": 1}')

    def bomb(self):
        self.reply(gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip")

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(20):
            self.wfile.write(b" ")
            time.sleep(0.3)

    def drip_head(self):
        for _ in range(20):
            self.wfile.write(b"H")
            time.sleep(0.3)

    def near(self):
        self.reply(b"", 307, Location="/good")

    def far(self):
        self.reply(b"", 302, Location=f"http://localhost:{self.server.server_port}/good")

    def file(self):
        self.reply(b"", 302, Location="file:///etc/passwd")

    def round(self):
        self.reply(b"", 302, Location="/round")


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.handle_error = lambda *_: None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(url, path, **how):
    return post(requests.post, f"{url}/{path}", **{"seconds": 1.0, "most": 1 << 20} | how, data={"q": "x"})


def test_a_good_reply_and_a_redirect_on_the_same_server(url):
    assert json_of(ask(url, "good")) == json_of(ask(url, "near")) == {"a": 1}


@pytest.mark.parametrize(
    "path, error", [("bomb", ReplyTooLarge), ("drip", ReplyTooSlow), ("round", requests.TooManyRedirects),
                    ("drip_head", (ReplyTooSlow, requests.RequestException))]
)  # fmt: skip
def test_every_exchange_ends(url, path, error):
    began = time.monotonic()
    with pytest.raises(error):
        ask(url, path)
    assert time.monotonic() - began < 4


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
    "body", [b"", b"<html>", b"9" * 5000, b'{"a": NaN}', b'{"a": 9223372036854775808}', b"[" * 100_000, b"\xff"]
)
def test_json_without_limits_is_unreadable(body):
    reply = requests.Response()
    reply._content = body
    with pytest.raises(UnreadableReply):
        json_of(reply)

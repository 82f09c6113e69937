"""A stand-in for the Hugging Face hub on loopback: the repositories that the recipes name, in their layouts, small.

    with Hub(repositories) as url: ...      # url is what HF_ENDPOINT names

`repositories` maps "Qwen/Qwen3-32B" or "datasets/TIGER-Lab/MMLU-Pro" to {file name: content}. It answers what
huggingface_hub and datasets ask: a repository's description, its tree, and its files.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Loopback(ThreadingHTTPServer):
    """A server that lives as long as a `with` block, which gets its address; `asked` is for what it is asked."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.asked = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing."""


class Hub(Loopback):
    def __init__(self, repositories):
        super().__init__(Handler)
        self.repositories = repositories


class Handler(QuietHandler):
    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        json_body = self.headers.get("Content-Type", "").startswith("application/json")
        self.answer(json.loads(body)["paths"] if json_body else parse_qs(body).get("paths", []))

    def answer(self, paths=None):
        """`paths`: of which a description is asked."""
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self.file((found[1] or "") + found[2], found[3])
        if found := re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/[^/]+(/.*)?)?", path
        ):
            name = found[2] if found[1] == "models" else f"datasets/{found[2]}"
            files = self.server.repositories.get(name)
            if files is None:
                return self.missing("RepoNotFound")
            if found[3] in ("tree", "paths-info"):
                folder = (found[4] or "/").strip("/")
                shown = [row for row in entries(files) if row["path"].startswith(f"{folder}/" if folder else "")]
                return self.send([row for row in shown if paths is None or row["path"] in paths])
            siblings = [{"rfilename": file} for file in files]
            return self.send({"id": found[2], "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        self.missing("EntryNotFound")

    def file(self, repository, name):
        files = self.server.repositories.get(repository)
        if files is None or name not in files:
            return self.missing("RepoNotFound" if files is None else "EntryNotFound")
        self.send(files[name], ETag=f'"{digest(files[name])}"')

    def missing(self, code):
        self.send({"error": code}, 404, **{"X-Error-Code": code})

    def send(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def digest(content):
    return hashlib.sha1(content).hexdigest()


def entries(files):
    """A repository's files and folders as the hub lists them."""
    folders = {name.rsplit("/", 1)[0] for name in files if "/" in name}
    rows = [{"type": "directory", "path": folder, "oid": COMMIT, "size": 0} for folder in sorted(folders)]
    return rows + [
        {"type": "file", "path": name, "oid": digest(content), "size": len(content)} for name, content in files.items()
    ]

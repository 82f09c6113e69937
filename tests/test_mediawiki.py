"""wiki/mediawiki.py: dumps in every packing, the api client, a real MediaWiki."""

import bz2
import gzip
import http.server
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.parse
import zlib
from pathlib import Path

import pytest
from conftest import call_main
from pages import ENCYCLOPEDIA, PAGES, REDIRECTS, build, dump_source, export, facts

import kg_build
from tools.cli import UserError
from wiki import mediawiki


def test_a_dump_reads_the_same_in_every_packing_and_version(tmp_path):
    text = export(PAGES, REDIRECTS)
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    half = len(text) // 2
    streams = [bz2.compress(part.encode()) for part in (text[:half], text[half:])]
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(streams))  # multistream, as Wikipedia's own
    (tmp_path / "a.xml.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "old.xml").write_text(export(PAGES, REDIRECTS, version="0.10"), encoding="utf-8")
    readings = [list(mediawiki.read_dump(path)) for path in sorted(tmp_path.iterdir())]
    assert all(reading == readings[0] for reading in readings)
    assert len(readings[0]) == len(PAGES) + len(REDIRECTS)
    assert [page.redirect for page in readings[0] if page.title == "Pyrexia"] == ["High temperature"]
    multistream(tmp_path / "b.xml.bz2", text)
    (tmp_path / "nameless.xml").write_text("<mediawiki></mediawiki>")
    names = {path.name: dump_source(path, tmp_path / "x.sqlite").name() for path in tmp_path.iterdir()}
    assert names.pop("nameless.xml") == "nameless.xml" and set(names.values()) == {"Pages & tests"}


def multistream(path: Path, text: str, pages_a_stream: int = 4) -> Path:
    """A dump as Wikipedia writes it: a bz2 stream of the head, some of whole pages each, one of the closing tag."""
    head, *pages = text.removesuffix("</mediawiki>").split("<page>")
    parts = [
        "".join(f"<page>{page}" for page in pages[at : at + pages_a_stream])
        for at in range(0, len(pages), pages_a_stream)
    ]
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in [head, *parts, "</mediawiki>"]))
    return path


def articles(source: mediawiki.DumpSource) -> list[tuple]:
    return source.db.execute("SELECT * FROM article ORDER BY title").fetchall()


def test_several_processes_read_a_multistream_dump_and_go_on_after_a_kill(tmp_path, monkeypatch):
    text = export(PAGES, REDIRECTS)
    (tmp_path / "dump.xml").write_text(text, encoding="utf-8")
    alone = dump_source(tmp_path / "dump.xml", tmp_path / "alone.sqlite")
    alone.open()
    dump = multistream(tmp_path / "dump.xml.bz2", text)
    spans = mediawiki.stream_spans(dump)
    assert len(spans) == 9 and spans[-1].end == dump.stat().st_size
    in_order, done = mediawiki.in_order, []

    def killed_after_three(pool, jobs, ahead):
        for result in in_order(pool, jobs, ahead):
            if len(done) == 3:
                raise KeyboardInterrupt
            done.append(result)
            yield result

    monkeypatch.setattr(mediawiki, "in_order", killed_after_three)
    with pytest.raises(KeyboardInterrupt):
        dump_source(dump, tmp_path / "together.sqlite", workers=2).open()
    again = []
    monkeypatch.setattr(
        mediawiki, "in_order", lambda pool, jobs, ahead: (again.append(r) or r for r in in_order(pool, jobs, ahead))
    )
    together = dump_source(dump, tmp_path / "together.sqlite", workers=2)
    together.open()
    assert len(again) == 9 - 3  # of the three, the last one's transaction was complete as well
    assert articles(together) == articles(alone) and together.landmarks() == alone.landmarks()


def test_other_files_of_several_streams_are_read_from_the_start(tmp_path):
    text = export(PAGES, REDIRECTS).encode()
    pieces = [text[at : at + 1000] for at in range(0, len(text), 1000)]  # cut anywhere, as pbzip2 does
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(map(bz2.compress, pieces)))
    (tmp_path / "empty.xml.bz2").write_bytes(b"")
    assert mediawiki.stream_spans(tmp_path / "a.xml.bz2") == mediawiki.stream_spans(tmp_path / "empty.xml.bz2") == []
    assert len(list(mediawiki.read_dump(tmp_path / "a.xml.bz2"))) == len(PAGES) + len(REDIRECTS)


@pytest.mark.parametrize("cut", ["half a stream", "no closing tag", "broken markup"])
def test_a_bad_multistream_dump_is_a_user_error(tmp_path, cut):
    text = export(PAGES, REDIRECTS)
    if cut == "broken markup":
        text = text.replace("<title>Sepsis</title>", "<title>Sepsis")
    dump = multistream(tmp_path / "dump.xml.bz2", text)
    spans = mediawiki.stream_spans(dump)
    end = {"half a stream": spans[-2].start + 50, "no closing tag": spans[-1].start, "broken markup": None}[cut]
    dump.write_bytes(dump.read_bytes()[:end])
    with pytest.raises(UserError, match="truncated or malformed"):
        dump_source(dump, tmp_path / "store.sqlite").open()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.xml", export(PAGES, {})[:3000].encode(), "truncated or malformed"),
        ("cut.xml.bz2", bz2.compress(export(PAGES, {}).encode())[:-40], "truncated or malformed"),
        ("cut.xml.gz", gzip.compress(export(PAGES, {}).encode())[:-40], "truncated or malformed"),
        ("no.xml.bz2", b"plain text", "truncated or malformed"),
        ("empty.xml", b"", "truncated or malformed"),
        ("page.xml", b"<html><body/></html>", "no MediaWiki export"),
        ("bomb.xml", b'<!DOCTYPE x [<!ENTITY a "aa">]><mediawiki>&a;</mediawiki>', "document type declaration"),
        ("id.xml", export(PAGES, {}).replace("<id>1</id>", "<id>one</id>").encode(), "truncated or malformed"),
        ("title.xml", export({" ": PAGES["Rash"]}, {}).encode(), "a page without a title"),
        ("field.xml", export(PAGES, {}).replace("<ns>0</ns>", "").encode(), "truncated or malformed"),
    ],
)
def test_a_bad_dump_is_a_user_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(mediawiki.read_dump(tmp_path / name))


ITEMS = {"Pneumonia": "Q12192", "Sepsis": "Q183134", "Cough": "Q0; DROP TABLE", "London": "Q84"}


class FakeWiki(http.server.BaseHTTPRequestHandler):
    """A MediaWiki api.php over PAGES that misbehaves: every fault of the list `faults` is answered once, in turn."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        self.server.requests.append((form, dict(self.headers)))
        fault = self.server.faults.pop(0) if self.server.faults else "none"
        if fault in {"429", "503"}:
            return self.answer(int(fault), b"busy", {"Retry-After": "7"})
        if fault == "maxlag":
            return self.answer(200, b'{"error": {"code": "maxlag", "info": "5 s lagged"}}', {"Retry-After": "5"})
        if fault.startswith(("{", "[")):
            return self.answer(200, fault.encode(), {})
        body = json.dumps(self.query(form)).encode()
        self.answer(200, body[: len(body) // 2] if fault == "truncated" else body, {})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def query(self, form):
        titles = form["titles"].split("|")
        assert len(titles) <= 50 and form["maxlag"] == "5"
        if form["prop"] == "redirects":
            found = [
                {"title": t, "redirects": [{"title": r} for r, to in REDIRECTS.items() if to == t]} for t in titles
            ]
            return {"query": {"pages": found}}
        texts = {**PAGES, **{title: f"#REDIRECT [[{target}]]" for title, target in REDIRECTS.items()}}
        later = "rvcontinue" in form  # the first half of the pages comes with the first reply, the rest with the second
        pages = []
        for number, title in enumerate(titles):
            page = {"title": title, "pageid": number + 1}
            if title == "Deleted page" and not later:
                pass  # it is there, its text is to come; by then it is gone
            elif title not in texts:
                page = {"title": title, "missing": True}
            elif (number >= (len(titles) + 1) // 2) == later:
                slots = {"main": {"content": texts[title]}}
                page["revisions"] = [{"revid": 1000 + list(texts).index(title), "slots": slots}]
            if title in REDIRECTS and not later:
                page["redirect"] = True
            if title in ITEMS and not later:
                page["pageprops"] = {"wikibase_item": ITEMS[title]}
            pages.append(page)
        return {"query": {"pages": pages}} | (
            {} if later else {"continue": {"rvcontinue": "1|2", "continue": "||info"}}
        )

    def log_message(self, *arguments):
        pass


@pytest.fixture
def wiki(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeWiki)
    server.requests, server.faults, server.waits = [], [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(mediawiki.time, "sleep", server.waits.append)
    server.url = f"http://127.0.0.1:{server.server_port}/w/api.php"
    yield server
    server.shutdown()
    server.server_close()


def test_the_api_gives_the_same_graph_as_the_dump(tmp_path, wiki, page_graph):
    wiki.faults = ["429", "none", "truncated", "503", "maxlag", "none", "truncated"]
    db = build(tmp_path, mediawiki.ApiSource(wiki.url, "me@example.org"))
    expected = {fact: evidence for fact, evidence in facts(page_graph).items() if "Island" not in fact}
    assert facts(db) == expected
    select = "SELECT name, title FROM alias JOIN entity ON entity.id = alias.entity ORDER BY name"
    assert db.execute(select).fetchall() == page_graph.execute(select).fetchall()
    assert len(wiki.waits) == 5 and [wiki.waits[n] for n in (0, 2, 3)] == [7, 7, 5]
    agents = {headers["User-Agent"] for _, headers in wiki.requests}
    assert agents == {"fleming-r1-kg-build/1.0 (me@example.org)"}
    assert all("gzip" in headers["Accept-Encoding"] for _, headers in wiki.requests)


def asked_for_pages(wiki):
    return [form["titles"] for form, _ in wiki.requests if form["prop"] != "redirects"]


def test_pages_that_are_kept_give_the_same_graph_and_are_not_asked_for_again(tmp_path, wiki, capsys):
    def graph(*flags):
        (tmp_path / "kg.sqlite").unlink(missing_ok=True)
        words = ["--run", tmp_path, "--source", "api", "--api-url", wiki.url, "--workers", 1, "--seeds", "Pneumonia"]
        call_main(kg_build, *words, *flags)
        db = sqlite3.connect(tmp_path / "kg.sqlite")
        return [list(db.execute(f"SELECT * FROM {table}")) for table in ("entity", "alias", "relation", "wikidata")]

    expected = graph()
    assert not (tmp_path / "pages.sqlite").exists()
    assert graph("--keep-pages") == expected and "are read from" not in capsys.readouterr().out
    asked = len(asked_for_pages(wiki))
    assert graph() == expected
    assert len(asked_for_pages(wiki)) == asked  # not once, not even for what does not exist
    assert re.search(rf"\d+ pages of {wiki.url} are read from {tmp_path}/pages.sqlite; ", capsys.readouterr().out)


def kept_source(url, folder, keep):
    source = mediawiki.KeptSource(url, None, folder / "pages.sqlite", keep)
    source.open()
    return source


def test_only_pages_that_are_not_kept_are_fetched(tmp_path, wiki):
    titles = ["Rash", "No such page"]
    assert set(kept_source(wiki.url, tmp_path, keep=True).fetch(titles)) == {"Rash"}
    for keep, asked in [(False, "Fever"), (True, "Fever"), (False, None)]:
        wiki.requests.clear()
        pages = kept_source(wiki.url, tmp_path, keep).fetch([*titles, "Fever"])
        assert {title: page.wikitext for title, page in pages.items()} == {
            name: PAGES[name] for name in ("Rash", "Fever")
        }
        assert set(asked_for_pages(wiki)) == ({asked} if asked else set())
    kept_source(wiki.url + "?another", tmp_path, keep=False).fetch(["Rash"])
    assert set(asked_for_pages(wiki)) == {"Rash"}


@pytest.mark.parametrize("damage", [
    lambda page: page[:-9] + bytes([page[-9] ^ 1]) + page[-8:],
    lambda page: None,
    lambda page: "text",
    lambda page: zlib.compress(b"7"),
    lambda page: zlib.compress(b'["Rash"]'),
    lambda page: zlib.compress(b'{"title": "Rash", "page": "x"}'),
])  # fmt: skip
def test_a_damaged_store_of_pages_is_named(damage, tmp_path, wiki):
    source = kept_source(wiki.url, tmp_path, keep=True)
    source.fetch(["Rash"])
    (page,) = source.db.execute("SELECT page FROM page").fetchone()
    source.db.execute("UPDATE page SET page = ?", [damage(page)])
    with pytest.raises(UserError, match="pages.sqlite is damaged .*; delete it"):
        source.fetch(["Rash"])


def test_a_live_wiki_tells_wikidatas_items_and_where_its_pages_are(tmp_path, wiki):
    db = build(tmp_path, mediawiki.ApiSource(wiki.url, None))
    select = "SELECT title, item FROM wikidata JOIN entity ON entity.id = entity ORDER BY title"
    assert db.execute(select).fetchall() == [("Pneumonia", "Q12192"), ("Sepsis", "Q183134")]
    (address,) = db.execute("SELECT value FROM meta WHERE key = 'address'").fetchone()
    link = mediawiki.permanent_link(address, "Crohn's disease & more", 17)
    assert link == wiki.url.replace("api.php", "index.php") + "?title=Crohn%27s_disease_%26_more&oldid=17"


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("https://en.wikipedia.org/wiki/Main_Page", "https://en.wikipedia.org/wiki/A_b%3F?oldid=7"),
        ("http://x.org/w/index.php/Main_Page", "http://x.org/w/index.php/A_b%3F?oldid=7"),
        ("http://x.org/w/index.php?title=Main_Page", "http://x.org/w/index.php?title=A_b%3F&oldid=7"),
        ("javascript:alert(1)/Main_Page", None),
        (None, None),
    ],
)
def test_a_dump_tells_where_its_pages_are(tmp_path, base, link):
    told = f"<siteinfo><base>{base}</base>" if base else "<siteinfo>"
    (tmp_path / "dump.xml").write_text(export({"Rash": ""}, {}).replace("<siteinfo>", told))
    address = dump_source(tmp_path / "dump.xml", tmp_path / "x.sqlite").address()
    assert (address and mediawiki.permanent_link(address, "A b?", 7)) == link


def test_a_request_asks_for_fifty_titles(tmp_path, wiki):
    build(tmp_path, mediawiki.ApiSource(wiki.url, None), seeds="; ".join(["Rash", *(f"No {n}" for n in range(120))]))
    asked = [form["titles"].split("|") for form, _ in wiki.requests if form["prop"] != "redirects"]
    assert [len(titles) for titles in asked[::2]] == [50, 50, 21]  # each with its continuation


def test_the_api_client_gives_up_with_one_line(wiki):
    wiki.faults = ["503"] * mediawiki.ATTEMPTS
    with pytest.raises(UserError, match="failed 8 times .HTTP status 503.; the same command continues"):
        mediawiki.ApiSource(wiki.url, None).fetch(["Pneumonia"])


@pytest.mark.parametrize(
    "reply",
    ["[1]", '{"error": "no"}', '{"query": []}', '{"query": {"pages": {"7": {}}}}', '{"query": {"pages": [{}]}}'],
)
def test_a_server_that_is_no_mediawiki_is_told_at_once(wiki, reply):
    wiki.faults = [reply]
    with pytest.raises(UserError, match="does not answer as MediaWiki's api.php"):
        mediawiki.ApiSource(wiki.url, None).fetch(["Pneumonia"])
    assert not wiki.waits


def test_a_server_that_continues_without_end_is_given_up(wiki, monkeypatch):
    monkeypatch.setattr(mediawiki, "MOST_REPLIES", 20)
    wiki.faults = [json.dumps({"query": {}, "continue": {"rvcontinue": str(number)}}) for number in range(30)]
    with pytest.raises(UserError, match="continued one reply 20 times"):
        mediawiki.ApiSource(wiki.url, None).fetch(["Pneumonia"])


def test_json_without_end_is_asked_for_again(wiki):
    wiki.faults = ["[" * 100_000]
    assert mediawiki.ApiSource(wiki.url, None).fetch(["Rash"])["Rash"].wikitext == PAGES["Rash"]


def test_wikipedia_demands_a_contact():
    with pytest.raises(UserError, match="--contact"):
        mediawiki.ApiSource("https://en.wikipedia.org/w/api.php", None)
    with pytest.raises(UserError, match="no http"):
        mediawiki.ApiSource("en.wikipedia.org", "me@example.org")


def run_group(command: list, timeout: float) -> None:
    """Run a command; where it takes too long, end its whole process group. Raises SubprocessError if it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


def test_a_setup_that_hangs_leaves_nothing_running(tmp_path):
    ticks = tmp_path / "ticks"
    script = f"(while :; do echo >>{ticks}; sleep 0.02; done) & wait"
    with pytest.raises(subprocess.TimeoutExpired):
        run_group(["bash", "-c", script], timeout=1)
    size = ticks.stat().st_size
    time.sleep(0.2)
    assert ticks.stat().st_size == size > 0


class LiveWiki:
    """A real MediaWiki on loopback, with `dump` imported.

    MEDIAWIKI_UP names the script that sets it up: `bash SCRIPT FOLDER PORT DUMP` serves /w/api.php, leaves the id of
    the server's process group in FOLDER/server.pid and, in FOLDER/start.sh, what starts it again.
    """

    def __init__(self, folder: Path):
        self.folder, self.dump = folder, folder / "dump.xml"
        self.dump.write_text(export(PAGES, REDIRECTS), encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = server.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}/w/api.php"
        command = ["bash", os.environ["MEDIAWIKI_UP"], folder / "wiki", str(self.address[1]), self.dump]
        try:
            run_group(command, timeout=180)  # 20 to 70 s where packages are downloaded; more if the network hangs
        except subprocess.SubprocessError:
            if (folder / "wiki" / "server.pid").exists():  # the server has a group of its own
                self.stop()
            raise

    def listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(self.address) == 0

    def stop(self) -> None:
        os.killpg(int((self.folder / "wiki" / "server.pid").read_text()), signal.SIGTERM)
        wait_until(lambda: not self.listens())

    def restart(self, **environment: str) -> None:
        self.stop()
        subprocess.run(["bash", self.folder / "wiki" / "start.sh"], check=True, env={**os.environ, **environment})
        wait_until(self.listens)


@pytest.fixture(scope="module")
def live_wiki():
    """Opt-in: setting it up installs packages, and takes ten seconds with PHP already there and nothing else running.

    Where they do not install (no network, not root), its tests are skipped.
    """
    if "MEDIAWIKI_UP" not in os.environ:
        pytest.skip("MEDIAWIKI_UP names no script that sets up a MediaWiki")
    ram = "/dev/shm" if Path("/dev/shm").is_dir() else None  # 300 MB of small files
    with tempfile.TemporaryDirectory(dir=ram) as folder:
        try:
            wiki = LiveWiki(Path(folder))
        except subprocess.SubprocessError as error:
            pytest.skip(f"MediaWiki cannot be set up here: {error}")
        yield wiki
        wiki.stop()


def same_graph(tmp_path: Path, url: str, dump: Path, seeds: str) -> dict[str, list]:
    """The tables of the graph from a live wiki, after checking that the dump that was imported there gives the same.

    MediaWiki's importer gives its own page and revision ids; everything else is equal, ids of rows included. A dump's
    landmarks, which a live wiki cannot tell, are left out.
    """
    tables = []
    for name, source in (
        ("live", mediawiki.ApiSource(url, None)),
        ("dump", mediawiki.DumpSource(dump, tmp_path / "kg.pages.sqlite", landmarks=[])),
    ):
        db = build(tmp_path / name, source, seeds=seeds)
        relations = "id, subject, relation, object, section, sentence FROM relation"
        selects = ["id, title, type, rare, incoming FROM entity", relations, "* FROM alias", "* FROM prose"]
        tables.append({text: db.execute(f"SELECT {text} ORDER BY 1").fetchall() for text in selects})
    assert tables[0] == tables[1]
    return {text.split()[-1]: rows for text, rows in tables[0].items()}


@pytest.mark.parametrize("trouble", [{}, {"FAULT_EVERY": "3", "MW_MAX_RESULT": "2000"}])
def test_a_real_mediawiki_gives_the_same_graph_as_the_dump(tmp_path, live_wiki, monkeypatch, trouble):
    """Also one that answers every third request with 429 and cuts its replies, so that they need a continuation."""
    live_wiki.restart(**trouble)
    continued, request = [], mediawiki.ApiSource.request

    def watched(self, parameters):
        continued.extend(key for key in parameters if key == "rvcontinue")
        return request(self, parameters)

    monkeypatch.setattr(mediawiki.ApiSource, "request", watched)
    monkeypatch.setattr(mediawiki.time, "sleep", lambda seconds: None)
    graph = same_graph(tmp_path, live_wiki.url, live_wiki.dump, "Pneumonia")
    assert len(graph["relation"]) >= 13 and bool(continued) == bool(trouble)


@pytest.mark.skipif("MEDIAWIKI_API" not in os.environ, reason="MEDIAWIKI_API names no api.php of a wiki with this dump")
def test_a_real_mediawiki_gives_the_same_graph_of_the_small_encyclopedia(tmp_path):
    """MEDIAWIKI_API=http://127.0.0.1:8080/w/api.php: a MediaWiki into which data/encyclopedia.xml was imported."""
    graph = same_graph(tmp_path, os.environ["MEDIAWIKI_API"], ENCYCLOPEDIA, kg_build.SEEDS)
    assert len(graph["relation"]) > 1000

"""The pages of a MediaWiki: from a dump (an XML export), or live from its api.php.

Both sources answer the same calls, so an agent that walks through a wiki does not notice which one it has:

    open()                prepare; a long preparation goes on where it was killed
    landmarks()           titles that are worth a visit even if no link leads there (known to a dump only)
    fetch(titles)         title -> Page, for the pages that exist
    redirects_to(titles)  (title, target) of every redirect that leads to one of the titles
    name()                the wiki's name: Wikipedia
    address()             what stands before a title in the URL of its page; None if that is unknown
    close()

Wikipedia's dumps are files of many bz2 streams with 100 whole pages each: several processes read such a file together.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import html
import io
import json
import mmap
import os
import re
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import mwparserfromhell
import requests

from tools.cli import UserError, progress_bar
from tools.shape import misfit
from tools.web import PASSING, Client, is_address, json_of, pause_after, post, retry_after

MAX_PAGE_CHARS = 500_000  # the longest medical articles have about 300,000
MAX_STREAM_BYTES = 64 << 20  # a file of larger streams is no Wikipedia dump: it is read by one process
MOST_BYTES = 256 << 20  # of one reply: fifty pages of the greatest length
ATTEMPTS = 8  # of one API request; the waits add up to one or two minutes

# What stands before the colon of a link that leads out of the articles: to something that is not shown in the text ...
HIDDEN = set("file image category de en es fr it ja nl pl pt ru sv uk zh".split())
# ... or to another namespace or project, of which the text is shown.
ELSEWHERE = "media special talk user wikipedia wp template help portal draft module mos wikt wiktionary commons "
ELSEWHERE += "wikisource meta doi pmid s q b d w c n v m"
NO_ARTICLE = {"", *HIDDEN, *ELSEWHERE.split()}
MOST_REPLIES = 1_000  # to one query, by continuation; 50 titles have fewer portions of text and of redirects
SITE_NAME = re.compile(r"<sitename>([^<]{1,200})</sitename>")
MAIN_PAGE = re.compile(r"<base>([^<]{1,200}[/=])[^<]{1,200}</base>")
WIKIDATA_ITEM = re.compile(r"Q[1-9]\d{0,17}")
BRACKETS = re.compile(r"(?<=\S) \([^()]*\)$")
NO_TITLE = re.compile(r"[<>\[\]{}|]")  # characters that no title has


class Page(NamedTuple):
    """One page as a source gives it. `redirect` is the target's title, or None. Ids are MediaWiki's own.

    `item` is its Wikidata id, if the source tells it: a live wiki does.
    """

    title: str
    page: int
    revision: int
    wikitext: str
    redirect: str | None = None
    item: str | None = None


def permanent_link(address: str, title: str, revision: int) -> str:
    """The URL of one revision of a page. `address` is what a source of pages says of itself."""
    return f"{address}{quote(title.replace(' ', '_'))}{'&' if '?' in address else '?'}oldid={revision}"


@lru_cache(1 << 14)  # the same pages are linked again and again
def normalise_title(raw: str) -> str | None:
    """A link's target as MediaWiki normalises it (first letter upper, no fragment); None if it is no article."""
    title = " ".join(html.unescape(raw).partition("#")[0].replace("_", " ").split())
    namespace, colon, _ = title.partition(":")
    if not title or len(title.encode()) > 255 or (colon and namespace.strip().lower() in NO_ARTICLE):
        return None
    return None if NO_TITLE.search(title) else title[0].upper() + title[1:]


def bare(title: str) -> str:
    """A title without the words in parentheses that tell it from its namesakes."""
    return BRACKETS.sub("", title) if title.endswith(")") else title


# --------------------------------------------------------------------------------------------------------------- a dump


class PageTarget:
    """Collects the pages of a MediaWiki XML export from expat's events, whichever export version's namespace it has.

    No element tree is built, so memory stays at one page. Raises UserError for a document type declaration (the only
    place where XML can define entities) and for XML that is no MediaWiki export.
    """

    FIELDS = {("page", "title"), ("page", "ns"), ("page", "id"), ("revision", "id"), ("revision", "text")}

    def __init__(self, path: Path):
        self.file = path
        self.elements: list[str] = []
        self.values: dict[tuple[str, str], str] = {}
        self.buffer: list[str] = []
        self.size = 0
        self.pages: list[Page] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]
        if not self.elements and name != "mediawiki":
            raise UserError(f"{self.file} is no MediaWiki export: its root element is <{name}>, not <mediawiki>")
        self.elements.append(name)
        self.buffer, self.size = [], 0
        if name == "page":
            self.values = {}
        elif name == "redirect":
            self.values["page", "redirect"] = attributes.get("title", "")

    def data(self, text: str) -> None:
        if self.size <= MAX_PAGE_CHARS:  # beyond the limit the page is refused anyway
            self.buffer.append(text)
            self.size += len(text)

    def end(self, tag: str) -> None:
        name = self.elements.pop()
        key = (self.elements[-1] if self.elements else "", name)
        if key in self.FIELDS:
            self.values[key] = "".join(self.buffer)
        elif name == "page" and self.values["page", "ns"] == "0":
            title, wikitext = self.values["page", "title"], self.values.get(("revision", "text"), "")
            if not title.strip():
                raise ValueError("a page without a title")
            ids = int(self.values["page", "id"]), int(self.values["revision", "id"])
            redirect = normalise_title(self.values.get(("page", "redirect"), ""))
            self.pages.append(Page(title, *ids, wikitext, redirect))

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        raise UserError(f"{self.file} has a document type declaration, which MediaWiki never writes: refused")

    def close(self) -> None:
        pass


def parse_export(path: Path, chunks: Iterator[bytes]) -> Iterator[Page]:
    """Yield the articles of a MediaWiki XML export that comes in chunks.

    Raises UserError (naming `path`) if it is truncated, not valid XML or not an export.
    """
    target = PageTarget(path)
    parser = ElementTree.XMLParser(target=target)
    try:
        for chunk in chunks:
            parser.feed(chunk)
            yield from target.pages
            target.pages = []
        parser.close()
    except (ElementTree.ParseError, EOFError, OSError, zlib.error, ValueError, KeyError) as error:
        raise UserError(f"{path} is truncated or malformed ({error}); download it again") from None


def chunks_of(stream: BinaryIO) -> Iterator[bytes]:
    """A file in pieces of a quarter of a megabyte, so that no decompression bomb fills the memory."""
    return iter(lambda: stream.read(1 << 18), b"")


def unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    """The content of an open file that may be compressed, as its name says."""
    opener = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix)
    return opener(raw) if opener else raw


def read_dump(path: Path) -> Iterator[Page]:
    """Yield the articles of a MediaWiki XML export (.xml, .bz2, .gz), with a progress bar in bytes of the file.

    Raises UserError if the file is truncated, not valid XML or not an export.
    """
    with (
        open(path, "rb") as raw,
        progress_bar(total=path.stat().st_size, unit="B", unit_scale=True, desc="read dump") as bar,
    ):
        for page in parse_export(path, chunks_of(unpacked(raw, path))):
            bar.update(raw.tell() - bar.n)
            yield page


Row = tuple[str, int, int, bytes, str | None, bool]  # of the table `article`


def article_row(page: Page, landmarks: list[str]) -> Row:
    opening = page.wikitext[:20_000].lower().replace("_", " ")
    landmark = page.redirect is None and any("{{" + name in opening for name in landmarks)
    return (*page[:3], zlib.compress(page.wikitext.encode(), 1), page.redirect, landmark)


class Span(NamedTuple):
    """One bz2 stream of a dump, from byte `start` to byte `end` of the file."""

    start: int
    end: int


def stream_spans(path: Path) -> list[Span]:
    """The streams of a multistream dump as Wikipedia writes it: a head, 100 whole pages each, the closing tag.

    [] for any other file: its streams, if it has several, may end in the middle of a page.
    """
    if path.suffix != ".bz2" or not path.stat().st_size:
        return []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        starts = [match.start() for match in re.finditer(rb"BZh[1-9]1AY&SY", data)]  # a block's magic number is pi
        spans = [Span(start, end) for start, end in zip(starts, [*starts[1:], len(data)])]
        if len(spans) < 3 or spans[0].start != 0 or max(end - start for start, end in spans) > MAX_STREAM_BYTES:
            return []
        second = bz2.BZ2Decompressor().decompress(data[slice(*spans[1])], max_length=1000)
    return spans if second.lstrip().startswith(b"<page>") else []


def read_span(path: Path, span: Span, whole: Span, landmarks: list[str]) -> list[Row]:
    """The articles of one stream, as rows. `whole` is the extent of all of them, to know the first and the last."""
    with open(path, "rb") as file:
        file.seek(span.start)
        stream = bz2.open(io.BytesIO(file.read(span.end - span.start)))

    def chunks() -> Iterator[bytes]:  # each stream, but for the root element around all of them, is a document
        if span.start != whole.start:
            yield b"<mediawiki>"
        yield from chunks_of(stream)
        if span.end != whole.end:
            yield b"</mediawiki>"

    return [article_row(page, landmarks) for page in parse_export(path, chunks())]


def worker_processes(number: int) -> ProcessPoolExecutor:
    """Processes that run functions, and that end with this one, also if it is killed."""
    return ProcessPoolExecutor(number, mp_context=get_context("spawn"), initializer=end_with_parent)


def end_with_parent() -> None:
    """End this worker process as soon as its parent has ended: by itself, it would wait for work for ever."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_order(pool: ProcessPoolExecutor, jobs: Iterator[tuple], ahead: int) -> Iterator[Any]:
    """The results of jobs (function, arguments ...) in their order; at most `ahead` wait, so that memory is bounded."""
    waiting: deque = deque()
    for job in jobs:
        waiting.append(pool.submit(*job))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def sampled_hash(path: Path, parts: int = 64) -> str:
    """Twelve hex digits that tell one file's content from another's, of `parts` pieces of it: of all if it is small."""
    size, sha = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        for part in range(parts):
            file.seek(size * part // parts)
            sha.update(file.read(min(1 << 18, size // parts + 1)))
    return sha.hexdigest()[:12]


class DumpSource:
    """A dump as a source: its articles, compressed, in an SQLite file where the walk finds them by title."""

    SCHEMA = """
    PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;  -- many small transactions, and the dump is still there
    CREATE TABLE IF NOT EXISTS article(title TEXT PRIMARY KEY, page INTEGER, revision INTEGER, wikitext BLOB,
        redirect TEXT, landmark INTEGER);
    CREATE INDEX IF NOT EXISTS article_redirect ON article(redirect) WHERE redirect IS NOT NULL;
    CREATE TABLE IF NOT EXISTS progress(dump TEXT PRIMARY KEY, bytes_read INTEGER);
    """
    DAMAGED = """SELECT 1 FROM article WHERE typeof(title) <> 'text' OR typeof(page) <> 'integer'
        OR typeof(revision) <> 'integer' OR typeof(wikitext) <> 'blob' OR typeof(redirect) NOT IN ('text', 'null')
        OR landmark NOT IN (0, 1) LIMIT 1"""

    def __init__(self, dump: Path, store: Path, landmarks: list[str], workers: int = 1):
        """A page that begins with one of the templates `landmarks` is worth a visit even if no link leads there.

        Raises UserError if there is no such file.
        """
        if not dump.is_file():
            raise UserError(f"--source {dump} does not exist; give a MediaWiki XML export, or 'api'")
        self.dump, self.store, self.templates, self.workers = dump, store, landmarks, workers
        self.size = dump.stat().st_size
        self.identity = f"{dump.name}, {self.size} bytes, sampled hash {sampled_hash(dump)}"

    def open(self) -> None:
        """Copy the dump's articles into the store. If that was killed, it goes on after the last whole stream.

        Raises sqlite3.DatabaseError for a store that is damaged.
        """
        self.db = sqlite3.connect(self.store)
        self.db.executescript(self.SCHEMA)
        progress = self.db.execute("SELECT bytes_read FROM progress WHERE dump = ?", [self.identity]).fetchone()
        done = progress[0] if progress else 0
        if done and self.db.execute(self.DAMAGED).fetchone():
            raise sqlite3.DatabaseError(f"{self.store} is damaged")
        if progress and done == self.size:
            return
        if not done:
            self.db.executescript("DELETE FROM article; DELETE FROM progress")
        spans = stream_spans(self.dump)
        for end, rows in self.read_together(spans, done) if spans else self.read_alone():
            with self.db:
                self.db.executemany("INSERT OR REPLACE INTO article VALUES (?, ?, ?, ?, ?, ?)", rows)
                self.db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (self.identity, end))

    def read_together(self, spans: list[Span], done: int) -> Iterator[tuple[int, list[Row]]]:
        """The articles of each stream after byte `done`, and the byte where the stream ends: `workers` processes."""
        rest = [span for span in spans if span.end > done]
        jobs = ((read_span, self.dump, span, Span(0, self.size), self.templates) for span in rest)
        with (
            worker_processes(self.workers) as pool,
            progress_bar(total=self.size, initial=done, unit="B", unit_scale=True, desc="read dump") as bar,
        ):
            for span, rows in zip(rest, in_order(pool, jobs, ahead=4 * self.workers)):
                yield span.end, rows
                bar.update(span.end - span.start)

    def read_alone(self) -> Iterator[tuple[int, list[Row]]]:
        """The articles of a file that can only be read from its start: nothing is done until everything is."""
        rows = []
        for page in read_dump(self.dump):
            rows.append(article_row(page, self.templates))
            if len(rows) == 500:
                yield 0, rows
                rows = []
        yield self.size, rows

    def landmarks(self) -> list[str]:
        return [title for (title,) in self.db.execute("SELECT title FROM article WHERE landmark ORDER BY page")]

    def fetch(self, titles: list[str]) -> dict[str, Page]:
        marks = ", ".join("?" * len(titles))
        rows = self.db.execute(f"SELECT * FROM article WHERE title IN ({marks})", titles)
        return {row[0]: Page(*row[:3], zlib.decompress(row[3]).decode(), row[4]) for row in rows}

    def redirects_to(self, titles: list[str]) -> list[tuple[str, str]]:
        marks = ", ".join("?" * len(titles))
        return self.db.execute(f"SELECT title, redirect FROM article WHERE redirect IN ({marks})", titles).fetchall()

    def name(self) -> str:
        """As the head of the dump gives it; the file's name if it does not."""
        found = SITE_NAME.search(self.head())
        return html.unescape(found[1]) if found else self.dump.name

    def address(self) -> str | None:
        found = MAIN_PAGE.search(self.head())
        address = html.unescape(found[1]) if found else ""
        return address if is_address(address) else None

    def head(self) -> str:
        """The beginning of the dump, where it tells of the wiki as a whole."""
        with open(self.dump, "rb") as raw:
            return unpacked(raw, self.dump).read(10_000).decode("utf-8", "replace")

    def close(self) -> None:
        self.db.close()
        self.store.unlink()


# ---------------------------------------------------------------------------------------------------------- a live wiki


class ApiSource:
    """A live MediaWiki as a source, used politely: one request of 50 titles at a time, `maxlag`, `Retry-After`."""

    def __init__(self, url: str, contact: str | None):
        """Raises UserError for a bad URL, and if Wikimedia's servers are asked without the contact that they demand."""
        if not is_address(url):
            raise UserError(f"--api-url {url} is no http(s) address of an api.php")
        if not contact and re.search(r"(^|\.)wik(ipedia|imedia|tionary|idata)\.org$", str(urlsplit(url).hostname)):
            raise UserError("Wikipedia asks every robot for a contact address: give yours with --contact MAIL")
        self.url = self.identity = url
        self.session = Client()
        self.session.headers["User-Agent"] = f"fleming-r1-kg-build/1.0 ({contact or 'no contact given'})"

    def request(self, parameters: dict[str, str]) -> dict[str, Any]:
        """One API request, repeated with backoff while the server is busy, unreachable or sends half a reply.

        Raises UserError with the server's own words once ATTEMPTS are used up or if the request itself is refused.
        """
        problem = ""
        for attempt in range(ATTEMPTS):
            wait = pause_after(attempt)
            try:
                reply = post(self.session.post, self.url, 60.0, MOST_BYTES, data=parameters)
                wait = max(wait, retry_after(reply))
                problem = f"HTTP status {reply.status_code}"
                if reply.ok:
                    body = json_of(reply)
                    if not is_reply(body):
                        raise UserError(f"{self.url} does not answer as MediaWiki's api.php does; see --api-url")
                    error = body.get("error")
                    if not error:
                        return body
                    problem = f"{error.get('code')}: {error.get('info')}"[:200]
                    if error.get("code") not in {"maxlag", "ratelimited", "readonly"}:
                        raise UserError(f"{self.url} refused the request ({problem})")
                elif reply.status_code not in PASSING:
                    raise UserError(f"{self.url} answered {problem}; is it a MediaWiki api.php?")
            except requests.RequestException as error:
                problem = type(error).__name__
            if attempt + 1 < ATTEMPTS:
                time.sleep(wait)
        raise UserError(f"{self.url} failed {ATTEMPTS} times ({problem}); the same command continues later")

    def query(self, titles: list[str], **parameters: str) -> Iterator[dict[str, Any]]:
        """The `query` object of each reply to a query about `titles`, following the server's continuation."""
        fixed = {"action": "query", "format": "json", "formatversion": "2", "maxlag": "5", "titles": "|".join(titles)}
        following: dict[str, str] = {}
        for _ in range(MOST_REPLIES):
            body = self.request({**fixed, **parameters, **following})
            yield body.get("query", {})
            if body.get("continue", following) == following:
                return
            following = body["continue"]
        raise UserError(f"{self.url} continued one reply {MOST_REPLIES} times; the same command continues later")

    def open(self) -> None:
        """Nothing to prepare: pages are fetched as the walk reaches them."""

    def landmarks(self) -> list[str]:
        return []

    def fetch(self, titles: list[str]) -> dict[str, Page]:
        """The pages that exist. A title that the server writes otherwise comes back as a redirect to that."""
        pages: dict[str, Page] = {}
        redirects: set[str] = set()  # told once, while the pages' text may come with a continuation
        items: dict[str, str] = {}  # the same
        properties = {"prop": "info|revisions|pageprops", "ppprop": "wikibase_item"}
        for reply in self.query(titles, **properties, rvprop="ids|content", rvslots="main"):
            for change in reply.get("normalized", []):
                pages[change["from"]] = Page(change["from"], 0, 0, "", redirect=encodable(change["to"]))
            redirects |= {found["title"] for found in reply.get("pages", []) if found.get("redirect")}
            items |= {found["title"]: item for found in reply.get("pages", []) if (item := wikidata_item(found))}
            for found in reply.get("pages", []):
                for revision in found.get("revisions", []):
                    title, wikitext = found["title"], revision.get("slots", {}).get("main", {}).get("content", "")
                    wikitext = encodable(wikitext)
                    redirect = redirect_target(wikitext) if title in redirects else None
                    pages[title] = Page(title, found.get("pageid", 0), revision["revid"], wikitext, redirect)
        return {title: page._replace(item=items.get(title)) for title, page in pages.items()}

    def redirects_to(self, titles: list[str]) -> list[tuple[str, str]]:
        replies = self.query(titles, prop="redirects", rdnamespace="0", rdlimit="max")
        found = [page for reply in replies for page in reply.get("pages", [])]
        pairs = [(redirect["title"], page["title"]) for page in found for redirect in page.get("redirects", [])]
        return [(encodable(title), encodable(target)) for title, target in pairs]

    def name(self) -> str:
        return str(urlsplit(self.url).hostname)

    def address(self) -> str | None:
        """MediaWiki keeps api.php and index.php in one place."""
        place = self.url.removesuffix("api.php")
        return f"{place}index.php?title=" if place != self.url else None

    def close(self) -> None:
        self.session.close()


class KeptSource(ApiSource):
    """A live MediaWiki whose pages are first looked for in an SQLite file; with `keep`, what it sends goes there."""

    SCHEMA = "CREATE TABLE IF NOT EXISTS page(wiki TEXT, title TEXT, page BLOB, PRIMARY KEY(wiki, title))"
    TEXT = (str, None)
    ROW = (None, {"title": str, "page": int, "revision": int, "wikitext": str, "redirect": TEXT, "item": TEXT})

    def __init__(self, url: str, contact: str | None, store: Path, keep: bool):
        """Pages that the store has of another wiki stay there unread. Raises UserError as `ApiSource` does."""
        super().__init__(url, contact)
        self.store, self.keep = store, keep

    def open(self) -> None:
        self.db = sqlite3.connect(self.store)
        self.db.execute(self.SCHEMA)
        (kept,) = self.db.execute("SELECT count(*) FROM page WHERE wiki = ?", [self.url]).fetchone()
        if kept:
            print(f"{kept:,} pages of {self.url} are read from {self.store}; delete it to fetch them again")

    def fetch(self, titles: list[str]) -> dict[str, Page]:
        marks = ", ".join("?" * len(titles))
        select = f"SELECT title, page FROM page WHERE wiki = ? AND title IN ({marks})"
        kept = {title: self.unpacked(page) for title, page in self.db.execute(select, [self.url, *titles])}
        missing = [title for title in titles if title not in kept]
        fetched = super().fetch(missing) if missing else {}
        if self.keep:
            rows = [(self.url, title, packed(fetched.get(title))) for title in {*missing, *fetched}]
            with self.db:
                self.db.executemany("INSERT OR REPLACE INTO page VALUES (?, ?, ?)", rows)
        return {title: page for title, page in kept.items() if page} | fetched

    def unpacked(self, page: bytes) -> Page | None:
        """The inverse of `packed`. Raises UserError if it is damaged."""
        try:
            row = json.loads(zlib.decompress(page))
            problem = misfit(row, self.ROW)
        except (zlib.error, ValueError, TypeError) as error:  # TypeError: SQLite holds anything in any column
            problem = error
        if problem:
            raise UserError(f"{self.store} is damaged ({problem}); delete it, and pages are fetched again")
        return row and Page(**row)

    def close(self) -> None:
        super().close()
        self.db.close()


def packed(page: Page | None) -> bytes:
    """A page, or that there is none of a title."""
    return zlib.compress(json.dumps(page and page._asdict()).encode(), 1)


Source = DumpSource | ApiSource


REPLY = {  # the shape of what we read of a reply of api.php (format version 2, MediaWiki 1.25 and later)
    "query?": {
        "pages?": [
            {
                "title": str,
                "pageid?": int,
                "revisions?": [{"revid": int, "slots?": {"main?": {"content?": str}}}],
                "redirects?": [{"title": str}],
                "pageprops?": {"wikibase_item?": str},
            }
        ],
        "normalized?": [{"from": str, "to": str}],
    },
    "continue?": {str: (str, int)},
    "error?": {"code?": str, "info?": str},
}


def is_reply(body: Any) -> bool:
    """Whether a reply has the form of an api.php, as far as we read it."""
    return misfit(body, REPLY) is None


def wikidata_item(found: dict[str, Any]) -> str | None:
    """The Wikidata id of a page in a reply, if it is one."""
    item = found.get("pageprops", {}).get("wikibase_item", "")
    return item if WIKIDATA_ITEM.fullmatch(item) else None


def encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can write and SQLite cannot hold."""
    return text.encode("utf-8", "replace").decode()


def redirect_target(wikitext: str) -> str | None:
    links = mwparserfromhell.parse(wikitext[:2000]).filter_wikilinks()
    return normalise_title(str(links[0].title)) if links else None

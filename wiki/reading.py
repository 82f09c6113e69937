"""What was read off a page, and the worker processes that read: pages are untrusted, so each has a limit of time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from wiki.mediawiki import MAX_PAGE_CHARS, Page, worker_processes

PAGE_SECONDS = 30  # of CPU time; a long article takes 0.1 s, hostile wikitext can take hours


STATES_FACT, MENTIONED = 2.0, 1.0  # how relevant a link is: by the section where it stands


class Mention(NamedTuple):
    """A link that makes a relation if both ends turn out to be entities and the linked one's type is in `linked`."""

    relation: str
    linked: str
    inverse: bool
    target: str
    section: str
    sentence: str
    trust: float  # from 0 to 1, in this piece of evidence


@dataclass
class Reading:
    """What was read off one page: its `kind` is an entity type, "disambiguation" or "other"."""

    kind: str
    rare: bool = False
    names: list[str] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    links: dict[str, float] = field(default_factory=dict)  # title -> relevance; on a disambiguation page its meanings
    paragraphs: list[tuple[str, str]] = field(default_factory=list)  # section, plain text

    def add(self, mention: Mention) -> None:
        """Add a fact that was not read off a link."""
        self.mentions.append(mention)
        self.links[mention.target] = STATES_FACT


Read = Callable[[Page, str | None], Reading | str]  # a page, its type if that is known -> what it says, or a reason


def read_within(seconds: float, read: Read, page: Page, kind: str | None) -> Reading | str:
    """`read` in a worker process, which dies if it takes more than `seconds` of CPU time.

    Not wall-clock time, so that what is read does not depend on what else the machine does. The kernel ends the process
    (the default of SIGPROF), since hostile wikitext can keep the parser's C code busy, where no Python handler runs.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return read(page, kind)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Readers:
    """Worker processes that read pages. If one dies, all are replaced."""

    def __init__(self, read_page: Read, workers: int):
        self.read_page, self.workers = read_page, workers
        self.start()

    def start(self) -> None:
        self.pool = worker_processes(self.workers)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def read(self, pages: list[Page], kinds: dict[str, str] | None = None) -> dict[str, Reading | str]:
        """Title -> the page's reading, or the reason why there is none. `kinds`: title -> type, where it is known."""
        kinds = kinds or {}
        too_long = [page for page in pages if len(page.wikitext) > MAX_PAGE_CHARS]
        readings: dict[str, Reading | str] = {p.title: f"longer than {MAX_PAGE_CHARS} characters" for p in too_long}
        readings |= self.read_until_one_dies([page for page in pages if page.title not in readings], kinds)
        for page in [page for page in pages if page.title not in readings]:  # alone, to see whether it is to blame
            why = f"not read within {PAGE_SECONDS} seconds of CPU time"
            readings[page.title] = self.read_until_one_dies([page], kinds).get(page.title, why)
        return readings

    def read_until_one_dies(self, pages: list[Page], kinds: dict[str, str]) -> dict[str, Reading | str]:
        """The readings of the pages up to the first whose reader died."""
        readings = {}
        together = max(1, len(pages) // (4 * self.workers))  # a job's pages: handing over one alone takes its time
        try:
            read = partial(read_within, PAGE_SECONDS, self.read_page)
            known = [kinds.get(page.title) for page in pages]
            for page, reading in zip(pages, self.pool.map(read, pages, known, chunksize=together)):
                readings[page.title] = reading
        except BrokenProcessPool:
            self.close()
            self.start()
        return readings

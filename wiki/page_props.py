"""The Wikidata ids of pages, from a dump of MediaWiki's table page_props (enwiki-latest-page_props.sql.gz)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from tools.cli import UserError, progress_bar
from wiki.mediawiki import chunks_of, unpacked

TABLE = re.compile(rb"(?:CREATE TABLE|INSERT INTO) (?:IF NOT EXISTS )?[`\"]?(?:\w{1,30}_)?page_props\b", re.IGNORECASE)
# Quotes within a value are escaped, so that no value can hold what looks like such a row.
ITEM = re.compile(rb"\((\d{1,18}),'wikibase_item','(Q[1-9]\d{0,17})'")
LONGEST_ROW = 100  # bytes, of a row with an item


def check_page_props(path: Path) -> None:
    """Raises UserError if a file does not begin as a dump of page_props (.sql, or compressed as its name says)."""
    if not path.is_file():
        raise UserError(f"--page-props {path} does not exist; give the page_props.sql.gz of the wiki's dumps")
    try:
        with open(path, "rb") as raw:
            head = next(chunks_of(unpacked(raw, path)), b"")
    except (EOFError, OSError, zlib.error):
        head = b""
    if not TABLE.search(head):
        raise UserError(f"--page-props {path} is no SQL dump of page_props; give the wiki's page_props.sql.gz")


def read_page_props(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (page id, Wikidata item) of a dump of page_props, read in pieces.

    Raises UserError if it is no such file, or is cut.
    """
    check_page_props(path)
    rest = b""
    try:
        with (
            open(path, "rb") as raw,
            progress_bar(total=path.stat().st_size, unit="B", unit_scale=True, desc="page_props") as bar,
        ):
            for chunk in chunks_of(unpacked(raw, path)):
                rest, end = rest + chunk, 0
                for row in ITEM.finditer(rest):
                    yield int(row[1]), row[2].decode()
                    end = row.end()
                rest = rest[max(end, len(rest) - LONGEST_ROW) :]
                bar.update(raw.tell() - bar.n)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"--page-props {path} is truncated or malformed ({error}); download it again") from None

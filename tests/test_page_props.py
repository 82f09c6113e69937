"""wiki/page_props.py: a dump of a table in SQL, streamed; whatever else is no such file."""

import gzip
import random
import sqlite3

import pytest
from conftest import call_main, python
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import PAGES, REDIRECTS, build, export

import kg_build
from tools.cli import UserError
from wiki import page_props

HEAD = """-- MariaDB dump 10.19  Distrib 10.5.23-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: db1206    Database: enwiki
DROP TABLE IF EXISTS `page_props`;
CREATE TABLE `page_props` (
  `pp_page` int(8) unsigned NOT NULL,
  `pp_propname` varbinary(60) NOT NULL DEFAULT '',
  `pp_value` blob NOT NULL,
  `pp_sortkey` float DEFAULT NULL
);
"""
ROWS = [
    "(1,'displaytitle','<i>Pneumonia\\'s</i> (1,\\'wikibase_item\\',\\'Q666\\',NULL)',NULL)",
    "(1,'wikibase_item','Q12192',NULL)",
    "(2,'page_image_free','A_(b).jpg',NULL)",
    "(2,'wikibase_item','Q201928',NULL)",
    "(3,'wikibase_item','none',NULL)",
    "(77777,'wikibase_item','Q77',NULL)",
]


def sql(rows):
    return f"{HEAD}INSERT INTO `page_props` VALUES {','.join(rows)};\n-- Dump completed\n"


def test_items_are_read_and_nothing_within_a_value_is_taken_for_one(tmp_path):
    expected = [(1, "Q12192"), (2, "Q201928"), (77777, "Q77")]
    (tmp_path / "page_props.sql").write_text(sql(ROWS))
    (tmp_path / "page_props.sql.gz").write_bytes(gzip.compress(sql(ROWS).encode()))
    for path in tmp_path.iterdir():
        assert list(page_props.read_page_props(path)) == expected


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 300))
def test_where_a_piece_ends_does_not_matter(tmp_path_factory, seed, size):
    rng = random.Random(seed)
    rows = [(rng.randrange(10**8), f"Q{rng.randrange(1, 10**9)}") for _ in range(40)]
    other = ["(5,'defaultsort','%s',NULL)" % ("x" * rng.randrange(200)) for _ in rows]
    text = sql([f"({page},'wikibase_item','{item}',NULL),{filler}" for (page, item), filler in zip(rows, other)])
    path = tmp_path_factory.mktemp("props") / "page_props.sql"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        first, rest = text[: len(HEAD)], text[len(HEAD) :]
        pieces = [first, *(rest[at : at + size] for at in range(0, len(rest), size))]
        patch.setattr(page_props, "chunks_of", lambda stream: iter([piece.encode() for piece in pieces]))
        assert list(page_props.read_page_props(path)) == rows


WHOLE = gzip.compress(sql(ROWS + [f"({n},'wikibase_item','Q{n}',NULL)" for n in range(1, 90_000)]).encode())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "other.sql",
            b"CREATE TABLE `page` (`page_id` int);\nINSERT INTO `page` VALUES (1,0,'Page_props');",
            "is no SQL",
        ),
        ("text.sql.gz", sql(ROWS).encode(), "is no SQL dump"),
        ("random.sql.gz", bytes(range(256)) * 10, "is no SQL dump"),
        ("empty.sql", b"", "is no SQL dump"),
        ("dump.xml", export({"Rash": PAGES["Rash"]}, {}).encode(), "is no SQL dump"),
        ("cut.sql.gz", WHOLE[: len(WHOLE) * 3 // 4], "truncated or malformed"),
    ],
)
def test_another_file_is_a_user_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(page_props.read_page_props(tmp_path / name))


def test_items_are_added_to_a_finished_graph_and_a_bad_file_changes_nothing(tmp_path, capsys):
    build(tmp_path, export(PAGES, REDIRECTS)).close()
    before = (tmp_path / "kg.sqlite").read_bytes()
    (tmp_path / "cut.sql.gz").write_bytes(WHOLE[: len(WHOLE) * 3 // 4])
    (tmp_path / "page_props.sql").write_text(sql(["(99999,'wikibase_item','Q5',NULL)"]))
    for name, message in (
        ("cut.sql.gz", "truncated"),
        ("page_props.sql", "is it of the same wiki"),
        ("x", "not exist"),
    ):
        result = python("kg_build.py", "--run", tmp_path, "--page-props", tmp_path / name)
        assert result.returncode == 1 and message in result.stderr and result.stderr.count("error") == 1
        assert (tmp_path / "kg.sqlite").read_bytes() == before
    (tmp_path / "page_props.sql").write_text(sql(ROWS))
    capsys.readouterr()
    call_main(kg_build, "--run", tmp_path, "--page-props", tmp_path / "page_props.sql")
    assert "2 entities have a Wikidata item" in capsys.readouterr().out
    db = sqlite3.connect(tmp_path / "kg.sqlite")
    items = db.execute("SELECT title, item FROM wikidata JOIN entity ON entity.id = entity ORDER BY title").fetchall()
    assert items == [("Amoxicillin", "Q201928"), ("Pneumonia", "Q12192")]
    assert not list(tmp_path.glob("*.changed"))

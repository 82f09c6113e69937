"""kg_build.py: recognition, linking, evidence, the walk, restart."""

import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
import stages
from conftest import killed_after, metrics_of, python
from pages import (
    ENCYCLOPEDIA,
    PAGES,
    REDIRECTS,
    WIKI,
    assert_evidence_stands_on_its_page,
    build,
    dump_source,
    export,
    facts,
)

import kg_build
from graph import SCHEMA
from tools.cli import UserError
from tools.run import read_jsonl
from wiki import mediawiki
from wiki.pages import read_page
from wiki.recognition import TYPES
from wiki.rules import RULES


def test_pages_are_recognised_by_infobox_and_category(page_graph):
    types = dict(page_graph.execute("SELECT title, type FROM entity"))
    assert {title: types.get(title) for title in PAGES} == {
        "Pneumonia": "disease",
        "Amoxicillin": "drug",
        "Penicillin": "drug class",
        "Warfarin": "drug",
        "Aspirin": "drug",
        "Cough": "symptom",
        "Fever": "symptom",
        "Rash": "symptom",
        "Headache": "symptom",
        "Hypertension": "disease",
        "Sepsis": "disease",
        "Influenza": "disease",
        "Lung": "anatomy",
        "Streptococcus pneumoniae": "pathogen",
        "Inflammation": None,  # nothing links to it and it has no infobox
        "Aardvark": None,
        "London": None,
        "Mercury": None,
        "Cold": None,
        "Beecham": None,
        "Island": "drug",  # found although nothing links to it
    }
    assert page_graph.execute("SELECT title, page, revision FROM entity WHERE rare").fetchall() == [
        ("Pneumonia", 1, 1001)
    ]
    assert read_page(mediawiki.Page("Inflammation", 1, 1, PAGES["Inflammation"])).kind == "mechanism"
    assert read_page(mediawiki.Page("Aardvark", 1, 1, PAGES["Aardvark"])).kind == "other"


def test_relations_are_exactly_those_that_the_pages_state(page_graph):
    assert set(facts(page_graph)) == {
        ("Pneumonia", "symptom", "Cough"),
        ("Pneumonia", "symptom", "Fever"),
        ("Pneumonia", "symptom", "Hypertension"),  # from the infobox, not from the prose
        ("Pneumonia", "affects", "Lung"),
        ("Pneumonia", "cause", "Streptococcus pneumoniae"),
        ("Pneumonia", "cause", "Influenza"),
        ("Pneumonia", "treated_by", "Amoxicillin"),
        ("Pneumonia", "complication", "Sepsis"),
        ("Pneumonia", "complication", "Influenza"),  # the one disease among the items of "Cold"; "Beecham" is two drugs
        ("Amoxicillin", "belongs_to", "Penicillin"),
        ("Amoxicillin", "contraindication", "Sepsis"),
        ("Sepsis", "prevented_by", "Amoxicillin"),
        ("Influenza", "treated_by", "Amoxicillin"),  # "prevents attacks of" is treatment
        ("Sepsis", "symptom", "Cough"),  # read from the symptom's page
    }


def test_evidence_is_the_sentence_as_it_stands_on_the_page(page_graph):
    known = facts(page_graph)
    assert known["Pneumonia", "symptom", "Fever"] == (
        "Signs and symptoms",
        "People with hypertension often have a high temperature, i.e. Fever.",
    )
    assert known["Pneumonia", "symptom", "Hypertension"] == (
        "infobox: symptoms",
        "Pneumonia: symptoms: Cough, fever, Mercury, Hypertension",
    )
    assert known["Pneumonia", "cause", "Streptococcus pneumoniae"] == ("Causes", "Streptococcus pneumoniae")
    assert known["Pneumonia", "affects", "Lung"][1] == "Pneumonia (e.g. from a virus) is an infection of the lungs."
    assert known["Pneumonia", "complication", "Sepsis"][0] == "Complications"
    assert_evidence_stands_on_its_page(page_graph)


def test_aliases_name_one_entity_each(page_graph):
    aliases = dict(page_graph.execute("SELECT name, title FROM alias JOIN entity ON entity.id = alias.entity"))
    assert aliases == {
        "lung infection": "Pneumonia",
        "chest cold": "Pneumonia",
        "pyrexia": "Fever",  # a redirect to a redirect
        "high temperature": "Fever",
        "amoxil": "Amoxicillin",
    }  # neither "week" (bold, but no name) nor "tb cough" (two entities) nor "mercury" (a page of its own)


def test_a_link_by_an_alias_without_a_page_is_linked(page_graph):
    page = page_graph.execute("SELECT page FROM entity WHERE title = 'Lung'").fetchone()
    select = "SELECT e.section FROM evidence e JOIN relation r ON r.id = e.relation "
    select += "WHERE r.relation = 'affects' AND e.page = ?"
    rows = page_graph.execute(select, page).fetchall()
    assert rows == [("Clinical significance",)]


def test_incoming_counts_the_other_pages_that_refer_to_an_entity(page_graph):
    incoming = dict(page_graph.execute("SELECT title, incoming FROM entity"))
    assert incoming["Sepsis"] == 3  # Pneumonia, Amoxicillin, Cough
    assert incoming["Pneumonia"] == 2  # Amoxicillin, Lung
    assert incoming["Warfarin"] == 0


def test_working_tables_are_gone_and_metrics_are_logged(page_graph):
    tables = {name for (name,) in page_graph.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"meta", "entity", "alias", "relation", "evidence", "prose", "page_error", "rejected"}
    folder = Path(page_graph.execute("PRAGMA database_list").fetchone()[2]).parent
    assert (
        list(read_jsonl(folder / "metrics.jsonl"))[-1]["relations"]
        == page_graph.execute("SELECT count(*) FROM relation").fetchone()[0]
    )
    assert not list(folder.glob("*.partial")) and not (folder / "kg.pages.sqlite").exists()


def test_command_line_errors_are_one_line(tmp_path):
    dump = tmp_path / "dump.xml"
    shutil.copy(ENCYCLOPEDIA, dump)
    (tmp_path / "x_edges.jsonl").write_text('{"text": "mine"}\n')
    for arguments, message in (
        (["--source", str(tmp_path / "none.xml")], "does not exist"),
        (["--stats"], "does not exist; make it with"),
        ([], "--contact"),
        (["--source", "api", "--api-url", "ftp://x", "--contact", "a@b.c"], "no http"),
        (["--target", "0"], "--target: 0 must be at least 1"),
        (["--source", str(ENCYCLOPEDIA), "--teacher", "evidence"], "cannot read pages"),
        (["--verify-relations"], "name it with --teacher"),
        (["--verify-relations", "--teacher", "openai:x", "--verify-below", "1.5"], "1.5 must be from 0 to 1"),
        (["--source", str(ENCYCLOPEDIA), "--export", str(tmp_path / "no" / "kg.graphml")], "there is no folder"),
        (["--source", str(ENCYCLOPEDIA), "--text", str(tmp_path / "no" / "corpus.jsonl")], "there is no folder"),
        (["--export", str(tmp_path / "kg.jsonl")], "has to end in _nodes.jsonl"),
        (["--source", str(ENCYCLOPEDIA), "--page-props", str(ENCYCLOPEDIA)], "is no SQL dump of page_props"),
        (["--source", str(dump), "--text", str(dump)], "there is another file, which --text has not written"),
        (["--source", str(dump), "--export", str(dump)], "there is another file, which --export has not written"),
        (["--source", str(dump), "--text", str(tmp_path / "kg.sqlite")], "kg.sqlite is a file that a stage makes"),
        (["--source", str(dump), "--export", str(tmp_path / "kg.sqlite.partial")], "is a file that a stage makes"),
        (["--text", str(tmp_path / "x"), "--export", str(tmp_path / "x")], "--export writes this file; name another"),
        (["--text", f"{tmp_path}/y_edges.jsonl", "--export", f"{tmp_path}/y_nodes.jsonl"], "--export writes this file"),
        (["--export", f"{tmp_path}/x_nodes.jsonl"], "x_edges.jsonl: there is another file, which --export has not"),
    ):
        result = python("kg_build.py", "--run", tmp_path, *arguments)
        assert result.returncode == 1 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "kg.sqlite.partial").exists()  # told before the work begins
    assert dump.read_bytes() == ENCYCLOPEDIA.read_bytes()


def test_a_file_in_the_run_directory_may_be_named_before_that_is_there(tmp_path):
    (tmp_path / "dump.xml").write_text(export(PAGES, REDIRECTS))
    flags = ("--source", "./dump.xml", "--seeds", "Pneumonia", "--text", "new/prose.jsonl", "--export", "new/a.graphml")
    flags = [str(tmp_path / flag) if "/" in flag else flag for flag in flags]
    made = python("kg_build.py", "--run", tmp_path / "new", *flags)
    assert made.returncode == 0, made.stderr
    assert {"kg.sqlite", "prose.jsonl", "a.graphml"} < {path.name for path in (tmp_path / "new").iterdir()}


def test_a_dump_without_medical_pages_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no medical page"):
        build(tmp_path, export({"London": PAGES["London"]}, {}))
    assert not (tmp_path / "kg.sqlite").exists()


def test_a_build_says_what_became_of_every_title(tmp_path, capsys):
    db = build(tmp_path, export(PAGES, REDIRECTS))
    visited, rest = capsys.readouterr().out.strip().split(" titles visited: ")
    counts = [int(part.split()[0]) for part in rest.split(", ")]
    entities = db.execute("SELECT count(*) FROM entity").fetchone()[0]
    assert sum(counts) == int(visited) and f"{entities} became entities" in rest
    assert f"{len(REDIRECTS)} are redirects" in rest and "3 are disambiguation pages" in rest


def test_the_walk_goes_where_facts_are_and_stops_at_the_target(tmp_path):
    db = build(tmp_path, export(PAGES, REDIRECTS), target=4)
    titles = [title for (title,) in db.execute("SELECT title FROM entity ORDER BY id")]
    assert len(titles) == 4 and titles[0] == "Pneumonia"


def test_the_frontier_prefers_facts_then_rare_then_near():
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA + kg_build.WORK_SCHEMA)
    text = "{{{{Infobox medical condition}}}}\n== Treatment ==\n[[{0} fact]]\n== History ==\n[[{0} mention]]\n{1}"
    for number, (title, distance, rare) in enumerate((("Near", 0, False), ("Far", 3, False), ("Rare", 0, True))):
        wikitext = text.format(title, "[[Category:Rare diseases]]" * rare)
        page = mediawiki.Page(title, number, number, wikitext)
        kg_build.add_entity(db, page, read_page(page), distance)
    best = [title for (title,) in db.execute("SELECT title FROM frontier ORDER BY priority DESC, title")]
    order = ["Rare fact", "Near fact", "Far fact", "Rare mention", "Near mention", "Far mention"]
    assert [title for title in best if title in order] == order


@pytest.mark.parametrize(
    ("heading", "told"),
    [
        ("Treatment of co-morbid conditions", False),
        ("Comorbid disorders", False),
        ("Treatment of morbid obesity", True),
        ("Medical treatment", True),
    ],
)
def test_what_is_given_for_a_comorbid_condition_is_told_of_that(heading, told):
    wikitext = f"{{{{Infobox disease}}}}\n== Treatment ==\n=== {heading} ===\n[[Zylozine]] is given."
    mentions = read_page(mediawiki.Page("Glarn disease", 1, 1, wikitext)).mentions
    assert bool(mentions) is told


def test_a_killed_build_goes_on_where_it_was(tmp_path):
    """kill -9 in the middle of the walk, then the same command: the same graph as in one go."""
    page = "{{{{Infobox disease}}}}'''Disease {0}'''.\n== Complications ==\n[[Disease {1}]], [[Disease {2}]]."
    pages = {f"Disease {n}": page.format(n, n + 1, 3 * n) for n in range(1500)}
    (tmp_path / "dump.xml").write_text(export(pages, {}), encoding="utf-8")
    run = tmp_path / "killed"
    command = f"kg_build.py --run {run} --source {tmp_path}/dump.xml --workers 1 --seeds".split()
    command.append("Disease 1")
    process = stages.start(command, tmp_path)
    found = 0
    while process.is_alive() and found < 100:
        time.sleep(0.01)
        if (run / "kg.sqlite.partial").exists():
            with sqlite3.connect(run / "kg.sqlite.partial", timeout=10) as db:
                tables = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'entity'").fetchone()[0]
                found = db.execute("SELECT count(*) FROM entity").fetchone()[0] if tables else 0
            db.close()
    running = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [Path(f"/proc/{child}/cmdline") for child in running.read_text().split()]
    process.kill()
    process.join()
    assert workers and 100 <= found < 1500 and not (run / "kg.sqlite").exists()
    assert python(*command).returncode == 0
    # A process that has ended but that nobody has waited for has no command line any more.
    assert not any(worker.exists() and worker.read_bytes() for worker in workers), "its workers live on"
    whole = build(tmp_path / "whole", (tmp_path / "dump.xml").read_text(), seeds="Disease 1")
    resumed = sqlite3.connect(run / "kg.sqlite")
    for table in ("entity", "relation", "alias", "prose"):
        select = f"SELECT * FROM {table} ORDER BY 1"
        assert resumed.execute(select).fetchall() == whole.execute(select).fetchall()
    assert resumed.execute("SELECT count(*) FROM entity").fetchone() == (1500,)
    steps = [row["step"] for row in read_jsonl(run / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_a_build_that_is_killed_after_linking_goes_on(tmp_path, page_graph):
    (tmp_path / "dump.xml").write_text(export(PAGES, REDIRECTS), encoding="utf-8")
    flags = ["--run", tmp_path / "run", "--source", tmp_path / "dump.xml", "--workers", "1", "--seeds", "Pneumonia"]
    folder = Path(page_graph.execute("PRAGMA database_list").fetchone()[2]).parent
    (last,) = [row["step"] for row in metrics_of(folder, "kg_build")]
    killed = killed_after("kg_build", last, *flags)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "run" / "kg.sqlite").exists()
    assert python("kg_build.py", *flags).returncode == 0
    assert facts(sqlite3.connect(tmp_path / "run" / "kg.sqlite")) == facts(page_graph)


def test_another_source_does_not_mix_into_a_begun_build(tmp_path):
    with pytest.raises(UserError, match="no medical page"):
        build(tmp_path, export({"London": PAGES["London"]}, {}))
    with pytest.raises(UserError, match="begun with another source"):
        build(tmp_path, export(PAGES, {}))
    with pytest.raises(UserError, match="begun with another source"):  # as long, under the same name
        build(tmp_path, export({"London": PAGES["London"][::-1]}, {}))
    with pytest.raises(UserError, match="another teacher"):
        build(tmp_path, export({"London": PAGES["London"]}, {}), teacher_name="openai:x")


def test_a_deleted_run_directory_ends_the_walk(tmp_path):
    (tmp_path / "dump.xml").write_text(export(PAGES, REDIRECTS), encoding="utf-8")
    source, fetched = dump_source(tmp_path / "dump.xml", tmp_path / "kg.pages.sqlite"), []

    def fetch_and_delete(titles):
        fetched.append(titles)
        shutil.rmtree(tmp_path / "run")
        return mediawiki.DumpSource.fetch(source, titles)

    source.fetch = fetch_and_delete
    with pytest.raises((OSError, sqlite3.Error)):
        build(tmp_path / "run", source)
    assert len(fetched) == 1 and not (tmp_path / "run").exists()


@pytest.mark.skipif(not WIKI.exists(), reason="needs the recorded Wikipedia dump in ../shared")
def test_of_206_wikipedia_pages_exactly_the_two_medical_ones_become_entities(tmp_path):
    source = dump_source(next(WIKI.glob("enwiki-2016-206-pages.xml.bz2")), tmp_path / "kg.pages.sqlite")
    pages = "Alabama; Algorithm; Apollo; Aristotle; Anatomy; Alchemy; Altruism; Aardvark; Acid; Algae; Astronaut"
    db = build(tmp_path, source, seeds=pages)
    assert db.execute("SELECT title, type FROM entity ORDER BY title").fetchall() == [
        ("Abortion", "disease"),
        ("Autism", "disease"),
    ]
    readings = {page.title: read_page(page) for page in mediawiki.read_dump(source.dump) if not page.redirect}
    assert {title for title, reading in readings.items() if reading.kind not in {"other", "disambiguation"}} == {
        "Abortion",
        "Autism",
    }
    assert readings["Aberdeen (disambiguation)"].kind == "disambiguation"


@pytest.mark.skipif(not ENCYCLOPEDIA.exists(), reason="needs data/encyclopedia.xml")
def test_the_small_encyclopedia_becomes_a_whole_graph(tmp_path):
    source = dump_source(ENCYCLOPEDIA, tmp_path / "kg.pages.sqlite")
    db = build(tmp_path, source, seeds=kg_build.SEEDS, target=10_000)
    counts = dict(db.execute("SELECT type, count(*) FROM entity GROUP BY type"))
    assert sorted(counts) == TYPES
    assert counts["disease"] >= 80 and counts["drug"] >= 60 and counts["symptom"] >= 45
    assert counts["test"] + counts["imaging"] >= 25
    assert counts["mechanism"] + counts["pathogen"] + counts["anatomy"] >= 25
    assert db.execute("SELECT count(*) FROM entity WHERE rare AND type = 'disease'").fetchone()[0] >= 25
    outsiders = {"Alabama", "Algorithm", "Aristotle", "Apollo", "Mercury", "Depression", "London", "Coffee"}
    assert not outsiders & {title for (title,) in db.execute("SELECT title FROM entity")}
    assert {relation for (relation,) in db.execute("SELECT DISTINCT relation FROM relation")} == {
        r.relation for r in RULES
    }
    assert db.execute("SELECT count(*) FROM page_error").fetchone() == (0,)
    assert_evidence_stands_on_its_page(db)
    assert not db.execute("SELECT sentence FROM relation WHERE sentence LIKE '%[[%' OR sentence LIKE '%{{%'").fetchall()

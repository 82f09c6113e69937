"""graph.py: counts, an entity with its evidence, the exports."""

import re
import sqlite3
from pathlib import Path

import pytest
from conftest import call_main, python
from pages import PAGES, REDIRECTS, export
from test_synth import make_graph

import graph
import kg_build
from tools.cli import UserError
from tools.run import read_jsonl


def test_show_stats_and_text(tmp_path, page_graph, capsys):
    folder = Path(page_graph.execute("PRAGMA database_list").fetchone()[2]).parent
    graph.print_stats(page_graph)
    graph.print_entity(page_graph, "lung infection")
    printed = capsys.readouterr().out
    assert "Pneumonia -treated_by-> Amoxicillin" in printed and "revision 1001" in printed
    assert re.search(r"^  disease  .*  1 called rare on their page$", printed, re.M)
    assert not re.search(r"\b0 |\bNone\b| $", printed, re.M), "of what there is none nothing is told"
    for typo, close in (("Pneumonai", "Pneumonia"), ("lung infektion", "lung infection"), ("Xyzzy", "nothing")):
        with pytest.raises(UserError, match=f"no entity or alias '{typo}' in the graph; close to it: {close}"):
            graph.print_entity(page_graph, typo)
    assert python("kg_build.py", "--run", folder, "--text", tmp_path / "corpus.jsonl").returncode == 0
    texts = {row["title"]: row["text"] for row in read_jsonl(tmp_path / "corpus.jsonl")}
    assert texts["Cough"] == "Cough is a sign.\nSepsis, and it is never seen in influenza."
    assert not any(mark in texts["Pneumonia"] for mark in ("[[", "{{", "'''", "<", "wikitable", "caption"))


def test_a_graph_is_read_wherever_it_lies_and_refused_if_damaged(tmp_path):
    """A folder may have any name; a graph under construction may be damaged too."""
    folder = tmp_path / "a?b #c%41 'd'"
    folder.mkdir()
    make_graph(folder / "kg.sqlite", 0)
    assert all(graph.read_tables(folder / "kg.sqlite"))
    (folder / "kg.sqlite").write_bytes(bytes(5000))
    with pytest.raises(UserError, match="is not a knowledge graph .*make it again with: python kg_build.py"):
        call_main(kg_build, "--run", folder, "--stats")
    (folder / "kg.sqlite").rename(folder / "kg.sqlite.partial")
    (folder / "dump.xml").write_text(export(PAGES, REDIRECTS))
    with pytest.raises(UserError, match="cannot be built .*delete kg.sqlite.partial"):
        call_main(kg_build, "--run", folder, "--source", folder / "dump.xml", "--workers", 1)


def test_networkx_reads_the_exported_graph(tmp_path, page_graph):
    networkx = pytest.importorskip("networkx")
    copy = sqlite3.connect(":memory:")
    page_graph.backup(copy)
    copy.execute("UPDATE entity SET title = ? WHERE title = 'Cough'", ["<Cough> & \"'\x00\ud7ff\x1b"])
    copy.execute("UPDATE relation SET sentence = sentence || ' <]]>' || char(0x1b) || char(0x1f600)")
    graph.write_graphml(copy, tmp_path / "kg.graphml")
    read = networkx.read_graphml(tmp_path / "kg.graphml", force_multigraph=True)
    labels = dict(read.nodes(data="label"))
    assert read.is_directed() and set(read.nodes) == {f"n{n}" for (n,) in copy.execute("SELECT id FROM entity")}
    assert "<Cough> & \"'\ud7ff" in labels.values()
    edges = {(s[1:], data["label"], o[1:], data["revision"], data["sentence"]) for s, o, data in read.edges(data=True)}
    strip = dict.fromkeys([0, 0x1B])
    rows = copy.execute("SELECT subject, relation, object, revision, sentence FROM relation").fetchall()
    assert edges == {(str(s), name, str(o), revision, text.translate(strip)) for s, name, o, revision, text in rows}
    assert read.nodes[next(n for n, label in labels.items() if label == "Pneumonia")] == {
        "label": "Pneumonia",
        "type": "disease",
        "page": 1,
        "revision": 1001,
        "rare": 1,
        "incoming": 2,
    }

"""graph.py: counts, an entity with its evidence, the exports."""

import sqlite3
from pathlib import Path

import pytest
from conftest import python

import graph
from tools.cli import UserError
from tools.run import read_jsonl


def test_show_stats_and_text(tmp_path, page_graph, capsys):
    folder = Path(page_graph.execute("PRAGMA database_list").fetchone()[2]).parent
    graph.print_stats(page_graph)
    graph.print_entity(page_graph, "lung infection")
    printed = capsys.readouterr().out
    assert "disease" in printed and "Pneumonia -treated_by-> Amoxicillin" in printed and "revision 1001" in printed
    for typo, close in (("Pneumonai", "Pneumonia"), ("lung infektion", "lung infection"), ("Xyzzy", "nothing")):
        with pytest.raises(UserError, match=f"no entity or alias '{typo}' in the graph; close to it: {close}"):
            graph.print_entity(page_graph, typo)
    assert python("kg_build.py", "--run", folder, "--text", tmp_path / "corpus.jsonl").returncode == 0
    texts = {row["title"]: row["text"] for row in read_jsonl(tmp_path / "corpus.jsonl")}
    assert texts["Cough"] == "Cough is a sign.\nSepsis, and it is never seen in influenza."
    assert not any(mark in texts["Pneumonia"] for mark in ("[[", "{{", "'''", "<", "wikitable", "caption"))


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

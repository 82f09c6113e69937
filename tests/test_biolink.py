"""wiki/biolink.py and graph.py's KGX export, held against the schema of the Biolink Model."""

import json
import re
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import python

import graph
from tools.run import read_jsonl
from wiki import biolink
from wiki.recognition import TYPES
from wiki.rules import JOINED

SCHEMA = json.loads((Path(__file__).parent / "biolink.json").read_text())
CURIE = re.compile(r"[A-Za-z][\w.]*:\S+")


def is_a(categories, demanded):
    return any(demanded in SCHEMA["classes"][category.removeprefix("biolink:")] for category in categories)


def misfits(relation):
    """The ends of a relation whose categories the domain or range of its predicate does not hold."""
    predicate = biolink.PREDICATES[relation]
    demanded = SCHEMA["predicates"][predicate.name]
    subject_class, object_class = reversed(demanded) if predicate.inverse else demanded
    found = set()
    for subject, object_ in JOINED[relation]:
        object_ = object_.replace("finding", "disease")  # a finding is a disease that is a sign of others
        found |= {subject} - ({subject} if is_a(biolink.categories(subject, []), subject_class) else set())
        found |= {object_} - ({object_} if is_a(biolink.categories(object_, [relation]), object_class) else set())
    return found


def test_every_type_and_relation_has_its_place_in_the_model():
    assert set(biolink.CATEGORIES) == set(TYPES) and set(biolink.PREDICATES) == set(JOINED)
    wrong = {relation: ends for relation in JOINED if (ends := misfits(relation))}
    # As wiki/biolink.py says: the model's only predicate for what makes a condition likelier names a narrower domain.
    assert wrong == {"risk_factor": {"disease", "symptom", "mechanism", "pathogen", "procedure"}}


@pytest.fixture(scope="module")
def told(page_graph):
    """A copy of the graph in which a teacher has denied one relation and confirmed another; three pages have items."""
    copy = sqlite3.connect(":memory:")
    page_graph.backup(copy)
    pages = dict(copy.execute("SELECT title, page FROM entity"))
    items = [
        (pages["Pneumonia"], "Q12192"),
        (pages["Amoxicillin"], "Q201928"),
        (pages["Fever"], "Q38933"),
        (9999, "Q1"),
    ]
    assert graph.add_items(copy, items) == 3
    triple = "SELECT r.id FROM relation r JOIN entity s ON s.id = subject JOIN entity o ON o.id = object "
    triple += "WHERE s.title = ? AND r.relation = ? AND o.title = ?"
    (denied,) = copy.execute(triple, ["Pneumonia", "symptom", "Cough"]).fetchone()
    (confirmed,) = copy.execute(triple, ["Pneumonia", "treated_by", "Amoxicillin"]).fetchone()
    graph.add_verdicts(copy, {denied: "no", confirmed: "yes"})
    copy.execute("UPDATE meta SET value = 'https://en.wikipedia.org/wiki/' WHERE key = 'address'")
    return copy


@pytest.fixture(scope="module")
def kgx(told, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kgx")
    graph.write_kgx(told, folder / "kg_nodes.jsonl")
    assert sorted(path.name for path in folder.iterdir()) == ["kg_edges.jsonl", "kg_nodes.jsonl"]
    return [list(read_jsonl(folder / name)) for name in ("kg_nodes.jsonl", "kg_edges.jsonl")]


def test_every_line_has_the_fields_and_values_of_the_model(kgx, told):
    nodes, edges = kgx
    assert len(nodes) == told.execute("SELECT count(*) FROM entity").fetchone()[0] > 10
    assert len(edges) == told.execute("SELECT count(*) FROM relation").fetchone()[0] - 1 > 10
    for node in nodes:
        assert set(node) <= set(SCHEMA["node"]) and node["category"] and node["name"]
        assert all(category.removeprefix("biolink:") in SCHEMA["classes"] for category in node["category"])
    ids = {node["id"] for node in nodes}
    assert len(ids) == len(nodes) and all(map(CURIE.fullmatch, ids))
    required = {name for name, required in SCHEMA["edge"].items() if required}
    assert {"subject", "predicate", "object", "knowledge_level", "agent_type"} <= required
    for edge in edges:
        assert required <= set(edge) <= set(SCHEMA["edge"])
        assert edge["predicate"].removeprefix("biolink:") in SCHEMA["predicates"]
        assert {edge["subject"], edge["object"]} <= ids and edge["original_predicate"] in JOINED
        assert all(edge[name] in values for name, values in SCHEMA["enums"].items())
        assert 0 <= edge["has_confidence_score"] <= 1 and edge["supporting_text"]
        assert all(
            re.fullmatch(r"https://en\.wikipedia\.org/wiki/\S+\?oldid=\d+", link) for link in edge["publications"]
        )
    assert len({edge["id"] for edge in edges}) == len(edges)


def test_edges_say_what_the_relations_say(kgx, told):
    nodes, edges = kgx
    name = {node["id"]: node["name"] for node in nodes}
    said = {(name[edge["subject"]], edge["predicate"], name[edge["object"]]): edge for edge in edges}
    treats = said["Amoxicillin", "biolink:treats", "Pneumonia"]
    assert (treats["subject"], treats["object"]) == ("WIKIDATA:Q201928", "WIKIDATA:Q12192")
    assert treats["knowledge_level"] == "knowledge_assertion" and treats["has_confidence_score"] > 0.9
    assert "https://en.wikipedia.org/wiki/Pneumonia?oldid=1001" in treats["publications"]
    assert "Antibiotics such as amoxicillin are used." in treats["supporting_text"]
    assert treats["primary_knowledge_source"] == "infores:pages-tests"
    assert ("Pneumonia", "biolink:has_phenotype", "Fever") in said
    assert ("Pneumonia", "biolink:has_phenotype", "Cough") not in said  # a teacher denied it
    assert ("Amoxicillin", "biolink:preventative_for_condition", "Sepsis") in said
    assert ("Amoxicillin", "biolink:subclass_of", "Penicillin") in said
    assert said["Pneumonia", "biolink:associated_with", "Sepsis"]["original_predicate"] == "complication"
    by_name = {node["name"]: node for node in nodes}
    assert by_name["Fever"]["synonym"] == ["high temperature", "pyrexia"]
    assert by_name["Hypertension"]["category"] == ["biolink:Disease", "biolink:PhenotypicFeature"]
    lung = told.execute("SELECT page, revision FROM entity WHERE title = 'Lung'").fetchone()
    assert by_name["Lung"]["id"] == f"fleming.page:{lung[0]}"
    assert by_name["Lung"]["xref"] == [f"https://en.wikipedia.org/wiki/Lung?oldid={lung[1]}"]
    assert by_name["Pneumonia"]["xref"][0] == "fleming.page:1"


def test_a_graph_without_items_verdicts_and_address_is_exported_too(tmp_path, page_graph):
    old = sqlite3.connect(tmp_path / "kg.sqlite")
    page_graph.backup(old)
    old.execute("ALTER TABLE relation DROP COLUMN verdict")
    old.execute("DELETE FROM meta WHERE key = 'address'")
    old.commit()
    old.close()
    flags = ["--run", tmp_path, "--export", tmp_path / "kg_nodes.jsonl", "--stats", "--show", "Pneumonia"]
    result = python("kg_build.py", *flags)
    assert result.returncode == 0 and "Pneumonia -treated_by-> Amoxicillin (confidence 0." in result.stdout
    edges = list(read_jsonl(tmp_path / "kg_edges.jsonl"))
    assert edges and not any("publications" in edge for edge in edges)
    assert {node["id"].split(":")[0] for node in read_jsonl(tmp_path / "kg_nodes.jsonl")} == {"fleming.page"}


def test_wikis_become_information_resources():
    assert biolink.infores("Wikipedia") == biolink.infores("en.wikipedia.org") == "infores:wikipedia"
    assert biolink.infores("Médecine & Co") == "infores:m-decine-co" and biolink.infores("維基") == "infores:wiki"


@pytest.mark.skipif(not find_spec("biolink_model"), reason="needs the package biolink-model")
def test_the_real_model_takes_every_line(kgx):
    from biolink_model.datamodel import pydanticmodel_v2 as model
    from biolink_schema import extract

    assert extract() == SCHEMA
    nodes, edges = kgx
    for node in nodes:
        for category in node["category"]:
            getattr(model, category.removeprefix("biolink:"))(**node | {"category": [category]})
    for edge in edges:
        model.Association(**edge)

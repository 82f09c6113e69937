"""How the graph is told in the terms of the Biolink Model (4.4): categories of things, predicates of relations.

A thing becomes one JSON object (`node`), a relation another (`edge`), as the KGX format has them, one per line. All of
their fields are slots of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

CATEGORIES = {
    "disease": ("Disease",),
    "symptom": ("PhenotypicFeature",),
    "mechanism": ("PathologicalProcess",),  # by its categories on Wikipedia: pathophysiology, pathological processes
    "anatomy": ("AnatomicalEntity",),  # organs, tissues and cells: none of its narrower classes holds them all
    "pathogen": ("OrganismTaxon",),  # viruses too, which are no cellular organisms
    "drug": ("Drug",),
    "drug class": ("Drug",),  # the model has no class of drug classes; both ends of subclass_of are ontology classes
    "procedure": ("Procedure",),
    "test": ("DiagnosticAid", "Procedure"),
    "imaging": ("DiagnosticAid", "Procedure"),
}
# What the object of a relation is as well, since a predicate's domain or range demands it: (relation, its type).
ALSO = {
    ("symptom", "disease"): "PhenotypicFeature",  # anaemia is a disease, and a finding in others
    ("diagnosed_by", "procedure"): "DiagnosticAid",
    ("treated_by", "procedure"): "Treatment",
    ("prevented_by", "procedure"): "Treatment",
}


class Predicate(NamedTuple):
    """A predicate of the model; `inverse`: it leads from our object to our subject."""

    name: str
    inverse: bool = False


PREDICATES = {
    "symptom": Predicate("has_phenotype"),
    "cause": Predicate("caused_by"),
    # The model says that its domain is a substance or a treatment, yet describes it as between any two entities. Of
    # what it offers nothing else says that something makes a condition more likely, so diseases are its subjects too.
    "risk_factor": Predicate("predisposes_to_condition", inverse=True),
    "diagnosed_by": Predicate("is_diagnosed_by"),
    "treated_by": Predicate("treats", inverse=True),
    "prevented_by": Predicate("preventative_for_condition", inverse=True),
    "affects": Predicate("disease_has_location"),
    "contraindication": Predicate("contraindicated_in"),
    "adverse_effect": Predicate("has_adverse_event"),
    "interaction": Predicate("interacts_with"),
    "belongs_to": Predicate("subclass_of"),
    # The model has no predicate for these: `original_predicate` says which of them it is.
    "complication": Predicate("associated_with"),
    "differential": Predicate("associated_with"),
    "mechanism": Predicate("associated_with"),
}


class Statement(NamedTuple):
    """A relation with its evidence: the sentences, and links to the revisions of the pages where they stand.

    Subject and object are ids of nodes. `verdict` is a teacher's: "yes", "unclear" or None.
    """

    relation: str
    subject: str
    object: str
    sentences: list[str]
    links: list[str]
    confidence: float | None
    verdict: str | None


def node_id(page: int, item: str | None) -> str:
    """The CURIE of a thing: its Wikidata item, or else the id of its page under a prefix of our own."""
    return f"WIKIDATA:{item}" if item else f"fleming.page:{page}"


def categories(kind: str, relations: Iterable[str]) -> list[str]:
    """The categories of a thing of a type of ours that is the object of these relations."""
    also = {ALSO[relation, kind] for relation in relations if (relation, kind) in ALSO}
    return [f"biolink:{name}" for name in (*CATEGORIES[kind], *sorted(also))]


def node(id_: str, name: str, kind: str, objects_of: Iterable[str], aliases: list[str], xref: list[str]) -> dict:
    """A KGX node. `objects_of`: the relations of which it is the object."""
    return {"id": id_, "category": categories(kind, objects_of), "name": name, "synonym": aliases, "xref": xref}


def edge(number: int, said: Statement, source: str) -> dict[str, Any]:
    """A KGX edge. `source` is the name of the wiki.

    Its agent is a text miner, whose level of knowledge the model leaves open, unless a teacher has confirmed it.
    """
    predicate = PREDICATES[said.relation]
    ends = (said.object, said.subject) if predicate.inverse else (said.subject, said.object)
    found = {
        "id": f"fleming.relation:{number}",
        "category": ["biolink:Association"],
        "subject": ends[0],
        "predicate": f"biolink:{predicate.name}",
        "object": ends[1],
        "original_predicate": said.relation,
        "knowledge_level": "knowledge_assertion" if said.verdict == "yes" else "not_provided",
        "agent_type": "text_mining_agent",
        "primary_knowledge_source": infores(source),
        "supporting_text": said.sentences,
    }
    found |= {"publications": said.links} if said.links else {}
    return found | ({"has_confidence_score": said.confidence} if said.confidence is not None else {})


def infores(name: str) -> str:
    """A wiki as an information resource: infores:wikipedia for "Wikipedia" and "en.wikipedia.org"."""
    name = "wikipedia" if re.search(r"\bwikipedia\b", name, re.IGNORECASE) else name.lower()
    return "infores:" + (re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "wiki")

"""What the tests need of the Biolink Model's schema, as JSON: `python tests/biolink_schema.py > tests/biolink.json`.

Needs the package biolink-model (`pip install --no-deps biolink-model`) and PyYAML.
"""

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from wiki.biolink import ALSO, CATEGORIES, PREDICATES


def camel(name):
    return "".join(word[0].upper() + word[1:] for word in name.split())


def snake(name):
    return name.replace(" ", "_")


def named(elements, spelling):
    """The elements of the schema by the name under which data know them."""
    return {spelling(name): element or {} for name, element in elements.items()}


def ancestors(classes, name):
    """A class and all that it is a kind of, mixins included."""
    parents = [classes[name].get("is_a"), *classes[name].get("mixins", [])]
    return {name}.union(*(ancestors(classes, camel(parent)) for parent in parents if parent))


def inherited(slots, name, key):
    """What a slot says under a key, or the nearest slot that it is a kind of."""
    slot = slots[name]
    return slot[key] if key in slot or "is_a" not in slot else inherited(slots, snake(slot["is_a"]), key)


def slots_of(classes, slots, name):
    """The slots of a class, those that its ancestors give it included."""
    return sorted({snake(slot) for parent in ancestors(classes, name) for slot in classes[parent].get("slots", [])})


def lineage(slots, name):
    return [name, *(lineage(slots, snake(slots[name]["is_a"])) if "is_a" in slots[name] else [])]


def extract():
    """The predicates and categories that wiki/biolink.py uses, as the schema has them. KeyError for an unknown one."""
    folder = Path(find_spec("biolink_model").submodule_search_locations[0])
    schema = yaml.safe_load((folder / "schema" / "biolink_model.yaml").read_text(encoding="utf-8"))
    classes, slots = named(schema["classes"], camel), named(schema["slots"], snake)
    used = sorted({name for names in CATEGORIES.values() for name in names} | set(ALSO.values()))
    predicates = sorted({predicate.name for predicate in PREDICATES.values()})
    assert all(lineage(slots, name)[-1] == "related_to" for name in predicates)
    association = slots_of(classes, slots, "Association")
    return {
        "source": "biolink_model.yaml of https://pypi.org/project/biolink-model/ (CC0)",
        "version": version("biolink-model"),
        "classes": {name: sorted(ancestors(classes, name)) for name in used},
        "predicates": {
            name: [camel(inherited(slots, name, key) or "named thing") for key in ("domain", "range")]
            for name in predicates
        },
        "node": sorted(set.intersection(*(set(slots_of(classes, slots, name)) for name in used))),
        "edge": {name: bool(slots.get(name, {}).get("required")) for name in association},
        "enums": {
            snake(name): sorted(schema["enums"][enum]["permissible_values"])
            for name, enum in (("knowledge level", "KnowledgeLevelEnum"), ("agent type", "AgentTypeEnum"))
        },
    }


if __name__ == "__main__":
    json.dump(extract(), sys.stdout, indent=1)
    print()

"""How long synth.py takes on a graph of the paper's size: 100,000 questions from 100,000 entities.

The graph is generated: entities of every type, a million relations whose objects follow Zipf's law, so that it has
the hubs of a real one (fever belongs to thousands of diseases) and many entities in one or two relations only.

    python bench/synth.py                                           # the size of the paper's graph
    python bench/synth.py --entities 2000 --relations 20000 --questions 1000
"""

from __future__ import annotations

import argparse
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from itertools import accumulate
from pathlib import Path

SHARES = {"disease": 0.42, "drug": 0.25, "pathogen": 0.09, "symptom": 0.04, "procedure": 0.05, "anatomy": 0.06,
          "mechanism": 0.04, "test": 0.03, "imaging": 0.01, "drug class": 0.01}  # fmt: skip
RELATIONS = [  # subject type, relation, object type, share of all relations
    ("disease", "symptom", "symptom", 0.24), ("disease", "treated_by", "drug", 0.14),
    ("drug", "adverse_effect", "symptom", 0.12), ("disease", "diagnosed_by", "test", 0.08),
    ("disease", "affects", "anatomy", 0.07), ("disease", "differential", "disease", 0.06),
    ("drug", "interaction", "drug", 0.06), ("disease", "mechanism", "mechanism", 0.05),
    ("disease", "complication", "disease", 0.05), ("disease", "treated_by", "procedure", 0.03),
    ("disease", "diagnosed_by", "imaging", 0.03), ("disease", "risk_factor", "disease", 0.02),
    ("disease", "cause", "pathogen", 0.02), ("drug", "belongs_to", "drug class", 0.02),
    ("disease", "treated_by", "drug class", 0.01),
]  # fmt: skip


def make_graph(path: Path, entities: int, relations: int, seed: int) -> None:
    """A graph in kg_build's schema. An entity's weight as an object falls with its rank (Zipf, exponent 0.8)."""
    rng = random.Random(seed)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(entities * share))]
    members = {kind: [number for number, other in enumerate(kinds, 1) if other == kind] for kind in SHARES}
    ranks = {kind: list(accumulate((rank + 1) ** -0.8 for rank in range(len(of)))) for kind, of in members.items()}
    draw = lambda kind: members[kind][bisect(ranks[kind], rng.random() * ranks[kind][-1])]  # noqa: E731
    facts: set[tuple[int, str, int]] = set()
    for subject_type, relation, object_type, share in RELATIONS:
        for _ in range(round(relations * share)):
            facts.add((rng.choice(members[subject_type]), relation, draw(object_type)))
    incoming = Counter(object_ for _, _, object_ in facts)
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE entity(id INTEGER PRIMARY KEY, title, type, page, revision, rare, incoming);"
        "CREATE TABLE alias(name TEXT PRIMARY KEY, entity INTEGER);"
        "CREATE TABLE relation(id INTEGER PRIMARY KEY, subject, relation, object, page, revision, section, sentence);"
    )
    database.executemany(
        "INSERT INTO entity VALUES (?, ?, ?, ?, 1, 0, ?)",
        [(n, f"{kind.capitalize()} {n}", kind, n, incoming[n]) for n, kind in enumerate(kinds, 1)],
    )
    database.executemany(
        "INSERT INTO alias VALUES (?, ?)", [(f"other name of {n}", n) for n in range(1, len(kinds), 2)]
    )
    sentence = "This is the sentence of entity {} that says so about entity {}, as long as such sentences usually are."
    database.executemany(
        "INSERT INTO relation(subject, relation, object, page, revision, section, sentence) "
        "VALUES (?, ?, ?, ?, 1, 'lead', ?)",
        [(s, r, o, s, sentence.format(s, o)) for s, r, o in sorted(facts)],
    )
    database.commit()
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--relations", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="after --: flags for synth.py")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_graph(Path(folder) / "kg.sqlite", args.entities, args.relations, args.seed)
        command = [sys.executable, "synth.py", "--run", folder, "--questions", str(args.questions), *args.flags]
        start = time.time()
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{used.ru_utime:.0f} s of CPU, {time.time() - start:.0f} s, at most {used.ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()

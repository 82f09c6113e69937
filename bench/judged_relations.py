"""How right the graph's relations are, by reading: the verdicts of judged/relations.tsv as a table.

    python -m bench.judged_relations [FILE]
    python -m bench.judged_relations --draw kg.sqlite --seed 2050 > sample.tsv     # rows to be judged, none known yet

Each row is one relation, drawn with a stated seed (so many of each kind, of a frequent one more, by the square root of
its edges), and judged from its sentence alone: correct, wrong or debatable. `edges` is how many relations of its kind
the graph had: the last line weighs the kinds by it.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path

from graph import reading, unjudged
from tools.cli import UserError, at_least, run_stage, stage_parser
from tools.statistics import wilson_interval
from wiki.rules import JOINED

JUDGED = Path(__file__).parent / "judged" / "relations.tsv"
COLUMNS = ("seed", "edges", "subject", "relation", "object", "page", "section", "verdict", "why", "sentence")
NAMES = {"verdict": ("correct", "wrong", "debatable"), "relation": tuple(JOINED)}


def read_judged(path: Path) -> list[dict[str, str]]:
    """The rows of a judged file. Raises UserError if it is none, or for a relation or a verdict that is unknown."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a table of judged relations, such as {JUDGED}")
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 2):
        for column, known in NAMES.items():
            if row.get(column) not in known:
                named = f"{path}, line {number}: {column} {row.get(column)!r}"
                raise UserError(f"{named} is unknown; it has to be one of {', '.join(known)}")
        if not (row.get("edges") or "").isdecimal():
            raise UserError(f"{path}, line {number}: edges {row.get('edges')!r} is no number of relations")
    return rows


def print_table(seed: str, rows: list[dict[str, str]]) -> None:
    """Print one sample's verdicts by relation, with 95% Wilson intervals of the share that is correct."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    edges = {row["relation"]: int(row["edges"]) for row in rows}
    for row in rows:
        counts[row["relation"]][row["verdict"]] += 1
    print(f"\nseed {seed}, {len(rows)} relations of {sum(edges.values()):,}\n")
    print("| relation | edges | judged | correct | wrong | debatable | correct, 95% |\n|---|---|---|---|---|---|---|")
    for relation in sorted(edges, key=edges.__getitem__, reverse=True):
        found, n = counts[relation], counts[relation].total()
        low, high = wilson_interval(found["correct"] / n, n)
        cells = [relation, edges[relation], n, found["correct"], found["wrong"], found["debatable"]]
        print("| " + " | ".join(map(str, cells)) + f" | {100 * low:.0f} to {100 * high:.0f}% |")
    shares = {
        verdict: sum(edges[name] * counts[name][verdict] / counts[name].total() for name in edges) / sum(edges.values())
        for verdict in NAMES["verdict"]
    }
    print("\nweighted by edges: " + ", ".join(f"{100 * share:.1f}% {verdict}" for verdict, share in shares.items()))


def fact_of(row: dict[str, str]) -> tuple[str, str, str]:
    return row["subject"], row["relation"], row["object"]


def draw(graph: Path, seed: int, count: int, known: set[tuple[str, str, str]]) -> list[dict[str, str | int]]:
    """About `count` relations of a graph that are not `known`, at random, as rows of a judged file without verdicts."""
    with reading(graph) as db:
        rows = [row[1:] for row in unjudged(db, below=1.1)]
    edges = Counter(relation for _, relation, *_ in rows)
    share = count / sum(edges[relation] ** 0.5 for relation in edges)
    drawn = []
    for relation in sorted(edges):
        fresh = sorted(row for row in rows if row[1] == relation and row[:3] not in known)
        drawn += random.Random(seed).sample(fresh, min(len(fresh), round(share * edges[relation] ** 0.5) + 1))
    head = ("subject", "relation", "object", "page", "section", "sentence")
    return [
        {"seed": seed, "edges": edges[row[1]], "verdict": "", "why": "", **dict(zip(head, row, strict=True))}
        for row in drawn
    ]


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=JUDGED, help="tab-separated, with a head")
    parser.add_argument("--draw", type=Path, metavar="GRAPH", help="print a sample of this kg.sqlite instead")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--count", type=at_least(1), default=330, metavar="N", help="about how many relations to draw")
    why = "JSON lines with subject, relation and object of more relations whose verdicts are known"
    parser.add_argument("--known", type=Path, metavar="FILE", help=why)
    args = parser.parse_args()
    rows = read_judged(args.file)
    if args.draw:
        more = map(json.loads, args.known.read_text(encoding="utf-8").splitlines()) if args.known else ()
        sample = draw(args.draw, args.seed, args.count, {fact_of(row) for row in (*rows, *more)})
        writer = csv.DictWriter(
            sys.stdout, COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(sample)
        return
    for seed in sorted({row["seed"] for row in rows}):
        print_table(seed, [row for row in rows if row["seed"] == seed])


if __name__ == "__main__":
    run_stage(main)

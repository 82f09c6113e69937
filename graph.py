"""The knowledge graph: kg.sqlite, whose tables this file alone knows (section 3.1).

kg_build.py writes it. synth.py reads it as `Graph`, in memory, and whoever wants to look at it has counts, an entity
with its evidence, and exports:

    python kg_build.py --show Candidiasis
    python kg_build.py --stats --export kg.graphml
    python kg_build.py --export kg_nodes.jsonl         # and kg_edges.jsonl: KGX, in the terms of the Biolink Model
"""

from __future__ import annotations

import codecs
import json
import random
import re
import shutil
import sqlite3
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from xml.sax.saxutils import escape

from tools.cli import UserError
from tools.run import json_line, publish, whole_file
from wiki.biolink import Statement, edge, node, node_id
from wiki.kinds import LONGEST_LEAD, is_class, name_of, names_of_classes, words_of
from wiki.mediawiki import bare, normalise_title, permanent_link
from wiki.recognition import TYPES
from wiki.rules import relations_of, rules_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS entity(id INTEGER PRIMARY KEY, title TEXT UNIQUE, type TEXT, page INTEGER, revision INTEGER,
    rare INTEGER, incoming INTEGER);
CREATE TABLE IF NOT EXISTS alias(name TEXT PRIMARY KEY, entity INTEGER);
CREATE TABLE IF NOT EXISTS relation(id INTEGER PRIMARY KEY, subject INTEGER, relation TEXT, object INTEGER,
    page INTEGER, revision INTEGER, section TEXT, sentence TEXT,   -- its best evidence
    confidence REAL,   -- from 0 to 1, by the rules
    verdict TEXT,      -- a teacher's, whether that sentence states it: yes, no, unclear; NULL if it was not asked
    UNIQUE(subject, relation, object));
CREATE INDEX IF NOT EXISTS relation_object ON relation(object, relation);
CREATE TABLE IF NOT EXISTS evidence(relation INTEGER, page INTEGER, revision INTEGER, section TEXT, sentence TEXT,
    trust REAL, UNIQUE(relation, page, section, sentence));
CREATE TABLE IF NOT EXISTS prose(entity INTEGER PRIMARY KEY, text BLOB);   -- zlib-compressed UTF-8
CREATE TABLE IF NOT EXISTS page_error(title TEXT PRIMARY KEY, reason TEXT);
CREATE TABLE IF NOT EXISTS rejected(reason TEXT PRIMARY KEY, count INTEGER);  -- what the teacher said, or was not asked
"""


def confidence(trusts: list[tuple[float, int, str, str]]) -> float:
    """How sure a relation is, from 0 to 1, by its evidence: (trust, page, section, sentence) of each piece.

    It is the best evidence's trust, and independent support takes its share of the doubt that is left: half of it if
    another page says the same, a third if infobox and prose both do, a tenth for each further sentence (three at most).
    """
    doubt = 1 - max(trust for trust, *_ in trusts)
    if len(trusts) == 1:
        return round(1 - doubt, 4)
    if len({page for _, page, *_ in trusts}) > 1:
        doubt *= 1 / 2
    if len({section.startswith("infobox: ") for *_, section, _ in trusts}) > 1:
        doubt *= 2 / 3
    sentences = len({sentence for *_, sentence in trusts})
    return round(1 - doubt * 0.9 ** min(3, sentences - 1), 4)


def judged(confidence: float | None, verdict: str | None) -> float | None:
    """A relation's confidence when a teacher's verdict counts as well. A yes takes half of the doubt that is left, as
    another page does; a no leaves nothing. None if it has none of either."""
    if verdict == "no":
        return 0.0
    return (1 + confidence) / 2 if verdict == "yes" and confidence is not None else confidence


def add_relations(db: sqlite3.Connection) -> None:
    """Fill `relation` and `evidence` from the temporary table `stated`, which holds one row per piece of evidence."""
    columns = "subject, relation, object, page, revision, section, sentence"
    db.execute(
        f"INSERT OR IGNORE INTO relation({columns}) SELECT {columns} FROM stated "
        "ORDER BY min(rowid) OVER (PARTITION BY subject, relation, object), trust DESC, rowid"
    )
    db.execute(
        "INSERT OR IGNORE INTO evidence SELECT r.id, s.page, s.revision, s.section, s.sentence, s.trust FROM stated s "
        "JOIN relation r USING (subject, relation, object) ORDER BY r.id, s.trust DESC, s.rowid"
    )
    pieces: dict[int, list[tuple[float, int, str, str]]] = defaultdict(list)
    for relation, *piece in db.execute("SELECT relation, trust, page, section, sentence FROM evidence ORDER BY rowid"):
        pieces[relation].append(tuple(piece))
    rows = ((confidence(found), relation) for relation, found in pieces.items())
    db.executemany("UPDATE relation SET confidence = ? WHERE id = ?", rows)


@contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    """A finished graph to be changed: a copy, which takes its place as soon as the block has ended without an error."""
    partial = path.with_name(path.name + ".changed")
    with reading(path):
        pass  # it is sound
    shutil.copyfile(path, partial)
    with closing(sqlite3.connect(partial)) as db:
        with db:
            yield db
    publish(partial, path)


def add_items(db: sqlite3.Connection, items: Iterable[tuple[int, str]]) -> int:
    """Note the Wikidata items of pages: (page id, item). Only a graph whose source tells them has a table for them.

    Returns how many of them are of the graph's entities.
    """
    db.execute("CREATE TABLE IF NOT EXISTS wikidata(entity INTEGER PRIMARY KEY, item TEXT UNIQUE)")
    entity_of = dict(db.execute("SELECT page, id FROM entity"))
    known = ((entity_of[page], item) for page, item in items if page in entity_of)
    return db.executemany("INSERT OR REPLACE INTO wikidata VALUES (?, ?)", known).rowcount


def unjudged(db: sqlite3.Connection, below: float) -> list[tuple[int, str, str, str, str, str, str]]:
    """The relations of less confidence than `below` that no teacher has judged, the surest first.

    Each is (id, subject, relation, object, page of its sentence, section, sentence).
    """
    return db.execute(
        "SELECT r.id, s.title, r.relation, o.title, p.title, r.section, r.sentence FROM relation r "
        "JOIN entity s ON s.id = r.subject JOIN entity o ON o.id = r.object JOIN entity p ON p.page = r.page "
        f"WHERE r.confidence < ? AND {column(db, 'verdict')} IS NULL ORDER BY r.confidence DESC, r.id",
        [below],
    ).fetchall()


def add_verdicts(db: sqlite3.Connection, verdicts: dict[int, str]) -> None:
    """Note what a teacher said about relations, by id."""
    if column(db, "verdict") == "NULL":
        db.execute("ALTER TABLE relation ADD COLUMN verdict TEXT")
    db.executemany("UPDATE relation SET verdict = ? WHERE id = ?", [(said, id_) for id_, said in verdicts.items()])


def column(db: sqlite3.Connection, name: str) -> str:
    """A column of the table relation, `r`; NULL in a graph that was made before there was one of this name."""
    columns = {column for _, column, *_ in db.execute("PRAGMA table_info(relation)")}
    return f"r.{name}" if name in columns else "NULL"


def has_table(db: sqlite3.Connection, name: str) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [name]).fetchone())


# ------------------------------------------------------------------------------------------------------------ in memory

MOST = 100  # competitors looked at for one feature


def inverse(step: str) -> str:
    """The same step from its other end: `symptom` leads from a disease, `~symptom` back to it."""
    return step[1:] if step.startswith("~") else "~" + step


# Relations that a reader may take for one another: what a complication of a disease is, the disease "causes" as well.
# Whatever one of them leads to is never a wrong option.
ALIKE = {
    "symptom": ("complication", "~cause", "~risk_factor"),
    "complication": ("symptom", "~cause", "~risk_factor"),
    "adverse_effect": ("~cause", "~risk_factor"),
    "treated_by": ("prevented_by",),
    "cause": ("risk_factor", "~complication"),
    "risk_factor": ("cause", "~complication"),
    "interaction": ("~interaction",),
}
ALIKE |= {inverse(step): tuple(map(inverse, others)) for step, others in ALIKE.items()}
# Types of which one may be a kind of the other: a symptom can be called a disease, a drug be listed as a class.
FAMILY = {
    **dict.fromkeys(("disease", "symptom", "mechanism"), "condition"),
    **dict.fromkeys(("drug", "drug class"), "remedy"),
    **dict.fromkeys(("test", "imaging", "procedure"), "examination"),
}

# Findings of two names: where a source has no redirect from one to the other, they are two entities.
TWIN_NAMES = {
    "bleeding": "hemorrhage", "drowsiness": "somnolence", "intellectual disability": "mental retardation",
    "itch": "pruritus", "kidney failure": "renal failure", "loss of appetite": "anorexia",
    "muscle weakness": "weakness", "nail clubbing": "clubbing", "perspiration": "sweating", "skin rash": "rash",
}  # fmt: skip


@lru_cache(10_000)
def speaks_aside(kind: str, section: str | None, relation: str) -> bool:
    """Whether the heading right above a sentence is about something else than a relation of the page's subject, of a
    type: a form, a stage, an organ ("Aortic rupture", "Children"), though one further up is about the relation."""
    if section in (None, "lead") or section.startswith("infobox: "):
        return False
    return relation not in relations_of(rules_of(kind, section))


def occurs_in(name: str, sentence: str, after_word: bool = False) -> bool:
    """Whether a name stands in a sentence as whole words, perhaps with a plural's s. Looks at its first occurrence.

    `after_word`: and right behind a word, as a capital must in order to mean something ("Symptoms: Fever, Cough").
    """
    before, found, after = sentence.partition(name)
    if not found or before[-1:].isalnum() or after.removeprefix("s")[:1].isalnum():
        return False
    return not after_word or before[-1:] == " " and before[-2:-1].islower()


def connect(path: Path) -> sqlite3.Connection:
    """A graph's file, to be read only."""
    return sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)


NUMBER = "typeof({0}) = 'integer' AND {0} >= 0"
TEXT = "typeof({0}) = 'text'"
TYPE = f"{{0}} IN ({', '.join(map(repr, TYPES))})"
ENTITY = "{0} IN (SELECT id FROM entity)"
# What holds of every row of a sound graph, by table and column; SQLite itself takes any value in any column.
SOUND = {
    ("entity", "id"): "typeof({0}) = 'integer'",
    ("entity", "title"): TEXT + " AND trim({0}, char(9, 10, 13, 32)) <> ''",
    ("entity", "type"): TYPE,
    ("entity", "page"): NUMBER,
    ("entity", "revision"): NUMBER,
    ("entity", "rare"): NUMBER,
    ("entity", "incoming"): NUMBER,
    ("relation", "subject"): ENTITY,
    ("relation", "relation"): TEXT,
    ("relation", "object"): ENTITY,
    ("relation", "page"): NUMBER,
    ("relation", "revision"): NUMBER,
    ("relation", "section"): TEXT,
    ("relation", "sentence"): TEXT,
    ("relation", "confidence"): "coalesce({0}, 1) BETWEEN 0 AND 1",
    ("relation", "verdict"): "coalesce({0}, 'yes') IN ('yes', 'no', 'unclear')",
    ("wikidata", "entity"): ENTITY,
    ("wikidata", "item"): TEXT,
    ("evidence", "relation"): "{0} IN (SELECT id FROM relation)",
    ("evidence", "page"): NUMBER,
    ("evidence", "section"): TEXT,
    ("evidence", "sentence"): TEXT,
    ("alias", "name"): TEXT,
    ("alias", "entity"): ENTITY,
    ("prose", "entity"): ENTITY,
    ("prose", "text"): "typeof({0}) = 'blob'",
    ("page_error", "title"): TEXT,
    ("rejected", "count"): NUMBER,
}


def check_rows(database: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError, naming table and column, if a row holds what no reader expects there."""
    columns = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    for table, column in database.execute(columns).fetchall():
        sound = SOUND.get((table, column), "1").format(f'"{column}"')
        unsound = database.execute(f'SELECT count(*) FROM "{table}" WHERE NOT coalesce({sound}, 0)').fetchone()[0]
        if unsound:
            raise sqlite3.DatabaseError(f"damaged: {unsound:,} values of {table}.{column} are none that it can have")


def prose_of(blob: object, most: int = 0) -> str:
    """The text of a row of `prose`, or its first `most` bytes. Raises UserError if it is damaged."""
    try:
        text = zlib.decompressobj().decompress(blob, most) if most else zlib.decompress(blob)
        return text.decode(errors="ignore")
    except (zlib.error, TypeError) as error:
        raise UserError(f"kg.sqlite is damaged: a page's prose cannot be read ({error}); make it again") from None


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A graph's file, checked, for as long as the block reads from it. Raises UserError if it is missing or damaged."""
    try:
        with closing(connect(path)) as database:
            check_rows(database)
            yield database
    except sqlite3.Error as error:
        raise UserError(f"{path} is not a knowledge graph ({error}); make it again with: python kg_build.py") from None


def read_tables(path: Path) -> tuple[list[tuple], list[tuple], list[tuple]]:
    """The rows of entity, relation (one for each piece of its evidence) and alias. A relation's page, section,
    confidence or verdict is None if the graph has no such column.

    Raises UserError if the file is no knowledge graph.
    """
    with reading(path) as database:
        evidence = has_table(database, "evidence")
        page = "e.page" if evidence else column(database, "page")
        section = "e.section" if evidence else column(database, "section")
        confidence, verdict = column(database, "confidence"), column(database, "verdict")
        joined = "LEFT JOIN evidence e ON e.relation = r.id" if evidence else ""
        entities = database.execute("SELECT id, title, type, page, incoming FROM entity ORDER BY id").fetchall()
        relations = database.execute(
            f"SELECT r.subject, r.relation, r.object, {page}, {section}, r.revision, r.sentence, {confidence}, "
            f"{verdict} FROM relation r {joined} ORDER BY r.id"
        ).fetchall()
        aliases = database.execute("SELECT name, entity FROM alias ORDER BY name").fetchall()
    if not relations:
        raise UserError(f"{path} holds no relation; build it from a medical dump with: python kg_build.py")
    return entities, relations, aliases


class Graph:
    """The knowledge graph in memory, indexed by relation in both directions. Entities are their database ids.

    `facts` and `neighbours` hold the relations of at least `min_confidence`, a teacher's verdict included (`judged`),
    and none that it denied: what a question may state. `possible` holds all of them, what may be right nevertheless. A
    relation without a confidence counts as sure.
    """

    def __init__(self, path: Path, min_confidence: float = 0.0):
        """Raises UserError if the file is no knowledge graph."""
        entities, relations, aliases = read_tables(path)
        self.path = path
        self.title = {entity: title for entity, title, *_ in entities}
        self.entity = {title: entity for entity, title in self.title.items()}
        self.type = {entity: kind for entity, _, kind, *_ in entities}
        self.incoming = {entity: incoming for entity, *_, incoming in entities}
        self.of_type: dict[str, list[int]] = defaultdict(list)
        for entity, kind in self.type.items():
            self.of_type[kind].append(entity)
        self.names: dict[int, set[str]] = defaultdict(set)  # an entity's title and aliases, in comparable form
        self.named: dict[str, set[int]] = defaultdict(set)  # and whose they are: two entities of one name are synonyms
        titles = ((entity, name) for entity, title in self.title.items() for name in (title, bare(title)))
        for entity, name in [*titles, *((entity, name) for name, entity in aliases)]:
            if words_of(name):
                plain = " ".join(words_of(name))
                self.names[entity] |= {plain, TWIN_NAMES.get(plain, plain)}
        for entity, names in self.names.items():
            for name in names:
                self.named[name].add(entity)
        self.alike: dict[int, frozenset[int]] = {}
        self.broad: dict[tuple[int, str], set[int]] = {}  # what could_mean finds, where that is much
        self.in_order: dict[tuple[int, str], list[int]] = {}
        self.index(relations, {page: entity for entity, _, _, page, _ in entities}, min_confidence)
        self.classify()

    def index(self, relations: list[tuple], page_of: dict[int, int], min_confidence: float) -> None:
        """Index the relations by step and entity; the first of several with one meaning gives the evidence."""
        self.facts: dict[tuple[int, str, int], tuple[int, str]] = {}  # triple -> its evidence: revision, sentence
        self.confidence: dict[tuple[int, str, int], float] = {}  # of the facts
        self.links: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))  # step -> entity -> entities
        self.possible: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))  # of any confidence
        self.told: dict[str, set[int]] = defaultdict(set)  # step -> the entities whose own page tells where it leads
        self.repeated: set[tuple[int, str, int]] = set()  # facts of several pieces of evidence
        self.asides: set[tuple[int, str, int]] = set()  # facts that are told only where a page speaks of something else
        for subject, relation, object_, page, section, revision, sentence, confidence, verdict in relations:
            fact, sure = (subject, relation, object_), judged(confidence, verdict)
            self.possible[relation][subject].add(object_)
            self.possible["~" + relation][object_].add(subject)
            if page is None or page_of.get(page) == subject:
                self.told[relation].add(subject)
            if page is None or page_of.get(page) == object_:
                self.told["~" + relation].add(object_)
            if verdict != "no" and (sure is None or sure >= min_confidence):
                aside = page_of.get(page) == subject and speaks_aside(self.type[subject], section, relation)
                if fact in self.facts:
                    self.repeated.add(fact)
                if not aside:
                    self.asides.discard(fact)
                elif fact not in self.facts:
                    self.asides.add(fact)
                self.facts.setdefault(fact, (revision, sentence))
                self.confidence[fact] = 1.0 if sure is None else sure
                self.links[relation][subject].add(object_)
                self.links["~" + relation][object_].add(subject)

    @cached_property
    def told_in_order(self) -> dict[int, list[int]]:
        """The symptoms of each disease in the order in which they are told, without asides."""
        order: dict[int, list[int]] = defaultdict(list)
        for subject, relation, object_ in self.facts:
            if relation == "symptom" and (subject, relation, object_) not in self.asides:
                order[subject].append(object_)
        return order

    def classify(self) -> None:
        """Find each entity's classes: the graph's, and those that its title or its page's first sentence names."""
        self.classes: dict[int, set[int]] = defaultdict(set)
        self.members: dict[int, set[int]] = defaultdict(set)
        named = {name_of(name): entities for name, entities in self.named.items()}
        titles = {name_of(bare(title)) for title in self.title.values()}
        leads = self.leads()
        self.are_classes = {entity for entity, lead in leads.items() if is_class(lead)}  # as their own page says
        for entity, title in self.title.items():
            for name in names_of_classes(bare(title), leads.get(entity, "")):
                if len(name) == 1 and name not in titles:
                    continue  # "syndrome" may be the short name of one syndrome
                for other in named.get(name, ()):
                    if other != entity and self.family(other) == self.family(entity):
                        self.classes[entity].add(other)
            self.classes[entity] |= self.possible["belongs_to"].get(entity, set())
            for other in self.classes[entity]:
                self.members[other].add(entity)

    def leads(self) -> dict[int, str]:
        """The first characters of each page's prose, where it says what its subject is."""
        rows = self.database.execute("SELECT entity, text FROM prose") if self.has_prose else ()
        return {entity: prose_of(text, LONGEST_LEAD) for entity, text in rows}

    def page_prose(self, entity: int) -> str:
        """The plain prose of an entity's page; "" if the source has no text of it."""
        query = "SELECT text FROM prose WHERE entity = ?"
        row = self.database.execute(query, [entity]).fetchone() if self.has_prose else None
        return prose_of(row[0]) if row else ""

    @cached_property
    def database(self) -> sqlite3.Connection:
        return connect(self.path)

    @cached_property
    def has_prose(self) -> bool:
        return has_table(self.database, "prose")

    @cached_property
    def in_text(self) -> dict[int, str]:
        """Each entity's name as it is written within a sentence: "fever", "Lyme disease", and "syncope" for the title
        "Syncope (medicine)".

        The sentences of its own facts vote, or else its own page. Where they are silent, its first word decides, as it
        stands in other names and leads; where that is unknown too, an organism and a name of several words keep their
        capital, but a drug's title is its generic name.
        """
        capitalised = {entity: bare(title) for entity, title in self.title.items()}
        lowered = {entity: name[0].lower() + name[1:] for entity, name in capitalised.items()}
        votes = self.votes_for_lower_case(capitalised, lowered)
        words: Counter[str] = Counter()  # a word's uses in lower case, less those with a capital
        for lead in self.leads().values():
            words.update(re.findall(r"(?<=[a-z,] )[a-z][\w'’-]+", lead))
            words.subtract(word.lower() for word in re.findall(r"(?<=[a-z] )[A-Z][\w'’-]+", lead))
        for entity, vote in votes.items():
            words[capitalised[entity].split()[0].lower()] += (vote > 0) - (vote < 0)
        for entity, name in capitalised.items():
            common = self.type[entity] in ("drug", "drug class") or name.isalpha() and self.type[entity] != "pathogen"
            guess = 1 if common and name[1:].islower() else -1
            if (votes[entity] or words[name.split()[0].lower()] or guess) < 0:
                lowered[entity] = name
        return lowered

    def votes_for_lower_case(self, capitalised: dict[int, str], lowered: dict[int, str]) -> Counter[int]:
        """How much oftener each entity's name is written in lower case than with a capital, after another word."""
        votes: Counter[int] = Counter()
        for *entities, sentence in self.database.execute("SELECT subject, object, sentence FROM relation"):
            for entity in entities:
                # lower case counts double: authors often paste the capitalised title into a sentence
                votes[entity] += 2 * occurs_in(lowered[entity], sentence)
                votes[entity] -= occurs_in(capitalised[entity], sentence, after_word=True)
        for entity, name in capitalised.items():
            if not votes[entity] and (text := self.page_prose(entity)):
                votes[entity] = text.count(" " + lowered[entity]) - len(re.findall(rf"[a-z] {re.escape(name)}", text))
        return votes

    @cached_property
    def rarest(self) -> set[int]:
        """Of the entities of each type that facts speak of, the quarter to which the fewest pages refer.

        Of those with as many references, entities that their page calls rare come first, then those that the walk from
        the broadest pages found last. What no fact speaks of is not rare but unknown: nothing can be asked about it.
        """
        known = {entity for subject, _, object_ in self.facts for entity in (subject, object_)}
        called_rare = {entity for (entity,) in self.database.execute("SELECT id FROM entity WHERE rare")}
        order = sorted(known, key=lambda entity: (self.incoming[entity], entity not in called_rare, -entity))
        found: set[int] = set()
        for kind in self.of_type:
            members = [entity for entity in order if self.type[entity] == kind]
            found.update(members[: -(-len(members) // 4)])
        return found

    @cached_property
    def titles_with(self) -> Counter[str]:
        """How many titles have a word."""
        return Counter(word for title in self.title.values() for word in set(words_of(bare(title))))

    def family(self, entity: int) -> str:
        """An entity's type, or what it has in common with types of which it may be a kind."""
        return FAMILY.get(self.type[entity], self.type[entity])

    def neighbours(self, entity: int, step: str) -> set[int]:
        """What one step (a relation, or `~relation`) leads to from an entity, for sure."""
        return self.links[step].get(entity, set())

    def sample_neighbours(self, entity: int, step: str, rng: random.Random) -> set[int]:
        """The same; a random part of it where that is more than `MOST`, as from fever to its diseases."""
        found = self.neighbours(entity, step)
        if len(found) <= MOST:
            return found
        if (entity, step) not in self.in_order:
            self.in_order[entity, step] = sorted(found)
        return set(rng.sample(self.in_order[entity, step], MOST))

    def reach(self, entities: Iterable[int], steps: tuple[str, ...]) -> set[int]:
        """Everything that a chain of steps leads to from any of the entities."""
        entities = set(entities)
        for step in steps:
            entities = set().union(*(self.neighbours(entity, step) for entity in entities))
        return entities

    def interchangeable(self, entity: int) -> frozenset[int]:
        """The entity, its synonyms, its classes and its members at any distance: each is as right as the other.

        Not its siblings: another drug of the same class is another drug.
        """
        if entity not in self.alike:
            up, down = (self.closure(entity, onward) for onward in (self.classes, self.members))
            self.alike[entity] = frozenset(up | down)
        return self.alike[entity]

    def closure(self, entity: int, onward: dict[int, set[int]]) -> set[int]:
        """The entity and all that going onward leads to, with the synonyms of each."""
        found, edge = set(), {entity}
        while edge:
            found |= edge
            synonyms = (self.named[name] for other in edge for name in self.names[other])
            edge = set().union(*synonyms, *(onward.get(other, ()) for other in edge)) - found
        return found

    def could_mean(self, entity: int, step: str) -> set[int]:
        """What one step may lead to, taken for itself or for one that a reader may not tell from it."""
        if (entity, step) in self.broad:
            return self.broad[entity, step]
        found = set().union(*(self.possible[other].get(entity, ()) for other in (step, *ALIKE.get(step, ()))))
        if len(found) > MOST:
            self.broad[entity, step] = found
        return found

    def could_lead_to(self, entity: int, steps: tuple[str, ...]) -> set[int]:
        """Everything that a chain of steps could be understood to lead to, with what is interchangeable with it."""
        found = set(self.interchangeable(entity))
        for step in steps:
            ends = set().union(*(self.could_mean(other, step) for other in found))
            found = set().union(*map(self.interchangeable, ends))
        return found

    def with_features(self, features: list[tuple[str, int]]) -> set[int]:
        """The entities that could be understood to have all of the features (step, other)."""
        step, other = min(features, key=lambda feature: len(self.could_mean(feature[1], inverse(feature[0]))))
        candidates = set().union(*(self.could_mean(same, inverse(step)) for same in self.interchangeable(other)))
        return {
            entity
            for entity in candidates
            if all(not self.interchangeable(o).isdisjoint(self.could_mean(entity, s)) for s, o in features)
        }

    def triple(self, entity: int, step: str, other: int) -> tuple[int, str, int]:
        """The fact behind one step, in the direction in which it is stored."""
        return (other, step[1:], entity) if step.startswith("~") else (entity, step, other)


# ------------------------------------------------------------------------------------------------- looking at the graph


def print_stats(db: sqlite3.Connection) -> None:
    """Print the counts of entities by type, relations by name and by a teacher's verdict, unreadable pages by reason,
    and aliases."""
    sure, verdict = column(db, "confidence"), column(db, "verdict")
    subjects = f"count(DISTINCT subject) || ' subjects' || coalesce(', mean confidence ' || round(avg({sure}), 2), '')"
    judgements = f"relation r WHERE {verdict} NOT NULL"
    for heading, columns, table in (
        ("entities", "type, count(*), nullif(sum(rare), 0) || ' called rare on their page'", "entity"),
        ("relations", f"relation, count(*), {subjects}", "relation r"),
        ("relations judged by the teacher", f"{verdict}, count(*), 'whether their sentence states them'", judgements),
        ("pages not read", "reason, count(*), 'such as ' || min(title)", "page_error"),
        ("triples and texts rejected around the teacher", "reason, count, ''", "rejected"),
    ):
        rows = db.execute(f"SELECT {columns} FROM {table} GROUP BY 1 ORDER BY 2 DESC").fetchall()
        if not rows and heading not in {"entities", "relations"}:
            continue
        print(f"{sum(row[1] for row in rows):,} {heading}")
        for name, count, remark in rows:
            print(f"  {name:<20} {count:>9,}  {remark or ''}".rstrip())
    print(f"{db.execute('SELECT count(*) FROM alias').fetchone()[0]:,} aliases")


def print_entity(db: sqlite3.Connection, name: str) -> None:
    """Print an entity with its aliases and every relation with its evidence. Raises UserError for an unknown name."""
    by_alias = "SELECT entity.* FROM entity JOIN alias ON alias.entity = entity.id WHERE name = ?"
    row = db.execute("SELECT * FROM entity WHERE title = ?", [normalise_title(name)]).fetchone()
    row = row or db.execute(by_alias, [name.lower()]).fetchone()
    if row is None:
        known = db.execute("SELECT lower(title), title FROM entity UNION SELECT name, name FROM alias").fetchall()
        close = [dict(known)[like] for like in get_close_matches(name.lower(), dict(known), 3)]
        raise UserError(f"no entity or alias {name!r} in the graph; close to it: {', '.join(close) or 'nothing'}")
    entity, title, kind, page, revision, rare, incoming = row
    print(f"{title}: {kind}{', rare' * rare}, page {page}, revision {revision}, {incoming} other pages refer to it")
    names = [alias for (alias,) in db.execute("SELECT name FROM alias WHERE entity = ? ORDER BY name", [entity])]
    print(f"  also called: {', '.join(names) or '-'}")
    for subject, relation, obj, where, revision, section, sentence, sure, verdict in db.execute(
        "SELECT s.title, r.relation, o.title, p.title, r.revision, r.section, r.sentence, "
        f"{column(db, 'confidence')}, {column(db, 'verdict')} FROM relation r "
        "JOIN entity s ON s.id = r.subject JOIN entity o ON o.id = r.object JOIN entity p ON p.page = r.page "
        "WHERE r.subject = ?1 OR r.object = ?1 ORDER BY r.subject <> ?1, r.relation, o.title, s.title",
        [entity],
    ):
        told = [
            *([f"confidence {sure:.2f}"] if sure is not None else []),
            *([f"teacher: {verdict}"] if verdict else []),
        ]
        print(f"  {subject} -{relation}-> {obj}" + (f" ({', '.join(told)})" if told else ""))
        print(f"      {where}, revision {revision}, {section}: {sentence}")


def pages(db: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
    """Title, revision and plain prose of every medical page."""
    query = "SELECT title, revision, text FROM prose JOIN entity ON entity.id = prose.entity ORDER BY entity.id"
    return ((title, revision, prose_of(text)) for title, revision, text in db.execute(query))


def names(db: sqlite3.Connection) -> list[str]:
    """All names of entities: titles, without what tells namesakes apart, and aliases."""
    titles = (bare(title) for (title,) in db.execute("SELECT title FROM entity"))
    return [*titles, *(name for (name,) in db.execute("SELECT name FROM alias"))]


# How what is written here begins, which tells it from other files.
PROSE_BEGINS, KGX_BEGINS = b'{"title": ', b'{"id": "'
GRAPHML_BEGINS = b'<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'


def write_prose(db: sqlite3.Connection, path: Path) -> None:
    """Write every medical page's plain prose, one {"title": ..., "text": ...} a line."""
    with whole_file(path) as file:
        file.writelines(json_line({"title": title, "text": text}) for title, _, text in pages(db))


KGX_NODES = "_nodes.jsonl"  # how the name of a file of nodes ends; that of its edges ends in _edges.jsonl


def exported(path: Path) -> dict[Path, bytes]:
    """The files that an export to `path` makes, and how they begin."""
    if not path.name.endswith(KGX_NODES):
        return {path: GRAPHML_BEGINS}
    edges = path.with_name(path.name.removesuffix(KGX_NODES) + "_edges.jsonl")
    return {path: KGX_BEGINS, edges: KGX_BEGINS}


def write_kgx(db: sqlite3.Connection, path: Path) -> None:
    """Write the graph as KGX JSON Lines in the terms of the Biolink Model: nodes, and edges in a file beside them.

    A relation that a teacher denied is left out.
    """
    _, edges = exported(path)
    meta = dict(db.execute("SELECT key, value FROM meta"))
    address = meta.get("address")
    with whole_file(path) as nodes_file, whole_file(edges) as edges_file:
        nodes_file.writelines(map(json_line, kgx_nodes(db, address)))
        edges_file.writelines(map(json_line, kgx_edges(db, meta.get("wiki", ""), address)))
    print(f"the graph is in {path} and {edges}")


def ids_of_nodes(db: sqlite3.Connection) -> dict[int, str]:
    """Entity -> the id of its node."""
    items = dict(db.execute("SELECT entity, item FROM wikidata")) if has_table(db, "wikidata") else {}
    return {entity: node_id(page, items.get(entity)) for entity, page in db.execute("SELECT id, page FROM entity")}


def kgx_nodes(db: sqlite3.Connection, address: str | None) -> Iterator[dict]:
    """`address`: what stands before a title in the URL of its page, if that is known."""
    ids = ids_of_nodes(db)
    query = "SELECT id, title, type, page, revision, "
    query += "(SELECT json_group_array(DISTINCT relation) FROM relation r WHERE r.object = e.id), "
    query += "(SELECT json_group_array(name) FROM alias WHERE entity = e.id) FROM entity e ORDER BY id"
    for entity, title, kind, page, revision, objects_of, aliases in db.execute(query):
        xref = [node_id(page, None)] if ids[entity] != node_id(page, None) else []
        xref += [permanent_link(address, title, revision)] if address else []
        yield node(ids[entity], title, kind, json.loads(objects_of), sorted(json.loads(aliases)), xref)


def kgx_edges(db: sqlite3.Connection, wiki: str, address: str | None) -> Iterator[dict]:
    """Without an address, edges have no links to the pages of their evidence."""
    ids = ids_of_nodes(db)
    titles = dict(db.execute("SELECT page, title FROM entity"))
    columns = f"r.id, subject, r.relation, object, {column(db, 'confidence')}, {column(db, 'verdict')}"
    said_where = "SELECT page, revision, sentence FROM evidence WHERE relation = ? ORDER BY trust DESC, rowid"
    for number, subject, relation, object_, sure, verdict in db.execute(f"SELECT {columns} FROM relation r ORDER BY 1"):
        if verdict == "no":
            continue
        pieces = db.execute(said_where, [number]).fetchall()
        sentences = list(dict.fromkeys(sentence for *_, sentence in pieces))
        pages = dict.fromkeys((titles[page], revision) for page, revision, _ in pieces if page in titles)
        links = [permanent_link(address, *page) for page in pages] if address else []
        said = Statement(relation, ids[subject], ids[object_], sentences, links, judged(sure, verdict), verdict)
        yield edge(number, said, wiki)


GRAPHML = {  # element -> its query; the columns up to "label" make its XML attributes, the others its data
    "node": "SELECT 'n' || id AS id, title AS label, type, page, revision, rare, incoming FROM entity e ORDER BY e.id",
    "edge": "SELECT 'e' || id AS id, 'n' || subject AS source, 'n' || object AS target, "
    "relation AS label, page, revision, section, sentence FROM relation r ORDER BY r.id",
}
NUMBERS = {"page", "revision", "rare", "incoming"}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 has no such characters


def write_graphml(db: sqlite3.Connection, path: Path) -> None:
    """Write the graph as GraphML, which networkx and Gephi open: directed, with parallel edges.

    A node's `label` is its title, an edge's its relation; page, revision, section and sentence are its evidence.
    """
    queries = {element: db.execute(query) for element, query in GRAPHML.items()}
    columns = {element: [column[0] for column in rows.description] for element, rows in queries.items()}
    with whole_file(path) as binary:
        file = codecs.getwriter("utf-8")(binary, "replace")
        file.write(GRAPHML_BEGINS.decode())
        for element, names in columns.items():
            for name in names[names.index("label") :]:
                kind = "long" if name in NUMBERS else "string"
                file.write(f'<key id="{element}_{name}" for="{element}" attr.name="{name}" attr.type="{kind}"/>\n')
        file.write('<graph edgedefault="directed">\n')
        for element, names in columns.items():
            first = names.index("label")
            for row in queries[element]:
                attributes = "".join(f' {name}="{value}"' for name, value in zip(names[:first], row))
                values = [escape(NOT_XML.sub("", str(value))) for value in row[first:]]
                data = "".join(f'<data key="{element}_{n}">{v}</data>' for n, v in zip(names[first:], values))
                file.write(f"<{element}{attributes}>{data}</{element}>\n")
        file.write("</graph>\n</graphml>\n")
    print(f"the graph is in {path}")

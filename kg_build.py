"""Build the medical knowledge graph: an agent walks through Wikipedia and records typed, evidenced facts (section 3.1).

From a few seed pages the agent walks outwards. A priority frontier decides where to go next: links out of sections that
state medical facts come first, near pages before far ones. Each page is recognised as medical (or not) by its infobox
and categories; on a medical page, links inside infobox fields and titled sections become relations between typed
entities, each with its evidence: page, revision, section and the sentence as it stands there. `wiki/rules.py` says
which section of which page makes which relation, `wiki/doubts.py` how a sentence can name a thing and yet not assert
it: read these first.

    A dump or an api.php  ->  kg.sqlite  (tables entity, alias, relation, prose, page_error, rejected, meta)

Deviations from the paper. It names the agent, entity linking and relation extraction, and the size (over 100,000
entities), but no schema, prompt or method. Here both steps are deterministic: links that editors set are the entity
linking, the section they stand in is the relation. That finds fewer facts than a language model would, and each stands
in a sentence that can be looked up; a negated or hedged mention makes no relation. `--teacher` adds a language model:
it is asked about the pages that no rule recognises, and it reads facts out of the text. Such a fact is kept only if its
sentence stands word for word on the page, names the other entity without negating it, and both ends link to entities of
types that the relation joins.

The graph is built in kg.sqlite.partial and renamed when it is complete. Every batch of pages is one transaction, so a
killed build goes on where it was, with nothing lost or doubled. Wikitext is untrusted: it is parsed in worker processes
with a limit on CPU time, and a page that cannot be read is recorded in `page_error` with the reason. The teacher is
untrusted too: what it made up is counted in `rejected`, as is text that gives it orders, which it is not shown.

    python kg_build.py --run runs/tiny --source data/encyclopedia.xml           # the small encyclopedia, seconds
    python kg_build.py --source api --contact you@example.org                   # live Wikipedia, 100,000 entities
    python kg_build.py --source enwiki-latest-pages-articles-multistream.xml.bz2 --workers 16      # a dump, offline
    python kg_build.py --source api --contact you@example.org --teacher openai:openai/gpt-oss-120b
    python kg_build.py --show Candidiasis                                       # what the graph knows, with evidence
    python kg_build.py --stats --export kg.graphml                              # counts; the graph for networkx, Gephi
    python kg_build.py --verify-relations --teacher openai:openai/gpt-oss-120b  # does each sentence state its relation?
    python kg_build.py --page-props enwiki-latest-page_props.sql.gz --export kg_nodes.jsonl  # KGX with Wikidata's ids
    python kg_build.py --text runs/main/corpus.jsonl                            # plain prose for pretraining
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ in {"__main__", "__mp_main__"}:  # first: the rest takes seconds to import, also in worker processes
    can_stop(worker=__name__ == "__mp_main__")

import argparse
import json
import os
import sqlite3
import time
import zlib
from collections import Counter
from pathlib import Path

from graph import (
    KGX_NODES,
    PROSE_BEGINS,
    SCHEMA,
    add_items,
    add_relations,
    add_verdicts,
    changed,
    exported,
    print_entity,
    print_stats,
    reading,
    unjudged,
    write_graphml,
    write_kgx,
    write_prose,
)
from teacher import Request, Teacher, add_teacher_arguments, fact_sentence, teacher_of
from tools.cli import UserError, at_least, fraction, progress_bar, run_stage, stage_parser
from tools.run import Metrics, RunDir, check_written, is_there, publish
from wiki.consult import VERDICTS, Claim, Consultant
from wiki.kinds import class_named, class_names, names_class, ruled_out
from wiki.mediawiki import ApiSource, DumpSource, KeptSource, Page, Source, normalise_title
from wiki.page_props import check_page_props, read_page_props
from wiki.pages import read_page
from wiki.reading import STATES_FACT, Readers, Reading
from wiki.recognition import INFOBOX_TYPES, TYPES
from wiki.rules import JOINED, VAGUE
from wiki.wikitext import listed, tidy

# ----------------------------------------------------------------------------------------------- limits and preferences

VERIFIED_TOGETHER = 200  # sentences that the teacher is given between two looks at the progress
BATCH = 50  # pages a transaction and titles an API request, MediaWiki's own limit
# The frontier's order: where a link to the page stands, less the distance from the seeds (in links), more if the
# linking page is rare. A medical page of a dump that nothing links to comes last.
NAMED, UNLINKED, PER_LINK, RARE = 0.5, -100.0, 0.1, 0.5

SEEDS = "Pneumonia; Tuberculosis; Hypertension; Myocardial infarction; Stroke; Type 2 diabetes; Asthma; Sepsis; "
SEEDS += "Malaria; Breast cancer; Epilepsy; Schizophrenia; Rheumatoid arthritis; Aspirin; Amoxicillin; Fever"
FINDINGS_LIST = Path(__file__).parent / "data" / "findings.tsv"
FINDING_TITLES = [line.split("\t")[:1] for line in FINDINGS_LIST.read_text().splitlines() if not line.startswith("#")]
NO_NAMES = {"other", "others", "various", "many", "none", "various others", "many others", "among others"}


# -------------------------------------------------------------------------------------------------- asking the teacher


def consult(
    consultant: Consultant, readers: Readers, pages: list[Page], readings: dict[str, Reading | str]
) -> Counter[str]:
    """Let a teacher sort the pages that the rules do not recognise, and read facts out of the medical ones' text.

    Changes `readings`. Returns how often what was rejected.
    """
    consultant.rejected.clear()
    read = {page: readings[page.title] for page in pages}
    unknown = [page for page, reading in read.items() if isinstance(reading, Reading) and reading.kind == "other"]
    types = consultant.sort([page for page in unknown if not page.title.startswith("List of ")])
    readings.update(readers.read([page for page in unknown if page.title in types], types))
    read = {page: readings[page.title] for page in pages}
    consultant.add_facts({p: r for p, r in read.items() if isinstance(r, Reading) and r.kind in TYPES})
    return consultant.rejected


def consultant_of(teacher: Teacher) -> Consultant:
    """A teacher as one that reads pages."""

    def ask(purpose: str, prompt: str, shown: list[tuple[str, dict]], max_tokens: int) -> list[str]:
        requests = []
        for name, page in shown:
            text = json.dumps(page, ensure_ascii=False)
            messages = [{"role": "system", "content": prompt}, {"role": "user", "content": text}]
            requests.append(Request(messages, name, purpose, temperature=0.0, max_tokens=max_tokens))
        return teacher.ask(requests) if requests else []

    return Consultant(ask, TYPES, JOINED)


def verify_relations(path: Path, teacher: Teacher, below: float) -> None:
    """Have a teacher judge whether the sentence of each relation below a confidence states it; note its verdicts.

    What has a verdict is not asked again. Where it is interrupted, what was judged is noted, and answers are cached.
    """
    with reading(path) as db:
        claims = [
            Claim(f"relation/{number}", page, section, sentence, fact_sentence(subject, relation, object_))
            for number, subject, relation, object_, page, section, sentence in unjudged(db, below)
        ]
    consultant, verdicts = consultant_of(teacher), {}
    try:
        for at in progress_bar(range(0, len(claims), VERIFIED_TOGETHER), unit=" batches", desc="verify"):
            verdicts |= consultant.verify(claims[at : at + VERIFIED_TOGETHER])
    finally:
        if verdicts:
            with changed(path) as db:
                add_verdicts(db, {int(name.removeprefix("relation/")): said for name, said in verdicts.items()})
    said = Counter(verdicts.values())
    rest = "".join(f"; {count:,}: {reason}" for reason, count in (+consultant.rejected).items())
    print(f"{len(claims):,} relations below {below}: {', '.join(f'{said[word]:,} {word}' for word in VERDICTS)}{rest}")


# ------------------------------------------------------------------------------------------------------------ the graph

# Needed while building only. A frontier page's state is NULL until visited, then one of these (and how that is told).
STATES = {"entity": "became entities", "redirect": "are redirects", "disambiguation": "are disambiguation pages",
          "other": "are not medical", "missing": "do not exist", "error": "could not be read"}  # fmt: skip
WORK_SCHEMA = """
CREATE TABLE IF NOT EXISTS frontier(title TEXT PRIMARY KEY, priority REAL, distance INTEGER, state TEXT);
CREATE INDEX IF NOT EXISTS frontier_next ON frontier(priority DESC, title) WHERE state IS NULL;
CREATE TABLE IF NOT EXISTS redirect(title TEXT PRIMARY KEY, target TEXT);
CREATE INDEX IF NOT EXISTS redirect_target ON redirect(target);
CREATE TABLE IF NOT EXISTS meaning(title TEXT, target TEXT);  -- of the items of disambiguation pages
CREATE INDEX IF NOT EXISTS meaning_title ON meaning(title);
CREATE TABLE IF NOT EXISTS naming(name TEXT, entity INTEGER, PRIMARY KEY(name, entity));
CREATE TABLE IF NOT EXISTS mention(entity INTEGER, relation TEXT, linked TEXT, inverse INTEGER, target TEXT,
    section TEXT, sentence TEXT, trust REAL);
CREATE TABLE IF NOT EXISTS finding(entity INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS called(entity INTEGER PRIMARY KEY, class TEXT);  -- what a page calls its subject
CREATE TABLE IF NOT EXISTS link(title TEXT PRIMARY KEY, entity INTEGER);
"""
WORK_TABLES = ("frontier", "redirect", "meaning", "naming", "mention", "finding", "called", "link")


def push(db: sqlite3.Connection, title: str, priority: float, distance: int) -> None:
    """Put a title on the frontier; one that waits there already keeps the higher priority."""
    db.execute(
        "INSERT INTO frontier VALUES (?, ?, ?, NULL) ON CONFLICT(title) DO UPDATE SET "
        "priority = max(priority, excluded.priority), distance = min(distance, excluded.distance) "
        "WHERE state IS NULL AND (priority < excluded.priority OR distance > excluded.distance)",
        (title, priority, distance),
    )


def add_entity(db: sqlite3.Connection, page: Page, reading: Reading, distance: int) -> None:
    """Record an entity, what its page says, and where to go from there."""
    row = (page.title, reading.kind, page.page, page.revision, reading.rare)
    prose = "\n".join(paragraph for _, paragraph in reading.paragraphs)
    entity = db.execute("INSERT INTO entity VALUES (NULL, ?, ?, ?, ?, ?, 0)", row).lastrowid
    db.execute("INSERT INTO prose VALUES (?, ?)", (entity, zlib.compress(prose.encode())))
    if page.item:
        add_items(db, [(page.page, page.item)])
    db.executemany("INSERT INTO mention VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(entity, *m) for m in reading.mentions])
    lead = reading.paragraphs[0][1] if reading.paragraphs else ""
    db.execute("INSERT INTO called VALUES (?, ?)", (entity, class_named(lead)))
    names = sorted(
        name for name in set(map(tidy, reading.names)) if 2 <= len(name) <= 80 and name.lower() not in NO_NAMES
    )
    db.executemany("INSERT OR IGNORE INTO naming VALUES (?, ?)", [(name.lower(), entity) for name in names])
    # A name is worth a visit too: mostly it is a redirect to this page; else it shows that it means something else.
    named = {title: NAMED for title in map(normalise_title, names) if title}
    for title, relevance in (named | reading.links).items():
        push(db, title, relevance + RARE * reading.rare - PER_LINK * (distance + 1), distance + 1)


def visit(db: sqlite3.Connection, waiting: tuple[str, float, int], page: Page | None, reading: Reading | str) -> str:
    """Record what was found under a title of the frontier. Returns the state in which it leaves the title."""
    title, priority, distance = waiting
    if page is None:
        state = "missing"
    elif page.redirect:
        state = "redirect"
        db.execute("INSERT OR REPLACE INTO redirect VALUES (?, ?)", (title, page.redirect))
        push(db, page.redirect, priority, distance)
    elif isinstance(reading, str):
        state = "error"
        db.execute("INSERT OR REPLACE INTO page_error VALUES (?, ?)", (title, reading))
    elif reading.kind in {"other", "disambiguation"}:
        state = reading.kind
        db.executemany("INSERT INTO meaning VALUES (?, ?)", [(title, meaning) for meaning in reading.links])
    else:
        state = "entity"
        add_entity(db, page, reading, distance)
    db.execute("UPDATE frontier SET state = ? WHERE title = ?", (state, title))
    return state


def walk(
    db: sqlite3.Connection, source: Source, readers: Readers, teacher: Teacher | None, target: int, metrics: Metrics
) -> None:
    """Visit the frontier's best pages, a batch a transaction, until there are `target` entities or nothing is left.

    Raises UserError if not one medical page was found.
    """
    visited, entities = db.execute("SELECT count(state), sum(state IS 'entity') FROM frontier").fetchone()
    metrics.rewind(visited)
    best = "SELECT title, priority, distance FROM frontier WHERE state IS NULL ORDER BY priority DESC, title LIMIT ?"
    count = "INSERT INTO rejected VALUES (?, ?) ON CONFLICT(reason) DO UPDATE SET count = count + excluded.count"
    consultant = consultant_of(teacher) if teacher else None
    started, logged = time.time(), visited
    with progress_bar(unit=" titles", desc="walk", initial=visited) as bar:
        while entities < target and (batch := db.execute(best, [BATCH]).fetchall()):
            pages = source.fetch([title for title, _, _ in batch])
            articles = [page for page in pages.values() if not page.redirect]
            readings = readers.read(articles)
            rejected = consult(consultant, readers, articles, readings) if consultant else Counter()
            with db:
                db.executemany(count, (+rejected).items())
                for waiting in batch:
                    title = waiting[0]
                    if entities < target:
                        entities += visit(db, waiting, pages.get(title), readings.get(title, "")) == "entity"
                        visited += 1
            known = db.execute("SELECT max(rowid) FROM frontier").fetchone()[0]
            bar.total = min(known, visited * target // entities) if entities else known  # titles, at this yield
            bar.set_postfix(entities=entities, refresh=False)
            bar.update(visited - bar.n)
            if visited >= logged + 1000:
                metrics.log(visited, entities=entities, frontier=known - visited, seconds=time.time() - started)
                logged = visited
    if not entities:
        raise UserError(f"no medical page found among {visited} visited; check --source and --seeds")


def settle_names(db: sqlite3.Connection, titles: list[str]) -> None:
    """Fill `alias` with the names that mean one entity: those on its page and the redirects to it."""
    db.execute(
        "INSERT OR IGNORE INTO naming "
        "SELECT fold(l.title), e.id FROM link l JOIN entity e ON e.id = l.entity WHERE e.title <> l.title"
    )
    classes = class_names(titles)
    db.create_function("names_class", 2, lambda name, title: names_class(name, title, classes))
    db.execute(
        "DELETE FROM naming WHERE rowid IN (SELECT n.rowid FROM naming n JOIN entity e ON e.id = n.entity "
        "WHERE names_class(n.name, e.title))"
    )
    # A name of two entities is nobody's alias, nor is one under which a page of its own stands.
    db.execute(
        "CREATE TEMP TABLE taken AS SELECT fold(title) AS name FROM entity UNION SELECT fold(title) FROM frontier "
        "WHERE state IN ('redirect', 'disambiguation', 'other', 'error') AND title NOT IN (SELECT title FROM link)"
    )
    db.execute(
        "INSERT INTO alias SELECT name, min(entity) FROM naming WHERE name NOT IN (SELECT name FROM taken) "
        "GROUP BY name HAVING count(*) = 1"
    )


def link(db: sqlite3.Connection, source: Source) -> None:
    """Entity linking: settle redirects and aliases, then turn the mentions whose both ends fit into relations."""
    titles = [title for (title,) in db.execute("SELECT title FROM entity ORDER BY id")]
    for at in progress_bar(range(0, len(titles), BATCH), unit=" batches", desc="redirects"):
        with db:
            db.executemany("INSERT OR IGNORE INTO redirect VALUES (?, ?)", source.redirects_to(titles[at : at + BATCH]))
    db.create_function("fold", 1, str.lower, deterministic=True)
    with db:
        db.execute("INSERT OR IGNORE INTO link SELECT title, id FROM entity")
        follow = "INSERT OR IGNORE INTO link SELECT r.title, l.entity FROM redirect r JOIN link l ON l.title = r.target"
        while db.execute(follow).rowcount > 0:  # a redirect to a redirect takes one more round; a circle leads nowhere
            pass
        settle_names(db, titles)
        # A link to a page that does not exist may still name an entity by an alias.
        db.execute(
            "INSERT OR IGNORE INTO link "
            "SELECT f.title, a.entity FROM frontier f JOIN alias a ON a.name = fold(f.title) WHERE f.state = 'missing'"
        )
        # A link to a disambiguation page means the one of its items that is an entity of a fitting type, if it is one.
        db.execute("INSERT INTO meaning SELECT r.title, m.target FROM redirect r JOIN meaning m ON m.title = r.target")
        db.execute(
            "UPDATE mention SET target = (SELECT o.title FROM meaning d JOIN link l ON l.title = d.target "
            "  JOIN entity o ON o.id = l.entity WHERE d.title = mention.target "
            "  AND instr(mention.linked, '; ' || o.type || ';') > 0 GROUP BY d.title HAVING count(DISTINCT o.id) = 1) "
            "WHERE target IN (SELECT title FROM meaning)"
        )
        db.executemany("INSERT OR IGNORE INTO finding SELECT id FROM entity WHERE title = ?", FINDING_TITLES)
        db.execute(
            "CREATE TEMP TABLE stated AS SELECT iif(m.inverse, other.id, own.id) AS subject, m.relation, "
            "  iif(m.inverse, own.id, other.id) AS object, own.page, own.revision, m.section, m.sentence, m.trust "
            "FROM mention m JOIN entity own ON own.id = m.entity JOIN link l ON l.title = m.target "
            "JOIN entity other ON other.id = l.entity LEFT JOIN finding f ON f.entity = other.id "
            "WHERE own.id <> other.id AND lower(other.title) NOT IN (SELECT value FROM json_each(?)) "
            "  AND (instr(m.linked, '; ' || other.type || ';') > 0 OR f.entity AND instr(m.linked, '; finding;') > 0) "
            "ORDER BY m.rowid",
            [json.dumps(sorted(VAGUE))],
        )
        db.create_function("ruled_out", 6, ruled_out, deterministic=True)
        db.execute(
            "DELETE FROM stated WHERE rowid IN (SELECT r.rowid FROM stated r JOIN entity s ON s.id = r.subject "
            "JOIN entity o ON o.id = r.object JOIN called c ON c.entity = s.id JOIN called k ON k.entity = o.id "
            "WHERE ruled_out(r.relation, s.title, o.title, s.type = o.type, c.class, k.class))"
        )
        add_relations(db)
        db.execute(
            "UPDATE entity SET incoming = (SELECT count(DISTINCT page) FROM ("
            "  SELECT e.page FROM evidence e JOIN relation r ON r.id = e.relation WHERE r.subject = entity.id UNION "
            "  SELECT e.page FROM evidence e JOIN relation r ON r.id = e.relation WHERE r.object = entity.id) "
            "WHERE page <> entity.page)"
        )
        db.execute("INSERT INTO meta VALUES ('linked', '1')")


def build(
    run: RunDir,
    source: Source,
    seeds: str,
    target: int,
    workers: int,
    teacher: Teacher | None = None,
    teacher_name: str = "none",
) -> None:
    """Make kg.sqlite, or go on making it. Raises UserError for a source that cannot be read."""
    partial = run.output("kg.sqlite.partial")
    db = sqlite3.connect(partial)
    db.execute("PRAGMA cache_size = -131072")  # KiB; with SQLite's 2 MB, a page's titles come from the file every time
    db.executescript(SCHEMA + WORK_SCHEMA)
    begun = dict(db.execute("SELECT key, value FROM meta"))
    task = {"source": source.identity, "seeds": seeds, "teacher": teacher_name}
    if begun and {key: begun.get(key, "none") for key in task} != task:
        raise UserError(
            f"{partial} was begun with another source, other seeds or another teacher; delete it to start again"
        )
    source.open()
    if "linked" not in begun:
        meta = [*task.items(), ("wiki", source.name()), ("address", source.address())]
        with db:
            db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", meta)
            for title in filter(None, map(normalise_title, listed(seeds))):
                push(db, title, STATES_FACT, 0)
            for title in source.landmarks():
                push(db, title, UNLINKED, 0)
        metrics = Metrics(run, "kg_build")
        readers = Readers(read_page, workers)
        try:
            walk(db, source, readers, teacher, target, metrics)
        finally:
            readers.close()
        link(db, source)
        count = "SELECT count(state), (SELECT count(*) FROM entity), (SELECT count(*) FROM relation) FROM frontier"
        visited, entities, relations = db.execute(count).fetchone()
        metrics.log(visited, entities=entities, relations=relations)
        states = db.execute("SELECT state, count(state) FROM frontier GROUP BY 1 HAVING count(state) ORDER BY 2 DESC")
        print(f"{visited:,} titles visited: {', '.join(f'{count:,} {STATES[state]}' for state, count in states)}")
    for table in WORK_TABLES:
        db.execute(f"DROP TABLE IF EXISTS {table}")
    db.execute("VACUUM")
    db.close()
    publish(partial, run.output("kg.sqlite"))
    source.close()


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--run", "--run-dir", default="runs/main", metavar="DIR", help="run directory")
    api, cpus = os.environ.get("WIKI_API", "https://en.wikipedia.org/w/api.php"), os.cpu_count() or 2
    add = parser.add_argument_group("where the knowledge comes from").add_argument
    add(
        "--source",
        metavar="FILE|api",
        help="MediaWiki XML export (.xml, .bz2, .gz) or 'api' (which is also the default)",
    )
    add("--api-url", default=api, metavar="URL", help="MediaWiki API; WIKI_API in the environment")
    add("--contact", metavar="MAIL", help="your address for the User-Agent; Wikipedia demands one")
    kept = "keep what the API sends in pages.sqlite: where that is, a build asks for none of its pages again"
    add("--keep-pages", action="store_true", help=kept)
    add = parser.add_argument_group("how far the agent walks").add_argument
    add("--seeds", default=SEEDS, metavar="'A; B'", help="titles to start from: broad medical articles")
    add("--target", type=at_least(1), default=100_000, metavar="N", help="stop at N entities; the paper's number")
    add(
        "--workers",
        type=at_least(1),
        default=max(1, cpus - 1),
        metavar="N",
        help="parser processes; one CPU is left for the walk",
    )
    why = "sorts the pages that rules do not recognise and reads facts out of the text (none: rules alone)"
    add_teacher_arguments(parser, "none", why)
    add = parser.add_argument_group("what is added to a finished graph (alone or after building)").add_argument
    add("--page-props", type=Path, metavar="FILE", help="dump of page_props (.sql.gz): Wikidata's ids of the pages")
    why = "ask --teacher whether the sentence of each relation states it; synth.py asks about none that it denies"
    add("--verify-relations", action="store_true", help=why)
    why = "of the relations that it is asked about, the most confident left out"
    add("--verify-below", type=fraction, default=0.9, metavar="CONFIDENCE", help=why)
    add = parser.add_argument_group("looking at a finished graph (alone or after building)").add_argument
    add("--show", metavar="TITLE", help="print an entity with all its relations and their evidence")
    add("--stats", action="store_true", help="print counts by type and relation")
    add("--text", type=Path, metavar="FILE", help="write the plain prose of every medical page as JSON lines")
    why = "write the graph for networkx, Gephi; as FILE_nodes.jsonl (and FILE_edges.jsonl) in KGX, for Biolink's tools"
    add("--export", type=Path, metavar="FILE.graphml", help=why)
    return parser.parse_args()


def check_args(args: argparse.Namespace) -> None:
    """What can be known to be wrong before hours of work. Raises UserError."""
    if args.verify_relations and args.teacher == "none":
        raise UserError("--verify-relations asks a language model: name it with --teacher openai:MODEL or local:FOLDER")
    for flag, path in (("--text", args.text), ("--export", args.export)):
        if path and not path.parent.is_dir() and os.path.abspath(path.parent) != os.path.abspath(args.run):
            raise UserError(f"{flag} {path}: there is no folder {path.parent}; make it, or name another")
    if args.export and args.export.suffix == ".jsonl" and not args.export.name.endswith(KGX_NODES):
        raise UserError(f"--export {args.export}: the file of nodes has to end in {KGX_NODES}")
    exports = exported(args.export) if args.export else {}
    if args.text:
        check_written("--text", args.text, PROSE_BEGINS)
        if args.text.absolute() in [path.absolute() for path in exports]:
            raise UserError(f"--text {args.text}: --export writes this file; name another")
    for path, begins in exports.items():
        check_written("--export", path, begins)
    if args.page_props:
        check_page_props(args.page_props)


def reader_of(args: argparse.Namespace, run: RunDir) -> Teacher | None:
    """The language model that `--teacher` names, if it names one. Raises UserError for a teacher that is none."""
    teacher = None if args.teacher == "none" else teacher_of(args, run)
    if teacher and not teacher.is_language_model:
        raise UserError(f"--teacher {args.teacher} cannot read pages; use openai:MODEL or local:FOLDER, or none")
    return teacher


def source_of(args: argparse.Namespace, run: RunDir) -> Source:
    """The pages that `--source` names."""
    if args.source in {None, "api"}:
        kept = run.output("pages.sqlite")
        if args.keep_pages or is_there(kept):
            return KeptSource(args.api_url, args.contact, kept, args.keep_pages)
        return ApiSource(args.api_url, args.contact)
    return DumpSource(Path(args.source), run.output("kg.pages.sqlite"), list(INFOBOX_TYPES), args.workers)


def add_page_props(path: Path, page_props: Path) -> None:
    """Note the Wikidata items of the graph's pages. Raises UserError if the file knows none of them."""
    with changed(path) as db:
        count = add_items(db, read_page_props(page_props))
        if not count:
            raise UserError(f"--page-props {page_props} knows no page of this graph; is it of the same wiki?")
    print(f"{count:,} entities have a Wikidata item")


def look(args: argparse.Namespace, path: Path) -> None:
    """Print and write what was asked for of a finished graph."""
    with reading(path) as db:
        if args.text:
            write_prose(db, args.text)
        if args.export:
            (write_kgx if args.export.name.endswith(KGX_NODES) else write_graphml)(db, args.export)
        if args.show:
            print_entity(db, args.show)
        if args.stats:
            print_stats(db)


def make_graph(args: argparse.Namespace, run: RunDir) -> None:
    """Build kg.sqlite, unless it is there."""
    if run.begin("kg.sqlite"):
        source, reader = source_of(args, run), reader_of(args, run)
        try:
            build(run, source, args.seeds, args.target, args.workers, reader, args.teacher)
        except sqlite3.Error as error:
            raise UserError(
                f"{run.path}: the graph cannot be built ({error}); make room on the disk or, if it is damaged, delete "
                "kg.sqlite.partial, kg.pages.sqlite and pages.sqlite to start over"
            ) from error
        args.stats = args.stats or not asked_of_graph(args)
    for left in run.path.glob("kg.pages.sqlite*"):
        left.unlink()  # killed after the graph was complete


def asked_of_graph(args: argparse.Namespace) -> bool:
    """Whether something is to be done with a finished graph."""
    return any((args.show, args.stats, args.text, args.export, args.page_props, args.verify_relations))


def main() -> None:
    args = parse_args()
    check_args(args)
    building = args.source is not None or not asked_of_graph(args)
    run = RunDir(args.run, create=building)
    if building:
        make_graph(args, run)
    path = run.input("kg.sqlite")
    if args.page_props or args.verify_relations:
        run.claim("kg.sqlite")
    if args.page_props:
        add_page_props(path, args.page_props)
    if args.verify_relations:
        verify_relations(path, reader_of(args, run), args.verify_below)
    look(args, path)


if __name__ == "__main__":
    run_stage(main)

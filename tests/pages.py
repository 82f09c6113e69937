"""A dozen pages of a wiki, the graph that is built from them, and ways to look at it: for the tests of the graph."""

import sqlite3
import zlib
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import kg_build
from tools.run import RunDir
from wiki import mediawiki
from wiki.recognition import INFOBOX_TYPES

ROOT = Path(__file__).parent.parent


WIKI = ROOT.parent / "shared" / "data" / "wiki"


ENCYCLOPEDIA = ROOT / "data" / "encyclopedia.xml"


PAGES = {
    "Pneumonia": """{{Infobox medical condition (new)
| name = Pneumonia
| synonyms = Lung infection, chest cold
| symptoms = [[Cough]], {{hlist|[[fever]]|[[Mercury]]}}, [[Hypertension]]
| treatment = [[Amoxicillin]]<ref>[[Warfarin]]</ref>
}}<!-- [[Aspirin]] -->
'''Pneumonia''' (e.g. from a virus) is an infection of the [[lung]]s. It is '''common'''. Also called '''TB cough'''.

== Signs and symptoms ==
People with [[hypertension]] often have [[Pyrexia|a high temperature]], i.e. [[Fever]]. It does not cause [[rash]].
{| class="wikitable"
| [[Headache]]
|}
[[File:x.png|thumb|caption with a [[Headache]]]]
== Causes ==
* ''[[Streptococcus pneumoniae]]''
* [[Influenza]] may open the way, but [[Amoxicillin]] does not.
== Treatment ==
Antibiotics such as [[amoxicillin]] are used. [[Warfarin]] is not effective. [[Aspirin]] should be avoided.
[[Loop A]] and [[Deleted page]] lead nowhere. [[Beecham]] helps.
=== Alternative medicine ===
Some people take [[aspirin]].
== Prognosis ==
=== Complications ===
[[Sepsis]] and [[London]]. A [[Cold]] or [[Flu (disambiguation)|flu]] may follow.
== References ==
[[Aspirin]]
[[Category:Rare diseases]]""",
    "Amoxicillin": """{{Infobox drug | class = [[Penicillin]] | tradename = Amoxil, others }}
'''Amoxicillin''' is a drug. Taken once a '''week'''.
== Medical uses ==
It treats [[Pneumonia]] and is used to prevent [[sepsis]]. It prevents attacks of [[influenza]].
== Contraindications ==
It should not be given in [[sepsis]].""",
    "Penicillin": "{{Infobox drug class}}'''Penicillin''' is a class.\n== Examples ==\n[[Amoxicillin]].",
    "Warfarin": "{{Drugbox}}'''Warfarin''' is a drug.",
    "Aspirin": "{{Drugbox}}'''Aspirin''' is a drug.",
    "Cough": "{{Infobox sign}}'''Cough''' is a sign.\n== Causes ==\n[[Sepsis]], and it is never seen in [[influenza]].",
    "Fever": "{{Infobox medical condition}}'''Fever''' is a sign.\n[[Category:Symptoms and signs: General]]",
    "Rash": "{{Infobox symptom}}'''Rash''' is a sign.",
    "Headache": "{{Infobox symptom}}'''Headache''' is a sign.",
    "Hypertension": "{{Infobox medical condition}}'''Hypertension''' is a disease.",
    "Sepsis": "{{Infobox medical condition}}'''Sepsis''' ('''TB cough''') is a disease.",
    "Influenza": "{{Infobox medical condition}}'''Influenza''', also '''Mercury''', is a disease.",
    "Lung": "{{Infobox anatomy}}'''Lung''' is an organ.\n== Clinical significance ==\n[[Chest cold]].",
    "Streptococcus pneumoniae": "{{Speciesbox}}A germ.\n[[Category:Pathogenic bacteria]]",
    "Inflammation": "'''Inflammation''' is a process.\n[[Category:Pathophysiology]]",
    "Aardvark": "{{Speciesbox}}An animal.\n[[Category:Mammals]]",
    "London": "{{Infobox settlement}}'''London''' is a city.\n[[Category:Diseases and disorders]]",
    "Mercury": "'''Mercury''' may mean a planet. See [[Pneumonia]].\n{{disambiguation}}",
    "Cold": "'''Cold''' may mean\n* [[Aspirin]], a drug\n* a place: [[London]]\n* [[Influenza]], see [[Rash]]\n{{dab}}",
    "Beecham": "Either of\n* [[Aspirin]]\n* [[Warfarin]]\n{{disambiguation}}",
    "Island": "{{Infobox drug}}'''Island''' is a drug that no page links to.",
}


REDIRECTS = {
    "Pyrexia": "High temperature",
    "High temperature": "Fever",
    "Loop A": "Loop B",
    "Loop B": "Loop A",
    "Flu (disambiguation)": "Cold",
}


def export(pages: dict[str, str], redirects: dict[str, str], version: str = "0.11") -> str:
    """A MediaWiki XML export; page ids count from 1, revision ids from 1001."""
    out = [f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" version="{version}">']
    out.append("<siteinfo><sitename>Pages &amp; tests</sitename></siteinfo>")
    for number, (title, text) in enumerate(
        {**pages, **{t: f"#REDIRECT [[{r}]]" for t, r in redirects.items()}}.items(), 1
    ):
        target = f"<redirect title={quoteattr(redirects[title])} />" if title in redirects else ""
        out.append(
            f"<page><title>{escape(title)}</title><ns>0</ns><id>{number}</id>{target}<revision><id>{number + 1000}</id>"
            f"<text>{escape(text)}</text></revision></page>"
        )
    out.append(
        "<page><title>Talk:Rash</title><ns>1</ns><id>999</id><revision><id>9</id><text>x</text></revision></page>"
    )
    return "\n".join(out) + "</mediawiki>"


def dump_source(dump: Path, store: Path, workers: int = 1) -> mediawiki.DumpSource:
    return mediawiki.DumpSource(dump, store, list(INFOBOX_TYPES), workers)


def build(
    folder: Path, source: object, seeds: str = "Pneumonia", target: int = 10_000, **options
) -> sqlite3.Connection:
    """Build a graph from XML text or a source object and open it."""
    run = RunDir(folder, create=True)
    if isinstance(source, str):
        (folder / "dump.xml").write_text(source, encoding="utf-8")
        source = dump_source(folder / "dump.xml", folder / "kg.pages.sqlite")
    kg_build.build(run, source, seeds, target, workers=1, **options)
    return sqlite3.connect(folder / "kg.sqlite")


def facts(db: sqlite3.Connection) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(subject, relation, object) -> (section, sentence) of the first evidence."""
    rows = db.execute(
        "SELECT s.title, relation, o.title, section, sentence FROM relation r "
        "JOIN entity s ON s.id = subject JOIN entity o ON o.id = object ORDER BY r.id DESC"
    )
    return {row[:3]: row[3:] for row in rows}


def assert_evidence_stands_on_its_page(db: sqlite3.Connection) -> None:
    """Every relation's sentence stands in the prose of the very revision it names, or comes from its infobox."""
    rows = db.execute(
        "SELECT r.section, r.sentence, text FROM relation r "
        "LEFT JOIN entity p ON p.page = r.page AND p.revision = r.revision LEFT JOIN prose ON prose.entity = p.id"
    ).fetchall()
    assert rows
    for section, sentence, prose in rows:
        assert section.startswith("infobox: ") or sentence in zlib.decompress(prose).decode()

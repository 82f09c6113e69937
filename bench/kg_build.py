"""kg_build.py at the paper's size: a generated dump of medical pages, built into a graph in bounded memory.

Writes a multistream .bz2 dump of `--pages` pages (seeded; nothing is kept in memory), builds the graph from it with
kg_build.py in a process of its own, and prints a row of a Markdown table for each size:

    entities, relations     of the finished graph
    peak memory             of all the build's processes together (resident; sampled five times a second)
    ms/page                 CPU time of all the build's processes together, reading the dump and linking included
    parsing alone           CPU time of mwparserfromhell.parse on a sample of the same pages, before and after the build
    ratio                   parsing alone / build: how many pages a second a process handles, against parsing them only

A generated page is shaped like Wikipedia's medical articles: an infobox, the usual sections, links with a skewed
distribution (few entities are linked often), half of its markup in footnotes and comments (58% and 66% in the two
medical articles of the 2016 sample dump). One page in eight is a redirect, one in fifty a disambiguation page or no
medical page.

    python bench/kg_build.py --pages 10000 150000
"""

from __future__ import annotations

import argparse
import bz2
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from xml.sax.saxutils import escape

import mwparserfromhell

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from wiki.mediawiki import read_dump  # noqa: E402

# Of a hundred pages; the rest (redirects aside) are disambiguation pages and pages that are not medical.
SHARES = {
    "disease": 44,
    "drug": 22,
    "symptom": 6,
    "pathogen": 6,
    "anatomy": 4,
    "test": 3,
    "imaging": 1,
    "drug class": 1,
}
SHARES |= {"mechanism": 1, "procedure": 2}
KINDS = [kind for kind, share in SHARES.items() for _ in range(share)]  # page n is of kind KINDS[n % 100], if in range

SYLLABLES = (
    "ab ac al am ar be ca ce co cu da de do el er fa fe ga ge hi il in ka ke la le li lo ma me mi mo na ne ni no or pa "
    "pe pi po ra re ri ro sa se si so ta te ti to tu ul va ve vi vo xa xe za ze zi zo"
).split()
ENDINGS = {
    "disease": ("itis", "osis", "opathy", "oma", " syndrome", " disease"),
    "drug": ("mab", "pril", "statin", "cillin", "azole", "olol"),
    "symptom": ("algia", "esthesia", "rrhea", " sign"),
    "pathogen": ("coccus", "bacter", "virus", "ella"),
    "anatomy": (" muscle", " nerve", " gland", " artery"),
    "test": (" test", " assay"),
    "imaging": ("graphy",),
    "drug class": (" inhibitor", " agonist"),
    "mechanism": ("genesis", " signaling"),
    "procedure": ("ectomy", "plasty"),
}
INFOBOX = {
    "disease": "Infobox medical condition (new)",
    "drug": "Infobox drug",
    "symptom": "Infobox symptom",
    "anatomy": "Infobox anatomy",
    "test": "Infobox medical test",
    "imaging": "Infobox medical test",
    "drug class": "Infobox drug class",
    "procedure": "Infobox medical intervention",
}
CATEGORY = {"pathogen": "Pathogenic bacteria", "mechanism": "Pathophysiology", "imaging": "Medical imaging"}
# Field or section -> which kinds it links to, how many of them (at most)
FIELDS = {
    "disease": {
        "symptoms": ("symptom", 4),
        "causes": ("pathogen", 2),
        "diagnosis": ("test", 2),
        "medication": ("drug", 3),
    },
    "drug": {"class": ("drug class", 1)},
}
SECTIONS = {
    "disease": {
        "Signs and symptoms": ("symptom", 4),
        "Causes": ("pathogen", 2),
        "Pathophysiology": ("mechanism", 2),
        "Diagnosis": ("imaging", 2),
        "Differential diagnosis": ("disease", 3),
        "Treatment": ("drug", 4),
        "Complications": ("disease", 2),
        "History": ("disease", 2),
    },
    "drug": {
        "Medical uses": ("disease", 4),
        "Contraindications": ("disease", 2),
        "Side effects": ("symptom", 5),
        "Mechanism of action": ("mechanism", 2),
        "Interactions": ("drug", 3),
    },
    "symptom": {"Causes": ("disease", 6)},
    "pathogen": {"Role in disease": ("disease", 4)},
    "anatomy": {"Clinical significance": ("disease", 6)},
    "test": {"Uses": ("disease", 5)},
    "imaging": {"Uses": ("disease", 5)},
    "drug class": {"Examples": ("drug", 8)},
    "mechanism": {"Clinical significance": ("disease", 5)},
    "procedure": {"Medical uses": ("disease", 4)},
}
SENTENCES = (
    "It is most often seen together with {}, which most patients notice within a few days.",
    "In larger series {} was reported in about {n}% of adults, and more often in children.",
    "Guidelines name {} first, since it is well studied and widely available.",
    "Older textbooks mention {} as well.",
    "The role of {} has been known since the {n}0s.",
    "{} is not involved.",
)
FILLER = (
    "About {n} in 100,000 people are affected each year, women slightly more often than men.",
    "The course varies between patients and depends on age, general health and how early it is recognised.",
    "Several studies have looked at this question, and their results agree only in part.",
    "The name goes back to the Greek word for the part of the body in which it was first described.",
)
NOTE = (
    '<ref name="r{n}">{{{{cite journal |vauthors=Smith J, Miller A |title=A cohort study of {n} patients for ten years '
    "|journal=Journal of Medicine |volume={n} |issue=2 |pages=100–{n} |year=2014 |pmid=2{n}17 |doi=10.1/j.{n}}}}}</ref>"
)


def name(kind: str, number: int) -> str:
    """The title of the number-th page of a kind: pronounceable and unlike every other."""
    endings, base = ENDINGS[kind], len(SYLLABLES)
    stem, ending = divmod(number, len(endings))
    stem = stem * 7919 % base**4  # a prime that does not divide the base: a permutation, so that neighbours differ
    return "".join(SYLLABLES[stem // base**power % base] for power in range(4)).capitalize() + endings[ending]


def link(rng: random.Random, kind: str, pages: int) -> str:
    """A link to a page of a kind; those with a low number are linked far more often."""
    count = max(1, pages * SHARES[kind] // 100)
    title = name(kind, int(count * rng.random() ** 2))
    return f"[[{title}]]" if rng.random() < 0.8 else f"[[{title}|{title.lower()}]]"


def article(rng: random.Random, kind: str, title: str, pages: int) -> str:
    """The wikitext of one medical page."""

    def note() -> str:
        return NOTE.format(n=rng.randrange(10, 1000)) if rng.random() < 0.45 else ""

    out = [
        "{{Short description|Medical article}}\n{{Use dmy dates|date=June 2020}}\n<!-- Please follow WP:MEDMOS -->\n"
    ]
    if kind in INFOBOX:
        out.append(
            f"{{{{{INFOBOX[kind]}\n| name = {title}\n| image = {title}.jpg\n| ICD10 = {{{{ICD10|F|84|0|f|80}}}}\n"
        )
        for field, (linked, most) in FIELDS.get(kind, {}).items():
            links = ", ".join(link(rng, linked, pages) for _ in range(rng.randint(1, most)))
            out.append(f"| {field} = {links}\n")
        out.append("}}\n")
    elif kind == "pathogen":
        out.append("{{Speciesbox|genus=A|species=b}}\n")
    out.append(f"'''{title}''' is a {kind} that affects the {link(rng, 'anatomy', pages)} in most cases.{note()} ")
    out += [rng.choice(FILLER).format(n=rng.randrange(2, 90)) + note() + " " for _ in range(2)]
    for section, (linked, most) in SECTIONS[kind].items():
        out.append(f"\n\n== {section} ==\n")
        for _ in range(rng.randint(1, most)):
            sentence = rng.choice(SENTENCES).format(link(rng, linked, pages), n=rng.randrange(2, 90))
            out.append(f"{sentence}{note()} {rng.choice(FILLER).format(n=rng.randrange(2, 90))}{note()} ")
    out.append("\n\n== References ==\n{{Reflist|30em}}\n{{Medical resources|ICD10=F84|MeshID=D001321}}\n")
    category = CATEGORY.get(kind, "Medicine") + ("]]\n[[Category:Rare diseases" if rng.random() < 0.2 else "")
    return "".join(out) + f"[[Category:{category}]]"


def page_xml(seed: int, number: int, pages: int) -> str:
    rng = random.Random(f"{seed}/{number}")
    slot, redirect = number % 100, ""
    if slot < len(KINDS):
        kind = KINDS[slot]
        title = name(kind, number // 100 * SHARES[kind] + slot - KINDS.index(kind))
        text = article(rng, kind, title, pages)
    elif slot < 98:
        kind = KINDS[rng.randrange(len(KINDS))]
        title = f"{name(kind, rng.randrange(max(1, pages * SHARES[kind] // 100)))}"
        redirect, title = f'<redirect title="{title}"/>', f"{title} ({number})"
        text = "#REDIRECT [[x]]"
    elif slot == 98:
        title, meanings = f"Meanings {number}", [f"* {link(rng, kind, pages)}\n" for kind in ("disease", "drug")]
        text = f"'''{title}''' may be\n{''.join(meanings)}{{{{disambiguation}}}}"
    else:
        title = f"Town {number}"
        text = f"{{{{Infobox settlement}}}}'''{title}''' is a town.\n[[Category:Towns]]"
    head = f"<page><title>{title}</title><ns>0</ns><id>{number + 1}</id>{redirect}<revision><id>{number + 10**6}</id>"
    return f"{head}<text>{escape(text)}</text></revision></page>\n"


def write_dump(path: Path, pages: int, seed: int) -> None:
    """A dump as Wikipedia writes it: streams of a hundred pages."""
    with open(path, "wb") as file:
        file.write(bz2.compress(b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11">\n'))
        for first in range(0, pages, 100):
            text = "".join(page_xml(seed, number, pages) for number in range(first, min(first + 100, pages)))
            file.write(bz2.compress(text.encode(), 1))
        file.write(bz2.compress(b"</mediawiki>"))


def sample(dump: Path, share: float) -> list[str]:
    """The wikitext of a share of a dump's medical pages, drawn at random."""
    rng = random.Random(0)
    medical = (page.wikitext for page in read_dump(dump) if "== References ==" in page.wikitext)
    return [wikitext for wikitext in medical if rng.random() < share]


def parsing_seconds(texts: list[str]) -> float:
    started = time.process_time()
    for text in texts:
        mwparserfromhell.parse(text)
    return time.process_time() - started


def tree_memory(root: int) -> int:
    """Resident bytes of a process and its descendants."""
    parents, resident = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                pages = int((folder / "statm").read_text().split()[1])
                resident[int(folder.name)] = pages * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):  # it has just ended
                continue
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(resident.get(process, 0) for process in family)


def build_graph(run: Path, dump: Path, workers: int) -> tuple[float, int]:
    """CPU seconds and peak resident bytes of kg_build.py on a dump."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, ROOT / "kg_build.py", "--run", run, "--source", dump, "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--target", "10000000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            peak = max(peak, tree_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    ended.set()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"kg_build.py failed with status {process.returncode}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def measure(folder: Path, pages: int, seed: int, workers: int) -> None:
    """Print the table's row for one size."""
    dump, run = folder / f"{pages}.xml.bz2", folder / str(pages)
    write_dump(dump, pages, seed)
    texts = sample(dump, min(1.0, 1500 / pages))
    parsing = parsing_seconds(texts)
    seconds, peak = build_graph(run, dump, workers)
    parsing = min(parsing, parsing_seconds(texts)) / len(texts)
    db = sqlite3.connect(run / "kg.sqlite")
    entities, relations, errors = (
        db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("entity", "relation", "page_error")
    )
    chars = sum(map(len, texts)) / len(texts)
    print(
        f"| {pages:,} | {chars:,.0f} | {entities:,} | {relations:,} | {errors} | {peak / 2**20:,.0f} MB "
        f"| {1000 * seconds / entities:.2f} | {1000 * parsing:.2f} | {parsing * entities / seconds:.2f} |",
        flush=True,
    )
    db.close()
    for file in (dump, run / "kg.sqlite"):
        file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pages", type=int, nargs="+", default=[10_000, 150_000], metavar="N", help="sizes of the dump"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="parser processes")
    args = parser.parse_args()
    print("| pages | characters/page | entities | relations | errors | peak memory | ms/page | parsing alone | ratio |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for pages in args.pages:
            measure(Path(folder), pages, args.seed, args.workers)


if __name__ == "__main__":
    main()

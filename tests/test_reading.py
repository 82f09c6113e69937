"""wiki/reading.py: worker processes that read hostile pages."""

import multiprocessing
import os
import re
import signal
import threading
import time

from linear import assert_linear
from pages import PAGES, build, export, facts

import graph
import kg_build
from wiki import consult, doubts, headings, mediawiki, reading, recognition, rules, sentences, subject, wikitext
from wiki import pages as pages_read
from wiki.pages import read_page
from wiki.reading import Readers
from wiki.recognition import CATEGORIES, recognise


def test_hostile_pages_are_recorded_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PAGE_SECONDS", 1)
    monkeypatch.setattr(reading, "MAX_PAGE_CHARS", 120_000)
    hostile = {
        "Hang": "{{Infobox drug}}" + "{{a|" * 25_000,
        "Huge": "{{Infobox drug}}" + "x" * 130_000,
        "Nested": "{{Infobox drug}}" + "{{nowrap|" * 2_000 + "}}" * 2_000,
        "Unclosed": "{{Infobox drug\n| class = [[Penicillin]]\n'''Unclosed''' [[x [[y <ref> {| <b> == [http://",
        "Dots": "{{Infobox drug}}'''Dots'''. " + "e.g. A" * 15_000,
    }
    links = "== Treatment ==\n" + " ".join(f"[[{title}]]." for title in hostile)
    pages = {"Pneumonia": "{{Infobox medical condition}}\n" + links + " [[Aspirin]].", "Aspirin": PAGES["Aspirin"]}
    db = build(tmp_path, export(pages | hostile, {}))
    errors = dict(db.execute("SELECT * FROM page_error"))
    assert (
        errors["Huge"] == "longer than 120000 characters" and errors["Hang"] == "not read within 1 seconds of CPU time"
    )
    assert ("Pneumonia", "treated_by", "Aspirin") in facts(db)


def test_hostile_strings_do_not_slow_the_expressions():
    """Every regular expression, and what is built from them, on every unit of trouble, repeated to the limit's size."""
    modules = (
        kg_build,
        graph,
        consult,
        doubts,
        headings,
        mediawiki,
        pages_read,
        recognition,
        rules,
        sentences,
        subject,
        wikitext,
    )
    names = {name: value for module in modules for name, value in vars(module).items()}
    patterns = {name: value for name, value in names.items() if isinstance(value, re.Pattern)}
    patterns |= CATEGORIES
    patterns |= {f"told: {rule.relation}": pattern for rule, pattern in rules.TOLD}
    own = subject.Subject(["a", "disease", "the patients with"])
    patterns |= {"named": own.named, "before": own.before, "after": own.after}
    for kind in doubts.KINDS:
        parts = {"words": kind.words, "clause": kind.clause, "before": f"(?:{kind.before})$", "after": kind.after}
        patterns |= {f"{kind.name}, {part}": doubts.pattern(text) for part, text in parts.items() if text}
    units = (
        "prevent |no evidence |without |( |. A|not |e.g. A|unlike |\n |’)] |is safe |{{a|[[a|[[category:|* [[|<ref>|"
    )
    units += "<ref a |<!--|<ref></re|<|{{ | category:|ignore |<|im_|answer with |, so it |(a|a (|known as |"
    units += "avoid |may |treat |is |low intake of |patients with |such as |more |in the |include |lack of |"
    units += "disease |symptoms include |SUBJECT is |\t|\n\t|a, |\u00b7"
    units = {*units.split("|"), "<|im", "{{a|"}
    sentence, page = sentences.MAX_SENTENCE_CHARS, 150_000
    long = {"NOTE", "TEMPLATE_NAME", "CATEGORY_NAME", "CATEGORY_LINK", "MEANING", "SENTENCE_END", "EMPTY_BRACKETS",
            "STRAY_SPACE", "ORDERS", "NOT_XML"}  # fmt: skip
    for name, pattern in patterns.items():
        assert_linear(pattern.findall, units, page if name in long else sentence, most=3)

    def split(text):
        return list(sentences.split_sentences(text))

    def doubt(text):
        return doubts.doubt(*sentences.clause_around(text, len(text) // 2), "treated_by")

    for read in (wikitext.tidy, split, wikitext.split_names, wikitext.without_notes, recognise):
        assert_linear(read, units, page, most=4)
    assert_linear(doubt, units, sentence, most=2)


def test_a_page_whose_reader_is_killed_is_tried_again():
    pages = [mediawiki.Page(title, 2, 2, PAGES[title]) for title in ("Cough", "London", "Rash")]
    readers = Readers(read_page, 1)
    try:
        for _ in range(2):
            readings = readers.read(pages)
            assert [readings[page.title].kind for page in pages] == ["symptom", "other", "symptom"]
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)
    finally:
        readers.close()


def test_a_page_has_its_time_in_cpu_seconds_whatever_else_the_machine_does(monkeypatch):
    """A reader that stands still for longer than the limit, as on a crowded machine, still reads its page."""
    monkeypatch.setattr(reading, "PAGE_SECONDS", 1)
    readers = Readers(read_page, 1)
    try:
        readers.read([mediawiki.Page("Cough", 2, 2, PAGES["Cough"])])
        (worker,) = multiprocessing.active_children()
        long = mediawiki.Page("Rash", 3, 3, PAGES["Rash"] + " [[Cough]] is ''one''." * 5_000)
        stop = threading.Timer(0.02, os.kill, (worker.pid, signal.SIGSTOP))
        go_on = threading.Timer(1.5, os.kill, (worker.pid, signal.SIGCONT))
        stop.start(), go_on.start()
        started = time.monotonic()
        read = readers.read([long])["Rash"]
        assert time.monotonic() - started > 1.3 and read.links.keys() == {"Cough"}
    finally:
        readers.close()

"""One page read: its names, the facts that it states with their sentences, its links and its prose.

Links that editors set are the entity linking, the section or infobox field that they stand in is the relation
(rules.py), and a sentence that denies or hedges it makes none (doubts.py). Names in plain text that the page links
elsewhere count as well, with less trust.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mwparserfromhell.parser import ParserError, tokens

from wiki.doubts import ROLES, STATES_ALONE, doubt, says_so, suspects
from wiki.mediawiki import Page, bare, normalise_title
from wiki.names import means_another, says_less
from wiki.reading import MENTIONED, STATES_FACT, Mention, Reading
from wiki.recognition import RARE_CATEGORY, recognise
from wiki.rules import (
    FINDINGS,
    RULES_AT,
    TELLING,
    TELLING_WORD,
    VAGUE,
    Rule,
    applicable,
    may_tell,
    relation_told,
    rules_for,
    told,
)
from wiki.sentences import MAX_SENTENCE_CHARS, clause_around, statements
from wiki.subject import Subject, acronyms
from wiki.wikitext import (
    CATEGORY_LINK,
    Flattener,
    Link,
    Markup,
    lead_names,
    listed,
    split_names,
    split_sections,
    template_name,
    tidy,
    without_notes,
)

NOT_PROSE = set(listed("references; notes; external links; further reading; see also; bibliography; sources"))
MEANING = re.compile(r"^\*[^\[\n]{0,80}\[\[([^\[\]|\n]{1,255})", re.MULTILINE)  # an item of a disambiguation page
LEAD_CHARS = 300  # in which a page gives its acronym
HATNOTE = re.compile(  # what stands above a page's first sentence, or what a template that is no prose left of it
    r"\W{0,9}(?:not to be confused with|for (?:other uses|the [^,.]{1,80}),? see|see also"
    r"|this (?:article|page) is about)\b",
    re.IGNORECASE,
)
# How far a place is trusted: the share of its relations that were judged correct before seed 2029 was drawn, as
# if four more were known, nine tenths of them correct (bench/README.md). Infoboxes are guesses: few were judged.
TRUST = {
    "symptom": {"infobox": 0.95, "section": 0.97}, "cause": {"infobox": 0.9, "section": 0.84},
    "risk_factor": {"section": 0.93}, "complication": {"section": 0.97}, "differential": {"section": 0.92},
    "diagnosed_by": {"section": 0.96}, "treated_by": {"infobox": 0.95, "section": 0.93},
    "prevented_by": {"section": 0.80},
    "mechanism": {"section": 0.86}, "affects": {"lead": 0.92, "section": 0.71}, "contraindication": {"section": 0.73},
    "adverse_effect": {"section": 0.95}, "interaction": {"section": 0.92}, "belongs_to": {"section": 0.94},
}  # fmt: skip
WEAK = re.compile(r"\b(?:may|can|possibl[ey]|sometimes|occasionally|rarely|suspected|suggest\w*|implicated)\b")
WEAK_WORD = re.compile(  # to be looked for first
    r"may|can|possibl|sometimes|occasionally|rarely|suspected|suggest|implicated"
)

# Names that mean what they seem to wherever they stand, with the page of each; and which relations may end on them, in
# the lead or below it.
COMMON_NAMES = Path(__file__).parents[1] / "data" / "common_names.tsv"
COMMON_PAGES = dict(row.split("\t") for row in COMMON_NAMES.read_text().splitlines() if not row.startswith("#"))
COMMON_TITLES = frozenset(COMMON_PAGES.values())
COMMON = {name.lower() + plural: title for name, title in COMMON_PAGES.items() for plural in ("", "s")}
COMMON_BELOW = {"symptom", "complication", "adverse_effect", "treated_by", "diagnosed_by"}
COMMON_ENDS = {True: COMMON_BELOW | {"affects", "belongs_to"}, False: COMMON_BELOW}
LIST_ITEM = re.compile(  # what may follow a name that is an item of a list by itself
    r"(?: \(.{1,60}\)| of the [\w ,]{1,60})?[;,]?\s*$"
)
WORD = re.compile(r"\w[\w'’-]*")
LONGEST_NAME = 6  # words of a name that is looked for in plain text
FIELD_NAME = re.compile(r"[^,;\n()]{2,80}")
PART_OF_NAME = re.compile(  # what follows makes it the name of something else
    r"(?:-|\s(?:virus(?:es)?|disease|syndrome|deficiency|vaccines?|tests?|receptors?|antagonists?"
    r"|agonists?|inhibitors?|gene|genes|protein"
    r"|cells?|antibod\w+|antigens?|toxin|resistance|levels?|factor|association|foundation|society|scale|score"
    r"|decisions?)\b)",
    re.IGNORECASE,
)


class Passage(NamedTuple):
    """A section's text or an infobox field, and how to read it: its links by `rules`, and plain `names` like links.

    Names of the pages `common`, which are linked nowhere, count only where they mostly mean what they seem to
    (`COMMON_ENDS`). Of the page's `subject` a sentence may say something outright, by no rule of the section (`told`).
    """

    flat: Flattener
    section: str
    rules: list[list[Rule]]
    heading: str = ""  # stands before the sentence in the evidence
    names: tuple[Link, ...] = ()
    common: frozenset[str] = frozenset()
    subject: Subject | None = None

    def told(self, before: str, fitting: list[Rule]) -> list[Rule]:
        """The rules by which a sentence says outright what it names after `before`, besides the `fitting` ones."""
        if not TELLING.search(before.lower()):
            return []
        given = {rule.relation for rule in fitting}
        rules = told(before, self.subject.named, self.section == "lead")
        return [rule for rule in rules if rule.relation not in given]


def find_mentions(passage: Passage) -> Iterator[Mention]:
    """The mentions that a passage makes of its links and names; the evidence is the sentence."""
    if not (passage.rules or passage.subject):
        return
    flat = passage.flat
    spots = sorted(
        spot
        for spot in (*flat.links, *passage.names)
        if not means_another(flat.text, spot.start, spot.end)
        and not says_less(flat.text[spot.start : spot.end], spot.target)
    )
    if not spots:
        return
    at, rules, in_lead = 0, passage.rules, passage.section == "lead"
    for start, end, context in statements(flat.text, flat.items):
        first, at = at, bisect_left(spots, end, at, key=lambda spot: spot.start)
        sentence = flat.text[start:end]
        if in_lead and (not tidy(sentence) or HATNOTE.match(sentence)):
            continue
        if at > first and len(sentence) <= MAX_SENTENCE_CHARS and (rules or TELLING.search(sentence.lower())):
            here = [Link(s.start - start, max(s.end, s.start) - start, s.target) for s in spots[first:at]]
            yield from mentions_of(passage, sentence, context, here, applicable(rules, context + sentence))
        if in_lead:  # its other sentences count only for what they say outright
            if not passage.subject:
                return
            rules = []


def mentions_of(
    passage: Passage, sentence: str, context: str, spots: list[Link], fitting: list[Rule]
) -> Iterator[Mention]:
    """The mentions of the `spots` of one sentence, by its `fitting` rules or by what it says outright. It shares the
    verdict of its `context`."""
    evidence, in_lead = "", passage.section == "lead"
    tells = passage.subject is not None and TELLING_WORD.search(sentence.lower())
    for spot in spots:
        rules = [*fitting, *passage.told(sentence[: spot.start], fitting)] if tells else fitting
        if not rules:
            continue
        before, after = clause = clause_around(sentence, spot.start, spot.end)
        kinds = suspects(context + sentence, frozenset(ROLES[rule.relation, rule.inverse] for rule in rules))
        for rule in rules:
            if spot.target in passage.common and rule.relation not in COMMON_ENDS[in_lead]:
                continue
            linked = types_named(rule, in_lead and spot not in passage.names, clause)
            if not linked or doubt(context + before, after, rule.relation, rule.inverse, kinds):
                continue
            if passage.subject and passage.subject.is_not_of(rule.relation, sentence, before, after):
                continue
            evidence = evidence or passage.heading + tidy(sentence)
            yield mention_by(rule, linked, spot.target, spot in passage.names, passage.section, evidence, clause)


def types_named(rule: Rule, surely: bool, clause: tuple[str, str]) -> str:
    """Of which types a thing can be for a rule to hold of its name, given the parts of its clause before and after it.

    "" if the clause has no word for what the rule says, unless it `surely` says so.
    """
    if not surely and not says_so(rule.relation, rule.inverse, *clause):
        return STATES_ALONE.get(rule.relation, "")
    listed_alone = rule.linked == FINDINGS and not clause[0].strip(" *") and LIST_ITEM.match(clause[1])
    return f"; {rule.linked};" + (" disease;" if listed_alone else "")


def mention_by(
    rule: Rule, linked: str, target: str, plain: bool, section: str, evidence: str, clause: tuple[str, str]
) -> Mention:
    """What a rule makes of a name, linked or `plain`, of something of one of the types `linked`."""
    relation = relation_told(rule, target, *clause)
    return Mention(
        relation, linked, rule.inverse, target, section, evidence, trust_in(relation, section, plain, "".join(clause))
    )


def plain_names(flat: Flattener, known: dict[str, str], longest: dict[str, int]) -> Iterator[Link]:
    """Names in plain text that the page links elsewhere: the first occurrence of each, where it is no part of a
    link. `longest` tells of the first words of the `known` names (`longest_names`): few words need a closer look."""
    linked, seen = flat.links, {link.target for link in flat.links}
    begins = [(at, word) for at, word in enumerate(map(str.lower, WORD.findall(flat.text))) if word in longest]
    words = list(WORD.finditer(flat.text)) if begins else []
    at = last_end = 0
    for first, word in begins:
        start = words[first].start()
        if start < last_end:
            continue
        for length in range(min(longest[word], len(words) - first), 0, -1):
            end = words[first + length - 1].end()
            target = known.get(flat.text[start:end].lower())
            if target is None:
                continue
            last_end = end
            while at < len(linked) and linked[at].end <= start:
                at += 1
            inside = at < len(linked) and linked[at].start < end
            if inside or PART_OF_NAME.match(flat.text, end) or means_another(flat.text, start, end):
                break
            if target and target not in seen:
                seen.add(target)
                yield Link(start, end, target)
            break


def longest_names(names: Iterable[str]) -> dict[str, int]:
    """First word of some names -> the number of words in the longest name that begins with it."""
    longest: dict[str, int] = {}
    for name in names:
        first, count = beginning(name)
        longest[first] = max(longest.get(first, 0), count)
    return longest


@lru_cache(1 << 14)
def beginning(name: str) -> tuple[str, int]:
    """The first word of a name, and how many it has."""
    words = WORD.findall(name) or [""]
    return words[0], min(len(words), LONGEST_NAME)


COMMON_LONGEST = longest_names(COMMON)


@lru_cache(1 << 14)
def written(title: str) -> tuple[str, ...]:
    """How a page may be named in plain text, in small letters: by its title and the plural of that; () if the title is
    too short or too general."""
    name = bare(title).lower()
    return (name, name + "s") if len(name) > 3 and name not in VAGUE else ()


def names_linked(flats: list[Flattener], own: set[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Lower-case name (and its plural) -> the page that it is linked to somewhere on this one, or means in general; ""
    for the page's own names. And the `longest_names` of them all."""
    targets = {link.target for flat in flats for link in flat.links}
    known: dict[str, str] = {}
    for target in sorted(targets):
        known |= dict.fromkeys(written(target), target)
    known |= dict.fromkeys(own, "")
    longest = longest_names(known)
    return COMMON | known, COMMON_LONGEST | {word: max(longest[word], COMMON_LONGEST.get(word, 0)) for word in longest}


def read_page(page: Page, kind: str | None = None) -> Reading | str:
    """Recognise a page and read its names, facts, links and prose: entity linking, relation extraction (section 3.1).

    `kind` is an entity type that is known already. Runs in a worker process. Returns a `Reading`, or the reason why the
    parser could not read the page.
    """
    wikitext = without_notes(page.wikitext)
    recognised, infobox, categories = recognise(wikitext, page.title)
    wikitext = CATEGORY_LINK.sub("", wikitext)
    kind = kind or recognised
    if kind == "disambiguation" or page.title.endswith("(disambiguation)"):
        meanings = filter(None, map(normalise_title, MEANING.findall(wikitext)))
        return Reading("disambiguation", links=dict.fromkeys(meanings, 0.0))
    if kind == "other" or page.title.startswith("List of "):
        return Reading("other")
    reading = Reading(kind, rare=any(map(RARE_CATEGORY.search, categories)))
    try:
        markup = Markup(wikitext)
        read_sections(markup, page.title, reading)
        for at in markup.outer if infobox else ():
            if type(markup.tokens[at]) is tokens.TemplateOpen and template_name(markup.name(at)) == infobox:
                read_infobox(markup, at, page.title, reading)
                break
    except (ParserError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return reading


def read_sections(markup: Markup, title: str, reading: Reading) -> None:
    """Read lead and sections of a page into `reading`."""
    sections = [(path, heading, Flattener(markup, *place)) for path, _, heading, *place in split_sections(markup)]
    sections = [section for section in sections if section[0][0] not in NOT_PROSE]
    reading.names += lead_names(sections[0][2])
    flats = [flat for *_, flat in sections]
    common = COMMON_TITLES - {link.target for flat in flats for link in flat.links}
    own = {title.lower(), bare(title).lower(), *(name.lower() for name in reading.names)}
    known, longest = names_linked(flats, own)
    subject = Subject(own | acronyms(flats[0].text[:LEAD_CHARS], own)) if reading.kind == "disease" else None
    for path, heading, flat in sections:
        texts = map(tidy, re.split(r"\n[ \t]*\n", flat.text))
        reading.paragraphs += [(heading, text) for text in texts if text]
        rules = rules_for(reading.kind, path)
        tells = subject if may_tell(path) else None
        names = tuple(plain_names(flat, known, longest)) if rules or tells else ()
        reading.mentions += find_mentions(Passage(flat, heading, rules, "", names, common, tells))
        for link in flat.links:
            reading.links[link.target] = max(reading.links.get(link.target, 0), STATES_FACT if rules else MENTIONED)


def read_infobox(markup: Markup, at: int, title: str, reading: Reading) -> None:
    """Read the fields of the infobox that token `at` opens into `reading`; the evidence reads "Pneumonia: symptoms:
    Cough, fever"."""
    for param in markup.params(at):
        name, place = (param.name or "").strip().lower(), param[1:]
        if name in {"name", "drug_name", "synonyms", "synonym", "tradename", "inn", "usan", "ban"}:
            reading.names += split_names(Flattener(markup, *place).text)
        elif name == "frequency" and re.search(r"\brare\b", markup.source(*place), re.IGNORECASE):
            reading.rare = True
        rules = RULES_AT.get((reading.kind, f"={name}"), [])
        if rules:
            flat = Flattener(markup, *place)
            names = tuple(field_names(flat))
            passage = Passage(flat, f"infobox: {name}", [rules], f"{title}: {name}: ", names)
            reading.mentions += find_mentions(passage)
            reading.links.update({link.target: STATES_FACT for link in (*flat.links, *names)})


def field_names(flat: Flattener) -> Iterator[Link]:
    """The names of an infobox field that are plain text: "Cough, high temperature"."""
    for match in FIELD_NAME.finditer(flat.text):
        name = match[0].strip(" .'\"")
        start = match.start() + match[0].index(name) if name else match.start()
        linked = any(link.start < match.end() and match.start() < link.end for link in flat.links)
        if not linked and len(name) > 3 and (target := normalise_title(name)):
            yield Link(start, start + len(name), target)


def trust_in(relation: str, section: str, plain: bool, clause: str) -> float:
    """How far one piece of evidence is trusted: by its relation and place, less for a plain name and a weak hedge."""
    place = "infobox" if section.startswith("infobox: ") else "lead" if section == "lead" else "section"
    doubts = 1 - TRUST[relation].get(place, TRUST[relation]["section"])
    weak = WEAK_WORD.search(clause) and WEAK.search(clause)
    return 1 - min(0.9, doubts * (1.5 if plain and place != "infobox" else 1) * (1.5 if weak else 1))

"""When a fact's absence from the graph is evidence against it: only where a page speaks (section 3.1).

Wikipedia does not state all that is true. That a drug's page does not name a disease says something if the page tells
what the drug is used for, and nothing if it has no such section. So a wrong option has to be *documented*, and denied
by what both pages say in any of their words, not by the relations alone.

Of findings no page tells all. A page that tells cough and wheeze and says nothing of dyspnea does not deny it, since
other diseases with these have it; it does deny a blister (`expected`, `likelihood`).
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from itertools import chain
from math import log

from graph import ALIKE, Graph, inverse
from wiki.kinds import LONGEST_LEAD, first_sentence, words_of
from wiki.mediawiki import bare

WELL_KNOWN = {"drug": 3}  # pages that stand for an entity's own where the source has no text of it; of others: one
SAME_BEGINNING, SAME_END = 7, 5  # letters that two heads of names have in common
LONG_END = 7  # letters of a name's end that may be the name of something broader
# Heads of names that say nothing about what a thing is: kinds of many.
NO_HEADS = set("disease syndrome disorder infection deficiency poisoning cancer carcinoma lymphoma fever virus".split())
# Findings, and how words end that name their forms or nearly the same, where neither name nor first sentence says so.
FORMS = {
    "pain": "ache algia dynia dyspareunia dysuria dysmenorrhea cramp colic migraine angina heartburn pleurisy sore",
    "hemorrhage": "hemoptysis hematemesis melena hematuria hematochezia epistaxis rrhagia ecchymosis petechia purpura",
    "weakness": "paresis plegia paralysis palsy fatigue malaise lethargy",
    "fatigue": "malaise lethargy somnolence",
    "paralysis": "paresis plegia palsy",
    "paresis": "plegia palsy",
    "somnolence": "lethargy hypersomnia stupor",
    "coma": "lethargy somnolence stupor unconsciousness",
    "confusion": "delirium disorientation dementia amnesia",
    "dementia": "amnesia",
    "cognitive impairment": "dementia amnesia confusion delirium retardation",
    "intellectual disability": "autism",
    "psychosis": "hallucination delusion paranoia",
    "anxiety": "agitation irritability panic",
    "agitation": "irritability",
    "rash": "blister papule pustule petechia purpura urticaria erythema ecchymosis exanthem",
    "ecchymosis": "petechia purpura",
    "cardiac arrhythmia": "tachycardia bradycardia palpitation fibrillation",
    "tachycardia": "palpitation",
    "dyspnea": "orthopnea tachypnea",
    "edema": "ascites anasarca swelling",
    "dyspepsia": "heartburn bloating nausea",
    "diarrhea": "steatorrhea dysentery",
    "renal failure": "uremia azotemia injury",
    "hepatomegaly": "hepatosplenomegaly",
    "arthralgia": "arthritis",
    "hypoxia": "hypoxemia cyanosis",
    "metabolic acidosis": "lactic acidosis ketoacidosis",
    "dystonia": "torticollis",
    "spasticity": "hypertonia",
    "hearing loss": "deafness",
    "urinary incontinence": "enuresis",
    "respiratory failure": "hypoxemia hypoxia",
    "hypoxemia": "cyanosis",
    "weight loss": "cachexia wasting",
    "sweating": "sweat hyperhidrosis",
    "seizure": "epilepsy convulsion",
    "chest pain": "pleurisy angina",
    "parkinsonism": "hypokinesia bradykinesia akinesia rigidity tremor",
    "dyskinesia": "chorea athetosis dystonia",
    "myoclonus": "fasciculation",
    "pancytopenia": "anemia thrombocytopenia neutropenia leukopenia",
    "shock": "hypotension",
    "erectile dysfunction": "anorgasmia impotence",
    "hyperlipidemia": "hypercholesterolemia hypertriglyceridemia",
    "inflammation": "itis",
}
OPPOSITES = (("hypo", "hyper"), ("brady", "tachy"))
STEM = 6  # letters by which a drug is known in any of its forms
ENDS_OF_DRUGS = (" acid", " sodium", " chloride", " sulfate", " carbonate", " citrate")
LEAST_TOLD = {"adverse_effect": 5, "symptom": 4}  # facts that a page tells if its silence on another counts; else one
COMMON_WORD = 0.01  # of the titles have a word that says nothing of what a thing is
SPOKEN_OF = (6, 0.008)  # pages of diseases (and share of them) that name a thing; named on more, it fits nearly any
MOST_PAGES = 1000  # of diseases are looked at for that
FIRST_WORDS = 200  # of a page tell what is typical
FIRST_TOLD = 6  # symptoms of a page are its subject's most telling ones
LONGEST_NAME = 3  # words of a name that is looked for on a page
MOST_MEMBERS = 2  # of an entity that is no class
MOST_COMPARED = 250  # diseases are compared as to whether they may have what is observed
UNTOLD = 4  # times likelier than the pages say is what a page does not tell: each tells a part
EXPECTED = 1.25  # times likelier than from any leads a step to what is to be expected of an entity
FEW = 3  # pages count for less than the average of all where a thing is told by no more
MOST_KINDS = 40  # what is interchangeable with more than this ("infection") is too general to be denied


@lru_cache(maxsize=200_000)  # a stage has one graph
def is_common(graph: Graph, entity: int, step: str, few: int, share: float) -> bool:
    """Whether more entities lead to this one by a step than a few, and than a share: it points to none of them, as
    fever does."""
    return len(graph.could_mean(entity, inverse(step))) > max(few, share * len(graph.possible[step]))


@lru_cache(maxsize=200_000)
def fits_nearly_any(graph: Graph, entity: int) -> bool:
    """Whether so many pages of diseases name an entity that it may well go with one whose page does not: stroke,
    morphine."""
    few, share = SPOKEN_OF
    pages = [text for disease in graph.of_type["disease"][:MOST_PAGES] if (text := page_text(graph, disease))]
    named = sum(is_named(graph, entity, text) for text in pages)
    return named > max(few, share * len(pages))


@lru_cache(maxsize=200_000)
def is_typical(graph: Graph, disease: int, finding: int) -> bool:
    """Whether a disease's page tells a finding, or what is interchangeable with it, at its beginning; or has no
    text."""
    first = " ".join(page_text(graph, disease).split()[:FIRST_WORDS])
    return not first or any(is_named(graph, same, f" {first} ") for same in graph.interchangeable(finding))


@lru_cache(maxsize=200_000)
def is_prominent(graph: Graph, disease: int, symptom: int) -> bool:
    """Whether a disease's page tells a symptom as one of the disease as a whole, and early or more than once. What it
    tells late is often rare, of a late stage or of some of the patients; what an aside tells, of something else."""
    fact = (disease, "symptom", symptom)
    if fact in graph.asides:
        return False
    early = symptom in graph.told_in_order.get(disease, [])[:FIRST_TOLD]
    return early or fact in graph.repeated or is_typical(graph, disease, symptom)


def is_named(graph: Graph, entity: int, text: str) -> bool:
    """Whether one of an entity's names stands in a text of the form of `page_text`."""
    return any(f" {name} " in text or f" {name}s " in text for name in graph.names[entity])


def is_class(graph: Graph, entity: int) -> bool:
    """Whether an entity is a class of others, as its page or its members say, or its name: a genus, a family."""
    title = bare(graph.title[entity])
    taxon = graph.type[entity] == "pathogen" and title.isalpha() and not title.isupper() and "virus" not in title
    return taxon or entity in graph.are_classes or len(graph.members[entity]) > MOST_MEMBERS


def go_together(graph: Graph, step: str, entity: int, other: int) -> bool:
    """Whether a step leads to both from one entity: two drugs against one disease are likely to be alike."""
    back = inverse(step)
    return not graph.could_mean(entity, back).isdisjoint(graph.could_mean(other, back))


@lru_cache(maxsize=200_000)
def are_nested(graph: Graph, entity: int, other: int) -> bool:
    """Whether one is a kind of the other, or their names say that one may be taken for the other: by their heads
    (kidney failure, renal failure) or another telling word, by a beginning (electrocardiogram, electrocardiography) or,
    of drugs and tests, by an end (amoxicillin, ampicillin)."""
    if other in graph.interchangeable(entity):
        return True
    if not telling_words(graph, entity).isdisjoint(telling_words(graph, other)):
        return True
    heads = [head_of(graph, entity), head_of(graph, other)]
    if not NO_HEADS.isdisjoint(heads):
        return False
    if heads[0] == heads[1] or len(os.path.commonprefix(heads)) >= SAME_BEGINNING:
        return True
    ends = len(os.path.commonprefix([head[::-1] for head in heads]))
    return ends >= SAME_END and graph.family(entity) in ("remedy", "examination")


@lru_cache(maxsize=200_000)
def tell_one_thing(graph: Graph, finding: int, other: int) -> bool:
    """Whether one of two findings is a form of the other or nearly the same: told together, they tell one thing twice.

    They are interchangeable, a name of one ends as a name of the other does, the first sentence of one's page names
    the other ("Myalgia, or muscle pain, is ..."), or `FORMS` has them.
    """
    if other in graph.interchangeable(finding):
        return True
    return any(is_form(graph, *both) for both in ((finding, other), (other, finding)))


def are_opposite(graph: Graph, finding: int, other: int) -> bool:
    """Whether two findings are contrary by their names, so that they hold at different times or of different patients:
    hypotension and hypertension."""
    names = graph.names[finding] | graph.names[other]
    return any(less + name[len(more) :] in names for name in names for less, more in OPPOSITES if name.startswith(more))


def is_form(graph: Graph, finding: int, other: int) -> bool:
    """Whether a finding is a form of another, by its page's first sentence, by a name's end, or by `FORMS`."""
    if is_named(graph, other, first_words(graph, finding)):
        return True
    ends = [f" {name}" for name in graph.names[other]]
    ends += [name for name in graph.names[other] if len(name) >= SAME_END]
    ends += [end for name in graph.names[other] for end in FORMS.get(name, "").split()]
    return any(f" {name}".endswith((*ends, *(f"{end}s" for end in ends))) for name in graph.names[finding])


@lru_cache(maxsize=200_000)
def first_words(graph: Graph, entity: int) -> str:
    """The first sentence of an entity's page, in the form of `page_text`."""
    return f" {' '.join(words_of(first_sentence(graph.page_prose(entity)[:LONGEST_LEAD])))} "


@lru_cache(maxsize=200_000)
def names_in_words(graph: Graph, entity: int) -> tuple[frozenset[str], ...]:
    """The words of each of an entity's names."""
    return tuple(frozenset(name.split()) for name in graph.names[entity])


@lru_cache(maxsize=200_000)
def telling_words(graph: Graph, entity: int) -> frozenset[str]:
    """The words of a title that few titles have: adrenal of "Lipoid congenital adrenal hyperplasia"."""
    most = max(3, COMMON_WORD * len(graph.title))
    words = set(words_of(bare(graph.title[entity]))) - NO_HEADS
    return frozenset(word for word in words if len(word) >= 5 and graph.titles_with[word] <= most)


@lru_cache(maxsize=200_000)
def head_of(graph: Graph, entity: int) -> str:
    return (words_of(bare(graph.title[entity])) or [""])[-1]


def is_documented(graph: Graph, entity: int, step: str) -> bool:
    """Whether it is known where a step, or one that a reader may take for it, leads from an entity: its own page tells,
    or, if the source has no text of that page, other pages do."""
    if any(tells_enough(graph, entity, like) for like in (step, *ALIKE.get(step, ()))):
        return True
    others = len(graph.possible[step].get(entity, ()))
    return others >= WELL_KNOWN.get(graph.type[entity], 1) and not page_text(graph, entity)


def tells_enough(graph: Graph, entity: int, step: str) -> bool:
    """Whether an entity's own page tells where a step leads, and of so much that its silence says something."""
    return entity in graph.told[step] and len(graph.possible[step].get(entity, ())) >= LEAST_TOLD.get(step, 1)


def is_denied(graph: Graph, entity: int, step: str, other: int) -> bool:
    """Whether a step does for sure not lead from one entity to another.

    It has to be documented where the step leads back to from the other, one of their own pages has to tell of it, no
    relation of any confidence may be understood to join the two, and neither page may name the other or what is
    interchangeable with it.
    """
    told = tells_enough(graph, entity, step) or tells_enough(graph, other, inverse(step))
    return told and is_documented(graph, other, inverse(step)) and not may_hold(graph, entity, step, other)


def is_cleared(graph: Graph, drug: int, step: str, other: int) -> bool:
    """Whether a drug's own page tells what rules it out (its contraindications, its interactions), and neither page
    names the other: silence of a page without such a section clears no drug."""
    return drug in graph.told[step] and not may_hold(graph, drug, step, other)


@lru_cache(maxsize=200_000)
def may_hold(graph: Graph, entity: int, step: str, other: int) -> bool:
    """Whether a step could lead from one entity to another: by a relation of any confidence, or by what either of
    their pages names."""
    possible = entity in could_lead_from(graph, step, other)
    return possible or mentions(graph, entity, other) or mentions(graph, other, entity)


@lru_cache(maxsize=20_000)
def could_lead_from(graph: Graph, step: str, other: int) -> set[int]:
    """The entities from which a step could be understood to lead to another."""
    sources = set().union(*(graph.could_mean(same, inverse(step)) for same in graph.interchangeable(other)))
    return set().union(*map(graph.interchangeable, sources))


@lru_cache(maxsize=20_000)
def company(graph: Graph, step: str, other: int) -> tuple[float, Counter[int]]:
    """From what share of entities a step leads to another, and how many of them it leads to each third one as well."""
    sources = set().union(*(graph.possible[inverse(step)].get(same, ()) for same in graph.interchangeable(other)))
    together = Counter(chain.from_iterable(graph.possible[step][source] for source in sources))
    return len(sources) / len(graph.possible[step]), together


def expected(graph: Graph, entity: int, step: str, other: int) -> tuple[float, float]:
    """How likely a step leads from an entity to another, as a share from 0 to 1, and how likely from any entity.

    It is the mean, over the things that the step is known to lead to from there, of the share of each one's sources
    from which the step leads to the other as well. A rare thing counts more, by log(1 / its own share).
    """
    base, together = company(graph, step, other)
    same = graph.interchangeable(other)
    weights = total = 0.0
    for third, having, weight in weighed(graph, step, entity):
        if third not in same:
            weights += weight
            total += weight * (together[third] + FEW * base) / (having + FEW)
    return (total / weights if weights else base), base


@lru_cache(maxsize=100_000)
def weighed(graph: Graph, step: str, entity: int) -> tuple[tuple[int, int, float], ...]:
    """What a step leads to from an entity: from how many others it does as well, and so how much each counts."""
    every = len(graph.possible[step])
    thirds = sorted(graph.possible[step].get(entity, ()))
    numbers = (len(graph.possible[inverse(step)][third]) for third in thirds)
    return tuple((third, having, log(every / having)) for third, having in zip(thirds, numbers))


def is_expected(graph: Graph, entity: int, step: str, other: int) -> bool:
    """Whether a step is much likelier to lead from an entity to another than from any."""
    likely, base = expected(graph, entity, step, other)
    return likely > EXPECTED * base


@lru_cache(maxsize=200_000)
def likelihood(graph: Graph, disease: int, finding: int) -> float:
    """How likely a disease has a finding, from 0 to 1: as likely as one whose page tells it."""
    if may_hold(graph, disease, "symptom", finding):
        return 1.0
    return min(1.0, UNTOLD * expected(graph, disease, "symptom", finding)[0])


@lru_cache(maxsize=20_000)
def likelihoods(graph: Graph, finding: int) -> tuple[float, ...]:
    """The same of up to `MOST_COMPARED` diseases, always the same ones."""
    return tuple(likelihood(graph, disease, finding) for disease in compared(graph))


@lru_cache(maxsize=1)
def compared(graph: Graph) -> list[int]:
    """The diseases of `likelihoods`."""
    diseases = sorted(graph.possible["symptom"])
    return diseases[:: -(-len(diseases) // MOST_COMPARED)]


@lru_cache(maxsize=200_000)
def mentions(graph: Graph, entity: int, other: int) -> bool:
    """Whether an entity's page names another, or what is interchangeable with it, anywhere in its text."""
    kinds = graph.interchangeable(other)
    text = page_text(graph, entity)
    if len(kinds) > MOST_KINDS:
        return True
    if not text:
        return False
    if graph.family(other) == "remedy" and any(f" {stem}" in text for stem in stems_of(graph, other)):
        return True
    if graph.family(other) == "examination" and any(f" {word}" in text for word in telling_words(graph, other)):
        return True  # "cultures" of microbiological culture
    return any(is_named(graph, same, text) for same in kinds) or names_broader(graph, other, text)


def names_broader(graph: Graph, entity: int, text: str) -> bool:
    """Whether a text has the end of an entity's name as a word: carcinoma of adenocarcinoma."""
    ends = (name[at:] for name in graph.names[entity] if name.isalpha() for at in range(1, len(name) - LONG_END + 1))
    return any(f" {end} " in text or f" {end}s " in text for end in ends)


def stems_of(graph: Graph, drug: int) -> set[str]:
    """The beginning of a drug's names of one word, and of its salts' and acids': valpro of valproic acid, valproate."""
    first = (name.split()[0] for name in graph.names[drug] if len(name.split()) == 1 or name.endswith(ENDS_OF_DRUGS))
    return {word[:STEM] for word in first if len(word) > STEM}


@lru_cache(maxsize=4096)
def page_text(graph: Graph, entity: int) -> str:
    """The words of an entity's page, in the form of `Graph.names`, with a space on each side; "" if it has no text."""
    words = words_of(graph.page_prose(entity))
    return f" {' '.join(words)} " if len(words) >= 20 else ""


@lru_cache(maxsize=200_000)
def named_on_page(graph: Graph, entity: int, family: str) -> frozenset[int]:
    """The entities of a family (see `Graph.family`) that an entity's page names anywhere in its text."""
    words = page_text(graph, entity).split()
    names = (" ".join(words[at : at + length]) for at in range(len(words)) for length in range(1, LONGEST_NAME + 1))
    found = (other for name in set(names) for other in graph.named.get(name, ()))
    return frozenset(other for other in found if graph.family(other) == family)

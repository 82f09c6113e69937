"""Which section of which page states which relation: `RULES`, and how the headings above a sentence choose. And what a
sentence states by its own words, wherever it stands: `TOLD_AS`."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from wiki.headings import normal_heading, subjects
from wiki.wikitext import listed


class Rule(NamedTuple):
    """On a page of one of the types `pages`, a link in one of these infobox `fields` or `sections` to a page of one of
    the types `linked` makes a relation. The page is its subject, or, if `inverse`, its object."""

    pages: str  # lists are separated by semicolons
    fields: str
    sections: str
    relation: str
    linked: str
    inverse: bool = False


# Headings are compared by meaning (wiki/headings.py): plurals, hyphens, adjectives and "X and Y" need no mention here.
SIGNS = (
    "signs and symptoms; symptoms; signs; presentation; characteristics; clinical features; features; manifestations; "
)
SIGNS += "clinical picture; clinical findings; clinical description; symptomatology"
CAUSES = "causes; etiology; causative agent; causation"
RISKS = "risk factors; risks; predisposing factors"
SEQUELS = "complications; sequelae"
INTERACTIONS = "interactions"
DIAGNOSIS = "diagnosis; screening; tests; testing; investigations; workup; detection; diagnostics; imaging"
DIFFERENTIAL = "differential diagnosis; differentials; differential"
TREATMENT = "treatment; management; therapy; medications; surgery; therapeutics; drugs; pharmacotherapy"
PREVENTION = "prevention; prophylaxis; vaccination; immunization; preventive measures"
PATHOLOGY = "pathophysiology; mechanism; mechanism of action; pathogenesis; pathology; pharmacology; pharmacodynamics; "
PATHOLOGY += "mode of action"
ORGANS = "(lead); " + PATHOLOGY  # "(lead)" is the first sentence of a page
USES = "medical uses; uses; indications; clinical use; therapeutic use; applications"
HARMS = (
    "side effects; adverse effects; adverse reactions; adverse events; undesirable effects; unwanted effects; toxicity"
)
CONTRAINDICATIONS = "contraindications"
ILLNESSES = "role in disease; clinical significance; diseases; clinical relevance; human disease; associated conditions"
AGENTS = "pathogen; disease; drug; drug class"
ANY_STATE = AGENTS + "; symptom; mechanism; procedure"
EXAMINATIONS = "test; imaging; procedure"
REMEDIES = "drug; drug class; procedure"
FINDINGS = "symptom; finding"  # a finding is a disease that is one of others' signs too: data/findings.tsv

# A disease linked from a prose "Symptoms" section is mostly mentioned in passing ("people with asthma may ..."), so
# only the infobox field, a bare list, may name a disease as a symptom.
# fmt: off
RULES = [Rule(*row) for row in (
    # page types         infobox fields           sections                      relation           linked types
    ("disease",          "symptoms",              "",                           "symptom",          "symptom; disease"),
    ("disease",          "",                      SIGNS,                        "symptom",          FINDINGS),
    ("disease",          "causes; cause",         CAUSES,                       "cause",            AGENTS),
    ("disease",          "causes; cause",         CAUSES,                       "mechanism",        "mechanism"),
    ("disease",          "risks; risk",           RISKS,                        "risk_factor",      ANY_STATE),
    ("disease",          "complications",         SEQUELS,                      "complication",     "disease; symptom"),
    ("disease",          "differential",          DIFFERENTIAL,                 "differential",     "disease"),
    ("disease",          "diagnosis",             DIAGNOSIS,                    "diagnosed_by",     EXAMINATIONS),
    ("disease",          "treatment; medication", TREATMENT,                    "treated_by",       REMEDIES),
    ("disease",          "prevention",            PREVENTION,                   "prevented_by",     REMEDIES),
    ("disease",          "",                      PATHOLOGY,                    "mechanism",        "mechanism"),
    ("disease",          "",                      ORGANS,                       "affects",          "anatomy"),
    ("drug; drug class", "",                      CONTRAINDICATIONS,            "contraindication", "disease; symptom"),
    ("drug; drug class", "",                      HARMS,                        "adverse_effect",   "symptom; disease"),
    ("drug; drug class", "",                      PATHOLOGY,                    "mechanism",        "mechanism"),
    ("drug",             "",                      INTERACTIONS,                 "interaction",      "drug"),
    ("drug",             "class; drug_class",     "(lead)",                     "belongs_to",       "drug class"),
)]
RULES += [Rule(*row, inverse=True) for row in (  # the same relations, read from the other end
    (REMEDIES,           "use; uses",             USES,                         "treated_by",       "disease"),
    ("drug class",       "",                      "examples; members; agents",  "belongs_to",       "drug"),
    ("symptom",          "causes; cause",         CAUSES,                       "symptom",          "disease"),
    ("symptom",          "causes; cause",         CAUSES,                       "adverse_effect",   "drug; drug class"),
    ("test; imaging",    "purpose",               USES,                         "diagnosed_by",     "disease"),
    ("pathogen",         "",                      ILLNESSES,                    "cause",            "disease"),
    ("mechanism",        "",                      ILLNESSES,                    "mechanism",        "disease"),
    ("anatomy",          "",                      ILLNESSES,                    "affects",          "disease"),
)]
# fmt: on


RULES_AT: dict[tuple[str, str], list[Rule]] = {}  # (page type, normal heading or "=infobox field") -> rules
for _rule in RULES:
    for _type in listed(_rule.pages):
        for _place in [f"={name}" for name in listed(_rule.fields)] + list(map(normal_heading, listed(_rule.sections))):
            RULES_AT.setdefault((_type, _place), []).append(_rule)

# Which types a relation joins, whoever reads it off a page: relation -> (subject type, object type)
JOINED: dict[str, set[tuple[str, str]]] = {}
for _rule in RULES:
    for _ends in [(page, linked) for page in listed(_rule.pages) for linked in listed(_rule.linked)]:
        JOINED.setdefault(_rule.relation, set()).add(_ends[::-1] if _rule.inverse else _ends)

# Which relation of an inner heading may take the place of the outer one's ("Diagnosis > Differential diagnosis");
# otherwise the outermost heading with a rule wins ("Causes > Medications" are causes).
YIELDS = {
    "symptom": {"complication", "cause", "differential"},
    "cause": {"risk_factor", "mechanism", "differential"},
    "mechanism": {"cause", "risk_factor"},
    "diagnosed_by": {"differential", "symptom"},
    "treated_by": {"prevented_by", "contraindication", "adverse_effect", "interaction"},
    "adverse_effect": {"contraindication", "interaction"},
    "contraindication": {"adverse_effect", "interaction"},
}
# Under headings of the first kind, inner ones of the second speak of something else. (Under causes, medications and
# surgery do not: they cause diseases too.)
CLOSED = {
    "cause": {"symptom", "complication", "diagnosed_by"},
    "symptom": {"risk_factor", "treated_by", "prevented_by"},
}
# Under these headings, and all below them, nothing is stated of the page's subject, or nothing that holds today.
SILENT = set(map(normal_heading, listed(
    "history; research; society and culture; culture; classification; cost; economics; epidemiology; prevalence; "
    "incidence; etymology; terminology; nomenclature; name; naming; eponym; definition; notable cases; notable "
    "people; controversy; controversies; criticism; legal issues; law; evolution; evolutionary considerations; media; "
    "fiction; directions; trials; case studies; alternative medicine; other animals; animals; veterinary medicine; "
    "dogs; cats; horses; livestock; recreational use; non-medical use; misuse; overuse; abuse; popular culture; "
    "theories; hypotheses; types; subtypes; variants; comorbidity; comorbidities"
)))  # fmt: skip
SILENCING = re.compile(
    r"\b(?:research|experimental|investigational|future|emerging|novel|alternative|complementary|folk|traditional"
    r"|historical|homeopath\w*|herbal|veterinary|animal|recreational|obsolete|former|discontinued|ineffective"
    r"|unproven|disproven|unestablished|uncertain|putative|disputed|evolutionary|proposed|hypothetical|speculative"
    r"|protective|potential|legal|non medical|co ?morbid)\b"
)
# Inner headings that speak of something else: of no treatment under treatment and uses; under causes, of what occurs
# together with a disease.
NO_USE = set(map(normal_heading, listed(
    "complications; side effects; adverse effects; adverse events; pregnancy; breastfeeding; lactation; overdose; "
    "risks; safety; prognosis; outcome; outcomes; resistance; failure; monitoring; precautions; warnings; toxicity; "
    "triggers; what to avoid; avoidance; special populations; special considerations; special precautions; "
    "limitations; anaesthetic considerations; anesthetic considerations"
)))  # fmt: skip
NO_CAUSE = set(map(normal_heading, listed(
    "associations; associated conditions; associated disorders; associated diseases; associated findings; relation; "
    "localizing signs"
)))  # fmt: skip
ASIDES = {"treated_by": NO_USE, "prevented_by": NO_USE, "diagnosed_by": NO_USE, "cause": NO_CAUSE}
# Under a heading that joins subjects ("Prevention and treatment"), the sentence says which of their relations is meant.
CUES = {
    "prevented_by": r"prevent|prophyla|vaccin|immuni[sz]|protect|reduce the risk",
    "treated_by": r"treat|therap|manage|relie|medicat|given|control|cure",
    "diagnosed_by": r"diagnos|test|scan|detect|confirm|examin|biops|imaging|reveal",
    "cause": r"cause|due to|result|lead to",
    "risk_factor": r"risk|predispos|more likely|common in",
    "complication": r"complicat|lead to|progress|develop|sequel",
    "symptom": r"symptom|sign|present|include|experience",
    "contraindication": r"contraindicat|should not|must not|avoid",
    "adverse_effect": r"effect|cause|reaction",
}
# What a sentence on a disease's page says outright of the names after it, wherever it stands: causes told under
# "Classification", a differential diagnosis under "Diagnosis", complications under "Treatment", anything in the lead.
# SUBJECT stands for the page's names, which a sentence below the lead has to have.
OFTEN = r"(?:(?:may|can|also|often|usually|typically|commonly|generally|mostly|most|common|other|well|known) ){0,3}"
OF_IT = r"(?: (?:of|for) (?:the )?(?:[\w-]+[ -]){0,2}?SUBJECT)?"
LISTS = (
    rf"{OF_IT} {OFTEN}(?:includ(?:es?|ing)|such as|(?:are|is)(?! (?:\w+ ){{0,2}}(?:found|seen|rare|associated|due)))\b"
)
TOLD_AS = {
    "symptom": rf"\b(?:signs|symptoms){LISTS}",
    "cause": rf"\bcauses?{LISTS}|^SUBJECT (?:is|are) {OFTEN}(?:caused by|due to)\b",
    "risk_factor": rf"\brisk factors{LISTS}",
    "complication": rf"\bcomplications{LISTS}|^SUBJECT {OFTEN}leads? to\b",
    "differential": rf"\bdifferential diagnos[ei]s{LISTS}",
    "diagnosed_by": rf"^diagnosis{LISTS} {OFTEN}(?:by|based on|made|confirmed)\b"
    rf"|^SUBJECT is {OFTEN}diagnosed (?:by|with)\b",
    "treated_by": rf"^(?:treatments?|management|therapy){LISTS}|^SUBJECT is {OFTEN}treated (?:with|by)\b",
}
TOLD = [(rule, re.compile(rf"(?:{TOLD_AS[rule.relation]})[^;]{{0,200}}$", re.IGNORECASE)) for rule in RULES
        if rule.pages == "disease" and rule.sections and rule.relation in TOLD_AS]  # fmt: skip
TELLING = re.compile(
    r"\b(?:signs|symptoms|caus\w+|risk factors|complications|diagnos\w*|treat\w*|management|therapy|due|leads?)\b"
)
TELLING_WORD = re.compile(  # to be looked for first
    r"signs|symptoms|caus|risk factors|complications|diagnos|treat|management|therapy|due|lead"
)
ANAPHOR = re.compile(r"\b(?:it|the (?:disease|condition|disorder|syndrome))\b", re.IGNORECASE)
# "used to prevent malaria", but not "prevents attacks of migraine", which is treatment
PREVENTING = re.compile(
    r"\b(?:prevent(?:s|ing|ion of)?|(?:prophylaxis|protects?|protection|immunization|vaccination) against)\b"
    r"(?!.*\b(?:of|in|for|is|are|treats?|belongs?)\b)",
    re.DOTALL,
)
PREVENTS = re.compile(r" (?:thereby |thus )?prevent(?:s|ing) the (?:disease|condition|disorder|syndrome)\b")
# What follows the symptoms, or is only feared
COMES_LATE = re.compile(r"\b(?:leads?|leading|progress\w*|results?|resulting|eventual\w*|untreated|advanced)\b")
END = re.compile(
    r"(?:(?:heart|kidney|renal|liver|hepatic|respiratory) failure|(?<!night )blindness|cirrhosis|osteoporosis)$"
)
COMPLICATING = re.compile(
    r"(?:(?<!minimal )\bcomplications\b(?: \w+){0,3}(?: such as| includ\w+|:)[^;]{0,200}"
    r"|\brisks? (?:of|for) (?:developing )?(?:[\w-]+ ){0,2})$"
)
FEARED_WORD = re.compile(r"complications|risk")  # to be looked for first
# Among causes, what only raises the risk.
AT_RISK = re.compile(
    r"\b(?:at (?:an? )?(?:\w+ )?risk|(?:increas\w+|higher|greater|elevated|raised?) (?:an? |the |their )?(?:\w+ )?risk"
    r"|risk factors?|(?:occurs?|develops?) in (?:people|persons|patients|individuals|those) (?:on|with|taking|who)"
    r"|(?:especially|more|highly|particularly) susceptible|predispos\w+(?! to (?:[\w-]+ ){0,3}$))\b"
)
# Under these silent headings a sentence may still tell something outright.
CLASSES = set(map(normal_heading, listed("classification; types; subtypes; variants; prognosis")))
# Pages that are too general to be one end of a fact.
VAGUE = set(listed(
    "infection; disease; illness; disorder; syndrome; symptom; sign; medical sign; medication; medicine; drug; "
    "treatment; pharmaceutical drug; therapy; intravenous therapy; injection; oral administration; route of "
    "administration; virus; bacteria; bacterium; organ; pathogen; genetic disorder; medical test; diagnosis; medical "
    "diagnosis; hospital"
))  # fmt: skip


@lru_cache(10_000)  # most pages have the same headings
def rules_for(kind: str, path: tuple[str, ...]) -> list[list[Rule]]:
    """The rules of a section, whose titles are given from the top one down to it: one list per subject of its heading.

    The outermost heading with a rule wins, an inner one only narrows it down (`YIELDS`). [] where nothing is stated.
    """
    found: list[list[Rule]] = []
    for title in path:
        here, outer = rules_of(kind, title), relations_of(found)
        if is_silent(title):
            return []
        if not found or here and yields(outer, here):
            found = here
        elif closes(outer, relations_of(here)) or is_aside(outer, title):
            return []
    return found


def relations_of(rules: list[list[Rule]]) -> set[str]:
    """The relations that any of these rules gives."""
    return {rule.relation for of_subject in rules for rule in of_subject}


@lru_cache(10_000)
def may_tell(path: tuple[str, ...]) -> bool:
    """Whether a sentence of a section may tell something of the page's subject outright, whatever its headings."""
    return not any(is_silent(title) and normal_heading(title) not in CLASSES for title in path)


def told(before: str, named: re.Pattern, in_lead: bool) -> list[Rule]:
    """The rules by which a sentence says outright what it names, given what stands `before` the name and a pattern of
    the names of the page's subject."""
    before = named.sub("SUBJECT", before.strip())
    if in_lead:
        before = ANAPHOR.sub("SUBJECT", before, count=1)
    elif "SUBJECT" not in before:
        return []
    return [rule for rule, says in TOLD if says.search(before)]


def relation_told(rule: Rule, target: str, before: str, after: str) -> str:
    """The relation of a rule, or the one that the words around the name make of it ("complications such as X"), given
    the parts of its clause before and after it in small letters."""
    if rule.relation == "treated_by" and (PREVENTING.search(before) if rule.inverse else PREVENTS.match(after)):
        return "prevented_by"
    if rule.inverse:
        return rule.relation
    if rule.relation == "symptom":
        feared = FEARED_WORD.search(before) and COMPLICATING.search(before)
        return "complication" if feared or END.search(target.lower()) and COMES_LATE.search(before) else "symptom"
    if rule.relation == "cause" and (AT_RISK.search(before) or AT_RISK.search(after)):
        return "risk_factor"
    return rule.relation


def closes(outer: set[str], inner: set[str]) -> bool:
    """Whether an inner heading turns from what the outer one is about to something else (`CLOSED`)."""
    return any(CLOSED.get(relation, set()) & inner for relation in outer)


def is_aside(outer: set[str], title: str) -> bool:
    """Whether an inner heading speaks of something besides what the outer one is about (`ASIDES`)."""
    names = set(chain.from_iterable(subjects(title)))
    return any(names & ASIDES.get(relation, set()) for relation in outer)


def rules_of(kind: str, title: str) -> list[list[Rule]]:
    """The rules of one heading: those of it as a whole, or else those of each subject that it joins."""
    whole = RULES_AT.get((kind, normal_heading(title)))
    if whole:
        return [whole]
    found = []
    for names in subjects(title):
        rules = next((RULES_AT[kind, name] for name in names if (kind, name) in RULES_AT), [])
        if rules and rules not in found:
            found.append(rules)
    return found


def yields(outer: set[str], inner: list[list[Rule]]) -> bool:
    """Whether an inner heading's rules narrow down what the outer one is about."""
    allowed = outer.union(*(YIELDS.get(relation, set()) for relation in outer))
    return all(rule.relation in allowed for rules in inner for rule in rules[:1])


def is_silent(title: str) -> bool:
    """Whether a heading, or each of the subjects that it joins, promises no facts that hold today."""
    whole, *parts = [any(name in SILENT for name in names) for names in subjects(title)]
    return bool(SILENCING.search(normal_heading(title))) or (all(parts) if parts else whole)


def applicable(rules: list[list[Rule]], sentence: str) -> list[Rule]:
    """The rules that apply to a sentence: where subjects of a joint heading claim the same type of link, its cues
    say."""
    every = list(chain.from_iterable(rules))
    if len(rules) < 2:
        return every
    claims: dict[str, set[str]] = {}
    for rule in every:
        for linked in listed(rule.linked):
            claims.setdefault(linked, set()).add(rule.relation)
    cued = {relation for relation, cue in CUES.items() if re.search(cue, sentence, re.IGNORECASE)}
    chosen = []
    for rule in dict.fromkeys(every):
        sure = [t for t in listed(rule.linked) if len(claims[t]) == 1 or claims[t] & cued == {rule.relation}]
        if sure:
            chosen.append(rule._replace(linked="; ".join(sure)))
    return chosen

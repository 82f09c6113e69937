"""Sentences and clauses, and what they assert."""

from __future__ import annotations

import re
from collections.abc import Iterator

ABBREVIATIONS = {"e.g", "i.e", "vs", "cf", "dr", "st", "approx", "ca", "spp", "sp", "al", "fig", "incl", "esp", "viz"}
MAX_SENTENCE_CHARS = 2_000  # what is longer is no sentence; without a limit, hostile text takes quadratic time
SENTENCE_END = re.compile(r"\n[ \t]*\n|[.!?][\"'”’)\]]{0,2}\s+")
CLAUSE_END = re.compile(
    r";|, (?=(?:and|so) (?:it|they|this|these|those)\b)|\b(?:but|although|though|whereas|while|however|except)\b",
    re.IGNORECASE,
)
UNPROVEN = r"\b(?:no|little|insufficient) (?:\w+ )?evidence\b|\b(?:dis|un)prove[nd]\b|\bunclear (?:if|whether)\b"
NEGATION = re.compile(
    rf"{UNPROVEN}|\bnot\b(?! (?:only|always|fully|completely|uncommon|unusual|rare|respond|tolerat|improve|enough))"
    r"|n't\b|\b(?:never|neither|nor|absence of|free of|ineffective|useless|once thought|wrongly|controversial)\b"
    r"|(?<!little or )\bno\b",
    re.IGNORECASE,
)
LACKING = re.compile(r"\bwithout(?: an?| any)?\s*$", re.IGNORECASE)  # just before the link: "without X"
HARMFUL = re.compile(r"\b(?:is|are|be) (?:avoided|contraindicated|harmful)\b", re.IGNORECASE)
CONTRAST = re.compile(r"\b(?:unlike|rather than|instead of|in contrast to|mistaken|confused with)\b", re.IGNORECASE)
# "It should not be given in asthma" states a contraindication, so there only these count.
PERMITTED = re.compile(rf"{UNPROVEN}|\bnot (?:a )?contraindicat|\b(?:no|not) interact|\bis safe\b", re.IGNORECASE)
# "used to prevent malaria", but not "prevents attacks of migraine", which is treatment
PREVENTING = re.compile(
    r"\b(?:prevent(?:s|ing|ion of)?|(?:prophylaxis|protects?|protection|immunization|vaccination) against)\b"
    r"(?!.*\b(?:of|in|for|is|are|treats?|belongs?)\b)",
    re.IGNORECASE | re.DOTALL,
)

# Every match of the patterns above has one of these (lower-case) words, and most sentences have none: looking for them
# first takes a tenth of the time.
TURNING_WORD = re.compile(
    r"n't\b|\b(?:no[rt]?\b|never|neither|little|in(?:sufficient|effective|stead)|un(?:prove|clear|like)|disprove"
    r"|free of|without|absence|useless|once|wrong|contr|avoid|harm|rather|mistaken|confus|is safe|prevent|prophyl"
    r"|protect|immuni|vaccin)"
)


def split_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end offsets of the sentences; no cut after an abbreviation or before a small letter."""
    start = 0
    for match in SENTENCE_END.finditer(text):
        if not match[0].startswith("\n"):
            last_word = (text[max(start, match.start() - 12) : match.start()].split() or [""])[-1].lower().lstrip("(")
            following = text[match.end() : match.end() + 2].lstrip("\"'“‘([")[:1]
            if last_word in ABBREVIATIONS or not (following.isupper() or following.isdigit()):
                continue
        yield start, match.end()
        start = match.end()
    yield start, len(text)


def asserted(before: str, after: str, relation: str) -> bool:
    """Whether a clause, given as its parts before and after a link, affirms the linked thing: no negation, no hedge."""
    clause = before + after
    if relation in {"contraindication", "interaction"}:
        return not PERMITTED.search(clause)
    if NEGATION.search(clause) or LACKING.search(before):
        return False
    if relation in {"treated_by", "prevented_by"} and HARMFUL.search(clause):
        return False
    return relation == "differential" or not CONTRAST.search(clause)


def clause_around(sentence: str, offset: int) -> tuple[str, str]:
    """The clause in which an offset lies, cut there."""
    ends = [0, *(match.start() for match in CLAUSE_END.finditer(sentence)), len(sentence)]
    start = max(end for end in ends if end <= offset)
    return sentence[start:offset], sentence[offset : min(end for end in ends if end > offset)]

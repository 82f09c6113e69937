"""Sentences, and how far what they say of a thing reaches.

A link in a sentence is no fact yet: the sentence may deny it, hedge it, or name it for another reason (doubts.py). Here
is how far such a verdict reaches, which is as far as a reader takes it to: across a semicolon to a mere list, from an
introduction ("Avoid the following:") into the list, and into "These include ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

ABBREVIATIONS = {"e.g", "i.e", "vs", "cf", "dr", "st", "approx", "ca", "spp", "sp", "al", "fig", "incl", "esp", "viz"}
MAX_SENTENCE_CHARS = 2_000  # what is longer is no sentence; without a limit, hostile text takes quadratic time
SENTENCE_END = re.compile(r"\n[ \t]*\n|[.!?][\"'”’)\]]{0,2}\s+")
TAKEN_BACK = (  # "have been used, but with limited efficacy": no new clause, for it speaks of the same thing
    r" (?:(?:these|this|they|it)(?: \w+)? )?(?:is|are|was|were|has|have|had|with)\b[^,;]{0,40}\b(?:limited|little"
    r"|no|poor|lack\w*|un(?:substantiated|proven|successful)|disappoint\w*|ineffective|fail\w*"
    r"|not (?:been )?(?:\w+ )?(?:used|assessed|evaluated|studied|substantiated"
    r"|proven|shown|confirmed|supported|effective|successful|diagnostic"
    r"|useful|helpful|reliable))\b"
    r"|[^,;]{0,60}\b(?:study|studies|trials?|findings|results|data)\b,?[^,;]{0,100}"
    r"\b(?:fail\w*|(?:do|does|did|has|have) not)\b"
    r"|[^,;]{0,120}\bconflicting (?:results|evidence|data|findings)\b"
    r"|[^,;]{0,80}\bfailed to (?:identify|show|find|demonstrate|confirm)\b"
    r"|(?:, as of \d{4},)?[^,;]{0,40}\b(?:no|little|not any) (?:evidence|documentation|studies|trials)\b"
    r"| the (?:link|association|relationship)\b[^,;]{0,20}\bnot\b"
)
NO_PROOF = (
    r" (?:its|their) (?:use|role|efficacy|effectiveness)\b[^,;]{0,30}\b(?:controversial|unproven|limited|debated"
    r"|uncertain)\b"
    r"|(?: [\w-]+){0,4} (?:no|little|less|limited|weak|poor|insufficient|scant) (?:[\w-]+ )?(?:evidence|data)\b"
    r"|(?: [\w-]+){0,7} evidence\b[^,;]{0,60}\b(?:lack\w*|limited|weak|poor|inconclusive|insufficient)\b"
)
CLAUSE_END = re.compile(
    r";|, (?=(?:and|so) (?:it|they|this|these|those)\b)"
    rf"|\b(?:but(?! (?:not|also|(?:may|can) include)|{TAKEN_BACK}|{NO_PROOF})|(?:although|though)(?!{NO_PROOF}"
    r"| it (?:has been|is) (?:associated|linked)\b)|whereas"
    r"|while(?! (?:once|formerly|previously|initially))|(?<!, )however|however(?!,))\b",
    re.IGNORECASE,
)
OWN_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|does|do|did|can|may|might|must|should|will|would|cause[sd]?|used?|treats?"
    r"|helps?"
    r"|reduces?|prevents?|improves?|relieves?|occurs?|leads?|results?|remains?|shows?|makes?|gives?|works?)\b",
    re.IGNORECASE,
)
CONTINUES = re.compile(  # a sentence or a clause that begins like this shares the verdict of the one before
    r"\W{0,9}(?:(?:(?:these|this|they|those|such \w{1,20}|others|examples?|some(?: of (?:these|them))?)"
    r"(?: \w{1,20}){0,2} "
    r"(?:includ\w*|compris\w*|consist\w*|range\w*|involv\w*)|examples? |among (?:them|these|those|others)\b"
    r"|one of (?:them|these|those)\b|(?:the same|this(?: also)?|likewise|similarly)\b"
    r"[^,]{0,20}\b(?:true|holds?|appl\w*|goes)\b"
    r"|for (?:example|instance)\b|(?:e\.g|i\.e)\b|such as\b|namely\b|includ(?:es?|ing)\b|so (?:is|are|do|does)\b))",
    re.IGNORECASE,
)
# A condition holds for the rest of the sentence and not for what it is said of: "If rest does not help, X is used".
CONDITION_BEFORE = re.compile(
    r"\b(?:if|when|where|once|unless|in (?:those|patients|people|cases) (?:who|where|in whom))\b"
    r"(?:(?!\b(?:there (?:is|are)|stop\w*|withdrawn|discontinu\w*|removed)\b)[^,;]){0,150},"
)
CONDITION_AFTER = re.compile(  # as far as a verb that denies: "in those who had one, or have one now, do not change"
    r"\b(?:if|when|where|unless|until|who|in whom|for whom)\b(?: \w+){0,3}(?:(?! (?:do|does|did) not\b)[^,;]){0,200}"
    r"|(?<!occur )(?<!found )(?<!seen )(?<!observed )"
    r"\bin (?:\w+ ){0,2}(?:those|patients|people|cases|women|men|children) (?:that|not|with(?:out)?)\b"
    r"(?:(?! (?:do|does|did) not\b)[^,;]){0,200}"
)
# To be looked for first, in small letters: a clause ends before, a condition has one of these.
CLAUSE_WORD = re.compile(r";|, (?:and|so) |but|though|whereas|while|however")
CONDITION_WORD = re.compile(
    r"(?:if|when|where|once|un(?:less|til)|whom?|those|p(?:atients|eople)|cases|men|children)\b"
)


def split_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end offsets of the sentences; no cut after an abbreviation or before a small letter."""
    start = 0
    for match in SENTENCE_END.finditer(text):
        if not match[0].startswith("\n"):
            following = text[match.end() : match.end() + 2].lstrip("\"'“‘([")[:1]
            if not (following.isupper() or following.isdigit()):
                continue
            last_word = (text[max(start, match.start() - 12) : match.start()].split() or [""])[-1].lower().lstrip("(")
            if last_word in ABBREVIATIONS:
                continue
        yield start, match.end()
        start = match.end()
    yield start, len(text)


class Statement(NamedTuple):
    """A sentence from `start` to `end` of a text, and the earlier words whose verdict it shares."""

    start: int
    end: int
    context: str = ""


def statements(text: str, items: list[int] | tuple[int, ...] = ()) -> Iterator[Statement]:
    """The sentences of a text. `items` are the offsets at which list items begin: they obey the line that leads in."""
    begins = set(items)
    before = lead_in = ""
    for start, end in split_sentences(text):
        sentence = text[start:end].strip()
        if not sentence or len(sentence) > MAX_SENTENCE_CHARS:
            yield Statement(start, end)
            continue
        in_list = bool(begins) and not begins.isdisjoint(range(start, start + 4))
        continues = CONTINUES.match(sentence)
        if not in_list and not (lead_in and begins and continues):
            lead_in = ""
        context = lead_in if in_list else before if continues else ""
        yield Statement(start, end, context)
        if sentence.endswith(":") and not in_list:
            lead_in = f"{context} {sentence} ".lstrip()[-MAX_SENTENCE_CHARS // 4 :]
        before = f"{context} {sentence} ".lstrip()[-MAX_SENTENCE_CHARS // 2 :]


@lru_cache(16)  # asked of each name in a sentence
def clause_starts(sentence: str) -> tuple[list[int], bool]:
    """Where the clauses of a sentence begin, and whether it may have conditions. What follows a semicolon is a clause
    only if it has a verb of its own."""
    folded, cuts = sentence.casefold(), [0]
    for match in CLAUSE_END.finditer(sentence) if CLAUSE_WORD.search(folded) else ():
        rest = sentence[match.end() : match.end() + 200]
        if match[0] != ";" or OWN_VERB.search(rest.partition(";")[0]) and not CONTINUES.match(rest):
            cuts.append(match.start())
    return cuts, bool(CONDITION_WORD.search(folded))


def clause_around(sentence: str, start: int, end: int | None = None) -> tuple[str, str]:
    """What stands before and after a name (from `start` to `end`) in its clause, without conditions, in small letters:
    those are searched twice as fast as regardless of case."""
    end, (cuts, conditional) = start if end is None else end, clause_starts(sentence)
    first, last = 0, len(sentence)
    if len(cuts) > 1:
        first = max(cut for cut in cuts if cut <= start)
        last = min([cut for cut in cuts if cut >= end and cut > first], default=last)
    before, after = sentence[first:start].lower(), sentence[end:last].lower()
    if not conditional:
        return before, after
    return CONDITION_BEFORE.sub(" ", before), CONDITION_AFTER.sub(" ", after)

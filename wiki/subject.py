"""Whose fact a sentence tells: the page's subject's, or that of another disease which it names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from wiki.headings import singular

DISEASE = (  # names of diseases by their endings; "infection", "failure" may be a stage of the page's subject
    r"(?:[\w'’-]+ ){0,3}?(?:[\w'’-]+(?:itis|oses|osis|[ae]mia|pathy|opathies|omas?|plegia|trophy|plasia|rhosis"
    r"|thyroidism|eclampsia)"
    r"|[\w'’-]+ (?:diseases?|syndromes?|disorders?|cancers?|deficienc(?:y|ies)|embolism))"
)
# What has signs of its own, and what is treated for itself.
EPISODE = r"panic attacks?|complications?|o?edema|bleeding|fractures?|collapse|failure|pneumonia"
TREATED_ALONE = rf"{EPISODE}|gallstones?|diabetes insipidus|hypertension|epilepsy"
START = r"^\W{0,3}(?:for (?:example|instance),? )?"
IN_ANOTHER = re.compile(
    rf"{START}(?:in|with|among) (?:(?:patients|people|those|children|adults) with )?(?P<name>{DISEASE})"
    r"(?: \([^)]{0,40}\))?,"
)
NAME, SIGNED, TREATED = (
    rf"(?P<name>{of_name})(?: \([^)]{{0,40}}\))?"
    for of_name in (DISEASE, *(rf"{DISEASE}|(?:[\w'’-]+ ){{0,2}}?(?:{more})" for more in (EPISODE, TREATED_ALONE)))
)
OF_ANOTHER = [  # the relation, the part of the sentence in which another disease is told of, and how
    ("symptom", "sentence", rf"{START}{NAME} (?:\w+ ){{0,2}}?(?:causes?|leads? to|results? in|progress(?:es)? to"
     r"|presents? with|is characteri[sz]ed by|produces?)\b"),
    ("symptom", "before", rf"\b(?:signs|symptoms|features|manifestations|indicators) of (?:an? |the )?{SIGNED}"
     r" (?:\w+ )?(?:include|are|such as|occur)\b"),
    ("symptom", "after", rf"^(?: (?:of|in) (?:the )?(?:\w+ ){{0,2}}\w+)?(?:[,\w -]{{0,80}},? and [\w -]{{1,50}})?"
     r"(?: \([^()]{0,60}\))? "
     r"(?:is|are|(?:can|may) be) (?:an? |the )?(?:\w+ )?(?:signs?|results?|indicat\w+) of "
     rf"(?:an? |the )?{SIGNED}"),
    ("symptom", "sentence", rf"^when (?:signs|symptoms) of (?:an? |the )?{SIGNED} (?:occur|appear|develop)\b"),
    ("complication", "before", rf"\b(?:patients?|people|those|children|infants|women|men) with (?:an? |the )?"
     rf"(?:untreated |severe )?{NAME} (?:are|have|may be) (?:\w+ )?(?:at|an?) [\w ]{{0,30}}risk of\b"),
    ("symptom", "before", rf"\b(?:person|someone|patients?|people|those|children|women|men) with (?:an? |the )?{SIGNED}"
     r" (?:may|can|might|often|usually|also)\b"),
    ("diagnosed_by", "after", rf"^[^;.]{{0,60}}?\b(?:screen|check|test|look|search)\w* for (?:signs of )?"
     rf"(?:an? |the )?{NAME}"),
    ("treated_by", "sentence", rf"{START}(?:development of )?{TREATED} (?:is|are|(?:can|may|should) be) (?:\w+ ){{0,2}}"
     r"(?:treated|managed|controlled|prevented)\b"),
    ("treated_by", "sentence", rf"{START}(?:treatment|management) (?:of|for) (?:an? |the )?{TREATED} "),
    ("treated_by", "before", rf"\b(?:of|have|get|cause|develop(?:ing)?) (?:an? |the )?{TREATED},? (?:which|that)"
     r" (?:is|are|(?:can|may) be) (?:\w+ )?(?:treated|managed)\b"),
    ("treated_by", "after", rf"^(?:[^;.,]{{0,40}}?\b(?:to (?:treat|prevent|manage|control)|(?:treatment|management) of)"
     rf"| for) (?:an? |the )?{TREATED}"),
    ("treated_by", "after", rf"^[^;.]{{0,80}}?\bin (?:\w+ )?(?:patients|people|children|adults|women|men|cases) with "
     rf"(?:an? |the )?{TREATED}"),
    ("cause", "before", r"\b(?:many|other|several|various) causes of (?P<name>[\w'’ -]{3,40}?),?"
     r" (?:include|including|are|such as)\b"),
]  # fmt: skip
SAYS_SO = {
    relation: [(part, re.compile(says)) for of, part, says in OF_ANOTHER if of == relation]
    for relation, *_ in OF_ANOTHER
}
STAGE = re.compile(  # a step on the way to the subject's own signs, or a form of it: "vaginal disease causes itch"
    r"(?:[ae]mia|\bdoses|acidosis|cirrhosis|necrosis|(?<!['’]s )(?<!s['’] )(?:diseases?|disorders?))$", re.I
)
EPONYM = re.compile(r"\w['’]s? (?!disease|syndrome|disorder)(\w+)$", re.I)
ANYONE = re.compile(r"\b(?:this|these|such|the|adults|children|infants|women|men|patients|people) ", re.IGNORECASE)
TOLD_OF = {"symptom", "complication", "affects", "mechanism"}
ORIGINS = {"cause", "risk_factor"}
MOST_NAMES = 30
JOINTS = (" and ", " or ")
JOINED_TO = r"(?:^|[,(;:] |\b(?:to|with|of|both|between|for|as|by|in|from) (?:the )?)"
CAUSED_BY = r"[^;.]{0,100}\b(?:is|are|be) (?:\w+ )?(?:due to|caused by) (?:either |the )?"
WITH_IT = r"\b(?:people|persons|those|patients|individuals|children|adults) (?:with|who have) (?:an? |the )?"
OF_THOSE = re.compile(WITH_IT)
AFTER = re.compile(rf",? (?:and|or) |{CAUSED_BY}")  # what spares most names the patterns of one page
ACRONYM = re.compile(r"\(([A-Z][A-Za-z0-9-]{0,6}[A-Z])\b[^()]{0,40}\)")


def spelled(name: str) -> str:
    """A pattern of a name in British or American spelling."""
    return re.sub("[ao]?e", "[ao]?e", re.escape(name))


def acronyms(text: str, names: Iterable[str]) -> set[str]:
    """The acronyms in brackets that may stand for one of the names: "HFI" for "hereditary fructose intolerance"."""
    names = [name.casefold() for name in names]
    return {short for short in ACRONYM.findall(text) if any(abbreviates(short.casefold(), name) for name in names)}


def abbreviates(letters: str, name: str) -> bool:
    """Whether letters stand in this order in a name, from its first one on."""
    rest = iter(name)
    return letters[:1] == name[:1] and all(letter in rest for letter in letters)


class Subject:
    """A page's subject by its names, to be found in sentences.

    >>> Subject(["Moyamoya disease"]).tells_of_another("In atherosclerosis, the walls of arteries are damaged.")
    True
    """

    def __init__(self, names: Iterable[str]):
        short = {name.casefold() for name in names if len(name) > 1}
        self.names = sorted(short, key=lambda name: (-len(name), name))[:MOST_NAMES]

    @cached_property
    def words(self) -> set[str]:
        return {singular(word) for name in self.names for word in re.findall(r"\w{4,}", name)}

    @cached_property
    def eponyms(self) -> set[str]:
        """What the subject is a form of that is called after somebody: chorea of "Sydenham's chorea"."""
        return {singular(match[1]) for name in self.names if (match := EPONYM.search(name))}

    @cached_property
    def any_name(self) -> str:
        return rf"(?:{'|'.join(map(spelled, self.names))})"

    @cached_property
    def named(self) -> re.Pattern:
        return re.compile(rf"\b{self.any_name}\b", re.IGNORECASE)

    @cached_property
    def before(self) -> re.Pattern:
        brackets = r"(?: \([^)]{0,20}\))?"
        return re.compile(rf"{JOINED_TO}{self.any_name}{brackets},? (?:and|or) $", re.IGNORECASE)

    @cached_property
    def after(self) -> re.Pattern:
        return re.compile(rf",? (?:and|or) {self.any_name}\b|{CAUSED_BY}{self.any_name}\b", re.IGNORECASE)

    @cached_property
    def of_those(self) -> re.Pattern:
        return re.compile(WITH_IT + rf"(?:\w+ )?{self.any_name}\b", re.IGNORECASE)

    def is_not_of(self, relation: str, sentence: str, before: str, after: str) -> bool:
        """Whether a sentence names a thing as something of another disease, as something that the subject causes, or
        beside the subject, where what is said holds of both; given the relation and the parts of its clause."""
        sentence, before, after = sentence.lower(), before.lower(), after.lower()
        if relation in ORIGINS:
            joined = before.endswith(JOINTS) and self.before.search(before)
            if joined or AFTER.match(after) and self.after.match(after):
                return True
            if relation == "cause" and OF_THOSE.search(sentence) and self.of_those.search(sentence):
                return True
        elif relation in TOLD_OF and self.tells_of_another(sentence):
            return True
        parts = {"sentence": sentence, "before": before, "after": after}
        return any(self.is_another(says.search(parts[part])) for part, says in SAYS_SO.get(relation, ()))

    def tells_of_another(self, sentence: str) -> bool:
        """Whether a sentence begins by turning to another disease: "In atherosclerosis, the walls ..."."""
        return self.is_another(IN_ANOTHER.match(sentence.lower()), stages=True)

    def is_another(self, match: re.Match | None, stages: bool = False) -> bool:
        """Whether the name in a match is another disease's; that of what may be a stage of it only if `stages`."""
        if not match or ANYONE.match(match["name"]) or self.named.search(match["name"]):
            return False
        if not stages and STAGE.search(match["name"]):
            return False
        words = {singular(word) for word in re.findall(r"\w{4,}", match["name"].casefold())}
        return self.words.isdisjoint(words) or not self.eponyms.isdisjoint(words)

"""What a thing is a kind of, by its name and by the first sentence of its page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from wiki.headings import singular
from wiki.mediawiki import bare

# "Mycosis fungoides is the most common form of cutaneous T-cell lymphoma that ...": what stands after the verb
IS_A = re.compile(r"\b(?:is|are|was|were|refers? to)\b")
FORM_OF = re.compile(
    r"^.{0,60}?\b(?:types?|forms?|kinds?|subtypes?|variet(?:y|ies)|variants?|class(?:es)?|groups?|members?|one) of\b"
)
CLASS_END = re.compile(
    r"[.,;:()]|\b(?:that|which|who|whose|where|when|caused|characteri[sz]ed|of|in|for|with|by|from|to|due|affecting"
    r"|occurring|used|found)\b"
)
CLASS = re.compile(
    r"\b(?:groups?|class(?:es)?|famil(?:y|ies)|collections?|spectrum|range|umbrella|terms?) (?:of|for)\b"
)
LONGEST_LEAD = 600  # characters in which a page says what it is about
LONGEST_CLASS = 6  # words


def words_of(text: str) -> list[str]:
    """The words of a text, for comparing names: case and punctuation do not count."""
    return re.findall(r"\w+", text.casefold())


@lru_cache(1 << 14)  # an entity's name is compared with those of all its relations' other ends
def name_of(text: str) -> tuple[str, ...]:
    """The words of a name in the singular, for comparing names."""
    return tuple(map(singular, words_of(text)))


def is_class(lead: str) -> bool:
    """Whether a page's first sentence says that it is about a whole class: "... form a large class of diseases"."""
    return bool(CLASS.search(first_sentence(lead)))


def first_sentence(lead: str) -> str:
    return re.split(r"[.!?]\s", lead[:LONGEST_LEAD], maxsplit=1)[0]


def class_named(lead: str) -> str:
    """What a page's first sentence calls its subject: "lung disease" of "X is a type of lung disease that ..."; ""
    where it does not say."""
    sentence = first_sentence(lead)
    verb = IS_A.search(sentence)
    if not verb:
        return ""
    rest = sentence[verb.end() :]
    form = FORM_OF.match(rest)
    return CLASS_END.split(rest[form.end() if form else 0 :], maxsplit=1)[0]


def names_of_classes(title: str, lead: str) -> Iterator[tuple[str, ...]]:
    """What may be the name of a class of a page's subject, in singular words: the beginnings and ends of its title
    (hepatitis of "Hepatitis B", pneumonia of "Aspiration pneumonia"), and what its lead calls it."""
    words = name_of(title)
    for cut in range(1, len(words)):
        yield words[:cut]
        yield words[cut:]
    told = name_of(class_named(lead))
    for end in range(1, len(told) + 1):
        for start in range(max(0, end - LONGEST_CLASS), end):
            yield told[start:end]


# What heals is no examination, and the harm that a substance does is not undone by more of it.
HEALS = re.compile(
    r"(?:therapy|dialysis|transfusion|transplant(?:ation)?|surgery|ectomy|plasty|amputation|ventilation|resuscitation|rehabilitation)$",
    re.I,
)
HARM_OF = re.compile(
    r"(?: use)? (?:dependence|addiction|abuse|misuse|overdose|poisoning|intoxication|toxicity|allergy)$", re.I
)
LACK_OF = re.compile(r" (?:deficiency|insufficiency)$", re.I)  # is not caused by what is lacking


def nested(title: str, other: str) -> bool:
    """Whether one of two names is a kind of the other by its last words: ideomotor apraxia is an apraxia."""
    short, long = sorted((name_of(title), name_of(other)), key=len)
    return long[-len(short) :] == short


def ruled_out(
    relation: str, subject: str, object_: str, same_type: bool, called: str = "", object_called: str = ""
) -> bool:
    """Whether the names of its ends alone say that a relation was misread: a disease is not caused by its own class,
    nor by a kind of itself.

    `called` and `object_called` are what the pages of its ends call them (`class_named`).
    """
    subject, object_ = bare(subject), bare(object_)
    if relation in {"cause", "risk_factor", "complication", "differential"} and same_type and nested(subject, object_):
        return True
    if relation == "symptom" and nested(subject, object_) and len(name_of(subject)) < len(name_of(object_)):
        return True
    if relation in {"cause", "risk_factor"}:
        if same_type and contains(name_of(object_called), name_of(subject)):
            return True
        substance = LACK_OF.sub("", subject)
        if substance != subject and nested(substance, object_):
            return True
    if relation in {"cause", "risk_factor", "complication", "differential", "symptom"}:
        return same_type and contains(name_of(called), name_of(object_))
    if relation == "diagnosed_by":
        return bool(HEALS.search(object_))
    substance = HARM_OF.sub("", subject)
    return relation in {"treated_by", "prevented_by"} and substance != subject and nested(substance, object_)


def contains(words: tuple[str, ...], name: tuple[str, ...]) -> bool:
    return any(words[at : at + len(name)] == name for at in range(len(words) - len(name) + 1))


def class_names(titles: list[str]) -> set[tuple[str, ...]]:
    """The ends of titles that more than one has: no page's own name, but of its class ("tumor" of "Wilms' tumor")."""
    ends: Counter[tuple[str, ...]] = Counter()
    for name in set(map(name_of, titles)):
        ends.update(name[at:] for at in range(1, len(name)))
    return {end for end, count in ends.items() if count > 1}


def names_class(name: str, title: str, classes: set[tuple[str, ...]]) -> bool:
    """Whether a name of a page is but the end of its title, and of others'."""
    words, end = name_of(title), name_of(name)
    return end in classes and len(end) < len(words) and words[-len(end) :] == end

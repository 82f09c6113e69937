"""Section headings, matched by meaning and not by spelling."""

from __future__ import annotations

import re
from functools import lru_cache

JOINT = re.compile(r"\band\b|\bor\b|&|/|,|;|:| - | – ")
TAIL = re.compile(r"\b(?:of|in|for|with|to|on|by|from|during|after|associated|due)\b.*")
ARTICLE = re.compile(r"^(?:the|its|his|her|their|a|an) ")
UNUSUAL = {"diagnoses": "diagnosis", "prognoses": "prognosis", "sequelae": "sequela", "viruses": "virus",
           "aetiologies": "etiology", "aetiology": "etiology",
           "series": "series", "species": "species", "rabies": "rabies", "scabies": "scabies",
           "caries": "caries"}  # fmt: skip
NO_PLURAL = ("ss", "is", "us")


@lru_cache(10_000)
def normal_heading(title: str) -> str:
    """A heading in lower case and the singular, without hyphens: "Side-effects" -> "side effect"."""
    words = re.sub(r"[-‐–—_]", " ", title.lower()).replace("'s", "").strip(" .:").split()
    return ARTICLE.sub("", " ".join(map(singular, words)))


def singular(word: str) -> str:
    """A word in lower case without its plural's ending: "therapies" -> "therapy", "masses" -> "mass"."""
    if word in UNUSUAL or len(word) < 4 or not word.endswith("s") or word.endswith(NO_PLURAL):
        return UNUSUAL.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith("sses") else word[:-1]


@lru_cache(10_000)
def subjects(title: str) -> tuple[tuple[str, ...], ...]:
    """What a heading is about: for each of the things that it joins ("Treatment and prognosis"), its names from the
    most to the least specific: "Common adverse effects in children" is a common adverse effect, an adverse effect, an
    effect."""
    parts = [title]
    if JOINT.search(title):
        parts += [part for part in JOINT.split(title.replace(" - ", " / ")) if part.strip()]
    return tuple(map(names_of, parts))


def names_of(part: str) -> tuple[str, ...]:
    """A heading's part as a whole, then without what follows its head ("of ..."), then without leading adjectives."""
    whole = normal_heading(part)
    head = TAIL.sub("", whole).strip() or whole
    words = head.split()
    return tuple(dict.fromkeys([whole, *(" ".join(words[first:]) for first in range(len(words)))]))

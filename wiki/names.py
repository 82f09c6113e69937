"""Names that the words around them make the names of something else: "swelling of the lymph nodes" is no edema."""

from __future__ import annotations

import re

PART = r"(?:lymph\w*|glands?|glandular|nod(?:es?|al)|bones?|joints?|knees?|hips?|thyroid|testic\w+|test[ei]s"
PART += r"|scrotum|abdom\w+|stomach|belly|optic|colon|bowel|breasts?|tonsils?|liver|spleen|parotid|vocal"
PART += r"|laryn\w+|epiglott\w+)"
# A name in the text -> what right before it or right after it makes it another's. ("a swelling" is a lump)
AROUND = {
    r"swelling": (
        rf"\b(?:{PART}|bone pain (?:or|and)) |\ban? (?:[\w-]+ )?",
        rf"(?:,? (?:and|or) [\w-]+)?(?:,? (?:of|in|at) (?:[\w-]+ ){{0,4}}?| ){PART}\b",
    ),
    r"o?edema": (r"\b(?:cerebral|brain|corneal|macular|retinal) ", r"(?!)"),
    r"(?:muscle )?cramp": (r"\b(?:abdominal|stomach|menstrual|intestinal|uterine|bowel) ", r"(?!)"),
    r"growth retardation": (r"\b(?:prenatal|intrauterine|fo?etal) ", r"(?!)"),
    r"pallor": (r"\b(?:dis[ck]|optic|nerve) ", r" of the (?:optic|dis[ck])"),
    r"urticaria": (r"\bpapular ", r"(?!)"),
    r"blindness": (r"\b(?:colou?r|face|word) ", r"(?!)"),
    r"(?:CT|X-ray computed tomography|computed tomography)(?: scan| scanner)?": (r"\b(?:PET|SPECT) ?[/-]", r"(?!)"),
    r"pain": (
        r"\b(?:perception|sensation|sensitivity|insensitivity|response) (?:to|in|for) ",
        r" (?:fib(?:er|re)s?|receptors?|perception|sensation|thresholds?|tolerance|insensitivity|killers?|relievers?"
        r"|medications?)\b",
    ),
    r"inflammatory": (r"(?!)", r" (?:disorders?|diseases?|conditions?|bowel)\b"),
    # Linked to palliative care, dopamine, urticaria, erysipelas, pleurisy.
    r"palliative|\w+ergic|papular urticaria|erysipeloid|pleuritic": ("", ""),
}
ANOTHER = [
    tuple(re.compile(words, re.IGNORECASE) for words in (f"(?:{name})s?", f"(?:{before})$", after))
    for name, (before, after) in AROUND.items()
]
ANY_NAME = re.compile(rf"(?:{'|'.join(AROUND)})s?", re.IGNORECASE)
REACH = 60  # characters


def means_another(text: str, start: int, end: int) -> bool:
    """Whether a name (from `start` to `end` of a text) with the words around it is the name of something else.

    >>> means_another("swelling of the lymph nodes", 0, 8), means_another("swelling of the feet", 0, 8)
    (True, False)
    """
    name = text[start:end]
    if not ANY_NAME.fullmatch(name):
        return False
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    return any(
        named.fullmatch(name) and (is_before.search(before) or is_after.match(after))
        for named, is_before, is_after in ANOTHER
    )

"""Names that the words around them make the names of something else: "swelling of the lymph nodes" is no edema."""

from __future__ import annotations

import re

from wiki.mediawiki import bare

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
    r"cough(?:ing)?": (
        r"\b(?:impaired|weak|ineffective|poor|diminished|absent) ",
        r" (?:reflex|medicines?|suppress\w+)\b",
    ),
    r"(?:cancer|leuk(?:a?e)mia|lymphoma|HIV|AIDS|diabetes|malaria|tuberculosis)": (
        r"(?!)",
        r" (?:treatments?|therap(?:y|ies)|medications?|drugs?|chemotherapy|screening|vaccin\w+)\b",
    ),
    r"inflammatory": (r"(?!)", r" (?:disorders?|diseases?|conditions?|bowel)\b"),
    # Linked to palliative care, dopamine, urticaria, erysipelas, pleurisy.
    r"palliative|\w+ergic|papular urticaria|erysipeloid|pleuritic": ("", ""),
}
# What is written -> titles that it leads to and does not mean: less, or something else.
SAYS_LESS = {
    r"(?:muscle |muscular )?stiff(?:ness| muscles)": r"spasticity|rigidity|dystonia",
    r"(?:frequent|urgent) urination|urinary (?:frequency|urgency)": r"polyuria|urinary incontinence",
    r"heartburn": r"gastro-?o?esophageal reflux(?: disease)?",
    r"(?:unexplained |unintended )?weight loss": r"cachexia|wasting(?: syndrome)?|anorexia.*",
    r"(?:loss of blood|blood loss|pale(?:ness| skin))": r"an(?:a?)emia.*",
    r"swelling|swollen": r"papilledema|inflammation|angioedema|lymphadenopathy|arthritis",
    r"(?:joint pains?|pain(?:ful)? (?:in the )?joints|joint (?:problems|stiffness))": r"(?:.* )?arthritis",
    r"(?:nerve pain|numbness|tingling)": r"(?:peripheral )?neuropathy|polyneuropathy",
    r"(?:red(?:ness of the|, irritated)? eyes?|eye (?:redness|irritation))": r"conjunctivitis|uveitis",
    r"(?:loss of vision|vision loss|visual loss|blurred vision|vision problems)": r"blindness",
    r"(?:fatigue|tiredness|exhaustion)": r"malaise|chronic fatigue syndrome",
    r"irregular heart ?(?:beats?|rates?)": r"palpitations?|atrial fibrillation",
    r"(?:liver|hepatic) (?:damage|injury|problems)|damage to the liver": r"hepatitis|cirrhosis|liver failure",
    r"(?:kidney|renal) (?:problems|damage|disease)": r"(?:renal|kidney) failure|.*nephritis",
    r"(?:breathing|respiratory) (?:problems|difficult(?:y|ies))|difficult(?:y|ies) (?:in )?breathing": (
        r"respiratory (?:failure|arrest)|asthma"
    ),
    r"heart (?:problems|disease|damage)": r"heart failure|myocardial infarction|cardiomyopathy",
    r"(?:severe |serious |bacterial )?infections?": r"sepsis|septic shock",
    r"(?:confusion|altered mental status|mental confusion)": r"(?:.* )?encephalopathy|delirium|dementia",
    r"memory (?:loss|problems|impairment)": r"dementia|alzheimer's disease|amnesi(?:a|c) .*",
    r"chest (?:pain|tightness)": r"angina.*|myocardial infarction",
    r"(?:seizures?|convulsions?|fits?)": r"epilepsy",
    r"(?:sleepiness|drowsiness)": r"narcolepsy|sleep apnea",
    r"(?:lumps?|growths?|nodules?|mass(?:es)?)": r"cancer|carcinoma|tumou?r|neoplasm|abscess",
    r"pustul(?:es?|ar)": r"abscess|acne.*",
    r"(?:low blood pressure|hypotension)": r"(?:.* )?shock(?: .*)?|orthostatic hypotension",
    r"(?:weak(?:ness)?|muscle weakness|loss of strength)": r"paralysis|\w*paresis|myopathy|myasthenia gravis",
    r"(?:rash|itch(?:ing)?|itchy skin|skin (?:rash|problems))": r"(?:.* )?dermatitis|eczema|urticaria|psoriasis",
    r"(?:tremors?|shaking)": r"parkinson's disease|parkinsonism",
    r"(?:abdominal|stomach) (?:pain|upset)": r"gastritis|gastroenteritis|peptic ulcer.*|pancreatitis",
}  # fmt: skip
# Looked for first, in small letters, which is faster than regardless of case.
ANY_LESS = re.compile("|".join(SAYS_LESS).lower())
SAYS_LESS_THAN = [tuple(re.compile(words, re.IGNORECASE) for words in pair) for pair in SAYS_LESS.items()]
ANOTHER = [
    tuple(re.compile(words, re.IGNORECASE) for words in (f"(?:{name})s?", f"(?:{before})$", after))
    for name, (before, after) in AROUND.items()
]
ANY_NAME = re.compile(rf"(?:{'|'.join(AROUND)})s?".lower())
REACH = 60  # characters


def means_another(text: str, start: int, end: int) -> bool:
    """Whether a name (from `start` to `end` of a text) with the words around it is the name of something else.

    >>> means_another("swelling of the lymph nodes", 0, 8), means_another("swelling of the feet", 0, 8)
    (True, False)
    """
    name = text[start:end]
    if not ANY_NAME.fullmatch(name.casefold()):
        return False
    before, after = text[max(0, start - REACH) : start], text[end : end + REACH]
    return any(
        named.fullmatch(name) and (is_before.search(before) or is_after.match(after))
        for named, is_before, is_after in ANOTHER
    )


def says_less(written: str, title: str) -> bool:
    """Whether what is written means less, or something else, than the page of that title, which it leads to.

    >>> says_less("heartburn", "Gastroesophageal reflux disease"), says_less("joint pain", "Arthralgia")
    (True, False)
    """
    if not ANY_LESS.fullmatch(written.casefold()):
        return False
    return any(less.fullmatch(written) and than.fullmatch(bare(title)) for less, than in SAYS_LESS_THAN)

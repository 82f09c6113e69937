"""Meta-paths: which walks through the graph make a question, and the forms in which each is asked (section 3.1)."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetaPath:
    """A typed path from what is observed to what is asked. A step is a relation, with a leading `~` against its
    direction.

    `answer` limits the answer's type. `presentation`: features of the start are observed, not its name: one for
    each relation of `observed` if it names any, else a random choice. `given`: the patient also has what rules out
    other drugs than the answer by this relation of theirs, a disease in which they are contraindicated or a drug with
    which they interact.
    """

    name: str
    tier: str  # section 3.1: one fact; one inference; several
    start: str
    steps: tuple[str, ...]
    answer: tuple[str, ...]
    presentation: bool = False
    observed: tuple[str, ...] = ()
    given: str = ""


DRUGS, TESTS, CONDITIONS = ("drug",), ("test", "imaging"), ("symptom", "disease")
# fmt: off
META_PATHS = (
    # One fact.
    MetaPath("disease>drug", "easy", "disease", ("treated_by",), DRUGS),
    MetaPath("drug>disease", "easy", "drug", ("~treated_by",), ("disease",)),
    MetaPath("disease>symptom", "easy", "disease", ("symptom",), ("symptom",)),
    MetaPath("disease>test", "easy", "disease", ("diagnosed_by",), TESTS),
    MetaPath("disease>complication", "easy", "disease", ("complication",), CONDITIONS),
    MetaPath("disease>pathogen", "easy", "disease", ("cause",), ("pathogen",)),
    MetaPath("drug>adverse effect", "easy", "drug", ("adverse_effect",), CONDITIONS),
    MetaPath("pathogen>disease", "easy", "pathogen", ("~cause",), ("disease",)),
    MetaPath("drug>contraindication", "easy", "drug", ("contraindication",), CONDITIONS),
    MetaPath("drug>interacting drug", "easy", "drug", ("interaction",), DRUGS),
    # One inference: two facts joined, or several features weighed against each other.
    MetaPath("pathogen>disease>drug", "moderate", "pathogen", ("~cause", "treated_by"), DRUGS),
    MetaPath("drug>disease>pathogen", "moderate", "drug", ("~treated_by", "cause"), ("pathogen",)),
    MetaPath("drug>disease>test", "moderate", "drug", ("~treated_by", "diagnosed_by"), TESTS),
    MetaPath("disease>drug>adverse effect", "moderate", "disease", ("treated_by", "adverse_effect"), CONDITIONS),
    MetaPath("disease+comorbidity>drug", "moderate", "disease", ("treated_by",), DRUGS, given="contraindication"),
    MetaPath("disease+medication>drug", "moderate", "disease", ("treated_by",), DRUGS, given="interaction"),
    MetaPath("presentation>disease", "moderate", "disease", (), ("disease",), True),
    MetaPath("presentation+drug>disease", "moderate", "disease", (), ("disease",), True,
             ("symptom", "symptom", "symptom", "treated_by")),
    # Several inferences: the disease has to be found before its drug, test, complication.
    MetaPath("presentation>disease>drug", "difficult", "disease", ("treated_by",), DRUGS, True),
    MetaPath("presentation>disease>test", "difficult", "disease", ("diagnosed_by",), TESTS, True),
    MetaPath("presentation>disease>complication", "difficult", "disease", ("complication",), CONDITIONS, True),
    MetaPath("presentation>disease>pathogen", "difficult", "disease", ("cause",), ("pathogen",), True),
    MetaPath("presentation+comorbidity>disease>drug", "difficult", "disease", ("treated_by",), DRUGS, True,
             given="contraindication"),
    MetaPath("presentation+medication>disease>drug", "difficult", "disease", ("treated_by",), DRUGS, True,
             given="interaction"),
    MetaPath("presentation>disease>drug>adverse effect", "difficult", "disease", ("treated_by", "adverse_effect"),
             CONDITIONS, True),
)

# Three and four hops, with one drawn feature of each kind or a disease's complication; --no-long-paths leaves them out.
LONG_PATHS = (
    MetaPath("symptoms+mechanism+test>disease>drug", "difficult", "disease", ("treated_by",), DRUGS, True,
             ("symptom", "symptom", "symptom", "mechanism", "diagnosed_by")),
    MetaPath("presentation>disease>complication>drug", "difficult", "disease", ("complication", "treated_by"), DRUGS,
             True),
    MetaPath("pathogen>disease>drug>adverse effect", "difficult", "pathogen",
             ("~cause", "treated_by", "adverse_effect"), CONDITIONS),
    MetaPath("pathogen>disease>complication>drug>adverse effect", "difficult", "pathogen",
             ("~cause", "complication", "treated_by", "adverse_effect"), CONDITIONS),
)
# fmt: on
MEDICATION = ("drug", "drug class")  # what "It is treated with" may tell
FINDINGS = ("mechanism", "diagnosed_by", "risk_factor", "affects")  # what may be observed beside symptoms


# ------------------------------------------------------------------------------------------------------- surface forms

# fmt: off
# How the last step is asked, and what it is asked about: composed along a meta-path's steps.
ASKED = {
    "treated_by": ("Which drug treats {}?", "Which drug is used against {}?", "Which of these is a treatment for {}?",
                   "What can be given for {}?"),
    "~treated_by": ("Which disease is treated with {}?", "For which disease is {} given?", "What is {} used for?",
                    "Which disease is an indication for {}?"),
    "symptom": ("Which of these is a symptom of {}?", "Which of these may {} cause?",
                "With which symptom does {} present?", "Which symptom can {} have?"),
    "diagnosed_by": ("Which test is used to diagnose {}?", "How is {} diagnosed?",
                     "Which test supports a diagnosis of {}?", "Which investigation helps to confirm {}?"),
    "complication": ("Which of these is a complication of {}?", "What can {} lead to?", "Which of these can follow {}?",
                     "Which complication can {} have?"),
    "cause": ("Which organism causes {}?", "What is {} caused by?", "Which pathogen is the cause of {}?",
              "Infection with which of these causes {}?"),
    "adverse_effect": ("Which of these is a side effect of {}?", "Which adverse effect can {} have?",
                       "Which of these can {} cause?", "Which of these may be caused by {}?"),
    "~cause": ("Which disease does {} cause?", "What is {} the cause of?", "Which of these is caused by {}?",
               "Which disease follows from an infection with {}?"),
    "contraindication": ("Which of these is a contraindication to {}?", "In which condition must {} not be given?",
                         "Which condition forbids the use of {}?", "What is {} contraindicated in?"),
    "interaction": ("Which drug interacts with {}?", "With which of these does {} interact?",
                    "Which drug should not be combined with {} without care?", "Which of these interferes with {}?"),
}
# How a drug is asked for where something rules out others; the patient may have one disease or both.
ASKED_GIVEN = {
    "contraindication": ("Which drug treats {} and is not contraindicated in a patient who also has {given}?",
                         "The patient also has {given}. Which drug for {} is not contraindicated?",
                         "With {given} as a comorbidity, which of these can be given for {}?",
                         "There is {given} as well. Which treatment of {} may be used nevertheless?"),
    "interaction": ("Which drug treats {} and does not interact with {given}, which the patient takes?",
                    "The patient takes {given}. Which drug for {} does not interact with it?",
                    "Beside {given}, which of these can be given for {}?",
                    "There is a prescription of {given} already. Which treatment of {} goes with it?"),
}
ABOUT = {
    "~cause": "a disease caused by {}",
    "~treated_by": "a disease treated with {}",
    "treated_by": "a drug that treats {}",
    "complication": "a complication of {}",
}
DIAGNOSES = ("What is the most likely diagnosis?", "Which disease explains the findings?",
             "What does the patient most likely have?", "Which disease is the most likely?")

# How a presentation's features are told, by relation: the symptoms together, another finding in a sentence of its own.
SYMPTOMS = ("Symptoms: {}.", "Findings: {}.", "Signs and symptoms: {}.", "A patient presents with {}.",
            "The history is remarkable for {}.")
TOLD_FINDINGS = {
    "mechanism": "Mechanism: {}.",
    "diagnosed_by": "Diagnostic procedure: {}.",
    "risk_factor": "Risk factor: {}.",
    "affects": "The disease affects the {}.",
    "treated_by": "It is treated with {}.",
}

# The same with --plain-wordings, by meta-path.
PLAIN_SYMPTOMS = ("A patient has {}.", "A person presents with {}.", "Symptoms: {}.")
PLAIN_FINDINGS = {
    "mechanism": "The mechanism is {}.",
    "diagnosed_by": "The diagnosis is made with {}.",
    "risk_factor": "A risk factor is {}.",
    "affects": "The disease affects {}.",
    "treated_by": "It is treated with {}.",
}
PLAIN = {
    "disease>drug": ("Which drug treats {seen}?", "What is given for {seen}?"),
    "drug>disease": ("Which disease is treated with {seen}?", "What is {seen} used for?"),
    "disease>symptom": ("Which is a symptom of {seen}?", "What does {seen} cause?"),
    "disease>test": ("Which test is used to diagnose {seen}?", "How is {seen} diagnosed?"),
    "disease>complication": ("Which is a complication of {seen}?", "What can {seen} lead to?"),
    "disease>pathogen": ("Which organism causes {seen}?", "What is {seen} caused by?"),
    "drug>adverse effect": ("Which is a side effect of {seen}?", "What can {seen} cause?"),
    "pathogen>disease": ("Which disease is caused by {seen}?", "What does {seen} cause?"),
    "drug>contraindication": ("Which is a contraindication to {seen}?", "What is {seen} contraindicated in?"),
    "drug>interacting drug": ("Which drug interacts with {seen}?",),
    "disease+comorbidity>drug": ("Which drug treats {seen} and is not contraindicated in {given}?",),
    "disease+medication>drug": ("Which drug treats {seen} and does not interact with {given}?",),
    "presentation>disease>pathogen": ("{seen} Which organism causes the most likely disease?",),
    "presentation+comorbidity>disease>drug":
        ("{seen} Which drug treats the most likely disease and is not contraindicated in {given}?",),
    "presentation+medication>disease>drug":
        ("{seen} Which drug treats the most likely disease and does not interact with {given}?",),
    "pathogen>disease>drug": ("Which drug treats a disease caused by {seen}?",),
    "drug>disease>pathogen": ("Which organism causes a disease treated with {seen}?",),
    "drug>disease>test": ("Which test is used to diagnose a disease treated with {seen}?",),
    "disease>drug>adverse effect": ("Which is a side effect of a drug that treats {seen}?",),
    "presentation+drug>disease": ("{seen} What is the most likely diagnosis?", "{seen} Which disease is it?"),
    "presentation>disease": ("{seen} What is the most likely diagnosis?", "{seen} Which disease is it?"),
    "presentation>disease>drug":
        ("{seen} Which drug treats the most likely disease?", "{seen} What should be given?"),
    "presentation>disease>test": ("{seen} Which test is used to diagnose the most likely disease?",),
    "presentation>disease>complication":
        ("{seen} Which is a complication of the most likely disease?", "{seen} What can it lead to?"),
    "presentation>disease>drug>adverse effect":
        ("{seen} Which is a side effect of a drug for the most likely disease?",),
    "symptoms+mechanism+test>disease>drug": ("{seen} Which drug treats the most likely disease?",),
    "presentation>disease>complication>drug": ("{seen} Which drug treats a complication of the most likely disease?",),
    "pathogen>disease>drug>adverse effect":
        ("Which is a side effect of a drug that treats a disease caused by {seen}?",),
    "pathogen>disease>complication>drug>adverse effect":
        ("Which is a side effect of a drug for a complication of a disease caused by {seen}?",),
}
# fmt: on


def tell_features(told: dict[str, list[str]], rng: random.Random, plain: bool) -> str:
    """Names by relation, in sentences: the symptoms together, another finding by itself."""
    openings, others = (PLAIN_SYMPTOMS, PLAIN_FINDINGS) if plain else (SYMPTOMS, TOLD_FINDINGS)
    symptoms = rng.choice(openings).format(join_names(told.pop("symptom")))
    return " ".join([symptoms, *(others[relation].format(join_names(names)) for relation, names in told.items())])


def join_names(names: list[str]) -> str:
    """A, B and C"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def wordings_of(meta: MetaPath, plain: bool = False) -> tuple[str, ...]:
    """The surface forms of a meta-path's question: composed from its steps, or if `plain` the few of its own.

    `{seen}` in one is the named entity, or the sentences that list the observed features, `{given}` what rules out
    other drugs.
    """
    if plain:
        return PLAIN[meta.name]
    about = "the most likely disease" if meta.presentation else "{seen}"
    for step in meta.steps[:-1]:
        about = ABOUT[step].format(about)
    asked = ASKED_GIVEN[meta.given] if meta.given else ASKED[meta.steps[-1]] if meta.steps else DIAGNOSES
    return tuple(("{seen} " if meta.presentation else "") + form.replace("{}", about) for form in asked)

"""wiki/subject.py and the sentences that tell a fact outright: of the page's subject, or of another disease."""

import pytest

from wiki.mediawiki import Page
from wiki.pages import read_page
from wiki.subject import Subject, acronyms


@pytest.mark.parametrize(
    ("sentence", "of_another"),
    [
        ("In nephritis, the kidney swells.", True),
        ("Among people with Weil's disease, jaundice is common.", True),
        ("In patients with sarcoidosis (a rare disease), the lung is scarred.", True),
        ("In lupus nephritis, the kidney swells.", False),
        ("In this syndrome, the kidney swells.", False),
        ("In children, the kidney swells.", False),
        ("In adults nephropathy, gout and age are causes.", False),
        ("In severe infections, the kidney swells.", False),
    ],
)
def test_a_sentence_turns_to_another_disease(sentence, of_another):
    assert Subject(["lupus", "lupus erythematosus"]).tells_of_another(sentence) is of_another


@pytest.mark.parametrize(
    ("before", "after", "not_of"),
    [
        ("Infections are linked to gout and ", ".", True),
        ("Infections are linked to ", " and gout.", True),
        ("Most cases of ", " are caused by gout.", True),
        ("Gout is linked to ", ".", False),
        ("Diseases such as tophaceous gout and ", ".", False),
        ("Most cases are caused by ", " or stones.", False),
    ],
)
def test_what_stands_beside_the_subject_or_follows_from_it_is_no_cause_of_it(before, after, not_of):
    assert Subject(["gout"]).is_not_of("origin", before + after, before, after) is not_of
    assert not Subject(["gout"]).is_not_of("remedy", before + after, before, after)


def test_acronyms_are_letters_of_a_name():
    assert acronyms("Morbus novus (MN), of the lung (UK), (also MNS)", ["morbus novus", "morbus novus severus"]) == {
        "MN"
    }


def mentions(body, lead="is a disease"):
    text = f"{{{{Infobox disease}}}}\n'''Morbus novus''' (MN) {lead}.\n{body}"
    return {(m.relation, m.target) for m in read_page(Page("Morbus novus", 1, 1, text)).mentions}


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        ("Symptoms usually include [[Vertigo]].", ("symptom", "Vertigo")),
        ("It is often caused by [[Virus novus]].", ("cause", "Virus novus")),
        ("Risk factors are [[Gout]] and age.", ("risk_factor", "Gout")),
        ("The disease is treated with [[Novamycin]].", ("treated_by", "Novamycin")),
        ("Diagnosis is made by [[Novoscopy]].", ("diagnosed_by", "Novoscopy")),
        ("== Classification ==\nCauses of acquired MN include [[Gout]].", ("cause", "Gout")),
        ("== Diagnosis ==\nThe differential diagnosis of MN includes [[Gout]].", ("differential", "Gout")),
        ("== Treatment ==\nRest helps. Complications of morbus novus include [[Gout]].", ("complication", "Gout")),
        ("== Symptoms ==\nInfections are:\n* [[Gout]] of the skin", ("symptom", "Gout")),
    ],
)
def test_what_a_sentence_tells_outright(body, fact):
    assert fact in mentions(body)


@pytest.mark.parametrize(
    "body",
    [
        "[[Vertigo]] has many symptoms.",
        "Complications are rarely found in [[Vertigo]].",
        "Cases are common in [[Vertigo]].",
        "== Treatment ==\nComplications of surgery include [[Vertigo]].",
        "== History ==\nSymptoms of MN include [[Vertigo]].",
        "== Diagnosis ==\nSymptoms include [[Vertigo]].",
        "[[Vertigo]] is seldom seen. Causes are unknown.",
    ],
)
def test_what_a_sentence_does_not_tell(body):
    assert not {"symptom", "complication", "cause"} & {relation for relation, _ in mentions(body)}


def test_a_note_above_a_page_is_not_its_first_sentence():
    note = "Not to be confused with [[Lung]] disease.\n\n"
    text = "{{Infobox disease}}\n" + note + "'''Morbus novus''' affects the [[heart]]."
    assert [m.target for m in read_page(Page("Morbus novus", 1, 1, text)).mentions] == ["Heart"]

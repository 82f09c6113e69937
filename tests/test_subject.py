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
    assert Subject(["gout"]).is_not_of("cause", before + after, before, after) is not_of
    assert not Subject(["gout"]).is_not_of("treated_by", before + after, before, after)


@pytest.mark.parametrize(
    ("relation", "sentence", "of_another"),
    [
        ("symptom", "Hyperthyroidism frequently causes @.", True),
        ("symptom", "Arthritis may progress to a state that causes @.", True),
        ("symptom", "Some symptoms of temporal arteritis include @.", True),
        ("symptom", "Weil's chorea often leads to @.", False),
        ("symptom", "The symptoms of chorea include @.", False),
        ("symptom", "Anemia causes @.", False),  # it may be the subject's own
        ("symptom", "Cerebral disease causes @.", False),
        ("symptom", "Missed doses lead to @.", False),
        ("symptom", "Graves' disease causes @.", True),
        ("symptom", "For example, nephritis causes @.", True),
        ("symptom", "For instance, Weil's chorea causes @.", False),
        ("symptom", "@ may be a result of pulmonary embolism.", True),
        ("symptom", "@ is a sign of cerebral disease.", False),
        ("symptom", "Other indicators of iron deficiency include @.", True),
        ("symptom", "The signs of internal bleeding are @.", True),
        ("symptom", "@ of the left leg may be a sign of vein thrombosis.", True),
        ("symptom", "@, cough and fever are typical signs of lung oedema.", True),
        ("symptom", "@, cough and fever are typical signs of chorea.", False),
        ("symptom", "@ (a swelling) is a sign of vein thrombosis.", True),
        ("symptom", "When symptoms of nephritis occur the first are @.", True),
        ("symptom", "When symptoms of chorea occur the first are @.", False),
        ("symptom", "Those with pneumonia usually have @.", True),
        ("symptom", "Those with Weil's chorea usually have @.", False),
        ("complication", "Nephritis causes @.", False),
        ("diagnosed_by", "@ may also screen for hepatitis.", True),
        ("diagnosed_by", "@ is used to screen for Weil's chorea.", False),
        ("treated_by", "Nephritis is usually treated with @.", True),
        ("treated_by", "@ is used to treat the encephalopathy.", True),
        ("treated_by", "@ is used to treat the movements.", False),
        ("treated_by", "Drugs such as @ for autoimmune nephritis are given.", True),
        ("treated_by", "Drugs such as @ for the movements are given.", False),
        ("treated_by", "Development of osteoporosis can be prevented by @.", True),
        ("treated_by", "Management of kidney failure involves @.", True),
        ("treated_by", "Management of chorea involves @.", False),
        ("treated_by", "They may get gallstones, which are treated by @.", True),
        ("treated_by", "@ may be used to control hypertension.", True),
        ("treated_by", "@ is used for the treatment of nephritis.", True),
        ("treated_by", "@ improved survival in adult patients with epilepsy.", True),
        ("treated_by", "@ improved survival in adult patients with chorea.", False),
        ("cause", "There are many causes of childhood chorea, including @.", True),
        ("cause", "Other causes of a burning mouth are @.", True),
        ("cause", "Other causes of Weil's chorea are @.", False),
        ("cause", "Other causes are @.", False),
        ("cause", "@ causes anemia in people with Weil's chorea.", True),
        ("cause", "@ raises the pressure in those who have acute Weil's chorea.", True),
        ("cause", "@ causes it in people with gout.", False),
    ],
)
def test_a_sentence_tells_of_another_disease(relation, sentence, of_another):
    before, after = sentence.split("@")
    assert Subject(["Weil's chorea"]).is_not_of(relation, sentence, before, after) is of_another


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
    ("sentence", "relation"),
    [
        ("Complications such as gout and [[Edema]] are seen.", "complication"),
        ("It increases the risk of [[Edema]].", "complication"),
        ("Fever and [[Edema]] are seen; complications are rare.", "symptom"),
        ("Scars may lead to [[Blindness]].", "complication"),
        ("Scars may lead to [[Edema]].", "symptom"),
        ("Fever and [[Blindness]] are seen.", "symptom"),
    ],
)
def test_what_is_told_as_a_complication_is_no_symptom(sentence, relation):
    told = mentions(f"== Signs and symptoms ==\n{sentence}")
    assert {name for name, target in told if target in {"Edema", "Blindness"}} == {relation}


def test_what_prevents_the_disease_is_no_treatment_of_it():
    body = (
        "== Treatment ==\nThe hole is closed by [[surgery]] preventing the disease. [[Insulin]] prevents the attacks."
    )
    assert {("prevented_by", "Surgery"), ("treated_by", "Insulin")} <= mentions(body)


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


@pytest.mark.parametrize(
    ("sentence", "relation"),
    [
        ("Conditions that pose an increased risk include [[Gout]].", "risk_factor"),
        ("People with [[Gout]] are at higher risk.", "risk_factor"),
        ("[[Gout]] may predispose to it.", "risk_factor"),
        ("People with [[Gout]] are especially susceptible to it.", "risk_factor"),
        ("It occurs in patients with diseases such as [[Gout]].", "risk_factor"),
        ("Another risk factor is [[Gout]].", "risk_factor"),
        ("It is caused by [[Gout]].", "cause"),
        ("[[Gout]] is the most common cause; the risk is small.", "cause"),
    ],
)
def test_among_causes_what_raises_the_risk_is_a_risk_factor(sentence, relation):
    assert (relation, "Gout") in mentions(f"== Causes ==\n{sentence}")

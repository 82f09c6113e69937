"""wiki/names.py: which names the words around them make the names of something else."""

import pytest

from wiki.mediawiki import Page
from wiki.names import means_another, says_less
from wiki.pages import read_page


@pytest.mark.parametrize(
    ("text", "name", "another"),
    [
        ("Painful swelling of the lymph nodes follows.", "swelling", True),
        ("There is swelling at the involved knee.", "swelling", True),
        ("Joint swelling is common.", "swelling", True),
        ("Bone pain and swelling are felt.", "swelling", True),
        ("Redness, swelling, and warmth of the joints follow.", "swelling", True),
        ("It shows as a bluish swelling under the skin.", "swelling", True),
        ("Swelling of the feet is common.", "Swelling", False),
        ("Pain, swelling and fever are common.", "swelling", False),
        ("There is marked swelling of the face and of the joints.", "swelling", False),
        ("Corneal oedema clouds the sight.", "oedema", True),
        ("Pitting oedema is seen.", "oedema", False),
        ("Abdominal cramps are frequent.", "cramps", True),
        ("Nightly cramps are frequent.", "cramps", False),
        ("Prenatal growth retardation is seen.", "growth retardation", True),
        ("Postnatal growth retardation is seen.", "growth retardation", False),
        ("Optic disc pallor is seen.", "pallor", True),
        ("Pallor of the skin is seen.", "Pallor", False),
        ("Scabies and papular urticaria itch.", "urticaria", True),
        ("Acute urticaria itches.", "urticaria", False),
        ("Serotonergic drugs help.", "Serotonergic", True),
        ("Treatment is palliative.", "palliative", True),
        ("Palliative care helps.", "Palliative care", False),
        ("Swelling of the vocal cords is seen.", "Swelling", True),
        ("Pleuritic chest pain is felt.", "Pleuritic", True),
        ("Pleurisy is felt.", "Pleurisy", False),
        ("Face blindness is one sign.", "blindness", True),
        ("Sudden blindness is one sign.", "blindness", False),
        ("A PET-CT was done.", "CT", True),
        ("A SPECT/CT scan was done.", "CT scan", True),
        ("A CT scan was done.", "CT scan", False),
        ("There is no response to pain below it.", "pain", True),
        ("Pain receptors are lost.", "Pain", True),
        ("Pain of the joints is felt.", "Pain", False),
        ("Inflammatory disorders cause it.", "Inflammatory", True),
        ("Inflammatory cells cause it.", "Inflammatory", False),
        ("Late features include impaired cough.", "cough", True),
        ("A weak cough reflex is seen.", "cough", True),
        ("Late features include a dry cough.", "cough", False),
        ("HIV, cancer treatments and steroids raise the risk.", "cancer", True),
        ("HIV, cancer and steroids raise the risk.", "cancer", False),
        ("Malaria vaccines may cause it.", "Malaria", True),
    ],
)
def test_the_words_around_a_name_may_make_it_anothers(text, name, another):
    start = text.index(name)
    assert means_another(text, start, start + len(name)) is another


@pytest.mark.parametrize(
    ("written", "title", "less"),
    [
        ("Muscle stiffness", "Spasticity", True),
        ("stiff muscles", "Rigidity", True),
        ("spastic", "Spasticity", False),
        ("Frequent urination", "Polyuria", True),
        ("excessive urination", "Polyuria", False),
        ("heartburn", "Gastroesophageal reflux disease", True),
        ("reflux", "Gastroesophageal reflux disease", False),
        ("unexplained weight loss", "Cachexia", True),
        ("weight loss", "Weight loss", False),
        ("loss of blood", "Anemia", True),
        ("low red blood cell count", "Anemia", False),
        ("swelling", "Papilledema", True),
        ("swelling", "Edema", False),
        ("joint pain", "Rheumatoid arthritis", True),
        ("joint pain", "Arthralgia", False),
        ("seizures", "Epilepsy", True),
        ("kidney problems", "Renal failure", True),
        ("renal insufficiency", "Renal failure", False),
        ("infection", "Sepsis", True),
        ("septicaemia", "Sepsis", False),
        ("confusion", "Hepatic encephalopathy", True),
        ("chest pain", "Angina pectoris", True),
        ("hypotension", "Septic shock", True),
        ("weakness", "Hemiparesis", True),
        ("weakness of half the body", "Hemiparesis", False),
    ],
)
def test_a_link_may_lead_to_more_than_what_is_written(written, title, less):
    assert says_less(written, title) is less


@pytest.mark.parametrize(
    ("signs", "targets"),
    [
        ("[[Spasticity|Muscle stiffness]] and [[spasticity]] are seen.", {"Spasticity"}),
        ("[[Spasticity|Muscle stiffness]] and [[Gastroesophageal reflux disease|heartburn]] are seen.", set()),
        ("Swelling of the glands is followed by swelling of the legs.", {"Edema"}),  # the second is one
        ("Swelling of the glands is seen.", set()),
        ("[[Edema|Swelling]] of the [[lymph node]]s is seen.", set()),
    ],
)
def test_a_name_that_is_anothers_tells_nothing(signs, targets):
    text = f"{{{{Infobox disease}}}}\n'''Morbus novus''' is a disease.\n== Symptoms ==\n{signs}"
    mentions = read_page(Page("Morbus novus", 1, 1, text)).mentions
    assert {m.target for m in mentions if m.relation == "symptom" and "finding" in m.linked} - {"Lymph node"} == targets

"""wiki/kinds.py: what names alone say of a relation."""

import pytest

from wiki.headings import singular
from wiki.kinds import class_named, class_names, names_class, ruled_out


@pytest.mark.parametrize(
    ("relation", "subject", "object_", "same_type", "out"),
    [
        ("cause", "Ideomotor apraxia", "Apraxia", True, True),
        ("cause", "Psychosis", "Stimulant psychosis", True, True),
        ("complication", "Acute pancreatitis", "Pancreatitis", True, True),
        ("cause", "Iron-deficiency anemia", "Iron deficiency", True, False),
        ("cause", "Tuberculosis", "Mycobacterium tuberculosis", False, False),
        ("symptom", "Delirium tremens", "Delirium", True, False),
        ("symptom", "Epilepsy", "Post-traumatic epilepsy", False, True),
        ("symptom", "Post-traumatic epilepsy", "Epilepsy", False, False),
        ("diagnosed_by", "Dupuytren's contracture", "Radiation therapy", False, True),
        ("diagnosed_by", "Cirrhosis", "Biopsy", False, False),
        ("treated_by", "Benzodiazepine dependence", "Benzodiazepine", False, True),
        ("treated_by", "Opioid use dependence", "Opioids", False, True),
        ("treated_by", "Vitamin D deficiency", "Vitamin D", False, False),
        ("treated_by", "Lead poisoning", "Edetate", False, False),
    ],
)
def test_names_that_rule_a_relation_out(relation, subject, object_, same_type, out):
    assert ruled_out(relation, subject, object_, same_type) is out


@pytest.mark.parametrize(
    ("relation", "subject", "object_", "called", "out"),
    [
        ("cause", "Agoraphobia", "Anxiety disorder", " an anxiety disorder ", True),
        ("differential", "Schizotypal disorder", "Personality disorder", " a personality disorder ", True),
        ("symptom", "Primary juvenile glaucoma", "Glaucoma", " glaucoma ", True),
        ("cause", "Agoraphobia", "Panic disorder", " an anxiety disorder ", False),
        ("treated_by", "Agoraphobia", "Anxiety disorder", " an anxiety disorder ", False),
    ],
)
def test_a_page_rules_out_what_it_calls_its_subject(relation, subject, object_, called, out):
    assert ruled_out(relation, subject, object_, True, called) is out


@pytest.mark.parametrize(
    ("relation", "subject", "object_", "object_called", "out"),
    [
        ("cause", "Dementia", "Pick's disease", " dementia ", True),
        ("risk_factor", "Neuropathy (nerves)", "Charcot's disease", " inherited neuropathy ", True),
        ("cause", "Dementia", "Stroke", " disease of the brain ", False),
        ("complication", "Dementia", "Pick's disease", " dementia ", False),
        ("cause", "Biotin deficiency", "Biotin", "", True),
        ("cause", "Iodine deficiency", "Malnutrition", "", False),
    ],
)
def test_a_disease_is_caused_by_no_kind_of_itself_nor_by_what_it_lacks(relation, subject, object_, object_called, out):
    assert ruled_out(relation, subject, object_, True, "", object_called) is out


@pytest.mark.parametrize(
    ("lead", "called"),
    [
        ("X is an aggressive and rare cancer that affects boys.", "an aggressive and rare cancer"),
        ("X is a type of inflammatory or infectious lung disease in men.", "inflammatory or infectious lung disease"),
        ("X is a disease of heart and lungs.", "a disease"),
        ("X hurts.", ""),
    ],
)
def test_what_a_page_calls_its_subject(lead, called):
    assert class_named(lead).strip() == called


def test_a_class_is_no_name_of_its_member():
    classes = class_names(["Wilms' tumor", "Brain tumor", "Relapsing polychondritis", "Type 2 diabetes"])
    assert names_class("tumor", "Wilms' tumor", classes)
    assert not names_class("polychondritis", "Relapsing polychondritis", classes)
    assert not names_class("nephroblastoma", "Wilms' tumor", classes)


@pytest.mark.parametrize(
    ("word", "one"),
    [("therapies", "therapy"), ("masses", "mass"), ("viruses", "virus"), ("diagnoses", "diagnosis"),
     ("rabies", "rabies"), ("causes", "cause"), ("sepsis", "sepsis"), ("stress", "stress"), ("drugs", "drug"),
     ("gas", "gas")],
)  # fmt: skip
def test_singular(word, one):
    assert singular(word) == one

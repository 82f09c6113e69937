"""wiki/kinds.py: what names alone say of a relation."""

import pytest

from wiki.kinds import ruled_out


@pytest.mark.parametrize(
    ("relation", "subject", "object_", "same_type", "out"),
    [
        ("cause", "Ideomotor apraxia", "Apraxia", True, True),
        ("cause", "Psychosis", "Stimulant psychosis", True, True),
        ("complication", "Acute pancreatitis", "Pancreatitis", True, True),
        ("cause", "Iron-deficiency anemia", "Iron deficiency", True, False),
        ("cause", "Tuberculosis", "Mycobacterium tuberculosis", False, False),
        ("symptom", "Delirium tremens", "Delirium", True, False),
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

"""wiki/sentences.py: where a sentence ends, and what it asserts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wiki import sentences


@pytest.mark.parametrize(
    ("sentence", "relation", "holds"),
    [
        ("It causes @.", "symptom", True),
        ("It does not cause @.", "symptom", False),
        ("There is no evidence that @ helps.", "treated_by", False),
        ("@ are not effective against viruses.", "treated_by", False),
        ("Unlike @, it is chronic.", "symptom", False),
        ("Fluids rather than @ are given.", "treated_by", False),
        ("It may be mistaken for @.", "cause", False),
        ("It may be mistaken for @.", "differential", True),
        ("It is not only @ that occurs.", "symptom", True),
        ("Rest does not help, but @ does.", "treated_by", True),
        ("It occurs without @.", "symptom", False),
        ("It occurs without rash in @.", "symptom", True),
        ("It must not be given in @.", "contraindication", True),
        ("@ is not a contraindication.", "contraindication", False),
        ("@ is contraindicated.", "treated_by", False),
        ("Neither @ nor fever is seen.", "symptom", False),
    ],
)
def test_negated_and_hedged_mentions(sentence, relation, holds):
    before, after = sentences.clause_around(sentence.replace("@", "X"), sentence.index("@"))
    assert sentences.asserted(before, after, relation) is holds


TURNS = (sentences.NEGATION, sentences.LACKING, sentences.HARMFUL, sentences.CONTRAST, sentences.PERMITTED)


@given(data=st.data(), pattern=st.sampled_from([*TURNS, sentences.PREVENTING]))
def test_what_turns_a_sentence_has_a_turning_word(data, pattern):
    text = data.draw(st.from_regex(pattern, alphabet=st.characters(codec="ascii")))
    assert sentences.TURNING_WORD.search(text.lower())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Use it, e.g. Aspirin, vs. Placebo.", 1),
        ("The germ E. coli is common.", 1),
        ("It affects 3.5 of 10. It is rare.", 2),
        ('He said "no." Then he left.', 2),
        ("One\n\nTwo", 2),
    ],
)
def test_sentences(text, count):
    assert len([1 for start, end in sentences.split_sentences(text) if text[start:end].strip()]) == count

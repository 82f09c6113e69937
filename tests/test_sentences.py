"""wiki/sentences.py: where a sentence ends, and what it asserts."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wiki.doubts import KINDS, doubt, pattern, says_so, suspects
from wiki.sentences import clause_around, split_sentences, statements


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
        ("@ has aggravated the seizures.", "treated_by", False),
        ("A trial of @ was disappointing.", "treated_by", False),
        ("@ was once popular.", "treated_by", False),
        ("@ has been replaced by newer drugs.", "treated_by", False),
        ("The patient should stop taking @.", "treated_by", False),
        ("The bacteria are insensitive to @.", "treated_by", False),
        ("Experts warn against @.", "diagnosed_by", False),
        ("@ might be useful.", "treated_by", False),
        ("@ is being investigated.", "prevented_by", False),
        ("It may cause @.", "adverse_effect", True),
        ("Everybody except people with @.", "contraindication", False),
        ("It is due to lack of @.", "cause", False),
        ("A low intake of iron, zinc or @.", "risk_factor", False),
        ("It is more common than @.", "cause", False),
        ("In dogs it is treated with @.", "treated_by", False),
        ("In healthy people @ removes such cells.", "mechanism", False),
        ("People on lithium for @ need another drug.", "adverse_effect", False),
        ("There were reports of @, but these are not substantiated.", "adverse_effect", False),
        ("The role of the infection in causing @ is unclear.", "complication", False),
        ("Recommendations on the effectiveness of @ vary.", "prevented_by", False),
        ("There is little association between the risk and @.", "risk_factor", False),
        ("Pregabalin reduces the release of glutamate and @.", "treated_by", False),
        ("Reduction of acid by @ helps.", "treated_by", True),
        ("Mutations of COL4A1 lead to many phenotypes, including stroke and @.", "cause", False),
        ("The gene encodes a protein named after @.", "cause", False),
        ("It follows from mutations, infections and @.", "cause", True),
        ("@ may occur in some patients with the disease.", "cause", False),
        ("It is seen in patients with @.", "cause", True),
        ("Three other diseases are caused by related bacteria, such as @.", "cause", False),
        ("Together with @ they form a group of tumors.", "cause", False),
        ("Breathing is under the control of @.", "affects", False),
        ("The lesion impairs the signals by which @ controls breathing.", "affects", True),
        ("A link with @ was reported in 1979.", "cause", False),
        ("He named the rash @.", "cause", False),
        (
            "Agents such as @ can lead to a longer illness or a hole in the gut of any patient, and should be avoided.",
            "treated_by",
            False,
        ),
        ("People who use @ can reduce the risk by rinsing.", "prevented_by", False),
        ("The protective effect may be due to @.", "risk_factor", False),
        ("As with @, there is a predisposition.", "cause", False),
        ("@ is considered a complication of it.", "cause", False),
        ("Differential diagnosis includes @.", "cause", False),
        ("The gland sits below @.", "affects", False),
        ("The liver plays a vital role in @.", "mechanism", False),
        ("There is minimal associated @.", "mechanism", False),
        ("There is a decrease in flow and duration of @.", "symptom", False),
        ("A decline of @ is felt.", "symptom", False),
        ("A decrease in hearing is followed by @.", "symptom", True),
        ("A decrease of flow, and later @, is seen.", "symptom", True),
        ("Later there is impaired @.", "mechanism", False),
        ("Impaired drainage leads to @.", "mechanism", True),
        ("The balance of @ and growth is lost.", "mechanism", False),
        ("The imbalance of salts causes @.", "mechanism", True),
        ("Progress has been made in @, an active area of research.", "treated_by", False),
        ("As the situation improves, @ production resumes.", "treated_by", False),
        ("A regimen of @ has also been examined.", "treated_by", False),
        ("@ has been used, but with limited efficacy.", "treated_by", False),
        ("@ is used, but evidence of its efficacy is lacking.", "treated_by", False),
        ("@ can show clots, but is not diagnostic.", "diagnosed_by", False),
        ("@ in those who have had a stroke or heart attack does not change the risk.", "treated_by", False),
        ("@ is given to those who do not respond.", "treated_by", True),
        ("It does not respond to antihistamines or @.", "treated_by", False),
        ("Check the creams for ingredients of @.", "treated_by", False),
        ("A @-like toxin is produced.", "cause", False),
        ("Antibodies act as @ antagonists.", "cause", False),
        ("Tests for hormones like @ are sometimes helpful.", "treated_by", False),
        ("@ levels are watched.", "treated_by", False),
        ("@ is done to rule out a tumor.", "diagnosed_by", False),
        ("@ may confirm the diagnosis and rule out others.", "diagnosed_by", True),
        ("A metabolite, in a small open label trial of @.", "treated_by", False),
        ("It must not be given in pregnancy due to risk of @.", "treated_by", False),
        ("It is often comorbid with @.", "cause", False),
        ("The ticks also transmit @.", "cause", False),
        ("Components of the syndrome, such as @, are linked with a lack of exercise.", "cause", False),
        ("Risk factors for @ include age.", "risk_factor", False),
        ("Smoking raises the risk, as do age and @.", "risk_factor", True),
        ("Three forms exist and include @.", "cause", False),
        ("Causes of fainting include @.", "symptom", False),
        ("It causes symptoms including @.", "symptom", True),
        ("Its effects overlap with those of @.", "symptom", False),
        ("Patients present with features of @.", "differential", False),
        ("Features of @ may be mistaken for it.", "differential", True),
        ("The cells may be resistant to @.", "mechanism", False),
        ("@ is used, but it has to be given early.", "treated_by", True),
        ("If rest does not help, @ is given.", "treated_by", True),
        ("@ is used when surgery is not possible.", "treated_by", True),
        ("@, taken for years, may actually promote bleeding.", "treated_by", False),
        ("The rash worsens with @ therapy.", "treated_by", False),
        ("Most cases are caused by @ tablets given for asthma.", "treated_by", False),
        ("Deaths were many since the drugs (including @) had poor penetration.", "treated_by", False),
        ("In those who lose hearing there is no evidence for @.", "treated_by", False),
        ("In those who lose hearing @ is given.", "treated_by", True),
        ("@, however, does not restore the kidney.", "treated_by", False),
        ("@ while once recommended is no longer given.", "treated_by", False),
        ("@ was thought a panacea but studies have failed to show it.", "treated_by", False),
        ("@ has been popular, but there is no evidence for it.", "treated_by", False),
        ("@ is common, although its use is controversial.", "treated_by", False),
        ("@ is common, although surgery is better.", "treated_by", True),
        ("Patients tolerant to @ had fewer attacks.", "treated_by", False),
        ("The glands begin producing excess @.", "treated_by", False),
        ("It may be discovered during @ for another reason.", "treated_by", False),
        ("A girl had an unrelated @.", "treated_by", False),
        ("For secondary infections @ is used.", "treated_by", False),
        ("A for the treatment of gout, @ for the treatment of migraine.", "treated_by", False),
        ("@ for the treatment of gout is approved.", "treated_by", True),
        ("It has some @ properties.", "treated_by", False),
        ("There is interest in treating it with @.", "treated_by", False),
        ("Finer @ syringes hurt less.", "treated_by", False),
        ("Management includes @.", "cause", False),
        ("It may follow an infection, treatable with @.", "cause", False),
        ("The spots disappear following use of @.", "cause", False),
        ("Other symptoms include weakness and @.", "cause", False),
        ("Drugs that bring such symptoms include @.", "cause", True),
        ("The mutation is enough to produce @.", "cause", False),
        ("It causes uric acid to rise, also responsible for @.", "risk_factor", False),
        ("It is seen in the young, often those with a sudden onset of @.", "cause", False),
        ("@ is mostly caused by a tumor.", "cause", False),
        ("It arises from @ that is caused by a tumor.", "cause", True),
        ("@ may begin slowly and resemble it.", "cause", False),
        ("Portal @ may be present.", "symptom", False),
        ("Drugs such as @ should be avoided by people with it.", "cause", False),
        ("It may be due to drugs (e.g. isotretinoin for @).", "cause", False),
        ("Pain after @ may cause similar symptoms.", "cause", False),
        ("The tumor grows after the removal of both @.", "affects", False),
        ("An attack on nerves outside the @ causes weakness.", "affects", False),
        ("It is an infection outside of the lung and @.", "affects", False),
        ("Another condition that requires thinning of the blood (e.g. with @) matters.", "prevented_by", False),
        ("@ is associated with it, but the link is not completely confirmed.", "risk_factor", False),
        ("The patients have risk factors for other diseases, such as @.", "cause", False),
        ("Most cases of @ (of the mouth, nose or throat) are due to it.", "cause", False),
        ("Antibodies are detected in a variety of disorders, such as @.", "cause", False),
        ("It is more severe in people with @.", "cause", False),
        ("It may be due to @ (vitamin B6) deficiency.", "cause", False),
        ("It is due to faulty metabolism of @.", "cause", False),
        ("An old drug, an @, destroys the cells.", "cause", False),
        ("It may be misdiagnosed as lupus or @.", "cause", False),
        ("Tests may react to coinfections such as @.", "cause", False),
        ("There is debate regarding whether @ causes it.", "cause", False),
        ("The link with @ is not completely confirmed.", "risk_factor", False),
        ("Articles about illnesses such as @ feed it.", "cause", False),
        ("It may be due to damage by radiation (e.g. for @).", "cause", False),
        ("The eyes of people affected by @ look like this.", "symptom", False),
        ("Several illnesses have to be ruled out, such as gout or @.", "symptom", False),
        ("One has to rule out several illnesses, such as gout or @.", "symptom", False),
        ("They do things that are prevented by feeling @.", "symptom", False),
        ("There is seldom @ before it.", "symptom", False),
        ("The pain is exacerbated by moving or @.", "symptom", False),
        ("It affects life more than illnesses such as cancer or @.", "symptom", False),
        ("If the drug is stopped abruptly, it can result in @.", "adverse_effect", False),
        ("Complications of eye surgery include @.", "complication", False),
        ("@ is generally negative.", "diagnosed_by", False),
        ("The role of @ is under study.", "diagnosed_by", False),
        ("There is rarely any need for @.", "diagnosed_by", False),
        ("The tumor begins in a gland behind the @.", "affects", False),
        ("The tumor grows in the tissue surrounding the @.", "affects", False),
        ("It spreads to the surrounding @.", "affects", True),
        ("Bile rises without elevation of @ enzymes.", "affects", False),
        ("The cancer is non@ in origin.", "affects", False),
        ("The damaged germs hide from the body's @.", "affects", False),
        ("The bleeding can result in @.", "differential", False),
        ("If @ is present, other causes are likely.", "differential", False),
        ("A rash in spring may be @.", "differential", True),
        ("Therapy consists of fluid restriction, @ and rest.", "treated_by", True),
        ("Gluten avoidance, tobacco cessation and @ help.", "treated_by", True),
        ("Restriction of salt and @ is advised.", "treated_by", False),
        ("Patients restrict salt, sugar and @.", "treated_by", False),
        ("Rest lowers the severity of @.", "treated_by", False),
        ("It is given to @ recipients, who are often ill.", "treated_by", False),
        ("@ candidates need a scan.", "treated_by", False),
        ("The drug is derived from @.", "treated_by", False),
        ("The nerve is cut under sedation with @.", "treated_by", False),
        ("Before an elective @, doses are doubled.", "treated_by", False),
        ("Blood counts are checked if children receive @.", "treated_by", False),
        ("It is taken if necessary with @.", "treated_by", True),
        ("It is prevented if @ is given early.", "prevented_by", True),
        ("It eases itching in other diseases, as @ does.", "treated_by", False),
        ("A new heart requires lifelong @.", "treated_by", False),
        ("Its effect is similar in size to that of @.", "treated_by", False),
        ("It may be linked to @, but surveys have conflicting results.", "cause", False),
        ("@ was suspected, but biopsies failed to confirm it.", "cause", False),
        ("The consequent @ can kill.", "cause", False),
        ("It may be a result of @.", "cause", True),
        ("After withdrawal, @ ensues.", "cause", False),
        ("It is caused by a virus, a member of the @.", "cause", False),
        ("Lupus: this @ harms many organs.", "cause", False),
        ("It is caused by a mutation, and one of a family of @.", "cause", False),
        ("It is due to one of many causes: gout, @.", "cause", True),
        ("These include @.", "cause", True),
        ("Cases fell when screening for inherited @ began.", "cause", False),
        ("Some genes are specific for gout, others for @.", "cause", False),
        ("It was seen in a @ man who recovered.", "cause", False),
        ("Those with @ have risk factors for it.", "cause", False),
        ("Causes such as @ must be excluded.", "cause", False),
        ("It was given for problems such as @.", "cause", False),
        ("@ is the rarest variant of it.", "cause", False),
        ("@ is the rarest cause of it.", "cause", True),
        ("Three types, including @, are inherited.", "cause", False),
        ("Its aura lacks what is characteristic of @.", "symptom", False),
        ("Other diseases to consider are gout and @.", "symptom", False),
        ("Symptoms of such a stroke include @.", "symptom", False),
        ("Pulmonary artery @ follows.", "symptom", False),
        ("@ should be normal.", "diagnosed_by", False),
        ("A history is taken, with @ used to exclude other diseases.", "diagnosed_by", False),
        ("A scan and @ (to rule out gout) are made.", "diagnosed_by", False),
        ("A rash, mostly caused by @, looks like it.", "differential", False),
        ("It follows a response of the body's own @.", "affects", False),
        ("The @ attacks the joints.", "affects", False),
        ("The cells, typically found in the @, multiply.", "affects", False),
        ("Damage of the @ follows.", "affects", True),
        ("Other causes are @ and gout.", "differential", True),
    ],
)
def test_what_a_sentence_asserts(sentence, relation, holds):
    at = sentence.index("@")
    assert (doubt(*clause_around(sentence, at, at + 1), relation) == "") is holds


@pytest.mark.parametrize(
    ("sentence", "relation", "says"),
    [
        ("@ is a disease of childhood.", "cause", False),
        ("It is due to @.", "cause", True),
        ("Familial @", "cause", True),
        ("Some patients also have @.", "cause", False),
        ("The hypothalamus is in the @.", "affects", False),
        ("Inflammation of the @ follows.", "affects", True),
        ("The @ is damaged early.", "affects", True),
        ("Salt is pumped to the @.", "affects", False),
        ("People have @.", "symptom", True),
        ("@ is very unusual.", "symptom", False),
        ("@ (vomiting) is uncommon.", "symptom", False),
        ("@ is a rare sign of it.", "symptom", True),
        ("@ is uncommon.", "adverse_effect", True),
    ],
)
def test_what_a_sentence_names_a_thing_as(sentence, relation, says):
    before, after = sentence.split("@")
    assert says_so(relation, False, before, after) is says


@given(data=st.data(), kind=st.sampled_from(KINDS), part=st.sampled_from(["clause", "before", "after"]))
@settings(max_examples=150)
def test_a_doubt_is_raised_only_where_one_of_its_words_stands(data, kind, part):
    if getattr(kind, part):
        text = data.draw(st.from_regex(pattern(getattr(kind, part)), alphabet=st.characters(codec="ascii")))
        assert kind in suspects(text)


@pytest.mark.parametrize(
    ("text", "relation", "holds"),
    [
        ("Some drugs carry no risk. Among them is @.", "cause", False),
        ("These should be avoided. Examples are rest and @.", "treated_by", False),
        ("Blockers should be avoided in patients with it; this includes rest and @.", "treated_by", False),
        ("Several drugs help. These include @.", "treated_by", True),
        ("Rest is not helpful; @ is the treatment of choice.", "treated_by", True),
        ("Salt should be avoided. Treatment is with @.", "treated_by", True),
    ],
)
def test_how_far_a_verdict_reaches(text, relation, holds):
    *_, last = statements(text)
    at = text.index("@") - last.start
    before, after = clause_around(text[last.start : last.end], at, at + 1)
    assert (doubt(last.context + before, after, relation) == "") is holds


def test_a_list_obeys_the_line_that_leads_in():
    text = "Avoid the following:\n\nX\n\nY\n\nTreatment is with Z."
    contexts = {text[s.start : s.end].strip(): s.context for s in statements(text, [text.index("X"), text.index("Y")])}
    assert contexts["X"] == contexts["Y"] == "Avoid the following: " and contexts["Treatment is with Z."] == ""


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
    assert len([1 for start, end in split_sentences(text) if text[start:end].strip()]) == count


PIECES = sorted({piece for kind in KINDS for piece in re.findall(r"[a-z]+|\W", kind.words)} | {" the ", "\n", "12"})


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@settings(max_examples=200, deadline=None)
def test_words_of_doubt_are_found_whether_they_lie_in_one_word_or_reach_across_several(text):
    assert list(suspects(text)) == [kind for kind in KINDS if re.search(kind.words, text)]

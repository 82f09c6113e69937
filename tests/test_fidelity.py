"""Path fidelity on hand-made reasoning of every kind, and what the path reward pays for it."""

import sqlite3
from dataclasses import replace

import pytest
from conftest import PROJECT
from hypothesis import given
from hypothesis import strategies as st
from linear import assert_linear

import tables
from beliefs import Fact, never_to_always, wrong_facts
from fidelity import (
    ANOTHER_WAY,
    BY_PATH,
    CHINESE,
    DESPITE_PATH,
    LOST,
    NO_EVIDENCE,
    OUTCOMES,
    WRONG,
    Fidelity,
    hops,
    split_entities,
)
from graph import SCHEMA, Graph
from question import Question
from results import Score, result_row
from reward import format_response
from tools.run import RunDir, write_jsonl

ENTITIES = {
    "Marfan syndrome": "disease", "Hepatitis C": "disease", "Homocystinuria": "disease",
    "Acute lymphoblastic leukemia": "disease", "Losartan": "drug", "Prednisone": "drug", "Paracetamol": "drug",
    "Magnesium sulfate": "drug", "Sofosbuvir": "drug", "Sartans": "drug class", "Heart murmur": "symptom",
    "Syncope (medicine)": "symptom", "Hyperkalemia": "symptom", "Cough": "symptom", "Hepatitis C virus": "pathogen",
}  # fmt: skip
ALIASES = {"cozaar": "Losartan", "acetaminophen": "Paracetamol", "all": "Acute lymphoblastic leukemia"}
FACTS = [
    ("Marfan syndrome", "symptom", "Heart murmur"),
    ("Marfan syndrome", "symptom", "Syncope (medicine)"),
    ("Marfan syndrome", "treated_by", "Losartan"),
    ("Losartan", "adverse_effect", "Hyperkalemia"),
    ("Losartan", "belongs_to", "Sartans"),
    ("Hepatitis C", "cause", "Hepatitis C virus"),
    ("Hepatitis C", "treated_by", "Sofosbuvir"),
]


def write_graph(path):
    ids = {title: number for number, title in enumerate(ENTITIES, 1)}
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    rows = [(ids[title], title, kind, ids[title], 1, 0, 1) for title, kind in ENTITIES.items()]
    database.executemany("INSERT INTO entity VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    database.executemany("INSERT INTO alias VALUES (?, ?)", [(name, ids[title]) for name, title in ALIASES.items()])
    database.executemany(
        "INSERT INTO relation(subject, relation, object, page, revision, section, sentence)"
        " VALUES (?, ?, ?, 1, 1, '', 'So it is written.')",
        [(ids[subject], relation, ids[other]) for subject, relation, other in FACTS],
    )
    database.commit()
    return path


@pytest.fixture(scope="module")
def fidelity(tmp_path_factory):
    return Fidelity(Graph(write_graph(tmp_path_factory.mktemp("graph") / "kg.sqlite")))


def evidence(*numbers):
    return [[*FACTS[number], 1, "So it is written."] for number in numbers]


DRUGS = {"A": "Prednisone", "B": "Paracetamol", "C": "Magnesium sulfate", "D": "Losartan"}
MARFAN = Question("q/marfan", "synth", "en", "A person has a heart murmur and syncope. What should be given?", DRUGS,
                  "D", "difficult", evidence=evidence(0, 1, 2))  # fmt: skip


@pytest.mark.parametrize(
    ("reasoning", "answer", "outcome"),
    [
        # the right path
        ("Heart murmur and syncope are symptoms of Marfan syndrome. Marfan syndrome is treated with Losartan. "
         "Losartan is (D).", "D", BY_PATH),
        ("These findings suggest Marfan syndrome. It is slowed by losartan, so D.", "D", BY_PATH),
        ("Losartan slows it in Marfan syndrome, which fits the murmur.", "D", BY_PATH),  # a fact told from its end
        ("Murmur, syncope → Marfan syndrome → Losartan", "D", BY_PATH),
        # by other names
        ("This looks like MARFAN SYNDROME. Cozaar is the treatment.", "D", BY_PATH),
        ("All of it fits Marfan syndrome, for which sartans such as losartan are given.", "D", BY_PATH),
        # dismissed options are not told as if they were on the path
        ("It is not homocystinuria but Marfan syndrome. Losartan treats it, rather than prednisone.", "D", BY_PATH),
        ("Marfan syndrome is likely. Prednisone is wrong. Acetaminophen does not help. Losartan does.", "D", BY_PATH),
        ("Marfan syndrome, not homocystinuria, is likely. Losartan is used.", "D", BY_PATH),
        # a shortcut, and no reasoning at all
        ("The best drug for a murmur is Losartan. Losartan is (D).", "D", ANOTHER_WAY),
        ("Losartan is (D).", "D", ANOTHER_WAY),
        ("", "D", ANOTHER_WAY),
        ("It is Marfan syndrome. Losartan is (D).", "D", ANOTHER_WAY),  # the last fact is missing
        # another way
        ("It is homocystinuria. Homocystinuria is treated with Losartan. Losartan is (D).", "D", ANOTHER_WAY),
        ("It is Marfan syndrome or homocystinuria. Marfan syndrome is treated with Losartan.", "D", ANOTHER_WAY),
        # reversed
        ("Losartan is the best of these drugs. Losartan is (D). So it must be Marfan syndrome.", "D", ANOTHER_WAY),
        # negated
        ("It is not Marfan syndrome. Losartan is given anyway.", "D", ANOTHER_WAY),
        ("Marfan syndrome is ruled out. Losartan is given anyway.", "D", ANOTHER_WAY),
        ("It isn't Marfan syndrome. Losartan is given anyway.", "D", ANOTHER_WAY),
        ("There is neither Marfan syndrome nor fever. Losartan is given.", "D", ANOTHER_WAY),
        ("It is Marfan syndrome. It should never be treated with Losartan.", "D", ANOTHER_WAY),
        # listed
        ("Marfan syndrome, Losartan.", "D", ANOTHER_WAY),
        ("Marfan syndrome, homocystinuria and hepatitis C come to mind; prednisone, paracetamol, magnesium sulfate "
         "and losartan are drugs.", "D", ANOTHER_WAY),
        # parts of other words
        ("It is a Marfanoid syndrome. Losartanium helps.", "D", ANOTHER_WAY),
        # it ends on another option than it answers
        ("It is Marfan syndrome. Losartan treats it. Prednisone is (D).", "D", ANOTHER_WAY),
        ("It is Marfan syndrome. Losartan treats it. Losartan is (B).", "B", DESPITE_PATH),
        ("It is Marfan syndrome. Losartan treats it.", None, DESPITE_PATH),
        # wrong
        ("It is Marfan syndrome. Marfan syndrome is treated with Prednisone. Prednisone is (A).", "A", WRONG),
        ("Losartan is (B).", "B", WRONG),
        ("", None, WRONG),
    ],
)  # fmt: skip
def test_every_kind_of_reasoning(fidelity, reasoning, answer, outcome):
    assert fidelity.unjudgeable(MARFAN, reasoning) is None
    assert fidelity.judge(MARFAN, reasoning, answer).outcome(answer == MARFAN.answer) == outcome


@pytest.mark.parametrize(
    "denied",
    [
        "it lacks features of @", "I doubt that it is @", "@ is improbable", "it hardly is @", "this is far from @",
        "@ is out of the question", "@ fails to explain it", "it is false that this is @", "absence of @",
        "@ is absent", "@ is less probable", "we reject @", "a non-@ disease", "if it were @, more would be seen",
        "@ is out", "we can discard @", "@ has no role", "@ would cause other findings",
    ],
)  # fmt: skip
def test_denials_in_many_words(fidelity, denied):
    """What is denied is not told, and an option that is dismissed is no stranger."""
    reasoning = f"Here {denied.replace('@', 'Marfan syndrome')}. Losartan is given."
    assert fidelity.judge(MARFAN, reasoning, "D").outcome(True) == ANOTHER_WAY, reasoning
    reasoning = f"Here {denied.replace('@', 'homocystinuria')}. It is Marfan syndrome. Losartan is given."
    assert fidelity.judge(MARFAN, reasoning, "D").outcome(True) == BY_PATH, reasoning


@pytest.mark.parametrize(
    "told",
    [
        "@ is not excluded", "@ cannot be ruled out", "there is no doubt that it is @", "without a doubt this is @",
        "it is nothing other than @", "it is none other than @", "it is not just @", "@ is not rare here",
        "@ must not be missed", "it is not only @", "@ is not unlikely",
    ],
)  # fmt: skip
def test_what_only_sounds_like_a_denial_is_told(fidelity, told):
    reasoning = f"Here {told.replace('@', 'Marfan syndrome')}. Losartan is given."
    assert fidelity.judge(MARFAN, reasoning, "D").outcome(True) == BY_PATH


def test_the_path_of_a_chain_begins_where_the_question_does(fidelity):
    """A fact that is stored against the path's direction; a masked name within a given one."""
    options = {"A": "Losartan", "B": "Sofosbuvir"}
    chain = Question("q/c", "synth", "en", "Which drug treats a disease caused by Hepatitis C virus?", options, "B",
                     evidence=evidence(5, 6))  # fmt: skip
    assert split_entities(chain) == (["Hepatitis C virus"], ["Hepatitis C", "Sofosbuvir"]) and hops(chain) == 2
    told = "Hepatitis C virus causes hepatitis C. Sofosbuvir treats it."
    assert fidelity.judge(chain, told, "B").outcome(True) == BY_PATH
    virus_alone = "Hepatitis C virus is killed by Sofosbuvir."
    assert fidelity.judge(chain, virus_alone, "B").outcome(True) == ANOTHER_WAY
    unmasked = replace(chain, question="What follows?", evidence=evidence(2, 3))
    assert split_entities(unmasked)[1] == ["Marfan syndrome", "Losartan", "Hyperkalemia"]
    back = replace(unmasked, evidence=[evidence(3)[0], evidence(2)[0]])
    assert split_entities(back)[1] == ["Hyperkalemia", "Losartan", "Marfan syndrome"]


def test_a_contraindication_is_told_by_its_negation(fidelity):
    facts = [["Losartan", "contraindication", "Hepatitis C", 1, "So it is written."]]
    options = {"A": "Marfan syndrome", "B": "Hepatitis C", "C": "Homocystinuria", "D": "Cough"}
    question = Question(
        "q/not", "synth", "en", "Which is a contraindication to Losartan?", options, "B", evidence=facts
    )
    for told in ("must not be given in hepatitis C", "should never be used in hepatitis C"):
        assert fidelity.judge(question, f"Losartan {told}. Hepatitis C is (B).", "B").outcome(True) == BY_PATH
    denied = "Losartan is not given for hepatitis C. Hepatitis C is (B)."
    assert fidelity.judge(question, denied, "B").outcome(True) == ANOTHER_WAY


GIVEN = Question(
    "q/given", "synth", "en", "A person with a heart murmur also has a cough. Which drug is given?", DRUGS, "D",
    evidence=[*evidence(0), ["Prednisone", "contraindication", "Cough"], ["Paracetamol", "contraindication", "Cough"],
              *evidence(2)],
)  # fmt: skip


@pytest.mark.parametrize(
    ("reasoning", "outcome"),
    [
        ("Prednisone and paracetamol are contraindicated. It is Marfan syndrome, treated with Losartan.", BY_PATH),
        ("Avoid paracetamol and prednisone. It is Marfan syndrome. Losartan treats it.", BY_PATH),
        ("It is Marfan syndrome, treated with Losartan. Prednisone must not be given in cough, nor paracetamol.",
         BY_PATH),
        ("It is Marfan syndrome. Prednisone cannot be used. Losartan is given, since paracetamol is unsafe.", BY_PATH),
        ("It is Marfan syndrome. In cough, prednisone, paracetamol and others are contraindicated, so Losartan is "
         "given.", BY_PATH),
        # one that is not ruled out, one that is only named, one that is told as what to give, none
        ("It is Marfan syndrome. Prednisone is contraindicated. Losartan treats it.", ANOTHER_WAY),
        ("It is Marfan syndrome. Prednisone is contraindicated. Paracetamol. Losartan treats it.", ANOTHER_WAY),
        ("It is Marfan syndrome. Prednisone is contraindicated. It is treated with paracetamol and Losartan.",
         ANOTHER_WAY),
        ("It is Marfan syndrome. Losartan treats it.", ANOTHER_WAY),
        # the answer is what is ruled out; it ends on a drug that it ruled out
        ("It is Marfan syndrome. Prednisone, paracetamol or Losartan are contraindicated. Losartan is (D).",
         ANOTHER_WAY),
        ("Prednisone and paracetamol are contraindicated. It is Marfan syndrome. Losartan treats it. "
         "Prednisone is (D).", ANOTHER_WAY),
        # the order of what leads to the answer counts as ever
        ("Prednisone and paracetamol are contraindicated. Losartan is given. It is Marfan syndrome.", ANOTHER_WAY),
    ],
)  # fmt: skip
def test_what_is_ruled_out_may_be_told_anywhere(fidelity, reasoning, outcome):
    assert hops(GIVEN) == 2 and fidelity.unjudgeable(GIVEN, reasoning) is None
    assert fidelity.judge(GIVEN, reasoning, "D").outcome(True) == outcome


def test_naming_all_options_rules_none_out(fidelity):
    reasoned = "Prednisone and paracetamol are contraindicated. It is Marfan syndrome, treated with Losartan."
    assert fidelity.share_told(GIVEN, reasoned) == 1
    for hack in ("The drug is Prednisone, Paracetamol or Losartan.", "Prednisone, Paracetamol or Losartan interact.",
                 "(A) Prednisone (B) Paracetamol (D) Losartan", ", ".join(ENTITIES)):  # fmt: skip
        assert fidelity.share_told(GIVEN, hack) <= 1 / 2


def test_what_cannot_be_judged_says_why(fidelity):
    lost = replace(MARFAN, evidence=[["Marfan syndrome", "treated_by", "Thalidomide", 1, "x"]])
    public = replace(MARFAN, evidence=[])
    assert fidelity.unjudgeable(public) == NO_EVIDENCE and hops(public) == 0
    assert fidelity.unjudgeable(lost) == LOST
    assert fidelity.unjudgeable(MARFAN, "心脏杂音和晕厥是马凡综合征的症状。") == CHINESE
    assert fidelity.unjudgeable(replace(MARFAN, language="zh")) == CHINESE
    assert (
        fidelity.unjudgeable(MARFAN, "Marfan syndrome (马凡综合征) is treated with Losartan, which is the drug.")
        is None
    )
    assert [fidelity.share_told(question, "Marfan syndrome is it.") for question in (public, lost)] == [0, 0]


REASONED = "These are symptoms of Marfan syndrome. Marfan syndrome is treated with Losartan. Losartan is (D)."


@pytest.mark.parametrize(
    "hack",
    [
        ", ".join(ENTITIES),
        "The entities are " + ", ".join(ENTITIES) + ".",
        " ".join(f"It is {title}." for title in ENTITIES if title != "Marfan syndrome") + " It is Marfan syndrome.",
        "The drug is Prednisone, Paracetamol, Magnesium sulfate or Losartan.",
        " ".join(f"Maybe {option} is given." for option in DRUGS.values()),
        "Marfan syndrome. " * 50 + "Losartan. " * 50,
        "Losartan is given. " * 50,
        "(A) Prednisone (B) Paracetamol (C) Magnesium sulfate (D) Losartan",
    ],
)  # fmt: skip
def test_a_hack_earns_less_than_reasoning(fidelity, hack):
    """Listing all entities, naming all options, repeating: none earns what reasoning does, in front of it or alone."""
    whole = fidelity.share_told(MARFAN, REASONED)
    assert whole == 1 and fidelity.share_told(MARFAN, hack) <= 1 / 2
    assert fidelity.share_told(MARFAN, f"{hack}\n{REASONED}") <= whole
    assert fidelity.share_told(MARFAN, REASONED + REASONED) == whole


def test_half_of_the_path_earns_half(fidelity):
    assert fidelity.share_told(MARFAN, "It is Marfan syndrome. Marfan syndrome is treated with Prednisone.") == 1 / 2
    assert fidelity.share_told(MARFAN, "Homocystinuria comes first. It is Marfan syndrome, so Losartan helps.") == 0


PIECES = [*"aA ,.;:!?(\n→", "not ", "Marfan syndrome", "losartan", "Cough", "no "]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_has_a_verdict(fidelity, text):
    verdict = fidelity.judge(MARFAN, text, "D")
    assert 0 <= verdict.told <= 1 and verdict.outcome(True) in (BY_PATH, ANOTHER_WAY)
    assert fidelity.judge(MARFAN, text + "\n" + text, "D").told >= verdict.told


def test_hostile_text_takes_linear_time(fidelity):
    pieces = ["Hepatitis ", "not ", "neither Cough, ", "(A", "a.", ",", "→", "Losartan is (D). "]
    assert_linear(lambda text: fidelity.judge(MARFAN, text, "D"), pieces, 200_000, most=12)


def test_tables_tell_by_which_way_and_what_is_left_out(tmp_path):
    """From the files of a run: by tier and by hops, shares of the samples that can be judged."""
    write_graph(tmp_path / "kg.sqlite")
    short = replace(MARFAN, id="q/short", question="A person has Marfan syndrome. What should be given?", tier="easy",
                    evidence=evidence(2))  # fmt: skip
    public = replace(MARFAN, id="q/public", evidence=[])
    write_jsonl(tmp_path / "heldout.jsonl", [question.to_json() for question in (MARFAN, short, public)])
    told = [(REASONED, "Losartan is (D)."), ("Losartan is given.", "马凡综合征"), ("",)]
    rows = [
        result_row(question, n, response=format_response(text, "D"))
        for number, question in enumerate((MARFAN, short, public))
        for n, text in enumerate(told[number])
    ]
    (tmp_path / "eval" / "heldout").mkdir(parents=True)
    write_jsonl(tmp_path / "eval" / "heldout" / "m.jsonl", rows)
    results = tables.load_results(RunDir(tmp_path))
    fidelity = results["m"]["heldout"].fidelity
    assert list(fidelity) == ["all", "easy", "difficult", "1 hop", "2 hops"]
    assert fidelity["all"][BY_PATH] == Score(0.75, 2) and fidelity["2 hops"][ANOTHER_WAY] == Score(0.5, 1)
    assert fidelity["1 hop"][BY_PATH] == Score(1.0, 1)
    text = tables.paths_table(results)
    assert "heldout: 1 of 3 questions left out, 1 without evidence." in text and "| 2 hops " in text
    assert "By the path" in tables.ablation_table(results) and results["m"]["heldout"].summary()["fidelity"]
    (tmp_path / "kg.sqlite").unlink()
    bare = tables.load_results(RunDir(tmp_path))
    assert tables.paths_table(bare) == "" and "By the path" not in tables.ablation_table(bare)


def test_the_facts_that_failed_reasoning_tells_wrongly(fidelity):
    """The end that is known and a stranger in the other's place; not what is true, negated or a shortcut."""
    wrong = "These are symptoms of Marfan syndrome. Marfan syndrome is treated with Prednisone. Prednisone is (A)."
    other = "Heart murmur is a symptom of homocystinuria. Homocystinuria is treated with prednisone."
    denied = "It is Marfan syndrome. Marfan syndrome is not treated with Prednisone. Paracetamol is (B)."
    told = wrong_facts(fidelity, [(MARFAN, format_response(text, "A")) for text in (wrong, wrong, other, denied, "")])
    assert told == [
        (Fact("Marfan syndrome", "treated_by", "Losartan", "So it is written."), {"Prednisone": 2}),
        (Fact("Heart murmur", "symptom", "Marfan syndrome", "So it is written."), {"Homocystinuria": 1}),
    ]
    assert never_to_always({"a": 0, "b": 0.5, "c": 0, "d": 1}, {"a": 1, "b": 1, "c": 0.5, "d": 1, "e": 1}) == ["a"]


def test_the_documented_precision_is_that_of_the_judged_table():
    rows = [line.split("\t") for line in (PROJECT / "bench/judged/fidelity.tsv").read_text().splitlines()[1:]]
    verdicts = [(verdict, read) for *_, verdict, read, _ in rows]
    assert len(rows) == 100 and {way for pair in verdicts for way in pair} <= set(OUTCOMES)
    agreed = sum(verdict == read for verdict, read in verdicts)
    found, meant = ([pair[place] for pair in verdicts].count(BY_PATH) for place in (0, 1))
    both = verdicts.count((BY_PATH, BY_PATH))
    page = " ".join((PROJECT / "docs/path_reward.md").read_text().split())
    assert f"They agree on {agreed}. Of {found} responses" in page and f'by the path", {both} are on reading' in page
    assert f"of {meant} that are on reading, {both} were found" in page
    rows = [
        line.split("\t") for line in (PROJECT / "bench/judged/fidelity_ruling_out.tsv").read_text().splitlines()[1:]
    ]
    assert (
        len(rows) == 40 and sum(verdict == read for *_, verdict, read in rows) == 40 and "all 40 verdicts agree" in page
    )
    assert sum(BY_PATH == verdict for *_, verdict, _ in rows) == 1 and 'only one of them is "by the path"' in page

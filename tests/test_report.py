"""The report: it shows what the run's files say, nothing hostile gets out of its text, and it loads nothing."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import call_main, python
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from test_fidelity import MARFAN, REASONED, write_graph

import report
from clean.formats import BENCHMARKS
from draw import charts
from question import Question
from results import result_row
from reward import format_response
from tools.cli import UserError
from tools.run import RunDir, append_jsonl, read_jsonl, write_jsonl

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> \" ' & $x_$"
MODELS = {"Base": "BBB", "+CoT cold start": "ABB", "+RL stage 1": "AAB", "+RL stage 2": "AAB"}


def make_question(text="Which drug treats a disease caused by Candida?", answer="Fluconazole", **fields):
    evidence = [
        ["Candidiasis", "cause", "Candida", 11, "Candida is the usual species."],
        ["Candidiasis", "treated_by", answer, 12, "A sentence about the drug."],
    ]
    options = {"A": answer, "B": "Losartan"}
    return Question("q0", "synth", "en", text, options, "A", **{"tier": "moderate", "evidence": evidence, **fields})


def write_run(folder, question, models=MODELS, response="So it is."):
    """A finished run: three questions, each model's answers to them, the metrics that the report reads."""
    plain = [make_question(f"Is it number {n}?", evidence=[]).to_json() | {"id": f"q{n}"} for n in (1, 2)]
    write_jsonl(folder / "heldout.jsonl", [question.to_json(), *plain])
    (folder / "eval" / "heldout").mkdir(parents=True)
    (folder / "rl1").mkdir()
    rows = []
    for stage, steps in (("rl1", 4), ("rl2", 3)):
        values = {"reward": 0.7, "accuracy": 0.6, "zero_advantage": 0.2, "length": 30.5}
        values |= dict.fromkeys(report.LEDGER, 0.25 if stage == "rl1" else 0.75)
        rows += [{"stage": stage, "step": step, "time": 1.0, **values} for step in range(1, steps + 1)]
        rows[-1]["ended"] = f"all {steps} steps are done"
    tier = {"questions": 40, "passed": 0.25, "mix": 0.4, "mined": 17, "set_aside": 3}
    rows.append(
        {"stage": "mining", "step": 1, "time": 1.0, "round": 1, "moderate": tier, "difficult": tier | {"mined": 19}}
    )
    for model, letters in models.items():
        share = letters.count("A") / 3
        subsets = {"moderate": [share, 3, 0.1, 0.9]}
        rows.append({"stage": "evaluate", "step": 0, "time": 1.0,
                     "model": model, "benchmark": "heldout", "n": 3, "accuracy": share,
                     "low": 0.1, "high": 0.9, "subsets": subsets})  # fmt: skip
        answers = [
            {"id": f"q{n}", "tier": "moderate", "kind": None, "truth": "A", "tokens": 9 + n, "truncated": False,
             "response": format_response(f"{response} By {model}.", letter)}
            for n, letter in enumerate(letters)
        ]  # fmt: skip
        write_jsonl(folder / "eval" / "heldout" / f"{model.replace('/', '-')}.jsonl", answers)
    append_jsonl(folder / "metrics.jsonl", rows)


class Page(HTMLParser):
    """A page's tags with their attributes, and its text by section title."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.sections, self.heading = [], {"": ""}, False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.heading = tag == "h2"

    def handle_data(self, data):
        if self.heading:
            self.sections[data], self.heading = "", False
        else:
            self.sections[list(self.sections)[-1]] += data

    def text(self):
        return "".join(self.sections.values())


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, make_question())
    return folder


def draw_question(question):
    """The path of a question as a picture."""
    with rc_context(charts.CHART_STYLE):
        facts = [fact[:3] for fact in question.evidence]
        return charts.graph_picture(*report.split_entities(question), question.options[question.answer], facts)


SVG = "http://www.w3.org/2000/svg"


def build(folder):
    call_main(report, "--run", folder)
    return Page((folder / "report.html").read_text())


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of a run like `run`."""
    folder = tmp_path_factory.mktemp("page") / "run"
    folder.mkdir()
    write_run(folder, make_question())
    build(folder)
    return (folder / "report.html").read_text()


def test_every_section_shows_what_the_files_say(html):
    page = Page(html)
    ablation, curves, warnings, mined, machine, graph, lengths, transcripts = list(page.sections.values())[1:]
    assert "training found nothing wrong" in warnings
    assert "rl1" in machine and "25%" in machine and "75%" in machine  # as write_run has it
    assert "Left out" not in page.text()
    assert all(part in ablation for part in ("heldout (3 questions)", "heldout, moderate", "33.3", "66.7", *MODELS))
    assert "end of stage 1" in curves and "(step 4)" in curves
    assert (
        "It ended after step 4: all 4 steps are done. In its last 4 steps (the shaded ones) 20% had none" in curves
        and "+0.000 against" in curves
    )
    assert "25.0%" in mined and "40%" in mined and "17" in mined and "19" in mined and "3" in mined
    assert "Candidiasis" in graph and "treated by" in graph and "A sentence about the drug." in graph
    assert "tokens" in lengths and "+RL stage 2" in lengths
    assert "+RL stage 1: 1 newly right, 0 newly wrong" in transcripts
    assert transcripts.count("By Base.") == 3  # fixed by the cold start, fixed by stage 1, never right


def test_named_and_masked_entities(run):
    question = make_question("Which drug treats a disease caused by Candida?")
    assert report.split_entities(question) == (["Candida"], ["Candidiasis", "Fluconazole"])
    told = make_question(
        "Which drug treats a syncope?", evidence=[["Syncope (medicine)", "treated_by", "Losartan", 1, "It."]]
    )
    assert report.split_entities(told) == (["Syncope (medicine)"], ["Losartan"])
    drawing = draw_question(question)
    assert drawing.count("stroke-dasharray") == 2  # the two masked boxes


def test_a_fact_without_its_sentence_is_drawn_too(tmp_path):
    question = make_question("Which drug treats it?", evidence=[["Gout", "treated_by", "Losartan"]])
    write_jsonl(tmp_path / "heldout.jsonl", [question.to_json()])
    assert "Gout <b>treated by</b> Losartan</ul>" in report.graph_section(RunDir(tmp_path))


def test_an_arrow_s_word_lies_along_it():
    """So the words of arrows that meet in one box stay off each other; those of vertical arrows are level."""
    signs = ["Fever", "Cough", "Rash", "Nausea", "Fatigue"]
    facts = [["Measles", "symptom", sign, 1, "It."] for sign in signs]
    facts.append(["Measles", "prevented_by", "Vaccine", 1, "It."])
    drawing = draw_question(make_question(f"What prevents {', '.join(signs)}?", "Vaccine", evidence=facts))
    angles = {word: [] for word in ("symptom", "prevented by")}
    for angle, word in re.findall(r"rotate\((\S+) [^>]*>(symptom|prevented by)<", drawing):
        angles[word].append((180 - float(angle)) % 360 - 180)
    assert angles["prevented by"] == [0]
    rising = angles["symptom"]  # read from left to right; the first sign is the highest
    assert rising == sorted(rising) and len(set(rising)) == 5 and -90 < rising[0] < 0 < rising[-1] < 90


def test_last_evaluation_of_a_model_counts_and_order_stays(run, html):
    assert "95% intervals" in Page(html).sections["What each step adds"]
    row = {"stage": "evaluate", "time": 1.0, "model": "Base", "benchmark": "heldout", "n": 3, "accuracy": 0.125}
    append_jsonl(run / "metrics.jsonl", [{**row, "step": 0, "low": 0.1, "high": 0.2}])
    ablation = build(run).sections["What each step adds"]
    assert "12.5" in ablation and ablation.index("Base") < ablation.index("+CoT cold start")


def test_accuracies_without_intervals_say_so(tmp_path):
    row = {"stage": "evaluate", "step": 0, "time": 1.0, "model": "Base", "benchmark": "medqa", "n": 9, "accuracy": 0.5}
    write_jsonl(tmp_path / "metrics.jsonl", [row])
    ablation = build(tmp_path).sections["What each step adds"]
    assert "50.0" in ablation and "has no intervals" in ablation and "95%" not in ablation


def test_hostile_text_stays_text(tmp_path):
    folder = tmp_path / "<b>run"
    folder.mkdir()
    question = make_question(f"{HOSTILE} Candida?", answer=HOSTILE)
    write_run(folder, question, {f"{HOSTILE}{name}": letters for name, letters in MODELS.items()}, HOSTILE)
    page = build(folder)
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "img", "b>run"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.sections["From the graph to a question"].count(HOSTILE) >= 3  # question, option, fact
    assert f"{HOSTILE} By {HOSTILE}Base." in page.sections["The same question before and after each stage"]
    assert "<b>run" in page.text()


@pytest.mark.filterwarnings("ignore:Glyph")  # the browser has fonts of its own
@settings(max_examples=20)
@given(st.text(min_size=1).filter(str.strip))
def test_any_text_adds_no_tag(text):
    def tags(content):
        answers = {content: {"q0": {"truth": "A", "response": content}}}
        question = make_question(content, evidence=[["x", content, "y", 1, content]])
        with rc_context(charts.CHART_STYLE):
            drawing = charts.accuracy_bars(content, {content: [0.5, 3]})
        return [tag for tag, _ in Page(drawing + report.transcript("q0", answers, question)).tags if tag != "use"]

    assert set(tags(text)) == set(tags("plain"))


@pytest.mark.parametrize(
    ("missing", "left_out"),
    [
        (("eval", "rl1"), 1),
        (("heldout.jsonl",), 1),
        (("metrics.jsonl",), 3),
        (("eval", "heldout.jsonl", "metrics.jsonl"), 6),
    ],
)
def test_missing_parts_are_named(run, missing, left_out):
    for name in missing:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = build(run)
    assert page.text().count("Left out: ") == left_out
    assert ("end of stage 1" in page.text()) == (left_out < 3 and "rl1" not in missing)


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval/heldout/Base.jsonl"])
@pytest.mark.parametrize("line", ["{}", "[]", '{"stage": 3, "step": "x", "id": null}', "\\x00"])
def test_a_broken_line_is_told_with_its_place(run, name, line):
    with open(run / name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=rf"{Path(name).name}, line \d+: "):
        build(run)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stage": "sft", "warnings": 5}, "warnings is not a list"),
        ({"stage": "evaluate", "subsets": {"easy": [0.5]}}, "subsets.easy has 1 items instead of 4"),
    ],
)
def test_metrics_that_cannot_be_drawn_are_told(tmp_path, values, problem):
    row = {"step": 1, "time": 1.0, "model": "Base", "benchmark": "medqa", "accuracy": 0.5, "n": 2} | values
    write_jsonl(tmp_path / "metrics.jsonl", [row])
    with pytest.raises(
        UserError, match=f"a row of {row['stage']}: {problem}; delete that line, or run the stage again"
    ):
        report.load_metrics(tmp_path)


def test_response_free_results_are_passed_over(run):
    """Saved log-likelihoods have no response to show, further samples repeat the question."""
    path = run / "eval" / "heldout" / "Base.jsonl"
    row = {"id": "q0", "truth": "A", "tier": None, "kind": None}
    append_jsonl(path, [row | {"sample": 1, "response": "second", "tokens": 3}])
    write_jsonl(path.with_name("letters.jsonl"), [row | {"logprobs": {"A": -1.0}}])
    _, answers = report.load_answers(RunDir(run))
    assert set(answers) == set(MODELS) and "second" not in answers["Base"]["q0"]["response"]


def test_nothing_is_loaded(html):
    page = Page(html)
    loading = ("src", "srcset", "href", "xlink:href", "data", "poster", "action")
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in loading]
    assert links and all(link.startswith("#") for link in links)  # parts of the same chart
    assert html.count("url(") == html.count("url(#") and "@import" not in html
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_the_machine_did_is_told_by_stage(html):
    assert "<td>rl1<td>4<td>0.2 s<td>25%" in html and "<td>rl2<td>3<td>0.8 s<td>75%" in html


def test_same_run_same_page(run, html):
    build(run)
    assert (run / "report.html").read_text() == html


def test_charts_take_their_colours_from_the_theme(html):
    assert all(f"var(--{name})" in html and f"--{name}: " in charts.THEME for name in charts.COLORS if name != "easy")
    assert not any(color in html for color in charts.COLORS.values())


def test_curves_of_several_runs_are_one_picture(run, tmp_path):
    other = tmp_path / "<other>"
    other.mkdir()
    write_run(other, make_question())
    call_main(report, "--curves", tmp_path / "curves.svg", run, other)
    text = (tmp_path / "curves.svg").read_text()
    labels = [element.text for element in ElementTree.fromstring(text).iter(f"{{{SVG}}}text")]
    assert {"run", "<other>", "accuracy", "tokens per response"} <= set(labels) and not (run / "report.html").exists()
    assert "prefers-color-scheme: dark" in text and "var(--blue)" in text and "var(--orange)" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run", "none"], "does not exist"),
        (["--curves", "x.png", "runs/x"], "ends in .svg"),
        (["--curves", "x.svg"], "at least one run"),
        (["--figures", "x.png"], "ends in .svg"),
        (["--figures", "x.svg", "none"], "none does not exist"),
        (["--figures", "docs/pipeline.svg"], "docs/pipeline.svg: there is another file, which --figures has not"),
        (["--reference", "docs/metrics.md", "."], "docs/metrics.md: there is another file, which --reference has not"),
    ],
)
def test_bad_input_is_one_line(flags, message):
    failed = python("report.py", *flags)
    assert failed.returncode == 1 and message in failed.stderr and len(failed.stderr.splitlines()) == 1


def test_a_reference_is_drawn_like_its_run(run, tmp_path):
    """A run's metrics after a line that says where they were measured; the curves take it as they take the run."""
    reference = tmp_path / "run.jsonl"
    call_main(report, "--reference", reference, run)
    first, *rows = read_jsonl(reference)
    assert {"commit", "processor", "threads"} <= first["reference"].keys()
    assert rows == list(read_jsonl(run / "metrics.jsonl"))
    for source in (run, reference):
        call_main(report, "--curves", tmp_path / f"{source.name}.svg", source)
    assert (tmp_path / "run.jsonl.svg").read_bytes() == (tmp_path / "run.svg").read_bytes()


def test_a_model_stands_in_the_papers_figures(run, html, tmp_path):
    def labels(path):
        texts = [element.text for element in ElementTree.fromstring(path.read_text()).iter(f"{{{SVG}}}text")]
        return {text for text in texts if text}

    call_main(report, "--figures", tmp_path / "paper.svg")
    assert {"Fleming-R1-7B", "GPT-4o", "30.4", "63.4"} <= labels(tmp_path / "paper.svg")
    assert "MedXpertQA (grey" not in Page(html).text()  # it has answered no benchmark of the paper
    row = {"stage": "evaluate", "step": 9, "time": 0.0, "model": "+RL stage 2", "n": 9}
    append_jsonl(run / "metrics.jsonl", [row | {"benchmark": name, "accuracy": 0.5} for name in BENCHMARKS])
    page = build(run).text()
    assert "MedXpertQA (grey: the paper's)" in page and "Average of the nine (grey: the paper's)" in page
    call_main(report, "--figures", tmp_path / "own.svg", run)
    assert {"run: +RL stage 2"[:20], "50.0", "63.4"} <= labels(tmp_path / "own.svg")


def test_the_terminal_gets_what_the_main_table_leaves_out(run, capsys):
    build(run)
    text = capsys.readouterr().out
    assert "Base -> +CoT cold start" in text and "Model hash" in text
    assert text.count("<- right") == 2 and text.count("  +RL stage 2: <think>") == 2
    call_main(report, "--run", run, "--transcripts", "0")
    assert "<- right" not in capsys.readouterr().out


def test_held_out_accuracy_is_drawn_where_it_was_measured(run):
    stages = report.load_metrics(run)
    assert "on held-out questions" not in report.training_section(stages, True)
    stages["rl2"][1]["heldout_accuracy"] = 0.5
    assert "on held-out questions" in report.training_section(stages, True)


def test_what_the_policy_knows(run):
    """With the run's graph: by which way, facts told wrongly by each RL stage, questions from never to always."""
    write_graph(run / "kg.sqlite")
    questions = [replace(MARFAN, id=f"q{n}") for n in range(3)]
    write_jsonl(run / "heldout.jsonl", [question.to_json() for question in questions])
    wrong = "It is Marfan syndrome. Marfan syndrome is treated with Prednisone."
    for model, letters in {"+RL stage 1": "ADA", "+RL stage 2": "DDA"}.items():
        rows = [
            result_row(question, response=format_response(REASONED if letter == "D" else wrong, letter), tokens=3)
            for question, letter in zip(questions, letters)
        ]
        write_jsonl(run / "eval" / "heldout" / f"{model}.jsonl", rows)
    sections = build(run).sections
    assert "66.7" in sections["By which way"] and "0 of 3 questions left out" in sections["By which way"]
    facts = sections["What +RL stage 2 does not know"]
    assert all(part in facts for part in ("treated by", "Prednisone", "Losartan", "So it is written."))
    certain = sections["From never to always"]
    assert "q0" in certain and "1 questions" in certain and certain.count("</think>") == 2

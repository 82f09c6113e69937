"""What a run learned, to look at: one page, curves of several runs, and every table beside the main one (section 4).

    python report.py --run runs/tiny                                       # report.html, and the tables of this run
    python report.py --table runs/tiny-0 runs/tiny-1 runs/tiny-2           # runs beside each other and the paper's
    python report.py --table                                               # Tables 1 to 4 as the paper prints them
    python report.py --figures beside.svg runs/7b                          # its Figures 1 and 4, a run among its bars
    python report.py --curves docs/curves.svg runs/tiny-0 runs/tiny-1      # training curves, one line per run
    python report.py --curves mine.svg docs/reference/tiny-0.jsonl runs/x  # a run laid over a reference
    python report.py --reference docs/reference/tiny-0.jsonl runs/tiny-0   # keep a run's metrics as a reference

The page holds everything in itself: the charts are inline SVG and nothing is loaded from anywhere. It fits a phone, a
wide screen, a light and a dark theme, shows what the run has so far, and says what is missing.

Reads metrics.jsonl, heldout.jsonl (or synth.jsonl) and eval/; needs no model. A reference is a run's metrics.jsonl
after a first line that says where it was made: {"reference": {"commit": ..., "processor": ..., "threads": ...}}.
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ == "__main__":  # first: the rest takes seconds to import
    can_stop()

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from html import escape
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import tables
from beliefs import never_to_always, wrong_facts
from clean.formats import BENCHMARKS
from draw import charts
from draw.page import page, section
from fidelity import BY_PATH, OUTCOMES, PathJudge, split_entities
from question import TIERS, Question, load_questions
from results import RESPONSE, Results, provenance, read_answer
from tools.cli import UserError, at_least, run_stage, stage_parser
from tools.run import METRIC, RunDir, check_written, is_there, read_jsonl, write_jsonl, write_text
from tools.shape import misfit

LEDGER = "seconds_rollout rollout_bandwidth rollout_arithmetic seconds_update update_arithmetic idle".split()
TRAINED = dict.fromkeys(
    (f"{name}?" for name in [*"reward accuracy heldout_accuracy zero_advantage length".split(), *LEDGER]), float
) | {"ended?": str}
MINED = {"questions": int, "passed": float, "mix": float, "mined": int, "untried?": int, "set_aside": int}
DRAWN = {  # the shape of what the page shows of a stage's metrics
    "rl1": TRAINED,
    "rl2": TRAINED,
    "mining": {"round": int, **{f"{tier}?": MINED for tier in TIERS}},
    "evaluate": {"model": str, "benchmark": str, "accuracy": float, "n": int, "low?": float, "high?": float,
                 "subsets?": {str: [float, int, float, float]}},
}  # fmt: skip
Row = dict[str, Any]  # of metrics.jsonl or of saved responses
Stages = dict[str, list[Row]]  # stage -> its metrics
Answers = dict[str, dict[str, Row]]  # model -> question id -> its saved response

TOP = 10  # facts and questions that a list of them shows
PLATEAU_WINDOW = 40  # steps that grpo.py judges the end of stage 1 by, unless it is told another number
FROM_ROW_TO_ROW = "From row to row, on the same questions (paired bootstrap, 95%)"
OVER_SEEDS = "Over seeds and questions (hierarchical bootstrap, 95%)"
RUN_COLORS = ("blue", "orange", "good")  # of the lines of several runs

# ---------------------------------------------------------------------------------------------------- what a run leaves


def load_metrics(path: Path) -> Stages:
    """The metrics of a run directory, or of a file such as a reference, by stage. Raises UserError if one is broken."""
    file = path
    if not path.is_file():
        file = RunDir(path).output("metrics.jsonl")
    stages: Stages = defaultdict(list)
    for row in read_jsonl(file, appended=True, shape=(METRIC, {"reference": {}})) if is_there(file) else ():
        if "reference" in row:
            continue
        if problem := misfit(row, DRAWN.get(row["stage"], {}) | {"warnings?": [str]}):
            raise UserError(f"{file}, a row of {row['stage']}: {problem}; delete that line, or run the stage again")
        stages[row["stage"]].append(row)
    return stages


def load_answers(run: RunDir) -> tuple[str, Answers]:
    """A benchmark's name and its saved responses by model: the held-out questions', else the first there are.

    Of several samples the first counts.
    """
    folders = [path for path in run.output("eval").glob("*") if path.is_dir()]
    for folder in sorted(folders, key=lambda path: (path.name != "heldout", path.name)):
        answers = {
            file.stem: {
                row["id"]: row
                for row in read_jsonl(file, appended=True, shape=RESPONSE)
                if "response" in row and not row.get("sample")
            }
            for file in sorted(folder.glob("*.jsonl"), key=lambda file: tables.ladder_place(file.stem))
            if not provenance(file).get("settings", {}).get("shuffle_options")  # the same questions, but other options
        }
        if any(answers.values()):
            return folder.name, {label: rows for label, rows in answers.items() if rows}
    return "", {}


def is_right(row: Row) -> bool:
    return read_answer(row)[0] == row["truth"]


# ------------------------------------------------------------------------------------------- the page: what was learned


def ladder_section(rows: list[Row]) -> str:
    """Table 4 as charts: one per benchmark (and tier), one bar per model. `rows` are the metrics of evaluate.py."""
    title = "What each step adds"
    if not rows:
        return section(title, "Left out: no model has been evaluated yet (evaluate.py).")
    by_benchmark: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:  # of a model that was evaluated again, the last row counts
        by_benchmark[row["benchmark"]][row["model"]] = row
    bars: dict[str, dict[str, list[float]]] = {}
    for benchmark, models in by_benchmark.items():
        bars |= accuracies(benchmark, models)
    known = any(interval for scores in bars.values() for _, _, *interval in scores.values())
    lines = "the lines are 95% intervals" if known else "metrics.jsonl has no intervals, evaluate again for them"
    drawn = [charts.accuracy_bars(name, scores) for name, scores in bars.items()]
    beside = [
        charts.beside_paper(name, models)
        for name, models in tables.paper_bars(measured_percent(rows)).items()
        if not all(quoted for *_, quoted in models)
    ]
    return section(title, f"Accuracy in %; {lines}.", *drawn, *beside)


def measured_percent(rows: list[Row]) -> dict[str, dict[str, float]]:
    """The metrics of evaluate.py as model -> benchmark -> accuracy in %."""
    measured: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        measured[row["model"]][row["benchmark"]] = 100 * row["accuracy"]
    return measured


def accuracies(benchmark: str, models: dict[str, Row]) -> dict[str, dict[str, list[float]]]:
    """What a benchmark's charts show, title -> model -> accuracy, n, low, high: of all questions, and of each tier."""
    whole = {
        model: [row[name] for name in ("accuracy", "n", "low", "high") if name in row] for model, row in models.items()
    }
    bars = {benchmark: whole}
    for tier in TIERS:
        scores = {model: row["subsets"][tier] for model, row in models.items() if row.get("subsets", {}).get(tier)}
        if scores:
            bars[f"{benchmark}, {tier}"] = scores
    return bars


def training_section(stages: Stages, finished: bool) -> str:
    """Reward, accuracy and sparsity of the rewards by step, through both stages."""
    title = "Reward and accuracy in training"
    if not stages["rl1"] and not stages["rl2"]:
        return section(title, "Left out: there was no reinforcement learning yet (grpo.py).")
    lead = (
        "Means over each step's samples, and their running mean. A question whose responses all earn the same has no "
        "advantage: nothing is learned from it (Eqs. 1-3). When most are like that and the reward no longer rises, "
        "stage 1 has reached its plateau. "
    )
    if stages["mining"]:
        lead += "Stage 2 trains on what the policy fails, so its questions are harder. "
    lead += plateau(stages["rl1"]) if finished else ""
    earned = {"reward": ("reward", "blue"), "accuracy": ("accuracy", "orange")}
    if any("heldout_accuracy" in row for name in ("rl1", "rl2") for row in stages[name]):
        earned["heldout_accuracy"] = ("on held-out questions, greedily", "good")
    sparse = {"zero_advantage": ("questions without advantage", "blue")}
    return section(
        title, lead, step_chart(stages, earned, finished, "mean"), step_chart(stages, sparse, finished, "share")
    )


def warnings_section(stages: Stages) -> str:
    """What the training stages found to be wrong with themselves, step by step (tools/watch.py)."""
    told = [
        (stage, row["step"], line) for stage, rows in stages.items() for row in rows for line in row.get("warnings", ())
    ]
    lines = "".join(f"<li>{escape(f'{stage}, step {step}: {line}')}" for stage, step, line in told)
    lead = (
        "What the training stages found to be wrong with themselves." if told else "None: training found nothing wrong."
    )
    return section("Warnings", lead, *([f"<ul class=wide>{lines}</ul>"] if told else []))


def machine_section(stages: Stages) -> str:
    """How long a step took, and how much of the machine it used (tools/ledger.py)."""
    cells = [
        ["Stage", "Steps", "Sampling", "of the bandwidth", "of the arithmetic", "Update", "of the arithmetic", "Idle"]
    ]
    for name in ("rl1", "rl2"):
        rows = [row for row in stages[name] if row.keys() >= set(LEDGER)]
        means = {key: fmean(row[key] for row in rows) for key in LEDGER} if rows else {}
        texts = [f"{value:.1f} s" if "seconds" in key else f"{value:.0%}" for key, value in means.items()]
        cells += [[name, str(len(rows)), *texts]] if rows else []
    lead = (
        "Means over the steps. Shares are of what a copy and a product reached on this machine when the stage began; "
        "idle is what a machine at these peaks would not have needed."
    )
    return section("What the machine did", lead, html_table(cells)) if cells[1:] else ""


def plateau(rows: list[Row]) -> str:
    """Why stage 1 ended, and what that was judged by, over its last steps (grpo.Plateau)."""
    last = [row for row in rows if {"zero_advantage", "reward"} <= row.keys()][-PLATEAU_WINDOW:]
    half = len(last) // 2
    if not half:
        return ""
    rise = fmean(row["reward"] for row in last[half:]) - fmean(row["reward"] for row in last[:half])
    ended = f"It ended after step {rows[-1]['step']}: {rows[-1]['ended']}. " if "ended" in rows[-1] else ""
    return ended + (
        f"In its last {len(last)} steps (the shaded ones) {fmean(row['zero_advantage'] for row in last):.0%} had none, "
        f"and the reward's second half was {rise:+.3f} against its first."
    )


def step_chart(stages: Stages, shown: dict[str, tuple[str, str]], finished: bool, unit: str) -> str:
    """Metrics of both stages by step; stage 1's end is marked if it is `finished`. `shown`: metric -> label, colour."""
    axes = charts.new_axes(210)
    lines = {label: draw_metric(axes, stages, name, charts.COLORS[color]) for name, (label, color) in shown.items()}
    end = last_step(stages)
    if finished and end:
        axes.axvspan(max(0, end - PLATEAU_WINDOW), end, color=charts.COLORS["line"], alpha=0.4, linewidth=0)
        charts.mark_end(axes, end, f"end of stage 1 \n(step {end}) ")
    axes.figure.legend(lines.values(), lines, loc="outside upper left", ncols=2, handlelength=1.2)
    axes.set(xlabel="step", ylabel=unit, ylim=(0, None))
    axes.grid(axis="y")
    return charts.svg(axes.figure, f"{' and '.join(lines)} by step, both stages")


def draw_metric(axes: Axes, stages: Stages, name: str, color: str) -> Line2D:
    """A metric of stage 1 and, after it, of stage 2."""
    for stage, offset in (("rl1", 0), ("rl2", last_step(stages))):
        rows = [row for row in stages[stage] if name in row]
        line = charts.draw_steps(axes, [offset + row["step"] for row in rows], [row[name] for row in rows], color)
    return line


def last_step(stages: Stages) -> int:
    """Stage 1's last step, 0 without a stage 1."""
    return stages["rl1"][-1]["step"] if stages["rl1"] else 0


def mining_section(rows: list[Row]) -> str:
    """What stage 2 chose to train on, round by round and tier by tier."""
    title = "What mining chose"
    if not rows:
        return section(title, "Left out: there was no round of mining (grpo.py --stage 2).")
    rounds = {row["round"]: {tier: row[tier] for tier in TIERS if tier in row} for row in rows}
    mixes = {"all questions": {tier: counts["questions"] for tier, counts in rounds[min(rounds)].items()}}
    for number, tiers in rounds.items():
        mixes[f"round {number}"] = {tier: counts["mined"] for tier, counts in tiers.items()}
    table = "<tr><th>Round<th>Tier<th>Passed<th>Mix<th>Mined<th>Set aside"
    for number, tiers in rounds.items():
        for tier, counts in tiers.items():
            shares = f"{counts['passed']:.1%}", f"{counts['mix']:.0%}"
            cells = (number, tier, *shares, counts["mined"], counts["set_aside"])
            table += "<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in cells)
    lead = (
        "Each round the policy answers the dataset, or a rotating share of it; what it fails is trained on. A tier's "
        "share of the mix is its failure rate times its weight. Set aside is what was never solved in many attempts."
    )
    picture = charts.share_bars(mixes, "Share of each tier in each round")
    return section(title, lead, picture, f"<div><table>{table}</table></div>")


def lengths_section(stages: Stages, benchmark: str, answers: Answers, finished: bool) -> str:
    """Response lengths: by step of training, and of each model's saved responses."""
    drawn = []
    if stages["rl1"] or stages["rl2"]:
        drawn.append(step_chart(stages, {"length": ("mean of the step's samples", "blue")}, finished, "tokens"))
    if answers:
        tokens = {
            model: [row["tokens"] for row in rows.values() if row.get("tokens")] for model, rows in answers.items()
        }
        drawn.append(charts.length_boxes(benchmark, tokens))
    title = "Response lengths"
    if not drawn:
        return section(title, "Left out: no model has been trained with rewards or evaluated yet.")
    lead = (
        "The reward has no term for length. Boxes hold the middle half of the responses, whiskers reach from 5 to 95%."
    )
    return section(title, lead, *drawn)


# ---------------------------------------------------------------------------------- the page: questions and transcripts


def graph_section(run: RunDir) -> str:
    """A question and the path through the graph that it was made from."""
    title = "From the graph to a question"
    question = hardest_question(run)
    if question is None:
        return section(title, "Left out: the run has no question with evidence from a graph yet (synth.py).")
    facts = "".join(map(fact_item, question.evidence))
    lead = "Dashed boxes are masked: the question does not name them. The filled one is the answer."
    text = f"<div><h3>{escape(question.question)}</h3>{option_list(question)}<ul>{facts}</ul></div>"
    triples = [fact[:3] for fact in question.evidence]
    picture = charts.graph_picture(*split_entities(question), question.options[question.answer], triples)
    return section(title, lead, picture, text)


def fact_item(row: list[Any]) -> str:
    """A fact of a question's path and, where it is known, the sentence that states it."""
    subject, relation, other, *source = row
    item = f"<li>{escape(subject)} <b>{escape(relation.replace('_', ' '))}</b> {escape(other)}"
    if len(source) < 2 or not source[1]:
        return item
    return f"{item}<br><span class=muted>“{escape(source[1])}” (revision {source[0]})</span>"


def hardest_question(run: RunDir) -> Question | None:
    """The first question with the most masked entities and facts, a held-out one if there is any."""
    for path in (run.output("heldout.jsonl"), run.output("synth.jsonl")):
        drawn = [question for question in load_questions(path) if question.evidence] if is_there(path) else []
        if drawn:
            return max(drawn, key=lambda question: (len(split_entities(question)[1]), len(question.evidence)))
    return None


def option_list(question: Question) -> str:
    lines = [
        f"<li{' class=right' if letter == question.answer else ''}>{letter}. {escape(text)}"
        for letter, text in question.options.items()
    ]
    return f"<ol>{''.join(lines)}</ol>"


def transcripts_section(benchmark: str, answers: Answers, questions: dict[str, Question]) -> str:
    """For each model a question that it and all after it got right and none before it; last one that all got wrong."""
    title = "The same question before and after each stage"
    if not answers:
        return section(title, "Left out: no responses have been saved yet (evaluate.py).")
    models, outcomes = list(answers), outcomes_by_question(answers)
    text = ""
    for step in range(1, len(models) + 1):
        heading = "No model is right"
        if step < len(models):
            changes = [right[step] - right[step - 1] for right in outcomes.values()]
            heading = f"{models[step]}: {changes.count(1)} newly right, {changes.count(-1)} newly wrong"
        from_here_on = [number >= step for number in range(len(models))]
        for id in [id for id, right in outcomes.items() if right == from_here_on][:1]:
            text += f"<h3>{escape(heading)}</h3>{transcript(id, answers, questions.get(id))}"
    lead = (
        f"From {benchmark}: for each model the first question that no model before it and every model from it on gets "
        "right; then the first that none does. Chosen by this rule, so not typical."
    )
    return section(title, lead, f"<div class=wide>{text}</div>")


def outcomes_by_question(answers: Answers) -> dict[str, list[bool]]:
    """Question id -> was it right, model by model; of the questions that all models answered."""
    first = next(iter(answers.values()))
    everywhere = [id for id in first if all(id in rows for rows in answers.values())]
    return {id: [is_right(rows[id]) for rows in answers.values()] for id in everywhere}


def transcript(id: str, answers: Answers, question: Question | None) -> str:
    """One question and every model's response; the id stands for a question that the run directory does not hold."""
    asked = f"<p>{escape(question.question)}</p>{option_list(question)}" if question else f"<p>{escape(id)}</p>"
    columns = ""
    for label, rows in answers.items():
        verdict = "right" if is_right(rows[id]) else "wrong"
        response = f"<pre tabindex=0>{escape(rows[id]['response'].strip())}</pre>"
        columns += f"<div><b>{escape(label)}</b> <span class={verdict}>{verdict}</span>{response}</div>"
    return f"{asked}<div class=answers>{columns}</div>"


def knowledge_sections(run: RunDir, benchmark: str, answers: Answers) -> list[str]:
    """By which way the answers were reached, what each RL stage's failed reasoning tells wrongly, and what the last
    stage made certain; nothing without paths."""
    questions = heldout_questions(run)
    judge = PathJudge.of_run(run, questions.values())
    if not judge or benchmark != "heldout":
        return []
    results = {model: scores for model, scores in tables.load_results(run).items() if model in answers}
    stages = [model for model in answers if "RL stage" in model]
    sections = [ways_section(results)]
    sections += [wrong_facts_section(stage, judge, answers[stage], questions) for stage in stages]
    if len(stages) > 1:
        last_two = {stage: answers[stage] for stage in stages[-2:]}
        sections.append(certainty_section(results, last_two, questions))
    return sections


def certainty_section(results: Results, answers: Answers, questions: dict[str, Question]) -> str:
    """Questions that one stage brought from never to always, with the transcripts of both; `answers` of the two."""
    first, last = (results[stage]["heldout"].correct for stage in answers)
    before, after = answers
    chosen = never_to_always(first, last)
    text = "".join(f"<h3>{escape(id)}</h3>{transcript(id, answers, questions.get(id))}" for id in chosen[:TOP])
    lead = f"{len(chosen)} questions that no sample of {before} got right and every sample of {after}; the first {TOP}."
    return section("From never to always", lead, f"<div class=wide>{text}</div>")


def ways_section(results: Results) -> str:
    """Right by the path, right by another way, wrong despite the path, wrong: by tier and number of hops."""
    rows = [["Variant", "Questions", "n", *map(str.capitalize, OUTCOMES)]]
    for model, scores in results.items():
        for group, ways in scores["heldout"].fidelity.items():
            rows.append([model, group, str(ways[BY_PATH].n), *map(str, ways.values())])
    lead = (
        "In % with 95% intervals. Reasoning goes by the path if it tells every masked entity in the path's order and "
        "no other of its type, and ends at the answered option (fidelity.py). "
    )
    return section("By which way", lead + tables.left_out_line(results), html_table(rows))


def wrong_facts_section(stage: str, judge: PathJudge, rows: dict[str, Row], questions: dict[str, Question]) -> str:
    """The facts that a stage's failed responses tell wrongly most often."""
    failed = [(questions[id], row["response"]) for id, row in rows.items() if id in questions and not is_right(row)]
    cells = [["Responses", "Subject or finding", "Relation", "Told", "True", "Sentence"]]
    for fact, told in wrong_facts(judge.fidelity, failed)[:TOP]:
        instead = ", ".join(f"{title} ({count})" if count > 1 else title for title, count in told.most_common())
        row = [str(told.total()), fact.known, fact.relation.replace("_", " "), instead, fact.true, fact.sentence]
        cells.append(row)
    lead = f"The {TOP} facts told wrongly most often in {len(failed)} failed responses of {stage}."
    return section(f"What {stage} does not know", lead, html_table(cells))


def html_table(rows: list[list[str]]) -> str:
    """A table whose first row is its head."""
    head, *body = rows
    lines = [("th", head), *(("td", row) for row in body)]
    text = "".join("<tr>" + "".join(f"<{tag}>{escape(cell)}" for cell in row) for tag, row in lines)
    return f"<div><table>{text}</table></div>"


def heldout_questions(run: RunDir) -> dict[str, Question]:
    path = run.output("heldout.jsonl")
    return {question.id: question for question in load_questions(path)} if is_there(path) else {}


def build_page(run: RunDir) -> str:
    """The whole page as HTML. Raises UserError if a file of the run is broken."""
    stages = load_metrics(run.path)
    benchmark, answers = load_answers(run)
    finished = is_there(run.output("rl1"))
    with rc_context(charts.CHART_STYLE):
        sections = [
            ladder_section(stages["evaluate"]),
            training_section(stages, finished),
            warnings_section(stages),
            mining_section(stages["mining"]),
            machine_section(stages),
            graph_section(run),
            lengths_section(stages, benchmark, answers, finished),
            transcripts_section(benchmark, answers, heldout_questions(run)),
            *knowledge_sections(run, benchmark, answers),
        ]
    lead = "Medical reasoning trained with verifiable rewards. Research only, no medical advice."
    return page(run.path.resolve().name, lead, sections)


# ------------------------------------------------------------------------------------------ the curves of several runs


def curves_picture(sources: list[Path]) -> str:
    """The training curves of several runs or references, one line per run, as SVG that follows the reader's theme."""
    shown = {"accuracy": "accuracy", "zero_advantage": "share without advantage", "length": "tokens per response"}
    stages = [load_metrics(source) for source in sources]
    figure = Figure(figsize=(3 * 270 / 72, 220 / 72), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), shown.items()):
        lines = [draw_metric(axes, item, name, charts.COLORS[color]) for item, color in zip(stages, cycle(RUN_COLORS))]
        charts.mark_end(axes, last_step(stages[0]), "stage 1 ")
        axes.set(title=title, xlabel="step", ylim=(0, None))
        axes.grid(axis="y")
    names = [source.resolve().stem if source.is_file() else source.resolve().name for source in sources]
    figure.legend(lines, names, loc="outside upper center", ncols=len(names), handlelength=1.2)
    drawing = charts.svg(figure, f"Training of {', '.join(names)}: {', '.join(shown.values())} by step, both stages")
    return charts.standalone(drawing)


def paper_picture(runs: list[Path]) -> str:
    """Figures 4 and 1 of the paper, with the models of some runs among its bars."""
    measured = {
        f"{name}: {model}": accuracies
        for name, run in zip(tables.run_names(runs), runs)
        for model, accuracies in measured_percent(load_metrics(run)["evaluate"]).items()
    }
    bars = tables.paper_bars(measured)
    height = 46 + 20 * max(map(len, bars.values()))
    figure = Figure(figsize=(2 * 360 / 72, height / 72), layout="constrained")
    for axes, (title, models) in zip(figure.subplots(1, 2), bars.items()):
        charts.draw_beside_paper(axes, title, models)
    return charts.standalone(charts.svg(figure, "MedXpertQA and the average of nine benchmarks, by model"))


def write_reference(path: Path, run: RunDir) -> None:
    """A run's metrics after a line about this checkout and this machine: write it where and when the run was made."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent, capture_output=True, text=True,
    )  # fmt: skip
    measured = {
        "commit": commit.stdout.strip() or "unknown",
        "processor": processor(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }
    check_written("--reference", path, b'{"reference": ')
    metrics = read_jsonl(run.output("metrics.jsonl"), f"bash run.sh (a run in {run.path})", True, METRIC)
    write_jsonl(path, [{"reference": measured}, *metrics])


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------- tables on a terminal


def print_run(run: RunDir, transcripts: int) -> None:
    """What evaluate.py's table does not tell about a run: kinds of questions, differences, how it was measured, and
    some transcripts."""
    results = tables.load_results(run)
    by_title = {
        "By kind of question": tables.kinds_table(results),
        tables.PATHS: tables.paths_table(results),
        tables.ORDERS: tables.orders_table(results),
        FROM_ROW_TO_ROW: tables.differences_table(tables.ladder(results)),
        "How it was measured": tables.details_table(results),
    }
    for title, table in by_title.items():
        if table:
            print(f"{title}\n\n{table}\n")
    benchmark, answers = load_answers(run)
    questions = heldout_questions(run) if benchmark == "heldout" else {}
    for question in telling_questions(answers, questions, transcripts):
        print(transcript_text(question, answers) + "\n")


def telling_questions(answers: Answers, questions: dict[str, Question], count: int) -> list[Question]:
    """`count` questions: the hardest that the last model gets right, in the end one that it gets wrong, if any."""
    if not answers or count == 0:
        return []
    last = list(answers.values())[-1]
    right = {id: is_right(row) for id, row in last.items() if id in questions}
    solved = [questions[id] for id in right if right[id]]
    solved.sort(key=lambda item: (TIERS.index(item.tier) if item.tier else 0, len(item.question)), reverse=True)
    return (solved[: max(1, count - 1)] + [questions[id] for id in right if not right[id]])[:count]


def transcript_text(question: Question, answers: Answers) -> str:
    """A question with the first and the last model's responses."""
    lines = [f"[{question.id}] {question.question}"]
    for letter, text in question.options.items():
        lines.append(f"  {letter}. {text}{'  <- right' if letter == question.answer else ''}")
    labels = list(answers)
    for label in dict.fromkeys((labels[0], labels[-1])):
        response = answers[label].get(question.id, {}).get("response", "")
        lines.append(f"  {label}: {response.strip()[:600]}")
    return "\n".join(lines)


def print_runs(paths: list[Path]) -> None:
    """`--table`: several runs beside each other and, where they have a benchmark of the paper, beside its rows."""
    runs = tables.load_runs(paths)
    for run, results in runs.items():
        print(f"How {run} was measured\n\n{tables.details_table(results)}\n")
    pairs = [pair for run, results in runs.items() for pair in tables.ladder(results, f"{run}: ")]
    print(f"{FROM_ROW_TO_ROW}\n\n{tables.differences_table(pairs)}\n")
    if {*tables.benchmarks_of(runs)} & {*BENCHMARKS}:
        print("Measured here and quoted from the paper; Avg. is over a row's own benchmarks, the paper's over its nine")
        print(f"\n{tables.paper_table(runs)}\n\n{tables.GAIN}\n")
    methods = tables.methods_of(paths)
    if methods:
        print(f"{OVER_SEEDS}\n\n{tables.seeds_table(runs, methods)}\n")
    print(f"Accuracy in %\n\n{tables.runs_table(runs)}")  # last: what a terminal shows
    if tables.are_seeds(runs):
        print("\nStep: the gain over the row above, of the mean. Spread: the largest minus the smallest.")
    else:
        print_against_first(runs)


def print_against_first(runs: dict[str, Results]) -> None:
    """What each run changes against the first, variant by variant."""
    first, *others = runs
    same = [
        (f"{label}: {first} -> {run}", runs[first][label], runs[run][label])
        for run in others
        for label in runs[first]
        if label in runs[run] and runs[first][label] != runs[run][label]  # a model that both share differs in nothing
    ]
    table = tables.differences_table(same, TIERS if len(others) == 1 else ()) or "No model differs."
    print(f"\nAgainst {first}, on the same questions (paired bootstrap, 95%)\n\n{table}")
    print("\nThe interval is that of the questions; how far two seeds of one method differ comes on top of it.")
    print("With several seeds of each method (NAME-0, NAME-1, NAME-0-CHANGE, ...), a table over both is printed above.")


# -------------------------------------------------------------------------------------------------------- command line


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--run", "--run-dir", default="runs/main", help="run directory: reads what is there, writes report.html"
    )
    parser.add_argument("--transcripts", type=at_least(0), default=2, help="questions to print with their answers")
    instead = parser.add_argument_group("instead of the page").add_mutually_exclusive_group()
    instead.add_argument(
        "--table", nargs="*", type=Path, metavar="RUN", help="runs beside each other and the paper's; none: the paper's"
    )
    instead.add_argument(
        "--figures", nargs="+", type=Path, metavar=("FILE.svg", "RUN"), help="the paper's Figures 1 and 4, runs in them"
    )
    instead.add_argument(
        "--curves", nargs="+", type=Path, metavar=("FILE.svg", "RUN"), help="draw curves of runs or metrics files"
    )
    instead.add_argument("--reference", nargs=2, type=Path, metavar=("FILE", "RUN"), help="keep a run's metrics")
    return parser.parse_args()


def write_picture(flag: str, path: Path, draw: Callable[[list[Path]], str], runs: list[Path]) -> None:
    """Draw runs into a file. Raises UserError if its name does not end in .svg."""
    if path.suffix != ".svg":
        raise UserError(f"{path}: takes a file that ends in .svg, and runs")
    check_written(flag, path, b"<svg role=")
    with rc_context(charts.CHART_STYLE):
        write_text(path, draw(runs))
    print(f"picture: {path}")


def main() -> None:
    args = parse_args()
    if args.table is not None:
        print_runs(args.table) if args.table else print(tables.quoted_tables())
    elif args.curves:
        if len(args.curves) < 2:
            raise UserError(f"--curves {args.curves[0]}: takes a file that ends in .svg and at least one run")
        write_picture("--curves", args.curves[0], curves_picture, args.curves[1:])
    elif args.figures:
        write_picture("--figures", args.figures[0], paper_picture, args.figures[1:])
    elif args.reference:
        path, run = args.reference
        write_reference(path, RunDir(run))
        print(f"reference: {path}")
    else:
        run = RunDir(args.run)
        path = run.output("report.html")
        write_text(path, build_page(run))
        if any(run.path.glob("eval/*/*.jsonl")):
            print_run(run, args.transcripts)
        print(f"report: {path}")


if __name__ == "__main__":
    run_stage(main)

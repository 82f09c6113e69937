"""A run directory -> report.html: one page that shows what the run learned.

The page holds everything in itself: the charts are inline SVG and nothing is loaded from anywhere. It fits a phone, a
wide screen, a light and a dark theme, shows what the run has so far, and says what is missing.

Reads metrics.jsonl, heldout.jsonl (or synth.jsonl) and eval/; needs no model. Writes report.html; with --curves the
training curves of several runs (seeds) in one picture instead.

    python report.py --run runs/tiny
    python report.py --curves docs/curves.svg runs/tiny-0 runs/tiny-1 runs/tiny-2
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections import defaultdict
from html import escape
from io import StringIO
from itertools import cycle
from math import atan2, degrees
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from question import TIERS, Question, load_questions
from reward import parse
from tools.cli import UserError, run_stage, stage_parser
from tools.run import RunDir, read_jsonl, write_text

Row = dict[str, Any]  # of metrics.jsonl or of saved responses
Stages = dict[str, list[Row]]  # stage -> its metrics
Answers = dict[str, dict[str, Row]]  # model -> question id -> its saved response

# ----------------------------------------------------------------------------------------------------------- the looks

THEME = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2330; --muted: #606b7d; --line: #dde2ea;
  --blue: #2f6fde; --orange: #d9730d; --good: #1a7f4b; --bad: #c0392b;
  --easy: #a9c7f7; --moderate: #5b93ea; --difficult: #1f4fae; }
@media (prefers-color-scheme: dark) { :root {
  --page: #10141b; --card: #191f29; --ink: #e6eaf1; --muted: #9aa6b8; --line: #313a49;
  --blue: #6ea3ff; --orange: #f2a154; --good: #5fce97; --bad: #ff8a7a;
  --easy: #34527f; --moderate: #5b8fe0; --difficult: #b9d3ff; } }
svg text { font-family: system-ui, sans-serif !important; }
"""
STYLESHEET = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem clamp(.75rem, 3vw, 2rem) 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 0 0 .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
h3:first-child { margin-top: 0; }
p { margin: .3rem 0 .8rem; max-width: 48rem; }
section, .answers > div { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; }
section { padding: clamp(.9rem, 2.5vw, 1.6rem); margin-top: 1rem; }
.muted { color: var(--muted); }
.right { color: var(--good); font-weight: 600; }
.wrong { color: var(--bad); font-weight: 600; }
.grid { display: grid; gap: .8rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.grid > * { min-width: 0; }
.grid > svg { max-width: 32rem; }
svg { display: block; width: 100%; height: auto; }
table, ul { font-size: .9rem; }
table { border-collapse: collapse; overflow-wrap: normal; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem clamp(.4rem, 2vw, .8rem) .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  font-weight: 400; }
th { color: var(--muted); }
:is(th, td):nth-child(-n+2) { text-align: left; }
ul { padding-left: 1.1rem; }
ul li { margin-bottom: .5rem; }
ol { list-style: none; padding: 0; margin: .4rem 0 .8rem; }
.wide { grid-column: 1 / -1; }
.answers { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.answers > div { padding: .5rem .8rem; min-width: 0; }
pre { margin: .3rem 0 0; white-space: pre-wrap; max-height: 20rem; overflow-y: auto; color: var(--muted);
  font: .82rem/1.5 ui-monospace, monospace; }
"""

# matplotlib draws in stand-in colours; `svg` puts the stylesheet's variables in their place: charts follow the theme.
COLORS = {
    name: f"#0000{number:02x}"
    for number, name in enumerate(("ink", "muted", "line", "card", "blue", "orange", "good", *TIERS), 1)
}
CHART_STYLE = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "text.color": COLORS["ink"],
    "axes.edgecolor": COLORS["line"], "axes.labelcolor": COLORS["muted"], "grid.color": COLORS["line"],
    "xtick.color": COLORS["line"], "ytick.color": COLORS["line"], "xtick.labelcolor": COLORS["muted"],
    "ytick.labelcolor": COLORS["muted"], "axes.spines.top": False, "axes.spines.right": False, "font.size": 10,
    "axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 10,
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False,
}  # fmt: skip
PLATEAU_WINDOW = 40  # steps that grpo.py judges the end of stage 1 by, unless it is told another number
RUN_COLORS = ("blue", "orange", "good")  # of the lines of several runs
WIDTH = 320  # points, as wide as a phone: there letters have their nominal size


def new_axes(height: float) -> Axes:
    """Empty axes on a figure of `WIDTH` x `height` points."""
    return Figure(figsize=(WIDTH / 72, height / 72), layout="constrained").add_subplot()


def bar_axes(labels: list[str], extra: float) -> Axes:
    """Axes for a horizontal bar a label, from top to bottom, and `extra` points around them."""
    axes = new_axes(extra + 27 * len(labels))
    axes.set_yticks(range(len(labels)), [label[:20] for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params("y", length=0, labelcolor=COLORS["ink"])
    return axes


def svg(figure: Figure, description: str) -> str:
    """The figure as inline SVG in the page's colours."""
    file = StringIO()
    with warnings.catch_warnings():  # letters that matplotlib's font lacks are drawn by the reader's browser
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])  # each chart has the same ids
    for name, color in COLORS.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def section(title: str, lead: str, *parts: str) -> str:
    """`lead` is text; `parts` are HTML and stand beside each other where there is room."""
    body = f"<div class=grid>{''.join(parts)}</div>" if parts else ""
    return f"<section><h2>{escape(title)}</h2><p class=muted>{escape(lead)}</p>{body}</section>\n"


# ------------------------------------------------------------------------------------------------- what the run learned


def ablation(results: dict[str, dict[str, Row]]) -> str:
    """Table 4 as charts: one a benchmark (and tier), one bar a model. `results` is benchmark -> model -> metrics."""
    title = "What each step adds"
    if not results:
        return section(title, "Left out: no model has been evaluated yet (evaluate.py).")
    charts = {}
    for benchmark, models in results.items():
        charts[benchmark] = {
            label: [row[name] for name in ("accuracy", "n", "low", "high") if name in row]
            for label, row in models.items()
        }
        for tier in TIERS:
            groups = {label: row.get("groups", {}).get(tier) for label, row in models.items()}
            charts[f"{benchmark}, {tier}"] = {label: group for label, group in groups.items() if group}
    bars = [accuracy_bars(name, scores) for name, scores in charts.items() if scores]
    known = any(interval for scores in charts.values() for _, _, *interval in scores.values())
    lines = "the lines are 95% intervals" if known else "metrics.jsonl has no intervals, evaluate again for them"
    return section(title, f"Accuracy in %; {lines}.", *bars)


def accuracy_bars(name: str, scores: dict[str, list[float]]) -> str:
    """`scores` is model -> accuracy (a share), number of questions and, where it is known, the interval's bounds."""
    axes = bar_axes(list(scores), 46)
    for place, (accuracy, _, *interval) in enumerate(scores.values()):
        axes.barh(place, 100 * accuracy, 0.66, color=COLORS["blue"])
        axes.plot([100 * bound for bound in interval], [place] * len(interval), color=COLORS["ink"], linewidth=1.4)
        axes.text(100 * max(accuracy, *interval, 0) + 2, place, f"{100 * accuracy:.1f}", va="center")
    questions = max(number for _, number, *_ in scores.values())
    axes.set(title=f"{name[:30]} ({questions} questions)", xlim=(0, 112), xticks=range(0, 101, 25))
    return svg(axes.figure, f"{name}: " + ", ".join(f"{label} {100 * item[0]:.1f}%" for label, item in scores.items()))


def curves(stages: Stages, finished: bool) -> str:
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
    sparse = {"zero_advantage": ("questions without advantage", "blue")}
    return section(
        title, lead, step_chart(stages, earned, finished, "mean"), step_chart(stages, sparse, finished, "share")
    )


def plateau(rows: list[Row]) -> str:
    """Why stage 1 ended, and what that was judged by, over its last steps (grpo.Plateau)."""
    last = [row for row in rows if "zero_advantage" in row][-PLATEAU_WINDOW:]
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
    axes = new_axes(210)
    lines = {label: draw_steps(axes, stages, name, COLORS[color]) for name, (label, color) in shown.items()}
    end = last_step(stages)
    if finished and end:
        axes.axvspan(max(0, end - PLATEAU_WINDOW), end, color=COLORS["line"], alpha=0.4, linewidth=0)
        mark_end(axes, end, f"end of stage 1 \n(step {end}) ")
    axes.figure.legend(lines.values(), lines, loc="outside upper left", ncols=2, handlelength=1.2)
    axes.set(xlabel="step", ylabel=unit, ylim=(0, None))
    axes.grid(axis="y")
    return svg(axes.figure, f"{' and '.join(lines)} by step, both stages")


def draw_steps(axes: Axes, stages: Stages, name: str, color: str) -> Line2D:
    """A metric of stage 1 and behind it that of stage 2: each step thinly, their running mean as a line."""
    for stage, offset in (("rl1", 0), ("rl2", last_step(stages))):
        rows = [row for row in stages[stage] if name in row]
        steps, values = [offset + row["step"] for row in rows], [row[name] for row in rows]
        axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.7)
        (line,) = axes.plot(steps, running_mean(values), color=color, linewidth=2)
    return line


def last_step(stages: Stages) -> int:
    """Stage 1's last step, 0 without a stage 1."""
    return stages["rl1"][-1]["step"] if stages["rl1"] else 0


def mark_end(axes: Axes, end: int, note: str) -> None:
    """A dashed line where stage 1 ends, with a note at its left."""
    axes.axvline(end, color=COLORS["muted"], linestyle="--", linewidth=1)
    axes.text(end, 0.02, note, color=COLORS["muted"], ha="right", transform=axes.get_xaxis_transform())


def running_mean(values: list[float]) -> list[float]:
    """Each value's mean with those before it, over a tenth of all steps."""
    window = max(1, len(values) // 10)
    return [fmean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def mining(rows: list[Row]) -> str:
    """What stage 2 chose to train on, round by round and tier by tier."""
    title = "What mining chose"
    if not rows:
        return section(title, "Left out: there was no round of mining (grpo.py --stage 2 without --no-mining).")
    rounds = {row["round"]: {tier: row[tier] for tier in TIERS if tier in row} for row in rows}
    mixes = [{tier: counts["questions"] for tier, counts in rounds[min(rounds)].items()}]
    mixes += [{tier: counts["mined"] for tier, counts in tiers.items()} for tiers in rounds.values()]
    axes = bar_axes(["all questions", *(f"round {number}" for number in rounds)], 64)
    for place, mix in enumerate(mixes):
        start, total = 0.0, max(1, sum(mix.values()))
        for tier, count in mix.items():
            label = tier if place == 0 else None
            axes.barh(place, 100 * count / total, 0.66, start, color=COLORS[tier], label=label)
            start += 100 * count / total
    axes.set(xlim=(0, 100), xlabel="% of the questions")
    axes.figure.legend(loc="outside upper left", ncols=3, handlelength=1)
    table = "<tr><th>Round<th>Tier<th>Passed<th>Mix<th>Mined<th>Set aside"
    for number, tiers in rounds.items():
        for tier, counts in tiers.items():
            cells = (
                number,
                tier,
                f"{counts['passed']:.1%}",
                f"{counts['mix']:.0%}",
                counts["mined"],
                counts["set_aside"],
            )
            table += "<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in cells)
    lead = (
        "Each round the policy answers the whole dataset; what it fails is drawn and trained on. A tier's share of the "
        "mix is its failure rate times its weight. Set aside is what was never solved in many attempts."
    )
    return section(
        title, lead, svg(axes.figure, "Share of each tier in each round"), f"<div><table>{table}</table></div>"
    )


def lengths(stages: Stages, benchmark: str, answers: Answers, finished: bool) -> str:
    """Response lengths: by step of training, and of each model's saved responses."""
    charts = []
    if stages["rl1"] or stages["rl2"]:
        charts.append(step_chart(stages, {"length": ("mean of the step's samples", "blue")}, finished, "tokens"))
    if answers:
        axes = bar_axes(list(answers), 62)
        tokens = [[row["tokens"] for row in rows.values() if row.get("tokens")] for rows in answers.values()]
        line, median = {"color": COLORS["blue"], "linewidth": 1.4}, {"color": COLORS["ink"], "linewidth": 2}
        axes.boxplot(tokens, positions=range(len(tokens)), manage_ticks=False, orientation="horizontal", whis=(5, 95),
                     widths=0.5, showfliers=False, boxprops=line, whiskerprops=line, capprops=line,
                     medianprops=median)  # fmt: skip
        axes.set(title=benchmark[:50], xlabel="tokens", xlim=(0, None))
        charts.append(svg(axes.figure, "Response lengths by model"))
    title = "Response lengths"
    if not charts:
        return section(title, "Left out: no model has been trained with rewards or evaluated yet.")
    lead = (
        "The reward has no term for length. Boxes hold the middle half of the responses, whiskers reach from 5 to 95%."
    )
    return section(title, lead, *charts)


# --------------------------------------------------------------------------------------------- a question and its graph


def subgraph(run: RunDir) -> str:
    """The path through the graph behind one question, drawn beside the question."""
    title = "From the graph to a question"
    question = hardest_question(run)
    if question is None:
        return section(title, "Left out: the run has no question with evidence from a graph yet (synth.py).")
    facts = "".join(
        f"<li>{escape(subject)} <b>{escape(relation.replace('_', ' '))}</b> {escape(other)}<br>"
        f"<span class=muted>“{escape(sentence)}” (revision {escape(str(revision))})</span>"
        for subject, relation, other, revision, sentence in question.evidence
    )
    lead = "Dashed boxes are masked: the question does not name them. The filled one is the answer."
    text = f"<div><h3>{escape(question.question)}</h3>{option_list(question)}<ul>{facts}</ul></div>"
    return section(title, lead, draw_subgraph(question), text)


def hardest_question(run: RunDir) -> Question | None:
    """The first question with the most masked entities and facts, a held-out one if there is any."""
    for path in (run.output("heldout.jsonl"), run.output("synth.jsonl")):
        drawn = [question for question in load_questions(path) if question.evidence] if path.exists() else []
        if drawn:
            return max(drawn, key=lambda question: (len(split_entities(question)[1]), len(question.evidence)))
    return None


def split_entities(question: Question) -> tuple[list[str], list[str]]:
    """The path's entities in order: those that the question names, and the masked ones.

    A question writes a title as a sentence does: "Syncope (medicine)" is "syncope" there.
    """
    path = dict.fromkeys(name for subject, _, other, *_ in question.evidence for name in (subject, other))
    text, written = question.question.casefold(), {name: name.casefold().partition(" (")[0] for name in path}
    named = [name for name in path if re.search(rf"(?<!\w){re.escape(written[name])}(?!\w)", text)]
    return named, [name for name in path if name not in named]


def draw_subgraph(question: Question) -> str:
    """Named entities on the left, masked ones on the right, the facts as arrows between them."""
    columns = split_entities(question)
    height = 64 * max(map(len, columns))
    axes = new_axes(height)
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    boxes = {}
    for names, x, style in zip(columns, (70, 245), ("-", "--")):
        for place, name in enumerate(names):
            text, fill = ("card", "blue") if name == question.options[question.answer] else ("ink", "card")
            box = {"boxstyle": "round,pad=0.5", "facecolor": COLORS[fill], "edgecolor": COLORS["blue"],
                   "linewidth": 1.3, "linestyle": style}  # fmt: skip
            where = (x, height * (place + 0.5) / len(names))
            boxes[name] = axes.text(*where, textwrap.fill(name, 17), color=COLORS[text], ha="center", va="center",
                                    bbox=box)  # fmt: skip
    label_box = {"facecolor": COLORS["card"], "edgecolor": "none", "pad": 1.5}
    for subject, relation, other, *_ in question.evidence:
        start, end = boxes[subject], boxes[other]
        arrow = {"arrowstyle": "-|>", "color": COLORS["muted"], "shrinkA": 2, "shrinkB": 2,
                 "patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}  # fmt: skip
        axes.annotate("", end.get_position(), start.get_position(), arrowprops=arrow, zorder=2)  # behind all text
        (left, top), (right, bottom) = sorted((start.get_position(), end.get_position()))
        angle = 0 if left == right else degrees(atan2(bottom - top, right - left))  # along the arrow, clear of the next
        axes.text((left + right) / 2, (top + bottom) / 2, relation.replace("_", " "), color=COLORS["muted"], fontsize=9,
                  ha="center", va="center", rotation=angle, rotation_mode="anchor", transform_rotates_text=True,
                  bbox=label_box)  # fmt: skip
    return svg(axes.figure, "; ".join(" ".join(map(str, fact[:3])) for fact in question.evidence))


def option_list(question: Question) -> str:
    lines = [
        f"<li{' class=right' if letter == question.answer else ''}>{letter}. {escape(text)}"
        for letter, text in question.options.items()
    ]
    return f"<ol>{''.join(lines)}</ol>"


# ---------------------------------------------------------------------------------------------------------- transcripts


def load_answers(run: RunDir, ladder: list[str]) -> tuple[str, Answers]:
    """A benchmark's name and its saved responses: the held-out questions', else the first there are.

    `ladder` orders the models by their files' names. Of several samples the first counts.
    """
    folders = [path for path in run.output("eval").glob("*") if path.is_dir()]
    for folder in sorted(folders, key=lambda path: (path.name != "heldout", path.name)):
        files = sorted(folder.glob("*.jsonl"))
        files.sort(key=lambda path: ladder.index(path.stem) if path.stem in ladder else len(ladder))
        answers = {
            path.stem: {row["id"]: row for row in read_jsonl(path) if "response" in row and not row.get("sample")}
            for path in files
        }
        if any(answers.values()):
            return folder.name, {label: rows for label, rows in answers.items() if rows}
    return "", {}


def transcripts(benchmark: str, answers: Answers, questions: dict[str, Question]) -> str:
    """For each model a question that it and all after it got right and none before it; last one that all got wrong."""
    title = "The same question before and after each stage"
    if not answers:
        return section(title, "Left out: no responses have been saved yet (evaluate.py).")
    models = list(answers)
    right = {  # question -> was it right, model by model
        id: [is_right(rows[id]) for rows in answers.values()]
        for id in answers[models[0]]
        if all(id in rows for rows in answers.values())
    }
    text = ""
    for step in range(1, len(models) + 1):
        heading = "No model is right"
        if step < len(models):
            changes = [outcome[step] - outcome[step - 1] for outcome in right.values()]
            heading = f"{models[step]}: {changes.count(1)} newly right, {changes.count(-1)} newly wrong"
        for id in [id for id, outcome in right.items() if outcome == [n >= step for n in range(len(models))]][:1]:
            text += f"<h3>{escape(heading)}</h3>{transcript(id, answers, questions.get(id))}"
    lead = (
        f"From {benchmark}: for each model the first question that no model before it and every model from it on gets "
        "right; then the first that none does. Chosen by this rule, so not typical."
    )
    return section(title, lead, f"<div class=wide>{text}</div>")


def transcript(id: str, answers: Answers, question: Question | None) -> str:
    """One question and every model's response; the id stands for a question that the run directory does not hold."""
    asked = f"<p>{escape(question.question)}</p>{option_list(question)}" if question else f"<p>{escape(id)}</p>"
    columns = ""
    for label, rows in answers.items():
        verdict = "right" if is_right(rows[id]) else "wrong"
        response = f"<pre tabindex=0>{escape(rows[id]['response'].strip())}</pre>"
        columns += f"<div><b>{escape(label)}</b> <span class={verdict}>{verdict}</span>{response}</div>"
    return f"{asked}<div class=answers>{columns}</div>"


def is_right(row: Row) -> bool:
    return parse(row["response"]).answer == row["truth"]


# ------------------------------------------------------------------------------------------------------------- the page


def load_metrics(run: RunDir) -> Stages:
    """The lines of metrics.jsonl by stage. Raises UserError if the file is broken."""
    stages: Stages = defaultdict(list)
    path = run.output("metrics.jsonl")
    for row in read_jsonl(path) if path.exists() else ():
        stages[row["stage"]].append(row)
    return stages


def build_report(run: RunDir) -> str:
    """The whole page as HTML. Raises UserError if a file of the run is broken."""
    stages = load_metrics(run)
    results: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in stages["evaluate"]:  # of a model that was evaluated again, the last row counts
        results[row["benchmark"]][row["model"]] = row
    benchmark, answers = load_answers(run, [row["model"].replace("/", "-") for row in stages["evaluate"]])
    path = run.output("heldout.jsonl")
    questions = {question.id: question for question in load_questions(path)} if path.exists() else {}
    finished = run.output("rl1").exists()
    with rc_context(CHART_STYLE):
        sections = [
            ablation(results),
            curves(stages, finished),
            mining(stages["mining"]),
            subgraph(run),
            lengths(stages, benchmark, answers, finished),
            transcripts(benchmark, answers, questions),
        ]
    name = escape(run.path.resolve().name)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{name}: Fleming-R1, from scratch</title>
<style>{THEME}{STYLESHEET}</style>
<main>
<h1>{name}</h1>
<p class=muted>Medical reasoning trained with verifiable rewards. Research only, no medical advice.</p>
{"".join(sections)}</main>
</html>
"""


def curves_of_runs(runs: list[RunDir]) -> str:
    """The training curves of several runs, a line a run, as an SVG file of its own that follows the reader's theme."""
    shown = {"accuracy": "accuracy", "zero_advantage": "share without advantage", "length": "tokens a response"}
    figure = Figure(figsize=(3 * 270 / 72, 220 / 72), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), shown.items()):
        stages = [load_metrics(run) for run in runs]
        lines = [draw_steps(axes, item, name, COLORS[color]) for item, color in zip(stages, cycle(RUN_COLORS))]
        mark_end(axes, last_step(stages[0]), "stage 1 ")
        axes.set(title=title, xlabel="step", ylim=(0, None))
        axes.grid(axis="y")
    names = [run.path.resolve().name for run in runs]
    figure.legend(lines, names, loc="outside upper center", ncols=len(names), handlelength=1.2)
    drawing = svg(figure, f"Training of {', '.join(names)}: {', '.join(shown.values())} by step, both stages")
    return drawing.replace(">", f"><style>{THEME}svg {{ background: var(--card); }}</style>", 1)


def main() -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--run", default="runs/main", help="run directory: reads what is there, writes report.html")
    parser.add_argument("--curves", nargs="+", metavar=("FILE.svg", "RUN"), help="draw the runs' curves into a file")
    args = parser.parse_args()
    if args.curves:
        path, *folders = map(Path, args.curves)
        if path.suffix != ".svg" or not folders:
            raise UserError(f"--curves {' '.join(args.curves)}: takes a file that ends in .svg and at least one run")
        with rc_context(CHART_STYLE):
            text = curves_of_runs([RunDir(folder) for folder in folders])
    else:
        run = RunDir(args.run)
        path, text = run.output("report.html"), build_report(run)
    write_text(path, text)
    print(f"report: {path}")


if __name__ == "__main__":
    run_stage(main)

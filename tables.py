"""Every table of results, as Markdown that also lines up in a terminal (section 4): one run, several, the paper's.

A table takes what `results.py` has scored and returns text: it needs no model. The paper's own rows stand in
data/paper_tables.csv as printed.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean

from clean.formats import BENCHMARKS, DATASETS
from fidelity import BY_PATH, OUTCOMES, PathJudge
from question import TIERS, load_questions
from results import OWN, Results, Score, Scores, macro_average, mean_or_none, micro_average, score_file
from tools.cli import UserError
from tools.run import RunDir, is_there
from tools.statistics import hierarchical_bootstrap, paired_bootstrap, uneven

PAPER = Path(__file__).parent / "data" / "paper_tables.csv"  # Tables 3 and 4, and what only section 4.4 has
SETTINGS = PAPER.with_name("paper_tables_1_2.md")  # Tables 1 and 2
PATHS = "By which way answers were reached, in % with 95% intervals"
ORDERS = "With the options in other orders: accuracy and how often two orders get the same answer, in %"
GAIN = "ΔAvg.: accuracy, averaged over the benchmarks, above the first row's (above its own Base in the paper)."

MEASURES: dict[str, Callable[[Scores], dict[str, float]]] = {  # suffix of a benchmark's name -> shares by question
    "": lambda scores: scores.correct,
    ", by the path": lambda scores: scores.by_path,
}

Comparison = tuple[str, dict[str, Scores], dict[str, Scores]]  # a name, and two models' scores by benchmark


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


# ------------------------------------------------------------------------------------------------- the models of a run


def ablation_table(results: Results) -> str:
    """Table 4: one row per model; accuracy in % with its 95% interval by benchmark (and tier), averages, and the gain
    over the first row. Of several benchmarks "Avg." counts each the same, as the paper does, "Micro" every question.
    "Gap" is the accuracy on the run's synthetic held-out questions above that on its public ones, by which a mixture is
    tuned; "By the path" the share of all questions that is right and whose reasoning goes by the question's path."""
    first = next(iter(results.values()))
    columns = accuracy_columns(results)
    judged = [name for name in first if all(name in scores and scores[name].fidelity for scores in results.values())]
    averages = ["Avg.", "Micro"] if len(first) > 1 else []
    gaps = ["Gap"] if all(set(OWN) <= scores.keys() for scores in results.values()) else []

    def row_of(model: str, scores: dict[str, Scores]) -> list[str]:
        cells = accuracy_cells(scores, columns) + [str(scores[name].fidelity["all"][BY_PATH]) for name in judged]
        means = [percent(macro_average(scores)), percent(micro_average(scores))][: len(averages)]
        apart = [points(scores[OWN[0]], scores[OWN[1]]) for _ in gaps]
        gain = f"{100 * (macro_average(scores) - macro_average(first)):+.1f}"
        kept = mean_or_none([item.well_formed for item in scores.values()])
        return [model, *cells, *means, *apart, gain, percent(kept)]

    rows = [row_of(*result) for result in results.items()]
    titles = [tier.capitalize() if tier else name for name, tier in columns] + ["By the path"] * len(judged)
    return markdown_table(["Variant", *titles, *averages, *gaps, "ΔAvg.", "Format"], rows) + f"\n\n{GAIN}"


def accuracy_columns(results: Results) -> list[tuple[str, str | None]]:
    """(benchmark, None), and (benchmark, tier) for the tiers of which every model answered questions."""
    first = next(iter(results.values()))
    tiers = {name: [tier for tier in TIERS if in_every_model(results, name, tier)] for name in first}
    return [(name, tier) for name in first for tier in [None, *tiers[name]]]


def accuracy_cells(scores: dict[str, Scores], columns: list[tuple[str, str | None]]) -> list[str]:
    """A model's accuracies with their intervals, in the columns that `accuracy_columns` gives."""
    return [str(scores[name].subsets[tier] if tier else scores[name].overall) for name, tier in columns]


def points(scores: Scores, others: Scores) -> str:
    """How far one accuracy lies above another, in percentage points."""
    return f"{100 * (scores.overall.accuracy - others.overall.accuracy):+.1f}"


def in_every_model(results: Results, benchmark: str, subset: str) -> bool:
    """Whether every model answered questions of this tier or kind."""
    return all(benchmark in scores and subset in scores[benchmark].subsets for scores in results.values())


def kinds_table(results: Results) -> str:
    """Accuracy by kind of question (subject, body system, path): one row per kind, one column per model."""
    models = list(results)
    rows = []
    for name in results[models[0]]:
        for kind, first in results[models[0]][name].subsets.items():
            if kind not in TIERS and in_every_model(results, name, kind):
                cells = [str(results[model][name].subsets[kind]) for model in models]
                rows.append([f"{name}: {kind}" if len(results[models[0]]) > 1 else kind, str(first.n), *cells])
    return markdown_table(["Kind of question", "n", *models], rows) if rows else ""


def paths_table(results: Results, all_groups: bool = True) -> str:
    """By which way answers were reached (fidelity.py): shares in % with their 95% intervals, of all questions and, with
    `all_groups`, of each tier and each length of the path. Then a line on what is left out."""
    rows = [
        [benchmark, model, group, str(ways[OUTCOMES[0]].n), *map(str, ways.values())]
        for model, scores in results.items()
        for benchmark, item in scores.items()
        for group, ways in item.fidelity.items()
        if all_groups or group == "all"
    ]
    header = ["Benchmark", "Variant", "Questions", "n", *map(str.capitalize, OUTCOMES)]
    return markdown_table(header, rows) + "\n\n" + left_out_line(results) if rows else ""


def left_out_line(results: Results) -> str:
    """Of how many questions path fidelity says nothing, and why, by benchmark; of several models the most."""
    lines = []
    for benchmark in next(iter(results.values())):
        items = [scores[benchmark] for scores in results.values() if benchmark in scores]
        most = max(items, key=lambda item: item.left_out.total())
        reasons = "".join(f", {count} {reason}" for reason, count in most.left_out.items())
        lines.append(f"{benchmark}: {most.left_out.total()} of {len(most.answered)} questions left out{reasons}")
    return "; ".join(lines) + "."


def orders_table(results: Results) -> str:
    """`--shuffle-options`: does an answer stay the same thing when its letter changes, and is a letter preferred?

    A model that looks at what the options say gives every letter equally often, for their orders are random; `p` is how
    likely letters as uneven as these are then.
    """
    rows = []
    for model, scores in results.items():
        for benchmark, item in scores.items():
            shown = [pair for answered in item.answered.values() for pair in answered.shown]
            if shown:
                letters = Counter(letter for _, letter in shown)
                shares = " ".join(f"{letter} {100 * letters[letter] / len(shown):.0f}" for letter in sorted(letters))
                same = Score.of(answered.same for answered in item.answered.values() if len(answered.answers) > 1)
                cells = [str(item.overall.n), str(item.samples), str(item.overall), str(same)]
                rows.append([benchmark, model, *cells, shares, f"{uneven(shown):.4f}"])
    header = ["Benchmark", "Variant", "n", "Orders", "Accuracy", "Same answer", "Letters", "p"]
    return markdown_table(header, rows) if rows else ""


def details_table(results: Results) -> str:
    """How each number was made, and what else was measured: one row per benchmark and model."""
    several = any(scores.samples > 1 for by_benchmark in results.values() for scores in by_benchmark.values())
    header = [
        "Benchmark",
        "Variant",
        "n",
        *(["k", "Pass@k", "Majority"] if several else []),
        "Format",
        "Lenient",
        "Cut",
        "Tokens",
    ]
    rows = []
    for model, by_benchmark in results.items():
        for name, scores in by_benchmark.items():
            settings, n = scores.settings, str(scores.overall.n)
            if settings and settings["questions"] != scores.overall.n:
                n += f" of {settings['questions']}"
            k = [str(scores.samples), percent(scores.pass_at_k), percent(scores.majority)] if several else []
            length = "-" if scores.length is None else f"{scores.length:.0f}"
            made = [str(settings.get(key, "?")) for key in ("score", "prompt", "seed", "prompt_hash", "model_hash")]
            shares = map(percent, (scores.well_formed, scores.lenient, scores.truncated))
            rows.append([name, model, n, *k, *shares, length, *made])
    return markdown_table([*header, "Scored by", "Prompt", "Seed", "Prompt hash", "Model hash"], rows)


def ladder(results: Results, prefix: str = "") -> list[Comparison]:
    """Each model against the one before, and the last against the first."""
    models = list(results)
    pairs = list(zip(models, models[1:])) + ([(models[0], models[-1])] if len(models) > 2 else [])
    return [(f"{prefix}{first} -> {second}", results[first], results[second]) for first, second in pairs]


def differences_table(comparisons: Iterable[Comparison], tiers: Iterable[str] = ()) -> str:
    """Differences in percentage points on the same questions, with their 95% intervals; also on those of each of some
    `tiers`."""
    rows = []
    for name, first, second in comparisons:
        for benchmark in (shared for shared in first if shared in second):
            answered = first[benchmark].answered
            for tier in [None, *(tier for tier in tiers if tier in first[benchmark].subsets)]:
                part = {id: item.share for id, item in answered.items() if tier in (None, item.tier)}
                difference = paired_bootstrap(part, second[benchmark].correct)
                title = f"{benchmark}, {tier}" if tier else benchmark
                sure = "yes" if difference.excludes_zero else "no"
                rows.append([title, name, str(difference.n), str(difference), sure])
    header = ["Benchmark", "Difference", "n", "Points", "Interval without 0"]
    return markdown_table(header, rows) if rows else ""


# --------------------------------------------------------------------------------- several runs, and the paper's tables


def load_runs(paths: list[Path]) -> dict[str, Results]:
    """Every saved evaluation of some runs, by `run_names`; the variants in the order of `ladder_place`."""
    return {name: load_results(RunDir(path)) for path, name in zip(paths, run_names(paths))}


def load_results(run: RunDir) -> Results:
    """Every saved evaluation of a run. Raises UserError if there is none."""
    results: Results = {}
    heldout = run.output("heldout.jsonl")
    paths = PathJudge.of_run(run, load_questions(heldout)) if is_there(heldout) else None
    for file in sorted(run.path.glob("eval/*/*.jsonl"), key=lambda file: ladder_place(file.stem)):
        judge = paths if file.parent.name in OWN else None
        results.setdefault(file.stem, {})[file.parent.name] = score_file(file, judge)
    if not results:
        raise UserError(
            f"{run.path} holds no evaluation yet; finish the run by the command that began it, such as RUN={run.path} "
            f"bash run.sh, or evaluate what it has: python evaluate.py --run {run.path}"
        )
    return results


def ladder_place(label: str) -> tuple[int, str]:
    """A sort key that sets variants in the order of the paper's Table 4, then those that it lacks, by name."""
    rungs = [row["model"].lower() for row in paper_rows() if row["table"] == "Table 4"]
    return rungs.index(label.lower()) if label.lower() in rungs else len(rungs), label


def run_names(paths: list[Path]) -> list[str]:
    """The runs' names, their paths where names are equal; of the first run's forks what they change, in words: beside
    `tiny`, `tiny-rl1--with-std` is "rl1 --with-std"."""
    names = [path.resolve().name for path in paths]
    unique = [name if names.count(name) == 1 else str(path) for path, name in zip(paths, names)]
    return [fork_title(name, names[0]) for name in unique]


def fork_title(name: str, baseline: str) -> str:
    """A run's name without its baseline's, and with its flags as they were typed."""
    change = re.sub(rf"^{re.escape(baseline)}-(?=\D)", "", name)
    return re.sub("-?--", " --", change)


def are_seeds(runs: Iterable[str]) -> bool:
    """Whether run names differ only in a trailing seed ("tiny-0", "tiny-1"), not in a flag's value."""
    return len({name if "--" in name else re.sub(r"-\d+$", "", name) for name in runs}) == 1


def benchmarks_of(runs: dict[str, Results]) -> list[str]:
    """The benchmarks of all runs together."""
    return sorted({name for results in runs.values() for scores in results.values() for name in scores})


def runs_table(runs: dict[str, Results]) -> str:
    """The accuracy of every variant in each run, and the share that is right by the path. Of seeds of one method also
    mean, spread and step, for the variants that all have; of one run the step."""
    labels = sorted({label for results in runs.values() for label in results}, key=ladder_place)
    titles = ["Mean", "Spread", "Step"][0 if len(runs) > 1 else 2 :] if are_seeds(runs) else []
    rows = []
    for benchmark, (measure, value_of) in product(benchmarks_of(runs), MEASURES.items()):
        before = None
        for label in labels:
            means = means_of([results.get(label, {}).get(benchmark) for results in runs.values()], value_of)
            if any(mean is not None for mean in means):
                summary = ["", "", ""] if None in means else summary_of([100 * mean for mean in means], before)
                before = before if None in means else 100 * fmean(means)
                rows.append([benchmark + measure, label, *map(percent, means), *summary[3 - len(titles) :]])
    return markdown_table(["Benchmark", "Variant", *runs, *titles], rows)


def means_of(scores: list[Scores | None], value_of: Callable[[Scores], dict[str, float]]) -> list[float | None]:
    """The mean over its questions of one measure in each run, None where a run lacks it."""
    values = [value_of(item) if item else None for item in scores]
    return [fmean(of_run.values()) if of_run else None for of_run in values]


def summary_of(values: list[float], before: float | None) -> list[str]:
    """Mean, spread and the step from the mean of the variant before, of one variant's accuracies in several runs."""
    mean = fmean(values)
    return [f"{mean:.1f}", f"{max(values) - min(values):.1f}", "" if before is None else f"{mean - before:+.1f}"]


def methods_of(paths: list[Path]) -> dict[str, dict[str, str]]:
    """Method -> seed -> run name, of those with several seeds. A run directory is called NAME-SEED or, as a fork of
    such a one, NAME-SEED-CHANGE; a number after a flag is no seed."""
    methods: dict[str, dict[str, str]] = defaultdict(dict)
    for path, run in zip(paths, run_names(paths)):
        found = re.fullmatch(r"(.+?)-(\d+)(?:-(\D.*))?", path.resolve().name)
        if found and "--" not in found[1]:
            methods[re.sub("-?--", " --", found[3]) if found[3] else found[1]][found[2]] = run
    return {method: seeds for method, seeds in methods.items() if len(seeds) > 1}


def seeds_table(runs: dict[str, Results], methods: dict[str, dict[str, str]]) -> str:
    """Means and differences over seeds and questions, in points, with the interval of `hierarchical_bootstrap`: of each
    method's variants, from each variant to the next, and of each method against the first on the seeds of both."""
    rows = []
    for benchmark, (measure, value_of) in product(benchmarks_of(runs), MEASURES.items()):
        shares = {
            (method, label): {seed: value_of(runs[run][label][benchmark]) for seed, run in seeds.items()}
            for method, seeds in methods.items()
            for label in sorted(runs[next(iter(seeds.values()))], key=ladder_place)
            if all(benchmark in runs[run].get(label, {}) for run in seeds.values())
        }
        for name, values in over_seeds(shares).items():
            over = hierarchical_bootstrap(values)
            if over.n:
                sure = "yes" if over.excludes_zero else "no"
                rows.append([benchmark + measure, name, str(len(values)), str(over.n), str(over), sure])
    header = ["Benchmark", "Mean or difference", "Seeds", "n", "Points", "Interval without 0"]
    return markdown_table(header, rows) if rows else ""


BySeed = dict[str, dict[str, float]]  # seed -> question id -> share


def over_seeds(shares: dict[tuple[str, str], BySeed]) -> dict[str, list[dict[str, float]]]:
    """What is compared over seeds, by its name; `shares` are of (method, variant)."""
    named = {f"{method}: {label}": list(seeds.values()) for (method, label), seeds in shares.items()}
    for (method, label), (following, after) in pairwise(shares):
        if method == following:
            named[f"{method}: {label} -> {after}"] = minus(shares[method, after], shares[method, label])
    first = next(iter(shares), ("", ""))[0]
    for method, label in shares:
        if method != first and (first, label) in shares:
            named[f"{label}: {first} -> {method}"] = minus(shares[method, label], shares[first, label])
    return named


def minus(after: BySeed, before: BySeed) -> list[dict[str, float]]:
    """Seed by seed, how much higher `after` is on the seeds and questions that both have."""
    both = [(after[seed], before[seed]) for seed in after if seed in before]
    return [{id: new[id] - old[id] for id in new if id in old} for new, old in both]


def paper_rows() -> list[dict[str, str]]:
    """The rows of Tables 3 and 4 as printed: table, size, model, the nine accuracies, avg, gain; and of section 4.4
    two models of which it has one number."""
    with open(PAPER, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def paper_table(runs: dict[str, Results]) -> str:
    """The runs, if any, beside the rows of Tables 3 and 4; the column "Source" tells what was measured here from what
    the paper states. "Avg." is the mean over a row's own benchmarks: compare it between rows that have the same ones.
    """
    titles = {dataset.name: dataset.title for dataset in DATASETS if dataset.name in BENCHMARKS}
    columns = [*titles, *(name for name in benchmarks_of(runs) if name not in titles)]
    rows = [row for run, results in runs.items() for row in measured_rows(run, results, columns)]
    for row in paper_rows():
        cells, gain = [row.get(name) or "-" for name in (*columns, "avg")], f"+{row['gain']}" if row["gain"] else "-"
        rows.append([f"{row['size']}: {row['model']}", f"quoted, {row['table']}", *cells, gain])
    return markdown_table(["Model", "Source", *(titles.get(name, name) for name in columns), "Avg.", "ΔAvg."], rows)


def quoted_tables() -> str:
    """Tables 1 to 4 as the paper prints them."""
    return f"{SETTINGS.read_text(encoding='utf-8')}\nTables 3 and 4: accuracy in %\n\n{paper_table({})}"


def paper_bars(measured: dict[str, dict[str, float]]) -> dict[str, list[tuple[str, float, bool]]]:
    """The bars of Figure 4 (MedXpertQA) and Figure 1 (the average of the nine), the best first: title -> (model,
    accuracy in %, whether it is the paper's). `measured`: model -> benchmark -> accuracy in %."""
    averages = {
        model: fmean(nine[name] for name in BENCHMARKS) for model, nine in measured.items() if {*BENCHMARKS} <= {*nine}
    }
    experts = {model: scores["medxpertqa"] for model, scores in measured.items() if "medxpertqa" in scores}
    bars = {}
    for title, column, own in (("MedXpertQA", "medxpertqa", experts), ("Average of the nine", "avg", averages)):
        quoted = [
            (row["model"], float(row[column]), True)
            for row in paper_rows()
            if row["table"] != "Table 4" and row[column]
        ]
        mine = [(model, accuracy, False) for model, accuracy in own.items()]
        bars[title] = sorted(quoted + mine, key=lambda bar: -bar[1])
    return bars


def measured_rows(run: str, results: Results, columns: list[str]) -> list[list[str]]:
    """A run's own rows for `paper_table`."""
    base, rows = next(iter(results.values())), []
    for label, scores in results.items():
        cells = [percent(scores[name].overall.accuracy) if name in scores else "-" for name in columns]
        mean = percent(macro_average(scores)) if len(scores) > 1 else "-"
        gain = f"{100 * (macro_average(scores) - macro_average(base)):+.1f}" if set(scores) == set(base) else "-"
        prompts = {item.settings.get("prompt", "contract") for item in scores.values()} - {"contract"}
        source = ", prompt ".join(["measured here", *sorted(prompts)])
        rows.append([f"{run}: {label}", source, *cells, mean, gain])
    return rows

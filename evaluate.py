"""Benchmarks -> accuracy with intervals, in the form of the paper's tables (section 4).

A model answers every question once (greedy by default) under the response contract it was trained on, and
`reward.parse`, the training reward's own extractor, reads the answer: the last explicit <answer>, no fuzzy fallback.
A response without one, an empty or a cut one, is wrong and stays in the denominator.

    python evaluate.py --run runs/x --model "Base=data/base" "+CoT cold start=sft" "+RL stage 1=rl1" "+RL stage 2=rl2"
    python evaluate.py --benchmark medqa pubmedqa --model "Fleming-R1-7B=runs/main/rl2"        # from the hub
    python evaluate.py --benchmark medbullets=medbullets_op5.csv --model ours=rl2              # a local file, native
    format
    python evaluate.py --table runs/tiny-0 runs/tiny-1 runs/tiny-2                             # the mean of several
    runs
    torchrun --nproc_per_node 8 evaluate.py ...                                                # all processes share
                                                                                               the items

Known benchmarks: `heldout` (the run's own questions), the nine of Table 3 (see formats.py), or a file of question
records. Reads the models and questions. Writes eval/BENCHMARK/MODEL.jsonl, every response with what it was scored
from; a run that was interrupted goes on behind the last complete line. Prints Table 4: one row a model, one column a
benchmark or a tier, the 95% Wilson interval; then the same by kind of question.

Deviations from the paper: it does not state its sampling parameters; the default here is greedy.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import formats
import fsdp_utils
from fsdp_utils import gather_objects, rank, world_size
from policy import load_policy, stop_tokens
from records import (
    TIERS,
    Metrics,
    Question,
    RunDir,
    UserError,
    append_jsonl,
    load_questions,
    read_jsonl,
    run_stage,
    stage_parser,
)
from reward import parse, prompt_messages, prompt_tokens
from rollout import Sampler

CHUNK = 512  # questions between two writes to disk


# ------------------------------------------------------------------------------------------------ questions and answers


def load_benchmark(name: str, run: RunDir) -> tuple[str, list[Question]]:
    """A benchmark's name and its questions; see the module docstring for what `name` may be."""
    label, _, file = name.partition("=")
    if label == "heldout":
        return label, load_questions(Path(file) if file else run.input("heldout.jsonl"), run.made_by("heldout.jsonl"))
    if label in formats.BENCHMARKS:
        questions, rejected = formats.read_native(label, file) if file else formats.read_hub(label)
        if rejected:
            print(f"{label}: {len(rejected)} items are no valid questions, e.g. {rejected[0][0]}: {rejected[0][1]}")
        if not questions:
            raise UserError(
                f"{label}: {file or 'the hub'} holds no valid question; is it the file of another benchmark?"
            )
        return label, questions
    path = Path(file or label)
    if not path.is_file():
        raise UserError(
            f"unknown benchmark {label!r}; known: heldout, {', '.join(formats.BENCHMARKS)}, or a file of records"
        )
    return path.stem, load_questions(path)


def answer_questions(model_path: str | Path, questions: list[Question], out: Path, args: argparse.Namespace) -> None:
    """Append the model's responses to `out`, for the questions it does not hold yet. All processes take a share."""
    done = {row["id"] for row in read_jsonl(out)} if out.exists() else set()
    todo = [question for question in questions if question.id not in done]
    if not todo:
        return
    device = fsdp_utils.setup()
    model, tokenizer = load_policy(model_path, fsdp_utils.inference_dtype(device))
    sampler, stops = Sampler(model.to(device), args.cache_gb * 1e9), stop_tokens(model, tokenizer)
    prompts = {question.id: prompt_tokens(tokenizer, prompt_messages(question)) for question in todo}
    longest = max(prompts, key=lambda name: len(prompts[name]))
    context = model.config.max_position_embeddings
    if len(prompts[longest]) + args.max_new_tokens > context:
        raise UserError(
            f"question {longest} has {len(prompts[longest])} prompt tokens; with "
            f"--max-new-tokens {args.max_new_tokens} "
            f"that exceeds the context of {model_path}, {context}"
        )
    progress = tqdm(total=len(todo), desc=f"{out.parent.name}: {out.stem}", unit="question", disable=rank() > 0)
    for start in range(0, len(todo), CHUNK):
        mine = todo[start : start + CHUNK][rank() :: world_size()]
        samples = sampler.generate(
            [prompts[question.id] for question in mine],
            max_new_tokens=args.max_new_tokens,
            stop_ids=stops,
            temperature=args.temperature,
            top_p=args.top_p,
            seeds=[random.Random(f"{args.seed}/{question.id}").getrandbits(32) for question in mine],
        ) if mine else []  # fmt: skip
        rows = []
        for question, (sample,) in zip(mine, samples):
            tokens = sample.tokens if sample.stop_id is None else sample.tokens[:-1]
            rows.append(
                {
                    "id": question.id,
                    "tier": question.tier,
                    "kind": question.kind,
                    "truth": question.answer,
                    "response": tokenizer.decode(tokens),
                    "tokens": len(sample.tokens),
                    "truncated": sample.stop_id is None,
                }
            )
        everyone = [row for share in gather_objects(rows) for row in share]
        if rank() == 0:
            append_jsonl(out, everyone)
            progress.update(len(everyone))
    progress.close()
    fsdp_utils.barrier()


# --------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy (a share) of `n` questions."""

    accuracy: float
    n: int

    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        z, n, p = 1.96, self.n, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.accuracy:.1f} ({100 * low:.1f}-{100 * high:.1f})"


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's results on one benchmark: all questions together, and by tier and kind."""

    overall: Score
    groups: dict[str, Score]
    well_formed: float
    truncated: float
    length: float


def score_file(path: Path) -> Scores:
    """Score saved responses: needs the file alone, no model."""
    rows = list(read_jsonl(path))
    if not rows:
        raise UserError(f"{path} holds no response; delete it and evaluate again")
    correct: dict[str, list[bool]] = defaultdict(list)
    formed = []
    for row in rows:
        response = parse(row["response"])
        formed.append(response.well_formed)
        for group in ("all", row["tier"], row["kind"]):
            if group is not None:
                correct[group].append(response.answer == row["truth"])
    scores = {group: Score(sum(hits) / len(hits), len(hits)) for group, hits in correct.items()}
    n = len(rows)
    cut, tokens = sum(row["truncated"] for row in rows), sum(row["tokens"] for row in rows)
    return Scores(scores.pop("all"), scores, sum(formed) / n, cut / n, tokens / n)


# --------------------------------------------------------------------------------------------------------------- tables


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ablation_table(results: dict[str, dict[str, Scores]]) -> str:
    """Table 4: one row a model; accuracy in % with its 95% interval by benchmark (and tier), and the gain over the
    first row.

    `results` maps model -> benchmark -> scores.
    """
    models = list(results)
    benchmarks = list(results[models[0]])
    columns = [
        (name, tier) for name in benchmarks for tier in (None, *TIERS) if tier is None or in_all(results, name, tier)
    ]
    base = macro_average(results[models[0]])
    rows = []
    for model in models:
        cells = [str(cell(results[model][name], tier)) for name, tier in columns]
        mean = macro_average(results[model])
        formed = statistics.mean(scores.well_formed for scores in results[model].values())
        rows.append([model, *cells, f"{100 * mean:.1f}", f"{100 * (mean - base):+.1f}", f"{100 * formed:.1f}"])
    header = ["Variant", *(tier.capitalize() if tier else name for name, tier in columns), "Avg.", "ΔAvg.", "Format"]
    return markdown_table(header, rows)


def kinds_table(results: dict[str, dict[str, Scores]]) -> str:
    """The same by kind of question: one row a kind, one column a model."""
    models = list(results)
    rows = []
    for name in results[models[0]]:
        for kind, first in sorted(results[models[0]][name].groups.items()):
            if kind not in TIERS and in_all(results, name, kind):
                cells = [str(results[model][name].groups[kind]) for model in models]
                rows.append([f"{name}: {kind}" if len(results[models[0]]) > 1 else kind, str(first.n), *cells])
    return markdown_table(["Kind of question", "n", *models], rows) if rows else ""


def in_all(results: dict[str, dict[str, Scores]], benchmark: str, group: str) -> bool:
    return all(group in scores[benchmark].groups for scores in results.values())


def cell(scores: Scores, group: str | None) -> Score:
    return scores.groups[group] if group else scores.overall


def macro_average(scores: dict[str, Scores]) -> float:
    """The mean over benchmarks, each counting the same (the paper's "Avg.")."""
    return statistics.mean(item.overall.accuracy for item in scores.values())


def runs_table(runs: list[Path]) -> str:
    """Several runs (seeds) of one recipe: each run's accuracy, their mean, and the spread (largest minus smallest)."""
    files = [{(p.parent.name, p.stem): score_file(p) for p in sorted(run.glob("eval/*/*.jsonl"))} for run in runs]
    shared = [key for key in files[0] if all(key in other for other in files)]
    if not shared:
        raise UserError(f"no evaluation is common to {', '.join(map(str, runs))}; run evaluate.py in each first")
    rows, mean_before = [], None
    for benchmark, label in sorted(shared, key=lambda key: (key[0], min(f[key].overall.accuracy for f in files))):
        values = [100 * scores[benchmark, label].overall.accuracy for scores in files]
        mean = statistics.mean(values)
        step = f"{mean - mean_before:+.1f}" if mean_before is not None else ""
        mean_before = mean
        rows.append(
            [benchmark, label, *(f"{v:.1f}" for v in values), f"{mean:.1f}", f"{max(values) - min(values):.1f}", step]
        )
    return markdown_table(["Benchmark", "Variant", *(run.name for run in runs), "Mean", "Spread", "Step"], rows)


def transcripts(paths: dict[str, Path], questions: list[Question], count: int) -> str:
    """`count` questions with the first and the last model's answers; in the end one right, one wrong if there are."""
    labels = list(paths)
    answers = {label: {row["id"]: row for row in read_jsonl(path)} for label, path in paths.items()}
    last = answers[labels[-1]]
    right = [q for q in questions if parse(last[q.id]["response"]).answer == q.answer]
    wrong = [q for q in questions if parse(last[q.id]["response"]).answer != q.answer]
    hardest = sorted(right, key=lambda q: (TIERS.index(q.tier) if q.tier else 0, len(q.question)), reverse=True)
    chosen = (hardest[: max(1, count - 1)] + wrong)[:count]
    blocks = []
    for question in chosen:
        lines = [f"[{question.id}] {question.question}"]
        lines += [
            f"  {letter}. {text}{'  <- right' if letter == question.answer else ''}"
            for letter, text in question.options.items()
        ]
        for label in dict.fromkeys((labels[0], labels[-1])):
            lines.append(f"  {label}: {answers[label][question.id]['response'].strip()[:600]}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


# --------------------------------------------------------------------------------------------------------- command line


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    what = parser.add_argument_group("what")
    what.add_argument("--run", default="runs/main", help="run directory: reads heldout.jsonl, writes eval/")
    what.add_argument(
        "--model", nargs="+", default=["+RL stage 2=rl2"], metavar="LABEL=PATH", help="folders of the run, or paths"
    )
    what.add_argument(
        "--benchmark", nargs="+", default=["heldout"], metavar="NAME[=FILE]", help="from the hub, or a file"
    )
    what.add_argument(
        "--table", nargs="+", metavar="RUN", help="print the table of several runs' saved results, nothing else"
    )
    what.add_argument("--transcripts", type=int, default=2, help="questions to print with their answers")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--max-new-tokens", type=int, default=4096, help="tokens; longer responses are cut and wrong")
    sampling.add_argument("--temperature", type=float, default=0.0, help="0 is greedy: no sampling noise in the table")
    sampling.add_argument("--top-p", type=float, default=0.95, help="nucleus, where the temperature is above 0")
    sampling.add_argument("--seed", type=int, default=0, help="of the sampling")
    sampling.add_argument("--cache-gb", type=float, default=20.0, help="GB for the sampler's KV cache, per process")
    return parser.parse_args()


def named_models(items: list[str], run: RunDir) -> dict[str, Path | str]:
    """LABEL=PATH arguments as label -> folder (of the run directory if it has one of that name) or hub id."""
    models: dict[str, Path | str] = {}
    for item in items:
        label, equals, path = item.partition("=")
        path = path if equals else label
        inside = run.output(path)
        models[label] = inside if inside.is_dir() else path
    return models


def main() -> None:
    args = parse_args()
    if args.table:
        print(runs_table([Path(name) for name in args.table]))
        return
    run = RunDir(args.run)
    models = named_models(args.model, run)
    results: dict[str, dict[str, Scores]] = {label: {} for label in models}
    shown: dict[str, Any] = {}
    for name in args.benchmark:
        benchmark, questions = load_benchmark(name, run)
        folder = run.output("eval") / benchmark
        folder.mkdir(parents=True, exist_ok=True)
        files = {label: folder / f"{label.replace('/', '-')}.jsonl" for label in models}
        for label, path in models.items():
            answer_questions(path, questions, files[label], args)
            results[label][benchmark] = score_file(files[label])
        shown = {"paths": files, "questions": questions}
    if rank() == 0:
        for label, scores in results.items():
            for benchmark, item in scores.items():
                Metrics(run, "evaluate").log(
                    0, model=label, benchmark=benchmark, n=item.overall.n, accuracy=item.overall.accuracy,
                    format=item.well_formed, truncated=item.truncated, length=item.length,
                )  # fmt: skip
        print(f"\nAccuracy in % with its 95% interval\n\n{ablation_table(results)}\n\n{kinds_table(results)}\n")
        if args.transcripts:
            print(transcripts(shown["paths"], shown["questions"], args.transcripts))
    fsdp_utils.teardown()


if __name__ == "__main__":
    run_stage(main)

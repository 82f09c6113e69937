"""Benchmarks -> accuracy with intervals, in the form of the paper's tables (section 4).

A model answers every question (once and greedily by default) under the response contract it was trained on, and
`reward.parse`, the training reward's own extractor, reads the answer: the last explicit <answer>, no fuzzy fallback.
A response without one, an empty or a cut one, is wrong and stays in the denominator.

    python evaluate.py --run runs/tiny --max-new-tokens 80 --model Base=data/base "+RL stage 1=rl1" "+RL stage 2=rl2"
    python evaluate.py --benchmark medqa pubmedqa --model "Fleming-R1-7B=runs/main/rl2"    # from the hub
    python evaluate.py --benchmark medbullets=medbullets_op5.csv --model ours=rl2          # a local file, native format
    python evaluate.py --model "GPT-OSS=openai:openai/gpt-oss-120b" --prompt explicit      # a server: TEACHER_BASE_URL
    python evaluate.py --model ours=rl2 --samples 8 --temperature 0.6                      # pass@8 and majority vote
    python evaluate.py --table runs/tiny-0 runs/tiny-1 runs/tiny-2                         # runs beside the paper's
    torchrun --nproc_per_node 8 -- evaluate.py ...                                         # processes share the items

Known benchmarks: `heldout` (the run's own questions), the nine of Table 3 (see formats.py), or a file of question
records. Reads the models and questions. Writes eval/BENCHMARK/MODEL.jsonl, every response with what it was scored
from, and MODEL.json: how it was made (hashes of model, prompt and questions, seed, sampling) and its scores. An
interrupted run goes on behind the last complete line; responses made in another way are never mixed in. Scores need
the files alone: the same command, or `--table`, prints them again without the model.

Deviations from the paper: it states neither its sampling parameters (the default here is greedy) nor the prompts of
the models it did not train (`--prompt`). `--score loglikelihood` is not in the paper: it takes the option whose letter
is likeliest behind the prompt, which is how plain language models are often scored.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download

import fsdp_utils
from clean import formats
from fsdp_utils import gather_objects, rank, world_size
from policy import Example, Policy, load_policy, score, stop_tokens
from question import LETTERS, TIERS, Question, load_questions
from reward import PROMPTS, parse, prompt_messages, prompt_tokens, response_opening
from rollout import Sampler
from teacher import Request, add_server_arguments, teacher_of
from tools.cli import UserError, above, at_least, progress_bar, run_stage, stage_parser
from tools.run import MADE_BY, Metrics, RunDir, append_jsonl, read_jsonl, write_text

CHUNK = 512  # responses that a process makes between two writes to disk: what a kill may cost
SCORED_TOKENS = 16384  # tokens per forward pass of --score loglikelihood
RESAMPLES = 10_000  # of the bootstrap
PAPER = Path(__file__).parent / "data" / "paper_tables.csv"  # Tables 3 and 4 as printed


# ------------------------------------------------------------------------------------------------------- the questions


def load_benchmark(name: str, run: RunDir) -> tuple[str, list[Question]]:
    """A benchmark's name and its questions; see the module docstring for what `name` may be."""
    label, _, file = name.partition("=")
    if label in formats.BENCHMARKS:
        questions, rejected = (
            formats.read_native(label, file, Question) if file else formats.read_hub(label, "test", Question)
        )
        if rejected and rank() == 0:
            print(f"{label}: {len(rejected)} items are no valid questions, e.g. {rejected[0][0]}: {rejected[0][1]}")
    elif label == "heldout":
        questions = load_questions(Path(file) if file else run.input("heldout.jsonl"), run.made_by("heldout.jsonl"))
    else:
        path, known = Path(file or label), f"heldout, {', '.join(formats.BENCHMARKS)}, or a file of question records"
        if not path.is_file():
            raise UserError(f"unknown benchmark {label!r}; known: {known}")
        try:
            questions = load_questions(path)
        except UserError as error:
            raise UserError(f"{error}; benchmarks with a format of their own: {known}") from None
        label = label if file else path.stem
    twice = [id for id, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise UserError(f"benchmark {label}: the id {twice[0]!r} occurs twice; every question needs its own")
    return label, questions


# ------------------------------------------------------------------------------------------------------------- answers


def saved(question: Question, sample: int = 0, **outcome: Any) -> dict[str, Any]:
    """A line of a results file: all that scoring needs."""
    return {"id": question.id, "sample": sample, "tier": question.tier, "kind": question.kind,
            "truth": question.answer, **outcome}  # fmt: skip


def question_seed(seed: int, question: Question) -> int:
    """A seed of the question's own, so that its samples do not depend on what else is asked."""
    return random.Random(f"{seed}/{question.id}").getrandbits(32)


class LocalModel:
    """A Hugging Face folder or hub id on this machine. Under torchrun every process holds one."""

    def __init__(self, path: str | Path, args: argparse.Namespace):
        """Raises UserError if the model cannot be loaded or sampled from."""
        self.path, self.args, self.device = path, args, fsdp_utils.setup()
        model, self.tokenizer = load_policy(path, fsdp_utils.inference_dtype(self.device))
        self.model, self.stops = model.to(self.device), stop_tokens(model, self.tokenizer)
        self.switches = {"enable_thinking": False} if args.no_thinking else {}
        self.letters = args.score == "loglikelihood"
        if not self.letters:
            try:
                self.sampler = Sampler(self.model, args.cache_gb * 1e9)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from None

    def prepare(self, questions: list[Question]) -> None:
        """Tokenise the prompts. Raises UserError, before anything is answered, if one does not fit the context."""
        self.prompts = {
            question.id: prompt_tokens(self.tokenizer, prompt_messages(question, self.args.prompt), **self.switches)
            for question in questions
        }
        self.opening = response_opening(self.tokenizer, **self.switches)
        longest = max(self.prompts, key=lambda id: len(self.prompts[id]))
        new, context = 1 if self.letters else self.args.max_new_tokens, self.model.config.max_position_embeddings
        if len(self.prompts[longest]) + new > context:
            raise UserError(
                f"question {longest} has {len(self.prompts[longest])} prompt tokens; with {new} more "
                f"(--max-new-tokens) that exceeds the context of {self.path}, {context}"
            )

    def answer(self, questions: list[Question]) -> list[dict[str, Any]]:
        return self.letter_logprobs(questions) if self.letters else self.responses(questions)

    def responses(self, questions: list[Question]) -> list[dict[str, Any]]:
        """`--samples` responses to each question. What the chat template writes of a response is part of it."""
        args, rows = self.args, []
        if not questions:  # this process has no share of the last few
            return rows
        try:
            groups = self.sampler.generate(
                [self.prompts[question.id] for question in questions],
                samples=args.samples,
                max_new_tokens=args.max_new_tokens,
                stop_ids=self.stops,
                temperature=args.temperature,
                top_p=args.top_p,
                seeds=[question_seed(args.seed, question) for question in questions],
            )
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None
        for question, group in zip(questions, groups):
            for number, sample in enumerate(group):
                text = self.tokenizer.decode(sample.tokens if sample.stop_id is None else sample.tokens[:-1])
                tokens, truncated = len(sample.tokens), sample.stop_id is None
                rows.append(saved(question, number, response=self.opening + text, tokens=tokens, truncated=truncated))
        return rows

    def letter_logprobs(self, questions: list[Question]) -> list[dict[str, Any]]:
        """log p(letter | prompt) of each option's letter; a prompt runs once, with all its letters behind it."""
        examples, rows = [], []
        for question in questions:
            prompt = self.prompts[question.id]
            letters = [self.tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in question.options]
            branches = [0] * len(prompt) + [number for number, ids in enumerate(letters, 1) for _ in ids]
            examples.append(Example(prompt + sum(letters, []), [branch > 0 for branch in branches], branches))
        scores = score(Policy(self.model), examples, SCORED_TOKENS, self.device)
        for question, example, logprobs in zip(questions, examples, scores):
            sums = dict.fromkeys(question.options, 0.0)
            for branch, logprob in zip(filter(None, example.branches), logprobs.tolist()):
                sums[LETTERS[branch - 1]] += logprob
            if not all(map(math.isfinite, sums.values())):
                raise UserError(f"{self.path}: the model's log-likelihoods are not finite")
            rows.append(saved(question, logprobs=sums))
        return rows


class ServedModel:
    """A model behind an OpenAI-compatible server (see teacher.py), which keeps each answer the moment it is there.

    How many tokens it wrote and whether it cut the response stays unknown (None) where the server does not tell. Where
    its template opens <think>, it has to hand the reasoning over apart, as servers with a reasoning parser do. Some
    ignore temperature or seed: then the samples of a question are all alike.
    """

    def __init__(self, name: str, run: RunDir, args: argparse.Namespace):
        if world_size() > 1:
            raise UserError("a server is asked by one process: start evaluate.py without torchrun")
        run.claim("eval/server_cache.jsonl")
        self.teacher = teacher_of(args, run, name, "eval/server_cache.jsonl")
        self.args = args

    def prepare(self, questions: list[Question]) -> None:
        """The server applies its own chat template."""

    def answer(self, questions: list[Question]) -> list[dict[str, Any]]:
        """`--samples` responses to each question. Raises UserError if the server fails; what it answered is kept."""
        args, asked = self.args, [(question, number) for question in questions for number in range(self.args.samples)]
        answers = self.teacher.answers([
            Request(prompt_messages(question, args.prompt), question.id, "evaluate", args.temperature,
                    args.max_new_tokens, (question_seed(args.seed, question) + number) & 0x7FFFFFFF, contract=True)
            for question, number in asked
        ])  # fmt: skip
        return [
            saved(*pair, response=answer.text, tokens=answer.written, truncated=answer.truncated)
            for pair, answer in zip(asked, answers)
        ]


def answer_questions(
    model: LocalModel | ServedModel, todo: list[tuple[Question, set[int]]], out: Path, settings: dict[str, Any]
) -> None:
    """Append the model's responses to `out`, a chunk at a time: the samples of each question that it lacks.

    All processes take a share of the questions. A new file gets its notes, how it is made, with the first responses.
    """
    model.prepare([question for question, _ in todo])
    progress = progress_bar(total=len(todo), desc=f"{out.parent.name}: {out.stem}", unit="question", disable=rank() > 0)
    size = max(1, CHUNK // settings["samples"]) * world_size()
    for start in range(0, len(todo), size):
        chunk = todo[start : start + size]
        mine = chunk[rank() :: world_size()]
        missing = {question.id: samples for question, samples in mine}
        rows = model.answer([question for question, _ in mine])
        rows = [row for row in rows if row["sample"] in missing[row["id"]]]
        everyone = [row for share in gather_objects(rows) for row in share]
        if rank() == 0:
            if not out.exists():
                write_text(out.with_suffix(".json"), json.dumps({"settings": settings}, indent=1))
            append_jsonl(out, everyone)
            progress.update(len(chunk))
    progress.close()
    fsdp_utils.barrier()


def unanswered(out: Path, questions: list[Question], samples: int) -> list[tuple[Question, set[int]]]:
    """The questions of which `out` lacks samples, each with the numbers of those."""
    done = defaultdict(set)
    for row in read_jsonl(out) if out.exists() else []:
        done[row["id"]].add(row.get("sample", 0))
    left = [(question, set(range(samples)) - done[question.id]) for question in questions]
    return [(question, numbers) for question, numbers in left if numbers]


# ------------------------------------------------------------------------------------------ how a results file was made


def digest(value: Any) -> str:
    """Sixteen hex digits of the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode(errors="replace")).hexdigest()[:16]


def model_hash(source: str | Path) -> str | None:
    """What tells a model from any other: SHA-256 of its folder's files, its commit on the hub, a server's model name.

    None if the model is not at hand.
    """
    if str(source).startswith("openai:"):
        return str(source)
    if not Path(source).is_dir():
        if str(source).count("/") != 1:  # no name of the hub's
            return None
        try:
            return Path(hf_hub_download(str(source), "config.json")).parent.name[:16]
        except (OSError, ValueError):  # no such folder, no such repository, no network
            return None
    sha = hashlib.sha256()
    for path in sorted(Path(source).iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".txt"):
            sha.update(path.name.encode())
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    sha.update(block)
    return sha.hexdigest()[:16]


def settings_of(model: str | None, questions: list[Question], args: argparse.Namespace) -> dict[str, Any]:
    """All that decides which responses come out."""
    blank = Question("", "", "", "question", {"A": "a", "B": "b"}, "A")
    return {
        "score": args.score,
        "prompt": args.prompt,
        "prompt_hash": digest([prompt_messages(blank, args.prompt), args.no_thinking]),
        "samples": args.samples,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
        "questions": len(questions),
        "questions_hash": digest([[q.id, q.question, q.options, q.answer] for q in questions]),
        "model_hash": model,
    }


def require_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raises UserError if there is a results file that was made in another way."""
    if not out.exists():
        return
    before = notes_of(out).get("settings", settings)  # a file without notes is taken as it is
    changed = [name for name, value in settings.items() if value is not None and before.get(name) != value]
    if changed:
        name = changed[0]
        raise UserError(
            f"{out} was made with another {name} ({before.get(name)}, now {settings[name]}); ask as before, give the "
            "model another label, or delete that file to answer again"
        )


def notes_of(out: Path) -> dict[str, Any]:
    notes = out.with_suffix(".json")
    return json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}


def conclude(out: Path, scores: Scores, label: str, benchmark: str, run: RunDir) -> None:
    """Note the scores beside the results and, if they are new, in the run's metrics; its step is their responses."""
    notes, summary = notes_of(out), scores.summary()
    if notes.get("scores") != summary:
        Metrics(run, "evaluate").log(scores.overall.n * scores.samples, model=label, benchmark=benchmark, **summary)
        write_text(out.with_suffix(".json"), json.dumps(notes | {"scores": summary}, indent=1))


def evaluate_model(
    label: str, source: str | Path, benchmarks: dict[str, list[Question]], run: RunDir, args: argparse.Namespace
) -> dict[str, Scores]:
    """One model on every benchmark. It is loaded only if there is a question that it has not answered yet."""
    hashed = gather_objects(model_hash(source) if rank() == 0 else None)[0]
    model, results = None, {}
    for benchmark, questions in benchmarks.items():
        out = result_file(run, benchmark, label)
        settings = settings_of(hashed, questions, args)
        require_same_settings(out, settings)
        todo = unanswered(out, questions, args.samples)
        if todo:
            run.claim(str(out.relative_to(run.path)))
            model = model or load_model(source, run, args)
            answer_questions(model, todo, out, settings)
        results[benchmark] = score_file(out)
        if rank() == 0:
            conclude(out, results[benchmark], label, benchmark, run)
    return results


def load_model(source: str | Path, run: RunDir, args: argparse.Namespace) -> LocalModel | ServedModel:
    """The model of a folder, a hub id or a server. Raises UserError, with the remedy, if it is not there."""
    if str(source).startswith("openai:"):
        return ServedModel(str(source), run, args)
    return LocalModel(run.input(source) if source in MADE_BY else source, args)


def result_file(run: RunDir, benchmark: str, label: str) -> Path:
    folder = run.output("eval") / benchmark
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{label.replace('/', '-')}.jsonl"


# -------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy (a share) of `n` questions."""

    accuracy: float
    n: int

    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy. (With several samples a question it is on the safe side.)"""
        z, n, p = 1.96, self.n, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.accuracy:.1f} ({100 * low:.1f}-{100 * high:.1f})"


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's results on one benchmark; what is unknown is None.

    `groups` are tiers and kinds (subject, body system, ...); `correct` is each question's share of right samples,
    `tiers` its tier; `pass_at_k` and `majority` are the shares of questions with a right one among their k = `samples`
    samples, and with a right most frequent answer; `length` is in tokens; `settings` says how it was made.
    """

    overall: Score
    groups: dict[str, Score]
    well_formed: float | None
    truncated: float | None
    length: float | None
    samples: int
    pass_at_k: float
    majority: float
    correct: dict[str, float]
    tiers: dict[str, str | None]
    settings: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """The numbers as plain data."""
        extra = {"pass_at_k": self.pass_at_k, "majority": self.majority} if self.samples > 1 else {}
        low, high = self.overall.interval()
        return {
            "n": self.overall.n, "samples": self.samples, "accuracy": self.overall.accuracy, "low": low, "high": high,
            **extra, "format": self.well_formed, "truncated": self.truncated, "length": self.length,
            "groups": {name: [score.accuracy, score.n, *score.interval()] for name, score in self.groups.items()},
        }  # fmt: skip


def read_answer(row: dict[str, Any]) -> tuple[str | None, bool | None]:
    """The answer's letter and whether the format holds; of log-likelihoods the likeliest letter, and no format."""
    if "logprobs" in row:
        return max(row["logprobs"], key=row["logprobs"].get), None
    response = parse(row["response"])
    return response.answer, response.well_formed


def majority_vote(answers: list[str | None]) -> str | None:
    """The most frequent answer, the earlier one of a tie; responses without an answer do not vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def score_file(path: Path) -> Scores:
    """Score saved responses: needs the file alone, no model. Raises UserError if it is empty or no results file."""
    answers: dict[str, list[str | None]] = defaultdict(list)
    asked: dict[str, tuple[str, str | None, str | None]] = {}
    formed, cut, lengths = [], [], []
    try:
        for row in read_jsonl(path):
            answer, well_formed = read_answer(row)
            answers[row["id"]].append(answer)
            asked[row["id"]] = row["truth"], row["tier"], row["kind"]
            formed.append(well_formed)
            cut.append(row.get("truncated"))
            lengths.append(row.get("tokens"))
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no file of saved responses ({error!r}); delete it and evaluate again") from None
    if not answers:
        raise UserError(f"{path} holds no response; delete it and evaluate again")
    correct = {id: given.count(asked[id][0]) / len(given) for id, given in answers.items()}
    members: dict[str, list[float]] = defaultdict(list)
    for id, share in correct.items():
        for group in {*asked[id][1:]} - {None}:
            members[group].append(share)
    return Scores(
        overall=Score(fmean(correct.values()), len(correct)),
        groups={group: Score(fmean(members[group]), len(members[group])) for group in sorted(members)},
        well_formed=mean_or_none(formed),
        truncated=mean_or_none(cut),
        length=mean_or_none(lengths),
        samples=max(map(len, answers.values())),
        pass_at_k=fmean(share > 0 for share in correct.values()),
        majority=fmean(majority_vote(given) == asked[id][0] for id, given in answers.items()),
        correct=correct,
        tiers={id: tier for id, (_, tier, _) in asked.items()},
        settings=notes_of(path).get("settings", {}),
    )


def mean_or_none(values: list[float | None]) -> float | None:
    return None if None in values else fmean(values)


def paired_bootstrap(first: dict[str, float], second: dict[str, float]) -> tuple[int, float, float, float]:
    """How much better `second` is on the questions that both answered: their number, the mean difference of their
    shares of right samples, and the bounds of its 95% interval, from resampling the questions.

    How often each distinct difference is drawn is multinomial, so no question need be drawn one by one.
    """
    differences = np.array([second[id] - share for id, share in first.items() if id in second])
    n = len(differences)
    if n == 0:
        return 0, 0.0, 0.0, 0.0
    values, counts = np.unique(differences, return_counts=True)
    means = np.random.default_rng(0).multinomial(n, counts / n, size=RESAMPLES) @ values / n
    low, high = np.quantile(means, (0.025, 0.975))
    return n, float(differences.mean()), float(low), float(high)


# -------------------------------------------------------------------------------------------------------------- tables

Results = dict[str, dict[str, Scores]]  # model -> benchmark -> scores
GAIN = "ΔAvg.: accuracy, averaged over the benchmarks, above the first row's (above its own Base in the paper)."


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def ablation_table(results: Results) -> str:
    """Table 4: one row a model; accuracy in % with its 95% interval by benchmark (and tier), averages, and the gain
    over the first row. Of several benchmarks "Avg." counts each the same, as the paper does, "Micro" every question."""
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
        averages = [percent(mean), percent(micro_average(results[model]))] if len(benchmarks) > 1 else []
        formats_kept = [scores.well_formed for scores in results[model].values()]
        gain = f"{100 * (mean - base):+.1f}"
        rows.append([model, *cells, *averages, gain, percent(mean_or_none(formats_kept))])
    averages = ["Avg.", "Micro"] if len(benchmarks) > 1 else []
    header = ["Variant", *(tier.capitalize() if tier else name for name, tier in columns), *averages, "ΔAvg."]
    return markdown_table([*header, "Format"], rows) + f"\n\n{GAIN}"


def kinds_table(results: Results) -> str:
    """The same by kind of question (subject, body system, path): one row a kind, one column a model."""
    models = list(results)
    rows = []
    for name in results[models[0]]:
        for kind, first in results[models[0]][name].groups.items():
            if kind not in TIERS and in_all(results, name, kind):
                cells = [str(results[model][name].groups[kind]) for model in models]
                rows.append([f"{name}: {kind}" if len(results[models[0]]) > 1 else kind, str(first.n), *cells])
    return markdown_table(["Kind of question", "n", *models], rows) if rows else ""


def details_table(results: Results) -> str:
    """How each number was made, and what else was measured: one row a benchmark and model."""
    several = any(scores.samples > 1 for by_benchmark in results.values() for scores in by_benchmark.values())
    header = ["Benchmark", "Variant", "n", *(["k", "Pass@k", "Majority"] if several else []), "Format", "Cut", "Tokens"]
    rows = []
    for model, by_benchmark in results.items():
        for name, scores in by_benchmark.items():
            notes, n = scores.settings, str(scores.overall.n)
            if notes and notes["questions"] != scores.overall.n:
                n += f" of {notes['questions']}"
            k = [str(scores.samples), percent(scores.pass_at_k), percent(scores.majority)] if several else []
            length = "-" if scores.length is None else f"{scores.length:.0f}"
            made = [str(notes.get(key, "?")) for key in ("score", "prompt", "seed", "prompt_hash", "model_hash")]
            rows.append([name, model, n, *k, percent(scores.well_formed), percent(scores.truncated), length, *made])
    return markdown_table([*header, "Scored by", "Prompt", "Seed", "Prompt hash", "Model hash"], rows)


def in_all(results: Results, benchmark: str, group: str) -> bool:
    return all(group in scores[benchmark].groups for scores in results.values())


def cell(scores: Scores, group: str | None) -> Score:
    return scores.groups[group] if group else scores.overall


def macro_average(scores: dict[str, Scores]) -> float:
    """The mean over benchmarks, each counting the same (the paper's "Avg.")."""
    return fmean(item.overall.accuracy for item in scores.values())


def micro_average(scores: dict[str, Scores]) -> float:
    """The mean over all questions of all benchmarks."""
    return fmean(share for item in scores.values() for share in item.correct.values())


def differences_table(
    pairs: Iterable[tuple[str, dict[str, Scores], dict[str, Scores]]], tiers: Iterable[str] = ()
) -> str:
    """Differences in percentage points on the same questions, with their 95% intervals: (name, first, second) each;
    also on the questions of each of some `tiers`."""
    rows = []
    for name, first, second in pairs:
        for benchmark in (shared for shared in first if shared in second):
            tier_of = first[benchmark].tiers
            for tier in [None, *(tier for tier in tiers if tier in tier_of.values())]:
                part = {id: share for id, share in first[benchmark].correct.items() if tier in (None, tier_of[id])}
                n, mean, low, high = paired_bootstrap(part, second[benchmark].correct)
                points = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
                title = f"{benchmark}, {tier}" if tier else benchmark
                rows.append([title, name, str(n), points, "yes" if low > 0 or high < 0 else "no"])
    header = ["Benchmark", "Difference", "n", "Points", "Interval without 0"]
    return markdown_table(header, rows) if rows else ""


def steps(results: Results, prefix: str = "") -> list[tuple[str, dict[str, Scores], dict[str, Scores]]]:
    """The ladder's steps, each model against the one before, and the last against the first."""
    models = list(results)
    pairs = list(zip(models, models[1:])) + ([(models[0], models[-1])] if len(models) > 2 else [])
    return [(f"{prefix}{first} -> {second}", results[first], results[second]) for first, second in pairs]


# -------------------------------------------------------------------------------------- several runs beside the paper's


def paper_rows() -> list[dict[str, str]]:
    """The rows of Tables 3 and 4 as printed: table, size, model, the nine accuracies, avg, gain."""
    with open(PAPER, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ladder_place(label: str) -> tuple[int, str]:
    """A sort key that sets variants in the order of the paper's Table 4, those that it lacks behind, by name."""
    ladder = [row["model"].lower() for row in paper_rows() if row["table"] == "Table 4"]
    return ladder.index(label.lower()) if label.lower() in ladder else len(ladder), label


def run_names(paths: list[Path]) -> list[str]:
    """The runs' names, their paths where names are equal; of the first run's forks what they change, in words: beside
    `tiny`, `tiny-rl1--with-std` is "rl1 --with-std"."""
    names = [path.resolve().name for path in paths]
    unique = [name if names.count(name) == 1 else str(path) for path, name in zip(paths, names)]
    return [re.sub("-?--", " --", re.sub(rf"^{re.escape(names[0])}-(?=\D)", "", name)) for name in unique]


def are_seeds(runs: Iterable[str]) -> bool:
    """Whether runs differ by nothing but a seed: a number behind their names' last hyphen, not behind a flag."""
    return len({name if "--" in name else re.sub(r"-\d+$", "", name) for name in runs}) == 1


def load_runs(paths: list[Path]) -> dict[str, Results]:
    """Every saved evaluation of some runs, by `run_names`; the variants in the order of `ladder_place`."""
    runs: dict[str, Results] = {}
    for path, name in zip(paths, run_names(paths)):
        results: Results = {}
        for file in sorted(RunDir(path).path.glob("eval/*/*.jsonl"), key=lambda file: ladder_place(file.stem)):
            results.setdefault(file.stem, {})[file.parent.name] = score_file(file)
        if not results:
            raise UserError(f"{path} holds no evaluation; make one with: python evaluate.py --run {path}")
        runs[name] = results
    return runs


def runs_table(runs: dict[str, Results]) -> str:
    """The accuracy of every variant in each run. Of seeds of one method also mean, spread and step, for the variants
    that all have; of one run the step."""
    labels = sorted({label for results in runs.values() for label in results}, key=ladder_place)
    titles = ["Mean", "Spread", "Step"][0 if len(runs) > 1 else 2 :] if are_seeds(runs) else []
    rows = []
    for benchmark in measured_in(runs):
        before = None
        for label in labels:
            scores = [results.get(label, {}).get(benchmark) for results in runs.values()]
            if not any(scores):
                continue
            cells, summary = [percent(item and item.overall.accuracy) for item in scores], ["", "", ""]
            if all(scores):
                values = [100 * item.overall.accuracy for item in scores]
                mean, spread = fmean(values), max(values) - min(values)
                step = "" if before is None else f"{mean - before:+.1f}"
                before, summary = mean, [f"{mean:.1f}", f"{spread:.1f}", step]
            rows.append([benchmark, label, *cells, *summary[3 - len(titles) :]])
    return markdown_table(["Benchmark", "Variant", *runs, *titles], rows)


def measured_in(runs: dict[str, Results]) -> list[str]:
    """The benchmarks of all runs together."""
    return sorted({name for results in runs.values() for scores in results.values() for name in scores})


def paper_table(runs: dict[str, Results]) -> str:
    """The runs beside the rows of Tables 3 and 4; the column "Source" tells what was measured here from what the paper
    states. "Avg." is the mean over a row's own benchmarks, so compare it between rows that have the same ones."""
    titles = {dataset.name: dataset.title for dataset in formats.DATASETS if dataset.name in formats.BENCHMARKS}
    columns = [*titles, *(name for name in measured_in(runs) if name not in titles)]
    rows = []
    for run, results in runs.items():
        base = next(iter(results.values()))
        for label, scores in results.items():
            cells = [percent(scores[name].overall.accuracy) if name in scores else "-" for name in columns]
            mean = percent(macro_average(scores)) if len(scores) > 1 else "-"
            gain = f"{100 * (macro_average(scores) - macro_average(base)):+.1f}" if set(scores) == set(base) else "-"
            prompts = {item.settings.get("prompt", "contract") for item in scores.values()} - {"contract"}
            source = ", prompt ".join(["measured here", *sorted(prompts)])
            rows.append([f"{run}: {label}", source, *cells, mean, gain])
    for row in paper_rows():
        cells, gain = [row.get(name, "-") for name in columns], f"+{row['gain']}" if row["gain"] else "-"
        rows.append([f"{row['size']}: {row['model']}", f"quoted, {row['table']}", *cells, row["avg"], gain])
    return markdown_table(["Model", "Source", *(titles.get(name, name) for name in columns), "Avg.", "ΔAvg."], rows)


def print_runs(paths: list[Path]) -> None:
    """`--table`: all from the saved responses, without any model."""
    runs = load_runs(paths)
    first, *others = runs
    for run, results in runs.items():
        print(f"How {run} was measured\n\n{details_table(results)}\n")
    pairs = [pair for run, results in runs.items() for pair in steps(results, f"{run}: ")]
    print(f"From row to row, on the same questions (paired bootstrap, 95%)\n\n{differences_table(pairs)}\n")
    if {*measured_in(runs)} & {*formats.BENCHMARKS}:
        print("Measured here and quoted from the paper; Avg. is over a row's own benchmarks, the paper's over its nine")
        print(f"\n{paper_table(runs)}\n\n{GAIN}\n")
    print(f"Accuracy in %\n\n{runs_table(runs)}")  # last: what a terminal shows
    if are_seeds(runs):
        print("\nStep: the gain over the row above, of the mean. Spread: the largest minus the smallest.")
    else:  # a model that both runs share differs in nothing
        same = [(f"{label}: {first} -> {run}", runs[first][label], runs[run][label]) for run in others
                for label in runs[first] if label in runs[run] and runs[first][label] != runs[run][label]]  # fmt: skip
        table = differences_table(same, TIERS if len(others) == 1 else ()) or "No model differs."
        print(f"\nAgainst {first}, on the same questions (paired bootstrap, 95%)\n\n{table}")
        print("\nThe interval is that of the questions; how far two seeds of one method differ comes on top of it.")


def transcripts(paths: dict[str, Path], questions: list[Question], count: int) -> str:
    """`count` questions with the first and the last model's answers; in the end one right, one wrong if there are."""
    labels = list(paths)
    answers = {
        label: {row["id"]: row for row in read_jsonl(path) if not row.get("sample")} for label, path in paths.items()
    }
    last = answers[labels[-1]]
    right = [q for q in questions if read_answer(last[q.id])[0] == q.answer]
    wrong = [q for q in questions if read_answer(last[q.id])[0] != q.answer]
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
            row = answers[label][question.id]
            lines.append(f"  {label}: {str(row.get('response', row.get('logprobs'))).strip()[:600]}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


# -------------------------------------------------------------------------------------------------------- command line


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    what = parser.add_argument_group("what")
    what.add_argument("--run", default="runs/main", help="run directory: reads heldout.jsonl, writes eval/")
    what.add_argument(
        "--model", nargs="+", default=["+RL stage 2=rl2"], metavar="LABEL=PATH",
        help="folders of the run, paths, hub ids, or openai:MODEL behind TEACHER_BASE_URL",
    )  # fmt: skip
    what.add_argument(
        "--benchmark", nargs="+", default=["heldout"], metavar="NAME[=FILE]", help="from the hub, or a file"
    )
    what.add_argument(
        "--table", nargs="+", metavar="RUN", help="print several runs' saved results beside the paper's, nothing else"
    )
    what.add_argument("--transcripts", type=at_least(0), default=2, help="questions to print with their answers")

    how = parser.add_argument_group("how the question is put and the answer is scored")
    how.add_argument(
        "--prompt", choices=PROMPTS, help="contract: as trained (default); explicit, direct: for others;"
        " letter: the default of --score loglikelihood",
    )  # fmt: skip
    how.add_argument("--no-thinking", action="store_true", help="switch the thinking mode of Qwen3's template off")
    how.add_argument(
        "--score", choices=("answer", "loglikelihood"), default="answer", help="of the response, or of option letters"
    )

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--max-new-tokens", type=at_least(1), default=4096, help="tokens; what is cut is wrong")
    sampling.add_argument("--samples", type=at_least(1), default=1, help="a question; above 1: pass@k, majority vote")
    sampling.add_argument("--temperature", type=at_least(0.0), default=0.0, help="0 is greedy: no sampling noise")
    sampling.add_argument("--top-p", type=float, default=0.95, help="nucleus, where the temperature is above 0")
    sampling.add_argument("--seed", type=int, default=0, help="of the sampling")
    sampling.add_argument("--cache-gb", type=above(0.0), default=20.0, help="GB for the KV cache, per process")
    add_server_arguments(parser.add_argument_group("a model behind a server"))
    args = parser.parse_args()
    args.prompt = args.prompt or ("letter" if args.score == "loglikelihood" else "contract")
    check_args(args)
    return args


def check_args(args: argparse.Namespace) -> None:
    """Raises UserError for flags that do not go together."""
    served = any("openai:" in item for item in args.model)
    if args.samples > 1 and (args.temperature == 0 or args.score == "loglikelihood"):
        raise UserError(
            "--samples above 1 needs --score answer and a --temperature above 0: greedy samples are all alike"
        )
    if served and (args.score == "loglikelihood" or args.no_thinking):
        raise UserError("--score loglikelihood and --no-thinking need a model on this machine, not a server")


def named_models(items: list[str], run: RunDir) -> dict[str, Path | str]:
    """LABEL=PATH arguments as label -> folder (of the run directory if it has one of that name), hub id or server."""
    models: dict[str, Path | str] = {}
    for item in items:
        label, equals, path = item.partition("=")
        path = path if equals else label
        if label in models:
            raise UserError(f"--model: the label {label!r} occurs twice; every model needs its own")
        inside = run.output(path)
        models[label] = inside if inside.is_dir() else path
    return models


def main() -> None:
    args = parse_args()
    if args.table:
        print_runs([Path(name) for name in args.table])
        return
    run = RunDir(args.run)
    models = named_models(args.model, run)
    fsdp_utils.setup()
    benchmarks = dict(load_benchmark(name, run) for name in args.benchmark)
    results = {label: evaluate_model(label, source, benchmarks, run, args) for label, source in models.items()}
    if rank() == 0:
        tables = [
            ablation_table(results),
            kinds_table(results),
            differences_table(steps(results)),
            details_table(results),
        ]
        print("\nAccuracy in % with its 95% interval\n\n" + "\n\n".join(filter(None, tables)) + "\n")
        if args.transcripts:
            benchmark, questions = list(benchmarks.items())[-1]
            paths = {label: result_file(run, benchmark, label) for label in models}
            print(transcripts(paths, questions, args.transcripts))
    fsdp_utils.teardown()


if __name__ == "__main__":
    run_stage(main)

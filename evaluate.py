"""Benchmarks -> accuracy with intervals, in the form of the paper's Table 4 (section 4).

A model answers every question (once and greedily by default) under the response contract it was trained on;
`results.py` reads the answers with the training reward's own extractor and scores them. A response without an answer,
an empty or a cut one, is wrong and stays in the denominator.

    python evaluate.py --run runs/tiny --max-new-tokens 80 --model Base=data/base "+RL stage 1=rl1" "+RL stage 2=rl2"
    python evaluate.py --benchmark medqa pubmedqa --model "Fleming-R1-7B=runs/main/rl2"    # from the hub
    python evaluate.py --benchmark medbullets=medbullets_op5.csv --model ours=rl2          # a local file, native format
    python evaluate.py --model "GPT-OSS=openai:openai/gpt-oss-120b" --prompt explicit      # a server: TEACHER_BASE_URL
    python evaluate.py --model "so far=rl2.state"                                          # a training under way
    python evaluate.py --model ours=rl2 --samples 8 --temperature 0.6                      # pass@8 and majority vote
    python evaluate.py --model moved=rl2 --shuffle-options 4                               # does a letter draw answers?
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 PET_RDZV_BACKEND=c10d PET_RDZV_CONF=store_type=file    # on loopback
    torchrun --nproc_per_node 8 -- evaluate.py ...                                         # processes share the items

Known benchmarks: `heldout` and `heldout_public` (the run's own synthetic and public questions; the gap between them is
what the mixture is tuned by), the nine of Table 3 (see clean/formats.py), or a file of question records. Reads the
models, the questions, and tiers/BENCHMARK.jsonl where curate.py graded a benchmark. Writes eval/BENCHMARK/MODEL.jsonl,
every response with what it is scored from, and MODEL.json: how it was made (hashes of model, prompt and questions,
seed, sampling) and its scores. An interrupted run resumes after the last complete line; responses made in another way
are never mixed in. The same command prints the table again without the model. More tables (by kind, differences,
several runs, the paper's rows): report.py.

Deviations from the paper: it states neither its sampling parameters (the default here is greedy) nor the prompts of
the models it did not train (`--prompt`). `--score loglikelihood` is not in the paper: it takes the option whose letter
is likeliest after the prompt, which is how plain language models are often scored.
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ == "__main__":  # first: the rest takes seconds to import
    can_stop()

import argparse
import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsdp_utils
from clean import formats
from fidelity import PathJudge
from fsdp_utils import gather_objects, my_share, rank, world_size
from policy import Example, Policy, load_policy, score, stop_tokens
from pretrained import model_hash
from question import LETTERS, TIERS, Question, can_move, load_questions, reordered
from results import OWN, Results, Scores, provenance, result_row, score_file
from reward import PROMPTS, prompt_messages, prompt_tokens, response_opening
from rollout import Sampler
from tables import ORDERS, PATHS, ablation_table, orders_table, paths_table
from teacher import Request, add_server_arguments, teacher_of
from tools.cli import Progress, UserError, above, at_least, progress_bar, run_stage, seed_number, stage_parser
from tools.cost import count
from tools.run import MADE_BY, Metrics, RunDir, append_jsonl, digest, is_there, read_jsonl, write_text

CHUNK = 512  # responses that a process makes between two writes to disk: what a kill may cost
MOST_CUT = 0.01  # share of responses that may be cut without a warning
NO_ANSWER = (
    "no response held an answer, so this accuracy says nothing of what the model knows: if most were cut, raise "
    "--max-new-tokens; if the model was never trained on this form, ask for it with --prompt explicit, or take --score "
    "loglikelihood, which needs none; if it was, compare its chat template with the one that it was trained with"
)
SCORED_TOKENS = 16384  # tokens per forward pass of --score loglikelihood


# ------------------------------------------------------------------------------------------------------- the questions


def load_benchmark(name: str, run: RunDir) -> tuple[str, list[Question]]:
    """A benchmark's name and its questions; see the module docstring for what `name` may be."""
    label, _, file = name.partition("=")
    if file and (label in ("", "..") or Path(label).name != label):
        raise UserError(f"benchmark {label!r} is no name for a folder of results; give a simple one: NAME=FILE")
    if label in formats.BENCHMARKS:
        questions = public_questions(label, file)
    elif label in OWN:
        questions = load_questions(Path(file) if file else run.input(f"{label}.jsonl"), run.made_by(f"{label}.jsonl"))
    else:
        questions = questions_of_file(Path(file or label))
        label = label if file else Path(label).stem
    twice = [id for id, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise UserError(f"benchmark {label}: the id {twice[0]!r} occurs twice; every question needs its own")
    return label, with_tiers(questions, run.output(f"tiers/{label}.jsonl"))


def with_tiers(questions: list[Question], file: Path) -> list[Question]:
    """A benchmark's questions with the tiers that `curate.py --tiers` gave them; unchanged without such a file."""
    if not is_there(file):
        return questions
    tiers = {row["id"]: row["tier"] for row in read_jsonl(file, shape={"id": str, "tier": str})}
    known = {question.id for question in questions}
    for id, tier in tiers.items():
        if id not in known or tier not in TIERS:
            raise UserError(
                f"{file}: {id!r} with the tier {tier!r} does not fit the benchmark; delete it to grade again"
            )
    return [replace(question, tier=tiers.get(question.id, question.tier)) for question in questions]


def public_questions(label: str, file: str) -> list[Question]:
    """A benchmark of Table 3: from `file` in its native format, or from the hub."""
    read = formats.read_native(label, file, Question) if file else formats.read_hub(label, "test", Question)
    questions, rejected = read
    if rejected and rank() == 0:
        print(f"{label}: {len(rejected)} items are no valid questions, e.g. {rejected[0][0]}: {rejected[0][1]}")
    return questions


def questions_of_file(path: Path) -> list[Question]:
    """Question records. Raises UserError that tells what else can be named as a benchmark."""
    known = f"{', '.join([*OWN, *formats.BENCHMARKS])}, or a file of question records"
    if not path.is_file():
        raise UserError(f"unknown benchmark {str(path)!r}; known: {known}")
    try:
        return load_questions(path)
    except UserError as error:
        raise UserError(f"{error}; benchmarks with a format of their own: {known}") from None


def in_other_orders(questions: list[Question], number: int, seed: int) -> list[Question]:
    """Each question in `number` different random orders of its options, all where there are no more; 0: as it is.

    A question whose options refer to each other is asked once, as it is.
    """
    return [item for question in questions for item in (orders_of(question, number, seed) if number else [question])]


def orders_of(question: Question, number: int, seed: int) -> list[Question]:
    if not can_move(question):
        return [question]
    rng, orders = random.Random(f"{seed}/orders/{question.id}"), {}
    while len(orders) < min(number, math.factorial(len(question.options))):
        orders["".join(rng.sample(list(question.options), len(question.options)))] = None
    return [reordered(question, order) for order in orders]


# ------------------------------------------------------------------------------------------------------------- answers


def question_seed(seed: int, question: Question) -> int:
    """A seed of the question's own, so that its samples do not depend on what else is asked."""
    return random.Random(f"{seed}/{question.id}").getrandbits(32)


class LocalModel:
    """A Hugging Face folder or hub id on this machine. Under torchrun every process holds one."""

    def __init__(self, path: str | Path, args: argparse.Namespace):
        """Raises UserError if the model cannot be loaded or sampled from."""
        self.path, self.args, self.device = path, args, fsdp_utils.join_processes()
        load = fsdp_utils.load_checkpoint if (Path(path) / "extra.json").exists() else load_policy
        model, self.tokenizer = load(path, fsdp_utils.compute_dtype(self.device, args.bfloat16))
        self.model, self.stops = model.to(self.device), stop_tokens(model, self.tokenizer)
        self.switches = {"enable_thinking": False} if args.no_thinking else {}
        self.letters = args.score == "loglikelihood"
        if not self.letters:
            try:
                self.sampler = Sampler(self.model, args.cache_gb * 1e9)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from None

    def prepare(self, questions: list[Question]) -> str:
        """Tokenise the prompts; returns their hash. Raises UserError, before anything is answered, if one does not fit
        the context."""
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
        if not self.letters:
            try:
                self.sampler.capacity(len(self.prompts[longest]), new)
            except ValueError as error:
                raise UserError(f"question {longest}: {error} (--cache-gb {self.args.cache_gb})") from None
        return digest([self.prompts, self.opening])

    def answer(self, questions: list[Question], progress: Progress) -> list[dict[str, Any]]:
        if not self.letters:
            return self.responses(questions, progress)
        rows = self.letter_logprobs(questions)
        progress.update(len(rows))
        return rows

    def responses(self, questions: list[Question], progress: Progress) -> list[dict[str, Any]]:
        """`--samples` responses to each question. What the chat template writes of a response is part of it."""
        if not questions:  # this process has no share of the last few
            return []
        try:
            by_question = self.sampler.generate(
                [self.prompts[question.id] for question in questions],
                samples=self.args.samples,
                max_new_tokens=self.args.max_new_tokens,
                stop_ids=self.stops,
                temperature=self.args.temperature,
                top_p=self.args.top_p,
                seeds=[question_seed(self.args.seed, question) for question in questions],
                on_sample=lambda *_: progress.update(),
            )
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None
        return [
            result_row(
                question,
                number,
                response=self.opening
                + self.tokenizer.decode(sample.tokens[: -1 if sample.stop_id is not None else None]),
                tokens=len(sample.tokens),
                truncated=sample.stop_id is None,
            )
            for question, samples in zip(questions, by_question)
            for number, sample in enumerate(samples)
        ]

    def letter_logprobs(self, questions: list[Question]) -> list[dict[str, Any]]:
        """log p(letter | prompt) of each option's letter; a prompt runs once, followed by all its letters."""
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
            rows.append(result_row(question, logprobs=sums))
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
        """Nothing is known of how the prompts look: the server applies its own chat template."""

    def answer(self, questions: list[Question], progress: Progress) -> list[dict[str, Any]]:
        """`--samples` responses to each question. Raises UserError if the server fails; what it answered is kept."""
        args, asked = self.args, [(question, number) for question in questions for number in range(self.args.samples)]
        answers = self.teacher.answers([
            Request(prompt_messages(question, args.prompt), question.id, "evaluate", args.temperature,
                    args.max_new_tokens, (question_seed(args.seed, question) + number) & 0x7FFFFFFF, contract=True)
            for question, number in asked
        ])  # fmt: skip
        progress.update(len(answers))
        return [
            result_row(*pair, response=answer.text, tokens=answer.written, truncated=answer.truncated)
            for pair, answer in zip(asked, answers)
        ]


def answer_questions(
    model: LocalModel | ServedModel, todo: list[tuple[Question, set[int]]], out: Path, settings: dict[str, Any]
) -> None:
    """Append the model's responses to `out`, a chunk at a time: the samples of each question that it lacks.

    All processes take a share of the questions; the bar is the first one's. How a new file is made is noted beside it
    with the first responses.
    """
    samples, name = settings["samples"], f"{out.parent.name}: {out.stem}"
    own = samples * len(my_share(todo))
    progress = progress_bar(total=own, desc=name, unit="response", disable=rank() > 0)
    size = max(1, CHUNK // samples) * world_size()
    for start in range(0, len(todo), size):
        chunk = todo[start : start + size]
        mine = my_share(chunk)
        missing = {question.id: numbers for question, numbers in mine}
        rows = model.answer([question for question, _ in mine], progress)
        rows = [row for row in rows if row["sample"] in missing[row["id"]]]
        everyone = [row for share in gather_objects(rows) for row in share]
        if rank() == 0:
            if not out.exists():
                write_text(out.with_suffix(".json"), json.dumps({"settings": settings}, indent=1))
            append_jsonl(out, everyone)
            count("tokens sampled", sum(row.get("tokens") or 0 for row in everyone))
    progress.close()
    fsdp_utils.barrier()


def unanswered(out: Path, questions: list[Question], samples: int) -> list[tuple[Question, set[int]]]:
    """The questions of which `out` lacks samples, each with the numbers of those."""
    done = defaultdict(set)
    for row in read_jsonl(out, appended=True, shape={"id": str, "sample?": int}) if is_there(out) else []:
        done[row["id"]].add(row.get("sample", 0))
    left = [(question, set(range(samples)) - done[question.id]) for question in questions]
    return [(question, numbers) for question, numbers in left if numbers]


# ------------------------------------------------------------------------------------------ how a results file was made


def settings_of(model: str | None, questions: list[Question], args: argparse.Namespace) -> dict[str, Any]:
    """All that decides which responses come out."""
    return {
        **({"shuffle_options": args.shuffle_options} if args.shuffle_options else {}),
        "score": args.score,
        "prompt": args.prompt,
        "questions": len(questions),
        "questions_hash": digest([[q.id, q.question, q.options, q.answer] for q in questions]),
        "prompt_hash": digest([[prompt_messages(q, args.prompt) for q in questions], args.no_thinking]),
        "samples": args.samples,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
        "bfloat16": args.bfloat16,
        "model_hash": model,
    }


def require_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raises UserError if there is a results file that was made in another way, or without a note of how."""
    if not is_there(out):
        return
    before = provenance(out).get("settings")
    if before is None:
        raise UserError(
            f"{out} lies there without its note {out.stem}.json of how it was made; delete it to answer again"
        )
    before = {"bfloat16": False} | before  # older notes do not say it
    changed = [name for name, value in settings.items() if value is not None and before.get(name) != value]
    if changed:
        name = changed[0]
        raise UserError(
            f"{out} was made with another {name} ({before.get(name)}, now {settings[name]}); ask as before, give the "
            "model another label, or delete that file to answer again"
        )


def log_scores(out: Path, scores: Scores, label: str, benchmark: str, run: RunDir) -> None:
    """Write the scores, if they are new, beside the results and to the run's metrics, where responses are the steps."""
    note, summary = provenance(out), scores.summary()
    if note.get("scores") != summary:
        Metrics(run, "evaluate").log(scores.overall.n * scores.samples, model=label, benchmark=benchmark, **summary)
        write_text(out.with_suffix(".json"), json.dumps(note | {"scores": summary}, indent=1))


def evaluate_model(
    label: str, source: str | Path, benchmarks: dict[str, list[Question]], run: RunDir, args: argparse.Namespace
) -> dict[str, Scores]:
    """One model on every benchmark. It is loaded only if there is a question that it has not answered yet.

    Of several processes the first one scores; the others return nothing.
    """
    hashed = fsdp_utils.on_first_rank(lambda: model_hash(source))
    model, results = None, {}
    for benchmark, questions in benchmarks.items():
        out = result_file(run, benchmark, label)
        asked = in_other_orders(questions, args.shuffle_options, args.seed)
        settings = settings_of(hashed, asked, args) | {"questions": len(questions)}
        require_same_settings(out, settings)
        todo = unanswered(out, asked, args.samples)[: args.limit]
        if todo:
            if rank() == 0:
                run.claim(str(out.relative_to(run.path)))
            model = model or load_model(source, run, args)
            settings["rendered_hash"] = model.prepare(asked)  # by the chat template, which may write a date
            require_same_settings(out, settings)
            answer_questions(model, todo, out, settings)
        if rank() == 0:
            results[benchmark] = score_file(out, PathJudge.of_run(run, questions))
            log_scores(out, results[benchmark], label, benchmark, run)
    return results


def warnings_of(results: Results) -> list[str]:
    """What keeps numbers from standing beside the paper's: responses that were cut or hold no answer at all, benchmarks
    of another size."""
    sizes = {dataset.name: dataset.paper_size for dataset in formats.DATASETS}
    counted = {name: item.overall.n for scores in results.values() for name, item in scores.items()}
    warnings = [
        f"{model}, {name}: {item.truncated:.1%} of the responses were cut and count as wrong; raise --max-new-tokens "
        f"({item.settings.get('max_new_tokens', 'unknown')})"
        for model, scores in results.items()
        for name, item in scores.items()
        if (item.truncated or 0) > MOST_CUT
    ]
    warnings += [
        f"{model}, {name}: {NO_ANSWER}"
        for model, scores in results.items()
        for name, item in scores.items()
        if item.mute
    ]
    return warnings + [
        f"{name} has {n} questions here, {sizes[name]} in the paper: its accuracy is not of the same questions"
        for name, n in counted.items()
        if sizes.get(name) not in (None, n)
    ]


def load_model(source: str | Path, run: RunDir, args: argparse.Namespace) -> LocalModel | ServedModel:
    """The model of a folder, a hub id or a server. Raises UserError, with the remedy, if it is not there."""
    if str(source).startswith("openai:"):
        return ServedModel(str(source), run, args)
    return LocalModel(run.input(source) if source in MADE_BY else source, args)


def result_file(run: RunDir, benchmark: str, label: str) -> Path:
    folder = run.output("eval") / benchmark
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{label.replace('/', '-')}.jsonl"


# -------------------------------------------------------------------------------------------------------- command line


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    what = parser.add_argument_group("what")
    what.add_argument(
        "--run", "--run-dir", default="runs/main", help="run directory: reads heldout.jsonl, writes eval/"
    )
    what.add_argument(
        "--model", nargs="+", default=["+RL stage 2=rl2"], metavar="LABEL=PATH",
        help="folders of the run, paths, hub ids, or openai:MODEL behind TEACHER_BASE_URL",
    )  # fmt: skip
    what.add_argument(
        "--benchmark", nargs="+", default=["heldout"], metavar="NAME[=FILE]", help="from the hub, or a file"
    )

    what.add_argument(
        "--limit", type=at_least(1), metavar="N", help="answer at most N more questions of each benchmark: for a trial;"
        " the same command without it answers the rest",
    )  # fmt: skip

    how = parser.add_argument_group("how the question is put and the answer is scored")
    how.add_argument(
        "--prompt", choices=PROMPTS, help="contract: as trained (default); explicit, direct: for others;"
        " letter: the default of --score loglikelihood",
    )  # fmt: skip
    how.add_argument(
        "--shuffle-options", type=at_least(0), default=0, help="orders in which each question's options are shown;"
        " tells whether answers stay the same and whether a letter is preferred",
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
    sampling.add_argument("--seed", type=seed_number, default=0, help="of the sampling")
    sampling.add_argument("--cache-gb", type=above(0.0), default=20.0, help="GB for the KV cache, per process")
    fsdp_utils.add_precision_argument(sampling)
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
    if served and (args.score == "loglikelihood" or args.no_thinking or args.bfloat16):
        raise UserError(
            "--score loglikelihood, --no-thinking and --bfloat16 need a model on this machine, not a server"
        )


def named_models(items: list[str], run: RunDir) -> dict[str, Path | str]:
    """LABEL=PATH arguments as label -> folder (of the run directory if it has one of that name), hub id or server."""
    models: dict[str, Path | str] = {}
    for item in items:
        label, equals, path = item.partition("=")
        path = path if equals else label
        if label in models:
            raise UserError(f"--model: the label {label!r} occurs twice; every model needs its own")
        inside = run.path / path
        models[label] = inside if inside.is_dir() else path
        if path.endswith(".state"):
            models[label] = newest_checkpoint(inside)
    return models


def newest_checkpoint(folder: Path) -> Path:
    """Of a training under way. Raises UserError if there is none."""
    checkpoints = fsdp_utils.whole_checkpoints(folder)
    if not checkpoints:
        raise UserError(f"{folder} holds no checkpoint: the training has not saved one yet, or is finished")
    print(f"{folder}: step {int(checkpoints[-1].name.removeprefix('step-'))}")
    return checkpoints[-1]


def main() -> None:
    args = parse_args()
    run = RunDir(args.run)
    models = named_models(args.model, run)
    fsdp_utils.join_processes()
    benchmarks = dict(load_benchmark(name, run) for name in args.benchmark)
    results: Results = {}
    for label, source in models.items():
        results[label] = evaluate_model(label, source, benchmarks, run, args)
    if rank() == 0:
        print(f"\nAccuracy in % with its 95% interval\n\n{ablation_table(results)}\n")
        for title, table in {PATHS: paths_table(results, False), ORDERS: orders_table(results)}.items():
            print(f"{title}\n\n{table}\n\n" if table else "", end="")
        for warning in warnings_of(results):
            print(f"Warning: {warning}")
        print(f"By kind and length of question, differences, how it was measured: python report.py --run {run.path}")
    fsdp_utils.leave_processes()


if __name__ == "__main__":
    run_stage(main)

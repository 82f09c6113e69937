"""evaluate.py beside lm-evaluation-harness, beside the bare sampler, and on a million saved responses.

    python -m venv /tmp/lm_eval && /tmp/lm_eval/bin/pip install -r requirements.txt 'lm_eval[hf]'
    python bench/evaluate.py harness --lm-eval /tmp/lm_eval/bin/python --questions runs/tiny/heldout.jsonl
    python bench/evaluate.py sampler --model runs/tiny/sft --questions runs/tiny/heldout.jsonl
    python bench/evaluate.py million

`harness`: the same items, model and prompt through `evaluate.py --score loglikelihood` and through a task file of
lm_eval, compared item by item. `sampler`: `evaluate.py` on 1,000 questions against the one call of the sampler that it
makes, process time, interleaved, minimum of several. `million`: reading, parsing and scoring. Results: README.md.
"""

import argparse
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import evaluate
from policy import load_policy, stop_tokens
from question import LETTERS, load_questions
from results import read_answer, score_file
from reward import format_response, prompt_messages, prompt_tokens
from rollout import Sampler
from tools.run import read_jsonl, write_jsonl


def run_evaluate(*flags: str) -> None:
    """`python evaluate.py FLAGS` in this process, quietly."""
    sys.argv = ["evaluate.py", *flags]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        evaluate.main()


# ------------------------------------------------------------------------------------------------------------ lm_eval

TASK = """
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def harness(model: str, file: Path, folder: Path, python: str) -> None:
    """Prints accuracy and log-likelihoods of both, and on how many items their choices agree."""
    questions = load_questions(file)
    run_evaluate("--run", str(folder), "--model", f"m={model}", "--benchmark", f"q={file}", "--score", "loglikelihood")
    ours = list(read_jsonl(folder / "eval" / "q" / "m.jsonl"))

    _, tokenizer = load_policy(model)
    prompts = [tokenizer.decode(prompt_tokens(tokenizer, prompt_messages(q, "letter"))) for q in questions]
    items = [
        {"text": text, "choices": list(question.options), "gold": list(question.options).index(question.answer)}
        for text, question in zip(prompts, questions)
    ]
    write_jsonl(folder / "items.jsonl", items)
    (folder / "task.yaml").write_text(TASK.format(items=folder / "items.jsonl", cache=folder / "cache"))
    arguments = f"pretrained={Path(model).resolve()},dtype=float32"
    subprocess.run(
        [python, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", "letters",
         "--include_path", ".", "--device", "cpu", "--batch_size", "16", "--log_samples", "--output_path", "out"],
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (log,) = folder.glob("out/**/samples_letters_*.jsonl")
    theirs = {sample["doc_id"]: sample for sample in read_jsonl(log)}

    right, agree, largest = [0, 0], 0, 0.0
    for number, row in enumerate(ours):
        sample = theirs[number]
        logprobs = [float(response[0]) for response in sample["filtered_resps"]]
        choice = LETTERS[max(range(len(logprobs)), key=logprobs.__getitem__)]
        mine = read_answer(row)[0]
        right[0] += mine == row["truth"]
        right[1] += int(sample["acc"])
        agree += mine == choice and (mine == row["truth"]) == bool(sample["acc"])
        # lm_eval counts the prompt's last line break to the letter, which adds a constant of the item to all letters.
        pairs = zip(row["logprobs"].values(), logprobs)
        best = max(row["logprobs"].values()) - max(logprobs)
        largest = max(largest, *(abs(a - b - best) for a, b in pairs))
    n = len(questions)
    print(f"{model}, {file.name}: n {n}, evaluate.py {right[0] / n:.4f}, lm_eval {right[1] / n:.4f}, "
          f"same choice {agree}/{n}, largest difference of a log-likelihood ratio {largest:.1e}")  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- speed


def sampler(model_path: str, file: Path, folder: Path, rounds: int, count: int = 1000) -> None:
    """Process time of evaluating `count` questions, loading and scoring included, over that of the sampler alone."""
    pool = [question.to_json() for question in load_questions(file)]
    write_jsonl(folder / "q.jsonl", [pool[n % len(pool)] | {"id": str(n)} for n in range(count)])
    model, tokenizer = load_policy(model_path)
    prompts = [prompt_tokens(tokenizer, prompt_messages(question)) for question in load_questions(folder / "q.jsonl")]
    whole, bare = [], []
    for number in range(rounds):
        began = time.process_time()
        Sampler(model, 0.5e9).generate(
            prompts, max_new_tokens=80, stop_ids=stop_tokens(model, tokenizer), temperature=0.0
        )
        bare.append(time.process_time() - began)
        began = time.process_time()
        run_evaluate("--run", str(folder), "--model", f"m{number}={model_path}", "--benchmark", f"q={folder}/q.jsonl",
                     "--max-new-tokens", "80", "--cache-gb", "0.5")  # fmt: skip
        whole.append(time.process_time() - began)
    print(f"{model_path}, {count} questions: evaluate.py {min(whole):.2f} s, the sampler {min(bare):.2f} s, "
          f"{min(whole) / min(bare):.3f} times")  # fmt: skip


def million(folder: Path, count: int = 1_000_000) -> None:
    """Process time of scoring `count` saved responses of about 400 characters, one and four samples a question."""
    rng = random.Random(0)
    thinking = [
        " ".join(rng.choices(("Isoniazid", "treats", "tuberculosis", "because", "of"), k=50)) for _ in range(99)
    ]
    for samples in (1, 4):
        rows = (
            {"id": f"synth/disease>drug/{n // samples}", "sample": n % samples, "tier": "easy", "kind": "disease>drug",
             "truth": "A", "response": format_response(rng.choice(thinking), rng.choice("ABCD")), "tokens": 99,
             "truncated": False}
            for n in range(count)
        )  # fmt: skip
        path = folder / f"{samples}.jsonl"
        with open(path, "w") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        began = time.process_time()
        scores = score_file(path)
        print(f"{count} responses, {samples} a question, {path.stat().st_size / 1e6:.0f} MB: scored in "
              f"{time.process_time() - began:.1f} s, accuracy {scores.overall.accuracy:.4f}")  # fmt: skip
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("harness", "sampler", "million"))
    parser.add_argument("--model", default="data/base", help="a small model's folder")
    parser.add_argument("--questions", type=Path, help="question records, such as a run's heldout.jsonl")
    parser.add_argument("--lm-eval", default=sys.executable, help="a Python that has lm_eval")
    parser.add_argument("--rounds", type=int, default=3, help="of the interleaved timing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "harness":
            harness(args.model, args.questions, Path(folder), args.lm_eval)
        elif args.what == "sampler":
            sampler(args.model, args.questions, Path(folder), args.rounds)
        else:
            million(Path(folder))


if __name__ == "__main__":
    main()

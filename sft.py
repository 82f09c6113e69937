"""Chain-of-thought cold start: supervised fine-tuning on verified reasoning (section 3.2).

Each row of the data is either a chat, {"messages": [...]}, of which only the assistant's tokens are trained on, the
stop token included, or plain text, {"text": "..."}, of which all tokens are. The loss is the mean negative
log-likelihood of the trained tokens of the whole batch, so it does not depend on micro-batches or the number of
processes.

Which tokens are the assistant's follows from the chat template itself: what the template adds to the conversation
when the assistant's turn is appended to a generation prompt is that turn. `--pack` puts several short sequences into
one row, where none sees another: the same gradient, with less padding.

Deviations from the paper, which gives no hyperparameters: all of them.

Reads cot.jsonl. Writes sft/ (a Hugging Face folder; with --lora also sft/adapter/), metrics.jsonl; while it runs,
sft.state/ (checkpoints).

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 PET_RDZV_BACKEND=c10d PET_RDZV_CONF=store_type=file    # on loopback
    torchrun --nproc_per_node 8 -- sft.py --model Qwen/Qwen2.5-7B-Instruct    # our recipe for the paper's 7B setting
    python sft.py --model Qwen/Qwen2.5-1.5B-Instruct --lora 16 --lr 1e-4                         # one GPU, see lora.py
    python sft.py --run runs/tiny --model data/base --epochs 1 --batch-size 8 --lr 1e-3           # the tiny recipe
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ == "__main__":  # first: the rest takes seconds to import
    can_stop()

import argparse
import itertools
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

import fsdp_utils
from fsdp_utils import TrainingLoop, optimizer_step
from lora import Adapters, add_lora_arguments
from plan import checkpointing
from policy import Example, Policy, accumulate_gradient, load_config, score, stop_tokens
from reward import keeps_turn, prompt_text, rendered
from rollout import Sampler
from tools.cli import (
    UserError,
    above,
    at_least,
    fraction,
    progress_bar,
    proper_fraction,
    run_stage,
    seed_number,
    stage_parser,
)
from tools.run import RunDir, digest, read_jsonl

# ------------------------------------------------------------------------------------------------------------- the data


def chat_example(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> Example:
    """Tokens of a chat whose last turn is the assistant's; that turn is scored up to and including its stop token.

    Prompt and turn are tokenised apart, as they are when the model generates. Raises UserError if the template does not
    continue a generation prompt with the assistant's turn, or does not end it with a stop token.
    """
    prompt, whole = prompt_text(tokenizer, messages[:-1]), rendered(tokenizer, messages)
    if not whole.startswith(prompt):
        raise UserError("the chat template does not continue its own generation prompt with the assistant's turn")
    if not keeps_turn(messages[-1]["content"], whole[len(prompt) :]):
        raise UserError("the chat template leaves out a part of the assistant's turn, such as its reasoning")
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    turn = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    while turn and turn[-1] not in stops:  # what a template puts after the stop token is never generated
        turn.pop()
    if not turn:
        raise UserError(f"the chat template ends the assistant's turn with none of the stop tokens {stops}")
    return Example(prompt_ids + turn, [False] * len(prompt_ids) + [True] * len(turn))


def text_examples(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Example]:
    """Plain text and an end token, cut into pieces of `max_length` tokens; all tokens but the first are scored.

    Raises UserError if the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end token for plain text; name one as eos_token in tokenizer_config.json")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    pieces = [ids[start : start + max_length] for start in range(0, len(ids), max_length)]
    return [Example(piece, [False] + [True] * (len(piece) - 1)) for piece in pieces if len(piece) > 1]


def row_problem(row: dict[str, Any]) -> str | None:
    """Why a row of the data cannot be trained on, in a few words; None if it can."""
    if "messages" not in row:
        if "text" not in row:
            return 'neither "messages" nor "text"'
        return None if isinstance(row["text"], str) else '"text" is not a string'
    messages = row["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        return '"messages" is not a list of two messages or more'
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            return 'a message is not {"role": "...", "content": "..."}'
    return None if messages[-1]["role"] == "assistant" else "the last message is not the assistant's"


def load_examples(path: Path, made_by: str, tokenizer: Any, stops: list[int], max_length: int) -> list[Example]:
    """All rows of the data as examples, by name. Chats of more than `max_length` tokens are left out, and counted."""
    examples, too_long = [], 0
    rows = progress_bar(read_jsonl(path, made_by), desc="tokenize", unit="row", disable=fsdp_utils.rank() > 0)
    for number, row in enumerate(rows, 1):
        problem = row_problem(row)
        if problem:
            raise UserError(f"{path}, row {number}: {problem}")
        if "messages" in row:
            made = [chat_example(row["messages"], tokenizer, stops)]
            if len(made[0].tokens) > max_length:
                too_long += 1
                continue
        else:
            made = text_examples(row["text"], tokenizer, max_length)
        for example in made:
            example.name = f"{path.name} row {number}"
        examples += made
    if too_long and fsdp_utils.rank() == 0:
        print(f"{too_long} chats of more than {max_length} tokens are left out (--max-length)")
    if not examples:
        raise UserError(f"{path} holds nothing to train on; make it again with: {made_by}")
    return examples


def lengthened(examples: list[Example], length: int, count: int) -> list[Example]:
    """`--worst-case`: `count` sequences of `length` tokens each, those of the examples over and over."""
    return [
        Example(*(list(itertools.islice(itertools.cycle(part), length)) for part in (item.tokens, item.scored)))
        for item in itertools.islice(itertools.cycle(examples), count)
    ]


def batches_of_epoch(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches of indices, shuffled. (Like lengths meet in micro-batches, where padding costs.)"""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def batches_from(examples: list[Example], batch_size: int, seed: int, step: int) -> Iterator[list[Example]]:
    """The batches from a step on, epoch after epoch."""
    epoch, done = divmod(step, math.ceil(len(examples) / batch_size))
    for number in itertools.count(epoch):
        for batch in batches_of_epoch(len(examples), batch_size, seed, number)[done:]:
            yield [examples[index] for index in batch]
        done = 0


# --------------------------------------------------------------------------------------------------------- the training


def cosine_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the first `warmup` share of the steps, then a cosine down to a tenth of the peak."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return peak * (step + 1) / ramp
    progress = (step - ramp) / max(1, steps - ramp)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_step(
    policy: Policy, batch: list[Example], token_budget: int, device: torch.device, packed: bool = False
) -> tuple[float, int, list[str]]:
    """Accumulate the gradient of the batch's mean negative log-likelihood.

    Returns that loss (nats a token), the tokens it is the mean of, and the names of those of this rank's sequences
    whose loss is not finite.
    """
    tokens = sum(sum(example.scored) for example in batch)
    total = 0.0

    def negative_log_likelihood(_: list[int], logprobs: Tensor, __: Tensor) -> Tensor:
        nonlocal total
        loss = -logprobs.sum() / tokens
        total += loss.item()
        return loss

    share = fsdp_utils.my_share(batch)
    suspects = accumulate_gradient(policy, share, negative_log_likelihood, token_budget, device, packed=packed)
    return fsdp_utils.reduce_over_ranks([total], "sum", device)[0], tokens, suspects


def validation_loss(
    policy: Policy, examples: list[Example], token_budget: int, device: torch.device, packed: bool = False
) -> float:
    """Mean negative log-likelihood (nats a token) of examples that are not trained on."""
    scores = score(policy, fsdp_utils.my_share(examples), token_budget, device, packed=packed)
    total = -sum(values.double().sum().item() for values in scores)
    return fsdp_utils.reduce_over_ranks([total], "sum", device)[0] / sum(sum(example.scored) for example in examples)


def show_answers(
    policy: Policy, examples: list[Example], tokenizer: PreTrainedTokenizerBase, stops: list[int], step: int
) -> None:
    """Print what the policy now answers to the examples' prompts, greedily, in at most 256 tokens."""
    if not examples:
        return
    prompts = [example.tokens[: example.scored.index(True)] for example in examples]
    room = policy.model.config.max_position_embeddings - max(map(len, prompts))
    with fsdp_utils.gathered(policy):
        try:
            groups = Sampler(policy.model).generate(
                prompts, max_new_tokens=min(256, room), stop_ids=stops, temperature=0.0
            )
        except ValueError as error:
            raise UserError(f"cannot sample answers: {error}; --samples 0 does without") from error
    if fsdp_utils.rank() == 0:
        for answer in tokenizer.batch_decode([group[0].tokens for group in groups]):
            # As JSON: control characters in the model's text must not reach the terminal.
            tqdm.write(f"step {step}: {json.dumps(answer, ensure_ascii=False)}")


def train(args: argparse.Namespace, run: RunDir, data: Path, made_by: str, job: fsdp_utils.Job) -> None:
    """From the model and its data, or the last checkpoint, to the cold-started model's folder."""
    recompute = checkpointing(args, load_config(args.model), job.device, args.max_length)
    how = (recompute, args.shard_over, args.cpu_offload, Adapters.of(args), args.bfloat16)
    policy, tokenizer = fsdp_utils.load_sharded(args.model, job.device, *how)
    stops = stop_tokens(policy.model, tokenizer)
    max_length = min(args.max_length, policy.model.config.max_position_embeddings)
    examples = load_examples(data, made_by, tokenizer, stops, max_length)
    random.Random(args.seed).shuffle(examples)
    if args.worst_case:
        examples = lengthened(examples, max_length, 2 * args.batch_size)
    held = min(int(len(examples) * args.validation), 512)
    validation, examples = examples[:held], examples[held:]
    optimizer = torch.optim.AdamW(
        policy.trained(), lr=args.lr, betas=(0.9, args.beta2), weight_decay=args.weight_decay, fused=True
    )
    chats = digest([digest(example.tokens) for example in examples])  # as rendered: a template may write a date
    inputs = {data.name: data, "rendering of the chats": chats}
    loop = TrainingLoop(run, args, policy, optimizer, job, args.model, **inputs)
    steps = args.steps or math.ceil(args.epochs * math.ceil(len(examples) / args.batch_size))
    if fsdp_utils.rank() == 0:
        print(f"{len(examples)} sequences, {steps} steps from step {loop.done}, {held} sequences for validation")

    batches = batches_from(examples, args.batch_size, args.seed, loop.done)
    for step in loop.steps(steps):
        began, batch = time.time(), next(batches)
        optimizer.param_groups[0]["lr"] = cosine_rate(step, steps, args.lr, args.warmup)
        loss, tokens, suspects = train_step(policy, batch, args.micro_tokens, job.device, args.pack)
        names = [example.name for example in batch]
        norm = optimizer_step(policy, optimizer, args.max_grad_norm, step + 1, loss, suspects, names)
        measured = {"loss": loss, "grad_norm": norm, "trained_tokens": tokens}
        last = step + 1 == steps
        if validation and (last or (step + 1) % args.validate_every == 0):
            measured["val_loss"] = validation_loss(policy, validation, args.micro_tokens, job.device, args.pack)
            show_answers(policy, validation[: args.samples], tokenizer, stops, step + 1)
        measured["tokens_per_s"] = sum(len(example.tokens) for example in batch) / (time.time() - began)
        shown = {name: f"{measured[name]:.3f}" for name in ("loss", "val_loss") if name in measured}
        loop.end_step(measured, shown, dict, last)
    loop.finish(tokenizer)


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--run", "--run-dir", default="runs/main", help="run directory")
    files.add_argument("--model", default="Qwen/Qwen2.5-7B-Instruct", help="model to start from: folder or hub id")
    files.add_argument(
        "--data", default="cot.jsonl", help="file of the run directory with chats or texts, one per line"
    )
    files.add_argument("--output", default="sft", help="folder of the run directory for the trained model")

    how_long = parser.add_argument_group("how long")
    how_long.add_argument("--epochs", type=above(0.0), default=3.0, help="passes over the data; few rows bear several")
    how_long.add_argument(
        "--steps", type=at_least(0), default=0, help="optimiser steps instead of epochs; 0: by --epochs"
    )
    how_long.add_argument("--batch-size", type=at_least(1), default=64, help="sequences per step, over all processes")
    how_long.add_argument(
        "--max-length", type=at_least(2), default=4096, help="tokens; longer chats are left out, texts are cut"
    )

    optimiser = parser.add_argument_group("optimiser")
    optimiser.add_argument(
        "--lr", type=above(0.0), default=1e-5, help="peak learning rate; usual for 7B instruct models"
    )
    optimiser.add_argument("--warmup", type=fraction, default=0.05, help="share of the steps; Adam's moments need it")
    optimiser.add_argument(
        "--beta2", type=proper_fraction, default=0.95, help="of Adam; short runs want a short memory"
    )
    optimiser.add_argument(
        "--weight-decay", type=at_least(0.0), default=0.0, help="of AdamW; a cold start is too short for it"
    )
    optimiser.add_argument(
        "--max-grad-norm", type=above(0.0), default=1.0, help="longer gradients are scaled down to it"
    )

    add_lora_arguments(parser)
    machine = fsdp_utils.add_machine_arguments(parser, save_every=100)
    machine.add_argument(
        "--validation", type=proper_fraction, default=0.02, help="share of the sequences held out, at most 512"
    )
    machine.add_argument("--validate-every", type=at_least(1), default=50, help="steps between validation losses")
    machine.add_argument("--samples", type=at_least(0), default=2, help="held-out prompts answered at each validation")
    machine.add_argument("--seed", type=seed_number, default=0, help="of the shuffles")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    run = RunDir(args.run)
    if run.finished(args.output):
        shutil.rmtree(run.output(args.output + ".state"), ignore_errors=True)  # if a crash came in between
        return
    data = run.path / args.data
    made_by = run.made_by(args.data)
    if not data.exists():
        raise UserError(f"{data} does not exist; make it with: {made_by}")
    with fsdp_utils.job() as job:
        if not fsdp_utils.on_first_rank(lambda: run.begin(args.output)):
            return
        fsdp_utils.seed_everything(args.seed)
        train(args, run, data, made_by, job)


if __name__ == "__main__":
    run_stage(main)

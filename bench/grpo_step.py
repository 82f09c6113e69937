"""A GRPO step, sampling included: grpo.py against TRL's GRPOTrainer, on the same model, prompts, rewards and lengths.

    OMP_NUM_THREADS=1 python -m bench.grpo_step [--steps 4] [--rounds 3]        # needs trl==1.16.* as well

The model is data/base (1.4 M parameters). A step is 8 questions of 8 responses of 64 tokens each, sampled at
temperature 1 with no stop token, so that both sides sample and train on the very same number of tokens; the reward is
the mean token id, so that no response is without an advantage. Both take one AdamW step on the sum over a
response's tokens. One thread, one process; rounds of a few steps of each side alternate; the time is the processor's,
the minimum over all steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import grpo
from policy import Policy, load_policy
from question import Question
from reward import Reward, prompt_messages, prompt_tokens
from rollout import Sampler

QUESTIONS, GROUP, LENGTH, LR = 8, 8, 64, 1e-5
MODEL = Path(__file__).parents[1] / "data" / "base"


def mean_token(tokens: list[int]) -> float:
    return sum(tokens) / len(tokens) / 1000


def make_questions(count: int) -> list[Question]:
    names = ("Asthma", "Gout", "Malaria", "Scurvy")
    return [
        Question(
            str(number), "bench", "en", f"Which of these is number {number}?",
            {letter: f"{name} {number}" for letter, name in zip("ABCD", names)}, "ABCD"[number % 4],
        )
        for number in range(count)
    ]  # fmt: skip


class Ours:
    """`rollout` and `update_policy` of grpo.py, as its training loop calls them."""

    def __init__(self, policy: Policy, tokenizer: Any, device: torch.device, questions: int, length: int, **flags: Any):
        flags |= {
            "with_std": False,
            "token_mean": False,
            "pack": False,
            "worst_case": False,
            "clip": 0.0,
            "kl": 0.0,
            "lr": LR,
            "seed": 0,
        }
        args = Namespace(**flags, max_grad_norm=1.0, temperature=1.0, max_new_tokens=length)
        self.questions, self.length, self.step = make_questions(questions), length, 0
        prompts = {question.id: prompt_tokens(tokenizer, prompt_messages(question)) for question in self.questions}
        sampler = Sampler(policy.model, args.cache_gb * 1e9)
        self.setup = grpo.Setup(args, policy, tokenizer, sampler, [], device, prompts)
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, fused=True)

    def phases(self) -> Iterator[str]:
        """One step: names each phase when it has ended."""
        groups = grpo.rollout(self.setup, self.questions, GROUP, f"step {self.step}")
        for group in groups:
            group.rewards = [Reward(mean_token(sample.tokens), False, False) for sample in group.samples]
        yield "sampling"
        measured = grpo.update_policy(self.setup, groups, len(self.questions), self.optimizer, self.step)
        assert measured["trained_tokens"] == len(self.questions) * GROUP * self.length
        self.step += 1
        yield "updating"

    def steps(self, count: int) -> list[float]:
        """Processor seconds of each of `count` steps."""
        seconds = []
        for _ in range(count):
            began = time.process_time()
            list(self.phases())
            seconds.append(time.process_time() - began)
        return seconds


class Timer(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self.began)


def trl_steps(questions: list[Question], count: int) -> list[float]:
    """Seconds of each of `count` steps of a fresh GRPOTrainer (its loading is not counted)."""
    from datasets import Dataset  # the other half of this file does without both
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = load_policy(MODEL)
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [mean_token(ids) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, per_device_train_batch_size=QUESTIONS * GROUP, num_generations=GROUP, max_steps=count,
            max_completion_length=LENGTH, generation_kwargs={"min_new_tokens": LENGTH}, temperature=1.0, top_p=1.0,
            top_k=0, beta=0.0, scale_rewards=False, loss_type="dr_grpo", learning_rate=LR, gradient_checkpointing=False,
            shuffle_dataset=False, seed=0,
        )  # fmt: skip
        data = Dataset.from_list([{"prompt": prompt_messages(question)} for question in questions])
        timer = Timer()
        GRPOTrainer(
            model=model, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer,
            callbacks=[timer],
        ).train()  # fmt: skip
    assert lengths == [LENGTH] * (QUESTIONS * GROUP * count), "the two sides sample different numbers of tokens"
    return timer.seconds


def against_trl(steps: int, rounds: int) -> None:
    torch.set_num_threads(1)
    flags = {"share_prompts": True, "micro_tokens": 1024, "cache_gb": 0.5}
    model, tokenizer = load_policy(MODEL)
    ours = Ours(Policy(model), tokenizer, torch.device("cpu"), QUESTIONS, LENGTH, **flags)
    mine, theirs = [], []
    for _ in range(rounds):
        mine += ours.steps(steps)
        theirs += trl_steps(ours.questions, steps)
    tokens = QUESTIONS * GROUP * LENGTH
    print(f"{QUESTIONS} questions x {GROUP} responses x {LENGTH} tokens, one thread, {rounds} x {steps} steps")
    for name, seconds in (("grpo.py", mine), ("TRL", theirs)):
        print(f"  {name:8} {min(seconds):6.2f} s a step   {tokens / min(seconds):6.0f} tokens/s")
    print(f"  grpo.py is {min(theirs) / min(mine):.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    against_trl(args.steps, args.rounds)


if __name__ == "__main__":
    main()

"""Two-stage reinforcement learning with verifiable rewards: GRPO, a curriculum, hard-sample mining (section 3.3).

For every question x the current policy writes a group of k responses y_1 .. y_k. Each earns r(x, y_i): its answer is
correct, its format holds (reward.py). Responses better than their group's average become more likely, the others
less:

    loss = - E_x [ 1/k sum_i log pi(y_i | x) A(x, y_i) ]        (Eq. 1)   `grpo_loss`
    A(x, y_i) = r(x, y_i) - b(x)                                (Eq. 2)   `normalize_rewards_per_group`
    b(x) = 1/k sum_j r(x, y_j)                                  (Eq. 3)   `group_baseline`

That is all: log pi(y | x) is the *sum* of the response's token log-probabilities, advantages are not divided by a
standard deviation, nothing is clipped, no KL term, and each batch of samples is used for one update and thrown away.
Samples come from the policy itself at temperature 1 and top-p 1: truncating them would bias Eq. 1, whose expectation
is over pi.

    stage 1   a balanced blend of Easy and Moderate questions, until rewards become sparse: most groups are all right
              or all wrong (zero advantage, nothing to learn from) and the reward no longer rises
    stage 2   in rounds: the policy answers the whole dataset several times, and what it repeatedly fails, Difficult
              questions first, is trained on next: each tier gets a share by its failure rate times its weight.
              Questions that were never solved in many attempts are set aside, and every round samples larger groups
              ("we increase the number of rollouts")

Deviations from the paper, which gives no numbers: all hyperparameters, the plateau test, the weights of the mix.

Reads train.jsonl and a model (stage 1: sft/, stage 2: rl1/). Writes rl1/ or rl2/ (Hugging Face folders), ledger.jsonl
(stage 2: what each question's attempts came to), metrics.jsonl; while it runs, rl1.state/ or rl2.state/
(checkpoints, the mining's journal). Killed or asked to stop (SIGTERM), the same command goes on where it was.

    torchrun --nproc_per_node 8 -- grpo.py --stage 2            # the paper's 7B recipe; --nnodes for several nodes
    python grpo.py --stage 2 --model Qwen/Qwen3-32B --gpus 64 --cpu-offload --plan      # does it fit, how fast is it
    bash run.sh tiny rl1 --with-std                             # an ablation beside it
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import shutil
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import fsdp_utils
from fsdp_utils import TrainingState
from plan import Machine, Work, plan
from policy import Example, Policy, accumulate_gradient, load_config, score, stop_tokens
from question import TIERS, Question, load_questions
from reward import Reward, prompt_messages, prompt_tokens, response_opening, reward
from rollout import Sample, Sampler
from tools.cli import (
    UserError,
    above,
    at_least,
    fraction,
    progress_bar,
    proper_fraction,
    run_stage,
    stage_parser,
)
from tools.run import Metrics, RunDir, append_jsonl, read_jsonl, write_jsonl

MINING_PORTION = 2048  # questions between two entries in the mining's journal

# ------------------------------------------------------------------------------------------------------------- Eqs. 1-3


def group_baseline(rewards: Tensor) -> Tensor:
    """Eq. 3: b(x) = 1/k sum_j r(x, y_j), the mean of each group. Rewards (questions, k), baselines (questions, 1)."""
    return rewards.mean(1, keepdim=True)


def normalize_rewards_per_group(rewards: Tensor, with_std: bool = False) -> Tensor:
    """Eq. 2: A(x, y_i) = r(x, y_i) - b(x), how much better than its group a response is. Both (questions, k).

    `with_std` divides by the group's standard deviation as well, as DeepSeekMath's GRPO does; the paper does not.
    """
    advantages = rewards - group_baseline(rewards)
    if with_std:
        advantages = advantages / (rewards.std(1, keepdim=True, unbiased=False) + 1e-6)
    # A group of equal rewards has no advantage at all; the rounding of its mean must not pretend one.
    return torch.where((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0, advantages)


def grpo_loss(logprobs: Tensor, advantages: Tensor, responses: int) -> Tensor:
    """Eq. 1: - 1/(questions k) sum_i log pi(y_i | x) A(x, y_i), with log pi(y_i | x) = sum_t log pi(y_i,t | x, y_i,<t).

    `logprobs` (N,) are token log-probabilities of any part of the batch; `advantages` (N,) are those of each token's
    response, with --token-mean over its length. `responses` is the number of responses of the whole batch, so the
    parts' losses add up to the batch's.
    """
    return -(logprobs * advantages).sum() / responses


# ---------------------------------------------------------------------------------------------- rollout, reward, update


@dataclass(slots=True)
class Group:
    """One question's responses with their rewards."""

    question: Question
    prompt: list[int]
    samples: list[Sample]
    rewards: list[Reward]


@dataclass(slots=True)
class Setup:
    """What every phase needs and none changes."""

    args: argparse.Namespace
    policy: Policy
    tokenizer: Any
    sampler: Sampler
    stops: list[int]
    device: torch.device
    prompts: dict[str, list[int]] = field(default_factory=dict)  # question id -> prompt tokens
    reference: Policy | None = None  # the policy before training, for --kl
    opening: str = ""  # what the chat template itself writes of a response

    def my_share(self, items: list[Any]) -> list[Any]:
        return items[fsdp_utils.rank() :: fsdp_utils.world_size()]


def rollout(
    setup: Setup, questions: list[Question], group_size: int, occasion: str, progress: tqdm | None = None
) -> list[Group]:
    """Sample `group_size` responses to each of this rank's questions from the current policy, and reward them.

    `occasion` seeds the sampling together with the question's id: the same occasion gives the same responses.
    `progress` counts finished responses.
    """
    args = setup.args
    seeds = [random.Random(f"{args.seed}/{occasion}/{question.id}").getrandbits(32) for question in questions]
    with fsdp_utils.gathered(setup.policy):
        try:
            samples = setup.sampler.generate(
                [setup.prompts[question.id] for question in questions],
                samples=group_size,
                max_new_tokens=args.max_new_tokens,
                stop_ids=setup.stops,
                temperature=args.temperature,
                seeds=seeds,
                on_sample=(lambda *_: progress.update()) if progress else None,
            ) if questions else []  # fmt: skip
        except ValueError as error:  # the cache is too small, the policy is broken
            raise UserError(f"{occasion}: {error} (--cache-gb {args.cache_gb}, --lr {args.lr})") from error
        setup.sampler.free()  # the update needs the memory
    groups = []
    for question, group in zip(questions, samples):
        texts = setup.tokenizer.batch_decode([response_tokens(sample) for sample in group])
        rewards = [reward(setup.opening + text, question.answer) for text in texts]
        groups.append(Group(question, setup.prompts[question.id], group, rewards))
    return groups


def response_tokens(sample: Sample) -> list[int]:
    """The sample without its stop token, as a reader sees it."""
    return sample.tokens if sample.stop_id is None else sample.tokens[:-1]


def update_policy(
    setup: Setup, groups: list[Group], questions: int, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, float]:
    """One optimiser step on Eq. 1 over all ranks' groups (`questions` in all); what it measured.

    Groups of equal rewards have zero advantage and hence exactly zero gradient: they go through neither forward nor
    backward.
    """
    args = setup.args
    rewards = torch.tensor([[item.total for item in group.rewards] for group in groups], dtype=torch.float64)
    group_advantages = normalize_rewards_per_group(rewards, args.with_std) if groups else rewards
    # For each example of the trainer, a value for each of its response tokens:
    examples, token_advantages, token_weights, sampler_logprobs = [], [], [], []
    for group, row in zip(groups, group_advantages.tolist()):
        trained = [(sample, advantage) for sample, advantage in zip(group.samples, row) if advantage != 0 or args.kl]
        for part in [trained] if args.share_prompts else [[item] for item in trained]:
            if part:
                samples = [sample for sample, _ in part]
                weights = [1 / len(sample.tokens) if args.token_mean else 1.0 for sample in samples]
                weighted = [advantage * weight for (_, advantage), weight in zip(part, weights)]
                examples.append(example_of(group, samples))
                token_advantages.append(per_token(weighted, samples))
                token_weights.append(per_token(weights, samples))
                sampler_logprobs.append([logprob for sample in samples for logprob in sample.logprobs])

    responses = questions * len(groups[0].samples) if groups else 1
    passes = (args.micro_tokens, setup.device, args.temperature, args.pack)
    references = score(setup.reference, examples, *passes) if setup.reference else []
    gaps, entropy_sum, loss_sum = [], 0.0, 0.0

    def loss_of(indices: list[int], logprobs: Tensor, entropies: Tensor) -> Tensor:
        nonlocal entropy_sum, loss_sum
        advantages, weights, sampled = (
            logprobs.new_tensor([value for index in indices for value in values[index]])
            for values in (token_advantages, token_weights, sampler_logprobs)
        )
        gaps.append((logprobs.detach() - sampled).cpu())
        entropy_sum += entropies.sum().item()
        if args.clip:
            loss = clipped_loss(logprobs, sampled, advantages, responses, args.clip)
        else:
            loss = grpo_loss(logprobs, advantages, responses)
        if args.kl:
            reference = torch.cat([references[index] for index in indices])
            loss = loss + args.kl * kl_penalty(logprobs, reference, weights, responses)
        loss_sum += loss.item()
        return loss

    suspects = accumulate_gradient(setup.policy, examples, loss_of, *passes)
    gap = torch.cat(gaps) if gaps else torch.zeros(0)  # log pi of the trainer minus that of the sampler, token by token
    outside = ((gap.exp() > 1.1) | (gap.exp() < 0.9)).sum().item()
    sums = [float(len(gap)), entropy_sum, loss_sum, gap.abs().sum().item(), float(outside)]
    tokens, entropy, loss, gap_sum, outside = fsdp_utils.reduce_over_ranks(sums, "sum", setup.device)
    if not tokens:  # every group of every rank has zero advantage: there is no gradient
        return {"grad_norm": 0.0, "loss": 0.0}
    norm = fsdp_utils.clip_grad_norm(setup.policy, args.max_grad_norm)
    fsdp_utils.require_finite(step + 1, loss, norm, suspects, [example.name for example in examples])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "loss": loss,
        "grad_norm": norm,
        "entropy": entropy / tokens,
        "logprob_gap": gap_sum / tokens,
        "logprob_gap_p95": p95(torch.cat(fsdp_utils.gather_objects(gap.abs()))),
        "ratio_outside": outside / tokens,
        "trained_tokens": tokens,
    }


def per_token(values: list[float], samples: list[Sample]) -> list[float]:
    """Each sample's value, once for each of its tokens."""
    return [value for value, sample in zip(values, samples) for _ in sample.tokens]


def example_of(group: Group, samples: list[Sample]) -> Example:
    """The prompt and one response behind it, or several that share it."""
    tokens, branches = list(group.prompt), [0] * len(group.prompt)
    for number, sample in enumerate(samples, 1):
        tokens += sample.tokens
        branches += [number] * len(sample.tokens)
    scored = [branch > 0 for branch in branches]
    return Example(tokens, scored, branches if len(samples) > 1 else None, group.question.id)


def p95(values: Tensor) -> float:
    """The 95th percentile of values (N,), N > 0."""
    return values.kthvalue(max(1, round(0.95 * len(values)))).values.item()


def rollout_statistics(setup: Setup, groups: list[Group]) -> dict[str, float]:
    """Means over the responses of all ranks, and the share of groups with zero advantage."""
    rewards = [item for group in groups for item in group.rewards]
    samples = [sample for group in groups for sample in group.samples]
    sums = [
        len(rewards),
        sum(item.total for item in rewards),
        sum(item.correct for item in rewards),
        sum(item.well_formed for item in rewards),
        sum(sample.stop_id is None for sample in samples),
        sum(len(sample.tokens) for sample in samples),
        len(groups),
        sum(len({item.total for item in group.rewards}) == 1 for group in groups),
    ]
    n, total, correct, formed, cut, tokens, all_groups, zero = fsdp_utils.reduce_over_ranks(
        [float(value) for value in sums], "sum", setup.device
    )
    return {
        "reward": total / n,
        "accuracy": correct / n,
        "format": formed / n,
        "truncated": cut / n,
        "length": tokens / n,
        "zero_advantage": zero / all_groups,
        "sampled_tokens": tokens,
    }


# ---------------------------------------------------------------------- ablations: what the paper leaves out of Eq. 1


def clipped_loss(logprobs: Tensor, sampled: Tensor, advantages: Tensor, responses: int, clip: float) -> Tensor:
    """PPO's surrogate, - 1/(questions k) sum_t min(r_t A, clip(r_t, 1 - clip, 1 + clip) A), r_t = pi / pi_sampled.

    Shapes as in `grpo_loss`. While r_t = 1, in the first of the `--updates` on a batch, its gradient is Eq. 1's.
    """
    ratio = (logprobs - sampled).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages).sum() / responses


def kl_penalty(logprobs: Tensor, reference: Tensor, scale: Tensor, responses: int) -> Tensor:
    """DeepSeekMath's estimate (its Eq. 4) of the divergence from a reference policy, a response's tokens summed.

    All (N,); `scale` is each token's weight, 1 unless the loss takes a response's mean.
    """
    difference = reference - logprobs
    return ((difference.exp() - difference - 1) * scale).sum() / responses


# ---------------------------------------------------------------------------------------------- stage 1: the curriculum


def nth_batch(pool: list[Question], step: int, size: int, seed: str) -> list[Question]:
    """Batch number `step` of an endless pass over the pool, reshuffled every epoch: a function of its arguments."""
    batch = []
    shuffled: dict[int, list[int]] = {}
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, len(pool))
        if epoch not in shuffled:
            shuffled[epoch] = list(range(len(pool)))
            random.Random(f"{seed}/{epoch}").shuffle(shuffled[epoch])
        batch.append(pool[shuffled[epoch][place]])
    return batch


def blended_batch(questions: list[Question], step: int, size: int, seed: int) -> list[Question]:
    """Stage 1's batch: half Easy, half Moderate (whichever of the two there are)."""
    pools = [pool for tier in TIERS[:2] if (pool := [question for question in questions if question.tier == tier])]
    if not pools:
        raise UserError("train.jsonl has neither Easy nor Moderate questions for stage 1")
    share = size // len(pools)
    sizes = [size - share * (len(pools) - 1), *[share] * (len(pools) - 1)]
    return [
        question
        for number, (pool, part) in enumerate(zip(pools, sizes))
        for question in nth_batch(pool, step, part, f"{seed}/blend/{number}")
    ]


class Plateau:
    """The end of stage 1: "performance plateaus, signaled by the emergence of reward sparsity" (section 3.3).

    Over the last `window` steps, at least `sparsity` of the groups had zero advantage, and the reward's second half
    is not above its first half by more than `slope`.
    """

    def __init__(self, window: int, sparsity: float, slope: float):
        self.window, self.sparsity, self.slope = window, sparsity, slope
        self.history: deque[tuple[float, float]] = deque(maxlen=window)  # reward, share of zero-advantage groups

    def reached(self, reward: float, zero_advantage: float) -> str | None:
        """Take one step's measurements in; the reason to stop, or None."""
        self.history.append((reward, zero_advantage))
        if len(self.history) < self.window:
            return None
        rewards = [item[0] for item in self.history]
        half = self.window // 2
        rise = sum(rewards[half:]) / (self.window - half) - sum(rewards[:half]) / half
        sparse = sum(item[1] for item in self.history) / self.window
        if sparse >= self.sparsity and rise <= self.slope:
            return (
                f"rewards are sparse: {sparse:.0%} of groups have no advantage (limit {self.sparsity:.0%}), the reward "
                f"rose by {rise:+.3f} within {self.window} steps (limit {self.slope})"
            )
        return None


# ------------------------------------------------------------------------------------------ stage 2: hard-sample mining


@dataclass(slots=True)
class Entry:
    """One line of the ledger: what a question's attempts came to. `recent` is the pass rate of its latest occasion."""

    id: str
    tier: str
    attempts: int = 0
    passes: int = 0
    recent: float = 0.0
    last_seen: int = -1


class Ledger:
    """Every question's attempts and passes, and the priorities that follow from them."""

    TIER_WEIGHTS = {"easy": 1.0, "moderate": 1.5, "difficult": 2.0}  # "particularly on Difficult questions"

    def __init__(self, questions: list[Question]):
        self.entries = {question.id: Entry(question.id, question.tier) for question in questions}

    def record(self, outcomes: list[tuple[str, int, int]], step: int) -> None:
        """Add (question id, attempts, passes) of one occasion."""
        for question_id, attempts, passes in outcomes:
            entry = self.entries[question_id]
            entry.attempts += attempts
            entry.passes += passes
            entry.recent = passes / attempts
            entry.last_seen = step

    def open_entries(self, tier: str, set_aside: int) -> list[Entry]:
        """A tier's questions, without those that were never solved in `set_aside` attempts or more."""
        entries = [entry for entry in self.entries.values() if entry.tier == tier]
        return [entry for entry in entries if entry.passes > 0 or entry.attempts < set_aside]

    def tier_mix(self, set_aside: int) -> dict[str, float]:
        """Each tier's share of the next round: its measured failure rate times its weight."""
        weakness = {}
        for tier in TIERS:
            entries = self.open_entries(tier, set_aside)
            failed = sum(1 - entry.recent for entry in entries) / max(1, len(entries))
            weakness[tier] = failed * self.TIER_WEIGHTS[tier]
        total = sum(weakness.values())
        return {tier: value / total if total else 0.0 for tier, value in weakness.items()}

    def mine(self, count: int, set_aside: int, rng: random.Random) -> list[str]:
        """Ids of `count` questions in random order, fewer if fewer failed.

        Each tier gets its share of the mix, and what it cannot fill goes to the others; within a tier questions are
        drawn by failure rate, without replacement.
        """
        failed = {tier: [e for e in self.open_entries(tier, set_aside) if e.recent < 1] for tier in TIERS}
        mix = {tier: share for tier, share in self.tier_mix(set_aside).items() if share > 0}
        mined: list[str] = []
        left = sum(mix.values())
        for tier in sorted(mix, key=lambda tier: len(failed[tier]) / mix[tier]):  # the scarcest first
            quota = round((count - len(mined)) * mix[tier] / left)
            left -= mix[tier]
            # Weighted sampling without replacement: the largest u ** (1 / weight) win (Efraimidis and Spirakis).
            keys = [(math.log(1 - rng.random()) / (1 - entry.recent), entry.id) for entry in failed[tier]]
            mined += [question_id for _, question_id in sorted(keys, reverse=True)[:quota]]
        rng.shuffle(mined)
        return mined

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.entries.values()]

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Go on from `rows()`. Raises UserError if they are not about the same questions."""
        restored = {row["id"]: Entry(**row) for row in rows}
        tiers, found = ({e.id: e.tier for e in entries.values()} for entries in (self.entries, restored))
        if tiers != found:
            changed = len(set(tiers.items()) ^ set(found.items()))
            raise UserError(
                f"train.jsonl has changed since the checkpoint ({changed} questions came, went or have another tier); "
                "put it back, or delete the .state folder to start over"
            )
        self.entries = restored

    def summary(self, mined: list[str], set_aside: int) -> dict[str, dict[str, float]]:
        """What was mined and why, by tier; `passed` is the share of the last attempts that were right."""
        chosen = Counter(self.entries[question_id].tier for question_id in mined)
        mix = self.tier_mix(set_aside)
        tiers = {tier: [entry for entry in self.entries.values() if entry.tier == tier] for tier in TIERS}
        return {
            tier: {
                "questions": len(entries),
                "passed": sum(entry.recent for entry in entries) / len(entries),
                "mix": mix[tier],
                "mined": chosen[tier],
                "set_aside": len(entries) - len(self.open_entries(tier, set_aside)),
            }
            for tier, entries in tiers.items()
            if entries
        }


def outcomes_of(groups: list[Group]) -> list[tuple[str, int, int]]:
    """(question id, attempts, passes) of every rank's groups, on every rank in the same order."""
    mine = [(group.question.id, len(group.rewards), sum(item.correct for item in group.rewards)) for group in groups]
    return [outcome for share in fsdp_utils.gather_objects(mine) for outcome in share]


# ------------------------------------------------------------------------------------------------------------- training


def train(setup: Setup, run: RunDir, questions: list[Question], job: fsdp_utils.Job) -> None:
    args = setup.args
    optimizer = torch.optim.AdamW(
        setup.policy.parameters(), lr=args.lr, betas=(0.9, args.beta2), weight_decay=0.0, fused=True
    )
    state = TrainingState(run.output(args.output + ".state"), setup.policy, optimizer, args)
    metrics, minings = Metrics(run, args.output), Metrics(run, "mining")
    plateau = Plateau(args.plateau_window, args.plateau_sparsity, args.plateau_slope)
    ledger = Ledger(questions)
    by_id = {question.id: question for question in questions}
    mined: list[str] = []  # this round's questions, in training order
    resumed = state.load()
    start = 0
    if resumed:
        start, mined = resumed["step"], resumed["mined"]
        ledger.restore(resumed["ledger"])
        plateau.history.extend(tuple(item) for item in resumed["history"])
    main_rank = fsdp_utils.rank() == 0
    if main_rank:
        metrics.resume(start)
        minings.rewind(start - 1)  # a checkpoint at this step was saved before its mining

    progress = progress_bar(
        range(start, args.steps), initial=start, total=args.steps, desc=args.output, unit="step", disable=not main_rank
    )
    for step in progress:
        began = time.time()
        group_size, timing = args.group_size, {}
        number, place = divmod(step, args.round_steps)  # of stage 2: the round, and the step within it
        if args.stage == 2:
            group_size = min(args.group_size + number * args.group_growth, args.max_group_size)
        if args.no_mining:
            batch = nth_batch(questions, step, args.questions, f"{args.seed}/all")
        elif args.stage == 1:
            batch = blended_batch(questions, step, args.questions, args.seed)
        else:
            if place == 0:
                mined, summary = mine(setup, ledger, questions, number, step, state.folder / "mining.jsonl", job)
                timing["seconds_mine"] = time.time() - began
                ended = None if mined else "nothing is left to mine: every question is solved or set aside"
                if main_rank:
                    minings.log(step, round=number + 1, **summary, **({"ended": ended} if ended else {}))
                    write_jsonl(run.output("ledger.jsonl"), ledger.rows())
                if ended:
                    if main_rank:
                        progress.write(f"{args.output}: stage 2 ends after step {step}: {ended}")
                    break
            batch = [by_id[mined[(place * args.questions + i) % len(mined)]] for i in range(args.questions)]

        # A question that comes up twice in a step (few are mined, an epoch ends) would get the very same samples twice.
        batch = list({question.id: question for question in batch}.values())
        sampling = time.time()
        groups = rollout(setup, setup.my_share(batch), group_size, f"stage {args.stage} step {step}")
        ledger.record(outcomes_of(groups), step)
        statistics = rollout_statistics(setup, groups)
        sampled = time.time()
        optimizer.param_groups[0]["lr"] = learning_rate(args, step)
        for _ in range(args.updates):
            update = update_policy(setup, groups, len(batch), optimizer, step)
        updated = time.time()

        done = step + 1
        ended = plateau.reached(statistics["reward"], statistics["zero_advantage"]) if args.stage == 1 else None
        if not ended and done == args.steps:
            ended = f"all {done} steps are done"
        if main_rank:
            metrics.log(
                done,
                **statistics,
                **update,
                group_size=group_size,
                **timing,
                seconds_rollout=sampled - sampling,
                seconds_update=updated - sampled,
                tokens_per_s=statistics["sampled_tokens"] / (sampled - sampling),
                peak_memory_gb=peak_memory(setup.device),
                **({"ended": ended} if ended else {}),
            )
            shown = {"acc": "accuracy", "fmt": "format", "zero": "zero_advantage", "len": "length"}
            progress.set_postfix({name: f"{statistics[key]:.2f}" for name, key in shown.items()}, refresh=False)
        if ended:
            if main_rank:
                progress.write(f"{args.output}: stage {args.stage} ends after step {done}: {ended}")
            break
        stopping = job.stopping()
        mines_next = args.stage == 2 and not args.no_mining and done % args.round_steps == 0  # and may be stopped there
        if stopping or mines_next or done % args.save_every == 0:
            state.save(done, {"mined": mined, "ledger": ledger.rows(), "history": list(plateau.history)})
        if stopping:
            job.leave(done)
    if main_rank and args.stage == 2:
        write_jsonl(run.output("ledger.jsonl"), ledger.rows())
    fsdp_utils.save_hf(setup.policy, setup.tokenizer, run.output(args.output))
    state.remove()


def learning_rate(args: argparse.Namespace, step: int) -> float:
    """Linear warm-up, then a linear decay by `lr_decay` of the peak until the last step."""
    return args.lr * min(1.0, (step + 1) / max(1, args.warmup_steps)) * (1 - args.lr_decay * step / args.steps)


def mine(
    setup: Setup, ledger: Ledger, questions: list[Question], number: int, step: int, journal: Path, job: fsdp_utils.Job
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Let the policy answer the whole dataset several times; the ids of this round's questions, and why these.

    It takes long, so `journal` keeps what each question came to: a run that was stopped goes on behind its last line.
    """
    args = setup.args
    main_rank = fsdp_utils.rank() == 0
    rows = [row for row in read_jsonl(journal, appended=True) if row["round"] == number] if journal.exists() else []
    outcomes = [(row["id"], row["attempts"], row["passes"]) for row in rows]
    answered = {row["id"] for row in rows}
    todo = [question for question in questions if question.id not in answered]
    fsdp_utils.barrier()  # all have read the journal before it grows
    portions = [todo[begin : begin + MINING_PORTION] for begin in range(0, len(todo), MINING_PORTION)]
    progress = progress_bar(
        total=sum(len(setup.my_share(portion)) for portion in portions) * args.mine_samples,
        desc=f"mining, round {number + 1}",
        unit="sample",
        leave=False,
        disable=not main_rank,
    )
    for portion in portions:
        new = outcomes_of(
            rollout(setup, setup.my_share(portion), args.mine_samples, f"mining round {number}", progress)
        )
        outcomes += new
        if main_rank:
            journal.parent.mkdir(exist_ok=True)
            append_jsonl(journal, [{"round": number, "id": i, "attempts": a, "passes": p} for i, a, p in new])
        if job.stopping():
            job.leave(step)
    progress.close()
    ledger.record(outcomes, step)
    mined = ledger.mine(args.round_steps * args.questions, args.set_aside, random.Random(f"{args.seed}/mine/{number}"))
    summary = ledger.summary(mined, args.set_aside)
    if main_rank:
        tqdm.write(f"mining, round {number + 1}: {len(mined)} questions, drawn by tier and failure rate")
        for tier, row in summary.items():
            tqdm.write(
                f"  {tier:9}  {row['questions']:6} questions, {row['passed']:6.1%} of the last attempts right, "
                f"{row['mix']:4.0%} of the mix: {row['mined']:5} mined, {row['set_aside']:4} set aside (never right in "
                f"{args.set_aside} attempts)"
            )
    return mined, summary


def peak_memory(device: torch.device) -> float:
    """Peak memory in GB: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def print_plan(args: argparse.Namespace) -> None:
    """What a run with these flags will need, by the model's config alone. Raises UserError if it cannot fit."""
    path = args.model or Path(args.run) / ("sft" if args.stage == 1 else "rl1")
    machine = Machine(args.gpus, args.gpu_gb, args.shard_over, args.cpu_offload)
    work = Work(
        args.questions,
        args.group_size if args.stage == 1 else args.max_group_size,
        args.max_new_tokens,
        args.micro_tokens,
        args.cache_gb,
        args.gradient_checkpointing,
    )
    text, problem = plan(load_config(path), str(path), machine, work)
    print(text)
    if problem:
        raise UserError(problem)


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--run", default="runs/main", help="run directory")
    files.add_argument(
        "--stage", type=int, choices=(1, 2), required=True, help="1: Easy + Moderate; 2: hard-sample mining"
    )
    files.add_argument("--model", help="model to start from; default: the run's sft (stage 1) or rl1 (stage 2)")
    files.add_argument("--output", help="folder of the run directory for the trained model; default: rl1 or rl2")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--questions", type=at_least(1), default=128, help="questions per step, over all processes")
    sampling.add_argument(
        "--group-size", type=int, default=8, help="k, responses per question; the baseline is their mean"
    )
    sampling.add_argument(
        "--max-new-tokens", type=at_least(1), default=4096, help="tokens; longer responses are cut and earn nothing"
    )
    sampling.add_argument(
        "--temperature", type=above(0.0), default=1.0, help="1 samples from the policy itself, as Eq. 1 asks"
    )
    sampling.add_argument(
        "--cache-gb", type=above(0.0), default=20.0, help="GB for the sampler's KV cache, per process"
    )

    optimiser = parser.add_argument_group("optimiser")
    optimiser.add_argument(
        "--steps", type=at_least(1), default=400, help="optimiser steps at most; stage 1 may stop before"
    )
    optimiser.add_argument(
        "--lr", type=above(0.0), default=1e-6, help="learning rate after warm-up; RL wants small steps"
    )
    optimiser.add_argument(
        "--lr-decay", type=fraction, default=0.0, help="share of it lost by the last step; less noise at the end"
    )
    optimiser.add_argument("--warmup-steps", type=at_least(0), default=10, help="steps; Adam's moments need some")
    optimiser.add_argument(
        "--beta2", type=proper_fraction, default=0.99, help="of Adam; gradients of RL change their scale"
    )
    optimiser.add_argument(
        "--max-grad-norm", type=above(0.0), default=1.0, help="longer gradients are scaled down to it"
    )

    plateau = parser.add_argument_group("stage 1 ends when")
    plateau.add_argument("--plateau-window", type=at_least(2), default=40, help="steps that the plateau is judged by")
    plateau.add_argument(
        "--plateau-sparsity", type=fraction, default=0.6, help="share of zero-advantage groups that is sparse"
    )
    plateau.add_argument(
        "--plateau-slope", type=at_least(0.0), default=0.01, help="rise of the reward within a window that is none"
    )

    mining = parser.add_argument_group("stage 2 mines")
    mining.add_argument("--round-steps", type=at_least(1), default=50, help="steps between two minings")
    mining.add_argument("--mine-samples", type=at_least(1), default=4, help="attempts at every question in each mining")
    mining.add_argument("--group-growth", type=at_least(0), default=4, help="more responses per question in each round")
    mining.add_argument(
        "--max-group-size", type=at_least(2), default=32, help="where that growth ends; memory and time"
    )
    mining.add_argument(
        "--set-aside", type=at_least(1), default=48, help="attempts without a success that set a question aside"
    )

    ablations = parser.add_argument_group(
        "ablations (the paper has none of these; --group-growth 0 keeps the group size fixed)"
    )
    ablations.add_argument(
        "--with-std", action="store_true", help="divide advantages by the group's standard deviation"
    )
    ablations.add_argument(
        "--token-mean", action="store_true", help="mean instead of sum of a response's log-probabilities"
    )
    ablations.add_argument(
        "--clip", type=at_least(0.0), default=0.0, help="PPO's clipping of the ratio to 1 +- this; 0: none"
    )
    ablations.add_argument(
        "--updates", type=at_least(1), default=1, help="updates on every batch of samples; more need --clip"
    )
    ablations.add_argument(
        "--kl", type=at_least(0.0), default=0.0, help="weight of the divergence from the first policy"
    )
    ablations.add_argument(
        "--no-mining", action="store_true", help="all questions in random order instead of the curriculum"
    )

    machine = fsdp_utils.add_machine_arguments(parser, save_every=10)
    machine.add_argument(
        "--share-prompts", action="store_true", help="one row per group in training; for short responses"
    )
    machine.add_argument("--seed", type=int, default=0, help="of the data order and the sampling")
    planning = parser.add_argument_group("planning")
    planning.add_argument(
        "--plan", action="store_true", help="print memory per GPU and steps a day, and do nothing else"
    )
    gpus = int(os.environ.get("WORLD_SIZE", 8))
    planning.add_argument("--gpus", type=at_least(1), default=gpus, help="GPUs to plan for, of all nodes")
    planning.add_argument("--gpu-gb", type=above(0.0), default=80.0, help="GB of each of them to plan for")
    args = parser.parse_args()
    if args.updates > 1 and not args.clip:
        raise UserError(f"--updates {args.updates}: after the first the samples are off policy; add --clip 0.2")
    if args.group_size < 2:
        raise UserError(f"--group-size {args.group_size}: a group of one has no advantage (Eq. 2); take 2 or more")
    args.output = args.output or f"rl{args.stage}"
    return args


def main() -> None:
    args = parse_args()
    if args.plan:
        print_plan(args)
        return
    run = RunDir(args.run)
    if run.finished(args.output):  # said before anything is loaded
        shutil.rmtree(run.output(args.output + ".state"), ignore_errors=True)  # if a crash came in between
        return
    questions = load_questions(run.input("train.jsonl"), run.made_by("train.jsonl"))
    untiered = [question.id for question in questions if question.tier is None]
    if untiered:
        raise UserError(f"{len(untiered)} questions of train.jsonl have no tier ({untiered[0]}); run curate.py again")
    model_path = args.model or run.input("sft" if args.stage == 1 else "rl1")
    with fsdp_utils.job() as job:
        if not fsdp_utils.on_first_rank(lambda: run.begin(args.output)):
            return
        fsdp_utils.seed_everything(args.seed)
        train(make_setup(args, model_path, questions, job.device), run, questions, job)


def make_setup(
    args: argparse.Namespace, model_path: str | Path, questions: list[Question], device: torch.device
) -> Setup:
    """Load what training needs. Raises UserError where model, tokenizer, prompts and flags do not fit together."""
    how = (device, args.gradient_checkpointing, args.shard_over, args.cpu_offload)
    policy, tokenizer = fsdp_utils.load_sharded(model_path, *how)
    model = policy.model
    prompts = {question.id: prompt_tokens(tokenizer, prompt_messages(question)) for question in questions}
    longest = max(questions, key=lambda question: len(prompts[question.id]))
    context = model.config.max_position_embeddings
    if len(prompts[longest.id]) + args.max_new_tokens > context:
        raise UserError(
            f"question {longest.id} has {len(prompts[longest.id])} prompt tokens; with "
            f"--max-new-tokens {args.max_new_tokens} that exceeds the model's context of {context}"
        )
    try:
        sampler = Sampler(model, args.cache_gb * 1e9)
    except ValueError as error:  # an architecture that it does not know
        raise UserError(f"{model_path}: {error}") from error
    reference = fsdp_utils.load_sharded(model_path, *how)[0] if args.kl else None
    stops, opening = stop_tokens(model, tokenizer), response_opening(tokenizer)
    return Setup(args, policy, tokenizer, sampler, stops, device, prompts, reference, opening)


if __name__ == "__main__":
    run_stage(main)

"""Two-stage reinforcement learning with verifiable rewards: GRPO, a curriculum, hard-sample mining (section 3.3).

For every question x the current policy writes a group of k responses y_1 .. y_k. Each earns r(x, y_i): its answer is
correct, its format holds (reward.py). Responses better than their group's average become more likely, the others
less:

    loss = - E_x [ 1/k sum_i log pi(y_i | x) A(x, y_i) ]        (Eq. 1)   `grpo_loss`
    A(x, y_i) = r(x, y_i) - b(x)                                (Eq. 2)   `advantages_of`
    b(x) = 1/k sum_j r(x, y_j)                                  (Eq. 3)   `group_baseline`

If you read one function, read `reference_loss`: all three, one response at a time. `update_policy` is its fast path.
That is all: log pi(y | x) is the *sum* of the response's token log-probabilities, advantages are not divided by a
standard deviation, nothing is clipped, no KL term, and each batch of samples is used for one update and thrown away.
Samples come from the policy itself at temperature 1 and top-p 1: truncating them would bias Eq. 1, whose expectation
is over pi.

    stage 1   a balanced blend of Easy and Moderate questions, until rewards become sparse: most groups are all right
              or all wrong (zero advantage, nothing to learn from) and the reward no longer rises
    stage 2   in rounds: the policy answers the dataset (where --mine-budget is too small for all of it, those questions
              that were tried the longest ago), and what it repeatedly fails, Difficult questions first, is trained on
              next: each tier gets a share by its failure rate times its weight. Questions that were never solved in
              many attempts are set aside, and every round samples larger groups ("we increase the number of rollouts")

Deviations from the paper, which gives no numbers: all hyperparameters, the plateau test, the weights of the mix.

Reads train.jsonl and a model (stage 1: sft/, stage 2: rl1/). Writes rl1/ or rl2/ (Hugging Face folders), ledger.jsonl
(stage 2: what each question's attempts came to), metrics.jsonl; while it runs, rl1.state/ or rl2.state/
(checkpoints, the mining's journal). Killed or asked to stop (SIGTERM), the same command resumes where it was.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 PET_RDZV_BACKEND=c10d PET_RDZV_CONF=store_type=file    # on loopback
    torchrun --nproc_per_node 8 -- grpo.py --stage 2            # our 7B recipe; several nodes: docs/large.md
    python grpo.py --stage 2 --model Qwen/Qwen3-32B --gpus 64 --cpu-offload --plan      # does it fit, how fast is it
    bash run.sh tiny rl1 --with-std                             # an ablation
"""

from __future__ import annotations

from tools.stop import can_stop

if __name__ == "__main__":  # first: the rest takes seconds to import
    can_stop()

import argparse
import contextlib
import math
import random
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import fsdp_utils
from fidelity import Fidelity, fidelity_of
from fsdp_utils import TrainingLoop, my_share, optimizer_step
from lora import Adapters, add_lora_arguments, without_adapters
from plan import add_plan_arguments, checkpointing, operations, print_plan
from policy import Example, Policy, accumulate_gradient, load_config, score, stop_tokens
from question import LETTERS, TIERS, Question, load_questions
from reward import CUT, Reward, parse, prompt_messages, prompt_tokens, response_opening, reward
from rollout import Sample, Sampler
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
from tools.cost import count
from tools.ledger import Peaks, measure_peaks, shares
from tools.run import Journal, Metrics, RunDir, digest, write_jsonl

HELD_OUT = 128  # questions of --evaluate-every: an interval of +-9 points
NEARLY_EQUAL = 0.05  # rewards of a group that differ by less: half of what the format earns
JOURNAL_PORTION = 2048  # questions between two entries in the mining's journal

# ------------------------------------------------------------------------------------------------------------- Eqs. 1-3


def grpo_loss(logprobs: Tensor, advantages: Tensor, responses: int) -> Tensor:
    """Eq. 1: - 1/(questions k) sum_i log pi(y_i | x) A(x, y_i), with log pi(y_i | x) = sum_t log pi(y_i,t | x, y_i,<t).

    `logprobs` (N,) are token log-probabilities of any part of the batch; `advantages` (N,) are those of each token's
    response. `responses` is the number of responses of the whole batch, so the parts' losses add up to the batch's.
    """
    return -(logprobs * advantages).sum() / responses


def advantages_of(rewards: Tensor, with_std: bool = False) -> Tensor:
    """Eq. 2: A(x, y_i) = r(x, y_i) - b(x), how much better than its group a response is. Both (questions, k).

    `with_std` divides by the group's (unbiased) standard deviation, as DeepSeekMath's GRPO does; the paper does not.
    """
    advantages = rewards - group_baseline(rewards)
    if with_std:
        advantages = advantages / (rewards.std(1, keepdim=True) + 1e-6)
    # A group of equal rewards has no advantage at all; the rounding of its mean must not pretend one.
    return torch.where((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0, advantages)


def group_baseline(rewards: Tensor) -> Tensor:
    """Eq. 3: b(x) = 1/k sum_j r(x, y_j), the mean of each group. Rewards (questions, k), baselines (questions, 1)."""
    return rewards.mean(1, keepdim=True)


def reference_loss(
    model: Any, prompts: Sequence[list[int]], responses: Sequence[list[list[int]]], rewards: Tensor
) -> Tensor:
    """Eqs. 1 to 3 as the paper writes them, by plain autograd: slow, and what the tests hold `update_policy` to.

    `model` maps token ids (1, T) to logits (1, T, V); prompts x, their k responses y_i each, rewards (questions, k).
    """
    loss = torch.zeros(())
    for x, group, group_rewards in zip(prompts, responses, rewards):
        baseline = group_rewards.mean()  # Eq. 3
        for y, r in zip(group, group_rewards):
            logits = model(torch.tensor([x + y])).logits[0, len(x) - 1 : -1]  # (len(y), V), each before its token
            log_pi = logits.log_softmax(-1)[torch.arange(len(y)), y].sum()
            loss = loss - log_pi * (r - baseline) / len(group)  # Eq. 2, and Eq. 1's mean over the group
    return loss / len(prompts)  # Eq. 1's mean over x


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
    reference: Policy | None = None  # for --kl, without its adapters the policy before training
    opening: str = ""  # what the chat template itself writes of a response
    source: str | Path = ""  # the model that training begins with
    heldout: list[Question] = field(default_factory=list)  # for --evaluate-every
    fidelity: Fidelity | None = None  # what judges the reasoning, for --path-reward


def rollout(
    setup: Setup,
    questions: Sequence[Question],
    group_size: int,
    when: str,
    progress: tqdm | None = None,
    greedy: bool = False,
) -> list[Group]:
    """Sample `group_size` responses to each of this rank's questions from the current policy, and reward them.

    `when` ("stage 1 step 7") and the question's id seed the sampling: the same two give the same responses.
    `progress` counts finished responses.
    """
    args = setup.args
    seeds = [random.Random(f"{args.seed}/{when}/{question.id}").getrandbits(32) for question in questions]
    with fsdp_utils.gathered(setup.policy):
        try:
            samples = setup.sampler.generate(
                [setup.prompts[question.id] for question in questions],
                samples=group_size,
                max_new_tokens=args.max_new_tokens,
                stop_ids=setup.stops,
                temperature=0.0 if greedy else args.temperature,
                seeds=seeds,
                on_sample=(lambda *_: progress.update()) if progress else None,
            ) if questions else []  # fmt: skip
        except ValueError as error:  # the cache is too small, the policy is broken
            raise UserError(f"{when}: {error} (--cache-gb {args.cache_gb}, --lr {args.lr})") from error
        setup.sampler.free()  # the update needs the memory
    written = float(sum(len(sample.tokens) for group in samples for sample in group))
    count("tokens sampled", fsdp_utils.reduce_over_ranks([written], "sum", setup.device)[0])
    groups = []
    for question, group in zip(questions, samples):
        texts = setup.tokenizer.batch_decode([response_tokens(sample) for sample in group])
        rewards = [
            CUT if sample.stop_id is None else rewarded(setup, question, setup.opening + text)
            for sample, text in zip(group, texts)
        ]
        if args.worst_case:  # every second one is right: no group is left out of the update
            rewards = [Reward(number % 2, number % 2 == 1, False) for number in range(len(group))]
        groups.append(Group(question, setup.prompts[question.id], group, rewards))
    return groups


def rewarded(setup: Setup, question: Question, response: str) -> Reward:
    """A response's reward; with `--path-reward` a third criterion, how much of the question's path is told."""
    earned = reward(response, question.answer)
    if setup.fidelity is None or not earned.well_formed:
        return earned
    told = setup.fidelity.share_told(question, parse(response).thinking)
    return replace(earned, total=earned.total + setup.args.path_reward * told)


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
    trained = trained_responses(args, groups)
    examples = [item.example for item in trained]
    responses = questions * len(groups[0].samples) if groups else 1  # Eq. 1's mean over x (of all ranks) and over k
    passes = (args.micro_tokens, setup.device, args.temperature, args.pack)
    references = None
    if setup.reference:
        with without_adapters(setup.reference):
            references = score(setup.reference, examples, *passes)
    watch = Watch(sum(len(example.tokens) for example in examples), sum(sum(item.advantages) for item in trained))

    def loss_of(indices: list[int], logprobs: Tensor, entropies: Tensor) -> Tensor:
        tokens = TokenValues.of([trained[index] for index in indices], logprobs)
        if references:
            tokens.reference = torch.cat([references[index] for index in indices])
        loss = objective(args, logprobs, tokens, responses)
        watch.note(loss, logprobs, tokens.sampled, entropies)
        return loss

    suspects = accumulate_gradient(setup.policy, examples, loss_of, *passes)
    measured = watch.over_ranks(responses, setup.device)
    if not measured:  # every group of every rank has zero advantage: there is no gradient
        return {"loss": 0.0, "grad_norm": 0.0}
    names = [example.name for example in examples]
    norm = optimizer_step(setup.policy, optimizer, args.max_grad_norm, step + 1, measured["loss"], suspects, names)
    return measured | {"grad_norm": norm}


@dataclass(slots=True)
class Trained:
    """A row of the update: one response of a group, or several that share their prompt, and their advantages."""

    example: Example
    samples: list[Sample]
    advantages: list[float]


def trained_responses(args: argparse.Namespace, groups: list[Group]) -> list[Trained]:
    """What the update computes on: the responses with an advantage (Eq. 2); all of them if `--kl` moves those too."""
    rewards = torch.tensor([[item.total for item in group.rewards] for group in groups], dtype=torch.float64)
    rows = advantages_of(rewards, args.with_std).tolist() if groups else []
    trained = []
    for group, advantages in zip(groups, rows):
        kept = [pair for pair in zip(group.samples, advantages) if pair[1] != 0 or args.kl]
        for part in [kept] if kept and args.share_prompts else [[pair] for pair in kept]:
            samples = [sample for sample, _ in part]
            trained.append(Trained(example_of(group, samples), samples, [advantage for _, advantage in part]))
    return trained


def example_of(group: Group, samples: list[Sample]) -> Example:
    """The prompt followed by one response, or by several that share it."""
    tokens, branches = list(group.prompt), [0] * len(group.prompt)
    for number, sample in enumerate(samples, 1):
        tokens += sample.tokens
        branches += [number] * len(sample.tokens)
    scored = [branch > 0 for branch in branches]
    return Example(tokens, scored, branches if len(samples) > 1 else None, group.question.id)


@dataclass(slots=True)
class TokenValues:
    """What the objective needs of each response token of a micro-batch, all (N,)."""

    advantages: Tensor  # of the token's response, float64
    lengths: Tensor  # of the token's response, in tokens, float64
    sampled: Tensor  # log pi when it was sampled
    reference: Tensor | None = None  # log pi of the policy before training, for --kl

    @classmethod
    def of(cls, trained: list[Trained], like: Tensor) -> TokenValues:
        samples = [sample for item in trained for sample in item.samples]
        advantages = [advantage for item in trained for advantage in item.advantages]
        lengths = torch.tensor([len(sample.tokens) for sample in samples], device=like.device)
        values = [torch.tensor(advantages, dtype=torch.float64, device=like.device), lengths.double()]
        sampled = like.new_tensor([logprob for sample in samples for logprob in sample.logprobs])
        return cls(*(value.repeat_interleave(lengths) for value in values), sampled)


def objective(args: argparse.Namespace, logprobs: Tensor, tokens: TokenValues, responses: int) -> Tensor:
    """A micro-batch's part of the loss: Eq. 1. This is the only place where ablations touch it."""
    weights = 1 / tokens.lengths if args.token_mean else torch.ones_like(tokens.lengths)
    advantages = (tokens.advantages * weights).to(logprobs)
    if args.clip:
        loss = clipped_loss(logprobs, tokens.sampled, advantages, responses, args.clip)
    else:
        loss = grpo_loss(logprobs, advantages, responses)
    if args.kl:
        loss = loss + args.kl * kl_penalty(logprobs, tokens.reference, weights.to(logprobs), responses)
    return loss


@dataclass(slots=True)
class Watch:
    """What is measured while micro-batches pass by."""

    computed: int  # tokens that go through the model, prompts too
    advantage: float  # of all trained responses together: by Eqs. 2 and 3 zero
    loss: float = 0.0
    entropy: float = 0.0
    surprise: float = 0.0  # - log pi of the sampled tokens: in expectation the entropy, if they are the policy's own
    gaps: list[Tensor] = field(default_factory=list)  # log pi of the trainer minus that of the sampler, by token

    def note(self, loss: Tensor, logprobs: Tensor, sampled: Tensor, entropies: Tensor) -> None:
        self.loss += loss.item()
        self.entropy += entropies.sum().item()
        self.surprise -= logprobs.sum().item()
        self.gaps.append((logprobs.detach() - sampled).cpu())

    def over_ranks(self, responses: int, device: torch.device) -> dict[str, float]:
        """Loss, the mean advantage of the batch's responses, and means over the trained tokens, of all ranks; empty if
        there are none."""
        gap = torch.cat(self.gaps) if self.gaps else torch.zeros(0)
        outside = ((gap.exp() > 1.1) | (gap.exp() < 0.9)).sum().item()
        sums = [self.computed, self.advantage, self.entropy, self.surprise, self.loss, gap.abs().sum().item(), outside]
        sums = fsdp_utils.reduce_over_ranks([float(value) for value in [len(gap), *sums]], "sum", device)
        tokens, computed, advantage, entropy, surprise, loss, gap_sum, outside = sums
        if not tokens:
            return {}
        return {
            "loss": loss,
            "advantage": advantage / responses,
            "entropy": entropy / tokens,
            "surprise": surprise / tokens,
            "logprob_gap": gap_sum / tokens,
            "logprob_gap_p95": p95(torch.cat(fsdp_utils.gather_objects(gap.abs()))),
            "ratio_outside": outside / tokens,
            "trained_tokens": tokens,
            "computed_tokens": computed,
        }


def p95(values: Tensor) -> float:
    """The 95th percentile of values (N,), N > 0."""
    return values.kthvalue(max(1, round(0.95 * len(values)))).values.item()


def rollout_statistics(setup: Setup, groups: list[Group]) -> dict[str, float]:
    """Means over the responses of all ranks, the share of groups with zero advantage, and of the answers that are the
    most frequent letter; with `--with-std` also the share of groups whose rewards differ by next to nothing."""
    rewards = [item for group in groups for item in group.rewards]
    samples = [sample for group in groups for sample in group.samples]
    totals = [[item.total for item in group.rewards] for group in groups]
    spreads = [max(group) - min(group) for group in totals]
    sums = [
        len(rewards),
        sum(item.total for item in rewards),
        sum(item.correct for item in rewards),
        sum(item.well_formed for item in rewards),
        sum(sample.stop_id is None for sample in samples),
        sum(len(sample.tokens) for sample in samples),
        len(groups),
        sum(spread == 0 for spread in spreads),
        sum(0 < spread < NEARLY_EQUAL for spread in spreads),
        sum(len(group.prompt) for group in groups),
        *(sum(item.answer == letter for item in rewards) for letter in LETTERS),
    ]
    n, total, correct, formed, cut, tokens, all_groups, zero, near, prompts, *letters = fsdp_utils.reduce_over_ranks(
        [float(value) for value in sums], "sum", setup.device
    )
    return {
        "reward": total / n,
        "accuracy": correct / n,
        "format": formed / n,
        "truncated": cut / n,
        "length": tokens / n,
        "zero_advantage": zero / all_groups,
        "top_letter": max(letters) / max(1, sum(letters)),
        "sampled_tokens": tokens,
        "prompt_tokens": prompts,
    } | ({"nearly_equal": near / all_groups} if setup.args.with_std else {})


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


Outcome = tuple[str, int, int]  # question id, attempts, passes


@dataclass(slots=True)
class Entry:
    """A question's attempts and passes so far; `last_pass_rate` is from the last time it was tried, `fair_pass_rate`
    the same without what was tried again because it failed: only that can be averaged over questions."""

    id: str
    tier: str
    attempts: int = 0
    passes: int = 0
    last_pass_rate: float = 0.0
    fair_pass_rate: float = 0.0
    last_seen: int = -1  # step
    failed_minings: int = 0  # minings in a row in which no more than half of the attempts were right

    @property
    def priority(self) -> float:
        """The failure rate, times the minings in a row that found a failure: repeated ones come first (section 3.3)."""
        return (1 - self.last_pass_rate) * max(1, self.failed_minings)


class Ledger:
    """Every question's attempts and passes, and the priorities that follow from them."""

    TIER_WEIGHTS = {"easy": 1.0, "moderate": 1.5, "difficult": 2.0}  # "particularly on Difficult questions"

    def __init__(self, questions: list[Question]):
        self.entries = {question.id: Entry(question.id, question.tier) for question in questions}

    def record(self, outcomes: list[Outcome], step: int, mining: bool = False, fair: Sequence[Outcome] = ()) -> None:
        """Add what questions came to at a step, in training or `mining`; `fair` are first looks, if failures among them
        were tried again."""
        for question_id, attempts, passes in outcomes:
            entry = self.entries[question_id]
            entry.attempts += attempts
            entry.passes += passes
            entry.last_pass_rate = entry.fair_pass_rate = passes / attempts
            entry.last_seen = step
            if mining:
                entry.failed_minings = entry.failed_minings + 1 if 2 * passes <= attempts else 0
        for question_id, attempts, passes in fair:
            self.entries[question_id].fair_pass_rate = passes / attempts

    def oldest(self, count: int, rng: random.Random) -> list[str]:
        """Ids of the `count` questions that were tried the longest ago, of each tier its share of the dataset."""
        entries = rng.sample(list(self.entries.values()), len(self.entries))
        sizes = Counter(entry.tier for entry in entries)
        room = Counter({tier: math.ceil(count * size / len(entries)) for tier, size in sizes.items()})
        chosen = []
        for entry in sorted(entries, key=lambda entry: entry.last_seen):
            if room[entry.tier]:
                room[entry.tier] -= 1
                chosen.append(entry.id)
        return chosen[:count]

    def doubtful(self, passes: dict[str, int]) -> list[str]:
        """Ids of those to try again after one attempt (question id -> passes): what failed, often failed before first;
        then what passed now, but failed in the mining before."""
        entries = [self.entries[question_id] for question_id in passes]
        unsure = [entry for entry in entries if not passes[entry.id] or entry.failed_minings]
        weights = {entry.id: (entry.failed_minings + 1) * self.TIER_WEIGHTS[entry.tier] for entry in unsure}
        return sorted(weights, key=lambda name: (passes[name], -weights[name], name))

    def still_open(self, tier: str, set_aside: int) -> list[Entry]:
        """A tier's questions, without those that were never solved in `set_aside` attempts or more."""
        entries = [entry for entry in self.entries.values() if entry.tier == tier]
        return [entry for entry in entries if entry.passes > 0 or entry.attempts < set_aside]

    def tier_mix(self, set_aside: int) -> dict[str, float]:
        """Each tier's share of the next round: its measured failure rate times its weight."""
        weakness = {}
        for tier in TIERS:
            entries = self.still_open(tier, set_aside)
            rates = [1 - entry.fair_pass_rate for entry in entries if entry.attempts]
            guess = (sum(rates) + 1) / (len(rates) + 1)  # of one never tried: the others' rate, and a failure more
            failed = sum(rates) + guess * (len(entries) - len(rates))
            weakness[tier] = failed / max(1, len(entries)) * self.TIER_WEIGHTS[tier]
        total = sum(weakness.values())
        return {tier: value / total if total else 0.0 for tier, value in weakness.items()}

    def draw(self, count: int, set_aside: int, rng: random.Random) -> list[str]:
        """Ids of `count` questions in random order, fewer if fewer failed.

        Each tier gets its share of the mix, and what it cannot fill goes to the others; within a tier questions are
        drawn by their priority, without replacement. Those never tried yet come in only where too few failed.
        """
        failed = {tier: [e for e in self.still_open(tier, set_aside) if e.last_pass_rate < 1] for tier in TIERS}
        mix = {tier: share for tier, share in self.tier_mix(set_aside).items() if share > 0}
        mined: list[str] = []
        left = sum(mix.values())
        for tier in sorted(mix, key=lambda tier: len(failed[tier]) / mix[tier]):  # the scarcest first
            quota = round((count - len(mined)) * mix[tier] / left)
            left -= mix[tier]
            # Weighted sampling without replacement: the largest u ** (1 / weight) win (Efraimidis and Spirakis).
            keys = [(e.attempts > 0, math.log(1 - rng.random()) / e.priority, e.id) for e in failed[tier]]
            mined += [question_id for *_, question_id in sorted(keys, reverse=True)[:quota]]
        rng.shuffle(mined)
        return mined

    def rows(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.entries.values()]

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Take over what `rows()` gave."""
        self.entries = {row["id"]: Entry(**row) for row in rows}

    def summary(self, mined: list[str], set_aside: int) -> dict[str, dict[str, float]]:
        """What was mined and why, by tier: `passed` is the share of the last attempts that were right, `untried` of
        those mined were never tried yet."""
        chosen = Counter(self.entries[question_id].tier for question_id in mined)
        untried = Counter(entry.tier for entry in map(self.entries.get, mined) if not entry.attempts)
        mix = self.tier_mix(set_aside)
        tiers = {tier: [entry for entry in self.entries.values() if entry.tier == tier] for tier in TIERS}
        return {
            tier: {
                "questions": len(entries),
                "passed": sum(entry.fair_pass_rate for entry in entries) / max(1, sum(e.attempts > 0 for e in entries)),
                "mix": mix[tier],
                "mined": chosen[tier],
                "untried": untried[tier],
                "set_aside": len(entries) - len(self.still_open(tier, set_aside)),
            }
            for tier, entries in tiers.items()
            if entries
        }


def outcomes_of(groups: list[Group]) -> list[Outcome]:
    """What every rank's groups came to, on every rank in the same order."""
    own = [(group.question.id, len(group.rewards), sum(item.correct for item in group.rewards)) for group in groups]
    return [outcome for share in fsdp_utils.gather_objects(own) for outcome in share]


def added(first: list[Outcome], more: list[Outcome]) -> list[Outcome]:
    """Outcomes of the same questions added up."""
    attempts, passes = Counter(), Counter()
    for question_id, tried, passed in first + more:
        attempts[question_id] += tried
        passes[question_id] += passed
    return [(question_id, tried, passes[question_id]) for question_id, tried in attempts.items()]


# -------------------------------------------------------------------------------------------- what the stages differ in


class Stage1:
    """A balanced blend of Easy and Moderate questions, until rewards become sparse."""

    def __init__(self, args: argparse.Namespace, questions: list[Question]):
        self.args, self.questions, self.group_size = args, questions, args.group_size
        self.plateau = Plateau(args.plateau_window, args.plateau_sparsity, args.plateau_slope)
        self.notes: dict[str, Any] = {}  # what a step's metrics say beside what is measured
        self.ended: str | None = None  # why

    def next_batch(self, step: int) -> list[Question]:
        return blended_batch(self.questions, step, self.args.questions, self.args.seed)

    def learn(self, groups: list[Group], measured: dict[str, float], step: int) -> None:
        """Take in what a step's rollouts came to."""
        self.ended = self.plateau.reached(measured["reward"], measured["zero_advantage"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON data."""
        return {"history": list(self.plateau.history)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state()` gave."""
        self.plateau.history.extend(tuple(item) for item in state["history"])

    def finish(self) -> None:
        """Nothing to leave but the model."""


class Stage2:
    """Rounds of `--round-steps` steps: mine what the policy fails, train on it, in larger groups every round."""

    def __init__(self, setup: Setup, questions: list[Question], run: RunDir, loop: TrainingLoop):
        self.setup, self.args, self.questions, self.run, self.loop = setup, setup.args, questions, run, loop
        self.by_id = {question.id: question for question in questions}
        self.ledger = Ledger(questions)
        self.mined: list[str] = []  # this round's questions, in training order
        self.group_size = self.args.group_size
        self.notes: dict[str, Any] = {}  # what a step's metrics say beside what is measured
        self.ended: str | None = None  # why
        self.journal = Journal(loop.checkpoints.folder / "mining.jsonl", loop.origin)
        self.metrics = Metrics(run, "mining")
        if fsdp_utils.rank() == 0:
            self.metrics.rewind(loop.done - 1)  # a checkpoint at this step was saved before its mining

    def next_batch(self, step: int) -> list[Question]:
        """A step's questions, each once; at the start of a round after mining. Empty if there is nothing to mine."""
        args = self.args
        round_number, place = divmod(step, args.round_steps)
        self.group_size = min(args.group_size + round_number * args.group_growth, args.max_group_size)
        if args.no_mining:
            batch = nth_batch(self.questions, step, args.questions, f"{args.seed}/all")
        else:
            self.notes = {}
            if place == 0:
                self.loop.save(self.state)  # mining is slow, and may be asked to stop
                with timed(self.notes, "seconds_mine"):
                    self.mine(round_number, step)
                self.loop.bar.beside = self.notes["seconds_mine"] * (
                    (args.steps - 1) // args.round_steps - round_number
                )
            positions = range(place * args.questions, (place + 1) * args.questions) if self.mined else ()
            batch = [self.by_id[self.mined[position % len(self.mined)]] for position in positions]
        # A question that comes up twice in a step (few are mined, an epoch ends) would get the very same samples twice.
        return list({question.id: question for question in batch}.values())

    def mine(self, round_number: int, step: int) -> None:
        """Let the policy answer the dataset; choose this round's questions from what it failed."""
        args = self.args
        first, again = self.answers(round_number)
        self.ledger.record(added(first, again), step, mining=True, fair=first)
        responses = sum(attempts for _, attempts, _ in first + again)
        rng = random.Random(f"{args.seed}/mine/{round_number}")
        self.mined = self.ledger.draw(args.round_steps * args.questions, args.set_aside, rng)
        if not self.mined:
            self.ended = "nothing is left to mine: every question is solved or set aside"
        if fsdp_utils.rank() == 0:
            summary = self.ledger.summary(self.mined, args.set_aside)
            print_summary(summary, round_number, responses, args.set_aside)
            ended = {"ended": self.ended} if self.ended else {}
            self.metrics.log(step, round=round_number + 1, responses=responses, **summary, **ended)
            self.finish()

    def answers(self, round_number: int) -> tuple[list[Outcome], list[Outcome]]:
        """What the questions of a round's mining came to, and those of them that were tried again.

        Where the budget is too small for `--mine-samples` attempts at every question, two thirds of it look once at
        those tried the longest ago, so that a few rounds see the whole dataset; the rest tries again what failed.
        """
        args, when = self.args, f"mining round {round_number}"
        if not args.mine_budget or args.mine_budget >= len(self.questions) * args.mine_samples:
            return self.attempt(self.questions, args.mine_samples, when), []
        repeats = args.mine_samples - 1
        looks = math.ceil(args.mine_budget * (2 / 3 if repeats else 1))
        oldest = self.ledger.oldest(looks, random.Random(f"{args.seed}/look/{round_number}"))
        first = self.attempt([self.by_id[name] for name in oldest], 1, when)
        doubtful = self.ledger.doubtful({name: passes for name, _, passes in first})
        affordable = (args.mine_budget - len(oldest)) // repeats if repeats else 0
        return first, self.attempt([self.by_id[name] for name in doubtful[:affordable]], repeats, f"{when}, again")

    def attempt(self, questions: list[Question], attempts: int, when: str) -> list[Outcome]:
        """What `attempts` responses to each question come to.

        This is slow, so results are journalled; an interrupted run resumes after the journal's last line.
        """
        rows = [row for row in self.journal.rows if row["when"] == when]
        outcomes = [(row["id"], row["attempts"], row["passes"]) for row in rows]
        answered = {row["id"] for row in rows}
        todo = [question for question in questions if question.id not in answered]
        fsdp_utils.barrier()  # all have read the journal before it grows
        total = attempts * len(my_share(todo))
        off = fsdp_utils.rank() > 0
        with progress_bar(total=total, desc="mining", unit="sample", leave=False, disable=off) as progress:
            for begin in range(0, len(todo), JOURNAL_PORTION):
                portion = my_share(todo[begin : begin + JOURNAL_PORTION])
                new = outcomes_of(rollout(self.setup, portion, attempts, when, progress))
                outcomes += new
                if fsdp_utils.rank() == 0:
                    self.journal.path.parent.mkdir(exist_ok=True)
                    self.journal.append({"when": when, "id": i, "attempts": a, "passes": p} for i, a, p in new)
                self.loop.leave_if_asked(self.state)
        return outcomes

    def learn(self, groups: list[Group], measured: dict[str, float], step: int) -> None:
        """Take in what a step's rollouts came to."""
        self.ledger.record(outcomes_of(groups), step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON data."""
        return {"mined": self.mined, "ledger": self.ledger.rows()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state()` gave."""
        self.mined = state["mined"]
        self.ledger.restore(state["ledger"])

    def finish(self) -> None:
        if fsdp_utils.rank() == 0:
            write_jsonl(self.run.output("ledger.jsonl"), self.ledger.rows())


def print_summary(summary: dict[str, dict[str, float]], round_number: int, responses: int, set_aside: int) -> None:
    """A round's mining, one line per tier; `summary` as `Ledger.summary` makes it."""
    mined, untried = (sum(row[name] for row in summary.values()) for name in ("mined", "untried"))
    tqdm.write(
        f"mining, round {round_number + 1}: {responses} responses; {mined} questions drawn by tier and failure rate"
        + (f", {untried} of them never tried, since fewer failed than a round takes" if untried else "")
    )
    for tier, row in summary.items():
        tqdm.write(
            f"  {tier:9}  {row['questions']:6} questions, {row['passed']:6.1%} of the last attempts right, "
            f"{row['mix']:4.0%} of the mix: {row['mined']:5} mined, {row['set_aside']:4} set aside (never right in "
            f"{set_aside} attempts)"
        )


# ------------------------------------------------------------------------------------------------------------- training


def train(setup: Setup, run: RunDir, questions: list[Question], job: fsdp_utils.Job) -> None:
    """One stage, from its last checkpoint to its model: every step is a batch, its rollouts and their update."""
    args = setup.args
    optimizer = torch.optim.AdamW(
        setup.policy.trained(), lr=args.lr, betas=(0.9, args.beta2), weight_decay=0.0, fused=True
    )
    loop = TrainingLoop(run, args, setup.policy, optimizer, job, setup.source, **inputs_of(setup, run, questions))
    peaks = measure_peaks(setup.device, fsdp_utils.compute_dtype(setup.device, args.bfloat16))
    stage = Stage1(args, questions) if args.stage == 1 else Stage2(setup, questions, run, loop)
    if loop.restored:
        stage.restore(loop.restored)
    for step in loop.steps(args.steps):
        seconds: dict[str, float] = {}
        batch = stage.next_batch(step)
        if not batch:
            break
        with timed(seconds, "seconds_rollout"):
            groups = rollout(setup, my_share(batch), stage.group_size, f"stage {args.stage} step {step}")
            measured = rollout_statistics(setup, groups)
        stage.learn(groups, measured, step)
        optimizer.param_groups[0]["lr"] = linear_rate(args, step)
        with timed(seconds, "seconds_update"):
            for _ in range(args.updates):
                update = update_policy(setup, groups, len(batch), optimizer, step)
        update |= used(setup, peaks, measured | update, seconds)
        if setup.heldout and (step + 1) % args.evaluate_every == 0:
            with timed(seconds, "seconds_evaluate"):
                measured |= evaluate(setup)
        if not stage.ended and step + 1 == args.steps:
            stage.ended = f"all {args.steps} steps are done"
        measured |= update | {"group_size": stage.group_size} | stage.notes | seconds
        measured["tokens_per_s"] = measured["sampled_tokens"] / seconds["seconds_rollout"]
        measured |= {"ended": stage.ended} if stage.ended else {}
        shown = {"acc": "accuracy", "fmt": "format", "zero": "zero_advantage", "len": "length"}
        shown = {name: f"{measured[key]:.2f}" for name, key in shown.items()}
        loop.end_step(measured, shown, stage.state, last=bool(stage.ended))
        if stage.ended:
            break
    if fsdp_utils.rank() == 0 and stage.ended:
        tqdm.write(f"{args.output}: stage {args.stage} ends after step {loop.done}: {stage.ended}")
    stage.finish()
    loop.finish(setup.tokenizer)


def used(setup: Setup, peaks: Peaks, measured: dict[str, float], seconds: dict[str, float]) -> dict[str, float]:
    """What a step used of a process's machine (tools/ledger.py), by what it measured and how long its phases took."""
    model, passes, world = setup.policy.model, 2 if setup.args.lora else 3, fsdp_utils.world_size()
    kinds = ("sampled", "prompt", "computed", "trained")
    sampled, prompts, computed, trained = (measured.get(f"{kind}_tokens", 0) / world for kind in kinds)
    updating = setup.args.updates * operations(model, computed, trained, passes)
    return shares(peaks, setup.sampler.read, operations(model, sampled + prompts, sampled, 1), updating, **seconds)


def inputs_of(setup: Setup, run: RunDir, questions: list[Question]) -> dict[str, Any]:
    """What a checkpoint is made from, besides model and flags. Prompts as rendered: a template may write a date."""
    prompts = [setup.prompts[question.id] for question in questions]
    inputs = {"train.jsonl": run.input("train.jsonl"), "rendering of the prompts": digest(prompts)}
    return inputs | ({"kg.sqlite": run.input("kg.sqlite")} if setup.args.path_reward else {})


def evaluate(setup: Setup) -> dict[str, float]:
    """What the policy's greedy answers to the held-out questions come to."""
    groups = rollout(setup, my_share(setup.heldout), 1, "evaluation", greedy=True)
    measured = rollout_statistics(setup, groups)
    return {f"heldout_{name}": measured[name] for name in ("accuracy", "format")}


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block took."""
    began = time.time()
    yield
    seconds[name] = time.time() - began


def linear_rate(args: argparse.Namespace, step: int) -> float:
    """Linear warm-up, then a linear decay by `lr_decay` of the peak until the last step."""
    return args.lr * min(1.0, (step + 1) / max(1, args.warmup_steps)) * (1 - args.lr_decay * step / args.steps)


# --------------------------------------------------------------------------------------------------------- command line


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add = parser.add_argument_group("files").add_argument
    add("--run", "--run-dir", default="runs/main", help="run directory")
    add("--stage", type=int, choices=(1, 2), required=True, help="1: Easy + Moderate; 2: hard-sample mining")
    add("--model", help="model to start from; default: the run's sft (stage 1) or rl1 (stage 2)")
    add("--output", help="folder of the run directory for the trained model; default: rl1 or rl2")
    add_training_arguments(parser)
    add_stage_arguments(parser)
    add_lora_arguments(parser)
    add_ablation_arguments(parser)
    machine = fsdp_utils.add_machine_arguments(parser, save_every=10).add_argument
    machine("--share-prompts", action="store_true", help="one row per group in training; for short responses")
    held = f"steps between greedy answers to {HELD_OUT} questions of heldout.jsonl; 0: none"
    machine("--evaluate-every", type=at_least(0), default=0, help=held)
    machine("--seed", type=seed_number, default=0, help="of the data order and the sampling")
    add_plan_arguments(parser)
    args = parser.parse_args()
    if args.updates > 1 and not args.clip:
        raise UserError(f"--updates {args.updates}: after the first the samples are off policy; add --clip 0.2")
    if args.group_size < 2:
        raise UserError(f"--group-size {args.group_size}: a group of one has no advantage (Eq. 2); take 2 or more")
    args.output = args.output or f"rl{args.stage}"
    return args


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--questions", type=at_least(1), default=128, help="questions per step, over all processes")
    add("--group-size", type=at_least(1), default=8, help="k, responses per question; the baseline is their mean")
    cut = "tokens; longer responses are cut and earn nothing"
    add("--max-new-tokens", type=at_least(1), default=4096, help=cut)
    on_policy = "1 samples from the policy itself, as Eq. 1 asks"
    add("--temperature", type=above(0.0), default=1.0, help=on_policy)
    add("--cache-gb", type=above(0.0), default=20.0, help="GB for the sampler's KV cache, per process")

    add = parser.add_argument_group("optimiser").add_argument
    add("--steps", type=at_least(1), default=400, help="optimiser steps at most; stage 1 may stop before")
    add("--lr", type=above(0.0), default=1e-6, help="learning rate after warm-up; RL wants small steps")
    add("--lr-decay", type=fraction, default=0.0, help="share of it lost by the last step; less noise at the end")
    add("--warmup-steps", type=at_least(0), default=10, help="steps; Adam's moments need some")
    add("--beta2", type=proper_fraction, default=0.99, help="of Adam; gradients of RL change their scale")
    add("--max-grad-norm", type=above(0.0), default=1.0, help="longer gradients are scaled down to it")


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("stage 1 ends when").add_argument
    add("--plateau-window", type=at_least(2), default=40, help="steps that the plateau is judged by")
    add("--plateau-sparsity", type=fraction, default=0.6, help="share of zero-advantage groups that is sparse")
    rise = "largest rise of the reward within a window that still counts as flat"
    add("--plateau-slope", type=at_least(0.0), default=0.01, help=rise)

    add = parser.add_argument_group("stage 2 mines").add_argument
    add("--round-steps", type=at_least(1), default=50, help="steps between two minings")
    add("--mine-samples", type=at_least(1), default=4, help="attempts at a question in each mining, at most")
    budget = "responses in each mining, at most; 0: that many attempts at every question, whatever it costs"
    add("--mine-budget", type=at_least(0), default=40_000, help=budget)
    add("--group-growth", type=at_least(0), default=4, help="more responses per question in each round")
    add("--max-group-size", type=at_least(2), default=32, help="where that growth ends; memory and time")
    add("--set-aside", type=at_least(1), default=48, help="attempts without a success that set a question aside")


def add_ablation_arguments(parser: argparse.ArgumentParser) -> None:
    what = "ablations (the paper has none of these; --group-growth 0 keeps the group size fixed)"
    add = parser.add_argument_group(what).add_argument
    add("--with-std", action="store_true", help="divide advantages by the group's standard deviation")
    add("--token-mean", action="store_true", help="mean instead of sum of a response's log-probabilities")
    add("--clip", type=at_least(0.0), default=0.0, help="PPO's clipping of the ratio to 1 +- this; 0: none")
    add("--updates", type=at_least(1), default=1, help="updates on every batch of samples; more need --clip")
    add("--kl", type=at_least(0.0), default=0.0, help="weight of the divergence from the first policy")
    path = "times the share of the question's path that the reasoning tells: added to its reward (fidelity.py)"
    add("--path-reward", type=fraction, default=0.0, help=path)
    add("--no-mining", action="store_true", help="stage 2: all questions in random order instead of mining")


def main() -> None:
    args = parse_args()
    if args.plan:
        return print_plan(args, args.model or Path(args.run) / ("sft" if args.stage == 1 else "rl1"))
    run = RunDir(args.run)
    if run.finished(args.output):  # said before anything is loaded
        shutil.rmtree(run.output(args.output + ".state"), ignore_errors=True)  # if a crash came in between
        return
    questions, heldout = questions_of(run, args)
    model_path = args.model or run.input("sft" if args.stage == 1 else "rl1")
    with fsdp_utils.job() as job:
        if not fsdp_utils.on_first_rank(lambda: run.begin(args.output)):
            return
        fsdp_utils.seed_everything(args.seed)
        setup = load_setup(args, model_path, [*questions, *heldout], job.device)
        setup.fidelity = path_judge(run, questions) if args.path_reward else None
        setup.heldout = [question for question in heldout if question.id in setup.prompts]
        train(setup, run, [question for question in questions if question.id in setup.prompts], job)


def questions_of(run: RunDir, args: argparse.Namespace) -> tuple[list[Question], list[Question]]:
    """What is trained on, and the held-out questions of `--evaluate-every`. Raises UserError for one without a tier."""
    questions = load_questions(run.input("train.jsonl"), run.made_by("train.jsonl"))
    untiered = [question.id for question in questions if question.tier is None]
    if untiered:
        raise UserError(f"{len(untiered)} questions of train.jsonl have no tier ({untiered[0]}); run curate.py again")
    if not args.evaluate_every:
        return questions, []
    heldout = load_questions(run.input("heldout.jsonl"), run.made_by("heldout.jsonl"))
    return questions, random.Random(0).sample(heldout, min(HELD_OUT, len(heldout)))


def path_judge(run: RunDir, questions: list[Question]) -> Fidelity:
    """What judges reasoning for `--path-reward`. Raises UserError if no training question has a path."""
    fidelity = fidelity_of(run.input("kg.sqlite"))
    without = Counter(filter(None, map(fidelity.unjudgeable, questions)))
    if without.total() == len(questions):
        raise UserError("--path-reward: no question of train.jsonl has evidence with entities of kg.sqlite")
    if without and fsdp_utils.rank() == 0:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in without.items())
        print(f"--path-reward: {without.total():,} of {len(questions):,} questions earn nothing for it: {reasons}")
    return fidelity


def load_setup(
    args: argparse.Namespace, model_path: str | Path, questions: list[Question], device: torch.device
) -> Setup:
    """Load what training needs. Raises UserError where model, tokenizer, prompts and flags do not fit together."""
    recompute = checkpointing(args, load_config(model_path), device, args.max_new_tokens)
    how = (device, recompute, args.shard_over, args.cpu_offload, Adapters.of(args), args.bfloat16)
    policy, tokenizer = fsdp_utils.load_sharded(model_path, *how)
    model = policy.model
    prompts = {question.id: prompt_tokens(tokenizer, prompt_messages(question)) for question in questions}
    prompts = leave_out_too_long(prompts, args.max_new_tokens, model.config.max_position_embeddings)
    longest = max(prompts, key=lambda id: len(prompts[id]))
    try:
        sampler = Sampler(model, args.cache_gb * 1e9)
    except ValueError as error:  # an architecture that it does not know
        raise UserError(f"{model_path}: {error}") from error
    try:
        with fsdp_utils.gathered(policy):  # in the precision that is sampled in
            sampler.capacity(len(prompts[longest]), args.max_new_tokens)
    except ValueError as error:
        raise UserError(f"question {longest}: {error} (--cache-gb {args.cache_gb})") from error
    reference = None
    if args.kl:
        reference = policy if args.lora else fsdp_utils.load_sharded(model_path, *how)[0]
    stops = [] if args.worst_case else stop_tokens(model, tokenizer)
    opening = response_opening(tokenizer)
    return Setup(args, policy, tokenizer, sampler, stops, device, prompts, reference, opening, model_path)


def leave_out_too_long(prompts: dict[str, list[int]], response: int, context: int) -> dict[str, list[int]]:
    """The prompts, by question id, that leave room for a response in the model's context; the others are counted."""
    fitting = {id: prompt for id, prompt in prompts.items() if len(prompt) + response <= context}
    what = f"with --max-new-tokens {response} exceed the model's context of {context}"
    if not fitting:
        raise UserError(f"all {len(prompts)} prompts {what}")
    if len(fitting) < len(prompts) and fsdp_utils.rank() == 0:
        print(f"{len(prompts) - len(fitting)} of {len(prompts)} questions are left out: their prompts {what}")
    return fitting


if __name__ == "__main__":
    run_stage(main)

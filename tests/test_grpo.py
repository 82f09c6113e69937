"""The update is Eqs. 1 to 3 by plain autograd; curriculum and mining keep their books; a killed run goes on."""

import json
import math
import os
import random
import re
import shutil
import signal
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import call_main, killed_after, metrics_of, python, weights
from hypothesis import given
from hypothesis import strategies as st
from test_fidelity import MARFAN, REASONED, write_graph
from test_rollout import make
from test_sft import compare_runs
from transformers import Qwen2Config, Qwen3Config

import grpo
import plan
import rollout
from grpo import (
    Group,
    Ledger,
    Plateau,
    Setup,
    Stage2,
    advantages_of,
    blended_batch,
    nth_batch,
    reference_loss,
    update_policy,
)
from policy import Policy, load_config
from question import LETTERS, TIERS, Question
from reward import Reward, format_response, reward
from rollout import Sample, Sampler
from tools.cli import UserError
from tools.run import RunDir, read_jsonl, write_jsonl

CPU = torch.device("cpu")
rewards = st.sampled_from([0.0, 0.1, 1.0, 1.1, 1 / 3])


# ------------------------------------------------------------------------------------------------------------- Eqs. 1-3


@given(st.integers(2, 9).flatmap(lambda k: st.lists(st.lists(rewards, min_size=k, max_size=k), min_size=1, max_size=5)))
def test_advantages_are_rewards_minus_their_groups_mean(groups):
    found = advantages_of(torch.tensor(groups, dtype=torch.float64))
    for group, row in zip(groups, found.tolist()):
        mean = sum(group) / len(group)
        assert row == pytest.approx([value - mean for value in group], abs=1e-12)
        if len(set(group)) == 1:
            assert row == [0.0] * len(group)  # exactly, whatever the mean's rounding


def test_equal_rewards_have_exactly_no_advantage():
    values = torch.tensor([[0.1] * 7, [1.1] * 7], dtype=torch.float32)
    assert (values - values.mean(1, keepdim=True)).abs().max() > 0  # rounding would pretend one
    for with_std in (False, True):
        assert advantages_of(values, with_std).abs().max() == 0


def test_with_std_divides_by_the_groups_deviation():
    values = torch.tensor([[0.0, 1.0, 1.0, 1.1]], dtype=torch.float64)
    expected = (values - values.mean()) / values.std(unbiased=True)
    torch.testing.assert_close(advantages_of(values, with_std=True), expected, atol=1e-5, rtol=0)


# Two groups with an advantage, between two with none; responses of different lengths that hold the padding's token 0.
PROMPTS = [[5, 0, 7], [8, 8], [1, 2, 3, 4, 5, 6], [9]]
RESPONSES = [[[1, 2], [3]], [[0, 0, 4], [7]], [[10, 11, 12, 13, 14, 0], [0]], [[5], [6, 6]]]
REWARDS = [[1.1, 1.1], [1.0, 0.1], [0.0, 1.1], [0.0, 0.0]]


def make_setup(model, **changes):
    args = {"with_std": False, "token_mean": False, "share_prompts": False, "micro_tokens": 1000, "max_grad_norm": 1e9}
    args |= {"temperature": 1.0, "clip": 0.0, "kl": 0.0, "pack": False}
    return Setup(Namespace(**args | changes), Policy(model), None, None, [], CPU)


def make_groups(model, chosen=range(4), temperature=1.0):
    groups = []
    for index in chosen:
        question = Question(f"q{index}", "s", "en", "?", {"A": "a", "B": "b"}, "A")
        samples = []
        for response in RESPONSES[index]:
            with torch.no_grad():
                logprobs = response_logprobs(model, PROMPTS[index], response, temperature).tolist()
            samples.append(Sample(response, logprobs, None))
        marks = [Reward(value, value >= 1, value in (0.1, 1.1)) for value in REWARDS[index]]
        groups.append(Group(question, PROMPTS[index], samples, marks))
    return groups


def response_logprobs(model, prompt, response, temperature=1.0):
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def scaled(model, ablation):
    """The model as the ablation sees it: with `temperature`, its logits divided by that."""
    return lambda tokens: Namespace(logits=model(tokens).logits / ablation.get("temperature", 1.0))


def expected_loss(model, ablation):
    """`reference_loss`, its rewards and responses weighted where an ablation does so."""
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    if ablation.get("with_std"):  # subtracting the mean first changes nothing: Eq. 2 subtracts it once more
        rewards = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True, unbiased=True) + 1e-6)
    if ablation.get("token_mean"):
        return plain_ablation(model, model, 0.0, 0.0, True)
    return reference_loss(scaled(model, ablation), PROMPTS, RESPONSES, rewards)


@pytest.mark.parametrize("rows", [{}, {"share_prompts": True}, {"pack": True}, {"share_prompts": True, "pack": True}])
@pytest.mark.parametrize("micro_tokens", [1, 20, 1000])
@pytest.mark.parametrize("ablation", [{}, {"with_std": True}, {"token_mean": True}, {"temperature": 0.7}])
def test_the_update_is_the_gradient_of_eq_1(ablation, micro_tokens, rows):
    """In float64; plain gradient descent with rate 1 shows the gradient. Only groups with an advantage are computed."""
    model = make("qwen2").double()
    expected = expected_loss(model, ablation)
    expected.backward()
    gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    norm = sum(value.pow(2).sum() for value in gradient.values()).sqrt().item()
    model.zero_grad(set_to_none=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    setup = make_setup(model, micro_tokens=micro_tokens, **rows, **ablation)
    groups = make_groups(model, temperature=ablation.get("temperature", 1.0))
    measured = update_policy(setup, groups, 4, torch.optim.SGD(model.parameters(), lr=1.0), 0)

    scale = max(value.abs().max() for value in gradient.values()).item()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(before[name] - parameter, gradient[name], atol=1e-6 * scale, rtol=0)
        assert parameter.grad is None
    assert measured["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert measured["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert measured["trained_tokens"] == 11  # the tokens of groups 1 and 2
    assert measured["advantage"] == pytest.approx(0, abs=1e-6)
    assert measured["logprob_gap"] < 1e-5 and measured["logprob_gap_p95"] < 1e-5 and measured["ratio_outside"] == 0


def test_an_advantage_without_its_baseline_is_measured(monkeypatch):
    monkeypatch.setattr(grpo, "advantages_of", lambda rewards, with_std: rewards)
    model = make("qwen2")
    measured = update_policy(make_setup(model), make_groups(model), 4, torch.optim.SGD(model.parameters(), lr=1.0), 0)
    assert measured["advantage"] == pytest.approx(sum(map(sum, REWARDS)) / 8)  # the mean reward


def test_groups_whose_rewards_differ_by_next_to_nothing_are_counted_where_that_counts():
    question, sample = Question("q", "s", "en", "?", {"A": "a", "B": "b"}, "A"), Sample([1], [0.0], None)
    pairs = [(1.1, 1.1), (1.1, 1.08), (1.1, 1.0), (1.1, 0.0)]
    groups = [Group(question, [1], [sample] * 2, [Reward(total, True, True) for total in pair]) for pair in pairs]
    model = make("qwen2")
    measured = grpo.rollout_statistics(make_setup(model, with_std=True), groups)
    assert measured["zero_advantage"] == measured["nearly_equal"] == 0.25
    assert "nearly_equal" not in grpo.rollout_statistics(make_setup(model), groups)


def plain_ablation(model, other, clip, kl, token_mean):
    """PPO's clipped surrogate against samples of `other`, and a divergence from `other`, one response at a time."""
    loss = 0.0
    for prompt, responses, values in zip(PROMPTS, RESPONSES, REWARDS):
        for response, value in zip(responses, values):
            advantage = value - sum(values) / len(values)
            weight = 1 / len(response) if token_mean else 1.0
            new, old = (response_logprobs(which, prompt, response) for which in (model, other))
            for one, before in zip(new, old.detach().tolist()):
                ratio = torch.exp(one - before)
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
                divergence = torch.exp(before - one) - (before - one) - 1
                loss = loss - weight * (surrogate if clip else advantage * one) / len(values)
                loss = loss + weight * kl * divergence / len(values)
    return loss / len(PROMPTS)


@pytest.mark.parametrize("name", ["qwen2", "qwen2-lora"])
@pytest.mark.parametrize("share_prompts", [False, True])
@pytest.mark.parametrize(
    "ablation",
    [{"clip": 0.2}, {"clip": 0.02, "token_mean": True}, {"kl": 0.3}, {"clip": 0.1, "kl": 0.3, "token_mean": True}],
)
def test_clipping_and_divergence_are_what_they_say(ablation, share_prompts, name):
    """Samples from a policy one step away; with a divergence, groups without advantage have a gradient too. The old
    policy is a model of its own or, with adapters, the new one without them."""
    old, new = make("qwen2").double(), make(name).double()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in Policy(new).trained():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(name == "qwen2").add_(0.02 * noise)
    expected = plain_ablation(new, old, **{"clip": 0.0, "kl": 0.0, "token_mean": False} | ablation)
    expected.backward()
    gradient = {name: parameter.grad.clone() for name, parameter in new.named_parameters() if parameter.requires_grad}
    new.zero_grad(set_to_none=True)
    before = {name: parameter.detach().clone() for name, parameter in new.named_parameters()}
    setup = make_setup(new, share_prompts=share_prompts, **ablation)
    reference = Policy(old) if name == "qwen2" else setup.policy
    setup.reference = reference if ablation.get("kl") else None
    measured = update_policy(setup, make_groups(old), 4, torch.optim.SGD(new.parameters(), lr=1.0), 0)
    assert measured["loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    scale = max(value.abs().max() for value in gradient.values()).item()
    for name, parameter in new.named_parameters():
        change = before[name] - parameter
        torch.testing.assert_close(change, gradient.get(name, torch.zeros_like(change)), atol=1e-5 * scale, rtol=0)
    assert measured["trained_tokens"] == (17 if ablation.get("kl") else 11)


def test_on_policy_clipping_is_eq_1():
    """The first update on a batch: every ratio is one."""
    steps = []
    for clip in (0.0, 0.2):
        model = make("qwen2").double()
        update_policy(make_setup(model, clip=clip), make_groups(model), 4, torch.optim.SGD(model.parameters(), 1.0), 0)
        steps.append(model.state_dict())
    for name in steps[0]:
        torch.testing.assert_close(steps[0][name], steps[1][name], atol=1e-7, rtol=0)


def test_groups_without_advantage_change_nothing():
    """Left out or not, as long as they are counted: the same weights, bit for bit."""
    results = []
    for chosen in (range(4), [1, 2]):
        model = make("qwen2").double()
        update_policy(make_setup(model), make_groups(model, chosen), 4, torch.optim.SGD(model.parameters(), lr=1.0), 0)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    model = make("qwen2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    measured = update_policy(make_setup(model), make_groups(model, [0, 3]), 2, optimizer, 0)
    assert measured == {"grad_norm": 0.0, "loss": 0.0}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_gap_to_the_sampler_is_measured():
    """Log-probabilities of another policy: mean and 95th percentile of the gap, ratios outside [0.9, 1.1]."""
    model = make("qwen2")
    groups = make_groups(model, [1, 2])
    groups[0].samples[1].logprobs[0] += 0.2  # ratio 0.82
    groups[1].samples[0].logprobs[0] -= 0.2  # ratio 1.22
    groups[1].samples[0].logprobs[1] -= 0.09  # ratio 1.094
    groups[1].samples[0].logprobs[2] += 0.11  # ratio 0.896
    measured = update_policy(make_setup(model), groups, 2, torch.optim.SGD(model.parameters(), lr=0.0), 0)
    assert measured["logprob_gap"] == pytest.approx(0.6 / 11, abs=1e-5)
    assert measured["ratio_outside"] == pytest.approx(3 / 11)
    assert measured["logprob_gap_p95"] == pytest.approx(0.2, abs=1e-5)


def test_the_gaps_percentile_is_over_all_ranks(monkeypatch):
    """As if another rank had 189 tokens of gap 3: 95% of all 200 lie at or below 3."""
    monkeypatch.setattr(grpo.fsdp_utils, "gather_objects", lambda gap: [gap, torch.full((189,), 3.0)])
    model = make("qwen2")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    measured = update_policy(make_setup(model), make_groups(model, [1, 2]), 2, optimizer, 0)
    assert measured["logprob_gap_p95"] == 3.0


def test_a_loss_that_is_not_finite_stops_the_run():
    model = make("qwen2")
    groups = make_groups(model, [1])
    model.model.norm.weight.data.fill_(float("nan"))
    message = r"^step 7: the loss \(nan\) .* is not finite, with q1(, q1)?; the last checkpoint is good, lower --lr$"
    with pytest.raises(UserError, match=message):
        update_policy(make_setup(model), groups, 1, torch.optim.SGD(model.parameters(), lr=1.0), 6)


def test_updates_raise_the_reward():
    """Sample, reward, update, twelve times: a policy that is paid for even tokens learns to write them."""
    model = make("qwen2")
    setup, sampler = make_setup(model), Sampler(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    question = Question("q", "s", "en", "?", {"A": "a", "B": "b"}, "A")
    means = []
    for step in range(12):
        groups = []
        results = sampler.generate(
            PROMPTS, samples=16, max_new_tokens=4, stop_ids=[], seeds=range(4 * step, 4 * step + 4)
        )
        for prompt, samples in zip(PROMPTS, results):
            values = [sum(token % 2 == 0 for token in sample.tokens) / 4 for sample in samples]
            groups.append(Group(question, prompt, samples, [Reward(value, False, False) for value in values]))
            means.append(sum(values) / 16)
        update_policy(setup, groups, 4, optimizer, step)
    assert 0.3 < sum(means[:4]) / 4 < 0.7 and sum(means[-4:]) / 4 > 0.9


# ------------------------------------------------------------------------------------------------------- the curriculum


@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 12))
def test_batches_pass_over_the_pool_epoch_by_epoch(pool, size, steps):
    items = list(range(pool))
    stream = [item for step in range(steps) for item in nth_batch(items, step, size, "seed")]
    assert len(stream) == steps * size
    for start in range(0, len(stream) - pool + 1, pool):
        assert sorted(stream[start : start + pool]) == items
    assert nth_batch(items, steps, size, "seed") == nth_batch(items, steps, size, "seed")


def test_epochs_and_seeds_differ():
    epochs = [tuple(nth_batch(list(range(20)), step, 20, seed)) for step in range(3) for seed in ("0", "1")]
    assert len(set(epochs)) == 6


def test_stage_1_blends_easy_and_moderate(questions):
    seen = Counter()
    for step in range(7):
        batch = blended_batch(questions, step, 6, 0)
        assert Counter(question.tier for question in batch) == {"easy": 3, "moderate": 3}
        seen.update(question.id for question in batch)
    assert len(seen) == 14 and set(seen.values()) == {3}  # 7 of each tier, three times over
    assert Counter(question.tier for question in blended_batch(questions, 0, 5, 0)) == {"easy": 3, "moderate": 2}
    moderate = [question for question in questions if question.tier != "easy"]
    assert {question.tier for question in blended_batch(moderate, 0, 6, 0)} == {"moderate"}
    with pytest.raises(UserError, match="neither Easy nor Moderate"):
        blended_batch([question for question in questions if question.tier == "difficult"], 0, 6, 0)


def test_the_plateau_needs_sparse_rewards_that_do_not_rise():
    def steps_until(rewards_and_sparsity):
        plateau = Plateau(window=4, sparsity=0.5, slope=0.01)
        for number, item in enumerate(rewards_and_sparsity, 1):
            reason = plateau.reached(*item)
            if reason:
                assert "sparse" in reason and "rose by" in reason
                return number

    assert steps_until([(0.8, 0.9)] * 9) == 4  # not before the window is full
    assert steps_until([(0.1 * step, 0.9) for step in range(9)]) is None  # still rising
    assert steps_until([(0.8, 0.4)] * 9) is None  # flat, but not sparse
    assert steps_until([(0.1 * min(step, 5), 0.9) for step in range(20)]) == 9  # a window after it stopped rising
    assert steps_until([(0.8, 0.0)] * 5 + [(0.8, 1.0)] * 5) == 7  # half of the window is sparse
    assert steps_until([(0.8 - 0.1 * step, 0.6) for step in range(6)]) == 4  # falling is no rising


# ----------------------------------------------------------------------------------------------------------- the mining

outcomes = st.lists(
    st.tuples(st.sampled_from([f"test/{n}" for n in range(21)]), st.integers(1, 8), st.integers(0, 8)).map(
        lambda item: (item[0], item[1], min(item[1:]))
    ),
    max_size=40,
)


@given(outcomes)
def test_the_ledger_adds_up_and_survives_its_rows(questions, recorded):
    ledger = Ledger(questions)
    for step, outcome in enumerate(recorded):
        ledger.record([outcome], step)
    for question in questions:
        mine = [(step, a, p) for step, (name, a, p) in enumerate(recorded) if name == question.id]
        entry = ledger.entries[question.id]
        assert (entry.attempts, entry.passes) == (sum(a for _, a, _ in mine), sum(p for _, _, p in mine))
        assert entry.tier == question.tier and entry.last_seen == (mine[-1][0] if mine else -1)
        if mine:
            assert entry.last_pass_rate == mine[-1][2] / mine[-1][1]
    other = Ledger(questions)
    other.restore(ledger.rows())
    assert other.rows() == ledger.rows()
    assert other.draw(7, 9, random.Random(1)) == ledger.draw(7, 9, random.Random(1))


@given(outcomes, st.integers(0, 30), st.integers(1, 20))
def test_mining_takes_what_was_failed_and_can_be_solved(questions, recorded, count, set_aside):
    ledger = Ledger(questions)
    ledger.record(recorded, 0)
    mined = ledger.draw(count, set_aside, random.Random(0))
    assert mined == ledger.draw(count, set_aside, random.Random(0))
    eligible = {
        entry.id
        for entry in ledger.entries.values()
        if entry.last_pass_rate < 1 and (entry.passes > 0 or entry.attempts < set_aside)
    }
    assert len(set(mined)) == len(mined) == min(count, len(eligible)) and set(mined) <= eligible


def make_pool(*tiers):
    """A ledger of questions named by tier and number: (tier, how many, attempts at each, passes of each)."""
    options = {"A": "a", "B": "b"}
    questions = [
        Question(f"{tier}/{number}", "s", "en", "?", options, "A", tier)
        for tier, count, *_ in tiers
        for number in range(count)
    ]
    ledger = Ledger(questions)
    for tier, count, attempts, passes in tiers:
        ledger.record([(f"{tier}/{number}", attempts, passes) for number in range(count)], 0)
    return ledger


def tiers_of(mined):
    return Counter(question_id.split("/")[0] for question_id in mined)


def test_the_tier_mix_follows_the_measured_weaknesses():
    """Failure rates .1, .5, .9 times weights 1, 1.5, 2, however many questions a tier has; and as they change."""
    ledger = make_pool(("easy", 1000, 10, 9), ("moderate", 300, 10, 5), ("difficult", 400, 10, 1))
    mix = ledger.tier_mix(99)
    assert mix == pytest.approx({"easy": 0.1 / 2.65, "moderate": 0.75 / 2.65, "difficult": 1.8 / 2.65})
    mined = tiers_of(ledger.draw(265, 99, random.Random(0)))
    assert mined == {"easy": 10, "moderate": 75, "difficult": 180}
    ledger.record([(f"difficult/{number}", 10, 10) for number in range(400)], 1)  # these it has learnt
    assert tiers_of(ledger.draw(85, 99, random.Random(0))) == {"easy": 10, "moderate": 75}
    few = make_pool(("easy", 1000, 10, 9), ("moderate", 300, 10, 5), ("difficult", 40, 10, 1))
    assert tiers_of(few.draw(125, 99, random.Random(0))) == {"easy": 10, "moderate": 75, "difficult": 40}


def test_within_a_tier_questions_are_drawn_by_failure_rate():
    ledger = make_pool(("difficult", 3, 4, 0))
    ledger.record([("difficult/1", 4, 2), ("difficult/2", 4, 3)], 1)
    drawn = Counter(ledger.draw(1, 99, random.Random(seed))[0] for seed in range(4000))
    for number, share in ((0, 4 / 7), (1, 2 / 7), (2, 1 / 7)):
        assert drawn[f"difficult/{number}"] / 4000 == pytest.approx(share, abs=0.03)


def test_failures_of_several_minings_outrank_one(questions):
    ledger = Ledger(questions)
    for step in range(3):
        ledger.record([("test/2", 2, 0)], step, mining=True)
    ledger.record([("test/5", 2, 0)], 2, mining=True)
    ledger.record([("test/2", 9, 0), ("test/5", 9, 0)], 2)  # in training
    again, once = (ledger.entries[name] for name in ("test/2", "test/5"))
    assert again.priority == 3 * once.priority and again.last_pass_rate == once.last_pass_rate
    ledger.record([("test/2", 2, 2)], 3, mining=True)
    assert again.priority == 0 and again.failed_minings == 0
    drawn = Counter(ledger.draw(1, 99, random.Random(seed))[0] for seed in range(50))
    assert drawn == {"test/5": 50}  # a failure goes before what was never tried


class Answers(Stage2):
    """Stage 2 without a model: a response is right with the probability that `skill` gives the question."""

    def __init__(self, questions, skill, **flags):
        self.questions, self.args, self.skill = questions, Namespace(seed=0, **flags), skill
        self.ledger, self.by_id = Ledger(questions), {question.id: question for question in questions}

    def attempt(self, questions, attempts, when):
        draws = [random.Random(f"{when}/{question.id}") for question in questions]
        return [
            (question.id, attempts, sum(draw.random() < self.skill(question) for _ in range(attempts)))
            for question, draw in zip(questions, draws)
        ]


@given(st.integers(1, 90), st.integers(1, 4), st.floats(0, 1))
def test_mining_keeps_its_budget_and_in_a_few_rounds_sees_every_question(questions, budget, samples, skill):
    """Even while training tries a third of the questions again and again."""
    stage = Answers(questions, lambda _: skill, mine_budget=budget, mine_samples=samples)
    seen = set()
    for number in range(2 * math.ceil(1.5 * len(questions) / budget) + 1):
        first, again = stage.answers(number)
        outcomes = grpo.added(first, again)
        assert sum(attempts for _, attempts, _ in outcomes) <= budget
        assert all(0 <= passes <= attempts <= samples for _, attempts, passes in outcomes)
        assert len({name for name, *_ in outcomes}) == len(outcomes)
        stage.ledger.record(outcomes, number, mining=True)
        seen |= {name for name, *_ in outcomes}
        stage.ledger.record([(question.id, 8, 4) for question in questions[:7] if question.id in seen], number)
    assert seen == {question.id for question in questions}


def test_a_share_of_the_dataset_has_its_tiers(questions):
    sizes = Counter(question.tier for question in questions)
    stage = Answers(questions, lambda _: 1.0, mine_budget=18, mine_samples=4)
    looked_at = Counter(stage.by_id[name].tier for name, *_ in stage.answers(0)[0])
    assert all(abs(looked_at[tier] - 12 * sizes[tier] / 21) < 1.5 for tier in sizes) and looked_at.total() == 12


def test_what_failed_is_tried_again_and_what_had_failed_before(questions):
    """One look at 14 of 21 questions; seven responses are left for second attempts: at the Difficult ones, all wrong,
    then at the Easy ones, now right, which the mining before found wrong."""
    stage = Answers(questions, lambda question: question.tier != "difficult", mine_budget=21, mine_samples=2)
    stage.ledger.record([(question.id, 2, 0) for question in questions if question.tier == "easy"], 0, mining=True)
    outcomes = grpo.added(*stage.answers(0))
    tried = {name: attempts for name, attempts, _ in outcomes}
    tiers = {tier: [n for name, n in tried.items() if stage.by_id[name].tier == tier] for tier in TIERS}
    assert len(tried) == 14 and set(tiers["difficult"]) == {2} and set(tiers["moderate"]) == {1}
    assert tiers["easy"].count(2) == 7 - len(tiers["difficult"])


def test_trying_failures_again_does_not_make_a_tier_look_better():
    """Half of all responses are right: so says the share of first looks, while second looks find some of the rest."""
    ledger = make_pool(("easy", 2000, 1, 0), ("difficult", 2000, 1, 0))
    stage = Answers(list(ledger.entries.values()), lambda _: 0.5, mine_budget=6000, mine_samples=4)
    first, again = stage.answers(0)
    ledger.record(grpo.added(first, again), 1, mining=True, fair=first)
    summary = ledger.summary(ledger.draw(500, 99, random.Random(0)), 99)
    assert len(again) == 666 and all(row["passed"] == pytest.approx(0.5, abs=0.05) for row in summary.values())
    assert summary["difficult"]["mix"] == pytest.approx(2 / 3, abs=0.03)
    assert sum(entry.last_pass_rate for entry in ledger.entries.values()) / 4000 > 0.53


def test_the_order_of_a_minings_outcomes_does_not_matter(questions):
    """As many processes give them in another order than one does."""
    looked = {question.id: number % 2 for number, question in enumerate(questions)}
    ledgers = [Ledger(questions), Ledger(questions)]
    for ledger, order in zip(ledgers, (1, -1)):
        ledger.record([(name, 1, passes) for name, passes in list(looked.items())[::order]], 0, mining=True)
    one, other = (ledger.doubtful(dict(list(looked.items())[::order])) for ledger, order in zip(ledgers, (1, -1)))
    assert one == other and set(one) == {name for name, passes in looked.items() if not passes}
    draws = [(ledger.oldest(9, random.Random(1)), ledger.draw(9, 9, random.Random(2))) for ledger in ledgers]
    assert draws[0] == draws[1]


def test_mining_within_a_budget_resumes_exactly(run, tmp_path, cold_started, questions):
    """Stopped in the second round, between looking and trying again."""
    straight = make_run(tmp_path / "straight", cold_started, questions)
    flags = ["--stage", 2, "--steps", 2, "--round-steps", 1, "--mine-budget", 12, "--mine-samples", 2, *SMALL]
    call_main(grpo, "--run", straight, "--model", straight / "sft", *flags)
    sample = grpo.rollout

    def stopping(setup, questions, group_size, when, *rest):
        groups = sample(setup, questions, group_size, when, *rest)
        if when == "mining round 1":
            os.kill(os.getpid(), signal.SIGTERM)
        return groups

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "rollout", stopping)
        with pytest.raises(SystemExit):
            call_main(grpo, "--run", run, "--model", run / "sft", *flags)
    call_main(grpo, "--run", run, "--model", run / "sft", *flags)
    compare_runs(straight, run, "rl2")
    assert (straight / "ledger.jsonl").read_bytes() == (run / "ledger.jsonl").read_bytes()
    assert all(row["responses"] <= 12 for row in metrics_of(run, "mining"))


def test_what_was_never_solved_is_set_aside_and_the_summary_says_so():
    ledger = make_pool(("easy", 4, 4, 3), ("difficult", 5, 4, 1))
    ledger.record([("difficult/0", 5, 0)], 1)  # solved once before
    never = make_pool(("easy", 4, 4, 3), ("difficult", 5, 9, 0))
    assert "difficult/0" in ledger.draw(9, 9, random.Random(0))
    assert tiers_of(never.draw(9, 9, random.Random(0))) == {"easy": 4}
    assert never.summary(never.draw(9, 9, random.Random(0)), 9) == {
        "easy": {"questions": 4, "passed": 0.75, "mix": 1.0, "mined": 4, "untried": 0, "set_aside": 0},
        "difficult": {"questions": 5, "passed": 0.0, "mix": 0.0, "mined": 0, "untried": 0, "set_aside": 5},
    }
    ledger.entries |= {f"moderate/{number}": grpo.Entry(f"moderate/{number}", "moderate") for number in range(3)}
    summary = ledger.summary(ledger.draw(12, 9, random.Random(0)), 9)
    assert [summary[tier]["mined"] for tier in ("easy", "moderate", "difficult")] == [4, 3, 5]
    assert [summary[tier]["untried"] for tier in ("easy", "moderate", "difficult")] == [0, 3, 0]


# ----------------------------------------------------------------------------------------------------------- end to end

SMALL = "--questions 6 --group-size 4 --max-new-tokens 24 --lr 1e-3 --warmup-steps 2 --cache-gb 0.1".split()


@pytest.fixture
def run(tmp_path, cold_started, questions):
    """A run directory with questions and a model that keeps the format and guesses."""
    return make_run(tmp_path / "run", cold_started, questions)


def make_run(folder, cold_started, questions):
    folder.mkdir()
    shutil.copytree(cold_started / "sft", folder / "sft")
    shutil.copytree(cold_started / "sft", folder / "rl1.start")
    write_jsonl(folder / "train.jsonl", [question.to_json() for question in questions])
    return folder


def test_both_stages_from_the_command_line(run):
    result = python("grpo.py", "--stage", 1, "--run", run, "--steps", 3, *SMALL)
    assert result.returncode == 0, result.stderr
    call_main(grpo, "--stage", 2, "--run", run, "--steps", 3, "--round-steps", 2, *SMALL)
    for stage, sizes in (("rl1", [4, 4, 4]), ("rl2", [4, 4, 8])):  # stage 2 samples more in every round
        rows = metrics_of(run, stage)
        assert [row["step"] for row in rows] == [1, 2, 3] and [row["group_size"] for row in rows] == sizes
        assert any(row["grad_norm"] > 0 for row in rows)
        for row in rows:
            assert row["reward"] == pytest.approx(row["accuracy"] + 0.1 * row["format"], abs=1e-4)
            assert 0 <= row["zero_advantage"] <= 1 and 1 <= row["length"] <= 24
            assert row.get("advantage", 0) == 0 and "nearly_equal" not in row
            assert row.get("logprob_gap", 0) < 1e-5 and row.get("ratio_outside", 0) == 0  # on policy
    models = [weights(run / name) for name in ("sft", "rl1", "rl2")]
    for before, after in zip(models, models[1:]):
        assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    ledger = {row["id"]: row for row in read_jsonl(run / "ledger.jsonl")}
    assert len(ledger) == 21 and all(row["attempts"] >= 8 for row in ledger.values())  # mined twice, four attempts each
    assert sum(row["attempts"] for row in ledger.values()) == 2 * 4 * 21 + 6 * (4 + 4 + 8)


def test_the_reward_sees_what_the_chat_template_opens(run):
    """A template like those of Qwen3's thinking models, which writes <think> itself behind the generation prompt."""
    template = run / "sft" / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}<think>{% endif %}")
    call_main(grpo, "--stage", 1, "--run", run, "--steps", 1, *SMALL)
    (row,) = metrics_of(run, "rl1")
    assert row["format"] > 0.5 and row["reward"] == pytest.approx(row["accuracy"] + 0.1 * row["format"], abs=1e-4)


def test_a_question_stands_once_in_a_step(run):
    """Asked for more questions than were mined, a step does not sample one twice with the same seed."""
    flags = [*SMALL, "--questions", 40, "--steps", 1, "--round-steps", 1]
    call_main(grpo, "--stage", 2, "--run", run, "--model", run / "sft", *flags)
    attempts = [row["attempts"] for row in read_jsonl(run / "ledger.jsonl")]
    assert (
        set(attempts) <= {4, 8} and 8 in attempts
    )  # mined with four attempts; trained on once in a group of four, or not


@pytest.mark.parametrize("stage, output", [(1, "rl1"), (2, "rl2")])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, cold_started, questions, stage, output):
    """Checkpoint at step 3, killed after step 5 was logged. Stage 1 ends there at a plateau of five steps; stage 2 was
    amid a round, before another mining."""
    flags = ["--stage", stage, "--steps", 9 if stage == 1 else 5, "--save-every", 3, "--round-steps", 2, *SMALL]
    flags += "--plateau-window 5 --plateau-sparsity 0 --plateau-slope 9".split()
    runs = [make_run(tmp_path / name, cold_started, questions) for name in ("straight", "killed")]
    for folder in runs:
        (folder / "rl1.start").rename(folder / ("rl1" if stage == 2 else "other"))
    call_main(grpo, "--run", runs[0], *flags)
    assert killed_after("grpo", 5, "--run", runs[1], *flags).returncode == -9
    assert len(metrics_of(runs[0], output)) == len(metrics_of(runs[1], output)) == 5 and not (runs[1] / output).exists()
    call_main(grpo, "--run", runs[1], *flags)
    compare_runs(*runs, output)
    if stage == 2:
        assert (runs[0] / "ledger.jsonl").read_bytes() == (runs[1] / "ledger.jsonl").read_bytes()


def test_the_update_finds_the_memory_of_the_sampler_free(run, monkeypatch):
    """As on a GPU, where the sampler keeps its cache between calls."""
    kept, update, generate = [], grpo.update_policy, rollout.Sampler.generate

    def generate_and_keep(sampler, *args, **options):
        results = generate(sampler, *args, **options)
        sampler.idle_state = "the cache"
        return results

    monkeypatch.setattr(rollout.Sampler, "generate", generate_and_keep)
    monkeypatch.setattr(
        grpo, "update_policy", lambda setup, *rest: kept.append(setup.sampler.idle_state) or update(setup, *rest)
    )
    call_main(grpo, "--stage", 1, "--run", run, "--steps", 1, *SMALL)
    assert kept == [None]


def test_stage_1_ends_at_the_plateau(run, capsys):
    flags = "--steps 9 --plateau-window 2 --plateau-sparsity 0 --plateau-slope 9".split()
    call_main(grpo, "--stage", 1, "--run", run, *flags, *SMALL)
    assert [row["step"] for row in metrics_of(run, "rl1")] == [1, 2] and (run / "rl1" / "model.safetensors").exists()
    assert "stage 1 ends after step 2: " in "".join(capsys.readouterr())
    assert [row.get("ended") for row in metrics_of(run, "rl1")][0] is None
    assert "rewards are sparse" in metrics_of(run, "rl1")[-1]["ended"]


def test_stage_2_ends_when_nothing_is_left_to_mine(run, tiny, capsys):
    """Random weights never answer: every question is set aside, and the policy stays what it was."""
    flags = ["--model", tiny, "--mine-samples", 2, "--set-aside", 2, "--steps", 3]
    call_main(grpo, "--stage", 2, "--run", run, *SMALL, *flags)
    assert "stage 2 ends after step 0: nothing is left to mine" in "".join(capsys.readouterr())
    assert metrics_of(run, "mining")[-1]["ended"].startswith("nothing is left")
    before, after = weights(tiny), weights(run / "rl2")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(row["attempts"] == 2 and row["passes"] == 0 for row in read_jsonl(run / "ledger.jsonl"))


def test_mining_that_was_stopped_goes_on_where_it_was(run, monkeypatch, capsys):
    """In portions of five questions; SIGTERM comes in the second. What was answered is not asked again."""
    monkeypatch.setattr(grpo, "JOURNAL_PORTION", 5)
    flags = ["--stage", 2, "--run", run, "--model", run / "sft", "--steps", 1, *SMALL]
    asked = []

    def counting(setup, questions, *rest):
        asked.append(len(questions))
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return sample(setup, questions, *rest)

    sample = grpo.rollout
    monkeypatch.setattr(grpo, "rollout", counting)
    with pytest.raises(SystemExit) as stopped:
        call_main(grpo, *flags)
    assert stopped.value.code == 143 and asked == [5, 5] and "asked to stop at step 0" in capsys.readouterr().err
    with open(run / "rl2.state" / "mining.jsonl", "a") as journal:
        journal.write('{"round": 0, "id": "test/1')  # a crash cut a line
    call_main(grpo, *flags)
    assert asked == [5, 5, 5, 5, 1, 6] and not (run / "rl2.state").exists()
    attempts = [row["attempts"] for row in read_jsonl(run / "ledger.jsonl")]
    assert sorted(attempts) == [4] * 15 + [8] * 6


def test_a_stop_while_mining_loses_no_step(run, monkeypatch, capsys):
    """The step before a mining is saved, though no checkpoint is due: what the message says is so."""
    flags = ["--stage", 2, "--run", run, "--model", run / "sft", *SMALL, "--steps", 2, "--round-steps", 1]

    def stopping(setup, questions, group_size, occasion, bar=None):
        if occasion == "mining round 1":
            os.kill(os.getpid(), signal.SIGTERM)
        return sample(setup, questions, group_size, occasion, bar)

    sample = grpo.rollout
    monkeypatch.setattr(grpo, "rollout", stopping)
    with pytest.raises(SystemExit) as stopped:
        call_main(grpo, *flags)
    assert stopped.value.code == 143 and "asked to stop at step 1: all is saved" in capsys.readouterr().err
    assert sorted(path.name for path in (run / "rl2.state").iterdir()) == ["mining.jsonl", "step-000001"]


def test_sigterm_saves_and_the_same_command_goes_on(run, tmp_path, cold_started, questions, monkeypatch, capsys):
    """Asked to stop during step 2 of 3, long before a checkpoint is due: bit for bit as if it had not been."""
    straight = make_run(tmp_path / "straight", cold_started, questions)
    flags = ["--stage", 1, "--steps", 3, *SMALL]
    call_main(grpo, "--run", straight, *flags)
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(grpo, "update_policy", stop_at(1, grpo.update_policy))
        with pytest.raises(SystemExit) as stopped:
            call_main(grpo, "--run", run, *flags)
    assert stopped.value.code == 143 and "asked to stop at step 2: all is saved" in capsys.readouterr().err
    assert [path.name for path in (run / "rl1.state").iterdir()] == ["step-000002"]
    call_main(grpo, "--run", run, *flags)
    compare_runs(straight, run, "rl1")
    assert signal.getsignal(signal.SIGTERM) == handler


def stop_at(step, update):
    def update_and_stop(setup, groups, count, optimizer, number):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(setup, groups, count, optimizer, number)

    return update_and_stop


def test_a_dataset_that_changed_is_not_resumed(run, questions):
    flags = ["--stage", 1, "--run", run, "--steps", 3, "--save-every", 1, *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "update_policy", stop_at(0, grpo.update_policy))
        with pytest.raises(SystemExit):
            call_main(grpo, *flags)
    rows = [question.to_json() for question in questions]
    write_jsonl(run / "train.jsonl", [rows[0] | {"tier": "difficult"}, *rows[2:]])
    with pytest.raises(UserError, match="rl1.state was made from another train.jsonl; put that back, or delete"):
        call_main(grpo, *flags)


def test_the_ablations_with_clipping_and_divergence(run):
    """Two updates on every batch: the second is off policy, so its ratios leave one; both are in the weights."""
    flags = ["--stage", 1, "--run", run, "--steps", 2, *SMALL, "--clip", 0.2, "--updates", 2, "--kl", 0.01, "--pack"]
    call_main(grpo, *flags, "--output", "x")
    rows = metrics_of(run, "x")
    assert len(rows) == 2 and max(row["logprob_gap"] for row in rows) > 1e-4
    assert all(row["entropy"] > 0 and row["seconds_update"] > 0 for row in rows)
    assert all(row["computed_tokens"] > row["trained_tokens"] and 0 < row["update_arithmetic"] for row in rows)
    assert all(0 < row["rollout_bandwidth"] and 0 < row["rollout_arithmetic"] and row["idle"] < 1 for row in rows)


def test_the_ablation_without_mining(run):
    """Groups grow as with mining, so that nothing but the choice of questions differs."""
    flags = ["--stage", 2, "--run", run, "--model", run / "sft", "--output", "x", "--no-mining", *SMALL]
    call_main(grpo, *flags, *"--steps 3 --round-steps 2 --group-growth 2".split())
    assert [row["group_size"] for row in metrics_of(run, "x")] == [4, 4, 6] and not metrics_of(run, "mining")
    assert (run / "x").is_dir() and not (run / "rl2").exists()


def test_the_ablation_without_mining_leaves_stage_1_its_blend(run):
    for output, more in (("blend", []), ("unmined", ["--no-mining"])):
        call_main(grpo, "--stage", 1, "--run", run, "--output", output, "--steps", 1, *SMALL, *more)
    blend, unmined = weights(run / "blend"), weights(run / "unmined")
    assert all(torch.equal(blend[name], unmined[name]) for name in blend)


def test_bad_input_is_one_line_and_status_1(tmp_path):
    result = python("grpo.py", "--stage", 1, "--run", tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (
        f"grpo.py: error: {tmp_path}/train.jsonl does not exist; make it with: python curate.py --run {tmp_path}\n"
    )


def test_prompts_that_are_too_long_are_left_out_with_a_count(run, questions, capsys):
    rows = [question.to_json() for question in questions]
    for row in rows[:4]:
        row["question"] = "What is it? " * 300
    write_jsonl(run / "train.jsonl", rows)
    flags = ["--stage", 2, "--run", run, "--model", run / "sft", "--steps", 1, *SMALL]
    call_main(grpo, *flags, "--evaluate-every", 0)
    assert (
        "4 of 21 questions are left out: their prompts with --max-new-tokens 24 exceed the" in capsys.readouterr().out
    )
    assert len(list(read_jsonl(run / "ledger.jsonl"))) == 17


def test_held_out_questions_are_answered_on_the_way_and_change_nothing(run, questions):
    """Greedily, each N-th step; every metric and every weight is what it is without them."""
    write_jsonl(
        run / "heldout.jsonl", [replace(question, id=f"held/{question.id}").to_json() for question in questions]
    )
    flags = ["--stage", 1, "--run", run, "--steps", 5, *SMALL]
    call_main(grpo, *flags, "--output", "plain")
    call_main(grpo, *flags, "--output", "watched", "--evaluate-every", 2)
    plain, watched = metrics_of(run, "plain"), metrics_of(run, "watched")
    answered = {row["step"]: row["heldout_accuracy"] for row in watched if "heldout_accuracy" in row}
    assert list(answered) == [2, 4] and all(round(21 * value, 4) % 1 < 0.01 for value in answered.values())
    for name in ("reward", "loss", "grad_norm", "logprob_gap"):
        assert [row.get(name) for row in plain] == [row.get(name) for row in watched]
    before, after = weights(run / "plain"), weights(run / "watched")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bad_input_names_its_remedy(run, questions):
    with pytest.raises(UserError, match=r"--group-size 1: a group of one has no advantage \(Eq. 2\)"):
        call_main(grpo, "--stage", 1, "--run", run, "--group-size", 1)
    with pytest.raises(UserError, match="rl1 does not exist; make it with: python grpo.py --stage 1"):
        call_main(grpo, "--stage", 2, "--run", run)
    with pytest.raises(UserError, match=r"all 21 prompts with --max-new-tokens 500 exceed the model's context of 512"):
        call_main(grpo, "--stage", 1, "--run", run, "--max-new-tokens", 500)
    rows = [question.to_json() for question in questions]
    rows[3].pop("tier")
    write_jsonl(run / "train.jsonl", rows)
    with pytest.raises(UserError, match=r"1 questions of train.jsonl have no tier \(test/3\)"):
        call_main(grpo, "--stage", 1, "--run", run)
    shutil.rmtree(run / "sft")
    write_jsonl(run / "train.jsonl", rows[:3])
    with pytest.raises(UserError, match="sft does not exist; make it with: python sft.py"):
        call_main(grpo, "--stage", 1, "--run", run)


@pytest.mark.parametrize(
    "flag, value, message",
    [
        ("--questions", 0, "--questions: 0 must be at least 1"),
        ("--plateau-window", 1, "--plateau-window: 1 must be at least 2"),
        ("--temperature", 0, "--temperature: 0 must be above 0"),
        ("--lr", "nan", "--lr: nan must be above 0"),
        ("--lr", "fast", "--lr: 'fast' is no number"),
        ("--steps", 1.5, "--steps: '1.5' is no whole number"),
        ("--lr-decay", 1.1, "--lr-decay: 1.1 must be from 0 to 1"),
        ("--beta2", 1, "--beta2: 1 must be 0 or more and below 1"),
        ("--updates", 2, "--updates 2: after the first the samples are off policy; add --clip 0.2"),
        ("--cache-gb", 1e-5, r"^question test/\d+: one row of \d+ tokens needs .* \(--cache-gb 1e-05\)"),
    ],
)
def test_impossible_flags_are_refused(run, flag, value, message):
    with pytest.raises(UserError, match=message):
        call_main(grpo, "--stage", 1, "--run", run, "--max-new-tokens", 8, flag, value)


def test_a_model_that_the_sampler_does_not_know_is_refused(run):
    config = json.loads((run / "sft" / "config.json").read_text())
    (run / "sft" / "config.json").write_text(json.dumps(config | {"use_sliding_window": True}))
    with pytest.raises(UserError, match="sft: the sampler does not know sliding-window attention"):
        call_main(grpo, "--stage", 1, "--run", run, *SMALL)


def test_a_policy_that_broke_names_the_step(run):
    with pytest.raises(UserError, match=r"step \d: the (policy's logits are|loss .* is) not finite"):
        call_main(grpo, "--stage", 1, "--run", run, "--steps", 4, *SMALL, "--lr", 1e30)


# ------------------------------------------------------------------------------------------------------------- the plan


QWEN_7B = Qwen2Config(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
    num_key_value_heads=4,
)  # fmt: skip
QWEN_32B = Qwen3Config(
    vocab_size=151936, hidden_size=5120, intermediate_size=25600, num_hidden_layers=64, num_attention_heads=64,
    num_key_value_heads=8, head_dim=128, tie_word_embeddings=False,
)  # fmt: skip
QWEN_7B.tie_word_embeddings = False


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory):
    """The output of `--plan` for a model of which only the config is there, and the error, if any."""
    folders = {}
    for name, config in (("7b", QWEN_7B), ("32b", QWEN_32B)):
        folders[name] = tmp_path_factory.mktemp(name)
        config.save_pretrained(folders[name])

    def run_plan(name, capsys, *flags):
        error = None
        try:
            call_main(grpo, "--stage", 1, "--model", folders[name], "--plan", *flags)
        except UserError as problem:
            error = str(problem)
        return capsys.readouterr().out, error

    run_plan.folders = folders
    return run_plan


def test_the_defaults_fit_7b_on_eight_gpus(plan_of, capsys):
    text, error = plan_of("7b", capsys)
    assert error is None and "7.62 B parameters on 8 GPUs of 80 GB" in text and "fits: " in text
    assert "weights, gradient, Adam (float32, sharded)            15.2" in text  # 16 x 7.62 / 8
    assert "all weights (bfloat16)                                15.2" in text
    assert float(re.search(r"about (\d+) steps a day", text)[1]) > 10 and "assumed: 512 prompt tokens" in text
    one = plan_of("7b", capsys, "--gpus", 1, "--no-gradient-checkpointing")[1]
    assert one.startswith("does not fit: updating needs ")
    long = plan_of("7b", capsys, "--micro-tokens", 32768, "--no-gradient-checkpointing")[1]
    assert "does not fit: updating" in long and long.endswith("it fits with --micro-tokens 4608")  # 512 + 4096
    assert plan_of("7b", capsys, "--micro-tokens", 32768, "--gradient-checkpointing")[1] is None
    assert "recomputed" not in text  # by default where it is needed, and only there
    needed, error = plan_of("7b", capsys, "--micro-tokens", 32768)
    assert error is None and "activations, recomputed (--gradient-checkpointing)" in needed


def test_mining_is_in_the_plan_of_stage_2(plan_of, capsys):
    def rates(*flags):
        text, error = plan_of("7b", capsys, "--stage", 2, *flags)
        assert error is None
        return float(re.search(r"about (\d+) steps a day", text)[1]), re.search(r"mining: .* (\d+)% of the stage", text)

    without, none = rates("--no-mining")
    steps, share = rates()
    assert none is None and steps < without and int(share[1]) < 40
    full, all_of_it = rates("--mine-budget", 0)
    assert full < steps and int(all_of_it[1]) > int(share[1])


def test_what_32b_needs(plan_of, capsys):
    """One node holds the training state or the weights to sample from, not both; with the state on the host it fits."""
    flags = ["--gradient-checkpointing", "--micro-tokens", 8192, "--cache-gb", 5]
    text, error = plan_of("32b", capsys, *flags)
    assert (
        "32.76 B parameters" in text and error.startswith("does not fit: sampling needs 1") and "--cpu-offload" in error
    )
    one, error = plan_of("32b", capsys, *flags, "--cpu-offload")
    assert error is None
    host = one.partition("host memory")[2].splitlines()
    assert plan_of("32b", capsys, *"--gpus 1 --gpu-gb 141 --lora 16 --gradient-checkpointing".split())[1] is None
    assert host[1].split()[-1] == "65.5" and host[2].split()[-1] == "131.0"  # the state; the float32 result
    several, error = plan_of("32b", capsys, *flags, "--cpu-offload", "--gpus", 64)
    rates = [float(re.search(r"about (\d+) steps a day", text)[1]) for text in (one, several)]
    assert error is None and rates[1] > 4 * rates[0]
    assert "--cache-gb 0.1: not one response" in plan_of("32b", capsys, "--cpu-offload", "--cache-gb", 0.1)[1]
    assert plan_of("32b", capsys, "--gpus", 12, "--shard-over", 8)[1] == "--gpus 12 is not a multiple of --shard-over 8"


@pytest.mark.parametrize("name, gb", [("7b", 24), ("32b", 80)])
def test_adapters_fit_on_one_gpu_by_the_flags_that_the_plan_names(plan_of, capsys, name, gb):
    card = ["--gpus", 1, "--gpu-gb", gb, "--no-gradient-checkpointing"]
    error = plan_of(name, capsys, *card)[1]
    assert error.startswith("does not fit: ") and "\n" not in error
    proposed = re.split(r",? (?:it fits|or) with ", error)[1:]
    assert proposed[-1].startswith("--lora 16 --gradient-checkpointing")
    for flags in proposed:
        assert plan_of(name, capsys, *card, *re.sub(r"\(.*\)", "", flags).split())[1] is None
    without_lora = proposed[-1].removeprefix("--lora 16 ")
    assert plan_of(name, capsys, *card, "--lora", 16)[1].endswith(f"; it fits with {without_lora}")


def test_training_recomputes_what_would_not_fit(plan_of, monkeypatch, tmp_path):
    """On a GPU, unless told otherwise: 7B with adapters on 24 GB does, on 80 GB it does not."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = load_config(plan_of.folders["7b"])

    def decided(gb, *flags, device="cuda"):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gb * 1e9))
        monkeypatch.setattr("sys.argv", ["grpo.py", "--lora", "16", "--stage", "1", *flags])
        return plan.checkpointing(grpo.parse_args(), config, torch.device(device), 512)

    assert decided(24) and not decided(80) and not decided(24, device="cpu")
    assert decided(80, "--gradient-checkpointing") and not decided(24, "--no-gradient-checkpointing")


def test_what_adapters_take(plan_of, capsys):
    """16 bytes for each of 16 x (in + out) parameters of every layer, 2 for each frozen one; the result is whole."""
    text, error = plan_of("7b", capsys, *"--gpus 1 --lora 64 --cache-gb 5 --save-dtype bfloat16".split())
    adapters = 64 * 28 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    numbers = {line[:50].strip(): float(line.split()[-1]) for line in text.splitlines() if line.startswith("    ")}
    assert error is None and numbers["frozen weights (bfloat16)"] == 15.2
    assert numbers["adapters, gradient, Adam (float32)"] == pytest.approx(16 * adapters / 1e9, abs=0.05)
    assert numbers["checkpoint, and the one before it"] == pytest.approx(24 * adapters / 1e9, abs=0.05)
    assert numbers["trained model (--save-dtype)"] == numbers["saving (a checkpoint; the whole model)"] == 15.2
    assert "gathered" not in text and "gathered" in plan_of("7b", capsys, "--gpus", 2, "--lora", 64)[0]


def test_a_card_that_no_flags_fit_is_one_line(plan_of, capsys):
    error = plan_of("32b", capsys, "--gpus", 1, "--gpu-gb", 24)[1]
    assert error.endswith("its weights alone take 65.5 GB: take a smaller --model or larger GPUs")
    error = plan_of("7b", capsys, "--gpus", 1, "--gpu-gb", 24, "--max-new-tokens", 200_000, "--lora", 16)[1]
    assert error.endswith("no flags make it fit: take fewer --max-new-tokens, more --gpus or a smaller --model")


def test_every_letter_can_be_an_answer():
    """Up to 26 options; the reward reads any of them."""
    for letter in LETTERS:
        assert grpo.reward(f"<think></think><answer>{letter}</answer>", letter).total == 1.1


# ------------------------------------------------------------------------------------------------------ the path reward


def test_the_path_reward_pays_for_the_path_if_the_form_holds(tmp_path):
    write_graph(tmp_path / "kg.sqlite")
    setup = Setup(Namespace(path_reward=0.5), None, None, None, [], CPU)
    judge = grpo.path_judge(RunDir(tmp_path), [MARFAN])
    half = "It is Marfan syndrome. Prednisone treats it."
    for text, paid in ((REASONED, 0.5), (half, 0.25), ("Losartan is (D).", 0.0)):
        for response in (format_response(text, "D"), format_response(text, "A")):
            setup.fidelity = None
            plain = grpo.rewarded(setup, MARFAN, response)
            assert plain == reward(response, MARFAN.answer)
            setup.fidelity = judge
            assert grpo.rewarded(setup, MARFAN, response) == replace(plain, total=plain.total + paid)
    formless = f"{REASONED} <answer>D</answer>"
    assert grpo.rewarded(setup, MARFAN, formless) == reward(formless, "D")


def test_a_path_reward_needs_paths_and_a_weight_from_0_to_1(tmp_path, capsys):
    write_graph(tmp_path / "kg.sqlite")
    run, public = RunDir(tmp_path), replace(MARFAN, id="public", evidence=[])
    with pytest.raises(UserError, match="no question of train.jsonl has evidence"):
        grpo.path_judge(run, [public])
    grpo.path_judge(run, [MARFAN, public])
    assert "1 of 2 questions earn nothing for it: 1 without evidence" in capsys.readouterr().out
    for weight in ("-0.1", "1.5"):
        with pytest.raises(UserError, match=f"{weight} must be from 0 to 1"):
            call_main(grpo, "--stage", "1", "--path-reward", weight)

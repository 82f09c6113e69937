"""What a step used of its machine: counted work beside measured peaks."""

import time

import pytest
import torch
from test_rollout import COMMON, make

from plan import operations
from rollout import Sampler
from tools import ledger


def test_peaks_are_measured_in_a_moment_and_without_chance():
    before = torch.get_rng_state()
    began = time.process_time()
    peaks = ledger.measure_peaks(torch.device("cpu"), torch.float32)
    assert time.process_time() - began < 2 and torch.equal(torch.get_rng_state(), before)
    assert 1e8 < peaks.bandwidth < 1e13 and 1e8 < peaks.arithmetic < 1e15


def test_a_machine_at_its_peaks_is_never_idle():
    peaks = ledger.Peaks(bandwidth=10.0, arithmetic=100.0)
    full = ledger.shares(peaks, read=20, sampling=50, updating=300, seconds_rollout=2, seconds_update=3)
    assert full == {"rollout_bandwidth": 1, "rollout_arithmetic": 0.25, "update_arithmetic": 1, "idle": 0}
    half = ledger.shares(peaks, read=20, sampling=50, updating=300, seconds_rollout=4, seconds_update=6)
    assert half == {"rollout_bandwidth": 0.5, "rollout_arithmetic": 0.125, "update_arithmetic": 0.5, "idle": 0.5}


@pytest.mark.parametrize("name", ["qwen2", "qwen2-untied", "qwen2-lora"])
def test_what_decoding_reads(name):
    """Two prompts with three samples each, cut at five tokens: after the first, four steps, each one token longer."""
    model = make(name)
    sampler = Sampler(model)
    sampler.generate([[1] * 7, [2] * 4], samples=3, max_new_tokens=5, stop_ids=[])
    weights = sum(parameter.nbytes for parameter in model.parameters())
    weights -= model.model.embed_tokens.weight.nbytes * (name == "qwen2-untied")  # read by row, not as a whole
    token = 2 * 4 * COMMON["num_hidden_layers"] * COMMON["num_key_value_heads"] * 8
    assert sampler.read == 4 * weights + token * (4 * (7 + 4) + 6 * (1 + 2 + 3 + 4))


@pytest.mark.parametrize("name", ["qwen2", "qwen2-untied", "qwen2-lora"])
def test_operations_are_those_of_the_products_with_the_weights(name):
    """Of a token 2 for each weight it is multiplied with; logits are made of the scored ones alone."""
    config = make(name).config
    kv = config.num_key_value_heads * 8
    block = config.hidden_size * (2 * config.hidden_size + 2 * kv + 3 * config.intermediate_size)
    expected = 2 * 3 * (10 * config.num_hidden_layers * block + 4 * config.hidden_size * config.vocab_size)
    assert operations(make(name), 10, 4, 3) == expected

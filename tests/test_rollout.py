"""The sampler's own forward pass is the Hugging Face model's, token for token, whatever else is in the batch."""

import interpreted  # noqa: F401
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_decode import (
    add_norm_by_definition,
    attend_by_definition,
    needs_triton,
    norm_by_definition,
    swiglu_by_definition,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import AutoConfig, AutoModelForCausalLM

import lora
import plan
import rollout
from cuda.recorded import bucket
from cuda.top_p import uniform
from policy import Policy
from rollout import Sampler

VOCABULARY = 96
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
CONFIGS = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen2-untied": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 16},
    "llama": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    "llama-llama3": {"rope_parameters": LLAMA3 | {"rope_theta": 500.0, "original_max_position_embeddings": 16}},
    "qwen2-yarn": {"rope_parameters": YARN | {"rope_theta": 500.0, "original_max_position_embeddings": 64}},
    "qwen2-lora": {"tie_word_embeddings": True},
    "llama-lora": {"attention_bias": True, "mlp_bias": True},
    "llama-linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
}
PROMPTS = [[5, 0, 7], [3], list(range(40, 70)), [9, 9, 9, 9, 0, 0], [1, 2], [80, 3, 5, 0]]


def make(name, **changes):
    """A random model with no weight left at a trivial value: biases and norms count."""
    config = AutoConfig.for_model(name.split("-")[0], **COMMON | CONFIGS.get(name, {}) | changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in key else 0.0, 0.25)
        if name.endswith("-lora"):
            lora.add_adapters(model, 3, 6.0)
            for parameter in Policy(model).trained():
                parameter.normal_(0.0, 0.25)
    return model


def check_greedy(model, prompts, stops, length):
    """Greedy tokens equal `generate`'s, prompt by prompt; returns the samples."""
    results = Sampler(model).generate(prompts, max_new_tokens=length, stop_ids=stops, temperature=0.0)
    for prompt, (sample,) in zip(prompts, results):
        whole = model.generate(
            torch.tensor([prompt], device=model.device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=stops or None,
            pad_token_id=0,
        )
        assert sample.tokens == whole[0, len(prompt) :].tolist()
        assert sample.stop_id == (sample.tokens[-1] if sample.tokens[-1] in stops else None)
    return [sample for (sample,) in results]


def check_logprobs(model, prompts, results, temperature, tolerance=1e-4):
    for prompt, samples in zip(prompts, results):
        for sample in samples:
            tokens = torch.tensor([prompt + sample.tokens], device=model.device)
            logs = (model(tokens).logits[0, len(prompt) - 1 : -1].float().cpu() / temperature).log_softmax(-1)
            expected = logs.gather(1, torch.tensor(sample.tokens)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=tolerance, rtol=0)


# ----------------------------------------------------------------------------------------------------- the forward pass


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_greedy_equals_generate(name):
    """Without stop tokens, then with two that the model does emit."""
    model = make(name)
    samples = check_greedy(model, PROMPTS, [], 24)
    assert all(sample.stop_id is None and len(sample.tokens) == 24 for sample in samples)
    stops = [samples[0].tokens[9], samples[2].tokens[4]]
    lengths = [len(sample.tokens) for sample in check_greedy(model, PROMPTS, stops, 24)]
    assert min(lengths) < 24


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logprobs_equal_a_full_forward_pass(name):
    model = make(name)
    results = Sampler(model).generate(
        PROMPTS, samples=3, max_new_tokens=20, stop_ids=[4, 5], temperature=0.8, top_p=0.9
    )
    check_logprobs(model, PROMPTS, results, 0.8)


@torch.no_grad()
def test_trained_weights(shared_data):
    """Stories260K: a trained Llama, whose peaked distributions random weights do not have."""
    model = AutoModelForCausalLM.from_pretrained(shared_data / "stories260k").eval()
    prompts = [[1], [1, 403], [1, 403, 407, 261, 378]]
    check_greedy(model, prompts, [2], 48)
    results = Sampler(model).generate(prompts, samples=2, max_new_tokens=48, stop_ids=[2])
    check_logprobs(model, prompts, results, 1.0)


@torch.no_grad()
def test_bfloat16_stays_close():
    """On a GPU the policy computes in bfloat16: same precision steps as the module's, so only rounding differs."""
    model = make("qwen3").bfloat16()
    results = Sampler(model).generate(PROMPTS, max_new_tokens=16, stop_ids=[])
    check_logprobs(model, PROMPTS, results, 1.0, tolerance=0.15)


@torch.no_grad()
def test_the_sampler_follows_the_weights():
    """Nothing is copied: after an optimiser step the same sampler samples from the new policy."""
    model = make("qwen2")
    sampler = Sampler(model)
    before = sampler.generate(PROMPTS, max_new_tokens=12, stop_ids=[])
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    after = sampler.generate(PROMPTS, max_new_tokens=12, stop_ids=[])
    assert before != after
    check_logprobs(model, PROMPTS, after, 1.0)


# -------------------------------------------------------------------------------------------------- continuous batching


@pytest.fixture(scope="module")
def model():
    return make("qwen2")


@pytest.fixture(scope="module")
def reference(model):
    """Sampled with room for all rows at once; lengths differ widely."""
    return Sampler(model).generate(PROMPTS, samples=5, max_new_tokens=30, stop_ids=[1, 2, 3, 4], seeds=range(6))


def test_the_reference_has_every_kind_of_end(reference):
    samples = [sample for group in reference for sample in group]
    assert {sample.stop_id for sample in samples} >= {None} and len({sample.stop_id for sample in samples}) > 2
    assert len({len(sample.tokens) for sample in samples}) > 5
    for sample in samples:
        assert len(sample.tokens) == len(sample.logprobs)
        assert not set(sample.tokens[:-1]) & {1, 2, 3, 4}
        if sample.stop_id is None:
            assert len(sample.tokens) == 30 and sample.tokens[-1] > 4
        else:
            assert sample.tokens[-1] == sample.stop_id
    assert all(len({tuple(sample.tokens) for sample in group}) > 1 for group in reference)


def same(results, reference):
    for group, expected in zip(results, reference, strict=True):
        assert [sample.tokens for sample in group] == [sample.tokens for sample in expected]
        for sample, other in zip(group, expected):
            torch.testing.assert_close(sample.logprobs, other.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 7, 11])
def test_the_cache_budget_changes_nothing(model, reference, rows):
    """With less room than rows, finished rows make place for waiting ones, and the batch is compacted."""
    row = 2 * 2 * 2 * 8 * 60 * 4  # keys and values, layers, kv heads, head_dim, longest prompt + 30, bytes
    finished = []
    sampler = Sampler(model, row * rows + row // 2)
    assert sampler.capacity(30, 30, 5) == (rows, rows)
    options = {"samples": 5, "max_new_tokens": 30, "stop_ids": [1, 2, 3, 4], "seeds": range(6)}
    same(sampler.generate(PROMPTS, **options, on_sample=lambda *ended: finished.append(ended)), reference)
    assert sorted(number for number, _ in finished) == list(range(30))
    assert all(sample.tokens == reference[number // 5][number % 5].tokens for number, sample in finished)


def test_large_groups_share_places(model, monkeypatch):
    """Sixteen samples a prompt and room for a few: a prompt runs once, though its samples are admitted in parts."""
    token = 2 * 2 * 2 * 8 * 4
    options = {"samples": 16, "max_new_tokens": 30, "stop_ids": list(range(12))}
    reference = Sampler(model).generate(PROMPTS, **options)
    prefilled, prefill = [], rollout.State.prefill

    def noting(state, prompts):
        prefilled.extend(prompt.tokens for prompt in prompts)
        prefill(state, prompts)

    monkeypatch.setattr(rollout.State, "prefill", noting)
    sampler = Sampler(model, token * 2 * (4 * 30 + 30))
    assert sampler.capacity(30, 30, 16) == (8, 2)
    same(sampler.generate(PROMPTS, **options), reference)
    assert prefilled == PROMPTS


@given(*(st.integers(1, limit) for limit in (300, 300, 40)), st.integers(0, 3_000_000))
def test_the_cache_fits_the_budget(model, prompt_length, max_new_tokens, samples, budget):
    token = 2 * 2 * 2 * 8 * 4
    if budget < token * (prompt_length + max_new_tokens):
        with pytest.raises(ValueError, match="the budget is"):
            Sampler(model, budget).capacity(prompt_length, max_new_tokens, samples)
        return
    rows, prompts = Sampler(model, budget).capacity(prompt_length, max_new_tokens, samples)
    assert rows >= prompts >= 1 and token * (rows * max_new_tokens + prompts * prompt_length) <= budget
    assert token * ((rows + samples) * max_new_tokens + (prompts + 1) * prompt_length) > budget


def test_company_and_order_change_nothing(model, reference):
    sampler = Sampler(model)
    options = {"samples": 5, "max_new_tokens": 30, "stop_ids": [1, 2, 3, 4]}
    for number, prompt in enumerate(PROMPTS):
        same(sampler.generate([prompt], **options, seeds=[number]), reference[number : number + 1])
    same(sampler.generate(PROMPTS[::-1], **options, seeds=range(6)[::-1]), reference[::-1])
    twice = sampler.generate([PROMPTS[0], list(PROMPTS[0]), PROMPTS[0]], **options, seeds=[0, 0, 9])
    same(twice[:2], [reference[0]] * 2)
    assert twice[2] != twice[0]  # another seed
    fewer = sampler.generate(PROMPTS, **options | {"samples": 2})  # sample j is the same whatever the group's size
    same(fewer, [group[:2] for group in reference])  # and seeds default to the prompt's index


def test_the_default_seeds_draw_from_the_distribution(model):
    """The very first tokens over many prompts: their mean log-probability is minus the entropy."""
    prompt = [5, 6, 7]
    with torch.no_grad():
        logs = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    results = Sampler(model).generate([prompt] * 2000, max_new_tokens=1, stop_ids=[])
    sampled = torch.tensor([sample.logprobs[0] for (sample,) in results])
    deviation = (logs.exp() * (logs - (logs.exp() * logs).sum()) ** 2).sum().sqrt() / len(sampled) ** 0.5
    assert abs(sampled.mean() - (logs.exp() * logs).sum()) < 4 * deviation
    assert len({tuple(sample.tokens) for (sample,) in results[:4]}) > 1


# ----------------------------------------------------------------------------------------------- as it is done on a GPU


class Unrecorded:
    """Stands in for `recorded.Recordings`: every step as it stands."""

    def __init__(self, model):
        pass

    def forget_if_moved(self):
        pass

    def run(self, step, key):
        return step(*key)


@needs_triton
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@torch.no_grad()
def test_the_kernels_sample_what_torch_operations_sample(name, monkeypatch):
    """Interpreted: greedy, with samples that share prompts, in padded batches with more rows than places."""
    model = make(name)
    prompts = PROMPTS[:4]
    options = {"samples": 2, "max_new_tokens": 7, "stop_ids": list(range(12)), "temperature": 0.8, "top_p": 0.9}
    expected = Sampler(model).generate(prompts, **options)
    monkeypatch.setattr(rollout.kernels, "serve", lambda x: True)
    monkeypatch.setattr(rollout.recorded, "new_recordings", Unrecorded)
    check_greedy(model, prompts[:2], [], 5)
    token = 4 * (rollout.KVCache.empty(model, 1, 1).keys.numel() * 2)
    same(Sampler(model, token * (256 + 7) * 5).generate(prompts, **options), expected)


class Replayed(Unrecorded):
    """Stands in for `recorded.Recordings` too: the first step of a shape is traced, the others replay the trace. As in
    a CUDA graph, a trace holds operations on the very tensors that it saw, and nothing of the host's."""

    def __init__(self, model):
        self.traces, self.replays = {}, 0

    def run(self, step, key):
        if key in self.traces:
            self.replays += 1
            return self.traces[key]()
        status = []

        def traced():
            status.append(step(*key))
            return status[0]

        self.traces[key] = make_fx(traced)()
        asking = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh_copy"}
        names = {str(node.target).split(".")[1] for node in self.traces[key].graph.nodes if "aten" in str(node.target)}
        assert not names & asking
        return status[0]


def static_sample(logits, seeds, steps, temperature, top_p):
    """Inverse CDF at full length: what a recording needs of a sampler, and the kernel has, but not its torch path."""
    logs = (logits / temperature).log_softmax(-1)
    tokens = (logs.exp().cumsum(-1) < uniform(seeds, steps, 0)[:, None]).sum(-1).clamp(max=logits.shape[1] - 1)
    return tokens, logs.gather(1, tokens[:, None])[:, 0]


@pytest.mark.parametrize("rows", [3, 30])
def test_padded_and_recorded_steps_change_nothing(model, rows, monkeypatch):
    """As on a GPU: few shapes, tensors that stay for the next call, and weights that change in place between calls."""
    monkeypatch.setattr(rollout.sampling, "sample_top_p", static_sample)
    options = {"samples": 5, "max_new_tokens": 30, "stop_ids": [1, 2, 3, 4]}
    other = [prompt[::-1] for prompt in PROMPTS]
    before = [Sampler(model).generate(prompts, **options) for prompts in (PROMPTS, other)]
    changed = make("qwen2")
    for parameter in changed.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    after = Sampler(changed).generate(PROMPTS, **options)
    assert after != before[0]

    # What a trace needs of the kernels: operations of torch.
    monkeypatch.setattr(rollout.kernels, "attend", attend_by_definition)
    monkeypatch.setattr(rollout.kernels, "rms_norm", norm_by_definition)
    monkeypatch.setattr(rollout.kernels, "add_norm", add_norm_by_definition)
    monkeypatch.setattr(rollout.kernels, "swiglu", swiglu_by_definition)
    monkeypatch.setattr(rollout.kernels, "serve", lambda x: True)
    monkeypatch.setattr(rollout.recorded, "new_recordings", Replayed)
    copy = make("qwen2")
    sampler = Sampler(copy, 2 * 2 * 2 * 8 * 4 * (256 + 30) * rows)
    same(sampler.generate(PROMPTS, **options), before[0])
    recordings = sampler.idle_state.recordings
    assert bool(sampler.idle_state.joined) == (rows == 30)  # where the budget allows
    assert len(recordings.traces) <= (1 if rows == 3 else 5)  # shapes are numbers of rows, whatever the lengths
    same(sampler.generate(other, **options), before[1])
    copy.load_state_dict(changed.state_dict())
    replays = recordings.replays
    same(sampler.generate(PROMPTS, **options), after)
    assert sampler.idle_state.recordings is recordings and recordings.replays > replays + 20
    sampler.free()
    same(sampler.generate(PROMPTS, **options), after)
    assert sampler.idle_state.recordings is not recordings

    monkeypatch.setattr(rollout.sampling, "sample_top_p", lambda logits, *_: (logits.argmax(-1) * 0 - 1, logits[:, 0]))
    with pytest.raises(ValueError, match="not finite"):
        sampler.generate(PROMPTS, **options)
    assert sampler.idle_state is None  # what a failed call leaves in the cache is not used again


class Launches(TorchDispatchMode):
    """Counts what a GPU would launch: operations that compute, neither views nor allocations, and our kernels."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), kwargs=None):
        computes = all(out.alias_info is None or out.alias_info.is_write for out in operation._schema.returns)
        self.count += computes and "empty" not in operation._schema.name and "_unsafe_view" not in str(operation)
        return operation(*arguments, **kwargs or {})

    def kernel(self, result):
        """A kernel that is one launch and gives `result` of its first two arguments."""

        def launched(*arguments):
            self.count += 1
            with _disable_current_modes():
                return result(*arguments)

        return launched


@torch.no_grad()
@pytest.mark.parametrize("join, number", [(False, plan.KERNELS), (True, plan.JOINED_KERNELS)])
def test_launches_of_a_layer(join, number, monkeypatch):
    """Those that plan.py counts with: products (7; joined, 4), two sums with their norms, attention, activation."""
    counts = []
    for layers in (1, 2):
        model, launches = make("qwen2"), Launches()
        model.model.layers = model.model.layers[:layers]
        with monkeypatch.context() as patch:
            patch.setattr(rollout.kernels, "rms_norm", launches.kernel(lambda x, *_: x))
            patch.setattr(rollout.kernels, "add_norm", launches.kernel(lambda x, y, *_: (x, y)))
            patch.setattr(rollout.kernels, "swiglu", launches.kernel(lambda gate, up: gate))
            attend = launches.kernel(lambda layer, q, *_: q.clone())
            joined = [rollout.Joined.of(group) for layer in model.model.layers for group in rollout.joinable(layer)]
            with launches:
                rollout.decoder(model, torch.zeros(8, 1, dtype=torch.int64), attend, joined if join else ())
        counts.append(launches.count)
    assert counts[1] - counts[0] == number == (8 if join else 11)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_buckets_are_few_and_near(number, limit):
    size = bucket(number, limit)
    assert size == limit if number > limit else number <= size <= max(8, 1.5 * number)
    assert len({bucket(n, 5000) for n in range(1, 5001)}) < 25


# ----------------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompts": []}, "there is no prompt"),
        ({"prompts": [[1], []]}, "a prompt is empty"),
        ({"samples": 0}, r"samples \(0\)"),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\)"),
        (
            {"prompts": [[1] * 250], "max_new_tokens": 7},
            "250 tokens and a response of 7 exceed the model's context of 256",
        ),
        ({"stop_ids": [1, VOCABULARY]}, f"stop id {VOCABULARY} is outside the vocabulary"),
        ({"stop_ids": [-1]}, "stop id -1 is outside"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_bad_input_is_refused(model, changes, message):
    options = {"prompts": [[1]], "max_new_tokens": 4, "stop_ids": []} | changes
    with pytest.raises(ValueError, match=message):
        Sampler(model).generate(options.pop("prompts"), **options)


def test_the_whole_context_can_be_used(model):
    ((sample,),) = Sampler(model).generate([[1] * 250], max_new_tokens=6, stop_ids=[])
    assert len(sample.tokens) == 6


def test_a_cache_too_small_for_one_row_is_refused(model):
    with pytest.raises(ValueError, match="one row of 11 tokens needs 2.82e.03 bytes of cache; the budget is 2e"):
        Sampler(model, cache_bytes=2000).generate([[1]], max_new_tokens=10, stop_ids=[])


def test_logits_that_are_not_finite_are_refused():
    broken = make("qwen2-untied")
    broken.lm_head.weight.data[3] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="logits are not finite"):
            Sampler(broken).generate(PROMPTS, max_new_tokens=4, stop_ids=[], temperature=temperature)


def test_unknown_models_are_refused_by_name():
    gpt2 = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1, vocab_size=9))
    with pytest.raises(ValueError, match="architecture 'gpt2'"):
        Sampler(gpt2)
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0, "original_max_position_embeddings": 64}
    with pytest.raises(ValueError, match="rope type 'dynamic'"):
        Sampler(make("llama", rope_parameters=dynamic))
    with pytest.raises(ValueError, match="sliding-window"):
        Sampler(make("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1))


def test_products_go_through_the_library_that_is_faster_on_the_processor(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for maker, faster in (("GenuineIntel", False), ("AuthenticAMD", torch.backends.mkldnn.is_available())):
        cpuinfo.write_text(f"processor : 0\nvendor_id : {maker}\n")
        assert rollout.onednn_is_faster(cpuinfo) is faster
    assert not rollout.onednn_is_faster(tmp_path / "no such file")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not rollout.onednn_is_faster(cpuinfo)

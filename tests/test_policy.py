"""Log-probabilities and gradients are those of plain autograd, however the batch is cut, padded or packed."""

import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_rollout import make
from transformers import AutoTokenizer

import policy as module
from policy import Example, Policy, accumulate_gradient, load_policy, micro_batches, stop_tokens, token_logprobs
from tools.cli import UserError

CPU = torch.device("cpu")
# Token 0, which pads, is also a real token; lengths differ widely; one example scores a token in the middle only.
EXAMPLES = [
    Example([5, 0, 7, 0, 9], [False, False, True, True, True]),
    Example([3, 8], [False, True]),
    Example(list(range(30)), [False] * 10 + [True] * 20),
    Example([1, 2, 3, 4, 0, 0], [False, True, False, False, True, True]),
    Example([6, 6, 6], [False, False, True]),
]


def plain_logprobs(model, example, temperature=1.0):
    """log pi of an example's scored tokens from the model's own logits, one sequence, no padding."""
    logits = model(torch.tensor([example.tokens])).logits[0, :-1] / temperature
    logs = logits.log_softmax(-1).gather(1, torch.tensor(example.tokens[1:])[:, None])[:, 0]
    return logs[torch.tensor(example.scored[1:])]


def gradients(model):
    result = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    return result


def close(found, expected, tolerance=1e-6):
    """Relative to the whole gradient's size."""
    assert found.keys() == expected.keys()
    scale = max(value.abs().max() for value in expected.values())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=float(tolerance * scale), rtol=0)


# ---------------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_token_logprobs_equal_a_full_log_softmax(chunk, temperature, monkeypatch):
    """Values, gradients of both inputs, entropies, whether or not the chunks come out even."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 16, generator=generator).double().requires_grad_()
    weight = torch.randn(50, 16, generator=generator).double().requires_grad_()
    targets = torch.randint(0, 50, (20,), generator=generator)
    coefficients = torch.randn(20, generator=generator).double()

    logs = (hidden @ weight.T / temperature).log_softmax(-1)
    expected = logs.gather(1, targets[:, None])[:, 0]
    want = torch.autograd.grad((expected * coefficients).sum(), (hidden, weight))

    found, entropies = token_logprobs(hidden, weight, targets, temperature)
    assert not entropies.requires_grad
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(entropies.double(), -(logs.exp() * logs).sum(-1), atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad((found * coefficients).sum(), (hidden, weight))
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_autograd_keeps_no_logits(monkeypatch):
    """Nothing of the vocabulary's width is saved for backward, except the output layer itself, unless it is little."""
    monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setattr(module, "CHUNK_LOGITS", 39_999)
    hidden, weight = torch.randn(40, 16, requires_grad=True), torch.randn(1000, 16, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        logs = [(hidden @ weight.T).log_softmax(-1)]  # what it looks like when they are kept
        assert any(shape[-1:] == (1000,) for shape in saved)
        saved.clear()
        logs = token_logprobs(hidden, weight, torch.arange(40))[0]
    assert not any(1000 in shape and 16 not in shape for shape in saved)
    logs.sum().backward()
    assert hidden.grad.abs().sum() > 0
    again, hidden.grad = hidden.grad, None
    monkeypatch.setattr(module, "CHUNK_LOGITS", 40_000)
    token_logprobs(hidden, weight, torch.arange(40))[0].sum().backward()  # kept instead of computed once more
    torch.testing.assert_close(hidden.grad, again, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama"])
def test_the_policy_scores_padded_rows_like_single_ones(name):
    model = make(name)
    tokens, scored, segments = module.collate([[example] for example in EXAMPLES], CPU)
    assert segments is None
    with torch.no_grad():
        logprobs, entropies = Policy(model)(tokens, scored, 0.7)
        expected = torch.cat([plain_logprobs(model, example, 0.7) for example in EXAMPLES])
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    assert entropies.shape == logprobs.shape and (entropies > 0).all()


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama"])
def test_responses_that_share_a_prompt_do_not_see_each_other(name):
    """A prompt with several responses in one row gives what a row per response gives, beside rows of both kinds."""
    model = make(name)
    prompt, responses = [5, 0, 7, 8], [[1, 2, 3], [0], [1, 2, 9, 9, 0, 0]]
    tokens = prompt + sum(responses, [])
    segments = [0] * 4 + [number for number, response in enumerate(responses, 1) for _ in response]
    shared = Example(tokens, [segment > 0 for segment in segments], segments)
    alone = [Example(prompt + r, [False] * 4 + [True] * len(r)) for r in responses]
    pair = Example([1, 2, 3, 4], [False, False, True, True], [0, 0, 1, 2])
    tokens, scored, segments = module.collate([[shared], [EXAMPLES[0]], [pair]], CPU)
    with torch.no_grad():
        found, _ = Policy(model)(tokens, scored, 1.0, segments)
        pairs = [Example([1, 2, token], [False, False, True]) for token in (3, 4)]
        expected = torch.cat([plain_logprobs(model, example) for example in [*alone, EXAMPLES[0], *pairs]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


SHARED = Example([5, 0, 7, 1, 2, 3, 0], [False, False, False, True, True, True, True], [0, 0, 0, 1, 1, 1, 2])
APART = [Example([5, 0, 7, 1, 2, 3], [False] * 3 + [True] * 3), Example([5, 0, 7, 0], [False] * 3 + [True])]


@pytest.mark.parametrize("name", ["qwen2", "qwen2-lora"])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_the_gradient_does_not_depend_on_padding_or_packing(side, name):
    """Rows of one, two and three sequences, one of them a prompt with two responses, padded on any side, in float64."""
    model = make(name).double()
    rows = [EXAMPLES[2:3], EXAMPLES[:2], [EXAMPLES[3], SHARED, EXAMPLES[4]]]
    alone = [*EXAMPLES[2:3], *EXAMPLES[:2], EXAMPLES[3], *APART, EXAMPLES[4]]
    expected = torch.cat([plain_logprobs(model, example) for example in alone])
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(0)).double()
    (expected * weights).sum().backward()
    want = gradients(model)

    tokens, scored, segments = module.collate(rows, CPU)
    assert segments is not None and tokens.shape == (3, 30)
    shifted = []
    for tensor, padding in ((tokens, 7), (scored, False), (segments, -1)):  # a pad token that is a real one, too
        wide = torch.full((3, 34, *tensor.shape[2:]), padding, dtype=tensor.dtype)
        for row, filled in enumerate((segments[..., 0] >= 0).sum(1).tolist()):
            start = {"left": 34 - filled, "right": 0, "both": (34 - filled) // 2}[side]
            wide[row, start : start + filled] = tensor[row, :filled]
        shifted.append(wide)
    found, _ = Policy(model)(shifted[0], shifted[1], 1.0, shifted[2])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    (found * weights).sum().backward()
    close(gradients(model), want)


# -------------------------------------------------------------------------------------------------------- micro-batches


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 120))
def test_packing_takes_everything_once_in_few_rows(lengths, capacity):
    rows = module.pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < tokens <= capacity for tokens in filled)
    for earlier in range(len(rows)):  # nothing opened a row that had room in an earlier one
        for row in rows[earlier + 1 :]:
            assert filled[earlier] + lengths[row[0]] > capacity


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_micro_batches_cover_everything_once_within_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    for batch, following in zip(batches, batches[1:]):  # none could have taken the next one in as well
        assert (len(batch) + 1) * lengths[following[0]] > budget


@pytest.mark.parametrize("name", ["qwen2", "qwen2-lora"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [1, 12, 40, 10_000])
def test_the_gradient_does_not_depend_on_the_micro_batches(budget, packed, name):
    """In float64 against plain autograd over single sequences, with a weight per example and the entropies at hand."""
    model = make(name).double()
    weights = [0.5, -2.0, 1.0, 0.25, -1.0]
    sum(w * plain_logprobs(model, example, 0.9).sum() for w, example in zip(weights, EXAMPLES)).backward()
    expected = gradients(model)
    seen = []

    def loss_of(indices, logprobs, entropies):
        seen.extend(indices)
        per_token = [weights[index] for index in indices for scored in EXAMPLES[index].scored if scored]
        assert len(per_token) == len(logprobs) == len(entropies)
        return (logprobs * torch.tensor(per_token)).sum()

    assert accumulate_gradient(Policy(model), EXAMPLES, loss_of, budget, CPU, 0.9, packed) == []
    close(gradients(model), expected)
    assert sorted(seen) == list(range(5))


@pytest.mark.parametrize("packed", [False, True])
def test_scores_come_back_in_order(packed):
    model = make("qwen2")
    found = module.score(Policy(model), EXAMPLES, 40, CPU, 0.8, packed)
    for example, values in zip(EXAMPLES, found, strict=True):
        torch.testing.assert_close(values, plain_logprobs(model, example, 0.8).detach(), atol=1e-5, rtol=0)
        assert not values.requires_grad


def test_examples_whose_loss_is_not_finite_are_named():
    examples = [Example(example.tokens, example.scored, name=f"row {n}") for n, example in enumerate(EXAMPLES)]

    def loss_of(indices, logprobs, _):
        return logprobs.sum() * (float("nan") if 2 in indices else 1.0)

    assert accumulate_gradient(Policy(make("qwen2")), examples, loss_of, 1, CPU) == ["row 2"]


def test_chunks_shrink_as_the_vocabulary_grows(monkeypatch):
    """No more than a fixed number of logits is alive at once."""
    sizes = []
    linear = module.F.linear
    monkeypatch.setattr(module.F, "linear", lambda h, w: sizes.append(h.shape[0] * w.shape[0]) or linear(h, w))
    monkeypatch.setattr(module, "CHUNK_LOGITS", 5000)
    for vocabulary in (10, 100, 900, 6000):
        token_logprobs(torch.randn(3000, 4), torch.randn(vocabulary, 4), torch.zeros(3000, dtype=torch.int64))
        assert max(sizes) <= max(5000, vocabulary) and max(sizes) <= module.CHUNK * vocabulary
        sizes.clear()


def test_gradients_add_up():
    """A second call adds to the first; no example at all adds nothing."""
    model = make("qwen2").double()

    def loss_of(_, logprobs, __):
        return logprobs.sum()

    accumulate_gradient(Policy(model), EXAMPLES, loss_of, 50, CPU)
    expected = gradients(model)
    accumulate_gradient(Policy(model), EXAMPLES[:2], loss_of, 50, CPU)
    accumulate_gradient(Policy(model), EXAMPLES[2:], loss_of, 50, CPU)
    accumulate_gradient(Policy(model), [], loss_of, 50, CPU)
    close(gradients(model), expected)


# -------------------------------------------------------------------------------------------------------------- loading


def test_a_folder_loads_and_stops_where_it_says(tiny):
    model, tokenizer = load_policy(tiny)
    assert model.dtype == torch.float32 and tokenizer.eos_token == "<|im_end|>"
    assert stop_tokens(model, tokenizer) == [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 0]
    assert stop_tokens(model, tokenizer) == [0, tokenizer.eos_token_id]
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, tokenizer) == [tokenizer.eos_token_id]
    assert load_policy(tiny, torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "nothing", "runs/x/sft"])
def test_a_missing_folder_is_named(path):
    with pytest.raises(UserError, match=f"model folder {path} does not exist"):
        load_policy(path)


def broken_copy(tiny, folder, *missing):
    shutil.copytree(tiny, folder)
    for name in missing:
        (folder / name).unlink()
    return folder


def test_unusable_folders_are_user_errors(tiny, tmp_path):
    for missing in ("config.json", "model.safetensors"):
        folder = broken_copy(tiny, tmp_path / missing, missing)
        with pytest.raises(UserError, match=f"cannot load the model {folder}: "):
            load_policy(folder)
    pickled = broken_copy(tiny, tmp_path / "pickled", "model.safetensors")
    torch.save(load_policy(tiny)[0].state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load the model"):  # no pickle
        load_policy(pickled)


def test_half_a_weights_file_is_a_user_error(tiny, tmp_path):
    folder = broken_copy(tiny, tmp_path / "half")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=f"cannot load the model {folder}: "):
        load_policy(folder)


def test_an_empty_model_has_shapes_and_no_weights(tiny):
    model, _ = load_policy(tiny, empty=True)
    whole, _ = load_policy(tiny)
    assert {name: p.shape for name, p in model.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.generation_config.eos_token_id == whole.generation_config.eos_token_id


def test_a_tokenizer_larger_than_the_model_is_refused(tiny, tmp_path):
    folder = broken_copy(tiny, tmp_path / "larger")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["surplus"])
    tokenizer.save_pretrained(folder)
    last = len(tokenizer) - 1
    with pytest.raises(UserError, match=f"tokenizer has a token {last}, the model only tokens 0 to {last - 1}"):
        load_policy(folder)

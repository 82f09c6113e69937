"""Top-p sampling is exact, on both paths: against the distribution by its definition (sort, cut, renormalise)."""

import importlib
import json
import sys
from pathlib import Path

import interpreted  # noqa: F401
import pytest
import torch
from conftest import PROJECT, python
from hypothesis import given, settings
from hypothesis import strategies as st

import cuda.top_p as m
from cuda.top_p import sample_top_p, sample_torch, uniform

needs_triton = pytest.mark.skipif(m.triton is None, reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = ["row", "split"]  # a program a row, or a row split over several
PATHS = ["torch", *(pytest.param(kernel, marks=needs_triton) for kernel in KERNELS)]


def sampler(name, tile=None, monkeypatch=None):
    """One of the paths; `tile` makes the kernel's tiles small, so that a small vocabulary has several."""
    if tile:
        monkeypatch.setattr(m, "BLOCK", tile)
        monkeypatch.setattr(m, "SPLIT_BELOW", 1_000_000 if name == "split" else 0)

    def sample(logits, seeds, steps, temperature=1.0, top_p=1.0):
        arguments = [tensor.to(DEVICE) for tensor in (logits, seeds, steps)]
        path = m.sample_torch if name == "torch" else m.sample_triton
        return tuple(result.cpu() for result in path(*arguments, temperature, top_p))

    return sample


def nucleus(logits, temperature=1.0, top_p=1.0):
    """The truncated distribution (V,) by definition: a token is in if the mass strictly above it is below p."""
    probabilities = (logits.double() / temperature).softmax(-1)
    above = torch.stack([probabilities[logits > value].sum() for value in logits])
    kept = torch.where((above < top_p) | (logits == logits.max()), probabilities, 0)
    return kept / kept.sum()


def chi_square_p(tokens, expected):
    """p-value of sampled tokens (N,) under the probabilities (V,); rare tokens share one bin."""
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0, "a token outside the nucleus"
    want = expected * len(tokens)
    rare = want < 10
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    want = torch.cat([want[~rare], want[rare].sum()[None]])
    counts, want = counts[want > 0], want[want > 0]
    statistic = ((counts - want) ** 2 / want).sum()
    return torch.special.gammaincc(torch.tensor((len(want) - 1) / 2).double(), statistic / 2).item()


def rows(logits, number, step=0):
    return logits.expand(number, -1), torch.arange(number), torch.full((number,), step)


# ----------------------------------------------------------------------------------------------------- the distribution


@pytest.mark.parametrize(
    "top_p, temperature", [(1.0, 1.0), (0.95, 0.6), (0.8, 1.0), (0.5, 2.0), (0.2, 3.0), (1.0, 0.3)]
)
def test_draws_follow_the_exact_distribution(top_p, temperature):
    """200,000 draws each; half differ in their seeds, half in their steps."""
    logits = torch.randn(150, generator=torch.Generator().manual_seed(1)) * 2
    logits[[3, 70, 149]] = float("-inf")
    n = 100_000
    seeds = torch.cat([torch.arange(n), torch.full((n,), 7)])
    steps = torch.cat([torch.full((n,), 3), torch.arange(n)])
    tokens = torch.cat(
        [
            sample_top_p(logits.expand(50_000, -1), seed, step, temperature, top_p)[0]
            for seed, step in zip(seeds.split(50_000), steps.split(50_000))
        ]
    )
    expected = nucleus(logits, temperature, top_p)
    assert chi_square_p(tokens[:n], expected) > 1e-3
    assert chi_square_p(tokens[n:], expected) > 1e-3


@pytest.mark.parametrize("path", PATHS)
def test_the_logprob_is_that_of_the_untruncated_distribution(path, monkeypatch):
    logits = torch.randn(40, 100, generator=torch.Generator().manual_seed(2)) * 3
    tokens, logprobs = sampler(path, 32, monkeypatch)(logits, torch.arange(40), torch.zeros(40).long(), 0.7, 0.6)
    expected = (logits / 0.7).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("top_p", [0.5, 1e-6, 1e-46])
def test_a_small_p_leaves_the_most_likely_token(path, top_p, monkeypatch):
    logits = torch.randn(20, 90, generator=torch.Generator().manual_seed(3))
    logits[:, 77] = 9.0
    tokens, _ = sampler(path, 32, monkeypatch)(logits, torch.arange(20), torch.arange(20), 1.0, top_p)
    assert (tokens == 77).all()


@pytest.mark.parametrize("path", PATHS)
def test_equal_logits_are_in_or_out_together(path, monkeypatch):
    """Probabilities 0.4, 4 x 0.1, 2 x 0.1 - e: p = 0.45 lets all four ties in; the two below stay out."""
    probabilities = torch.tensor([0.0999] * 2 + [0.1] * 2 + [0.4002] + [0.1] * 2)
    logits = probabilities.log()
    number = 20_000 if path == "torch" else 60
    tokens, _ = sampler(path, 4, monkeypatch)(*rows(logits, number), 1.0, 0.45)
    assert set(tokens.tolist()) == {2, 3, 4, 5, 6}
    assert chi_square_p(tokens, nucleus(logits, 1.0, 0.45)) > 1e-3
    tokens, _ = sampler(path, 4, monkeypatch)(*rows(torch.zeros(7), number // 2), 1.0, 1e-3)
    assert set(tokens.tolist()) == set(range(7))  # all tie for the first place


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_token_without_probability_is_never_drawn(path, data):
    """Whatever the forbidden tokens are, and at both ends of the random numbers' range."""
    vocabulary = data.draw(st.sampled_from([1, 2, 63, 64, 65, 200]))
    allowed = data.draw(st.sets(st.integers(0, vocabulary - 1), min_size=1, max_size=5))
    logits = torch.full((3, vocabulary), float("-inf"))
    for token in allowed:
        logits[:, token] = data.draw(st.sampled_from([0.0, 1.0, -3.0, 80.0, -1e4]))
    number = torch.tensor([0.0, 0.5, 1 - 2**-24], device=DEVICE)
    top_p = data.draw(st.sampled_from([1.0, 0.9, 0.3]))
    with pytest.MonkeyPatch.context() as patch:
        if path == "torch":
            patch.setattr(m, "uniform", lambda seeds, steps, draw: number[-len(seeds) :])
        tokens, logprobs = sampler(path, 64, patch)(logits, torch.arange(3), torch.arange(3), 1.0, top_p)
    assert set(tokens.tolist()) <= allowed
    assert logprobs.isfinite().all() and (logits.gather(1, tokens[:, None]) > logits.max() - 104).all()


@pytest.mark.parametrize("path", [*PATHS, "greedy"])
def test_a_row_without_a_distribution_says_so(path, monkeypatch):
    """Minus one for a NaN, plus infinity or nothing but minus infinity, wherever; its neighbours do not mind."""
    infinity, nan = float("inf"), float("nan")
    logits = torch.zeros(8, 70)
    logits[0, 0] = logits[1, 40] = logits[2, 69] = nan
    logits[3, 69] = infinity
    logits[4] = -infinity
    logits[5, :60] = -infinity  # proper: the first tiles are empty
    logits[6] = infinity
    sample = sample_top_p if path == "greedy" else sampler(path, 16, monkeypatch)
    temperature = 0.0 if path == "greedy" else 1.0
    for top_p in (1.0, 0.9):
        tokens, logprobs = sample(logits, torch.arange(8), torch.arange(8), temperature, top_p)
        assert (tokens < 0).tolist() == [True] * 5 + [False, True, False] and tokens.min() == -1
        assert tokens[5] >= 60 and logprobs[5] == pytest.approx(torch.tensor(0.1).log().item(), abs=1e-5)
        assert logprobs[4].isnan()


def test_temperature_zero_is_greedy():
    logits = torch.randn(30, 50, dtype=torch.bfloat16)
    tokens, logprobs = sample_top_p(logits, torch.arange(30), torch.arange(30), temperature=0.0, top_p=0.9)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.float().log_softmax(-1).amax(-1))


@pytest.mark.parametrize("arguments", [{"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")}, {"temperature": -1.0}])
def test_parameters_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        sample_top_p(*rows(torch.zeros(5), 2), **{"temperature": 1.0, "top_p": 1.0} | arguments)
    with pytest.raises(ValueError, match="temperature is nan"):
        sample_top_p(*rows(torch.zeros(5), 2), temperature=float("nan"))


# ------------------------------------------------------------------------------------------------------- the randomness


@pytest.mark.parametrize("varied", ["seeds", "steps", "draws"])
def test_random_numbers_are_uniform_in_each_counter(varied):
    n, zero = 100_000, torch.zeros(100_000, dtype=torch.int64)
    if varied == "draws":
        numbers = torch.cat([uniform(torch.arange(2000), torch.arange(2000), draw) for draw in range(50)])
    else:
        numbers = uniform(torch.arange(n), zero, 0) if varied == "seeds" else uniform(zero, torch.arange(n), 0)
    assert 0 <= numbers.min() and numbers.max() < 1
    assert chi_square_p((numbers * 256).long(), torch.full((256,), 1 / 256).double()) > 1e-3
    neighbours = torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]
    assert neighbours.abs() < 4 / n**0.5
    assert len(numbers.unique()) > 0.99 * n


def test_small_seeds_and_steps_are_as_random_as_others():
    """The first seeds, steps and draws are the usual ones; a hash that maps 0 to 0 would make them the worst ones."""
    corner = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    numbers = torch.cat([uniform(corner[:, 0], corner[:, 1], draw) for draw in range(4)])
    assert len(numbers.unique()) == len(numbers) and numbers.min() > 1e-3 and numbers.max() < 1 - 1e-3


@pytest.mark.parametrize("path", PATHS)
def test_a_row_does_not_see_its_company(path, monkeypatch):
    sample = sampler(path, 32, monkeypatch)
    logits = torch.randn(12, 100, generator=torch.Generator().manual_seed(4))
    seeds, steps = torch.arange(12) * 7, torch.arange(12) % 5
    tokens, logprobs = sample(logits, seeds, steps, 1.0, 0.7)
    again, _ = sample(logits, seeds, steps, 1.0, 0.7)
    assert torch.equal(tokens, again)
    order = torch.randperm(12)[:5]
    some, some_logprobs = sample(logits[order], seeds[order], steps[order], 1.0, 0.7)
    assert torch.equal(some, tokens[order]) and torch.equal(some_logprobs, logprobs[order])
    for other_seeds, other_steps in ((seeds + 1, steps), (seeds, steps + 1)):
        assert not torch.equal(sample(logits, other_seeds, other_steps, 1.0, 0.7)[0], tokens)


# ---------------------------------------------------------------------------------------------------- the Triton kernel


@needs_triton
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "vocabulary, tile, dtype",
    [
        (100, 64, torch.float32),
        (129, 64, torch.bfloat16),
        (200, 64, torch.float32),
        (200, 64, torch.bfloat16),
        (50, 4096, torch.float32),
        (1, 64, torch.float32),
    ],
)
def test_the_kernel_draws_what_the_torch_path_draws(vocabulary, tile, dtype, kernel, monkeypatch):
    """Same hash, same scheme: the same tokens, also where the vocabulary is no multiple of the tile."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (torch.randn(12, vocabulary, generator=generator) * 3).to(dtype)
    logits[::3, : vocabulary // 2] = float("-inf")
    seeds, steps = torch.arange(12) * 1_000_003 % 2**32, torch.arange(12)
    seeds[0] = 2**32 - 1
    for top_p, temperature in ((1.0, 1.0), (0.9, 0.7), (0.2, 1.3)):
        want, want_logprobs = sample_torch(logits, seeds, steps, temperature, top_p)
        tokens, logprobs = sampler(kernel, tile, monkeypatch)(logits, seeds, steps, temperature, top_p)
        assert torch.equal(tokens, want)
        torch.testing.assert_close(logprobs, want_logprobs, atol=1e-5, rtol=1e-5)


@needs_triton
def test_the_paths_agree_on_a_real_vocabulary():
    """Qwen's 151,936 tokens in bfloat16, the kernel's own tiles; the log-probability tells how long sums round."""
    logits = (torch.randn(2, 151_936, generator=torch.Generator().manual_seed(6)) * 4).bfloat16()
    arguments = (logits, torch.arange(2), torch.arange(2), 1.0, 0.8)
    tokens, logprobs = sampler("split")(*arguments)
    want, _ = sample_torch(*arguments)
    assert torch.equal(tokens, want)
    torch.testing.assert_close(
        logprobs, logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0], atol=1e-4, rtol=0
    )


@needs_triton
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_reads_strided_rows(kernel, monkeypatch):
    """A slice of a larger tensor, and a transposed one."""
    sample = sampler(kernel, 32, monkeypatch)
    logits = torch.randn(10, 6, 80, generator=torch.Generator().manual_seed(5))
    arguments = (torch.arange(10), torch.arange(10), 1.0, 0.9)
    assert torch.equal(sample(logits[:, 2], *arguments)[0], sample(logits[:, 2].clone(), *arguments)[0])
    turned = logits[:, 3].t().contiguous().t()
    assert torch.equal(sample(turned, *arguments)[0], sample(logits[:, 3].clone(), *arguments)[0])


@needs_triton
def test_the_kernel_compiles_for_every_recent_gpu():
    """Ampere, Hopper, Blackwell; no GPU is needed for that, but a process that does not interpret."""
    code = """
import json
from collections import defaultdict
import cuda.top_p as m
from tests.compiled import ptx
types = {"seeds_ptr": "*i64", "steps_ptr": "*i64", "tokens_ptr": "*i64", "row_stride": "i32", "vocabulary": "i32"}
types |= {"inv_temperature": "fp32", "top_p": "fp32"}
found = {}
for capability, dtype in ((80, "*fp32"), (90, "*bf16"), (100, "*fp32")):
    for kernel, constants in ((m._row_kernel, {"TRUNCATED": True, "SPLIT": 0}),
                              (m._row_kernel, {"TRUNCATED": True, "SPLIT": 2}),
                              (m._tile_kernel, {"FIRST": False})):
        constants |= {"TILES": 38, "BLOCK": m.BLOCK}
        all_types = defaultdict(lambda: "*fp32", types, logits_ptr=dtype)
        code = ptx(kernel, all_types, constants, capability, num_warps=8)
        found[f"{kernel.__name__} {capability} {constants.get('SPLIT')}"] = code.count("cp.async")
print(json.dumps(found))
"""
    result = python("-c", code, TRITON_INTERPRET="0")
    assert result.returncode == 0, result.stderr[-2000:]
    asynchronous = json.loads(result.stdout)  # copies that go on while the program computes
    assert len(asynchronous) == 9
    assert all(number > 0 for name, number in asynchronous.items() if name.startswith("_row_kernel"))


# ---------------------------------------------------------------------------------------------------- the folder's name


def test_the_folder_shares_its_name(tmp_path, monkeypatch):
    """`cuda` is also NVIDIA's namespace package: with no `__init__.py` here, both can be imported."""
    assert not (PROJECT / "cuda" / "__init__.py").exists()
    (tmp_path / "cuda" / "other").mkdir(parents=True)
    (tmp_path / "cuda" / "other" / "__init__.py").write_text("HERE = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cuda.other", raising=False)
    assert importlib.import_module("cuda.other").HERE
    assert Path(importlib.import_module("cuda.top_p").__file__).parent == PROJECT / "cuda"


def test_nvidias_package_can_be_imported_too():
    pytest.importorskip("cuda.bindings")
    assert importlib.import_module("cuda.top_p").sample_top_p

"""The sampler: responses of a Hugging Face policy, with log-probabilities, by a forward pass of our own (section 3.3).

Generation is most of the time of RL. `transformers.generate` keeps one position for the whole batch, so every row
waits for the longest. Here each row has its own position in a preallocated KV cache, and `LiveRows.step` is the loop:

    admit     waiting rows take free places; their prompts run once, however many rows sample from each
    decode    one token for every live row, at its own position
    release   rows that ended leave; rows from the end fill the gaps, so that the batch is always the first places

There are two caches. A prompt's keys and values are stored once and read by all of its rows; a row's own are those of
its response. Where things are is told by four numbers (drawn for 4 samples a prompt, `x` a token, `.` room):

    cache of prompts                     cache of responses
    slot 0 | xxxxxxxxxx.. | prompt 7     place 0 | xxxxxxx........ | row 29: sample 1 of prompt 7, lane 0 * 4 + 1 = 1
    slot 1 | xxxx........ | prompt 8     place 1 | xxxx........... | row 30: sample 2 of prompt 7, lane 0 * 4 + 2 = 2
    slot 2 | ............ | (free)       place 2 | x.............. | row 32: sample 0 of prompt 8, lane 1 * 4 + 0 = 4

    row     a response to be sampled: row r is sample r % samples of prompt r // samples
    place   where a live row's response is stored; a row may move to another place
    slot    where a prompt is stored; it stays until its last row has ended, and may move as well
    lane    slot * samples + sample: the same rows, ordered by prompt

`decoder` is the whole transformer (Qwen2, Qwen3 and Llama differ in biases and q/k norms only) over the weights of the
Hugging Face module as they are at each call, so a sampler made once follows every optimiser step. Which tokens are real
is known from lengths, never from token values, and the stop token is part of the sample.

A row's random numbers depend on its seed and its own step (see `cuda/top_p.py`): the same seed gives the same text,
whatever else is in the batch, but for rounding: in bfloat16 the last bit of a product depends on the batch's size.

On a GPU the same step runs in a few Triton kernels (`cuda/decode.py`), with fewer and larger products (`Joined`), and
is recorded and replayed as a whole (`cuda/recorded.py`). To read this file, neither is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda import decode as kernels
from cuda import recorded
from cuda import top_p as sampling
from lora import LoRALinear
from policy import micro_batches
from pretrained import unsupported

PREFILL_TOKENS = 16384  # prompts' tokens that run at once: bounds the memory of their activations
MOVED_ROWS = 2  # rows of the cache that are copied at once: bounds the memory of the copy
JOINED_SHARE = 8  # at most one in so many bytes of the cache budget goes into joined weights

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # of a layer's q, k, v: see `decoder`


@dataclass(slots=True)
class Sample:
    """One sampled response.

    `tokens` holds the stop token too, if there was one; `logprobs` is log pi(token | prefix) of each, under the
    untruncated temperature-scaled distribution; `stop_id` is the stop token that ended it, None if it ran into the
    length limit.
    """

    tokens: list[int]
    logprobs: list[float]
    stop_id: int | None


# -------------------------------------------------------------------------------------------- the transformer's forward


class KVCache(NamedTuple):
    """`keys`, `values`: (layers, rows, kv_heads, length, head_dim)."""

    keys: Tensor
    values: Tensor

    @staticmethod
    def empty(model: nn.Module, rows: int, length: int) -> KVCache:
        """A cache of zeros: what a mask hides must still be finite."""
        config, weight = model.config, model.model.embed_tokens.weight
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, length, head_dim(model))
        return KVCache(weight.new_zeros(shape), weight.new_zeros(shape))

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, (rows, kv_heads, length, head_dim) each."""
        return self.keys[index], self.values[index]

    def move(self, to: Tensor, source: Tensor, length: int) -> None:
        """Copy the first `length` tokens of the rows `source` (N,) to the rows `to` (N,), none of which is both."""
        for state in self:
            # A few at a time: what is copied exists twice for a moment, and many rows may reach the limit at once.
            for some_to, some_source in zip(to.split(MOVED_ROWS), source.split(MOVED_ROWS)):
                state[:, some_to, :, :length] = state[:, some_source, :, :length]


class Joined(NamedTuple):
    """Weights of linear layers that read the same input, and their biases, behind each other: a single product."""

    weight: Tensor  # (out of all, in)
    bias: Tensor | None

    @staticmethod
    def of(modules: Sequence[nn.Linear]) -> Joined:
        biases = [module.bias for module in modules if module.bias is not None]
        return Joined(torch.cat([module.weight for module in modules]), torch.cat(biases) if biases else None)

    def refresh(self, modules: Sequence[nn.Linear]) -> None:
        """Copy the weights once more, in place: they have been trained."""
        for mine, theirs in zip(self, Joined.of(modules)):
            if mine is not None:
                mine.copy_(theirs)


def joinable(layer: nn.Module) -> tuple[tuple[nn.Linear, ...], tuple[nn.Linear, ...]]:
    """The linear layers of a decoder block that read the same input."""
    attention, mlp = layer.self_attn, layer.mlp
    return (attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)


def joined_bytes(model: nn.Module, cache_bytes: float) -> int:
    """What a sampler with that budget spends on joined weights.

    They are a copy, which pays where launching a product takes as long as computing it: for small models on a GPU.
    """
    modules = [module for layer in model.model.layers for group in joinable(layer) for module in group]
    size = sum(module.weight.numel() * module.weight.element_size() for module in modules)
    return 0 if isinstance(modules[0], LoRALinear) or size * JOINED_SHARE > cache_bytes else size


def decoder(model: nn.Module, tokens: Tensor, attend: Attention, joined: Sequence[Joined] = ()) -> Tensor:
    """Hidden states (B, T, D) of `tokens` (B, T), after the final norm.

    `attend(layer, q, k, v)` rotates queries and keys to their positions, stores the layer's new keys and values and
    returns the attention output, shaped as q. q is (B, heads, T, head_dim), k and v are (B, kv_heads, T, head_dim).
    `joined` are the weights of `joinable`, two for each block, if they were joined.
    """
    body = model.model
    batch, length = tokens.shape
    x = F.embedding(tokens, body.embed_tokens.weight)
    h = rms_norm(x, body.layers[0].input_layernorm)
    next_norms = [*(layer.input_layernorm for layer in body.layers[1:]), body.norm]
    for index, (layer, next_norm) in enumerate(zip(body.layers, next_norms)):
        attention, (of_input, of_hidden) = layer.self_attn, joinable(layer)
        qkv, gate_up = joined[2 * index : 2 * index + 2] or (None, None)
        q, k, v = (y.unflatten(-1, (-1, attention.head_dim)) for y in products(h, of_input, qkv))  # (B, T, heads, ...)
        if hasattr(attention, "q_norm"):  # Qwen3
            q, k = rms_norm(q, attention.q_norm), rms_norm(k, attention.k_norm)
        out = attend(index, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out = linear(out.transpose(1, 2).reshape(batch, length, -1), attention.o_proj)
        x, h = add_norm(x, out, layer.post_attention_layernorm)
        out = linear(kernels.swiglu(*products(h, of_hidden, gate_up)), layer.mlp.down_proj)
        x, h = add_norm(x, out, next_norm)
    return h


def head_dim(model: nn.Module) -> int:
    return model.model.layers[0].self_attn.head_dim


def token_bytes(model: nn.Module) -> int:
    """Of a token's keys and values in the cache."""
    config, weight = model.config, model.model.embed_tokens.weight
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(model) * weight.element_size()


def weight_bytes(model: nn.Module) -> int:
    """Of the weights that a decoding step reads: all but the embeddings, unless they are the output layer's too."""
    by_row = 0 if model.config.tie_word_embeddings else model.model.embed_tokens.weight.nbytes
    return sum(parameter.nbytes for parameter in model.parameters()) - by_row


def products(x: Tensor, modules: Sequence[nn.Linear], joined: Joined | None) -> Sequence[Tensor]:
    """What each of the modules makes of x."""
    if joined is None:
        return [linear(x, module) for module in modules]
    return F.linear(x, *joined).split([module.out_features for module in modules], -1)


def linear(x: Tensor, module: nn.Linear) -> Tensor:
    """x W^T + b by the module's weights, and what its adapter adds, without its hooks and without gradients."""
    product = onednn_linear if ONEDNN and x.is_cpu else F.linear
    y = product(x, module.weight, module.bias)
    return y + module.correction(x) if isinstance(module, LoRALinear) else y


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` by oneDNN. F.linear calls MKL."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def onednn_is_faster(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether oneDNN multiplies faster than MKL, which does without AVX-512 on processors that are not Intel's. By the
    maker, not by timing both: the two round differently, and a resumed run has to sample what it would have sampled."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return cpuinfo.exists() and "GenuineIntel" not in cpuinfo.read_text()


ONEDNN = onednn_is_faster()


def rms_norm(x: Tensor, module: nn.Module) -> Tensor:
    return kernels.rms_norm(x, module.weight, module.variance_epsilon)


def add_norm(x: Tensor, y: Tensor, module: nn.Module) -> tuple[Tensor, Tensor]:
    """x + y, on which the next sum builds, and its norm, which the next products read."""
    return kernels.add_norm(x, y, module.weight, module.variance_epsilon)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding; the two halves of the head dimension are the two components of each pair."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat((-second, first), -1), sin)


def rope_tables(model: nn.Module, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions below `length`, (length, head_dim) each, in the weights' dtype."""
    rotary, weight = model.model.rotary_emb, model.model.embed_tokens.weight
    angles = torch.arange(length, device=weight.device)[:, None].float() * rotary.inv_freq.float()
    angles = torch.cat((angles, angles), -1)  # (length, head_dim)
    return tuple((table * rotary.attention_scaling).to(weight.dtype) for table in (angles.cos(), angles.sin()))


# ---------------------------------------------------------------------------------------------------------- the sampler


class Sampler:
    """Samples from a policy with a KV cache that fits into `cache_bytes`. Reads the module's weights at every call.

    On a GPU the caches stay allocated between calls, with the recorded steps that point into them, until `free`.
    """

    def __init__(self, model: nn.Module, cache_bytes: float = 8e9):
        """`model`: a Qwen2, Qwen3 or Llama `ForCausalLM`. Raises ValueError, by name, for an architecture or rope it
        does not know."""
        config = model.config
        if problem := unsupported(config):
            raise ValueError(problem)
        self.model = model
        self.cache_bytes = cache_bytes
        self.read = 0  # bytes of weights, keys and values that the last call's decoding had to read
        self.idle_state: State | None = None  # the last call's, on a GPU

    def capacity(self, prompt_length: int, max_new_tokens: int, samples: int = 1) -> tuple[int, int]:
        """How many rows and how many prompts the cache budget holds. Raises ValueError if not one of each.

        In large groups many rows finish early, so `samples` / 4 live rows are budgeted for each prompt: about four
        times as many prompts at once as full groups would need. Joined weights go first.
        """
        token, budget = token_bytes(self.model), self.cache_bytes - self._joined_bytes()
        row, prompt = token * max_new_tokens, token * prompt_length
        if row + prompt > budget:
            raise ValueError(
                f"one row of {prompt_length + max_new_tokens} tokens needs {row + prompt:.3g} bytes of cache; the "
                f"budget is {budget:.3g}"
            )
        sharing = max(1, min(samples // 4, int((budget - prompt) // row)))
        prompts = int(budget // (sharing * row + prompt))
        return prompts * sharing, prompts

    def _joined_bytes(self) -> int:
        on_gpu = kernels.serve(self.model.model.embed_tokens.weight)
        return joined_bytes(self.model, self.cache_bytes) if on_gpu else 0

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        temperature: float = 1.0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        on_sample: Callable[[int, Sample], None] | None = None,
    ) -> list[list[Sample]]:
        """`samples` responses for every prompt.

        Args:
            prompts: token ids, none empty.
            max_new_tokens: a response that reaches it without a stop token is cut there.
            stop_ids: each ends a response.
            seeds: one per prompt (default: its index); sample j of a prompt derives its own from it.
            on_sample: called with each response when it ends, sample j of prompt i as number i * `samples` + j.

        Returns:
            For each prompt, in order, its list of samples.

        Raises:
            ValueError: no prompt or an empty one, a prompt that with its response exceeds the model's context, a stop
                id outside the vocabulary, a bad temperature or top_p, a cache budget too small for one row, or logits
                that are not finite.
        """
        self._check(prompts, samples, max_new_tokens, stop_ids)
        state = self._take_state(prompts, samples, max_new_tokens, stop_ids)
        rows = LiveRows(state, prompts, range(len(prompts)) if seeds is None else seeds, temperature, top_p)
        results: list[Sample | None] = [None] * (len(prompts) * samples)
        while rows.waiting or rows.live:
            for number, sample in rows.step():
                results[number] = sample
                if on_sample:
                    on_sample(number, sample)
        if state.recordings:
            self.idle_state = state
        self.read = rows.steps * weight_bytes(self.model) + rows.seen * token_bytes(self.model)
        return [results[start : start + samples] for start in range(0, len(results), samples)]

    def free(self) -> None:
        """Give up the caches and the recorded steps: whoever trains in between needs the memory."""
        if self.idle_state:
            self.idle_state = None
            torch.cuda.empty_cache()  # all of it: what came to lie in a piece of the cache would pin the rest

    def _take_state(
        self, prompts: Sequence[list[int]], samples: int, max_new_tokens: int, stop_ids: Sequence[int]
    ) -> State:
        """Room for these prompts: the last call's, with its recorded steps, if its sizes are the same."""
        idle, self.idle_state = self.idle_state, None  # a call that fails leaves nothing for the next
        longest = max(map(len, prompts))
        if kernels.serve(self.model.model.embed_tokens.weight):
            longest = -(-longest // 256) * 256  # so that the next call's sizes are the same
        places, slots = self.capacity(longest, max_new_tokens, samples)
        sizes = Sizes(min(places, len(prompts) * samples), min(slots, len(prompts)), samples, longest, max_new_tokens)
        if idle and (idle.sizes, idle.stop_ids.tolist()) == (sizes, list(stop_ids)):
            idle.recordings.forget_if_moved()
            idle.refresh()
            return idle
        del idle  # before the next caches are allocated
        return State(self.model, sizes, stop_ids, join=self._joined_bytes() > 0)

    def _check(self, prompts: Sequence[list[int]], samples: int, max_new_tokens: int, stop_ids: Sequence[int]) -> None:
        config = self.model.config
        if not prompts or not all(prompts):
            raise ValueError("there is no prompt" if not prompts else "a prompt is empty")
        if samples < 1 or max_new_tokens < 1:
            raise ValueError(f"samples ({samples}) and max_new_tokens ({max_new_tokens}) must be at least 1")
        longest = max(map(len, prompts))
        if longest + max_new_tokens > config.max_position_embeddings:
            raise ValueError(
                f"a prompt of {longest} tokens and a response of {max_new_tokens} exceed the model's context of "
                f"{config.max_position_embeddings}"
            )
        for stop_id in stop_ids:
            if not 0 <= stop_id < config.vocab_size:
                raise ValueError(f"stop id {stop_id} is outside the vocabulary of {config.vocab_size}")


# ------------------------------------------------------------------------------------------ the host: which rows, where


@dataclass(slots=True)
class Prompt:
    """A prompt, as long as it has rows that have not ended."""

    tokens: list[int]
    unfinished: int  # its rows that have not ended, admitted or not
    slot: int | None = None  # None until its first row is admitted


@dataclass(slots=True)
class Row:
    """A response to be sampled. Its tokens are on the device (`State`); the host knows how many there are."""

    number: int  # prompt * samples + sample
    prompt: Prompt
    seed: int
    sampled: int = 0


class LiveRows:
    """One call of `generate`: the rows that wait, those that are live, by place, and their prompts, by slot.

    It plans; what is computed and stored is `State`'s.
    """

    def __init__(
        self, state: State, prompts: Sequence[list[int]], seeds: Sequence[int], temperature: float, top_p: float
    ):
        self.state, self.temperature, self.top_p = state, temperature, top_p
        samples = state.sizes.samples
        self.waiting: deque[Row] = deque()
        for index, (tokens, seed) in enumerate(zip(prompts, seeds)):
            prompt = Prompt(tokens, samples)
            self.waiting += [Row(index * samples + j, prompt, sample_seed(seed, j)) for j in range(samples)]
        self.live: list[Row] = []
        self.prompts: list[Prompt] = []
        self.steps = self.seen = 0  # decoding steps so far, and the tokens in the caches that they looked at

    def step(self) -> list[tuple[int, Sample]]:
        """Every live row, or every newly admitted one, gets a token. Returns those that ended, by number."""
        number = self.admissible()
        status = self.admit(number) if number else self.decode()
        return self.release(status.tolist())  # the one transfer of a step

    # ------------------------------------------------------------------------------------------------------------ admit

    def admissible(self) -> int:
        """How many waiting rows to admit now. Some places have to be free: one larger prefill is cheaper than many
        small ones."""
        sizes = self.state.sizes
        begun = len(self.waiting) % sizes.samples  # rows whose prompt has a slot already
        room = min(
            len(self.waiting),
            sizes.places - len(self.live),
            begun + (sizes.slots - len(self.prompts)) * sizes.samples,
        )
        worth_it = room >= sizes.places // 8 or room == len(self.waiting) or not self.live
        return room if worth_it else 0

    def admit(self, number: int) -> Tensor:
        """Rows take the places after the live ones and sample their first token. Returns the status, (live,)."""
        start, rows = len(self.live), [self.waiting.popleft() for _ in range(number)]
        first_slot = len(self.prompts)
        for row in rows:
            if row.prompt.slot is None:
                row.prompt.slot = len(self.prompts)
                self.prompts.append(row.prompt)
        self.live += rows
        self.state.prefill(self.prompts[first_slot:])
        self.state.seat(rows, start)
        self.state.arrange(self.live)
        for row in rows:
            row.sampled = 1
        status = self.state.first_tokens(rows, start, self.temperature, self.top_p)
        return F.pad(status, (start, 0))  # the others did nothing

    # ----------------------------------------------------------------------------------------------------------- decode

    def decode(self) -> Tensor:
        """One token for every live row. Returns the status of the live places and perhaps of idle ones."""
        for row in self.live:
            row.sampled += 1
        prompt_window = max(len(prompt.tokens) for prompt in self.prompts)
        window = max(row.sampled for row in self.live) - 1  # the new token is not in the cache
        extent = Extent(len(self.live), len(self.prompts), prompt_window, window)
        self.steps += 1
        self.seen += sum(len(prompt.tokens) for prompt in self.prompts) + sum(row.sampled - 1 for row in self.live)
        return self.state.decode(extent, self.temperature, self.top_p)

    # ---------------------------------------------------------------------------------------------------------- release

    def release(self, status: list[int]) -> list[tuple[int, Sample]]:
        """Rows that ended by the status of a step leave; returns their numbers and samples."""
        status = status[: len(self.live)]
        if BROKEN in status:
            raise ValueError("the policy's logits are not finite: there is no distribution to sample from")
        ended = [place for place, state in enumerate(status) if state == ENDED]
        if not ended:
            return []
        rows = [self.live[place] for place in ended]
        samples = self.state.samples(ended, [row.sampled for row in rows])
        for row in rows:
            row.prompt.unfinished -= 1
        self._close_places(ended)
        self._close_slots([slot for slot, prompt in enumerate(self.prompts) if prompt.unfinished == 0])
        self.state.arrange(self.live)
        return [(row.number, sample) for row, sample in zip(rows, samples)]

    def _close_places(self, ended: list[int]) -> None:
        to, source = close_gaps(self.live, ended)
        self.state.move_rows(to, source, max((row.sampled for row in self.live), default=0))

    def _close_slots(self, empty: list[int]) -> None:
        to, source = close_gaps(self.prompts, empty)
        self.state.move_prompts(to, source, max((len(prompt.tokens) for prompt in self.prompts), default=0))
        for slot, prompt in enumerate(self.prompts):
            prompt.slot = slot


def sample_seed(seed: int, sample: int) -> int:
    """The 32-bit seed of a prompt's sample: prompts with neighbouring seeds share none."""
    return (seed * 1_000_003 + sample) & 0xFFFFFFFF


def close_gaps(table: list, gone: list[int]) -> tuple[list[int], list[int]]:
    """Remove the entries `gone` from a list; entries from its end fill the gaps. Returns where to and from where."""
    remaining = len(table) - len(gone)
    to = [index for index in gone if index < remaining]
    source = sorted(set(range(remaining, len(table))) - set(gone))
    for target, origin in zip(to, source):
        table[target] = table[origin]
    del table[remaining:]
    return to, source


# ------------------------------------------------------------------------------ the device: what is computed and stored

GOES_ON, ENDED, BROKEN = range(3)  # status of a row after a step; broken: its logits are no distribution


class Sizes(NamedTuple):
    """Of the tensors of a `State`."""

    places: int
    slots: int
    samples: int  # a prompt: lanes to a slot
    prompt_length: int
    max_new_tokens: int


class Extent(NamedTuple):
    """How much of the caches a decoding step has to look at: the first rows and slots, and the longest in them."""

    rows: int
    slots: int
    prompt_length: int
    length: int


class State:
    """The two caches and what else the device has to know of each place, in tensors that never move.

    A place after the live ones is idle: a padded step computes something finite there, which is never read.
    """

    def __init__(self, model: nn.Module, sizes: Sizes, stop_ids: Sequence[int], join: bool = False):
        self.model, self.sizes = model, sizes
        self.groups = [group for layer in model.model.layers for group in joinable(layer)] if join else []
        self.joined = [Joined.of(group) for group in self.groups]
        self.recordings = recorded.new_recordings(model)
        self.rope = rope_tables(model, sizes.prompt_length + sizes.max_new_tokens)
        self.prompts = KVCache.empty(model, sizes.slots, sizes.prompt_length)
        self.responses = KVCache.empty(model, sizes.places, sizes.max_new_tokens)
        weight = model.model.embed_tokens.weight
        self.last_hidden = weight.new_zeros(sizes.slots, weight.shape[1])  # of each prompt: gives its first logits

        integers = {"dtype": torch.int64, "device": weight.device}
        self.stop_ids = torch.tensor(list(stop_ids), **integers)
        self.seeds = torch.zeros(sizes.places, **integers)
        self.lengths = torch.ones(sizes.places, **integers)  # of the row's prompt
        self.counts = torch.ones(sizes.places, **integers)  # tokens sampled so far
        self.is_live = torch.zeros(sizes.places, **integers)  # 0 or 1
        self.lanes = torch.zeros(sizes.places, **integers)
        self.tokens = torch.zeros(sizes.places, sizes.max_new_tokens, **integers)
        self.logprobs = torch.zeros(sizes.places, sizes.max_new_tokens, device=weight.device)

    def refresh(self) -> None:
        """Follow the weights, which may have been trained."""
        for joined, group in zip(self.joined, self.groups):
            joined.refresh(group)

    def index(self, numbers: Sequence[int]) -> Tensor:
        """Places or slots, for the device."""
        return torch.tensor(numbers, dtype=torch.int64, device=self.counts.device)

    # ---------------------------------------------------------------------------------------- what is stored, and where

    def seat(self, rows: list[Row], start: int) -> None:
        """Rows that have sampled nothing yet take the places from `start` on."""
        places = slice(start, start + len(rows))
        self.seeds[places] = self.index([row.seed for row in rows])
        self.lengths[places] = self.index([len(row.prompt.tokens) for row in rows])
        self.counts[places] = 0

    def arrange(self, live: list[Row]) -> None:
        """Note which places are live and which prompts they belong to."""
        samples, idle = self.sizes.samples, self.sizes.places - len(live)
        lanes = [row.prompt.slot * samples + row.number % samples for row in live]
        self.lanes.copy_(torch.tensor(lanes + [0] * idle))
        self.is_live.copy_(torch.arange(self.sizes.places) < len(live))
        self.counts[len(live) :] = 1

    def samples(self, places: list[int], counts: list[int]) -> list[Sample]:
        """What the rows at `places` have sampled, `counts` tokens each."""
        index, stops, samples = self.index(places), set(self.stop_ids.tolist()), []
        for tokens, logprobs, count in zip(self.tokens[index].tolist(), self.logprobs[index].tolist(), counts):
            last = tokens[count - 1]
            samples.append(Sample(tokens[:count], logprobs[:count], last if last in stops else None))
        return samples

    def move_rows(self, to: list[int], source: list[int], length: int) -> None:
        """Rows go from the places `source` to the places `to`, with the first `length` tokens of their responses."""
        if to:
            to, source = self.index(to), self.index(source)
            for state in (self.seeds, self.lengths, self.counts, self.tokens, self.logprobs):
                state[to] = state[source]
            self.responses.move(to, source, length)

    def move_prompts(self, to: list[int], source: list[int], length: int) -> None:
        """Prompts of at most `length` tokens go from the slots `source` to the slots `to`."""
        if to:
            to, source = self.index(to), self.index(source)
            self.last_hidden[to] = self.last_hidden[source]
            self.prompts.move(to, source, length)

    # ---------------------------------------------------------------------------------------------------------- prompts

    def prefill(self, prompts: list[Prompt]) -> None:
        """Run prompts and store their keys and values in their slots, some at a time."""
        lengths = [len(prompt.tokens) for prompt in prompts]
        for part in micro_batches(lengths, PREFILL_TOKENS):
            longest = lengths[part[-1]]
            tokens = self.index([prompts[i].tokens + [0] * (longest - lengths[i]) for i in part])  # (P, T)
            slots, last = self.index([prompts[i].slot for i in part]), self.index([lengths[i] - 1 for i in part])
            hidden = decoder(self.model, tokens, self._prompt_attention(slots, longest), self.joined)
            self.last_hidden[slots] = hidden[torch.arange(len(part), device=hidden.device), last]

    def _prompt_attention(self, slots: Tensor, length: int) -> Attention:
        """Attention of whole prompts, padded to `length` on the right, for `decoder`; they go into `slots` (P,)."""
        cos, sin = (table[:length] for table in self.rope)  # (T, head_dim)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            for state, new in zip(self.prompts.layer(layer), (k, v)):
                state[slots, :, :length] = new
            # The causal mask hides the padding from every real token.
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return attend

    def first_tokens(self, rows: list[Row], start: int, temperature: float, top_p: float) -> Tensor:
        """Sample the first token of the rows in the places from `start` on; each prompt's logits are computed once."""
        slots = [row.prompt.slot for row in rows]
        used = sorted(set(slots))
        logits = self._logits(self.last_hidden[self.index(used)])  # (prompts, V)
        logits = logits[self.index([used.index(slot) for slot in slots])]
        places = torch.arange(start, start + len(rows), device=logits.device)
        return self._sample(places, logits, temperature, top_p)

    # -------------------------------------------------------------------------------------------------------- responses

    def decode(self, extent: Extent, temperature: float, top_p: float) -> Tensor:
        """`_decode`, recorded where that pays: then of one of few shapes, whatever the lengths."""
        if not self.recordings:
            return self._decode(extent, temperature, top_p)
        _, slots, _, prompt_length, length = self.sizes
        shape = Extent(recorded.bucket(extent.rows, self.sizes.places), slots, prompt_length, length)
        return self.recordings.run(self._decode, (shape, temperature, top_p))

    def _decode(self, extent: Extent, temperature: float, top_p: float) -> Tensor:
        """The last tokens of the first rows go into the cache; sample the next ones. Returns the status (rows,)."""
        row = torch.arange(extent.rows, device=self.counts.device)
        last = self.counts[: extent.rows] - 1
        tokens = self.tokens[row, last][:, None]
        hidden = decoder(self.model, tokens, self._row_attention(last, extent), self.joined)
        return self._sample(row, self._logits(hidden[:, 0]), temperature, top_p)

    def _row_attention(self, last: Tensor, extent: Extent) -> Attention:
        """Attention of the rows' tokens number `last` (B,), for `decoder`; they go into the cache."""
        rows, slots, prompt_length, length = extent
        lanes, lengths, samples = self.lanes[:rows], self.lengths[:rows], self.sizes.samples
        if kernels.serve(last):
            return kernels.row_attention(self.prompts, self.responses, self.rope, lanes // samples, lengths, last)
        row = torch.arange(rows, device=last.device)
        places = lanes.new_zeros(slots * samples)  # a lane without a row points to place 0
        places[lanes] = row
        beyond_prompt = torch.arange(prompt_length, device=last.device) >= lengths[:, None]
        beyond_response = torch.arange(length, device=last.device) > last[:, None]
        beyond = torch.cat((beyond_prompt, beyond_response), -1)[:, None, None]  # (B, 1, 1, prompt + response)
        hidden = torch.zeros(beyond.shape, device=last.device).masked_fill_(beyond, -torch.inf)  # to be added to scores
        cos, sin = (table[lengths + last][:, None, None] for table in self.rope)  # (B, 1, 1, head_dim)

        def by_prompt(x: Tensor) -> Tensor:
            """(B, kv_heads, group, N), by row -> (slots, kv_heads, samples * group, N), by prompt."""
            return x.index_select(0, places).unflatten(0, (slots, samples)).transpose(1, 2).flatten(2, 3)

        def by_row(x: Tensor) -> Tensor:
            """The inverse of `by_prompt`."""
            return x.unflatten(2, (samples, -1)).transpose(1, 2).flatten(0, 1).index_select(0, lanes)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # A prompt's keys are read once for all of its rows, a row's own keys for itself; one softmax over both.
            # The query heads that share a key head stand in for the query length.
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            for state, new in zip(self.responses.layer(layer), (k, v)):
                state[row, :, last] = new[:, :, 0]
            keys, values = (state[:rows, :, :length] for state in self.responses.layer(layer))
            prompt_keys, prompt_values = (state[:slots, :, :prompt_length] for state in self.prompts.layer(layer))
            grouped = q.reshape(rows, k.shape[1], -1, q.shape[-1]) * q.shape[-1] ** -0.5
            scores = torch.cat((by_row(by_prompt(grouped) @ prompt_keys.mT), grouped @ keys.mT), -1).float()
            weights = scores.add_(hidden).softmax(-1).to(v.dtype)
            of_prompt, of_response = weights.split((prompt_length, length), -1)
            out = by_row(by_prompt(of_prompt) @ prompt_values) + of_response @ values
            return out.reshape(q.shape)

        return attend

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits (B, V) of hidden states (B, D). What the tokenizer cannot decode is never sampled."""
        logits = linear(hidden, self.model.lm_head)
        for stretch in getattr(self.model, "unknown_tokens", ()):
            logits[:, stretch].fill_(-torch.inf)
        return logits

    def _sample(self, places: Tensor, logits: Tensor, temperature: float, top_p: float) -> Tensor:
        """Sample a token of each place (B,) from its logits (B, V). Returns the status (B,)."""
        counts = self.counts[places]
        tokens, logprobs = sampling.sample_top_p(logits, self.seeds[places], counts, temperature, top_p)
        self.tokens[places, counts] = tokens
        self.logprobs[places, counts] = logprobs
        counts = counts + self.is_live[places]
        self.counts[places] = counts
        done = (tokens[:, None] == self.stop_ids).any(-1) | (counts == self.sizes.max_new_tokens)
        return torch.where(tokens < 0, BROKEN, torch.where(done, ENDED, GOES_ON))

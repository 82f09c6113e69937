"""The sampler: responses of a Hugging Face policy, with log-probabilities, by a forward pass of our own (section 3.3).

Generation is most of the time of RL. `transformers.generate` keeps one position for the whole batch, so every row
waits for the longest. Here each row has its own position in a preallocated KV cache:

    prefill   run each prompt once, however many rows sample from it: they share its keys and values
    decode    one token for every active row, at its own position
    release   a finished row's place is taken by the next prompt at once; at the end of the queue the batch shrinks

`decoder` is the whole transformer (Qwen2, Qwen3 and Llama differ in biases and q/k norms only) over the very weights
of the Hugging Face module: nothing is copied, so a sampler made once follows every optimiser step. Which tokens are
real is known from lengths, never from token values, and the stop token is part of the sample.

A row's random numbers depend on its seed and its own step (see `cuda/top_p.py`): the same seed gives the same text,
whatever else is in the batch, but for rounding: in bfloat16 the last bit of a product depends on the batch's size.

On a GPU a decoding step is hundreds of small kernels, and launching them takes longer than running them. There what
lies between the matrix products is done by a few Triton kernels (`cuda/decode.py`), and a step is recorded once as a
CUDA graph and replayed with one launch. A recording has fixed shapes and addresses, so the step (`_Batch._decode`) asks
the device nothing, the batch is padded to one of few sizes (`bucket`), and its tensors stay where they are between
calls. On the CPU the same step runs in torch operations, without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda import decode as kernels
from cuda import top_p as sampling
from policy import micro_batches

ARCHITECTURES = ("qwen2", "qwen3", "llama")
PREFILL_TOKENS = 16384  # prompts' tokens that run at once: bounds the memory of their activations
MOVED_ROWS = 2  # rows of the cache that are copied at once: bounds the memory of the copy
# F.linear calls MKL, which on AMD's processors does without AVX-512; oneDNN, part of the same PyTorch, does not.
ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length


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


@dataclass(slots=True)
class KVCache:
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
        for state in (self.keys, self.values):
            # A few at a time: what is copied exists twice for a moment, and many rows may reach the limit at once.
            for some_to, some_source in zip(to.split(MOVED_ROWS), source.split(MOVED_ROWS)):
                state[:, some_to, :, :length] = state[:, some_source, :, :length]


def decoder(model: nn.Module, tokens: Tensor, attend: Attention) -> Tensor:
    """Hidden states (B, T, D) of `tokens` (B, T), after the final norm.

    `attend(layer, q, k, v)` rotates queries and keys to their positions, stores the layer's new keys and values and
    returns the attention output, shaped as q. q is (B, heads, T, head_dim), k and v are (B, kv_heads, T, head_dim).
    """
    body = model.model
    batch, length = tokens.shape
    x = F.embedding(tokens, body.embed_tokens.weight)
    for index, layer in enumerate(body.layers):
        attention, mlp = layer.self_attn, layer.mlp
        h = rms_norm(x, layer.input_layernorm)
        q, k, v = (
            linear(h, projection).view(batch, length, -1, attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):  # Qwen3
            q, k = rms_norm(q, attention.q_norm), rms_norm(k, attention.k_norm)
        out = attend(index, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + linear(out.transpose(1, 2).reshape(batch, length, -1), attention.o_proj)
        h = rms_norm(x, layer.post_attention_layernorm)
        x = x + linear(swiglu(linear(h, mlp.gate_proj), linear(h, mlp.up_proj)), mlp.down_proj)
    return rms_norm(x, body.norm)


def head_dim(model: nn.Module) -> int:
    return model.model.layers[0].self_attn.head_dim


def fused(x: Tensor) -> bool:
    """Whether the kernels of cuda/decode.py serve: on a GPU, where there is Triton."""
    return x.is_cuda and kernels.triton is not None


def linear(x: Tensor, module: nn.Linear) -> Tensor:
    """x W^T + b by the module's weights, without its hooks and without gradients."""
    if ONEDNN and x.is_cpu:
        return torch.ops.mkldnn._linear_pointwise(x, module.weight, module.bias, "none", [], "")
    return F.linear(x, module.weight, module.bias)


def rms_norm(x: Tensor, module: nn.Module) -> Tensor:
    """Root-mean-square norm over the last dimension, computed in float32 as the Hugging Face modules do."""
    if fused(x):
        return kernels.rms_norm(x, module.weight, module.variance_epsilon)
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * x32.to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return kernels.swiglu(gate, up) if fused(gate) else F.silu(gate) * up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding; the two halves of the head dimension are the two components of each pair."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rope_tables(model: nn.Module, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions below `length`, (length, head_dim) each, in the weights' dtype."""
    rotary, weight = model.model.rotary_emb, model.model.embed_tokens.weight
    angles = (
        torch.arange(length, device=weight.device)[:, None].float() * rotary.inv_freq.float()
    )  # (length, head_dim / 2)
    angles = torch.cat((angles, angles), -1)
    return tuple((table * rotary.attention_scaling).to(weight.dtype) for table in (angles.cos(), angles.sin()))


# ---------------------------------------------------------------------------------------------------------- the sampler


class Sampler:
    """Samples from a policy with a KV cache that fits into `cache_bytes`. Reads the module's weights at every call.

    On a GPU the cache stays allocated between calls, with the recorded steps that point into it, until `free`.
    """

    def __init__(self, model: nn.Module, cache_bytes: float = 8e9):
        """`model`: a Qwen2, Qwen3 or Llama `ForCausalLM`. Raises ValueError, by name, for an architecture or rope it
        does not know."""
        config = model.config
        if config.model_type not in ARCHITECTURES:
            raise ValueError(
                f"the sampler does not know the architecture {config.model_type!r}; it knows {ARCHITECTURES}"
            )
        if model.model.rotary_emb.rope_type not in ROPE_TYPES:
            raise ValueError(f"the sampler does not know the rope type {model.model.rotary_emb.rope_type!r}")
        if getattr(config, "use_sliding_window", False):
            raise ValueError("the sampler does not know sliding-window attention (use_sliding_window is set)")
        self.model = model
        self.cache_bytes = cache_bytes
        self._kept: _Batch | None = None

    def capacity(self, prompt_length: int, max_new_tokens: int, samples: int = 1) -> tuple[int, int]:
        """How many rows and how many prompts the cache budget holds. Raises ValueError if not one of each.

        Of large groups some rows end early and others late, so about four times as many prompts are under way as full
        groups would need: `samples` / 4 rows share a prompt.
        """
        config, weight = self.model.config, self.model.model.embed_tokens.weight
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(self.model) * weight.element_size()
        row, prompt = token * max_new_tokens, token * prompt_length
        if row + prompt > self.cache_bytes:
            raise ValueError(
                f"one row of {prompt_length + max_new_tokens} tokens needs {row + prompt:.3g} bytes of cache; the "
                f"budget is {self.cache_bytes:.3g}"
            )
        sharing = max(1, min(samples // 4, int((self.cache_bytes - prompt) // row)))
        prompts = int(self.cache_bytes // (sharing * row + prompt))
        return prompts * sharing, prompts

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
        seeds = range(len(prompts)) if seeds is None else seeds
        total = len(prompts) * samples  # rows to be sampled: row r is sample r % samples of prompt r // samples
        batch = self._batch(prompts, samples, max_new_tokens, stop_ids)

        results: list[Sample | None] = [None] * total
        waiting = 0  # the next row to be admitted
        while waiting < total or batch.active:
            room = min(batch.room(waiting), total - waiting)
            # Wait until some places are free: one larger prefill is cheaper than many small ones.
            if room and (room >= batch.rows // 8 or room == total - waiting or not batch.active):
                admitted = range(waiting, waiting + room)
                row_seeds = [(seeds[row // samples] * 1_000_003 + row % samples) & 0xFFFFFFFF for row in admitted]
                status = batch.admit(admitted, prompts, row_seeds, temperature, top_p)
                waiting += room
            else:
                status = batch.step(temperature, top_p)
            for row, sample in batch.release(status):
                results[row] = sample
                if on_sample:
                    on_sample(row, sample)
        self._kept = batch if batch.recordings else None
        return [results[start : start + samples] for start in range(0, total, samples)]

    def free(self) -> None:
        """Give up the cache and the recorded steps: whoever trains in between needs the memory."""
        if self._kept:
            self._kept = None
            torch.cuda.empty_cache()  # all of it: what came to lie in a piece of the cache would pin the rest

    def _batch(
        self, prompts: Sequence[list[int]], samples: int, max_new_tokens: int, stop_ids: Sequence[int]
    ) -> _Batch:
        """An empty batch for these prompts: the last call's, with its recorded steps, if its sizes are the same."""
        kept, self._kept = self._kept, None  # a call that fails leaves nothing behind
        longest = max(map(len, prompts))
        if fused(self.model.model.embed_tokens.weight):
            longest = -(-longest // 256) * 256  # so that the next call's sizes are the same
        rows, slots = self.capacity(longest, max_new_tokens, samples)
        sizes = (min(rows, len(prompts) * samples), min(slots, len(prompts)), samples, longest, max_new_tokens)
        if kept and kept.sizes == sizes and kept.stops == set(stop_ids):
            if kept.recordings:
                kept.recordings.forget_if_moved()
            return kept
        del kept  # before the next cache is allocated
        return _Batch(self.model, sizes, stop_ids)

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


def bucket(number: int, limit: int) -> int:
    """The smallest of 8, 12, 16, 24, 32, 48, ... that holds `number`, at most `limit`: few sizes, a third of waste."""
    size = 8
    while size < number:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, limit)


class _Batch:
    """The rows being sampled, in places 0 .. active-1, and their prompts, in slots of a cache of their own.

    What the device needs at a step are tensors that never move; what the host needs to plan are lists. A place at or
    behind `active` is idle: a padded step computes something finite there, which is never read.
    """

    def __init__(self, model: nn.Module, sizes: tuple[int, int, int, int, int], stop_ids: Sequence[int]):
        self.model, self.sizes, self.stops = model, sizes, set(stop_ids)
        self.rows, self.slots, self.samples, self.prompt_length, self.max_new_tokens = sizes
        weight = model.model.embed_tokens.weight
        self.recordings = new_recordings(model)
        self.rope = rope_tables(model, self.prompt_length + self.max_new_tokens)
        self.prompts = KVCache.empty(model, self.slots, self.prompt_length)
        self.responses = KVCache.empty(model, self.rows, self.max_new_tokens)
        self.last_hidden = weight.new_zeros(self.slots, weight.shape[1])  # of each prompt: gives its first logits

        integers = {"dtype": torch.int64, "device": weight.device}
        self.stop_ids = torch.tensor(list(stop_ids), **integers)
        self.seeds = torch.zeros(self.rows, **integers)
        self.lengths = torch.ones(self.rows, **integers)  # of the row's prompt
        self.counts = torch.ones(self.rows, **integers)  # tokens sampled so far
        self.live = torch.zeros(self.rows, **integers)  # 1 for places below `active`
        self.tokens = torch.zeros(self.rows, self.max_new_tokens, **integers)
        self.logprobs = torch.zeros(self.rows, self.max_new_tokens, device=weight.device)
        self.lanes = torch.zeros(self.rows, **integers)  # slot * samples + the row's number among its prompt's samples

        self.row_ids: list[int] = []  # by place
        self.slot_of: list[int] = []  # by place
        self.sampled: list[int] = []  # by place: `counts`, known without asking the device
        self.slot_prompts: list[int] = []  # by slot: which prompt
        self.slot_lengths: list[int] = []  # by slot: its tokens
        self.slot_left: list[int] = []  # by slot: its rows that have not ended, admitted or not

    @property
    def active(self) -> int:
        return len(self.row_ids)

    def room(self, waiting: int) -> int:
        """How many rows can be admitted, `waiting` being the next: places and slots limit it."""
        started = -waiting % self.samples  # rows whose prompt has its slot already
        return min(self.rows - self.active, started + (self.slots - len(self.slot_prompts)) * self.samples)

    # ------------------------------------------------------------------------------------------- prefill and admission

    def admit(
        self, row_ids: range, prompts: Sequence[list[int]], seeds: list[int], temperature: float, top_p: float
    ) -> Tensor:
        """Rows take the places behind the active ones and sample their first token. Returns the status, (active,)."""
        needed = range(row_ids[0] // self.samples, row_ids[-1] // self.samples + 1)
        fresh = [number for number in needed if number not in self.slot_prompts]
        self._prefill([prompts[number] for number in fresh])
        self.slot_prompts += fresh
        self.slot_lengths += [len(prompts[number]) for number in fresh]
        self.slot_left += [self.samples] * len(fresh)

        device, start = self.counts.device, self.active
        slot_of = [self.slot_prompts.index(row // self.samples) for row in row_ids]
        self.row_ids += row_ids
        self.slot_of += slot_of
        self.sampled += [1] * len(row_ids)
        places = slice(start, self.active)
        self.seeds[places] = torch.tensor(seeds, device=device)
        self.lengths[places] = torch.tensor([self.slot_lengths[slot] for slot in slot_of], device=device)
        self.counts[places] = 0
        self._arrange()
        used = sorted(set(slot_of))
        logits = linear(self.last_hidden[torch.tensor(used, device=device)], self.model.lm_head)  # (prompts, V)
        logits = logits[torch.tensor([used.index(slot) for slot in slot_of], device=device)]
        status = self._sample(torch.arange(start, self.active, device=device), logits, temperature, top_p)
        return F.pad(status, (start, 0))  # the others did nothing

    def _prefill(self, prompts: list[list[int]]) -> None:
        """Run prompts into the next slots, some at a time."""
        device, first = self.counts.device, len(self.slot_prompts)
        for part in micro_batches([len(prompt) for prompt in prompts], PREFILL_TOKENS):
            lengths = torch.tensor([len(prompts[index]) for index in part], device=device)
            longest = len(prompts[part[-1]])
            padded = [prompts[index] + [0] * (longest - len(prompts[index])) for index in part]
            tokens = torch.tensor(padded, device=device)  # (P, T)
            slots = torch.tensor(part, device=device) + first
            hidden = decoder(self.model, tokens, self._prompt_attention(slots, longest))
            self.last_hidden[slots] = hidden[torch.arange(len(part), device=device), lengths - 1]

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

    def _arrange(self) -> None:
        """Tell the device which places are live and which prompts they belong to."""
        slots, rows = torch.tensor([self.slot_of, self.row_ids], dtype=torch.int64)
        lanes = slots * self.samples + rows % self.samples
        self.lanes.copy_(F.pad(lanes, (0, self.rows - self.active)))
        self.live.copy_(torch.arange(self.rows) < self.active)

    # ---------------------------------------------------------------------------------------------------------- decode

    def step(self, temperature: float, top_p: float) -> Tensor:
        """One token for every active row. Returns the status of the active places and perhaps of idle ones."""
        self.sampled = [count + 1 for count in self.sampled]
        if self.recordings:
            return self.recordings.run(self._decode, (bucket(self.active, self.rows), temperature, top_p))
        windows = (len(self.slot_prompts), max(self.slot_lengths), max(self.sampled) - 1)
        return self._decode(self.active, temperature, top_p, windows)

    def _decode(
        self, rows: int, temperature: float, top_p: float, windows: tuple[int, int, int] | None = None
    ) -> Tensor:
        """The last tokens of the first `rows` places go into the cache; sample the next ones. Returns the status.

        `windows`, for the torch operations: how many slots are used, and the longest prompt and response in them. The
        kernels do without: nothing in the step depends on a value on the device, and the host takes no part in it.
        """
        row = torch.arange(rows, device=self.counts.device)
        last = self.counts[:rows] - 1
        attend = self._row_attention(last, *windows) if windows else self._fused_row_attention(last)
        hidden = decoder(self.model, self.tokens[row, last][:, None], attend)
        return self._sample(row, linear(hidden[:, 0], self.model.lm_head), temperature, top_p)

    def _fused_row_attention(self, last: Tensor) -> Attention:
        """Attention of the rows' tokens number `last` (B,), for `decoder`, by a Triton kernel."""
        slots, lengths = self.lanes[: len(last)] // self.samples, self.lengths[: len(last)]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            new = tuple(x[:, :, 0] for x in (q, k, v))
            caches = self.prompts.layer(layer), self.responses.layer(layer)
            return kernels.attend(new, self.rope, *caches, slots, lengths, last)[:, :, None]

        return attend

    def _row_attention(self, last: Tensor, slots: int, prompt_window: int, window: int) -> Attention:
        """The same in torch operations: no prompt in the first `slots` is longer than `prompt_window`, no row has
        sampled more than `window` tokens."""
        rows, device = len(last), last.device
        row = torch.arange(rows, device=device)
        lanes, lengths = self.lanes[:rows], self.lengths[:rows]
        places = lanes.new_zeros(slots * self.samples)  # a lane without a row points to place 0
        places[lanes] = row
        places = places.view(slots, self.samples)
        beyond_prompt = torch.arange(prompt_window, device=device) >= lengths[:, None]
        beyond_response = torch.arange(window, device=device) > last[:, None]
        hidden_tokens = torch.cat((beyond_prompt, beyond_response), -1)[:, None, None]  # (B, 1, 1, prompt + response)
        cos, sin = (table[lengths + last][:, None, None] for table in self.rope)  # (B, 1, 1, head_dim)

        def by_prompt(x: Tensor) -> Tensor:
            """(B, kv_heads, group, N), by row -> (slots, kv_heads, samples * group, N), by prompt."""
            return x[places].transpose(1, 2).flatten(2, 3)

        def by_row(x: Tensor) -> Tensor:
            """The inverse of `by_prompt`."""
            return x.unflatten(2, (self.samples, -1)).transpose(1, 2).flatten(0, 1)[lanes]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # A prompt's keys are read once for all of its rows, a row's own keys for itself; one softmax over both.
            # The query heads that share a key head stand in for the query length.
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            for state, new in zip(self.responses.layer(layer), (k, v)):
                state[row, :, last] = new[:, :, 0]
            keys, values = (state[:rows, :, :window] for state in self.responses.layer(layer))
            prompt_keys, prompt_values = (state[:slots, :, :prompt_window] for state in self.prompts.layer(layer))
            grouped = q.reshape(rows, k.shape[1], -1, q.shape[-1]) * q.shape[-1] ** -0.5
            scores = torch.cat((by_row(by_prompt(grouped) @ prompt_keys.mT), grouped @ keys.mT), -1).float()
            weights = scores.masked_fill_(hidden_tokens, -torch.inf).softmax(-1).to(v.dtype)
            of_prompt, of_response = weights.split((prompt_window, window), -1)
            out = by_row(by_prompt(of_prompt) @ prompt_values) + of_response @ values
            return out.reshape(q.shape)

        return attend

    def _sample(self, places: Tensor, logits: Tensor, temperature: float, top_p: float) -> Tensor:
        """Sample a token of each place (B,) from its logits (B, V). Returns the status (B,).

        0: the row goes on; 1: it ended; 2: its logits are no distribution.
        """
        counts = self.counts[places]
        tokens, logprobs = sampling.sample_top_p(logits, self.seeds[places], counts, temperature, top_p)
        self.tokens[places, counts] = tokens
        self.logprobs[places, counts] = logprobs
        counts = counts + self.live[places]
        self.counts[places] = counts
        done = (tokens[:, None] == self.stop_ids).any(-1) | (counts == self.max_new_tokens)
        return torch.where(tokens < 0, 2, done.long())

    # --------------------------------------------------------------------------------------------------------- release

    def release(self, status: Tensor) -> list[tuple[int, Sample]]:
        """Rows that ended by the status of a step leave the batch; returns them with their ids."""
        states = status.tolist()[: self.active]  # the one transfer of a step
        if 2 in states:
            raise ValueError("the policy's logits are not finite: there is no distribution to sample from")
        ended = [place for place, state in enumerate(states) if state]
        if not ended:
            return []
        index = torch.tensor(ended, device=self.counts.device)
        finished = []
        for place, tokens, logprobs in zip(ended, self.tokens[index].tolist(), self.logprobs[index].tolist()):
            count = self.sampled[place]
            last = tokens[count - 1]
            sample = Sample(tokens[:count], logprobs[:count], last if last in self.stops else None)
            finished.append((self.row_ids[place], sample))
            self.slot_left[self.slot_of[place]] -= 1
        self._close_places(ended)
        self._close_slots([slot for slot, left in enumerate(self.slot_left) if left == 0])
        self._arrange()
        return finished

    def _close_places(self, ended: list[int]) -> None:
        """Rows from the end move into the places of those that ended."""
        to, source = close_gaps(ended, self.row_ids, self.slot_of, self.sampled)
        if to:
            to, source = (torch.tensor(indices, device=self.counts.device) for indices in (to, source))
            for state in (self.seeds, self.lengths, self.counts, self.tokens, self.logprobs):
                state[to] = state[source]
            self.responses.move(to, source, max(self.sampled))
        self.counts[self.active :] = 1  # idle

    def _close_slots(self, empty: list[int]) -> None:
        """Prompts from the end move into the slots whose rows have all ended."""
        to, source = close_gaps(empty, self.slot_prompts, self.slot_lengths, self.slot_left)
        if to:
            moved = dict(zip(source, to))
            self.slot_of = [moved.get(slot, slot) for slot in self.slot_of]
            to, source = (torch.tensor(indices, device=self.counts.device) for indices in (to, source))
            self.last_hidden[to] = self.last_hidden[source]
            self.prompts.move(to, source, max(self.slot_lengths))


def close_gaps(gone: list[int], *columns: list[int]) -> tuple[list[int], list[int]]:
    """Remove the rows `gone` from a table of columns; rows from its end fill the gaps. Returns where to and from."""
    number = len(columns[0])
    remaining = number - len(gone)
    to = [row for row in gone if row < remaining]
    source = sorted(set(range(remaining, number)) - set(gone))
    for column in columns:
        for target, origin in zip(to, source):
            column[target] = column[origin]
        del column[remaining:]
    return to, source


class Recordings:
    """Decoding steps recorded as CUDA graphs, by the number of rows and the sampling parameters.

    An optimiser step changes weights in place, so recordings stay valid. FSDP gathers weights anew for each rollout
    phase, perhaps to other addresses; then they are recorded anew, about ten steps out of thousands.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.forget()

    def forget(self) -> None:
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}
        # One pool of memory for all of them: they never run together. It ends with the last graph that uses it.
        self.pool = torch.cuda.graph_pool_handle()
        self.addresses = self._weights()

    def _weights(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.model.parameters()]

    def forget_if_moved(self) -> None:
        """To be called before the first step after anything may have touched the weights."""
        if self.addresses != self._weights():
            self.forget()

    def run(self, step: Callable[..., Tensor], key: tuple) -> Tensor:
        """`step(*key)`: as it stands the first time, which compiles its kernels; then recorded; then replayed."""
        if key not in self.graphs:
            self.graphs[key] = None
            return step(*key)
        if self.graphs[key] is None:
            graph = torch.cuda.CUDAGraph()
            # Records without running. What other threads do meanwhile (NCCL's watchdog asks for events) is allowed.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                status = step(*key)
            self.graphs[key] = graph, status
        graph, status = self.graphs[key]
        graph.replay()
        return status


def new_recordings(model: nn.Module) -> Recordings | None:
    """None where steps are not recorded: on the CPU, or without Triton, since torch operations ask the device."""
    return Recordings(model) if fused(model.model.embed_tokens.weight) else None

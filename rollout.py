"""The sampler: responses of a Hugging Face policy, with log-probabilities, by a forward pass of our own (section 3.3).

Generation is most of the time of RL. `transformers.generate` keeps one position for the whole batch, so every row
waits for the longest. Here each row has its own position in a preallocated KV cache:

    prefill   run each prompt once; copy its keys and values to every row that samples from it
    decode    one token for every active row, at its own position
    release   a finished row's place is taken by the next prompt at once; at the end of the queue the batch shrinks

`decoder` is the whole transformer (Qwen2, Qwen3 and Llama differ in biases and q/k norms only) over the very weights
of the Hugging Face module: nothing is copied, so a sampler made once follows every optimiser step. Which tokens are
real is known from lengths, never from token values, and the stop token is part of the sample.

A row's random numbers depend on its seed and its own step (see `cuda/top_p.py`): the same seed gives the same text,
whatever else is in the batch.

This is a tool: it imports no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda.top_p import sample_top_p

ARCHITECTURES = ("qwen2", "qwen3", "llama")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length


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
    """Keys and values of every row. `keys`, `values`: (layers, rows, kv_heads, length, head_dim)."""

    keys: Tensor
    values: Tensor


def decoder(
    model: nn.Module, tokens: Tensor, positions: Tensor, rope: tuple[Tensor, Tensor], attend: Callable
) -> Tensor:
    """Hidden states (B, T, D) of `tokens` (B, T) at `positions` (B, T), after the final norm.

    `rope` holds the cosines and sines by position, (length, head_dim) each. `attend(layer, q, k, v)` stores the layer's
    new keys and values and returns the attention output; q is (B, heads, T, head_dim), k and v (B, kv_heads, T,
    head_dim).
    """
    body = model.model
    batch, length = tokens.shape
    cos, sin = (table[positions][:, None] for table in rope)  # (B, 1, T, head_dim)
    x = F.embedding(tokens, body.embed_tokens.weight)
    for index, layer in enumerate(body.layers):
        attention, mlp = layer.self_attn, layer.mlp
        h = rms_norm(x, layer.input_layernorm)
        q = linear(h, attention.q_proj).view(batch, length, -1, attention.head_dim).transpose(1, 2)
        k = linear(h, attention.k_proj).view(batch, length, -1, attention.head_dim).transpose(1, 2)
        v = linear(h, attention.v_proj).view(batch, length, -1, attention.head_dim).transpose(1, 2)
        if hasattr(attention, "q_norm"):  # Qwen3
            q, k = rms_norm(q, attention.q_norm), rms_norm(k, attention.k_norm)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = attend(index, q, k, v).transpose(1, 2).reshape(batch, length, -1)
        x = x + linear(out, attention.o_proj)
        h = rms_norm(x, layer.post_attention_layernorm)
        x = x + linear(F.silu(linear(h, mlp.gate_proj)) * linear(h, mlp.up_proj), mlp.down_proj)
    return rms_norm(x, body.norm)


def linear(x: Tensor, module: nn.Linear) -> Tensor:
    """x W^T + b by the module's weights, without its hooks."""
    return F.linear(x, module.weight, module.bias)


def rms_norm(x: Tensor, module: nn.Module) -> Tensor:
    """Root-mean-square norm over the last dimension, computed in float32 as the Hugging Face modules do."""
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * x32.to(x.dtype)


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
    """Samples from a policy with a KV cache that fits into `cache_bytes`. Reads the module's weights at every call."""

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

    def cache_rows(self, length: int) -> int:
        """How many rows of `length` tokens the cache budget holds. Raises ValueError if not even one."""
        config, weight = self.model.config, self.model.model.embed_tokens.weight
        head_dim = self.model.model.layers[0].self_attn.head_dim
        row = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * length * weight.element_size()
        if row > self.cache_bytes:
            raise ValueError(
                f"one row of {length} tokens needs {row:.3g} bytes of cache; the budget is {self.cache_bytes:.3g}"
            )
        return int(self.cache_bytes // row)

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
        on_finish: Callable[[int], None] | None = None,
    ) -> list[list[Sample]]:
        """`samples` responses for every prompt.

        Args:
            prompts: token ids, none empty.
            max_new_tokens: a response that reaches it without a stop token is cut there.
            stop_ids: each ends a response.
            seeds: one per prompt (default: its index); sample j of a prompt derives its own from it.
            on_finish: called with the number of responses that have just ended (for a progress bar).

        Returns:
            For each prompt, in order, its list of samples.

        Raises:
            ValueError: no prompt or an empty one, a prompt that with its response exceeds the model's context, a stop
                id outside the vocabulary, a bad temperature or top_p, a cache budget too small for one row, or logits
                that are not finite.
        """
        self._check(prompts, samples, max_new_tokens, stop_ids)
        seeds = range(len(prompts)) if seeds is None else seeds
        length = max(map(len, prompts)) + max_new_tokens
        total = len(prompts) * samples  # rows to be sampled: row r is sample r % samples of prompt r // samples
        batch = _Batch(self.model, min(total, self.cache_rows(length)), length, max_new_tokens, stop_ids)

        results: list[Sample | None] = [None] * total
        waiting = 0  # the next row to be admitted
        while waiting < total or batch.active:
            free = batch.rows - batch.active
            # Wait until some places are free: one larger prefill is cheaper than many small ones.
            if waiting < total and (free >= max(1, batch.rows // 8) or free >= total - waiting):
                admitted = range(waiting, min(waiting + free, total))
                row_seeds = [(seeds[row // samples] * 1_000_003 + row % samples) & 0xFFFFFFFF for row in admitted]
                logits = batch.prefill(admitted, [prompts[row // samples] for row in admitted], row_seeds)
                waiting += len(admitted)
            else:
                logits = batch.decode()
            finished = batch.append(*sample_top_p(logits, *batch.randomness(logits), temperature, top_p))
            for row, sample in finished:
                results[row] = sample
            if finished and on_finish:
                on_finish(len(finished))
        return [results[start : start + samples] for start in range(0, total, samples)]

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


class _Batch:
    """The rows being sampled: active ones in places 0 .. active-1 of the cache; state per place, on the device."""

    def __init__(self, model: nn.Module, rows: int, length: int, max_new_tokens: int, stop_ids: Sequence[int]):
        config, weight = model.config, model.model.embed_tokens.weight
        self.model, self.rows, self.active, self.max_new_tokens = model, rows, 0, max_new_tokens
        self.rope = rope_tables(model, length)
        head_dim = model.model.layers[0].self_attn.head_dim
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, length, head_dim)
        self.cache = KVCache(weight.new_zeros(shape), weight.new_zeros(shape))  # masked places must be finite
        integers = {"dtype": torch.int64, "device": weight.device}
        self.stop_ids = torch.tensor(list(stop_ids), **integers)
        self.row_ids = torch.zeros(rows, **integers)  # which row stands here
        self.seeds = torch.zeros(rows, **integers)
        self.lengths = torch.zeros(rows, **integers)  # tokens in the cache
        self.counts = torch.zeros(rows, **integers)  # tokens sampled so far
        self.tokens = torch.zeros(rows, max_new_tokens, **integers)
        self.logprobs = torch.zeros(rows, max_new_tokens, device=weight.device)
        self.cached: list[int] = []  # `lengths` of the active places once more, known without asking the device
        self.fresh = slice(0, 0)  # the places whose logits are at hand

    def prefill(self, row_ids: Sequence[int], prompts: list[list[int]], seeds: list[int]) -> Tensor:
        """Admit rows behind the active ones: run every distinct prompt once, share its cache. Logits (rows, V)."""
        device = self.lengths.device
        distinct = {id(prompt): prompt for prompt in prompts}
        index = {key: number for number, key in enumerate(distinct)}
        lengths = torch.tensor([len(prompt) for prompt in distinct.values()], device=device)
        longest = int(lengths.max())
        padded = torch.tensor([p + [0] * (longest - len(p)) for p in distinct.values()], device=device)  # (P, T)
        source = torch.tensor([index[id(prompt)] for prompt in prompts], device=device)  # (rows,)
        places = slice(self.active, self.active + len(prompts))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # Padding stands on the right, where the causal mask hides it from every real token.
            self.cache.keys[layer, places, :, :longest] = k[source]
            self.cache.values[layer, places, :, :longest] = v[source]
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        positions = torch.arange(longest, device=device).expand_as(padded)
        hidden = decoder(self.model, padded, positions, self.rope, attend)
        last = hidden[torch.arange(len(lengths), device=device), lengths - 1]  # (P, D)
        self.row_ids[places] = torch.tensor(list(row_ids), device=device)
        self.seeds[places] = torch.tensor(seeds, device=device)
        self.lengths[places] = lengths[source]
        self.counts[places] = 0
        self.cached += [len(prompt) for prompt in prompts]
        self.active += len(prompts)
        self.fresh = places
        return linear(last, self.model.lm_head)[source]

    def decode(self) -> Tensor:
        """One step for the active rows: their last token goes into the cache. Logits (active, V)."""
        active, layers = slice(0, self.active), torch.arange(self.active, device=self.lengths.device)
        positions = self.lengths[active]  # (B,)
        tokens = self.tokens[layers, self.counts[active] - 1]
        self.cached = [length + 1 for length in self.cached]
        longest = max(self.cached)
        window = slice(0, longest)
        mask = (torch.arange(longest, device=positions.device) <= positions[:, None])[:, None, None]  # (B, 1, 1, S)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            keys[layers, :, positions] = k[:, :, 0]
            values[layers, :, positions] = v[:, :, 0]
            # The query heads that share a key head stand in for the query length: (B, kv_heads, heads / kv_heads,
            # head_dim).
            grouped = q.reshape(len(layers), k.shape[1], -1, q.shape[-1])
            out = F.scaled_dot_product_attention(
                grouped, keys[active, :, window], values[active, :, window], attn_mask=mask
            )
            return out.reshape(q.shape)

        hidden = decoder(self.model, tokens[:, None], positions[:, None], self.rope, attend)
        self.lengths[active] += 1
        self.fresh = active
        return linear(hidden[:, 0], self.model.lm_head)

    def randomness(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Seeds and steps of the rows whose logits are at hand, (B,) each."""
        return self.seeds[self.fresh], self.counts[self.fresh]

    def append(self, tokens: Tensor, logprobs: Tensor) -> list[tuple[int, Sample]]:
        """Take the fresh rows' sampled tokens (B,); release the finished rows and return them with their ids."""
        fresh = self.fresh
        places = torch.arange(fresh.start, fresh.stop, device=tokens.device)
        self.tokens[places, self.counts[fresh]] = tokens
        self.logprobs[places, self.counts[fresh]] = logprobs
        self.counts[fresh] += 1
        stopped = torch.isin(tokens, self.stop_ids)
        done = stopped | (self.counts[fresh] == self.max_new_tokens)
        # The one transfer of a step: what each row did, as one small vector (2: no proper distribution).
        status = torch.where(tokens < 0, 2, done.long()).tolist()
        if 2 in status:
            raise ValueError("the policy's logits are not finite: there is no distribution to sample from")
        finished = [fresh.start + place for place, state in enumerate(status) if state]
        return self._release(finished) if finished else []

    def _release(self, places: list[int]) -> list[tuple[int, Sample]]:
        """Read out the finished rows and close the gaps: rows from the end move into the freed places."""
        index = torch.tensor(places, device=self.lengths.device)
        counts = self.counts[index].tolist()
        tokens, logprobs = self.tokens[index].tolist(), self.logprobs[index].tolist()
        stops = torch.isin(self.tokens[index, self.counts[index] - 1], self.stop_ids).tolist()
        samples = [
            (row, Sample(t[:n], lp[:n], t[n - 1] if stop else None))
            for row, t, lp, n, stop in zip(self.row_ids[index].tolist(), tokens, logprobs, counts, stops)
        ]
        remaining = self.active - len(places)
        gone = set(places)
        targets = [place for place in places if place < remaining]
        sources = [place for place in range(remaining, self.active) if place not in gone]
        longest = max(self.cached)
        for target, source in zip(targets, sources):
            self.cached[target] = self.cached[source]
        self.cached = self.cached[:remaining]
        if sources:
            to, of = torch.tensor(targets, device=index.device), torch.tensor(sources, device=index.device)
            for state in (self.row_ids, self.seeds, self.lengths, self.counts, self.tokens, self.logprobs):
                state[to] = state[of]
            for state in (self.cache.keys, self.cache.values):
                state[:, to, :, :longest] = state[:, of, :, :longest]
        self.active = remaining
        return samples

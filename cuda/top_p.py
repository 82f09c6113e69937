"""Top-p (nucleus) sampling without sorting: a Triton kernel for GPUs and a torch path of the same semantics.

The nucleus of a row is the smallest set of most likely tokens whose probability reaches p. A token belongs to it
exactly when the probability mass *strictly above* it (of all tokens with a larger logit) is below p. That test needs
one sum over the row and no sorted order, so a token can be drawn by rejection:

    1. one pass: the row's maximum and the normaliser of its softmax;
    2. draw a candidate from the distribution by its inverse CDF (walk over tiles, then inside one tile);
    3. one pass: the mass strictly above the candidate. Below p: accept. Otherwise the candidate lies outside the
       nucleus, and so does everything at or below its value: draw again among what is above it.

It is exact. Every draw is made from a set that contains the whole nucleus, in proportion to the probabilities, and a
draw is kept only if it lies in the nucleus. The first draw is accepted with probability >= p. Equal logits are all in
or all out.

Randomness is counter based: a number is a hash of (seed, step, draw), so a row's token depends on the row alone,
never on the rest of the batch, and a restart repeats it. Both paths use the same hash.

Both return the sampled token and its log-probability under the *untruncated* temperature-scaled distribution: the one
that the policy gradient needs. A row without a proper distribution (a NaN, +inf, or nothing but -inf) gets the token
-1.

This is a tool: it imports no stage. The folder has no `__init__.py`, because NVIDIA's `cuda.bindings` is a namespace
package of the same name and a regular package called `cuda` would hide it from PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings no Triton: the torch path serves
    triton = None

TILE = 64  # torch path: tokens per tile of the two-level inverse CDF
BLOCK = 4096  # kernel: tokens per tile; with 8 warps this fits in registers, 16384 spills

# The constants of the 32-bit hash; the Triton kernel has to see them as constexpr.
GOLDEN, MIX_A, MIX_B, DRAW_MIX = 0x9E3779B9, 0x7FEB352D, 0x846CA68B, 0x85EBCA6B


def sample_top_p(
    logits: Tensor, seeds: Tensor, steps: Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sample one token per row from the nucleus of softmax(logits / temperature).

    Args:
        logits: (B, V), bfloat16 or float32; -inf forbids a token.
        seeds, steps: (B,) int64; a row's randomness is a function of its seed and step alone.
        temperature: >= 0; 0 takes the most likely token (and reports its log-probability at temperature 1).
        top_p: in (0, 1]; 1 samples from the full distribution.

    Returns:
        tokens (B,) int64, -1 for a row without a proper distribution; logprobs (B,) float32, of the untruncated
        distribution.

    Raises:
        ValueError: top_p or temperature out of range.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be in (0, 1]")
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
    if temperature == 0:
        return _greedy(logits.float())
    if logits.is_cuda and triton is not None:
        return sample_triton(logits, seeds, steps, temperature, top_p)
    return sample_torch(logits, seeds, steps, temperature, top_p)


def _greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    peak, tokens = logits.max(-1)  # (B,)
    logprobs = peak - logits.logsumexp(-1)
    return torch.where(logprobs.isnan(), -1, tokens), logprobs


# --------------------------------------------------------------------------------------------- counter-based randomness


def _mix(x: Tensor) -> Tensor:
    """A bijective 32-bit hash of int64 values in [0, 2**32); products wrap, and the mask keeps their low 32 bits."""
    x = ((x ^ (x >> 16)) * MIX_A) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * MIX_B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniform(seeds: Tensor, steps: Tensor, draw: int) -> Tensor:
    """Uniform float32 numbers in [0, 1), (B,): the hash of each row's (seed, step, draw), with 24 random bits."""
    bits = _mix((seeds + GOLDEN) & 0xFFFFFFFF)  # the hash maps 0 to 0: seed 0 must not draw 0 at step 0
    bits = _mix((bits + steps * GOLDEN) & 0xFFFFFFFF)
    bits = _mix((bits + draw * DRAW_MIX) & 0xFFFFFFFF)
    return (bits >> 8).float() * 2.0**-24


# ------------------------------------------------------------------------------------------------------- the torch path


def sample_torch(
    logits: Tensor, seeds: Tensor, steps: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """`sample_top_p` in plain torch operations, for any device. Shapes and meaning as there."""
    rows, vocabulary = logits.shape
    scaled = logits.float() / temperature
    peak = scaled.amax(-1, keepdim=True)
    weights = (scaled - peak).exp_()  # (B, V), unnormalised probabilities
    weights = F.pad(weights, (0, -vocabulary % TILE)).view(rows, -1, TILE)  # (B, V / TILE, TILE)
    tile_cdf = weights.sum(-1).cumsum(-1)  # (B, V / TILE)
    total = tile_cdf[:, -1].clone()  # (B,)

    tokens = torch.full((rows,), -1, dtype=torch.int64, device=logits.device)
    proper = total.isfinite() & (total > 0)
    pending = proper.nonzero()[:, 0]  # the rows still to be drawn
    weights, tile_cdf = (weights, tile_cdf) if len(pending) == rows else (weights[pending], tile_cdf[pending])
    draw = 0
    while len(pending):
        candidate = _inverse_cdf(weights, tile_cdf, uniform(seeds[pending], steps[pending], draw))
        tokens[pending] = candidate
        if top_p == 1:
            break
        flat = weights.flatten(1)
        weights = torch.where(flat > flat.gather(1, candidate[:, None]), flat, 0).view_as(weights)  # strictly above
        tile_cdf = weights.sum(-1).cumsum(-1)
        above = tile_cdf[:, -1]  # nothing is above the most likely token, however small p
        rejected = ((above > 0) & (above >= top_p * total[pending])).nonzero()[:, 0]
        pending, weights, tile_cdf = pending[rejected], weights[rejected], tile_cdf[rejected]
        draw += 1

    picked = scaled.gather(1, tokens.clamp(min=0)[:, None]) - peak
    logprobs = torch.where(proper, picked[:, 0] - total.log(), torch.nan)
    return tokens, logprobs


def _inverse_cdf(weights: Tensor, tile_cdf: Tensor, u: Tensor) -> Tensor:
    """Token indices (N,) at the quantiles u (N,) of weights (N, tiles, TILE) with the tiles' cumulative sums."""
    target = (u * tile_cdf[:, -1])[:, None]  # (N, 1)
    tile = torch.searchsorted(tile_cdf, target, right=True).clamp_(max=tile_cdf.shape[1] - 1)  # first CDF beyond target
    target = target - torch.where(tile > 0, tile_cdf.gather(1, (tile - 1).clamp(min=0)), 0)
    inside = weights.gather(1, tile[:, :, None].expand(-1, -1, TILE))[:, 0]  # (N, TILE)
    before = inside.cumsum(-1) - inside
    # The last token of positive weight that begins at or before the target: rounding can never pick a forbidden one.
    offset = torch.where((before <= target) & (inside > 0), torch.arange(TILE, device=u.device), -1).amax(-1)
    first = (inside > 0).int().argmax(-1)  # if rounding put the target before the tile's first token
    return tile[:, 0] * TILE + torch.where(offset >= 0, offset, first)


# ---------------------------------------------------------------------------------------------------- the Triton kernel

if triton is not None:

    @triton.jit
    def _mix_kernel(x):
        """`_mix` on uint32, whose products wrap by themselves."""
        x = (x ^ (x >> 16)) * 0x7FEB352D
        x = (x ^ (x >> 15)) * 0x846CA68B
        return x ^ (x >> 16)

    @triton.jit
    def _load_tile(row_ptr, tile, inv_temperature, vocabulary, BLOCK: tl.constexpr):
        """One tile of a row's scaled logits, in float32; places beyond the vocabulary hold -inf."""
        columns = tile * BLOCK + tl.arange(0, BLOCK)
        return (
            tl.load(row_ptr + columns, mask=columns < vocabulary, other=float("-inf")).to(tl.float32) * inv_temperature
        )

    @triton.jit
    def _top_p_kernel(
        logits_ptr,  # (B, V)
        seeds_ptr,  # (B,) int64
        steps_ptr,  # (B,) int64
        tokens_ptr,  # (B,) int64, out
        logprobs_ptr,  # (B,) float32, out
        row_stride,
        vocabulary,
        inv_temperature,
        top_p,
        TILES: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """One program samples one row: it walks over the row's tiles, which it never holds all at once."""
        row = tl.program_id(0).to(tl.int64)
        row_ptr = logits_ptr + row * row_stride

        # Pass 1, maximum and normaliser together: when a tile raises the maximum, the sum so far is rescaled to it.
        peak = float("-inf")
        total = 0.0
        for tile in range(TILES):
            x = _load_tile(row_ptr, tile, inv_temperature, vocabulary, BLOCK)
            new_peak = tl.maximum(peak, tl.max(x, 0))  # a NaN shows in the sum, whatever the maximum makes of it
            shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)  # a tile of -inf only: exp(-inf - 0) = 0
            total = total * tl.exp(peak - shift) + tl.sum(tl.exp(x - shift), 0)
            peak = new_peak

        token = tl.full((), -1, tl.int64)
        logprob = float("nan")
        proper = (total > 0) & (total < float("inf"))  # false for NaN
        bits = _mix_kernel(tl.load(seeds_ptr + row).to(tl.uint32) + 0x9E3779B9)
        bits = _mix_kernel(bits + tl.load(steps_ptr + row).to(tl.uint32) * 0x9E3779B9)

        floor = float("-inf")  # only values above the floor are drawn from
        mass = total  # their weight
        draw = tl.full((), 0, tl.uint32)
        while proper:
            u = (_mix_kernel(bits + draw * 0x85EBCA6B) >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24
            target = u * mass

            # The candidate: the last token of positive weight whose cumulative weight begins at or before the target.
            begin = 0.0  # cumulative weight before this tile
            value = float("-inf")
            for tile in range(TILES):
                x = _load_tile(row_ptr, tile, inv_temperature, vocabulary, BLOCK)
                w = tl.where(x > floor, tl.exp(x - peak), 0.0)
                weight = tl.sum(w, 0)
                if (weight > 0) & (begin <= target):
                    columns = tl.arange(0, BLOCK)
                    before = begin + tl.cumsum(w, 0) - w
                    hit = tl.max(tl.where((w > 0) & (before <= target), columns, -1), 0)
                    hit = tl.where(hit >= 0, hit, tl.min(tl.where(w > 0, columns, BLOCK), 0))
                    token = tile * BLOCK + hit.to(tl.int64)
                    value = tl.max(tl.where(columns == hit, x, float("-inf")), 0)
                begin += weight

            # The mass strictly above the candidate decides: inside the nucleus or not.
            above = 0.0
            if top_p < 1:
                for tile in range(TILES):
                    x = _load_tile(row_ptr, tile, inv_temperature, vocabulary, BLOCK)
                    above += tl.sum(tl.where(x > value, tl.exp(x - peak), 0.0), 0)
            logprob = value - peak - tl.log(total)
            proper = (above > 0) & (above >= top_p * total)  # rejected: go round again, above the candidate
            floor = value
            mass = above
            draw += 1

        tl.store(tokens_ptr + row, token)
        tl.store(logprobs_ptr + row, logprob)


def sample_triton(
    logits: Tensor, seeds: Tensor, steps: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """`sample_top_p` by the Triton kernel (on the CPU with TRITON_INTERPRET=1). Shapes and meaning as there."""
    rows, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    _top_p_kernel[(rows,)](
        logits,
        seeds,
        steps,
        tokens,
        logprobs,
        logits.stride(0),
        vocabulary,
        1.0 / temperature,
        top_p,
        TILES=triton.cdiv(vocabulary, block),
        BLOCK=block,
        num_warps=8,
    )
    return tokens, logprobs

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

The folder has no `__init__.py`, because NVIDIA's `cuda.bindings` is a namespace
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
CHUNK = 2**20  # torch path: logits worked on at once; what is computed from them stays in the processor's cache
BLOCK = 4096  # kernel: tokens per tile; with 8 warps this fits in registers, 16384 spills
SPLIT_BELOW = 64  # kernel: with fewer rows than this, each is split over several programs

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
    rows = max(1, CHUNK // logits.shape[1])
    parts = [
        _sample_chunk(*part, temperature, top_p)
        for part in zip(logits.split(rows), seeds.split(rows), steps.split(rows))
    ]
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([logprobs for _, logprobs in parts])


def _sample_chunk(
    logits: Tensor, seeds: Tensor, steps: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    rows, vocabulary = logits.shape
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    probabilities = scaled.softmax(-1)  # (B, V); a row without a proper distribution is all NaN
    weights = F.pad(probabilities, (0, -vocabulary % TILE)) if vocabulary % TILE else probabilities
    weights = weights.view(rows, -1, TILE)  # (B, V / TILE, TILE)
    tile_cdf = weights.sum(-1).cumsum(-1)  # (B, V / TILE)
    total = tile_cdf[:, -1]  # (B,) 1, but for rounding

    tokens = torch.full((rows,), -1, dtype=torch.int64, device=logits.device)
    pending = (total > 0).nonzero()[:, 0]  # the rows still to be drawn
    weights, tile_cdf = (weights, tile_cdf) if len(pending) == rows else (weights[pending], tile_cdf[pending])
    draw = 0
    while len(pending):
        candidate = _inverse_cdf(weights, tile_cdf, uniform(seeds[pending], steps[pending], draw))
        tokens[pending] = candidate
        if top_p == 1:
            break
        flat = weights.flatten(1)
        above = torch.empty_like(flat)  # 1.0 for what is strictly above the candidate; a bool tensor is 4 times slower
        torch.gt(flat, flat.gather(1, candidate[:, None]), out=above)
        weights = above.mul_(flat).view_as(weights)
        tile_cdf = weights.sum(-1).cumsum(-1)
        mass = tile_cdf[:, -1]  # nothing is above the most likely token, however small p
        rejected = ((mass > 0) & (mass >= top_p * total[pending])).nonzero()[:, 0]
        pending, weights, tile_cdf = pending[rejected], weights[rejected], tile_cdf[rejected]
        draw += 1
    return tokens, probabilities.gather(1, tokens.clamp(min=0)[:, None])[:, 0].log()


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

# Triton in six sentences. A kernel is launched as a grid of *programs*, each known by its `program_id`; the GPU runs
# many of them at once, in no order. Inside a program a value is a scalar or a whole block (its size a power of two),
# and an operation on a block is spread over the program's threads. `tl.load(pointer + tl.arange(0, N))` reads N
# neighbours; `mask` says which of them exist. `tl.sum(x, 0)` and `tl.cumsum(x, 0)` work across a block. Arguments
# marked `tl.constexpr` are compiled in. A block must fit into registers, so a row of 151,936 logits is worked off in
# tiles.
#
# What is known of a row is kept by tile: the tile's maximum, and the weight of what counts in it (relative to that
# maximum, so that nothing overflows). Drawing a token then reads one tile of the row, not all: the tiles' weights say
# which. Passes over the row: one for the first weights, one for the mass above each candidate.
#
# With many rows, one program a row keeps the GPU busy (`_row_kernel` alone). With few rows it would stand idle, so the
# two passes that every row needs are split: one program a tile (`_tile_kernel`), which leaves its result in memory.

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
        x = tl.load(row_ptr + columns, mask=columns < vocabulary, other=float("-inf"))
        return x.to(tl.float32) * inv_temperature

    @triton.jit
    def _weigh(x, floor, peak):
        """exp(x - peak) of what is above the floor, 0 for the rest. Written so that a NaN is not "the rest"."""
        return tl.where(x <= floor, 0.0, tl.exp(x - tl.where(peak == float("-inf"), 0.0, peak)))

    @triton.jit
    def _all_tiles(row_ptr, floor, inv_temperature, vocabulary, TILES: tl.constexpr, BLOCK: tl.constexpr):
        """One pass over a row: every tile's maximum, and its weight above the floor relative to that. Blocks of TILES,
        rounded up to a power of two."""
        index = tl.arange(0, triton.next_power_of_2(TILES))
        peaks = tl.full(index.shape, float("-inf"), tl.float32)
        weights = tl.full(index.shape, 0.0, tl.float32)
        for tile in tl.range(0, TILES, num_stages=3):  # the next tiles' loads are under way while this one is summed
            x = _load_tile(row_ptr, tile, inv_temperature, vocabulary, BLOCK)
            peak = tl.max(x, 0)
            peaks = tl.where(index == tile, peak, peaks)
            weights = tl.where(index == tile, tl.sum(_weigh(x, floor, peak), 0), weights)
        return peaks, weights

    @triton.jit
    def _draw(row_ptr, u, floor, peaks, weights, scales, inv_temperature, vocabulary, BLOCK: tl.constexpr):
        """The token above the floor at quantile u, and its scaled logit: first the tile, then inside the tile.

        `scales` turn weights relative to a tile's maximum into weights relative to the row's. Rounding must not pick a
        token without weight, so both steps look for the last one *of positive weight* that begins at or before u.
        """
        tile_weights = weights * scales
        begins = tl.cumsum(tile_weights, 0) - tile_weights
        target = u * tl.sum(tile_weights, 0)
        index = tl.arange(0, peaks.shape[0])
        tile = tl.max(tl.where((tile_weights > 0) & (begins <= target), index, 0), 0)
        chosen = index == tile
        peak = tl.max(tl.where(chosen, peaks, float("-inf")), 0)
        target = (target - tl.sum(tl.where(chosen, begins, 0.0), 0)) / tl.sum(tl.where(chosen, scales, 0.0), 0)

        x = _load_tile(row_ptr, tile, inv_temperature, vocabulary, BLOCK)
        w = _weigh(x, floor, peak)
        columns = tl.arange(0, BLOCK)
        hit = tl.max(tl.where((w > 0) & (tl.cumsum(w, 0) - w <= target), columns, -1), 0)
        hit = tl.where(hit >= 0, hit, tl.min(tl.where(w > 0, columns, BLOCK - 1), 0))
        return tile * BLOCK + hit, tl.max(tl.where(columns == hit, x, float("-inf")), 0)

    @triton.jit
    def _tile_kernel(
        logits_ptr,  # (B, V)
        floors_ptr,  # (B,) float32: only what is above counts; ignored if FIRST
        peaks_ptr,  # (B, TILES) float32, out
        weights_ptr,  # (B, TILES) float32, out
        row_stride,
        vocabulary,
        inv_temperature,
        FIRST: tl.constexpr,
        TILES: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """One program is one tile of one row, grid (B, TILES): the body of `_all_tiles`' loop."""
        row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
        x = _load_tile(logits_ptr + row * row_stride, tile, inv_temperature, vocabulary, BLOCK)
        peak = tl.max(x, 0)
        floor = float("-inf") if FIRST else tl.load(floors_ptr + row)
        tl.store(peaks_ptr + row * TILES + tile, peak)
        tl.store(weights_ptr + row * TILES + tile, tl.sum(_weigh(x, floor, peak), 0))

    @triton.jit
    def _row_kernel(
        logits_ptr,  # (B, V)
        seeds_ptr,  # (B,) int64
        steps_ptr,  # (B,) int64
        tokens_ptr,  # (B,) int64, out
        logprobs_ptr,  # (B,) float32, out
        values_ptr,  # (B,) float32, out: the first candidate's scaled logit, for `_tile_kernel`
        peaks_ptr,  # (B, TILES) float32 \
        weights_ptr,  # (B, TILES) float32 } what `_tile_kernel` found, in a split row
        aboves_ptr,  # (B, TILES) float32 /
        row_stride,
        vocabulary,
        inv_temperature,
        top_p,
        TRUNCATED: tl.constexpr,  # top_p < 1
        SPLIT: tl.constexpr,  # 0: this program does everything; 1: it draws the first candidate; 2: it judges it
        TILES: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """One program samples one row, grid (B,). It walks over the row's tiles, which it never holds all at once."""
        row = tl.program_id(0).to(tl.int64)
        row_ptr = logits_ptr + row * row_stride
        index = tl.arange(0, triton.next_power_of_2(TILES))
        mine = row * TILES + index
        if SPLIT > 0:
            peaks = tl.load(peaks_ptr + mine, mask=index < TILES, other=float("-inf"))
            weights = tl.load(weights_ptr + mine, mask=index < TILES, other=0.0)
        else:
            peaks, weights = _all_tiles(row_ptr, float("-inf"), inv_temperature, vocabulary, TILES, BLOCK)
        peak = tl.max(peaks, 0)
        scales = tl.exp(peaks - peak)
        total = tl.sum(weights * scales, 0)
        proper = (total > 0) & (total < float("inf"))  # false for NaN

        bits = _mix_kernel(tl.load(seeds_ptr + row).to(tl.uint32) + 0x9E3779B9)
        bits = _mix_kernel(bits + tl.load(steps_ptr + row).to(tl.uint32) * 0x9E3779B9)
        u = (_mix_kernel(bits) >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24
        token, value = _draw(row_ptr, u, float("-inf"), peaks, weights, scales, inv_temperature, vocabulary, BLOCK)
        if SPLIT == 1 and TRUNCATED:
            tl.store(values_ptr + row, value)
        else:
            if TRUNCATED:
                if SPLIT == 2:
                    weights = tl.load(aboves_ptr + mine, mask=index < TILES, other=0.0)
                else:
                    _, weights = _all_tiles(row_ptr, value, inv_temperature, vocabulary, TILES, BLOCK)
                above = tl.sum(weights * scales, 0)  # the mass strictly above the candidate
                draw = tl.full((), 1, tl.uint32)
                while proper & (above > 0) & (above >= top_p * total):  # outside the nucleus: draw again above it
                    u = (_mix_kernel(bits + draw * 0x85EBCA6B) >> 8).to(tl.float32) * 5.9604644775390625e-08
                    token, value = _draw(row_ptr, u, value, peaks, weights, scales, inv_temperature, vocabulary, BLOCK)
                    _, weights = _all_tiles(row_ptr, value, inv_temperature, vocabulary, TILES, BLOCK)
                    above = tl.sum(weights * scales, 0)
                    draw += 1
            tl.store(tokens_ptr + row, tl.where(proper, token, -1).to(tl.int64))
            tl.store(logprobs_ptr + row, tl.where(proper, value - peak - tl.log(total), float("nan")))


def sample_triton(
    logits: Tensor, seeds: Tensor, steps: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """`sample_top_p` by the Triton kernels (on the CPU with TRITON_INTERPRET=1). Shapes and meaning as there."""
    rows, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    block = min(BLOCK, triton.next_power_of_2(vocabulary))
    tiles = triton.cdiv(vocabulary, block)
    split, truncated = rows < SPLIT_BELOW, top_p < 1
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs, values = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    peaks, weights, aboves = torch.empty(3, rows, tiles if split else 0, dtype=torch.float32, device=logits.device)
    shape = (logits.stride(0), vocabulary, 1.0 / temperature)
    sizes = {"TILES": tiles, "BLOCK": block, "num_warps": 8}

    def tile_pass(weights: Tensor, first: bool) -> None:
        _tile_kernel[(rows, tiles)](logits, values, peaks, weights, *shape, FIRST=first, **sizes)

    def row_pass(split: int) -> None:
        arguments = (logits, seeds, steps, tokens, logprobs, values, peaks, weights, aboves, *shape, top_p)
        _row_kernel[(rows,)](*arguments, TRUNCATED=truncated, SPLIT=split, **sizes)

    if split:
        tile_pass(weights, first=True)
        row_pass(split=1)
        if truncated:
            tile_pass(aboves, first=False)
            row_pass(split=2)
    else:
        row_pass(split=0)
    return tokens, logprobs

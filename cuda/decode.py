"""What a decoding step does between its matrix products: Triton kernels for GPUs.

A step moves one token per row through the model. On a GPU its time is reading weights and keys and values; everything
else is so little work that launching it takes longer than doing it. In plain torch operations a layer needs 57
launches, with these kernels 11, seven of them products with the weights; 8, where the sampler joins the weights of
those that read the same input:

    add_norm   the sum of two vectors and its norm, on one row that fits into registers: one program a row
    rms_norm   the norm alone, before the first layer, and of Qwen3's queries and keys
    swiglu     two operations, element by element: one program a block of elements
    attend     everything about attention: rotate the new query and key, store key and value in the cache, and one pass
               over the row's prompt and its response so far, exactly as far as each row has come

`attend` also makes a step's shape independent of how long prompts and responses are: a CUDA graph of it can be replayed
at any point of any text (see `cuda/recorded.py`). Elsewhere torch operations do the same: those of norm and activation
are here, those of attention in rollout.py.

How Triton reads is told in `cuda/top_p.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings no Triton: torch operations serve
    triton = None

ELEMENTS = 1024  # swiglu: elements a program
BLOCK = 64  # attend: keys a tile


if triton is not None:

    @triton.jit
    def _norm_kernel(
        x_ptr, y_ptr, weight_ptr, sum_ptr, out_ptr, eps, ADD: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
    ):
        """One program is one row, grid (rows,). `y_ptr` and `sum_ptr` are used if ADD."""
        columns = tl.arange(0, BLOCK)
        inside = columns < WIDTH
        offsets = tl.program_id(0).to(tl.int64) * WIDTH + columns
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            x += tl.load(y_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
            x = x.to(out_ptr.dtype.element_ty)  # rounded, as the next sum reads it
            tl.store(sum_ptr + offsets, x, mask=inside)
            x = x.to(tl.float32)
        x *= tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)
        x = x.to(out_ptr.dtype.element_ty).to(tl.float32)  # the Hugging Face modules round here
        weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + offsets, (x * weight).to(out_ptr.dtype.element_ty), mask=inside)

    @triton.jit
    def _swiglu_kernel(gate_ptr, up_ptr, out_ptr, number, stride, WIDTH: tl.constexpr, ELEMENTS: tl.constexpr):
        """One program is a block of elements, grid (blocks,). Rows of WIDTH, in the inputs `stride` from each other."""
        offsets = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
        inside = offsets < number
        place = offsets // WIDTH * stride + offsets % WIDTH
        gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(up_ptr + place, mask=inside, other=0.0).to(tl.float32)
        activated = (gate * tl.sigmoid(gate)).to(out_ptr.dtype.element_ty).to(tl.float32)
        tl.store(out_ptr + offsets, (activated * up).to(out_ptr.dtype.element_ty), mask=inside)

    @triton.jit
    def _load_rotated(x_ptr, cos, sin, d, inside, HEAD_DIM: tl.constexpr):
        """Vectors of a head, turned to their position: element d is paired with the one half a head away."""
        x = tl.load(x_ptr + d, mask=inside, other=0.0).to(tl.float32)
        partner = tl.load(x_ptr + (d + HEAD_DIM // 2) % HEAD_DIM, mask=inside, other=0.0).to(tl.float32)
        return x * cos + tl.where(d < HEAD_DIM // 2, -partner, partner) * sin

    @triton.jit
    def _visit(
        q, peak, total, out, keys_ptr, values_ptr, length, scale, d, inside, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr
    ):
        """One pass over `length` keys and values, tile by tile, which all queries q (G, D) of the program share.

        peak, total (G,) and out (G, D) are a softmax under way: the largest score so far, and relative to it the sum of
        the weights and of the weighted values. A larger score scales down what came before.
        """
        for start in range(0, length, BLOCK):
            n = start + tl.arange(0, BLOCK)
            there = n < length
            mask = there[:, None] & inside[None, :]
            keys = tl.load(keys_ptr + n[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0)  # (BLOCK, D)
            scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale  # (G, BLOCK), float32
            scores = tl.where(there[None, :], scores, float("-inf"))
            new_peak = tl.maximum(peak, tl.max(scores, 1))
            weights = tl.exp(scores - new_peak[:, None])
            shrink = tl.exp(peak - new_peak)
            values = tl.load(values_ptr + n[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0)  # (BLOCK, D)
            total = total * shrink + tl.sum(weights, 1)
            out = out * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
            peak = new_peak
        return peak, total, out

    @triton.jit
    def _attention_kernel(
        q_ptr,  # (B, KV * GROUP, HEAD_DIM), its rows q_stride from each other
        k_ptr,  # (B, KV, HEAD_DIM), k_stride
        v_ptr,  # (B, KV, HEAD_DIM), v_stride
        cos_ptr,  # (positions, HEAD_DIM)
        sin_ptr,  # (positions, HEAD_DIM)
        prompt_keys_ptr,  # (slots, KV, prompt_room, HEAD_DIM)
        prompt_values_ptr,  # the same
        keys_ptr,  # (rows, KV, response_room, HEAD_DIM)
        values_ptr,  # the same
        slots_ptr,  # (B,) int64
        lengths_ptr,  # (B,) int64
        sampled_ptr,  # (B,) int64
        out_ptr,  # (B, KV * GROUP, HEAD_DIM)
        q_stride,
        k_stride,
        v_stride,
        prompt_room,
        response_room,
        scale,
        GROUP: tl.constexpr,  # query heads to a key head
        HEAD_DIM: tl.constexpr,
        BLOCK_G: tl.constexpr,  # GROUP and HEAD_DIM rounded up to powers of two, at least the 16 of a matrix product
        BLOCK_D: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        """One program is one key head of one row with the query heads that share it, grid (B, KV)."""
        row, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
        length = tl.load(lengths_ptr + row).to(tl.int32)
        sampled = tl.load(sampled_ptr + row).to(tl.int32)
        slot = tl.load(slots_ptr + row)
        g, d = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
        inside = d < HEAD_DIM
        position = (length + sampled) * HEAD_DIM + d
        cos = tl.load(cos_ptr + position, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + position, mask=inside, other=0.0).to(tl.float32)

        queries = (head * GROUP + g)[:, None] * HEAD_DIM  # (G, 1), within the row
        real = (g < GROUP)[:, None] & inside[None, :]
        q = _load_rotated(q_ptr + row * q_stride + queries, cos[None, :], sin[None, :], d[None, :], real, HEAD_DIM)
        k = _load_rotated(k_ptr + row * k_stride + head * HEAD_DIM, cos, sin, d, inside, HEAD_DIM)  # (D,)
        v = tl.load(v_ptr + row * v_stride + head * HEAD_DIM + d, mask=inside, other=0.0)
        q, k = q.to(v.dtype), k.to(v.dtype)  # (G, D), (D,)
        own = (row * heads + head) * response_room * HEAD_DIM  # where the row's cache begins
        tl.store(keys_ptr + own + sampled * HEAD_DIM + d, k, mask=inside)
        tl.store(values_ptr + own + sampled * HEAD_DIM + d, v, mask=inside)

        # The new token sees itself; with that the softmax begins.
        peak = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], 1) * scale  # (G,)
        total = tl.full((BLOCK_G,), 1.0, tl.float32)
        out = tl.zeros((BLOCK_G, BLOCK_D), tl.float32) + v.to(tl.float32)[None, :]
        shared = (slot * heads + head) * prompt_room * HEAD_DIM
        peak, total, out = _visit(
            q, peak, total, out, prompt_keys_ptr + shared, prompt_values_ptr + shared, length, scale, d, inside,
            HEAD_DIM, BLOCK,
        )  # fmt: skip
        peak, total, out = _visit(
            q, peak, total, out, keys_ptr + own, values_ptr + own, sampled, scale, d, inside, HEAD_DIM, BLOCK
        )
        mine = out_ptr + row * heads * GROUP * HEAD_DIM + queries + d[None, :]
        tl.store(mine, (out / total[:, None]).to(v.dtype), mask=real)


def serve(x: Tensor) -> bool:
    """Whether the kernels serve: on a GPU, where there is Triton."""
    return x.is_cuda and triton is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; in float32, as the Hugging Face modules do it."""
    if serve(x):
        return rms_norm_triton(x, weight, eps)
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * x32.to(x.dtype)


def add_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and `rms_norm` of that."""
    if serve(x):
        return add_norm_triton(x, y, weight, eps)
    x = x + y
    return x, rms_norm(x, weight, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of any shape."""
    return swiglu_triton(gate, up) if serve(gate) else F.silu(gate).mul_(up)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` by the kernel."""
    x = x.contiguous()  # queries and keys of joined weights are not
    out = torch.empty_like(x)
    _norm((x, x, weight, x, out), eps, add=False)
    return out


def add_norm_triton(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`add_norm` by the kernel; both contiguous."""
    total, out = torch.empty_like(x), torch.empty_like(x)
    _norm((x, y, weight, total, out), eps, add=True)
    return total, out


def _norm(tensors: tuple[Tensor, ...], eps: float, add: bool) -> None:
    width = tensors[0].shape[-1]
    rows, block = tensors[0].numel() // width, triton.next_power_of_2(width)
    _norm_kernel[(rows,)](*tensors, eps, ADD=add, WIDTH=width, BLOCK=block)


def swiglu_triton(gate: Tensor, up: Tensor) -> Tensor:
    """`swiglu` by the kernel; both contiguous, or the two halves of every row of what is."""
    out, number, width = gate.new_empty(gate.shape), gate.numel(), gate.shape[-1]
    grid, stride = (triton.cdiv(number, ELEMENTS),), gate.stride(-2)
    _swiglu_kernel[grid](gate, up, out, number, stride, WIDTH=width, ELEMENTS=ELEMENTS)
    return out


def attend(
    qkv: tuple[Tensor, Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    prompts: tuple[Tensor, Tensor],
    responses: tuple[Tensor, Tensor],
    slots: Tensor,
    lengths: Tensor,
    sampled: Tensor,
) -> Tensor:
    """Attention of one new token per row; its key and value go into the cache. Within a row all is contiguous.

    Args:
        qkv: not yet rotated, (B, heads, head_dim), (B, kv_heads, head_dim), (B, kv_heads, head_dim); their rows may lie
            apart, as parts of larger ones.
        rope: cosines and sines by position, (positions, head_dim) each.
        prompts: keys and values, (slots, kv_heads, longest prompt, head_dim) each.
        responses: the same of the rows, (rows, kv_heads, longest response, head_dim), rows >= B.
        slots: (B,) int64, which prompt each row continues.
        lengths: (B,) int64, the tokens of that prompt.
        sampled: (B,) int64, the row's tokens already in `responses`, where the new one is put behind them.

    Returns:
        (B, heads, head_dim).
    """
    q, k, v = qkv
    rows, heads, head_dim = q.shape
    group, out = heads // k.shape[1], q.new_empty(q.shape)
    _attention_kernel[(rows, k.shape[1])](
        *qkv, *rope, *prompts, *responses, slots, lengths, sampled, out,
        *(x.stride(0) for x in qkv), prompts[0].shape[2], responses[0].shape[2], head_dim**-0.5,
        GROUP=group, HEAD_DIM=head_dim, BLOCK_G=max(16, triton.next_power_of_2(group)),
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)), BLOCK=BLOCK, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def row_attention(
    prompts: tuple[Tensor, Tensor],
    responses: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    slots: Tensor,
    lengths: Tensor,
    sampled: Tensor,
) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """`attend` for every layer, as a function of a layer's number and its new q, k, v, (B, heads, 1, head_dim) each.

    `prompts` and `responses` are the keys and values of all layers, (layers, ...) each; for the rest see `attend`.
    """

    def attend_layer(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        new = tuple(x[:, :, 0] for x in (q, k, v))
        caches = ((keys[layer], values[layer]) for keys, values in (prompts, responses))
        return attend(new, rope, *caches, slots, lengths, sampled)[:, :, None]

    return attend_layer

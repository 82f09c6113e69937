"""The kernels of a decoding step against their definitions in plain torch operations."""

import interpreted  # noqa: F401
import pytest
import torch
from conftest import python

import cuda.decode as m
from cuda.decode import add_norm_triton, attend, rms_norm_triton, swiglu_triton
from rollout import rotate

needs_triton = pytest.mark.skipif(m.triton is None, reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter knows no matrix products in bfloat16.
DTYPES = [torch.float32, torch.bfloat16] if torch.cuda.is_available() else [torch.float32]
TOLERANCE = {torch.float32: {"atol": 2e-6, "rtol": 2e-6}, torch.bfloat16: {"atol": 0.02, "rtol": 0.02}}


def attend_by_definition(new, rope, prompts, responses, slots, lengths, sampled):
    """`attend` in operations of fixed shapes: scores over all room there is, and a mask."""
    (q, k, v), (cos, sin) = new, (table[lengths + sampled][:, None] for table in rope)
    row = torch.arange(len(q), device=q.device)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    for state, last in zip(responses, (k, v)):
        state[row, :, sampled] = last
    keys, values = (torch.cat((a[slots], b[: len(q)]), 2).float() for a, b in zip(prompts, responses))
    room = [torch.arange(state[0].shape[2], device=q.device) for state in (prompts, responses)]
    seen = torch.cat((room[0] < lengths[:, None], room[1] <= sampled[:, None]), 1)[:, None, None]
    scores = q.unflatten(1, (k.shape[1], -1)).float() @ keys.mT * q.shape[-1] ** -0.5  # (B, KV, group, S)
    weights = scores.where(seen, -torch.inf).softmax(-1)
    return (weights @ values).flatten(1, 2).to(q.dtype)


def norm_by_definition(x, weight, eps):
    return weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_norm_by_definition(x, y, weight, eps):
    return x + y, norm_by_definition(x + y, weight, eps)


def swiglu_by_definition(gate, up):
    return torch.nn.functional.silu(gate) * up


def random(*shape, dtype, generator=torch.Generator().manual_seed(0)):  # noqa: B008
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, prompt_room, response_room",
    [(6, 2, 16, 130, 70), (20, 1, 12, 5, 7), (4, 4, 64, 64, 65), (3, 1, 8, 1, 200)],
)
def test_attention(dtype, heads, kv_heads, head_dim, prompt_room, response_room):
    """Groups and head dimensions that are no power of two; rows at their first and last token and between."""
    rows, slots = 6, 3
    kind = {"dtype": dtype}
    new = random(rows, heads + 2 * kv_heads, head_dim, **kind).split((heads, kv_heads, kv_heads), 1)  # parts of rows
    angles = torch.outer(torch.arange(prompt_room + response_room), 100.0 ** -torch.arange(0, 1, 2 / head_dim))
    rope = [f(torch.cat((angles, angles), 1)).to(DEVICE, dtype) for f in (torch.cos, torch.sin)]
    prompts = [random(slots, kv_heads, prompt_room, head_dim, **kind) for _ in range(2)]
    responses = [random(rows + 1, kv_heads, response_room, head_dim, **kind) for _ in range(2)]
    which = torch.tensor([2, 0, 0, 1, 2, 0], device=DEVICE)
    slot_lengths = torch.tensor([prompt_room, prompt_room // 2 + 1, 1], device=DEVICE)
    lengths = slot_lengths[which]
    sampled = torch.tensor([0, 0, response_room - 1, response_room // 2, 1, 2], device=DEVICE)
    stored = [state.clone() for state in responses]
    expected = attend_by_definition(new, rope, prompts, stored, which, lengths, sampled)

    for lasts, states in ((slot_lengths - 1, prompts), (sampled, responses)):  # what lies behind is never looked at
        for state in states:
            for number, last in enumerate(lasts.tolist()):
                state[number, :, last + 1 :] = torch.nan
    untouched = [state.clone() for state in prompts]
    out = attend(new, rope, prompts, responses, which, lengths, sampled)
    torch.testing.assert_close(out, expected, **TOLERANCE[dtype])
    for state, other in zip(responses, stored):
        written = ~state.isnan()
        torch.testing.assert_close(state[written], other[written], **TOLERANCE[dtype])
        assert not state[torch.arange(rows), :, sampled].isnan().any() and bool((~written).any())
    for state, other in zip(prompts, untouched):
        torch.testing.assert_close(state, other, atol=0, rtol=0, equal_nan=True)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 1, 48), (2, 3, 4, 16), (1, 1, 130)])
def test_norm_and_activation(dtype, shape):
    x, up, weight = random(*shape, dtype=dtype), random(*shape, dtype=dtype), random(shape[-1], dtype=dtype)
    torch.testing.assert_close(
        rms_norm_triton(x, weight, 1e-6), norm_by_definition(x, weight, 1e-6), **TOLERANCE[dtype]
    )
    total, out = add_norm_triton(x, up, weight, 1e-6)
    # The sum is rounded as torch rounds it, which trains; the interpreter cuts the bits that bfloat16 lacks.
    exact = dtype == torch.float32 or DEVICE == "cuda"
    torch.testing.assert_close(total, x + up, **({"atol": 0, "rtol": 0} if exact else TOLERANCE[dtype]))
    assert torch.equal(out, rms_norm_triton(total, weight, 1e-6))
    torch.testing.assert_close(swiglu_triton(x, up), swiglu_by_definition(x, up), **TOLERANCE[dtype])
    halves = torch.cat((x, up), -1).chunk(2, -1)
    assert torch.equal(swiglu_triton(*halves), swiglu_triton(x, up))
    assert torch.equal(rms_norm_triton(halves[1], weight, 1e-6), rms_norm_triton(up, weight, 1e-6))


@needs_triton
def test_the_kernels_compile_for_every_recent_gpu():
    """Ampere, Hopper, Blackwell: matrix units in bfloat16, and keys and values on their way while others are used."""
    code = """
from collections import defaultdict
import cuda.decode as m
from tests.compiled import ptx
types = {"slots_ptr": "*i64", "lengths_ptr": "*i64", "sampled_ptr": "*i64", "eps": "fp32", "scale": "fp32"}
types |= dict.fromkeys("prompt_room response_room number stride q_stride k_stride v_stride".split(), "i32")
types = defaultdict(lambda: "*bf16", types)
sizes = {"GROUP": 7, "HEAD_DIM": 128, "BLOCK_G": 16, "BLOCK_D": 128, "BLOCK": m.BLOCK}
for capability in (80, 90, 100):
    attention = ptx(m._attention_kernel, types, sizes, capability, num_stages=2)
    assert "mma" in attention and "cp.async" in attention
    for add in (False, True):
        ptx(m._norm_kernel, types, {"ADD": add, "WIDTH": 3584, "BLOCK": 4096}, capability)
    ptx(m._swiglu_kernel, types, {"WIDTH": 18944, "ELEMENTS": m.ELEMENTS}, capability)
"""
    result = python("-c", code, TRITON_INTERPRET="0")
    assert result.returncode == 0, result.stderr[-2000:]

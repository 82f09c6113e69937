"""What a training run will need, before anything is loaded: memory per GPU, and the steps that a day gives.

Memory is counted, on the meta device: the parameters of the real architecture, and what autograd saves in the real
decoder block. `grpo.py` has two phases that do not overlap, and the larger one has to fit:

    sampling   the shards of the training state, all weights in bfloat16 on every GPU, the KV cache
    updating   the shards, two gathered blocks, the root's gathered weights and gradient, saved activations of one
               micro-batch, one chunk of logits

Time is a rough estimate from the assumptions below, with every response as long as `--max-new-tokens` allows and every
group trained on: the slowest case. In stage 2 each step bears its share of its round's mining.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from policy import CHUNK_LOGITS, empty_model, load_config
from tools.cli import UserError, above, at_least

# Assumptions, none of them measured: the data sheet of an 80 GB Hopper GPU, and shares of it usual in plain PyTorch.
FLOPS = 989e12  # bfloat16 a second, dense
BANDWIDTH = 3.35e12  # bytes a second of GPU memory
UTILISATION = 0.35  # of FLOPS, in forward and backward passes
DECODE_UTILISATION = 0.5  # of BANDWIDTH, while decoding
LAUNCH = 3e-6  # seconds a kernel takes at least, in a recorded step
KERNELS = 13  # per layer of a decoding step, see cuda/decode.py
HOST_LINK = 25e9  # bytes a second between host and GPU, per GPU
HOST_BANDWIDTH = 25e9  # bytes a second of host memory, per GPU: what Adam on the CPU runs at
RESERVE = 0.08  # of the GPU's memory, for the CUDA context, NCCL and fragmentation
PROMPT = 512  # tokens
LARGE_DATASET = 200_000  # questions, where train.jsonl is not there yet

MASTER_BYTES = 16  # a parameter's float32 weight, gradient and two moments of Adam
HALF = 2  # bytes of a bfloat16


@dataclass(slots=True)
class Machine:
    """GPUs in all, the memory of each in GB (1e9 bytes), and how the training state lies on them (see fsdp_utils)."""

    gpus: int
    gpu_gb: float
    shard_over: int = 0
    cpu_offload: bool = False


@dataclass(slots=True)
class Work:
    """One step: questions, responses to each, their length, tokens per pass, the KV cache in GB; and a mining."""

    questions: int
    group_size: int
    max_new_tokens: int
    micro_tokens: int
    cache_gb: float
    gradient_checkpointing: bool
    mined: int = 0  # responses of a mining, in stage 2
    round_steps: int = 1  # steps between two minings


def saved_bytes(model: PreTrainedModel, tokens: int) -> int:
    """What autograd saves in one decoder block in bfloat16 for a row of `tokens`.

    Without the (tokens, tokens) attention weights: the kernels that run on GPUs do not keep them.
    """
    config, block = model.config, model.model.layers[0].to(torch.bfloat16)
    weights = {parameter.untyped_storage()._cdata for parameter in block.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and tensor.shape[-2:] != (tokens, tokens):
            saved[storage._cdata] = storage
        return tensor

    x = torch.empty(1, tokens, config.hidden_size, dtype=torch.bfloat16, device="meta", requires_grad=True)
    positions = torch.arange(tokens, device="meta")[None]
    rotary = model.model.rotary_emb(x, positions)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(x, attention_mask=None, position_ids=positions, position_embeddings=rotary)
    return sum(storage.nbytes() for storage in saved.values())


def memory(config: PretrainedConfig, machine: Machine, work: Work) -> dict[str, dict[str, float]]:
    """GB per GPU by phase and purpose, and of the host's memory per GPU."""
    model = empty_model(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    block = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    layers = config.num_hidden_layers
    root = parameters - layers * block
    shards = MASTER_BYTES * parameters / (machine.shard_over or machine.gpus)
    rows = max(work.micro_tokens, PROMPT + work.max_new_tokens)
    inside, between = saved_bytes(model, rows), HALF * rows * config.hidden_size
    activations = layers * between + inside if work.gradient_checkpointing else layers * inside
    state = {} if machine.cpu_offload else {"weights, gradient, Adam (float32, sharded)": shards}
    phases = {
        "sampling": state | {"all weights (bfloat16)": HALF * parameters, "KV cache (--cache-gb)": work.cache_gb * 1e9},
        "updating": state
        | {
            "gathered weights (root, two blocks)": HALF * (root + 2 * block),
            "whole gradients (root, one block)": (HALF + 4) * (root + block),
            "activations": activations,
            "logits (a chunk and its gradient)": 4 * 4 * CHUNK_LOGITS,
        },
        "host": {"weights, gradient, Adam": shards if machine.cpu_offload else 0.0},
    }
    return {phase: {name: value / 1e9 for name, value in parts.items()} for phase, parts in phases.items()}


def sampling_seconds(config: PretrainedConfig, machine: Machine, work: Work, responses: int) -> float:
    """Seconds in which the busiest GPU samples its `responses`. Raises UserError if the cache holds not one."""
    parameters = sum(parameter.numel() for parameter in empty_model(config).parameters())
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache_token = 2 * HALF * config.num_hidden_layers * config.num_key_value_heads * head_dim
    rows = min(responses, int(work.cache_gb * 1e9 // (cache_token * (PROMPT + work.max_new_tokens))))
    if rows < 1:
        raise UserError(
            f"--cache-gb {work.cache_gb}: not one response of {work.max_new_tokens} tokens fits; each token takes "
            f"{cache_token / 1e6:.2f} MB"
        )
    reads = HALF * parameters + rows * cache_token * (PROMPT + work.max_new_tokens / 2)
    token = max(
        reads / (BANDWIDTH * DECODE_UTILISATION),
        2 * parameters * rows / (FLOPS * UTILISATION),
        config.num_hidden_layers * KERNELS * LAUNCH,
    )
    return math.ceil(responses / rows) * work.max_new_tokens * token


def seconds(config: PretrainedConfig, machine: Machine, work: Work) -> dict[str, float]:
    """A step's seconds by phase, under the assumptions above; `mining` is the share of one step in a round's."""
    parameters = sum(parameter.numel() for parameter in empty_model(config).parameters())
    responses = math.ceil(work.questions / machine.gpus) * work.group_size  # of the busiest GPU
    passes = 8 if work.gradient_checkpointing else 6  # forward 2, backward 4, and the forward again
    trained = responses * (PROMPT + work.max_new_tokens)
    result = {
        "sampling": sampling_seconds(config, machine, work, responses),
        "updating": passes * parameters * trained / (FLOPS * UTILISATION),
    }
    if work.mined:
        mined = sampling_seconds(config, machine, work, math.ceil(work.mined / machine.gpus))
        result["mining"] = mined / work.round_steps
    if machine.cpu_offload:
        sharded = parameters / (machine.shard_over or machine.gpus)
        moves = 3 * math.ceil(trained / work.micro_tokens) + 1  # per micro-batch: weights twice, gradient; to sample
        result["offloading"] = sharded * (4 * moves / HOST_LINK + 28 / HOST_BANDWIDTH)  # Adam reads 16, writes 12
    return result


def plan(config: PretrainedConfig, name: str, machine: Machine, work: Work) -> tuple[str, str | None]:
    """The plan as text; and None if it fits a GPU's memory, else one line: what exceeds it and what would help."""
    if machine.gpus < 1 or machine.shard_over and machine.gpus % machine.shard_over:
        raise UserError(f"--gpus {machine.gpus} is not a multiple of --shard-over {machine.shard_over or 1}")
    parts, times = memory(config, machine, work), seconds(config, machine, work)
    parameters = parts["sampling"]["all weights (bfloat16)"] / HALF
    size = f"{parameters:.2f} B" if parameters >= 0.1 else f"{1000 * parameters:.2f} M"
    room = machine.gpu_gb * (1 - RESERVE)
    lines = [
        f"{name}: {size} parameters on {machine.gpus} GPUs of {machine.gpu_gb:g} GB; "
        f"{work.questions} questions x {work.group_size} responses x {work.max_new_tokens} tokens a step"
    ]
    for phase in ("sampling", "updating"):
        lines.append(f"  {phase:52}{sum(parts[phase].values()):8.1f} GB per GPU")
        lines += [f"    {purpose:50}{value:8.1f}" for purpose, value in parts[phase].items()]
    if machine.cpu_offload:
        lines.append(f"  {'host memory':52}{parts['host']['weights, gradient, Adam']:8.1f} GB per GPU")
    step = sum(times.values())
    spent = ", ".join(f"{phase} {value:.0f} s" for phase, value in times.items())
    lines.append(f"  about {86400 / step:.0f} steps a day or more ({spent}; every response as long as it may be)")
    if work.mined:
        hours = times["mining"] * work.round_steps / 3600
        lines.append(
            f"  mining: {hours:.1f} h every {work.round_steps} steps for {work.mined:,} responses, "
            f"{times['mining'] / step:.0%} of the stage (--mine-budget)"
        )
    lines.append(
        f"  assumed: {PROMPT} prompt tokens; {FLOPS / 1e12:.0f} TFLOP/s at {UTILISATION:.0%}, "
        f"{BANDWIDTH / 1e12:.2f} TB/s at {DECODE_UTILISATION:.0%}, {RESERVE:.0%} of the memory in reserve"
    )
    needed = {phase: sum(parts[phase].values()) for phase in ("sampling", "updating")}
    phase = max(needed, key=needed.__getitem__)
    verdict = f"{phase} needs {needed[phase]:.1f} GB of the {room:.1f} GB to be had"
    if needed[phase] > room:
        return "\n".join(lines), f"does not fit: {verdict}; {remedy(phase, machine, work)}"
    return "\n".join([*lines, f"  fits: {verdict}"]), None


def remedy(phase: str, machine: Machine, work: Work) -> str:
    """What to change so that a phase fits."""
    advice = [] if machine.cpu_offload else ["--cpu-offload", "more --gpus"]
    if machine.shard_over:
        advice.append("a larger --shard-over")
    if phase == "sampling":
        advice.append("a smaller --cache-gb")
    else:
        advice += ["a smaller --micro-tokens"] + ["--gradient-checkpointing"] * (not work.gradient_checkpointing)
    return "try " + " or ".join(advice)


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a stage that can tell what it will need."""
    add = parser.add_argument_group("planning").add_argument
    add("--plan", action="store_true", help="print memory per GPU and steps a day, and do nothing else")
    gpus = int(os.environ.get("WORLD_SIZE", 8))
    add("--gpus", type=at_least(1), default=gpus, help="GPUs to plan for, of all nodes")
    add("--gpu-gb", type=above(0.0), default=80.0, help="GB of each of them to plan for")


def mined_responses(args: argparse.Namespace) -> int:
    """The responses of one mining: of the run's questions, or of as many as the large recipes may make."""
    path = Path(args.run) / "train.jsonl"
    questions = sum(1 for _ in open(path, "rb")) if path.is_file() else LARGE_DATASET
    whole = questions * args.mine_samples
    return min(args.mine_budget or whole, whole)


def print_plan(args: argparse.Namespace, model: str | Path) -> None:
    """What a run of `grpo.py` with these flags will need, from the model's config alone.

    Raises UserError if it cannot fit.
    """
    group_size = args.group_size if args.stage == 1 else args.max_group_size
    lengths = (args.max_new_tokens, args.micro_tokens)
    mined = mined_responses(args) if args.stage == 2 and not args.no_mining else 0
    mining = (mined, args.round_steps)
    work = Work(args.questions, group_size, *lengths, args.cache_gb, args.gradient_checkpointing, *mining)
    machine = Machine(args.gpus, args.gpu_gb, args.shard_over, args.cpu_offload)
    text, problem = plan(load_config(model), str(model), machine, work)
    print(text)
    if problem:
        raise UserError(problem)

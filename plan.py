"""What a training run will need, before anything is loaded: memory of GPUs and host, disk, and the steps of a day.

Memory is counted, on the meta device: the parameters of the real architecture, and what autograd saves in the real
decoder block. `grpo.py` has two phases that do not overlap, and the larger one has to fit:

    sampling   the shards of the training state, all weights in bfloat16 on every GPU, the KV cache
    updating   the shards, two gathered blocks, the root's gathered weights and gradient, saved activations of one
               micro-batch, one chunk of logits

With `--lora` the training state is the adapters', beside frozen weights in bfloat16; a single GPU gathers nothing.
Where it does not fit, `nearest` looks for the flags with which it does.

Time is a rough estimate from the assumptions below, with every response as long as `--max-new-tokens` allows and every
group trained on: the slowest case. In stage 2 each step bears its share of its round's mining.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from lora import Adapters, add_adapters, is_adapter
from policy import CHUNK_LOGITS, empty_model, load_config
from rollout import joined_bytes
from tools.cli import UserError, above, at_least

# Assumptions, none of them measured: the data sheet of an 80 GB Hopper GPU, and shares of it usual in plain PyTorch.
FLOPS = 989e12  # bfloat16 a second, dense
BANDWIDTH = 3.35e12  # bytes a second of GPU memory
UTILISATION = 0.35  # of FLOPS, in forward and backward passes
DECODE_UTILISATION = 0.5  # of BANDWIDTH, while decoding
LAUNCH = 3e-6  # seconds a kernel takes at least, in a recorded step
KERNELS, JOINED_KERNELS = 11, 8  # per layer of a decoding step, see cuda/decode.py; with joined weights
ADAPTER_KERNELS = 6 * 7  # more of them: two conversions, two products, scaling and sum for each of seven products
HOST_LINK = 25e9  # bytes a second between host and GPU, per GPU
HOST_BANDWIDTH = 25e9  # bytes a second of host memory, per GPU: what Adam on the CPU runs at
RESERVE = 0.08  # of the GPU's memory, for the CUDA context, NCCL and fragmentation
PROMPT = 512  # tokens
LARGE_DATASET = 200_000  # questions, where train.jsonl is not there yet

MASTER_BYTES = 16  # a trained parameter's float32 weight, gradient and two moments of Adam
SAVED_BYTES = 12  # of them in a checkpoint: all but the gradient
HALF = 2  # bytes of a bfloat16
ACTIVATIONS = ("activations", "activations, recomputed (--gradient-checkpointing)")
RANK = 16  # of the adapters that are proposed where it does not fit


@dataclass(slots=True)
class Machine:
    """GPUs in all, the memory of each in GB (1e9 bytes), and how the training state lies on them (see fsdp_utils)."""

    gpus: int
    gpu_gb: float
    shard_over: int = 0
    cpu_offload: bool = False


@dataclass(slots=True)
class Work:
    """One step: questions, responses to each, their length, tokens per pass, the KV cache in GB; what is trained, the
    bytes of a weight in the result; and a mining."""

    questions: int
    group_size: int
    max_new_tokens: int
    micro_tokens: int
    cache_gb: float
    gradient_checkpointing: bool
    adapters: Adapters | None = None
    result_bytes: int = 4
    mined: int = 0  # responses of a mining, in stage 2
    round_steps: int = 1  # steps between two minings


def saved_bytes(model: PreTrainedModel, tokens: int) -> int:
    """What autograd saves in one decoder block of a bfloat16 model for a row of `tokens`, in bytes.

    Without the (tokens, tokens) attention weights: the kernels that run on GPUs do not keep them.
    """
    config, block = model.config, model.model.layers[0]
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


def count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def base_weights(model: PreTrainedModel) -> int:
    """How many parameters it has, adapters not counted."""
    return count(parameter for name, parameter in model.named_parameters() if not is_adapter(name))


def operations(model: PreTrainedModel, tokens: float, scored: float, passes: int) -> float:
    """Of the products with the weights in `passes` over `tokens`, with logits of the `scored` ones.

    Attention's own products, adapters and what is computed twice are not counted. Training is 3 passes, 2 where the
    weights are frozen.
    """
    named = model.model.layers.named_parameters()
    body = count(parameter for name, parameter in named if parameter.dim() > 1 and not is_adapter(name))
    return 2 * passes * (body * tokens + model.lm_head.weight.numel() * scored)


def trains(parameter: torch.Tensor) -> bool:
    return parameter.requires_grad


def outline(config: PretrainedConfig, adapters: Adapters | None = None) -> PreTrainedModel:
    """The model as it computes: its shapes in bfloat16, without memory, and its adapters."""
    model = empty_model(config, torch.bfloat16)
    if adapters:
        add_adapters(model, adapters.rank, adapters.alpha)
    return model


def memory(model: PreTrainedModel, machine: Machine, work: Work) -> dict[str, dict[str, float]]:
    """GB per GPU by phase and purpose, of the host's memory per GPU, and of the disk in all.

    `model` is made by `outline`.
    """
    weights, trained = base_weights(model), count(filter(trains, model.parameters()))
    shards = machine.shard_over or machine.gpus
    whole = max(work.result_bytes, HALF if work.adapters else 4) * weights  # on the first process: fsdp_utils.save_hf
    if work.adapters:
        state = {
            "frozen weights (bfloat16)": HALF * weights / shards,
            "adapters, gradient, Adam (float32)": MASTER_BYTES * trained / shards,
        }
    else:
        state = {"weights, gradient, Adam (float32, sharded)": MASTER_BYTES * trained / shards}
    on_gpu, on_host = ({}, state) if machine.cpu_offload else (state, {})
    phases = {
        "sampling": {"KV cache (--cache-gb)": work.cache_gb * 1e9},
        "updating": {
            ACTIVATIONS[work.gradient_checkpointing]: activations(model, work),
            "logits (a chunk and its gradient)": 16 * CHUNK_LOGITS,
        },
        "host": on_host | {"saving (a checkpoint; the whole model)": max(SAVED_BYTES * trained / shards, whole)},
        "disk": {
            "checkpoint, and the one before it": 2 * SAVED_BYTES * trained,
            "trained model (--save-dtype)": work.result_bytes * weights,
        },
    }
    if machine.gpus > 1 or machine.cpu_offload or not work.adapters:  # see fsdp_utils.shard
        for phase, parts in gathered(model).items():
            phases[phase] = parts | phases[phase]
    phases |= {phase: on_gpu | phases[phase] for phase in ("sampling", "updating")}
    return {phase: {name: value / 1e9 for name, value in parts.items()} for phase, parts in phases.items()}


def activations(model: PreTrainedModel, work: Work) -> int:
    """Bytes that autograd saves for a micro-batch."""
    config, rows = model.config, max(work.micro_tokens, PROMPT + work.max_new_tokens)
    inside, between = saved_bytes(model, rows), HALF * rows * config.hidden_size
    layers = config.num_hidden_layers
    return layers * between + inside if work.gradient_checkpointing else layers * inside


def recomputes(model: PreTrainedModel, machine: Machine, work: Work) -> bool:
    """Whether the update does not fit with all activations kept."""
    kept = memory(model, machine, replace(work, gradient_checkpointing=False))
    return sum(kept["updating"].values()) > room(machine)


def checkpointing(args: argparse.Namespace, config: PretrainedConfig, device: torch.device, new_tokens: int) -> bool:
    """Whether training recomputes activations: as `--[no-]gradient-checkpointing` says, else where it does not fit.

    `new_tokens`: the longest sequence trained on, beyond `PROMPT` tokens.
    """
    if args.gradient_checkpointing is not None or device.type == "cpu":
        return bool(args.gradient_checkpointing)
    gpu_gb = torch.cuda.get_device_properties(device).total_memory / 1e9
    machine = Machine(int(os.environ.get("WORLD_SIZE", 1)), gpu_gb, args.shard_over, args.cpu_offload)
    work = Work(1, 1, new_tokens, args.micro_tokens, 0.0, False, Adapters.of(args))
    return recomputes(outline(config, work.adapters), machine, work)


def gathered(model: PreTrainedModel) -> dict[str, dict[str, float]]:
    """Bytes of what FSDP makes whole, by phase."""
    parameters, block = list(model.parameters()), list(model.model.layers[0].parameters())
    root = count(parameters) - len(model.model.layers) * count(block)
    trained = count(filter(trains, block)) + root * trains(model.lm_head.weight)
    return {
        "sampling": {"all weights (bfloat16)": HALF * count(parameters)},
        "updating": {
            "gathered weights (root, two blocks)": HALF * (root + 2 * count(block)),
            "whole gradients (root, one block)": (HALF + 4) * trained,
        },
    }


def cache_bytes(config: PretrainedConfig) -> int:
    """Bytes of the KV cache for a token."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * HALF * config.num_hidden_layers * config.num_key_value_heads * head_dim


def cache_rows(config: PretrainedConfig, work: Work) -> int:
    """How many responses of full length, with their prompts, the KV cache holds."""
    return int(work.cache_gb * 1e9 // (cache_bytes(config) * (PROMPT + work.max_new_tokens)))


def sampling_seconds(model: PreTrainedModel, machine: Machine, work: Work, responses: int) -> float:
    """Seconds in which the busiest GPU samples its `responses`. Raises UserError if the cache holds not one."""
    config, parameters, cache_token = model.config, base_weights(model), cache_bytes(model.config)
    rows = min(responses, cache_rows(config, work))
    if rows < 1:
        raise UserError(
            f"--cache-gb {work.cache_gb}: not one response of {work.max_new_tokens} tokens fits; each token takes "
            f"{cache_token / 1e6:.2f} MB"
        )
    reads = HALF * parameters + rows * cache_token * (PROMPT + work.max_new_tokens / 2)
    layer = JOINED_KERNELS if joined_bytes(model, work.cache_gb * 1e9) else KERNELS
    token = max(
        reads / (BANDWIDTH * DECODE_UTILISATION),
        2 * parameters * rows / (FLOPS * UTILISATION),
        config.num_hidden_layers * (layer + (ADAPTER_KERNELS if work.adapters else 0)) * LAUNCH,
    )
    return math.ceil(responses / rows) * work.max_new_tokens * token


def seconds(model: PreTrainedModel, machine: Machine, work: Work) -> dict[str, float]:
    """A step's seconds by phase, under the assumptions above; `mining` is the share of one step in a round's."""
    parameters = base_weights(model)
    responses = math.ceil(work.questions / machine.gpus) * work.group_size  # of the busiest GPU
    passes = 4 if work.adapters else 6  # forward 2, backward 2 to the inputs and 2 to the weights
    passes += 2 * work.gradient_checkpointing  # the forward again
    trained = responses * (PROMPT + work.max_new_tokens)
    result = {
        "sampling": sampling_seconds(model, machine, work, responses),
        "updating": passes * parameters * trained / (FLOPS * UTILISATION),
    }
    if work.mined:
        mined = sampling_seconds(model, machine, work, math.ceil(work.mined / machine.gpus))
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
    model = outline(config, work.adapters)
    parts, times, parameters = memory(model, machine, work), seconds(model, machine, work), base_weights(model)
    size = f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:.2f} M"
    lines = [
        f"{name}: {size} parameters on {machine.gpus} GPUs of {machine.gpu_gb:g} GB; "
        f"{work.questions} questions x {work.group_size} responses x {work.max_new_tokens} tokens a step"
    ]
    units = {"sampling": "GB per GPU", "updating": "GB per GPU", "host": "GB per GPU", "disk": "GB"}
    titles = {"host": "host memory", "disk": "disk, of a stage"}
    for phase, unit in units.items():
        lines.append(f"  {titles.get(phase, phase):52}{sum(parts[phase].values()):8.1f} {unit}")
        lines += [f"    {purpose:50}{value:8.1f}" for purpose, value in parts[phase].items()]
    step = sum(times.values())
    spent = ", ".join(f"{phase} {value:.0f} s" for phase, value in times.items())
    lines.append(f"  about {86400 / step:.0f} steps a day or more ({spent}; every response as long as it may be)")
    lines.append(f"  the cache holds {cache_rows(config, work):,} responses of that length (--cache-gb)")
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
    phase, needed = largest(parts)
    verdict = f"{phase} needs {needed:.1f} GB of the {room(machine):.1f} GB to be had"
    if needed > room(machine):
        return "\n".join(lines), f"does not fit: {verdict}; {remedy(model, machine, work)}"
    return "\n".join([*lines, f"  fits: {verdict}"]), None


def room(machine: Machine) -> float:
    """GB of a GPU that may be used."""
    return machine.gpu_gb * (1 - RESERVE)


def largest(parts: dict[str, dict[str, float]]) -> tuple[str, float]:
    """The phase that needs most of a GPU, and how many GB."""
    needed = {phase: sum(parts[phase].values()) for phase in ("sampling", "updating")}
    return max(needed.items(), key=lambda item: item[1])


def remedy(model: PreTrainedModel, machine: Machine, work: Work) -> str:
    """What to change so that it fits; where the training state would have to leave the GPU, also what adapters need."""
    found = [nearest(model, machine, work)]
    if not work.adapters and (found[0] is None or "--cpu-offload" in found[0]):
        adapters = Adapters(RANK, 2.0 * RANK, seed=0)
        flags = nearest(outline(model.config, adapters), machine, replace(work, adapters=adapters))
        found.append(None if flags is None else f"--lora {RANK} {flags}".strip())
    fitting = [flags for flags in found if flags is not None]
    weights = HALF * base_weights(model) / 1e9
    if not fitting and weights > room(machine):
        return f"no flags make it fit, its weights alone take {weights:.1f} GB: take a smaller --model or larger GPUs"
    if not fitting:
        return "no flags make it fit: take fewer --max-new-tokens, more --gpus or a smaller --model"
    return "it fits with " + ", or with ".join(fitting)


def nearest(model: PreTrainedModel, machine: Machine, work: Work) -> str | None:
    """The fewest flags, cheapest in time first, that make it fit without changing what is learned; None: none do."""
    shortest = PROMPT + work.max_new_tokens
    offloads, recomputes = sorted({machine.cpu_offload, True}), sorted({work.gradient_checkpointing, True})
    rows = sorted({work.micro_tokens, min(work.micro_tokens, shortest)}, reverse=True)
    for offload, recompute, tokens in itertools.product(offloads, recomputes, rows):
        other = replace(work, gradient_checkpointing=recompute, micro_tokens=tokens)
        parts = memory(model, replace(machine, cpu_offload=offload), other)
        without_cache, host = sum(parts["sampling"].values()) - work.cache_gb, sum(parts["host"].values())
        cache_gb = min(work.cache_gb, math.floor(10 * (room(machine) - without_cache)) / 10)
        if sum(parts["updating"].values()) <= room(machine) and cache_gb * 1e9 >= shortest * cache_bytes(model.config):
            changes = {
                "--gradient-checkpointing": recompute != work.gradient_checkpointing,
                f"--micro-tokens {tokens}": tokens != work.micro_tokens,
                f"--cache-gb {cache_gb:g}": cache_gb != work.cache_gb,
                f"--cpu-offload ({host:.0f} GB of the host per GPU)": offload != machine.cpu_offload,
            }
            return " ".join(flag for flag, changed in changes.items() if changed)
    return None


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a stage that can tell what it will need."""
    add = parser.add_argument_group("planning").add_argument
    add("--plan", action="store_true", help="print memory, disk and steps a day, and do nothing else")
    gpus = int(os.environ.get("WORLD_SIZE", 8))
    add("--gpus", type=at_least(1), default=gpus, help="GPUs to plan for, of all nodes")
    gpu_gb = os.environ.get("GPU_GB", "80")  # a text is read as the flag's would be
    add("--gpu-gb", type=above(0.0), default=gpu_gb, help="GB of each of them to plan for; GPU_GB in the environment")


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
    what = (bool(args.gradient_checkpointing), Adapters.of(args), 2 if args.save_dtype == "bfloat16" else 4)
    work = Work(args.questions, group_size, *lengths, args.cache_gb, *what, mined, args.round_steps)
    machine = Machine(args.gpus, args.gpu_gb, args.shard_over, args.cpu_offload)
    config = load_config(model)
    if args.gradient_checkpointing is None:
        work.gradient_checkpointing = recomputes(outline(config, work.adapters), machine, work)
    text, problem = plan(config, str(model), machine, work)
    print(text)
    if problem:
        raise UserError(problem)

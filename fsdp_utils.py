"""Sharding, precision and checkpoints, by hand on PyTorch's FSDP2 (`fully_shard`).

One process on a CPU trains the plain module. On GPUs, or with several processes, every decoder block and then the
root are sharded: float32 master weights, bfloat16 compute on GPUs, gradients reduced in float32. The same code runs
under `torchrun --nproc_per_node 2` on two CPU processes (gloo) and under `torchrun --nnodes` on several nodes.

This is a tool: it imports no stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedTokenizerBase

from policy import Policy

# -------------------------------------------------------------------------------------------------------- the processes


def setup() -> torch.device:
    """Join the process group that `torchrun` describes (once; none for a single process); this process's device."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def inference_dtype(device: torch.device) -> torch.dtype:
    """The precision of a model that is only sampled from: what it was trained to compute in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def teardown() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def reduce_over_ranks(values: list[float], op: str, device: torch.device) -> list[float]:
    """The elementwise sum ("sum") or maximum ("max") of every rank's values, on every rank."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op])
    return tensor.tolist()


def gather_objects(item: Any) -> list[Any]:
    """Every rank's item (plain Python data), in rank order, on every rank."""
    if not dist.is_initialized():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


# -------------------------------------------------------------------------------------------------- sharding, precision


def shard(policy: Policy, device: torch.device, gradient_checkpointing: bool = False) -> Policy:
    """Move the policy to its device and shard it over all processes: each decoder block, then the root.

    The root holds embeddings, final norm and output layer. A single CPU process stays unsharded: plain PyTorch.
    """
    if gradient_checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.to(device)
    if device.type == "cpu" and world_size() == 1:
        return policy
    if not dist.is_initialized():  # FSDP2 wants a group, also for a single GPU
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (world_size(),), mesh_dim_names=("shard",))
    precision = MixedPrecisionPolicy(param_dtype=inference_dtype(device), reduce_dtype=torch.float32)
    for block in policy.model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision)
    return policy


@contextlib.contextmanager
def gathered(policy: Policy) -> Iterator[None]:
    """All weights whole on every rank while the block runs: once per rollout phase, not once per token.

    The sampler reads the weights by itself. Calling the modules' own `forward` inside the block would shard them again.
    """
    modules = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()


def clip_grad_norm(policy: nn.Module, max_norm: float) -> float:
    """Scale the gradient down to `max_norm` if it is longer; its norm before that (global, over all shards)."""
    norm = nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def save_hf(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Save an ordinary Hugging Face folder (safetensors, tokenizer, template); it appears complete or not at all."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(policy, options=options)  # whole on rank 0, empty elsewhere
    if rank() == 0:
        state = {name.removeprefix("model."): value for name, value in state.items()}
        if policy.model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        if dtype is not None:
            state = {name: value.to(dtype) for name, value in state.items()}
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        policy.model.save_pretrained(partial, state_dict=state)
        tokenizer.save_pretrained(partial)
        os.replace(partial, folder)
    barrier()


class TrainingState:
    """Checkpoints from which training goes on as if it had never stopped: weights, optimiser, random states, counters.

    Each is a folder `step-N` below `folder`, written under another name, renamed when complete; the one before it is
    then deleted. A crash while saving leaves the previous one intact.
    """

    def __init__(self, folder: Path, policy: Policy, optimizer: torch.optim.Optimizer):
        self.folder, self.policy, self.optimizer = folder, policy, optimizer

    def save(self, step: int, extra: dict[str, Any]) -> None:
        """`extra`: plain JSON data of the caller (counters, queues), the same on every rank."""
        partial, final = self.folder / "partial", self.folder / f"step-{step:06d}"
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier()
        model_state, optimizer_state = get_state_dict(self.policy, self.optimizer)
        dcp.save(
            {"model": model_state, "optimizer": optimizer_state},
            checkpoint_id=partial,
            no_dist=not dist.is_initialized(),
        )
        torch.save(_random_states(), partial / f"random-{rank()}.pt")
        barrier()
        if rank() == 0:
            (partial / "extra.json").write_text(json.dumps({"step": step, **extra}))
            older = self._steps()
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            for path in older:
                if path != final:
                    shutil.rmtree(path)
        barrier()

    def load(self) -> dict[str, Any] | None:
        """Restore the latest checkpoint; its `extra` with its "step", or None if there is none."""
        steps = self._steps()
        if not steps:
            return None
        folder = steps[-1]
        model_state, optimizer_state = get_state_dict(self.policy, self.optimizer)
        state = {"model": model_state, "optimizer": optimizer_state}
        dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
        set_state_dict(
            self.policy, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        random_file = folder / f"random-{rank()}.pt"
        if random_file.exists():  # with another number of processes the data stays in order, the noise does not
            _set_random_states(torch.load(random_file, weights_only=True))
        return json.loads((folder / "extra.json").read_text())

    def remove(self) -> None:
        """Delete all checkpoints: the stage is finished."""
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        barrier()

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _random_states() -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, the same on every rank."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)

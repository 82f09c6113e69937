"""Processes, sharding, precision, checkpoints and the training loop, by hand on PyTorch's FSDP2 (`fully_shard`).

One process on a CPU trains the plain module. On GPUs, or with several processes, every decoder block and then the
root are sharded: float32 master weights, bfloat16 compute on GPUs, gradients reduced in float32. The same code runs
under `torchrun --nproc_per_node 2` on two CPU processes (gloo) and under `torchrun --nnodes` on several nodes, which
must see the same files.

Memory per process: 16 bytes a parameter (weights, gradient, two moments of Adam) over the processes that share a
shard, all of them by default. `shard_over` shards within groups of that many (HSDP: e.g. a node's GPUs, with the
gradient alone travelling between nodes); `cpu_offload` keeps those 16 bytes in the host's memory. With adapters (see
lora.py) a frozen parameter takes 2 of the 16 bytes, and a single GPU, which then holds all of them, stays unsharded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora import Adapters, add_adapters, is_adapter, merged, reset_adapters, save_adapter
from policy import Policy, empty_model, load_policy, local_folder
from pretrained import model_hash
from tools.cli import UserError, at_least, progress_bar
from tools.cost import count, peak_memory_gb
from tools.run import (
    CHECKSUMS,
    Metrics,
    RunDir,
    check_seal,
    hashes,
    origin_of,
    publish,
    read_json,
    require_same_origin,
    seal,
)
from tools.watch import Watcher

# What is trained, without what is frozen; a name for each of the optimiser's tensors.
TRAINED = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True, strict=False)
# Flags that may change when a stage resumes: they fit it to its machine, say how long and how closely it is watched,
# or name a file or folder, whose content counts.
FREE = {
    *"run model data output steps micro_tokens pack share_prompts shard_over cpu_offload".split(),
    *"gradient_checkpointing cache_gb save_every save_dtype validate_every evaluate_every samples".split(),
    *"plan gpus gpu_gb".split(),
}
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # with offloaded weights there is something to reduce on CPUs

# -------------------------------------------------------------------------------------------------------- the processes


def join_processes() -> torch.device:
    """Join the process group that `torchrun` describes (once; none for a single process); this process's device."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        # Ranks wait for each other's rollouts, longer than the default of ten minutes allows.
        dist.init_process_group(BACKENDS[device.type], timeout=timedelta(hours=1), **on_loopback())
    return device


def on_loopback() -> dict[str, Any]:
    """Of processes that share a machine, arguments of `init_process_group` with which they listen on loopback alone:
    by default its store listens on every network, without a password. {} of processes on several machines, and where
    torchrun itself holds the store (docs/large.md says how to keep it from that)."""
    number, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if int(os.environ.get("LOCAL_WORLD_SIZE", 0)) != world or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {}
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    port = int(os.environ["MASTER_PORT"])
    listener = socket.create_server(("127.0.0.1", port)).detach() if number == 0 else None
    store = dist.TCPStore("127.0.0.1", port, world, number == 0, timedelta(minutes=5), master_listen_fd=listener)
    return {"store": store, "rank": number, "world_size": world}


@dataclass(slots=True)
class Job:
    """This process's part in a job: its device, and whether the job was asked to stop."""

    device: torch.device
    asked: bool = False  # by SIGTERM, as a scheduler's preemption does

    def stopping(self) -> bool:
        """Whether any rank was asked to stop. All ranks call it together and hear the same."""
        return reduce_over_ranks([float(self.asked)], "max", self.device)[0] > 0

    def leave(self, step: int) -> NoReturn:
        """Exit as a process killed by SIGTERM would; the caller has saved."""
        if rank() == 0:
            print(f"asked to stop at step {step}: all is saved, the same command continues", file=sys.stderr)
        leave_processes()
        sys.exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def job() -> Iterator[Job]:
    """Join the processes that `torchrun` started and leave them at the end; while inside, SIGTERM is noted.

    Raises UserError in the other processes when one has died: the launcher then ends the job instead of a hang.
    """
    this = Job(join_processes())

    def note(*_: Any) -> None:
        this.asked = True

    handler = signal.signal(signal.SIGTERM, note)
    try:
        yield this
        leave_processes()
    except RuntimeError as error:
        if world_size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise UserError(
            f"rank {rank()} lost contact with another process, which died or left ({str(error).splitlines()[0]}); "
            "the same command resumes from the last checkpoint"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def compute_dtype(device: torch.device, bfloat16: bool = False) -> torch.dtype:
    """The precision that a model computes in, trained or only sampled from: bfloat16 on GPUs, or if asked for."""
    return torch.bfloat16 if bfloat16 or device.type == "cuda" else torch.float32


def leave_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def my_share(items: Sequence[Any]) -> Sequence[Any]:
    """This rank's part of what all ranks hold: every world_size-th item."""
    return items[rank() :: world_size()]


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


def on_first_rank(call: Callable[[], Any]) -> Any:
    """What `call` returns on the first rank, where alone it runs (plain Python data), on every rank."""
    return gather_objects(call() if rank() == 0 else None)[0]


# -------------------------------------------------------------------------------------------------- sharding, precision


def load_sharded(
    path: str | Path,
    device: torch.device,
    gradient_checkpointing: bool = False,
    shard_over: int = 0,
    cpu_offload: bool = False,
    adapters: Adapters | None = None,
    bfloat16: bool = False,
) -> tuple[Policy, PreTrainedTokenizerBase]:
    """A model folder or hub id as a sharded policy (see `shard`), and its tokenizer; with `adapters` beside it, if any.

    No process ever holds more than its own: each makes an empty model, shards it, and reads its own parts of the
    weights' files. Raises UserError for a model that cannot be used.
    """
    options = (gradient_checkpointing, shard_over, cpu_offload, bfloat16)
    whole = device.type == "cpu" and world_size() == 1
    frozen = compute_dtype(device, bfloat16)  # what is trained is kept in float32
    model, tokenizer = load_policy(path, frozen if adapters else torch.float32, empty=not whole)
    model.train()  # has no dropout; transformers checkpoints activations in this mode alone
    if adapters:
        add_adapters(model, adapters.rank, adapters.alpha)
    policy = shard(Policy(model), device, *options)
    if not whole:
        read_weights(policy, path, device, cpu_offload)
    if adapters:
        reset_adapters(model, adapters.seed)
    return policy, tokenizer


def read_weights(policy: Policy, path: str | Path, device: torch.device, cpu_offload: bool) -> None:
    """Give an empty policy its memory, and its model's weights what this process holds of a model folder or hub id."""
    model = policy.model
    policy.to_empty(device="cpu" if cpu_offload else device)
    model.tie_weights()
    # What is in no file: the rotary frequencies.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    state = {name.removeprefix("model."): value for name, value in get_model_state_dict(policy).items()}
    state = {name: value for name, value in state.items() if not is_adapter(name)}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    folder = local_folder(path)
    try:
        with _one_process_is_enough():
            dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)))
    except (CheckpointException, RuntimeError, OSError) as error:
        raise UserError(f"cannot load the model {path}: {str(error).strip().splitlines()[-1]}") from error


def shard(
    policy: Policy,
    device: torch.device,
    gradient_checkpointing: bool = False,
    shard_over: int = 0,
    cpu_offload: bool = False,
    bfloat16: bool = False,
) -> Policy:
    """Move the policy to its device and shard it: each decoder block, then the root.

    The root holds embeddings, final norm and output layer. A single CPU process that computes in float32 stays
    unsharded: plain PyTorch. So does a single process that trains adapters alone: of the frozen weights a gathered copy
    would be a second one.
    `shard_over`: processes that share one copy of the weights (0: all; fewer: every group of them holds a copy).
    `cpu_offload` keeps weights, gradients and optimiser in the host's memory; a block is on the GPU while it computes.
    """
    model = policy.model
    if gradient_checkpointing:  # transformers has renamed it
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    empty, frozen = model.lm_head.weight.is_meta, not model.lm_head.weight.requires_grad
    dtype = compute_dtype(device, bfloat16)
    if world_size() == 1 and (dtype == torch.float32 or frozen and not cpu_offload):
        return policy if empty else policy.to(device)
    if not dist.is_initialized():  # FSDP2 wants a group, also for a single GPU
        dist.init_process_group(BACKENDS[device.type], store=dist.HashStore(), rank=0, world_size=1)
    if not empty:
        policy.to("cpu" if cpu_offload else device)
        model.model.rotary_emb.to(device)
    options: dict[str, Any] = {
        "mesh": process_mesh(device, shard_over),
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    if cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    for block in model.model.layers:
        fully_shard(block, **options)
    return fully_shard(policy, **options)


def process_mesh(device: torch.device, shard_over: int = 0) -> DeviceMesh:
    """All processes in one line, or in rows of `shard_over` that hold a copy each (HSDP). Neighbours share a node.

    Raises UserError if the rows do not come out even.
    """
    world = world_size()
    if shard_over in (0, world):
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    if shard_over < 0 or world % shard_over:
        raise UserError(f"--shard-over {shard_over} does not divide the {world} processes")
    return init_device_mesh(device.type, (world // shard_over, shard_over), mesh_dim_names=("replicate", "shard"))


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


def require_finite(step: int, loss: float, norm: float, suspects: list[str], trained: list[str]) -> None:
    """Raise UserError, on all ranks alike, if the loss or the gradient's norm of a step is not finite.

    It names this step's `suspects` (examples whose loss is not finite) or, if there are none, all it `trained` on.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    names = sum(gather_objects(suspects), []) or sum(gather_objects(trained), [])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    raise UserError(
        f"step {step}: the loss ({loss}) or gradient norm ({norm}) is not finite, with {', '.join(names[:4])}{more}; "
        "the last checkpoint is good, lower --lr"
    )


def optimizer_step(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_norm: float,
    step: int,
    loss: float,
    suspects: list[str],
    trained: list[str],
) -> float:
    """Clip the accumulated gradient, take one step and clear it; the gradient's norm before clipping.

    Raises UserError, before anything changes, if the loss or that norm is not finite; see `require_finite`.
    """
    norm = clip_grad_norm(policy, max_norm)
    require_finite(step, loss, norm, suspects, trained)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def memory_use(device: torch.device) -> dict[str, float]:
    """Peak memory in GB: of the GPU, and which share of it that is, where there is one, else of the process."""
    peak = peak_memory_gb()
    if device.type != "cuda":
        return {"peak_memory_gb": peak}
    return {"peak_memory_gb": peak, "memory_share": peak * 1e9 / torch.cuda.get_device_properties(device).total_memory}


def add_machine_arguments(parser: argparse.ArgumentParser, save_every: int) -> argparse._ArgumentGroup:
    """The flags of a training stage that fit it to its machine and change nothing of what it learns."""
    group = parser.add_argument_group("machine")
    add = group.add_argument
    add("--micro-tokens", type=at_least(1), default=5120, help="tokens per forward pass; fits 80 GB at 7B")
    add("--pack", action="store_true", help="several sequences in a row; for sequences of many lengths")
    share = "processes that share one copy of the weights; 0: all, else HSDP"
    add("--shard-over", type=at_least(0), default=0, help=share)
    add("--cpu-offload", action="store_true", help="weights, optimiser in host memory: slow, but fits")
    recompute = "recompute activations: less memory (default: on a GPU where it would not fit without)"
    add("--gradient-checkpointing", action=argparse.BooleanOptionalAction, help=recompute)
    often = "steps between checkpoints of the training state"
    add("--save-every", type=at_least(1), default=save_every, help=often)
    worst = "sequences as long as they may be, whatever they say: the most memory and time; learns nothing of use"
    add("--worst-case", action="store_true", help=worst)
    precision = "of the trained model's folder; bfloat16 halves it, but rounds what was trained"
    add("--save-dtype", choices=("float32", "bfloat16"), default="float32", help=precision)
    add_precision_argument(group)
    return group


def add_precision_argument(group: argparse._ArgumentGroup) -> None:
    """The flag of `compute_dtype`."""
    faster = "compute in bfloat16 on a CPU too, as on GPUs: pays from some 100 million weights on, with AMX (see lscpu)"
    group.add_argument("--bfloat16", action="store_true", help=faster)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def save_hf(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    base: str | Path = "",
) -> None:
    """Save an ordinary Hugging Face folder (safetensors, tokenizer, template); it appears complete or not at all.

    Adapters are merged into it; by themselves they are in its folder adapter/ too, as those of the model `base`.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(policy, options=options)  # whole on rank 0, empty elsewhere
    if rank() == 0:
        state = {name.removeprefix("model."): value for name, value in state.items()}
        if policy.model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with writing(partial):
            if any(map(is_adapter, state)):
                save_adapter(policy.model, state, str(base), partial / "adapter")
            result = empty_model(policy.model.config, dtype)  # the config of what is saved: its dtype
            result.generation_config = policy.model.generation_config
            result.save_pretrained(partial, state_dict=merged(policy.model, state, dtype))
            tokenizer.save_pretrained(partial)
        seal(partial, hashes(sorted(partial.glob("*.safetensors"))))  # config and template may be edited
        publish(partial, folder)
    barrier()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise UserError for what libraries raise, of their own classes, if the block cannot write to a folder."""
    try:
        yield
    except (SafetensorError, CheckpointException) as error:
        cause = str(error).strip().splitlines()[-1]
        raise UserError(f"{folder} cannot be written ({cause}); mend that, and the same command resumes") from error


class TrainingState:
    """Checkpoints from which training resumes as if it had never stopped: what is trained (all weights, or adapters
    alone), optimiser, random states, counters.

    Each is a folder `step-N` below `folder`, written under another name, renamed when complete; the one before it is
    then deleted. A crash while saving leaves the previous one intact.
    """

    def __init__(
        self, folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, origin: dict[str, Any] | None = None
    ):
        """`origin`: the stage's flags and inputs; a checkpoint is only resumed under those that it was made with."""
        self.folder, self.policy, self.optimizer, self.origin = folder, policy, optimizer, origin or {}

    def save(self, step: int, extra: dict[str, Any]) -> None:
        """`extra`: plain JSON data of the caller (counters, queues), the same on every rank."""
        partial, final = self.folder / "partial", self.folder / f"step-{step:06d}"
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier()
        with writing(partial), _one_process_is_enough():
            writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)  # safetensors: data, no code
            dcp.save(self._tensors(*self._state()), storage_writer=writer)
            save_file(_random_states(), partial / f"random-{rank()}.state")  # else the reader takes it
        barrier()
        shares = gather_objects(hashes(my_share(sorted(partial.iterdir()))))
        if rank() == 0:
            (partial / "extra.json").write_text(json.dumps({"step": step, "origin": self.origin, **extra}))
            shares.append(hashes([partial / "extra.json"]))
            seal(partial, {name: value for share in shares for name, value in share.items()})
            older = whole_checkpoints(self.folder)
            shutil.rmtree(final, ignore_errors=True)
            publish(partial, final)
            for path in older:
                if path != final:
                    shutil.rmtree(path)
        barrier()

    def load(self) -> dict[str, Any] | None:
        """Restore the latest checkpoint; its `extra` with its "step", or None if there is none.

        Raises UserError if it is damaged, or if a flag or an input that decides what is learned was another one then.
        """
        steps = whole_checkpoints(self.folder)
        if not steps:
            return None
        folder, remedy = steps[-1], f"delete {self.folder} to start over"
        on_first_rank(lambda: check_seal(folder, remedy))
        extra = read_json(folder / "extra.json", {"step": int, "origin": {}}, remedy)
        require_same_origin(self.folder, extra.pop("origin"), self.origin)
        weights, optimizer = self._state()
        try:
            with _one_process_is_enough():
                dcp.load(self._tensors(weights, optimizer), storage_reader=HuggingFaceStorageReader(str(folder)))
        except (CheckpointException, RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} does not fit this model ({str(error).strip().splitlines()[-1]}); {remedy}"
            ) from error
        both = {"model_state_dict": weights, "optim_state_dict": optimizer}
        set_state_dict(self.policy, self.optimizer, **both, options=TRAINED)
        random_file = folder / f"random-{rank()}.state"
        if random_file.exists():  # with another number of processes the data stays in order, the noise does not
            _set_random_states(load_file(random_file))
        return extra

    def remove(self) -> None:
        """Delete all checkpoints: the stage is finished."""
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        barrier()

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trained weights and optimiser by name; tensors are this rank's own parts, to be read or overwritten."""
        return get_state_dict(self.policy, self.optimizer, options=TRAINED)

    def _tensors(self, weights: dict[str, Any], optimizer: dict[str, Any]) -> dict[str, Tensor]:
        """What changes in training, once each. The optimiser's settings are no tensors: they come from the flags."""
        state = {f"weights.{name}": value for name, value in weights.items()}
        if self.policy.model.config.tie_word_embeddings:
            state.pop("weights.model.lm_head.weight", None)  # frozen ones are not there
        return state | {f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, Tensor)}


def whole_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a `TrainingState`, in order; whatever else lies there is not looked at."""
    return sorted(path.parent for path in folder.glob(f"step-{'[0-9]' * 6}/{CHECKSUMS}"))


def load_checkpoint(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of one checkpoint of a `TrainingLoop`, to be sampled from, and its tokenizer.

    Raises UserError if it is damaged, if the model that the training began with is not what it was, or if the training
    has deleted it meanwhile.
    """
    try:
        return _load_checkpoint(folder, dtype)
    except (UserError, OSError, SafetensorError, CheckpointException) as error:
        if folder.exists():
            raise
        again = "ask for the newest one by the same command"
        raise UserError(f"{folder} has given way to a later checkpoint while it was read; {again}") from error


def _load_checkpoint(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    remedy = f"delete {folder.parent} to start over"
    check_seal(folder, remedy)
    extra = read_json(folder / "extra.json", {"base": str, "origin": {}}, remedy)
    require_same_origin(folder.parent, extra["origin"], {"model": model_hash(extra["base"])})
    flags = {name: extra["origin"].get(name) for name in ("--lora", "--lora-alpha", "--seed")}
    adapters = Adapters.of(argparse.Namespace(**{name[2:].replace("-", "_"): value for name, value in flags.items()}))
    model, tokenizer = load_policy(extra["base"], dtype)
    if adapters:
        add_adapters(model, adapters.rank, adapters.alpha)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with _one_process_is_enough():
        reader = HuggingFaceStorageReader(str(folder))
        dcp.load({f"weights.model.{name}": value.data for name, value in trained.items()}, storage_reader=reader)
    return model, tokenizer


@contextlib.contextmanager
def _one_process_is_enough() -> Iterator[None]:
    """torch.distributed.checkpoint warns where there is no process group; a single process is meant to have none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


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


# -------------------------------------------------------------------------------------------------------- training loop


class TrainingLoop:
    """The steps of a training stage from its last checkpoint on, with what surrounds them: progress, metrics,
    checkpoints, and the request to stop.

        loop = TrainingLoop(run, args, policy, optimizer, job, model, data=path)    # loop.restored: its `state`
        for step in loop.steps(total):
            ...                                                     # change the policy
            loop.end_step(measured, shown, state, last=step + 1 == total)
        loop.finish(tokenizer)
    """

    def __init__(
        self,
        run: RunDir,
        args: argparse.Namespace,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        job: Job,
        model: str | Path,
        **inputs: Path | str,
    ):
        """`model` and the `inputs` (files, or digests of data) decide with the flags what is learned. Raises UserError
        if the checkpoint was made with others."""
        self.run, self.args, self.policy, self.job, self.model = run, args, policy, job, model
        self.origin = on_first_rank(lambda: origin_of(args, FREE, model=model_hash(model), **inputs))
        self.checkpoints = TrainingState(run.output(args.output + ".state"), policy, optimizer, self.origin)
        self.metrics, self.watcher = Metrics(run, args.output), Watcher()
        self.restored = self.checkpoints.load()
        self.done = self.saved = self.restored["step"] if self.restored else 0  # steps

    def steps(self, total: int) -> Iterator[int]:
        """The numbers of the steps that are left, from 0 to `total` - 1, with a progress bar on rank 0."""
        if rank() == 0:
            self.metrics.resume(self.done)
            self.watcher.restore(self.metrics.rows())
        left = range(self.done, total)
        about = {"initial": self.done, "total": total, "desc": self.args.output, "unit": "step"}
        self.bar = progress_bar(left, disable=rank() > 0, **about)
        yield from self.bar

    def end_step(
        self, measured: dict[str, Any], shown: dict[str, str], state: Callable[[], dict[str, Any]], last: bool
    ) -> None:
        """Log a step (`shown`: in the bar); if it is not the `last`, save when due or asked to stop, and then exit.

        `state()` is what the caller needs to resume, see `TrainingState.save`.
        """
        self.done += 1
        count("tokens trained on", measured.get("trained_tokens", 0))
        if rank() == 0:
            measured |= memory_use(self.job.device)
            told = self.watcher.watch(measured)
            self.metrics.log(self.done, **measured, **({"warnings": told} if told else {}))
            for line in told:
                tqdm.write(f"{self.args.output}, step {self.done}: {line}")
            self.bar.set_postfix(shown, refresh=False)
        if last:
            return
        if self.done % self.args.save_every == 0:
            self.save(state)
        self.leave_if_asked(state)

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """A checkpoint of the steps done, unless there is one."""
        if self.saved != self.done:
            self.checkpoints.save(self.done, state() | {"base": str(self.model)})
            self.saved = self.done

    def leave_if_asked(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save and exit if any rank was asked to stop. All ranks call it together."""
        if self.job.stopping():
            self.save(state)
            self.job.leave(self.done)

    def finish(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Save the trained model and delete the checkpoints: the stage is finished."""
        dtype = getattr(torch, self.args.save_dtype)
        save_hf(self.policy, tokenizer, self.run.output(self.args.output), dtype, base=self.model)
        self.checkpoints.remove()

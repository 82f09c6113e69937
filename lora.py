"""LoRA, written out: a frozen linear layer and a trained correction of low rank beside it (Hu et al. 2021).

    y = W x + b + (alpha / r) B (A x)        W (out, in) frozen, A (r, in) and B (out, r) trained

B begins at zero, so training begins at the base model. A 7B model has 7.6 billion weights and, at rank 16, 40 million
in its adapters: gradient and Adam's moments, 16 bytes a weight in full training, exist for the adapters alone.

`add_adapters` puts one beside every linear layer of the decoder. Parameters keep their names (`q_proj.weight`), so
loading, sharding and the sampler treat the base as before; sampler and trainer add the same product `correction`, never
merged weights. Frozen weights are kept in the precision they are computed in (bfloat16 on GPUs), adapters in float32.
`merged` is the ordinary model that comes out, `save_adapter` the adapters alone, as PEFT reads them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tools.cli import UserError, above, at_least


@dataclass(slots=True)
class Adapters:
    """What adapters to train: their rank r, alpha, and the seed of their first values."""

    rank: int
    alpha: float
    seed: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> Adapters | None:
        """Those that the flags ask for; None if all weights are trained. Raises UserError for flags that contradict."""
        if args.lora is None and args.lora_alpha is not None:
            raise UserError(f"--lora-alpha {args.lora_alpha:g} scales adapters, and there are none; add --lora RANK")
        return args.lora and cls(args.lora, args.lora_alpha or 2.0 * args.lora, args.seed)


def add_lora_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a training stage that `Adapters.of` reads."""
    add = parser.add_argument_group("LoRA").add_argument
    rank = "freeze the model and train adapters of this rank beside its layers; wants ten times the --lr"
    add("--lora", type=at_least(1), metavar="RANK", help=f"{rank}; without it all weights are trained")
    add("--lora-alpha", type=above(0.0), help="alpha / RANK scales what they add; without it twice the rank")


class LoRALinear(nn.Linear):
    """`linear`'s own weight and bias, frozen, with an adapter of rank r; `scale` is alpha / r."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, device=linear.weight.device))
        self.lora_B = nn.Parameter(torch.empty(linear.out_features, rank, device=linear.weight.device))
        self.scale, self.active = scale, True

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype of `x`."""
        y = F.linear(x, self.weight, self.bias)
        return y + self.correction(x) if self.active else y

    def correction(self, x: Tensor) -> Tensor:
        """B ((alpha / r) A x), what the adapter adds: (..., in) to (..., out). Scaled where it is narrow."""
        return F.linear(F.linear(x, self.lora_A.to(x.dtype)) * self.scale, self.lora_B.to(x.dtype))


def is_adapter(name: str) -> bool:
    """Whether a tensor of a state dict belongs to an adapter."""
    return name.endswith((".lora_A", ".lora_B"))


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted layers of a model, with their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def add_adapters(model: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a Hugging Face causal LM and put an adapter beside each linear layer of its decoder blocks, in place.

    `reset_adapters` gives them their first values. Raises UserError for a rank that not every layer can have.
    """
    model.requires_grad_(False)
    linears = [(name, module) for name, module in model.model.layers.named_modules() if isinstance(module, nn.Linear)]
    name, narrowest = min(linears, key=lambda item: min(item[1].weight.shape))
    if not 1 <= rank <= min(narrowest.weight.shape):
        raise UserError(
            f"--lora {rank}: the rank must be from 1 to {min(narrowest.weight.shape)}, the width of the narrowest "
            f"layer ({name.split('.')[-1]}, {narrowest.in_features} to {narrowest.out_features})"
        )
    for name, linear in linears:
        parent, _, child = name.rpartition(".")
        setattr(model.model.layers.get_submodule(parent), child, LoRALinear(linear, rank, alpha / rank))


@torch.no_grad()
def reset_adapters(model: nn.Module, seed: int) -> None:
    """B = 0, and A uniform within 1 / sqrt(in): from the seed and the layer's name, so alike on every process."""
    for name, layer in adapters(model):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        bound = 1 / math.sqrt(layer.in_features)
        first = torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=generator)
        if hasattr(layer.lora_A, "placements"):  # FSDP: this process's rows of it
            first = torch.distributed.tensor.distribute_tensor(
                first.to(layer.lora_A.device), layer.lora_A.device_mesh, layer.lora_A.placements, src_data_rank=None
            )
        layer.lora_A.copy_(first)
        layer.lora_B.zero_()


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The base model alone, for as long as the block runs: the reference of a KL term needs no second copy."""
    layers = [layer for _, layer in adapters(model)]
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.active = True


def merged(model: nn.Module, state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A whole state dict in `dtype` with W + (alpha / r) B A for each adapted W, and without the adapters.

    It empties `state` on the way, so that no two whole models are in memory. Without adapters it only converts.
    """
    layers, result = dict(adapters(model)), {}
    for name in [name for name in state if not is_adapter(name)]:
        weight, layer = state.pop(name), name.removesuffix(".weight")
        if layer in layers:
            a, b = state.pop(f"{layer}.lora_A"), state.pop(f"{layer}.lora_B")
            weight = weight.to(torch.float32, copy=True).addmm_(b, a, alpha=layers[layer].scale)
        result[name] = weight.to(dtype)
    return result


def save_adapter(model: nn.Module, state: dict[str, Tensor], base: str, folder: Path) -> None:
    """Write the adapters of a whole state dict in PEFT's format; `base` is the model that they belong to."""
    layers = dict(adapters(model))
    rank, scale = next((layer.lora_A.shape[0], layer.scale) for layer in layers.values())
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "bias": "none"}
    config |= {"r": rank, "lora_alpha": rank * scale, "lora_dropout": 0.0}
    config["target_modules"] = sorted({name.rpartition(".")[2] for name in layers})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    tensors = {
        f"base_model.model.{name}.{part}.weight": state[f"{name}.{part}"].contiguous()
        for name in layers
        for part in ("lora_A", "lora_B")
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

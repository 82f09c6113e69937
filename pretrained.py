"""Pretrained models: which of them can be used here, said before the first step, and what ends their turns.

Trainer and sampler are written for one family of transformers (`ARCHITECTURES`). A folder that looks like one and is
not would be trained on wrongly and without a word: with scales, heads or layers that nothing reads, with weights that
are missing and hence random, or with a part of the forward that the sampler does not compute. All stages load their
models through `policy.load_policy`, which asks the questions of this file first; all but those about the weights need
the config alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from torch import nn

from tools.cli import UserError
from tools.run import CHECKSUMS, file_hash, is_there, read_json
from tools.web import asking_hub

ARCHITECTURES = ("qwen2", "qwen3", "llama")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length
FLOATS = {"F64", "F32", "F16", "BF16"}  # types of weights in safetensors files that are what they seem
SAID = "Is it so? Yes."  # what any tokenizer can write
# Settings that change logits or hidden states and that neither the trainer nor the sampler computes.
SCALES = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling", "embedding_multiplier",
          "residual_multiplier", "attention_multiplier", "partial_rotary_factor")  # fmt: skip


def unsupported(config: Any) -> str | None:
    """Why a model of this config can be neither sampled from nor trained, in a few words; None if it can."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    settings = {name: rope.get(name, getattr(config, name, None)) for name in SCALES}
    scales = [name for name, value in settings.items() if value not in (None, False, 1)]
    if config.model_type not in ARCHITECTURES:
        return f"the sampler does not know the architecture {config.model_type!r}; it knows {ARCHITECTURES}"
    if getattr(config, "quantization_config", None):
        return "its weights are quantised, which cannot be trained; use the folder it was made from"
    if rope_type not in ROPE_TYPES:
        return f"the sampler does not know the rope type {rope_type!r}"
    if attention := _unknown_attention(config):
        return f"the sampler does not know {attention}"
    if config.hidden_act != "silu":
        return f"the sampler does not know the activation {config.hidden_act!r}; it knows silu"
    return f"the sampler does not know {scales[0]} ({settings[scales[0]]})" if scales else None


def _unknown_attention(config: Any) -> str | None:
    """A kind of attention that the sampler does not compute."""
    types = {*(getattr(config, "layer_types", None) or ())} - {"full_attention"}
    if getattr(config, "use_sliding_window", False) or "sliding_attention" in types:
        return "sliding-window attention (use_sliding_window is set)"
    return next(iter(sorted(types)), None)


def check_weights(folder: Path, model: nn.Module) -> None:
    """Raise UserError unless a folder's files hold exactly the weights of a model, which may be an empty one.

    Only the files' heads are read, and both output layers where the config says that they are one. Damaged files raise
    what safetensors does.
    """
    found, files = _shapes(folder)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = model.config.tie_word_embeddings
    missing = sorted(wanted.keys() - found.keys() - ({"lm_head.weight"} if tied else set()))
    unread = sorted(name for name in found.keys() - wanted.keys() if not name.endswith("rotary_emb.inv_freq"))
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}: damaged, or of another model")
    if unread:
        raise UserError(f"{folder} holds {len(unread)} weights that nothing reads, such as {unread[0]}")
    for name in wanted.keys() & found.keys():
        if wanted[name] != found[name]:
            raise UserError(f"{folder}: {name} has the shape {found[name]}, by config.json {wanted[name]}")
    _check_index(folder, {name: files[name] for name in wanted.keys() & files.keys()})
    if tied and "lm_head.weight" in found and not _same(folder, "lm_head.weight", "model.embed_tokens.weight"):
        raise UserError(
            f"{folder}: config.json says tie_word_embeddings, but lm_head.weight is another matrix; set it to false"
        )


def _check_index(folder: Path, files: Mapping[str, str]) -> None:
    """Raise UserError if the index of a folder of several files, by which transformers loads them, names another file
    for a tensor than the one that holds it: the tensor would be random."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not is_there(index):
        return
    remedy = "download the model again"
    listed = read_json(index, {"weight_map": {str: str}}, remedy)["weight_map"]
    lost = sorted(name for name, file in files.items() if listed.get(name) != file)
    if lost:
        raise UserError(f"{index} does not name the file of {len(lost)} weights, such as {lost[0]}; {remedy}")


def _shapes(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shape of each tensor in a folder's files, from their heads, and its file's name.

    Raises UserError for quantised or double ones.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError("it holds no *.safetensors")
    found: dict[str, tuple[int, ...]] = {}
    places: dict[str, str] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():
                head = opened.get_slice(name)
                if head.get_dtype() not in FLOATS:
                    raise UserError(f"{file}: {name} is quantised ({head.get_dtype()}), which cannot be trained")
                if name in found:
                    raise UserError(f"{folder}: {name} is in two of its files; delete the ones that are left over")
                found[name], places[name] = tuple(head.get_shape()), file.name
    return found, places


def _same(folder: Path, first: str, second: str) -> bool:
    """Whether two tensors of a folder are equal."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in (first, second) if name in opened.keys()}
    return torch.equal(tensors[first], tensors[second])


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError if a tokenizer does not give back what it is given: without its files, it is an empty one."""
    back = tokenizer.decode(tokenizer(SAID, add_special_tokens=False)["input_ids"])
    if "".join(back.split()).casefold() != "".join(SAID.split()).casefold():
        raise ValueError(f"the tokenizer makes {back!r} of {SAID!r}; are its files complete?")


def unknown_tokens(tokenizer: Any, size: int) -> list[slice]:
    """The ids below `size` that the tokenizer cannot decode, in stretches: mostly one, of those beyond its last token,
    which many models have and which mean nothing; rarely holes between its tokens. Raises ValueError for a token that
    has an id of `size` or more."""
    ids = sorted(set(tokenizer.get_vocab().values()))
    if ids[-1] >= size:
        raise ValueError(f"the tokenizer has a token {ids[-1]}, the model only tokens 0 to {size - 1}")
    return [slice(last + 1, next) for last, next in pairwise([-1, *ids, size]) if last + 1 < next]


def turn_end(tokenizer: Any) -> int | None:
    """The special token that the chat template ends the assistant's turn with; None if it ends it with none."""
    chat = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "Yes."}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # there is none, or it is broken: said where a prompt is made
        return None
    ids = tokenizer(text.rpartition("Yes.")[2], add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in tokenizer.added_tokens_decoder), None)


def model_hash(source: str | Path) -> str | None:
    """What tells a model from any other: SHA-256 of its folder's files, its commit on the hub, a server's model name.

    Of a sealed folder the seal's hashes are taken, which are compared with the files when they are loaded. None if the
    model is not at hand.
    """
    folder = Path(source)
    if str(source).startswith("openai:"):
        return str(source)
    if not folder.is_dir():
        if str(source).count("/") != 1:  # no name of the hub's
            return None
        try:
            with asking_hub():
                return Path(hf_hub_download(str(source), "config.json")).parent.name[:16]
        except (OSError, ValueError):  # no such folder, no such repository, no network
            return None
    noted = read_json(folder / CHECKSUMS, {str: str}) if is_there(folder / CHECKSUMS) else {}
    sha = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".txt") and path.name != CHECKSUMS:
            sha.update(path.name.encode() + (noted.get(path.name) or file_hash(path)).encode())
    return sha.hexdigest()[:16]

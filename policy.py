"""The policy being trained: loading a Hugging Face model, and log pi(y | x) without ever holding all logits.

At 7B the memory of a training step is its (B, T, V) logits, V = 151,936. `token_logprobs` therefore turns hidden
states into log-probabilities a chunk of tokens at a time and recomputes each chunk's logits in the backward pass, so
that no more than one chunk of logits is alive. Only the tokens that are scored (the response) go through the output
layer at all.

`Policy` is the module that is trained and sharded: its `forward` returns those log-probabilities.
`accumulate_gradient` feeds it a batch in micro-batches; the cold start and GRPO differ only in the loss that they
hand to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from pretrained import check_tokenizer, check_weights, turn_end, unknown_tokens, unsupported
from tools.cli import UserError
from tools.run import check_seal
from tools.web import asking_hub, network_trouble

CHUNK = 256  # tokens whose logits are worked on at once, at most: few enough for a CPU's cache
CHUNK_LOGITS = 2**25  # logits that are alive at once, at most: 0.13 GB in float32, 220 tokens at V = 151,936


def load_policy(
    path: str | Path, dtype: torch.dtype = torch.float32, empty: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights and tokenizer of a model folder or hub id. Raises UserError if they cannot be used.

    `empty` leaves the weights out: all parameters are on the meta device.
    """
    config = load_config(path)
    if Path(path).is_dir():  # bars of files read and written tell nothing; those of a download stay
        disable_progress_bar()
    try:
        folder = local_folder(path)
        model = empty_model(config, dtype)
        if not dist.is_initialized() or dist.get_rank() == 0:
            check_seal(folder, "make it again, or delete checksums.json if you changed it")
        check_weights(folder, model)
        if empty:
            with contextlib.suppress(OSError):  # a folder need not have one
                model.generation_config = GenerationConfig.from_pretrained(folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True, attn_implementation="sdpa"
            )
        tokenizer = load_tokenizer(folder)
        model.unknown_tokens = unknown_tokens(tokenizer, model.config.vocab_size)
    except UserError:
        raise
    except Exception as error:  # whatever transformers, tokenizers and safetensors make of the files of others
        raise unusable(path, error) from error
    model.generation_config.eos_token_id = stop_tokens(model, tokenizer)
    model.generation_config = savable(model.generation_config)
    return model, tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id. Raises UserError if it cannot be used."""
    try:
        with asking_hub():
            tokenizer = AutoTokenizer.from_pretrained(path)
        check_tokenizer(tokenizer)
    except Exception as error:  # see load_policy
        raise unusable(path, error) from error
    return tokenizer


def savable(config: GenerationConfig) -> GenerationConfig:
    """A generation config, without its settings if they contradict each other: transformers reads such a one and
    refuses to save it, which would be after the last step."""
    try:
        config.validate(strict=True)
    except ValueError:
        return GenerationConfig(eos_token_id=config.eos_token_id)
    return config


def local_folder(path: str | Path) -> Path:
    """The folder of a model, downloaded if it is a hub id."""
    if Path(path).is_dir():
        return Path(path)
    with asking_hub():
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))


def load_config(path: str | Path) -> PretrainedConfig:
    """The config of a model folder or hub id. Raises UserError if there is none, or for a model that cannot be used."""
    local = Path(path)
    meant = local.is_absolute() or str(path).startswith(".") or str(path).count("/") != 1  # "org/name" is a hub id
    if not local.is_dir() and (meant or local.parent.is_dir()):
        raise UserError(
            f"model folder {path} does not exist; give a Hugging Face folder (config.json, *.safetensors) or hub id"
        )
    if (local / "adapter_config.json").is_file():
        raise UserError(f"{path} holds adapters alone; give the merged model, which is the folder around adapter/")
    try:
        with asking_hub():
            config = AutoConfig.from_pretrained(path)
    except Exception as error:
        raise unusable(path, error) from error
    if problem := unsupported(config):
        raise UserError(f"{path}: {problem}")
    config.attention_dropout = 0.0  # Eq. 1 trains what was sampled
    config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
    return config


def unusable(path: str | Path, error: Exception) -> UserError:
    problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if not Path(path).is_dir():
        trouble = network_trouble(error)
        problem = f"{problem.rstrip('.')}{trouble}; where there is no network, give a folder that holds it"
    return UserError(f"cannot load the model {path}: {problem}")


def empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model on the meta device: shapes and no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a response: the tokenizer's EOS, those of the model's generation config and what the chat
    template ends a turn with, which in base models is none of these. Raises UserError for one that is no id."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    ends = [tokenizer.eos_token_id, turn_end(tokenizer), *configured]
    ends = [token for token in ends if token is not None]
    for token in ends:
        if type(token) is not int or not 0 <= token < model.config.vocab_size:
            raise UserError(
                f"eos_token_id {token!r} in generation_config.json is no id of this model's tokens; mend it"
            )
    return sorted(set(ends))


class Policy(nn.Module):
    """A causal language model whose forward pass scores tokens instead of returning logits."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Tensor,
        scored: Tensor,
        temperature: float = 1.0,
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """log pi of the scored tokens, in row-major order.

        Args:
            tokens: (B, T) int64. Without `segments`, padded on the right: causal attention hides padding from every
                real token.
            scored: (B, T) bool, the tokens to score (the response with its stop token); never a sequence's first.
            temperature: of the distribution, as in sampling.
            segments: (B, T, 2), which sequence and which of its branches each token belongs to, see `Example`; padding,
                on any side, is sequence -1.

        Returns:
            logprobs (N,) float32 of the N scored tokens, and their distributions' entropies (N,) in nats, without
            gradient.
        """
        before = (
            torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens) - 1
        )  # whose state predicts a token
        positions = mask = None
        if segments is not None:
            before, positions, mask = packed_layout(*segments.unbind(-1))
        hidden = self.model.model(
            tokens, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        unknown = getattr(self.model, "unknown_tokens", ())
        return token_logprobs(
            hidden[rows[scored], before[scored]], self.model.lm_head.weight, tokens[scored], temperature, unknown
        )

    def trained(self) -> list[nn.Parameter]:
        """The parameters that are not frozen: all of them, or those of the adapters (see lora.py)."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def packed_layout(sequence: Tensor, branch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How rows of several sequences behave as if each stood alone, and each branch behind its trunk alone.

    `sequence`, `branch` (B, T): contiguous numbers; branch 0 is a sequence's trunk (the prompt), which its branches 1,
    2, ... (the responses) continue. Returns which position's state predicts each token (B, T), the tokens' positions
    (B, T), and the attention mask (B, 1, T, T): a token sees its sequence's trunk and what stands before it in its own
    branch.
    """
    index = torch.arange(sequence.shape[1], device=sequence.device).expand_as(sequence)
    new_sequence, new_branch = (F.pad(x[:, 1:] != x[:, :-1], (1, 0), value=True) for x in (sequence, branch))
    begins = new_sequence | new_branch
    offset = index - torch.where(begins, index, 0).cummax(1).values  # within the branch
    start = torch.where(new_sequence, index, 0).cummax(1).values  # of the sequence
    same = sequence[:, :, None] == sequence[:, None, :]  # (B, T, T): query, key
    trunk = (same & (branch == 0)[:, None, :]).sum(2)  # (B, T), length
    positions = offset + trunk * (branch > 0)
    before = torch.where(begins, start + trunk - 1, index - 1)
    seen = same & ((branch[:, :, None] == branch[:, None, :]) | (branch == 0)[:, None, :])
    causal = index[:, None, :] <= index[:, :, None]
    return before, positions, (seen & causal)[:, None]


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, unknown: Sequence[slice] = ()
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `targets` (N,) and entropies (N,) from hidden states (N, D) and the output layer (V, D).

    The `unknown` tokens have no probability, as in the sampler: the tokenizer cannot decode them. Peak memory is a few
    chunks of logits and the output layer's gradient. The entropies have no gradient.
    """
    return _TokenLogprobs.apply(hidden, weight, targets, temperature, unknown)


class _TokenLogprobs(torch.autograd.Function):
    """Chunk by chunk. Backward computes the probabilities once more, unless those of all tokens are few: then they are
    kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, unknown: Sequence[slice]
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.unknown = temperature, unknown
        keep = len(targets) * len(weight) <= CHUNK_LOGITS and any(ctx.needs_input_grad)
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropies = torch.empty_like(logprobs)
        kept = []
        for rows in _chunks(len(targets), len(weight)):
            logs = _logits(hidden[rows], weight, temperature, unknown).log_softmax(-1)  # (n, V)
            probabilities = logs.exp()
            logprobs[rows] = logs.gather(1, targets[rows, None])[:, 0]
            entropies[rows] = -torch.linalg.vecdot(probabilities, logs)
            kept += [probabilities] if keep else []
        ctx.save_for_backward(hidden, weight, targets, *kept)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, weight, targets, *kept = ctx.saved_tensors
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # None: it is frozen
        for number, rows in enumerate(_chunks(len(targets), len(weight))):
            if kept:
                into_logits = kept[number] * -grad[rows, None]
            else:
                probabilities = _logits(hidden[rows], weight, ctx.temperature, ctx.unknown).softmax(-1)
                into_logits = probabilities.mul_(-grad[rows, None])
            into_logits.scatter_add_(1, targets[rows, None], grad[rows, None])
            into_logits = (into_logits if ctx.temperature == 1 else into_logits.div_(ctx.temperature)).to(weight.dtype)
            hidden_grad[rows] = into_logits @ weight
            if weight_grad is not None:
                weight_grad.addmm_(into_logits.T, hidden[rows])
        return hidden_grad, weight_grad, None, None, None


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, min(CHUNK, CHUNK_LOGITS // vocabulary))
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _logits(hidden: Tensor, weight: Tensor, temperature: float, unknown: Sequence[slice]) -> Tensor:
    logits = F.linear(hidden, weight).float()
    logits = logits if temperature == 1 else logits.div_(temperature)
    for stretch in unknown:
        logits[:, stretch] = torch.finfo(logits.dtype).min  # finite: the entropy multiplies it by zero
    return logits


# ------------------------------------------------------------------------------------------- gradients by micro-batches


@dataclass(slots=True)
class Example:
    """One sequence to train on: token ids, which of them are scored, and what messages call it.

    It may hold a prompt and several responses to it, so that the prompt is computed once: `branches` is then 0 for the
    prompt's tokens and 1, 2, ... for each response's. The result is the same as with a sequence per response.
    """

    tokens: list[int]
    scored: list[bool]
    branches: list[int] | None = None
    name: str = ""


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in batches of at most `token_budget` tokens with padding, by length. A longer one stands alone."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):  # the last of a batch is its longest
        if not batches or (len(batches[-1]) + 1) * lengths[index] > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices in rows of at most `capacity` tokens: the longest first, each into the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def collate(rows: Sequence[Sequence[Example]], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows of one or more sequences as tokens, scored (B, T), segments (B, T, 2) for `Policy.forward`, right-padded.

    Segments are None where every row is one plain sequence: causal attention is then all that is needed.
    """
    longest = max(sum(len(example.tokens) for example in row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    segments = torch.tensor([-1, 0]).repeat(len(rows), longest, 1)
    for number, row in enumerate(rows):
        start = 0
        for sequence, example in enumerate(row):
            place = slice(start, start + len(example.tokens))
            tokens[number, place] = torch.tensor(example.tokens)
            scored[number, place] = torch.tensor(example.scored)
            segments[number, place, 0] = sequence
            if example.branches is not None:
                segments[number, place, 1] = torch.tensor(example.branches)
            start = place.stop
    plain = all(len(row) == 1 and row[0].branches is None for row in rows)
    return tokens.to(device), scored.to(device), None if plain else segments.to(device)


def batches_on_all_ranks(
    examples: Sequence[Example], token_budget: int, device: torch.device, packed: bool
) -> Iterator[tuple[list[int], tuple[Tensor, Tensor, Tensor | None]]]:
    """Micro-batches of this rank's examples: which they are, in order, and what `collate` makes of them.

    Every rank gets the same number of batches, or FSDP's collectives would hang: one that has run out gets a dummy that
    holds no example. `packed` puts short sequences behind each other into rows as long as the longest sequence.
    """
    lengths = [len(example.tokens) for example in examples]
    rows = pack(lengths, max(lengths, default=0)) if packed else [[index] for index in range(len(examples))]
    batches = micro_batches([sum(lengths[index] for index in row) for row in rows], token_budget)
    rounds = torch.tensor(len(batches), device=device)
    if dist.is_initialized():
        dist.all_reduce(rounds, dist.ReduceOp.MAX)
    for number in range(int(rounds)):
        batch = [rows[row] for row in batches[number]] if number < len(batches) else []
        chunk = [[examples[index] for index in row] for row in batch] or [[Example([0, 0], [False, True])]]
        yield [index for row in batch for index in row], collate(chunk, device)


def accumulate_gradient(
    policy: nn.Module,
    examples: Sequence[Example],
    loss_of: Callable[[list[int], Tensor, Tensor], Tensor],
    token_budget: int,
    device: torch.device,
    temperature: float = 1.0,
    packed: bool = False,
) -> list[str]:
    """Add the gradient of a loss, summed over all examples of all ranks, to the parameters, micro-batch by micro-batch.

    `loss_of(indices, logprobs, entropies)` is one micro-batch's part of the loss: which examples it holds, and their
    scored tokens' log-probabilities and entropies (N,), example after example. Whatever normalises the loss is a
    constant of the whole batch, so the gradient does not depend on `token_budget` (tokens per micro-batch), on packing
    or on the number of ranks. Returns the names of the examples whose loss is not finite.
    """
    suspects: list[str] = []
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    for indices, (tokens, scored, segments) in batches_on_all_ranks(examples, token_budget, device, packed):
        logprobs, entropies = policy(tokens, scored, temperature, segments)
        loss = loss_of(indices, logprobs, entropies) if indices else logprobs.sum() * 0
        if not torch.isfinite(loss):
            suspects += [examples[index].name for index in indices]
        (loss * ranks).backward()  # FSDP averages gradients over the ranks; the loss is a sum over them
    return suspects


@torch.no_grad()
def score(
    policy: nn.Module,
    examples: Sequence[Example],
    token_budget: int,
    device: torch.device,
    temperature: float = 1.0,
    packed: bool = False,
) -> list[Tensor]:
    """Every example's scored tokens' log-probabilities (N_i,), without gradient. All ranks call it together."""
    scores: list[Tensor] = [torch.zeros(0)] * len(examples)
    for indices, (tokens, scored, segments) in batches_on_all_ranks(examples, token_budget, device, packed):
        logprobs, _ = policy(tokens, scored, temperature, segments)
        if indices:
            parts = logprobs.split([sum(examples[index].scored) for index in indices])
            for index, part in zip(indices, parts):
                scores[index] = part
    return scores

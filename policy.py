"""The policy being trained: loading a Hugging Face model, and log pi(y | x) without ever holding all logits.

At 7B the memory of a training step is its (B, T, V) logits, V = 151,936. `token_logprobs` therefore turns hidden
states into log-probabilities a chunk of tokens at a time and recomputes each chunk's logits in the backward pass, so
that no more than one chunk of logits is alive. Only the tokens that are scored (the response) go through the output
layer at all.

`Policy` is the module that is trained and sharded: its `forward` returns those log-probabilities.
`accumulate_gradient` feeds it a batch in micro-batches; the cold start and GRPO differ only in the loss that they
hand to it.

This is a tool: it imports no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from records import UserError

CHUNK = 1024  # tokens whose logits are alive at once: 0.6 GB in float32 at V = 151,936


def load_policy(
    path: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights and tokenizer of a model folder or hub id. Raises UserError if they cannot be used."""
    local = Path(path)
    meant = local.is_absolute() or str(path).startswith(".") or str(path).count("/") != 1  # "org/name" is a hub id
    if not local.is_dir() and (meant or local.parent.is_dir()):
        raise UserError(
            f"model folder {path} does not exist; give a Hugging Face folder (config.json, *.safetensors) or hub id"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot load the model {path}: {str(error).strip().splitlines()[0]}") from error
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"{path}: the tokenizer has {len(tokenizer)} tokens, the model only {model.config.vocab_size}")
    return model, tokenizer


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a response: the tokenizer's EOS and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (tokenizer.eos_token_id, *configured) if token is not None})


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
            tokens: (B, T) int64, padded on the right: causal attention hides padding from every real token.
            scored: (B, T) bool, the tokens to score (the response with its stop token); never a row's first.
            temperature: of the distribution, as in sampling.
            segments: (B, T), for rows that hold one prompt (0) and several responses to it (1, 2, ...), see `Example`.

        Returns:
            logprobs (N,) float32 of the N scored tokens, and their distributions' entropies (N,) in nats, without
            gradient.
        """
        before = (
            torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens) - 1
        )  # whose state predicts a token
        positions = mask = None
        if segments is not None:
            before, positions, mask = shared_prompt_layout(segments)
        hidden = self.model.model(
            tokens, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        return token_logprobs(
            hidden[rows[scored], before[scored]], self.model.lm_head.weight, tokens[scored], temperature
        )


def shared_prompt_layout(segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How rows of a prompt (segment 0) and its responses (1, 2, ...) behave as if each response stood behind the
    prompt alone.

    Returns, for segments (B, T): which position's state predicts each token (B, T), the tokens' positions (B, T), and
    the attention mask by layer type, (B, 1, T, T): a token sees the prompt and what stands before it in its own
    segment.
    """
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    prompt = (segments == 0).sum(1, keepdim=True)  # (B, 1) lengths; padding belongs to the last segment
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    begin = torch.where(begins, index, 0).cummax(1).values  # where the token's segment begins
    positions = torch.where(segments == 0, index, prompt + index - begin)
    before = torch.where(begins, prompt - 1, index - 1)
    seen = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)  # (B, T, T)
    causal = index[:, None, :] <= index[:, :, None]
    return before, positions, (seen & causal)[:, None]


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `targets` (N,) and entropies (N,) from hidden states (N, D) and the output layer (V, D).

    Peak memory is one chunk of logits, (CHUNK, V): autograd keeps the hidden states, `checkpoint` recomputes the rest.
    """

    def chunk_logprobs(h: Tensor, w: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(h, w).float() / temperature  # (n, V)
        logs = logits.log_softmax(-1)
        with torch.no_grad():
            entropy = -(logs.exp() * logs).sum(-1)
        return logs.gather(1, target[:, None])[:, 0], entropy

    parts = [
        checkpoint(chunk_logprobs, h, weight, target, use_reentrant=False)
        for h, target in zip(hidden.split(CHUNK), targets.split(CHUNK))
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


# ------------------------------------------------------------------------------------------- gradients by micro-batches


@dataclass(slots=True)
class Example:
    """One row to train on: token ids and which of them are scored.

    A row may hold a prompt and several responses to it, so that the prompt is computed once: `segments` is then 0 for
    the prompt's tokens and 1, 2, ... for each response's. The result is the same as with a row per response.
    """

    tokens: list[int]
    scored: list[bool]
    segments: list[int] | None = None


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in batches of at most `token_budget` tokens with padding, by length. A longer one stands alone."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):  # the last of a batch is its longest
        if not batches or (len(batches[-1]) + 1) * lengths[index] > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def collate(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Examples as tokens, scored, segments (B, T) for `Policy.forward`, padded on the right; segments may be None."""
    longest = max(len(example.tokens) for example in examples)
    pads = [[0] * (longest - len(example.tokens)) for example in examples]
    tokens = torch.tensor([example.tokens + pad for example, pad in zip(examples, pads)], device=device)
    scored = torch.tensor(
        [example.scored + pad for example, pad in zip(examples, pads)], dtype=torch.bool, device=device
    )
    if all(example.segments is None for example in examples):
        return tokens, scored, None
    segments = [example.segments or [0] * len(example.tokens) for example in examples]
    padded = [row + [row[-1]] * len(pad) for row, pad in zip(segments, pads)]
    return tokens, scored, torch.tensor(padded, device=device)


def accumulate_gradient(
    policy: nn.Module,
    examples: Sequence[Example],
    loss_of: Callable[[list[int], Tensor, Tensor], Tensor],
    token_budget: int,
    device: torch.device,
    temperature: float = 1.0,
) -> None:
    """Add the gradient of a loss, summed over all examples of all ranks, to the parameters, micro-batch by micro-batch.

    `loss_of(indices, logprobs, entropies)` is one micro-batch's part of the loss: which examples it holds, and their
    scored tokens' log-probabilities and entropies (N,), example after example. Whatever normalises the loss is a
    constant of the whole batch, so the gradient does not depend on `token_budget` (tokens per micro-batch) or on the
    number of ranks.
    """
    batches = micro_batches([len(example.tokens) for example in examples], token_budget)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    rounds = torch.tensor(len(batches), device=device)
    if ranks > 1:  # every rank takes part in every forward and backward pass, or FSDP's collectives would hang
        dist.all_reduce(rounds, dist.ReduceOp.MAX)
    for number in range(int(rounds)):
        indices = batches[number] if number < len(batches) else []
        chunk = [examples[index] for index in indices] or [Example([0, 0], [False, True])]
        tokens, scored, segments = collate(chunk, device)
        logprobs, entropies = policy(tokens, scored, temperature, segments)
        loss = loss_of(indices, logprobs, entropies) if indices else logprobs.sum() * 0
        (loss * ranks).backward()  # FSDP averages gradients over the ranks; the loss is a sum over them
